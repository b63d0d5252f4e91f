/*
 * Copyright (C) clawd authors
 *
 * Every request is counted here, once, on whatever way it ends.
 */

#include "ngx_http_clawd_observe.h"


/* bytes of text that make a token where nothing better is known */
#define NGX_HTTP_CLAWD_TOKEN_BYTES  4


static ngx_http_clawd_fail_e ngx_http_clawd_settle_fail(
    ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx);
static ngx_http_clawd_fail_e ngx_http_clawd_settle_no_answer(
    ngx_http_request_t *r);
static ngx_http_clawd_fail_e ngx_http_clawd_settle_stream(
    ngx_http_clawd_stream_t *st);
static void ngx_http_clawd_settle_tokens(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static int64_t ngx_http_clawd_settle_cost(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_uint_t ngx_http_clawd_settle_written(ngx_http_request_t *r);
static void ngx_http_clawd_settle_count(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_zone_t *zone);
static void ngx_http_clawd_settle_times(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_sample_t *s);


static ngx_str_t  ngx_http_clawd_anonymous = ngx_string("anonymous");


void
ngx_http_clawd_observe_go(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_http_clawd_zone_t  *zone;

    ctx->passed = 1;

    /* a post_action comes here again, behind the end of all */

    if (ctx->in_flight || ctx->settled || ctx->model.len == 0) {
        return;
    }

    zone = ngx_http_clawd_observe_zone(r);

    ctx->model_slot = ngx_http_clawd_model_find(zone, &ctx->model);
    ctx->in_flight = 1;

    ngx_http_clawd_count_in_flight(zone, ctx->model_slot, 1);
}


void
ngx_http_clawd_settle(void *data)
{
    ngx_http_clawd_ctx_t *ctx = data;

    ngx_http_request_t     *r;
    ngx_http_clawd_zone_t  *zone;

    r = ctx->request;

    if (ctx->ask) {
        ngx_http_clawd_identify_cancel(ctx->ask);
    }

    if (ctx->settled || !ctx->gated) {
        return;
    }

    ctx->settled = 1;

    zone = ngx_http_clawd_observe_zone(r);

    if (ctx->in_flight) {
        ctx->in_flight = 0;
        ngx_http_clawd_count_in_flight(zone, ctx->model_slot, -1);
    }

    if (ctx->passed) {
        ctx->fail = ngx_http_clawd_settle_fail(r, ctx);
        ngx_http_clawd_settle_tokens(r, ctx);
    }

    if (ctx->hold) {
        ngx_http_clawd_hold_end(ctx->hold, ngx_http_clawd_settle_cost(r, ctx));
        ctx->hold = NULL;
    }

    if (ctx->over_quota) {
        ctx->fail = NGX_HTTP_CLAWD_FAIL_QUOTA;
        ngx_http_clawd_count_reject(zone, ctx->error);
    }

    if ((ctx->passed || ctx->over_quota) && ctx->model.len) {
        ngx_http_clawd_settle_count(r, ctx, zone);

    } else if (!ctx->passed && !ctx->preflight) {

        /* NGINX answers some of its refusals by closing the connection */

        if (ctx->error == NGX_HTTP_CLAWD_ERR_NONE) {
            ctx->error = r->connection->error
                         ? NGX_HTTP_CLAWD_ERR_CLIENT_ABORT
                         : ngx_http_clawd_error_of_status(
                                                     r->headers_out.status);
        }

        ngx_http_clawd_count_reject(zone, ctx->error);
    }

    ngx_http_clawd_variables_reset(r);
}


/*
 * What the ledger is told.  Where the upstream did not say, it is what the
 * prompt can have had at most and the output that was seen: a client that
 * leaves early must not get tokens for nothing.
 */

static int64_t
ngx_http_clawd_settle_cost(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    int64_t                  prompt, completion;
    ngx_http_clawd_facts_t  *facts;

    if (!ctx->passed || !ngx_http_clawd_settle_written(r)) {
        return 0;
    }

    if (ctx->stream == NULL) {

        /*
         * An error has cost nothing.  Of a success that can't be read, and
         * without any answer, nobody knows.
         */

        return (r->upstream && r->upstream->headers_in.status_n
                               >= NGX_HTTP_SPECIAL_RESPONSE)
               ? 0 : ctx->prompt_bound;
    }

    facts = &ctx->stream->answer.facts;

    if (ctx->source == NGX_HTTP_CLAWD_SOURCE_UPSTREAM) {
        return ctx->prompt_tokens + ctx->completion_tokens;
    }

    if (ctx->source == NGX_HTTP_CLAWD_SOURCE_NONE) {
        return 0;
    }

    prompt = (facts->prompt_tokens >= 0) ? facts->prompt_tokens
                                         : ctx->prompt_bound;

    completion = ngx_max((int64_t) facts->deltas, ctx->completion_tokens);

    return prompt + ngx_max(completion, 0);
}


/* whether any attempt got so far that a byte may have been sent */

static ngx_uint_t
ngx_http_clawd_settle_written(ngx_http_request_t *r)
{
    ngx_uint_t                  i;
    ngx_http_upstream_state_t  *state;

    if (r->upstream_states == NULL) {
        return 0;
    }

    state = r->upstream_states->elts;

    for (i = 0; i < r->upstream_states->nelts; i++) {
        if (state[i].peer && state[i].connect_time != (ngx_msec_t) -1) {
            return 1;
        }
    }

    return 0;
}


ngx_http_clawd_zone_t *
ngx_http_clawd_observe_zone(ngx_http_request_t *r)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    return ngx_http_clawd_zone(cmcf->zone);
}


/* a client that leaves behind the last event has got its answer */

static ngx_http_clawd_fail_e
ngx_http_clawd_settle_fail(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t                status;
    ngx_http_clawd_stream_t  *st;

    st = ctx->stream;

    if (st && st->answer.facts.complete && !st->answer.facts.error) {
        return NGX_HTTP_CLAWD_FAIL_NONE;
    }

    /* one that leaves at an error event as well, and whose fault it was not */

    if (st && st->answer.facts.error) {
        return NGX_HTTP_CLAWD_FAIL_INCOMPLETE;
    }

    if ((r->connection->error || r->connection->timedout)
        && !(st && st->ended))
    {
        return NGX_HTTP_CLAWD_FAIL_CLIENT_ABORT;
    }

    if (r->upstream == NULL || r->upstream->headers_in.status_n == 0) {
        return ngx_http_clawd_settle_no_answer(r);
    }

    if (st) {
        return ngx_http_clawd_settle_stream(st);
    }

    status = r->upstream->headers_in.status_n;

    if (status < NGX_HTTP_OK
        || status == NGX_HTTP_CLIENT_CLOSED_REQUEST || status > 599
        || (ctx->reword && status < NGX_HTTP_BAD_REQUEST))
    {
        return NGX_HTTP_CLAWD_FAIL_INVALID_RESPONSE;
    }

    if (status >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
        return NGX_HTTP_CLAWD_FAIL_UPSTREAM_5XX;
    }

    if (status >= NGX_HTTP_BAD_REQUEST) {
        return NGX_HTTP_CLAWD_FAIL_UPSTREAM_4XX;
    }

    /* a 2xx of a type that is not read, for a generation */

    return ctx->model.len ? NGX_HTTP_CLAWD_FAIL_INVALID_RESPONSE
                          : NGX_HTTP_CLAWD_FAIL_NONE;
}


/* NGINX's own 502 or 504: how far the last attempt got tells why */

static ngx_http_clawd_fail_e
ngx_http_clawd_settle_no_answer(ngx_http_request_t *r)
{
    ngx_uint_t                  status;
    ngx_http_upstream_state_t  *state;

    status = r->err_status ? r->err_status : r->headers_out.status;

    if (r->upstream == NULL) {
        return (status >= NGX_HTTP_BAD_REQUEST || status == 0)
               ? NGX_HTTP_CLAWD_FAIL_CONNECT : NGX_HTTP_CLAWD_FAIL_NONE;
    }

    if (status == NGX_HTTP_GATEWAY_TIME_OUT) {
        return NGX_HTTP_CLAWD_FAIL_TIMEOUT;
    }

    state = r->upstream->state;

    if (state == NULL || state->connect_time == (ngx_msec_t) -1) {
        return NGX_HTTP_CLAWD_FAIL_CONNECT;
    }

    return state->bytes_received ? NGX_HTTP_CLAWD_FAIL_INVALID_RESPONSE
                                 : NGX_HTTP_CLAWD_FAIL_RESET;
}


static ngx_http_clawd_fail_e
ngx_http_clawd_settle_stream(ngx_http_clawd_stream_t *st)
{
    if (st->timedout) {
        return NGX_HTTP_CLAWD_FAIL_TIMEOUT;
    }

    if (st->reset || !st->ended) {
        return NGX_HTTP_CLAWD_FAIL_RESET;
    }

    return NGX_HTTP_CLAWD_FAIL_INCOMPLETE;
}


/*
 * What the upstream reported wins; else output events were counted; else
 * bytes are divided.  An answer without a stream was an error: no tokens.
 */

static void
ngx_http_clawd_settle_tokens(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_http_clawd_facts_t  *facts;

    if (ctx->stream == NULL || ctx->model.len == 0) {
        return;
    }

    facts = &ctx->stream->answer.facts;

    ctx->prompt_tokens = facts->prompt_tokens;
    ctx->completion_tokens = facts->completion_tokens;

    if (facts->usage && facts->prompt_tokens >= 0
        && facts->completion_tokens >= 0)
    {
        ctx->source = NGX_HTTP_CLAWD_SOURCE_UPSTREAM;
        return;
    }

    if (facts->error && facts->deltas == 0) {
        ctx->prompt_tokens = -1;
        ctx->completion_tokens = -1;
        return;
    }

    /* a model that was loaded or unloaded has read and said nothing */

    if (facts->complete && facts->deltas == 0
        && facts->finish_len >= 4
        && ngx_strncmp(facts->finish + facts->finish_len - 4, "load", 4) == 0)
    {
        ctx->prompt_tokens = 0;
        ctx->completion_tokens = 0;
        return;
    }

    ctx->source = NGX_HTTP_CLAWD_SOURCE_COUNTED;

    if (ctx->completion_tokens < 0) {

        if (ctx->stream->answer.framing == NGX_HTTP_CLAWD_FRAMING_JSON
            || ctx->stream->encoded)
        {
            ctx->source = NGX_HTTP_CLAWD_SOURCE_ESTIMATED;
            ctx->completion_tokens = facts->text_bytes
                                     / NGX_HTTP_CLAWD_TOKEN_BYTES;

        } else {
            ctx->completion_tokens = facts->deltas;
        }
    }

    if (ctx->prompt_tokens < 0) {
        ctx->prompt_tokens = ctx->prompt_guess;

        if (ctx->completion_tokens == 0) {
            ctx->source = NGX_HTTP_CLAWD_SOURCE_ESTIMATED;
        }
    }
}


static void
ngx_http_clawd_settle_count(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_zone_t *zone)
{
    ngx_uint_t               status;
    ngx_http_clawd_sample_t  s;

    status = r->headers_out.status;

    ngx_memzero(&s, sizeof(ngx_http_clawd_sample_t));

    s.status = status ? status : NGX_HTTP_CLIENT_CLOSED_REQUEST;
    s.fail = ctx->fail;
    s.source = ctx->source;
    s.prompt_tokens = ctx->prompt_tokens;
    s.completion_tokens = ctx->completion_tokens;
    s.id = ctx->request_id;

    /* a model is known once a 2xx has answered for it */

    s.model = (r->upstream && r->upstream->headers_in.status_n >= NGX_HTTP_OK
               && r->upstream->headers_in.status_n < NGX_HTTP_SPECIAL_RESPONSE
               && ctx->stream)
              ? ngx_http_clawd_model_learn(zone, &ctx->model)
              : ngx_http_clawd_model_find(zone, &ctx->model);

    s.user = ngx_http_clawd_user(zone, ctx->who
                                       ? (ngx_str_t *) &ctx->who->user
                                       : &ngx_http_clawd_anonymous);

    ngx_http_clawd_settle_times(r, ctx, &s);

    /* quick refusals would hide how long requests take */

    if (ctx->over_quota) {
        s.duration = NGX_HTTP_CLAWD_ABSENT;
    }

    ngx_http_clawd_count_request(zone, &s);
}


static void
ngx_http_clawd_settle_times(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_sample_t *s)
{
    ngx_time_t                 *tp;
    ngx_http_upstream_state_t  *state;

    tp = ngx_timeofday();

    s->now = (uint64_t) tp->sec * 1000 + tp->msec;

    s->duration = ((int64_t) (tp->sec - r->start_sec) * 1000
                   + (int64_t) tp->msec - (int64_t) r->start_msec)
                  * 1000;
    s->duration = ngx_max(s->duration, 0);

    s->upstream = NGX_HTTP_CLAWD_ABSENT;
    s->connect = NGX_HTTP_CLAWD_ABSENT;
    s->first_token = NGX_HTTP_CLAWD_ABSENT;
    s->generation = NGX_HTTP_CLAWD_ABSENT;

    if (ctx->token_seen) {
        s->first_token = (int64_t) (ctx->first_token - ctx->start) * 1000;
        s->generation = (int64_t) (ctx->last_token - ctx->first_token) * 1000;
    }

    state = r->upstream ? r->upstream->state : NULL;

    if (state == NULL || state->connect_time == (ngx_msec_t) -1) {
        return;
    }

    s->connect = (int64_t) state->connect_time * 1000;

    if (state->response_time != (ngx_msec_t) -1) {
        s->upstream = (int64_t) (state->response_time - state->connect_time)
                      * 1000;
    }
}
