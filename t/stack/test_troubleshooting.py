"""docs/troubleshooting.md and docs/self-healing.md: what they name is there,
and what they ask has an answer."""

import math
import re

import pytest
import yaml

from boards import boards
from harness import ROOT

DOCS = ROOT / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text()
         for name in ("troubleshooting", "self-healing")}
PAGE = PAGES["troubleshooting"]

QUERIES = re.findall(r"^```promql\n(.+?)\n```$", PAGE, re.M | re.S)


def anchors(path):
    """Of its headings, as GitHub makes them."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", path.read_text(), re.M)}


@pytest.mark.parametrize("name", PAGES)
def test_links(name):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", PAGES[name])
    assert len(links) > 5
    for path, anchor in links:
        target = (DOCS / path).resolve() if path else DOCS / f"{name}.md"
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), (path, anchor)


def test_panels():
    titles = {board.name for board in boards().values()}
    for board in boards().values():
        titles |= {panel["title"] for panel in board.panels}
        titles |= {variable["label"] for variable in board.variables.values()}
    named = {" ".join(title.split()) for title in
             re.findall(r"(?<!\*)\*([^*]+?)\*(?!\*)", PAGE)}
    assert len(named) > 20
    assert not named - titles


def test_each_symptom_has_a_panel_or_a_command():
    for section in PAGE.split("\n## ")[1:]:
        assert re.search(r"\*[A-Z]|`[a-z]+ |http://|\]\(", section), section


@pytest.mark.parametrize("query", QUERIES)
def test_queries(watched, query):
    values = [value for _, value in watched.query(query)]
    assert values and all(math.isfinite(value) for value in values), query


def first_column(page):
    """The words in backquotes in the first column of its tables."""
    return set(re.findall(r"`(\w+)`", " ".join(
        re.findall(r"^\| (`.+?`) \|", page, re.M))))


def test_errors_are_those_of_the_metrics():
    named = first_column(PAGE) - {"error"}
    for row in re.findall(r"^- (`\w+`(?:, `\w+`)*):", PAGE, re.M):
        named |= set(re.findall(r"`(\w+)`", row))
    named -= {"clawdbot"}       # the service
    assert {"bad_token", "reset", "client_abort"} <= named
    assert not named - first_column((DOCS / "metrics.md").read_text())


def test_fields_of_the_log_are_there():
    fields = set(re.findall(r'"(\w+)":', (ROOT / "clawd_log.conf")
                            .read_text()))
    named = set(re.findall(r"`([a-z_]+)`", PAGE.partition("\n## ")[0]))
    named |= set(re.findall(r"`([a-z_]+)` in\s+the\s+log", PAGE))
    named -= {"docker"}         # the folder
    assert {"status", "error", "request_id", "request_time"} <= named
    assert not named - fields


def test_settings_of_self_healing():
    compose = yaml.safe_load((ROOT / "docker/docker-compose.yml").read_text())
    script = (ROOT / "docker/scale_up.sh").read_text()
    rows = re.findall(r"^\| `(SCALE_UP_\w+)` \| (\d+) \|",
                      PAGES["self-healing"], re.M)
    assert sorted(name for name, _ in rows) \
        == sorted(compose["services"]["responder"]["environment"])
    for name, default in rows:
        assert f"${{{name}:-{default}}}" in script


def test_alerts_of_self_healing():
    rules = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml")
                           .read_text())["groups"][0]["rules"]
    named = set(re.findall(r"^\| \[(\w+)\]", PAGES["self-healing"], re.M))
    assert named == {rule["alert"] for rule in rules
                     if rule["labels"].get("selfheal")}
