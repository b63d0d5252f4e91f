"""The responder as compose runs it, with an engine of Docker that is ours."""

import concurrent.futures
import re
import socket
import threading

import httpx
import pytest

from compose import FILES, Service, fresh, read, setup
from isolated import network
from receivers import RELOAD, RESTART, Engine

URL = "http://127.0.0.1:9095"
DONE = [RESTART, RELOAD]


@pytest.fixture(scope="module", autouse=True)
def ports():
    with network():
        yield


@pytest.fixture
def engine(tmp_path):
    engine = Engine(tmp_path / "docker.sock")
    yield engine
    engine.close()


class Responder(Service):
    def __init__(self, folder, secrets, **variables):
        self.token = (secrets / "responder_token").read_text().strip()
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        service = read(FILES[0], {"CLAWD_SECRETS": "."})["services"]
        super().__init__(folder, "responder", service["responder"], secrets, {
            "responder": self.state,
            "/var/run/docker.sock": folder / "docker.sock"},
            variables=variables)

    def post(self, content=None, path="/alerts", token=None, **options):
        return httpx.post(
            URL + path, content=content, timeout=60, headers={
                "Authorization": f"Bearer {token or self.token}"}, **options)

    def alert(self, *names, status="firing", **labels):
        """The status of a webhook with these alerts."""
        labels = labels or {"selfheal": "ollama"}
        return self.post(json={
            "version": "4", "status": status, "receiver": "responder",
            "alerts": [{"status": status, "annotations": {},
                        "labels": {"alertname": name, **labels}}
                       for name in names]}).status_code

    def log(self):
        return self.output.read_text()

    def age(self, seconds):
        """As if all attempts were so much earlier."""
        attempts = self.state / "attempts"
        attempts.write_text("".join(
            f"{int(line) - seconds}\n"
            for line in attempts.read_text().split()))


@pytest.fixture
def start(tmp_path, engine):
    docker = fresh(tmp_path)
    setup(docker)
    started = []

    def start(**variables):
        started.append(Responder(tmp_path, docker / "secrets", **variables))
        return started[-1]

    yield start

    for service in started:
        assert service.stop() == 0
        assert service.token not in service.log()
        assert "Traceback" not in service.log()


def test_an_alert_restarts_ollama(start, engine):
    responder = start()
    assert responder.alert("UpstreamSilent", "UpstreamUnreachable",
                           "UpstreamSilent") == 200
    assert engine.asked == DONE
    assert re.search(
        r"^scale_up: restarting clawdbot-ollama for UpstreamSilent"
        r" UpstreamUnreachable \(1 of 3 in an hour\)\n"
        r"scale_up: clawdbot-ollama was restarted in \d+ s$",
        responder.log(), re.M)


@pytest.mark.parametrize("status, labels", [
    ("resolved", {"selfheal": "ollama"}),
    ("firing", {"severity": "critical"}),
    ("firing", {"selfheal": "something"}),
])
def test_other_alerts_do_not(start, engine, status, labels):
    assert start().alert("UpstreamSilent", status=status, **labels) == 200
    assert engine.asked == []


@pytest.mark.parametrize("status, said, options", [
    (401, "wrong token", {"token": "guess", "content": b"{}"}),
    (404, "/alerts", {"path": "/restart", "content": b"{}"}),
    (400, "no webhook", {"content": b"nonsense"}),
    (400, "no webhook", {"content": b"\xff"}),
    (400, "no webhook", {"content": b"[" * 100000}),
    (400, "no webhook", {"content": b"[]"}),
    (400, "no webhook", {"content": b"null"}),
    (400, "no webhook", {"json": {"alerts": [{}]}}),
    (400, "no webhook", {"json": {"alerts": [
        {"status": "firing", "labels": []}]}}),
    (400, "no webhook", {"json": {"alerts": [{"status": "firing", "labels": {
        "selfheal": "ollama", "alertname": "a; reboot"}}]}}),
    (400, "no webhook", {"json": {"alerts": [{"status": "firing", "labels": {
        "selfheal": "ollama", "alertname": "--check"}}]}}),
    (413, "too long", {"content": b" " * ((1 << 20) + 1)}),
    (411, "length", {"content": iter([b"{}"])}),
])
def test_a_bad_request_is_refused(start, engine, status, said, options):
    responder = start()
    reply = responder.post(**options)
    assert reply.status_code == status and said in reply.text
    assert "refused a request from 127.0.0.1: " in responder.log()
    assert engine.asked == []
    assert responder.healthy()


def test_other_paths_are_not_there(start):
    start()
    assert httpx.get(f"{URL}/").status_code == 404
    assert httpx.get(f"{URL}/alerts").status_code == 404
    assert httpx.put(f"{URL}/alerts").status_code == 501


def test_who_sends_nothing_keeps_nobody_waiting(start, engine):
    responder = start()
    with socket.create_connection(("127.0.0.1", 9095)) as silent:
        silent.sendall(b"POST /alerts HTTP/1.1\r\nAuthorization: Bearer "
                       + responder.token.encode()
                       + b"\r\nContent-Length: 100\r\n\r\n{")
        assert responder.alert("UpstreamSilent") == 200
        # and it is left
        silent.settimeout(60)
        assert silent.recv(100) == b""
    assert engine.asked == DONE


def test_not_twice_in_the_interval(start, engine):
    responder = start(SCALE_UP_INTERVAL="500")
    for _ in range(2):
        assert responder.alert("UpstreamSilent") == 200
    assert engine.asked == DONE
    assert "not restarted for UpstreamSilent: the last restart was " \
        in responder.log()
    assert "500 s are to pass" in responder.log()

    responder.age(500)
    assert responder.alert("UpstreamSilent") == 200
    assert engine.asked == DONE * 2


def test_only_so_many_in_an_hour(start, engine):
    responder = start(SCALE_UP_MAX_PER_HOUR="2")
    for _ in range(3):
        assert responder.alert("UpstreamSilent") == 200
        responder.age(400)
    assert engine.asked == DONE * 2
    assert "2 restarts in the last hour are all that may be" \
        in responder.log()

    responder.age(3600 - 2 * 400)
    assert responder.alert("UpstreamSilent") == 200
    assert engine.asked == DONE * 3


def test_a_clock_that_was_wrong_is_forgiven(start, engine):
    responder = start()
    assert responder.alert("UpstreamSilent") == 200
    responder.age(-100000)
    assert responder.alert("UpstreamSilent") == 200
    assert engine.asked == DONE * 2


def test_a_new_responder_remembers(start, engine):
    first = start()
    assert first.alert("UpstreamSilent") == 200
    assert first.stop() == 0
    second = start()
    assert second.alert("UpstreamSilent") == 200
    assert engine.asked == DONE
    assert "the last restart was" in second.log()


def test_two_at_once_are_one(start, engine):
    responder = start(SCALE_UP_INTERVAL="1")
    under_way, go = threading.Event(), threading.Event()

    def restart():
        under_way.set()
        go.wait(60)
        return 204, ""

    engine.restart = restart
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(responder.alert, "UpstreamSilent")
        assert under_way.wait(60)
        assert responder.alert("UpstreamUnreachable") == 200
        go.set()
        assert first.result() == 200
    assert engine.asked == DONE
    assert "not restarted for UpstreamUnreachable: a restart is under way" \
        in responder.log()


@pytest.mark.parametrize("status, text", [
    (404, '{"message": "No such container: clawdbot-ollama"}'),
    (500, '{"message": "cannot restart"}'),
])
def test_what_docker_says_is_told(start, engine, status, text):
    responder = start()
    engine.restart = lambda: (status, text)
    assert responder.alert("UpstreamSilent") == 500
    assert "scale_up: clawdbot-ollama was not restarted: Docker says" \
        f" {status}: {text}\n" in responder.log()

    # it counts
    assert responder.alert("UpstreamSilent") == 200
    assert engine.asked == [RESTART]


def test_a_gateway_that_is_not_told(start, engine):
    responder = start()
    engine.reload = lambda: (409, "it does not run")
    assert responder.alert("UpstreamSilent") == 500
    assert engine.asked == DONE
    assert "scale_up: clawdbot-ollama was restarted, but the gateway was not" \
        " told: Docker says 409: it does not run\n" in responder.log()


def test_a_docker_that_hangs_is_left(start, engine):
    responder = start(SCALE_UP_TIMEOUT="20")
    over = threading.Event()
    engine.restart = lambda: (over.wait(60), (204, ""))[1]
    assert responder.alert("UpstreamSilent") == 500
    over.set()
    assert "was not restarted: no answer of Docker on /var/run/docker.sock" \
        in responder.log()


@pytest.mark.parametrize("text, status", [
    ("", 200), ("{}", 200), ("nonsense", 500), ("[" * 100000, 500)],
    ids=["empty", "more", "nonsense", "deep"])
def test_a_docker_that_is_none(start, engine, text, status):
    engine.restart = lambda: (200, text)
    responder = start()
    assert responder.alert("UpstreamSilent") == status
    assert responder.healthy()


def test_without_docker(start, engine):
    responder = start()
    engine.close()
    assert responder.alert("UpstreamSilent") == 500
    assert "no answer of Docker" in responder.log()
    assert responder.healthy()


@pytest.mark.parametrize("name, least, value", [
    (name, least, value)
    for name, least in (("SCALE_UP_INTERVAL", 1), ("SCALE_UP_MAX_PER_HOUR", 1),
                        ("SCALE_UP_TIMEOUT", 20))
    for value in ("0", "-1", "5m", "1e3", "100000", "007", str(least - 1))])
def test_a_bad_setting_is_told_at_the_start(start, name, least, value):
    with pytest.raises(AssertionError, match=f"{name} is {value}: it takes a"
                                             f" number from {least} to 99999"):
        start(**{name: value})


def test_an_empty_setting_is_none(start, engine):
    assert start(SCALE_UP_INTERVAL="").alert("UpstreamSilent") == 200
    assert engine.asked == DONE


def test_without_a_folder_to_write_to(start, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o555)
    with pytest.raises(AssertionError, match="no folder /var/lib/scale_up"):
        start()
    (tmp_path / "state").chmod(0o755)


def test_without_a_token(start, tmp_path):
    (tmp_path / "docker/secrets/responder_token").write_text("\n")
    with pytest.raises(AssertionError, match="responder_token is empty"):
        start()


def test_by_hand(start, engine):
    responder = start()
    done = responder.run("sh", "/opt/clawd/scale_up.sh")
    assert done.returncode == 0
    assert engine.asked == DONE
    assert "for a user's wish (1 of 3 in an hour)" in done.stderr

    done = responder.run("sh", "/opt/clawd/scale_up.sh", "--check")
    assert done.returncode == 0
    assert engine.asked == DONE
