#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Run a command in a root of the other Debian: 13 on a machine of 12, 12 on any other Debian.
#   other-debian.sh BUILD-DIR [COMMAND...]   by default: scripts/check.sh --host /build
# The root is BUILD-DIR/root-CODENAME. debootstrap makes it once; later runs keep it, with what was built in it.
# The source is mounted read-only at /holdfast, which is the working directory. The command may write to /build.
# All mounts are in a mount namespace of their own: they end with the last process, however that ends.
# Exit 3: this machine can't do it (no root, no Debian, no debootstrap, no mirror); the last line says why.
set -eu
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")/.." && pwd)

# inside ROOT COMMAND...: the part that runs in the new namespaces
inside() {
	root=$1
	shift
	mount --bind "$here" "$root/holdfast"
	mount -o remount,bind,ro "$root/holdfast"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb CI="${CI:-}" chroot "$root" \
		sh -c 'cd /holdfast && "$@"' sh "$@"
}
if [ "${1:-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

leave_out() {
	echo "other-debian.sh: $*"
	exit 3
}

[ $# -ge 1 ] || {
	sed -n 's/^# \{0,1\}//; 3,9p' "$0" >&2
	exit 2
}
mkdir -p "$1"
build=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- sh scripts/check.sh --host /build

mine=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
[ -f /etc/debian_version ] && [ -n "$mine" ] || leave_out "this is no release of Debian"
other=bookworm
[ "$mine" != bookworm ] || other=trixie
[ "$(id -u)" = 0 ] || leave_out "it takes root"
unshare --mount --pid --fork true 2>/dev/null || leave_out "no namespace for the mounts may be made here"
command -v debootstrap >/dev/null || leave_out "there is no debootstrap"
root=$build/root-$other

# The mirror that this machine's own packages come from
mirror() {
	apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | sed -n "s/^$mine //p" | head -n 1
}

# A root is complete if the file `made` is there: whatever an ended run has left is made anew.
make_root() {
	[ ! -f "$root/made" ] || return 0
	rm -rf --one-file-system "$root"
	echo "other-debian.sh: making a root of $other"
	debootstrap --variant=minbase "$other" "$root" "$(mirror)" >"$root.log" 2>&1 || {
		tail -n 5 "$root.log"
		return 1
	}
	mkdir -p "$root/holdfast" "$root/build"
	rm "$root.log"
	touch "$root/made"
}
make_root || leave_out "debootstrap can't make a root of $other"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"

# A killed script takes the whole namespace with it.
exec unshare --mount --pid --fork --kill-child sh "$here/scripts/other-debian.sh" --inside "$root" "$@"
