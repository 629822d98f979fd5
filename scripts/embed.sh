#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# A file as the body of a C array.   embed.sh FILE > BODY
od -An -v -tu1 "$1" | sed 's/\([0-9][0-9]*\)/\1,/g'
