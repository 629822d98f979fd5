/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * hf_release(): what was cached in a range goes, from every provider's NIC, before it returns (R25, R26, R33), and it says
 * so when a NIC would not let go or somebody still holds it (R32).
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cache.h"
#include "provider.h"

#define PAGES 16
#define NICS 3

static size_t page;

struct rig {
	struct hf_switch *sw;
	struct hf_provider *p[NICS];
	struct hf_sim sim[NICS];
	char *mem;
};

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	g->sw = check_switch("proxy=manual");
	for (int i = 0; i < NICS; i++)
		g->p[i] = check_sim(g->sw, &g->sim[i], NULL);
	g->mem = check_map(PAGES * page);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	for (int i = 0; i < NICS; i++) {
		assert_true(cache_is_valid(&g->p[i]->cache));
		check_ok(hf_provider_close(g->p[i]));
	}
	check_ok(hf_switch_close(g->sw));
	check_unmap(g->mem, PAGES * page);
	free(g);
	return 0;
}

static void cache_in_all(struct rig *g, unsigned first, unsigned n)
{
	for (int i = 0; i < NICS; i++)
		check_touch(g->p[i], g->mem + first * page, n * page, HF_READWRITE);
}

static int release(struct rig *g, unsigned first, unsigned n)
{
	return hf_release(g->sw, g->mem + first * page, n * page);
}

static void nothing_there(void **state)
{
	struct rig *g = *state;

	assert_int_equal(release(g, 0, PAGES), 0);
	cache_in_all(g, 4, 2);
	assert_int_equal(release(g, 0, 4), 0); /* beside it, on both sides */
	assert_int_equal(release(g, 6, 4), 0);
	assert_int_equal(check_stats(g->p[0]).entries, 1);
}

static void arguments(void **state)
{
	struct rig *g = *state;

	check_error(hf_release(NULL, g->mem, page), -EINVAL, "NULL");
	check_error(hf_release(g->sw, g->mem, 0), -EINVAL, "length is 0");
	check_error(hf_release(g->sw, (void *)-page, 2 * page), -EINVAL, "wraps");
}

/* R26: from each NIC that had it, and it has gone when the call returns: no waiting here. R33: a part is enough. */
static void gone_from_every_nic_R26_R33(void **state)
{
	struct rig *g = *state;

	cache_in_all(g, 0, 4);
	cache_in_all(g, 4, 4);
	cache_in_all(g, 8, 4);
	assert_int_equal(release(g, 3, 2), 2 * NICS);
	for (int i = 0; i < NICS; i++) {
		assert_int_equal(g->sim[i].live, 1);
		assert_int_equal(check_stats(g->p[i]).pinned_bytes, 4 * page);
	}
	assert_int_equal(release(g, 8, 1), NICS);
	for (int i = 0; i < NICS; i++)
		assert_int_equal(g->sim[i].live, 0);
}

/* R32: one NIC of three keeps it; the others don't. And it is told again, for nothing has changed. */
static void nic_will_not_let_go_R32(void **state)
{
	struct rig *g = *state;

	cache_in_all(g, 0, 4);
	cache_in_all(g, 8, 4);
	g->sim[1].fail_dereg_in = 1;
	check_error(release(g, 0, 1), -EIO, "would not deregister");
	assert_int_equal(g->sim[0].live + g->sim[2].live, 2);
	assert_int_equal(check_stats(g->p[1]).dereg_failures, 1);
	check_error(release(g, 0, 1), -EIO, "would not deregister");
	assert_int_equal(release(g, 8, 4), NICS); /* not elsewhere */
	assert_int_equal(release(g, 8, 4), 0);
	assert_int_equal(check_stats(g->p[1]).pinned_bytes, 4 * page);
	g->sim[1].live = 0; /* the NIC is closed with it */
}

/* R32, I2: held is not gone, and comes to no harm; gone with its last put. */
static void held_R32(void **state)
{
	struct rig *g = *state;
	struct hf_region r = check_get(g->p[0], g->mem, 4 * page, HF_READWRITE);

	cache_in_all(g, 0, 4);
	hf_sim_begin(&r); /* a deregistration now would abort */
	check_error(release(g, 2, 1), -EBUSY, "is held");
	assert_int_equal(g->sim[0].live, 1);
	assert_int_equal(g->sim[1].live, 0);
	assert_int_equal(release(g, 4, 4), 0);
	hf_sim_end(&r);
	check_ok(hf_put(g->p[0], &r));
	assert_int_equal(release(g, 2, 1), 0); /* waits for the reaper, if that has it */
	assert_int_equal(g->sim[0].live, 0);
}

/* Stuck and held at once: the lasting one is told. */
static void stuck_before_held(void **state)
{
	struct rig *g = *state;
	struct hf_region r;

	check_touch(g->p[0], g->mem, page, HF_READWRITE);
	g->sim[0].fail_dereg_in = 1;
	check_error(release(g, 0, 1), -EIO, "would not");
	r = check_get(g->p[1], g->mem, page, HF_READWRITE);
	check_error(release(g, 0, 1), -EIO, "would not");
	check_ok(hf_put(g->p[1], &r));
	g->sim[0].live = 0;
}

static _Atomic bool stop;

static void *get_and_put(void *rig)
{
	struct rig *g = rig;
	struct hf_region r;

	while (!atomic_load(&stop))
		for (unsigned i = 0; i < PAGES; i++)
			if (hf_get(g->p[i % NICS], g->mem + i * page, page, HF_READ, &r) == 0)
				hf_put(g->p[i % NICS], &r);
	return NULL;
}

static void *evict(void *rig)
{
	struct rig *g = rig;

	while (!atomic_load(&stop))
		for (int i = 0; i < NICS; i++)
			hf_flush(g->p[i]);
	return NULL;
}

static void *open_and_close(void *rig)
{
	struct rig *g = rig;
	struct hf_provider *p;

	while (!atomic_load(&stop))
		if (hf_provider_open(g->sw, "sim", NULL, &p) == 0)
			hf_provider_close(p);
	return NULL;
}

/* What is in other hands is waited for: reaper, flush, a provider that closes. */
static void beside_others(void **state)
{
	void *(*const fn[])(void *) = { get_and_put, evict, open_and_close };
	struct rig *g = *state;
	pthread_t t[3];

	atomic_store(&stop, false);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, fn[i], g), 0);
	for (int i = 0; i < 500; i++) {
		int rc = release(g, 0, PAGES);

		assert_true(rc >= 0 || rc == -EBUSY);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_true(release(g, 0, PAGES) >= 0);
	for (int i = 0; i < NICS; i++)
		assert_int_equal(g->sim[i].live, 0);
}

static int in_a_child(void *rig)
{
	CHILD_CHECK(release(rig, 0, 1) == -EOWNERDEAD);
	return 0;
}

static void after_fork(void **state)
{
	struct rig *g = *state;

	cache_in_all(g, 0, 1);
	assert_int_equal(check_child(in_a_child, g), 0);
	assert_int_equal(release(g, 0, 1), NICS);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_RIG(nothing_there), WITH_RIG(arguments), WITH_RIG(gone_from_every_nic_R26_R33),
		WITH_RIG(nic_will_not_let_go_R32), WITH_RIG(held_R32), WITH_RIG(stuck_before_held),
		WITH_RIG(beside_others), WITH_RIG(after_fork),
	};

	page = check_page();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
