# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Hazards 1 to 22 (docs/hazards.md) with a NIC and a proxy, each judged by the bytes in the pages that the NIC has pinned:
# changes of mappings by test_changes, which knows what each must come to, races by test_races and by torture. With verbs the
# changes by doctor.
#   hazards.sh NIC PROXY      such as: uring kmod, verbs:rxe0 uffd
nic=$1 proxy=$2
table=/out/hazards-${nic%%:*}-$proxy.txt
. /t/rxe.sh

told() {
	[ "$1" = 0 ] && echo "ok - $2" || {
		echo "not ok - $2"
		grep -v ' OK \]\| RUN ' "$3"
		cp "$3" "${table%.txt}.$(basename "$3")"
	}
}

if [ "$nic" = verbs:rxe0 ]; then
	have_verbs || {
		echo "holdfast was built without verbs"
		exit 77
	}
	rxe_up || exit 1
fi
[ "$proxy" != kmod ] || modprobe holdfast || exit 1
export HF_TEST_NIC="$nic" HF_TEST_PROXY="$proxy" HF_TEST_SCALE=64 # emulated processors are slow

# Into the files changes, races, torture: a case, then "OK ]" or "SKIPPED ]" before it.
with_tests() {
	test_changes >changes 2>&1
	told "$?" "$nic, $proxy: $(grep -c 'OK \]' changes) changes of mappings" changes
	test_races >races 2>&1
	told "$?" "$nic, $proxy: $(grep -c 'OK \]' races) races" races
}

# What it takes in an emulated machine to send a packet allows the changes once: by doctor, with the same judge as torture.
# Under kmod all are cached, and none is a blind spot.
with_doctor() {
	holdfast doctor --changes --nic "$nic" --proxy "$proxy" >"/out/doctor-${nic%%:*}-$proxy.txt"
	told "$?" "$nic, $proxy: nothing is stale but where it is known" "/out/doctor-${nic%%:*}-$proxy.txt"
	awk -v proxy="$proxy" '
		/^change / { at = index($0, " " proxy); next }
		at && !NF { exit }
		at {
			verdict = substr($0, at + 1)
			if (verdict ~ /^(exact|kept)/ || (proxy != "kmod" && verdict ~ /^(not cached|blind spot)/)) print "OK ] " $1
			else if (verdict ~ /^can.t run/) print "SKIPPED ] " $1
			else print $1 " " verdict
		}' "/out/doctor-${nic%%:*}-$proxy.txt" >changes
	[ "$(grep -c 'OK \]' changes)" -ge 60 ]
	told "$?" "$nic, $proxy: $(grep -c 'OK \]' changes) changes of mappings" changes
	holdfast torture --nic "$nic" --unsafe --seconds 1 --case 'munmap-*' >unsafe
	[ "$?" = 1 ]
	told "$?" "$nic: a proxy that drops every event is found out" unsafe
}

case $nic in
verbs:*) with_doctor ;;
*) with_tests ;;
esac
holdfast torture --nic "$nic" --proxy "$proxy" --seconds 2 --case 'race-*,malloc-churn' >torture 2>&1
told "$?" "$nic, $proxy: torture: $(grep 'wrong bytes' torture)" torture

# Every case of torture with its hazard, and what came of it: no hazard may be without one that ran and was good.
holdfast torture --list | while read -r case hazard number what; do
	case $case in
	deny-* | race-deny*) continue ;;
	esac
	if [ "$hazard" = hazard ] && [ "$number" -le 22 ]; then
		if grep -q "OK \] $case\$" changes; then
			verdict=ok
		elif grep -q "SKIPPED \] $case\$" changes; then
			verdict="left out"
		else
			verdict=$(awk -v name="$case" '$1 == name { print $3 }' torture)
		fi
		printf '%2d  %-22s %-9s %s\n' "$number" "$case" "${verdict:-not run}" "$what"
	fi
done | sort -n -s -k 1,1 >"$table"
missing=$(awk '/^ *[0-9]+  [^ ]+ +ok / { good[$1] = 1 } END { for (i = 1; i <= 22; i++) if (!good[i]) printf " %d", i }' "$table")
# What may be left out: what kernels before 6.13 don't have, what io_uring refuses to pin before 6.5, and the collapse
# of memory that has a userfaultfd, which 6.1 refuses (EINVAL).
allowed='madv-guard|process-madvise'
case $nic:$(uname -r) in
uring:6.[0-4].*) allowed="$allowed|shmdt-shmat" ;;
esac
case $proxy:$(uname -r) in
uffd:6.1.*) allowed="$allowed|thp-collapse" ;;
esac
[ -z "$missing" ] && ! grep -v ' ok ' "$table" | grep -Ev "($allowed) +left out"
told "$?" "$nic, $proxy: hazards 1 to 22, $(grep -c ' ok ' "$table") cases${missing:+; without a good one:$missing}" "$table"

[ "$nic" != verbs:rxe0 ] || rxe_down
[ "$proxy" != kmod ] || rmmod holdfast
