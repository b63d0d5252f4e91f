/*
 * Copyright (C) clawd authors
 *
 * Directive setters; the create and merge functions of the configuration.
 */

#ifndef _NGX_HTTP_CLAWD_CONF_H_INCLUDED_
#define _NGX_HTTP_CLAWD_CONF_H_INCLUDED_


#include "ngx_http_clawd.h"


#pragma GCC visibility push(hidden)


void *ngx_http_clawd_create_main_conf(ngx_conf_t *cf);
char *ngx_http_clawd_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_clawd_create_srv_conf(ngx_conf_t *cf);
void *ngx_http_clawd_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_clawd_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

char *ngx_http_clawd_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_clawd_conf_token(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_clawd_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_clawd_conf_state(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_clawd_conf_quota(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_clawd_conf_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_clawd_conf_max_tokens(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_clawd_conf_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_clawd_conf_metrics(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_CONF_H_INCLUDED_ */
