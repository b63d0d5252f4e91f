/*
 * Copyright (C) clawd authors
 *
 * What workers know of Redis together: who tries it, and what the log is told.
 *
 * link: src/redis/ngx_http_clawd_redis_shared.c
 * link: src/redis/ngx_http_clawd_redis_class.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_redis_shared.h"


#define GOOD     ngx_http_clawd_redis_good(&shared, &name, &log)
#define BAD(r)   ngx_http_clawd_redis_bad(&shared, r, "x", &name, &log, 0)
#define CONNECT  NGX_HTTP_CLAWD_REDIS_CONNECT
#define TIMEOUT  NGX_HTTP_CLAWD_REDIS_TIMEOUT
#define OOM      NGX_HTTP_CLAWD_REDIS_OOM

/* above any pid that the kernel gives */
#define DEAD     0x7ffffff0


volatile ngx_msec_t  ngx_current_msec;
ngx_pid_t            ngx_pid;
ngx_uint_t           ngx_exiting;

static ngx_http_clawd_redis_shared_t  shared;
static ngx_str_t                      name = ngx_string("redis:1");
static ngx_log_t                      log;

static ngx_uint_t  lines;
static ngx_uint_t  level;
static ngx_pid_t   reaped;


void
ngx_log_error_core(ngx_uint_t l, ngx_log_t *to, ngx_err_t err,
    const char *fmt, ...)
{
    lines++;
    level = l;
}


void *
ngx_http_clawd_zone_area(ngx_http_clawd_zone_t *zone, ngx_uint_t i)
{
    assert_int_equal(i, NGX_HTTP_CLAWD_REDIS_PLACE);

    return &shared;
}


void
ngx_http_clawd_histogram_reap(ngx_http_clawd_histogram_t *h, ngx_pid_t pid)
{
    reaped = pid;
}


static int
setup(void **state)
{
    memset(&shared, 0, sizeof(shared));
    lines = 0;
    reaped = 0;
    ngx_exiting = 0;
    ngx_pid = getpid();
    ngx_current_msec = 1000000;
    log.log_level = NGX_LOG_NOTICE;

    return 0;
}


static void
test_backoff(void **state)
{
    ngx_uint_t  i, n;
    ngx_msec_t  msec, mean;

    for (i = 0; i < 64; i++) {
        mean = (i < 5) ? (ngx_msec_t) 50 << i : 1000;

        for (n = 0; n < 1000; n++) {
            msec = ngx_http_clawd_redis_backoff(i);
            assert_in_range(msec, mean / 2, mean + mean / 2);
        }
    }
}


static void
test_first_of_all(void **state)
{
    ngx_msec_t  wait;

    /* nothing is known: all workers connect at once */

    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, 0);

    BAD(CONNECT);
    GOOD;
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, 0);
}


static void
test_one_probes(void **state)
{
    ngx_msec_t  wait;

    BAD(CONNECT);

    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, ngx_pid);

    ngx_http_clawd_redis_probed(&shared, 400);
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait),
                     NGX_DECLINED);
    assert_int_equal(wait, 400);

    /* our parent lives, and is another one */

    ngx_pid = getppid();
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait),
                     NGX_DECLINED);
    assert_in_range(wait, 50, 150);

    /* only who tried sets the time of the next try */

    ngx_http_clawd_redis_probed(&shared, 9000);
    assert_int_equal(shared.retry_at, ngx_current_msec + 400);

    ngx_pid = getpid();
    ngx_current_msec += 400;
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);

    GOOD;
    ngx_http_clawd_redis_probe_end(&shared);
    assert_int_equal(shared.probe, 0);
}


static void
test_probe_of_the_dead(void **state)
{
    ngx_msec_t  wait;

    BAD(CONNECT);
    shared.probe = DEAD;
    shared.probe_at = ngx_current_msec;

    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, ngx_pid);

    /* the pid is that of a process, but gives no sign */

    shared.probe = getppid();
    shared.probe_at = ngx_current_msec - 60001;
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, ngx_pid);
}


/* the loop's time is cached: another's note may be ahead of it */

static void
test_clocks_apart(void **state)
{
    ngx_msec_t  wait;

    BAD(CONNECT);
    shared.probe = getppid();
    shared.probe_at = ngx_current_msec + 3;

    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait),
                     NGX_DECLINED);
    assert_int_equal(shared.probe, getppid());

    shared.bad_at = ngx_current_msec + 3;
    shared.told_at = ngx_current_msec - 2000;
    GOOD;
    assert_int_equal(lines, 1);
    assert_int_equal(shared.told, CONNECT);

    shared.told_at = ngx_current_msec + 3;
    BAD(TIMEOUT);
    assert_int_equal(lines, 1);
}


/* it may have another configuration: what it finds is for itself */

static void
test_exiting(void **state)
{
    ngx_msec_t  wait;

    BAD(CONNECT);
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, ngx_pid);

    ngx_exiting = 1;
    ngx_http_clawd_redis_missed(&shared);
    ngx_http_clawd_redis_probed(&shared, 400);
    assert_int_equal(shared.failures, 0);
    assert_int_equal(shared.probe, 0);
    assert_int_equal(shared.retry_at, 0);

    shared.probe = getppid();
    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
    assert_int_equal(shared.probe, getppid());

    GOOD;
    assert_int_equal(shared.up, 0);
    shared.up = 1;
    BAD(TIMEOUT);
    assert_int_equal(shared.up, 1);
    assert_int_equal(shared.errors[TIMEOUT], 1);
    assert_int_equal(lines, 1);
}


/* a time that lies too far ahead is no time of this machine's life */

static void
test_retry_at_of_no_use(void **state)
{
    ngx_msec_t  wait;

    BAD(CONNECT);
    shared.retry_at = ngx_current_msec + 1000000;

    assert_int_equal(ngx_http_clawd_redis_probe(&shared, &wait), NGX_OK);
}


static void
test_reap(void **state)
{
    shared.probe = DEAD;
    shared.tracker = DEAD;
    ngx_http_clawd_redis_area.reap(&shared, NULL, 1);
    assert_int_equal(shared.probe, DEAD);
    assert_int_equal(shared.tracker, DEAD);

    ngx_http_clawd_redis_area.reap(&shared, NULL, DEAD);
    assert_int_equal(shared.probe, 0);
    assert_int_equal(shared.tracker, 0);
    assert_int_equal(reaped, DEAD);
}


static void
test_office(void **state)
{
    assert_int_equal(ngx_http_clawd_redis_office(&shared.tracker), NGX_OK);
    assert_int_equal(ngx_http_clawd_redis_office(&shared.tracker), NGX_OK);
    assert_int_equal(shared.tracker, ngx_pid);

    ngx_pid = getppid();
    assert_int_equal(ngx_http_clawd_redis_office(&shared.tracker),
                     NGX_DECLINED);

    shared.tracker = DEAD;
    assert_int_equal(ngx_http_clawd_redis_office(&shared.tracker), NGX_OK);
}


static void
test_words(void **state)
{
    shared.failures = 7;
    BAD(TIMEOUT);
    BAD(TIMEOUT);
    assert_int_equal(shared.errors[TIMEOUT], 2);
    assert_int_equal(shared.up, 0);
    assert_int_equal(shared.failures, 7);

    GOOD;
    assert_int_equal(shared.up, 1);
    assert_int_equal(shared.failures, 0);
}


static void
test_lines(void **state)
{
    ngx_uint_t  i;

    /* once, however often */

    for (i = 0; i < 100; i++) {
        BAD(CONNECT);
        ngx_current_msec += 100;
    }

    assert_int_equal(lines, 1);
    assert_int_equal(level, NGX_LOG_ERR);

    /* again when it is another one */

    BAD(TIMEOUT);
    assert_int_equal(lines, 2);

    /* good comes when nothing bad came for a second */

    GOOD;
    assert_int_equal(lines, 2);
    ngx_current_msec += 1000;
    GOOD;
    assert_int_equal(lines, 3);
    assert_int_equal(level, NGX_LOG_NOTICE);
    GOOD;
    assert_int_equal(lines, 3);
}


static void
test_lines_of_a_flapping_server(void **state)
{
    ngx_uint_t  i;

    /* good and bad by turns are one line, as the bad goes on */

    for (i = 0; i < 1000; i++) {
        BAD(OOM);
        ngx_current_msec += 5;
        GOOD;
        ngx_current_msec += 5;
    }

    assert_int_equal(lines, 1);

    /* ten seconds of changing faults */

    for (i = 0; i < 1000; i++) {
        BAD((i & 1) ? CONNECT : TIMEOUT);
        ngx_current_msec += 10;
    }

    assert_in_range(lines, 2, 12);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup(test_backoff, setup),
        cmocka_unit_test_setup(test_first_of_all, setup),
        cmocka_unit_test_setup(test_one_probes, setup),
        cmocka_unit_test_setup(test_probe_of_the_dead, setup),
        cmocka_unit_test_setup(test_clocks_apart, setup),
        cmocka_unit_test_setup(test_exiting, setup),
        cmocka_unit_test_setup(test_retry_at_of_no_use, setup),
        cmocka_unit_test_setup(test_reap, setup),
        cmocka_unit_test_setup(test_office, setup),
        cmocka_unit_test_setup(test_words, setup),
        cmocka_unit_test_setup(test_lines, setup),
        cmocka_unit_test_setup(test_lines_of_a_flapping_server, setup)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
