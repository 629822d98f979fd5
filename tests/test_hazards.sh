#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# docs/hazards.md agrees with the tables and tests of hazards 1 to 22: what it says itself at its top. Then the same check must
# find what is wrong with damaged copies.
#   test_hazards.sh SOURCE-DIR
set -u
cd "$1" || exit 1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/check.awk" <<'AWK'
FNR == 1 { file = FILENAME; sub(/.*\//, "", file); above = "" }

# { "name", 9, ...: a change or a race
(file == "changes.c" && /^\t\{ "[a-z0-9-]+", [0-9]+, GROUND_/) || (file == "torture_race.c" && /^\t\{ "[a-z0-9-]+", [0-9]+, [0-9]+,/) {
	name = quoted($0)
	number = $0
	sub(/^[^,]*, /, "", number)
	number += 0
	if (number <= 22 && name !~ /deny/) {
		hazard[name] = number
		if (file == "torture_race.c")
			wants[number, "uffd", "exact"] = wants[number, "kmod", "exact"] = 1
	}
}

# { "name", { UFFD, KMOD }, ...: what it must come to
file == "test_changes.c" && /^\t\{ "[a-z0-9-]+", \{ [A-Z]+, [A-Z]+ \}/ {
	name = quoted($0)
	line = $0
	sub(/^[^{]*\{[^{]*\{ /, "", line)
	split(line, by, /[, }]+/)
	want(hazard[name], "uffd", by[1])
	want(hazard[name], "kmod", by[2])
}

file == "test_races.c" && /^static void test_/ {
	name = $3
	sub(/\(.*/, "", name)
	says[name] = above
}
file == "test_races.c" { above = /^$/ ? "" : above $0 "\n" }

file == "tests.list" && /sh \/t\/hazards.sh/ { pairs[$(NF - 1) " " $NF] = 1 }

file ~ /\.md$/ && /^\| [0-9]+ \|/ {
	n = split($0, cell, / *\| */)
	key = cell[2]
	if (key in seen)
		print key ": more than one row"
	seen[key] = 1
	check_cases(key, cell[4])
	check_tests(key, cell[5])
	check_outcome(key, "uffd", cell[6])
	check_outcome(key, "kmod", cell[7])
	if (cell[8] != cell[6] || cell[9] != cell[7])
		print key ": verbs and uring differ"
}

function quoted(line) {
	sub(/^[^"]*"/, "", line)
	sub(/".*/, "", line)
	return line
}

function want(number, proxy, outcome) {
	wants[number, proxy, outcome == "SEEN" || outcome == "REPLACED" ? "exact" : outcome == "KEPT" || outcome == "EITHER" ? "kept" : outcome == "UNCACHED" ? \
		"not cached" : tolower(outcome)] = 1
}

function check_cases(key, cases,    part, i, n) {
	n = split(cases, part, /, */)
	for (i = 1; i <= n; i++) {
		if (!(part[i] in hazard))
			print key ": there is no " part[i]
		else if (hazard[part[i]] != key)
			print key ": " part[i] " is of hazard " hazard[part[i]]
		listed[part[i]] = 1
	}
}

function check_tests(key, tests,    part, i, n) {
	if (tests == "-" && key < 16)
		return
	n = split(tests, part, /, */)
	for (i = 1; i <= n; i++) {
		if (!(part[i] in says))
			print key ": there is no test " part[i]
		else if (says[part[i]] !~ "Hazard " key "[^0-9]")
			print key ": " part[i] " doesn't say so"
	}
}

function check_outcome(key, proxy, cell,    part, i, n, all, outcome, there) {
	n = split("exact,kept,not cached,blind,rights", part, ",")
	for (i = 1; i <= n; i++)
		if ((key, proxy, part[i]) in wants)
			all = all (all == "" ? "" : ", ") part[i]
	if (cell != all)
		print key ": under " proxy " it is " all ", not " cell
}

END {
	for (i = 1; i <= 22; i++)
		if (!(i in seen))
			print i ": no row"
	for (name in hazard)
		if (!(name in listed) && hazard[name] in seen)
			print hazard[name] ": " name " is left out"
	split("uring uffd,uring kmod,verbs:rxe0 uffd,verbs:rxe0 kmod", pair, ",")
	for (i = 1; i <= 4; i++)
		if (!(pair[i] in pairs))
			print "the guest doesn't run " pair[i]
}
AWK

# check TABLE LIST
check() {
	awk -f "$dir/check.awk" tools/changes.c tools/torture_race.c tests/test_changes.c tests/test_races.c "$2" "$1" ||
		echo "the check itself failed"
}

faults=$(check docs/hazards.md tests/guest/tests.list)
if [ -n "$faults" ]; then
	echo "$faults"
	exit 1
fi

# The control: each damage is found, and nothing else.
damaged=0
found_is() {
	[ "$2" = "$3" ] || {
		echo "control: $1 gives '$2' instead of '$3'"
		exit 1
	}
	damaged=$((damaged + 1))
}
damage() {
	sed "$1" docs/hazards.md >"$dir/damaged.md"
	cmp -s docs/hazards.md "$dir/damaged.md" && { echo "control: $1 changes nothing"; exit 1; }
	found_is "$1" "$(check "$dir/damaged.md" tests/guest/tests.list)" "$2"
}
damage '/^| 8 |/d' '8: no row'
damage '/^| 8 |/{p}' '8: more than one row'
damage 's/, memfd-punch-other//' '9: memfd-punch-other is left out'
damage 's/remap-file-pages/remap-no-pages/' '8: there is no remap-no-pages
8: remap-file-pages is left out'
damage '/^| 8 |/s/remap-file-pages/remap-file-pages, mmap-fixed/' '8: mmap-fixed is of hazard 2'
damage '/^| 9 |/s/not cached/exact/' '9: under uffd it is not cached, not exact
9: verbs and uring differ'
damage '/^| 8 |/s/exact/not cached/g' '8: under kmod it is exact, not not cached'
damage '/^| 19 |/s/test_same_miss_is_one_registration/test_no_miss/' '19: there is no test test_no_miss'
damage '/^| 19 |/s/test_same_miss_is_one_registration/test_partial_unmap_in_use/' "19: test_partial_unmap_in_use doesn't say so"
damage '/^| 21 |/s/race-lastput-invalidate/race-neighbour/' '21: race-neighbour is of hazard 22
21: race-lastput-invalidate is left out'
sed '/hazards.sh verbs:rxe0 kmod/d' tests/guest/tests.list >"$dir/tests.list"
found_is "tests.list" "$(check docs/hazards.md "$dir/tests.list")" "the guest doesn't run verbs:rxe0 kmod"
echo "hazards 1 to 22 have their changes, races and tests; $damaged damages were found"
