/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_digest.h"

/*
 * EVP costs as much again as the hash of a short token, for what it offers on
 * top: NGINX, too, uses what OpenSSL 3 calls deprecated.
 */

#define OPENSSL_SUPPRESS_DEPRECATED

#include <openssl/crypto.h>
#include <openssl/sha.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif


ngx_int_t
ngx_http_clawd_digest(u_char *digest, u_char *p, size_t len)
{
    SHA256_CTX  ctx;

    if (SHA256_Init(&ctx) != 1
        || SHA256_Update(&ctx, p, len) != 1
        || SHA256_Final(digest, &ctx) != 1)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_clawd_digest_equal(const u_char *a, const u_char *b)
{
    return CRYPTO_memcmp(a, b, NGX_HTTP_CLAWD_DIGEST_LEN) == 0;
}


ngx_int_t
ngx_http_clawd_token_valid(u_char *p, size_t len)
{
    u_char   *last;
#if defined(__SSE2__)
    __m128i   v, good;
#endif

    if (len == 0 || len > NGX_HTTP_CLAWD_TOKEN_MAX) {
        return NGX_DECLINED;
    }

    last = p + len;

#if defined(__SSE2__)

    /* bytes from 0x80 on are below zero here */

    for ( /* void */ ; last - p >= 16; p += 16) {
        v = _mm_loadu_si128((const __m128i *) p);

        good = _mm_and_si128(_mm_cmpgt_epi8(v, _mm_set1_epi8(0x20)),
                             _mm_cmpgt_epi8(_mm_set1_epi8(0x7f), v));
        good = _mm_andnot_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8(',')), good);

        if (_mm_movemask_epi8(good) != 0xffff) {
            return NGX_DECLINED;
        }
    }

#endif

    for ( /* void */ ; p < last; p++) {
        if (*p <= 0x20 || *p >= 0x7f || *p == ',') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}
