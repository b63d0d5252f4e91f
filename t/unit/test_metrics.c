/*
 * Copyright (C) clawd authors
 *
 * Zone, registry, histograms and exposition text, without NGINX: a slab pool
 * of ours, in memory that forked processes share, serves them, and what else
 * they need of NGINX stands below too.
 *
 * link: src/shm/ngx_http_clawd_zone.c
 * link: src/metrics/ngx_http_clawd_histogram.c
 * link: src/metrics/ngx_http_clawd_prometheus.c
 * link: src/metrics/ngx_http_clawd_registry.c
 * link: src/metrics/ngx_http_clawd_text.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sys/mman.h>
#include <sys/wait.h>
#include <sched.h>

#include "ngx_http_clawd_zone.h"
#include "ngx_http_clawd_text.h"
#include "ngx_http_clawd_registry.h"
#include "ngx_http_clawd_prometheus.h"

#include "exposition.h"


static ngx_time_t     test_now = { 1700000000, 0, 0 };
volatile ngx_time_t  *ngx_cached_time = &test_now;


#define TEST_PAGE  4096


/* NGINX, as far as it is needed */

ngx_pid_t    ngx_pid;
ngx_int_t    ngx_process_slot;
ngx_uint_t   ngx_pagesize = TEST_PAGE;

static char  test_logged[256];

/* an area after the registry's, if there is one */
static ngx_http_clawd_area_t  *test_second;


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    snprintf(test_logged, sizeof(test_logged), "%s", fmt);
}


void *
ngx_slab_calloc_locked(ngx_slab_pool_t *pool, size_t size)
{
    u_char  *p;

    /* as the slab does: small chunks or whole pages */

    size = ngx_align(size, size > TEST_PAGE / 2 ? TEST_PAGE : 64);

    if ((size_t) (pool->end - pool->start) < size) {
        return NULL;
    }

    p = pool->start;
    pool->start += size;
    pool->pfree = (pool->end - pool->start) / TEST_PAGE;

    return p;
}


void *
ngx_slab_calloc(ngx_slab_pool_t *pool, size_t size)
{
    return ngx_slab_calloc_locked(pool, size);
}


void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    while (!ngx_atomic_cmp_set(mtx->lock, 0, 1)) {
        sched_yield();
    }
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    assert_true(ngx_atomic_cmp_set(mtx->lock, 1, 0));
}


ssize_t
ngx_parse_size(ngx_str_t *line)
{
    return atoi((char *) line->data) * TEST_PAGE;
}


void
ngx_conf_log_error(ngx_uint_t level, ngx_conf_t *cf, ngx_err_t err,
    const char *fmt, ...)
{
    snprintf(test_logged, sizeof(test_logged), "%s", fmt);
}


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    assert_true(size == sizeof(ngx_http_clawd_zone_t));

    ngx_memzero(pool, size);

    return pool;
}


ngx_shm_zone_t *
ngx_shared_memory_add(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag)
{
    ngx_shm_zone_t  *shm_zone = tag;

    shm_zone->shm.name = *name;
    shm_zone->shm.size = size;

    return shm_zone;
}


/* a configuration with its zone */

typedef struct {
    ngx_log_t               log;
    ngx_shm_zone_t          shm_zone;
    ngx_http_clawd_zone_t   zone;
    ngx_http_clawd_area_t  *areas[3];
} test_conf_t;


/* Pages stand for the size, the zone's own place for pool and tag. */

static void
test_conf(test_conf_t *conf, const char *value)
{
    ngx_str_t   v;
    ngx_conf_t  cf;

    ngx_memzero(conf, sizeof(test_conf_t));
    ngx_memzero(&cf, sizeof(ngx_conf_t));

    cf.pool = (ngx_pool_t *) &conf->zone;
    conf->areas[0] = &ngx_http_clawd_registry_area;
    conf->areas[1] = test_second;

    v.data = (u_char *) value;
    v.len = strlen(value);

    assert_ptr_equal(ngx_http_clawd_zone_add(&cf, &v, &conf->shm_zone,
                                             conf->areas),
                     &conf->shm_zone);
    assert_ptr_equal(ngx_http_clawd_zone(&conf->shm_zone), &conf->zone);

    conf->log.log_level = NGX_LOG_DEBUG;
    conf->shm_zone.shm.log = &conf->log;
}


/* A fresh zone. */

static ngx_int_t
test_init(test_conf_t *conf, const char *value)
{
    size_t            size;
    u_char           *addr;
    ngx_slab_pool_t  *pool;

    test_conf(conf, value);
    size = conf->shm_zone.shm.size;

    addr = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                -1, 0);
    assert_true(addr != MAP_FAILED);

    conf->shm_zone.shm.addr = addr;

    pool = (ngx_slab_pool_t *) addr;
    pool->start = addr + ngx_align(sizeof(ngx_slab_pool_t), 64);
    pool->end = addr + size;
    pool->pfree = size / TEST_PAGE - 1;
    pool->mutex.lock = &pool->lock.lock;

    ngx_pid = getpid();
    ngx_process_slot = 0;

    return conf->shm_zone.init(&conf->shm_zone, NULL);
}


static ngx_http_clawd_zone_t *
test_zone(test_conf_t *conf, const char *value)
{
    assert_int_equal(test_init(conf, value), NGX_OK);

    return &conf->zone;
}


static void
test_unmap(test_conf_t *conf)
{
    munmap(conf->shm_zone.shm.addr, conf->shm_zone.shm.size);
}


static ngx_str_t
str(const char *s)
{
    ngx_str_t  v;

    v.data = (u_char *) s;
    v.len = strlen(s);

    return v;
}


static ngx_uint_t
learn(ngx_http_clawd_zone_t *zone, const char *s)
{
    ngx_str_t  v = str(s);

    return ngx_http_clawd_model_learn(zone, &v);
}


static ngx_uint_t
find(ngx_http_clawd_zone_t *zone, const char *s)
{
    ngx_str_t  v = str(s);

    return ngx_http_clawd_model_find(zone, &v);
}


static ngx_uint_t
user(ngx_http_clawd_zone_t *zone, const char *s)
{
    ngx_str_t  v = str(s);

    return ngx_http_clawd_user(zone, &v);
}


/* text in room of a given size */

typedef struct {
    size_t   size;      /* of each piece */
    size_t   room;      /* of all */
    u_char  *buf;
    u_char  *end;       /* of what was given out */
} test_page_t;


static ngx_int_t
test_more(ngx_http_clawd_text_t *t)
{
    test_page_t  *page = t->data;

    if ((size_t) (page->end - page->buf) + page->size >= page->room) {
        return NGX_ERROR;
    }

    t->pos = page->end;
    t->last = t->pos + page->size;
    page->end = t->last;

    return NGX_OK;
}


static void
text_init(ngx_http_clawd_text_t *t, test_page_t *page, size_t size,
    size_t room, int openmetrics)
{
    ngx_memzero(t, sizeof(ngx_http_clawd_text_t));

    page->size = size;
    page->room = room;
    page->buf = calloc(1, room);
    assert_non_null(page->buf);
    page->end = page->buf;

    t->more = test_more;
    t->data = page;
    t->openmetrics = openmetrics;
}


/* what an upper room adds, if anything does */

static void  (*test_families)(ngx_http_clawd_text_t *t, void *data);
static int     test_families_data;


/* the whole exposition, read; *text is to be freed if it is asked for */

static expo_t *
scrape(ngx_http_clawd_zone_t *zone, int openmetrics, char **text)
{
    expo_t                   *e;
    test_page_t               page;
    ngx_http_clawd_text_t     t;
    ngx_http_clawd_scrape_t   s;

    ngx_memzero(&s, sizeof(s));
    s.zone_free = ngx_http_clawd_zone_free(zone);
    s.zone_size = 1048576;
    s.connections = 1;
    s.active = 5;
    s.reading = 1;
    s.writing = 2;
    s.waiting = 3;
    s.more = test_families;
    s.data = &test_families_data;

    text_init(&t, &page, 1000, 8 * 1024 * 1024, openmetrics);
    ngx_http_clawd_prometheus_write(&t, zone, &s);
    assert_false(t.failed);

    e = expo_read((char *) page.buf, openmetrics);

    if (text) {
        *text = (char *) page.buf;

    } else {
        free(page.buf);
    }

    return e;
}


static void
sample_init(ngx_http_clawd_sample_t *s)
{
    ngx_memzero(s, sizeof(ngx_http_clawd_sample_t));

    s->status = 200;
    s->duration = NGX_HTTP_CLAWD_ABSENT;
    s->upstream = NGX_HTTP_CLAWD_ABSENT;
    s->connect = NGX_HTTP_CLAWD_ABSENT;
    s->first_token = NGX_HTTP_CLAWD_ABSENT;
    s->generation = NGX_HTTP_CLAWD_ABSENT;
    s->prompt_tokens = NGX_HTTP_CLAWD_ABSENT;
    s->completion_tokens = NGX_HTTP_CLAWD_ABSENT;
}


static void
test_bounds(void **state)
{
    char                          *end, joined[512];
    double                         le;
    ngx_uint_t                     i, n, scale;
    const ngx_http_clawd_bound_t  *b;

    for (scale = 0; scale <= NGX_HTTP_CLAWD_SCALE_RATE; scale++) {
        b = ngx_http_clawd_histogram_bounds(scale, &n);
        assert_true(n <= NGX_HTTP_CLAWD_BUCKETS);

        for (i = 0; i < n - 1; i++) {
            le = strtod((char *) b[i].le.data, &end);
            assert_true(*end == '\0');
            assert_int_equal(b[i].value, (uint64_t) (le * 1e6 + 0.5));
            assert_true(i == 0 || b[i].value > b[i - 1].value);
        }

        assert_string_equal((char *) b[n - 1].le.data, "+Inf");
    }

    b = ngx_http_clawd_histogram_bounds(NGX_HTTP_CLAWD_SCALE_DURATION, &n);
    joined[0] = '\0';

    for (i = 0; i < n; i++) {
        strcat(strcat(joined, (char *) b[i].le.data), " ");
    }

    assert_string_equal(joined, "0.1 0.25 0.5 1.0 1.5 2.0 3.0 4.0 5.0 7.5 "
                                "10.0 15.0 30.0 60.0 120.0 300.0 600.0 "
                                "+Inf ");

    b = ngx_http_clawd_histogram_bounds(NGX_HTTP_CLAWD_SCALE_FINE, &n);
    assert_string_equal((char *) b[0].le.data, "0.005");
}


static void
test_buckets(void **state)
{
    uint64_t                       sum;
    ngx_str_t                      id;
    ngx_uint_t                     i, n, scale;
    ngx_http_clawd_snapshot_t      s;
    ngx_http_clawd_histogram_t     h;
    const ngx_http_clawd_bound_t  *b;

    ngx_str_null(&id);

    for (scale = 0; scale <= NGX_HTTP_CLAWD_SCALE_RATE; scale++) {
        b = ngx_http_clawd_histogram_bounds(scale, &n);
        ngx_memzero(&h, sizeof(h));
        sum = 0;

        /* each bound belongs to its bucket, the next value to the next one */

        for (i = 0; i < n - 1; i++) {
            ngx_http_clawd_histogram_add(&h, scale, b[i].value, &id, 0);
            ngx_http_clawd_histogram_add(&h, scale, b[i].value + 1, &id, 0);
            sum += 2 * b[i].value + 1;
        }

        ngx_http_clawd_histogram_add(&h, scale, 0, &id, 0);

        assert_int_equal(ngx_http_clawd_histogram_read(&h, scale, &s),
                         2 * n - 1);

        for (i = 0; i < n - 1; i++) {
            assert_int_equal(s.buckets[i], 2 * i + 2);
        }

        assert_int_equal(s.buckets[n - 1], 2 * n - 1);
        assert_int_equal(s.sum, sum);
        assert_int_equal(s.exemplar.len, 0);
    }

    /* what is beyond all reason does not run the sum over */

    ngx_memzero(&h, sizeof(h));
    ngx_http_clawd_histogram_add(&h, NGX_HTTP_CLAWD_SCALE_RATE,
                                 (uint64_t) -1, &id, 0);
    ngx_http_clawd_histogram_add(&h, NGX_HTTP_CLAWD_SCALE_RATE,
                                 (uint64_t) -1, &id, 0);
    ngx_http_clawd_histogram_read(&h, NGX_HTTP_CLAWD_SCALE_RATE, &s);
    assert_int_equal(s.sum, 2 * 1000000000000000ULL);
}


static void
test_exemplar(void **state)
{
    u_char                       longest[NGX_HTTP_CLAWD_ID_LEN + 1];
    ngx_str_t                    a, b, c;
    ngx_http_clawd_scale_e       scale;
    ngx_http_clawd_snapshot_t    s;
    ngx_http_clawd_histogram_t   h;

    ngx_pid = getpid();
    ngx_memzero(&h, sizeof(h));
    scale = NGX_HTTP_CLAWD_SCALE_DURATION;

    a = str("first");
    b = str("second");

    ngx_http_clawd_histogram_add(&h, scale, 700000, &a, 50000);
    ngx_http_clawd_histogram_read(&h, scale, &s);

    assert_int_equal(s.exemplar.len, 5);
    assert_memory_equal(s.exemplar.id, "first", 5);
    assert_int_equal(s.exemplar.value, 700000);
    assert_int_equal(s.exemplar.time, 50000);

    /* one a second; a clock set back does not stop it */

    ngx_http_clawd_histogram_add(&h, scale, 1, &b, 50999);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_memory_equal(s.exemplar.id, "first", 5);

    ngx_http_clawd_histogram_add(&h, scale, 2, &b, 51000);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_memory_equal(s.exemplar.id, "second", 6);

    ngx_http_clawd_histogram_add(&h, scale, 3, &a, 20000);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_memory_equal(s.exemplar.id, "first", 5);

    /* no id, or one that does not fit, leaves the other */

    ngx_memset(longest, 'x', sizeof(longest));
    c.data = longest;
    c.len = sizeof(longest);
    ngx_http_clawd_histogram_add(&h, scale, 4, &c, 70000);

    c.len = 0;
    ngx_http_clawd_histogram_add(&h, scale, 4, &c, 70000);

    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_memory_equal(s.exemplar.id, "first", 5);

    c.len = NGX_HTTP_CLAWD_ID_LEN;
    ngx_http_clawd_histogram_add(&h, scale, 4, &c, 70000);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_int_equal(s.exemplar.len, NGX_HTTP_CLAWD_ID_LEN);

    /* while another writes: neither written nor shown */

    h.exemplar.owner = 77;
    ngx_http_clawd_histogram_add(&h, scale, 5, &b, 90000);
    assert_int_equal(h.exemplar.time, 70000);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_int_equal(s.exemplar.len, 0);

    /* the death of that other one: what it wrote is not trusted */

    ngx_http_clawd_histogram_reap(&h, 78);
    assert_int_equal(h.exemplar.owner, 77);

    ngx_http_clawd_histogram_reap(&h, 77);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_int_equal(s.exemplar.len, 0);

    ngx_http_clawd_histogram_add(&h, scale, 5, &b, 70001);
    ngx_http_clawd_histogram_read(&h, scale, &s);
    assert_memory_equal(s.exemplar.id, "second", 6);
}


static void
test_label_valid(void **state)
{
    ngx_uint_t  i;
    ngx_str_t   s;

    static const char  *good[] = {
        "a", "llama3:8b", "x\"} 1 fake 9", "back\\slash", "\xc3\xa9",
        "\xe2\x82\xac", "\xf0\x9f\xa6\x9e", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xf4\x8f\xbf\xbf"
    };

    static const char  *bad[] = {
        "", "a\nb", "a\rb", "\x01", "\x7f", "\x80", "\xff", "\xc3", "\xc3(",
        "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xe2\x82",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80",
        "\xf0\x9f\xa6"
    };

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        s = str(good[i]);
        assert_true(ngx_http_clawd_text_label_valid(&s));
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        s = str(bad[i]);
        assert_false(ngx_http_clawd_text_label_valid(&s));
    }

    s.data = (u_char *) "a\0b";
    s.len = 3;
    assert_false(ngx_http_clawd_text_label_valid(&s));
}


static void
test_accept(void **state)
{
    ngx_uint_t  i;
    ngx_str_t   s;

    static const struct {
        const char  *accept;
        ngx_uint_t   openmetrics;
    } cases[] = {
        { "", 0 },
        { "*/*", 0 },
        { "text/plain", 0 },
        { "text/html,application/xml;q=0.9,*/*;q=0.8", 0 },
        { "application/openmetrics-text", 1 },
        { "Application/OpenMetrics-Text; Version=1.0.0", 1 },
        { "application/openmetrics-text; version=\"1.0.0\"", 1 },
        { "application/openmetrics-text;version=0.0.1", 0 },
        { "application/openmetrics-text;version=2.0.0,text/plain", 0 },
        { "application/openmetrics-text-x", 0 },
        { "application/openmetrics-tex", 0 },
        { "xapplication/openmetrics-text", 0 },
        { "application/openmetrics-text;q=0", 0 },
        { "application/openmetrics-text;q=0.000,*/*", 0 },
        { "application/openmetrics-text;q=0.001", 1 },
        { "application/openmetrics-text;q=", 0 },
        { "application/openmetrics-text;q=high", 0 },
        { "application/openmetrics-text;q=0.5,text/plain;q=0.5", 1 },
        { "application/openmetrics-text;q=0.4,text/plain;q=0.5", 0 },
        { "text/plain;q=0.5 , application/openmetrics-text ; q=0.75", 1 },
        { "text/*;q=0.6,application/openmetrics-text;q=0.5", 0 },
        { ";;;,,,===;q=1,\"", 0 },

        /* Prometheus, of old and of late */

        { "application/openmetrics-text;version=1.0.0,"
          "application/openmetrics-text;version=0.0.1;q=0.75,"
          "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", 1 },
        { "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;"
          "q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
          "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
          "text/plain;version=0.0.4;q=0.2,*/*;q=0.1", 1 },
        { "application/vnd.google.protobuf;proto=io.prometheus.client."
          "MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;"
          "q=0.3", 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        s = str(cases[i].accept);

        if (ngx_http_clawd_text_wants_openmetrics(&s) != cases[i].openmetrics)
        {
            print_error("%s\n", cases[i].accept);
            fail();
        }
    }
}


/* The text is the same however the room for it is cut. */

static void
test_pieces(void **state)
{
    char                      *whole;
    size_t                     size;
    test_page_t                page;
    ngx_http_clawd_text_t      t;
    ngx_http_clawd_snapshot_t  s;

    ngx_http_clawd_label_t  labels[] = {
        { "model", ngx_string("a\"b\\c\nd") },
        { NULL, ngx_null_string }
    };

    ngx_memzero(&s, sizeof(s));
    s.sum = 1234567890123456ULL;
    s.exemplar.len = 2;
    s.exemplar.value = 1500001;
    s.exemplar.time = 1700000000050ULL;
    ngx_memcpy(s.exemplar.id, "id", 2);

    whole = NULL;

    for (size = 2000; size > 0; size--) {
        text_init(&t, &page, size, 8000, 1);

        ngx_http_clawd_text_family(&t, NGX_HTTP_CLAWD_HISTOGRAM, "h", "Help.");
        ngx_http_clawd_text_histogram(&t, "h", labels,
                                      NGX_HTTP_CLAWD_SCALE_DURATION, &s);
        ngx_http_clawd_text_family(&t, NGX_HTTP_CLAWD_COUNTER, "c", "Help.");
        ngx_http_clawd_text_value(&t, NGX_HTTP_CLAWD_COUNTER, "c", NULL,
                                  (uint64_t) -1);
        ngx_http_clawd_text_end(&t);

        assert_false(t.failed);

        if (whole == NULL) {
            whole = (char *) page.buf;
            continue;
        }

        assert_string_equal((char *) page.buf, whole);
        free(page.buf);
    }

    assert_non_null(strstr(whole, "h_bucket{model=\"a\\\"b\\\\c\\nd\","
                                  "le=\"2.0\"} 0 # {request_id=\"id\"} "
                                  "1.500001 1700000000.05\n"));
    assert_non_null(strstr(whole, "} 1234567890.123456\n"));
    assert_non_null(strstr(whole, "c_total 18446744073709551615\n"));

    free(whole);

    /* want of room is told, and ends the text */

    for (size = 1; size < 1000; size += 7) {
        text_init(&t, &page, size, 1000, 0);
        ngx_http_clawd_text_histogram(&t, "h", labels,
                                      NGX_HTTP_CLAWD_SCALE_DURATION, &s);
        ngx_http_clawd_text_histogram(&t, "h", labels,
                                      NGX_HTTP_CLAWD_SCALE_DURATION, &s);
        assert_true(t.failed);
        free(page.buf);
    }
}


static void
test_names(void **state)
{
    char                    name[NGX_HTTP_CLAWD_LABEL_LEN + 2];
    ngx_uint_t              i, n;
    test_conf_t             conf;
    ngx_http_clawd_zone_t  *zone;

    zone = test_zone(&conf, "test:4096");

    assert_int_equal(find(zone, "a"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(learn(zone, "a"), 1);
    assert_int_equal(learn(zone, "b"), 2);
    assert_int_equal(learn(zone, "a"), 1);
    assert_int_equal(find(zone, "a"), 1);
    assert_int_equal(find(zone, "b"), 2);
    assert_int_equal(find(zone, "A"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(find(zone, "ab"), NGX_HTTP_CLAWD_OTHER);

    /* a model of that name joins the others: no series twice */

    assert_int_equal(learn(zone, "other"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(user(zone, "other"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(ngx_http_clawd_registry(zone)->dropped, 0);

    /* users and models have tables of their own */

    assert_int_equal(user(zone, "b"), 1);
    assert_int_equal(user(zone, "b"), 1);

    memset(name, 'n', sizeof(name));
    name[NGX_HTTP_CLAWD_LABEL_LEN] = '\0';
    assert_int_equal(learn(zone, name), 3);
    assert_int_equal(find(zone, name), 3);

    name[NGX_HTTP_CLAWD_LABEL_LEN] = 'n';
    name[NGX_HTTP_CLAWD_LABEL_LEN + 1] = '\0';
    assert_int_equal(learn(zone, name), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(find(zone, name), NGX_HTTP_CLAWD_OTHER);

    assert_int_equal(learn(zone, ""), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(learn(zone, "x\"} 1\nfake 9"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(user(zone, "\xff"), NGX_HTTP_CLAWD_OTHER);
    assert_int_equal(ngx_http_clawd_registry(zone)->dropped, 4);

    /* full tables */

    for (n = 0, i = 0; i < 10000; i++) {
        snprintf(name, sizeof(name), "m%u", (unsigned) i);
        n += learn(zone, name) != NGX_HTTP_CLAWD_OTHER;
        assert_int_equal(find(zone, "a"), 1);
    }

    assert_int_equal(n, NGX_HTTP_CLAWD_MODELS - 4);
    assert_int_equal(ngx_http_clawd_registry(zone)->dropped, 4 + 10000 - n);
    assert_int_equal(find(zone, "m7"), 4 + 7);

    for (n = 0, i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "u%u", (unsigned) i);
        n += user(zone, name) != NGX_HTTP_CLAWD_OTHER;
    }

    assert_int_equal(n, NGX_HTTP_CLAWD_USERS - 2);

    expo_free(scrape(zone, 0, NULL));
    test_unmap(&conf);
}


/* an area that only takes room */

static ngx_int_t
test_ballast_init(ngx_http_clawd_zone_t *zone, void *area)
{
    return NGX_OK;
}


static ngx_http_clawd_area_t  test_ballast = {
    "ballast", 1, 48 * TEST_PAGE, 0, test_ballast_init, NULL
};


/* A small zone: names give way, processes still find room. */

static void
test_exhaustion(void **state)
{
    char                      name[16];
    expo_t                   *e;
    ngx_uint_t                i, known;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    test_second = &test_ballast;
    zone = test_zone(&conf, "test:64");
    test_second = NULL;
    known = 0;

    for (i = 0; i < 64; i++) {
        snprintf(name, sizeof(name), "m%u", (unsigned) i);

        sample_init(&s);
        s.model = learn(zone, name);
        s.user = user(zone, name);
        known += (s.model != NGX_HTTP_CLAWD_OTHER);
        ngx_http_clawd_count_request(zone, &s);
    }

    assert_true(known > 0 && known < 20);

    for (i = 0; i < 8; i++) {
        ngx_process_slot = i;
        zone->proc = NULL;
        ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);
        assert_non_null(zone->proc);
    }

    ngx_http_clawd_count_in_flight(zone, 1, 1);

    e = scrape(zone, 0, NULL);
    assert_string_equal(expo_value(e, "clawdbot_requests_in_flight",
                                   "model=m0"), "1");
    assert_string_equal(expo_value(e, "clawdbot_model_request_total",
                                   "model=m0"), "1");
    assert_int_equal(atoi(expo_value(e, "clawdbot_model_request_total",
                                     "model=other")), 64 - known);
    assert_true(atoi(expo_value(e, "clawdbot_series_dropped_total", ""))
                >= (int) (64 - known));
    expo_free(e);

    /* no room at all: a worker serves, what it has in flight is not counted */

    zone->shpool->start = zone->shpool->end;
    zone->shpool->pfree = 0;
    ngx_process_slot = 1000;
    zone->proc = NULL;
    test_logged[0] = '\0';

    ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);

    assert_null(zone->proc);
    assert_non_null(strstr(test_logged, "is full"));

    ngx_http_clawd_count_in_flight(zone, 0, 1);
    ngx_http_clawd_count_in_flight(zone, 0, -1);
    ngx_http_clawd_zone_release(&conf.shm_zone);

    e = scrape(zone, 0, NULL);
    assert_string_equal(expo_value(e, "clawdbot_zone_free_bytes", ""), "0");
    expo_free(e);

    test_unmap(&conf);
}


/* Areas that do not fit: a message, and no zone. */

static void
test_too_small(void **state)
{
    test_conf_t            conf;
    ngx_http_clawd_area_t  area;

    area = ngx_http_clawd_registry_area;
    area.size = 65 * TEST_PAGE;
    test_second = &area;

    assert_int_equal(test_init(&conf, "test:64"), NGX_ERROR);
    test_second = NULL;

    assert_non_null(strstr(test_logged, "too small"));
    assert_null(conf.zone.root);

    test_unmap(&conf);
}


static void
test_request(void **state)
{
    expo_t                   *e;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    zone = test_zone(&conf, "test:256");

    sample_init(&s);
    s.model = learn(zone, "m");
    s.user = user(zone, "alice");
    s.source = NGX_HTTP_CLAWD_SOURCE_UPSTREAM;
    s.duration = 2000000;
    s.upstream = 1900000;
    s.connect = 1000;
    s.first_token = 200000;
    s.generation = 1800000;
    s.prompt_tokens = 12;
    s.completion_tokens = 19;
    ngx_http_clawd_count_request(zone, &s);

    /* refused before it went upstream: no times, no tokens */

    sample_init(&s);
    s.model = learn(zone, "m");
    s.user = user(zone, "alice");
    s.status = 429;
    s.fail = NGX_HTTP_CLAWD_FAIL_QUOTA;
    ngx_http_clawd_count_request(zone, &s);

    /* failed upstream */

    s.status = 502;
    s.fail = NGX_HTTP_CLAWD_FAIL_CONNECT;
    s.duration = 700000000;
    ngx_http_clawd_count_request(zone, &s);

    /* one token says nothing of the time between tokens */

    sample_init(&s);
    s.upstream = 500000;
    s.generation = 1000;
    s.completion_tokens = 1;
    s.status = 1234;
    s.duration = 0;
    s.source = NGX_HTTP_CLAWD_SOURCE_ESTIMATED;
    ngx_http_clawd_count_request(zone, &s);

    e = scrape(zone, 0, NULL);

#define V(name, labels, v)                                                    \
    assert_string_equal(expo_value(e, "clawdbot_" name, labels), v)

#define NONE(name, labels)                                                    \
    assert_null(expo_find(e, "clawdbot_" name, labels))

    V("model_request_total", "model=m", "3");
    V("model_request_total", "model=other", "1");
    V("model_error_total", "model=m,error_type=connect", "1");
    V("model_error_total", "model=m,error_type=quota", "1");
    V("model_error_total", "model=m,error_type=timeout", "0");
    V("model_error_total", "model=other,error_type=invalid_response", "0");

    V("http_request_duration_seconds_bucket", "model=m,code=2xx,le=1.5", "0");
    V("http_request_duration_seconds_bucket", "model=m,code=2xx,le=2.0", "1");
    V("http_request_duration_seconds_sum", "model=m,code=2xx", "2");
    V("http_request_duration_seconds_bucket", "model=m,code=5xx,le=600.0",
      "0");
    V("http_request_duration_seconds_bucket", "model=m,code=5xx,le=+Inf",
      "1");
    V("http_request_duration_seconds_count", "model=other,code=other", "1");
    NONE("http_request_duration_seconds_count", "model=m,code=4xx");

    V("upstream_request_duration_seconds_sum", "model=m", "1.9");
    V("upstream_connect_seconds_bucket", "model=m,le=0.005", "1");
    V("upstream_connect_seconds_sum", "model=m", "0.001");
    V("time_to_first_token_seconds_bucket", "model=m,le=0.1", "0");
    V("time_to_first_token_seconds_bucket", "model=m,le=0.25", "1");
    V("time_per_output_token_seconds_sum", "model=m", "0.1");
    V("time_per_output_token_seconds_bucket", "model=m,le=0.1", "1");
    NONE("time_per_output_token_seconds_count", "model=other");
    V("output_tokens_per_second_sum", "model=m", "10");
    V("output_tokens_per_second_sum", "model=other", "2");

    V("tokens_total", "model=m,type=prompt", "12");
    V("tokens_total", "model=m,type=completion", "19");
    V("tokens_total", "model=other,type=completion", "1");
    V("user_tokens_total", "user=alice,type=completion", "19");
    V("user_tokens_total", "user=other,type=completion", "1");
    V("user_requests_total", "user=alice", "3");
    V("user_rejected_total", "user=alice", "1");
    V("upstream_last_byte_timestamp_seconds", "", "1700000000");
    V("user_rejected_total", "user=other", "0");
    V("zone_size_bytes", "", "1048576");
    V("usage_source_total", "source=upstream", "1");
    V("usage_source_total", "source=counted", "0");
    V("usage_source_total", "source=estimated", "1");

    V("nginx_connections", "state=active", "5");
    V("nginx_connections", "state=waiting", "3");
    V("build_info", "version=" NGX_HTTP_CLAWD_VERSION ",nginx=" NGINX_VERSION,
      "1");

    expo_free(e);
    test_unmap(&conf);
}


/* Families of an upper room stand on the page, which stays a whole one. */

static void
test_upper_families(ngx_http_clawd_text_t *t, void *data)
{
    int                     *calls = data;
    ngx_http_clawd_label_t   labels[2];

    (*calls)++;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_upper", "Of an upper room.");

    labels[0].key = "limit";
    ngx_str_set(&labels[0].value, "tokens_per_day");
    labels[1].key = NULL;

    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, "clawdbot_upper",
                              labels, 7);
}


static void
test_upper_room(void **state)
{
    int                       openmetrics;
    expo_t                   *e;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;

    zone = test_zone(&conf, "test:256");

    for (openmetrics = 0; openmetrics < 2; openmetrics++) {
        e = scrape(zone, openmetrics, NULL);
        NONE("upper_total", "limit=tokens_per_day");
        expo_free(e);

        test_families = test_upper_families;
        test_families_data = 0;

        e = scrape(zone, openmetrics, NULL);

        test_families = NULL;

        assert_int_equal(test_families_data, 1);
        V("upper_total", "limit=tokens_per_day", "7");
        V("build_info", "version=" NGX_HTTP_CLAWD_VERSION
          ",nginx=" NGINX_VERSION, "1");
        expo_free(e);
    }

    test_unmap(&conf);
}


/* What an upstream claims moves counters by a bounded amount, forwards. */

static void
test_claims(void **state)
{
    expo_t                   *e;
    double                    now, last[4];
    ngx_uint_t                i, k, n;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    static const int64_t  claims[] = {
        1, INT32_MAX, INT64_MAX, INT64_MIN, -2, -1, 0
    };

    static const struct {
        const char  *name;
        const char  *labels;
    } sums[] = {
        { "clawdbot_tokens_total", "model=other,type=prompt" },
        { "clawdbot_user_tokens_total", "user=other,type=completion" },
        { "clawdbot_upstream_request_duration_seconds_sum", "model=other" },
        { "clawdbot_output_tokens_per_second_sum", "model=other" }
    };

    ngx_memzero(last, sizeof(last));

    zone = test_zone(&conf, "test:256");

    for (i = 0; i < sizeof(claims) / sizeof(claims[0]); i++) {
        for (k = 0; k < sizeof(claims) / sizeof(claims[0]); k++) {
            sample_init(&s);
            s.prompt_tokens = claims[i];
            s.completion_tokens = claims[i];
            s.duration = claims[k];
            s.upstream = claims[k];
            s.connect = claims[k];
            s.first_token = claims[k];
            s.generation = claims[k];
            s.status = (ngx_uint_t) claims[k];
            ngx_http_clawd_count_request(zone, &s);

            e = scrape(zone, 1, NULL);

            for (n = 0; n < sizeof(sums) / sizeof(sums[0]); n++) {
                now = strtod(expo_value(e, sums[n].name, sums[n].labels),
                             NULL);
                assert_true(now >= last[n]);
                last[n] = now;
            }

            expo_free(e);
        }
    }

    test_unmap(&conf);
}


static void
test_rejects(void **state)
{
    char                        labels[128];
    int                         i, k, n, total;
    expo_t                     *e;
    ngx_str_t                   a, b;
    test_conf_t                 conf;
    ngx_http_clawd_zone_t      *zone;

    zone = test_zone(&conf, "test:256");

    /* what refuses is there from the start */

    e = scrape(zone, 0, NULL);
    V("rejected_total", "reason=nginx", "0");
    V("rejected_total", "reason=no_token", "0");
    NONE("rejected_total", "reason=timeout");
    expo_free(e);

    for (i = 0; i < NGX_HTTP_CLAWD_ERR_MAX; i++) {
        for (n = 0; n <= i; n++) {
            ngx_http_clawd_count_reject(zone, i);
        }
    }

    e = scrape(zone, 0, NULL);

    V("rejected_total", "reason=nginx", "1");

    for (i = 1; i < NGX_HTTP_CLAWD_ERR_MAX; i++) {
        a = ngx_http_clawd_error_def(i)->reason;

        if (a.len == 0) {
            continue;
        }

        for (total = 0, k = 1; k < NGX_HTTP_CLAWD_ERR_MAX; k++) {
            b = ngx_http_clawd_error_def(k)->reason;

            if (a.len == b.len && memcmp(a.data, b.data, a.len) == 0) {
                total += k + 1;
            }
        }

        snprintf(labels, sizeof(labels), "reason=%.*s", (int) a.len, a.data);
        assert_int_equal(atoi(expo_value(e, "clawdbot_rejected_total",
                                         labels)), total);
    }

    expo_free(e);
    test_unmap(&conf);
}


/* A hostile name is one series, under that very name. */

static void
test_injection(void **state)
{
    char                     *text, labels[256];
    expo_t                   *e;
    ngx_uint_t                i;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    static const char  *names[] = {
        "x\"} 1 fake_metric 9", "\\", "\\\\\"", "\"", "a\\", "a\\n", "{}",
        "a,b=\"c\"", "# EOF", "\xe2\x82\xac"
    };

    zone = test_zone(&conf, "test:256");

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        sample_init(&s);
        s.model = learn(zone, names[i]);
        s.user = user(zone, names[i]);
        s.duration = 1;
        assert_int_equal(s.model, i + 1);
        ngx_http_clawd_count_request(zone, &s);
    }

    e = scrape(zone, 1, &text);

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(labels, sizeof(labels), "model=%s", names[i]);
        V("model_request_total", labels, "1");

        snprintf(labels, sizeof(labels), "user=%s", names[i]);
        V("user_requests_total", labels, "1");
    }

    assert_null(strstr(text, "\nfake_metric"));

    free(text);
    expo_free(e);

    test_unmap(&conf);
}


/* Ids that clients made up are shown only if no reader can stumble. */

static void
test_ids(void **state)
{
    expo_t                   *e;
    ngx_uint_t                i;
    expo_sample_t            *sample;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    static const struct {
        const char  *id;
        ngx_uint_t   shown;
    } ids[] = {
        { "req 1", 0 }, { "req-0a:b/c@d+e.F9", 1 }, { "", 0 }, { "a b", 0 },
        { "a\"} 1 fake 9", 0 }, { "a\\", 0 }, { "a\nb", 0 }, { "\xff", 0 },
        { "\xe2\x82\xac", 0 }, { "{a}", 0 }, { "#", 0 }
    };

    zone = test_zone(&conf, "test:256");

    for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        sample_init(&s);
        s.duration = 1;
        s.id = str(ids[i].id);
        s.now = 10000 * (i + 1);
        ngx_http_clawd_count_request(zone, &s);

        e = scrape(zone, 1, NULL);
        sample = expo_find(e, "clawdbot_http_request_duration_seconds_bucket",
                           "model=other,code=2xx,le=0.1");
        assert_non_null(sample);

        if (ids[i].shown) {
            assert_string_equal(sample->exemplar_label.value, ids[i].id);
        }

        /* without an id the previous one stays */

        assert_int_equal(sample->exemplar,
                         ids[i].shown || (i && s.id.len == 0
                                          && ids[i - 1].shown));
        expo_free(e);
    }

    test_unmap(&conf);
}


/* Families of the contract, of their types, in both formats. */

static void
test_formats(void **state)
{
    char                      name[128];
    expo_t                   *e;
    ngx_uint_t                i, k, openmetrics;
    test_conf_t               conf;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    static const struct {
        const char  *name;
        const char  *type;
    } families[] = {
        { "http_request_duration_seconds", "histogram" },
        { "model_request", "counter" },
        { "model_error", "counter" },
        { "upstream_request_duration_seconds", "histogram" },
        { "upstream_connect_seconds", "histogram" },
        { "time_to_first_token_seconds", "histogram" },
        { "time_per_output_token_seconds", "histogram" },
        { "output_tokens_per_second", "histogram" },
        { "tokens", "counter" },
        { "user_tokens", "counter" },
        { "user_requests", "counter" },
        { "user_rejected", "counter" },
        { "upstream_last_byte_timestamp_seconds", "gauge" },
        { "requests_in_flight", "gauge" },
        { "rejected", "counter" },
        { "nginx_connections", "gauge" },
        { "usage_source", "counter" },
        { "zone_free_bytes", "gauge" },
        { "zone_size_bytes", "gauge" },
        { "series_dropped", "counter" },
        { "build_info", "gauge" }
    };

    zone = test_zone(&conf, "test:256");

    /* an empty registry is a valid page too */

    expo_free(scrape(zone, 0, NULL));
    expo_free(scrape(zone, 1, NULL));

    sample_init(&s);
    s.model = learn(zone, "m");
    s.duration = 2100000;
    s.id = str("req-1");
    s.now = 1700000000123ULL;
    ngx_http_clawd_count_request(zone, &s);

    for (openmetrics = 0; openmetrics < 2; openmetrics++) {
        e = scrape(zone, openmetrics, NULL);

        assert_int_equal(e->nfamilies,
                         sizeof(families) / sizeof(families[0]));

        for (i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
            snprintf(name, sizeof(name), "clawdbot_%s%s", families[i].name,
                     !openmetrics && strcmp(families[i].type, "counter") == 0
                     ? "_total" : "");

            for (k = 0; (int) k < e->nfamilies; k++) {
                if (strcmp(e->families[k].name, name) == 0) {
                    assert_string_equal(e->families[k].type,
                                        families[i].type);
                    break;
                }
            }

            assert_int_not_equal(k, e->nfamilies);
        }

        expo_free(e);
    }

    e = scrape(zone, 1, NULL);
    i = 0;

    for (k = 0; (int) k < e->nsamples; k++) {
        if (e->samples[k].exemplar) {
            assert_string_equal(e->samples[k].labels[2].value, "3.0");
            assert_string_equal(e->samples[k].exemplar_label.key,
                                "request_id");
            assert_string_equal(e->samples[k].exemplar_label.value, "req-1");
            assert_string_equal(e->samples[k].exemplar_value, "2.1");
            assert_string_equal(e->samples[k].exemplar_time,
                                "1700000000.123");
            i++;
        }
    }

    assert_int_equal(i, 1);

    expo_free(e);
    test_unmap(&conf);
}


/* A reload: the new configuration finds what the old one counted. */

static void
test_reload(void **state)
{
    ngx_uint_t                 i, *root;
    test_conf_t                old, new;
    ngx_http_clawd_area_t      area, *areas[3];
    ngx_http_clawd_zone_t     *zone;
    ngx_http_clawd_registry_t *registry;

    zone = test_zone(&old, "test:256");
    assert_int_equal(learn(zone, "m"), 1);
    registry = ngx_http_clawd_registry(zone);

    test_conf(&new, "test:256");
    new.shm_zone.shm.addr = old.shm_zone.shm.addr;
    assert_int_equal(new.shm_zone.init(&new.shm_zone, zone), NGX_OK);
    assert_ptr_equal(ngx_http_clawd_registry(&new.zone), registry);
    assert_int_equal(find(&new.zone, "m"), 1);

    /* memory that is there without an old configuration */

    test_conf(&new, "test:256");
    new.shm_zone.shm.addr = old.shm_zone.shm.addr;
    new.shm_zone.shm.exists = 1;
    assert_int_equal(new.shm_zone.init(&new.shm_zone, NULL), NGX_OK);
    assert_int_equal(find(&new.zone, "m"), 1);

    /* other layouts are refused, and what lives is left alone */

#define REFUSED()                                                             \
    test_conf(&new, "test:256");                                              \
    new.shm_zone.shm.addr = old.shm_zone.shm.addr;                            \
    new.zone.areas = areas;                                                   \
    test_logged[0] = '\0';                                                    \
    assert_int_equal(new.shm_zone.init(&new.shm_zone, zone), NGX_ERROR);      \
    assert_non_null(strstr(test_logged, "another version"));                  \
    assert_null(new.zone.root)

    areas[0] = &area;
    areas[1] = NULL;

    area = ngx_http_clawd_registry_area;
    area.version++;
    REFUSED();

    area = ngx_http_clawd_registry_area;
    area.size++;
    REFUSED();

    area = ngx_http_clawd_registry_area;
    area.proc_size++;
    REFUSED();

    area = ngx_http_clawd_registry_area;
    areas[1] = &area;
    areas[2] = NULL;
    REFUSED();

    areas[0] = NULL;
    REFUSED();

    areas[0] = &area;
    areas[1] = NULL;

    /* the root begins with its magic, version and size */

    root = (ngx_uint_t *) zone->root;

    for (i = 0; i < 3; i++) {
        root[i]++;
        REFUSED();
        root[i]--;
    }

    assert_int_equal(find(zone, "m"), 1);

    test_unmap(&old);
}


static void
test_claim(void **state)
{
    test_conf_t             conf;
    ngx_uint_t              slot;
    ngx_http_clawd_zone_t  *zone;
    ngx_http_clawd_proc_t  *proc;

    zone = test_zone(&conf, "test:256");

    /* before the claim, as in the master: nothing is counted */

    ngx_http_clawd_count_in_flight(zone, 0, 1);
    assert_int_equal(ngx_http_clawd_registry_in_flight(zone, 0), 0);

    ngx_process_slot = 7;
    ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);
    proc = zone->proc;
    assert_int_equal(proc->generation, 1);

    slot = 0;
    assert_ptr_equal(ngx_http_clawd_zone_next(zone, &slot), proc);
    assert_null(ngx_http_clawd_zone_next(zone, &slot));

    ngx_http_clawd_count_in_flight(zone, 0, 1);
    ngx_http_clawd_count_in_flight(zone, 0, 1);
    ngx_http_clawd_count_in_flight(zone, 0, -1);
    assert_int_equal(ngx_http_clawd_registry_in_flight(zone, 0), 1);

    /* the next process of the slot starts at nothing */

    zone->proc = NULL;
    ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);
    assert_ptr_equal(zone->proc, proc);
    assert_int_equal(proc->generation, 2);
    assert_int_equal(ngx_http_clawd_registry_in_flight(zone, 0), 0);

    ngx_http_clawd_count_in_flight(zone, 0, 1);
    ngx_http_clawd_zone_release(&conf.shm_zone);
    assert_null(zone->proc);
    assert_int_equal(ngx_http_clawd_registry_in_flight(zone, 0), 0);

    test_unmap(&conf);
}


#define WORKERS   4
#define REQUESTS  20000      /* twice: by name, and of one model */
#define TOTAL     (WORKERS * REQUESTS * 2)
#define NAMES     90         /* more than the table holds */


static void
test_worker(test_conf_t *conf, ngx_uint_t slot)
{
    char                      name[16];
    ngx_uint_t                i;
    ngx_http_clawd_zone_t    *zone;
    ngx_http_clawd_sample_t   s;

    zone = &conf->zone;

    ngx_pid = getpid();
    ngx_process_slot = slot;
    ngx_http_clawd_zone_claim(&conf->shm_zone, &conf->log);

    for (i = 0; i < REQUESTS; i++) {
        snprintf(name, sizeof(name), "n%u",
                 (unsigned) ((i * 7 + slot) % NAMES));

        sample_init(&s);
        s.model = learn(zone, name);
        s.user = user(zone, name);
        s.source = NGX_HTTP_CLAWD_SOURCE_COUNTED;
        s.duration = i;
        s.prompt_tokens = 3;
        s.completion_tokens = 2;
        s.id = str(name);
        s.now = i * 1000;

        ngx_http_clawd_count_in_flight(zone, s.model, 1);
        ngx_http_clawd_count_request(zone, &s);
        ngx_http_clawd_count_in_flight(zone, s.model, -1);
    }

    /* and all at the same counters, as fast as they can */

    s.model = 1;
    s.user = 1;

    for (i = 0; i < REQUESTS; i++) {
        ngx_http_clawd_count_request(zone, &s);
    }

    ngx_http_clawd_count_in_flight(zone, NGX_HTTP_CLAWD_OTHER, slot + 1);
}


static uint64_t
test_sum(expo_t *e, const char *name, const char *label)
{
    int        i, k;
    uint64_t   sum;

    sum = 0;

    for (i = 0; i < e->nsamples; i++) {
        if (strcmp(e->samples[i].name, name) != 0) {
            continue;
        }

        for (k = 0; k < e->samples[i].nlabels; k++) {
            if (label == NULL
                || strcmp(e->samples[i].labels[k].value, label) == 0)
            {
                sum += strtoul(e->samples[i].value, NULL, 10);
                break;
            }
        }
    }

    return sum;
}


/* What the workers counted, to the last one. */

static void
test_exact(ngx_http_clawd_zone_t *zone, const char *in_flight)
{
    expo_t  *e;

    e = scrape(zone, 0, NULL);

    assert_int_equal(test_sum(e, "clawdbot_model_request_total", NULL),
                     TOTAL);
    assert_int_equal(test_sum(e, "clawdbot_user_requests_total", NULL),
                     TOTAL);
    assert_int_equal(test_sum(e, "clawdbot_http_request_duration_seconds_count",
                              "2xx"), TOTAL);
    assert_int_equal(test_sum(e, "clawdbot_tokens_total", "prompt"),
                     TOTAL * 3);
    assert_int_equal(test_sum(e, "clawdbot_user_tokens_total", "completion"),
                     TOTAL * 2);
    assert_int_equal(test_sum(e, "clawdbot_usage_source_total", "counted"),
                     TOTAL);
    V("requests_in_flight", "model=other", in_flight);

    expo_free(e);
}


/*
 * Many workers at once: sums are exact, names keep one place, pages read
 * meanwhile are valid, and the dead take only what they had in flight.
 */

static void
test_workers(void **state)
{
    int                     i, status, done[WORKERS][2], hold[2];
    char                    c;
    pid_t                   pids[WORKERS];
    expo_t                 *e;
    uint64_t                last, now;
    test_conf_t             conf;
    ngx_http_clawd_zone_t  *zone;

    zone = test_zone(&conf, "test:4096");
    assert_int_equal(pipe(hold), 0);

    for (i = 0; i < WORKERS; i++) {
        assert_int_equal(pipe(done[i]), 0);

        pids[i] = fork();
        assert_true(pids[i] >= 0);

        if (pids[i] == 0) {
            close(hold[1]);
            test_worker(&conf, i);

            if (write(done[i][1], "d", 1) != 1 || read(hold[0], &c, 1) != 0) {
                _exit(2);
            }

            ngx_http_clawd_zone_release(&conf.shm_zone);
            _exit(0);
        }

        close(done[i][1]);
    }

    /* scrapes while they count: valid, and never going back */

    last = 0;

    for (i = 0; i < 10; i++) {
        e = scrape(zone, i % 2, NULL);
        now = test_sum(e, "clawdbot_model_request_total", NULL);
        assert_true(now >= last);
        assert_true(test_sum(e, "clawdbot_http_request_duration_seconds_count",
                             NULL) <= now);
        last = now;
        expo_free(e);
    }

    for (i = 0; i < WORKERS; i++) {
        assert_int_equal(read(done[i][0], &c, 1), 1);
        close(done[i][0]);
    }

    test_exact(zone, "10");

    /* the reader made sure that no name is there twice */

    assert_int_equal(ngx_http_clawd_registry(zone)->models.count,
                     NGX_HTTP_CLAWD_MODELS);
    assert_int_equal(ngx_http_clawd_registry(zone)->users.count, NAMES + 1);

    /* one dies: what it had in flight goes at once, what it counted stays */

    assert_int_equal(kill(pids[3], SIGKILL), 0);
    assert_int_equal(waitpid(pids[3], &status, 0), pids[3]);

    test_exact(zone, "6");

    /* the others end in good order */

    close(hold[1]);
    close(hold[0]);

    for (i = 0; i < WORKERS - 1; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }

    test_exact(zone, "0");

    test_unmap(&conf);
}


/* A worker killed while it wrote an exemplar does not stop the next ones. */

static void
test_dead_writer(void **state)
{
    expo_t                         *e;
    test_conf_t                     conf;
    ngx_http_clawd_zone_t          *zone;
    ngx_http_clawd_sample_t         s;
    ngx_http_clawd_model_series_t  *m;

    zone = test_zone(&conf, "test:256");
    ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);

    sample_init(&s);
    s.model = learn(zone, "m");
    s.duration = 1;
    s.id = str("one");
    s.now = 1000;
    ngx_http_clawd_count_request(zone, &s);

    m = (ngx_http_clawd_model_series_t *)
                           ngx_http_clawd_registry(zone)->models.series[1];
    m->hists[NGX_HTTP_CLAWD_HIST_DURATION + 2].exemplar.owner = ngx_pid;

    zone->proc = NULL;
    ngx_http_clawd_zone_claim(&conf.shm_zone, &conf.log);

    s.id = str("two");
    s.now = 1001;
    ngx_http_clawd_count_request(zone, &s);

    e = scrape(zone, 1, NULL);
    assert_string_equal(expo_find(e,
                            "clawdbot_http_request_duration_seconds_bucket",
                            "model=m,code=2xx,le=0.1")->exemplar_label.value,
                        "two");
    expo_free(e);
    test_unmap(&conf);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_exemplar),
        cmocka_unit_test(test_label_valid),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_exhaustion),
        cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_upper_room),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_rejects),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_claim),
        cmocka_unit_test(test_workers),
        cmocka_unit_test(test_dead_writer)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
