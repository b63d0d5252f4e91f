"""docker/entrypoint.sh outside of a container: the environment becomes a
configuration with which a real NGINX serves, or one sentence."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import httpx
import pytest

from harness import ROOT, Metrics, Server, children, wait_until
from isolated import network
from neighbours import (CHAT, MODEL, USAGE, WORDS, Ollama, Redis,
                        quoted)

UID = 10001
TOKEN = "entrypoint-test-token"
ENTRYPOINT = ROOT / "docker/entrypoint.sh"
TEMPLATE = ROOT / "docker/nginx.conf.template"
API = "http://127.0.0.1:8080"
NASTY = ["a;b", "a{b", "a}b", 'a"b', "a'b", "a b", "a\nb", "a|b", "a&b",
         "a\\b", "a$b", "a#b", "$(id)", "`id`", "a\tb", "a\x7fb", "\xe9"]


def output(path):
    """A stream of the container's user, as an engine makes it."""
    file = open(path, "w")
    os.fchown(file.fileno(), UID, UID)
    return file


class Place:
    """The folders of the image, for one test, and of the image's user."""

    def __init__(self, folder):
        self.folder = folder
        self.template = folder / "etc/clawd/nginx.conf.template"
        self.mounted = folder / "etc/nginx/nginx.conf"
        self.run = folder / "run"
        self.state = folder / "state"
        self.conf = self.run / "nginx.conf"
        for path in (self.template.parent, self.mounted.parent, self.run,
                     self.state, folder / "temp"):
            path.mkdir(parents=True)
        for name in ("clawd_log.conf", "clawd_proxy.conf"):
            shutil.copy(ROOT / name, self.mounted.parent)
        shutil.copy(os.environ["CLAWD_MODULE"], folder / "module.so")
        shutil.copy(ENTRYPOINT, folder)
        self.template.write_text(self.here(TEMPLATE.read_text()))
        for path in (self.run, self.state, folder / "temp"):
            os.chown(path, UID, UID)
        folder.chmod(0o755)
        self.env = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "CLAWD_ETC": str(self.template.parent), "CLAWD_RUN": str(self.run),
            "CLAWD_STATE": str(self.state), "OLLAMA_HOST": "127.0.0.1"}

    def here(self, conf):
        """Paths of the image as paths of this folder."""
        temp = "".join(f"{name}_temp_path {self.folder}/temp/{name};\n"
                       for name in ("client_body", "proxy", "fastcgi", "uwsgi",
                                    "scgi"))
        return conf.replace(
            "modules/ngx_http_clawd_module.so", f"{self.folder}/module.so"
        ).replace("/etc/nginx/", f"{self.mounted.parent}/").replace(
            "/etc/ssl/certs/ca-certificates.crt", f"{self.folder}/ca.pem"
        ).replace("http {\n", "http {\n" + temp)

    def secret(self, name, content, owner=UID, mode=0o400):
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        os.chown(path, owner, owner)
        return str(path)

    def popen(self, words, env, **options):
        return subprocess.Popen(
            ["sh", str(self.folder / "entrypoint.sh"), *words],
            env={**self.env, **env}, user=UID, group=UID, extra_groups=[],
            cwd=self.folder, stdin=subprocess.DEVNULL, **options)

    def __call__(self, *words, **env):
        """Runs it to its end; its exit status and what it wrote."""
        with output(self.folder / "out") as out, \
                output(self.folder / "err") as err:
            status = self.popen(words, env, stdout=out, stderr=err).wait(30)
        return (status, (self.folder / "out").read_text(),
                (self.folder / "err").read_text())

    def test(self, **env):
        """Renders, and lets NGINX judge; the configuration and the log."""
        status, out, err = self("nginx", "-t", **env)
        assert status == 0, err
        assert "test is successful" in err
        return self.conf.read_text(), err

    def refused(self, **env):
        """The one sentence."""
        self.conf.unlink(missing_ok=True)
        status, out, err = self(**env)
        assert status == 1, err
        assert not out
        assert not self.conf.exists()
        assert re.fullmatch(r"clawd-entrypoint: [^\n]+\n", err), err
        return err


class Gateway(Server):
    """The entrypoint that became NGINX."""

    def __init__(self, place, **env):
        self.access_log = place.folder / "access.log"
        self.error_log = place.folder / "error.log"
        with output(self.access_log) as out, output(self.error_log) as err:
            self.process = place.popen(
                [], {"CLAWDBOT_TOKEN": TOKEN, **env}, stdout=out, stderr=err)
        self.output = self.error_log

    def chat(self, token=TOKEN, **fields):
        return httpx.post(f"{API}/v1/chat/completions", json={**CHAT, **fields},
                          headers={"Authorization": f"Bearer {token}"})

    def log(self):
        return [json.loads(line)
                for line in self.access_log.read_text().splitlines()]


def certificate(folder):
    """Of localhost, signed by itself; the file with its key, and ca.pem."""
    key, pem, ca = (folder / name for name in ("key.pem", "tls.pem", "ca.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", key, "-out", ca], check=True, capture_output=True)
    pem.write_text(key.read_text() + ca.read_text())
    return pem


@pytest.fixture(scope="module", autouse=True)
def ports():
    with network():
        yield


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="clawd-entrypoint-") as folder:
        yield Place(pathlib.Path(folder))


@pytest.fixture
def ollama():
    server = Ollama()
    yield server
    server.close()


@pytest.fixture
def start(place):
    gateways = []

    def start(**env):
        gateways.append(Gateway(place, **env))
        gateways[-1].wait_for(f"{API}/healthz")
        return gateways[-1]

    yield start

    for gateway in gateways:
        status = gateway.stop(signal.SIGQUIT)
        errors = gateway.error_log.read_text()
        assert status == 0, errors
        assert "[emerg]" not in errors and "[alert]" not in errors, errors


@pytest.fixture
def redis(place):
    server = Redis(place.folder)
    yield server
    server.stop()


def test_serves(place, start, ollama):
    gateway = start()

    assert gateway.chat("another-token").status_code == 401
    assert httpx.post(f"{API}/v1/chat/completions", json=CHAT).json()["error"][
        "message"] == "gateway token missing"

    reply = gateway.chat()
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert "Authorization" not in ollama.seen[-1]
    assert ollama.seen[-1]["Host"] == "127.0.0.1:11434"

    wait_until("three lines", lambda: len(gateway.log()) == 3)
    line = gateway.log()[-1]
    assert (line["user"], line["status"]) == ("admin", 200)
    assert line["prompt_tokens"] == str(USAGE["prompt_tokens"])

    # the ledger of the zone is on
    usage = httpx.get(f"{API}/v1/usage",
                      headers={"Authorization": f"Bearer {TOKEN}"})
    assert usage.status_code == 200

    # neither health checks nor scrapes are requests of users
    metrics = Metrics(httpx.get("http://127.0.0.1:9091/metrics").text)
    assert metrics.value("clawdbot_rejected_total") == 2
    assert metrics.value("clawdbot_model_request_total", model=MODEL) == 1
    wait_until("the fourth line", lambda: len(gateway.log()) >= 4)
    assert len(gateway.log()) == 4
    errors = gateway.error_log.read_text()
    assert "[warn]" not in errors, errors
    assert TOKEN not in errors + gateway.access_log.read_text()


def test_on_all_interfaces(start, ollama):
    start()
    for port, path in ((8080, "healthz"), (9091, "metrics")):
        assert httpx.get(f"http://[::1]:{port}/{path}").status_code == 200
        # any address of this network is the loopback's
        assert httpx.get(f"http://127.9.9.9:{port}/{path}").status_code == 200


def test_without_ipv6(place, start):
    with network(ipv6=False):
        start()
    assert "[::]" not in place.conf.read_text()


def test_metrics_elsewhere(start, ollama):
    start(CLAWDBOT_METRICS_PORT="9900")
    assert httpx.get("http://127.0.0.1:9900/metrics").status_code == 200
    assert httpx.get("http://127.0.0.1:9900/").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://127.0.0.1:9091/metrics")


@pytest.mark.parametrize("value", ["false", "False", "FALSE", "no", "off", "0"])
def test_metrics_disabled(place, value):
    conf, _ = place.test(CLAWDBOT_TOKEN=TOKEN, CLAWDBOT_METRICS_ENABLED=value)
    assert "clawd_metrics" not in conf and "9091" not in conf


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "yes", "on", "1", ""])
def test_metrics_enabled(place, value):
    conf, _ = place.test(CLAWDBOT_TOKEN=TOKEN, CLAWDBOT_METRICS_ENABLED=value)
    assert "clawd_metrics" in conf


@pytest.mark.parametrize("level", ["info", "notice", "warn", "error", "crit",
                                   "alert", "emerg"])
def test_log_level(place, level):
    conf, _ = place.test(CLAWDBOT_TOKEN=TOKEN, CLAWDBOT_LOG_LEVEL=level)
    assert f"error_log        stderr {level};" in conf


def test_debug_level(place):
    """NGINX would show the headers of requests."""
    conf, log = place.test(CLAWDBOT_TOKEN=TOKEN, CLAWDBOT_LOG_LEVEL="debug")
    assert "error_log        stderr info;" in conf
    assert "CLAWDBOT_LOG_LEVEL is info instead of debug" in log


def test_defaults(place):
    """Compose hands over unset variables as empty ones."""
    names = set(re.findall(r"\$\{(CLAWDBOT_\w+):-", ENTRYPOINT.read_text()))
    conf, log = place.test(**{**dict.fromkeys(names, ""), "REDIS_URL": "",
                              "REDIS_PASSWORD_FILE": "",
                              "CLAWDBOT_TOKEN": TOKEN})
    assert "stderr notice;" in conf
    assert "9091" in conf
    assert "clawd_redis" not in conf
    assert "#@" not in conf and not re.search(r"@\w+@", conf)
    assert "clawd-entrypoint: " not in log

    assert "the host ollama is not" in place.refused(
        CLAWDBOT_TOKEN=TOKEN, OLLAMA_HOST="")


@pytest.mark.parametrize("host, scheme, address, header", [
    ("localhost", "http", "localhost:11434", "localhost:11434"),
    ("localhost:8000", "http", "localhost:8000", "localhost:8000"),
    ("http://localhost", "http", "localhost:80", "localhost"),
    ("http://localhost:80/", "http", "localhost:80", "localhost"),
    ("http://localhost:8000", "http", "localhost:8000", "localhost:8000"),
    ("https://localhost", "https", "localhost:443", "localhost"),
    ("https://localhost:8443/", "https", "localhost:8443", "localhost:8443"),
    ("127.0.0.1", "http", "127.0.0.1:11434", "127.0.0.1:11434"),
    ("::1", "http", "[::1]:11434", "[::1]:11434"),
    ("[::1]", "http", "[::1]:11434", "[::1]:11434"),
    ("[::1]:8000", "http", "[::1]:8000", "[::1]:8000"),
    ("http://[::1]", "http", "[::1]:80", "[::1]"),
])
def test_ollama_host(place, host, scheme, address, header):
    certificate(place.folder)
    conf, _ = place.test(CLAWDBOT_TOKEN=TOKEN, OLLAMA_HOST=host)
    assert f"server    {address};" in conf
    assert f"clawd_pass       {scheme}://ollama;" in conf
    assert f"proxy_set_header Host {header};" in conf
    assert ("proxy_ssl_verify" in conf) == (scheme == "https")


def test_https(place, start):
    """Its certificate is checked, for the name of OLLAMA_HOST."""
    server = Ollama(8443, certificate(place.folder))
    start(OLLAMA_HOST="https://localhost:8443").chat().raise_for_status()
    assert server.seen[-1]["Host"] == "localhost:8443"
    server.close()


def test_https_distrusted(place, start):
    server = Ollama(8443, certificate(place.folder))
    certificate(place.folder)
    assert start(OLLAMA_HOST="https://localhost:8443").chat().status_code == 502
    assert not server.seen
    server.close()


@pytest.mark.parametrize("content", [TOKEN, f"{TOKEN}\n", f"{TOKEN}\r\n"])
def test_token_file(place, start, ollama, content):
    path = place.secret("token", content)
    start(CLAWDBOT_TOKEN="", CLAWDBOT_TOKEN_FILE=path).chat().raise_for_status()
    assert TOKEN not in place.conf.read_text()


def test_token_that_looks_like_configuration(place, start, ollama):
    token = """a;b{c}"d'e$f#g\\h|i&j`k"""
    gateway = start(CLAWDBOT_TOKEN=token)
    gateway.chat(token).raise_for_status()
    assert gateway.chat(token[:-1]).status_code == 401


URL = f"redis://clawd:{quoted(Redis.password)}@127.0.0.1:6379/0"


def redis_up():
    page = httpx.get("http://127.0.0.1:9091/metrics").text
    return "clawdbot_redis_up 1" in page


def test_redis(place, start, ollama, redis):
    gateway = start(REDIS_URL=URL)
    wait_until("Redis", redis_up)
    gateway.chat().raise_for_status()
    assert (place.run / "redis.password").read_text() == Redis.password


@pytest.mark.parametrize("password", ["p@ss:word", "a%b"])
def test_redis_password_as_it_is(place, password):
    """Only what would end the password must be quoted, and % itself."""
    env = {"CLAWDBOT_TOKEN": TOKEN,
           "REDIS_URL": f"redis://clawd:{password}@localhost"}
    if "%" in password:
        assert password not in place.refused(**env)
    else:
        place.test(**env)
        assert (place.run / "redis.password").read_text() == password


def test_redis_password_file(place, start, ollama, redis):
    path = place.secret("redis", f"{Redis.password}\n")
    gateway = start(REDIS_URL="redis://clawd@127.0.0.1",
                    REDIS_PASSWORD_FILE=path)
    wait_until("Redis", redis_up)
    gateway.chat().raise_for_status()
    assert set(os.listdir(place.run)) == {"nginx.conf", "nginx.pid"}


def test_redis_away(start, ollama):
    """Nobody gets in without a limit being checked."""
    assert start(REDIS_URL="redis://127.0.0.1").chat().status_code == 503


@pytest.mark.parametrize("url, directive", [
    ("redis://localhost", "redis://localhost:6379"),
    ("redis://localhost/", "redis://localhost:6379"),
    ("redis://localhost:7000/3", "redis://localhost:7000/3"),
    ("redis://:secret@localhost",
     "redis://localhost:6379 password=file:RUN/redis.password"),
    ("redis://me:secret@localhost",
     "redis://me@localhost:6379 password=file:RUN/redis.password"),
    ("redis://[::1]:7000", "redis://[::1]:7000"),
    ("rediss://localhost", "rediss://localhost:6379"),
    ("unix:/run/redis/redis.sock", "unix:/run/redis/redis.sock"),
])
def test_redis_url(place, url, directive):
    conf, _ = place.test(CLAWDBOT_TOKEN=TOKEN, REDIS_URL=url)
    directive = directive.replace("RUN", str(place.run))
    assert f"clawd_redis {directive};" in conf
    assert "secret" not in conf


REFUSALS = [
    ({}, "CLAWDBOT_TOKEN_FILE"),
    ({"CLAWDBOT_TOKEN": "x" * 4097}, "CLAWDBOT_TOKEN holds no token"),
    ({"CLAWDBOT_TOKEN": "hush,hush"}, "CLAWDBOT_TOKEN holds no token"),
    ({"CLAWDBOT_TOKEN": "hush hush"}, "CLAWDBOT_TOKEN holds no token"),
    ({"CLAWDBOT_TOKEN": "hush\n"}, "CLAWDBOT_TOKEN holds no token"),
    ({"CLAWDBOT_TOKEN": "hush", "CLAWDBOT_TOKEN_FILE": "/x"}, "both set"),
    ({"CLAWDBOT_TOKEN_FILE": "token"}, "absolute path"),
    ({"CLAWDBOT_TOKEN_FILE": "/nowhere"}, "there is no file /nowhere"),
    ({"CLAWDBOT_TOKEN_FILE": "/etc"}, "there is no file /etc"),
    ({"CLAWDBOT_TOKEN_FILE": "/etc/shadow"}, "may read"),
    ({"CLAWDBOT_TOKEN_FILE": "/dev/null"}, "there is no file /dev/null"),
    ({"CLAWDBOT_LOG_LEVEL": "loud"}, "CLAWDBOT_LOG_LEVEL takes debug"),
    ({"CLAWDBOT_LOG_LEVEL": "INFO"}, "CLAWDBOT_LOG_LEVEL takes debug"),
    ({"CLAWDBOT_METRICS_ENABLED": "maybe"},
     "CLAWDBOT_METRICS_ENABLED takes true or false"),
    *(({"CLAWDBOT_METRICS_PORT": port}, "CLAWDBOT_METRICS_PORT takes a port")
      for port in ("0", "8080", "65536", "-1", "1e3", "09091", "999999",
                   "http", "9091 9092")),
    ({"CLAWDBOT_METRICS_PORT": "x", "CLAWDBOT_METRICS_ENABLED": "false"},
     "CLAWDBOT_METRICS_PORT takes a port"),
    ({"CLAWDBOT_TOKENS": "hush"}, "CLAWDBOT_TOKENS is no variable"),
    ({"CLAWDBOT_": "hush"}, "CLAWDBOT_ is no variable"),
    ({"OLLAMA_HOST": "0.0.0.0"}, "OLLAMA_HOST is where a server listens"),
    ({"OLLAMA_HOST": "http://[::]:11434"}, "where a server listens"),
    ({"OLLAMA_HOST": ":11434"}, "OLLAMA_HOST has no host"),
    ({"OLLAMA_HOST": "http://"}, "OLLAMA_HOST has no host"),
    ({"OLLAMA_HOST": "--help"}, "OLLAMA_HOST has no host"),
    ({"OLLAMA_HOST": "[localhost]"}, "OLLAMA_HOST has no host"),
    ({"OLLAMA_HOST": "localhost:port"}, "OLLAMA_HOST has no port"),
    ({"OLLAMA_HOST": "localhost:0"}, "OLLAMA_HOST has no port"),
    ({"OLLAMA_HOST": "http://localhost/ollama"}, "OLLAMA_HOST has no host"),
    ({"OLLAMA_HOST": "http://me:hush@localhost"}, "OLLAMA_HOST has no port"),
    ({"OLLAMA_HOST": "ftp://localhost"}, "OLLAMA_HOST has no port"),
    ({"OLLAMA_HOST": "nobody.invalid"},
     "OLLAMA_HOST: the host nobody.invalid is not known"),
    ({"REDIS_URL": "localhost:6379"}, "REDIS_URL is no address"),
    ({"REDIS_URL": "hush@localhost"}, "REDIS_URL is no address"),
    ({"REDIS_URL": "redis://"}, "REDIS_URL has no host"),
    ({"REDIS_URL": "redis://:hush@"}, "REDIS_URL has no host"),
    ({"REDIS_URL": "redis://localhost:x"}, "REDIS_URL has no port"),
    ({"REDIS_URL": "redis://localhost/x"}, "REDIS_URL has no number"),
    ({"REDIS_URL": "redis://localhost/0?a=b"}, "REDIS_URL has no number"),
    ({"REDIS_URL": "redis://nobody.invalid"},
     "REDIS_URL: the host nobody.invalid is not known"),
    ({"REDIS_URL": "redis://me@localhost"}, "a user without a password"),
    ({"REDIS_URL": "redis://me:hush/hush@localhost"}, "write it as %2F"),
    ({"REDIS_URL": "redis://me:hush hush@localhost"}, "REDIS_URL has a space"),
    ({"REDIS_URL": "redis://me:hush%@localhost"}, "REDIS_URL has a %"),
    ({"REDIS_URL": "redis://me:hush%4@localhost"}, "REDIS_URL has a %"),
    ({"REDIS_URL": "redis://me:hush%4x@localhost"}, "REDIS_URL has a %"),
    ({"REDIS_URL": "redis://me:hush%0Ahush@localhost"}, "a control character"),
    ({"REDIS_URL": "redis://me:hush%00@localhost"}, "a control character"),
    ({"REDIS_URL": "redis://m;e:hush@localhost"}, "REDIS_URL has a user"),
    ({"REDIS_URL": "unix:redis.sock"}, "an absolute path"),
    ({"REDIS_PASSWORD_FILE": "/hush"}, "without REDIS_URL"),
    ({"REDIS_URL": "redis://:hush@localhost", "REDIS_PASSWORD_FILE": "/x"},
     "remove one"),
    ({"REDIS_URL": "redis://localhost", "REDIS_PASSWORD_FILE": "/nowhere"},
     "REDIS_PASSWORD_FILE: there is no file"),
]


@pytest.mark.parametrize("env, sentence", REFUSALS)
def test_refuses(place, env, sentence):
    names = {"CLAWDBOT_TOKEN", "CLAWDBOT_TOKEN_FILE"}
    if env and not names & set(env):
        env = {"CLAWDBOT_TOKEN": "hush", **env}
    said = place.refused(**env)
    assert sentence in said
    assert "hush" not in said.replace("no file /hush", "")


@pytest.mark.parametrize("name", ["CLAWDBOT_TOKEN_FILE", "REDIS_PASSWORD_FILE"])
def test_empty_secret(place, name):
    env = {"CLAWDBOT_TOKEN": TOKEN, "REDIS_URL": "redis://localhost"}
    if name == "CLAWDBOT_TOKEN_FILE":
        del env["CLAWDBOT_TOKEN"]
    said = place.refused(**env, **{name: place.secret("secret", "")})
    assert name in said and "is empty" in said

    said = place.refused(**env, **{name: place.secret("secret", "hush", 0)})
    assert name in said and f"user {UID} may read" in said


@pytest.mark.parametrize("value", NASTY)
def test_injections(place, value):
    """No such value gets into the configuration; none is shown, either."""
    for env in ({"CLAWDBOT_LOG_LEVEL": value}, {"CLAWDBOT_METRICS_PORT": value},
                {"CLAWDBOT_METRICS_ENABLED": value},
                {"CLAWDBOT_TOKEN": "", "CLAWDBOT_TOKEN_FILE": f"/{value}"},
                {"OLLAMA_HOST": value}, {"OLLAMA_HOST": f"localhost:{value}"},
                {"OLLAMA_HOST": f"https://{value}"}, {"OLLAMA_HOST": f"[{value}]"},
                {"REDIS_URL": value}, {"REDIS_URL": f"redis://{value}"},
                {"REDIS_URL": f"redis://localhost:{value}"},
                {"REDIS_URL": f"redis://localhost/{value}"},
                {"REDIS_URL": f"redis://{value}:x@localhost"},
                {"REDIS_URL": f"unix:/{value}"},
                {"REDIS_URL": "redis://localhost",
                 "REDIS_PASSWORD_FILE": f"/{value}"}):
        said = place.refused(**{"CLAWDBOT_TOKEN": TOKEN, **env})
        assert value not in said


@pytest.mark.parametrize("names", [
    ["CLAWDBOT_QUEUE_MAX_SIZE"], ["CLAWDBOT_RESPONSE_HEADERS"],
    ["CLAWDBOT_QUEUE_MAX_SIZE", "CLAWDBOT_RESPONSE_HEADERS"]])
def test_for_later(place, names):
    _, log = place.test(CLAWDBOT_TOKEN=TOKEN, **dict.fromkeys(names, "10"))
    assert re.findall("clawd-entrypoint: .*", log) == [
        f"clawd-entrypoint: without effect in this version: {', '.join(names)}"]


@pytest.mark.parametrize("folder", ["run", "state"])
def test_folders_that_cannot_be_written(place, folder):
    path = place.folder / folder
    os.chown(path, 0, 0)
    said = place.refused(CLAWDBOT_TOKEN=TOKEN)
    assert str(path) in said and f"user {UID}" in said and "mount" in said


def test_mounted_configuration_wins(place, start):
    """Also over an environment that would be refused."""
    place.mounted.write_text(place.here(
        f"pid {place.run}/nginx.pid; events {{ }}\n"
        "http {\n access_log off;\n"
        "server { listen 8080; location / { return 200 mine; } } }"))
    gateway = start(CLAWDBOT_TOKEN="", CLAWDBOT_NONSENSE="1",
                    OLLAMA_HOST="nobody.invalid")
    assert httpx.get(API).text == "mine"
    assert not place.conf.exists()
    assert f"{place.mounted} is used as it is" in gateway.error_log.read_text()


def test_other_commands(place):
    assert place("sh", "-c", "echo $0 $1", "a b") == (0, "a b\n", "")
    assert place("false")[0] == 1


def test_secrets(place, start, ollama, redis):
    """None in an argument of any process, a file that others may read, what
    is printed, or the environment that NGINX keeps."""
    log = place.secret("arguments", "", mode=0o600)
    bin = place.folder / "bin"
    bin.mkdir()
    # whatever the entrypoint calls is found here alone
    for path in {file for folder in ("/usr/bin", "/bin", "/usr/sbin")
                 for file in pathlib.Path(folder).iterdir()}:
        shim = bin / path.name
        shim.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$0 $*\" >>{log}\n"
                        f'exec {path} "$@"\n')
        shim.chmod(0o755)

    gateway = start(PATH=str(bin), REDIS_URL=URL, CLAWDBOT_LOG_LEVEL="debug")
    wait_until("Redis", redis_up)
    gateway.chat().raise_for_status()

    secrets = (TOKEN, Redis.password, quoted(Redis.password))
    processes = [gateway.process.pid, *children(gateway.process.pid)]
    seen = {
        "arguments": pathlib.Path(log).read_text(),
        "process list": "".join(
            pathlib.Path(f"/proc/{pid}/cmdline").read_text()
            for pid in processes),
        "configuration": place.conf.read_text(),
        "log": gateway.error_log.read_text(),
        "access log": gateway.access_log.read_text(),
    }
    assert "/nginx " in seen["arguments"] and "/sed " in seen["arguments"]
    for where, text in seen.items():
        for secret in secrets:
            assert secret not in text, where

    environment = pathlib.Path(
        f"/proc/{gateway.process.pid}/environ").read_text()
    assert "REDIS_URL" not in environment
    for path in place.run.iterdir():
        if path.name != "nginx.pid":
            assert path.stat().st_mode & 0o077 == 0, path


def test_hangup_reads_the_token_again(place, start, ollama):
    path = place.secret("token", TOKEN)
    gateway = start(CLAWDBOT_TOKEN="", CLAWDBOT_TOKEN_FILE=path)
    assert gateway.chat("a-new-one").status_code == 401
    place.secret("token", "a-new-one")
    gateway.process.send_signal(signal.SIGHUP)
    wait_until("the new token",
               lambda: gateway.chat("a-new-one").status_code == 200)


def test_documented_variables():
    """The table of docs/image.md has what the entrypoint reads."""
    read = set(re.findall(r"\$\{((?:CLAWDBOT|OLLAMA|REDIS)_\w+):-",
                          ENTRYPOINT.read_text()))
    known = set(re.findall(r"CLAWDBOT_[A-Z_]+(?= \||\))",
                           ENTRYPOINT.read_text()))
    table = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/image.md").read_text(),
                           re.M))
    assert read == table
    assert known == {name for name in read if name.startswith("CLAWDBOT")}
