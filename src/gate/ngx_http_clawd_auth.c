/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_observe.h"


static const ngx_http_clawd_token_t *ngx_http_clawd_auth_find(
    ngx_http_request_t *r, u_char *digest);
static ngx_int_t ngx_http_clawd_auth_who(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, const ngx_http_clawd_token_t *token);
static ngx_int_t ngx_http_clawd_auth_nobody(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_int_t ngx_http_clawd_auth_preflight(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static ngx_int_t ngx_http_clawd_auth_arg(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx);
static void ngx_http_clawd_redact_referer(ngx_http_request_t *r);
static void ngx_http_clawd_redact(ngx_str_t *s);
static u_char *ngx_http_clawd_redact_find(u_char *p, u_char *last);


/* whoever comes where "clawd_auth off" asks for no token */

static const ngx_http_clawd_token_t  ngx_http_clawd_auth_anybody = {
    .who = { .user = ngx_string("anonymous") }
};


ngx_int_t
ngx_http_clawd_auth(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_int_t                      rc;
    ngx_http_clawd_loc_conf_t     *clcf;
    ngx_http_clawd_main_conf_t    *cmcf;
    const ngx_http_clawd_token_t  *token;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);
    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    if (r->method == NGX_HTTP_OPTIONS && clcf->cors && ctx->origin.len) {
        return ngx_http_clawd_auth_preflight(r, ctx);
    }

    ctx->who = NULL;

    if (clcf->auth == NGX_HTTP_CLAWD_AUTH_OFF) {
        return cmcf->ledger ? ngx_http_clawd_auth_who(r, ctx,
                                                &ngx_http_clawd_auth_anybody)
                            : NGX_OK;
    }

    if (clcf->auth == NGX_HTTP_CLAWD_AUTH_TOKEN_ARG
        && ctx->cred == NGX_HTTP_CLAWD_CRED_NONE)
    {
        rc = ngx_http_clawd_auth_arg(r, ctx);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    if (ctx->cred == NGX_HTTP_CLAWD_CRED_NONE) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_NO_TOKEN,
                                     NULL);
    }

    if (ctx->cred != NGX_HTTP_CLAWD_CRED_DIGEST) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_BAD_TOKEN,
                                     NULL);
    }

    token = ngx_http_clawd_auth_find(r, ctx->digest);

    if (cmcf->ledger) {
        return ngx_http_clawd_auth_who(r, ctx, token);
    }

    if (token == NULL) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_BAD_TOKEN,
                                     NULL);
    }

    ctx->who = &token->who;

    return NGX_OK;
}


/* asks the ledger: a token of the configuration is known to it by its user */

static ngx_int_t
ngx_http_clawd_auth_who(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    const ngx_http_clawd_token_t *token)
{
    ngx_int_t                    rc;
    ngx_http_clawd_ask_t        *ask;
    ngx_http_clawd_identity_t   *who;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    ask = ctx->ask;

    if (ask == NULL) {
        ask = ngx_pcalloc(r->pool, sizeof(ngx_http_clawd_ask_t));
        if (ask == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (token) {
            ask->user = token->who.user;
            ask->plan = token->who.plan;
            ask->admin = token->who.admin;

        } else {
            ask->digest = ctx->digest;
        }

        ask->pool = r->pool;
        ask->resume = ngx_http_clawd_gate_resume;
        ask->data = ctx;

        ctx->ask = ask;
    }

    who = ngx_palloc(r->pool, sizeof(ngx_http_clawd_identity_t));
    if (who == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_clawd_identify(cmcf->ledger, ask, who);

    if (rc == NGX_AGAIN) {
        return ngx_http_clawd_gate_wait(r, ctx);
    }

    if (rc != NGX_OK) {
        return ngx_http_clawd_auth_nobody(r, ctx);
    }

    ctx->who = who;

    return NGX_OK;
}


/* the client learns that its token is no good, and nothing of why */

static ngx_int_t
ngx_http_clawd_auth_nobody(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    static ngx_http_clawd_error_e  errors[] = {
        NGX_HTTP_CLAWD_ERR_BAD_TOKEN,
        NGX_HTTP_CLAWD_ERR_EXPIRED,
        NGX_HTTP_CLAWD_ERR_DISABLED,
        NGX_HTTP_CLAWD_ERR_RECORD,
        NGX_HTTP_CLAWD_ERR_LEDGER
    };

    return ngx_http_clawd_refuse(r, ctx, errors[ctx->ask->nobody], NULL);
}


/*
 * A search by digest leaks nothing of use: nobody can steer a digest.  The
 * last comparison is in constant time all the same.
 */

static const ngx_http_clawd_token_t *
ngx_http_clawd_auth_find(ngx_http_request_t *r, u_char *digest)
{
    ngx_int_t                    rc;
    ngx_uint_t                   lo, hi, mid;
    ngx_http_clawd_token_t      *t;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    t = cmcf->tokens.elts;
    lo = 0;
    hi = cmcf->tokens.nelts;

    while (lo < hi) {
        mid = (lo + hi) / 2;

        rc = ngx_memcmp(digest, t[mid].digest, NGX_HTTP_CLAWD_DIGEST_LEN);

        if (rc > 0) {
            lo = mid + 1;

        } else {
            hi = mid;
        }
    }

    if (lo < cmcf->tokens.nelts
        && ngx_http_clawd_digest_equal(digest, t[lo].digest))
    {
        return &t[lo];
    }

    return NULL;
}


static ngx_int_t
ngx_http_clawd_auth_preflight(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx)
{
    if (!ngx_http_clawd_cors_allowed(r, ctx)) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_ORIGIN, NULL);
    }

    ctx->preflight = 1;

    return NGX_HTTP_NO_CONTENT;
}


static ngx_int_t
ngx_http_clawd_auth_arg(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    if (ctx->arg.data == NULL) {
        return NGX_OK;
    }

    ctx->cred = NGX_HTTP_CLAWD_CRED_BAD;

    if (ngx_http_clawd_token_valid(ctx->arg.data, ctx->arg.len) != NGX_OK) {
        return NGX_OK;
    }

    if (ngx_http_clawd_digest(ctx->digest, ctx->arg.data, ctx->arg.len)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->cred = NGX_HTTP_CLAWD_CRED_DIGEST;

    ngx_explicit_memzero(ctx->arg.data, ctx->arg.len);

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_redact_handler(ngx_http_request_t *r)
{
    u_char                     *p, *last, *end, *dst;
    ngx_http_clawd_ctx_t       *ctx;
    ngx_http_clawd_srv_conf_t  *cscf;

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_clawd_module);

    if (!cscf->token_arg || r != r->main) {
        return NGX_DECLINED;
    }

    ngx_http_clawd_redact_referer(r);

    if (r->args.len == 0) {
        return NGX_DECLINED;
    }

    last = r->args.data + r->args.len;

    p = ngx_http_clawd_redact_find(r->args.data, last);
    if (p == NULL) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_clawd_obtain_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->arg.data == NULL) {

        for (end = p; end < last && *end != '&'; end++) { /* void */ }

        ctx->arg.data = ngx_pnalloc(r->pool, end - p + 1);
        if (ctx->arg.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        dst = ctx->arg.data;
        ngx_unescape_uri(&dst, &p, end - p, 0);

        /* a second one makes it ambiguous */

        if (ngx_http_clawd_redact_find(end, last) == NULL) {
            ctx->arg.len = dst - ctx->arg.data;
        }
    }

    ngx_http_clawd_redact(&r->args);
    ngx_http_clawd_redact(&r->unparsed_uri);
    ngx_http_clawd_redact(&r->request_line);

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_clawd_redact_log_handler(ngx_http_request_t *r)
{
    ngx_str_t                    line;
    ngx_http_clawd_srv_conf_t   *cscf;
    ngx_http_clawd_main_conf_t  *cmcf;

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_clawd_module);
    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    /* without a phase the Host may not be known, and so the server */

    if (!cscf->token_arg && (!cmcf->token_arg || r->phase_handler != 0)) {
        return NGX_OK;
    }

    /* of a line that was not understood, $request says what there is */

    if (r->request_line.data == NULL && r->request_start) {
        line.data = r->request_start;
        line.len = r->header_in->last - r->request_start;
        ngx_http_clawd_redact(&line);
    }

    ngx_http_clawd_redact(&r->args);
    ngx_http_clawd_redact(&r->unparsed_uri);
    ngx_http_clawd_redact(&r->request_line);

    ngx_http_clawd_redact_referer(r);

    return NGX_OK;
}


/* a page whose own address has the token sends it along with all it asks for */

static void
ngx_http_clawd_redact_referer(ngx_http_request_t *r)
{
    if (r->headers_in.referer) {
        ngx_http_clawd_redact(&r->headers_in.referer->value);
    }
}


/* blanks each value in place: the length of what is logged stays */

static void
ngx_http_clawd_redact(ngx_str_t *s)
{
    u_char  *p, *last;

    if (s->len == 0) {
        return;
    }

    last = s->data + s->len;

    for (p = ngx_http_clawd_redact_find(s->data, last);
         p;
         p = ngx_http_clawd_redact_find(p, last))
    {
        while (p < last && *p != '&' && *p != ' ' && *p != '#') {
            *p++ = '*';
        }
    }
}


/* the value of the next argument "token", or NULL */

static u_char *
ngx_http_clawd_redact_find(u_char *p, u_char *last)
{
    u_char  *start;

    for (start = p; last - p >= 6; p++) {

        if (ngx_strncasecmp(p, (u_char *) "token=", 6) == 0
            && (p == start || p[-1] == '?' || p[-1] == '&'))
        {
            return p + 6;
        }
    }

    return NULL;
}
