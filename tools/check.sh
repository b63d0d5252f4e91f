#!/bin/bash
#
# The gates of `make check`.  Each prints "ok" or what is wrong; the last line
# is "check: N passed, N failed".

set -u

cd "$(dirname "$0")/.." || exit 1

passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

mapfile -t sources < <(find src -name '*.c' | sort)
mapfile -t all < <(find src t/unit fuzz -name '*.[ch]' | sort)
mapfile -t rooms < <(find src -mindepth 1 -maxdepth 1 -type d | sort)

nginx=/usr/share/nginx/src/src
includes=(-Ibuild/dynamic -Isrc "${rooms[@]/#/-I}")
for folder in core event event/{modules,quic} os/unix http http/{modules,v2}; do
    includes+=(-isystem "$nginx/$folder")
done


# gate NAME COMMAND...

gate()
{
    local name=$1
    shift

    if "$@" > "$log" 2>&1; then
        printf 'ok     %s\n' "$name"
        passed=$((passed + 1))
    else
        printf 'FAILED %s\n' "$name"
        grep -v '^note\|functions in src' "$log" | head -n 60
        failed=$((failed + 1))
    fi
}


run_cppcheck()
{
    cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr \
        --enable=warning,performance,portability \
        --suppress=missingInclude --suppress=zerodivcond \
        -D__linux__ -Dnginx_version=1022001 \
        -Isrc "${rooms[@]/#/-I}" src
}


# Two at a time: one process would use one core only.

run_clang_tidy()
{
    printf '%s\0' "${sources[@]}" \
        | xargs -0 -n 4 -P 2 sh -c '
              end=$1; shift
              clang-tidy --quiet "$@" -- -std=gnu11 $end' \
              tidy "${includes[*]}"
}


# What the .so exports meets every other module of the same NGINX.

# What is seen from outside could be replaced there, so the compiler would go
# through a table for each call from file to file.

check_symbols()
{
    local foreign
    local expected='ngx_http_clawd_(filter_)?module|ngx_module(s|_names|_order)'
    foreign=$(nm -D --defined-only build/dynamic/ngx_http_clawd_module.so \
                  | awk '{ print $3 }' | grep -v -x -E "$expected")

    [ -z "$foreign" ] && return
    echo "declared in no header, or outside of its visibility pragma:"
    echo "$foreign"
    return 1
}


# Tables and aligned declarations are laid out by hand: a figure to look at,
# not a gate.

count_format()
{
    local count
    count=$(clang-format --dry-run "${all[@]}" 2>&1 | grep -c 'warning:')
    echo "note   clang-format would change $count places"
}


check_scripts()
{
    local file status=0

    while read -r file; do
        case $(head -n 1 "$file") in
            *python3*) python3 -c 'import ast, sys
ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$file" || status=1 ;;
            *bash*)    bash -n "$file" || status=1 ;;
            '#!/bin/sh'*) sh -n "$file" || status=1 ;;
        esac

        if grep -n -P '[ \t]+$' "$file"; then
            echo "$file: trailing blanks"
            status=1
        fi
    done < <(git ls-files -- tools bench t/e2e t/stack .ci docker \
                 grafana-dashboards \
                 | grep -v -E '\.(json|txt|lock|md)$')

    return $status
}


gate 'style of the C sources' python3 tools/style.py
sed -n '/^note\|functions in src/p' "$log" | sed 's/^note: //; s/^/note   /'
count_format

gate 'gcc -Wall -Wextra -Werror' tools/build.sh dynamic
gate 'clang -Wall -Wextra -Werror' tools/build.sh clang
gate 'exported symbols' check_symbols
gate 'cppcheck' run_cppcheck
gate 'clang-tidy' run_clang_tidy
gate 'scripts' check_scripts
gate 'README against the code' python3 tools/check-docs.py

echo "check: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
