/*
 * Copyright (C) clawd authors
 *
 * What an admin writes of keys, users and plans: fields are read strictly, so
 * that a slip denies and never widens.
 */

#ifndef _NGX_HTTP_CLAWD_RECORD_H_INCLUDED_
#define _NGX_HTTP_CLAWD_RECORD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_calendar.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_NAME_LEN     64    /* of users and plans */
#define NGX_HTTP_CLAWD_LABEL_MAX    128   /* of a label for people */
#define NGX_HTTP_CLAWD_MODELS_LEN   1024  /* of an allow-list */

#define NGX_HTTP_CLAWD_LIMIT_MAX    1000000000000LL

/* of a limit */
#define NGX_HTTP_CLAWD_UNLIMITED    (-1)
#define NGX_HTTP_CLAWD_UNSET        (-2)


typedef enum {
    NGX_HTTP_CLAWD_LIMIT_CONCURRENCY = 0,
    NGX_HTTP_CLAWD_LIMIT_RPM,
    NGX_HTTP_CLAWD_LIMIT_TPM,
    NGX_HTTP_CLAWD_LIMIT_DAY,
    NGX_HTTP_CLAWD_LIMIT_MONTH,
    NGX_HTTP_CLAWD_LIMITS
} ngx_http_clawd_limit_e;


/* as written in records: concurrency, rpm, tpm, tokens_per_day, … */

extern ngx_str_t  ngx_http_clawd_limit_names[NGX_HTTP_CLAWD_LIMITS];


/* what kind of record; also its place in names "clawd:key:…" */

typedef enum {
    NGX_HTTP_CLAWD_RECORD_KEY = 0,     /* user name expires disabled models */
    NGX_HTTP_CLAWD_RECORD_USER,        /* plan role disabled epoch, and… */
    NGX_HTTP_CLAWD_RECORD_PLAN,        /* …limits models priority tz */
    NGX_HTTP_CLAWD_RECORDS
} ngx_http_clawd_record_e;


/* strings point to the texts given, or into the buffer of unpack() */

typedef struct {
    int64_t                  limits[NGX_HTTP_CLAWD_LIMITS];
    int64_t                  expires;      /* seconds since 1970; 0: never */
    int64_t                  epoch;
    int64_t                  priority;     /* 0 .. 100, or UNSET */

    ngx_str_t                user;
    ngx_str_t                plan;         /* empty: the default one */
    ngx_str_t                models;       /* globs; data NULL: all models */
    ngx_str_t                tz;           /* empty: not given */
    ngx_str_t                name;         /* a label for people */

    ngx_str_t                fault;        /* static text: why it is invalid */
    ngx_str_t                field;        /* …and the name of the field, up to
                                              NAME_LEN of any bytes */

    uint32_t                 seen;         /* private: fields taken */

    unsigned                 found:1;      /* there is such a record */
    unsigned                 invalid:1;    /* …and it can't be used */
    unsigned                 disabled:1;
    unsigned                 admin:1;      /* role admin */
} ngx_http_clawd_record_t;


/* bytes that hold any packed record */
#define NGX_HTTP_CLAWD_RECORD_SIZE                                            \
    (128 + 2 * NGX_HTTP_CLAWD_NAME_LEN + NGX_HTTP_CLAWD_LABEL_MAX             \
     + NGX_HTTP_CLAWD_TZ_LEN + NGX_HTTP_CLAWD_MODELS_LEN)


/* An empty record: nothing found, all limits and the priority unset. */
void ngx_http_clawd_record_init(ngx_http_clawd_record_t *rec);

/*
 * Takes one field; rec->found is set.  NGX_OK, or NGX_ERROR with rec->invalid,
 * rec->fault and rec->field set, which tell of the first fault: an unknown
 * name, a name that does not belong to this kind or came before, a value that
 * is not of the field's form.  Limits are decimal digits up to LIMIT_MAX, or
 * "unlimited"; expires, epoch and priority decimal; disabled and role by their
 * words (0 1 no yes false true off on; user admin).  Names of users and plans
 * are 1 to 64 of A-Z a-z 0-9 . _ @ + -.  "*" as models is all of them, an
 * empty text none.  tz is looked at for its form only.
 */
ngx_int_t ngx_http_clawd_record_field(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_str_t *value);

/*
 * All fields have come: what must be there is (a key has a user).  NGX_OK,
 * also if there were none at all, or NGX_ERROR as above.
 */
ngx_int_t ngx_http_clawd_record_end(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_record_e kind);

/* 1 to 64 of A-Z a-z 0-9 . _ @ + -: NGX_OK or NGX_ERROR. */
ngx_int_t ngx_http_clawd_name_valid(ngx_str_t *name);

/*
 * Whether a list of globs (separated by spaces or commas; "*" any run, "?"
 * any one character; compared without case, against the canonical label and,
 * for "name:latest", the label that lacks it) allows a model.  Linear in the
 * name for each glob; never backtracks more than the last "*".  A NULL list
 * allows all.
 */
ngx_uint_t ngx_http_clawd_models_allow(ngx_str_t *models, ngx_str_t *label);

/*
 * Packs into at most RECORD_SIZE bytes and returns the end; unpacks, the
 * strings staying in src.  NGX_ERROR if src is no packed record.  Of an invalid
 * record the fault and the field are kept alone.
 */
u_char *ngx_http_clawd_record_pack(ngx_http_clawd_record_t *rec, u_char *dst);
ngx_int_t ngx_http_clawd_record_unpack(ngx_http_clawd_record_t *rec,
    u_char *src, size_t len);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_RECORD_H_INCLUDED_ */
