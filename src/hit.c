/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The fast path: find, hold, put. No lock, no allocation.
 *
 * The reader is optimistic: entries never leave their pool, so it may look at one that died or lives
 * again elsewhere. It takes a hold, which succeeds only on a live entry, and only then looks
 * whether this entry serves it:
 *
 *   getter                              event thread / miss
 *   ------------------------------      -----------------------------
 *   finds e by address
 *                                       kills e; e is reaped, and made anew elsewhere
 *   hold: e is LIVE
 *   e's range doesn't cover: let go
 *
 * Why that is exact (I1): the getter has seen, before it looked, that no change is in flight and all told
 * ones are dealt with (switch_check). An entry made before such a change carries DEAD by then, and no
 * hold succeeds on it.
 */
#include <errno.h>

#include "cache.h"

static bool hold(struct entry *e)
{
	uint64_t w = atomic_load_explicit(&e->word, memory_order_relaxed);

	while ((w & (ENTRY_LIVE | ENTRY_DEAD)) == ENTRY_LIVE && (w & HOLD_MASK) != HOLD_MASK)
		if (atomic_compare_exchange_weak_explicit(&e->word, &w, w + HOLD_ONE + HIT_ONE,
							  memory_order_acquire,
							  memory_order_relaxed))
			return true;
	return false;
}

/* A hold that was no use: not a hit either. */
static void unhold(struct hf_cache *c, struct entry *e)
{
	atomic_fetch_sub_explicit(&e->word, HIT_ONE, memory_order_relaxed);
	cache_put(c, e);
}

static struct entry *find_in(struct hf_cache *c, unsigned access, uint64_t start, uint64_t end)
{
	struct entry *e = entry_of(index_find_cover(&c->index[access - 1], start, end));
	uint32_t now;

	if (!e || !hold(e))
		return NULL;
	if (entry_start(e) > start || entry_end(e) < end || e->access != access) {
		unhold(c, e);
		return NULL;
	}
	now = atomic_load_explicit(&c->epoch, memory_order_relaxed);
	if (atomic_load_explicit(&e->stamp, memory_order_relaxed) != now)
		atomic_store_explicit(&e->stamp, now, memory_order_relaxed);
	return e;
}

struct entry *cache_find(struct hf_cache *c, uint64_t start, uint64_t end, unsigned access)
{
	struct entry *e = find_in(c, HF_READWRITE, start, end);

	if (!e && access != HF_READWRITE)
		e = find_in(c, access, start, end);
	return e;
}

int cache_put(struct hf_cache *c, struct entry *e)
{
	uint64_t w = atomic_load_explicit(&e->word, memory_order_relaxed);

	do {
		if (!(w & HOLD_MASK))
			return hf_set_error(-EINVAL, "this registration is not held: put twice?");
	} while (!atomic_compare_exchange_weak_explicit(&e->word, &w, w - HOLD_ONE,
							memory_order_acq_rel,
							memory_order_relaxed));
	if ((w & HOLD_MASK) != HOLD_ONE)
		return 0;
	if (w & ENTRY_SINGLE) {
		e->next = NULL;
		cache_let_go(c, e);
	} else if (w & ENTRY_DEAD) {
		cache_hand_over(c, e);
	} else if (atomic_load_explicit(&c->over, memory_order_relaxed)) {
		sem_post(&c->wake);
	}
	return 0;
}
