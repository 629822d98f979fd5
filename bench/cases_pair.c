/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Two threads at once. */
#include <string.h>
#include <sys/mman.h>

#include "fixture.h"
#include "helper.h"

#define RING 256u
#define SLOW_US 20000u
#define PACE_NS 20000.0    /* 20 us */
#define PACED_HITS 5000ul  /* 100 ms */
#define STORM_HITS 16384ul
#define STORM_BYTES (16ul << 20)

static void setup_pair(struct fixture *f)
{
	setup_cached(f);
	f->helper = helper_start();
	helper_pin(f->helper);
}

struct hits {
	struct cache *cache;
	char *at;
	unsigned long n;
};

static void hit_loop(void *arg)
{
	const struct hits h = *(struct hits *)arg;

	for (unsigned long i = 0; i < h.n; i++)
		get_put(h.cache, h.at, BUFFER);
}

/* value[0]: ns for one operation of all that both did; value[1]: their throughput over that of one alone. */
static unsigned long both(struct fixture *f, char *mine, char *theirs, unsigned long n, struct sample *out)
{
	struct hits a = { &f->cache, mine, n };
	struct hits b = { &f->cache, theirs, n };
	double alone, began, ended;

	alone = now();
	hit_loop(&a);
	alone = now() - alone;
	helper_begin(f->helper, hit_loop, &b);
	began = now();
	hit_loop(&a);
	ended = now();
	helper_end(f->helper);
	began = f->helper->began < began ? f->helper->began : began;
	ended = f->helper->ended > ended ? f->helper->ended : ended;
	out->value[0] = (ended - began) / (double)(2 * n);
	out->value[1] = alone / (double)n / out->value[0];
	return 3 * n;
}

static unsigned long two_same(struct fixture *f, unsigned long n, struct sample *out)
{
	return both(f, f->pieces[0].at, f->pieces[0].at, n, out);
}

static unsigned long two_apart(struct fixture *f, unsigned long n, struct sample *out)
{
	return both(f, f->pieces[0].at, f->pieces[1].at, n, out);
}

/* Get here, put there: through a ring with one writer and one reader. */
struct ring {
	_Alignas(128) _Atomic unsigned long head;
	_Alignas(128) _Atomic unsigned long tail;
	_Alignas(128) struct held slots[RING];
	struct cache *cache;
	unsigned long n;
};

static void put_loop(void *arg)
{
	struct ring *r = arg;

	for (unsigned long i = 0; i < r->n; i++) {
		while (atomic_load_explicit(&r->head, memory_order_acquire) == i)
			relax();
		cache_put(r->cache, &r->slots[i % RING]);
		atomic_store_explicit(&r->tail, i + 1, memory_order_release);
	}
}

static unsigned long handover(struct fixture *f, unsigned long n, struct sample *out)
{
	static struct ring r;
	char *at = f->pieces[0].at;
	double t;

	atomic_store(&r.head, 0);
	atomic_store(&r.tail, 0);
	r.cache = &f->cache;
	r.n = n;
	helper_begin(f->helper, put_loop, &r);
	t = now();
	for (unsigned long i = 0; i < n; i++) {
		while (i - atomic_load_explicit(&r.tail, memory_order_acquire) == RING)
			relax();
		cache_get(&f->cache, at, BUFFER, &r.slots[i % RING]);
		atomic_store_explicit(&r.head, i + 1, memory_order_release);
	}
	helper_end(f->helper);
	out->value[0] = (f->helper->ended - t) / (double)n;
	return n;
}

/* ------------------------------------------------------------------ latencies */

static void setup_latency(struct fixture *f)
{
	setup_cached(f);
	f->helper = helper_start();
}

/* Unmaps, page by page and without pause, memory of which a part was cached, and which is armed as a whole. */
static void storm(void *arg)
{
	struct fixture *f = arg;

	while (!atomic_load(&f->helper->stop)) {
		char *m = map(STORM_BYTES);
		size_t at = 0;

		get_put(&f->cache, m, BUFFER);
		for (; at < STORM_BYTES && !atomic_load(&f->helper->stop); at += PAGE)
			munmap(m + at, PAGE);
		if (at < STORM_BYTES)
			munmap(m + at, STORM_BYTES - at);
	}
}

/* value[]: p50, p99, p99.9 of hits one after the other. In a storm: they are in a mapping that it leaves alone. */
static void hits_timed(struct fixture *f, unsigned long n, struct sample *out)
{
	static const double q[VALUES] = { 0.5, 0.99, 0.999 };
	char *at = f->pieces[0].at;

	for (unsigned long i = 0; i < n; i++) {
		double t = now();

		get_put(&f->cache, at, BUFFER);
		f->latency[i] = now() - t;
	}
	summarize(f, n, q, out);
}

static unsigned long hits_in_storm(struct fixture *f, unsigned long n, struct sample *out)
{
	helper_begin(f->helper, storm, f);
	hits_timed(f, STORM_HITS, out);
	helper_end(f->helper);
	return STORM_HITS;
}

/* A NIC that takes 20 ms for each registration, and one thread that does nothing else. */
static void register_slowly(void *arg)
{
	struct fixture *f = arg;
	char *at = f->mem + (f->count - 1) * STRIDE;

	registration_us = SLOW_US;
	while (!atomic_load(&f->helper->stop)) {
		cache_invalidate(&f->cache, at, BUFFER);
		get_put(&f->cache, at, BUFFER);
	}
}

/*
 * value[]: p50, p99.9, maximum of hits that are due every 20 us, from the moment at which they are due: a
 * thread that waits 20 ms is late for a thousand of them, and all count.
 */
static unsigned long hits_paced(struct fixture *f, unsigned long n, struct sample *out)
{
	static const double q[VALUES] = { 0.5, 0.999, 1 };
	char *at = f->mem;
	double due = now();

	for (unsigned long i = 0; i < PACED_HITS; i++) {
		double t = now();

		while (t < due)
			t = now();
		get_put(&f->cache, at, BUFFER);
		f->latency[i] = now() - due;
		due += PACE_NS;
	}
	summarize(f, PACED_HITS, q, out);
	return PACED_HITS;
}

static unsigned long hits_beside_slow(struct fixture *f, unsigned long n, struct sample *out)
{
	helper_begin(f->helper, register_slowly, f);
	n = hits_paced(f, n, out);
	helper_end(f->helper);
	return n;
}

const struct bench_case pair_cases[] = {
	{ "two-same", setup_pair, two_same, 2, ALIGNED, 0, 1, 0, 0 },
	{ "two-apart", setup_pair, two_apart, 2, ALIGNED, 0, 1, 0, 0 },
	{ "handover", setup_pair, handover, 1, ALIGNED, 0, 1, 0, 0 },
	{ "storm", setup_latency, hits_in_storm, 1, ALIGNED, 0, 8, 1, 0 },
	{ "slow-nic", setup_latency, hits_beside_slow, 2, ALIGNED, 0, 30, 1, 0 },
	{ "paced", setup_latency, hits_paced, 2, ALIGNED, 0, 30, 1, 0 },
	{ 0 },
};
