#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Boot a Debian kernel in QEMU and run the tests in it that this machine's kernel can't run.
#   run.sh [-s 6.12|6.1] [-l LIST] [-t SECONDS] [--two] [--packed] [--control|--all|--none] BUILD
#   -s         the kernel's series (6.12)
#   -l         the list of tests in this folder (tests.list; with --two: two.list)
#   -t         the most seconds the guest gets (1800; two.list: 600)
#   --two      two guests with an Ethernet between them
#   --packed   what was packed last is what is wanted: nothing has been built since
#   --control  break it in every way that it should notice, and see that it does
#   --all      --control, then the tests
#   --none     fetch, build and pack only
# BUILD is a Meson build folder with the tests built. What is fetched stays in BUILD/guest/SERIES, what a run leaves
# is in BUILD/guest/SERIES/run (node1 and node2): results, console, status, files/. KVM is used where guests start with it
# (ACCEL=tcg: not). The last line is "guest SERIES: P passed, F failed, S skipped". Exit 3: the kernel can't be had.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
series=6.12 list= limit= mode=tests two= packed=
while [ $# -gt 1 ]; do
	case $1 in
	-s) series=$2 && shift ;;
	-l) list=$2 && shift ;;
	-t) limit=$2 && shift ;;
	--two) two=yes ;;
	--packed) packed=yes ;;
	--control | --all | --none) mode=${1#--} ;;
	*) break ;;
	esac
	shift
done
[ $# = 1 ] && [ -x "$1/tools/holdfast" ] || {
	sed -n 's/^# \{0,1\}//; 3,16p' "$0" >&2
	exit 2
}
build=$(cd "$1" && pwd)
dir=$build/guest/$series
. "$here/boot.sh"

step() {
	now=$(date +%s)
	echo "# $1: $((now - began)) s"
	began=$now
}
began=$(date +%s)

sh "$here/fetch.sh" "$series" "$dir" || exit 3
kernel=$(cat "$dir/version")
step "kernel $kernel"

# build_module FOLDER [VARIANT MAKE-VARIABLE...]: in a copy, the sources stay as they are. A variant goes to a folder of
# its own, where modprobe in the guest doesn't look. Debian's headers have no whole vmlinux: no BTF.
build_module() {
	folder=$1 variant=${2:-} name=${1##*/}
	shift "$(($# > 1 ? 2 : 1))"
	copy=$dir/src/$name$variant to=$dir/modules/$variant
	mkdir -p "$copy" "$to"
	cp -r "$here/../../include" "$folder" "$copy/"
	if make -s -C "$copy/$name" KDIR="$dir/headers/usr/src/linux-headers-$kernel" CONFIG_DEBUG_INFO_BTF_MODULES= "$@" \
		>"$copy/log" 2>&1 && ! grep -qi warning "$copy/log"; then
		cp "$copy/$name"/*.ko "$to/"
	else
		cat "$copy/log"
		echo "not ok - guest $series: $name doesn't build, or with warnings: $*"
		echo "$name" >>"$dir/modules/bad"
	fi
}
# What two guests run has no need of the proxy's module.
build_modules() {
	rm -rf "$dir/modules" "$dir/src"
	mkdir "$dir/modules"
	build_module "$here/control" &
	if [ -d "$here/../../kmod" ] && [ -z "$two" ]; then
		build_module "$here/../../kmod" &
		wait
		build_module "$here/../../kmod" drops BROKEN=y &
		build_module "$here/../../kmod" faults FAULTS=y &
	fi
	wait
	if [ -s "$dir/modules/bad" ]; then
		echo "guest $series: 0 passed, $(($(wc -l <"$dir/modules/bad"))) failed, 0 skipped"
		exit 1
	fi
}

compile() {
	${CC:-gcc} -O2 -Wall -Wextra -Werror -std=gnu17 -D_GNU_SOURCE -static -o "$dir/$1" "$here/$1.c"
}

compile tsc_khz
if [ -z "$packed" ] || [ ! -f "$dir/initrd" ]; then
	rm -f "$dir/initrd" # else one of the past could pass for this build's
	build_modules
	step "modules"
	compile init
	sh "$here/pack.sh" "$build" "$dir" "$dir"
	step "packed, $(($(wc -c <"$dir/initrd") >> 20)) MiB"
fi

# judge NAME OUT: what boot left there
judge() {
	sh "$here/judge.sh" "$1" "$2"
}

# The tests, in one guest or in two
tests() {
	if [ -n "$two" ]; then
		most=600
		[ -z "$list" ] || most=1800
		two_guests "${list:-two.list}" "${limit:-$most}"
		step "two guests"
		both_good "$dir/node1" "$dir/node2"
	else
		boot_tests "$dir/run" "${list:-tests.list}" "${limit:-1800}"
		step "guest"
		judge "guest $series" "$dir/run"
	fi
}

choose_accel
bad=0
. "$here/two.sh"
. "$here/foreign.sh"
case $mode in
control | all)
	(. "$here/${two:+two-}control.sh") || bad=1
	step "controls"
	;;
esac
case $mode in
tests | all) tests || bad=1 ;;
esac
exit "$bad"
