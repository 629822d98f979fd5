/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NIC lets go: the entries that are dead and have no holder. The event thread and the last put only push
 * them; this thread calls the NIC, which may be slow, allocate, free, and so unmap memory that is
 * watched: the event thread never waits for it.
 */
#include "cache.h"
#include "switch.h"
#include "thread.h"

void cache_hand_over(struct hf_cache *c, struct entry *e)
{
	struct entry *head = atomic_load_explicit(&c->reap, memory_order_relaxed);

	do {
		e->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&c->reap, &head, e, memory_order_release,
							memory_order_relaxed));
	if (!head)
		sem_post(&c->wake);
}

/* A registration that the NIC would not give up stays counted as pinned, and its entry is never used again. */
static bool deregister(struct hf_cache *c, struct entry *e)
{
	struct hf_nic_reg reg = { e->lkey, e->rkey, e->nic_priv };

	if (c->ops->dereg(c->nic, entry_start(e), entry_bytes(e), &reg) != 0) {
		atomic_fetch_add(&c->dereg_failures, 1);
		return false;
	}
	if (e->watched)
		c->sw->ops.unsecure(c->sw->proxy, entry_start(e), entry_end(e), e->watch_id);
	atomic_fetch_sub(&c->pinned, entry_bytes(e));
	atomic_fetch_add(&c->gone, 1);
	return true;
}

static void free_entry(struct hf_cache *c, struct entry *e)
{
	pthread_mutex_lock(&c->lock);
	c->old_hits += atomic_load_explicit(&e->word, memory_order_relaxed) >> HIT_SHIFT;
	atomic_store_explicit(&e->word, 0, memory_order_relaxed);
	pool_put(&c->pool, e);
	pthread_mutex_unlock(&c->lock);
}

void cache_let_go(struct hf_cache *c, struct entry *list)
{
	while (list) {
		struct entry *e = list;

		list = e->next;
		if (deregister(c, e))
			free_entry(c, e);
	}
}

static unsigned count(const struct entry *list)
{
	unsigned n = 0;

	for (; list; list = list->next)
		n++;
	return n;
}

static uint64_t how_many(const struct hf_cache *c, enum reclaim what)
{
	return what == RECLAIM_ALL ? UINT64_MAX : what == RECLAIM_SOME ? c->live / 8 + 1 : 0;
}

unsigned cache_reclaim(struct hf_cache *c, enum reclaim what)
{
	struct entry *dead, *idle = NULL;
	unsigned n;

	pthread_mutex_lock(&c->reap_lock);
	dead = atomic_exchange_explicit(&c->reap, NULL, memory_order_acquire);
	pthread_mutex_lock(&c->lock);
	cache_evict(c, 0, 0, how_many(c, what), &idle);
	if (cache_fits(c, 0, 0, 0))
		atomic_store_explicit(&c->over, false, memory_order_relaxed);
	pthread_mutex_unlock(&c->lock);
	n = count(dead) + count(idle);
	cache_let_go(c, dead);
	cache_let_go(c, idle);
	pthread_mutex_unlock(&c->reap_lock);
	return n;
}

void *cache_reaper(void *cache)
{
	struct hf_cache *c = cache;

	while (!atomic_load(&c->stop)) {
		thread_rest();
		sem_wait(&c->wake);
		thread_work();
		cache_reclaim(c, RECLAIM_DEAD);
	}
	return NULL;
}
