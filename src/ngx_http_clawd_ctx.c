/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd.h"
#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_observe.h"

#include <openssl/rand.h>


static void ngx_http_clawd_ctx_cleanup(void *data);
static ngx_int_t ngx_http_clawd_rid_make(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);


/* an id is the process's random part and a counter, both in hex */

static u_char    ngx_http_clawd_rid_seed[16];
static uint32_t  ngx_http_clawd_rid_next;


ngx_int_t
ngx_http_clawd_rid_init(ngx_cycle_t *cycle)
{
    u_char  seed[8];

    if (RAND_bytes(seed, sizeof(seed)) != 1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "clawd: no random bytes for request ids");
        return NGX_ERROR;
    }

    (void) ngx_hex_dump(ngx_http_clawd_rid_seed, seed, sizeof(seed));

    return NGX_OK;
}


ngx_http_clawd_ctx_t *
ngx_http_clawd_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t    *cln;
    ngx_http_clawd_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    if (ctx || (!r->internal && !r->filter_finalize)) {
        return ctx;
    }

    /* an internal redirect has cleared r->ctx; the pool's record is left */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_clawd_ctx_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}


ngx_http_clawd_ctx_t *
ngx_http_clawd_obtain_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t    *cln;
    ngx_http_cleanup_t    *hcln;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);
    if (ctx) {
        return ctx;
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_clawd_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     ctx->state = NGX_HTTP_CLAWD_STATE_AUTH;
     *     ctx->cred = NGX_HTTP_CLAWD_CRED_UNREAD;
     *     ctx->error = NGX_HTTP_CLAWD_ERR_NONE;
     *     all flags, pointers and strings
     */

    ctx->request = r;
    ctx->http_version = r->http_version;
    ctx->start = ngx_current_msec;
    ctx->prompt_tokens = -1;
    ctx->completion_tokens = -1;

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    hcln = ngx_http_cleanup_add(r, 0);
    if (hcln == NULL) {
        return NULL;
    }

    if (ngx_http_clawd_headers_read(r, ctx) != NGX_OK
        || (ctx->request_id.len == 0
            && ngx_http_clawd_rid_make(r, ctx) != NGX_OK))
    {
        return NULL;
    }

    cln->handler = ngx_http_clawd_ctx_cleanup;
    cln->data = ctx;

    hcln->handler = ngx_http_clawd_settle;
    hcln->data = ctx;

    ngx_http_set_ctx(r, ctx, ngx_http_clawd_module);

    return ctx;
}


ngx_http_clawd_ctx_t *
ngx_http_clawd_adopt_ctx(ngx_http_request_t *r)
{
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_obtain_ctx(r);
    if (ctx == NULL) {
        return NULL;
    }

    ngx_http_set_ctx(r, ctx, ngx_http_clawd_module);

    ctx->gated = 1;
    ctx->waiting = 0;
    ctx->family = ngx_http_clawd_api_family(&r->uri);

    /* whatever ended the reading led here: it will not go on with the gate */

    if (ctx->body_reading) {
        ctx->body_reading = 0;
        ctx->body_failed = 1;
    }

    return ctx;
}


/* marks the record by which the context is found; the pool frees the rest */

static void
ngx_http_clawd_ctx_cleanup(void *data)
{
    ngx_http_clawd_ctx_t *ctx = data;

    ctx->request = NULL;
}


static ngx_int_t
ngx_http_clawd_rid_make(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    u_char    *p;
    uint32_t   n;

    p = ngx_pnalloc(r->pool, sizeof(ngx_http_clawd_rid_seed) + 8);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->request_id.data = p;

    p = ngx_cpymem(p, ngx_http_clawd_rid_seed,
                   sizeof(ngx_http_clawd_rid_seed));

    n = htonl(ngx_http_clawd_rid_next++);
    p = ngx_hex_dump(p, (u_char *) &n, sizeof(n));

    ctx->request_id.len = p - ctx->request_id.data;

    return NGX_OK;
}
