/*
 * Copyright (C) clawd authors
 *
 * Tokens are kept and compared as SHA-256 digests alone.
 */

#ifndef _NGX_HTTP_CLAWD_DIGEST_H_INCLUDED_
#define _NGX_HTTP_CLAWD_DIGEST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_DIGEST_LEN  32
#define NGX_HTTP_CLAWD_TOKEN_MAX   4096


/* NGX_OK, or NGX_ERROR when the crypto library fails. */
ngx_int_t ngx_http_clawd_digest(u_char *digest, u_char *p, size_t len);

/* Equality of two digests in constant time: 1 or 0. */
ngx_uint_t ngx_http_clawd_digest_equal(const u_char *a, const u_char *b);

/*
 * NGX_OK when the bytes can be a token: 1 .. NGX_HTTP_CLAWD_TOKEN_MAX visible
 * ASCII characters without a comma (it would join two credentials).
 */
ngx_int_t ngx_http_clawd_token_valid(u_char *p, size_t len);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_DIGEST_H_INCLUDED_ */
