/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Securing by the program itself: MmSecureVirtualMemory (R37..R39). The range is in the list before it
 * is armed, as a placeholder of the cache is, so that no change falls between. With HF_NOTIFY it is watched, with HF_DENY
 * denied, with both first the one and then the other: what changed before it was denied is still told.
 */
#include <errno.h>

#include "cancel.h"
#include "error.h"
#include "os.h"
#include "switch.h"

struct secured {
	uint32_t free;             /* the pool's */
	uint32_t index;            /* its own in the pool */
	struct range range;
	uint32_t generation;       /* odd while in use: an id that was released is told from a new one */
	uint64_t watch_id;         /* HF_NOTIFY */
	uint64_t deny_id;          /* HF_DENY */
	_Atomic unsigned flags;    /* which of the two are in force */
	bool changed;
	hf_changed_fn fn;
	void *arg;
};

void secured_init(struct secured_list *l)
{
	pthread_mutex_init(&l->lock, NULL);
	pool_init(&l->pool, sizeof(struct secured), 0);
	index_nodes_init(&l->nodes);
	index_init(&l->index, &l->nodes);
}

void secured_destroy(struct secured_list *l)
{
	index_nodes_destroy(&l->nodes);
	pool_destroy(&l->pool);
	pthread_mutex_destroy(&l->lock);
}

struct change {
	struct secured_list *l;
	struct range range;
	bool unseen; /* only what is watched already has changed */
};

static void tell(uint32_t id, void *arg)
{
	const struct change *c = arg;
	struct secured *s = pool_at(&c->l->pool, id);
	uint64_t from = c->range.start > s->range.start ? c->range.start : s->range.start;
	uint64_t to = c->range.end < s->range.end ? c->range.end : s->range.end;

	if (c->unseen && !(atomic_load(&s->flags) & HF_NOTIFY))
		return;
	s->changed = true;
	if (s->fn)
		s->fn(s->arg, (void *)(uintptr_t)from, to - from);
}

/* Told once per change: a second telling of a range that was kept because somebody was busy is harmless. */
int secured_try_drop(struct hf_switch *sw, uint64_t start, uint64_t end)
{
	struct secured_list *l = &sw->secured;
	struct change change = { l, { start, end }, false };

	if (pthread_mutex_trylock(&l->lock) != 0)
		return -EAGAIN;
	index_each_touching(&l->index, start, end, tell, &change);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

/*
 * If unseen, a range whose secure() has not returned is left out: it may be this very call that
 * found the memory unwatched. Whoever relies on that range looks at the memory after secure(),
 * hence after the change.
 */
void secured_drop(struct hf_switch *sw, uint64_t start, uint64_t end, bool unseen)
{
	struct secured_list *l = &sw->secured;
	struct change change = { l, { start, end }, unseen };

	pthread_mutex_lock(&l->lock);
	index_each_touching(&l->index, start, end, tell, &change);
	pthread_mutex_unlock(&l->lock);
}

bool secured_touches(struct hf_switch *sw, uint64_t start, uint64_t end)
{
	struct secured_list *l = &sw->secured;
	uint32_t found;
	bool any;

	pthread_mutex_lock(&l->lock);
	any = index_find_touching(&l->index, start, end, &found, 1) != 0;
	pthread_mutex_unlock(&l->lock);
	return any;
}

/* False, and not locked: no memory. */
static bool lock_with_room(struct secured_list *l)
{
	pthread_mutex_lock(&l->lock);
	while (!pool_room(&l->pool) || !index_has_room(&l->nodes)) {
		pthread_mutex_unlock(&l->lock);
		if (pool_reserve(&l->pool, 1, &l->lock) < 0 || index_reserve(&l->nodes, &l->lock) < 0)
			return false;
		pthread_mutex_lock(&l->lock);
	}
	return true;
}

/* It is found by its id, and told; nothing is in force yet. */
static struct secured *insert(struct secured_list *l, struct range r, hf_changed_fn fn, void *arg)
{
	struct secured *s;
	uint32_t index;

	if (!lock_with_room(l))
		return NULL;
	s = pool_get(&l->pool, &index);
	s->index = index; /* the same in each of its lives */
	s->generation++;
	s->flags = 0;
	s->watch_id = s->deny_id = 0;
	s->changed = false;
	s->fn = fn;
	s->arg = arg;
	s->range = r;
	index_insert(&l->index, r.start, r.end, index);
	l->count++;
	pthread_mutex_unlock(&l->lock);
	return s;
}

static void take_out(struct secured_list *l, struct secured *s)
{
	index_remove(&l->index, s->range.start, s->index);
	s->generation++;
	l->count--;
	pool_put(&l->pool, s->index);
}

/* lock held: the record of an id, or NULL. */
static struct secured *lookup(struct secured_list *l, uint64_t id)
{
	uint32_t index = (uint32_t)id;
	struct secured *s = index < l->pool.made ? pool_at(&l->pool, index) : NULL;

	return s && s->generation == (uint32_t)(id >> 32) && (s->generation & 1) ? s : NULL;
}

/* What is in force of it ends. */
static void release(struct hf_switch *sw, const struct secured *s)
{
	if (s->flags & HF_DENY)
		sw->ops.unsecure(sw->proxy, s->range.start, s->range.end, s->deny_id);
	if (s->flags & HF_NOTIFY)
		sw->ops.unsecure(sw->proxy, s->range.start, s->range.end, s->watch_id);
}

static int watch(struct hf_switch *sw, struct secured *s, unsigned access)
{
	int rc = sw->ops.secure(sw->proxy, s->range.start, s->range.end, access, &s->watch_id);

	/* The proxy has said why. */
	if (rc == HF_WATCH_LATER)
		return -EAGAIN;
	if (rc == HF_UNWATCHED)
		return -EOPNOTSUPP;
	if (rc == 0)
		s->flags |= HF_NOTIFY;
	return rc;
}

static int deny(struct hf_switch *sw, struct secured *s, unsigned access)
{
	int rc = sw->ops.deny(sw->proxy, s->range.start, s->range.end, access, &s->deny_id);

	if (rc == 0)
		s->flags |= HF_DENY;
	return rc;
}

/* Nothing changed between. The proxy may have left the rights to us (R37). */
static int confirm(struct hf_switch *sw, struct secured *s, unsigned access)
{
	int rc = hf_range_check(s->range.start, s->range.end, access);
	bool changed;

	if (rc)
		return rc;
	rc = switch_settle(sw, switch_parts(sw, s->watch_id));
	pthread_mutex_lock(&sw->secured.lock);
	changed = s->changed;
	pthread_mutex_unlock(&sw->secured.lock);
	if (!rc && !changed)
		return 0;
	return hf_set_error(-EAGAIN, "the range changed while it was being secured");
}

/* Secured from now on: 0. Else nothing is in force. */
static int arm(struct hf_switch *sw, struct secured *s, unsigned flags)
{
	unsigned access = flags & HF_READWRITE;
	struct error_kept kept;
	int rc;

	error_keep(&kept);
	rc = flags & HF_NOTIFY ? watch(sw, s, access) : 0;
	if (!rc && (flags & HF_DENY))
		rc = deny(sw, s, access);
	if (!rc && (flags & HF_NOTIFY))
		rc = confirm(sw, s, access);
	if (rc)
		release(sw, s);
	return error_restore(&kept, rc);
}

static int check_flags(struct hf_switch *sw, unsigned flags)
{
	unsigned access = flags & HF_READWRITE;

	if ((flags & ~(HF_READWRITE | HF_NOTIFY | HF_DENY)) || !(flags & (HF_NOTIFY | HF_DENY)) ||
	    (access != HF_READ && access != HF_READWRITE))
		return hf_set_error(-EINVAL, "flags 0x%x: HF_READ or HF_READWRITE, and HF_NOTIFY or "
				    "HF_DENY or both", flags);
	if ((flags & HF_DENY) && !((sw->ops.caps & HF_CAP_DENY) && sw->ops.deny))
		return hf_set_error(-ENOTSUP, "the proxy `%s` can't refuse changes (HF_DENY): ask for "
				    "HF_NOTIFY, or use a proxy that `holdfast doctor` shows with deny",
				    sw->ops.name);
	if ((flags & HF_NOTIFY) && !sw->ops.secure)
		return hf_set_error(-EOPNOTSUPP, "no proxy watches this process: `holdfast doctor` says why");
	return 0;
}

int hf_secure(struct hf_switch *sw, void *addr, size_t len, unsigned flags, hf_changed_fn changed,
	      void *arg, uint64_t *id)
{
	NOT_CANCELLED;
	struct secured *s;
	struct range r;
	int rc = switch_enter(sw);

	if (!rc)
		rc = check_flags(sw, flags);
	if (!rc && !id)
		rc = hf_set_error(-EINVAL, "no place for the id");
	if (!rc)
		rc = range_round(addr, len, &r);
	if (!rc && (r.end - r.start) / os_page_size() > INDEX_MAX_PAGES)
		rc = hf_set_error(-EINVAL, "the length is %zu; at most %llu can be secured at once", len,
				  (unsigned long long)(INDEX_MAX_PAGES * os_page_size()));
	if (rc)
		return rc;
	s = insert(&sw->secured, r, flags & HF_NOTIFY ? changed : NULL, arg);
	if (!s)
		return hf_set_error(-ENOMEM, "no memory to secure one range more");
	rc = arm(sw, s, flags);
	if (rc) {
		pthread_mutex_lock(&sw->secured.lock);
		take_out(&sw->secured, s);
		pthread_mutex_unlock(&sw->secured.lock);
		return rc;
	}
	*id = (uint64_t)s->generation << 32 | s->index;
	return 0;
}

int hf_secured_changed(struct hf_switch *sw, uint64_t id)
{
	NOT_CANCELLED;
	unsigned parts;
	struct secured *s;
	int rc = switch_enter(sw);
	int told;

	if (rc)
		return rc;
	pthread_mutex_lock(&sw->secured.lock);
	s = lookup(&sw->secured, id);
	parts = s && (s->flags & HF_NOTIFY) ? switch_parts(sw, s->watch_id) : 0;
	pthread_mutex_unlock(&sw->secured.lock);
	/* "Not changed" is an answer only when all is told whose call has returned. */
	told = parts ? switch_wait_told(sw, parts) : 0;
	pthread_mutex_lock(&sw->secured.lock);
	s = lookup(&sw->secured, id);
	rc = s ? s->changed : -EINVAL;
	pthread_mutex_unlock(&sw->secured.lock);
	if (rc < 0)
		return hf_set_error(rc, "no range is secured under this id");
	if (!rc && told)
		return hf_set_error(told, "something is changing, and what it is was not told within a second: ask again");
	return rc;
}

int hf_unsecure(struct hf_switch *sw, uint64_t id)
{
	NOT_CANCELLED;
	struct secured_list *l;
	struct secured *s, was = { 0 };
	int rc = switch_enter(sw);

	if (rc)
		return rc;
	l = &sw->secured;
	pthread_mutex_lock(&l->lock);
	s = lookup(l, id);
	if (s) {
		was = *s;
		take_out(l, s);
	}
	pthread_mutex_unlock(&l->lock);
	if (!s)
		return hf_set_error(-EINVAL, "no range is secured under this id: unsecured already?");
	release(sw, &was);
	return 0;
}
