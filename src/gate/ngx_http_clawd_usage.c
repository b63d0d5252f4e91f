/*
 * Copyright (C) clawd authors
 *
 * GET /v1/usage: what the caller may use, has used, and when that ends.
 */

#include "ngx_http_clawd_gate.h"

#include <jansson.h>


static json_t *ngx_http_clawd_usage_json(ngx_http_clawd_ctx_t *ctx);
static json_t *ngx_http_clawd_usage_limit(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_limit_e limit);
static int64_t ngx_http_clawd_usage_end(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_limit_e limit);
static ngx_int_t ngx_http_clawd_usage_send(ngx_http_request_t *r,
    ngx_str_t *text);


ngx_int_t
ngx_http_clawd_usage_handler(ngx_http_request_t *r)
{
    char                  *dump;
    json_t                *root;
    ngx_int_t              rc;
    ngx_str_t              text;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    /* a post_action comes when all is settled, and asks for nothing more */

    if (ctx->hold == NULL) {
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    root = ngx_http_clawd_usage_json(ctx);
    if (root == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    dump = json_dumps(root, JSON_COMPACT);
    json_decref(root);

    if (dump == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    text.len = ngx_strlen(dump);
    text.data = ngx_pnalloc(r->pool, text.len + 1);

    if (text.data == NULL) {
        free(dump);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(text.data, dump, text.len);
    text.data[text.len++] = '\n';

    free(dump);

    return ngx_http_clawd_usage_send(r, &text);
}


/* NULL on allocation failure */

static json_t *
ngx_http_clawd_usage_json(ngx_http_clawd_ctx_t *ctx)
{
    json_t                           *root, *limits;
    ngx_uint_t                        i;
    const ngx_http_clawd_identity_t  *who;

    who = ctx->who;

    limits = json_array();

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        if (json_array_append_new(limits,
                                  ngx_http_clawd_usage_limit(ctx, i))
            != 0)
        {
            json_decref(limits);
            return NULL;
        }
    }

    /* the limits are taken over, whatever comes of it */

    root = json_pack("{s:s, s:s%, s:s%, s:s%, s:I, s:o}",
                     "object", "usage",
                     "user", (char *) who->user.data, who->user.len,
                     "plan", (char *) who->plan.data, who->plan.len,
                     "time_zone", who->tz.len ? (char *) who->tz.data : "UTC",
                     who->tz.len ? who->tz.len : (size_t) 3,
                     "time", (json_int_t) (ctx->hold->now / 1000000),
                     "limits", limits);

    return root;
}


static json_t *
ngx_http_clawd_usage_limit(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_limit_e limit)
{
    json_t                 *entry;
    int64_t                 max, used, end;
    ngx_http_clawd_hold_t  *hold;

    hold = ctx->hold;

    max = hold->terms.limits[limit];
    used = ngx_http_clawd_quota_used(&hold->usage, limit, hold->live);
    end = ngx_http_clawd_usage_end(ctx, limit);

    entry = json_pack("{s:s, s:I}", "name",
                      (char *) ngx_http_clawd_limit_names[limit].data,
                      "used", (json_int_t) used);

    (void) json_object_set_new(entry, "limit",
                               max < 0 ? json_null() : json_integer(max));
    (void) json_object_set_new(entry, "remaining",
                               max < 0 ? json_null()
                                       : json_integer(ngx_max(max - used,
                                                              0)));
    (void) json_object_set_new(entry, "resets_at",
                               end < 0 ? json_null() : json_integer(end));
    (void) json_object_set_new(entry, "resets_in",
                               end < 0 ? json_null()
                                       : json_integer(end
                                                      - hold->now / 1000000));

    return entry;
}


/* seconds since 1970; -1: of requests that are running nobody knows */

static int64_t
ngx_http_clawd_usage_end(ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_limit_e limit)
{
    int64_t     now;
    ngx_str_t  *tz;

    now = ctx->hold->now / 1000000;
    tz = (ngx_str_t *) &ctx->who->tz;

    switch (limit) {

    case NGX_HTTP_CLAWD_LIMIT_DAY:
        return ngx_http_clawd_day_end(tz, now);

    case NGX_HTTP_CLAWD_LIMIT_MONTH:
        return ngx_http_clawd_month_end(tz, now);

    case NGX_HTTP_CLAWD_LIMIT_CONCURRENCY:
        return -1;

    default:
        return (now / 60 + 1) * 60;
    }
}


static ngx_int_t
ngx_http_clawd_usage_send(ngx_http_request_t *r, ngx_str_t *text)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = text->len;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = text->data;
    b->last = text->data + text->len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}
