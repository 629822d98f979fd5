#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `holdfast perf --op` between two network namespaces, as between two hosts: with the secret it runs, without it and with
# another one it is refused, in words. Usage: test_netns.sh PATH-OF-HOLDFAST. Exit 77: this machine can't run it.
set -u
tool=$1
dir=$(mktemp -d) || exit 99
a=hf-$$-a b=hf-$$-b
server=
failures=0

cleanup() {
	[ -z "$server" ] || kill "$server" 2>/dev/null
	ip netns del $a 2>/dev/null
	ip netns del $b 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT

skip() {
	echo "skipped: $*"
	exit 77
}

fail() {
	echo "FAIL: $*"
	for f in "$dir"/*.out "$dir"/*.log; do
		[ -s "$f" ] && sed "s,^,    ${f##*/}: ," "$f"
	done
	failures=$((failures + 1))
}

[ "$(id -u)" = 0 ] || skip "network namespaces take root"
command -v ip >/dev/null || skip "there is no ip(8)"
ip netns add $a 2>"$dir/ip.log" || skip "no network namespace: $(cat "$dir/ip.log")"
ip netns add $b 2>"$dir/ip.log" || skip "no network namespace: $(cat "$dir/ip.log")"
ip -n $a link add hf0 type veth peer name hf0 netns $b 2>"$dir/ip.log" ||
	skip "no veth pair: $(cat "$dir/ip.log")"
for n in "$a 1" "$b 2"; do
	set -- $n
	ip -n "$1" addr add "10.77.0.$2/24" dev hf0 && ip -n "$1" addr add "fd77::$2/64" dev hf0 nodad &&
		ip -n "$1" link set hf0 up || skip "the veth pair has no address"
done

umask 077
printf 'a secret that both sides know\n' >"$dir/secret"
printf 'quite another one, not theirs\n' >"$dir/other"

# serve ADDRESS WORDS...: in the one namespace; waits until it listens
serve() {
	address=$1
	shift
	ip netns exec $a "$tool" perf --listen "$address" "$@" >"$dir/server.out" 2>"$dir/server.log" &
	server=$!
	for i in $(seq 1 6000); do
		grep -q '^listening at' "$dir/server.out" && return 0
		kill -0 $server 2>/dev/null || break
		sleep 0.1
	done
	fail "no server at $address"
}

stop() {
	kill -TERM "$server"
	wait "$server"
	code=$?
	server=
	[ $code -eq 0 ] || fail "the server's exit code is $code"
}

# ask CODE ADDRESS WORDS...: in the other
ask() {
	wanted=$1
	address=$2
	shift 2
	timeout 900 ip netns exec $b "$tool" perf --connect "$address" --sizes 64K,1M --seconds 0.5 "$@" \
		>"$dir/client.out" 2>"$dir/client.log"
	code=$?
	[ $code -eq "$wanted" ] || fail "exit $code instead of $wanted: $address $*"
}

says() {
	grep -q -e "$1" "$dir/client.out" "$dir/client.log" || fail "no '$1': $2"
}

serve tcp:10.77.0.1:4000 --secret-file "$dir/secret"
for op in write read send; do
	ask 0 tcp:10.77.0.1:4000 --op $op --secret-file "$dir/secret"
	says '^0 wrong bytes in' "$op between two addresses"
done
ask 0 tcp:10.77.0.1:4000 --op write --depth 1 --pattern recycle --secret-file "$dir/secret" --json
says '"wrong_bytes": 0' "recycled"

# Without the secret, and with another one: refused, in words. The server serves on.
ask 3 tcp:10.77.0.1:4000 --op write
says 'secret' "without a secret"
ask 3 tcp:10.77.0.1:4000 --op write --secret-file "$dir/other"
says 'secret' "with another secret"
ask 0 tcp:10.77.0.1:4000 --op revoke --count 500 --secret-file "$dir/secret"
says ' 0 accepted of 500 ' "revoke between two addresses"
stop
# which side found the bytes wrong, it is told at both
[ "$(grep -c '^run .*, 0 wrong bytes here' "$dir/server.out")" -ge 5 ] || fail "the server's report"

# Nobody there.
ask 3 tcp:10.77.0.1:4000 --op write --secret-file "$dir/secret"
says 'refused' "nobody listens"

# Any address of the host, and IPv6.
serve 'tcp:0.0.0.0:4001' --secret-file "$dir/secret"
ask 0 tcp:10.77.0.1:4001 --op write --secret-file "$dir/secret"
stop
serve 'tcp:[fd77::1]:4002' --secret-file "$dir/secret"
ask 0 'tcp:[fd77::1]:4002' --op write --secret-file "$dir/secret"
stop

# To listen at such an address without a secret is refused, too.
timeout 900 ip netns exec $a "$tool" perf --listen tcp:10.77.0.1:4003 >"$dir/client.out" 2>"$dir/client.log"
[ $? -eq 3 ] || fail "listens without a secret"
says 'secret' "to listen without a secret"

[ $failures -eq 0 ] || exit 1
echo "netns: all good"
