/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "armed.h"

void armed_init(struct armed *a)
{
	pthread_mutex_init(&a->lock, NULL);
}

void armed_destroy(struct armed *a)
{
	pthread_mutex_destroy(&a->lock);
}

/* ------------------------------------------------------------------ what left */

void armed_left(struct armed *a, unsigned part, uint64_t start, uint64_t end)
{
	struct left *l = &a->left[part];
	uint64_t n = atomic_load_explicit(&l->count, memory_order_relaxed);

	/* Release, each of them: who reads a new range here sees that n notes had been made before it. */
	atomic_store_explicit(&l->range[n % LEFT_NOTES].start, start, memory_order_release);
	atomic_store_explicit(&l->range[n % LEFT_NOTES].end, end, memory_order_release);
	atomic_store_explicit(&l->count, n + 1, memory_order_release);
}

/* Does note n touch the range? Only if it isn't being overwritten: the caller looks at the count afterwards. */
static bool note_touches(const struct left *l, uint64_t n, uint64_t start, uint64_t end)
{
	uint64_t from = atomic_load_explicit(&l->range[n % LEFT_NOTES].start, memory_order_acquire);
	uint64_t to = atomic_load_explicit(&l->range[n % LEFT_NOTES].end, memory_order_acquire);

	return from < end && to > start;
}

bool armed_still(struct armed *a, unsigned part, uint64_t since, uint64_t start, uint64_t end)
{
	const struct left *l = &a->left[part];
	uint64_t count = atomic_load_explicit(&l->count, memory_order_acquire);

	if (count - since >= LEFT_NOTES)
		return false;
	for (uint64_t n = since; n != count; n++)
		if (note_touches(l, n, start, end))
			return false;
	/* Note `since` is the first that is overwritten, when LEFT_NOTES more have been made. */
	return atomic_load_explicit(&l->count, memory_order_acquire) - since < LEFT_NOTES;
}

bool armed_lately_left(struct armed *a, uint64_t start, uint64_t end)
{
	for (unsigned part = 0; part < HF_SINK_PARTS; part++) {
		const struct left *l = &a->left[part];
		uint64_t count = atomic_load_explicit(&l->count, memory_order_acquire);

		for (uint64_t n = count > LEFT_NOTES ? count - LEFT_NOTES : 0; n != count; n++)
			if (note_touches(l, n, start, end))
				return true;
	}
	return false;
}

/* ------------------------------------------------------------------ what is armed */

uint64_t armed_since(struct armed *a, unsigned part)
{
	return atomic_load_explicit(&a->left[part].count, memory_order_acquire);
}

/* lock held. One of the slots that have become free, or NULL. */
static struct armed_slot *forget(struct armed *a, uint64_t start, uint64_t end)
{
	struct armed_slot *freed = NULL;

	for (unsigned i = 0; i < ARMED_SLOTS; i++) {
		struct armed_slot *s = &a->slot[i];

		if (s->start >= end || s->end <= start)
			continue;
		s->start = s->end = 0;
		freed = s;
	}
	return freed;
}

void armed_forget(struct armed *a, uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&a->lock);
	forget(a, start, end);
	pthread_mutex_unlock(&a->lock);
}

void armed_remember(struct armed *a, unsigned part, uint64_t since, uint64_t start, uint64_t end)
{
	struct armed_slot *to;

	pthread_mutex_lock(&a->lock);
	to = forget(a, start, end);
	if (!to)
		to = &a->slot[a->next++ % ARMED_SLOTS];
	*to = (struct armed_slot){ start, end, since, part };
	pthread_mutex_unlock(&a->lock);
}

/* lock held. What still holds, holds from now on: so that its notes are not overwritten while it is in use. */
static bool holds(struct armed *a, struct armed_slot *s)
{
	uint64_t now = atomic_load_explicit(&a->left[s->part].count, memory_order_acquire);

	if (now != s->since && !armed_still(a, s->part, s->since, s->start, s->end)) {
		s->start = s->end = 0;
		return false;
	}
	s->since = now;
	return true;
}

int armed_find(struct armed *a, uint64_t start, uint64_t end)
{
	int part = -1;

	pthread_mutex_lock(&a->lock);
	for (unsigned i = 0; i < ARMED_SLOTS && part < 0; i++) {
		struct armed_slot *s = &a->slot[i];

		if (s->start <= start && s->end >= end && holds(a, s))
			part = (int)s->part;
	}
	pthread_mutex_unlock(&a->lock);
	return part;
}
