#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Count instructions, then measure.     run.sh BENCH-DIR [OPTIONS of holdfast-bench]
set -eu
dir=$1
shift
here=$(dirname "$0")
sh "$here/instructions.sh" "$dir" >"$dir/instructions.txt"
exec "$dir/holdfast-bench" --instructions "$dir/instructions.txt" "$@"
