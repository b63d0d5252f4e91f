/*
 * Copyright (C) clawd authors
 *
 * The store in the zone.  With a file (see ngx_http_clawd_save.h) no user's
 * day or month is charged past the ceiling that the file has of it, and nothing
 * is admitted in a clock minute that the file does not name.
 */

#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_save.h"


/* who waits for the file looks again so often, in ms */
#define NGX_HTTP_CLAWD_SAVE_POLL      5

/* …writes it itself, in its turn, when nobody has been at it for so long */
#define NGX_HTTP_CLAWD_SAVE_TAKEN     200

/* …and gives up after */
#define NGX_HTTP_CLAWD_SAVE_TIMEOUT   5000


static void ngx_http_clawd_zone_reserve(ngx_http_clawd_hold_t *hold);
static ngx_int_t ngx_http_clawd_zone_admit(ngx_http_clawd_hold_t *hold);
static ngx_int_t ngx_http_clawd_zone_full(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_usage_t *u);
static ngx_uint_t ngx_http_clawd_zone_beyond(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_account_t *acc, ngx_http_clawd_usage_t *u);
static void ngx_http_clawd_zone_wait(ngx_http_clawd_hold_t *hold);
static void ngx_http_clawd_zone_waited(ngx_event_t *ev);
static void ngx_http_clawd_zone_look(ngx_http_clawd_hold_t *hold);
static void ngx_http_clawd_zone_settle(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f);
static ngx_uint_t ngx_http_clawd_zone_past(ngx_http_clawd_account_t *acc);
static void ngx_http_clawd_zone_tick(ngx_http_clawd_ledger_t *ledger);
static ngx_int_t ngx_http_clawd_zone_save(ngx_http_clawd_hold_t *hold);


ngx_http_clawd_store_t  ngx_http_clawd_store_zone = {
    ngx_http_clawd_zone_reserve,
    ngx_http_clawd_zone_settle,
    ngx_http_clawd_zone_tick
};


static void
ngx_http_clawd_zone_reserve(ngx_http_clawd_hold_t *hold)
{
    if (hold->look) {
        ngx_http_clawd_zone_look(hold);
        return;
    }

    hold->flight = ngx_http_clawd_flight_take(hold->ledger->zone,
                                              &hold->user);
    if (hold->flight == NULL) {
        hold->rc = NGX_ERROR;
        return;
    }

    hold->rc = ngx_http_clawd_zone_admit(hold);

    if (hold->rc == NGX_AGAIN) {
        hold->asked = ngx_current_msec;
        hold->idle = ngx_current_msec;
        hold->failures = hold->ledger->accounts->failures;
        hold->rc = ngx_http_clawd_zone_save(hold);
    }

    if (hold->rc == NGX_AGAIN) {
        ngx_http_clawd_zone_wait(hold);
        return;
    }

    if (hold->rc != NGX_OK) {
        ngx_http_clawd_flight_free(hold->ledger->accounts, hold->flight);
        hold->flight = NULL;
    }
}


/* NGX_AGAIN: the file must be written first */

static ngx_int_t
ngx_http_clawd_zone_admit(ngx_http_clawd_hold_t *hold)
{
    ngx_int_t                   rc;
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_usage_t      u;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_accounts_t  *a;

    zone = hold->ledger->zone;
    a = hold->ledger->accounts;
    f = hold->flight;

    hold->now = ngx_http_clawd_ledger_now();

    f->s.est = hold->est;
    f->s.offset = hold->terms.offset;
    f->s.tpm = hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_TPM];
    f->since = ngx_current_msec;

    rc = NGX_ERROR;

    ngx_shmtx_lock(&zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(a, &hold->user, hold->hash, 1);

    if (acc) {
        u = acc->usage;
        acc->terms = hold->terms;

        rc = ngx_http_clawd_quota_reserve(&u, &hold->terms, acc->live,
                                          hold->est, hold->now,
                                          &f->s.windows, &hold->limit);

        if (rc == NGX_OK) {
            rc = ngx_http_clawd_zone_full(hold, &u);
        }

        if (rc == NGX_OK && ngx_http_clawd_zone_beyond(hold, acc, &u)) {
            acc->asking = ngx_max(acc->asking, hold->est);
            acc->waited = 1;
            rc = NGX_AGAIN;
        }

        if (rc == NGX_OK) {

            /*
             * Charged before it is held: whoever dies in between leaves it
             * charged, or has it given back once the account is there.
             */

            acc->usage = u;
            acc->live++;
            acc->asking = 0;
            acc->waited = 0;
            ngx_memory_barrier();
            f->account = acc - a->accounts;
            ngx_memory_barrier();
            f->state = NGX_HTTP_CLAWD_FLIGHT_HELD;
        }

        hold->usage = u;
        hold->live = acc->live;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


/* the minute in which NGINX died is over for all */

static ngx_int_t
ngx_http_clawd_zone_full(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_usage_t *u)
{
    if ((int64_t) hold->ledger->accounts->full_minute < u->minute) {
        return NGX_OK;
    }

    if (hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_RPM] >= 0) {
        hold->limit = NGX_HTTP_CLAWD_LIMIT_RPM;
        u->minute_requests = hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_RPM];
        return NGX_DECLINED;
    }

    if (hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_TPM] >= 0) {
        hold->limit = NGX_HTTP_CLAWD_LIMIT_TPM;
        u->minute_tokens = hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_TPM];
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/* whether u is more than the file would tell; under the mutex */

static ngx_uint_t
ngx_http_clawd_zone_beyond(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_account_t *acc, ngx_http_clawd_usage_t *u)
{
    int64_t                   *limits;
    ngx_http_clawd_ceiling_t  *ceiling;

    if (hold->ledger->conf->state.len == 0) {
        return 0;
    }

    limits = hold->terms.limits;
    ceiling = &acc->ceiling;

    if (limits[NGX_HTTP_CLAWD_LIMIT_DAY] >= 0
        && (u->day != ceiling->day || u->day_tokens > ceiling->day_tokens))
    {
        return 1;
    }

    if (limits[NGX_HTTP_CLAWD_LIMIT_MONTH] >= 0
        && (u->month != ceiling->month
            || u->month_tokens > ceiling->month_tokens))
    {
        return 1;
    }

    return (limits[NGX_HTTP_CLAWD_LIMIT_RPM] >= 0
            || limits[NGX_HTTP_CLAWD_LIMIT_TPM] >= 0)
           && (int64_t) hold->ledger->accounts->minute < u->minute;
}


static void
ngx_http_clawd_zone_wait(ngx_http_clawd_hold_t *hold)
{
    hold->timer.handler = ngx_http_clawd_zone_waited;
    hold->timer.data = hold;
    hold->timer.log = hold->ledger->log;

    ngx_add_timer(&hold->timer, NGX_HTTP_CLAWD_SAVE_POLL);
}


static void
ngx_http_clawd_zone_waited(ngx_event_t *ev)
{
    ngx_int_t               rc;
    ngx_http_clawd_hold_t  *hold;

    hold = ev->data;

    rc = ngx_http_clawd_zone_admit(hold);

    if (rc == NGX_AGAIN) {
        rc = ngx_http_clawd_zone_save(hold);
    }

    if (rc == NGX_AGAIN) {

        if (ngx_current_msec - hold->asked
            < NGX_HTTP_CLAWD_SAVE_TIMEOUT)
        {
            ngx_http_clawd_zone_wait(hold);
            return;
        }

        rc = NGX_ERROR;
    }

    if (rc != NGX_OK) {
        ngx_http_clawd_flight_free(hold->ledger->accounts, hold->flight);
        hold->flight = NULL;
    }

    ngx_http_clawd_hold_done(hold, rc);
}


static void
ngx_http_clawd_zone_look(ngx_http_clawd_hold_t *hold)
{
    ngx_http_clawd_zone_t     *zone;
    ngx_http_clawd_account_t  *acc;

    zone = hold->ledger->zone;

    hold->now = ngx_http_clawd_ledger_now();
    hold->rc = NGX_ERROR;

    ngx_shmtx_lock(&zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(hold->ledger->accounts, &hold->user,
                                        hold->hash, 1);
    if (acc) {
        hold->usage = acc->usage;
        hold->live = acc->live;
        hold->rc = NGX_OK;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    ngx_http_clawd_quota_roll(&hold->usage, &hold->terms, hold->now);
}


static void
ngx_http_clawd_zone_settle(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f)
{
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    if (f->account < a->naccounts) {
        acc = &a->accounts[f->account];

        /* an inherited one is DUE: it does not count as live any more */

        if (f->state == NGX_HTTP_CLAWD_FLIGHT_HELD && acc->live) {
            acc->live--;
        }

        /* one that dies here has given back too little, never twice */

        f->state = NGX_HTTP_CLAWD_FLIGHT_FREE;
        ngx_memory_barrier();

        if (f->s.offline) {

            /* nothing was admitted that would have begun these windows */

            ngx_http_clawd_quota_roll(&acc->usage, &acc->terms,
                                      ngx_http_clawd_ledger_now());
        }

        ngx_http_clawd_quota_settle(&acc->usage, &f->s.windows,
                                    f->s.offline ? f->s.actual
                                                 : f->s.actual - f->s.est,
                                    f->s.tpm);

        /* it was more than was reserved: nobody waits for this one */

        if (a->path && ngx_http_clawd_zone_past(acc)) {
            a->wanted = 1;
        }
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    ngx_http_clawd_flight_free(a, f);
}


/* whether more was used of a limited window than the file tells of it */

static ngx_uint_t
ngx_http_clawd_zone_past(ngx_http_clawd_account_t *acc)
{
    int64_t                   *limits;
    ngx_http_clawd_usage_t    *u;
    ngx_http_clawd_ceiling_t  *ceiling;

    u = &acc->usage;
    limits = acc->terms.limits;
    ceiling = &acc->ceiling;

    return (limits[NGX_HTTP_CLAWD_LIMIT_DAY] >= 0 && u->day == ceiling->day
            && u->day_tokens > ceiling->day_tokens)
           || (limits[NGX_HTTP_CLAWD_LIMIT_MONTH] >= 0
               && u->month == ceiling->month
               && u->month_tokens > ceiling->month_tokens);
}


static void
ngx_http_clawd_zone_tick(ngx_http_clawd_ledger_t *ledger)
{
    ngx_uint_t                  i;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_accounts_t  *a;

    if (++ledger->ticks % NGX_HTTP_CLAWD_TICKS
        || ngx_http_clawd_flights_reap(ledger->zone) == 0)
    {
        return;
    }

    a = ledger->accounts;

    for (i = 0; i < a->nflights; i++) {
        f = &a->flights[i];

        if (f->owner == (ngx_atomic_uint_t) ngx_pid
            && f->state == NGX_HTTP_CLAWD_FLIGHT_DUE)
        {
            ngx_http_clawd_zone_settle(ledger, f);
        }
    }
}


/*
 * Has the file written, with room for what admit() has noted.  NGX_OK: it is
 * admitted by now; NGX_AGAIN: another process is at it, or will be; else as
 * admit().
 */

static ngx_int_t
ngx_http_clawd_zone_save(ngx_http_clawd_hold_t *hold)
{
    ngx_int_t                   rc;
    ngx_http_clawd_ledger_t    *ledger;
    ngx_http_clawd_accounts_t  *a;

    ledger = hold->ledger;
    a = ledger->accounts;

    /* a reload has named another file, of which this process knows nothing */

    if (ngx_http_clawd_save_name(ledger->conf) != a->path) {
        return NGX_ERROR;
    }

    if (ngx_http_clawd_save_busy(a)) {
        hold->idle = ngx_current_msec;
        return NGX_AGAIN;
    }

    /* of two the second has begun when it was asked for already */

    if (a->failures - hold->failures >= 2) {
        return NGX_ERROR;
    }

    if (ngx_process == NGX_PROCESS_WORKER
        && ngx_current_msec - hold->idle < NGX_HTTP_CLAWD_SAVE_TAKEN)
    {
        a->wanted = 1;
        return NGX_AGAIN;
    }

    rc = ngx_http_clawd_save(ledger->conf, ledger->log);

    return (rc == NGX_OK) ? ngx_http_clawd_zone_admit(hold) : rc;
}
