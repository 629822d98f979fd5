/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "cache.h"

#include <errno.h>
#include <string.h>

#include "switch.h"
#include "thread.h"

void list_insert_after(struct hf_cache *c, struct list *l, struct entry *at, struct entry *e)
{
	struct entry_side *s = entry_side(c, e);
	struct entry *behind;

	s->prev_in = at ? at->id + 1 : 0;
	s->next_in = at ? entry_side(c, at)->next_in : l->head;
	behind = list_at(c, s->next_in);
	*(behind ? &entry_side(c, behind)->prev_in : &l->tail) = e->id + 1;
	*(at ? &entry_side(c, at)->next_in : &l->head) = e->id + 1;
}

void list_append(struct hf_cache *c, struct list *l, struct entry *e)
{
	list_insert_after(c, l, list_at(c, l->tail), e);
}

void list_remove(struct hf_cache *c, struct list *l, struct entry *e)
{
	struct entry_side *s = entry_side(c, e);
	struct entry *before = list_at(c, s->prev_in);
	struct entry *behind = list_at(c, s->next_in);

	*(before ? &entry_side(c, before)->next_in : &l->head) = s->next_in;
	*(behind ? &entry_side(c, behind)->prev_in : &l->tail) = s->prev_in;
	s->prev_in = s->next_in = 0;
}

/* ------------------------------------------------------------------ hits are counted per thread */

static _Atomic uint64_t counter_of[COUNTERS]; /* the cache's number; 0: free */
static _Atomic uint64_t caches_opened;

bool cache_has_counter(uint64_t number, unsigned counter)
{
	return atomic_load(&counter_of[counter]) == number;
}

/* -EMFILE when all are taken. */
static int take_counter(uint64_t number)
{
	for (int i = 0; i < COUNTERS; i++) {
		uint64_t nobody = 0;

		if (atomic_compare_exchange_strong(&counter_of[i], &nobody, number))
			return i;
	}
	return hf_set_error(-EMFILE, "%d providers are open in this process, the most there may be", COUNTERS);
}

/* Of this cache and of all that had the counter before. */
static uint64_t sum_hits(struct hf_cache *c)
{
	struct thread_record *t;
	uint64_t sum = 0;

	for (unsigned i = 0; (t = thread_at(i)); i++) {
		sum += atomic_load_explicit(&t->hits[c->counter], memory_order_relaxed);
		for (int k = 0; k < RECENTS; k++)
			if (atomic_load_explicit(&t->recent[k].cache, memory_order_relaxed) == c->number)
				sum += recent_hits(&t->recent[k]);
	}
	return sum;
}

/* ------------------------------------------------------------------ the gate */

/*
 * Two may turn it at the same time; either number is new. What is noted is read from `gate`: a number gets there
 * last, so that no late store brings one back that somebody has noted since:
 *
 *   a miss (lock held)         getter                   event thread
 *   -----------------------    ---------------------    -----------------------------------------
 *   9: gate = 9
 *                              notes 9
 *                                                       odd; 10: both gates = 10
 *                                                       reads: the munmap returns; index is busy
 *   checked_gate = 9
 *                              9 is the gate: a hit     <-- stale; so: checked_gate first
 */
void cache_turn_gate(struct hf_cache *c)
{
	static _Atomic uint64_t last = GATE_CLOSED;
	uint64_t gate = atomic_fetch_add(&last, 1) + 1;

	if (!switch_must_be_asked(c->sw) || c->moves)
		atomic_store_explicit(&c->checked_gate, gate, memory_order_release);
	atomic_store_explicit(&c->gate, gate, memory_order_release);
}

/* ------------------------------------------------------------------ life */

int cache_open(struct hf_cache *c, struct hf_switch *sw, const struct hf_nic_ops *ops, void *nic,
	       const struct options *options)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->counter = -1;
	c->ops = ops;
	c->nic = nic;
	c->sw = sw;
	if (sw->ops.clocks)
		sw->ops.clocks(sw->proxy, (const uint64_t **)&c->moves, (const uint64_t **)&c->told);
	c->options = *options;
	c->page = os_page_size();
	c->fenced = atomic_load(&hold_mode) == HOLD_FENCED;
	c->caching = options->cache && sw->ops.secure;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->reap_lock, NULL);
	pool_init(&c->pool, sizeof(struct entry), sizeof(struct entry_side));
	index_nodes_init(&c->nodes);
	for (int i = 0; i < 3; i++)
		index_init(&c->index[i], &c->nodes);
	sem_init(&c->wake, 0, 0);
	c->number = atomic_fetch_add(&caches_opened, 1) + 1;
	c->counter = take_counter(c->number);
	if (c->counter < 0)
		return c->counter;
	c->hits_before = sum_hits(c);
	atomic_store(&c->checked_gate, GATE_CLOSED);
	cache_turn_gate(c);
	rc = os_thread_start(&c->reaper, "hf-reaper", cache_reaper, c);
	if (rc)
		return hf_set_error(rc, "can't start the reaper thread: %s", strerror(-rc));
	return 0;
}

/*
 * lock held: how many entries are held, of those whose word & mask is `want`. The fence makes it certain
 * for what happened before in any thread.
 */
static uint64_t count_held(struct hf_cache *c, uint64_t mask, uint64_t want)
{
	uint64_t n = 0;

	cache_census(c);
	for (uint32_t i = 0; i < c->pool.made; i++) {
		struct entry *e = pool_at(&c->pool, i);
		uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed);

		n += e->mark == c->census && (word & mask) == want;
		if ((word & (ENTRY_DEAD | ENTRY_SINGLE)) == ENTRY_DEAD && e->mark == c->census)
			cache_count_in_use(c, e);
	}
	return n;
}

int cache_idle(struct hf_cache *c)
{
	uint64_t held;
	bool busy;

	hold_fence_all();
	pthread_mutex_lock(&c->lock);
	held = count_held(c, 0, 0);
	busy = c->pending.head != 0;
	pthread_mutex_unlock(&c->lock);
	if (held || busy)
		return hf_set_error(-EBUSY, "%llu registrations are held%s: hf_put() them first",
				    (unsigned long long)held, busy ? ", others are being made" : "");
	return 0;
}

void cache_close(struct hf_cache *c)
{
	if (c->reaper.stack) {
		atomic_store(&c->stop, true);
		cache_wake(c);
		os_thread_join(&c->reaper);
		cache_reclaim(c, RECLAIM_ALL);
	}
	if (c->counter >= 0)
		atomic_store(&counter_of[c->counter], 0);
	sem_destroy(&c->wake);
	index_nodes_destroy(&c->nodes);
	hints_destroy(&c->hints);
	pool_destroy(&c->pool);
	pthread_mutex_destroy(&c->reap_lock);
	pthread_mutex_destroy(&c->lock);
}

void cache_stats(struct hf_cache *c, struct hf_stats *out)
{
	uint64_t dead_held;

	pthread_mutex_lock(&c->lock);
	dead_held = count_held(c, ENTRY_DEAD | ENTRY_SINGLE, ENTRY_DEAD); /* first: it counts in_use, too */
	*out = (struct hf_stats){
		.hits = sum_hits(c) - c->hits_before,
		.misses = c->misses,
		.uncached = c->uncached,
		.evictions = c->evictions,
		.superseded = c->superseded,
		.invalidations = c->invalidations,
		.in_use_invalidations = c->in_use,
		.retries = atomic_load(&c->retries),
		.failures = atomic_load(&c->failures),
		.dereg_failures = atomic_load(&c->dereg_failures),
		.pinned_bytes = atomic_load(&c->pinned),
		.entries = c->live,
		.dead_held = dead_held,
		.max_bytes = c->options.max_bytes,
		.max_count = c->options.max_count,
	};
	pthread_mutex_unlock(&c->lock);
}

bool cache_is_valid(struct hf_cache *c)
{
	int64_t indexed = 0;
	uint64_t listed = 0;
	bool ok = true;

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < 3; i++) {
		int64_t n = index_is_valid(&c->index[i]);

		ok = ok && n >= 0;
		indexed += n;
	}
	for (struct entry *e = list_at(c, c->lru.head); e; e = list_after(c, e)) {
		uint64_t w = atomic_load(&e->word);

		listed++;
		ok = ok && (w & (ENTRY_LIVE | ENTRY_DEAD)) == ENTRY_LIVE;
	}
	ok = ok && indexed == (int64_t)c->live && listed == c->live;
	pthread_mutex_unlock(&c->lock);
	return ok;
}
