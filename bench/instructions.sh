#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Instructions of one operation, by callgrind: a case is run with two numbers of operations, and the difference
# in all the instructions of the process is divided by the difference in operations, so that neither start nor
# set-up counts. The loop around the operation does. Only `manual`, as valgrind knows no userfaultfd, and UCX
# without the events that tell it of an unmap, as it can't hook munmap there. Neither is on the path of a hit.
# Prints lines "ENGINE VARIANT CASE NUMBER".     instructions.sh BENCH-DIR
set -u
dir=$1
few=10000
many=210000

# total ENGINE VARIANT CASE N
total() {
	timeout 60 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
		"$dir/holdfast-bench-$1" "$2" "$3" "$4" 2>&1 >/dev/null </dev/null |
		sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

# count ENGINE VARIANT CASE NAME-OF-VARIANT
count() {
	[ -x "$dir/holdfast-bench-$1" ] || return 0
	a=$(total "$1" "$2" "$3" $few)
	b=$(total "$1" "$2" "$3" $many)
	[ "${a:-0}" -gt 0 ] && [ "${b:-0}" -gt "${a:-0}" ] || return 0
	echo "$1 $4 $3 $(((b - a + (many - few) / 2) / (many - few)))"
}

command -v valgrind >/dev/null || exit 0
for name in hit hit-part hit-1000-aligned hit-1000-page hit-1000-malloc; do
	count ours manual $name manual
	count ucx untold $name default
done
