#!/bin/sh
#
# Prints the folder of the unpacked NGINX source of a Debian release:
#
#     tools/nginx-source.sh [bookworm|trixie]     (default: this release)
#
# The archive is fetched once, by apt with a source list of its own that
# names the main suite alone, from the mirror this machine already uses, and
# is kept outside the tree.  Only the upstream archive is taken: apt checks it
# against the signed index, and a mirror whose packaging files are being
# replaced does not matter.

set -eu

release=${1:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clawd/source/$release
state=$cache/apt

fail()
{
    echo "nginx-source: $*" 1>&2
    exit 1
}

if [ -f "$cache/path" ] && [ -d "$(cat "$cache/path")" ]; then
    cat "$cache/path"
    exit 0
fi

# One download at a time; whoever waited finds the work done.

mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9

if [ -f "$cache/path" ] && [ -d "$(cat "$cache/path")" ]; then
    cat "$cache/path"
    exit 0
fi

mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' \
             'Created-By: Packages' | awk '$2 == "Debian" { print $1; exit }')
[ -n "$mirror" ] || fail "apt knows no Debian mirror: run apt-get update."

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || fail "$keyring is missing: install debian-archive-keyring."

mkdir -p "$state/lists/partial"
cat > "$state/source.sources" <<EOF
Types: deb-src
URIs: $mirror
Suites: $release
Components: main
Signed-By: $keyring
EOF

apt_private()
{
    apt-get -q -o Dir::Etc::sourcelist="$state/source.sources" \
        -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$state/lists" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root "$@"
}

echo "fetching the NGINX source of Debian $release" 1>&2
apt_private update > "$state/log" 2>&1 \
    || { cat "$state/log" 1>&2; fail "the index of $release did not load."; }

cd "$cache"
apt_private --download-only --tar-only source nginx > "$state/log" 2>&1 \
    || { cat "$state/log" 1>&2; fail "the source did not load."; }

archive=$(ls nginx_*.orig.tar.gz | tail -n 1)
tar -xzf "$archive"
version=${archive#nginx_}
version=${version%.orig.tar.gz}
rm -rf "$state"
echo "$cache/nginx-$version" > path.tmp
[ -x "nginx-$version/configure" ] || fail "$archive has no configure script."
mv path.tmp path
cat path
