/*
 * Copyright (C) clawd authors
 *
 * The whole exposition: every family that clawd has, from the registry and
 * from what the caller has read of NGINX.
 */

#ifndef _NGX_HTTP_CLAWD_PROMETHEUS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_PROMETHEUS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_zone.h"
#include "ngx_http_clawd_text.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_VERSION  "0.1.0"


/* what the registry does not know */

typedef struct {
    uint64_t     zone_free;       /* bytes */
    uint64_t     zone_size;

    /* as stub_status has them, if it is built in */

    uint64_t     active;
    uint64_t     reading;
    uint64_t     writing;
    uint64_t     waiting;
    unsigned     connections:1;

    /* families of an upper room, or NULL */

    void       (*more)(ngx_http_clawd_text_t *t, void *data);
    void        *data;
} ngx_http_clawd_scrape_t;


/* Writes all metrics.  t->failed tells of want of memory. */
void ngx_http_clawd_prometheus_write(ngx_http_clawd_text_t *t,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_scrape_t *scrape);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_PROMETHEUS_H_INCLUDED_ */
