"""docs/metrics.md against real scrapes, and its queries in a Prometheus."""

import math
import re

import httpx
import pytest
from prometheus_client.openmetrics.parser import \
    text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from harness import ROOT

PAGE = (ROOT / "docs/metrics.md").read_text()

SECTION = re.compile(
    r"^### `(?P<name>\w+)`\n\n"
    r"(?P<type>Counter|Gauge|Histogram)(?:, [^;\n]+)?;(?P<labels>[^.]*)\."
    r"(?P<rest>.*?)"
    r"^```promql\n(?P<query>.+?)\n```$", re.M | re.S)
SECTIONS = {found["name"]: found for found in SECTION.finditer(PAGE)}

# these are there with their first only
TROUBLES = {"ledger_unavailable", "internal", "unavailable", "timeout"}

by_name = pytest.mark.parametrize("name", SECTIONS)


def labels_of(name):
    """The names of the labels, without their values in parentheses."""
    said = re.sub(r"\([^)]*\)", "", SECTIONS[name]["labels"])
    return set(re.findall(r"`(\w+)`", said))


def listed(name):
    """The names in the first column of the section's table, below its head."""
    rows = re.findall(r"^\| (`.+?`) \|", SECTIONS[name]["rest"], re.M)
    return set(re.findall(r"`(\w+)`", " ".join(rows[1:])))


def families(watched, parser, accept):
    """{name as Prometheus has it: (type, label names)}, of both gateways."""
    found = {}
    for gateway in (watched.gateway, watched.shared):
        page = httpx.get(f"http://127.0.0.1:{gateway.metrics_port}/metrics",
                         headers={"Accept": accept}).text
        for family in parser(page):
            if family.samples:
                name = family.name + ("_total" if family.type == "counter"
                                      else "")
                found[name] = (family.type, {
                    label for sample in family.samples
                    for label in sample.labels} - {"le"})
    return found


def test_each_section_is_complete():
    assert set(SECTIONS) == set(re.findall(r"^### `(\w+)`", PAGE, re.M))
    assert len(SECTIONS) == PAGE.count("\n### ") == PAGE.count("```promql")


@pytest.mark.parametrize("parser, accept", [
    (text, "text/plain"),
    (openmetrics, "application/openmetrics-text; version=1.0.0"),
], ids=["text", "openmetrics"])
def test_names_types_and_labels(watched, parser, accept):
    assert families(watched, parser, accept) == {
        name: (found["type"].lower(), labels_of(name))
        for name, found in SECTIONS.items()}


@pytest.mark.parametrize("name, label, late", [
    ("clawdbot_model_error_total", "error_type", set()),
    ("clawdbot_rejected_total", "reason", TROUBLES),
    ("clawdbot_usage_source_total", "source", set()),
    ("clawdbot_redis_errors_total", "class", set()),
])
def test_the_values_of_labels(watched, name, label, late):
    seen = {labels[label] for labels, _ in watched.query(name)}
    assert listed(name) == seen | late


@by_name
def test_a_section_says_when_its_metric_moves(name):
    words = SECTIONS[name]["rest"]
    assert re.search(r"\bmoves\b|\bUp when\b|\bFalls\b|follows|The versions",
                     words, re.I)


@by_name
def test_its_query_is_about_it_and_returns_data(watched, name):
    query = SECTIONS[name]["query"]
    assert name in query
    result = watched.query(query)
    assert any(math.isfinite(value) for _, value in result), result
