#!/bin/bash
#
# The fault suites of t/fault against a real Redis: the scripts alone, quotas
# under kills and outages, the admin's page, outages of Redis one by one, the
# link of one worker in trouble beside others, the file of the store in the
# zone.  The last line is "fault: N passed, N failed"; a suite that tells no
# counts has failed.
#
#     tools/fault.sh [SUITE...]     default: scripts run docs outages link state

set -u

cd "$(dirname "$0")/.." || exit 1

suites=("$@")
[ $# -gt 0 ] || suites=(scripts run docs outages link state)

log=$(mktemp)
trap 'rm -f "$log"' EXIT

total_passed=0
total_failed=0

for suite in "${suites[@]}"; do
    echo "--- $suite"
    python3 "t/fault/$suite.py" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}

    read -r passed failed < <(sed -n \
        's/^.*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" \
        | tail -n 1)

    if [ -z "${passed:-}" ] || [ $((passed + failed)) -eq 0 ]; then
        echo "$suite told no counts (status $status)"
        passed=0
        failed=1

    elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        echo "$suite ended with status $status"
        failed=1
    fi

    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    passed=
done

echo "fault: $total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ]
