"""Alertmanager as compose runs it: who is told of what."""

import itertools
import pathlib
import subprocess
import urllib.parse

import httpx
import pytest
import yaml

from compose import DOCKER, FILES, Service, fresh, read, setup
from harness import cmdline, wait_until
from isolated import network
from receivers import Listener

FILE = DOCKER / "alertmanager/alertmanager.yml"
RULES = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())
URL = "http://127.0.0.1:9093"

HOOK = "http://127.0.0.1:8000/hook?key=s3cr3t&x=a%26b#~(1)*,;$!"
WECOM_SECRET = "wecom-S3cret_0123456789"
WECOM = {"WECOM_CORP_ID": "ww1234", "WECOM_AGENT_ID": "1000002",
         "WECOM_TO_USER": "anna|bob"}


@pytest.fixture(scope="module", autouse=True)
def ports():
    with network():
        yield


class Alertmanager(Service):
    def post(self, **labels):
        """An alert that fires."""
        httpx.post(f"{URL}/api/v2/alerts", json=[{
            "labels": {"job": "clawdbot", "instance": "i", **labels},
            "annotations": {"summary": "It is bad", "description": "7 of 8",
                            "runbook_url": "docs/runbook.md#it"},
        }]).raise_for_status()

    def config(self):
        """What it has read; secrets are hidden in it."""
        status = httpx.get(f"{URL}/api/v2/status").json()
        return yaml.safe_load(status["config"]["original"])

    def route(self, **labels):
        """The receivers of an alert with these labels."""
        return self.run(
            "amtool", "config", "routes", "test",
            "--config.file=/run/alertmanager/alertmanager.yml",
            *(f"{name}={value}" for name, value in labels.items())
        ).stdout.strip().split(",")


@pytest.fixture
def start(tmp_path):
    docker = fresh(tmp_path)
    setup(docker)
    started = []

    def start(webhook="", wecom="", hosts="", **variables):
        secrets = docker / "secrets"
        (secrets / "alert_webhook_url").write_text(webhook)
        (secrets / "wecom_api_secret").write_text(wecom)
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        data.chmod(0o777)
        extra = {name: variables.pop(name) for name in list(variables)
                 if name.startswith("SSL_")}
        service = read(FILES[0], {"CLAWD_SECRETS": "./secrets", **variables}
                       )["services"]["alertmanager"]
        service["environment"].update(extra)
        started.append(Alertmanager(tmp_path, "alertmanager", service, secrets,
                                    {"alertmanager": data}, hosts))
        return started[-1]

    yield start

    for service in started:
        assert service.stop() == 0


def test_amtool_accepts_the_file():
    subprocess.run(["amtool", "check-config", FILE], check=True)


@pytest.mark.parametrize("webhook, wecom, selfheal", list(
    itertools.product((False, True), repeat=3)))
def test_receivers_are_those_that_are_set_up(start, webhook, wecom, selfheal):
    server = start(HOOK + "\n" if webhook else "",
                   WECOM_SECRET + "\n" if wecom else "", **WECOM,
                   COMPOSE_PROFILES="gpu,selfheal" if selfheal else "node")
    config = server.config()

    people, *others = config["receivers"]
    kinds = {"webhook_configs": webhook, "wechat_configs": wecom}
    assert people.keys() == {"name"} | {
        kind for kind, there in kinds.items() if there}
    assert [other["name"] for other in others] == ["responder"] * selfheal
    if wecom:
        told, = people["wechat_configs"]
        assert (told["corp_id"], told["agent_id"], told["to_user"]) \
            == ("ww1234", "1000002", "anna|bob")

    written = server.run("cat", "/run/alertmanager/alertmanager.yml").stdout
    assert "#@" in written or not (webhook or wecom or selfheal)
    assert (f"url: '{HOOK}'" in written) == webhook
    assert (f"api_secret: '{WECOM_SECRET}'" in written) == wecom
    assert not [name for name in ("ALERT_WEBHOOK_URL", "WECOM_")
                if name in written]
    assert server.run("amtool", "check-config",
                      "/run/alertmanager/alertmanager.yml").returncode == 0


def test_nobody_sees_the_secrets(start):
    server = start(HOOK, WECOM_SECRET, **WECOM)
    lines = [cmdline(path.name) for path in pathlib.Path("/proc").glob("[1-9]*")]
    assert any("alertmanager.yml" in line for line in lines)
    lines.append(server.output.read_text())
    assert WECOM_SECRET not in httpx.get(f"{URL}/api/v2/status").text
    for secret in ("s3cr3t", WECOM_SECRET):
        assert not [line for line in lines if secret in line]
    assert server.run("stat", "-c", "%a %U", "/run/alertmanager/"
                      "alertmanager.yml").stdout == "600 nobody\n"
    assert server.run("ls", "/run/alertmanager").stdout == "alertmanager.yml\n"


@pytest.mark.parametrize("given, said", [
    ({"webhook": "ftp://example.org/s3cr3t"}, "must begin with https://"),
    ({"webhook": "https:///s3cr3t"}, "no address of a webhook"),
    ({"webhook": "https://example.org/'s3cr3t"}, "no address of a webhook"),
    ({"webhook": 'https://example.org/"s3cr3t'}, "no address of a webhook"),
    ({"webhook": "https://example.org/\\s3cr3t"}, "no address of a webhook"),
    ({"webhook": "https://a.org/s3cr3t\nhttps://b.org/"},
     "no address of a webhook"),
    ({"wecom": "s3cr3t", "WECOM_AGENT_ID": "1"}, "WECOM_CORP_ID is not set"),
    ({"wecom": "s3cr3t", "WECOM_CORP_ID": "1"}, "WECOM_AGENT_ID is not set"),
    ({"wecom": "s3cr3t'", **WECOM}, "no secret of WeCom"),
    ({"wecom": "s3cr3t", **WECOM, "WECOM_TO_USER": "a'b"},
     "WECOM_TO_USER takes letters"),
])
def test_a_mistake_is_said(start, given, said):
    with pytest.raises(AssertionError) as caught:
        start(**given)
    assert "start.sh: " in str(caught.value) and said in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_routes(start):
    server = start(COMPOSE_PROFILES="selfheal")
    assert server.route(alertname="RedisDown", severity="critical") \
        == ["people"]
    assert server.route(alertname="ModelTimeouts", severity="warning") \
        == ["people"]
    healed = [rule["alert"] for rule in RULES["groups"][0]["rules"]
              if rule["labels"].get("selfheal") == "ollama"]
    assert healed == ["UpstreamUnreachable", "UpstreamSilent"]
    for name in healed:
        assert server.route(alertname=name, severity="critical",
                            selfheal="ollama") == ["responder", "people"]


def test_a_rule_of_ones_own_is_told_as_well(start):
    assert start(COMPOSE_PROFILES="selfheal").route(
        alertname="Own", severity="warning", selfheal="ollama") \
        == ["responder", "people"]


def test_without_selfheal_nobody_else_is_told(start):
    assert start().route(alertname="UpstreamSilent", severity="critical",
                         selfheal="ollama") == ["people"]


def test_inhibitions_name_alerts_that_are_there():
    rules = RULES["groups"][0]["rules"]
    for rule in yaml.safe_load(FILE.read_text())["inhibit_rules"]:
        for matchers in (rule["source_matchers"], rule["target_matchers"]):
            wanted = dict(matcher.replace('"', "").split("=")
                          for matcher in matchers)
            name = wanted.pop("alertname")
            assert [1 for known in rules if known["alert"] == name
                    and wanted.items() <= known["labels"].items()]


@pytest.fixture
def listen():
    started = []

    def listen(*args):
        started.append(Listener(*args))
        return started[-1]

    yield listen

    for listener in started:
        listener.close()


def test_a_webhook_is_told(start, listen):
    hook = listen(8000)
    server = start(HOOK)
    server.post(alertname="RedisDown", severity="critical")

    path, told = hook.next()
    assert path == urllib.parse.urlsplit(HOOK)._replace(
        scheme="", netloc="", fragment="").geturl()
    alert, = told["alerts"]
    assert alert["labels"]["alertname"] == "RedisDown"
    assert alert["status"] == "firing"

    # Nobody is told of that one; the next one shows that its turn has passed.
    server.post(alertname="LedgerDegraded", severity="warning")
    server.post(alertname="SeriesDropped", severity="warning")
    _, told = hook.next()
    assert told["groupLabels"]["alertname"] == "SeriesDropped"
    suppressed = {alert["labels"]["alertname"]
                  for alert in httpx.get(f"{URL}/api/v2/alerts").json()
                  if alert["status"]["inhibitedBy"]}
    assert suppressed == {"LedgerDegraded"}


def test_most_requests_fail_is_told_once(start):
    server = start()
    for model in ("a", "b"):
        server.post(alertname="ModelErrorRate", severity="warning",
                    model=model)
    server.post(alertname="ModelErrorRate", severity="critical", model="a")

    def inhibited():
        return [(alert["labels"]["model"], alert["labels"]["severity"])
                for alert in httpx.get(f"{URL}/api/v2/alerts").json()
                if alert["status"]["inhibitedBy"]]

    wait_until("the inhibition", lambda: inhibited() == [("a", "warning")])


def test_wecom_is_told(start, listen, tmp_path):
    name = "qyapi.weixin.qq.com"
    pair = tmp_path / "pair.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pair, "-out",
         tmp_path / "cert.pem", "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}"], check=True,
        capture_output=True)
    certificate = (tmp_path / "cert.pem").read_text()
    pair.write_text(pair.read_text() + certificate)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/trusted.pem").write_text(certificate)
    wecom = listen(443, pair)
    server = start(wecom=WECOM_SECRET, hosts=f"127.0.0.1 {name}",
                   SSL_CERT_FILE="/alertmanager/trusted.pem", **WECOM)
    server.post(alertname="RedisDown", severity="critical")

    path, _ = wecom.next()
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(path).query) == {
        "corpid": ["ww1234"], "corpsecret": [WECOM_SECRET]}
    path, message = wecom.next()
    assert path.endswith("message/send?access_token=t0ken")
    assert (message["touser"], message["agentid"]) == ("anna|bob", "1000002")
    assert message["text"]["content"].strip() == (
        "[firing] It is bad: 7 of 8 docs/runbook.md#it")
