/*
 * Copyright (C) clawd authors
 *
 * A reservation, from the moment it is asked for until what was used is
 * settled with the store.
 */

#ifndef _NGX_HTTP_CLAWD_FLIGHT_H_INCLUDED_
#define _NGX_HTTP_CLAWD_FLIGHT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_quota.h"


#pragma GCC visibility push(hidden)


/* lower case hex: the zone's boot id, the process's slot and claim, a count */
#define NGX_HTTP_CLAWD_RID_HEX  32


/* what a store needs to settle; plain data: it is kept in files, too */

typedef struct {
    u_char                    rid[NGX_HTTP_CLAWD_RID_HEX];
    u_char                    user[NGX_HTTP_CLAWD_NAME_LEN];
    uint32_t                  user_len;
    int32_t                   offset;       /* of the zone, seconds */
    int64_t                   est;
    int64_t                   actual;
    int64_t                   tpm;          /* limit, or UNLIMITED */
    ngx_http_clawd_windows_t  windows;
    uint64_t                  offline;      /* 1: the store has not seen the
                                               reservation */
} ngx_http_clawd_settlement_t;


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_FLIGHT_H_INCLUDED_ */
