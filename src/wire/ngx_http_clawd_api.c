/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_api.h"


#define NGX_HTTP_CLAWD_API_GET_HEAD                                           \
    (NGX_HTTP_CLAWD_API_GET | NGX_HTTP_CLAWD_API_HEAD)

#define NGX_HTTP_CLAWD_API_POST_HEAD                                          \
    (NGX_HTTP_CLAWD_API_POST | NGX_HTTP_CLAWD_API_HEAD)

#define ngx_http_clawd_api_infer(uri, format)                                 \
    { ngx_string(uri), NGX_HTTP_CLAWD_API_POST, NGX_HTTP_CLAWD_CLASS_INFER,   \
      NGX_HTTP_CLAWD_FORMAT_##format, ngx_string("POST") }

#define ngx_http_clawd_api_list(uri, methods, allow)                          \
    { ngx_string(uri), NGX_HTTP_CLAWD_API_##methods,                          \
      NGX_HTTP_CLAWD_CLASS_LIST, NGX_HTTP_CLAWD_FORMAT_NONE,                  \
      ngx_string(allow) }

#define ngx_http_clawd_api_admin(uri, methods, format, allow)                 \
    { ngx_string(uri), NGX_HTTP_CLAWD_API_##methods,                          \
      NGX_HTTP_CLAWD_CLASS_ADMIN, NGX_HTTP_CLAWD_FORMAT_##format,             \
      ngx_string(allow) }


/*
 * Searched from the top for every request: the busy ones come first, and most
 * of the others differ in length already.
 */

static const ngx_http_clawd_api_t  ngx_http_clawd_apis[] = {

    ngx_http_clawd_api_infer("/v1/chat/completions", CHAT),
    ngx_http_clawd_api_infer("/api/chat", NATIVE),
    ngx_http_clawd_api_infer("/v1/messages", MESSAGES),
    ngx_http_clawd_api_infer("/v1/responses", RESPONSES),
    ngx_http_clawd_api_infer("/api/generate", NATIVE),
    ngx_http_clawd_api_infer("/v1/embeddings", EMBEDDINGS),
    ngx_http_clawd_api_infer("/v1/completions", COMPLETIONS),
    ngx_http_clawd_api_infer("/api/embed", EMBEDDINGS),
    ngx_http_clawd_api_infer("/api/embeddings", EMBEDDINGS),

    { ngx_string("/v1/usage"), NGX_HTTP_CLAWD_API_GET_HEAD,
      NGX_HTTP_CLAWD_CLASS_USAGE, NGX_HTTP_CLAWD_FORMAT_NONE,
      ngx_string("GET, HEAD") },

    ngx_http_clawd_api_list("/v1/models", GET, "GET"),
    ngx_http_clawd_api_list("/v1/models/*", GET, "GET"),
    ngx_http_clawd_api_list("/api/tags", GET_HEAD, "GET, HEAD"),
    ngx_http_clawd_api_list("/api/ps", GET, "GET"),
    ngx_http_clawd_api_list("/api/version", GET_HEAD, "GET, HEAD"),
    ngx_http_clawd_api_list("/", GET_HEAD, "GET, HEAD"),

    ngx_http_clawd_api_admin("/api/show", POST, NONE, "POST"),
    ngx_http_clawd_api_admin("/api/pull", POST, NATIVE, "POST"),
    ngx_http_clawd_api_admin("/api/push", POST, NATIVE, "POST"),
    ngx_http_clawd_api_admin("/api/create", POST, NATIVE, "POST"),
    ngx_http_clawd_api_admin("/api/blobs/*", POST_HEAD, NONE, "POST, HEAD"),
    ngx_http_clawd_api_admin("/api/copy", POST, NONE, "POST"),
    ngx_http_clawd_api_admin("/api/delete", DELETE, NONE, "DELETE"),
    ngx_http_clawd_api_admin("/api/status", GET, NONE, "GET"),
    ngx_http_clawd_api_admin("/api/experimental/model-recommendations", GET,
                             NONE, "GET")
};


static ngx_uint_t ngx_http_clawd_api_match(const ngx_str_t *pattern,
    ngx_str_t *uri);
static ngx_int_t ngx_http_clawd_api_hex(u_char ch);


const ngx_http_clawd_api_t *
ngx_http_clawd_api_find(ngx_str_t *uri)
{
    ngx_uint_t                   i, n;
    const ngx_http_clawd_api_t  *api;

    n = sizeof(ngx_http_clawd_apis) / sizeof(ngx_http_clawd_apis[0]);

    for (i = 0; i < n; i++) {
        api = &ngx_http_clawd_apis[i];

        if (api->uri.data[api->uri.len - 1] == '*') {

            if (ngx_http_clawd_api_match(&api->uri, uri)) {
                return api;
            }

        } else if (api->uri.len == uri->len
                   && ngx_memcmp(api->uri.data, uri->data, uri->len) == 0)
        {
            return api;
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_clawd_api_match(const ngx_str_t *pattern, ngx_str_t *uri)
{
    u_char  *p, *last;
    size_t   len;

    len = pattern->len - 1;

    if (uri->len <= len || ngx_memcmp(pattern->data, uri->data, len) != 0) {
        return 0;
    }

    last = uri->data + uri->len;

    for (p = uri->data + len; p < last; p++) {
        if (*p == '/') {
            return 0;
        }
    }

    return 1;
}


ngx_http_clawd_family_e
ngx_http_clawd_api_family(ngx_str_t *uri)
{
    static const ngx_str_t  messages = ngx_string("/v1/messages");
    static const ngx_str_t  native = ngx_string("/api/");

    if (uri->len >= messages.len
        && ngx_memcmp(uri->data, messages.data, messages.len) == 0)
    {
        return NGX_HTTP_CLAWD_ANTHROPIC;
    }

    if (uri->len >= native.len
        && ngx_memcmp(uri->data, native.data, native.len) == 0)
    {
        return NGX_HTTP_CLAWD_OLLAMA;
    }

    return NGX_HTTP_CLAWD_OPENAI;
}


ngx_int_t
ngx_http_clawd_api_raw_path(u_char *p, u_char *last)
{
    u_char     ch;
    ngx_int_t  high, low;

    while (p < last) {
        ch = *p++;

        /* most are of words */

        if (ch >= 'a' && ch <= 'z') {
            continue;
        }

        if (ch == '%') {

            if (last - p < 2) {
                return NGX_DECLINED;
            }

            high = ngx_http_clawd_api_hex(p[0]);
            low = ngx_http_clawd_api_hex(p[1]);

            if (high == NGX_ERROR || low == NGX_ERROR) {
                return NGX_DECLINED;
            }

            ch = (u_char) (high * 16 + low);
            p += 2;

            if (ch == '/' || ch == '%') {
                return NGX_DECLINED;
            }
        }

        if (ch < 0x20 || ch == 0x7f || ch == '\\' || ch == ';') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_api_hex(u_char ch)
{
    if (ch >= '0' && ch <= '9') {
        return ch - '0';
    }

    ch |= 0x20;

    if (ch >= 'a' && ch <= 'f') {
        return ch - 'a' + 10;
    }

    return NGX_ERROR;
}
