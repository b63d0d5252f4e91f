/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_observe.h"


ngx_uint_t
ngx_http_clawd_cors_allowed(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_str_t                  *origin;
    ngx_uint_t                  i;
    ngx_http_clawd_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    if (clcf->cors == NULL || ctx->origin.len == 0) {
        return 0;
    }

    origin = clcf->cors->elts;

    for (i = 0; i < clcf->cors->nelts; i++) {

        if (origin[i].data[0] == '*'
            || (origin[i].len == ctx->origin.len
                && ngx_strncasecmp(origin[i].data, ctx->origin.data,
                                   ctx->origin.len)
                   == 0))
        {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_clawd_cors_headers(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_uint_t                 i;
    static struct {
        const char            *name;
        ngx_str_t              value;
    } *h, preflight[] = {
        { "Access-Control-Allow-Methods",
          ngx_string("GET, POST, DELETE, OPTIONS") },
        { "Access-Control-Allow-Headers",
          ngx_string("authorization, x-api-key, content-type, "
                     "anthropic-version, anthropic-beta, "
                     "anthropic-dangerous-direct-browser-access, "
                     "x-request-id, x-stainless-arch, x-stainless-async, "
                     "x-stainless-helper-method, x-stainless-lang, "
                     "x-stainless-os, x-stainless-package-version, "
                     "x-stainless-poll-helper, x-stainless-retry-count, "
                     "x-stainless-runtime, x-stainless-runtime-version, "
                     "x-stainless-timeout, openai-organization, "
                     "openai-project, openai-beta") },
        { "Access-Control-Max-Age", ngx_string("7200") }
    };

    static ngx_str_t  vary = ngx_string("Origin");
    static ngx_str_t  expose = ngx_string("x-request-id, request-id, "
                                          "retry-after, "
                                          "x-ratelimit-limit-requests, "
                                          "x-ratelimit-limit-tokens, "
                                          "x-ratelimit-remaining-requests, "
                                          "x-ratelimit-remaining-tokens, "
                                          "x-ratelimit-reset-requests, "
                                          "x-ratelimit-reset-tokens");

    if (ngx_http_clawd_header_add(r, "Access-Control-Allow-Origin",
                                  &ctx->origin)
        != NGX_OK
        || ngx_http_clawd_header_add(r, "Vary", &vary) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!ctx->preflight) {
        return ngx_http_clawd_header_add(r, "Access-Control-Expose-Headers",
                                         &expose);
    }

    for (i = 0; i < sizeof(preflight) / sizeof(preflight[0]); i++) {
        h = &preflight[i];

        if (ngx_http_clawd_header_add(r, h->name, &h->value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
