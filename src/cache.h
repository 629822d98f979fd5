/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The registration cache of one provider. Read in this order: hit.c (find, hold, put), miss.c (arm, register,
 * publish), drop.c (what changed goes), evict.c (limits), reaper.c (the NIC lets go), and here the entry that they
 * share.
 *
 * An entry's life:
 *
 *   free ─► pending ─► live ─────────────────► dead ─► (no holder) ─► reaped ─► free
 *              │ changed while registering        ▲
 *              ├──────────► registered again      │ changed, evicted, superseded
 *              └─► single: not cached; dead from the start, its put deregisters
 *
 * `word` is that state, and which life it is:  [generation:56][flags:8]. It is written under the lock only. Who holds
 * an entry is not in it: each thread writes its holds in memory of its own (hold.h).
 *
 * Locks: `lock` guards the index, the lists, the words and the accounting. It is held for short, never across a
 * NIC call, an mm system call or an allocation, and not at all on a hit; the event thread only tries it.
 * `reap_lock` serialises those who deregister (reaper, flush, a get that needs room); it may be held
 * across NIC calls, and neither a hit nor the event thread ever takes it. Order: reap_lock, lock.
 */
#ifndef HF_CACHE_H
#define HF_CACHE_H

#include <assert.h>
#include <holdfast/backend.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "hint.h"
#include "hold.h"
#include "index.h"
#include "options.h"
#include "os.h"
#include "pool.h"

#define ENTRY_LIVE   1ull /* published, may be hit */
#define ENTRY_DEAD   2ull /* gets no more holders */
#define ENTRY_SINGLE 4ull /* registered, used, let go: never published */
#define ENTRY_STUCK  8ull /* dead, and the NIC would not let go: never freed */
#define FLAGS        0xffull
#define GENERATION   (1ull << 8)

/* All that a lookup reads is one cache line. */
struct entry {
	uint32_t next;           /* 1 + the next one's id, in the free, reap or victim list; whoever owns it */
	uint32_t id;             /* its own place in the pool, in all its lives */
	_Atomic uint64_t word;
	_Atomic uint64_t start, end; /* in index[access - 1] while live, under `id` */
	uint64_t lkey, rkey;     /* set before it is published, constant while somebody holds it */
	_Atomic uint32_t stamp;  /* the cache's gate, the low half, at the last use */
	uint32_t place;          /* the stamp by which it has its place in lru; lock */
	uint32_t mark;           /* the last census that found a holder; lock */
	_Atomic uint8_t access;  /* set before it is published */
	_Atomic uint8_t parts;   /* of the sink, by which its changes are told; likewise */
	bool changed;            /* pending: memory changed meanwhile; dead: so it died, and no scan has seen it; lock */
	_Atomic bool watched;    /* secure() has said so, and watch_id is to be unsecured; pending: before the NIC pins */
} __attribute__((aligned(64)));

/* What isn't looked up: see entry_side(). */
struct entry_side {
	uint64_t nic_priv;
	uint64_t watch_id;
	uint32_t prev_in, next_in; /* 1 + id; in lru (live) or pending; lock */
};

_Static_assert(sizeof(struct entry) == 64, "one line");
_Static_assert(sizeof(struct entry) + sizeof(struct entry_side) <= 88,
	       "the index adds 17 to 26, and a hint 6 to 12: 128 bytes per region are promised");

struct list {
	uint32_t head, tail; /* 1 + id */
};

struct hf_provider;
struct hf_switch;
struct thread_record;

/* What a thread asks for: hit.c, miss.c. */
struct lookup {
	uint64_t addr;
	size_t len;
	unsigned access;
	uint64_t start, end; /* the pages */
	uint64_t gate;       /* before anything was looked at */
	uint64_t edition;    /* of the index, before it was looked at; none: UINT64_MAX */
	bool unchecked;      /* hf_get_unchecked() */
	unsigned quiet;      /* parts of which it was seen, since the get began, that no change is in flight */
};

#define CACHE_AT_ONCE 1024u /* entries that are handled in one hold of the lock */

#define GATE_CLOSED 1ull /* no entry is ever noted under it */

struct hf_cache {
	/* All that a hit reads: on a line that is written when something changes, and else is everybody's. */
	_Atomic uint64_t gate;         /* turns to a new number whenever something is no longer as it was */
	_Atomic uint64_t checked_gate; /* the same; closed where the proxy must be asked for each get */
	const _Atomic uint64_t *moves, *told; /* by which it can be asked here (backend.h, clocks); NULL, NULL */
	char rest_of_the_line[32];

	const struct hf_nic_ops *ops;
	void *nic;
	struct hf_switch *sw;
	struct options options;
	uint64_t page;           /* bytes */
	bool caching;            /* false: every registration is single */
	bool fenced;             /* readers fence themselves: hold.h; nothing is noted under the gate */
	uint64_t number;         /* of all caches ever opened in this process: what `struct recent` knows it by */
	int counter;             /* index of its hits in the threads' records */

	struct hints hints;      /* which entry begins at a page; written under lock, read without */
	struct index index[3];   /* by access - 1; likewise */
	_Atomic uint64_t edition; /* of these, counted when a change of them is complete; lock */
	struct index_nodes nodes;

	pthread_mutex_t lock;
	struct pool pool;
	struct list lru;         /* live, least recently used first */
	struct list pending;
	uint64_t coming;         /* how many those are; lock */
	uint64_t live;
	_Atomic unsigned parts;  /* in which anything was ever armed: miss.c, note_parts() */
	_Atomic uint32_t pending_done; /* futex: a pending one was resolved */
	bool growing;            /* somebody maps a larger table of hints; lock */
	uint32_t waiters;        /* threads that wait for that; lock */

	_Atomic uint64_t gone;   /* counts those that the NIC has let go */
	_Atomic uint64_t pinned; /* bytes registered with the NIC, or about to be */
	_Atomic bool over;       /* more is kept than the limits allow: idle ones go at their put */

	struct entry *_Atomic reap; /* dead: a stack that anybody pushes to */
	struct entry *waiting;   /* dead, and held when last looked at; reap_lock */
	pthread_mutex_t reap_lock;
	uint32_t census;         /* the latest; lock */
	sem_t wake;
	_Atomic bool wake_pending; /* posted, and the reaper has not begun to work since */
	struct os_thread reaper;
	_Atomic bool stop;

	/* counters (lock); hits are in the threads' records, and these are what was there before us */
	uint64_t hits_before, misses, uncached, evictions, superseded, invalidations, in_use;
	_Atomic uint64_t retries, failures, dereg_failures;
};

int cache_open(struct hf_cache *c, struct hf_switch *sw, const struct hf_nic_ops *ops, void *nic,
	       const struct options *options);
/* -EBUSY, and nothing is changed, while there is a holder. Then cache_close() can't fail. */
int cache_idle(struct hf_cache *c);
void cache_close(struct hf_cache *c);

/* lock held: a new state of the same life. */
static inline void entry_set_flags(struct entry *e, uint64_t flags)
{
	uint64_t w = atomic_load_explicit(&e->word, memory_order_relaxed);

	atomic_store_explicit(&e->word, (w & ~FLAGS) | flags, memory_order_release);
}

static inline uint64_t entry_start(const struct entry *e)
{
	return atomic_load_explicit(&e->start, memory_order_relaxed);
}

static inline uint64_t entry_end(const struct entry *e)
{
	return atomic_load_explicit(&e->end, memory_order_relaxed);
}

static inline uint64_t entry_bytes(const struct entry *e)
{
	return entry_end(e) - entry_start(e);
}

/* Constant while somebody holds it; else of this or of another life. */
static inline unsigned entry_parts(const struct entry *e)
{
	return atomic_load_explicit(&e->parts, memory_order_relaxed);
}

static inline unsigned entry_access(const struct entry *e)
{
	return atomic_load_explicit(&e->access, memory_order_relaxed);
}

/* What an index or a hint found. NULL: nothing, or no entry, for a reader without the lock. */
static inline struct entry *entry_at(const struct hf_cache *c, uint32_t id)
{
	return id == INDEX_NONE ? NULL : pool_at(&c->pool, id);
}

static inline struct entry_side *entry_side(const struct hf_cache *c, const struct entry *e)
{
	return pool_side(&c->pool, e->id);
}

/* Lists of those that one owns: e before `next`, which may be NULL; and what comes behind e. */
static inline struct entry *entry_push(struct entry *e, const struct entry *next)
{
	e->next = next ? next->id + 1 : 0;
	return e;
}

static inline struct entry *entry_next(const struct hf_cache *c, const struct entry *e)
{
	return e->next ? pool_at(&c->pool, e->next - 1) : NULL;
}

/* lock held: the index is another one, and complete. Who reads it without the lock knows it by this number. */
static inline void cache_new_edition(struct hf_cache *c)
{
	uint64_t n = atomic_load_explicit(&c->edition, memory_order_relaxed);

	atomic_store_explicit(&c->edition, n + 1, memory_order_release);
}

/* A new gate, of all caches the only one. After what has changed. Any thread; no lock. */
void cache_turn_gate(struct hf_cache *c);

/* hit.c: in the place where the next request like this one will look, unless that is held for another entry. */
bool cache_find_new(struct hf_provider *p, struct thread_record *t, struct lookup *l, struct hf_region *out);
/* hit.c: a hold of an entry that covers the pages with the access, or NULL; and let go of it. No lock, no allocation. */
struct hold *cache_find(struct hf_cache *c, struct thread_record *t, struct lookup *l);
void cache_release(struct hf_cache *c, struct thread_record *t, struct hold *h);
/* hit.c: the region of a hold. */
void cache_answer(struct hf_provider *p, struct hold *h, bool hit, struct hf_region *out);
/* hit.c: the next request like this one will be found without the index. The caller holds e. */
void cache_remember(struct hf_provider *p, struct thread_record *t, const struct lookup *l, struct entry *e);
/* hit.c: what a held region is of. */
struct entry *region_entry(const struct hf_region *r);
void cache_count_hits(struct thread_record *t, int counter, uint64_t n);
/* Is this open cache's counter that one? */
bool cache_has_counter(uint64_t number, unsigned counter);

/* miss.c: make one, or find the one that somebody else made meanwhile (*hit). Held. 0 or -errno. */
int cache_miss(struct hf_cache *c, struct thread_record *t, struct lookup *l, struct hold **out, bool *hit);

/* drop.c: what intersects goes. The number, or -EAGAIN (only the try) when the index is busy. */
int cache_try_drop(struct hf_cache *c, uint64_t start, uint64_t end);
/*
 * `unseen`: nothing told of the change. Placeholders that are not watched yet are spared: what they
 * will pin is of later.
 */
int cache_drop(struct hf_cache *c, uint64_t start, uint64_t end, bool unseen);
/* Is there anything that an unseen change would drop or mark? */
bool cache_touches(struct hf_cache *c, uint64_t start, uint64_t end);
/*
 * lock held: take a live entry out of the index and the list and mark it dead. The caller turns the gate behind it (or
 * behind several), and only then hands it over or looks for holds: hit.c.
 */
void cache_kill(struct hf_cache *c, struct entry *e);

/*
 * hold.h, lock held: find out who is held: their mark is then c->census. Without the fence before it, that is
 * certain only for holds that happened before; enough to choose a victim, not to take it away.
 */
void cache_census(struct hf_cache *c);
#ifdef HF_FAULTS
extern _Atomic uint64_t cache_scans; /* of all caches: how many were made */
extern _Atomic uint64_t cache_posts; /* likewise: how often a reaper was posted */
extern _Atomic unsigned cache_most_handled; /* entries, in one hold of the lock */
#endif

/* lock held: n entries have been handled in this hold. The test build checks the bound. */
static inline void cache_note_handled(unsigned n)
{
#ifdef HF_FAULTS
	assert(n <= CACHE_AT_ONCE);
	if (n > atomic_load(&cache_most_handled))
		atomic_store(&cache_most_handled, n);
#else
	(void)n;
#endif
}

/*
 * lock held, after a census: count a dropped entry once, if it is held. The scan over all threads'
 * holds costs far too much for the event thread, and the reaper makes one anyway.
 */
static inline void cache_count_in_use(struct hf_cache *c, struct entry *e)
{
	c->in_use += e->changed && e->mark == c->census;
	e->changed = false;
}

/* evict.c, lock held: take idle entries out, oldest first, until `bytes` more and `count` more fit the
 * limits, and at least `least` of them. They are dead and linked into *victims. Returns their bytes,
 * which stay counted as pinned until the NIC has let go. */
uint64_t cache_evict(struct hf_cache *c, uint64_t bytes, uint64_t count, uint64_t least,
		     struct entry **victims);
/* Would `bytes` and `count` more fit, once `freed` have gone? */
bool cache_fits(struct hf_cache *c, uint64_t freed, uint64_t bytes, uint64_t count);

/* reaper.c */
void cache_wake(struct hf_cache *c); /* any thread; no lock, no allocation */
void cache_hand_over(struct hf_cache *c, struct entry *e); /* any thread; no lock, no allocation */
void cache_retire(struct hf_cache *c, struct entry *list); /* dead ones: deregister those that nobody holds */
void cache_let_go(struct hf_cache *c, struct entry *list); /* ... certainly nobody: deregister */
enum reclaim { RECLAIM_DEAD, RECLAIM_SOME /* and an eighth of the idle */, RECLAIM_ALL };
unsigned cache_reclaim(struct hf_cache *c, enum reclaim what); /* how many went */
void *cache_reaper(void *cache);
/* Wait until what is dead in the range has gone: 0; -EBUSY: somebody holds one; -EIO: one is stuck. Calls the NIC. */
int cache_settle(struct hf_cache *c, uint64_t start, uint64_t end);

/* Lists, lock held. */
void list_append(struct hf_cache *c, struct list *l, struct entry *e);
void list_insert_after(struct hf_cache *c, struct list *l, struct entry *at, struct entry *e); /* NULL: first */
void list_remove(struct hf_cache *c, struct list *l, struct entry *e);

static inline struct entry *list_at(const struct hf_cache *c, uint32_t link)
{
	return link ? pool_at(&c->pool, link - 1) : NULL;
}

static inline struct entry *list_after(const struct hf_cache *c, const struct entry *e)
{
	return list_at(c, entry_side(c, e)->next_in);
}

static inline struct entry *list_before(const struct hf_cache *c, const struct entry *e)
{
	return list_at(c, entry_side(c, e)->prev_in);
}

void cache_stats(struct hf_cache *c, struct hf_stats *out);
/* Everything agrees with everything; for tests. Lock not held. */
bool cache_is_valid(struct hf_cache *c);

#endif
