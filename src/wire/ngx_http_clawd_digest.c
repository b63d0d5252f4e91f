/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>


/* of this process; fetching the digest at each use costs more than hashing */

static EVP_MD_CTX  *ngx_http_clawd_md_ctx;


static EVP_MD_CTX *
ngx_http_clawd_digest_ctx(void)
{
    EVP_MD_CTX  *ctx;

    if (ngx_http_clawd_md_ctx) {
        return ngx_http_clawd_md_ctx;
    }

    ctx = EVP_MD_CTX_new();
    if (ctx == NULL) {
        return NULL;
    }

    if (EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(ctx);
        return NULL;
    }

    ngx_http_clawd_md_ctx = ctx;

    return ctx;
}


ngx_int_t
ngx_http_clawd_digest(u_char *digest, u_char *p, size_t len)
{
    EVP_MD_CTX  *ctx;

    ctx = ngx_http_clawd_digest_ctx();
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    /* without a type the one fetched at the start is used again */

    if (EVP_DigestInit_ex(ctx, NULL, NULL) != 1
        || EVP_DigestUpdate(ctx, p, len) != 1
        || EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
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
