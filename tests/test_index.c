/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The index of ranges (index.h) against an array that is searched from end to end, and the pool (pool.h) that its nodes
 * lie in. Both without the library around them.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "index.h"
#include "os.h"
#include "pool.h"

#define NODES 200
#define SEEDS (CHECK_TSAN ? 15 : 60)
#define STEPS 1500

/* ------------------------------------------------------------------ the model */

struct model {
	struct index ix;
	struct node nodes[NODES];
	bool in[NODES];
	unsigned count;
	uint64_t random;
	uint64_t span; /* ranges lie in [0, span): the smaller, the more they overlap */
};

enum what { COVERS, TOUCHES, INSIDE };

static bool fits(const struct node *n, enum what what, uint64_t start, uint64_t end)
{
	switch (what) {
	case COVERS:
		return node_start(n) <= start && node_end(n) >= end;
	case TOUCHES:
		return node_start(n) < end && node_end(n) > start;
	default:
		return node_start(n) >= start && node_end(n) <= end;
	}
}

static int by_address(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	if (node_start(x) != node_start(y))
		return node_start(x) < node_start(y) ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* All that fit, in address order: how many. */
static unsigned expect(struct model *m, enum what what, uint64_t start, uint64_t end, struct node **out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < NODES; i++)
		if (m->in[i] && fits(&m->nodes[i], what, start, end))
			out[n++] = &m->nodes[i];
	qsort(out, n, sizeof(*out), by_address);
	return n;
}

static void random_range(struct model *m, uint64_t *start, uint64_t *end)
{
	uint64_t x = check_random(&m->random);

	*start = x % m->span;
	*end = *start + 1 + (x >> 32) % (x & (1ull << 63) ? m->span : 4);
}

static void change(struct model *m)
{
	unsigned i = (unsigned)(check_random(&m->random) % NODES);
	uint64_t start, end;

	if (m->in[i]) {
		index_remove(&m->ix, &m->nodes[i]);
		m->count--;
	} else {
		random_range(m, &start, &end);
		node_set(&m->nodes[i], start, end);
		index_insert(&m->ix, &m->nodes[i]);
		m->count++;
	}
	m->in[i] = !m->in[i];
}

struct visited {
	struct node *node[NODES];
	unsigned n;
};

static void visit(struct node *n, void *arg)
{
	struct visited *v = arg;

	assert_in_range(v->n, 0, NODES - 1);
	v->node[v->n++] = n;
}

static void ask(struct model *m)
{
	struct node *want[NODES], *got[NODES], *cover;
	unsigned max = 1 + (unsigned)(check_random(&m->random) % NODES);
	struct visited v = { .n = 0 };
	uint64_t start, end;
	unsigned n;

	random_range(m, &start, &end);
	cover = index_find_cover(&m->ix, start, end);
	n = expect(m, COVERS, start, end, want);
	assert_int_equal(cover != NULL, n > 0);
	if (cover) {
		assert_true(fits(cover, COVERS, start, end));
		assert_true(m->in[cover - m->nodes]);
	}
	n = expect(m, TOUCHES, start, end, want);
	assert_int_equal(index_find_touching(&m->ix, start, end, got, max), n < max ? n : max);
	assert_memory_equal(got, want, (n < max ? n : max) * sizeof(*got));
	index_each_touching(&m->ix, start, end, visit, &v);
	assert_int_equal(v.n, n);
	assert_memory_equal(v.node, want, n * sizeof(*want));
	n = expect(m, INSIDE, start, end, want);
	assert_int_equal(index_find_inside(&m->ix, start, end, got, max), n < max ? n : max);
	assert_memory_equal(got, want, (n < max ? n : max) * sizeof(*got));
}

static void against_the_model(void **state)
{
	static const uint64_t spans[] = { 2, 16, 64, 1000, 1ull << 40 };

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct model m = { .random = seed, .span = spans[seed % (sizeof(spans) / sizeof(spans[0]))] };

		for (unsigned i = 0; i < STEPS; i++) {
			change(&m);
			ask(&m);
			if (i % 50 == 0)
				assert_int_equal(index_is_valid(&m.ix), m.count);
		}
		for (unsigned i = 0; i < NODES; i++)
			if (m.in[i])
				index_remove(&m.ix, &m.nodes[i]);
		assert_int_equal(index_is_valid(&m.ix), 0);
		assert_null(m.ix.root);
	}
}

/* The checker does see what is wrong. */
static void is_valid_sees_damage(void **state)
{
	struct model m = { .random = 1, .span = 1000 };
	struct node *root;

	for (unsigned i = 0; i < 100; i++)
		change(&m);
	root = atomic_load(&m.ix.root);
	assert_int_equal(index_is_valid(&m.ix), m.count);
	atomic_fetch_add(&root->max_end, 1);
	assert_int_equal(index_is_valid(&m.ix), -1);
	atomic_fetch_sub(&root->max_end, 1);
	root->priority = 0;
	assert_int_equal(index_is_valid(&m.ix), -1);
	root->priority = UINT32_MAX;
	node_set(root, 5000, node_end(root));
	assert_int_equal(index_is_valid(&m.ix), -1);
}

/* The ends of the address space, and ranges that are all the same. */
static void edges(void **state)
{
	struct index ix = { .random = 0 };
	struct node n[40] = { { 0 } };
	struct node *got[40];

	assert_null(index_find_cover(&ix, 0, 1));
	assert_int_equal(index_find_touching(&ix, 0, UINT64_MAX, got, 40), 0);
	assert_int_equal(index_is_valid(&ix), 0);
	node_set(&n[0], 0, UINT64_MAX);
	index_insert(&ix, &n[0]);
	assert_ptr_equal(index_find_cover(&ix, 0, UINT64_MAX), &n[0]);
	assert_ptr_equal(index_find_cover(&ix, UINT64_MAX - 1, UINT64_MAX), &n[0]);
	assert_int_equal(index_find_inside(&ix, 1, UINT64_MAX, got, 40), 0);
	assert_int_equal(index_find_inside(&ix, 0, UINT64_MAX, got, 40), 1);
	index_remove(&ix, &n[0]);
	for (unsigned i = 0; i < 40; i++) {
		node_set(&n[i], 10, 20);
		index_insert(&ix, &n[i]);
	}
	assert_int_equal(index_find_touching(&ix, 19, 20, got, 40), 40);
	assert_int_equal(index_find_touching(&ix, 20, 30, got, 40), 0); /* the end is outside */
	assert_int_equal(index_find_touching(&ix, 0, 10, got, 40), 0);
	assert_int_equal(index_find_touching(&ix, 0, 11, got, 7), 7);
	assert_int_equal(index_find_touching(&ix, 0, 11, got, 0), 0);
	assert_int_equal(index_find_inside(&ix, 10, 20, got, 40), 40);
	assert_int_equal(index_find_inside(&ix, 10, 19, got, 40), 0);
	for (unsigned i = 0; i < 40; i++) {
		index_remove(&ix, &n[(i * 7) % 40]); /* each one once */
		assert_int_equal(index_is_valid(&ix), 39 - i);
	}
}

/* Inserted in order, the worst that a plain tree could meet: every one is found, hence within the steps of a reader. */
static void in_order(void **state)
{
	enum { MANY = CHECK_TSAN ? 10000 : 100000 };
	struct node *n = calloc(MANY, sizeof(*n));
	struct index ix = { .random = 0 };

	assert_non_null(n);
	for (unsigned i = 0; i < MANY; i++) {
		node_set(&n[i], 2ull * i, 2ull * i + 1);
		index_insert(&ix, &n[i]);
	}
	assert_int_equal(index_is_valid(&ix), MANY);
	for (unsigned i = 0; i < MANY; i++) {
		assert_ptr_equal(index_find_cover(&ix, 2ull * i, 2ull * i + 1), &n[i]);
		assert_null(index_find_cover(&ix, 2ull * i + 1, 2ull * i + 2));
	}
	free(n);
}

/* ------------------------------------------------------------------ readers without a lock */

#define READERS 3
#define READER_MS 500

struct reader {
	pthread_t id;
	struct model *m;
	_Atomic bool *stop;
	uint64_t random, asked, found;
	bool lost; /* it left the nodes */
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(r->stop)) {
		uint64_t start = check_random(&r->random) % 64;
		struct node *n = index_find_cover(&r->m->ix, start, start + 1);

		r->asked++;
		r->found += n != NULL;
		if (n && (n < r->m->nodes || n >= r->m->nodes + NODES))
			r->lost = true;
	}
	return NULL;
}

static void readers_and_a_writer(void **state)
{
	struct model m = { .random = 7, .span = 64 };
	struct reader r[READERS];
	_Atomic bool stop = false;
	uint64_t changes = 0;

	for (unsigned i = 0; i < READERS; i++) {
		r[i] = (struct reader){ .m = &m, .stop = &stop, .random = i };
		assert_int_equal(pthread_create(&r[i].id, NULL, reader_main, &r[i]), 0);
	}
	for (unsigned ms = 0; ms < READER_MS; ms++) {
		for (unsigned i = 0; i < 200; i++, changes++)
			change(&m);
		usleep(1000);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(r[i].id, NULL);
		assert_false(r[i].lost);
		assert_true(r[i].asked > 0 && r[i].found > 0);
	}
	assert_int_equal(changes, READER_MS * 200);
	/* Now that nobody writes, the answers are exact. */
	assert_int_equal(index_is_valid(&m.ix), m.count);
	for (unsigned i = 0; i < 1000; i++)
		ask(&m);
}

/* ------------------------------------------------------------------ the pool */

struct object {
	void *link;
	uint64_t value[12];
};

#define OBJECTS (POOL_FIRST * 7 + 10) /* three chunks and a bit of the fourth */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void pool_grows(void **state)
{
	static struct object *o[OBJECTS];
	struct pool p;

	pool_init(&p, sizeof(struct object));
	assert_true(pool_empty(&p));
	assert_null(pool_get(&p, NULL));
	assert_null(pool_at(&p, 0));
	for (uint32_t i = 0; i < OBJECTS; i++) {
		uint32_t index = UINT32_MAX;

		assert_int_equal(pool_reserve(&p, &lock), 0);
		o[i] = pool_get(&p, &index);
		assert_non_null(o[i]);
		assert_int_equal(index, i);
		assert_int_equal(((uintptr_t)o[i]) % _Alignof(struct object), 0);
		for (unsigned w = 0; w < 12; w++)
			assert_int_equal(o[i]->value[w], 0);
		memset(o[i], (int)i, sizeof(*o[i])); /* the whole of it is ours */
		o[i]->value[3] = i;
	}
	assert_int_equal(p.made, OBJECTS);
	assert_int_equal(p.room, POOL_FIRST * 15);
	/* None has moved, none overlaps another. */
	for (uint32_t i = 0; i < OBJECTS; i++) {
		assert_ptr_equal(pool_at(&p, i), o[i]);
		assert_int_equal(o[i]->value[3], i);
		assert_int_equal((unsigned char)o[i]->value[11], (unsigned char)i);
	}
	assert_null(pool_at(&p, POOL_FIRST * 15));
	assert_null(pool_at(&p, UINT32_MAX));
	pool_destroy(&p);
	assert_true(pool_empty(&p));
}

/* What was put comes back as it was put but for its first word, before anything new is made. */
static void pool_reuses(void **state)
{
	struct object *o[POOL_FIRST];
	struct pool p;
	uint32_t index;

	pool_init(&p, sizeof(struct object));
	assert_int_equal(pool_reserve(&p, &lock), 0);
	for (uint32_t i = 0; i < POOL_FIRST; i++) {
		o[i] = pool_get(&p, NULL);
		o[i]->value[0] = i;
	}
	assert_true(pool_empty(&p));
	assert_null(pool_get(&p, NULL));
	for (uint32_t i = 0; i < POOL_FIRST; i++)
		pool_put(&p, o[i]);
	assert_int_equal(pool_reserve(&p, &lock), 0); /* not empty: nothing is added */
	assert_int_equal(p.room, POOL_FIRST);
	for (uint32_t i = 0; i < POOL_FIRST; i++) {
		struct object *again = pool_get(&p, &(uint32_t){ 0 });

		assert_non_null(again);
		assert_in_range(again->value[0], 0, POOL_FIRST - 1);
		assert_ptr_equal(again, o[again->value[0]]);
		o[again->value[0]] = NULL; /* each one once */
	}
	index = UINT32_MAX;
	assert_int_equal(pool_reserve(&p, &lock), 0);
	assert_non_null(pool_get(&p, &index));
	assert_int_equal(index, POOL_FIRST);
	pool_destroy(&p);
}

static void pool_without_memory(void **state)
{
#ifdef HF_FAULTS
	struct pool p;

	pool_init(&p, sizeof(struct object));
	hf_fault_arm(1);
	assert_int_equal(pool_reserve(&p, &lock), -ENOMEM);
	assert_string_equal(hf_fault_last(), "pool mmap");
	hf_fault_arm(0);
	assert_null(pool_get(&p, NULL));
	assert_int_equal(pool_reserve(&p, &lock), 0);
	assert_non_null(pool_get(&p, NULL));
	pool_destroy(&p);
#else
	skip();
#endif
}

struct taker {
	pthread_t id;
	struct pool *p;
	uint64_t mark;
	unsigned errors;
};

static struct object *take(struct pool *p)
{
	struct object *o = NULL;

	while (!o) {
		if (pool_reserve(p, &lock) < 0)
			return NULL;
		pthread_mutex_lock(&lock);
		o = pool_get(p, NULL);
		pthread_mutex_unlock(&lock);
	}
	return o;
}

static void *taker_main(void *arg)
{
	static const unsigned many = 700;
	struct taker *t = arg;
	struct object *mine[700];

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < many; i++) {
			mine[i] = take(t->p);
			if (!mine[i])
				return (void *)1;
			mine[i]->value[5] = t->mark + i;
		}
		for (unsigned i = 0; i < many; i++) {
			t->errors += mine[i]->value[5] != t->mark + i; /* nobody else has it */
			pthread_mutex_lock(&lock);
			pool_put(t->p, mine[i]);
			pthread_mutex_unlock(&lock);
		}
	}
	return NULL;
}

static void pool_and_threads(void **state)
{
	struct taker t[4];
	struct pool p;

	pool_init(&p, sizeof(struct object));
	for (unsigned i = 0; i < 4; i++) {
		t[i] = (struct taker){ .p = &p, .mark = (uint64_t)i << 32 };
		assert_int_equal(pthread_create(&t[i].id, NULL, taker_main, &t[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		void *failed;

		pthread_join(t[i].id, &failed);
		assert_null(failed);
		assert_int_equal(t[i].errors, 0);
	}
	assert_in_range(p.made, 700, 4 * 700);
	pool_destroy(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_the_model), cmocka_unit_test(is_valid_sees_damage),
		cmocka_unit_test(edges), cmocka_unit_test(in_order), cmocka_unit_test(readers_and_a_writer),
		cmocka_unit_test(pool_grows), cmocka_unit_test(pool_reuses), cmocka_unit_test(pool_without_memory),
		cmocka_unit_test(pool_and_threads),
	};

	return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
