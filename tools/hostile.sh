#!/bin/sh
#
# Hostile requests against hostile answers under ASAN and UBSAN, see
# t/hostile/README.md:
#
#     tools/hostile.sh [N] [SEED] [FIRST]    default: 2000 cases, seed 1

set -eu

cd "$(dirname "$0")/.."

tools/build.sh asan
exec env PYTHONDONTWRITEBYTECODE=1 \
    python3 t/hostile/run.py "${1:-2000}" "${2:-1}" "${3:-1}"
