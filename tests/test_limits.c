/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Limits (I5; hazards 20, 36, 37): by bytes and by count, ours and the NIC's; idle ones go first, in the order of their
 * last use; what is held may exceed; a NIC that fails, now and then or for good.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "cache.h"
#include "provider.h"

#define PAGES 256

static size_t page;

struct rig {
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_sim sim;
	char *mem; /* PAGES */
};

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	g->sw = check_switch("proxy=manual");
	g->mem = check_map(PAGES * page);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	check_close(g->sw, NULL);
	assert_int_equal(g->sim.live, 0);
	check_unmap(g->mem, PAGES * page);
	free(g);
	return 0;
}

static void rig_open(struct rig *g, const char *options)
{
	g->p = check_sim(g->sw, &g->sim, options);
}

static void rig_close(struct rig *g)
{
	assert_true(cache_is_valid(&g->p->cache));
	check_ok(hf_provider_close(g->p));
}

/* "name=PAGES pages": the limits of these tests fit any page size. */
static char *pages_option(char *buf, size_t size, const char *name, unsigned pages, const char *more)
{
	snprintf(buf, size, "%s=%zu%s", name, pages * page, more);
	return buf;
}

static void rig_open_pages(struct rig *g, unsigned pages, const char *more)
{
	char options[64];

	rig_open(g, pages_option(options, sizeof(options), "max_bytes", pages, more));
}

static char *at(struct rig *g, unsigned n)
{
	return g->mem + n * page;
}

static struct hf_region hold(struct rig *g, unsigned first, unsigned pages)
{
	return check_get(g->p, at(g, first), pages * page, HF_READWRITE);
}

static void use(struct rig *g, unsigned first, unsigned pages)
{
	check_touch(g->p, at(g, first), pages * page, HF_READWRITE);
}

/* Without using it. */
static bool is_cached(struct rig *g, unsigned first)
{
	uint64_t addr = (uintptr_t)at(g, first);

	return index_find_cover(&g->p->cache.index[HF_READWRITE - 1], addr, addr + page) !=
	       INDEX_NONE;
}

/* ------------------------------------------------------------------ our limits */

/* Known fault 11: no limit, no eviction. */
static void by_count(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_bytes=1G,max_count=4");
	for (unsigned i = 0; i < 100; i++) {
		use(g, i, 1);
		assert_int_equal(g->sim.live, i < 4 ? i + 1 : 4);
	}
	assert_int_equal(check_stats(g->p).entries, 4);
	assert_int_equal(check_stats(g->p).evictions, 96);
	assert_int_equal(check_stats(g->p).pinned_bytes, 4 * page);
	assert_int_equal(g->sim.peak_bytes, 4 * page); /* the old one goes before the new one comes */
	for (unsigned i = 96; i < 100; i++)
		assert_true(is_cached(g, i));
	rig_close(g);
}

/* Never more bytes in the NIC than the limit, at any moment, however the sizes mix. */
/* Known fault 11. */
static void by_bytes(void **state)
{
	struct rig *g = *state;
	uint64_t seed = 1;

	rig_open_pages(g, 16, "");
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t x = check_random(&seed);

		use(g, x % (PAGES - 16), 1 + (x >> 32) % 16);
		assert_true(check_stats(g->p).pinned_bytes <= 16 * page);
		assert_int_equal(check_stats(g->p).pinned_bytes, g->sim.live_bytes);
	}
	assert_true(g->sim.peak_bytes <= 16 * page);
	assert_true(check_stats(g->p).evictions > 1000);
	assert_true(check_stats(g->p).hits > 0);
	assert_int_equal(check_stats(g->p).failures, 0);
	rig_close(g);
}

static void larger_than_the_limit(void **state)
{
	struct rig *g = *state;
	struct hf_region r;
	char words[48];

	rig_open_pages(g, 8, "");
	use(g, 0, 8); /* just as large */
	check_error(hf_get(g->p, at(g, 0), 8 * page + 1, HF_READ, &r), -ENOMEM,
		    pages_option(words, sizeof(words), "max_bytes", 8, ""));
	assert_true(is_cached(g, 0)); /* nothing was thrown out in vain */
	assert_int_equal(check_stats(g->p).evictions, 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, 8 * page);
	rig_close(g);
}

/* Limits of 0: no byte may be pinned; none may be kept. */
static void nothing_allowed(void **state)
{
	struct rig *g = *state;
	struct hf_region r;

	rig_open(g, "max_bytes=0");
	check_error(hf_get(g->p, at(g, 0), 1, HF_READ, &r), -ENOMEM, "max_bytes=0");
	rig_close(g);
	rig_open(g, "max_count=0");
	for (unsigned i = 0; i < 3; i++) {
		use(g, i, 1);
		check_pinned(g->p, 0);
	}
	rig_close(g);
	rig_open(g, "max_count=0,hard=on");
	check_error(hf_get(g->p, at(g, 0), 1, HF_READ, &r), -ENOMEM, "max_count=0");
	rig_close(g);
}

/* Idle ones go, held ones stay, whichever is older. */
static void idle_first(void **state)
{
	struct rig *g = *state;
	struct hf_region old;

	rig_open(g, "max_count=3");
	old = hold(g, 0, 1);
	hf_sim_begin(&old);
	for (unsigned i = 1; i < 50; i++)
		use(g, i, 1);
	assert_true(is_cached(g, 0));
	assert_true(is_cached(g, 48) && is_cached(g, 49));
	assert_int_equal(check_stats(g->p).entries, 3);
	assert_int_equal(check_stats(g->p).evictions, 47);
	hf_sim_end(&old);
	check_ok(hf_put(g->p, &old));
	rig_close(g);
}

/* What is held may exceed; what becomes idle then goes at its put, until the limit holds again. */
static void held_may_exceed(void **state)
{
	static const char *const limits[] = { "max_count=3", NULL };
	struct rig *g = *state;

	for (unsigned by = 0; by < 2; by++) {
		struct hf_region r[10];

		if (limits[by])
			rig_open(g, limits[by]);
		else
			rig_open_pages(g, 3, "");
		for (unsigned i = 0; i < 10; i++)
			r[i] = hold(g, i, 1);
		assert_int_equal(check_stats(g->p).entries, 10);
		assert_int_equal(check_stats(g->p).pinned_bytes, 10 * page);
		for (unsigned i = 0; i < 7; i++) {
			check_ok(hf_put(g->p, &r[i]));
			check_pinned(g->p, (9 - i) * page);
		}
		for (unsigned i = 7; i < 10; i++)
			check_ok(hf_put(g->p, &r[i]));
		usleep(10000); /* time for one too many to go */
		assert_int_equal(check_stats(g->p).entries, 3);
		assert_int_equal(check_stats(g->p).evictions, 7);
		check_pinned(g->p, 3 * page);
		for (unsigned i = 7; i < 10; i++)
			assert_true(is_cached(g, i));
		rig_close(g);
	}
}

/* hard=on: an error that names the limits, and nothing is lost by it. */
static void hard_limit(void **state)
{
	struct rig *g = *state;
	struct hf_region r[4], more;

	rig_open(g, "max_bytes=1G,max_count=4,hard=on");
	for (unsigned i = 0; i < 4; i++)
		use(g, 100 + i, 1); /* idle: these make room */
	for (unsigned i = 0; i < 4; i++)
		r[i] = hold(g, i, 1);
	assert_int_equal(check_stats(g->p).evictions, 4);
	check_error(hf_get(g->p, at(g, 9), page, HF_READ, &more), -ENOMEM, "max_count=4");
	check_says("max_bytes=1073741824");
	assert_int_equal(check_stats(g->p).pinned_bytes, 4 * page);
	assert_int_equal(g->sim.live, 4);
	/* A hit needs no room. */
	assert_int_equal(check_touch(g->p, at(g, 3), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	check_ok(hf_put(g->p, &r[2]));
	more = hold(g, 9, 1);
	assert_false(is_cached(g, 2));
	check_ok(hf_put(g->p, &more));
	for (unsigned i = 0; i < 4; i++)
		if (i != 2)
			check_ok(hf_put(g->p, &r[i]));
	assert_int_equal(g->sim.peak_bytes, 4 * page);
	rig_close(g);
}

/* The same by bytes; what is dead but held counts, and what is dead and on its way out is waited for. */
static void hard_limit_and_dead(void **state)
{
	struct rig *g = *state;
	struct hf_region dead, more;

	rig_open_pages(g, 4, ",hard=on");
	dead = hold(g, 0, 4);
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 1);
	check_error(hf_get(g->p, at(g, 8), page, HF_READ, &more), -ENOMEM, "held");
	check_ok(hf_put(g->p, &dead));
	for (unsigned i = 0; i < 50; i++) {
		use(g, 8, 4);
		assert_int_equal(hf_invalidate(g->sw, at(g, 8), page), 1);
	}
	assert_int_equal(g->sim.peak_bytes, 4 * page);
	rig_close(g);
}

/* What changed and isn't let go yet is waited for: a slow NIC doesn't let the pinned bytes grow (hazard 36). */
static void dead_ones_count(void **state)
{
	struct rig *g = *state;

	rig_open_pages(g, 8, "");
	g->sim.dereg_delay_us = 500;
	for (unsigned i = 0; i < 100; i++) {
		use(g, 0, 4);
		assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 1);
	}
	assert_int_equal(check_stats(g->p).evictions, 0);
	assert_true(g->sim.peak_bytes <= 8 * page);
	rig_close(g);
}

/* Never infinite: a quarter of the memory, or RLIMIT_MEMLOCK where that binds. */
static void default_limit(void **state)
{
	struct rig *g = *state;
	uint64_t want = (uint64_t)sysconf(_SC_PHYS_PAGES) * page / 4;
	struct rlimit lock;
	uint64_t got;

	rig_open(g, NULL);
	got = check_stats(g->p).max_bytes;
	rig_close(g);
	getrlimit(RLIMIT_MEMLOCK, &lock);
	if (geteuid() && lock.rlim_cur < want)
		want = lock.rlim_cur;
	if (got != lock.rlim_cur) /* root in a container may lack CAP_IPC_LOCK */
		assert_int_equal(got, want);
	assert_true(got > 0);
}

static void operator_limits(void **state)
{
	struct rig *g = *state;

	setenv("HOLDFAST", "max_count=2,max_bytes=1G", 1);
	rig_open(g, "max_count=1000,max_bytes=1M");
	unsetenv("HOLDFAST");
	for (unsigned i = 0; i < 10; i++)
		use(g, i, 1);
	assert_int_equal(g->sim.live, 2);
	assert_int_equal(check_stats(g->p).evictions, 8);
	use(g, 0, PAGES);
	rig_close(g);
}

/* ------------------------------------------------------------------ the order in which they go */

/* Those that fit stay: no entry goes early, however often the full cache is gone through. */
static void a_full_cache_cycles(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_count=100");
	for (unsigned round = 0; round < 10; round++)
		for (unsigned i = 0; i < 100; i++)
			use(g, i, 1);
	assert_int_equal(check_stats(g->p).misses, 100);
	assert_int_equal(check_stats(g->p).hits, 900);
	assert_int_equal(check_stats(g->p).evictions, 0);
	rig_close(g);
}

/* One that is used between all misses is never the one that goes. */
static void what_is_used_stays(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_count=3");
	use(g, 200, 1);
	for (unsigned i = 0; i < 1000; i++) {
		use(g, i % 100, 1);
		assert_int_equal(check_touch(g->p, at(g, 200), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	}
	assert_int_equal(check_stats(g->p).misses, 1001);
	rig_close(g);
}

#define MODEL_ENTRIES 32
#define MODEL_RANGES 48

/* The clock counts misses: uses between two of them are simultaneous. */
struct model {
	unsigned clock;
	unsigned used[MODEL_RANGES]; /* 0: not cached */
};

static unsigned oldest_use(const struct model *m)
{
	unsigned oldest = UINT32_MAX;

	for (unsigned i = 0; i < MODEL_RANGES; i++)
		if (m->used[i] && m->used[i] < oldest)
			oldest = m->used[i];
	return oldest;
}

/* The one that went for a miss had been used before all others, or at the same time. */
static void model_miss(struct rig *g, struct model *m, unsigned missed, unsigned cached)
{
	unsigned oldest = oldest_use(m);
	unsigned gone = 0;

	for (unsigned i = 0; i < MODEL_RANGES; i++) {
		if (!m->used[i] || is_cached(g, i))
			continue;
		assert_int_equal(m->used[i], oldest);
		m->used[i] = 0;
		gone++;
	}
	assert_int_equal(gone, cached == MODEL_ENTRIES);
	m->used[missed] = ++m->clock;
}

static void least_recently_used(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_count=32");
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct model m = { .clock = 1 };
		unsigned cached = 0, evicted = 0;
		uint64_t random = seed;

		hf_flush(g->p);
		for (unsigned i = 0; i < 1000; i++) {
			uint64_t x = check_random(&random);
			unsigned n = x % MODEL_RANGES * (x >> 32 & 1 ? 1 : 0) + (x >> 33) % MODEL_RANGES / 2;
			bool hit;

			n %= MODEL_RANGES;
			hit = check_touch(g->p, at(g, n), page, HF_READWRITE) & HF_REGION_HIT;
			assert_int_equal(hit, m.used[n] != 0);
			if (hit) {
				m.used[n] = m.clock;
				continue;
			}
			evicted += cached == MODEL_ENTRIES;
			model_miss(g, &m, n, cached);
			cached += cached < MODEL_ENTRIES;
		}
		assert_true(evicted > 100); /* else the model saw nothing */
	}
	rig_close(g);
}

/* ------------------------------------------------------------------ the NIC's limits */

/* The NIC is full: an idle one goes, and it is asked again. */
static void nic_is_full(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_bytes=1G");
	g->sim.limit_count = 4;
	for (unsigned i = 0; i < 20; i++)
		use(g, i, 1);
	assert_int_equal(check_stats(g->p).evictions, 16);
	assert_int_equal(check_stats(g->p).failures, 0);
	assert_int_equal(check_stats(g->p).entries, 4);
	for (unsigned i = 16; i < 20; i++)
		assert_true(is_cached(g, i)); /* the oldest went */
	rig_close(g);
}

/* Many small ones make room for a large one, and not all of them go. */
static void nic_is_full_of_small_ones(void **state)
{
	struct rig *g = *state;

	rig_open(g, "max_bytes=1G");
	g->sim.limit_bytes = 64 * page;
	for (unsigned i = 0; i < 64; i++)
		use(g, i, 1);
	use(g, 100, 32);
	assert_true(is_cached(g, 100));
	assert_in_range(check_stats(g->p).entries, 1 + 24, 1 + 32);
	assert_int_equal(check_stats(g->p).pinned_bytes, g->sim.live_bytes);
	assert_int_equal(check_stats(g->p).failures, 0);
	rig_close(g);
}

/* Nothing is idle: -ENOMEM with the NIC's own sentence, and what is held is as before. */
static void nic_is_full_of_held_ones(void **state)
{
	struct rig *g = *state;
	struct hf_region r[4], more;

	rig_open(g, "max_bytes=1G");
	g->sim.limit_count = 4;
	for (unsigned i = 0; i < 4; i++) {
		r[i] = hold(g, i, 1);
		hf_sim_begin(&r[i]);
	}
	check_error(hf_get(g->p, at(g, 9), page, HF_READ, &more), -ENOMEM, "limit_count=4");
	assert_int_equal(check_stats(g->p).failures, 1);
	assert_int_equal(check_stats(g->p).evictions, 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, 4 * page);
	for (unsigned i = 0; i < 4; i++) {
		hf_sim_end(&r[i]);
		check_ok(hf_put(g->p, &r[i]));
	}
	use(g, 9, 1);
	g->sim.limit_count = 0;
	g->sim.limit_bytes = 2 * page;
	check_error(hf_get(g->p, at(g, 20), 3 * page, HF_READ, &more), -ENOMEM, "limit_bytes");
	assert_int_equal(check_stats(g->p).pinned_bytes, g->sim.live_bytes);
	rig_close(g);
}

/* A dead one that the reaper is about to take out is room, too: a slow NIC doesn't make it an error. */
static void nic_is_slow_to_let_go(void **state)
{
	static const char *const options[] = { "max_bytes=1G", "max_count=1,hard=on" };
	struct rig *g = *state;

	for (unsigned o = 0; o < 2; o++) {
		rig_open(g, options[o]);
		g->sim.limit_count = 1;
		g->sim.dereg_delay_us = 3000;
		for (unsigned i = 0; i < 20; i++) {
			use(g, i, 1);
			assert_int_equal(hf_invalidate(g->sw, at(g, i), page), 1);
			usleep(i % 4 * 500); /* the reaper hasn't begun, or is in the middle */
		}
		assert_int_equal(check_stats(g->p).failures, 0);
		g->sim.dereg_delay_us = 0;
		g->sim.limit_count = 0;
		rig_close(g);
	}
}

static void nic_fails(void **state)
{
	static const int errors[] = { EIO, EOPNOTSUPP, EFAULT, EPERM };
	struct rig *g = *state;
	struct hf_region r;

	rig_open(g, "max_bytes=1G");
	use(g, 0, 1);
	for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		g->sim.reg_errno = errors[i];
		g->sim.fail_reg_in = 1;
		check_error(hf_get(g->p, at(g, 1), page, HF_READ, &r), -errors[i], "told to fail");
		assert_int_equal(check_stats(g->p).failures, i + 1);
	}
	/* Not for want of room: nothing went, nothing is pinned for it, and the next try is a first one. */
	assert_int_equal(check_stats(g->p).evictions, 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, page);
	assert_int_equal(check_stats(g->p).entries, 1);
	use(g, 1, 1);
	/* Once -ENOMEM: one idle goes, and it works. */
	g->sim.reg_errno = 0;
	g->sim.fail_reg_in = 1;
	use(g, 2, 1);
	assert_int_equal(check_stats(g->p).evictions, 1);
	assert_int_equal(check_stats(g->p).failures, 4);
	rig_close(g);
}

/* A NIC that won't let go (R32): counted, still counted as pinned, never used again. */
static void nic_will_not_let_go(void **state)
{
	struct rig *g = *state;
	struct hf_region r;
	uint64_t old;

	rig_open(g, "max_bytes=1G");
	r = hold(g, 0, 1);
	old = r.lkey;
	check_ok(hf_put(g->p, &r));
	g->sim.fail_dereg_in = 1;
	hf_flush(g->p);
	assert_int_equal(check_stats(g->p).dereg_failures, 1);
	assert_int_equal(check_stats(g->p).pinned_bytes, page);
	assert_int_equal(check_stats(g->p).entries, 0);
	assert_int_equal(check_stats(g->p).dead_held, 0);
	r = hold(g, 0, 1);
	assert_int_equal(r.flags, HF_REGION_CACHED);
	assert_int_not_equal(r.lkey, old);
	check_ok(hf_put(g->p, &r));
	assert_int_equal(check_stats(g->p).pinned_bytes, 2 * page);
	assert_int_equal(hf_flush(g->p), 1);
	assert_int_equal(check_stats(g->p).pinned_bytes, page);
	rig_close(g); /* it doesn't keep the provider open */
	assert_int_equal(g->sim.live, 1);
	g->sim.live = 0;
}

/* ------------------------------------------------------------------ without the cache */

static void cache_off(void **state)
{
	struct rig *g = *state;
	struct hf_region a, b;

	rig_open(g, "cache=off,max_bytes=1G");
	for (unsigned i = 0; i < 10; i++) {
		use(g, 0, 1);
		assert_int_equal(g->sim.live, 0);
	}
	a = hold(g, 0, 1);
	b = hold(g, 0, 1);
	assert_int_equal(a.flags | b.flags, 0);
	assert_int_not_equal(a.lkey, b.lkey);
	assert_int_equal(check_stats(g->p).pinned_bytes, 2 * page);
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 0);
	hf_sim_use(&a, at(g, 0), page);
	check_ok(hf_put(g->p, &a));
	hf_sim_use(&b, at(g, 0), page);
	check_ok(hf_put(g->p, &b));
	assert_int_equal(check_stats(g->p).uncached, 12);
	assert_int_equal(check_stats(g->p).misses + check_stats(g->p).hits + check_stats(g->p).entries, 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, 0);
	assert_int_equal(hf_flush(g->p), 0);
	check_error(hf_get(g->p, NULL, page, HF_READ, &a), -EFAULT, "mapped");
	rig_close(g);
}

/* ------------------------------------------------------------------ threads */

#define STRESS_MS 500
#define STRESS_THREADS 4
#define STRESS_PAGES 4

struct stress {
	struct rig *g;
	pthread_t id;
	uint64_t seed, gets;
	int rc;
};

/* A thread may have had no turn in that time. */
static bool has_hit_and_evicted(struct rig *g)
{
	struct hf_stats s = { 0 };

	hf_provider_stats(g->p, &s, sizeof(s));
	return s.hits > 0 && s.evictions + s.superseded > 0;
}

static void *stress_main(void *arg)
{
	struct stress *s = arg;
	uint64_t end = check_now_ms() + STRESS_MS;

	while ((check_now_ms() < end || !has_hit_and_evicted(s->g)) && !s->rc) {
		uint64_t x = check_random(&s->seed);
		struct hf_region r;

		s->rc = hf_get(s->g->p, at(s->g, x % 16), (1 + (x >> 8) % STRESS_PAGES) * page, HF_READWRITE, &r);
		if (s->rc)
			break;
		hf_sim_begin(&r);
		if ((x >> 32) % 8 == 0)
			sched_yield();
		hf_sim_end(&r);
		s->rc = hf_put(s->g->p, &r);
		s->gets++;
	}
	return NULL;
}

static uint64_t stress(struct rig *g)
{
	struct stress s[STRESS_THREADS];
	uint64_t gets = 0;

	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		s[i] = (struct stress){ .g = g, .seed = i + 1 };
		assert_int_equal(pthread_create(&s[i].id, NULL, stress_main, &s[i]), 0);
	}
	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		pthread_join(s[i].id, NULL);
		if (s[i].rc)
			fail_msg("a thread was told %d (%s)", s[i].rc, strerror(-s[i].rc));
		gets += s[i].gets;
	}
	return gets;
}

/* Eviction while others hit (hazard 20): sim aborts when a held one goes. */
static void evict_while_others_hit(void **state)
{
	struct rig *g = *state;
	struct hf_stats s;
	uint64_t gets;

	rig_open_pages(g, 12, ",max_count=6");
	gets = stress(g);
	s = check_stats(g->p);
	assert_int_equal(s.hits + s.misses + s.uncached, gets);
	assert_true(s.hits > 0 && s.evictions + s.superseded > 0);
	assert_int_equal(s.failures + s.dead_held + s.invalidations, 0);
	/* Over the limit by no more than what each thread may hold, make, or have on its way out. */
	assert_true(g->sim.peak_bytes <= (12 + STRESS_THREADS * (12 + STRESS_PAGES)) * page);
	hf_flush(g->p);
	check_pinned(g->p, 0);
	assert_int_equal(g->sim.live, 0);
	rig_close(g);
}

/* The NIC is full for all threads at once: there is always something idle to let go, so nobody fails. */
static void full_nic_and_many_threads(void **state)
{
	struct rig *g = *state;
	uint64_t gets;
	struct hf_stats s;

	rig_open(g, "max_bytes=1G");
	g->sim.limit_bytes = 3 * STRESS_THREADS * STRESS_PAGES * page;
	gets = stress(g);
	s = check_stats(g->p);
	assert_int_equal(s.hits + s.misses + s.uncached, gets);
	assert_true(s.hits > 0 && s.evictions + s.superseded > 0);
	assert_true(g->sim.peak_bytes <= g->sim.limit_bytes);
	hf_flush(g->p);
	check_pinned(g->p, 0);
	rig_close(g);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_RIG(by_count), WITH_RIG(by_bytes), WITH_RIG(larger_than_the_limit), WITH_RIG(nothing_allowed),
		WITH_RIG(idle_first), WITH_RIG(held_may_exceed), WITH_RIG(hard_limit), WITH_RIG(hard_limit_and_dead), WITH_RIG(dead_ones_count),
		WITH_RIG(default_limit), WITH_RIG(operator_limits), WITH_RIG(a_full_cache_cycles),
		WITH_RIG(what_is_used_stays), WITH_RIG(least_recently_used), WITH_RIG(nic_is_full),
		WITH_RIG(nic_is_full_of_small_ones), WITH_RIG(nic_is_full_of_held_ones),
		WITH_RIG(nic_is_slow_to_let_go), WITH_RIG(nic_fails), WITH_RIG(nic_will_not_let_go),
		WITH_RIG(cache_off), WITH_RIG(evict_while_others_hit), WITH_RIG(full_nic_and_many_threads),
	};

	unsetenv("HOLDFAST");
	page = check_page();
	return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
