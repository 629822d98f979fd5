#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Fetch a Debian kernel of a series, its headers and the RDMA user space; unpack, never install.
#   fetch.sh 6.12|6.1 DIR
# What is there already isn't fetched again: then no network is needed. DIR gets version, vmlinux, root/ (the kernel's
# modules and the RDMA programs) and headers/. Needs no root.
set -eu
series=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
umask 022
me=$(cksum <"$0") # another one may want more
[ ! -f "$dir/version" ] || [ "$(cat "$dir/fetched-by" 2>/dev/null)" != "$me" ] || exit 0
rm -rf "$dir/version"
rm -rf "$dir/root" "$dir/headers" "$dir/debs"
mkdir -p "$dir/root" "$dir/headers" "$dir/debs"

fail() {
	echo "fetch.sh: $*" >&2
	exit 1
}

own=
apt() {
	cmd=$1
	shift
	# shellcheck disable=SC2086
	"$cmd" -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 $own "$@"
}

# Where the machine's package lists are missing or old, lists of our own, which take no root.
own_lists() {
	mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
	own="-o Dir::State=$dir/apt -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache=$dir/apt/cache"
	apt apt-get update
}

# depends PACKAGE PATTERN: the packages that it depends on
depends() {
	apt apt-cache depends "$1" 2>/dev/null | awk -v p="$2" '/Depends:/ && $NF ~ p { print $NF }'
}

# linux-image-6.12-amd64, or linux-image-amd64 where that is of the series
newest() {
	for meta in "linux-image-$series-amd64" linux-image-amd64; do
		depends "$meta" "^linux-image-${series}[.0-9]*[-+].*amd64$" | sed -n '1s/^linux-image-//p'
	done | head -n 1
}

get() {
	kernel=$(newest)
	[ -n "$kernel" ] || return 1
	headers=$(depends "linux-headers-$kernel" '^linux-(headers-.*-common|kbuild-|compiler-)')
	# shellcheck disable=SC2086
	(cd "$dir/debs" && apt apt-get download "linux-image-$kernel" "linux-headers-$kernel" $headers \
		ibverbs-utils ibverbs-providers libibverbs1 rdmacm-utils librdmacm1 libnl-3-200 libnl-route-3-200)
}

# The kernel as ELF: to unpack it in an emulated machine takes longer than all the rest of its start. The header of
# the packed one says where it is: setup_sects at 0x1f1, payload_offset and payload_length at 0x248. The last 4 bytes
# are no part of the packed stream, but its length.
unpack_kernel() {
	sectors=$(od -An -tu1 -j 497 -N 1 "$1")
	# shellcheck disable=SC2046
	set -- "$1" "$2" $(od -An -tu4 -j 584 -N 8 "$1")
	tail -c +$(((sectors + 1) * 512 + $3 + 1)) "$1" | head -c $(($4 - 4)) >"$2.packed"
	case $(od -An -tx1 -N 4 "$2.packed" | tr -d ' ') in
	28b52ffd) zstd -dcq ;;
	fd377a58) xz -dc ;;
	*) fail "$1 is packed in a way that this script doesn't know" ;;
	esac <"$2.packed" >"$2"
	rm "$2.packed"
	[ "$(od -An -tx1 -N 4 "$2" | tr -d ' ')" = 7f454c46 ] || fail "no ELF kernel in $1"
}

get 2>"$dir/apt.log" || { own_lists && get; } || {
	cat "$dir/apt.log" >&2
	fail "no kernel of series $series in Debian's archive as this machine has it"
}
for deb in "$dir"/debs/*.deb; do
	case ${deb##*/} in
	linux-headers-* | linux-kbuild-* | linux-compiler-*) dpkg-deb -x "$deb" "$dir/headers" ;;
	linux-image-*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/root" --wildcards './boot/vmlinuz*' \
		'*/lib/modules/*/modules.*' '*/kernel/crypto/*' '*/kernel/lib/*' '*/kernel/arch/*' '*/kernel/net/*' \
		'*/kernel/drivers/infiniband/*' '*/kernel/drivers/net/*' '*/kernel/drivers/virtio/*' \
		'*/kernel/fs/configfs/*' ;;
	*) dpkg-deb -x "$deb" "$dir/root" ;;
	esac
done
unpack_kernel "$dir/root/boot/vmlinuz-$kernel" "$dir/vmlinux"

# The headers look for their other half where they would be installed.
sed -i "s#include /usr/src/#include $dir/headers/usr/src/#" "$dir/headers/usr/src/linux-headers-$kernel/Makefile"
[ -d "$dir/root/lib/modules" ] || { mkdir -p "$dir/root/lib" && mv "$dir/root/usr/lib/modules" "$dir/root/lib/"; }
depmod -b "$dir/root" "$kernel"
rm -rf "$dir/debs" "$dir/apt" "$dir/apt.log"
echo "$me" >"$dir/fetched-by"
echo "$kernel" >"$dir/version"
