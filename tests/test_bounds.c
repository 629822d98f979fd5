/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * How much is done in one hold of the cache's lock, and on the event thread. Steps are counted, not
 * seconds.
 */
#include "check.h"

#include "cache.h"
#include "provider.h"

#define ENTRIES 5000u

static size_t page;

static void drops_in_parts(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, "max_count=100000,max_bytes=256M");
	char *mem = check_map(2 * ENTRIES * page);
	uint64_t scans;

	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < ENTRIES; i++)
			check_touch(p, mem + 2 * i * page, page, 1 + i % 3);
		atomic_store(&cache_most_handled, 0);
		/* As the event thread does it. The reaper, which scans, has to wait. */
		pthread_mutex_lock(&p->cache.reap_lock);
		scans = atomic_load(&cache_scans);
		if (round)
			assert_int_equal(hf_invalidate(sw, mem, 2 * ENTRIES * page), ENTRIES);
		else
			assert_int_equal(cache_try_drop(&p->cache, (uintptr_t)mem, (uintptr_t)mem + 2 * ENTRIES * page), ENTRIES);
		assert_int_equal(atomic_load(&cache_scans), scans);
		pthread_mutex_unlock(&p->cache.reap_lock);
		assert_int_equal(atomic_load(&cache_most_handled), CACHE_AT_ONCE);
		assert_true(cache_is_valid(&p->cache));
		check_pinned(p, 0);
	}
	check_close(sw, p);
	check_unmap(mem, 2 * ENTRIES * page);
}

/* The reaper sorts, lets go and frees; hf_release() looks at the whole pool. */
static void reaps_in_parts(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, "max_count=100000,max_bytes=256M");
	char *mem = check_map(2 * ENTRIES * page);

	for (unsigned i = 0; i < ENTRIES; i++)
		check_touch(p, mem + 2 * i * page, page, 1 + i % 3);
	atomic_store(&cache_most_handled, 0);
	pthread_mutex_lock(&p->cache.reap_lock);
	assert_int_equal(hf_invalidate(sw, mem, 2 * ENTRIES * page), ENTRIES);
	pthread_mutex_unlock(&p->cache.reap_lock);
	assert_int_equal(cache_settle(&p->cache, (uintptr_t)mem, (uintptr_t)mem + 2 * ENTRIES * page), 0);
	check_pinned(p, 0);
	assert_int_equal(atomic_load(&cache_most_handled), CACHE_AT_ONCE);
	check_close(sw, p);
	check_unmap(mem, 2 * ENTRIES * page);
}

/* The reaper, which the test keeps from its work, is posted for none but the first puts. */
static void posts_once(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, "max_count=100000,max_bytes=256M");
	char *mem = check_map(page);
	uint64_t posts;

	pthread_mutex_lock(&p->cache.reap_lock);
	atomic_store(&p->cache.over, true);
	posts = atomic_load(&cache_posts);
	for (int i = 0; i < 1000; i++) {
		cache_turn_gate(&p->cache);
		check_touch(p, mem, page, 1);
	}
	posts = atomic_load(&cache_posts) - posts;
	pthread_mutex_unlock(&p->cache.reap_lock);
	assert_in_range(posts, 1, 3);
	check_close(sw, p);
	check_unmap(mem, page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drops_in_parts),
		cmocka_unit_test(reaps_in_parts),
		cmocka_unit_test(posts_once),
	};

	page = check_page();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
