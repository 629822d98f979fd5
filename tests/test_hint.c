/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The hints (hint.h) by themselves: what was noted is found, but for the few that a full bucket has lost; what was
 * dropped isn't; a larger table begins empty; and readers beside a writer see nothing that nobody noted.
 */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "hint.h"

#define PAGE 4096ull

static void grow(struct hints *h)
{
	struct hint_table *old = hints_use(h, hints_grown(h));

	hints_empty(old);
}

/* Candidates that are not the one: each costs a look at an entry. */
static unsigned wrong(const struct hints *h, uint64_t start, uint32_t id)
{
	struct hint_search s;
	unsigned n = 0;
	uint32_t found;

	hints_search(h, start, &s);
	while ((found = hints_next(&s)) != HINT_NONE)
		n += found != id;
	return n;
}

static void nothing_without_a_table(void **state)
{
	struct hints h = { .count = 0 };

	hints_note(&h, PAGE, 1);
	assert_false(hints_has(&h, PAGE, 1));
	hints_drop(&h, PAGE, 1);
	assert_true(hints_are_full(&h, 1));
	hints_destroy(&h);
}

static void noted_and_dropped(void **state)
{
	struct hints h = { .count = 0 };

	grow(&h);
	for (uint32_t i = 0; i < 40; i++)
		hints_note(&h, i * 17 * PAGE, i);
	for (uint32_t i = 0; i < 40; i++)
		assert_true(hints_has(&h, i * 17 * PAGE, i));
	for (uint32_t i = 0; i < 40; i += 2)
		hints_drop(&h, i * 17 * PAGE, i);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(hints_has(&h, i * 17 * PAGE, i), i % 2);
	hints_destroy(&h);
}

/* Several that begin at one page, and one noted twice: as often as it was noted it would have to be dropped. */
static void same_page(void **state)
{
	struct hints h = { .count = 0 };

	grow(&h);
	for (uint32_t i = 0; i < 5; i++) {
		hints_note(&h, PAGE, i);
		hints_note(&h, PAGE, i);
	}
	assert_int_equal(wrong(&h, PAGE, 0), 4);
	hints_drop(&h, PAGE, 3);
	assert_false(hints_has(&h, PAGE, 3));
	assert_true(hints_has(&h, PAGE, 4));
	hints_destroy(&h);
}

/* As many as a table is to hold, for the strides that programs have: hardly any is lost, few are wrong. */
static void few_are_lost(void **state)
{
	static const uint64_t strides[] = { 1, 16, 17, 32, 512, 513 };

	for (size_t s = 0; s < sizeof(strides) / sizeof(strides[0]); s++) {
		struct hints h = { .count = 0 };
		uint32_t lost = 0, more = 0, n;

		for (int i = 0; i < 7; i++)
			grow(&h);
		n = (uint32_t)h.enough;
		assert_true(n > 100000);
		for (uint32_t i = 0; i < n; i++)
			hints_note(&h, i * strides[s] * PAGE, i);
		for (uint32_t i = 0; i < n; i++) {
			lost += !hints_has(&h, i * strides[s] * PAGE, i);
			more += wrong(&h, i * strides[s] * PAGE, i);
		}
		assert_in_range(lost, 0, n / 50);
		assert_in_range(more, 0, n / 3);
		hints_destroy(&h);
	}
}

static void larger_begins_empty(void **state)
{
	struct hints h = { .count = 0 };
	uint64_t before;

	grow(&h);
	before = h.enough;
	hints_note(&h, PAGE, 1);
	grow(&h);
	assert_int_equal(h.enough, 2 * before);
	assert_false(hints_has(&h, PAGE, 1));
	hints_note(&h, PAGE, 1);
	assert_true(hints_has(&h, PAGE, 1));
	hints_destroy(&h);
}

#define READERS 2
#define SHARED 512u
#define TURNS (CHECK_TSAN ? 20u : 200u)

struct shared {
	struct hints hints;
	_Atomic bool stop;
	_Atomic unsigned passes; /* that have found something */
	_Atomic uint64_t found, strange;
};

/* Ids are the page's number: any other is of a neighbour with the same tag, but never one that there isn't. */
static void *reader(void *arg)
{
	struct shared *s = arg;
	uint64_t found = 0, strange = 0, before = 0;

	for (uint32_t i = 0; !atomic_load(&s->stop); i = (i + 1) % SHARED) {
		struct hint_search search;
		uint32_t id;

		if (i == 0 && found > before) {
			atomic_fetch_add(&s->passes, 1);
			before = found;
		}
		hints_search(&s->hints, i * PAGE, &search);
		while ((id = hints_next(&search)) != HINT_NONE) {
			found += id == i;
			strange += id >= SHARED;
		}
	}
	atomic_fetch_add(&s->found, found);
	atomic_fetch_add(&s->strange, strange);
	return NULL;
}

static void readers_beside_a_writer(void **state)
{
	static struct shared s;
	pthread_t threads[READERS];

	grow(&s.hints);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &s), 0);
	for (uint32_t turn = 0; turn < TURNS || atomic_load(&s.passes) < 20 * READERS; turn++) {
		for (uint32_t i = 0; i < SHARED; i++)
			hints_note(&s.hints, i * PAGE, i);
		for (uint32_t i = turn % 2; i < SHARED; i += 2)
			hints_drop(&s.hints, i * PAGE, i);
		if (turn % (TURNS / 5) == 0 && turn < TURNS)
			grow(&s.hints);
	}
	atomic_store(&s.stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	assert_true(s.found > 0);
	assert_int_equal(s.strange, 0);
	hints_destroy(&s.hints);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_without_a_table), cmocka_unit_test(noted_and_dropped),
		cmocka_unit_test(same_page), cmocka_unit_test(few_are_lost),
		cmocka_unit_test(larger_begins_empty), cmocka_unit_test(readers_beside_a_writer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
