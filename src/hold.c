/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "hold.h"

#include <linux/membarrier.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os.h"
#include "thread.h"

_Atomic int hold_mode;
static _Atomic bool first_init; /* somebody has decided */

#define STORES_ARE_OUT_US 10000 /* a processor's store buffer drains in well under one */

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

/*
 * Before a cache takes its first hold. A seccomp filter or an old kernel (before 4.14) may refuse: then readers fence
 * themselves. What was decided stays: holds may be out. (A fork copies the registration with the address space.)
 */
void hold_init(void)
{
	int fenced = HOLD_FENCED;

	if (!FAULT("membarrier") && membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
	    !atomic_load(&first_init))
		atomic_compare_exchange_strong(&hold_mode, &fenced, HOLD_ASYMMETRIC);
	atomic_store(&first_init, true);
}

void hold_fence_all(void)
{
	int asymmetric = HOLD_ASYMMETRIC;

	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&hold_mode) == HOLD_ASYMMETRIC) {
		if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
			return;
		atomic_compare_exchange_strong(&hold_mode, &asymmetric, HOLD_LOST);
	}
	if (atomic_load(&hold_mode) == HOLD_LOST)
		os_sleep_us(STORES_ARE_OUT_US);
}

static void chain(struct holds *s, struct hold *holds, unsigned n, struct thread_record *owner)
{
	for (unsigned i = 0; i < n; i++) {
		holds[i].owner = owner;
		holds[i].next = s->free;
		s->free = &holds[i];
	}
}

void holds_init(struct holds *s, struct thread_record *owner)
{
	chain(s, s->first, HOLDS_FIRST, owner);
}

/* Chunks stay with the record: a thread that once held many will again. */
static void add_chunk(struct holds *s, struct thread_record *owner)
{
	struct hold_chunk *last = atomic_load(&s->more);
	unsigned count = last ? 2 * last->count : HOLDS_MORE;
	struct hold_chunk *c = os_pool_map(sizeof(*c) + count * sizeof(c->holds[0]));

	if (!c)
		return;
	c->count = count;
	atomic_store_explicit(&c->next, last, memory_order_relaxed);
	chain(s, c->holds, count, owner);
	atomic_store_explicit(&s->more, c, memory_order_release);
}

struct hold *hold_more(struct holds *s, struct thread_record *owner)
{
	struct hold *h;

	s->free = atomic_exchange_explicit(&s->returned, NULL, memory_order_acquire);
	if (!s->free)
		add_chunk(s, owner);
	h = s->free;
	if (h)
		s->free = h->next;
	return h;
}

/* To a record that isn't the caller's. */
static void give_back(struct hold *h)
{
	struct holds *s = &h->owner->holds;
	struct hold *head = atomic_load_explicit(&s->returned, memory_order_relaxed);

	do {
		h->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&s->returned, &head, h, memory_order_release,
							memory_order_relaxed));
}

/* It is cleared: back to its record. */
static void take_home(struct hold *h, struct thread_record *self)
{
	if (h->owner != self) {
		give_back(h);
	} else {
		h->next = self->holds.free;
		self->holds.free = h;
	}
	hold_fence();
}

void hold_clear(struct hold *h, struct thread_record *self)
{
	atomic_store_explicit(&h->entry, NULL, memory_order_release);
	take_home(h, self);
}

bool hold_clear_once(struct hold *h, struct thread_record *self, struct entry *e)
{
	if (!atomic_compare_exchange_strong_explicit(&h->entry, &e, NULL, memory_order_acq_rel, memory_order_relaxed))
		return false;
	take_home(h, self);
	return true;
}

static void each_of(struct hold *holds, unsigned n, void (*fn)(struct entry *e, void *arg), void *arg)
{
	for (unsigned i = 0; i < n; i++) {
		struct entry *e = atomic_load_explicit(&holds[i].entry, memory_order_acquire);

		if (e)
			fn(e, arg);
	}
}

/*
 * First the counts, then the entry. A place that isn't held may get another entry at any time: the other way round, the
 * old one would be taken for held by the counts of the new one, and nobody would put it.
 *
 * The place may still change hands between the two. Who then has put that entry into it did so after the heavy fence: it
 * looks at the entry's word behind that, or holds it otherwise until a put that does, and wakes whoever waits for it.
 */
static void each_recent(struct thread_record *t, void (*fn)(struct entry *e, void *arg), void *arg)
{
	for (int i = 0; i < RECENTS; i++) {
		struct recent *r = &t->recent[i];

		if (recent_is_held(r))
			fn(atomic_load_explicit(&r->entry, memory_order_acquire), arg);
	}
}

void hold_each(void (*fn)(struct entry *e, void *arg), void *arg)
{
	struct thread_record *t;

	for (unsigned i = 0; (t = thread_at(i)); i++) {
		struct hold_chunk *c = atomic_load_explicit(&t->holds.more, memory_order_acquire);

		each_recent(t, fn, arg);
		each_of(t->holds.first, HOLDS_FIRST, fn, arg);
		for (; c; c = atomic_load_explicit(&c->next, memory_order_relaxed))
			each_of(c->holds, c->count, fn, arg);
	}
}
