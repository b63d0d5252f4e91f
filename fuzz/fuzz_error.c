/*
 * Copyright (C) clawd authors
 *
 * Error bodies of an upstream.  Of the input the first byte chooses the API
 * family of the caller, the second the status; the rest is the body.  It must
 * hold that what the caller gets, passed or written, is in the family's shape.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_http_clawd_error.h"


#define FUZZ_HEAD  2

#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* a copy in memory of just its length: a read beyond its end is seen */

static u_char *
fuzz_copy(const uint8_t *p, size_t len)
{
    u_char  *copy;

    copy = malloc(len + (len == 0));
    fuzz_assert(copy);

    memcpy(copy, p, len);

    return copy;
}


/* what was passed or written passes when it is read again */

static void
fuzz_shape(ngx_http_clawd_family_e family, u_char *body, size_t len)
{
    u_char                  *scratch;
    ngx_int_t                rc;
    ngx_http_clawd_error_t   e;

    memset(&e, 0, sizeof(ngx_http_clawd_error_t));

    scratch = malloc(len);
    fuzz_assert(scratch);

    rc = ngx_http_clawd_error_read(&e, family, body, len, scratch);

    /* a message may be JSON in a string once more, which is read as such */

    fuzz_assert(rc == NGX_OK || (e.message.len && e.message.len < len));

    free(scratch);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char                   *body, *scratch, *out, *last;
    ngx_int_t                 rc;
    ngx_http_clawd_error_t    e;
    ngx_http_clawd_family_e   family;

    if (size < FUZZ_HEAD) {
        return 0;
    }

    family = data[0] % 3;

    memset(&e, 0, sizeof(ngx_http_clawd_error_t));
    e.status = 400 + data[1] % 200;

    size -= FUZZ_HEAD;
    body = fuzz_copy(data + FUZZ_HEAD, size);
    scratch = fuzz_copy(data + FUZZ_HEAD, size);

    rc = ngx_http_clawd_error_read(&e, family, body, size, scratch);

    fuzz_assert(memcmp(body, data + FUZZ_HEAD, size) == 0);

    if (rc == NGX_OK) {
        fuzz_assert(e.message.len == 0);
        fuzz_shape(family, body, size);

    } else {
        fuzz_assert(e.message.len <= size);

        out = malloc(ngx_http_clawd_error_size(&e));
        fuzz_assert(out);

        last = ngx_http_clawd_error_write(out, family, &e);
        fuzz_shape(family, out, last - out);

        free(out);
    }

    free(body);
    free(scratch);

    return 0;
}
