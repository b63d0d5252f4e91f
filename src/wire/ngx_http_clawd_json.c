/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_json.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif


#define NGX_HTTP_CLAWD_JSON_NO_NODE   0xff
#define NGX_HTTP_CLAWD_JSON_LONG_KEY  0xff   /* key_len of one not kept */


/* what the next byte belongs to */

enum {
    ngx_http_clawd_json_value = 0,         /* a value has to begin */
    ngx_http_clawd_json_first_value,       /* or the array ends */
    ngx_http_clawd_json_first_key,         /* a key, or the object ends */
    ngx_http_clawd_json_next_key,
    ngx_http_clawd_json_colon,
    ngx_http_clawd_json_behind,            /* a comma, or the end of the
                                              array or object */
    ngx_http_clawd_json_in_key,            /* from here on a token is half
                                              read */
    ngx_http_clawd_json_in_string,
    ngx_http_clawd_json_in_number,
    ngx_http_clawd_json_in_literal,
    ngx_http_clawd_json_done,
    ngx_http_clawd_json_failed
};


/* escape: 0 none, 1 a backslash came, 2 .. 5 a hex digit is due */

#define NGX_HTTP_CLAWD_JSON_BACKSLASH  1
#define NGX_HTTP_CLAWD_JSON_HEX        2


/* sub, within a number; what may end it is marked by whole() */

enum {
    ngx_http_clawd_json_minus = 0,
    ngx_http_clawd_json_zero,
    ngx_http_clawd_json_int,
    ngx_http_clawd_json_dot,
    ngx_http_clawd_json_frac,
    ngx_http_clawd_json_e,
    ngx_http_clawd_json_sign,
    ngx_http_clawd_json_exp
};


static void ngx_http_clawd_json_index(ngx_http_clawd_json_table_t *table);
static u_char *ngx_http_clawd_json_resume(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_walk(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_gap(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_space(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_below(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_json_skim_scalar(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_skim_number(u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_begin_key(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_begin_value(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_begin_string(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_begin_scalar(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_open(ngx_http_clawd_json_t *js, u_char *p);
static u_char *ngx_http_clawd_json_close(ngx_http_clawd_json_t *js,
    u_char *p);
static u_char *ngx_http_clawd_json_string(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_json_pass(u_char *p, u_char *last);
static ngx_uint_t ngx_http_clawd_json_is_escape(u_char *p, u_char *last);
static ngx_int_t ngx_http_clawd_json_escaped(ngx_http_clawd_json_t *js,
    u_char c);
static void ngx_http_clawd_json_keep_code(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_json_keep_char(ngx_http_clawd_json_t *js,
    uint32_t c);
static void ngx_http_clawd_json_lone(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_json_keep(ngx_http_clawd_json_t *js, u_char *p,
    size_t len);
static void ngx_http_clawd_json_end_key(ngx_http_clawd_json_t *js,
    u_char *key, size_t len);
static ngx_uint_t ngx_http_clawd_json_child(ngx_http_clawd_json_t *js,
    ngx_uint_t parent, u_char *key, size_t len);
static ngx_uint_t ngx_http_clawd_json_same(u_char *a, u_char *b, size_t len);
static void ngx_http_clawd_json_folded(ngx_http_clawd_json_t *js,
    ngx_uint_t parent, u_char *key, size_t len);
static void ngx_http_clawd_json_end_scalar(ngx_http_clawd_json_t *js,
    u_char *p);
static void ngx_http_clawd_json_check(ngx_http_clawd_json_t *js);
static u_char *ngx_http_clawd_json_number(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static ngx_uint_t ngx_http_clawd_json_digit(ngx_http_clawd_json_t *js,
    u_char c);
static ngx_uint_t ngx_http_clawd_json_whole(ngx_http_clawd_json_t *js);
static u_char *ngx_http_clawd_json_literal(ngx_http_clawd_json_t *js,
    u_char *p, u_char *last);
static void ngx_http_clawd_json_fail(ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_error_e error);
static u_char *ngx_http_clawd_json_utf8(u_char *dst, uint32_t c);
static size_t ngx_http_clawd_json_utf8_len(u_char *p, u_char *last);


#define ngx_http_clawd_json_at(js, p)  ((js)->offset + ((p) - (js)->origin))

#define ngx_http_clawd_json_captured(js)                                      \
    ((js)->current != NGX_HTTP_CLAWD_JSON_NO_NODE                             \
     && ((js)->table->nodes[(js)->current].flags & NGX_HTTP_CLAWD_JSON_CAPTURE))


static ngx_inline ngx_uint_t
ngx_http_clawd_json_hash(ngx_uint_t parent, u_char *key, size_t len)
{
    return (parent * 23 + len * 5 + key[0] * 3 + key[len - 1])
           % NGX_HTTP_CLAWD_JSON_NODES;
}


#if defined(__SSE2__)

/* a bit for each of 16 bytes that is a quote, a backslash or below 0x20 */

static ngx_inline uint32_t
ngx_http_clawd_json_special(u_char *p)
{
    __m128i  v, w;

    v = _mm_loadu_si128((const __m128i *) p);

    /* flipping a bit makes 0x20 of the quote, and of no other byte */

    w = _mm_xor_si128(v, _mm_set1_epi8('"' ^ 0x20));
    w = _mm_cmpeq_epi8(_mm_min_epu8(w, _mm_set1_epi8(0x20)), w);
    w = _mm_or_si128(w, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));

    return (uint32_t) _mm_movemask_epi8(w);
}

#endif


static ngx_inline u_char *
ngx_http_clawd_json_plain(u_char *p, u_char *last)
{
#if defined(__SSE2__)
    uint32_t  mask;

    for ( /* void */ ; last - p >= 16; p += 16) {
        mask = ngx_http_clawd_json_special(p);

        if (mask) {
            return p + __builtin_ctz(mask);
        }
    }
#endif

    while (p < last && *p != '"' && *p != '\\' && *p >= 0x20) {
        p++;
    }

    return p;
}


static void
ngx_http_clawd_json_index(ngx_http_clawd_json_table_t *table)
{
    uint64_t                           bit;
    ngx_uint_t                         i, slot;
    const ngx_http_clawd_json_node_t  *node;

    /* 0 ends a list: the root is nobody's child */

    for (i = 1; i < table->nnodes; i++) {
        node = &table->nodes[i];
        bit = (uint64_t) 1 << node->parent;

        table->parents |= bit;

        if (node->flags & NGX_HTTP_CLAWD_JSON_CONTROL) {
            table->controls |= bit;
        }

        slot = ngx_http_clawd_json_hash(node->parent, node->key.data,
                                        node->key.len);

        table->nexts[i] = table->heads[slot];
        table->heads[slot] = (u_char) i;
    }

    table->indexed = 1;
}


void
ngx_http_clawd_json_init(ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_table_t *table)
{
    if (!table->indexed) {
        ngx_http_clawd_json_index(table);
    }

    js->table = table;

    js->node = 0;
    js->type = NGX_HTTP_CLAWD_JSON_NULL;
    js->error = NGX_HTTP_CLAWD_JSON_OK;
    js->key_start = 0;
    js->start = 0;
    js->end = 0;
    js->size = 0;

    js->offset = 0;
    js->origin = NULL;
    js->seen = 0;
    js->code = 0;
    js->high = 0;
    js->depth = 0;
    js->matched = 0;
    js->text_len = 0;
    js->key_len = 0;
    js->state = ngx_http_clawd_json_value;
    js->sub = 0;
    js->escape = 0;
    js->known = 1;
    js->current = 0;
    js->truncated = 0;
    js->invalid = 0;

    /* path, stack, begin, key and text are written before they are read */
}


ngx_http_clawd_json_event_e
ngx_http_clawd_json_next(ngx_http_clawd_json_t *js, u_char **pos,
    u_char *last)
{
    u_char  *p, *start;

    p = *pos;

    js->origin = p;
    js->event = NGX_HTTP_CLAWD_JSON_AGAIN;

    if (js->state == ngx_http_clawd_json_done) {
        return NGX_HTTP_CLAWD_JSON_DONE;
    }

    if (js->state == ngx_http_clawd_json_failed) {
        return NGX_HTTP_CLAWD_JSON_ERROR;
    }

    while (p < last && js->event == NGX_HTTP_CLAWD_JSON_AGAIN) {

        if (js->state >= ngx_http_clawd_json_in_key) {
            p = ngx_http_clawd_json_resume(js, p, last);

        } else {
            start = p;

            if (!js->known) {
                p = ngx_http_clawd_json_below(js, p, last);
            }

            if (p == start) {
                p = ngx_http_clawd_json_walk(js, p, last);
            }
        }

        if (js->state == ngx_http_clawd_json_done
            && js->event == NGX_HTTP_CLAWD_JSON_AGAIN)
        {
            js->event = NGX_HTTP_CLAWD_JSON_DONE;
        }
    }

    js->offset += p - *pos;
    *pos = p;

    return js->event;
}


ngx_http_clawd_json_event_e
ngx_http_clawd_json_eof(ngx_http_clawd_json_t *js)
{
    if (js->state == ngx_http_clawd_json_done
        || (js->state == ngx_http_clawd_json_in_number && js->depth == 0
            && ngx_http_clawd_json_whole(js)))
    {
        js->state = ngx_http_clawd_json_done;
        return NGX_HTTP_CLAWD_JSON_DONE;
    }

    ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);

    return NGX_HTTP_CLAWD_JSON_ERROR;
}


/*
 * The functions from here on take bytes from p on, return where they stopped,
 * and set js->event when there is something to tell.
 */


/* goes on with a token that an earlier buffer, or an odd byte, cut */

static u_char *
ngx_http_clawd_json_resume(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    switch (js->state) {

    case ngx_http_clawd_json_in_number:
        return ngx_http_clawd_json_number(js, p, last);

    case ngx_http_clawd_json_in_literal:
        return ngx_http_clawd_json_literal(js, p, last);

    default: /* ngx_http_clawd_json_in_key, ngx_http_clawd_json_in_string */
        return ngx_http_clawd_json_string(js, p, last);
    }
}


/*
 * Takes members and elements until there is something to tell, a token is cut,
 * or something opens or ends.  What comes next is known by where this is, not
 * by js->state: a jump by a state that changes with each token is guessed
 * wrong too often.
 */

static u_char *
ngx_http_clawd_json_walk(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    switch (js->state) {

    case ngx_http_clawd_json_first_key:
    case ngx_http_clawd_json_next_key:
        goto key;

    case ngx_http_clawd_json_colon:
        goto colon;

    case ngx_http_clawd_json_behind:
        goto behind;

    default: /* ngx_http_clawd_json_value, ngx_http_clawd_json_first_value */
        goto value;
    }

key:

    p = ngx_http_clawd_json_gap(p, last);
    if (p == last) {
        return p;
    }

    if (*p != '"') {
        return ngx_http_clawd_json_close(js, p);
    }

    p = ngx_http_clawd_json_begin_key(js, p, last);

    if (js->state != ngx_http_clawd_json_colon) {
        return p;
    }

colon:

    p = ngx_http_clawd_json_gap(p, last);
    if (p == last) {
        return p;
    }

    if (*p != ':') {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
        return p;
    }

    p++;
    js->state = ngx_http_clawd_json_value;

value:

    p = ngx_http_clawd_json_gap(p, last);
    if (p == last) {
        return p;
    }

    if (*p == ']' && js->state == ngx_http_clawd_json_first_value) {
        return ngx_http_clawd_json_close(js, p);
    }

    p = ngx_http_clawd_json_begin_value(js, p, last);

    if (js->state != ngx_http_clawd_json_behind
        || js->event != NGX_HTTP_CLAWD_JSON_AGAIN)
    {
        return p;
    }

behind:

    p = ngx_http_clawd_json_gap(p, last);
    if (p == last) {
        return p;
    }

    if (*p != ',') {
        return ngx_http_clawd_json_close(js, p);
    }

    p++;

    if (js->object) {
        js->state = ngx_http_clawd_json_next_key;
        goto key;
    }

    js->state = ngx_http_clawd_json_value;
    goto value;
}


/* mostly there is none, or a single space */

static ngx_inline u_char *
ngx_http_clawd_json_gap(u_char *p, u_char *last)
{
    return (p < last && *p > ' ') ? p : ngx_http_clawd_json_space(p, last);
}


static u_char *
ngx_http_clawd_json_space(u_char *p, u_char *last)
{
    while (p < last
           && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
    {
        p++;
    }

    return p;
}


/*
 * Most of a body is below paths that nobody asked for: this passes over what
 * is plain there, as whole tokens, until it is back where keys count, and
 * leaves everything odd to walk().
 */

static u_char *
ngx_http_clawd_json_below(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    u_char      state, bit, *next;
    ngx_uint_t  depth, object;

    state = js->state;
    depth = js->depth;
    object = js->object;

    js->current = NGX_HTTP_CLAWD_JSON_NO_NODE;

    for ( /* void */ ; p < last; p = next) {

        next = p + 1;

        switch (*p) {

        case ' ':
        case '\t':
        case '\n':
        case '\r':
            continue;

        case '"':

            if (state <= ngx_http_clawd_json_first_value) {
                next = ngx_http_clawd_json_pass(next, last);
                state = ngx_http_clawd_json_behind;

            } else if (state <= ngx_http_clawd_json_next_key) {
                next = ngx_http_clawd_json_plain(next, last);
                state = ngx_http_clawd_json_colon;

            } else {
                goto done;
            }

            if (next == last || *next != '"') {

                state = (state == ngx_http_clawd_json_colon)
                        ? ngx_http_clawd_json_in_key
                        : ngx_http_clawd_json_in_string;
                js->high = 0;
                p = next;
                goto done;
            }

            next++;
            continue;

        case ':':

            if (state != ngx_http_clawd_json_colon) {
                goto done;
            }

            state = ngx_http_clawd_json_value;
            continue;

        case ',':

            if (state != ngx_http_clawd_json_behind) {
                goto done;
            }

            state = object ? ngx_http_clawd_json_next_key
                           : ngx_http_clawd_json_value;
            continue;

        case '{':
        case '[':

            if (state > ngx_http_clawd_json_first_value
                || depth == NGX_HTTP_CLAWD_JSON_DEPTH)
            {
                goto done;
            }

            object = (*p == '{');
            bit = 1 << (depth % 8);

            js->stack[depth / 8] = object ? js->stack[depth / 8] | bit
                                          : js->stack[depth / 8] & ~bit;
            depth++;

            state = object ? ngx_http_clawd_json_first_key
                           : ngx_http_clawd_json_first_value;
            continue;

        case '}':
        case ']':

            if (depth == js->matched
                || object != (*p == '}')
                || (state != ngx_http_clawd_json_behind
                    && state != (object ? ngx_http_clawd_json_first_key
                                        : ngx_http_clawd_json_first_value)))
            {
                goto done;
            }

            depth--;
            object = (js->stack[(depth - 1) / 8] >> ((depth - 1) % 8)) & 1;
            state = ngx_http_clawd_json_behind;

            if (depth == js->matched
                && (js->table->parents >> js->path[depth - 1] & 1))
            {
                js->known = 1;
                p = next;
                goto done;
            }

            continue;

        default:

            if (state > ngx_http_clawd_json_first_value) {
                goto done;
            }

            next = ngx_http_clawd_json_skim_scalar(p, last);

            if (next == NULL) {
                goto done;
            }

            state = ngx_http_clawd_json_behind;
        }
    }

done:

    js->state = state;
    js->depth = (uint16_t) depth;
    js->object = (u_char) object;

    return p;
}


/* behind a scalar that lies here whole and plain, or NULL */

static u_char *
ngx_http_clawd_json_skim_scalar(u_char *p, u_char *last)
{
    switch (*p) {

    case '"':
        p = ngx_http_clawd_json_pass(p + 1, last);
        return (p < last && *p == '"') ? p + 1 : NULL;

    case 'n':
        return (last - p >= 4 && ngx_memcmp(p, "null", 4) == 0) ? p + 4
                                                                : NULL;

    case 't':
        return (last - p >= 4 && ngx_memcmp(p, "true", 4) == 0) ? p + 4
                                                                : NULL;

    case 'f':
        return (last - p >= 5 && ngx_memcmp(p, "false", 5) == 0) ? p + 5
                                                                 : NULL;
    }

    return ngx_http_clawd_json_skim_number(p, last);
}


/* behind a number without an exponent, which a byte follows, or NULL */

static u_char *
ngx_http_clawd_json_skim_number(u_char *p, u_char *last)
{
    u_char  *digits;

    if (*p == '-') {
        p++;
    }

    for (digits = p; p < last && *p >= '0' && *p <= '9'; p++) { /* void */ }

    if (p == digits || (*digits == '0' && p - digits > 1)) {
        return NULL;
    }

    if (p < last && *p == '.') {

        for (digits = ++p; p < last && *p >= '0' && *p <= '9'; p++) {
            /* void */
        }

        if (p == digits) {
            return NULL;
        }
    }

    return (p < last && *p != 'e' && *p != 'E') ? p : NULL;
}


/* mostly the key lies here whole, and nothing is kept */

static ngx_inline u_char *
ngx_http_clawd_json_begin_key(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last)
{
    u_char  *key;

    js->key_start = ngx_http_clawd_json_at(js, p);

    key = p + 1;
    p = ngx_http_clawd_json_plain(key, last);

    if (p == last || *p != '"') {
        js->key_len = 0;
        js->high = 0;
        js->state = ngx_http_clawd_json_in_key;

        return key;
    }

    js->state = ngx_http_clawd_json_colon;
    ngx_http_clawd_json_end_key(js, key, p - key);

    return p + 1;
}


/* in an object the key has named the value's node already */

static ngx_inline u_char *
ngx_http_clawd_json_begin_value(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last)
{
    u_char  *end;

    if (js->depth && !js->object) {
        js->current = js->known
                      ? ngx_http_clawd_json_child(js,
                                                  js->path[js->depth - 1],
                                                  (u_char *) "*", 1)
                      : NGX_HTTP_CLAWD_JSON_NO_NODE;
    }

    if (*p == '"') {
        return ngx_http_clawd_json_begin_string(js, p, last);
    }

    if (*p == '{' || *p == '[') {
        return ngx_http_clawd_json_open(js, p);
    }

    if (js->current == NGX_HTTP_CLAWD_JSON_NO_NODE) {
        end = ngx_http_clawd_json_skim_scalar(p, last);

        if (end) {
            js->state = ngx_http_clawd_json_behind;
            return end;
        }
    }

    return ngx_http_clawd_json_begin_scalar(js, p, last);
}


static u_char *
ngx_http_clawd_json_begin_string(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last)
{
    u_char  *start;

    start = p + 1;

    js->high = 0;
    js->state = ngx_http_clawd_json_in_string;

    if (js->current == NGX_HTTP_CLAWD_JSON_NO_NODE) {
        p = ngx_http_clawd_json_pass(start, last);

        if (p < last && *p == '"') {
            js->state = ngx_http_clawd_json_behind;
            p++;
        }

        return p;
    }

    js->start = ngx_http_clawd_json_at(js, p);
    js->type = NGX_HTTP_CLAWD_JSON_STRING;
    js->text_len = 0;
    js->truncated = 0;
    js->invalid = 0;

    if (ngx_http_clawd_json_captured(js)) {
        p = ngx_http_clawd_json_plain(start, last);
        ngx_http_clawd_json_keep(js, start, p - start);

    } else {
        p = ngx_http_clawd_json_pass(start, last);
    }

    if (p < last && *p == '"') {
        p++;
        ngx_http_clawd_json_end_scalar(js, p);
    }

    return p;
}


static u_char *
ngx_http_clawd_json_begin_scalar(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last)
{
    u_char  *end;

    js->start = ngx_http_clawd_json_at(js, p);
    js->text_len = 0;
    js->truncated = 0;
    js->invalid = 0;
    js->sub = 0;

    js->state = ngx_http_clawd_json_in_literal;

    switch (*p) {

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

    js->type = NGX_HTTP_CLAWD_JSON_NUMBER;

    end = ngx_http_clawd_json_skim_number(p, last);

    if (end) {
        ngx_http_clawd_json_keep(js, p, end - p);
        ngx_http_clawd_json_end_scalar(js, end);

        return end;
    }

    if (*p != '-' && (*p < '0' || *p > '9')) {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
        return p;
    }

    js->state = ngx_http_clawd_json_in_number;
    js->sub = (*p == '-') ? ngx_http_clawd_json_minus
              : (*p == '0') ? ngx_http_clawd_json_zero
                            : ngx_http_clawd_json_int;

    ngx_http_clawd_json_keep(js, p, 1);

    return ngx_http_clawd_json_number(js, p + 1, last);
}


static u_char *
ngx_http_clawd_json_open(ngx_http_clawd_json_t *js, u_char *p)
{
    u_char      bit;
    uint64_t    seen;
    ngx_uint_t  i, level;

    if (js->depth == NGX_HTTP_CLAWD_JSON_DEPTH) {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_TOO_DEEP);
        return p;
    }

    level = js->depth++;
    bit = 1 << (level % 8);

    js->start = ngx_http_clawd_json_at(js, p);
    js->object = (*p == '{');

    if (js->object) {
        js->type = NGX_HTTP_CLAWD_JSON_OBJECT;
        js->stack[level / 8] |= bit;
        js->state = ngx_http_clawd_json_first_key;

    } else {
        js->type = NGX_HTTP_CLAWD_JSON_ARRAY;
        js->stack[level / 8] &= ~bit;
        js->state = ngx_http_clawd_json_first_value;
    }

    if (level == NGX_HTTP_CLAWD_JSON_PATH) {
        js->current = NGX_HTTP_CLAWD_JSON_NO_NODE;
    }

    if (js->current == NGX_HTTP_CLAWD_JSON_NO_NODE) {
        js->known = 0;
        return p + 1;
    }

    /* a node is only ever found where all that is around it has one */

    js->node = js->current;
    js->known = js->table->parents >> js->node & 1;
    js->path[level] = js->current;
    js->begin[level] = js->start;
    js->matched = js->depth;

    /* what was seen in another object of this node does not count here */

    if (js->table->controls >> js->node & 1) {

        for (seen = js->seen; seen; seen &= seen - 1) {
            i = __builtin_ctzll(seen);

            if (js->table->nodes[i].parent == js->node) {
                js->seen &= ~((uint64_t) 1 << i);
            }
        }
    }

    if (!(js->table->nodes[js->node].flags & NGX_HTTP_CLAWD_JSON_STEP)) {
        js->event = NGX_HTTP_CLAWD_JSON_BEGIN;
    }

    return p + 1;
}


/* what is neither a member, an element nor a comma has to be the end */

static u_char *
ngx_http_clawd_json_close(ngx_http_clawd_json_t *js, u_char *p)
{
    ngx_uint_t  level;

    if (*p != (js->object ? '}' : ']')
        || js->state == ngx_http_clawd_json_next_key)
    {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
        return p;
    }

    p++;

    js->type = js->object ? NGX_HTTP_CLAWD_JSON_OBJECT
                          : NGX_HTTP_CLAWD_JSON_ARRAY;
    level = --js->depth;

    if (level) {
        js->object = js->stack[(level - 1) / 8] >> ((level - 1) % 8) & 1;
        js->state = ngx_http_clawd_json_behind;

    } else {
        js->state = ngx_http_clawd_json_done;
    }

    if (js->matched <= level) {
        js->known = (js->matched == level
                     && (js->table->parents >> js->path[level - 1] & 1));
        return p;
    }

    js->matched = level;
    js->known = 1;
    js->node = js->path[level];
    js->start = js->begin[level];
    js->end = ngx_http_clawd_json_at(js, p);

    if (!(js->table->nodes[js->node].flags
          & (NGX_HTTP_CLAWD_JSON_STEP|NGX_HTTP_CLAWD_JSON_NO_END)))
    {
        js->event = NGX_HTTP_CLAWD_JSON_END;
    }

    return p;
}


/* skips plain bytes and whole escapes of a string that nobody keeps */

static u_char *
ngx_http_clawd_json_pass(u_char *p, u_char *last)
{
#if defined(__SSE2__)
    u_char    *q;
    uint32_t   mask;

    while (last - p >= 16) {
        mask = ngx_http_clawd_json_special(p);

        if (mask == 0) {
            p += 16;
            continue;
        }

        /* escapes are counted off in the mask, both bytes of each */

        do {
            q = p + __builtin_ctz(mask);

            if (!ngx_http_clawd_json_is_escape(q, last)) {
                return q;
            }

            mask &= ~((uint32_t) 3 << (q - p));

        } while (mask);

        p = ngx_max(p + 16, q + 2);
    }
#endif

    for ( ;; ) {
        p = ngx_http_clawd_json_plain(p, last);

        if (p == last || !ngx_http_clawd_json_is_escape(p, last)) {
            return p;
        }

        p += 2;
    }
}


/* whether both bytes of it are here; \u is looked at digit by digit */

static ngx_inline ngx_uint_t
ngx_http_clawd_json_is_escape(u_char *p, u_char *last)
{
    if (*p != '\\' || last - p < 2) {
        return 0;
    }

    switch (p[1]) {

    case '"': case '\\': case '/': case 'b':
    case 'f': case 'n':  case 'r': case 't':
        return 1;

    default:
        return 0;
    }
}


/* of a key or a value, from behind its quote or from where a call left off */

static u_char *
ngx_http_clawd_json_string(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    u_char      *start;
    ngx_uint_t   keep;

    keep = (js->state == ngx_http_clawd_json_in_key)
           ? js->known : ngx_http_clawd_json_captured(js);

    while (p < last) {

        if (js->escape) {
            if (ngx_http_clawd_json_escaped(js, *p) != NGX_OK) {
                ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
                return p;
            }

            p++;
            continue;
        }

        start = p;
        p = keep ? ngx_http_clawd_json_plain(p, last)
                 : ngx_http_clawd_json_pass(p, last);

        if (p != start && keep) {
            ngx_http_clawd_json_lone(js);
            ngx_http_clawd_json_keep(js, start, p - start);
        }

        if (p == last) {
            return p;
        }

        if (*p != '\\') {
            break;
        }

        js->escape = NGX_HTTP_CLAWD_JSON_BACKSLASH;
        p++;
    }

    if (p == last) {
        return p;
    }

    if (*p != '"') {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
        return p;
    }

    ngx_http_clawd_json_lone(js);
    p++;

    if (js->state == ngx_http_clawd_json_in_key) {
        js->state = ngx_http_clawd_json_colon;
        ngx_http_clawd_json_end_key(js, js->key, js->key_len);

    } else {
        ngx_http_clawd_json_end_scalar(js, p);
    }

    return p;
}


static ngx_int_t
ngx_http_clawd_json_escaped(ngx_http_clawd_json_t *js, u_char c)
{
    ngx_uint_t  digit;

    if (js->escape == NGX_HTTP_CLAWD_JSON_BACKSLASH) {

        if (c == 'u') {
            js->escape = NGX_HTTP_CLAWD_JSON_HEX;
            js->code = 0;
            return NGX_OK;
        }

        switch (c) {
        case '"': case '\\': case '/':            break;
        case 'b':                       c = '\b'; break;
        case 'f':                       c = '\f'; break;
        case 'n':                       c = '\n'; break;
        case 'r':                       c = '\r'; break;
        case 't':                       c = '\t'; break;
        default:                        return NGX_ERROR;
        }

        js->escape = 0;
        ngx_http_clawd_json_lone(js);
        ngx_http_clawd_json_keep(js, &c, 1);

        return NGX_OK;
    }

    if (c >= '0' && c <= '9') {
        digit = c - '0';

    } else {
        c |= 0x20;

        if (c < 'a' || c > 'f') {
            return NGX_ERROR;
        }

        digit = c - 'a' + 10;
    }

    js->code = (js->code << 4) | digit;

    if (++js->escape == NGX_HTTP_CLAWD_JSON_HEX + 4) {
        js->escape = 0;
        ngx_http_clawd_json_keep_code(js);
    }

    return NGX_OK;
}


/* a \uXXXX is whole: half of a surrogate pair waits for the other half */

static void
ngx_http_clawd_json_keep_code(ngx_http_clawd_json_t *js)
{
    uint32_t  c;

    c = js->code;

    if (c >= 0xdc00 && c <= 0xdfff && js->high) {
        c = 0x10000 + ((js->high - 0xd800) << 10) + (c - 0xdc00);
        js->high = 0;
        ngx_http_clawd_json_keep_char(js, c);
        return;
    }

    ngx_http_clawd_json_lone(js);

    if (c >= 0xd800 && c <= 0xdbff) {
        js->high = c;
        return;
    }

    if (c >= 0xdc00 && c <= 0xdfff) {
        js->invalid = 1;
        c = 0xfffd;
    }

    if (c == 0) {
        js->invalid = 1;
    }

    ngx_http_clawd_json_keep_char(js, c);
}


/* anything but its other half behind a high surrogate leaves it alone */

static void
ngx_http_clawd_json_lone(ngx_http_clawd_json_t *js)
{
    if (js->high) {
        js->high = 0;
        js->invalid = 1;
        ngx_http_clawd_json_keep_char(js, 0xfffd);
    }
}


static void
ngx_http_clawd_json_keep_char(ngx_http_clawd_json_t *js, uint32_t c)
{
    u_char  utf8[4];

    ngx_http_clawd_json_keep(js, utf8,
                             ngx_http_clawd_json_utf8(utf8, c) - utf8);
}


/* keeps bytes of a key that may match, or of a value that is captured */

static void
ngx_http_clawd_json_keep(ngx_http_clawd_json_t *js, u_char *p, size_t len)
{
    if (js->state == ngx_http_clawd_json_in_key) {

        if (!js->known
            || js->key_len == NGX_HTTP_CLAWD_JSON_LONG_KEY)
        {
            return;
        }

        if (js->key_len + len > NGX_HTTP_CLAWD_JSON_KEY) {
            js->key_len = NGX_HTTP_CLAWD_JSON_LONG_KEY;
            return;
        }

        ngx_memcpy(js->key + js->key_len, p, len);
        js->key_len += len;

        return;
    }

    if (!ngx_http_clawd_json_captured(js)) {
        return;
    }

    if (js->text_len + len > NGX_HTTP_CLAWD_JSON_TEXT) {
        js->truncated = 1;
        len = NGX_HTTP_CLAWD_JSON_TEXT - js->text_len;
    }

    ngx_memcpy(js->text + js->text_len, p, len);
    js->text_len += len;
}


static ngx_inline void
ngx_http_clawd_json_end_key(ngx_http_clawd_json_t *js, u_char *key,
    size_t len)
{
    uint64_t    bit;
    ngx_uint_t  parent, child;

    js->current = NGX_HTTP_CLAWD_JSON_NO_NODE;

    if (!js->known || len == 0 || len > NGX_HTTP_CLAWD_JSON_KEY) {
        return;
    }

    parent = js->path[js->depth - 1];

    child = ngx_http_clawd_json_child(js, parent, key, len);

    /* "*" is no key, but stands for the elements of an array */

    if (child == NGX_HTTP_CLAWD_JSON_NO_NODE || *key == '*') {

        if (js->table->controls >> parent & 1) {
            ngx_http_clawd_json_folded(js, parent, key, len);
        }

        return;
    }

    js->current = child;

    if (js->table->nodes[child].flags & NGX_HTTP_CLAWD_JSON_CONTROL) {
        bit = (uint64_t) 1 << child;

        if (js->seen & bit) {
            js->node = child;
            ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_DUPLICATE);
        }

        js->seen |= bit;
    }
}


static ngx_inline ngx_uint_t
ngx_http_clawd_json_child(ngx_http_clawd_json_t *js, ngx_uint_t parent,
    u_char *key, size_t len)
{
    ngx_uint_t                         i;
    const ngx_http_clawd_json_node_t  *node;

    for (i = js->table->heads[ngx_http_clawd_json_hash(parent, key, len)];
         i;
         i = js->table->nexts[i])
    {
        node = &js->table->nodes[i];

        if (node->parent == parent && node->key.len == len
            && ngx_http_clawd_json_same(node->key.data, key, len))
        {
            return i;
        }
    }

    return NGX_HTTP_CLAWD_JSON_NO_NODE;
}


/* short keys are not worth the call of a function */

static ngx_inline ngx_uint_t
ngx_http_clawd_json_same(u_char *a, u_char *b, size_t len)
{
    uint32_t  x, y;
    uint64_t  v, w;

    for ( /* void */ ; len >= sizeof(v); a += sizeof(v), b += sizeof(v)) {
        ngx_memcpy(&v, a, sizeof(v));
        ngx_memcpy(&w, b, sizeof(v));

        if (v != w) {
            return 0;
        }

        len -= sizeof(v);
    }

    if (len >= sizeof(x)) {
        ngx_memcpy(&x, a, sizeof(x));
        ngx_memcpy(&y, b, sizeof(x));

        if (x != y) {
            return 0;
        }

        a += sizeof(x);
        b += sizeof(x);
        len -= sizeof(x);
    }

    /* the first, the last and the one between them */

    return len == 0 || (a[0] == b[0] && a[len - 1] == b[len - 1]
                        && a[len / 2] == b[len / 2]);
}


/* an upstream may take this key, which names nothing, for a CONTROL one */

static void
ngx_http_clawd_json_folded(ngx_http_clawd_json_t *js, ngx_uint_t parent,
    u_char *key, size_t len)
{
    u_char       fold[NGX_HTTP_CLAWD_JSON_KEY];
    u_char      *p, *last, *dst;
    ngx_uint_t   child, differs;

    last = key + len;

    for (p = key; p < last && (*p & 0x80) == 0; p++) {
        if (*p >= 'A' && *p <= 'Z') {
            break;
        }
    }

    if (p == last) {
        return;
    }

    dst = fold;
    differs = 0;

    for (p = key; p < last; p++) {

        if (*p >= 'A' && *p <= 'Z') {
            *dst++ = *p | 0x20;
            differs = 1;

        } else if (last - p > 1 && p[0] == 0xc5 && p[1] == 0xbf) {
            *dst++ = 's';
            differs = 1;
            p++;

        } else if (last - p > 2 && p[0] == 0xe2 && p[1] == 0x84
                   && p[2] == 0xaa)
        {
            *dst++ = 'k';
            differs = 1;
            p += 2;

        } else {
            *dst++ = *p;
        }
    }

    if (!differs) {
        return;
    }

    child = ngx_http_clawd_json_child(js, parent, fold, dst - fold);

    if (child == NGX_HTTP_CLAWD_JSON_NO_NODE
        || !(js->table->nodes[child].flags & NGX_HTTP_CLAWD_JSON_CONTROL))
    {
        return;
    }

    js->node = child;

    ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_FOLDED);
}


static void
ngx_http_clawd_json_end_scalar(ngx_http_clawd_json_t *js, u_char *p)
{
    js->state = js->depth ? ngx_http_clawd_json_behind
                          : ngx_http_clawd_json_done;

    if (js->current == NGX_HTTP_CLAWD_JSON_NO_NODE) {
        return;
    }

    js->event = NGX_HTTP_CLAWD_JSON_SCALAR;
    js->node = js->current;
    js->end = ngx_http_clawd_json_at(js, p);

    if (js->type == NGX_HTTP_CLAWD_JSON_STRING) {
        js->size = js->end - js->start - 2;
        ngx_http_clawd_json_check(js);
    }
}


static void
ngx_http_clawd_json_check(ngx_http_clawd_json_t *js)
{
    size_t   n;
    u_char  *p, *last;

    p = js->text;
    last = p + js->text_len;

    while (p < last) {

        if (*p < 0x80) {
            p++;
            continue;
        }

        n = ngx_http_clawd_json_utf8_len(p, last);

        if (n == 0) {

            /* the head of a truncated text may end within a character */

            if (!js->truncated || last - p > 3) {
                js->invalid = 1;
            }

            return;
        }

        p += n;
    }
}


static u_char *
ngx_http_clawd_json_number(ngx_http_clawd_json_t *js, u_char *p, u_char *last)
{
    u_char  *start;

    start = p;

    while (p < last && ngx_http_clawd_json_digit(js, *p)) {
        p++;
    }

    ngx_http_clawd_json_keep(js, start, p - start);

    if (p == last) {
        return p;
    }

    if (ngx_http_clawd_json_whole(js)) {
        ngx_http_clawd_json_end_scalar(js, p);

    } else {
        ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
    }

    return p;
}


/* whether c goes on with the number; moves to what may follow it */

static ngx_uint_t
ngx_http_clawd_json_digit(ngx_http_clawd_json_t *js, u_char c)
{
    if (c >= '0' && c <= '9') {

        switch (js->sub) {

        case ngx_http_clawd_json_zero:
            return 0;

        case ngx_http_clawd_json_minus:
            js->sub = (c == '0') ? ngx_http_clawd_json_zero
                                 : ngx_http_clawd_json_int;
            return 1;

        case ngx_http_clawd_json_dot:
            js->sub = ngx_http_clawd_json_frac;
            return 1;

        case ngx_http_clawd_json_e:
        case ngx_http_clawd_json_sign:
            js->sub = ngx_http_clawd_json_exp;
            return 1;

        default:
            return 1;
        }
    }

    if (c == '.' && (js->sub == ngx_http_clawd_json_zero
                     || js->sub == ngx_http_clawd_json_int))
    {
        js->sub = ngx_http_clawd_json_dot;
        return 1;
    }

    if ((c | 0x20) == 'e'
        && (js->sub == ngx_http_clawd_json_zero
            || js->sub == ngx_http_clawd_json_int
            || js->sub == ngx_http_clawd_json_frac))
    {
        js->sub = ngx_http_clawd_json_e;
        return 1;
    }

    if ((c == '+' || c == '-') && js->sub == ngx_http_clawd_json_e) {
        js->sub = ngx_http_clawd_json_sign;
        return 1;
    }

    return 0;
}


static ngx_uint_t
ngx_http_clawd_json_whole(ngx_http_clawd_json_t *js)
{
    return js->sub == ngx_http_clawd_json_zero
           || js->sub == ngx_http_clawd_json_int
           || js->sub == ngx_http_clawd_json_frac
           || js->sub == ngx_http_clawd_json_exp;
}


static u_char *
ngx_http_clawd_json_literal(ngx_http_clawd_json_t *js, u_char *p,
    u_char *last)
{
    const char  *word;

    word = (js->type == NGX_HTTP_CLAWD_JSON_TRUE) ? "true"
           : (js->type == NGX_HTTP_CLAWD_JSON_FALSE) ? "false" : "null";

    for ( /* void */ ; p < last && word[js->sub]; p++, js->sub++) {
        if (*p != (u_char) word[js->sub]) {
            ngx_http_clawd_json_fail(js, NGX_HTTP_CLAWD_JSON_SYNTAX);
            return p;
        }
    }

    if (word[js->sub] == '\0') {
        ngx_http_clawd_json_end_scalar(js, p);
    }

    return p;
}


static void
ngx_http_clawd_json_fail(ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_error_e error)
{
    js->state = ngx_http_clawd_json_failed;
    js->event = NGX_HTTP_CLAWD_JSON_ERROR;
    js->error = error;
}


int64_t
ngx_http_clawd_json_count(ngx_http_clawd_json_t *js)
{
    int64_t  n;
    u_char  *p, *last;

    if (js->truncated) {
        return -1;
    }

    n = 0;

    for (p = js->text, last = p + js->text_len; p < last; p++) {

        if (*p < '0' || *p > '9') {
            return -1;
        }

        n = n * 10 + (*p - '0');

        if (n > ((int64_t) 1 << 53)) {
            return -1;
        }
    }

    return n;
}


u_char *
ngx_http_clawd_json_skip(u_char *p, u_char *last)
{
    return ngx_http_clawd_json_plain(p, last);
}


u_char *
ngx_http_clawd_json_unescape(u_char *dst, u_char *src, u_char *last)
{
    u_char                 c;
    ngx_uint_t             hex;
    ngx_http_clawd_json_t  js;

    static const ngx_http_clawd_json_node_t  nodes[] = {
        { ngx_null_string, 0, NGX_HTTP_CLAWD_JSON_CAPTURE }
    };

    static ngx_http_clawd_json_table_t  table =
                                             ngx_http_clawd_json_table(nodes);

    ngx_http_clawd_json_init(&js, &table);
    js.state = ngx_http_clawd_json_in_string;

    while (src < last) {
        js.text_len = 0;
        c = *src++;

        if (js.escape) {
            hex = (js.escape != NGX_HTTP_CLAWD_JSON_BACKSLASH);

            if (ngx_http_clawd_json_escaped(&js, c) != NGX_OK) {

                /* never longer than what it stands for */

                js.escape = 0;
                ngx_http_clawd_json_keep_char(&js, hex ? 0xfffd : '?');
            }

        } else if (c == '\\') {
            js.escape = NGX_HTTP_CLAWD_JSON_BACKSLASH;

        } else {
            ngx_http_clawd_json_lone(&js);
            ngx_http_clawd_json_keep(&js, &c, 1);
        }

        dst = ngx_cpymem(dst, js.text, js.text_len);
    }

    js.text_len = 0;
    ngx_http_clawd_json_lone(&js);

    return ngx_cpymem(dst, js.text, js.text_len);
}


u_char *
ngx_http_clawd_json_escape(u_char *dst, u_char *end, u_char *src,
    u_char *last)
{
    size_t                n;
    static const u_char   hex[] = "0123456789abcdef";

    while (src < last) {

        if (*src < 0x20 || *src == 0x7f) {

            if (end - dst < 6) {
                break;
            }

            *dst++ = '\\';
            *dst++ = 'u';
            *dst++ = '0';
            *dst++ = '0';
            *dst++ = hex[*src >> 4];
            *dst++ = hex[*src & 0xf];
            src++;

            continue;
        }

        if (*src == '"' || *src == '\\') {

            if (end - dst < 2) {
                break;
            }

            *dst++ = '\\';
            *dst++ = *src++;

            continue;
        }

        n = ngx_http_clawd_json_utf8_len(src, last);

        if ((size_t) (end - dst) < (n ? n : 3)) {
            break;
        }

        if (n == 0) {
            dst = ngx_http_clawd_json_utf8(dst, 0xfffd);
            src++;
            continue;
        }

        dst = ngx_cpymem(dst, src, n);
        src += n;
    }

    return dst;
}


static u_char *
ngx_http_clawd_json_utf8(u_char *dst, uint32_t c)
{
    if (c < 0x80) {
        *dst++ = (u_char) c;
        return dst;
    }

    if (c < 0x800) {
        *dst++ = (u_char) (0xc0 | (c >> 6));
        *dst++ = (u_char) (0x80 | (c & 0x3f));
        return dst;
    }

    if (c < 0x10000) {
        *dst++ = (u_char) (0xe0 | (c >> 12));
        *dst++ = (u_char) (0x80 | ((c >> 6) & 0x3f));
        *dst++ = (u_char) (0x80 | (c & 0x3f));
        return dst;
    }

    *dst++ = (u_char) (0xf0 | (c >> 18));
    *dst++ = (u_char) (0x80 | ((c >> 12) & 0x3f));
    *dst++ = (u_char) (0x80 | ((c >> 6) & 0x3f));
    *dst++ = (u_char) (0x80 | (c & 0x3f));

    return dst;
}


/* the length of the well-formed character at p, or 0 */

static size_t
ngx_http_clawd_json_utf8_len(u_char *p, u_char *last)
{
    size_t  i, n;
    u_char  lo, hi;

    lo = 0x80;
    hi = 0xbf;

    if (*p < 0x80) {
        return 1;
    }

    if (*p >= 0xc2 && *p <= 0xdf) {
        n = 2;

    } else if (*p >= 0xe0 && *p <= 0xef) {
        n = 3;
        lo = (*p == 0xe0) ? 0xa0 : 0x80;
        hi = (*p == 0xed) ? 0x9f : 0xbf;

    } else if (*p >= 0xf0 && *p <= 0xf4) {
        n = 4;
        lo = (*p == 0xf0) ? 0x90 : 0x80;
        hi = (*p == 0xf4) ? 0x8f : 0xbf;

    } else {
        return 0;
    }

    if ((size_t) (last - p) < n || p[1] < lo || p[1] > hi) {
        return 0;
    }

    for (i = 2; i < n; i++) {
        if (p[i] < 0x80 || p[i] > 0xbf) {
            return 0;
        }
    }

    return n;
}
