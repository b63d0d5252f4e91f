/*
 * Copyright (C) clawd authors
 *
 * Request bodies.  Of the input the first four bytes choose the format, who
 * asks, the caps and the cuts; the rest is the body.  It must hold that:
 *
 *  - a body in pieces is judged, edited and estimated as the whole one;
 *  - the edited body has the length that was promised;
 *  - it is accepted again, as the same model, without an edit, and estimated
 *    as what it was made of, but for the bytes that were added;
 *  - with a cap or a default the output is bounded;
 *  - the bound of the prompt covers every text that can be no image.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_request.h"


#define FUZZ_HEAD  4

#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


typedef struct {
    ngx_http_clawd_request_t   rq;
    ngx_int_t                  rc;
    u_char                    *out;
    size_t                     len;
} fuzz_result_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* the next piece lies in memory of its own, which ends where it ends */

static size_t
fuzz_piece(const u_char *body, size_t left, uint32_t *seed, u_char **piece)
{
    size_t  n;

    n = left;

    if (*seed) {
        *seed = *seed * 1664525 + 1013904223;
        n = 1 + (*seed >> 24) % ((*seed & 0x10000) ? 4 : 64);
        n = (n < left) ? n : left;
    }

    *piece = malloc(n);
    fuzz_assert(*piece);

    memcpy(*piece, body, n);

    return n;
}


static void
fuzz_run(fuzz_result_t *r, const u_char *head, const u_char *body, size_t len,
    uint32_t seed)
{
    u_char                    *piece, *dst;
    size_t                     i, n, edits;
    uint32_t                   cuts;
    ngx_uint_t                 edit;
    ngx_http_clawd_request_t  *rq;

    static const ngx_http_clawd_format_e  formats[] = {
        NGX_HTTP_CLAWD_FORMAT_CHAT,
        NGX_HTTP_CLAWD_FORMAT_COMPLETIONS,
        NGX_HTTP_CLAWD_FORMAT_RESPONSES,
        NGX_HTTP_CLAWD_FORMAT_MESSAGES,
        NGX_HTTP_CLAWD_FORMAT_NATIVE,
        NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS
    };

    rq = &r->rq;
    memset(rq, 0xa5, sizeof(ngx_http_clawd_request_t));

    rq->format = formats[head[0] % 6];
    rq->native = (rq->format == NGX_HTTP_CLAWD_FORMAT_NATIVE
                  || (rq->format == NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS
                      && (head[1] & 2)));
    rq->admin = head[1] & 1;
    rq->max_tokens = head[2] % 128;
    rq->default_tokens = head[1] >> 2;

    ngx_http_clawd_request_init(rq);

    r->rc = NGX_OK;
    r->out = NULL;
    cuts = seed;

    for (i = 0; i < len && r->rc == NGX_OK; i += n) {
        n = fuzz_piece(body + i, len - i, &cuts, &piece);
        r->rc = ngx_http_clawd_request_read(rq, piece, piece + n);
        free(piece);
    }

    if (r->rc == NGX_OK) {
        r->rc = ngx_http_clawd_request_end(rq);
    }

    if (r->rc != NGX_OK) {
        fuzz_assert(rq->error != NGX_HTTP_CLAWD_ERR_NONE);
        fuzz_assert(ngx_http_clawd_request_end(rq) == NGX_ERROR);
        return;
    }

    r->len = (size_t) ngx_http_clawd_request_length(rq, len);

    r->out = malloc(r->len);
    fuzz_assert(r->out);

    dst = r->out;
    edit = 0;
    edits = rq->nedits;
    cuts = seed ? seed + 1 : 0;

    for (i = 0; i < len; i += n) {
        n = fuzz_piece(body + i, len - i, &cuts, &piece);
        dst = ngx_http_clawd_request_copy(rq, dst, piece, piece + n, i,
                                          &edit);
        free(piece);
    }

    fuzz_assert(edit == edits);
    fuzz_assert(dst == r->out + r->len);
}


static void
fuzz_same(const ngx_str_t *a, const ngx_str_t *b)
{
    fuzz_assert(a->len == b->len);
    fuzz_assert(a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}


/* the end of the string that begins at p, of a body that was accepted */

static const u_char *
fuzz_string_end(const u_char *p)
{
    for (p++; *p != '"'; p++) {
        if (*p == '\\') {
            p++;
        }
    }

    return p + 1;
}


/* whether a key, with its quotes, may lead to the bytes of an image */

static int
fuzz_media(const u_char *key, size_t len)
{
    size_t  i;

    static const char  *keys[] = {
        "\"images\"", "\"image_url\"", "\"source\"", "\"input_audio\""
    };

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (len == strlen(keys[i]) && memcmp(key, keys[i], len) == 0) {
            return 1;
        }
    }

    return memchr(key, '\\', len) != NULL;
}


/* bytes of strings, but for those below a key that may lead to an image */

static size_t
fuzz_text(const u_char *p, const u_char *last)
{
    int            media[NGX_HTTP_CLAWD_JSON_DEPTH + 2], next;
    size_t         depth, len;
    const u_char  *end, *q;

    depth = 0;
    media[0] = 0;
    next = 0;
    len = 0;

    while (p < last) {
        end = p + 1;

        switch (*p) {

        case '{':
        case '[':
            media[depth + 1] = media[depth] | next;
            depth++;
            next = 0;
            break;

        case '}':
        case ']':
            depth--;
            next = 0;
            break;

        case ',':
            next = 0;
            break;

        case '"':
            end = fuzz_string_end(p);

            for (q = end; q < last && strchr(" \t\r\n", *q) && *q; q++) {
                /* void */
            }

            if (q < last && *q == ':') {
                next = fuzz_media(p, end - p);
                len += end - p - 2;

            } else if (!media[depth] && !next) {
                len += end - p - 2;
            }
        }

        p = end;
    }

    return len;
}


static void
fuzz_estimates(const fuzz_result_t *whole, const fuzz_result_t *pieces,
    const fuzz_result_t *again, const u_char *body, size_t len)
{
    const ngx_http_clawd_request_t  *rq;

    rq = &whole->rq;

    fuzz_assert(rq->output_tokens == pieces->rq.output_tokens);
    fuzz_assert(rq->prompt_bound == pieces->rq.prompt_bound);
    fuzz_assert(rq->prompt_guess == pieces->rq.prompt_guess);

    fuzz_assert(rq->output_tokens == again->rq.output_tokens);
    fuzz_assert(again->rq.prompt_bound - rq->prompt_bound
                == (int64_t) whole->len - (int64_t) len);

    fuzz_assert(rq->output_tokens >= -1);
    fuzz_assert(rq->output_tokens <= NGX_HTTP_CLAWD_OUTPUT_TOKENS);

    if (rq->max_tokens || rq->default_tokens) {
        fuzz_assert(rq->output_tokens != -1);
    }

    fuzz_assert(rq->prompt_guess >= 0);
    fuzz_assert(rq->prompt_guess <= rq->prompt_bound);
    fuzz_assert(rq->prompt_bound >= (int64_t) fuzz_text(body, body + len));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const u_char          *body;
    static fuzz_result_t   whole, pieces, again;

    if (size < FUZZ_HEAD) {
        return 0;
    }

    body = data + FUZZ_HEAD;
    size -= FUZZ_HEAD;

    fuzz_run(&whole, data, body, size, 0);
    fuzz_run(&pieces, data, body, size, 1 + data[3]);

    fuzz_assert(whole.rc == pieces.rc);
    fuzz_assert(whole.rq.error == pieces.rq.error);
    fuzz_same(&whole.rq.param, &pieces.rq.param);

    if (whole.rc != NGX_OK) {
        return 0;
    }

    fuzz_assert(whole.len == pieces.len);
    fuzz_assert(memcmp(whole.out, pieces.out, whole.len) == 0);
    fuzz_same(&whole.rq.model.label, &pieces.rq.model.label);

    fuzz_run(&again, data, whole.out, whole.len, 0);

    fuzz_assert(again.rc == NGX_OK);
    fuzz_assert(again.rq.nedits == 0);
    fuzz_assert(again.rq.stream == whole.rq.stream);
    fuzz_same(&again.rq.model.sent, &whole.rq.model.sent);
    fuzz_same(&again.rq.model.label, &whole.rq.model.label);

    fuzz_estimates(&whole, &pieces, &again, body, size);

    free(whole.out);
    free(pieces.out);
    free(again.out);

    return 0;
}
