/*
 * Copyright (C) clawd authors
 *
 * Histograms in shared memory: fixed arrays that many processes add to without
 * a lock.  All values and sums are in millionths of the unit that is shown:
 * microseconds where seconds are shown.
 */

#ifndef _NGX_HTTP_CLAWD_HISTOGRAM_H_INCLUDED_
#define _NGX_HTTP_CLAWD_HISTOGRAM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_BUCKETS  22     /* at most, with +Inf */
#define NGX_HTTP_CLAWD_ID_LEN   64     /* of a request id in an exemplar */


typedef enum {
    NGX_HTTP_CLAWD_SCALE_DURATION = 0,
    NGX_HTTP_CLAWD_SCALE_FINE,          /* durations from 5 ms on */
    NGX_HTTP_CLAWD_SCALE_PER_TOKEN,     /* seconds per token */
    NGX_HTTP_CLAWD_SCALE_RATE           /* tokens per second */
} ngx_http_clawd_scale_e;


/* an upper bound, inclusive, in millionths and as it is printed */

typedef struct {
    uint64_t                  value;
    ngx_str_t                 le;
} ngx_http_clawd_bound_t;


/*
 * The last request that was told, at most one a second.  owner is a try-lock:
 * the process that writes, or 0.  seq changes with each write; 0 is none.
 */

typedef struct {
    ngx_atomic_t              owner;
    ngx_atomic_t              seq;
    uint64_t                  value;
    uint64_t                  time;     /* milliseconds since the epoch */
    size_t                    len;
    u_char                    id[NGX_HTTP_CLAWD_ID_LEN];
} ngx_http_clawd_exemplar_t;


/* in shared memory, zeroed at first; buckets are not cumulative */

typedef struct {
    ngx_atomic_t              buckets[NGX_HTTP_CLAWD_BUCKETS];
    ngx_atomic_t              sum;
    ngx_http_clawd_exemplar_t exemplar;
} ngx_http_clawd_histogram_t;


/* a copy of a process's own, to be shown; buckets are cumulative */

typedef struct {
    uint64_t                  buckets[NGX_HTTP_CLAWD_BUCKETS];
    uint64_t                  sum;
    ngx_http_clawd_exemplar_t exemplar; /* len is 0 if there is none */
} ngx_http_clawd_snapshot_t;


/* The bounds of a scale, the last one being +Inf; *n is set to their number. */
const ngx_http_clawd_bound_t *ngx_http_clawd_histogram_bounds(
    ngx_http_clawd_scale_e scale, ngx_uint_t *n);

/*
 * Adds a value, in millionths.  id, of the request, and now, milliseconds
 * since the epoch, are kept as the exemplar if the one there is a second old;
 * an id that is empty or longer than NGX_HTTP_CLAWD_ID_LEN is not.
 */
void ngx_http_clawd_histogram_add(ngx_http_clawd_histogram_t *h,
    ngx_http_clawd_scale_e scale, uint64_t value, ngx_str_t *id, uint64_t now);

/*
 * Copies a histogram.  Each bucket is read once and the count is their sum, so
 * that the copy agrees with itself while others add; sum may be ahead of or
 * behind it by the requests of that instant.  An exemplar that is just being
 * written is left out.  Returns the count.
 */
uint64_t ngx_http_clawd_histogram_read(ngx_http_clawd_histogram_t *h,
    ngx_http_clawd_scale_e scale, ngx_http_clawd_snapshot_t *s);

/* Drops the exemplar that the dead process pid was writing, if it was. */
void ngx_http_clawd_histogram_reap(ngx_http_clawd_histogram_t *h,
    ngx_pid_t pid);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_HISTOGRAM_H_INCLUDED_ */
