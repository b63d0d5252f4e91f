"""Model Performance: how fast is each model, and how well does it answer?"""

from parts import (MODEL, PER_MINUTE, PromQueryFormat, TOKENS_PER_SECOND,
                   cells, column, dashboard, lines, link_to, query, rows)
from queries import (grew, per_minute, per_second, quantile, select, share,
                     summed, total)

HTTP = "clawdbot_http_request_duration_seconds"
UPSTREAM = "clawdbot_upstream_request_duration_seconds"
CONNECT = "clawdbot_upstream_connect_seconds"
FIRST = "clawdbot_time_to_first_token_seconds"
PER_TOKEN = "clawdbot_time_per_output_token_seconds"
SPEED = "clawdbot_output_tokens_per_second"

CHOSEN = {"model": "$model"}
REQUESTS = select("clawdbot_model_request_total", **CHOSEN)
ERRORS = select("clawdbot_model_error_total", **CHOSEN)
SOURCES = "clawdbot_usage_source_total"

TO_USERS = link_to("clawd-users", "Users and Quotas")


def tokens(kind):
    return select("clawdbot_tokens_total", **CHOSEN, type=kind)


def table():
    slow = column("text", (5, "orange"), (15, "red"))
    bad = column("text", (0.01, "orange"), (0.05, "red"))

    return [rows(
        "Models",
        "Each model in the time range. P95: 95 of 100 requests took at most "
        "so long. Speed is that of the median request, the reading of the "
        "prompt included.",
        {"model": "Model"}, {
            "Requests": (summed(total(REQUESTS), "model"), "locale", {}),
            "Errors": (share(summed(total(ERRORS), "model"),
                             summed(total(REQUESTS), "model")),
                       "percentunit", bad),
            "P50": (quantile(0.5, HTTP, "model", over=total, **CHOSEN), "s",
                    {}),
            "P95": (quantile(0.95, HTTP, "model", over=total, **CHOSEN), "s",
                    slow),
            "Model's own P95": (quantile(0.95, UPSTREAM, "model", over=total,
                                         **CHOSEN), "s", slow),
            "First token P95": (quantile(0.95, FIRST, "model", over=total,
                                         **CHOSEN), "s", slow),
            "Speed P50": (quantile(0.5, SPEED, "model", over=total, **CHOSEN),
                          TOKENS_PER_SECOND, {"decimals": 1}),
            "Prompt tokens": (summed(total(tokens("prompt")), "model"),
                              "locale", {}),
            "Completion tokens": (summed(total(tokens("completion")), "model"),
                                  "locale", {}),
        }, sort="Requests", only="clawd-models")]


def by_model(title, description, q, histogram, unit="s", **options):
    return lines(title, description, unit,
                 query(quantile(q, histogram, "model", **CHOSEN), "{{model}}",
                       exemplar=True), **options)


def latency():
    return [
        by_model("Whole request, P95",
                 "95 of 100 requests took at most so long, by model. Dashed: "
                 "5 s.", 0.95, HTTP, limit=5),
        by_model("The model's own time, P95",
                 "From sending a request upstream to the last byte of its "
                 "answer, by model. Dashed: 5 s.", 0.95, UPSTREAM, limit=5),
        by_model("Connecting, P95",
                 "Time to connect to the upstream. Milliseconds are well; "
                 "more is a network, or a server that is overrun.", 0.95,
                 CONNECT),
    ]


def streams():
    return [
        by_model("First token, P95",
                 "From the start of a request to its first output token: "
                 "loading the model and reading the prompt. Streams only.",
                 0.95, FIRST),
        by_model("Time per output token, P50",
                 "Mean time between the output tokens of a stream; the median "
                 "stream.", 0.5, PER_TOKEN),
        by_model("Output speed, P50",
                 "Output tokens a second of upstream time, the reading of the "
                 "prompt included; the median request.", 0.5, SPEED,
                 TOKENS_PER_SECOND),
    ]


def use():
    return [
        lines("Tokens in", "Prompt tokens a second, by model.",
              TOKENS_PER_SECOND,
              query(per_second(tokens("prompt"), "model"), "{{model}}"),
              stacked=True, links=[TO_USERS]),
        lines("Tokens out", "Completion tokens a second, by model.",
              TOKENS_PER_SECOND,
              query(per_second(tokens("completion"), "model"), "{{model}}"),
              stacked=True, links=[TO_USERS]),
        lines("Where token counts come from",
              "Share of the requests whose tokens the upstream reported, "
              "whose output events were counted, or whose bytes were divided. "
              "All models.",
              "percentunit",
              query(share(summed(grew(SOURCES), "source"),
                          summed(grew(SOURCES)), "on () group_left () "),
                    "{{source}}"),
              stacked=True, bars=True, most=1,
              colours={"upstream": "green", "counted": "yellow",
                       "estimated": "orange"}),
    ]


def traffic():
    return [
        lines("Requests by model",
              "Requests that ended, a second, refused by a quota or not.",
              "reqps",
              query(per_second(REQUESTS, "model"), "{{model}}"),
              stacked=True, links=[TO_USERS]),
        lines("In flight by model", "Requests that are being served.", "short",
              query(summed(select("clawdbot_requests_in_flight", **CHOSEN),
                           "model"), "{{model}}"), stacked=True),
        lines("Errors by type",
              "Errors a minute, by type and model.", PER_MINUTE,
              query(f"{per_minute(ERRORS, 'error_type', 'model')} > 0\n"
                    f"or on () label_replace(0 * sum({ERRORS}),"
                    ' "error_type", "none", "", "")',
                    "{{error_type}} {{model}}"), stacked=True, bars=True),
    ]


def distribution():
    return [
        cells("Whole request",
              "How many requests took how long, the whole request. Two bands "
              "are two kinds of requests: short and long answers, or a model "
              "that must be loaded first.", "s",
              query(summed(grew(select(f"{HTTP}_bucket", **CHOSEN)), "le"),
                    "{{le}}", exemplar=True, form=PromQueryFormat.HEATMAP),
              "Oranges", width=12),
        cells("First token",
              "How many streams waited how long for their first output token.",
              "s",
              query(summed(grew(select(f"{FIRST}_bucket", **CHOSEN)), "le"),
                    "{{le}}", exemplar=True, form=PromQueryFormat.HEATMAP),
              "Oranges", width=12),
    ]


def board():
    return dashboard(
        "clawd-models", "Latency, speed, tokens and errors of each model.",
        [MODEL],
        [(None, table()), ("Latency", latency()), ("Streams", streams()),
         ("Tokens", use()), ("Traffic and errors", traffic()),
         ("$model", distribution())])
