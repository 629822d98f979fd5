# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# A module made with FAULTS=y: the nth thing of its own that can fail does, for every n. Debian's kernels have no fault
# injection of their own (CONFIG_FAULT_INJECTION).
insmod /lib/faults/holdfast.ko || exit 1
kmod_test "every nth failure" >sweep 2>&1
rc=$?
cat sweep
[ "$rc" = 0 ] && grep -q '^# [0-9]* steps can fail$' sweep || exit 1
rmmod holdfast
