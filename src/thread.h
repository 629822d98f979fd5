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

/*
 * What this thread found lately, by the page at which its request began, and its holds of it: hit.c. Held is what was
 * got and not put: gets - puts - returned. While that isn't 0, the place keeps its entry.
 */
struct recent {
	/* The owner's line: all that a hit reads and writes. */
	uint64_t gate;          /* the cache's gate when the entry was last known to live */
	_Atomic uint64_t gets;  /* of all that was ever remembered here */
	_Atomic uint64_t puts;  /* by this thread */
	uint64_t addr, length, lkey, rkey; /* as struct hf_region begins */
	uint32_t access;
	uint32_t asked;         /* the access that was asked for */
	/* What others read, and what they put. */
	_Atomic(struct entry *) entry;
	_Atomic uint64_t cache; /* the cache's number; 0: empty */
	uint64_t word;          /* the entry's, as long as it lives */
	uint32_t counter;       /* the cache's */
	_Atomic uint64_t returned; /* puts by other threads */
	_Atomic uint64_t counted;  /* gets of what was remembered here before; the cache has them */
} __attribute__((aligned(128)));

#define RECENTS 64
#define COUNTERS 256 /* providers that may be open in one process: each has a counter of hits in each record */

/*
 * One per thread, of memory that nobody else writes to, but for what others put. The kernel wipes it in a forked
 * child, so that a hit needs no look at who we are (I7).
 */
struct thread_record {
	struct recent recent[RECENTS]; /* first: the shortest way for a hit */
	struct holds holds;
	_Atomic int tid;       /* 0: free */
	_Atomic uint64_t seen; /* thread_clock at the last call into the library that was more than a hit */
	_Atomic uint64_t hits[COUNTERS]; /* by the cache's counter; written by the owner only */
} __attribute__((aligned(128)));

extern _Atomic uint64_t thread_clock;
/* Never NULL: before the first call of a thread a record without a number, in which nothing is ever found. */
extern _Thread_local struct thread_record *thread_self __attribute__((tls_model("initial-exec")));

/*
 * The calling thread's record, made if need be. NULL, with errno and the sentence: no memory, no
 * key, or over 65 536 threads.
 */
struct thread_record *thread_attach(void);

static inline struct thread_record *thread_get(void)
{
	struct thread_record *t = thread_self;
	bool mine = atomic_load_explicit(&t->tid, memory_order_relaxed) != 0;

	return __builtin_expect(mine, 1) ? t : thread_attach();
}

/* The i-th record that was ever made; NULL past the last. */
struct thread_record *thread_at(unsigned i);

/* Hits that the cache's counter in this record hasn't yet. */
static inline uint64_t recent_hits(const struct recent *r)
{
	return atomic_load_explicit(&r->gets, memory_order_relaxed) -
	       atomic_load_explicit(&r->counted, memory_order_relaxed);
}

/*
 * How many holds: exact for the owner. The counts have 64 bits and never wrap: 2^32 gets that
 * another thread has put once made a held place look free. Below 0: a region was put twice, by its
 * owner and by another thread at the same moment.
 */
static inline int64_t recent_balance(const struct recent *r)
{
	uint64_t puts = atomic_load_explicit(&r->puts, memory_order_acquire);
	uint64_t returned = atomic_load_explicit(&r->returned, memory_order_acquire);

	/* The gets last: see recent_is_held(). */
	return (int64_t)(atomic_load_explicit(&r->gets, memory_order_acquire) - puts - returned);
}

static inline bool recent_held(const struct recent *r)
{
	return recent_balance(r) > 0;
}

/*
 * Any thread: count one put by another thread than the owner. False: all that was got is put, and
 * nothing is counted.
 */
static inline bool recent_return(struct recent *r)
{
	uint64_t returned = atomic_load_explicit(&r->returned, memory_order_relaxed);

	do {
		uint64_t puts = atomic_load_explicit(&r->puts, memory_order_acquire);

		if ((int64_t)(atomic_load_explicit(&r->gets, memory_order_acquire) - puts - returned) <= 0)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&r->returned, &returned, returned + 1, memory_order_acq_rel,
							memory_order_relaxed));
	return true;
}

/* The owner: puts that were too many are taken out of the count. */
static inline void recent_mend(struct recent *r)
{
	int64_t balance = recent_balance(r);

	if (__builtin_expect(balance < 0, 0))
		atomic_fetch_sub_explicit(&r->returned, (uint64_t)-balance, memory_order_relaxed);
}

/* Also for another thread's, while that goes on using it: what is held all the time is never missed. */
static inline bool recent_is_held(const struct recent *r)
{
	uint64_t puts = atomic_load_explicit(&r->puts, memory_order_acquire);
	uint64_t returned;

	/* In 64 bits: then nothing is held, whatever others have put. It saves a cache line. */
	if (atomic_load_explicit(&r->gets, memory_order_acquire) == puts)
		return false;
	/* The gets last: what was got and given back since must not make up for what is still out. */
	returned = atomic_load_explicit(&r->returned, memory_order_acquire);
	return (int64_t)(atomic_load_explicit(&r->gets, memory_order_acquire) - puts - returned) > 0;
}

_Static_assert(sizeof(struct recent) == 128 && offsetof(struct recent, entry) == 64, "the owner's line first");

/* The calling thread is in the library, hence in no madvise: one load, rarely a store. */
static inline void thread_seen(struct thread_record *t)
{
	uint64_t now = atomic_load_explicit(&thread_clock, memory_order_acquire);

	if (__builtin_expect(atomic_load_explicit(&t->seen, memory_order_relaxed) != now, 0))
		atomic_store_explicit(&t->seen, now, memory_order_release);
}

/* A thread of the library's own that is in no call which could lead to an madvise, and again in one. */
static inline void thread_rest(void)
{
	struct thread_record *t = thread_get();

	if (t)
		atomic_store_explicit(&t->seen, UINT64_MAX, memory_order_release);
}

static inline void thread_work(void)
{
	struct thread_record *t = thread_get();

	if (t)
		atomic_store(&t->seen, atomic_load(&thread_clock));
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

/*
 * The same of the calls of which concerns() is true, by their number, wherever they work: true: each has ended. was_out():
 * it is known otherwise that the thread was outside since. What an io_uring's worker does is no call.
 */
bool thread_prove_out(uint64_t stamp, int except, bool (*was_out)(int tid), bool (*concerns)(int nr));

#endif
