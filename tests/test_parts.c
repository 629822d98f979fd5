/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The parts of the proxy `uffd`, each a userfaultfd of its own: which memory is in which; that a change on its way in
 * one holds up hits in its memory only; that what is remembered as armed is believed no longer than it is; and
 * what the rights are then.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/shm.h>

#include "cache.h"
#include "provider.h"
#include "proxy/armed.h"

#define BLOCK (64 * MIB) /* memory of one block is in one part, if it doesn't come and go */
#define BLOCKS 24u
#define PAGES 8u
#define THREADS 4u
#define ROUNDS ((CHECK_TSAN || CHECK_ASAN ? 200u : 2000u) / check_scale())
#define HIT (HF_REGION_HIT | HF_REGION_CACHED)

static struct hf_switch *sw;
static struct hf_provider *provider;
static size_t page;
static char *space; /* BLOCKS blocks; nothing in them is accessible before it is asked for */

static char *space_map(void)
{
	char *p = mmap(NULL, (BLOCKS + 1) * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return (char *)(((uintptr_t)p + BLOCK - 1) & ~(BLOCK - 1));
}

static int open_on(const char *nic)
{
	page = check_page();
	space = space_map();
	sw = check_switch("proxy=uffd");
	check_ok(hf_provider_open(sw, nic, "max_bytes=4M", &provider));
	return 0;
}

static int open_uring(void **state)
{
	return open_on("uring");
}

static int open_sim(void **state)
{
	return open_on("sim");
}

static int close_all(void **state)
{
	munmap(space, BLOCKS * BLOCK);
	return check_close_both(&sw, &provider);
}

/* `n` pages at p become a mapping that can be armed. */
static char *give(char *p, unsigned n)
{
	assert_int_equal(mprotect(p, n * page, PROT_READ | PROT_WRITE), 0);
	madvise(p, n * page, MADV_NOHUGEPAGE);
	return p;
}

static char *block(unsigned i)
{
	return give(space + i * BLOCK, PAGES);
}

static unsigned parts_of(char *p, size_t len)
{
	struct hf_region r = check_get(provider, p, len, HF_READWRITE);
	unsigned parts = entry_parts(region_entry(&r));

	assert_true(r.flags & HF_REGION_CACHED);
	check_ok(hf_put(provider, &r));
	return parts;
}

/* The first block in a part that is not among `taken`; its pages are cached one by one. */
static char *block_elsewhere(unsigned *next, unsigned *taken)
{
	while (*next < BLOCKS) {
		char *p = block((*next)++);
		unsigned parts = parts_of(p, page);

		if (parts & *taken)
			continue;
		for (unsigned i = 1; i < PAGES; i++)
			assert_int_equal(parts_of(p + i * page, page), parts);
		*taken |= parts;
		return p;
	}
	fail_msg("%u mappings, all in one part", BLOCKS);
	return NULL;
}

/* ------------------------------------------------------------------ which memory is in which part */

static void test_mappings_are_spread(void **state)
{
	unsigned all = 0;

	for (unsigned i = 0; i < BLOCKS; i++) {
		char *p = block(i);
		unsigned parts = parts_of(p, page);

		assert_int_equal(__builtin_popcount(parts), 1);
		assert_int_equal(parts & 1, 0); /* part 0 is for what comes and goes */
		/* Remembered or not: a mapping is in one part. */
		assert_int_equal(parts_of(p + 3 * page, page), parts);
		all |= parts;
	}
	assert_in_range(__builtin_popcount(all), 3, 7);
	assert_int_equal(parts_of(space + page, page), parts_of(space + 4 * page, page));
}

static void test_a_range_over_two_mappings(void **state)
{
	unsigned a, b;

	for (unsigned i = 1; i < BLOCKS; i++) {
		char *edge = space + i * BLOCK;

		a = parts_of(give(edge - page, 1), page); /* armed, so that the two are not merged */
		b = parts_of(give(edge, 1), page);
		assert_int_equal(parts_of(edge - page, 2 * page), a | b);
		if (a != b)
			return;
	}
	fail_msg("%u mappings, all in one part", BLOCKS);
}

/* What was unmapped lately, and is mapped again. */
static void test_what_comes_and_goes_is_in_part_0(void **state)
{
	char *p = block(0);

	assert_int_not_equal(parts_of(p, page), 1);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(munmap(p, PAGES * page), 0);
		assert_ptr_equal(mmap(p, PAGES * page, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
		check_quiet(provider);
		assert_int_equal(parts_of(p, page), 1);
	}
}

/* Pages of one mapping are unmapped, mapped again and cached again: they may not stay mappings of their own. */
static void test_holes_are_closed(void **state)
{
	enum { HOLES = 400 };
	char *p = mmap(space, (2 * HOLES + 1) * page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	unsigned before, parts = parts_of(p, page);

	before = check_count_maps(p, p + (2 * HOLES + 1) * page);
	for (unsigned i = 1; i < 2 * HOLES; i += 2)
		assert_int_equal(munmap(p + i * page, page), 0);
	for (unsigned i = 1; i < 2 * HOLES; i += 2)
		assert_ptr_equal(mmap(p + i * page, page, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + i * page);
	check_quiet(provider);
	for (unsigned i = 1; i < 2 * HOLES; i += 2)
		assert_int_equal(parts_of(p + i * page, page), parts);
	assert_int_equal(check_count_maps(p, p + (2 * HOLES + 1) * page), before);
}

/* No descriptor for a second context: the first serves all. */
static void test_without_descriptors(void **state)
{
	struct rlimit old, none;
	int lowest;

	check_ok(hf_range_check((uintptr_t)block(0), (uintptr_t)space + page, HF_READ)); /* opens /proc/self/maps */
	lowest = open("/dev/null", O_RDONLY);
	close(lowest);
	getrlimit(RLIMIT_NOFILE, &old);
	none = (struct rlimit){ (rlim_t)lowest, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(parts_of(block(i), page), 1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(parts_of(space + page, page), 1); /* it stays where it is */
	assert_int_not_equal(parts_of(block(5), page), 1);
}

/* ------------------------------------------------------------------ a change on its way */

/* A thread that has found two buffers before, and gets them again when it is told to. */
struct getter {
	pthread_t id;
	char *p;
	sem_t ready, go, done;
	unsigned flags;
};

static void *get_again(void *arg)
{
	struct getter *g = arg;

	check_touch(provider, g->p, page, HF_READWRITE);
	sem_post(&g->ready);
	sem_wait(&g->go);
	g->flags = check_touch(provider, g->p, page, HF_READWRITE);
	sem_post(&g->done);
	return NULL;
}

static void getter_start(struct getter *g, char *p)
{
	*g = (struct getter){ .p = p };
	sem_init(&g->ready, 0, 0);
	sem_init(&g->go, 0, 0);
	sem_init(&g->done, 0, 0);
	assert_int_equal(pthread_create(&g->id, NULL, get_again, g), 0);
	sem_wait(&g->ready);
}

static bool getter_returns(struct getter *g, unsigned seconds)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	return sem_timedwait(&g->done, &until) == 0;
}

static unsigned getter_join(struct getter *g)
{
	pthread_join(g->id, NULL);
	sem_destroy(&g->ready);
	sem_destroy(&g->go);
	sem_destroy(&g->done);
	return g->flags;
}

/*
 * The index is busy, so a change stays untold: read, with the word of its part odd. Memory of another part is hit,
 * without a lock; memory of that part is not, though its own page has not changed.
 */
static void test_untold_in_another_part(void **state)
{
	unsigned next = 0, taken = 0;
	char *a = block_elsewhere(&next, &taken);
	unsigned a_parts = taken;
	char *b = block_elsewhere(&next, &taken);
	struct hf_provider *only_b = check_sim(sw, NULL, NULL);
	struct getter in_a, in_b;
	bool b_returned, a_returned;
	int rc[5];

	check_touch(only_b, b, page, HF_READWRITE);
	getter_start(&in_a, a);
	getter_start(&in_b, b);
	pthread_mutex_lock(&provider->cache.lock);
	munmap(a + 4 * page, page);
	rc[0] = switch_check(sw, a_parts);
	rc[1] = switch_check(sw, taken & ~a_parts);
	rc[2] = switch_check(sw, PARTS_ALL);
	rc[3] = hf_sync(provider);
	rc[4] = hf_sync(only_b);
	sem_post(&in_b.go);
	b_returned = getter_returns(&in_b, 600);
	sem_post(&in_a.go);
	usleep(50000); /* in vain: it waits for the lock that we hold */
	a_returned = getter_returns(&in_a, 0);
	pthread_mutex_unlock(&provider->cache.lock);
	assert_int_equal(rc[0], -EAGAIN);
	assert_int_equal(rc[1], 0);
	assert_int_equal(rc[2], -EAGAIN);
	assert_int_equal(rc[3], -EAGAIN);
	assert_int_equal(rc[4], 0);
	assert_int_equal(getter_join(&in_b), HIT);
	assert_true(b_returned);
	getter_join(&in_a);
	assert_false(a_returned);
	check_quiet(provider);
	check_ok(hf_provider_close(only_b));
	assert_true(check_touch(provider, a, page, HF_READWRITE) & HF_REGION_CACHED);
}

static sem_t in_callback, end_callback;

static void stop_the_teller(void *arg, void *addr, size_t len)
{
	sem_post(&in_callback);
	sem_wait(&end_callback);
}

static void *unmap_a_page(void *p)
{
	munmap(p, page);
	return NULL;
}

/* The event thread is busy with part a, so a change in part c is not even read: the kernel's count says so. */
static void test_unread_in_another_part(void **state)
{
	unsigned next = 0, taken = 0;
	char *a = block_elsewhere(&next, &taken);
	char *b = block_elsewhere(&next, &taken);
	unsigned but_c = taken;
	char *c = block_elsewhere(&next, &taken);
	struct getter in_b, in_c;
	pthread_t unmaps[2];
	uint64_t id;

	sem_init(&in_callback, 0, 0);
	sem_init(&end_callback, 0, 0);
	check_ok(hf_secure(sw, a + page, page, HF_NOTIFY | HF_READ, stop_the_teller, NULL, &id));
	getter_start(&in_b, b);
	getter_start(&in_c, c);
	assert_int_equal(pthread_create(&unmaps[0], NULL, unmap_a_page, a + page), 0);
	sem_wait(&in_callback);
	assert_int_equal(pthread_create(&unmaps[1], NULL, unmap_a_page, c + 4 * page), 0);
	for (int i = 0; i < 60000 && switch_check(sw, taken & ~but_c) == 0; i++)
		usleep(1000);
	assert_int_equal(switch_check(sw, taken & ~but_c), -EAGAIN);
	sem_post(&in_b.go);
	sem_post(&in_c.go);
	assert_true(getter_returns(&in_b, 600));
	assert_true(getter_returns(&in_c, 600));
	sem_post(&end_callback);
	assert_int_equal(getter_join(&in_b), HIT);
	assert_int_equal(getter_join(&in_c) & HF_REGION_HIT, 0);
	for (int i = 0; i < 2; i++)
		pthread_join(unmaps[i], NULL);
	check_ok(hf_unsecure(sw, id));
	check_quiet(provider);
}

/* ------------------------------------------------------------------ what is remembered */

/* Other pages, of other bytes, at the same address. */
static void replace(char *p, size_t len, bool over)
{
	if (!over && munmap(p, len))
		abort();
	if (mmap(p, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
		abort();
	madvise(p, len, MADV_NOHUGEPAGE);
}

/* How many bytes the NIC sees otherwise than the processor. */
static unsigned wrong(char *p, uint64_t stamp, unsigned *flags)
{
	struct hf_region r;
	uint64_t nic = 0;

	memcpy(p, &stamp, sizeof(stamp));
	if (hf_get(provider, p, page, HF_READWRITE, &r))
		return 1;
	*flags = r.flags;
	if (hf_peek(&r, p, &nic, sizeof(nic)))
		nic = ~stamp;
	return (nic != stamp) + (hf_put(provider, &r) != 0);
}

/* Each time the new mapping is armed again, and so its going is seen, though the first was remembered. */
static void test_recycled_is_armed_again(void **state)
{
	char *p = block(0);
	unsigned flags;

	for (unsigned i = 0; i < 50; i++) {
		for (unsigned k = 0; k < PAGES; k++) {
			assert_int_equal(wrong(p + k * page, (i + 1) * 100 + k, &flags), 0);
			assert_int_equal(flags, HF_REGION_CACHED);
			assert_int_equal(wrong(p + k * page, (i + 1) * 200 + k, &flags), 0);
			assert_int_equal(flags, HIT);
		}
		replace(p, PAGES * page, i & 1);
		check_quiet(provider);
	}
	assert_int_equal(check_stats(provider).invalidations, 50 * PAGES);
}

/* What is noted to have left is not armed any more, nor is what may have left when notes were overwritten. */
static void test_notes(void **state)
{
	static struct armed a;
	uint64_t since;

	armed_init(&a);
	assert_false(armed_lately_left(&a, 0, UINT64_MAX));
	armed_remember(&a, 3, armed_since(&a, 3), 100, 200);
	assert_int_equal(armed_find(&a, 100, 200), 3);
	assert_int_equal(armed_find(&a, 150, 160), 3);
	assert_int_equal(armed_find(&a, 99, 160), -1);
	assert_int_equal(armed_find(&a, 150, 201), -1);
	armed_left(&a, 3, 200, 300);
	armed_left(&a, 3, 0, 100);
	armed_left(&a, 2, 100, 200); /* another part's */
	assert_int_equal(armed_find(&a, 150, 160), 3);
	assert_true(armed_lately_left(&a, 299, 400));
	assert_false(armed_lately_left(&a, 300, 400));
	armed_left(&a, 3, 199, 200);
	assert_int_equal(armed_find(&a, 150, 160), -1);
	/* Read before the arming, and more has left than there are notes. */
	since = armed_since(&a, 3);
	for (unsigned i = 0; i < LEFT_NOTES - 1; i++)
		armed_left(&a, 3, 1000, 2000);
	assert_true(armed_still(&a, 3, since, 100, 200));
	armed_left(&a, 3, 1000, 2000);
	assert_false(armed_still(&a, 3, since, 100, 200));
	armed_remember(&a, 3, since, 100, 200);
	assert_int_equal(armed_find(&a, 100, 200), -1);
	/* What is in use stays, however much else has left. */
	armed_remember(&a, 4, armed_since(&a, 4), 100, 200);
	for (unsigned i = 0; i < 10 * LEFT_NOTES; i++) {
		armed_left(&a, 4, 1000, 2000);
		assert_int_equal(armed_find(&a, 100, 200), 4);
	}
	/* Nothing is armed twice; and the oldest makes room. */
	armed_remember(&a, 5, armed_since(&a, 5), 150, 160);
	assert_int_equal(armed_find(&a, 100, 110), -1);
	assert_int_equal(armed_find(&a, 150, 160), 5);
	for (unsigned i = 0; i < ARMED_SLOTS; i++)
		armed_remember(&a, 1, armed_since(&a, 1), 1000 + 10 * i, 1010 + 10 * i);
	assert_int_equal(armed_find(&a, 150, 160), -1);
	assert_int_equal(armed_find(&a, 1000, 1010), 1);
	armed_destroy(&a);
}

struct worker {
	pthread_t id;
	char *p;
	unsigned index, wrong, hits;
};

/* A piece of a mapping that all share: what one replaces leaves it, and the others' stay. */
static void *recycle(void *arg)
{
	struct worker *w = arg;
	unsigned flags = 0;

	/* Beside the others there may be no moment without a change: on until there was a hit. */
	for (unsigned i = 0; i < ROUNDS || (!w->hits && !w->wrong); i++) {
		for (unsigned k = 0; k < 4; k++) {
			uint64_t stamp = ((uint64_t)w->index << 32) + i * 4 + k + 1;

			w->wrong += wrong(w->p + (k & 1) * page, stamp, &flags);
			w->hits += !!(flags & HF_REGION_HIT);
		}
		replace(w->p, 2 * page, i & 1);
	}
	return NULL;
}

static void test_recycled_by_threads(void **state)
{
	struct worker w[THREADS];
	char *p = block(0);

	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ .p = p + 2 * i * page, .index = i + 1 };
		assert_int_equal(pthread_create(&w[i].id, NULL, recycle, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(w[i].id, NULL);
		assert_int_equal(w[i].wrong, 0);
		assert_true(w[i].hits > 0);
	}
}

/* The kernel does not tell of SHM_REMAP. What was there is a blind spot (hf_invalidate); what is there now is not. */
static void test_taken_away_untold(void **state)
{
	char *p = block(0);
	int id = shmget(IPC_PRIVATE, PAGES * page, IPC_CREAT | 0600);

	assert_true(id >= 0);
	assert_int_equal(check_touch(provider, p, page, HF_READWRITE), HF_REGION_CACHED);
	assert_int_equal(check_touch(provider, p + page, page, HF_READWRITE), HF_REGION_CACHED);
	assert_ptr_equal(shmat(id, p, SHM_REMAP), p);
	shmctl(id, IPC_RMID, NULL);
	assert_int_equal(check_touch(provider, p + 2 * page, page, HF_READWRITE), 0);
	assert_int_equal(shmdt(p), 0);
	/* Plain memory again, of the same size: not armed any more, so it is armed anew, and its going is seen. */
	replace(p, PAGES * page, true);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(check_touch(provider, p + 3 * page, page, HF_READWRITE), HF_REGION_CACHED);
		assert_int_equal(check_touch(provider, p + 3 * page, page, HF_READWRITE), HIT);
		replace(p, PAGES * page, true);
		check_quiet(provider);
	}
	assert_int_equal(hf_invalidate(sw, p, PAGES * page), 0); /* dropped with the rest of the mapping */
}

/* Armed, remembered, and then made read-only, of which nothing tells. */
static void test_rights_of_what_is_remembered(void **state)
{
	char *p = block(0);
	struct hf_region r;
	uint64_t id;

	memset(p, 1, PAGES * page);
	check_touch(provider, p, page, HF_READWRITE);
	assert_int_equal(mprotect(p, PAGES * page, PROT_READ), 0);
	check_error(hf_get(provider, p + page, page, HF_READWRITE, &r), -EACCES, "read-only");
	check_error(hf_get(provider, p + 2 * page, 2 * page, HF_WRITE, &r), -EACCES, "read-only");
	check_error(hf_secure(sw, p + page, page, HF_NOTIFY | HF_READWRITE, NULL, NULL, &id), -EACCES, "read-only");
	/* A page of it may be replaced by a later write: not cached. */
	if (!strcmp(*state, "sim"))
		assert_int_equal(check_touch(provider, p + page, page, HF_READ), 0);
	assert_int_equal(mprotect(p, PAGES * page, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(check_touch(provider, p + page, page, HF_READWRITE), HF_REGION_CACHED);
}

#define ON(nic, fn) { #nic ": " #fn, fn, open_##nic, close_all, (void *)#nic }

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON(sim, test_mappings_are_spread),
		ON(sim, test_a_range_over_two_mappings),
		ON(sim, test_what_comes_and_goes_is_in_part_0),
		ON(sim, test_holes_are_closed),
		ON(sim, test_without_descriptors),
		ON(sim, test_untold_in_another_part),
		ON(sim, test_unread_in_another_part),
		cmocka_unit_test(test_notes),
		ON(uring, test_recycled_is_armed_again),
		ON(uring, test_recycled_by_threads),
		ON(sim, test_taken_away_untold),
		ON(sim, test_rights_of_what_is_remembered),
		ON(uring, test_rights_of_what_is_remembered),
	};

	unsetenv("HOLDFAST");
	if (!check_uffd())
		return 77;
	alarm(1200); /* of a hang only */
	return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
