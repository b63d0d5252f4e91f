/*
 * Copyright (C) clawd authors
 *
 * Answers a scrape.
 */

#ifndef _NGX_HTTP_CLAWD_METRICS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_METRICS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_clawd_text.h"
#include "ngx_http_clawd_zone.h"


#pragma GCC visibility push(hidden)


/*
 * Answers GET and HEAD with all metrics, in Prometheus text or, when Accept
 * prefers it, in OpenMetrics; discards a body.  more(text, data), if it is not
 * NULL, writes the families of upper rooms.  For use as, and returns what is
 * due from, a content handler: NGX_HTTP_NOT_ALLOWED for other methods.
 */
ngx_int_t ngx_http_clawd_metrics_send(ngx_http_request_t *r,
    ngx_http_clawd_zone_t *zone,
    void (*more)(ngx_http_clawd_text_t *t, void *data), void *data);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_METRICS_H_INCLUDED_ */
