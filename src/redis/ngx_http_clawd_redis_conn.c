/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_conn.h"
#include "ngx_http_clawd_redis_class.h"
#include "ngx_http_clawd_number.h"

#include <hiredis/hiredis.h>


#define NGX_HTTP_CLAWD_REDIS_BUFFER  16384

/* buffers that grew larger are given back when they are empty */
#define NGX_HTTP_CLAWD_REDIS_KEEP    65536

/* reads in a row, before others have their turn */
#define NGX_HTTP_CLAWD_REDIS_READS   16

/* so many bytes do not wait for the end of a turn */
#define NGX_HTTP_CLAWD_REDIS_EARLY   4096

/* of an argument, or of all: type, length, line end */
#define NGX_HTTP_CLAWD_REDIS_HEAD    (1 + 20 + 2)


static void ngx_http_clawd_redis_conn_timeout(ngx_event_t *ev);
static void ngx_http_clawd_redis_conn_connecting(ngx_event_t *ev);
static void ngx_http_clawd_redis_conn_established(
    ngx_http_clawd_redis_conn_t *conn);
static void ngx_http_clawd_redis_conn_stay(ngx_connection_t *c);
static void ngx_http_clawd_redis_conn_read(ngx_event_t *rev);
static ngx_http_clawd_redis_result_e ngx_http_clawd_redis_conn_replies(
    ngx_http_clawd_redis_conn_t *conn);
static ngx_int_t ngx_http_clawd_redis_conn_room(
    ngx_http_clawd_redis_conn_t *conn);
static ngx_int_t ngx_http_clawd_redis_conn_grow(ngx_log_t *log, u_char **buf,
    size_t *size, size_t used, size_t need);
static void ngx_http_clawd_redis_conn_write(ngx_event_t *wev);
static void ngx_http_clawd_redis_conn_flush(ngx_event_t *ev);
static void ngx_http_clawd_redis_conn_send(ngx_http_clawd_redis_conn_t *conn);
static void ngx_http_clawd_redis_conn_shrink(u_char **buf, size_t *size);
static u_char *ngx_http_clawd_redis_frame_head(u_char *p, u_char type,
    size_t n);


void
ngx_http_clawd_redis_conn_init(ngx_http_clawd_redis_conn_t *conn)
{
    /*
     * The core's own lines of each attempt would flood the log of an outage,
     * which the owner tells once.
     */

    conn->quiet = *conn->log;

    if (!(conn->quiet.log_level & NGX_LOG_DEBUG_ALL)) {
        conn->quiet.log_level = NGX_LOG_ALERT;
    }

    conn->timer.handler = ngx_http_clawd_redis_conn_timeout;
    conn->timer.data = conn;
    conn->timer.log = &conn->quiet;
    conn->timer.cancelable = 1;

    conn->flush.handler = ngx_http_clawd_redis_conn_flush;
    conn->flush.data = conn;
    conn->flush.log = &conn->quiet;
}


void
ngx_http_clawd_redis_conn_open(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_int_t               rc;
    ngx_addr_t             *addr;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *peer;

    addr = &conn->conf->addrs[conn->addr % conn->conf->naddrs];
    peer = &conn->peer;

    ngx_memzero(peer, sizeof(ngx_peer_connection_t));

    peer->sockaddr = addr->sockaddr;
    peer->socklen = addr->socklen;
    peer->name = &addr->name;
    peer->get = ngx_event_get_peer;
    peer->log = &conn->quiet;
    peer->log_error = NGX_ERROR_ERR;

    ngx_set_errno(0);

    rc = ngx_event_connect_peer(peer);

    conn->local = (rc == NGX_ERROR);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "connecting failed", ngx_errno);
        return;
    }

    c = peer->connection;
    c->data = conn;

    c->read->handler = ngx_http_clawd_redis_conn_connecting;
    c->write->handler = ngx_http_clawd_redis_conn_connecting;

    ngx_add_timer(&conn->timer, conn->conf->timeout);

    if (conn->conf->ssl) {
        c->pool = ngx_create_pool(1024, &conn->quiet);
        if (c->pool == NULL) {
            ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                           "no memory", 0);
            return;
        }
    }

    if (rc == NGX_OK) {
        ngx_http_clawd_redis_conn_established(conn);
    }
}


void
ngx_http_clawd_redis_conn_close(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_pool_t        *pool;
    ngx_connection_t  *c;

    conn->open = 0;

    if (conn->timer.timer_set) {
        ngx_del_timer(&conn->timer);
    }

    if (conn->flush.posted) {
        ngx_delete_posted_event(&conn->flush);
    }

    c = conn->peer.connection;
    conn->peer.connection = NULL;

    if (c) {
        ngx_http_clawd_redis_tls_close(c);

        pool = c->pool;
        ngx_close_connection(c);

        if (pool) {
            ngx_destroy_pool(pool);
        }
    }

    conn->in_pos = 0;
    conn->in_last = 0;
    conn->need = 1;
    conn->out_pos = 0;
    conn->out_last = 0;

    ngx_http_clawd_redis_conn_shrink(&conn->in, &conn->in_size);
    ngx_http_clawd_redis_conn_shrink(&conn->out, &conn->out_size);
}


void
ngx_http_clawd_redis_conn_fail(ngx_http_clawd_redis_conn_t *conn,
    ngx_http_clawd_redis_result_e result, const char *what, ngx_err_t err)
{
    conn->what = what;
    conn->err = err;

    ngx_http_clawd_redis_conn_close(conn);

    conn->failed(conn, result);
}


static void
ngx_http_clawd_redis_conn_timeout(ngx_event_t *ev)
{
    ngx_http_clawd_redis_conn_fail(ev->data, NGX_HTTP_CLAWD_REDIS_TIMEOUT,
                                   "connecting took too long", 0);
}


static void
ngx_http_clawd_redis_conn_connecting(ngx_event_t *ev)
{
    int                           err;
    socklen_t                     len;
    ngx_connection_t             *c;
    ngx_http_clawd_redis_conn_t  *conn;

    c = ev->data;
    conn = c->data;

    ngx_http_clawd_redis_conn_stay(c);

    err = 0;
    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "connecting failed", err);
        return;
    }

    ngx_http_clawd_redis_conn_established(conn);
}


static void
ngx_http_clawd_redis_conn_established(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_connection_t  *c;

    c = conn->peer.connection;

    if (conn->peer.sockaddr->sa_family != AF_UNIX
        && ngx_tcp_nodelay(c) != NGX_OK)
    {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "the socket failed", ngx_socket_errno);
        return;
    }

    if (conn->conf->ssl) {
        ngx_http_clawd_redis_tls_start(conn);
        return;
    }

    ngx_http_clawd_redis_conn_ready(conn);
}


void
ngx_http_clawd_redis_conn_ready(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_connection_t  *c;

    c = conn->peer.connection;

    ngx_del_timer(&conn->timer);

    c->read->handler = ngx_http_clawd_redis_conn_read;
    c->write->handler = ngx_http_clawd_redis_conn_write;

    conn->open = 1;

    if (conn->connected(conn) != NGX_OK) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "no memory", 0);
        return;
    }

    /* TLS may have read ahead, and an event may have been used up */

    ngx_post_event(c->read, &ngx_posted_events);
}


/*
 * An exiting worker still needs its link, for the requests that it ends and
 * their settlements; it is not held up, since no timer of an idle link keeps
 * it.  exit_process closes what is open.
 */

static void
ngx_http_clawd_redis_conn_stay(ngx_connection_t *c)
{
    if (c->close) {
        c->close = 0;
        c->error = 0;
    }
}


void
ngx_http_clawd_redis_conn_poll(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_event_t  *rev;

    if (conn->open) {
        rev = conn->peer.connection->read;

        /* else recv() believes the last event, and does not look */

        rev->available = -1;

        ngx_http_clawd_redis_conn_read(rev);
    }
}


static void
ngx_http_clawd_redis_conn_read(ngx_event_t *rev)
{
    ssize_t                        n;
    ngx_uint_t                     i;
    ngx_connection_t              *c;
    ngx_http_clawd_redis_conn_t   *conn;
    ngx_http_clawd_redis_result_e  result;

    c = rev->data;
    conn = c->data;

    ngx_http_clawd_redis_conn_stay(c);

    for (i = 0; i < NGX_HTTP_CLAWD_REDIS_READS; i++) {

        if (ngx_http_clawd_redis_conn_room(conn) != NGX_OK) {
            ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                           "no memory", 0);
            return;
        }

        n = c->recv(c, conn->in + conn->in_last,
                    conn->in_size - conn->in_last);

        if (n == NGX_AGAIN) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                n = NGX_ERROR;

            } else {
                return;
            }
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                           "the connection was closed",
                                           n ? ngx_socket_errno : 0);
            return;
        }

        conn->in_last += n;

        result = ngx_http_clawd_redis_conn_replies(conn);

        if (conn->peer.connection != c) {
            return;
        }

        if (result != NGX_HTTP_CLAWD_REDIS_OK) {
            ngx_http_clawd_redis_conn_fail(conn, result, conn->what, 0);
            return;
        }
    }

    ngx_post_event(rev, &ngx_posted_next_events);
}


static ngx_http_clawd_redis_result_e
ngx_http_clawd_redis_conn_replies(ngx_http_clawd_redis_conn_t *conn)
{
    u_char                         *end;
    ngx_int_t                       rc;
    ngx_http_clawd_redis_result_e   result;

    while (conn->in_last - conn->in_pos >= conn->need) {

        rc = ngx_http_clawd_resp_read(&conn->resp, conn->in + conn->in_pos,
                                      conn->in + conn->in_last, &end,
                                      &conn->need);
        if (rc == NGX_AGAIN) {
            break;
        }

        if (rc != NGX_OK) {
            conn->what = "what came is no RESP2 within bounds";
            return NGX_HTTP_CLAWD_REDIS_PROTOCOL;
        }

        conn->in_pos = end - conn->in;
        conn->need = 1;

        result = conn->reply(conn, &conn->resp);

        if (conn->peer.connection == NULL
            || result != NGX_HTTP_CLAWD_REDIS_OK)
        {
            return result;
        }
    }

    return NGX_HTTP_CLAWD_REDIS_OK;
}


/*
 * Room for at least a byte more.  The buffer is full only when the reply in it
 * needs more, which the parser holds to RESP_SIZE.
 */

static ngx_int_t
ngx_http_clawd_redis_conn_room(ngx_http_clawd_redis_conn_t *conn)
{
    size_t  used;

    used = conn->in_last - conn->in_pos;

    if (used == 0 && conn->in_size > NGX_HTTP_CLAWD_REDIS_KEEP) {
        ngx_http_clawd_redis_conn_shrink(&conn->in, &conn->in_size);
    }

    if (conn->in_pos) {
        if (used) {
            ngx_memmove(conn->in, conn->in + conn->in_pos, used);
        }

        conn->in_pos = 0;
        conn->in_last = used;
    }

    if (conn->in_last < conn->in_size) {
        return NGX_OK;
    }

    return ngx_http_clawd_redis_conn_grow(conn->log, &conn->in,
                                          &conn->in_size, used,
                                          ngx_max(conn->need, used + 1));
}


/* at least need bytes, of which the first are kept */

static ngx_int_t
ngx_http_clawd_redis_conn_grow(ngx_log_t *log, u_char **buf, size_t *size,
    size_t used, size_t need)
{
    size_t   n;
    u_char  *p;

    n = *size ? *size : NGX_HTTP_CLAWD_REDIS_BUFFER;

    while (n < need) {
        n *= 2;
    }

    p = ngx_alloc(n, log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (*buf) {
        ngx_memcpy(p, *buf, used);
        ngx_free(*buf);
    }

    *buf = p;
    *size = n;

    return NGX_OK;
}


static void
ngx_http_clawd_redis_conn_shrink(u_char **buf, size_t *size)
{
    if (*buf) {
        ngx_free(*buf);
        *buf = NULL;
        *size = 0;
    }
}


ngx_int_t
ngx_http_clawd_redis_conn_push(ngx_http_clawd_redis_conn_t *conn,
    u_char *bytes, size_t len)
{
    size_t  used;

    used = conn->out_last - conn->out_pos;

    if (conn->out_size - conn->out_last < len) {

        if (conn->out_pos) {
            ngx_memmove(conn->out, conn->out + conn->out_pos, used);
            conn->out_pos = 0;
            conn->out_last = used;
        }

        if (conn->out_size - used < len
            && ngx_http_clawd_redis_conn_grow(conn->log, &conn->out,
                                              &conn->out_size, used,
                                              used + len)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_memcpy(conn->out + conn->out_last, bytes, len);
    conn->out_last += len;

    ngx_post_event(&conn->flush, &ngx_posted_events);

    /* in a long turn the server has something to do before its end */

    if (conn->out_last - conn->out_pos >= NGX_HTTP_CLAWD_REDIS_EARLY) {
        ngx_http_clawd_redis_conn_early(conn);
    }

    return NGX_OK;
}


void
ngx_http_clawd_redis_conn_early(ngx_http_clawd_redis_conn_t *conn)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = conn->peer.connection;

    if (!conn->open || conn->out_pos == conn->out_last || !c->write->ready) {
        return;
    }

    n = c->send(c, conn->out + conn->out_pos, conn->out_last - conn->out_pos);

    if (n > 0) {
        conn->out_pos += n;
    }
}


static void
ngx_http_clawd_redis_conn_write(ngx_event_t *wev)
{
    ngx_connection_t  *c;

    c = wev->data;

    ngx_http_clawd_redis_conn_send(c->data);
}


static void
ngx_http_clawd_redis_conn_flush(ngx_event_t *ev)
{
    ngx_http_clawd_redis_conn_send(ev->data);
}


static void
ngx_http_clawd_redis_conn_send(ngx_http_clawd_redis_conn_t *conn)
{
    ssize_t            n;
    ngx_connection_t  *c;

    if (!conn->open) {
        return;
    }

    c = conn->peer.connection;

    while (conn->out_pos < conn->out_last && c->write->ready) {

        n = c->send(c, conn->out + conn->out_pos,
                    conn->out_last - conn->out_pos);

        if (n == NGX_AGAIN || n == 0) {
            break;
        }

        if (n == NGX_ERROR) {
            ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                           "the connection was closed",
                                           ngx_socket_errno);
            return;
        }

        conn->out_pos += n;
    }

    if (conn->out_pos == conn->out_last) {
        conn->out_pos = 0;
        conn->out_last = 0;

        if (conn->out_size > NGX_HTTP_CLAWD_REDIS_KEEP) {
            ngx_http_clawd_redis_conn_shrink(&conn->out, &conn->out_size);
        }
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "the socket failed", 0);
    }
}


u_char *
ngx_http_clawd_redis_format(ngx_uint_t argc, ngx_str_t *argv, size_t *len)
{
    char        *bytes;
    size_t       lens[NGX_HTTP_CLAWD_REDIS_ARGS];
    ngx_int_t    n;
    ngx_uint_t   i;
    const char  *args[NGX_HTTP_CLAWD_REDIS_ARGS];

    if (argc == 0 || argc > NGX_HTTP_CLAWD_REDIS_ARGS) {
        return NULL;
    }

    for (i = 0; i < argc; i++) {
        args[i] = argv[i].len ? (const char *) argv[i].data : "";
        lens[i] = argv[i].len;
    }

    n = (ngx_int_t) redisFormatCommandArgv(&bytes, (int) argc, args, lens);
    if (n < 0) {
        return NULL;
    }

    *len = n;

    return (u_char *) bytes;
}


void
ngx_http_clawd_redis_format_free(u_char *bytes)
{
    if (bytes) {
        redisFreeCommand((char *) bytes);
    }
}


u_char *
ngx_http_clawd_redis_frame(ngx_uint_t argc, ngx_str_t *argv, size_t *len,
    ngx_log_t *log)
{
    size_t       size;
    u_char      *bytes, *p;
    ngx_uint_t   i;

    size = NGX_HTTP_CLAWD_REDIS_HEAD;

    for (i = 0; i < argc; i++) {
        size += NGX_HTTP_CLAWD_REDIS_HEAD + argv[i].len + 2;
    }

    bytes = ngx_alloc(size, log);
    if (bytes == NULL) {
        return NULL;
    }

    p = ngx_http_clawd_redis_frame_head(bytes, '*', argc);

    for (i = 0; i < argc; i++) {
        p = ngx_http_clawd_redis_frame_head(p, '$', argv[i].len);

        if (argv[i].len) {
            p = ngx_cpymem(p, argv[i].data, argv[i].len);
        }

        *p++ = CR;
        *p++ = LF;
    }

    *len = p - bytes;

    return bytes;
}


static u_char *
ngx_http_clawd_redis_frame_head(u_char *p, u_char type, size_t n)
{
    *p++ = type;
    p = ngx_http_clawd_number(p, n);
    *p++ = CR;
    *p++ = LF;

    return p;
}


ngx_int_t
ngx_http_clawd_redis_conn_command(ngx_http_clawd_redis_conn_t *conn,
    ngx_uint_t argc, ngx_str_t *argv)
{
    size_t      len;
    u_char     *bytes;
    ngx_int_t   rc;

    bytes = ngx_http_clawd_redis_format(argc, argv, &len);
    if (bytes == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_http_clawd_redis_conn_push(conn, bytes, len);

    ngx_http_clawd_redis_format_free(bytes);

    return rc;
}


ngx_int_t
ngx_http_clawd_redis_conn_auth(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_str_t   argv[3];
    ngx_uint_t  n;

    if (conn->conf->user.len == 0 && conn->conf->password.len == 0) {
        return NGX_DECLINED;
    }

    n = 0;
    ngx_str_set(&argv[n], "AUTH");
    n++;

    if (conn->conf->user.len) {
        argv[n++] = conn->conf->user;
    }

    argv[n++] = conn->conf->password;

    return ngx_http_clawd_redis_conn_command(conn, n, argv);
}


ngx_http_clawd_redis_result_e
ngx_http_clawd_redis_status(ngx_http_clawd_resp_t *resp)
{
    ngx_http_clawd_resp_item_t  *item;

    item = &resp->items[0];

    if (item->type == NGX_HTTP_CLAWD_RESP_ERROR) {
        return ngx_http_clawd_redis_class(&item->text);
    }

    if (item->type == NGX_HTTP_CLAWD_RESP_STATUS
        && item->text.len == 2
        && ngx_memcmp(item->text.data, "OK", 2) == 0)
    {
        return NGX_HTTP_CLAWD_REDIS_OK;
    }

    return NGX_HTTP_CLAWD_REDIS_PROTOCOL;
}
