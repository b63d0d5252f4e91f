#!/bin/sh
#
# Writes Alertmanager's configuration and becomes Alertmanager.  Its arguments
# are Alertmanager's.
#
# alertmanager.yml has the names of secrets and settings; what comes in their
# place is checked by the characters that it may have.  Secrets get into a file
# that this user alone can read, and into no argument of a command.

set -eu
set -f
umask 077
LC_ALL=C

here=$(dirname "$0")
run=/run/alertmanager
conf=$run/alertmanager.yml
edits=$run/edits


die()
{
    echo "start.sh: $*" >&2
    exit 1
}


# read_secret NAME: into $secret; empty if it is not to be used
read_secret()
{
    secret=$(cat "/run/secrets/$1") \
        || die "/run/secrets/$1 is missing, or not for user $(id -u) to read:" \
               "docker/setup.sh makes it"
}


# put NAME VALUE: what stands for NAME.  Of the characters that sed or a quoted
# string of YAML takes for its own, values have & only.
put()
{
    printf 's"%s"%s"\n' "$1" "$(printf %s "$2" | sed 's/&/\\&/g')"
}


# leave_out PART
leave_out()
{
    echo "/#@if $1\$/,/#@end $1\$/d"
}


webhook()
{
    read_secret alert_webhook_url
    case $secret in
        "") leave_out webhook
            return ;;
        *[!A-Za-z0-9._~:/?#@\!\$\&+,\;=%*\(\)-]* | http://[/?#]* | https://[/?#]*)
            die "secrets/alert_webhook_url is no address of a webhook: write" \
                "other characters than those of URLs as %XX" ;;
        http://?* | https://?*) ;;
        *)  die "secrets/alert_webhook_url must begin with https:// or" \
                "http://" ;;
    esac
    put http://ALERT_WEBHOOK_URL "$secret"
}


# setting NAME VALUE
setting()
{
    case $2 in
        "") die "secrets/wecom_api_secret is there and $1 is not set: set it" \
                "in docker/.env, or empty the secret" ;;
        *[!A-Za-z0-9._@\|-]*)
            die "$1 takes letters, digits and . _ @ - |" ;;
    esac
    put "$1" "$2"
}


wecom()
{
    read_secret wecom_api_secret
    case $secret in
        "") leave_out wecom
            return ;;
        *[!A-Za-z0-9_-]*)
            die "secrets/wecom_api_secret has characters that no secret of" \
                "WeCom has" ;;
    esac
    put WECOM_API_SECRET "$secret"
    setting WECOM_CORP_ID "${WECOM_CORP_ID:-}"
    setting WECOM_AGENT_ID "${WECOM_AGENT_ID:-}"
    setting WECOM_TO_USER "${WECOM_TO_USER:-@all}"
}


selfheal()
{
    case ,${COMPOSE_PROFILES:-}, in
        *,selfheal,*) ;;
        *)            leave_out selfheal ;;
    esac
}


{ webhook; wecom; selfheal; } >"$edits"
sed -f "$edits" "$here/alertmanager.yml" >"$conf"
rm "$edits"

exec alertmanager --config.file="$conf" "$@"
