/*
 * Copyright (C) clawd authors
 *
 * The arithmetic of quotas: what the scripts do in Redis, for the store in the
 * zone.  No clock, no memory, no lock of its own.
 */

#ifndef _NGX_HTTP_CLAWD_QUOTA_H_INCLUDED_
#define _NGX_HTTP_CLAWD_QUOTA_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_record.h"


#pragma GCC visibility push(hidden)


/*
 * A user's usage.  Window ids are clock minutes since 1970 (UTC), days and
 * months since 1970 in the user's zone; they never go back.  A count belongs
 * to its id: where the present id is larger, the count is 0.
 */

typedef struct {
    int64_t                  epoch;
    int64_t                  n;               /* operations so far */

    /* token buckets: the time, in microseconds, at which they are full */
    int64_t                  request_tat;
    int64_t                  token_tat;

    int64_t                  minute;
    int64_t                  minute_requests;
    int64_t                  minute_tokens;
    int64_t                  day;
    int64_t                  day_tokens;
    int64_t                  month;
    int64_t                  month_tokens;
} ngx_http_clawd_usage_t;


/* which windows a reservation was charged to */

typedef struct {
    int64_t                  epoch;
    int64_t                  minute;
    int64_t                  day;
    int64_t                  month;
} ngx_http_clawd_windows_t;


typedef struct {
    int64_t                  limits[NGX_HTTP_CLAWD_LIMITS]; /* or UNLIMITED */
    int64_t                  epoch;
    int32_t                  offset;          /* of the zone, seconds */
} ngx_http_clawd_terms_t;


/*
 * Rolls the windows to now (microseconds since 1970): counts of windows that
 * are over become 0, and a higher epoch starts the usage afresh; a lower one is
 * of somebody who has not heard yet.  An id that is ahead of now stays: a clock
 * that was set back gives nothing back.
 */
void ngx_http_clawd_quota_roll(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, int64_t now);

/*
 * Admits a request of est tokens, live ones being in flight, and charges it,
 * or says which limit is in the way, in the order of ngx_http_clawd_limit_e.
 * Requests and tokens per minute are held twice: the count of a clock minute
 * never passes the limit, and a bucket of the limit's size, refilled within a
 * minute, bounds what two adjoining minutes let through.  Rolls first.
 * NGX_OK with *windows filled, or NGX_DECLINED with *limit.
 */
ngx_int_t ngx_http_clawd_quota_reserve(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, int64_t live, int64_t est, int64_t now,
    ngx_http_clawd_windows_t *windows, ngx_http_clawd_limit_e *limit);

/*
 * Corrects a charge by delta tokens (actual - est), in those of its windows
 * that are still the present ones and only within the same epoch.
 */
void ngx_http_clawd_quota_settle(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_windows_t *windows, int64_t delta, int64_t tpm);

/*
 * Of two accounts of the same usage, whichever is larger, into u.
 */
void ngx_http_clawd_quota_join(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_usage_t *other);

/*
 * What was used of a limit, u being rolled to now, and when (microseconds
 * since 1970) est more, or 1 if est is 0, could pass as far as this limit is
 * concerned: now or earlier if at once; -1 where no time is known (concurrency)
 * or it never can.  tz names the zone for the ends of days and months.
 */
int64_t ngx_http_clawd_quota_used(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_limit_e limit, int64_t live);
int64_t ngx_http_clawd_quota_when(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_terms_t *terms, ngx_str_t *tz,
    ngx_http_clawd_limit_e limit, int64_t est, int64_t now);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_QUOTA_H_INCLUDED_ */
