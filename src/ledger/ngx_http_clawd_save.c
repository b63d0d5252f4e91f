/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_save.h"
#include "ngx_http_clawd_state.h"


/* a ceiling is above the use by this part of the limit */
#define NGX_HTTP_CLAWD_CEILING_PART   32

/* of the westernmost zone there may be, in seconds */
#define NGX_HTTP_CLAWD_OFFSET_MIN     (-14 * 3600)

/* the cache manager looks so often whether the file is wanted, in ms */
#define NGX_HTTP_CLAWD_SAVE_LOOK      10

/* for what has nothing to do there, in ms */
#define NGX_HTTP_CLAWD_SAVE_HOUR      3600000


/* a save: what goes to the file, and what follows from it */

typedef struct {
    ngx_http_clawd_state_t        state;
    uint32_t                     *accounts;   /* index of each user */
    ngx_str_t                    *path;
    ngx_atomic_uint_t             name;       /* hash of path */
    const char                   *what;       /* failed */
    ngx_err_t                     err;
    ngx_http_clawd_zone_t        *zone;
} ngx_http_clawd_save_t;


static void ngx_http_clawd_save_manage(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf);
static ngx_msec_t ngx_http_clawd_save_begin(void *data);
static void ngx_http_clawd_save_look(ngx_event_t *ev);
static ngx_uint_t ngx_http_clawd_save_claim(ngx_http_clawd_accounts_t *a);
static ngx_uint_t ngx_http_clawd_save_alive(ngx_atomic_uint_t saver);
static ngx_http_clawd_save_t *ngx_http_clawd_save_make(
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_ledger_conf_t *conf,
    ngx_log_t *log);
static void ngx_http_clawd_save_free(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_fill(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_exact(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_take(ngx_http_clawd_save_t *save, uint32_t i);
static int64_t ngx_http_clawd_save_ceiling(int64_t used, int64_t limit,
    int64_t est);
static void ngx_http_clawd_save_lower(ngx_http_clawd_ceiling_t *ceiling,
    ngx_http_clawd_usage_t *u);
static ngx_int_t ngx_http_clawd_save_run(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_publish(ngx_http_clawd_save_t *save);
static void ngx_http_clawd_save_retire(ngx_http_clawd_ledger_conf_t *old,
    ngx_http_clawd_accounts_t *a, ngx_atomic_uint_t name);
static ngx_int_t ngx_http_clawd_load_user(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_state_user_t *user);


ngx_int_t
ngx_http_clawd_save(ngx_http_clawd_ledger_conf_t *conf, ngx_log_t *log)
{
    ngx_int_t                   rc;
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_save_t      *save;
    ngx_http_clawd_accounts_t  *a;

    static time_t               told;

    zone = ngx_http_clawd_zone(conf->zone);
    a = ngx_http_clawd_accounts(zone);

    if (!ngx_http_clawd_save_claim(a)) {
        return NGX_AGAIN;
    }

    rc = NGX_ERROR;

    save = ngx_http_clawd_save_make(zone, conf, log);
    if (save == NULL) {
        goto done;
    }

    /* who asks from here on may be too late for this one */

    a->wanted = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);
    ngx_http_clawd_save_fill(save);
    ngx_shmtx_unlock(&zone->shpool->mutex);

    rc = ngx_http_clawd_save_run(save);

    if (rc == NGX_OK) {
        ngx_http_clawd_save_publish(save);

    } else if (told != ngx_time()) {
        told = ngx_time();

        ngx_log_error(NGX_LOG_CRIT, log, save->err,
                      "clawd: the ledger can't be saved to \"%V\", nothing "
                      "more is admitted: %s failed", save->path, save->what);
    }

    ngx_http_clawd_save_free(save);

done:

    if (rc != NGX_OK) {
        a->failures++;
    }

    ngx_memory_barrier();
    a->saver = 0;

    return rc;
}


/*
 * By the time that modules are initialized NGINX has created the folders of all
 * paths, and given them to the workers: this one must be spared that.
 */

static void
ngx_http_clawd_save_manage(ngx_cycle_t *cycle,
    ngx_http_clawd_ledger_conf_t *conf)
{
    ngx_path_t  **path;

    path = ngx_array_push(&cycle->paths);

    /* without it the workers write the file in their own turn */

    if (path) {
        conf->manager.name = conf->state;
        conf->manager.manager = ngx_http_clawd_save_begin;
        conf->manager.data = conf;

        *path = &conf->manager;
    }
}


/*
 * The cache manager calls all managers when the first wants to be: those of
 * caches must not be called as often as we look, so that has its own timer.
 */

static ngx_msec_t
ngx_http_clawd_save_begin(void *data)
{
    ngx_http_clawd_ledger_conf_t *conf = data;

    ngx_event_t  *ev;

    ev = &conf->look;

    if (!ev->timer_set) {
        ev->handler = ngx_http_clawd_save_look;
        ev->data = conf;
        ev->log = ngx_cycle->log;

        ngx_add_timer(ev, NGX_HTTP_CLAWD_SAVE_LOOK);
    }

    return NGX_HTTP_CLAWD_SAVE_HOUR;
}


static void
ngx_http_clawd_save_look(ngx_event_t *ev)
{
    ngx_http_clawd_accounts_t     *a;
    ngx_http_clawd_ledger_conf_t  *conf;

    conf = ev->data;
    a = ngx_http_clawd_accounts(ngx_http_clawd_zone(conf->zone));

    /* a reload may have named another file, which another process writes */

    if (a->wanted && ngx_http_clawd_save_name(conf) == a->path) {
        (void) ngx_http_clawd_save(conf, ev->log);
    }

    ngx_add_timer(ev, NGX_HTTP_CLAWD_SAVE_LOOK);
}


ngx_uint_t
ngx_http_clawd_save_busy(ngx_http_clawd_accounts_t *a)
{
    return ngx_http_clawd_save_alive(a->saver);
}


/*
 * 1 when this process may save: nobody else does, or who did has died.  Who is
 * looked at must be who is replaced: it may end meanwhile, and begin again.
 */

static ngx_uint_t
ngx_http_clawd_save_claim(ngx_http_clawd_accounts_t *a)
{
    ngx_atomic_uint_t  saver;

    saver = a->saver;

    return !ngx_http_clawd_save_alive(saver)
           && ngx_atomic_cmp_set(&a->saver, saver, ngx_pid);
}


/* one of this process's id has died: a save is over before another begins */

static ngx_uint_t
ngx_http_clawd_save_alive(ngx_atomic_uint_t saver)
{
    return saver && saver != (ngx_atomic_uint_t) ngx_pid
           && (kill((ngx_pid_t) saver, 0) == 0 || ngx_errno != ESRCH);
}


ngx_atomic_uint_t
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


/* ceilings; under the mutex */

static void
ngx_http_clawd_save_fill(ngx_http_clawd_save_t *save)
{
    int64_t                       now, *limits;
    uint32_t                      i;
    ngx_http_clawd_account_t     *acc;
    ngx_http_clawd_accounts_t    *a;
    ngx_http_clawd_state_user_t  *u;

    a = ngx_http_clawd_accounts(save->zone);
    now = ngx_http_clawd_ledger_now();

    save->state.minute = now / 60000000;

    for (i = 0; i < a->naccounts; i++) {
        acc = &a->accounts[i];

        if (acc->name_len == 0) {
            continue;
        }

        ngx_http_clawd_save_take(save, i);

        u = &save->state.users[save->state.nusers - 1];

        /* a clock that was set back is behind what the user is charged to */

        if (acc->waited) {
            save->state.minute = ngx_max(save->state.minute,
                                         acc->usage.minute);
        }

        ngx_http_clawd_quota_roll(&u->usage, &acc->terms, now);

        limits = acc->terms.limits;

        u->usage.day_tokens = ngx_http_clawd_save_ceiling(
                                    u->usage.day_tokens,
                                    limits[NGX_HTTP_CLAWD_LIMIT_DAY],
                                    acc->asking);
        u->usage.month_tokens = ngx_http_clawd_save_ceiling(
                                    u->usage.month_tokens,
                                    limits[NGX_HTTP_CLAWD_LIMIT_MONTH],
                                    acc->asking);

        ngx_http_clawd_save_lower(&acc->ceiling, &u->usage);

        acc->asking = 0;
        acc->waited = 0;
    }

    if ((int64_t) a->minute > save->state.minute) {
        a->minute = (ngx_atomic_uint_t) save->state.minute;
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


static ngx_int_t
ngx_http_clawd_save_run(ngx_http_clawd_save_t *save)
{
    ngx_int_t  rc;

    rc = ngx_http_clawd_state_write(save->path, &save->state, &save->what);

    save->err = (rc == NGX_OK) ? 0 : ngx_errno;

    return rc;
}


/* the file is there: what it tells holds from now on */

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
    ngx_http_clawd_ledger_conf_t *conf, ngx_http_clawd_ledger_conf_t *old)
{
    ngx_uint_t                  i;
    ngx_atomic_uint_t           name;
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_save_t      *save;
    ngx_http_clawd_accounts_t  *a;

    zone = ngx_http_clawd_zone(conf->zone);
    a = ngx_http_clawd_accounts(zone);
    name = ngx_http_clawd_save_name(conf);

    if (name) {
        ngx_http_clawd_save_manage(cycle, conf);
    }

    if (ngx_test_config) {
        return;
    }

    if (old) {
        ngx_http_clawd_save_retire(old, a, name);
    }

    if (name == a->path) {
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
        ngx_http_clawd_save_fill(save);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (save == NULL) {
        return;
    }

    if (ngx_http_clawd_save_run(save) == NGX_OK) {
        ngx_http_clawd_save_publish(save);

    } else {
        ngx_log_error(NGX_LOG_CRIT, cycle->log, save->err,
                      "clawd: the ledger can't be saved to \"%V\": %s failed",
                      save->path, save->what);
    }

    ngx_http_clawd_save_free(save);
}


/*
 * A zone of another name or size is what a reload gives to new workers alone:
 * the old one, which knows nothing of what they use, must not write the file.
 */

static void
ngx_http_clawd_save_retire(ngx_http_clawd_ledger_conf_t *old,
    ngx_http_clawd_accounts_t *a, ngx_atomic_uint_t name)
{
    ngx_http_clawd_accounts_t  *other;

    other = ngx_http_clawd_accounts(ngx_http_clawd_zone(old->zone));

    if (other != a && name && other->path == name) {
        other->path = 0;
    }
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

    /* of two NGINXs, after an upgrade, the file is the new one's */

    if (ngx_new_binary) {
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

    if (ngx_http_clawd_save_run(save) != NGX_OK) {
        ngx_log_error(NGX_LOG_CRIT, cycle->log, save->err,
                      "clawd: the ledger can't be saved to \"%V\": %s failed, "
                      "the file keeps upper bounds of what was used",
                      save->path, save->what);
    }

    ngx_http_clawd_save_free(save);
}
