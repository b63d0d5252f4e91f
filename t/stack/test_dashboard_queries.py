"""Every query of every panel, against a real Prometheus and real gateways."""

import math

import pytest

from boards import boards, fill
from traffic import (ANSWERS, BOB, EARLIER, MODEL, OTHER_MODEL, PROMPT, RANGE,
                     SECONDS, TOKENS, WINDOW)

BOARDS = boards()
OVERVIEW, MODELS, USERS = (BOARDS[f"clawd-{name}"]
                           for name in ("overview", "models", "users"))

QUERIES = [pytest.param(query, id=query.name)
           for board in BOARDS.values() for query in board.queries()]
EXEMPLARS = [pytest.param(query, id=query.name)
             for board in BOARDS.values() for query in board.queries()
             if query.exemplar]

CHOICES = {"all": {"model": "All", "user": "All"},
           "some": {"model": [MODEL, OTHER_MODEL], "user": ["alice", BOB]}}


def filled(query, **variables):
    return fill(query.text, WINDOW, RANGE,
                **{"model": "All", "user": "All", **variables})


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_returns_data(watched, query, choice):
    text = filled(query, **choice)
    if query.instant:
        values = [value for _, value in watched.query(text)]
    else:
        values = [value for _, series in watched.over_time(text)
                  for value in series]

    assert values, text
    assert all(math.isfinite(value) for value in values), values


@pytest.mark.parametrize("query", EXEMPLARS)
def test_exemplars_are_found(watched, query):
    found = watched.prometheus.get("query_exemplars", query=filled(query),
                                   start=watched.at - RANGE, end=watched.at)
    assert any("request_id" in exemplar["labels"]
               for series in found for exemplar in series["exemplars"])


@pytest.mark.parametrize("board, name, values", [
    (OVERVIEW, "model", {MODEL, OTHER_MODEL, "other"}),
    (MODELS, "model", {MODEL, OTHER_MODEL, "other"}),
    (USERS, "user", {"alice", BOB, "carol", "other"}),
])
def test_variables_offer_what_there_is(watched, board, name, values):
    query = board.variables[name]["query"]
    metric, _, label = query.removeprefix("label_values(").removesuffix(
        ")").partition(", ")
    assert label == name
    assert set(watched.prometheus.get(f"label/{label}/values",
                                      **{"match[]": metric})) == values


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_alerts_are_annotations(watched, board):
    annotation, = board.json["annotations"]["list"]
    assert [labels for labels, _ in watched.query(annotation["expr"])] == [
        {"alertname": "Always", "severity": "info"}]


# What was asked is what is shown

def one(watched, query, **variables):
    (_, value), = watched.query(filled(query, **variables))
    return value


def by(watched, query, *labels, **variables):
    """{(label, ...): value}, of those that are not 0."""
    return {tuple(have[label] for label in labels): value
            for have, value in watched.query(filled(query, **variables))
            if value}


def highest(watched, query, label, **variables):
    """{label: the highest value over time}, of those that are not 0."""
    return {labels[label]: max(values)
            for labels, values in watched.over_time(
                filled(query, **variables)) if any(values)}


def test_three_requests_with_86_tokens(watched):
    assert one(watched, OVERVIEW.query("Requests"), model=[MODEL]) == 3
    assert one(watched, OVERVIEW.query("Tokens"), model=[MODEL]) == 86

    def of_model(column):
        return by(watched, MODELS.query("Models", column), "model")[MODEL,]

    assert of_model("Requests") == 3
    assert of_model("Prompt tokens") == 3 * PROMPT
    assert of_model("Completion tokens") == sum(ANSWERS)


def test_they_took_3_27_seconds(watched):
    took = [line["request_time"] for line in watched.gateway.log()
            if line["model"] == MODEL]
    assert len(took) == 3 and sum(took) >= 3 * SECONDS

    series, = watched.over_time(filled(
        OVERVIEW.query("Where the time goes", "whole request"),
        model=[MODEL]))
    # the first of these requests made the series, and is not lost
    assert max(series[1]) * 3 == pytest.approx(sum(took), abs=0.01)

    p95 = by(watched, MODELS.query("Models", "P95"), "model")[MODEL,]
    assert 1 <= p95 <= 1.5      # the bucket that they are in


def test_one_time_out(watched):
    cells = highest(watched, OVERVIEW.query("Errors by type"), "error_type")
    assert set(cells) == {"timeout", "quota", "upstream_5xx"}
    # one in a window, a minute
    assert cells["timeout"] >= 60 / WINDOW
    # the timed-out model never answered: it is "other", and all it has failed
    assert by(watched, MODELS.query("Models", "Errors"),
              "model")["other",] == 1


def test_one_429(watched):
    assert by(watched, USERS.query("Users", "Refused"),
              "user") == {(BOB,): 1}
    reasons = highest(watched, OVERVIEW.query("Refused by reason"), "reason")
    assert set(reasons) == {"rpm", "bad_token", "invalid_record"}
    assert set(highest(watched, USERS.query("Refused by limit"),
                       "reason")) == {"rpm"}
    assert set(highest(watched, USERS.query("Refused for token or rights"),
                       "reason")) == {"bad_token", "invalid_record"}
    assert set(highest(watched, USERS.query("Dry run"), "limit")) == {"rpm"}


def test_all_that_was_asked(watched):
    assert one(watched, OVERVIEW.query("Requests")) == 10
    assert one(watched, OVERVIEW.query("Error rate")) == 3 / 10
    assert one(watched, OVERVIEW.query("Refused")) == 3
    assert one(watched, OVERVIEW.query("In flight")) == 0
    assert one(watched, OVERVIEW.query("Redis")) == 1
    assert by(watched, USERS.query("Users", "Requests"), "user") == {
        ("alice",): 5, (BOB,): 3, ("carol",): 2}
    assert by(watched, USERS.query("Users", "Tokens"), "user") == {
        ("alice",): TOKENS, (BOB,): 2 * (PROMPT + 5),
        ("carol",): 2 * PROMPT + 7 + 6}


def test_used_against_limit(watched):
    def table(column):
        return by(watched, USERS.query("Used against limit", column),
                  "user", "limit")

    allowed = table("Allowed")
    assert {key: value for key, value in allowed.items()
            if key[0] in (BOB, "carol")} == {
        (BOB, "rpm"): 1, (BOB, "tokens_per_month"): 1000000,
        (BOB, "tokens_per_day"): 1000000, (BOB, "concurrency"): 8,
        ("carol", "rpm"): 100, ("carol", "tokens_per_day"): 50000}
    used = table("Used")
    assert used["carol", "tokens_per_day"] == 3 * PROMPT + EARLIER + 7 + 6
    assert table("Share") == {key: value / allowed[key]
                              for key, value in used.items()}
