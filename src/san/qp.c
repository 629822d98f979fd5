/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* All functions: sock->lock is held, unless they say otherwise. It is also what makes the calls on one qp come one at a time. */
#include "qp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine.h"

#define BATCH  16   /* taken in one call */
#define BUDGET 1024 /* ... before another socket has its turn */
#define ROUNDS 4    /* of arm() and poll() before that */
#define LOOK_MS 1   /* who waits in hf_mr_expose() looks by itself */

struct qp_watch {
	struct watch watch; /* first */
	struct hf_sock *s;
};

struct san_qp {
	const struct hf_nic_qp_ops *ops;
	void *qp;
	int fd;                  /* the qp's */
	int told;                /* an eventfd: memory has changed, or the engine is to look again */
	struct qp_watch on_done, on_told; /* for epoll */
	struct cq_source source;
	struct hf_sock *s;
	pthread_cond_t exposing; /* with sock->lock: an exposure is under way no more */
	uint32_t exposures;      /* under way */
	int broken;              /* the status that all get which have none of their own */
	bool last, stopped;      /* qp_take_last() has been called; stop() has */
	uint32_t received, sent; /* messages: that have come, that the NIC knows to have arrived; modulo 2^32 */
	uint32_t peers;          /* when the peer closes: what it has received */
	bool told_peers;         /* ... and it has said so: BYE is next */
};

/* Who waits in hf_mr_expose(): on its stack. Its cookie is its address + 1, an operation's is even. */
struct exposing {
	_Alignas(8) bool done;
};

/* ------------------------------------------------------------------ life: no lock */

static void free_qp(struct san_qp *q)
{
	if (q->told >= 0) {
		hf_close_on_fork_done(q->told);
		close(q->told);
	}
	pthread_cond_destroy(&q->exposing);
	free(q);
}

static struct san_qp *new_qp(const struct hf_nic_qp_ops *ops)
{
	struct san_qp *q = os_calloc(1, sizeof(*q));
	pthread_condattr_t attr;

	if (!q)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->exposing, &attr);
	pthread_condattr_destroy(&attr);
	q->ops = ops;
	q->told = os_eventfd();
	if (q->told >= 0 && !hf_close_on_fork(q->told))
		return q;
	if (q->told >= 0)
		close(q->told);
	q->told = -1;
	free_qp(q);
	return NULL;
}

static void stop(struct san_qp *q)
{
	if (!q->stopped)
		q->ops->stop(q->qp);
	q->stopped = true;
}

int qp_open(struct hf_provider *p, int fd, uint32_t depth, struct san_qp **out, struct wire_qp *tell)
{
	struct san_qp *q = new_qp(p->ops.qp);
	int rc;

	if (!q)
		return hf_set_error(-ENOMEM, "no memory or no descriptor for a queue pair: raise ulimit -n");
	rc = q->ops->open(p->nic, fd, depth, &q->qp, tell->address, &tell->max);
	if (!rc) {
		q->fd = q->ops->fd(q->qp);
		rc = hf_close_on_fork(q->fd);
		if (!rc) {
			*out = q;
			return 0;
		}
		stop(q);
		q->ops->close(q->qp);
	}
	free_qp(q);
	return rc;
}

int qp_ready(struct san_qp *q, const struct wire_qp *peer)
{
	return q->ops->ready(q->qp, peer->address);
}

void qp_close(struct san_qp *q)
{
	if (!q)
		return;
	stop(q);
	hf_close_on_fork_done(q->fd);
	q->ops->close(q->qp);
	free_qp(q);
}

/* Have the engine look; it is woken at once, by a system call that neither waits nor allocates. */
static void kick(struct san_qp *q)
{
	uint64_t one = 1;
	int saved = errno;

	while (write(q->told, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	errno = saved;
}

void qp_changed(void *arg, void *addr, size_t len)
{
	struct san_mr *mr = arg;

	(void)addr;
	(void)len;
	atomic_store(&mr->changed, true);
	kick(mr->told->qp);
}

/* ------------------------------------------------------------------ what is done */

/* A receive keeps its place in the queue until those before it are done. */
static void settle_receives(struct hf_sock *s)
{
	struct san_op *op;

	while ((op = s->receives.first) && op->done) {
		if (s->uncredited == op)
			s->uncredited = op->next;
		op_complete(s, queue_pop(&s->receives), op->completed.c.status);
	}
}

/* Of a failure that is not the operation's own, all get the same, at the end. */
static bool is_own(int status)
{
	return status != -ECONNRESET && status != -ECANCELED;
}

/* A status of san.h. */
static int status_of(int status)
{
	return status == -EACCES || status == -EMSGSIZE ? status : status ? -EIO : 0;
}

static void receive_ended(struct hf_sock *s, struct san_op *op, const struct hf_qp_done *d)
{
	s->credits_out--;
	s->qp->received += !d->status;
	op->moved = d->bytes;
	op->done = true;
	op->completed.c.status = d->status ? status_of(d->status) : op_is_stale(s, op) ? -ESTALE : 0;
}

static void request_ended(struct hf_sock *s, struct san_op *op, const struct hf_qp_done *d)
{
	op->moved = op->total;
	s->qp->sent += !d->status && op->completed.c.op == HF_OP_SEND;
	op_ended(s, op, status_of(d->status));
}

static void take_one(struct hf_sock *s, const struct hf_qp_done *d)
{
	struct san_op *op = (struct san_op *)(uintptr_t)d->cookie;

	if (d->status)
		s->qp->broken = -ECONNRESET;
	if (d->cookie & 1) {
		((struct exposing *)(uintptr_t)(d->cookie - 1))->done = !d->status;
		pthread_cond_broadcast(&s->qp->exposing);
	} else if (d->status && !is_own(d->status)) {
		return;
	} else if (op->completed.c.op == HF_OP_RECV) {
		receive_ended(s, op, d);
	} else {
		request_ended(s, op, d);
	}
}

/* All that is done, of receives, too, before anything is ended by a failure among them. */
static void take_all(struct hf_sock *s)
{
	struct hf_qp_done d[BATCH];
	int n = 1, all = 0;

	while (n > 0 && (all < BUDGET || s->qp->last)) {
		n = s->qp->ops->poll(s->qp->qp, d, BATCH);
		for (int i = 0; i < n; i++)
			take_one(s, &d[i]);
		all += n;
		if (n)
			STEP("done in");
	}
	if (n < 0)
		s->qp->broken = -ECONNRESET;
	else if (n > 0)
		kick(s->qp); /* that many, and perhaps more: another socket first */
	ops_settle(s);
	settle_receives(s);
}

/*
 * When the way is broken the stream may know better why. A peer that closes says BYE first, and then stops its qp. An -EACCES,
 * too, ends the connection only when what came before it is taken in.
 */
void qp_take(struct hf_sock *s)
{
	if (s->error || s->qp->last)
		return;
	take_all(s);
	if (!s->qp->broken)
		return;
	rx_run(s, SAN_BUDGET);
	sock_fail(s, s->qp->broken);
}

/* How many messages the peer has received of which our NIC doesn't know yet; negative: it has got more than it counted. */
static int32_t unknown(const struct san_qp *q)
{
	return (int32_t)(q->peers - q->sent);
}

/*
 * The peer closes: what it has received was sent well, though the NIC's word of it may never come, for BYE overtakes it. The
 * peer's NIC carries out in order: so all that stands before such a message, too. (Reads before it have ended: it was fenced.)
 */
static void believe_peer(struct hf_sock *s)
{
	int32_t more = s->qp->told_peers ? unknown(s->qp) : 0;

	for (struct san_op *op = s->begun.first; op && more > 0; op = op->next) {
		if (op->done)
			continue;
		more -= op->completed.c.op == HF_OP_SEND;
		op->moved = op->total;
		op_ended(s, op, 0);
	}
}

/* What the peer's NIC was told to be here must not be lost by the end of the stream, which may come before. */
void qp_take_last(struct hf_sock *s)
{
	if (s->qp->last || s->qp->stopped)
		return;
	s->qp->last = true;
	take_all(s);
	believe_peer(s);
}

/* ------------------------------------------------------------------ posting */

static void list_segments(const struct san_op *op, struct hf_qp_sge *sge)
{
	for (unsigned i = 0; i < op->segments; i++)
		sge[i] = (struct hf_qp_sge){ &op->seg[i].mr->region, op->seg[i].addr, op->seg[i].len };
}

/* What can't be posted ends the connection: the order of all behind it is lost. */
static int post(struct hf_sock *s, struct san_op *op, struct hf_qp_wr *wr)
{
	struct hf_qp_sge sge[HF_SEGMENTS];
	int rc;

	list_segments(op, sge);
	wr->n = op->segments;
	wr->sge = sge;
	wr->cookie = (uintptr_t)op;
	rc = s->qp->ops->post(s->qp->qp, wr);
	if (rc)
		sock_fail(s, -EIO);
	return rc;
}

static bool is_rdma(const struct san_op *op)
{
	return op->completed.c.op == HF_OP_WRITE || op->completed.c.op == HF_OP_READ;
}

/* By what the descriptor says; the NIC has its own word on it, but that ends the connection. */
static int refuse(struct hf_sock *s, const struct san_op *op)
{
	unsigned right = op->completed.c.op == HF_OP_WRITE ? HF_WRITE : HF_READ;
	int rc = is_rdma(op) ? descriptor_check(op->descriptor, right, op->offset, op->total) : 0;

	return rc ? rc : op_refuse(s, op);
}

static void post_request(struct hf_sock *s, struct san_op *op, bool fence)
{
	static const enum hf_qp_op ops[] = {
		[HF_OP_SEND] = HF_QP_SEND, [HF_OP_WRITE] = HF_QP_WRITE, [HF_OP_READ] = HF_QP_READ,
	};
	struct hf_qp_wr wr = { .op = ops[op->completed.c.op], .fence = fence };

	if (is_rdma(op)) {
		wr.offset = op->offset;
		wr.key = descriptor_key(op->descriptor);
	}
	if (!post(s, op, &wr))
		STEP("posted");
}

/* Reads don't wait for each other. What moves data out waits, in the NIC, for the reads before it. */
static void start(struct hf_sock *s)
{
	struct san_op *op;

	while (!s->error && (op = s->queued.first) && !op_must_wait(s, op)) {
		bool fence = s->reads && op->completed.c.op != HF_OP_READ;

		if (op_begin(s, refuse(s, op)))
			post_request(s, op, fence);
	}
}

/* The peer is told of a receive when it has been posted. One of memory that has changed is none. */
static bool put_next(struct hf_sock *s)
{
	struct san_op *op = s->uncredited;

	if (!op || s->error || s->credits_out == s->window)
		return false;
	if (op_is_stale(s, op)) {
		op->done = true;
		op->completed.c.status = -ESTALE;
		s->uncredited = op->next;
		settle_receives(s);
		return true;
	}
	if (post(s, op, &(struct hf_qp_wr){ .op = HF_QP_RECV }))
		return false;
	credit_put(s);
	return true;
}

static void last_words(struct hf_sock *s)
{
	tx_put(s, &(struct wire_frame){ .type = WIRE_DONE, .op = s->qp->received });
}

static int32_t sends_under_way(const struct hf_sock *s)
{
	int32_t n = 0;

	for (const struct san_op *op = s->begun.first; op; op = op->next)
		n += op->completed.c.op == HF_OP_SEND && !op->done;
	return n;
}

/* Not more than was sent. */
static int take_last_words(struct hf_sock *s)
{
	s->qp->peers = s->rx.frame.op;
	if (s->rx.frame.status || unknown(s->qp) > sends_under_way(s))
		return -EPROTO;
	s->qp->told_peers = true;
	return 0;
}

static int take_frame(struct hf_sock *s)
{
	if (s->qp->told_peers && s->rx.frame.type != WIRE_BYE)
		return -EPROTO;
	switch (s->rx.frame.type) {
	case WIRE_DONE: return take_last_words(s);
	case WIRE_CREDIT: return credit_take(s, &s->rx.frame);
	case WIRE_BYE: return -ESHUTDOWN;
	default: return -EPROTO;
	}
}

/* ------------------------------------------------------------------ what the peer may reach */

/* The lock is let go of meanwhile. */
static void wait_a_little(struct hf_sock *s)
{
	uint64_t at = os_now_ns() + LOOK_MS * 1000000ull;
	struct timespec until = { (time_t)(at / 1000000000), (long)(at % 1000000000) };

	pthread_cond_timedwait(&s->qp->exposing, &s->lock, &until);
}

/* mr->window no more; that is final, also if only by the end of the connection: then stop() has ended what revoke() couldn't. */
static void close_window(struct hf_sock *s, struct san_mr *mr)
{
	void *window = mr->window;

	mr->window = NULL;
	if (!s->qp->ops->revoke(s->qp->qp, window))
		return;
	qp_take_last(s); /* the peer may have been told that it has come */
	stop(s->qp);
	s->qp->ops->revoke(s->qp->qp, window);
	sock_fail(s, -ECONNRESET);
}

static void conceal(struct hf_sock *s, struct san_mr *mr)
{
	if (mr->window)
		close_window(s, mr);
	if (mr->exposed)
		exposures_remove(&s->exposures, mr->slot);
	mr->exposed = false;
	/* Last, for the lock may be let go of in it: the NIC may have taken events in. */
	qp_take(s);
}

/* Until the NIC has opened it, or the connection has ended. */
static int open_window(struct hf_sock *s, struct san_mr *mr, uint8_t key[HF_QP_KEY])
{
	struct san_qp *q = s->qp;
	struct exposing e = { 0 };
	int rc;

	rc = q->ops->expose(q->qp, &mr->region, mr->addr, mr->len, mr->access, (uintptr_t)&e + 1, &mr->window, key);
	if (rc < 0)
		return rc;
	q->exposures++;
	if (rc)
		STEP("exposing");
	while (rc && !e.done && !s->error) {
		qp_take(s);
		if (!e.done && !s->error)
			wait_a_little(s);
	}
	q->exposures--;
	pthread_cond_broadcast(&q->exposing);
	return 0;
}

static int ended(const struct hf_sock *s)
{
	return hf_set_error(-ENOTCONN, "the connection has ended: %s; open a new one", strerror(-s->error));
}

/*
 * The peer may be told of it. What has changed since it was watched may be exposed as it is now, and the engine couldn't
 * find it. What changes from here on it finds, when it has the lock.
 */
static int enter(struct hf_sock *s, struct san_mr *mr, const uint8_t key[HF_QP_KEY])
{
	int rc;

	if (mr_is_stale(s, mr))
		return hf_set_error(-EAGAIN, "the memory changes while it is being exposed");
	rc = exposures_add_key(&s->exposures, mr->addr, mr->len, mr->access, mr, key, &mr->slot, mr->descriptor);
	mr->exposed = !rc;
	return rc;
}

static int expose(struct hf_sock *s, struct san_mr *mr)
{
	uint8_t key[HF_QP_KEY];
	int rc;

	while (!s->error && s->qp->exposures == s->depth) {
		qp_take(s);
		if (!s->error)
			wait_a_little(s);
	}
	rc = s->error ? ended(s) : open_window(s, mr, key);
	if (rc)
		return rc;
	rc = s->error ? ended(s) : enter(s, mr, key);
	if (rc)
		close_window(s, mr);
	return rc;
}

const struct carrier carrier_qp = {
	.version = WIRE_VERSION_QP,
	.start = start,
	.put_next = put_next,
	.take_frame = take_frame,
	.last_words = last_words,
	.expose = expose,
	.conceal = conceal,
};

/* The lock is let go of in between, and the table may change. */
static void conceal_changed(struct hf_sock *s)
{
	for (uint32_t i = 0; i < s->mr_slots; i++)
		if (s->mr[i] && s->mr[i]->window && atomic_load(&s->mr[i]->changed))
			conceal(s, s->mr[i]);
}

/* ------------------------------------------------------------------ who takes in: no lock */

static void go_on(struct hf_sock *s)
{
	qp_take(s);
	if (!s->error)
		tx_run(s, SAN_BUDGET);
}

void qp_done_ready(struct watch *w)
{
	struct hf_sock *s = ((struct qp_watch *)w)->s;
	int rc = 1;

	sock_lock(s);
	for (int i = 0; i < ROUNDS && rc > 0 && !s->error; i++) {
		rc = s->qp->ops->arm(s->qp->qp);
		if (rc < 0)
			sock_fail(s, -ECONNRESET);
		else
			go_on(s);
	}
	if (rc > 0 && !s->error)
		kick(s->qp);
	sock_unlock(s);
}

void qp_told_ready(struct watch *w)
{
	struct hf_sock *s = ((struct qp_watch *)w)->s;
	uint64_t n;

	if (read(s->qp->told, &n, sizeof(n)) < 0)
		return; /* somebody was here already */
	sock_lock(s);
	conceal_changed(s);
	sock_unlock(s);
	qp_done_ready(&s->qp->on_done.watch);
}

/* A poller of the queue never waits for a socket. */
static void poll_source(struct cq_source *source)
{
	struct hf_sock *s = (struct hf_sock *)source->arg;

	if (pthread_mutex_trylock(&s->lock))
		return;
	if (!s->error)
		go_on(s);
	sock_unlock(s);
}

/* lock */
int qp_enter(struct hf_sock *s)
{
	struct san_qp *q = s->qp;
	int rc;

	q->s = s;
	q->on_done = (struct qp_watch){ { WATCH_QP_DONE }, s };
	q->on_told = (struct qp_watch){ { WATCH_QP_TOLD }, s };
	q->source = (struct cq_source){ .poll = poll_source, .arg = s };
	rc = engine_add(s->e, q->fd, EPOLLIN, &q->on_done.watch);
	if (rc)
		return rc;
	rc = engine_add(s->e, q->told, EPOLLIN, &q->on_told.watch);
	if (rc)
		engine_del(s->e, q->fd);
	return rc;
}

void qp_join(struct hf_sock *s)
{
	cq_join(s->cq, &s->qp->source);
	kick(s->qp); /* the first arm() */
}

void qp_leave(struct hf_sock *s)
{
	cq_part(s->cq, &s->qp->source);
}

void qp_stop(struct hf_sock *s)
{
	engine_del(s->e, s->qp->fd);
	engine_del(s->e, s->qp->told);
	stop(s->qp);
	pthread_cond_broadcast(&s->qp->exposing);
}
