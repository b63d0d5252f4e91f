/*
 * Copyright (C) clawd authors
 *
 * The file in which the ledger of the zone outlives NGINX.
 */

#ifndef _NGX_HTTP_CLAWD_STATE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_STATE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_quota.h"


#pragma GCC visibility push(hidden)


/* day_tokens and month_tokens are ceilings: never below what was used */

typedef struct {
    u_char                    name[NGX_HTTP_CLAWD_NAME_LEN];
    size_t                    name_len;
    ngx_http_clawd_usage_t    usage;
} ngx_http_clawd_state_user_t;


typedef struct {
    /* the last clock minute in which anything may have been admitted that the
       users' minute counts do not show; -1: they are exact */
    int64_t                       minute;

    ngx_uint_t                    nusers;
    ngx_http_clawd_state_user_t  *users;    /* by malloc(), or the caller's */
} ngx_http_clawd_state_t;


/*
 * Replaces the file: writes path.tmp beside it, syncs it, renames it, syncs
 * the folder, which takes as long as the disk does.  path is null-terminated.
 * NGX_OK; or NGX_ERROR with errno and *what, static text such as "open" or
 * "rename", telling what failed; the old file is as it was.
 */
ngx_int_t ngx_http_clawd_state_write(ngx_str_t *path,
    ngx_http_clawd_state_t *state, const char **what);

/*
 * Removes what a writer that died has left beside the file: the workers can't,
 * when that was the master and it is another user's.
 */
void ngx_http_clawd_state_clean(ngx_str_t *path);

/*
 * Reads the file.  NGX_OK, users being allocated by malloc(), to be freed by
 * the caller; NGX_DECLINED when there is none; NGX_ERROR with one logged
 * sentence (EMERG) when it can't be read or is no such file: a ledger that is
 * lost must not pass for an empty one.
 */
ngx_int_t ngx_http_clawd_state_read(ngx_str_t *path,
    ngx_http_clawd_state_t *state, ngx_log_t *log);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_STATE_H_INCLUDED_ */
