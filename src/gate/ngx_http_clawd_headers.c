/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_gate.h"


/* as many Connection headers are looked into */
#define NGX_HTTP_CLAWD_HOPS  4


typedef struct {
    u_char     *token;       /* of Authorization or x-api-key */
    size_t      len;
    ngx_uint_t  authorization;
    ngx_uint_t  api_key;
    ngx_uint_t  bad;
} ngx_http_clawd_cred_t;


static void ngx_http_clawd_header_read(ngx_table_elt_t *h,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_cred_t *cred);
static void ngx_http_clawd_header_bearer(ngx_table_elt_t *h,
    ngx_http_clawd_cred_t *cred);
static void ngx_http_clawd_header_token(u_char *p, size_t len,
    ngx_http_clawd_cred_t *cred);
static void ngx_http_clawd_header_rid(ngx_table_elt_t *h,
    ngx_http_clawd_ctx_t *ctx);
static void ngx_http_clawd_header_json(ngx_table_elt_t *h);
static ngx_uint_t ngx_http_clawd_header_stripped(ngx_table_elt_t *h);
static void ngx_http_clawd_header_lengths(uint32_t *lengths);
static ngx_uint_t ngx_http_clawd_header_hops(ngx_list_part_t *part,
    ngx_str_t *hops);
static ngx_uint_t ngx_http_clawd_header_hop(ngx_table_elt_t *h,
    ngx_str_t *hops, ngx_uint_t n);
static ngx_uint_t ngx_http_clawd_header_named(ngx_table_elt_t *h,
    ngx_str_t *connection);


/* what never reaches an upstream, of 30 bytes at most; NAME* strips all that
   begin so */

static ngx_str_t  ngx_http_clawd_stripped[] = {
    ngx_string("accept-encoding"),         /* answers are read on the side */
    ngx_string("access-control-request-*"),
    ngx_string("api-key"),
    ngx_string("authorization"),
    ngx_string("connection"),
    ngx_string("content-encoding"),
    ngx_string("cookie"),
    ngx_string("expect"),
    ngx_string("forwarded"),
    ngx_string("if-range"),
    ngx_string("keep-alive"),
    ngx_string("origin"),
    ngx_string("proxy"),
    ngx_string("proxy-*"),
    ngx_string("range"),                   /* a part can't be metered */
    ngx_string("referer"),
    ngx_string("sec-fetch-*"),
    ngx_string("te"),
    ngx_string("trailer"),
    ngx_string("upgrade"),
    ngx_string("x-api-key"),
    ngx_string("x-forwarded-*"),
    ngx_string("x-gateway-*"),
    ngx_string("x-http-method-*"),
    ngx_string("x-real-ip"),
    ngx_null_string
};


#define ngx_http_clawd_header_is(h, name)                                     \
    ((h)->key.len == sizeof(name) - 1                                         \
     && ngx_memcmp((h)->lowcase_key, name, sizeof(name) - 1) == 0)


ngx_int_t
ngx_http_clawd_headers_read(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t              i;
    ngx_list_part_t        *part;
    ngx_table_elt_t        *h;
    ngx_http_clawd_cred_t   cred;

    ngx_memzero(&cred, sizeof(ngx_http_clawd_cred_t));

    /* HTTP/0.9 has no list at all */

    part = r->headers_in.headers.pool ? &r->headers_in.headers.part : NULL;

    for ( /* void */ ; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (h[i].hash && h[i].key.len <= 16) {
                ngx_http_clawd_header_read(&h[i], ctx, &cred);
            }
        }
    }

    if (cred.authorization > 1 || cred.api_key > 1) {
        cred.bad = 1;
    }

    if (cred.bad) {
        ctx->cred = NGX_HTTP_CLAWD_CRED_BAD;

    } else if (cred.token == NULL) {
        ctx->cred = NGX_HTTP_CLAWD_CRED_NONE;

    } else if (ngx_http_clawd_digest(ctx->digest, cred.token, cred.len)
               == NGX_OK)
    {
        ctx->cred = NGX_HTTP_CLAWD_CRED_DIGEST;

    } else {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_clawd_header_read(ngx_table_elt_t *h, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_cred_t *cred)
{
    switch (h->key.len) {

    case sizeof("origin") - 1:
        if (ngx_http_clawd_header_is(h, "origin")) {
            ctx->origin = h->value;
        }

        break;

    case sizeof("x-api-key") - 1:
        if (ngx_http_clawd_header_is(h, "x-api-key")) {
            cred->api_key++;
            ngx_http_clawd_header_token(h->value.data, h->value.len, cred);
        }

        break;

    case sizeof("x-request-id") - 1:
        if (ngx_http_clawd_header_is(h, "x-request-id")) {
            ngx_http_clawd_header_rid(h, ctx);
        }

        break;

    case sizeof("authorization") - 1:
        if (ngx_http_clawd_header_is(h, "authorization")) {
            cred->authorization++;
            ngx_http_clawd_header_bearer(h, cred);
        }

        break;

    case sizeof("content-encoding") - 1:
        if (ngx_http_clawd_header_is(h, "content-encoding")
            && !(h->value.len == 8
                 && ngx_strncasecmp(h->value.data, (u_char *) "identity", 8)
                    == 0))
        {
            ctx->encoded = 1;
        }

        break;
    }
}


static void
ngx_http_clawd_header_bearer(ngx_table_elt_t *h, ngx_http_clawd_cred_t *cred)
{
    u_char  *p, *last;

    p = h->value.data;
    last = p + h->value.len;

    /* NGINX trims spaces, not tabs */

    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    if (last - p < 7
        || (ngx_memcmp(p, "Bearer", 6) != 0
            && ngx_strncasecmp(p, (u_char *) "bearer", 6) != 0)
        || (p[6] != ' ' && p[6] != '\t'))
    {
        cred->bad = 1;
        return;
    }

    for (p += 6; p < last && (*p == ' ' || *p == '\t'); p++) { /* void */ }

    while (last > p && (last[-1] == ' ' || last[-1] == '\t')) {
        last--;
    }

    ngx_http_clawd_header_token(p, last - p, cred);
}


/* the same token twice is one; two different ones are none */

static void
ngx_http_clawd_header_token(u_char *p, size_t len,
    ngx_http_clawd_cred_t *cred)
{
    if (ngx_http_clawd_token_valid(p, len) != NGX_OK) {
        cred->bad = 1;
        return;
    }

    if (cred->token
        && (cred->len != len || ngx_memcmp(cred->token, p, len) != 0))
    {
        cred->bad = 1;
        return;
    }

    cred->token = p;
    cred->len = len;
}


static void
ngx_http_clawd_header_rid(ngx_table_elt_t *h, ngx_http_clawd_ctx_t *ctx)
{
    u_char  *p, *last, c;

    if (h->value.len == 0 || h->value.len > NGX_HTTP_CLAWD_RID_LEN) {
        return;
    }

    for (p = h->value.data, last = p + h->value.len; p < last; p++) {
        c = *p | 0x20;

        if (!((c >= 'a' && c <= 'z') || (*p >= '0' && *p <= '9')
              || *p == '-' || *p == '_'))
        {
            return;
        }
    }

    ctx->request_id = h->value;
}


/*
 * The proxy sends what the list holds and does not look at hash, so the list
 * is made anew.  The named slots of what logs and gzip read are left alone.
 */

ngx_int_t
ngx_http_clawd_headers_strip(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx)
{
    ngx_str_t         hops[NGX_HTTP_CLAWD_HOPS];
    ngx_uint_t        i, n, nhops, json;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h, *kept;

    if (r->headers_in.headers.pool == NULL) {
        return NGX_OK;
    }

    nhops = ngx_http_clawd_header_hops(&r->headers_in.headers.part, hops);

    /* "curl -d" says otherwise, and some upstreams believe it */

    json = (ctx->api->class == NGX_HTTP_CLAWD_CLASS_INFER);

    /* room for all of them and a content type */

    for (n = 1, part = &r->headers_in.headers.part; part; part = part->next) {
        n += part->nelts;
    }

    kept = ngx_palloc(r->pool, n * sizeof(ngx_table_elt_t));
    if (kept == NULL) {
        return NGX_ERROR;
    }

    r->headers_in.headers.nalloc = n;
    n = 0;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0
                || ngx_http_clawd_header_stripped(&h[i])
                || ngx_http_clawd_header_hop(&h[i], hops, nhops)
                || (json && ngx_http_clawd_header_is(&h[i], "content-type")))
            {
                continue;
            }

            kept[n++] = h[i];
        }
    }

    if (json) {
        ngx_http_clawd_header_json(&kept[n]);
        r->headers_in.content_type = &kept[n++];
    }

    part = &r->headers_in.headers.part;

    part->elts = kept;
    part->nelts = n;
    part->next = NULL;

    r->headers_in.headers.last = part;
    r->headers_in.authorization = NULL;

    return NGX_OK;
}


static void
ngx_http_clawd_header_json(ngx_table_elt_t *h)
{
    ngx_memzero(h, sizeof(ngx_table_elt_t));

    /* the hash by which proxy_set_header finds what it replaces */

    h->hash = ngx_hash_key((u_char *) "content-type",
                           sizeof("content-type") - 1);
    ngx_str_set(&h->key, "Content-Type");
    ngx_str_set(&h->value, "application/json");
    h->lowcase_key = (u_char *) "content-type";
}


/* by the first letter and the length most are seen to be none of them */

static ngx_uint_t
ngx_http_clawd_header_stripped(ngx_table_elt_t *h)
{
    size_t      len;
    ngx_str_t  *s;

    static uint32_t  lengths[32];

    if (lengths['c' & 31] == 0) {
        ngx_http_clawd_header_lengths(lengths);
    }

    len = ngx_min(h->key.len, 31);

    if (!(lengths[h->lowcase_key[0] & 31] >> len & 1)) {
        return 0;
    }

    for (s = ngx_http_clawd_stripped; s->len; s++) {
        len = s->len;

        if (s->data[len - 1] == '*') {
            len--;

            if (h->key.len < len) {
                continue;
            }

        } else if (h->key.len != len) {
            continue;
        }

        if (ngx_memcmp(h->lowcase_key, s->data, len) == 0) {
            return 1;
        }
    }

    return 0;
}


/* a bit for each length, the last one for all that are longer */

static void
ngx_http_clawd_header_lengths(uint32_t *lengths)
{
    uint32_t    bits;
    ngx_str_t  *s;

    for (s = ngx_http_clawd_stripped; s->len; s++) {

        bits = (s->data[s->len - 1] == '*')
               ? 0xffffffff << (s->len - 1) : (uint32_t) 1 << s->len;

        lengths[s->data[0] & 31] |= bits;
    }
}


/*
 * The Connection headers that name more than how to end; NGINX 1.22 keeps no
 * pointer to them.
 */

static ngx_uint_t
ngx_http_clawd_header_hops(ngx_list_part_t *part, ngx_str_t *hops)
{
    ngx_str_t        *s;
    ngx_uint_t        i, n;
    ngx_table_elt_t  *h;

    n = 0;

    for ( /* void */ ; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts && n < NGX_HTTP_CLAWD_HOPS; i++) {

            if (!ngx_http_clawd_header_is(&h[i], "connection")) {
                continue;
            }

            s = &h[i].value;

            if ((s->len == 5
                 && ngx_strncasecmp(s->data, (u_char *) "close", 5) == 0)
                || (s->len == 10
                    && ngx_strncasecmp(s->data, (u_char *) "keep-alive", 10)
                       == 0))
            {
                continue;
            }

            hops[n++] = *s;
        }
    }

    return n;
}


/* whether "Connection: name, name" makes it a header of this hop */

static ngx_uint_t
ngx_http_clawd_header_hop(ngx_table_elt_t *h, ngx_str_t *hops, ngx_uint_t n)
{
    while (n--) {
        if (ngx_http_clawd_header_named(h, &hops[n])) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_clawd_header_named(ngx_table_elt_t *h, ngx_str_t *connection)
{
    u_char  *p, *last, *start;

    p = connection->data;
    last = p + connection->len;

    if (h->key.len > connection->len) {
        return 0;
    }

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        for (start = p; p < last && *p != ',' && *p != ' ' && *p != '\t'; p++)
        {
            /* void */
        }

        if ((size_t) (p - start) == h->key.len
            && h->key.len
            && ngx_strncasecmp(start, h->key.data, h->key.len) == 0)
        {
            /* a framing header can't be sent away */

            return !ngx_http_clawd_header_is(h, "content-length")
                   && !ngx_http_clawd_header_is(h, "content-type")
                   && !ngx_http_clawd_header_is(h, "host");
        }
    }

    return 0;
}
