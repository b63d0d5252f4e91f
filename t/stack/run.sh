#!/bin/bash
#
# Runs the tests of what stands around the gateway: image, compose files,
# Prometheus rules, Alertmanager, dashboards, and all of it together.  Installs
# what they need, by name, outside the tree: the first run builds an Ollama and
# an image and takes minutes longer.
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
    iproute2 openssl wget

venv=$("$root/tools/stack-venv.sh")
ollama=$("$root/tools/ollama.sh")

module=${CLAWD_MODULE:-$root/build/dynamic/ngx_http_clawd_module.so}
[ -e "$module" ] || die "there is no $module: run make build"

[ $# -gt 0 ] || set -- "$here"

CLAWD_MODULE="$module" CLAWD_OLLAMA="$ollama" PYTHONDONTWRITEBYTECODE=1 \
    exec "$venv/bin/python" -m pytest -q --rootdir "$here" -c /dev/null \
        -o pythonpath="$root/t/e2e" -p no:cacheprovider \
        -o faulthandler_timeout=300 --durations=8 "$@"
