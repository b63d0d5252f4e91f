"""Gateway Overview: is it well, and where is it slow?"""

from parts import (MODEL, PER_MINUTE, TOKENS_PER_SECOND, UP, cells, dashboard,
                   lines, link_to, number, quantiles, query, rows, states)
from queries import (events, grew, mean, per_minute, per_second, quantile,
                     select, share, summed, total)

HTTP = "clawdbot_http_request_duration_seconds"
UPSTREAM = "clawdbot_upstream_request_duration_seconds"
CONNECT = "clawdbot_upstream_connect_seconds"
REDIS = "clawdbot_redis_command_duration_seconds"

CHOSEN = {"model": "$model"}
REQUESTS = select("clawdbot_model_request_total", **CHOSEN)
ERRORS = select("clawdbot_model_error_total", **CHOSEN)
TOKENS = select("clawdbot_tokens_total", **CHOSEN)
REJECTED = "clawdbot_rejected_total"

SILENCE = """\
sum by (instance) (
  clamp_max(time() - clawdbot_upstream_last_byte_timestamp_seconds, 3600)
  * on (job, instance)
    (sum by (job, instance) (clawdbot_requests_in_flight) > bool 0)
)"""

TO_MODELS = link_to("clawd-models", "Model Performance",
                    "&${model:queryparam}")
TO_MODEL = link_to("clawd-models", "Performance of ${__field.labels.model}",
                   "&var-model=${__field.labels.model:percentencode}")
TO_USERS = link_to("clawd-users", "Users and Quotas")


def glance():
    return [
        number("Requests",
               "Requests of accepted users in the time range, those that "
               "failed or that a quota refused included.",
               summed(total(REQUESTS)), "short", link=TO_MODELS),
        number("Tokens",
               "Tokens of prompts and answers in the time range.",
               summed(total(TOKENS)), "short", link=TO_USERS),
        number("Error rate",
               "Share of the requests in the time range that failed or that "
               "a quota refused.",
               share(summed(total(ERRORS)), summed(total(REQUESTS))),
               "percentunit", thresholds=("green", (0.01, "orange"),
                                          (0.05, "red")),
               none="no requests", link=TO_MODELS),
        number("P95 latency",
               "95 of 100 requests in the time range took at most so long, "
               "from the first byte in to the last byte out.",
               quantile(0.95, HTTP, over=total, **CHOSEN), "s",
               thresholds=("green", (5, "red")), none="no requests",
               link=TO_MODELS),
        number("Refused",
               "Requests in the time range that the gateway refused: tokens, "
               "paths, bodies, quotas. All models.",
               summed(total(REJECTED)), "short", link=TO_USERS),
        number("In flight",
               "Requests that are being served now.",
               summed(select("clawdbot_requests_in_flight", **CHOSEN)),
               "short", link=TO_MODELS),
        number("Redis",
               "Whether Redis answers each gateway; nothing to show without "
               "clawd_redis.",
               "min(clawdbot_redis_up)", "none", none="not used",
               mappings=UP, thresholds=("red", (1, "green"))),
        number("Zone used",
               "Share of the shared memory zone that is used, of the gateway "
               "with the least room. A full zone refuses requests.",
               "max(1 - clawdbot_zone_free_bytes / clawdbot_zone_size_bytes)",
               "percentunit", decimals=0,
               thresholds=("green", (0.8, "orange"), (0.9, "red"))),
    ]


def traffic():
    return [
        lines("Requests by model",
              "Requests that ended, a second, refused by a quota or not.",
              "reqps",
              query(per_second(REQUESTS, "model"), "{{model}}"),
              stacked=True, links=[TO_MODEL]),
        lines("Tokens by kind",
              "Tokens a second, counted when their request ends.",
              TOKENS_PER_SECOND, query(per_second(TOKENS, "type"), "{{type}}"),
              stacked=True),
        lines("In flight by model",
              "Requests that are being served. A line that stays up "
              "while no request ends is a model that hangs.", "short",
              query(summed(select("clawdbot_requests_in_flight", **CHOSEN),
                           "model"), "{{model}}"),
              stacked=True, links=[TO_MODEL]),
    ]


def latency():
    return [
        quantiles("Whole request",
                  "What clients wait: from the first byte of a request to the "
                  "last of its answer, generation included. Dashed: 5 s.",
                  lambda q: quantile(q, HTTP, **CHOSEN), limit=5,
                  width=6, links=[TO_MODELS]),
        quantiles("The model's own time",
                  "From sending a request upstream to the last byte of the "
                  "answer. As high as the whole request: the model is slow. "
                  "Much lower: look at the gateway and at Redis.",
                  lambda q: quantile(q, UPSTREAM, **CHOSEN), limit=5,
                  width=6, links=[TO_MODELS]),
        lines("Where the time goes",
              "Mean times. The whole request less the model is what the "
              "gateway takes, and the client for sending and reading.", "s",
              query(mean(HTTP, **CHOSEN), "whole request"),
              query(mean(UPSTREAM, **CHOSEN), "model"),
              query(mean(CONNECT, **CHOSEN), "connecting to it"),
              query(mean(REDIS), "a Redis command"), width=6),
        lines("Silence of the upstream",
              "How long ago it sent anything, while requests are in flight; "
              "an hour at most. A long stream is not silent. Loading a model "
              "is, for a minute or two, and an answer that is not streamed, "
              "until it ends. Dashed: 5 minutes.", "s",
              query(SILENCE, "{{instance}}"), width=6, limit=300),
    ]


def errors():
    return [
        lines("Error rate by model",
              "Share of the requests that failed or that a quota refused. "
              "Nothing to show without requests. Dashed: 5 %.",
              "percentunit",
              query(share(summed(grew(ERRORS), "model"),
                          summed(grew(REQUESTS), "model")), "{{model}}"),
              most=1, limit=0.05, links=[TO_MODEL]),
        cells("Errors by type",
              "Errors a minute. timeout, connect and reset: the upstream is "
              "silent, gone or breaks off; client_abort: clients gave up, "
              "often because it was slow; quota: a limit refused.",
              PER_MINUTE,
              query(per_minute(ERRORS, "error_type"), "{{error_type}}"),
              "Reds", exact=True),
        lines("Refused by reason",
              "Requests a minute that the gateway refused before they went "
              "upstream, by the reason of clawdbot_rejected_total.",
              PER_MINUTE, query(events(REJECTED, "reason"), "{{reason}}"),
              stacked=True, bars=True, links=[TO_USERS]),
    ]


def redis():
    return [
        states("Redis answers",
               "Whether Redis answers each gateway. Nothing to show without "
               "clawd_redis.",
               query("min by (instance) (clawdbot_redis_up)", "{{instance}}"),
               UP),
        quantiles("Redis command time",
                  "Each request waits for a command or two. Milliseconds are "
                  "well; tens of them are a slow disk or network.",
                  lambda q: quantile(q, REDIS), exemplars=False),
        lines("Redis errors by class",
              "Failures a minute of Redis and of the link to it.", PER_MINUTE,
              query(events("clawdbot_redis_errors_total", "class"),
                    "{{class}}"), stacked=True, bars=True),
    ]


def gateway():
    return [
        lines("Client connections",
              "Connections of clients by state, as NGINX's stub_status has "
              "them. writing: an answer is under way; waiting: kept alive.",
              "short", query("sum by (state) (clawdbot_nginx_connections)",
                             "{{state}}")),
        lines("Zone free",
              "Free pages of the shared memory zone, and its size.", "bytes",
              query("clawdbot_zone_free_bytes", "free {{instance}}"),
              query("clawdbot_zone_size_bytes", "size {{instance}}")),
        rows("Gateways",
             "Versions, and how often a name found no series of its own and "
             "was counted as \"other\".",
             {"instance": "Gateway", "version": "clawd", "nginx": "NGINX"},
             {"Names dropped": (
                 "sum by (instance, version, nginx) ("
                 "clawdbot_build_info * on (job, instance) group_left"
                 " clawdbot_series_dropped_total)", "locale", {})},
             sort="Gateway", width=8),
    ]


def board():
    return dashboard(
        "clawd-overview",
        "Requests, latency, errors and health of the gateway.", [MODEL],
        [(None, glance()), ("Traffic", traffic()), ("Latency", latency()),
         ("Errors and refusals", errors()), ("Redis", redis()),
         ("Gateway", gateway())])
