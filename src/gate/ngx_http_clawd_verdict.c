/*
 * Copyright (C) clawd authors
 *
 * What a client is told of its limits: headers, and the sentence of a refusal.
 */

#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_number.h"


/* a temporary refusal asks for at most so many seconds: some clients take a
   longer wait for none */
#define NGX_HTTP_CLAWD_RETRY_MAX   59

#define NGX_HTTP_CLAWD_MINUTE      60000000   /* in microseconds */


static ngx_int_t ngx_http_clawd_verdict_denied(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_hold_t *hold);
static u_char *ngx_http_clawd_verdict_figures(u_char *p, u_char *last,
    ngx_http_clawd_hold_t *hold);
static int64_t ngx_http_clawd_verdict_seconds(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_hold_t *hold);
static u_char *ngx_http_clawd_verdict_span(u_char *p, u_char *last,
    int64_t seconds);
static ngx_int_t ngx_http_clawd_verdict_headers(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_limit_e limit, ngx_http_clawd_ratelimit_t *out);
static ngx_uint_t ngx_http_clawd_verdict_tightest(
    ngx_http_clawd_hold_t *hold);
static int64_t ngx_http_clawd_verdict_reset(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_hold_t *hold, ngx_http_clawd_limit_e limit);


/* in the order of ngx_http_clawd_limit_e */

static ngx_str_t  ngx_http_clawd_verdict_names[] = {
    ngx_string("concurrent requests"),
    ngx_string("requests per minute"),
    ngx_string("tokens per minute"),
    ngx_string("daily tokens"),
    ngx_string("monthly tokens")
};


ngx_int_t
ngx_http_clawd_verdict(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_hold_t *hold)
{
    ngx_uint_t  limit;

    if (hold->rc == NGX_DECLINED
        && ngx_http_clawd_verdict_denied(r, ctx, hold) != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* where nothing was asked, or in an emergency, nothing is known */

    if (hold->usage.minute == 0) {
        return NGX_OK;
    }

    if (hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_RPM] >= 0
        && ngx_http_clawd_verdict_headers(r, ctx, hold,
                                          NGX_HTTP_CLAWD_LIMIT_RPM,
                                          &ctx->requests)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    limit = ngx_http_clawd_verdict_tightest(hold);

    if (limit == NGX_HTTP_CLAWD_LIMITS) {
        return NGX_OK;
    }

    return ngx_http_clawd_verdict_headers(r, ctx, hold, limit, &ctx->tokens);
}


static ngx_int_t
ngx_http_clawd_verdict_denied(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_hold_t *hold)
{
    u_char     *p, *last;
    int64_t     seconds;

    p = ngx_pnalloc(r->pool, 256 + NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = p + 256;
    ctx->message.data = p;

    p = ngx_http_clawd_verdict_figures(p, last, hold);

    if (hold->terms.limits[hold->limit] == 0) {
        ctx->message.len = p - ctx->message.data;
        ctx->no_retry = 1;
        return NGX_OK;
    }

    seconds = ngx_http_clawd_verdict_seconds(ctx, hold);

    if (hold->limit != NGX_HTTP_CLAWD_LIMIT_CONCURRENCY) {
        p = ngx_slprintf(p, last, "; resets in ");
        p = ngx_http_clawd_verdict_span(p, last, seconds);
    }

    ctx->message.len = p - ctx->message.data;

    if (hold->limit >= NGX_HTTP_CLAWD_LIMIT_DAY) {
        ctx->no_retry = 1;

    } else {
        seconds = ngx_min(seconds, NGX_HTTP_CLAWD_RETRY_MAX);
    }

    ctx->retry_after.data = p;
    ctx->retry_after.len = ngx_sprintf(p, "%L", seconds) - p;

    return NGX_OK;
}


static u_char *
ngx_http_clawd_verdict_figures(u_char *p, u_char *last,
    ngx_http_clawd_hold_t *hold)
{
    int64_t     limit, used;
    ngx_str_t  *name;

    limit = hold->terms.limits[hold->limit];
    name = &ngx_http_clawd_verdict_names[hold->limit];

    if (limit == 0) {
        return ngx_slprintf(p, last, "%V: the limit is 0, nothing is allowed",
                            name);
    }

    used = ngx_http_clawd_quota_used(&hold->usage, hold->limit, hold->live);

    p = ngx_slprintf(p, last, "%V: %L of %L used", name, used, limit);

    if (hold->limit >= NGX_HTTP_CLAWD_LIMIT_TPM) {
        p = ngx_slprintf(p, last, ", this request needs up to %L", hold->est);
    }

    return p;
}


/* until the request could pass, 1 at least */

static int64_t
ngx_http_clawd_verdict_seconds(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_hold_t *hold)
{
    int64_t  when;

    when = ngx_http_clawd_quota_when(&hold->usage, &hold->terms,
                                     (ngx_str_t *) &ctx->who->tz, hold->limit,
                                     hold->est, hold->now);
    if (when <= hold->now) {
        return 1;
    }

    return (when - hold->now + 999999) / 1000000;
}


/* 12 s; 3 min 20 s; 3 h 12 min; 4 d 3 h */

static u_char *
ngx_http_clawd_verdict_span(u_char *p, u_char *last, int64_t seconds)
{
    if (seconds < 60) {
        return ngx_slprintf(p, last, "%L s", seconds);
    }

    if (seconds < 3600) {
        return ngx_slprintf(p, last, "%L min %L s", seconds / 60,
                            seconds % 60);
    }

    if (seconds < 86400) {
        return ngx_slprintf(p, last, "%L h %L min", seconds / 3600,
                            seconds % 3600 / 60);
    }

    return ngx_slprintf(p, last, "%L d %L h", seconds / 86400,
                        seconds % 86400 / 3600);
}


/* the limit on tokens of which the smallest part is left, or LIMITS */

static ngx_uint_t
ngx_http_clawd_verdict_tightest(ngx_http_clawd_hold_t *hold)
{
    double      left, least;
    int64_t     limit, used;
    ngx_uint_t  i, tightest;

    tightest = NGX_HTTP_CLAWD_LIMITS;
    least = 2;

    for (i = NGX_HTTP_CLAWD_LIMIT_TPM; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        limit = hold->terms.limits[i];

        if (limit < 0) {
            continue;
        }

        used = ngx_http_clawd_quota_used(&hold->usage, i, hold->live);
        left = (limit > used) ? (double) (limit - used) / limit : 0;

        if (left < least) {
            least = left;
            tightest = i;
        }
    }

    return tightest;
}


static ngx_int_t
ngx_http_clawd_verdict_headers(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_limit_e limit, ngx_http_clawd_ratelimit_t *out)
{
    u_char   *p, buf[4 * NGX_INT64_LEN + 8];
    int64_t   max, used, reset;

    max = hold->terms.limits[limit];
    used = ngx_http_clawd_quota_used(&hold->usage, limit, hold->live);
    reset = ngx_http_clawd_verdict_reset(ctx, hold, limit);
    reset = ngx_max(reset, 0);

    p = ngx_http_clawd_number(buf, max);
    out->ends[0] = (u_char) (p - buf);

    p = ngx_http_clawd_number(p, ngx_max(max - used, 0));
    out->ends[1] = (u_char) (p - buf);

    if (reset >= 60) {
        p = ngx_http_clawd_number(p, reset / 60);
        *p++ = 'm';
    }

    p = ngx_http_clawd_number(p, reset % 60);
    *p++ = 's';
    out->ends[2] = (u_char) (p - buf);

    /* to the byte: a request's pool is nearly full */

    out->text = ngx_pnalloc(r->pool, p - buf);
    if (out->text == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(out->text, buf, p - buf);

    return NGX_OK;
}


/* seconds until nothing of the limit is used any more */

static int64_t
ngx_http_clawd_verdict_reset(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_hold_t *hold, ngx_http_clawd_limit_e limit)
{
    int64_t     end, tat, now;
    ngx_str_t  *tz;

    now = hold->now;
    tz = (ngx_str_t *) &ctx->who->tz;

    switch (limit) {

    case NGX_HTTP_CLAWD_LIMIT_DAY:
        return ngx_http_clawd_day_end(tz, now / 1000000) - now / 1000000;

    case NGX_HTTP_CLAWD_LIMIT_MONTH:
        return ngx_http_clawd_month_end(tz, now / 1000000) - now / 1000000;

    default:
        break;
    }

    end = (now / NGX_HTTP_CLAWD_MINUTE + 1) * NGX_HTTP_CLAWD_MINUTE;

    tat = (limit == NGX_HTTP_CLAWD_LIMIT_RPM) ? hold->usage.request_tat
                                              : hold->usage.token_tat;

    return (ngx_max(end, tat) - now + 999999) / 1000000;
}


ngx_int_t
ngx_http_clawd_verdict_never(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_limit_e limit, int64_t est)
{
    u_char  *p;

    p = ngx_pnalloc(r->pool, 256);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->message.data = p;

    p = ngx_slprintf(p, p + 256, "%V: this request needs up to %L, the whole "
                     "limit is %L: shorten it, or ask for fewer output tokens",
                     &ngx_http_clawd_verdict_names[limit], est,
                     ctx->who->terms.limits[limit]);

    ctx->message.len = p - ctx->message.data;
    ctx->no_retry = 1;

    return NGX_OK;
}
