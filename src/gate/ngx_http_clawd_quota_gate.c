/*
 * Copyright (C) clawd authors
 *
 * A request reserves what it may cost before it goes on.
 */

#include "ngx_http_clawd_gate.h"


static ngx_int_t ngx_http_clawd_quota_reserve_state(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_uint_t look);
static ngx_int_t ngx_http_clawd_quota_judge(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_int_t ngx_http_clawd_quota_never(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, int64_t est);
static int64_t ngx_http_clawd_quota_estimate(ngx_http_clawd_ctx_t *ctx);


/* in the order of ngx_http_clawd_limit_e */

static ngx_http_clawd_error_e  ngx_http_clawd_quota_errors[] = {
    NGX_HTTP_CLAWD_ERR_CONCURRENCY,
    NGX_HTTP_CLAWD_ERR_RPM,
    NGX_HTTP_CLAWD_ERR_TPM,
    NGX_HTTP_CLAWD_ERR_DAY,
    NGX_HTTP_CLAWD_ERR_MONTH
};

_Static_assert(sizeof(ngx_http_clawd_quota_errors)
               == NGX_HTTP_CLAWD_LIMITS * sizeof(ngx_http_clawd_error_e),
               "every limit has its error");


ngx_int_t
ngx_http_clawd_quota(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t                   look;
    ngx_http_clawd_hold_t       *hold;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);
    look = (ctx->api->class == NGX_HTTP_CLAWD_CLASS_USAGE);

    if (cmcf->ledger == NULL || ctx->who == NULL || ctx->settled
        || (ctx->api->class != NGX_HTTP_CLAWD_CLASS_INFER && !look))
    {
        return NGX_OK;
    }

    hold = ctx->hold;

    if (hold && ctx->quota_asked) {
        ctx->quota_asked = 0;
        return ngx_http_clawd_quota_judge(r, ctx);
    }

    if (hold && hold->user.len == ctx->who->user.len
        && ngx_memcmp(hold->user.data, ctx->who->user.data, hold->user.len)
           == 0)
    {
        /* an earlier location of this request has reserved it already */

        return NGX_OK;
    }

    if (hold) {
        ctx->hold = NULL;
        ngx_http_clawd_hold_end(hold, 0);
    }

    return ngx_http_clawd_quota_reserve_state(r, ctx, look);
}


static ngx_int_t
ngx_http_clawd_quota_reserve_state(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_uint_t look)
{
    int64_t                      est;
    ngx_int_t                    rc;
    ngx_http_clawd_loc_conf_t   *clcf;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    est = look ? -1 : ngx_http_clawd_quota_estimate(ctx);

    if (!look && !clcf->dry_run) {
        rc = ngx_http_clawd_quota_never(r, ctx, est);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    ctx->hold = ngx_http_clawd_reserve(cmcf->ledger,
                                       (ngx_http_clawd_identity_t *) ctx->who,
                                       est, clcf->dry_run,
                                       ngx_http_clawd_gate_resume, ctx);
    if (ctx->hold == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->hold->rc == NGX_AGAIN) {
        ctx->quota_asked = 1;
        return ngx_http_clawd_gate_wait(r, ctx);
    }

    return ngx_http_clawd_quota_judge(r, ctx);
}


/* a denial is told by what the hold knows, which then is of no more use */

static ngx_int_t
ngx_http_clawd_quota_judge(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_int_t                rc;
    ngx_http_clawd_hold_t   *hold;
    ngx_http_clawd_error_e   error;

    hold = ctx->hold;

    if (hold->rc != NGX_ERROR
        && ngx_http_clawd_verdict(r, ctx, hold) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (hold->rc == NGX_OK) {
        return NGX_OK;
    }

    rc = hold->rc;
    error = (rc == NGX_DECLINED) ? ngx_http_clawd_quota_errors[hold->limit]
                                 : NGX_HTTP_CLAWD_ERR_LEDGER;
    ctx->hold = NULL;
    ngx_http_clawd_hold_end(hold, 0);

    ctx->over_quota = (rc == NGX_DECLINED);

    return ngx_http_clawd_refuse(r, ctx, error, NULL);
}


/* whether the request is larger than a whole limit, for which no time helps */

static ngx_int_t
ngx_http_clawd_quota_never(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    int64_t est)
{
    ngx_uint_t      i;
    const int64_t  *limits;

    limits = ctx->who->terms.limits;

    for (i = NGX_HTTP_CLAWD_LIMIT_TPM; i < NGX_HTTP_CLAWD_LIMITS; i++) {

        /* a limit of 0 says so itself */

        if (limits[i] <= 0 || est <= limits[i]) {
            continue;
        }

        if (ngx_http_clawd_verdict_never(r, ctx, i, est) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->over_quota = 1;

        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_NEVER, NULL);
    }

    return NGX_OK;
}


/* a user without a limit on tokens may ask for an answer without an end */

static int64_t
ngx_http_clawd_quota_estimate(ngx_http_clawd_ctx_t *ctx)
{
    return ctx->prompt_bound + ngx_max(ctx->output_bound, 0);
}
