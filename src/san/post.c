/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What is asked for, and how it completes: exactly once (R47). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sock.h"

/* ------------------------------------------------------------------ queues */

void queue_init(struct op_queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

void queue_push(struct op_queue *q, struct san_op *op)
{
	op->next = NULL;
	*q->last = op;
	q->last = &op->next;
}

struct san_op *queue_pop(struct op_queue *q)
{
	struct san_op *op = q->first;

	if (!op)
		return NULL;
	q->first = op->next;
	if (!q->first)
		q->last = &q->first;
	return op;
}

/* ------------------------------------------------------------------ the memory of an operation */

bool mr_is_stale(struct hf_sock *s, const struct san_mr *mr)
{
	return mr->secured && hf_secured_changed(s->p->sw, mr->secured) != 0;
}

bool op_is_stale(struct hf_sock *s, const struct san_op *op)
{
	for (unsigned i = 0; i < op->segments; i++) {
		/* Segments of one handle usually stand together. */
		if ((!i || op->seg[i].mr != op->seg[i - 1].mr) && mr_is_stale(s, op->seg[i].mr))
			return true;
	}
	return false;
}

struct san_mr *op_here(struct san_op *op, uint64_t most, uint64_t *addr, uint64_t *len)
{
	const struct san_seg *seg;

	while (op->at_offset == op->seg[op->at].len && op->at + 1 < op->segments) {
		op->at++;
		op->at_offset = 0;
	}
	seg = &op->seg[op->at];
	*addr = seg->addr + op->at_offset;
	*len = seg->len - op->at_offset < most ? seg->len - op->at_offset : most;
	return seg->mr;
}

void op_advance(struct san_op *op, uint64_t n)
{
	op->moved += n;
	op->at_offset += n;
}

/* ------------------------------------------------------------------ credits */

void credit_put(struct hf_sock *s)
{
	struct san_op *op = s->uncredited;

	tx_put(s, &(struct wire_frame){ .type = WIRE_CREDIT, .op = s->next_credit++, .total = op->total });
	s->credits_out++;
	s->uncredited = op->next;
}

int credit_take(struct hf_sock *s, const struct wire_frame *f)
{
	if (s->credit_count == s->window || f->op != s->rx.next_credit)
		return -EPROTO;
	s->rx.next_credit++;
	s->credits[(s->credit_first + s->credit_count++) % s->window] = f->total;
	return 0;
}

/* ------------------------------------------------------------------ beginning */

bool op_must_wait(const struct hf_sock *s, const struct san_op *op)
{
	return s->in_flight == s->window || (op->completed.c.op == HF_OP_SEND && !s->credit_count);
}

int op_refuse(struct hf_sock *s, const struct san_op *op)
{
	if (op->completed.c.op == HF_OP_SEND && op->total > s->credits[s->credit_first])
		return -EMSGSIZE;
	return op_is_stale(s, op) ? -ESTALE : 0;
}

static void count_begun(struct hf_sock *s, struct san_op *op)
{
	op->begun = true;
	op->number = s->next_op++;
	s->in_flight++;
	if (op->completed.c.op == HF_OP_READ)
		s->reads++;
	if (op->completed.c.op != HF_OP_SEND)
		return;
	s->credit_first = (s->credit_first + 1) % s->window;
	s->credit_count--;
}

bool op_begin(struct hf_sock *s, int refused)
{
	struct san_op *op = queue_pop(&s->queued);

	queue_push(&s->begun, op);
	if (!refused) {
		count_begun(s, op);
		return true;
	}
	op->local = op->done = true;
	op->completed.c.status = refused;
	ops_settle(s);
	return false;
}

void op_ended(struct hf_sock *s, struct san_op *op, int status)
{
	s->in_flight--;
	if (op->completed.c.op == HF_OP_READ)
		s->reads--;
	op->done = true;
	op->completed.c.status = !status && op_is_stale(s, op) ? -ESTALE : status;
}

/* ------------------------------------------------------------------ completing */

void op_complete(struct hf_sock *s, struct san_op *op, int status)
{
	struct hf_completion *c = &op->completed.c;

	for (unsigned i = 0; i < op->segments; i++)
		op->seg[i].mr->busy--;
	if (c->op == HF_OP_RECV)
		s->posted_receives--;
	else
		s->posted--;
	c->status = status;
	c->bytes = status ? 0 : op->moved;
	cq_deliver(s->cq, &op->completed);
}

void ops_settle(struct hf_sock *s)
{
	while (s->begun.first && s->begun.first->done) {
		struct san_op *op = queue_pop(&s->begun);

		op_complete(s, op, op->completed.c.status);
	}
}

/* ------------------------------------------------------------------ posting */

/* What one of the four wants. */
struct want {
	enum hf_op op;
	const struct hf_segment *seg;
	unsigned n;
	const void *descriptor;
	size_t length;
	uint64_t offset;
	void *context;
};

static const char *const names[] = { "", "send", "receive", "RDMA write", "RDMA read" };

static bool is_rdma(enum hf_op op)
{
	return op == HF_OP_WRITE || op == HF_OP_READ;
}

/* The right that the local memory must have. */
static unsigned right(enum hf_op op)
{
	return op == HF_OP_SEND || op == HF_OP_WRITE ? HF_READ : HF_WRITE;
}

static int check_want(const struct want *w)
{
	if (w->n > HF_SEGMENTS || (w->n && !w->seg))
		return hf_set_error(-EINVAL, "%s: %u segments; at most %d, and their array", names[w->op], w->n, HF_SEGMENTS);
	if (is_rdma(w->op) && (!w->descriptor || w->length != HF_DESCRIPTOR_SIZE))
		return hf_set_error(-EINVAL, "%s: a descriptor has %d bytes, %zu given", names[w->op], HF_DESCRIPTOR_SIZE,
				    w->descriptor ? w->length : 0);
	return 0;
}

/* lock */
static int check_segment(struct hf_sock *s, const struct want *w, const struct hf_segment *g, struct san_seg *out)
{
	struct san_mr *mr = mr_find(s, g->mr);
	uint64_t addr = (uintptr_t)g->addr;

	if (!mr)
		return hf_set_error(-EINVAL, "%s: 0x%" PRIx64 " is no handle of this socket", names[w->op], g->mr);
	if (addr < mr->addr || addr - mr->addr > mr->len || g->len > mr->len - (addr - mr->addr))
		return hf_set_error(-EINVAL, "%s: [0x%" PRIx64 ", +%zu) is not inside of what the handle covers, [0x%" PRIx64
				    ", +%" PRIu64 ")", names[w->op], addr, g->len, mr->addr, mr->len);
	if (!(mr->access & right(w->op)))
		return hf_set_error(-EACCES, "%s: the memory was registered without %s", names[w->op],
				    right(w->op) == HF_READ ? "HF_READ" : "HF_WRITE");
	if (mr_is_stale(s, mr))
		return hf_set_error(-ESTALE, "%s: the memory at 0x%" PRIx64 " was changed after it was registered: register it "
				    "anew", names[w->op], addr);
	*out = (struct san_seg){ mr, addr, g->len };
	return 0;
}

/* lock */
static int check_total(const struct hf_sock *s, const struct want *w, uint64_t total)
{
	uint64_t most = is_rdma(w->op) ? s->max_rdma : s->max_message;

	if (total > most)
		return hf_set_error(-EMSGSIZE, "%s: %" PRIu64 " bytes, the largest on this connection is %" PRIu64
				    ": do it in parts, or connect with max_%s=SIZE", names[w->op], total, most,
				    is_rdma(w->op) ? "rdma" : "message");
	if (is_rdma(w->op) && (w->offset > WIRE_SIZE_MAX || total > WIRE_SIZE_MAX - w->offset))
		return hf_set_error(-EINVAL, "%s: the offset 0x%" PRIx64 " is too large", names[w->op], w->offset);
	return 0;
}

/* lock */
static int check_room(const struct hf_sock *s, const struct want *w)
{
	if (s->error)
		return hf_set_error(s->error, "%s: the connection has ended: %s; open a new one", names[w->op],
				    strerror(-s->error));
	if ((w->op == HF_OP_RECV ? s->posted_receives : s->posted) >= s->depth)
		return hf_set_error(-EAGAIN, "%s: %u are posted and have not completed: take completions first, or open the "
				    "socket with depth=N", names[w->op], s->depth);
	return 0;
}

/* lock */
static int fill(struct hf_sock *s, const struct want *w, struct san_op *op)
{
	int rc = check_room(s, w);

	for (unsigned i = 0; i < w->n && !rc; i++) {
		rc = check_segment(s, w, &w->seg[i], &op->seg[i]);
		op->total += op->seg[i].len;
	}
	if (!rc)
		rc = check_total(s, w, op->total);
	if (rc)
		return rc;
	op->segments = w->n;
	for (unsigned i = 0; i < w->n; i++)
		op->seg[i].mr->busy++;
	return 0;
}

/* lock: from here on it will complete. */
static void enqueue(struct hf_sock *s, struct san_op *op)
{
	if (op->completed.c.op != HF_OP_RECV) {
		s->posted++;
		queue_push(&s->queued, op);
	} else {
		s->posted_receives++;
		queue_push(&s->receives, op);
		if (!s->uncredited)
			s->uncredited = op;
	}
	tx_run(s, SAN_BUDGET);
}

static struct san_op *op_new(struct hf_sock *s, const struct want *w)
{
	struct san_op *op = os_calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->completed.c = (struct hf_completion){ .context = w->context, .sock = s, .op = w->op };
	op->offset = w->offset;
	if (w->descriptor)
		memcpy(op->descriptor, w->descriptor, sizeof(op->descriptor));
	return op;
}

static int post(struct hf_sock *s, const struct want *w)
{
	int rc = sock_enter_connected(s);
	struct san_op *op;

	if (!rc)
		rc = check_want(w);
	if (rc)
		return rc;
	op = op_new(s, w);
	if (!op)
		return hf_set_error(-ENOMEM, "no memory for one operation more");
	sock_lock(s);
	rc = fill(s, w, op);
	if (!rc)
		enqueue(s, op);
	sock_unlock(s);
	if (rc)
		free(op);
	return rc;
}

int hf_post_send(struct hf_sock *s, const struct hf_segment *seg, unsigned n, void *context)
{
	return post(s, &(struct want){ .op = HF_OP_SEND, .seg = seg, .n = n, .context = context });
}

int hf_post_recv(struct hf_sock *s, const struct hf_segment *seg, unsigned n, void *context)
{
	return post(s, &(struct want){ .op = HF_OP_RECV, .seg = seg, .n = n, .context = context });
}

int hf_post_write(struct hf_sock *s, const struct hf_segment *seg, unsigned n, const void *descriptor,
		  size_t length, uint64_t offset, void *context)
{
	return post(s, &(struct want){ HF_OP_WRITE, seg, n, descriptor, length, offset, context });
}

int hf_post_read(struct hf_sock *s, const struct hf_segment *seg, unsigned n, const void *descriptor,
		 size_t length, uint64_t offset, void *context)
{
	return post(s, &(struct want){ HF_OP_READ, seg, n, descriptor, length, offset, context });
}
