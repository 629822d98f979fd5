# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# RDMA in software: rxe over a pair of Ethernets, the user space finds it, and two programs talk through it.
set -eu
. /t/rxe.sh
rxe_up || exit 1
trap rxe_down EXIT

ibv_devinfo -d rxe0 -v >/out/ibv_devinfo.txt
grep -q 'hca_id:.*rxe0' /out/ibv_devinfo.txt && grep -q 'state:.*PORT_ACTIVE' /out/ibv_devinfo.txt
echo "ok - ibv_devinfo: rxe0, and its port is active"

# The GID that is made of the address. -e: to poll busily would take the other side's processor.
for gid in 0 1 2 3 none; do
	grep -q 0a01:0001 "/sys/class/infiniband/rxe0/ports/1/gids/$gid" 2>/dev/null && break
done
ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 >server 2>&1 &
server=$!
until ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 127.0.0.1 >client 2>&1; do
	kill -0 "$server" || { # init ends us, should it never come up
		cat server client
		exit 1
	}
	sleep 0.2
done
wait "$server"
grep -q '^819200 bytes' client
echo "ok - ibv_rc_pingpong: 100 messages of 4096 bytes there and back"
