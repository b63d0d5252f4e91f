/*
 * Copyright (C) clawd authors
 *
 * Replies of Redis (RESP2), read in bounded memory.  Whatever a server sends
 * is either a reply within these bounds or an error that ends the connection.
 */

#ifndef _NGX_HTTP_CLAWD_RESP_H_INCLUDED_
#define _NGX_HTTP_CLAWD_RESP_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_RESP_ITEMS   1024     /* values of a reply, in all */
#define NGX_HTTP_CLAWD_RESP_DEPTH   3        /* arrays in arrays */
#define NGX_HTTP_CLAWD_RESP_LINE    1024
#define NGX_HTTP_CLAWD_RESP_BULK    65536
#define NGX_HTTP_CLAWD_RESP_SIZE    262144   /* bytes of a reply */


typedef enum {
    NGX_HTTP_CLAWD_RESP_STATUS = 0,    /* +text */
    NGX_HTTP_CLAWD_RESP_ERROR,         /* -text */
    NGX_HTTP_CLAWD_RESP_INTEGER,       /* :n */
    NGX_HTTP_CLAWD_RESP_BULK_STRING,   /* $n */
    NGX_HTTP_CLAWD_RESP_NIL,           /* $-1 and *-1 */
    NGX_HTTP_CLAWD_RESP_ARRAY          /* *n */
} ngx_http_clawd_resp_type_e;


typedef struct {
    ngx_http_clawd_resp_type_e  type;
    int64_t                     integer;   /* of an array: its elements */
    ngx_str_t                   text;      /* points into the bytes read */
} ngx_http_clawd_resp_item_t;


/* a reply: items in the order of the wire, an array before its elements */

typedef struct {
    ngx_uint_t                  nitems;
    ngx_http_clawd_resp_item_t  items[NGX_HTTP_CLAWD_RESP_ITEMS];
} ngx_http_clawd_resp_t;


/*
 * Reads one reply from the start of p .. last.  NGX_OK: *end is behind it.
 * NGX_AGAIN: it is not whole yet; *need is how many bytes from p on are needed
 * at least: to look again sooner is of no use.  NGX_ERROR: it is none, or out
 * of bounds.
 *
 * Integers and lengths are decimal without "+" and leading zeros; of lengths
 * only -1 is negative.  A line has no CR or LF in it, and is not longer than
 * RESP_LINE without its type and line break.
 */
ngx_int_t ngx_http_clawd_resp_read(ngx_http_clawd_resp_t *resp, u_char *p,
    u_char *last, u_char **end, size_t *need);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_RESP_H_INCLUDED_ */
