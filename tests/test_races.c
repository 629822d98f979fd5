/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hazards 16 to 24: threads that map, unmap, look up and let go at once. Over a NIC that pins (NIC and proxy are those of
 * check.h) the bytes are compared that a registration really reaches; over `sim`, which aborts when a key is used too late or
 * taken away too early, the order of things can be forced. Nothing here depends on time but the watchdog.
 */
#include "check.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <fcntl.h>

#include "cache.h"
#include "provider.h"
#include "proxy/quarantine.h"
#include "thread.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define SANITIZED (CHECK_ASAN || CHECK_TSAN)
#define WATCHDOG_SECONDS 1200 /* of a hang only: far more than the slowest machine takes under load */
#define SEEN_MS 600000
#define FEW 2
#define MANY 8
#define TIMES(n) ((n) / (SANITIZED ? 8 : 1) / check_scale())
#define TRIES 60000 /* 1 ms apart: until a range that was being changed is cached again */
#define LIMIT "max_bytes=4M"
#define STAMP 16u

static struct hf_switch *sw;
static struct hf_provider *provider;
static struct hf_sim sim;
static size_t page;

/* ------------------------------------------------------------------ open and close */

static int open_both(void **state)
{
	sw = check_hazard_switch();
	provider = check_hazard_provider(sw, LIMIT);
	return 0;
}

static void open_sim(const char *options)
{
	memset(&sim, 0, sizeof(sim));
	sw = check_hazard_switch();
	provider = check_sim(sw, &sim, options);
}

static int open_plain_sim(void **state)
{
	open_sim("max_bytes=1T");
	return 0;
}

static int close_both(void **state)
{
	return check_close_both(&sw, &provider);
}

/* All is let go, and every registration is accounted for. */
static void assert_books(uint64_t lookups, bool nic_never_failed)
{
	struct hf_stats s;

	check_quiet(provider);
	assert_true(cache_is_valid(&provider->cache));
	hf_flush(provider);
	check_pinned(provider, 0);
	assert_true(cache_is_valid(&provider->cache));
	s = check_stats(provider);
	assert_int_equal(s.entries, 0);
	assert_int_equal(s.dead_held, 0);
	if (nic_never_failed)
		assert_int_equal(s.failures, 0);
	assert_int_equal(s.hits + s.misses + s.uncached, lookups);
	assert_int_equal(s.invalidations + s.evictions + s.superseded, s.misses);
	assert_in_range(s.in_use_invalidations, 0, s.invalidations);
}

static void assert_accounts(uint64_t lookups)
{
	assert_books(lookups, true);
}

static void assert_sim_is_empty(void)
{
	assert_int_equal(sim.live, 0);
	assert_int_equal(sim.live_bytes, 0);
	assert_int_equal(sim.regs, sim.deregs);
}

/* ------------------------------------------------------------------ threads */

struct worker {
	pthread_t thread;
	unsigned index, times;
	uint64_t random, serial;
	unsigned char *p; /* the test's own */
	size_t len;
	uint64_t lookups, hits, wrong;
	bool (*seen)(const struct worker *w); /* NULL: `times` is enough */
	uint64_t limit; /* ms; set when `times` were not enough */
};

/* An assert belongs to the main thread: the others note what went wrong. */
static _Atomic unsigned faults;

static void fault(const char *what, int rc)
{
	if (atomic_fetch_add(&faults, 1) == 0)
		print_error("%s: %d: %s\n", what, rc, hf_error());
}

static void start(struct worker *w, unsigned n, void *(*fn)(void *))
{
	for (unsigned i = 0; i < n; i++) {
		w[i].index = i;
		w[i].random = 1000 + i;
		w[i].serial = (uint64_t)(i + 1) << 40;
		assert_int_equal(pthread_create(&w[i].thread, NULL, fn, &w[i]), 0);
	}
}

static struct worker join(struct worker *w, unsigned n)
{
	struct worker sum = { 0 };

	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		sum.lookups += w[i].lookups;
		sum.hits += w[i].hits;
		sum.wrong += w[i].wrong;
	}
	assert_int_equal(atomic_exchange(&faults, 0), 0);
	return sum;
}

static _Atomic bool late; /* who changes memory all the time does it more slowly: nothing may be cached for it */

/*
 * A race that didn't come about shows nothing, and who runs when is up to the scheduler: a thread may have done all of its
 * times before another one had its first turn. So it goes on until it was seen, for SEEN_MS at most.
 */
static bool goes_on(struct worker *w, unsigned done)
{
	if (done < w->times)
		return true;
	if (!w->seen || atomic_load(&faults) || (done % 16 == 0 && w->seen(w)))
		return false;
	w->limit = w->limit ? w->limit : check_now_ms() + SEEN_MS;
	atomic_store(&late, true);
	if (check_now_ms() < w->limit)
		return true;
	fault("what the race is about never came about", 0);
	return false;
}

static bool saw_hit(const struct worker *w)
{
	return w->hits > 0;
}

static bool saw_wrong(const struct worker *w)
{
	return w->wrong > 0;
}

static struct hf_stats stats_now(void)
{
	struct hf_stats s = { 0 };
	int rc = hf_provider_stats(provider, &s, sizeof(s));

	if (rc)
		fault("hf_provider_stats", rc);
	return s;
}

static bool saw_any_hit(const struct worker *w)
{
	return stats_now().hits > 0;
}

static bool saw_eviction(const struct worker *w)
{
	return w->hits > 0 && stats_now().evictions > 0;
}

static bool saw_invalidation(const struct worker *w)
{
	return stats_now().invalidations > 0;
}

static bool saw_invalidation_in_use(const struct worker *w)
{
	return stats_now().in_use_invalidations > 0;
}

static unsigned below(struct worker *w, unsigned n)
{
	return (unsigned)(check_random(&w->random) % n);
}

static void wait_sem(sem_t *s)
{
	while (sem_wait(s))
		;
}

/* ------------------------------------------------------------------ memory and bytes */

static void *map_fixed(void *at, size_t len, int how)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | how, -1, 0);
}

static unsigned char *map(size_t len)
{
	return (unsigned char *)check_map(len);
}

static void unmap(unsigned char *p, size_t len)
{
	check_unmap((char *)p, len);
}

static void stamp(struct worker *w, unsigned char *p, size_t len)
{
	for (size_t at = 0; at < len; at += page) {
		uint64_t words[2];

		words[0] = ++w->serial;
		words[1] = ~w->serial * 0x9e3779b97f4a7c15u;
		memcpy(p + at, words, sizeof(words));
	}
}

/* Pages that the NIC reads, or writes, otherwise than the processor. */
static unsigned wrong_pages(const struct hf_region *r, unsigned char *p, size_t len)
{
	unsigned char nic[STAMP];
	unsigned wrong = 0;

	for (size_t at = 0; at < len; at += page) {
		int rc = hf_peek(r, p + at, nic, sizeof(nic));
		bool bad = memcmp(nic, p + at, sizeof(nic)) != 0;

		nic[0] ^= 0xff;
		if (!rc)
			rc = hf_poke(r, p + at, nic, sizeof(nic));
		if (rc)
			fault("hf_peek or hf_poke", rc);
		wrong += bad || memcmp(nic, p + at, sizeof(nic));
	}
	return wrong;
}

/* Look up, compare, put. */
static unsigned look(struct worker *w, unsigned char *p, size_t len)
{
	struct hf_region r;
	int rc = hf_get(provider, p, len, HF_READWRITE, &r);
	unsigned flags;

	w->lookups++;
	if (rc) {
		fault("hf_get", rc);
		return 0;
	}
	flags = r.flags;
	w->hits += flags & HF_REGION_HIT;
	w->wrong += wrong_pages(&r, p, len);
	rc = hf_put(provider, &r);
	if (rc)
		fault("hf_put", rc);
	return flags;
}

/* Until it is a hit. */
static void look_until_hit(struct worker *w, unsigned char *p, size_t len)
{
	for (int i = 0; i < TRIES; i++) {
		if (look(w, p, len) & HF_REGION_HIT)
			return;
		usleep(1000);
	}
	fail_msg("no hit in %d lookups: %s", TRIES, hf_error());
}

static void cache(void *p, size_t len)
{
	for (int i = 0; i < TRIES; i++) {
		if (check_touch(provider, p, len, HF_READWRITE) & HF_REGION_CACHED)
			return;
		usleep(1000);
	}
	fail_msg("not cached in %d lookups: %s", TRIES, hf_error());
}

static bool is_hit(void *p, size_t len)
{
	return check_touch(provider, p, len, HF_READWRITE) & HF_REGION_HIT;
}

/* ------------------------------------------------------------------ 16: an address is recycled */

enum change { UNMAP, REMAP_ONTO, MAP_OVER, DONTNEED, CHANGES };

/* The pages at p are replaced; false: the address is somebody else's now. */
static bool change(enum change how, unsigned char *p, size_t len)
{
	void *other;

	switch (how) {
	case UNMAP:
		return munmap(p, len) == 0 && map_fixed(p, len, MAP_FIXED_NOREPLACE) == p;
	case REMAP_ONTO:
		other = map_fixed(NULL, len, 0);
		memset(other, 0x5a, len);
		return mremap(other, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p;
	case MAP_OVER:
		return map_fixed(p, len, MAP_FIXED) == p;
	default:
		return madvise(p, len, MADV_DONTNEED) == 0;
	}
}

static void recycle_once(struct worker *w)
{
	size_t len = (1 + below(w, 4)) * page;
	unsigned char *p = map_fixed(NULL, len, 0);
	unsigned how = below(w, 2 * CHANGES);

	if (p == MAP_FAILED) {
		fault("mmap", -errno);
		return;
	}
	stamp(w, p, len);
	look(w, p, len);
	stamp(w, p, len);
	look(w, p, len);
	if (how > UNMAP && how < CHANGES && change(how, p, len)) {
		stamp(w, p, len);
		look(w, p, len);
	}
	munmap(p, len);
}

static void *recycle(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; goes_on(w, i); i++)
		recycle_once(w);
	return NULL;
}

static struct worker run_recycle(unsigned threads, unsigned times, bool (*seen)(const struct worker *w))
{
	struct worker w[MANY] = { 0 };

	for (unsigned i = 0; i < threads; i++) {
		w[i].times = times;
		w[i].seen = seen;
	}
	start(w, threads, recycle);
	return join(w, threads);
}

static void try_recycle(unsigned threads)
{
	struct worker sum = run_recycle(threads, TIMES(8000) / threads, saw_hit);

	assert_int_equal(sum.wrong, 0);
	assert_true(sum.hits > 0); /* it is a cache that was tested */
	assert_accounts(sum.lookups);
}

/* Hazard 16. */
static void test_recycle_2_threads(void **state)
{
	try_recycle(FEW);
}

/* Hazard 16. */
static void test_recycle_8_threads(void **state)
{
	try_recycle(MANY);
}

/* The negative control: a proxy that claims to watch and sees nothing must be caught by the same test. */
static int blind_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	*proxy = sink;
	return 0;
}

static void blind_close(void *proxy)
{
}

static int blind_secure(void *proxy, uint64_t from, uint64_t to, unsigned access, uint64_t *id)
{
	*id = 0;
	return HF_WATCHED;
}

static void blind_unsecure(void *proxy, uint64_t from, uint64_t to, uint64_t id)
{
}

static int open_blind(void **state)
{
	static const struct hf_proxy_ops ops = {
		.size = sizeof(ops), .abi = HF_BACKEND_ABI, .caps = HF_CAP_WATCH, .name = "blind",
		.open = blind_open, .close = blind_close, .secure = blind_secure, .unsecure = blind_unsecure,
	};

	check_ok(hf_switch_open_proxy(&ops, NULL, NULL, &sw));
	provider = check_hazard_provider(sw, LIMIT);
	return 0;
}

static void test_recycle_sees_wrong_bytes_without_a_proxy(void **state)
{
	unsigned times = 200 / check_scale() + 20;

	assert_int_not_equal(run_recycle(FEW, times, saw_wrong).wrong, 0);
	assert_int_not_equal(run_recycle(MANY, times, saw_wrong).wrong, 0);
}

/* Unmapped while held: `sim` aborts when it is deregistered before the transfer has ended (I2). */
static void hold_once(struct worker *w)
{
	size_t len = (1 + below(w, 4)) * page;
	unsigned char *p = map_fixed(NULL, len, 0);
	bool early = below(w, 2);
	struct hf_region r;
	int rc = hf_get(provider, p, len, HF_READWRITE, &r);

	w->lookups++;
	if (rc) {
		fault("hf_get", rc);
		return;
	}
	w->hits += r.flags & HF_REGION_HIT;
	hf_sim_begin(&r);
	if (early)
		munmap(p, len);
	hf_sim_use(&r, p, len);
	if (below(w, 4) == 0)
		sched_yield();
	hf_sim_end(&r);
	rc = hf_put(provider, &r);
	if (rc)
		fault("hf_put", rc);
	if (!early)
		munmap(p, len);
}

static void *hold(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; goes_on(w, i); i++)
		hold_once(w);
	return NULL;
}

static void try_hold(unsigned threads)
{
	struct worker w[MANY] = { 0 }, sum;

	for (unsigned i = 0; i < threads; i++) {
		w[i].times = TIMES(8000) / threads;
		w[i].seen = saw_invalidation_in_use;
	}
	start(w, threads, hold);
	sum = join(w, threads);
	assert_accounts(sum.lookups);
	assert_sim_is_empty();
	assert_true(check_stats(provider).in_use_invalidations > 0);
}

static void test_unmapped_while_held_2_threads(void **state)
{
	try_hold(FEW);
}

static void test_unmapped_while_held_8_threads(void **state)
{
	try_hold(MANY);
}

/*
 * ------------------------------------------------------------------ 17: a change during the
 * registration
 */

/* The NIC, with a word before and after each registration. */
static struct {
	int (*reg)(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out);
	enum change how;
	bool after;
	unsigned times;  /* so many registrations are disturbed */
	unsigned failed;
} disturb;

static void disturb_now(uint64_t addr, uint64_t len, bool after)
{
	if (after != disturb.after || !disturb.times)
		return;
	disturb.times--;
	if (!change(disturb.how, (unsigned char *)(uintptr_t)addr, len))
		disturb.failed++;
	memset((void *)(uintptr_t)addr, 0x3c, len);
}

static int disturbed_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	int rc;

	disturb_now(addr, len, false);
	rc = disturb.reg(nic, addr, len, access, out);
	disturb_now(addr, len, true);
	return rc;
}

static int open_disturbed(void **state)
{
	static struct hf_nic_ops ops;

	ops = *check_nic_ops();
	disturb.reg = ops.reg;
	ops.reg = disturbed_reg;
	disturb.times = disturb.failed = 0;
	sw = check_hazard_switch();
	check_ok(hf_provider_open_nic(sw, &ops, NULL, LIMIT, &provider));
	return 0;
}

/*
 * The lookup that was disturbed may answer what it registered before the change, since it began before it. None that
 * begins later may: until one is left in peace, nothing is a hit.
 */
static void try_disturbed(struct worker *w, enum change how, bool after, unsigned times)
{
	struct hf_stats before = check_stats(provider), now;
	size_t len = 4 * page;
	unsigned char *p = map(len);

	disturb.how = how;
	disturb.after = after;
	disturb.times = times;
	while (disturb.times)
		assert_false(is_hit(p, len));
	stamp(w, p, len);
	look(w, p, len);
	stamp(w, p, len);
	look_until_hit(w, p, len);
	assert_int_equal(w->wrong, 0);
	assert_int_equal(disturb.failed, 0);
	now = check_stats(provider);
	/* Found out while it was pending, or while it was live, or it was never cached. */
	assert_true(now.retries + now.invalidations + now.uncached >
		    before.retries + before.invalidations + before.uncached);
	unmap(p, len);
	check_quiet(provider);
	assert_int_equal(check_stats(provider).entries, 0);
}

/* Hazard 17. Known fault 12: pinned, then secured, with a change in between. */
static void test_changed_while_registering_once(void **state)
{
	struct worker w = { 0 };

	for (int i = 0; i < 4; i++)
		for (enum change how = UNMAP; how < CHANGES; how++)
			for (int after = 0; after < 2; after++)
				try_disturbed(&w, how, after, 1);
	assert_true(check_stats(provider).retries > 0);
}

/* Hazard 17. It never keeps still: used uncached, in a bounded number of tries, and cached when it does. */
static void test_changed_while_registering_always(void **state)
{
	struct worker w = { 0 };

	for (enum change how = UNMAP; how < CHANGES; how++)
		for (int after = 0; after < 2; after++)
			try_disturbed(&w, how, after, 40);
	assert_true(check_stats(provider).retries > 0);
	assert_true(check_stats(provider).uncached > 0);
}

/* Every change announces itself by a number: odd while it is made, even when its bytes are there. */
static struct {
	unsigned char *p;
	size_t len;
	_Atomic uint64_t seq;
	_Atomic bool stop;
} shared;

static void *change_shared(void *arg)
{
	struct worker *w = arg;

	/* Until the watchers have had a hit between two changes, after ever longer pauses. */
	for (unsigned i = 0; goes_on(w, i); i++) {
		enum change how = below(w, CHANGES);
		uint64_t seq = atomic_fetch_add(&shared.seq, 1) + 2;

		change(how == UNMAP ? MAP_OVER : how, shared.p, shared.len);
		for (size_t at = 0; at < shared.len; at += page)
			memcpy(shared.p + at, &seq, sizeof(seq));
		atomic_fetch_add(&shared.seq, 1);
		if (below(w, 2))
			usleep(below(w, 100));
		if (i >= w->times)
			usleep(i - w->times);
	}
	atomic_store(&shared.stop, true);
	return NULL;
}

static bool sees(const struct hf_region *r, uint64_t seq)
{
	for (size_t at = 0; at < shared.len; at += page) {
		uint64_t there;
		int rc = hf_peek(r, shared.p + at, &there, sizeof(there));

		if (rc)
			fault("hf_peek", rc);
		if (there != seq)
			return false;
	}
	return true;
}

static void *watch_shared(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&shared.stop)) {
		uint64_t seq = atomic_load(&shared.seq);
		struct hf_region r;
		int rc = hf_get(provider, shared.p, shared.len, HF_READWRITE, &r);
		bool right;

		/* While mremap() moves another mapping here there is a hole: -EFAULT is true then. */
		if (rc == -EFAULT && ((seq & 1) || atomic_load(&shared.seq) != seq))
			continue;
		if (rc) {
			fault("hf_get", rc);
			break;
		}
		w->lookups++;
		w->hits += r.flags & HF_REGION_HIT;
		right = sees(&r, seq);
		hf_put(provider, &r);
		/* Only between two changes the bytes are known. */
		w->wrong += !right && !(seq & 1) && atomic_load(&shared.seq) == seq;
	}
	return NULL;
}

static void try_shared(unsigned watchers)
{
	struct worker changer = { .times = TIMES(4000), .seen = saw_any_hit }, w[MANY] = { 0 }, sum;

	shared.len = 2 * page;
	shared.p = map(shared.len);
	memset(shared.p, 0, shared.len);
	atomic_store(&shared.seq, 0);
	atomic_store(&shared.stop, false);
	start(w, watchers, watch_shared);
	start(&changer, 1, change_shared);
	sum = join(w, watchers);
	join(&changer, 1);
	assert_int_equal(sum.wrong, 0);
	assert_true(sum.hits > 0);
	assert_books(sum.lookups, false);
	unmap(shared.p, shared.len);
}

/* Hazard 17. */
static void test_changed_by_another_2_threads(void **state)
{
	try_shared(1);
}

/* Hazard 17. */
static void test_changed_by_another_8_threads(void **state)
{
	try_shared(MANY - 1);
}

/* ------------------------------------------------------------------ 18: a part goes while it is in use */

/* Hazard 18. */
static void test_partial_unmap_in_use(void **state)
{
	struct worker w = { 0 };
	size_t len = 4 * page;
	unsigned char *p = map(len), nic[STAMP], old[STAMP];
	struct hf_region held, fresh;
	struct hf_stats s;

	stamp(&w, p, len);
	memcpy(old, p + page, sizeof(old));
	held = check_get(provider, p, len, HF_READWRITE);
	assert_int_equal(held.flags, HF_REGION_CACHED);
	assert_true(change(UNMAP, p + page, page));
	check_quiet(provider);
	stamp(&w, p, len);
	fresh = check_get(provider, p, len, HF_READWRITE);
	assert_false(fresh.flags & HF_REGION_HIT);
	assert_int_not_equal(fresh.lkey, held.lkey);
	assert_int_equal(wrong_pages(&fresh, p, len), 0);
	/* What is held stays in the NIC: the page that went, and those that stayed (I2). */
	check_ok(hf_peek(&held, p + page, nic, sizeof(nic)));
	assert_memory_equal(nic, old, sizeof(old));
	assert_int_equal(wrong_pages(&held, p, page), 0);
	s = check_stats(provider);
	assert_int_equal(s.in_use_invalidations, 1);
	assert_int_equal(s.dead_held, 1);
	assert_int_equal(s.entries, 1);
	assert_int_equal(s.pinned_bytes, 2 * len);
	check_ok(hf_put(provider, &held));
	check_pinned(provider, len);
	assert_true(is_hit(p, len));
	check_ok(hf_put(provider, &fresh));
	assert_int_equal(check_stats(provider).dead_held, 0);
	unmap(p, len);
	check_pinned(provider, 0);
}

/* ------------------------------------------------------------------ 19: two miss at once */

static pthread_barrier_t gate;

static void *get_the_same(void *arg)
{
	struct worker *w = arg;
	struct hf_region r;
	int rc;

	pthread_barrier_wait(&gate);
	rc = hf_get(provider, w->p, w->len, HF_READWRITE, &r);
	w->lookups++;
	if (rc) {
		fault("hf_get", rc);
		return NULL;
	}
	hf_sim_begin(&r);
	w->hits = r.flags & HF_REGION_HIT;
	pthread_barrier_wait(&gate); /* all hold it */
	hf_sim_end(&r);
	hf_put(provider, &r);
	return NULL;
}

/* Hazard 19. */
static void test_same_miss_is_one_registration(void **state)
{
	enum { ROUNDS = 20 };
	struct worker sum = { 0 };

	atomic_store(&sim.reg_delay_us, 20000);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		struct worker w[MANY] = { 0 };

		pthread_barrier_init(&gate, NULL, MANY);
		for (unsigned i = 0; i < MANY; i++)
			w[i].len = 4 * page;
		w[0].p = map(4 * page);
		for (unsigned i = 1; i < MANY; i++)
			w[i].p = w[0].p;
		check_quiet(provider); /* the last round's unmap */
		start(w, MANY, get_the_same);
		sum = join(w, MANY);
		assert_int_equal(sum.lookups, MANY);
		assert_int_equal(sum.hits, MANY - 1);
		assert_int_equal(sim.regs, round);
		assert_int_equal(check_stats(provider).misses, round);
		unmap(w[0].p, 4 * page);
		pthread_barrier_destroy(&gate);
	}
	assert_accounts(ROUNDS * MANY);
	assert_sim_is_empty();
}

/*
 * ------------------------------------------------------------------ a slow NIC is nobody else's
 * business
 */

static struct {
	_Atomic uint64_t addr;
	sem_t inside, leave;
} slow;

static void slow_on_reg(void *arg, uint64_t addr, uint64_t len)
{
	if (addr != atomic_load(&slow.addr))
		return;
	sem_post(&slow.inside);
	wait_sem(&slow.leave);
}

static void *get_once(void *arg)
{
	struct worker *w = arg;
	struct hf_region r;
	int rc = hf_get(provider, w->p, w->len, HF_READWRITE, &r);

	w->lookups++;
	if (!rc)
		rc = hf_put(provider, &r);
	if (rc)
		fault("hf_get or hf_put", rc);
	return NULL;
}

/* Known fault 10: a lock held across registration. */
static void test_slow_registration_delays_nobody(void **state)
{
	enum { HITS = 1000 };
	struct worker w = { .p = map(4 * page), .len = 4 * page };
	unsigned char *p = map(4 * page), *q = map(4 * page);

	cache(p, 4 * page);
	cache(q, 4 * page);
	sem_init(&slow.inside, 0, 0);
	sem_init(&slow.leave, 0, 0);
	atomic_store(&slow.addr, (uintptr_t)w.p);
	sim.on_reg = slow_on_reg;
	start(&w, 1, get_once);
	wait_sem(&slow.inside);
	/* The other thread is inside of the NIC until we let it go. */
	for (int i = 0; i < HITS; i++)
		assert_true(is_hit(p, 4 * page));
	assert_int_equal(hf_invalidate(sw, q, page), 1);
	assert_false(is_hit(q, 4 * page)); /* a miss, beside it */
	assert_true(is_hit(q, 4 * page));
	assert_true(change(UNMAP, q, 4 * page));
	assert_false(is_hit(q, 4 * page));
	assert_true(hf_flush(provider) > 0);
	assert_int_equal(check_stats(provider).entries, 0);
	sem_post(&slow.leave);
	join(&w, 1);
	atomic_store(&slow.addr, 0);
	check_quiet(provider);
	assert_true(is_hit(w.p, w.len));
	unmap(w.p, w.len);
	unmap(p, 4 * page);
	unmap(q, 4 * page);
	assert_accounts(2 + HITS + 3 + 1 + 1);
	assert_sim_is_empty();
}

static void meet_on_reg(void *arg, uint64_t addr, uint64_t len)
{
	pthread_barrier_wait(&gate);
}

/* The barrier opens only when all are inside of the NIC at once; the watchdog would end it. */
static void test_misses_register_in_parallel(void **state)
{
	struct worker w[4] = { 0 };
	unsigned char *p = map(4 * 2 * page);

	pthread_barrier_init(&gate, NULL, 4);
	sim.on_reg = meet_on_reg;
	for (unsigned i = 0; i < 4; i++) {
		w[i].p = p + i * 2 * page;
		w[i].len = page;
	}
	start(w, 4, get_once);
	join(w, 4);
	assert_int_equal(sim.regs, 4);
	assert_int_equal(check_stats(provider).entries, 4);
	pthread_barrier_destroy(&gate);
	unmap(p, 4 * 2 * page);
	assert_accounts(4);
	assert_sim_is_empty();
}

/* Hazard 20. All are inside of the NIC at once, so that none sees the others' entries: the limit counts what is to come. */
static void test_misses_at_once_keep_the_limit(void **state)
{
	struct worker w[MANY] = { 0 };
	unsigned char *p = map(2 * MANY * 2 * page);

	open_sim("max_count=8,max_bytes=1T");
	for (unsigned i = 0; i < MANY; i++)
		cache(p + (MANY + i) * 2 * page, page);
	pthread_barrier_init(&gate, NULL, MANY);
	sim.on_reg = meet_on_reg;
	for (unsigned i = 0; i < MANY; i++) {
		w[i].p = p + i * 2 * page;
		w[i].len = page;
	}
	start(w, MANY, get_once);
	join(w, MANY);
	assert_in_range(check_stats(provider).entries, 1, 8);
	pthread_barrier_destroy(&gate);
	unmap(p, 2 * MANY * 2 * page);
	assert_int_equal(close_both(NULL), 0);
}

/* ------------------------------------------------------------------ 20, 21: evict, invalidate, last put */

#define RANGES 16
#define KEEP 8
#define KEEP_OPTION "max_count=8,max_bytes=1T"

/* Any one of RANGES ranges of two pages each, with a page between. */
static void *use_ranges(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; goes_on(w, i); i++) {
		unsigned char *p = w->p + below(w, RANGES) * 3 * page;
		struct hf_region r;
		int rc = hf_get(provider, p, 2 * page, HF_READWRITE, &r);

		w->lookups++;
		if (rc) {
			fault("hf_get", rc);
			break;
		}
		w->hits += r.flags & HF_REGION_HIT;
		hf_sim_begin(&r);
		if (below(w, 8) == 0)
			sched_yield();
		hf_sim_use(&r, p, 2 * page);
		hf_sim_end(&r);
		rc = hf_put(provider, &r);
		if (rc)
			fault("hf_put", rc);
	}
	return NULL;
}

static void assert_within_limits(void)
{
	struct hf_stats s = check_stats(provider);

	for (int i = 0; i < TRIES && s.entries > KEEP; i++) {
		usleep(1000);
		s = check_stats(provider);
	}
	assert_in_range(s.entries, 1, KEEP);
	check_pinned(provider, s.entries * 2 * page);
	assert_int_equal(sim.live, s.entries);
}

static void try_evict(unsigned threads)
{
	struct worker w[MANY] = { 0 }, sum;
	size_t len = RANGES * 3 * page;
	unsigned char *p = map(len);

	open_sim(KEEP_OPTION);
	for (unsigned i = 0; i < threads; i++) {
		w[i].p = p;
		w[i].times = TIMES(24000) / threads;
		w[i].seen = saw_eviction;
	}
	start(w, threads, use_ranges);
	sum = join(w, threads);
	assert_true(sum.hits > 0);
	assert_true(check_stats(provider).evictions > 0);
	assert_within_limits();
	assert_accounts(sum.lookups);
	assert_sim_is_empty();
	unmap(p, len);
	assert_int_equal(close_both(NULL), 0);
}

/* Hazard 20. */
static void test_evict_against_hit(void **state)
{
	try_evict(FEW);
	try_evict(MANY);
}

static void *invalidate_ranges(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&shared.stop)) {
		unsigned char *p = w->p + below(w, RANGES) * 3 * page;
		int rc = 0;

		/* Said by the program, or by the kernel. */
		if (below(w, 2))
			rc = hf_invalidate(sw, p, page);
		else if (madvise(p + page, page, MADV_DONTNEED))
			rc = -errno;
		if (rc < 0)
			fault("hf_invalidate or madvise", rc);
		if (atomic_load(&late))
			usleep(1000);
		else
			sched_yield();
	}
	return NULL;
}

static void try_last_put(unsigned threads)
{
	struct worker users[MANY] = { 0 }, others[MANY] = { 0 }, sum;
	size_t len = RANGES * 3 * page;
	unsigned char *p = map(len);

	open_sim("max_bytes=1T");
	atomic_store(&shared.stop, false);
	atomic_store(&late, false);
	for (unsigned i = 0; i < threads; i++) {
		users[i].p = others[i].p = p;
		users[i].times = (TIMES(16000) + 500) / threads;
		users[i].seen = saw_invalidation;
	}
	start(users, threads, use_ranges);
	start(others, threads, invalidate_ranges);
	sum = join(users, threads);
	atomic_store(&shared.stop, true);
	join(others, threads);
	assert_true(check_stats(provider).invalidations > 0);
	assert_accounts(sum.lookups);
	assert_sim_is_empty();
	cache(p, page);
	unmap(p, len);
	assert_int_equal(close_both(NULL), 0);
}

/* Hazard 21. */
static void test_last_put_against_invalidate(void **state)
{
	try_last_put(1);
	try_last_put(MANY / 2);
}

/* ------------------------------------------------------------------ 22: neighbours */

/* Hazard 22. */
static void test_neighbours_share_a_page(void **state)
{
	struct worker w = { 0 };
	unsigned char *p = map(3 * page);
	struct hf_region a = check_get(provider, p, page / 2, HF_READWRITE);
	struct hf_region b = check_get(provider, p + page / 2, page / 2, HF_READWRITE);

	/* One page, one registration, and never a page more. */
	assert_int_equal(a.length, page);
	assert_true(b.flags & HF_REGION_HIT);
	assert_int_equal(a.lkey, b.lkey);
	check_ok(hf_put(provider, &a));
	/* The page goes because of one of them: the other's is as stale. */
	assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
	stamp(&w, p, page);
	assert_false(look(&w, p + page / 2, page / 2) & HF_REGION_HIT);
	assert_false(look(&w, p, page / 4) & w.wrong);
	assert_int_equal(w.wrong, 0);
	check_ok(hf_put(provider, &b));
	unmap(p, 3 * page);
	check_pinned(provider, 0);
}

/* Hazard 22. */
static void test_overlapping_neighbour_is_unmapped(void **state)
{
	struct worker w = { 0 };
	unsigned char *p = map(6 * page);

	/* Two that overlap in a page: what only one has goes, the other stays. */
	cache(p, 2 * page);
	cache(p + page, 2 * page);
	assert_int_equal(check_stats(provider).entries, 2);
	assert_true(change(UNMAP, p + 2 * page, page));
	check_quiet(provider);
	stamp(&w, p, 6 * page);
	assert_true(look(&w, p, 2 * page) & HF_REGION_HIT);
	assert_false(look(&w, p + page, 2 * page) & HF_REGION_HIT);
	/* The page that both have. */
	look_until_hit(&w, p + page, 2 * page);
	assert_true(change(UNMAP, p + page, page));
	stamp(&w, p, 6 * page);
	assert_false(look(&w, p, 2 * page) & HF_REGION_HIT);
	assert_false(look(&w, p + page, 2 * page) & HF_REGION_HIT);
	assert_int_equal(w.wrong, 0);
	unmap(p, 6 * page);
}

/* Hazard 22. One that a larger one has swallowed: with the larger one it goes as a whole. */
static void test_swallowed_neighbour_is_unmapped(void **state)
{
	struct worker w = { 0 };
	unsigned char *p = map(6 * page);

	cache(p + page, page);
	cache(p, 4 * page);
	assert_int_equal(check_stats(provider).superseded, 1);
	assert_int_equal(check_stats(provider).entries, 1);
	assert_true(look(&w, p + page, page) & HF_REGION_HIT);
	assert_true(change(UNMAP, p + 3 * page, page));
	stamp(&w, p, 6 * page);
	assert_false(look(&w, p + page, page) & HF_REGION_HIT);
	assert_false(look(&w, p, 4 * page) & HF_REGION_HIT);
	assert_int_equal(w.wrong, 0);
	unmap(p, 6 * page);
}

/* Threads that own every n-th page of one mapping. */
static void *be_neighbour(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; goes_on(w, i); i++) {
		unsigned char *p = w->p + (below(w, 8) * MANY + w->index) * page;
		enum change how = below(w, 3 * CHANGES);

		if (how < CHANGES && !change(how == UNMAP ? MAP_OVER : how, p, page))
			fault("change", -errno);
		stamp(w, p, page);
		look(w, p, page / 2);
		stamp(w, p, page);
		look(w, p, page);
	}
	return NULL;
}

static void try_neighbours(unsigned threads)
{
	struct worker w[MANY] = { 0 }, sum;
	size_t len = 8 * MANY * page;
	unsigned char *p = map(len);

	for (unsigned i = 0; i < threads; i++) {
		w[i].p = p;
		w[i].times = TIMES(6000) / threads;
		w[i].seen = saw_hit;
	}
	start(w, threads, be_neighbour);
	sum = join(w, threads);
	assert_int_equal(sum.wrong, 0);
	assert_true(sum.hits > 0);
	assert_accounts(sum.lookups);
	unmap(p, len);
}

/* Hazard 22. */
static void test_neighbours_2_threads(void **state)
{
	try_neighbours(FEW);
}

/* Hazard 22. */
static void test_neighbours_8_threads(void **state)
{
	try_neighbours(MANY);
}

/* ------------------------------------------------------------------ 23: the unmap storm */

#define STORM (400u / check_scale() * 100)

static size_t resident(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	size_t pages = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%*u %zu", &pages), 1);
	fclose(f);
	return pages * page;
}

/* Addresses that were cached, over and over again, with no call to the cache between. */
static void test_unmap_storm(void **state)
{
	struct worker w = { 0 };
	size_t len = 4 * page, before;
	unsigned maps, i;
	unsigned char *p = map(len);

	look_until_hit(&w, p, len);
	before = resident();
	maps = check_count_all_maps();
	for (i = 0; i < STORM; i++) {
		assert_int_equal(munmap(p, len), 0);
		assert_ptr_equal(map_fixed(p, len, MAP_FIXED_NOREPLACE), p);
		*p = (unsigned char)i;
	}
	stamp(&w, p, len);
	assert_false(look(&w, p, len) & HF_REGION_HIT);
	look_until_hit(&w, p, len);
	assert_int_equal(w.wrong, 0);
	assert_int_equal(check_stats(provider).entries, 1);
	check_pinned(provider, len);
	assert_in_range(check_count_all_maps(), 0, maps + 8);
	assert_in_range(resident(), 0, before + 4 * MIB + SANITIZED * 64 * MIB);
	unmap(p, len);
	check_pinned(provider, 0);
}

/* All of it armed: 40 000 events, and one in a hundred drops an entry. */
static void test_unmap_storm_of_armed_memory(void **state)
{
	enum { EACH = 100 };
	unsigned looks = 0;
	size_t len = STORM * page, before;
	unsigned char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned maps, i;

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(madvise(p, len, MADV_NOHUGEPAGE), 0);
	for (i = 0; i < STORM; i += EACH)
		cache(p + i * page, page);
	assert_int_equal(check_stats(provider).entries, STORM / EACH);
	before = resident();
	maps = check_count_all_maps();
	for (i = STORM; i > 1; i--)
		assert_int_equal(munmap(p + (i - 1) * page, page), 0);
	/* A change of somebody else's, such as the reaper's, may send a lookup round the cache. */
	do {
		check_quiet(provider);
		looks++;
	} while (!is_hit(p, page) && looks < 100);
	assert_true(looks < 100);
	assert_int_equal(check_stats(provider).entries, 1);
	assert_int_equal(check_stats(provider).invalidations, STORM / EACH - 1);
	assert_in_range(check_count_all_maps(), 0, maps + 8);
	/* TSan keeps a trace of each thread, which grows with the events that it reads. */
	assert_in_range(resident(), 0, before + 4 * MIB + SANITIZED * 64 * MIB + CHECK_TSAN * 192 * MIB);
	assert_int_equal(munmap(p, page), 0);
	assert_accounts(STORM / EACH + looks);
	assert_sim_is_empty();
}

/*
 * ------------------------------------------------------------------ 24: events faster than they are
 * read
 */

static void *flood(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < w->times; i++)
		if (madvise(w->p + below(w, 64) * page, page, MADV_DONTNEED))
			fault("madvise", -errno);
	return NULL;
}

static void test_event_flood(void **state)
{
	struct worker flooders[MANY] = { 0 }, w[FEW] = { 0 }, sum, me = { 0 };
	size_t len = MANY * 64 * page;
	unsigned char *p = map(len), *q = map(len);

	cache(p, page); /* arms all of it */
	for (unsigned i = 0; i < MANY; i++) {
		flooders[i].p = p + i * 64 * page;
		flooders[i].times = TIMES(2000);
	}
	for (unsigned i = 0; i < FEW; i++) {
		w[i].p = q;
		w[i].times = TIMES(2000);
	}
	start(flooders, MANY, flood);
	start(w, FEW, be_neighbour);
	sum = join(w, FEW);
	join(flooders, MANY);
	assert_int_equal(sum.wrong, 0);
	/* When it is over all can be cached again, what was emptied and what was not. */
	for (unsigned i = 0; i < MANY; i++) {
		stamp(&me, flooders[i].p, 2 * page);
		look_until_hit(&me, flooders[i].p, 2 * page);
	}
	look_until_hit(&me, q, 4 * page);
	assert_int_equal(me.wrong, 0);
	unmap(p, len);
	unmap(q, len);
	assert_accounts(1 + sum.lookups + me.lookups);
}

/* ------------------------------------------------------------------ the quarantine (thread.h) */

/* Other proxies have none: nothing is quarantined there. */
static void only_with_uffd(void)
{
	if (!check_proxy_is("uffd"))
		skip();
}

static int own_uffd(unsigned char *p, size_t len)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register reg = { .range = { (uintptr_t)p, len }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	return fd;
}

/*
 * A thread of which nothing can be proved: it stands in a page fault that is not served, in no system call, and uses
 * no time. What it does between two faults is up to the test.
 */
static struct {
	pthread_t thread;
	int uffd;
	unsigned char *base;     /* STEPS pages, in which it will fault one after the other */
	unsigned char *fault_at; /* the page in whose fault it stands */
	unsigned char *p;        /* what it looks up */
	sem_t sleep;
	_Atomic bool spin;
} stuck;

enum { STEPS = 4 };
enum step { THEN_SLEEP = 1, THEN_CALL, THEN_SPIN };

static void *stand_in_faults(void *arg)
{
	for (int i = 0; i < STEPS; i++) {
		switch (((volatile unsigned char *)stuck.base)[i * page]) {
		case THEN_SLEEP:
			wait_sem(&stuck.sleep);
			return NULL;
		case THEN_SPIN:
			while (atomic_load(&stuck.spin))
				;
			return NULL;
		default:
			check_touch(provider, stuck.p, page, HF_READWRITE);
		}
	}
	return NULL;
}

/* It stands in a fault when that is to be read. */
static void stuck_again(void)
{
	struct uffd_msg m;

	assert_int_equal(read(stuck.uffd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.event, UFFD_EVENT_PAGEFAULT);
	stuck.fault_at = (unsigned char *)(uintptr_t)(m.arg.pagefault.address & ~(uint64_t)(page - 1));
}

static void stuck_start(void)
{
	unsigned char *p = map(STEPS * page);

	assert_int_equal(madvise(p, STEPS * page, MADV_DONTNEED), 0);
	stuck.uffd = own_uffd(p, STEPS * page);
	stuck.base = p;
	stuck.p = map(page);
	sem_init(&stuck.sleep, 0, 0);
	atomic_store(&stuck.spin, true);
	assert_int_equal(pthread_create(&stuck.thread, NULL, stand_in_faults, NULL), 0);
	stuck_again();
}

static void stuck_goes_on(enum step then)
{
	static unsigned char source[1 << 16];
	struct uffdio_copy copy = { .dst = (uintptr_t)stuck.fault_at, .src = (uintptr_t)source, .len = page };

	memset(source, then, sizeof(source));
	assert_int_equal(ioctl(stuck.uffd, UFFDIO_COPY, &copy), 0);
	if (then == THEN_CALL)
		stuck_again();
}

/* After THEN_SLEEP or THEN_SPIN. */
static void stuck_ends(void)
{
	atomic_store(&stuck.spin, false);
	sem_post(&stuck.sleep);
	assert_int_equal(pthread_join(stuck.thread, NULL), 0);
	close(stuck.uffd);
	unmap(stuck.base, STEPS * page);
	unmap(stuck.p, page);
}

/* It stays uncached, and right, however often it is asked for. */
static void assert_uncached(struct worker *w, unsigned char *p, size_t len)
{
	for (int i = 0; i < 20; i++) {
		stamp(w, p, len);
		assert_int_equal(look(w, p, len), 0);
		usleep(2000); /* past the time for which a proof isn't tried again */
	}
	assert_int_equal(w->wrong, 0);
}

static void try_quarantine(enum step then)
{
	struct worker w = { 0 };
	unsigned char *p = map(4 * page);

	stuck_start();
	look_until_hit(&w, p, 4 * page);
	assert_int_equal(madvise(p + page, page, MADV_DONTNEED), 0);
	assert_uncached(&w, p, 4 * page);
	assert_uncached(&w, p + page, page);
	/* What wasn't touched isn't concerned. */
	look_until_hit(&w, p + 2 * page, 2 * page);
	stuck_goes_on(then);
	look_until_hit(&w, p, 4 * page);
	assert_int_equal(w.wrong, 0);
	stuck_ends();
	unmap(p, 4 * page);
}

static void test_quarantine_until_the_other_sleeps(void **state)
{
	only_with_uffd();
	try_quarantine(THEN_SLEEP);
}

static void test_quarantine_until_the_other_computes(void **state)
{
	only_with_uffd();
	try_quarantine(THEN_SPIN);
}

static void test_quarantine_until_the_other_calls(void **state)
{
	struct worker w = { 0 };
	unsigned char *p = map(4 * page);

	only_with_uffd();
	stuck_start();
	look_until_hit(&w, p, 4 * page);
	assert_int_equal(madvise(p, 4 * page, MADV_DONTNEED), 0);
	assert_uncached(&w, p, 4 * page);
	stuck_goes_on(THEN_CALL);
	/* It stands in a fault again, but it was seen. */
	look_until_hit(&w, p, 4 * page);
	/* A later madvise needs a new proof. */
	assert_int_equal(madvise(p, 4 * page, MADV_DONTNEED), 0);
	assert_uncached(&w, p, 4 * page);
	stuck_goes_on(THEN_SLEEP);
	stuck_ends();
	look_until_hit(&w, p, 4 * page); /* a thread that has ended is in no madvise */
	assert_int_equal(w.wrong, 0);
	unmap(p, 4 * page);
}

/* More ranges than the quarantine has slots for: then all of memory is in it, and later none. */
static void test_quarantine_overflows(void **state)
{
	enum { EMPTIED = QUARANTINE_SLOTS + 44 };
	struct worker w = { 0 };
	unsigned char *p = map(2 * EMPTIED * page), *other = map(page);

	only_with_uffd();
	stuck_start();
	cache(p, page);
	for (unsigned i = 0; i < EMPTIED; i++)
		assert_int_equal(madvise(p + 2 * i * page, page, MADV_DONTNEED), 0);
	for (unsigned i = 0; i < EMPTIED; i++) {
		stamp(&w, p + 2 * i * page, page);
		assert_int_equal(look(&w, p + 2 * i * page, page), 0);
	}
	look(&w, other, page);
	stuck_goes_on(THEN_SLEEP);
	for (unsigned i = 0; i < EMPTIED; i++) {
		stamp(&w, p + 2 * i * page, page);
		look_until_hit(&w, p + 2 * i * page, page);
	}
	look_until_hit(&w, other, page);
	assert_int_equal(w.wrong, 0);
	stuck_ends();
	unmap(p, 2 * EMPTIED * page);
	unmap(other, page);
}

static void *empty_it(void *arg)
{
	struct worker *w = arg;

	if (madvise(w->p, w->len, MADV_DONTNEED))
		fault("madvise", -errno);
	return NULL;
}

/* The library's own threads come to rest; none is left out of the proof. */
static void assert_proof(uint64_t start, uint64_t end, enum proof want)
{
	enum proof proof = thread_prove(thread_tick(), start, end, -1);

	for (int i = 0; i < TRIES && proof != want; i++) {
		usleep(1000);
		proof = thread_prove(thread_tick(), start, end, -1);
	}
	assert_int_equal(proof, want);
}

/*
 * The proof itself, of a thread that really is inside of a madvise: a userfaultfd of our own keeps it
 * there.
 */
static void test_proof_of_a_thread_inside_madvise(void **state)
{
	struct worker w = { .p = map(4 * page), .len = 2 * page };
	uint64_t in = (uintptr_t)w.p, behind = in + 2 * page;
	struct uffd_msg m;
	int fd;

	only_with_uffd();
	fd = own_uffd(w.p, 4 * page);

	assert_proof(in, behind, ALL_OVER);
	start(&w, 1, empty_it);
	assert_proof(behind, behind + page, OVER_HERE);
	assert_proof(in - page, in, OVER_HERE);
	for (int i = 0; i < 20; i++) {
		uint64_t now = thread_tick();

		assert_int_equal(thread_prove(now, in, in + page, -1), NOT_PROVED);
		assert_int_equal(thread_prove(now, behind - page, behind + page, -1), NOT_PROVED);
		assert_int_equal(thread_prove(now, 0, UINT64_MAX, -1), NOT_PROVED);
	}
	assert_int_equal(read(fd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.event, UFFD_EVENT_REMOVE);
	join(&w, 1);
	assert_proof(in, behind, ALL_OVER);
	close(fd);
	unmap(w.p, 4 * page);
}

/* ------------------------------------------------------------------ main */

#define over_nic(f) cmocka_unit_test_setup_teardown(f, open_both, close_both)
#define over_sim(f) cmocka_unit_test_setup_teardown(f, open_plain_sim, close_both)
#define over_disturbed(f) cmocka_unit_test_setup_teardown(f, open_disturbed, close_both)

int main(void)
{
	const struct CMUnitTest tests[] = {
		over_nic(test_recycle_2_threads),
		over_nic(test_recycle_8_threads),
		cmocka_unit_test_setup_teardown(test_recycle_sees_wrong_bytes_without_a_proxy, open_blind,
						close_both),
		over_sim(test_unmapped_while_held_2_threads),
		over_sim(test_unmapped_while_held_8_threads),
		over_disturbed(test_changed_while_registering_once),
		over_disturbed(test_changed_while_registering_always),
		over_nic(test_changed_by_another_2_threads),
		over_nic(test_changed_by_another_8_threads),
		over_nic(test_partial_unmap_in_use),
		over_sim(test_same_miss_is_one_registration),
		over_sim(test_slow_registration_delays_nobody),
		over_sim(test_misses_register_in_parallel),
		cmocka_unit_test(test_misses_at_once_keep_the_limit),
		cmocka_unit_test(test_evict_against_hit),
		cmocka_unit_test(test_last_put_against_invalidate),
		over_nic(test_neighbours_share_a_page),
		over_nic(test_overlapping_neighbour_is_unmapped),
		over_nic(test_swallowed_neighbour_is_unmapped),
		over_nic(test_neighbours_2_threads),
		over_nic(test_neighbours_8_threads),
		over_nic(test_unmap_storm),
		over_sim(test_unmap_storm_of_armed_memory),
		over_nic(test_event_flood),
		over_nic(test_quarantine_until_the_other_sleeps),
		over_nic(test_quarantine_until_the_other_computes),
		over_nic(test_quarantine_until_the_other_calls),
		over_nic(test_quarantine_overflows),
		over_nic(test_proof_of_a_thread_inside_madvise),
	};

	alarm(WATCHDOG_SECONDS);
	unsetenv("HOLDFAST");
	page = check_page();
	if (check_hazard_missing())
		return check_hazard_missing();
	return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
