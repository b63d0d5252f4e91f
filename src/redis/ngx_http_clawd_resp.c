/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_resp.h"


/* the shortest value: "+", CR, LF */
#define NGX_HTTP_CLAWD_RESP_LEAST  3

/* so many digits are within 64 bits, whatever they are */
#define NGX_HTTP_CLAWD_RESP_SHORT  18


static ngx_int_t ngx_http_clawd_resp_item(ngx_http_clawd_resp_item_t *item,
    u_char **pos, u_char *last, size_t *missing);
static ngx_int_t ngx_http_clawd_resp_bulk(ngx_http_clawd_resp_item_t *item,
    u_char *p, u_char **pos, u_char *last, size_t *missing);
static u_char *ngx_http_clawd_resp_short(u_char *p, u_char *last, int64_t *n);
static u_char *ngx_http_clawd_resp_line(u_char *p, u_char *last,
    ngx_int_t *rc);
static ngx_int_t ngx_http_clawd_resp_integer(u_char *p, u_char *last,
    int64_t *n);


ngx_int_t
ngx_http_clawd_resp_read(ngx_http_clawd_resp_t *resp, u_char *p, u_char *last,
    u_char **end, size_t *need)
{
    size_t                       missing;
    u_char                      *pos;
    ngx_int_t                    rc;
    ngx_uint_t                   depth, due;
    ngx_uint_t                   left[NGX_HTTP_CLAWD_RESP_DEPTH + 1];
    ngx_http_clawd_resp_item_t  *item;

    pos = p;
    depth = 0;
    left[0] = 1;
    resp->nitems = 0;

    /* due: values that are still to come, of all open arrays */

    for (due = 1; due; /* void */ ) {
        item = &resp->items[resp->nitems];

        rc = ngx_http_clawd_resp_item(item, &pos, last, &missing);

        if (rc == NGX_AGAIN) {
            *need = (pos - p) + missing
                    + (due - 1) * NGX_HTTP_CLAWD_RESP_LEAST;

            return (*need > NGX_HTTP_CLAWD_RESP_SIZE) ? NGX_ERROR : NGX_AGAIN;
        }

        if (rc != NGX_OK || pos - p > NGX_HTTP_CLAWD_RESP_SIZE) {
            return NGX_ERROR;
        }

        resp->nitems++;
        left[depth]--;
        due--;

        if (item->type == NGX_HTTP_CLAWD_RESP_ARRAY) {

            if (depth == NGX_HTTP_CLAWD_RESP_DEPTH
                || item->integer > (int64_t) (NGX_HTTP_CLAWD_RESP_ITEMS
                                              - resp->nitems - due))
            {
                return NGX_ERROR;
            }

            left[++depth] = (ngx_uint_t) item->integer;
            due += (ngx_uint_t) item->integer;
        }

        while (depth && left[depth] == 0) {
            depth--;
        }
    }

    *end = pos;

    return NGX_OK;
}


/* *pos goes behind the value, or stays where it is with *missing set */

static ngx_int_t
ngx_http_clawd_resp_item(ngx_http_clawd_resp_item_t *item, u_char **pos,
    u_char *last, size_t *missing)
{
    u_char     *p, *eol;
    ngx_int_t   rc;

    p = *pos;

    if (p < last && *p == ':') {

        /* what a script returns */

        eol = ngx_http_clawd_resp_short(p + 1, last, &item->integer);

        if (eol) {
            item->type = NGX_HTTP_CLAWD_RESP_INTEGER;
            item->text.data = p + 1;
            item->text.len = eol - (p + 1);

            *pos = eol + 2;

            return NGX_OK;
        }
    }

    if (p < last && ngx_strlchr((u_char *) "+-:$*", (u_char *) "+-:$*" + 5, *p)
                    == NULL)
    {
        return NGX_ERROR;
    }

    rc = NGX_AGAIN;
    eol = (p < last) ? ngx_http_clawd_resp_line(p + 1, last, &rc) : NULL;

    if (eol == NULL) {

        if (rc != NGX_AGAIN) {
            return NGX_ERROR;
        }

        *missing = ngx_max(last - p + 1, NGX_HTTP_CLAWD_RESP_LEAST);

        return NGX_AGAIN;
    }

    item->text.data = p + 1;
    item->text.len = eol - (p + 1);
    item->integer = 0;

    switch (*p) {

    case '+':
        item->type = NGX_HTTP_CLAWD_RESP_STATUS;
        break;

    case '-':
        item->type = NGX_HTTP_CLAWD_RESP_ERROR;
        break;

    default:
        if (ngx_http_clawd_resp_integer(p + 1, eol, &item->integer)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (*p == ':') {
            item->type = NGX_HTTP_CLAWD_RESP_INTEGER;
            break;
        }

        if (item->integer == -1) {
            item->type = NGX_HTTP_CLAWD_RESP_NIL;
            break;
        }

        if (item->integer < 0) {
            return NGX_ERROR;
        }

        if (*p == '$') {
            return ngx_http_clawd_resp_bulk(item, eol + 2, pos, last,
                                            missing);
        }

        item->type = NGX_HTTP_CLAWD_RESP_ARRAY;
    }

    *pos = eol + 2;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_resp_bulk(ngx_http_clawd_resp_item_t *item, u_char *p,
    u_char **pos, u_char *last, size_t *missing)
{
    size_t  len;

    if (item->integer > NGX_HTTP_CLAWD_RESP_BULK) {
        return NGX_ERROR;
    }

    len = (size_t) item->integer;

    item->type = NGX_HTTP_CLAWD_RESP_BULK_STRING;
    item->text.data = p;
    item->text.len = len;

    /* what is there of the line break is looked at before all has come */

    if (((size_t) (last - p) > len && p[len] != CR)
        || ((size_t) (last - p) > len + 1 && p[len + 1] != LF))
    {
        return NGX_ERROR;
    }

    if ((size_t) (last - p) < len + 2) {
        *missing = (p - *pos) + len + 2;
        return NGX_AGAIN;
    }

    *pos = p + len + 2;

    return NGX_OK;
}


/*
 * An integer and its whole line in one pass: the CR.  NULL: it is longer, not
 * there yet or malformed, and has to be looked at more closely.
 */

static u_char *
ngx_http_clawd_resp_short(u_char *p, u_char *last, int64_t *n)
{
    u_char      *digits;
    int64_t      value;
    ngx_uint_t   negative;

    negative = (p < last && *p == '-');
    p += negative;

    digits = p;

    for (value = 0;
         p < last && p - digits < NGX_HTTP_CLAWD_RESP_SHORT
         && *p >= '0' && *p <= '9';
         p++)
    {
        value = value * 10 + (*p - '0');
    }

    if (p == digits || last - p < 2 || p[0] != CR || p[1] != LF
        || (*digits == '0' && (p - digits > 1 || negative)))
    {
        return NULL;
    }

    *n = negative ? -value : value;

    return p;
}


/* the CR of the line's end; NULL with *rc: not there yet, or malformed */

static u_char *
ngx_http_clawd_resp_line(u_char *p, u_char *last, ngx_int_t *rc)
{
    u_char  *start;

    for (start = p; p < last; p++) {

        if (*p == CR) {
            if (p + 1 == last) {
                break;
            }

            *rc = NGX_ERROR;

            return (p[1] == LF) ? p : NULL;
        }

        if (*p == LF || p - start == NGX_HTTP_CLAWD_RESP_LINE) {
            *rc = NGX_ERROR;
            return NULL;
        }
    }

    *rc = NGX_AGAIN;

    return NULL;
}


/* decimal without "+" and leading zeros, within 64 bits */

static ngx_int_t
ngx_http_clawd_resp_integer(u_char *p, u_char *last, int64_t *n)
{
    uint64_t    value, limit;
    ngx_uint_t  negative;

    negative = (p < last && *p == '-');
    p += negative;

    limit = (uint64_t) INT64_MAX + negative;

    if (p == last || (*p == '0' && (last - p > 1 || negative))) {
        return NGX_ERROR;
    }

    for (value = 0; p < last; p++) {

        if (*p < '0' || *p > '9'
            || value > (limit - (*p - '0')) / 10)
        {
            return NGX_ERROR;
        }

        value = value * 10 + (*p - '0');
    }

    /* INT64_MIN has no positive counterpart */

    *n = negative ? -(int64_t) (value - 1) - 1 : (int64_t) value;

    return NGX_OK;
}
