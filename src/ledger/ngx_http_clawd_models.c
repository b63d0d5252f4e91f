/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_record.h"


/* a label, and what an upstream takes it for when it says no tag */

typedef struct {
    ngx_str_t  label;
    ngx_str_t  tag;
} ngx_http_clawd_subject_t;


static ngx_uint_t ngx_http_clawd_models_tagged(ngx_str_t *label);
static ngx_uint_t ngx_http_clawd_models_match(ngx_str_t *glob,
    ngx_http_clawd_subject_t *s);


ngx_uint_t
ngx_http_clawd_models_allow(ngx_str_t *models, ngx_str_t *label)
{
    u_char                    *p, *last;
    ngx_str_t                  glob;
    ngx_http_clawd_subject_t   plain, latest;

    if (models->data == NULL) {
        return 1;
    }

    plain.label = *label;
    ngx_str_null(&plain.tag);

    latest = plain;

    if (!ngx_http_clawd_models_tagged(label)) {
        ngx_str_set(&latest.tag, ":latest");
    }

    last = models->data + models->len;

    for (p = models->data; p < last; /* void */ ) {

        if (*p == ' ' || *p == ',') {
            p++;
            continue;
        }

        glob.data = p;

        while (p < last && *p != ' ' && *p != ',') {
            p++;
        }

        glob.len = p - glob.data;

        if (ngx_http_clawd_models_match(&glob, &plain)) {
            return 1;
        }

        if (latest.tag.len && ngx_http_clawd_models_match(&glob, &latest)) {
            return 1;
        }
    }

    return 0;
}


/* A colon before the last slash belongs to a port. */

static ngx_uint_t
ngx_http_clawd_models_tagged(ngx_str_t *label)
{
    size_t  i;

    for (i = label->len; i > 0 && label->data[i - 1] != '/'; i--) {
        if (label->data[i - 1] == ':') {
            return 1;
        }
    }

    return 0;
}


/* What a star took is given up for the last one only: a later star can take
   whatever an earlier one could. */

static ngx_uint_t
ngx_http_clawd_models_match(ngx_str_t *glob, ngx_http_clawd_subject_t *s)
{
    u_char   c, ch;
    size_t   i, k, len;
    ssize_t  star, mark;

    len = s->label.len + s->tag.len;
    star = -1;
    mark = 0;

    for (i = 0, k = 0; i < len; /* void */ ) {

        c = (k < glob->len) ? ngx_tolower(glob->data[k]) : '\0';

        if (c == '*') {
            star = k++;
            mark = i;
            continue;
        }

        ch = (i < s->label.len) ? s->label.data[i]
                                : s->tag.data[i - s->label.len];

        if (k < glob->len && (c == '?' || c == ngx_tolower(ch))) {
            i++;
            k++;
            continue;
        }

        if (star < 0) {
            return 0;
        }

        k = star + 1;
        i = ++mark;
    }

    while (k < glob->len && glob->data[k] == '*') {
        k++;
    }

    return k == glob->len;
}
