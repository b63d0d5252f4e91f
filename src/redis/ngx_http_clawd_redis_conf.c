/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_conn.h"


#define NGX_HTTP_CLAWD_REDIS_TIMEOUT_MSEC  500
#define NGX_HTTP_CLAWD_REDIS_TIMEOUT_MAX   10000
#define NGX_HTTP_CLAWD_REDIS_PORT          6379
#define NGX_HTTP_CLAWD_REDIS_DB_MAX        65535
#define NGX_HTTP_CLAWD_REDIS_SECRET        512    /* of a password */


typedef struct {
    ngx_http_clawd_redis_conf_t  *conf;
    ngx_str_t                     address;   /* host:port or unix:/path */
    ngx_str_t                     ca;
    ngx_uint_t                    tls;
    ngx_uint_t                    tls_args;  /* some that need it */
    ngx_uint_t                    seen;      /* bits, by argument */
} ngx_http_clawd_redis_args_t;


typedef ngx_int_t (*ngx_http_clawd_redis_arg_pt)(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);


static ngx_int_t ngx_http_clawd_redis_url(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *arg);
static ngx_int_t ngx_http_clawd_redis_userinfo(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, u_char *p, u_char *last);
static ngx_int_t ngx_http_clawd_redis_unescape(ngx_conf_t *cf, u_char *p,
    u_char *last, ngx_str_t *text);
static ngx_int_t ngx_http_clawd_redis_arg(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *arg);
static ngx_int_t ngx_http_clawd_redis_arg_user(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_password(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_password_file(ngx_conf_t *cf,
    ngx_str_t *path, ngx_str_t *text);
static ngx_int_t ngx_http_clawd_redis_arg_db(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_timeout(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_on_down(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_ca(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_verify(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_arg_name(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value);
static ngx_int_t ngx_http_clawd_redis_resolve(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a);
static ngx_int_t ngx_http_clawd_redis_tls(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *host);
static ngx_int_t ngx_http_clawd_redis_copy(ngx_conf_t *cf, ngx_str_t *dst,
    u_char *p, size_t len);


static const struct {
    ngx_str_t                    name;
    ngx_http_clawd_redis_arg_pt  handler;
} ngx_http_clawd_redis_args[] = {
    { ngx_string("user="), ngx_http_clawd_redis_arg_user },
    { ngx_string("password="), ngx_http_clawd_redis_arg_password },
    { ngx_string("db="), ngx_http_clawd_redis_arg_db },
    { ngx_string("timeout="), ngx_http_clawd_redis_arg_timeout },
    { ngx_string("on_down="), ngx_http_clawd_redis_arg_on_down },
    { ngx_string("ca="), ngx_http_clawd_redis_arg_ca },
    { ngx_string("verify="), ngx_http_clawd_redis_arg_verify },
    { ngx_string("name="), ngx_http_clawd_redis_arg_name },
    { ngx_null_string, NULL }
};


char *
ngx_http_clawd_redis_conf(ngx_conf_t *cf, ngx_http_clawd_redis_conf_t *conf)
{
    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_http_clawd_redis_args_t   a;

    ngx_memzero(&a, sizeof(ngx_http_clawd_redis_args_t));

    a.conf = conf;
    conf->timeout = NGX_HTTP_CLAWD_REDIS_TIMEOUT_MSEC;
    conf->on_down = NGX_HTTP_CLAWD_DOWN_DENY;
    conf->ssl_verify = 1;

    value = cf->args->elts;

    if (ngx_http_clawd_redis_url(cf, &a, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_clawd_redis_arg(cf, &a, &value[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (conf->user.len && conf->password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" names the user \"%V\" without a "
                           "password: add \"password=env:NAME\" or "
                           "\"password=file:PATH\"", &conf->user);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_clawd_redis_resolve(cf, &a) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_clawd_redis_url(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *arg)
{
    u_char     *p, *last, *end, *at;
    ngx_str_t   db;

    if (ngx_strncmp(arg->data, "unix:", 5) == 0) {
        a->address = *arg;
        return NGX_OK;
    }

    p = arg->data;
    last = p + arg->len;

    if (ngx_strncasecmp(p, (u_char *) "redis://", 8) == 0) {
        p += 8;

    } else if (ngx_strncasecmp(p, (u_char *) "rediss://", 9) == 0) {
        p += 9;
        a->tls = 1;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" needs \"redis://HOST:PORT\", "
                           "\"rediss://HOST:PORT\" or \"unix:/PATH\" as its "
                           "first argument");
        return NGX_ERROR;
    }

    end = ngx_strlchr(p, last, '/');
    end = end ? end : last;

    for (at = last; at > p && at[-1] != '@'; at--) { /* void */ }

    at = (at > p) ? at - 1 : NULL;

    if (at && at > end) {

        /* what follows is a part of the secret: no value is shown */

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" has a \"/\" in the password of "
                           "its URL: write it as \"%%2F\", or use "
                           "\"password=\"");
        return NGX_ERROR;
    }

    if (at && ngx_http_clawd_redis_userinfo(cf, a, p, at) != NGX_OK) {
        return NGX_ERROR;
    }

    p = at ? at + 1 : p;

    if (p == end
        || ngx_http_clawd_redis_copy(cf, &a->address, p, end - p) != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" has no host in its URL");
        return NGX_ERROR;
    }

    if (end < last && end + 1 < last) {
        db.data = end + 1;
        db.len = last - (end + 1);

        if (ngx_http_clawd_redis_arg_db(cf, a, &db) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    /* the configuration keeps its arguments: leave no secret in them */

    if (at) {
        ngx_explicit_memzero(arg->data, arg->len);
        arg->len = 0;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_userinfo(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    u_char *p, u_char *last)
{
    u_char  *colon;

    colon = ngx_strlchr(p, last, ':');

    if (colon == NULL) {
        return ngx_http_clawd_redis_unescape(cf, p, last, &a->conf->user);
    }

    if (ngx_http_clawd_redis_unescape(cf, p, colon, &a->conf->user) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_clawd_redis_unescape(cf, colon + 1, last,
                                         &a->conf->password);
}


static ngx_int_t
ngx_http_clawd_redis_unescape(ngx_conf_t *cf, u_char *p, u_char *last,
    ngx_str_t *text)
{
    u_char  *dst;

    if (p == last) {
        return NGX_OK;
    }

    dst = ngx_pnalloc(cf->pool, last - p);
    if (dst == NULL) {
        return NGX_ERROR;
    }

    text->data = dst;

    ngx_unescape_uri(&dst, &p, last - p, 0);

    text->len = dst - text->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *arg)
{
    ngx_str_t         value;
    ngx_uint_t        i;
    const ngx_str_t  *name;

    for (i = 0; ngx_http_clawd_redis_args[i].name.len; i++) {
        name = &ngx_http_clawd_redis_args[i].name;

        if (ngx_strncmp(arg->data, name->data, name->len) != 0) {
            continue;
        }

        value.data = arg->data + name->len;
        value.len = arg->len - name->len;

        if (value.len == 0 || (a->seen & (1u << i))) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_redis\" needs a value for \"%V\", "
                               "once", name);
            return NGX_ERROR;
        }

        a->seen |= 1u << i;

        return ngx_http_clawd_redis_args[i].handler(cf, a, &value);
    }

    /* a slip may hold a secret: only the name is shown */

    value = *arg;

    for (i = 0; i < arg->len; i++) {
        if (arg->data[i] == '=') {
            value.len = i;
            break;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"clawd_redis\" does not know \"%V\": it takes user=, "
                       "password=, db=, timeout=, on_down=, ca=, verify= and "
                       "name=", &value);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_clawd_redis_arg_user(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *value)
{
    a->conf->user = *value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg_password(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value)
{
    char       *env;
    ngx_int_t   rc;
    ngx_str_t   name;

    if (ngx_strncmp(value->data, "file:", 5) == 0) {
        name.data = value->data + 5;
        name.len = value->len - 5;

        return ngx_http_clawd_redis_password_file(cf, &name,
                                                  &a->conf->password);
    }

    if (ngx_strncmp(value->data, "env:", 4) == 0) {
        env = getenv((char *) value->data + 4);

        if (env == NULL || *env == '\0') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_redis password=%V\": the environment "
                               "variable is unset or empty: set it where "
                               "NGINX starts, or use \"password=file:PATH\"",
                               value);
            return NGX_ERROR;
        }

        return ngx_http_clawd_redis_copy(cf, &a->conf->password,
                                         (u_char *) env, ngx_strlen(env));
    }

    rc = ngx_http_clawd_redis_copy(cf, &a->conf->password, value->data,
                                   value->len);

    ngx_explicit_memzero(value->data, value->len);

    return rc;
}


/* the first line of the file */

static ngx_int_t
ngx_http_clawd_redis_password_file(ngx_conf_t *cf, ngx_str_t *path,
    ngx_str_t *text)
{
    u_char      buf[NGX_HTTP_CLAWD_REDIS_SECRET];
    size_t      len;
    ssize_t     n;
    ngx_fd_t    fd;
    ngx_int_t   rc;

    if (path->len == 0
        || ngx_conf_full_name(cf->cycle, path, 1) != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis password=file:PATH\" needs a path");
        return NGX_ERROR;
    }

    fd = ngx_open_file(path->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"clawd_redis password=file:%V\": the file can't "
                           "be opened", path);
        return NGX_ERROR;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, cf->log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", path);
    }

    for (len = 0; n > 0 && len < (size_t) n; len++) {
        if (buf[len] == CR || buf[len] == LF) {
            break;
        }
    }

    if (len == 0 || len == sizeof(buf)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis password=file:%V\": the file's "
                           "first line is empty or too long: it needs the "
                           "password and nothing else", path);
        return NGX_ERROR;
    }

    rc = ngx_http_clawd_redis_copy(cf, text, buf, len);

    ngx_explicit_memzero(buf, sizeof(buf));

    return rc;
}


static ngx_int_t
ngx_http_clawd_redis_arg_db(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *value)
{
    a->conf->db = ngx_atoi(value->data, value->len);

    if (a->conf->db == NGX_ERROR
        || a->conf->db > NGX_HTTP_CLAWD_REDIS_DB_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" needs the number of a database, "
                           "got \"%V\"", value);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg_timeout(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value)
{
    ngx_int_t  msec;

    msec = ngx_parse_time(value, 0);

    if (msec == NGX_ERROR || msec == 0
        || msec > NGX_HTTP_CLAWD_REDIS_TIMEOUT_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis timeout=\" takes 1ms to 10s, "
                           "got \"%V\"", value);
        return NGX_ERROR;
    }

    a->conf->timeout = (ngx_msec_t) msec;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg_on_down(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value)
{
    if (ngx_strcmp(value->data, "deny") == 0) {
        a->conf->on_down = NGX_HTTP_CLAWD_DOWN_DENY;

    } else if (ngx_strcmp(value->data, "local") == 0) {
        a->conf->on_down = NGX_HTTP_CLAWD_DOWN_LOCAL;

    } else if (ngx_strcmp(value->data, "open") == 0) {
        a->conf->on_down = NGX_HTTP_CLAWD_DOWN_OPEN;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis on_down=\" takes \"deny\", "
                           "\"local\" or \"open\", got \"%V\"", value);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg_ca(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *value)
{
    a->ca = *value;
    a->tls_args = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_arg_verify(ngx_conf_t *cf,
    ngx_http_clawd_redis_args_t *a, ngx_str_t *value)
{
    a->tls_args = 1;

    if (ngx_strcmp(value->data, "on") == 0) {
        return NGX_OK;
    }

    if (ngx_strcmp(value->data, "off") == 0) {
        a->conf->ssl_verify = 0;
        return NGX_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"clawd_redis verify=\" takes \"on\" or \"off\", "
                       "got \"%V\"", value);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_clawd_redis_arg_name(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *value)
{
    a->conf->ssl_name = *value;
    a->tls_args = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_resolve(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a)
{
    ngx_url_t                     u;
    ngx_http_clawd_redis_conf_t  *conf;

    conf = a->conf;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = a->address;
    u.default_port = NGX_HTTP_CLAWD_REDIS_PORT;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.naddrs == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in \"%V\" of \"clawd_redis\"",
                           u.err ? u.err : "no address", &a->address);
        return NGX_ERROR;
    }

    conf->addrs = u.addrs;
    conf->naddrs = u.naddrs;
    conf->name = a->address;

    if (a->tls) {
        return ngx_http_clawd_redis_tls(cf, a, &u.host);
    }

    if (a->tls_args) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_redis\" takes ca=, verify= and name= with "
                           "\"rediss://\" only, since nothing else is TLS");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_tls(ngx_conf_t *cf, ngx_http_clawd_redis_args_t *a,
    ngx_str_t *host)
{
    size_t      len;
    u_char     *p;
    ngx_str_t  *name;

    name = &a->conf->ssl_name;

    if (name->len == 0) {
        p = host->data;
        len = host->len;

        if (len > 2 && p[0] == '[' && p[len - 1] == ']') {
            p++;
            len -= 2;
        }

        if (ngx_http_clawd_redis_copy(cf, name, p, len) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return ngx_http_clawd_redis_tls_conf(cf, a->conf, &a->ca);
}


/* ends with a null */

static ngx_int_t
ngx_http_clawd_redis_copy(ngx_conf_t *cf, ngx_str_t *dst, u_char *p,
    size_t len)
{
    dst->data = ngx_pnalloc(cf->pool, len + 1);
    if (dst->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(dst->data, p, len);
    dst->data[len] = '\0';
    dst->len = len;

    return NGX_OK;
}
