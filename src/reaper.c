/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NIC lets go: the entries that are dead and have no holder. The event thread and the last put only push
 * them; this thread calls the NIC, which may be slow, allocate, free, and so unmap memory that is
 * watched: the event thread never waits for it.
 */
#include <errno.h>

#include "cache.h"
#include "error.h"
#include "switch.h"
#include "thread.h"

/* Who takes away one may soon take away more: after some work the reaper can't be woken for so long, and costs nobody a
 * call into the kernel. */
#define NAP_US 100

/*
 * The head may be taken by the reaper and be in another life before the exchange, which then fails. All that is read of it
 * is its id, which is written once, before it was first pushed: acquire.
 */
void cache_hand_over(struct hf_cache *c, struct entry *e)
{
	struct entry *head = atomic_load_explicit(&c->reap, memory_order_acquire);

	do {
		entry_push(e, head);
	} while (!atomic_compare_exchange_weak_explicit(&c->reap, &head, e, memory_order_release,
							memory_order_acquire));
	if (!head)
		cache_wake(c);
}

#ifdef HF_FAULTS
_Atomic uint64_t cache_posts;
#endif

/*
 * Post only if no post is pending. The exchange is a full barrier: if it reads true, then the
 * reaper's exchange comes later, and the reaper sees what the caller did before this call.
 */
void cache_wake(struct hf_cache *c)
{
	if (atomic_exchange(&c->wake_pending, true))
		return;
#ifdef HF_FAULTS
	atomic_fetch_add(&cache_posts, 1);
#endif
	sem_post(&c->wake);
}

/* A registration that the NIC would not give up stays counted as pinned, and its entry is never used again. */
static bool deregister(struct hf_cache *c, struct entry *e)
{
	struct hf_nic_reg reg = { e->lkey, e->rkey, entry_side(c, e)->nic_priv };

	if (c->ops->dereg(c->nic, entry_start(e), entry_bytes(e), &reg) != 0) {
		atomic_fetch_add(&c->dereg_failures, 1);
		return false;
	}
	if (e->watched)
		c->sw->ops.unsecure(c->sw->proxy, entry_start(e), entry_end(e), entry_side(c, e)->watch_id);
	return true;
}

static void keep_stuck(struct hf_cache *c, struct entry *e)
{
	pthread_mutex_lock(&c->lock);
	entry_set_flags(e, (atomic_load_explicit(&e->word, memory_order_relaxed) & FLAGS) | ENTRY_STUCK);
	pthread_mutex_unlock(&c->lock);
}

static void free_entries(struct hf_cache *c, struct entry *list)
{
	while (list) {
		pthread_mutex_lock(&c->lock);
		for (unsigned n = 0; list && n < CACHE_AT_ONCE; n++) {
			struct entry *e = list;

			list = entry_next(c, e);
			entry_set_flags(e, 0);
			pool_put(&c->pool, e->id);
			cache_note_handled(n + 1);
		}
		pthread_mutex_unlock(&c->lock);
	}
}

void cache_let_go(struct hf_cache *c, struct entry *list)
{
	struct entry *gone = NULL;
	uint64_t bytes = 0, count = 0;
	struct error_kept kept;

	/*
	 * The call that lets go succeeds all the same, whatever the NIC says: hf_put(), hf_flush().
	 */
	error_keep(&kept);
	while (list) {
		struct entry *e = list;

		list = entry_next(c, e);
		if (deregister(c, e)) {
			gone = entry_push(e, gone);
			bytes += entry_bytes(e);
			count++;
		} else {
			keep_stuck(c, e);
		}
	}
	error_restore(&kept, 0);
	if (!gone)
		return;
	atomic_fetch_sub(&c->pinned, bytes);
	atomic_fetch_add(&c->gone, count);
	free_entries(c, gone);
}

#ifdef HF_FAULTS
_Atomic uint64_t cache_scans;
_Atomic unsigned cache_most_handled;
#endif

static void mark_held(struct entry *e, void *cache)
{
	struct hf_cache *c = cache;

	if (pool_contains(&c->pool, e)) /* else another cache's, which may be closing: not touched */
		e->mark = c->census;
}

void cache_census(struct hf_cache *c)
{
#ifdef HF_FAULTS
	atomic_fetch_add(&cache_scans, 1);
#endif
	c->census++;
	hold_each(mark_held, c);
}

/* lock held: split the first CACHE_AT_ONCE of *dead by a census of their own. */
static void sort_some(struct hf_cache *c, struct entry **dead, struct entry **held, struct entry **idle)
{
	cache_census(c);
	for (unsigned n = 0; *dead && n < CACHE_AT_ONCE; n++) {
		struct entry *e = *dead;
		struct entry **to = e->mark == c->census ? held : idle;

		*dead = entry_next(c, e);
		cache_count_in_use(c, e);
		*to = entry_push(e, *to);
		cache_note_handled(n + 1);
	}
}

/*
 * Split what is dead for good into what somebody holds, which is appended to *held, and the rest, which is returned.
 * The fence comes after the entries died: hold.h draws it. One fence serves all parts, because all
 * entries died before it. Each part needs its own census: another thread may make one while the
 * lock is free.
 */
static struct entry *sort_out(struct hf_cache *c, struct entry *dead, struct entry **held)
{
	struct entry *idle = NULL;

	if (!dead)
		return NULL;
	hold_fence_all();
	while (dead) {
		pthread_mutex_lock(&c->lock);
		sort_some(c, &dead, held, &idle);
		pthread_mutex_unlock(&c->lock);
	}
	return idle;
}

void cache_retire(struct hf_cache *c, struct entry *list)
{
	struct entry *held = NULL;

	cache_let_go(c, sort_out(c, list, &held));
	while (held) {
		struct entry *e = held;

		held = entry_next(c, e);
		cache_hand_over(c, e);
	}
}

static unsigned count(const struct hf_cache *c, const struct entry *list)
{
	unsigned n = 0;

	for (; list; list = entry_next(c, list))
		n++;
	return n;
}

static uint64_t how_many(const struct hf_cache *c, enum reclaim what)
{
	return what == RECLAIM_ALL ? UINT64_MAX : what == RECLAIM_SOME ? c->live / 8 + 1 : 0;
}

/* Both lists in one. */
static struct entry *append(struct hf_cache *c, struct entry *list, struct entry *more)
{
	while (more) {
		struct entry *e = more;

		more = entry_next(c, e);
		list = entry_push(e, list);
	}
	return list;
}

/* reap_lock held: all that is dead, with those that waited; what `what` says goes, too. */
static struct entry *collect(struct hf_cache *c, enum reclaim what)
{
	struct entry *dead = atomic_exchange_explicit(&c->reap, NULL, memory_order_acquire);

	dead = append(c, dead, c->waiting);
	c->waiting = NULL;
	pthread_mutex_lock(&c->lock);
	cache_evict(c, 0, 0, how_many(c, what), &dead);
	if (cache_fits(c, 0, 0, 0))
		atomic_store_explicit(&c->over, false, memory_order_relaxed);
	pthread_mutex_unlock(&c->lock);
	return dead;
}

unsigned cache_reclaim(struct hf_cache *c, enum reclaim what)
{
	struct entry *idle;
	unsigned n;

	pthread_mutex_lock(&c->reap_lock);
	idle = sort_out(c, collect(c, what), &c->waiting);
	n = count(c, idle);
	cache_let_go(c, idle);
	pthread_mutex_unlock(&c->reap_lock);
	return n;
}

/* In the order in which they matter: with one that is leaving, the answer isn't known yet. */
enum left { LEFT_NONE, LEFT_HELD, LEFT_STUCK, LEFT_LEAVING };

/* lock held, after a census: what keeps this entry, if it is dead and in the range. */
static enum left why_left(const struct hf_cache *c, const struct entry *e, uint64_t start, uint64_t end)
{
	uint64_t w = atomic_load_explicit(&e->word, memory_order_relaxed);

	if ((w & (ENTRY_DEAD | ENTRY_SINGLE)) != ENTRY_DEAD || entry_start(e) >= end || entry_end(e) <= start)
		return LEFT_NONE;
	return w & ENTRY_STUCK ? LEFT_STUCK : e->mark == c->census ? LEFT_HELD : LEFT_LEAVING;
}

/*
 * lock held: the same of all entries in [*at, *at + CACHE_AT_ONCE) of the pool. False: these were
 * the last.
 */
static bool look_at_some(struct hf_cache *c, uint32_t *at, uint64_t start, uint64_t end, enum left *worst)
{
	cache_census(c);
	for (unsigned n = 0; n < CACHE_AT_ONCE; n++) {
		enum left left;

		if (*at >= c->pool.made || c->pool.made - c->pool.idle == c->live)
			return false;
		left = why_left(c, pool_at(&c->pool, (*at)++), start, end);
		*worst = left > *worst ? left : *worst;
		cache_note_handled(n + 1);
	}
	return true;
}

/*
 * The dead are in several hands (reaper, evictors, the stuck in none), but all of them are in the
 * pool, at a place that never changes. An entry that was dead at the call is met dead in its part,
 * or it has been freed by then.
 */
static enum left what_is_left(struct hf_cache *c, uint64_t start, uint64_t end)
{
	enum left worst = LEFT_NONE;
	uint32_t at = 0;
	bool more;

	hold_fence_all();
	do {
		pthread_mutex_lock(&c->lock);
		more = look_at_some(c, &at, start, end, &worst);
		pthread_mutex_unlock(&c->lock);
	} while (more);
	return worst;
}

int cache_settle(struct hf_cache *c, uint64_t start, uint64_t end)
{
	enum left left;

	do {
		cache_reclaim(c, RECLAIM_DEAD);
		left = what_is_left(c, start, end);
		if (left == LEFT_LEAVING)
			os_sleep_us(NAP_US); /* another thread is about to deregister it */
	} while (left == LEFT_LEAVING);
	return left == LEFT_STUCK ? -EIO : left == LEFT_HELD ? -EBUSY : 0;
}

void *cache_reaper(void *cache)
{
	struct hf_cache *c = cache;

	while (!atomic_load(&c->stop)) {
		thread_rest();
		sem_wait(&c->wake);
		atomic_exchange(&c->wake_pending, false); /* before the work: cache_wake() */
		thread_work();
		/* Over the limits each put wakes: at most one post for each nap. */
		if (cache_reclaim(c, RECLAIM_DEAD) || atomic_load_explicit(&c->over, memory_order_relaxed))
			os_sleep_us(NAP_US);
	}
	return NULL;
}
