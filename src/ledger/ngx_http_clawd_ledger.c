/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_scripts.h"


/* in ms; all of a loss of Redis's must be told within its pause */
#define NGX_HTTP_CLAWD_TICK  100


static ngx_int_t ngx_http_clawd_ledger_connect(
    ngx_http_clawd_ledger_t *ledger, ngx_cycle_t *cycle);
static void ngx_http_clawd_ledger_tick(ngx_event_t *ev);
static void ngx_http_clawd_ledger_told(void *data);
static void ngx_http_clawd_ledger_alive(void *data, ngx_msec_t since,
    ngx_msec_t msec);
static void ngx_http_clawd_ledger_changed(void *data, ngx_str_t *key);
static void ngx_http_clawd_ledger_untold(void *data);


static ngx_str_t  ngx_http_clawd_ledger_prefixes[] = {
    ngx_string("clawd:key:"),
    ngx_string("clawd:user:"),
    ngx_string("clawd:plan:"),
    ngx_null_string
};


ngx_http_clawd_ledger_t *
ngx_http_clawd_ledger_create(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf)
{
    ngx_http_clawd_ledger_t  *ledger;

    ledger = ngx_pcalloc(cycle->pool, sizeof(ngx_http_clawd_ledger_t));
    if (ledger == NULL) {
        return NULL;
    }

    ledger->conf = conf;
    ledger->zone = ngx_http_clawd_zone(conf->zone);
    ledger->accounts = ngx_http_clawd_accounts(ledger->zone);
    ledger->log = cycle->log;

    if (conf->redis) {
        ledger->store = &ngx_http_clawd_store_redis;

        if (ngx_http_clawd_ledger_connect(ledger, cycle) != NGX_OK) {
            return NULL;
        }

    } else {
        ledger->store = &ngx_http_clawd_store_zone;
    }

    ledger->tick.handler = ngx_http_clawd_ledger_tick;
    ledger->tick.data = ledger;
    ledger->tick.log = cycle->log;
    ledger->tick.cancelable = 1;

    ngx_add_timer(&ledger->tick, NGX_HTTP_CLAWD_TICK);

    return ledger;
}


static ngx_int_t
ngx_http_clawd_ledger_connect(ngx_http_clawd_ledger_t *ledger,
    ngx_cycle_t *cycle)
{
    u_char                           *p;
    ngx_str_t                         path;
    ngx_http_clawd_ledger_conf_t     *conf;
    ngx_http_clawd_track_handlers_t   handlers;

    conf = ledger->conf;

    conf->redis->scripts = ngx_http_clawd_scripts;
    conf->redis->nscripts = NGX_HTTP_CLAWD_SCRIPTS;

    if (conf->state.len) {
        path.len = conf->state.len + sizeof(".spool") - 1;
        path.data = ngx_pnalloc(cycle->pool, path.len + 1);
        if (path.data == NULL) {
            return NGX_ERROR;
        }

        p = ngx_cpymem(path.data, conf->state.data, conf->state.len);
        ngx_memcpy(p, ".spool", sizeof(".spool"));

        ngx_http_clawd_spool_init(&ledger->spool, &path, cycle->log);
    }

    ledger->beaten = ngx_current_msec;

    ledger->ride.handler = ngx_http_clawd_redis_ride;
    ledger->ride.data = ledger;
    ledger->ride.log = cycle->log;

    ledger->link = ngx_http_clawd_redis_create(cycle, conf->redis,
                                               ledger->zone,
                                               ngx_http_clawd_redis_up,
                                               ledger);
    if (ledger->link == NULL) {
        return NGX_ERROR;
    }

    handlers.data = ledger;
    handlers.told = ngx_http_clawd_ledger_told;
    handlers.alive = ngx_http_clawd_ledger_alive;
    handlers.changed = ngx_http_clawd_ledger_changed;
    handlers.untold = ngx_http_clawd_ledger_untold;

    ledger->track = ngx_http_clawd_track_create(cycle, conf->redis,
                                              ledger->zone,
                                              ngx_http_clawd_ledger_prefixes,
                                              &handlers);
    if (ledger->track == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_clawd_ledger_destroy(ngx_http_clawd_ledger_t *ledger)
{
    if (ledger->tick.timer_set) {
        ngx_del_timer(&ledger->tick);
    }

    if (ledger->link == NULL) {
        return;
    }

    if (ledger->ride.timer_set) {
        ngx_del_timer(&ledger->ride);
        ngx_http_clawd_redis_ride(&ledger->ride);
    }

    ngx_http_clawd_track_destroy(ledger->track);
    ngx_http_clawd_redis_destroy(ledger->link);

    /* what was not answered is for the next process, or for the file */

    ngx_http_clawd_redis_leave(ledger);
}


static void
ngx_http_clawd_ledger_tick(ngx_event_t *ev)
{
    ngx_http_clawd_ledger_t  *ledger;

    ledger = ev->data;

    ledger->store->tick(ledger);

    ngx_add_timer(ev, NGX_HTTP_CLAWD_TICK);
}


static void
ngx_http_clawd_ledger_told(void *data)
{
    ngx_http_clawd_ledger_t *ledger = data;

    ngx_http_clawd_cache_told(ledger->zone);
}


static void
ngx_http_clawd_ledger_alive(void *data, ngx_msec_t since, ngx_msec_t msec)
{
    ngx_http_clawd_ledger_t *ledger = data;

    ngx_http_clawd_cache_alive(ledger->zone, since, msec);
}


static void
ngx_http_clawd_ledger_changed(void *data, ngx_str_t *key)
{
    ngx_http_clawd_ledger_t *ledger = data;

    if (key) {
        ngx_http_clawd_cache_drop(ledger->zone, key);

    } else {
        ngx_http_clawd_cache_flush(ledger->zone);

        /* the reservations may be gone as well */

        (void) ngx_atomic_fetch_add(&ledger->accounts->losses, 1);
    }
}


static void
ngx_http_clawd_ledger_untold(void *data)
{
    ngx_http_clawd_ledger_t *ledger = data;

    ngx_http_clawd_cache_untold(ledger->zone);
}


ngx_http_clawd_record_t *
ngx_http_clawd_ledger_plan(ngx_http_clawd_ledger_conf_t *conf,
    ngx_str_t *name)
{
    ngx_uint_t              i;
    ngx_http_clawd_plan_t  *plan;

    plan = conf->plans.elts;

    for (i = 0; i < conf->plans.nelts; i++) {
        if (plan[i].name.len == name->len
            && ngx_memcmp(plan[i].name.data, name->data, name->len) == 0)
        {
            return &plan[i].record;
        }
    }

    return NULL;
}
