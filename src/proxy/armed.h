/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the proxy `uffd` remembers of the mappings that it has armed, so that a registration in one of them need not
 * look at the mappings and arm again; and of what has left, which is how it knows that it still holds.
 *
 * A mapping leaves the context in which it is armed only by an event of that context. The event thread notes what
 * left after the read and before it tells. `since` is the count of these notes from before the arming. So
 * "armed in part p, and nothing of it among the notes from `since` on" means: nothing of it has left, but for what
 * is not told yet. And what is not told yet finds the caller's placeholder:
 *
 *   getter (in secure)                  event thread
 *   ------------------------------      ------------------------------
 *   lock; placeholder; unlock
 *                                       read: [a, b) was unmapped
 *                                       note it
 *   looks at the notes
 *                                       lock; marks what touches [a, b); unlock
 *
 * The cache's lock orders the two. Either the placeholder came first, then it is marked. Or the telling did; then the
 * note, which came before the telling, is there when the getter looks.
 */
#ifndef HF_ARMED_H
#define HF_ARMED_H

#include <holdfast/backend.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define ARMED_SLOTS 32
#define LEFT_NOTES 64

/* The latest ranges that left one part: note i is in range[i % LEFT_NOTES]. */
struct left {
	_Atomic uint64_t count; /* of notes ever */
	struct {
		_Atomic uint64_t start, end;
	} range[LEFT_NOTES];
};

struct armed {
	struct left left[HF_SINK_PARTS]; /* written by the event thread, without a lock */
	pthread_mutex_t lock;            /* the slots; the event thread never takes it */
	unsigned next;
	struct armed_slot {
		uint64_t start, end; /* a whole mapping; 0, 0: free */
		uint64_t since;
		unsigned part;
	} slot[ARMED_SLOTS];
};

void armed_init(struct armed *a);
void armed_destroy(struct armed *a);

/* The event thread only, after the read and before it tells. */
void armed_left(struct armed *a, unsigned part, uint64_t start, uint64_t end);

/* To be read before the arming. */
uint64_t armed_since(struct armed *a, unsigned part);
/* Nothing of [start, end) is noted to have left `part` since. */
bool armed_still(struct armed *a, unsigned part, uint64_t since, uint64_t start, uint64_t end);
/* Memory there came and went lately. A hint. */
bool armed_lately_left(struct armed *a, uint64_t start, uint64_t end);

/* And nothing that it touches is armed otherwise. */
void armed_remember(struct armed *a, unsigned part, uint64_t since, uint64_t start, uint64_t end);
/* Forget what touches the range: it is not armed as it was. */
void armed_forget(struct armed *a, uint64_t start, uint64_t end);
/* The part in which all of [start, end) is armed, for a caller whose placeholder is where it will be told; or -1. */
int armed_find(struct armed *a, uint64_t start, uint64_t end);

#endif
