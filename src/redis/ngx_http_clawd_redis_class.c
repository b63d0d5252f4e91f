/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_class.h"


typedef struct {
    ngx_str_t                      head;
    ngx_http_clawd_redis_result_e  result;
} ngx_http_clawd_redis_head_t;


static ngx_uint_t ngx_http_clawd_redis_head(ngx_str_t *text, ngx_str_t *head);
static void ngx_http_clawd_redis_inner(ngx_str_t *text);


ngx_str_t  ngx_http_clawd_redis_classes[NGX_HTTP_CLAWD_REDIS_RESULTS] = {
    ngx_string("ok"),
    ngx_string("connect"),
    ngx_string("timeout"),
    ngx_string("protocol"),
    ngx_string("auth"),
    ngx_string("loading"),
    ngx_string("readonly"),
    ngx_string("oom"),
    ngx_string("noscript"),
    ngx_string("moved"),
    ngx_string("wrongtype"),
    ngx_string("error")
};


/* each is followed by a space or the end; the first that fits counts */

static ngx_http_clawd_redis_head_t  ngx_http_clawd_redis_heads[] = {
    { ngx_string("NOSCRIPT"), NGX_HTTP_CLAWD_REDIS_NOSCRIPT },
    { ngx_string("NOAUTH"), NGX_HTTP_CLAWD_REDIS_AUTH },
    { ngx_string("WRONGPASS"), NGX_HTTP_CLAWD_REDIS_AUTH },
    { ngx_string("NOPERM"), NGX_HTTP_CLAWD_REDIS_AUTH },
    { ngx_string("DENIED"), NGX_HTTP_CLAWD_REDIS_AUTH },
    { ngx_string("ERR The user executing the script can't"),
      NGX_HTTP_CLAWD_REDIS_AUTH },
    { ngx_string("LOADING"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("BUSY"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("MASTERDOWN"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("CLUSTERDOWN"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("TRYAGAIN"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("MISCONF"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("NOREPLICAS"), NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("ERR max number of clients reached"),
      NGX_HTTP_CLAWD_REDIS_LOADING },
    { ngx_string("READONLY"), NGX_HTTP_CLAWD_REDIS_READONLY },
    { ngx_string("OOM"), NGX_HTTP_CLAWD_REDIS_OOM },
    { ngx_string("MOVED"), NGX_HTTP_CLAWD_REDIS_MOVED },
    { ngx_string("ASK"), NGX_HTTP_CLAWD_REDIS_MOVED },
    { ngx_string("CROSSSLOT"), NGX_HTTP_CLAWD_REDIS_MOVED },
    { ngx_string("WRONGTYPE"), NGX_HTTP_CLAWD_REDIS_WRONGTYPE },
    { ngx_null_string, NGX_HTTP_CLAWD_REDIS_ERROR }
};


ngx_http_clawd_redis_result_e
ngx_http_clawd_redis_class(ngx_str_t *text)
{
    ngx_str_t                     s;
    ngx_http_clawd_redis_head_t  *h;

    s = *text;
    ngx_http_clawd_redis_inner(&s);

    for (h = ngx_http_clawd_redis_heads; h->head.len; h++) {
        if (ngx_http_clawd_redis_head(&s, &h->head)) {
            break;
        }
    }

    return h->result;
}


static ngx_uint_t
ngx_http_clawd_redis_head(ngx_str_t *text, ngx_str_t *head)
{
    if (text->len < head->len
        || ngx_memcmp(text->data, head->data, head->len) != 0)
    {
        return 0;
    }

    return text->len == head->len || text->data[head->len] == ' ';
}


/*
 * Before version 7, servers wrap the error of a command within a script:
 *
 *     ERR Error running script (…): @user_script:3: [@user_script: 3: ][-]OOM …
 *
 * Goes to what is behind the last "@user_script:", its line and the dash.
 */

static void
ngx_http_clawd_redis_inner(ngx_str_t *text)
{
    u_char  *p, *last, *found;

    static ngx_str_t  outer = ngx_string("ERR Error running script");
    static ngx_str_t  mark = ngx_string("@user_script:");

    if (!ngx_http_clawd_redis_head(text, &outer)) {
        return;
    }

    last = text->data + text->len;
    found = NULL;

    for (p = text->data; (size_t) (last - p) >= mark.len; p++) {
        if (ngx_memcmp(p, mark.data, mark.len) == 0) {
            found = p + mark.len;
        }
    }

    if (found == NULL) {
        return;
    }

    for (p = found; p < last && *p == ' '; p++) { /* void */ }
    for ( /* void */ ; p < last && *p >= '0' && *p <= '9'; p++) { /* void */ }
    for ( /* void */ ; p < last && (*p == ':' || *p == ' '); p++) { /* void */ }

    if (p < last && *p == '-') {
        p++;
    }

    text->data = p;
    text->len = last - p;
}
