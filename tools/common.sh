# shellcheck shell=sh
# shellcheck disable=SC2034  # cache is for the scripts that source this
#
# Shared by the scripts in tools/ and t/e2e/: messages, the cache folder and
# packages by name.  Source it; it changes nothing by itself.

cache="${XDG_CACHE_HOME:-$HOME/.cache}/clawd"


# say TEXT: progress, on standard error so that standard output stays clean.
say()
{
    printf '== %s\n' "$*" >&2
}


# die TEXT: one sentence and a failing exit.
die()
{
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}


# missing_debs PACKAGE...: prints those that are not installed.
missing_debs()
{
    for deb in "$@"; do
        case "$(dpkg-query -W -f '${Status}' "$deb" 2>/dev/null)" in
            *" installed") ;;
            *) printf '%s\n' "$deb" ;;
        esac
    done
}


# need_debs PACKAGE...: installs what is missing, or says what to install.
need_debs()
{
    missing=$(missing_debs "$@" | tr '\n' ' ')
    missing=${missing% }
    [ -n "$missing" ] || return 0

    [ "$(id -u)" = 0 ] \
        || die "please install first, as root: apt-get install $missing"

    say "installing Debian packages: $missing"
    apt_get update || say "the package lists could not be refreshed"
    # $missing is a list of words on purpose
    # shellcheck disable=SC2086
    apt_get install -y --no-install-recommends $missing \
        || die "apt-get could not install: $missing"
}


apt_get()
{
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >&2
}


# make_venv DIR: a Python virtual environment, made once.
make_venv()
{
    [ -x "$1/bin/pip" ] && return 0

    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        need_debs python3-venv
    fi

    rm -rf "$1"
    mkdir -p "${1%/*}"
    python3 -m venv "$1" || die "python3 could not make a virtual environment"
}
