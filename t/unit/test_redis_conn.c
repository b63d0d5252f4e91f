/*
 * Copyright (C) clawd authors
 *
 * What goes out to Redis, and when: the bytes of a script's arguments, at the
 * end of a turn, or before it when it is much.
 *
 * link: src/redis/ngx_http_clawd_redis_conn.c
 * link: src/redis/ngx_http_clawd_redis_class.c
 * link: src/redis/ngx_http_clawd_resp.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_redis_conn.h"


#define STR(s)  { sizeof(s) - 1, (u_char *) (s) }


volatile ngx_msec_t   ngx_current_msec;
volatile ngx_cycle_t *ngx_cycle;
ngx_queue_t           ngx_posted_events;
ngx_queue_t           ngx_posted_next_events;
ngx_rbtree_t          ngx_event_timer_rbtree;
ngx_event_actions_t   ngx_event_actions;

static ngx_http_clawd_redis_conn_t  conn;
static ngx_http_clawd_redis_conf_t  conf;
static ngx_connection_t             connection;
static ngx_event_t                  rev, wev;
static ngx_addr_t                   addr;
static struct sockaddr              sockaddr;
static ngx_log_t                    test_log;
static char                         sent[16384];
static size_t                       sent_len, room;
static ngx_uint_t                   writes, replies, failures, broken;
static const char                  *answers;


/* doubles */

void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    return malloc(size);
}


ngx_int_t
ngx_event_connect_peer(ngx_peer_connection_t *pc)
{
    pc->connection = &connection;

    return NGX_OK;
}


ngx_int_t
ngx_event_get_peer(ngx_peer_connection_t *pc, void *data)
{
    return NGX_OK;
}


void
ngx_close_connection(ngx_connection_t *c)
{
}


ngx_pool_t *
ngx_create_pool(size_t size, ngx_log_t *log)
{
    return NULL;
}


void
ngx_destroy_pool(ngx_pool_t *pool)
{
}


ngx_int_t
ngx_handle_read_event(ngx_event_t *ev, ngx_uint_t flags)
{
    return NGX_OK;
}


ngx_int_t
ngx_handle_write_event(ngx_event_t *ev, size_t lowat)
{
    return NGX_OK;
}


ngx_int_t
ngx_tcp_nodelay(ngx_connection_t *c)
{
    return NGX_OK;
}


void
ngx_rbtree_insert(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
}


void
ngx_rbtree_delete(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
}


void
ngx_http_clawd_redis_tls_start(ngx_http_clawd_redis_conn_t *c)
{
}


void
ngx_http_clawd_redis_tls_close(ngx_connection_t *c)
{
}


long long
redisFormatCommandArgv(char **target, int argc, const char **argv,
    const size_t *argvlen);
void redisFreeCommand(char *cmd);


long long
redisFormatCommandArgv(char **target, int argc, const char **argv,
    const size_t *argvlen)
{
    return -1;
}


void
redisFreeCommand(char *cmd)
{
}


/* the other end: takes room bytes, and has answers */

static ssize_t
test_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t  n;

    if (broken) {
        return NGX_ERROR;
    }

    n = (size < room) ? size : room;

    if (n < size) {
        c->write->ready = 0;
    }

    if (n == 0) {
        return NGX_AGAIN;
    }

    assert_true(sent_len + n < sizeof(sent));
    memcpy(sent + sent_len, buf, n);
    sent_len += n;
    room -= n;
    writes++;

    return n;
}


static ssize_t
test_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t  n;

    n = strlen(answers);

    if (n == 0) {
        return NGX_AGAIN;
    }

    assert_true(n <= size);
    memcpy(buf, answers, n);
    answers = "";

    return n;
}


static ngx_int_t
test_connected(ngx_http_clawd_redis_conn_t *c)
{
    return NGX_OK;
}


static ngx_http_clawd_redis_result_e
test_reply(ngx_http_clawd_redis_conn_t *c, ngx_http_clawd_resp_t *resp)
{
    replies++;

    return NGX_HTTP_CLAWD_REDIS_OK;
}


static void
test_failed(ngx_http_clawd_redis_conn_t *c,
    ngx_http_clawd_redis_result_e result)
{
    failures++;
}


static int
test_start(void **state)
{
    ngx_queue_init(&ngx_posted_events);
    ngx_queue_init(&ngx_posted_next_events);

    memset(&conn, 0, sizeof(conn));
    memset(&conf, 0, sizeof(conf));
    memset(&connection, 0, sizeof(connection));
    memset(&rev, 0, sizeof(rev));
    memset(&wev, 0, sizeof(wev));

    sockaddr.sa_family = AF_UNIX;
    addr.sockaddr = &sockaddr;
    conf.addrs = &addr;
    conf.naddrs = 1;

    connection.read = &rev;
    connection.write = &wev;
    connection.send = test_send;
    connection.recv = test_recv;
    connection.log = &test_log;
    rev.data = &connection;
    wev.data = &connection;
    rev.log = &test_log;
    wev.log = &test_log;
    wev.ready = 1;

    conn.conf = &conf;
    conn.log = &test_log;
    conn.connected = test_connected;
    conn.reply = test_reply;
    conn.failed = test_failed;

    sent_len = 0;
    room = sizeof(sent);
    writes = 0;
    replies = 0;
    failures = 0;
    broken = 0;
    answers = "";

    ngx_http_clawd_redis_conn_init(&conn);
    ngx_http_clawd_redis_conn_open(&conn);
    assert_true(conn.open);

    return 0;
}


static int
test_end(void **state)
{
    ngx_http_clawd_redis_conn_close(&conn);

    return 0;
}


static void
push(const char *text)
{
    assert_int_equal(ngx_http_clawd_redis_conn_push(&conn, (u_char *) text,
                                                    strlen(text)),
                     NGX_OK);
}


/* the end of a turn of the event loop; what has gone out since the last call */

static const char *
turn(void)
{
    ngx_queue_t  *q;
    ngx_event_t  *ev;
    static char   text[sizeof(sent)];

    while (!ngx_queue_empty(&ngx_posted_events)) {
        q = ngx_queue_head(&ngx_posted_events);
        ev = ngx_queue_data(q, ngx_event_t, queue);
        ngx_delete_posted_event(ev);
        ev->handler(ev);
    }

    memcpy(text, sent, sent_len);
    text[sent_len] = '\0';
    sent_len = 0;

    return text;
}


static const char *
answer(const char *text)
{
    answers = text;
    rev.handler(&rev);

    return turn();
}


static void
test_turn(void **state)
{
    push("a");
    push("b");
    assert_string_equal(turn(), "ab");
    assert_int_equal(writes, 1);

    assert_string_equal(answer("+1\r\n+2\r\n"), "");
    assert_int_equal(replies, 2);
}


/*
 * What is much goes out at once, and nothing twice.  Then an error is nobody's
 * yet: who pushes must not be called from within.
 */

static void
test_early(void **state)
{
    char  much[4096];

    memset(much, 'x', sizeof(much) - 1);
    much[sizeof(much) - 1] = '\0';

    push(much);
    assert_int_equal(sent_len, 0);
    push("y");
    assert_int_equal(sent_len, sizeof(much));
    assert_int_equal(writes, 1);
    push("z");
    assert_int_equal(sent_len, sizeof(much));

    assert_int_equal(strlen(turn()), sizeof(much) + 1);
    assert_int_equal(writes, 2);

    room = 1;
    push(much);
    push("yz");
    assert_int_equal(sent_len, 1);
    push("a");
    assert_int_equal(sent_len, 1);
    assert_string_equal(turn(), "x");

    broken = 1;
    wev.ready = 1;
    push(much);
    assert_int_equal(failures, 0);
    (void) turn();
    assert_int_equal(failures, 1);
    assert_false(conn.open);
}


/* what a full socket did not take goes out when it can, with what waits */

static void
test_full(void **state)
{
    room = 2;
    push("abc");
    assert_string_equal(turn(), "ab");

    push("d");
    assert_string_equal(turn(), "");

    push("e");
    room = 100;
    wev.ready = 1;
    wev.handler(&wev);
    assert_string_equal(turn(), "cde");

    assert_string_equal(answer("+1\r\n+2\r\n+3\r\n"), "");

    push("f");
    assert_string_equal(turn(), "f");
}


/* another connection gets nothing of what the one before was to get */

static void
test_again(void **state)
{
    push("a");

    ngx_http_clawd_redis_conn_close(&conn);
    ngx_http_clawd_redis_conn_open(&conn);

    push("x");
    assert_string_equal(turn(), "x");
}


static void
test_frame(void **state)
{
    size_t      len;
    u_char     *bytes, big[300];
    ngx_uint_t  i;

    ngx_str_t   argv[] = {
        STR("EVALSHA"), STR(""), STR("a\r\n$1\0"), { 0, NULL },
        { sizeof(big), big }
    };

    static const char  expected[] =
        "*5\r\n$7\r\nEVALSHA\r\n$0\r\n\r\n$6\r\na\r\n$1\0\r\n$0\r\n\r\n"
        "$300\r\n";

    memset(big, 'x', sizeof(big));

    bytes = ngx_http_clawd_redis_frame(5, argv, &len, &test_log);
    assert_non_null(bytes);
    assert_int_equal(len, sizeof(expected) - 1 + sizeof(big) + 2);
    assert_memory_equal(bytes, expected, sizeof(expected) - 1);
    assert_memory_equal(bytes + sizeof(expected) - 1, big, sizeof(big));
    assert_memory_equal(bytes + len - 2, "\r\n", 2);
    free(bytes);

    for (i = 0; i < 5; i++) {
        bytes = ngx_http_clawd_redis_frame(i, argv, &len, &test_log);
        assert_int_equal(bytes[1], '0' + i);
        assert_memory_equal(bytes + len - 2, "\r\n", 2);
        free(bytes);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_turn, test_start, test_end),
        cmocka_unit_test_setup_teardown(test_early, test_start, test_end),
        cmocka_unit_test_setup_teardown(test_full, test_start, test_end),
        cmocka_unit_test_setup_teardown(test_again, test_start, test_end),
        cmocka_unit_test(test_frame)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
