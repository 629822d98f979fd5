/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The index: ranges of whole pages, ordered by address, which may overlap and be equal, each with the id of what it
 * belongs to: the index of an object in its owner's pool.
 *
 * A B+tree with the greatest end of each subtree, so that one descent finds a range that covers a request (a
 * sub-range hit costs what an exact one does). Few large nodes instead of many small ones: what a search waits
 * for is memory, and the lines of one node are fetched at the same time.
 *
 * One writer at a time, under the owner's lock. Readers take no lock: nodes lie in a pool that is never given back, so
 * a reader that meets a change may miss a range, or get a wrong id, but never leaves the pool and always
 * ends. A reader therefore proves what it found (hit.c: hold it, then look at it), and a miss is looked up
 * again under the lock before anything is registered.
 *
 * To insert takes nodes, and the lock must not be held across an allocation: the owner reserves beforehand.
 */
#ifndef HF_INDEX_H
#define HF_INDEX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

#define INDEX_NONE UINT32_MAX
#define INDEX_LEVELS 16 /* more than 2^32 ranges can fill, however few the nodes hold */
#define INDEX_MAX_PAGES UINT32_MAX

#define LEAF_SLOTS 31
#define INNER_SLOTS 20

/*
 * A leaf has two words for each range: all starts, then all [pages:32][id:32]. An inner node has three for each
 * child: the start of the least range that may be in it; [child:32] and that range's [id:32]; the greatest end.
 * Child 0 has no such bound, 0 stands for it. Unused starts are UINT64_MAX: a search counts without asking how many.
 */
struct node {
	uint64_t free;           /* the pool's */
	_Atomic uint32_t level;  /* 0: a leaf */
	_Atomic uint16_t count;
	uint16_t last;           /* where the last one was put; writer */
	_Atomic uint64_t word[2 * LEAF_SLOTS];
};

_Static_assert(sizeof(struct node) == 512, "eight cache lines");

/* Several indexes under one lock share their nodes. */
struct index_nodes {
	struct pool pool;
	uint64_t page;
};

struct index {
	struct index_nodes *nodes;
	_Atomic uint32_t root;
	_Atomic uint64_t longest; /* bytes: nothing that is in is longer; what begins so far before a search is of no use */
};

void index_nodes_init(struct index_nodes *nodes);
void index_nodes_destroy(struct index_nodes *nodes);
/* One range can be inserted. Under the owner's lock. */
bool index_has_room(const struct index_nodes *nodes);
/* ... make it so; `lock` is the owner's and not held: pool_reserve(). 0 or -ENOMEM. */
int index_reserve(struct index_nodes *nodes, pthread_mutex_t *lock);

void index_init(struct index *ix, struct index_nodes *nodes);

/*
 * Writer. Whole pages, at most INDEX_MAX_PAGES; no other range has both this start and this id; there is room.
 * False: certainly no other range begins in [start, end).
 */
bool index_insert(struct index *ix, uint64_t start, uint64_t end, uint32_t id);
/* Writer: false when there is none such. Allocates nothing. */
bool index_remove(struct index *ix, uint64_t start, uint32_t id);

/* Reader, no lock: the id of a range that seems to cover [start, end), or INDEX_NONE. */
uint32_t index_find_cover(const struct index *ix, uint64_t start, uint64_t end);

/*
 * Writer: the ids of up to `max` ranges that intersect [start, end), in address order. Returns how many. The caller
 * removes them and asks again when it got `max`.
 */
unsigned index_find_touching(const struct index *ix, uint64_t start, uint64_t end, uint32_t *out,
			     unsigned max);
/* Writer: likewise those that lie wholly inside. Looks at all that begin inside. */
unsigned index_find_inside(const struct index *ix, uint64_t start, uint64_t end, uint32_t *out,
			   unsigned max);

/* Writer: every range that intersects [start, end), in address order. `each` leaves the index as it is. */
void index_each_touching(const struct index *ix, uint64_t start, uint64_t end,
			 void (*each)(uint32_t id, void *arg), void *arg);

/* Order, bounds, greatest ends, counts and levels hold everywhere; how many ranges. For tests: -1 when not. */
int64_t index_is_valid(const struct index *ix);

#endif
