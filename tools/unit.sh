#!/bin/sh
#
# Runs cmocka programs one after the other and ends with one line
# "unit: N passed, N failed" over all of them:
#
#     tools/unit.sh PROGRAM...

set -u

passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

CLAWD_FIXTURES=$(cd "$(dirname "$0")/../t/fixtures" && pwd)
CMOCKA_MESSAGE_OUTPUT=TAP
ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
export CLAWD_FIXTURES CMOCKA_MESSAGE_OUTPUT ASAN_OPTIONS

for program in "$@"; do
    "$program" > "$log" 2>&1
    status=$?

    ok=$(grep -c '^ok ' "$log")
    bad=$(grep -c '^not ok ' "$log")
    planned=$(sed -n 's/^1\.\.//p' "$log" | awk '{ n += $1 } END { print n + 0 }')

    # A program that died or stopped early is a failure of its own.

    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ] \
       || [ "$planned" -eq 0 ] || [ "$planned" -ne $((ok + bad)) ]
    then
        bad=$((bad + 1))
    fi

    passed=$((passed + ok))
    failed=$((failed + bad))

    if [ "$bad" -ne 0 ]; then
        echo "FAILED $program (status $status)"
        grep -v '^ok ' "$log"
    else
        echo "ok     $program: $ok"
    fi
done

echo "unit: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
