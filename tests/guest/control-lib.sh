# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For control.sh and two-control.sh: how it is counted what was noticed. $here and $dir are set.
good=0
bad=0

# noticed WHAT: by the exit status of what ran before
noticed() {
	if [ "$?" = 0 ]; then
		good=$((good + 1))
		echo "ok - control: $1"
	else
		bad=$((bad + 1))
		echo "not ok - control: $1"
	fi
}

# says OUT PATTERN: what judge.sh said of OUT, and that it failed
says() {
	! grep -qx 0 "$1/judged" && grep -qE "$2" "$1/verdict" && return 0
	sed 's/^/#   /' "$1/verdict"
	return 1
}

judged() {
	rc=0
	sh "$here/judge.sh" control "$1" >"$1/verdict" 2>&1 || rc=$?
	echo "$rc" >"$1/judged"
}

# a run as it should be: the judge says so. Then each thing by which it may be worse.
sample() {
	rm -rf "$dir/sample" && mkdir -p "$dir/sample"
	printf '# kernel 6\n# run a\nok 1 - a (0.1 s)\n1..1\n# end: 1 passed, 0 failed, 0 skipped\n' >"$dir/sample/results"
	printf '[    0.04] tsc: Unable to calibrate against PIT\r\n[    1.0] mtrr: fine\r\n' >"$dir/sample/console"
	echo 33 >"$dir/sample/status"
}
