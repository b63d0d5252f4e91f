/*
 * Copyright (C) clawd authors
 *
 * Reads an answer in pieces, for the units and the fuzzers.  What must hold of
 * every reading is checked here with ANSWER_CHECK, which the includer defines.
 */

#ifndef ANSWER_RUN_H_INCLUDED
#define ANSWER_RUN_H_INCLUDED


#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_answer.h"


typedef struct {
    ngx_http_clawd_facts_t  facts;
    ngx_http_clawd_end_e    end;
    unsigned                usage_only;  /* events that were */
    unsigned                done;
    size_t                  dropped;     /* their bytes */
    size_t                  last_start;  /* where the last one lay */
    size_t                  last_end;
    uint64_t                ends;        /* a print of all ends of events */
} answer_result_t;


typedef struct {
    size_t    first;                     /* length of the first piece, or 0 */
    size_t    each;                      /* of the others; 0: all at once */
    uint32_t  seed;                      /* not 0: of random length */
} answer_cuts_t;


static inline size_t
answer_piece(answer_cuts_t *cuts, size_t left)
{
    size_t  n;

    n = left;

    if (cuts->first) {
        n = cuts->first;
        cuts->first = 0;

    } else if (cuts->seed) {
        cuts->seed = cuts->seed * 1664525 + 1013904223;
        n = 1 + (cuts->seed >> 20) % ((cuts->seed & 0x10000) ? 5 : 300);

    } else if (cuts->each) {
        n = cuts->each;
    }

    return n < left ? n : left;
}


/* a CR that ends a buffer may end the line before its LF is known */

static inline size_t
answer_place(const u_char *body, size_t len, size_t at)
{
    if (at && at < len && body[at - 1] == '\r' && body[at] == '\n') {
        at++;
    }

    return at;
}


static inline void
answer_run(answer_result_t *r, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, const u_char *body, size_t len,
    answer_cuts_t cuts)
{
    int                       plain;
    size_t                    n, at, start, end;
    u_char                   *piece, *p;
    ngx_int_t                 rc;
    ngx_http_clawd_answer_t  *a;

    memset(r, 0, sizeof(answer_result_t));

    a = malloc(sizeof(ngx_http_clawd_answer_t));
    ANSWER_CHECK(a != NULL);

    memset(a, 0xa5, sizeof(ngx_http_clawd_answer_t));
    ngx_http_clawd_answer_init(a, format, framing);

    plain = 0;
    start = 0;
    r->ends = 14695981039346656037u;

    for (at = 0; at < len; at += n) {

        /* memory of its own, which ends where the piece ends */

        n = answer_piece(&cuts, len - at);
        piece = malloc(n);
        ANSWER_CHECK(piece != NULL);
        memcpy(piece, body + at, n);

        p = piece;

        for ( ;; ) {
            rc = ngx_http_clawd_answer_read(a, &p, piece + n);

            ANSWER_CHECK(p >= piece && p <= piece + n);

            if (rc == NGX_AGAIN) {
                break;
            }

            ANSWER_CHECK(rc == NGX_OK);
            ANSWER_CHECK(a->event == NGX_HTTP_CLAWD_EVENT_NONE);
            ANSWER_CHECK(!(plain && a->usage_only));

            end = answer_place(body, len, at + (p - piece));
            r->ends = (r->ends ^ (end * 4 + a->usage_only * 2 + a->done))
                      * 1099511628211u;

            if (a->usage_only) {
                r->usage_only++;
                r->dropped += end - start;
                r->last_start = start;
                r->last_end = end;
            }

            r->done += a->done;
            start = end;
            plain = 0;
        }

        ANSWER_CHECK(p == piece + n);

        if (a->event == NGX_HTTP_CLAWD_EVENT_PLAIN) {
            plain = 1;
        }

        free(piece);
    }

    r->end = ngx_http_clawd_answer_end(a);

    ANSWER_CHECK(!(plain && a->usage_only));

    r->usage_only += a->usage_only;
    r->facts = a->facts;

    ANSWER_CHECK(r->facts.model_len <= sizeof(r->facts.model));
    ANSWER_CHECK(r->facts.finish_len <= sizeof(r->facts.finish));
    ANSWER_CHECK(r->facts.prompt_tokens >= -1);
    ANSWER_CHECK(r->facts.completion_tokens >= -1);
    ANSWER_CHECK(!r->facts.told || r->facts.error);
    ANSWER_CHECK(r->facts.text_bytes <= len);
    ANSWER_CHECK(r->facts.events <= len && r->facts.deltas <= r->facts.events);

    free(a);
}


static inline int
answer_same(const answer_result_t *a, const answer_result_t *b)
{
    return memcmp(&a->facts, &b->facts, sizeof(a->facts)) == 0
           && a->end == b->end && a->usage_only == b->usage_only
           && a->done == b->done && a->ends == b->ends
           && a->dropped == b->dropped;
}


#endif /* ANSWER_RUN_H_INCLUDED */
