# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# For run.sh: a fault of a driver that is not holdfast's. Its warning ends the guest (panic_on_warn) in the middle of a test.
# Then that test and those behind it run in a fresh guest, twice at most. What was told before that test stays.

# The one that is known: soft RoCE destroys an object to which it still has references itself.
foreign='WARNING: .* at drivers/infiniband/sw/rxe/rxe_pool\.c:[0-9]+ __rxe_cleanup'
# Any module of this project, in any line of a stack. "Modules linked in:" is no stack; a process may be called holdfast.
ours='\[(holdfast|guest_control)( |\])'

# foreign_fault OUT: judge.sh was there. True if the log's first complaint is that one and no module of ours is in its stack.
foreign_fault() {
	first=$(sed -n 's/^not ok - .*: the kernel complained: //p' "$1/verdict" | head -n 1)
	echo "$first" | grep -qE "$foreign" || return 1
	! grep -v 'Modules linked in:' "$1/console.txt" | grep -qE "$ours"
}

# ended_in OUT: the test that was running
ended_in() {
	awk '/^# run / { last = substr($0, 7) } END { print last }' "$1/results"
}

# told_before OUT TEST: what the guest told before it began that test
told_before() {
	awk -v run="# run $2" '$0 == run { exit } { print }' "$1/results"
}

# counts_of: of results on stdin, as init wants them: number,passed,failed,skipped
counts_of() {
	awk '/^not ok [0-9]+ - / { n++; f++ } /^ok [0-9]+ - / { n++; if (/ # SKIP /) s++; else p++ }
		END { print n + 0 "," p + 0 "," f + 0 "," s + 0 }'
}

# boot_tests OUT LIST SECONDS: boot, and again from the test in which a foreign driver failed
boot_tests() {
	out=$1
	rm -rf "$out.before" && mkdir -p "$out.before/files"
	: >"$out.before/results"
	boot "$@"
	for again in 1 2 3; do
		at=$(ended_in "$out")
		told_before "$out" "$at" >"$out.before/part"
		sh "$here/judge.sh" "guest $series" "$out" >"$out/verdict" 2>&1 || true
		[ "$again" -lt 3 ] && [ -n "$at" ] && foreign_fault "$out" || break
		cat "$out.before/part" >>"$out.before/results"
		cp "$out/console" "$out.before/console.$again"
		cp -r "$out/files/." "$out.before/files/"
		echo "# a fault of soft RoCE, none of holdfast's in its stack: \"$at\" runs again in a fresh guest, $again of 2"
		boot "$@" "from=$at" "told=$(counts_of <"$out.before/results")"
	done
	cat "$out.before/results" "$out/results" >"$out.before/all"
	mv "$out.before/all" "$out/results"
	cp -rn "$out.before/files/." "$out/files/"
}
