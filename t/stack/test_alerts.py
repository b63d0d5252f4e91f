"""The alerts: promtool's cases, the runbook, and real ones that fire."""

import http.server
import re
import shutil
import subprocess
import threading

import httpx
import pytest
import yaml

from boards import boards
from harness import ROOT, USER_TOKEN, Gateway, free_port, wait_until
from servers import Prometheus

FOLDER = ROOT / "docker/prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
ALERTS = RULES[0]["rules"]
CASES = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()

NAMES = {rule["alert"] for rule in ALERTS}


def promtool(*words, cwd=FOLDER):
    done = subprocess.run(["promtool", *map(str, words)], cwd=cwd,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_group():
    assert [group["name"] for group in RULES] == ["clawdbot-alerts"]


def test_configuration(tmp_path):
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    promtool("check", "rules", "--lint-fatal", "alerts.yml", cwd=tmp_path)


def test_cases():
    promtool("test", "rules", "alerts_test.yml")


def expected(case):
    """[(alert, severities)] of a case: those that fire, at each time."""
    for test in case.get("alert_rule_test", ()):
        yield test["alertname"], {alert["exp_labels"]["severity"]
                                  for alert in test["exp_alerts"]}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: "-".join(
    (rule["alert"], rule["labels"]["severity"])))
def test_each_rule_has_both_cases(rule):
    seen = [rule["labels"]["severity"] in severities
            for case in CASES for name, severities in expected(case)
            if name == rule["alert"]]
    assert True in seen and False in seen


def test_the_one_that_people_know():
    rule, = (rule for rule in ALERTS if rule["alert"] == "Qwen3HighLatency")
    assert rule["expr"] == (
        'histogram_quantile(0.95, sum(rate(clawdbot_http_request_duration'
        '_seconds_bucket{model="qwen3:32b"}[5m])) by (le)) > 5')
    assert (rule["for"], rule["labels"]["severity"]) == ("2m", "warning")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: "-".join(
    (rule["alert"], rule["labels"]["severity"])))
def test_annotations(rule):
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert "$value" in told["description"]
    assert told["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_runbook():
    sections = re.findall(r"(?m)^## (.*)$", RUNBOOK)
    assert sorted(sections) == sorted(NAMES)

    for link in re.findall(r"\]\(#(.*?)\)", RUNBOOK):
        assert link in {name.lower() for name in NAMES}
    for path in re.findall(r"\]\((?!#)(.*?)(?:#.*?)?\)", RUNBOOK):
        assert (ROOT / "docs" / path).exists(), path


def test_runbook_names_panels():
    titles = {board.name for board in boards().values()} | {
        panel["title"] for board in boards().values()
        for panel in board.panels}
    for title in re.findall(r"(?<!\*)\*([^*]+?)\*(?!\*)", RUNBOOK):
        assert " ".join(title.split()) in titles, title


# What the expressions select, against a gateway with all kinds of traffic.

SELECTOR = re.compile(r"(clawdbot_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')

# there with its first count only
LATER = {"ledger_unavailable", "qwen3:32b"}


def selectors():
    return sorted({(name, labels) for rule in ALERTS
                   for name, labels in SELECTOR.findall(rule["expr"])})


@pytest.mark.parametrize("name, labels", selectors())
def test_metrics_exist(watched, name, labels):
    assert watched.prometheus.query(name) != []

    for label, how, wanted in MATCHER.findall(labels):
        if how == "!=":
            continue
        for value in wanted.split("|"):
            if value not in LATER:
                assert watched.prometheus.query(
                    f'{name}{{{label}="{value}"}}') != [], value


# Real ones.  The rules are the shipped ones with shorter times.

def shortened(text):
    """Minutes become seconds; what is counted stays as it is."""
    text = re.sub(r"\[(\d+)m\]", r"[\1s]", text)
    text = re.sub(r"\[(\d+)m:15s\]", r"[\1s:250ms]", text)
    text = text.replace("> 300", "> 5").replace("> 660", "> 11")
    text = re.sub(r"offset (\d+)m", r"offset \1s", text)
    return re.sub(r"(?m)for: \d+[ms]$", "for: 1s", text)


CONF = """
global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}
rule_files: [alerts.yml]
scrape_configs:
- job_name: clawdbot
  static_configs: [targets: ["127.0.0.1:{port}"]]
"""


class Hanging(http.server.ThreadingHTTPServer):
    """Takes requests and says nothing; "drip" sends a word now and then."""

    daemon_threads = True

    def __init__(self):
        self.over = threading.Event()
        self.drips = False
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.over.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.drips:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            while not self.server.over.wait(0.5):
                self.wfile.write(b": still at work\n\n")
        self.server.over.wait()
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def watch(tmp_path_factory):
    """watch(upstream): a gateway and a Prometheus with the short rules."""
    gateways, prometheus = [], []

    def start(upstream):
        gateways.append(Gateway(tmp_path_factory.mktemp("nginx"), upstream))
        folder = tmp_path_factory.mktemp("prometheus")
        (folder / "alerts.yml").write_text(
            shortened((FOLDER / "alerts.yml").read_text()))
        conf = folder / "prometheus.yml"
        conf.write_text(CONF.format(port=gateways[-1].metrics_port))
        prometheus.append(Prometheus(folder, conf))
        prometheus[-1].wait_value('up{job="clawdbot"}', 1)
        return gateways[-1], prometheus[-1]

    yield start

    for server in prometheus:
        server.stop()
    for gateway in gateways:
        gateway.check()


@pytest.fixture
def hanging():
    server = Hanging()
    yield server
    server.close()


def ask(gateway, timeout=5, **body):
    return httpx.post(
        f"{gateway.url}/v1/chat/completions", timeout=timeout,
        headers={"Authorization": f"Bearer {USER_TOKEN}"},
        json={"model": "m", "messages": [{"role": "user", "content": "hi"}],
              **body})


def in_background(gateway, **body):
    def run():
        try:
            ask(gateway, 60, **body)
        except httpx.HTTPError:
            pass
    threading.Thread(target=run, daemon=True).start()
    wait_until("the request to be in flight", lambda: gateway.metrics().value(
        "clawdbot_requests_in_flight") == 1)


def test_silence_fires(watch, hanging):
    gateway, prometheus = watch(hanging.address)
    in_background(gateway)

    # first it is only said

    for severity in ("warning", "critical"):
        critical = prometheus.value(
            'ALERTS{alertname="UpstreamSilent",severity="critical"}')
        assert severity == "critical" or critical is None
        prometheus.wait_value(f'ALERTS{{alertname="UpstreamSilent",'
                              f'severity="{severity}"}}', 1)
    assert prometheus.firing() == {"UpstreamSilent"}

    hanging.over.set()
    wait_until("its end", lambda: "UpstreamSilent" not in prometheus.firing())


def test_a_long_stream_is_not_silent(watch, hanging):
    hanging.drips = True
    gateway, prometheus = watch(hanging.address)
    in_background(gateway, stream=True)

    # longer than silence takes to be told, twice

    busy = 'sum_over_time((clawdbot_requests_in_flight{model="other"} > bool' \
           ' 0)[13s:250ms]) >= 48'
    wait_until("13 seconds of the stream",
               lambda: prometheus.value(busy) is not None)
    assert prometheus.firing() == set()


def test_no_connection_fires(watch):
    gateway, prometheus = watch(f"127.0.0.1:{free_port()}")

    def fires():
        for _ in range(4):
            assert ask(gateway).status_code == 502
        return {"UpstreamUnreachable", "ModelErrorRate"} <= prometheus.firing()

    wait_until("the alerts", fires)
    assert prometheus.firing() <= {"UpstreamUnreachable", "ModelErrorRate"}


def test_a_gateway_that_is_gone_fires(watch):
    gateway, prometheus = watch(f"127.0.0.1:{free_port()}")
    gateway.stop()
    wait_until("the alert", lambda: "TargetMissing" in prometheus.firing())
    assert prometheus.firing() == {"TargetMissing"}
