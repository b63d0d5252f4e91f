/*
 * Copyright (C) clawd authors
 *
 * An incremental JSON scanner: no DOM, no allocation, any split, bounded
 * memory.  It checks the whole grammar and reports only the values whose
 * path a table names.
 */

#ifndef _NGX_HTTP_CLAWD_JSON_H_INCLUDED_
#define _NGX_HTTP_CLAWD_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


/* nesting that is followed; one level more is an error */
#define NGX_HTTP_CLAWD_JSON_DEPTH      512

/* levels at which a path can match */
#define NGX_HTTP_CLAWD_JSON_PATH       10

/* bytes of a key that are compared; a longer key matches nothing */
#define NGX_HTTP_CLAWD_JSON_KEY        40

/* nodes of a table */
#define NGX_HTTP_CLAWD_JSON_NODES      64

/* bytes kept of a captured string or number, unescaped; the rest is counted */
#define NGX_HTTP_CLAWD_JSON_TEXT       256


/* node flags */

#define NGX_HTTP_CLAWD_JSON_CAPTURE    0x01   /* keep the scalar's text */
#define NGX_HTTP_CLAWD_JSON_CONTROL    0x02   /* once, and in this case only */
#define NGX_HTTP_CLAWD_JSON_STEP       0x04   /* leads on to others: neither
                                                 BEGIN nor END are told */
#define NGX_HTTP_CLAWD_JSON_NO_END     0x08   /* END is not told */


typedef enum {
    NGX_HTTP_CLAWD_JSON_NULL = 0,
    NGX_HTTP_CLAWD_JSON_FALSE,
    NGX_HTTP_CLAWD_JSON_TRUE,
    NGX_HTTP_CLAWD_JSON_NUMBER,
    NGX_HTTP_CLAWD_JSON_STRING,
    NGX_HTTP_CLAWD_JSON_ARRAY,
    NGX_HTTP_CLAWD_JSON_OBJECT
} ngx_http_clawd_json_type_e;


typedef enum {
    NGX_HTTP_CLAWD_JSON_AGAIN = 0,     /* all bytes consumed, value goes on */
    NGX_HTTP_CLAWD_JSON_SCALAR,        /* a scalar of the table ended */
    NGX_HTTP_CLAWD_JSON_BEGIN,         /* an array or object of it began */
    NGX_HTTP_CLAWD_JSON_END,           /* an array or object of it ended */
    NGX_HTTP_CLAWD_JSON_DONE,          /* the root value ended at *pos */
    NGX_HTTP_CLAWD_JSON_ERROR          /* see error; final */
} ngx_http_clawd_json_event_e;


typedef enum {
    NGX_HTTP_CLAWD_JSON_OK = 0,
    NGX_HTTP_CLAWD_JSON_SYNTAX,        /* not JSON (BOM, raw control byte…) */
    NGX_HTTP_CLAWD_JSON_TOO_DEEP,
    NGX_HTTP_CLAWD_JSON_DUPLICATE,     /* a CONTROL key a second time */
    NGX_HTTP_CLAWD_JSON_FOLDED         /* a key that only folds to one */
} ngx_http_clawd_json_error_e;


/*
 * A path table: node 0 is the root value; each further node names its parent
 * (a lower index) and its key, or "*" for every element of an array.  Keys are
 * compared after unescaping.  For CONTROL nodes a second occurrence in the
 * same object, and a key that equals it only under Unicode simple folding
 * (ASCII case, U+017F for s, U+212A for k), are errors.
 */

typedef struct {
    ngx_str_t                    key;
    u_char                       parent;
    u_char                       flags;
} ngx_http_clawd_json_node_t;


/*
 * A table with the index by which keys are found, made when it is first used:
 * static in its room, of one process.
 */

typedef struct {
    const ngx_http_clawd_json_node_t  *nodes;
    ngx_uint_t                   nnodes;

    /* private */

    ngx_uint_t                   indexed;     /* unsigned  indexed:1; */
    uint64_t                     parents;     /* nodes that have children */
    uint64_t                     controls;    /* …and CONTROL ones */
    u_char                       heads[NGX_HTTP_CLAWD_JSON_NODES];
    u_char                       nexts[NGX_HTTP_CLAWD_JSON_NODES];
} ngx_http_clawd_json_table_t;


#define ngx_http_clawd_json_table(nodes)                                      \
    { nodes, sizeof(nodes) / sizeof((nodes)[0]), 0, 0, 0, { 0 }, { 0 } }


typedef struct {
    const ngx_http_clawd_json_table_t  *table;

    /* the last event; offsets count from the first byte ever scanned */

    ngx_uint_t                   node;
    ngx_http_clawd_json_type_e   type;
    ngx_http_clawd_json_error_e  error;
    off_t                        key_start;   /* its opening quote; elements
                                                 have none */
    off_t                        start;       /* first byte of the value */
    off_t                        end;         /* one past its last byte */
    off_t                        size;        /* bytes of a string's inside */

    /* private: how far the scan is */

    ngx_http_clawd_json_event_e  event;       /* what to tell, or AGAIN */
    off_t                        offset;
    u_char                      *origin;      /* of the running call */
    off_t                        begin[NGX_HTTP_CLAWD_JSON_PATH];
    uint64_t                     seen;        /* CONTROL nodes met */
    uint32_t                     code;        /* \uXXXX being read */
    uint32_t                     high;        /* a high surrogate before it */
    uint16_t                     depth;
    uint16_t                     matched;     /* levels with a node */
    uint16_t                     text_len;
    u_char                       key_len;
    u_char                       state;
    u_char                       sub;         /* within a literal, number… */
    u_char                       escape;      /* within an escape */
    u_char                       object;      /* what is open is one */
    u_char                       known;       /* members or elements of what
                                                 is open can have a node */
    u_char                       current;     /* node of the value, or NONE */
    u_char                       path[NGX_HTTP_CLAWD_JSON_PATH];
    u_char                       stack[NGX_HTTP_CLAWD_JSON_DEPTH / 8];
    u_char                       key[NGX_HTTP_CLAWD_JSON_KEY];

    /* a captured scalar: a string unescaped to UTF-8, or a number's text */

    u_char                       text[NGX_HTTP_CLAWD_JSON_TEXT];
    unsigned                     truncated:1; /* text holds only the head */
    unsigned                     invalid:1;   /* NUL, bad UTF-8, lone \uD8.. */
} ngx_http_clawd_json_t;


/*
 * Prepares a scan with a table, which must outlive it.  Cannot fail.  A scanner
 * may be initialised again for the next value.
 */
void ngx_http_clawd_json_init(ngx_http_clawd_json_t *js,
    ngx_http_clawd_json_table_t *table);

/*
 * Scans *pos .. last, moves *pos behind what it consumed and returns at the
 * next event.  After AGAIN *pos == last.  A root number ends only with a byte
 * that follows it: see ngx_http_clawd_json_eof().  After DONE nothing more is
 * consumed, not even white space.  After ERROR every call returns ERROR.
 */
ngx_http_clawd_json_event_e ngx_http_clawd_json_next(ngx_http_clawd_json_t *js,
    u_char **pos, u_char *last);

/*
 * Tells the scanner that no byte follows: returns DONE when the root value is
 * whole (also a root number, whose SCALAR event is not reported then), else
 * ERROR.
 */
ngx_http_clawd_json_event_e ngx_http_clawd_json_eof(ngx_http_clawd_json_t *js);

/*
 * The captured number as an integer in 0 .. 2^53, or -1 when it is negative,
 * has a fraction or an exponent, or is larger.  No call on other types.
 */
int64_t ngx_http_clawd_json_count(ngx_http_clawd_json_t *js);

/*
 * Skips the plain bytes of a string: returns the first of p .. last that is a
 * quote, a backslash or below 0x20, else last.  Reads no byte beyond last.
 */
u_char *ngx_http_clawd_json_skip(u_char *p, u_char *last);

/*
 * Unescapes the inside of a JSON string, src .. last, into dst, which holds
 * at least last - src bytes and may be src itself.  Returns the end of what
 * was written.  A lone surrogate or a broken \u becomes U+FFFD, another unknown
 * escape '?'; one that is cut leaves nothing.
 */
u_char *ngx_http_clawd_json_unescape(u_char *dst, u_char *src, u_char *last);

/*
 * Writes src .. last as the inside of a JSON string into dst .. end (quotes
 * are the caller's); control bytes are escaped, invalid UTF-8 becomes U+FFFD.
 * Stops before a character that does not fit.  Returns the end.
 */
u_char *ngx_http_clawd_json_escape(u_char *dst, u_char *end, u_char *src,
    u_char *last);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_JSON_H_INCLUDED_ */
