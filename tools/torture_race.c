/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hazards 16 to 24: threads that share one provider. A thread judges only memory that is its own at that moment, so
 * what the processor sees there is what the NIC has to see. Every round changes a mapping, writes a fresh
 * stamp and looks the range up.
 */
#include "torture_race.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tool.h"

#define HANG_SECONDS 300 /* a thread that takes longer to end hangs */
#define TURN_SECONDS 5.0 /* so much longer a race may take in which no lookup was cached yet */
#define WRITE_ONE_IN 16 /* lookups that write through the NIC as well as read */
#define CHANGE_ONE_IN 8 /* rounds that ask for leave to change */
#define CHANGERS_ONE_IN 4 /* threads that may change at once */
#define SMALL_OPTIONS "max_count=8,max_bytes=4194304"

/* ------------------------------------------------------------------ small parts */

uint64_t race_random(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

size_t race_below(struct worker *w, size_t n)
{
	return (race_random(w) >> 16) % n;
}

bool race_stopped(struct worker *w)
{
	return atomic_load_explicit(&w->a->stop, memory_order_relaxed);
}

static void tell(struct worker *w, const void *addr, size_t len)
{
	judge_tell(w->a->j, addr, len);
}

unsigned char *race_map(size_t pages)
{
	void *p = mmap(NULL, pages * change_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void race_unmap(struct worker *w, unsigned char *addr, size_t pages)
{
	tell(w, addr, pages * change_page());
	munmap(addr, pages * change_page());
}

/* New pages under the same addresses, by a call that never leaves a hole for others. */
static void renew(struct worker *w, unsigned char *addr, size_t pages)
{
	size_t len = pages * change_page();

	tell(w, addr, len);
	if (race_random(w) & 0x100)
		madvise(addr, len, MADV_DONTNEED);
	else
		mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/*
 * While any change is under way an exact lookup goes round the cache, and with more threads than processors a change
 * takes as long as its thread waits for one. If all threads changed mappings all the time there would hardly be
 * a hit to judge: few may at once, and then all look for as long as the change took.
 */
static bool may_change(struct worker *w)
{
	unsigned limit = w->a->threads / CHANGERS_ONE_IN;

	sched_yield();
	if (race_below(w, CHANGE_ONE_IN))
		return false;
	w->change_begun = tool_now_ns();
	if (w->change_begun < atomic_load(&w->a->quiet_until))
		return false;
	if (atomic_fetch_add(&w->a->changing, 1) < (limit ? limit : 1))
		return true;
	atomic_fetch_sub(&w->a->changing, 1);
	return false;
}

static void changed(struct worker *w)
{
	uint64_t now = tool_now_ns();

	atomic_store(&w->a->quiet_until, now + (now - w->change_begun));
	atomic_fetch_sub(&w->a->changing, 1);
}

static void stamp_here(struct worker *w, unsigned char *at)
{
	uint64_t stamp[STAMP / 8];

	stamp[0] = (uint64_t)w->id << 48 | ++w->serial;
	stamp[1] = stamp[0] * 0x9e3779b97f4a7c15u;
	memcpy(at, stamp, sizeof(stamp));
}

void race_stamp(struct worker *w, unsigned char *addr, size_t pages)
{
	for (; pages--; addr += change_page())
		stamp_here(w, addr);
}

/* ------------------------------------------------------------------ a lookup and its judgement */

void race_remember(struct worker *w, const char *call, int err)
{
	if (!w->why[0] && err != -ENOMEM)
		snprintf(w->why, sizeof(w->why), "%s: %s", call, hf_error());
	if (err == -ENOMEM)
		w->n.limited++;
	else
		w->n.failures++;
}

static bool get(struct worker *w, unsigned char *addr, size_t len, struct hf_region *r)
{
	int err = hf_get(w->a->provider, addr, len, HF_READWRITE, r);

	w->n.lookups++;
	if (err) {
		race_remember(w, "hf_get", err);
		return false;
	}
	w->n.hits += (r->flags & HF_REGION_HIT) != 0;
	w->n.uncached += !(r->flags & HF_REGION_CACHED);
	return true;
}

static void put(struct worker *w, struct hf_region *r)
{
	int err = hf_put(w->a->provider, r);

	if (err)
		race_remember(w, "hf_put", err);
}

static unsigned wrong_to_read(struct worker *w, const struct hf_region *r, const unsigned char *at)
{
	unsigned char nic[STAMP];
	int err = hf_peek(r, at, nic, sizeof(nic));

	if (err)
		race_remember(w, "hf_peek", err);
	return err ? 0 : differing(nic, at, sizeof(nic));
}

static unsigned wrong_to_write(struct worker *w, const struct hf_region *r, unsigned char *at)
{
	uint64_t nic[STAMP / 8] = { race_random(w), race_random(w) };
	int err = hf_poke(r, at, nic, sizeof(nic));

	if (err)
		race_remember(w, "hf_poke", err);
	return err ? 0 : differing(nic, at, sizeof(nic));
}

static void judge_bytes(struct worker *w, const struct hf_region *r, unsigned wrong)
{
	w->n.wrong_bytes += wrong;
	w->n.stale_hits += wrong && (r->flags & HF_REGION_HIT);
}

/* Look up a range and check the stamp at `at`, which nobody else writes. */
static void look(struct worker *w, unsigned char *addr, size_t len, unsigned char *at, bool shared)
{
	struct hf_region r;
	unsigned wrong;

	if (!get(w, addr, len, &r))
		return;
	wrong = wrong_to_read(w, &r, at);
	if (!shared && !race_below(w, WRITE_ONE_IN))
		wrong += wrong_to_write(w, &r, at);
	judge_bytes(w, &r, wrong);
	put(w, &r);
}

/* All of it, and any page of it. */
void race_look(struct worker *w, unsigned char *addr, size_t pages)
{
	look(w, addr, pages * change_page(), addr + race_below(w, pages) * change_page(), false);
}

/* A part of it, from somewhere in a page to somewhere in another. */
static void look_inside(struct worker *w, unsigned char *addr, size_t pages)
{
	size_t first = race_below(w, pages), count = 1 + race_below(w, pages - first);
	unsigned char *at = addr + (first + race_below(w, count)) * change_page();
	size_t ragged = race_below(w, change_page() - STAMP);

	addr += first * change_page();
	look(w, addr, count * change_page() - ragged, at, false);
}

/* ------------------------------------------------------------------ 16: recycled addresses */

#define SLOTS 4
#define LOOKUPS_PER_MAPPING 3

struct slot {
	unsigned char *addr;
	size_t pages;
};

/* Give a mapping back and take another; the address is often one that a thread has just given back. */
static void recycle(struct worker *w, struct slot *s)
{
	uint64_t bits = race_random(w);
	int i;

	if (s->addr)
		race_unmap(w, s->addr, s->pages);
	s->pages = 1 + (bits >> 20 & bits >> 30 & 15); /* 1 to 16, more small ones: page faults cost most */
	s->addr = race_map(s->pages);
	if (!s->addr)
		return;
	race_stamp(w, s->addr, s->pages);
	race_look(w, s->addr, s->pages);
	for (i = 1; i < LOOKUPS_PER_MAPPING; i++)
		look_inside(w, s->addr, s->pages);
}

static void work_recycle(struct worker *w)
{
	struct slot slots[SLOTS] = { 0 };
	int i;

	while (!race_stopped(w))
		recycle(w, &slots[race_below(w, SLOTS)]);
	for (i = 0; i < SLOTS; i++)
		if (slots[i].addr)
			race_unmap(w, slots[i].addr, slots[i].pages);
}

/* ------------------------------------------------------------------ 16: purged, moved, from malloc */

#define PURGE_PAGES 16

static void purge(struct worker *w, unsigned char *mem)
{
	size_t first = race_below(w, PURGE_PAGES), count = 1 + race_below(w, PURGE_PAGES - first);
	unsigned char *addr = mem + first * change_page();

	tell(w, addr, count * change_page());
	madvise(addr, count * change_page(), race_random(w) & 0x100 ? MADV_DONTNEED : MADV_FREE);
	changed(w);
	race_stamp(w, addr, count);
	race_look(w, addr, count);
}

static void work_dontneed(struct worker *w)
{
	unsigned char *mem = race_map(PURGE_PAGES);

	if (!mem)
		return;
	race_stamp(w, mem, PURGE_PAGES);
	while (!race_stopped(w)) {
		if (may_change(w))
			purge(w, mem);
		race_look(w, mem, PURGE_PAGES);
		look_inside(w, mem, PURGE_PAGES);
	}
	race_unmap(w, mem, PURGE_PAGES);
}

/* Moved onto another one that is cached: the content comes along, both addresses change. */
static unsigned char *move_onto_another(struct worker *w, unsigned char *from, size_t pages)
{
	size_t len = pages * change_page();
	unsigned char *to = race_map(pages);

	if (!to)
		return from;
	race_stamp(w, to, pages);
	race_look(w, to, pages);
	tell(w, from, len);
	tell(w, to, len);
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? from : to;
}

static unsigned char *resize(struct worker *w, unsigned char *from, size_t pages, size_t to_pages)
{
	unsigned char *to;

	tell(w, from, pages * change_page());
	to = mremap(from, pages * change_page(), to_pages * change_page(), MREMAP_MAYMOVE);
	return to == MAP_FAILED ? NULL : to;
}

static void work_mremap(struct worker *w)
{
	while (!race_stopped(w)) {
		size_t pages = 2 + race_below(w, 7), now = pages;
		unsigned char *addr = race_map(pages), *moved;

		if (!addr)
			continue;
		race_stamp(w, addr, pages);
		race_look(w, addr, pages);
		if (race_random(w) & 0x100) {
			addr = move_onto_another(w, addr, pages);
		} else {
			now = 1 + race_below(w, 2 * pages);
			moved = resize(w, addr, pages, now);
			now = moved ? now : pages;
			addr = moved ? moved : addr;
			race_stamp(w, addr, now);
		}
		race_look(w, addr, now);
		look_inside(w, addr, now);
		race_unmap(w, addr, now);
	}
}

#define BLOCKS 16
#define BLOCK_MIN (64u << 10)
#define BLOCK_MAX (1u << 20)

struct block {
	unsigned char *addr;
	size_t size;
};

/* At most 16 pages around one stamp, so that the limits of a small machine suffice; then the stamp alone, a hit. */
static void look_in_block(struct worker *w, const struct block *b)
{
	size_t len = STAMP + race_below(w, BLOCK_MIN - STAMP), off = race_below(w, b->size - len + 1);
	unsigned char *at = b->addr + off + race_below(w, len - STAMP + 1);

	stamp_here(w, at);
	look(w, b->addr + off, len, at, false);
	look(w, at, STAMP, at, false);
}

/* Now and then it is moved, more often given back; the next round takes another. */
static void churn(struct worker *w, struct block *b)
{
	size_t size = BLOCK_MIN + race_below(w, BLOCK_MAX - BLOCK_MIN);
	bool moves = !b->addr || !(race_random(w) & 0x300);
	unsigned char *addr = NULL;

	if (b->addr)
		tell(w, b->addr, b->size);
	if (moves)
		addr = realloc(b->addr, size);
	else
		free(b->addr);
	if (moves && !addr)
		return;
	b->addr = addr;
	b->size = size;
}

static void work_malloc(struct worker *w)
{
	struct block blocks[BLOCKS] = { 0 };
	int i;

	while (!race_stopped(w)) {
		struct block *b = &blocks[race_below(w, BLOCKS)];

		if (!b->addr) {
			churn(w, b);
		} else if (may_change(w)) {
			churn(w, b);
			changed(w);
		}
		if (!b->addr)
			continue;
		look_in_block(w, b);
	}
	for (i = 0; i < BLOCKS; i++) {
		if (blocks[i].addr)
			tell(w, blocks[i].addr, blocks[i].size);
		free(blocks[i].addr);
	}
}

/* ------------------------------------------------------------------ 17, 21: two threads, one range */

struct pair *race_pair_of(struct worker *w)
{
	return &w->a->pairs[w->id / 2];
}

/* The first of two looks up, the second changes; without a partner one thread does both. */
static bool is_first(const struct worker *w)
{
	return w->id % 2 == 0;
}

static bool is_second(const struct worker *w)
{
	return w->id % 2 == 1 || w->id + 1 == w->a->threads;
}

unsigned char *race_pair_memory(struct worker *w)
{
	return w->a->mem + w->id / 2 * w->a->race->pages * change_page();
}

/* Both of the pair come here; the first says whether it goes on. */
bool race_pair_goes_on(struct worker *w)
{
	if (is_first(w))
		atomic_store(&race_pair_of(w)->last, race_stopped(w));
	pthread_barrier_wait(&race_pair_of(w)->meet);
	return !atomic_load(&race_pair_of(w)->last);
}

static void spin(size_t n)
{
	while (n--)
		__asm__ volatile("" ::: "memory");
}

static void get_and_put(struct worker *w)
{
	struct hf_region r;

	if (get(w, race_pair_memory(w), w->a->race->pages * change_page(), &r))
		put(w, &r);
}

/* Announced before and after: the other thread looks the range up in between. Then it looks for itself. */
static void change_under_lookup(struct worker *w)
{
	if (may_change(w)) {
		spin(race_below(w, 20000));
		renew(w, race_pair_memory(w), w->a->race->pages);
		tell(w, race_pair_memory(w), w->a->race->pages * change_page());
		changed(w);
	}
	get_and_put(w);
}

static void judge_pair(struct worker *w)
{
	pthread_barrier_wait(&race_pair_of(w)->meet);
	if (!is_first(w))
		return;
	race_stamp(w, race_pair_memory(w), w->a->race->pages);
	race_look(w, race_pair_memory(w), w->a->race->pages);
}

/*
 * The kernel tells of an madvise before it takes the pages, and nothing tells when it has: what the other thread
 * registers between the two would be stale once the purge has returned. A few in a hundred thousand.
 */
static void work_purge(struct worker *w)
{
	unsigned char *mem = race_pair_memory(w);
	size_t len = w->a->race->pages * change_page();

	while (!race_stopped(w)) {
		if (!is_first(w)) {
			get_and_put(w);
			continue;
		}
		tell(w, mem, len);
		madvise(mem, len, MADV_DONTNEED);
		tell(w, mem, len);
		race_stamp(w, mem, w->a->race->pages);
		race_look(w, mem, w->a->race->pages);
	}
}

static void work_publish(struct worker *w)
{
	int i;

	while (race_pair_goes_on(w)) {
		for (i = 0; is_first(w) && i < 4; i++)
			get_and_put(w);
		if (is_second(w))
			change_under_lookup(w);
		judge_pair(w);
	}
}

static void work_last_put(struct worker *w)
{
	size_t len = w->a->race->pages * change_page();
	struct hf_region r;
	bool held = false;

	for (;;) {
		if (is_first(w))
			held = get(w, race_pair_memory(w), len, &r);
		if (!race_pair_goes_on(w))
			break;
		spin(held ? race_below(w, 20000) : 0);
		if (held)
			put(w, &r);
		held = false;
		if (is_second(w))
			change_under_lookup(w);
		judge_pair(w);
	}
	if (held)
		put(w, &r);
}

/* ------------------------------------------------------------------ 18: unmapped while in use */

/* The part that is unmapped stays readable through what is held (I2); the other part is still right. */
static void check_held(struct worker *w, const struct hf_region *r, const unsigned char *first,
		       const unsigned char *second, const unsigned char *second_was)
{
	unsigned char nic[STAMP];
	int err;

	judge_bytes(w, r, wrong_to_read(w, r, first));
	err = hf_peek(r, second, nic, sizeof(nic));
	if (err)
		race_remember(w, "hf_peek of a held registration", err);
	else
		judge_bytes(w, r, differing(nic, second_was, sizeof(nic)));
}

static void work_partial(struct worker *w)
{
	const size_t half = 4;
	unsigned char was[STAMP];
	struct hf_region r;

	while (!race_stopped(w)) {
		unsigned char *addr = race_map(2 * half), *second = addr + half * change_page();

		if (!addr)
			continue;
		race_stamp(w, addr, 2 * half);
		memcpy(was, second, sizeof(was));
		if (get(w, addr, 2 * half * change_page(), &r)) {
			race_unmap(w, second, half);
			check_held(w, &r, addr, second, was);
			race_look(w, addr, half);
			put(w, &r);
			race_look(w, addr, half);
		} else {
			race_unmap(w, second, half);
		}
		race_unmap(w, addr, half);
	}
}

/* ------------------------------------------------------------------ 19: all miss on one range */

bool race_all_go_on(struct worker *w)
{
	if (!w->id)
		atomic_store(&w->a->last, race_stopped(w));
	pthread_barrier_wait(&w->a->all);
	return !atomic_load(&w->a->last);
}

static void work_same_miss(struct worker *w)
{
	size_t pages = w->a->race->pages, len = pages * change_page();

	for (;;) {
		if (!w->id) {
			renew(w, w->a->mem, pages);
			race_stamp(w, w->a->mem, pages);
		}
		if (!race_all_go_on(w))
			return;
		look(w, w->a->mem, len, w->a->mem + race_below(w, pages) * change_page(), true);
		pthread_barrier_wait(&w->a->all);
	}
}

/* One range that all asked for: one registration. */
static bool verify_one_entry(struct arena *a, char *why, size_t size)
{
	struct hf_stats s = { 0 };

	if (hf_provider_stats(a->provider, &s, sizeof(s)) || s.entries <= 1)
		return true;
	snprintf(why, size, "%llu registrations of one range are cached", (unsigned long long)s.entries);
	return false;
}

/* ------------------------------------------------------------------ 20: evicted while others hit */

#define EVICT_PAGES 2

static void work_evict(struct worker *w)
{
	size_t buffers = w->a->mem_len / change_page() / EVICT_PAGES;

	while (!race_stopped(w)) {
		/* half of the lookups go to few buffers: hits while the others push them out */
		size_t i = race_random(w) & 0x100 ? race_below(w, 4) : race_below(w, buffers);
		unsigned char *addr = w->a->mem + i * EVICT_PAGES * change_page();

		look(w, addr, EVICT_PAGES * change_page(), addr + race_below(w, EVICT_PAGES) * change_page(), true);
	}
}

/* ------------------------------------------------------------------ 22: neighbours in one mapping */

static void work_neighbour(struct worker *w)
{
	size_t pages = w->a->race->pages;
	unsigned char *own = w->a->mem + w->id * pages * change_page();

	while (!race_stopped(w)) {
		size_t first = race_below(w, pages), count = 1 + race_below(w, pages - first);

		if (may_change(w)) {
			renew(w, own + first * change_page(), count);
			changed(w);
			race_stamp(w, own, pages);
		}
		race_look(w, own, pages);
		look_inside(w, own, pages);
	}
}

/* ------------------------------------------------------------------ 23, 24: storms and floods */

#define STORM_CYCLES 40000
#define STORM_PAGES 64
#define STORM_CACHED 4

/* Elsewhere, and every 16th time in the mapping that is being watched. */
static void storm(struct worker *w, unsigned char *mem)
{
	int i;

	for (i = 0; i < STORM_CYCLES && !race_stopped(w); i++) {
		size_t pages = 1 + race_below(w, 4);
		unsigned char *addr = race_map(pages);

		if (addr)
			munmap(addr, pages * change_page());
		if (i % 16 == 0)
			renew(w, mem + (STORM_CACHED + race_below(w, STORM_PAGES - STORM_CACHED)) * change_page(), 1);
	}
}

static void keep_slowest(struct arena *a, uint64_t ns)
{
	uint64_t was = atomic_load(&a->slowest_ns);

	while (ns > was && !atomic_compare_exchange_weak(&a->slowest_ns, &was, ns))
		;
}

static void timed_look(struct worker *w, unsigned char *mem)
{
	uint64_t begin = tool_now_ns();

	race_look(w, mem, STORM_CACHED);
	keep_slowest(w->a, tool_now_ns() - begin);
}

/* Cached, the storm, and when it is over in every thread the first lookup. */
static void work_storm(struct worker *w)
{
	unsigned char *mem = w->a->mem + w->id * STORM_PAGES * change_page();

	while (race_all_go_on(w)) {
		race_stamp(w, mem, STORM_CACHED);
		race_look(w, mem, STORM_CACHED);
		storm(w, mem);
		pthread_barrier_wait(&w->a->all);
		timed_look(w, mem);
	}
}

static bool verify_storm(struct arena *a, char *why, size_t size)
{
	snprintf(why, size, "slowest first lookup after a storm: %.0f us",
		 (double)atomic_load(&a->slowest_ns) / 1000);
	return true;
}

#define FLOOD_PAGES 64
#define FLOOD_EVENTS 256
#define FLOOD_RECYCLES 16

static void flood(struct worker *w, unsigned char *mem)
{
	int i;

	for (i = 0; i < FLOOD_EVENTS && !race_stopped(w); i++) {
		unsigned char *page = mem + race_below(w, FLOOD_PAGES) * change_page();

		tell(w, page, change_page());
		madvise(page, change_page(), MADV_DONTNEED);
	}
}

/* Half of the threads flood while the others recycle; when all have done, they look in quiet. */
static void work_flood(struct worker *w)
{
	unsigned char *mem = w->a->mem + w->id * FLOOD_PAGES * change_page();
	struct slot slot = { 0 };
	int i;

	while (race_all_go_on(w)) {
		for (i = 0; w->id % 2 && i < FLOOD_RECYCLES; i++)
			recycle(w, &slot);
		if (w->id % 2 == 0)
			flood(w, mem);
		pthread_barrier_wait(&w->a->all);
		race_stamp(w, mem, FLOOD_PAGES);
		for (i = 0; i < FLOOD_RECYCLES; i++)
			look_inside(w, mem, FLOOD_PAGES);
	}
	if (slot.addr)
		race_unmap(w, slot.addr, slot.pages);
}

/* ------------------------------------------------------------------ the table */

/* name, hazard, weight, shared pages per thread, own provider, work, verify, what, takes a proxy that refuses changes */
const struct race races[] = {
	{ "race-recycle", 16, 120, 0, NULL, work_recycle, NULL,
	  "threads unmap cached ranges, others are given the addresses", false },
	{ "race-dontneed", 16, 5, 0, NULL, work_dontneed, NULL,
	  "threads purge with MADV_DONTNEED and MADV_FREE, and use again", false },
	{ "race-mremap", 16, 4, 0, NULL, work_mremap, NULL,
	  "threads move, grow and shrink mappings, also onto cached ones", false },
	{ "malloc-churn", 16, 5, 0, NULL, work_malloc, NULL,
	  "malloc, realloc and free of 64 KiB to 1 MiB in all threads", false },
	{ "race-purge", 17, 4, 1, NULL, work_purge, NULL,
	  "a range is purged with MADV_DONTNEED while another thread registers it", false },
	{ "race-publish", 17, 4, 4, NULL, work_publish, NULL,
	  "a range changes while another thread registers it", false },
	{ "race-partial-unmap-in-use", 18, 4, 0, NULL, work_partial, NULL,
	  "half of a held registration is unmapped", false },
	{ "race-same-miss", 19, 4, 16, NULL, work_same_miss, verify_one_entry,
	  "all threads miss on one range at once", false },
	{ "race-evict-hit", 20, 3, 16, SMALL_OPTIONS, work_evict, NULL,
	  "a cache of 8: evicted while other threads hit", false },
	{ "race-lastput-invalidate", 21, 4, 4, NULL, work_last_put, NULL,
	  "the last put against a change of the same range", false },
	{ "race-neighbour", 22, 3, 4, NULL, work_neighbour, NULL,
	  "neighbours in one mapping are unmapped and mapped again", false },
	{ "unmap-storm", 23, 2, STORM_PAGES, NULL, work_storm, verify_storm,
	  "40 000 mmap and munmap with no lookup in between", false },
	{ "event-flood", 24, 2, FLOOD_PAGES, NULL, work_flood, NULL,
	  "changes come faster than they are read", false },
	{ "race-deny", 16, 4, 0, NULL, work_deny, NULL,
	  "threads secure memory and change each other's: every change is refused", true },
	{ "race-deny-late", 17, 3, 4, NULL, work_deny_late, NULL,
	  "a range is secured while a call that empties it is under way", true },
};

const size_t races_count = sizeof(races) / sizeof(races[0]);

/* ------------------------------------------------------------------ one race's life */

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->a->race->work(w);
	return NULL;
}

/* A barrier per pair; the last thread may have no partner. */
static void init_pairs(struct arena *a)
{
	unsigned i;

	for (i = 0; i * 2 < a->threads; i++)
		pthread_barrier_init(&a->pairs[i].meet, NULL, i * 2 + 1 < a->threads ? 2 : 1);
	pthread_barrier_init(&a->all, NULL, a->threads);
}

static void free_arena(struct arena *a)
{
	unsigned i;

	if (a->pairs)
		for (i = 0; i * 2 < a->threads; i++)
			pthread_barrier_destroy(&a->pairs[i].meet);
	if (a->mem)
		munmap(a->mem, a->mem_len);
	if (a->provider != a->j->provider)
		hf_provider_close(a->provider);
	free(a->workers);
	free(a->pairs);
	free(a);
}

static bool map_arena(struct arena *a)
{
	struct worker w = { .a = a, .id = a->threads };
	size_t pages = a->race->pages * a->threads;

	if (!pages)
		return true;
	a->mem = race_map(pages);
	if (!a->mem)
		return false;
	a->mem_len = pages * change_page();
	race_stamp(&w, a->mem, pages);
	return true;
}

static struct arena *new_arena(const struct race *r, struct judge *j, unsigned threads)
{
	struct arena *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->race = r;
	a->j = j;
	a->provider = j->provider;
	a->threads = threads;
	a->workers = aligned_alloc(_Alignof(struct worker), threads * sizeof(*a->workers));
	a->pairs = calloc(threads / 2 + 1, sizeof(*a->pairs));
	if (a->pairs)
		init_pairs(a);
	if (a->workers && a->pairs && map_arena(a))
		return a;
	free_arena(a);
	return NULL;
}

/* Threads that did not start would be missed at the barriers: there is no race with fewer. */
static void start(struct arena *a, uint64_t seed)
{
	unsigned i;
	int err;

	memset(a->workers, 0, a->threads * sizeof(*a->workers));
	for (i = 0; i < a->threads; i++) {
		struct worker *w = &a->workers[i];

		w->a = a;
		w->id = i;
		w->random = (seed + 1) * 0x9e3779b97f4a7c15u ^ (i + 1) * 0xbf58476d1ce4e5b9u;
		err = pthread_create(&w->thread, NULL, worker_main, w);
		if (err) {
			tool_fail(TOOL_CANNOT, "no thread %u of %u: %s; use fewer --threads", i + 1, a->threads,
				  strerror(err));
			_Exit(TOOL_CANNOT);
		}
	}
}

static void sleep_seconds(double seconds)
{
	struct timespec left = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* On a busy machine the time may be over before there was one: then nothing was tried. */
static uint64_t cached_lookups(const struct arena *a)
{
	struct hf_stats s = { 0 };

	hf_provider_stats(a->provider, &s, sizeof(s));
	return s.hits + s.misses;
}

/* How many threads have not ended in time. */
static unsigned join(struct arena *a)
{
	struct timespec until;
	unsigned i, hang = 0;

	atomic_store(&a->stop, true);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += HANG_SECONDS;
	for (i = 0; i < a->threads; i++)
		hang += pthread_timedjoin_np(a->workers[i].thread, NULL, &until) != 0;
	return hang;
}

static void collect(struct arena *a, struct outcome *o)
{
	unsigned i;

	for (i = 0; i < a->threads; i++) {
		struct outcome one = { .n = a->workers[i].n };

		outcome_add(o, &one);
		if (!o->why[0])
			memcpy(o->why, a->workers[i].why, sizeof(o->why));
	}
}

/* When nothing is wrong. */
static enum verdict calm_verdict(struct outcome *o)
{
	const struct counts *n = &o->n;

	if (!n->lookups || n->limited == n->lookups) {
		snprintf(o->why, sizeof(o->why), "%s", n->lookups ? "a limit left nothing to register" :
								    "no time for a lookup");
		return VERDICT_CANNOT;
	}
	if (!n->refused && n->uncached + n->limited == n->lookups)
		return VERDICT_NOT_CACHED;
	if (!o->why[0] && n->limited)
		snprintf(o->why, sizeof(o->why), "%llu lookups met a limit (-ENOMEM)", (unsigned long long)n->limited);
	return VERDICT_OK;
}

static void conclude(struct arena *a, struct outcome *o)
{
	char why[sizeof(o->why)] = "";
	bool good = !a->race->verify || a->race->verify(a, why, sizeof(why));

	if (good)
		good = judge_drained(a->provider, why, sizeof(why));
	if (o->n.stale_hits || o->n.wrong_bytes)
		o->verdict = VERDICT_STALE;
	else if (o->n.failures || o->n.broken || !good)
		o->verdict = VERDICT_FAILED;
	if (why[0] && !o->why[0])
		memcpy(o->why, why, sizeof(why));
	if (!o->verdict)
		o->verdict = calm_verdict(o);
}

bool race_run(const struct race *r, struct judge *j, unsigned threads, uint64_t seed, double seconds,
	      struct outcome *o)
{
	struct arena *a = new_arena(r, j, threads);
	uint64_t lookups;
	unsigned hang;
	double more;

	memset(o, 0, sizeof(*o));
	o->verdict = VERDICT_CANNOT;
	if (!a) {
		snprintf(o->why, sizeof(o->why), "no memory for %u threads", threads);
		return true;
	}
	if (r->denies && !judge_can_deny(j, o->why, sizeof(o->why))) {
		free_arena(a);
		return true;
	}
	if (r->work == work_deny_late && judge_seals(j)) {
		snprintf(o->why, sizeof(o->why), "a seal doesn't refuse a madvise that empties writable memory");
		free_arena(a);
		return true;
	}
	if (r->options && hf_provider_open(j->sw, j->nic, r->options, &a->provider)) {
		snprintf(o->why, sizeof(o->why), "%s", hf_error());
		a->provider = j->provider;
		free_arena(a);
		return true;
	}
	o->verdict = VERDICT_NONE;
	lookups = cached_lookups(a);
	start(a, seed);
	sleep_seconds(seconds);
	for (more = 0; more < TURN_SECONDS && !r->denies && cached_lookups(a) == lookups; more += 0.01)
		sleep_seconds(0.01);
	hang = join(a);
	collect(a, o);
	if (hang) {
		o->verdict = VERDICT_FAILED;
		snprintf(o->why, sizeof(o->why), "%u of %u threads hang", hang, threads);
		return false;
	}
	conclude(a, o);
	free_arena(a);
	return true;
}
