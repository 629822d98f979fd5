#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Build the fuzz targets with clang and run each over its corpus. What is found new stays in the build folder; a
# crash leaves its input there.   fuzz.sh [SECONDS [BUILD-DIR]]
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=${1:-60}
build=${2:-build-fuzz}
failed=0

if [ ! -f "$build/build.ninja" ]; then
	CC=clang meson setup -Dwerror=true -Dfuzz=enabled -Dtests=disabled "$build" >"$build.log" 2>&1 || {
		cat "$build.log"
		exit 1
	}
	rm -f "$build.log"
fi
ninja -C "$build" --quiet || exit 1

for corpus in fuzz/corpus/*/; do
	name=$(basename "$corpus")
	mkdir -p "$build/found/$name"
	if "$build/fuzz/fuzz-$name" -max_total_time="$seconds" -max_len=2048 -timeout=10 -print_final_stats=1 \
		-artifact_prefix="$build/$name-" "$build/found/$name" "$corpus" >"$build/$name.log" 2>&1; then
		echo "fuzz $name: passed, $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log") runs"
	else
		grep -v '^#' "$build/$name.log" | tail -n 40
		echo "fuzz $name: FAILED, see $build/$name.log"
		failed=$((failed + 1))
	fi
done
[ "$failed" = 0 ]
