"""The dashboards as Grafana reads them: panels, queries, macros, variables."""

import json
import re

from harness import ROOT

FOLDER = ROOT / "grafana-dashboards"


class Query:
    """One target of a panel; its label is what the legend or column says."""

    def __init__(self, board, panel, target):
        ref = target["refId"]
        self.label = target.get("legendFormat") or next(
            (names.get(f"Value #{ref}") or names["Value"]
             for names in renamed(panel)), "")
        self.name = f"{board} / {panel['title']} / {self.label or ref}"
        self.text = target["expr"]
        self.instant = target.get("instant", False)
        self.exemplar = target.get("exemplar", False)


def renamed(panel):
    """What the panel's transformations call its columns."""
    return [step["options"]["renameByName"]
            for step in panel.get("transformations", ())
            if step["id"] == "organize"]


class Board:
    def __init__(self, path):
        self.json = json.loads(path.read_text())
        self.name = self.json["title"]
        self.panels = [panel for panel in self.json["panels"]
                       if panel["type"] != "row"]
        self.variables = {variable["name"]: variable
                          for variable in self.json["templating"]["list"]}

    def queries(self, title=None):
        """Of the panel with this title, or of all."""
        return [Query(self.name, panel, target) for panel in self.panels
                if title in (None, panel["title"])
                for target in panel["targets"]]

    def query(self, title, label=None):
        """The only query of a panel, or the one with that label."""
        query, = (query for query in self.queries(title)
                  if label in (None, query.label))
        return query


def boards():
    return {path.stem: Board(path) for path in sorted(FOLDER.glob("*.json"))}


def fill(text, rate_interval, range, interval=1, **variables):
    """The text of a query as Grafana sends it.  Times are in seconds."""
    for name, seconds in (("rate_interval", rate_interval), ("range", range),
                          ("interval", interval)):
        text = text.replace(f"$__{name}_ms", str(seconds * 1000))
        text = text.replace(f"$__{name}", f"{seconds}s")
    for name, values in variables.items():
        text = text.replace(f"${name}", chosen(values))
    assert "$" not in text, text
    return text


def chosen(values):
    """What a variable becomes: "All", or the values that are ticked."""
    if values == "All":
        return ".*"
    escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value)
               for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
