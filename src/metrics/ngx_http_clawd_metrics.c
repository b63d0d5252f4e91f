/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_metrics.h"
#include "ngx_http_clawd_prometheus.h"


#define NGX_HTTP_CLAWD_METRICS_BUFFER  16384


/* the chain that is being filled */

typedef struct {
    ngx_pool_t    *pool;
    ngx_buf_t     *buf;           /* the last one */
    ngx_chain_t   *out;
    ngx_chain_t  **last;
    off_t          length;        /* of all but the last one */
} ngx_http_clawd_page_t;


static ngx_int_t ngx_http_clawd_metrics_accept(ngx_http_request_t *r);
static ngx_int_t ngx_http_clawd_metrics_more(ngx_http_clawd_text_t *t);
static void ngx_http_clawd_metrics_scrape(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_scrape_t *scrape);
static ngx_int_t ngx_http_clawd_metrics_header(ngx_http_request_t *r,
    ngx_uint_t openmetrics, off_t length);


ngx_int_t
ngx_http_clawd_metrics_send(ngx_http_request_t *r,
    ngx_http_clawd_zone_t *zone,
    void (*more)(ngx_http_clawd_text_t *t, void *data), void *data)
{
    ngx_int_t                rc;
    ngx_http_clawd_page_t    page;
    ngx_http_clawd_text_t    text;
    ngx_http_clawd_scrape_t  scrape;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_memzero(&page, sizeof(ngx_http_clawd_page_t));
    page.pool = r->pool;
    page.last = &page.out;

    ngx_memzero(&text, sizeof(ngx_http_clawd_text_t));
    text.more = ngx_http_clawd_metrics_more;
    text.data = &page;
    text.openmetrics = ngx_http_clawd_metrics_accept(r);

    ngx_http_clawd_metrics_scrape(zone, &scrape);

    scrape.more = more;
    scrape.data = data;

    ngx_http_clawd_prometheus_write(&text, zone, &scrape);

    if (text.failed) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    page.buf->last = text.pos;
    page.buf->last_buf = (r == r->main) ? 1 : 0;
    page.buf->last_in_chain = 1;

    rc = ngx_http_clawd_metrics_header(r, text.openmetrics,
                                       page.length
                                       + (text.pos - page.buf->pos));

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, page.out);
}


/* headers_in.accept is not there in every build: the list is */

static ngx_int_t
ngx_http_clawd_metrics_accept(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    part = &r->headers_in.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return 0;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        if (header[i].key.len == sizeof("Accept") - 1
            && ngx_strncasecmp(header[i].key.data, (u_char *) "Accept",
                               sizeof("Accept") - 1)
               == 0)
        {
            return ngx_http_clawd_text_wants_openmetrics(&header[i].value);
        }
    }
}


static ngx_int_t
ngx_http_clawd_metrics_more(ngx_http_clawd_text_t *t)
{
    ngx_buf_t              *b;
    ngx_chain_t            *cl;
    ngx_http_clawd_page_t  *page;

    page = t->data;

    if (page->buf) {
        page->buf->last = t->pos;
        page->length += t->pos - page->buf->pos;
    }

    b = ngx_create_temp_buf(page->pool, NGX_HTTP_CLAWD_METRICS_BUFFER);
    if (b == NULL) {
        return NGX_ERROR;
    }

    cl = ngx_alloc_chain_link(page->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf = b;
    cl->next = NULL;

    *page->last = cl;
    page->last = &cl->next;
    page->buf = b;

    t->pos = b->pos;
    t->last = b->end;

    return NGX_OK;
}


static void
ngx_http_clawd_metrics_scrape(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_scrape_t *scrape)
{
    ngx_memzero(scrape, sizeof(ngx_http_clawd_scrape_t));

    scrape->zone_free = ngx_http_clawd_zone_free(zone);
    scrape->zone_size = zone->shpool->end - (u_char *) zone->shpool;

#if (NGX_STAT_STUB)

    scrape->connections = 1;
    scrape->active = *ngx_stat_active;
    scrape->reading = *ngx_stat_reading;
    scrape->writing = *ngx_stat_writing;
    scrape->waiting = *ngx_stat_waiting;

#endif
}


static ngx_int_t
ngx_http_clawd_metrics_header(ngx_http_request_t *r, ngx_uint_t openmetrics,
    off_t length)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->hash = 1;
    ngx_str_set(&h->key, "Cache-Control");
    ngx_str_set(&h->value, "no-store");

    if (openmetrics) {
        ngx_str_set(&r->headers_out.content_type,
                    "application/openmetrics-text; version=1.0.0; "
                    "charset=utf-8");

    } else {
        ngx_str_set(&r->headers_out.content_type,
                    "text/plain; version=0.0.4; charset=utf-8");
    }

    /* the whole value: "charset" must not add a second one */

    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = length;

    return ngx_http_send_header(r);
}
