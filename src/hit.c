/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The fast path: find, hold, put. No lock, no allocation, no locked instruction, and no write to a cache line
 * that another thread uses, but for the entry's stamp, once for each turn of the gate.
 *
 * First what the thread itself remembers, then hints, then the index. All are hints: entries never leave their pool, so
 * a hint may name one that died or lives again elsewhere. The entry's word tells: it is another one in each life.
 * It is looked at before the hold and behind it (hold.h):
 *
 *   getter                              event thread, then reaper
 *   ------------------------------      -----------------------------
 *   finds e by address
 *   word of e: 7, LIVE; e covers
 *                                       kills e; e is reaped, and made anew elsewhere
 *   hold of e
 *   word of e is not 7: let go
 *
 * The gate saves even the look at the word. It is a number of the cache, which turns to one never used
 * before whenever something is no longer as it was: after an entry's word has become DEAD; after the switch's
 * word has become odd; when the clock of the LRU advances. A thread that found all well, notes the gate as it was before it
 * looked, and as long as that is the gate nothing has to be looked at again:
 *
 *   getter                              event thread               reaper
 *   ------------------------------      -----------------------    ------------------
 *   notes the gate: 7
 *   switch's word even; e: LIVE
 *                                       word odd
 *                                       gate = 8
 *   gate is 8, not 7: looks again
 *                                       e: DEAD; gate = 9
 *   hold of e; gate is not what was                                membarrier
 *   noted: let go, and look                                        any hold of e?
 *
 * Were the gate turned before the word becomes DEAD, a getter could note the new one and still find e live.
 *
 * Why it is exact (I1): between the beginning of a get and its answer, no change was in flight that could touch the
 * entry, and all told ones were dealt with (switch_check; for proxies whose word alone tells, the gate). An
 * entry made before such a change carries DEAD by then, and no hold of it stands.
 */
#include <errno.h>
#include <string.h>

#include "cancel.h"
#include "provider.h"
#include "thread.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t word_of(const struct entry *e)
{
	return atomic_load_explicit(&e->word, memory_order_acquire);
}

/* ------------------------------------------------------------------ what a thread remembers */

/* By the provider, the page, and the access. */
static inline struct recent *recent_of(struct thread_record *t, const struct hf_provider *p, uint64_t addr,
				       unsigned access)
{
	uint64_t key = (addr >> 12) + (uintptr_t)p + access;
	struct recent *r = &t->recent[key * 0x9e3779b97f4a7c15ull >> 58];

	__asm__("" : "+r"(r)); /* one register for all of it, or the compiler runs out of them */
	return r;
}

_Static_assert(RECENTS == 1 << (64 - 58), "the hash gives an index");

/* A region's hold may be one of these; then its pointer is odd. */
#define TAG 1u

static inline void *tagged(struct recent *r)
{
	return (char *)r + TAG;
}

static inline bool covers(const struct recent *r, uint64_t addr, size_t len, unsigned access)
{
	uint64_t offset = addr - r->addr;

	return r->asked == access && offset < r->length && len - 1 < r->length - offset;
}

static inline void add_get(struct recent *r, uint64_t n)
{
	uint64_t gets = atomic_load_explicit(&r->gets, memory_order_relaxed);

	atomic_store_explicit(&r->gets, gets + n, memory_order_release);
}

static inline void add_put(struct recent *r)
{
	uint64_t puts = atomic_load_explicit(&r->puts, memory_order_relaxed);

	atomic_store_explicit(&r->puts, puts + 1, memory_order_release);
}

static inline void answer(struct hf_provider *p, struct recent *r, struct hf_region *out)
{
	memcpy(out, &r->addr, offsetof(struct hf_region, flags));
	out->flags = HF_REGION_CACHED | HF_REGION_HIT;
	out->provider = p;
	out->entry = tagged(r);
}

_Static_assert(offsetof(struct hf_region, flags) ==
	       offsetof(struct recent, asked) - offsetof(struct recent, addr), "answer() copies the beginning");

/* Let go. Who waits for it is woken. */
static void wake_if_dead(struct hf_cache *c, const struct entry *e)
{
	hold_fence();
	if (word_of(e) & ENTRY_DEAD)
		cache_wake(c);
}

static void take_back(struct hf_cache *c, struct recent *r)
{
	add_get(r, (uint64_t)-1);
	wake_if_dead(c, atomic_load_explicit(&r->entry, memory_order_relaxed));
}

/* When a look at the gate is not enough; further down. Tail calls: a hit saves no registers. */
static int get_slowly(struct hf_provider *p, const void *addr, size_t len, unsigned access, struct hf_region *out,
		      unsigned quiet);

/* The gate turned while it was being held. */
static __attribute__((noinline)) int get_after_turn(struct hf_provider *p, const void *addr, size_t len,
						    unsigned access, struct hf_region *out, unsigned quiet)
{
	take_back(&p->cache, recent_of(thread_self, p, (uintptr_t)addr, access));
	return get_slowly(p, addr, len, access, out, quiet);
}

/*
 * No change is in flight, for a proxy that says so by two numbers (proxy/kmod.c). Before the gate is looked at for the
 * last time: what was told has turned it before `told` says so. Not in a forked child, where the memory is not
 * there; nor is anything remembered there, so the gate is no match.
 */
static inline bool clocks_agree(const struct hf_cache *c)
{
	return !c->moves || atomic_load_explicit(c->told, memory_order_acquire) ==
			    atomic_load_explicit(c->moves, memory_order_acquire);
}

/* The whole of a hit, as long as the gate doesn't turn. */
static inline __attribute__((always_inline)) int get(struct hf_provider *p, const void *addr, size_t len,
						     unsigned access, struct hf_region *out, unsigned quiet)
{
	struct recent *r = recent_of(thread_self, p, (uintptr_t)addr, access);
	const _Atomic uint64_t *gate;
	uint64_t seen = r->gate;

	if (unlikely(!p || !out))
		return get_slowly(p, addr, len, access, out, quiet);
	gate = quiet ? &p->cache.gate : &p->cache.checked_gate;
	/* Once before, so that it is this cache's; once behind the hold, so that the hold stands. */
	if (unlikely(seen != atomic_load_explicit(gate, memory_order_relaxed) ||
		     !covers(r, (uintptr_t)addr, len, access) || (!quiet && !clocks_agree(&p->cache))))
		return get_slowly(p, addr, len, access, out, quiet);
	add_get(r, 1);
	atomic_signal_fence(memory_order_seq_cst); /* the light half of the fence: hold.h */
	if (unlikely(seen != atomic_load_explicit(gate, memory_order_acquire)))
		return get_after_turn(p, addr, len, access, out, quiet);
	answer(p, r, out);
	return 0;
}

int hf_get(struct hf_provider *p, const void *addr, size_t len, unsigned access,
	   struct hf_region *out)
{
	return get(p, addr, len, access, out, 0);
}

int hf_get_unchecked(struct hf_provider *p, const void *addr, size_t len, unsigned access,
		     struct hf_region *out)
{
	return get(p, addr, len, access, out, PARTS_ALL);
}

/* ------------------------------------------------------------------ when the gate has turned, or a proxy is asked */

static inline void used(struct entry *e, uint64_t gate)
{
	uint32_t now = (uint32_t)gate;

	if (atomic_load_explicit(&e->stamp, memory_order_relaxed) != now)
		atomic_store_explicit(&e->stamp, now, memory_order_relaxed);
}

/*
 * The gate as it was before anything was looked at. Not while changes are being told: an unchecked get may have found
 * what a checked one must not. Not while more is kept than the limits allow, when each put has to look. And never
 * where readers fence themselves.
 */
static inline uint64_t to_note(const struct hf_cache *c, const struct lookup *l, const struct entry *e)
{
	return c->fenced || atomic_load_explicit(&c->over, memory_order_relaxed) ||
	       (l->unchecked && !switch_is_at_rest(c->sw, entry_parts(e))) ? 0 : l->gate;
}

/*
 * Check that no change of e is in flight, and that its range is still the memory that is watched,
 * if the proxy can say so. A proxy that only knows its parts is asked once in a get for each part.
 */
static inline bool quiet(const struct hf_cache *c, struct lookup *l, const struct entry *e)
{
	unsigned parts = entry_parts(e);

	if ((l->quiet & parts) == parts)
		return true;
	if (c->sw->ops.check_range)
		return switch_check_range(c->sw, parts, entry_start(e), entry_end(e)) == 0;
	if (switch_check(c->sw, parts) < 0)
		return false;
	l->quiet |= parts;
	return true;
}

static inline bool find_again(struct hf_provider *p, struct recent *r, struct lookup *l, struct hf_region *out)
{
	struct hf_cache *c = &p->cache;
	struct entry *e;

	if (atomic_load_explicit(&r->cache, memory_order_relaxed) != c->number ||
	    !covers(r, l->addr, l->len, l->access))
		return false;
	e = atomic_load_explicit(&r->entry, memory_order_relaxed);
	if (word_of(e) != r->word || !quiet(c, l, e))
		return false;
	recent_mend(r);
	add_get(r, 1);
	hold_fence();
	if (word_of(e) != r->word) {
		take_back(c, r);
		return false;
	}
	used(e, l->gate);
	r->gate = to_note(c, l, e);
	answer(p, r, out);
	return true;
}

void cache_count_hits(struct thread_record *t, int counter, uint64_t n)
{
	_Atomic uint64_t *hits = &t->hits[counter];

	atomic_store_explicit(hits, atomic_load_explicit(hits, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Nobody holds it, and something else will be remembered here: the hits go to the cache, if that is still open. */
static inline void forget(struct thread_record *t, struct recent *r)
{
	uint64_t cache = atomic_load_explicit(&r->cache, memory_order_relaxed);
	uint64_t hits = recent_hits(r);

	recent_mend(r);
	r->gate = 0;
	atomic_store_explicit(&r->cache, 0, memory_order_relaxed);
	if (!hits)
		return;
	if (cache && cache_has_counter(cache, r->counter))
		cache_count_hits(t, (int)r->counter, hits);
	atomic_store_explicit(&r->counted, atomic_load_explicit(&r->gets, memory_order_relaxed),
			      memory_order_relaxed);
}

/* What is known of a held entry. `word` is what it was before it was looked at. */
static inline void fill(struct recent *r, const struct hf_cache *c, const struct lookup *l, const struct entry *e,
		 uint64_t word)
{
	r->asked = l->access;
	r->addr = entry_start(e);
	r->length = entry_bytes(e);
	r->lkey = e->lkey;
	r->rkey = e->rkey;
	r->access = entry_access(e);
	r->word = word;
	r->counter = (uint32_t)c->counter;
	atomic_store_explicit(&r->cache, c->number, memory_order_relaxed);
}

/* The caller holds e otherwise: the next request like this one finds it without the index. */
void cache_remember(struct hf_provider *p, struct thread_record *t, const struct lookup *l, struct entry *e)
{
	struct hf_cache *c = &p->cache;
	struct recent *r = recent_of(t, p, l->addr, l->access);
	uint64_t word = word_of(e);

	/* It may have died meanwhile, though it is held. A dead word must not be what a hit compares with (I2). */
	if (recent_held(r) || (word & ENTRY_DEAD))
		return;
	forget(t, r);
	fill(r, c, l, e, word);
	atomic_store_explicit(&r->entry, e, memory_order_release);
}

/* ------------------------------------------------------------------ by a hint or the index */

/* It is live and covers the request. */
static inline bool serves(const struct entry *e, uint64_t word, const struct lookup *l)
{
	return (word & (ENTRY_LIVE | ENTRY_DEAD)) == ENTRY_LIVE && entry_start(e) <= l->start &&
	       entry_end(e) >= l->end && (entry_access(e) & l->access) == l->access;
}

/* ... and no change of it is in flight. *word: what it must still be behind a hold, which then stands. */
static inline bool is_candidate(struct hf_cache *c, const struct entry *e, struct lookup *l, uint64_t *word)
{
	*word = e ? word_of(e) : 0;
	if (!e || !serves(e, *word, l))
		return false;
	l->edition = UINT64_MAX; /* there is one, even if it is of no use now */
	/* What was read of it was of this life only if the word is still the same. */
	return quiet(c, l, e);
}

/* What a lookup goes through: what hints name, then what the indexes do. */
struct candidates {
	struct hint_search hints;
	unsigned access; /* of the next index */
	bool by_index;   /* the last one */
};

static inline void candidates_begin(struct candidates *it, const struct hf_cache *c, const struct lookup *l)
{
	hints_search(&c->hints, l->start, &it->hints);
	it->access = HF_READWRITE;
	it->by_index = false;
}

/* The next that is one, or NULL. */
static inline struct entry *candidate(struct candidates *it, struct hf_cache *c, struct lookup *l, uint64_t *word)
{
	struct entry *e;
	uint32_t id;

	while ((id = hints_next(&it->hints)) != HINT_NONE) {
		e = entry_at(c, id);
		if (is_candidate(c, e, l, word))
			return e;
	}
	it->by_index = true;
	while (it->access) {
		unsigned access = it->access;

		it->access = access == l->access ? 0 : l->access;
		e = entry_at(c, index_find_cover(&c->index[access - 1], l->start, l->end));
		if (is_candidate(c, e, l, word))
			return e;
	}
	return NULL;
}

/* What begins there gets its hint back: a larger table begins empty, and full buckets lose some. */
static void note_again(struct hf_cache *c, const struct lookup *l, const struct entry *e)
{
	if (entry_start(e) != l->start || pthread_mutex_trylock(&c->lock) != 0)
		return;
	if (!(word_of(e) & ENTRY_DEAD))
		hints_note(&c->hints, l->start, e->id);
	pthread_mutex_unlock(&c->lock);
}

/* The place in the thread's record becomes e's, with one hold. */
static inline bool take_place(struct hf_cache *c, struct thread_record *t, struct recent *r, const struct lookup *l,
			      struct entry *e, uint64_t word)
{
	forget(t, r);
	atomic_store_explicit(&r->entry, e, memory_order_release);
	add_get(r, 1);
	hold_fence();
	if (unlikely(word_of(e) != word)) {
		take_back(c, r);
		return false;
	}
	fill(r, c, l, e, word);
	used(e, l->gate);
	r->gate = to_note(c, l, e);
	return true;
}

/* Let go, and wake who waits for it. Also of an entry that was never used. */
static void release(struct hf_cache *c, struct thread_record *t, struct hold *h, struct entry *e)
{
	hold_clear(h, t);
	wake_if_dead(c, e);
}

void cache_release(struct hf_cache *c, struct thread_record *t, struct hold *h)
{
	release(c, t, h, atomic_load_explicit(&h->entry, memory_order_relaxed));
}

/* A hold to itself. */
static struct hold *take_hold(struct hf_cache *c, struct thread_record *t, const struct lookup *l, struct entry *e,
			      uint64_t word)
{
	struct hold *h = hold_take(&t->holds, t);

	if (!h)
		return NULL;
	hold_set(h, e);
	if (word_of(e) == word) {
		used(e, l->gate);
		return h;
	}
	release(c, t, h, e);
	return NULL;
}

struct hold *cache_find(struct hf_cache *c, struct thread_record *t, struct lookup *l)
{
	struct candidates it;
	struct hold *h = NULL;
	struct entry *e;
	uint64_t word;

	candidates_begin(&it, c, l);
	while (!h && (e = candidate(&it, c, l, &word)))
		h = take_hold(c, t, l, e, word);
	return h;
}

void cache_answer(struct hf_provider *p, struct hold *h, bool hit, struct hf_region *out)
{
	struct entry *e = atomic_load_explicit(&h->entry, memory_order_relaxed);
	bool single = word_of(e) & ENTRY_SINGLE;

	*out = (struct hf_region){
		.addr = entry_start(e),
		.length = entry_bytes(e),
		.lkey = e->lkey,
		.rkey = e->rkey,
		.access = entry_access(e),
		.flags = (hit ? HF_REGION_HIT : 0) | (single ? 0 : HF_REGION_CACHED),
		.provider = p,
		.entry = h,
	};
}

static inline __attribute__((always_inline)) bool find_new(struct hf_provider *p, struct thread_record *t,
							   struct recent *r, struct lookup *l, struct hf_region *out)
{
	struct hf_cache *c = &p->cache;
	bool placed = !recent_held(r);
	struct candidates it;
	struct hold *h = NULL;
	struct entry *e;
	uint64_t word;

	candidates_begin(&it, c, l);
	do {
		e = candidate(&it, c, l, &word);
	} while (e && !(placed ? take_place(c, t, r, l, e, word) : (h = take_hold(c, t, l, e, word)) != NULL));
	if (!e)
		return false;
	if (likely(placed)) {
		answer(p, r, out);
	} else {
		cache_count_hits(t, c->counter, 1);
		cache_answer(p, h, true, out);
	}
	if (it.by_index)
		note_again(c, l, e);
	return true;
}

bool cache_find_new(struct hf_provider *p, struct thread_record *t, struct lookup *l, struct hf_region *out)
{
	return find_new(p, t, recent_of(t, p, l->addr, l->access), l, out);
}

/* What the checks of the arguments come to, when there is nothing to say about them. */
static inline bool is_plain(const struct hf_provider *p, const struct thread_record *t, const struct lookup *l,
			    const struct hf_region *out)
{
	return p && out && p->cache.caching && l->access - 1 < HF_READWRITE && l->len - 1 < (1ull << 47) &&
	       l->addr < (1ull << 47) && atomic_load_explicit(p->sw->alive, memory_order_relaxed) &&
	       atomic_load_explicit(&t->tid, memory_order_relaxed);
}

static __attribute__((noinline)) int get_slowly(struct hf_provider *p, const void *addr, size_t len,
						unsigned access, struct hf_region *out, unsigned quiet)
{
	struct thread_record *t = thread_self;
	struct lookup l = {
		.addr = (uintptr_t)addr, .len = len, .access = access, .quiet = quiet, .unchecked = quiet != 0,
	};
	struct recent *r;

	if (unlikely(!is_plain(p, t, &l, out)))
		return provider_get(p, &l, out);
	thread_seen(t);
	l.start = l.addr & ~(p->cache.page - 1);
	l.end = (l.addr + len + p->cache.page - 1) & ~(p->cache.page - 1);
	l.gate = atomic_load_explicit(&p->cache.gate, memory_order_acquire);
	l.edition = atomic_load_explicit(&p->cache.edition, memory_order_acquire);
	r = recent_of(t, p, l.addr, access);
	if (find_again(p, r, &l, out) || find_new(p, t, r, &l, out))
		return 0;
	return provider_miss(p, t, &l, out);
}

/* ------------------------------------------------------------------ put */

struct entry *region_entry(const struct hf_region *r)
{
	uintptr_t at = (uintptr_t)r->entry;
	struct recent *recent = (struct recent *)(at - TAG);
	struct hold *hold = (struct hold *)at;

	return atomic_load_explicit(at & TAG ? &recent->entry : &hold->entry, memory_order_relaxed);
}

/* A hold to itself. False: another thread has put a copy of the region just now. */
static bool put_hold(struct hf_cache *c, struct thread_record *t, struct hold *h, struct entry *e)
{
	bool single = word_of(e) & ENTRY_SINGLE;

	if (!hold_clear_once(h, t, e))
		return false;
	/* Registered for this one use: nobody else can have found it. */
	if (single) {
		NOT_CANCELLED;

		cache_let_go(c, entry_push(e, NULL));
	} else {
		wake_if_dead(c, e);
	}
	return true;
}

static bool recent_is_mine(const struct thread_record *t, const struct recent *r)
{
	return (uintptr_t)r - (uintptr_t)t->recent < sizeof(t->recent);
}

/* False: it isn't held. */
static bool put_recent(struct hf_cache *c, struct thread_record *t, struct recent *r, struct entry *e)
{
	if (recent_is_mine(t, r) ? !recent_held(r) : !recent_return(r))
		return false;
	if (recent_is_mine(t, r))
		add_put(r);
	wake_if_dead(c, e);
	return true;
}

static void wake_if_over(struct hf_cache *c)
{
	if (atomic_load_explicit(&c->over, memory_order_relaxed))
		cache_wake(c);
}

static __attribute__((noinline)) int put_after_turn(struct hf_cache *c, struct recent *r)
{
	wake_if_dead(c, atomic_load_explicit(&r->entry, memory_order_relaxed));
	wake_if_over(c);
	return 0;
}

static __attribute__((noinline)) int put_slowly(struct hf_provider *p, struct hf_region *r)
{
	struct thread_record *t = thread_self;
	uintptr_t at = r ? (uintptr_t)r->entry : 0;
	struct recent *recent = (struct recent *)(at - TAG);
	int rc = hf_provider_enter(p);
	struct entry *e;
	bool put;

	if (rc || !at || r->provider != p)
		return provider_bad_put(p, r);
	e = region_entry(r);
	/* A copy of a region that was put may name another hold by now. */
	put = e && entry_start(e) == r->addr &&
	      (at & TAG ? put_recent(&p->cache, t, recent, e) : put_hold(&p->cache, t, (struct hold *)at, e));
	if (!put)
		return provider_bad_put(p, r);
	r->entry = NULL;
	wake_if_over(&p->cache);
	return 0;
}

int hf_put(struct hf_provider *p, struct hf_region *region)
{
	struct thread_record *t = thread_self;
	struct recent *r;

	if (unlikely(!region))
		return put_slowly(p, region);
	r = (struct recent *)((uintptr_t)region->entry - TAG);
	/* What this thread has found again, it has it, and nothing has turned: one more put, and that is all. */
	if (unlikely(!recent_is_mine(t, r) || region->provider != p || region->addr != r->addr || !recent_held(r)))
		return put_slowly(p, region);
	add_put(r);
	region->entry = NULL;
	atomic_signal_fence(memory_order_seq_cst); /* hold.h */
	if (unlikely(r->gate != atomic_load_explicit(&p->cache.gate, memory_order_acquire)))
		return put_after_turn(&p->cache, r);
	return 0;
}
