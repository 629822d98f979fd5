/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Addresses as Windows Sockets has them, and as san.h has them. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "ws2san.h"

_Static_assert(sizeof(struct sockaddr_un) < ADDRESS_TEXT, "a whole path fits");

#define PATH_AT offsetof(struct sockaddr_un, sun_path)

/* Neither an unnamed one nor one with a 0 inside can be said as text. */
static int unix_text(const struct sockaddr *name, size_t len, char out[ADDRESS_TEXT])
{
	struct sockaddr_un un = { 0 };
	size_t n;
	bool abstract;

	if (len <= PATH_AT || len > sizeof(un))
		return WSAEFAULT;
	memcpy(&un, name, len);
	abstract = !un.sun_path[0];
	n = len - PATH_AT - abstract;
	if (!abstract)
		n = strnlen(un.sun_path, n);
	if (!n || memchr(un.sun_path + abstract, 0, n))
		return WSAEINVAL;
	snprintf(out, ADDRESS_TEXT, "unix:%s%.*s", abstract ? "@" : "", (int)n, un.sun_path + abstract);
	return 0;
}

static int inet_text(const struct sockaddr *name, size_t len, char out[ADDRESS_TEXT])
{
	struct sockaddr_in in;
	char host[INET_ADDRSTRLEN];

	if (len < sizeof(in))
		return WSAEFAULT;
	memcpy(&in, name, sizeof(in));
	inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
	snprintf(out, ADDRESS_TEXT, "tcp:%s:%u", host, ntohs(in.sin_port));
	return 0;
}

static int inet6_text(const struct sockaddr *name, size_t len, char out[ADDRESS_TEXT])
{
	struct sockaddr_in6 in;
	char host[INET6_ADDRSTRLEN];

	if (len < sizeof(in))
		return WSAEFAULT;
	memcpy(&in, name, sizeof(in));
	inet_ntop(AF_INET6, &in.sin6_addr, host, sizeof(host));
	snprintf(out, ADDRESS_TEXT, "tcp:[%s]:%u", host, ntohs(in.sin6_port));
	return 0;
}

int ws_address_text(const struct sockaddr *name, int namelen, char out[ADDRESS_TEXT])
{
	sa_family_t family;

	if (!name || namelen < (int)sizeof(family))
		return WSAEFAULT;
	family = name->sa_family;
	switch (family) {
	case AF_UNIX:
		return unix_text(name, (size_t)namelen, out);
	case AF_INET:
		return inet_text(name, (size_t)namelen, out);
	case AF_INET6:
		return inet6_text(name, (size_t)namelen, out);
	}
	return WSAEAFNOSUPPORT;
}

static size_t parse_unix(const char *path, struct sockaddr_storage *out)
{
	struct sockaddr_un *un = (struct sockaddr_un *)out;
	size_t n = strlen(path);

	un->sun_family = AF_UNIX;
	n = n < sizeof(un->sun_path) ? n : sizeof(un->sun_path) - 1;
	memcpy(un->sun_path, path, n);
	if (*path == '@')
		un->sun_path[0] = 0;
	return PATH_AT + n + (n && *path != '@');
}

/* "127.0.0.1:4000" or "[::1]:4000"; 0: neither. */
static size_t parse_tcp(const char *text, struct sockaddr_storage *out)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
	struct sockaddr_in *in = (struct sockaddr_in *)out;
	const char *colon = strrchr(text, ':');
	bool v6 = *text == '[';
	char host[ADDRESS_TEXT];
	in_port_t port;

	if (!colon || colon - text < 2 * v6)
		return 0;
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text - 2 * v6), text + v6);
	port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	if (v6) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = port;
		return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1 ? sizeof(*in6) : 0;
	}
	in->sin_family = AF_INET;
	in->sin_port = port;
	return inet_pton(AF_INET, host, &in->sin_addr) == 1 ? sizeof(*in) : 0;
}

int ws_address_store(const char *text, struct sockaddr *name, LPINT namelen)
{
	struct sockaddr_storage all = { 0 };
	size_t len;

	if (!name || !namelen)
		return WSAEFAULT;
	len = !strncmp(text, "unix:", 5) ? parse_unix(text + 5, &all) :
	      !strncmp(text, "tcp:", 4) ? parse_tcp(text + 4, &all) : 0;
	if (!len)
		return WSAEINVAL;
	if (*namelen < (int)len)
		return WSAEFAULT;
	memcpy(name, &all, len);
	*namelen = (int)len;
	return 0;
}
