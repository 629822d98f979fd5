/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "stream.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct header {
	uint32_t magic, version, length;
	uint32_t check; /* of the magic and the length: chance bytes are not taken for a header */
};
_Static_assert(sizeof(struct header) == 16, "the header on the wire has no padding");

/* ------------------------------------------------------------------ the socket */

static int check_socket(int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(int);
	int type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return hf_set_error(-errno, "a connection needs a stream socket; descriptor %d: %s", fd, strerror(errno));
	if (type != SOCK_STREAM)
		return hf_set_error(-EINVAL, "a connection needs a stream socket; descriptor %d is of another type: use "
					     "SOCK_STREAM",
				    fd);
	len = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return hf_set_error(-errno, "descriptor %d has no peer (%s): connect or accept it first", fd, strerror(errno));
	return 0;
}

/* The end of a message must not wait for an acknowledgement. A unix socket has no such option. */
int stream_prepare(int fd)
{
	int rc = check_socket(fd), on = 1;

	if (!rc)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return rc;
}

/* ------------------------------------------------------------------ bytes */

int stream_wait(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	while (poll(&p, 1, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return p.revents & POLLNVAL ? -EBADF : 0;
}

/* What to do about errno: 0 to try again. */
static int retry(int fd, short events)
{
	if (errno == EAGAIN)
		return stream_wait(fd, events);
	return errno == EINTR ? 0 : -errno;
}

int stream_write(int fd, const void *data, size_t len, int flags)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL | flags);
		int rc = n < 0 ? retry(fd, POLLOUT) : 0;

		if (rc)
			return rc;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int stream_read(int fd, void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = recv(fd, (char *)data + done, len - done, MSG_WAITALL);
		int rc = n > 0 ? 0 : n < 0 ? retry(fd, POLLIN) : -ECONNRESET;

		if (rc)
			return rc;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

/* ------------------------------------------------------------------ headers */

static uint32_t check_of(const struct stream_kind *k, uint32_t length)
{
	return ~(k->magic ^ (length * 0x9e3779b1u));
}

int stream_send_header(int fd, const struct stream_kind *k, uint32_t length, int flags)
{
	const struct header h = { htole32(k->magic), htole32(k->version), htole32(length), htole32(check_of(k, length)) };

	return stream_write(fd, &h, sizeof(h), flags);
}

int stream_recv_header(int fd, const struct stream_kind *k, uint32_t *length)
{
	struct header h;
	int rc = stream_read(fd, &h, sizeof(h));

	if (rc)
		return rc;
	*length = le32toh(h.length);
	if (le32toh(h.magic) != k->magic || le32toh(h.version) != k->version || le32toh(h.check) != check_of(k, *length))
		return -EPROTO;
	return 0;
}

/* ------------------------------------------------------------------ why not */

int stream_why_length(uint64_t len)
{
	return hf_set_error(-EMSGSIZE, "a message has at most 4 GiB - 1 byte; %llu asked: send it in parts", (unsigned long long)len);
}

int stream_why_send(int rc, uint64_t len)
{
	if (!rc)
		return 0;
	return hf_set_error(rc, "the message of %llu bytes could not be sent: %s; open a new connection",
			    (unsigned long long)len, strerror(-rc));
}

int stream_why_recv(int rc, const struct stream_kind *k, uint64_t len, uint64_t got)
{
	switch (rc) {
	case 0:
		return 0;
	case -EMSGSIZE:
		return hf_set_error(rc, "the message has %llu bytes, the buffer %llu: it is kept, receive it into a larger one",
				    (unsigned long long)got, (unsigned long long)len);
	case -EPROTO:
		return hf_set_error(rc, "what arrived is not a holdfast message of the NIC %s, version %u: the peer must use hf_send() "
					"with that NIC, and nothing else may use the socket",
				    k->nic, k->version & 0xffff);
	default:
		return hf_set_error(rc, "nothing more can be received: %s; open a new connection", strerror(-rc));
	}
}
