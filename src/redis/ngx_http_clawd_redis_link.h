/*
 * Copyright (C) clawd authors
 *
 * The inside of the link: its state, and the commands that wait for replies.
 */

#ifndef _NGX_HTTP_CLAWD_REDIS_LINK_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REDIS_LINK_H_INCLUDED_


#include "ngx_http_clawd_redis_conn.h"
#include "ngx_http_clawd_redis_shared.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_REDIS_SHA_LEN     40     /* in hex */
#define NGX_HTTP_CLAWD_REDIS_RUN_ID_LEN  64
#define NGX_HTTP_CLAWD_REDIS_PENDING     4096   /* commands at most */


/*
 *   CLOSED --> CONNECTING --> HELLO --> READY
 *     ^            |            |         |
 *     +------------+------------+---------+     retry: a timer, in CLOSED
 */

typedef enum {
    NGX_HTTP_CLAWD_REDIS_CLOSED = 0,
    NGX_HTTP_CLAWD_REDIS_CONNECTING,
    NGX_HTTP_CLAWD_REDIS_HELLO,
    NGX_HTTP_CLAWD_REDIS_READY
} ngx_http_clawd_redis_state_e;


typedef struct {
    ngx_str_t                       sha;
    u_char                          hex[NGX_HTTP_CLAWD_REDIS_SHA_LEN];
    ngx_http_clawd_redis_cmd_t      load;
    ngx_http_clawd_redis_cmd_t      exists;
    unsigned                        loading:1;   /* load waits for a reply */
} ngx_http_clawd_redis_script_t;


struct ngx_http_clawd_redis_s {
    ngx_http_clawd_redis_conn_t     conn;
    ngx_http_clawd_redis_state_e    state;

    ngx_http_clawd_redis_conf_t    *conf;
    ngx_http_clawd_redis_shared_t  *shared;
    ngx_log_t                      *log;

    void                          (*up)(void *data);
    void                           *data;

    ngx_queue_t                     fifo;        /* of commands, as sent */
    ngx_uint_t                      pending;
    ngx_uint_t                      users;       /* not the link's own */
    ngx_event_t                     timer;       /* of the head's deadline */
    ngx_event_t                     retry;
    ngx_uint_t                      attempts;    /* without a use, in a row */
    ngx_msec_t                      since;       /* it is ready */
    ngx_msec_t                      replica_at;  /* writing was refused */

    /* the greeting */
    ngx_uint_t                      steps;       /* without a reply yet */
    ngx_http_clawd_redis_result_e   fault;
    ngx_http_clawd_redis_cmd_t      auth;
    ngx_http_clawd_redis_cmd_t      select;
    ngx_http_clawd_redis_cmd_t      info;
    ngx_http_clawd_redis_cmd_t      time;
    ngx_http_clawd_redis_cmd_t      ping;
    ngx_http_clawd_redis_script_t   scripts[NGX_HTTP_CLAWD_REDIS_SCRIPTS];

    ngx_str_t                       run_id;
    u_char                          run_id_buf[NGX_HTTP_CLAWD_REDIS_RUN_ID_LEN];

    /* the server's clock minus ngx_current_msec, by the quickest reply */
    int64_t                         offset;      /* microseconds */
    ngx_msec_t                      offset_rtt;
    ngx_msec_t                      offset_at;
    unsigned                        offset_known:1;
    unsigned                        replica:1;   /* replica_at is valid */
    unsigned                        pinging:1;   /* ping waits for a reply */
};


/* Queues a command of the link's own, whatever its state. */
ngx_int_t ngx_http_clawd_redis_own(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv);

/*
 * The greeting.  begin() sends it; when all of it was answered well, ready()
 * is called, and else link->fault is set, with conn.what.
 */
ngx_int_t ngx_http_clawd_redis_hello_init(ngx_http_clawd_redis_t *link);
ngx_int_t ngx_http_clawd_redis_hello_begin(ngx_http_clawd_redis_t *link);
ngx_int_t ngx_http_clawd_redis_hello_load(ngx_http_clawd_redis_t *link,
    ngx_uint_t i);
void ngx_http_clawd_redis_hello_ping(ngx_http_clawd_redis_t *link);
void ngx_http_clawd_redis_hello_end(ngx_http_clawd_redis_t *link);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REDIS_LINK_H_INCLUDED_ */
