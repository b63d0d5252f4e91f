/*
 * Copyright (C) clawd authors
 *
 * Users, keys and quotas: who a token belongs to, what may be used, what was.
 * One interface, two stores: Redis, or the zone.
 */

#ifndef _NGX_HTTP_CLAWD_LEDGER_H_INCLUDED_
#define _NGX_HTTP_CLAWD_LEDGER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_http_clawd_accounts.h"
#include "ngx_http_clawd_cache.h"
#include "ngx_http_clawd_calendar.h"
#include "ngx_http_clawd_digest.h"
#include "ngx_http_clawd_redis.h"
#include "ngx_http_clawd_scripts.h"
#include "ngx_http_clawd_spool.h"
#include "ngx_http_clawd_text.h"
#include "ngx_http_clawd_track.h"


#pragma GCC visibility push(hidden)


/* of clawd_quota: a plan of the configuration */

typedef struct {
    ngx_str_t                     name;
    ngx_http_clawd_record_t       record;
} ngx_http_clawd_plan_t;


typedef struct {
    ngx_shm_zone_t               *zone;
    ngx_array_t                   plans;   /* ngx_http_clawd_plan_t */
    ngx_http_clawd_redis_conf_t  *redis;   /* NULL: the store is the zone */
    ngx_str_t                     state;   /* null-terminated path, or empty */
    ngx_path_t                    manager; /* by which NGINX has it written */
    ngx_event_t                   look;    /* in the cache manager */
    ngx_uint_t                    enabled; /* unsigned  enabled:1; */
} ngx_http_clawd_ledger_conf_t;


/* this process's; one */

typedef struct ngx_http_clawd_ledger_s  ngx_http_clawd_ledger_t;


/* who a request is of; strings in the request's pool or the configuration's */

typedef struct {
    ngx_http_clawd_terms_t        terms;
    ngx_str_t                     user;
    ngx_str_t                     plan;
    ngx_str_t                     tz;
    ngx_str_t                     models[2]; /* of the key, of the user: both
                                                must allow; NULL data: all */
    unsigned                      admin:1;
    unsigned                      limited:1; /* by anything */
    unsigned                      metered:1; /* by tokens */
} ngx_http_clawd_identity_t;


/* why there is no identity; all but DOWN are the same to the client */

typedef enum {
    NGX_HTTP_CLAWD_NOBODY_UNKNOWN = 0,
    NGX_HTTP_CLAWD_NOBODY_EXPIRED,
    NGX_HTTP_CLAWD_NOBODY_DISABLED,
    NGX_HTTP_CLAWD_NOBODY_INVALID,       /* a record that can't be used */
    NGX_HTTP_CLAWD_NOBODY_DOWN           /* Redis does not answer */
} ngx_http_clawd_nobody_e;


/* the records that make an identity, in the order in which they are read */

typedef enum {
    NGX_HTTP_CLAWD_STEP_KEY = 0,
    NGX_HTTP_CLAWD_STEP_USER,
    NGX_HTTP_CLAWD_STEP_PLAN,
    NGX_HTTP_CLAWD_STEP_DEFAULT,
    NGX_HTTP_CLAWD_STEPS
} ngx_http_clawd_step_e;


typedef struct ngx_http_clawd_lookup_s  ngx_http_clawd_lookup_t;

/*
 * A question who somebody is; zeroed by the caller, then filled.  It is to be
 * forgotten, by ngx_http_clawd_identify_cancel(), when the request ends.
 */

typedef struct {
    /* set by the caller: a digest, or the user of a static token */
    u_char                       *digest;     /* NULL: user is given */
    ngx_str_t                     user;
    ngx_str_t                     plan;       /* of the configuration, if any */
    ngx_uint_t                    admin;
    ngx_pool_t                   *pool;
    void                        (*resume)(void *data);
    void                         *data;

    /* of NGX_DECLINED and NGX_ERROR */
    ngx_http_clawd_nobody_e       nobody;

    /* private */
    ngx_http_clawd_lookup_t      *lookup;     /* what is waited for */
    ngx_msec_t                    since;      /* the link is waited for */
    ngx_uint_t                    waited;
    ngx_http_clawd_record_t      *records;    /* of each step, with Redis */
    unsigned                      known[NGX_HTTP_CLAWD_STEPS];
} ngx_http_clawd_ask_t;


/*
 * NGX_OK: *who is filled.  NGX_DECLINED: nobody.  NGX_AGAIN: resume(data) will
 * be called, then call again.  NGX_ERROR: it can't be known now (DOWN), or
 * allocation failed.
 */
ngx_int_t ngx_http_clawd_identify(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_identity_t *who);

/* Nobody waits for it any more. */
void ngx_http_clawd_identify_cancel(ngx_http_clawd_ask_t *ask);


/*
 * A reservation of one request; heap memory of the ledger, which frees it after
 * hold_end().
 *
 *   reserve() --> rc NGX_AGAIN --> rc set, resume(data) called once
 *             \-> rc set
 *
 *   NGX_OK        admitted: usage, live, now tell what is left
 *   NGX_DECLINED  denied: limit is in the way
 *   NGX_ERROR     the store does not answer, or has no room
 */

typedef struct ngx_http_clawd_hold_s  ngx_http_clawd_hold_t;

struct ngx_http_clawd_hold_s {
    ngx_int_t                     rc;
    ngx_http_clawd_limit_e        limit;
    ngx_http_clawd_usage_t        usage;      /* rolled to now */
    int64_t                       live;
    int64_t                       now;        /* microseconds since 1970, of
                                                 the store */
    int64_t                       est;
    ngx_http_clawd_terms_t        terms;
    ngx_str_t                     user;       /* in name */

    /* private */
    ngx_http_clawd_ledger_t      *ledger;
    void                        (*resume)(void *data);
    void                         *data;
    ngx_http_clawd_flight_t      *flight;     /* NULL: nothing is held */
    ngx_http_clawd_redis_cmd_t    cmd;
    ngx_event_t                   timer;      /* waits for a file, or for the
                                                 link's first word */
    ngx_msec_t                    asked;
    ngx_msec_t                    idle;       /* since then nobody writes the
                                                 file */
    ngx_atomic_uint_t             failures;   /* to write it, when it asked */
    uint32_t                      hash;
    ngx_uint_t                    nriders;    /* settlements in cmd */
    ngx_http_clawd_flight_t      *riders[NGX_HTTP_CLAWD_RIDERS_MAX];
    unsigned                      waiting:1;  /* cmd or timer is pending */
    unsigned                      ended:1;    /* free it when it comes back */
    unsigned                      look:1;     /* est -1: only looks */
    unsigned                      dry_run:1;
    unsigned                      guarded:1;
    unsigned                      charge:1;   /* settle without a reservation */
    unsigned                      upstream:1; /* the request went on */
    u_char                        name[NGX_HTTP_CLAWD_NAME_LEN];
};


/*
 * Reserves est tokens, or with est -1 only looks at the usage.  With dry_run a
 * denial is counted and the request admitted.  NULL on allocation failure.
 */
ngx_http_clawd_hold_t *ngx_http_clawd_reserve(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_identity_t *who, int64_t est, ngx_uint_t dry_run,
    void (*resume)(void *data), void *data);

/* The request goes upstream now: from here on it may cost tokens. */
void ngx_http_clawd_hold_go(ngx_http_clawd_hold_t *hold);

/*
 * The request has ended, or does not wait any more: settles what was held to
 * actual tokens.  The hold must not be used after it.
 */
void ngx_http_clawd_hold_end(ngx_http_clawd_hold_t *hold, int64_t actual);


/*
 * The process's ledger, from init_process; NULL on allocation failure.  In the
 * master, load() brings the zone the file that it has not seen, NGX_ERROR after
 * a message; use() makes the configuration's file the one that is kept from now
 * on, old being the replaced configuration's or NULL; and save() leaves exact
 * counts there when all workers have ended.
 */
ngx_http_clawd_ledger_t *ngx_http_clawd_ledger_create(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf);
void ngx_http_clawd_ledger_destroy(ngx_http_clawd_ledger_t *ledger);
ngx_int_t ngx_http_clawd_ledger_load(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_ledger_conf_t *conf, ngx_log_t *log);
void ngx_http_clawd_ledger_use(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf, ngx_http_clawd_ledger_conf_t *old);
void ngx_http_clawd_ledger_save(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf);

/* The plan of the configuration with this name, or NULL. */
ngx_http_clawd_record_t *ngx_http_clawd_ledger_plan(
    ngx_http_clawd_ledger_conf_t *conf, ngx_str_t *name);


/* The ledger's families, for a scrape; data is the ledger. */
void ngx_http_clawd_ledger_metrics(ngx_http_clawd_text_t *t, void *data);


/* of the room */

/* who waits for a link that is about to be ready looks so often, in ms */
#define NGX_HTTP_CLAWD_SOON   5

/*
 * A settlement, while Redis has work of this worker to do, waits a moment for
 * the next question of its user and goes with it: one script then does both.
 * So many may wait, so long, in ms.
 */
#define NGX_HTTP_CLAWD_RIDERS_WAIT  64
#define NGX_HTTP_CLAWD_RIDE         1

/* turns of the tick between two rounds of housekeeping */
#define NGX_HTTP_CLAWD_TICKS  5


/* A store's part: rc of the hold is set, or NGX_AGAIN and resumed later. */

typedef struct {
    void                        (*reserve)(ngx_http_clawd_hold_t *hold);
    void                        (*settle)(ngx_http_clawd_ledger_t *ledger,
                                     ngx_http_clawd_flight_t *f);
    void                        (*tick)(ngx_http_clawd_ledger_t *ledger);
} ngx_http_clawd_store_t;

extern ngx_http_clawd_store_t  ngx_http_clawd_store_zone;
extern ngx_http_clawd_store_t  ngx_http_clawd_store_redis;


struct ngx_http_clawd_ledger_s {
    ngx_http_clawd_ledger_conf_t *conf;
    ngx_http_clawd_zone_t        *zone;
    ngx_http_clawd_accounts_t    *accounts;
    ngx_http_clawd_store_t       *store;
    ngx_log_t                    *log;
    ngx_event_t                   tick;
    ngx_uint_t                    ticks;

    /* of the store in Redis */
    ngx_http_clawd_redis_t       *link;
    ngx_http_clawd_track_t       *track;
    ngx_http_clawd_spool_t        spool;
    ngx_uint_t                    due;        /* flights to be told again */
    ngx_uint_t                    nriders;    /* that wait for a question */
    ngx_http_clawd_flight_t      *riders[NGX_HTTP_CLAWD_RIDERS_WAIT];
    ngx_event_t                   ride;       /* no longer than this */
    ngx_msec_t                    beaten;     /* last heartbeats */
    ngx_msec_t                    down;       /* since; 0: it answers */
    ngx_atomic_uint_t             losses;     /* that were answered by beats */
    ngx_uint_t                    replaying;  /* answers that are awaited */
    unsigned                      replay_failed:1;
};


/* The hold's answer is there: resumes who waits for it, or frees it. */
void ngx_http_clawd_hold_done(ngx_http_clawd_hold_t *hold, ngx_int_t rc);

/*
 * Admits a request that the store has not seen: its flight is HELD and is
 * charged when it is settled.  NGX_ERROR when there is no flight.
 */
ngx_int_t ngx_http_clawd_hold_offline(ngx_http_clawd_hold_t *hold);

/*
 * Moves a flight into HELD, or out of it to state, with its account's count.
 * 1 when it had the last of the places that its user may take.
 */
void ngx_http_clawd_flight_held(ngx_http_clawd_hold_t *hold);
ngx_uint_t ngx_http_clawd_flight_unheld(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f, ngx_http_clawd_flight_e state);

/* Now by this machine's clock, in microseconds since 1970. */
int64_t ngx_http_clawd_ledger_now(void);

/* Redis can be asked again: tells it what is in flight here, and is due. */
void ngx_http_clawd_redis_up(void *data);

/* Of ledger->ride: settlements that no question took along are told. */
void ngx_http_clawd_redis_ride(ngx_event_t *ev);

/* The process ends: what is due goes to the file, or stays in the zone. */
void ngx_http_clawd_redis_leave(ngx_http_clawd_ledger_t *ledger);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_LEDGER_H_INCLUDED_ */
