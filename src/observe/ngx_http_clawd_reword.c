/*
 * Copyright (C) clawd authors
 *
 * Errors in the caller's shape: those of the gate, those that NGINX makes
 * (413, 502, 504, limits) and those of the upstream go one way.  The header is
 * held until the body is known, as the image filter does.
 */

#include "ngx_http_clawd_observe.h"


static ngx_int_t ngx_http_clawd_reword_take(ngx_http_request_t *r,
    ngx_http_clawd_reword_t *rw, ngx_buf_t *b);
static ngx_int_t ngx_http_clawd_reword_send(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_uint_t ngx_http_clawd_reword_status(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_error_t *e);
static ngx_int_t ngx_http_clawd_reword_headers(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_error_t *e);
static void ngx_http_clawd_reword_clear(ngx_http_request_t *r,
    const char *name);
static ngx_int_t ngx_http_clawd_reword_output(ngx_http_request_t *r,
    u_char *p, size_t len);


ngx_int_t
ngx_http_clawd_reword_start(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_uint_t upstream)
{
    ctx->reword = ngx_pcalloc(r->pool, sizeof(ngx_http_clawd_reword_t));
    if (ctx->reword == NULL) {
        return NGX_ERROR;
    }

    ctx->reword->upstream = upstream;
    ctx->stream = NULL;

    r->filter_need_in_memory = 1;

    if (r->upstream) {
        r->upstream->cacheable = 0;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_reword_filter(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_uint_t                last;
    ngx_chain_t              *cl;
    ngx_http_clawd_reword_t  *rw;

    rw = ctx->reword;

    if (rw->sent) {
        return ngx_http_clawd_next_body_filter(r, in);
    }

    last = 0;

    for (cl = in; cl; cl = cl->next) {

        if (ngx_http_clawd_reword_take(r, rw, cl->buf) != NGX_OK) {
            return NGX_ERROR;
        }

        if (cl->buf->last_buf || ngx_http_clawd_upstream_gone(r, cl->buf)) {
            last = 1;
        }
    }

    return last ? ngx_http_clawd_reword_send(r, ctx) : NGX_OK;
}


/* consumes the buffer; what is longer than an error can be is not read */

static ngx_int_t
ngx_http_clawd_reword_take(ngx_http_request_t *r, ngx_http_clawd_reword_t *rw,
    ngx_buf_t *b)
{
    size_t   len, size;
    u_char  *p;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    len = b->last - b->pos;

    if (!rw->upstream || rw->overflow || len == 0) {
        b->pos = b->last;
        return NGX_OK;
    }

    if (rw->len + len > NGX_HTTP_CLAWD_ERROR_BODY) {
        rw->overflow = 1;
        b->pos = b->last;
        return NGX_OK;
    }

    if (rw->len + len > rw->size) {

        for (size = 1024; size < rw->len + len; size *= 2) { /* void */ }

        p = ngx_pnalloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (rw->len) {
            ngx_memcpy(p, rw->body, rw->len);
        }

        rw->body = p;
        rw->size = size;
    }

    ngx_memcpy(rw->body + rw->len, b->pos, len);
    rw->len += len;

    b->pos = b->last;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_reword_send(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    u_char                   *p, *scratch;
    size_t                    len;
    ngx_int_t                 rc;
    ngx_uint_t                as_is;
    ngx_http_clawd_error_t    e;
    ngx_http_clawd_reword_t  *rw;

    rw = ctx->reword;
    rw->sent = 1;

    ngx_memzero(&e, sizeof(ngx_http_clawd_error_t));
    e.request_id = ctx->request_id;

    as_is = ngx_http_clawd_reword_status(r, ctx, &e);

    if (rw->upstream && rw->len && e.id == NGX_HTTP_CLAWD_ERR_NONE) {

        scratch = ngx_pnalloc(r->pool, rw->len);
        if (scratch == NULL) {
            return NGX_ERROR;
        }

        rc = ngx_http_clawd_error_read(&e, ctx->family, rw->body, rw->len,
                                       scratch);
        as_is = (rc == NGX_OK);

        if (e.code.len) {
            e.status = NGX_HTTP_BAD_REQUEST;
        }
    }

    r->headers_out.status = e.status;
    r->headers_out.status_line.len = 0;

    if (as_is) {
        p = rw->body;
        len = rw->len;

    } else {
        p = ngx_pnalloc(r->pool, ngx_http_clawd_error_size(&e));
        if (p == NULL) {
            return NGX_ERROR;
        }

        len = ngx_http_clawd_error_write(p, ctx->family, &e) - p;
    }

    r->headers_out.content_length_n = len;

    if (ngx_http_clawd_reword_headers(r, ctx, &e) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_clawd_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_clawd_reword_output(r, p, len);
}


/*
 * What the client is told, in e->status and e->id; an id is worded by it alone
 * and the upstream's body is not read.
 */

static ngx_uint_t
ngx_http_clawd_reword_status(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_error_t *e)
{
    ngx_uint_t                         status;
    const ngx_http_clawd_error_def_t  *def;

    status = r->headers_out.status;

    if (!ctx->reword->upstream) {

        def = ngx_http_clawd_error_def(ctx->error);

        if (ctx->error && def->status == status) {
            e->param = ctx->param;
            e->message = ctx->message;

        } else {
            ctx->error = ngx_http_clawd_error_of_status(status);
        }

        e->id = ctx->error;
        e->status = status;

        return 0;
    }

    if (status == NGX_HTTP_FORBIDDEN && ctx->reword->len == 0
        && !ctx->reword->overflow)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "clawd: the upstream answered 403 without a body: it "
                      "does not accept the Host (or Origin) that it got, send "
                      "\"proxy_set_header Host $clawd_upstream_host;\" as "
                      "clawd_proxy.conf does");

        e->id = NGX_HTTP_CLAWD_ERR_MISCONFIGURED;

    } else if (status == NGX_HTTP_UNAUTHORIZED) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "clawd: the upstream answered 401: it wants a "
                      "credential of the gateway's own, set it by "
                      "\"proxy_set_header Authorization\"");

        e->id = NGX_HTTP_CLAWD_ERR_UPSTREAM_AUTH;

    } else if (status < NGX_HTTP_BAD_REQUEST || status > 599
               || status == NGX_HTTP_CLIENT_CLOSED_REQUEST)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "clawd: the upstream's answer with status %ui is not "
                      "relayed", status);

        e->id = NGX_HTTP_CLAWD_ERR_INVALID;

    } else {
        e->status = status;
        return 0;
    }

    e->status = ngx_http_clawd_error_def(e->id)->status;

    return 0;
}


static ngx_int_t
ngx_http_clawd_reword_headers(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_error_t *e)
{
    ngx_str_t         allow;

    static ngx_str_t  bearer = ngx_string("Bearer");
    static ngx_str_t  two = ngx_string("2");
    static ngx_str_t  no = ngx_string("false");
    static ngx_str_t  identity = ngx_string("identity");

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    ngx_str_null(&r->headers_out.charset);

    ngx_http_clear_accept_ranges(r);
    ngx_http_clear_last_modified(r);
    ngx_http_clear_location(r);
    ngx_http_clear_etag(r);

    if (r->headers_out.content_encoding) {
        r->headers_out.content_encoding->hash = 0;
        r->headers_out.content_encoding = NULL;
    }

    if (r->headers_out.content_length) {
        r->headers_out.content_length->hash = 0;
        r->headers_out.content_length = NULL;
    }

    if (ctx->reword->upstream) {
        ngx_http_clawd_reword_clear(r, "www-authenticate");

        /* headers_out.location is not set for a path */

        ngx_http_clawd_reword_clear(r, "location");
    }

    if (e->status == NGX_HTTP_SERVICE_UNAVAILABLE || ctx->retry_after.len) {
        ngx_http_clawd_reword_clear(r, "retry-after");

        if (ngx_http_clawd_header_add(r, "Retry-After",
                                      ctx->retry_after.len ? &ctx->retry_after
                                                           : &two)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (e->status == NGX_HTTP_UNAUTHORIZED
        && ngx_http_clawd_header_add(r, "WWW-Authenticate", &bearer)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (e->status == NGX_HTTP_NOT_ALLOWED && ctx->api) {
        allow = ctx->api->allow;

        if (ngx_http_clawd_header_add(r, "Allow", &allow) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (e->status == NGX_HTTP_UNSUPPORTED_MEDIA_TYPE
        && ngx_http_clawd_header_add(r, "Accept-Encoding", &identity)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if ((e->status == NGX_HTTP_GATEWAY_TIME_OUT || ctx->no_retry)
        && ngx_http_clawd_header_add(r, "x-should-retry", &no) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_clawd_headers_out(r, ctx);
}


/* takes a header of the upstream's out of the answer */

static void
ngx_http_clawd_reword_clear(ngx_http_request_t *r, const char *name)
{
    size_t            len;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    len = ngx_strlen(name);

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (h[i].key.len == len
                && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
            {
                h[i].hash = 0;
            }
        }
    }
}


static ngx_int_t
ngx_http_clawd_reword_output(ngx_http_request_t *r, u_char *p, size_t len)
{
    ngx_buf_t    *b;
    ngx_chain_t  *out;

    out = ngx_alloc_chain_link(r->pool);
    if (out == NULL) {
        return NGX_ERROR;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = p;
    b->last = p + len;
    b->memory = (len != 0);
    b->last_buf = 1;
    b->last_in_chain = 1;

    out->buf = b;
    out->next = NULL;

    return ngx_http_clawd_next_body_filter(r, out);
}
