/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_ledger.h"


static ngx_int_t ngx_http_clawd_hold_judge(ngx_http_clawd_hold_t *hold,
    ngx_int_t rc);
static void ngx_http_clawd_hold_charge(ngx_http_clawd_hold_t *hold,
    int64_t actual);
static void ngx_http_clawd_hold_settle(ngx_http_clawd_hold_t *hold,
    int64_t actual);


ngx_http_clawd_hold_t *
ngx_http_clawd_reserve(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_identity_t *who, int64_t est, ngx_uint_t dry_run,
    void (*resume)(void *data), void *data)
{
    ngx_http_clawd_hold_t  *hold;

    hold = ngx_calloc(sizeof(ngx_http_clawd_hold_t), ledger->log);
    if (hold == NULL) {
        return NULL;
    }

    hold->ledger = ledger;
    hold->terms = who->terms;
    hold->est = est;
    hold->look = (est < 0);
    hold->dry_run = dry_run;

    hold->user.data = hold->name;
    hold->user.len = who->user.len;
    ngx_memcpy(hold->name, who->user.data, who->user.len);

    hold->hash = ngx_http_clawd_account_hash(ledger->accounts, &hold->user);

    if (!who->limited && ledger->link && !hold->look) {

        /* nothing to wait for: what was used is told when it is known */

        hold->charge = 1;
        return hold;
    }

    hold->rc = NGX_AGAIN;
    ledger->store->reserve(hold);

    if (hold->rc != NGX_AGAIN) {
        hold->rc = ngx_http_clawd_hold_judge(hold, hold->rc);
        return hold;
    }

    hold->waiting = 1;
    hold->resume = resume;
    hold->data = data;

    return hold;
}


static ngx_int_t
ngx_http_clawd_hold_judge(ngx_http_clawd_hold_t *hold, ngx_int_t rc)
{
    if (rc == NGX_OK || !hold->dry_run || hold->look) {
        return rc;
    }

    if (rc == NGX_DECLINED) {
        (void) ngx_atomic_fetch_add(
                        &hold->ledger->accounts->dry_run[hold->limit], 1);
    }

    return ngx_http_clawd_hold_offline(hold);
}


void
ngx_http_clawd_hold_done(ngx_http_clawd_hold_t *hold, ngx_int_t rc)
{
    hold->waiting = 0;

    if (hold->ended) {

        /* whoever asked has left: what was admitted for it was not used */

        hold->rc = rc;
        ngx_http_clawd_hold_settle(hold, 0);
        ngx_free(hold);
        return;
    }

    hold->rc = ngx_http_clawd_hold_judge(hold, rc);
    hold->resume(hold->data);
}


void
ngx_http_clawd_hold_go(ngx_http_clawd_hold_t *hold)
{
    hold->upstream = 1;

    if (hold->flight) {
        hold->flight->upstream = 1;
    }
}


void
ngx_http_clawd_hold_end(ngx_http_clawd_hold_t *hold, int64_t actual)
{
    if (hold->waiting) {

        if (hold->timer.timer_set) {

            /* nothing is admitted yet, nor asked */

            ngx_del_timer(&hold->timer);

            if (hold->flight) {
                ngx_http_clawd_flight_free(hold->ledger->accounts,
                                           hold->flight);
            }

            ngx_free(hold);
            return;
        }

        hold->ended = 1;
        return;
    }

    if (hold->charge && hold->upstream) {
        ngx_http_clawd_hold_charge(hold, actual);
    }

    ngx_http_clawd_hold_settle(hold, actual);
    ngx_free(hold);
}


static void
ngx_http_clawd_hold_settle(ngx_http_clawd_hold_t *hold, int64_t actual)
{
    ngx_http_clawd_flight_t  *f;

    f = hold->flight;

    if (f == NULL || f->state != NGX_HTTP_CLAWD_FLIGHT_HELD) {
        return;
    }

    hold->flight = NULL;

    f->s.actual = f->upstream ? actual : 0;

    if (f->s.actual > f->s.est) {
        (void) ngx_atomic_fetch_add(&hold->ledger->accounts->underestimate,
                                    f->s.actual - f->s.est);
    }

    hold->ledger->store->settle(hold->ledger, f);
}


/* of a user without limits: nothing was reserved, all is charged now */

static void
ngx_http_clawd_hold_charge(ngx_http_clawd_hold_t *hold, int64_t actual)
{
    static time_t  told;

    hold->est = actual;

    if (ngx_http_clawd_hold_offline(hold) != NGX_OK) {

        if (told != ngx_time()) {
            told = ngx_time();

            ngx_log_error(NGX_LOG_ERR, hold->ledger->log, 0,
                          "clawd: %L tokens of user \"%V\" are not accounted "
                          "for: too many settlements wait for Redis", actual,
                          &hold->user);
        }

        return;
    }

    hold->flight->upstream = 1;
}


ngx_int_t
ngx_http_clawd_hold_offline(ngx_http_clawd_hold_t *hold)
{
    int64_t                   now;
    ngx_http_clawd_flight_t  *f;
    ngx_http_clawd_usage_t    usage;

    f = ngx_http_clawd_flight_take(hold->ledger->zone, &hold->user);
    if (f == NULL) {
        return NGX_ERROR;
    }

    now = ngx_http_clawd_ledger_now();

    ngx_memzero(&usage, sizeof(ngx_http_clawd_usage_t));
    usage.epoch = hold->terms.epoch;
    ngx_http_clawd_quota_roll(&usage, &hold->terms, now);

    f->s.windows.epoch = usage.epoch;
    f->s.windows.minute = usage.minute;
    f->s.windows.day = usage.day;
    f->s.windows.month = usage.month;
    f->s.offline = 1;

    hold->flight = f;
    hold->now = now;

    ngx_http_clawd_flight_held(hold);

    return NGX_OK;
}


void
ngx_http_clawd_flight_held(ngx_http_clawd_hold_t *hold)
{
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_accounts_t  *a;

    f = hold->flight;
    zone = hold->ledger->zone;
    a = hold->ledger->accounts;

    f->s.est = hold->est;
    f->s.offset = hold->terms.offset;
    f->s.tpm = hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_TPM];
    f->since = ngx_current_msec;

    ngx_shmtx_lock(&zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(a, &hold->user, hold->hash,
                                        hold->ledger->link == NULL);

    if (acc) {
        acc->live++;
        acc->busy = (uint32_t) hold->live;
        acc->terms = hold->terms;
        f->account = acc - a->accounts;

    } else {
        f->account = a->naccounts;
    }

    f->state = NGX_HTTP_CLAWD_FLIGHT_HELD;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


ngx_uint_t
ngx_http_clawd_flight_unheld(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f, ngx_http_clawd_flight_e state)
{
    int64_t                     limit;
    ngx_uint_t                  last;
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;
    last = 0;

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    if (f->state == NGX_HTTP_CLAWD_FLIGHT_HELD
        && f->account < a->naccounts && a->accounts[f->account].live)
    {
        acc = &a->accounts[f->account];
        limit = acc->terms.limits[NGX_HTTP_CLAWD_LIMIT_CONCURRENCY];
        last = limit >= 0 && ngx_max(acc->live, acc->busy) >= limit;

        acc->live--;

        if (acc->busy) {
            acc->busy--;
        }
    }

    f->state = state;

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    return last;
}


int64_t
ngx_http_clawd_ledger_now(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (int64_t) tp->sec * 1000000 + (int64_t) tp->msec * 1000;
}
