#!/usr/bin/env python3
#
# The documentation against the code: every directive and variable that the
# code has is in a table of README.md, every metric has a heading of its own
# in docs/metrics.md, and the other way round; a directive's row names the
# contexts that its entry in the command table allows.
#
# A directive or variable counts as documented when it stands in backquotes in
# the first cell of a table row: `clawd_pass`, `$clawd_model`.
#
#     tools/check-docs.py [FOLDER]

import re
import sys
from pathlib import Path

CONTEXTS = {
    "NGX_HTTP_MAIN_CONF": "http",
    "NGX_HTTP_SRV_CONF": "server",
    "NGX_HTTP_LOC_CONF": "location",
}

ENTRY = re.compile(r'\{\s*ngx_string\("(clawd\w*)"\),\s*((?:NGX_\w+[|\s]*)+),')
VARIABLE = re.compile(r'\{\s*ngx_string\("(clawd_\w+)"\),\s*NULL')
METRIC = re.compile(r'"(clawdbot_\w+)"')
HEADING = re.compile(r"^### `(clawdbot_\w+)`$", re.M)


def read(files):
    return "\n".join(path.read_text() for path in files)


def code_names(root):
    top = read(sorted((root / "src").glob("*.c")))
    metrics = read(sorted((root / "src").glob("*/*.c")))

    return (
        {name: {CONTEXTS[flag] for flag in CONTEXTS if flag in flags}
         for name, flags in ENTRY.findall(top) if "_CONF" in flags},
        {"$" + name for name in VARIABLE.findall(top)},
        set(METRIC.findall(metrics)),
    )


def documented(readme):
    """First cell's names, each with the words of its row."""

    names = {}

    for line in readme.splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip())
        if len(cells) < 4 or cells[0] != "":
            continue
        for name in re.findall(r"`(\$?clawd\w*)(?![\w.])[^`]*`", cells[1]):
            names[name] = set(re.findall(r"\w+", " ".join(cells[2:])))

    return names


def compare_metrics(metrics, headings):
    faults = []

    # The code names a counter without the suffix that both formats print.

    printed = set()
    for name in metrics:
        forms = {name, name + "_total"} & headings
        printed |= forms
        if not forms:
            faults.append(f"metric {name} is not in docs/metrics.md")

    for name in headings - printed:
        faults.append(f"docs/metrics.md has {name}, the code has not")

    return faults


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    pages = [root / "README.md", root / "docs/metrics.md"]

    for page in pages:
        if not page.exists():
            print(f"{page.name} is missing")
            return 1

    readme, reference = (page.read_text() for page in pages)
    directives, variables, metrics = code_names(root)
    names = documented(readme)
    faults = compare_metrics(metrics, set(HEADING.findall(reference)))

    if not directives or not variables or not metrics:
        faults.append("the code's tables were not found")

    for name, contexts in directives.items():
        if name not in names:
            faults.append(f"directive {name} is not in README.md")
            continue
        said = names[name] & set(CONTEXTS.values())
        if said != contexts:
            faults.append(f"directive {name}: README.md says "
                          f"{sorted(said)}, the code {sorted(contexts)}")

    for name in variables:
        if name not in names:
            faults.append(f"variable {name} is not in README.md")

    for name in names:
        if name not in (variables if name.startswith("$") else directives):
            faults.append(f"README.md has {name}, the code has not")

    for fault in sorted(faults):
        print(fault)

    print(f"{len(directives)} directives, {len(variables)} variables,"
          f" {len(metrics)} metrics")
    return 1 if faults else 0


sys.exit(main())
