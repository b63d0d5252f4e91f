/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_ledger.h"


/* of an ask's known[] */
#define NGX_HTTP_CLAWD_STEP_KNOWN   1
#define NGX_HTTP_CLAWD_STEP_FAILED  2

#define NGX_HTTP_CLAWD_REDIS_KEY                                              \
    (sizeof("clawd:user:") - 1 + 2 * NGX_HTTP_CLAWD_DIGEST_LEN)


/*
 * One record that is asked for.  Its own, since Redis may answer when the
 * request is gone: ask is NULL then.
 */

struct ngx_http_clawd_lookup_s {
    ngx_http_clawd_redis_cmd_t    cmd;
    ngx_event_t                   timer;       /* waits for the link */
    ngx_http_clawd_ledger_t      *ledger;
    ngx_http_clawd_ask_t         *ask;
    ngx_http_clawd_step_e         step;
    ngx_http_clawd_record_e       kind;
    uint64_t                      mark;
    ngx_str_t                     name;
    ngx_str_t                     key;
    u_char                        name_buf[NGX_HTTP_CLAWD_NAME_LEN];
    u_char                        key_buf[NGX_HTTP_CLAWD_REDIS_KEY];
};


static ngx_int_t ngx_http_clawd_identity_key(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_record_t **key);
static ngx_int_t ngx_http_clawd_identity_user(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_str_t *name,
    ngx_http_clawd_record_t **user);
static ngx_int_t ngx_http_clawd_identity_plan(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_str_t *name, ngx_str_t *user,
    ngx_http_clawd_record_t **plan);
static ngx_int_t ngx_http_clawd_identity_default(
    ngx_http_clawd_ledger_t *ledger, ngx_http_clawd_ask_t *ask,
    ngx_http_clawd_record_t **plan);
static ngx_int_t ngx_http_clawd_identity_make(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_record_t **records,
    ngx_http_clawd_identity_t *who);
static ngx_uint_t ngx_http_clawd_identity_tells(time_t *told);
static ngx_int_t ngx_http_clawd_identity_keep(ngx_pool_t *pool,
    ngx_http_clawd_identity_t *who);
static ngx_int_t ngx_http_clawd_identity_copy(ngx_pool_t *pool,
    ngx_str_t *text);
static ngx_int_t ngx_http_clawd_nobody(ngx_http_clawd_ask_t *ask,
    ngx_http_clawd_nobody_e nobody);
static ngx_int_t ngx_http_clawd_lookup(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_step_e step,
    ngx_str_t *name);
static ngx_int_t ngx_http_clawd_lookup_send(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_step_e step,
    ngx_str_t *name);
static ngx_int_t ngx_http_clawd_lookup_wait(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask);
static void ngx_http_clawd_lookup_waited(ngx_event_t *ev);
static void ngx_http_clawd_lookup_key(ngx_http_clawd_lookup_t *l);
static void ngx_http_clawd_lookup_done(ngx_http_clawd_redis_cmd_t *cmd);
static ngx_int_t ngx_http_clawd_lookup_read(ngx_http_clawd_lookup_t *l,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_http_clawd_record_t *rec);
static ngx_int_t ngx_http_clawd_lookup_keep(ngx_http_clawd_ask_t *ask,
    ngx_http_clawd_step_e step, ngx_http_clawd_record_t *rec);


static ngx_str_t  ngx_http_clawd_default_plan = ngx_string("default");

static ngx_http_clawd_record_e  ngx_http_clawd_step_kinds[] = {
    NGX_HTTP_CLAWD_RECORD_KEY,
    NGX_HTTP_CLAWD_RECORD_USER,
    NGX_HTTP_CLAWD_RECORD_PLAN,
    NGX_HTTP_CLAWD_RECORD_PLAN
};

static ngx_str_t  ngx_http_clawd_kind_prefixes[] = {
    ngx_string("clawd:key:"),
    ngx_string("clawd:user:"),
    ngx_string("clawd:plan:")
};


ngx_int_t
ngx_http_clawd_identify(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_identity_t *who)
{
    ngx_int_t                 rc;
    ngx_str_t                *name;
    ngx_http_clawd_record_t  *records[NGX_HTTP_CLAWD_STEPS];

    if (ledger->link && ask->records == NULL) {
        ask->records = ngx_pcalloc(ask->pool, NGX_HTTP_CLAWD_STEPS
                                          * sizeof(ngx_http_clawd_record_t));
        if (ask->records == NULL) {
            return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_DOWN);
        }
    }

    ngx_memzero(records, sizeof(records));

    name = &ask->user;

    if (ask->digest) {
        rc = ngx_http_clawd_identity_key(ledger, ask, &records[0]);
        if (rc != NGX_OK) {
            return rc;
        }

        name = &records[0]->user;
    }

    rc = ngx_http_clawd_identity_user(ledger, ask, name, &records[1]);
    if (rc != NGX_OK) {
        return rc;
    }

    who->user = *name;
    who->plan = (records[1] && records[1]->plan.len) ? records[1]->plan
                : ask->plan.len ? ask->plan : ngx_http_clawd_default_plan;

    rc = ngx_http_clawd_identity_plan(ledger, ask, &who->plan, name,
                                      &records[2]);
    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_clawd_identity_default(ledger, ask, &records[3]);
    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_http_clawd_identity_make(ledger, ask, records, who);
}


static ngx_int_t
ngx_http_clawd_identity_key(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_record_t **key)
{
    ngx_int_t                 rc;
    ngx_str_t                 digest;
    ngx_http_clawd_record_t  *rec;

    if (ledger->link == NULL) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_UNKNOWN);
    }

    digest.data = ask->digest;
    digest.len = NGX_HTTP_CLAWD_DIGEST_LEN;

    rc = ngx_http_clawd_lookup(ledger, ask, NGX_HTTP_CLAWD_STEP_KEY, &digest);
    if (rc != NGX_OK) {
        return rc;
    }

    rec = &ask->records[NGX_HTTP_CLAWD_STEP_KEY];

    if (!rec->found) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_UNKNOWN);
    }

    if (rec->invalid) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
    }

    if (rec->disabled) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_DISABLED);
    }

    if (rec->expires && rec->expires <= (int64_t) ngx_time()) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_EXPIRED);
    }

    *key = rec;

    return NGX_OK;
}


/* the user of a key has a record; that of a token of ours may have one */

static ngx_int_t
ngx_http_clawd_identity_user(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_str_t *name,
    ngx_http_clawd_record_t **user)
{
    ngx_int_t                 rc;
    ngx_http_clawd_record_t  *rec;

    if (ledger->link == NULL) {
        return NGX_OK;
    }

    rc = ngx_http_clawd_lookup(ledger, ask, NGX_HTTP_CLAWD_STEP_USER, name);
    if (rc != NGX_OK) {
        return rc;
    }

    rec = &ask->records[NGX_HTTP_CLAWD_STEP_USER];

    if (!rec->found) {
        return ask->digest ? ngx_http_clawd_nobody(ask,
                                               NGX_HTTP_CLAWD_NOBODY_UNKNOWN)
                           : NGX_OK;
    }

    if (rec->invalid) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
    }

    if (rec->disabled) {
        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_DISABLED);
    }

    *user = rec;

    return NGX_OK;
}


/* a plan that does not exist must not make anybody unlimited */

static ngx_int_t
ngx_http_clawd_identity_plan(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_str_t *name, ngx_str_t *user,
    ngx_http_clawd_record_t **plan)
{
    ngx_int_t                 rc;
    ngx_http_clawd_record_t  *rec;

    static time_t             told;

    if (name->len == ngx_http_clawd_default_plan.len
        && ngx_memcmp(name->data, ngx_http_clawd_default_plan.data,
                      name->len)
           == 0)
    {
        return NGX_OK;
    }

    if (ledger->link) {
        rc = ngx_http_clawd_lookup(ledger, ask, NGX_HTTP_CLAWD_STEP_PLAN,
                                   name);
        if (rc != NGX_OK) {
            return rc;
        }

        rec = &ask->records[NGX_HTTP_CLAWD_STEP_PLAN];

        if (rec->invalid) {
            return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
        }

        if (rec->found) {
            *plan = rec;
            return NGX_OK;
        }
    }

    *plan = ngx_http_clawd_ledger_plan(ledger->conf, name);

    if (*plan) {
        return NGX_OK;
    }

    (void) ngx_atomic_fetch_add(&ledger->accounts->invalid, 1);

    if (ngx_http_clawd_identity_tells(&told)) {
        ngx_log_error(NGX_LOG_ERR, ledger->log, 0,
                      "clawd: user \"%V\" is denied: there is no plan \"%V\", "
                      "neither as \"clawd:plan:%V\" in Redis nor as "
                      "\"clawd_quota %V\"", user, name, name, name);
    }

    return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
}


static ngx_int_t
ngx_http_clawd_identity_default(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_record_t **plan)
{
    ngx_int_t                 rc;
    ngx_http_clawd_record_t  *rec;

    if (ledger->link) {
        rc = ngx_http_clawd_lookup(ledger, ask, NGX_HTTP_CLAWD_STEP_DEFAULT,
                                   &ngx_http_clawd_default_plan);
        if (rc != NGX_OK) {
            return rc;
        }

        rec = &ask->records[NGX_HTTP_CLAWD_STEP_DEFAULT];

        if (rec->invalid) {
            return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
        }

        if (rec->found) {
            *plan = rec;
            return NGX_OK;
        }
    }

    *plan = ngx_http_clawd_ledger_plan(ledger->conf,
                                       &ngx_http_clawd_default_plan);

    return NGX_OK;
}


/* what the user's record does not say, its plan does, else the default one */

static ngx_int_t
ngx_http_clawd_identity_make(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_record_t **records,
    ngx_http_clawd_identity_t *who)
{
    int64_t                  *limits;
    ngx_str_t                 user, plan;
    ngx_uint_t                i, step;
    ngx_http_clawd_record_t  *rec;

    static time_t             told;

    user = who->user;
    plan = who->plan;

    ngx_memzero(who, sizeof(ngx_http_clawd_identity_t));

    who->admin = ask->admin;
    limits = who->terms.limits;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        limits[i] = NGX_HTTP_CLAWD_UNSET;
    }

    if (records[NGX_HTTP_CLAWD_STEP_KEY]) {
        who->models[0] = records[NGX_HTTP_CLAWD_STEP_KEY]->models;
    }

    for (step = NGX_HTTP_CLAWD_STEP_USER; step < NGX_HTTP_CLAWD_STEPS;
         step++)
    {
        rec = records[step];

        if (rec == NULL) {
            continue;
        }

        for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
            if (limits[i] == NGX_HTTP_CLAWD_UNSET) {
                limits[i] = rec->limits[i];
            }
        }

        if (who->models[1].data == NULL) {
            who->models[1] = rec->models;
        }

        if (who->tz.len == 0) {
            who->tz = rec->tz;
        }
    }

    if (records[NGX_HTTP_CLAWD_STEP_USER]) {
        who->admin |= records[NGX_HTTP_CLAWD_STEP_USER]->admin;
        who->terms.epoch = records[NGX_HTTP_CLAWD_STEP_USER]->epoch;
    }

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {

        if (limits[i] == NGX_HTTP_CLAWD_UNSET) {
            limits[i] = NGX_HTTP_CLAWD_UNLIMITED;
        }

        if (limits[i] != NGX_HTTP_CLAWD_UNLIMITED) {
            who->limited = 1;
            who->metered |= (i >= NGX_HTTP_CLAWD_LIMIT_TPM);
        }
    }

    if (ngx_http_clawd_tz_offset(&who->tz, ngx_time(), &who->terms.offset)
        != NGX_OK)
    {
        (void) ngx_atomic_fetch_add(&ledger->accounts->invalid, 1);

        if (ngx_http_clawd_identity_tells(&told)) {
            ngx_log_error(NGX_LOG_ERR, ledger->log, 0,
                          "clawd: user \"%V\" is denied: its \"tz %V\" is no "
                          "time zone of this system, or it lacks tzdata",
                          &user, &who->tz);
        }

        return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_INVALID);
    }

    who->user = user;
    who->plan = plan;

    /* what the configuration says does last */

    if (ledger->link
        && ngx_http_clawd_identity_keep(ask->pool, who) != NGX_OK)
    {
        ask->nobody = NGX_HTTP_CLAWD_NOBODY_DOWN;
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* the records' texts do not last */

static ngx_int_t
ngx_http_clawd_identity_keep(ngx_pool_t *pool, ngx_http_clawd_identity_t *who)
{
    ngx_uint_t   i;
    ngx_str_t   *texts[] = {
        &who->user, &who->plan, &who->tz, &who->models[0], &who->models[1]
    };

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (ngx_http_clawd_identity_copy(pool, texts[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* these are seen with each request: once a second is enough for the log */

static ngx_uint_t
ngx_http_clawd_identity_tells(time_t *told)
{
    if (*told == ngx_time()) {
        return 0;
    }

    *told = ngx_time();

    return 1;
}


/* an empty list of models is one, and stays one */

static ngx_int_t
ngx_http_clawd_identity_copy(ngx_pool_t *pool, ngx_str_t *text)
{
    u_char  *p;

    if (text->data == NULL) {
        return NGX_OK;
    }

    p = ngx_pnalloc(pool, text->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, text->data, text->len);

    text->data = p;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_nobody(ngx_http_clawd_ask_t *ask,
    ngx_http_clawd_nobody_e nobody)
{
    ask->nobody = nobody;

    return (nobody == NGX_HTTP_CLAWD_NOBODY_DOWN) ? NGX_ERROR : NGX_DECLINED;
}


/*
 * The record of a step, into ask->records.  Texts of a record out of the
 * zone stay in memory of this process until the next call.
 */

static ngx_int_t
ngx_http_clawd_lookup(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_step_e step, ngx_str_t *name)
{
    ngx_int_t                 rc;
    ngx_http_clawd_down_e     on_down;
    ngx_http_clawd_record_e   kind;
    ngx_http_clawd_record_t  *rec;

    static u_char  bufs[NGX_HTTP_CLAWD_STEPS][NGX_HTTP_CLAWD_RECORD_SIZE];

    if (ask->known[step] == NGX_HTTP_CLAWD_STEP_KNOWN) {
        return NGX_OK;
    }

    rec = &ask->records[step];
    kind = ngx_http_clawd_step_kinds[step];

    if (ngx_http_clawd_cache_get(ledger->zone, kind, name, 0, rec,
                                 bufs[step])
        == NGX_OK)
    {
        return NGX_OK;
    }

    if (ask->known[step] == 0) {
        rc = ngx_http_clawd_lookup_send(ledger, ask, step, name);

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    /* Redis does not answer */

    on_down = ledger->conf->redis->on_down;

    if (on_down != NGX_HTTP_CLAWD_DOWN_DENY
        && ngx_http_clawd_cache_get(ledger->zone, kind, name, 1, rec,
                                    bufs[step])
           == NGX_OK)
    {
        return NGX_OK;
    }

    if (on_down == NGX_HTTP_CLAWD_DOWN_OPEN && ask->digest == NULL) {

        /* a token of the configuration needs nothing of Redis */

        ngx_http_clawd_record_init(rec);
        return NGX_OK;
    }

    return ngx_http_clawd_nobody(ask, NGX_HTTP_CLAWD_NOBODY_DOWN);
}


static ngx_int_t
ngx_http_clawd_lookup_send(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask, ngx_http_clawd_step_e step, ngx_str_t *name)
{
    ngx_int_t                 rc;
    ngx_str_t                 argv[2];
    ngx_http_clawd_lookup_t  *l;

    if (!ngx_http_clawd_redis_ready(ledger->link)) {
        return ngx_http_clawd_lookup_wait(ledger, ask);
    }

    l = ngx_calloc(sizeof(ngx_http_clawd_lookup_t), ledger->log);
    if (l == NULL) {
        return NGX_DECLINED;
    }

    l->cmd.handler = ngx_http_clawd_lookup_done;
    l->cmd.data = l;
    l->ledger = ledger;
    l->ask = ask;
    l->step = step;
    l->kind = ngx_http_clawd_step_kinds[step];

    l->name.data = l->name_buf;
    l->name.len = name->len;
    ngx_memcpy(l->name_buf, name->data, name->len);

    ngx_http_clawd_lookup_key(l);

    l->mark = ngx_http_clawd_cache_mark(ledger->zone, l->kind, &l->name);

    ngx_str_set(&argv[0], "HGETALL");
    argv[1] = l->key;

    rc = ngx_http_clawd_redis_send(ledger->link, &l->cmd, 2, argv);

    if (rc != NGX_OK) {
        ngx_free(l);
        return NGX_DECLINED;
    }

    ask->lookup = l;

    return NGX_AGAIN;
}


/* the link of a worker that has just started is ready in a moment */

static ngx_int_t
ngx_http_clawd_lookup_wait(ngx_http_clawd_ledger_t *ledger,
    ngx_http_clawd_ask_t *ask)
{
    ngx_http_clawd_lookup_t  *l;

    if (!ask->waited) {
        ask->waited = 1;
        ask->since = ngx_current_msec;
    }

    if (!ngx_http_clawd_redis_soon(ledger->link)
        || ngx_current_msec - ask->since >= ledger->conf->redis->timeout)
    {
        return NGX_DECLINED;
    }

    l = ngx_calloc(sizeof(ngx_http_clawd_lookup_t), ledger->log);
    if (l == NULL) {
        return NGX_DECLINED;
    }

    l->ask = ask;
    l->timer.handler = ngx_http_clawd_lookup_waited;
    l->timer.data = l;
    l->timer.log = ledger->log;

    ask->lookup = l;

    ngx_add_timer(&l->timer, NGX_HTTP_CLAWD_SOON);

    return NGX_AGAIN;
}


static void
ngx_http_clawd_lookup_waited(ngx_event_t *ev)
{
    ngx_http_clawd_ask_t     *ask;
    ngx_http_clawd_lookup_t  *l;

    l = ev->data;
    ask = l->ask;

    ngx_free(l);

    if (ask) {
        ask->lookup = NULL;
        ask->resume(ask->data);
    }
}


static void
ngx_http_clawd_lookup_key(ngx_http_clawd_lookup_t *l)
{
    u_char     *p;
    ngx_str_t  *prefix;

    prefix = &ngx_http_clawd_kind_prefixes[l->kind];

    p = ngx_cpymem(l->key_buf, prefix->data, prefix->len);

    if (l->kind == NGX_HTTP_CLAWD_RECORD_KEY) {
        p = ngx_hex_dump(p, l->name.data, l->name.len);

    } else {
        p = ngx_cpymem(p, l->name.data, l->name.len);
    }

    l->key.data = l->key_buf;
    l->key.len = p - l->key_buf;
}


static void
ngx_http_clawd_lookup_done(ngx_http_clawd_redis_cmd_t *cmd)
{
    ngx_int_t                 rc;
    ngx_http_clawd_ask_t     *ask;
    ngx_http_clawd_record_t   rec;
    ngx_http_clawd_lookup_t  *l;

    l = cmd->data;
    ask = l->ask;

    rc = ngx_http_clawd_lookup_read(l, cmd, &rec);

    if (rc == NGX_OK) {
        ngx_http_clawd_cache_put(l->ledger->zone, l->kind, &l->name, l->mark,
                                 &rec);
    }

    if (ask) {
        ask->lookup = NULL;
        ask->known[l->step] = NGX_HTTP_CLAWD_STEP_FAILED;

        if (rc == NGX_OK
            && ngx_http_clawd_lookup_keep(ask, l->step, &rec) == NGX_OK)
        {
            ask->known[l->step] = NGX_HTTP_CLAWD_STEP_KNOWN;
        }
    }

    ngx_free(l);

    if (ask) {
        ask->resume(ask->data);
    }
}


/* NGX_ERROR when the server gave no answer of use */

static ngx_int_t
ngx_http_clawd_lookup_read(ngx_http_clawd_lookup_t *l,
    ngx_http_clawd_redis_cmd_t *cmd, ngx_http_clawd_record_t *rec)
{
    u_char                  c;
    ngx_int_t               rc;
    ngx_uint_t              i;
    ngx_http_clawd_resp_t  *reply;

    static u_char           field[NGX_HTTP_CLAWD_NAME_LEN];

    ngx_http_clawd_record_init(rec);

    if (cmd->result == NGX_HTTP_CLAWD_REDIS_WRONGTYPE) {
        rec->found = 1;
        rec->invalid = 1;
        ngx_str_set(&rec->fault, "it is not a hash");
        goto invalid;
    }

    reply = cmd->reply;

    if (cmd->result != NGX_HTTP_CLAWD_REDIS_OK
        || reply->items[0].type != NGX_HTTP_CLAWD_RESP_ARRAY
        || reply->nitems != (ngx_uint_t) reply->items[0].integer + 1
        || reply->nitems % 2 == 0)
    {
        return NGX_ERROR;
    }

    if (reply->nitems == 1) {
        return NGX_OK;
    }

    rec->found = 1;
    rc = NGX_OK;

    for (i = 1; i < reply->nitems && rc == NGX_OK; i += 2) {

        if (reply->items[i].type != NGX_HTTP_CLAWD_RESP_BULK_STRING
            || reply->items[i + 1].type != NGX_HTTP_CLAWD_RESP_BULK_STRING)
        {
            return NGX_ERROR;
        }

        rc = ngx_http_clawd_record_field(rec, l->kind, &reply->items[i].text,
                                         &reply->items[i + 1].text);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_clawd_record_end(rec, l->kind);
    }

    if (rc == NGX_OK) {
        return NGX_OK;
    }

invalid:

    /* another server may say anything, and the log has lines */

    for (i = 0; i < rec->field.len; i++) {
        c = rec->field.data[i];
        field[i] = (c > ' ' && c < 0x7f) ? c : '?';
    }

    rec->field.data = field;

    (void) ngx_atomic_fetch_add(&l->ledger->accounts->invalid, 1);

    ngx_log_error(NGX_LOG_ERR, l->ledger->log, 0,
                  "clawd: \"%V\" in Redis denies everybody who depends on it: "
                  "%s%V%s%V", &l->key, rec->field.len ? "field \"" : "",
                  &rec->field, rec->field.len ? "\": " : "", &rec->fault);

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_lookup_keep(ngx_http_clawd_ask_t *ask,
    ngx_http_clawd_step_e step, ngx_http_clawd_record_t *rec)
{
    u_char  *p, *last;

    p = ngx_pnalloc(ask->pool, NGX_HTTP_CLAWD_RECORD_SIZE);
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = ngx_http_clawd_record_pack(rec, p);

    return ngx_http_clawd_record_unpack(&ask->records[step], p, last - p);
}


void
ngx_http_clawd_identify_cancel(ngx_http_clawd_ask_t *ask)
{
    if (ask->lookup) {
        ask->lookup->ask = NULL;
        ask->lookup = NULL;
    }
}
