/*
 * Copyright (C) clawd authors
 *
 * The registry: counters and histograms of all workers in the shared zone.
 * Adding is lock-free; only the first sight of a model or user takes the
 * mutex.  Nothing is ever removed, so an index stays good for the life of the
 * zone, over reloads too.
 */

#ifndef _NGX_HTTP_CLAWD_REGISTRY_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REGISTRY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_zone.h"
#include "ngx_http_clawd_error.h"
#include "ngx_http_clawd_histogram.h"


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_MODELS     65     /* with "other" at 0 */
#define NGX_HTTP_CLAWD_USERS      129    /* with "other" at 0 */

#define NGX_HTTP_CLAWD_OTHER      0

#define NGX_HTTP_CLAWD_CLASSES    6      /* 1xx to 5xx; at 0 what is none */

#define NGX_HTTP_CLAWD_LABEL_LEN  128

#define NGX_HTTP_CLAWD_ABSENT     (-1)   /* of a sample's int64_t fields */


/* error_type of clawdbot_model_error_total */

typedef enum {
    NGX_HTTP_CLAWD_FAIL_NONE = 0,
    NGX_HTTP_CLAWD_FAIL_TIMEOUT,
    NGX_HTTP_CLAWD_FAIL_CONNECT,
    NGX_HTTP_CLAWD_FAIL_UPSTREAM_4XX,
    NGX_HTTP_CLAWD_FAIL_UPSTREAM_5XX,
    NGX_HTTP_CLAWD_FAIL_RESET,
    NGX_HTTP_CLAWD_FAIL_INCOMPLETE,
    NGX_HTTP_CLAWD_FAIL_CLIENT_ABORT,
    NGX_HTTP_CLAWD_FAIL_INVALID_RESPONSE,
    NGX_HTTP_CLAWD_FAIL_QUOTA,
    NGX_HTTP_CLAWD_FAIL_MAX
} ngx_http_clawd_fail_e;


/* source of clawdbot_usage_source_total */

typedef enum {
    NGX_HTTP_CLAWD_SOURCE_NONE = 0,      /* there was nothing to count */
    NGX_HTTP_CLAWD_SOURCE_UPSTREAM,
    NGX_HTTP_CLAWD_SOURCE_COUNTED,
    NGX_HTTP_CLAWD_SOURCE_ESTIMATED,
    NGX_HTTP_CLAWD_SOURCE_MAX
} ngx_http_clawd_source_e;


/* what they are called, in labels and logs; empty for NONE */

extern ngx_str_t  ngx_http_clawd_fails[NGX_HTTP_CLAWD_FAIL_MAX];
extern ngx_str_t  ngx_http_clawd_sources[NGX_HTTP_CLAWD_SOURCE_MAX];


/*
 * What one request was, told once, when it is settled.  Times are in
 * microseconds, NGX_HTTP_CLAWD_ABSENT where there was no such thing: a request
 * that did not go upstream has none at all.
 */

typedef struct {
    ngx_uint_t               model;         /* index, by _model_find() */
    ngx_uint_t               user;          /* index, by _user() */
    ngx_uint_t               status;        /* as logged */
    ngx_http_clawd_fail_e    fail;
    ngx_http_clawd_source_e  source;

    int64_t                  duration;      /* whole request */
    int64_t                  upstream;      /* sent to last byte */
    int64_t                  connect;       /* to the upstream */
    int64_t                  first_token;   /* request's start to the first
                                               output token */
    int64_t                  generation;    /* first to last output token; of
                                               streams only */

    int64_t                  prompt_tokens;
    int64_t                  completion_tokens;

    ngx_str_t                id;            /* the request's; empty or longer
                                               than ID_LEN: no exemplar */
    uint64_t                 now;           /* milliseconds since the epoch */
} ngx_http_clawd_sample_t;


/* the start of each series in shared memory; written once, before it shows */

typedef struct {
    size_t                   len;
    u_char                   name[NGX_HTTP_CLAWD_LABEL_LEN];
} ngx_http_clawd_series_t;


/* The table only grows, under the mutex, and is read without. */

typedef struct {
    ngx_atomic_t             count;         /* with "other" at 0 */
    uint32_t                 hash[NGX_HTTP_CLAWD_USERS];
    ngx_http_clawd_series_t *series[NGX_HTTP_CLAWD_USERS];
} ngx_http_clawd_table_t;


/* the histograms of a model */

typedef enum {
    NGX_HTTP_CLAWD_HIST_DURATION = 0,       /* by class of status: 1xx… */
    NGX_HTTP_CLAWD_HIST_UPSTREAM = NGX_HTTP_CLAWD_CLASSES,
    NGX_HTTP_CLAWD_HIST_CONNECT,
    NGX_HTTP_CLAWD_HIST_FIRST_TOKEN,
    NGX_HTTP_CLAWD_HIST_PER_TOKEN,
    NGX_HTTP_CLAWD_HIST_RATE,
    NGX_HTTP_CLAWD_HIST_MAX
} ngx_http_clawd_hist_e;


typedef struct {
    ngx_http_clawd_series_t  series;
    u_char                   pad[64];       /* names apart from counters */

    ngx_atomic_t             requests;
    ngx_atomic_t             prompt_tokens;
    ngx_atomic_t             completion_tokens;
    ngx_atomic_t             fails[NGX_HTTP_CLAWD_FAIL_MAX];

    ngx_http_clawd_histogram_t  hists[NGX_HTTP_CLAWD_HIST_MAX];
} ngx_http_clawd_model_series_t;


typedef struct {
    ngx_http_clawd_series_t  series;
    u_char                   pad[64];

    ngx_atomic_t             requests;
    ngx_atomic_t             rejects;       /* by a quota */
    ngx_atomic_t             prompt_tokens;
    ngx_atomic_t             completion_tokens;
} ngx_http_clawd_user_series_t;


/* the area's shared part; its part in a process block is an array of
   ngx_atomic_t, the requests in flight by model */

typedef struct {
    ngx_http_clawd_table_t   models;
    ngx_http_clawd_table_t   users;

    u_char                   pad[64];

    ngx_atomic_t             sources[NGX_HTTP_CLAWD_SOURCE_MAX];
    ngx_atomic_t             rejects[NGX_HTTP_CLAWD_ERR_MAX];
    ngx_atomic_t             dropped;
    ngx_atomic_t             heard;         /* the last byte of an upstream,
                                               seconds since 1970; before the
                                               first, when the zone was made */
} ngx_http_clawd_registry_t;


/* for the list of areas of ngx_http_clawd_zone_add(): it must come first */

extern ngx_http_clawd_area_t  ngx_http_clawd_registry_area;


/*
 * In all functions below, zone is the view of a zone whose first area is
 * ngx_http_clawd_registry_area.  Any process may call them at any time after
 * the zone was made; none of them can fail.
 */


/*
 * The index of a model by its label (the canonical name), or
 * NGX_HTTP_CLAWD_OTHER when it is not known.  Lock-free.
 */
ngx_uint_t ngx_http_clawd_model_find(ngx_http_clawd_zone_t *zone,
    ngx_str_t *label);

/*
 * Makes a model known and returns its index; of a known one just the index.
 * To be called only when a provider declares it or a 2xx answered for it.
 * NGX_HTTP_CLAWD_OTHER when the table or the zone is full, which is counted in
 * clawdbot_series_dropped_total, or when the label is no good: empty, longer
 * than NGX_HTTP_CLAWD_LABEL_LEN, not UTF-8, or with control characters.
 */
ngx_uint_t ngx_http_clawd_model_learn(ngx_http_clawd_zone_t *zone,
    ngx_str_t *label);

/*
 * The index of an accepted user, who becomes known at once if there is room;
 * else as ngx_http_clawd_model_learn().
 */
ngx_uint_t ngx_http_clawd_user(ngx_http_clawd_zone_t *zone, ngx_str_t *name);

/*
 * Counts one request of an accepted user for a permitted model, once, when it
 * is settled: model and user requests, errors, tokens, the source of the usage,
 * and those of the histograms whose times are there.  The time per output
 * token is made of generation and completion_tokens (two at least), output
 * tokens per second of upstream and completion_tokens.
 */
void ngx_http_clawd_count_request(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_sample_t *sample);

/*
 * Counts a request refused for want of a user or a permitted model.  why is
 * NGX_HTTP_CLAWD_ERR_NONE when one of NGINX's own modules refused it.
 */
void ngx_http_clawd_count_reject(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_error_e why);

/*
 * Moves the number of requests in flight of a model: +1 when a request goes
 * on, -1 with the very same index when it is settled, even if the model became
 * known meanwhile.  What a killed worker had in flight goes with it.
 */
void ngx_http_clawd_count_in_flight(ngx_http_clawd_zone_t *zone,
    ngx_uint_t model, ngx_int_t n);

/*
 * An upstream has sent something: the whole of a long answer is counted at its
 * end alone, and until then a silent upstream looks like a busy one.
 */
void ngx_http_clawd_count_heard(ngx_http_clawd_zone_t *zone);

/*
 * For the exposition: the shared part; the number of entries of a table that
 * can be read; a model's requests in flight.
 */
ngx_http_clawd_registry_t *ngx_http_clawd_registry(
    ngx_http_clawd_zone_t *zone);
ngx_uint_t ngx_http_clawd_registry_count(ngx_http_clawd_table_t *table);
uint64_t ngx_http_clawd_registry_in_flight(ngx_http_clawd_zone_t *zone,
    ngx_uint_t model);

/* The scale of a histogram of a model. */
ngx_http_clawd_scale_e ngx_http_clawd_registry_scale(ngx_uint_t hist);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REGISTRY_H_INCLUDED_ */
