/*
 * Copyright (C) clawd authors
 *
 * Settlements that wait in a file until Redis is back.  All workers append to
 * one file; one of them at a time replays.  Replaying twice does no harm,
 * since settling is idempotent; nothing is removed before it was settled.
 */

#ifndef _NGX_HTTP_CLAWD_SPOOL_H_INCLUDED_
#define _NGX_HTTP_CLAWD_SPOOL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_flight.h"


#pragma GCC visibility push(hidden)


/* the file grows no larger; then append() fails, and no more is admitted */
#define NGX_HTTP_CLAWD_SPOOL_MAX  (64 * 1024 * 1024)


/* of this process */

typedef struct {
    ngx_str_t    path;         /* null-terminated; "path.replay" is beside it */
    ngx_log_t   *log;

    /* private: the replay that is under way; fd NGX_INVALID_FILE: none */
    ngx_fd_t     fd;
    off_t        offset;
    off_t        passed;       /* damaged bytes so far */
    time_t       synced;
    time_t       told;         /* the last error that was logged */
} ngx_http_clawd_spool_t;


void ngx_http_clawd_spool_init(ngx_http_clawd_spool_t *spool, ngx_str_t *path,
    ngx_log_t *log);

/*
 * Appends n settlements in one write: all or none are there afterwards, each
 * with its length and a CRC-32C.  They outlive the process at once; the first
 * append of each second syncs them to the disk.  NGX_OK, or NGX_ERROR (disk
 * full, file at its size, no permission), logged at most once a second: then
 * append them again later, they may be there twice.
 */
ngx_int_t ngx_http_clawd_spool_append(ngx_http_clawd_spool_t *spool,
    ngx_http_clawd_settlement_t *s, ngx_uint_t n);

/*
 * Begins or goes on with a replay: reads up to max settlements into s and sets
 * *n.  NGX_OK: there are *n, settle them and call again; a torn or damaged tail
 * is passed over with one logged sentence.  NGX_DECLINED: nothing is there, or
 * another process replays.  NGX_DONE: all were read: call done() when they are
 * settled.  NGX_ERROR: logged.
 */
ngx_int_t ngx_http_clawd_spool_next(ngx_http_clawd_spool_t *spool,
    ngx_http_clawd_settlement_t *s, ngx_uint_t max, ngx_uint_t *n);

/* What was read is settled for good: the file goes. */
void ngx_http_clawd_spool_done(ngx_http_clawd_spool_t *spool);

/* Redis went away again: the replay will begin anew, of any process. */
void ngx_http_clawd_spool_abandon(ngx_http_clawd_spool_t *spool);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_SPOOL_H_INCLUDED_ */
