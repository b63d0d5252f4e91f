/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_quota.h"
#include "ngx_http_clawd_calendar.h"


#define NGX_HTTP_CLAWD_QUOTA_MINUTE  60000000LL           /* microseconds */
#define NGX_HTTP_CLAWD_QUOTA_MAX     9007199254740992LL   /* 2^53 */
#define NGX_HTTP_CLAWD_QUOTA_COST    1000000000000000LL


static int64_t ngx_http_clawd_quota_clamp(int64_t count);
static int64_t ngx_http_clawd_quota_cost(int64_t q, int64_t limit);
static int64_t ngx_http_clawd_quota_full(int64_t tat, int64_t q, int64_t limit,
    int64_t now);
static ngx_uint_t ngx_http_clawd_quota_over(int64_t count, int64_t q,
    int64_t limit);
static ngx_int_t ngx_http_clawd_quota_admit(ngx_http_clawd_usage_t *u,
    int64_t *limits, int64_t live, int64_t est, int64_t now, int64_t *tats,
    ngx_http_clawd_limit_e *limit);
static int64_t ngx_http_clawd_quota_minute_when(int64_t tat, ngx_uint_t over,
    int64_t end, int64_t q, int64_t limit, int64_t now);
static int64_t ngx_http_clawd_quota_end(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, ngx_str_t *tz,
    ngx_http_clawd_limit_e limit, int64_t now);


void
ngx_http_clawd_quota_roll(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, int64_t now)
{
    int64_t  n, sec, id;

    /* a lower one is of a gateway that has not heard of the change yet */

    if (terms->epoch > u->epoch) {
        n = u->n;
        ngx_memzero(u, sizeof(ngx_http_clawd_usage_t));
        u->n = n;
        u->epoch = terms->epoch;
    }

    sec = now / 1000000;
    id = sec / 60;

    if (id > u->minute) {
        u->minute = id;
        u->minute_requests = 0;
        u->minute_tokens = 0;
    }

    id = (sec + terms->offset) / 86400;

    if (id > u->day) {
        u->day = id;
        u->day_tokens = 0;
    }

    id = ngx_http_clawd_month_of_day(id);

    if (id > u->month) {
        u->month = id;
        u->month_tokens = 0;
    }
}


ngx_int_t
ngx_http_clawd_quota_reserve(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, int64_t live, int64_t est, int64_t now,
    ngx_http_clawd_windows_t *windows, ngx_http_clawd_limit_e *limit)
{
    int64_t  tats[2];

    est = ngx_http_clawd_quota_clamp(est);

    ngx_http_clawd_quota_roll(u, terms, now);

    if (ngx_http_clawd_quota_admit(u, terms->limits, live, est, now, tats,
                                   limit)
        != NGX_OK)
    {
        return NGX_DECLINED;
    }

    u->request_tat = tats[0];
    u->token_tat = tats[1];

    u->minute_requests = ngx_http_clawd_quota_clamp(u->minute_requests + 1);
    u->minute_tokens = ngx_http_clawd_quota_clamp(u->minute_tokens + est);
    u->day_tokens = ngx_http_clawd_quota_clamp(u->day_tokens + est);
    u->month_tokens = ngx_http_clawd_quota_clamp(u->month_tokens + est);
    u->n++;

    windows->epoch = u->epoch;
    windows->minute = u->minute;
    windows->day = u->day;
    windows->month = u->month;

    return NGX_OK;
}


void
ngx_http_clawd_quota_settle(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_windows_t *windows, int64_t delta, int64_t tpm)
{
    u->n++;

    if (windows->epoch != u->epoch) {
        return;
    }

    delta = ngx_max(delta, -NGX_HTTP_CLAWD_QUOTA_MAX);
    delta = ngx_min(delta, NGX_HTTP_CLAWD_QUOTA_MAX);

    if (tpm > 0) {
        u->token_tat += ngx_http_clawd_quota_cost(delta, tpm);
        u->token_tat = ngx_http_clawd_quota_clamp(u->token_tat);
    }

    if (windows->minute == u->minute) {
        u->minute_tokens = ngx_http_clawd_quota_clamp(u->minute_tokens
                                                      + delta);
    }

    if (windows->day == u->day) {
        u->day_tokens = ngx_http_clawd_quota_clamp(u->day_tokens + delta);
    }

    if (windows->month == u->month) {
        u->month_tokens = ngx_http_clawd_quota_clamp(u->month_tokens + delta);
    }
}


void
ngx_http_clawd_quota_join(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_usage_t *other)
{
    int64_t  n;

    u->n = ngx_max(u->n, other->n);

    if (other->epoch != u->epoch) {

        if (other->epoch > u->epoch) {
            n = u->n;
            *u = *other;
            u->n = n;
        }

        return;
    }

    u->request_tat = ngx_max(u->request_tat, other->request_tat);
    u->token_tat = ngx_max(u->token_tat, other->token_tat);

    if (other->minute > u->minute) {
        u->minute = other->minute;
        u->minute_requests = other->minute_requests;
        u->minute_tokens = other->minute_tokens;

    } else if (other->minute == u->minute) {
        u->minute_requests = ngx_max(u->minute_requests,
                                     other->minute_requests);
        u->minute_tokens = ngx_max(u->minute_tokens, other->minute_tokens);
    }

    if (other->day > u->day) {
        u->day = other->day;
        u->day_tokens = other->day_tokens;

    } else if (other->day == u->day) {
        u->day_tokens = ngx_max(u->day_tokens, other->day_tokens);
    }

    if (other->month > u->month) {
        u->month = other->month;
        u->month_tokens = other->month_tokens;

    } else if (other->month == u->month) {
        u->month_tokens = ngx_max(u->month_tokens, other->month_tokens);
    }
}


int64_t
ngx_http_clawd_quota_used(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_limit_e limit, int64_t live)
{
    switch (limit) {

    case NGX_HTTP_CLAWD_LIMIT_RPM:
        return u->minute_requests;

    case NGX_HTTP_CLAWD_LIMIT_TPM:
        return u->minute_tokens;

    case NGX_HTTP_CLAWD_LIMIT_DAY:
        return u->day_tokens;

    case NGX_HTTP_CLAWD_LIMIT_MONTH:
        return u->month_tokens;

    default:
        return live;
    }
}


int64_t
ngx_http_clawd_quota_when(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, ngx_str_t *tz,
    ngx_http_clawd_limit_e limit, int64_t est, int64_t now)
{
    int64_t     q, max, tat, end;
    ngx_uint_t  over;

    max = terms->limits[limit];

    if (max < 0) {
        return now;
    }

    q = (limit == NGX_HTTP_CLAWD_LIMIT_RPM || est == 0) ? 1 : est;

    if (limit == NGX_HTTP_CLAWD_LIMIT_CONCURRENCY || q > max) {
        return -1;
    }

    over = ngx_http_clawd_quota_over(ngx_http_clawd_quota_used(u, limit, 0), q,
                                     max);

    switch (limit) {

    case NGX_HTTP_CLAWD_LIMIT_RPM:
    case NGX_HTTP_CLAWD_LIMIT_TPM:

        tat = (limit == NGX_HTTP_CLAWD_LIMIT_RPM) ? u->request_tat
                                                  : u->token_tat;
        end = (u->minute + 1) * NGX_HTTP_CLAWD_QUOTA_MINUTE;

        return ngx_http_clawd_quota_minute_when(tat, over, end, q, max, now);

    default:
        return over ? ngx_http_clawd_quota_end(u, terms, tz, limit, now) : now;
    }
}


/* sums of two fit: each part is at most 2^53 in size */

static int64_t
ngx_http_clawd_quota_clamp(int64_t count)
{
    if (count < 0) {
        return 0;
    }

    return ngx_min(count, NGX_HTTP_CLAWD_QUOTA_MAX);
}


/*
 * The microseconds of a bucket that q units are worth, rounded up.  In floating
 * point, and in this order, since the scripts have no other numbers.
 */

static int64_t
ngx_http_clawd_quota_cost(int64_t q, int64_t limit)
{
    double   x;
    int64_t  us;

    x = (double) q * 60000000.0 / (double) limit;

    if (x >= (double) NGX_HTTP_CLAWD_QUOTA_COST) {
        return NGX_HTTP_CLAWD_QUOTA_COST;
    }

    if (x <= (double) -NGX_HTTP_CLAWD_QUOTA_COST) {
        return -NGX_HTTP_CLAWD_QUOTA_COST;
    }

    us = (int64_t) x;

    if ((double) us < x) {
        us++;
    }

    /* of giant limits rounding must not make the whole more than a minute */

    if (q <= limit && us > NGX_HTTP_CLAWD_QUOTA_MINUTE) {
        us = NGX_HTTP_CLAWD_QUOTA_MINUTE;
    }

    return us;
}


static int64_t
ngx_http_clawd_quota_full(int64_t tat, int64_t q, int64_t limit, int64_t now)
{
    return ngx_max(tat, now) + ngx_http_clawd_quota_cost(q, limit);
}


static ngx_uint_t
ngx_http_clawd_quota_over(int64_t count, int64_t q, int64_t limit)
{
    return limit == 0 || count + q > limit;
}


/*
 * Changes nothing of the usage: what is refused must cost nothing.  tats are
 * those of requests and tokens as they become when it is admitted.
 */

static ngx_int_t
ngx_http_clawd_quota_admit(ngx_http_clawd_usage_t *u, int64_t *limits,
    int64_t live, int64_t est, int64_t now, int64_t *tats,
    ngx_http_clawd_limit_e *limit)
{
    int64_t  max, until;

    until = now + NGX_HTTP_CLAWD_QUOTA_MINUTE;

    tats[0] = u->request_tat;
    tats[1] = u->token_tat;

    *limit = NGX_HTTP_CLAWD_LIMIT_CONCURRENCY;
    max = limits[*limit];

    if (max >= 0 && live >= max) {
        return NGX_DECLINED;
    }

    *limit = NGX_HTTP_CLAWD_LIMIT_RPM;
    max = limits[*limit];

    if (max >= 0) {

        if (ngx_http_clawd_quota_over(u->minute_requests, 1, max)) {
            return NGX_DECLINED;
        }

        tats[0] = ngx_http_clawd_quota_full(tats[0], 1, max, now);

        if (tats[0] > until) {
            return NGX_DECLINED;
        }
    }

    *limit = NGX_HTTP_CLAWD_LIMIT_TPM;
    max = limits[*limit];

    if (max >= 0) {

        if (ngx_http_clawd_quota_over(u->minute_tokens, est, max)) {
            return NGX_DECLINED;
        }

        tats[1] = ngx_http_clawd_quota_full(tats[1], est, max, now);

        if (tats[1] > until) {
            return NGX_DECLINED;
        }
    }

    *limit = NGX_HTTP_CLAWD_LIMIT_DAY;
    max = limits[*limit];

    if (max >= 0 && ngx_http_clawd_quota_over(u->day_tokens, est, max)) {
        return NGX_DECLINED;
    }

    *limit = NGX_HTTP_CLAWD_LIMIT_MONTH;
    max = limits[*limit];

    if (max >= 0 && ngx_http_clawd_quota_over(u->month_tokens, est, max)) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static int64_t
ngx_http_clawd_quota_minute_when(int64_t tat, ngx_uint_t over, int64_t end,
    int64_t q, int64_t limit, int64_t now)
{
    int64_t  t;

    t = over ? end : now;

    /* a bucket that is full by then lets a whole limit through */

    tat += ngx_http_clawd_quota_cost(q, limit) - NGX_HTTP_CLAWD_QUOTA_MINUTE;

    return ngx_max(t, tat);
}


static int64_t
ngx_http_clawd_quota_end(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, ngx_str_t *tz,
    ngx_http_clawd_limit_e limit, int64_t now)
{
    int64_t  sec, day;

    day = (limit == NGX_HTTP_CLAWD_LIMIT_DAY)
              ? u->day
              : ngx_http_clawd_day_of_month(u->month);

    /* noon of its first day: a window may be ahead of a clock set back */

    sec = day * 86400 - terms->offset + 43200;
    sec = ngx_max(now / 1000000, sec);

    if (limit == NGX_HTTP_CLAWD_LIMIT_DAY) {
        return ngx_http_clawd_day_end(tz, sec) * 1000000;
    }

    return ngx_http_clawd_month_end(tz, sec) * 1000000;
}
