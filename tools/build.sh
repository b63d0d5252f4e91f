#!/bin/bash
#
# Builds the module in one of several ways, into build/KIND:
#
#     tools/build.sh dynamic    ngx_http_clawd_module.so for the packaged NGINX
#     tools/build.sh profile    the same, its functions not merged over files
#     tools/build.sh clang      the same, compiled by clang
#     tools/build.sh static     an NGINX of this release with the module in it
#     tools/build.sh asan       the same under AddressSanitizer and UBSAN
#     tools/build.sh 1.26       NGINX 1.26.3 of Debian 13 and the .so for it
#     tools/build.sh module     the .so for the NGINX whose source tree is in
#                               NGINX_SRC, built --with-compat
#
# NGINX is configured again only when the module's config, its list of
# sources, the flags or NGINX itself changed; else this is an incremental
# make.

set -euo pipefail

kind=${1:?usage: tools/build.sh dynamic|profile|clang|static|asan|1.26|module}
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/build/$kind
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clawd
jobs=$(nproc)

# What the module's own sources must satisfy on top of the -Wall -Wextra
# -Werror that NGINX compiles itself with.

# Unused parameters are part of NGINX's callbacks.

strict="-std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wvla -Wformat=2"
strict="$strict -Wmissing-prototypes -Wdeclaration-after-statement"
strict="$strict -Wpointer-arith"
hardened="-O2 -g -fno-plt -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIC"

# The features that the tests use, as Debian's NGINX has them.

features=(
    --with-compat --with-debug --with-threads --with-pcre-jit
    --with-http_ssl_module --with-http_v2_module
    --with-http_stub_status_module --with-http_realip_module
    --with-http_auth_request_module --with-http_slice_module
    --with-http_addition_module --with-http_gunzip_module
    --with-http_sub_module --with-http_secure_link_module
)


fail()
{
    echo "build: $*" 1>&2
    exit 1
}


# configure SOURCE-FOLDER ARGUMENTS...

configure()
{
    local source=$1 log=$out/configure.log
    shift

    local print
    print=$(cd "$root" && echo "$source" "${NGINX_SRC:-}" "$@" \
        && sha256sum "$source/src/core/nginx.h" \
        && { "$packaged" -V 2>&1 || true; } && sha256sum config \
        && find src -name '*.[ch]' | sort)

    if [ -f "$out/Makefile" ] && [ "$print" = "$(cat "$out/print")" ]; then
        return
    fi

    rm -rf "$out"
    mkdir -p "$out"

    (cd "$source" && ./configure --builddir="$out" "$@") > "$log" 2>&1 \
        || { grep error: "$log" | head -n 5 1>&2
             fail "configure failed, see $log"; }

    echo "$print" > "$out/print"
}


compile()
{
    make -s -j "$jobs" -C "$1" -f "$out/Makefile" "$2"
}


# The tree of nginx-dev: headers and build scripts of the packaged NGINX.  The
# first argument is for the compiler, the others are for configure.

build_packaged()
{
    local source=/usr/share/nginx/src opt=$1

    shift

    [ -f $source/conf_flags ] || fail "nginx-dev is missing: run make deps."

    NGX_CONF_FLAGS=()
    . $source/conf_flags

    configure $source "${NGX_CONF_FLAGS[@]}" "$@" \
        --with-cc-opt="$opt $strict" \
        --with-ld-opt="-Wl,-z,relro -Wl,-z,now" \
        --add-dynamic-module="$root"

    compile $source modules
}


build_from_source()
{
    local source
    source=$("$root/tools/nginx-source.sh")

    configure "$source" "${features[@]}" --prefix="$out" "$@" \
        --add-module="$root"

    compile "$source" binary
}


# Undefined behaviour of the old NGINX itself is not ours to judge, its memory
# errors are: UBSAN looks at the module alone.

build_asan()
{
    local source ignore
    source=$("$root/tools/nginx-source.sh")
    ignore=$root/build/ubsan-ignore.txt

    printf '[undefined]\nsrc:src/*\nsrc:*/clawd/source/*\n' > "$ignore.new"
    printf 'src:%s/*\n' "$out" >> "$ignore.new"
    cmp -s "$ignore.new" "$ignore" || mv "$ignore.new" "$ignore"
    rm -f "$ignore.new"

    local opt="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"
    opt="$opt -fno-sanitize-recover=all -fsanitize-ignorelist=$ignore"
    opt="$opt -DNGX_DEBUG_PALLOC=1 -DNGX_DEBUG_MALLOC=1 -Wno-error"

    build_from_source --with-cc=clang --with-cc-opt="$opt" \
        --with-ld-opt="-fsanitize=address,undefined"
}


# The binary does not depend on the module: it is built once, outside the
# tree.

build_126()
{
    local source core
    source=$("$root/tools/nginx-source.sh" trixie)
    core=$cache/core/$(basename "$source")

    if [ ! -x "$core/nginx" ]; then
        echo "building $(basename "$source")" 1>&2
        mkdir -p "$core"
        (cd "$source" && ./configure --builddir="$core" --prefix="$core" \
            "${features[@]}" && make -s -j "$jobs" -f "$core/Makefile" binary) \
            > "$core/build.log" 2>&1 \
            || { tail -n 20 "$core/build.log" 1>&2; fail "NGINX: no build"; }
    fi

    configure "$source" "${features[@]}" --prefix="$core" \
        --with-cc-opt="$hardened $strict" --add-dynamic-module="$root"

    compile "$source" modules
    ln -sf "$core/nginx" "$out/nginx"
}


# For any other NGINX.  Its configure writes into its tree, so it gets a copy.

build_module()
{
    local source=${NGINX_SRC:-}

    [ -n "$source" ] || fail "say make module NGINX_SRC=DIR, with the source" \
        "tree of the NGINX that is to load the module (nginx -v tells which)."
    [ -x "$source/configure" ] && [ -f "$source/src/core/nginx.h" ] \
        || fail "$source is no NGINX source tree: it has no configure script" \
            "or no src/core/nginx.h."

    local copy=$root/build/module-source

    rm -rf "$copy"
    cp -Rp "$source" "$copy"

    configure "$copy" --with-compat \
        --with-cc-opt="$hardened $strict" \
        --with-ld-opt="-Wl,-z,relro -Wl,-z,now" \
        --add-dynamic-module="$root"

    compile "$copy" modules
}


# Two builds of one kind would trip over each other.

mkdir -p "$root/build"
exec 8> "$root/build/.$kind.lock"
flock 8

packaged=$(command -v nginx || true)
[ -n "$packaged" ] || packaged=/usr/sbin/nginx

case $kind in
    dynamic) build_packaged "$hardened -flto=auto" ;;
    profile) build_packaged "$hardened" ;;
    clang)   build_packaged "$hardened" --with-cc=clang ;;
    static)  build_from_source --with-cc-opt="$hardened" ;;
    asan)    build_asan ;;
    1.26)    build_126 ;;
    module)  build_module ;;
    *)       fail "unknown kind $kind" ;;
esac
