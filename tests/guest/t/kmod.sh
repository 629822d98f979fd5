# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# holdfast.ko comes and goes: as often as one likes, but not while somebody has it open.
fault() {
	echo "$*"
	exit 1
}
for i in 1 2 3; do
	modprobe holdfast || fault "can't be loaded, time $i"
	[ -c /dev/holdfast ] || fault "no /dev/holdfast, time $i"
	rmmod holdfast || fault "can't be unloaded, time $i"
	[ ! -e /dev/holdfast ] || fault "/dev/holdfast stays behind, time $i"
	[ ! -d /sys/module/holdfast ] || fault "the module stays behind, time $i"
done
modprobe holdfast
exec 3<>/dev/holdfast || fault "can't be opened"
! rmmod holdfast 2>/dev/null || fault "is unloaded while it is open"
exec 3>&-
rmmod holdfast || fault "can't be unloaded after it was open"
