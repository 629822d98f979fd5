/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the tests of SAN sockets share: two ends that are connected, registered memory, completions, and a peer that
 * speaks the protocol by hand.
 */
#ifndef CHECK_SAN_H
#define CHECK_SAN_H

#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <holdfast/san.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "san/address.h"
#include "san/auth.h"
#include "san/listen.h"
#include "san/sock.h"

#define PATIENCE_MS 600000 /* for what must come, however slow the machine is */

struct end {
	struct hf_provider *p;
	struct hf_cq *cq;
	struct hf_sock *s;
};

struct pair {
	struct hf_switch *sw;
	struct end a, b; /* a has accepted, b has connected */
	struct hf_sock *listener;
	char address[108];
};

/* Memory of one end. */
struct mem {
	char *at;
	size_t len;
	uint64_t mr;
	char descriptor[HF_DESCRIPTOR_SIZE]; /* of exposed memory */
};

/* With SAN_OVER_QP by queue pairs, the protocol's version 2, instead of by the stream. */
#ifdef SAN_OVER_QP
#include "fake_qp.h"
#define SAN_VERSION WIRE_VERSION_QP
#else
#define SAN_VERSION WIRE_VERSION_STREAM
#endif

static inline int san_provider_open(struct hf_switch *sw, struct hf_provider **p)
{
#ifdef SAN_OVER_QP
	/* In the guest: a real one. */
	const char *nic = getenv("HF_TEST_NIC");

	return nic ? hf_provider_open(sw, nic, NULL, p) : hf_provider_open_nic(sw, &fake_qp_nic, NULL, NULL, p);
#else
	return hf_provider_open(sw, "uring", NULL, p);
#endif
}

static inline struct hf_provider *san_provider(struct hf_switch *sw)
{
	struct hf_provider *p = NULL;

	check_ok(san_provider_open(sw, &p));
	return p;
}

static inline void san_name(char *out, size_t size)
{
	static unsigned n;

	snprintf(out, size, "unix:@hf-test-%d-%u", (int)getpid(), n++);
}

/*
 * A switch's options: HF_TEST_PROXY (such as "kmod": in the guest), where a test asks for nothing or for uffd. One that asks
 * for another is about that one.
 */
static inline const char *san_proxy(const char *asked)
{
	static char options[64];

	if (!getenv("HF_TEST_PROXY") || (asked && strcmp(asked, "proxy=uffd")))
		return asked;
	snprintf(options, sizeof(options), "proxy=%s", check_proxy());
	return options;
}

/* `far`: b has a provider, and with it a NIC and an engine, of its own. `ops`: a proxy of one's own, or NULL. */
static inline void pair_open_over(struct pair *t, const struct hf_proxy_ops *ops, const char *proxy,
				  const char *listening, const char *connecting, bool far)
{
	atomic_store(&san_handshake_ms, PATIENCE_MS);
	memset(t, 0, sizeof(*t));
	san_name(t->address, sizeof(t->address));
	if (ops)
		check_ok(hf_switch_open_proxy(ops, NULL, proxy, &t->sw));
	else
		t->sw = check_switch(san_proxy(proxy));
	t->a.p = san_provider(t->sw);
	t->b.p = far ? san_provider(t->sw) : t->a.p;
	check_ok(hf_cq_open(&t->a.cq));
	check_ok(hf_cq_open(&t->b.cq));
	check_ok(hf_listen(t->a.p, t->address, listening, &t->listener));
	check_ok(hf_connect(t->b.p, t->address, connecting, t->b.cq, PATIENCE_MS, &t->b.s));
	check_ok(hf_accept(t->listener, t->a.cq, PATIENCE_MS, &t->a.s));
}

static inline void pair_open(struct pair *t, const char *proxy, const char *listening, const char *connecting, bool far)
{
	pair_open_over(t, NULL, proxy, listening, connecting, far);
}

static inline void end_close(struct end *e)
{
	check_ok(hf_sock_close(e->s));
	e->s = NULL;
}

static inline void pair_close(struct pair *t)
{
	end_close(&t->a);
	end_close(&t->b);
	check_ok(hf_sock_close(t->listener));
	check_ok(hf_cq_close(t->a.cq));
	check_ok(hf_cq_close(t->b.cq));
	/* Nothing is held any more (R27, R44): hf_provider_close() would say so. */
	check_ok(hf_provider_close(t->a.p));
	if (t->b.p != t->a.p)
		check_ok(hf_provider_close(t->b.p));
	check_ok(hf_switch_close(t->sw));
}

static inline struct mem mem_reg(struct end *e, size_t len, unsigned access)
{
	struct mem m = { .at = check_map((len + check_page() - 1) & ~(check_page() - 1)), .len = len };

	check_ok(hf_mr_reg(e->s, m.at, len, access, &m.mr));
	return m;
}

static inline void mem_expose_at(struct end *e, struct mem *m, unsigned access)
{
	size_t length = sizeof(m->descriptor);

	check_ok(hf_mr_expose(e->s, m->at, m->len, access, m->descriptor, &length, &m->mr));
	assert_int_equal(length, HF_DESCRIPTOR_SIZE);
}

static inline struct mem mem_expose(struct end *e, size_t len, unsigned access)
{
	struct mem m = { .at = check_map((len + check_page() - 1) & ~(check_page() - 1)), .len = len };

	mem_expose_at(e, &m, access);
	return m;
}

static inline void mem_unmap(struct mem *m)
{
	check_unmap(m->at, (m->len + check_page() - 1) & ~(check_page() - 1));
}

static inline void mem_gone(struct end *e, struct mem *m)
{
	check_ok(hf_mr_dereg(e->s, m->mr));
	mem_unmap(m);
}

static inline void mem_fill(struct mem *m, uint64_t seed)
{
	for (size_t i = 0; i < m->len; i += sizeof(seed)) {
		uint64_t word = check_random(&seed);

		memcpy(m->at + i, &word, m->len - i < sizeof(word) ? m->len - i : sizeof(word));
	}
}

static inline struct hf_segment seg_of(const struct mem *m, size_t from, size_t len)
{
	return (struct hf_segment){ m->at + from, len, m->mr };
}

/* The next completion. */
static inline struct hf_completion next_of(struct end *e)
{
	struct hf_completion c = { 0 };
	int n = hf_cq_wait(e->cq, &c, 1, PATIENCE_MS);

	if (n != 1)
		fail_msg("no completion came: %d (%s)", n, n < 0 ? hf_error() : "timeout");
	return c;
}

static inline struct hf_completion expect(struct end *e, enum hf_op op, int status)
{
	struct hf_completion c = next_of(e);

	if (c.op != op || c.status != status)
		fail_msg("operation %u completed with %d (%s), not %u with %d", c.op, c.status, hf_completion_text(&c), op,
			 status);
	return c;
}

static inline void expect_none(struct end *e)
{
	struct hf_completion c;

	assert_int_equal(hf_cq_poll(e->cq, &c, 1), 0);
}

static inline struct hf_sock_info info_of(struct end *e)
{
	struct hf_sock_info i = { 0 };

	check_ok(hf_sock_info(e->s, &i, sizeof(i)));
	assert_int_equal(i.size, sizeof(i));
	return i;
}

/* It comes to that, however slow the machine is. */
#define EVENTUALLY(x)                                                  \
	do {                                                           \
		for (int i_ = 0; i_ < PATIENCE_MS && !(x); i_++)       \
			usleep(1000);                                  \
		assert_true(x);                                        \
	} while (0)

static inline unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* ------------------------------------------------------------------ by hand */

static inline int raw_connect(const char *address)
{
	struct san_address a;
	int fd;

	check_ok(san_address_parse(address, &a));
	fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a.sa, a.len), 0);
	return fd;
}

static inline void raw_send(int fd, const void *what, size_t size)
{
	assert_int_equal(send(fd, what, size, MSG_NOSIGNAL), size);
}

/* How many bytes came before the end of the stream. */
static inline size_t raw_recv(int fd, void *to, size_t size)
{
	size_t got = 0;
	ssize_t n = 1;

	while (got < size && n > 0) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		n = recv(fd, (char *)to + got, size - got, 0);
		got += n > 0 ? (size_t)n : 0;
	}
	return got;
}

/* As a client: where a queue pair is that nobody has. */
static inline void raw_join(int fd)
{
	struct wire_qp mine = { .max = 1 << 20 }, peers;
	uint8_t text[WIRE_QP_SIZE + WIRE_FRAME_SIZE];
	struct wire_frame ready = { .type = WIRE_READY };

	assert_int_equal(raw_recv(fd, text, WIRE_QP_SIZE), WIRE_QP_SIZE);
	assert_int_equal(wire_get_qp(text, &peers), 0);
	memset(mine.address, 0xee, sizeof(mine.address));
	wire_put_qp(text, &mine);
	wire_put_frame(text + WIRE_QP_SIZE, &ready);
	raw_send(fd, text, sizeof(text));
	assert_int_equal(raw_recv(fd, text, WIRE_FRAME_SIZE), WIRE_FRAME_SIZE);
	assert_int_equal(wire_get_frame(text, &ready), 0);
	assert_int_equal(ready.type, WIRE_READY);
}

/* Shake hands as a client without a secret. */
static inline int raw_meet(const char *address, struct wire_hello *peer)
{
	struct wire_hello h = { .version_min = SAN_VERSION, .version_max = SAN_VERSION, .max_message = 1 << 20, .max_rdma = 1 << 20, .depth = 4 };
	struct wire_proof proof = { 0 };
	uint8_t text[WIRE_HELLO_SIZE];
	int fd = raw_connect(address);

	wire_put_hello(text, &h);
	raw_send(fd, text, WIRE_HELLO_SIZE);
	assert_int_equal(raw_recv(fd, text, WIRE_HELLO_SIZE), WIRE_HELLO_SIZE);
	assert_int_equal(wire_get_hello(text, peer), 0);
	wire_put_proof(text, &proof);
	raw_send(fd, text, WIRE_PROOF_SIZE);
	assert_int_equal(raw_recv(fd, text, WIRE_PROOF_SIZE), WIRE_PROOF_SIZE);
	assert_int_equal(wire_get_proof(text, &proof), 0);
	assert_int_equal(proof.status, 0);
	if (SAN_VERSION == WIRE_VERSION_QP)
		raw_join(fd);
	return fd;
}

static inline void raw_frame(int fd, const struct wire_frame *f)
{
	uint8_t text[WIRE_FRAME_SIZE];

	wire_put_frame(text, f);
	raw_send(fd, text, sizeof(text));
}

static inline struct wire_frame raw_next(int fd)
{
	uint8_t text[WIRE_FRAME_SIZE];
	struct wire_frame f;

	assert_int_equal(raw_recv(fd, text, sizeof(text)), sizeof(text));
	assert_int_equal(wire_get_frame(text, &f), 0);
	return f;
}

#endif
