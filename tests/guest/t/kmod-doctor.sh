# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# The table of `holdfast doctor`: every change by every proxy, as measured in this guest. It goes to the host. The module
# comes first, is blind to nothing, and there is nothing that isn't cached under it (/tmp is a tmpfs: the NIC pins its files;
# on Linux 6.1 it refuses System V segments).
modprobe holdfast || exit 1
holdfast doctor >/out/doctor.txt || exit 1
grep -q '^change .* kmod  *uffd  *supervise  *manual' /out/doctor.txt || {
	cat /out/doctor.txt
	echo "not ok - a column for each proxy"
	exit 1
}
awk -v kernel="$(uname -r)" '
	/^change / { from = index($0, "kmod"); to = index($0, "uffd"); next }
	from && /^$/ { exit }
	from {
		verdict = substr($0, from, to - from)
		rows++
		if (verdict ~ /^ok/) good++
		else if (verdict ~ /^can.t run/) absent++
		else if (kernel ~ /^6\.1\./ && $1 == "shmdt-shmat" && verdict ~ /^not cached/) refused++
		else print
	}
	END {
		print (good < 55 || good + absent + refused != rows ? "not ok" : "ok") " - " rows " changes under kmod: " good \
			" seen or kept, " absent + 0 " that this kernel has not, " refused + 0 " that the NIC refuses"
	}' /out/doctor.txt
rmmod holdfast
