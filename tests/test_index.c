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

#define RANGES 400
#define SEEDS (CHECK_TSAN ? 12 : 40)
#define STEPS 1500

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t page;

/* ------------------------------------------------------------------ an index and its nodes */

static void index_open(struct index *ix, struct index_nodes *nodes)
{
	index_nodes_init(nodes);
	index_init(ix, nodes);
}

/* What it says of other ranges that begin inside has to be so. */
static void add(struct index *ix, uint64_t start, uint64_t end, uint32_t id)
{
	uint32_t inside[2];

	if (!index_has_room(ix->nodes))
		assert_int_equal(index_reserve(ix->nodes, &lock), 0);
	if (!index_insert(ix, start, end, id))
		assert_int_equal(index_find_inside(ix, start, end, inside, 2), 1);
}

static uint32_t nodes_in_use(const struct index_nodes *nodes)
{
	return nodes->pool.made - nodes->pool.idle;
}

static double bytes_per_range(const struct index *ix, unsigned ranges)
{
	return (double)nodes_in_use(ix->nodes) * sizeof(struct node) / ranges;
}

static struct node *root_of(const struct index *ix)
{
	return pool_at(&ix->nodes->pool, atomic_load(&ix->root));
}

/* ------------------------------------------------------------------ the model */

struct model {
	struct index_nodes nodes;
	struct index ix;
	struct { uint64_t start, end; } at[RANGES]; /* by id */
	bool in[RANGES];
	unsigned count;
	bool less;     /* of late more go than come: nodes are merged */
	uint64_t random;
	bool brief;    /* no range is long */
	uint64_t span; /* ranges lie in [0, span) pages: the smaller, the more they overlap */
};

enum what { COVERS, TOUCHES, INSIDE };

static bool fits(const struct model *m, uint32_t id, enum what what, uint64_t start, uint64_t end)
{
	if (id >= RANGES || !m->in[id])
		return false;
	switch (what) {
	case COVERS:
		return m->at[id].start <= start && m->at[id].end >= end;
	case TOUCHES:
		return m->at[id].start < end && m->at[id].end > start;
	default:
		return m->at[id].start >= start && m->at[id].end <= end;
	}
}

static struct model *sorted; /* by_address() has no argument for it */

static int by_address(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	if (sorted->at[x].start != sorted->at[y].start)
		return sorted->at[x].start < sorted->at[y].start ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* All that fit, in address order: how many. */
static unsigned expect(struct model *m, enum what what, uint64_t start, uint64_t end, uint32_t *out)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < RANGES; i++)
		if (fits(m, i, what, start, end))
			out[n++] = i;
	sorted = m;
	qsort(out, n, sizeof(*out), by_address);
	return n;
}

static void random_range(struct model *m, uint64_t *start, uint64_t *end)
{
	uint64_t x = check_random(&m->random);

	*start = x % m->span * page;
	*end = *start + (1 + (x >> 32) % (x & (1ull << 63) && !m->brief ? m->span < 65536 ? m->span : 65536 : 4)) * page;
}

static void change(struct model *m)
{
	uint64_t x = check_random(&m->random);
	uint32_t i = (uint32_t)(x % RANGES);

	if (x >> 60 == 0 && m->count == RANGES / (x & (1ull << 59) ? 2 : 4))
		m->less = !m->less;
	if (m->in[i] != m->less && x & (1ull << 58))
		return;
	if (m->in[i]) {
		assert_true(index_remove(&m->ix, m->at[i].start, i));
		m->count--;
	} else {
		random_range(m, &m->at[i].start, &m->at[i].end);
		add(&m->ix, m->at[i].start, m->at[i].end, i);
		m->count++;
	}
	m->in[i] = !m->in[i];
}

struct visited {
	uint32_t id[RANGES];
	unsigned n;
};

static void visit(uint32_t id, void *arg)
{
	struct visited *v = arg;

	assert_in_range(v->n, 0, RANGES - 1);
	v->id[v->n++] = id;
}

static void ask(struct model *m)
{
	uint32_t want[RANGES], got[RANGES], cover;
	unsigned max = 1 + (unsigned)(check_random(&m->random) % RANGES);
	struct visited v = { .n = 0 };
	uint64_t start, end;
	unsigned n;

	random_range(m, &start, &end);
	cover = index_find_cover(&m->ix, start, end);
	n = expect(m, COVERS, start, end, want);
	assert_int_equal(cover != INDEX_NONE, n > 0);
	if (n)
		assert_true(fits(m, cover, COVERS, start, end));
	n = expect(m, TOUCHES, start, end, want);
	assert_int_equal(index_find_touching(&m->ix, start, end, got, max), n < max ? n : max);
	assert_memory_equal(got, want, (n < max ? n : max) * sizeof(*got));
	index_each_touching(&m->ix, start, end, visit, &v);
	assert_int_equal(v.n, n);
	assert_memory_equal(v.id, want, n * sizeof(*want));
	n = expect(m, INSIDE, start, end, want);
	assert_int_equal(index_find_inside(&m->ix, start, end, got, max), n < max ? n : max);
	assert_memory_equal(got, want, (n < max ? n : max) * sizeof(*got));
}

static void remove_all(struct model *m)
{
	for (uint32_t i = 0; i < RANGES; i++) {
		assert_int_equal(index_remove(&m->ix, m->at[i].start, i), m->in[i]);
		assert_false(index_remove(&m->ix, m->at[i].start, i));
		m->in[i] = false;
		assert_true(index_is_valid(&m->ix) >= 0);
	}
	m->count = 0;
	assert_int_equal(index_is_valid(&m->ix), 0);
	assert_int_equal(atomic_load(&m->ix.root), INDEX_NONE);
	assert_int_equal(nodes_in_use(&m->nodes), 0);
}

static void against_the_model(void **state)
{
	static const uint64_t spans[] = { 2, 16, 64, 1000, 1ull << 32 };

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct model m = {
			.random = seed,
			.span = spans[seed % (sizeof(spans) / sizeof(spans[0]))],
			.brief = seed / 5 % 2,
		};

		index_open(&m.ix, &m.nodes);
		for (unsigned i = 0; i < STEPS; i++) {
			change(&m);
			ask(&m);
			if (i % 20 == 0)
				assert_int_equal(index_is_valid(&m.ix), m.count);
		}
		assert_in_range(m.count, 50, RANGES); /* more than a node or two */
		remove_all(&m);
		index_nodes_destroy(&m.nodes);
	}
}

/*
 * Ranges of 16 pages, and in each of them 15 of one page. What covers two pages is the long one: it may lie some leaves
 * back, and below another node of each level.
 */
static void the_long_one_lies_back(void **state)
{
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	for (uint32_t n = 0; n < 16384; n++) {
		uint32_t i = n * 7919 % 16384;

		add(&ix, i * page, (i + (i % 16 ? 1 : 16)) * page, i);
	}
	for (uint32_t i = 0; i < 16384; i++)
		assert_int_equal(index_find_cover(&ix, i * page, (i + 2) * page), i % 16 == 15 ? INDEX_NONE : i & ~15u);
	index_nodes_destroy(&nodes);
}

/* The checker does see what is wrong, in the root and in a leaf. */
static void is_valid_sees_damage(void **state)
{
	struct model m = { .random = 1, .span = 1000 };
	struct node *root, *leaf;

	index_open(&m.ix, &m.nodes);
	while (m.count < 150)
		change(&m);
	root = root_of(&m.ix);
	leaf = pool_at(&m.nodes.pool, (uint32_t)(atomic_load(&root->word[INNER_SLOTS]) >> 32));
	assert_int_equal(atomic_load(&root->level), 1);
	assert_int_equal(index_is_valid(&m.ix), m.count);

#define DAMAGE(word, change)                                       \
	do {                                                       \
		uint64_t was = atomic_load(&(word));               \
		atomic_fetch_add(&(word), (change));               \
		assert_int_equal(index_is_valid(&m.ix), -1);       \
		atomic_store(&(word), was);                        \
		assert_int_equal(index_is_valid(&m.ix), m.count);  \
	} while (0)
	DAMAGE(root->word[2 * INNER_SLOTS], page);        /* the greatest end of child 0 */
	DAMAGE(root->word[1], 1000 * page);               /* the bound of child 1: above its least */
	DAMAGE(root->word[0], 1);                         /* child 0 has a bound */
	DAMAGE(root->word[INNER_SLOTS], 1ull << 52);      /* a child that is not there */
	DAMAGE(root->count, -1);
	DAMAGE(root->level, 1);
	DAMAGE(leaf->word[0], 2000 * page);               /* not in order */
	DAMAGE(leaf->word[LEAF_SLOTS], 10000ull << 32);   /* longer than its parent knows */
	DAMAGE(leaf->count, 1);
	DAMAGE(leaf->level, 1);
#undef DAMAGE
	index_nodes_destroy(&m.nodes);
}

/* The ends of the address space, the longest range, and ranges that are all the same. */
static void edges(void **state)
{
	const uint64_t longest = INDEX_MAX_PAGES * page;
	enum { SAME = 200 };
	struct index_nodes nodes;
	uint32_t got[SAME];
	struct index ix;

	index_open(&ix, &nodes);
	assert_int_equal(index_find_cover(&ix, 0, 1), INDEX_NONE);
	assert_int_equal(index_find_touching(&ix, 0, UINT64_MAX, got, SAME), 0);
	assert_int_equal(index_is_valid(&ix), 0);
	assert_false(index_remove(&ix, 0, 0));
	add(&ix, 0, longest, 7);
	add(&ix, -2 * page, -page, INDEX_NONE - 1);
	assert_int_equal(index_find_cover(&ix, 0, longest), 7);
	assert_int_equal(index_find_cover(&ix, longest - page, longest), 7);
	assert_int_equal(index_find_cover(&ix, 0, longest + 1), INDEX_NONE);
	assert_int_equal(index_find_cover(&ix, -2 * page, -page), INDEX_NONE - 1);
	assert_int_equal(index_find_inside(&ix, page, UINT64_MAX, got, SAME), 1);
	assert_int_equal(index_find_inside(&ix, 0, UINT64_MAX, got, SAME), 2);
	assert_int_equal(index_find_touching(&ix, 0, UINT64_MAX, got, SAME), 2);
	assert_false(index_remove(&ix, 0, 6));
	assert_false(index_remove(&ix, page, 7));
	assert_true(index_remove(&ix, 0, 7));
	assert_true(index_remove(&ix, -2 * page, INDEX_NONE - 1));
	for (uint32_t i = 0; i < SAME; i++)
		add(&ix, 10 * page, 20 * page, (i * 7) % SAME);
	assert_int_equal(index_find_touching(&ix, 19 * page, 20 * page, got, SAME), SAME);
	for (uint32_t i = 0; i < SAME; i++)
		assert_int_equal(got[i], i);
	assert_int_equal(index_find_touching(&ix, 20 * page, 30 * page, got, SAME), 0); /* the end is outside */
	assert_int_equal(index_find_touching(&ix, 0, 10 * page, got, SAME), 0);
	assert_int_equal(index_find_touching(&ix, 0, 10 * page + 1, got, 7), 7);
	assert_int_equal(index_find_touching(&ix, 0, 10 * page + 1, got, 0), 0);
	assert_int_equal(index_find_inside(&ix, 10 * page, 20 * page, got, SAME), SAME);
	assert_int_equal(index_find_inside(&ix, 10 * page, 19 * page, got, SAME), 0);
	for (uint32_t i = 0; i < SAME; i++) {
		assert_true(index_remove(&ix, 10 * page, (i * 11) % SAME)); /* each one once */
		assert_int_equal(index_is_valid(&ix), SAME - 1 - i);
	}
	assert_int_equal(nodes_in_use(&nodes), 0);
	index_nodes_destroy(&nodes);
}

/* ------------------------------------------------------------------ many */

#define MANY (CHECK_TSAN ? 10000u : 100000u)
#define BASE (1ull << 46)
#define STRIDE (32 * page)

enum fill { ASCENDING, DESCENDING, ASCENDING_BETWEEN, DESCENDING_BETWEEN, SHUFFLED };

/* A few on either side, then a run; or any order. */
static uint64_t place(enum fill fill, uint32_t i)
{
	uint64_t aside = i < 100 ? i & 1 ? 1ull << 45 : -(1ull << 45) : 0;

	switch (fill) {
	case ASCENDING:
		return BASE + i * STRIDE;
	case DESCENDING:
		return BASE - i * STRIDE;
	case ASCENDING_BETWEEN:
		return BASE + aside + i * STRIDE;
	case DESCENDING_BETWEEN:
		return BASE + aside - i * STRIDE;
	default: /* a permutation: 7919 is no factor of MANY */
		return BASE + (uint64_t)i * 7919 % MANY * STRIDE;
	}
}

static void fill_and_empty(enum fill fill, double most)
{
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	for (uint32_t i = 0; i < MANY; i++)
		add(&ix, place(fill, i), place(fill, i) + 16 * page, i);
	assert_int_equal(index_is_valid(&ix), MANY);
	if (bytes_per_range(&ix, MANY) > most)
		fail_msg("fill %d: %.2f bytes for each range, at most %.2f", fill, bytes_per_range(&ix, MANY), most);
	for (uint32_t i = 0; i < MANY; i++) {
		uint64_t start = place(fill, i);

		assert_int_equal(index_find_cover(&ix, start + page, start + 16 * page), i);
		assert_int_equal(index_find_cover(&ix, start + 16 * page, start + 17 * page), INDEX_NONE);
	}
	/* As many as are left, so much memory: every second node may be half empty. */
	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t k = (uint32_t)((uint64_t)i * 9973 % MANY);

		assert_true(index_remove(&ix, place(fill, k), k));
		if (i % (MANY / 8) == 0) {
			assert_int_equal(index_is_valid(&ix), MANY - 1 - i);
			assert_true(bytes_per_range(&ix, MANY - i) < 60);
		}
	}
	assert_int_equal(nodes_in_use(&nodes), 0);
	index_nodes_destroy(&nodes);
}

static void memory_of_runs(void **state)
{
	fill_and_empty(ASCENDING, 17.5);
	fill_and_empty(DESCENDING, 17.5);
	fill_and_empty(ASCENDING_BETWEEN, 20);
	fill_and_empty(DESCENDING_BETWEEN, 20);
}

static void memory_of_a_shuffle(void **state)
{
	fill_and_empty(SHUFFLED, 23);
}

/* Ranges come and go at random: the nodes stay as full as ranges that only came leave them, about. */
static void memory_after_a_while(void **state)
{
	enum { LIVE = 5000 };
	uint64_t random = 3, *at = calloc(LIVE, sizeof(*at));
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	for (unsigned i = 0; i < 30 * LIVE; i++) {
		uint32_t id = i < LIVE ? i : (uint32_t)(check_random(&random) % LIVE);

		if (i >= LIVE)
			assert_true(index_remove(&ix, at[id], id));
		at[id] = check_random(&random) % (1ull << 32) * page;
		add(&ix, at[id], at[id] + page, id);
		if (i >= LIVE && i % 997 == 0)
			assert_true(bytes_per_range(&ix, LIVE) < 32); /* with an entry of 96: 128 */
	}
	assert_int_equal(index_is_valid(&ix), LIVE);
	free(at);
	index_nodes_destroy(&nodes);
}

/* A million are not deep: what a search costs is a few nodes. */
static void depth(void **state)
{
	enum { MILLION = CHECK_TSAN || CHECK_ASAN ? 50000 : 1000000 };
	uint64_t random = 1;
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	for (uint32_t i = 0; i < MILLION; i++) {
		uint64_t start = check_random(&random) % (1ull << 36) * page;

		add(&ix, start, start + page, i);
	}
	assert_int_equal(index_is_valid(&ix), MILLION);
	assert_in_range(atomic_load(&root_of(&ix)->level), 2, 5);
	index_nodes_destroy(&nodes);
}

/* One lies over all others, far to the left of what is asked for: found on the way back up. */
static void covered_from_afar(void **state)
{
	enum { SMALL = 20000 };
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	add(&ix, page, 2 * SMALL * page, SMALL);
	for (uint32_t i = 0; i < SMALL; i++)
		add(&ix, 2 * i * page, (2 * i + 1) * page, i);
	for (uint32_t i = 1; i < SMALL; i++) {
		assert_int_equal(index_find_cover(&ix, 2 * i * page, (2 * i + 1) * page), i);
		assert_int_equal(index_find_cover(&ix, 2 * i * page, (2 * i + 2) * page), SMALL);
	}
	assert_true(index_remove(&ix, page, SMALL));
	for (uint32_t i = 0; i < SMALL; i++)
		assert_int_equal(index_find_cover(&ix, 2 * i * page, (2 * i + 2) * page), INDEX_NONE);
	index_nodes_destroy(&nodes);
}

static void without_memory(void **state)
{
#ifdef HF_FAULTS
	struct index_nodes nodes;
	struct index ix;

	index_open(&ix, &nodes);
	assert_false(index_has_room(&nodes));
	hf_fault_arm(1);
	assert_int_equal(index_reserve(&nodes, &lock), -ENOMEM);
	hf_fault_arm(0);
	assert_false(index_has_room(&nodes));
	assert_int_equal(index_reserve(&nodes, &lock), 0);
	assert_true(index_has_room(&nodes));
	index_nodes_destroy(&nodes);
#else
	skip();
#endif
}

/* ------------------------------------------------------------------ readers without a lock */

#define READERS 3
#define READER_MS 500

struct reader {
	pthread_t id;
	struct model *m;
	_Atomic bool *stop;
	uint64_t random, asked;
	_Atomic uint64_t found;
};

/* Each has had its turn beside the writer. */
static bool all_have_found(struct reader *r)
{
	for (unsigned i = 0; i < READERS; i++)
		if (!atomic_load(&r[i].found))
			return false;
	return true;
}

/* What a reader is told may be wrong. That it is told something, and that the sanitizers see nothing, is the test. */
static void *reader_main(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(r->stop)) {
		uint64_t start = check_random(&r->random) % 64 * page;

		r->asked++;
		r->found += index_find_cover(&r->m->ix, start, start + page) != INDEX_NONE;
	}
	return NULL;
}

/* Nodes become leaves and inner nodes, and lie idle, under the readers' feet. */
static void write_for_a_while(struct model *m, struct reader *r)
{
	for (unsigned ms = 0; ms < READER_MS || !all_have_found(r); ms++) {
		if (ms % 50 == 49)
			remove_all(m);
		for (unsigned i = 0; i < 200; i++)
			change(m);
		usleep(1000);
	}
}

static void readers_and_a_writer(void **state)
{
	struct model m = { .random = 7, .span = 64 };
	struct reader r[READERS];
	_Atomic bool stop = false;

	index_open(&m.ix, &m.nodes);
	for (unsigned i = 0; i < READERS; i++) {
		r[i] = (struct reader){ .m = &m, .stop = &stop, .random = i };
		assert_int_equal(pthread_create(&r[i].id, NULL, reader_main, &r[i]), 0);
	}
	write_for_a_while(&m, r);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(r[i].id, NULL);
		assert_true(r[i].asked > 0 && r[i].found > 0);
	}
	/* Now that nobody writes, the answers are exact. */
	assert_int_equal(index_is_valid(&m.ix), m.count);
	for (unsigned i = 0; i < 1000; i++)
		ask(&m);
	index_nodes_destroy(&m.nodes);
}

/* All that a torn node could say: a reader that sees any of it stays in the pool, which has a guard page, and ends. */
static void readers_of_nonsense(void **state)
{
	struct model m = { .random = 9, .span = 1ull << 32 };
	uint64_t random = 5;

	index_open(&m.ix, &m.nodes);
	while (m.count < 150)
		change(&m);
	for (unsigned i = 0; i < 20000; i++) {
		uint32_t some = (uint32_t)(check_random(&random) % (m.nodes.pool.room * 2));
		struct node *n = pool_at(&m.nodes.pool, some);
		uint64_t x = check_random(&random);

		if (n) {
			atomic_store(&n->word[x % (2 * LEAF_SLOTS)], x >> (x & 63));
			atomic_store(&n->level, (uint32_t)(x >> 8) % (INDEX_LEVELS + 2));
			atomic_store(&n->count, (uint16_t)(x >> 16));
		}
		if (i % 16 == 0)
			atomic_store(&m.ix.root, some);
		for (unsigned k = 0; k < 4; k++) {
			uint64_t start = check_random(&random) >> (random & 63);

			index_find_cover(&m.ix, start, start + page);
		}
	}
	index_nodes_destroy(&m.nodes);
}

/* ------------------------------------------------------------------ the pool */

struct object {
	void *link;
	uint64_t value[12];
};

#define OBJECTS (POOL_FIRST * 7 + 10) /* three chunks and a bit of the fourth */

static void pool_grows(void **state)
{
	static struct object *o[OBJECTS];
	uint32_t none;
	struct pool p;

	pool_init(&p, sizeof(struct object), 0);
	assert_int_equal(pool_room(&p), 0);
	assert_null(pool_get(&p, &none));
	assert_null(pool_at(&p, 0));
	for (uint32_t i = 0; i < OBJECTS; i++) {
		uint32_t index = UINT32_MAX;

		assert_int_equal(pool_reserve(&p, 1, &lock), 0);
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
	assert_int_equal(pool_room(&p), POOL_FIRST * 15 - OBJECTS);
	assert_int_equal(pool_reserve(&p, POOL_FIRST, &lock), 0);
	assert_true(pool_room(&p) >= POOL_FIRST);
	pool_destroy(&p);
	assert_int_equal(pool_room(&p), 0);
}

/* What was put comes back as it was put but for its first word, with its index, before anything new is made. */
static void pool_reuses(void **state)
{
	struct object *o[POOL_FIRST];
	struct pool p;
	uint32_t index;

	pool_init(&p, sizeof(struct object), 0);
	assert_int_equal(pool_reserve(&p, 1, &lock), 0);
	for (uint32_t i = 0; i < POOL_FIRST; i++) {
		o[i] = pool_get(&p, &index);
		assert_int_equal(index, i);
		o[i]->value[0] = i;
	}
	assert_int_equal(pool_room(&p), 0);
	assert_null(pool_get(&p, &index));
	for (uint32_t i = 0; i < POOL_FIRST; i++) {
		pool_put(&p, i);
		assert_int_equal(pool_room(&p), i + 1);
	}
	assert_int_equal(pool_reserve(&p, POOL_FIRST, &lock), 0); /* enough: nothing is added */
	assert_int_equal(p.room, POOL_FIRST);
	for (uint32_t i = 0; i < POOL_FIRST; i++) {
		struct object *again = pool_get(&p, &index);

		assert_non_null(again);
		assert_in_range(index, 0, POOL_FIRST - 1);
		assert_int_equal(again->value[0], index);
		assert_ptr_equal(again, o[index]);
		o[index] = NULL; /* each one once */
	}
	assert_int_equal(pool_reserve(&p, 1, &lock), 0);
	assert_non_null(pool_get(&p, &index));
	assert_int_equal(index, POOL_FIRST);
	pool_destroy(&p);
}

static void pool_without_memory(void **state)
{
#ifdef HF_FAULTS
	uint32_t index;
	struct pool p;

	pool_init(&p, sizeof(struct object), 0);
	hf_fault_arm(1);
	assert_int_equal(pool_reserve(&p, 1, &lock), -ENOMEM);
	assert_string_equal(hf_fault_last(), "pool mmap");
	hf_fault_arm(0);
	assert_null(pool_get(&p, &index));
	assert_int_equal(pool_reserve(&p, 1, &lock), 0);
	assert_non_null(pool_get(&p, &index));
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

static struct object *take(struct pool *p, uint32_t *index)
{
	struct object *o = NULL;

	while (!o) {
		if (pool_reserve(p, 1, &lock) < 0)
			return NULL;
		pthread_mutex_lock(&lock);
		o = pool_get(p, index);
		pthread_mutex_unlock(&lock);
	}
	return o;
}

static void *taker_main(void *arg)
{
	static const unsigned many = 700;
	struct taker *t = arg;
	struct object *mine[700];
	uint32_t index[700];

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < many; i++) {
			mine[i] = take(t->p, &index[i]);
			if (!mine[i])
				return (void *)1;
			mine[i]->value[5] = t->mark + i;
		}
		for (unsigned i = 0; i < many; i++) {
			t->errors += mine[i]->value[5] != t->mark + i; /* nobody else has it */
			pthread_mutex_lock(&lock);
			pool_put(t->p, index[i]);
			pthread_mutex_unlock(&lock);
		}
	}
	return NULL;
}

static void pool_and_threads(void **state)
{
	struct taker t[4];
	struct pool p;

	pool_init(&p, sizeof(struct object), 0);
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
		cmocka_unit_test(edges), cmocka_unit_test(memory_of_runs), cmocka_unit_test(memory_of_a_shuffle),
		cmocka_unit_test(memory_after_a_while), cmocka_unit_test(depth), cmocka_unit_test(covered_from_afar),
		cmocka_unit_test(without_memory), cmocka_unit_test(readers_and_a_writer),
		cmocka_unit_test(readers_of_nonsense), cmocka_unit_test(the_long_one_lies_back),
		cmocka_unit_test(pool_grows), cmocka_unit_test(pool_reuses), cmocka_unit_test(pool_without_memory),
		cmocka_unit_test(pool_and_threads),
	};

	page = os_page_size();
	return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
