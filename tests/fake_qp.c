/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "fake_qp.h"

#include <errno.h>
#include <holdfast/san.h>
#include <holdfast/sim.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os.h"

struct fake_qp fake_qp = { .allowed = -1, .chunk = 64 << 10, .max = 1ull << 30 };

enum { BIND = HF_QP_READ + 1 };

struct window {
	struct window *next;
	uint64_t key;
	struct hf_region region;
	uint64_t addr, len;
	unsigned access;
	bool bound, stuck; /* stuck: it could not be revoked, and can be after stop() */
};

struct item {
	struct item *next;
	int op;
	bool fence, done;
	uint32_t n;
	struct hf_qp_sge sge[HF_SEGMENTS];
	struct hf_region region[HF_SEGMENTS];
	uint64_t total, moved, offset, cookie, key;
	int status;
	struct window *window; /* BIND */
};

struct list {
	struct item *first, **last;
	uint32_t count;
};

struct qp {
	struct qp *next;
	uint64_t number, peer;     /* 0: not ready */
	uint32_t depth;
	struct list requests;      /* in the order in which they are done */
	struct list receives;
	struct list finished;      /* not polled yet */
	struct window *windows;
	int fd;
	bool armed, failed, stopped;
	_Atomic int busy;          /* a call on it is under way */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* all of them */
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static struct qp *all;
static uint64_t last_number, last_key;
static unsigned nics;
static pthread_t thread;
static bool stop_thread;

static void die(const char *what)
{
	fprintf(stderr, "fake qp: %s\n", what);
	abort();
}

static void enter(struct qp *q)
{
	if (atomic_exchange(&q->busy, 1))
		die("two calls on one queue pair at once");
}

static void leave(struct qp *q)
{
	atomic_store(&q->busy, 0);
}

/* Counts down; true when this is the one. */
static bool strikes(_Atomic int64_t *in)
{
	return atomic_load(in) > 0 && atomic_fetch_sub(in, 1) == 1;
}

static void push(struct list *l, struct item *i)
{
	if (!l->count)
		l->last = &l->first;
	i->next = NULL;
	*l->last = i;
	l->last = &i->next;
	l->count++;
}

static struct item *pop(struct list *l)
{
	struct item *i = l->first;

	l->first = i->next;
	l->count--;
	return i;
}

static struct qp *find(uint64_t number)
{
	struct qp *q = all;

	while (q && q->number != number)
		q = q->next;
	return q;
}

/* ------------------------------------------------------------------ what is done: lock */

static void tell(struct qp *q)
{
	uint64_t one = 1;

	if (!q->armed || atomic_load(&fake_qp.silent))
		return;
	q->armed = false;
	if (write(q->fd, &one, sizeof(one)) != sizeof(one))
		die("the eventfd");
}

static void finish(struct qp *q, struct item *i)
{
	push(&q->finished, i);
	tell(q);
}

/* In order. */
static void settle(struct qp *q)
{
	while (q->requests.count && q->requests.first->done && !atomic_load(&fake_qp.hold_acks))
		finish(q, pop(&q->requests));
}

/* Nothing moves any more: the rest is flushed. */
static void fail(struct qp *q)
{
	if (q->failed)
		return;
	q->failed = true;
	for (struct item *i = q->requests.count ? q->requests.first : NULL; i; i = i->next)
		if (!i->done) {
			i->done = true;
			i->status = -ECANCELED;
		}
	settle(q);
	while (q->receives.count) {
		struct item *i = pop(&q->receives);

		i->status = -ECANCELED;
		finish(q, i);
	}
}

static void end(struct qp *q, struct item *i, int status)
{
	i->done = true;
	i->status = status;
	if (status)
		fail(q);
	settle(q);
}

/* ------------------------------------------------------------------ moving: lock */

/* What TSan doesn't look at, as it doesn't at hardware, and what fails where nothing is mapped. */
static bool copy(uint64_t to, uint64_t from, uint64_t len)
{
	struct iovec dst = { (void *)(uintptr_t)to, len }, src = { (void *)(uintptr_t)from, len };

	return !len || syscall(SYS_process_vm_readv, getpid(), &dst, 1ul, &src, 1ul, 0ul) == (long)len;
}

/* Where byte `at` of a list of segments is, and how many lie together there. */
static uint64_t place(struct item *i, uint64_t at, uint64_t *len)
{
	for (uint32_t k = 0; k < i->n; k++) {
		if (at < i->sge[k].len) {
			*len = i->sge[k].len - at;
			hf_sim_use(&i->region[k], (void *)(uintptr_t)(i->sge[k].addr + at), *len);
			return i->sge[k].addr + at;
		}
		at -= i->sge[k].len;
	}
	*len = 0;
	return 0;
}

static struct window *window_of(struct qp *peer, uint64_t key)
{
	struct window *w = peer->windows;

	while (w && (w->key != key || !w->bound))
		w = w->next;
	return w;
}

/* May i reach [offset, offset + len) at the peer? Then where it is; 0: no. */
static uint64_t reach(struct qp *peer, struct item *i, uint64_t offset, uint64_t len)
{
	struct window *w = window_of(peer, i->key);
	unsigned right = i->op == HF_QP_WRITE ? HF_WRITE : HF_READ;

	if (!w || !(w->access & right) || offset > w->len || len > w->len - offset)
		return 0;
	hf_sim_use(&w->region, (void *)(uintptr_t)(w->addr + offset), len);
	return w->addr + offset;
}

static bool refuse(struct qp *q, struct qp *peer, struct item *i)
{
	atomic_fetch_add(&fake_qp.refused, 1);
	end(q, i, -EACCES);
	fail(peer);
	return true;
}

static bool step_rdma(struct qp *q, struct qp *peer, struct item *i, uint64_t chunk)
{
	uint64_t here, there, len;

	if (!i->moved && !reach(peer, i, i->offset, i->total))
		return refuse(q, peer, i);
	here = place(i, i->moved, &len);
	len = len < chunk ? len : chunk;
	there = reach(peer, i, i->offset + i->moved, len);
	if (!there)
		return refuse(q, peer, i);
	if (i->op == HF_QP_WRITE ? !copy(there, here, len) : !copy(here, there, len)) {
		end(q, i, -EIO);
		fail(peer);
		return true;
	}
	i->moved += len;
	atomic_fetch_add(&fake_qp.bytes, len);
	if (i->moved == i->total)
		end(q, i, 0);
	return true;
}

static bool step_send(struct qp *q, struct qp *peer, struct item *i, uint64_t chunk)
{
	struct item *r = peer->receives.count ? peer->receives.first : NULL;
	uint64_t from, to, a, b;

	if (!r) {
		atomic_fetch_add(&fake_qp.no_receive, 1);
		end(q, i, -ECONNRESET);
		fail(peer);
		return true;
	}
	if (i->total > r->total) {
		fail(peer);
		end(q, i, -EIO);
		return true;
	}
	from = place(i, i->moved, &a);
	to = place(r, i->moved, &b);
	a = a < b ? a : b;
	a = a < chunk ? a : chunk;
	if (!copy(to, from, a)) {
		end(q, i, -EIO);
		fail(peer);
		return true;
	}
	i->moved += a;
	atomic_fetch_add(&fake_qp.bytes, a);
	if (i->moved < i->total)
		return true;
	r->moved = i->total;
	r->done = true;
	finish(peer, pop(&peer->receives));
	end(q, i, 0);
	return true;
}

static bool step_bind(struct qp *q, struct item *i)
{
	bool bad = atomic_load(&fake_qp.fail_expose_later);

	i->window->bound = !bad;
	end(q, i, bad ? -EIO : 0);
	return true;
}

/*
 * Which one is next: the first that is not done, but a read is put off for what stands behind it, up to the next fence. So a fence
 * that is missing shows.
 */
static struct item *next_of(struct qp *q)
{
	struct item *first = NULL;

	for (struct item *i = q->requests.count ? q->requests.first : NULL; i; i = i->next) {
		if (i->done)
			continue;
		if (i->moved && i->op != HF_QP_READ)
			return i;
		if (first && i->fence)
			return first;
		if (i->op != HF_QP_READ) {
			if (first)
				atomic_fetch_add(&fake_qp.reordered, 1);
			return i;
		}
		first = first ? first : i;
	}
	return first;
}

static bool may_step(void)
{
	int64_t allowed = atomic_load(&fake_qp.allowed);

	return allowed < 0 || (allowed > 0 && atomic_fetch_sub(&fake_qp.allowed, 1) > 0);
}

static bool step_qp(struct qp *q)
{
	struct qp *peer = find(q->peer);
	uint64_t chunk = atomic_load(&fake_qp.chunk);
	struct item *i = q->failed || q->stopped ? NULL : next_of(q);

	if (!i || !may_step())
		return false;
	atomic_fetch_add(&fake_qp.chunks, 1);
	if (i->op == BIND)
		return step_bind(q, i);
	if (!peer || peer->stopped || peer->failed || peer->peer != q->number) {
		end(q, i, -ECONNRESET);
		return true;
	}
	return i->op == HF_QP_SEND ? step_send(q, peer, i, chunk) : step_rdma(q, peer, i, chunk);
}

static bool is_work(void)
{
	for (struct qp *q = all; q; q = q->next)
		if (!q->failed && !q->stopped && q->requests.count)
			return true;
	return false;
}

static void *carry_out(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	while (!stop_thread) {
		bool any = false;

		for (struct qp *q = all; q; q = q->next)
			any |= step_qp(q);
		if (!any && !is_work())
			pthread_cond_wait(&work, &lock);
		pthread_mutex_unlock(&lock);
		if (!any)
			usleep(200); /* nothing is allowed */
		else
			sched_yield();
		pthread_mutex_lock(&lock);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* ------------------------------------------------------------------ the NIC */

static int fake_open(const char *arg, void *config, void **nic)
{
	int rc = hf_nic_find("sim")->open(NULL, config, nic);

	if (rc)
		return rc;
	pthread_mutex_lock(&lock);
	if (!nics++) {
		stop_thread = false;
		if (pthread_create(&thread, NULL, carry_out, NULL))
			die("no thread");
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

static void fake_close(void *nic)
{
	bool last;

	pthread_mutex_lock(&lock);
	last = !--nics;
	stop_thread = last;
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
	if (last)
		pthread_join(thread, NULL);
	hf_nic_find("sim")->close(nic);
}

static int fake_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	return hf_nic_find("sim")->reg(nic, addr, len, access, out);
}

static int fake_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	return hf_nic_find("sim")->dereg(nic, addr, len, reg);
}

/* ------------------------------------------------------------------ queue pairs */

static int qp_open(void *nic, int fd, uint32_t depth, void **out, uint8_t address[HF_QP_ADDRESS], uint64_t *max)
{
	struct qp *q;

	if (FAULT("qp open") || strikes(&fake_qp.fail_open_in))
		return hf_set_error(-EIO, "fake: told to fail open");
	q = calloc(1, sizeof(*q));
	if (!q)
		die("no memory");
	q->depth = depth;
	q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->fd < 0)
		die("no eventfd");
	pthread_mutex_lock(&lock);
	q->number = ++last_number;
	q->next = all;
	all = q;
	pthread_mutex_unlock(&lock);
	memset(address, 0xa5, HF_QP_ADDRESS);
	memcpy(address, &q->number, sizeof(q->number));
	*max = atomic_load(&fake_qp.max);
	atomic_fetch_add(&fake_qp.qps, 1);
	*out = q;
	return 0;
}

static int qp_ready(void *qp, const uint8_t address[HF_QP_ADDRESS])
{
	struct qp *q = qp;

	if (FAULT("qp ready") || strikes(&fake_qp.fail_ready_in))
		return hf_set_error(-EIO, "fake: told to fail ready");
	enter(q);
	pthread_mutex_lock(&lock);
	memcpy(&q->peer, address, sizeof(q->peer));
	pthread_mutex_unlock(&lock);
	leave(q);
	return 0;
}

static struct item *item_of(const struct hf_qp_wr *wr)
{
	struct item *i = calloc(1, sizeof(*i));

	if (!i)
		die("no memory");
	i->op = (int)wr->op;
	i->n = wr->n;
	i->fence = wr->fence;
	i->cookie = wr->cookie;
	i->offset = wr->offset;
	if (wr->key)
		memcpy(&i->key, wr->key, sizeof(i->key));
	for (uint32_t k = 0; k < wr->n; k++) {
		i->sge[k] = wr->sge[k];
		i->region[k] = *wr->sge[k].region;
		i->total += wr->sge[k].len;
	}
	return i;
}

static int post_now(struct qp *q, const struct hf_qp_wr *wr)
{
	struct list *l = wr->op == HF_QP_RECV ? &q->receives : &q->requests;
	struct qp *peer = find(q->peer);
	uint32_t binds = 0;

	if (q->stopped || strikes(&fake_qp.fail_post_in))
		return -EIO;
	if (wr->op != HF_QP_RECV && (!q->peer || (peer && !peer->peer && !peer->stopped))) /* one that has gone is none of ours */
		die("a request before both are ready");
	for (struct item *i = l->count ? l->first : NULL; i; i = i->next)
		binds += i->op == BIND;
	if (l->count - binds >= q->depth)
		die("more than depth");
	if (wr->n > HF_SEGMENTS || (wr->op >= HF_QP_WRITE) != !!wr->key)
		die("a piece of work that is none");
	push(l, item_of(wr));
	if (q->failed) {
		q->failed = false;
		fail(q);
	}
	pthread_cond_signal(&work);
	return 0;
}

static int qp_post(void *qp, const struct hf_qp_wr *wr)
{
	struct qp *q = qp;
	int rc;

	if (FAULT("qp post"))
		return -EIO;
	enter(q);
	atomic_fetch_add(&fake_qp.posts, 1);
	pthread_mutex_lock(&lock);
	rc = post_now(q, wr);
	pthread_mutex_unlock(&lock);
	leave(q);
	return rc;
}

static int qp_poll(void *qp, struct hf_qp_done *out, int max)
{
	struct qp *q = qp;
	int n = 0;

	enter(q);
	atomic_fetch_add(&fake_qp.polls, 1);
	pthread_mutex_lock(&lock);
	while (n < max && q->finished.count && !q->stopped) {
		struct item *i = pop(&q->finished);

		out[n++] = (struct hf_qp_done){ i->cookie, i->status, i->op == HF_QP_RECV ? i->moved : 0 };
		free(i);
	}
	pthread_mutex_unlock(&lock);
	leave(q);
	return n;
}

static int qp_fd(void *qp)
{
	return ((struct qp *)qp)->fd;
}

static int qp_arm(void *qp)
{
	struct qp *q = qp;
	uint64_t n;
	int rc;

	enter(q);
	pthread_mutex_lock(&lock);
	if (read(q->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		die("the eventfd");
	q->armed = !q->finished.count || atomic_load(&fake_qp.arm_always);
	rc = q->finished.count || atomic_load(&fake_qp.arm_always);
	pthread_mutex_unlock(&lock);
	leave(q);
	return rc;
}

static struct window *new_window(struct qp *q, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access)
{
	struct window *w = calloc(1, sizeof(*w));

	if (!w)
		die("no memory");
	*w = (struct window){ q->windows, ++last_key, *r, addr, len, access, false, false };
	q->windows = w;
	atomic_fetch_add(&fake_qp.windows, 1);
	return w;
}

static int expose_now(struct qp *q, struct window *w, uint64_t cookie)
{
	struct item *i;
	uint32_t binds = 0;

	w->bound = !atomic_load(&fake_qp.slow_expose);
	if (w->bound)
		return 0;
	for (i = q->requests.count ? q->requests.first : NULL; i; i = i->next)
		binds += i->op == BIND && !i->done;
	if (binds >= q->depth)
		die("more exposures under way than depth");
	i = calloc(1, sizeof(*i));
	if (!i)
		die("no memory");
	i->op = BIND;
	i->cookie = cookie;
	i->window = w;
	push(&q->requests, i);
	if (q->failed) {
		q->failed = false;
		fail(q);
	}
	pthread_cond_signal(&work);
	return 1;
}

static int qp_expose(void *qp, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access, uint64_t cookie,
		     void **window, uint8_t key[HF_QP_KEY])
{
	struct qp *q = qp;
	struct window *w;
	int rc = -EIO;

	if (FAULT("qp expose"))
		return hf_set_error(-EIO, "fake: no window");
	enter(q);
	pthread_mutex_lock(&lock);
	if (!q->stopped && q->peer && !strikes(&fake_qp.fail_expose_in)) {
		w = new_window(q, r, addr, len, access);
		memset(key, 0x5a, HF_QP_KEY);
		memcpy(key, &w->key, sizeof(w->key));
		*window = w;
		rc = expose_now(q, w, cookie);
	}
	pthread_mutex_unlock(&lock);
	leave(q);
	return rc < 0 ? hf_set_error(rc, "fake: told to fail expose") : rc;
}

static int qp_revoke(void *qp, void *window)
{
	struct qp *q = qp;
	struct window *w = window, **at;
	bool bad;

	enter(q);
	pthread_mutex_lock(&lock);
	for (at = &q->windows; *at && *at != w;)
		at = &(*at)->next;
	if (!*at)
		die("revoked what is no window");
	*at = w->next;
	bad = !q->stopped && strikes(&fake_qp.fail_revoke_in);
	if (w->stuck && !q->stopped)
		die("revoke() has failed, and stop() was not called next");
	if (bad) { /* it works until stop() */
		w->stuck = true;
		w->next = q->windows;
		q->windows = w;
	} else {
		free(w);
		atomic_fetch_sub(&fake_qp.windows, 1);
	}
	pthread_mutex_unlock(&lock);
	leave(q);
	return bad ? -EIO : 0;
}

static void forget(struct list *l)
{
	while (l->count)
		free(pop(l));
}

static void qp_stop(void *qp)
{
	struct qp *q = qp;
	struct window *w;

	enter(q);
	pthread_mutex_lock(&lock);
	q->stopped = true;
	forget(&q->requests);
	forget(&q->receives);
	forget(&q->finished);
	for (w = q->windows; w; w = w->next)
		w->bound = false;
	pthread_mutex_unlock(&lock);
	leave(q);
}

static void qp_close(void *qp)
{
	struct qp *q = qp, **at;

	enter(q);
	pthread_mutex_lock(&lock);
	if (!q->stopped)
		die("closed before stop");
	if (q->windows)
		die("closed with a window left");
	for (at = &all; *at != q;)
		at = &(*at)->next;
	*at = q->next;
	pthread_mutex_unlock(&lock);
	close(q->fd);
	free(q);
	atomic_fetch_sub(&fake_qp.qps, 1);
}

static const struct hf_nic_qp_ops qp_ops = {
	.size = sizeof(qp_ops),
	.open = qp_open,
	.ready = qp_ready,
	.post = qp_post,
	.poll = qp_poll,
	.fd = qp_fd,
	.arm = qp_arm,
	.expose = qp_expose,
	.revoke = qp_revoke,
	.stop = qp_stop,
	.close = qp_close,
};

const struct hf_nic_ops fake_qp_nic = {
	.size = sizeof(struct hf_nic_ops),
	.abi = HF_BACKEND_ABI,
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.reg = fake_reg,
	.dereg = fake_dereg,
	.qp = &qp_ops,
};

void fake_qp_reset(void)
{
	memset(&fake_qp, 0, sizeof(fake_qp));
	atomic_store(&fake_qp.allowed, -1);
	atomic_store(&fake_qp.chunk, 64 << 10);
	atomic_store(&fake_qp.max, 1ull << 30);
}
