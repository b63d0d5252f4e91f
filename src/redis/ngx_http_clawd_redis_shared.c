/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_shared.h"


#define NGX_HTTP_CLAWD_REDIS_DELAY      50       /* of the first try */
#define NGX_HTTP_CLAWD_REDIS_DELAY_MAX  1000
#define NGX_HTTP_CLAWD_REDIS_WATCH      100      /* for others' success */

/* between lines of the log, and without a bad word before a good one's */
#define NGX_HTTP_CLAWD_REDIS_QUIET      1000

/* who probes gives a sign within this, or its pid is another process by now */
#define NGX_HTTP_CLAWD_REDIS_STALE      60000


static ngx_int_t ngx_http_clawd_redis_area_init(ngx_http_clawd_zone_t *zone,
    void *area);
static void ngx_http_clawd_redis_area_reap(void *area, void *part,
    ngx_pid_t pid);
static ngx_int_t ngx_http_clawd_redis_line(
    ngx_http_clawd_redis_shared_t *shared, ngx_atomic_uint_t told);


ngx_http_clawd_area_t  ngx_http_clawd_redis_area = {
    "redis",
    1,
    sizeof(ngx_http_clawd_redis_shared_t),
    0,
    ngx_http_clawd_redis_area_init,
    ngx_http_clawd_redis_area_reap
};


ngx_http_clawd_redis_shared_t *
ngx_http_clawd_redis_shared(ngx_http_clawd_zone_t *zone)
{
    return ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_REDIS_PLACE);
}


static ngx_int_t
ngx_http_clawd_redis_area_init(ngx_http_clawd_zone_t *zone, void *area)
{
    return NGX_OK;
}


static void
ngx_http_clawd_redis_area_reap(void *area, void *part, ngx_pid_t pid)
{
    ngx_http_clawd_redis_shared_t  *shared = area;

    (void) ngx_atomic_cmp_set(&shared->probe, pid, 0);
    (void) ngx_atomic_cmp_set(&shared->tracker, pid, 0);

    ngx_http_clawd_histogram_reap(&shared->latency, pid);
}


void
ngx_http_clawd_redis_good(ngx_http_clawd_redis_shared_t *shared,
    ngx_str_t *name, ngx_log_t *log)
{
    if (ngx_exiting) {
        return;
    }

    /* the line is all workers': it is written only when it changes */

    if (!shared->up) {
        shared->up = 1;
    }

    if (shared->failures) {
        shared->failures = 0;
    }

    if (shared->told == 0
        || (ngx_msec_int_t) (ngx_current_msec - shared->bad_at)
           < NGX_HTTP_CLAWD_REDIS_QUIET
        || ngx_http_clawd_redis_line(shared, 0) != NGX_OK)
    {
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, log, 0, "Redis \"%V\" is back", name);
}


void
ngx_http_clawd_redis_bad(ngx_http_clawd_redis_shared_t *shared,
    ngx_http_clawd_redis_result_e result, const char *what, ngx_str_t *name,
    ngx_log_t *log, ngx_err_t err)
{
    (void) ngx_atomic_fetch_add(&shared->errors[result], 1);

    if (ngx_exiting) {
        return;
    }

    shared->up = 0;
    shared->bad_at = ngx_max(ngx_current_msec, 1);

    if (shared->told == result
        || ngx_http_clawd_redis_line(shared, result) != NGX_OK)
    {
        return;
    }

    ngx_log_error(NGX_LOG_ERR, log, err, "Redis \"%V\" does not serve (%V): %s",
                  name, &ngx_http_clawd_redis_classes[result], what);
}


/*
 * NGX_OK for one process, once in a while: the line is its to write.  What
 * another process noted may be ahead of the time that this one knows.
 */

static ngx_int_t
ngx_http_clawd_redis_line(ngx_http_clawd_redis_shared_t *shared,
    ngx_atomic_uint_t told)
{
    ngx_atomic_uint_t  at, now;

    at = shared->told_at;
    now = ngx_max(ngx_current_msec, 1);

    if ((at && (ngx_msec_int_t) (now - at) < NGX_HTTP_CLAWD_REDIS_QUIET)
        || !ngx_atomic_cmp_set(&shared->told_at, at, now))
    {
        return NGX_DECLINED;
    }

    shared->told = told;

    return NGX_OK;
}


void
ngx_http_clawd_redis_missed(ngx_http_clawd_redis_shared_t *shared)
{
    if (!ngx_exiting) {
        (void) ngx_atomic_fetch_add(&shared->failures, 1);
    }
}


ngx_int_t
ngx_http_clawd_redis_probe(ngx_http_clawd_redis_shared_t *shared,
    ngx_msec_t *wait)
{
    ngx_atomic_uint_t  pid;
    ngx_msec_int_t     left;

    if (ngx_exiting) {
        ngx_http_clawd_redis_probe_end(shared);
        return NGX_OK;
    }

    if (shared->up || shared->bad_at == 0) {
        return NGX_OK;
    }

    pid = shared->probe;

    if (pid && pid != (ngx_atomic_uint_t) ngx_pid
        && (ngx_msec_int_t) (ngx_current_msec - shared->probe_at)
           > NGX_HTTP_CLAWD_REDIS_STALE)
    {
        (void) ngx_atomic_cmp_set(&shared->probe, pid, 0);
    }

    if (ngx_http_clawd_redis_office(&shared->probe) != NGX_OK) {
        *wait = ngx_http_clawd_redis_jitter(NGX_HTTP_CLAWD_REDIS_WATCH);
        return NGX_DECLINED;
    }

    shared->probe_at = ngx_current_msec;

    left = (ngx_msec_int_t) (shared->retry_at - ngx_current_msec);

    if (left > 0 && left < 2 * NGX_HTTP_CLAWD_REDIS_DELAY_MAX) {
        *wait = left;
        return NGX_DECLINED;
    }

    return NGX_OK;
}


void
ngx_http_clawd_redis_probed(ngx_http_clawd_redis_shared_t *shared,
    ngx_msec_t delay)
{
    if (ngx_exiting) {
        ngx_http_clawd_redis_probe_end(shared);
        return;
    }

    if (shared->probe == (ngx_atomic_uint_t) ngx_pid) {
        shared->probe_at = ngx_current_msec;
        shared->retry_at = ngx_current_msec + delay;
    }
}


void
ngx_http_clawd_redis_probe_end(ngx_http_clawd_redis_shared_t *shared)
{
    (void) ngx_atomic_cmp_set(&shared->probe, ngx_pid, 0);
}


ngx_int_t
ngx_http_clawd_redis_office(ngx_atomic_t *office)
{
    ngx_atomic_uint_t  pid;

    pid = *office;

    if (pid == (ngx_atomic_uint_t) ngx_pid) {
        return NGX_OK;
    }

    if (pid && (kill((ngx_pid_t) pid, 0) == 0 || ngx_errno != ESRCH)) {
        return NGX_DECLINED;
    }

    return ngx_atomic_cmp_set(office, pid, ngx_pid) ? NGX_OK : NGX_DECLINED;
}


ngx_msec_t
ngx_http_clawd_redis_backoff(ngx_uint_t attempt)
{
    ngx_msec_t  msec;

    msec = NGX_HTTP_CLAWD_REDIS_DELAY;

    while (attempt-- && msec < NGX_HTTP_CLAWD_REDIS_DELAY_MAX) {
        msec *= 2;
    }

    return ngx_http_clawd_redis_jitter(
                                ngx_min(msec, NGX_HTTP_CLAWD_REDIS_DELAY_MAX));
}


ngx_msec_t
ngx_http_clawd_redis_jitter(ngx_msec_t msec)
{
    return msec / 2 + (ngx_msec_t) ngx_random() % (msec + 1);
}
