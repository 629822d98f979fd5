/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * hf_send() and hf_recv(): messages over a stream socket and two queue pairs, one for each direction (a *lane*).
 *
 *   attach   hello with the addresses of both lanes ──► stream; the peer's is read by the first send or receive, so that
 *            two ends of one thread can be opened one after the other
 *
 *   hf_send                                        hf_recv
 *   ------------------------------------------     ------------------------------------------
 *   header with the length ──► stream              reads it; too large for its buffer: keeps it
 *                                                  posts receives into the buffer
 *                              lane ◄── "go", an empty message
 *   the bytes ──► lane, 1 MiB in a message,        the bytes are there; "go" for the next 32
 *   32 messages at once
 *
 * So no message waits at a NIC for a receive, bytes move straight between registrations, and a send ends when the peer has
 * received. Each lane is used by one thread at a time: the sender's end of it under tx, the receiver's under rx. The
 * stream says at once when the peer's process has gone. A lane that failed is stopped: nothing moves from or to memory
 * that is given back then; and the direction answers the same error for ever.
 */
#include "verbs.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../os.h"
#include "stream.h"

#define CHUNK (1ull << 20)
#define BATCH 32u
#define LOOKS 64	      /* before it sleeps */
#define LAST_ACKS_NS 1000000000ull /* the peer has all, and has closed: its NIC's answers are on their way */

#define HELLO_MAGIC 0x48564648u /* "HFVH" */
#define WIRE_VERSION 1

struct hello {
	uint32_t magic, version;
	uint8_t tx[HF_QP_ADDRESS], rx[HF_QP_ADDRESS];
};

static const struct stream_kind message = { "verbs", 0x4d564648u /* "HFVM" */, WIRE_VERSION };

enum { GO, DATA, KINDS };

struct lane {
	pthread_mutex_t lock; /* one message at a time */
	struct verbs_qp *qp;
	int error;               /* (lock) */
	unsigned done[KINDS];    /* (lock) and not taken account of */
	bool kept;               /* (lock) the header of a message was read, its bytes not */
	uint32_t length;         /* (lock) of that message */
};

struct verbs_conn {
	struct verbs_nic *nic;
	int fd;
	pthread_mutex_t setup;
	bool connected; /* (setup) */
	int setup_error; /* (setup) */
	struct lane tx, rx;
};

/* ------------------------------------------------------------------ a lane */

static int post(struct lane *l, enum hf_qp_op op, const struct hf_region *r, uint64_t addr, uint64_t len, int kind)
{
	const struct hf_qp_sge sge = { r, addr, len };
	const struct hf_qp_wr wr = { .op = op, .n = len ? 1 : 0, .sge = &sge, .cookie = (uint64_t)kind };

	return verbs_qp_post(l->qp, &wr);
}

/* Take account of what is done: 1 when there was something, 0, or -errno. */
static int look(struct lane *l)
{
	struct hf_qp_done d[8];
	int n = verbs_qp_poll(l->qp, d, 8);

	for (int i = 0; i < n; i++) {
		if (d[i].status)
			return d[i].status == -ECANCELED ? -ECONNRESET : d[i].status;
		l->done[d[i].cookie]++;
	}
	return n > 0 ? 1 : n;
}

/* Until the NIC has something, or the peer has gone: 1 then. */
static int sleep_for_event(struct verbs_conn *c, struct lane *l, int timeout_ms)
{
	struct pollfd p[2] = { { .fd = verbs_qp_fd(l->qp), .events = POLLIN },
			       { .fd = c->fd, .events = POLLRDHUP } };
	int rc = verbs_qp_arm(l->qp);

	if (rc)
		return rc < 0 ? rc : 0;
	poll(p, timeout_ms < 0 ? 2 : 1, timeout_ms);
	return p[1].revents != 0;
}

/*
 * Wait for n of a kind. What the peer's NIC has answered is there before its process closes the stream, but for the
 * answers to the last bytes, `grace`: these may still be on their way.
 */
static int wait_for(struct verbs_conn *c, struct lane *l, int kind, unsigned n, bool grace)
{
	uint64_t gone_at = 0;
	int looks = 0, rc;

	while (l->done[kind] < n) {
		rc = look(l);
		if (rc < 0)
			return rc;
		if (rc || ++looks < LOOKS) {
			if (!rc)
				sched_yield();
			continue;
		}
		if (gone_at && (!grace || os_now_ns() - gone_at > LAST_ACKS_NS))
			return -ECONNRESET;
		rc = sleep_for_event(c, l, gone_at ? 10 : -1);
		if (rc < 0)
			return rc;
		if (rc)
			gone_at = os_now_ns();
	}
	l->done[kind] -= n;
	return 0;
}

static int lane_open(struct verbs_conn *c, struct lane *l, uint8_t address[HF_QP_ADDRESS])
{
	uint64_t max;
	void *qp;
	int rc = verbs_qp_open(c->nic, c->fd, BATCH + 2, &qp, address, &max);

	if (rc)
		return rc;
	l->qp = qp;
	if (max < CHUNK)
		return hf_set_error(-EOPNOTSUPP, "%s moves %llu bytes at most in a message, %llu are needed", c->nic->name,
				    (unsigned long long)max, (unsigned long long)CHUNK);
	return 0;
}

static int fail(struct lane *l, int rc)
{
	l->error = rc;
	verbs_qp_stop(l->qp);
	return rc;
}

/* ------------------------------------------------------------------ attach, detach */

static int attach(struct verbs_conn *c)
{
	struct hello h = { htole32(HELLO_MAGIC), htole32(WIRE_VERSION), { 0 }, { 0 } };
	int rc = lane_open(c, &c->tx, h.tx);

	if (!rc)
		rc = lane_open(c, &c->rx, h.rx);
	if (!rc)
		rc = post(&c->tx, HF_QP_RECV, NULL, 0, 0, GO);
	if (!rc)
		rc = post(&c->tx, HF_QP_RECV, NULL, 0, 0, GO);
	if (rc)
		return rc;
	rc = stream_write(c->fd, &h, sizeof(h), 0);
	return rc ? hf_set_error(rc, "verbs: the peer can't be greeted: %s", strerror(-rc)) : 0;
}

int verbs_attach(void *nic, int fd, void **out)
{
	int rc = stream_prepare(fd);
	struct verbs_conn *c;

	if (rc)
		return rc;
	c = os_calloc(1, sizeof(*c));
	if (!c)
		return hf_set_error(-ENOMEM, "verbs: out of memory for a connection");
	c->nic = nic;
	c->fd = fd;
	pthread_mutex_init(&c->setup, NULL);
	pthread_mutex_init(&c->tx.lock, NULL);
	pthread_mutex_init(&c->rx.lock, NULL);
	rc = attach(c);
	if (rc)
		verbs_detach(c);
	else
		*out = c;
	return rc;
}

void verbs_detach(void *conn)
{
	struct verbs_conn *c = conn;

	if (c->tx.qp)
		verbs_qp_close(c->tx.qp);
	if (c->rx.qp)
		verbs_qp_close(c->rx.qp);
	pthread_mutex_destroy(&c->rx.lock);
	pthread_mutex_destroy(&c->tx.lock);
	pthread_mutex_destroy(&c->setup);
	free(c);
}

/* (setup) The peer's sender is our receiver. */
static int connect_lanes(struct verbs_conn *c)
{
	struct hello h;
	int rc = stream_read(c->fd, &h, sizeof(h));

	if (rc)
		return rc;
	if (le32toh(h.magic) != HELLO_MAGIC || le32toh(h.version) != WIRE_VERSION)
		return -EPROTO;
	rc = verbs_qp_ready(c->tx.qp, h.rx);
	return rc ? rc : verbs_qp_ready(c->rx.qp, h.tx);
}

/* Before the first message in either direction. */
static int connected(struct verbs_conn *c)
{
	int rc;

	pthread_mutex_lock(&c->setup);
	if (!c->connected && !c->setup_error) {
		c->setup_error = connect_lanes(c);
		c->connected = !c->setup_error;
	}
	rc = c->setup_error;
	pthread_mutex_unlock(&c->setup);
	return rc;
}

/* ------------------------------------------------------------------ send */

static unsigned chunks_of(uint64_t len)
{
	uint64_t n = (len + CHUNK - 1) / CHUNK;

	return n < BATCH ? (unsigned)n : BATCH;
}

static uint64_t part_of(uint64_t left)
{
	return left < CHUNK ? left : CHUNK;
}

/* (tx) The peer is told where one batch ends by counting, as this side does. */
static int send_batch(struct verbs_conn *c, const struct hf_region *r, uint64_t addr, uint64_t left)
{
	unsigned n = chunks_of(left);
	int rc = wait_for(c, &c->tx, GO, 1, false);

	if (!rc)
		rc = post(&c->tx, HF_QP_RECV, NULL, 0, 0, GO);
	for (unsigned i = 0; i < n && !rc; i++)
		rc = post(&c->tx, HF_QP_SEND, r, addr + i * CHUNK, part_of(left - i * CHUNK), DATA);
	return rc ? rc : wait_for(c, &c->tx, DATA, n, true);
}

static int send_message(struct verbs_conn *c, const struct hf_region *r, uint64_t addr, uint32_t len)
{
	int rc = connected(c);

	if (!rc)
		rc = stream_send_header(c->fd, &message, len, 0);
	for (uint64_t at = 0; at < len && !rc; at += BATCH * CHUNK)
		rc = send_batch(c, r, addr + at, len - at);
	return rc;
}

int verbs_send(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	struct verbs_conn *c = conn;
	int rc;

	if (len > UINT32_MAX)
		return stream_why_length(len);
	pthread_mutex_lock(&c->tx.lock);
	rc = c->tx.error;
	if (!rc && (rc = send_message(c, r, addr, (uint32_t)len)))
		fail(&c->tx, rc);
	pthread_mutex_unlock(&c->tx.lock);
	return stream_why_send(rc, len);
}

/* ------------------------------------------------------------------ receive */

/* (rx) The next message's length, unless it was kept. */
static int next_message(struct verbs_conn *c)
{
	int rc;

	if (c->rx.kept)
		return 0;
	rc = connected(c);
	if (!rc)
		rc = stream_recv_header(c->fd, &message, &c->rx.length);
	c->rx.kept = !rc;
	return rc;
}

/* (rx) The end of "go" is not waited for: bytes that came say that it has arrived. */
static int recv_batch(struct verbs_conn *c, const struct hf_region *r, uint64_t addr, uint64_t left)
{
	unsigned n = chunks_of(left);
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++)
		rc = post(&c->rx, HF_QP_RECV, r, addr + i * CHUNK, part_of(left - i * CHUNK), DATA);
	if (!rc)
		rc = post(&c->rx, HF_QP_SEND, NULL, 0, 0, GO);
	if (!rc)
		rc = wait_for(c, &c->rx, DATA, n, false);
	c->rx.done[GO] = 0;
	return rc;
}

/* (rx) 0 or the error that stays; -EMSGSIZE is none. */
static int recv_message(struct verbs_conn *c, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	int rc = next_message(c);

	if (rc)
		return rc;
	if (c->rx.length > len)
		return -EMSGSIZE;
	for (uint64_t at = 0; at < c->rx.length && !rc; at += BATCH * CHUNK)
		rc = recv_batch(c, r, addr + at, c->rx.length - at);
	c->rx.kept = rc != 0;
	return rc;
}

int verbs_recv(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got)
{
	struct verbs_conn *c = conn;
	int rc;

	*got = 0;
	pthread_mutex_lock(&c->rx.lock);
	rc = c->rx.error;
	if (!rc) {
		rc = recv_message(c, r, addr, len);
		if (!rc || rc == -EMSGSIZE)
			*got = c->rx.length;
		else
			fail(&c->rx, rc);
	}
	pthread_mutex_unlock(&c->rx.lock);
	return stream_why_recv(rc, &message, len, *got);
}
