#!/bin/bash
#
# Runs the tests of what stands around the gateway: image, compose files,
# Prometheus rules, Alertmanager, dashboards, and all of it together.  Installs
# what they need, by name, outside the tree.
#
#   t/stack/run.sh [PYTEST-ARGUMENT...]   e.g. -k alert, t/stack/test_image.py
#
# CLAWD_MODULE names the module, build/dynamic/ngx_http_clawd_module.so unless
# set.  The last line is "N passed, N failed".

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=${here%/t/stack}
. "$root/tools/common.sh"

need_debs nginx curl python3 redis-server prometheus prometheus-alertmanager \
    iproute2 openssl

mkdir -p "$cache"
venv="$cache/venv-stack"
exec 9>"$venv.lock"
flock 9
if ! cmp -s "$here/requirements.txt" "$venv/.made-from"; then
    say "installing what $here/requirements.txt lists"
    make_venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check \
        -r "$here/requirements.txt" >&2 \
        || die "pip could not install what $here/requirements.txt lists"
    cp "$here/requirements.txt" "$venv/.made-from"
fi
exec 9>&-

module=${CLAWD_MODULE:-$root/build/dynamic/ngx_http_clawd_module.so}
[ -e "$module" ] || die "there is no $module: run make build"

[ $# -gt 0 ] || set -- "$here"

CLAWD_MODULE="$module" PYTHONDONTWRITEBYTECODE=1 \
    exec "$venv/bin/python" -m pytest -q --rootdir "$here" -c /dev/null \
        -o pythonpath="$root/t/e2e" -p no:cacheprovider \
        -o faulthandler_timeout=300 --durations=8 "$@"
