/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Proof that a call of another thread has ended.
 *
 * userfaultfd tells of MADV_DONTNEED *before* the pages go, and nothing tells that the madvise has
 * returned. A registration made in between would be stale. So the range stays uncached until every
 * thread of the process has been seen outside of that madvise: by a call of its own into the library
 * (each leaves the clock's value in its record), or asleep in some other system call, be it an madvise
 * of other memory, or in user mode, by its user time having grown.
 *
 *   thread R: madvise           event thread            thread G: hf_get
 *   ------------------          -----------------       -----------------------
 *   REMOVE event, waits ......> read it
 *                               clock = 7, range
 *                               quarantined at 7
 *   wakes                                               miss; pin the OLD page
 *   zaps the page                                       range is quarantined: R is not yet
 *   returns                                             seen at 7 or later: not cached
 *   hf_get: seen = 7                                    next miss: all seen: cached again
 *
 * Outside of what can be proved: a process that shares the address space without being one of its
 * threads (CLONE_VM without CLONE_THREAD, a vfork child before its exec) and calls madvise there.
 */
#ifndef HF_THREAD_H
#define HF_THREAD_H

#include <holdfast/holdfast.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hold.h"

/* What this thread found lately, by the page at which its request began: see hit.c. */
struct recent {
	uint64_t cache;          /* the cache's number; 0: empty */
	uint64_t word;           /* the entry's, when it was found: the same as long as it lives */
	struct entry *entry;
	struct hf_region region; /* as hf_get() will answer it, but for the hold */
} __attribute__((aligned(128)));

#define RECENTS 64
#define COUNTERS 256 /* providers that may be open in one process: each has a counter of hits in each record */

/* One per thread, of memory that nobody else writes to, but for holds that others put. */
struct thread_record {
	struct holds holds;    /* first: see hold_clear() */
	_Atomic int tid;       /* 0: free */
	_Atomic uint64_t seen; /* thread_clock at the last call into the library */
	_Atomic uint64_t hits[COUNTERS]; /* by the cache's counter; written by the owner only */
	struct recent recent[RECENTS];
} __attribute__((aligned(128)));

extern _Atomic uint64_t thread_clock;
extern _Thread_local struct thread_record *thread_self __attribute__((tls_model("initial-exec")));

/* The calling thread's record, made if need be. NULL: no memory, or over 65 536 threads. */
struct thread_record *thread_attach(void);

static inline struct thread_record *thread_get(void)
{
	struct thread_record *t = thread_self;

	return __builtin_expect(t != NULL, 1) ? t : thread_attach();
}

/* The i-th record that was ever made; NULL past the last. */
struct thread_record *thread_at(unsigned i);

/* The calling thread is in the library, hence in no madvise. Called on every hit: one load, rarely a store. */
static inline void thread_seen(struct thread_record *t)
{
	uint64_t now = atomic_load_explicit(&thread_clock, memory_order_acquire);

	if (__builtin_expect(atomic_load_explicit(&t->seen, memory_order_relaxed) != now, 0))
		atomic_store_explicit(&t->seen, now, memory_order_release);
}

/* A thread of the library's own that is in no call which could lead to an madvise, and again in one. */
static inline void thread_rest(void)
{
	if (thread_self || thread_attach())
		atomic_store_explicit(&thread_self->seen, UINT64_MAX, memory_order_release);
}

static inline void thread_work(void)
{
	if (thread_self)
		atomic_store(&thread_self->seen, atomic_load(&thread_clock));
}

/* Advance the clock; the new value. */
uint64_t thread_tick(void);

/*
 * What can be proved of all threads of this process but `except`, about the madvise calls that were under
 * way when the clock showed `stamp`: ALL_OVER: every one has ended. OVER_HERE: every one that touches [start,
 * end) has. Reads /proc; doesn't allocate.
 */
enum proof { NOT_PROVED, OVER_HERE, ALL_OVER };
enum proof thread_prove(uint64_t stamp, uint64_t start, uint64_t end, int except);

#endif
