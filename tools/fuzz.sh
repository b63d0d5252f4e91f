#!/bin/sh
#
# Runs each libFuzzer program on its corpus for some seconds, two at a time,
# and ends with "fuzz: N passed, N failed":
#
#     tools/fuzz.sh SECONDS PROGRAM...
#
# Known inputs are fuzz/corpus/NAME/; what is found goes to build/fuzz.  A
# crash leaves its input in build/fuzz/crashes: keep it as a case.

set -u

seconds=${1:?usage: tools/fuzz.sh SECONDS PROGRAM...}
shift

root=$(cd "$(dirname "$0")/.." && pwd)
crashes=$root/build/fuzz/crashes
mkdir -p "$crashes"

[ $# -gt 0 ] || { echo "fuzz: no targets" >&2; exit 1; }


# one PROGRAM: its status is the program's.

one()
{
    name=$(basename "$1")
    log=$root/build/fuzz/$name.log
    found=$root/build/fuzz/corpus/$name
    known=$root/fuzz/corpus/$name
    mkdir -p "$found"
    [ -d "$known" ] || known=

    # The folder of known inputs, if there is one, is a word of its own.
    # shellcheck disable=SC2086
    "$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$crashes/$name-" -print_final_stats=1 \
        "$found" $known > "$log" 2>&1
}


# report PROGRAM STATUS

report()
{
    name=$(basename "$1")
    log=$root/build/fuzz/$name.log
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")

    if [ "$2" -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
        echo "ok     $name: $runs inputs"
        passed=$((passed + 1))
    else
        echo "FAILED $name (status $2), see $log"
        tail -n 40 "$log"
        failed=$((failed + 1))
    fi
}


passed=0
failed=0

while [ $# -gt 0 ]; do
    one "$1" &
    first=$!

    if [ $# -gt 1 ]; then
        one "$2" &
        second=$!
    fi

    wait "$first"
    report "$1" $?

    if [ $# -gt 1 ]; then
        wait "$second"
        report "$2" $?
        shift
    fi

    shift
done

echo "fuzz: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
