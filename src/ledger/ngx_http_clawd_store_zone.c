/*
 * Copyright (C) clawd authors
 *
 * The store in the zone.  What it has admitted must not be forgotten when all
 * processes die at once, so a file holds ceilings: no user's day or month is
 * charged past the ceiling that the file has of it, and nothing is admitted in
 * a clock minute that the file does not name.  Whoever starts from the file
 * takes the ceilings for what was used, and the named minute for a full one.
 */

#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_state.h"


/* a ceiling is above the use by this part of the limit */
#define NGX_HTTP_CLAWD_CEILING_PART   32

/* of the westernmost zone there may be, in seconds */
#define NGX_HTTP_CLAWD_OFFSET_MIN     (-14 * 3600)

/* who waits for another process's save looks again so often, in ms */
#define NGX_HTTP_CLAWD_SAVE_POLL      5

/* …and gives up after, in ms */
#define NGX_HTTP_CLAWD_SAVE_TIMEOUT   5000


/* a save: everything that a thread needs, and what follows from it */

typedef struct {
    ngx_http_clawd_state_t        state;
    uint32_t                     *accounts;   /* index of each user */
    ngx_str_t                    *path;
    ngx_atomic_uint_t             name;       /* hash of path */
    const char                   *what;       /* failed */
    ngx_err_t                     err;
    ngx_int_t                     rc;
    ngx_http_clawd_zone_t        *zone;
    ngx_log_t                    *log;
#if (NGX_THREADS)
    ngx_thread_task_t            *task;
#endif
} ngx_http_clawd_save_t;


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
static void ngx_http_clawd_zone_tick(ngx_http_clawd_ledger_t *ledger);
static ngx_int_t ngx_http_clawd_zone_save(ngx_http_clawd_hold_t *hold);
static ngx_uint_t ngx_http_clawd_zone_saver(ngx_http_clawd_accounts_t *a);
static ngx_atomic_uint_t ngx_http_clawd_save_name(
    ngx_http_clawd_ledger_conf_t *conf);
static ngx_http_clawd_save_t *ngx_http_clawd_save_make(
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_ledger_conf_t *conf,
    ngx_log_t *log);
static void ngx_http_clawd_save_fill(ngx_http_clawd_save_t *save,
    ngx_http_clawd_account_t *asking, int64_t est);
static void ngx_http_clawd_save_exact(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_take(ngx_http_clawd_save_t *save, uint32_t i);
static int64_t ngx_http_clawd_save_ceiling(int64_t used, int64_t limit,
    int64_t est);
static void ngx_http_clawd_save_lower(ngx_http_clawd_ceiling_t *ceiling,
    ngx_http_clawd_usage_t *u);
static void ngx_http_clawd_save_run(void *data, ngx_log_t *log);
static void ngx_http_clawd_save_done(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_publish(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_free(ngx_http_clawd_save_t *save);
static ngx_int_t ngx_http_clawd_load_user(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_state_user_t *user);
#if (NGX_THREADS)
static void ngx_http_clawd_save_event(ngx_event_t *ev);
static ngx_thread_task_t *ngx_http_clawd_save_task(
    ngx_http_clawd_save_t *save);
#endif


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
            rc = NGX_AGAIN;
        }

        if (rc == NGX_OK) {

            /*
             * Charged before it is held: whoever dies in between leaves it
             * charged, or has it given back once the account is there.
             */

            acc->usage = u;
            acc->live++;
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
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    ngx_http_clawd_flight_free(a, f);
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
 * Writes the file, with room for what hold asks.  NGX_OK: it is admitted by
 * now; NGX_AGAIN: a thread or another process is at it; else as admit().
 */

static ngx_int_t
ngx_http_clawd_zone_save(ngx_http_clawd_hold_t *hold)
{
    ngx_int_t                 rc;
    ngx_http_clawd_save_t    *save;
    ngx_http_clawd_ledger_t  *ledger;
#if (NGX_THREADS)
    ngx_thread_task_t        *task;
#endif

    ledger = hold->ledger;

    /* a reload has named another file, of which this process knows nothing */

    if (ngx_http_clawd_save_name(ledger->conf) != ledger->accounts->path) {
        return NGX_ERROR;
    }

    if (!ngx_http_clawd_zone_saver(ledger->accounts)) {
        return NGX_AGAIN;
    }

    save = ngx_http_clawd_save_make(ledger->zone, ledger->conf, ledger->log);
    if (save == NULL) {
        ledger->accounts->saver = 0;
        return NGX_ERROR;
    }

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    ngx_http_clawd_save_fill(save,
                             ngx_http_clawd_account_find_locked(
                                               ledger->accounts, &hold->user,
                                               hold->hash),
                             hold->est);

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

#if (NGX_THREADS)

    if (ledger->threads) {
        task = ngx_http_clawd_save_task(save);

        if (task && ngx_thread_task_post(ledger->threads, task) == NGX_OK) {
            return NGX_AGAIN;
        }

        if (task) {
            ngx_free(task);
        }
    }

#endif

    ngx_http_clawd_save_run(save, ledger->log);
    rc = save->rc;
    ngx_http_clawd_save_done(save);

    return (rc == NGX_OK) ? ngx_http_clawd_zone_admit(hold) : rc;
}


/* 1 when this process may save: nobody else does, or who did has died */

static ngx_uint_t
ngx_http_clawd_zone_saver(ngx_http_clawd_accounts_t *a)
{
    ngx_atomic_uint_t  saver;

    saver = a->saver;

    if (saver
        && (saver == (ngx_atomic_uint_t) ngx_pid
            || kill((ngx_pid_t) saver, 0) == 0 || ngx_errno != ESRCH))
    {
        return 0;
    }

    return ngx_atomic_cmp_set(&a->saver, saver, ngx_pid);
}


static ngx_atomic_uint_t
ngx_http_clawd_save_name(ngx_http_clawd_ledger_conf_t *conf)
{
    if (conf->redis || conf->state.len == 0) {
        return 0;
    }

    return (ngx_atomic_uint_t) ngx_crc32_long(conf->state.data,
                                              conf->state.len)
           + 1;
}


static ngx_http_clawd_save_t *
ngx_http_clawd_save_make(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_ledger_conf_t *conf, ngx_log_t *log)
{
    ngx_http_clawd_save_t      *save;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);

    save = ngx_calloc(sizeof(ngx_http_clawd_save_t), log);
    if (save == NULL) {
        return NULL;
    }

    save->state.users = ngx_alloc(a->naccounts
                                  * sizeof(ngx_http_clawd_state_user_t), log);

    save->accounts = ngx_alloc(a->naccounts * sizeof(uint32_t), log);

    if (save->state.users == NULL || save->accounts == NULL) {
        ngx_http_clawd_save_free(save);
        return NULL;
    }

    save->zone = zone;
    save->log = log;
    save->path = &conf->state;
    save->name = ngx_http_clawd_save_name(conf);

    return save;
}


static void
ngx_http_clawd_save_free(ngx_http_clawd_save_t *save)
{
    if (save->state.users) {
        ngx_free(save->state.users);
    }

    if (save->accounts) {
        ngx_free(save->accounts);
    }

    ngx_free(save);
}


/* ceilings, under the mutex; asking may be NULL */

static void
ngx_http_clawd_save_fill(ngx_http_clawd_save_t *save,
    ngx_http_clawd_account_t *asking, int64_t est)
{
    int64_t                       now, *limits;
    uint32_t                      i;
    ngx_http_clawd_account_t     *acc;
    ngx_http_clawd_accounts_t    *a;
    ngx_http_clawd_state_user_t  *u;

    a = ngx_http_clawd_accounts(save->zone);
    now = ngx_http_clawd_ledger_now();

    save->state.minute = now / 60000000;

    /* a clock that was set back is behind what the user is charged to */

    if (asking) {
        save->state.minute = ngx_max(save->state.minute,
                                     asking->usage.minute);
    }

    if ((int64_t) a->minute > save->state.minute) {
        a->minute = (ngx_atomic_uint_t) save->state.minute;
    }

    for (i = 0; i < a->naccounts; i++) {
        acc = &a->accounts[i];

        if (acc->name_len == 0) {
            continue;
        }

        ngx_http_clawd_save_take(save, i);

        u = &save->state.users[save->state.nusers - 1];

        ngx_http_clawd_quota_roll(&u->usage, &acc->terms, now);

        limits = acc->terms.limits;

        u->usage.day_tokens = ngx_http_clawd_save_ceiling(
                                    u->usage.day_tokens,
                                    limits[NGX_HTTP_CLAWD_LIMIT_DAY],
                                    acc == asking ? est : 0);
        u->usage.month_tokens = ngx_http_clawd_save_ceiling(
                                    u->usage.month_tokens,
                                    limits[NGX_HTTP_CLAWD_LIMIT_MONTH],
                                    acc == asking ? est : 0);

        ngx_http_clawd_save_lower(&acc->ceiling, &u->usage);
    }
}


/* exact counts, when nothing is admitted any more */

static void
ngx_http_clawd_save_exact(ngx_http_clawd_save_t *save)
{
    uint32_t                    i;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(save->zone);

    save->state.minute = -1;

    for (i = 0; i < a->naccounts; i++) {
        if (a->accounts[i].name_len) {
            ngx_http_clawd_save_take(save, i);
        }
    }
}


static void
ngx_http_clawd_save_take(ngx_http_clawd_save_t *save, uint32_t i)
{
    ngx_http_clawd_account_t     *acc;
    ngx_http_clawd_state_user_t  *u;

    acc = &ngx_http_clawd_accounts(save->zone)->accounts[i];

    save->accounts[save->state.nusers] = i;
    u = &save->state.users[save->state.nusers++];

    u->name_len = acc->name_len;
    ngx_memcpy(u->name, acc->name, acc->name_len);
    u->usage = acc->usage;
}


static int64_t
ngx_http_clawd_save_ceiling(int64_t used, int64_t limit, int64_t est)
{
    int64_t  ceiling;

    if (limit < 0) {
        return used;
    }

    ceiling = used + est + limit / NGX_HTTP_CLAWD_CEILING_PART;

    return ngx_max(ngx_min(ceiling, limit), used);
}


/*
 * While the file is replaced either of the two may be what is found: until it
 * is known which, no more is admitted than both allow.  What is cleared goes
 * first, so that nobody who is killed in here leaves an old count to a new id.
 */

static void
ngx_http_clawd_save_lower(ngx_http_clawd_ceiling_t *ceiling,
    ngx_http_clawd_usage_t *u)
{
    if (ceiling->day != u->day) {
        ceiling->day_tokens = -1;
        ngx_memory_barrier();
        ceiling->day = u->day;
    }

    ceiling->day_tokens = ngx_min(ceiling->day_tokens, u->day_tokens);

    if (ceiling->month != u->month) {
        ceiling->month_tokens = -1;
        ngx_memory_barrier();
        ceiling->month = u->month;
    }

    ceiling->month_tokens = ngx_min(ceiling->month_tokens, u->month_tokens);
}


static void
ngx_http_clawd_save_run(void *data, ngx_log_t *log)
{
    ngx_http_clawd_save_t *save = data;

    save->rc = ngx_http_clawd_state_write(save->path, &save->state,
                                          &save->what);
    save->err = (save->rc == NGX_OK) ? 0 : ngx_errno;
}


/* the file is there, or not: what it tells holds from now on */

static void
ngx_http_clawd_save_done(ngx_http_clawd_save_t *save)
{
    ngx_http_clawd_accounts_t  *a;

    static time_t               told;

    a = ngx_http_clawd_accounts(save->zone);

    if (save->rc == NGX_OK) {
        ngx_http_clawd_save_publish(save);

    } else if (told != ngx_time()) {
        told = ngx_time();

        ngx_log_error(NGX_LOG_CRIT, save->log, save->err,
                      "clawd: the ledger can't be saved to \"%V\", nothing "
                      "more is admitted: %s failed", save->path, save->what);
    }

    ngx_http_clawd_save_free(save);

    ngx_memory_barrier();
    a->saver = 0;
}


static void
ngx_http_clawd_save_publish(ngx_http_clawd_save_t *save)
{
    ngx_uint_t                    i;
    ngx_http_clawd_account_t     *acc;
    ngx_http_clawd_accounts_t    *a;
    ngx_http_clawd_state_user_t  *u;

    a = ngx_http_clawd_accounts(save->zone);

    ngx_shmtx_lock(&save->zone->shpool->mutex);

    /* a reload may have named another file meanwhile */

    if (save->name != a->path) {
        goto done;
    }

    for (i = 0; i < save->state.nusers; i++) {
        u = &save->state.users[i];
        acc = &a->accounts[save->accounts[i]];

        /* its place may have been given to another meanwhile */

        if (acc->name_len != u->name_len
            || ngx_memcmp(acc->name, u->name, u->name_len) != 0)
        {
            continue;
        }

        acc->ceiling.day = u->usage.day;
        acc->ceiling.day_tokens = u->usage.day_tokens;
        acc->ceiling.month = u->usage.month;
        acc->ceiling.month_tokens = u->usage.month_tokens;
    }

    a->minute = (ngx_atomic_uint_t) save->state.minute;

done:

    ngx_shmtx_unlock(&save->zone->shpool->mutex);
}


#if (NGX_THREADS)

static void
ngx_http_clawd_save_event(ngx_event_t *ev)
{
    ngx_http_clawd_save_t *save = ev->data;

    ngx_thread_task_t  *task;

    task = save->task;

    ngx_http_clawd_save_done(save);
    ngx_free(task);
}


static ngx_thread_task_t *
ngx_http_clawd_save_task(ngx_http_clawd_save_t *save)
{
    ngx_thread_task_t  *task;

    task = ngx_calloc(sizeof(ngx_thread_task_t), save->log);
    if (task == NULL) {
        return NULL;
    }

    task->ctx = save;
    task->handler = ngx_http_clawd_save_run;
    task->event.handler = ngx_http_clawd_save_event;
    task->event.data = save;

    save->task = task;

    return task;
}

#endif


ngx_int_t
ngx_http_clawd_ledger_load(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_ledger_conf_t *conf, ngx_log_t *log)
{
    size_t                      i;
    ngx_int_t                   rc;
    ngx_uint_t                  fresh;
    ngx_http_clawd_state_t      state;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);

    if (conf->redis || conf->state.len == 0 || a->loaded) {
        return NGX_OK;
    }

    fresh = 1;

    for (i = 0; i < a->naccounts; i++) {
        fresh &= (a->accounts[i].name_len == 0);
    }

    if (!ngx_test_config) {
        ngx_http_clawd_state_clean(&conf->state);
    }

    rc = ngx_http_clawd_state_read(&conf->state, &state, log);

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (rc == NGX_OK) {

        for (i = 0; i < state.nusers && rc == NGX_OK; i++) {
            rc = ngx_http_clawd_load_user(zone, &state.users[i]);
        }

        ngx_free(state.users);

        if (rc != NGX_OK) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "\"clawd_zone\" is too small for the users in "
                          "\"%V\", make it larger", &conf->state);
            return NGX_ERROR;
        }

        if (state.minute > 0) {
            a->full_minute = (ngx_atomic_uint_t) state.minute;
            a->minute = (ngx_atomic_uint_t) state.minute;
        }
    }

    /* else it does not tell what was used, until it is written anew */

    if (fresh) {
        a->path = ngx_http_clawd_save_name(conf);
    }

    a->loaded = 1;

    return NGX_OK;
}


/*
 * A file that comes with a reload may be behind what is in the zone, where
 * others are at work: of both the larger counts.
 */

static ngx_int_t
ngx_http_clawd_load_user(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_state_user_t *user)
{
    uint32_t                    hash;
    ngx_int_t                   rc;
    ngx_str_t                   name;
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_accounts_t  *a;

    a = ngx_http_clawd_accounts(zone);
    rc = NGX_ERROR;

    name.data = user->name;
    name.len = user->name_len;
    hash = ngx_http_clawd_account_hash(a, &name);

    ngx_shmtx_lock(&zone->shpool->mutex);

    acc = ngx_http_clawd_account_find_locked(a, &name, hash);

    if (acc == NULL) {
        acc = ngx_http_clawd_account_locked(a, &name, hash, 1);

        /* until it is known again, no day of any zone is over too early */

        if (acc) {
            acc->terms.offset = NGX_HTTP_CLAWD_OFFSET_MIN;
        }
    }

    if (acc) {
        ngx_http_clawd_quota_join(&acc->usage, &user->usage);

        acc->ceiling.day = user->usage.day;
        acc->ceiling.day_tokens = user->usage.day_tokens;
        acc->ceiling.month = user->usage.month;
        acc->ceiling.month_tokens = user->usage.month_tokens;

        rc = NGX_OK;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


/*
 * A file that was not kept until now has no ceilings, whatever those of the
 * zone were: it gets them before any worker counts on it.
 */

void
ngx_http_clawd_ledger_use(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf)
{
    ngx_uint_t                  i;
    ngx_atomic_uint_t           name;
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_save_t      *save;
    ngx_http_clawd_accounts_t  *a;

    zone = ngx_http_clawd_zone(conf->zone);
    a = ngx_http_clawd_accounts(zone);
    name = ngx_http_clawd_save_name(conf);

    if (name == a->path || ngx_test_config) {
        return;
    }

    save = name ? ngx_http_clawd_save_make(zone, conf, cycle->log) : NULL;

    ngx_shmtx_lock(&zone->shpool->mutex);

    a->path = name;
    a->minute = 0;

    for (i = 0; i < a->naccounts; i++) {
        a->accounts[i].ceiling.day_tokens = -1;
        a->accounts[i].ceiling.month_tokens = -1;
    }

    if (save) {
        ngx_http_clawd_save_fill(save, NULL, 0);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (save == NULL) {
        return;
    }

    ngx_http_clawd_save_run(save, cycle->log);

    if (save->rc == NGX_OK) {
        ngx_http_clawd_save_publish(save);

    } else {
        ngx_log_error(NGX_LOG_CRIT, cycle->log, save->err,
                      "clawd: the ledger can't be saved to \"%V\": %s failed",
                      save->path, save->what);
    }

    ngx_http_clawd_save_free(save);
}


void
ngx_http_clawd_ledger_save(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf)
{
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_save_t      *save;
    ngx_http_clawd_accounts_t  *a;

    zone = ngx_http_clawd_zone(conf->zone);
    a = ngx_http_clawd_accounts(zone);

    if (conf->redis || conf->state.len == 0 || !a->loaded) {
        return;
    }

    save = ngx_http_clawd_save_make(zone, conf, cycle->log);
    if (save == NULL) {
        return;
    }

    ngx_http_clawd_save_exact(save);

    /* of a master that may exit in the middle of a minute it began in */

    if ((int64_t) a->full_minute >= ngx_http_clawd_ledger_now() / 60000000) {
        save->state.minute = a->full_minute;
    }

    ngx_http_clawd_save_run(save, cycle->log);

    if (save->rc != NGX_OK) {
        ngx_log_error(NGX_LOG_CRIT, cycle->log, save->err,
                      "clawd: the ledger can't be saved to \"%V\": %s failed, "
                      "the file keeps upper bounds of what was used",
                      save->path, save->what);
    }

    ngx_http_clawd_save_free(save);
}
