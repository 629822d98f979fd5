#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Build the fuzz targets with clang and run each over its corpus, as many at a time as there are processors. What is
# found new stays in the build folder; a crash leaves its input there.   fuzz.sh [SECONDS [BUILD-DIR [TARGET...]]]
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=${1:-60}
build=${2:-build-fuzz}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift
targets=${*:-$(ls fuzz/corpus)}
failed=0

if [ ! -f "$build/build.ninja" ]; then
	CC=clang meson setup -Dwerror=true -Dfuzz=enabled -Dtests=disabled "$build" >"$build.log" 2>&1 || {
		cat "$build.log"
		exit 1
	}
	rm -f "$build.log"
fi
ninja -C "$build" --quiet || exit 1

# run TARGET
run() {
	mkdir -p "$build/found/$1"
	if "$build/fuzz/fuzz-$1" -max_total_time="$seconds" -max_len=2048 -timeout=10 -print_final_stats=1 \
		-artifact_prefix="$build/$1-" "$build/found/$1" "fuzz/corpus/$1" >"$build/$1.log" 2>&1; then
		echo "fuzz $1: passed, $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$1.log") runs"
	else
		grep -v '^#' "$build/$1.log" | tail -n 40
		echo "fuzz $1: FAILED, see $build/$1.log"
		return 1
	fi
}

running=
finish() {
	for pid in $running; do
		wait "$pid" || failed=$((failed + 1))
	done
	running=
}

started=0
for name in $targets; do
	run "$name" &
	running="$running $!"
	started=$((started + 1))
	[ $((started % $(nproc))) != 0 ] || finish
done
finish
[ "$failed" = 0 ]
