/*
 * Copyright (C) clawd authors
 *
 * Accounts of users and reservations in flight, in the zone, for all workers.
 * With the store in the zone an account is the truth; with Redis it is the
 * newest word of Redis that this gateway has heard.
 */

#ifndef _NGX_HTTP_CLAWD_ACCOUNTS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_ACCOUNTS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_flight.h"
#include "ngx_http_clawd_zone.h"


#pragma GCC visibility push(hidden)


/* what a file guarantees of the days' and months' counts: see _save.h */

typedef struct {
    int64_t                      day;
    int64_t                      day_tokens;
    int64_t                      month;
    int64_t                      month_tokens;
} ngx_http_clawd_ceiling_t;


/* all of it is read and written under the zone's mutex */

typedef struct {
    u_char                       name[NGX_HTTP_CLAWD_NAME_LEN];
    uint32_t                     name_len;     /* 0: free */
    uint32_t                     live;         /* flights that are HELD */
    uint32_t                     busy;         /* those of all gateways, by the
                                                  last word of Redis */
    time_t                       seen;

    ngx_http_clawd_usage_t       usage;
    ngx_http_clawd_usage_t       offline;      /* admitted without Redis */
    ngx_http_clawd_terms_t       terms;        /* the last ones */
    ngx_http_clawd_ceiling_t     ceiling;      /* saved */
    int64_t                      asking;       /* tokens beyond it, of a request
                                                  that waits for the file */
    ngx_uint_t                   waited;       /* unsigned  waited:1; */
} ngx_http_clawd_account_t;


/*
 * A flight's life.  Its owner alone moves it, but for what the reaper takes
 * over from a dead one; to be FREE it needs no owner.
 *
 *   FREE --> ASKED --> HELD --> DUE --> FREE
 *              |        |        ^
 *              |        +--------|---> FREE     (store in the zone)
 *              +-----------------+
 *              +---------------------> FREE     (denied)
 *
 *   ASKED  Redis was asked and has not answered
 *   HELD   admitted; it counts in its account's live
 *   DUE    its actual is known and Redis must be told
 *
 * Of a dead owner, ASKED becomes DUE with actual 0 and HELD becomes DUE, or is
 * settled, with its estimate; with 0 if nothing went upstream.  With the store
 * in the zone one that was not charged yet has no account to give back to.
 */

typedef enum {
    NGX_HTTP_CLAWD_FLIGHT_FREE = 0,
    NGX_HTTP_CLAWD_FLIGHT_ASKED,
    NGX_HTTP_CLAWD_FLIGHT_HELD,
    NGX_HTTP_CLAWD_FLIGHT_DUE
} ngx_http_clawd_flight_e;


typedef struct {
    ngx_atomic_t                 owner;        /* pid; 0: free */
    ngx_atomic_t                 state;        /* ngx_http_clawd_flight_e */
    ngx_http_clawd_settlement_t  s;
    ngx_msec_t                   since;        /* of the state; ASKED, DUE: not
                                                  to be told before it */
    ngx_msec_t                   beaten;       /* the last heartbeat */
    uint32_t                     account;      /* index, once it is charged;
                                                  else naccounts */
    unsigned                     upstream:1;   /* it may have cost tokens */
    unsigned                     local:1;      /* of the gateway's share */
    unsigned                     sending:1;    /* the owner waits for Redis, or
                                                  for a question to go with */
    unsigned                     spooled:1;    /* it may be in the file, too */
} ngx_http_clawd_flight_t;


typedef struct {
    u_char                       boot[8];      /* hex; of this zone */

    ngx_uint_t                   naccounts;
    ngx_http_clawd_account_t    *accounts;     /* in the zone */
    uint32_t                     seed;         /* of their hash */

    ngx_uint_t                   nflights;
    ngx_http_clawd_flight_t     *flights;      /* in the zone */

    /* of the file: who saves, the clock minute up to which it holds */
    ngx_atomic_t                 wanted;       /* a request waits for it */
    ngx_atomic_t                 saver;        /* pid or 0 */
    ngx_atomic_t                 failures;     /* of savers, ever */
    ngx_atomic_t                 loaded;
    ngx_atomic_t                 path;         /* hash of its name; 0: none */
    ngx_atomic_t                 minute;
    ngx_atomic_t                 full_minute;  /* …of the one that was read:
                                                  what it let through is not
                                                  known */
    ngx_atomic_t                 spooled;      /* settlements, ever */
    ngx_atomic_t                 losses;       /* signs that Redis lost data */

    /* counters */
    ngx_atomic_t                 invalid;      /* records that were denied */
    ngx_atomic_t                 underestimate;  /* tokens */
    ngx_atomic_t                 dry_run[NGX_HTTP_CLAWD_LIMITS];
} ngx_http_clawd_accounts_t;


extern ngx_http_clawd_area_t  ngx_http_clawd_accounts_area;


/* The shared part. */
ngx_http_clawd_accounts_t *ngx_http_clawd_accounts(
    ngx_http_clawd_zone_t *zone);

/*
 * The hash of a name, for account_locked(); to be taken before the mutex.
 */
uint32_t ngx_http_clawd_account_hash(ngx_http_clawd_accounts_t *a,
    ngx_str_t *name);

/*
 * The account of a name, made if there is none; under the mutex.  NULL when
 * the table is full: keep (of the store in the zone) says that an account whose
 * month is not over must stay, else the one that was not seen longest goes.
 */
ngx_http_clawd_account_t *ngx_http_clawd_account_locked(
    ngx_http_clawd_accounts_t *a, ngx_str_t *name, uint32_t hash,
    ngx_uint_t keep);

/* The same, NULL when there is none. */
ngx_http_clawd_account_t *ngx_http_clawd_account_find_locked(
    ngx_http_clawd_accounts_t *a, ngx_str_t *name, uint32_t hash);

/*
 * Takes a free flight for this process, in state ASKED, with its rid; only the
 * owner's pid is written without the mutex, by an atomic exchange.  NULL when
 * all are taken.
 */
ngx_http_clawd_flight_t *ngx_http_clawd_flight_take(
    ngx_http_clawd_zone_t *zone, ngx_str_t *user);

/* Gives a flight of this process back. */
void ngx_http_clawd_flight_free(ngx_http_clawd_accounts_t *a,
    ngx_http_clawd_flight_t *f);

/* Its number, and back. */
#define ngx_http_clawd_flight_index(a, f)  ((ngx_uint_t) ((f) - (a)->flights))

/*
 * Takes over the flights of dead processes: they become this process's, as the
 * diagram says, and DUE (a store in the zone settles them then).  Returns
 * their number.  Takes the mutex when there are any.
 */
ngx_uint_t ngx_http_clawd_flights_reap(ngx_http_clawd_zone_t *zone);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_ACCOUNTS_H_INCLUDED_ */
