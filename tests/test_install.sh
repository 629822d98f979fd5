#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Install into an empty folder, then build and run an example as a user would: by pkg-config alone.
#   test_install.sh BUILD-DIR SOURCE-DIR
set -eu
build=$1 source=$2
fail() { echo "FAILED: $*" >&2; exit 1; }

# A sanitized library needs a sanitized program: nothing to learn here.
if grep -q 'sanitize' "$build/meson-info/intro-buildoptions.json" &&
   nm -D "$build"/src/libholdfast.so.0 | grep -q '__[atu][sb]*an_'; then
	exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

DESTDIR=$dir meson install -C "$build" --no-rebuild >"$dir/log" 2>&1 || { cat "$dir/log"; fail "install"; }

pc=$(find "$dir" -name holdfast.pc)
[ -n "$pc" ] || fail "no holdfast.pc"
export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$dir"
lib=$(dirname "$(find "$dir" -name libholdfast.so.0)")
# shellcheck disable=SC2046
${CC:-cc} -std=gnu17 -D_GNU_SOURCE -Wall -Werror -o "$dir/example" "$source/examples/own_backend.c" \
	$(pkg-config --cflags --libs holdfast) || fail "the example doesn't build against the installed library"
LD_LIBRARY_PATH=$lib "$dir/example" >/dev/null || fail "the example fails"
LD_LIBRARY_PATH=$lib "$(find "$dir" -path '*bin/holdfast')" version | grep -q . || fail "holdfast version"

# The public names, versioned, and no others.
nm -D --defined-only "$lib/libholdfast.so.0" | awk '$2 != "A" { print $3 }' >"$dir/names"
grep -q '^hf_get@@HOLDFAST_0.1$' "$dir/names" || fail "hf_get has no version"
! grep -v '^hf_' "$dir/names" || fail "names that aren't hf_ are exported"
for header in "$source"/include/holdfast/holdfast.h "$source"/include/holdfast/backend.h \
	"$source"/include/holdfast/sim.h "$source"/include/holdfast/san.h; do
	grep -o '\bhf_[a-z_]*(' "$header" | tr -d '(' | sort -u
done | sort -u >"$dir/declared"
for name in $(sed 's/@.*//' "$dir/names"); do
	grep -qx "$name" "$dir/declared" || fail "$name is exported and in no header"
done

# The same for the names of Windows Sockets Direct: a library of its own, with an example that needs nothing else.
# shellcheck disable=SC2046
${CC:-cc} -std=gnu17 -D_GNU_SOURCE -Wall -Werror -o "$dir/pair" "$source/examples/ws2san_pair.c" \
	$(pkg-config --cflags --libs holdfast-ws2san) || fail "ws2san_pair doesn't build against the installed library"
LD_LIBRARY_PATH=$lib "$dir/pair" >"$dir/log" 2>&1 || { cat "$dir/log"; fail "ws2san_pair fails"; }
nm -D --defined-only "$lib/libholdfast-ws2san.so.0" | awk '$2 != "A" { print $3 }' >"$dir/wsnames"
grep -q '^WSPRdmaWrite@@HOLDFAST_WS2SAN_0.1$' "$dir/wsnames" || fail "WSPRdmaWrite has no version"
for name in $(sed 's/@.*//' "$dir/wsnames"); do
	grep -qE "^[A-Za-z].*[ *]$name\(" "$source/include/holdfast/ws2san.h" || fail "$name is exported and in no header"
done
[ "$(wc -l <"$dir/wsnames")" -eq 26 ] || fail "$(wc -l <"$dir/wsnames") names of Windows Sockets Direct instead of 26"

[ -n "$(find "$dir" -name 'holdfast.1*')" ] || fail "no man page"

# The module for DKMS: all that is built is there, and it is of this version; with the rule for its device.
dkms=$(find "$dir" -path '*/src/holdfast-*' -name dkms.conf)
[ -n "$dkms" ] || fail "no dkms.conf"
dkms=${dkms%/dkms.conf}
grep -qx "PACKAGE_VERSION=\"${dkms##*/holdfast-}\"" "$dkms/dkms.conf" || fail "dkms.conf isn't of ${dkms##*/}"
grep -q "^MODULE_VERSION(\"${dkms##*/holdfast-}\")" "$dkms/main.c" || fail "the module isn't of ${dkms##*/}"
for object in $(sed -n 's/^holdfast-y := //p' "$source/kmod/Kbuild"); do
	[ -f "$dkms/${object%.o}.c" ] || fail "${object%.o}.c isn't with the module's source"
done
for header in "$source"/kmod/*.h "$source"/include/uapi/*.h; do
	[ -n "$(find "$dkms" -name "${header##*/}" -exec cmp -s {} "$header" \; -print)" ] || fail "${header##*/} isn't with the module's source"
done
[ -n "$(find "$dir" -path '*/lib/udev/rules.d/60-holdfast.rules')" ] || fail "no udev rule"

# Headers stand alone, in C and in C++; and a C++ program steers the simulator of the library that was built as C.
for h in holdfast backend sim san ws2san; do
	echo "#include <holdfast/$h.h>" | ${CC:-cc} -std=gnu17 -Wall -Werror -fsyntax-only -xc - \
		-I"$source/include" || fail "$h.h doesn't stand alone"
done
cxx=$(command -v "${CXX:-c++}" || command -v g++ || command -v clang++ || :)
if [ -n "$cxx" ]; then
	for std in 11 14 17 20; do
		for h in holdfast backend sim san ws2san; do
			echo "#include <holdfast/$h.h>" | "$cxx" -std=c++$std -Wall -Wextra -Wpedantic -Werror -fsyntax-only \
				-xc++ - -I"$source/include" || fail "$h.h is no C++$std"
		done
	done
	cat >"$dir/steer.cc" <<-'EOF'
		#include <holdfast/sim.h>
		static char memory[8192] __attribute__((aligned(4096)));
		int main()
		{
			hf_switch *sw; hf_provider *p; hf_region r;
			hf_sim sim = {};
			sim.limit_count = 1;
			if (hf_switch_open("proxy=manual", &sw) || hf_provider_open_nic(sw, hf_nic_find("sim"), &sim, "hard=on", &p))
				return 1;
			if (hf_get(p, memory, 4096, HF_READ, &r) || sim.regs != 1 || sim.live_bytes != 4096)
				return 2;
			if (hf_get(p, memory + 4096, 4096, HF_READ, &r) != -12)
				return 3;
			return 0;
		}
	EOF
	# shellcheck disable=SC2046
	"$cxx" -Wall -Werror -o "$dir/steer" "$dir/steer.cc" $(pkg-config --cflags --libs holdfast) || fail "sim.h can't be used by C++"
	LD_LIBRARY_PATH=$lib "$dir/steer" || fail "a C++ program that steers the simulator: $?"
else
	echo "no C++ compiler: the headers were not tried in C++"
fi
echo "installed, built against, run: $(wc -l <"$dir/names") names"
