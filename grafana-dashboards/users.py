"""Users and Quotas: who uses how much, and who is refused?"""

from parts import (PER_MINUTE, TOKENS_PER_SECOND, USER, column, dashboard,
                   lines, link_to, query, rows)
from queries import (events, per_minute, per_second, select, share, summed,
                     total)

CHOSEN = {"user": "$user"}
REQUESTS = select("clawdbot_user_requests_total", **CHOSEN)
REFUSED = select("clawdbot_user_rejected_total", **CHOSEN)
TOKENS = select("clawdbot_user_tokens_total", **CHOSEN)
USED = select("clawdbot_user_quota_used", **CHOSEN)
LIMIT = select("clawdbot_user_quota_limit", **CHOSEN)

OF_QUOTAS = "concurrency|rpm|tpm|tokens_per_day|tokens_per_month|exceeds_limit"
OF_TOKENS = ("no_token|bad_token|expired_token|disabled_token|invalid_record"
             "|model_denied|param_denied|endpoint|ledger_unavailable")

TO_OVERVIEW = link_to("clawd-overview", "Gateway Overview")


def tokens(kind):
    return select("clawdbot_user_tokens_total", **CHOSEN, type=kind)


def of_limit(metric):
    """Gateways that share a Redis tell of the same account."""
    return f"max by (user, limit) ({metric})"


def tables():
    return [
        rows("Users",
             "Each user in the time range. Refused: by a quota.",
             {"user": "User"}, {
                 "Tokens": (summed(total(TOKENS), "user"), "locale", {}),
                 "Prompt": (summed(total(tokens("prompt")), "user"), "locale",
                            {}),
                 "Completion": (summed(total(tokens("completion")), "user"),
                                "locale", {}),
                 "Requests": (summed(total(REQUESTS), "user"), "locale", {}),
                 "Refused": (summed(total(REFUSED), "user"), "locale",
                             column("text", (1, "orange"))),
             }, sort="Tokens", width=12, height=10,
             only="clawd-users"),
        rows("Used against limit",
             "What users have used of their limits in the running minute, day "
             "and month, with what their running requests have reserved. Only "
             "limits that are set; a limit of 0 allows nothing and has no "
             "share.",
             {"user": "User", "limit": "Limit"}, {
                 "Used": (of_limit(USED), "locale", {}),
                 "Allowed": (of_limit(LIMIT), "locale", {}),
                 "Share": (share(of_limit(USED), of_limit(LIMIT)),
                           "percentunit",
                           column("green", (0.8, "orange"), (0.95, "red"),
                                  cell="gauge", min=0, max=1, decimals=0)),
             }, sort="Share", width=12, height=10,
             only="clawd-users"),
    ]


def use():
    return [
        lines("Tokens by user",
              "Tokens a second, prompts and answers.", TOKENS_PER_SECOND,
              query(per_second(TOKENS, "user"), "{{user}}"), stacked=True),
        lines("Requests by user",
              "Requests a second, refused by a quota or not.", "reqps",
              query(per_second(REQUESTS, "user"), "{{user}}"), stacked=True),
        lines("Share of limits used",
              "What users have used of their limits. It falls to 0 when a "
              "minute, day or month begins. Dashed: all of it.",
              "percentunit",
              query(share(of_limit(USED), of_limit(LIMIT)),
                    "{{user}} {{limit}}"), limit=1),
    ]


def refused():
    return [
        lines("Refused by user",
              "Requests a minute that a quota refused, by user.", PER_MINUTE,
              query(events(REFUSED, "user"), "{{user}}"), stacked=True,
              bars=True),
        lines("Refused by limit",
              "Requests a minute that a quota refused, by limit; "
              "exceeds_limit: larger than a whole limit. All users.",
              PER_MINUTE,
              query(events(select("clawdbot_rejected_total",
                                  reason=OF_QUOTAS), "reason"), "{{reason}}"),
              stacked=True, bars=True, links=[TO_OVERVIEW]),
        lines("Refused for token or rights",
              "Requests a minute without a valid token, or for what their "
              "token may not use. Nobody's yet, so not by user.", PER_MINUTE,
              query(events(select("clawdbot_rejected_total",
                                  reason=OF_TOKENS), "reason"), "{{reason}}"),
              stacked=True, bars=True, links=[TO_OVERVIEW]),
    ]


def ledger():
    return [
        lines("Dry run",
              "Requests a minute that clawd_dry_run let pass, by the limit "
              "that would have refused them.", PER_MINUTE,
              query(events("clawdbot_quota_dry_run_total", "limit"),
                    "{{limit}}"), stacked=True, bars=True),
        lines("Tokens beyond their reservation",
              "Tokens a minute that requests took beyond what was reserved "
              "for them: a model that does not keep to max_tokens. All is "
              "well at 0.", PER_MINUTE,
              query(per_minute("clawdbot_quota_underestimate_tokens_total"),
                    "tokens"), colours={"tokens": "orange"}),
        lines("Records and settlements",
              "A minute: records in Redis that deny because of a mistake, "
              "and settlements that wait in the file while Redis is away.",
              PER_MINUTE,
              query(per_minute("clawdbot_ledger_invalid_total"),
                    "invalid records"),
              query(per_minute("clawdbot_ledger_spooled_total"),
                    "settlements in the file")),
    ]


def board():
    return dashboard(
        "clawd-users", "Tokens and requests of users, their limits, and who "
        "was refused.", [USER],
        [(None, tables()), ("Use", use()), ("Refusals", refused()),
         ("Ledger", ledger())])
