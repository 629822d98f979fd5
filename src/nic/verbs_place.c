/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which port of the device, and which of its addresses, for a qp that goes beside a stream socket: the one that has the
 * socket's own address. So both take the same network, and what routes the one routes the other.
 */
#include "verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* What a port's address is worth. */
enum { NO_USE, LINK_LOCAL, USABLE, IPV4, OTHER_LINK, THE_ONE };

struct want {
	bool any;          /* both ends are on this machine */
	union ibv_gid gid; /* when any: rather this one, if it isn't 0 */
	unsigned link;     /* the network interface of a link-local one: each VLAN of a port has the same */
	char text[INET6_ADDRSTRLEN];
};

static bool is_v4(const union ibv_gid *g)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	return !memcmp(g->raw, mapped, sizeof(mapped));
}

static void want_v4(struct want *w, const struct in_addr *a)
{
	memset(&w->gid, 0, sizeof(w->gid));
	w->gid.raw[10] = w->gid.raw[11] = 0xff;
	memcpy(w->gid.raw + 12, a, 4);
	w->any = (ntohl(a->s_addr) >> 24) == 127;
	inet_ntop(AF_INET, a, w->text, sizeof(w->text));
}

static void want_v6(struct want *w, const struct sockaddr_in6 *a)
{
	memcpy(w->gid.raw, &a->sin6_addr, 16);
	w->any = IN6_IS_ADDR_LOOPBACK(&a->sin6_addr) || (is_v4(&w->gid) && a->sin6_addr.s6_addr[12] == 127);
	w->link = a->sin6_scope_id;
	inet_ntop(AF_INET6, &a->sin6_addr, w->text, sizeof(w->text));
}

static void want(struct want *w, const union verbs_sockaddr *a)
{
	*w = (struct want){ .any = true };
	if (a->any.sa_family == AF_INET)
		want_v4(w, &a->v4.sin_addr);
	else if (a->any.sa_family == AF_INET6)
		want_v6(w, &a->v6);
}

static int find_want(const struct verbs_nic *nic, int fd, struct want *w)
{
	union {
		union verbs_sockaddr ip;
		struct sockaddr_storage storage;
	} a;
	socklen_t len = sizeof(a);

	memset(&a, 0, sizeof(a));
	if (fd >= 0 && getsockname(fd, &a.ip.any, &len) < 0)
		return hf_set_error(-errno, "descriptor %d has no address of its own: %s", fd, strerror(errno));
	want(w, &a.ip);
	if (w->any && nic->own.any.sa_family) {
		want(w, &nic->own);
		w->any = true;
	}
	return 0;
}

/* On this machine any address will do, but a routed one better than that of the link. */
static int worth(const struct ibv_gid_entry *e, const struct want *w)
{
	static const union ibv_gid none;

	if (!memcmp(&e->gid, &none, sizeof(none)))
		return NO_USE;
	if (e->gid_type == IBV_GID_TYPE_IB)
		return e->gid_index ? NO_USE : THE_ONE; /* the switched fabric knows one by its LID */
	if (e->gid_type != IBV_GID_TYPE_ROCE_V2)
		return NO_USE;
	if (!memcmp(&e->gid, &w->gid, 16))
		return w->link && e->ndev_ifindex != w->link ? OTHER_LINK : THE_ONE;
	if (!w->any)
		return NO_USE;
	return is_v4(&e->gid) ? IPV4 : e->gid.raw[0] == 0xfe ? LINK_LOCAL : USABLE;
}

static void take(struct verbs_place *out, const struct ibv_port_attr *port, const struct ibv_gid_entry *e)
{
	*out = (struct verbs_place){ .port = e->port_num,
				     .gid_index = e->gid_index,
				     .gid = e->gid,
				     .lid = port->lid,
				     .link = port->link_layer,
				     .mtu = (uint8_t)port->active_mtu,
				     .max_message = port->max_msg_sz };
}

static int look_at_port(struct verbs_nic *nic, unsigned number, const struct want *w, int best,
			struct verbs_place *out)
{
	struct ibv_gid_entry e;
	struct ibv_port_attr port;

	if (ibv_query_port(nic->context, (uint8_t)number, &port) || port.state != IBV_PORT_ACTIVE)
		return best;
	for (int i = 0; i < port.gid_tbl_len && best < THE_ONE; i++) {
		int rc = ibv_query_gid_ex(nic->context, number, (uint32_t)i, &e, 0);
		int value = rc ? NO_USE : worth(&e, w);

		if (value <= best)
			continue;
		best = value;
		take(out, &port, &e);
	}
	return best;
}

int verbs_find_place(struct verbs_nic *nic, int fd, struct verbs_place *out)
{
	unsigned first = nic->port ? nic->port : 1, last = nic->port ? nic->port : nic->attr.phys_port_cnt;
	int best = NO_USE, rc;
	struct want w;

	rc = find_want(nic, fd, &w);
	if (rc)
		return rc;
	for (unsigned i = first; i <= last && best < THE_ONE; i++)
		best = look_at_port(nic, i, &w, best, out);
	if (best != NO_USE)
		return 0;
	if (w.any)
		return hf_set_error(-ENETDOWN, "%s has no active port with an address for RoCE v2: give its network interface one, "
					       "and set it up",
				    nic->name);
	return hf_set_error(-EADDRNOTAVAIL, "the socket's own address %s is none of %s's: connect by an address of its network "
					    "interface (rdma link), or take the device of that interface",
			    w.text, nic->name);
}
