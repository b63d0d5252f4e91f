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
    u_char  *last;

    if (len == 0 || len > NGX_HTTP_CLAWD_TOKEN_MAX) {
        return NGX_DECLINED;
    }

    for (last = p + len; p < last; p++) {
        if (*p <= 0x20 || *p >= 0x7f || *p == ',') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}
