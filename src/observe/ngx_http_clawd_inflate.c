/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_observe.h"

#include <zlib.h>


/* output at a time; never kept, so a bomb costs time alone */
#define NGX_HTTP_CLAWD_INFLATE_OUT    4096



struct ngx_http_clawd_inflate_s {
    z_stream    zs;
    unsigned    whole:1;       /* a member has ended */
    unsigned    broken:1;
};


static void *ngx_http_clawd_inflate_alloc(void *opaque, u_int items,
    u_int size);
static void ngx_http_clawd_inflate_free(void *opaque, void *address);


ngx_http_clawd_inflate_t *
ngx_http_clawd_inflate_create(ngx_http_request_t *r)
{
    ngx_http_clawd_inflate_t  *inf;

    inf = ngx_pcalloc(r->pool, sizeof(ngx_http_clawd_inflate_t));
    if (inf == NULL) {
        return NULL;
    }

    inf->zs.zalloc = ngx_http_clawd_inflate_alloc;
    inf->zs.zfree = ngx_http_clawd_inflate_free;
    inf->zs.opaque = r->pool;

    /* gzip or zlib, found out from its header */

    if (inflateInit2(&inf->zs, MAX_WBITS + 32) != Z_OK) {
        return NULL;
    }

    return inf;
}


ngx_int_t
ngx_http_clawd_inflate(ngx_http_clawd_inflate_t *inf, u_char *src,
    u_char *last, void (*read)(void *data, u_char *p, u_char *last),
    void *data)
{
    int     rc;
    u_char  out[NGX_HTTP_CLAWD_INFLATE_OUT];

    if (inf->broken) {
        return NGX_OK;
    }

    inf->zs.next_in = src;
    inf->zs.avail_in = last - src;

    do {
        inf->zs.next_out = out;
        inf->zs.avail_out = sizeof(out);

        rc = inflate(&inf->zs, Z_SYNC_FLUSH);

        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) {
            inf->broken = 1;

            /* behind a whole one it is padding */

            return inf->whole ? NGX_OK : NGX_ERROR;
        }

        read(data, out, inf->zs.next_out);

        if (rc == Z_STREAM_END) {
            inf->whole = 1;

            /* cannot fail; gzip allows one member behind the other */

            (void) inflateReset(&inf->zs);
        }

    } while (inf->zs.avail_out == 0
             || (rc == Z_STREAM_END && inf->zs.avail_in));

    return NGX_OK;
}


static void *
ngx_http_clawd_inflate_alloc(void *opaque, u_int items, u_int size)
{
    return ngx_palloc(opaque, items * size);
}


static void
ngx_http_clawd_inflate_free(void *opaque, void *address)
{
    (void) ngx_pfree(opaque, address);
}
