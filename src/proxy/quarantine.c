/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "quarantine.h"

#include "../os.h"
#include "../thread.h"

#define BACKOFF_MIN 50000ull   /* ns */
#define BACKOFF_MAX 5000000ull

static void write_slot(struct quarantined *s, uint64_t start, uint64_t end, uint64_t stamp)
{
	atomic_store(&s->start, start);
	atomic_store(&s->end, end);
	atomic_store(&s->stamp, stamp);
}

/*
 * Nobody but the event thread fills a free slot, so one that is seen free stays free. A slot in use is
 * never shrunk or moved here, only the last one grows, over everything: a reader that meets it half
 * written sees the old range or the whole, and the old stamp can't clear the new one.
 */
void quarantine_add(struct quarantine *q, uint64_t start, uint64_t end)
{
	uint64_t stamp = thread_tick();
	struct quarantined *last = &q->slot[QUARANTINE_SLOTS - 1];

	for (int i = 0; i < QUARANTINE_SLOTS - 1; i++) {
		if (!atomic_load(&q->slot[i].stamp)) {
			write_slot(&q->slot[i], start, end, stamp);
			if (atomic_load(&q->used) <= i)
				atomic_store(&q->used, i + 1);
			return;
		}
	}
	write_slot(last, 0, UINT64_MAX, stamp);
	atomic_store(&q->used, QUARANTINE_SLOTS);
}

static enum proof prove(struct quarantine *q, uint64_t stamp, uint64_t start, uint64_t end, int except)
{
	uint64_t wait = atomic_load(&q->backoff);
	enum proof proof;

	if (os_now_ns() < atomic_load(&q->next_try))
		return NOT_PROVED;
	proof = thread_prove(stamp, start, end, except);
	wait = proof != NOT_PROVED ? 0 : wait * 2 < BACKOFF_MIN ? BACKOFF_MIN : wait * 2;
	wait = wait > BACKOFF_MAX ? BACKOFF_MAX : wait;
	atomic_store(&q->backoff, wait);
	atomic_store(&q->next_try, os_now_ns() + wait);
	return proof;
}

/* All that is as old as `stamp` is over, too. */
static void clear_until(struct quarantine *q, uint64_t stamp)
{
	for (int i = 0; i < atomic_load(&q->used); i++) {
		uint64_t s = atomic_load(&q->slot[i].stamp);

		if (s && s <= stamp)
			atomic_compare_exchange_strong(&q->slot[i].stamp, &s, 0);
	}
}

/* The youngest stamp of those that touch the range; 0 when none does. */
static uint64_t touching(struct quarantine *q, uint64_t start, uint64_t end)
{
	uint64_t youngest = 0;

	for (int i = 0; i < atomic_load(&q->used); i++) {
		struct quarantined *s = &q->slot[i];
		uint64_t stamp = atomic_load(&s->stamp);

		if (stamp && atomic_load(&s->start) < end && atomic_load(&s->end) > start &&
		    stamp > youngest)
			youngest = stamp;
	}
	return youngest;
}

bool quarantine_covers(struct quarantine *q, uint64_t start, uint64_t end, int except)
{
	uint64_t stamp = touching(q, start, end);

	if (!stamp)
		return false;
	switch (prove(q, stamp, start, end, except)) {
	case ALL_OVER:
		clear_until(q, stamp);
		return touching(q, start, end) != 0;
	case OVER_HERE:
		/* Other ranges stay in. A new one that touches this was told, and marked the placeholder. */
		return false;
	default:
		return true;
	}
}
