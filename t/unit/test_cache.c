/*
 * Copyright (C) clawd authors
 *
 * The cache of records, without NGINX: a slab pool of ours, in memory that
 * forked processes share, serves it, and a clock that the tests set.
 *
 * link: src/ledger/ngx_http_clawd_cache.c
 * link: src/ledger/ngx_http_clawd_record.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "ngx_http_clawd_cache.h"
#include "ngx_http_clawd_digest.h"


#define KEY   NGX_HTTP_CLAWD_RECORD_KEY
#define USER  NGX_HTTP_CLAWD_RECORD_USER
#define PLAN  NGX_HTTP_CLAWD_RECORD_PLAN

#define MB    (1024 * 1024)


/* places looked at, and steps inside of the mutex until this process dies */

static ngx_uint_t  test_probes;
static ngx_uint_t  test_steps;


static void
test_step(void)
{
    if (test_steps && --test_steps == 0) {
        raise(SIGKILL);
    }
}


static void
test_copy(void *dst, void *src, size_t n)
{
    memcpy(dst, src, n / 2);
    test_step();
    memcpy((u_char *) dst + n / 2, (u_char *) src + n / 2, n - n / 2);
    test_step();
}


/*
 * The same code again under names of its own, whose steps are counted.  Both
 * work on one zone.
 */

#define ngx_http_clawd_cache_area    test_counted_area
#define ngx_http_clawd_cache_get     test_counted_get
#define ngx_http_clawd_cache_mark    test_counted_mark
#define ngx_http_clawd_cache_put     test_counted_put
#define ngx_http_clawd_cache_drop    test_counted_drop
#define ngx_http_clawd_cache_flush   test_counted_flush
#define ngx_http_clawd_cache_told    test_counted_told
#define ngx_http_clawd_cache_alive   test_counted_alive
#define ngx_http_clawd_cache_untold  test_counted_untold

#define NGX_HTTP_CLAWD_CACHE_WAYS    (test_probes++, 8)

#undef ngx_memory_barrier
#define ngx_memory_barrier()         test_step()

#undef ngx_memcpy
#define ngx_memcpy(dst, src, n)      test_copy(dst, src, n)

ngx_int_t ngx_http_clawd_cache_get(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_uint_t stale,
    ngx_http_clawd_record_t *rec, u_char *buf);
uint64_t ngx_http_clawd_cache_mark(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name);
void ngx_http_clawd_cache_put(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, uint64_t mark,
    ngx_http_clawd_record_t *rec);
void ngx_http_clawd_cache_drop(ngx_http_clawd_zone_t *zone, ngx_str_t *key);
void ngx_http_clawd_cache_flush(ngx_http_clawd_zone_t *zone);
void ngx_http_clawd_cache_told(ngx_http_clawd_zone_t *zone);
void ngx_http_clawd_cache_alive(ngx_http_clawd_zone_t *zone,
    ngx_msec_t since, ngx_msec_t msec);
void ngx_http_clawd_cache_untold(ngx_http_clawd_zone_t *zone);

#include "ngx_http_clawd_cache.c"

#undef ngx_http_clawd_cache_area
#undef ngx_http_clawd_cache_get
#undef ngx_http_clawd_cache_mark
#undef ngx_http_clawd_cache_put
#undef ngx_http_clawd_cache_drop
#undef ngx_http_clawd_cache_flush
#undef ngx_http_clawd_cache_told
#undef ngx_http_clawd_cache_alive
#undef ngx_http_clawd_cache_untold

#undef NGX_HTTP_CLAWD_CACHE_WAYS
#define NGX_HTTP_CLAWD_CACHE_WAYS    8

#undef ngx_memcpy
#define ngx_memcpy(dst, src, n)      (void) memcpy(dst, src, n)


/* NGINX, and the zone, as far as they are needed */

volatile ngx_msec_t  ngx_current_msec;

static void       *test_area;
static ngx_uint_t  test_locked;


void *
ngx_http_clawd_zone_area(ngx_http_clawd_zone_t *zone, ngx_uint_t i)
{
    assert_int_equal(i, 1);

    return test_area;
}


/* Nothing allocates under the mutex. */

void *
ngx_slab_calloc(ngx_slab_pool_t *pool, size_t size)
{
    u_char  *p;

    assert_int_equal(pool->lock.lock, 0);

    size = ngx_align(size, size > 2048 ? 4096 : 64);

    if ((size_t) (pool->end - pool->start) < size) {
        return NULL;
    }

    p = pool->start;
    pool->start += size;

    return p;
}


void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    assert_true(ngx_atomic_cmp_set(mtx->lock, 0, 1));
    test_locked++;
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    assert_true(ngx_atomic_cmp_set(mtx->lock, 1, 0));
}


static struct {
    ngx_shm_zone_t         shm_zone;
    ngx_http_clawd_zone_t  zone;
} test;

static ngx_http_clawd_zone_t  *zone = &test.zone;

static ngx_http_clawd_record_t  rec;
static u_char                   buf[NGX_HTTP_CLAWD_RECORD_SIZE];


static ngx_int_t
test_zone(size_t size)
{
    u_char           *addr;
    ngx_slab_pool_t  *pool;

    memset(&test, 0, sizeof(test));

    addr = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                -1, 0);
    assert_true(addr != MAP_FAILED);

    test.shm_zone.shm.addr = addr;
    test.shm_zone.shm.size = size;

    pool = (ngx_slab_pool_t *) addr;
    pool->start = addr + ngx_align(sizeof(ngx_slab_pool_t), 64);
    pool->end = addr + size;
    pool->mutex.lock = &pool->lock.lock;

    zone->shpool = pool;
    zone->shm_zone = &test.shm_zone;

    assert_int_equal(ngx_http_clawd_cache_area.size,
                     sizeof(ngx_http_clawd_cache_t));

    test_area = ngx_slab_calloc(pool, ngx_http_clawd_cache_area.size);
    assert_non_null(test_area);

    ngx_current_msec = 1000000000;

    return ngx_http_clawd_cache_area.init(zone, test_area);
}


/* With a key of ours, so that names meet in the same sets each time. */

static void
test_start(size_t size)
{
    ngx_http_clawd_cache_t  *cache;

    assert_int_equal(test_zone(size), NGX_OK);

    cache = test_area;
    memset(cache->key, 0x42, sizeof(cache->key));
}


static void
test_end(void)
{
    assert_int_equal(zone->shpool->lock.lock, 0);
    assert_int_equal(munmap(test.shm_zone.shm.addr, test.shm_zone.shm.size),
                     0);
}


static ngx_str_t
str(const char *s)
{
    ngx_str_t  v;

    v.data = (u_char *) s;
    v.len = strlen(s);

    return v;
}


/* A record that tells by its plan which one it is; NULL: there is none. */

static void
make(const char *plan)
{
    ngx_http_clawd_record_init(&rec);

    if (plan) {
        rec.found = 1;
        rec.plan = str(plan);
    }
}


static void
put(ngx_uint_t kind, const char *name, const char *plan)
{
    uint64_t   mark;
    ngx_str_t  n;

    n = str(name);
    mark = ngx_http_clawd_cache_mark(zone, kind, &n);

    make(plan);
    ngx_http_clawd_cache_put(zone, kind, &n, mark, &rec);
}


/* What the cache says: a plan, "none", or NULL if it says nothing. */

static const char *
get(ngx_uint_t kind, const char *name, ngx_uint_t stale)
{
    ngx_str_t    n;
    static char  plan[NGX_HTTP_CLAWD_NAME_LEN + 1];

    n = str(name);
    memset(buf, 0xa5, sizeof(buf));

    if (ngx_http_clawd_cache_get(zone, kind, &n, stale, &rec, buf)
        != NGX_OK)
    {
        return NULL;
    }

    if (!rec.found) {
        return "none";
    }

    memcpy(plan, rec.plan.data, rec.plan.len);
    plan[rec.plan.len] = '\0';

    return plan;
}


static void
drop(const char *key)
{
    ngx_str_t  k;

    k = str(key);
    ngx_http_clawd_cache_drop(zone, &k);
}


#define assert_says(kind, name, stale, plan)                                  \
    do {                                                                      \
        const char  *says_ = get(kind, name, stale);                          \
        assert_non_null(says_);                                               \
        assert_string_equal(says_, plan);                                     \
    } while (0)

#define assert_silent(kind, name, stale)                                      \
    assert_null(get(kind, name, stale))


static void
test_simple(void **state)
{
    ngx_str_t  name;

    test_start(MB);

    assert_silent(USER, "alice", 0);
    assert_silent(USER, "alice", 1);

    put(USER, "alice", "gold");
    assert_says(USER, "alice", 0, "gold");

    /* a kind and a name are one thing */

    assert_silent(PLAN, "alice", 1);
    assert_silent(USER, "alic", 1);
    assert_silent(USER, "alice2", 1);
    assert_silent(USER, "Alice", 1);

    put(PLAN, "alice", "silver");
    assert_says(USER, "alice", 0, "gold");
    assert_says(PLAN, "alice", 0, "silver");

    put(USER, "alice", "bronze");
    assert_says(USER, "alice", 0, "bronze");

    put(USER, "bob", NULL);
    assert_says(USER, "bob", 0, "none");

    put(USER, "bob", "gold");
    assert_says(USER, "bob", 0, "gold");

    put(USER, "bob", NULL);
    assert_says(USER, "bob", 0, "none");

    /* names that are none, and keys of another length */

    put(USER, "", "gold");
    assert_silent(USER, "", 1);

    put(KEY, "alice", "gold");
    assert_silent(KEY, "alice", 1);

    name.data = buf;
    name.len = NGX_HTTP_CLAWD_NAME_LEN + 1;
    memset(buf, 'a', name.len);
    ngx_http_clawd_cache_put(zone, USER, &name,
                             ngx_http_clawd_cache_mark(zone, USER, &name),
                             &rec);
    assert_int_equal(ngx_http_clawd_cache_get(zone, USER, &name, 1, &rec,
                                              buf), NGX_DECLINED);
    test_end();
}


static void
test_sizes(void **state)
{
    char                     text[NGX_HTTP_CLAWD_MODELS_LEN + 1];
    size_t                   n;
    uint64_t                 mark;
    ngx_str_t                name;
    ngx_http_clawd_cache_t  *cache;

    test_start(MB);
    cache = test_area;

    assert_int_equal(cache->small.size, 256);
    assert_true(cache->large.size
                >= NGX_HTTP_CLAWD_CACHE_HEAD + NGX_HTTP_CLAWD_NAME_LEN
                   + NGX_HTTP_CLAWD_RECORD_SIZE);
    assert_int_equal(cache->small.sets * 8, MB / 8 / 256);
    assert_int_equal(cache->large.sets * 8,
                     MB / 16 / cache->large.size / 8 * 8);

    /* of each length, growing and shrinking: always the last one, once */

    memset(text, 'm', sizeof(text));
    name = str("alice");

    for (n = 0; n < 2 * sizeof(text); n++) {
        make("gold");
        rec.models.data = (u_char *) text;
        rec.models.len = (n % 2) ? n / 2 : (sizeof(text) - 1 - n / 2);

        mark = ngx_http_clawd_cache_mark(zone, USER, &name);
        ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);

        assert_says(USER, "alice", 0, "gold");
        assert_int_equal(rec.models.len,
                         (n % 2) ? n / 2 : (sizeof(text) - 1 - n / 2));
        assert_true(rec.models.data >= buf
                    && rec.models.data + rec.models.len <= buf + sizeof(buf));
    }

    drop("clawd:user:alice");
    assert_silent(USER, "alice", 1);

    /* an ordinary record of an ordinary user is a small one */

    make("gold");
    rec.models = str("qwen3:* llama3.1:8b mistral-small:* nomic-embed-text");
    rec.tz = str("America/Argentina/Buenos_Aires");
    n = ngx_http_clawd_record_pack(&rec, buf) - buf;
    assert_true(NGX_HTTP_CLAWD_CACHE_HEAD + 20 + n
                <= NGX_HTTP_CLAWD_CACHE_SMALL);

    test_end();

    /* bounds of small and large zones, and one without room */

    test_start(128 * 1024);
    cache = test_area;
    assert_int_equal(cache->small.sets * 8, 64);
    assert_int_equal(cache->large.sets * 8, 16);
    test_end();

    test_start(512 * MB);
    cache = test_area;
    assert_int_equal(cache->small.sets * 8, 65536);
    assert_int_equal(cache->large.sets * 8, 4096);
    test_end();

    assert_int_equal(test_zone(32 * 1024), NGX_ERROR);
    test_end();
}


static void
test_untold(void **state)
{
    test_start(MB);

    /* nobody tells of changes: for a second, then stale, then not at all */

    put(USER, "alice", "gold");

    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_UNTOLD;
    assert_says(USER, "alice", 0, "gold");

    ngx_current_msec++;
    assert_silent(USER, "alice", 0);
    assert_says(USER, "alice", 1, "gold");

    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_TOLD
                        - NGX_HTTP_CLAWD_CACHE_UNTOLD - 1;
    assert_says(USER, "alice", 1, "gold");

    ngx_current_msec++;
    assert_silent(USER, "alice", 1);

    /* being alive says nothing before changes are told */

    put(USER, "alice", "gold");
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 5000);
    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_UNTOLD + 1;
    assert_silent(USER, "alice", 0);

    /* another process's clock may be a little behind */

    put(USER, "alice", "gold");
    ngx_current_msec -= 300;
    assert_says(USER, "alice", 0, "gold");

    test_end();
}


static void
test_told(void **state)
{
    ngx_uint_t  i;

    test_start(MB);

    put(USER, "old", "gold");
    ngx_http_clawd_cache_told(zone);
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 2000);
    put(USER, "alice", "gold");

    /* of the time before nobody told */

    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_UNTOLD + 1;
    assert_silent(USER, "old", 0);
    assert_says(USER, "old", 1, "gold");
    assert_says(USER, "alice", 0, "gold");

    /* not longer than it is known */

    ngx_current_msec += 2000 - NGX_HTTP_CLAWD_CACHE_UNTOLD - 2;
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec++;
    assert_silent(USER, "alice", 0);
    assert_says(USER, "alice", 1, "gold");

    ngx_http_clawd_cache_alive(zone, ngx_current_msec - 500, 2000);
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec += 1499;
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec++;
    assert_silent(USER, "alice", 0);

    /* nor for ever */

    put(USER, "alice", "gold");

    for (i = 0; i < NGX_HTTP_CLAWD_CACHE_TOLD; i += 1000) {
        ngx_http_clawd_cache_alive(zone, ngx_current_msec, 2000);
        assert_says(USER, "alice", 0, "gold");
        ngx_current_msec += 1000;
    }

    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 2000);
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec++;
    assert_silent(USER, "alice", 0);
    assert_silent(USER, "alice", 1);

    /* not told any more: the second begins anew with a new entry alone */

    put(USER, "alice", "gold");
    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_UNTOLD + 1;
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 60000);
    assert_says(USER, "alice", 0, "gold");

    ngx_http_clawd_cache_untold(zone);
    assert_silent(USER, "alice", 0);
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 60000);
    assert_silent(USER, "alice", 0);

    /* told again: not of what was before */

    ngx_http_clawd_cache_told(zone);
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 60000);
    assert_silent(USER, "alice", 0);

    test_end();
}


/* The clock of a machine with 32 bits runs around; here all of 64 do. */

static void
test_wrap(void **state)
{
    test_start(MB);

    ngx_current_msec = (ngx_msec_t) -600;
    ngx_http_clawd_cache_told(zone);
    ngx_http_clawd_cache_alive(zone, ngx_current_msec, 3000);
    put(USER, "alice", "gold");

    ngx_current_msec += 1000;
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec += 1999;
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec++;
    assert_silent(USER, "alice", 0);
    assert_says(USER, "alice", 1, "gold");

    /* 32 bits of it run around in the mark */

    ngx_current_msec = 0x1ffffff00;
    put(USER, "bob", "gold");
    ngx_current_msec += 900;
    assert_says(USER, "bob", 0, "gold");

    /* and nothing comes to life again in weeks to come */

    ngx_current_msec = 0x1ffffff00 + 0x80000001;
    assert_silent(USER, "bob", 1);
    ngx_current_msec = 0x1ffffff00 + 0xffffffff;
    assert_silent(USER, "bob", 1);
    ngx_current_msec = 0x1ffffff00 + 0x100000000;
    assert_silent(USER, "bob", 1);

    /* what seems to come is long past */

    ngx_current_msec = 0x1ffffff00 - NGX_HTTP_CLAWD_CACHE_TOLD - 1;
    assert_silent(USER, "bob", 1);

    test_end();
}


static void
test_marks(void **state)
{
    uint64_t   mark;
    ngx_str_t  name, key;

    test_start(MB);
    name = str("alice");
    key = str("clawd:user:alice");

    /* changed while the server was asked */

    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    ngx_http_clawd_cache_drop(zone, &key);
    make("gold");
    ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);
    assert_silent(USER, "alice", 1);

    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    ngx_http_clawd_cache_flush(zone);
    ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);
    assert_silent(USER, "alice", 1);

    /* asked before changes were told */

    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    ngx_http_clawd_cache_told(zone);
    ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);
    assert_silent(USER, "alice", 1);

    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);
    assert_says(USER, "alice", 0, "gold");

    /* an answer that was long on its way is as old as its question */

    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    ngx_current_msec += NGX_HTTP_CLAWD_CACHE_UNTOLD;
    ngx_http_clawd_cache_put(zone, USER, &name, mark, &rec);
    assert_says(USER, "alice", 0, "gold");
    ngx_current_msec++;
    assert_silent(USER, "alice", 0);

    test_end();
}


#define HEX   "00112233445566778899aabbccddeeff"                              \
              "0123456789abcdef0123456789abcdef"
#define LONG  HEX HEX HEX
#define CAPS  "00112233445566778899AABBCCDDEEFF"                              \
              "0123456789abcdef0123456789abcdef"


static void
test_drop(void **state)
{
    u_char      digest[32];
    uint64_t    mark;
    ngx_str_t   key, hex;
    ngx_uint_t  i;

    static const char  *others[] = {
        "", "clawd:", "clawd:user:", "clawd:user", "clawd:user:alic",
        "clawd:user:alice2", "clawd:user:Alice", "clawd:plan:alice",
        "clawd:users:alice", "xclawd:user:alice", "clawd:{alice}:u:alice",
        "clawd:key:alice", "clawd:key:" CAPS, "clawd:key:" HEX "0",
        "clawd:user:" LONG
    };

    test_start(MB);

    hex = str(HEX);
    assert_int_equal(ngx_http_clawd_cache_hex(digest, &hex), NGX_OK);
    assert_int_equal(digest[1], 0x11);
    assert_int_equal(digest[31], 0xef);

    key.data = digest;
    key.len = 32;
    mark = ngx_http_clawd_cache_mark(zone, KEY, &key);
    make("by key");
    ngx_http_clawd_cache_put(zone, KEY, &key, mark, &rec);
    put(USER, "alice", "gold");
    put(USER, "bob", "gold");

    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        drop(others[i]);
    }

    assert_says(USER, "alice", 0, "gold");
    assert_int_equal(ngx_http_clawd_cache_get(zone, KEY, &key, 0, &rec, buf),
                     NGX_OK);
    assert_int_equal(rec.plan.len, 6);

    /* one bit of it makes another key */

    for (i = 0; i < 256; i++) {
        digest[i / 8] ^= 1 << i % 8;
        assert_int_equal(ngx_http_clawd_cache_get(zone, KEY, &key, 1, &rec,
                                                  buf), NGX_DECLINED);
        digest[i / 8] ^= 1 << i % 8;
    }

    drop("clawd:user:alice");
    assert_silent(USER, "alice", 1);
    assert_says(USER, "bob", 0, "gold");

    drop("clawd:key:" HEX);
    assert_int_equal(ngx_http_clawd_cache_get(zone, KEY, &key, 1, &rec, buf),
                     NGX_DECLINED);

    put(PLAN, "gold", "gold");
    drop("clawd:plan:gold");
    assert_silent(PLAN, "gold", 1);

    /* all at once, for stale use too; then it works again */

    put(USER, "alice", "gold");
    ngx_http_clawd_cache_flush(zone);
    assert_silent(USER, "alice", 1);
    assert_silent(USER, "bob", 1);
    put(USER, "bob", "silver");
    assert_says(USER, "bob", 0, "silver");

    test_end();
}


static void
test_hash(void **state)
{
    size_t                   i;
    u_char                   key[16], text[64];
    ngx_str_t                name;
    ngx_http_clawd_cache_t  *cache;

    /* the authors' vectors of SipHash-2-4 begin with the byte 0 */

    static const uint64_t  vectors[] = {
        0x74f839c593dc67fd, 0x0d6c8009d9a94f5a, 0x85676696d7fb7e2d,
        0xcf2794e0277187b7, 0x18765564cd99a68d, 0xcbc9466e58fee3ce,
        0xab0200f58b01d137, 0x93f5f5799a932462, 0x9e0082df0ba9e4b0,
        0x7a5dbbc594ddb9f3, 0xf4b32f46226bada7, 0x751e8fbc860ee5fb,
        0x14ea5627c0843d90, 0xf723ca908e7af2ee, 0xa129ca6149be45e5
    };

    for (i = 0; i < sizeof(key); i++) {
        key[i] = (u_char) i;
    }

    for (i = 0; i < sizeof(text); i++) {
        text[i] = (u_char) (i + 1);
    }

    name.data = text;

    for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        name.len = i;
        assert_int_equal(ngx_http_clawd_cache_hash(key, 0, &name),
                         vectors[i]);
    }

    /* each zone has a key that nobody knows */

    assert_int_equal(test_zone(MB), NGX_OK);
    cache = test_area;
    memcpy(key, cache->key, sizeof(key));
    test_end();

    assert_int_equal(test_zone(MB), NGX_OK);
    cache = test_area;
    assert_memory_not_equal(key, cache->key, sizeof(key));
    test_end();
}


/*
 * A million keys that nobody knows: the room stays what it was, a look-up
 * looks at as many places as before, and those at work keep theirs.
 */

static void
test_flood(void **state)
{
    char        name[32];
    u_char     *start, digest[32];
    ngx_str_t   key, user;
    ngx_uint_t  i, before, kept, most, locked;

    test_start(MB);

    key.data = digest;
    key.len = 32;
    memset(digest, 0x5a, sizeof(digest));

    for (i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        put(USER, name, "gold");
    }

    start = zone->shpool->start;

    user = str("user1");
    test_probes = 0;
    (void) test_counted_get(zone, USER, &user, 0, &rec, buf);
    (void) test_counted_get(zone, KEY, &key, 0, &rec, buf);
    before = test_probes;
    assert_true(before > 0 && before <= 40);

    most = 0;

    for (i = 0; i < 1000000; i++) {
        memcpy(digest, &i, sizeof(i));

        test_probes = 0;
        locked = test_locked;

        assert_int_equal(test_counted_get(zone, KEY, &key, 0, &rec, buf),
                         NGX_DECLINED);

        /* one look-up: two sets at most, under the mutex once */

        assert_int_equal(test_locked, locked + 1);
        most = ngx_max(most, test_probes);

        make(i % 10 ? NULL : "silver");
        ngx_http_clawd_cache_put(zone, KEY, &key,
                                 ngx_http_clawd_cache_mark(zone, KEY, &key),
                                 &rec);

        if (i % 1000 == 0) {
            ngx_current_msec++;
        }
    }

    assert_true(most <= 20);
    assert_ptr_equal(zone->shpool->start, start);

    test_probes = 0;
    (void) test_counted_get(zone, USER, &user, 0, &rec, buf);
    assert_true(test_probes <= 20);

    test_end();

    /* negative ones alone push out nobody who was there lately */

    test_start(MB);

    for (i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        put(USER, name, "gold");
    }

    for (i = 0; i < 100000; i++) {
        memcpy(digest, &i, sizeof(i));
        make(NULL);
        ngx_http_clawd_cache_put(zone, KEY, &key,
                                 ngx_http_clawd_cache_mark(zone, KEY, &key),
                                 &rec);
    }

    kept = 0;

    for (i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        kept += (get(USER, name, 0) != NULL);
    }

    assert_int_equal(kept, 100);

    /* the last one tried is there, so that trying it again costs nothing */

    assert_int_equal(ngx_http_clawd_cache_get(zone, KEY, &key, 0, &rec, buf),
                     NGX_OK);
    assert_false(rec.found);

    test_end();
}


/* How many of the users 0 to n - 1 are known; what is said of them is right. */

static ngx_uint_t
test_known(ngx_uint_t n)
{
    char         name[32];
    ngx_uint_t   i, known;
    const char  *says;

    known = 0;

    for (i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        says = get(USER, name, 1);

        if (says) {
            assert_string_equal(says, name);
            known++;
        }
    }

    return known;
}


/* Users until each place is taken. */

static void
test_fill(ngx_uint_t n)
{
    char        name[32];
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        put(USER, name, name);
    }
}


/* Sets full of users at work, and keys that nobody knows. */

static void
test_negative(void **state)
{
    u_char      digest[32];
    ngx_str_t   key;
    ngx_uint_t  i, round;

    test_start(128 * 1024);
    test_fill(1000);
    assert_int_equal(test_known(1000), 64);

    key.data = digest;
    key.len = 32;
    memset(digest, 0x5a, sizeof(digest));

    for (round = 0; round < 2; round++) {

        for (i = 0; i < 10000; i++) {
            memcpy(digest, &i, sizeof(i));
            make(NULL);
            ngx_http_clawd_cache_put(zone, KEY, &key,
                                 ngx_http_clawd_cache_mark(zone, KEY, &key),
                                 &rec);
        }

        /* of those that rest for a minute one of each set makes room */

        if (round == 0) {
            assert_int_equal(test_known(1000), 64);
            ngx_current_msec += 1000 * NGX_HTTP_CLAWD_CACHE_RECENT;
        }
    }

    assert_int_equal(test_known(1000), 56);

    test_end();
}


/* That a plan or a user has no record is kept like any that was found. */

static void
test_absent(void **state)
{
    u_char      digest[32];
    ngx_str_t   key;
    ngx_uint_t  i;

    test_start(128 * 1024);
    test_fill(1000);

    put(PLAN, "default", NULL);
    assert_says(PLAN, "default", 0, "none");

    put(USER, "static", NULL);
    assert_says(USER, "static", 0, "none");

    key.data = digest;
    key.len = 32;
    memset(digest, 0x5a, sizeof(digest));

    for (i = 0; i < 10000; i++) {
        memcpy(digest, &i, sizeof(i));
        make(NULL);
        ngx_http_clawd_cache_put(zone, KEY, &key,
                                 ngx_http_clawd_cache_mark(zone, KEY, &key),
                                 &rec);
    }

    assert_says(PLAN, "default", 0, "none");
    assert_says(USER, "static", 0, "none");

    test_end();
}


/* Of a full set the longest unused one goes. */

static void
test_oldest(void **state)
{
    char        name[32];
    ngx_uint_t  i, known;

    test_start(128 * 1024);
    ngx_http_clawd_cache_told(zone);

    put(USER, "worker", "gold");

    for (i = 0; i < 10000; i++) {
        ngx_current_msec += 1000;
        ngx_http_clawd_cache_alive(zone, ngx_current_msec, 2000);

        if (i % 500 == 0) {
            put(USER, "worker", "gold");
        }

        assert_says(USER, "worker", 0, "gold");

        snprintf(name, sizeof(name), "user%lu", (unsigned long) i);
        put(USER, name, name);
        assert_says(USER, name, 0, name);
    }

    /* the others' places were in use, as far as there are any */

    known = test_known(10000);
    assert_true(known >= 48 && known <= 63);

    test_end();
}


/* Puts a new record of alice, and dies at a step of it. */

static void
test_child(ngx_uint_t step, ngx_uint_t large)
{
    char       text[400];
    uint64_t   mark;
    ngx_str_t  name;

    name = str("alice");
    mark = ngx_http_clawd_cache_mark(zone, USER, &name);
    make("newnewnewnewnewnewnewnewn");

    if (large) {
        memset(text, 'm', sizeof(text));
        rec.models.data = (u_char *) text;
        rec.models.len = sizeof(text);
    }

    test_steps = step;
    test_counted_put(zone, USER, &name, mark, &rec);
    _exit(0);
}


static ngx_uint_t
test_kill(ngx_uint_t step, ngx_uint_t large)
{
    int    status;
    pid_t  pid;

    pid = fork();
    assert_true(pid >= 0);

    if (pid == 0) {
        test_child(step, large);
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);

    if (!WIFSIGNALED(status)) {
        assert_int_equal(status, 0);
        return 0;
    }

    /* the master gives back the mutex of one that died */

    zone->shpool->lock.lock = 0;

    return 1;
}


/*
 * A process that is killed at any step inside of the mutex: what is read
 * afterwards is the old record, the new one, or nothing; never a mix, neither
 * of alice nor of whose place she took.
 */

static void
test_killed(void **state)
{
    ngx_uint_t   step, died, large, full;
    const char  *says;

    for (large = 0; large < 4; large++) {
        full = large / 2;

        for (step = 1, died = 1; died; step++) {
            test_start(128 * 1024);

            if (full) {
                test_fill(1000);

            } else {
                put(USER, "alice", "old-old-old-old-old");
            }

            died = test_kill(step, large % 2);
            says = get(USER, "alice", 1);

            if (!died) {
                assert_non_null(says);
            }

            if (says) {
                assert_true(strcmp(says, "newnewnewnewnewnewnewnewn") == 0
                            || (!full
                                && strcmp(says, "old-old-old-old-old") == 0));
            }

            (void) test_known(1000);

            /* and the place is of use again */

            put(USER, "alice", "next");
            assert_says(USER, "alice", 0, "next");
            drop("clawd:user:alice");
            assert_silent(USER, "alice", 1);

            test_end();
        }

        assert_true(step > 6);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_simple),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_untold),
        cmocka_unit_test(test_told),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_negative),
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_oldest),
        cmocka_unit_test(test_killed)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
