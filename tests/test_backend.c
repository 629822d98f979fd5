/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Back ends of one's own (backend.h): tables that were compiled earlier, decorators over the built-in ones, and a
 * proxy that tells from a thread of its own. Old tables end where unreadable memory begins: the library must
 * read no further.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "provider.h"

#define NIC_MIN offsetof(struct hf_nic_ops, lkey_at)
#define PROXY_MIN offsetof(struct hf_proxy_ops, check)
#define PAGES 16

static size_t page;
static char *mem; /* PAGES */

static char *at(unsigned n)
{
	return mem + n * page;
}

static int group_setup(void **state)
{
	page = check_page();
	mem = check_map(PAGES * page);
	return 0;
}

static int group_teardown(void **state)
{
	check_unmap(mem, PAGES * page);
	return 0;
}

/* The first `size` bytes of a table, right before a page that can't be read. */
static void *cut(const void *table, size_t size)
{
	char *p = check_map(page);
	char *where = p + page - size;

	memcpy(where, table, size);
	return where;
}

static void uncut(void *table, size_t size)
{
	check_unmap((char *)table + size - page, page);
}

/* ------------------------------------------------------------------ a NIC's table of an earlier version */

static struct hf_provider *open_nic(struct hf_switch *sw, const struct hf_nic_ops *ops, void *config)
{
	struct hf_provider *p = NULL;

	check_ok(hf_provider_open_nic(sw, ops, config, "max_bytes=1M", &p));
	return p;
}

/* Every size that an earlier table may have had, from the least on: what it lacks is missing, and no more. */
static void earlier_nic(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");

	for (size_t size = NIC_MIN; size <= sizeof(struct hf_nic_ops); size += sizeof(void (*)(void))) {
		struct hf_nic_ops table = *hf_nic_find("sim");
		struct hf_provider *p;
		struct hf_conn *c;
		struct hf_region r;
		void *ops;
		char b = 0;

		table.size = size;
		ops = cut(&table, size);
		p = open_nic(sw, ops, NULL);
		uncut(ops, size); /* it is copied: the table may go */
		r = check_get(p, at(0), page, HF_READWRITE);
		check_error(hf_conn_open(p, 0, &c), -EOPNOTSUPP, "sim");
		check_error(hf_peek(&r, at(0), &b, 1), -EOPNOTSUPP, "peek");
		check_error(hf_poke(&r, at(0), &b, 1), -EOPNOTSUPP, "poke");
		assert_int_equal(hf_region_lkey(&r, at(0) + 1), r.lkey);
		check_ok(hf_put(p, &r));
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
		check_ok(hf_provider_close(p));
	}
	check_ok(hf_switch_close(sw));
}

/* `uring` has all operations: cut off one by one, each is refused from then on, and none is called by mistake. */
static void cut_off_uring(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = NULL;
	int fd[2];

	if (hf_provider_open(sw, "uring", NULL, &p)) {
		print_message("%s\n", hf_error());
		check_ok(hf_switch_close(sw));
		skip();
	}
	check_ok(hf_provider_close(p));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	for (size_t size = NIC_MIN; size <= sizeof(struct hf_nic_ops); size += sizeof(void (*)(void))) {
		struct hf_nic_ops table = *hf_nic_find("uring");
		bool moves = size >= offsetof(struct hf_nic_ops, peek);
		struct hf_conn *c = NULL;
		struct hf_region r;
		void *ops;
		char b = 0;

		table.size = size;
		ops = cut(&table, size);
		p = open_nic(sw, ops, NULL);
		r = check_get(p, at(0), page, HF_READWRITE);
		assert_int_equal(hf_conn_open(p, fd[0], &c), moves ? 0 : -EOPNOTSUPP);
		if (moves)
			check_ok(hf_send(c, &r, at(0), 0));
		check_ok(hf_conn_close(c));
		assert_int_equal(hf_peek(&r, at(0), &b, 1),
				 size > offsetof(struct hf_nic_ops, peek) ? 0 : -EOPNOTSUPP);
		assert_int_equal(hf_poke(&r, at(0), &b, 1),
				 size > offsetof(struct hf_nic_ops, poke) ? 0 : -EOPNOTSUPP);
		check_ok(hf_put(p, &r));
		check_ok(hf_provider_close(p));
		uncut(ops, size);
	}
	close(fd[0]);
	close(fd[1]);
	check_ok(hf_switch_close(sw));
}

/* A table of a later version: what is behind the known end is of no concern. */
static void later_nic(void **state)
{
	struct { struct hf_nic_ops ops; void *more[8]; } table = { .ops = *hf_nic_find("sim") };
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p;

	memset(table.more, 0xff, sizeof(table.more));
	table.ops.size = sizeof(table);
	p = open_nic(sw, &table.ops, NULL);
	assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
	check_close(sw, p);
}

static void refused_nics(void **state)
{
	static const size_t sizes[] = { 0, 8, NIC_MIN - sizeof(void (*)(void)), NIC_MIN - 1 };
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_nic_ops table = *hf_nic_find("sim");
	struct hf_provider *p = NULL;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		table.size = sizes[i];
		check_error(hf_provider_open_nic(sw, &table, NULL, NULL, &p), -EINVAL, "too short");
	}
	table.size = sizeof(table);
	for (uint32_t abi = 0; abi <= HF_BACKEND_ABI + 1; abi++) {
		table.abi = abi;
		if (abi != HF_BACKEND_ABI)
			check_error(hf_provider_open_nic(sw, &table, NULL, NULL, &p), -EINVAL, "ABI");
	}
	check_error(hf_provider_open_nic(sw, NULL, NULL, NULL, &p), -EINVAL, "table");
	assert_null(p);
	check_ok(hf_switch_close(sw));
}

/* ------------------------------------------------------------------ a NIC over a NIC */

/* Counts, and passes on. */
static struct counted {
	const struct hf_nic_ops *under;
	_Atomic unsigned opens, closes, regs, deregs, bytes;
	unsigned last_access;
	bool resident; /* at the moment of the registration */
	int fail_open;
} nic;

static int counted_open(const char *arg, void *config, void **out)
{
	atomic_fetch_add(&nic.opens, 1);
	if (nic.fail_open)
		return hf_set_error(nic.fail_open, "the decorator was told to fail");
	return nic.under->open(arg, config, out);
}

static void counted_close(void *n)
{
	atomic_fetch_add(&nic.closes, 1);
	nic.under->close(n);
}

static int counted_reg(void *n, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	unsigned char core[PAGES] = { 0 };

	nic.resident = mincore((void *)(uintptr_t)addr, len, core) == 0 && (core[0] & 1);
	nic.last_access = access;
	atomic_fetch_add(&nic.regs, 1);
	atomic_fetch_add(&nic.bytes, (unsigned)len);
	return nic.under->reg(n, addr, len, access, out);
}

static int counted_dereg(void *n, uint64_t addr, uint64_t len, const struct hf_nic_reg *r)
{
	atomic_fetch_add(&nic.deregs, 1);
	atomic_fetch_sub(&nic.bytes, (unsigned)len);
	return nic.under->dereg(n, addr, len, r);
}

static struct hf_nic_ops decorate(const char *name)
{
	struct hf_nic_ops ops = *hf_nic_find(name);

	memset(&nic, 0, sizeof(nic));
	nic.under = hf_nic_find(name);
	ops.name = "counted";
	ops.open = counted_open;
	ops.close = counted_close;
	ops.reg = counted_reg;
	ops.dereg = counted_dereg;
	return ops;
}

static void nic_over_sim(void **state)
{
	struct hf_nic_ops ops = decorate("sim");
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_sim sim = { 0 };
	struct hf_provider *p;
	struct hf_region r;

	nic.fail_open = -ENXIO;
	check_error(hf_provider_open_nic(sw, &ops, NULL, NULL, &p), -ENXIO, "decorator");
	nic.fail_open = 0;
	check_error(hf_provider_open_nic(sw, &ops, NULL, "bogus=1", &p), -EINVAL, "bogus");
	assert_int_equal(nic.opens, 1);
	p = open_nic(sw, &ops, &sim);
	for (unsigned i = 0; i < 4; i++) {
		r = check_get(p, at(i), page, HF_WRITE);
		hf_sim_use(&r, at(i), page);
		check_ok(hf_put(p, &r));
		check_touch(p, at(i), page, HF_WRITE);
	}
	assert_int_equal(nic.last_access, HF_WRITE);
	assert_int_equal(nic.regs, 4);
	assert_int_equal(sim.regs, 4);
	assert_int_equal(nic.bytes, 4 * page);
	check_close(sw, p);
	assert_int_equal(nic.deregs, 4);
	assert_int_equal(nic.bytes, 0);
	assert_int_equal(nic.opens, 2);
	assert_int_equal(nic.closes, 1);
}

static void nic_over_uring(void **state)
{
	struct hf_nic_ops ops = decorate("uring");
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = NULL;
	struct hf_region r;
	struct hf_conn *c[2];
	size_t got = 0;
	int fd[2];

	if (hf_provider_open_nic(sw, &ops, NULL, NULL, &p)) {
		print_message("%s\n", hf_error());
		check_ok(hf_switch_close(sw));
		skip();
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	r = check_get(p, at(0), 2 * page, HF_READWRITE);
	for (unsigned i = 0; i < 2; i++)
		check_ok(hf_conn_open(p, fd[i], &c[i]));
	memcpy(at(0), "by way of the decorator", 24);
	check_ok(hf_send(c[0], &r, at(0), 24));
	check_ok(hf_recv(c[1], &r, at(1), page, &got));
	assert_int_equal(got, 24);
	assert_string_equal(at(1), "by way of the decorator");
	for (unsigned i = 0; i < 2; i++) {
		check_ok(hf_conn_close(c[i]));
		close(fd[i]);
	}
	check_ok(hf_put(p, &r));
	check_close(sw, p);
	assert_int_equal(nic.regs, 1);
	assert_int_equal(nic.deregs, 1);
	assert_int_equal(nic.closes, 1);
}

/* A NIC that only pins as for reading is given pages that are the program's own already (hazard 10). */
static void copy_on_write_is_broken(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");

	for (unsigned pins = 0; pins < 2; pins++) {
		struct hf_nic_ops ops = decorate("sim");
		struct hf_provider *p;
		char *fresh = check_map(page);

		madvise(fresh, page, MADV_DONTNEED); /* mapped, and no page there */
		ops.flags = pins ? HF_NIC_PINS_FOR_WRITE : 0;
		p = open_nic(sw, &ops, NULL);
		check_touch(p, fresh, page, HF_READ);
		assert_int_equal(nic.resident, !pins);
		check_ok(hf_provider_close(p));
		check_unmap(fresh, page);
	}
	check_ok(hf_switch_close(sw));
}

static void nic_of_a_provider(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, NULL), *q = check_sim(sw, NULL, NULL);

	assert_non_null(hf_provider_nic(p));
	assert_ptr_not_equal(hf_provider_nic(p), hf_provider_nic(q));
	check_ok(hf_provider_close(q));
	check_close(sw, p);
}

/* ------------------------------------------------------------------ a proxy of one's own */

static struct own {
	struct hf_sink *sink;
	unsigned flags;
	_Atomic unsigned opens, closes, secures, unsecures, checks, wrong_ids;
	_Atomic int answer, check_answer;
	unsigned parts; /* of the ids that are given */
	unsigned asked; /* of the last check */
	int fail_open;
} own;

static int own_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	own.opens++;
	own.sink = sink;
	own.flags = flags;
	*proxy = config;
	return own.fail_open ? hf_set_error(own.fail_open, "the proxy was told to fail") : 0;
}

static void own_close(void *proxy)
{
	own.closes++;
}

static int own_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	if (proxy != &own)
		return hf_set_error(-EBADF, "not the proxy that was opened");
	*id = (start ^ 0x1200) | own.parts;
	if (own.answer)
		return hf_set_error(own.answer, "the proxy was told to answer %d", own.answer);
	atomic_fetch_add(&own.secures, 1);
	return HF_WATCHED;
}

static void own_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
	atomic_fetch_add(&own.unsecures, 1);
	if ((id & ~0xffull) != (start ^ 0x1200))
		atomic_fetch_add(&own.wrong_ids, 1);
}

static int own_check(void *proxy)
{
	atomic_fetch_add(&own.checks, 1);
	return own.check_answer;
}

static int own_check_parts(void *proxy, unsigned parts)
{
	own.asked = parts;
	return own_check(proxy);
}

static const struct hf_proxy_ops own_ops = {
	.size = sizeof(own_ops), .abi = HF_BACKEND_ABI, .caps = HF_CAP_WATCH | HF_CAP_EXACT, .name = "own",
	.open = own_open, .close = own_close, .secure = own_secure, .unsecure = own_unsecure, .check = own_check,
};

static struct hf_switch *open_own(const struct hf_proxy_ops *ops, const char *options)
{
	struct hf_switch *sw = NULL;

	memset(&own, 0, sizeof(own));
	check_ok(hf_switch_open_proxy(ops, &own, options, &sw));
	return sw;
}

static void close_own(struct hf_switch *sw, struct hf_provider *p)
{
	check_close(sw, p);
	assert_int_equal(own.opens, own.closes);
	assert_int_equal(own.secures, own.unsecures);
	assert_int_equal(own.wrong_ids, 0);
}

/* -EAGAIN while another thread (the reaper) is in an index for a moment. */
static void changes_end(void)
{
	int rc;

	while ((rc = hf_changes_end(own.sink)) == -EAGAIN)
		sched_yield();
	assert_int_equal(rc, 0);
}

/* Pages [first, first + n) have changed, told in one go. */
static void tell(unsigned first, unsigned n)
{
	uint64_t start = (uintptr_t)at(first);

	hf_changes_begin(own.sink);
	hf_changed(own.sink, start, start + n * page);
	changes_end();
}

static void earlier_proxy(void **state)
{
	static const size_t sizes[] = { PROXY_MIN, offsetof(struct hf_proxy_ops, deny), sizeof(own_ops) };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct hf_proxy_ops table = own_ops;
		struct hf_provider *p;
		struct hf_switch *sw;
		void *ops;

		table.size = sizes[i];
		ops = cut(&table, sizes[i]);
		sw = open_own(ops, NULL);
		uncut(ops, sizes[i]);
		assert_string_equal(hf_switch_proxy(sw), "own");
		p = check_sim(sw, NULL, NULL);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
		assert_int_equal(own.checks > 0, sizes[i] > PROXY_MIN);
		tell(0, 1);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
		close_own(sw, p);
	}
}

/* R49: what stands between the library and a proxy is versioned, and checked. */
static void refused_proxies(void **state)
{
	struct { struct hf_proxy_ops ops; void *more[4]; } later = { .ops = own_ops };
	struct hf_proxy_ops table = own_ops;
	struct hf_switch *sw = NULL;

	check_error(hf_switch_open_proxy(NULL, NULL, NULL, &sw), -EINVAL, "NULL");
	check_error(hf_switch_open_proxy(&table, NULL, NULL, NULL), -EINVAL, "switch");
	table.size = PROXY_MIN - 1;
	check_error(hf_switch_open_proxy(&table, NULL, NULL, &sw), -EINVAL, "too short");
	table.size = 0;
	check_error(hf_switch_open_proxy(&table, NULL, NULL, &sw), -EINVAL, "too short");
	table.size = sizeof(table);
	table.abi = HF_BACKEND_ABI + 1;
	check_error(hf_switch_open_proxy(&table, NULL, NULL, &sw), -EINVAL, "ABI");
	memset(&own, 0, sizeof(own));
	own.fail_open = -EPERM;
	check_error(hf_switch_open_proxy(&own_ops, &own, NULL, &sw), -EPERM, "told to fail");
	assert_int_equal(own.closes, 0); /* what didn't open isn't closed */
	assert_null(sw);
	later.ops.size = sizeof(later);
	sw = open_own(&later.ops, "mode=fast,relax=file");
	assert_int_equal(own.flags, HF_PROXY_FAST | HF_PROXY_RELAX_FILE);
	close_own(sw, NULL);
}

/* What secure() answers decides: an error passes, unwatched memory isn't cached. */
static void what_secure_answers(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_sim sim = { 0 };
	struct hf_provider *p = check_sim(sw, &sim, NULL);
	struct hf_region r;
	uint64_t id;

	own.answer = -ENODEV;
	check_error(hf_get(p, at(0), page, HF_READ, &r), -ENODEV, "told to answer");
	check_error(hf_secure(sw, at(0), page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -ENODEV, "told to answer");
	assert_int_equal(sim.regs, 0); /* armed first, then pinned (I3) */
	assert_int_equal(check_stats(p).pinned_bytes, 0);
	own.answer = HF_UNWATCHED;
	assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
	assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
	assert_int_equal(sim.regs, 2);
	assert_int_equal(check_stats(p).uncached, 2);
	check_error(hf_secure(sw, at(0), page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -EOPNOTSUPP, "told to answer");
	assert_int_equal(own.secures + own.unsecures, 0);
	own.answer = HF_WATCHED;
	/* The NIC fails: what was armed is disarmed. */
	sim.fail_reg_in = 1;
	check_error(hf_get(p, at(0), page, HF_READ, &r), -ENOMEM, "told to fail");
	assert_int_equal(own.secures, 1);
	assert_int_equal(own.unsecures, 1);
	assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(own.unsecures, 1);
	close_own(sw, p);
}

/* check() is asked on every exact hit, never on an unchecked one, and its word counts. */
static void what_check_answers(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL);
	struct hf_region r;
	unsigned before;

	check_touch(p, at(0), page, HF_READ);
	before = own.checks;
	for (unsigned i = 0; i < 10; i++)
		check_touch(p, at(0), page, HF_READ);
	assert_int_equal(own.checks, before + 10);
	check_ok(hf_sync(p));
	assert_int_equal(own.checks, before + 11);
	for (unsigned i = 0; i < 10; i++) {
		check_ok(hf_get_unchecked(p, at(0), page, HF_READ, &r));
		check_ok(hf_put(p, &r));
	}
	assert_int_equal(own.checks, before + 11);
	/* A change that is under way and never ends: no hit, no waiting for it. */
	own.check_answer = -EAGAIN;
	check_error(hf_sync(p), -EAGAIN, "hf_get");
	assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
	own.check_answer = 0;
	assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	close_own(sw, p);
}

static void the_word(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL);
	uint64_t w = hf_changes_word(own.sink);

	assert_int_equal(w & 1, 0);
	check_touch(p, at(0), page, HF_READ);
	for (unsigned i = 1; i <= 5; i++) {
		hf_changes_begin(own.sink);
		assert_int_equal(hf_changes_word(own.sink), w + 2 * i - 1);
		hf_changes_begin(own.sink); /* once more does nothing */
		assert_int_equal(hf_changes_word(own.sink), w + 2 * i - 1);
		check_error(hf_sync(p), -EAGAIN, "hf_get");
		assert_int_equal(check_touch(p, at(0), page, HF_READ), 0); /* round it, uncached */
		assert_int_equal(hf_changes_end(own.sink), 0);
		assert_int_equal(hf_changes_word(own.sink), w + 2 * i);
		assert_int_equal(hf_changes_end(own.sink), 0);
		assert_int_equal(hf_changes_word(own.sink), w + 2 * i);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	}
	close_own(sw, p);
}

/* An index is busy: the range is kept, the word stays odd, and nothing waits (hazard 28). */
static void busy_index(void **state)
{
	/* Told: page 0 at first, then where nothing is cached: apart, or each in front of the one before. */
	static const struct { unsigned ranges, pages_apart, stay; } want[] = {
		{ 1, 4, PAGES - 1 }, { MAX_KEPT, 4, PAGES - 1 }, { MAX_KEPT + 1, 4, 0 }, { 3 * MAX_KEPT, 4, 0 },
		{ 3 * MAX_KEPT, 1, PAGES - 1 },
	};
	const uint64_t far = 1ull << 46;
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL), *q = check_sim(sw, NULL, NULL);

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		for (unsigned n = 0; n < PAGES; n++) {
			check_touch(p, at(n), page, HF_READ);
			check_touch(q, at(n), page, HF_READ);
		}
		pthread_mutex_lock(&q->cache.lock);
		hf_changes_begin(own.sink);
		for (unsigned n = 0; n < want[i].ranges; n++) {
			uint64_t start = n ? far - n * want[i].pages_apart * page : (uintptr_t)at(0);

			assert_int_equal(hf_changed(own.sink, start, start + page), -EAGAIN);
		}
		assert_int_equal(hf_changes_end(own.sink), -EAGAIN);
		assert_int_equal(hf_changes_word(own.sink) & 1, 1);
		pthread_mutex_unlock(&q->cache.lock);
		changes_end();
		assert_int_equal(hf_changes_word(own.sink) & 1, 0);
		/* Each that was told has gone; too many to keep are everything. */
		assert_int_equal(check_stats(q).entries, want[i].stay);
		assert_int_equal(check_stats(p).entries, want[i].stay);
	}
	check_ok(hf_provider_close(q));
	close_own(sw, p);
}

/* Every provider of the switch is told (R26). */
static void two_providers(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_provider *p[3] = { check_sim(sw, NULL, NULL), check_sim(sw, NULL, NULL),
				     check_sim(sw, NULL, "cache=off") };
	struct hf_region held = check_get(p[2], at(0), page, HF_READ);

	for (unsigned i = 0; i < 2; i++) {
		check_touch(p[i], at(0), 2 * page, HF_READ);
		check_touch(p[i], at(4), page, HF_READ);
	}
	tell(1, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(check_stats(p[i]).invalidations, 1);
		assert_int_equal(check_touch(p[i], at(4), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
		assert_int_equal(check_touch(p[i], at(0), page, HF_READ), HF_REGION_CACHED);
	}
	assert_int_equal(hf_invalidate(sw, at(0), PAGES * page), 4);
	assert_int_equal(check_stats(p[2]).invalidations, 0);
	check_ok(hf_put(p[2], &held));
	check_ok(hf_provider_close(p[0]));
	check_touch(p[1], at(0), page, HF_READ);
	tell(0, 1); /* one is gone, the other is told */
	assert_int_equal(check_stats(p[1]).invalidations, 4);
	check_ok(hf_provider_close(p[2]));
	close_own(sw, p[1]);
}

/*
 * While changes are told, an unchecked get may find what was there before, and a checked one must not: not even
 * what the unchecked one has just looked up.
 */
static void unchecked_before_checked(void **state)
{
	struct hf_proxy_ops table = own_ops;
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_region r;

	table.check = NULL; /* its word tells all */
	sw = open_own(&table, NULL);
	p = check_sim(sw, NULL, NULL);
	check_touch(p, at(0), page, HF_READ);
	check_touch(p, at(0), page, HF_READ);
	assert_true(check_touch(p, at(0), page, HF_READ) & HF_REGION_HIT);
	hf_changes_begin(own.sink);
	check_ok(hf_get_unchecked(p, at(0), page, HF_READ, &r));
	assert_true(r.flags & HF_REGION_HIT);
	check_ok(hf_put(p, &r));
	assert_false(check_touch(p, at(0), page, HF_READ) & HF_REGION_HIT);
	hf_changed(own.sink, (uintptr_t)at(0), (uintptr_t)at(1));
	changes_end();
	close_own(sw, p);
}

static void sixty_four_providers(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p[MAX_PROVIDERS], *more = NULL;
	struct hf_sim sim = { 0 };

	assert_int_equal(MAX_PROVIDERS, 64);
	for (unsigned i = 0; i < MAX_PROVIDERS; i++) {
		p[i] = check_sim(sw, NULL, NULL);
		check_touch(p[i], at(0), page, HF_READ);
	}
	check_error(hf_provider_open_nic(sw, hf_nic_find("sim"), &sim, NULL, &more), -EMFILE, "64 providers");
	assert_null(more);
	assert_int_equal(hf_invalidate(sw, at(0), page), MAX_PROVIDERS);
	check_ok(hf_provider_close(p[17]));
	p[17] = check_sim(sw, NULL, NULL);
	check_error(hf_switch_close(sw), -EBUSY, "64 providers are open");
	for (unsigned i = 0; i < MAX_PROVIDERS; i++)
		check_ok(hf_provider_close(p[i]));
	check_ok(hf_switch_close(sw));
}

/* ------------------------------------------------------------------ ... that tells from a thread of its own */

struct teller {
	pthread_t id;
	_Atomic bool stop, in_change, told;
	sem_t begun;
};

static void *tell_storm(void *arg)
{
	struct teller *t = arg;

	for (unsigned i = 0; !atomic_load(&t->stop); i++) {
		uint64_t start = (uintptr_t)at(i % PAGES);

		hf_changes_begin(own.sink);
		hf_changed(own.sink, start, start + page);
		while (hf_changes_end(own.sink) == -EAGAIN)
			sched_yield();
		usleep(50);
	}
	return NULL;
}

static void told_by_its_own_thread(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_sim sim = { 0 };
	struct hf_provider *p = check_sim(sw, &sim, NULL);
	struct teller t = { .stop = false };
	struct hf_stats s;

	assert_int_equal(pthread_create(&t.id, NULL, tell_storm, &t), 0);
	for (unsigned i = 0; i < 20000 || !check_stats(p).invalidations || !check_stats(p).hits; i++) {
		struct hf_region r = check_get(p, at(i * 5 % PAGES), page, HF_READWRITE);

		hf_sim_begin(&r);
		hf_sim_use(&r, (void *)(uintptr_t)r.addr, page);
		hf_sim_end(&r);
		check_ok(hf_put(p, &r));
	}
	atomic_store(&t.stop, true);
	pthread_join(t.id, NULL);
	s = check_stats(p);
	assert_true(s.hits > 0 && s.misses > 0);
	tell(0, PAGES);
	assert_int_equal(check_stats(p).entries, 0);
	check_pinned(p, 0);
	assert_int_equal(sim.live, 0);
	close_own(sw, p);
}

static void *tell_slowly(void *arg)
{
	struct teller *t = arg;

	hf_changes_begin(own.sink);
	sem_post(&t->begun);
	while (!atomic_load(&t->stop))
		usleep(1000);
	usleep(30000); /* most likely it is being closed, or asked, by now; if not, this proves less */
	atomic_store(&t->told, true);
	hf_changed(own.sink, (uintptr_t)at(0), (uintptr_t)at(1));
	changes_end();
	return NULL;
}

/* A provider isn't gone while the telling thread may still be in it. */
static void close_while_it_tells(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL), *q = check_sim(sw, NULL, NULL);
	struct teller t = { .stop = false };

	check_touch(p, at(0), page, HF_READ);
	check_touch(q, at(0), page, HF_READ);
	sem_init(&t.begun, 0, 0);
	assert_int_equal(pthread_create(&t.id, NULL, tell_slowly, &t), 0);
	sem_wait(&t.begun);
	assert_false(t.told);
	atomic_store(&t.stop, true);
	check_ok(hf_provider_close(q));
	assert_true(t.told);
	pthread_join(t.id, NULL);
	sem_destroy(&t.begun);
	assert_int_equal(check_stats(p).entries, 0);
	close_own(sw, p);
}

/* R37: what is on its way is waited for, and "no" is never said instead. `asked`: the proxy can be asked besides its word. */
static void secured_is_told_late(void **state)
{
	for (int asked = 0; asked < 2; asked++) {
		struct teller t = { .stop = false };
		struct hf_proxy_ops ops = own_ops;
		struct hf_switch *sw;
		uint64_t id;
		int rc = -EAGAIN;

		ops.check = asked ? own_check : NULL;
		sw = open_own(&ops, NULL);
		check_ok(hf_secure(sw, at(0), page, HF_READ | HF_NOTIFY, NULL, NULL, &id));
		assert_int_equal(hf_secured_changed(sw, id), 0);
		/* Never: that is said, too. */
		hf_changes_begin(own.sink);
		check_error(hf_secured_changed(sw, id), -EAGAIN, "ask again");
		changes_end();
		assert_int_equal(hf_secured_changed(sw, id), 0);
		/* Later than for a moment. */
		sem_init(&t.begun, 0, 0);
		assert_int_equal(pthread_create(&t.id, NULL, tell_slowly, &t), 0);
		sem_wait(&t.begun);
		atomic_store(&t.stop, true);
		for (int i = 0; i < 600 && rc == -EAGAIN; i++)
			rc = hf_secured_changed(sw, id);
		assert_int_equal(rc, 1);
		pthread_join(t.id, NULL);
		sem_destroy(&t.begun);
		check_ok(hf_unsecure(sw, id));
		check_ok(hf_switch_close(sw));
	}
}

/* ------------------------------------------------------------------ ... and by parts */

static unsigned touch_by(struct hf_provider *p, unsigned part, unsigned first)
{
	own.parts = 1u << part;
	return check_touch(p, at(first), page, HF_READ);
}

/* What is on its way in one part holds up what is watched by it, and nothing else. */
static void told_by_parts(void **state)
{
	struct hf_proxy_ops ops = own_ops;
	struct hf_switch *sw;
	struct hf_provider *p;
	unsigned hit = HF_REGION_HIT | HF_REGION_CACHED;

	ops.caps |= HF_CAP_PARTS;
	ops.check_parts = own_check_parts;
	sw = open_own(&ops, NULL);
	p = check_sim(sw, NULL, NULL);
	assert_ptr_equal(hf_sink_part(own.sink, 0), own.sink);
	assert_null(hf_sink_part(own.sink, HF_SINK_PARTS));
	for (unsigned i = 0; i < HF_SINK_PARTS; i++)
		assert_int_equal(touch_by(p, i, i), HF_REGION_CACHED);
	for (unsigned i = 0; i < HF_SINK_PARTS; i++) {
		struct hf_sink *part = hf_sink_part(own.sink, i);

		hf_changes_begin(part);
		for (unsigned k = 0; k < HF_SINK_PARTS; k++) {
			if (k == i)
				continue;
			assert_int_equal(touch_by(p, k, k), hit);
			assert_int_equal(own.asked, 1u << k);
		}
		assert_int_equal(touch_by(p, i, i), 0); /* no moment without a change: it goes round the cache */
		hf_changed(part, (uintptr_t)at(i), (uintptr_t)at(i + 1));
		while (hf_changes_end(part) == -EAGAIN)
			sched_yield();
		assert_int_equal(touch_by(p, i, i), HF_REGION_CACHED);
	}
	close_own(sw, p);
}

/* ------------------------------------------------------------------ ... and by two numbers */

static _Atomic uint64_t moves_now, told_now;

static void own_clocks(void *proxy, const uint64_t **moves, const uint64_t **told)
{
	*moves = (const uint64_t *)&moves_now;
	*told = (const uint64_t *)&told_now;
}

static int clocks_check(void *proxy)
{
	atomic_fetch_add(&own.checks, 1);
	return moves_now == told_now ? 0 : -EAGAIN;
}

static struct hf_switch *open_clocks(const char *options)
{
	struct hf_proxy_ops ops = own_ops;

	ops.check = clocks_check;
	ops.clocks = own_clocks;
	moves_now = told_now = 0;
	return open_own(&ops, options);
}

static unsigned touch_unchecked(struct hf_provider *p, unsigned n)
{
	struct hf_region r;
	unsigned flags;

	check_ok(hf_get_unchecked(p, at(n), page, HF_READ, &r));
	flags = r.flags;
	check_ok(hf_put(p, &r));
	return flags;
}

/* R25, I1: no hit while they differ; and as long as they are equal and nothing was told, nobody has to be asked. */
static void told_by_numbers(void **state)
{
	static const char *const options[] = { NULL, "mode=fast" };
	unsigned hit = HF_REGION_HIT | HF_REGION_CACHED;

	for (unsigned i = 0; i < 2; i++) {
		struct hf_switch *sw = open_clocks(options[i]);
		struct hf_provider *p = check_sim(sw, NULL, NULL);
		unsigned asked;

		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), hit);
		asked = own.checks;
		for (unsigned k = 0; k < 10; k++)
			assert_int_equal(check_touch(p, at(0), page, HF_READ), hit);
		assert_int_equal(own.checks, asked);
		moves_now = 1; /* something changes: it isn't told yet */
		assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
		assert_true(own.checks > asked);
		told_now = 1; /* it was something else */
		assert_int_equal(check_touch(p, at(0), page, HF_READ), hit);
		moves_now = 2;
		tell(0, 1);
		/* Gone; a new one may be made, it is a hit when all is told. */
		assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
		assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
		told_now = 2;
		assert_int_equal(check_touch(p, at(0), page, HF_READ), hit);
		close_own(sw, p);
	}
}

/* What an unchecked get has found while they differ is no hit of a checked one. */
static void numbers_and_unchecked(void **state)
{
	unsigned hit = HF_REGION_HIT | HF_REGION_CACHED;
	struct hf_switch *sw = open_clocks(NULL);
	struct hf_provider *p = check_sim(sw, NULL, NULL);

	assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
	moves_now = 1;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(touch_unchecked(p, 0), hit);
	assert_int_equal(check_touch(p, at(0), page, HF_READ), 0);
	assert_int_equal(touch_unchecked(p, 0), hit);
	tell(0, 1);
	told_now = 1;
	assert_int_equal(check_touch(p, at(0), page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_touch(p, at(0), page, HF_READ), hit);
	close_own(sw, p);
}

static unsigned cannot_deny(void *proxy)
{
	return proxy == &own ? ~HF_CAP_DENY : 0;
}

static int deny_anything(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	return 0;
}

/* What a proxy says after it was opened counts, not what its table does. */
static void not_able_here(void **state)
{
	struct hf_proxy_ops ops = own_ops;
	struct hf_switch *sw;
	uint64_t id;

	ops.caps |= HF_CAP_DENY;
	ops.deny = deny_anything;
	ops.able = cannot_deny;
	sw = open_own(&ops, NULL);
	check_error(hf_secure(sw, at(0), page, HF_READ | HF_DENY, NULL, NULL, &id), -ENOTSUP, "can't refuse");
	check_ok(hf_secure(sw, at(0), page, HF_READ | HF_NOTIFY, NULL, NULL, &id));
	check_ok(hf_unsecure(sw, id));
	close_own(sw, NULL);
}

/* A table that knows of no parts has one. */
static void no_parts(void **state)
{
	struct hf_switch *sw = open_own(&own_ops, NULL);

	for (unsigned i = 0; i < HF_SINK_PARTS; i++)
		assert_ptr_equal(hf_sink_part(own.sink, i), own.sink);
	close_own(sw, NULL);
}

/* ------------------------------------------------------------------ a proxy over a proxy */

static struct over {
	const struct hf_proxy_ops *under;
	_Atomic unsigned secures, unsecures, checks;
} over;

static int over_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	int rc = over.under->secure(proxy, start, end, access, id);

	over.secures += rc == HF_WATCHED;
	return rc;
}

static void over_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
	over.unsecures++;
	over.under->unsecure(proxy, start, end, id);
}

static int over_check(void *proxy)
{
	over.checks++;
	return over.under->check ? over.under->check(proxy) : 0;
}

static int over_check_parts(void *proxy, unsigned parts)
{
	over.checks++;
	return over.under->check_parts(proxy, parts);
}

static int over_check_range(void *proxy, uint64_t start, uint64_t end, unsigned parts)
{
	over.checks++;
	return over.under->check_range(proxy, start, end, parts);
}

/* `parts`: pass them on, or be of a time when there were none. */
static void proxy_over(const char *name, bool parts)
{
	struct hf_proxy_ops ops = *hf_proxy_find(name);
	struct hf_switch *sw = NULL;
	struct hf_sim sim = { 0 };
	struct hf_provider *p;
	struct hf_region r;

	memset(&over, 0, sizeof(over));
	over.under = hf_proxy_find(name);
	ops.name = "over";
	ops.secure = over_secure;
	ops.unsecure = over_unsecure;
	ops.check = over_check;
	if (ops.check_parts)
		ops.check_parts = over_check_parts;
	if (ops.check_range)
		ops.check_range = over_check_range;
	if (!parts) {
		ops.caps &= ~HF_CAP_PARTS;
		ops.size = offsetof(struct hf_proxy_ops, check_parts);
	}
	if (hf_switch_open_proxy(&ops, NULL, NULL, &sw)) {
		print_message("%s: %s\n", name, hf_error());
		skip();
	}
	assert_string_equal(hf_switch_proxy(sw), "over");
	p = check_sim(sw, &sim, NULL);
	r = check_get(p, at(2), 2 * page, HF_READWRITE);
	hf_sim_begin(&r);
	if (!strcmp(name, "uffd")) {
		munmap(at(3), page);
		assert_ptr_equal(mmap(at(3), page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				      0), at(3));
	} else {
		assert_int_equal(hf_invalidate(sw, at(3), page), 1);
	}
	check_quiet(p);
	assert_int_equal(check_touch(p, at(2), page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_touch(p, at(2), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	hf_sim_end(&r);
	check_ok(hf_put(p, &r));
	check_close(sw, p);
	assert_int_equal(over.secures, 2);
	assert_int_equal(over.unsecures, 2);
	assert_true(over.checks >= 2);
	assert_int_equal(sim.live, 0);
}

static void proxy_over_manual(void **state)
{
	proxy_over("manual", true);
}

static void proxy_over_uffd(void **state)
{
	proxy_over("uffd", true);
}

static void earlier_proxy_over_uffd(void **state)
{
	proxy_over("uffd", false);
}

/* ------------------------------------------------------------------ helpers for back ends */

static void find_by_name(void **state)
{
	static const char *const bad[] = { "", "nosuch", "SIM", "sim ", "uring:", "simulator" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(hf_nic_find(bad[i]));
		assert_null(hf_proxy_find(bad[i]));
	}
	assert_null(hf_nic_find(NULL));
	assert_null(hf_proxy_find(NULL));
	assert_string_equal(hf_nic_find("sim")->name, "sim");
	assert_string_equal(hf_nic_find("uring")->name, "uring");
	assert_string_equal(hf_proxy_find("manual")->name, "manual");
	assert_null(hf_proxy_find("sim"));
	assert_null(hf_nic_find("manual"));
}

static void set_error(void **state)
{
	char text[1000];

	assert_int_equal(hf_set_error(-EIO, "number %d", 7), -EIO);
	assert_string_equal(hf_error(), "number 7");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	hf_set_error(-EIO, "%s", text); /* cut, not overrun */
	assert_in_range(strlen(hf_error()), 100, sizeof(text) - 2);
	assert_int_equal(hf_set_error(0, "%s", ""), 0);
	assert_string_equal(hf_error(), "");
}

static void range_check(void **state)
{
	char *p = check_map(4 * page);
	uint64_t a = (uintptr_t)p;

	mprotect(p + 2 * page, page, PROT_READ);
	assert_int_equal(hf_range_check(a, a + 4 * page, HF_READ), 0);
	assert_int_equal(hf_range_check(a, a + 2 * page, HF_READWRITE), 0);
	assert_int_equal(hf_range_check(a + 3 * page, a + 4 * page, HF_WRITE), 0);
	check_error(hf_range_check(a, a + 3 * page, HF_WRITE), -EACCES, "read-only");
	check_error(hf_range_check(a, a + 5 * page, HF_READ), -EACCES, "PROT_NONE");
	munmap(p + page, page);
	check_error(hf_range_check(a, a + 4 * page, HF_READ), -EFAULT, "nothing is mapped");
	assert_int_equal(hf_range_check(a, a + page, HF_READ), 0);
	check_error(hf_range_check(0, page, HF_READ), -EFAULT, "nothing is mapped");
	check_error(hf_range_check(UINT64_MAX - 2 * page + 1, UINT64_MAX - page + 1, HF_READ), -EFAULT,
		    "nothing is mapped");
	check_unmap(p, 4 * page);
}

struct fds {
	int closed, kept;
};

static int child_has(void *arg)
{
	struct fds *f = arg;

	return (fcntl(f->closed, F_GETFD) == -1 ? 0 : 1) | (fcntl(f->kept, F_GETFD) >= 0 ? 0 : 2);
}

static void close_on_fork(void **state)
{
	struct fds f = { .closed = open("/dev/null", O_RDONLY), .kept = open("/dev/null", O_RDONLY) };
	int taken = 0;

	check_ok(hf_close_on_fork(f.closed));
	check_ok(hf_close_on_fork(f.kept));
	hf_close_on_fork_done(f.kept);
	for (int i = 0; i < 3; i++)
		assert_int_equal(check_child(child_has, &f), 0);
	assert_true(fcntl(f.closed, F_GETFD) >= 0);
	hf_close_on_fork_done(f.closed);
	assert_int_equal(check_child(child_has, &f), 1); /* the control */
	/* There is an end to it, which is told. */
	while (taken < 10000 && hf_close_on_fork(1000000 + taken) == 0)
		taken++;
	assert_in_range(taken, 64, 9999);
	check_says("descriptors");
	for (int i = 0; i < taken; i++)
		hf_close_on_fork_done(1000000 + i);
	hf_close_on_fork_done(12345); /* not in there: nothing happens */
	close(f.closed);
	close(f.kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(earlier_nic), cmocka_unit_test(cut_off_uring), cmocka_unit_test(later_nic),
		cmocka_unit_test(refused_nics), cmocka_unit_test(nic_over_sim), cmocka_unit_test(nic_over_uring),
		cmocka_unit_test(copy_on_write_is_broken), cmocka_unit_test(nic_of_a_provider),
		cmocka_unit_test(earlier_proxy), cmocka_unit_test(refused_proxies),
		cmocka_unit_test(what_secure_answers), cmocka_unit_test(what_check_answers),
		cmocka_unit_test(the_word), cmocka_unit_test(unchecked_before_checked),
		cmocka_unit_test(busy_index), cmocka_unit_test(two_providers),
		cmocka_unit_test(sixty_four_providers), cmocka_unit_test(told_by_its_own_thread),
		cmocka_unit_test(close_while_it_tells), cmocka_unit_test(secured_is_told_late), cmocka_unit_test(proxy_over_manual),
		cmocka_unit_test(proxy_over_uffd), cmocka_unit_test(earlier_proxy_over_uffd),
		cmocka_unit_test(told_by_parts), cmocka_unit_test(no_parts), cmocka_unit_test(told_by_numbers),
		cmocka_unit_test(numbers_and_unchecked), cmocka_unit_test(not_able_here),
		cmocka_unit_test(find_by_name), cmocka_unit_test(set_error),
		cmocka_unit_test(range_check), cmocka_unit_test(close_on_fork),
	};

	unsetenv("HOLDFAST");
	return cmocka_run_group_tests_name("backend", tests, group_setup, group_teardown);
}
