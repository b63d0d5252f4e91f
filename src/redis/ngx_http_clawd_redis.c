/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_link.h"
#include "ngx_http_clawd_redis_class.h"


#define NGX_HTTP_CLAWD_REDIS_WATCH_LOG  1000

/* a connection that is closed sooner has not been an idle one */
#define NGX_HTTP_CLAWD_REDIS_LASTED     1000

/* so long after a refusal to write, a server is taken for a replica */
#define NGX_HTTP_CLAWD_REDIS_REPLICA    10000


static void ngx_http_clawd_redis_retry(ngx_event_t *ev);
static ngx_int_t ngx_http_clawd_redis_connected(
    ngx_http_clawd_redis_conn_t *conn);
static ngx_http_clawd_redis_result_e ngx_http_clawd_redis_reply(
    ngx_http_clawd_redis_conn_t *conn, ngx_http_clawd_resp_t *resp);
static void ngx_http_clawd_redis_word(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_http_clawd_redis_result_e result);
static void ngx_http_clawd_redis_failed(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result);
static void ngx_http_clawd_redis_drain(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_result_e result);
static void ngx_http_clawd_redis_timeout(ngx_event_t *ev);
static ngx_int_t ngx_http_clawd_redis_put(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv);
static void ngx_http_clawd_redis_forget(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_enqueue(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_dequeue(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd);
static ngx_int_t ngx_http_clawd_redis_again(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd);
static uint64_t ngx_http_clawd_redis_stamp(void);


ngx_http_clawd_redis_t *
ngx_http_clawd_redis_create(ngx_cycle_t *cycle,
    ngx_http_clawd_redis_conf_t *conf, ngx_http_clawd_zone_t *zone,
    void (*up)(void *data), void *data)
{
    ngx_http_clawd_redis_t  *link;

    link = ngx_pcalloc(cycle->pool, sizeof(ngx_http_clawd_redis_t));
    if (link == NULL) {
        return NULL;
    }

    link->conf = conf;
    link->shared = ngx_http_clawd_redis_shared(zone);
    link->log = cycle->log;
    link->up = up;
    link->data = data;

    ngx_queue_init(&link->fifo);

    link->conn.conf = conf;
    link->conn.log = cycle->log;
    link->conn.data = link;
    link->conn.connected = ngx_http_clawd_redis_connected;
    link->conn.reply = ngx_http_clawd_redis_reply;
    link->conn.failed = ngx_http_clawd_redis_failed;

    ngx_http_clawd_redis_conn_init(&link->conn);

    link->timer.handler = ngx_http_clawd_redis_timeout;
    link->timer.data = link;
    link->timer.log = cycle->log;
    link->timer.cancelable = 1;

    link->retry.handler = ngx_http_clawd_redis_retry;
    link->retry.data = link;
    link->retry.log = cycle->log;
    link->retry.cancelable = 1;

    if (ngx_http_clawd_redis_hello_init(link) != NGX_OK) {
        return NULL;
    }

    ngx_http_clawd_redis_retry(&link->retry);

    return link;
}


void
ngx_http_clawd_redis_destroy(ngx_http_clawd_redis_t *link)
{
    link->state = NGX_HTTP_CLAWD_REDIS_CLOSED;

    ngx_http_clawd_redis_conn_early(&link->conn);
    ngx_http_clawd_redis_conn_close(&link->conn);
    ngx_http_clawd_redis_probe_end(link->shared);

    if (link->retry.timer_set) {
        ngx_del_timer(&link->retry);
    }

    ngx_http_clawd_redis_drain(link, NGX_HTTP_CLAWD_REDIS_CONNECT);
}


/* Connects when it may; or, being ready, has a late line for the log. */

static void
ngx_http_clawd_redis_retry(ngx_event_t *ev)
{
    ngx_msec_t               wait;
    ngx_http_clawd_redis_t  *link;

    link = ev->data;

    if (link->state == NGX_HTTP_CLAWD_REDIS_READY) {
        ngx_http_clawd_redis_good(link->shared, &link->conf->name, link->log);
        return;
    }

    if (link->state != NGX_HTTP_CLAWD_REDIS_CLOSED) {
        return;
    }

    if (ngx_http_clawd_redis_probe(link->shared, &wait) != NGX_OK) {
        ngx_add_timer(&link->retry, wait);
        return;
    }

    link->state = NGX_HTTP_CLAWD_REDIS_CONNECTING;

    ngx_http_clawd_redis_conn_open(&link->conn);
}


static ngx_int_t
ngx_http_clawd_redis_connected(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_http_clawd_redis_t  *link;

    link = conn->data;
    link->state = NGX_HTTP_CLAWD_REDIS_HELLO;

    return ngx_http_clawd_redis_hello_begin(link);
}


void
ngx_http_clawd_redis_hello_end(ngx_http_clawd_redis_t *link)
{
    link->state = NGX_HTTP_CLAWD_REDIS_READY;
    link->since = ngx_current_msec;

    ngx_http_clawd_redis_good(link->shared, &link->conf->name, link->log);

    /* the others connect when they see that it is up */

    ngx_http_clawd_redis_probe_end(link->shared);

    if (link->shared->told) {
        ngx_add_timer(&link->retry, NGX_HTTP_CLAWD_REDIS_WATCH_LOG);
    }

    if (link->up) {
        link->up(link->data);
    }
}


static ngx_http_clawd_redis_result_e
ngx_http_clawd_redis_reply(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_resp_t *resp)
{
    ngx_queue_t                    *q;
    ngx_http_clawd_redis_t         *link;
    ngx_http_clawd_redis_cmd_t     *cmd;
    ngx_http_clawd_redis_result_e   result;

    link = conn->data;

    if (ngx_queue_empty(&link->fifo)) {
        conn->what = "a reply came that nobody asked for";
        return NGX_HTTP_CLAWD_REDIS_PROTOCOL;
    }

    q = ngx_queue_head(&link->fifo);
    cmd = ngx_queue_data(q, ngx_http_clawd_redis_cmd_t, queue);

    result = NGX_HTTP_CLAWD_REDIS_OK;

    if (resp->items[0].type == NGX_HTTP_CLAWD_RESP_ERROR) {
        result = ngx_http_clawd_redis_class(&resp->items[0].text);
    }

    ngx_http_clawd_redis_dequeue(link, cmd);

    if (result == NGX_HTTP_CLAWD_REDIS_NOSCRIPT && cmd->script >= 0
        && !cmd->again && ngx_http_clawd_redis_again(link, cmd) == NGX_OK)
    {
        return NGX_HTTP_CLAWD_REDIS_OK;
    }

    ngx_http_clawd_redis_forget(cmd);

    if (link->state == NGX_HTTP_CLAWD_REDIS_READY) {
        ngx_http_clawd_redis_word(link, cmd, result);
    }

    cmd->result = result;
    cmd->reply = (result == NGX_HTTP_CLAWD_REDIS_OK) ? resp : NULL;

    /* the command may be gone afterwards */

    cmd->handler(cmd);

    if (link->state == NGX_HTTP_CLAWD_REDIS_HELLO) {

        /* said to each command, and so to the first that has another cure */

        if (resp->items[0].type == NGX_HTTP_CLAWD_RESP_ERROR
            && ngx_strncmp(resp->items[0].text.data, "NOAUTH", 6) == 0)
        {
            conn->what = "it wants a password";
            return NGX_HTTP_CLAWD_REDIS_AUTH;
        }

        return link->fault;
    }

    /* a replica: its master may be found at the next address, or the next
       connection */

    if (result == NGX_HTTP_CLAWD_REDIS_READONLY) {
        conn->what = "it is a replica that can't be written to";
        return result;
    }

    return NGX_HTTP_CLAWD_REDIS_OK;
}


/* What a command's result tells of the server. */

static void
ngx_http_clawd_redis_word(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_http_clawd_redis_result_e result)
{
    ngx_str_t  none = ngx_null_string;

    if (!cmd->own) {
        ngx_http_clawd_histogram_add(&link->shared->latency,
                                     NGX_HTTP_CLAWD_SCALE_FINE,
                                     ngx_http_clawd_redis_stamp() - cmd->stamp,
                                     &none, 0);
    }

    switch (result) {

    case NGX_HTTP_CLAWD_REDIS_OK:

        /* a greeting proves little, and what a replica reads as well */

        if (link->replica
            && ngx_current_msec - link->replica_at
               > NGX_HTTP_CLAWD_REDIS_REPLICA)
        {
            link->replica = 0;
        }

        if (!cmd->own && !link->replica) {
            link->attempts = 0;
        }

        ngx_http_clawd_redis_good(link->shared, &link->conf->name, link->log);
        break;

    case NGX_HTTP_CLAWD_REDIS_AUTH:
    case NGX_HTTP_CLAWD_REDIS_LOADING:
    case NGX_HTTP_CLAWD_REDIS_OOM:
    case NGX_HTTP_CLAWD_REDIS_MOVED:
        ngx_http_clawd_redis_bad(link->shared, result,
                                 "commands are refused", &link->conf->name,
                                 link->log, 0);
        break;

    case NGX_HTTP_CLAWD_REDIS_READONLY:
        /* counted when the connection is given up for it */
        break;

    default:
        (void) ngx_atomic_fetch_add(&link->shared->errors[result], 1);
        break;
    }
}


static void
ngx_http_clawd_redis_failed(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result)
{
    ngx_msec_t                     delay;
    ngx_uint_t                     idle;
    ngx_http_clawd_redis_t        *link;
    ngx_http_clawd_redis_state_e   state;

    link = conn->data;
    state = link->state;

    link->state = NGX_HTTP_CLAWD_REDIS_CLOSED;

    if (result == NGX_HTTP_CLAWD_REDIS_READONLY) {
        link->replica = 1;
        link->replica_at = ngx_current_msec;
    }

    /* servers close idle connections: no bad word, unless connecting fails */

    idle = (state == NGX_HTTP_CLAWD_REDIS_READY && link->pending == 0
            && result == NGX_HTTP_CLAWD_REDIS_CONNECT
            && ngx_current_msec - link->since >= NGX_HTTP_CLAWD_REDIS_LASTED);

    delay = ngx_http_clawd_redis_backoff(idle ? 0 : link->attempts++);

    /* where it served, it will do so again */

    if (!idle) {
        conn->addr++;
    }

    if (conn->local) {

        /* no word of Redis: NGINX says what is short; others may do better */

        (void) ngx_atomic_fetch_add(&link->shared->errors[result], 1);

        ngx_http_clawd_redis_probe_end(link->shared);

    } else {

        /*
         * The breaker is for silence.  A break of the connection is not yet a
         * failure to connect; and a server that refuses this connection serves
         * others, when it has as many as it may.
         */

        if (result == NGX_HTTP_CLAWD_REDIS_TIMEOUT
            || (result == NGX_HTTP_CLAWD_REDIS_CONNECT
                && state != NGX_HTTP_CLAWD_REDIS_READY))
        {
            ngx_http_clawd_redis_missed(link->shared);
        }

        if (!idle) {
            ngx_http_clawd_redis_bad(link->shared, result, conn->what,
                                     &link->conf->name, link->log, conn->err);
        }

        ngx_http_clawd_redis_probed(link->shared, delay);
    }

    if (link->retry.timer_set) {
        ngx_del_timer(&link->retry);
    }

    ngx_add_timer(&link->retry, delay);

    /* of what was under way the rest was not refused, but lost */

    if (result == NGX_HTTP_CLAWD_REDIS_READONLY) {
        result = NGX_HTTP_CLAWD_REDIS_CONNECT;
    }

    ngx_http_clawd_redis_drain(link, result);
}


/*
 * All that is pending has failed.  The link is closed by now, so that what
 * handlers send is declined.
 */

static void
ngx_http_clawd_redis_drain(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_result_e result)
{
    ngx_queue_t                  lost, *q;
    ngx_http_clawd_redis_cmd_t  *cmd;

    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    link->pending = 0;
    link->users = 0;
    link->timer.cancelable = 1;

    ngx_queue_init(&lost);

    if (!ngx_queue_empty(&link->fifo)) {
        ngx_queue_add(&lost, &link->fifo);
        ngx_queue_init(&link->fifo);
    }

    while (!ngx_queue_empty(&lost)) {
        q = ngx_queue_head(&lost);
        ngx_queue_remove(q);

        cmd = ngx_queue_data(q, ngx_http_clawd_redis_cmd_t, queue);

        ngx_http_clawd_redis_forget(cmd);
        cmd->result = result;
        cmd->reply = NULL;

        cmd->handler(cmd);
    }
}


/*
 * The timer is not moved with each reply: when it fires, the head then may
 * have time left.
 */

static void
ngx_http_clawd_redis_timeout(ngx_event_t *ev)
{
    ngx_queue_t                 *q;
    ngx_msec_int_t               left;
    ngx_http_clawd_redis_t      *link;
    ngx_http_clawd_redis_cmd_t  *cmd;

    link = ev->data;

    ngx_http_clawd_redis_conn_poll(&link->conn);

    if (ngx_queue_empty(&link->fifo)) {
        return;
    }

    /* what was sent just now has set it, and is not the head */

    if (ev->timer_set) {
        ngx_del_timer(ev);
    }

    q = ngx_queue_head(&link->fifo);
    cmd = ngx_queue_data(q, ngx_http_clawd_redis_cmd_t, queue);

    left = (ngx_msec_int_t) (cmd->deadline - ngx_current_msec);

    if (left > 0) {
        ngx_add_timer(ev, (ngx_msec_t) left);
        return;
    }

    /* replies would be taken for others' from here on */

    ngx_http_clawd_redis_conn_fail(&link->conn, NGX_HTTP_CLAWD_REDIS_TIMEOUT,
                                   "no answer came in time", 0);
}


ngx_uint_t
ngx_http_clawd_redis_ready(ngx_http_clawd_redis_t *link)
{
    if (link->state != NGX_HTTP_CLAWD_REDIS_READY) {
        return 0;
    }

    if (ngx_exiting || link->shared->failures < NGX_HTTP_CLAWD_REDIS_BREAK) {
        return 1;
    }

    /*
     * The breaker is open, and this connection may know better: its answer
     * closes it, and its silence ends the connection.
     */

    ngx_http_clawd_redis_hello_ping(link);

    return 0;
}


ngx_uint_t
ngx_http_clawd_redis_soon(ngx_http_clawd_redis_t *link)
{
    if (link->state == NGX_HTTP_CLAWD_REDIS_READY
        || link->shared->failures >= NGX_HTTP_CLAWD_REDIS_BREAK)
    {
        return 0;
    }

    return link->shared->up || link->attempts == 0;
}


ngx_uint_t
ngx_http_clawd_redis_pending(ngx_http_clawd_redis_t *link)
{
    return link->pending;
}


ngx_str_t *
ngx_http_clawd_redis_run_id(ngx_http_clawd_redis_t *link)
{
    return &link->run_id;
}


int64_t
ngx_http_clawd_redis_now(ngx_http_clawd_redis_t *link)
{
    if (!link->offset_known) {
        return 0;
    }

    return link->offset + (int64_t) ngx_current_msec * 1000;
}


/*
 * The server's time lies between sending and now, so the quicker the reply,
 * the better it tells.  A sample loses a millisecond of its worth each second,
 * as clocks drift, and are set.
 */

void
ngx_http_clawd_redis_clock(ngx_http_clawd_redis_t *link, ngx_msec_t sent,
    int64_t now)
{
    ngx_msec_t  rtt;

    /* what a server says may be anything: sums of a time do not overflow */

    if (now <= 0 || now >= (int64_t) 1 << 60) {
        return;
    }

    rtt = ngx_current_msec - sent;

    if (link->offset_known
        && rtt > link->offset_rtt + (ngx_current_msec - link->offset_at) / 1000)
    {
        return;
    }

    link->offset = now - (int64_t) sent * 1000 - (int64_t) rtt * 500;
    link->offset_rtt = rtt;
    link->offset_at = ngx_current_msec;
    link->offset_known = 1;
}


ngx_int_t
ngx_http_clawd_redis_send(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv)
{
    if (!ngx_http_clawd_redis_ready(link)
        || link->pending >= NGX_HTTP_CLAWD_REDIS_PENDING)
    {
        return NGX_DECLINED;
    }

    cmd->own = 0;
    cmd->script = -1;

    return ngx_http_clawd_redis_put(link, cmd, argc, argv);
}


ngx_int_t
ngx_http_clawd_redis_eval(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t i, ngx_uint_t nkeys,
    ngx_str_t *keys, ngx_uint_t nargs, ngx_str_t *args)
{
    u_char      number[NGX_INT_T_LEN];
    ngx_str_t   argv[NGX_HTTP_CLAWD_REDIS_ARGS];
    ngx_uint_t  n, argc;

    if (!ngx_http_clawd_redis_ready(link)
        || link->pending >= NGX_HTTP_CLAWD_REDIS_PENDING)
    {
        return NGX_DECLINED;
    }

    if (nkeys > NGX_HTTP_CLAWD_REDIS_ARGS - 3
        || nargs > NGX_HTTP_CLAWD_REDIS_ARGS - 3 - nkeys)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&argv[0], "EVALSHA");
    argv[1] = link->scripts[i].sha;
    argv[2].data = number;
    argv[2].len = ngx_sprintf(number, "%ui", nkeys) - number;

    argc = 3;

    for (n = 0; n < nkeys; n++) {
        argv[argc++] = keys[n];
    }

    for (n = 0; n < nargs; n++) {
        argv[argc++] = args[n];
    }

    cmd->own = 0;
    cmd->script = (ngx_int_t) i;

    return ngx_http_clawd_redis_put(link, cmd, argc, argv);
}


ngx_int_t
ngx_http_clawd_redis_own(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv)
{
    cmd->own = 1;
    cmd->script = -1;

    return ngx_http_clawd_redis_put(link, cmd, argc, argv);
}


static ngx_int_t
ngx_http_clawd_redis_put(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_uint_t argc, ngx_str_t *argv)
{
    cmd->bytes = NULL;

    if (cmd->script < 0) {

        if (ngx_http_clawd_redis_conn_command(&link->conn, argc, argv)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

    } else {

        /* kept until the answer, since the server may not know the script */

        cmd->bytes = ngx_http_clawd_redis_frame(argc, argv, &cmd->len,
                                                link->log);
        if (cmd->bytes == NULL) {
            return NGX_ERROR;
        }

        if (ngx_http_clawd_redis_conn_push(&link->conn, cmd->bytes, cmd->len)
            != NGX_OK)
        {
            ngx_http_clawd_redis_forget(cmd);
            return NGX_ERROR;
        }
    }

    cmd->again = 0;
    cmd->sent = ngx_current_msec;
    cmd->stamp = ngx_http_clawd_redis_stamp();

    ngx_http_clawd_redis_enqueue(link, cmd);

    return NGX_OK;
}


static void
ngx_http_clawd_redis_forget(ngx_http_clawd_redis_cmd_t *cmd)
{
    if (cmd->bytes) {
        ngx_free(cmd->bytes);
        cmd->bytes = NULL;
    }
}


static void
ngx_http_clawd_redis_enqueue(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd)
{
    cmd->deadline = ngx_current_msec + link->conf->timeout;

    ngx_queue_insert_tail(&link->fifo, &cmd->queue);

    link->pending++;
    link->users += !cmd->own;

    /* a worker that exits waits for what others want to know */

    link->timer.cancelable = (link->users == 0);

    if (!link->timer.timer_set) {
        ngx_add_timer(&link->timer, link->conf->timeout);
    }
}


static void
ngx_http_clawd_redis_dequeue(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_queue_remove(&cmd->queue);

    link->pending--;
    link->users -= !cmd->own;
    link->timer.cancelable = (link->users == 0);
}


/* The server has lost the script: tells it, and asks once more. */

static ngx_int_t
ngx_http_clawd_redis_again(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_cmd_t *cmd)
{
    if (ngx_http_clawd_redis_hello_load(link, cmd->script) != NGX_OK
        || ngx_http_clawd_redis_conn_push(&link->conn, cmd->bytes, cmd->len)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    cmd->again = 1;

    ngx_http_clawd_redis_enqueue(link, cmd);

    return NGX_OK;
}


/* the loop's own clock ticks in milliseconds, which most replies beat */

static uint64_t
ngx_http_clawd_redis_stamp(void)
{
    struct timespec  ts;

    if (clock_gettime(CLOCK_MONOTONIC, &ts) != 0) {
        return 0;
    }

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
