/*
 * Copyright (C) clawd authors
 *
 * Model names: many spellings reach the same model; one form of it is used
 * for permissions, quotas and labels.
 */

#ifndef _NGX_HTTP_CLAWD_MODEL_H_INCLUDED_
#define _NGX_HTTP_CLAWD_MODEL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_MODEL_LEN  128


typedef struct {
    ngx_str_t  sent;      /* what goes upstream: spaces, scheme, the default
                             registry, "library/" and ":local" removed; case
                             and tag as asked; points into the name given */
    ngx_str_t  label;     /* sent in lower case without ":latest"; in buf */
    unsigned   cloud:1;   /* would leave the machine: :cloud, -cloud */
    u_char     buf[NGX_HTTP_CLAWD_MODEL_LEN];
} ngx_http_clawd_model_t;


/*
 * Reads a name.  NGX_OK, or NGX_ERROR when it is empty, longer than
 * NGX_HTTP_CLAWD_MODEL_LEN, says both local and cloud, or has a byte outside
 * [A-Za-z0-9._:/@+-] after trimming.
 */
ngx_int_t ngx_http_clawd_model_parse(ngx_http_clawd_model_t *m,
    ngx_str_t *name);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_MODEL_H_INCLUDED_ */
