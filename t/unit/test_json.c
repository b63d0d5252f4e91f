/*
 * Copyright (C) clawd authors
 *
 * The JSON scanner: its grammar, held against another JSON library; paths,
 * captured texts and offsets; controls that are doubled or folded; and all of
 * it at every split.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "ngx_http_clawd_json.h"


#define CAPTURE  NGX_HTTP_CLAWD_JSON_CAPTURE
#define CONTROL  NGX_HTTP_CLAWD_JSON_CONTROL
#define STEP     NGX_HTTP_CLAWD_JSON_STEP

#define LOG_MAX  16384


enum {
    ROOT = 0, MODEL, STREAM, OPTIONS, NUM, CHOICES, CHOICE, TEXT, DEEP, DEEPER,
    LIST, ITEM, KIND, STEPS, EACH, LEAF, OPENS
};

static const ngx_http_clawd_json_node_t  nodes[] = {
    { ngx_null_string, 0, CAPTURE },
    { ngx_string("model"), ROOT, CAPTURE | CONTROL },
    { ngx_string("stream"), ROOT, CONTROL },
    { ngx_string("options"), ROOT, CONTROL },
    { ngx_string("num_k"), OPTIONS, CAPTURE | CONTROL },
    { ngx_string("choices"), ROOT, 0 },
    { ngx_string("*"), CHOICES, 0 },
    { ngx_string("text"), CHOICE, CAPTURE },
    { ngx_string("deep"), ROOT, 0 },
    { ngx_string("deeper"), DEEP, CAPTURE },
    { ngx_string("list"), ROOT, 0 },
    { ngx_string("*"), LIST, CAPTURE },
    { ngx_string("kind"), ITEM, CAPTURE | CONTROL },
    { ngx_string("steps"), ROOT, STEP },
    { ngx_string("*"), STEPS, STEP },
    { ngx_string("leaf"), EACH, CAPTURE },
    { ngx_string("opens"), ROOT, NGX_HTTP_CLAWD_JSON_NO_END }
};

static ngx_http_clawd_json_table_t  table =
    ngx_http_clawd_json_table(nodes);

#define NNODES  (sizeof(nodes) / sizeof(nodes[0]))


/* all that was told of a text, one event a line */

typedef struct {
    ngx_http_clawd_json_event_e  last;
    ngx_http_clawd_json_error_e  error;
    ngx_uint_t                   node;
    off_t                        consumed;
    size_t                       len;
    char                         text[LOG_MAX];
} log_t;


static void
log_event(log_t *log, ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_event_e ev)
{
    size_t  i;

    assert_true(log->len < LOG_MAX - 2048);

    log->len += sprintf(log->text + log->len, "%d node %lu type %d [%ld,%ld)",
                        (int) ev, (unsigned long) js->node, (int) js->type,
                        (long) js->start,
                        ev == NGX_HTTP_CLAWD_JSON_BEGIN ? 0 : (long) js->end);

    if (ev == NGX_HTTP_CLAWD_JSON_SCALAR
        && js->type == NGX_HTTP_CLAWD_JSON_STRING)
    {
        log->len += sprintf(log->text + log->len, " size %ld",
                            (long) js->size);
    }

    if (ev == NGX_HTTP_CLAWD_JSON_SCALAR && (nodes[js->node].flags & CAPTURE)
        && (js->type == NGX_HTTP_CLAWD_JSON_STRING
            || js->type == NGX_HTTP_CLAWD_JSON_NUMBER))
    {
        log->len += sprintf(log->text + log->len, " '");

        for (i = 0; i < js->text_len; i++) {
            log->len += sprintf(log->text + log->len,
                                js->text[i] >= ' ' && js->text[i] < 0x7f
                                ? "%c" : "<%02x>", js->text[i]);
        }

        log->len += sprintf(log->text + log->len, "'%s%s",
                            js->truncated ? " truncated" : "",
                            js->invalid ? " invalid" : "");
    }

    log->text[log->len++] = '\n';
    log->text[log->len] = '\0';
}


/* in pieces: the first of n bytes, the others of each */

static void
scan_pieces(log_t *log, const char *text, size_t len, size_t n, size_t each)
{
    size_t                       at;
    u_char                      *piece, *p;
    ngx_http_clawd_json_t       *js;
    ngx_http_clawd_json_event_e  ev;

    js = malloc(sizeof(ngx_http_clawd_json_t));
    assert_non_null(js);
    memset(js, 0xa5, sizeof(ngx_http_clawd_json_t));

    log->len = 0;
    log->text[0] = '\0';
    log->consumed = 0;

    ngx_http_clawd_json_init(js, &table);

    ev = NGX_HTTP_CLAWD_JSON_AGAIN;

    for (at = 0; at < len && ev == NGX_HTTP_CLAWD_JSON_AGAIN; at += n) {

        n = at ? each : n;
        n = n < len - at ? n : len - at;

        piece = malloc(n);
        assert_non_null(piece);
        memcpy(piece, text + at, n);
        p = piece;

        do {
            ev = ngx_http_clawd_json_next(js, &p, piece + n);
            assert_true(p >= piece && p <= piece + n);

            if (ev == NGX_HTTP_CLAWD_JSON_SCALAR
                || ev == NGX_HTTP_CLAWD_JSON_BEGIN
                || ev == NGX_HTTP_CLAWD_JSON_END)
            {
                log_event(log, js, ev);
                ev = NGX_HTTP_CLAWD_JSON_AGAIN;

            } else if (ev == NGX_HTTP_CLAWD_JSON_AGAIN) {
                assert_ptr_equal(p, piece + n);
                break;
            }

        } while (ev == NGX_HTTP_CLAWD_JSON_AGAIN);

        log->consumed += p - piece;
        free(piece);
    }

    if (ev == NGX_HTTP_CLAWD_JSON_AGAIN) {
        ev = ngx_http_clawd_json_eof(js);
    }

    log->last = ev;
    log->error = js->error;
    log->node = js->node;

    /* the last word is the last */

    p = NULL;
    assert_int_equal(ngx_http_clawd_json_next(js, &p, p), ev);
    assert_int_equal(ngx_http_clawd_json_eof(js), ev);

    free(js);
}


static void
compare(const log_t *whole, const log_t *got, const char *text)
{
    if (got->last != whole->last || got->error != whole->error
        || strcmp(got->text, whole->text) != 0
        || (got->last == NGX_HTTP_CLAWD_JSON_ERROR
            && got->node != whole->node))
    {
        fail_msg("of %s:\n%s(%d, error %d)\nin pieces:\n%s(%d, error %d)",
                 text, whole->text, (int) whole->last, (int) whole->error,
                 got->text, (int) got->last, (int) got->error);
    }
}


static void
scan(log_t *log, const char *text, size_t len)
{
    size_t          i;
    static log_t    got;

    scan_pieces(log, text, len, len, len);

    for (i = 1; i < len; i++) {
        scan_pieces(&got, text, len, i, len);
        compare(log, &got, text);
    }

    for (i = 1; i < 4; i++) {
        scan_pieces(&got, text, len, i, i);
        compare(log, &got, text);
    }
}


/* valid: the root value and nothing but white space behind it */

static int
valid(const char *text, size_t len)
{
    size_t        i;
    static log_t  log;

    scan(&log, text, len);

    if (log.last != NGX_HTTP_CLAWD_JSON_DONE) {
        assert_int_equal(log.last, NGX_HTTP_CLAWD_JSON_ERROR);
        return 0;
    }

    for (i = log.consumed; i < len; i++) {
        if (strchr(" \t\r\n", text[i]) == NULL || text[i] == '\0') {
            return 0;
        }
    }

    return 1;
}


static void
test_grammar(void **state)
{
    size_t  i;

    static const char  *good[] = {
        "{}", "[]", "\"\"", "0", "-0", "null", "true", "false", " {} ",
        "\t\r\n[ ]\n", "{\"\":0}", "{\"a\":{\"b\":[{},[],null]}}",
        "[1,2.5,-3e10,4E+2,5.0e-1,0.0,-0.1]", "1.25", "1e1", "\"\\u00e9\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\uD83D\\uDE00\"", "\"\x7f\xc3\xbc\"",
        "\"\\ud800\"", "\"\xff\"", "[[[[[[[[[[[[1]]]]]]]]]]]]",
        "{\"a\":1,\"a\":2}", "{ \"a\" : 1 , \"b\" : [ 1 , 2 ] }"
    };

    static const char  *bad[] = {
        "", " ", "{", "}", "[", "]", "[}", "{]", "{\"a\"}", "{\"a\":}",
        "{\"a\":1,}", "{,}", "{a:1}", "{'a':1}", "[1,]", "[,1]", "[1 2]",
        "[1:2]", "{\"a\" 1}", "{\"a\"::1}", "{1:2}", "{\"a\":1 \"b\":2}",
        "\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"",
        "\"\\u12", "\"\n\"", "\"\t\"", "\"\x01\"", "01", "-", "-a", "+1",
        ".5", "1.", "1.e1", "1e", "1e+", "0x10", "1 1", "--1", "1.2.3",
        "1e1.5", "[01]", "[-]", "[1.]", "[1e]", "nul", "nulll", "tru", "True",
        "NaN", "Infinity", "[nul]", "[truee]", "\xef\xbb\xbf{}", "{}{}",
        "{} x", "[]]", "/**/{}", "{\"a\":\"\n\"}", "{\"\n\":1}",
        "{\"\\q\":1}", "[\"a\"b]", "\f{}", "\v{}", "\xc2\xa0{}",
        "[1]2", "nullnull"
    };

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!valid(good[i], strlen(good[i]))) {
            fail_msg("refused: %s", good[i]);
        }
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (valid(bad[i], strlen(bad[i]))) {
            fail_msg("accepted: %s", bad[i]);
        }
    }

    assert_false(valid("\0{}", 3));
    assert_false(valid("{}\0", 3));
    assert_false(valid("\"\0\"", 3));
}


/*
 * The other library refuses bad UTF-8, lone surrogates and large numbers, and
 * does not report duplicates without being asked: texts of that kind are left
 * out of this alphabet.
 */

static void
test_grammar_against_another_library(void **state)
{
    int        mine;
    char       text[64];
    size_t     i, n, k, accepted;
    json_t    *o;
    uint32_t   x;

    static const char  *words[] = {
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\n\"", "\"b\":", "1",
        "-", "0", ".5", "e1", "true", "null", "fals", " ", "\n", "\"", "\\",
        "{\"a\":", "[1,", "]}", "\"\\u0041\""
    };

    x = 7;
    accepted = 0;

    for (i = 0; i < 30000; i++) {
        n = 0;

        x = x * 1664525 + 1013904223;

        for (k = 1 + (x >> 16) % 7; k; k--) {
            x = x * 1664525 + 1013904223;
            n += sprintf(text + n, "%s",
                         words[(x >> 16) % (sizeof(words)
                                            / sizeof(words[0]))]);
        }

        o = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        mine = valid(text, n);

        if (mine != (o != NULL)) {
            fail_msg("%s: accepted %d, by the other %d", text, mine,
                     o != NULL);
        }

        accepted += mine;
        json_decref(o);
    }

    assert_true(accepted > 1000);
}


static void
test_depth(void **state)
{
    char          text[2 * 513 + 2];
    size_t        i, depth;
    static log_t  log;

    for (depth = 511; depth <= 513; depth++) {

        for (i = 0; i < depth; i++) {
            text[i] = '[';
            text[2 * depth - 1 - i] = ']';
        }

        scan_pieces(&log, text, 2 * depth, 2 * depth, 1);

        if (depth <= NGX_HTTP_CLAWD_JSON_DEPTH) {
            assert_int_equal(log.last, NGX_HTTP_CLAWD_JSON_DONE);

        } else {
            assert_int_equal(log.last, NGX_HTTP_CLAWD_JSON_ERROR);
            assert_int_equal(log.error, NGX_HTTP_CLAWD_JSON_TOO_DEEP);
            assert_int_equal(log.consumed, 512);
        }
    }

    /* each level remembers what it is */

    for (i = 0; i < 512; i++) {
        text[i] = '[';
    }

    text[512] = '}';
    scan_pieces(&log, text, 513, 513, 1);
    assert_int_equal(log.error, NGX_HTTP_CLAWD_JSON_SYNTAX);
}


static void
assert_log(const char *text, const char *expected)
{
    static log_t  log;

    scan(&log, text, strlen(text));

    assert_int_equal(log.last, NGX_HTTP_CLAWD_JSON_DONE);

    if (strcmp(log.text, expected) != 0) {
        fail_msg("of %s:\n%sexpected:\n%s", text, log.text, expected);
    }
}


static void
test_paths(void **state)
{
    assert_log("{\"model\":\"x\"}",
               "2 node 0 type 6 [0,0)\n"
               "1 node 1 type 4 [9,12) size 1 'x'\n"
               "3 node 0 type 6 [0,13)\n");

    assert_log("{\"mod\\u0065l\" : \"x\"}",
               "2 node 0 type 6 [0,0)\n"
               "1 node 1 type 4 [16,19) size 1 'x'\n"
               "3 node 0 type 6 [0,20)\n");

    /* elements, and what looks like a path in another place */

    assert_log("{\"choices\":[{\"text\":\"a\"},3,[{\"text\":\"b\"}],"
               "{\"x\":{\"text\":\"c\"},\"text\":null}]}",
               "2 node 0 type 6 [0,0)\n"
               "2 node 5 type 5 [11,0)\n"
               "2 node 6 type 6 [12,0)\n"
               "1 node 7 type 4 [20,23) size 1 'a'\n"
               "3 node 6 type 6 [12,24)\n"
               "1 node 6 type 3 [25,26)\n"
               "2 node 6 type 5 [27,0)\n"
               "3 node 6 type 5 [27,41)\n"
               "2 node 6 type 6 [42,0)\n"
               "1 node 7 type 0 [67,71)\n"
               "3 node 6 type 6 [42,72)\n"
               "3 node 5 type 5 [11,73)\n"
               "3 node 0 type 6 [0,74)\n");

    /* an array where an object was meant, and the reverse */

    assert_log("{\"options\":[{\"num_k\":1}],\"choices\":{\"*\":{\"text\":1}}}",
               "2 node 0 type 6 [0,0)\n"
               "2 node 3 type 5 [11,0)\n"
               "3 node 3 type 5 [11,24)\n"
               "2 node 5 type 6 [35,0)\n"
               "3 node 5 type 6 [35,51)\n"
               "3 node 0 type 6 [0,52)\n");

    /* a root that is no object */

    assert_log("[{\"model\":1}]",
               "2 node 0 type 5 [0,0)\n"
               "3 node 0 type 5 [0,13)\n");
    assert_log(" \"a\"", "1 node 0 type 4 [1,4) size 1 'a'\n");
    assert_log("true ", "1 node 0 type 2 [0,4)\n");
    assert_log("12 ", "1 node 0 type 3 [0,2) '12'\n");

    /* of a key that is not CONTROL each occurrence counts */

    assert_log("{\"deep\":{\"deeper\":1,\"deeper\":-2.5e3}}",
               "2 node 0 type 6 [0,0)\n"
               "2 node 8 type 6 [8,0)\n"
               "1 node 9 type 3 [18,19) '1'\n"
               "1 node 9 type 3 [29,35) '-2.5e3'\n"
               "3 node 8 type 6 [8,36)\n"
               "3 node 0 type 6 [0,37)\n");
}


/* steps are silent as containers; what lies below them and scalars are not */

static void
test_steps(void **state)
{
    assert_log("{\"steps\":[{\"leaf\":\"a\"},[],1,{\"leaf\":[\"x\"]}]}",
               "2 node 0 type 6 [0,0)\n"
               "1 node 15 type 4 [18,21) size 1 'a'\n"
               "1 node 14 type 3 [26,27)\n"
               "2 node 15 type 5 [36,0)\n"
               "3 node 15 type 5 [36,41)\n"
               "3 node 0 type 6 [0,44)\n");
}


/* of a container whose end nobody wants the beginning alone is told */

static void
test_no_end(void **state)
{
    assert_log("{\"opens\":{\"x\":[1]},\"model\":\"a\",\"opens\":7}",
               "2 node 0 type 6 [0,0)\n"
               "2 node 16 type 6 [9,0)\n"
               "1 node 1 type 4 [27,30) size 1 'a'\n"
               "1 node 16 type 3 [39,40)\n"
               "3 node 0 type 6 [0,41)\n");
}


static void
test_offsets(void **state)
{
    u_char                      *p, *last;
    ngx_http_clawd_json_t        js;
    ngx_http_clawd_json_event_e  ev;

    static const char  text[] = " { \"x\" : 1 , \"model\" : \"abc\" } tail";

    p = (u_char *) text;
    last = p + sizeof(text) - 1;

    ngx_http_clawd_json_init(&js, &table);

    ev = ngx_http_clawd_json_next(&js, &p, last);
    assert_int_equal(ev, NGX_HTTP_CLAWD_JSON_BEGIN);
    assert_int_equal(js.start, 1);

    ev = ngx_http_clawd_json_next(&js, &p, last);
    assert_int_equal(ev, NGX_HTTP_CLAWD_JSON_SCALAR);
    assert_int_equal(js.key_start, strchr(text, 'm') - text - 1);
    assert_int_equal(js.start, strchr(text, 'a') - text - 1);
    assert_int_equal(js.end, js.start + 5);

    ev = ngx_http_clawd_json_next(&js, &p, last);
    assert_int_equal(ev, NGX_HTTP_CLAWD_JSON_END);
    assert_int_equal(js.start, 1);
    assert_int_equal(js.end, strchr(text, '}') - text + 1);

    /* nothing behind the root is consumed */

    ev = ngx_http_clawd_json_next(&js, &p, last);
    assert_int_equal(ev, NGX_HTTP_CLAWD_JSON_DONE);
    assert_string_equal((char *) p, " tail");

    /* the same scanner again, from offset 0 */

    ngx_http_clawd_json_init(&js, &table);
    p = (u_char *) text;

    ev = ngx_http_clawd_json_next(&js, &p, last);
    assert_int_equal(ev, NGX_HTTP_CLAWD_JSON_BEGIN);
    assert_int_equal(js.start, 1);
}


static void
test_captured_strings(void **state)
{
    size_t  i;
    char    body[512];

    static const struct {
        const char  *json;
        const char  *text;
    } cases[] = {
        { "", "size 0 ''" },
        { "a\\n\\\"\\\\\\/b", "size 10 'a<0a>\"\\/b'" },
        { "\\u00e9\\u20AC", "size 12 '<c3><a9><e2><82><ac>'" },
        { "\\ud83d\\ude00", "size 12 '<f0><9f><98><80>'" },
        { "\xc3\xbc\xf0\x9f\x98\x80", "size 6 '<c3><bc><f0><9f><98><80>'" },
        { "a\\u0000b", "size 8 'a<00>b' invalid" },
        { "\\ud83d", "size 6 '<ef><bf><bd>' invalid" },
        { "\\ud83dx", "size 7 '<ef><bf><bd>x' invalid" },
        { "\\ud83d\\n", "size 8 '<ef><bf><bd><0a>' invalid" },
        { "\\ud83d\\u0041", "size 12 '<ef><bf><bd>A' invalid" },
        { "\\ud83d\\ud83d\\ude00",
          "size 18 '<ef><bf><bd><f0><9f><98><80>' invalid" },
        { "\\ude00", "size 6 '<ef><bf><bd>' invalid" },
        { "\xff", "size 1 '<ff>' invalid" },
        { "\xc3", "size 1 '<c3>' invalid" },
        { "\xc0\x80", "size 2 '<c0><80>' invalid" },
        { "\xed\xa0\x80", "size 3 '<ed><a0><80>' invalid" },
        { "\xf4\x90\x80\x80", "size 4 '<f4><90><80><80>' invalid" },
        { "\xe0\x80\x80", "size 3 '<e0><80><80>' invalid" }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char  json[256];

        sprintf(json, "\"%s\"", cases[i].json);
        sprintf(body, "1 node 0 type 4 [0,%zu) %s\n", strlen(json),
                cases[i].text);
        assert_log(json, body);
    }
}


/* only the head is kept, all is counted */

static void
test_captured_head(void **state)
{
    size_t                   n, pad;
    u_char                  *p;
    char                     text[512];
    ngx_http_clawd_json_t    js;

    for (n = 255; n <= 257; n++) {

        memset(text, 'x', sizeof(text));
        text[0] = '"';
        text[n + 1] = '"';
        p = (u_char *) text;

        ngx_http_clawd_json_init(&js, &table);
        assert_int_equal(ngx_http_clawd_json_next(&js, &p, p + n + 2),
                         NGX_HTTP_CLAWD_JSON_SCALAR);

        assert_int_equal(js.size, n);
        assert_int_equal(js.truncated, n > 256);
        assert_int_equal(js.text_len, n > 256 ? 256 : n);
        assert_int_equal(js.invalid, 0);
    }

    /* cut within a character: no fault of the text's */

    for (pad = 0; pad < 4; pad++) {

        memset(text, 'x', sizeof(text));
        text[0] = '"';

        for (n = 1 + pad; n < 300; n += 4) {
            memcpy(text + n, "\xf0\x9f\x98\x80", 4);
        }

        text[n] = '"';
        p = (u_char *) text;

        ngx_http_clawd_json_init(&js, &table);
        assert_int_equal(ngx_http_clawd_json_next(&js, &p, p + n + 1),
                         NGX_HTTP_CLAWD_JSON_SCALAR);
        assert_int_equal(js.truncated, 1);
        assert_int_equal(js.invalid, 0);
    }
}


static void
test_long_keys(void **state)
{
    char    text[256];
    size_t  i;

    /* as long as a key can be kept, and longer: no node, no harm */

    for (i = 38; i < 60; i++) {
        sprintf(text, "{\"%.*s\":1,\"\\u006d%.*s\":2,\"model\":3}", (int) i,
                "modelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodel",
                (int) i,
                "odelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodelm");
        assert_true(valid(text, strlen(text)));
    }

    assert_log("{\"\":1}", "2 node 0 type 6 [0,0)\n3 node 0 type 6 [0,6)\n");
}


static void
test_numbers(void **state)
{
    size_t                   i;
    u_char                  *p;
    char                     text[600];
    ngx_http_clawd_json_t    js;

    static const struct {
        const char  *text;
        int64_t      count;
    } cases[] = {
        { "0 ", 0 }, { "7 ", 7 }, { "262150 ", 262150 },
        { "9007199254740992 ", 9007199254740992 },
        { "9007199254740993 ", -1 }, { "18446744073709551617 ", -1 },
        { "99999999999999999999999999999999 ", -1 },
        { "-1 ", -1 }, { "-0 ", -1 }, { "1.0 ", -1 }, { "1e2 ", -1 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        p = (u_char *) cases[i].text;

        ngx_http_clawd_json_init(&js, &table);
        assert_int_equal(ngx_http_clawd_json_next(&js, &p,
                                                  p + strlen((char *) p)),
                         NGX_HTTP_CLAWD_JSON_SCALAR);
        assert_int_equal(ngx_http_clawd_json_count(&js), cases[i].count);
    }

    /* a number that is longer than what is kept */

    memset(text, '0', sizeof(text));
    text[0] = '1';
    text[sizeof(text) - 1] = ' ';
    p = (u_char *) text;

    ngx_http_clawd_json_init(&js, &table);
    assert_int_equal(ngx_http_clawd_json_next(&js, &p, p + sizeof(text)),
                     NGX_HTTP_CLAWD_JSON_SCALAR);
    assert_int_equal(js.truncated, 1);
    assert_int_equal(ngx_http_clawd_json_count(&js), -1);
}


/* rows 39 to 42 of the requests: one reading, or none */

static void
test_39_42_controls(void **state)
{
    size_t        i;
    static log_t  log;

    static const struct {
        const char                   *text;
        ngx_http_clawd_json_error_e   error;
        ngx_uint_t                    node;
    } cases[] = {
        { "{\"model\":1,\"stream\":1}", NGX_HTTP_CLAWD_JSON_OK, 0 },
        { "{\"model\":1,\"model\":1}", NGX_HTTP_CLAWD_JSON_DUPLICATE, MODEL },
        { "{\"model\":1,\"x\":{\"model\":1}}", NGX_HTTP_CLAWD_JSON_OK, 0 },
        { "{\"model\":1,\"mod\\u0065l\":1}", NGX_HTTP_CLAWD_JSON_DUPLICATE,
          MODEL },
        { "{\"MODEL\":1}", NGX_HTTP_CLAWD_JSON_FOLDED, MODEL },
        { "{\"model\":1,\"Model\":1}", NGX_HTTP_CLAWD_JSON_FOLDED, MODEL },
        { "{\"mod\\u0045l\":1}", NGX_HTTP_CLAWD_JSON_FOLDED, MODEL },
        { "{\"\xc5\xbftream\":1}", NGX_HTTP_CLAWD_JSON_FOLDED, STREAM },
        { "{\"\\u017fTREAM\":1}", NGX_HTTP_CLAWD_JSON_FOLDED, STREAM },
        { "{\"options\":{\"num_\xe2\x84\xaa\":1}}",
          NGX_HTTP_CLAWD_JSON_FOLDED, NUM },
        { "{\"options\":{\"num_k\":1,\"num_k\":1}}",
          NGX_HTTP_CLAWD_JSON_DUPLICATE, NUM },
        { "{\"num_k\":1,\"options\":{\"num_k\":1},\"num_k\":1}",
          NGX_HTTP_CLAWD_JSON_OK, 0 },
        { "{\"CHOICES\":1,\"choices\":1,\"choices\":1}",
          NGX_HTTP_CLAWD_JSON_OK, 0 },
        { "{\"modelx\":1,\"mode\":1,\"xmodel\":1}", NGX_HTTP_CLAWD_JSON_OK,
          0 },
        { "{\"\xc5\xbf\":1,\"mod\xc5\":1,\"mod\xc4\xb1l\":1}",
          NGX_HTTP_CLAWD_JSON_OK, 0 },

        /* each element of an array is an object of its own */

        { "{\"list\":[{\"kind\":1},{\"kind\":1},{},{\"kind\":1}]}",
          NGX_HTTP_CLAWD_JSON_OK, 0 },
        { "{\"list\":[{\"kind\":1},{\"kind\":1,\"kind\":1}]}",
          NGX_HTTP_CLAWD_JSON_DUPLICATE, KIND },
        { "{\"list\":[{\"Kind\":1}]}", NGX_HTTP_CLAWD_JSON_FOLDED, KIND },
        { "{\"list\":[[{\"kind\":1,\"kind\":1}]]}", NGX_HTTP_CLAWD_JSON_OK,
          0 },
        { "{\"list\":[{\"kind\":{\"kind\":1}}]}", NGX_HTTP_CLAWD_JSON_OK, 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        scan(&log, cases[i].text, strlen(cases[i].text));

        if (log.error != cases[i].error
            || (log.error != NGX_HTTP_CLAWD_JSON_OK
                && log.node != cases[i].node))
        {
            fail_msg("%s: error %d, node %lu", cases[i].text,
                     (int) log.error, (unsigned long) log.node);
        }
    }
}


/* deeper than paths are followed: passed over, and back again */

static void
test_deeper_than_paths(void **state)
{
    char                         text[256];
    size_t                       i, n;
    u_char                      *p;
    ngx_http_clawd_json_t        js;
    ngx_http_clawd_json_event_e  ev;

    ngx_http_clawd_json_node_t   chain[14];
    ngx_http_clawd_json_table_t  deep = ngx_http_clawd_json_table(chain);

    for (i = 0; i < 14; i++) {
        chain[i].key.data = (u_char *) "a";
        chain[i].key.len = 1;
        chain[i].parent = (u_char) (i ? i - 1 : 0);
        chain[i].flags = CONTROL;
    }

    n = 0;

    for (i = 0; i < 14; i++) {
        n += sprintf(text + n, "{\"a\":");
    }

    n += sprintf(text + n, "1");

    for (i = 0; i < 14; i++) {
        n += sprintf(text + n, "}");
    }

    p = (u_char *) text;
    ngx_http_clawd_json_init(&js, &deep);

    i = 0;

    do {
        ev = ngx_http_clawd_json_next(&js, &p, (u_char *) text + n);

        i += (ev == NGX_HTTP_CLAWD_JSON_BEGIN);
        i -= (ev == NGX_HTTP_CLAWD_JSON_END);

        assert_int_not_equal(ev, NGX_HTTP_CLAWD_JSON_ERROR);
        assert_int_not_equal(ev, NGX_HTTP_CLAWD_JSON_AGAIN);

    } while (ev != NGX_HTTP_CLAWD_JSON_DONE);

    assert_int_equal(i, 0);
}


static void
test_skip(void **state)
{
    size_t   len, at;
    u_char  *buf, *p;

    for (len = 0; len < 70; len++) {

        /* the byte behind last would stop it, or be read */

        buf = malloc(len ? len : 1);
        assert_non_null(buf);

        memset(buf, 0xff, len);
        assert_ptr_equal(ngx_http_clawd_json_skip(buf, buf + len), buf + len);

        for (at = 0; at < len; at++) {

            for (p = (u_char *) "\"\\\n\x1f\x01"; *p; p++) {
                memset(buf, at % 2 ? ' ' : 0x80, len);
                buf[at] = *p;
                buf[len - 1] = '"';
                assert_ptr_equal(ngx_http_clawd_json_skip(buf, buf + len),
                                 buf + at);
            }

            memset(buf, '!', len);
            buf[at] = '\0';
            assert_ptr_equal(ngx_http_clawd_json_skip(buf, buf + len),
                             buf + at);
        }

        free(buf);
    }
}


static void
assert_unescaped(const char *src, const char *expected)
{
    size_t   len;
    u_char  *dst, *end, *copy;

    len = strlen(src);

    dst = malloc(len + 1);
    copy = malloc(len + 1);
    assert_non_null(dst);
    assert_non_null(copy);
    memcpy(copy, src, len);

    end = ngx_http_clawd_json_unescape(dst, copy, copy + len);

    assert_true(end <= dst + len);
    assert_int_equal(end - dst, strlen(expected));
    assert_memory_equal(dst, expected, end - dst);

    /* in place */

    end = ngx_http_clawd_json_unescape(copy, copy, copy + len);

    assert_int_equal(end - copy, strlen(expected));
    assert_memory_equal(copy, expected, end - copy);

    free(dst);
    free(copy);
}


static void
test_unescape(void **state)
{
    assert_unescaped("", "");
    assert_unescaped("plain", "plain");
    assert_unescaped("\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t");
    assert_unescaped("\\u0041\\u00e9\\u20ac", "A\xc3\xa9\xe2\x82\xac");
    assert_unescaped("\\ud83d\\ude00!", "\xf0\x9f\x98\x80!");
    assert_unescaped("\\ud83d!", "\xef\xbf\xbd!");
    assert_unescaped("\\ud83d", "\xef\xbf\xbd");
    assert_unescaped("\\ude00", "\xef\xbf\xbd");
    assert_unescaped("a\\q", "a?");
    assert_unescaped("\xff", "\xff");

    /* what is cut or broken never takes more room than it had */

    assert_unescaped("\\", "");
    assert_unescaped("\\u12", "");
    assert_unescaped("\\ud83d\\u00", "\xef\xbf\xbd");
}


static void
test_escape(void **state)
{
    size_t   i, room;
    u_char   dst[64], *end;

    static const struct {
        const char  *src;
        const char  *expected;
    } cases[] = {
        { "plain", "plain" },
        { "a\"\\b", "a\\\"\\\\b" },
        { "\n\t\x01", "\\u000a\\u0009\\u0001" },
        { "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80",
          "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80" },
        { "\xff\xc3", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {

        for (room = 0; room < sizeof(dst); room++) {
            memset(dst, 0xa5, sizeof(dst));

            end = ngx_http_clawd_json_escape(dst, dst + room,
                                             (u_char *) cases[i].src,
                                             (u_char *) cases[i].src
                                             + strlen(cases[i].src));

            assert_true(end <= dst + room);
            assert_memory_equal(dst, cases[i].expected, end - dst);
            assert_int_equal(*end, 0xa5);
        }

        assert_int_equal(end - dst, strlen(cases[i].expected));
    }
}


/* what escape wrote the scanner reads, as it was */

static void
test_escape_and_scan(void **state)
{
    size_t                   i, k;
    u_char                   src[32], dst[256], *p, *end;
    uint32_t                 x;
    ngx_http_clawd_json_t    js;

    x = 3;

    for (i = 0; i < 2000; i++) {

        for (k = 0; k < sizeof(src); k++) {
            x = x * 1664525 + 1013904223;
            src[k] = (x >> 24) % 0x7f + 1;
        }

        dst[0] = '"';
        end = ngx_http_clawd_json_escape(dst + 1, dst + sizeof(dst), src,
                                         src + sizeof(src));
        *end++ = '"';

        p = dst;
        ngx_http_clawd_json_init(&js, &table);

        assert_int_equal(ngx_http_clawd_json_next(&js, &p, end),
                         NGX_HTTP_CLAWD_JSON_SCALAR);
        assert_int_equal(js.text_len, sizeof(src));
        assert_memory_equal(js.text, src, sizeof(src));
    }
}


int
main(void)
{
    static const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_grammar),
        cmocka_unit_test(test_grammar_against_another_library),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_no_end),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_captured_strings),
        cmocka_unit_test(test_captured_head),
        cmocka_unit_test(test_long_keys),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_39_42_controls),
        cmocka_unit_test(test_deeper_than_paths),
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_unescape),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_escape_and_scan)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
