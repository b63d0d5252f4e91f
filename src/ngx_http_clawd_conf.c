/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_conf.h"
#include "ngx_http_clawd_metrics.h"
#include "ngx_http_clawd_registry.h"
#include "ngx_http_clawd_zone.h"


#define NGX_HTTP_CLAWD_MAX_TOKENS  1000000000


static ngx_int_t ngx_http_clawd_init_ledger(ngx_conf_t *cf,
    ngx_http_clawd_main_conf_t *cmcf);
static ngx_int_t ngx_http_clawd_zone_ready(ngx_http_clawd_zone_t *zone,
    void *data);
static ngx_int_t ngx_http_clawd_state_folder(ngx_conf_t *cf, ngx_str_t *path);
static ngx_int_t ngx_http_clawd_token_value(ngx_conf_t *cf,
    ngx_str_t *value, ngx_str_t *token);
static ngx_int_t ngx_http_clawd_token_env(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *token);
static ngx_int_t ngx_http_clawd_token_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *token);
static ngx_int_t ngx_http_clawd_token_params(ngx_conf_t *cf,
    ngx_http_clawd_token_t *t);
static int ngx_libc_cdecl ngx_http_clawd_token_cmp(const void *one,
    const void *two);
static ngx_int_t ngx_http_clawd_pass_url(ngx_conf_t *cf, ngx_str_t *url);
static ngx_command_t *ngx_http_clawd_proxy_pass(ngx_conf_t *cf,
    ngx_module_t **module);
static ngx_int_t ngx_http_clawd_origin_valid(ngx_str_t *origin);
static ngx_int_t ngx_http_clawd_check_gated(ngx_conf_t *cf,
    ngx_http_clawd_loc_conf_t *conf);
static ngx_int_t ngx_http_clawd_metrics_handler(ngx_http_request_t *r);


/* what lives in the shared zone; each room's own, found by its place here */

static ngx_http_clawd_area_t  *ngx_http_clawd_areas[] = {
    &ngx_http_clawd_registry_area,
    &ngx_http_clawd_cache_area,
    &ngx_http_clawd_accounts_area,
    &ngx_http_clawd_redis_area,
    NULL
};


void *
ngx_http_clawd_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_clawd_main_conf_t));
    if (cmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     cmcf->zone = NULL;
     *     cmcf->gated = 0;
     *     cmcf->token_arg = 0;
     *     cmcf->metrics = 0;
     */

    if (ngx_array_init(&cmcf->tokens, cf->pool, 4,
                       sizeof(ngx_http_clawd_token_t))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&cmcf->ledger_conf.plans, cf->pool, 4,
                       sizeof(ngx_http_clawd_plan_t))
        != NGX_OK)
    {
        return NULL;
    }

    return cmcf;
}


char *
ngx_http_clawd_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    ngx_uint_t               i;
    ngx_http_clawd_token_t  *t;

    if (ngx_http_clawd_init_ledger(cf, cmcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    t = cmcf->tokens.elts;

    ngx_qsort(t, cmcf->tokens.nelts, sizeof(ngx_http_clawd_token_t),
              ngx_http_clawd_token_cmp);

    for (i = 1; i < cmcf->tokens.nelts; i++) {
        if (ngx_http_clawd_token_cmp(&t[i - 1], &t[i]) == 0) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"clawd_token\" of user \"%V\" and of user \"%V\" "
                          "are the same token, give each its own",
                          &t[i - 1].who.user, &t[i].who.user);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* quotas and keys are kept where something says so */

static ngx_int_t
ngx_http_clawd_init_ledger(ngx_conf_t *cf, ngx_http_clawd_main_conf_t *cmcf)
{
    ngx_uint_t                     i;
    ngx_http_clawd_zone_t         *zone;
    ngx_http_clawd_token_t        *t;
    ngx_http_clawd_ledger_conf_t  *conf;

    conf = &cmcf->ledger_conf;

    if (conf->redis == NULL) {

        t = cmcf->tokens.elts;

        for (i = 0; i < cmcf->tokens.nelts; i++) {
            if (t[i].who.plan.len
                && ngx_http_clawd_ledger_plan(conf, &t[i].who.plan) == NULL)
            {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "\"clawd_token\" of user \"%V\" has "
                              "\"plan=%V\", which no \"clawd_quota\" "
                              "defines", &t[i].who.user, &t[i].who.plan);
                return NGX_ERROR;
            }
        }
    }

    conf->enabled = (conf->redis || conf->plans.nelts || conf->state.len);

    if (!conf->enabled) {
        return NGX_OK;
    }

    if (cmcf->zone == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd_redis\", \"clawd_quota\" and "
                      "\"clawd_state\" need a shared zone, add "
                      "\"clawd_zone clawd:16m;\" to the http block");
        return NGX_ERROR;
    }

    conf->zone = cmcf->zone;

    zone = ngx_http_clawd_zone(cmcf->zone);
    zone->ready = ngx_http_clawd_zone_ready;
    zone->data = conf;

    if (conf->state.len == 0) {
        return NGX_OK;
    }

    return ngx_http_clawd_state_folder(cf, &conf->state);
}


/* a file that can't be read must refuse a reload, not end the master */

static ngx_int_t
ngx_http_clawd_zone_ready(ngx_http_clawd_zone_t *zone, void *data)
{
    return ngx_http_clawd_ledger_load(zone, data, zone->shm_zone->shm.log);
}


/* workers replace the file, so the folder must be theirs */

static ngx_int_t
ngx_http_clawd_state_folder(ngx_conf_t *cf, ngx_str_t *path)
{
    u_char            dir[NGX_MAX_PATH], *p;
    ngx_file_info_t   fi;
    ngx_core_conf_t  *ccf;

    if (path->len >= sizeof(dir)) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd_state\" has a path that is too long: %V",
                      path);
        return NGX_ERROR;
    }

    (void) ngx_cpystrn(dir, path->data, path->len + 1);

    for (p = dir + path->len; p > dir && *p != '/'; p--) { /* void */ }

    *(p > dir ? p : p + 1) = '\0';

    if (ngx_file_info(dir, &fi) == NGX_FILE_ERROR || !ngx_is_dir(&fi)) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, ngx_errno,
                      "\"clawd_state %V\": there is no folder \"%s\", "
                      "create it for the user of the workers", path, dir);
        return NGX_ERROR;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    if (geteuid() == 0 && ccf->user != (ngx_uid_t) NGX_CONF_UNSET_UINT
        && ccf->user != 0 && fi.st_uid != ccf->user
        && !(fi.st_gid == ccf->group && (fi.st_mode & S_IWGRP))
        && !(fi.st_mode & S_IWOTH))
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd_state %V\": the workers' user \"%s\" can't "
                      "write in \"%s\", run: chown %s %s", path,
                      ccf->username, dir, ccf->username, dir);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static int ngx_libc_cdecl
ngx_http_clawd_token_cmp(const void *one, const void *two)
{
    const ngx_http_clawd_token_t  *a = one, *b = two;

    return ngx_memcmp(a->digest, b->digest, NGX_HTTP_CLAWD_DIGEST_LEN);
}


void *
ngx_http_clawd_create_srv_conf(ngx_conf_t *cf)
{
    /*
     * set by ngx_pcalloc():
     *
     *     cscf->token_arg = 0;
     */

    return ngx_pcalloc(cf->pool, sizeof(ngx_http_clawd_srv_conf_t));
}


void *
ngx_http_clawd_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_clawd_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_clawd_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->checked = 0;
     */

    conf->enable = NGX_CONF_UNSET;
    conf->dry_run = NGX_CONF_UNSET;
    conf->auth = NGX_CONF_UNSET_UINT;
    conf->max_tokens = NGX_CONF_UNSET;
    conf->cors = NGX_CONF_UNSET_PTR;
    conf->upstream = NGX_CONF_UNSET_PTR;

    return conf;
}


char *
ngx_http_clawd_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_clawd_loc_conf_t *prev = parent;
    ngx_http_clawd_loc_conf_t *conf = child;

    ngx_conf_merge_value(conf->enable, prev->enable, 0);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);
    ngx_conf_merge_uint_value(conf->auth, prev->auth,
                              NGX_HTTP_CLAWD_AUTH_ON);
    ngx_conf_merge_value(conf->max_tokens, prev->max_tokens, 0);
    ngx_conf_merge_ptr_value(conf->cors, prev->cors, NULL);
    ngx_conf_merge_ptr_value(conf->upstream, prev->upstream, NULL);

    if (conf->enable && ngx_http_clawd_check_gated(cf, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_clawd_check_gated(ngx_conf_t *cf, ngx_http_clawd_loc_conf_t *conf)
{
    ngx_http_clawd_srv_conf_t   *cscf;
    ngx_http_clawd_main_conf_t  *cmcf;

    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_clawd_module);
    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_clawd_module);

    cmcf->gated = 1;

    if (cmcf->zone == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd\" and \"clawd_pass\" need a shared zone, add "
                      "\"clawd_zone clawd:16m;\" to the http block");
        return NGX_ERROR;
    }

    if (conf->auth == NGX_HTTP_CLAWD_AUTH_OFF) {
        return NGX_OK;
    }

    if (conf->auth == NGX_HTTP_CLAWD_AUTH_TOKEN_ARG) {
        cscf->token_arg = 1;
        cmcf->token_arg = 1;
    }

    if (cmcf->tokens.nelts == 0 && cmcf->ledger_conf.redis == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"clawd_auth\" is on and there is no token to accept, "
                      "add \"clawd_token\" or \"clawd_redis\" to the http "
                      "block or say \"clawd_auth off;\"");
        return NGX_ERROR;
    }

    return NGX_OK;
}


char *
ngx_http_clawd_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    ngx_str_t  *value;

    if (cmcf->zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    cmcf->zone = ngx_http_clawd_zone_add(cf, &value[1],
                                         &ngx_http_clawd_module,
                                         ngx_http_clawd_areas);
    if (cmcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_clawd_conf_token(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    ngx_int_t                rc;
    ngx_str_t               *value, token;
    ngx_uint_t               i;
    ngx_http_clawd_token_t  *t;

    value = cf->args->elts;

    t = ngx_array_push(&cmcf->tokens);
    if (t == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(t, sizeof(ngx_http_clawd_token_t));

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        t->who.terms.limits[i] = NGX_HTTP_CLAWD_UNLIMITED;
    }

    if (ngx_http_clawd_token_params(cf, t) != NGX_OK
        || ngx_http_clawd_token_value(cf, &value[1], &token) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_clawd_token_valid(token.data, token.len) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_token\" of user \"%V\" is not a token: "
                           "use 1 to %d visible ASCII characters without "
                           "spaces and commas", &t->who.user,
                           NGX_HTTP_CLAWD_TOKEN_MAX);
        return NGX_CONF_ERROR;
    }

    rc = ngx_http_clawd_digest(t->digest, token.data, token.len);

    /* the configuration keeps its arguments: leave no secret in them */

    ngx_explicit_memzero(token.data, token.len);
    value[1].len = 0;

    if (rc != NGX_OK) {
        return "could not be hashed";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_clawd_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    if (cmcf->ledger_conf.redis) {
        return "is duplicate";
    }

    cmcf->ledger_conf.redis = ngx_pcalloc(cf->pool,
                                       sizeof(ngx_http_clawd_redis_conf_t));
    if (cmcf->ledger_conf.redis == NULL) {
        return NGX_CONF_ERROR;
    }

    return ngx_http_clawd_redis_conf(cf, cmcf->ledger_conf.redis);
}


char *
ngx_http_clawd_conf_state(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    ngx_str_t  *value;

    if (cmcf->ledger_conf.state.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "needs the path of a file";
    }

    cmcf->ledger_conf.state = value[1];

    if (ngx_conf_full_name(cf->cycle, &cmcf->ledger_conf.state, 0)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_clawd_conf_quota(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    u_char                 *p;
    int32_t                 offset;
    ngx_str_t              *value, name, text;
    ngx_uint_t              i;
    ngx_http_clawd_plan_t  *plan;

    value = cf->args->elts;

    if (ngx_http_clawd_name_valid(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_quota\" needs the name of a plan, 1 to "
                           "%d of A-Z a-z 0-9 . _ @ + -, got \"%V\"",
                           NGX_HTTP_CLAWD_NAME_LEN, &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_clawd_ledger_plan(&cmcf->ledger_conf, &value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_quota %V\" is duplicate, write all of a "
                           "plan in one directive", &value[1]);
        return NGX_CONF_ERROR;
    }

    plan = ngx_array_push(&cmcf->ledger_conf.plans);
    if (plan == NULL) {
        return NGX_CONF_ERROR;
    }

    plan->name = value[1];
    ngx_http_clawd_record_init(&plan->record);
    plan->record.found = 1;

    for (i = 2; i < cf->args->nelts; i++) {
        p = (u_char *) ngx_strchr(value[i].data, '=');

        if (p == NULL) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_quota %V\" takes \"name=value\", as "
                               "\"tpm=50000\", got \"%V\"", &value[1],
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        name.data = value[i].data;
        name.len = p - value[i].data;

        text.data = p + 1;
        text.len = value[i].data + value[i].len - text.data;

        if (ngx_http_clawd_record_field(&plan->record,
                                        NGX_HTTP_CLAWD_RECORD_PLAN, &name,
                                        &text)
            != NGX_OK)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_quota %V\": \"%V\": %V", &value[1],
                               &value[i], &plan->record.fault);
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_http_clawd_tz_offset(&plan->record.tz, ngx_time(), &offset)
        != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_quota %V\": \"tz=%V\" is no time zone of "
                           "this system, install the package tzdata or write "
                           "it as \"+02:00\"", &value[1], &plan->record.tz);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_clawd_token_params(ngx_conf_t *cf, ngx_http_clawd_token_t *t)
{
    ngx_str_t   *value, s;
    ngx_uint_t   i, role;

    value = cf->args->elts;
    role = 0;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "user=", 5) == 0
            && t->who.user.len == 0)
        {
            t->who.user.len = value[i].len - 5;
            t->who.user.data = value[i].data + 5;

            if (ngx_http_clawd_name_valid(&t->who.user) != NGX_OK) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "\"clawd_token\" needs a user name of 1 to "
                                   "%d of A-Z a-z 0-9 . _ @ + -, got \"%V\"",
                                   NGX_HTTP_CLAWD_NAME_LEN, &value[i]);
                return NGX_ERROR;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "plan=", 5) == 0
            && t->who.plan.len == 0)
        {
            t->who.plan.len = value[i].len - 5;
            t->who.plan.data = value[i].data + 5;

            if (ngx_http_clawd_name_valid(&t->who.plan) == NGX_OK) {
                continue;
            }
        }

        if (ngx_strncmp(value[i].data, "role=", 5) == 0 && role == 0) {
            role = 1;
            s.len = value[i].len - 5;
            s.data = value[i].data + 5;

            if (s.len == 5 && ngx_strncmp(s.data, "admin", 5) == 0) {
                t->who.admin = 1;
                continue;
            }

            if (s.len == 4 && ngx_strncmp(s.data, "user", 4) == 0) {
                continue;
            }
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_token\" takes \"user=NAME\", "
                           "\"plan=NAME\" and \"role=user\" or "
                           "\"role=admin\" once each, got \"%V\"",
                           &value[i]);
        return NGX_ERROR;
    }

    if (t->who.user.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_token\" needs \"user=NAME\"");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_token_value(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *token)
{
    ngx_str_t  name;

    if (ngx_strncmp(value->data, "env:", 4) == 0) {
        name.len = value->len - 4;
        name.data = value->data + 4;

        return ngx_http_clawd_token_env(cf, &name, token);
    }

    if (ngx_strncmp(value->data, "file:", 5) == 0) {
        name.len = value->len - 5;
        name.data = value->data + 5;

        return ngx_http_clawd_token_file(cf, &name, token);
    }

    *token = *value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_token_env(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *token)
{
    char  *env;

    /* arguments of a directive are null-terminated */

    env = getenv((char *) name->data);

    if (env == NULL || *env == '\0') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_token env:%V\": the environment variable "
                           "is unset or empty, set it before NGINX starts, or "
                           "use \"file:PATH\" under a service manager", name);
        return NGX_ERROR;
    }

    token->len = ngx_strlen(env);
    token->data = ngx_pnalloc(cf->temp_pool, token->len + 1);
    if (token->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(token->data, env, token->len + 1);

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_token_file(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *token)
{
    u_char      buf[NGX_HTTP_CLAWD_TOKEN_MAX + 2];
    size_t      len;
    ssize_t     n;
    ngx_fd_t    fd;
    ngx_str_t   path;

    path = *name;

    if (ngx_conf_full_name(cf->cycle, &path, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    fd = ngx_open_file(path.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"clawd_token file:%V\": the file can't be opened",
                           name);
        return NGX_ERROR;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", &path);
    }

    len = (n > 0) ? (size_t) n : 0;

    while (len && (buf[len - 1] == '\n' || buf[len - 1] == '\r')) {
        len--;
    }

    if (len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_token file:%V\": the file is empty or "
                           "can't be read, write the token into its first "
                           "line", name);
        return NGX_ERROR;
    }

    token->len = len;
    token->data = ngx_pnalloc(cf->temp_pool, len);
    if (token->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(token->data, buf, len);
    ngx_explicit_memzero(buf, sizeof(buf));

    return NGX_OK;
}


/*
 * The stock setter does the work of proxying; this one adds that the location
 * is gated.  The content handler stays the proxy's own: what would wrap it is
 * bypassed under limit_except and "if".
 */

char *
ngx_http_clawd_conf_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_loc_conf_t *clcf = conf;

    char                              *rv;
    ngx_str_t                         *value, url;
    ngx_module_t                      *module;
    ngx_command_t                     *pass;
    ngx_http_conf_ctx_t               *ctx;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;
    url = value[1];

    if (clcf->upstream != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    if (clcf->enable == 0) {
        return "can't be used in a location with \"clawd off\"";
    }

    if (ngx_http_clawd_pass_url(cf, &url) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    clcf->upstream = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (clcf->upstream == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &url;
    ccv.complex_value = clcf->upstream;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    pass = ngx_http_clawd_proxy_pass(cf, &module);
    if (pass == NULL) {
        return "needs the proxy module, this NGINX was built without it";
    }

    ctx = cf->ctx;

    rv = pass->set(cf, pass, ctx->loc_conf[module->ctx_index]);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    clcf->enable = 1;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_clawd_pass_url(ngx_conf_t *cf, ngx_str_t *url)
{
    size_t       skip;
    u_char      *p, *last;
    ngx_uint_t   literal, local;

    last = url->data + url->len;

    if (ngx_strncasecmp(url->data, (u_char *) "http://", 7) == 0) {
        skip = 7;

    } else if (ngx_strncasecmp(url->data, (u_char *) "https://", 8) == 0) {
        skip = 8;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_pass\" needs a URL that begins with "
                           "\"http://\" or \"https://\", got \"%V\"", url);
        return NGX_ERROR;
    }

    p = url->data + skip;
    literal = 0;

    /* the path of a socket ends at a second colon */

    local = (ngx_strncasecmp(p, (u_char *) "unix:", 5) == 0);

    if (local) {
        p += 5;
        literal = 1;
    }

    for ( /* void */ ; p < last; p++) {

        if (local ? *p == ':' : (*p == '/' || *p == '?' || *p == '#')) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_pass %V\" must end with the host and "
                               "port: the path of the request is what is "
                               "judged and sent", url);
            return NGX_ERROR;
        }

        if (*p == '$' && literal) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_pass %V\" may have a variable as its "
                               "whole host only", url);
            return NGX_ERROR;
        }

        literal = 1;
    }

    return NGX_OK;
}


/* by name, so that an NGINX without the proxy module gets a sentence */

static ngx_command_t *
ngx_http_clawd_proxy_pass(ngx_conf_t *cf, ngx_module_t **module)
{
    ngx_uint_t      i;
    ngx_command_t  *cmd;

    for (i = 0; cf->cycle->modules[i]; i++) {

        if (ngx_strcmp(cf->cycle->modules[i]->name, "ngx_http_proxy_module")
            != 0)
        {
            continue;
        }

        *module = cf->cycle->modules[i];

        for (cmd = (*module)->commands; cmd->name.len; cmd++) {
            if (cmd->name.len == sizeof("proxy_pass") - 1
                && ngx_strcmp(cmd->name.data, "proxy_pass") == 0)
            {
                return cmd;
            }
        }
    }

    return NULL;
}


char *
ngx_http_clawd_conf_max_tokens(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_loc_conf_t *clcf = conf;

    ngx_str_t  *value;

    if (clcf->max_tokens != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 3 && ngx_strncmp(value[1].data, "off", 3) == 0) {
        clcf->max_tokens = 0;
        return NGX_CONF_OK;
    }

    clcf->max_tokens = ngx_atoi(value[1].data, value[1].len);

    if (clcf->max_tokens < 1
        || clcf->max_tokens > NGX_HTTP_CLAWD_MAX_TOKENS)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"clawd_max_tokens\" needs a number from 1 to %d "
                           "or \"off\", got \"%V\"",
                           NGX_HTTP_CLAWD_MAX_TOKENS, &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_clawd_conf_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_loc_conf_t *clcf = conf;

    ngx_str_t   *value, *origin;
    ngx_uint_t   i;

    if (clcf->cors != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && value[1].len == 3
        && ngx_strncmp(value[1].data, "off", 3) == 0)
    {
        clcf->cors = NULL;
        return NGX_CONF_OK;
    }

    clcf->cors = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                  sizeof(ngx_str_t));
    if (clcf->cors == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (!(cf->args->nelts == 2 && value[i].len == 1
              && value[i].data[0] == '*')
            && ngx_http_clawd_origin_valid(&value[i]) != NGX_OK)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"clawd_cors\" takes \"off\", \"*\" alone, or "
                               "origins as \"https://app.example\", got "
                               "\"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        origin = ngx_array_push(clcf->cors);
        if (origin == NULL) {
            return NGX_CONF_ERROR;
        }

        *origin = value[i];
    }

    return NGX_CONF_OK;
}


/* scheme://host or scheme://host:port, as browsers send it */

static ngx_int_t
ngx_http_clawd_origin_valid(ngx_str_t *origin)
{
    u_char  *p, *last;

    last = origin->data + origin->len;

    p = ngx_strlchr(origin->data, last, ':');

    if (p == NULL || p == origin->data || last - p < 4
        || p[1] != '/' || p[2] != '/')
    {
        return NGX_ERROR;
    }

    for (p += 3; p < last; p++) {
        if (*p <= ' ' || *p == '/' || *p == '?' || *p == '#' || *p == '@'
            || *p == '*' || *p == ',')
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


char *
ngx_http_clawd_conf_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_clawd_main_conf_t *cmcf = conf;

    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        return "is duplicate";
    }

    cmcf->metrics = 1;
    clcf->handler = ngx_http_clawd_metrics_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_clawd_metrics_handler(ngx_http_request_t *r)
{
    ngx_http_clawd_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_clawd_module);

    return ngx_http_clawd_metrics_send(r, ngx_http_clawd_zone(cmcf->zone),
                                       cmcf->ledger
                                       ? ngx_http_clawd_ledger_metrics : NULL,
                                       cmcf->ledger);
}
