/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_observe.h"


static ngx_int_t ngx_http_clawd_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_clawd_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_http_clawd_ctx_t *ngx_http_clawd_observe_ctx(
    ngx_http_request_t *r);
static ngx_uint_t ngx_http_clawd_relayed(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_uint_t ngx_http_clawd_type_html(ngx_str_t *type);
static ngx_uint_t ngx_http_clawd_header_replaced(ngx_table_elt_t *h,
    ngx_http_clawd_ctx_t *ctx, ngx_uint_t cors, ngx_uint_t stream);
static ngx_int_t ngx_http_clawd_ratelimit_headers(ngx_http_request_t *r,
    ngx_http_clawd_ratelimit_t *ratelimit, const char **names);


static const char  *ngx_http_clawd_ratelimit_requests[] = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests"
};

static const char  *ngx_http_clawd_ratelimit_tokens[] = {
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens"
};


ngx_http_output_header_filter_pt  ngx_http_clawd_next_header_filter;
ngx_http_output_body_filter_pt    ngx_http_clawd_next_body_filter;


void
ngx_http_clawd_observe_init(void)
{
    ngx_http_clawd_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_clawd_header_filter;

    ngx_http_clawd_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_clawd_body_filter;
}


static ngx_int_t
ngx_http_clawd_header_filter(ngx_http_request_t *r)
{
    ngx_uint_t             passed, upstream;
    ngx_http_clawd_ctx_t  *ctx;

    if (r != r->main) {
        return ngx_http_clawd_next_header_filter(r);
    }

    ctx = ngx_http_clawd_observe_ctx(r);
    if (ctx == NULL) {
        return ngx_http_clawd_next_header_filter(r);
    }

    /*
     * A status of the upstream's, or one that NGINX made in its place: then
     * the upstream is finalized, and a status that it sent was not relayed.
     */

    passed = (ctx->state == NGX_HTTP_CLAWD_STATE_PASSED);

    upstream = passed && r->upstream
               && (r->upstream->cleanup || r->err_status == 0)
               && (r->upstream->headers_in.status_n
                   || r->headers_out.status == 0);

    /*
     * An answer without a status line made the proxy fall back to HTTP/0.9;
     * the client still speaks what it spoke.  After an error_page the status
     * is that of the first error, so that it does not tell.
     */

    if (passed && r->http_version < NGX_HTTP_VERSION_10) {
        r->http_version = ctx->http_version;
    }

    if (upstream) {
        ngx_http_clawd_warn_settings(r);
        ngx_http_clawd_heard(r);
    }

    if ((upstream && !ngx_http_clawd_relayed(r, ctx))
        || r->headers_out.status >= NGX_HTTP_BAD_REQUEST)
    {
        return ngx_http_clawd_reword_start(r, ctx, upstream);
    }

    if (passed && ngx_http_clawd_stream_start(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_headers_out(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_clawd_next_header_filter(r);
}


/*
 * The context of the location that answers.  After a redirect out of gated
 * locations there is none: what an operator's error_page says stays as it is.
 * An error of another module's, before the gate, is put into shape as well.
 */

static ngx_http_clawd_ctx_t *
ngx_http_clawd_observe_ctx(ngx_http_request_t *r)
{
    ngx_http_clawd_ctx_t       *ctx;
    ngx_http_clawd_loc_conf_t  *clcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    /* redaction makes one as well, for locations of any kind */

    if (ctx && ctx->gated) {
        return ctx;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    if (!clcf->enable || r->headers_out.status < NGX_HTTP_BAD_REQUEST) {
        return NULL;
    }

    return ngx_http_clawd_adopt_ctx(r);
}


/* what an upstream may say as it is; its errors are judged by their bodies */

static ngx_uint_t
ngx_http_clawd_relayed(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t  status;

    status = r->headers_out.status;

    if (status < NGX_HTTP_OK || status >= NGX_HTTP_SPECIAL_RESPONSE) {

        /* a redirect would lead around the gate */

        return status == NGX_HTTP_NOT_MODIFIED
               && ctx->api->class == NGX_HTTP_CLAWD_CLASS_LIST;
    }

    if (ctx->api->class != NGX_HTTP_CLAWD_CLASS_INFER) {
        return 1;
    }

    /* a part of an answer can't be read, and nobody has asked for one */

    if (status == NGX_HTTP_PARTIAL_CONTENT) {
        return 0;
    }

    /* a portal's page in place of JSON would reach the program as a string */

    return !ngx_http_clawd_type_html(&r->headers_out.content_type);
}


static ngx_uint_t
ngx_http_clawd_type_html(ngx_str_t *type)
{
    u_char  *p;

    if (type->len < sizeof("text/html") - 1
        || ngx_strncasecmp(type->data, (u_char *) "text/html",
                           sizeof("text/html") - 1)
           != 0)
    {
        return 0;
    }

    if (type->len == sizeof("text/html") - 1) {
        return 1;
    }

    p = type->data + sizeof("text/html") - 1;

    return *p == ';' || *p == ' ' || *p == '\t';
}


static ngx_int_t
ngx_http_clawd_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_int_t              rc;
    ngx_uint_t             last;
    ngx_chain_t           *cl;
    ngx_http_clawd_ctx_t  *ctx;

    if (r != r->main) {
        return ngx_http_clawd_next_body_filter(r, in);
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    if (ctx == NULL) {
        return ngx_http_clawd_next_body_filter(r, in);
    }

    for (last = 0, cl = in; cl; cl = cl->next) {
        last |= cl->buf->last_buf;
    }

    if (ctx->reword) {
        rc = ngx_http_clawd_reword_filter(r, ctx, in);

    } else if (ctx->stream) {
        rc = ngx_http_clawd_stream_filter(r, ctx, in);

    } else {
        rc = ngx_http_clawd_next_body_filter(r, in);
    }

    /*
     * An answer that is out to its last byte is settled now: NGINX may keep
     * the request for seconds until the client closes its side.
     */

    if (last && rc == NGX_OK && !r->buffered && !r->connection->buffered) {
        ngx_http_clawd_settle(ctx);
    }

    return rc;
}


ngx_uint_t
ngx_http_clawd_upstream_gone(ngx_http_request_t *r, ngx_buf_t *b)
{
    return b->flush && !b->last_buf && r->upstream
           && r->upstream->cleanup == NULL;
}


void
ngx_http_clawd_heard(ngx_http_request_t *r)
{
#if (NGX_HTTP_CACHE)
    if (r->cached) {
        return;
    }
#endif

    ngx_http_clawd_count_heard(ngx_http_clawd_observe_zone(r));
}


ngx_int_t
ngx_http_clawd_header_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->hash = 1;
    h->key.len = ngx_strlen(name);
    h->key.data = (u_char *) name;
    h->value = *value;

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_headers_out(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t        i, cors, stream;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    static ngx_str_t  no_cache = ngx_string("no-cache");
    static ngx_str_t  no = ngx_string("no");

    cors = ngx_http_clawd_cors_allowed(r, ctx);

    stream = ctx->stream && !ctx->reword
             && ctx->stream->answer.framing != NGX_HTTP_CLAWD_FRAMING_JSON;

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (h[i].hash
                && ngx_http_clawd_header_replaced(&h[i], ctx, cors, stream))
            {
                h[i].hash = 0;
            }
        }
    }

    if (ngx_http_clawd_header_add(r, "x-request-id", &ctx->request_id)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->family == NGX_HTTP_CLAWD_ANTHROPIC
        && ngx_http_clawd_header_add(r, "request-id", &ctx->request_id)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (stream
        && (ngx_http_clawd_header_add(r, "Cache-Control", &no_cache) != NGX_OK
            || ngx_http_clawd_header_add(r, "X-Accel-Buffering", &no)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_ratelimit_headers(r, &ctx->requests,
                                         ngx_http_clawd_ratelimit_requests)
        != NGX_OK
        || ngx_http_clawd_ratelimit_headers(r, &ctx->tokens,
                                            ngx_http_clawd_ratelimit_tokens)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return cors ? ngx_http_clawd_cors_headers(r, ctx) : NGX_OK;
}


static ngx_int_t
ngx_http_clawd_ratelimit_headers(ngx_http_request_t *r,
    ngx_http_clawd_ratelimit_t *ratelimit, const char **names)
{
    ngx_str_t   value;
    ngx_uint_t  i, start;

    if (ratelimit->text == NULL) {
        return NGX_OK;
    }

    for (i = 0, start = 0; i < 3; i++) {
        value.data = ratelimit->text + start;
        value.len = ratelimit->ends[i] - start;

        if (ngx_http_clawd_header_add(r, names[i], &value) != NGX_OK) {
            return NGX_ERROR;
        }

        start = ratelimit->ends[i];
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_header_replaced(ngx_table_elt_t *h, ngx_http_clawd_ctx_t *ctx,
    ngx_uint_t cors, ngx_uint_t stream)
{
    switch (h->key.len) {

    /* of the hop between the upstream and here; HTTP/2 forbids them */

    case sizeof("upgrade") - 1:
        return ngx_strncasecmp(h->key.data, (u_char *) "upgrade", 7) == 0;

    case sizeof("proxy-connection") - 1:
        return ngx_strncasecmp(h->key.data, (u_char *) "proxy-connection", 16)
               == 0;

    case sizeof("request-id") - 1:
        return ctx->family == NGX_HTTP_CLAWD_ANTHROPIC
               && ngx_strncasecmp(h->key.data, (u_char *) "request-id", 10)
                  == 0;

    case sizeof("x-request-id") - 1:
        return ngx_strncasecmp(h->key.data, (u_char *) "x-request-id", 12)
               == 0;

    case sizeof("cache-control") - 1:
        return stream
               && ngx_strncasecmp(h->key.data, (u_char *) "cache-control", 13)
                  == 0;

    case sizeof("x-accel-buffering") - 1:
        return stream
               && ngx_strncasecmp(h->key.data,
                                  (u_char *) "x-accel-buffering", 17)
                  == 0;
    }

    /* an upstream's own limits are not the caller's */

    if ((ctx->requests.text || ctx->tokens.text)
        && h->key.len > 12
        && ngx_strncasecmp(h->key.data, (u_char *) "x-ratelimit-", 12) == 0)
    {
        return 1;
    }

    return cors && h->key.len > 15
           && ngx_strncasecmp(h->key.data, (u_char *) "access-control-", 15)
              == 0;
}
