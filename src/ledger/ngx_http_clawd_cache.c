/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_cache.h"
#include "ngx_http_clawd_digest.h"

#include <openssl/rand.h>


#define NGX_HTTP_CLAWD_CACHE_VERSION    1
#define NGX_HTTP_CLAWD_CACHE_PLACE      1       /* in the list of areas */

#ifndef NGX_HTTP_CLAWD_CACHE_WAYS
#define NGX_HTTP_CLAWD_CACHE_WAYS       8       /* places of a set */
#endif

#define NGX_HTTP_CLAWD_CACHE_SMALL      256     /* bytes of a place */
#define NGX_HTTP_CLAWD_CACHE_SMALL_MIN  64      /* places */
#define NGX_HTTP_CLAWD_CACHE_SMALL_MAX  65536
#define NGX_HTTP_CLAWD_CACHE_LARGE_MIN  16
#define NGX_HTTP_CLAWD_CACHE_LARGE_MAX  4096

/* a record that was used so lately makes no room for a negative entry, in s */
#define NGX_HTTP_CLAWD_CACHE_RECENT     60


/*
 * A place.  Its fields are good while ready is 1: whoever writes them clears it
 * first and sets it last, so that a process that is killed in between leaves
 * an empty place.
 */

typedef struct {
    ngx_atomic_t    ready;
    uint64_t        hash;
    ngx_msec_t      made;         /* ngx_current_msec, as the mark has it */
    uint32_t        used;         /* the same clock in seconds */
    uint32_t        generation;
    uint32_t        flushes;
    uint16_t        len;          /* of the packed record, after the name */
    uint8_t         name_len;
    uint8_t         kind;
    uint8_t         negative;     /* a key that nobody knows */
    u_char          data[];       /* name, packed record; to the place's end */
} ngx_http_clawd_cache_entry_t;

#define NGX_HTTP_CLAWD_CACHE_HEAD                                             \
    offsetof(ngx_http_clawd_cache_entry_t, data)

/* bytes of a place for any record */
#define NGX_HTTP_CLAWD_CACHE_LARGE                                            \
    ngx_align(NGX_HTTP_CLAWD_CACHE_HEAD + NGX_HTTP_CLAWD_NAME_LEN             \
              + NGX_HTTP_CLAWD_RECORD_SIZE, 64)


/* written once; sets of places, one after the other */

typedef struct {
    u_char         *data;
    size_t          size;         /* of a place */
    uint32_t        sets;
} ngx_http_clawd_cache_table_t;


/* the area: written under the mutex, but for what is written once */

typedef struct {
    u_char                         key[16];      /* written once */
    ngx_http_clawd_cache_table_t   small;
    ngx_http_clawd_cache_table_t   large;

    uint32_t                      *drops;        /* of each set of small */
    uint32_t                       flushes;
    uint32_t                       generation;
    ngx_uint_t                     told;         /* 1: changes are told… */
    ngx_uint_t                     known;        /* …and alive is set: */
    ngx_msec_t                     alive;        /* …until then */
} ngx_http_clawd_cache_t;


/* what is asked for: all that is worked out before the mutex is taken */

typedef struct {
    ngx_http_clawd_cache_t        *cache;
    ngx_http_clawd_record_e        kind;
    ngx_str_t                     *name;
    uint64_t                       hash;
    uint32_t                      *drops;
    ngx_http_clawd_cache_table_t  *tables[2];
    u_char                        *sets[2];
} ngx_http_clawd_cache_ask_t;


static ngx_int_t ngx_http_clawd_cache_init(ngx_http_clawd_zone_t *zone,
    void *area);
static ngx_int_t ngx_http_clawd_cache_table(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_cache_table_t *table, size_t size, size_t room,
    ngx_uint_t min, ngx_uint_t max);
static ngx_int_t ngx_http_clawd_cache_ask(ngx_http_clawd_cache_ask_t *ask,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_record_e kind,
    ngx_str_t *name);
static ngx_http_clawd_cache_entry_t *ngx_http_clawd_cache_place(
    ngx_http_clawd_cache_ask_t *ask, ngx_uint_t table, ngx_uint_t way);
static ngx_http_clawd_cache_entry_t *ngx_http_clawd_cache_find(
    ngx_http_clawd_cache_ask_t *ask);
static ngx_uint_t ngx_http_clawd_cache_same(ngx_http_clawd_cache_ask_t *ask,
    ngx_http_clawd_cache_entry_t *e);
static ngx_uint_t ngx_http_clawd_cache_usable(ngx_http_clawd_cache_t *cache,
    ngx_http_clawd_cache_entry_t *e, ngx_uint_t stale);
static ngx_msec_t ngx_http_clawd_cache_age(ngx_http_clawd_cache_entry_t *e);
static uint32_t ngx_http_clawd_cache_idle(ngx_http_clawd_cache_entry_t *e);
static uint32_t ngx_http_clawd_cache_count(ngx_http_clawd_cache_ask_t *ask);
static ngx_http_clawd_cache_entry_t *ngx_http_clawd_cache_victim(
    ngx_http_clawd_cache_ask_t *ask, ngx_uint_t table, ngx_uint_t negative);
static ngx_int_t ngx_http_clawd_cache_key(ngx_str_t *key,
    ngx_http_clawd_record_e *kind, ngx_str_t *name, u_char *digest);
static ngx_int_t ngx_http_clawd_cache_hex(u_char *dst, ngx_str_t *hex);
static uint64_t ngx_http_clawd_cache_hash(u_char *key,
    ngx_http_clawd_record_e kind, ngx_str_t *name);
static void ngx_http_clawd_cache_round(uint64_t *v, ngx_uint_t n);
static uint64_t ngx_http_clawd_cache_word(u_char *p, size_t len);


ngx_http_clawd_area_t  ngx_http_clawd_cache_area = {
    "cache",
    NGX_HTTP_CLAWD_CACHE_VERSION,
    sizeof(ngx_http_clawd_cache_t),
    0,
    ngx_http_clawd_cache_init,
    NULL
};


/* in the order of ngx_http_clawd_record_e */

static ngx_str_t  ngx_http_clawd_cache_prefixes[NGX_HTTP_CLAWD_RECORDS] = {
    ngx_string("clawd:key:"),
    ngx_string("clawd:user:"),
    ngx_string("clawd:plan:")
};


static ngx_int_t
ngx_http_clawd_cache_init(ngx_http_clawd_zone_t *zone, void *area)
{
    ngx_http_clawd_cache_t *cache = area;

    size_t  size;

    size = zone->shm_zone->shm.size;

    if (RAND_bytes(cache->key, sizeof(cache->key)) != 1) {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_cache_table(zone, &cache->small,
                                   NGX_HTTP_CLAWD_CACHE_SMALL, size / 8,
                                   NGX_HTTP_CLAWD_CACHE_SMALL_MIN,
                                   NGX_HTTP_CLAWD_CACHE_SMALL_MAX)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_cache_table(zone, &cache->large,
                                   NGX_HTTP_CLAWD_CACHE_LARGE, size / 16,
                                   NGX_HTTP_CLAWD_CACHE_LARGE_MIN,
                                   NGX_HTTP_CLAWD_CACHE_LARGE_MAX)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    cache->drops = ngx_slab_calloc(zone->shpool,
                                   cache->small.sets * sizeof(uint32_t));
    if (cache->drops == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_cache_table(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_cache_table_t *table, size_t size, size_t room,
    ngx_uint_t min, ngx_uint_t max)
{
    ngx_uint_t  n;

    n = room / size;
    n = ngx_max(n, min);
    n = ngx_min(n, max);

    table->size = size;
    table->sets = (uint32_t) (n / NGX_HTTP_CLAWD_CACHE_WAYS);

    n = table->sets * NGX_HTTP_CLAWD_CACHE_WAYS;

    table->data = ngx_slab_calloc(zone->shpool, n * size);
    if (table->data == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_cache_get(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_uint_t stale,
    ngx_http_clawd_record_t *rec, u_char *buf)
{
    size_t                         len;
    ngx_http_clawd_cache_ask_t     ask;
    ngx_http_clawd_cache_entry_t  *e;

    if (ngx_http_clawd_cache_ask(&ask, zone, kind, name) != NGX_OK) {
        return NGX_DECLINED;
    }

    len = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    e = ngx_http_clawd_cache_find(&ask);

    if (e && ngx_http_clawd_cache_usable(ask.cache, e, stale)) {
        e->used = (uint32_t) (ngx_current_msec / 1000);
        len = e->len;
        ngx_memcpy(buf, e->data + e->name_len, len);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (len == 0 || ngx_http_clawd_record_unpack(rec, buf, len) != NGX_OK) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


uint64_t
ngx_http_clawd_cache_mark(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name)
{
    uint64_t                    mark;
    ngx_http_clawd_cache_ask_t  ask;

    if (ngx_http_clawd_cache_ask(&ask, zone, kind, name) != NGX_OK) {
        return 0;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    mark = ngx_http_clawd_cache_count(&ask);

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return mark << 32 | (uint32_t) ngx_current_msec;
}


void
ngx_http_clawd_cache_put(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_record_e kind, ngx_str_t *name, uint64_t mark,
    ngx_http_clawd_record_t *rec)
{
    size_t                         len;
    u_char                         packed[NGX_HTTP_CLAWD_RECORD_SIZE];
    ngx_uint_t                     table, negative;
    ngx_http_clawd_cache_ask_t     ask;
    ngx_http_clawd_cache_entry_t  *e;

    if (ngx_http_clawd_cache_ask(&ask, zone, kind, name) != NGX_OK) {
        return;
    }

    len = ngx_http_clawd_record_pack(rec, packed) - packed;

    /*
     * Anybody can try a token.  That a user or a plan has no record is what
     * each request of those at work wants to know.
     */

    negative = (!rec->found && kind == NGX_HTTP_CLAWD_RECORD_KEY);

    table = (NGX_HTTP_CLAWD_CACHE_HEAD + name->len + len
             > NGX_HTTP_CLAWD_CACHE_SMALL);

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (ngx_http_clawd_cache_count(&ask) != (uint32_t) (mark >> 32)) {
        goto done;
    }

    /* the one before may be of the other size: never two of a name */

    e = ngx_http_clawd_cache_find(&ask);

    if (e) {
        e->ready = 0;
    }

    e = ngx_http_clawd_cache_victim(&ask, table, negative);

    if (e == NULL) {
        goto done;
    }

    e->ready = 0;
    ngx_memory_barrier();

    e->hash = ask.hash;
    e->made = ngx_current_msec - ((uint32_t) ngx_current_msec
                                  - (uint32_t) mark);
    e->used = (uint32_t) (ngx_current_msec / 1000);
    e->generation = ask.cache->generation;
    e->flushes = ask.cache->flushes;
    e->len = (uint16_t) len;
    e->name_len = (uint8_t) name->len;
    e->kind = (uint8_t) kind;
    e->negative = (uint8_t) negative;

    ngx_memcpy(e->data, name->data, name->len);
    ngx_memcpy(e->data + name->len, packed, len);

    ngx_memory_barrier();
    e->ready = 1;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_clawd_cache_drop(ngx_http_clawd_zone_t *zone, ngx_str_t *key)
{
    u_char                         digest[NGX_HTTP_CLAWD_DIGEST_LEN];
    ngx_str_t                      name;
    ngx_http_clawd_record_e        kind;
    ngx_http_clawd_cache_ask_t     ask;
    ngx_http_clawd_cache_entry_t  *e;

    if (ngx_http_clawd_cache_key(key, &kind, &name, digest) != NGX_OK
        || ngx_http_clawd_cache_ask(&ask, zone, kind, &name) != NGX_OK)
    {
        return;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    e = ngx_http_clawd_cache_find(&ask);

    if (e) {
        e->ready = 0;
    }

    (*ask.drops)++;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_clawd_cache_flush(ngx_http_clawd_zone_t *zone)
{
    ngx_http_clawd_cache_t  *cache;

    cache = ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_CACHE_PLACE);

    ngx_shmtx_lock(&zone->shpool->mutex);

    cache->flushes++;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_clawd_cache_told(ngx_http_clawd_zone_t *zone)
{
    ngx_http_clawd_cache_t  *cache;

    cache = ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_CACHE_PLACE);

    ngx_shmtx_lock(&zone->shpool->mutex);

    /* what was known of the time before says nothing of new entries */

    cache->known = 0;
    cache->generation++;
    cache->told = 1;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_clawd_cache_alive(ngx_http_clawd_zone_t *zone, ngx_msec_t since,
    ngx_msec_t msec)
{
    ngx_http_clawd_cache_t  *cache;

    cache = ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_CACHE_PLACE);

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (cache->told) {
        cache->alive = since + msec;
        ngx_memory_barrier();
        cache->known = 1;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_clawd_cache_untold(ngx_http_clawd_zone_t *zone)
{
    ngx_http_clawd_cache_t  *cache;

    cache = ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_CACHE_PLACE);

    ngx_shmtx_lock(&zone->shpool->mutex);

    cache->known = 0;
    cache->told = 0;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static ngx_int_t
ngx_http_clawd_cache_ask(ngx_http_clawd_cache_ask_t *ask,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_record_e kind,
    ngx_str_t *name)
{
    uint64_t                       set;
    ngx_uint_t                     i;
    ngx_http_clawd_cache_t        *cache;
    ngx_http_clawd_cache_table_t  *table;

    if (kind == NGX_HTTP_CLAWD_RECORD_KEY) {

        if (name->len != NGX_HTTP_CLAWD_DIGEST_LEN) {
            return NGX_ERROR;
        }

    } else if (name->len == 0 || name->len > NGX_HTTP_CLAWD_NAME_LEN) {
        return NGX_ERROR;
    }

    cache = ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_CACHE_PLACE);

    ask->cache = cache;
    ask->kind = kind;
    ask->name = name;
    ask->hash = ngx_http_clawd_cache_hash(cache->key, kind, name);

    ask->tables[0] = &cache->small;
    ask->tables[1] = &cache->large;

    /* each table takes 32 bits of the hash as a fraction of its sets */

    for (i = 0; i < 2; i++) {
        table = ask->tables[i];
        set = ((ask->hash >> (32 * i)) & 0xffffffff) * table->sets >> 32;

        ask->sets[i] = table->data
                       + set * NGX_HTTP_CLAWD_CACHE_WAYS * table->size;

        if (i == 0) {
            ask->drops = &cache->drops[set];
        }
    }

    return NGX_OK;
}


static ngx_http_clawd_cache_entry_t *
ngx_http_clawd_cache_place(ngx_http_clawd_cache_ask_t *ask, ngx_uint_t table,
    ngx_uint_t way)
{
    return (ngx_http_clawd_cache_entry_t *)
                         (ask->sets[table] + way * ask->tables[table]->size);
}


/* All below, but for the hash and the names of keys: under the mutex. */

static ngx_http_clawd_cache_entry_t *
ngx_http_clawd_cache_find(ngx_http_clawd_cache_ask_t *ask)
{
    ngx_uint_t                     i, table;
    ngx_http_clawd_cache_entry_t  *e;

    for (table = 0; table < 2; table++) {

        for (i = 0; i < NGX_HTTP_CLAWD_CACHE_WAYS; i++) {
            e = ngx_http_clawd_cache_place(ask, table, i);

            if (ngx_http_clawd_cache_same(ask, e)) {
                return e;
            }
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_clawd_cache_same(ngx_http_clawd_cache_ask_t *ask,
    ngx_http_clawd_cache_entry_t *e)
{
    if (!e->ready || e->hash != ask->hash || e->kind != ask->kind
        || e->name_len != ask->name->len)
    {
        return 0;
    }

    if (ask->kind == NGX_HTTP_CLAWD_RECORD_KEY) {
        return ngx_http_clawd_digest_equal(e->data, ask->name->data);
    }

    return ngx_memcmp(e->data, ask->name->data, e->name_len) == 0;
}


static ngx_uint_t
ngx_http_clawd_cache_usable(ngx_http_clawd_cache_t *cache,
    ngx_http_clawd_cache_entry_t *e, ngx_uint_t stale)
{
    ngx_msec_t  age;

    age = ngx_http_clawd_cache_age(e);

    if (e->flushes != cache->flushes || age > NGX_HTTP_CLAWD_CACHE_TOLD) {
        return 0;
    }

    if (stale || age <= NGX_HTTP_CLAWD_CACHE_UNTOLD) {
        return 1;
    }

    return cache->known
           && e->generation == cache->generation
           && (ngx_msec_int_t) (cache->alive - ngx_current_msec) > 0;
}


/*
 * In ms.  Another process may have a clock that is a little ahead of this
 * one's; what seems further ahead is so old that a clock of 32 bits has run
 * around.
 */

static ngx_msec_t
ngx_http_clawd_cache_age(ngx_http_clawd_cache_entry_t *e)
{
    ngx_msec_int_t  age;

    age = (ngx_msec_int_t) (ngx_current_msec - e->made);

    if (age < 0 && age > -NGX_HTTP_CLAWD_CACHE_TOLD) {
        return 0;
    }

    return (ngx_msec_t) age;
}


static uint32_t
ngx_http_clawd_cache_idle(ngx_http_clawd_cache_entry_t *e)
{
    int32_t  idle;

    idle = (int32_t) ((uint32_t) (ngx_current_msec / 1000) - e->used);

    return (idle < 0) ? 0 : idle;
}


/* Grows with whatever makes an answer too old: none of the three goes back. */

static uint32_t
ngx_http_clawd_cache_count(ngx_http_clawd_cache_ask_t *ask)
{
    return *ask->drops + ask->cache->flushes + ask->cache->generation;
}


/*
 * The place for a new entry: an empty one, one too old for any use, a negative
 * one, the longest unused one, in this order.  Tokens that are tried at random
 * must not push out the records of those who are at work: NULL for them.
 */

static ngx_http_clawd_cache_entry_t *
ngx_http_clawd_cache_victim(ngx_http_clawd_cache_ask_t *ask,
    ngx_uint_t table, ngx_uint_t negative)
{
    uint64_t                       rank, best;
    ngx_uint_t                     i;
    ngx_http_clawd_cache_entry_t  *e, *victim;

    best = 0;
    victim = NULL;

    for (i = 0; i < NGX_HTTP_CLAWD_CACHE_WAYS; i++) {
        e = ngx_http_clawd_cache_place(ask, table, i);

        if (!e->ready || e->flushes != ask->cache->flushes) {
            return e;
        }

        rank = (uint64_t) ngx_http_clawd_cache_idle(e) + 1;

        if (ngx_http_clawd_cache_age(e) > NGX_HTTP_CLAWD_CACHE_TOLD) {
            rank |= (uint64_t) 1 << 33;

        } else if (e->negative) {
            rank |= (uint64_t) 1 << 32;

        } else if (negative && rank <= NGX_HTTP_CLAWD_CACHE_RECENT) {
            continue;
        }

        if (rank > best) {
            best = rank;
            victim = e;
        }
    }

    return victim;
}


static ngx_int_t
ngx_http_clawd_cache_key(ngx_str_t *key, ngx_http_clawd_record_e *kind,
    ngx_str_t *name, u_char *digest)
{
    ngx_str_t   *prefix;
    ngx_uint_t   i;

    for (i = 0; i < NGX_HTTP_CLAWD_RECORDS; i++) {
        prefix = &ngx_http_clawd_cache_prefixes[i];

        if (key->len < prefix->len
            || ngx_memcmp(key->data, prefix->data, prefix->len) != 0)
        {
            continue;
        }

        *kind = i;
        name->data = key->data + prefix->len;
        name->len = key->len - prefix->len;

        if (i != NGX_HTTP_CLAWD_RECORD_KEY) {
            return NGX_OK;
        }

        if (ngx_http_clawd_cache_hex(digest, name) != NGX_OK) {
            return NGX_ERROR;
        }

        name->data = digest;
        name->len = NGX_HTTP_CLAWD_DIGEST_LEN;

        return NGX_OK;
    }

    return NGX_ERROR;
}


/* Lower case alone: in another case it is the name of another record. */

static ngx_int_t
ngx_http_clawd_cache_hex(u_char *dst, ngx_str_t *hex)
{
    u_char  c;
    size_t  i;

    if (hex->len != 2 * NGX_HTTP_CLAWD_DIGEST_LEN) {
        return NGX_ERROR;
    }

    for (i = 0; i < hex->len; i++) {
        c = hex->data[i];

        if (c >= '0' && c <= '9') {
            c -= '0';

        } else if (c >= 'a' && c <= 'f') {
            c = c - 'a' + 10;

        } else {
            return NGX_ERROR;
        }

        dst[i / 2] = (i % 2) ? (dst[i / 2] | c) : (u_char) (c << 4);
    }

    return NGX_OK;
}


/*
 * SipHash-2-4 of the kind's byte and the name: without the key nobody can
 * choose names that meet in one set.
 */

static uint64_t
ngx_http_clawd_cache_hash(u_char *key, ngx_http_clawd_record_e kind,
    ngx_str_t *name)
{
    size_t     i, len;
    u_char     text[1 + NGX_HTTP_CLAWD_NAME_LEN];
    uint64_t   k0, k1, word, v[4];

    text[0] = (u_char) kind;
    ngx_memcpy(text + 1, name->data, name->len);
    len = 1 + name->len;

    k0 = ngx_http_clawd_cache_word(key, 8);
    k1 = ngx_http_clawd_cache_word(key + 8, 8);

    v[0] = k0 ^ 0x736f6d6570736575;
    v[1] = k1 ^ 0x646f72616e646f6d;
    v[2] = k0 ^ 0x6c7967656e657261;
    v[3] = k1 ^ 0x7465646279746573;

    for (i = 0; i + 8 <= len; i += 8) {
        word = ngx_http_clawd_cache_word(text + i, 8);

        v[3] ^= word;
        ngx_http_clawd_cache_round(v, 2);
        v[0] ^= word;
    }

    word = ngx_http_clawd_cache_word(text + i, len - i)
           | (uint64_t) len << 56;

    v[3] ^= word;
    ngx_http_clawd_cache_round(v, 2);
    v[0] ^= word;

    v[2] ^= 0xff;
    ngx_http_clawd_cache_round(v, 4);

    return v[0] ^ v[1] ^ v[2] ^ v[3];
}


#define ngx_http_clawd_cache_rotate(x, n)  ((x) << (n) | (x) >> (64 - (n)))


static void
ngx_http_clawd_cache_round(uint64_t *v, ngx_uint_t n)
{
    while (n--) {
        v[0] += v[1];
        v[1] = ngx_http_clawd_cache_rotate(v[1], 13) ^ v[0];
        v[0] = ngx_http_clawd_cache_rotate(v[0], 32);

        v[2] += v[3];
        v[3] = ngx_http_clawd_cache_rotate(v[3], 16) ^ v[2];

        v[0] += v[3];
        v[3] = ngx_http_clawd_cache_rotate(v[3], 21) ^ v[0];

        v[2] += v[1];
        v[1] = ngx_http_clawd_cache_rotate(v[1], 17) ^ v[2];
        v[2] = ngx_http_clawd_cache_rotate(v[2], 32);
    }
}


/* Up to 8 bytes, the lowest first, whatever the machine. */

static uint64_t
ngx_http_clawd_cache_word(u_char *p, size_t len)
{
    uint64_t  word;

    word = 0;

    while (len--) {
        word = word << 8 | p[len];
    }

    return word;
}
