/*
 * Copyright (C) clawd authors
 *
 * Reads the JSON body of a request and says what must change in it.  The body
 * is edited textually and never re-encoded, so that number precision, key
 * order and escapes of everything else stay as they came.
 */

#ifndef _NGX_HTTP_CLAWD_REQUEST_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REQUEST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_api.h"
#include "ngx_http_clawd_json.h"
#include "ngx_http_clawd_model.h"
#include "ngx_http_clawd_error.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_REQUEST_EDITS   30
#define NGX_HTTP_CLAWD_REQUEST_FIELDS  29

/*
 * What one image may cost.  Encoders end at 576 tokens (llava), 256 (gemma 3),
 * 2880 (llava-next), 3328 (internvl), 4096 (qwen2.5-vl as llama.cpp and Ollama
 * bound it), 4160 (pixtral) and 6404 (llama 3.2 vision, 4 tiles of 1601).
 */
#define NGX_HTTP_CLAWD_IMAGE_TOKENS    8192

/* what an image costs in the middle */
#define NGX_HTTP_CLAWD_IMAGE_GUESS     300

/* a token of sound has at least so many bytes of base64 at 8 kbit/s */
#define NGX_HTTP_CLAWD_AUDIO_BYTES     16

/* what a chat template adds to a prompt, a message, a tool, and to any tools */
#define NGX_HTTP_CLAWD_TEMPLATE_TOKENS  128
#define NGX_HTTP_CLAWD_MESSAGE_TOKENS   8
#define NGX_HTTP_CLAWD_TOOL_TOKENS      64
#define NGX_HTTP_CLAWD_TOOLS_TOKENS     512

/* a template of the client's may repeat the prompt: a whole context */
#define NGX_HTTP_CLAWD_OVERRIDE_TOKENS  1048576

/* larger than what any client can mean */
#define NGX_HTTP_CLAWD_ABSURD_TOKENS    1000000000

/* generations that one request may ask for */
#define NGX_HTTP_CLAWD_GENERATIONS      1024

/* no estimate is larger: it is exact as a floating point number too */
#define NGX_HTTP_CLAWD_OUTPUT_TOKENS    ((int64_t) 1 << 53)


/* replace start .. end of the body by text; start == end inserts */

typedef struct {
    off_t                    start;
    off_t                    end;
    ngx_str_t                text;
} ngx_http_clawd_edit_t;


/* a value that is judged when the body is whole; offsets into the body */

typedef struct {
    off_t                    start;
    off_t                    end;
    int64_t                  count;        /* of a number; -1: no plain one */
    ngx_http_clawd_json_type_e  type;
    unsigned                 seen:1;
    unsigned                 empty:1;      /* an object without members */
} ngx_http_clawd_request_field_t;


/* an element of a message's content, until its end shows what it is */

typedef struct {
    off_t                    data;         /* bytes of an image's text */
    off_t                    audio;
    off_t                    inner;        /* of images in a tool's result */
    unsigned                 image:1;      /* its type is the format's own */
    unsigned                 sound:1;
    unsigned                 result:1;
    unsigned                 base64:1;     /* of a source: it holds data */
} ngx_http_clawd_request_part_t;


typedef struct {
    /* set by the caller */

    ngx_http_clawd_format_e  format;
    int64_t                  max_tokens;   /* cap on the output, at most
                                              2^53; 0 = none */
    int64_t                  default_tokens;
                                           /* output of a request that asks for
                                              no usable limit, at most 2^53;
                                              0 = none */
    unsigned                 native:1;     /* an /api/ endpoint */
    unsigned                 admin:1;      /* may keep keep_alive, options… */

    /* facts */

    ngx_http_clawd_model_t   model;
    unsigned                 stream:1;       /* "stream":true */
    unsigned                 asked_usage:1;  /* include_usage was true */
    unsigned                 added_usage:1;  /* an edit asks for it */

    int64_t                  output_tokens;  /* upper bound of all generations
                                                after the edits; -1: none, 0 of
                                                embeddings */
    int64_t                  prompt_bound;   /* upper bound of the prompt */
    int64_t                  prompt_guess;   /* what it is likely to be */

    /* why the body was refused */

    ngx_http_clawd_error_e   error;
    ngx_str_t                param;        /* static text: the key at fault */

    /* what must change: sorted, not overlapping */

    ngx_uint_t               nedits;
    ngx_http_clawd_edit_t    edits[NGX_HTTP_CLAWD_REQUEST_EDITS];

    /* private */

    ngx_http_clawd_request_field_t
                             fields[NGX_HTTP_CLAWD_REQUEST_FIELDS];
    ngx_uint_t               peek;         /* field of an object whose first
                                              byte is not yet known, or 0 */
    unsigned                 begun:1;      /* a byte that is not white space */
    unsigned                 done:1;       /* the root has ended */
    unsigned                 web_search:1; /* a tool of the upstream's own */
    unsigned                 named:1;      /* the model is a usable text */
    unsigned                 chat:1;       /* messages is an array */

    const u_char            *kinds;        /* of nodes of the format alone */
    ngx_http_clawd_request_part_t  parts[2];
    ngx_uint_t               level;        /* the part that is open */
    int64_t                  prompts;
    int64_t                  messages;
    int64_t                  tools;
    int64_t                  images;
    off_t                    aside;        /* bytes that are no text */
    off_t                    root_aside;   /* …if the body is no chat */

    size_t                   name_len;
    u_char                   name[NGX_HTTP_CLAWD_JSON_TEXT + 2];
    u_char                   number[NGX_INT64_LEN + 1];
    u_char                   insert[64];

    ngx_http_clawd_json_t    js;
} ngx_http_clawd_request_t;


/*
 * Prepares the reading of one body.  Format, max_tokens, default_tokens,
 * native and admin are set by then.  Cannot fail.
 */
void ngx_http_clawd_request_init(ngx_http_clawd_request_t *rq);

/*
 * Reads the next bytes of the body.  NGX_OK, or NGX_ERROR with rq->error set:
 * stop then.
 */
ngx_int_t ngx_http_clawd_request_read(ngx_http_clawd_request_t *rq, u_char *p,
    u_char *last);

/*
 * The body is whole: judges it and makes the edits.  NGX_OK, or NGX_ERROR with
 * rq->error set.  Texts of the edits and the model's name live in rq, which
 * must not be moved, or are static.
 */
ngx_int_t ngx_http_clawd_request_end(ngx_http_clawd_request_t *rq);

/* The length of the edited body of a body of len bytes. */
off_t ngx_http_clawd_request_length(ngx_http_clawd_request_t *rq, off_t len);

/*
 * Copies the edited form of body bytes [offset, offset + (last - src)) to dst
 * and returns its end.  Called piece by piece in order, *edit starting at 0;
 * an edit is applied by the piece that holds its start.  dst holds at least
 * last - src bytes plus the length of all edit texts.
 */
u_char *ngx_http_clawd_request_copy(ngx_http_clawd_request_t *rq, u_char *dst,
    u_char *src, u_char *last, off_t offset, ngx_uint_t *edit);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REQUEST_H_INCLUDED_ */
