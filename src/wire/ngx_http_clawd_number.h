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
    u_char  *last, buf[20];

    last = buf + sizeof(buf);

    do {
        *--last = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n);

    return ngx_cpymem(p, last, buf + sizeof(buf) - last);
}


#endif /* _NGX_HTTP_CLAWD_NUMBER_H_INCLUDED_ */
