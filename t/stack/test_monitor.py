"""docker/examples/test_qwen3_monitor.py where something is not as it should be;
test_stack.py has it where all is well."""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

import httpx
import pytest

from harness import ROOT, USER_TOKEN, Gateway, free_port, wait_until
from servers import Prometheus
from traffic import MODEL, PROMPT, Upstream

SCRIPT = ROOT / "docker/examples/test_qwen3_monitor.py"

CONF = """
global: {{scrape_interval: 500ms}}
scrape_configs:
- job_name: clawdbot
  static_configs: [targets: ["127.0.0.1:{port}"]]
"""


class Pair:
    def __init__(self, folder):
        self.upstream = Upstream()
        for name in ("gateway", "prometheus"):
            (folder / name).mkdir()
        self.gateway = Gateway(folder / "gateway", self.upstream.address)
        conf = folder / "prometheus.yml"
        conf.write_text(CONF.format(port=self.gateway.metrics_port))
        self.prometheus = Prometheus(folder / "prometheus", conf)
        self.prometheus.wait_value('up{job="clawdbot"}', 1)

    def stop(self):
        self.prometheus.stop()
        self.gateway.check()
        self.upstream.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.stop()


def run(pair, *words, token=USER_TOKEN, **urls):
    """(exit status, what it says)"""
    urls = {"gateway": pair.gateway.url, "prometheus": pair.prometheus.url,
            **urls}
    done = subprocess.run(
        [sys.executable, SCRIPT,
         *(f"--{name}={url}" for name, url in urls.items()), *words],
        capture_output=True, text=True,
        env={**os.environ, "CLAWDBOT_TOKEN": token})
    assert "Traceback" not in done.stderr
    assert USER_TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words, model", [
    ([], MODEL),
    *((["--model", name], name) for name in (
        "hf.co/bartowski/Qwen_Qwen3-0.6B-GGUF:Q4_K_M", "llama3:latest",
        " registry.ollama.ai/library/Llama3", "library/a/b"))])
def test_it_agrees(pair, words, model):
    status, said = run(pair, "--prompt", "7", *words)
    assert status == 0, said
    assert f"model        {model}\nstatus       200\n" in said
    assert "characters   9\n" in said
    assert f"tokens in    +{PROMPT}, as it was\n" in said
    assert "tokens out   +7, as it was\n" in said
    assert re.search(r"in the bucket [\d.]+ to [\d.]+ s, as it was\n", said)
    assert said.endswith("Prometheus has the same\n")


def test_again(pair):
    """Counters that do not begin at 0."""
    for tokens in ("3", "5"):
        status, said = run(pair, "--prompt", tokens, "--model", "again")
        assert status == 0, said
        assert "requests     +1, as it was\n" in said
        assert f"tokens out   +{tokens}, as it was\n" in said


@pytest.mark.parametrize("words, changes, told", [
    ([], {"token": "wrong"}, "is the token that of"),
    (["--prompt", "fail"], {}, "model runner has stopped"),
    (["--prompt", "1"], {"gateway": "http://127.0.0.1:1"},
     "no answer from http://127.0.0.1:1/v1/chat/completions"),
    (["--prompt", "1"], {"prometheus": "http://127.0.0.1:1"},
     "no answer from http://127.0.0.1:1/api/v1/query"),
    (["--prompt", "hang", "--timeout", "1"], {}, "no answer from"),
])
def test_it_says_what_is_wrong(pair, words, changes, told):
    status, said = run(pair, *words, **changes)
    assert status == 1
    assert "FAILED: " in said and told in said


def test_a_prometheus_that_is_none(pair):
    status, said = run(pair, prometheus=pair.gateway.url)
    assert status == 1 and "is that Prometheus?" in said


def test_a_prometheus_of_another_gateway(pair, tmp_path):
    for name in ("other", "prometheus"):
        (tmp_path / name).mkdir()
    other = Gateway(tmp_path / "other", pair.upstream.address)
    conf = tmp_path / "prometheus.yml"
    conf.write_text(CONF.format(port=other.metrics_port))
    prometheus = Prometheus(tmp_path / "prometheus", conf)
    try:
        prometheus.wait_value('up{job="clawdbot"}', 1)
        status, said = run(pair, "--prompt", "1", "--patience", "10",
                           prometheus=prometheus.url)
        assert status == 1
        assert "does it look at the gateway that was asked?" in said
    finally:
        prometheus.stop()
        other.check()


def test_a_prometheus_without_a_gateway(pair, tmp_path):
    conf = tmp_path / "prometheus.yml"
    conf.write_text(CONF.format(port=free_port()))
    prometheus = Prometheus(tmp_path, conf)
    try:
        status, said = run(pair, prometheus=prometheus.url)
        assert status == 1 and "no gateway that is up" in said
    finally:
        prometheus.stop()


def test_what_was_asked_just_before_is_not_meant(pair):
    """As in the tutorial: a question, and at once this script."""
    for _ in range(3):
        httpx.post(f"{pair.gateway.url}/v1/chat/completions", json={
            "model": "before", "messages": [{"role": "user", "content": "3"}]},
            headers={"Authorization": f"Bearer {USER_TOKEN}"}
        ).raise_for_status()
        status, said = run(pair, "--prompt", "5", "--model", "before")
        assert status == 0, said
        assert "requests     +1, as it was\n" in said


def test_others_who_ask_meanwhile(pair):
    """Two whose answers wait for each other are more than one."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(run, pair, "--prompt", "wait", "--model", "busy")
        wait_until("the first", lambda: pair.upstream.waiting == 1)
        second = pool.submit(run, pair, "--prompt", "wait", "--model", "busy")
        wait_until("the second", lambda: pair.upstream.waiting == 2)
        pair.upstream.go.set()
        for status, said in (first.result(), second.result()):
            assert status == 1, said
            assert "others asked that model meanwhile" in said


@pytest.mark.parametrize("given, told", [
    ({}, "set CLAWDBOT_TOKEN"),
    ({"CLAWDBOT_TOKEN": "s3cr3t\r\nX: y"}, "characters that no token has"),
    ({"CLAWDBOT_TOKEN": "s3cr3té"}, "characters that no token has")])
def test_a_token_that_is_none(tmp_path, given, told):
    folder = tmp_path / "docker/examples"
    folder.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items()
                   if name != "CLAWDBOT_TOKEN"}
    done = subprocess.run(
        [sys.executable, shutil.copy(SCRIPT, folder)],
        env={**environment, **given}, capture_output=True, text=True)
    assert done.returncode == 1 and told in done.stderr
    assert "Traceback" not in done.stderr and "s3cr3t" not in done.stderr


@pytest.mark.parametrize("url", ["prometheus", "http://h:abc", "http://",
                                 "ftp://127.0.0.1"])
def test_a_url_that_is_none(pair, url):
    assert run(pair, prometheus=url)[0] == 1
    assert run(pair, gateway=url)[0] == 1
