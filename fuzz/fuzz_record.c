/*
 * Copyright (C) clawd authors
 *
 * Records.  The first byte of the input chooses its use:
 *
 *   0 .. 2  the kind of a record whose names and values are the lines;
 *   3       a packed record;
 *   4       an allow-list and, after the first line break, a label.
 *
 * It must hold that
 *
 *  - what was accepted is packed in its bounds and comes back the same;
 *  - an invalid record says why, and stays invalid;
 *  - any bytes are a packed record or none, and what is one, packed again, is
 *    read the same;
 *  - a list allows what a plain matcher allows.
 *
 * link: src/ledger/ngx_http_clawd_record.c
 * link: src/ledger/ngx_http_clawd_models.c
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_record.h"


#define FUZZ_LIST    200
#define FUZZ_LABEL   64

#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
fuzz_same(ngx_str_t *a, ngx_str_t *b)
{
    fuzz_assert(a->len == b->len);
    fuzz_assert(a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}


static void
fuzz_check(ngx_http_clawd_record_t *rec)
{
    ngx_uint_t  i;

    if (rec->invalid) {
        fuzz_assert(rec->fault.len);
        fuzz_assert(rec->field.len <= NGX_HTTP_CLAWD_NAME_LEN);
        return;
    }

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        fuzz_assert(rec->limits[i] >= NGX_HTTP_CLAWD_UNSET
                    && rec->limits[i] <= NGX_HTTP_CLAWD_LIMIT_MAX);
    }

    fuzz_assert(rec->expires >= 0 && rec->epoch >= 0);
    fuzz_assert(rec->priority == NGX_HTTP_CLAWD_UNSET
                || (rec->priority >= 0 && rec->priority <= 100));
    fuzz_assert(rec->user.len <= NGX_HTTP_CLAWD_NAME_LEN);
    fuzz_assert(rec->plan.len <= NGX_HTTP_CLAWD_NAME_LEN);
    fuzz_assert(rec->models.len <= NGX_HTTP_CLAWD_MODELS_LEN);
    fuzz_assert(rec->models.data || rec->models.len == 0);
}


static void
fuzz_again(ngx_http_clawd_record_t *rec)
{
    size_t                    len;
    u_char                   *copy, buf[NGX_HTTP_CLAWD_RECORD_SIZE];
    ngx_http_clawd_record_t   got;

    len = ngx_http_clawd_record_pack(rec, buf) - buf;
    fuzz_assert(len <= sizeof(buf));

    copy = malloc(len);
    fuzz_assert(copy);
    memcpy(copy, buf, len);

    fuzz_assert(ngx_http_clawd_record_unpack(&got, copy, len) == NGX_OK);
    fuzz_check(&got);

    fuzz_assert(got.found == rec->found && got.invalid == rec->invalid);

    if (rec->invalid) {
        fuzz_same(&got.fault, &rec->fault);
        fuzz_same(&got.field, &rec->field);

    } else {
        fuzz_assert(memcmp(got.limits, rec->limits, sizeof(got.limits)) == 0);
        fuzz_assert(got.expires == rec->expires);
        fuzz_assert(got.epoch == rec->epoch);
        fuzz_assert(got.priority == rec->priority);
        fuzz_assert(got.disabled == rec->disabled);
        fuzz_assert(got.admin == rec->admin);
        fuzz_assert(!got.models.data == !rec->models.data);
        fuzz_same(&got.user, &rec->user);
        fuzz_same(&got.plan, &rec->plan);
        fuzz_same(&got.models, &rec->models);
        fuzz_same(&got.tz, &rec->tz);
        fuzz_same(&got.name, &rec->name);
    }

    free(copy);
}


/* the line in memory of its own, which stays in use with the record */

static const u_char *
fuzz_line(const u_char *p, const u_char *last, ngx_str_t *line)
{
    const u_char  *end;

    end = memchr(p, '\n', last - p);
    end = end ? end : last;

    line->len = end - p;
    line->data = malloc(line->len + (line->len == 0));
    fuzz_assert(line->data);
    memcpy(line->data, p, line->len);

    return (end < last) ? end + 1 : last;
}


static void
fuzz_fields(ngx_uint_t kind, const u_char *p, const u_char *last)
{
    ngx_str_t                 kept[64];
    ngx_int_t                 rc;
    ngx_uint_t                n, failed;
    ngx_http_clawd_record_t   rec;

    ngx_http_clawd_record_init(&rec);
    failed = 0;

    for (n = 0; p < last && n < 64; n += 2) {
        p = fuzz_line(p, last, &kept[n]);
        p = fuzz_line(p, last, &kept[n + 1]);

        rc = ngx_http_clawd_record_field(&rec, kind, &kept[n], &kept[n + 1]);

        failed |= (rc != NGX_OK);
        fuzz_assert(failed == rec.invalid);
        fuzz_check(&rec);
    }

    rc = ngx_http_clawd_record_end(&rec, kind);
    fuzz_assert((rc == NGX_OK) == !rec.invalid);
    fuzz_assert(rc != NGX_OK || kind != NGX_HTTP_CLAWD_RECORD_KEY
                || rec.found == (rec.user.len != 0));

    fuzz_again(&rec);

    while (n) {
        free(kept[--n].data);
    }
}


static void
fuzz_packed(const u_char *p, size_t size)
{
    u_char                   *copy;
    ngx_http_clawd_record_t   rec;

    copy = malloc(size + (size == 0));
    fuzz_assert(copy);
    memcpy(copy, p, size);

    if (ngx_http_clawd_record_unpack(&rec, copy, size) == NGX_OK) {
        fuzz_check(&rec);
        fuzz_again(&rec);
    }

    free(copy);
}


/* ends[i]: the pattern up to here may end at the name's place i */

static int
fuzz_match(const u_char *glob, size_t len, const u_char *name, size_t n)
{
    u_char  ends[FUZZ_LABEL + sizeof(":latest")], next[sizeof(ends)];
    size_t  i, k;

    memset(ends, 0, sizeof(ends));
    ends[0] = 1;

    for (k = 0; k < len; k++) {

        for (i = 0; i <= n; i++) {

            if (glob[k] == '*') {
                next[i] = ends[i] || (i && next[i - 1]);

            } else {
                next[i] = i && ends[i - 1]
                          && (glob[k] == '?'
                              || ngx_tolower(glob[k])
                                 == ngx_tolower(name[i - 1]));
            }
        }

        memcpy(ends, next, n + 1);
    }

    return ends[n];
}


static int
fuzz_allow(ngx_str_t *list, ngx_str_t *label)
{
    u_char  *p, *last, *glob, *tag, name[FUZZ_LABEL + sizeof(":latest")];
    size_t   i;

    memcpy(name, label->data, label->len);
    memcpy(name + label->len, ":latest", 7);

    tag = name;

    for (i = 0; i < label->len; i++) {
        if (name[i] == '/') {
            tag = name + i;
        }
    }

    tag = memchr(tag, ':', name + label->len - tag);

    last = list->data + list->len;

    for (p = list->data; p < last; p++) {

        for (glob = p; p < last && *p != ' ' && *p != ','; p++) {
            /* void */
        }

        if (p == glob) {
            continue;
        }

        if (fuzz_match(glob, p - glob, name, label->len)
            || (!tag && fuzz_match(glob, p - glob, name, label->len + 7)))
        {
            return 1;
        }
    }

    return 0;
}


static void
fuzz_models(const u_char *p, const u_char *last)
{
    ngx_str_t  list, label;

    p = fuzz_line(p, last, &list);
    (void) fuzz_line(p, last, &label);

    list.len = ngx_min(list.len, FUZZ_LIST);
    label.len = ngx_min(label.len, FUZZ_LABEL);

    fuzz_assert((int) ngx_http_clawd_models_allow(&list, &label)
                == fuzz_allow(&list, &label));

    free(list.data);
    free(label.data);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_uint_t  use;

    if (size == 0) {
        return 0;
    }

    use = data[0] % 5;
    data++;
    size--;

    if (use < NGX_HTTP_CLAWD_RECORDS) {
        fuzz_fields(use, data, data + size);

    } else if (use == 3) {
        fuzz_packed(data, size);

    } else {
        fuzz_models(data, data + size);
    }

    return 0;
}
