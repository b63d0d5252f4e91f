#!/bin/sh
#
# Restarts the Ollama of docker-compose.yml, if it was not restarted too often:
#
#     scale_up.sh [ALERT...]      because of these alerts
#     scale_up.sh --check         only whether it could
#
# Ends with 0 when it restarted or was not allowed to, with 1 when it failed.
# Failed attempts count as well.  What it does is on standard error.
#
#     SCALE_UP_INTERVAL       seconds from one attempt to the next, 300
#     SCALE_UP_MAX_PER_HOUR   attempts in an hour, 3
#     SCALE_UP_TIMEOUT        seconds for Docker to do it, 60; 20 at least

set -eu
umask 077

container=clawdbot-ollama
here=$(dirname "$0")
state=/var/lib/scale_up
attempts=$state/attempts        # a line each: the second of it


say()
{
    echo "scale_up: $*" >&2
}


# check_number NAME VALUE LEAST
check_number()
{
    case $2 in
        *[!0-9]* | 0* | ??????*) ;;
        *) [ "$2" -lt "$3" ] || return 0 ;;
    esac
    say "$1 is $2: it takes a number from $3 to 99999"
    exit 1
}


# The attempts of the last hour, the oldest first.  Those that are yet to come
# are of a clock that was wrong.
recent()
{
    [ ! -f "$attempts" ] \
        || awk -v now="$now" '$1 > now - 3600 && $1 <= now' "$attempts"
}


# Sets $why when another attempt has to wait.
may_restart()
{
    count=$(recent | wc -l)
    last=$(recent | tail -n 1)
    why=
    if [ -n "$last" ] && [ $((now - last)) -lt "$interval" ]; then
        why="the last restart was $((now - last)) s ago, $interval s are to\
 pass"
    elif [ "$count" -ge "$max" ]; then
        why="$count restarts in the last hour are all that may be: look at it"
    fi
    [ -z "$why" ]
}


# Written before it is tried: a restart that kills this one counts, too.
note_attempt()
{
    { recent; echo "$now"; } >"$attempts.new"
    mv "$attempts.new" "$attempts"
}


interval=${SCALE_UP_INTERVAL:-300}
max=${SCALE_UP_MAX_PER_HOUR:-3}
limit=${SCALE_UP_TIMEOUT:-60}
check_number SCALE_UP_INTERVAL "$interval" 1
check_number SCALE_UP_MAX_PER_HOUR "$max" 1
# An Ollama that hangs is killed after 10 s only.
check_number SCALE_UP_TIMEOUT "$limit" 20

for tool in flock awk python3; do
    command -v $tool >/dev/null || { say "there is no $tool here"; exit 1; }
done

if ! [ -d "$state" ] || ! [ -w "$state" ]; then
    say "there is no folder $state to write to: mount a volume there"
    exit 1
fi
[ "${1:-}" != --check ] || exit 0

because=${*:-"a user's wish"}

exec 9>"$state/lock"
if ! flock -n 9; then
    say "not restarted for $because: a restart is under way"
    exit 0
fi

now=$(date +%s)
if ! may_restart; then
    say "not restarted for $because: $why"
    exit 0
fi

note_attempt
say "restarting $container for $because ($((count + 1)) of $max in an hour)"
if ! said=$(python3 "$here/responder/restart.py" "$container" "$limit" 2>&1)
then
    say "$said"
    exit 1
fi
say "$container was restarted in $(($(date +%s) - now)) s"
