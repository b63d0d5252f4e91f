/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd.h"
#include "ngx_http_clawd_conf.h"
#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_observe.h"
#include "ngx_http_clawd_zone.h"


static ngx_int_t ngx_http_clawd_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_clawd_push(ngx_conf_t *cf, ngx_http_phases phase,
    ngx_http_handler_pt handler);
static ngx_int_t ngx_http_clawd_init_module(ngx_cycle_t *cycle);
static ngx_http_clawd_main_conf_t *ngx_http_clawd_old_conf(void);
static ngx_int_t ngx_http_clawd_init_process(ngx_cycle_t *cycle);
static void ngx_http_clawd_exit_process(ngx_cycle_t *cycle);
static void ngx_http_clawd_exit_master(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_clawd_filter_init(ngx_conf_t *cf);


static ngx_conf_enum_t  ngx_http_clawd_auth_modes[] = {
    { ngx_string("off"), NGX_HTTP_CLAWD_AUTH_OFF },
    { ngx_string("on"), NGX_HTTP_CLAWD_AUTH_ON },
    { ngx_string("token_arg"), NGX_HTTP_CLAWD_AUTH_TOKEN_ARG },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_clawd_commands[] = {

    { ngx_string("clawd_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_clawd_conf_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_token"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2|NGX_CONF_TAKE3|NGX_CONF_TAKE4,
      ngx_http_clawd_conf_token,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_clawd_conf_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_state"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_clawd_conf_state,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_quota"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_clawd_conf_quota,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_clawd_loc_conf_t, enable),
      NULL },

    { ngx_string("clawd_pass"),
      NGX_HTTP_LOC_CONF|NGX_HTTP_LIF_CONF|NGX_HTTP_LMT_CONF|NGX_CONF_TAKE1,
      ngx_http_clawd_conf_pass,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_dry_run"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_clawd_loc_conf_t, dry_run),
      NULL },

    { ngx_string("clawd_auth"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_clawd_loc_conf_t, auth),
      &ngx_http_clawd_auth_modes },

    { ngx_string("clawd_max_tokens"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_clawd_conf_max_tokens,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_cors"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_clawd_conf_cors,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("clawd_metrics"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_clawd_conf_metrics,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_clawd_module_ctx = {
    ngx_http_clawd_add_variables,          /* preconfiguration */
    ngx_http_clawd_init,                   /* postconfiguration */

    ngx_http_clawd_create_main_conf,       /* create main configuration */
    ngx_http_clawd_init_main_conf,         /* init main configuration */

    ngx_http_clawd_create_srv_conf,        /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_clawd_create_loc_conf,        /* create location configuration */
    ngx_http_clawd_merge_loc_conf          /* merge location configuration */
};


ngx_module_t  ngx_http_clawd_module = {
    NGX_MODULE_V1,
    &ngx_http_clawd_module_ctx,            /* module context */
    ngx_http_clawd_commands,               /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_clawd_init_module,            /* init module */
    ngx_http_clawd_init_process,           /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_clawd_exit_process,           /* exit process */
    ngx_http_clawd_exit_master,            /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_module_t  ngx_http_clawd_filter_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_clawd_filter_init,            /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_clawd_filter_module = {
    NGX_MODULE_V1,
    &ngx_http_clawd_filter_module_ctx,     /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_clawd_init(ngx_conf_t *cf)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_clawd_module);

    if (cmcf->metrics && cmcf->zone == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd_metrics\" needs a shared zone, add "
                      "\"clawd_zone clawd:16m;\" to the http block");
        return NGX_ERROR;
    }

    if (!cmcf->gated) {
        return NGX_OK;
    }

    if (ngx_http_clawd_index_variables(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (cmcf->token_arg
        && (ngx_http_clawd_push(cf, NGX_HTTP_POST_READ_PHASE,
                                ngx_http_clawd_redact_handler) != NGX_OK
            || ngx_http_clawd_push(cf, NGX_HTTP_LOG_PHASE,
                                   ngx_http_clawd_redact_log_handler)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_clawd_push(cf, NGX_HTTP_PRECONTENT_PHASE,
                               ngx_http_clawd_gate_handler);
}


/* log handlers run in their order: ours comes before the one that writes */

static ngx_int_t
ngx_http_clawd_push(ngx_conf_t *cf, ngx_http_phases phase,
    ngx_http_handler_pt handler)
{
    ngx_array_t                *handlers;
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    handlers = &cmcf->phases[phase].handlers;

    h = ngx_array_push(handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    if (phase == NGX_HTTP_LOG_PHASE) {
        h = handlers->elts;
        ngx_memmove(h + 1, h, (handlers->nelts - 1) * sizeof(*h));
    }

    *h = handler;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_filter_init(ngx_conf_t *cf)
{
    /*
     * Also where nothing is gated: the chain of filters is the process's, and
     * after a reload that failed the workers of the old configuration have it.
     */

    ngx_http_clawd_observe_init();

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_init_module(ngx_cycle_t *cycle)
{
    ngx_http_clawd_main_conf_t  *cmcf, *old;

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_clawd_module);

    if (cmcf == NULL || !cmcf->ledger_conf.enabled) {
        return NGX_OK;
    }

    old = ngx_http_clawd_old_conf();

    ngx_http_clawd_ledger_use(cycle, &cmcf->ledger_conf,
                              (old && old->ledger_conf.enabled)
                              ? &old->ledger_conf : NULL);

    return NGX_OK;
}


/* of the configuration that a reload replaces, if it had this very module */

static ngx_http_clawd_main_conf_t *
ngx_http_clawd_old_conf(void)
{
    ngx_uint_t   i;
    ngx_cycle_t  *cycle;

    cycle = (ngx_cycle_t *) ngx_cycle;

    if (ngx_is_init_cycle(cycle)) {
        return NULL;
    }

    for (i = 0; cycle->modules[i]; i++) {

        if (cycle->modules[i] == &ngx_http_clawd_module) {
            return ngx_http_cycle_get_module_main_conf(cycle,
                                                       ngx_http_clawd_module);
        }
    }

    return NULL;
}


static ngx_int_t
ngx_http_clawd_init_process(ngx_cycle_t *cycle)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_clawd_module);

    if (cmcf == NULL || cmcf->zone == NULL) {
        return NGX_OK;
    }

    if (ngx_http_clawd_rid_init(cycle) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_clawd_zone_claim(cmcf->zone, cycle->log);

    if (!cmcf->gated || !cmcf->ledger_conf.enabled) {
        return NGX_OK;
    }

    cmcf->ledger = ngx_http_clawd_ledger_create(cycle, &cmcf->ledger_conf);

    return cmcf->ledger ? NGX_OK : NGX_ERROR;
}


static void
ngx_http_clawd_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return;
    }

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_clawd_module);

    if (cmcf == NULL || cmcf->zone == NULL) {
        return;
    }

    if (cmcf->ledger) {
        ngx_http_clawd_ledger_destroy(cmcf->ledger);
        cmcf->ledger = NULL;
    }

    ngx_http_clawd_zone_release(cmcf->zone);
}


static void
ngx_http_clawd_exit_master(ngx_cycle_t *cycle)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_clawd_module);

    if (cmcf && cmcf->ledger_conf.enabled) {
        ngx_http_clawd_ledger_save(cycle, &cmcf->ledger_conf);
    }
}
