#!/bin/bash
#
# Builds the module and runs it, until Ctrl-C, in front of a real model: the
# Ollama at OLLAMA_HOST (default 127.0.0.1:11434) when one answers there, else
# a small llama.cpp server that it starts itself.  This is "make run".
#
# The configuration is nginx.conf.example, adapted by the few substitutions in
# write_conf(): addresses and ports, and paths relative to build/run/PORT.
#
# Environment, all optional:
#   CLAWD_PORT             port of the gateway (8080)
#   CLAWDBOT_METRICS_PORT  port of /metrics on 127.0.0.1 (9091)
#   CLAWDBOT_TOKEN         the token; made up when unset
#   OLLAMA_HOST            host, host:port or http://host:port

set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tools/common.sh"

port=${CLAWD_PORT:-8080}
metrics_port=${CLAWDBOT_METRICS_PORT:-9091}
run="$root/build/run/$port"
tmp=
pids=()


check_port()
{
    [[ $2 =~ ^[0-9]+$ ]] && (( $2 > 0 && $2 < 65536 )) \
        || die "$1=$2 is no port number"

    # opens the file descriptor in a subshell only
    if (: <>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
        die "port $2 is busy: stop what listens there or set $1 to another port"
    fi
}


# The host:port that OLLAMA_HOST names, as the ollama client reads it.
ollama_address()
{
    local host=${OLLAMA_HOST:-127.0.0.1:11434}

    [[ $host != https://* ]] \
        || die "OLLAMA_HOST: only http is supported here, see README.md"
    [[ $host != http://* || $host =~ ^http://[^/]*:[0-9]+/?$ ]] \
        || host="${host%/}:80"
    host=${host#http://}
    host=${host%%/*}
    [[ $host =~ :[0-9]+$ ]] || host="$host:11434"
    case "$host" in
        :*)        host="127.0.0.1$host" ;;
        0.0.0.0:*) host="127.0.0.1:${host##*:}" ;;
    esac
    echo "$host"
}


# Prints the first model of HOST:PORT that can chat on that machine.
first_model()
{
    curl -fsS -m 5 "http://$1/v1/models" 2>/dev/null | python3 -c '
import json, re, sys
try:
    models = json.load(sys.stdin)["data"] or []
except (ValueError, KeyError, TypeError):
    models = []
names = [m["id"] for m in models if not re.search("embed|cloud", m["id"])]
print(names[0] if names else "")'
}


# Starts COMMAND... in the background; it ends with this script at the latest.
start()
{
    setpriv --pdeathsig TERM "$@" &
    pids+=($!)
}


# wait_for PID URL: until URL answers well; fails when the process ends before.
wait_for()
{
    until curl -fs -o /dev/null -m 5 "$2"; do
        kill -0 "$1" 2>/dev/null || return 1
        sleep 0.1
    done
}


stop()
{
    local pid

    trap '' INT TERM HUP
    trap - EXIT
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$tmp" ] || rm -rf "$tmp"
}


start_model()
{
    local python

    python=$("$root/tools/model-env.sh")
    upstream=127.0.0.1:$(python3 -c '
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')

    say "starting a small model (SmolLM2-135M) on $upstream"
    start "$python" "$root/tools/model-server.py" --port "${upstream##*:}" \
        >"$run/model.log" 2>&1
    wait_for "${pids[-1]}" "http://$upstream/health" \
        || die "the small model did not start, see $run/model.log"
    model=smollm2
    what="a small llama.cpp server"
}


choose_upstream()
{
    upstream=$(ollama_address)
    what="the server"

    if ! curl -s -o /dev/null -m 5 "http://$upstream/"; then
        say "nothing answers on $upstream"
        start_model
        return
    fi

    model=$(first_model "$upstream")
    if [ -z "$model" ]; then
        say "the server on $upstream has no model to chat with" \
            "(try: ollama pull smollm2:135m)"
        start_model
    fi
}


write_conf()
{
    cp "$root/clawd_proxy.conf" "$root/clawd_log.conf" "$run/"

    # Workers do not run as root and may be unable to enter the tree.
    tmp=$(mktemp -d "${TMPDIR:-/tmp}/clawd.XXXXXX")
    chmod 711 "$tmp"

    sed -e "s|modules/ngx_http|../../dynamic/ngx_http|" \
        -e "s|/run/nginx.pid|nginx.pid|" \
        -e "s|/var/log/nginx/||" \
        -e "s|127.0.0.1:11434|$upstream|" \
        -e "s|listen  8080|listen  $port|" \
        -e "s|127.0.0.1:9091|127.0.0.1:$metrics_port|" \
        -e "/^http {/r /dev/stdin" "$root/nginx.conf.example" \
        >"$run/nginx.conf" <<TEMP
    client_body_temp_path $tmp/body;
    proxy_temp_path       $tmp/proxy;
    fastcgi_temp_path     $tmp/fastcgi;
    uwsgi_temp_path       $tmp/uwsgi;
    scgi_temp_path        $tmp/scgi;

TEMP
    [ "$(id -u)" = 0 ] || sed -i '/^user /d' "$run/nginx.conf"
}


start_nginx()
{
    local nginx

    nginx=$(PATH="$PATH:/usr/sbin:/sbin" command -v nginx)
    : >"$run/error.log"
    : >"$run/clawd.log"

    "$nginx" -t -q -e "$run/error.log" -p "$run/" -c "$run/nginx.conf" \
        || die "NGINX refuses the configuration $run/nginx.conf"

    start "$nginx" -e "$run/error.log" -p "$run/" -c "$run/nginx.conf" \
        -g "daemon off;"
    wait_for "${pids[-1]}" "http://127.0.0.1:$metrics_port/metrics" \
        || die "NGINX did not start, see $run/error.log"
}


show()
{
    cat <<END

clawd runs on http://127.0.0.1:$port in front of $what on $upstream

token:   $CLAWDBOT_TOKEN

curl:    curl http://127.0.0.1:$port/v1/chat/completions -H "Authorization: Bearer $CLAWDBOT_TOKEN" -d '{"model": "$model", "max_tokens": 100, "messages": [{"role": "user", "content": "Say hello."}]}'

Python, with the package openai:

from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:$port/v1", api_key="$CLAWDBOT_TOKEN")
question = [{"role": "user", "content": "Say hello."}]
answer = client.chat.completions.create(model="$model", messages=question, max_tokens=100)
print(answer.choices[0].message.content, answer.usage)

metrics: curl http://127.0.0.1:$metrics_port/metrics
log:     $run/clawd.log, errors in $run/error.log

Ctrl-C stops everything.
END
}


check_port CLAWD_PORT "$port"
check_port CLAWDBOT_METRICS_PORT "$metrics_port"
[ "$port" != "$metrics_port" ] \
    || die "CLAWD_PORT and CLAWDBOT_METRICS_PORT are the same port, $port"

need_debs nginx curl make python3

say "building the module"
make --no-print-directory -C "$root" build >/dev/null \
    || die "the module could not be built, the reason is above"

mkdir -p "$run"
trap stop EXIT
trap 'say "stopping"; stop; exit 0' INT TERM HUP

: "${CLAWDBOT_TOKEN:=$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')}"
export CLAWDBOT_TOKEN

choose_upstream
write_conf
start_nginx
show

wait -n "${pids[@]}" || true

# Ctrl-C reaches the servers as well, and their end may be seen here before it.
sleep 1

die "a server ended by itself, see $run/error.log and $run/model.log"
