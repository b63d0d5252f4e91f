/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_link.h"

#include <openssl/evp.h>


static ngx_int_t ngx_http_clawd_redis_hello_sha(
    ngx_http_clawd_redis_script_t *script, ngx_str_t *text);
static void ngx_http_clawd_redis_hello_auth(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_select(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_loaded(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_exists(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_info(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_time(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_pong(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_hello_run_id(ngx_http_clawd_redis_t *link,
    ngx_str_t *text);
static void ngx_http_clawd_redis_hello_fault(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_result_e result, const char *what);
static void ngx_http_clawd_redis_hello_step(ngx_http_clawd_redis_t *link);


ngx_int_t
ngx_http_clawd_redis_hello_init(ngx_http_clawd_redis_t *link)
{
    ngx_uint_t                      i;
    ngx_http_clawd_redis_script_t  *script;

    link->auth.handler = ngx_http_clawd_redis_hello_auth;
    link->auth.data = link;
    link->select.handler = ngx_http_clawd_redis_hello_select;
    link->select.data = link;
    link->info.handler = ngx_http_clawd_redis_hello_info;
    link->info.data = link;
    link->time.handler = ngx_http_clawd_redis_hello_time;
    link->time.data = link;
    link->ping.handler = ngx_http_clawd_redis_hello_pong;
    link->ping.data = link;

    for (i = 0; i < link->conf->nscripts; i++) {
        script = &link->scripts[i];

        script->load.handler = ngx_http_clawd_redis_hello_loaded;
        script->load.data = link;
        script->exists.handler = ngx_http_clawd_redis_hello_exists;
        script->exists.data = link;

        if (ngx_http_clawd_redis_hello_sha(script, &link->conf->scripts[i])
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_redis_hello_sha(ngx_http_clawd_redis_script_t *script,
    ngx_str_t *text)
{
    u_char        digest[EVP_MAX_MD_SIZE];
    unsigned int  len;

    if (EVP_Digest(text->data, text->len, digest, &len, EVP_sha1(), NULL) != 1
        || len * 2 != NGX_HTTP_CLAWD_REDIS_SHA_LEN)
    {
        return NGX_ERROR;
    }

    (void) ngx_hex_dump(script->hex, digest, len);

    script->sha.data = script->hex;
    script->sha.len = NGX_HTTP_CLAWD_REDIS_SHA_LEN;

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_redis_hello_begin(ngx_http_clawd_redis_t *link)
{
    ngx_str_t    argv[3];
    ngx_uint_t   i, n;
    u_char       db[NGX_INT_T_LEN];

    link->steps = 0;
    link->fault = NGX_HTTP_CLAWD_REDIS_OK;
    link->run_id.len = 0;
    link->offset_known = 0;

    n = 0;
    ngx_str_set(&argv[n], "AUTH");
    n++;

    if (link->conf->user.len) {
        argv[n++] = link->conf->user;
    }

    argv[n++] = link->conf->password;

    if ((link->conf->user.len || link->conf->password.len)
        && ngx_http_clawd_redis_own(link, &link->auth, n, argv) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (link->conf->db) {
        ngx_str_set(&argv[0], "SELECT");
        argv[1].data = db;
        argv[1].len = ngx_sprintf(db, "%i", link->conf->db) - db;

        if (ngx_http_clawd_redis_own(link, &link->select, 2, argv) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    for (i = 0; i < link->conf->nscripts; i++) {
        if (ngx_http_clawd_redis_hello_load(link, i) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&argv[0], "INFO");
    ngx_str_set(&argv[1], "server");

    if (ngx_http_clawd_redis_own(link, &link->info, 2, argv) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&argv[0], "TIME");

    if (ngx_http_clawd_redis_own(link, &link->time, 1, argv) != NGX_OK) {
        return NGX_ERROR;
    }

    link->steps = link->pending;

    return NGX_OK;
}


/* Nothing when the script is on its way already. */

ngx_int_t
ngx_http_clawd_redis_hello_load(ngx_http_clawd_redis_t *link, ngx_uint_t i)
{
    ngx_str_t                       argv[3];
    ngx_http_clawd_redis_script_t  *script;

    script = &link->scripts[i];

    if (script->loading) {
        return NGX_OK;
    }

    ngx_str_set(&argv[0], "SCRIPT");
    ngx_str_set(&argv[1], "LOAD");
    argv[2] = link->conf->scripts[i];

    if (ngx_http_clawd_redis_own(link, &script->load, 3, argv) != NGX_OK) {
        return NGX_ERROR;
    }

    script->loading = 1;

    return NGX_OK;
}


/* Asks a server that others found silent; any reply closes the breaker. */

void
ngx_http_clawd_redis_hello_ping(ngx_http_clawd_redis_t *link)
{
    ngx_str_t  argv[1];

    ngx_str_set(&argv[0], "PING");

    if (!link->pinging
        && ngx_http_clawd_redis_own(link, &link->ping, 1, argv) == NGX_OK)
    {
        link->pinging = 1;
    }
}


static void
ngx_http_clawd_redis_hello_auth(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_http_clawd_redis_t        *link;
    ngx_http_clawd_redis_result_e  result;

    link = cmd->data;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    result = cmd->result;

    if (result == NGX_HTTP_CLAWD_REDIS_OK) {
        result = ngx_http_clawd_redis_status(cmd->reply);
    }

    /* "ERR AUTH called without any password configured" */

    if (result == NGX_HTTP_CLAWD_REDIS_ERROR) {
        result = NGX_HTTP_CLAWD_REDIS_AUTH;
    }

    if (result != NGX_HTTP_CLAWD_REDIS_OK) {
        ngx_http_clawd_redis_hello_fault(link, result, "AUTH was refused");
        return;
    }

    ngx_http_clawd_redis_hello_step(link);
}


static void
ngx_http_clawd_redis_hello_select(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_http_clawd_redis_t        *link;
    ngx_http_clawd_redis_result_e  result;

    link = cmd->data;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    result = cmd->result;

    if (result == NGX_HTTP_CLAWD_REDIS_OK) {
        result = ngx_http_clawd_redis_status(cmd->reply);
    }

    if (result != NGX_HTTP_CLAWD_REDIS_OK) {
        ngx_http_clawd_redis_hello_fault(link, result,
                                         "the database could not be selected");
        return;
    }

    ngx_http_clawd_redis_hello_step(link);
}


/* also called later, after a server lost its scripts */

static void
ngx_http_clawd_redis_hello_loaded(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_str_t                       argv[3];
    ngx_http_clawd_redis_t         *link;
    ngx_http_clawd_resp_item_t     *item;
    ngx_http_clawd_redis_script_t  *script;

    link = cmd->data;
    script = ngx_queue_data(cmd, ngx_http_clawd_redis_script_t, load);

    script->loading = 0;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    if (cmd->result == NGX_HTTP_CLAWD_REDIS_AUTH) {

        /* someone else may have loaded it */

        ngx_str_set(&argv[0], "SCRIPT");
        ngx_str_set(&argv[1], "EXISTS");
        argv[2] = script->sha;

        if (ngx_http_clawd_redis_own(link, &script->exists, 3, argv)
            != NGX_OK)
        {
            ngx_http_clawd_redis_hello_fault(link,
                                             NGX_HTTP_CLAWD_REDIS_CONNECT,
                                             "no memory");
        }

        return;
    }

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_OK) {
        ngx_http_clawd_redis_hello_fault(link, cmd->result,
                                         "SCRIPT LOAD was refused");
        return;
    }

    item = &cmd->reply->items[0];

    if (item->type != NGX_HTTP_CLAWD_RESP_BULK_STRING
        || item->text.len != NGX_HTTP_CLAWD_REDIS_SHA_LEN
        || ngx_memcmp(item->text.data, script->hex,
                      NGX_HTTP_CLAWD_REDIS_SHA_LEN)
           != 0)
    {
        ngx_http_clawd_redis_hello_fault(link, NGX_HTTP_CLAWD_REDIS_PROTOCOL,
                                         "SCRIPT LOAD told another digest");
        return;
    }

    ngx_http_clawd_redis_hello_step(link);
}


static void
ngx_http_clawd_redis_hello_exists(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_http_clawd_resp_t          *resp;
    ngx_http_clawd_redis_t         *link;
    ngx_http_clawd_redis_result_e   result;

    link = cmd->data;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    resp = cmd->reply;
    result = cmd->result;

    if (result == NGX_HTTP_CLAWD_REDIS_OK) {

        if (resp->nitems == 2
            && resp->items[0].type == NGX_HTTP_CLAWD_RESP_ARRAY
            && resp->items[1].type == NGX_HTTP_CLAWD_RESP_INTEGER
            && resp->items[1].integer == 1)
        {
            ngx_http_clawd_redis_hello_step(link);
            return;
        }

        result = NGX_HTTP_CLAWD_REDIS_AUTH;
    }

    ngx_http_clawd_redis_hello_fault(link, result,
                                     "a script is not there, and SCRIPT LOAD "
                                     "is not permitted");
}


static void
ngx_http_clawd_redis_hello_info(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_http_clawd_redis_t      *link;
    ngx_http_clawd_resp_item_t  *item;

    link = cmd->data;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    /* not permitted, or renamed: the run id stays unknown */

    if (cmd->result == NGX_HTTP_CLAWD_REDIS_AUTH
        || cmd->result == NGX_HTTP_CLAWD_REDIS_ERROR)
    {
        ngx_http_clawd_redis_hello_step(link);
        return;
    }

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_OK) {
        ngx_http_clawd_redis_hello_fault(link, cmd->result,
                                         "INFO was refused");
        return;
    }

    item = &cmd->reply->items[0];

    if (item->type != NGX_HTTP_CLAWD_RESP_BULK_STRING) {
        ngx_http_clawd_redis_hello_fault(link, NGX_HTTP_CLAWD_REDIS_PROTOCOL,
                                         "INFO told no text");
        return;
    }

    ngx_http_clawd_redis_hello_run_id(link, &item->text);
    ngx_http_clawd_redis_hello_step(link);
}


static void
ngx_http_clawd_redis_hello_run_id(ngx_http_clawd_redis_t *link,
    ngx_str_t *text)
{
    size_t   n;
    u_char  *p, *last;

    p = text->data;
    last = p + text->len;

    while (p && last - p > 7 && ngx_memcmp(p, "run_id:", 7) != 0) {
        p = ngx_strlchr(p, last, LF);
        p = p ? p + 1 : NULL;
    }

    if (p == NULL || last - p <= 7) {
        return;
    }

    p += 7;

    for (n = 0; n < NGX_HTTP_CLAWD_REDIS_RUN_ID_LEN && p + n < last; n++) {
        if (!((p[n] >= '0' && p[n] <= '9') || (p[n] >= 'a' && p[n] <= 'f'))) {
            break;
        }

        link->run_id_buf[n] = p[n];
    }

    link->run_id.data = link->run_id_buf;
    link->run_id.len = n;
}


static void
ngx_http_clawd_redis_hello_time(ngx_http_clawd_redis_cmd_t *cmd)
{
    off_t                    sec, usec;
    ngx_http_clawd_resp_t   *resp;
    ngx_http_clawd_redis_t  *link;

    link = cmd->data;

    if (link->state != NGX_HTTP_CLAWD_REDIS_HELLO) {
        return;
    }

    /* not permitted: the first reply that tells the time will do */

    if (cmd->result == NGX_HTTP_CLAWD_REDIS_AUTH
        || cmd->result == NGX_HTTP_CLAWD_REDIS_ERROR)
    {
        ngx_http_clawd_redis_hello_step(link);
        return;
    }

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_OK) {
        ngx_http_clawd_redis_hello_fault(link, cmd->result,
                                         "TIME was refused");
        return;
    }

    resp = cmd->reply;

    if (resp->nitems == 3
        && resp->items[1].type == NGX_HTTP_CLAWD_RESP_BULK_STRING
        && resp->items[2].type == NGX_HTTP_CLAWD_RESP_BULK_STRING)
    {
        sec = ngx_atoof(resp->items[1].text.data, resp->items[1].text.len);
        usec = ngx_atoof(resp->items[2].text.data, resp->items[2].text.len);

        if (sec >= 0 && sec < (off_t) 1 << 40 && usec >= 0 && usec < 1000000) {
            ngx_http_clawd_redis_clock(link, cmd->sent,
                                       (int64_t) sec * 1000000 + usec);
            ngx_http_clawd_redis_hello_step(link);
            return;
        }
    }

    ngx_http_clawd_redis_hello_fault(link, NGX_HTTP_CLAWD_REDIS_PROTOCOL,
                                     "TIME told no time");
}


static void
ngx_http_clawd_redis_hello_pong(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_http_clawd_redis_t  *link;

    link = cmd->data;
    link->pinging = 0;
}


static void
ngx_http_clawd_redis_hello_fault(ngx_http_clawd_redis_t *link,
    ngx_http_clawd_redis_result_e result, const char *what)
{
    link->fault = result;
    link->conn.what = what;
}


static void
ngx_http_clawd_redis_hello_step(ngx_http_clawd_redis_t *link)
{
    if (--link->steps == 0) {
        ngx_http_clawd_redis_hello_end(link);
    }
}
