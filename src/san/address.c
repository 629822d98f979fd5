/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "address.h"

#include <errno.h>
#include <holdfast/backend.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define PATH offsetof(struct sockaddr_un, sun_path)
#define HOST_MAX 256

static int bad(const char *text, const char *why)
{
	return hf_set_error(-EINVAL, "address '%.100s': %s", text, why);
}

/* ------------------------------------------------------------------ unix */

/* "/path" with a 0 behind it, or "@name": an abstract one, that is a 0 and the name with nothing behind it. */
static int parse_unix(const char *text, const char *path, struct san_address *out)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&out->sa;
	size_t size = strlen(path);

	if (*path != '/' && *path != '@')
		return bad(text, "behind unix: comes a path from the root, or @ and a name");
	if (size < 2)
		return bad(text, "the path is empty");
	if (size >= sizeof(un->sun_path))
		return bad(text, "the path is longer than the 107 bytes that a unix socket allows");
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, size + 1);
	out->len = (socklen_t)(PATH + size + 1);
	if (*path == '@') {
		un->sun_path[0] = 0;
		out->len--;
	}
	out->near = true;
	return 0;
}

/* ------------------------------------------------------------------ tcp */

static bool is_near(const struct sockaddr *sa)
{
	const struct in6_addr *six = &((const struct sockaddr_in6 *)sa)->sin6_addr;

	if (sa->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
	if (sa->sa_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

/* Up to five digits. */
static bool parse_port(const char *text, uint16_t *out)
{
	size_t digits = strspn(text, "0123456789");
	unsigned port = 0;

	if (!digits || digits > 5 || text[digits])
		return false;
	while (*text)
		port = 10 * port + (unsigned)(*text++ - '0');
	*out = (uint16_t)port;
	return port <= UINT16_MAX;
}

/* "host:port" or "[v6]:port" into its two halves. */
static int split(const char *text, const char *rest, char host[HOST_MAX], bool *six, uint16_t *port)
{
	const char *start = rest + (*rest == '[');
	const char *end = strchr(start, *rest == '[' ? ']' : ':');
	const char *colon = end ? end + (*rest == '[') : NULL;

	*six = *rest == '[';
	if (!end || *colon != ':')
		return bad(text, "behind tcp: comes host:port, or [IPv6 address]:port");
	if (end == start || end - start >= HOST_MAX)
		return bad(text, "the host is empty or too long");
	if (strchr(colon + 1, ':'))
		return bad(text, "an IPv6 address is written in brackets, as in tcp:[::1]:4000");
	if (!parse_port(colon + 1, port))
		return bad(text, "the port is a number up to 65535; 0 takes a free one");
	memcpy(host, start, (size_t)(end - start));
	host[end - start] = 0;
	return 0;
}

static int look_up(const char *text, const char *host, bool six, struct addrinfo **list)
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_family = six ? AF_INET6 : AF_UNSPEC,
		.ai_flags = six ? AI_NUMERICHOST : 0,
	};
	int rc = getaddrinfo(host, NULL, &hints, list);

	return rc ? bad(text, rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc)) : 0;
}

/*
 * The first address; where all are near, IPv4's: a machine may know ::1 by name and have no IPv6. Only where all are
 * near no other host can be there: which one a peer takes is not ours to say.
 */
static const struct addrinfo *choose(const struct addrinfo *list, bool *near)
{
	const struct addrinfo *four = NULL;

	*near = true;
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		*near = *near && is_near(a->ai_addr);
		if (!four && a->ai_family == AF_INET)
			four = a;
	}
	return *near && four ? four : list;
}

static int parse_tcp(const char *text, const char *rest, struct san_address *out)
{
	const struct addrinfo *a;
	struct addrinfo *list;
	char host[HOST_MAX];
	uint16_t port = 0;
	bool six;
	int rc = split(text, rest, host, &six, &port);

	if (!rc)
		rc = look_up(text, host, six, &list);
	if (rc)
		return rc;
	a = choose(list, &out->near);
	memcpy(&out->sa, a->ai_addr, a->ai_addrlen);
	out->len = a->ai_addrlen;
	freeaddrinfo(list);
	if (out->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&out->sa)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&out->sa)->sin_port = htons(port);
	return 0;
}

int san_address_parse(const char *text, struct san_address *out)
{
	*out = (struct san_address){ 0 };
	if (!text)
		return hf_set_error(-EINVAL, "no address: unix:/path, unix:@name, tcp:host:port or tcp:[v6]:port is wanted");
	if (!strncmp(text, "unix:", 5))
		return parse_unix(text, text + 5, out);
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(text, text + 4, out);
	return bad(text, "it begins with neither unix: nor tcp:");
}

/* ------------------------------------------------------------------ back to text */

/* Bytes that would look strange in a message, and the zeros that an abstract name may have, are shown as '?'. */
static void print_unix(const struct sockaddr_un *un, socklen_t len, char *out, size_t size)
{
	char name[sizeof(un->sun_path) + 1] = "";
	size_t n = len > PATH ? len - PATH : 0;

	if (n > sizeof(un->sun_path))
		n = sizeof(un->sun_path);
	if (n && un->sun_path[0])
		n = strnlen(un->sun_path, n);
	for (size_t i = 0; i < n; i++)
		name[i] = un->sun_path[i] < ' ' || un->sun_path[i] == 127 ? '?' : un->sun_path[i];
	if (n && !un->sun_path[0])
		name[0] = '@';
	snprintf(out, size, "unix:%s", name);
}

static void print_tcp(const struct sockaddr *sa, socklen_t len, char *out, size_t size)
{
	bool six = sa->sa_family == AF_INET6;
	char host[HOST_MAX], port[8];

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(out, size, "tcp:?");
	else
		snprintf(out, size, six ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

void san_address_print(const struct sockaddr_storage *sa, socklen_t len, char *out, size_t size)
{
	sa_family_t family = len >= sizeof(family) ? sa->ss_family : AF_UNSPEC;

	if (family == AF_UNIX)
		print_unix((const struct sockaddr_un *)sa, len, out, size);
	else if (family == AF_INET || family == AF_INET6)
		print_tcp((const struct sockaddr *)sa, len, out, size);
	else
		snprintf(out, size, "?");
}
