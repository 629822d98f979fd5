/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What comes in. A frame's 80 bytes are read and looked at; its payload goes straight into the registered memory, or,
 * when it may not, to nowhere. Nothing here waits for what goes out, so two peers never wait for each other.
 *
 * What the peer may not do ends the connection with -EPROTO. What it may try and is not allowed to (a descriptor that is
 * none, or no more) is answered with DONE and a status, and disturbs nothing else.
 *
 * All functions: sock->lock is held, and the engine is the caller.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "engine.h"

/* ------------------------------------------------------------------ receives, writes, reads by the peer */

static int begin_message(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	struct san_op *op = s->receives.first;

	if (!s->credits_out || f->offset || f->total > s->max_message || f->total > op->total)
		return -EPROTO;
	s->rx.status = op_is_stale(s, op) ? -ESTALE : 0;
	return 0;
}

static int begin_write(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	uint64_t addr;
	void *owner;

	if (f->total > s->max_rdma)
		return -EPROTO;
	s->rx.offset = f->offset;
	s->rx.status = exposures_check(&s->exposures, f->descriptor, HF_WRITE, f->offset, f->total, &addr, &owner);
	if (!s->rx.status && mr_is_stale(s, owner))
		s->rx.status = -ESTALE;
	return 0;
}

/* A piece of a message or of a write. */
static int take_piece(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	bool write = f->type == WIRE_WRITE;
	int rc;

	if (!s->rx.open) {
		if (f->op != s->rx.next_op || s->answer_count == s->window)
			return -EPROTO;
		rc = write ? begin_write(s) : begin_message(s);
		if (rc)
			return rc;
		s->rx.open = true;
		s->rx.next_op++;
		s->rx.total = f->total;
		s->rx.moved = 0;
		s->rx.of = f->type;
		memcpy(s->rx.descriptor, f->descriptor, sizeof(s->rx.descriptor));
	} else if (f->type != s->rx.of || f->op != s->rx.next_op - 1 ||
		   f->total != s->rx.total - (write ? s->rx.moved : 0) ||
		   f->offset != (write ? s->rx.offset : s->rx.moved) ||
		   memcmp(f->descriptor, s->rx.descriptor, sizeof(f->descriptor))) {
		return -EPROTO;
	}
	s->rx.payload = s->rx.status ? RX_NOWHERE : write ? RX_WRITE : RX_RECEIVE;
	return 0;
}

static int take_read(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	struct answer a = { .read = true, .op = f->op, .offset = f->offset, .total = f->total };

	if (s->rx.open || f->op != s->rx.next_op || f->total > s->max_rdma)
		return -EPROTO;
	memcpy(a.descriptor, f->descriptor, sizeof(a.descriptor));
	s->rx.next_op++;
	return tx_answer(s, &a) ? 0 : -EPROTO;
}

/* ------------------------------------------------------------------ answers to what was posted here */

/* The first that is not answered yet; NULL: none has been sent. */
static struct san_op *unanswered(struct hf_sock *s)
{
	struct san_op *op = s->begun.first;

	while (op && op->done)
		op = op->next;
	return op;
}

static int take_data(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	struct san_op *op = unanswered(s);

	if (!op || op->completed.c.op != HF_OP_READ || !op->sent || f->op != op->number || f->offset != op->moved ||
	    f->total != op->total)
		return -EPROTO;
	s->rx.payload = RX_READ;
	return 0;
}

static int take_done(struct hf_sock *s)
{
	const struct wire_frame *f = &s->rx.frame;
	struct san_op *op = unanswered(s);
	bool read = op && op->completed.c.op == HF_OP_READ;

	if (!op || !op->sent || f->op != op->number || (read && !f->status && op->moved != op->total))
		return -EPROTO;
	op_ended(s, op, f->status);
	ops_settle(s);
	return 0;
}

/* ------------------------------------------------------------------ frames */

int rx_frame(struct hf_sock *s)
{
	switch (s->rx.frame.type) {
	case WIRE_CREDIT: return credit_take(s, &s->rx.frame);
	case WIRE_MESSAGE:
	case WIRE_WRITE: return take_piece(s);
	case WIRE_READ: return take_read(s);
	case WIRE_DATA: return take_data(s);
	case WIRE_DONE: return take_done(s);
	case WIRE_BYE: return -ESHUTDOWN;
	default: return -EPROTO;
	}
}

/* The whole message is here. */
static void end_message(struct hf_sock *s)
{
	struct san_op *op = queue_pop(&s->receives);

	s->credits_out--;
	if (!s->rx.status && op_is_stale(s, op))
		s->rx.status = -ESTALE;
	op_complete(s, op, s->rx.status);
}

/* Was the memory changed while it was written? */
static void end_write(struct hf_sock *s)
{
	uint64_t addr;
	void *owner;

	if (!s->rx.status && !exposures_check(&s->exposures, s->rx.descriptor, HF_WRITE, 0, 0, &addr, &owner) &&
	    mr_is_stale(s, owner))
		s->rx.status = -ESTALE;
	count_refused(s, s->rx.status);
}

/* The frame and its payload are done with. */
static void end_frame(struct hf_sock *s)
{
	enum wire_type type = s->rx.frame.type;
	struct answer a = { .op = s->rx.frame.op };

	s->rx.got = 0;
	if ((type != WIRE_MESSAGE && type != WIRE_WRITE) || s->rx.frame.flags != WIRE_LAST)
		return;
	s->rx.open = false;
	STEP("all in");
	if (type == WIRE_MESSAGE)
		end_message(s);
	else
		end_write(s);
	a.status = s->rx.status;
	tx_answer(s, &a); /* there is room: take_piece() has seen to it */
}

/* ------------------------------------------------------------------ from the socket */

/* How many bytes, 0: the stream has ended, or -errno. */
static int recv_bytes(struct hf_sock *s, void *to, size_t size)
{
	ssize_t n = recv(s->fd, to, size, MSG_DONTWAIT);

	return n < 0 ? -errno : (int)n;
}

static int recv_head(struct hf_sock *s)
{
	int n = recv_bytes(s, s->rx.head + s->rx.got, WIRE_FRAME_SIZE - s->rx.got);
	int rc;

	if (n <= 0)
		return n;
	s->rx.got += (uint32_t)n;
	if (s->rx.got < WIRE_FRAME_SIZE)
		return n;
	STEP("frame in");
	rc = wire_get_frame(s->rx.head, &s->rx.frame);
	s->rx.left = s->rx.frame.length;
	if (!rc)
		rc = s->carrier->take_frame(s);
	if (rc)
		return rc;
	if (!s->rx.left)
		end_frame(s);
	return n;
}

static int move_in(struct hf_sock *s, const struct san_mr *mr, uint64_t addr, uint64_t len)
{
	return s->p->ops.move(s->p->nic, HF_WRITE, s->fd, &mr->region, addr, len);
}

static int recv_op(struct hf_sock *s, struct san_op *op)
{
	uint64_t addr, len;
	struct san_mr *mr = op_here(op, san_step_of(s->rx.left), &addr, &len);
	int n = move_in(s, mr, addr, len);

	if (n > 0)
		op_advance(op, (uint64_t)n);
	return n;
}

/* The question and the step in one hold of the lock: sock.h. */
static int recv_write(struct hf_sock *s)
{
	uint32_t len = san_step_of(s->rx.left);
	uint64_t addr;
	void *owner;

	s->rx.status = exposures_check(&s->exposures, s->rx.descriptor, HF_WRITE, s->rx.offset, len, &addr, &owner);
	if (!s->rx.status)
		return move_in(s, owner, addr, len);
	s->rx.payload = RX_NOWHERE;
	return -EINTR;
}

static int recv_nowhere(struct hf_sock *s)
{
	size_t most = sizeof(s->e->nowhere);

	return recv_bytes(s, s->e->nowhere, s->rx.left < most ? s->rx.left : most);
}

static int recv_step(struct hf_sock *s)
{
	switch (s->rx.payload) {
	case RX_RECEIVE: return recv_op(s, s->receives.first);
	case RX_READ: return recv_op(s, unanswered(s));
	case RX_WRITE: return recv_write(s);
	default: return recv_nowhere(s);
	}
}

static int recv_payload(struct hf_sock *s)
{
	int n = recv_step(s);

	if (n <= 0)
		return n;
	STEP("moved in");
	s->rx.left -= (uint32_t)n;
	/* Pieces of what the peer reads to us may come between those of what it writes. */
	if (s->rx.frame.type != WIRE_DATA) {
		s->rx.moved += (uint64_t)n;
		s->rx.offset += (uint64_t)n;
	}
	if (!s->rx.left)
		end_frame(s);
	return n;
}

static int recv_some(struct hf_sock *s)
{
	int n = s->rx.got < WIRE_FRAME_SIZE ? recv_head(s) : recv_payload(s);

	return n ? n : -ECONNRESET;
}

/*
 * With -EAGAIN there is nothing more to read, though the peer doesn't read any more either: it hasn't closed, but shut down one
 * direction, which nobody does who keeps to the protocol.
 */
int end_status(int err)
{
	switch (err) {
	case -ESHUTDOWN:
	case -EPROTO: return err;
	case -EINVAL:
	case -EFAULT:
	case -EBADF:
	case -ENOMEM:
	case -EIO: return -EIO; /* the NIC */
	default: return -ECONNRESET;
	}
}

void rx_run(struct hf_sock *s, uint32_t budget)
{
	uint64_t done = 0;
	int n;

	while (!s->error && done < budget) {
		n = recv_some(s);
		if (n > 0)
			done += (uint64_t)n;
		else if (n == -EAGAIN && !s->tx.broken)
			return;
		else if (n != -EINTR)
			sock_fail(s, end_status(n));
		sock_breathe(s);
	}
}
