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

#define AT_ONCE 32

static void kill_all(struct hf_cache *c, const uint32_t *found, unsigned n)
{
	cache_census(c);
	for (unsigned i = 0; i < n; i++) {
		struct entry *e = entry_at(c, found[i]);

		c->in_use += e->mark == c->census;
		cache_kill(c, e);
	}
	cache_turn_gate(c); /* before the reaper may look for holds */
	for (unsigned i = 0; i < n; i++)
		cache_hand_over(c, entry_at(c, found[i]));
}

static int drop_live(struct hf_cache *c, struct index *ix, uint64_t start, uint64_t end)
{
	uint32_t found[AT_ONCE];
	int dropped = 0;
	unsigned n;

	do {
		n = index_find_touching(ix, start, end, found, AT_ONCE);
		if (n)
			kill_all(c, found, n);
		dropped += (int)n;
	} while (n == AT_ONCE);
	return dropped;
}

static bool touches(const struct entry *e, uint64_t start, uint64_t end)
{
	return entry_start(e) < end && entry_end(e) > start;
}

/* lock held. `unseen`: spare placeholders that are not watched yet. */
static int drop_locked(struct hf_cache *c, uint64_t start, uint64_t end, bool unseen)
{
	int dropped = 0;

	for (int i = 0; i < 3; i++)
		dropped += drop_live(c, &c->index[i], start, end);
	c->invalidations += (uint64_t)dropped;
	for (struct entry *e = list_at(c, c->pending.head); e; e = list_after(c, e))
		if (touches(e, start, end) && (!unseen || atomic_load(&e->watched)))
			e->changed = true;
	return dropped;
}

int cache_try_drop(struct hf_cache *c, uint64_t start, uint64_t end)
{
	int dropped;

	if (pthread_mutex_trylock(&c->lock) != 0)
		return -EAGAIN;
	dropped = drop_locked(c, start, end, false);
	pthread_mutex_unlock(&c->lock);
	return dropped;
}

static int drop(struct hf_cache *c, uint64_t start, uint64_t end, bool unseen)
{
	int dropped;

	pthread_mutex_lock(&c->lock);
	dropped = drop_locked(c, start, end, unseen);
	pthread_mutex_unlock(&c->lock);
	return dropped;
}

int cache_drop(struct hf_cache *c, uint64_t start, uint64_t end)
{
	return drop(c, start, end, false);
}

/*
 * A placeholder that is not watched yet has pinned nothing: it pins after this, hence what is mapped by then. The store
 * of `watched` comes before the pin (miss.c), and this load comes after the change.
 */
int cache_drop_unseen(struct hf_cache *c, uint64_t start, uint64_t end)
{
	return drop(c, start, end, true);
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
