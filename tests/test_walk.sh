#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `holdfast walk`: every step as the contract says, with each proxy that this machine has; and a step that is sabotaged
# is told from one that isn't. Usage: test_walk.sh PATH-OF-HOLDFAST. Exit 77: this machine can't run it.
set -u
tool=$1
out=$(mktemp) || exit 99
log=$(mktemp) || exit 99
trap 'rm -f "$out" "$log"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	sed 's/^/    /' "$out" "$log"
	failures=$((failures + 1))
}

# expect CODE WORDS...
expect() {
	wanted=$1
	shift
	timeout 900 "$tool" "$@" >"$out" 2>"$log"
	code=$?
	[ "$code" -eq "$wanted" ] || fail "exit $code instead of $wanted: $*"
}

says() {
	grep -q -e "$1" "$out" "$log" || fail "no '$1' in the output of: $2"
}

# The number under a key of the report.
number() {
	sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$out" | tail -n 1
}

# is KEY -eq 3 WHAT
is() {
	[ "$(number "$1")" "$2" "$3" ] || fail "$1 is '$(number "$1")', not $2 $3: $4"
}

timeout 900 "$tool" walk >"$out" 2>"$log"
if [ $? -eq 3 ]; then
	cat "$log"
	exit 77
fi
steps=27

# As text: all steps, the requirements at the left, and the sum.
expect 0 walk
says '^  R22 I2 ' text
says '^  R30 ' text
says ' steps as the contract says' text
grep -q 'NOT AS IT SHOULD BE' "$out" && fail "a step that is not as it should be, with exit 0"

# As JSON, with every proxy there is. What supervise can, the others say that they can't.
for proxy in auto uffd supervise manual; do
	timeout 900 "$tool" walk --proxy $proxy --json >"$out" 2>"$log"
	code=$?
	if [ $code -eq 3 ]; then
		echo "not here: $proxy: $(cat "$log")"
		continue
	fi
	[ $code -eq 0 ] || fail "exit $code: $proxy"
	[ "$(grep -c '"verdict": ' "$out")" -eq $steps ] || fail "not $steps steps: $proxy"
	[ "$(grep -c '"requirements": "[RI][0-9RI ]*"' "$out")" -eq $steps ] || fail "requirements: $proxy"
	is wrong -eq 0 $proxy
	is not_walked -eq 0 $proxy
	if grep -q '"deny": true' "$out"; then
		is skipped -eq 0 $proxy
		is ok -eq $steps $proxy
	else
		is skipped -eq 4 $proxy
		is ok -eq $((steps - 4)) $proxy
		[ "$(grep -c '"verdict": "can.t here"' "$out")" -eq 4 ] || fail "skipped, but not said: $proxy"
	fi
	deny=$(grep -c '"deny": true' "$out")
	[ $proxy = supervise ] && [ "$deny" -eq 0 ] && fail "supervise can't refuse"
	[ "$(tr -d '\n' <"$out" | cut -c 1)" = '{' ] || fail "no JSON: $proxy"
	if command -v python3 >/dev/null; then
		python3 -m json.tool <"$out" >/dev/null || fail "not JSON: $proxy"
	fi
done

# The negative controls: each sabotages one step, and that one is shown; nothing is walked behind it.
sabotaged() {
	expect 1 walk --sabotage "$1" --json
	is wrong -eq 1 "--sabotage $1"
	is not_walked -ge 1 "--sabotage $1"
	says "$2" "--sabotage $1"
}
sabotaged bytes '"expected": "the peer got 65536 bytes, 1 of them wrong"'
sabotaged revoke '"expected": "the peer writes: the peer was answered 0, not -EACCES'
sabotaged stale '"expected": "the callback was not called"'
expect 0 walk --json
if grep -q '"deny": true' "$out"; then
	sabotaged deny '"expected": "munmap is not refused with -EBUSY"'
fi
expect 1 walk --sabotage bytes
says 'NOT AS IT SHOULD BE: the peer got' "--sabotage bytes as text"

# Refused, by name.
expect 2 walk --proxy no_such_proxy
says no_such_proxy "an unknown proxy"
expect 2 walk --prox uffd
says 'did you mean --proxy' "a misspelt option"
expect 2 wak
says 'walk' "a misspelt subcommand"

[ $failures -eq 0 ] || exit 1
echo "walk: all good"
