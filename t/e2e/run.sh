#!/bin/bash
#
# Runs the end-to-end tests: real clients, through NGINX with the module, to
# real models.  Installs what they need, by name, outside the tree: the first
# run builds an Ollama and takes minutes longer.
#
#   t/e2e/run.sh [PYTEST-ARGUMENT...]    e.g. -k stream, -x, t/e2e/test_node.py
#
# CLAWD_MODULE names the module, build/dynamic/ngx_http_clawd_module.so unless
# set.  The last line is "N passed, N failed".

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=${here%/t/e2e}
. "$root/tools/common.sh"

debs=(nginx curl python3 prometheus)
command -v npm >/dev/null || debs+=(nodejs npm)
need_debs "${debs[@]}"


# current FOLDER FILE: whether FOLDER was made from what FILE says now
current()
{
    cmp -s "$2" "$1/.made-from"
}


mkdir -p "$cache"
exec 9>"$cache/e2e.lock"
flock 9

venv="$cache/venv-e2e"
if ! current "$venv" "$here/requirements.txt"; then
    say "installing the Python clients"
    make_venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check \
        -r "$here/requirements.txt" >&2 \
        || die "pip could not install what $here/requirements.txt lists"
    cp "$here/requirements.txt" "$venv/.made-from"
fi

node="$cache/node-e2e"
if ! current "$node" "$here/package.json"; then
    say "installing the Node clients"
    rm -rf "$node"
    mkdir -p "$node"
    cp "$here/package.json" "$node/"
    (cd "$node" && npm install --silent --no-audit --no-fund \
        --no-package-lock >&2) \
        || die "npm could not install what $here/package.json lists"
    cp "$here/package.json" "$node/.made-from"
fi

exec 9>&-

ollama=$("$root/tools/ollama.sh")
model_python=$("$root/tools/model-env.sh")

module=${CLAWD_MODULE:-$root/build/dynamic/ngx_http_clawd_module.so}
[ -e "$module" ] || die "there is no $module: run make build"

[ $# -gt 0 ] || set -- "$here"

CLAWD_MODULE="$module" CLAWD_OLLAMA="$ollama" \
CLAWD_MODEL_PYTHON="$model_python" NODE_PATH="$node/node_modules" \
PYTHONDONTWRITEBYTECODE=1 \
    exec "$venv/bin/python" -m pytest -q --rootdir "$here" -c /dev/null \
        -p no:cacheprovider -o faulthandler_timeout=120 --durations=5 "$@"
