/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets (holdfast/san.h): what is moved, byte for byte; what is refused, and that nothing else is disturbed by it;
 * that access ends when it is revoked; that every operation completes exactly once, however the connection ends. Built twice: by
 * the stream (NIC uring), and with SAN_OVER_QP by queue pairs (fake_qp.h).
 */
#include "san.h"


#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ------------------------------------------------------------------ moving */

static void fill_all(struct mem *from, struct mem *to, uint64_t seed)
{
	mem_fill(from, seed);
	memset(to->at, 0, to->len);
}

/* One operation of `len` bytes from b to a, or for a read from a to b, and every byte is right. */
static void move_once(struct pair *t, enum hf_op op, size_t len, size_t from, size_t to)
{
	struct mem x = mem_expose(&t->a, to + len + 64, HF_READWRITE);
	struct mem y = mem_reg(&t->b, from + len + 64, HF_READWRITE);
	struct hf_segment here = seg_of(&y, from, len), there = seg_of(&x, to, len);
	struct hf_completion c;
	int tag;

	if (op == HF_OP_READ)
		fill_all(&x, &y, len + 1);
	else
		fill_all(&y, &x, len + 2);
	if (op == HF_OP_SEND) {
		check_ok(hf_post_recv(t->a.s, &there, 1, &tag));
		check_ok(hf_post_send(t->b.s, &here, 1, &x));
		c = expect(&t->a, HF_OP_RECV, 0);
		assert_int_equal(c.bytes, len);
		assert_ptr_equal(c.context, &tag);
		assert_ptr_equal(c.sock, t->a.s);
	} else if (op == HF_OP_WRITE) {
		check_ok(hf_post_write(t->b.s, &here, 1, x.descriptor, HF_DESCRIPTOR_SIZE, to, &x));
	} else {
		check_ok(hf_post_read(t->b.s, &here, 1, x.descriptor, HF_DESCRIPTOR_SIZE, to, &x));
	}
	c = expect(&t->b, op, 0);
	assert_int_equal(c.bytes, len);
	assert_ptr_equal(c.context, &x);
	assert_memory_equal(x.at + to, y.at + from, len);
	/* And nothing beside them. */
	for (size_t i = 0; i < 64; i++)
		assert_int_equal(op == HF_OP_READ ? y.at[from + len + i] : x.at[to + len + i], 0);
	for (size_t i = 0; i < (op == HF_OP_READ ? from : to); i++)
		assert_int_equal(op == HF_OP_READ ? y.at[i] : x.at[i], 0);
	mem_gone(&t->a, &x);
	mem_gone(&t->b, &y);
}

/* R3, R12: every operation, every kind of size and place. */
static void test_every_byte(void **state)
{
	static const size_t sizes[] = { 0, 1, 79, 80, 4096, 65537, MIB - 1, MIB, MIB + 1, 2 * MIB + 4093 };
	struct pair t;

	for (int far = 0; far < 2; far++) {
		pair_open(&t, NULL, NULL, NULL, far);
		for (enum hf_op op = HF_OP_SEND; op <= HF_OP_READ; op++)
			for (size_t i = 0; op != HF_OP_RECV && i < sizeof(sizes) / sizeof(sizes[0]); i++) {
				move_once(&t, op, sizes[i], 0, 0);
				move_once(&t, op, sizes[i], 4099, 13);
			}
		pair_close(&t);
	}
}

/* The same, over TCP. */
static void test_tcp(void **state)
{
	struct pair t = { 0 };
	struct hf_sock_info i;

	pair_open(&t, NULL, NULL, NULL, true);
	end_close(&t.a);
	end_close(&t.b);
	check_ok(hf_sock_close(t.listener));
	check_ok(hf_listen(t.a.p, "tcp:127.0.0.1:0", NULL, &t.listener));
	check_ok(hf_sock_info(t.listener, &i, sizeof(i)));
	assert_int_equal(strncmp(i.local, "tcp:127.0.0.1:", 14), 0);
	assert_int_equal(i.connected, 0);
	check_ok(hf_connect(t.b.p, i.local, NULL, t.b.cq, PATIENCE_MS, &t.b.s));
	check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &t.a.s));
	assert_string_equal(info_of(&t.b).peer, i.local);
	assert_int_equal(info_of(&t.b).peer_uid, (uid_t)-1);
	for (enum hf_op op = HF_OP_SEND; op <= HF_OP_READ; op++)
		if (op != HF_OP_RECV) {
			move_once(&t, op, 7, 1, 2);
			move_once(&t, op, 2 * MIB + 4093, 1, 2);
		}
	pair_close(&t);
}

#define N HF_SEGMENTS

/* 16 segments on both sides, cut differently, some empty, of two handles (R12). */
static void test_segments(void **state)
{
	struct hf_segment out[N + 1], in[N];
	struct mem x, y, y2;
	struct pair t;
	size_t total = 0;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 256 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 128 * KIB, HF_READWRITE);
	y2 = mem_reg(&t.b, 128 * KIB, HF_READWRITE);
	mem_fill(&y, 1);
	mem_fill(&y2, 2);
	for (unsigned i = 0; i < N; i++) {
		out[i] = seg_of(i & 1 ? &y2 : &y, i * 8191, i % 5 == 3 ? 0 : 1 + i * 509);
		total += out[i].len;
	}
	for (unsigned i = 0; i < N; i++)
		in[i] = seg_of(&x, i * 16384, i == 7 ? 0 : i < N - 1 ? 4001 : 16384);
	memset(x.at, 0, x.len);
	check_ok(hf_post_recv(t.a.s, in, N, NULL));
	check_ok(hf_post_send(t.b.s, out, N, NULL));
	assert_int_equal(expect(&t.a, HF_OP_RECV, 0).bytes, total);
	expect(&t.b, HF_OP_SEND, 0);
	/* Byte by byte through both lists. */
	for (size_t k = 0, i = 0, j = 0, oi = 0, oj = 0; k < total; k++, oi++, oj++) {
		for (; oi == out[i].len; i++)
			oi = 0;
		while (oi == out[i].len)
			i++;
		for (; oj == in[j].len; j++)
			oj = 0;
		while (oj == in[j].len)
			j++;
		assert_int_equal(((char *)in[j].addr)[oj], ((char *)out[i].addr)[oi]);
	}
	/* A write of all of them, and a read of it back. */
	memset(x.at, 0, x.len);
	check_ok(hf_post_write(t.b.s, out, N, x.descriptor, HF_DESCRIPTOR_SIZE, 11, NULL));
	expect(&t.b, HF_OP_WRITE, 0);
	for (size_t i = 0, at = 11; i < N; at += out[i++].len)
		assert_memory_equal(x.at + at, out[i].addr, out[i].len);
	mem_fill(&y, 3);
	mem_fill(&y2, 4);
	check_ok(hf_post_read(t.b.s, out, N, x.descriptor, HF_DESCRIPTOR_SIZE, 11, NULL));
	expect(&t.b, HF_OP_READ, 0);
	for (size_t i = 0, at = 11; i < N; at += out[i++].len)
		assert_memory_equal(x.at + at, out[i].addr, out[i].len);
	out[N] = out[0];
	check_error(hf_post_send(t.b.s, out, N + 1, NULL), -EINVAL, "17 segments");
	/* None at all is a message, too. */
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	assert_int_equal(expect(&t.a, HF_OP_RECV, 0).bytes, 0);
	expect(&t.b, HF_OP_SEND, 0);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	mem_gone(&t.b, &y2);
	pair_close(&t);
}

/* R13: what is too large is refused, at once, and nothing was moved. */
static void test_max_sizes(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, "max_message=8K,max_rdma=1G", "max_message=1M,max_rdma=16K", true);
	assert_int_equal(info_of(&t.a).max_message, 8192);
	assert_int_equal(info_of(&t.b).max_message, 8192);
	assert_int_equal(info_of(&t.a).max_rdma, 16384);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 64 * KIB, HF_READWRITE);
	seg = seg_of(&y, 0, 8193);
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -EMSGSIZE, "8193 bytes, the largest on this connection is 8192");
	check_error(hf_post_recv(t.b.s, &seg, 1, NULL), -EMSGSIZE, "8193");
	seg.len = 16385;
	check_error(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL), -EMSGSIZE, "16384");
	check_error(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL), -EMSGSIZE, "16384");
	seg.len = 16384;
	check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.b, HF_OP_WRITE, 0);
	expect_none(&t.b);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* R48: sent before a receive is there: kept. What goes the other way, and RDMA by the other side, goes on meanwhile. */
static void test_early_send_is_kept(void **state)
{
	struct hf_segment seg, half;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_expose(&t.b, 64 * KIB, HF_READWRITE);
	mem_fill(&y, 9);
	seg = seg_of(&y, 0, 32 * KIB);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 32 * KIB, NULL)); /* behind it */
	half = seg_of(&x, 0, 16 * KIB);
	check_ok(hf_post_read(t.a.s, &half, 1, y.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.a, HF_OP_READ, 0);
	assert_memory_equal(x.at, y.at, 16 * KIB);
	expect_none(&t.b);
	assert_int_equal(hf_cq_wait(t.b.cq, &(struct hf_completion){ 0 }, 1, 20), 0);
	half = seg_of(&x, 0, 32 * KIB);
	check_ok(hf_post_recv(t.a.s, &half, 1, NULL));
	assert_int_equal(expect(&t.a, HF_OP_RECV, 0).bytes, 32 * KIB);
	expect(&t.b, HF_OP_SEND, 0);
	expect(&t.b, HF_OP_WRITE, 0);
	assert_memory_equal(x.at, y.at, 32 * KIB);
	assert_memory_equal(x.at + 32 * KIB, y.at, 32 * KIB);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* A message larger than the receive: -EMSGSIZE here, and the receive takes the next one. */
static void test_message_too_large(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_reg(&t.a, 4096, HF_WRITE);
	y = mem_reg(&t.b, 8192, HF_READ);
	seg = seg_of(&x, 0, 100);
	check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
	seg = seg_of(&y, 0, 101);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	expect(&t.b, HF_OP_SEND, -EMSGSIZE);
	expect_none(&t.a);
	seg = seg_of(&y, 0, 99);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	assert_int_equal(expect(&t.a, HF_OP_RECV, 0).bytes, 99);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/*
 * Operations of one side are carried out in their order: each write of a number is seen by the read behind it, and not by the one
 * before it. Completions come in that order, too.
 */
static void test_order(void **state)
{
	enum { ROUNDS = 60 };
	struct hf_segment out, in;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 256 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, ROUNDS * 2 * 4096, HF_READWRITE);
	for (unsigned i = 0; i < ROUNDS; i++) {
		memset(y.at + i * 8192, (int)i, 4096);
		out = seg_of(&y, i * 8192, 4096);
		in = seg_of(&y, i * 8192 + 4096, 4096);
		check_ok(hf_post_write(t.b.s, &out, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, (void *)(uintptr_t)(2 * i)));
		check_ok(hf_post_read(t.b.s, &in, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, (void *)(uintptr_t)(2 * i + 1)));
	}
	for (unsigned i = 0; i < 2 * ROUNDS; i++)
		assert_ptr_equal(expect(&t.b, i & 1 ? HF_OP_READ : HF_OP_WRITE, 0).context, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < ROUNDS; i++)
		assert_memory_equal(y.at + i * 8192, y.at + i * 8192 + 4096, 4096);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/*
 * Both sides send, write and read at once, in several pieces each, all in flight: nobody waits for the other for ever, and the
 * pieces of what comes in at the same time go where they belong. All that comes is the other side's first half.
 */
static void test_both_ways(void **state)
{
	enum { EACH = 6 };
	size_t len = MIB + 300 * KIB + 17;
	struct hf_segment out, in;
	struct mem m[2];
	struct pair t;
	struct end *e[2] = { &t.a, &t.b };

	pair_open(&t, NULL, NULL, NULL, true);
	for (int i = 0; i < 2; i++) {
		m[i] = mem_expose(e[i], 2 * len, HF_READWRITE);
		mem_fill(&m[i], (uint64_t)i + 5);
	}
	for (int k = 0; k < EACH; k++)
		for (int i = 0; i < 2; i++) {
			const char *d = m[1 - i].descriptor;

			out = seg_of(&m[i], 0, len);
			in = seg_of(&m[i], len, len);
			check_ok(hf_post_read(e[i]->s, &in, 1, d, HF_DESCRIPTOR_SIZE, 0, NULL));
			check_ok(hf_post_read(e[i]->s, &in, 1, d, HF_DESCRIPTOR_SIZE, 0, NULL));
			check_ok(hf_post_send(e[i]->s, &out, 1, NULL));
			check_ok(hf_post_write(e[i]->s, &out, 1, d, HF_DESCRIPTOR_SIZE, len, NULL));
			check_ok(hf_post_recv(e[i]->s, &in, 1, NULL));
		}
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < 5 * EACH; k++)
			assert_int_equal(next_of(e[i]).status, 0);
	for (int i = 0; i < 2; i++) {
		expect_none(e[i]);
		assert_memory_equal(m[i].at + len, m[1 - i].at, len);
	}
	mem_gone(&t.a, &m[0]);
	mem_gone(&t.b, &m[1]);
	pair_close(&t);
}

/* depth: -EAGAIN beyond it, and room again when one has completed (R47). */
static void test_depth(void **state)
{
	struct hf_segment in, out;
	struct mem x, y;
	struct pair t;

	/* The other side's depth is smaller, and does not bound what is posted here. */
	pair_open(&t, NULL, "depth=2", "depth=5", true);
	x = mem_reg(&t.a, 4096, HF_WRITE);
	y = mem_reg(&t.b, 4096, HF_READ);
	in = seg_of(&x, 0, 8);
	out = seg_of(&y, 0, 8);
	for (int i = 0; i < 5; i++)
		check_ok(hf_post_send(t.b.s, &out, 1, NULL));
	check_error(hf_post_send(t.b.s, &out, 1, NULL), -EAGAIN, "5 are posted");
	check_ok(hf_post_recv(t.b.s, NULL, 0, NULL)); /* counted by itself */
	for (int i = 0; i < 2; i++)
		check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	for (int i = 0; i < 2; i++) {
		expect(&t.a, HF_OP_RECV, 0);
		expect(&t.b, HF_OP_SEND, 0);
	}
	check_ok(hf_post_send(t.b.s, &out, 1, NULL));
	for (int i = 0; i < 4; i++) {
		check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
		expect(&t.a, HF_OP_RECV, 0);
		expect(&t.b, HF_OP_SEND, 0);
	}
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* ------------------------------------------------------------------ handles */

/* R4, R6: another socket's, a made-up one, one that was given back; a range outside; a right that wasn't asked for. */
static void test_handles(void **state)
{
	struct hf_segment seg;
	struct mem x, y, all;
	struct pair t;
	uint64_t old;

	pair_open(&t, NULL, NULL, NULL, false);
	all = mem_reg(&t.b, 8192, HF_READWRITE); /* the cache has more rights than the next ones are given: known fault 3 */
	x = mem_reg(&t.a, 8192, HF_READ);
	y = all;
	check_ok(hf_mr_reg(t.b.s, y.at, 4096, HF_READ, &y.mr));
	assert_true(x.mr && y.mr && x.mr != y.mr);
	seg = seg_of(&y, 0, 8);
	seg.mr = x.mr;
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL, "is no handle of this socket");
	assert_int_equal(hf_mr_dereg(t.b.s, x.mr), -EINVAL);
	for (uint64_t bit = 1; bit; bit <<= 1) {
		assert_int_equal(hf_mr_dereg(t.b.s, y.mr ^ bit), -EINVAL);
		seg.mr = y.mr ^ bit;
		assert_int_equal(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL);
	}
	assert_int_equal(hf_mr_dereg(t.b.s, 0), -EINVAL);
	/* The handle covers what was asked for, though whole pages and more are registered. */
	seg = seg_of(&y, 4090, 7);
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL, "is not inside");
	seg = (struct hf_segment){ y.at - 1, 1, y.mr };
	assert_int_equal(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL);
	seg = (struct hf_segment){ y.at + 1, SIZE_MAX, y.mr };
	assert_int_equal(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL);
	seg = seg_of(&y, 0, 8);
	check_error(hf_post_recv(t.b.s, &seg, 1, NULL), -EACCES, "without HF_WRITE");
	check_error(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL), -EACCES, "without HF_WRITE");
	old = y.mr;
	check_ok(hf_mr_dereg(t.b.s, y.mr));
	assert_int_equal(hf_mr_dereg(t.b.s, old), -EINVAL);
	/* Its slot is used again: the old handle stays void. */
	check_ok(hf_mr_reg(t.b.s, y.at, 4096, HF_WRITE, &y.mr));
	assert_int_equal(hf_mr_dereg(t.b.s, old), -EINVAL);
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -EINVAL, "is no handle");
	seg.mr = y.mr;
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -EACCES, "without HF_READ");
	check_ok(hf_mr_dereg(t.b.s, y.mr));
	expect_none(&t.b);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &all);
	pair_close(&t);
}

/* What was asked wrongly is refused with a sentence. */
static void test_bad_arguments(void **state)
{
	char d[HF_DESCRIPTOR_SIZE] = { 0 };
	size_t length = sizeof(d);
	struct hf_sock *s;
	struct mem x;
	struct pair t;
	uint64_t mr;

	pair_open(&t, NULL, NULL, NULL, false);
	x = mem_reg(&t.a, 4096, HF_READWRITE);
	assert_int_equal(hf_mr_reg(t.a.s, x.at, 4096, 0, &mr), -EINVAL);
	assert_int_equal(hf_mr_reg(t.a.s, x.at, 4096, 4, &mr), -EINVAL);
	assert_int_equal(hf_mr_reg(t.a.s, x.at, 0, HF_READ, &mr), -EINVAL);
	assert_int_equal(hf_mr_reg(t.a.s, x.at, 4096, HF_READ, NULL), -EINVAL);
	assert_int_equal(hf_mr_reg(t.a.s, x.at - 4096, 4096, HF_READWRITE, &mr), -EACCES); /* PROT_NONE */
	assert_int_equal(hf_mr_reg(t.a.s, (void *)4096, 4096, HF_READ, &mr), -EFAULT);
	assert_int_equal(hf_mr_reg(t.listener, x.at, 4096, HF_READ, &mr), -EINVAL);
	assert_int_equal(hf_mr_reg(NULL, x.at, 4096, HF_READ, &mr), -EINVAL);
	/* R9: the length comes first, before the socket. */
	length = HF_DESCRIPTOR_SIZE - 1;
	assert_int_equal(hf_mr_expose(NULL, NULL, 0, 0, NULL, &length, NULL), -ENOSPC);
	assert_int_equal(length, HF_DESCRIPTOR_SIZE);
	assert_int_equal(hf_mr_expose(NULL, NULL, 0, 0, d, &length, NULL), -EINVAL);
	length = 1000;
	check_ok(hf_mr_expose(t.a.s, x.at, 10, HF_READ, d, &length, &mr));
	assert_int_equal(length, HF_DESCRIPTOR_SIZE);
	assert_int_equal(hf_mr_revoke(t.a.s, d, length - 1), -EINVAL);
	d[20] ^= 1;
	assert_int_equal(hf_mr_revoke(t.a.s, d, length), -EINVAL);
	d[20] ^= 1;
	assert_int_equal(hf_mr_revoke(t.b.s, d, length), -EINVAL);
	check_ok(hf_mr_revoke(t.a.s, d, length));
	assert_int_equal(hf_mr_revoke(t.a.s, d, length), -EINVAL);
	assert_int_equal(hf_mr_dereg(t.a.s, mr), -EINVAL);
	memset(d, 0, sizeof(d));
	assert_int_equal(hf_mr_revoke(t.a.s, d, length), -EINVAL);
	assert_int_equal(hf_post_write(t.a.s, NULL, 0, d, 31, 0, NULL), -EINVAL);
	assert_int_equal(hf_post_write(t.a.s, NULL, 0, NULL, 32, 0, NULL), -EINVAL);
	assert_int_equal(hf_post_write(t.a.s, NULL, 0, d, 32, UINT64_MAX, NULL), -EINVAL);
	assert_int_equal(hf_post_send(t.a.s, NULL, 1, NULL), -EINVAL);
	assert_int_equal(hf_post_send(t.listener, NULL, 0, NULL), -EINVAL);
	assert_int_equal(hf_sock_fd(t.a.s), -EINVAL);
	assert_int_equal(hf_accept(t.a.s, t.a.cq, 0, &s), -EINVAL);
	assert_int_equal(hf_accept(t.listener, NULL, 0, &s), -EINVAL);
	assert_int_equal(hf_accept(t.listener, t.a.cq, 0, NULL), -EINVAL);
	assert_int_equal(hf_accept(t.listener, t.a.cq, 0, &s), -ETIMEDOUT);
	assert_int_equal(hf_cq_close(t.a.cq), -EBUSY);
	assert_int_equal(hf_provider_close(t.a.p), -EBUSY);
	assert_int_equal(hf_cq_poll(t.a.cq, NULL, 1), -EINVAL);
	assert_int_equal(hf_cq_poll(t.a.cq, (struct hf_completion[1]){ { 0 } }, 0), -EINVAL);
	check_ok(hf_sock_close(NULL));
	check_ok(hf_cq_close(NULL));
	assert_int_equal(hf_listen(t.a.p, "nowhere", NULL, &s), -EINVAL);
	check_error(hf_listen(t.a.p, "unix:@x", "depht=3", &s), -EINVAL, "depht");
	assert_int_equal(hf_listen(t.a.p, "unix:@x", "depth=0", &s), -EINVAL);
	assert_int_equal(hf_listen(t.a.p, "unix:@x", "max_message=2G", &s), -EINVAL);
	assert_int_equal(hf_listen(t.a.p, "unix:@x", NULL, NULL), -EINVAL);
	check_error(hf_listen(t.a.p, t.address, NULL, &s), -EADDRINUSE, t.address);
	assert_int_equal(hf_connect(t.a.p, "unix:@hf-nobody-is-here", NULL, t.a.cq, 100, &s), -ECONNREFUSED);
	assert_int_equal(hf_connect(t.a.p, "unix:/hf-no/such/path", NULL, t.a.cq, 100, &s), -ENOENT);
	mem_gone(&t.a, &x);
	pair_close(&t);
}

/* R6: a handle of a pending operation is busy; the memory of one that completed is not. */
static void test_busy(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 4096, HF_READWRITE);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	seg = seg_of(&y, 0, 100);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL)); /* waits for a receive */
	check_error(hf_mr_dereg(t.b.s, y.mr), -EBUSY, "has not completed");
	seg = seg_of(&x, 0, 100);
	check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	check_ok(hf_mr_dereg(t.b.s, y.mr));
	expect(&t.a, HF_OP_RECV, 0);
	check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
	assert_int_equal(hf_mr_dereg(t.a.s, x.mr), -EBUSY);
	assert_int_equal(hf_mr_revoke(t.a.s, x.descriptor, HF_DESCRIPTOR_SIZE), -EBUSY);
	assert_int_equal(info_of(&t.a).exposures, 1); /* nothing has happened */
	mem_unmap(&y);
	pair_close(&t);
	mem_unmap(&x);
}

/* R5, R22, R24, R28, R30: any number of times; the registration stays cached and is not made again. */
static void test_stays_cached(void **state)
{
	struct hf_stats before, after;
	struct mem x, again;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, false);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	before = check_stats(t.a.p);
	for (int i = 0; i < 100; i++) {
		again = x;
		mem_expose_at(&t.a, &again, HF_READ);
		assert_memory_not_equal(again.descriptor, x.descriptor, HF_DESCRIPTOR_SIZE);
		assert_int_equal(info_of(&t.a).exposures, 2);
		check_ok(hf_mr_dereg(t.a.s, again.mr));
	}
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	assert_int_equal(info_of(&t.a).exposures, 0);
	mem_expose_at(&t.a, &x, HF_READWRITE);
	after = check_stats(t.a.p);
	assert_int_equal(after.misses, before.misses);
	assert_int_equal(after.uncached, before.uncached);
	assert_int_equal(after.pinned_bytes, before.pinned_bytes);
	assert_int_equal(after.hits, before.hits + 101);
	mem_gone(&t.a, &x);
	pair_close(&t);
}

/* ------------------------------------------------------------------ descriptors: what the peer may, and may not */

/* A write and a read of 8 bytes at `offset` by b end so. */
static void try_rdma(struct pair *t, struct mem *y, const char *d, uint64_t offset, int write, int read)
{
	struct hf_segment seg = seg_of(y, 0, 8);

	check_ok(hf_post_write(t->b.s, &seg, 1, d, HF_DESCRIPTOR_SIZE, offset, NULL));
	expect(&t->b, HF_OP_WRITE, write);
	check_ok(hf_post_read(t->b.s, &seg, 1, d, HF_DESCRIPTOR_SIZE, offset, NULL));
	expect(&t->b, HF_OP_READ, read);
}

/*
 * R10, R15, R16, R17; known faults 1 to 4: forged bit by bit, revoked, of another connection, beyond the end by one, without the
 * right, though a larger registration with all rights serves it. Each fails by itself; the connection and what else is under way go on.
 */
static void test_descriptors(void **state)
{
	struct mem x, inner, y, other;
	char forged[HF_DESCRIPTOR_SIZE];
	struct hf_sock *c, *d;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 4096, HF_READWRITE);
	memset(x.at, 'x', x.len);
	memset(y.at, 'y', y.len);
	for (int bit = 0; bit < 8 * HF_DESCRIPTOR_SIZE; bit++) {
		memcpy(forged, x.descriptor, sizeof(forged));
		forged[bit / 8] ^= (char)(1 << bit % 8);
		try_rdma(&t, &y, forged, 0, -EACCES, -EACCES);
	}
	assert_int_equal(info_of(&t.a).refused, 16 * HF_DESCRIPTOR_SIZE);
	/* No pointer in it: fault 4. */
	for (size_t i = 0; i + 8 <= HF_DESCRIPTOR_SIZE; i++) {
		uint64_t word;

		memcpy(&word, x.descriptor + i, 8);
		assert_true(word < (uintptr_t)x.at || word >= (uintptr_t)x.at + x.len);
	}
	/* Exactly these bytes and rights, whatever the registration has: fault 3. */
	inner = x;
	inner.at += 100;
	inner.len = 50;
	mem_expose_at(&t.a, &inner, HF_READ);
	try_rdma(&t, &y, inner.descriptor, 42, -EACCES, 0);
	assert_memory_equal(y.at, "xxxxxxxxyyyy", 12);
	memset(y.at, 'y', y.len);
	try_rdma(&t, &y, inner.descriptor, 43, -EACCES, -ERANGE);
	try_rdma(&t, &y, inner.descriptor, 51, -EACCES, -ERANGE);
	try_rdma(&t, &y, inner.descriptor, (uint64_t)INT64_MAX - 8, -EACCES, -ERANGE);
	check_ok(hf_mr_dereg(t.a.s, inner.mr));
	mem_expose_at(&t.a, &inner, HF_WRITE);
	try_rdma(&t, &y, inner.descriptor, 42, 0, -EACCES);
	assert_memory_equal(x.at + 140, "xxyyyyyyyyxx", 12);
	memset(x.at, 'x', x.len);
	try_rdma(&t, &y, inner.descriptor, 43, -ERANGE, -EACCES);
	check_ok(hf_mr_dereg(t.a.s, inner.mr));
	/* Revoked, and its slot used again: fault 1. */
	try_rdma(&t, &y, inner.descriptor, 0, -EACCES, -EACCES);
	mem_expose_at(&t.a, &x, HF_READWRITE);
	try_rdma(&t, &y, inner.descriptor, 0, -EACCES, -EACCES);
	/* Another connection's, of the same two processes and the same provider: fault 2. */
	check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &c));
	check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &d));
	other = x;
	mem_expose_at(&(struct end){ t.a.p, t.a.cq, d }, &other, HF_READWRITE);
	try_rdma(&t, &y, other.descriptor, 0, -EACCES, -EACCES);
	/* Nor b's own, sent back. */
	mem_expose_at(&t.b, &y, HF_READWRITE);
	try_rdma(&t, &y, y.descriptor, 0, -EACCES, -EACCES);
	/* When the connection that it was for has gone, too. */
	check_ok(hf_sock_close(d));
	check_ok(hf_sock_close(c));
	try_rdma(&t, &y, other.descriptor, 0, -EACCES, -EACCES);
	for (size_t i = 0; i < x.len; i++)
		assert_int_equal(x.at[i], 'x');
	for (size_t i = 0; i < y.len; i++)
		assert_int_equal(y.at[i], 'y');
	/* And all is well. */
	try_rdma(&t, &y, x.descriptor, 64 * KIB - 8, 0, 0);
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* One that fails in the middle of many doesn't disturb those before and behind it. */
static void test_bad_among_good(void **state)
{
	char forged[HF_DESCRIPTOR_SIZE];
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 2 * MIB, HF_READWRITE);
	y = mem_reg(&t.b, 2 * MIB, HF_READWRITE);
	memcpy(forged, x.descriptor, sizeof(forged));
	forged[31] ^= 1;
	mem_fill(&y, 77);
	seg = seg_of(&y, 0, y.len);
	for (int i = 0; i < 9; i++)
		check_ok(hf_post_write(t.b.s, &seg, 1, i % 3 == 1 ? forged : x.descriptor, HF_DESCRIPTOR_SIZE, i % 3 == 2, NULL));
	for (int i = 0; i < 9; i++)
		expect(&t.b, HF_OP_WRITE, i % 3 == 1 ? -EACCES : i % 3 == 2 ? -ERANGE : 0);
	assert_memory_equal(x.at, y.at, x.len);
	assert_int_equal(info_of(&t.a).refused, 6);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* ------------------------------------------------------------------ revoking under way */

/*
 * The key promise (R28): when hf_mr_dereg() has returned, nothing of the peer's changes the memory any more. A write of many
 * megabytes is under way, the memory is taken back in its midst and filled where the next byte would go; it must stay as it
 * was filled, and the rest as it was, until the write has ended and beyond.
 */
#define BIG (64 * MIB)
#define CUTS 60    /* that many times in its midst */
#define ROUNDS_MAX 400

/* As large as the limit of locked memory allows. */
static size_t big_size(struct pair *t)
{
	size_t len = CHECK_TSAN ? 4 * MIB : CHECK_ASAN ? 16 * MIB : BIG;

	for (; len > 2 * MIB; len /= 2) {
		char *p = check_map(len);
		uint64_t a, b;
		int rc = hf_mr_reg(t->a.s, p, len, HF_READWRITE, &a);

		if (!rc) {
			rc = hf_mr_reg(t->b.s, p, len, HF_READWRITE, &b);
			check_ok(hf_mr_dereg(t->a.s, a));
			if (!rc)
				check_ok(hf_mr_dereg(t->b.s, b));
		}
		hf_flush(t->a.p);
		hf_flush(t->b.p);
		check_unmap(p, len);
		if (!rc)
			break;
	}
	return len;
}

static bool all_are(const char *p, size_t len, char c)
{
	return !len || (p[0] == c && !memcmp(p, p + 1, len - 1));
}

/* Mostly early, so that a round is short. */
static size_t somewhere(uint64_t *seed, unsigned i, size_t len)
{
	return check_random(seed) % (i % 16 ? len / 8 : len);
}

/* Wait until byte `at` has become `c`, or the operation is over. */
static bool has_come(struct end *e, const volatile char *at, char c, struct hf_completion *over)
{
	for (;;) {
		if (*at == c)
			return true;
		if (hf_cq_poll(e->cq, over, 1) == 1)
			return false;
	}
}

/* R28 */
/* Of bytes of which the first ones are c: how many. */
static size_t up_to(const volatile char *p, size_t len, char c)
{
	size_t lo = 0, hi = len;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p[mid] == c)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* R28: when the deregistration has returned, no byte of the memory changes any more. */
static void test_revoke_while_writing(void **state)
{
	struct hf_completion c;
	struct hf_segment seg;
	uint64_t seed = 5;
	unsigned cuts = 0;
	struct mem x, y;
	struct pair t;
	size_t len;

	pair_open(&t, NULL, NULL, NULL, true);
	len = big_size(&t);
	x = mem_reg(&t.a, len, HF_READWRITE);
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	y = mem_reg(&t.b, len, HF_READ);
	memset(y.at, 'w', len);
	seg = seg_of(&y, 0, len);
	memset(x.at, 'o', len);
	for (unsigned i = 0; !cuts || (i < ROUNDS_MAX && cuts < CUTS); i++) {
		size_t end, near;
		bool midst;

		mem_expose_at(&t.a, &x, HF_READWRITE);
		check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
		midst = has_come(&t.b, x.at + somewhere(&seed, i, len), 'w', &c);
		check_ok(hf_mr_dereg(t.a.s, x.mr));
		/* At once, there where the next byte would go. */
		end = up_to(x.at, len, 'w');
		near = len - end < MIB ? len - end : MIB;
		memset(x.at + end, 's', near);
		if (midst)
			c = next_of(&t.b);
		assert_true(all_are(x.at, end, 'w') && all_are(x.at + end, near, 's'));
		assert_true(all_are(x.at + end + near, len - end - near, 'o'));
		assert_int_equal(c.op, HF_OP_WRITE);
		assert_true(c.status == 0 || c.status == -EACCES);
		cuts += c.status == -EACCES;
		memset(x.at, 'o', end + near);
	}
	/* What is written next goes where it should: the rest of a piece was thrown away, and no byte more. */
	mem_expose_at(&t.a, &x, HF_WRITE);
	check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.b, HF_OP_WRITE, 0);
	assert_true(all_are(x.at, len, 'w'));
	print_message("%zu MiB, %u cut off\n", len / MIB, cuts);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* The same for a read: what is put there after the return never reaches the peer. */
static void test_revoke_while_reading(void **state)
{
	struct hf_completion c;
	struct hf_segment seg;
	uint64_t seed = 5;
	unsigned cuts = 0;
	struct mem x, y;
	struct pair t;
	size_t len;

	pair_open(&t, NULL, NULL, NULL, true);
	len = big_size(&t);
	x = mem_reg(&t.a, len, HF_READ);
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	y = mem_reg(&t.b, len, HF_WRITE);
	seg = seg_of(&y, 0, len);
	memset(x.at, 'o', len);
	memset(y.at, 'u', len);
	for (unsigned i = 0; !cuts || (i < ROUNDS_MAX && cuts < CUTS); i++) {
		size_t end, near;
		bool midst;

		mem_expose_at(&t.a, &x, HF_READ);
		check_ok(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
		midst = has_come(&t.b, y.at + somewhere(&seed, i, len), 'o', &c);
		check_ok(hf_mr_dereg(t.a.s, x.mr));
		end = up_to(y.at, len, 'o'); /* the next bytes are from there, and from what is on its way */
		near = len - end < 2 * MIB ? len - end : 2 * MIB;
		memset(x.at + end, 's', near);
		if (midst)
			c = next_of(&t.b);
		assert_int_equal(c.op, HF_OP_READ);
		assert_true(c.status == 0 || c.status == -EACCES);
		cuts += c.status == -EACCES;
		/* Of a read that failed: what was there before, or zeros for what was announced already; never what is there now. */
		assert_true(c.status ? !memchr(y.at, 's', len) : all_are(y.at, len, 'o'));
		memset(x.at + end, 'o', near);
		memset(y.at, 'u', c.status ? end + near : len);
	}
	memset(x.at, 's', len);
	mem_expose_at(&t.a, &x, HF_READ);
	check_ok(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.b, HF_OP_READ, 0);
	assert_true(all_are(y.at, len, 's'));
	print_message("%zu MiB, %u cut off\n", len / MIB, cuts);
	mem_gone(&t.a, &x);
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* ------------------------------------------------------------------ memory that was changed */

/* The program says itself that it changed: every use of the handle and of the descriptor from then on is -ESTALE. */
static void test_stale(void **state)
{
	struct hf_segment seg, in;
	struct mem x, y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 64 * KIB, HF_READWRITE);
	seg = seg_of(&y, 0, 8);
	in = seg_of(&x, 0, 8);
	check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	hf_invalidate(t.sw, x.at + 32 * KIB, 1); /* any part (R33) */
	check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.b, HF_OP_WRITE, -ESTALE);
	check_ok(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
	expect(&t.b, HF_OP_READ, -ESTALE);
	/* The receive was posted before; the message goes to nowhere, and both are told. */
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	expect(&t.b, HF_OP_SEND, -ESTALE);
	assert_int_equal(expect(&t.a, HF_OP_RECV, -ESTALE).bytes, 0);
	check_error(hf_post_recv(t.a.s, &in, 1, NULL), -ESTALE, "register it anew");
	assert_true(all_are(x.at, x.len, 1));
	check_ok(hf_mr_dereg(t.a.s, x.mr));
	mem_expose_at(&t.a, &x, HF_READWRITE);
	try_rdma(&t, &y, x.descriptor, 0, 0, 0);
	/* On the own side: what waits when it changes, and what is posted after. */
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	hf_invalidate(t.sw, y.at, 1);
	check_error(hf_post_send(t.b.s, &seg, 1, NULL), -ESTALE, "was changed");
	in.mr = x.mr;
	check_ok(hf_post_recv(t.a.s, &in, 1, NULL));
	expect(&t.b, HF_OP_SEND, -ESTALE);
	expect_none(&t.a); /* nothing was sent */
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* Freed while it is exposed, and the address used again: -ESTALE, and never a byte of the new mapping. */
static void test_unmapped_while_exposed(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	if (!check_uffd())
		skip();
	pair_open(&t, "proxy=uffd", NULL, NULL, true);
	y = mem_reg(&t.b, 64 * KIB, HF_READWRITE);
	seg = seg_of(&y, 0, 64 * KIB);
	for (int i = 0; i < 50; i++) {
		x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
		memset(x.at, 'o', x.len);
		memset(y.at, 'y', y.len);
		assert_ptr_equal(mmap(x.at, x.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), x.at);
		memset(x.at, 's', x.len);
		check_ok(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
		check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
		expect(&t.b, HF_OP_READ, -ESTALE);
		expect(&t.b, HF_OP_WRITE, -ESTALE);
		assert_true(all_are(x.at, x.len, 's'));
		assert_true(all_are(y.at, y.len, 'y'));
		mem_gone(&t.a, &x);
	}
	mem_gone(&t.b, &y);
	pair_close(&t);
}

/* A proxy that can watch from the n-th time on that it is asked. */
static _Atomic int not_yet;

static int secure_later(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	if (atomic_fetch_sub(&not_yet, 1) > 0)
		return hf_set_error(HF_WATCH_LATER, "not now");
	return hf_proxy_find("manual")->secure(proxy, start, end, access, id);
}

/* Memory that can't be watched just now is, a moment later: it must not pass for memory that never can be. */
static void test_watched_later(void **state)
{
	struct hf_proxy_ops ops = *hf_proxy_find("manual");
	struct pair t;
	struct mem x, y;

	ops.secure = secure_later;
	for (int i = 0; i < 2; i++) {
		atomic_store(&not_yet, 0);
		pair_open_over(&t, &ops, NULL, NULL, NULL, true);
		y = mem_reg(&t.b, 4096, HF_READWRITE);
		atomic_store(&not_yet, i ? INT_MAX : 5);
		x = mem_expose(&t.a, 4096, HF_READWRITE);
		try_rdma(&t, &y, x.descriptor, 0, 0, 0);
		hf_invalidate(t.sw, x.at, 4096);
		/* If never, it is as memory that no proxy can watch. */
		try_rdma(&t, &y, x.descriptor, 0, i ? 0 : -ESTALE, i ? 0 : -ESTALE);
		mem_gone(&t.a, &x);
		mem_gone(&t.b, &y);
		pair_close(&t);
	}
}

/* No proxy at all: registered for the time that the handle lives, and let go with it. */
static void test_without_a_proxy(void **state)
{
	struct pair t;

	pair_open(&t, "proxy=none", NULL, NULL, true);
	move_once(&t, HF_OP_SEND, 5000, 1, 2);
	move_once(&t, HF_OP_WRITE, 5000, 1, 2);
	move_once(&t, HF_OP_READ, 5000, 1, 2);
	check_pinned(t.a.p, 0);
	check_pinned(t.b.p, 0);
	pair_close(&t);
}

/* ------------------------------------------------------------------ the end */

/* Everything that is pending completes once: -ECANCELED here (R45), -ESHUTDOWN there; then posts are refused. */
static void test_close_with_all_pending(void **state)
{
	enum { EACH = 20 };
	unsigned seen[4 * EACH] = { 0 };
	struct hf_completion c;
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;
	int n = 0;

	pair_open(&t, NULL, NULL, NULL, true);
	x = mem_expose(&t.a, 64 * KIB, HF_READWRITE);
	y = mem_reg(&t.b, 64 * KIB, HF_READWRITE);
	for (uintptr_t i = 0; i < EACH; i++) {
		seg = seg_of(&y, 0, 64 * KIB);
		check_ok(hf_post_send(t.b.s, &seg, 1, (void *)(4 * i))); /* nobody receives */
		check_ok(hf_post_recv(t.b.s, &seg, 1, (void *)(4 * i + 1)));
		check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, (void *)(4 * i + 2)));
		check_ok(hf_post_read(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, (void *)(4 * i + 3)));
	}
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL)); /* too small for what waits */
	seg = seg_of(&x, 0, 64 * KIB);
	for (int i = 0; i < EACH; i++)
		check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
	end_close(&t.b);
	for (int i = 0; i < 4 * EACH; i++) {
		assert_int_equal(hf_cq_poll(t.b.cq, &c, 1), 1); /* all of them are there */
		assert_int_equal(seen[(uintptr_t)c.context]++, 0);
		n += c.status == -ECANCELED;
		assert_true(c.status == -ECANCELED || !c.status || c.status == -EMSGSIZE);
	}
	assert_true(n >= EACH); /* the receives at least */
	expect_none(&t.b);
	for (n = 0; n < EACH + 1; n++) {
		c = next_of(&t.a);
		assert_true(!c.status || c.status == -ESHUTDOWN || c.status == -ECONNRESET);
	}
	expect_none(&t.a);
	assert_int_equal(info_of(&t.a).connected, 0);
	assert_int_equal(info_of(&t.a).exposures, 0); /* void at once (R16) */
	assert_int_equal(hf_post_send(t.a.s, NULL, 0, NULL), info_of(&t.a).error);
	assert_int_equal(hf_mr_reg(t.a.s, x.at, 4096, HF_READ, &x.mr), -ENOTCONN);
	check_ok(hf_mr_revoke(t.a.s, x.descriptor, HF_DESCRIPTOR_SIZE)); /* it can still be given back */
	pair_close(&t);
	mem_unmap(&x);
	mem_unmap(&y);
}

/* R45, R27, R44: when the memory of what is pending has been let go, nothing has completed yet. */
static struct end *closing;
static uint64_t pinned_then;
static int completed_then;

static void look_at_close(const char *step)
{
	struct hf_completion c;
	struct hf_stats s;

	if (strcmp(step, "let go"))
		return;
	completed_then = hf_cq_poll(closing->cq, &c, 1);
	hf_flush(closing->p);
	pinned_then = hf_provider_stats(closing->p, &s, sizeof(s)) ? 1 : s.pinned_bytes;
}

static void test_memory_first(void **state)
{
	struct hf_segment seg;
	struct mem y;
	struct pair t;

	pair_open(&t, "proxy=manual", NULL, NULL, true);
	y = mem_expose(&t.b, 64 * KIB, HF_READWRITE);
	seg = seg_of(&y, 0, 64 * KIB);
	check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
	check_ok(hf_post_recv(t.b.s, &seg, 1, NULL));
	assert_int_equal(check_stats(t.b.p).pinned_bytes, 64 * KIB);
	closing = &t.b;
	completed_then = -1;
	atomic_store(&san_step, look_at_close);
	end_close(&t.b);
	atomic_store(&san_step, NULL);
	assert_int_equal(completed_then, 0);
	assert_int_equal(pinned_then, 0);
	expect(&t.b, HF_OP_SEND, -ECANCELED);
	expect(&t.b, HF_OP_RECV, -ECANCELED);
	pair_close(&t);
	mem_unmap(&y);
}

/* R16: when the close has returned, what the peer writes doesn't come any more. */
static void test_close_while_written(void **state)
{
	size_t len = 2 * MIB;
	struct hf_completion c;
	struct hf_segment seg;
	struct mem x, y;
	unsigned cut = 0;
	struct pair t;

	/* On until one was cut off: the engine may have its turn first, and be done. */
	for (int i = 0; i < 20 / (int)check_scale() || !cut; i++) {
		pair_open(&t, "proxy=manual", NULL, NULL, true);
		x = mem_expose(&t.a, len, HF_READWRITE);
		y = mem_reg(&t.b, len, HF_READ);
		memset(y.at, 'w', len);
		seg = seg_of(&y, 0, len);
		for (int k = 0; k < 8; k++)
			check_ok(hf_post_write(t.b.s, &seg, 1, x.descriptor, HF_DESCRIPTOR_SIZE, 0, NULL));
		while (x.at[100 * KIB * (size_t)(i % 20) + 77] != 'w')
			__asm__ volatile("" ::: "memory");
		end_close(&t.a);
		memset(x.at, 's', len);
		for (int k = 0; k < 8; k++) {
			c = next_of(&t.b);
			assert_true(!c.status || c.status == -ESHUTDOWN || c.status == -ECONNRESET);
			cut += c.status != 0;
		}
		assert_true(all_are(x.at, len, 's'));
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
}

/* An orderly end at rest is -ESHUTDOWN; what was done before it completes well; completions outlive the socket. */
static void test_peer_closes(void **state)
{
	struct hf_segment seg;
	struct mem x, y;
	struct pair t;

	for (int i = 0; i < 20; i++) {
		pair_open(&t, NULL, NULL, NULL, true);
		x = mem_reg(&t.a, 4096, HF_READWRITE);
		y = mem_reg(&t.b, 4096, HF_READWRITE);
		seg = seg_of(&x, 0, 4096);
		check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
		check_ok(hf_post_recv(t.a.s, &seg, 1, NULL));
		seg = seg_of(&y, 0, 4096);
		check_ok(hf_post_recv(t.b.s, NULL, 0, NULL));
		check_ok(hf_post_send(t.b.s, &seg, 1, NULL));
		expect(&t.a, HF_OP_RECV, 0);
		end_close(&t.a); /* at once: that it has received is told all the same */
		expect(&t.a, HF_OP_RECV, -ECANCELED);
		expect(&t.b, HF_OP_SEND, 0);
		expect(&t.b, HF_OP_RECV, -ESHUTDOWN);
		assert_int_equal(info_of(&t.b).error, -ESHUTDOWN);
		check_error(hf_post_send(t.b.s, &seg, 1, NULL), -ESHUTDOWN, "has ended");
		pair_close(&t);
		mem_unmap(&x);
		mem_unmap(&y);
	}
}

/* Opened and closed many times: nothing is left behind. */
static void test_nothing_is_left(void **state)
{
	unsigned fds = 0;
	struct pair t;

	for (int i = 0; i < (check_scale() > 1 ? 5 : 10); i++) {
		pair_open(&t, NULL, NULL, NULL, i & 1);
		move_once(&t, HF_OP_WRITE, 100, 0, 0);
		if (i == 0)
			fds = count_fds();
		if (i == 2)
			assert_int_equal(count_fds(), fds);
		for (int k = 0; k < 5; k++) {
			end_close(&t.a);
			end_close(&t.b);
			check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &t.b.s));
			check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &t.a.s));
		}
		if (i == 4)
			assert_int_equal(count_fds(), fds);
		pair_close(&t);
	}
	fds = count_fds();
	pair_open(&t, NULL, NULL, NULL, true);
	pair_close(&t);
	assert_int_equal(count_fds(), fds);
}

/* ------------------------------------------------------------------ the queue */

static bool is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void test_queue(void **state)
{
	struct hf_completion c[8];
	struct pollfd p;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	assert_int_equal(hf_cq_wait(t.a.cq, c, 8, 0), 0);
	assert_int_equal(hf_cq_wait(t.a.cq, c, 8, 10), 0);
	for (int i = 0; i < 3; i++)
		check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	p = (struct pollfd){ .fd = hf_cq_fd(t.a.cq), .events = POLLIN }; /* asked for after it has come */
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(hf_cq_poll(t.a.cq, c, 8), 1);
	assert_int_equal(hf_cq_poll(t.a.cq, c, 8), 0);
	assert_false(is_readable(p.fd));
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	check_ok(hf_post_send(t.b.s, NULL, 0, NULL));
	expect(&t.b, HF_OP_SEND, 0);
	expect(&t.b, HF_OP_SEND, 0);
	assert_int_equal(hf_cq_wait(t.a.cq, c, 1, -1), 1);
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1); /* one more; by a queue pair the sender may be told first */
	assert_int_equal(hf_cq_wait(t.a.cq, c, 1, -1), 1);
	assert_string_equal(hf_completion_text(&c[0]), "completed");
	hf_cq_poll(t.a.cq, c, 1);
	assert_false(is_readable(p.fd));
	/* Not taken: dropped with the queue. */
	check_ok(hf_post_recv(t.a.s, NULL, 0, NULL));
	pair_close(&t);
}

struct taker {
	struct hf_cq *cq;
	_Atomic unsigned *taken;
	unsigned all;
};

static void *take(void *arg)
{
	struct taker *k = arg;
	struct hf_completion c[3];

	while (atomic_load(k->taken) < k->all) {
		int n = hf_cq_wait(k->cq, c, 3, 5);

		if (n > 0)
			atomic_fetch_add(k->taken, (unsigned)n);
	}
	return NULL;
}

/* Several threads post on one socket and take from one queue: each completion is taken once. */
static void *post_many(void *arg)
{
	struct hf_sock *s = arg;

	for (int i = 0; i < 300; i++)
		while (hf_post_send(s, NULL, 0, NULL) == -EAGAIN)
			usleep(100);
	return NULL;
}

static void *receive_many(void *arg)
{
	struct hf_sock *s = arg;

	for (int i = 0; i < 600; i++)
		while (hf_post_recv(s, NULL, 0, NULL) == -EAGAIN)
			usleep(100);
	return NULL;
}

static void test_threads(void **state)
{
	_Atomic unsigned taken[2] = { 0, 0 };
	struct taker k[2];
	pthread_t id[7];
	struct pair t;

	pair_open(&t, NULL, NULL, "depth=16", true);
	k[0] = (struct taker){ t.a.cq, &taken[0], 600 };
	k[1] = (struct taker){ t.b.cq, &taken[1], 600 };
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&id[i], NULL, take, &k[i & 1]), 0);
	for (int i = 4; i < 6; i++)
		assert_int_equal(pthread_create(&id[i], NULL, post_many, t.b.s), 0);
	assert_int_equal(pthread_create(&id[6], NULL, receive_many, t.a.s), 0);
	for (int i = 0; i < 7; i++)
		pthread_join(id[i], NULL);
	assert_int_equal(taken[0], 600);
	assert_int_equal(taken[1], 600);
	expect_none(&t.a);
	expect_none(&t.b);
	pair_close(&t);
}

/* ------------------------------------------------------------------ who is there */

static void write_secret(char *path, size_t size, const char *text)
{
	int fd;

	snprintf(path, size, "/tmp/hf-test-secret-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/* Right; another one; none on one side, and on the other; and every address but a near one needs one. */
static void test_secret(void **state)
{
	char right[64], wrong[64], with_right[96], with_wrong[96];
	struct hf_sock *l, *c, *d, *none;
	struct hf_sock_info i;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	write_secret(right, sizeof(right), "sixteen bytes or more");
	write_secret(wrong, sizeof(wrong), "sixteen bytes or mora");
	snprintf(with_right, sizeof(with_right), "secret_file=%s", right);
	snprintf(with_wrong, sizeof(with_wrong), "secret_file=%s,depth=3", wrong);
	check_ok(hf_listen(t.a.p, "tcp:127.0.0.1:0", with_right, &l));
	check_ok(hf_sock_info(l, &i, sizeof(i)));
	check_error(hf_connect(t.b.p, i.local, with_wrong, t.b.cq, PATIENCE_MS, &c), -EACCES, "secret_file");
	check_error(hf_connect(t.b.p, i.local, NULL, t.b.cq, PATIENCE_MS, &c), -EACCES, "secret_file");
	check_ok(hf_connect(t.b.p, i.local, with_right, t.b.cq, PATIENCE_MS, &c));
	check_ok(hf_accept(l, t.a.cq, PATIENCE_MS, &d));
	assert_int_equal(hf_accept(l, t.a.cq, 0, &none), -ETIMEDOUT); /* the others never come this far */
	check_ok(hf_sock_close(d));
	check_ok(hf_sock_close(c));
	check_ok(hf_sock_close(l));
	check_error(hf_connect(t.b.p, t.address, with_right, t.b.cq, PATIENCE_MS, &c), -EACCES, "secret_file");
	check_error(hf_listen(t.a.p, "tcp:0.0.0.0:0", NULL, &l), -EACCES, "secret_file=PATH");
	check_error(hf_connect(t.b.p, "tcp:192.0.2.1:9", NULL, t.b.cq, 100, &c), -EACCES, "secret_file=PATH");
	check_ok(hf_listen(t.a.p, "tcp:0.0.0.0:0", with_right, &l));
	check_ok(hf_sock_close(l));
	assert_int_equal(hf_listen(t.a.p, "unix:@x", "secret_file=/nowhere/at/all", &l), -ENOENT);
	unlink(right);
	unlink(wrong);
	pair_close(&t);
}

/* Without the library: its threads can't be started under TSan in a child of a process that has some. */
static int meet_as_nobody(void *arg)
{
	struct wire_hello h = { .version_min = 1, .version_max = 1, .depth = 1 };
	struct wire_proof proof = { 0 };
	uint8_t text[WIRE_HELLO_SIZE];
	struct san_address a;
	int fd;

	CHILD_CHECK(setgid(65534) == 0 && setuid(65534) == 0);
	CHILD_CHECK(san_address_parse(arg, &a) == 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHILD_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a.sa, a.len) == 0);
	wire_put_hello(text, &h);
	CHILD_CHECK(send(fd, text, WIRE_HELLO_SIZE, 0) == WIRE_HELLO_SIZE);
	CHILD_CHECK(recv(fd, text, WIRE_HELLO_SIZE, MSG_WAITALL) == WIRE_HELLO_SIZE);
	wire_put_proof(text, &proof);
	CHILD_CHECK(send(fd, text, WIRE_PROOF_SIZE, 0) == WIRE_PROOF_SIZE);
	CHILD_CHECK(recv(fd, text, WIRE_PROOF_SIZE, MSG_WAITALL) == WIRE_PROOF_SIZE);
	CHILD_CHECK(wire_get_proof(text, &proof) == 0);
	return proof.status == -EACCES ? 13 : proof.status != 0;
}

/* The same user or root, unless any_uid=on. */
static void test_uid(void **state)
{
	struct hf_sock_info i;
	struct hf_sock *s;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	assert_int_equal(info_of(&t.a).peer_uid, geteuid());
	assert_int_equal(info_of(&t.a).peer_pid, getpid());
	if (geteuid()) {
		pair_close(&t);
		skip();
	}
	assert_int_equal(check_child(meet_as_nobody, t.address), 13);
	assert_int_equal(hf_accept(t.listener, t.a.cq, 0, &s), -ETIMEDOUT);
	check_ok(hf_sock_close(t.listener));
	check_ok(hf_listen(t.a.p, t.address, "any_uid=on", &t.listener));
	assert_int_equal(check_child(meet_as_nobody, t.address), 0);
	check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &s));
	assert_int_equal(hf_sock_info(s, &i, sizeof(i)), 0);
	assert_int_equal(i.peer_uid, 65534);
	check_ok(hf_sock_close(s));
	pair_close(&t);
}

/* Who says nothing, or garbage, or half of it, hinders nobody; there are many of them. */
static void test_bad_clients(void **state)
{
	struct wire_hello h = { .version_min = 7, .version_max = 9, .depth = 1 };
	uint8_t text[4096], hello[WIRE_HELLO_SIZE];
	int fd[200], rc = -1;
	uint64_t seed = 3;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, true);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)check_random(&seed);
	atomic_store(&san_handshake_ms, 500);
	for (int i = 0; i < 200; i++) {
		fd[i] = raw_connect(t.address);
		if (i % 4 == 1)
			send(fd[i], text, sizeof(text), MSG_NOSIGNAL);
		if (i % 4 == 2)
			send(fd[i], "HFSh", 4, MSG_NOSIGNAL);
		if (i % 4 == 3)
			shutdown(fd[i], SHUT_WR);
	}
	end_close(&t.a);
	end_close(&t.b);
	/* Half a second may be over before this one has had its turn, too: then it tries again. */
	for (int i = 0; i < 1000 && rc < 0; i++)
		rc = hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &t.b.s);
	check_ok(rc);
	check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &t.a.s));
	move_once(&t, HF_OP_WRITE, 1000, 0, 0);
	/* All are dropped by and by: the silent ones when their time is over. */
	for (int i = 0; i < 200; i++) {
		raw_recv(fd[i], text, sizeof(text));
		close(fd[i]);
	}
	atomic_store(&san_handshake_ms, PATIENCE_MS);
	/* One of another version is told which is spoken. */
	fd[0] = raw_connect(t.address);
	wire_put_hello(hello, &h);
	raw_send(fd[0], hello, sizeof(hello));
	assert_int_equal(raw_recv(fd[0], hello, sizeof(hello)), sizeof(hello));
	assert_int_equal(wire_get_hello(hello, &h), 0);
	assert_int_equal(raw_recv(fd[0], hello, sizeof(hello)), 0);
	close(fd[0]);
	expect_none(&t.a);
	pair_close(&t);
}

static void *play_server(void *arg)
{
	int fd = accept(*(int *)arg, NULL, NULL);
	char text[64];

	if (fd >= 0) {
		while (recv(fd, text, sizeof(text), 0) > 0)
			send(fd, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n and some more bytes here", 64, MSG_NOSIGNAL);
		close(fd);
	}
	return NULL;
}

/* To connect to somebody who speaks something else is -EPROTO, to one who says nothing -ETIMEDOUT. */
static void test_bad_server(void **state)
{
	struct san_address a;
	char name[64];
	pthread_t id;
	struct hf_sock *s;
	struct pair t;
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	san_name(name, sizeof(name));
	check_ok(san_address_parse(name, &a));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a.sa, a.len), 0);
	assert_int_equal(listen(fd, 1), 0);
	check_error(hf_connect(t.b.p, name, NULL, t.b.cq, 50, &s), -ETIMEDOUT, name);
	close(accept(fd, NULL, NULL));
	assert_int_equal(pthread_create(&id, NULL, play_server, &fd), 0);
	check_error(hf_connect(t.b.p, name, NULL, t.b.cq, PATIENCE_MS, &s), -EPROTO, "no holdfast peer");
	pthread_join(id, NULL);
	close(fd);
	pair_close(&t);
}

/* ------------------------------------------------------------------ a peer that breaks the rules */

/* What it sends after a proper handshake; the connection ends with `want`, and only that one. */
static void try_frames(struct pair *t, const void *bytes, size_t size, int want)
{
	struct end c = { t->a.p, t->a.cq, NULL };
	struct wire_hello peer;
	struct mem x;
	int fd = raw_meet(t->address, &peer);
	char rest[4096];

	check_ok(hf_accept(t->listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_reg(&c, 4096, HF_READWRITE);
	check_ok(hf_post_recv(c.s, &(struct hf_segment){ x.at, 100, x.mr }, 1, NULL));
	send(fd, bytes, size, MSG_NOSIGNAL);
	if (want == -ECONNRESET)
		shutdown(fd, SHUT_WR);
	expect(&c, HF_OP_RECV, want);
	assert_int_equal(info_of(&c).error, want);
	assert_true(all_are(x.at, x.len, 1));
	while (raw_recv(fd, rest, sizeof(rest)) == sizeof(rest))
		;
	close(fd);
	check_ok(hf_sock_close(c.s));
	mem_unmap(&x);
}

static void try_frame(struct pair *t, struct wire_frame f)
{
	uint8_t text[WIRE_FRAME_SIZE];

	wire_put_frame(text, &f);
	try_frames(t, text, sizeof(text), -EPROTO);
}

static void test_broken_frames(void **state)
{
	uint8_t text[5 * WIRE_FRAME_SIZE + 64] = { 0 };
	uint64_t seed = 11;
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	for (int i = 0; i < 5; i++) { /* garbage */
		for (size_t k = 0; k < sizeof(text); k++)
			text[k] = (uint8_t)check_random(&seed);
		try_frames(&t, text, sizeof(text), -EPROTO);
	}
	wire_put_frame(text, &(struct wire_frame){ .type = WIRE_BYE });
	try_frames(&t, text, WIRE_FRAME_SIZE, -ESHUTDOWN);
	for (size_t n = 1; n < WIRE_FRAME_SIZE; n += 13)
		try_frames(&t, text, n, -ECONNRESET); /* cut off */
	text[6] ^= 1; /* one bit */
	try_frames(&t, text, WIRE_FRAME_SIZE, -EPROTO);
	/* A message cut off in its payload: its bytes may be there, the receive has failed. */
	try_frame(&t, (struct wire_frame){ .type = WIRE_DONE, .op = 0 }); /* of nothing */
	try_frame(&t, (struct wire_frame){ .type = WIRE_DATA, .op = 0, .length = 8, .total = 8, .flags = WIRE_LAST });
	try_frame(&t, (struct wire_frame){ .type = WIRE_CREDIT, .op = 1, .total = 8 }); /* not the first */
	try_frame(&t, (struct wire_frame){ .type = WIRE_MESSAGE, .op = 1, .length = 8, .total = 8, .flags = WIRE_LAST });
	try_frame(&t, (struct wire_frame){ .type = WIRE_MESSAGE, .length = 8, .offset = 8, .total = 16, .flags = WIRE_LAST });
	try_frame(&t, (struct wire_frame){ .type = WIRE_MESSAGE, .length = 101, .total = 101, .flags = WIRE_LAST });
	try_frame(&t, (struct wire_frame){ .type = WIRE_WRITE, .op = 1, .length = 8, .total = 8, .flags = WIRE_LAST });
	try_frame(&t, (struct wire_frame){ .type = WIRE_WRITE, .length = 8, .total = (1 << 20) + 1 });
	try_frame(&t, (struct wire_frame){ .type = WIRE_READ, .op = 1, .total = 8 });
	try_frame(&t, (struct wire_frame){ .type = WIRE_READ, .total = (1 << 20) + 1 });
	/* More credits than its depth, 4; credits are not bound to posted receives of ours. */
	for (uint32_t i = 0; i < 5; i++)
		wire_put_frame(text + i * WIRE_FRAME_SIZE, &(struct wire_frame){ .type = WIRE_CREDIT, .op = i, .total = 8 });
	try_frames(&t, text, 5 * WIRE_FRAME_SIZE, -EPROTO);
	/* A second piece that doesn't fit the first one. */
	wire_put_frame(text, &(struct wire_frame){ .type = WIRE_WRITE, .length = 8, .total = 16 });
	memset(text + WIRE_FRAME_SIZE, 0, 8);
	wire_put_frame(text + WIRE_FRAME_SIZE + 8, &(struct wire_frame){ .type = WIRE_WRITE, .op = 0, .offset = 7, .length = 8,
									 .total = 8, .flags = WIRE_LAST });
	try_frames(&t, text, 2 * WIRE_FRAME_SIZE + 8, -EPROTO);
	wire_put_frame(text + WIRE_FRAME_SIZE + 8, &(struct wire_frame){ .type = WIRE_READ, .op = 1, .total = 8 });
	try_frames(&t, text, 2 * WIRE_FRAME_SIZE + 8, -EPROTO);
	/* The connection beside all these is as it was. */
	move_once(&t, HF_OP_SEND, 1000, 0, 0);
	pair_close(&t);
}

/* It may not make us queue without bound: of READs as many as the depth, then -EPROTO. It never takes an answer. */
static void test_flood_of_reads(void **state)
{
	struct end c;
	struct wire_hello peer;
	struct pair t;
	struct mem x;
	int fd, i;

	pair_open(&t, NULL, NULL, NULL, false);
	fd = raw_meet(t.address, &peer);
	assert_int_equal(peer.depth, 256);
	c = (struct end){ t.a.p, t.a.cq, NULL };
	check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_expose(&c, MIB, HF_READ);
	check_ok(hf_post_recv(c.s, NULL, 0, NULL));
	for (i = 0; i < 20; i++) {
		struct wire_frame f = { .type = WIRE_READ, .op = (uint32_t)i, .total = MIB };
		uint8_t text[WIRE_FRAME_SIZE];

		memcpy(f.descriptor, x.descriptor, sizeof(f.descriptor));
		wire_put_frame(text, &f);
		if (send(fd, text, sizeof(text), MSG_NOSIGNAL) < 0)
			break;
	}
	expect(&c, HF_OP_RECV, -EPROTO);
	close(fd);
	check_ok(hf_sock_close(c.s));
	move_once(&t, HF_OP_SEND, 1000, 0, 0);
	pair_close(&t);
	mem_unmap(&x);
}

/*
 * A read of 16 bytes and two sends are posted here; the peer answers with these frames, each followed by its payload of 'p'. All end with
 * -EPROTO, and of the read's memory nothing is written beyond `written` bytes.
 */
static void try_answers(struct pair *t, const struct wire_frame *f, int n, size_t written)
{
	struct end c = { t->a.p, t->a.cq, NULL };
	const char d[HF_DESCRIPTOR_SIZE] = { 1 };
	struct hf_segment seg;
	struct wire_hello peer;
	int fd = raw_meet(t->address, &peer);
	struct mem x;

	check_ok(hf_accept(t->listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_reg(&c, 4096, HF_READWRITE);
	seg = seg_of(&x, 8, 16);
	check_ok(hf_post_read(c.s, &seg, 1, d, sizeof(d), 0, NULL));
	assert_int_equal(raw_next(fd).type, WIRE_READ);
	check_ok(hf_post_send(c.s, &seg, 1, NULL)); /* behind the answer */
	while (n--) {
		char payload[64];

		memset(payload, 'p', sizeof(payload));
		raw_frame(fd, f);
		send(fd, payload, f->length, MSG_NOSIGNAL);
		f++;
	}
	expect(&c, HF_OP_READ, -EPROTO);
	expect(&c, HF_OP_SEND, -EPROTO);
	assert_true(all_are(x.at, 8, 1) && all_are(x.at + 8, written, 'p'));
	assert_true(all_are(x.at + 8 + written, x.len - 8 - written, 1));
	close(fd);
	check_ok(hf_sock_close(c.s));
	mem_unmap(&x);
}

/* Answers that were not asked for, or not so. */
static void test_wrong_answers(void **state)
{
	struct wire_frame data = { .type = WIRE_DATA, .length = 16, .total = 16, .flags = WIRE_LAST };
	struct wire_frame half = { .type = WIRE_DATA, .length = 8, .total = 16 };
	struct wire_frame done = { .type = WIRE_DONE };
	struct wire_frame f[2];
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	f[0] = done; /* all is well, though not a byte has come */
	try_answers(&t, f, 1, 0);
	f[0] = half;
	f[1] = done; /* half of them */
	try_answers(&t, f, 2, 8);
	f[0] = data;
	f[0].op = 1;
	try_answers(&t, f, 1, 0);
	f[0] = data;
	f[0].total = f[0].length = 17; /* one more than was asked */
	try_answers(&t, f, 1, 0);
	f[0] = data;
	f[0].offset = f[0].length = 8; /* the second half first */
	try_answers(&t, f, 1, 0);
	f[0] = f[1] = half; /* the first one twice */
	try_answers(&t, f, 2, 8);
	f[0] = data;
	f[1] = done;
	f[1].op = 1; /* of what was not begun */
	try_answers(&t, f, 2, 16);
	f[0] = done;
	f[0].op = UINT32_MAX;
	f[0].status = -EACCES;
	try_answers(&t, f, 1, 0);
	pair_close(&t);
}

/* Of two messages on their way the second one is answered first. */
static void test_answers_out_of_order(void **state)
{
	struct end c = { 0 };
	struct wire_hello peer;
	struct pair t;
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	fd = raw_meet(t.address, &peer);
	c = (struct end){ t.a.p, t.a.cq, NULL };
	check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_CREDIT, .op = 0, .total = 8 });
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_CREDIT, .op = 1, .total = 8 });
	check_ok(hf_post_send(c.s, NULL, 0, NULL));
	check_ok(hf_post_send(c.s, NULL, 0, NULL));
	assert_int_equal(raw_next(fd).op, 0);
	assert_int_equal(raw_next(fd).op, 1);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_DONE, .op = 1 });
	expect(&c, HF_OP_SEND, -EPROTO);
	expect(&c, HF_OP_SEND, -EPROTO);
	close(fd);
	check_ok(hf_sock_close(c.s));
	pair_close(&t);
}

/* One that reads no more, but stays: what is sent to it fails, and nothing waits for ever. */
static void test_deaf_peer(void **state)
{
	struct hf_segment seg;
	struct wire_hello peer;
	struct end c = { 0 };
	struct pair t;
	struct mem x;
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	fd = raw_meet(t.address, &peer);
	c = (struct end){ t.a.p, t.a.cq, NULL };
	check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_reg(&c, 4096, HF_READ);
	shutdown(fd, SHUT_RD);
	seg = seg_of(&x, 0, 4096);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_CREDIT, .total = 4096 });
	check_ok(hf_post_send(c.s, &seg, 1, NULL));
	expect(&c, HF_OP_SEND, -ECONNRESET);
	check_ok(hf_sock_close(c.s));
	close(fd);
	pair_close(&t);
	mem_unmap(&x);
}

/* A proper peer by hand, byte for byte: so that the format doesn't change by accident. */
static void test_by_hand(void **state)
{
	struct wire_frame f, w = { .type = WIRE_WRITE, .offset = 3, .length = 4, .total = 4, .flags = WIRE_LAST };
	struct wire_hello peer;
	struct pair t;
	struct end c;
	struct mem x;
	char text[8];
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	fd = raw_meet(t.address, &peer);
	c = (struct end){ t.a.p, t.a.cq, NULL };
	check_ok(hf_accept(t.listener, c.cq, PATIENCE_MS, &c.s));
	x = mem_expose(&c, 4096, HF_READWRITE);
	memcpy(w.descriptor, x.descriptor, sizeof(w.descriptor));
	raw_frame(fd, &w);
	raw_send(fd, "abcd", 4);
	f = raw_next(fd);
	assert_int_equal(f.type, WIRE_DONE);
	assert_int_equal(f.op, 0);
	assert_int_equal(f.status, 0);
	assert_memory_equal(x.at, "\1\1\1abcd\1", 8);
	w = (struct wire_frame){ .type = WIRE_READ, .op = 1, .offset = 2, .total = 6 };
	memcpy(w.descriptor, x.descriptor, sizeof(w.descriptor));
	raw_frame(fd, &w);
	f = raw_next(fd);
	assert_int_equal(f.type, WIRE_DATA);
	assert_int_equal(f.length, 6);
	assert_int_equal(f.flags, WIRE_LAST);
	assert_int_equal(raw_recv(fd, text, 6), 6);
	assert_memory_equal(text, "\1abcd\1", 6);
	assert_int_equal(raw_next(fd).type, WIRE_DONE);
	check_ok(hf_post_recv(c.s, &(struct hf_segment){ x.at, 10, x.mr }, 1, NULL));
	f = raw_next(fd);
	assert_int_equal(f.type, WIRE_CREDIT);
	assert_int_equal(f.total, 10);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_MESSAGE, .op = 2, .length = 2, .total = 4 });
	raw_send(fd, "ef", 2);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_MESSAGE, .op = 2, .offset = 2, .length = 2, .total = 4, .flags = 1 });
	raw_send(fd, "gh", 2);
	assert_int_equal(expect(&c, HF_OP_RECV, 0).bytes, 4);
	assert_memory_equal(x.at, "efgh", 4);
	f = raw_next(fd);
	assert_int_equal(f.type, WIRE_DONE);
	assert_int_equal(f.op, 2);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_CREDIT, .total = 5 });
	check_ok(hf_post_send(c.s, &(struct hf_segment){ x.at + 1, 3, x.mr }, 1, NULL));
	f = raw_next(fd);
	assert_int_equal(f.type, WIRE_MESSAGE);
	assert_int_equal(f.total, 3);
	assert_int_equal(raw_recv(fd, text, 3), 3);
	assert_memory_equal(text, "fgh", 3);
	expect_none(&c);
	raw_frame(fd, &(struct wire_frame){ .type = WIRE_DONE, .op = 0 });
	expect(&c, HF_OP_SEND, 0);
	check_ok(hf_sock_close(c.s));
	assert_int_equal(raw_next(fd).type, WIRE_BYE);
	assert_int_equal(raw_recv(fd, text, 1), 0);
	close(fd);
	pair_close(&t);
	mem_unmap(&x);
}

/* ------------------------------------------------------------------ where it can't be used */

static void test_no_move(void **state)
{
	struct hf_switch *sw = check_switch(NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL);
	struct hf_sock *s;
	struct hf_cq *cq;

	check_ok(hf_cq_open(&cq));
	check_error(hf_listen(p, "unix:@hf-no", NULL, &s), -EOPNOTSUPP, "can't move data");
	check_error(hf_connect(p, "unix:@hf-no", NULL, cq, 10, &s), -EOPNOTSUPP, "\"sim\"");
	check_ok(hf_cq_close(cq));
	check_close(sw, p);
}

/* A child is told, touches nothing, and keeps no connection alive; it may open its own (I7). */
static int use_parents(void *arg)
{
	struct pair *t = arg;
	struct hf_completion c;
	char d[HF_DESCRIPTOR_SIZE] = { 0 };
	size_t length = sizeof(d);
	struct hf_sock *s;
	struct hf_cq *cq;
	uint64_t mr;
	struct pair own;

	CHILD_CHECK(hf_cq_poll(t->a.cq, &c, 1) == -EOWNERDEAD);
	CHILD_CHECK(hf_cq_wait(t->a.cq, &c, 1, -1) == -EOWNERDEAD);
	CHILD_CHECK(hf_cq_fd(t->a.cq) == -EOWNERDEAD);
	CHILD_CHECK(hf_cq_close(t->a.cq) == -EOWNERDEAD);
	CHILD_CHECK(hf_sock_close(t->a.s) == -EOWNERDEAD);
	CHILD_CHECK(hf_sock_close(t->listener) == -EOWNERDEAD);
	CHILD_CHECK(hf_accept(t->listener, t->a.cq, -1, &s) == -EOWNERDEAD);
	CHILD_CHECK(hf_listen(t->a.p, "unix:@hf-child", NULL, &s) == -EOWNERDEAD);
	CHILD_CHECK(hf_connect(t->a.p, t->address, NULL, t->a.cq, -1, &s) == -EOWNERDEAD);
	CHILD_CHECK(hf_mr_reg(t->a.s, &own, sizeof(own), HF_READ, &mr) == -EOWNERDEAD);
	CHILD_CHECK(hf_mr_expose(t->a.s, &own, sizeof(own), HF_READ, d, &length, &mr) == -EOWNERDEAD);
	CHILD_CHECK(hf_mr_dereg(t->a.s, 1) == -EOWNERDEAD);
	CHILD_CHECK(hf_mr_revoke(t->a.s, d, length) == -EOWNERDEAD);
	CHILD_CHECK(hf_post_send(t->a.s, NULL, 0, NULL) == -EOWNERDEAD);
	CHILD_CHECK(hf_post_recv(t->a.s, NULL, 0, NULL) == -EOWNERDEAD);
	CHILD_CHECK(hf_sock_fd(t->listener) == -EOWNERDEAD);
	/* Closed in here, or this child would keep them alive. */
	CHILD_CHECK(fcntl(t->a.s->fd, F_GETFD) < 0 && fcntl(t->b.s->fd, F_GETFD) < 0);
	CHILD_CHECK(fcntl(t->listener->fd, F_GETFD) < 0 && fcntl(t->listener->listener->event, F_GETFD) < 0);
	CHILD_CHECK(fcntl(t->a.s->e->epoll, F_GETFD) < 0 && fcntl(t->a.s->e->event, F_GETFD) < 0);
	/* A queue of the child's own is not the parent's. */
	CHILD_CHECK(hf_cq_open(&cq) == 0);
	CHILD_CHECK(hf_cq_poll(t->a.cq, &c, 1) == -EOWNERDEAD);
	CHILD_CHECK(hf_cq_poll(cq, &c, 1) == 0);
	CHILD_CHECK(hf_cq_close(cq) == 0);
	return 0;
}

static int wait_for_end(void *arg)
{
	struct hf_switch *sw;
	char byte;

	/* The parent closes its sockets while this child lives. */
	CHILD_CHECK(hf_switch_open("proxy=none", &sw) == 0);
	CHILD_CHECK(read(*(int *)arg, &byte, 1) == 0);
	return 0;
}

static void test_fork(void **state)
{
	int pipe_fd[2], status;
	struct pair t;
	pid_t pid;

	pair_open(&t, NULL, NULL, NULL, true);
	assert_int_equal(check_child(use_parents, &t), 0);
	move_once(&t, HF_OP_WRITE, 1000, 0, 0);
	assert_int_equal(pipe(pipe_fd), 0);
	pid = fork();
	if (!pid) {
		close(pipe_fd[1]);
		_exit(wait_for_end(&pipe_fd[0]));
	}
	check_ok(hf_post_recv(t.b.s, NULL, 0, NULL));
	end_close(&t.a);
	expect(&t.b, HF_OP_RECV, -ESHUTDOWN); /* though the child lives */
	close(pipe_fd[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(pipe_fd[0]);
	pair_close(&t);
}

/* A path in the file system: made, removed; one that was left behind by a killed process is taken over, a live one is not. */
static void test_path(void **state)
{
	char dir[] = "/tmp/hf-test-XXXXXX", address[64];
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct hf_sock *l, *l2, *c, *a;
	struct hf_sock_info i;
	struct stat st;
	struct pair t;
	int fd;

	pair_open(&t, NULL, NULL, NULL, false);
	assert_non_null(mkdtemp(dir));
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/s", dir);
	snprintf(address, sizeof(address), "unix:%s/s", dir);
	fd = socket(AF_UNIX, SOCK_STREAM, 0); /* bound, and gone without a trace of removing it */
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	check_ok(hf_listen(t.a.p, address, NULL, &l));
	check_error(hf_listen(t.a.p, address, NULL, &l2), -EADDRINUSE, address);
	check_ok(hf_connect(t.b.p, address, NULL, t.b.cq, PATIENCE_MS, &c));
	check_ok(hf_accept(l, t.a.cq, PATIENCE_MS, &a));
	check_ok(hf_sock_info(a, &i, sizeof(i)));
	assert_string_equal(i.local, address);
	check_ok(hf_sock_close(l)); /* connections stay */
	assert_int_equal(stat(un.sun_path, &st), -1);
	check_ok(hf_sock_close(c));
	check_ok(hf_sock_close(a));
	/* What is no socket is left alone. */
	fd = creat(un.sun_path, 0600);
	close(fd);
	assert_int_equal(hf_listen(t.a.p, address, NULL, &l), -EADDRINUSE);
	assert_int_equal(unlink(un.sun_path), 0);
	assert_int_equal(rmdir(dir), 0);
	pair_close(&t);
}

/* Many connect before anybody accepts; the descriptor of the listener says when there is one. */
static void test_many(void **state)
{
	enum { MANY = 40 };
	struct hf_sock *c[MANY], *a[MANY];
	struct pair t;

	pair_open(&t, NULL, NULL, NULL, false);
	assert_false(is_readable(hf_sock_fd(t.listener)));
	for (int i = 0; i < MANY; i++)
		check_ok(hf_connect(t.b.p, t.address, "depth=4", t.b.cq, PATIENCE_MS, &c[i]));
	assert_true(is_readable(hf_sock_fd(t.listener)));
	for (int i = 0; i < MANY; i++)
		check_ok(hf_accept(t.listener, t.a.cq, PATIENCE_MS, &a[i]));
	assert_false(is_readable(hf_sock_fd(t.listener)));
	for (int i = 0; i < MANY; i++) {
		check_ok(hf_post_recv(a[i], NULL, 0, a[i]));
		check_ok(hf_post_send(c[i], NULL, 0, c[i]));
	}
	for (int i = 0; i < MANY; i++) {
		struct hf_completion x = expect(&t.a, HF_OP_RECV, 0), y = expect(&t.b, HF_OP_SEND, 0);

		assert_ptr_equal(x.sock, x.context);
		assert_ptr_equal(y.sock, y.context);
	}
	for (int i = 0; i < MANY; i++) {
		check_ok(hf_sock_close(i & 1 ? a[i] : c[i]));
		check_ok(hf_sock_close(i & 1 ? c[i] : a[i]));
	}
	/* And some that nobody ever accepts. */
	for (int i = 0; i < 3; i++)
		check_ok(hf_connect(t.b.p, t.address, NULL, t.b.cq, PATIENCE_MS, &c[i]));
	check_ok(hf_post_recv(c[0], NULL, 0, NULL));
	check_ok(hf_sock_close(t.listener));
	t.listener = NULL;
	assert_int_equal(next_of(&t.b).status, -ECONNRESET);
	for (int i = 0; i < 3; i++)
		check_ok(hf_sock_close(c[i]));
	pair_close(&t);
}

/* ------------------------------------------------------------------ every nth failure */

/* Open, move, close; 0 or the first error. Nothing may be left, whatever fails. */
static int all_of_it(struct hf_switch *sw)
{
	struct hf_sock *l = NULL, *a = NULL, *b = NULL;
	struct hf_provider *p = NULL;
	struct hf_cq *cq = NULL;
	char name[64], d[HF_DESCRIPTOR_SIZE];
	size_t length = sizeof(d);
	char *x = check_map(8192);
	uint64_t mr, mr2;
	int rc;

	san_name(name, sizeof(name));
	rc = san_provider_open(sw, &p);
	rc = rc ? rc : hf_cq_open(&cq);
	rc = rc ? rc : hf_listen(p, name, NULL, &l);
	rc = rc ? rc : hf_connect(p, name, NULL, cq, 10000, &b);
	rc = rc ? rc : hf_accept(l, cq, 1000, &a);
	rc = rc ? rc : hf_mr_expose(a, x, 4096, HF_READWRITE, d, &length, &mr);
	rc = rc ? rc : hf_mr_reg(b, x + 4096, 4096, HF_READWRITE, &mr2);
	rc = rc ? rc : hf_post_recv(a, NULL, 0, NULL);
	rc = rc ? rc : hf_post_write(b, &(struct hf_segment){ x + 4096, 4096, mr2 }, 1, d, length, 0, NULL);
	if (!rc) {
		struct hf_completion c;

		assert_int_equal(hf_cq_wait(cq, &c, 1, PATIENCE_MS), 1);
		rc = c.status; /* of the posts none fails by the stream; by a queue pair each may */
		assert_true(!rc || SAN_VERSION == WIRE_VERSION_QP);
	}
	check_ok(hf_sock_close(a));
	check_ok(hf_sock_close(b));
	check_ok(hf_sock_close(l));
	check_ok(hf_cq_close(cq));
	check_ok(hf_provider_close(p));
	check_unmap(x, 8192);
	return rc;
}

static void test_nth_failure(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	unsigned fds, failed = 0;
	int n = 1, rc;

	assert_int_equal(all_of_it(sw), 0);
	fds = count_fds();
	do {
		hf_fault_arm(n++);
		rc = all_of_it(sw);
		failed += rc != 0;
		if (count_fds() != fds)
			fail_msg("a failed \"%s\" leaves %d descriptors", hf_fault_last(), (int)count_fds() - (int)fds);
		assert_true(rc <= 0 && n < 500);
	} while (hf_fault_last());
	hf_fault_arm(0);
	assert_int_equal(rc, 0);
	assert_true(failed > 10);
	check_ok(hf_switch_close(sw));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_max_sizes),
		cmocka_unit_test(test_early_send_is_kept),
		cmocka_unit_test(test_message_too_large),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_both_ways),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_handles),
		cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_busy),
		cmocka_unit_test(test_stays_cached),
		cmocka_unit_test(test_without_a_proxy),
		cmocka_unit_test(test_close_with_all_pending),
		cmocka_unit_test(test_memory_first),
		cmocka_unit_test(test_close_while_written),
		cmocka_unit_test(test_peer_closes),
		cmocka_unit_test(test_nothing_is_left),
		cmocka_unit_test(test_queue),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_secret),
		cmocka_unit_test(test_bad_clients),
		cmocka_unit_test(test_bad_server),
		cmocka_unit_test(test_no_move),
		cmocka_unit_test(test_fork),
		cmocka_unit_test(test_path),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_nth_failure),
		/* By the stream only: what is told by queue pairs is in test_san_qp.c. */
		cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_bad_among_good),
		cmocka_unit_test(test_revoke_while_writing),
		cmocka_unit_test(test_revoke_while_reading),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_unmapped_while_exposed),
		cmocka_unit_test(test_watched_later),
		cmocka_unit_test(test_uid),
		cmocka_unit_test(test_broken_frames),
		cmocka_unit_test(test_flood_of_reads),
		cmocka_unit_test(test_wrong_answers),
		cmocka_unit_test(test_answers_out_of_order),
		cmocka_unit_test(test_deaf_peer),
		cmocka_unit_test(test_by_hand),
	};
	size_t n = sizeof(tests) / sizeof(tests[0]);

	if (SAN_VERSION != WIRE_VERSION_STREAM)
		while (tests[n - 1].test_func != test_nth_failure)
			n--;
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}
