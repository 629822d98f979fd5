# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# test_changes, with what takes hugetlb pages (vm.nr_hugepages), which test machines seldom have: here none of that may
# be left out.
told() {
	[ "$1" = 0 ] && echo "ok - $2" || {
		echo "not ok - $2"
		cat "$3"
	}
}

HF_TEST_SCALE=8 test_changes >changes 2>&1
told "$?" "test_changes, $(grep -c 'OK \]' changes) changes of mappings" changes
sed -n '/run\.$/q; s/.*SKIPPED \] /left out: /p' changes
for row in hugetlb hugetlb-dontneed; do
	grep -q "OK \] $row\$" changes
	told "$?" "test_changes: $row" changes
done
holdfast torture --seconds 2 --case 'hugetlb*' >torture 2>&1 && ! grep -q "can't run here" torture &&
	[ "$(grep -c '^hugetlb' torture)" = 2 ]
told "$?" "torture: hugetlb, hugetlb-dontneed" torture
holdfast doctor >doctor 2>&1
grep -q 'hugetlb: 16 of 2048 KiB, 16 free' doctor
told "$?" "doctor sees the huge pages, all free again" doctor
