#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Install the Debian packages that are missing: need.sh demo | check | bench | guest | full
set -eu

build="gcc libc6-dev meson ninja-build pkg-config liburing-dev libsodium-dev libibverbs-dev librdmacm-dev"
case "${1:-}" in
demo)  packages="$build" ;;
check) packages="$build libcmocka-dev clang libclang-rt-dev spin gnuplot-nox mandoc util-linux procps iproute2 gdb strace" ;;
guest) packages="$build libcmocka-dev gcc-12 make qemu-system-x86 busybox-static kmod cpio xz-utils zstd iproute2" ;;
full)  packages="debootstrap" ;;
bench) packages="$build libucx-dev valgrind gnuplot-nox" ;;
*)     echo "usage: $0 demo|check|bench|guest|full" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "holdfast: not a Debian machine; install the equivalents of: $packages" >&2
	exit 0
fi

missing=
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "holdfast: as root, run: apt-get install$missing" >&2
		exit 1
	fi
	sudo=sudo
fi
echo "holdfast: installing$missing"
$sudo apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq \
	--no-install-recommends $missing >/dev/null
