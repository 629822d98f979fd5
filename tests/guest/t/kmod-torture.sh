# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Every change of the table under the module, judged by the bytes that an io_uring reads and writes through pinned pages.
# What no other proxy can watch must have been cached here and registered anew after the change: its verdict is "ok".
# Without a registration in the cache it would be "not cached"; with the old one, STALE.
modprobe holdfast || exit 1
seconds=${1:-20}
holdfast torture --proxy kmod --seconds "$seconds" >/out/torture-kmod.txt
rc=$?
if [ "$rc" != 0 ]; then
	cat /out/torture-kmod.txt
	echo "not ok - holdfast torture --proxy kmod: exit $rc"
fi

# told WHAT: by the exit status of what ran before
told() {
	[ "$?" = 0 ] && echo "ok - $1" || echo "not ok - $1"
}
summary=$(grep ' stale hits, .* wrong bytes$' /out/torture-kmod.txt)
echo "$summary" | grep -qE '^[0-9]+ lookups, [1-9][0-9]* hits, 0 stale hits, 0 wrong bytes$'
told "torture under kmod: $summary"

# Secured memory (R37): refused, but for what a seal doesn't stop, which torture knows; without the seal (6.10) not tried.
case $(uname -r) in
6.[0-9].*) want='Refusing was not tried: ' ;;
*) want='of changes of secured memory: [1-9][0-9]* refused, 0 not refused that had to be' ;;
esac
grep -q "^$want" /out/torture-kmod.txt
told "torture under kmod: R37: $(grep '^of changes of secured\|^Refusing' /out/torture-kmod.txt)"

# By a file, and by another process: it was cached, and none was stale or wrong. A lookup may go round the cache while a change
# of something else is told. On Linux 6.1 the NIC refuses System V segments.
sysv=shmdt-shmat
[ "${want#Refusing}" = "$want" ] || sysv=
for row in $sysv memfd-truncate memfd-truncate-other memfd-punch memfd-punch-other file-truncate file-truncate-private file-truncate-other \
	madv-remove madv-remove-other munmap-memfd remap-file-pages hugetlb hugetlb-dontneed; do
	awk -v row="$row" '$1 == row { found = $3 == "ok" && $4 >= 2 && $6 < $4 && $7 + $8 == 0 } END { exit !found }' \
		/out/torture-kmod.txt
	told "torture under kmod: $row is cached, and right afterwards"
done
rmmod holdfast
