/*
 * Copyright (C) clawd authors
 *
 * Replies of Redis.  It must hold that:
 *
 *  - read whole or at any cut, bytes give the same reply, or are refused;
 *  - what is needed is more than is there, and never more than the reply has;
 *  - items lie within the bytes and the bounds, and arrays add up;
 *  - an error of any text has a class.
 *
 * link: src/redis/ngx_http_clawd_resp.c
 * link: src/redis/ngx_http_clawd_redis_class.c
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_redis_class.h"


#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


#define FUZZ_SIZE  4096     /* cut at each byte, which is quadratic */


static ngx_http_clawd_resp_t  whole, part;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* the number of items of the value at i */

static ngx_uint_t
fuzz_value(ngx_http_clawd_resp_t *resp, ngx_uint_t i, ngx_uint_t depth)
{
    int64_t     n;
    ngx_uint_t  at;

    fuzz_assert(i < resp->nitems);
    at = i + 1;

    if (resp->items[i].type == NGX_HTTP_CLAWD_RESP_ARRAY) {
        fuzz_assert(depth < NGX_HTTP_CLAWD_RESP_DEPTH);

        for (n = 0; n < resp->items[i].integer; n++) {
            at += fuzz_value(resp, at, depth + 1);
        }
    }

    return at - i;
}


static void
fuzz_items(ngx_http_clawd_resp_t *resp, u_char *p, u_char *end)
{
    ngx_uint_t                   i;
    ngx_http_clawd_resp_item_t  *item;

    fuzz_assert(resp->nitems && resp->nitems <= NGX_HTTP_CLAWD_RESP_ITEMS);
    fuzz_assert(fuzz_value(resp, 0, 0) == resp->nitems);

    for (i = 0; i < resp->nitems; i++) {
        item = &resp->items[i];

        fuzz_assert(item->text.data > p);
        fuzz_assert(item->text.data + item->text.len + 2 <= end);

        if (item->type == NGX_HTTP_CLAWD_RESP_BULK_STRING) {
            fuzz_assert((int64_t) item->text.len == item->integer);
            fuzz_assert(item->integer <= NGX_HTTP_CLAWD_RESP_BULK);

        } else {
            fuzz_assert(item->text.len <= NGX_HTTP_CLAWD_RESP_LINE);
        }

        if (item->type == NGX_HTTP_CLAWD_RESP_ERROR) {
            fuzz_assert(ngx_http_clawd_redis_class(&item->text)
                        < NGX_HTTP_CLAWD_REDIS_RESULTS);
            fuzz_assert(ngx_http_clawd_redis_class(&item->text)
                        != NGX_HTTP_CLAWD_REDIS_OK);
        }
    }
}


static void
fuzz_cut(const uint8_t *data, size_t n, ngx_int_t rc, size_t used)
{
    size_t      need;
    u_char     *copy, *end;
    ngx_int_t   got;
    ngx_uint_t  i;

    copy = malloc(n + (n == 0));
    fuzz_assert(copy);
    memcpy(copy, data, n);

    need = 0;
    got = ngx_http_clawd_resp_read(&part, copy, copy + n, &end, &need);

    if (got == NGX_OK) {
        fuzz_assert(rc == NGX_OK && n >= used && end == copy + used);
        fuzz_assert(part.nitems == whole.nitems);

        for (i = 0; i < part.nitems; i++) {
            fuzz_assert(part.items[i].type == whole.items[i].type);
            fuzz_assert(part.items[i].integer == whole.items[i].integer);
            fuzz_assert(part.items[i].text.len == whole.items[i].text.len);
            fuzz_assert(memcmp(part.items[i].text.data,
                               whole.items[i].text.data,
                               part.items[i].text.len) == 0);
        }

        fuzz_items(&part, copy, end);

    } else if (got == NGX_AGAIN) {
        fuzz_assert(need > n && need <= NGX_HTTP_CLAWD_RESP_SIZE);
        fuzz_assert(rc != NGX_OK || (n < used && need <= used));

    } else {
        fuzz_assert(got == NGX_ERROR && rc == NGX_ERROR);
    }

    free(copy);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t      n, need, used;
    u_char     *end;
    ngx_int_t   rc;
    ngx_str_t   text;

    if (size > FUZZ_SIZE) {
        return 0;
    }

    used = 0;
    rc = ngx_http_clawd_resp_read(&whole, (u_char *) data,
                                  (u_char *) data + size, &end, &need);

    if (rc == NGX_OK) {
        used = end - (u_char *) data;
        fuzz_assert(used && used <= size);
    }

    for (n = 0; n <= size; n++) {
        fuzz_cut(data, n, rc, used);
    }

    text.data = (u_char *) data;
    text.len = size;
    (void) ngx_http_clawd_redis_class(&text);

    return 0;
}
