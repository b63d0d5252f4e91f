/*
 * Copyright (C) clawd authors
 *
 * What is read or written of short texts, sixteen bytes or two digits at a
 * time: against the plain way, at every length and place.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_digest.h"
#include "ngx_http_clawd_number.h"


static void
test_token(void **state)
{
    int      c;
    size_t   at, len;
    u_char  *p;

    /* memory that ends where the token does */

    for (len = 1; len <= 50; len++) {
        p = malloc(len);
        assert_non_null(p);
        memset(p, 'k', len);

        for (at = 0; at < len; at++) {

            for (c = 0; c < 256; c++) {
                p[at] = (u_char) c;
                assert_int_equal(ngx_http_clawd_token_valid(p, len),
                                 (c > 0x20 && c < 0x7f && c != ',')
                                 ? NGX_OK : NGX_DECLINED);
            }

            p[at] = 'k';
        }

        free(p);
    }
}


static void
test_token_length(void **state)
{
    u_char  p[NGX_HTTP_CLAWD_TOKEN_MAX + 1];

    memset(p, 'k', sizeof(p));

    assert_int_equal(ngx_http_clawd_token_valid(p, 0), NGX_DECLINED);
    assert_int_equal(ngx_http_clawd_token_valid(p, sizeof(p) - 1), NGX_OK);
    assert_int_equal(ngx_http_clawd_token_valid(p, sizeof(p)), NGX_DECLINED);
}


static void
number(uint64_t n)
{
    char     want[32];
    u_char   got[32], *last;

    (void) snprintf(want, sizeof(want), "%llu", (unsigned long long) n);

    memset(got, 'x', sizeof(got));
    last = ngx_http_clawd_number(got, n);

    assert_int_equal(last - got, strlen(want));
    assert_memory_equal(got, want, strlen(want));
    assert_int_equal(*last, 'x');
}


static void
test_number(void **state)
{
    uint64_t  n;

    for (n = 0; n < 2000; n++) {
        number(n);
    }

    for (n = 1; n <= UINT64_MAX / 10; n *= 10) {
        number(n - 1);
        number(n);
        number(n + 1);
        number(n * 9 + 9);
    }

    number(n - 1);
    number(n);

    for (n = 1; n; n <<= 1) {
        number(n - 1);
        number(n);
    }

    number(UINT64_MAX);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_token_length),
        cmocka_unit_test(test_number)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
