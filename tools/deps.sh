#!/bin/sh
#
# Installs by name what a task needs, on Debian, and says what it installs;
# silent and quick when everything is there.
#
#     tools/deps.sh module|build|test|check|fuzz|source ...

set -eu

. "$(dirname "$0")/common.sh"

module="gcc make libc6-dev libssl-dev zlib1g-dev libpcre2-dev libhiredis-dev
    libjansson-dev"
build="nginx nginx-dev $module"
unit="libcmocka-dev"
test="perl libtest-base-perl curl python3 redis-server tzdata"
check="clang clang-tidy clang-format cppcheck python3 git"
fuzz="clang libclang-rt-dev llvm"
source="debian-archive-keyring clang libclang-rt-dev llvm"

packages=
for group in "$@"; do
    case $group in
        module) packages="$packages $module" ;;
        build)  packages="$packages $build" ;;
        test)   packages="$packages $build $unit $test" ;;
        check)  packages="$packages $build $check" ;;
        fuzz)   packages="$packages $build $fuzz" ;;
        source) packages="$packages $build $source" ;;
        *)      die "unknown group $group" ;;
    esac
done

# The packages are words of a list.
# shellcheck disable=SC2086
need_debs $packages
