/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * How much is done in one hold of the cache's lock, and on the event thread. Steps are counted, not seconds.
 */
#include "check.h"

#include "cache.h"
#include "provider.h"

#define ENTRIES 5000u

static size_t page;

static void drops_in_parts(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, "max_count=100000");
	char *mem = check_map(2 * ENTRIES * page);
	uint64_t scans;

	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < ENTRIES; i++)
			check_touch(p, mem + 2 * i * page, page, 1 + i % 3);
		atomic_store(&cache_largest_drop, 0);
		/* As the event thread does it. The reaper, which scans, has to wait. */
		pthread_mutex_lock(&p->cache.reap_lock);
		scans = atomic_load(&cache_scans);
		if (round)
			assert_int_equal(hf_invalidate(sw, mem, 2 * ENTRIES * page), ENTRIES);
		else
			assert_int_equal(cache_try_drop(&p->cache, (uintptr_t)mem, (uintptr_t)mem + 2 * ENTRIES * page), ENTRIES);
		assert_int_equal(atomic_load(&cache_scans), scans);
		pthread_mutex_unlock(&p->cache.reap_lock);
		assert_int_equal(atomic_load(&cache_largest_drop), CACHE_AT_ONCE);
		assert_true(cache_is_valid(&p->cache));
		check_pinned(p, 0);
	}
	check_close(sw, p);
	check_unmap(mem, 2 * ENTRIES * page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drops_in_parts),
	};

	page = check_page();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
