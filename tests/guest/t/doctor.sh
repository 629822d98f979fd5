# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# The table of `holdfast doctor`: every change of a mapping with uring and every proxy, as measured. The module is loaded, so
# that its column is there; a column of a proxy that drops every event is the control. With verbs: hazards.sh.
module=
if [ -f /modules/holdfast.ko ]; then
	modprobe holdfast || exit 1
	module=kmod
fi

told() {
	[ "$1" = 0 ] && echo "ok - $2" || {
		echo "not ok - $2"
		cat /out/doctor.txt
	}
}

# cells NIC PROXY: what the column has, one cell a line, without the note's number
cells() {
	awk -v nic="$1" -v proxy="$2" '
		/^changes, measured/ { at = 0; here = $NF == nic }
		here && /^change / { at = index($0 " ", " " proxy " "); next }
		!NF { here = 0 }
		here && at { cell = substr($0, at + 1, 14); sub(/ *\[.*/, "", cell); sub(/  .*/, "", cell); sub(/ $/, "", cell); print cell }
	' /out/doctor.txt
}

holdfast doctor --nic uring --json >/out/doctor.json
told "$?" "doctor: nothing is stale but where it is known"
holdfast doctor --nic uring --unsafe >/out/doctor.txt
[ "$?" = 1 ]
told "$?" "doctor: a proxy that drops every event is found out"
grep -q 'hugetlb: 16 of 2048 KiB, 16 free' /out/doctor.txt
told "$?" "doctor: the huge pages are seen, all of them free"
for nic in uring; do
	[ "$(cells $nic unsafe | grep -c STALE)" -ge 40 ]
	told "$?" "$nic: $(cells $nic unsafe | grep -c STALE) changes are stale when every event is dropped"
	for proxy in $module uffd supervise; do
		cells $nic "$proxy" >cells
		[ "$(wc -l <cells)" -ge 60 ] && ! grep -Ev '^(exact|kept|not cached|refused|blind spot|can.t run)$' cells
		told "$?" "$nic, $proxy: $(sort cells | uniq -c | awk '{ n = $1; $1 = ""; printf "%s%d%s", (NR > 1 ? ", " : ""), n, $0 }')"
	done
	if [ -n "$module" ]; then
		! cells $nic kmod | grep -E '^(not cached|blind spot)$'
		told "$?" "$nic, kmod: everything is cached, and nothing a blind spot"
	fi
done
[ -z "$module" ] || rmmod holdfast
