/*
 * Copyright (C) clawd authors
 *
 * Configuration, the request context, and what the rooms that know of NGINX
 * requests share.
 */

#ifndef _NGX_HTTP_CLAWD_H_INCLUDED_
#define _NGX_HTTP_CLAWD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_clawd_api.h"
#include "ngx_http_clawd_answer.h"
#include "ngx_http_clawd_error.h"
#include "ngx_http_clawd_digest.h"
#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_registry.h"


#pragma GCC visibility push(hidden)


#if (nginx_version < 1022000)
#error "clawd needs NGINX 1.22.0 or newer"
#endif


#define NGX_HTTP_CLAWD_AUTH_OFF        0
#define NGX_HTTP_CLAWD_AUTH_ON         1
#define NGX_HTTP_CLAWD_AUTH_TOKEN_ARG  2   /* on, and ?token= is read too */

/* how long a client's x-request-id may be to be taken over */
#define NGX_HTTP_CLAWD_RID_LEN         64

/* at most so much of an error body is read to be reworded */
#define NGX_HTTP_CLAWD_ERROR_BODY      65536

/* an event held back until it is decided grows no longer than this */
#define NGX_HTTP_CLAWD_HOLD_MAX        4096


typedef struct {
    ngx_http_clawd_identity_t   who;       /* as it is without a ledger */
    u_char                      digest[NGX_HTTP_CLAWD_DIGEST_LEN];
} ngx_http_clawd_token_t;


typedef struct {
    ngx_shm_zone_t             *zone;
    ngx_array_t                 tokens;    /* ngx_http_clawd_token_t, sorted
                                              by digest */
    ngx_http_clawd_ledger_conf_t  ledger_conf;
    ngx_http_clawd_ledger_t    *ledger;    /* of this process; NULL: there are
                                              no quotas, no keys in Redis */
    ngx_uint_t                  gated;     /* some location is gated */
    ngx_uint_t                  token_arg; /* some location reads ?token= */
    ngx_uint_t                  metrics;   /* some location serves them */
    ngx_int_t                   proxy_host; /* index of $proxy_host, or
                                              NGX_ERROR */
    ngx_int_t                  *variables; /* indexes of $clawd_*; NULL: not
                                              gated */
} ngx_http_clawd_main_conf_t;


typedef struct {
    ngx_uint_t                  token_arg; /* some location reads ?token= */
} ngx_http_clawd_srv_conf_t;


typedef struct {
    ngx_flag_t                  enable;
    ngx_flag_t                  dry_run;       /* quotas are counted only */
    ngx_uint_t                  auth;
    ngx_int_t                   max_tokens;    /* 0: off */
    ngx_array_t                *cors;          /* ngx_str_t origins; NULL: off,
                                                  one "*": any */

    ngx_http_complex_value_t   *upstream;      /* scheme://authority of
                                                  clawd_pass; NULL: none */
    ngx_uint_t                  checked;       /* of this process: the proxy's
                                                  settings were looked at */
} ngx_http_clawd_loc_conf_t;


/* a credential is read once; every location judges the same one */

typedef enum {
    NGX_HTTP_CLAWD_CRED_UNREAD = 0,
    NGX_HTTP_CLAWD_CRED_NONE,
    NGX_HTTP_CLAWD_CRED_BAD,           /* malformed or ambiguous */
    NGX_HTTP_CLAWD_CRED_DIGEST
} ngx_http_clawd_cred_e;


/*
 * The request's life before the upstream.  Each state's function either goes
 * on to the next state, waits, or refuses:
 *
 *   AUTH --> ENDPOINT --> BODY --> MODEL --> QUOTA --> GO --> PASSED
 *    | ^        |          | ^       |        | ^
 *    | v        |          | v       |        | v
 *    |(asked)   |          |(reading)|        |(asked)
 *    +----------+----------+---------+--------+--> refused: a status, error
 *                                                  in ctx
 *
 * "asked" waits for the ledger: ask or hold is the waiting thing, which has
 * its own time limit, and settling takes back when the client leaves.
 *
 * An internal redirect into another gated location starts at AUTH again with
 * the same context: the credential's digest, the reservation, the metering and
 * the one record that counts are kept.
 */

typedef enum {
    NGX_HTTP_CLAWD_STATE_AUTH = 0,
    NGX_HTTP_CLAWD_STATE_ENDPOINT,
    NGX_HTTP_CLAWD_STATE_BODY,
    NGX_HTTP_CLAWD_STATE_MODEL,
    NGX_HTTP_CLAWD_STATE_QUOTA,
    NGX_HTTP_CLAWD_STATE_GO,
    NGX_HTTP_CLAWD_STATE_PASSED
} ngx_http_clawd_state_e;


/*
 * What is told about a limit in headers: how high it is, what remains and when
 * it resets, one behind the other, in the request's pool.
 */

typedef struct {
    u_char                     *text;      /* NULL: there is no such limit */
    u_char                      ends[3];
} ngx_http_clawd_ratelimit_t;


typedef struct ngx_http_clawd_ctx_s  ngx_http_clawd_ctx_t;
typedef struct ngx_http_clawd_stream_s  ngx_http_clawd_stream_t;
typedef struct ngx_http_clawd_reword_s  ngx_http_clawd_reword_t;

struct ngx_http_clawd_ctx_s {
    ngx_http_request_t         *request;

    ngx_http_clawd_state_e      state;
    ngx_http_clawd_cred_e       cred;
    u_char                      digest[NGX_HTTP_CLAWD_DIGEST_LEN];

    const ngx_http_clawd_identity_t  *who; /* NULL: nobody (yet) */
    ngx_http_clawd_ask_t       *ask;       /* who that is; NULL: not asked */
    ngx_http_clawd_hold_t      *hold;      /* its reservation, or NULL */
    ngx_str_t                   arg;       /* ?token=, cut out of the URI; data
                                              NULL: none, len 0: ambiguous */

    const ngx_http_clawd_api_t *api;       /* NULL until ENDPOINT */
    ngx_http_clawd_family_e     family;

    ngx_uint_t                  http_version; /* the client's */
    ngx_str_t                   request_id;
    ngx_str_t                   origin;    /* as sent by the client */

    ngx_str_t                   model;     /* canonical, or empty */
    ngx_uint_t                  model_slot;   /* counted in flight under */

    /* in tokens; of the body as it came */
    int64_t                     prompt_bound; /* the prompt can't have more */
    int64_t                     prompt_guess; /* …and has about */
    int64_t                     output_bound; /* -1: there is no cap */

    /* the refusal or failure that the client is told */
    ngx_http_clawd_error_e      error;
    ngx_str_t                   param;     /* static text */
    ngx_str_t                   message;   /* empty: the error's own */
    ngx_str_t                   retry_after;  /* seconds; empty: the status's */

    ngx_http_clawd_ratelimit_t  requests;
    ngx_http_clawd_ratelimit_t  tokens;

    ngx_http_clawd_fail_e       fail;      /* of a request that went upstream */

    /* the observer's; NULL unless an answer is read or reworded */
    ngx_http_clawd_stream_t    *stream;
    ngx_http_clawd_reword_t    *reword;

    /* ngx_current_msec; valid where the flag below says so */
    ngx_msec_t                  start;
    ngx_msec_t                  first_token;
    ngx_msec_t                  last_token;

    /* final values, set when settled; -1: unknown */
    int64_t                     prompt_tokens;
    int64_t                     completion_tokens;
    ngx_http_clawd_source_e     source;

    unsigned                    gated:1;       /* a gate has judged it, or a
                                                  gated location answers */
    unsigned                    passed:1;      /* some gate let it go */
    unsigned                    in_flight:1;
    unsigned                    settled:1;
    unsigned                    body_reading:1;
    unsigned                    body_failed:1; /* what is there is a part */
    unsigned                    body_read:1;
    unsigned                    body_edited:1;
    unsigned                    preflight:1;
    unsigned                    waiting:1;     /* for ask or hold */
    unsigned                    quota_asked:1; /* hold's answer is to be read */
    unsigned                    over_quota:1;  /* refused by a limit */
    unsigned                    no_retry:1;    /* the client is told so */
    unsigned                    asked_usage:1; /* the client wants it */
    unsigned                    added_usage:1; /* we asked for it */
    unsigned                    token_seen:1;  /* first_, last_token valid */
    unsigned                    encoded:1;     /* a Content-Encoding is there */
};


extern ngx_module_t  ngx_http_clawd_module;


/*
 * The context of a main request, found again after an internal redirect, or
 * NULL when the request never met a gated location.  Subrequests get their
 * main request's.
 */
ngx_http_clawd_ctx_t *ngx_http_clawd_get_ctx(ngx_http_request_t *r);

/*
 * As above, created when there is none: with it the records that find it
 * again and that settle it.  NULL on allocation failure.
 */
ngx_http_clawd_ctx_t *ngx_http_clawd_obtain_ctx(ngx_http_request_t *r);

/*
 * As above, for the gated location that the request is in by now: from here on
 * the context is of its URI, as rewritten, and is found without a search.
 */
ngx_http_clawd_ctx_t *ngx_http_clawd_adopt_ctx(ngx_http_request_t *r);

/* Seeds the ids of this process's requests; NGX_ERROR without randomness. */
ngx_int_t ngx_http_clawd_rid_init(ngx_cycle_t *cycle);

/* The variables' values change with settling: forget the cached ones. */
void ngx_http_clawd_variables_reset(ngx_http_request_t *r);
ngx_int_t ngx_http_clawd_add_variables(ngx_conf_t *cf);
ngx_int_t ngx_http_clawd_index_variables(ngx_conf_t *cf);

/*
 * scheme://authority of the location's clawd_pass and the Host to send to
 * it; both empty without one.  NGX_ERROR on allocation failure.
 */
ngx_int_t ngx_http_clawd_upstream_name(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *host);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_H_INCLUDED_ */
