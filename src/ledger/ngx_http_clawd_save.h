/*
 * Copyright (C) clawd authors
 *
 * When the ledger of the zone is written to its file, and what the file holds.
 *
 * What was admitted must not be forgotten when all processes die at once, so
 * the file holds ceilings: of each user's day and month as much as may be
 * charged before it is written again, and the clock minute in which anything
 * may be admitted.  Whoever starts from the file takes the ceilings for what
 * was used, and the named minute for a full one.
 *
 * It is synced to the disk, which must hold up nobody: NGINX's cache manager
 * process writes it when a worker has said that it is wanted.
 */

#ifndef _NGX_HTTP_CLAWD_SAVE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_SAVE_H_INCLUDED_


#include "ngx_http_clawd_ledger.h"


#pragma GCC visibility push(hidden)


/*
 * Writes the file in the caller's own turn, with ceilings for what requests
 * that wait have asked for.  NGX_OK; NGX_AGAIN when another process is at it;
 * NGX_ERROR, which is logged once a second at most.  Takes the zone's mutex.
 */
ngx_int_t ngx_http_clawd_save(ngx_http_clawd_ledger_conf_t *conf,
    ngx_log_t *log);

/* Whether a process that is alive is writing it. */
ngx_uint_t ngx_http_clawd_save_busy(ngx_http_clawd_accounts_t *a);

/* What accounts->path is when this configuration's file is kept; 0: none is. */
ngx_atomic_uint_t ngx_http_clawd_save_name(
    ngx_http_clawd_ledger_conf_t *conf);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_SAVE_H_INCLUDED_ */
