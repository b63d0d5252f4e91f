/*
 * Copyright (C) clawd authors
 *
 * Hears of changes: one worker of a gateway subscribes to Redis's own
 * invalidation messages for all of them.
 */

#ifndef _NGX_HTTP_CLAWD_TRACK_H_INCLUDED_
#define _NGX_HTTP_CLAWD_TRACK_H_INCLUDED_


#include "ngx_http_clawd_redis.h"


#pragma GCC visibility push(hidden)


typedef struct {
    void         *data;

    /* from now on changes of keys under the prefixes are told */
    void        (*told)(void *data);

    /* they were, up to since (ngx_current_msec), for sure for msec more */
    void        (*alive)(void *data, ngx_msec_t since, ngx_msec_t msec);

    /* one key has changed; NULL: all may have */
    void        (*changed)(void *data, ngx_str_t *key);

    /* they are not told any more */
    void        (*untold)(void *data);
} ngx_http_clawd_track_handlers_t;


typedef struct ngx_http_clawd_track_s  ngx_http_clawd_track_t;


/*
 * Begins, from init_process: takes the lease when nobody holds it, connects,
 * subscribes; again when anything fails, with back-off.  prefixes ends with an
 * empty string.  NULL on allocation failure.
 */
ngx_http_clawd_track_t *ngx_http_clawd_track_create(ngx_cycle_t *cycle,
    ngx_http_clawd_redis_conf_t *conf, ngx_http_clawd_zone_t *zone,
    ngx_str_t *prefixes, ngx_http_clawd_track_handlers_t *handlers);

/* Ends it, from exit_process, and gives the lease back. */
void ngx_http_clawd_track_destroy(ngx_http_clawd_track_t *track);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_TRACK_H_INCLUDED_ */
