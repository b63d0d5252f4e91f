#!/bin/bash
#
# All suites one after the other, with the time and the counts of each.  The
# last line is "N passed, N failed" over all of them.  A suite that tells no
# counts has failed; a suite that fails does not keep the next from running.
#
#     tools/test-all.sh [SUITE...]     default: all, in this order:
#     deps build check unit t asan hostile fault static test-1.26 fuzz e2e
#     stack
#
# The output of each suite is kept in build/log/SUITE.log.

set -u

cd "$(dirname "$0")/.." || exit 1

logs=build/log
mkdir -p "$logs"

suites=("$@")
[ $# -gt 0 ] || suites=(deps build check unit t asan hostile fault static
                        test-1.26 fuzz e2e stack)

total_passed=0
total_failed=0
report=


# The kinds of build, each a test: does the tree build that way?

build_all()
{
    local kind passed=0 failed=0

    for kind in dynamic static asan 1.26; do
        if tools/build.sh $kind; then
            echo "ok     build $kind"
            passed=$((passed + 1))
        else
            echo "FAILED build $kind"
            failed=$((failed + 1))
        fi
    done

    echo "build: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}


deps()
{
    if tools/deps.sh build test check fuzz source; then
        echo "deps: 1 passed, 0 failed"
    else
        echo "deps: 0 passed, 1 failed"
        return 1
    fi
}


suite()
{
    case $1 in
        deps)  deps ;;
        build) build_all ;;
        fuzz)  make -s fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-20}" ;;
        *)     make -s "$1" ;;
    esac
}


# counts FILE: "PASSED FAILED" of the last line that tells them; errors of a
# suite count as failed.

counts()
{
    grep -aE '[0-9]+ (passed|failed|error)' "$1" | tail -n 1 | awk '{
        passed = failed = 0
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed = $(i - 1)
            if ($i ~ /^(failed|errors?)/) failed += $(i - 1)
        }
        print passed, failed
    }'
}


run()
{
    local name=$1 start=$SECONDS status passed failed line

    echo
    echo "=== $name"

    suite "$name" < /dev/null 2>&1 | tee "$logs/$name.log"
    status=${PIPESTATUS[0]}

    read -r passed failed < <(counts "$logs/$name.log")

    if [ -z "${passed:-}" ] || [ $((passed + failed)) -eq 0 ]; then
        passed=0
        failed=1
        echo "$name told no counts (status $status)"

    elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
        echo "$name ended with status $status"
    fi

    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))

    line=$(printf '%-10s %6d passed %4d failed %5d s' \
               "$name" "$passed" "$failed" $((SECONDS - start)))
    echo "=== $line"
    report+=$line$'\n'
}


for name in "${suites[@]}"; do
    run "$name"
done

echo
echo "=== all suites"
printf '%s' "$report"
printf 'time %d s\n' "$SECONDS"
echo "$total_passed passed, $total_failed failed"

[ "$total_failed" -eq 0 ]
