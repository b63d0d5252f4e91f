#!/usr/bin/env python3
#
# The house style of the C sources, as far as a script can tell.  Prints each
# breach and the lengths of functions, and fails on a breach:
#
#   - at most 80 columns; no tabs, trailing blanks, // comments;
#   - the return type of a function on a line of its own;
#   - two blank lines before each function;
#   - no function above 150 lines, the median at most 35;
#   - a room includes itself and lower rooms only;
#   - NGINX's configuration comes before any header of the system, which would
#     else hide what NGINX needs of it.
#
#     tools/style.py [FOLDER]

import re
import statistics
import sys
from pathlib import Path

LIMIT = 150
LISTED = 100
MEDIAN = 35

# Lowest first.

ROOMS = ["wire", "shm", "metrics", "redis", "ledger", "observe", "gate"]

breaches = []
lengths = []


def breach(path, line, text):
    breaches.append(f"{path}:{line}: {text}")


def without_comments_and_strings(text):
    """The text with both blanked out, line breaks kept."""

    pattern = r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''

    def blank(match):
        found = match.group()
        if found[0] == "/":
            return re.sub(r"[^\n]", " ", found)
        return found[0] + "x" * (len(found) - 2) + found[-1]

    return re.sub(pattern, blank, text, flags=re.S)


def check_lines(path, text, bare):
    for n, line in enumerate(text.splitlines(), 1):
        if len(line) > 80:
            breach(path, n, f"{len(line)} columns")
        if "\t" in line:
            breach(path, n, "a tab")
        if line != line.rstrip():
            breach(path, n, "trailing blanks")

    for n, line in enumerate(bare.splitlines(), 1):
        if "//" in line:
            breach(path, n, "a // comment")

    if not text.endswith("\n") or text.endswith("\n\n"):
        breach(path, len(text.splitlines()), "one line break ends a file")


def check_functions(path, bare):
    lines = bare.splitlines()
    head = None

    for n, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_].*\(", line) and not line.startswith("#"):
            head = n

        elif line == "{" and head:
            check_head(path, lines, head)
            start = head
            head = None
            end = next((m for m in range(n, len(lines))
                        if lines[m].startswith("}")), len(lines) - 1)
            name = re.match(r"[\w ]*?(\w+)\s*\(", lines[start - 1])
            lengths.append((end + 1 - start, path, start,
                            name.group(1) if name else "?"))

        elif line.startswith("}") or line.endswith(";"):
            head = None


def check_head(path, lines, head):
    line = lines[head - 1]

    if re.match(r"(?:\w+[ *]+)+\w+\(", line):
        breach(path, head, "the return type belongs on its own line")
        return

    # The type's line, then a comment that belongs to the function, which is
    # blank here, then the blank lines before.

    above = head - 2
    while above >= 0 and lines[above].strip():
        above -= 1

    blank = 0
    while above >= 0 and not lines[above].strip():
        blank += 1
        above -= 1

    if above >= 0 and blank < 2 and not lines[above].startswith("#"):
        breach(path, head, "two blank lines belong before a function")


def check_first_include(path, text):
    first = re.search(r'#include\s+([<"][^>"]+)', text)

    if first and not re.match(r'"ngx_http_clawd|<(ngx_config|nginx)\.h',
                              first.group(1)):
        line = text[:first.start()].count("\n") + 1
        breach(path, line, "a header of the system before NGINX's")


def check_includes(path, text, home):
    rank = {room: i for i, room in enumerate(ROOMS)}
    room = path.parts[1] if len(path.parts) > 2 else None

    for n, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+[<"](ngx_http_clawd\w*\.h)', line)
        if not match or room is None:
            continue

        other = home.get(match.group(1), "unknown")
        if other == room:
            continue

        if other == "unknown":
            breach(path, n, f"includes {match.group(1)}, which is nowhere")
        elif other is None:
            if room not in ("gate", "observe"):
                breach(path, n, f"{room} includes a header of the top level")
        elif room not in rank or other not in rank:
            breach(path, n, f"tools/style.py knows no room {room} or {other}")
        elif rank[other] >= rank[room]:
            breach(path, n, f"{room} includes {other}, which is not below it")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    files = sorted(path for folder in ("src", "t/unit", "fuzz")
                   for path in (root / folder).rglob("*.[ch]"))
    home = {}

    for path in (root / "src").rglob("*.h"):
        parts = path.relative_to(root / "src").parts
        home[path.name] = parts[0] if len(parts) > 1 else None

    for path in files:
        text = path.read_text()
        bare = without_comments_and_strings(text)
        shown = path.relative_to(root)

        check_lines(shown, text, bare)
        check_functions(shown, bare)
        if root / "src" in path.parents:
            check_includes(shown, text, home)
            check_first_include(shown, text)

    for length, path, line, name in sorted(lengths, reverse=True):
        if length > LIMIT:
            breach(path, line, f"{name} has {length} lines")
        elif length > LISTED:
            print(f"note: {path}:{line}: {name} has {length} lines")

    own = [entry[0] for entry in lengths if str(entry[1]).startswith("src")]
    if own:
        median = statistics.median(own)
        print(f"{len(own)} functions in src: median {median:g} lines,"
              f" longest {max(own)}")
        if median > MEDIAN:
            breaches.append(f"the median function has {median:g} lines")

    for line in breaches:
        print(line)

    return 1 if breaches or not files else 0


sys.exit(main())
