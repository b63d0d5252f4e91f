"""All of docker-compose.yml together: the gateway from its image, a real Ollama
with a real model, and the files that compose mounts, by the names and in the
order that it has.  Prometheus looks and judges as often as there.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

import httpx
import pytest
import yaml

from boards import boards, fill
from compose import FILES, Service, fresh, read, settings, setup
from harness import ROOT, Ollama, wait_until
from image import Container, Image
from isolated import network
from receivers import RELOAD, RESTART, Engine, Listener
from servers import Prometheus

HOOK = "http://127.0.0.1:8000/hook"
MINUTES = 60

# What Grafana makes of its macros with docker/grafana's data source: four
# scrapes, and what a dashboard shows at first.
RATE_INTERVAL = 60
RANGE = 3600

DATASOURCE, = yaml.safe_load(
    (ROOT / "docker/grafana/provisioning/datasources/clawd.yml").read_text()
)["datasources"]


class Grafana(Prometheus):
    """Asks what the panels ask, where the data source says."""

    def __init__(self):         # no server of its own
        self.url = DATASOURCE["url"].replace("//prometheus:", "//127.0.0.1:")

    def panel(self, board, title, label=None, **variables):
        query = boards()[f"clawd-{board}"].query(title, label)
        return self.query(fill(query.text, RATE_INTERVAL, RANGE,
                               **{"model": "All", "user": "All", **variables}))


class Stack:
    names = ("clawdbot", "ollama", "redis", "prometheus", "alertmanager",
             "responder")

    def __init__(self, folder, image):
        self.folder = folder
        self.image = image
        self.docker = fresh(folder)
        setup(self.docker)
        with open(self.docker / ".env", "a") as env:
            env.write("COMPOSE_PROFILES=selfheal\n")
        self.secrets = self.docker / "secrets"
        (self.secrets / "alert_webhook_url").write_text(f"{HOOK}\n")
        self.variables = settings(self.docker / ".env")
        self.services = read(FILES[0], self.variables)["services"]
        self.hosts = f"127.0.0.1 {' '.join(self.names)}\n"
        self.running = {}
        self.grafana = Grafana()
        self.ends = contextlib.ExitStack()

    def begin(self):
        self.hook = Listener(8000)
        self.ends.callback(self.hook.close)
        self.engine = Engine(self.folder / "docker.sock", self.restart_ollama)
        self.ends.callback(self.engine.close)
        for name in self.order():
            self.ends.callback(self.end, name)
            self.start(name)

    def end(self, name):
        if name in self.running:
            self.running[name].stop()

    def order(self):
        """Those after whom they wait for."""
        found = []

        def visit(name):
            for other in self.services[name].get("depends_on", ()):
                visit(other)
            if name not in found:
                found.append(name)

        for name in self.names:
            visit(name)
        return found

    def start(self, name):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if name == "ollama":
            self.start_ollama(folder)
        elif name == "clawdbot":
            self.start_gateway(folder)
        else:
            self.running[name] = self.start_service(name, folder)

    def start_ollama(self, folder):
        # as in its image: it answers other names than localhost then
        self.running["ollama"] = Ollama(folder, 11434,
                                        OLLAMA_HOST="0.0.0.0:11434")
        _, *check = self.services["ollama"]["healthcheck"]["test"]
        made = pathlib.Path(os.environ["CLAWD_OLLAMA"]) / "bin"
        subprocess.run(check, check=True, capture_output=True, env={
            "PATH": str(made), "HOME": str(folder)})

    def start_gateway(self, folder):
        service = self.services["clawdbot"]
        gateway = self.running["clawdbot"] = Container(
            self.image, folder, hosts=f"127.0.0.1 localhost\n{self.hosts}",
            mounts={f"/run/secrets/{name}": self.secrets / name
                    for name in service["secrets"]}, **service["environment"])
        gateway.wait()

    def start_service(self, name, folder):
        data = folder / "data"
        data.mkdir(exist_ok=True)
        data.chmod(0o777)
        return Service(folder, name, self.services[name], self.secrets,
                       {name: data, "/var/run/docker.sock":
                        self.folder / "docker.sock"},
                       self.hosts, self.variables)

    def restart_ollama(self):
        """What Docker would do."""
        self.running["ollama"].stop()
        self.start("ollama")
        return 204, ""

    def ask(self):
        return httpx.post(
            "http://127.0.0.1:8080/v1/chat/completions", timeout=60,
            headers={"Authorization": "Bearer "
                     + (self.secrets / "clawdbot_token").read_text().strip()},
            json={"model": Ollama.model, "max_tokens": 4, "messages": [
                {"role": "user", "content": "Hi"}]})

    def told(self, name):
        """The status of the next word of that alert at the webhook."""
        while True:
            _, notice = self.hook.next(5 * MINUTES)
            if notice["groupLabels"]["alertname"] == name:
                return notice["status"]


@pytest.fixture(scope="module")
def image():
    image = Image()
    yield image
    image.remove()


@pytest.fixture(scope="module")
def stack(image, tmp_path_factory):
    with network():
        stack = Stack(tmp_path_factory.mktemp("stack"), image)
        with stack.ends:
            stack.begin()
            yield stack


def test_all_targets_are_up(stack):
    jobs = {"clawdbot", "prometheus", "alertmanager"}
    wait_until("the targets", lambda: {
        labels["job"] for labels, value in stack.grafana.query("up")
        if value == 1} == jobs)
    assert stack.grafana.get("alertmanagers")["activeAlertmanagers"] \
        == [{"url": "http://alertmanager:9093/api/v2/alerts"}]


def test_a_question_is_seen_on_the_dashboards(stack):
    """The tutorial of docs/docker.md, with what it says."""
    done = subprocess.run(
        [sys.executable, stack.docker / "examples/test_qwen3_monitor.py",
         "--model", Ollama.model], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert said["status"] == "200"

    wait_until("the request", lambda: [
        value for _, value in stack.grafana.panel("overview", "Requests")] == [
        1])
    tokens = [int(line.split()[2].strip("+,"))
              for line in done.stdout.splitlines()
              if line.startswith("tokens ")]
    assert len(tokens) == 2 and min(tokens) > 0
    assert [value for _, value in stack.grafana.panel("overview", "Tokens")] \
        == [sum(tokens)]
    (_, latency), = stack.grafana.panel("overview", "P95 latency")
    lower, upper = (float(word) for word in
                    done.stdout.partition("in the bucket ")[2].split()[:3:2])
    assert lower <= latency <= upper


def test_an_ollama_that_is_gone_is_healed(stack):
    assert stack.ask().status_code == 200
    stack.running["ollama"].stop()

    def restarted():
        assert stack.engine.asked or stack.ask().status_code == 502
        return stack.engine.asked

    wait_until("the restart", restarted, 5 * MINUTES)
    wait_until("an answer", lambda: stack.ask().status_code == 200)

    assert stack.engine.asked == [RESTART, RELOAD]
    assert "restarting clawdbot-ollama for UpstreamUnreachable (1 of 3" \
        in stack.running["responder"].output.read_text()
    assert stack.told("UpstreamUnreachable") == "firing"
    errors = {labels["error_type"]: value for labels, value in
              stack.grafana.panel("overview", "Errors by type")}
    assert errors["connect"] > 0


def test_a_redis_that_is_gone_is_told(stack):
    stack.running["redis"].stop()
    wait_until("a refusal", lambda: stack.ask().status_code == 503)
    assert stack.told("RedisDown") == "firing"
    assert [value for _, value in
            stack.grafana.panel("overview", "Redis answers")] == [0]

    stack.start("redis")
    wait_until("an answer", lambda: stack.ask().status_code == 200)
