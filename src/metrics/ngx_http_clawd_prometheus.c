/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_prometheus.h"
#include "ngx_http_clawd_registry.h"


static void ngx_http_clawd_prometheus_hist(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models, char *name, char *help, ngx_uint_t hist);
static void ngx_http_clawd_prometheus_durations(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models);
static void ngx_http_clawd_prometheus_series(ngx_http_clawd_text_t *t,
    char *name, ngx_http_clawd_label_t *labels,
    ngx_http_clawd_model_series_t *m, ngx_uint_t hist);
static void ngx_http_clawd_prometheus_models(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models);
static void ngx_http_clawd_prometheus_in_flight(ngx_http_clawd_text_t *t,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_table_t *models);
static void ngx_http_clawd_prometheus_users(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *users);
static void ngx_http_clawd_prometheus_tokens(ngx_http_clawd_text_t *t,
    char *name, ngx_http_clawd_label_t *labels, ngx_atomic_t *prompt,
    ngx_atomic_t *completion);
static void ngx_http_clawd_prometheus_sources(ngx_http_clawd_text_t *t,
    ngx_http_clawd_registry_t *registry);
static void ngx_http_clawd_prometheus_rejects(ngx_http_clawd_text_t *t,
    ngx_http_clawd_registry_t *registry);
static ngx_str_t ngx_http_clawd_prometheus_reason(ngx_uint_t i);
static void ngx_http_clawd_prometheus_connections(ngx_http_clawd_text_t *t,
    ngx_http_clawd_scrape_t *scrape);
static void ngx_http_clawd_prometheus_label(ngx_http_clawd_label_t *label,
    char *key, ngx_http_clawd_table_t *table, ngx_uint_t i);


static ngx_str_t  ngx_http_clawd_classes[NGX_HTTP_CLAWD_CLASSES] = {
    ngx_string("other"),
    ngx_string("1xx"),
    ngx_string("2xx"),
    ngx_string("3xx"),
    ngx_string("4xx"),
    ngx_string("5xx")
};


ngx_str_t  ngx_http_clawd_fails[NGX_HTTP_CLAWD_FAIL_MAX] = {
    ngx_null_string,
    ngx_string("timeout"),
    ngx_string("connect"),
    ngx_string("upstream_4xx"),
    ngx_string("upstream_5xx"),
    ngx_string("reset"),
    ngx_string("incomplete"),
    ngx_string("client_abort"),
    ngx_string("invalid_response"),
    ngx_string("quota")
};


ngx_str_t  ngx_http_clawd_sources[NGX_HTTP_CLAWD_SOURCE_MAX] = {
    ngx_null_string,
    ngx_string("upstream"),
    ngx_string("counted"),
    ngx_string("estimated")
};


void
ngx_http_clawd_prometheus_write(ngx_http_clawd_text_t *t,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_scrape_t *scrape)
{
    ngx_http_clawd_table_t     *models;
    ngx_http_clawd_registry_t  *registry;

    static ngx_http_clawd_label_t  build[] = {
        { "version", ngx_string(NGX_HTTP_CLAWD_VERSION) },
        { "nginx", ngx_string(NGINX_VERSION) },
        { NULL, ngx_null_string }
    };

    registry = ngx_http_clawd_registry(zone);
    models = &registry->models;

    ngx_http_clawd_prometheus_durations(t, models);

    ngx_http_clawd_prometheus_hist(t, models,
                         "clawdbot_upstream_request_duration_seconds",
                         "Time from sending a request upstream to the last "
                         "byte of the answer.",
                         NGX_HTTP_CLAWD_HIST_UPSTREAM);
    ngx_http_clawd_prometheus_hist(t, models,
                         "clawdbot_upstream_connect_seconds",
                         "Time to connect to the upstream.",
                         NGX_HTTP_CLAWD_HIST_CONNECT);
    ngx_http_clawd_prometheus_hist(t, models,
                         "clawdbot_time_to_first_token_seconds",
                         "Time from the start of a request to the first "
                         "output token.",
                         NGX_HTTP_CLAWD_HIST_FIRST_TOKEN);
    ngx_http_clawd_prometheus_hist(t, models,
                         "clawdbot_time_per_output_token_seconds",
                         "Mean time between output tokens of a stream.",
                         NGX_HTTP_CLAWD_HIST_PER_TOKEN);
    ngx_http_clawd_prometheus_hist(t, models,
                         "clawdbot_output_tokens_per_second",
                         "Output tokens per second of upstream time, the "
                         "reading of the prompt included.",
                         NGX_HTTP_CLAWD_HIST_RATE);

    ngx_http_clawd_prometheus_models(t, models);
    ngx_http_clawd_prometheus_in_flight(t, zone, models);

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_upstream_last_byte_timestamp_seconds",
                               "When an upstream last sent something, or NGINX "
                               "started.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE,
                              "clawdbot_upstream_last_byte_timestamp_seconds",
                              NULL, registry->heard);

    ngx_http_clawd_prometheus_users(t, &registry->users);
    ngx_http_clawd_prometheus_sources(t, registry);
    ngx_http_clawd_prometheus_rejects(t, registry);
    ngx_http_clawd_prometheus_connections(t, scrape);

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_zone_free_bytes",
                               "Free pages of the shared zone.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE,
                              "clawdbot_zone_free_bytes", NULL,
                              scrape->zone_free);

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_zone_size_bytes",
                               "Size of the shared zone.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE,
                              "clawdbot_zone_size_bytes", NULL,
                              scrape->zone_size);

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_series_dropped",
                               "Times that a model or user without a series "
                               "of its own was counted as other.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                              "clawdbot_series_dropped", NULL,
                              registry->dropped);

    if (scrape->more) {
        scrape->more(t, scrape->data);
    }

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE, "clawdbot_build_info",
                               "The versions of clawd and NGINX; always 1.");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE, "clawdbot_build_info",
                              build, 1);

    ngx_http_clawd_text_end(t);
}


static void
ngx_http_clawd_prometheus_hist(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models, char *name, char *help, ngx_uint_t hist)
{
    ngx_uint_t              i, n;
    ngx_http_clawd_label_t  labels[2];

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_HISTOGRAM, name, help);

    labels[1].key = NULL;

    n = ngx_http_clawd_registry_count(models);

    for (i = 0; i < n; i++) {
        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);
        ngx_http_clawd_prometheus_series(t, name, labels,
                     (ngx_http_clawd_model_series_t *) models->series[i],
                     hist);
    }
}


static void
ngx_http_clawd_prometheus_durations(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models)
{
    char                    *name;
    ngx_uint_t               i, n, class;
    ngx_http_clawd_label_t   labels[3];

    name = "clawdbot_http_request_duration_seconds";

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_HISTOGRAM, name,
                               "Time of a whole request, generation included, "
                               "by class of status.");

    labels[1].key = "code";
    labels[2].key = NULL;

    n = ngx_http_clawd_registry_count(models);

    for (i = 0; i < n; i++) {
        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);

        for (class = 0; class < NGX_HTTP_CLAWD_CLASSES; class++) {
            labels[1].value = ngx_http_clawd_classes[class];
            ngx_http_clawd_prometheus_series(t, name, labels,
                     (ngx_http_clawd_model_series_t *) models->series[i],
                     NGX_HTTP_CLAWD_HIST_DURATION + class);
        }
    }
}


/* A histogram without a request is left out: each has about twenty lines. */

static void
ngx_http_clawd_prometheus_series(ngx_http_clawd_text_t *t, char *name,
    ngx_http_clawd_label_t *labels, ngx_http_clawd_model_series_t *m,
    ngx_uint_t hist)
{
    ngx_http_clawd_scale_e     scale;
    ngx_http_clawd_snapshot_t  snapshot;

    scale = ngx_http_clawd_registry_scale(hist);

    if (ngx_http_clawd_histogram_read(&m->hists[hist], scale, &snapshot)) {
        ngx_http_clawd_text_histogram(t, name, labels, scale, &snapshot);
    }
}


static void
ngx_http_clawd_prometheus_models(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *models)
{
    ngx_uint_t                      i, n, fail;
    ngx_http_clawd_label_t          labels[3];
    ngx_http_clawd_model_series_t  *m;

    n = ngx_http_clawd_registry_count(models);

    labels[2].key = NULL;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_model_error",
                               "Requests that failed, a part of "
                               "clawdbot_model_request_total.");

    for (i = 0; i < n; i++) {
        m = (ngx_http_clawd_model_series_t *) models->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);
        labels[1].key = "error_type";

        for (fail = 1; fail < NGX_HTTP_CLAWD_FAIL_MAX; fail++) {
            labels[1].value = ngx_http_clawd_fails[fail];
            ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                      "clawdbot_model_error", labels,
                                      m->fails[fail]);
        }
    }

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER, "clawdbot_tokens",
                               "Tokens that were used.");

    for (i = 0; i < n; i++) {
        m = (ngx_http_clawd_model_series_t *) models->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);
        ngx_http_clawd_prometheus_tokens(t, "clawdbot_tokens", labels,
                                         &m->prompt_tokens,
                                         &m->completion_tokens);
    }

    /*
     * After the errors, which are counted after it: so a scrape never shows
     * more errors than requests.
     */

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_model_request",
                               "Requests of accepted users.");

    labels[1].key = NULL;

    for (i = 0; i < n; i++) {
        m = (ngx_http_clawd_model_series_t *) models->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                  "clawdbot_model_request", labels,
                                  m->requests);
    }
}


static void
ngx_http_clawd_prometheus_in_flight(ngx_http_clawd_text_t *t,
    ngx_http_clawd_zone_t *zone, ngx_http_clawd_table_t *models)
{
    ngx_uint_t              i, n;
    ngx_http_clawd_label_t  labels[2];

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_requests_in_flight",
                               "Requests that are being served.");

    labels[1].key = NULL;

    n = ngx_http_clawd_registry_count(models);

    for (i = 0; i < n; i++) {
        ngx_http_clawd_prometheus_label(&labels[0], "model", models, i);
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_requests_in_flight", labels,
                               ngx_http_clawd_registry_in_flight(zone, i));
    }
}


static void
ngx_http_clawd_prometheus_users(ngx_http_clawd_text_t *t,
    ngx_http_clawd_table_t *users)
{
    ngx_uint_t                     i, n;
    ngx_http_clawd_label_t         labels[3];
    ngx_http_clawd_user_series_t  *u;

    n = ngx_http_clawd_registry_count(users);

    labels[2].key = NULL;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_user_tokens",
                               "Tokens that a user has used.");

    for (i = 0; i < n; i++) {
        u = (ngx_http_clawd_user_series_t *) users->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "user", users, i);
        ngx_http_clawd_prometheus_tokens(t, "clawdbot_user_tokens", labels,
                                         &u->prompt_tokens,
                                         &u->completion_tokens);
    }

    labels[1].key = NULL;

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_user_requests",
                               "Requests of a user.");

    for (i = 0; i < n; i++) {
        u = (ngx_http_clawd_user_series_t *) users->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "user", users, i);
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                  "clawdbot_user_requests", labels,
                                  u->requests);
    }

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_user_rejected",
                               "Requests of a user that a quota refused.");

    for (i = 0; i < n; i++) {
        u = (ngx_http_clawd_user_series_t *) users->series[i];

        ngx_http_clawd_prometheus_label(&labels[0], "user", users, i);
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                  "clawdbot_user_rejected", labels,
                                  u->rejects);
    }
}


/* Two samples; the type is the second label, which is set here. */

static void
ngx_http_clawd_prometheus_tokens(ngx_http_clawd_text_t *t, char *name,
    ngx_http_clawd_label_t *labels, ngx_atomic_t *prompt,
    ngx_atomic_t *completion)
{
    labels[1].key = "type";

    ngx_str_set(&labels[1].value, "prompt");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, name, labels,
                              *prompt);

    ngx_str_set(&labels[1].value, "completion");
    ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER, name, labels,
                              *completion);
}


static void
ngx_http_clawd_prometheus_sources(ngx_http_clawd_text_t *t,
    ngx_http_clawd_registry_t *registry)
{
    ngx_uint_t              i;
    ngx_http_clawd_label_t  labels[2];

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER,
                               "clawdbot_usage_source",
                               "Requests by where their token counts are "
                               "from.");

    labels[0].key = "source";
    labels[1].key = NULL;

    for (i = 1; i < NGX_HTTP_CLAWD_SOURCE_MAX; i++) {
        labels[0].value = ngx_http_clawd_sources[i];
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                  "clawdbot_usage_source", labels,
                                  registry->sources[i]);
    }
}


/*
 * Errors that share a reason share a series.  Refusals are there from the
 * start, failures of ours and of upstreams only when one was counted as such.
 */

static void
ngx_http_clawd_prometheus_rejects(ngx_http_clawd_text_t *t,
    ngx_http_clawd_registry_t *registry)
{
    uint64_t                n;
    ngx_str_t               reason;
    ngx_uint_t              i, k, first;
    ngx_http_clawd_label_t  labels[2];

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_COUNTER, "clawdbot_rejected",
                               "Requests refused before they went upstream.");

    labels[0].key = "reason";
    labels[1].key = NULL;

    for (i = 0; i < NGX_HTTP_CLAWD_ERR_MAX; i++) {
        labels[0].value = ngx_http_clawd_prometheus_reason(i);

        n = 0;
        first = NGX_HTTP_CLAWD_ERR_MAX;

        for (k = 0; k < NGX_HTTP_CLAWD_ERR_MAX; k++) {
            reason = ngx_http_clawd_prometheus_reason(k);

            if (reason.len == labels[0].value.len
                && ngx_memcmp(reason.data, labels[0].value.data, reason.len)
                   == 0)
            {
                first = ngx_min(first, k);
                n += registry->rejects[k];
            }
        }

        if (first == i
            && (n || i == NGX_HTTP_CLAWD_ERR_NONE
                || ngx_http_clawd_error_def(i)->status < 500))
        {
            ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_COUNTER,
                                      "clawdbot_rejected", labels, n);
        }
    }
}


static ngx_str_t
ngx_http_clawd_prometheus_reason(ngx_uint_t i)
{
    static ngx_str_t  nginx = ngx_string("nginx");

    if (i == NGX_HTTP_CLAWD_ERR_NONE) {
        return nginx;
    }

    return ngx_http_clawd_error_def(i)->reason;
}


static void
ngx_http_clawd_prometheus_connections(ngx_http_clawd_text_t *t,
    ngx_http_clawd_scrape_t *scrape)
{
    ngx_uint_t              i;
    ngx_http_clawd_label_t  labels[2];

    struct {
        ngx_str_t           state;
        uint64_t            n;
    } states[] = {
        { ngx_string("active"), scrape->active },
        { ngx_string("reading"), scrape->reading },
        { ngx_string("writing"), scrape->writing },
        { ngx_string("waiting"), scrape->waiting }
    };

    if (!scrape->connections) {
        return;
    }

    ngx_http_clawd_text_family(t, NGX_HTTP_CLAWD_GAUGE,
                               "clawdbot_nginx_connections",
                               "Client connections of this NGINX, as "
                               "stub_status has them.");

    labels[0].key = "state";
    labels[1].key = NULL;

    for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        labels[0].value = states[i].state;
        ngx_http_clawd_text_value(t, NGX_HTTP_CLAWD_GAUGE,
                                  "clawdbot_nginx_connections", labels,
                                  states[i].n);
    }
}


static void
ngx_http_clawd_prometheus_label(ngx_http_clawd_label_t *label, char *key,
    ngx_http_clawd_table_t *table, ngx_uint_t i)
{
    ngx_http_clawd_series_t  *series;

    series = table->series[i];

    label->key = key;
    label->value.len = series->len;
    label->value.data = series->name;
}
