/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The data path: messages over a stream socket, payload straight from and to registered memory.
 *
 *   on the wire, little-endian     u32 magic  u16 version  u16 type  u32 length  u32 check   payload
 *
 * The header goes by send(2) and recv(2): linked to the payload in one submission it was no faster. A
 * message that failed half-way leaves the stream out of step, so that direction then answers the same
 * error for ever.
 */
#include "uring.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "../os.h"
#include "stream.h"

#define WIRE_VERSION 1
#define WIRE_MESSAGE 1

static const struct stream_kind message = { "uring", 0x54464448u /* "HDFT" */, WIRE_VERSION | WIRE_MESSAGE << 16 };

struct uring_conn {
	struct uring_nic *nic;
	int fd;
	pthread_mutex_t tx; /* one message at a time */
	int tx_error;       /* (tx) */
	pthread_mutex_t rx;
	int rx_error;    /* (rx) */
	bool kept;       /* (rx) the header of a message was read, its payload not */
	uint32_t length; /* (rx) of that message */
};

/* ------------------------------------------------------------------ sockets */

/*
 * A kernel without RWF_NOSIGNAL sends SIGPIPE to the thread that writes to a closed socket. It is
 * blocked meanwhile, and taken away if it came; one that was pending before is the program's.
 */
struct sigpipe {
	sigset_t old;
	bool was_pending;
};

static void sigpipe_block(struct sigpipe *s)
{
	sigset_t pipe_only, pending;

	sigpending(&pending);
	s->was_pending = sigismember(&pending, SIGPIPE);
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, &s->old);
}

static void sigpipe_restore(const struct sigpipe *s, int rc)
{
	struct timespec now = { 0, 0 };
	sigset_t pipe_only;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	if (rc == -EPIPE && !s->was_pending)
		while (sigtimedwait(&pipe_only, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &s->old, NULL);
}

static int move_payload(struct uring_conn *c, enum uring_dir dir, const struct hf_region *r,
			uint64_t addr, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		int n = uring_move(c->nic, dir, c->fd, r, addr + done, len - done);

		if (n > 0) {
			done += (uint64_t)n;
			continue;
		}
		if (n == 0)
			return dir == URING_IN ? -ECONNRESET : -EPIPE;
		if (n == -EAGAIN)
			n = stream_wait(c->fd, dir == URING_IN ? POLLIN : POLLOUT);
		if (n)
			return n;
	}
	return 0;
}

/* ------------------------------------------------------------------ the operations */

static int prepare(struct uring_nic *nic, int fd)
{
	int rc;

	if (nic->users_ring)
		return hf_set_error(-EOPNOTSUPP, "uring: the ring is the program's own: holdfast can't "
						 "submit to it; use a provider on \"uring\" for "
						 "connections");
	rc = stream_prepare(fd);
	if (rc)
		return rc;
	pthread_mutex_lock(&nic->lock);
	rc = uring_find_caps(nic);
	pthread_mutex_unlock(&nic->lock);
	return rc;
}

int uring_attach(void *nic, int fd, void **out)
{
	int rc = prepare(nic, fd);
	struct uring_conn *c;

	if (rc)
		return rc;
	c = os_calloc(1, sizeof(*c));
	if (!c)
		return hf_set_error(-ENOMEM, "uring: out of memory for a connection");
	c->nic = nic;
	c->fd = fd;
	pthread_mutex_init(&c->tx, NULL);
	pthread_mutex_init(&c->rx, NULL);
	*out = c;
	return 0;
}

void uring_detach(void *conn)
{
	struct uring_conn *c = conn;

	pthread_mutex_destroy(&c->tx);
	pthread_mutex_destroy(&c->rx);
	free(c);
}

/* What SAN sockets are carried by. */
int uring_nic_move(void *p, unsigned access, int fd, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	struct uring_nic *nic = p;
	struct sigpipe s;
	int rc = 0;

	if (nic->users_ring)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&nic->lock);
	if (!nic->caps.known)
		rc = uring_find_caps(nic);
	pthread_mutex_unlock(&nic->lock);
	if (rc || !r)
		return rc;
	if (access == HF_WRITE || nic->caps.nosignal)
		return uring_move(nic, access == HF_WRITE ? URING_IN : URING_OUT, fd, r, addr, len);
	sigpipe_block(&s);
	rc = uring_move(nic, URING_OUT, fd, r, addr, len);
	sigpipe_restore(&s, rc);
	return rc;
}

static int send_message(struct uring_conn *c, const struct hf_region *r, uint64_t addr, uint32_t len)
{
	struct sigpipe s;
	int rc;

	rc = stream_send_header(c->fd, &message, len, len ? MSG_MORE : 0);
	if (rc || !len)
		return rc;
	if (c->nic->caps.nosignal)
		return move_payload(c, URING_OUT, r, addr, len);
	sigpipe_block(&s);
	rc = move_payload(c, URING_OUT, r, addr, len);
	sigpipe_restore(&s, rc);
	return rc;
}

int uring_send(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	struct uring_conn *c = conn;
	int rc;

	if (len > UINT32_MAX)
		return stream_why_length(len);
	pthread_mutex_lock(&c->tx);
	if (!c->tx_error)
		c->tx_error = send_message(c, r, addr, (uint32_t)len);
	rc = c->tx_error;
	pthread_mutex_unlock(&c->tx);
	return stream_why_send(rc, len);
}

/* (rx) The next message's length, unless it was kept. */
static int next_message(struct uring_conn *c)
{
	int rc = c->kept ? 0 : stream_recv_header(c->fd, &message, &c->length);

	c->kept = !rc;
	return rc;
}

/* (rx) 0 or the error that stays; -EMSGSIZE is none. */
static int recv_message(struct uring_conn *c, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	int rc = next_message(c);

	if (rc)
		return rc;
	if (c->length > len)
		return -EMSGSIZE;
	rc = move_payload(c, URING_IN, r, addr, c->length);
	if (!rc)
		c->kept = false;
	return rc;
}

int uring_recv(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got)
{
	struct uring_conn *c = conn;
	int rc;

	*got = 0;
	pthread_mutex_lock(&c->rx);
	rc = c->rx_error;
	if (!rc) {
		rc = recv_message(c, r, addr, len);
		if (!rc || rc == -EMSGSIZE)
			*got = c->length;
		else
			c->rx_error = rc;
	}
	pthread_mutex_unlock(&c->rx);
	return stream_why_recv(rc, &message, len, *got);
}
