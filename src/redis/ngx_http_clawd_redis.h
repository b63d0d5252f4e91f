/*
 * Copyright (C) clawd authors
 *
 * The link to Redis: one pipelined connection of each worker, driven by
 * NGINX's events.  It knows nothing of requests, users or quotas.
 */

#ifndef _NGX_HTTP_CLAWD_REDIS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REDIS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_resp.h"
#include "ngx_http_clawd_zone.h"
#include "ngx_http_clawd_histogram.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_REDIS_SCRIPTS  8     /* at most */
#define NGX_HTTP_CLAWD_REDIS_PLACE    3     /* in the list of areas */


/* what to do with requests while Redis does not answer */

typedef enum {
    NGX_HTTP_CLAWD_DOWN_DENY = 0,
    NGX_HTTP_CLAWD_DOWN_LOCAL,
    NGX_HTTP_CLAWD_DOWN_OPEN
} ngx_http_clawd_down_e;


/* class of clawdbot_redis_errors_total, and a command's result */

typedef enum {
    NGX_HTTP_CLAWD_REDIS_OK = 0,
    NGX_HTTP_CLAWD_REDIS_CONNECT,      /* refused, reset, closed, TLS failed */
    NGX_HTTP_CLAWD_REDIS_TIMEOUT,
    NGX_HTTP_CLAWD_REDIS_PROTOCOL,     /* no RESP2 within bounds, or an
                                          unsolicited reply */
    NGX_HTTP_CLAWD_REDIS_AUTH,         /* NOAUTH WRONGPASS NOPERM, AUTH's ERR */
    NGX_HTTP_CLAWD_REDIS_LOADING,      /* LOADING BUSY MASTERDOWN TRYAGAIN
                                          CLUSTERDOWN MISCONF NOREPLICAS… */
    NGX_HTTP_CLAWD_REDIS_READONLY,
    NGX_HTTP_CLAWD_REDIS_OOM,
    NGX_HTTP_CLAWD_REDIS_NOSCRIPT,     /* again after the script was loaded */
    NGX_HTTP_CLAWD_REDIS_MOVED,        /* MOVED ASK CROSSSLOT: a cluster */
    NGX_HTTP_CLAWD_REDIS_WRONGTYPE,    /* a key is not of the type it should */
    NGX_HTTP_CLAWD_REDIS_ERROR,        /* any other error reply */
    NGX_HTTP_CLAWD_REDIS_RESULTS
} ngx_http_clawd_redis_result_e;

extern ngx_str_t  ngx_http_clawd_redis_classes[NGX_HTTP_CLAWD_REDIS_RESULTS];


/* of clawd_redis, made when the configuration is read */

typedef struct {
    ngx_addr_t              *addrs;
    ngx_uint_t               naddrs;
    ngx_str_t                name;         /* host:port or the socket's path,
                                              for messages; no secret */
    ngx_str_t                user;         /* AUTH's; empty: none */
    ngx_str_t                password;
    ngx_int_t                db;
    ngx_msec_t               timeout;      /* of connecting, and of a command */
    ngx_http_clawd_down_e    on_down;
    ngx_ssl_t               *ssl;          /* NULL: no TLS */
    ngx_str_t                ssl_name;     /* SNI, and verified */
    ngx_uint_t               ssl_verify;
    ngx_str_t               *scripts;      /* what eval() runs, by number */
    ngx_uint_t               nscripts;
} ngx_http_clawd_redis_conf_t;


typedef struct ngx_http_clawd_redis_s  ngx_http_clawd_redis_t;
typedef struct ngx_http_clawd_redis_cmd_s  ngx_http_clawd_redis_cmd_t;


/*
 * A command, in memory of the caller's that must live until handler was
 * called.  The handler is called once, with result and reply set, never from
 * within send() or eval(); it may free the command and send others.
 */

struct ngx_http_clawd_redis_cmd_s {
    /* set by the caller */
    void                    (*handler)(ngx_http_clawd_redis_cmd_t *cmd);
    void                     *data;

    /* for the handler; reply is NULL unless result is REDIS_OK */
    ngx_http_clawd_redis_result_e  result;
    ngx_http_clawd_resp_t    *reply;

    /* private */
    ngx_queue_t               queue;
    ngx_msec_t                sent;
    ngx_msec_t                deadline;
    uint64_t                  stamp;       /* microseconds, for the latency */
    u_char                   *bytes;       /* to be sent; owned by the link */
    size_t                    len;
    ngx_int_t                 script;      /* -1: none */
    unsigned                  again:1;
    unsigned                  own:1;       /* the link's */
};


/* shared by all workers, in the zone; counters are atomics */

typedef struct {
    ngx_atomic_t                up;        /* 1: the last word was good */
    ngx_atomic_t                failures;  /* in a row */
    ngx_atomic_t                retry_at;  /* ngx_current_msec; no attempt
                                              until then */
    ngx_atomic_t                probe;     /* pid of who may try, or 0 */
    ngx_atomic_t                probe_at;
    ngx_atomic_t                bad_at;    /* the last word that was not good;
                                              0: none ever */
    ngx_atomic_t                told;      /* its class, as logged; 0: good */
    ngx_atomic_t                told_at;
    ngx_atomic_t                tracker;   /* pid of who subscribes, or 0 */
    ngx_atomic_t                errors[NGX_HTTP_CLAWD_REDIS_RESULTS];
    ngx_http_clawd_histogram_t  latency;   /* of commands; SCALE_FINE */
} ngx_http_clawd_redis_shared_t;

extern ngx_http_clawd_area_t  ngx_http_clawd_redis_area;

ngx_http_clawd_redis_shared_t *ngx_http_clawd_redis_shared(
    ngx_http_clawd_zone_t *zone);


/*
 * Reads the arguments of clawd_redis (cf->args) into *conf:
 *
 *     redis://[user[:password]@]host[:port][/db]   rediss://… for TLS
 *     unix:/path[/db is an argument: db=N]
 *     user=NAME  password=TEXT|env:NAME|file:PATH  db=N  timeout=TIME
 *     on_down=deny|local|open  ca=FILE  verify=off  name=HOST
 *
 * NGX_CONF_OK, or NGX_CONF_ERROR after a message that names the cure.  The
 * password is blanked in the arguments.
 */
char *ngx_http_clawd_redis_conf(ngx_conf_t *cf,
    ngx_http_clawd_redis_conf_t *conf);

/*
 * Makes the link of this process, from init_process, and begins to connect.
 * up(data) is called whenever the link has become ready.  NULL on allocation
 * failure.
 */
ngx_http_clawd_redis_t *ngx_http_clawd_redis_create(ngx_cycle_t *cycle,
    ngx_http_clawd_redis_conf_t *conf, ngx_http_clawd_zone_t *zone,
    void (*up)(void *data), void *data);

/*
 * Ends it, from exit_process: what was sent goes out if it can without waiting,
 * and handlers of what is pending are called.
 */
void ngx_http_clawd_redis_destroy(ngx_http_clawd_redis_t *link);

/* Whether a command sent now would go out: 1 or 0 (not ready, breaker open) */
ngx_uint_t ngx_http_clawd_redis_ready(ngx_http_clawd_redis_t *link);

/*
 * Whether a link that is not ready is about to be: it connects, and nothing is
 * known against the server.  A new worker's first requests then better wait.
 */
ngx_uint_t ngx_http_clawd_redis_soon(ngx_http_clawd_redis_t *link);

/* Commands without an answer yet. */
ngx_uint_t ngx_http_clawd_redis_pending(ngx_http_clawd_redis_t *link);

/*
 * The server's run id, empty while unknown; and its clock: microseconds since
 * 1970 as far as a deadline needs it, 0 while unknown.  clock() is told by the
 * caller of a reply that carries the time; sent is cmd->sent.
 */
ngx_str_t *ngx_http_clawd_redis_run_id(ngx_http_clawd_redis_t *link);
int64_t ngx_http_clawd_redis_now(ngx_http_clawd_redis_t *link);
void ngx_http_clawd_redis_clock(ngx_http_clawd_redis_t *link,
    ngx_msec_t sent, int64_t now);

/*
 * Sends a command of argc arguments.  What one turn of the event loop sends
 * goes out in one write.  NGX_OK: the handler will be called.  NGX_DECLINED:
 * it will not, since the link is not ready or too much is pending.  NGX_ERROR
 * likewise, on allocation failure or with more than 256 arguments in all.
 */
ngx_int_t ngx_http_clawd_redis_send(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv);

/*
 * The same, EVALSHA of script number i with keys and arguments; a server that
 * does not know the script is told, and asked once more.
 */
ngx_int_t ngx_http_clawd_redis_eval(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t i, ngx_uint_t nkeys,
    ngx_str_t *keys, ngx_uint_t nargs, ngx_str_t *args);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REDIS_H_INCLUDED_ */
