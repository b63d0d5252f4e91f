"""Reloads, and Prometheus reading what the gateway counts."""

import subprocess

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics)

from clients import CHAT, openai_client
from harness import Server, free_port, wait_until


def ask(gateway, model, **more):
    return openai_client(gateway).chat.completions.create(
        model=model, **CHAT, max_tokens=6, **more)


def counters(metrics):
    return {key: value for key, value in metrics.samples.items()
            if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}


def test_reload_during_stream(gateway, upstream):
    """The stream goes on and no counter ever falls."""
    ask(gateway, upstream.model)
    before = counters(gateway.metrics())

    stream = openai_client(gateway).chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=200, stream=True,
        stream_options={"include_usage": True})
    for _ in range(3):
        next(stream)
    gateway.reload()
    during = gateway.metrics()
    assert during.value("clawdbot_requests_in_flight") == 1
    second = ask(gateway, upstream.model)
    chunks = list(stream)

    usage = chunks[-1].usage
    assert usage.completion_tokens > 3
    lines = gateway.wait_log(3)
    assert all(line["error"] == "" for line in lines)
    assert sum(int(line["completion_tokens"]) for line in lines) == \
        6 + usage.completion_tokens + second.usage.completion_tokens

    after = gateway.metrics()
    assert after.value("clawdbot_tokens_total", type="completion") == \
        6 + usage.completion_tokens + second.usage.completion_tokens
    assert after.value("clawdbot_requests_in_flight") == 0
    for key, value in before.items():
        assert value <= during.samples[key] <= after.samples[key], key


def test_promtool(gateway, upstream):
    ask(gateway, upstream.model)
    list(ask(gateway, upstream.model, stream=True))
    gateway.wait_log(2)

    check = subprocess.run(["promtool", "check", "metrics"], text=True,
                           input=gateway.metrics().text, capture_output=True)
    assert check.returncode == 0, check.stdout + check.stderr
    assert check.stdout + check.stderr == ""


def test_openmetrics(gateway, upstream):
    ask(gateway, upstream.model)
    line, = gateway.wait_log()

    reply = httpx.get(f"http://127.0.0.1:{gateway.metrics_port}/metrics",
                      headers={"Accept": "application/openmetrics-text"})
    assert reply.headers["content-type"].startswith(
        "application/openmetrics-text")
    samples = [sample for family in parse_openmetrics(reply.text)
               for sample in family.samples]
    assert sum(sample.value for sample in samples
               if sample.name == "clawdbot_tokens_total"
               and sample.labels["type"] == "completion") == 6
    exemplars = [sample.exemplar.labels for sample in samples
                 if sample.exemplar]
    assert line["request_id"] in [value for labels in exemplars
                                  for value in labels.values()]


@pytest.fixture
def prometheus(tmp_path):
    """start(port): a real Prometheus that scrapes it; query(text): a value."""
    class Prometheus:
        server = None

        def start(self, port):
            conf = tmp_path / "prometheus.yml"
            conf.write_text(
                "scrape_configs:\n"
                "  - job_name: clawd\n"
                "    scrape_interval: 1s\n"
                "    static_configs:\n"
                f"      - targets: ['127.0.0.1:{port}']\n")
            self.url = f"http://127.0.0.1:{free_port()}"
            self.server = Server(tmp_path, [
                "prometheus", f"--config.file={conf}",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address={self.url.removeprefix('http://')}"])
            self.server.wait_for(f"{self.url}/-/ready")

        def query(self, text):
            reply = httpx.get(f"{self.url}/api/v1/query",
                              params={"query": text}).json()
            assert reply["status"] == "success", reply
            return [float(item["value"][1])
                    for item in reply["data"]["result"]]

    instance = Prometheus()
    yield instance
    if instance.server:
        instance.server.stop()


def test_prometheus(gateway, upstream, prometheus):
    usage = ask(gateway, upstream.model).usage
    gateway.wait_log()
    prometheus.start(gateway.metrics_port)

    def query(text):
        return prometheus.query(text.replace("MODEL", upstream.model))

    wait_until("a scrape", lambda: query('up{job="clawd"}') == [1])
    assert query('clawdbot_tokens_total{model="MODEL",type="prompt"}') == \
        [usage.prompt_tokens]
    assert query('clawdbot_tokens_total{model="MODEL",type="completion"}') == \
        [usage.completion_tokens]
    assert query('sum(clawdbot_user_tokens_total{user="alice"})') == \
        [usage.total_tokens]

    # the bucket that the only request fell into bounds every quantile
    seconds = query("clawdbot_http_request_duration_seconds_sum")[0]
    quantile = query("histogram_quantile(0.95, "
                     "clawdbot_http_request_duration_seconds_bucket)")[0]
    above = query("clawdbot_http_request_duration_seconds_bucket > 0")
    assert 0 < seconds and 0 < quantile <= 600 and above
