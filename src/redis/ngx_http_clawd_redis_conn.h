/*
 * Copyright (C) clawd authors
 *
 * One connection to Redis: socket, TLS, buffers, and the bounds of what it
 * reads.  Its owner knows which reply belongs to what.
 */

#ifndef _NGX_HTTP_CLAWD_REDIS_CONN_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REDIS_CONN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include "ngx_http_clawd_redis.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_REDIS_ARGS  256      /* of a command, at most */


typedef struct ngx_http_clawd_redis_conn_s  ngx_http_clawd_redis_conn_t;

struct ngx_http_clawd_redis_conn_s {
    /* set by the owner before init() */
    ngx_http_clawd_redis_conf_t    *conf;
    ngx_log_t                      *log;
    void                           *data;

    /* it can be written to: NGX_OK, or NGX_ERROR to give up */
    ngx_int_t                     (*connected)(
                                      ngx_http_clawd_redis_conn_t *conn);

    /*
     * A reply, gone after the return.  Another result than REDIS_OK ends the
     * connection; what says why.  Must not close or open it itself.
     */
    ngx_http_clawd_redis_result_e (*reply)(ngx_http_clawd_redis_conn_t *conn,
                                      ngx_http_clawd_resp_t *resp);

    /* it is closed; may be called from within open() and fail() */
    void                          (*failed)(ngx_http_clawd_redis_conn_t *conn,
                                      ngx_http_clawd_redis_result_e result);

    /* of the last failure, for messages */
    const char                     *what;
    ngx_err_t                       err;
    unsigned                        local:1;  /* no connection, descriptor */

    /* of the addresses, that of the next open(): the owner moves it on */
    ngx_uint_t                      addr;

    /* private */
    ngx_peer_connection_t           peer;
    ngx_log_t                       quiet;
    ngx_event_t                     timer;    /* of connecting, with TLS */
    ngx_event_t                     flush;

    u_char                         *in;
    size_t                          in_size;
    size_t                          in_pos;
    size_t                          in_last;
    size_t                          need;     /* bytes that a reply needs */

    u_char                         *out;
    size_t                          out_size;
    size_t                          out_pos;
    size_t                          out_last;

    ngx_http_clawd_resp_t           resp;
    unsigned                        open:1;
};


void ngx_http_clawd_redis_conn_init(ngx_http_clawd_redis_conn_t *conn);

/* Begins to connect. */
void ngx_http_clawd_redis_conn_open(ngx_http_clawd_redis_conn_t *conn);

/* Closes and says nothing; closes and calls failed(). */
void ngx_http_clawd_redis_conn_close(ngx_http_clawd_redis_conn_t *conn);
void ngx_http_clawd_redis_conn_fail(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result, const char *what, ngx_err_t err);

/*
 * Reads what has come by now.  A timer asks before it judges: after a stall of
 * this process, answers may be there that were in time.
 */
void ngx_http_clawd_redis_conn_poll(ngx_http_clawd_redis_conn_t *conn);

/*
 * Appends to what goes out in this turn of the event loop, at its end or when
 * it is much.  NGX_OK, or NGX_ERROR on allocation failure with nothing
 * appended.
 */
ngx_int_t ngx_http_clawd_redis_conn_push(ngx_http_clawd_redis_conn_t *conn,
    u_char *bytes, size_t len);

/*
 * Sends what goes without waiting.  What goes wrong does so again at the end of
 * the turn, where it may be told.
 */
void ngx_http_clawd_redis_conn_early(ngx_http_clawd_redis_conn_t *conn);

/* A command's bytes, to be given to free(); NULL: no memory, or too long. */
u_char *ngx_http_clawd_redis_format(ngx_uint_t argc, ngx_str_t *argv,
    size_t *len);
void ngx_http_clawd_redis_format_free(u_char *bytes);

/*
 * The same for a script's many arguments, for which hiredis, which formats all
 * else, needs the time of a whole request.  For ngx_free().
 */
u_char *ngx_http_clawd_redis_frame(ngx_uint_t argc, ngx_str_t *argv,
    size_t *len, ngx_log_t *log);

/* format() and push(). */
ngx_int_t ngx_http_clawd_redis_conn_command(ngx_http_clawd_redis_conn_t *conn,
    ngx_uint_t argc, ngx_str_t *argv);

/* AUTH: NGX_OK, NGX_DECLINED when there is nothing to say, NGX_ERROR. */
ngx_int_t ngx_http_clawd_redis_conn_auth(ngx_http_clawd_redis_conn_t *conn);

/* What a reply that should be "+OK" is: REDIS_OK, its class, or PROTOCOL. */
ngx_http_clawd_redis_result_e ngx_http_clawd_redis_status(
    ngx_http_clawd_resp_t *resp);

/* The transport is there: TLS is next, or connected().  For _tls.c alone. */
void ngx_http_clawd_redis_conn_ready(ngx_http_clawd_redis_conn_t *conn);

/*
 * TLS of conf, the CA's file being empty for those of the system; NGX_OK, or
 * NGX_ERROR after a message.
 */
ngx_int_t ngx_http_clawd_redis_tls_conf(ngx_conf_t *cf,
    ngx_http_clawd_redis_conf_t *conf, ngx_str_t *ca);
void ngx_http_clawd_redis_tls_start(ngx_http_clawd_redis_conn_t *conn);
void ngx_http_clawd_redis_tls_close(ngx_connection_t *c);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REDIS_CONN_H_INCLUDED_ */
