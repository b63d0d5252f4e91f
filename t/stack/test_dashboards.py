"""The dashboards' files: as generated, and what a Grafana would refuse.

There is no Grafana here: this is as far as one can look without it.
"""

import json
import re
import subprocess
import sys

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from boards import FOLDER, boards
from harness import ROOT

PROVISIONING = ROOT / "docker/grafana/provisioning"
COMPOSE = ROOT / "docker/docker-compose.yml"

BOARDS = boards()
PANELS = [pytest.param(board, panel, id=f"{uid}: {panel['title']}")
          for uid, board in BOARDS.items() for panel in board.panels]

# of Prometheus's annotations, and unknown to the SDK
ANNOTATION_FIELDS = {"step", "titleFormat", "textFormat", "tagKeys"}

# Grafana's palette; what is not in it would not follow the theme
COLOURS = {"text", "green", "yellow", "orange", "red", "blue", "purple",
           "dark-orange"}

all_boards = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
all_panels = pytest.mark.parametrize("board, panel", PANELS)


def walk(value, key=None):
    """All (key, scalar) pairs of a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walk(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)
    else:
        yield key, value


def test_the_files_are_what_the_code_makes(tmp_path):
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path],
                   check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in FOLDER.glob("*.json")}

    assert made.keys() == kept.keys() == {
        "clawd-overview.json", "clawd-models.json", "clawd-users.json"}
    for name, text in made.items():
        assert text == kept[name], f"{name} is stale: make dashboards"


@all_boards
def test_the_sdk_reads_all_of_it(board):
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(board.json),
                                  cls=JSONEncoder))

    for annotation in board.json["annotations"]["list"]:
        for name in ANNOTATION_FIELDS:
            annotation.pop(name, None)
    assert again == board.json


def test_names_are_unique():
    for field in ("uid", "title"):
        values = [board.json[field] for board in BOARDS.values()]
        assert len(set(values)) == len(values) == 3
    for uid, board in BOARDS.items():
        assert board.json["uid"] == uid
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid)


@all_boards
def test_titles_tell_panels_apart(board):
    titles = [panel["title"] for panel in board.panels]
    assert len(set(titles)) == len(titles)


@all_boards
def test_a_dashboard_can_be_provisioned(board):
    assert board.json.get("id") is None
    ids = [panel["id"] for panel in board.json["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    # Grafana 12.1 reads this version and migrates older ones
    assert 36 <= board.json["schemaVersion"] <= 41


@all_boards
def test_panels_fill_the_grid_and_do_not_overlap(board):
    taken = set()
    for panel in board.json["panels"]:
        place = panel["gridPos"]
        area = {(x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])}
        assert not area & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in area), panel["title"]
        taken |= area
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height


@all_panels
def test_a_panel_tells_what_it_shows(board, panel):
    assert len(panel["description"]) > 30
    assert panel["title"][0].isupper()
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    # as long as a scrape, so that $__rate_interval is four of them
    assert panel["interval"] == "15s"


@all_panels
def test_a_panels_queries_are_of_the_chosen_source(board, panel):
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs) > 0
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["expr"]
        assert target.get("instant", False) != target.get("range", False)
        if panel["type"] not in ("table", "stat") and len(refs) > 1:
            assert target["legendFormat"]


@all_panels
def test_latency_panels_show_exemplars(board, panel):
    expected = any("_bucket" in target["expr"]
                   and "clawdbot_redis" not in target["expr"]
                   for target in panel["targets"])
    shown = any(target["exemplar"] for target in panel["targets"])
    assert shown == (expected and panel["type"] in ("timeseries", "heatmap"))


@all_panels
def test_colours_follow_the_theme(board, panel):
    colours = {value for key, value in walk(panel)
               if key in ("color", "fixedColor", "fill")
               and isinstance(value, str)}
    assert colours <= COLOURS


@all_boards
def test_variables_that_are_used_exist_and_the_other_way_round(board):
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(
        {**board.json, "templating": {}})))
    assert used == set(board.variables)


@all_boards
def test_variables(board):
    variables = list(board.variables.values())
    source, *others = variables
    assert source["type"] == "datasource" and source["query"] == "prometheus"
    assert others
    for variable in others:
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["multi"] and variable["includeAll"]
        assert variable["allValue"] == ".*"
        assert variable["current"]["value"] == ["$__all"]
        assert variable["refresh"] == 2     # with the time range


@all_boards
def test_links_lead_to_the_other_dashboards(board):
    links = {link["url"].removeprefix("/d/"): link
             for link in board.json["links"]}
    assert set(links) == set(BOARDS) - {board.json["uid"]}
    for link in links.values():
        assert link["keepTime"] and link["includeVars"]

    for key, url in walk(board.json):
        if key == "url" and url not in [link["url"] for link in
                                        links.values()]:
            uid, _, arguments = url.removeprefix("/d/").partition("?")
            assert "${__url_time_range}" in arguments
            assert "${datasource:queryparam}" in arguments
            variables = BOARDS[uid].variables
            for name in re.findall(r"var-(\w+)=|\$\{(\w+):queryparam",
                                   arguments):
                assert "".join(name) in variables


def test_the_way_from_overview_to_model_to_user():
    def targets(uid):
        return {re.match(r"/d/([\w-]+)\?", value)[1]
                for panel in BOARDS[uid].panels for key, value in walk(panel)
                if key == "url"}

    assert "clawd-models" in targets("clawd-overview")
    assert "clawd-users" in targets("clawd-models")


@all_boards
def test_the_cursor_is_shared(board):
    assert board.json["graphTooltip"] == 1


# Provisioning

def read(path):
    file, = (PROVISIONING / path).iterdir()
    content = yaml.safe_load(file.read_text())
    assert content["apiVersion"] == 1
    return content


def test_the_data_source():
    source, = read("datasources")["datasources"]
    assert source["uid"] == "clawd-prometheus"
    assert source["type"] == "prometheus" and source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == "15s"


def test_the_provider_of_dashboards():
    provider, = read("dashboards")["providers"]
    assert provider["type"] == "file" and provider["folder"] == "clawd"
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_nothing_in_the_provisioning_is_taken_for_a_variable():
    # Grafana puts the environment in place of $NAME in these files
    for path in PROVISIONING.glob("*/*.yml"):
        values = [value for _, value in walk(yaml.safe_load(path.read_text()))]
        assert not [value for value in values if "$" in str(value)], path


def test_compose_mounts_what_grafana_reads():
    services = yaml.safe_load(COMPOSE.read_text())["services"]

    def host(path):
        """The file or folder of this repository that is at path."""
        for volume in services["grafana"]["volumes"]:
            source, target = ((volume["source"], volume["target"])
                              if isinstance(volume, dict)
                              else volume.split(":")[:2])
            if path == target or path.startswith(target + "/"):
                rest = path.removeprefix(target).lstrip("/")
                return (COMPOSE.parent / source / rest).resolve()
        return None

    provider, = read("dashboards")["providers"]
    assert host(provider["options"]["path"]) == FOLDER
    for kind in ("datasources", "dashboards"):
        assert host(f"/etc/grafana/provisioning/{kind}") == PROVISIONING / kind

    source, = read("datasources")["datasources"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in services
