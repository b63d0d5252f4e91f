/*
 * Copyright (C) clawd authors
 *
 * What all workers know of Redis together: whether it answers, who tries it
 * while it does not, and what the log was told.
 */

#ifndef _NGX_HTTP_CLAWD_REDIS_SHARED_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REDIS_SHARED_H_INCLUDED_


#include "ngx_http_clawd_redis.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_REDIS_BREAK  5       /* failures in a row */


/*
 * A process that exits may have another configuration, and another Redis: it
 * tries for itself, and what it finds is no word for the others.
 */


/* A good word: closes the breaker; its line comes when all was good for 1 s. */
void ngx_http_clawd_redis_good(ngx_http_clawd_redis_shared_t *shared,
    ngx_str_t *name, ngx_log_t *log);

/* A bad one, of Redis itself: counted, and logged once until it changes. */
void ngx_http_clawd_redis_bad(ngx_http_clawd_redis_shared_t *shared,
    ngx_http_clawd_redis_result_e result, const char *what, ngx_str_t *name,
    ngx_log_t *log, ngx_err_t err);

/* A failure that counts for the breaker. */
void ngx_http_clawd_redis_missed(ngx_http_clawd_redis_shared_t *shared);

/*
 * Whether this process may try to connect: NGX_OK, or NGX_DECLINED with *wait,
 * after which to ask again.  While Redis is down one process tries for all.
 */
ngx_int_t ngx_http_clawd_redis_probe(ngx_http_clawd_redis_shared_t *shared,
    ngx_msec_t *wait);

/* It failed: nobody tries again within delay. */
void ngx_http_clawd_redis_probed(ngx_http_clawd_redis_shared_t *shared,
    ngx_msec_t delay);

/* This process does not try any more. */
void ngx_http_clawd_redis_probe_end(ngx_http_clawd_redis_shared_t *shared);

/*
 * Takes an office of one process, or holds it already: NGX_OK; NGX_DECLINED
 * when a process that lives has it.
 */
ngx_int_t ngx_http_clawd_redis_office(ngx_atomic_t *office);

/* 50 ms to 1 s, doubling with each attempt, by half more or less. */
ngx_msec_t ngx_http_clawd_redis_backoff(ngx_uint_t attempt);

/* msec, by half more or less */
ngx_msec_t ngx_http_clawd_redis_jitter(ngx_msec_t msec);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REDIS_SHARED_H_INCLUDED_ */
