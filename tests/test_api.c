/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every public call of holdfast.h, with good and with bad input (hazards 19, 21, 38, 39), under each proxy. The NIC is
 * `sim`: it aborts the test when a stale key is used or a transfer loses its registration.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "cache.h"
#include "provider.h"

#define PAGES 128
#define KERNEL_ADDRESS 0xffff800000000000ull
#define HOLDERS 100003 /* a prime */

static const char *proxy; /* of the group that runs */
static size_t page;

struct rig {
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_sim sim;
	char *mem; /* PAGES */
};

static bool is_uffd(void)
{
	return !strcmp(proxy, "uffd");
}

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));
	char options[32];

	snprintf(options, sizeof(options), "proxy=%s", proxy);
	g->sw = check_switch(options);
	g->p = check_sim(g->sw, &g->sim, "max_bytes=64M");
	g->mem = check_map(PAGES * page);
	*state = g;
	return 0;
}

/* Every test ends here: nothing is held, nothing is left in the NIC. */
static int teardown(void **state)
{
	struct rig *g = *state;

	assert_true(cache_is_valid(&g->p->cache));
	check_close(g->sw, g->p);
	assert_int_equal(g->sim.live, 0);
	assert_int_equal(g->sim.live_bytes, 0);
	assert_int_equal(g->sim.regs, g->sim.deregs);
	check_unmap(g->mem, PAGES * page);
	free(g);
	return 0;
}

static char *at(struct rig *g, unsigned n)
{
	return g->mem + n * page;
}

/* ------------------------------------------------------------------ hf_get: what is asked */

static void get_bad_arguments(void **state)
{
	static const unsigned bad_access[] = { 0, 4, 5, 0x10, 0x13, ~0u };
	struct rig *g = *state;
	struct hf_region r;

	check_error(hf_get(NULL, g->mem, page, HF_READ, &r), -EINVAL, "provider");
	check_error(hf_get(g->p, g->mem, page, HF_READ, NULL), -EINVAL, "region");
	for (size_t i = 0; i < sizeof(bad_access) / sizeof(bad_access[0]); i++)
		check_error(hf_get(g->p, g->mem, page, bad_access[i], &r), -EINVAL, "access");
	check_error(hf_get(g->p, g->mem, 0, HF_READ, &r), -EINVAL, "length");
	check_error(hf_get(g->p, g->mem, SIZE_MAX, HF_READ, &r), -EINVAL, "wraps");
	check_error(hf_get(g->p, (void *)(UINTPTR_MAX - 100), 200, HF_READ, &r), -EINVAL, "wraps");
	check_error(hf_get(g->p, (void *)(UINTPTR_MAX - 100), 50, HF_READ, &r), -EINVAL, "wraps");
	check_error(hf_get(g->p, NULL, SIZE_MAX, HF_READ, &r), -EINVAL, "wraps");
	check_error(hf_get_unchecked(g->p, g->mem, 0, HF_READ, &r), -EINVAL, "length");
	check_error(hf_get_unchecked(NULL, g->mem, 1, HF_READ, &r), -EINVAL, "provider");
	check_error(hf_sync(NULL), -EINVAL, "provider");
	assert_int_equal(g->sim.regs, 0);
}

/* Addresses where no memory of the program's is. */
static void get_bad_memory(void **state)
{
	struct rig *g = *state;
	struct hf_stats s;
	struct hf_region r;
	char hole[20];

	snprintf(hole, sizeof(hole), "0x%lx", (unsigned long)(uintptr_t)at(g, 2));
	munmap(at(g, 2), page);
	mprotect(at(g, 4), page, PROT_NONE);
	check_quiet(g->p);
	check_error(hf_get(g->p, NULL, page, HF_READ, &r), -EFAULT, "mapped");
	check_error(hf_get(g->p, (void *)1, 1, HF_READ, &r), -EFAULT, "mapped");
	check_error(hf_get(g->p, (void *)KERNEL_ADDRESS, page, HF_READ, &r), -EFAULT, "mapped");
	check_error(hf_get(g->p, (void *)(UINTPTR_MAX - 4 * page), page, HF_READ, &r), -EFAULT, "mapped");
	check_error(hf_get(g->p, at(g, 2), 1, HF_READ, &r), -EFAULT, hole);
	check_error(hf_get(g->p, at(g, 0), 4 * page, HF_READ, &r), -EFAULT, hole);
	check_error(hf_get(g->p, at(g, 1), page + 1, HF_READ, &r), -EFAULT, hole);
	check_error(hf_get(g->p, at(g, 4), 1, HF_READ, &r), -EACCES, "PROT_NONE");
	check_error(hf_get(g->p, at(g, 3), 2 * page, HF_READ, &r), -EACCES, "PROT_NONE");
	s = check_stats(g->p);
	assert_int_equal(s.misses + s.uncached + s.failures + s.entries + s.pinned_bytes, 0);
	assert_int_equal(g->sim.regs, 0);
	/* The control: next to the hole all is well. */
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_READWRITE), HF_REGION_CACHED);
	assert_int_equal(check_touch(g->p, at(g, 3), page, HF_READWRITE), HF_REGION_CACHED);
}

static void get_a_tebibyte(void **state)
{
	struct rig *g = *state;
	struct hf_provider *vast = check_sim(g->sw, NULL, "max_bytes=4T");
	struct hf_region r;
	char *p = mmap(NULL, TIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	/* More than the limit, mapped or not: the limit's name, and nothing pinned. */
	check_error(hf_get(g->p, g->mem, TIB, HF_READWRITE, &r), -ENOMEM, "max_bytes=67108864");
	check_error(hf_get(g->p, (void *)0x1000, TIB, HF_READWRITE, &r), -ENOMEM, "max_bytes");
	if (p != MAP_FAILED) {
		check_error(hf_get(g->p, p, TIB, HF_READWRITE, &r), -ENOMEM, "max_bytes=67108864");
		munmap(p, TIB);
		check_quiet(vast);
	} else {
		print_message("no 1 TiB mapping here: %s\n", strerror(errno));
	}
	/* More pages than the index can count, whatever the limit. */
	check_ok(hf_provider_close(vast));
	vast = check_sim(g->sw, NULL, "max_bytes=4096T");
	check_error(hf_get(vast, (void *)0x1000, (UINT32_MAX + 1ul) * page, HF_READWRITE, &r), -ENOMEM, "at most");
	check_error(hf_get(vast, (void *)0x1000, UINT32_MAX * page, HF_READWRITE, &r), -EFAULT, "mapped");
	assert_int_equal(hf_invalidate(g->sw, (void *)0x1000, (UINT32_MAX + 2ul) * page), 0);
	/* Within the limit: it isn't mapped. */
	check_error(hf_get(vast, (void *)0x1000, TIB, HF_READWRITE, &r), -EFAULT, "mapped");
	assert_int_equal(check_stats(vast).pinned_bytes, 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, 0);
	check_ok(hf_provider_close(vast));
}

/* Whole pages that cover the request, and not one more. */
static void get_rounds_to_pages(void **state)
{
	static const struct { long from, len; unsigned first, pages; } want[] = {
		{ 0, 1, 0, 1 }, { 1, 1, 0, 1 }, { -1, 1, 15, 1 }, { -1, 2, 15, 2 }, { 0, 0, 0, 1 }, { 1, 0, 0, 2 },
		{ -1, 0, 15, 2 },
	};
	struct rig *g = *state;

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		char *from = at(g, 16) + want[i].from;
		size_t len = want[i].len ? (size_t)want[i].len : page; /* 0 stands for a page */
		unsigned first = want[i].first ? want[i].first : 16;
		struct hf_region r = check_get(g->p, from, len, HF_READ);

		assert_int_equal(r.addr, (uintptr_t)at(g, first));
		assert_int_equal(r.length, want[i].pages * page);
		assert_int_equal(r.flags, HF_REGION_CACHED);
		assert_int_equal(r.access, HF_READ);
		assert_ptr_equal(r.provider, g->p);
		assert_int_equal(g->sim.live_bytes, want[i].pages * page);
		hf_sim_use(&r, from, len);
		check_ok(hf_put(g->p, &r));
		assert_null(r.entry);
		assert_int_equal(hf_flush(g->p), 1);
	}
}

static void get_sub_range_hits(void **state)
{
	struct rig *g = *state;
	struct hf_region whole = check_get(g->p, at(g, 4), 4 * page, HF_READWRITE);

	for (unsigned first = 4; first < 8; first++) {
		for (unsigned last = first; last < 8; last++) {
			struct hf_region r = check_get(g->p, at(g, first), (last - first + 1) * page, HF_READ);

			assert_int_equal(r.flags, HF_REGION_HIT | HF_REGION_CACHED);
			assert_int_equal(r.lkey, whole.lkey);
			assert_int_equal(r.rkey, whole.rkey);
			assert_int_equal(r.addr, whole.addr);
			assert_int_equal(r.length, whole.length);
			check_ok(hf_put(g->p, &r));
		}
	}
	assert_int_equal(check_stats(g->p).hits, 10);
	assert_int_equal(check_stats(g->p).misses, 1);
	/* One byte further, on either side, is another registration. */
	assert_int_equal(check_touch(g->p, at(g, 4) - 1, 2, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_touch(g->p, at(g, 8) - 1, 2, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_stats(g->p).misses, 3);
	check_ok(hf_put(g->p, &whole));
}

/* Two that overlap both stay; a newer one that covers both replaces them. */
static void overlap(void **state)
{
	struct rig *g = *state;
	struct hf_stats s;

	check_touch(g->p, at(g, 0), 3 * page, HF_READ);
	check_touch(g->p, at(g, 2), 3 * page, HF_READ);
	s = check_stats(g->p);
	assert_int_equal(s.entries, 2);
	assert_int_equal(s.superseded, 0);
	assert_int_equal(s.pinned_bytes, 6 * page);
	/* Neither of them covers it: registered, and no more than was asked for. */
	assert_int_equal(check_touch(g->p, at(g, 1), 3 * page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_stats(g->p).pinned_bytes, 9 * page);
	/* Covers two of the three. */
	assert_int_equal(check_touch(g->p, at(g, 1), 4 * page, HF_READWRITE), HF_REGION_CACHED);
	s = check_stats(g->p);
	assert_int_equal(s.superseded, 2);
	assert_int_equal(s.entries, 2);
	assert_int_equal(s.misses, 4);
	assert_int_equal(s.evictions + s.invalidations, 0);
	check_pinned(g->p, 7 * page);
	assert_int_equal(g->sim.live, 2);
}

static void superseded_while_held(void **state)
{
	struct rig *g = *state;
	struct hf_region small = check_get(g->p, at(g, 1), page, HF_READWRITE);
	struct hf_region large;

	hf_sim_begin(&small);
	large = check_get(g->p, at(g, 0), 3 * page, HF_READWRITE);
	assert_int_equal(check_stats(g->p).superseded, 1);
	assert_int_equal(check_stats(g->p).dead_held, 1);
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	hf_sim_use(&small, at(g, 1), page);
	hf_sim_end(&small);
	check_ok(hf_put(g->p, &small));
	check_pinned(g->p, 3 * page);
	assert_int_equal(check_stats(g->p).dead_held, 0);
	check_ok(hf_put(g->p, &large));
}

/* More than one batch of the index's, all covered by a newer one. */
static void supersede_many(void **state)
{
	struct rig *g = *state;

	for (unsigned i = 0; i < 100; i++)
		check_touch(g->p, at(g, i), page, 1 + i % 3);
	check_touch(g->p, at(g, 0), 100 * page, HF_READWRITE);
	assert_int_equal(check_stats(g->p).superseded, 100);
	assert_int_equal(check_stats(g->p).entries, 1);
	check_pinned(g->p, 100 * page);
}

/* ------------------------------------------------------------------ rights */

/* Write asked of read-only memory: an error, and nothing is cached (hazard 38). */
static void write_to_read_only(void **state)
{
	struct rig *g = *state;
	struct hf_stats s;
	struct hf_region r;

	mprotect(at(g, 0), 2 * page, PROT_READ);
	check_quiet(g->p);
	check_error(hf_get(g->p, at(g, 0), page, HF_WRITE, &r), -EACCES, "read-only");
	check_error(hf_get(g->p, at(g, 0), page, HF_READWRITE, &r), -EACCES, "read-only");
	/* Only the first half of it is read-only. */
	check_error(hf_get(g->p, at(g, 1), 2 * page, HF_WRITE, &r), -EACCES, "read-only");
	s = check_stats(g->p);
	assert_int_equal(s.entries + s.misses + s.uncached + s.pinned_bytes + s.failures, 0);
	assert_int_equal(g->sim.regs, 0);
	/* Writable again: what was refused has left no trace. */
	mprotect(at(g, 0), 2 * page, PROT_READ | PROT_WRITE);
	check_quiet(g->p);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_WRITE), HF_REGION_CACHED);
}

/* uffd isn't told of a later copy-on-write, so it doesn't cache read-only memory (I6). */
static void read_of_read_only(void **state)
{
	struct rig *g = *state;
	unsigned cached = is_uffd() ? 0 : HF_REGION_CACHED;
	unsigned again = is_uffd() ? 0 : HF_REGION_CACHED | HF_REGION_HIT;
	struct hf_region r;

	mprotect(at(g, 0), page, PROT_READ);
	check_quiet(g->p);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), cached);
	r = check_get(g->p, at(g, 0), page, HF_READ);
	assert_int_equal(r.flags, again);
	hf_sim_use(&r, at(g, 0), page);
	check_error(hf_get(g->p, at(g, 0), page, HF_WRITE, &(struct hf_region){ 0 }), -EACCES, "read-only");
	check_ok(hf_put(g->p, &r));
	assert_int_equal(check_stats(g->p).uncached, is_uffd() ? 2 : 0);
	assert_int_equal(check_stats(g->p).pinned_bytes, is_uffd() ? 0 : page);
}

/* Two users with different rights over one range: the one with more replaces, the one with fewer hits. */
static void rights_of_two_users(void **state)
{
	struct rig *g = *state;
	struct hf_region reader = check_get(g->p, at(g, 0), page, HF_READ);
	struct hf_region writer, both;

	hf_sim_begin(&reader);
	writer = check_get(g->p, at(g, 0), page, HF_WRITE);
	assert_int_equal(writer.flags, HF_REGION_CACHED);
	assert_int_equal(writer.access, HF_WRITE);
	assert_int_equal(check_stats(g->p).entries, 2); /* neither has the other's rights */
	both = check_get(g->p, at(g, 0), page, HF_READWRITE);
	assert_int_equal(both.flags, HF_REGION_CACHED);
	assert_int_equal(both.access, HF_READWRITE);
	assert_int_equal(check_stats(g->p).superseded, 2);
	assert_int_equal(check_stats(g->p).dead_held, 2);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_WRITE), HF_REGION_HIT | HF_REGION_CACHED);
	hf_sim_end(&reader);
	check_ok(hf_put(g->p, &reader));
	check_ok(hf_put(g->p, &writer));
	check_ok(hf_put(g->p, &both));
	check_pinned(g->p, page);
	assert_int_equal(g->sim.regs, 3);
}

/* Fewer rights over more memory replace nothing. */
static void fewer_rights_replace_nothing(void **state)
{
	struct rig *g = *state;

	check_touch(g->p, at(g, 1), page, HF_READWRITE);
	check_touch(g->p, at(g, 0), 3 * page, HF_READ);
	assert_int_equal(check_stats(g->p).superseded, 0);
	assert_int_equal(check_stats(g->p).entries, 2);
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_WRITE), HF_REGION_HIT | HF_REGION_CACHED);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_WRITE), HF_REGION_CACHED);
}

/* ------------------------------------------------------------------ hf_put, hf_flush, close */

static void put_bad_arguments(void **state)
{
	struct rig *g = *state;
	struct hf_provider *other = check_sim(g->sw, NULL, NULL);
	struct hf_region zero = { 0 };
	struct hf_region r = check_get(g->p, at(g, 0), page, HF_READ);
	struct hf_region copy = r;

	check_error(hf_put(NULL, &r), -EINVAL, "provider");
	check_error(hf_put(g->p, NULL), -EINVAL, "NULL");
	check_error(hf_put(g->p, &zero), -EINVAL, "not held");
	check_error(hf_put(other, &r), -EINVAL, "another provider");
	assert_non_null(r.entry);
	hf_sim_use(&r, at(g, 0), page);
	check_ok(hf_put(g->p, &r));
	check_error(hf_put(g->p, &r), -EINVAL, "put already");
	check_error(hf_put(g->p, &copy), -EINVAL, "put twice");
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	check_ok(hf_provider_close(other));
}

static void flush_takes_the_idle(void **state)
{
	struct rig *g = *state;
	struct hf_region held = check_get(g->p, at(g, 0), page, HF_READ);

	for (unsigned i = 1; i < 50; i++)
		check_touch(g->p, at(g, i), page, HF_READ);
	hf_sim_begin(&held);
	assert_int_equal(hf_flush(g->p), 49);
	assert_int_equal(hf_flush(g->p), 0);
	assert_int_equal(g->sim.live, 1);
	assert_int_equal(check_stats(g->p).pinned_bytes, page);
	hf_sim_end(&held);
	check_ok(hf_put(g->p, &held));
	assert_int_equal(hf_flush(g->p), 1);
	assert_int_equal(check_stats(g->p).pinned_bytes, 0);
	check_error(hf_flush(NULL), -EINVAL, "provider");
}

/* -EBUSY, and nothing is lost: what is held stays valid, what is cached is still a hit. */
static void close_with_holders(void **state)
{
	struct rig *g = *state;
	struct hf_region r = check_get(g->p, at(g, 0), page, HF_READ);

	check_touch(g->p, at(g, 1), page, HF_READ);
	hf_sim_begin(&r);
	check_error(hf_provider_close(g->p), -EBUSY, "1 registrations are held");
	check_error(hf_switch_close(g->sw), -EBUSY, "1 providers are open");
	hf_sim_end(&r);
	hf_sim_use(&r, at(g, 0), page);
	assert_int_equal(g->sim.live, 2);
	assert_int_equal(g->sim.deregs, 0);
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	/* A dead one that is held counts as well. */
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 1);
	check_error(hf_provider_close(g->p), -EBUSY, "1 registrations are held");
	check_ok(hf_put(g->p, &r));
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_CACHED);
}

/* So does one that isn't cached. */
static void close_with_uncached_holder(void **state)
{
	struct rig *g = *state;
	struct hf_provider *p = check_sim(g->sw, NULL, "cache=off");
	struct hf_region r = check_get(p, at(g, 0), page, HF_READ);
	struct hf_region copy = r;

	assert_int_equal(r.flags, 0);
	check_error(hf_provider_close(p), -EBUSY, "1 registrations are held");
	hf_sim_use(&r, at(g, 0), page);
	check_ok(hf_put(p, &r));
	check_error(hf_put(p, &copy), -EINVAL, "put twice");
	check_ok(hf_provider_close(p));
}

static void null_objects(void **state)
{
	check_ok(hf_switch_close(NULL));
	check_ok(hf_provider_close(NULL));
	check_ok(hf_conn_close(NULL));
	assert_string_equal(hf_switch_proxy(NULL), "none");
	assert_null(hf_provider_nic(NULL));
	assert_int_equal(hf_region_lkey(NULL, NULL), UINT64_MAX);
}

static void region_lkey(void **state)
{
	struct rig *g = *state;
	struct hf_region r = check_get(g->p, at(g, 1), page, HF_READ);

	assert_int_equal(hf_region_lkey(&r, at(g, 1)), r.lkey);
	assert_int_equal(hf_region_lkey(&r, at(g, 2) - 1), r.lkey);
	assert_int_equal(hf_region_lkey(&r, at(g, 2)), UINT64_MAX);
	assert_int_equal(hf_region_lkey(&r, at(g, 1) - 1), UINT64_MAX);
	check_ok(hf_put(g->p, &r));
	assert_int_equal(hf_region_lkey(&r, at(g, 1)), UINT64_MAX);
}

/* As many as the word can count hold one; one more is another registration, and no count overflows. */
/* Each get is a hold of its own; the registration is one, and lasts until the last put, in whatever order. */
static void many_holders(void **state)
{
	struct rig *g = *state;
	struct hf_region *r = calloc(HOLDERS, sizeof(*r));

	assert_non_null(r);
	for (int i = 0; i < HOLDERS; i++) {
		check_ok(hf_get(g->p, at(g, 0), page, HF_READ, &r[i]));
		assert_int_equal(r[i].lkey, r[0].lkey);
	}
	assert_int_equal(g->sim.regs, 1);
	hf_sim_begin(&r[0]);
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 1);
	for (int i = 1; i < HOLDERS; i++)
		check_ok(hf_put(g->p, &r[(int)((int64_t)i * 7919 % HOLDERS)]));
	hf_flush(g->p);
	check_pinned(g->p, page);
	hf_sim_end(&r[0]);
	check_ok(hf_put(g->p, &r[0]));
	hf_flush(g->p);
	check_pinned(g->p, 0);
	free(r);
}

/* ------------------------------------------------------------------ hf_invalidate */

static void invalidate_bad_arguments(void **state)
{
	struct rig *g = *state;

	check_touch(g->p, at(g, 0), page, HF_READ);
	check_error(hf_invalidate(NULL, g->mem, page), -EINVAL, "switch");
	check_error(hf_invalidate(g->sw, g->mem, 0), -EINVAL, "length");
	check_error(hf_invalidate(g->sw, g->mem, SIZE_MAX), -EINVAL, "wraps");
	check_error(hf_invalidate(g->sw, (void *)(UINTPTR_MAX - 1), 2), -EINVAL, "wraps");
	assert_int_equal(hf_invalidate(g->sw, NULL, page), 0);
	assert_int_equal(hf_invalidate(g->sw, (void *)KERNEL_ADDRESS, page), 0);
	assert_int_equal(hf_invalidate(g->sw, at(g, 1), page), 0);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
}

/* What intersects goes, all of it, and nothing else (R33). */
static void invalidate_what_intersects(void **state)
{
	struct rig *g = *state;

	for (unsigned i = 0; i < 5; i++)
		check_touch(g->p, at(g, 4 * i), 4 * page, HF_READ);
	assert_int_equal(hf_invalidate(g->sw, at(g, 5) + 7, 1), 1);      /* the middle of one */
	assert_int_equal(hf_invalidate(g->sw, at(g, 5) + 7, 1), 0);
	assert_int_equal(hf_invalidate(g->sw, at(g, 12) - 1, 2), 2);     /* the edge of two */
	assert_int_equal(hf_invalidate(g->sw, at(g, 4), 12 * page), 0);  /* just between two */
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), PAGES * page), 2);
	assert_int_equal(check_stats(g->p).invalidations, 5);
	assert_int_equal(check_stats(g->p).in_use_invalidations, 0);
	assert_int_equal(check_stats(g->p).entries, 0);
	check_pinned(g->p, 0);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_CACHED);
}

/* All rights, all that overlap, and more than one batch of the index's. */
static void invalidate_many(void **state)
{
	struct rig *g = *state;

	for (unsigned i = 0; i < 97; i++)
		check_touch(g->p, at(g, i), 3 * page, i % 8 ? HF_READ : i % 16 ? HF_WRITE : HF_READWRITE);
	assert_int_equal(check_stats(g->p).entries, 97);
	assert_int_equal(hf_invalidate(g->sw, at(g, 3), 96 * page), 96);
	assert_int_equal(check_stats(g->p).entries, 1);
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), 1), 1);
	assert_true(cache_is_valid(&g->p->cache));
	check_pinned(g->p, 0);
}

/* It goes out of the cache at once, out of the NIC at the put (I2). */
static void invalidate_while_held(void **state)
{
	struct rig *g = *state;
	struct hf_region old = check_get(g->p, at(g, 0), 2 * page, HF_READWRITE);
	struct hf_region fresh;
	struct hf_stats s;

	hf_sim_begin(&old);
	assert_int_equal(hf_invalidate(g->sw, at(g, 1), 1), 1);
	s = check_stats(g->p);
	assert_int_equal(s.invalidations, 1);
	assert_int_equal(s.in_use_invalidations, 1);
	assert_int_equal(s.dead_held, 1);
	assert_int_equal(s.entries, 0);
	assert_int_equal(s.pinned_bytes, 2 * page);
	fresh = check_get(g->p, at(g, 0), 2 * page, HF_READWRITE);
	assert_int_equal(fresh.flags, HF_REGION_CACHED);
	assert_int_not_equal(fresh.lkey, old.lkey);
	assert_int_equal(hf_flush(g->p), 0);
	hf_sim_use(&old, at(g, 0), 2 * page);
	assert_int_equal(g->sim.deregs, 0);
	hf_sim_end(&old);
	check_ok(hf_put(g->p, &old));
	check_pinned(g->p, 2 * page);
	assert_int_equal(check_stats(g->p).dead_held, 0);
	assert_int_equal(g->sim.deregs, 1);
	hf_sim_use(&fresh, at(g, 0), 2 * page);
	check_ok(hf_put(g->p, &fresh));
}

/* The negative control of all that: `sim` does abort on a stale key, and when a transfer loses its registration. */
static int uses_stale_key(void *arg)
{
	struct hf_region *r = arg;

	signal(SIGABRT, SIG_DFL);
	if (freopen("/dev/null", "w", stderr))
		hf_sim_use(r, (void *)(uintptr_t)r->addr, 1);
	return 1;
}

static int deregisters_under_a_transfer(void *arg)
{
	struct hf_region *r = arg;
	struct hf_nic_reg key = { r->lkey, r->rkey, 0 };

	signal(SIGABRT, SIG_DFL);
	if (!freopen("/dev/null", "w", stderr))
		return 1;
	hf_sim_begin(r);
	hf_nic_find("sim")->dereg(hf_provider_nic(r->provider), r->addr, r->length, &key);
	return 2;
}

static void sim_aborts(void **state)
{
	struct rig *g = *state;
	struct hf_region r = check_get(g->p, at(g, 0), page, HF_READ);
	struct hf_region stale = r, beyond = r;

	beyond.addr += page;
	assert_int_equal(check_child(deregisters_under_a_transfer, &r), 128 + SIGABRT);
	assert_int_equal(check_child(uses_stale_key, &beyond), 128 + SIGABRT);
	check_ok(hf_put(g->p, &r));
	hf_flush(g->p);
	assert_int_equal(check_child(uses_stale_key, &stale), 128 + SIGABRT);
}

/* ------------------------------------------------------------------ the memory changes */

/* The mapping goes and another one comes to its place: under uffd nobody has to say so. */
static void address_is_reused(void **state)
{
	const unsigned times = CHECK_TSAN ? 20 : 100; /* unmapping is slow there */
	struct rig *g = *state;
	struct hf_region held;
	char *again;

	for (unsigned i = 0; i < times; i++) {
		assert_int_equal(check_touch(g->p, at(g, 8), 4 * page, HF_READWRITE), HF_REGION_CACHED);
		assert_int_equal(check_touch(g->p, at(g, 8), 4 * page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
		held = check_get(g->p, at(g, 8), 4 * page, HF_READ);
		hf_sim_begin(&held);
		assert_int_equal(munmap(at(g, 9), page), 0);
		again = mmap(at(g, 9), page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		assert_ptr_equal(again, at(g, 9));
		check_quiet(g->p);
		assert_int_equal(check_touch(g->p, at(g, 8), page, HF_READWRITE), HF_REGION_CACHED);
		assert_int_equal(check_stats(g->p).in_use_invalidations, i + 1);
		hf_sim_end(&held);
		check_ok(hf_put(g->p, &held));
		assert_int_equal(hf_flush(g->p) >= 1, 1);
	}
	assert_int_equal(check_stats(g->p).in_use_invalidations, times);
	assert_int_equal(check_stats(g->p).hits, 2 * times);
}

static void unchecked_after_sync(void **state)
{
	struct rig *g = *state;
	struct hf_region r;

	check_ok(hf_sync(g->p));
	for (unsigned i = 0; i < 10; i++) {
		check_ok(hf_get_unchecked(g->p, at(g, 0), page, HF_READ, &r));
		assert_int_equal(r.flags, HF_REGION_CACHED | (i ? HF_REGION_HIT : 0));
		hf_sim_use(&r, at(g, 0), page);
		check_ok(hf_put(g->p, &r));
	}
	assert_int_equal(hf_invalidate(g->sw, at(g, 0), page), 1);
	check_ok(hf_sync(g->p));
	check_ok(hf_get_unchecked(g->p, at(g, 0), page, HF_READ, &r));
	assert_int_equal(r.flags, HF_REGION_CACHED);
	check_ok(hf_put(g->p, &r));
	assert_int_equal(check_stats(g->p).hits, 9);
	assert_int_equal(check_stats(g->p).misses, 2);
}

struct disturb {
	struct hf_switch *sw;
	unsigned left;
};

static void disturb(void *arg, uint64_t addr, uint64_t len)
{
	struct disturb *d = arg;

	if (d->left && d->left--)
		hf_invalidate(d->sw, (void *)(uintptr_t)addr, len);
}

/* It changes between the arming and the publishing: registered again (I3); without end: used and let go. */
static void changed_while_registering(void **state)
{
	struct rig *g = *state;
	struct disturb d = { .sw = g->sw };

	g->sim.arg = &d;
	g->sim.on_reg = disturb;
	d.left = 2;
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_stats(g->p).retries, 2);
	assert_int_equal(g->sim.regs, 3);
	assert_int_equal(g->sim.live, 1);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);

	g->sim.on_reg = NULL;
	g->sim.after_reg = disturb;
	d.left = 1;
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(check_stats(g->p).retries, 3);

	d.left = UINT32_MAX;
	assert_int_equal(check_touch(g->p, at(g, 2), page, HF_READ), 0);
	assert_int_equal(check_stats(g->p).uncached, 1);
	assert_int_equal(check_stats(g->p).entries, 2);
	g->sim.after_reg = NULL;
	check_pinned(g->p, 2 * page);
	assert_int_equal(check_stats(g->p).misses, 2);
	assert_int_equal(check_stats(g->p).invalidations, 0); /* none of them was in the cache */
}

/* ------------------------------------------------------------------ threads */

struct misser {
	struct rig *g;
	sem_t inside, go_on;
	struct hf_region r;
	int rc;
};

static void wait_inside(void *arg, uint64_t addr, uint64_t len)
{
	struct misser *m = arg;

	sem_post(&m->inside);
	sem_wait(&m->go_on);
}

static void *miss_main(void *arg)
{
	struct misser *m = arg;

	m->rc = hf_get(m->g->p, at(m->g, 0), page, HF_READ, &m->r);
	return NULL;
}

/* Two threads miss on one range at once: one registration (hazard 19). */
static void two_misses_one_registration(void **state)
{
	struct rig *g = *state;
	struct misser m = { .g = g }, second = { .g = g };
	pthread_t id[2];

	sem_init(&m.inside, 0, 0);
	sem_init(&m.go_on, 0, 0);
	g->sim.arg = &m;
	g->sim.on_reg = wait_inside;
	pthread_create(&id[0], NULL, miss_main, &m);
	sem_wait(&m.inside);
	g->sim.on_reg = NULL;
	pthread_create(&id[1], NULL, miss_main, &second);
	usleep(20000);
	check_error(hf_provider_close(g->p), -EBUSY, "others are being made");
	sem_post(&m.go_on);
	for (int i = 0; i < 2; i++)
		pthread_join(id[i], NULL);
	assert_int_equal(m.rc, 0);
	assert_int_equal(second.rc, 0);
	assert_int_equal(m.r.lkey, second.r.lkey);
	assert_int_equal(second.r.flags, HF_REGION_HIT | HF_REGION_CACHED);
	assert_int_equal(g->sim.regs, 1);
	check_ok(hf_put(g->p, &m.r));
	check_ok(hf_put(g->p, &second.r));
	sem_destroy(&m.inside);
	sem_destroy(&m.go_on);
}

#define STRESS_MS 400
#define STRESS_THREADS 4

struct stress {
	struct rig *g;
	pthread_t id;
	uint64_t seed, gets;
	int rc;
};

/* A thread may have had no turn in that time. */
static bool has_dropped_in_use(struct rig *g)
{
	struct hf_stats s = { 0 };

	hf_provider_stats(g->p, &s, sizeof(s));
	return s.in_use_invalidations > 0;
}

static void *stress_main(void *arg)
{
	struct stress *s = arg;
	uint64_t end = check_now_ms() + STRESS_MS;

	while ((check_now_ms() < end || !has_dropped_in_use(s->g)) && !s->rc) {
		uint64_t x = check_random(&s->seed);
		char *from = at(s->g, x % 8);
		struct hf_region r;

		s->rc = hf_get(s->g->p, from, (1 + (x >> 8) % 4) * page, 1 + (x >> 16) % 3, &r);
		if (s->rc)
			break;
		hf_sim_begin(&r);
		if (!((x >> 24) % 3))
			hf_invalidate(s->g->sw, from, page);
		hf_sim_end(&r);
		s->rc = hf_put(s->g->p, &r);
		s->gets++;
	}
	return NULL;
}

/* The last put against the invalidation, overlaps, supersedings: held is valid, and nothing leaks (hazard 21). */
static void last_put_against_invalidate(void **state)
{
	struct rig *g = *state;
	struct stress s[STRESS_THREADS];
	struct hf_stats st;
	uint64_t gets = 0;

	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		s[i] = (struct stress){ .g = g, .seed = i + 1 };
		assert_int_equal(pthread_create(&s[i].id, NULL, stress_main, &s[i]), 0);
	}
	for (unsigned i = 0; i < STRESS_THREADS; i++) {
		pthread_join(s[i].id, NULL);
		assert_int_equal(s[i].rc, 0);
		gets += s[i].gets;
	}
	st = check_stats(g->p);
	assert_int_equal(st.hits + st.misses + st.uncached, gets);
	assert_true(st.in_use_invalidations > 0);
	assert_int_equal(st.dead_held, 0);
	assert_true(cache_is_valid(&g->p->cache));
	hf_flush(g->p);
	check_pinned(g->p, 0);
	assert_int_equal(g->sim.live, 0);
}

/* ------------------------------------------------------------------ a forked child */

struct child {
	struct rig *g;
	struct hf_region r;
	uint64_t id;
};

/* Descriptors of the parent's proxy, or of what it knows of its mappings: a child must hold none. */
static unsigned inherited(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++) {
		char path[32], target[128];
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, target, sizeof(target) - 1);
		if (len < 0)
			continue;
		target[len] = 0;
		n += strstr(target, "userfaultfd") || strstr(target, "/maps");
	}
	return n;
}

#define GONE(call) CHILD_CHECK((call) == -EOWNERDEAD && strstr(hf_error(), "fork"))

static int child_main(void *arg)
{
	struct child *c = arg;
	struct rig *g = c->g;
	struct hf_region before = c->r;
	struct hf_provider *p;
	struct hf_conn *conn;
	struct hf_stats s;
	struct hf_region r;
	uint64_t id;
	char b = 0;

	alarm(600); /* a call that waits for ever is killed */
	CHILD_CHECK(inherited() == 0);
	GONE(hf_get(g->p, at(g, 0), page, HF_READ, &r));
	GONE(hf_get(g->p, at(g, 3), page, HF_READ, &r));
	GONE(hf_get_unchecked(g->p, at(g, 0), page, HF_READ, &r));
	GONE(hf_sync(g->p));
	GONE(hf_put(g->p, &c->r));
	CHILD_CHECK(!memcmp(&before, &c->r, sizeof(before)));
	GONE(hf_flush(g->p));
	GONE(hf_provider_stats(g->p, &s, sizeof(s)));
	GONE(hf_invalidate(g->sw, at(g, 0), page));
	GONE(hf_secure(g->sw, at(g, 0), page, HF_READ | HF_NOTIFY, NULL, NULL, &id));
	GONE(hf_secured_changed(g->sw, c->id));
	GONE(hf_unsecure(g->sw, c->id));
	GONE(hf_provider_open(g->sw, "sim", NULL, &p));
	GONE(hf_provider_open_nic(g->sw, hf_nic_find("sim"), NULL, NULL, &p));
	GONE(hf_conn_open(g->p, 0, &conn));
	GONE(hf_peek(&c->r, at(g, 0), &b, 1));
	GONE(hf_poke(&c->r, at(g, 0), &b, 1));
	GONE(hf_provider_close(g->p));
	GONE(hf_switch_close(g->sw));
	/* What the child does to its own copy of the memory is nothing to the parent. */
	CHILD_CHECK(munmap(at(g, 0), PAGES * page) == 0);
	return 0;
}

static void forked_child(void **state)
{
	struct rig *g = *state;
	struct child c = { .g = g, .r = check_get(g->p, at(g, 0), page, HF_READWRITE) };
	struct hf_stats before, after;

	check_ok(hf_secure(g->sw, at(g, 8), page, HF_READ | HF_NOTIFY, NULL, NULL, &c.id));
	check_touch(g->p, at(g, 1), page, HF_READ);
	before = check_stats(g->p);
	assert_true(inherited() > 0); /* the control: they can be seen */
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(check_child(child_main, &c), 0);
	after = check_stats(g->p);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(g->sim.live, 2);
	hf_sim_use(&c.r, at(g, 0), page);
	assert_int_equal(check_touch(g->p, at(g, 1), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	assert_int_equal(hf_secured_changed(g->sw, c.id), 0);
	/* The parent is told as before. */
	if (is_uffd())
		munmap(at(g, 8), page);
	else
		hf_invalidate(g->sw, at(g, 8), page);
	assert_int_equal(hf_secured_changed(g->sw, c.id), 1);
	check_ok(hf_unsecure(g->sw, c.id));
	check_ok(hf_put(g->p, &c.r));
}

/* A child may have a switch of its own. */
static int child_opens_its_own(void *arg)
{
	struct rig *g = arg;
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_region r;

	alarm(600);
	CHILD_CHECK(hf_switch_open(is_uffd() ? "proxy=uffd" : "proxy=manual", &sw) == 0);
	CHILD_CHECK(hf_provider_open(sw, "sim", "max_bytes=1M", &p) == 0);
	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(hf_get(p, at(g, 0), page, HF_READWRITE, &r) == 0);
		CHILD_CHECK(r.flags == (HF_REGION_CACHED | (i ? HF_REGION_HIT : 0u)));
		CHILD_CHECK(hf_put(p, &r) == 0);
	}
	CHILD_CHECK(hf_get(g->p, at(g, 0), page, HF_READ, &r) == -EOWNERDEAD);
	CHILD_CHECK(hf_provider_close(p) == 0);
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return 0;
}

static void forked_child_opens_its_own(void **state)
{
	struct rig *g = *state;

	/* The parent has asked /proc for its mappings already: the child must not see those. */
	check_touch(g->p, at(g, 0), page, HF_READWRITE);
	if (CHECK_TSAN)
		skip(); /* ThreadSanitizer allows no thread after the fork of a process with threads */
	assert_int_equal(check_child(child_opens_its_own, g), 0);
	assert_int_equal(check_touch(g->p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
}

/* ------------------------------------------------------------------ statistics and sentences */

static void stats_of_any_size(void **state)
{
	struct rig *g = *state;
	struct { struct hf_stats s; uint64_t more[4]; } out;

	check_touch(g->p, at(g, 0), page, HF_READ);
	check_touch(g->p, at(g, 0), page, HF_READ);
	check_error(hf_provider_stats(NULL, &out.s, sizeof(out.s)), -EINVAL, "provider");
	check_error(hf_provider_stats(g->p, NULL, sizeof(out.s)), -EINVAL, "statistics");
	check_error(hf_provider_stats(g->p, &out.s, 0), -EINVAL, "statistics");
	check_error(hf_provider_stats(g->p, &out.s, sizeof(uint64_t) - 1), -EINVAL, "statistics");
	/* A program that was compiled when there was less: only that is written. */
	memset(&out, 0xaa, sizeof(out));
	check_ok(hf_provider_stats(g->p, &out.s, 2 * sizeof(uint64_t)));
	assert_int_equal(out.s.size, 2 * sizeof(uint64_t));
	assert_int_equal(out.s.hits, 1);
	assert_int_equal(out.s.misses, 0xaaaaaaaaaaaaaaaaull);
	/* And one that expects more than there is. */
	memset(&out, 0xaa, sizeof(out));
	check_ok(hf_provider_stats(g->p, &out.s, sizeof(out)));
	assert_int_equal(out.s.size, sizeof(out.s));
	assert_int_equal(out.s.misses, 1);
	assert_int_equal(out.s.max_bytes, 64 * MIB);
	assert_int_equal(out.s.max_count, MIB);
	assert_int_equal(out.more[0], 0xaaaaaaaaaaaaaaaaull);
}

static void *other_thread(void *arg)
{
	bool *empty = arg;

	*empty = !strcmp(hf_error(), "");
	hf_get(NULL, NULL, 0, 0, NULL);
	*empty = *empty && *hf_error();
	return NULL;
}

static void sentences_are_per_thread(void **state)
{
	struct rig *g = *state;
	bool empty = false;
	char before[320];
	pthread_t id;

	check_error(hf_get(g->p, g->mem, page, 0x77, &(struct hf_region){ 0 }), -EINVAL, "0x77");
	snprintf(before, sizeof(before), "%s", hf_error());
	pthread_create(&id, NULL, other_thread, &empty);
	pthread_join(id, NULL);
	assert_true(empty);
	assert_string_equal(before, hf_error());
}

/* ------------------------------------------------------------------ opening: for no proxy in particular */

static void switch_bad_options(void **state)
{
	static const struct { const char *options; int rc; const char *says; } bad[] = {
		{ "nonsense=1", -EINVAL, "'nonsense'" },
		{ "proxy", -EINVAL, "name=value" },
		{ "proxy=", -EINVAL, "bad value" },
		{ "proxy=much-too-long-for-a-name", -EINVAL, "bad value" },
		{ "proxy=nosuch", -ENOENT, "'nosuch'" },
		{ "proxy=Manual", -ENOENT, "'Manual'" },
		{ "mode=maybe", -EINVAL, "mode=maybe" },
		{ "relax=all", -EINVAL, "relax=all" },
		{ "max_bytes=1M", -EINVAL, "belongs to a provider" },
		{ "proxy=manual,nonsense=1", -EINVAL, "'nonsense'" },
		{ "proxy=manual;mode=fast", -EINVAL, "bad value" },
		{ "=", -EINVAL, "''" },
		{ " proxy=manual", -EINVAL, "' proxy'" },
	};
	static const char *const good[] = { "proxy=manual", "proxy=manual,", ",proxy=manual,,mode=exact",
					    "mode=fast,proxy=manual,relax=file", "proxy=none,proxy=manual" };
	struct hf_switch *sw = NULL;
	char many[600];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		check_error(hf_switch_open(bad[i].options, &sw), bad[i].rc, bad[i].says);
		assert_null(sw);
	}
	memset(many, ',', sizeof(many));
	many[sizeof(many) - 1] = 0;
	check_error(hf_switch_open(many, &sw), -EINVAL, "599 bytes");
	check_error(hf_switch_open(NULL, NULL), -EINVAL, "switch");
	check_error(hf_switch_open("proxy=manual", NULL), -EINVAL, "switch");
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		sw = check_switch(good[i]);
		assert_string_equal(hf_switch_proxy(sw), "manual");
		check_ok(hf_switch_close(sw));
	}
}

static void provider_bad_options(void **state)
{
	static const struct { const char *nic, *options; int rc; const char *says; } bad[] = {
		{ NULL, NULL, -EINVAL, "NULL" },
		{ "", NULL, -ENOENT, "''" },
		{ "nosuch", NULL, -ENOENT, "'nosuch'" },
		{ "a-name-that-is-longer-than-any-buffer-for-it:x", NULL, -ENOENT, "a-name" },
		{ "sim:x=1", NULL, -EINVAL, "x=1" },
		{ "uring:nonsense", NULL, -EINVAL, "nonsense" },
		{ "sim", "nonsense=1", -EINVAL, "'nonsense'" },
		{ "sim", "proxy=manual", -EINVAL, "belongs to a switch" },
		{ "sim", "max_bytes=", -EINVAL, "bad value" },
		{ "sim", "max_bytes=-1", -EINVAL, "max_bytes=-1" },
		{ "sim", "max_bytes= 1", -EINVAL, "bad value" },
		{ "sim", "max_bytes=0x10", -EINVAL, "bad value" },
		{ "sim", "max_bytes=12Q", -EINVAL, "max_bytes=12Q" },
		{ "sim", "max_bytes=1KK", -EINVAL, "bad value" },
		{ "sim", "max_bytes=18446744073709551616", -EINVAL, "bad value" },
		{ "sim", "max_bytes=17179869184G", -EINVAL, "bad value" },
		{ "sim", "max_count=many", -EINVAL, "max_count=many" },
		{ "sim", "hard=yes", -EINVAL, "hard=yes" },
		{ "sim", "cache=maybe", -EINVAL, "cache=maybe" },
	};
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		check_error(hf_provider_open(sw, bad[i].nic, bad[i].options, &p), bad[i].rc, bad[i].says);
		assert_null(p);
	}
	check_error(hf_provider_open(NULL, "sim", NULL, &p), -EINVAL, "switch");
	check_error(hf_provider_open(sw, "sim", NULL, NULL), -EINVAL, "provider");
	check_error(hf_provider_open_nic(sw, NULL, NULL, NULL, &p), -EINVAL, "table");
	check_ok(hf_switch_close(sw)); /* none of those is left open */
}

static void sizes(void **state)
{
	static const struct { const char *options; uint64_t bytes, count; } want[] = {
		{ "max_bytes=4096", 4096, MIB }, { "max_bytes=64K", 64 * KIB, MIB },
		{ "max_bytes=3m", 3 * MIB, MIB }, { "max_bytes=2G,max_count=7", 2 * GIB, 7 },
		{ "max_bytes=1T", TIB, MIB }, { "max_bytes=0,max_count=0", 0, 0 },
		{ "max_bytes=18446744073709551615", UINT64_MAX, MIB },
		{ "max_bytes=1M,max_bytes=2M,hard=on,cache=on", 2 * MIB, MIB },
	};
	struct hf_switch *sw = check_switch("proxy=manual");

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct hf_provider *p = check_sim(sw, NULL, want[i].options);

		assert_int_equal(check_stats(p).max_bytes, want[i].bytes);
		assert_int_equal(check_stats(p).max_count, want[i].count);
		check_ok(hf_provider_close(p));
	}
	check_ok(hf_switch_close(sw));
}

/* The operator has the last word. */
static void environment_wins(void **state)
{
	struct hf_switch *sw;
	struct hf_provider *p;

	setenv("HOLDFAST", "proxy=none,max_bytes=8K,cache=off", 1);
	sw = check_switch("proxy=manual");
	assert_string_equal(hf_switch_proxy(sw), "none");
	p = check_sim(sw, NULL, "max_bytes=1M,max_count=9");
	assert_int_equal(check_stats(p).max_bytes, 8 * KIB);
	assert_int_equal(check_stats(p).max_count, 9);
	check_close(sw, p);
	setenv("HOLDFAST", "bogus=1", 1);
	check_error(hf_switch_open(NULL, &sw), -EINVAL, "HOLDFAST");
	check_says("'bogus'");
	setenv("HOLDFAST", "max_bytes=much", 1);
	sw = check_switch("proxy=manual"); /* nothing to a switch */
	check_error(hf_provider_open(sw, "sim", NULL, &p), -EINVAL, "HOLDFAST");
	unsetenv("HOLDFAST");
	p = check_sim(sw, NULL, NULL);
	check_close(sw, p);
}

/* auto: what watches by itself, or nothing; never one that relies on the program. */
static void auto_never_trusts_the_program(void **state)
{
	struct hf_switch *sw = check_switch(NULL);
	struct hf_switch *kmod = NULL, *uffd = NULL;
	const char *want = !hf_switch_open("proxy=kmod", &kmod) ? "kmod" :
			   !hf_switch_open("proxy=uffd", &uffd) ? "uffd" : "none";

	assert_string_equal(hf_switch_proxy(sw), want);
	check_ok(hf_switch_close(kmod));
	check_ok(hf_switch_close(uffd));
	check_ok(hf_switch_close(sw));
	sw = check_switch("proxy=auto,mode=fast");
	assert_string_equal(hf_switch_proxy(sw), want);
	check_ok(hf_switch_close(sw));
}

/* No proxy, no cache (I6): registered for each use and let go. */
static void no_proxy_no_cache(void **state)
{
	struct hf_sim sim = { 0 };
	struct hf_switch *sw = check_switch("proxy=none");
	struct hf_provider *p = check_sim(sw, &sim, "max_bytes=1M");
	char *mem = check_map(page);
	struct hf_region r;

	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(check_touch(p, mem, page, HF_READWRITE), 0);
		assert_int_equal(sim.live, 0);
	}
	assert_int_equal(check_stats(p).uncached, 5);
	assert_int_equal(check_stats(p).hits + check_stats(p).misses + check_stats(p).entries, 0);
	check_error(hf_get(p, NULL, page, HF_READ, &r), -EFAULT, "mapped");
	mprotect(mem, page, PROT_READ);
	check_error(hf_get(p, mem, page, HF_WRITE, &r), -EACCES, "read-only");
	assert_int_equal(hf_invalidate(sw, mem, page), 0);
	check_ok(hf_sync(p));
	check_close(sw, p);
	check_unmap(mem, page);
}

/* Without the module the sentence says what to do. */
static void no_module(void **state)
{
	struct hf_switch *sw = NULL;
	int rc;

	if (access("/dev/holdfast", F_OK) == 0)
		skip();
	rc = hf_switch_open("proxy=kmod", &sw);
	check_error(rc, -ENOENT, "modprobe holdfast");
}

static void probes(void **state)
{
	static const char *const proxies[] = { "kmod", "uffd", "supervise", "manual", "none" },
				 *const nics[] = { "uring", "verbs", "sim" };
	struct hf_probe probe;
	unsigned n;

	for (n = 0; hf_proxy_probe(n, &probe) == 0; n++) {
		assert_string_equal(probe.name, proxies[n]);
		assert_int_equal(!probe.available, !*probe.reason); /* a reason, just when it isn't */
		if (probe.available)
			assert_int_equal(probe.caps, 0);
		else
			assert_int_equal(!!(probe.caps & HF_CAP_WATCH), n <= 2);
	}
	assert_int_equal(n, 5);
	assert_int_equal(hf_proxy_probe(n, &probe), -ENOENT);
	assert_int_equal(hf_proxy_probe(UINT32_MAX, &probe), -ENOENT);
	assert_int_equal(hf_proxy_probe(0, NULL), -EINVAL);
	for (n = 0; hf_nic_probe(n, &probe) == 0; n++) {
		assert_string_equal(probe.name, nics[n]);
		assert_true(*probe.reason || !probe.available); /* verbs says besides what it has found */
		assert_int_equal(probe.caps, !probe.available && n < 2 ? HF_CAP_DATA : 0);
	}
	assert_int_equal(n, 3);
	assert_int_equal(hf_nic_probe(n, &probe), -ENOENT);
	assert_int_equal(hf_nic_probe(0, NULL), -EINVAL);
}

static void options_table(void **state)
{
	const char *name, *value, *help;
	char text[128];
	unsigned n, switches = 0;

	/* Each default is a value that the option takes. */
	for (n = 0; hf_option_info(n, &name, &value, &help) == 0; n++) {
		struct hf_switch *sw = NULL;
		struct hf_provider *p = NULL;
		int rc;

		assert_true(*name && *value && *help);
		snprintf(text, sizeof(text), "%s=%s", name, value);
		rc = hf_switch_open(text, &sw);
		switches += !rc;
		if (rc) {
			check_error(rc, -EINVAL, "belongs to a provider");
			sw = check_switch("proxy=manual");
			check_ok(hf_provider_open(sw, "sim", text, &p));
		}
		check_close(sw, p);
	}
	assert_true(n > 0 && n <= 12);
	assert_true(switches > 0 && switches < n);
	assert_int_equal(hf_option_info(n, &name, &value, &help), -ENOENT);
	assert_int_equal(hf_option_info(UINT32_MAX, &name, &value, &help), -ENOENT);
}

static void version(void **state)
{
	char want[32];

	snprintf(want, sizeof(want), "%d.%d.%d", HF_VERSION_MAJOR, HF_VERSION_MINOR, HF_VERSION_PATCH);
	assert_string_equal(hf_version(), want);
}

/* Many switches at once, and one after another: nothing of one is another's. */
static void switches_are_apart(void **state)
{
	struct hf_switch *sw[8];
	struct hf_provider *p[8];
	char *mem = check_map(page);

	for (unsigned i = 0; i < 8; i++) {
		sw[i] = check_switch("proxy=manual");
		p[i] = check_sim(sw[i], NULL, NULL);
		assert_int_equal(check_touch(p[i], mem, page, HF_READ), HF_REGION_CACHED);
	}
	assert_int_equal(hf_invalidate(sw[3], mem, page), 1);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(check_touch(p[i], mem, page, HF_READ),
				 HF_REGION_CACHED | (i == 3 ? 0 : HF_REGION_HIT));
		check_close(sw[i], p[i]);
	}
	check_unmap(mem, page);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static const struct CMUnitTest per_proxy[] = {
	WITH_RIG(get_bad_arguments), WITH_RIG(get_bad_memory), WITH_RIG(get_a_tebibyte),
	WITH_RIG(get_rounds_to_pages), WITH_RIG(get_sub_range_hits), WITH_RIG(overlap),
	WITH_RIG(superseded_while_held), WITH_RIG(supersede_many), WITH_RIG(write_to_read_only),
	WITH_RIG(read_of_read_only), WITH_RIG(rights_of_two_users), WITH_RIG(fewer_rights_replace_nothing),
	WITH_RIG(put_bad_arguments), WITH_RIG(flush_takes_the_idle), WITH_RIG(close_with_holders),
	WITH_RIG(close_with_uncached_holder), WITH_RIG(region_lkey), WITH_RIG(invalidate_bad_arguments),
	WITH_RIG(invalidate_what_intersects), WITH_RIG(invalidate_many), WITH_RIG(invalidate_while_held),
	WITH_RIG(unchecked_after_sync), WITH_RIG(changed_while_registering),
	WITH_RIG(two_misses_one_registration), WITH_RIG(last_put_against_invalidate),
	WITH_RIG(forked_child), WITH_RIG(forked_child_opens_its_own), WITH_RIG(stats_of_any_size),
	WITH_RIG(sentences_are_per_thread),
};

static const struct CMUnitTest watched[] = { WITH_RIG(address_is_reused) };

static const struct CMUnitTest once[] = {
	cmocka_unit_test(switch_bad_options), cmocka_unit_test(provider_bad_options), cmocka_unit_test(sizes),
	cmocka_unit_test(environment_wins), cmocka_unit_test(auto_never_trusts_the_program),
	cmocka_unit_test(no_proxy_no_cache), cmocka_unit_test(probes), cmocka_unit_test(no_module), cmocka_unit_test(options_table),
	cmocka_unit_test(version), cmocka_unit_test(null_objects), cmocka_unit_test(switches_are_apart),
	WITH_RIG(many_holders), WITH_RIG(sim_aborts),
};

int main(void)
{
	struct hf_switch *sw;
	int failed;

	unsetenv("HOLDFAST");
	page = check_page();
	proxy = "manual";
	failed = cmocka_run_group_tests_name("api", once, NULL, NULL);
	failed += cmocka_run_group_tests_name("api, proxy manual", per_proxy, NULL, NULL);
	if (hf_switch_open("proxy=uffd", &sw)) {
		print_message("skipped with the proxy uffd: %s\n", hf_error());
		return failed;
	}
	hf_switch_close(sw);
	proxy = "uffd";
	failed += cmocka_run_group_tests_name("api, watched by uffd", watched, NULL, NULL);
	return failed + cmocka_run_group_tests_name("api, proxy uffd", per_proxy, NULL, NULL);
}
