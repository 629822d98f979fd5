/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What goes out. Frames are gathered until one has payload, sent in one call, and then its payload goes straight from
 * the registered memory.
 *
 * Which comes first: credits and answers that have no payload; then, in turns, a piece of the data that the peer reads
 * and a piece of what was posted here. What was posted waits
 *   - a send: for a credit, that is a receive that the peer has posted (R48). So a message that was begun is
 *     always taken in, and one direction never waits for the other;
 *   - a send or a write: for the answers to the reads before it, so that all are carried out in order;
 *   - all: while `window` of them are under way.
 *
 * By queue pairs (qp.c) only credits and BYE go out here.
 *
 * All functions: sock->lock is held.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "engine.h"

static const uint8_t zeros[64 << 10];

/* ------------------------------------------------------------------ gathering frames */

void tx_put(struct hf_sock *s, const struct wire_frame *f)
{
	wire_put_frame(s->tx.head + s->tx.head_size, f);
	s->tx.head_size += WIRE_FRAME_SIZE;
}

static bool put_credit(struct hf_sock *s)
{
	if (!s->uncredited || s->credits_out == s->window)
		return false;
	credit_put(s);
	return true;
}

static struct answer *first_answer(struct hf_sock *s)
{
	return s->answer_count ? &s->answers[s->answer_first] : NULL;
}

bool tx_answer(struct hf_sock *s, const struct answer *a)
{
	if (s->answer_count == s->window)
		return false;
	s->answers[(s->answer_first + s->answer_count++) % s->window] = *a;
	return true;
}

/* May the peer read, and is it still what was exposed? For a read's beginning and its end. */
static int check_read(struct hf_sock *s, const struct answer *a)
{
	uint64_t addr;
	void *owner;
	int rc = exposures_check(&s->exposures, a->descriptor, HF_READ, a->offset, a->total, &addr, &owner);

	if (rc)
		return rc;
	return mr_is_stale(s, owner) ? -ESTALE : 0;
}

static bool put_done(struct hf_sock *s)
{
	struct answer *a = first_answer(s);

	if (!a)
		return false;
	if (a->read && !a->status && (!a->moved || a->moved == a->total))
		a->status = check_read(s, a);
	if (a->read && !a->status && a->moved < a->total)
		return false;
	if (a->read)
		count_refused(s, a->status);
	STEP("before done");
	tx_put(s, &(struct wire_frame){ .type = WIRE_DONE, .op = a->op, .status = wire_status(a->status) });
	s->answer_first = (s->answer_first + 1) % s->window;
	s->answer_count--;
	return true;
}

static uint32_t piece(uint64_t left)
{
	return left < WIRE_CHUNK_MAX ? (uint32_t)left : WIRE_CHUNK_MAX;
}

static void with_payload(struct hf_sock *s, enum tx_payload payload, uint32_t length)
{
	s->tx.payload = length ? payload : TX_NONE;
	s->tx.left = length;
}

/* A piece of what the peer reads. */
static bool put_data(struct hf_sock *s)
{
	struct answer *a = first_answer(s);
	uint32_t length;

	if (!a || !a->read || a->status || a->moved == a->total)
		return false;
	length = piece(a->total - a->moved);
	tx_put(s, &(struct wire_frame){ .type = WIRE_DATA, .op = a->op, .offset = a->moved, .total = a->total,
					.length = length, .flags = a->moved + length == a->total ? WIRE_LAST : 0 });
	with_payload(s, TX_ANSWER, length);
	return true;
}

/* ------------------------------------------------------------------ what was posted */

/* Must the first of the queue wait? */
static bool must_wait(const struct hf_sock *s, const struct san_op *op)
{
	return op_must_wait(s, op) || (s->reads && op->completed.c.op != HF_OP_READ);
}

/* The operation whose pieces go out: the one of which some have, or the next; NULL: there is none that may. */
static struct san_op *current(struct hf_sock *s)
{
	struct san_op *op;

	if (s->tx.op)
		return s->tx.op;
	while ((op = s->queued.first) && !must_wait(s, op))
		if (op_begin(s, op_refuse(s, op)))
			return op;
	return NULL;
}

static void put_read(struct hf_sock *s, struct san_op *op)
{
	struct wire_frame f = { .type = WIRE_READ, .op = op->number, .offset = op->offset, .total = op->total };

	memcpy(f.descriptor, op->descriptor, sizeof(f.descriptor));
	tx_put(s, &f);
	op->sent = true;
}

static void put_piece(struct hf_sock *s, struct san_op *op)
{
	bool rdma = op->completed.c.op == HF_OP_WRITE;
	uint64_t left = op->total - op->moved;
	struct wire_frame f = {
		.type = rdma ? WIRE_WRITE : WIRE_MESSAGE, .op = op->number, .length = piece(left),
		.offset = (rdma ? op->offset : 0) + op->moved, .total = rdma ? left : op->total,
		.flags = left <= WIRE_CHUNK_MAX ? WIRE_LAST : 0,
	};

	if (rdma)
		memcpy(f.descriptor, op->descriptor, sizeof(f.descriptor));
	tx_put(s, &f);
	op->sent = !f.length;
	s->tx.op = op->sent ? NULL : op;
	with_payload(s, TX_OP, f.length);
}

static bool put_request(struct hf_sock *s)
{
	struct san_op *op = current(s);

	if (!op)
		return false;
	if (op->completed.c.op == HF_OP_READ)
		put_read(s, op);
	else
		put_piece(s, op);
	return true;
}

bool tx_next(struct hf_sock *s)
{
	bool any;

	if (put_credit(s) || put_done(s))
		return true;
	any = s->tx.answers_turn ? put_data(s) || put_request(s) : put_request(s) || put_data(s);
	if (any && s->tx.payload)
		s->tx.answers_turn = s->tx.payload == TX_OP;
	return any;
}

/* As many frames as there are, up to one with payload. False: nothing is to be sent. */
static bool gather(struct hf_sock *s)
{
	s->tx.head_size = s->tx.head_sent = 0;
	while (s->tx.payload == TX_NONE && s->tx.head_size < sizeof(s->tx.head))
		if (!s->carrier->put_next(s))
			break;
	return s->tx.head_size != 0;
}

/* ------------------------------------------------------------------ to the socket */

/* How many bytes, or -errno. */
static int send_bytes(struct hf_sock *s, const void *from, uint32_t size, bool more)
{
	ssize_t n = send(s->fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));

	return n < 0 ? -errno : (int)n;
}

static int send_head(struct hf_sock *s)
{
	int n = send_bytes(s, s->tx.head + s->tx.head_sent, s->tx.head_size - s->tx.head_sent, s->tx.payload != TX_NONE);

	if (n > 0)
		s->tx.head_sent += (uint32_t)n;
	return n;
}

static int move_out(struct hf_sock *s, const struct san_mr *mr, uint64_t addr, uint64_t len)
{
	return s->p->ops.move(s->p->nic, HF_READ, s->fd, &mr->region, addr, len);
}

static int send_op(struct hf_sock *s)
{
	uint64_t addr, len;
	struct san_mr *mr = op_here(s->tx.op, san_step_of(s->tx.left), &addr, &len);
	int n = move_out(s, mr, addr, len);

	if (n > 0)
		op_advance(s->tx.op, (uint64_t)n);
	return n;
}

/* The question and the step in one hold of the lock: sock.h. What was announced and may not be read is zeros. */
static int send_answer(struct hf_sock *s)
{
	struct answer *a = first_answer(s);
	uint32_t len = san_step_of(s->tx.left);
	uint64_t addr;
	void *owner;
	int n;

	a->status = exposures_check(&s->exposures, a->descriptor, HF_READ, a->offset + a->moved, len, &addr, &owner);
	if (a->status) {
		s->tx.payload = TX_ZEROS;
		return -EINTR;
	}
	n = move_out(s, owner, addr, len);
	if (n > 0)
		a->moved += (uint64_t)n;
	return n;
}

static int send_zeros(struct hf_sock *s)
{
	return send_bytes(s, zeros, s->tx.left < sizeof(zeros) ? s->tx.left : sizeof(zeros), false);
}

/* The payload has gone. */
static void end_payload(struct hf_sock *s)
{
	struct san_op *op = s->tx.payload == TX_OP ? s->tx.op : NULL;

	s->tx.payload = TX_NONE;
	if (!op || op->moved < op->total)
		return;
	op->sent = true;
	s->tx.op = NULL;
	STEP("sent");
}

static int send_payload(struct hf_sock *s)
{
	int n = s->tx.payload == TX_OP ? send_op(s) : s->tx.payload == TX_ANSWER ? send_answer(s) : send_zeros(s);

	if (n > 0) {
		STEP("moved out");
		s->tx.left -= (uint32_t)n;
		if (!s->tx.left)
			end_payload(s);
	}
	return n;
}

/* One call to the kernel. How many bytes; 0: there is nothing to send; or -errno. */
static int send_some(struct hf_sock *s)
{
	int n;

	if (s->tx.head_sent == s->tx.head_size && s->tx.payload == TX_NONE && !gather(s))
		return 0;
	n = s->tx.head_sent < s->tx.head_size ? send_head(s) : send_payload(s);
	return n ? n : -EPIPE;
}

/* When the answer is that the peer is gone, rx knows better why: epoll says that the socket is writable, or has ended. */
static void trouble(struct hf_sock *s, int err)
{
	s->tx.broken = true;
	if (err != -EPIPE && err != -ECONNRESET)
		sock_fail(s, end_status(err));
}

/* Does the engine have to go on? */
static void look_for(struct hf_sock *s, bool out)
{
	uint32_t events = EPOLLIN | (out ? EPOLLOUT : 0);

	if (s->error || s->events == events)
		return;
	s->events = events;
	if (engine_change(s->e, s->fd, events, &s->watch))
		sock_fail(s, -EIO);
}

void tx_run(struct hf_sock *s, uint32_t budget)
{
	uint64_t done = 0;
	int n = s->tx.broken ? -EPIPE : 1;

	if (!s->error && s->carrier->start)
		s->carrier->start(s);
	while (!s->error && !s->tx.broken && done < budget) {
		n = send_some(s);
		if (n > 0)
			done += (uint64_t)n;
		else if (n != -EINTR)
			break;
		sock_breathe(s);
	}
	if (n < 0 && n != -EAGAIN && n != -EINTR)
		trouble(s, n);
	look_for(s, n != 0);
}

/* Only between two frames, and only what fits at once: what was carried out for the peer, and that this is the end. */
void tx_bye(struct hf_sock *s)
{
	if (s->tx.broken || s->tx.payload != TX_NONE || s->tx.head_sent != s->tx.head_size)
		return;
	for (bool more = true; more;) {
		s->tx.head_size = s->tx.head_sent = 0;
		while (s->tx.head_size < sizeof(s->tx.head) && (more = put_done(s)))
			;
		if (!more && s->carrier->last_words)
			s->carrier->last_words(s);
		if (!more)
			tx_put(s, &(struct wire_frame){ .type = WIRE_BYE });
		if (send_head(s) != (int)s->tx.head_size)
			return;
	}
}
