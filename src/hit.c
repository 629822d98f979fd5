/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The fast path: find, hold, put. No lock, no allocation, no locked instruction, and no write to a cache line
 * that another thread uses, but for the entry's stamp, once for each miss of the cache.
 *
 * First the thread's own memory of what it found lately, then the index. Both are hints: entries never leave
 * their pool, so a hint may name one that died or lives again elsewhere. The hold decides (hold.h):
 *
 *   getter                              event thread, then reaper
 *   ------------------------------      -----------------------------
 *   finds e by address
 *                                       kills e; e is reaped, and made anew elsewhere
 *   hold = e
 *   word of e is not the one that was
 *   remembered: the index; e's range
 *   doesn't cover: let go
 *
 * Why that is exact (I1): the getter has seen, before it looked, that no change is in flight and all told
 * ones are dealt with (switch_check). An entry made before such a change carries DEAD by then, and no
 * hold of it stands.
 */
#include <errno.h>

#include "provider.h"
#include "thread.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t word_of(const struct entry *e)
{
	return atomic_load_explicit(&e->word, memory_order_acquire);
}

/* Let go, and wake who waits for it. Also of an entry that was never used. */
static inline void release(struct hf_cache *c, struct thread_record *t, struct hold *h, struct entry *e)
{
	hold_clear(h, t);
	if (unlikely(atomic_load_explicit(&e->word, memory_order_relaxed) & ENTRY_DEAD))
		sem_post(&c->wake);
}

static inline struct recent *recent_of(struct thread_record *t, uint64_t addr)
{
	return &t->recent[(addr >> 12) * 0x9e3779b97f4a7c15ull >> 58];
}

_Static_assert(RECENTS == 1 << (64 - 58), "the hash gives an index");

void cache_remember(struct hf_cache *c, struct thread_record *t, const void *addr,
		    const struct hf_region *region)
{
	struct recent *r = recent_of(t, (uint64_t)(uintptr_t)addr);
	const struct hold *h = region->entry;

	if (!(region->flags & HF_REGION_CACHED))
		return;
	r->entry = atomic_load_explicit(&h->entry, memory_order_relaxed);
	r->word = atomic_load_explicit(&r->entry->word, memory_order_relaxed);
	r->region = *region;
	r->region.flags |= HF_REGION_HIT;
	/* It may have died meanwhile, though it is held. A dead word must not be what a hit compares with (I2). */
	r->cache = r->word & ENTRY_DEAD ? 0 : c->number;
}

void cache_unhold(struct hf_cache *c, struct thread_record *t, const void *addr)
{
	struct hold *h = t->holds.free;
	struct entry *e = h ? atomic_load_explicit(&h->entry, memory_order_relaxed) : NULL;

	if (!e)
		return;
	recent_of(t, (uint64_t)(uintptr_t)addr)->cache = 0;
	t->holds.free = h->next;
	release(c, t, h, e);
}

static inline void count_hit(struct hf_cache *c, struct thread_record *t, struct entry *e)
{
	uint32_t now = atomic_load_explicit(&c->epoch, memory_order_relaxed);
	_Atomic uint64_t *n = &t->hits[c->counter];

	if (unlikely(atomic_load_explicit(&e->stamp, memory_order_relaxed) != now))
		atomic_store_explicit(&e->stamp, now, memory_order_relaxed);
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* ------------------------------------------------------------------ by the index */

static bool serves(const struct entry *e, uint64_t start, uint64_t end, unsigned access)
{
	return entry_start(e) <= start && entry_end(e) >= end && e->access == access;
}

static struct hold *find_in(struct hf_cache *c, struct thread_record *t, unsigned access, uint64_t start,
			    uint64_t end)
{
	struct entry *e = entry_of(index_find_cover(&c->index[access - 1], start, end));
	struct hold *h = e ? hold_take(&t->holds, t) : NULL;

	if (!h)
		return NULL;
	hold_set(h, e);
	if ((word_of(e) & (ENTRY_LIVE | ENTRY_DEAD)) == ENTRY_LIVE && serves(e, start, end, access)) {
		count_hit(c, t, e);
		return h;
	}
	release(c, t, h, e);
	return NULL;
}

struct hold *cache_find(struct hf_cache *c, struct thread_record *t, uint64_t start, uint64_t end,
			unsigned access)
{
	struct hold *h = find_in(c, t, HF_READWRITE, start, end);

	return h || access == HF_READWRITE ? h : find_in(c, t, access, start, end);
}

/* ------------------------------------------------------------------ by what the thread remembers */

/* The request lies in what is remembered, which allows the access. Length 0 and access 0 never do. */
static inline bool covers(const struct recent *r, uint64_t addr, size_t len, unsigned access)
{
	uint64_t offset = addr - r->region.addr;

	return offset < r->region.length && len - 1 < r->region.length - offset &&
	       access - 1 < HF_READWRITE && !(access & ~r->region.access);
}

/*
 * The whole of a hit. False: it is none. A hold that didn't stand is still set then, and still in the free list:
 * cache_unhold() is for the slow path, so that this one calls nothing and saves no registers.
 */
static inline __attribute__((always_inline)) bool hit(struct hf_provider *p, struct thread_record *t, uint64_t addr, size_t len,
		       unsigned access, struct hf_region *out)
{
	struct recent *r = recent_of(t, addr);
	struct hold *h = t->holds.free;

	if (unlikely(!h || r->cache != p->cache.number || !covers(r, addr, len, access)))
		return false;
	hold_set(h, r->entry);
	if (unlikely(word_of(r->entry) != r->word))
		return false;
	t->holds.free = h->next;
	count_hit(&p->cache, t, r->entry);
	*out = r->region;
	out->entry = h;
	return true;
}

static inline bool word_is_even(const struct hf_provider *p)
{
	return !(atomic_load_explicit(p->word, memory_order_acquire) & 1);
}

/* With a proxy that has to be asked. When it has answered, the slow path doesn't ask again for the same lookup. */
static __attribute__((noinline)) int get_checked(struct hf_provider *p, const void *addr, size_t len,
						 unsigned access, struct hf_region *out)
{
	bool quiet = switch_check(p->sw) == 0;

	if (quiet && hit(p, thread_self, (uint64_t)(uintptr_t)addr, len, access, out))
		return 0;
	return provider_get(p, addr, len, access, out, !quiet);
}

int hf_get(struct hf_provider *p, const void *addr, size_t len, unsigned access,
	   struct hf_region *out)
{
	struct thread_record *t = thread_self;

	if (unlikely(!p || !t || !out || !atomic_load_explicit(p->alive, memory_order_relaxed)))
		return provider_get(p, addr, len, access, out, true);
	thread_seen(t);
	if (p->must_ask)
		return get_checked(p, addr, len, access, out);
	if (likely(word_is_even(p) && hit(p, t, (uint64_t)(uintptr_t)addr, len, access, out)))
		return 0;
	return provider_get(p, addr, len, access, out, true);
}

int hf_get_unchecked(struct hf_provider *p, const void *addr, size_t len, unsigned access,
		     struct hf_region *out)
{
	struct thread_record *t = thread_self;

	if (likely(p && t && out && atomic_load_explicit(p->alive, memory_order_relaxed))) {
		thread_seen(t);
		if (likely(hit(p, t, (uint64_t)(uintptr_t)addr, len, access, out)))
			return 0;
	}
	return provider_get(p, addr, len, access, out, false);
}

/* ------------------------------------------------------------------ put */

/* Registered for this one use: nobody else can have found it. */
static int put_single(struct hf_cache *c, struct thread_record *t, struct hold *h, struct entry *e)
{
	hold_clear(h, t);
	e->next = NULL;
	cache_let_go(c, e);
	return 0;
}

int hf_put(struct hf_provider *p, struct hf_region *r)
{
	struct thread_record *t = thread_self;
	struct hold *h;
	struct entry *e;

	if (unlikely(!p || !r || r->provider != p || !r->entry ||
		     !atomic_load_explicit(p->alive, memory_order_relaxed)))
		return provider_bad_put(p, r);
	h = r->entry;
	e = atomic_load_explicit(&h->entry, memory_order_relaxed);
	/* A copy of a region that was put may name another hold by now. */
	if (unlikely(!e || entry_start(e) != r->addr))
		return provider_bad_put(p, r);
	r->entry = NULL;
	if (unlikely(atomic_load_explicit(&e->word, memory_order_relaxed) & ENTRY_SINGLE))
		return put_single(&p->cache, t, h, e);
	release(&p->cache, t, h, e);
	if (unlikely(atomic_load_explicit(&p->cache.over, memory_order_relaxed)))
		sem_post(&p->cache.wake);
	return 0;
}
