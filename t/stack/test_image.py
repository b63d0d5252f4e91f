"""The image that tools/image.sh builds: what is in it, and that it runs as an
ordinary user, with nothing to write to but three folders."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import httpx
import pytest

from harness import ROOT, Metrics, children, stat, wait_until
from image import API, IMAGE, UID, Container, Image
from isolated import network
from neighbours import CHAT, MODEL, USAGE, WORDS, Ollama, Redis, quoted

TOKEN = "image-test-token"
METRICS = "http://127.0.0.1:9091/metrics"
MEGABYTES_ABOVE_BASE = 60


@pytest.fixture(scope="module")
def image():
    image = Image()
    yield image
    image.remove()


@pytest.fixture(scope="module", autouse=True)
def ports(image):
    with network():
        yield


@pytest.fixture
def ollama():
    server = Ollama()
    yield server
    server.close()


@pytest.fixture
def run(image, tmp_path):
    containers = []

    def run(**options):
        containers.append(Container(
            image, tmp_path, **{"CLAWDBOT_TOKEN": TOKEN, **options}))
        containers[-1].wait()
        return containers[-1]

    yield run

    for container in containers:
        status = container.stop()
        errors = container.output.read_text()
        assert status == 0, errors
        assert "[emerg]" not in errors and "[alert]" not in errors, errors


def size(root):
    """Megabytes on the disk."""
    return int(subprocess.run(["du", "-s", "-B", "1000000", root], check=True,
                              stdout=subprocess.PIPE).stdout.split()[0])


def test_size(image):
    above = size(image.root) - size(image.base)
    print(f"{above} MB above the base of {size(image.base)} MB")
    assert 0 < above <= MEGABYTES_ABOVE_BASE


def test_config(image):
    config = image.config
    assert config["User"] == f"{UID}:{UID}"
    assert config["StopSignal"] == "SIGQUIT"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9091/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/clawd"}
    assert [pair.split("=")[0] for pair in config["Env"]] == ["PATH"]
    assert config["Healthcheck"]["Retries"] > 1

    version = re.search(r'NGX_HTTP_CLAWD_VERSION +"(.+)"', (
        ROOT / "src/metrics/ngx_http_clawd_prometheus.h").read_text())[1]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == version
    assert IMAGE.endswith(f":{version}")
    assert f":{version} ." in (ROOT / "docker/Dockerfile").read_text()
    assert labels["org.opencontainers.image.licenses"] == "BSD-2-Clause"


def test_user(image):
    users = (image.root / "etc/passwd").read_text()
    assert f"clawd:x:{UID}:{UID}:" in users
    for folder in ("run/clawd", "var/lib/clawd"):
        facts = (image.root / folder).stat()
        assert (facts.st_uid, facts.st_gid) == (UID, UID)
        assert facts.st_mode & 0o077 == 0


def packages(root):
    return set(subprocess.run(
        ["dpkg-query", "--admindir", root / "var/lib/dpkg", "-W", "-f",
         "${Package}\n"], check=True, stdout=subprocess.PIPE,
        text=True).stdout.split())


def test_no_tools_of_the_build(image):
    added = packages(image.root) - packages(image.base)
    assert {"nginx", "libjansson4", "tzdata"} <= packages(image.root)
    for name in added:
        assert not re.search(r"-dev$|^(gcc|g\+\+|cpp|make|binutils|dpkg-dev|git"
                             r"|curl|wget|libnginx-mod)", name), name
    for tool in ("gcc", "cc", "c++", "ld", "as", "make", "git", "curl", "wget"):
        for folder in ("bin", "usr/bin", "usr/local/bin"):
            assert not (image.root / folder / tool).exists(), tool
    assert not (image.root / "usr/include/stdio.h").exists()
    assert not list(image.root.glob("clawd*"))


def test_nothing_left_behind(image):
    root = image.root
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "var/log/apt",
                   "etc/nginx/sites-enabled", "etc/nginx/conf.d",
                   "usr/share/man/man1", "tmp"):
        files = [path for path in (root / folder).rglob("*")
                 if path.is_file() and path.name != "lock"]
        assert not files, folder
    assert {path.name for path in (root / "usr/share/doc").rglob("*")
            if path.is_file()} == {"copyright"}
    assert [path.name for path in (root / "usr/lib/nginx/modules").iterdir()] \
        == ["ngx_http_clawd_module.so"]
    assert not (root / "etc/nginx/nginx.conf").exists()
    # of the machine that built it
    assert (root / "etc/apt").is_dir()
    assert not (root / "etc/apt/apt.conf.d/host").exists()


def test_smoke(run, ollama):
    container = run()

    reply = httpx.post(f"{API}/v1/chat/completions", json=CHAT)
    assert reply.status_code == 401
    assert reply.json()["error"]["message"] == "gateway token missing"

    reply = container.chat()
    assert reply.json()["choices"][0]["message"]["content"] == "".join(WORDS)

    reply = container.chat(stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: "))
              for line in reply.text.splitlines()
              if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"]["content"]
                   for event in events) == "".join(WORDS)

    # more than stays in memory
    reply = container.chat(messages=[
        {"role": "user", "content": "x" * 3_000_000}])
    assert reply.status_code == 200

    metrics = Metrics(httpx.get(METRICS).text)
    assert metrics.value("clawdbot_model_request_total", model=MODEL) == 3
    assert metrics.value("clawdbot_tokens_total", model=MODEL,
                         type="completion") == 3 * USAGE["completion_tokens"]
    assert metrics.value("clawdbot_build_info", nginx="1.26.3") == 1

    wait_until("the log", lambda: len(container.log()) >= 4)
    assert [line["status"] for line in container.log()] == [401, 200, 200, 200]
    errors = container.output.read_text()
    warnings = [line for line in errors.splitlines() if "[warn]" in line]
    assert len(warnings) == 1 and "request body is buffered" in warnings[0]
    assert TOKEN not in errors + container.out.read_text()


def test_as_an_ordinary_user(run):
    """Without a capability, and with nothing else to write to."""
    container = run()
    for pid in (container.pid, *children(container.pid)):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert re.search(rf"^Uid:\t{UID}\t{UID}\t{UID}\t{UID}$", status, re.M)
        assert re.search(r"^CapEff:\t0+$", status, re.M)

    for path in ("/x", "/etc/nginx/x", "/usr/local/bin/x", "/var/log/nginx/x"):
        assert container.exec("touch", path).returncode != 0
    for path in ("/run/clawd/x", "/tmp/x", "/var/lib/clawd/x"):
        assert container.exec("touch", path).returncode == 0
    assert container.exec("cat", "/run/clawd/nginx.conf").stdout


def test_health(run):
    """Ollama is away all the time, which is no fault of the gateway."""
    container = run()
    assert container.healthy()
    metrics = Metrics(httpx.get(METRICS).text)
    assert metrics.value("clawdbot_rejected_total") == 0

    workers = children(container.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until("the workers to stop",
               lambda: all(stat(pid)[0] == "T" for pid in workers))
    try:
        assert not container.healthy()
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    wait_until("health", container.healthy)
    assert not container.out.read_text()


def test_health_without_metrics(run):
    container = run(CLAWDBOT_METRICS_ENABLED="false")
    assert container.healthy()
    with pytest.raises(httpx.ConnectError):
        httpx.get(METRICS)


def test_unhealthy_when_nobody_listens(image):
    check = image.config["Healthcheck"]["Test"][1:]
    assert subprocess.run(["chroot", image.root, *check],
                          capture_output=True).returncode != 0


def test_stops_gracefully(run, ollama):
    """A stream that runs comes to its end; nobody new gets in."""
    container = run()
    ollama.flowing.clear()
    with httpx.stream("POST", f"{API}/v1/chat/completions",
                      json={**CHAT, "stream": True}, timeout=30,
                      headers={"Authorization": f"Bearer {TOKEN}"}) as reply:
        lines = reply.iter_lines()
        assert WORDS[0] in next(lines)

        os.kill(container.pid, signal.Signals[
            container.image.config["StopSignal"]])

        def closed():
            try:
                httpx.get(f"{API}/healthz")
            except httpx.TransportError:
                return True
        wait_until("the port to close", closed)
        assert container.process.poll() is None

        ollama.flowing.set()
        rest = list(lines)
    assert WORDS[-1] in "".join(rest)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert container.process.wait(15) == 0
    assert container.log()[-1]["completion_tokens"] \
        == str(USAGE["completion_tokens"])


def test_redis(run, ollama, tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    redis = Redis(folder)
    redis("HSET", "clawd:plan:default", "rpm", "2")
    container = run(
        REDIS_URL=f"redis://clawd:{quoted(Redis.password)}@redis:6379/0")
    wait_until("Redis", lambda: Metrics(httpx.get(METRICS).text).value(
        "clawdbot_redis_up") == 1)

    assert [container.chat().status_code for _ in range(3)] == [200, 200, 429]

    redis.stop()
    wait_until("Redis to be missed",
               lambda: container.chat().status_code == 503)


def mount(tmp_path, text):
    conf = tmp_path / "nginx.conf"
    conf.write_text(text)
    return conf


def test_documented_configuration(image, run, ollama, tmp_path):
    """That of docs/image.md, with its time zone and a second token."""
    text = re.search(r"```nginx\n(.*?)```", (ROOT / "docs/image.md").read_text(),
                     re.S)[1]
    secrets = image.root / "run/secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "alice").write_text("alices-token\n")
    container = run(conf=mount(tmp_path, text), CLAWDBOT_LOG_LEVEL="nonsense")
    assert container.chat("alices-token").status_code == 200
    assert httpx.get(METRICS).status_code == 200
    wait_until("the log", container.log)
    assert container.log()[-1]["user"] == "alice"
    shutil.rmtree(secrets)


def test_example_configuration(run, ollama, tmp_path):
    """nginx.conf.example needs no more changes than docs/image.md says."""
    text = (ROOT / "nginx.conf.example").read_text()
    for here, there in (("127.0.0.1:11434", "ollama:11434"),
                        ("127.0.0.1:9091", "9091"),
                        ("/run/nginx.pid", "/run/clawd/nginx.pid")):
        assert here in text
        text = text.replace(here, there)
    container = run(conf=mount(tmp_path, text))
    assert container.chat().status_code == 200
    wait_until("the log", container.log)


def test_other_commands(image):
    """As "docker run IMAGE COMMAND" gives them."""
    reply = subprocess.run(
        ["chroot", f"--userspec={UID}:{UID}", image.root, "clawd-entrypoint",
         "id", "-u"], capture_output=True, text=True)
    assert reply.stdout == f"{UID}\n"
