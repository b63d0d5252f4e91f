/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_observe.h"


static void ngx_http_clawd_gate_unwait(ngx_http_clawd_ctx_t *ctx);
static ngx_int_t ngx_http_clawd_gate_endpoint(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_int_t ngx_http_clawd_gate_go(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_uint_t ngx_http_clawd_gate_method(ngx_http_request_t *r);
static ngx_int_t ngx_http_clawd_gate_path(ngx_http_request_t *r);
static ngx_int_t ngx_http_clawd_gate_upstream(ngx_http_request_t *r);


/* in the order of ngx_http_clawd_state_e */

static ngx_http_clawd_state_pt  ngx_http_clawd_states[] = {
    ngx_http_clawd_auth,
    ngx_http_clawd_gate_endpoint,
    ngx_http_clawd_body,
    ngx_http_clawd_body_model,
    ngx_http_clawd_quota,
    ngx_http_clawd_gate_go
};


ngx_int_t
ngx_http_clawd_gate_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_clawd_ctx_t       *ctx;
    ngx_http_clawd_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    /* subrequests are their main request's business */

    if (!clcf->enable || r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    if (ctx == NULL || !ctx->gated) {
        ctx = ngx_http_clawd_adopt_ctx(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        /* a first or another location: it judges for itself */

        ngx_http_clawd_gate_unwait(ctx);

        ctx->state = NGX_HTTP_CLAWD_STATE_AUTH;
        ctx->error = NGX_HTTP_CLAWD_ERR_NONE;
        ctx->stream = NULL;
        ctx->reword = NULL;
        ctx->preflight = 0;
        ctx->over_quota = 0;
        ctx->no_retry = 0;
        ngx_str_null(&ctx->message);
        ngx_str_null(&ctx->retry_after);
    }

    while (ctx->state < NGX_HTTP_CLAWD_STATE_PASSED) {

        ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                       "clawd gate state: %d", ctx->state);

        rc = ngx_http_clawd_states[ctx->state](r, ctx);

        if (rc != NGX_OK) {
            return rc;
        }

        ctx->state++;
    }

    return NGX_DECLINED;
}


/*
 * What an earlier location waited for, when a post_action, or an error page,
 * came in between: it resumes nobody any more.
 */

static void
ngx_http_clawd_gate_unwait(ngx_http_clawd_ctx_t *ctx)
{
    ctx->waiting = 0;

    if (ctx->ask) {
        ngx_http_clawd_identify_cancel(ctx->ask);
        ctx->ask = NULL;
    }

    if (ctx->quota_asked) {
        ctx->quota_asked = 0;
        ngx_http_clawd_hold_end(ctx->hold, 0);
        ctx->hold = NULL;
    }
}


ngx_int_t
ngx_http_clawd_gate_wait(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->waiting = 1;

    return NGX_DONE;
}


void
ngx_http_clawd_gate_resume(void *data)
{
    ngx_http_clawd_ctx_t *ctx = data;

    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;

    /*
     * A client that left may have brought a post_action into its place, which
     * has cleared r->ctx; and a process that ends begins nothing.
     */

    if (!ctx->waiting || ngx_terminate
        || ngx_http_get_module_ctx(r, ngx_http_clawd_module) != ctx)
    {
        return;
    }

    ctx->waiting = 0;

    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, c->log, 0, "clawd gate resumes");

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);

    /* r and ctx may be gone */

    ngx_http_run_posted_requests(c);
}


ngx_int_t
ngx_http_clawd_refuse(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_error_e error, const char *param)
{
    const ngx_http_clawd_error_def_t  *def;

    def = ngx_http_clawd_error_def(error);

    ctx->error = error;

    if (param) {
        ctx->param.data = (u_char *) param;
        ctx->param.len = ngx_strlen(param);

    } else {
        ngx_str_null(&ctx->param);
    }

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "clawd refused a request: %V%s%V", &def->reason,
                  param ? ", " : "", &ctx->param);

    return def->status;
}


static ngx_int_t
ngx_http_clawd_gate_endpoint(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    const ngx_http_clawd_api_t  *api;
    ngx_http_clawd_main_conf_t  *cmcf;

    if (ngx_http_clawd_gate_path(r) != NGX_OK) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_PATH, NULL);
    }

    api = ngx_http_clawd_api_find(&r->uri);

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    if (api && api->class == NGX_HTTP_CLAWD_CLASS_USAGE
        && cmcf->ledger == NULL)
    {
        api = NULL;
    }

    ctx->api = api;

    if (api == NULL) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_NOT_FOUND,
                                     NULL);
    }

    if (!(api->methods & ngx_http_clawd_gate_method(r))) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_METHOD, NULL);
    }

    if (api->class == NGX_HTTP_CLAWD_CLASS_ADMIN
        && (ctx->who == NULL || !ctx->who->admin))
    {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "clawd: admin endpoint \"%V\" was asked for without the "
                      "admin role", &api->uri);

        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_ENDPOINT,
                                     NULL);
    }

    if (ctx->encoded && api->class == NGX_HTTP_CLAWD_CLASS_INFER) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_ENCODING,
                                     NULL);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_gate_method(ngx_http_request_t *r)
{
    switch (r->method) {

    case NGX_HTTP_GET:
        return NGX_HTTP_CLAWD_API_GET;

    case NGX_HTTP_HEAD:
        return NGX_HTTP_CLAWD_API_HEAD;

    case NGX_HTTP_POST:
        return NGX_HTTP_CLAWD_API_POST;

    case NGX_HTTP_DELETE:
        return NGX_HTTP_CLAWD_API_DELETE;

    default:
        return 0;
    }
}


/* what the client wrote; what a redirect or rewrite wrote is the operator's */

static ngx_int_t
ngx_http_clawd_gate_path(ngx_http_request_t *r)
{
    u_char  *p, *last;

    last = r->unparsed_uri.data + r->unparsed_uri.len;

    p = ngx_strlchr(r->unparsed_uri.data, last, '?');

    return ngx_http_clawd_api_raw_path(r->unparsed_uri.data, p ? p : last);
}


/* what nginx -t could not see: a path in a variable replaces the judged one */

static ngx_int_t
ngx_http_clawd_gate_upstream(ngx_http_request_t *r)
{
    u_char                     *p, *last;
    ngx_str_t                   name;
    ngx_uint_t                  local;
    ngx_http_clawd_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    if (clcf->upstream == NULL || clcf->upstream->lengths == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, clcf->upstream, &name) != NGX_OK) {
        return NGX_ERROR;
    }

    last = name.data + name.len;

    /* the scheme is no variable */

    p = ngx_strlchr(name.data, last, ':') + 3;

    local = (last - p >= 5
             && ngx_strncasecmp(p, (u_char *) "unix:", 5) == 0);

    for (p += local ? 5 : 0; p < last; p++) {

        if (local ? *p == ':' : (*p == '/' || *p == '?' || *p == '#')) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "clawd: \"clawd_pass %V\" must end with the host "
                          "and port: the path of the request is what is "
                          "judged and sent", &name);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_gate_go(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    if (ctx->api->class == NGX_HTTP_CLAWD_CLASS_USAGE) {
        r->content_handler = ngx_http_clawd_usage_handler;
        ctx->passed = 1;
        return NGX_OK;
    }

    if (ngx_http_clawd_gate_upstream(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* the upstream gets the path that was judged, and no query */

    r->valid_unparsed_uri = 0;
    ngx_str_null(&r->args);

    /* else the proxy becomes a tunnel when the upstream answers 101 */

    r->headers_in.upgrade = NULL;

    if (ngx_http_clawd_headers_strip(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->hold) {
        ngx_http_clawd_hold_go(ctx->hold);
    }

    ngx_http_clawd_observe_go(r, ctx);

    return NGX_OK;
}
