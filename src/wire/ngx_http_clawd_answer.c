/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_answer.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif


/* a larger count is junk */
#define NGX_HTTP_CLAWD_ANSWER_COUNT_MAX  0x7fffffff

/* bytes of a byte order mark */
#define NGX_HTTP_CLAWD_ANSWER_MARK       3


/* what a value of a path table is for */

enum {
    ngx_http_clawd_is_nothing = 0,     /* a step of a path */
    ngx_http_clawd_is_model,
    ngx_http_clawd_is_reason,
    ngx_http_clawd_is_text,            /* output of the model */
    ngx_http_clawd_is_tool,            /* a tool call, output as well */
    ngx_http_clawd_is_arguments,       /* …its arguments, an object */
    ngx_http_clawd_is_usage,           /* the object around the counts */
    ngx_http_clawd_is_prompt,
    ngx_http_clawd_is_completion,
    ngx_http_clawd_is_cached,          /* prompt tokens told apart: */
    ngx_http_clawd_is_stored,          /* …found in a cache, put into one */
    ngx_http_clawd_is_choices,
    ngx_http_clawd_is_choice,
    ngx_http_clawd_is_error,
    ngx_http_clawd_is_type,
    ngx_http_clawd_is_done,
    ngx_http_clawd_is_status
};


/* type of an event that has a name in its JSON */

enum {
    ngx_http_clawd_type_other = 0,
    ngx_http_clawd_type_end,           /* the generation is complete */
    ngx_http_clawd_type_failed,        /* complete, and failed */
    ngx_http_clawd_type_error,
    ngx_http_clawd_type_usage          /* messages: the real counts */
};


/* line: where in a line of SSE the next byte is */

enum {
    ngx_http_clawd_line_start = 0,
    ngx_http_clawd_line_field,
    ngx_http_clawd_line_space,         /* behind the colon */
    ngx_http_clawd_line_data,
    ngx_http_clawd_line_name,          /* of the event */
    ngx_http_clawd_line_rest           /* not looked at */
};


typedef struct {
    ngx_http_clawd_json_table_t  json;
    const u_char                *is;
} ngx_http_clawd_table_t;


#define C  NGX_HTTP_CLAWD_JSON_CAPTURE
#define S  NGX_HTTP_CLAWD_JSON_STEP
#define B  NGX_HTTP_CLAWD_JSON_NO_END

#define ngx_http_clawd_table(name)                                            \
    { ngx_http_clawd_json_table(name##_nodes), name##_is }


static const ngx_http_clawd_json_node_t  ngx_http_clawd_chat_nodes[] = {
    /*  0 */ { ngx_null_string, 0, S },
    /*  1 */ { ngx_string("model"), 0, C },
    /*  2 */ { ngx_string("choices"), 0, 0 },
    /*  3 */ { ngx_string("*"), 2, B },
    /*  4 */ { ngx_string("finish_reason"), 3, C },
    /*  5 */ { ngx_string("text"), 3, 0 },
    /*  6 */ { ngx_string("delta"), 3, S },
    /*  7 */ { ngx_string("content"), 6, 0 },
    /*  8 */ { ngx_string("reasoning"), 6, 0 },
    /*  9 */ { ngx_string("reasoning_content"), 6, 0 },
    /* 10 */ { ngx_string("refusal"), 6, 0 },
    /* 11 */ { ngx_string("tool_calls"), 6, S },
    /* 12 */ { ngx_string("*"), 11, B },
    /* 13 */ { ngx_string("function"), 12, S },
    /* 14 */ { ngx_string("arguments"), 13, 0 },
    /* 15 */ { ngx_string("function_call"), 6, 0 },
    /* 16 */ { ngx_string("arguments"), 15, 0 },
    /* 17 */ { ngx_string("message"), 3, S },
    /* 18 */ { ngx_string("content"), 17, 0 },
    /* 19 */ { ngx_string("reasoning"), 17, 0 },
    /* 20 */ { ngx_string("reasoning_content"), 17, 0 },
    /* 21 */ { ngx_string("refusal"), 17, 0 },
    /* 22 */ { ngx_string("tool_calls"), 17, S },
    /* 23 */ { ngx_string("*"), 22, B },
    /* 24 */ { ngx_string("function"), 23, S },
    /* 25 */ { ngx_string("arguments"), 24, 0 },
    /* 26 */ { ngx_string("function_call"), 17, 0 },
    /* 27 */ { ngx_string("arguments"), 26, 0 },
    /* 28 */ { ngx_string("usage"), 0, B },
    /* 29 */ { ngx_string("prompt_tokens"), 28, C },
    /* 30 */ { ngx_string("completion_tokens"), 28, C },
    /* 31 */ { ngx_string("error"), 0, B }
};

static const u_char  ngx_http_clawd_chat_is[] = {
    /*  0 */ 0, ngx_http_clawd_is_model, ngx_http_clawd_is_choices,
    /*  3 */ ngx_http_clawd_is_choice, ngx_http_clawd_is_reason,
    /*  5 */ ngx_http_clawd_is_text, 0, ngx_http_clawd_is_text,
    /*  8 */ ngx_http_clawd_is_text, ngx_http_clawd_is_text,
    /* 10 */ ngx_http_clawd_is_text, 0, ngx_http_clawd_is_tool, 0,
    /* 14 */ ngx_http_clawd_is_text, ngx_http_clawd_is_tool,
    /* 16 */ ngx_http_clawd_is_text, 0, ngx_http_clawd_is_text,
    /* 19 */ ngx_http_clawd_is_text, ngx_http_clawd_is_text,
    /* 21 */ ngx_http_clawd_is_text, 0, ngx_http_clawd_is_tool, 0,
    /* 25 */ ngx_http_clawd_is_text, ngx_http_clawd_is_tool,
    /* 27 */ ngx_http_clawd_is_text, ngx_http_clawd_is_usage,
    /* 29 */ ngx_http_clawd_is_prompt, ngx_http_clawd_is_completion,
    /* 31 */ ngx_http_clawd_is_error
};


static const ngx_http_clawd_json_node_t  ngx_http_clawd_responses_nodes[] = {
    /*  0 */ { ngx_null_string, 0, S },
    /*  1 */ { ngx_string("type"), 0, C },
    /*  2 */ { ngx_string("model"), 0, C },
    /*  3 */ { ngx_string("status"), 0, C },
    /*  4 */ { ngx_string("delta"), 0, 0 },
    /*  5 */ { ngx_string("usage"), 0, B },
    /*  6 */ { ngx_string("input_tokens"), 5, C },
    /*  7 */ { ngx_string("output_tokens"), 5, C },
    /*  8 */ { ngx_string("error"), 0, B },
    /*  9 */ { ngx_string("response"), 0, S },
    /* 10 */ { ngx_string("model"), 9, C },
    /* 11 */ { ngx_string("status"), 9, C },
    /* 12 */ { ngx_string("usage"), 9, B },
    /* 13 */ { ngx_string("input_tokens"), 12, C },
    /* 14 */ { ngx_string("output_tokens"), 12, C },
    /* 15 */ { ngx_string("output"), 0, S },
    /* 16 */ { ngx_string("*"), 15, S },
    /* 17 */ { ngx_string("content"), 16, S },
    /* 18 */ { ngx_string("*"), 17, S },
    /* 19 */ { ngx_string("text"), 18, 0 },
    /* 20 */ { ngx_string("arguments"), 16, 0 },
    /* 21 */ { ngx_string("summary"), 16, S },
    /* 22 */ { ngx_string("*"), 21, S },
    /* 23 */ { ngx_string("text"), 22, 0 }
};

static const u_char  ngx_http_clawd_responses_is[] = {
    /*  0 */ 0, ngx_http_clawd_is_type, ngx_http_clawd_is_model,
    /*  3 */ ngx_http_clawd_is_reason, ngx_http_clawd_is_text,
    /*  5 */ ngx_http_clawd_is_usage, ngx_http_clawd_is_prompt,
    /*  7 */ ngx_http_clawd_is_completion, ngx_http_clawd_is_error, 0,
    /* 10 */ ngx_http_clawd_is_model, ngx_http_clawd_is_reason,
    /* 12 */ ngx_http_clawd_is_usage, ngx_http_clawd_is_prompt,
    /* 14 */ ngx_http_clawd_is_completion, 0, 0, 0, 0,
    /* 19 */ ngx_http_clawd_is_text, ngx_http_clawd_is_text, 0, 0,
    /* 23 */ ngx_http_clawd_is_text
};


static const ngx_http_clawd_json_node_t  ngx_http_clawd_messages_nodes[] = {
    /*  0 */ { ngx_null_string, 0, S },
    /*  1 */ { ngx_string("type"), 0, C },
    /*  2 */ { ngx_string("model"), 0, C },
    /*  3 */ { ngx_string("stop_reason"), 0, C },
    /*  4 */ { ngx_string("usage"), 0, B },
    /*  5 */ { ngx_string("input_tokens"), 4, C },
    /*  6 */ { ngx_string("output_tokens"), 4, C },
    /*  7 */ { ngx_string("cache_creation_input_tokens"), 4, C },
    /*  8 */ { ngx_string("cache_read_input_tokens"), 4, C },
    /*  9 */ { ngx_string("message"), 0, S },
    /* 10 */ { ngx_string("model"), 9, C },
    /* 11 */ { ngx_string("usage"), 9, S },
    /* 12 */ { ngx_string("input_tokens"), 11, C },
    /* 13 */ { ngx_string("cache_creation_input_tokens"), 11, C },
    /* 14 */ { ngx_string("cache_read_input_tokens"), 11, C },
    /* 15 */ { ngx_string("delta"), 0, S },
    /* 16 */ { ngx_string("stop_reason"), 15, C },
    /* 17 */ { ngx_string("text"), 15, 0 },
    /* 18 */ { ngx_string("thinking"), 15, 0 },
    /* 19 */ { ngx_string("partial_json"), 15, 0 },
    /* 20 */ { ngx_string("content"), 0, S },
    /* 21 */ { ngx_string("*"), 20, S },
    /* 22 */ { ngx_string("text"), 21, 0 },
    /* 23 */ { ngx_string("thinking"), 21, 0 },
    /* 24 */ { ngx_string("input"), 21, 0 },
    /* 25 */ { ngx_string("error"), 0, B }
};

static const u_char  ngx_http_clawd_messages_is[] = {
    /*  0 */ 0, ngx_http_clawd_is_type, ngx_http_clawd_is_model,
    /*  3 */ ngx_http_clawd_is_reason, ngx_http_clawd_is_usage,
    /*  5 */ ngx_http_clawd_is_prompt, ngx_http_clawd_is_completion,
    /*  7 */ ngx_http_clawd_is_stored, ngx_http_clawd_is_cached, 0,
    /* 10 */ ngx_http_clawd_is_model, 0, ngx_http_clawd_is_prompt,
    /* 13 */ ngx_http_clawd_is_stored, ngx_http_clawd_is_cached, 0,
    /* 16 */ ngx_http_clawd_is_reason, ngx_http_clawd_is_text,
    /* 18 */ ngx_http_clawd_is_text, ngx_http_clawd_is_text, 0, 0,
    /* 22 */ ngx_http_clawd_is_text, ngx_http_clawd_is_text,
    /* 24 */ ngx_http_clawd_is_arguments, ngx_http_clawd_is_error
};


static const ngx_http_clawd_json_node_t  ngx_http_clawd_native_nodes[] = {
    /*  0 */ { ngx_null_string, 0, S },
    /*  1 */ { ngx_string("model"), 0, C },
    /*  2 */ { ngx_string("message"), 0, S },
    /*  3 */ { ngx_string("content"), 2, 0 },
    /*  4 */ { ngx_string("thinking"), 2, 0 },
    /*  5 */ { ngx_string("tool_calls"), 2, S },
    /*  6 */ { ngx_string("*"), 5, B },
    /*  7 */ { ngx_string("function"), 6, S },
    /*  8 */ { ngx_string("arguments"), 7, 0 },
    /*  9 */ { ngx_string("response"), 0, 0 },
    /* 10 */ { ngx_string("thinking"), 0, 0 },
    /* 11 */ { ngx_string("done"), 0, 0 },
    /* 12 */ { ngx_string("done_reason"), 0, C },
    /* 13 */ { ngx_string("prompt_eval_count"), 0, C },
    /* 14 */ { ngx_string("eval_count"), 0, C },
    /* 15 */ { ngx_string("error"), 0, B },
    /* 16 */ { ngx_string("status"), 0, C }
};

static const u_char  ngx_http_clawd_native_is[] = {
    /*  0 */ 0, ngx_http_clawd_is_model, 0, ngx_http_clawd_is_text,
    /*  4 */ ngx_http_clawd_is_text, 0, ngx_http_clawd_is_tool, 0,
    /*  8 */ ngx_http_clawd_is_arguments, ngx_http_clawd_is_text,
    /* 10 */ ngx_http_clawd_is_text, ngx_http_clawd_is_done,
    /* 12 */ ngx_http_clawd_is_reason, ngx_http_clawd_is_prompt,
    /* 14 */ ngx_http_clawd_is_completion, ngx_http_clawd_is_error,
    /* 16 */ ngx_http_clawd_is_status
};


static const ngx_http_clawd_json_node_t  ngx_http_clawd_embeddings_nodes[] = {
    /*  0 */ { ngx_null_string, 0, S },
    /*  1 */ { ngx_string("model"), 0, C },
    /*  2 */ { ngx_string("usage"), 0, B },
    /*  3 */ { ngx_string("prompt_tokens"), 2, C },
    /*  4 */ { ngx_string("prompt_eval_count"), 0, C },
    /*  5 */ { ngx_string("error"), 0, B }
};

static const u_char  ngx_http_clawd_embeddings_is[] = {
    /*  0 */ 0, ngx_http_clawd_is_model, ngx_http_clawd_is_usage,
    /*  3 */ ngx_http_clawd_is_prompt, ngx_http_clawd_is_prompt,
    /*  5 */ ngx_http_clawd_is_error
};

#undef C
#undef S
#undef B


/* in the order of ngx_http_clawd_format_e */

static ngx_http_clawd_table_t  ngx_http_clawd_tables[] = {
    { { NULL, 0, 0, 0, 0, { 0 }, { 0 } }, NULL },
    ngx_http_clawd_table(ngx_http_clawd_chat),
    ngx_http_clawd_table(ngx_http_clawd_chat),
    ngx_http_clawd_table(ngx_http_clawd_responses),
    ngx_http_clawd_table(ngx_http_clawd_messages),
    ngx_http_clawd_table(ngx_http_clawd_native),
    ngx_http_clawd_table(ngx_http_clawd_embeddings)
};


static void ngx_http_clawd_answer_mark(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_answer_part(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_answer_json(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_answer_ndjson(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_answer_sse(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_sse_line_end(ngx_http_clawd_answer_t *a,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_sse_line_done(ngx_http_clawd_answer_t *a);
static void ngx_http_clawd_sse_line_start(ngx_http_clawd_answer_t *a,
    u_char c);
static void ngx_http_clawd_sse_field(ngx_http_clawd_answer_t *a,
    ngx_uint_t colon);
static void ngx_http_clawd_sse_data(ngx_http_clawd_answer_t *a, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_sse_eol(u_char *p, u_char *last);
static void ngx_http_clawd_event_clear(ngx_http_clawd_answer_t *a);
static void ngx_http_clawd_event_feed(ngx_http_clawd_answer_t *a, u_char *p,
    u_char *last);
static u_char *ngx_http_clawd_event_value(ngx_http_clawd_answer_t *a,
    u_char *p, u_char *last);
static ngx_uint_t ngx_http_clawd_answer_blank(u_char *p, u_char *last);
static void ngx_http_clawd_event_part(ngx_http_clawd_answer_t *a,
    ngx_http_clawd_json_event_e ev);
static void ngx_http_clawd_event_begin(ngx_http_clawd_answer_t *a,
    ngx_uint_t is);
static void ngx_http_clawd_event_scalar(ngx_http_clawd_answer_t *a,
    ngx_uint_t is);
static void ngx_http_clawd_event_string(ngx_http_clawd_answer_t *a,
    ngx_uint_t is);
static void ngx_http_clawd_event_count(ngx_http_clawd_answer_t *a,
    int64_t *count);
static ngx_uint_t ngx_http_clawd_event_type(ngx_http_clawd_json_t *js);
static void ngx_http_clawd_event_end(ngx_http_clawd_answer_t *a);
static void ngx_http_clawd_event_usage(ngx_http_clawd_answer_t *a);
static void ngx_http_clawd_event_complete(ngx_http_clawd_answer_t *a);
static uint16_t ngx_http_clawd_answer_text(u_char *dst, size_t size,
    ngx_http_clawd_json_t *js);


#define ngx_http_clawd_text_is(js, s)                                         \
    ((js)->text_len == sizeof(s) - 1 && !(js)->truncated                      \
     && ngx_memcmp((js)->text, s, sizeof(s) - 1) == 0)

#define ngx_http_clawd_chat(a)                                                \
    ((a)->format == NGX_HTTP_CLAWD_FORMAT_CHAT                                \
     || (a)->format == NGX_HTTP_CLAWD_FORMAT_COMPLETIONS)


void
ngx_http_clawd_answer_init(ngx_http_clawd_answer_t *a,
    ngx_http_clawd_format_e format, ngx_http_clawd_framing_e framing)
{
    ngx_memzero(a, offsetof(ngx_http_clawd_answer_t, js));

    a->format = format;
    a->framing = format ? framing : NGX_HTTP_CLAWD_FRAMING_NONE;

    a->facts.prompt_tokens = -1;
    a->facts.completion_tokens = -1;

    ngx_http_clawd_event_clear(a);
}


ngx_int_t
ngx_http_clawd_answer_read(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    if (a->mark < NGX_HTTP_CLAWD_ANSWER_MARK) {
        ngx_http_clawd_answer_mark(a, pos, last);
    }

    return ngx_http_clawd_answer_part(a, pos, last);
}


/* a byte order mark at the very start says nothing */

static void
ngx_http_clawd_answer_mark(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    u_char  *p;

    static u_char  mark[NGX_HTTP_CLAWD_ANSWER_MARK] = { 0xef, 0xbb, 0xbf };

    while (*pos < last && a->mark < NGX_HTTP_CLAWD_ANSWER_MARK) {

        if (**pos != mark[a->mark]) {

            /* it was none: what is gone of it belongs to the answer */

            p = mark;
            (void) ngx_http_clawd_answer_part(a, &p, mark + a->mark);

            a->mark = NGX_HTTP_CLAWD_ANSWER_MARK;
            return;
        }

        (*pos)++;
        a->mark++;
    }
}


static ngx_int_t
ngx_http_clawd_answer_part(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    switch (a->framing) {

    case NGX_HTTP_CLAWD_FRAMING_JSON:
        return ngx_http_clawd_answer_json(a, pos, last);

    case NGX_HTTP_CLAWD_FRAMING_NDJSON:
        return ngx_http_clawd_answer_ndjson(a, pos, last);

    case NGX_HTTP_CLAWD_FRAMING_SSE:
        return ngx_http_clawd_answer_sse(a, pos, last);

    default:
        *pos = last;
        return NGX_AGAIN;
    }
}


ngx_http_clawd_end_e
ngx_http_clawd_answer_end(ngx_http_clawd_answer_t *a)
{
    ngx_http_clawd_end_e  end;

    a->usage_only = 0;
    a->done = 0;

    if (a->held_cr) {
        a->held_cr = 0;
        (void) ngx_http_clawd_sse_line_done(a);
    }

    if (a->event == NGX_HTTP_CLAWD_EVENT_NONE) {
        return NGX_HTTP_CLAWD_END_BOUNDARY;
    }

    if (a->framing == NGX_HTTP_CLAWD_FRAMING_SSE
        && !a->data && !a->other && a->line != ngx_http_clawd_line_field)
    {
        end = NGX_HTTP_CLAWD_END_COMMENT;

    } else if (a->line != ngx_http_clawd_line_field
               && ((a->begun && a->whole && !a->junk)
                   || (a->head_len == 6
                       && ngx_memcmp(a->head, "[DONE]", 6) == 0)))
    {
        ngx_http_clawd_event_end(a);
        return NGX_HTTP_CLAWD_END_WHOLE;

    } else {
        a->facts.anomaly = 1;
        end = NGX_HTTP_CLAWD_END_BROKEN;

        /* what had come of the one value was generated all the same */

        if (a->framing == NGX_HTTP_CLAWD_FRAMING_JSON) {
            a->facts.text_bytes += a->text;
            ngx_http_clawd_event_usage(a);
        }
    }

    ngx_http_clawd_event_clear(a);

    return end;
}


static ngx_int_t
ngx_http_clawd_answer_json(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    u_char  *p;

    p = *pos;
    *pos = last;

    if (p < last && !a->ended) {
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;

        p = ngx_http_clawd_event_value(a, p, last);

        if (a->whole) {
            a->ended = 1;
            ngx_http_clawd_event_end(a);
        }
    }

    if (a->ended && !ngx_http_clawd_answer_blank(p, last)) {
        a->facts.anomaly = 1;
    }

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_clawd_answer_ndjson(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    u_char  *p, *eol;

    p = *pos;

    while (p < last) {

        if (a->event == NGX_HTTP_CLAWD_EVENT_NONE) {

            if (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n') {
                p++;
                continue;
            }

            a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
        }

        eol = memchr(p, '\n', last - p);

        ngx_http_clawd_event_feed(a, p, eol ? eol : last);

        if (eol == NULL) {
            break;
        }

        ngx_http_clawd_event_end(a);
        *pos = eol + 1;

        return NGX_OK;
    }

    *pos = last;

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_clawd_answer_sse(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    u_char  *p, *eol;

    p = *pos;

    if (p < last && (a->skip_lf || a->held_cr)) {

        a->crlf = (*p == '\n');
        a->skip_lf = 0;

        if (a->crlf) {
            p++;
        }

        if (a->held_cr) {
            a->held_cr = 0;

            if (ngx_http_clawd_sse_line_done(a) == NGX_OK) {
                *pos = p;
                return NGX_OK;
            }
        }
    }

    while (p < last) {

        if (*p == '\n' || *p == '\r') {
            if (ngx_http_clawd_sse_line_end(a, &p, last) == NGX_OK) {
                *pos = p;
                return NGX_OK;
            }

            continue;
        }

        switch (a->line) {

        case ngx_http_clawd_line_start:
            ngx_http_clawd_sse_line_start(a, *p);
            break;

        case ngx_http_clawd_line_field:

            if (*p == ':') {
                ngx_http_clawd_sse_field(a, 1);

            } else if (a->field_len < sizeof(a->field)) {
                a->field[a->field_len++] = *p;
            }

            p++;
            break;

        case ngx_http_clawd_line_space:
            a->line = ngx_http_clawd_line_data;

            if (*p == ' ') {
                p++;
            }

            break;

        case ngx_http_clawd_line_name:

            if (a->field_len < sizeof(a->field)) {
                a->field[a->field_len++] = *p;
            }

            p++;
            break;

        default:
            eol = ngx_http_clawd_sse_eol(p, last);

            if (a->line == ngx_http_clawd_line_data) {
                ngx_http_clawd_sse_data(a, p, eol);
            }

            p = eol;
        }
    }

    *pos = last;

    return NGX_AGAIN;
}


/*
 * CR, LF or CRLF.  Where lines end in CRLF, a CR at the end of the buffer is
 * half of an end, so that an event ends at the same byte at any split.
 */

static ngx_int_t
ngx_http_clawd_sse_line_end(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last)
{
    u_char  *p;

    p = *pos;

    if (*p++ == '\n') {
        a->crlf = 0;

    } else if (p < last) {
        a->crlf = (*p == '\n');
        p += a->crlf;

    } else if (a->crlf) {
        a->held_cr = 1;
        *pos = p;
        return NGX_AGAIN;

    } else {
        a->skip_lf = 1;
    }

    *pos = p;

    return ngx_http_clawd_sse_line_done(a);
}


/* NGX_OK: the line was blank, or a comment outside of events */

static ngx_int_t
ngx_http_clawd_sse_line_done(ngx_http_clawd_answer_t *a)
{
    ngx_uint_t  line;

    line = a->line;
    a->line = ngx_http_clawd_line_start;

    switch (line) {

    case ngx_http_clawd_line_start:

        if (a->event != NGX_HTTP_CLAWD_EVENT_NONE) {
            ngx_http_clawd_event_end(a);

        } else {
            a->usage_only = 0;
            a->done = 0;
        }

        return NGX_OK;

    case ngx_http_clawd_line_field:
        ngx_http_clawd_sse_field(a, 0);
        a->line = ngx_http_clawd_line_start;
        break;

    case ngx_http_clawd_line_name:
        a->alarm = (a->field_len == 5
                    && ngx_memcmp(a->field, "error", 5) == 0)
                   || (a->field_len == 6
                       && ngx_memcmp(a->field, " error", 6) == 0);
        break;
    }

    if (a->data || a->other) {
        return NGX_AGAIN;
    }

    a->event = NGX_HTTP_CLAWD_EVENT_NONE;

    return NGX_OK;
}


static void
ngx_http_clawd_sse_line_start(ngx_http_clawd_answer_t *a, u_char c)
{
    if (a->event == NGX_HTTP_CLAWD_EVENT_NONE) {
        a->usage_only = 0;
        a->done = 0;

        a->event = ngx_http_clawd_chat(a) ? NGX_HTTP_CLAWD_EVENT_OPEN
                                          : NGX_HTTP_CLAWD_EVENT_PLAIN;
    }

    /* a comment is a heartbeat: it waits for nothing */

    if (c == ':') {
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
    }

    a->field_len = 0;
    a->line = (c == ':') ? ngx_http_clawd_line_rest
                         : ngx_http_clawd_line_field;
}


static void
ngx_http_clawd_sse_field(ngx_http_clawd_answer_t *a, ngx_uint_t colon)
{
    size_t   len;
    u_char  *name;

    name = a->field;
    len = a->field_len;

    if (len == 4 && ngx_memcmp(name, "data", 4) == 0) {

        if (a->data) {
            ngx_http_clawd_sse_data(a, (u_char *) "\n",
                                    (u_char *) "\n" + 1);
        }

        a->data = 1;
        a->line = colon ? ngx_http_clawd_line_space
                        : ngx_http_clawd_line_rest;
        return;
    }

    a->line = ngx_http_clawd_line_rest;

    if (len == 5 && ngx_memcmp(name, "event", 5) == 0) {
        a->field_len = 0;
        a->line = ngx_http_clawd_line_name;
        a->other = 1;
        return;
    }

    if ((len == 5 && ngx_memcmp(name, "retry", 5) == 0)
        || (len == 2 && ngx_memcmp(name, "id", 2) == 0))
    {
        a->other = 1;
        return;
    }

    a->other = 1;
    a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
}


static void
ngx_http_clawd_sse_data(ngx_http_clawd_answer_t *a, u_char *p, u_char *last)
{
    size_t  n;

    if (!a->begun && a->head_len == 0) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == '\n')) {
            p++;
        }

        if (p == last) {
            return;
        }
    }

    if (a->begun || (a->head_len == 0 && *p == '{')) {
        ngx_http_clawd_event_feed(a, p, last);
        return;
    }

    a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;

    n = ngx_min((size_t) (last - p), sizeof(a->head) - a->head_len);

    ngx_memcpy(a->head + a->head_len, p, n);
    a->head_len += n;
}


/* the first CR or LF, in one pass: a buffer may be full of either */

static u_char *
ngx_http_clawd_sse_eol(u_char *p, u_char *last)
{
#if defined(__SSE2__)
    int      mask;
    __m128i  v, lf, cr;

    lf = _mm_set1_epi8('\n');
    cr = _mm_set1_epi8('\r');

    while (last - p >= 16) {
        v = _mm_loadu_si128((const __m128i *) p);

        mask = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(v, lf),
                                              _mm_cmpeq_epi8(v, cr)));
        if (mask) {
            return p + __builtin_ctz((unsigned) mask);
        }

        p += 16;
    }
#endif

    while (p < last && *p != '\n' && *p != '\r') {
        p++;
    }

    return p;
}


static void
ngx_http_clawd_event_clear(ngx_http_clawd_answer_t *a)
{
    a->event = NGX_HTTP_CLAWD_EVENT_NONE;
    a->begun = 0;
    a->whole = 0;
    a->junk = 0;
    a->data = 0;
    a->other = 0;
    a->alarm = 0;
    a->tool = 0;
    a->usage = 0;
    a->nameless = 0;
    a->failed = 0;
    a->done_true = 0;
    a->success = 0;
    a->line = ngx_http_clawd_line_start;
    a->head_len = 0;
    a->type = ngx_http_clawd_type_other;
    a->reason_len = 0;
    a->prompt = -1;
    a->completion = -1;
    a->cached[0] = 0;
    a->cached[1] = 0;
    a->text = 0;
}


/* more bytes of the event, which is one JSON value and nothing else */

static void
ngx_http_clawd_event_feed(ngx_http_clawd_answer_t *a, u_char *p,
    u_char *last)
{
    p = ngx_http_clawd_event_value(a, p, last);

    if (a->whole && !ngx_http_clawd_answer_blank(p, last)) {
        a->junk = 1;
    }

    if (a->junk
        || (a->whole && (!a->usage || a->event == NGX_HTTP_CLAWD_EVENT_OPEN)))
    {
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
    }
}


/* returns where the value ended, if it did */

static u_char *
ngx_http_clawd_event_value(ngx_http_clawd_answer_t *a, u_char *p,
    u_char *last)
{
    ngx_http_clawd_json_event_e  ev;

    if (!a->begun) {
        ngx_http_clawd_json_init(&a->js,
                                 &ngx_http_clawd_tables[a->format].json);
        a->begun = 1;
    }

    while (!a->whole && !a->junk) {

        ev = ngx_http_clawd_json_next(&a->js, &p, last);

        switch (ev) {

        case NGX_HTTP_CLAWD_JSON_AGAIN:
            return p;

        case NGX_HTTP_CLAWD_JSON_DONE:
            a->whole = 1;
            break;

        case NGX_HTTP_CLAWD_JSON_ERROR:
            a->junk = 1;
            break;

        default:
            ngx_http_clawd_event_part(a, ev);
        }
    }

    return p;
}


static ngx_uint_t
ngx_http_clawd_answer_blank(u_char *p, u_char *last)
{
    while (p < last
           && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
    {
        p++;
    }

    return p == last;
}


static void
ngx_http_clawd_event_part(ngx_http_clawd_answer_t *a,
    ngx_http_clawd_json_event_e ev)
{
    ngx_uint_t              is;
    ngx_http_clawd_json_t  *js;

    js = &a->js;
    is = ngx_http_clawd_tables[a->format].is[js->node];

    if (ev == NGX_HTTP_CLAWD_JSON_SCALAR) {
        ngx_http_clawd_event_scalar(a, is);
        return;
    }

    if (ev == NGX_HTTP_CLAWD_JSON_BEGIN) {
        ngx_http_clawd_event_begin(a, is);
        return;
    }

    if (is == ngx_http_clawd_is_arguments) {
        a->text += js->end - js->start;
        return;
    }

    if (is == ngx_http_clawd_is_choices
        && a->event == NGX_HTTP_CLAWD_EVENT_OPEN)
    {
        a->event = NGX_HTTP_CLAWD_EVENT_EMPTY;
    }
}


static void
ngx_http_clawd_event_begin(ngx_http_clawd_answer_t *a, ngx_uint_t is)
{
    switch (is) {

    case ngx_http_clawd_is_tool:
    case ngx_http_clawd_is_arguments:
        a->tool = 1;
        break;

    case ngx_http_clawd_is_usage:
        a->usage = (a->js.type == NGX_HTTP_CLAWD_JSON_OBJECT);
        a->facts.anomaly |= !a->usage;
        break;

    case ngx_http_clawd_is_prompt:
    case ngx_http_clawd_is_completion:
    case ngx_http_clawd_is_cached:
    case ngx_http_clawd_is_stored:
        a->facts.anomaly = 1;
        break;

    case ngx_http_clawd_is_choices:

        if (a->js.type != NGX_HTTP_CLAWD_JSON_ARRAY) {
            a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
        }

        break;

    case ngx_http_clawd_is_choice:
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
        break;

    case ngx_http_clawd_is_error:
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
        a->failed = 1;
        break;
    }
}


static void
ngx_http_clawd_event_scalar(ngx_http_clawd_answer_t *a, ngx_uint_t is)
{
    switch (is) {

    case ngx_http_clawd_is_prompt:
        ngx_http_clawd_event_count(a, &a->prompt);
        return;

    case ngx_http_clawd_is_completion:
        ngx_http_clawd_event_count(a, &a->completion);
        return;

    case ngx_http_clawd_is_cached:
        ngx_http_clawd_event_count(a, &a->cached[0]);
        return;

    case ngx_http_clawd_is_stored:
        ngx_http_clawd_event_count(a, &a->cached[1]);
        return;

    case ngx_http_clawd_is_usage:
        a->usage = 0;
        a->facts.anomaly |= (a->js.type != NGX_HTTP_CLAWD_JSON_NULL);
        return;

    case ngx_http_clawd_is_choices:
    case ngx_http_clawd_is_choice:
        a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
        return;

    case ngx_http_clawd_is_done:
        a->done_true = (a->js.type == NGX_HTTP_CLAWD_JSON_TRUE);
        return;

    case ngx_http_clawd_is_error:

        if (a->js.type != NGX_HTTP_CLAWD_JSON_NULL
            && a->js.type != NGX_HTTP_CLAWD_JSON_FALSE
            && (a->js.type != NGX_HTTP_CLAWD_JSON_STRING || a->js.size))
        {
            a->event = NGX_HTTP_CLAWD_EVENT_PLAIN;
            a->failed = 1;
        }

        return;
    }

    if (a->js.type == NGX_HTTP_CLAWD_JSON_STRING) {
        ngx_http_clawd_event_string(a, is);
    }
}


static void
ngx_http_clawd_event_string(ngx_http_clawd_answer_t *a, ngx_uint_t is)
{
    ngx_http_clawd_json_t  *js;

    js = &a->js;

    switch (is) {

    case ngx_http_clawd_is_text:
        a->text += js->size;
        return;

    case ngx_http_clawd_is_model:
        a->nameless = (js->size == 0);

        if (a->facts.model_len == 0) {
            a->facts.model_len = ngx_http_clawd_answer_text(a->facts.model,
                                               sizeof(a->facts.model), js);
        }

        return;

    case ngx_http_clawd_is_reason:
        a->reason_len = ngx_http_clawd_answer_text(a->reason,
                                                   sizeof(a->reason), js);
        return;

    case ngx_http_clawd_is_status:

        if (ngx_http_clawd_text_is(js, "success")) {
            a->success = 1;
            a->reason_len = ngx_http_clawd_answer_text(a->reason,
                                                       sizeof(a->reason), js);
        }

        return;

    case ngx_http_clawd_is_type:
        a->type = ngx_http_clawd_event_type(js);
        return;
    }
}


/* each count on its own: a junk one is as good as none */

static void
ngx_http_clawd_event_count(ngx_http_clawd_answer_t *a, int64_t *count)
{
    int64_t  n;

    if (a->js.type == NGX_HTTP_CLAWD_JSON_NULL) {
        return;
    }

    n = (a->js.type == NGX_HTTP_CLAWD_JSON_NUMBER)
        ? ngx_http_clawd_json_count(&a->js) : -1;

    if (n < 0 || n > NGX_HTTP_CLAWD_ANSWER_COUNT_MAX) {
        a->facts.anomaly = 1;
        return;
    }

    *count = n;
}


static ngx_uint_t
ngx_http_clawd_event_type(ngx_http_clawd_json_t *js)
{
    if (ngx_http_clawd_text_is(js, "response.completed")
        || ngx_http_clawd_text_is(js, "response.incomplete")
        || ngx_http_clawd_text_is(js, "message_stop"))
    {
        return ngx_http_clawd_type_end;
    }

    if (ngx_http_clawd_text_is(js, "response.failed")) {
        return ngx_http_clawd_type_failed;
    }

    if (ngx_http_clawd_text_is(js, "error")) {
        return ngx_http_clawd_type_error;
    }

    if (ngx_http_clawd_text_is(js, "message_delta")) {
        return ngx_http_clawd_type_usage;
    }

    return ngx_http_clawd_type_other;
}


/* the event or line has ended: what it said becomes fact */

static void
ngx_http_clawd_event_end(ngx_http_clawd_answer_t *a)
{
    ngx_http_clawd_facts_t  *f;

    f = &a->facts;

    a->usage_only = 0;
    a->done = (a->head_len == 6 && ngx_memcmp(a->head, "[DONE]", 6) == 0);

    if (a->framing != NGX_HTTP_CLAWD_FRAMING_SSE || a->data) {
        f->events++;
    }

    if (a->alarm && a->data) {
        f->error = 1;
        f->told = 1;
    }

    if ((a->begun && (a->junk || !a->whole)) || (a->head_len && !a->done)) {
        f->anomaly = 1;
    }

    if (a->begun && !a->junk && a->whole) {

        if (a->text || a->tool) {
            f->deltas++;
            f->text_bytes += a->text;
        }

        a->usage_only = (a->event == NGX_HTTP_CLAWD_EVENT_EMPTY && a->usage);

        ngx_http_clawd_event_complete(a);
        ngx_http_clawd_event_usage(a);
    }

    ngx_http_clawd_event_clear(a);
}


static void
ngx_http_clawd_event_complete(ngx_http_clawd_answer_t *a)
{
    ngx_uint_t               end, json;
    ngx_http_clawd_facts_t  *f;

    f = &a->facts;
    json = (a->framing == NGX_HTTP_CLAWD_FRAMING_JSON);

    if (a->failed || a->type == ngx_http_clawd_type_error
        || a->type == ngx_http_clawd_type_failed)
    {
        f->error = 1;
        f->told = 1;
    }

    end = (a->type == ngx_http_clawd_type_end
           || a->type == ngx_http_clawd_type_failed
           || a->done_true || a->success
           || (ngx_http_clawd_chat(a) && a->reason_len)
           || (json && !ngx_http_clawd_chat(a) && !f->error));

    /* a status that is not final is no reason to have finished */

    if (a->reason_len
        && (end || a->format != NGX_HTTP_CLAWD_FORMAT_RESPONSES))
    {
        ngx_memcpy(f->finish, a->reason, a->reason_len);
        f->finish_len = a->reason_len;
    }

    if (end) {
        f->complete = 1;
    }

    /* an upstream whose model died goes on with an event that lacks it all */

    if (a->nameless && f->model_len && ngx_http_clawd_chat(a)
        && !f->complete)
    {
        f->error = 1;
    }
}


/*
 * The last count wins, but one of an event without choices, or from the finish
 * on, is not beaten by one of any other.  Zeros say nothing where there was
 * output or more is to come: some upstreams put them into every event.
 */

static void
ngx_http_clawd_event_usage(ngx_http_clawd_answer_t *a)
{
    ngx_uint_t               last;
    ngx_http_clawd_facts_t  *f;

    f = &a->facts;

    if (a->prompt >= 0) {
        a->prompt += a->cached[0] + a->cached[1];
    }

    if (a->prompt < 0 && a->completion < 0) {
        return;
    }

    /* of messages only the late counts are real */

    if (a->format == NGX_HTTP_CLAWD_FORMAT_MESSAGES
        && a->framing == NGX_HTTP_CLAWD_FRAMING_SSE
        && a->type != ngx_http_clawd_type_usage)
    {
        if (a->prompt >= 0 && !f->usage) {
            f->prompt_tokens = a->prompt;
        }

        return;
    }

    last = a->usage_only || f->complete;

    if (a->prompt <= 0 && a->completion <= 0
        && (!last || f->usage || f->deltas))
    {
        return;
    }

    if (a->final && !last) {
        return;
    }

    a->final = last;
    f->usage = 1;

    /* a cached prompt that is told as 0 has been read all the same */

    if (a->prompt > 0
        || (a->prompt == 0 && a->completion <= 0 && f->deltas == 0))
    {
        f->prompt_tokens = a->prompt;
    }

    if (a->format == NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS) {
        f->completion_tokens = 0;

    } else if (a->completion >= 0) {
        f->completion_tokens = a->completion;
    }
}


/* for logs and labels: printable ASCII, the rest as '?' */

static uint16_t
ngx_http_clawd_answer_text(u_char *dst, size_t size,
    ngx_http_clawd_json_t *js)
{
    size_t  i, len;

    len = ngx_min(size, (size_t) js->text_len);

    for (i = 0; i < len; i++) {
        dst[i] = (js->text[i] > 0x20 && js->text[i] < 0x7f) ? js->text[i]
                                                            : '?';
    }

    return (uint16_t) len;
}
