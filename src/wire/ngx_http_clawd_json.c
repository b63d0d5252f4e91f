/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_json.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif


/* what may come next */

typedef enum {
    NGX_HTTP_CLAWD_JS_VALUE = 0,
    NGX_HTTP_CLAWD_JS_ELEMENT,         /* a value, or the end of the array */
    NGX_HTTP_CLAWD_JS_MEMBER,          /* a key, or the end of the object */
    NGX_HTTP_CLAWD_JS_KEY,
    NGX_HTTP_CLAWD_JS_COLON,
    NGX_HTTP_CLAWD_JS_AFTER,           /* a comma, or an end */
    NGX_HTTP_CLAWD_JS_STRING,
    NGX_HTTP_CLAWD_JS_ESCAPE,
    NGX_HTTP_CLAWD_JS_HEX,             /* sub: digits read of \uXXXX */
    NGX_HTTP_CLAWD_JS_NUMBER,
    NGX_HTTP_CLAWD_JS_LITERAL,         /* sub: bytes read of type's word */
    NGX_HTTP_CLAWD_JS_ROOT,            /* the root has ended */
    NGX_HTTP_CLAWD_JS_FAILED
} ngx_http_clawd_json_state_e;


/* how much of a number there is */

typedef enum {
    NGX_HTTP_CLAWD_JN_MINUS = 0,
    NGX_HTTP_CLAWD_JN_ZERO,
    NGX_HTTP_CLAWD_JN_INT,
    NGX_HTTP_CLAWD_JN_POINT,
    NGX_HTTP_CLAWD_JN_FRACTION,
    NGX_HTTP_CLAWD_JN_E,
    NGX_HTTP_CLAWD_JN_SIGN,
    NGX_HTTP_CLAWD_JN_EXPONENT
} ngx_http_clawd_json_number_e;


/* what a string is */

#define NGX_HTTP_CLAWD_JP_KEY    0x01
#define NGX_HTTP_CLAWD_JP_KEEP   0x02


#define NGX_HTTP_CLAWD_JSON_NO_NODE  0xff


#define ngx_http_clawd_json_at(js, p)  ((js)->offset + ((p) - (js)->from))

#define ngx_http_clawd_json_is_space(c)                                       \
    ((c) == ' ' || (c) == '\n' || (c) == '\r' || (c) == '\t')

#define ngx_http_clawd_json_is_digit(c)  ((u_char) ((c) - '0') < 10)


static u_char *ngx_http_clawd_json_step(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_value(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_member(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_colon(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_after(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_open(ngx_http_clawd_json_t *js, u_char *p,
    ngx_uint_t object);
static u_char *ngx_http_clawd_json_close(ngx_http_clawd_json_t *js, u_char *p,
    ngx_uint_t object);
static void ngx_http_clawd_json_forget(ngx_http_clawd_json_t *js,
    ngx_uint_t node);
static void ngx_http_clawd_json_element(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_json_key(ngx_http_clawd_json_t *js, u_char *key,
    size_t len);
static ngx_uint_t ngx_http_clawd_json_find(ngx_http_clawd_json_t *js,
    ngx_uint_t parent, u_char *key, size_t len);
static void ngx_http_clawd_json_folded(ngx_http_clawd_json_t *js,
    ngx_uint_t parent, u_char *key, size_t len);
static ngx_uint_t ngx_http_clawd_json_fold_equal(const ngx_str_t *name,
    u_char *key, size_t len);
static u_char *ngx_http_clawd_json_quote(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_pass(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_string(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static void ngx_http_clawd_json_string_end(ngx_http_clawd_json_t *js,
    u_char *p);
static u_char *ngx_http_clawd_json_escape_char(ngx_http_clawd_json_t *js,
    u_char *p);
static u_char *ngx_http_clawd_json_hex(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static void ngx_http_clawd_json_code(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_json_lone(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_json_put(ngx_http_clawd_json_t *js, uint32_t code);
static void ngx_http_clawd_json_keep(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static void ngx_http_clawd_json_check(ngx_http_clawd_json_t *js);
static u_char *ngx_http_clawd_json_number(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_digits(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static ngx_uint_t ngx_http_clawd_json_number_whole(ngx_uint_t sub);
static u_char *ngx_http_clawd_json_literal(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static void ngx_http_clawd_json_scalar(ngx_http_clawd_json_t *js, u_char *p);
static u_char *ngx_http_clawd_json_fail(ngx_http_clawd_json_t *js, u_char *p,
    ngx_http_clawd_json_error_e error);
static u_char ngx_http_clawd_json_simple(u_char c);
static ngx_int_t ngx_http_clawd_json_hex4(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_utf8(u_char *dst, uint32_t code);
static size_t ngx_http_clawd_json_utf8_len(u_char *p, u_char *last);


static ngx_inline ngx_uint_t
ngx_http_clawd_json_hash(ngx_uint_t parent, u_char *key, size_t len)
{
    return (parent * 23 + len * 5 + key[0] * 3 + key[len - 1])
           % NGX_HTTP_CLAWD_JSON_NODES;
}


/* whether keys or elements of the container that is open can have a node */

static ngx_inline ngx_uint_t
ngx_http_clawd_json_can_match(ngx_http_clawd_json_t *js)
{
    return js->depth == js->matched
           && (js->parents >> js->path[js->depth - 1] & 1);
}


static ngx_inline ngx_uint_t
ngx_http_clawd_json_in_object(ngx_http_clawd_json_t *js)
{
    return js->stack[(js->depth - 1) / 8] >> (js->depth - 1) % 8 & 1;
}


void
ngx_http_clawd_json_init(ngx_http_clawd_json_t *js,
    const ngx_http_clawd_json_node_t *nodes, ngx_uint_t nnodes)
{
    uint64_t                           bit;
    ngx_uint_t                         i, slot;
    const ngx_http_clawd_json_node_t  *n;

    js->nodes = nodes;
    js->nnodes = nnodes;
    js->parents = 0;
    js->controls = 0;

    /* node 0 is nobody's child, so 0 ends a chain */

    ngx_memzero(js->heads, sizeof(js->heads));

    for (i = 1; i < nnodes; i++) {
        n = &nodes[i];
        bit = (uint64_t) 1 << n->parent;

        js->parents |= bit;

        if (n->flags & NGX_HTTP_CLAWD_JSON_CONTROL) {
            js->controls |= bit;
        }

        slot = ngx_http_clawd_json_hash(n->parent, n->key.data, n->key.len);

        js->nexts[i] = js->heads[slot];
        js->heads[slot] = (u_char) i;
    }

    ngx_http_clawd_json_again(js);
}


void
ngx_http_clawd_json_again(ngx_http_clawd_json_t *js)
{
    js->node = 0;
    js->type = NGX_HTTP_CLAWD_JSON_NULL;
    js->error = NGX_HTTP_CLAWD_JSON_OK;
    js->key_start = -1;
    js->start = 0;
    js->end = 0;
    js->size = 0;

    js->offset = 0;
    js->seen = 0;
    js->code = 0;
    js->high = 0;
    js->depth = 0;
    js->matched = 0;
    js->text_len = 0;
    js->key_len = 0;
    js->child = 0;
    js->event = NGX_HTTP_CLAWD_JSON_AGAIN;
    js->state = NGX_HTTP_CLAWD_JS_VALUE;
    js->sub = 0;
    js->part = 0;
    js->truncated = 0;
    js->invalid = 0;
}


ngx_http_clawd_json_event_e
ngx_http_clawd_json_next(ngx_http_clawd_json_t *js, u_char **pos,
    u_char *last)
{
    u_char  *p;

    if (js->state == NGX_HTTP_CLAWD_JS_ROOT) {
        return NGX_HTTP_CLAWD_JSON_DONE;
    }

    if (js->state == NGX_HTTP_CLAWD_JS_FAILED) {
        return NGX_HTTP_CLAWD_JSON_ERROR;
    }

    p = *pos;

    js->from = p;
    js->event = NGX_HTTP_CLAWD_JSON_AGAIN;

    while (p < last && js->event == NGX_HTTP_CLAWD_JSON_AGAIN) {
        p = ngx_http_clawd_json_step(js, p, last);
    }

    js->offset += p - js->from;
    *pos = p;

    return js->event;
}


/* p < last; takes one token or what there is of it */

static u_char *
ngx_http_clawd_json_step(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    switch (js->state) {

    case NGX_HTTP_CLAWD_JS_VALUE:
    case NGX_HTTP_CLAWD_JS_ELEMENT:
        return ngx_http_clawd_json_value(js, p, last);

    case NGX_HTTP_CLAWD_JS_MEMBER:
    case NGX_HTTP_CLAWD_JS_KEY:
        return ngx_http_clawd_json_member(js, p, last);

    case NGX_HTTP_CLAWD_JS_COLON:
        return ngx_http_clawd_json_colon(js, p, last);

    case NGX_HTTP_CLAWD_JS_AFTER:
        return ngx_http_clawd_json_after(js, p, last);

    case NGX_HTTP_CLAWD_JS_STRING:
        return ngx_http_clawd_json_string(js, p, last);

    case NGX_HTTP_CLAWD_JS_ESCAPE:
        return ngx_http_clawd_json_escape_char(js, p);

    case NGX_HTTP_CLAWD_JS_HEX:
        return ngx_http_clawd_json_hex(js, p, last);

    case NGX_HTTP_CLAWD_JS_NUMBER:
        return ngx_http_clawd_json_number(js, p, last);

    default: /* NGX_HTTP_CLAWD_JS_LITERAL */
        return ngx_http_clawd_json_literal(js, p, last);
    }
}


static ngx_inline u_char *
ngx_http_clawd_json_space(u_char *p, u_char *last)
{
    while (p < last && ngx_http_clawd_json_is_space(*p)) {
        p++;
    }

    return p;
}


static u_char *
ngx_http_clawd_json_value(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    p = ngx_http_clawd_json_space(p, last);
    if (p == last) {
        return p;
    }

    if (*p == ']' && js->state == NGX_HTTP_CLAWD_JS_ELEMENT) {
        return ngx_http_clawd_json_close(js, p, 0);
    }

    js->start = ngx_http_clawd_json_at(js, p);
    js->sub = 0;

    switch (*p) {

    case '"':
        return ngx_http_clawd_json_quote(js, p + 1, last);

    case '{':
        return ngx_http_clawd_json_open(js, p, 1);

    case '[':
        return ngx_http_clawd_json_open(js, p, 0);

    case 't':
        js->type = NGX_HTTP_CLAWD_JSON_TRUE;
        return ngx_http_clawd_json_literal(js, p, last);

    case 'f':
        js->type = NGX_HTTP_CLAWD_JSON_FALSE;
        return ngx_http_clawd_json_literal(js, p, last);

    case 'n':
        js->type = NGX_HTTP_CLAWD_JSON_NULL;
        return ngx_http_clawd_json_literal(js, p, last);
    }

    if (*p != '-' && !ngx_http_clawd_json_is_digit(*p)) {
        return ngx_http_clawd_json_fail(js, p, NGX_HTTP_CLAWD_JSON_SYNTAX);
    }

    js->type = NGX_HTTP_CLAWD_JSON_NUMBER;
    js->text_len = 0;
    js->truncated = 0;
    js->invalid = 0;

    if (*p == '-') {
        js->sub = NGX_HTTP_CLAWD_JN_MINUS;

    } else {
        js->sub = (*p == '0') ? NGX_HTTP_CLAWD_JN_ZERO
                              : NGX_HTTP_CLAWD_JN_INT;
    }

    ngx_http_clawd_json_keep(js, p, p + 1);

    return ngx_http_clawd_json_number(js, p + 1, last);
}


static u_char *
ngx_http_clawd_json_member(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    u_char  *q;

    p = ngx_http_clawd_json_space(p, last);
    if (p == last) {
        return p;
    }

    if (*p != '"') {

        if (*p == '}' && js->state == NGX_HTTP_CLAWD_JS_MEMBER) {
            return ngx_http_clawd_json_close(js, p, 1);
        }

        return ngx_http_clawd_json_fail(js, p, NGX_HTTP_CLAWD_JSON_SYNTAX);
    }

    js->key_start = ngx_http_clawd_json_at(js, p);
    js->child = NGX_HTTP_CLAWD_JSON_NO_NODE;

    p++;
    q = ngx_http_clawd_json_skip(p, last);

    if (q < last && *q == '"') {
        js->state = NGX_HTTP_CLAWD_JS_COLON;

        if (ngx_http_clawd_json_can_match(js)) {
            ngx_http_clawd_json_key(js, p, q - p);
        }

        q++;

        if (q == last || js->event != NGX_HTTP_CLAWD_JSON_AGAIN) {
            return q;
        }

        return ngx_http_clawd_json_colon(js, q, last);
    }

    js->state = NGX_HTTP_CLAWD_JS_STRING;
    js->part = NGX_HTTP_CLAWD_JP_KEY;
    js->key_len = 0;

    if (ngx_http_clawd_json_can_match(js)) {
        js->part |= NGX_HTTP_CLAWD_JP_KEEP;
    }

    return ngx_http_clawd_json_string(js, p, last);
}


static u_char *
ngx_http_clawd_json_colon(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    p = ngx_http_clawd_json_space(p, last);
    if (p == last) {
        return p;
    }

    if (*p != ':') {
        return ngx_http_clawd_json_fail(js, p, NGX_HTTP_CLAWD_JSON_SYNTAX);
    }

    js->state = NGX_HTTP_CLAWD_JS_VALUE;

    return p + 1;
}


static u_char *
ngx_http_clawd_json_after(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    p = ngx_http_clawd_json_space(p, last);
    if (p == last) {
        return p;
    }

    switch (*p) {

    case ',':

        if (ngx_http_clawd_json_in_object(js)) {
            js->state = NGX_HTTP_CLAWD_JS_KEY;

        } else {
            js->state = NGX_HTTP_CLAWD_JS_VALUE;
            ngx_http_clawd_json_element(js);
        }

        return p + 1;

    case '}':
        return ngx_http_clawd_json_close(js, p, 1);

    case ']':
        return ngx_http_clawd_json_close(js, p, 0);
    }

    return ngx_http_clawd_json_fail(js, p, NGX_HTTP_CLAWD_JSON_SYNTAX);
}


static u_char *
ngx_http_clawd_json_open(ngx_http_clawd_json_t *js, u_char *p,
    ngx_uint_t object)
{
    u_char      bit;
    ngx_uint_t  level;

    if (js->depth == NGX_HTTP_CLAWD_JSON_DEPTH) {
        return ngx_http_clawd_json_fail(js, p, NGX_HTTP_CLAWD_JSON_TOO_DEEP);
    }

    level = js->depth++;
    bit = (u_char) (1 << level % 8);

    if (object) {
        js->stack[level / 8] |= bit;
        js->state = NGX_HTTP_CLAWD_JS_MEMBER;

    } else {
        js->stack[level / 8] &= (u_char) ~bit;
        js->state = NGX_HTTP_CLAWD_JS_ELEMENT;
    }

    /* a child is only ever found in a container that is matched itself */

    if (js->child != NGX_HTTP_CLAWD_JSON_NO_NODE
        && level < NGX_HTTP_CLAWD_JSON_PATH)
    {
        js->path[level] = js->child;
        js->starts[level] = js->start;
        js->matched = js->depth;

        js->node = js->child;
        js->type = object ? NGX_HTTP_CLAWD_JSON_OBJECT
                          : NGX_HTTP_CLAWD_JSON_ARRAY;
        js->event = NGX_HTTP_CLAWD_JSON_BEGIN;

        if (object && (js->controls >> js->child & 1)) {
            ngx_http_clawd_json_forget(js, js->child);
        }
    }

    if (!object) {
        js->key_start = (js->event == NGX_HTTP_CLAWD_JSON_BEGIN)
                        ? js->key_start : -1;
        ngx_http_clawd_json_element(js);
    }

    return p + 1;
}
