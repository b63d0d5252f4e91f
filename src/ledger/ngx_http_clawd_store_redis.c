/*
 * Copyright (C) clawd authors
 *
 * The store in Redis: a question before the upstream, word of what was used
 * after it, and what becomes of both while Redis is away.
 */

#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_scripts.h"
#include "ngx_http_clawd_number.h"


/* a reservation is an orphan when its gateway has not been heard so long */
#define NGX_HTTP_CLAWD_TTL          90000
#define NGX_HTTP_CLAWD_BEAT         30000

/* rids of one heartbeat */
#define NGX_HTTP_CLAWD_BEAT_MAX     64

/* settlements that go to the file, or come from it, at once */
#define NGX_HTTP_CLAWD_SPOOL_BATCH  64

/* settlements that may be on their way when more are reminded of */
#define NGX_HTTP_CLAWD_REMIND_MAX   512

/* Redis is away so long before settlements go to the file */
#define NGX_HTTP_CLAWD_SPOOL_AFTER  1000

/* with on_down=local a gateway admits a tenth of a limit without Redis */
#define NGX_HTTP_CLAWD_LOCAL_SHARE  10

/* of the numbers in a reply, which are the scripts' doubles; month ids */
#define NGX_HTTP_CLAWD_NUMBER_MAX   9007199254740992LL
#define NGX_HTTP_CLAWD_MONTH_MAX    4000

/* arguments of each rider */
#define NGX_HTTP_CLAWD_RIDER_ARGS   6

#define NGX_HTTP_CLAWD_ARGS_MAX     (NGX_HTTP_CLAWD_BEAT_MAX + 2)


/* arguments of a script, with the room in which numbers are written */

typedef struct {
    ngx_str_t   keys[3];
    ngx_uint_t  n;
    ngx_str_t   args[NGX_HTTP_CLAWD_ARGS_MAX];
    u_char     *p;
    u_char      buf[3 * (NGX_HTTP_CLAWD_NAME_LEN * 2 + 16)
                    + (26 + NGX_HTTP_CLAWD_RIDERS_MAX
                            * (NGX_HTTP_CLAWD_RIDER_ARGS - 1))
                      * NGX_INT64_LEN];
} ngx_http_clawd_call_t;


/* a settlement on its way; flight is NULL when it came from the file */

typedef struct {
    ngx_http_clawd_redis_cmd_t    cmd;
    ngx_http_clawd_ledger_t      *ledger;
    ngx_http_clawd_flight_t      *flight;
    ngx_http_clawd_settlement_t   s;
} ngx_http_clawd_told_t;


static void ngx_http_clawd_redis_reserve(ngx_http_clawd_hold_t *hold);
static ngx_uint_t ngx_http_clawd_redis_wait(ngx_http_clawd_hold_t *hold);
static void ngx_http_clawd_redis_waited(ngx_event_t *ev);
static ngx_int_t ngx_http_clawd_redis_ask(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_usage_t *guard);
static void ngx_http_clawd_redis_note(ngx_http_clawd_hold_t *hold,
    int64_t now);
static void ngx_http_clawd_redis_asked(ngx_http_clawd_redis_cmd_t *cmd);
static ngx_int_t ngx_http_clawd_redis_verdict(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_resp_t *reply);
static void ngx_http_clawd_redis_unasked(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_redis_result_e result);
static ngx_int_t ngx_http_clawd_redis_down(ngx_http_clawd_hold_t *hold);
static ngx_int_t ngx_http_clawd_redis_local(ngx_http_clawd_hold_t *hold);
static int64_t ngx_http_clawd_redis_share(int64_t limit);
static void ngx_http_clawd_redis_unlocal(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f);
static void ngx_http_clawd_redis_usage(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_resp_item_t *items);
static ngx_int_t ngx_http_clawd_redis_array(ngx_http_clawd_resp_t *reply,
    ngx_uint_t n);
static ngx_int_t ngx_http_clawd_redis_integers(ngx_http_clawd_resp_t *reply,
    ngx_uint_t n, ngx_uint_t usage);
static void ngx_http_clawd_redis_mirror(ngx_http_clawd_ledger_t *ledger,
    ngx_str_t *user, ngx_http_clawd_usage_t *usage);
static int64_t ngx_http_clawd_redis_heard(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_settlement_t *s);
static void ngx_http_clawd_redis_settle(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f);
static ngx_int_t ngx_http_clawd_redis_park(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f);
static void ngx_http_clawd_redis_board(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_call_t *call, ngx_uint_t room);
static void ngx_http_clawd_redis_alight(ngx_http_clawd_hold_t *hold,
    int64_t settled);
static void ngx_http_clawd_redis_alone(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f);
static ngx_int_t ngx_http_clawd_redis_tell(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f, ngx_http_clawd_settlement_t *s);
static void ngx_http_clawd_redis_told(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_unmark(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_settlement_t *s);
static ngx_uint_t ngx_http_clawd_redis_final(
    ngx_http_clawd_told_t *told, ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_redis_tick(ngx_http_clawd_ledger_t *ledger);
static void ngx_http_clawd_redis_remind(ngx_http_clawd_ledger_t *ledger);
static ngx_uint_t ngx_http_clawd_redis_spool(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t **flights, ngx_uint_t n);
static void ngx_http_clawd_redis_replay(ngx_http_clawd_ledger_t *ledger);
static void ngx_http_clawd_redis_replayed(ngx_http_clawd_ledger_t *ledger,
    ngx_uint_t ok);
static void ngx_http_clawd_redis_beat(ngx_http_clawd_ledger_t *ledger,
    ngx_msec_t age);
static void ngx_http_clawd_redis_beat_user(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t **flights, ngx_uint_t n);
static void ngx_http_clawd_redis_freed(ngx_http_clawd_redis_cmd_t *cmd);
static void ngx_http_clawd_call_init(ngx_http_clawd_call_t *call,
    u_char *user, size_t len);
static void ngx_http_clawd_call_text(ngx_http_clawd_call_t *call,
    u_char *data, size_t len);
static void ngx_http_clawd_call_number(ngx_http_clawd_call_t *call,
    int64_t n);
static void ngx_http_clawd_call_guard(ngx_http_clawd_call_t *call,
    ngx_http_clawd_usage_t *guard);


ngx_http_clawd_store_t  ngx_http_clawd_store_redis = {
    ngx_http_clawd_redis_reserve,
    ngx_http_clawd_redis_settle,
    ngx_http_clawd_redis_tick
};


static void
ngx_http_clawd_redis_reserve(ngx_http_clawd_hold_t *hold)
{
    if (!ngx_http_clawd_redis_ready(hold->ledger->link)) {

        if (!ngx_http_clawd_redis_wait(hold)) {
            hold->rc = ngx_http_clawd_redis_down(hold);
        }

        return;
    }

    if (!hold->look) {
        hold->flight = ngx_http_clawd_flight_take(hold->ledger->zone,
                                                  &hold->user);
        if (hold->flight == NULL) {
            hold->rc = NGX_ERROR;
            return;
        }
    }

    if (ngx_http_clawd_redis_ask(hold, NULL) != NGX_OK) {
        ngx_http_clawd_redis_unasked(hold, NGX_HTTP_CLAWD_REDIS_OK);
        hold->rc = ngx_http_clawd_redis_down(hold);
    }
}


/* the link of a worker that has just started is ready in a moment: 1 or 0 */

static ngx_uint_t
ngx_http_clawd_redis_wait(ngx_http_clawd_hold_t *hold)
{
    ngx_http_clawd_ledger_t  *ledger;

    ledger = hold->ledger;

    if (hold->timer.handler == NULL) {
        hold->timer.handler = ngx_http_clawd_redis_waited;
        hold->timer.data = hold;
        hold->timer.log = ledger->log;
        hold->asked = ngx_current_msec;
    }

    if (!ngx_http_clawd_redis_soon(ledger->link)
        || ngx_current_msec - hold->asked >= ledger->conf->redis->timeout)
    {
        return 0;
    }

    ngx_add_timer(&hold->timer, NGX_HTTP_CLAWD_SOON);

    return 1;
}


static void
ngx_http_clawd_redis_waited(ngx_event_t *ev)
{
    ngx_http_clawd_hold_t  *hold;

    hold = ev->data;

    ngx_http_clawd_redis_reserve(hold);

    if (hold->rc != NGX_AGAIN) {
        ngx_http_clawd_hold_done(hold, hold->rc);
    }
}


static ngx_int_t
ngx_http_clawd_redis_ask(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_usage_t *guard)
{
    int64_t                    n, live, now, *limits;
    ngx_int_t                  rc;
    ngx_str_t                 *run;
    ngx_http_clawd_call_t      call;
    ngx_http_clawd_ledger_t   *ledger;
    ngx_http_clawd_account_t  *acc;

    ledger = hold->ledger;
    n = 0;
    live = 0;

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(ledger->accounts, &hold->user,
                                        hold->hash, 0);
    if (acc) {
        live = acc->live;

        if (acc->usage.epoch == hold->terms.epoch) {
            n = acc->usage.n;

            if (guard) {
                *guard = acc->usage;
            }
        }
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    now = ngx_http_clawd_redis_now(ledger->link);
    limits = hold->terms.limits;

    if (hold->flight) {
        ngx_http_clawd_redis_note(hold, now ? now
                                            : ngx_http_clawd_ledger_now());
    }

    ngx_http_clawd_call_init(&call, hold->user.data, hold->user.len);

    if (hold->flight) {
        ngx_http_clawd_call_text(&call, hold->flight->s.rid,
                                 NGX_HTTP_CLAWD_RID_HEX);
    } else {
        ngx_http_clawd_call_text(&call, (u_char *) "", 0);
    }

    ngx_http_clawd_call_number(&call, hold->look ? -1 : hold->est);
    ngx_http_clawd_call_number(&call, NGX_HTTP_CLAWD_TTL);
    ngx_http_clawd_call_number(&call, now
                                      ? now + (int64_t) 1000
                                              * ledger->conf->redis->timeout
                                      : 0);
    ngx_http_clawd_call_number(&call,
                               limits[NGX_HTTP_CLAWD_LIMIT_CONCURRENCY]);
    ngx_http_clawd_call_number(&call, limits[NGX_HTTP_CLAWD_LIMIT_RPM]);
    ngx_http_clawd_call_number(&call, limits[NGX_HTTP_CLAWD_LIMIT_TPM]);
    ngx_http_clawd_call_number(&call, limits[NGX_HTTP_CLAWD_LIMIT_DAY]);
    ngx_http_clawd_call_number(&call, limits[NGX_HTTP_CLAWD_LIMIT_MONTH]);
    ngx_http_clawd_call_number(&call, hold->terms.offset);
    ngx_http_clawd_call_number(&call, hold->terms.epoch);

    run = ngx_http_clawd_redis_run_id(ledger->link);
    ngx_http_clawd_call_text(&call, run->data, run->len);

    ngx_http_clawd_call_number(&call, n);
    ngx_http_clawd_call_number(&call, live);

    if (guard) {
        ngx_http_clawd_call_guard(&call, guard);
    }

    ngx_http_clawd_redis_board(hold, &call, guard || hold->look
                                            ? 0 : NGX_HTTP_CLAWD_RIDERS_MAX);

    hold->cmd.handler = ngx_http_clawd_redis_asked;
    hold->cmd.data = hold;

    rc = ngx_http_clawd_redis_eval(ledger->link, &hold->cmd,
                                   NGX_HTTP_CLAWD_SCRIPT_RESERVE, 3,
                                   call.keys, call.n, call.args);
    if (rc != NGX_OK) {
        ngx_http_clawd_redis_alight(hold, 0);
    }

    return rc;
}


/* should the answer get lost, this is what is to be taken back */

static void
ngx_http_clawd_redis_note(ngx_http_clawd_hold_t *hold, int64_t now)
{
    ngx_http_clawd_usage_t        usage;
    ngx_http_clawd_settlement_t  *s;

    s = &hold->flight->s;

    ngx_memzero(&usage, sizeof(ngx_http_clawd_usage_t));
    ngx_http_clawd_quota_roll(&usage, &hold->terms, now);

    s->est = hold->est;
    s->offset = hold->terms.offset;
    s->tpm = hold->terms.limits[NGX_HTTP_CLAWD_LIMIT_TPM];
    s->windows.epoch = hold->terms.epoch;
    s->windows.minute = usage.minute;
    s->windows.day = usage.day;
    s->windows.month = usage.month;
}


static void
ngx_http_clawd_redis_asked(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_int_t                rc;
    ngx_http_clawd_hold_t   *hold;
    ngx_http_clawd_usage_t   guard;

    hold = cmd->data;

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_OK
        || ngx_http_clawd_redis_integers(cmd->reply, NGX_HTTP_CLAWD_RESERVE_N,
                                         NGX_HTTP_CLAWD_RESERVE_USAGE)
           != NGX_OK)
    {
        ngx_http_clawd_redis_alight(hold, 0);
        ngx_http_clawd_redis_unasked(hold, cmd->result);
        ngx_http_clawd_hold_done(hold, ngx_http_clawd_redis_down(hold));
        return;
    }

    ngx_http_clawd_redis_clock(hold->ledger->link, cmd->sent,
                          cmd->reply->items[1 + NGX_HTTP_CLAWD_RESERVE_NOW]
                          .integer);

    ngx_http_clawd_redis_alight(hold,
                     cmd->reply->items[1 + NGX_HTTP_CLAWD_RESERVE_SETTLED]
                     .integer);

    rc = ngx_http_clawd_redis_verdict(hold, cmd->reply);

    if (rc == NGX_AGAIN) {
        ngx_memzero(&guard, sizeof(ngx_http_clawd_usage_t));

        if (!hold->guarded
            && ngx_http_clawd_redis_ask(hold, &guard) == NGX_OK)
        {
            hold->guarded = 1;
            return;
        }

        rc = NGX_ERROR;
    }

    if (rc == NGX_ERROR) {
        ngx_http_clawd_redis_unasked(hold, NGX_HTTP_CLAWD_REDIS_OK);
        rc = ngx_http_clawd_redis_down(hold);
    }

    ngx_http_clawd_hold_done(hold, rc);
}


/* NGX_AGAIN: the server has lost operations; NGX_ERROR: it came too late */

static ngx_int_t
ngx_http_clawd_redis_verdict(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_resp_t *reply)
{
    int64_t                      status, limit;
    ngx_http_clawd_flight_t     *f;
    ngx_http_clawd_resp_item_t  *items;

    items = &reply->items[1];
    status = items[NGX_HTTP_CLAWD_RESERVE_STATUS].integer;
    limit = items[NGX_HTTP_CLAWD_RESERVE_LIMIT].integer;

    if (status == 4) {
        return NGX_AGAIN;
    }

    if (status == 5) {

        /* all workers of this gateway tell what they have in flight */

        (void) ngx_atomic_fetch_add(&hold->ledger->accounts->losses, 1);
    }

    if ((status != 0 && status != 1)
        || (status == 0 && (limit < 0 || limit >= NGX_HTTP_CLAWD_LIMITS)))
    {
        return NGX_ERROR;
    }

    hold->now = items[NGX_HTTP_CLAWD_RESERVE_NOW].integer;
    hold->live = items[NGX_HTTP_CLAWD_RESERVE_LIVE].integer;

    ngx_http_clawd_redis_usage(&hold->usage,
                               &items[NGX_HTTP_CLAWD_RESERVE_USAGE]);
    ngx_http_clawd_redis_mirror(hold->ledger, &hold->user, &hold->usage);

    f = hold->flight;

    if (status == 0) {
        hold->limit = limit;

        if (f) {
            hold->flight = NULL;
            ngx_http_clawd_flight_free(hold->ledger->accounts, f);
        }

        return NGX_DECLINED;
    }

    if (f) {
        f->s.windows.epoch = hold->usage.epoch;
        f->s.windows.minute = hold->usage.minute;
        f->s.windows.day = hold->usage.day;
        f->s.windows.month = hold->usage.month;

        ngx_http_clawd_flight_held(hold);
    }

    return NGX_OK;
}


/*
 * The question has no answer.  When it may have been heard all the same, it is
 * taken back, but not before its deadline has passed for sure.
 */

static void
ngx_http_clawd_redis_unasked(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_redis_result_e result)
{
    ngx_http_clawd_flight_t  *f;

    f = hold->flight;
    hold->flight = NULL;

    if (f == NULL) {
        return;
    }

    if (result != NGX_HTTP_CLAWD_REDIS_CONNECT
        && result != NGX_HTTP_CLAWD_REDIS_TIMEOUT
        && result != NGX_HTTP_CLAWD_REDIS_PROTOCOL)
    {
        ngx_http_clawd_flight_free(hold->ledger->accounts, f);
        return;
    }

    f->since = ngx_current_msec + 1000 + hold->ledger->conf->redis->timeout;
    f->state = NGX_HTTP_CLAWD_FLIGHT_DUE;

    hold->ledger->due++;
}


/* what happens to a request while Redis does not answer */

static ngx_int_t
ngx_http_clawd_redis_down(ngx_http_clawd_hold_t *hold)
{
    if (hold->look || hold->ended) {
        return NGX_ERROR;
    }

    switch (hold->ledger->conf->redis->on_down) {

    case NGX_HTTP_CLAWD_DOWN_LOCAL:
        return ngx_http_clawd_redis_local(hold);

    case NGX_HTTP_CLAWD_DOWN_OPEN:
        return ngx_http_clawd_hold_offline(hold);

    default: /* NGX_HTTP_CLAWD_DOWN_DENY */
        return NGX_ERROR;
    }
}


/* this gateway's share of each limit, and not past what it knows was used */

static ngx_int_t
ngx_http_clawd_redis_local(ngx_http_clawd_hold_t *hold)
{
    int64_t                     now, *limits;
    ngx_int_t                   rc;
    ngx_uint_t                  i;
    ngx_http_clawd_zone_t      *zone;
    ngx_http_clawd_usage_t      usage;
    ngx_http_clawd_terms_t      terms;
    ngx_http_clawd_account_t   *acc;
    ngx_http_clawd_windows_t    windows;

    zone = hold->ledger->zone;
    terms = hold->terms;
    limits = terms.limits;
    now = ngx_http_clawd_ledger_now();

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        limits[i] = ngx_http_clawd_redis_share(limits[i]);
    }

    rc = NGX_ERROR;

    ngx_shmtx_lock(&zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(hold->ledger->accounts, &hold->user,
                                        hold->hash, 0);
    if (acc) {
        usage = acc->usage;
        hold->live = acc->live;

        rc = ngx_http_clawd_quota_reserve(&usage, &hold->terms, 0,
                                          hold->est, now, &windows,
                                          &hold->limit);
        hold->usage = usage;

        if (rc == NGX_OK) {
            rc = ngx_http_clawd_quota_reserve(&acc->offline, &terms,
                                              acc->live, hold->est, now,
                                              &windows, &hold->limit);
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    hold->now = now;

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_clawd_hold_offline(hold);

    if (rc == NGX_OK) {
        hold->flight->local = 1;
    }

    return rc;
}


static int64_t
ngx_http_clawd_redis_share(int64_t limit)
{
    return (limit > 0) ? ngx_max(limit / NGX_HTTP_CLAWD_LOCAL_SHARE, 1)
                       : limit;
}


/* of the share, too, only what was used is gone */

static void
ngx_http_clawd_redis_unlocal(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f)
{
    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    if (f->account < a->naccounts) {
        ngx_http_clawd_quota_settle(&a->accounts[f->account].offline,
                                    &f->s.windows, f->s.actual - f->s.est,
                                    ngx_http_clawd_redis_share(f->s.tpm));
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);
}


/* whether a reply is an array of n integers */

static ngx_int_t
ngx_http_clawd_redis_array(ngx_http_clawd_resp_t *reply, ngx_uint_t n)
{
    ngx_uint_t  i;

    if (reply->nitems != n + 1
        || reply->items[0].type != NGX_HTTP_CLAWD_RESP_ARRAY)
    {
        return NGX_ERROR;
    }

    for (i = 1; i <= n; i++) {
        if (reply->items[i].type != NGX_HTTP_CLAWD_RESP_INTEGER) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/*
 * …that a script can have made, from the one numbered usage on a user's.  What
 * is beyond would overflow here.
 */

static ngx_int_t
ngx_http_clawd_redis_integers(ngx_http_clawd_resp_t *reply, ngx_uint_t n,
    ngx_uint_t usage)
{
    ngx_uint_t               i;
    ngx_http_clawd_usage_t   u;

    if (ngx_http_clawd_redis_array(reply, n) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 1; i <= n; i++) {
        if (reply->items[i].integer < -NGX_HTTP_CLAWD_NUMBER_MAX
            || reply->items[i].integer > NGX_HTTP_CLAWD_NUMBER_MAX)
        {
            return NGX_ERROR;
        }
    }

    ngx_http_clawd_redis_usage(&u, &reply->items[1 + usage]);

    if (u.minute < 0 || u.minute > NGX_HTTP_CLAWD_NUMBER_MAX / 60000000
        || u.day < 0 || u.day > NGX_HTTP_CLAWD_NUMBER_MAX / 86400000000LL
        || u.month < 0 || u.month > NGX_HTTP_CLAWD_MONTH_MAX)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_clawd_redis_usage(ngx_http_clawd_usage_t *u,
    ngx_http_clawd_resp_item_t *items)
{
    u->epoch = items[0].integer;
    u->n = items[1].integer;
    u->request_tat = items[2].integer;
    u->token_tat = items[3].integer;
    u->minute = items[4].integer;
    u->minute_requests = items[5].integer;
    u->minute_tokens = items[6].integer;
    u->day = items[7].integer;
    u->day_tokens = items[8].integer;
    u->month = items[9].integer;
    u->month_tokens = items[10].integer;
}


/* the newest word of the server wins; all of it or nothing */

static void
ngx_http_clawd_redis_mirror(ngx_http_clawd_ledger_t *ledger,
    ngx_str_t *user, ngx_http_clawd_usage_t *usage)
{
    uint32_t                   hash;
    ngx_http_clawd_account_t  *acc;

    hash = ngx_http_clawd_account_hash(ledger->accounts, user);

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    acc = ngx_http_clawd_account_locked(ledger->accounts, user, hash, 0);

    if (acc
        && (usage->epoch > acc->usage.epoch
            || (usage->epoch == acc->usage.epoch
                && usage->n >= acc->usage.n)))
    {
        acc->usage = *usage;
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);
}


/* the newest operation of a user that this gateway has heard of */

static int64_t
ngx_http_clawd_redis_heard(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_settlement_t *s)
{
    int64_t                    n;
    uint32_t                   hash;
    ngx_str_t                  user;
    ngx_http_clawd_account_t  *acc;

    user.data = s->user;
    user.len = s->user_len;

    hash = ngx_http_clawd_account_hash(ledger->accounts, &user);

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    acc = ngx_http_clawd_account_find_locked(ledger->accounts, &user, hash);
    n = acc ? acc->usage.n : 0;

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    return n;
}


static void
ngx_http_clawd_redis_settle(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f)
{
    ngx_uint_t  last;

    f->since = ngx_current_msec;

    /* its account is live until then: its place is not another's */

    if (f->local) {
        ngx_http_clawd_redis_unlocal(ledger, f);
    }

    last = ngx_http_clawd_flight_unheld(ledger, f,
                                        NGX_HTTP_CLAWD_FLIGHT_DUE);

    /* who waits for the last place may ask another worker: no delay */

    if (!last && ngx_http_clawd_redis_park(ledger, f) == NGX_OK) {
        return;
    }

    if (ngx_http_clawd_redis_tell(ledger, f, &f->s) != NGX_OK) {
        ledger->due++;
    }
}


/* NGX_DECLINED: it is better told at once */

static ngx_int_t
ngx_http_clawd_redis_park(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f)
{
    if (f->s.offline || ngx_exiting
        || ledger->nriders == NGX_HTTP_CLAWD_RIDERS_WAIT
        || ngx_http_clawd_redis_pending(ledger->link) == 0)
    {
        return NGX_DECLINED;
    }

    ledger->riders[ledger->nriders++] = f;
    f->sending = 1;

    if (!ledger->ride.timer_set) {
        ngx_add_timer(&ledger->ride, NGX_HTTP_CLAWD_RIDE);
    }

    return NGX_OK;
}


/*
 * Those of the same user go with the question, or ahead of it when it can take
 * none of them: what was used is known by then.  More than it can take go with
 * the next.
 */

static void
ngx_http_clawd_redis_board(ngx_http_clawd_hold_t *hold,
    ngx_http_clawd_call_t *call, ngx_uint_t room)
{
    ngx_uint_t                    i, n;
    ngx_http_clawd_ledger_t      *ledger;
    ngx_http_clawd_settlement_t  *s;

    ledger = hold->ledger;
    n = 0;

    for (i = 0; i < ledger->nriders; i++) {
        s = &ledger->riders[i]->s;

        if ((room && hold->nriders == room)
            || s->user_len != hold->user.len
            || ngx_memcmp(s->user, hold->user.data, s->user_len) != 0)
        {
            ledger->riders[n++] = ledger->riders[i];
            continue;
        }

        if (room == 0
            || s->windows.epoch != hold->terms.epoch
            || s->offset != hold->terms.offset)
        {
            ngx_http_clawd_redis_alone(ledger, ledger->riders[i]);
            continue;
        }

        hold->riders[hold->nriders++] = ledger->riders[i];

        ngx_http_clawd_call_text(call, s->rid, NGX_HTTP_CLAWD_RID_HEX);
        ngx_http_clawd_call_number(call, s->actual - s->est);
        ngx_http_clawd_call_number(call, s->windows.minute);
        ngx_http_clawd_call_number(call, s->windows.day);
        ngx_http_clawd_call_number(call, s->windows.month);
        ngx_http_clawd_call_number(call, s->tpm);
    }

    ledger->nriders = n;
}


/* settled has a bit of each of a question's riders; the others are told */

static void
ngx_http_clawd_redis_alight(ngx_http_clawd_hold_t *hold, int64_t settled)
{
    ngx_uint_t                i;
    ngx_http_clawd_flight_t  *f;

    for (i = 0; i < hold->nriders; i++) {
        f = hold->riders[i];

        if (settled & (1 << i)) {
            ngx_http_clawd_flight_free(hold->ledger->accounts, f);

        } else {
            ngx_http_clawd_redis_alone(hold->ledger, f);
        }
    }

    hold->nriders = 0;
}


/* Nothing to go with came: they are told by themselves. */

void
ngx_http_clawd_redis_ride(ngx_event_t *ev)
{
    ngx_uint_t                n;
    ngx_http_clawd_ledger_t  *ledger;

    ledger = ev->data;

    n = ledger->nriders;
    ledger->nriders = 0;

    while (n) {
        ngx_http_clawd_redis_alone(ledger, ledger->riders[--n]);
    }
}


static void
ngx_http_clawd_redis_alone(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f)
{
    f->sending = 0;

    if (ngx_http_clawd_redis_tell(ledger, f, &f->s) != NGX_OK) {
        ledger->due++;
    }
}


static ngx_int_t
ngx_http_clawd_redis_tell(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t *f, ngx_http_clawd_settlement_t *s)
{
    ngx_int_t               rc;
    ngx_str_t              *run;
    ngx_http_clawd_call_t   call;
    ngx_http_clawd_told_t  *told;

    if (!ngx_http_clawd_redis_ready(ledger->link)) {
        return NGX_DECLINED;
    }

    told = ngx_alloc(sizeof(ngx_http_clawd_told_t), ledger->log);
    if (told == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(&told->cmd, sizeof(ngx_http_clawd_redis_cmd_t));

    told->cmd.handler = ngx_http_clawd_redis_told;
    told->cmd.data = told;
    told->ledger = ledger;
    told->flight = f;
    told->s = *s;

    ngx_http_clawd_call_init(&call, s->user, s->user_len);

    ngx_http_clawd_call_text(&call, s->rid, NGX_HTTP_CLAWD_RID_HEX);
    ngx_http_clawd_call_number(&call, s->est);
    ngx_http_clawd_call_number(&call, s->actual);
    ngx_http_clawd_call_number(&call, s->windows.minute);
    ngx_http_clawd_call_number(&call, s->windows.day);
    ngx_http_clawd_call_number(&call, s->windows.month);
    ngx_http_clawd_call_number(&call, s->windows.epoch);
    ngx_http_clawd_call_number(&call, s->tpm);
    ngx_http_clawd_call_number(&call, s->offset);
    ngx_http_clawd_call_number(&call, s->offline ? 1 : 0);

    run = ngx_http_clawd_redis_run_id(ledger->link);
    ngx_http_clawd_call_text(&call, run->data, run->len);
    ngx_http_clawd_call_number(&call, ngx_http_clawd_redis_heard(ledger, s));

    rc = ngx_http_clawd_redis_eval(ledger->link, &told->cmd,
                                   NGX_HTTP_CLAWD_SCRIPT_SETTLE, 3, call.keys,
                                   call.n, call.args);
    if (rc != NGX_OK) {
        ngx_free(told);
        return rc;
    }

    if (f) {
        f->sending = 1;
    }

    return NGX_OK;
}


static void
ngx_http_clawd_redis_told(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_str_t                  user;
    ngx_uint_t                 final;
    ngx_http_clawd_told_t     *told;
    ngx_http_clawd_usage_t     usage;
    ngx_http_clawd_flight_t   *f;
    ngx_http_clawd_ledger_t   *ledger;

    told = cmd->data;
    ledger = told->ledger;
    f = told->flight;

    final = ngx_http_clawd_redis_final(told, cmd);

    if (final && cmd->result == NGX_HTTP_CLAWD_REDIS_OK) {
        user.data = told->s.user;
        user.len = told->s.user_len;

        /* a state that somebody has broken is settled all the same */

        if (ngx_http_clawd_redis_integers(cmd->reply, NGX_HTTP_CLAWD_SETTLE_N,
                                          NGX_HTTP_CLAWD_SETTLE_USAGE)
            == NGX_OK)
        {
            ngx_http_clawd_redis_usage(&usage,
                         &cmd->reply->items[1 + NGX_HTTP_CLAWD_SETTLE_USAGE]);
            ngx_http_clawd_redis_mirror(ledger, &user, &usage);
        }

        if (told->s.offline && f && !f->spooled) {
            ngx_http_clawd_redis_unmark(ledger, &told->s);
        }
    }

    ngx_free(told);

    if (f == NULL) {
        ngx_http_clawd_redis_replayed(ledger, final);
        return;
    }

    f->sending = 0;

    if (final) {
        ngx_http_clawd_flight_free(ledger->accounts, f);
        return;
    }

    f->since = ngx_current_msec + 250;
    ledger->due++;
}


/*
 * A charge without a reservation has left a mark, lest it be charged twice.
 * What is answered is not sent again, unless the file has it as well: the mark
 * goes.  If this is not heard, it goes after a week.
 */

static void
ngx_http_clawd_redis_unmark(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_settlement_t *s)
{
    u_char                       mark[1 + NGX_HTTP_CLAWD_RID_HEX];
    ngx_str_t                    argv[3];
    ngx_http_clawd_call_t        call;
    ngx_http_clawd_redis_cmd_t  *cmd;

    cmd = ngx_calloc(sizeof(ngx_http_clawd_redis_cmd_t), ledger->log);
    if (cmd == NULL) {
        return;
    }

    cmd->handler = ngx_http_clawd_redis_freed;

    mark[0] = 's';
    ngx_memcpy(mark + 1, s->rid, NGX_HTTP_CLAWD_RID_HEX);

    ngx_http_clawd_call_init(&call, s->user, s->user_len);

    ngx_str_set(&argv[0], "ZREM");
    argv[1] = call.keys[2];
    argv[2].data = mark;
    argv[2].len = sizeof(mark);

    if (ngx_http_clawd_redis_send(ledger->link, cmd, 3, argv) != NGX_OK) {
        ngx_free(cmd);
    }
}


/* settled, or never to be: the one thing an admin can break is named */

static ngx_uint_t
ngx_http_clawd_redis_final(ngx_http_clawd_told_t *told,
    ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_str_t      user;

    static time_t  told_at;

    if (cmd->result == NGX_HTTP_CLAWD_REDIS_OK) {
        return ngx_http_clawd_redis_array(cmd->reply, NGX_HTTP_CLAWD_SETTLE_N)
               == NGX_OK;
    }

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_WRONGTYPE) {
        return 0;
    }

    if (told_at == ngx_time()) {
        return 1;
    }

    told_at = ngx_time();

    user.data = told->s.user;
    user.len = told->s.user_len;

    ngx_log_error(NGX_LOG_ERR, told->ledger->log, 0,
                  "clawd: %L tokens of user \"%V\" can't be settled: a key "
                  "\"clawd:{%V}:…\" in Redis has a type that is not its own, "
                  "delete it", told->s.actual, &user, &user);

    return 1;
}


static void
ngx_http_clawd_redis_tick(ngx_http_clawd_ledger_t *ledger)
{
    ngx_uint_t         ready;
    ngx_atomic_uint_t  losses;

    ready = ngx_http_clawd_redis_ready(ledger->link);
    losses = ledger->accounts->losses;

    if (ready && ledger->losses != losses) {
        ledger->losses = losses;
        ngx_http_clawd_redis_beat(ledger, 0);
    }

    if (ledger->due == 0 && ++ledger->ticks % NGX_HTTP_CLAWD_TICKS) {
        return;
    }

    ledger->due += ngx_http_clawd_flights_reap(ledger->zone);

    if (ready) {
        ledger->down = 0;

    } else if (ledger->down == 0) {
        ledger->down = ngx_current_msec ? ngx_current_msec : 1;
    }

    if (ledger->due) {
        ngx_http_clawd_redis_remind(ledger);
    }

    if (!ready) {
        return;
    }

    if (ngx_current_msec - ledger->beaten >= NGX_HTTP_CLAWD_BEAT) {
        ngx_http_clawd_redis_beat(ledger, NGX_HTTP_CLAWD_BEAT / 2);
    }

    if (ledger->spool.path.len && ledger->replaying == 0) {
        ngx_http_clawd_redis_replay(ledger);
    }
}


/* what Redis was not told yet is told now, or kept in the file */

static void
ngx_http_clawd_redis_remind(ngx_http_clawd_ledger_t *ledger)
{
    ngx_uint_t                  i, n, due, spool;
    ngx_http_clawd_flight_t    *f, *batch[NGX_HTTP_CLAWD_SPOOL_BATCH];
    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;
    n = 0;
    due = 0;

    spool = ledger->spool.path.len && ledger->down
            && ngx_current_msec - ledger->down >= NGX_HTTP_CLAWD_SPOOL_AFTER;

    for (i = 0; i < a->nflights; i++) {
        f = &a->flights[i];

        if (f->owner != (ngx_atomic_uint_t) ngx_pid
            || f->state != NGX_HTTP_CLAWD_FLIGHT_DUE || f->sending)
        {
            continue;
        }

        due++;

        if ((ngx_msec_int_t) (ngx_current_msec - f->since) < 0) {
            continue;
        }

        /* a server that is just back must not be late for lack of breath */

        if (ngx_http_clawd_redis_pending(ledger->link)
            >= NGX_HTTP_CLAWD_REMIND_MAX)
        {
            continue;
        }

        if (ngx_http_clawd_redis_tell(ledger, f, &f->s) == NGX_OK) {
            due--;
            continue;
        }

        if (!spool) {
            continue;
        }

        batch[n++] = f;

        if (n == NGX_HTTP_CLAWD_SPOOL_BATCH) {
            due -= ngx_http_clawd_redis_spool(ledger, batch, n);
            n = 0;
        }
    }

    if (n) {
        due -= ngx_http_clawd_redis_spool(ledger, batch, n);
    }

    ledger->due = due;
}


static ngx_uint_t
ngx_http_clawd_redis_spool(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t **flights, ngx_uint_t n)
{
    ngx_uint_t                   i;
    ngx_http_clawd_settlement_t  s[NGX_HTTP_CLAWD_SPOOL_BATCH];

    for (i = 0; i < n; i++) {
        flights[i]->spooled = 1;
        s[i] = flights[i]->s;
    }

    /* who dies now leaves it to another, who must not take it for unwritten */

    ngx_memory_barrier();

    if (ngx_http_clawd_spool_append(&ledger->spool, s, n) != NGX_OK) {
        return 0;
    }

    for (i = 0; i < n; i++) {
        ngx_http_clawd_flight_free(ledger->accounts, flights[i]);
    }

    (void) ngx_atomic_fetch_add(&ledger->accounts->spooled, n);

    return n;
}


static void
ngx_http_clawd_redis_replay(ngx_http_clawd_ledger_t *ledger)
{
    ngx_int_t                    rc;
    ngx_uint_t                   i, n;
    ngx_http_clawd_settlement_t  s[NGX_HTTP_CLAWD_SPOOL_BATCH];

    rc = ngx_http_clawd_spool_next(&ledger->spool, s,
                                   NGX_HTTP_CLAWD_SPOOL_BATCH, &n);

    if (rc == NGX_DONE) {
        ngx_http_clawd_spool_done(&ledger->spool);
        return;
    }

    if (rc != NGX_OK) {
        return;
    }

    ledger->replay_failed = 0;

    for (i = 0; i < n; i++) {

        if (ngx_http_clawd_redis_tell(ledger, NULL, &s[i]) != NGX_OK) {
            ledger->replay_failed = 1;
            break;
        }

        ledger->replaying++;
    }

    if (ledger->replaying == 0) {
        ngx_http_clawd_spool_abandon(&ledger->spool);
    }
}


static void
ngx_http_clawd_redis_replayed(ngx_http_clawd_ledger_t *ledger, ngx_uint_t ok)
{
    if (!ok) {
        ledger->replay_failed = 1;
    }

    if (--ledger->replaying) {
        return;
    }

    if (ledger->replay_failed) {
        ngx_http_clawd_spool_abandon(&ledger->spool);
        return;
    }

    ngx_http_clawd_redis_replay(ledger);
}


void
ngx_http_clawd_redis_up(void *data)
{
    ngx_http_clawd_ledger_t *ledger = data;

    /*
     * A server that came back without its memory hears of what is in flight
     * here before it is asked for more.
     */

    ngx_http_clawd_redis_beat(ledger, 0);

    ledger->down = 0;
    ngx_http_clawd_redis_remind(ledger);
}


void
ngx_http_clawd_redis_leave(ngx_http_clawd_ledger_t *ledger)
{
    ngx_uint_t                  i;
    ngx_http_clawd_flight_t    *f;
    ngx_http_clawd_accounts_t  *a;

    if (ledger->spool.path.len == 0) {
        return;
    }

    a = ledger->accounts;

    for (i = 0; i < a->nflights; i++) {
        f = &a->flights[i];

        if (f->owner == (ngx_atomic_uint_t) ngx_pid
            && f->state == NGX_HTTP_CLAWD_FLIGHT_DUE)
        {
            (void) ngx_http_clawd_redis_spool(ledger, &f, 1);
        }
    }
}


static void
ngx_http_clawd_redis_beat(ngx_http_clawd_ledger_t *ledger, ngx_msec_t age)
{
    ngx_uint_t                  i, k, n, first;
    ngx_http_clawd_flight_t    *f, *batch[NGX_HTTP_CLAWD_BEAT_MAX];
    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;
    ledger->beaten = ngx_current_msec;

    /* each round takes one user's, from the first that was not beaten yet */

    for (first = 0; first < a->nflights; first = k) {
        n = 0;
        k = a->nflights;

        for (i = first; i < a->nflights; i++) {
            f = &a->flights[i];

            if (f->owner != (ngx_atomic_uint_t) ngx_pid
                || f->state != NGX_HTTP_CLAWD_FLIGHT_HELD || f->s.offline
                || ngx_current_msec - f->since < age
                || f->beaten == ledger->beaten)
            {
                continue;
            }

            if (n && (n == NGX_HTTP_CLAWD_BEAT_MAX
                      || f->account != batch[0]->account
                      || f->s.user_len != batch[0]->s.user_len
                      || ngx_memcmp(f->s.user, batch[0]->s.user,
                                    f->s.user_len)
                         != 0))
            {
                k = ngx_min(k, i);
                continue;
            }

            f->beaten = ledger->beaten;
            batch[n++] = f;
        }

        if (n) {
            ngx_http_clawd_redis_beat_user(ledger, batch, n);
        }
    }
}


static void
ngx_http_clawd_redis_beat_user(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_flight_t **flights, ngx_uint_t n)
{
    int64_t                      now;
    ngx_uint_t                   i;
    ngx_http_clawd_call_t        call;
    ngx_http_clawd_redis_cmd_t  *cmd;

    cmd = ngx_calloc(sizeof(ngx_http_clawd_redis_cmd_t), ledger->log);
    if (cmd == NULL) {
        return;
    }

    cmd->handler = ngx_http_clawd_redis_freed;

    now = ngx_http_clawd_redis_now(ledger->link);

    ngx_http_clawd_call_init(&call, flights[0]->s.user,
                             flights[0]->s.user_len);

    ngx_http_clawd_call_number(&call, NGX_HTTP_CLAWD_TTL);
    ngx_http_clawd_call_number(&call, now
                                      ? now + (int64_t) 1000
                                              * ledger->conf->redis->timeout
                                      : 0);

    for (i = 0; i < n; i++) {
        ngx_http_clawd_call_text(&call, flights[i]->s.rid,
                                 NGX_HTTP_CLAWD_RID_HEX);
    }

    if (ngx_http_clawd_redis_eval(ledger->link, cmd,
                                  NGX_HTTP_CLAWD_SCRIPT_BEAT, 3, call.keys,
                                  call.n, call.args)
        != NGX_OK)
    {
        ngx_free(cmd);
    }
}


/*
 * Of commands whose answer tells nothing: a heartbeat that was not heard is
 * followed by the next, well before the expiry.
 */

static void
ngx_http_clawd_redis_freed(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_free(cmd);
}


static void
ngx_http_clawd_call_init(ngx_http_clawd_call_t *call, u_char *user,
    size_t len)
{
    ngx_uint_t  i;

    static u_char  kinds[] = { 'u', 'f', 'o' };

    call->n = 0;
    call->p = call->buf;

    for (i = 0; i < 3; i++) {
        call->keys[i].data = call->p;

        call->p = ngx_cpymem(call->p, "clawd:{", 7);
        call->p = ngx_cpymem(call->p, user, len);
        call->p = ngx_cpymem(call->p, "}:", 2);
        *call->p++ = kinds[i];
        *call->p++ = ':';
        call->p = ngx_cpymem(call->p, user, len);

        call->keys[i].len = call->p - call->keys[i].data;
    }
}


static void
ngx_http_clawd_call_text(ngx_http_clawd_call_t *call, u_char *data,
    size_t len)
{
    call->args[call->n].data = data;
    call->args[call->n].len = len;
    call->n++;
}


static void
ngx_http_clawd_call_number(ngx_http_clawd_call_t *call, int64_t n)
{
    u_char  *p;

    p = call->p;

    if (n < 0) {
        *call->p++ = '-';
    }

    call->p = ngx_http_clawd_number(call->p, (n < 0) ? -(uint64_t) n
                                                     : (uint64_t) n);

    ngx_http_clawd_call_text(call, p, call->p - p);
}


static void
ngx_http_clawd_call_guard(ngx_http_clawd_call_t *call,
    ngx_http_clawd_usage_t *guard)
{
    ngx_http_clawd_call_number(call, guard->request_tat);
    ngx_http_clawd_call_number(call, guard->token_tat);
    ngx_http_clawd_call_number(call, guard->minute);
    ngx_http_clawd_call_number(call, guard->minute_requests);
    ngx_http_clawd_call_number(call, guard->minute_tokens);
    ngx_http_clawd_call_number(call, guard->day);
    ngx_http_clawd_call_number(call, guard->day_tokens);
    ngx_http_clawd_call_number(call, guard->month);
    ngx_http_clawd_call_number(call, guard->month_tokens);
}
