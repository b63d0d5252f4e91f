#!/bin/sh
#
# Makes what docker-compose.yml needs and nobody else may have: the settings in
# docker/.env and random passwords in docker/secrets.  What is there already
# stays as it is, so it can run again at any time.

set -eu
umask 077
cd "$(dirname "$0")"


say()
{
    printf '%s\n' "$*"
}


# make FILE MODE: from standard input, whole or not at all, unless it is there
make()
{
    if [ -e "$1" ]; then
        say "kept     docker/$1"
        return
    fi
    cat >"$1.new"
    chmod "$2" "$1.new"
    mv "$1.new" "$1"
    say "created  docker/$1"
}


random()
{
    od -An -v -tx1 -N 24 /dev/urandom | tr -d ' \n'
    echo
}


# Nobody else gets into the folder.  In there the users of the containers, into
# which the files are mounted one by one, must be able to read them.
mkdir -p secrets
chmod 700 secrets
for name in clawdbot_token redis_password redis_admin_password \
            grafana_admin_password responder_token; do
    random | make "secrets/$name" 644
done

# Those of others.  Empty: that one is not told of alerts.
for name in alert_webhook_url wecom_api_secret; do
    make "secrets/$name" 644 </dev/null
done

make .env 600 <<'END'
# Settings of docker-compose.yml; docs/docker.md explains them.  A variable of
# the shell wins over its line here.

CLAWD_SECRETS=./secrets

# Optional: node (the machine's metrics), gpu (NVIDIA's), selfheal (restarts
# Ollama when it is silent), separated by commas.
#COMPOSE_PROFILES=node

# WeCom is told of alerts if secrets/wecom_api_secret is not empty.
#WECOM_CORP_ID=
#WECOM_AGENT_ID=
#WECOM_TO_USER=

# Ollama on NVIDIA GPUs.
#COMPOSE_FILE=docker-compose.yml:compose.gpu.yml

# An Ollama of your own instead of this one, on the host for example.
#OLLAMA_HOST=http://host.docker.internal:11434
#OLLAMA_SCALE=0

# Where the gateway is reached: a port, or an address of this machine and one.
#CLAWD_LISTEN=127.0.0.1:8080
END

say "next:    cd docker && docker compose up -d"
