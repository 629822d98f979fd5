/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Who counts: 2^32 gets that another thread has put, regions that are put twice, threads whose last destructors call the
 * library, a process without a key, a fork while another thread is proving.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>

#include "provider.h"
#include "thread.h"

static size_t page;

struct rig {
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_sim sim;
	char *mem;
};

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	g->sw = check_switch("proxy=manual");
	g->p = check_sim(g->sw, &g->sim, NULL);
	g->mem = check_map(4 * page);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	check_close(g->sw, g->p);
	assert_int_equal(g->sim.live, 0);
	check_unmap(g->mem, 4 * page);
	free(g);
	return 0;
}

struct putter {
	struct hf_provider *p;
	struct hf_region *r;
	int rc;
};

static void *put_main(void *arg)
{
	struct putter *w = arg;

	w->rc = hf_put(w->p, w->r);
	return NULL;
}

/* What hf_put() answers in another thread. */
static int put_elsewhere(struct hf_provider *p, struct hf_region *r)
{
	struct putter w = { .p = p, .r = r };
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, put_main, &w), 0);
	pthread_join(t, NULL);
	return w.rc;
}

/* A hit, counted in the place that it names. */
static struct recent *place_of(const struct hf_region *r)
{
	assert_true((uintptr_t)r->entry & 1);
	return (struct recent *)((uintptr_t)r->entry - 1);
}

static struct hf_region hit(struct rig *g)
{
	check_touch(g->p, g->mem, page, HF_READ);
	return check_get(g->p, g->mem, page, HF_READ);
}

/* The state that `n` gets of this thread leave behind, each put by another. */
static void others_have_put(struct recent *r, uint64_t n)
{
	atomic_fetch_add(&r->gets, n);
	atomic_fetch_add(&r->counted, n);
	atomic_fetch_add(&r->returned, n);
}

static void counts_do_not_wrap(void **state)
{
	struct rig *g = *state;

	for (uint64_t n = (1ull << 32) - 1; n <= (1ull << 32) + 1; n++) {
		struct hf_region r = hit(g);

		others_have_put(place_of(&r), n);
		assert_true(recent_is_held(place_of(&r)));
		check_error(hf_release(g->sw, g->mem, page), -EBUSY, "held");
		assert_int_equal(g->sim.live, 1);
		check_ok(hf_put(g->p, &r));
		check_ok(hf_release(g->sw, g->mem, page));
		assert_int_equal(g->sim.live, 0);
	}
}

static void a_copy_put_elsewhere(void **state)
{
	struct rig *g = *state;
	struct hf_region r = hit(g), copy = r, again = r;

	check_ok(put_elsewhere(g->p, &copy));
	assert_int_equal(put_elsewhere(g->p, &again), -EINVAL);
	check_error(hf_put(g->p, &r), -EINVAL, "put twice");
	r = check_get(g->p, g->mem, page, HF_READ);
	check_error(hf_release(g->sw, g->mem, page), -EBUSY, "held");
	check_ok(hf_put(g->p, &r));
	check_ok(hf_flush(g->p));
	assert_int_equal(g->sim.live, 0);
}

/* The hold of a miss is no count. */
static void a_copy_of_a_miss(void **state)
{
	struct rig *g = *state;
	struct hf_region r = check_get(g->p, g->mem, page, HF_READ), copy = r, again = r;

	check_ok(put_elsewhere(g->p, &copy));
	assert_int_equal(put_elsewhere(g->p, &again), -EINVAL);
	check_error(hf_put(g->p, &r), -EINVAL, "put");
}

/* Owner and another thread put one region at the same moment: both may succeed. It must not be held for ever. */
static void put_at_the_same_moment(void **state)
{
	struct rig *g = *state;
	struct hf_region r = hit(g);
	struct recent *place = place_of(&r);

	check_ok(hf_put(g->p, &r));
	atomic_fetch_add(&place->returned, 1);
	assert_false(recent_is_held(place));
	check_ok(hf_invalidate(g->sw, g->mem + page, page)); /* turns no gate */
	check_touch(g->p, g->mem + 2 * page, page, HF_READ); /* does */
	r = check_get(g->p, g->mem, page, HF_READ);
	check_error(hf_release(g->sw, g->mem, page), -EBUSY, "held");
	check_ok(hf_put(g->p, &r));
}

struct late {
	struct hf_provider *p;
	char *mem;
	pthread_key_t key;
	int rounds;
	int rc;
};

static struct late late;

static void late_destructor(void *arg)
{
	struct hf_region r;

	late.rc = late.rc ? late.rc : hf_get(late.p, late.mem, page, HF_READ, &r);
	late.rc = late.rc ? late.rc : hf_put(late.p, &r);
	if (late.rounds-- > 0)
		pthread_setspecific(late.key, arg);
}

static void *late_main(void *arg)
{
	late.rounds = 16; /* more than the C library gives */
	pthread_setspecific(late.key, arg);
	late_destructor(arg);
	return NULL;
}

static unsigned count_records(void)
{
	unsigned n = 0;

	while (thread_at(n))
		n++;
	return n;
}

static void records_do_not_leak(void **state)
{
	struct rig *g = *state;

	if (CHECK_TSAN) {
		print_message("skipped: the sanitizer's own state of a thread is gone by then\n");
		skip();
	}
	late = (struct late){ .p = g->p, .mem = g->mem };
	assert_int_equal(pthread_key_create(&late.key, late_destructor), 0);
	for (int i = 0; i < 2000; i++) {
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, late_main, g), 0);
		pthread_join(t, NULL);
		check_ok(late.rc);
	}
	pthread_key_delete(late.key);
	assert_in_range(count_records(), 1, 256);
}

/* In a child, before the first record is made there: all keys are taken, then one is free. */
static int without_a_key(void *arg)
{
	static pthread_key_t keys[4096];
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_region r;
	char *mem = arg;
	int n = 0;

	while (n < 4096 && pthread_key_create(&keys[n], NULL) == 0)
		pthread_setspecific(keys[n++], NULL);
	/* Only now: the provider's own thread wants a record, too. */
	CHILD_CHECK(hf_switch_open("proxy=manual", &sw) == 0 && hf_provider_open(sw, "sim", NULL, &p) == 0);
	CHILD_CHECK(hf_get(p, mem, page, HF_READ, &r) == -EAGAIN && strstr(hf_error(), "keys"));
	pthread_key_delete(keys[--n]);
	CHILD_CHECK(hf_get(p, mem, page, HF_READ, &r) == 0 && hf_put(p, &r) == 0);
	CHILD_CHECK(hf_provider_close(p) == 0 && hf_switch_close(sw) == 0);
	return 0;
}

/* Must be the first case: no thread of this process has a record yet. */
static void keys_are_taken(void **state)
{
	char *mem = check_map(page);

	assert_int_equal(count_records(), 0);
	assert_int_equal(check_child(without_a_key, mem), 0);
	check_unmap(mem, page);
}

static _Atomic bool proving, go_on;

static bool wait_here(int tid)
{
	atomic_store(&proving, true);
	while (!atomic_load(&go_on))
		usleep(100);
	return true;
}

static bool concerns_none(int nr)
{
	return false;
}

static void *prove_main(void *arg)
{
	thread_prove_out(thread_tick(), 0, wait_here, concerns_none);
	return NULL;
}

static int child_proves(void *arg)
{
	/* This thread is the only one: proved, unless the lock is taken for ever. */
	CHILD_CHECK(thread_prove(thread_tick(), 0, UINT64_MAX, 0) == ALL_OVER);
	return 0;
}

static void fork_while_proving(void **state)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, prove_main, NULL), 0);
	while (!atomic_load(&proving))
		usleep(100);
	assert_int_equal(check_child(child_proves, NULL), 0);
	atomic_store(&go_on, true);
	pthread_join(t, NULL);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_are_taken),
		WITH_RIG(counts_do_not_wrap),
		WITH_RIG(a_copy_put_elsewhere),
		WITH_RIG(a_copy_of_a_miss),
		WITH_RIG(put_at_the_same_moment),
		WITH_RIG(records_do_not_leak),
		cmocka_unit_test(fork_while_proving),
	};

	page = check_page();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
