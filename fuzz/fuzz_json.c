/*
 * Copyright (C) clawd authors
 *
 * The JSON scanner.  Of the input the first byte chooses the cuts, the rest is
 * the text.  It must hold that:
 *
 *  - a text in pieces gives the events of the whole one, to the byte;
 *  - BEGIN and END are paired, and offsets lie in order and in the text;
 *  - what unescape() and escape() write fits and is read as it was.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_json.h"


#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


#define CAPTURE  NGX_HTTP_CLAWD_JSON_CAPTURE
#define CONTROL  NGX_HTTP_CLAWD_JSON_CONTROL


static const ngx_http_clawd_json_node_t  nodes[] = {
    { ngx_null_string, 0, CAPTURE },
    { ngx_string("model"), 0, CAPTURE | CONTROL },
    { ngx_string("sk"), 0, CAPTURE | CONTROL },
    { ngx_string("a"), 0, 0 },
    { ngx_string("*"), 3, CAPTURE },
    { ngx_string("a"), 4, CAPTURE },
    { ngx_string("b"), 4, CAPTURE | CONTROL },
    { ngx_string("*"), 5, CAPTURE },
    { ngx_string("*"), 0, 0 },
    { ngx_string("a"), 8, CAPTURE },
    { ngx_string("c"), 0, NGX_HTTP_CLAWD_JSON_STEP },
    { ngx_string("*"), 10, NGX_HTTP_CLAWD_JSON_STEP },
    { ngx_string("a"), 11, CAPTURE }
};

static ngx_http_clawd_json_table_t  table =
    ngx_http_clawd_json_table(nodes);


typedef struct {
    uint64_t                     events;     /* a print of them all */
    ngx_http_clawd_json_event_e  last;
    ngx_http_clawd_json_error_e  error;
} fuzz_result_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
fuzz_print(uint64_t *print, const void *data, size_t len)
{
    size_t         i;
    const u_char  *p;

    p = data;

    for (i = 0; i < len; i++) {
        *print = (*print ^ p[i]) * 1099511628211u;
    }
}


static void
fuzz_event(fuzz_result_t *r, ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_event_e ev, off_t size)
{
    uint64_t  all[6];

    fuzz_assert(js->node < sizeof(nodes) / sizeof(nodes[0]));
    fuzz_assert(js->start >= 0 && js->start < size);

    memset(all, 0, sizeof(all));

    all[0] = ev;
    all[1] = js->node;
    all[2] = js->type;
    all[3] = js->start;

    if (ev != NGX_HTTP_CLAWD_JSON_BEGIN) {
        fuzz_assert(js->end > js->start && js->end <= size);
        all[4] = js->end;
    }

    if (ev == NGX_HTTP_CLAWD_JSON_SCALAR
        && js->type == NGX_HTTP_CLAWD_JSON_STRING)
    {
        fuzz_assert(js->size == js->end - js->start - 2);
        all[5] = js->size;
    }

    fuzz_print(&r->events, all, sizeof(all));

    if (ev == NGX_HTTP_CLAWD_JSON_SCALAR
        && (nodes[js->node].flags & CAPTURE)
        && (js->type == NGX_HTTP_CLAWD_JSON_STRING
            || js->type == NGX_HTTP_CLAWD_JSON_NUMBER))
    {
        fuzz_assert(js->text_len <= NGX_HTTP_CLAWD_JSON_TEXT);

        all[0] = js->truncated * 2 + js->invalid;
        fuzz_print(&r->events, all, sizeof(uint64_t));
        fuzz_print(&r->events, js->text, js->text_len);
    }
}


static void
fuzz_run(fuzz_result_t *r, const u_char *text, size_t size, uint32_t seed)
{
    size_t                       at, n;
    ssize_t                      open;
    u_char                      *piece, *p;
    ngx_http_clawd_json_t       *js;
    ngx_http_clawd_json_event_e  ev;

    js = malloc(sizeof(ngx_http_clawd_json_t));
    fuzz_assert(js);
    memset(js, 0xa5, sizeof(ngx_http_clawd_json_t));

    ngx_http_clawd_json_init(js, &table);

    r->events = 14695981039346656037u;
    ev = NGX_HTTP_CLAWD_JSON_AGAIN;
    open = 0;

    for (at = 0; at < size && ev == NGX_HTTP_CLAWD_JSON_AGAIN; at += n) {
        n = size - at;

        if (seed) {
            seed = seed * 1664525 + 1013904223;
            n = 1 + (seed >> 24) % ((seed & 0x10000) ? 4 : 64);
            n = (n < size - at) ? n : size - at;
        }

        piece = malloc(n);
        fuzz_assert(piece);
        memcpy(piece, text + at, n);

        for (p = piece; /* void */ ; ) {
            ev = ngx_http_clawd_json_next(js, &p, piece + n);
            fuzz_assert(p >= piece && p <= piece + n);

            if (ev == NGX_HTTP_CLAWD_JSON_AGAIN) {
                fuzz_assert(p == piece + n);
                break;
            }

            if (ev == NGX_HTTP_CLAWD_JSON_DONE
                || ev == NGX_HTTP_CLAWD_JSON_ERROR)
            {
                break;
            }

            open += (ev == NGX_HTTP_CLAWD_JSON_BEGIN);
            open -= (ev == NGX_HTTP_CLAWD_JSON_END);
            fuzz_assert(open >= 0);

            fuzz_event(r, js, ev, size);
        }

        free(piece);
    }

    if (ev == NGX_HTTP_CLAWD_JSON_AGAIN) {
        ev = ngx_http_clawd_json_eof(js);
    }

    fuzz_assert(ev == NGX_HTTP_CLAWD_JSON_DONE
                || ev == NGX_HTTP_CLAWD_JSON_ERROR);
    fuzz_assert(ev == NGX_HTTP_CLAWD_JSON_ERROR || open == 0);
    fuzz_assert((ev == NGX_HTTP_CLAWD_JSON_ERROR)
                == (js->error != NGX_HTTP_CLAWD_JSON_OK));

    r->last = ev;
    r->error = js->error;

    free(js);
}


static void
fuzz_escape(const u_char *text, size_t size)
{
    u_char  *dst, *end, *back;

    dst = malloc(size * 6 + 1);
    back = malloc(size * 6 + 1);
    fuzz_assert(dst && back);

    /* not longer than it was */

    end = ngx_http_clawd_json_unescape(dst, (u_char *) text,
                                       (u_char *) text + size);
    fuzz_assert(end <= dst + size);

    /* plain bytes, which are read as they were once they are UTF-8 */

    end = ngx_http_clawd_json_escape(dst, dst + size * 6, (u_char *) text,
                                     (u_char *) text + size);
    fuzz_assert(ngx_http_clawd_json_skip(dst, end) == end
                || memchr(dst, '\\', end - dst));

    end = ngx_http_clawd_json_unescape(back, dst, end);
    fuzz_assert(end <= back + size * 3);

    if ((size_t) (end - back) == size) {
        fuzz_assert(memcmp(back, text, size) == 0);
    }

    /* into little room */

    end = ngx_http_clawd_json_escape(dst, dst + size / 2, (u_char *) text,
                                     (u_char *) text + size);
    fuzz_assert(end <= dst + size / 2);

    free(dst);
    free(back);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t        i, seed;
    fuzz_result_t   whole, got;

    if (size < 2) {
        return 0;
    }

    seed = data[0];
    data++;
    size--;

    memset(&whole, 0, sizeof(fuzz_result_t));
    fuzz_run(&whole, data, size, 0);

    for (i = 1; i <= 3; i++) {
        memset(&got, 0, sizeof(fuzz_result_t));
        fuzz_run(&got, data, size, seed * 4 + i);
        fuzz_assert(memcmp(&got, &whole, sizeof(fuzz_result_t)) == 0);
    }

    fuzz_escape(data, size);

    return 0;
}
