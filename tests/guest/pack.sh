#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Pack what the guest has in its memory: init, busybox, the tests and what they need.   pack.sh BUILD DIR OUT
#   BUILD  the project's Meson build folder
#   DIR    a kernel by fetch.sh; modules of our own are in DIR/modules
#   OUT    OUT/initrd is written; OUT/init and lists are there already
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$1 dir=$2 out=$3
kernel=$(cat "$dir/version")
tree=$out/tree
libs=$dir/root/usr/lib/x86_64-linux-gnu
umask 022
rm -rf "$tree"
mkdir -p "$tree/bin" "$tree/lib64" "$tree/etc" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/tmp" "$tree/run" \
	"$tree/lib/modules/$kernel/extra" "$tree/usr/lib/x86_64-linux-gnu"
ln -s bin "$tree/sbin"

# program FILE [WHERE]: with the shared libraries that it asks for, which go where the loader looks anyway
program() {
	cp "$1" "$tree/${2:-bin}/"
	LD_LIBRARY_PATH=$libs ldd "$1" 2>/dev/null | while read -r name arrow path rest; do
		case $name$arrow$path in
		/*) [ -f "$tree$name" ] || cp -L "$name" "$tree/lib64/" ;; # the loader
		*=*not) echo "pack.sh: $1 needs $name" >&2 && exit 1 ;;
		*=*/*) [ -f "$tree/lib/$name" ] || cp -L "$path" "$tree/lib/$name" ;;
		esac
	done
}

# module NAME: with all that it depends on; modprobe in the guest can't unpack
module() {
	modprobe -d "$dir/root" -S "$kernel" --show-depends "$1" | while read -r word path rest; do
		[ "$word" = insmod ] || continue
		to="$tree/lib/modules/$kernel/${path#*"$kernel"/}"
		mkdir -p "${to%/*}"
		case $path in
		*.xz) [ -f "${to%.xz}" ] || xz -dc "$path" >"${to%.xz}" ;;
		*) cp "$path" "$to" ;;
		esac
	done
}

busybox=$(command -v busybox)
cp "$busybox" "$tree/bin/busybox"
for applet in $("$busybox" --list); do
	[ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
rm -f "$tree/bin/ip" # not iproute2's

program "$build/tools/holdfast"
for test in "$build"/tests/test_* "$build"/tests/*_test; do
	[ ! -f "$test" ] || [ ! -x "$test" ] || program "$test"
done
! grep -q ibv_reg_mr "$tree"/lib/libholdfast.so* || : >"$tree/lib/holdfast-verbs" # for NEEDS: the NIC verbs is built in
! grep -q rdma_bind_addr "$tree"/lib/libholdfast.so* || : >"$tree/lib/holdfast-rdmacm" # ... and finds devices by address
for tool in ip rdma; do
	program "$(command -v $tool)"
done
for tool in ibv_devices ibv_devinfo ibv_rc_pingpong rping; do
	program "$dir/root/usr/bin/$tool"
done
mkdir -p "$tree/etc/libibverbs.d" "$tree/usr/lib/x86_64-linux-gnu/libibverbs"
cp "$dir/root/etc/libibverbs.d/rxe.driver" "$tree/etc/libibverbs.d/"
program "$libs"/libibverbs/librxe-rdmav*.so usr/lib/x86_64-linux-gnu/libibverbs
# What is loaded by name: by a thread that is cancelled, by a test of dlclose().
cp -L /lib/x86_64-linux-gnu/libgcc_s.so.1 /lib/x86_64-linux-gnu/libBrokenLocale.so.1 "$tree/lib/"

for name in virtio_net virtio_pci veth dummy rdma_rxe rdma_ucm ib_uverbs crc32_generic 8021q; do
	module $name
done
ln -s "lib/modules/$kernel/extra" "$tree/modules"
for file in "$dir"/modules/*.ko; do
	[ ! -f "$file" ] || cp "$file" "$tree/modules/"
done
for variant in drops faults; do
	[ ! -d "$dir/modules/$variant" ] || cp -r "$dir/modules/$variant" "$tree/lib/$variant"
done
cp "$dir/root/lib/modules/$kernel"/modules.builtin* "$dir/root/lib/modules/$kernel/modules.order" \
	"$tree/lib/modules/$kernel/"
depmod -b "$tree" "$kernel"

cp "$out/init" "$tree/init"
cp "$here"/*.list "$tree/etc/"
cp -r "$here/t" "$tree/t"
echo "root:x:0:0::/tmp:/bin/sh
nobody:x:65534:65534::/tmp:/bin/sh" >"$tree/etc/passwd"
(cd "$tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$out/initrd"
