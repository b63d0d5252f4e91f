#!/bin/sh
#
# The entry point of the image: turns the environment into a configuration of
# NGINX and becomes NGINX.  docs/image.md has the variables.  A configuration
# mounted at /etc/nginx/nginx.conf wins over all of them, and a command that is
# not nginx is run as it is.
#
# What comes from outside is checked before it gets into the configuration, by
# the characters it may have.  Secrets never get there, nor into an argument of
# a command: everybody can read the process list.

set -eu
set -f
umask 077
LC_ALL=C

etc=${CLAWD_ETC:-/etc/clawd}
run=${CLAWD_RUN:-/run/clawd}
state=${CLAWD_STATE:-/var/lib/clawd}

mounted=${etc%/*}/nginx/nginx.conf
conf=$run/nginx.conf
carriage_return=$(printf '\r')
edits='/^#@ /d'


say()
{
    printf 'clawd-entrypoint: %s\n' "$*" >&2
}


die()
{
    say "$@"
    exit 1
}


# put NAME VALUE: what stands for @NAME@ in the template.  Values have none of
# the characters that sed takes for its own.
put()
{
    edits="$edits
s|@$1@|$2|g"
}


# part NAME yes|no: whether that part of the template stays
part()
{
    case $2 in
        yes) edits="$edits
/#@if $1\$/d
/#@end $1\$/d" ;;
        no)  edits="$edits
/#@if $1\$/,/#@end $1\$/d" ;;
    esac
}


# number TEXT MAX: whether it is one from 1 to MAX, of five digits at most
number()
{
    case $1 in
        "" | 0* | *[!0-9]* | ??????*) return 1 ;;
    esac
    [ "$1" -le "$2" ]
}


# check_file NAME PATH: of a secret
check_file()
{
    case $2 in
        *[!A-Za-z0-9/._-]* | [!/]*)
            die "$1 needs an absolute path of letters, digits and / . _ -" ;;
    esac
    { [ -f "$2" ] && [ -r "$2" ]; } \
        || die "$1: there is no file $2 that user $(id -u) may read:" \
               "mount it there and let that user read it"
    [ -s "$2" ] || die "$1: $2 is empty: write the secret into it"
}


# split NAME HOST[:PORT] PORT: into $host, an IPv6 address in brackets, and
# $port
split()
{
    host=$2
    port=$3

    case $host in
        \[*\])   ;;
        \[*\]:*) host=${2%:*} port=${2##*:} ;;
        *:*:*)   host=[$2] ;;
        *:*)     host=${2%:*} port=${2##*:} ;;
    esac

    case $host in
        \[*[!0-9A-Fa-f:.]*\] | "" | -*) host=- ;;
        \[*\])                          ;;
        *[!A-Za-z0-9._-]*)              host=- ;;
    esac
    [ "$host" != - ] || die "$1 has no host, or one with characters that no" \
        "host has: $4"

    number "$port" 65535 || die "$1 has no port from 1 to 65535: $4"
}


# resolve NAME: of $host, since NGINX does it once, when it starts
resolve()
{
    name=${host#\[}
    getent ahosts "${name%\]}" >/dev/null \
        || die "$1: the host $host is not known here: start that server first," \
               "on a network that this container is in, or correct the name"
}


check_names()
{
    for name in $(env -0 | cut -z -d = -f 1 | tr '\0' '\n'); do
        case $name in
            CLAWDBOT_TOKEN | CLAWDBOT_TOKEN_FILE | CLAWDBOT_LOG_LEVEL) ;;
            CLAWDBOT_METRICS_ENABLED | CLAWDBOT_METRICS_PORT)          ;;
            CLAWDBOT_QUEUE_MAX_SIZE | CLAWDBOT_RESPONSE_HEADERS)       ;;
            CLAWDBOT_*)
                die "$name is no variable of this image: remove it, or" \
                    "correct its name by docs/image.md" ;;
        esac
    done

    later=
    [ -z "${CLAWDBOT_QUEUE_MAX_SIZE:-}" ] || later=CLAWDBOT_QUEUE_MAX_SIZE
    [ -z "${CLAWDBOT_RESPONSE_HEADERS:-}" ] \
        || later="${later:+$later, }CLAWDBOT_RESPONSE_HEADERS"
    [ -z "$later" ] || say "without effect in this version: $later"
}


set_token()
{
    name=CLAWDBOT_TOKEN
    token=${CLAWDBOT_TOKEN:-}
    source=env:CLAWDBOT_TOKEN

    if [ -n "${CLAWDBOT_TOKEN_FILE:-}" ]; then
        [ -z "$token" ] || die "CLAWDBOT_TOKEN and CLAWDBOT_TOKEN_FILE are" \
                               "both set: remove one"
        name=CLAWDBOT_TOKEN_FILE
        check_file "$name" "$CLAWDBOT_TOKEN_FILE"
        token=$(cat "$CLAWDBOT_TOKEN_FILE")
        token=${token%"$carriage_return"}
        source=file:$CLAWDBOT_TOKEN_FILE
    elif [ -z "$token" ]; then
        die "there is no token to let anybody in: set CLAWDBOT_TOKEN, to what" \
            "\"openssl rand -hex 24\" prints, or CLAWDBOT_TOKEN_FILE"
    fi

    case $token in
        "" | *[!!-~]* | *,*) token= ;;
    esac
    { [ -n "$token" ] && [ "${#token}" -le 4096 ]; } \
        || die "$name holds no token: it takes 1 to 4096 visible ASCII" \
               "characters without spaces and commas"

    put TOKEN "$source"
}


set_log_level()
{
    level=${CLAWDBOT_LOG_LEVEL:-notice}

    case $level in
        info | notice | warn | error | crit | alert | emerg) ;;
        debug)
            say "CLAWDBOT_LOG_LEVEL is info instead of debug: NGINX's debug" \
                "log shows the tokens of all users"
            level=info ;;
        *) die "CLAWDBOT_LOG_LEVEL takes debug, info, notice, warn, error," \
               "crit, alert or emerg" ;;
    esac

    put LOG_LEVEL "$level"
}


set_metrics()
{
    port=${CLAWDBOT_METRICS_PORT:-9091}

    case ${CLAWDBOT_METRICS_ENABLED:-true} in
        true | True | TRUE | yes | on | 1)   part metrics yes ;;
        false | False | FALSE | no | off | 0) part metrics no ;;
        *) die "CLAWDBOT_METRICS_ENABLED takes true or false" ;;
    esac

    { number "$port" 65535 && [ "$port" != 8080 ]; } \
        || die "CLAWDBOT_METRICS_PORT takes a port from 1 to 65535 that is" \
               "not 8080, the port of the API"

    put METRICS_PORT "$port"
}


# As the ollama client reads it.
set_ollama()
{
    url=${OLLAMA_HOST:-http://ollama:11434}
    scheme=http
    usual=80
    https=no

    case $url in
        http://*)  ;;
        https://*) scheme=https usual=443 https=yes ;;
        *)         usual=11434 ;;
    esac

    url=${url#"$scheme://"}
    split OLLAMA_HOST "${url%/}" "$usual" \
        "it takes host, host:port, http://host:port or https://host:port"
    case $host in
        0.0.0.0 | \[::\])
            die "OLLAMA_HOST is where a server listens, on all addresses:" \
                "name the host that runs Ollama" ;;
    esac
    resolve OLLAMA_HOST

    header=$host:$port
    case $scheme:$port in
        http:80 | https:443) header=$host ;;
    esac

    put OLLAMA_SCHEME "$scheme"
    put OLLAMA_ADDRESS "$host:$port"
    put OLLAMA_HEADER "$header"
    put OLLAMA_NAME "$host"
    part https "$https"
}


# unescape TEXT: prints it with its %XX as bytes
unescape()
{
    text=$1
    while [ "$text" != "${text#*%}" ]; do
        printf %s "${text%%\%*}"
        text=${text#*%}
        rest=${text#??}
        # the format is an escape on purpose
        # shellcheck disable=SC2059
        printf "\\$(printf %03o "0x${text%"$rest"}")"
        text=$rest
    done
    printf %s "$text"
}


# keep_password TEXT: of the URL, into a file that this user alone may read
keep_password()
{
    case $1 in
        *%[!0-9A-Fa-f]* | *%?[!0-9A-Fa-f]* | *% | *%?)
            die "REDIS_URL has a % in its password that is no %XX: write it" \
                "as %25" ;;
        *%[01][0-9A-Fa-f]* | *%7[Ff]*)
            die "REDIS_URL has a control character in its password: give" \
                "Redis one without" ;;
    esac

    unescape "$1" >"$run/redis.password"
}


# split_redis URL: into $address without the password, $user and $password
split_redis()
{
    rest=${1#*://}
    user=
    password=

    case $rest in
        *@*)
            user=${rest%@*}
            rest=${rest##*@}
            case $user in
                *[/?#]*) die "REDIS_URL has a / ? or # in its password:" \
                             "write it as %2F, %3F or %23" ;;
                *:*)     password=${user#*:} user=${user%%:*} ;;
            esac
            case $user in
                *[!A-Za-z0-9._~%-]*) die "REDIS_URL has a user with other" \
                    "characters than letters, digits and . _ ~ -: write them" \
                    "as %XX" ;;
            esac ;;
    esac

    split REDIS_URL "${rest%%/*}" 6379 "$redis_forms"
    resolve REDIS_URL

    database=
    case $rest in
        */*[!0-9]*)     die "REDIS_URL has no number of a database after its" \
                            "host: $redis_forms" ;;
        */?*)           database=/${rest#*/} ;;
    esac

    address=${1%%://*}://${user:+$user@}$host:$port$database
}


set_redis()
{
    redis_forms="it takes redis://[user[:password]@]host[:port][/db], rediss://\
 for TLS, or unix:/path"
    file=${REDIS_PASSWORD_FILE:-}
    user=
    password=

    case ${REDIS_URL:-} in
        "")
            [ -z "$file" ] || die "REDIS_PASSWORD_FILE is set without" \
                                  "REDIS_URL: set that, or remove it"
            part redis no
            return ;;
        *[!!-~]*)
            die "REDIS_URL has a space, or a character that is not ASCII:" \
                "write it as %XX" ;;
        redis://* | rediss://*)
            split_redis "$REDIS_URL" ;;
        unix:*[!A-Za-z0-9/._-]* | unix:[!/]* | unix:)
            die "REDIS_URL needs an absolute path of letters, digits and" \
                "/ . _ - after unix:" ;;
        unix:*)
            address=$REDIS_URL ;;
        *)
            die "REDIS_URL is no address of a Redis: $redis_forms" ;;
    esac

    if [ -n "$password" ]; then
        [ -z "$file" ] || die "REDIS_URL has a password and" \
                              "REDIS_PASSWORD_FILE is set: remove one"
        keep_password "$password"
        file=$run/redis.password
    elif [ -n "$file" ]; then
        check_file REDIS_PASSWORD_FILE "$file"
    elif [ -n "$user" ]; then
        die "REDIS_URL has a user without a password: add :password, or set" \
            "REDIS_PASSWORD_FILE"
    fi

    put REDIS "$address${file:+ password=file:$file}"
    part redis yes
}


# check_folder PATH CURE
check_folder()
{
    { [ -d "$1" ] && [ -w "$1" ]; } \
        || die "the folder $1 is not there for user $(id -u) to write: $2"
}


render()
{
    check_folder "$run" "mount a tmpfs there that belongs to that user"
    check_folder "$state" "mount a volume there that belongs to that user"

    check_names
    set_token
    set_log_level
    set_metrics
    set_ollama
    set_redis

    put RUN "$run"
    put STATE "$state"
    # a container without IPv6 has no address of it, not even the loopback's
    if read -r _ 2>/dev/null </proc/net/if_inet6; then
        part ipv6 yes
    else
        part ipv6 no
    fi

    sed "$edits" "$etc/nginx.conf.template" >"$conf"
}


[ $# -gt 0 ] || set -- nginx
[ "$1" = nginx ] || exec "$@"
shift

if [ -f "$mounted" ]; then
    say "$mounted is used as it is"
    conf=$mounted
else
    render
fi

exec nginx -e stderr -c "$conf" -g "daemon off;" "$@"
