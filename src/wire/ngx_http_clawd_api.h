/*
 * Copyright (C) clawd authors
 *
 * The API families and the endpoints that the gateway knows.  Everything else
 * is refused.
 */

#ifndef _NGX_HTTP_CLAWD_API_H_INCLUDED_
#define _NGX_HTTP_CLAWD_API_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


/* whose error shape and habits a path follows */

typedef enum {
    NGX_HTTP_CLAWD_OPENAI = 0,         /* /v1/ and anything else */
    NGX_HTTP_CLAWD_ANTHROPIC,          /* /v1/messages… */
    NGX_HTTP_CLAWD_OLLAMA              /* /api/… */
} ngx_http_clawd_family_e;


/* what an answer looks like, hence how its usage is read */

typedef enum {
    NGX_HTTP_CLAWD_FORMAT_NONE = 0,    /* lists, admin answers: not metered */
    NGX_HTTP_CLAWD_FORMAT_CHAT,        /* /v1/chat/completions */
    NGX_HTTP_CLAWD_FORMAT_COMPLETIONS, /* /v1/completions */
    NGX_HTTP_CLAWD_FORMAT_RESPONSES,   /* /v1/responses */
    NGX_HTTP_CLAWD_FORMAT_MESSAGES,    /* /v1/messages */
    NGX_HTTP_CLAWD_FORMAT_NATIVE,      /* /api/chat, /api/generate, progress */
    NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS   /* /v1/embeddings, /api/embed(dings) */
} ngx_http_clawd_format_e;


/* who may call it */

typedef enum {
    NGX_HTTP_CLAWD_CLASS_INFER = 0,    /* any user; the body is judged */
    NGX_HTTP_CLAWD_CLASS_LIST,         /* any user; read only */
    NGX_HTTP_CLAWD_CLASS_ADMIN,        /* role=admin; passed as it is */
    NGX_HTTP_CLAWD_CLASS_USAGE         /* any user; the gateway answers */
} ngx_http_clawd_class_e;


#define NGX_HTTP_CLAWD_API_GET         0x01
#define NGX_HTTP_CLAWD_API_HEAD        0x02
#define NGX_HTTP_CLAWD_API_POST        0x04
#define NGX_HTTP_CLAWD_API_DELETE      0x08


typedef struct {
    ngx_str_t                uri;      /* a trailing '*': one more segment */
    ngx_uint_t               methods;
    ngx_http_clawd_class_e   class;
    ngx_http_clawd_format_e  format;
    ngx_str_t                allow;    /* the Allow header's value */
} ngx_http_clawd_api_t;


/*
 * The endpoint of a decoded, normalised path, or NULL when it is none.
 * Matching is exact and case-sensitive; "/x/" is not "/x".  A "*" stands for
 * one non-empty segment without a slash.
 */
const ngx_http_clawd_api_t *ngx_http_clawd_api_find(ngx_str_t *uri);

/* The family whose errors a path gets; known endpoint or not. */
ngx_http_clawd_family_e ngx_http_clawd_api_family(ngx_str_t *uri);

/*
 * NGX_OK when the raw path (without its query) may be trusted to mean what
 * its decoded form says; NGX_DECLINED for an encoded slash or percent sign, a
 * broken escape, and for a backslash, a control byte or a ';', raw or encoded.
 */
ngx_int_t ngx_http_clawd_api_raw_path(u_char *p, u_char *last);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_API_H_INCLUDED_ */
