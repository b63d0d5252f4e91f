"""The numbers on the dashboards, where each can be worked out by hand.

A Prometheus with samples of the past: a scrape every 15 s for 40 minutes, in
which the same happens between any two, and a look at it after 37.5 minutes.
"""

import subprocess

import pytest

from boards import boards, fill
from servers import Prometheus

BEGIN = 1735689600      # long past, and the same on each run
SCRAPE = 15
SCRAPES = 160
LOOK = 150              # at this scrape
WINDOW = 60             # seconds; four scrapes
RANGE = 3600            # longer than there are samples

MODEL = "qwen3:32b"
NEW = "new:1b"
LE = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "1.5",
      "2.0", "3.0", "4.0", "5.0", "7.5", "10.0", "+Inf")
LE_PER_TOKEN = ("0.01", "0.015", "0.02", "0.025", "0.03", "+Inf")
LE_SPEED = ("30.0", "40.0", "50.0", "75.0", "+Inf")

BOARDS = boards()
OVERVIEW, MODELS, USERS = (BOARDS[f"clawd-{name}"]
                           for name in ("overview", "models", "users"))


class Samples:
    """Series as functions of the scrape; None where there is no sample."""

    def __init__(self):
        self.lines = []

    def add(self, name, value, instance="one", **labels):
        labels = {"job": "clawdbot", "instance": instance, **labels}
        text = ",".join(f'{key}="{word}"' for key, word in labels.items())
        for scrape in range(SCRAPES):
            sample = value(scrape)
            if sample is not None:
                self.lines.append(f"{name}{{{text}}} {sample}"
                                  f" {BEGIN + scrape * SCRAPE}")

    def counter(self, name, each, **labels):
        """A gateway that had served for a while when it was first seen."""
        self.add(f"clawdbot_{name}_total",
                 lambda scrape: each * (1000 + scrape), **labels)

    def gauge(self, name, value, **labels):
        self.add(f"clawdbot_{name}", lambda scrape: value, **labels)

    def histogram(self, name, each, seconds, bounds=LE, born=None, **labels):
        """each: {le: how many between two scrapes}; born: once, then."""
        def grown(amount):
            if born is None:
                return lambda scrape: amount * (1000 + scrape)
            return lambda scrape: amount if scrape >= born else None

        count = 0
        for bound in bounds:
            count += each.get(bound, 0)
            self.add(f"clawdbot_{name}_bucket", grown(count), le=bound,
                     **labels)
        self.add(f"clawdbot_{name}_sum", grown(seconds), **labels)
        self.add(f"clawdbot_{name}_count", grown(count), **labels)


def past():
    samples = Samples()
    counter, gauge, histogram = (samples.counter, samples.gauge,
                                 samples.histogram)

    # between two scrapes 20 requests of this model, two of which fail
    counter("model_request", 20, model=MODEL)
    for kind, each in (("timeout", 1), ("upstream_5xx", 1), ("quota", 0)):
        counter("model_error", each, model=MODEL, error_type=kind)
    counter("tokens", 300, model=MODEL, type="prompt")
    counter("tokens", 600, model=MODEL, type="completion")
    gauge("requests_in_flight", 3, model=MODEL)
    gauge("upstream_last_byte_timestamp_seconds", BEGIN + LOOK * SCRAPE - 42)
    histogram("http_request_duration_seconds",
              {"1.0": 10, "3.0": 8, "5.0": 2}, 40, model=MODEL, code="2xx")
    histogram("upstream_request_duration_seconds",
              {"1.0": 10, "3.0": 10}, 30, model=MODEL)
    histogram("upstream_connect_seconds", {"0.005": 20}, 0.02, model=MODEL)
    histogram("time_to_first_token_seconds", {"0.5": 20}, 8, model=MODEL)
    histogram("time_per_output_token_seconds", {"0.025": 20}, 0.45,
              LE_PER_TOKEN, model=MODEL)
    histogram("output_tokens_per_second", {"50.0": 20}, 900, LE_SPEED,
              model=MODEL)
    for source, each in (("upstream", 15), ("counted", 4), ("estimated", 1)):
        counter("usage_source", each, source=source)

    for user, requests, refused, tokens in (("alice", 15, 0, 200),
                                            ("bob", 5, 2, 100)):
        counter("user_requests", requests, user=user)
        counter("user_rejected", refused, user=user)
        counter("user_tokens", tokens, user=user, type="prompt")
        counter("user_tokens", 2 * tokens, user=user, type="completion")
    for reason, each in (("rpm", 2), ("bad_token", 1), ("depth", 0)):
        counter("rejected", each, reason=reason)

    for user, limit, used, allowed in (("alice", "tokens_per_day", 250, 1000),
                                       ("bob", "rpm", 0, 0)):
        gauge("user_quota_used", used, user=user, limit=limit)
        gauge("user_quota_limit", allowed, user=user, limit=limit)
    counter("quota_dry_run", 3, limit="rpm")
    counter("quota_dry_run", 0, limit="tpm")
    counter("quota_underestimate_tokens", 5)
    counter("ledger_invalid", 1)
    counter("ledger_spooled", 2)

    gauge("redis_up", 1)
    histogram("redis_command_duration_seconds", {"0.005": 40}, 0.08)
    counter("redis_errors", 1, **{"class": "timeout"})
    counter("redis_errors", 0, **{"class": "connect"})
    for state, connections in (("active", 7), ("waiting", 4)):
        gauge("nginx_connections", connections, state=state)
    for instance, free in (("one", 4), ("two", 8), ("three", 8)):
        gauge("build_info", 1, instance=instance, version="0.1.0",
              nginx="1.22.1")
        gauge("zone_free_bytes", free << 20, instance=instance)
    samples.add("clawdbot_series_dropped_total", lambda scrape: 9)

    # never seen before, in the last scrape but two: its first three requests
    born = LOOK - 2
    for name, value, labels in (
            ("model_request", 3, {}), ("tokens", 27, {"type": "prompt"}),
            ("tokens", 59, {"type": "completion"}),
            ("model_error", 1, {"error_type": "timeout"}),
            ("model_error", 0, {"error_type": "quota"})):
        samples.add(f"clawdbot_{name}_total",
                    lambda scrape, value=value:
                        value if scrape >= born else None,
                    model=NEW, **labels)
    histogram("http_request_duration_seconds", {"1.5": 3}, 3.27, born=born,
              model=NEW, code="2xx")

    # a gateway that was restarted, and has served the model again since
    restart = 100
    samples.add("clawdbot_model_request_total",
                lambda scrape: 10 * (scrape - restart) if scrape >= restart
                else 5000 + 10 * scrape, instance="two", model="reset:1b")

    # nobody looked for six minutes, until the last scrape but three
    def seen(scrape):
        return not LOOK - 25 < scrape < LOOK - 3

    samples.add("clawdbot_model_request_total",
                lambda scrape: 10 ** 6 + 10 * scrape if seen(scrape) else None,
                instance="three", model="gap:1b")

    for instance in ("one", "two", "three"):
        samples.add("clawdbot_zone_size_bytes",
                    lambda scrape, instance=instance:
                        16 << 20 if instance != "three" or seen(scrape)
                        else None, instance=instance)

    return "\n".join([*samples.lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("past")
    (folder / "past.txt").write_text(past())
    (folder / "none.yml").write_text("")
    subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics",
                    folder / "past.txt", folder / "data"], check=True,
                   capture_output=True)
    server = Prometheus(folder, folder / "none.yml",
                        "--storage.tsdb.retention.time=100y")
    yield server
    server.stop()


def look(prometheus, board, title, label=None, **variables):
    """{(label values of the panel's series): value}, exactly or nearly."""
    text = fill(board.query(title, label).text, WINDOW, RANGE, SCRAPE,
                **{"model": [MODEL], "user": "All", **variables})
    result = prometheus.get("query", query=text,
                            time=BEGIN + LOOK * SCRAPE)["result"]
    return {tuple(item["metric"][name] for name in sorted(item["metric"])):
            pytest.approx(float(item["value"][1]), rel=1e-6, abs=1e-9)
            for item in result}


def labelled(value):
    """A panel's series: {name or (names): value}, or a number without any."""
    if not isinstance(value, dict):
        return {(): value}
    return {name if isinstance(name, tuple) else (name,): number
            for name, number in value.items()}


ONE = "one"
EXPECTED = [
    # at a glance: what happened in 150 intervals, or is now
    (OVERVIEW, "Requests", None, 3000),
    (OVERVIEW, "Tokens", None, 135000),
    (OVERVIEW, "Error rate", None, 0.1),
    (OVERVIEW, "P95 latency", None, 4.5),
    (OVERVIEW, "Refused", None, 450),
    (OVERVIEW, "In flight", None, 3),
    (OVERVIEW, "Redis", None, 1),
    (OVERVIEW, "Zone used", None, 0.75),

    # in a second, or a minute
    (OVERVIEW, "Requests by model", None, {MODEL: 20 / 15}),
    (OVERVIEW, "Tokens by kind", None, {"prompt": 20, "completion": 40}),
    (OVERVIEW, "In flight by model", None, {MODEL: 3}),
    (OVERVIEW, "Error rate by model", None, {MODEL: 0.1}),
    (OVERVIEW, "Errors by type", None,
     {"timeout": 4, "upstream_5xx": 4, "quota": 0}),
    (OVERVIEW, "Refused by reason", None, {"rpm": 8, "bad_token": 4}),

    # the 10th of 20 is the end of the first bucket, the 19th and 19.8th are
    # in the last: of its two, the first half and nine tenths
    (OVERVIEW, "Whole request", "P50", 1),
    (OVERVIEW, "Whole request", "P95", 4.5),
    (OVERVIEW, "Whole request", "P99", 4.9),
    (OVERVIEW, "The model's own time", "P50", 1),
    (OVERVIEW, "The model's own time", "P95", 2.9),
    (OVERVIEW, "The model's own time", "P99", 2.98),
    (OVERVIEW, "Where the time goes", "whole request", 2),
    (OVERVIEW, "Where the time goes", "model", 1.5),
    (OVERVIEW, "Where the time goes", "connecting to it", 0.001),
    (OVERVIEW, "Where the time goes", "a Redis command", 0.002),
    (OVERVIEW, "Silence of the upstream", None, {ONE: 42}),

    (OVERVIEW, "Redis answers", None, {ONE: 1}),
    (OVERVIEW, "Redis command time", "P50", 0.0025),
    (OVERVIEW, "Redis command time", "P95", 0.00475),
    (OVERVIEW, "Redis command time", "P99", 0.00495),
    (OVERVIEW, "Redis errors by class", None, {"timeout": 4}),
    (OVERVIEW, "Client connections", None, {"active": 7, "waiting": 4}),
    (OVERVIEW, "Gateways", None, {(ONE, "1.22.1", "0.1.0"): 9}),

    (MODELS, "Models", "Requests", {MODEL: 3000}),
    (MODELS, "Models", "Errors", {MODEL: 0.1}),
    (MODELS, "Models", "P50", {MODEL: 1}),
    (MODELS, "Models", "P95", {MODEL: 4.5}),
    (MODELS, "Models", "Model's own P95", {MODEL: 2.9}),
    (MODELS, "Models", "First token P95", {MODEL: 0.4875}),
    (MODELS, "Models", "Speed P50", {MODEL: 45}),
    (MODELS, "Models", "Prompt tokens", {MODEL: 45000}),
    (MODELS, "Models", "Completion tokens", {MODEL: 90000}),
    (MODELS, "Whole request, P95", None, {MODEL: 4.5}),
    (MODELS, "The model's own time, P95", None, {MODEL: 2.9}),
    (MODELS, "Connecting, P95", None, {MODEL: 0.00475}),
    (MODELS, "First token, P95", None, {MODEL: 0.4875}),
    (MODELS, "Time per output token, P50", None, {MODEL: 0.0225}),
    (MODELS, "Output speed, P50", None, {MODEL: 45}),
    (MODELS, "Tokens in", None, {MODEL: 20}),
    (MODELS, "Tokens out", None, {MODEL: 40}),
    (MODELS, "Where token counts come from", None,
     {"upstream": 0.75, "counted": 0.2, "estimated": 0.05}),
    (MODELS, "Requests by model", None, {MODEL: 20 / 15}),
    (MODELS, "In flight by model", None, {MODEL: 3}),
    (MODELS, "Errors by type", None,
     {("timeout", MODEL): 4, ("upstream_5xx", MODEL): 4}),

    # four intervals; a bucket has those below it, too
    (MODELS, "Whole request", None,
     {le: 40 if float(le) < 3 else 72 if float(le) < 5 else 80
      if float(le) >= 1 else 0 for le in LE[7:]} | {le: 0 for le in LE[:7]}),
    (MODELS, "First token", None,
     {le: 80 if float(le) >= 0.5 else 0 for le in LE}),

    (USERS, "Users", "Tokens", {"alice": 90000, "bob": 45000}),
    (USERS, "Users", "Prompt", {"alice": 30000, "bob": 15000}),
    (USERS, "Users", "Completion", {"alice": 60000, "bob": 30000}),
    (USERS, "Users", "Requests", {"alice": 2250, "bob": 750}),
    (USERS, "Users", "Refused", {"alice": 0, "bob": 300}),
    (USERS, "Used against limit", "Used",
     {("tokens_per_day", "alice"): 250, ("rpm", "bob"): 0}),
    (USERS, "Used against limit", "Allowed",
     {("tokens_per_day", "alice"): 1000, ("rpm", "bob"): 0}),
    (USERS, "Used against limit", "Share",
     {("tokens_per_day", "alice"): 0.25}),
    (USERS, "Tokens by user", None, {"alice": 40, "bob": 20}),
    (USERS, "Requests by user", None, {"alice": 1, "bob": 1 / 3}),
    (USERS, "Share of limits used", None,
     {("tokens_per_day", "alice"): 0.25}),
    (USERS, "Refused by user", None, {"bob": 8}),
    (USERS, "Refused by limit", None, {"rpm": 8}),
    (USERS, "Refused for token or rights", None, {"bad_token": 4}),
    (USERS, "Dry run", None, {"rpm": 12}),
    (USERS, "Tokens beyond their reservation", None, 20),
    (USERS, "Records and settlements", "invalid records", 4),
    (USERS, "Records and settlements", "settlements in the file", 8),
]


def cases(*cases):
    return [pytest.param(*case, id=" / ".join(
        filter(None, (case[0].name, *case[1:3])))) for case in cases]


@pytest.mark.parametrize("board, title, label, expected", cases(*EXPECTED))
def test_the_number(prometheus, board, title, label, expected):
    assert look(prometheus, board, title, label) == labelled(expected)


def test_no_panel_is_left_out():
    told = {(board.name, title) for board, title, *_ in EXPECTED}
    told.add((OVERVIEW.name, "Zone free"))      # two gauges as they are
    assert told == {(board.name, panel["title"])
                    for board in BOARDS.values() for panel in board.panels}


@pytest.mark.parametrize("board, title, label, expected", cases(
    (OVERVIEW, "Requests", None, 3),
    (OVERVIEW, "Tokens", None, 86),
    (OVERVIEW, "Error rate", None, 1 / 3),
    (OVERVIEW, "P95 latency", None, 1 + 0.5 * 0.95),
    (OVERVIEW, "Requests by model", None, {NEW: 3 / WINDOW}),
    (OVERVIEW, "Tokens by kind", None,
     {"prompt": 27 / WINDOW, "completion": 59 / WINDOW}),
    (OVERVIEW, "Whole request", "P95", 1 + 0.5 * 0.95),
    (OVERVIEW, "Where the time goes", "whole request", 3.27 / 3),
    (OVERVIEW, "Error rate by model", None, {NEW: 1 / 3}),
    (OVERVIEW, "Errors by type", None, {"timeout": 1, "quota": 0}),
))
def test_the_first_requests_ever_are_shown(prometheus, board, title, label,
                                           expected):
    assert look(prometheus, board, title, label,
                model=[NEW]) == labelled(expected)


def test_a_restart_of_the_gateway_loses_nothing(prometheus):
    requests = look(prometheus, OVERVIEW, "Requests", model=["reset:1b"])[()]
    # up to the ten that nobody saw, and what increase() makes of the ends
    assert abs(requests.expected - 1500) < 30
    assert look(prometheus, OVERVIEW, "Requests by model",
                model=["reset:1b"]) == {("reset:1b",): 10 / 15}


def test_a_gap_in_the_scrapes_is_no_burst(prometheus):
    assert look(prometheus, OVERVIEW, "Requests", model=["gap:1b"]) == {
        (): 1500}
    rate = look(prometheus, OVERVIEW, "Requests by model",
                model=["gap:1b"])["gap:1b",]
    assert 0 < rate.expected <= 10 / 15 + 1e-9


@pytest.mark.parametrize("board, title, label", cases(
    (OVERVIEW, "Error rate", None), (OVERVIEW, "P95 latency", None),
    (OVERVIEW, "Whole request", "P95"),
    (OVERVIEW, "Where the time goes", "model"),
    (MODELS, "Models", "P95"),
))
def test_without_requests_there_is_nothing_instead_of_nan(
        prometheus, board, title, label):
    assert look(prometheus, board, title, label, model=["absent"]) == {}
