/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * How two get to know each other: wire.h draws it. The server's side is driven by the engine, so that who says nothing
 * keeps nobody waiting; what it sends is 64, 48 and 164 bytes, which an empty socket always takes.
 *
 * In version 2 the queue pairs are connected here, too, so that a socket is only ever made with one that works, and nothing later
 * waits for the peer to make its own. The server's is opened when the client has proved itself, not before.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listen.h"
#include "qp.h"

#ifdef HF_FAULTS
_Atomic unsigned san_handshake_ms = 5000;
#endif

struct handshake {
	struct watch watch;     /* first */
	struct handshake *next; /* (engine->lock) in the engine's list, or among its dead */
	struct listener *l;
	int fd;
	bool refused;           /* the uid is none of ours: told at the end, as a wrong secret is */
	bool dead;              /* (engine->lock) an event may still come */
	uint64_t until;         /* ns */
	enum { HELLO, PROOF, QP } awaits; /* what is waited for */
	uint8_t in[WIRE_QP_SIZE + WIRE_FRAME_SIZE];
	unsigned got;
	uint8_t client[WIRE_HELLO_SIZE], server[WIRE_HELLO_SIZE];
	struct made made;
};

void san_close(int fd)
{
	hf_close_on_fork_done(fd);
	close(fd);
}

/* One version, for a NIC has either queue pairs or not. */
static int make_hello(const struct hf_provider *p, const struct san_options *o, uint8_t out[WIRE_HELLO_SIZE])
{
	uint16_t version = (uint16_t)sock_carrier(p)->version;
	struct wire_hello h = {
		.version_min = version, .version_max = version,
		.max_message = o->max_message, .max_rdma = o->max_rdma, .depth = o->depth,
	};
	int rc = san_nonce(h.nonce);

	if (!rc)
		wire_put_hello(out, &h);
	return rc;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void agree(struct made *made, const struct san_options *o, const struct wire_hello *peer)
{
	made->max_message = smaller(o->max_message, peer->max_message);
	made->max_rdma = smaller(o->max_rdma, peer->max_rdma);
	made->depth = o->depth;
	made->window = (uint32_t)smaller(o->depth, peer->depth);
}

/* The peer's hello. */
static int hear_hello(const struct hf_provider *p, const uint8_t in[WIRE_HELLO_SIZE], struct wire_hello *out)
{
	int rc = wire_get_hello(in, out);

	return rc || wire_speaks(out, sock_carrier(p)->version) ? rc : -EPROTONOSUPPORT;
}

/* What goes by the queue pairs is bounded by both. */
static void agree_qp(struct made *made, uint64_t mine, uint64_t peers)
{
	uint64_t max = smaller(mine, peers);

	made->max_message = smaller(made->max_message, max);
	made->max_rdma = smaller(made->max_rdma, max);
}

static void put_ready(uint8_t out[WIRE_FRAME_SIZE])
{
	wire_put_frame(out, &(struct wire_frame){ .type = WIRE_READY });
}

static int get_ready(const uint8_t in[WIRE_FRAME_SIZE])
{
	struct wire_frame f;
	int rc = wire_get_frame(in, &f);

	return rc || f.type == WIRE_READY ? rc : -EPROTO;
}

static bool is_friend(int fd)
{
	uid_t uid;
	pid_t pid;

	return san_peer(fd, &uid, &pid) == 0 && (uid == geteuid() || uid == 0);
}

/* ------------------------------------------------------------------ the server: engine->lock is held */

static struct handshake **place_of(struct engine *e, const struct handshake *h)
{
	struct handshake **at = &e->handshakes;

	while (*at && *at != h)
		at = &(*at)->next;
	return at;
}

/* Out of the list; it is freed when no batch of events can name it. Its descriptor is the caller's. */
static void retire(struct engine *e, struct handshake *h)
{
	struct handshake **at = place_of(e, h);

	*at = h->next;
	e->handshake_count--;
	engine_del(e, h->fd);
	h->dead = true;
	h->next = e->dead;
	e->dead = h;
}

static void drop(struct engine *e, struct handshake *h)
{
	retire(e, h);
	made_drop(&h->made);
}

void handshakes_drop(struct engine *e, const struct listener *l)
{
	for (struct handshake *h = e->handshakes, *next; h; h = next) {
		next = h->next;
		if (h->l == l)
			drop(e, h);
	}
}

void handshakes_free_dead(struct engine *e)
{
	while (e->dead) {
		struct handshake *h = e->dead;

		e->dead = h->next;
		free(h);
	}
}

int handshakes_expire(struct engine *e)
{
	uint64_t now = os_now_ns(), next = listeners_resume(e, now);

	while (e->handshakes && e->handshakes->until <= now)
		drop(e, e->handshakes);
	if (e->handshakes && (!next || e->handshakes->until < next))
		next = e->handshakes->until;
	return next ? (int)((next - now) / 1000000 + 1) : -1;
}

/* Who will be refused anyway, else the oldest. */
static struct handshake *least_wanted(struct engine *e)
{
	for (struct handshake *h = e->handshakes; h; h = h->next)
		if (h->refused)
			return h;
	return e->handshakes;
}

void handshake_begin(struct engine *e, struct listener *l, int fd)
{
	struct handshake *h = os_calloc(1, sizeof(*h));

	if (e->handshake_count == HANDSHAKES_MAX)
		drop(e, least_wanted(e));
	if (!h || hf_close_on_fork(fd)) {
		free(h);
		close(fd);
		return;
	}
	h->watch.kind = WATCH_HANDSHAKE;
	h->l = l;
	h->fd = fd;
	h->made.fd = fd;
	h->refused = l->address.sa.ss_family == AF_UNIX && !l->options.any_uid && !is_friend(fd);
	h->until = os_now_ns() + HANDSHAKE_MS * 1000000ull;
	if (engine_add(e, fd, EPOLLIN, &h->watch)) {
		san_close(fd);
		free(h);
		return;
	}
	*place_of(e, NULL) = h;
	e->handshake_count++;
}

static bool say(int fd, const void *what, size_t size)
{
	return send(fd, what, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

/* 0 to go on, or it is to be dropped. */
static int greet(struct engine *e, struct handshake *h)
{
	struct wire_hello peer;
	int rc = hear_hello(e->p, h->in, &peer);

	if (rc == -EPROTO || make_hello(e->p, &h->l->options, h->server))
		return -EPROTO;
	/* Also one of another version is told which is spoken here. */
	if (!say(h->fd, h->server, sizeof(h->server)) || rc)
		return -EPROTO;
	memcpy(h->client, h->in, sizeof(h->client));
	agree(&h->made, &h->l->options, &peer);
	h->awaits = PROOF;
	STEP("greeted");
	return 0;
}

/* The queue pair, for who is let in, and what it is called. */
static int open_qp(struct engine *e, struct handshake *h, uint8_t out[WIRE_QP_SIZE])
{
	struct wire_qp mine = { 0 };
	int rc = qp_open(e->p, h->fd, h->made.depth, &h->made.qp, &mine);

	if (rc)
		return rc;
	agree_qp(&h->made, mine.max, mine.max);
	wire_put_qp(out, &mine);
	h->awaits = QP;
	return 0;
}

static int judge(struct engine *e, struct handshake *h)
{
	const struct san_secret *secret = &h->l->options.secret;
	struct wire_proof proof;
	uint8_t answer[WIRE_PROOF_SIZE + WIRE_QP_SIZE];

	if (wire_get_proof(h->in, &proof) || proof.status)
		return -EPROTO;
	if (h->refused || !san_proved(secret, SAN_CLIENT, h->client, h->server, proof.mac))
		proof = (struct wire_proof){ .status = -EACCES };
	else
		san_prove(secret, SAN_SERVER, h->client, h->server, proof.mac);
	if (!proof.status && e->p->ops.qp && open_qp(e, h, answer + WIRE_PROOF_SIZE))
		proof = (struct wire_proof){ .status = -EIO };
	wire_put_proof(answer, &proof);
	return say(h->fd, answer, WIRE_PROOF_SIZE + (h->made.qp ? WIRE_QP_SIZE : 0)) ? proof.status : -ECONNRESET;
}

/* The client's is ready; now ours. */
static int join_qps(struct handshake *h)
{
	uint8_t answer[WIRE_FRAME_SIZE];
	struct wire_qp peer;
	int rc = wire_get_qp(h->in, &peer);

	if (!rc)
		rc = get_ready(h->in + WIRE_QP_SIZE);
	if (!rc)
		rc = qp_ready(h->made.qp, &peer);
	if (rc)
		return rc;
	agree_qp(&h->made, peer.max, peer.max);
	put_ready(answer);
	return say(h->fd, answer, sizeof(answer)) ? 0 : -ECONNRESET;
}

/* 1: all of it is here, 0: not yet, or -errno. */
static int hear(struct handshake *h, unsigned size)
{
	ssize_t n = recv(h->fd, h->in + h->got, size - h->got, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	h->got += (unsigned)n;
	return n == 0 ? -ECONNRESET : h->got == size;
}

void handshake_ready(struct engine *e, struct watch *w)
{
	struct handshake *h = (struct handshake *)w;
	static const unsigned sizes[] = { WIRE_HELLO_SIZE, WIRE_PROOF_SIZE, WIRE_QP_SIZE + WIRE_FRAME_SIZE };
	unsigned now = h->awaits;
	int rc;

	if (h->dead)
		return;
	rc = hear(h, sizes[now]);
	if (!rc)
		return;
	h->got = 0;
	if (rc > 0)
		rc = now == HELLO ? greet(e, h) : now == PROOF ? judge(e, h) : join_qps(h);
	if (rc) {
		drop(e, h);
	} else if (now == h->awaits) { /* nothing comes next */
		retire(e, h);
		STEP("agreed");
		listener_push(h->l, &h->made);
	}
}

/* ------------------------------------------------------------------ the client */

static int wait_for(int fd, short events, uint64_t until)
{
	uint64_t now = os_now_ns();
	struct pollfd p = { .fd = fd, .events = events };
	int n = now < until ? poll(&p, 1, (int)smaller((until - now) / 1000000 + 1, INT32_MAX)) : 0;

	return n > 0 || (n < 0 && errno == EINTR) ? 0 : n < 0 ? -errno : -ETIMEDOUT;
}

static int say_all(int fd, const void *what, size_t size, uint64_t until)
{
	int rc = 0;

	while (!rc) {
		if (say(fd, what, size))
			return 0;
		rc = errno == EAGAIN ? wait_for(fd, POLLOUT, until) : -errno;
	}
	return rc;
}

static int hear_all(int fd, void *to, size_t size, uint64_t until)
{
	size_t got = 0;
	int rc = 0;

	while (!rc && got < size) {
		ssize_t n = recv(fd, (char *)to + got, size - got, MSG_DONTWAIT);

		if (n > 0)
			got += (size_t)n;
		else if (n == 0)
			rc = -ECONNRESET;
		else if (errno == EAGAIN)
			rc = wait_for(fd, POLLIN, until);
		else if (errno != EINTR)
			rc = -errno;
	}
	return rc;
}

/* Both hellos. */
static int meet(const struct hf_provider *p, struct made *made, const struct san_options *o, uint64_t until,
		uint8_t *client, uint8_t *server)
{
	struct wire_hello peer;
	int rc = make_hello(p, o, client);

	if (!rc)
		rc = say_all(made->fd, client, WIRE_HELLO_SIZE, until);
	if (!rc)
		rc = hear_all(made->fd, server, WIRE_HELLO_SIZE, until);
	if (!rc)
		rc = hear_hello(p, server, &peer);
	if (!rc)
		agree(made, o, &peer);
	return rc;
}

static int prove(const struct made *made, const struct san_options *o, uint64_t until, const uint8_t *client,
		 const uint8_t *server)
{
	struct wire_proof proof = { 0 };
	uint8_t text[WIRE_PROOF_SIZE];
	int rc;

	san_prove(&o->secret, SAN_CLIENT, client, server, proof.mac);
	wire_put_proof(text, &proof);
	rc = say_all(made->fd, text, sizeof(text), until);
	if (!rc)
		rc = hear_all(made->fd, text, sizeof(text), until);
	if (!rc)
		rc = wire_get_proof(text, &proof);
	if (!rc)
		rc = proof.status;
	if (!rc && !san_proved(&o->secret, SAN_SERVER, client, server, proof.mac))
		rc = -EACCES;
	return rc;
}

/* A queue pair that is connected to `peer`. With the NIC's own sentence. */
static int make_qp(struct hf_provider *p, struct made *made, const struct wire_qp *peer, struct wire_qp *mine)
{
	int rc = qp_open(p, made->fd, made->depth, &made->qp, mine);

	if (rc)
		return rc;
	agree_qp(made, mine->max, peer->max);
	return qp_ready(made->qp, peer);
}

int handshake_qp(struct hf_provider *p, struct made *made, uint64_t until, bool *nic)
{
	uint8_t text[WIRE_QP_SIZE + WIRE_FRAME_SIZE];
	struct wire_qp peer, mine = { 0 };
	int rc = hear_all(made->fd, text, WIRE_QP_SIZE, until);

	*nic = false;
	if (!rc)
		rc = wire_get_qp(text, &peer);
	if (rc)
		return rc;
	rc = make_qp(p, made, &peer, &mine);
	*nic = rc != 0;
	if (rc)
		return rc;
	wire_put_qp(text, &mine);
	put_ready(text + WIRE_QP_SIZE);
	rc = say_all(made->fd, text, sizeof(text), until);
	STEP("said ready");
	if (!rc)
		rc = hear_all(made->fd, text, WIRE_FRAME_SIZE, until);
	return rc ? rc : get_ready(text);
}

int handshake_client(struct hf_provider *p, struct made *made, const struct san_options *o, uint64_t until)
{
	uint8_t client[WIRE_HELLO_SIZE], server[WIRE_HELLO_SIZE];
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int rc;

	/* Who listens at a path that others may write to? */
	if (getpeername(made->fd, (struct sockaddr *)&sa, &len) == 0 && sa.ss_family == AF_UNIX && !o->any_uid &&
	    !is_friend(made->fd))
		return -EACCES;
	rc = meet(p, made, o, until, client, server);
	STEP("met");
	return rc ? rc : prove(made, o, until, client, server);
}
