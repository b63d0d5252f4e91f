"""Starts what the end-to-end tests talk to, and reads what they leave behind.

Everything listens on 127.0.0.1 and free ports, keeps its files in a folder of
its own, and is waited for by state, never by time.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families


ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60

USER_TOKEN = "e2e-user-token-0123456789abcdef"
ADMIN_TOKEN = "e2e-admin-token-0123456789abcdef"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, condition, timeout=PATIENCE):
    """Returns the first true value of condition()."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def answers(url):
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def children(pid):
    """The child processes of pid, whichever of its threads made them."""
    lists = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def stat(pid):
    """Fields of /proc/pid/stat from the state on."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(
        ")")[2].split()


def established(port):
    """How many connections to 127.0.0.1:port are open, seen from the client."""
    remote = f"0100007F:{port:04X}"
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines
               if line.split()[2] == remote and line.split()[3] == "01")


class Server:
    """A process with a log, ended at the latest by stop()."""

    def __init__(self, folder, command, env=None):
        self.folder = folder
        self.output = folder / "output.log"
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], cwd=folder, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})})

    def wait_for(self, url):
        def up():
            assert self.process.poll() is None, self.output.read_text()
            return answers(url)
        wait_until(f"an answer on {url}", up)

    def stop(self, how=signal.SIGTERM):
        """Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Llama(Server):
    """llama.cpp's server with the small model."""

    model = "smollm2"

    def __init__(self, folder):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        super().__init__(folder, [os.environ["CLAWD_MODEL_PYTHON"],
                                  ROOT / "tools/model-server.py",
                                  "--port", self.port, "--threads", "1"])
        self.wait_for(f"http://{self.address}/health")


class Ollama(Server):
    """A real Ollama with a home and models of its own."""

    model = "smollm2:135m"
    other_model = "smollm2-b:135m"

    def __init__(self, folder, port=None, **env):
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        made = pathlib.Path(os.environ["CLAWD_OLLAMA"])
        # blobs never change, so links do; one that starts again has them
        if not (folder / "models").exists():
            shutil.copytree(made / "models", folder / "models",
                            copy_function=link_or_copy)
        super().__init__(folder, [made / "bin/ollama", "serve"], {
            "HOME": str(folder), "OLLAMA_HOST": self.address,
            "OLLAMA_MODELS": str(folder / "models"), **env})
        self.wait_for(f"http://{self.address}/api/version")

    def runners(self):
        return children(self.process.pid)

    def kill_runner(self):
        runners = self.runners()
        assert runners, "no model is loaded"
        for pid in runners:
            os.kill(pid, signal.SIGKILL)

    def runner_ticks(self):
        """Processor time that the runners used, in clock ticks."""
        return sum(int(time) for pid in self.runners()
                   for time in stat(pid)[11:13])

    def load(self, model=None):
        self._generate(model or self.model, keep_alive="10m")

    def unload(self, model=None):
        self._generate(model or self.model, keep_alive=0)
        wait_until("the model to be unloaded", lambda: not self.loaded())

    def loaded(self):
        reply = httpx.get(f"http://{self.address}/api/ps").json()
        return [model["name"] for model in reply["models"]] or self.runners()

    def _generate(self, model, **fields):
        httpx.post(f"http://{self.address}/api/generate", timeout=PATIENCE,
                   json={"model": model, **fields}).raise_for_status()


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def module(folder):
    """The module, copied once per session: a build meanwhile is harmless."""
    copy = folder / "ngx_http_clawd_module.so"
    if not copy.exists():
        shutil.copy(os.environ["CLAWD_MODULE"], copy)
    return copy


CONF = """
{user}
load_module {module};
pid nginx.pid;
error_log error.log info;
worker_processes 2;

events {{
    worker_connections 256;
}}

http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    clawd_zone clawd:16m;
    clawd_token {user_token} user=alice;
    clawd_token {admin_token} user=root role=admin;
    {http}

    include {root}/clawd_log.conf;
    access_log access.log clawd_json;

    upstream model {{
        server {upstream};
        keepalive 8;
    }}

    server {{
        listen 127.0.0.1:{port};
        include {root}/clawd_proxy.conf;
        {directives}

        location / {{
            clawd_pass http://model;
        }}
    }}

    server {{
        listen 127.0.0.1:{metrics_port};
        access_log off;

        location = /metrics {{
            clawd_metrics;
        }}
    }}
}}
"""


class Redis(Server):
    """A real Redis on a socket; commands go through redis-cli."""

    def __init__(self, folder):
        self.socket = folder / "redis.sock"
        super().__init__(folder, ["redis-server", "--port", "0", "--save", "",
                                  "--unixsocket", self.socket])
        wait_until("Redis", lambda: self.socket.exists()
                   and self("PING") == "PONG")

    def __call__(self, *words):
        return subprocess.run(
            ["redis-cli", "-s", self.socket, *map(str, words)],
            capture_output=True, text=True, check=True).stdout.strip()


class Metrics:
    """One scrape."""

    def __init__(self, text):
        self.text = text
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples}

    def value(self, name, **labels):
        """The sum of all series of that name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (key, have), value in self.samples.items()
                   if key == name and wanted <= have)


class Gateway(Server):
    """NGINX with the module in front of one upstream."""

    def __init__(self, folder, upstream, directives="", http=""):
        self.port = free_port()
        self.metrics_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.error_log = folder / "error.log"
        self.access_log = folder / "access.log"
        conf = folder / "nginx.conf"
        conf.write_text(CONF.format(
            user="user root;" if os.getuid() == 0 else "",
            module=module(folder.parent), root=ROOT, upstream=upstream,
            port=self.port, metrics_port=self.metrics_port,
            user_token=USER_TOKEN, admin_token=ADMIN_TOKEN,
            directives=directives, http=http))
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        super().__init__(folder, [nginx, "-e", self.error_log,
                                  "-p", f"{folder}/", "-c", conf,
                                  "-g", "daemon off;"])
        self.wait_for(f"http://127.0.0.1:{self.metrics_port}/metrics")

    def metrics(self):
        reply = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics")
        assert reply.status_code == 200
        return Metrics(reply.text)

    def log(self):
        return [json.loads(line)
                for line in self.access_log.read_text().splitlines()]

    def wait_log(self, count=1):
        """The lines of the access log, exactly so many, once they are there."""
        wait_until(f"{count} log lines", lambda: len(self.log()) >= count)
        lines = self.log()
        assert len(lines) == count, lines
        return lines

    def assert_counted(self, model, prompt, completion, user="alice",
                       source="upstream", count=1):
        """The log's last line and all counters agree with these tokens.

        They are the tokens of all `count` requests so far for the counters,
        and of the only request for the log.  Returns the last line.
        """
        lines = self.wait_log(count)
        assert sum(int(line["prompt_tokens"]) for line in lines) == prompt
        assert (sum(int(line["completion_tokens"]) for line in lines)
                == completion)
        for line in lines:
            assert line["model"] == model
            assert line["user"] == user
            assert line["usage_source"] == source

        metrics = self.metrics()
        for kind, tokens in (("prompt", prompt), ("completion", completion)):
            assert metrics.value("clawdbot_tokens_total", model=model,
                                 type=kind) == tokens
            assert metrics.value("clawdbot_user_tokens_total", user=user,
                                 type=kind) == tokens
        assert metrics.value("clawdbot_model_request_total",
                             model=model) == count
        assert metrics.value("clawdbot_user_requests_total",
                             user=user) == count
        assert metrics.value("clawdbot_usage_source_total",
                             source=source) == count
        assert metrics.value("clawdbot_http_request_duration_seconds_count",
                             model=model) == count
        assert metrics.value("clawdbot_requests_in_flight") == 0
        return lines[-1]

    def assert_failed(self, error_type, count=1):
        """All requests so far ended with that error.  Returns their lines."""
        lines = self.wait_log(count)
        assert [line["error"] for line in lines] == [error_type] * count
        metrics = self.metrics()
        assert metrics.value("clawdbot_model_error_total",
                             error_type=error_type) == count
        assert metrics.value("clawdbot_model_error_total") == count
        assert metrics.value("clawdbot_requests_in_flight") == 0
        return lines

    def reload(self):
        """Returns once new workers serve; old ones may still finish."""
        old = set(children(self.process.pid))
        self.process.send_signal(signal.SIGHUP)
        wait_until("new workers",
                   lambda: len(set(children(self.process.pid)) - old) == 2)
        wait_until("old workers to stop accepting", lambda: all(
            "shutting down" in cmdline(pid) for pid in old if alive(pid)))

    def check(self):
        """Ends NGINX gracefully and judges its error log."""
        status = self.stop(signal.SIGQUIT)
        log = self.error_log.read_text()
        bad = [line for line in log.splitlines()
               if "[alert]" in line or "[emerg]" in line]
        assert not bad, "\n".join(bad)
        assert status == 0


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def alive(pid):
    return cmdline(pid) != ""
