/*
 * Copyright (C) clawd authors
 *
 * Errors as the caller's API words them: whole bodies, in-band events, and
 * foreign error bodies put into the caller's shape.
 */

#ifndef _NGX_HTTP_CLAWD_ERROR_H_INCLUDED_
#define _NGX_HTTP_CLAWD_ERROR_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_api.h"
#include "ngx_http_clawd_answer.h"


#pragma GCC visibility push(hidden)


/* every way in which the gateway refuses or fails; NONE is none */

typedef enum {
    NGX_HTTP_CLAWD_ERR_NONE = 0,
    NGX_HTTP_CLAWD_ERR_NO_TOKEN,          /* 401 "gateway token missing" */
    NGX_HTTP_CLAWD_ERR_BAD_TOKEN,         /* 401, malformed or unknown */
    NGX_HTTP_CLAWD_ERR_EXPIRED,           /* the same to the client: 401 */
    NGX_HTTP_CLAWD_ERR_DISABLED,          /* likewise */
    NGX_HTTP_CLAWD_ERR_RECORD,            /* likewise: a record of no use */
    NGX_HTTP_CLAWD_ERR_LEDGER,            /* 503 auth_unavailable */
    NGX_HTTP_CLAWD_ERR_CONCURRENCY,       /* 429; in the order of limits */
    NGX_HTTP_CLAWD_ERR_RPM,               /* 429 */
    NGX_HTTP_CLAWD_ERR_TPM,               /* 429 */
    NGX_HTTP_CLAWD_ERR_DAY,               /* 429 insufficient_quota */
    NGX_HTTP_CLAWD_ERR_MONTH,             /* 429 insufficient_quota */
    NGX_HTTP_CLAWD_ERR_NEVER,             /* 400, more than a whole limit */
    NGX_HTTP_CLAWD_ERR_ORIGIN,            /* 403, preflight of a stranger */
    NGX_HTTP_CLAWD_ERR_ENDPOINT,          /* 403 endpoint_not_allowed */
    NGX_HTTP_CLAWD_ERR_NOT_FOUND,         /* 404, no such endpoint */
    NGX_HTTP_CLAWD_ERR_METHOD,            /* 405 with Allow */
    NGX_HTTP_CLAWD_ERR_PATH,              /* 400, ambiguous path */
    NGX_HTTP_CLAWD_ERR_ENCODING,          /* 415, Content-Encoding */
    NGX_HTTP_CLAWD_ERR_EMPTY_BODY,        /* 400 */
    NGX_HTTP_CLAWD_ERR_BODY,              /* 400, of a GET or HEAD */
    NGX_HTTP_CLAWD_ERR_JSON,              /* 400 invalid_json */
    NGX_HTTP_CLAWD_ERR_TRAILING,          /* 400, bytes after the value */
    NGX_HTTP_CLAWD_ERR_DEPTH,             /* 400, nested too deep */
    NGX_HTTP_CLAWD_ERR_DUPLICATE,         /* 400, control key twice/folded */
    NGX_HTTP_CLAWD_ERR_TYPE,              /* 400, wrong type of a control */
    NGX_HTTP_CLAWD_ERR_MODEL,             /* 400, missing or malformed */
    NGX_HTTP_CLAWD_ERR_MODEL_DENIED,      /* 403 model_not_allowed */
    NGX_HTTP_CLAWD_ERR_PARAM_DENIED,      /* 403, e.g. _debug_render_only */
    NGX_HTTP_CLAWD_ERR_TOO_LARGE,         /* 413 */
    NGX_HTTP_CLAWD_ERR_BODY_TIMEOUT,      /* 408 */
    NGX_HTTP_CLAWD_ERR_PARTIAL_BODY,      /* 400, reading it had failed */
    NGX_HTTP_CLAWD_ERR_CLIENT_ABORT,      /* nobody is there to read it */
    NGX_HTTP_CLAWD_ERR_INTERNAL,          /* 500 */
    NGX_HTTP_CLAWD_ERR_UNAVAILABLE,       /* 502 upstream_unavailable */
    NGX_HTTP_CLAWD_ERR_INVALID,           /* 502, an answer not relayed */
    NGX_HTTP_CLAWD_ERR_MISCONFIGURED,     /* 502, empty 403: Host or Origin */
    NGX_HTTP_CLAWD_ERR_UPSTREAM_AUTH,     /* 502, the upstream said 401 */
    NGX_HTTP_CLAWD_ERR_TIMEOUT,           /* 504, x-should-retry: false */
    NGX_HTTP_CLAWD_ERR_INCOMPLETE,        /* in-band only */
    NGX_HTTP_CLAWD_ERR_MAX
} ngx_http_clawd_error_e;


typedef struct {
    ngx_uint_t  status;
    ngx_str_t   type;         /* OpenAI "type" */
    ngx_str_t   code;         /* OpenAI "code"; empty = null */
    ngx_str_t   anthropic;    /* Anthropic error type */
    ngx_str_t   message;      /* the default one */
    ngx_str_t   reason;       /* label of clawdbot_rejected_total */
} ngx_http_clawd_error_def_t;


typedef struct {
    ngx_uint_t  status;       /* chooses types where there is no id */
    ngx_http_clawd_error_e  id;   /* or NONE: wording by status */
    ngx_str_t   message;      /* empty: the default one; plain text */
    ngx_str_t   param;        /* OpenAI "param"; empty = null */
    ngx_str_t   code;         /* overrides the table's; empty: as there */
    ngx_str_t   request_id;
    uint64_t    sequence;     /* sequence_number of an in-band responses one */
} ngx_http_clawd_error_t;


/* The table's entry; id below ERR_MAX. */
const ngx_http_clawd_error_def_t *ngx_http_clawd_error_def(
    ngx_http_clawd_error_e id);

/*
 * The id that stands for a status which NGINX itself made (413, 408, 502,
 * 504…), or NONE: such a status is worded by its class.
 */
ngx_http_clawd_error_e ngx_http_clawd_error_of_status(ngx_uint_t status);

/* Bytes that are always enough for the body of e, any family, any form. */
size_t ngx_http_clawd_error_size(ngx_http_clawd_error_t *e);

/* Writes the whole body in the family's shape into p; returns its end. */
u_char *ngx_http_clawd_error_write(u_char *p, ngx_http_clawd_family_e family,
    ngx_http_clawd_error_t *e);

/*
 * Writes the in-band form of a failed stream: an SSE event (the error event
 * of the format; for responses with e->sequence and an error object) or an
 * NDJSON line.  Returns its end; needs ngx_http_clawd_error_size().
 */
u_char *ngx_http_clawd_error_inband(u_char *p, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, ngx_http_clawd_error_t *e);

/*
 * Reads an upstream's error body of status e->status.  NGX_OK: it already has
 * the family's shape and no reason to be rewritten: pass it as it is.
 * NGX_DECLINED: e->message (and e->code: context_length_exceeded out of a JSON
 * error inside a string) are set from it, unescaped into scratch, which holds
 * at least len bytes; HTML, empty and unreadable bodies leave the message
 * empty; a signin_url is never taken over.
 */
ngx_int_t ngx_http_clawd_error_read(ngx_http_clawd_error_t *e,
    ngx_http_clawd_family_e family, u_char *body, size_t len, u_char *scratch);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_ERROR_H_INCLUDED_ */
