#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# docs/contract.md and the tests agree: every requirement R1 to R49 (but R46) and every known fault 1 to 13 has a row; every
# source and test that a row names is there; and every test that it names says the number, in its name, in the comment above it,
# or inside. Then the same check must find what is wrong with damaged copies of the table.
#   test_contract.sh SOURCE-DIR
set -u
cd "$1" || exit 1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Reads the test programs, then the table; prints what is wrong.
cat >"$dir/check.awk" <<'AWK'
# A test program: each function with the comment that stands directly above it, under "program function".
FNR == 1 { program = FILENAME; sub(/.*\//, "", program); table = !sub(/\.c$/, "", program); programs[program] = 1; above = ""; name = "" }
!table && /^$/ { above = "" }
!table { above = above $0 "\n" }
!table && /^static [a-z]+ \*?[A-Za-z_0-9]+\(/ {
	name = $0
	sub(/\(.*/, "", name)
	sub(/.*[ *]/, "", name)
	text[program " " name] = above
	next
}
!table && name != "" { text[program " " name] = text[program " " name] $0 "\n"; if (/^}/) name = "" }

# A row: | number | ... | tests |
table && /^\| R?[0-9]+ \|/ {
	n = split($0, cell, "|")
	key = cell[2]
	gsub(/ /, "", key)
	if (key in seen)
		print key ": more than one row"
	seen[key] = 1
	check_row(key, cell[n - 1])
}
table { check_files($0) }

function check_row(key, tests,    part, i, n) {
	gsub(/^ +| +$/, "", tests)
	if (tests == "")
		print key ": no test"
	else {
		n = split(tests, part, ";")
		for (i = 1; i <= n; i++)
			check_program(key, part[i])
	}
}

# `program`: name, name
function check_program(key, part,    program, name, i, n) {
	program = part
	sub(/`:.*/, "", program)
	gsub(/[` ]/, "", program)
	if (!(program in programs)) {
		print key ": there is no test program " program
		return
	}
	sub(/.*:/, "", part)
	gsub(/ /, "", part)
	n = split(part, name, ",")
	for (i = 1; i <= n; i++)
		check_test(key, program " " name[i])
}

function check_test(key, test) {
	if (!(test in text))
		print key ": there is no test " test
	else if (text[test] !~ (key ~ /^R/ ? "(^|[^A-Za-z0-9])" key "([^0-9]|$)" : "fault ?" key "([^0-9]|$)"))
		print key ": " test " doesn't say so"
}

function check_files(line,    file, rc) {
	while (match(line, /`(src|include|tests|kmod)\/[a-z0-9_\/]*\.[a-z]+`/)) {
		file = substr(line, RSTART + 1, RLENGTH - 2)
		line = substr(line, RSTART + RLENGTH)
		rc = getline junk < file
		close(file)
		if (rc < 0)
			print file " isn't there"
	}
}

END {
	for (i = 1; i <= 49; i++)
		if (i != 46 && !("R" i in seen))
			print "R" i ": no row"
	for (i = 1; i <= 13; i++)
		if (!(i in seen))
			print i ": no row"
}
AWK

check() {
	awk -f "$dir/check.awk" tests/test_*.c tests/guest/*_test.c "$1" || echo "the check itself failed"
}

faults=$(check docs/contract.md)
if [ -n "$faults" ]; then
	echo "$faults"
	exit 1
fi

# The control: each damage is found, and nothing else.
damaged=0
damage() {
	sed "$1" docs/contract.md >"$dir/damaged.md"
	cmp -s docs/contract.md "$dir/damaged.md" && { echo "control: $1 changes nothing"; exit 1; }
	found=$(check "$dir/damaged.md")
	[ "$found" = "$2" ] || { echo "control: $1 gives '$found' instead of '$2'"; exit 1; }
	damaged=$((damaged + 1))
}
damage '/^| R33 |/d' 'R33: no row'
damage '/^| 7 |/d' '7: no row'
damage '/^| R33 |/{p}' 'R33: more than one row'
damage '/^| R8 |/s/: descriptor_R8_/: descriptor_R7_/' 'R8: there is no test test_ws2san descriptor_R7_R9_fault4_fault9'
damage '/^| R8 |/s/: descriptor_R8_.*9 |/: too_large_R13 |/' "R8: test_ws2san too_large_R13 doesn't say so"
damage '/^| R4 |/s/: handle_[a-zA-Z0-9_]*/: segments_R12/' "R4: test_ws2san segments_R12 doesn't say so"
damage '/^| R8 |/s/`test_ws2san`/`test_nothing`/' 'R8: there is no test program test_nothing'
damage '/^| R8 |/s/[^|]*|$/ none: no idea |/' 'R8: there is no test program none:noidea'
damage '/^| R38 |/s/t_ends/t_end_is_noticed/' "R38: kmod_test t_end_is_noticed doesn't say so"
damage '/^| R8 |/s/[^|]*|$/ |/' 'R8: no test'
damage '/^| 13 |/s/sweep_manual_uring/sweep_manual_sim/' "13: test_faults sweep_manual_sim doesn't say so"
damage '/^| R33 |/s,src/drop.c,src/dropped.c,' "src/dropped.c isn't there"
echo "48 requirements and 13 known faults have their tests; $damaged damages were found"
