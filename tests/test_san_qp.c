/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets by queue pairs, the protocol's version 2, over the NIC of fake_qp.h: what test_san.c, which is built over it as well
 * (test_san_over_qp), doesn't ask, or what differs. The NIC aborts on what the library must not do to one; and most cases
 * here let it do one chunk at a time, so that each comes at the place that is meant.
 */
#include "san.h"

#include <pthread.h>
#include <sched.h>

#include "san/listen.h"

/* ------------------------------------------------------------------ steps */

static void hold(void)
{
	atomic_store(&fake_qp.allowed, 0);
}

/* Let it carry out `n` chunks, and wait until it has. */
static void let(uint64_t n)
{
	uint64_t at = atomic_load(&fake_qp.chunks) + n;

	atomic_store(&fake_qp.allowed, (int64_t)n);
	EVENTUALLY(atomic_load(&fake_qp.chunks) == at);
}

static void go(void)
{
	atomic_store(&fake_qp.allowed, -1);
}

static int set_up(void **state)
{
	fake_qp_reset();
	return 0;
}

/* Nothing of the NIC's is left, and it had no reason to complain. */
static int tear_down(void **state)
{
	bool bad = atomic_load(&fake_qp.qps) || atomic_load(&fake_qp.windows) || atomic_load(&fake_qp.no_receive);

	if (bad)
		print_error("left: %lu queue pairs, %lu windows; %lu messages without a receive\n",
			    (unsigned long)fake_qp.qps, (unsigned long)fake_qp.windows, (unsigned long)fake_qp.no_receive);
	return bad ? -1 : 0;
}

static void post_rdma(struct end *e, enum hf_op op, const struct hf_segment *seg, const char *d, uint64_t offset, void *context)
{
	check_ok((op == HF_OP_WRITE ? hf_post_write : hf_post_read)(e->s, seg, 1, d, HF_DESCRIPTOR_SIZE, offset, context));
}

static bool all_are(const char *p, size_t len, char c)
{
	return !len || (p[0] == c && !memcmp(p, p + 1, len - 1));
}

/* Receives of the peer's that it knows of. */
static unsigned credits_of(struct end *e)
{
	unsigned n;

	sock_lock(e->s);
	n = e->s->credit_count;
	sock_unlock(e->s);
	return n;
}

/* The next completion, without ever waiting for one. */
static struct hf_completion polled(struct end *e)
{
	struct hf_completion c = { 0 };
	int n = 0;

	for (uint64_t until = check_now_ms() + PATIENCE_MS; !n && check_now_ms() < until; sched_yield())
		n = hf_cq_poll(e->cq, &c, 1);
	assert_int_equal(n, 1);
	return c;
}

/* ------------------------------------------------------------------ meeting */

/* A provider of each kind: neither reaches the other, in either direction, and both say why. */
static void test_kinds_do_not_mix(void **state)
{
	struct hf_switch *sw = check_switch(NULL);
	struct hf_provider *qp, *stream;
	struct hf_sock *l, *s;
	struct hf_cq *cq;
	char name[64];

	check_ok(hf_provider_open_nic(sw, &fake_qp_nic, NULL, NULL, &qp));
	check_ok(hf_provider_open(sw, "uring", NULL, &stream));
	check_ok(hf_cq_open(&cq));
	for (int i = 0; i < 2; i++) {
		san_name(name, sizeof(name));
		check_ok(hf_listen(i ? qp : stream, name, NULL, &l));
		check_error(hf_connect(i ? stream : qp, name, NULL, cq, PATIENCE_MS, &s), -EPROTO,
			    "version 2 of those with queue pairs");
		assert_int_equal(hf_accept(l, cq, 0, &s), -ETIMEDOUT);
		check_ok(hf_sock_close(l));
	}
	check_ok(hf_cq_close(cq));
	check_ok(hf_provider_close(stream));
	check_close(sw, qp);
}

/* Limits: also those of the NICs on both sides. */
static void test_the_nic_bounds(void **state)
{
	struct pair t;

	atomic_store(&fake_qp.max, 10000);
	pair_open(&t, NULL, "max_message=20000,max_rdma=5000", NULL, true);
	assert_int_equal(info_of(&t.a).max_message, 10000);
	assert_int_equal(info_of(&t.b).max_message, 10000);
	assert_int_equal(info_of(&t.a).max_rdma, 5000);
	assert_int_equal(info_of(&t.b).max_rdma, 5000);
	pair_close(&t);
}

/* The NIC has no queue pair, or can't connect it: whoever connects is told, nothing is left, the next one gets through. */
static void test_no_queue_pair(void **state)
{
	_Atomic int64_t *const fail[] = { &fake_qp.fail_open_in, &fake_qp.fail_ready_in };
	struct hf_sock *s;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	for (int i = 0; i < 2; i++)
		for (int n = 1; n <= 2; n++) {
			/* Opened: the server's first. Made ready: the client's first. */
			bool client = i ? n == 1 : n == 2;
			int rc;

			atomic_store(fail[i], n);
			rc = hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &s);
			if (client)
				check_error(rc, -EIO, i ? "told to fail ready" : "told to fail open");
			else if (!i)
				check_error(rc, -EIO, "no queue pair for this connection");
			else
				check_error(rc, -EPROTO, "hung up");
			assert_int_equal(hf_accept(t.listener, t.a.cq, 0, &s), -ETIMEDOUT);
			EVENTUALLY(atomic_load(&fake_qp.qps) == 2);
		}
	check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &s));
	check_ok(hf_sock_close(s));
	pair_close(&t); /* with one that nobody has accepted */
}

/* A table that is cut off, and one with neither way. */
static void test_tables(void **state)
{
	struct hf_switch *sw = check_switch(NULL);
	struct hf_nic_ops ops = fake_qp_nic;
	struct hf_nic_qp_ops qp = *fake_qp_nic.qp;
	struct hf_provider *p;
	struct hf_sock *l;

	qp.size--;
	ops.qp = &qp;
	check_error(hf_provider_open_nic(sw, &ops, NULL, NULL, &p), -EINVAL, "too short");
	ops.qp = NULL;
	check_ok(hf_provider_open_nic(sw, &ops, NULL, NULL, &p));
	check_error(hf_listen(p, "unix:@hf-none", NULL, &l), -EOPNOTSUPP, "no queue pairs");
	check_close(sw, p);
}

/* By hand: the order of the handshake; and what version 2 has no place for ends the connection, as what breaks the rules does. */
static void test_frames(void **state)
{
	static const struct wire_frame bad[] = {
		{ .type = WIRE_MESSAGE, .flags = WIRE_LAST }, { .type = WIRE_WRITE, .flags = WIRE_LAST },
		{ .type = WIRE_READ }, { .type = WIRE_DATA, .length = 8, .total = 8, .flags = WIRE_LAST },
		{ .type = WIRE_READY }, { .type = WIRE_CREDIT, .op = 1 },
		{ .type = WIRE_DONE, .op = 1 }, /* more than was sent */
		{ .type = WIRE_DONE, .status = -EIO },
		{ .type = WIRE_DONE }, /* after which only BYE may come */
	};
	struct wire_hello peer;
	struct wire_frame f;
	struct end c = { 0 };
	struct pair t;
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		bool bye = i == sizeof(bad) / sizeof(bad[0]);

		fd = raw_meet(t.address, &peer);
		assert_int_equal(peer.version_min, 2);
		assert_int_equal(peer.version_max, 2);
		c = (struct end){ t.a.p, t.a.cq, NULL };
		check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
		check_ok(hf_post_recv(c.s, NULL, 0, NULL));
		f = raw_next(fd);
		assert_int_equal(f.type, WIRE_CREDIT);
		assert_int_equal(f.op, 0);
		raw_frame(fd, bye ? &(struct wire_frame){ .type = WIRE_DONE } : &bad[i]);
		if (bye || (bad[i].type == WIRE_DONE && !bad[i].op && !bad[i].status))
			raw_frame(fd, &(struct wire_frame){ .type = bye ? WIRE_BYE : WIRE_CREDIT });
		expect(&c, HF_OP_RECV, bye ? -ESHUTDOWN : -EPROTO);
		assert_int_equal(info_of(&c).error, bye ? -ESHUTDOWN : -EPROTO);
		check_ok(hf_sock_close(c.s));
		close(fd);
	}
	pair_close(&t);
}

/* READY is missing, is another frame, comes with a damaged address, or never: dropped, and the queue pair with it. */
static void test_bad_handshakes(void **state)
{
	struct wire_hello h = { .version_min = 2, .version_max = 2, .max_message = 1, .max_rdma = 1, .depth = 1 };
	uint8_t text[WIRE_QP_SIZE + WIRE_FRAME_SIZE];
	struct hf_sock *s;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	for (int i = 0; i < 5; i++) {
		int fd;

		/* Those that say nothing any more end by it; long enough for what has to come before, on a slow machine, too. */
		atomic_store(&san_handshake_ms, i % 4 ? PATIENCE_MS : 3000);
		fd = raw_connect(t.address);

		wire_put_hello(text, &h);
		raw_send(fd, text, WIRE_HELLO_SIZE);
		assert_int_equal(raw_recv(fd, text, WIRE_HELLO_SIZE), WIRE_HELLO_SIZE);
		wire_put_proof(text, &(struct wire_proof){ 0 });
		raw_send(fd, text, WIRE_PROOF_SIZE);
		assert_int_equal(raw_recv(fd, text, WIRE_PROOF_SIZE), WIRE_PROOF_SIZE);
		assert_int_equal(raw_recv(fd, text, WIRE_QP_SIZE), WIRE_QP_SIZE);
		assert_int_equal(atomic_load(&fake_qp.qps), 3);
		wire_put_qp(text, &(struct wire_qp){ .max = 1 });
		wire_put_frame(text + WIRE_QP_SIZE, &(struct wire_frame){ .type = i == 1 ? WIRE_BYE : WIRE_READY });
		text[20] ^= i == 2;
		text[WIRE_QP_SIZE + 30] ^= i == 3;
		raw_send(fd, text, i == 0 ? WIRE_QP_SIZE : i == 4 ? 1 : sizeof(text));
		assert_int_equal(raw_recv(fd, text, 1), 0);
		close(fd);
		EVENTUALLY(atomic_load(&fake_qp.qps) == 2);
	}
	atomic_store(&san_handshake_ms, PATIENCE_MS);
	assert_int_equal(hf_accept(t.listener, t.a.cq, 0, &s), -ETIMEDOUT);
	pair_close(&t);
}

/* ------------------------------------------------------------------ order */

/*
 * A send and a write of what a read before them brings: the NIC holds reads back as long as it may, so without the fence what was
 * there before would be sent. What doesn't move data out waits for nothing: reads are not fenced.
 */
static void test_fences(void **state)
{
	struct mem x, y, z;
	struct hf_segment seg, in;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 8192, HF_READWRITE);
	z = mem_reg(&t.a, 4096, HF_WRITE);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	memset(x.at, 'r', 4096);
	memset(x.at + 4096, 'o', 4096);
	memset(y.at, 'o', 4096);
	seg = seg_of(&y, 0, 4096);
	in = seg_of(&z, 0, 4096);
	check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	EVENTUALLY(credits_of(&t.b) == 1);
	hold();
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 0, (void *)1);
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 0, (void *)2);
	check_ok(hf_post_send(t.b.s, &seg, 1, (void *)3));
	post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 4096, (void *)4);
	go();
	for (uintptr_t i = 1; i <= 4; i++)
		assert_ptr_equal(expect(&t.b, i < 3 ? HF_OP_READ : i == 3 ? HF_OP_SEND : HF_OP_WRITE, 0).context, (void *)i);
	expect(&t.a, HF_OP_RECV, 0);
	assert_true(all_are(z.at, 4096, 'r'));
	assert_true(all_are(x.at + 4096, 4096, 'r'));
	assert_int_equal(fake_qp.reordered, 0);
	mem_gone(&t.a, &x);
	mem_gone(&t.a, &z);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* At most `window` are with the NIC, of requests and of receives, however many are posted (it aborts beyond its depth). */
static void test_window(void **state)
{
	struct mem x, y;
	struct hf_segment seg;
	struct pair t;

	pair_open(&t, NULL, "depth=3", "depth=50", true);
	x = mem_expose(&t.a, 4096, HF_READWRITE);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	seg = seg_of(&y, 0, 8);
	hold();
	atomic_store(&fake_qp.posts, 0);
	for (int i = 0; i < 50; i++)
		post_rdma(&t.b, i % 2 ? HF_OP_WRITE : HF_OP_READ, &seg, x.descriptor, 0, NULL);
	assert_int_equal(fake_qp.posts, 3);
	for (int i = 0; i < 50; i++)
		check_ok(hf_post_recv(t.b.s, NULL, 0, NULL));
	EVENTUALLY(credits_of(&t.a) == 3);
	assert_int_equal(fake_qp.posts, 6);
	assert_int_equal(hf_post_recv(t.b.s, NULL, 0, NULL), -EAGAIN);
	go();
	for (int i = 0; i < 50; i++)
		expect(&t.b, i % 2 ? HF_OP_WRITE : HF_OP_READ, 0);
	for (int i = 0; i < 50; i++) {
		check_ok(hf_post_send(t.a.s, NULL, 0, NULL));
		expect(&t.a, HF_OP_SEND, 0);
		expect(&t.b, HF_OP_RECV, 0);
	}
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* Without a credit nothing is given to the NIC: a message before its receive is kept here (R48). */
static void test_credits(void **state)
{
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	assert_int_equal(fake_qp.posts, 0);
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	expect(&t.a, HF_OP_RECV, 0);
	assert_int_equal(fake_qp.posts, 2);
	pair_close(&t);
}

/* ------------------------------------------------------------------ descriptors */

/*
 * Beyond the end, or without the right, by the descriptor's own word: refused here, in its turn, and nothing else is disturbed; the NIC
 * hears nothing of it (R15, R17).
 */
static void test_refused_here(void **state)
{
	struct mem x, y;
	struct hf_segment seg;
	char d[HF_DESCRIPTOR_SIZE];
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 4096, HF_READ);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	memset(x.at, 'x', x.len);
	seg = seg_of(&y, 0, 8);
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 4088, NULL);
	post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 4089, NULL);
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, INT64_MAX - 8, NULL);
	memcpy(d, x.descriptor, sizeof(d));
	d[7] = 1; /* rights that there are none of */
	post_rdma(&t.b, HF_OP_READ, &seg, d, 0, NULL);
	memset(d, 0, sizeof(d));
	post_rdma(&t.b, HF_OP_READ, &seg, d, 0, NULL);
	seg.len = 0;
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 4096, NULL);
	expect(&t.b, HF_OP_READ, 0);
	expect(&t.b, HF_OP_WRITE, -EACCES);
	expect(&t.b, HF_OP_READ, -ERANGE);
	expect(&t.b, HF_OP_READ, -ERANGE);
	expect(&t.b, HF_OP_READ, -EACCES);
	expect(&t.b, HF_OP_READ, -EACCES);
	expect(&t.b, HF_OP_READ, 0);
	assert_int_equal(fake_qp.refused, 0);
	assert_int_equal(fake_qp.posts, 2);
	assert_true(all_are(y.at, 8, 'x') && all_are(x.at, x.len, 'x'));
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

static void reopen(struct pair *t)
{
	end_close(&t->a);
	end_close(&t->b);
	check_ok(hf_connect(t->b.p, t->address, NULL, t->b.cq, PATIENCE_MS, &t->b.s));
	check_ok(hf_accept(t->listener, t->a.cq, PATIENCE_MS, &t->a.s));
}

/*
 * What lies about itself, another connection's, one that was revoked: the NIC refuses (R10, R15, R28; known faults 1, 2, 3). That
 * operation gets -EACCES, the ones before it are well, those behind it, and all of the peer's, -ECONNRESET; no byte has moved.
 */
static void test_refused_by_the_nic(void **state)
{
	struct hf_sock *c, *d;
	struct hf_segment seg;
	struct mem x, y, other;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	for (int i = 0; i < 5; i++) {
		char forged[HF_DESCRIPTOR_SIZE];
		bool write = i == 1;

		x = mem_expose(&t.a, 4096, HF_READ);
		y = mem_reg(&t.b, 8192, HF_READWRITE);
		memset(x.at, 'x', x.len);
		memset(y.at, 'y', y.len);
		check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &c));
		check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &d));
		other = x;
		mem_expose_at(&(struct end){ t.a.p, t.a.cq, d }, &other, HF_READWRITE);
		memcpy(forged, i == 2 ? other.descriptor : x.descriptor, sizeof(forged));
		if (i == 0)
			forged[9] = 127; /* longer */
		if (i == 1)
			forged[4] = 3; /* more rights */
		if (i == 3)
			forged[16] ^= 1; /* another key */
		if (i == 4) {
			check_ok(hf_mr_dereg(t.a.s, x.mr));
			mem_expose_at(&t.a, &x, HF_READ); /* a new one doesn't bring the old one back */
		}
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
		check_ok(hf_post_recv(t.b.s, NULL, 0, NULL));
		seg = seg_of(&y, 4096, 8);
		hold();
		post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 0, NULL);
		seg = seg_of(&y, 0, i ? 8 : 4097);
		post_rdma(&t.b, write ? HF_OP_WRITE : HF_OP_READ, &seg, forged, 0, NULL);
		seg = seg_of(&y, 4096, 8);
		post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 0, NULL);
		go();
		expect(&t.b, HF_OP_READ, 0);
		expect(&t.b, write ? HF_OP_WRITE : HF_OP_READ, -EACCES);
		expect(&t.b, HF_OP_READ, -ECONNRESET);
		expect(&t.b, HF_OP_RECV, -ECONNRESET);
		expect(&t.a, HF_OP_RECV, -ECONNRESET);
		assert_int_equal(fake_qp.refused, i + 1);
		assert_true(all_are(x.at, x.len, 'x') && all_are(y.at, 4096, 'y'));
		assert_int_equal(info_of(&t.b).error, -ECONNRESET);
		assert_int_equal(info_of(&t.a).exposures, 0);
		assert_int_equal(hf_mr_expose(t.a.s, x.at, 8, HF_READ, forged, &(size_t){ sizeof(forged) }, &x.mr), -ENOTCONN);
		check_ok(hf_sock_close(d));
		check_ok(hf_sock_close(c));
		reopen(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
	pair_close(&t);
}

/* ------------------------------------------------------------------ revoking */

/*
 * R28: hf_mr_dereg() in the midst of a write, and of a read: no byte comes or goes after its return; the operation ends with -EACCES.
 * At every chunk in turn.
 */
static void cut_off(enum hf_op op, bool by_descriptor)
{
	enum { CHUNKS = 6, CHUNK = 4096 };
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	atomic_store(&fake_qp.chunk, CHUNK);
	for (size_t at = 1; at < CHUNKS; at++) {
		struct mem *to, *from;

		go();
		pair_open(&t, "proxy=manual", NULL, NULL, true);
		x = mem_expose(&t.a, CHUNKS * CHUNK, HF_READWRITE);
		y = mem_reg(&t.b, CHUNKS * CHUNK, HF_READWRITE);
		from = op == HF_OP_WRITE ? &y : &x;
		to = op == HF_OP_WRITE ? &x : &y;
		memset(from->at, 'n', from->len);
		memset(to->at, 'o', to->len);
		seg = seg_of(&y, 0, y.len);
		hold();
		post_rdma(&t.b, op, &seg, x.descriptor, 0, NULL);
		let(at);
		if (by_descriptor)
			check_ok(hf_mr_revoke(t.a.s, x.descriptor, HF_DESCRIPTOR_SIZE));
		else
			check_ok(hf_mr_dereg(t.a.s, x.mr));
		assert_int_equal(fake_qp.windows, 0);
		memset(x.at, 's', x.len);
		go();
		expect(&t.b, op, -EACCES);
		if (op == HF_OP_READ)
			assert_true(all_are(y.at, at * CHUNK, 'n') && all_are(y.at + at * CHUNK, y.len - at * CHUNK, 'o'));
		assert_true(all_are(x.at, x.len, 's'));
		/* The registration is still there (R22). */
		assert_int_equal(check_stats(t.a.p).pinned_bytes, CHUNKS * CHUNK);
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
	/* The last time nobody was refused: only what was cut counts. */
	assert_int_equal(fake_qp.refused, CHUNKS - 1);
}

static void test_revoke_in_a_write(void **state)
{
	cut_off(HF_OP_WRITE, false);
}

static void test_revoke_in_a_read(void **state)
{
	cut_off(HF_OP_READ, true);
}

/* R28, as a race, with the NIC at full speed. */
static void test_revoke_races(void **state)
{
	const unsigned rounds = 60 / check_scale() + 1;
	size_t len = MIB;
	struct hf_segment seg;
	struct hf_completion c;
	unsigned cut = 0;
	struct mem x, y;
	struct pair t;

	atomic_store(&fake_qp.chunk, 4096);
	pair_open(&t, "proxy=manual", NULL, NULL, true);
	x = (struct mem){ .at = check_map(len), .len = len };
	y = (struct mem){ .at = check_map(len), .len = len };
	memset(y.at, 'w', len);
	/* On until one was cut off: the NIC may have its turn first, and be done. */
	for (unsigned i = 0; i < rounds || !cut; i++) {
		mem_expose_at(&t.a, &x, HF_WRITE);
		check_ok(hf_mr_reg(t.b.s, y.at, len, HF_READ, &y.mr));
		memset(x.at, 'o', len);
		seg = seg_of(&y, 0, len);
		post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
		for (unsigned k = 0; k < i % rounds * 20 * check_scale(); k++)
			sched_yield();
		check_ok(hf_mr_dereg(t.a.s, x.mr));
		memset(x.at, 's', len);
		c = next_of(&t.b);
		assert_true(!c.status || c.status == -EACCES);
		assert_true(all_are(x.at, len, 's'));
		cut += c.status != 0;
		reopen(&t);
	}
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* The NIC can't revoke: then the connection ends, for both, and that is final, too; the handle is given back all the same. */
static void test_revoke_fails(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 64 * KIB, HF_READ);
	atomic_store(&fake_qp.chunk, 4096);
	memset(y.at, 'w', y.len);
	seg = seg_of(&y, 0, y.len);
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	hold();
	post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
	let(3);
	atomic_store(&fake_qp.fail_revoke_in, 1);
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	memset(x.at, 's', x.len);
	go();
	expect(&t.a, HF_OP_RECV, -ECONNRESET);
	expect(&t.b, HF_OP_WRITE, -ECONNRESET);
	assert_true(all_are(x.at, x.len, 's'));
	assert_int_equal(info_of(&t.a).error, -ECONNRESET);
	assert_int_equal(hf_mr_dereg(t.a.s, x.mr), -EINVAL);
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* Nor is what b was told to have arrived lost by that: nobody has taken it in at a when its connection ends. */
static void test_revoke_fails_takes_in(void **state)
{
	struct mem x;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	x = mem_expose(&t.a, 4096, HF_WRITE);
	for (int i = 0; i < 2; i++)
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	EVENTUALLY(credits_of(&t.b) == 2);
	atomic_store(&fake_qp.silent, 1);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	EVENTUALLY(atomic_load(&fake_qp.chunks) == 1);
	assert_int_equal(polled(&t.b).status, 0);
	atomic_store(&fake_qp.fail_revoke_in, 1);
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	expect(&t.a, HF_OP_RECV, 0);
	expect(&t.a, HF_OP_RECV, -ECONNRESET);
	pair_close(&t);
	mem_unmap(&x);
}

/* ------------------------------------------------------------------ exposing takes time */

struct exposer {
	struct end *e;
	struct mem m;
	int rc;
	_Atomic int over;
};

static void *expose_one(void *arg)
{
	struct exposer *x = arg;
	size_t length = HF_DESCRIPTOR_SIZE;

	x->rc = hf_mr_expose(x->e->s, x->m.at, x->m.len, HF_READWRITE, x->m.descriptor, &length, &x->m.mr);
	atomic_store(&x->over, 1);
	return NULL;
}

/* Several at once, more than depth; none returns before the NIC is done with it; other calls go on; then all work. */
static void test_expose_takes_time(void **state)
{
	enum { MANY = 6 };
	struct exposer x[MANY];
	struct hf_segment seg;
	pthread_t id[MANY];
	struct mem y;
	struct pair t;

	pair_open(&t, NULL, "depth=4", "depth=4", true);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	seg = seg_of(&y, 0, 8);
	atomic_store(&fake_qp.slow_expose, 1);
	hold();
	for (int i = 0; i < MANY; i++) {
		x[i] = (struct exposer){ .e = &t.a, .m = { .at = check_map(4096), .len = 4096 } };
		assert_int_equal(pthread_create(&id[i], NULL, expose_one, &x[i]), 0);
	}
	EVENTUALLY(atomic_load(&fake_qp.windows) == 4);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(atomic_load(&x[i].over), 0);
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL)); /* the lock is free */
	assert_int_equal(info_of(&t.a).exposures, 0);
	go();
	for (int i = 0; i < MANY; i++)
		pthread_join(id[i], NULL);
	for (int i = 0; i < MANY; i++) {
		check_ok(x[i].rc);
		post_rdma(&t.b, HF_OP_WRITE, &seg, x[i].m.descriptor, 0, NULL);
		expect(&t.b, HF_OP_WRITE, 0);
		mem_gone(&t.a, &x[i].m);
	}
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/*
 * The engine is busy elsewhere: who waits takes in by himself what is done. It hangs here in the step of another socket, and
 * fd() is silent besides.
 */
static _Atomic int stuck, let_go;
static _Atomic pthread_t not_me;

static void get_stuck(const char *step)
{
	if (strcmp(step, "frame in") || pthread_equal(pthread_self(), atomic_load(&not_me)) || atomic_exchange(&stuck, 1))
		return;
	while (!atomic_load(&let_go))
		usleep(1000);
}

static void test_without_the_engine(void **state)
{
	struct hf_sock *c, *d;
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &c));
	check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &d));
	y = mem_expose(&t.a, 4096, HF_READWRITE);
	atomic_store(&stuck, 0);
	atomic_store(&let_go, 0);
	atomic_store(&not_me, pthread_self());
	atomic_store(&fake_qp.slow_expose, 1);
	atomic_store(&san_step, get_stuck);
	check_ok(hf_post_recv(d, NULL, 0, NULL)); /* a frame for b's engine: it comes, and stays there */
	EVENTUALLY(atomic_load(&stuck));
	x = mem_expose(&t.b, 4096, HF_READWRITE);
	/* And completions, by polling and by waiting. */
	seg = seg_of(&x, 0, 100);
	for (int i = 0; i < 10; i++) {
		post_rdma(&t.b, HF_OP_WRITE, &seg, y.descriptor, 0, NULL);
		assert_int_equal(polled(&t.b).status, 0);
	}
	/*
	 * The peer closes, and what this does to a request is taken in by who polls before anybody has read BYE: he reads it.
	 */
	hold();
	post_rdma(&t.b, HF_OP_WRITE, &seg, y.descriptor, 0, NULL);
	end_close(&t.a);
	go();
	assert_int_equal(polled(&t.b).status, -ESHUTDOWN);
	assert_int_equal(atomic_load(&let_go), 0);
	mem_gone(&t.b, &x); /* nor is it needed to revoke */
	atomic_store(&let_go, 1);
	atomic_store(&san_step, NULL);
	check_ok(hf_sock_close(c));
	expect(&t.a, HF_OP_RECV, -ESHUTDOWN);
	check_ok(hf_sock_close(d));
	mem_unmap(&y);
	pair_close(&t);
}

/* It fails at once, later, or because the connection ends meanwhile: nothing is exposed, and nothing is left. */
static void test_expose_fails(void **state)
{
	size_t length = HF_DESCRIPTOR_SIZE;
	struct exposer x;
	pthread_t id;
	struct mem m;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	m = (struct mem){ .at = check_map(4096), .len = 4096 };
	atomic_store(&fake_qp.fail_expose_in, 1);
	check_error(hf_mr_expose(t.a.s, m.at, m.len, HF_READ, m.descriptor, &length, &m.mr), -EIO, "told to fail expose");
	assert_int_equal(info_of(&t.a).exposures, 0);
	mem_expose_at(&t.a, &m, HF_READ); /* the connection is as it was */
	check_ok(hf_mr_dereg(t.a.s, m.mr));
	atomic_store(&fake_qp.slow_expose, 1);
	atomic_store(&fake_qp.fail_expose_later, 1);
	check_error(hf_mr_expose(t.a.s, m.at, m.len, HF_READ, m.descriptor, &length, &m.mr), -ENOTCONN, "has ended");
	assert_int_equal(fake_qp.windows, 0);
	atomic_store(&fake_qp.fail_expose_later, 0);
	reopen(&t);
	hold();
	x = (struct exposer){ .e = &t.a, .m = m };
	assert_int_equal(pthread_create(&id, NULL, expose_one, &x), 0);
	EVENTUALLY(atomic_load(&fake_qp.windows) == 1);
	end_close(&t.b);
	pthread_join(id, NULL);
	assert_int_equal(x.rc, -ENOTCONN);
	assert_int_equal(fake_qp.windows, 0);
	go();
	pair_close(&t);
	mem_unmap(&m);
}

/* ------------------------------------------------------------------ memory that was changed */

/*
 * While it is exposed: the window goes by itself, and what the peer tries then is -EACCES and the end of the connection (by the
 * stream -ESTALE). The handle can be given back, by number and by descriptor.
 */
static void test_changed_while_exposed(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	for (int i = 0; i < 2; i++) {
		x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
		y = mem_reg(&t.b, 4096, HF_READWRITE);
		seg = seg_of(&y, 0, 8);
		assert_int_equal(info_of(&t.a).exposures, 1);
		hf_invalidate(t.sw, x.at + 32 * KIB, 1); /* any part (R33) */
		EVENTUALLY(info_of(&t.a).exposures == 0);
		assert_int_equal(fake_qp.windows, 0);
		assert_int_equal(info_of(&t.a).connected, 1);
		if (i)
			check_ok(hf_mr_revoke(t.a.s, x.descriptor, HF_DESCRIPTOR_SIZE));
		else
			check_ok(hf_mr_dereg(t.a.s, x.mr));
		assert_int_equal(hf_mr_revoke(t.a.s, x.descriptor, HF_DESCRIPTOR_SIZE), -EINVAL);
		post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
		expect(&t.b, HF_OP_WRITE, -EACCES);
		assert_true(all_are(x.at, x.len, 1));
		reopen(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
	pair_close(&t);
}

/* In the midst of a write of the peer's: by the kernel's own word, and the address is used again. */
static void test_unmapped_while_written(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	if (!check_uffd())
		skip();
	atomic_store(&fake_qp.chunk, 4096);
	pair_open(&t, "proxy=uffd", NULL, NULL, true);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 64 * KIB, HF_READWRITE);
	memset(y.at, 'w', y.len);
	seg = seg_of(&y, 0, y.len);
	hold();
	post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
	let(2);
	assert_int_equal(munmap(x.at, x.len), 0);
	EVENTUALLY(atomic_load(&fake_qp.windows) == 0);
	assert_ptr_equal(mmap(x.at, x.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), x.at);
	memset(x.at, 's', x.len);
	go();
	expect(&t.b, HF_OP_WRITE, -EACCES);
	assert_true(all_are(x.at, x.len, 's'));
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* It changes between the pin and the moment at which the engine can find it: so often. */
static struct mem *to_change;
static struct hf_switch *change_in;
static _Atomic int changes, exposings;

static void change_now(const char *step)
{
	if (strcmp(step, "exposing"))
		return;
	atomic_fetch_add(&exposings, 1);
	if (atomic_fetch_sub(&changes, 1) > 0)
		hf_invalidate(change_in, to_change->at, 1);
}

static void test_changed_while_being_exposed(void **state)
{
	struct mem x;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	x = (struct mem){ .at = check_map(4096), .len = 4096 };
	to_change = &x;
	change_in = t.sw;
	atomic_store(&fake_qp.slow_expose, 1);
	/* Twice: all is done anew, and what is exposed at last is what is there then. */
	atomic_store(&changes, 2);
	atomic_store(&exposings, 0);
	atomic_store(&san_step, change_now);
	mem_expose_at(&t.a, &x, HF_READWRITE);
	assert_int_equal(exposings, 3);
	assert_int_equal(info_of(&t.a).exposures, 1);
	assert_int_equal(fake_qp.windows, 1);
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	/* Without end: nothing is exposed, and nothing is left. */
	atomic_store(&changes, INT32_MAX);
	check_error(hf_mr_expose(t.a.s, x.at, x.len, HF_READ, x.descriptor, &(size_t){ HF_DESCRIPTOR_SIZE }, &x.mr), -EAGAIN,
		    "changes while it is being exposed");
	atomic_store(&san_step, NULL);
	assert_int_equal(info_of(&t.a).exposures, 0);
	assert_int_equal(fake_qp.windows, 0);
	assert_int_equal(info_of(&t.a).connected, 1);
	mem_unmap(&x);
	pair_close(&t);
}

/* On the side that posts: at the post, while it waits, and while the NIC moves it. */
static void test_stale(void **state)
{
	struct hf_segment seg, in;
	struct mem x, y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, "depth=8", true);
	x = mem_expose(&t.a, 4096, HF_READWRITE);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	seg = seg_of(&y, 0, 8);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL)); /* waits for a receive */
	hf_invalidate(t.sw, y.at, 1);
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -ESTALE, "register it anew");
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL)); /* too small: -EMSGSIZE comes first */
	expect(&t.b, HF_OP_SEND, -EMSGSIZE);
	check_ok(hf_mr_dereg(t.b.s, y.mr));
	check_ok(hf_mr_reg(t.b.s, y.at, 4096, HF_READWRITE, &y.mr));
	/* With the NIC: what it has moved is moved; this side is told. */
	seg = seg_of(&y, 0, 8);
	hold();
	post_rdma(&t.b, HF_OP_READ, &seg, x.descriptor, 0, NULL);
	hf_invalidate(t.sw, y.at, 1);
	go();
	expect(&t.b, HF_OP_READ, -ESTALE);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	expect(&t.a, HF_OP_RECV, 0);
	/* A receive, posted to the NIC: the message comes, its sender knows nothing of it, the receiver does. */
	in = seg_of(&x, 0, 8);
	check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	hf_invalidate(t.sw, x.at, 1);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	assert_int_equal(expect(&t.a, HF_OP_RECV, -ESTALE).bytes, 0);
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* A receive of memory that changed before the peer was told of it is passed over, in its place: beyond the window. */
static void test_stale_receive_in_the_queue(void **state)
{
	struct hf_segment in;
	struct mem x;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, "depth=1", true);
	x = mem_reg(&t.a, 4096, HF_WRITE);
	in = seg_of(&x, 0, 8);
	check_ok(hf_post_recv(t.a.s, NULL, 0, (void *)1));
	check_ok(hf_post_recv(t.a.s, &in, 1, (void *)2));
	check_ok(hf_post_recv(t.a.s, &in, 1, (void *)3));
	check_ok(hf_post_recv(t.a.s, NULL, 0, (void *)4));
	hf_invalidate(t.sw, x.at, 1);
	for (int i = 0; i < 2; i++) {
		check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
		expect(&t.b, HF_OP_SEND, 0);
	}
	for (uintptr_t i = 1; i <= 4; i++)
		assert_ptr_equal(expect(&t.a, HF_OP_RECV, i == 2 || i == 3 ? -ESTALE : 0).context, (void *)i);
	mem_gone(&t.a, &x);
	pair_close(&t);
}

/* ------------------------------------------------------------------ the end */

/*
 * What the peer's NIC has acknowledged is delivered, though BYE is read first: a takes nothing in by itself before (fd() is silent,
 * nobody polls); b sends, is told that it was received, and closes.
 */
static void test_bye_swallows_nothing(void **state)
{
	enum { EACH = 5 };
	struct hf_segment seg, in;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_reg(&t.a, 4096, HF_WRITE);
	y = mem_reg(&t.b, 4096, HF_READ);
	memset(y.at, 'm', 4096);
	for (int i = 0; i < EACH + 2; i++) {
		in = seg_of(&x, (size_t)i * 100, 100);
		check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	}
	EVENTUALLY(credits_of(&t.b) == EACH + 2);
	atomic_store(&fake_qp.silent, 1);
	seg = seg_of(&y, 0, 100);
	for (int i = 0; i < EACH; i++) {
		check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
		assert_int_equal(polled(&t.b).status, 0);
	}
	end_close(&t.b);
	EVENTUALLY(!info_of(&t.a).connected);
	for (int i = 0; i < EACH; i++)
		assert_int_equal(expect(&t.a, HF_OP_RECV, 0).bytes, 100);
	for (int i = 0; i < 2; i++)
		expect(&t.a, HF_OP_RECV, -ESHUTDOWN);
	assert_true(all_are(x.at, EACH * 100, 'm'));
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/*
 * The other way round: what a has received by its close was sent well, though b's NIC never hears of it; and so was all that
 * stands before it. What stands behind it was not.
 */
static void test_bye_says_what_came(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	for (uintptr_t late = 0; late < 2; late++) {
		pair_open(&t, NULL, NULL, NULL, true);
		x = mem_expose(&t.a, 4096, HF_READWRITE);
		y = mem_reg(&t.b, 4096, HF_READWRITE);
		seg = seg_of(&y, 0, 100);
		for (int i = 0; i < 3; i++)
			check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
		check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
		expect(&t.b, HF_OP_SEND, 0);
		expect(&t.a, HF_OP_RECV, 0);
		atomic_store(&fake_qp.hold_acks, 1);
		post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, (void *)1);
		check_ok(hf_post_send(t.b.s, NULL, 0, (void *)2));
		if (late)
			check_ok(hf_post_send(t.b.s, NULL, 0, (void *)3));
		post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, (void *)4);
		check_ok(hf_post_send(t.b.s, NULL, 0, (void *)5));
		if (late)
			check_ok(hf_post_send(t.b.s, NULL, 0, (void *)6)); /* there is no receive for it */
		expect(&t.a, HF_OP_RECV, 0);
		expect(&t.a, HF_OP_RECV, 0);
		end_close(&t.a);
		assert_ptr_equal(expect(&t.b, HF_OP_WRITE, 0).context, (void *)1);
		assert_ptr_equal(expect(&t.b, HF_OP_SEND, 0).context, (void *)2);
		if (late)
			assert_ptr_equal(expect(&t.b, HF_OP_SEND, 0).context, (void *)3);
		assert_ptr_equal(expect(&t.b, HF_OP_WRITE, late ? -ESHUTDOWN : 0).context, (void *)4);
		assert_ptr_equal(expect(&t.b, HF_OP_SEND, late ? -ESHUTDOWN : 0).context, (void *)5);
		if (late)
			assert_ptr_equal(expect(&t.b, HF_OP_SEND, -ESHUTDOWN).context, (void *)6);
		atomic_store(&fake_qp.hold_acks, 0);
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
}

/* And what was done by the time of one's own close is told as done: a polls nothing before. */
static void test_close_takes_in(void **state)
{
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	for (int i = 0; i < 3; i++)
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	EVENTUALLY(credits_of(&t.b) == 3);
	atomic_store(&fake_qp.silent, 1);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	EVENTUALLY(atomic_load(&fake_qp.chunks) == 2);
	end_close(&t.a);
	expect(&t.a, HF_OP_RECV, 0);
	expect(&t.a, HF_OP_RECV, 0);
	expect(&t.a, HF_OP_RECV, -ECANCELED);
	expect(&t.b, HF_OP_SEND, 0);
	expect(&t.b, HF_OP_SEND, 0);
	pair_close(&t);
}

/*
 * Either side closes with work of both in the NIC's hands: each completes once; when the close has returned no byte of
 * it moves (R16, R45).
 */
static void test_close_with_pending(void **state)
{
	struct hf_segment seg, in;
	struct mem x, y;
	struct pair t;

	for (int i = 0; i < 2; i++) {
		struct end *mine, *peer;

		atomic_store(&fake_qp.chunk, 4096);
		pair_open(&t, "proxy=manual", NULL, NULL, true);
		x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
		y = mem_expose(&t.b, 64 * KIB, HF_READWRITE);
		memset(x.at, 'x', x.len);
		memset(y.at, 'y', y.len);
		mine = i ? &t.a : &t.b;
		peer = i ? &t.b : &t.a;
		seg = seg_of(&y, 0, y.len);
		in = seg_of(&x, 0, x.len);
		hold();
		post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
		post_rdma(&t.a, HF_OP_READ, &in, y.descriptor, 0, NULL);
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
		check_ok(hf_post_recv(t.b.s, NULL, 0, NULL));
		let(5);
		end_close(mine);
		memset((i ? &x : &y)->at, 's', x.len);
		go();
		expect(mine, i ? HF_OP_READ : HF_OP_WRITE, -ECANCELED);
		expect(mine, HF_OP_RECV, -ECANCELED);
		expect(peer, i ? HF_OP_WRITE : HF_OP_READ, -ESHUTDOWN);
		expect(peer, HF_OP_RECV, -ESHUTDOWN);
		expect_none(&t.a);
		expect_none(&t.b);
		assert_true(all_are((i ? &x : &y)->at, x.len, 's'));
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
}

/* BYE is there before the queue pair stops: what is under way at the peer then never says that the way is broken. */
static void test_close_is_no_break(void **state)
{
	enum { EACH = 8 };
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;
	unsigned cut = 0;

	atomic_store(&fake_qp.chunk, 4096);
	for (int i = 0; i < 10 || !cut; i++) {
		pair_open(&t, "proxy=manual", NULL, NULL, true);
		x = mem_expose(&t.a, MIB, HF_READWRITE);
		y = mem_reg(&t.b, MIB, HF_READ);
		seg = seg_of(&y, 0, MIB);
		for (int k = 0; k < EACH; k++)
			post_rdma(&t.b, HF_OP_WRITE, &seg, x.descriptor, 0, NULL);
		end_close(&t.a);
		for (int k = 0; k < EACH; k++) {
			struct hf_completion c = next_of(&t.b);

			assert_true(!c.status || c.status == -ESHUTDOWN);
			cut += c.status != 0;
		}
		assert_int_equal(info_of(&t.b).error, -ESHUTDOWN);
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
}

/* The NIC takes no more, of either kind: that is the end of the connection, and all complete. */
static void test_post_fails(void **state)
{
	struct pair t;

	for (int i = 0; i < 2; i++) {
		pair_open(&t, NULL, NULL, NULL, true);
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
		EVENTUALLY(credits_of(&t.b) == 1);
		atomic_store(&fake_qp.fail_post_in, 1);
		check_ok(i ? hf_post_recv(t.b.s, NULL, 0, NULL) : hf_post_send(t.b.s, NULL, 0, NULL));
		expect(&t.b, i ? HF_OP_RECV : HF_OP_SEND, -EIO);
		assert_int_equal(info_of(&t.b).error, -EIO);
		expect(&t.a, HF_OP_RECV, -ECONNRESET);
		pair_close(&t);
	}
}

/* A peer that is killed: its stream ends, which is known at once, whatever the NIC would say, and when. */
static int meet_and_wait(void *arg)
{
	struct wire_hello h = { .version_min = 2, .version_max = 2, .max_message = 1 << 20, .max_rdma = 1 << 20, .depth = 9 };
	struct wire_qp mine = { .max = 1 << 20 };
	uint8_t text[WIRE_QP_SIZE + WIRE_FRAME_SIZE];
	struct san_address a;
	int fd;

	memset(mine.address, 0xee, sizeof(mine.address));
	CHILD_CHECK(san_address_parse(arg, &a) == 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHILD_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a.sa, a.len) == 0);
	wire_put_hello(text, &h);
	CHILD_CHECK(send(fd, text, WIRE_HELLO_SIZE, 0) == WIRE_HELLO_SIZE);
	CHILD_CHECK(recv(fd, text, WIRE_HELLO_SIZE, MSG_WAITALL) == WIRE_HELLO_SIZE);
	wire_put_proof(text, &(struct wire_proof){ 0 });
	CHILD_CHECK(send(fd, text, WIRE_PROOF_SIZE, 0) == WIRE_PROOF_SIZE);
	CHILD_CHECK(recv(fd, text, WIRE_PROOF_SIZE, MSG_WAITALL) == WIRE_PROOF_SIZE);
	CHILD_CHECK(recv(fd, text, WIRE_QP_SIZE, MSG_WAITALL) == WIRE_QP_SIZE);
	wire_put_qp(text, &mine);
	wire_put_frame(text + WIRE_QP_SIZE, &(struct wire_frame){ .type = WIRE_READY });
	CHILD_CHECK(send(fd, text, sizeof(text), 0) == (ssize_t)sizeof(text));
	pause();
	return 1;
}

static void test_peer_is_killed(void **state)
{
	struct hf_segment seg;
	struct end c = { 0 };
	struct mem x;
	struct pair t;
	pid_t pid;
	int status;

	pair_open(&t, NULL, NULL, NULL, false);
	pid = fork();
	if (!pid)
		_exit(meet_and_wait(t.address));
	c = (struct end){ t.a.p, t.a.cq, NULL };
	check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_expose(&c, 4096, HF_READWRITE);
	seg = seg_of(&x, 0, 8);
	check_ok(hf_post_recv(c.s, &seg, 1, NULL));
	check_ok(hf_post_send(c.s, NULL, 0, NULL)); /* it never posts a receive */
	expect_none(&c);
	assert_int_equal(kill(pid, SIGKILL), 0);
	expect(&c, HF_OP_SEND, -ECONNRESET);
	expect(&c, HF_OP_RECV, -ECONNRESET);
	assert_int_equal(info_of(&c).exposures, 0);
	assert_int_equal(hf_post_send(c.s, NULL, 0, NULL), -ECONNRESET);
	check_ok(hf_mr_dereg(c.s, x.mr));
	assert_int_equal(fake_qp.windows, 0);
	check_ok(hf_sock_close(c.s));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	mem_unmap(&x);
	pair_close(&t);
}

/* ------------------------------------------------------------------ one queue, many */

struct many {
	struct hf_sock *s;
	struct mem *x;
	struct hf_segment seg;
	char *descriptor;
	struct hf_cq *cq;
	_Atomic unsigned *taken;
	unsigned all;
	bool wait;
};

static void *take_many(void *arg)
{
	struct many *m = arg;
	struct hf_completion c[4];

	while (atomic_load(m->taken) < m->all) {
		int n = m->wait ? hf_cq_wait(m->cq, c, 4, 5) : hf_cq_poll(m->cq, c, 4);

		for (int i = 0; i < n; i++)
			if (c[i].status)
				fprintf(stderr, "completed with %d\n", c[i].status);
		if (n > 0)
			atomic_fetch_add(m->taken, (unsigned)n);
		else if (!m->wait)
			sched_yield();
	}
	return NULL;
}

enum { ROUNDS = 120 };

static void *write_many(void *arg)
{
	struct many *m = arg;

	for (int i = 0; i < ROUNDS; i++)
		while (hf_post_write(m->s, &m->seg, 1, m->descriptor, HF_DESCRIPTOR_SIZE, 0, NULL) == -EAGAIN)
			usleep(100);
	return NULL;
}

static void *send_many(void *arg)
{
	struct many *m = arg;

	for (int i = 0; i < ROUNDS; i++)
		while (hf_post_send(m->s, NULL, 0, NULL) == -EAGAIN)
			usleep(100);
	return NULL;
}

static void *receive_all(void *arg)
{
	struct many *m = arg;

	for (int i = 0; i < ROUNDS; i++)
		while (hf_post_recv(m->s, NULL, 0, NULL) == -EAGAIN)
			usleep(100);
	return NULL;
}

/* Many sockets and both ends on one queue; threads that poll, that wait, that post; with the engine told and not. */
static void test_many_on_one_queue(void **state)
{
	enum { SOCKS = 4, TAKERS = 3 };
	struct many w[SOCKS], r[SOCKS], k[TAKERS];
	_Atomic unsigned taken = 0;
	struct hf_sock *a[SOCKS], *b[SOCKS];
	struct mem x[SOCKS], y[SOCKS];
	pthread_t id[3 * SOCKS + TAKERS];
	struct hf_cq *cq;
	struct pair t;
	int n = 0;

	atomic_store(&fake_qp.arm_always, *state != NULL);
	pair_open(&t, NULL, NULL, NULL, true);
	check_ok(hf_cq_open(&cq));
	for (int i = 0; i < SOCKS; i++) {
		check_ok(hf_connect(t.b.p, t.address, "depth=8", cq, PATIENCE_MS, &b[i]));
		check_ok(hf_accept(t.listener, cq, PATIENCE_MS, &a[i]));
		x[i] = mem_expose(&(struct end){ t.a.p, cq, a[i] }, 4096, HF_READWRITE);
		y[i] = mem_reg(&(struct end){ t.b.p, cq, b[i] }, 4096, HF_READWRITE);
		w[i] = (struct many){ .s = b[i], .seg = seg_of(&y[i], 0, 4096), .descriptor = x[i].descriptor };
		r[i] = (struct many){ .s = a[i] };
	}
	for (int i = 0; i < TAKERS; i++) {
		k[i] = (struct many){ .cq = cq, .taken = &taken, .all = SOCKS * 3 * ROUNDS, .wait = i > 0 };
		assert_int_equal(pthread_create(&id[n++], NULL, take_many, &k[i]), 0);
	}
	for (int i = 0; i < SOCKS; i++) {
		assert_int_equal(pthread_create(&id[n++], NULL, write_many, &w[i]), 0);
		assert_int_equal(pthread_create(&id[n++], NULL, send_many, &w[i]), 0);
		assert_int_equal(pthread_create(&id[n++], NULL, receive_all, &r[i]), 0);
	}
	while (n--)
		pthread_join(id[n], NULL);
	assert_int_equal(taken, SOCKS * 3 * ROUNDS);
	assert_int_equal(hf_cq_poll(cq, &(struct hf_completion){ 0 }, 1), 0);
	for (int i = 0; i < SOCKS; i++) {
		check_ok(hf_sock_close(i % 2 ? a[i] : b[i]));
		check_ok(hf_sock_close(i % 2 ? b[i] : a[i]));
		mem_unmap(&x[i]);
		mem_unmap(&y[i]);
	}
	check_ok(hf_cq_close(cq));
	pair_close(&t);
}

/* Sockets are closed while others poll their queue. */
static void *poll_on(void *arg)
{
	struct many *m = arg;
	struct hf_completion c[4];

	while (!atomic_load(m->taken))
		hf_cq_poll(m->cq, c, 4);
	return NULL;
}

static void test_close_while_polled(void **state)
{
	_Atomic unsigned over = 0;
	struct hf_sock *a, *b;
	struct many m;
	pthread_t id[2];
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	m = (struct many){ .cq = t.b.cq, .taken = &over };
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&id[i], NULL, poll_on, &m), 0);
	for (int i = 0; i < 40 / (int)check_scale(); i++) {
		check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &b));
		check_ok(hf_accept(t.listener, t.b.cq, PATIENCE_MS, &a));
		check_ok(hf_post_recv(a, NULL, 0, NULL));
		check_ok(hf_post_send(b, NULL, 0, NULL));
		check_ok(hf_sock_close(i & 1 ? a : b));
		check_ok(hf_sock_close(i & 1 ? b : a));
	}
	atomic_store(&over, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(id[i], NULL);
	pair_close(&t);
}

/* ------------------------------------------------------------------ fork */

static int look(void *arg)
{
	struct pair *t = arg;

	CHILD_CHECK(hf_cq_poll(t->a.cq, &(struct hf_completion){ 0 }, 1) == -EOWNERDEAD);
	CHILD_CHECK(hf_post_recv(t->a.s, NULL, 0, NULL) == -EOWNERDEAD);
	CHILD_CHECK(hf_sock_close(t->a.s) == -EOWNERDEAD);
	/* The stream, the engine's, and both of each queue pair: closed in here. */
	for (int fd = 3; fd < 200; fd++) {
		char link[64], name[64] = "";

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		CHILD_CHECK(readlink(link, name, sizeof(name) - 1) < 0 || !strstr(name, "socket:"));
	}
	return 0;
}

static unsigned eventfds(void)
{
	unsigned n = 0;

	for (int fd = 3; fd < 300; fd++) {
		char link[64], name[64] = "";

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n += readlink(link, name, sizeof(name) - 1) > 0 && strstr(name, "eventfd");
	}
	return n;
}

static int count_eventfds(void *arg)
{
	return (int)eventfds();
}

static void test_fork(void **state)
{
	struct pair t;
	int before;

	before = check_child(count_eventfds, NULL);
	pair_open(&t, "proxy=manual", NULL, NULL, true);
	/* Only the two queues' own may be left of all. */
	assert_in_range(check_child(count_eventfds, NULL), before, before + 2);
	assert_true(eventfds() >= (unsigned)before + 2 + 4);
	assert_int_equal(check_child(look, &t), 0);
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	expect(&t.a, HF_OP_RECV, 0);
	expect(&t.b, HF_OP_SEND, 0);
	pair_close(&t);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		/* These also by a real NIC, in the guest: HF_TEST_NIC. */
		CASE(test_revoke_races),
		CASE(test_changed_while_exposed),
		CASE(test_bye_swallows_nothing),
		CASE(test_close_is_no_break),
		CASE(test_many_on_one_queue),
		CASE(test_close_while_polled),
		/* These know which one it is. */
		CASE(test_kinds_do_not_mix),
		CASE(test_the_nic_bounds),
		CASE(test_no_queue_pair),
		CASE(test_tables),
		CASE(test_frames),
		CASE(test_bad_handshakes),
		CASE(test_fences),
		CASE(test_window),
		CASE(test_credits),
		CASE(test_refused_here),
		CASE(test_refused_by_the_nic),
		CASE(test_revoke_in_a_write),
		CASE(test_revoke_in_a_read),
		CASE(test_revoke_fails),
		CASE(test_revoke_fails_takes_in),
		CASE(test_expose_takes_time),
		CASE(test_without_the_engine),
		CASE(test_expose_fails),
		CASE(test_unmapped_while_written),
		CASE(test_changed_while_being_exposed),
		CASE(test_stale),
		CASE(test_stale_receive_in_the_queue),
		CASE(test_bye_says_what_came),
		CASE(test_close_takes_in),
		CASE(test_close_with_pending),
		CASE(test_post_fails),
		CASE(test_peer_is_killed),
		{ "test_many_on_one_queue_armed", test_many_on_one_queue, set_up, tear_down, "" },
		CASE(test_fork),
	};

	size_t n = sizeof(tests) / sizeof(tests[0]);

	while (getenv("HF_TEST_NIC") && tests[n - 1].test_func != test_close_while_polled)
		n--;
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}
