#!/bin/bash
#
# Makes the Python environment of t/stack and of the dashboards, with what
# t/stack/requirements.txt lists, outside the tree.  Prints its folder.

set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tools/common.sh"

requirements="$root/t/stack/requirements.txt"
venv="$cache/venv-stack"

mkdir -p "$cache"
exec 9>"$venv.lock"
flock 9

if ! cmp -s "$requirements" "$venv/.made-from"; then
    say "installing what t/stack/requirements.txt lists"
    make_venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check \
        -r "$requirements" >&2 \
        || die "pip could not install what t/stack/requirements.txt lists"
    cp "$requirements" "$venv/.made-from"
fi

echo "$venv"
