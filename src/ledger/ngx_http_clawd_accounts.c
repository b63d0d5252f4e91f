/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_accounts.h"

#include <openssl/rand.h>


#define NGX_HTTP_CLAWD_ACCOUNTS_PLACE    2    /* in the list of areas */
#define NGX_HTTP_CLAWD_ACCOUNTS_VERSION  5

/* of the zone's size, what accounts and flights get each */
#define NGX_HTTP_CLAWD_ACCOUNTS_SHARE    8

#define NGX_HTTP_CLAWD_ACCOUNTS_MIN      64
#define NGX_HTTP_CLAWD_ACCOUNTS_MAX      65536

/* flights that were freed last and are taken first: their memory is warm */
#define NGX_HTTP_CLAWD_FLIGHTS_WARM      64

/* how far from its place an account may stand */
#define NGX_HTTP_CLAWD_ACCOUNTS_PROBE    32


static ngx_int_t ngx_http_clawd_accounts_init(ngx_http_clawd_zone_t *zone,
    void *area);
static ngx_uint_t ngx_http_clawd_accounts_fit(size_t bytes, size_t size);
static ngx_uint_t ngx_http_clawd_account_spent(ngx_http_clawd_account_t *acc,
    ngx_uint_t keep);
static ngx_http_clawd_flight_t *ngx_http_clawd_flight_find(
    ngx_http_clawd_accounts_t *a);
static void ngx_http_clawd_flight_rid(ngx_http_clawd_zone_t *zone,
    u_char *rid);
static void ngx_http_clawd_flight_inherit(ngx_http_clawd_accounts_t *a,
    ngx_http_clawd_flight_t *f);
static void ngx_http_clawd_accounts_recount(ngx_http_clawd_zone_t *zone);


/* of this process: indexes, which a reload of the one process may outdate */

static uint32_t    ngx_http_clawd_warm[NGX_HTTP_CLAWD_FLIGHTS_WARM];
static ngx_uint_t  ngx_http_clawd_nwarm;


ngx_http_clawd_area_t  ngx_http_clawd_accounts_area = {
    "ledger",
    NGX_HTTP_CLAWD_ACCOUNTS_VERSION,
    sizeof(ngx_http_clawd_accounts_t),
    0,
    ngx_http_clawd_accounts_init,
    NULL
};


ngx_http_clawd_accounts_t *
ngx_http_clawd_accounts(ngx_http_clawd_zone_t *zone)
{
    return ngx_http_clawd_zone_area(zone, NGX_HTTP_CLAWD_ACCOUNTS_PLACE);
}


static ngx_int_t
ngx_http_clawd_accounts_init(ngx_http_clawd_zone_t *zone, void *area)
{
    ngx_http_clawd_accounts_t *a = area;

    size_t  bytes;
    u_char  boot[4];

    if (RAND_bytes(boot, sizeof(boot)) != 1
        || RAND_bytes((u_char *) &a->seed, sizeof(a->seed)) != 1)
    {
        return NGX_ERROR;
    }

    (void) ngx_hex_dump(a->boot, boot, sizeof(boot));

    bytes = zone->shm_zone->shm.size / NGX_HTTP_CLAWD_ACCOUNTS_SHARE;

    a->naccounts = ngx_http_clawd_accounts_fit(bytes,
                                           sizeof(ngx_http_clawd_account_t));
    a->nflights = ngx_http_clawd_accounts_fit(bytes,
                                           sizeof(ngx_http_clawd_flight_t));

    a->accounts = ngx_slab_calloc(zone->shpool,
                         a->naccounts * sizeof(ngx_http_clawd_account_t));
    if (a->accounts == NULL) {
        return NGX_ERROR;
    }

    a->flights = ngx_slab_calloc(zone->shpool,
                         a->nflights * sizeof(ngx_http_clawd_flight_t));
    if (a->flights == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_accounts_fit(size_t bytes, size_t size)
{
    ngx_uint_t  n;

    n = bytes / size;

    n = ngx_max(n, NGX_HTTP_CLAWD_ACCOUNTS_MIN);

    return ngx_min(n, NGX_HTTP_CLAWD_ACCOUNTS_MAX);
}


/* names are an admin's, not an attacker's: a plain hash, seeded, is enough */

uint32_t
ngx_http_clawd_account_hash(ngx_http_clawd_accounts_t *a, ngx_str_t *name)
{
    size_t    i;
    uint32_t  hash;

    hash = a->seed;

    for (i = 0; i < name->len; i++) {
        hash = (hash ^ name->data[i]) * 16777619;
    }

    return hash ^ (hash >> 16);
}


ngx_http_clawd_account_t *
ngx_http_clawd_account_find_locked(ngx_http_clawd_accounts_t *a,
    ngx_str_t *name, uint32_t hash)
{
    ngx_uint_t                 i;
    ngx_http_clawd_account_t  *acc;

    for (i = 0; i < NGX_HTTP_CLAWD_ACCOUNTS_PROBE; i++) {
        acc = &a->accounts[(hash + i) % a->naccounts];

        if (acc->name_len == name->len
            && ngx_memcmp(acc->name, name->data, name->len) == 0)
        {
            return acc;
        }
    }

    return NULL;
}


ngx_http_clawd_account_t *
ngx_http_clawd_account_locked(ngx_http_clawd_accounts_t *a, ngx_str_t *name,
    uint32_t hash, ngx_uint_t keep)
{
    ngx_uint_t                 i;
    ngx_http_clawd_account_t  *acc, *victim;

    acc = ngx_http_clawd_account_find_locked(a, name, hash);

    if (acc) {
        acc->seen = ngx_time();
        return acc;
    }

    victim = NULL;

    for (i = 0; i < NGX_HTTP_CLAWD_ACCOUNTS_PROBE; i++) {
        acc = &a->accounts[(hash + i) % a->naccounts];

        if (!ngx_http_clawd_account_spent(acc, keep)) {
            continue;
        }

        if (victim == NULL
            || (victim->name_len && acc->seen < victim->seen))
        {
            victim = acc;
        }
    }

    if (victim == NULL) {
        return NULL;
    }

    /* the length is what makes it one: it goes first and comes last */

    victim->name_len = 0;
    ngx_memory_barrier();

    ngx_memzero(victim, sizeof(ngx_http_clawd_account_t));
    ngx_memcpy(victim->name, name->data, name->len);
    victim->seen = ngx_time();

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        victim->terms.limits[i] = NGX_HTTP_CLAWD_UNLIMITED;
    }

    ngx_memory_barrier();
    victim->name_len = name->len;

    return victim;
}


/* whether its place may be given to another; free ones first of all */

static ngx_uint_t
ngx_http_clawd_account_spent(ngx_http_clawd_account_t *acc, ngx_uint_t keep)
{
    if (acc->name_len == 0) {
        acc->seen = 0;
        return 1;
    }

    if (acc->live) {
        return 0;
    }

    /* a month has 31 days, and any time zone is a day away at most */

    return !keep || ngx_time() - acc->seen > 33 * 86400;
}


ngx_http_clawd_flight_t *
ngx_http_clawd_flight_take(ngx_http_clawd_zone_t *zone, ngx_str_t *user)
{
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);

    f = ngx_http_clawd_flight_find(a);
    if (f == NULL) {
        return NULL;
    }

    ngx_memzero(&f->s, sizeof(ngx_http_clawd_settlement_t));
    ngx_http_clawd_flight_rid(zone, f->s.rid);

    f->s.user_len = user->len;
    ngx_memcpy(f->s.user, user->data, user->len);

    f->s.tpm = NGX_HTTP_CLAWD_UNLIMITED;
    f->since = ngx_current_msec;
    f->beaten = 0;
    f->account = a->naccounts;
    f->upstream = 0;
    f->local = 0;
    f->sending = 0;
    f->spooled = 0;

    /* of a process that dies before this, it is FREE and given back */

    ngx_memory_barrier();
    f->state = NGX_HTTP_CLAWD_FLIGHT_ASKED;

    return f;
}


/* a free one, which is this process's from now on */

static ngx_http_clawd_flight_t *
ngx_http_clawd_flight_find(ngx_http_clawd_accounts_t *a)
{
    ngx_uint_t                i, n;
    ngx_http_clawd_flight_t  *f;

    static ngx_uint_t  next;

    if (next == 0) {
        next = (ngx_uint_t) ngx_process_slot * 61;
    }

    for (i = 0; i < a->nflights + NGX_HTTP_CLAWD_FLIGHTS_WARM; i++) {

        if (ngx_http_clawd_nwarm) {
            n = ngx_http_clawd_warm[--ngx_http_clawd_nwarm];

        } else {
            n = next++;
        }

        f = &a->flights[n % a->nflights];

        if (f->owner == 0 && ngx_atomic_cmp_set(&f->owner, 0, ngx_pid)) {
            return f;
        }
    }

    return NULL;
}


/* unique over restarts and claims: a boot id, the process, and a count */

static void
ngx_http_clawd_flight_rid(ngx_http_clawd_zone_t *zone, u_char *rid)
{
    u_char         *p, *digit;
    ngx_uint_t      generation;
    u_char          process[4];

    static u_char   count[] = "0000000000000000";

    generation = zone->proc ? zone->proc->generation : 0;

    process[0] = (u_char) (ngx_process_slot >> 8);
    process[1] = (u_char) ngx_process_slot;
    process[2] = (u_char) (generation >> 8);
    process[3] = (u_char) generation;

    /* counted as text, since each request needs one */

    for (digit = count + 15; *digit == 'f'; digit--) {
        *digit = '0';
    }

    *digit = (*digit == '9') ? 'a' : *digit + 1;

    p = ngx_cpymem(rid, ngx_http_clawd_accounts(zone)->boot, 8);
    p = ngx_hex_dump(p, process, sizeof(process));
    ngx_memcpy(p, count, 16);
}


void
ngx_http_clawd_flight_free(ngx_http_clawd_accounts_t *a,
    ngx_http_clawd_flight_t *f)
{
    f->state = NGX_HTTP_CLAWD_FLIGHT_FREE;
    ngx_memory_barrier();
    f->owner = 0;

    if (ngx_http_clawd_nwarm < NGX_HTTP_CLAWD_FLIGHTS_WARM) {
        ngx_http_clawd_warm[ngx_http_clawd_nwarm++] =
                             (uint32_t) ngx_http_clawd_flight_index(a, f);
    }
}


ngx_uint_t
ngx_http_clawd_flights_reap(ngx_http_clawd_zone_t *zone)
{
    ngx_pid_t                   pid;
    ngx_uint_t                  i, n;
    ngx_atomic_uint_t           owner;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);
    n = 0;
    pid = 0;

    for (i = 0; i < a->nflights; i++) {
        f = &a->flights[i];
        owner = f->owner;

        if (owner == 0 || owner == (ngx_atomic_uint_t) ngx_pid) {
            continue;
        }

        /* one system call for a run of one process's flights */

        if ((ngx_pid_t) owner == pid) {
            continue;
        }

        if (kill((ngx_pid_t) owner, 0) == 0 || ngx_errno != ESRCH) {
            pid = (ngx_pid_t) owner;
            continue;
        }

        if (ngx_atomic_cmp_set(&f->owner, owner, ngx_pid)) {
            ngx_http_clawd_flight_inherit(a, f);
            n++;
        }
    }

    if (n) {
        ngx_http_clawd_accounts_recount(zone);
    }

    return n;
}


/* f was a dead process's: see the diagram */

static void
ngx_http_clawd_flight_inherit(ngx_http_clawd_accounts_t *a,
    ngx_http_clawd_flight_t *f)
{
    f->sending = 0;

    switch (f->state) {

    case NGX_HTTP_CLAWD_FLIGHT_FREE:
        ngx_http_clawd_flight_free(a, f);
        return;

    case NGX_HTTP_CLAWD_FLIGHT_ASKED:

        /* Redis may still admit it, up to the deadline of the question */

        f->s.actual = 0;
        f->since = ngx_current_msec + 1000;
        break;

    case NGX_HTTP_CLAWD_FLIGHT_HELD:
        f->s.actual = f->upstream ? f->s.est : 0;
        f->since = ngx_current_msec;
        break;

    default: /* NGX_HTTP_CLAWD_FLIGHT_DUE */
        return;
    }

    ngx_memory_barrier();
    f->state = NGX_HTTP_CLAWD_FLIGHT_DUE;
}


/*
 * A process may have died between a flight and its account: what is live is
 * counted anew.  All moves into and out of HELD are made under the mutex, but
 * for the one of an inherited flight, which the recount follows.
 */

static void
ngx_http_clawd_accounts_recount(ngx_http_clawd_zone_t *zone)
{
    ngx_uint_t                  i;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);

    ngx_shmtx_lock(&zone->shpool->mutex);

    for (i = 0; i < a->naccounts; i++) {
        a->accounts[i].live = 0;
    }

    for (i = 0; i < a->nflights; i++) {
        f = &a->flights[i];

        if (f->state == NGX_HTTP_CLAWD_FLIGHT_HELD
            && f->account < a->naccounts)
        {
            a->accounts[f->account].live++;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}
