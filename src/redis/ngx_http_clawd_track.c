/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_track.h"
#include "ngx_http_clawd_redis_conn.h"
#include "ngx_http_clawd_redis_shared.h"
#include "ngx_http_clawd_redis_class.h"


#define NGX_HTTP_CLAWD_TRACK_LEASE     200
#define NGX_HTTP_CLAWD_TRACK_PING      250
#define NGX_HTTP_CLAWD_TRACK_SILENCE   500
#define NGX_HTTP_CLAWD_TRACK_ALIVE     750
#define NGX_HTTP_CLAWD_TRACK_REFUSED   30000
#define NGX_HTTP_CLAWD_TRACK_LASTED    1000
#define NGX_HTTP_CLAWD_TRACK_PREFIXES  16

#define ngx_http_clawd_track_channel   "__redis__:invalidate"


/*
 * One connection does it all: it tells the server to send what changes to its
 * own id, and then subscribes.  While it lives, both do.
 */

typedef enum {
    NGX_HTTP_CLAWD_TRACK_CLOSED = 0,
    NGX_HTTP_CLAWD_TRACK_CONNECTING,
    NGX_HTTP_CLAWD_TRACK_AUTH,           /* …was sent; so are the next ones */
    NGX_HTTP_CLAWD_TRACK_ID,
    NGX_HTTP_CLAWD_TRACK_TRACKING,
    NGX_HTTP_CLAWD_TRACK_SUBSCRIBE,
    NGX_HTTP_CLAWD_TRACK_TOLD
} ngx_http_clawd_track_state_e;


struct ngx_http_clawd_track_s {
    ngx_http_clawd_redis_conn_t       conn;
    ngx_http_clawd_track_state_e      state;

    ngx_http_clawd_redis_shared_t    *shared;
    ngx_str_t                        *prefixes;
    ngx_http_clawd_track_handlers_t   handlers;
    ngx_log_t                        *log;

    ngx_event_t                       lease;     /* and the time to retry */
    ngx_event_t                       watch;     /* of silence, and pings */
    ngx_msec_t                        pinged;
    ngx_msec_t                        retry_at;
    ngx_uint_t                        attempts;
    ngx_msec_t                        since;     /* it is told */
    unsigned                          waiting:1; /* for a pong */
    unsigned                          refused:1; /* it was said so */
    unsigned                          logged:1;
};


static void ngx_http_clawd_track_lease(ngx_event_t *ev);
static void ngx_http_clawd_track_leave(ngx_http_clawd_track_t *track);
static ngx_int_t ngx_http_clawd_track_connected(
    ngx_http_clawd_redis_conn_t *conn);
static ngx_int_t ngx_http_clawd_track_send(ngx_http_clawd_track_t *track,
    const char *first, const char *second);
static ngx_int_t ngx_http_clawd_track_send_tracking(
    ngx_http_clawd_track_t *track, int64_t id);
static ngx_http_clawd_redis_result_e ngx_http_clawd_track_reply(
    ngx_http_clawd_redis_conn_t *conn, ngx_http_clawd_resp_t *resp);
static ngx_int_t ngx_http_clawd_track_greet(ngx_http_clawd_track_t *track,
    ngx_http_clawd_resp_t *resp);
static ngx_int_t ngx_http_clawd_track_subscribed(
    ngx_http_clawd_track_t *track, ngx_http_clawd_resp_t *resp);
static ngx_int_t ngx_http_clawd_track_message(ngx_http_clawd_track_t *track,
    ngx_http_clawd_resp_t *resp);
static ngx_uint_t ngx_http_clawd_track_is(ngx_http_clawd_resp_item_t *item,
    const char *text);
static void ngx_http_clawd_track_watch(ngx_event_t *ev);
static void ngx_http_clawd_track_failed(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result);


ngx_http_clawd_track_t *
ngx_http_clawd_track_create(ngx_cycle_t *cycle,
    ngx_http_clawd_redis_conf_t *conf, ngx_http_clawd_zone_t *zone,
    ngx_str_t *prefixes, ngx_http_clawd_track_handlers_t *handlers)
{
    ngx_http_clawd_track_t  *track;

    track = ngx_pcalloc(cycle->pool, sizeof(ngx_http_clawd_track_t));
    if (track == NULL) {
        return NULL;
    }

    track->shared = ngx_http_clawd_redis_shared(zone);
    track->prefixes = prefixes;
    track->handlers = *handlers;
    track->log = cycle->log;

    track->conn.conf = conf;
    track->conn.log = cycle->log;
    track->conn.data = track;
    track->conn.connected = ngx_http_clawd_track_connected;
    track->conn.reply = ngx_http_clawd_track_reply;
    track->conn.failed = ngx_http_clawd_track_failed;

    ngx_http_clawd_redis_conn_init(&track->conn);

    track->lease.handler = ngx_http_clawd_track_lease;
    track->lease.data = track;
    track->lease.log = cycle->log;
    track->lease.cancelable = 1;

    track->watch.handler = ngx_http_clawd_track_watch;
    track->watch.data = track;
    track->watch.log = cycle->log;
    track->watch.cancelable = 1;

    track->retry_at = ngx_current_msec;

    ngx_http_clawd_track_lease(&track->lease);

    return track;
}


void
ngx_http_clawd_track_destroy(ngx_http_clawd_track_t *track)
{
    if (track->lease.timer_set) {
        ngx_del_timer(&track->lease);
    }

    ngx_http_clawd_track_leave(track);
}


/* Each worker looks after the lease; who holds it, after the connection. */

static void
ngx_http_clawd_track_lease(ngx_event_t *ev)
{
    ngx_msec_int_t           left;
    ngx_http_clawd_track_t  *track;

    track = ev->data;

    /* the workers of the new configuration go on */

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        ngx_http_clawd_track_leave(track);
        return;
    }

    ngx_add_timer(ev, NGX_HTTP_CLAWD_TRACK_LEASE);

    if (track->state != NGX_HTTP_CLAWD_TRACK_CLOSED
        || ngx_http_clawd_redis_office(&track->shared->tracker) != NGX_OK)
    {
        return;
    }

    left = (ngx_msec_int_t) (track->retry_at - ngx_current_msec);

    if (left > 0) {
        if (left < NGX_HTTP_CLAWD_TRACK_LEASE) {
            ngx_del_timer(ev);
            ngx_add_timer(ev, (ngx_msec_t) left);
        }

        return;
    }

    track->state = NGX_HTTP_CLAWD_TRACK_CONNECTING;

    ngx_http_clawd_redis_conn_open(&track->conn);
}


/* In this order: the next holder's told() comes after our untold(). */

static void
ngx_http_clawd_track_leave(ngx_http_clawd_track_t *track)
{
    ngx_http_clawd_track_state_e  state;

    state = track->state;
    track->state = NGX_HTTP_CLAWD_TRACK_CLOSED;

    ngx_http_clawd_redis_conn_close(&track->conn);

    if (track->watch.timer_set) {
        ngx_del_timer(&track->watch);
    }

    if (state == NGX_HTTP_CLAWD_TRACK_TOLD) {
        track->handlers.untold(track->handlers.data);
    }

    (void) ngx_atomic_cmp_set(&track->shared->tracker, ngx_pid, 0);
}


static ngx_int_t
ngx_http_clawd_track_connected(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_int_t                rc;
    ngx_http_clawd_track_t  *track;

    track = conn->data;
    track->waiting = 0;
    track->refused = 0;

    ngx_add_timer(&track->watch, ngx_max(conn->conf->timeout,
                                         NGX_HTTP_CLAWD_TRACK_SILENCE));

    rc = ngx_http_clawd_redis_conn_auth(conn);

    if (rc != NGX_DECLINED) {
        track->state = NGX_HTTP_CLAWD_TRACK_AUTH;
        return rc;
    }

    track->state = NGX_HTTP_CLAWD_TRACK_ID;

    return ngx_http_clawd_track_send(track, "CLIENT", "ID");
}


static ngx_int_t
ngx_http_clawd_track_send(ngx_http_clawd_track_t *track, const char *first,
    const char *second)
{
    ngx_str_t  argv[2];

    argv[0].data = (u_char *) first;
    argv[0].len = ngx_strlen(first);
    argv[1].data = (u_char *) second;
    argv[1].len = second ? ngx_strlen(second) : 0;

    return ngx_http_clawd_redis_conn_command(&track->conn, second ? 2 : 1,
                                             argv);
}


static ngx_int_t
ngx_http_clawd_track_send_tracking(ngx_http_clawd_track_t *track, int64_t id)
{
    u_char      number[NGX_INT64_LEN];
    ngx_str_t  *prefix, argv[6 + 2 * NGX_HTTP_CLAWD_TRACK_PREFIXES];
    ngx_uint_t  n;

    ngx_str_set(&argv[0], "CLIENT");
    ngx_str_set(&argv[1], "TRACKING");
    ngx_str_set(&argv[2], "ON");
    ngx_str_set(&argv[3], "REDIRECT");
    argv[4].data = number;
    argv[4].len = ngx_sprintf(number, "%L", id) - number;
    ngx_str_set(&argv[5], "BCAST");

    n = 6;

    for (prefix = track->prefixes; prefix->len; prefix++) {

        if (n + 2 > sizeof(argv) / sizeof(argv[0])) {
            return NGX_ERROR;
        }

        ngx_str_set(&argv[n], "PREFIX");
        argv[n + 1] = *prefix;
        n += 2;
    }

    return ngx_http_clawd_redis_conn_command(&track->conn, n, argv);
}


static ngx_http_clawd_redis_result_e
ngx_http_clawd_track_reply(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_resp_t *resp)
{
    ngx_int_t                       rc;
    ngx_http_clawd_track_t         *track;
    ngx_http_clawd_redis_result_e   result;

    track = conn->data;

    if (resp->items[0].type == NGX_HTTP_CLAWD_RESP_ERROR) {
        result = ngx_http_clawd_redis_class(&resp->items[0].text);

        /* not permitted, or an old server that does not know of it */

        track->refused = (result == NGX_HTTP_CLAWD_REDIS_AUTH
                          || result == NGX_HTTP_CLAWD_REDIS_ERROR);
        conn->what = "client tracking was refused";

        return result;
    }

    if (track->state == NGX_HTTP_CLAWD_TRACK_TOLD) {
        rc = ngx_http_clawd_track_message(track, resp);

    } else {
        rc = ngx_http_clawd_track_greet(track, resp);
    }

    if (rc == NGX_OK) {
        return NGX_HTTP_CLAWD_REDIS_OK;
    }

    if (rc == NGX_DECLINED) {
        conn->what = "a reply came that fits no question";
        return NGX_HTTP_CLAWD_REDIS_PROTOCOL;
    }

    conn->what = "no memory";

    return NGX_HTTP_CLAWD_REDIS_CONNECT;
}


/* NGX_DECLINED: not the reply that was due; NGX_ERROR: no memory */

static ngx_int_t
ngx_http_clawd_track_greet(ngx_http_clawd_track_t *track,
    ngx_http_clawd_resp_t *resp)
{
    ngx_http_clawd_resp_item_t  *item;

    item = &resp->items[0];

    switch (track->state) {

    case NGX_HTTP_CLAWD_TRACK_AUTH:
        if (ngx_http_clawd_redis_status(resp) != NGX_HTTP_CLAWD_REDIS_OK) {
            return NGX_DECLINED;
        }

        track->state = NGX_HTTP_CLAWD_TRACK_ID;
        return ngx_http_clawd_track_send(track, "CLIENT", "ID");

    case NGX_HTTP_CLAWD_TRACK_ID:
        if (item->type != NGX_HTTP_CLAWD_RESP_INTEGER || item->integer <= 0) {
            return NGX_DECLINED;
        }

        track->state = NGX_HTTP_CLAWD_TRACK_TRACKING;
        return ngx_http_clawd_track_send_tracking(track, item->integer);

    case NGX_HTTP_CLAWD_TRACK_TRACKING:
        if (ngx_http_clawd_redis_status(resp) != NGX_HTTP_CLAWD_REDIS_OK) {
            return NGX_DECLINED;
        }

        track->state = NGX_HTTP_CLAWD_TRACK_SUBSCRIBE;
        return ngx_http_clawd_track_send(track, "SUBSCRIBE",
                                         ngx_http_clawd_track_channel);

    default: /* NGX_HTTP_CLAWD_TRACK_SUBSCRIBE */
        return ngx_http_clawd_track_subscribed(track, resp);
    }
}


static ngx_int_t
ngx_http_clawd_track_subscribed(ngx_http_clawd_track_t *track,
    ngx_http_clawd_resp_t *resp)
{
    if (resp->nitems != 4
        || resp->items[0].type != NGX_HTTP_CLAWD_RESP_ARRAY
        || !ngx_http_clawd_track_is(&resp->items[1], "subscribe")
        || !ngx_http_clawd_track_is(&resp->items[2],
                                    ngx_http_clawd_track_channel)
        || resp->items[3].type != NGX_HTTP_CLAWD_RESP_INTEGER)
    {
        return NGX_DECLINED;
    }

    track->state = NGX_HTTP_CLAWD_TRACK_TOLD;
    track->since = ngx_current_msec;

    if (track->logged) {
        track->logged = 0;
        ngx_log_error(NGX_LOG_NOTICE, track->log, 0,
                      "Redis \"%V\" tells of changes again",
                      &track->conn.conf->name);
    }

    track->handlers.told(track->handlers.data);

    if (track->watch.timer_set) {
        ngx_del_timer(&track->watch);
    }

    ngx_add_timer(&track->watch, 1);

    return NGX_OK;
}


/* a pong, or keys that have changed */

static ngx_int_t
ngx_http_clawd_track_message(ngx_http_clawd_track_t *track,
    ngx_http_clawd_resp_t *resp)
{
    ngx_uint_t                   i;
    ngx_http_clawd_resp_item_t  *items;

    items = resp->items;

    if (items[0].type != NGX_HTTP_CLAWD_RESP_ARRAY) {
        return NGX_DECLINED;
    }

    if (items[0].integer == 2 && resp->nitems == 3) {

        if (!track->waiting || !ngx_http_clawd_track_is(&items[1], "pong")) {
            return NGX_DECLINED;
        }

        /* all that had changed when it was sent has come before its answer */

        track->waiting = 0;
        track->handlers.alive(track->handlers.data, track->pinged,
                              NGX_HTTP_CLAWD_TRACK_ALIVE);
        return NGX_OK;
    }

    if (items[0].integer != 3 || resp->nitems < 4
        || !ngx_http_clawd_track_is(&items[1], "message")
        || !ngx_http_clawd_track_is(&items[2], ngx_http_clawd_track_channel))
    {
        return NGX_DECLINED;
    }

    if (items[3].type == NGX_HTTP_CLAWD_RESP_NIL) {
        track->handlers.changed(track->handlers.data, NULL);
        return NGX_OK;
    }

    if (items[3].type != NGX_HTTP_CLAWD_RESP_ARRAY) {
        return NGX_DECLINED;
    }

    for (i = 4; i < resp->nitems; i++) {
        if (items[i].type != NGX_HTTP_CLAWD_RESP_BULK_STRING) {
            return NGX_DECLINED;
        }

        track->handlers.changed(track->handlers.data, &items[i].text);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_track_is(ngx_http_clawd_resp_item_t *item, const char *text)
{
    return item->type == NGX_HTTP_CLAWD_RESP_BULK_STRING
           && item->text.len == ngx_strlen(text)
           && ngx_memcmp(item->text.data, text, item->text.len) == 0;
}


static void
ngx_http_clawd_track_watch(ngx_event_t *ev)
{
    ngx_msec_t               since;
    ngx_http_clawd_track_t  *track;

    track = ev->data;

    ngx_http_clawd_redis_conn_poll(&track->conn);

    if (track->state == NGX_HTTP_CLAWD_TRACK_CLOSED || ev->timer_set) {
        return;
    }

    since = ngx_current_msec - track->pinged;

    if (track->state != NGX_HTTP_CLAWD_TRACK_TOLD
        || (track->waiting && since >= NGX_HTTP_CLAWD_TRACK_SILENCE))
    {
        ngx_http_clawd_redis_conn_fail(&track->conn,
                                       NGX_HTTP_CLAWD_REDIS_TIMEOUT,
                                       "no answer came in time", 0);
        return;
    }

    if (track->waiting) {
        ngx_add_timer(ev, NGX_HTTP_CLAWD_TRACK_SILENCE - since);
        return;
    }

    if (ngx_http_clawd_track_send(track, "PING", NULL) != NGX_OK) {
        ngx_http_clawd_redis_conn_fail(&track->conn,
                                       NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "no memory", 0);
        return;
    }

    track->waiting = 1;
    track->pinged = ngx_current_msec;

    ngx_add_timer(ev, NGX_HTTP_CLAWD_TRACK_PING);
}


static void
ngx_http_clawd_track_failed(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result)
{
    ngx_msec_t                     delay;
    ngx_http_clawd_track_t        *track;
    ngx_http_clawd_track_state_e   state;

    track = conn->data;
    state = track->state;

    track->state = NGX_HTTP_CLAWD_TRACK_CLOSED;

    if (track->watch.timer_set) {
        ngx_del_timer(&track->watch);
    }

    (void) ngx_atomic_fetch_add(&track->shared->errors[result], 1);

    if (state == NGX_HTTP_CLAWD_TRACK_TOLD) {

        /* where it served, it will do so again */

        if (ngx_current_msec - track->since >= NGX_HTTP_CLAWD_TRACK_LASTED) {
            track->attempts = 0;

        } else {
            conn->addr++;
        }

        delay = ngx_http_clawd_redis_backoff(track->attempts++);
        track->handlers.untold(track->handlers.data);

    } else {
        delay = ngx_http_clawd_redis_backoff(track->attempts++);
        conn->addr++;

        if (track->refused) {
            delay = NGX_HTTP_CLAWD_TRACK_REFUSED;
        }

        /* while Redis is down, the link says so, which may not be up yet */

        if (!track->logged
            && (track->shared->up
                || (track->refused && track->shared->bad_at == 0)))
        {
            track->logged = 1;
            ngx_log_error(NGX_LOG_ERR, track->log, conn->err,
                          "Redis \"%V\" does not tell of changes (%V): %s; "
                          "what it holds is read anew each second",
                          &conn->conf->name,
                          &ngx_http_clawd_redis_classes[result], conn->what);
        }
    }

    if (conn->local) {

        /* another process may do better */

        (void) ngx_atomic_cmp_set(&track->shared->tracker, ngx_pid, 0);
    }

    track->refused = 0;
    track->retry_at = ngx_current_msec + delay;

    if (track->lease.timer_set && delay < NGX_HTTP_CLAWD_TRACK_LEASE) {
        ngx_del_timer(&track->lease);
        ngx_add_timer(&track->lease, delay);
    }
}
