#!/bin/bash
#
# Builds the image of docker/Dockerfile where there is no container engine and
# no registry, with buildah and chroot, and prints what buildah needs to know
# where the image is:
#
#     export CONTAINERS_STORAGE_CONF=$(tools/image.sh)
#     buildah images
#
# The base is a Debian of its own: debootstrap's smallest, without what Debian
# leaves out of its slim images, from the mirror that this machine uses.  Base
# and image are kept outside the tree.  Nothing is done when neither the files
# that the image is built from nor this script changed.  As root.

set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tools/common.sh"

release=trixie
base=localhost/debian:$release-slim
version=$(sed -n 's/^#define NGX_HTTP_CLAWD_VERSION *"\(.*\)"/\1/p' \
              "$root/src/metrics/ngx_http_clawd_prometheus.h")
image=localhost/clawdbot:$version

dir=$cache/image
log=$dir/build.log
export CONTAINERS_STORAGE_CONF=$dir/storage.conf


# logged COMMAND...: its output is only of interest when it fails
logged()
{
    "$@" >"$log" 2>&1 </dev/null \
        || { tail -n 30 "$log" >&2; die "$1 failed, all of it is in $log"; }
}


# The APT of this machine, for the time of a build: its mirror, its proxy and
# whom it trusts.  Nothing of it gets into an image.
write_apt()
{
    # shellcheck disable=SC2016  # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' \
                 'Created-By: Packages' \
                 | awk '$2 == "Debian" && !found++ { print $1 }')
    [ -n "$mirror" ] || die "apt knows no Debian mirror: run apt-get update"

    rm -rf "$dir/apt"
    mkdir -p "$dir"/apt/{apt.conf,sources.list,preferences}.d
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "$mirror $release main" >"$dir/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(https?|Check-|Retries)' \
        >"$dir/apt/apt.conf.d/host" || true

    local trusted=/etc/ssl/certs/ca-certificates.crt
    if [ -f $trusted ]; then
        cp $trusted "$dir/apt/"
        echo 'Acquire::https::CAInfo "/etc/apt/ca-certificates.crt";' \
            >>"$dir/apt/apt.conf.d/host"
    fi
}


# What Debian's slim images leave out, now and when packages are installed.
slim()
{
    cat >"$1/etc/dpkg/dpkg.cfg.d/docker" <<'CONF'
force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/groff/*
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
CONF
    find "$1/usr/share/doc" -type f ! -name copyright -delete
    rm -rf "$1"/usr/share/{groff,info,lintian,locale,man}/* \
        "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*.log

    : >"$1/etc/apt/sources.list"
    : >"$1/etc/resolv.conf"
    echo localhost >"$1/etc/hostname"
}


build_base()
{
    local container

    say "making a Debian $release to build from (a minute, once)"
    rm -rf "$dir/root"
    logged debootstrap --variant=minbase $release "$dir/root" "$mirror"
    slim "$dir/root"

    container=$(buildah from scratch)
    logged buildah copy "$container" "$dir/root" /
    logged buildah config --cmd bash "$container"
    logged buildah commit "$container" $base
    logged buildah rm "$container"
    rm -rf "$dir/root"
}


build_image()
{
    say "building $image (a minute)"
    logged buildah bud --isolation chroot --format docker --pull-never \
        --volume "$dir/apt:/etc/apt:ro" -f "$root/docker/Dockerfile" \
        -t "$image" "$root"
    # what the tags named before; a container may still need it
    buildah rmi --prune >/dev/null 2>&1 || true
}


# context: what the image is built from, as a checksum
context()
{
    (cd "$root" && sed -n 's/^!//p' .dockerignore \
        | tar -c --sort=name --mtime=@0 --owner=0 --group=0 -T - \
            .dockerignore docker/Dockerfile tools/image.sh) | sha256sum
}


# current IMAGE PRINT: whether the image is there and made from the same
current()
{
    [ "$(cat "$dir/${1##*/}.made-from" 2>/dev/null)" = "$2" ] \
        && buildah inspect --type image "$1" >/dev/null 2>&1
}


[ "$(id -u)" = 0 ] || die "debootstrap and buildah need root here"
need_debs buildah netavark debootstrap debian-archive-keyring

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9

cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "vfs"
graphroot = "$dir/storage"
runroot = "$dir/run"
CONF

print=$(sha256sum <"$0")
if ! current $base "$print"; then
    write_apt
    build_base
    echo "$print" >"$dir/${base##*/}.made-from"
fi

print=$(context)
if ! current "$image" "$print"; then
    write_apt
    build_image
    echo "$print" >"$dir/${image##*/}.made-from"
fi

echo "$CONTAINERS_STORAGE_CONF"
