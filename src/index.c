/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "index.h"

#include <stddef.h>

#include "os.h"

/* A neighbour with so many free slots takes a part of what a full node has; nodes are merged if as many are left. */
#define SLACK 4

/* A node and the ends of all levels above it are divided, and the root gets one above it. */
#define INSERT_NEEDS (INDEX_LEVELS + 1)

typedef _Atomic uint64_t slot_word;

static inline uint64_t get(const slot_word *w)
{
	return atomic_load_explicit(w, memory_order_relaxed);
}

static inline void set(slot_word *w, uint64_t value)
{
	atomic_store_explicit(w, value, memory_order_relaxed);
}

static inline uint64_t longest(const struct index *ix)
{
	return atomic_load_explicit(&ix->longest, memory_order_relaxed);
}

/* ------------------------------------------------------------------ nodes */

static inline unsigned level_of(const struct node *n)
{
	return atomic_load_explicit(&n->level, memory_order_relaxed);
}

static inline unsigned count_of(const struct node *n)
{
	return atomic_load_explicit(&n->count, memory_order_relaxed);
}

static inline unsigned slots(const struct node *n)
{
	return level_of(n) ? INNER_SLOTS : LEAF_SLOTS;
}

/* Reader: NULL if `ref` was read while it changed and the pool has no memory for it. */
static inline struct node *node_at(const struct index *ix, uint32_t ref)
{
	return pool_at(&ix->nodes->pool, ref);
}

/* Writer: the node of a `ref` that is in the tree. Never NULL: its memory is there. */
static inline struct node *known_node(const struct index *ix, uint32_t ref)
{
	struct node *n = node_at(ix, ref);

	if (!n)
		__builtin_unreachable();
	return n;
}

static inline uint64_t start_of(const struct node *n, unsigned i)
{
	return get(&n->word[i]);
}

/* [pages or child:32][id:32] */
static inline uint64_t rest_of(const struct node *n, unsigned i)
{
	return get(&n->word[slots(n) + i]);
}

static inline uint32_t child_of(const struct node *n, unsigned i)
{
	return (uint32_t)(atomic_load_explicit(&n->word[INNER_SLOTS + i], memory_order_acquire) >> 32);
}

static inline slot_word *child_end(struct node *n, unsigned i)
{
	return &n->word[2 * INNER_SLOTS + i];
}

static inline uint64_t end_of_child(const struct node *n, unsigned i)
{
	return get(&n->word[2 * INNER_SLOTS + i]);
}

static inline uint64_t leaf_end(const struct index *ix, const struct node *n, unsigned i)
{
	return get(&n->word[i]) + (get(&n->word[LEAF_SLOTS + i]) >> 32) * ix->nodes->page;
}

static uint64_t end_of(const struct index *ix, const struct node *n, unsigned i)
{
	return level_of(n) ? end_of_child(n, i) : leaf_end(ix, n, i);
}

static uint64_t max_end(const struct index *ix, const struct node *n)
{
	uint64_t max = 0;

	for (unsigned i = 0; i < count_of(n); i++) {
		uint64_t end = end_of(ix, n, i);

		max = end > max ? end : max;
	}
	return max;
}

/*
 * How many starts are at or before `start`. Nothing is guessed, as a branch would: first which stride it falls in, then
 * how far.
 */
#define LEAF_STRIDE  8
#define INNER_STRIDE 7

_Static_assert((LEAF_SLOTS + 1) % LEAF_STRIDE == 0 && (INNER_SLOTS + 1) % INNER_STRIDE == 0, "the last stride fits");

static inline __attribute__((always_inline)) unsigned count_to(const struct node *n, unsigned of, unsigned stride,
							       uint64_t start)
{
	unsigned from = 0;
	unsigned k = 0;

#pragma GCC unroll 4
	for (unsigned i = stride - 1; i < of; i += stride)
		from += get(&n->word[i]) <= start ? stride : 0;
#pragma GCC unroll 8
	for (unsigned i = 0; i < stride - 1; i++)
		k += get(&n->word[from + i]) <= start;
	return from + k;
}

static inline unsigned count_starts(const struct node *n, uint64_t start)
{
	return level_of(n) ? count_to(n, INNER_SLOTS, INNER_STRIDE, start) :
			     count_to(n, LEAF_SLOTS, LEAF_STRIDE, start);
}

/* How many are at or before (start, id). */
static unsigned rank(const struct node *n, uint64_t start, uint32_t id)
{
	unsigned k = count_starts(n, start);

	while (k && start_of(n, k - 1) == start && (uint32_t)rest_of(n, k - 1) > id)
		k--;
	return k;
}

/* ------------------------------------------------------------------ changing one node, or two neighbours */

struct item {
	uint64_t start, rest, end;
};

static void set_count(struct node *n, unsigned count)
{
	for (unsigned i = count; i < count_of(n); i++)
		set(&n->word[i], UINT64_MAX);
	atomic_store_explicit(&n->count, (uint16_t)count, memory_order_relaxed);
}

static void copy_words(slot_word *to, const slot_word *from, unsigned n)
{
	if (to > from)
		while (n--)
			set(&to[n], get(&from[n]));
	else
		for (unsigned i = 0; i < n; i++)
			set(&to[i], get(&from[i]));
}

/* n slots from f on in `from` to t on in `to`, of the same level; it may be the same node. */
static void copy(struct node *to, unsigned t, const struct node *from, unsigned f, unsigned n)
{
	unsigned cap = slots(to);

	copy_words(&to->word[t], &from->word[f], n);
	copy_words(&to->word[cap + t], &from->word[cap + f], n);
	if (level_of(to))
		copy_words(&to->word[2 * cap + t], &from->word[2 * cap + f], n);
}

static void put(struct node *n, unsigned at, const struct item *it)
{
	unsigned cap = slots(n);

	copy(n, at + 1, n, at, count_of(n) - at);
	if (level_of(n))
		set(child_end(n, at), it->end);
	/* A new child is filled before it can be found. */
	atomic_store_explicit(&n->word[cap + at], it->rest, memory_order_release);
	set(&n->word[at], it->start);
	atomic_store_explicit(&n->count, (uint16_t)(count_of(n) + 1), memory_order_relaxed);
	n->last = (uint16_t)at;
}

static void set_bound(struct node *n, unsigned i, uint64_t start, uint64_t rest)
{
	uint32_t child = child_of(n, i);

	set(&n->word[i], start);
	set(&n->word[INNER_SLOTS + i], (uint64_t)child << 32 | (uint32_t)rest);
}

static void take(struct node *n, unsigned at)
{
	copy(n, at, n, at + 1, count_of(n) - at - 1);
	set_count(n, count_of(n) - 1);
	if (!at && level_of(n) && count_of(n))
		set_bound(n, 0, 0, 0);
}

/* The bound of child i moves down into it before anything is put to the left of its own child 0. */
static void bound_down(struct node *n, unsigned i, struct node *child)
{
	if (level_of(child))
		set_bound(child, 0, start_of(n, i), rest_of(n, i));
}

/* ... and what is the least in it now is the bound. */
static void bound_up(struct node *n, unsigned i, struct node *child)
{
	set_bound(n, i, start_of(child, 0), rest_of(child, 0));
	if (level_of(child))
		set_bound(child, 0, 0, 0);
}

/* Between neighbours: `left` is to have `want`. */
static void shift(struct node *left, struct node *right, unsigned want)
{
	unsigned l = count_of(left), r = count_of(right);

	if (want < l) {
		copy(right, l - want, right, 0, r);
		copy(right, 0, left, want, l - want);
		atomic_store_explicit(&right->count, (uint16_t)(r + l - want), memory_order_relaxed);
		set_count(left, want);
	} else if (want > l) {
		copy(left, l, right, 0, want - l);
		atomic_store_explicit(&left->count, (uint16_t)want, memory_order_relaxed);
		copy(right, 0, right, want - l, r + l - want);
		set_count(right, r + l - want);
	}
}

/* ------------------------------------------------------------------ the way down */

/* On each level, 0 the leaf: the node, and the slot of its child on the next level, or where the range goes. */
struct step {
	struct node *node;
	unsigned slot;
};

/* The level of the root. */
static unsigned descend(const struct index *ix, uint64_t start, uint32_t id, struct step *at)
{
	uint32_t ref = atomic_load_explicit(&ix->root, memory_order_relaxed);
	unsigned top = level_of(known_node(ix, ref));

	for (unsigned l = top; l; l--) {
		struct node *n = known_node(ix, ref);
		unsigned i = rank(n, start, id) - 1;

		at[l] = (struct step){ n, i };
		ref = child_of(n, i);
	}
	at[0].node = known_node(ix, ref);
	at[0].slot = rank(at[0].node, start, id);
	return top;
}

static void set_root(struct index *ix, uint32_t ref)
{
	atomic_store_explicit(&ix->root, ref, memory_order_release);
}

static struct node *child_at(const struct index *ix, const struct node *n, unsigned i)
{
	return known_node(ix, child_of(n, i));
}

static void refresh(const struct index *ix, struct node *n, unsigned i)
{
	set(child_end(n, i), max_end(ix, child_at(ix, n, i)));
}

/* ------------------------------------------------------------------ insert */

static struct node *new_node(struct index *ix, unsigned level, uint32_t *ref)
{
	struct node *n = pool_get(&ix->nodes->pool, ref);

	atomic_store_explicit(&n->level, level, memory_order_relaxed);
	atomic_store_explicit(&n->count, LEAF_SLOTS, memory_order_relaxed);
	set_count(n, 0);
	n->last = 0;
	return n;
}

static unsigned grow(struct index *ix, struct step *at, unsigned top)
{
	uint32_t old = atomic_load_explicit(&ix->root, memory_order_relaxed);
	struct item it = { 0, (uint64_t)old << 32, max_end(ix, at[top].node) };
	uint32_t ref;

	at[top + 1] = (struct step){ new_node(ix, top + 1, &ref), 0 };
	put(at[top + 1].node, 0, &it);
	set_root(ix, ref);
	return top + 1;
}

/* Children i and i + 1 share what they have and the item, which belongs at `at` of the two together. */
static void share(const struct index *ix, struct node *n, unsigned i, unsigned at, const struct item *it)
{
	struct node *left = child_at(ix, n, i), *right = child_at(ix, n, i + 1);
	unsigned want = (count_of(left) + count_of(right)) / 2;

	/* Between the two, as the next of an ascending or descending run: nothing has to move. */
	if (at == count_of(left))
		want = at;
	bound_down(n, i + 1, right);
	shift(left, right, want);
	if (at < want || (at == want && want < slots(left)))
		put(left, at, it);
	else
		put(right, at - want, it);
	bound_up(n, i + 1, right);
	refresh(ix, n, i);
	refresh(ix, n, i + 1);
}

/* A full node's neighbour under the same parent may have room. */
static bool find_room(const struct index *ix, const struct step *s, const struct step *up,
		      const struct item *it)
{
	unsigned cap = slots(s->node), i = up->slot;
	unsigned right = i + 1 < count_of(up->node) ? count_of(child_at(ix, up->node, i + 1)) : cap;
	unsigned left = i ? count_of(child_at(ix, up->node, i - 1)) : cap;

	if (right <= cap - SLACK || (right < cap && s->slot == cap))
		share(ix, up->node, i, s->slot, it);
	else if (left <= cap - SLACK || (left < cap && !s->slot))
		share(ix, up->node, i - 1, left + s->slot, it);
	else
		return false;
	return true;
}

/*
 * Divide a full node; the item goes where it belongs, and becomes what the parent gets. In the middle, but when
 * it continues a run, ascending or descending, right there: so runs leave full nodes behind.
 */
static void split(struct index *ix, struct step *s, struct step *up, struct item *it)
{
	struct node *left = s->node, *right;
	unsigned cap = slots(left), at = s->slot;
	bool down = at == left->last;
	unsigned want = down || at == left->last + 1u ? at : cap / 2;
	uint32_t ref;

	right = new_node(ix, level_of(left), &ref);
	shift(left, right, want);
	if (at > want || want == cap || (at == want && down && at))
		put(right, at - want, it);
	else
		put(left, at, it);
	*it = (struct item){ start_of(right, 0), (uint64_t)ref << 32 | (uint32_t)rest_of(right, 0),
			     max_end(ix, right) };
	if (level_of(right))
		set_bound(right, 0, 0, 0);
	refresh(ix, up->node, up->slot);
	up->slot++;
}

/* May anything begin in [start, end)? By what lies next to where the range goes. */
static bool begins_inside(const struct step *at, unsigned top, uint64_t start, uint64_t end)
{
	/* The one before it may begin at the same address; and may be in a leaf that we haven't seen. */
	for (unsigned l = 0; l <= top; l++)
		if (at[l].slot) {
			if (l || start_of(at[0].node, at[0].slot - 1) == start)
				return true;
			break;
		}
	for (unsigned l = 0; l <= top; l++) {
		unsigned next = at[l].slot + (l > 0);

		if (next < count_of(at[l].node))
			return start_of(at[l].node, next) < end;
	}
	return false;
}

bool index_insert(struct index *ix, uint64_t start, uint64_t end, uint32_t id)
{
	struct item it = { start, (end - start) / ix->nodes->page << 32 | id, end };
	struct step at[INDEX_LEVELS];
	unsigned top, l;
	uint32_t ref;
	bool inside;

	if (atomic_load_explicit(&ix->root, memory_order_relaxed) == INDEX_NONE) {
		new_node(ix, 0, &ref);
		set_root(ix, ref);
	}
	if (end - start > longest(ix))
		atomic_store_explicit(&ix->longest, end - start, memory_order_relaxed);
	top = descend(ix, start, id, at);
	inside = begins_inside(at, top, start, end);
	for (l = 1; l <= top; l++)
		if (get(child_end(at[l].node, at[l].slot)) < end)
			set(child_end(at[l].node, at[l].slot), end);
	for (l = 0; count_of(at[l].node) == slots(at[l].node); l++) {
		if (l == top)
			top = grow(ix, at, top);
		else if (find_room(ix, &at[l], &at[l + 1], &it))
			return inside;
		split(ix, &at[l], &at[l + 1], &it);
	}
	put(at[l].node, at[l].slot, &it);
	return inside;
}

/* ------------------------------------------------------------------ remove */

static void drop(struct index *ix, struct node *n, unsigned i)
{
	uint32_t ref = child_of(n, i);

	take(n, i);
	pool_put(&ix->nodes->pool, ref);
}

/* Children i and i + 1 become one, if that leaves it some room. */
static bool merge(struct index *ix, struct node *n, unsigned i)
{
	struct node *left = child_at(ix, n, i), *right = child_at(ix, n, i + 1);
	unsigned both = count_of(left) + count_of(right);

	if (both > slots(left) - SLACK)
		return false;
	bound_down(n, i + 1, right);
	shift(left, right, both);
	if (get(child_end(n, i)) < get(child_end(n, i + 1)))
		set(child_end(n, i), get(child_end(n, i + 1)));
	drop(ix, n, i + 1);
	return true;
}

/* Below child i a range that ended at `end` was removed. */
static void shrink(struct index *ix, struct node *n, unsigned i, uint64_t end)
{
	struct node *child = child_at(ix, n, i);

	if (!count_of(child)) {
		drop(ix, n, i);
		return;
	}
	if (get(child_end(n, i)) == end)
		refresh(ix, n, i);
	if (count_of(child) >= slots(child) / 2 || (i && merge(ix, n, i - 1)))
		return;
	if (i + 1 < count_of(n))
		merge(ix, n, i);
}

/* A root that is empty, or has one child only. */
static void lower(struct index *ix)
{
	uint32_t ref = atomic_load_explicit(&ix->root, memory_order_relaxed);
	struct node *n = known_node(ix, ref);

	while (!count_of(n) || (level_of(n) && count_of(n) == 1)) {
		uint32_t next = count_of(n) ? child_of(n, 0) : INDEX_NONE;

		set_root(ix, next);
		pool_put(&ix->nodes->pool, ref);
		if (next == INDEX_NONE) {
			atomic_store_explicit(&ix->longest, 0, memory_order_relaxed);
			return;
		}
		ref = next;
		n = known_node(ix, ref);
	}
}

bool index_remove(struct index *ix, uint64_t start, uint32_t id)
{
	struct step at[INDEX_LEVELS];
	unsigned top, i;
	uint64_t end;

	if (atomic_load_explicit(&ix->root, memory_order_relaxed) == INDEX_NONE)
		return false;
	top = descend(ix, start, id, at);
	i = at[0].slot - 1;
	if (!at[0].slot || start_of(at[0].node, i) != start || (uint32_t)rest_of(at[0].node, i) != id)
		return false;
	end = leaf_end(ix, at[0].node, i);
	take(at[0].node, i);
	for (unsigned l = 1; l <= top; l++)
		shrink(ix, at[l].node, at[l].slot, end);
	lower(ix);
	return true;
}

/* ------------------------------------------------------------------ find: no lock, nothing is certain */

/* A node that is of another level by now, or was never used: the reader's way is lost. */
static inline const struct node *enter(const struct index *ix, uint32_t ref, unsigned level)
{
	const struct node *n = node_at(ix, ref);

	return n && level_of(n) == level ? n : NULL;
}

/* All begin early enough: the last of those that end at `end` or after it. */
static uint32_t last_that_reaches(const struct index *ix, uint32_t ref, unsigned level, uint64_t end)
{
	for (;; level--) {
		const struct node *n = enter(ix, ref, level);
		unsigned i = n ? count_of(n) : 0;

		if (!n || i > (level ? INNER_SLOTS : LEAF_SLOTS))
			return INDEX_NONE;
		if (!level) {
			while (i--)
				if (leaf_end(ix, n, i) >= end)
					return (uint32_t)get(&n->word[LEAF_SLOTS + i]);
			return INDEX_NONE;
		}
		do {
			if (!i--)
				return INDEX_NONE;
		} while (end_of_child(n, i) < end);
		ref = child_of(n, i);
	}
}

/* What begins at `start` or before it is too short to reach `end`. */
static inline bool too_early(const struct index *ix, uint64_t start, uint64_t end)
{
	return start < end && end - start > longest(ix);
}

struct reader_step {
	const struct node *node;
	unsigned slot;
};

/* Nothing on the way down covers it: what begins before that way may. From level l up. */
static uint32_t go_back(const struct index *ix, const struct reader_step *way, unsigned l, unsigned top,
			uint64_t end)
{
	for (; l <= top; l++) {
		const struct node *n = way[l].node;

		/* (The first child's bound is written as 0.) */
		if (way[l].slot && too_early(ix, start_of(n, way[l].slot), end))
			break;
		for (unsigned i = way[l].slot; i--;)
			if (end_of_child(n, i) >= end)
				return last_that_reaches(ix, child_of(n, i), l - 1, end);
	}
	return INDEX_NONE;
}

uint32_t index_find_cover(const struct index *ix, uint64_t start, uint64_t end)
{
	uint32_t ref = atomic_load_explicit(&ix->root, memory_order_acquire);
	const struct node *n = ref == INDEX_NONE ? NULL : node_at(ix, ref);
	unsigned top = n ? level_of(n) : INDEX_LEVELS;
	struct reader_step way[INDEX_LEVELS];

	if (top >= INDEX_LEVELS)
		return INDEX_NONE;
	for (unsigned l = top; l; l--) {
		unsigned i = count_to(n, INNER_SLOTS, INNER_STRIDE, start);

		if (!i--)
			return INDEX_NONE;
		way[l] = (struct reader_step){ n, i };
		if (end_of_child(n, i) < end)
			return go_back(ix, way, l, top, end);
		n = enter(ix, child_of(n, i), l - 1);
		if (!n)
			return INDEX_NONE;
	}
	for (unsigned i = count_to(n, LEAF_SLOTS, LEAF_STRIDE, start); i--;) {
		if (leaf_end(ix, n, i) >= end)
			return (uint32_t)get(&n->word[LEAF_SLOTS + i]);
		if (too_early(ix, start_of(n, i), end))
			return INDEX_NONE;
	}
	return go_back(ix, way, 1, top, end);
}

/* ------------------------------------------------------------------ find all, under the lock */

struct query {
	uint64_t start, end;
	bool inside; /* wholly, instead of touching */
	unsigned n, max;
	uint32_t *out;
	void (*each)(uint32_t id, void *arg); /* instead of `out` */
	void *arg;
};

static bool matches(const struct query *q, uint64_t start, uint64_t end)
{
	return q->inside ? start >= q->start && end <= q->end : start < q->end && end > q->start;
}

/* What begins before q->start isn't inside; and what begins long before it doesn't reach it. */
static unsigned first_slot(const struct index *ix, const struct node *n, const struct query *q)
{
	uint64_t before = q->inside ? 1 : longest(ix);

	return q->start >= before ? count_starts(n, q->start - before) : 0;
}

static void visit_leaf(const struct index *ix, const struct node *n, struct query *q)
{
	for (unsigned i = first_slot(ix, n, q); i < count_of(n) && q->n < q->max && start_of(n, i) < q->end; i++) {
		uint32_t id = (uint32_t)rest_of(n, i);

		if (!matches(q, start_of(n, i), leaf_end(ix, n, i)))
			continue;
		if (q->each)
			q->each(id, q->arg);
		else
			q->out[q->n++] = id;
	}
}

static void visit(const struct index *ix, uint32_t ref, struct query *q)
{
	const struct node *n = known_node(ix, ref);
	unsigned i;

	if (!level_of(n)) {
		visit_leaf(ix, n, q);
		return;
	}
	i = first_slot(ix, n, q);
	for (i -= i > 0; i < count_of(n) && q->n < q->max && start_of(n, i) < q->end; i++)
		if (end_of_child(n, i) > q->start)
			visit(ix, child_of(n, i), q);
}

static unsigned find(const struct index *ix, struct query *q)
{
	uint32_t root = atomic_load_explicit(&ix->root, memory_order_relaxed);

	if (root != INDEX_NONE)
		visit(ix, root, q);
	return q->n;
}

unsigned index_find_touching(const struct index *ix, uint64_t start, uint64_t end, uint32_t *out,
			     unsigned max)
{
	return find(ix, &(struct query){ .start = start, .end = end, .out = out, .max = max });
}

unsigned index_find_inside(const struct index *ix, uint64_t start, uint64_t end, uint32_t *out,
			   unsigned max)
{
	return find(ix, &(struct query){ .start = start, .end = end, .inside = true, .out = out, .max = max });
}

void index_each_touching(const struct index *ix, uint64_t start, uint64_t end,
			 void (*each)(uint32_t id, void *arg), void *arg)
{
	find(ix, &(struct query){ .start = start, .end = end, .max = 1, .each = each, .arg = arg });
}

/* ------------------------------------------------------------------ life */

void index_nodes_init(struct index_nodes *nodes)
{
	pool_init(&nodes->pool, sizeof(struct node), 0);
	nodes->page = os_page_size();
}

void index_nodes_destroy(struct index_nodes *nodes)
{
	pool_destroy(&nodes->pool);
}

bool index_has_room(const struct index_nodes *nodes)
{
	return pool_room(&nodes->pool) >= INSERT_NEEDS;
}

int index_reserve(struct index_nodes *nodes, pthread_mutex_t *lock)
{
	return pool_reserve(&nodes->pool, INSERT_NEEDS, lock);
}

void index_init(struct index *ix, struct index_nodes *nodes)
{
	ix->nodes = nodes;
	atomic_init(&ix->root, INDEX_NONE);
	atomic_init(&ix->longest, 0);
}

/* ------------------------------------------------------------------ for tests */

struct key {
	uint64_t start;
	uint32_t id;
};

static bool before(struct key a, struct key b)
{
	return a.start != b.start ? a.start < b.start : a.id < b.id;
}

static struct key key_at(const struct node *n, unsigned i)
{
	return (struct key){ start_of(n, i), (uint32_t)rest_of(n, i) };
}

/* In order, and what is unused says so. */
static bool slots_hold(const struct node *n)
{
	unsigned count = count_of(n);

	if (!count || count > slots(n))
		return false;
	for (unsigned i = 1; i < count; i++)
		if (!before(key_at(n, i - 1), key_at(n, i)))
			return false;
	for (unsigned i = count; i < slots(n); i++)
		if (start_of(n, i) != UINT64_MAX)
			return false;
	return true;
}

/* Ranges in the subtree, all in [lo, hi), or -1. */
static int64_t count_valid(const struct index *ix, uint32_t ref, unsigned level, struct key lo, struct key hi)
{
	const struct node *n = ref < ix->nodes->pool.made ? enter(ix, ref, level) : NULL;
	int64_t sum = 0;

	if (!n || !slots_hold(n))
		return -1;
	if (!level) {
		bool within = !before(key_at(n, 0), lo) && before(key_at(n, count_of(n) - 1), hi);

		return within ? (int64_t)count_of(n) : -1;
	}
	if (key_at(n, 0).start || key_at(n, 0).id)
		return -1;
	for (unsigned i = 0; i < count_of(n); i++) {
		struct key from = i ? key_at(n, i) : lo;
		struct key to = i + 1 < count_of(n) ? key_at(n, i + 1) : hi;
		int64_t k = before(from, lo) || before(hi, to) ? -1 :
			    count_valid(ix, child_of(n, i), level - 1, from, to);

		if (k < 0 || end_of(ix, n, i) != max_end(ix, child_at(ix, n, i)))
			return -1;
		sum += k;
	}
	return sum;
}

int64_t index_is_valid(const struct index *ix)
{
	uint32_t root = atomic_load_explicit(&ix->root, memory_order_relaxed);
	unsigned top;

	if (root == INDEX_NONE)
		return 0;
	top = level_of(known_node(ix, root));
	if (top >= INDEX_LEVELS || (top && count_of(known_node(ix, root)) == 1))
		return -1;
	return count_valid(ix, root, top, (struct key){ 0, 0 }, (struct key){ UINT64_MAX, UINT32_MAX });
}
