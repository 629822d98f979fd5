/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The plain way: send(2) and recv(2) of the same bytes over a socket of the same kind. Beside the SAN sockets, which prove
 * the secret, a token from the control connection says that this one belongs to the same run.
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <holdfast/backend.h>

struct address {
	struct sockaddr_storage sa;
	socklen_t len;
};

/* ------------------------------------------------------------------ addresses */

static int parse_unix(const char *name, struct address *a)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;
	size_t len = strlen(name);

	if (!len || len >= sizeof(un->sun_path))
		return -EINVAL;
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, name, len);
	if (*name == '@')
		un->sun_path[0] = 0;
	a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (*name != '@'));
	return 0;
}

/* "host:port" or "[host]:port", both in numbers. */
static int parse_tcp(const char *text, struct address *a)
{
	static const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
					      .ai_socktype = SOCK_STREAM};
	char host[OP_ADDRESS], *port;
	struct addrinfo *found;
	bool bracket = *text == '[';

	snprintf(host, sizeof(host), "%s", text + bracket);
	port = strrchr(host, ':');
	if (!port || (bracket && (port == host || port[-1] != ']')))
		return -EINVAL;
	port[bracket ? -1 : 0] = 0;
	if (getaddrinfo(host, port + 1, &hints, &found))
		return -EINVAL;
	memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
	a->len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int parse(const char *text, struct address *a)
{
	int err = -EINVAL;

	memset(a, 0, sizeof(*a));
	if (!strncmp(text, "unix:", 5))
		err = parse_unix(text + 5, a);
	else if (!strncmp(text, "tcp:", 4))
		err = parse_tcp(text + 4, a);
	return err ? hf_set_error(err, "'%s' is no address for a plain socket", text) : 0;
}

/* The port that the kernel has chosen. */
static void set_port(int fd, char text[OP_ADDRESS])
{
	struct address a = {.len = sizeof(a.sa)};
	char *port = strrchr(text, ':') + 1;
	unsigned number;

	getsockname(fd, (struct sockaddr *)&a.sa, &a.len);
	number = ntohs(a.sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a.sa)->sin6_port :
						    ((struct sockaddr_in *)&a.sa)->sin_port);
	snprintf(port, (size_t)(text + OP_ADDRESS - port), "%u", number);
}

/* ------------------------------------------------------------------ sockets */

static int failed(int fd, const char *what, const char *address)
{
	int err = errno;

	if (fd >= 0)
		close(fd);
	return hf_set_error(-err, "%s a plain socket at %s: %s", what, address, strerror(err));
}

/* What ends a wait for a peer that has died without a word. */
static void set_options(int fd)
{
	struct timeval patience = {.tv_sec = OP_PATIENCE_MS / 1000};
	int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on unix */
}

int plain_listen(const char *address, char listening[OP_ADDRESS])
{
	struct address a;
	int err = parse(address, &a), fd;

	if (err)
		return err;
	fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a.sa, a.len) || listen(fd, 4))
		return failed(fd, "no", address);
	snprintf(listening, OP_ADDRESS, "%s", address);
	if (a.sa.ss_family != AF_UNIX)
		set_port(fd, listening);
	return fd;
}

static int receive_bytes(int fd, void *to, size_t len)
{
	char *at = to;

	while (len) {
		ssize_t n = recv(fd, at, len, MSG_WAITALL);

		if (n < 0 && errno == EINTR && !op_interrupted)
			continue;
		if (n <= 0)
			return hf_set_error(n ? -errno : -ECONNRESET, "the plain socket: %s",
					    n ? strerror(errno) : "closed by the other side");
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_bytes(int fd, const void *from, size_t len)
{
	const char *at = from;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR && !op_interrupted)
			continue;
		if (n < 0)
			return hf_set_error(-errno, "the plain socket: %s", strerror(errno));
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int plain_accept(int fd, const uint8_t token[OP_TOKEN])
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t theirs[OP_TOKEN];
	int got;

	while (poll(&p, 1, OP_PATIENCE_MS) > 0) {
		got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (got < 0)
			break;
		set_options(got);
		if (!receive_bytes(got, theirs, sizeof(theirs)) && !memcmp(theirs, token, OP_TOKEN))
			return got;
		close(got);
	}
	return hf_set_error(-ETIMEDOUT, "nobody has connected for the plain way");
}

int plain_connect(const char *address, const uint8_t token[OP_TOKEN])
{
	struct address a;
	int err = parse(address, &a), fd;

	if (err)
		return err;
	fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a.sa, a.len))
		return failed(fd, "can't connect", address);
	set_options(fd);
	err = send_bytes(fd, token, OP_TOKEN);
	if (err)
		close(fd);
	return err ? err : fd;
}

/* ------------------------------------------------------------------ transfers */

static int all_sent(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	int err = 0;

	for (unsigned i = 0; i < count && !err; i++)
		err = send_bytes(fd, data[i], size);
	return err;
}

static int all_received(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	int err = 0;

	for (unsigned i = 0; i < count && !err; i++)
		err = receive_bytes(fd, data[i], size);
	return err;
}

int plain_send(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	int err = all_sent(fd, data, count, size);
	char word;

	return err ? err : receive_bytes(fd, &word, 1);
}

int plain_receive(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	int err = all_received(fd, data, count, size);

	return err ? err : send_bytes(fd, "", 1);
}

int plain_read(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	int err = send_bytes(fd, "", 1);

	return err ? err : all_received(fd, data, count, size);
}

int plain_be_read(int fd, unsigned char *const *data, unsigned count, size_t size)
{
	char word;
	int err = receive_bytes(fd, &word, 1);

	return err ? err : all_sent(fd, data, count, size);
}
