/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The index: ranges ordered by address, which may overlap, with the greatest end of each subtree,
 * so that one descent finds a range that covers a request (a sub-range hit costs what an exact one does).
 *
 * A treap. One writer at a time, under the owner's lock. Readers take no lock: nodes lie in a pool that is
 * never given back, so a reader that meets a rotation may miss a node, or meet one that has left, but never
 * leaves the pool and always ends. A reader therefore proves what it found (hit.c: hold it, then
 * look again), and a miss is looked up again under the lock before anything is registered.
 */
#ifndef HF_INDEX_H
#define HF_INDEX_H

#include <stdatomic.h>
#include <stdint.h>

struct node {
	_Atomic uint64_t start;   /* [start, end) */
	_Atomic uint64_t end;
	_Atomic uint64_t max_end; /* of the subtree */
	struct node *_Atomic left;
	struct node *_Atomic right;
	uint32_t priority;
	uint32_t owner;           /* the owner's own; padding otherwise */
};

struct index {
	struct node *_Atomic root;
	uint64_t random;
};

static inline uint64_t node_start(const struct node *n)
{
	return atomic_load_explicit(&n->start, memory_order_relaxed);
}

static inline uint64_t node_end(const struct node *n)
{
	return atomic_load_explicit(&n->end, memory_order_relaxed);
}

static inline void node_set(struct node *n, uint64_t start, uint64_t end)
{
	atomic_store_explicit(&n->start, start, memory_order_relaxed);
	atomic_store_explicit(&n->end, end, memory_order_relaxed);
}

/* Writer. The node's range is set and stays while it is in. */
void index_insert(struct index *ix, struct node *n);
void index_remove(struct index *ix, struct node *n);

/* Reader, no lock: a node that seems to cover [start, end), or NULL. */
struct node *index_find_cover(const struct index *ix, uint64_t start, uint64_t end);

/*
 * Writer: up to `max` nodes that intersect [start, end), in address order. Returns how many. The caller removes
 * them and asks again when it got `max`.
 */
unsigned index_find_touching(const struct index *ix, uint64_t start, uint64_t end,
			     struct node **out, unsigned max);
/* Writer: likewise those that lie wholly inside. */
unsigned index_find_inside(const struct index *ix, uint64_t start, uint64_t end, struct node **out,
			   unsigned max);

/* Writer: every node that intersects [start, end), in address order. `each` leaves the index as it is. */
void index_each_touching(const struct index *ix, uint64_t start, uint64_t end,
			 void (*each)(struct node *n, void *arg), void *arg);

/* Order, heap and max_end hold everywhere; how many nodes. For tests and debug builds: -1 when not. */
int64_t index_is_valid(const struct index *ix);

#endif
