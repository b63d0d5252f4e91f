/*
 * Copyright (C) clawd authors
 *
 * The response on its way back: read on the side, reworded where it is an
 * error, and counted once.
 */

#ifndef _NGX_HTTP_CLAWD_OBSERVE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_OBSERVE_H_INCLUDED_


#include "ngx_http_clawd.h"


#pragma GCC visibility push(hidden)


/* a copy of a compressed answer is inflated to be read */

typedef struct ngx_http_clawd_inflate_s  ngx_http_clawd_inflate_t;


struct ngx_http_clawd_stream_s {
    ngx_http_clawd_inflate_t  *inflate;    /* NULL: not so compressed */

    ngx_chain_t               *hold;       /* bytes of an undecided event */
    ngx_chain_t               *free;
    ngx_chain_t               *busy;

    ngx_msec_t                 last_read;

    unsigned                   swallow:1;  /* drop the usage event */
    unsigned                   let_go:1;   /* some of the pending event is out:
                                              it can't be dropped any more */
    unsigned                   encoded:1;  /* in a way that is not read here */
    unsigned                   garbled:1;  /* inflate can't read it */
    unsigned                   ended:1;
    unsigned                   reset:1;    /* the upstream died under it */
    unsigned                   timedout:1; /* …of silence */

    ngx_http_clawd_answer_t    answer;     /* last: it zeroes itself */
};


/* an answer that is not relayed as it is: its header is held, and its body */

struct ngx_http_clawd_reword_s {
    u_char                    *body;
    size_t                     len;
    size_t                     size;
    unsigned                   overflow:1;
    unsigned                   upstream:1; /* it is the upstream's own */
    unsigned                   sent:1;
};


/* Puts the filters into the chains; once per configuration. */
void ngx_http_clawd_observe_init(void);

/* The request goes to the upstream now: counts it in flight. */
void ngx_http_clawd_observe_go(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/* The zone in which the request is counted. */
ngx_http_clawd_zone_t *ngx_http_clawd_observe_zone(ngx_http_request_t *r);

/*
 * The http cleanup handler, data being the context: counts the request, makes
 * the variables final.  Runs on every way out and before the access log.
 */
void ngx_http_clawd_settle(void *data);


/* Whether the location's clawd_cors allows the request's Origin: 1 or 0. */
ngx_uint_t ngx_http_clawd_cors_allowed(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);


/* of the room */

extern ngx_http_output_header_filter_pt  ngx_http_clawd_next_header_filter;
extern ngx_http_output_body_filter_pt    ngx_http_clawd_next_body_filter;

/*
 * Starts reading a 2xx answer: framing by Content-Type, streams unbuffered.
 * NGX_OK also where nothing is to be read; NGX_ERROR on allocation failure.
 */
ngx_int_t ngx_http_clawd_stream_start(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/* The body filter of an answer that is read. */
ngx_int_t ngx_http_clawd_stream_filter(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_chain_t *in);

/* Holds the header back; upstream: the answer is the upstream's own. */
ngx_int_t ngx_http_clawd_reword_start(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_uint_t upstream);

/* The body filter of an answer that is reworded. */
ngx_int_t ngx_http_clawd_reword_filter(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_chain_t *in);

/*
 * The headers that every answer of a gated location gets, those of streams
 * too; what the upstream sent under the same names goes.  NGX_ERROR on
 * allocation failure.
 */
ngx_int_t ngx_http_clawd_headers_out(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/* Adds the headers of clawd_cors to an answer to an allowed Origin. */
ngx_int_t ngx_http_clawd_cors_headers(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/* Adds one header; name and value are kept, not copied. */
ngx_int_t ngx_http_clawd_header_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value);

/* The upstream has sent something, unless it is of a cache. */
void ngx_http_clawd_heard(ngx_http_request_t *r);

/* Whether a filter was called because the upstream died in mid-answer. */
ngx_uint_t ngx_http_clawd_upstream_gone(ngx_http_request_t *r, ngx_buf_t *b);

/* Says once, of each setting that suits no AI traffic, what it should be. */
void ngx_http_clawd_warn_settings(ngx_http_request_t *r);

/* NULL on allocation failure; freed with the request's pool. */
ngx_http_clawd_inflate_t *ngx_http_clawd_inflate_create(
    ngx_http_request_t *r);

/*
 * Inflates src .. last and hands the bytes to read(data, p, last), any number
 * of times.  NGX_OK, or NGX_ERROR when the data is broken: no call any more.
 */
ngx_int_t ngx_http_clawd_inflate(ngx_http_clawd_inflate_t *inf, u_char *src,
    u_char *last, void (*read)(void *data, u_char *p, u_char *last),
    void *data);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_OBSERVE_H_INCLUDED_ */
