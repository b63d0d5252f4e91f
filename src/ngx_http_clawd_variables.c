/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd.h"
#include "ngx_http_clawd_observe.h"


static ngx_int_t ngx_http_clawd_variable_string(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_user(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_upstream(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_host(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_tokens(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_source(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_ttft(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_finish(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_variable_error(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_clawd_proxy_host_index(ngx_conf_t *cf);
static void ngx_http_clawd_localhost(ngx_http_request_t *r, ngx_str_t *host);
static void ngx_http_clawd_variable_set(ngx_http_variable_value_t *v,
    u_char *data, size_t len);


static ngx_http_variable_t  ngx_http_clawd_vars[] = {

    { ngx_string("clawd_user"), NULL, ngx_http_clawd_variable_user,
      0, 0, 0 },

    { ngx_string("clawd_model"), NULL, ngx_http_clawd_variable_string,
      offsetof(ngx_http_clawd_ctx_t, model), 0, 0 },

    { ngx_string("clawd_request_id"), NULL, ngx_http_clawd_variable_string,
      offsetof(ngx_http_clawd_ctx_t, request_id), 0, 0 },

    /* another location may have another upstream */

    { ngx_string("clawd_upstream"), NULL, ngx_http_clawd_variable_upstream,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("clawd_upstream_host"), NULL, ngx_http_clawd_variable_host,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("clawd_prompt_tokens"), NULL,
      ngx_http_clawd_variable_tokens,
      offsetof(ngx_http_clawd_ctx_t, prompt_tokens), 0, 0 },

    { ngx_string("clawd_completion_tokens"), NULL,
      ngx_http_clawd_variable_tokens,
      offsetof(ngx_http_clawd_ctx_t, completion_tokens), 0, 0 },

    { ngx_string("clawd_usage_source"), NULL,
      ngx_http_clawd_variable_source, 0, 0, 0 },

    { ngx_string("clawd_ttft"), NULL, ngx_http_clawd_variable_ttft, 0, 0, 0 },

    { ngx_string("clawd_finish_reason"), NULL,
      ngx_http_clawd_variable_finish, 0, 0, 0 },

    { ngx_string("clawd_error"), NULL, ngx_http_clawd_variable_error,
      0, 0, 0 },

      ngx_http_null_variable
};


#define NGX_HTTP_CLAWD_VARS                                                   \
    (sizeof(ngx_http_clawd_vars) / sizeof(ngx_http_variable_t) - 1)


ngx_int_t
ngx_http_clawd_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t         *var, *v;
    ngx_http_clawd_main_conf_t  *cmcf;

    for (v = ngx_http_clawd_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_clawd_module);

    cmcf->proxy_host = ngx_http_clawd_proxy_host_index(cf);

    return NGX_OK;
}


/* an index of a variable that nobody defines would fail the configuration */

static ngx_int_t
ngx_http_clawd_proxy_host_index(ngx_conf_t *cf)
{
    ngx_uint_t  i;
    ngx_str_t   name = ngx_string("proxy_host");

    for (i = 0; cf->cycle->modules[i]; i++) {
        if (ngx_strcmp(cf->cycle->modules[i]->name, "ngx_http_proxy_module")
            == 0)
        {
            return ngx_http_get_variable_index(cf, &name);
        }
    }

    return NGX_ERROR;
}


ngx_int_t
ngx_http_clawd_index_variables(ngx_conf_t *cf)
{
    ngx_uint_t                   i;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_clawd_module);

    /* of this configuration: another one numbers them otherwise */

    cmcf->variables = ngx_palloc(cf->pool,
                                 NGX_HTTP_CLAWD_VARS * sizeof(ngx_int_t));
    if (cmcf->variables == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_HTTP_CLAWD_VARS; i++) {
        cmcf->variables[i] = ngx_http_get_variable_index(cf,
                                              &ngx_http_clawd_vars[i].name);

        if (cmcf->variables[i] == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


void
ngx_http_clawd_variables_reset(ngx_http_request_t *r)
{
    ngx_uint_t                   i;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    for (i = 0; i < NGX_HTTP_CLAWD_VARS; i++) {
        r->variables[cmcf->variables[i]].valid = 0;
        r->variables[cmcf->variables[i]].not_found = 0;
    }
}


static void
ngx_http_clawd_variable_set(ngx_http_variable_value_t *v, u_char *data,
    size_t len)
{
    v->data = data;
    v->len = len;
    v->valid = (len != 0);
    v->no_cacheable = 0;
    v->not_found = (len == 0);
}


static ngx_int_t
ngx_http_clawd_variable_string(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t             *s;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    if (ctx == NULL) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    s = (ngx_str_t *) ((u_char *) ctx + data);

    ngx_http_clawd_variable_set(v, s->data, s->len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_variable_user(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    if (ctx == NULL || ctx->who == NULL) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    ngx_http_clawd_variable_set(v, ctx->who->user.data, ctx->who->user.len);
    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_variable_upstream(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t  name, host;

    if (ngx_http_clawd_upstream_name(r, &name, &host) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_clawd_variable_set(v, name.data, name.len);

    return NGX_OK;
}


/*
 * The Host that the proxy would send by itself, so that clawd_proxy.conf suits
 * locations of any kind; in a gated one, the block's name is no name.
 */

static ngx_int_t
ngx_http_clawd_variable_host(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                    name, host;
    ngx_http_variable_value_t   *vv;
    ngx_http_clawd_loc_conf_t   *clcf;
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    vv = (cmcf->proxy_host == NGX_ERROR)
         ? NULL : ngx_http_get_flushed_variable(r, cmcf->proxy_host);

    if (vv && !vv->not_found) {
        host.data = vv->data;
        host.len = vv->len;

        clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

        if (clcf->enable) {
            ngx_http_clawd_localhost(r, &host);
        }

    } else if (ngx_http_clawd_upstream_name(r, &name, &host) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_clawd_variable_set(v, host.data, host.len);

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_upstream_name(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *host)
{
    u_char                     *p;
    ngx_http_clawd_loc_conf_t  *clcf;

    ngx_str_null(name);
    ngx_str_null(host);

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    if (clcf->upstream == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, clcf->upstream, name) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_strlchr(name->data, name->data + name->len, ':');

    if (p == NULL || name->data + name->len - p < 3) {
        return NGX_OK;
    }

    host->data = p + 3;
    host->len = name->data + name->len - host->data;

    ngx_http_clawd_localhost(r, host);

    return NGX_OK;
}


/* what a model server on this machine accepts, for what is no host's name */

static void
ngx_http_clawd_localhost(ngx_http_request_t *r, ngx_str_t *host)
{
    ngx_uint_t                       i;
    ngx_http_upstream_srv_conf_t   **uscf;
    ngx_http_upstream_main_conf_t   *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);
    uscf = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if ((uscf[i]->flags & NGX_HTTP_UPSTREAM_CREATE)
            && uscf[i]->host.len == host->len
            && ngx_strncasecmp(uscf[i]->host.data, host->data, host->len)
               == 0)
        {
            ngx_str_set(host, "localhost");
            return;
        }
    }

    if (host->len > 5 && ngx_strncmp(host->data, "unix:", 5) == 0) {
        ngx_str_set(host, "localhost");
    }
}


static ngx_int_t
ngx_http_clawd_variable_tokens(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                *p;
    int64_t                n;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    n = ctx ? *(int64_t *) ((u_char *) ctx + data) : -1;

    if (n < 0) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_http_clawd_variable_set(v, p, ngx_sprintf(p, "%L", n) - p);

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_variable_source(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t             *s;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    s = &ngx_http_clawd_sources[ctx ? ctx->source
                                    : NGX_HTTP_CLAWD_SOURCE_NONE];

    ngx_http_clawd_variable_set(v, s->data, s->len);

    return NGX_OK;
}


/* seconds with milliseconds, as $request_time */

static ngx_int_t
ngx_http_clawd_variable_ttft(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                *p;
    ngx_msec_int_t         ms;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    if (ctx == NULL || !ctx->token_seen) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_TIME_T_LEN + 4);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ms = (ngx_msec_int_t) (ctx->first_token - ctx->start);
    ms = ngx_max(ms, 0);

    ngx_http_clawd_variable_set(v, p,
                                ngx_sprintf(p, "%T.%03M", (time_t) ms / 1000,
                                            ms % 1000)
                                - p);
    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_variable_finish(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_clawd_ctx_t    *ctx;
    ngx_http_clawd_facts_t  *facts;

    ctx = ngx_http_clawd_get_ctx(r);

    if (ctx == NULL || ctx->stream == NULL) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    facts = &ctx->stream->answer.facts;

    ngx_http_clawd_variable_set(v, facts->finish, facts->finish_len);

    return NGX_OK;
}


/* the error_type of a request that went upstream, else why it was refused */

static ngx_int_t
ngx_http_clawd_variable_error(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t             *s;
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_clawd_get_ctx(r);

    if (ctx == NULL) {
        ngx_http_clawd_variable_set(v, NULL, 0);
        return NGX_OK;
    }

    s = ctx->passed ? &ngx_http_clawd_fails[ctx->fail]
                    : (ngx_str_t *)
                      &ngx_http_clawd_error_def(ctx->error)->reason;

    ngx_http_clawd_variable_set(v, s->data, s->len);

    return NGX_OK;
}
