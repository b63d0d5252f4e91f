"""The compose files, setup.sh, and the Redis that they describe, for real.

There is no container engine here: the files are read as Compose reads them,
and Redis runs in a root of its own that is put together as they say.
"""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import httpx
import pytest
import yaml

import isolated
from boards import boards
from compose import (DOCKER, FILES, Refused, Service, fresh, mounts, read,
                     settings, setup)
from harness import ROOT, Gateway, cmdline, wait_until
from traffic import EARLIER, MODEL, PROMPT, Upstream

PASSWORDS = ["clawdbot_token", "redis_password", "redis_admin_password",
             "grafana_admin_password", "responder_token"]
RECEIVERS = ["alert_webhook_url", "wecom_api_secret"]

DEMO = read(FILES[0], settings(DOCKER / "demo.env"))
COMPOSE = read(FILES[0], {"CLAWD_SECRETS": "./secrets"})
SERVICES = COMPOSE["services"]

each_service = pytest.mark.parametrize("name", SERVICES)


def scalars(value, key=None):
    """All (key, scalar) pairs of a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from scalars(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner, key)
    else:
        yield key, value


def mounted(name, path):
    """The file of the repository that a service has at path."""
    target, source = max(
        (target, source) for source, target, _ in mounts(SERVICES[name])
        if pathlib.PurePath(path).is_relative_to(target))
    return (DOCKER / source / os.path.relpath(path, target)).resolve()


# The files

def test_they_are_of_the_compose_schema():
    subprocess.run([sys.executable, "-m", "check_jsonschema",
                    "--builtin-schema", "vendor.compose-spec",
                    *(DOCKER / name for name in FILES)], check=True)


def test_the_other_file_only_adds_to_services_that_are_there():
    gpu = read("compose.gpu.yml", {})
    assert gpu.keys() == {"services"}
    for name, service in gpu["services"].items():
        assert service.keys() == {"deploy"}
        assert "deploy" not in SERVICES[name]


@each_service
def test_images_are_pinned(name):
    _, tag = SERVICES[name]["image"].rsplit(":", 1)
    assert re.match(r"v?\d+\.\d+", tag), tag


def test_the_gateway_is_built_from_this_repository():
    build = SERVICES["clawdbot"]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT
    dockerfile = (context / build["dockerfile"]).read_text()
    tag = SERVICES["clawdbot"]["image"].removeprefix("clawdbot:")
    assert f'image.version="{tag}"' in dockerfile


def test_what_runs_without_a_profile():
    assert {name for name, service in SERVICES.items()
            if "profiles" not in service} == {
        "clawdbot", "ollama", "redis", "prometheus", "alertmanager",
        "grafana"}
    assert SERVICES["ollama"]["scale"] == "1"
    assert {name: service["profiles"] for name, service in SERVICES.items()
            if "profiles" in service} == {
        "node-exporter": ["node"], "gpu-exporter": ["gpu"],
        "responder": ["selfheal"], "demo-model": ["demo"]}


def published(document):
    return {port for service in document["services"].values()
            for port in service.get("ports", ())}


def test_ports_that_are_published():
    assert published(COMPOSE) == {
        "8080:8080", "127.0.0.1:9091:9091", "127.0.0.1:9090:9090",
        "127.0.0.1:9093:9093", "127.0.0.1:3000:3000"}
    assert published(DEMO) == published(COMPOSE) - {"8080:8080"} | {
        "127.0.0.1:8080:8080"}


@each_service
def test_a_service_may_do_little(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode"}
    for source, target, read_only in mounts(service):
        if source == "/var/run/docker.sock":
            assert name == "responder"
        elif not re.fullmatch(r"[a-z]+", source):
            assert read_only, target


@each_service
def test_a_service_comes_back_and_its_log_has_an_end(name):
    service = SERVICES[name]
    assert service["restart"] == ("on-failure" if name == "demo-model"
                                  else "unless-stopped")
    assert {"max-size", "max-file"} == service["logging"]["options"].keys()


def test_the_gateway_can_write_where_it_must_only():
    service = SERVICES["clawdbot"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/run/clawd:uid=10001,gid=10001,mode=700",
                                "/tmp"]
    assert service["volumes"] == ["clawd:/var/lib/clawd"]


def test_the_gateway_gets_names_that_its_entrypoint_knows():
    known = (DOCKER / "entrypoint.sh").read_text()
    for name in SERVICES["clawdbot"]["environment"]:
        assert name in known


@pytest.mark.parametrize("name, source", [
    (name, source) for name, service in SERVICES.items()
    for source, _, _ in mounts(service) if source.startswith(".")])
def test_what_is_mounted_exists(name, source):
    assert (DOCKER / source).exists()


@pytest.mark.parametrize("name, path", [
    ("prometheus", "/etc/prometheus/prometheus.yml"),
    ("alertmanager", "/etc/alertmanager/start.sh"),
    ("grafana", "/var/lib/grafana/dashboards/clawd-overview.json"),
    ("redis", "/usr/local/etc/redis/redis.conf"),
    ("redis", "/usr/local/etc/redis/start.sh"),
    ("redis", "/usr/local/etc/redis/redis-cli"),
    ("responder", "/opt/clawd/responder/responder.py"),
])
def test_files_that_commands_name_are_mounted(name, path):
    words = [str(value) for _, value in scalars(SERVICES[name])]
    if path.endswith(".conf"):
        words.append(mounted(name, SERVICES[name]["entrypoint"][1])
                     .read_text())
    assert any(path in word for word in words)
    assert mounted(name, path).exists()


def test_volumes_and_secrets_are_declared_and_used():
    used = {source for service in SERVICES.values()
            for source, _, _ in mounts(service)
            if re.fullmatch(r"[a-z]+", source)}
    assert used == set(COMPOSE["volumes"])

    used = {secret for service in SERVICES.values()
            for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    for name, service in SERVICES.items():
        for _, value in scalars(service):
            for path in re.findall(r"/run/secrets/(\w+)", str(value)):
                assert path in service["secrets"], (name, path)


@pytest.mark.parametrize("name, other, how", [
    (name, other, how) for name, service in SERVICES.items()
    for other, how in service.get("depends_on", {}).items()])
def test_who_waits_for_another_waits_for_its_health(name, other, how):
    assert how["condition"] == "service_healthy"
    assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"


def test_the_gateway_can_do_without_the_ollama_of_compose():
    assert SERVICES["clawdbot"]["depends_on"]["ollama"]["required"] is False
    there = {"CLAWD_SECRETS": "./secrets", "OLLAMA_SCALE": "0",
             "OLLAMA_HOST": "http://host.docker.internal:11434"}
    services = read(FILES[0], there)["services"]
    assert services["ollama"]["scale"] == "0"
    environment = services["clawdbot"]["environment"]
    assert environment["OLLAMA_HOST"] == there["OLLAMA_HOST"]
    assert services["clawdbot"]["extra_hosts"] == [
        "host.docker.internal:host-gateway"]


def test_prometheus_keeps_a_week_and_exemplars():
    command = SERVICES["prometheus"]["command"]
    assert "--storage.tsdb.retention.time=7d" in command
    assert "--enable-feature=exemplar-storage" in command
    assert not [word for word in command if "lifecycle" in word]


# Secrets

def test_no_file_has_a_secret():
    known = [(DOCKER / "demo" / name).read_text().strip() for name in PASSWORDS]
    for path in DOCKER.rglob("*"):
        if path.is_dir() or {"demo", "secrets"} & set(path.parts) \
                or path.name in ("demo.env", ".env"):
            continue
        text = path.read_text()
        assert not re.search(r"\b[0-9a-f]{32,}\b|[A-Za-z0-9+/_-]{64,}", text)
        assert not [word for word in known if len(word) > 4 and word in text]
        if path.suffix != ".yml":
            continue
        for document in yaml.safe_load_all(text):
            for key, value in scalars(document):
                if re.search("passw|token|secret|credential|api_key",
                             str(key), re.I) and isinstance(value, str):
                    assert re.search(r"/run/secrets/|^\$\{|^\w+$", value), \
                        (path, key)


def test_grafana_has_no_default_password():
    environment = SERVICES["grafana"]["environment"]
    assert not [name for name in environment
                if "PASSWORD" in name and not name.endswith("__FILE")]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] \
        == "/run/secrets/grafana_admin_password"


@pytest.fixture
def copy(tmp_path):
    return fresh(tmp_path)


def contents(folder):
    return {path.name: path.read_text()
            for path in [folder / ".env", *(folder / "secrets").iterdir()]}


def test_setup_makes_what_compose_needs(copy):
    said = setup(copy)

    made = contents(copy)
    variables = settings(copy / ".env")
    files = {secret["file"] for secret in
             read(FILES[0], variables)["secrets"].values()}
    assert {(copy / file).resolve() for file in files} \
        == set((copy / "secrets").iterdir())
    for name in PASSWORDS:
        password = made.pop(name)
        assert re.fullmatch(r"[0-9a-f]{48}\n", password)
        assert password.strip() not in said
        assert password not in made.values()
    assert {name: made.pop(name) for name in RECEIVERS} \
        == dict.fromkeys(RECEIVERS, "")
    assert made.keys() == {".env"}

    # nobody else gets to the files, which all users of containers can read
    modes = {path: path.stat().st_mode & 0o777
             for path in [copy / "secrets", copy / ".env",
                          *(copy / "secrets").iterdir()]}
    assert modes.pop(copy / "secrets") == 0o700
    assert modes.pop(copy / ".env") == 0o600
    assert set(modes.values()) == {0o644}


def test_setup_changes_nothing_that_is_there(copy):
    setup(copy)
    (copy / ".env").write_text("CLAWD_SECRETS=./secrets\n")
    (copy / "secrets/alert_webhook_url").write_text("https://example.org/")
    before = contents(copy)
    (copy / "secrets/redis_password").unlink()

    setup(copy)

    after = contents(copy)
    assert before.keys() == after.keys()
    assert before.pop("redis_password") != after.pop("redis_password")
    assert before == after


def test_git_keeps_none_of_it():
    for path in ("docker/.env", "docker/secrets/redis_password"):
        subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", path],
                       check=True)


@pytest.mark.parametrize("variables", [{}, {"CLAWD_SECRETS": ""}],
                         ids=["unset", "empty"])
def test_without_setup_compose_names_it(variables):
    with pytest.raises(Refused, match="run docker/setup.sh first"):
        read(FILES[0], variables)


def test_each_line_of_the_settings_is_for_a_variable(copy):
    setup(copy)
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / FILES[0]).read_text()))
    used |= {"COMPOSE_PROFILES", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME"}
    offered = re.findall(r"^#?([A-Z_]+)=", (copy / ".env").read_text(), re.M)
    assert set(offered) <= used
    assert settings(DOCKER / "demo.env").keys() <= used


def test_the_demo():
    variables = settings(DOCKER / "demo.env")
    assert variables["COMPOSE_PROFILES"] == "demo"
    for name, secret in DEMO["secrets"].items():
        text = (DOCKER / secret["file"]).read_text().strip()
        assert bool(text) == (name in PASSWORDS)
    pull = DEMO["services"]["demo-model"]
    assert pull["command"] == ["pull", "qwen3:0.6b"]
    assert pull["image"] == DEMO["services"]["ollama"]["image"]
    # its data are not those of the real one
    assert variables["COMPOSE_PROJECT_NAME"] != COMPOSE["name"]

    text = (DOCKER / "demo.env").read_text()
    for name in ("clawdbot_token", "grafana_admin_password"):
        assert (DOCKER / "demo" / name).read_text().strip() in text


# Redis

class Redis(Service):
    def __call__(self, *words):
        """As the admin, with the command that the docs have."""
        return self.run("redis-cli", *words).stdout.strip()


def as_gateway(secrets, *words):
    """What Redis says to the user clawdbot."""
    result = subprocess.run(
        ["redis-cli", "--user", "clawdbot", *words], text=True,
        capture_output=True, timeout=30, env={
            **os.environ, "REDISCLI_AUTH": (
                secrets / "redis_password").read_text().strip()})
    return result.stdout.strip()


class Ledger:
    """Redis, a gateway with its user, and an upstream."""

    ADDRESS = "10.87.0.2"       # not the loopback: a container comes from one

    def __init__(self, folder):
        copied = fresh(folder)
        setup(copied)
        self.secrets = copied / "secrets"
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        os.chown(self.data, 999, 1000)      # as the image's is
        (folder / "redis").mkdir()
        self.upstream = Upstream()

    def start(self):
        self.redis = Redis(self.folder / "redis", "redis", SERVICES["redis"],
                           self.secrets, {"redis": self.data})

    def start_gateway(self):
        (self.folder / "gateway").mkdir()
        self.gateway = Gateway(
            self.folder / "gateway", self.upstream.address,
            http=f"clawd_redis redis://clawdbot@{self.ADDRESS}:6379/0"
                 f" password=file:{self.secrets}/redis_password;")

    def stop(self):
        self.upstream.close()
        for name in ("gateway", "redis"):
            if hasattr(self, name):
                getattr(self, name).stop()

    def chat(self, token):
        return httpx.post(
            f"{self.gateway.url}/v1/chat/completions", timeout=30,
            headers={"Authorization": f"Bearer {token}"},
            json={"model": MODEL, "messages": [
                {"role": "user", "content": str(EARLIER)}]})

    def used(self):
        return self.redis("HGET", "clawd:{alice}:u:alice", "du")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    with isolated.network():
        subprocess.run(["ip", "address", "add", f"{Ledger.ADDRESS}/32",
                        "dev", "lo"], check=True)
        ledger = Ledger(tmp_path_factory.mktemp("ledger"))
        try:
            ledger.start()
            ledger.start_gateway()
            yield ledger
        finally:
            ledger.stop()


def test_it_writes_to_disk_and_never_evicts(ledger):
    assert [ledger.redis("CONFIG", "GET", name).split("\n")[1:] for name in (
        "appendonly", "appendfsync", "save", "maxmemory-policy", "dir")] == [
        ["yes"], ["everysec"], [], ["noeviction"], ["/data"]]


@pytest.mark.parametrize("user", ["clawdbot", "admin", "default"])
def test_a_wrong_password_and_none_are_refused(ledger, user):
    for words, error in ((["--user", user, "--pass", "", "--no-auth-warning"],
                          "WRONGPASS"), ([], "NOAUTH")):
        said = subprocess.run(["redis-cli", *words, "PING"],
                              capture_output=True, text=True)
        assert error in said.stdout + said.stderr


def test_nobody_sees_the_passwords(ledger):
    passwords = [(ledger.secrets / name).read_bytes().strip()
                 for name in ("redis_password", "redis_admin_password")]
    client = subprocess.Popen(ledger.redis.command("redis-cli", "MONITOR"),
                              stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"OK\n"
        seen = [cmdline(path.name).encode() for path in
                pathlib.Path("/proc").glob("[1-9]*")]
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    assert any(b"redis-cli" in line and b"MONITOR" in line for line in seen)
    seen.append(ledger.redis.output.read_bytes())
    seen.append(ledger.redis.run("cat", "/run/redis/users.acl")
                .stdout.encode())
    assert b"user admin" in seen[-1]
    for password in passwords:
        assert not [line for line in seen if password in line]
    assert ledger.redis.run("stat", "-c", "%a %u", "/run/redis/users.acl"
                            ).stdout == "600 999\n"


def test_the_rights_are_those_of_the_docs():
    documented = re.search(r"ACL SETUSER clawd (reset .*)",
                           (ROOT / "docs/quotas.md").read_text())[1]
    written = re.search(r"^user clawdbot (reset .*)",
                        (DOCKER / "redis/start.sh").read_text(), re.M)[1]
    assert shlex.split(documented.replace(">change-this", "#$gateway")) \
        == written.split()


@pytest.mark.parametrize("words", [
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "ACL LIST",
    "MONITOR", "SHUTDOWN NOSAVE", "SAVE", "CLIENT LIST",
    "HGETALL other:user:alice", "HSET other x 1", "GET clawd:user:alice",
    "HSET clawd:user:alice role admin", "DEL clawd:user:alice",
    "HSET clawd:key:x user alice", "HSET clawd:plan:default rpm 1",
    "EXPIRE clawd:user:alice 1", "SUBSCRIBE other", "PUBLISH other x",
])
def test_the_gateways_user_may_not(ledger, words):
    assert as_gateway(ledger.secrets, *words.split()).startswith("NOPERM")


def test_its_scripts_may_not_either(ledger):
    digest = as_gateway(ledger.secrets, "SCRIPT", "LOAD",
                        "return redis.call('HGETALL', 'other')")
    assert re.fullmatch("[0-9a-f]{40}", digest)
    said = as_gateway(ledger.secrets, "EVALSHA", digest, "0")
    assert "can't" in said or "ACL failure" in said or "NOPERM" in said


SHIM = """#!/bin/sh
# what docs/docker.md calls, on the Redis of this test
[ "$1 $2 $3 $4" = "compose exec -T redis" ] || exit 99
shift 4
cat >/dev/null      # it reads to the end of what it gets
exec {command} "$@"
"""


def blocks(page):
    return re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)


def test_the_admin_does_the_tasks_of_the_docs(ledger, tmp_path):
    """All of docs/quotas.md, with the function of docs/docker.md."""
    page = (ROOT / "docs/docker.md").read_text()
    function = re.search(r"^ *(redis-cli\(\) .*)$", page, re.M)[1]
    script, = re.findall(r'EVAL "\$\(cat near.lua\)" 0', page)
    tasks = [block.replace("--eval near.lua", script)
             for block in blocks((ROOT / "docs/quotas.md").read_text())
             if "curl" not in block]
    assert len(tasks) > 20

    ledger.redis("HSET", "clawd:key:" + 64 * "0", "user", "zoe")
    shim = tmp_path / "docker"
    shim.write_text(SHIM.format(command=shlex.join(ledger.redis.command())))
    shim.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([function, *tasks])],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert len(re.findall("^clawd:key:[0-9a-f]{64} ", done.stdout, re.M)) == 2
    assert not re.search("ERR|NOPERM|NOAUTH|WRONGPASS", done.stdout)


TOKEN = "compose-alice-token-0123456789abcdef"


def test_a_gateway_counts_there_and_a_crash_loses_nothing(ledger):
    redis = ledger.redis
    digest = subprocess.run(["sha256sum"], input=TOKEN, text=True, check=True,
                            capture_output=True).stdout.split()[0]
    redis("ACL", "LOG", "RESET")
    redis("HSET", "clawd:plan:gold", "tokens_per_day", 100000, "rpm", 600,
          "concurrency", 4)
    redis("HSET", "clawd:user:alice", "plan", "gold")
    redis("HSET", f"clawd:key:{digest}", "user", "alice")

    once = PROMPT + EARLIER
    wait_until("the key", lambda: ledger.chat(TOKEN).status_code == 200)
    wait_until("the tokens", lambda: ledger.used() == str(once))

    redis("HSET", "clawd:user:alice", "disabled", 1)
    wait_until("word of the change",
               lambda: ledger.chat(TOKEN).status_code == 401)
    redis("HDEL", "clawd:user:alice", "disabled")
    assert redis("ACL", "LOG") == ""        # of what was refused

    wait_until("Redis to write", lambda: "aof_buffer_length:0" in redis(
        "INFO", "persistence"))
    redis.stop(signal.SIGKILL)
    ledger.start()
    assert ledger.used() == str(once)
    assert ledger.redis("HGET", f"clawd:key:{digest}", "user") == "alice"

    wait_until("the gateway to be back",
               lambda: ledger.chat(TOKEN).status_code == 200)
    wait_until("the tokens", lambda: ledger.used() == str(2 * once))
    assert ledger.gateway.metrics().value(
        "clawdbot_redis_errors_total", **{"class": "auth"}) == 0


def test_without_a_secret_redis_names_the_cure(tmp_path):
    done = subprocess.run(["sh", DOCKER / "redis/start.sh"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode != 0
    assert "docker/setup.sh" in done.stderr


# docs/docker.md

PAGE = (ROOT / "docs/docker.md").read_text()


def test_files_that_the_tutorial_names_exist():
    names = {ROOT / "docs" / link for link in
             re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE)}
    names |= {ROOT / path for path in re.findall(
        r"\b(?:docker|docs|grafana-dashboards|t|tools)/[\w./-]*\w", PAGE)
        if not path.startswith(("docker/.env", "docker/secrets"))}
    assert len(names) > 8
    assert not [str(name) for name in names if not name.exists()]


def test_services_that_the_tutorial_names_exist():
    """The words of each command that are no options."""
    named = set()
    for line in re.findall(r"docker compose (?!-)([a-z].*)", PAGE):
        verb, *words = line.split("`")[0].split()
        words = [word for word in words if re.fullmatch(r"[a-z-]+", word)
                 and not word.startswith("-")]
        named |= set(words[:1] if verb == "exec" else words)
    assert {"clawdbot", "ollama", "redis", "prometheus"} <= named
    assert named <= SERVICES.keys()


def test_panels_that_the_tutorial_names_exist():
    titles = {board.name for board in boards().values()}
    titles |= {panel["title"] for board in boards().values()
               for panel in board.panels}
    named = set(re.findall(r"\*([A-Z][^*\n]+)\*(?!\*)", PAGE))
    assert {"Gateway Overview", "P95 latency"} <= named
    assert named <= titles


def test_the_tutorial_goes_all_the_way():
    steps = ["docker/setup.sh", "docker compose up -d",
             "docker compose exec ollama ollama pull qwen3:32b",
             "docker compose exec ollama ollama pull qwen3:0.6b",
             "curl ", "http://localhost:3000",
             "docker/examples/test_qwen3_monitor.py"]
    places = [PAGE.find(step) for step in steps]
    assert -1 not in places and places == sorted(places)
