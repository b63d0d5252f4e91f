/*
 * Copyright (C) clawd authors
 *
 * Writes the exposition text, Prometheus 0.0.4 or OpenMetrics 1.0, by append
 * into room that is asked for as it is needed.  Knows nothing of NGINX.
 */

#ifndef _NGX_HTTP_CLAWD_TEXT_H_INCLUDED_
#define _NGX_HTTP_CLAWD_TEXT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_histogram.h"


#pragma GCC visibility push(hidden)


typedef struct ngx_http_clawd_text_s  ngx_http_clawd_text_t;


struct ngx_http_clawd_text_s {
    u_char      *pos;             /* room that is left: pos .. last */
    u_char      *last;

    /*
     * Sets pos and last to new room of a byte at least; what was written
     * before pos stays.  NGX_OK, or NGX_ERROR: nothing is written any more.
     */
    ngx_int_t  (*more)(ngx_http_clawd_text_t *t);
    void        *data;            /* of more() */

    unsigned     openmetrics:1;
    unsigned     failed:1;        /* more() did; to be asked at the end */
};


/* the labels of a series: an array that ends with key == NULL */

typedef struct {
    char        *key;
    ngx_str_t    value;
} ngx_http_clawd_label_t;


typedef enum {
    NGX_HTTP_CLAWD_COUNTER = 0,
    NGX_HTTP_CLAWD_GAUGE,
    NGX_HTTP_CLAWD_HISTOGRAM
} ngx_http_clawd_metric_e;


/*
 * name, in all functions, is a family's without the "_total" of counters,
 * which is added where the format has it.
 */


/* Writes HELP and TYPE.  help has neither a backslash nor a newline. */
void ngx_http_clawd_text_family(ngx_http_clawd_text_t *t,
    ngx_http_clawd_metric_e type, char *name, char *help);

/* Writes a sample; labels may be NULL, their values are escaped. */
void ngx_http_clawd_text_value(ngx_http_clawd_text_t *t,
    ngx_http_clawd_metric_e type, char *name, ngx_http_clawd_label_t *labels,
    uint64_t value);

/*
 * Writes the samples of a histogram, with its exemplar in OpenMetrics if the
 * request id has nothing but letters, digits and ._:/@+- in it.
 */
void ngx_http_clawd_text_histogram(ngx_http_clawd_text_t *t, char *name,
    ngx_http_clawd_label_t *labels, ngx_http_clawd_scale_e scale,
    ngx_http_clawd_snapshot_t *s);

/* Ends the text. */
void ngx_http_clawd_text_end(ngx_http_clawd_text_t *t);

/*
 * Whether a value of Accept prefers OpenMetrics, or likes it as well as plain
 * text.
 */
ngx_uint_t ngx_http_clawd_text_wants_openmetrics(ngx_str_t *accept);

/*
 * Whether a name is good for a label: not empty, valid UTF-8 without control
 * characters.
 */
ngx_uint_t ngx_http_clawd_text_label_valid(ngx_str_t *name);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_TEXT_H_INCLUDED_ */
