/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The slow path: arm, register, verify, publish (I3), with a placeholder in the pending list from before
 * the arming on, so that every change that is told marks it:
 *
 *   getter                                   program              event thread
 *   ----------------------------------       ---------------      ----------------------
 *   placeholder e in `pending`
 *   secure: armed
 *                                            munmap, mmap  ....>  marks e changed
 *   nic.reg pins old or new pages
 *   lock; e changed: let go, start over
 *        not changed: index, LIVE; unlock
 *                                            munmap        ....>  finds e in the index: kills it
 *
 * There is no gap, because both lists change under one lock: a change that is told finds the placeholder or
 * the entry. One whose page tables have changed but which is not told yet may let an entry be published
 * that is stale already; it is no hit, because every hit first asks whether a change is in flight (hit.c),
 * and by the time none is, the entry is dead. The Spin model (model/) proves that no wait is needed here.
 */
#include <errno.h>
#include <sys/mman.h>

#include "cache.h"
#include "error.h"
#include "maps.h"
#include "switch.h"
#include "thread.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A mapping that changes faster than it can be registered is used uncached. */
#define TRIES 6
/* A NIC that is full while others keep it full. Each try has let something go. */
#define NIC_TRIES 256

static void fill(struct entry *e, uint64_t start, uint64_t end, unsigned access)
{
	atomic_store_explicit(&e->start, start, memory_order_relaxed);
	atomic_store_explicit(&e->end, end, memory_order_relaxed);
	atomic_store_explicit(&e->word,
			      (atomic_load_explicit(&e->word, memory_order_relaxed) & ~FLAGS) + GENERATION,
			      memory_order_relaxed);
	atomic_store_explicit(&e->access, (uint8_t)access, memory_order_relaxed);
	atomic_store_explicit(&e->parts, 1, memory_order_relaxed);
	e->changed = false;
	e->watched = false;
}

static struct entry *new_entry(struct hf_cache *c)
{
	uint32_t id = 0;
	struct entry *e = pool_get(&c->pool, &id);

	while (!e) {
		pthread_mutex_unlock(&c->lock);
		if (pool_reserve(&c->pool, 1, &c->lock) < 0) {
			pthread_mutex_lock(&c->lock);
			return NULL;
		}
		pthread_mutex_lock(&c->lock);
		e = pool_get(&c->pool, &id);
	}
	if (e->id != id)
		e->id = id; /* in its first life; the same in all others, and read without the lock: cache_hand_over() */
	return e;
}

static struct entry *pending_cover(struct hf_cache *c, uint64_t start, uint64_t end, unsigned access)
{
	struct entry *e = list_at(c, c->pending.head);

	while (e && (entry_start(e) > start || entry_end(e) < end ||
		     (entry_access(e) & access) != access || e->changed))
		e = list_after(c, e);
	return e;
}

/* How a miss may go about it. */
#define MAY_WAIT   1u /* for another thread's registration */
#define MAY_EXCEED 2u /* the limits, if the options allow it: all that could go has gone */

/* lock held: limits. Idle ones go; what is held may exceed, unless the options say no. */
static int make_room(struct hf_cache *c, uint64_t bytes, unsigned may, struct entry **victims)
{
	const struct options *o = &c->options;
	uint64_t freed;

	if (bytes / os_page_size() > INDEX_MAX_PAGES)
		return hf_set_error(-ENOMEM, "asked for %llu bytes; one registration is of %llu at most",
				    (unsigned long long)bytes,
				    (unsigned long long)(INDEX_MAX_PAGES * os_page_size()));
	if (bytes > o->max_bytes)
		return hf_set_error(-ENOMEM, "asked for %llu bytes; the limit is max_bytes=%llu",
				    (unsigned long long)bytes, (unsigned long long)o->max_bytes);
	freed = cache_evict(c, bytes, 1, 0, victims);
	if (!cache_fits(c, freed, bytes, 1)) {
		if (o->hard || !(may & MAY_EXCEED))
			return hf_set_error(-ENOMEM, "asked for %llu bytes; %llu in %llu registrations are "
					    "held; the limits are max_bytes=%llu, max_count=%llu",
					    (unsigned long long)bytes,
					    (unsigned long long)(atomic_load(&c->pinned) - freed),
					    (unsigned long long)c->live,
					    (unsigned long long)o->max_bytes,
					    (unsigned long long)o->max_count);
		atomic_store_explicit(&c->over, true, memory_order_relaxed);
	}
	atomic_fetch_add(&c->pinned, bytes);
	return 0;
}

static void unwatch(struct hf_cache *c, struct entry *e)
{
	if (atomic_exchange(&e->watched, false))
		c->sw->ops.unsecure(c->sw->proxy, entry_start(e), entry_end(e), entry_side(c, e)->watch_id);
}

/*
 * Pages that are not there yet, or shared copy-on-write, would be replaced at the first write. Where the kernel refuses
 * (EINVAL: a mapping is read-only), that may happen after a later mprotect, unseen: then it is not cached, but with
 * a proxy that sees nothing by itself, where the program says what changes.
 */
static void break_copy_on_write(struct hf_cache *c, struct entry *e)
{
	if (c->ops->flags & HF_NIC_PINS_FOR_WRITE)
		return;
	if (madvise((void *)(uintptr_t)entry_start(e), entry_bytes(e), MADV_POPULATE_WRITE) < 0 &&
	    (c->sw->ops.caps & HF_CAP_WATCH))
		unwatch(c, e);
}

/*
 * Has something gone since the count was `gone`, or can it go now? Dead ones first, then, if `idle`, an eighth of
 * the idle ones. The reaper may have been at it: reclaiming waits for it, and the count tells.
 */
static bool made_room(struct hf_cache *c, uint64_t gone, bool idle)
{
	return cache_reclaim(c, RECLAIM_DEAD) || (idle && cache_reclaim(c, RECLAIM_SOME)) ||
	       atomic_load(&c->gone) != gone;
}

static int check_rights(const struct entry *e)
{
	return hf_range_check(entry_start(e), entry_end(e), entry_access(e));
}

/* The NIC has refused with rc, and a sentence. -EACCES if the rights are to blame, else rc. */
static int why_refused(const struct entry *e, int rc)
{
	struct error_kept kept;
	int seen;

	error_keep(&kept);
	seen = check_rights(e);
	if (maps_are_hidden(seen))
		error_restore(&kept, 0);
	return seen == -EACCES ? seen : rc;
}

/*
 * No lock held. While the NIC is full and something goes, it is asked again. A NIC that pins finds out by itself
 * what isn't there; then, and only then, the mapping is looked at, for the better answer. Otherwise it is looked at
 * beforehand, for a proxy may leave the rights to us.
 */
static int nic_register(struct hf_cache *c, struct entry *e)
{
	bool pins = c->ops->flags & HF_NIC_PINS_FOR_WRITE;
	struct hf_nic_reg reg = { 0 };
	int rc = pins ? 0 : check_rights(e);

	if (rc)
		return rc;
	break_copy_on_write(c, e);
	for (int i = 0; i < NIC_TRIES; i++) {
		uint64_t gone = atomic_load(&c->gone);

		rc = c->ops->reg(c->nic, entry_start(e), entry_bytes(e), entry_access(e), &reg);
		if (rc != -ENOMEM || !made_room(c, gone, true))
			break;
	}
	if (rc) {
		atomic_fetch_add(&c->failures, 1);
		return pins && rc != -ENOMEM ? why_refused(e, rc) : rc;
	}
	e->lkey = reg.lkey;
	e->rkey = reg.rkey;
	entry_side(c, e)->nic_priv = reg.priv;
	return 0;
}

/* lock held: what e covers, in the index of that access, is of no more use. */
static struct entry *supersede(struct hf_cache *c, const struct entry *e, unsigned access, struct entry *dead)
{
	uint32_t found[32];
	unsigned n;

	do {
		n = index_find_inside(&c->index[access - 1], entry_start(e), entry_end(e), found, 32);
		for (unsigned i = 0; i < n; i++) {
			struct entry *old = entry_at(c, found[i]);

			if (old == e)
				continue;
			c->superseded++;
			cache_kill(c, old);
			dead = entry_push(old, dead);
		}
	} while (n == 32);
	return dead;
}

/* lock held. Returns what it covers with the same or fewer rights; that is dead. */
static struct entry *publish(struct hf_cache *c, struct entry *e)
{
	uint32_t now = (uint32_t)atomic_load_explicit(&c->gate, memory_order_relaxed);
	unsigned access = entry_access(e);
	struct entry *dead = NULL;

	atomic_store_explicit(&e->stamp, now, memory_order_relaxed);
	e->place = now;
	list_append(c, &c->lru, e);
	c->live++;
	c->misses++;
	entry_set_flags(e, ENTRY_LIVE);
	if (index_insert(&c->index[access - 1], entry_start(e), entry_end(e), e->id))
		dead = supersede(c, e, access, dead);
	for (unsigned fewer = 1; fewer < access; fewer++)
		if ((fewer & access) == fewer)
			dead = supersede(c, e, fewer, dead);
	if (dead)
		cache_turn_gate(c);
	hints_note_new(&c->hints, entry_start(e), e->id);
	cache_new_edition(c);
	return dead;
}

/* lock held: the placeholder's time is over, whoever waits for it looks again. Is there anybody? */
static bool resolve(struct hf_cache *c, struct entry *e)
{
	list_remove(c, &c->pending, e);
	c->coming--;
	atomic_store_explicit(&c->pending_done,
			      atomic_load_explicit(&c->pending_done, memory_order_relaxed) + 1, memory_order_relaxed);
	return c->waiters > 0;
}

static void unlock_and_wake(struct hf_cache *c, bool somebody)
{
	pthread_mutex_unlock(&c->lock);
	if (somebody)
		os_wake_all(&c->pending_done);
}

/* lock held, and dropped. */
static void wait_for_pending(struct hf_cache *c)
{
	uint32_t seen = atomic_load(&c->pending_done);

	c->waiters++;
	pthread_mutex_unlock(&c->lock);
	os_wait(&c->pending_done, seen);
	pthread_mutex_lock(&c->lock);
	c->waiters--;
	pthread_mutex_unlock(&c->lock);
}

/*
 * hf_sync() asks no other parts than those in which anything was ever armed for this cache. Before the NIC pins: a
 * change of what it has pinned is later, and who syncs after that change knows the part, published or not.
 */
static void note_parts(struct hf_cache *c, unsigned parts)
{
	if (parts & ~atomic_load_explicit(&c->parts, memory_order_relaxed))
		atomic_fetch_or(&c->parts, parts);
}

/* Arm and register. e->watched says whether the proxy sees changes. On error nothing is left. */
static int arm_and_register(struct hf_cache *c, struct entry *e)
{
	int rc;

	if (c->caching) {
		uint64_t *id = &entry_side(c, e)->watch_id;

		rc = c->sw->ops.secure(c->sw->proxy, entry_start(e), entry_end(e), entry_access(e), id);
		if (rc < 0)
			return rc;
		atomic_store(&e->watched, rc == HF_WATCHED); /* before the NIC pins: drop.c */
		atomic_store_explicit(&e->parts, (uint8_t)switch_parts(c->sw, *id), memory_order_relaxed);
		note_parts(c, entry_parts(e));
	}
	rc = nic_register(c, e);
	if (rc)
		unwatch(c, e);
	return rc;
}

/* The NIC has it, nobody watches it, or there is no room in the index: it serves this holder and goes at the put. */
static void make_single(struct hf_cache *c, struct entry *e)
{
	c->uncached++;
	entry_set_flags(e, ENTRY_DEAD | ENTRY_SINGLE);
}

/* What became of a placeholder. */
enum outcome { PUBLISHED, SINGLE, CHANGED };

/* The lock, with room in the indexes, unless there is no memory for that. */
static void lock_to_publish(struct hf_cache *c)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (!rc && !index_has_room(&c->nodes)) {
		pthread_mutex_unlock(&c->lock);
		rc = index_reserve(&c->nodes, &c->lock);
		pthread_mutex_lock(&c->lock);
	}
}

/* lock held: is a larger table wanted, and this thread to make it? */
static bool hints_want_more(struct hf_cache *c)
{
	bool mine = !c->growing && hints_are_full(&c->hints, c->live);

	c->growing = c->growing || mine;
	return mine;
}

static void grow_hints(struct hf_cache *c)
{
	struct hint_table *larger = hints_grown(&c->hints);
	struct hint_table *old;

	pthread_mutex_lock(&c->lock);
	old = hints_use(&c->hints, larger);
	c->growing = false;
	pthread_mutex_unlock(&c->lock);
	hints_empty(old);
}

/* The hold is set before anybody can find the entry, and taken back if it comes to nothing. */
static enum outcome finish(struct hf_cache *c, struct entry *e, struct hold *h)
{
	struct entry *covered = NULL;
	enum outcome out;
	bool somebody, grow;

	hold_set(h, e);
	lock_to_publish(c);
	somebody = resolve(c, e);
	if (e->watched && e->changed) {
		atomic_store_explicit(&h->entry, NULL, memory_order_release);
		out = CHANGED;
	} else if (!e->watched || !index_has_room(&c->nodes)) {
		make_single(c, e);
		out = SINGLE;
	} else {
		covered = publish(c, e);
		out = PUBLISHED;
	}
	grow = hints_want_more(c);
	unlock_and_wake(c, somebody);
	if (grow)
		grow_hints(c);
	cache_retire(c, covered);
	return out;
}

static void give_up(struct hf_cache *c, struct entry *e)
{
	bool somebody;

	atomic_fetch_sub(&c->pinned, entry_bytes(e));
	pthread_mutex_lock(&c->lock);
	somebody = resolve(c, e);
	pool_put(&c->pool, e->id);
	unlock_and_wake(c, somebody);
}

/*
 * lock held; it is dropped when the answer is not 0. A placeholder with room made for it: 0 and *out.
 * 1: another thread's registration will do, and was waited for: look again. -errno.
 */
static int begin(struct hf_cache *c, uint64_t start, uint64_t end, unsigned access, unsigned may,
		 struct entry **out, struct entry **victims)
{
	struct entry *e = may & MAY_WAIT ? pending_cover(c, start, end, access) : NULL;
	int rc;

	if (e) {
		wait_for_pending(c);
		return 1;
	}
	rc = make_room(c, end - start, may, victims);
	e = rc ? NULL : new_entry(c);
	if (!e) {
		pthread_mutex_unlock(&c->lock);
		cache_retire(c, *victims);
		if (rc)
			return rc;
		atomic_fetch_sub(&c->pinned, end - start);
		return hf_set_error(-ENOMEM, "no memory for a cache entry");
	}
	fill(e, start, end, access);
	list_append(c, &c->pending, e);
	c->coming++;
	cache_turn_gate(c);
	*out = e;
	return 0;
}

/* One registration: 0 and held by h; -EAGAIN: the memory changed meanwhile; -errno. */
static int make(struct hf_cache *c, struct entry *e, struct hold *h, struct entry *victims)
{
	int rc;

	cache_retire(c, victims);
	rc = arm_and_register(c, e);
	if (rc) {
		give_up(c, e);
		return rc;
	}
	if (finish(c, e, h) != CHANGED)
		return 0;
	atomic_fetch_add(&c->retries, 1);
	cache_let_go(c, entry_push(e, NULL));
	return -EAGAIN;
}

/* Round a mapping that won't keep still: no watch, no placeholder, nothing to find stale later. */
static int make_unwatched(struct hf_cache *c, uint64_t start, uint64_t end, unsigned access,
			  struct hold *h)
{
	struct entry *victims = NULL;
	struct entry *e;
	int rc;

	pthread_mutex_lock(&c->lock);
	rc = begin(c, start, end, access, MAY_EXCEED, &e, &victims);
	if (rc)
		return rc;
	pthread_mutex_unlock(&c->lock);
	cache_retire(c, victims);
	rc = nic_register(c, e);
	if (rc) {
		give_up(c, e);
		return rc;
	}
	finish(c, e, h);
	return 0;
}

/* With an entry to be had: to make one drops the lock, and two that miss on one range must see each other. */
static void lock_with_room(struct hf_cache *c)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (!rc && !pool_room(&c->pool)) {
		pthread_mutex_unlock(&c->lock);
		rc = pool_reserve(&c->pool, 1, &c->lock);
		pthread_mutex_lock(&c->lock);
	}
}

/*
 * Somebody else made one meanwhile: found under the lock, and held. Nothing is asked there: see stands(). When the index is
 * as it was before the first lookup, that one was right.
 */
static struct hold *find_made(struct hf_cache *c, struct thread_record *t, struct lookup *l)
{
	uint64_t edition = atomic_load_explicit(&c->edition, memory_order_relaxed);
	struct lookup any = *l;

	if (!c->caching || l->edition == edition)
		return NULL;
	l->edition = edition;
	any.quiet = PARTS_ALL;
	return cache_find(c, t, &any);
}

/*
 * 1: no change is in flight that could touch it, and it lives still. 0: it is gone, or its memory
 * was replaced unseen, and it was dropped. -EAGAIN: no quiet.
 */
static int stands(struct hf_cache *c, const struct hold *h)
{
	const struct entry *e = atomic_load_explicit(&h->entry, memory_order_relaxed);
	int rc = switch_settle_range(c->sw, entry_parts(e), entry_start(e), entry_end(e));

	if (rc)
		return rc == -ESTALE ? 0 : rc;
	return !(atomic_load_explicit(&e->word, memory_order_acquire) & ENTRY_DEAD);
}

/* Registered for h: 0, or -errno. 1: there is one already, and *found holds it. */
static int find_or_make(struct hf_cache *c, struct thread_record *t, struct lookup *l,
			struct hold *h, struct hold **found)
{
	unsigned may = c->caching ? MAY_WAIT : 0;

	for (int i = 0; i < TRIES; i++) {
		struct entry *victims = NULL;
		uint64_t gone = atomic_load(&c->gone);
		struct entry *e;
		int rc;

		if (c->caching)
			switch_rest(c->sw);
		lock_with_room(c);
		*found = find_made(c, t, l);
		if (*found) {
			pthread_mutex_unlock(&c->lock);
			rc = stands(c, *found);
			if (rc == 1)
				return 1;
			cache_release(c, t, *found);
			if (rc < 0)
				break;
			continue;
		}
		rc = begin(c, l->start, l->end, l->access, may, &e, &victims);
		if (rc == -ENOMEM && (made_room(c, gone, false) || !(may & MAY_EXCEED))) {
			/* What is dead and not let go yet counts, too (I5): the second time it has gone. */
			may |= MAY_EXCEED;
			continue;
		}
		if (rc < 0)
			return rc;
		if (rc > 0) {
			may &= ~MAY_WAIT;
			continue;
		}
		pthread_mutex_unlock(&c->lock);
		rc = make(c, e, h, victims);
		if (rc != -EAGAIN)
			return rc;
	}
	return make_unwatched(c, l->start, l->end, l->access, h);
}

int cache_miss(struct hf_cache *c, struct thread_record *t, struct lookup *l, struct hold **out, bool *hit)
{
	struct hold *h = hold_take(&t->holds, t);
	struct hold *found = NULL;
	int rc;

	if (!h)
		return hf_set_error(-ENOMEM, "no memory for one hold more");
	rc = find_or_make(c, t, l, h, &found);
	if (rc)
		hold_clear(h, t);
	*hit = rc == 1;
	*out = rc == 1 ? found : h;
	return rc < 0 ? rc : 0;
}
