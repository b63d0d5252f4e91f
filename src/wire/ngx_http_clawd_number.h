/*
 * Copyright (C) clawd authors
 *
 * Numbers as text, for files that link with nothing of NGINX.
 */

#ifndef _NGX_HTTP_CLAWD_NUMBER_H_INCLUDED_
#define _NGX_HTTP_CLAWD_NUMBER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* Writes n in decimal, 20 bytes at most, and returns the end. */

static ngx_inline u_char *
ngx_http_clawd_number(u_char *p, uint64_t n)
{
    size_t       len;
    u_char      *last;
    const char  *pair;

    /* two digits at a time: divisions are what it costs */

    static const char  pairs[] =
        "0001020304050607080910111213141516171819"
        "2021222324252627282930313233343536373839"
        "4041424344454647484950515253545556575859"
        "6061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";

    static const uint64_t  powers[] = {
        1ULL, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL,
        10000000ULL, 100000000ULL, 1000000000ULL, 10000000000ULL,
        100000000000ULL, 1000000000000ULL, 10000000000000ULL,
        100000000000000ULL, 1000000000000000ULL, 10000000000000000ULL,
        100000000000000000ULL, 1000000000000000000ULL,
        10000000000000000000ULL
    };

    /* the decimal logarithm is 0.301 of the binary one, or one more */

    len = (64 - __builtin_clzll(n | 1)) * 1233 >> 12;
    len += ((n | 1) >= powers[len]);

    last = p + len;

    while (n >= 100) {
        pair = &pairs[2 * (n % 100)];
        n /= 100;

        *--last = pair[1];
        *--last = pair[0];
    }

    if (n >= 10) {
        *--last = pairs[2 * n + 1];
        *--last = pairs[2 * n];

    } else {
        *--last = (u_char) ('0' + n);
    }

    return p + len;
}


#endif /* _NGX_HTTP_CLAWD_NUMBER_H_INCLUDED_ */
