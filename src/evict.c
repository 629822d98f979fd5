/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Limits (I5): idle entries go, least recently used first; what is held may exceed.
 *
 * A hit must not write to a shared list, so it only leaves the low half of the cache's gate, which turns with each
 * miss, in the entry. Who looks for a victim meets entries that were used since they were put in their place, and moves
 * them to where they belong. Uses between two turns count as simultaneous: then the order is that
 * of registration.
 */
#include "cache.h"

#define SORT_STEPS 64 /* how far a used entry is sorted in; beyond, it keeps that place */

static bool was_used(const struct entry *e)
{
	return atomic_load_explicit(&e->stamp, memory_order_relaxed) != e->place;
}

static void move_up(struct hf_cache *c, struct entry *e)
{
	uint32_t stamp = atomic_load_explicit(&e->stamp, memory_order_relaxed);
	struct entry *at;

	list_remove(c, &c->lru, e);
	e->place = stamp;
	at = list_at(c, c->lru.tail);
	for (int i = 0; i < SORT_STEPS && at && (int32_t)(at->place - stamp) > 0; i++)
		at = list_before(c, at);
	list_insert_after(c, &c->lru, at, e);
}

bool cache_fits(struct hf_cache *c, uint64_t freed, uint64_t bytes, uint64_t count)
{
	return atomic_load(&c->pinned) - freed + bytes <= c->options.max_bytes &&
	       c->live + c->coming + count <= c->options.max_count;
}

/*
 * A census costs more than a victim, and a membarrier more than a census: who makes room makes it for several that
 * will come, up to a 32nd of the cache. Small caches stay exact.
 */
#define BATCH_PART 32
#define BATCH_MAX 64

static uint64_t batch(const struct hf_cache *c)
{
	return c->live / BATCH_PART < BATCH_MAX ? c->live / BATCH_PART : BATCH_MAX;
}

/*
 * What is taken stays counted as pinned until the NIC has let go: `freed` is what will go. A getter that is
 * faster than the census still has its entry: cache_retire() finds out.
 */
uint64_t cache_evict(struct hf_cache *c, uint64_t bytes, uint64_t count, uint64_t least,
		     struct entry **victims)
{
	struct entry *e = list_at(c, c->lru.head);
	uint64_t steps = 2 * c->live;
	uint64_t freed = 0;
	bool moved = false;

	if (!least && cache_fits(c, 0, bytes, count))
		return 0;
	cache_census(c);
	least = least ? least : batch(c);
	while (e && steps-- && (least || !cache_fits(c, freed, bytes, count))) {
		struct entry *next = list_after(c, e);

		if (was_used(e)) {
			move_up(c, e);
			moved = true;
		} else if (e->mark != c->census) {
			cache_kill(c, e);
			freed += entry_bytes(e);
			*victims = entry_push(e, *victims);
			c->evictions++;
			least -= least > 0;
		}
		/* What was moved may now stand before us. */
		if (!next && moved) {
			next = list_at(c, c->lru.head);
			moved = false;
		}
		e = next;
	}
	if (freed)
		cache_turn_gate(c);
	return freed;
}
