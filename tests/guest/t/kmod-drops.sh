# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# The control of the tests of the module: one made with BROKEN=y, whose notifier says nothing. Each test that is about
# being told has to fail, none of the others, and torture has to find bytes of memory that was there before.
insmod /lib/drops/holdfast.ko || exit 1

for part in "every change is told" "changes by another process" "from thread to thread" "thousands of ranges"; do
	kmod_test "$part" >part 2>&1
	if [ "$?" = 1 ] && grep -q "^not ok .*$part" part; then
		echo "ok - fails, as it should: kmod_test: $part"
	else
		cat part
		echo "not ok - passes without events: kmod_test: $part"
	fi
done
for part in "input of secure" "limits of a user"; do
	kmod_test "$part" >part 2>&1 && grep -q "^ok .*$part" part && echo "ok - passes, as it should: kmod_test: $part" || {
		cat part
		echo "not ok - fails for another reason: kmod_test: $part"
	}
done

holdfast torture --proxy kmod --seconds 2 --case 'munmap-whole,mremap-onto,memfd-punch-other,race-recycle' >torture 2>&1
rc=$?
for row in munmap-whole mremap-onto memfd-punch-other; do
	if [ "$rc" = 1 ] && grep -qE "^$row +[0-9]+ +STALE" torture; then
		echo "ok - torture finds stale bytes: $row"
	else
		cat torture
		echo "not ok - torture finds nothing: $row"
	fi
done
rmmod holdfast
