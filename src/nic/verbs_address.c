/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * An address of this machine in the place of a device's name: "192.168.1.5", "[2001:db8::5]", "[fe80::1%eth0]". What can be
 * said without RDMA is said here: how it is written, and whether this machine has it.
 */
#include "verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------ how it is written */

/* Is it meant to be one? No device is called so. */
bool verbs_is_address(const char *text)
{
	size_t n = strspn(text, "0123456789.");

	return strchr(text, ':') || *text == '[' || (strchr(text, '.') && (!text[n] || text[n] == '/'));
}

static int bad_address(const char *text)
{
	return hf_set_error(-EINVAL, "verbs: \"%s\" is no address: give an IPv4 address, or an IPv6 address in brackets, such as "
				     "\"verbs:192.168.1.5\" or \"verbs:[fe80::1%%eth0]\"",
			    text);
}

static void from_v4(union verbs_sockaddr *a, struct in_addr v4)
{
	memset(a, 0, sizeof(*a));
	a->v4.sin_family = AF_INET;
	a->v4.sin_addr = v4;
}

/* "::ffff:192.168.1.5" is that of IPv4: network interfaces have it so. */
static void from_v6(union verbs_sockaddr *a, const struct in6_addr *v6)
{
	struct in_addr v4;

	memcpy(&v4, &v6->s6_addr[12], sizeof(v4));
	if (IN6_IS_ADDR_V4MAPPED(v6)) {
		from_v4(a, v4);
		return;
	}
	a->v6.sin6_family = AF_INET6;
	a->v6.sin6_addr = *v6;
}

/* An interface's name, or its number. */
static int parse_scope(const char *scope, uint32_t *out)
{
	unsigned long n;
	char *end;

	*out = if_nametoindex(scope);
	if (*out)
		return 0;
	n = strtoul(scope, &end, 10);
	if (*scope < '1' || *scope > '9' || *end || n > INT32_MAX)
		return hf_set_error(-ENODEV, "verbs: there is no network interface '%s' here: see `ip link`", scope);
	*out = (uint32_t)n;
	return 0;
}

static int parse_v6(const char *text, union verbs_sockaddr *out)
{
	char host[128], *scope;
	size_t len = strlen(text);
	struct in6_addr v6;

	if (len < 2 || len >= sizeof(host) || text[len - 1] != ']')
		return bad_address(text);
	memcpy(host, text + 1, len - 2);
	host[len - 2] = 0;
	scope = strchr(host, '%');
	if (scope)
		*scope++ = 0;
	if (inet_pton(AF_INET6, host, &v6) != 1)
		return bad_address(text);
	from_v6(out, &v6);
	if (scope && out->any.sa_family == AF_INET6)
		return parse_scope(scope, &out->v6.sin6_scope_id);
	if (IN6_IS_ADDR_LINKLOCAL(&v6))
		return hf_set_error(-EINVAL, "verbs: the address %s is good on one network interface only: say which, as \"[%s%%eth0]\"", host,
				    host);
	return scope ? bad_address(text) : 0;
}

static bool is_any(const union verbs_sockaddr *a)
{
	return a->any.sa_family == AF_INET ? !a->v4.sin_addr.s_addr : IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
}

int verbs_address_parse(const char *text, union verbs_sockaddr *out)
{
	struct in_addr v4;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (*text == '[')
		rc = parse_v6(text, out);
	else if (inet_pton(AF_INET, text, &v4) == 1)
		from_v4(out, v4);
	else
		rc = bad_address(text);
	if (!rc && is_any(out))
		rc = hf_set_error(-EINVAL, "verbs: %s stands for every address: give that of one network interface", text);
	return rc;
}

const char *verbs_address_text(const union verbs_sockaddr *a, char out[VERBS_ADDRESS_TEXT])
{
	char host[INET6_ADDRSTRLEN], name[IF_NAMESIZE];

	if (a->any.sa_family == AF_INET)
		return inet_ntop(AF_INET, &a->v4.sin_addr, out, VERBS_ADDRESS_TEXT);
	inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
	if (!a->v6.sin6_scope_id)
		snprintf(out, VERBS_ADDRESS_TEXT, "%s", host);
	else if (if_indextoname(a->v6.sin6_scope_id, name))
		snprintf(out, VERBS_ADDRESS_TEXT, "%s%%%s", host, name);
	else
		snprintf(out, VERBS_ADDRESS_TEXT, "%s%%%u", host, a->v6.sin6_scope_id);
	return out;
}

/* ------------------------------------------------------------------ whose it is */

int verbs_why_not_local(const union verbs_sockaddr *a)
{
	char text[VERBS_ADDRESS_TEXT];

	return hf_set_error(-EADDRNOTAVAIL, "this machine has no address %s: see `ip addr`; the name of the NIC verbs takes one of its "
					    "own, not the peer's",
			    verbs_address_text(a, text));
}

/* As the kernel sees it: here, in this network namespace. */
static int check_local(const union verbs_sockaddr *a)
{
	int fd = socket(a->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;
	char text[VERBS_ADDRESS_TEXT];

	if (fd < 0 || bind(fd, &a->any, sizeof(*a)) < 0)
		err = errno;
	if (fd >= 0)
		close(fd);
	if (err == EADDRNOTAVAIL || err == ENODEV)
		return verbs_why_not_local(a);
	if (err)
		return hf_set_error(-err, "the address %s can't be used here: %s", verbs_address_text(a, text), strerror(err));
	return 0;
}

static bool same_address(const union verbs_sockaddr *a, const struct sockaddr *b)
{
	union verbs_sockaddr o;

	if (!b || b->sa_family != a->any.sa_family)
		return false;
	memcpy(&o, b, b->sa_family == AF_INET ? sizeof(o.v4) : sizeof(o.v6));
	if (b->sa_family == AF_INET)
		return o.v4.sin_addr.s_addr == a->v4.sin_addr.s_addr;
	return !memcmp(&o.v6.sin6_addr, &a->v6.sin6_addr, 16) &&
	       (!a->v6.sin6_scope_id || o.v6.sin6_scope_id == a->v6.sin6_scope_id);
}

static void interface_of(const union verbs_sockaddr *a, char out[IF_NAMESIZE + 1])
{
	struct ifaddrs *list = NULL;

	snprintf(out, IF_NAMESIZE + 1, "an interface");
	if (getifaddrs(&list))
		return;
	for (struct ifaddrs *i = list; i; i = i->ifa_next)
		if (same_address(a, i->ifa_addr))
			snprintf(out, IF_NAMESIZE + 1, "%s", i->ifa_name);
	freeifaddrs(list);
}

int verbs_why_not_rdma(const union verbs_sockaddr *a)
{
	char text[VERBS_ADDRESS_TEXT], interface[IF_NAMESIZE + 1], names[128];

	interface_of(a, interface);
	verbs_list_devices(names, sizeof(names));
	return hf_set_error(-ENODEV, "the address %s is that of %s, which belongs to no RDMA device; there are: %s (rdma link)",
			    verbs_address_text(a, text), interface, names);
}

int verbs_address_find(const union verbs_sockaddr *a, char device[64], unsigned *port)
{
	int rc = check_local(a);

	return rc ? rc : verbs_cm_find(a, device, port);
}
