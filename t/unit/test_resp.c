/*
 * Copyright (C) clawd authors
 *
 * Replies of Redis, and what they are taken for.
 *
 * link: src/redis/ngx_http_clawd_resp.c
 * link: src/redis/ngx_http_clawd_redis_class.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_redis_class.h"


#define STATUS   NGX_HTTP_CLAWD_RESP_STATUS
#define ERROR    NGX_HTTP_CLAWD_RESP_ERROR
#define INTEGER  NGX_HTTP_CLAWD_RESP_INTEGER
#define BULK     NGX_HTTP_CLAWD_RESP_BULK_STRING
#define NIL      NGX_HTTP_CLAWD_RESP_NIL
#define ARRAY    NGX_HTTP_CLAWD_RESP_ARRAY


static ngx_http_clawd_resp_t  resp;


/*
 * The bytes lie in memory of their own length.  Each shorter piece of a reply
 * is no reply yet, asks for more than it has and never for more than there is.
 */

static void
check_len(const char *text, size_t len, ngx_int_t expected, size_t used)
{
    size_t      n, need;
    u_char     *copy, *end;
    ngx_int_t   rc;

    for (n = 0; n <= len; n++) {
        copy = test_malloc(n + (n == 0));
        memcpy(copy, text, n);
        need = 0;
        end = NULL;

        rc = ngx_http_clawd_resp_read(&resp, copy, copy + n, &end, &need);

        if (rc == NGX_AGAIN) {
            assert_true(need > n);
            assert_true(expected != NGX_OK || need <= used);

            if (n == len) {
                assert_int_equal(expected, NGX_AGAIN);
            }

        } else if (rc == NGX_ERROR) {
            if (expected != NGX_ERROR) {
                fail_msg("refused after %u bytes: \"%.*s\"", (unsigned) n,
                         (int) len, text);
            }

        } else {
            assert_int_equal(expected, NGX_OK);
            assert_true(n >= used);
            assert_ptr_equal(end, copy + used);
        }

        if (n < len) {
            test_free(copy);
        }
    }

    if (rc != expected) {
        fail_msg("%d, expected %d: \"%.*s\"", (int) rc, (int) expected,
                 (int) len, text);
    }

    test_free(copy);
}


static void
whole(const char *text)
{
    check_len(text, strlen(text), NGX_OK, strlen(text));
}


static void
refuse(const char *text)
{
    check_len(text, strlen(text), NGX_ERROR, 0);
}


static void
piece(const char *text)
{
    check_len(text, strlen(text), NGX_AGAIN, 0);
}


/* the text is static: items point into it */

static void
item(const char *text, ngx_uint_t i, ngx_http_clawd_resp_type_e type,
    int64_t integer, const char *string)
{
    u_char  *end;
    size_t   need;

    assert_int_equal(ngx_http_clawd_resp_read(&resp, (u_char *) text,
                         (u_char *) text + strlen(text), &end, &need), NGX_OK);
    assert_true(i < resp.nitems);
    assert_int_equal(resp.items[i].type, type);
    assert_true(resp.items[i].integer == integer);

    if (string) {
        assert_int_equal(resp.items[i].text.len, strlen(string));
        assert_memory_equal(resp.items[i].text.data, string, strlen(string));
    }
}


static void
test_types(void **state)
{
    item("+OK\r\n", 0, STATUS, 0, "OK");
    item("+\r\n", 0, STATUS, 0, "");
    item("-ERR no\r\n", 0, ERROR, 0, "ERR no");
    item(":42\r\n", 0, INTEGER, 42, NULL);
    item("$3\r\nabc\r\n", 0, BULK, 3, "abc");
    item("$4\r\n\r\n\r\n\r\n", 0, BULK, 4, "\r\n\r\n");
    item("$0\r\n\r\n", 0, BULK, 0, "");
    item("$-1\r\n", 0, NIL, -1, NULL);
    item("*-1\r\n", 0, NIL, -1, NULL);
    item("*0\r\n", 0, ARRAY, 0, NULL);

    item("*3\r\n:1\r\n$1\r\na\r\n*1\r\n+x\r\n", 0, ARRAY, 3, NULL);
    item("*3\r\n:1\r\n$1\r\na\r\n*1\r\n+x\r\n", 2, BULK, 1, "a");
    item("*3\r\n:1\r\n$1\r\na\r\n*1\r\n+x\r\n", 4, STATUS, 0, "x");
    assert_int_equal(resp.nitems, 5);
}


static void
test_pieces(void **state)
{
    whole("+OK\r\n");
    whole("$12\r\nhello\r\nworld\r\n");
    whole("*0\r\n");
    whole("*4\r\n*2\r\n*1\r\n:1\r\n+a\r\n$-1\r\n*0\r\n:7\r\n");

    piece("");
    piece("+");
    piece("+OK\r");
    piece("$3\r\nabc");
    piece("$3\r\nabc\r");
    piece("*2\r\n:1\r\n");

    /* the next reply is left alone */

    check_len("+OK\r\n:5\r\n", 9, NGX_OK, 5);
    check_len("*1\r\n:1\r\nGARBAGE", 15, NGX_OK, 8);
}


static void
test_integers(void **state)
{
    item(":0\r\n", 0, INTEGER, 0, NULL);
    item(":-1\r\n", 0, INTEGER, -1, NULL);
    item(":9223372036854775807\r\n", 0, INTEGER, INT64_MAX, NULL);
    item(":-9223372036854775808\r\n", 0, INTEGER, INT64_MIN, NULL);

    refuse(":9223372036854775808\r\n");
    refuse(":-9223372036854775809\r\n");
    refuse(":18446744073709551616\r\n");
    refuse(":99999999999999999999999999\r\n");
    refuse(":+1\r\n");
    refuse(":01\r\n");
    refuse(":-0\r\n");
    refuse(":\r\n");
    refuse(":-\r\n");
    refuse(":1 \r\n");
    refuse(":1a\r\n");
    refuse(": 1\r\n");
}


static void
test_lengths(void **state)
{
    refuse("$-2\r\n");
    refuse("$-0\r\n");
    refuse("$+3\r\nabc\r\n");
    refuse("$03\r\nabc\r\n");
    refuse("$65537\r\n");
    refuse("$4294967297\r\n");
    refuse("$99999999999999999999\r\n");
    refuse("*-2\r\n");
    refuse("*1024\r\n");
    refuse("*100000000\r\n");
    refuse("*9223372036854775807\r\n");
    piece("*255\r\n");
    piece("$65536\r\n");
}


static void
test_line_breaks(void **state)
{
    refuse("+OK\n");
    refuse("+OK\rX");
    refuse("+O\nK\r\n");
    refuse("$3\nabc\r\n");
    refuse("$3\r\nabcd\r\n");
    refuse("$3\r\nabc\n\n");
    refuse("$3\r\nabc\rX");
    refuse("\r\n");
}


static void
test_other_types(void **state)
{
    int   ch;
    char  text[8];

    for (ch = 0; ch < 256; ch++) {
        if (ch == 0 || strchr("+-:$*", ch) == NULL) {
            memcpy(text, "_1\r\n", 5);
            text[0] = (char) ch;
            check_len(text, 4, NGX_ERROR, 0);
        }
    }

    refuse("HTTP/1.1 400 Bad Request\r\n\r\n");
    refuse("%1\r\n+a\r\n+b\r\n");
    refuse("*1\r\n_\r\n");
}


static void
test_depth(void **state)
{
    whole("*1\r\n*1\r\n*1\r\n:1\r\n");
    whole("*1\r\n*1\r\n*0\r\n");
    refuse("*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n");
    refuse("*1\r\n*1\r\n*1\r\n*0\r\n");

    /* depth is given back */

    whole("*2\r\n*1\r\n*1\r\n:1\r\n*1\r\n*1\r\n:1\r\n");
}


static void
test_items(void **state)
{
    size_t      n;
    u_char     *end;
    static char text[8192];

    n = (size_t) sprintf(text, "*1023\r\n");
    while (n < 7 + 1023 * 4) {
        n += (size_t) sprintf(text + n, ":1\r\n");
    }

    check_len(text, n, NGX_OK, n);

    assert_int_equal(ngx_http_clawd_resp_read(&resp, (u_char *) text,
                         (u_char *) text + n, &end, &n), NGX_OK);
    assert_int_equal(resp.nitems, NGX_HTTP_CLAWD_RESP_ITEMS);

    /* values that are due count, before they have come */

    refuse("*200\r\n*824\r\n");
    piece("*200\r\n*823\r\n");
    refuse("*2\r\n*200\r\n*54\r\n*200\r\n");
}


static void
test_line_length(void **state)
{
    static char  text[NGX_HTTP_CLAWD_RESP_LINE + 8];

    memset(text, 'x', sizeof(text));
    text[0] = '+';
    memcpy(text + 1 + NGX_HTTP_CLAWD_RESP_LINE, "\r\n", 3);
    whole(text);

    memset(text, 'x', sizeof(text));
    text[0] = '+';
    text[NGX_HTTP_CLAWD_RESP_LINE + 1] = '\0';
    piece(text);

    text[NGX_HTTP_CLAWD_RESP_LINE + 1] = 'x';
    text[NGX_HTTP_CLAWD_RESP_LINE + 2] = '\0';
    refuse(text);
}


/* a reply of long values is bounded as a whole */

static void
test_size(void **state)
{
    size_t   need;
    u_char  *end, *text, *p;

    text = test_malloc(8 * 70000);
    p = ngx_cpymem(text, "*5\r\n", 4);

    while (p < text + 4 + 3 * 65546) {
        p = ngx_cpymem(p, "$65536\r\n", 8);
        memset(p, 'x', 65536);
        p = ngx_cpymem(p + 65536, "\r\n", 2);
    }

    assert_int_equal(ngx_http_clawd_resp_read(&resp, text, p, &end, &need),
                     NGX_AGAIN);
    assert_true(need > (size_t) (p - text));

    p = ngx_cpymem(p, "$65536\r\n", 8);
    assert_int_equal(ngx_http_clawd_resp_read(&resp, text, p, &end, &need),
                     NGX_ERROR);

    test_free(text);
}


/* one look for each piece that was asked for, not one for each byte */

static void
test_need(void **state)
{
    size_t       n, need;
    u_char      *end;
    ngx_uint_t   looks;

    static const char  text[] = "*3\r\n$5000\r\n";

    static u_char  buf[6000];

    memset(buf, 'x', sizeof(buf));
    memcpy(buf, text, strlen(text));
    n = strlen(text) + 5000;
    memcpy(buf + n, "\r\n:1\r\n:2\r\n", 10);
    n += 10;

    need = 1;
    looks = 0;

    while (ngx_http_clawd_resp_read(&resp, buf, buf + need, &end, &need)
           == NGX_AGAIN)
    {
        assert_true(need <= n);
        looks++;
    }

    assert_ptr_equal(end, buf + n);
    assert_true(looks < 16);
}


static void
test_nul(void **state)
{
    check_len("+a\0b\r\n", 6, NGX_OK, 6);
    check_len("$3\r\n\0\0\0\r\n", 9, NGX_OK, 9);
    check_len(":1\0\r\n", 5, NGX_ERROR, 0);
    check_len("\0+OK\r\n", 6, NGX_ERROR, 0);
}


static void
class(const char *text, ngx_http_clawd_redis_result_e expected)
{
    size_t                         len;
    u_char                        *copy;
    ngx_str_t                      s;
    ngx_http_clawd_redis_result_e  got;

    len = strlen(text);
    copy = test_malloc(len + (len == 0));
    memcpy(copy, text, len);

    s.data = copy;
    s.len = len;
    got = ngx_http_clawd_redis_class(&s);
    test_free(copy);

    if (got != expected) {
        fail_msg("\"%s\" is of class %d, expected %d", text, got, expected);
    }
}


static void
test_classes(void **state)
{
    class("NOAUTH Authentication required.", NGX_HTTP_CLAWD_REDIS_AUTH);
    class("WRONGPASS invalid username-password pair or user is disabled.",
          NGX_HTTP_CLAWD_REDIS_AUTH);
    class("NOPERM this user has no permissions to run the 'info' command",
          NGX_HTTP_CLAWD_REDIS_AUTH);
    class("DENIED Redis is running in protected mode",
          NGX_HTTP_CLAWD_REDIS_AUTH);
    class("LOADING Redis is loading the dataset in memory",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("BUSY Redis is busy running a script.",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("MASTERDOWN Link with MASTER is down",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("CLUSTERDOWN The cluster is down", NGX_HTTP_CLAWD_REDIS_LOADING);
    class("TRYAGAIN Multiple keys request during rehashing of slot",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("MISCONF Redis is configured to save RDB snapshots",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("NOREPLICAS Not enough good replicas to write.",
          NGX_HTTP_CLAWD_REDIS_LOADING);
    class("ERR max number of clients reached", NGX_HTTP_CLAWD_REDIS_LOADING);
    class("READONLY You can't write against a read only replica.",
          NGX_HTTP_CLAWD_REDIS_READONLY);
    class("OOM command not allowed when used memory > 'maxmemory'.",
          NGX_HTTP_CLAWD_REDIS_OOM);
    class("NOSCRIPT No matching script. Please use EVAL.",
          NGX_HTTP_CLAWD_REDIS_NOSCRIPT);
    class("MOVED 3999 127.0.0.1:6381", NGX_HTTP_CLAWD_REDIS_MOVED);
    class("ASK 3999 127.0.0.1:6381", NGX_HTTP_CLAWD_REDIS_MOVED);
    class("CROSSSLOT Keys in request don't hash to the same slot",
          NGX_HTTP_CLAWD_REDIS_MOVED);
    class("WRONGTYPE Operation against a key holding the wrong kind of value",
          NGX_HTTP_CLAWD_REDIS_WRONGTYPE);

    class("ERR unknown command 'FOO'", NGX_HTTP_CLAWD_REDIS_ERROR);
    class("", NGX_HTTP_CLAWD_REDIS_ERROR);
    class("OOMX", NGX_HTTP_CLAWD_REDIS_ERROR);
    class("oom", NGX_HTTP_CLAWD_REDIS_ERROR);
    class("OOM", NGX_HTTP_CLAWD_REDIS_OOM);
    class(" OOM", NGX_HTTP_CLAWD_REDIS_ERROR);
}


/* of scripts, as servers of Redis 6 and 7 tell them */

static void
test_classes_of_scripts(void **state)
{
    class("READONLY You can't write against a read only replica. script: "
          "4a2267357833227dd98abdedb8cf24b15a986445, on @user_script:1.",
          NGX_HTTP_CLAWD_REDIS_READONLY);
    class("WRONGTYPE Operation against a key holding the wrong kind of value "
          "script: 4a2267357833227dd98abdedb8cf24b15a986445, on "
          "@user_script:1.", NGX_HTTP_CLAWD_REDIS_WRONGTYPE);
    class("ERR Error running script (call to f_4a22673578): "
          "@user_script:32: -OOM command not allowed when used memory > "
          "'maxmemory'.", NGX_HTTP_CLAWD_REDIS_OOM);
    class("ERR Error running script (call to f_4a22673578): "
          "@user_script:1: @user_script: 1: -READONLY You can't write against "
          "a read only replica.", NGX_HTTP_CLAWD_REDIS_READONLY);
    class("ERR Error running script (call to f_4a22673578): "
          "@user_script:1: WRONGTYPE Operation against a key",
          NGX_HTTP_CLAWD_REDIS_WRONGTYPE);
    class("ERR Error running script (call to f_4a22673578): "
          "@user_script:1: user_script:1: attempt to index a nil value",
          NGX_HTTP_CLAWD_REDIS_ERROR);
    class("ERR Error running script (call to f_4a22673578): @user_script:1:",
          NGX_HTTP_CLAWD_REDIS_ERROR);
    class("ERR The user executing the script can't run this command or "
          "subcommand script: 4a2267357833227d, on @user_script:1.",
          NGX_HTTP_CLAWD_REDIS_AUTH);
    class("ERR The user executing the script can't access at least one of "
          "the keys mentioned in the command arguments script: e1865e, on "
          "@user_script:1.", NGX_HTTP_CLAWD_REDIS_AUTH);
    class("ERR user_script:1: -OOM script: 4a22, on @user_script:1.",
          NGX_HTTP_CLAWD_REDIS_ERROR);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_line_breaks),
        cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_line_length),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_need),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_classes_of_scripts)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
