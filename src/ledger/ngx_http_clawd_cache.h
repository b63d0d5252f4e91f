/*
 * Copyright (C) clawd authors
 *
 * Records of keys, users and plans that were read from Redis, in the zone, for
 * all workers: bounded, of fixed places, found by a keyed hash.
 */

#ifndef _NGX_HTTP_CLAWD_CACHE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_CACHE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_record.h"
#include "ngx_http_clawd_zone.h"


#pragma GCC visibility push(hidden)


/* an entry is used so long without a word from the server, in ms */
#define NGX_HTTP_CLAWD_CACHE_UNTOLD    1000

/* …and so long at most while changes are told, in ms */
#define NGX_HTTP_CLAWD_CACHE_TOLD      600000


extern ngx_http_clawd_area_t  ngx_http_clawd_cache_area;


/*
 * In all functions zone is a view of a zone that has the area, and name a
 * token's 32-byte digest for keys, else the user's or plan's name.  Times are
 * ngx_current_msec, which is the same clock in all processes.  All take the
 * zone's mutex for a short, bounded time; none allocates or fails.
 */

/*
 * Looks a record up.  NGX_OK: *rec is filled (found may be 0: it is known that
 * there is none), its strings being in buf, of RECORD_SIZE bytes.
 * NGX_DECLINED: not there, or not fresh.  With stale 1 an entry is also used
 * that is not fresh, up to CACHE_TOLD old, unless it was invalidated.
 */
ngx_int_t ngx_http_clawd_cache_get(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_uint_t stale,
    ngx_http_clawd_record_t *rec, u_char *buf);

/*
 * A mark is taken before the server is asked; put() with it stores the answer,
 * which is as old as the mark, unless the record was invalidated or told() was
 * called in between.
 */
uint64_t ngx_http_clawd_cache_mark(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name);
void ngx_http_clawd_cache_put(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, uint64_t mark,
    ngx_http_clawd_record_t *rec);

/* Invalidates one record by its name in Redis ("clawd:user:alice"). */
void ngx_http_clawd_cache_drop(ngx_http_clawd_zone_t *zone, ngx_str_t *key);

/* Invalidates all: for a FLUSHALL. */
void ngx_http_clawd_cache_flush(ngx_http_clawd_zone_t *zone);

/*
 * Changes are told from now on: entries made before are not fresh any more
 * (but may serve as stale ones).  alive() says that they were told up to the
 * time since, and will be known to be for the next msec; it must be repeated,
 * and does nothing after untold().
 */
void ngx_http_clawd_cache_told(ngx_http_clawd_zone_t *zone);
void ngx_http_clawd_cache_alive(ngx_http_clawd_zone_t *zone,
    ngx_msec_t since, ngx_msec_t msec);

/* Changes are not told any more. */
void ngx_http_clawd_cache_untold(ngx_http_clawd_zone_t *zone);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_CACHE_H_INCLUDED_ */
