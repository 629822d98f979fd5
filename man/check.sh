#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Is everything there is in the manual? Every call of the headers: in the NAME and SYNOPSIS of one page, and as a
# link that meson.build installs. Every subcommand and option of the tool: in holdfast.1. Every option
# of the library: in holdfast.7. And nothing in the manual that isn't there.
# Usage: check.sh HOLDFAST HEADER-DIR MAN-DIR
set -u
tool=$1 headers=$2 man=$3
faults=0

fault() {
	echo "not ok: $*"
	faults=$((faults + 1))
}

# The calls that the headers declare: at the start of a line, or behind the type.
calls=$(sed -e 's,/\*.*\*/,,' -e '/^ \*/d' "$headers"/*.h |
	grep -oE '^(const |unsigned |struct )?[A-Za-z_0-9]+ [a-z_ ]*\*?(hf_|WSP|Mm)[A-Za-z_0-9]+\(' |
	grep -oE '(hf_|WSP|Mm)[A-Za-z_0-9]+\($' | tr -d '(' | sort -u)
count=$(echo "$calls" | grep -c .)
[ "$count" -ge 40 ] || fault "only $count calls found in $headers"
for call in $calls; do
	pages=$(grep -lE "^\.Nm $call( |$)" "$man"/*.[37])
	case $pages in
	'') fault "$call is on no page"; continue ;;
	*'
'*) fault "$call is on more than one page: $pages" ;;
	esac
	grep -qE "^\.F[no] (\"[^\"]*\" )?$call( |$)" "$pages" || fault "$call is not in the SYNOPSIS of $pages"
	[ "${pages##*/}" = "$call.3" ] || grep -q "'$call'" "$man/meson.build" || fault "$call.3 is not installed"
done
for name in $(sed -n 's/^\.Nm \(\(hf_\|WSP\|Mm\)[A-Za-z_0-9]*\).*/\1/p' "$man"/*.[37]); do
	echo "$calls" | grep -qx "$name" || fault "the manual has $name, the headers have not"
done

# What --help says.
options=
for sub in $("$tool" help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
	grep -qE "^\.Ss ([a-z]+, )?$sub$" "$man/holdfast.1" || fault "holdfast.1 lacks the subcommand $sub"
	case $sub in help|version) continue ;; esac
	text=$("$tool" "$sub" --help) || fault "holdfast $sub --help failed"
	found=$(echo "$text" | sed -n 's/^  --\([a-z]*\).*/\1/p')
	[ -n "$found" ] || fault "holdfast $sub --help lists no option"
	options="$options $found"
	for option in $found; do
		grep -q "^\.It Fl Fl $option\>" "$man/holdfast.1" || fault "holdfast.1 lacks --$option of $sub"
	done
done
for option in $(sed -n 's/^\.It Fl Fl \([a-z]*\).*/\1/p' "$man/holdfast.1" | sort -u); do
	case " $(echo $options) " in *" $option "*) ;; *) fault "holdfast.1 has --$option, the tool has not" ;; esac
done

# The library's own options.
rows=$("$tool" help options | sed -n 's/^  \([a-z_]*\)=.*/\1/p')
[ -n "$rows" ] || fault "holdfast help options lists none"
for row in $rows; do
	grep -q "^\.It Cm $row Ns = " "$man/holdfast.7" || fault "holdfast.7 lacks the option $row"
done
for row in $(sed -n 's/^\.It Cm \([a-z_]*\) Ns = .*/\1/p' "$man/holdfast.7"); do
	echo "$rows" | grep -qx "$row" || fault "holdfast.7 has the option $row, the library has not"
done

echo "$count calls, $(echo $options | wc -w) options of the tool, $(echo $rows | wc -w) of the library: $faults faults"
[ "$faults" -eq 0 ]
