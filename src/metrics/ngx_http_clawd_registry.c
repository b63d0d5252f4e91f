/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_registry.h"
#include "ngx_http_clawd_text.h"


#define NGX_HTTP_CLAWD_REGISTRY_VERSION  3
#define NGX_HTTP_CLAWD_REGISTRY_PLACE    0    /* in the list of areas */

/* pages that names must leave to the blocks of processes */
#define NGX_HTTP_CLAWD_PAGES_KEPT        4

/* no honest request has more; keeps what an upstream claims from a wrap */
#define NGX_HTTP_CLAWD_TOKENS_MAX        1000000000


static ngx_int_t ngx_http_clawd_registry_init(ngx_http_clawd_zone_t *zone,
    void *area);
static void ngx_http_clawd_registry_reap(void *area, void *part,
    ngx_pid_t pid);
static ngx_int_t ngx_http_clawd_series_find(ngx_http_clawd_table_t *table,
    ngx_str_t *name, uint32_t hash);
static ngx_uint_t ngx_http_clawd_series_learn(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_table_t *table, ngx_uint_t max, size_t size,
    ngx_str_t *name);
static ngx_int_t ngx_http_clawd_series_add(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_table_t *table, size_t size, ngx_str_t *name,
    uint32_t hash);
static uint32_t ngx_http_clawd_series_hash(ngx_str_t *name);
static void ngx_http_clawd_count_times(ngx_http_clawd_model_series_t *m,
    ngx_http_clawd_sample_t *sample, uint64_t completion);
static void ngx_http_clawd_count_time(ngx_http_clawd_model_series_t *m,
    ngx_uint_t hist, int64_t value, ngx_http_clawd_sample_t *sample);
static uint64_t ngx_http_clawd_tokens(int64_t n);


ngx_http_clawd_area_t  ngx_http_clawd_registry_area = {
    "metrics",
    NGX_HTTP_CLAWD_REGISTRY_VERSION,
    sizeof(ngx_http_clawd_registry_t),
    NGX_HTTP_CLAWD_MODELS * sizeof(ngx_atomic_t),
    ngx_http_clawd_registry_init,
    ngx_http_clawd_registry_reap
};


static ngx_str_t  ngx_http_clawd_other = ngx_string("other");


ngx_http_clawd_registry_t *
ngx_http_clawd_registry(ngx_http_clawd_zone_t *zone)
{
    return ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_REGISTRY_PLACE);
}


ngx_http_clawd_scale_e
ngx_http_clawd_registry_scale(ngx_uint_t hist)
{
    switch (hist) {

    case NGX_HTTP_CLAWD_HIST_CONNECT:
    case NGX_HTTP_CLAWD_HIST_FIRST_TOKEN:
        return NGX_HTTP_CLAWD_SCALE_FINE;

    case NGX_HTTP_CLAWD_HIST_PER_TOKEN:
        return NGX_HTTP_CLAWD_SCALE_PER_TOKEN;

    case NGX_HTTP_CLAWD_HIST_RATE:
        return NGX_HTTP_CLAWD_SCALE_RATE;

    default:
        return NGX_HTTP_CLAWD_SCALE_DURATION;
    }
}


/* "other" is there from the start, and its name leads to it. */

static ngx_int_t
ngx_http_clawd_registry_init(ngx_http_clawd_zone_t *zone, void *area)
{
    ngx_http_clawd_registry_t *registry = area;

    uint32_t   hash;
    ngx_int_t  rc;

    registry->heard = (ngx_atomic_uint_t) ngx_time();

    hash = ngx_http_clawd_series_hash(&ngx_http_clawd_other);

    ngx_shmtx_lock(&zone->shpool->mutex);

    rc = ngx_http_clawd_series_add(zone, &registry->models,
                                   sizeof(ngx_http_clawd_model_series_t),
                                   &ngx_http_clawd_other, hash);

    if (rc != NGX_ERROR) {
        rc = ngx_http_clawd_series_add(zone, &registry->users,
                                       sizeof(ngx_http_clawd_user_series_t),
                                       &ngx_http_clawd_other, hash);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return (rc == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


static void
ngx_http_clawd_registry_reap(void *area, void *part, ngx_pid_t pid)
{
    ngx_http_clawd_registry_t *registry = area;

    ngx_uint_t                      i, n, count;
    ngx_http_clawd_model_series_t  *m;

    count = ngx_http_clawd_registry_count(&registry->models);

    for (i = 0; i < count; i++) {
        m = (ngx_http_clawd_model_series_t *) registry->models.series[i];

        for (n = 0; n < NGX_HTTP_CLAWD_HIST_MAX; n++) {
            ngx_http_clawd_histogram_reap(&m->hists[n], pid);
        }
    }
}


ngx_uint_t
ngx_http_clawd_model_find(ngx_http_clawd_zone_t *zone, ngx_str_t *label)
{
    ngx_int_t                   i;
    ngx_http_clawd_registry_t  *registry;

    registry = ngx_http_clawd_registry(zone);

    i = ngx_http_clawd_series_find(&registry->models, label,
                                   ngx_http_clawd_series_hash(label));

    return (i == NGX_DECLINED) ? NGX_HTTP_CLAWD_OTHER : (ngx_uint_t) i;
}


ngx_uint_t
ngx_http_clawd_model_learn(ngx_http_clawd_zone_t *zone, ngx_str_t *label)
{
    return ngx_http_clawd_series_learn(zone,
                                  &ngx_http_clawd_registry(zone)->models,
                                  NGX_HTTP_CLAWD_MODELS,
                                  sizeof(ngx_http_clawd_model_series_t),
                                  label);
}


ngx_uint_t
ngx_http_clawd_user(ngx_http_clawd_zone_t *zone, ngx_str_t *name)
{
    return ngx_http_clawd_series_learn(zone,
                                  &ngx_http_clawd_registry(zone)->users,
                                  NGX_HTTP_CLAWD_USERS,
                                  sizeof(ngx_http_clawd_user_series_t),
                                  name);
}


/* The index of a name, or NGX_DECLINED. */

static ngx_int_t
ngx_http_clawd_series_find(ngx_http_clawd_table_t *table, ngx_str_t *name,
    uint32_t hash)
{
    ngx_uint_t                i, n;
    ngx_http_clawd_series_t  *series;

    n = table->count;

    for (i = 0; i < n; i++) {

        if (table->hash[i] != hash) {
            continue;
        }

        /* where loads are not kept in order, the pointer may come later */

        series = table->series[i];

        if (series
            && series->len == name->len
            && ngx_memcmp(series->name, name->data, name->len) == 0)
        {
            return i;
        }
    }

    return NGX_DECLINED;
}


/* The index of a name, which is added if it is new and good. */

static ngx_uint_t
ngx_http_clawd_series_learn(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_table_t *table, ngx_uint_t max, size_t size,
    ngx_str_t *name)
{
    uint32_t   hash;
    ngx_int_t  i;

    hash = ngx_http_clawd_series_hash(name);

    i = ngx_http_clawd_series_find(table, name, hash);

    if (i != NGX_DECLINED) {
        return i;
    }

    if (table->count < max
        && name->len <= NGX_HTTP_CLAWD_LABEL_LEN
        && ngx_http_clawd_text_label_valid(name))
    {
        ngx_shmtx_lock(&zone->shpool->mutex);

        i = ngx_http_clawd_series_find(table, name, hash);

        if (i == NGX_DECLINED && table->count < max) {
            i = ngx_http_clawd_series_add(zone, table, size, name, hash);
        }

        ngx_shmtx_unlock(&zone->shpool->mutex);

        if (i >= 0) {
            return i;
        }
    }

    (void) ngx_atomic_fetch_add(&ngx_http_clawd_registry(zone)->dropped, 1);

    return NGX_HTTP_CLAWD_OTHER;
}


/*
 * Adds a series at the end of the table and returns its index, or NGX_ERROR
 * for want of room; under the mutex.  A process killed in here leaves the table
 * as it was, and at worst one block of the zone unused.
 */

static ngx_int_t
ngx_http_clawd_series_add(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_table_t *table, size_t size, ngx_str_t *name, uint32_t hash)
{
    ngx_uint_t                i;
    ngx_http_clawd_series_t  *series;

    if (zone->shpool->pfree <= NGX_HTTP_CLAWD_PAGES_KEPT) {
        return NGX_ERROR;
    }

    series = ngx_slab_calloc_locked(zone->shpool, size);
    if (series == NULL) {
        return NGX_ERROR;
    }

    series->len = name->len;
    ngx_memcpy(series->name, name->data, name->len);

    i = table->count;

    table->hash[i] = hash;
    table->series[i] = series;

    ngx_memory_barrier();

    table->count = i + 1;

    return i;
}


/* FNV-1a: names are short, and the full table is small */

static uint32_t
ngx_http_clawd_series_hash(ngx_str_t *name)
{
    size_t    i;
    uint32_t  hash;

    hash = 2166136261u;

    for (i = 0; i < name->len; i++) {
        hash = (hash ^ name->data[i]) * 16777619u;
    }

    return hash;
}


void
ngx_http_clawd_count_request(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_sample_t *sample)
{
    uint64_t                        prompt, completion;
    ngx_http_clawd_registry_t      *registry;
    ngx_http_clawd_user_series_t   *u;
    ngx_http_clawd_model_series_t  *m;

    registry = ngx_http_clawd_registry(zone);

    m = (ngx_http_clawd_model_series_t *)
                                       registry->models.series[sample->model];
    u = (ngx_http_clawd_user_series_t *) registry->users.series[sample->user];

    (void) ngx_atomic_fetch_add(&m->requests, 1);
    (void) ngx_atomic_fetch_add(&u->requests, 1);

    if (sample->fail != NGX_HTTP_CLAWD_FAIL_NONE) {
        (void) ngx_atomic_fetch_add(&m->fails[sample->fail], 1);
    }

    if (sample->fail == NGX_HTTP_CLAWD_FAIL_QUOTA) {
        (void) ngx_atomic_fetch_add(&u->rejects, 1);
    }

    if (sample->source != NGX_HTTP_CLAWD_SOURCE_NONE) {
        (void) ngx_atomic_fetch_add(&registry->sources[sample->source], 1);
    }

    prompt = ngx_http_clawd_tokens(sample->prompt_tokens);
    completion = ngx_http_clawd_tokens(sample->completion_tokens);

    if (prompt) {
        (void) ngx_atomic_fetch_add(&m->prompt_tokens, prompt);
        (void) ngx_atomic_fetch_add(&u->prompt_tokens, prompt);
    }

    if (completion) {
        (void) ngx_atomic_fetch_add(&m->completion_tokens, completion);
        (void) ngx_atomic_fetch_add(&u->completion_tokens, completion);
    }

    ngx_http_clawd_count_times(m, sample, completion);
}


static void
ngx_http_clawd_count_times(ngx_http_clawd_model_series_t *m,
    ngx_http_clawd_sample_t *sample, uint64_t completion)
{
    double      rate;
    ngx_uint_t  class;

    class = sample->status / 100;

    if (class >= NGX_HTTP_CLAWD_CLASSES) {
        class = 0;
    }

    ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_DURATION + class,
                              sample->duration, sample);
    ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_UPSTREAM,
                              sample->upstream, sample);
    ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_CONNECT,
                              sample->connect, sample);
    ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_FIRST_TOKEN,
                              sample->first_token, sample);

    /* what comes in one piece says nothing about the time between tokens */

    if (completion > 1 && sample->generation > 0) {
        ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_PER_TOKEN,
                                  sample->generation / (completion - 1),
                                  sample);
    }

    if (completion && sample->upstream > 0) {
        rate = completion * 1e12 / sample->upstream;

        ngx_http_clawd_count_time(m, NGX_HTTP_CLAWD_HIST_RATE,
                                  (int64_t) ngx_min(rate, 1e15), sample);
    }
}


static void
ngx_http_clawd_count_time(ngx_http_clawd_model_series_t *m, ngx_uint_t hist,
    int64_t value, ngx_http_clawd_sample_t *sample)
{
    if (value < 0) {
        return;
    }

    ngx_http_clawd_histogram_add(&m->hists[hist],
                                 ngx_http_clawd_registry_scale(hist), value,
                                 &sample->id, sample->now);
}


static uint64_t
ngx_http_clawd_tokens(int64_t n)
{
    return (n < 0) ? 0 : ngx_min(n, NGX_HTTP_CLAWD_TOKENS_MAX);
}


void
ngx_http_clawd_count_reject(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_error_e why)
{
    (void) ngx_atomic_fetch_add(&ngx_http_clawd_registry(zone)->rejects[why],
                                1);
}


void
ngx_http_clawd_count_in_flight(ngx_http_clawd_zone_t *zone, ngx_uint_t model,
    ngx_int_t n)
{
    ngx_atomic_t  *in_flight;

    if (zone->proc == NULL) {
        return;
    }

    in_flight = ngx_http_clawd_zone_part(zone, zone->proc,
                                         NGX_HTTP_CLAWD_REGISTRY_PLACE);

    /* the block is this process's alone to write */

    in_flight[model] += n;
}


void
ngx_http_clawd_count_heard(ngx_http_clawd_zone_t *zone)
{
    ngx_atomic_uint_t           now;
    ngx_http_clawd_registry_t  *registry;

    registry = ngx_http_clawd_registry(zone);
    now = (ngx_atomic_uint_t) ngx_time();

    /* written once a second: the line is shared with all workers' counters */

    if (registry->heard != now) {
        registry->heard = now;
    }
}


ngx_uint_t
ngx_http_clawd_registry_count(ngx_http_clawd_table_t *table)
{
    ngx_uint_t  n;

    n = table->count;

    /* an entry is filled before it is counted */

    ngx_memory_barrier();

    return n;
}


uint64_t
ngx_http_clawd_registry_in_flight(ngx_http_clawd_zone_t *zone,
    ngx_uint_t model)
{
    uint64_t                total;
    ngx_uint_t              slot;
    ngx_atomic_t           *in_flight;
    ngx_http_clawd_proc_t  *proc;

    slot = 0;
    total = 0;

    for ( ;; ) {
        proc = ngx_http_clawd_zone_next(zone, &slot);

        if (proc == NULL) {
            return total;
        }

        in_flight = ngx_http_clawd_zone_part(zone, proc,
                                             NGX_HTTP_CLAWD_REGISTRY_PLACE);
        total += in_flight[model];
    }
}
