/*
 * Copyright (C) clawd authors
 *
 * The request's journey before the upstream.
 */

#ifndef _NGX_HTTP_CLAWD_GATE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_GATE_H_INCLUDED_


#include "ngx_http_clawd.h"


#pragma GCC visibility push(hidden)


/*
 * What a state returns: NGX_OK (the next state), NGX_DONE (it waits and will
 * resume the phases), or a status that ends the request.
 */
typedef ngx_int_t (*ngx_http_clawd_state_pt)(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);


/* The PRECONTENT handler: runs the states for main requests. */
ngx_int_t ngx_http_clawd_gate_handler(ngx_http_request_t *r);

/*
 * The POST_READ handler of configurations with "clawd_auth token_arg": moves
 * ?token= into the context and blanks it in everything that is logged.
 */
ngx_int_t ngx_http_clawd_redact_handler(ngx_http_request_t *r);

/*
 * The LOG handler of the same, before any that writes: blanks ?token= in
 * requests that NGINX refused, or lost, before POST_READ.
 */
ngx_int_t ngx_http_clawd_redact_log_handler(ngx_http_request_t *r);

/*
 * Refuses: notes the error and its parameter (static text or NULL) for the
 * answer, logs one line and returns the status.
 */
ngx_int_t ngx_http_clawd_refuse(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_error_e error,
    const char *param);

/* States. */
ngx_int_t ngx_http_clawd_auth(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
ngx_int_t ngx_http_clawd_body(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
ngx_int_t ngx_http_clawd_body_model(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
ngx_int_t ngx_http_clawd_quota(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/*
 * Stops the phases until ngx_http_clawd_gate_resume(ctx) is called, which is
 * not from within a handler of the request's own.  Returns NGX_DONE.  Meanwhile
 * a client that leaves is noticed at once.
 */
ngx_int_t ngx_http_clawd_gate_wait(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
void ngx_http_clawd_gate_resume(void *data);

/*
 * Of a reservation that was admitted or denied: what headers say of limits,
 * and of a denial the sentence and when to come again.  NGX_ERROR on
 * allocation failure.
 */
ngx_int_t ngx_http_clawd_verdict(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_hold_t *hold);

/* The sentence for a request that is larger than a whole limit. */
ngx_int_t ngx_http_clawd_verdict_never(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_limit_e limit, int64_t est);

/* The content handler of GET /v1/usage, which the gate puts in place. */
ngx_int_t ngx_http_clawd_usage_handler(ngx_http_request_t *r);

/*
 * One pass over the request's headers, when the context is made: credential,
 * Origin, x-request-id, Content-Encoding.  NGX_ERROR when hashing fails.
 */
ngx_int_t ngx_http_clawd_headers_read(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);

/*
 * Takes the client's credentials, hop-by-hop and spoofable headers out of what
 * the upstream gets, and calls a body that was read as JSON so.  NGX_ERROR on
 * allocation failure.
 */
ngx_int_t ngx_http_clawd_headers_strip(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_GATE_H_INCLUDED_ */
