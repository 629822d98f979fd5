/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What has changed goes: every entry that intersects (R33), and every placeholder. On the event thread this is all
 * that happens (I4): no allocation, no NIC, no lock that is waited for.
 */
#include <errno.h>

#include "cache.h"

void cache_kill(struct hf_cache *c, struct entry *e)
{
	hints_drop(&c->hints, entry_start(e), e->id);
	index_remove(&c->index[entry_access(e) - 1], entry_start(e), e->id);
	cache_new_edition(c);
	list_remove(c, &c->lru, e);
	c->live--;
	/* Who has set a hold and not looked at the word yet will see it, or be seen: hold.h. */
	entry_set_flags(e, ENTRY_LIVE | ENTRY_DEAD);
}

#define AT_ONCE 32u

static void kill_all(struct hf_cache *c, const uint32_t *found, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct entry *e = entry_at(c, found[i]);

		e->changed = true; /* whether it is held, the next scan finds out: cache_count_in_use() */
		cache_kill(c, e);
	}
	cache_turn_gate(c); /* before the reaper may look for holds */
	for (unsigned i = 0; i < n; i++)
		cache_hand_over(c, entry_at(c, found[i]));
}

/* lock held: drop at most `most` of what touches the range. How many. */
static unsigned drop_live(struct hf_cache *c, struct index *ix, uint64_t start, uint64_t end, unsigned most)
{
	uint32_t found[AT_ONCE];
	unsigned dropped = 0;
	unsigned n;

	do {
		n = most - dropped < AT_ONCE ? most - dropped : AT_ONCE;
		n = index_find_touching(ix, start, end, found, n);
		if (n)
			kill_all(c, found, n);
		dropped += n;
	} while (n && dropped < most);
	return dropped;
}

static bool touches(const struct entry *e, uint64_t start, uint64_t end)
{
	return entry_start(e) < end && entry_end(e) > start;
}

/*
 * lock held: drop at most CACHE_AT_ONCE. How many; fewer: that is all. Each time all placeholders
 * are marked, so that none that was begun before the change is published between two such parts.
 * `unseen`: spare placeholders that are not watched yet.
 */
static unsigned drop_some(struct hf_cache *c, uint64_t start, uint64_t end, bool unseen)
{
	unsigned dropped = 0;

	for (int i = 0; i < 3; i++)
		dropped += drop_live(c, &c->index[i], start, end, CACHE_AT_ONCE - dropped);
	c->invalidations += dropped;
	for (struct entry *e = list_at(c, c->pending.head); e; e = list_after(c, e))
		if (touches(e, start, end) && (!unseen || atomic_load(&e->watched)))
			e->changed = true;
	cache_note_handled(dropped);
	return dropped;
}

/*
 * Between two parts the lock is free. If another thread takes it, the caller keeps the range and
 * tells it again.
 */
int cache_try_drop(struct hf_cache *c, uint64_t start, uint64_t end)
{
	unsigned dropped = 0, n;

	do {
		if (pthread_mutex_trylock(&c->lock) != 0)
			return -EAGAIN;
		n = drop_some(c, start, end, false);
		pthread_mutex_unlock(&c->lock);
		dropped += n;
	} while (n == CACHE_AT_ONCE);
	return (int)dropped;
}

/*
 * A placeholder that is not watched yet has pinned nothing: it pins after this, hence what is
 * mapped by then. The store of `watched` comes before the pin (miss.c), and this load after the
 * change.
 */
int cache_drop(struct hf_cache *c, uint64_t start, uint64_t end, bool unseen)
{
	unsigned dropped = 0, n;

	do {
		pthread_mutex_lock(&c->lock);
		n = drop_some(c, start, end, unseen);
		pthread_mutex_unlock(&c->lock);
		dropped += n;
	} while (n == CACHE_AT_ONCE);
	return (int)dropped;
}

bool cache_touches(struct hf_cache *c, uint64_t start, uint64_t end)
{
	uint32_t found;
	bool any = false;

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < 3 && !any; i++)
		any = index_find_touching(&c->index[i], start, end, &found, 1) != 0;
	for (struct entry *e = list_at(c, c->pending.head); e && !any; e = list_after(c, e))
		any = touches(e, start, end) && atomic_load(&e->watched);
	pthread_mutex_unlock(&c->lock);
	return any;
}
