/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_ledger.h"
#include "ngx_http_clawd_registry.h"


static void ngx_http_clawd_ledger_quotas(ngx_http_clawd_text_t *t,
    ngx_http_clawd_ledger_t *ledger, char *name, char *help,
    ngx_uint_t limits);
static ngx_int_t ngx_http_clawd_ledger_account(
    ngx_http_clawd_ledger_t *ledger, ngx_str_t *name,
    ngx_http_clawd_account_t *out);
static void ngx_http_clawd_ledger_dry_run(ngx_http_clawd_text_t *t,
    ngx_http_clawd_accounts_t *a);
static void ngx_http_clawd_ledger_counter(ngx_http_clawd_text_t *t,
    char *name, char *help, uint64_t value);
static void ngx_http_clawd_ledger_redis(ngx_http_clawd_text_t *t,
    ngx_http_clawd_redis_shared_t *shared);


void
ngx_http_clawd_ledger_metrics(ngx_http_clawd_text_t *t, void *data)
{
    ngx_http_clawd_ledger_t *ledger = data;

    ngx_http_clawd_accounts_t  *a;

    a = ledger->accounts;

    ngx_http_clawd_ledger_quotas(t, ledger, "clawdbot_user_quota_limit",
                                 "Limits of users.", 1);
    ngx_http_clawd_ledger_quotas(t, ledger, "clawdbot_user_quota_used",
                                 "What users have used of their limits.", 0);

    ngx_http_clawd_ledger_counter(t, "clawdbot_quota_underestimate_tokens",
                                  "Tokens beyond what was reserved for their "
                                  "request.", a->underestimate);
    ngx_http_clawd_ledger_counter(t, "clawdbot_ledger_invalid",
                                  "Records that deny because they can't be "
                                  "used.", a->invalid);

    ngx_http_clawd_ledger_dry_run(t, a);

    if (ledger->link) {
        ngx_http_clawd_ledger_counter(t, "clawdbot_ledger_spooled",
                                      "Settlements that were kept in the file "
                                      "while Redis was away.", a->spooled);
        ngx_http_clawd_ledger_redis(t,
                                 ngx_http_clawd_redis_shared(ledger->zone));
    }
}


/* of the users that have series of their own */

static void
ngx_http_clawd_ledger_quotas(ngx_http_clawd_text_t *t,
    ngx_http_clawd_ledger_t *ledger, char *name, char *help,
    ngx_uint_t limits)
{
    int64_t                    max, used;
    ngx_str_t                  user;
    ngx_uint_t                 i, k, n;
    ngx_http_clawd_table_t    *users;
    ngx_http_clawd_label_t     labels[3];
    ngx_http_clawd_account_t   acc;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE, name, help);

    labels[0].key = "user";
    labels[1].key = "limit";
    labels[2].key = NULL;

    users = &ngx_http_clawd_registry(ledger->zone)->users;
    n = ngx_http_clawd_registry_count(users);

    for (i = NGX_HTTP_CLAWD_OTHER + 1; i < n; i++) {
        user.data = users->series[i]->name;
        user.len = users->series[i]->len;

        if (ngx_http_clawd_ledger_account(ledger, &user, &acc) != NGX_OK) {
            continue;
        }

        labels[0].value = user;

        for (k = 0; k < NGX_HTTP_CLAWD_LIMITS; k++) {
            max = acc.terms.limits[k];

            if (max < 0) {
                continue;
            }

            used = ngx_http_clawd_quota_used(&acc.usage, k, acc.live);

            labels[1].value = ngx_http_clawd_limit_names[k];
            ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE, name, labels,
                                      limits ? max : used);
        }
    }
}


static ngx_int_t
ngx_http_clawd_ledger_account(ngx_http_clawd_ledger_t *ledger,
    ngx_str_t *name, ngx_http_clawd_account_t *out)
{
    uint32_t                   hash;
    ngx_http_clawd_account_t  *acc;

    if (name->len > NGX_HTTP_CLAWD_NAME_LEN) {
        return NGX_DECLINED;
    }

    hash = ngx_http_clawd_account_hash(ledger->accounts, name);

    ngx_shmtx_lock(&ledger->zone->shpool->mutex);

    acc = ngx_http_clawd_account_find_locked(ledger->accounts, name, hash);

    if (acc) {
        *out = *acc;
    }

    ngx_shmtx_unlock(&ledger->zone->shpool->mutex);

    if (acc == NULL) {
        return NGX_DECLINED;
    }

    ngx_http_clawd_quota_roll(&out->usage, &out->terms,
                              ngx_http_clawd_ledger_now());
    return NGX_OK;
}


static void
ngx_http_clawd_ledger_dry_run(ngx_http_clawd_text_t *t,
    ngx_http_clawd_accounts_t *a)
{
    char                   *name;
    ngx_uint_t              i;
    ngx_http_clawd_label_t  labels[2];

    name = "clawdbot_quota_dry_run";

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER, name,
                               "Requests that clawd_dry_run let pass over a "
                               "limit.");

    labels[0].key = "limit";
    labels[1].key = NULL;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        labels[0].value = ngx_http_clawd_limit_names[i];
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, name, labels,
                                  a->dry_run[i]);
    }
}


static void
ngx_http_clawd_ledger_counter(ngx_http_clawd_text_t *t, char *name,
    char *help, uint64_t value)
{
    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER, name, help);
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, name, NULL, value);
}


static void
ngx_http_clawd_ledger_redis(ngx_http_clawd_text_t *t,
    ngx_http_clawd_redis_shared_t *shared)
{
    char                       *name;
    ngx_uint_t                  i;
    ngx_http_clawd_label_t      labels[2];
    ngx_http_clawd_snapshot_t   snapshot;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE, "clawdbot_redis_up",
                               "Whether Redis answers: 1 or 0.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE, "clawdbot_redis_up",
                              NULL, shared->up ? 1 : 0);

    name = "clawdbot_redis_command_duration_seconds";

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_HISTOGRAM, name,
                               "Time of a command to Redis.");

    labels[0].key = NULL;

    (void) ngx_http_clawd_histogram_read(&shared->latency,
                                         NGX_HTTP_CLAWD_SCALE_FINE,
                                         &snapshot);
    ngx_http_clawd_text_histogram(t, name, labels, NGX_HTTP_CLAWD_SCALE_FINE,
                                  &snapshot);

    name = "clawdbot_redis_errors";

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER, name,
                               "Failures of Redis and of the link to it.");

    labels[0].key = "class";
    labels[1].key = NULL;

    for (i = NGX_HTTP_CLAWD_REDIS_OK + 1; i < NGX_HTTP_CLAWD_REDIS_RESULTS;
         i++)
    {
        labels[0].value = ngx_http_clawd_redis_classes[i];
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, name, labels,
                                  shared->errors[i]);
    }
}
