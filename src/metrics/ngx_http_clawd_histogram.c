/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_histogram.h"


#define NGX_HTTP_CLAWD_EXEMPLAR_AGE    1000                 /* ms */
#define NGX_HTTP_CLAWD_EXEMPLAR_TRIES  3

/* keeps sums from running over: 31 years in seconds */
#define NGX_HTTP_CLAWD_HISTOGRAM_MAX   1000000000000000ULL


static void ngx_http_clawd_exemplar_write(ngx_http_clawd_exemplar_t *e,
    uint64_t value, ngx_str_t *id, uint64_t now);
static void ngx_http_clawd_exemplar_read(ngx_http_clawd_exemplar_t *e,
    ngx_http_clawd_exemplar_t *copy);


#define ngx_http_clawd_inf  { (uint64_t) -1, ngx_string("+Inf") }


static const ngx_http_clawd_bound_t  ngx_http_clawd_scale_fine[] = {
    {      5000, ngx_string("0.005") },
    {     10000, ngx_string("0.01") },
    {     25000, ngx_string("0.025") },
    {     50000, ngx_string("0.05") },

    /* from here on the scale of durations */

    {    100000, ngx_string("0.1") },
    {    250000, ngx_string("0.25") },
    {    500000, ngx_string("0.5") },
    {   1000000, ngx_string("1.0") },
    {   1500000, ngx_string("1.5") },
    {   2000000, ngx_string("2.0") },
    {   3000000, ngx_string("3.0") },
    {   4000000, ngx_string("4.0") },
    {   5000000, ngx_string("5.0") },
    {   7500000, ngx_string("7.5") },
    {  10000000, ngx_string("10.0") },
    {  15000000, ngx_string("15.0") },
    {  30000000, ngx_string("30.0") },
    {  60000000, ngx_string("60.0") },
    { 120000000, ngx_string("120.0") },
    { 300000000, ngx_string("300.0") },
    { 600000000, ngx_string("600.0") },
    ngx_http_clawd_inf
};

#define NGX_HTTP_CLAWD_FINE_ONLY  4


/* 1000 to 0.4 tokens a second */

static const ngx_http_clawd_bound_t  ngx_http_clawd_scale_per_token[] = {
    {      1000, ngx_string("0.001") },
    {      2500, ngx_string("0.0025") },
    {      5000, ngx_string("0.005") },
    {     10000, ngx_string("0.01") },
    {     15000, ngx_string("0.015") },
    {     20000, ngx_string("0.02") },
    {     25000, ngx_string("0.025") },
    {     30000, ngx_string("0.03") },
    {     40000, ngx_string("0.04") },
    {     50000, ngx_string("0.05") },
    {     75000, ngx_string("0.075") },
    {    100000, ngx_string("0.1") },
    {    150000, ngx_string("0.15") },
    {    200000, ngx_string("0.2") },
    {    300000, ngx_string("0.3") },
    {    500000, ngx_string("0.5") },
    {    750000, ngx_string("0.75") },
    {   1000000, ngx_string("1.0") },
    {   2500000, ngx_string("2.5") },
    ngx_http_clawd_inf
};


static const ngx_http_clawd_bound_t  ngx_http_clawd_scale_rate[] = {
    {    1000000, ngx_string("1.0") },
    {    2000000, ngx_string("2.0") },
    {    5000000, ngx_string("5.0") },
    {   10000000, ngx_string("10.0") },
    {   15000000, ngx_string("15.0") },
    {   20000000, ngx_string("20.0") },
    {   30000000, ngx_string("30.0") },
    {   40000000, ngx_string("40.0") },
    {   50000000, ngx_string("50.0") },
    {   75000000, ngx_string("75.0") },
    {  100000000, ngx_string("100.0") },
    {  150000000, ngx_string("150.0") },
    {  200000000, ngx_string("200.0") },
    {  300000000, ngx_string("300.0") },
    {  500000000, ngx_string("500.0") },
    {  750000000, ngx_string("750.0") },
    { 1000000000, ngx_string("1000.0") },
    { 2500000000, ngx_string("2500.0") },
    ngx_http_clawd_inf
};


#define ngx_http_clawd_nbounds(a)  (sizeof(a) / sizeof(ngx_http_clawd_bound_t))


const ngx_http_clawd_bound_t *
ngx_http_clawd_histogram_bounds(ngx_http_clawd_scale_e scale, ngx_uint_t *n)
{
    switch (scale) {

    case NGX_HTTP_CLAWD_SCALE_PER_TOKEN:
        *n = ngx_http_clawd_nbounds(ngx_http_clawd_scale_per_token);
        return ngx_http_clawd_scale_per_token;

    case NGX_HTTP_CLAWD_SCALE_RATE:
        *n = ngx_http_clawd_nbounds(ngx_http_clawd_scale_rate);
        return ngx_http_clawd_scale_rate;

    case NGX_HTTP_CLAWD_SCALE_FINE:
        *n = ngx_http_clawd_nbounds(ngx_http_clawd_scale_fine);
        return ngx_http_clawd_scale_fine;

    default: /* NGX_HTTP_CLAWD_SCALE_DURATION */
        *n = ngx_http_clawd_nbounds(ngx_http_clawd_scale_fine)
             - NGX_HTTP_CLAWD_FINE_ONLY;
        return ngx_http_clawd_scale_fine + NGX_HTTP_CLAWD_FINE_ONLY;
    }
}


void
ngx_http_clawd_histogram_add(ngx_http_clawd_histogram_t *h,
    ngx_http_clawd_scale_e scale, uint64_t value, ngx_str_t *id, uint64_t now)
{
    ngx_uint_t                     i, n;
    const ngx_http_clawd_bound_t  *bounds;

    if (value > NGX_HTTP_CLAWD_HISTOGRAM_MAX) {
        value = NGX_HTTP_CLAWD_HISTOGRAM_MAX;
    }

    bounds = ngx_http_clawd_histogram_bounds(scale, &n);

    for (i = 0; i < n - 1; i++) {
        if (value <= bounds[i].value) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&h->sum, value);
    (void) ngx_atomic_fetch_add(&h->buckets[i], 1);

    /* an unsigned age: a clock set back makes the exemplar old */

    if (id->len && now - h->exemplar.time >= NGX_HTTP_CLAWD_EXEMPLAR_AGE) {
        ngx_http_clawd_exemplar_write(&h->exemplar, value, id, now);
    }
}


static void
ngx_http_clawd_exemplar_write(ngx_http_clawd_exemplar_t *e, uint64_t value,
    ngx_str_t *id, uint64_t now)
{
    if (id->len > NGX_HTTP_CLAWD_ID_LEN) {
        return;
    }

    if (!ngx_atomic_cmp_set(&e->owner, 0, ngx_pid)) {
        return;
    }

    e->value = value;
    e->time = now;
    e->len = id->len;
    ngx_memcpy(e->id, id->data, id->len);

    /* seq must have changed before the lock is seen open */

    ngx_memory_barrier();
    e->seq++;
    ngx_memory_barrier();
    e->owner = 0;
}


static void
ngx_http_clawd_exemplar_read(ngx_http_clawd_exemplar_t *e,
    ngx_http_clawd_exemplar_t *copy)
{
    ngx_uint_t         i;
    ngx_atomic_uint_t  seq;

    for (i = 0; i < NGX_HTTP_CLAWD_EXEMPLAR_TRIES; i++) {
        seq = e->seq;

        if (seq == 0) {
            break;
        }

        ngx_memory_barrier();

        ngx_memcpy(copy, e, sizeof(ngx_http_clawd_exemplar_t));

        /* the lock first: a writer changes seq before it opens it */

        ngx_memory_barrier();

        if (e->owner == 0) {
            ngx_memory_barrier();

            if (e->seq == seq && copy->len <= NGX_HTTP_CLAWD_ID_LEN) {
                return;
            }
        }
    }

    copy->len = 0;
}


uint64_t
ngx_http_clawd_histogram_read(ngx_http_clawd_histogram_t *h,
    ngx_http_clawd_scale_e scale, ngx_http_clawd_snapshot_t *s)
{
    uint64_t    count;
    ngx_uint_t  i, n;

    (void) ngx_http_clawd_histogram_bounds(scale, &n);

    count = 0;

    for (i = 0; i < n; i++) {
        count += h->buckets[i];
        s->buckets[i] = count;
    }

    s->sum = h->sum;

    ngx_http_clawd_exemplar_read(&h->exemplar, &s->exemplar);

    return count;
}


void
ngx_http_clawd_histogram_reap(ngx_http_clawd_histogram_t *h, ngx_pid_t pid)
{
    if (h->exemplar.owner == (ngx_atomic_uint_t) pid) {
        h->exemplar.seq = 0;
        h->exemplar.time = 0;
        ngx_memory_barrier();
        h->exemplar.owner = 0;
    }
}
