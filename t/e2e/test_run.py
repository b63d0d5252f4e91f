"""tools/run.sh as a newcomer uses it: what it prints works, nothing stays."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import httpx
import pytest

from harness import PATIENCE, ROOT, Metrics, free_port, stat, wait_until


class Run:
    """tools/run.sh in a session of its own, as in a terminal."""

    def __init__(self, folder, **env):
        self.port, self.metrics_port = free_port(), free_port()
        self.folder = folder
        self.output = folder / "output"
        self.folder_of_run = ROOT / "build/run" / str(self.port)
        env = {"CLAWD_PORT": str(self.port), "TMPDIR": str(folder),
               "CLAWDBOT_METRICS_PORT": str(self.metrics_port), **env}
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen(
                [ROOT / "tools/run.sh"], env={**os.environ, **env},
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def text(self):
        return self.output.read_text()

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, self.text()
            return "Ctrl-C stops everything" in self.text()
        wait_until("make run to be ready", ready, timeout=4 * PATIENCE)

    def printed(self, pattern):
        found = re.search(pattern, self.text(), re.M | re.S)
        assert found, self.text()
        return found.group(1)

    def members(self):
        """Processes of the session, run.sh's or not."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            pid = int(path.parent.name)
            try:
                fields = stat(pid)
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(pid)
        return found

    def assert_stops(self):
        assert self.process.wait(timeout=15) == 0, self.text()
        assert self.members() == []
        assert list(self.folder.glob("clawd.*")) == []
        for port in (self.port, self.metrics_port):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/")
        log = (self.folder_of_run / "error.log").read_text()
        assert "[alert]" not in log and "[emerg]" not in log


@pytest.fixture
def start_run(tmp_path):
    runs = []

    def start(**env):
        runs.append(Run(tmp_path, **env))
        return runs[-1]

    yield start

    for run in runs:
        for pid in run.members():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()


def counted(run):
    """Prompt and completion tokens on /metrics and in the log, as one."""
    command = run.printed(r"^metrics: (curl [^\n]*)")
    metrics = Metrics(subprocess.check_output(["bash", "-c", command],
                                              text=True,
                                              stderr=subprocess.DEVNULL))
    log = pathlib.Path(run.printed(r"^log:     ([^,\n]*)"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    both = []
    for kind in ("prompt", "completion"):
        tokens = sum(int(line[f"{kind}_tokens"] or 0) for line in lines)
        assert metrics.value("clawdbot_tokens_total", type=kind) == tokens
        both.append(tokens)
    return both


def try_what_is_printed(run):
    curl = run.printed(r"^curl:    (curl [^\n]*)")
    reply = json.loads(subprocess.check_output(
        ["bash", "-c", curl], stderr=subprocess.DEVNULL, timeout=PATIENCE))
    assert reply["choices"][0]["message"]["content"]

    example = run.printed(r"^(from openai .*?)\n\n")
    assert len(example.splitlines()) == 5
    answer = subprocess.check_output([sys.executable, "-c", example],
                                     text=True, timeout=PATIENCE)
    usage = {name: int(value) for name, value in
             re.findall(r"(\w+_tokens)=(\d+)", answer)}

    wait_until("both to be counted", lambda: counted(run) == [
        reply["usage"]["prompt_tokens"] + usage["prompt_tokens"],
        reply["usage"]["completion_tokens"] + usage["completion_tokens"]])


def test_small_model(start_run):
    """Nothing answers at OLLAMA_HOST; Ctrl-C reaches the whole session."""
    run = start_run(OLLAMA_HOST=f"127.0.0.1:{free_port()}")
    run.wait_ready()
    assert len(run.printed(r"^token:   (\S+)")) >= 32
    try_what_is_printed(run)

    os.killpg(run.process.pid, signal.SIGINT)
    run.assert_stops()


def test_ollama(start_run, ollama):
    """In front of an Ollama, with a token of the environment; TERM ends it."""
    run = start_run(OLLAMA_HOST=ollama.address, CLAWDBOT_TOKEN="chosen-by-me")
    run.wait_ready()
    assert run.printed(r"^token:   (\S+)") == "chosen-by-me"
    assert ollama.address in run.text()
    try_what_is_printed(run)

    run.process.send_signal(signal.SIGTERM)
    run.assert_stops()


def test_killed(start_run, ollama):
    """Even kill -9 leaves nothing running."""
    run = start_run(OLLAMA_HOST=ollama.address)
    run.wait_ready()
    run.process.kill()
    run.process.wait()
    wait_until("all processes to end", lambda: run.members() == [])


def test_busy_port(start_run, ollama):
    run = start_run(CLAWD_PORT=str(ollama.port))
    assert run.process.wait(timeout=PATIENCE) != 0
    sentence, = run.text().splitlines()
    assert f"port {ollama.port} is busy" in sentence


def test_server_dies(start_run, ollama):
    """When NGINX ends by itself so does the script, with a reason."""
    run = start_run(OLLAMA_HOST=ollama.address)
    run.wait_ready()
    os.kill(int((run.folder_of_run / "nginx.pid").read_text()),
            signal.SIGTERM)
    assert run.process.wait(timeout=15) != 0
    assert "ended by itself" in run.text().splitlines()[-1]
    assert run.members() == []
