/*
 * Copyright (C) clawd authors
 *
 * NGINX's proxy defaults suit no AI traffic.  Each that is still in force is
 * named once a process, with its cure, when the first answer shows it.
 */

#include "ngx_http_clawd_observe.h"


static void ngx_http_clawd_warn(ngx_http_request_t *r, ngx_uint_t setting,
    const char *text);
static ngx_uint_t ngx_http_clawd_warn_has(u_char *p, u_char *last,
    const char *s);
static ngx_uint_t ngx_http_clawd_warn_host(ngx_http_request_t *r, u_char *p,
    u_char *last);


/* settings that were named by this process */

static ngx_uint_t  ngx_http_clawd_warned;


void
ngx_http_clawd_warn_settings(ngx_http_request_t *r)
{
    u_char                     *p, *last;
    ngx_http_upstream_t        *u;
    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_clawd_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);
    u = r->upstream;

    if (conf->checked || u->request_bufs == NULL) {
        return;
    }

    conf->checked = 1;

    if (u->schema.len < 4 || ngx_strncmp(u->schema.data, "http", 4) != 0) {
        return;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    p = u->request_bufs->buf->start;
    last = u->request_bufs->buf->last;

    if (ngx_http_clawd_warn_has(p, last, " HTTP/1.0\r\n")) {
        ngx_http_clawd_warn(r, 0, "requests go to the upstream as HTTP/1.0, "
                            "set \"proxy_http_version 1.1;\"");
    }

    if (ngx_http_clawd_warn_has(p, last, "\r\nConnection: close\r\n")) {
        ngx_http_clawd_warn(r, 1, "upstream connections are not kept alive, "
                            "set \"proxy_set_header Connection \"\";\" and "
                            "\"keepalive\" in the upstream block");
    }

    if (ngx_http_clawd_warn_host(r, p, last)) {
        ngx_http_clawd_warn(r, 2, "the upstream gets the name of the upstream "
                            "block as its Host, which a default Ollama "
                            "refuses, set \"proxy_set_header Host "
                            "$clawd_upstream_host;\"");
    }

    if (u->conf->read_timeout == 60000) {
        ngx_http_clawd_warn(r, 3, "\"proxy_read_timeout\" is 60s: a model that "
                            "loads or thinks longer is cut off, set 600s");
    }

    if (!(u->conf->ignore_headers & NGX_HTTP_UPSTREAM_IGN_XA_REDIRECT)) {
        ngx_http_clawd_warn(r, 4, "an upstream can steer NGINX by X-Accel-* "
                            "headers, set \"proxy_ignore_headers "
                            "X-Accel-Redirect X-Accel-Expires "
                            "X-Accel-Limit-Rate X-Accel-Buffering "
                            "X-Accel-Charset;\"");
    }

    if (clcf->client_max_body_size == 1024 * 1024) {
        ngx_http_clawd_warn(r, 5, "\"client_max_body_size\" is 1m: images and "
                            "long contexts are refused, set 64m");
    }
}


static void
ngx_http_clawd_warn(ngx_http_request_t *r, ngx_uint_t setting,
    const char *text)
{
    if (ngx_http_clawd_warned & ((ngx_uint_t) 1 << setting)) {
        return;
    }

    ngx_http_clawd_warned |= (ngx_uint_t) 1 << setting;

    ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                  "clawd: %s, or include clawd_proxy.conf", text);
}


static ngx_uint_t
ngx_http_clawd_warn_has(u_char *p, u_char *last, const char *s)
{
    return ngx_strlcasestrn(p, last, (u_char *) s, ngx_strlen(s) - 1) != NULL;
}


static ngx_uint_t
ngx_http_clawd_warn_host(ngx_http_request_t *r, u_char *p, u_char *last)
{
    size_t      len;
    ngx_str_t   name, host;

    p = ngx_strlcasestrn(p, last, (u_char *) "\r\nhost: ", 8 - 1);

    if (p == NULL
        || ngx_http_clawd_upstream_name(r, &name, &host) != NGX_OK
        || host.len != 9
        || ngx_strncmp(host.data, "localhost", 9) != 0)
    {
        return 0;
    }

    p += 8;

    for (len = 0; p + len < last && p[len] != '\r'; len++) { /* void */ }

    return name.len >= len
           && ngx_strncmp(name.data + name.len - len, p, len) == 0
           && !(len == host.len && ngx_strncmp(p, host.data, len) == 0);
}
