/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Holds: who uses an entry between get and put (I2), without a shared counter.
 *
 * A hold is a word in memory of the thread that got, which says which entry it uses. Nobody else
 * writes near it, so a hit moves no cache line between processors and needs no locked instruction. Who
 * wants to take an entry away reads all threads' holds. That is a store and a load against a store and a load,
 * which both sides must order; the reader's half costs nothing, because the other side makes every
 * processor that runs one of our threads do a full barrier (membarrier(2)):
 *
 *   getter                              who takes away (reaper, evict)
 *   ------------------------------      --------------------------------
 *   hold = e                            word of e |= DEAD
 *   (compiler barrier)                  membarrier
 *   word of e: LIVE?                    any hold == e?
 *
 *   Either the getter sees DEAD and lets go, or the hold is seen. And at the end:
 *
 *   putter                              reaper
 *   ------------------------------      --------------------------------
 *   hold = NULL                         word of e is DEAD
 *   (compiler barrier)                  membarrier
 *   word of e: DEAD? wake the reaper    any hold == e? then wait to be woken
 *
 *   Either the putter sees DEAD and wakes, or the hold is seen as gone.
 *
 * There are two kinds. What a thread finds is held by counts beside what it remembers (struct recent in thread.h): a
 * hit adds one, a put adds one. What a miss has made, and what is found while that place is held for something else,
 * has a hold to itself, of this file.
 *
 * Any thread may put. To a count it adds one of the owner's record that is for others. A hold goes back to the
 * thread that it belongs to: its own through a plain list, another's through a stack that the owner empties.
 * When a thread ends, its record goes to the next new thread, with the holds that are still out.
 */
#ifndef HF_HOLD_H
#define HF_HOLD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct entry;
struct thread_record;

struct hold {
	_Atomic(struct entry *) entry; /* NULL: free */
	struct hold *next;             /* in a free list */
	struct thread_record *owner;
};

#define HOLDS_FIRST 8   /* in the record itself */
#define HOLDS_MORE  128 /* in the second chunk; each further one has twice as many as the last */

struct hold_chunk {
	struct hold_chunk *_Atomic next; /* the older one */
	unsigned count;
	struct hold holds[];
};

/* Part of a thread's record. */
struct holds {
	struct hold *free;              /* the owner's own */
	struct hold *_Atomic returned;  /* put by other threads */
	struct hold_chunk *_Atomic more;
	struct hold first[HOLDS_FIRST];
};

/*
 * How the two halves of the fence are split. ASYMMETRIC: membarrier(2) works, and the readers' half is free. FENCED:
 * it never did, readers fence themselves. LOST: it did, and was forbidden since (a sandbox entered late); the heavy
 * half waits long enough for every store that was made without a fence.
 */
enum hold_mode { HOLD_FENCED, HOLD_ASYMMETRIC, HOLD_LOST };
extern _Atomic int hold_mode;

/* At the opening of a switch, before any cache. */
void hold_init(void);
void holds_init(struct holds *h, struct thread_record *owner);
/* The slow half of hold_take(): what other threads gave back, or a new chunk. NULL: no memory. */
struct hold *hold_more(struct holds *h, struct thread_record *owner);

/* The light half of the fence, and the heavy one. */
static inline void hold_fence(void)
{
	if (__builtin_expect(atomic_load_explicit(&hold_mode, memory_order_relaxed) == HOLD_ASYMMETRIC,
			     1))
		atomic_signal_fence(memory_order_seq_cst);
	else
		atomic_thread_fence(memory_order_seq_cst);
}

void hold_fence_all(void);

/* Call fn for each entry that is held by any thread at this moment. */
void hold_each(void (*fn)(struct entry *e, void *arg), void *arg);

static inline struct hold *hold_take(struct holds *s, struct thread_record *owner)
{
	struct hold *h = s->free;

	if (__builtin_expect(!h, 0))
		return hold_more(s, owner);
	s->free = h->next;
	return h;
}

/* Point it at e; then look whether e still lives. */
static inline void hold_set(struct hold *h, struct entry *e)
{
	atomic_store_explicit(&h->entry, e, memory_order_release);
	hold_fence();
}

/* The entry is let go; then look whether it is dead. Afterwards the hold must not be touched. */
void hold_clear(struct hold *h, struct thread_record *self);
/* The same, if it is of e still. False, and nothing is done: another thread has let go of it. */
bool hold_clear_once(struct hold *h, struct thread_record *self, struct entry *e);

#endif
