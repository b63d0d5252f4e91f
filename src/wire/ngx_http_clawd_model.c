/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_model.h"


static void ngx_http_clawd_model_trim(ngx_str_t *name);
static ngx_int_t ngx_http_clawd_model_check(ngx_str_t *name);
static void ngx_http_clawd_model_strip(ngx_str_t *name);
static void ngx_http_clawd_model_scheme(ngx_str_t *name);
static ngx_uint_t ngx_http_clawd_model_head(ngx_str_t *name, const char *head,
    size_t len);
static ngx_uint_t ngx_http_clawd_model_tail(ngx_str_t *name, const char *tail,
    size_t len);
static ngx_uint_t ngx_http_clawd_model_cloud(ngx_str_t *name);


#define ngx_http_clawd_model_starts(name, s)                                  \
    ngx_http_clawd_model_head(name, s, sizeof(s) - 1)

#define ngx_http_clawd_model_ends(name, s)                                    \
    ngx_http_clawd_model_tail(name, s, sizeof(s) - 1)


ngx_int_t
ngx_http_clawd_model_parse(ngx_http_clawd_model_t *m, ngx_str_t *name)
{
    size_t      i;
    ngx_str_t   s, rest;
    ngx_uint_t  local;

    s = *name;

    ngx_http_clawd_model_trim(&s);

    if (ngx_http_clawd_model_check(&s) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_clawd_model_strip(&s);

    local = ngx_http_clawd_model_ends(&s, ":local");
    if (local) {
        s.len -= sizeof(":local") - 1;
    }

    m->cloud = ngx_http_clawd_model_cloud(&s);

    rest = s;
    if (ngx_http_clawd_model_ends(&rest, ":cloud")) {
        rest.len -= sizeof(":cloud") - 1;
    }

    /* what is left of a second ":local" would be stripped by the upstream */

    if ((local && m->cloud) || ngx_http_clawd_model_ends(&rest, ":local")) {
        return NGX_ERROR;
    }

    m->sent = s;

    if (ngx_http_clawd_model_ends(&s, ":latest")) {
        s.len -= sizeof(":latest") - 1;
    }

    if (s.len == 0) {
        return NGX_ERROR;
    }

    for (i = 0; i < s.len; i++) {
        m->buf[i] = ngx_tolower(s.data[i]);
    }

    m->label.data = m->buf;
    m->label.len = s.len;

    return NGX_OK;
}


static void
ngx_http_clawd_model_trim(ngx_str_t *name)
{
    u_char  ch;

    while (name->len) {
        ch = name->data[0];

        if (ch != ' ' && (ch < '\t' || ch > '\r')) {
            break;
        }

        name->data++;
        name->len--;
    }

    while (name->len) {
        ch = name->data[name->len - 1];

        if (ch != ' ' && (ch < '\t' || ch > '\r')) {
            break;
        }

        name->len--;
    }
}


static ngx_int_t
ngx_http_clawd_model_check(ngx_str_t *name)
{
    u_char  ch;
    size_t  i;

    if (name->len == 0 || name->len > NGX_HTTP_CLAWD_MODEL_LEN) {
        return NGX_ERROR;
    }

    for (i = 0; i < name->len; i++) {
        ch = name->data[i];

        if ((ch >= 'a' && ch <= 'z')
            || (ch >= '0' && ch <= ':')      /* digits and the colon */
            || (ch >= '@' && ch <= 'Z')      /* '@' and capitals */
            || (ch >= '-' && ch <= '/')      /* '-', '.' and '/' */
            || ch == '_' || ch == '+')
        {
            continue;
        }

        return NGX_ERROR;
    }

    return NGX_OK;
}


/* until nothing changes: what is sent must have one reading only */

static void
ngx_http_clawd_model_strip(ngx_str_t *name)
{
    size_t     len;
    ngx_str_t  rest;

    do {
        len = name->len;

        ngx_http_clawd_model_scheme(name);

        if (ngx_http_clawd_model_starts(name, "registry.ollama.ai/")) {
            name->data += sizeof("registry.ollama.ai/") - 1;
            name->len -= sizeof("registry.ollama.ai/") - 1;
        }

        if (ngx_http_clawd_model_starts(name, "library/")) {
            rest.data = name->data + sizeof("library/") - 1;
            rest.len = name->len - (sizeof("library/") - 1);

            if (memchr(rest.data, '/', rest.len) == NULL) {
                *name = rest;
            }
        }

    } while (name->len != len);
}


/* an upstream accepts any scheme in front of the host */

static void
ngx_http_clawd_model_scheme(ngx_str_t *name)
{
    size_t  i;

    for (i = 0; i + 3 <= name->len && name->data[i] != '/'; i++) {

        if (ngx_memcmp(name->data + i, "://", 3) == 0) {
            name->data += i + 3;
            name->len -= i + 3;
            return;
        }
    }
}


static ngx_uint_t
ngx_http_clawd_model_head(ngx_str_t *name, const char *head, size_t len)
{
    size_t  i;

    if (name->len < len) {
        return 0;
    }

    for (i = 0; i < len; i++) {
        if (ngx_tolower(name->data[i]) != (u_char) head[i]) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_clawd_model_tail(ngx_str_t *name, const char *tail, size_t len)
{
    ngx_str_t  s;

    if (name->len < len) {
        return 0;
    }

    s.data = name->data + name->len - len;
    s.len = len;

    return ngx_http_clawd_model_head(&s, tail, len);
}


static ngx_uint_t
ngx_http_clawd_model_cloud(ngx_str_t *name)
{
    size_t  i;

    if (ngx_http_clawd_model_ends(name, ":cloud")) {
        return 1;
    }

    if (!ngx_http_clawd_model_ends(name, "-cloud")) {
        return 0;
    }

    /* of the tag alone: "my-cloud" is a name like another */

    for (i = name->len; i > 0 && name->data[i - 1] != '/'; i--) {
        if (name->data[i - 1] == ':') {
            return 1;
        }
    }

    return 0;
}
