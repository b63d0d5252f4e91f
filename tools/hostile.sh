#!/bin/bash
#
# Hostile requests against hostile answers, and a hostile Redis, under ASAN and
# UBSAN, see t/hostile/README.md:
#
#     tools/hostile.sh [N] [SEED] [FIRST]    default: 2000 cases, seed 1
#     tools/hostile.sh link [N] [SEED]       the link alone: 10000 replies

set -u

cd "$(dirname "$0")/.." || exit 1

export PYTHONDONTWRITEBYTECODE=1

tools/build.sh asan || exit

if [ "${1:-}" = link ]; then
    exec python3 t/hostile/link.py "${@:2}"
fi

# a case that is replayed needs no more than itself

if [ $# -gt 0 ]; then
    exec python3 t/hostile/run.py "$1" "${2:-1}" "${3:-1}"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

total_passed=0
total_failed=0

for suite in "run.py 2000 1 1" "link.py 10000 1"; do
    read -ra words <<< "$suite"

    python3 "t/hostile/${words[0]}" "${words[@]:1}" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}

    read -r passed failed < <(grep -oE '[0-9]+ passed, [0-9]+ failed$' "$log" \
        | tail -n 1 | awk '{ print $1, $3 }')

    if [ -z "${passed:-}" ] || [ $((passed + failed)) -eq 0 ] \
        || { [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; }
    then
        echo "${words[0]} ended with status $status"
        passed=0
        failed=1
    fi

    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    passed=
done

echo "hostile: $total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ]
