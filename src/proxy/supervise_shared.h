/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The memory that the owner's library and its supervisor share: see supervise.c for the protocol. Included by the
 * supervisor, too, which has no libc: nothing but types, atomics and inline functions in here.
 *
 * Every field has one writer, or is written by atomic operations that never wait. Nobody holds a lock in here, so a
 * process that is killed at any instruction leaves nothing locked.
 */
#ifndef HF_SUPERVISE_SHARED_H
#define HF_SUPERVISE_SHARED_H

#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SUP_ABI 1u
#define SUP_SLOTS 512u     /* calls that wait for the owner's answer at once */
#define SUP_DENIES 16384u  /* ranges that are denied at once */
#define SUP_CALLERS 16384u /* threads whose last call is remembered */
#define SUP_COUNTERS 4096u
#define SUP_BLOCK_SHIFT 21 /* 2 MiB */

/* Access, as HF_READ and HF_WRITE; and PROT_READ and PROT_WRITE have the same two values. */
#define SUP_READ 1u
#define SUP_WRITE 2u

/* ------------------------------------------------------------------ which blocks of addresses matter */

/*
 * A counting filter: how many secured ranges touch a block of 2 MiB. Blocks that are equal modulo SUP_COUNTERS share a
 * count. No hit is certain, a hit is not.
 */
struct sup_counters {
	_Atomic uint32_t total;
	_Atomic uint32_t everywhere; /* ranges of more blocks than there are counts */
	_Atomic uint32_t block[SUP_COUNTERS];
};

static inline uint64_t sup_blocks(uint64_t start, uint64_t end)
{
	return ((end - 1) >> SUP_BLOCK_SHIFT) - (start >> SUP_BLOCK_SHIFT) + 1;
}

/* `by`: 1, or -1 to take it back. Sequentially consistent: see the drawing of deny in supervise.c. */
static inline void sup_count(struct sup_counters *c, uint64_t start, uint64_t end, int by)
{
	uint64_t first = start >> SUP_BLOCK_SHIFT;
	uint64_t n = sup_blocks(start, end);

	atomic_fetch_add(&c->total, (uint32_t)by);
	if (n > SUP_COUNTERS) {
		atomic_fetch_add(&c->everywhere, (uint32_t)by);
		return;
	}
	for (uint64_t i = 0; i < n; i++)
		atomic_fetch_add(&c->block[(first + i) % SUP_COUNTERS], (uint32_t)by);
}

static inline bool sup_may_touch(const struct sup_counters *c, uint64_t start, uint64_t end)
{
	uint64_t first = start >> SUP_BLOCK_SHIFT;
	uint64_t n;

	if (start >= end || !atomic_load(&c->total))
		return false;
	n = sup_blocks(start, end);
	if (n > SUP_COUNTERS || atomic_load(&c->everywhere))
		return true;
	for (uint64_t i = 0; i < n; i++)
		if (atomic_load(&c->block[(first + i) % SUP_COUNTERS]))
			return true;
	return false;
}

/* ------------------------------------------------------------------ what is denied */

enum { SUP_DENY_FREE, SUP_DENY_WRITING, SUP_DENY_IN_FORCE };
#define SUP_DENY_STATE 3ull

/* state is [generation:62][of these:2]. Who moved it from free to writing owns the rest. */
struct sup_deny {
	_Atomic uint64_t state;
	_Atomic uint64_t start, end;
	_Atomic uint64_t access;
};

/* ------------------------------------------------------------------ calls */

enum sup_what {
	SUP_FREES,    /* the pages go */
	SUP_PROTECTS, /* fewer rights */
};

/* What only the owner can find out: which ranges the call means. */
enum sup_find {
	SUP_FOUND,
	SUP_FIND_BREAK,   /* brk: from argument 0 to the break */
	SUP_FIND_SEGMENT, /* shmdt: the pieces of the segment at range[0].start */
	SUP_FIND_SIZE,    /* shmat: `number` is the segment, range[0].start where it will be */
	SUP_FIND_VECTOR,  /* process_madvise: `number` iovecs at `vector` */
};

struct sup_range {
	uint64_t start, end;
};

/* One call, decoded: supervise_calls.h. */
struct sup_call {
	uint32_t what; /* enum sup_what */
	uint32_t find; /* enum sup_find */
	uint32_t prot; /* of SUP_PROTECTS */
	uint32_t silent; /* userfaultfd does not tell of it */
	uint32_t ranges; /* 0: it changes nothing */
	uint32_t number;
	uint64_t vector;
	struct sup_range range[2]; /* where it is not found yet: all that it may be */
};

enum sup_state {
	SUP_IDLE,
	SUP_RECEIVING, /* the kernel may write the notification; its id is 0 until it has */
	SUP_TAKEN,     /* the worker decides */
	SUP_ASKED,     /* the owner's turn */
	SUP_ANSWERED,  /* the worker's: send, then idle */
};

/* Aligned, so that no notification is on two pages: a worker killed while it receives has all of it, or nothing. */
struct sup_slot {
	_Atomic uint32_t state;
	int32_t error;  /* the owner's answer: 0 and no `refused`: go on */
	int64_t value;
	uint32_t refused;
	uint32_t pad;
	struct sup_call call;
	union {
		struct seccomp_notif notif;
		uint64_t room[24]; /* for a kernel whose notifications are longer */
	};
} __attribute__((aligned(512)));

_Static_assert(sizeof(struct sup_slot) == 512, "a page holds whole slots");

/* The last call of a thread that was let through, or is about to be. id UINT64_MAX: being written. 0: none. */
struct sup_caller {
	_Atomic uint32_t tid; /* 0: free. Set once, by the worker; moved to another tid when that thread is gone */
	_Atomic int32_t nr;
	_Atomic uint64_t id; /* the kernel's, of the notification */
	_Atomic uint64_t start, end; /* the hull of its ranges */
	_Atomic uint64_t arg[2];
};

struct sup_shared {
	uint32_t abi;
	uint32_t size;
	uint32_t owner;              /* pid */
	_Atomic uint32_t teller;     /* tid of the owner's thread that answers */
	uint64_t page;               /* bytes */
	_Atomic uint32_t open;       /* switches */
	_Atomic uint32_t gone;       /* the owner has ended, or is another program by now */
	_Atomic uint32_t deaf;       /* the owner's end of the socket is closed: nobody answers */
	_Atomic uint32_t gave_up;    /* ... and the thread that did so touches no slot any more */
	_Atomic uint32_t lost;       /* calls that were let through and not remembered: there was no room */
	_Atomic uint64_t highest_break;
	_Atomic uint32_t worker, guardian; /* pids; for tests and for `holdfast doctor` */
	_Atomic uint64_t received, asked_count, refused_count; /* statistics; the worker's */
	struct sup_counters notify, deny;
	_Atomic uint64_t asked[SUP_SLOTS / 64];    /* bit i: slot i is SUP_ASKED, perhaps */
	_Atomic uint64_t answered[SUP_SLOTS / 64]; /* likewise */
	_Atomic uint64_t callers[SUP_CALLERS / 64]; /* bit i: caller[i] was ever used */
	_Atomic uint32_t denies;     /* from here on none was ever used */
	struct sup_slot slot[SUP_SLOTS];
	struct sup_deny denied[SUP_DENIES];
	struct sup_caller caller[SUP_CALLERS];
};

/* By the worker, and once by the owner: supervise_deny.c. */
static inline void sup_raise_break(struct sup_shared *s, uint64_t to)
{
	uint64_t have = atomic_load(&s->highest_break);

	while (have < to && !atomic_compare_exchange_weak(&s->highest_break, &have, to))
		;
}

#define SUP_ERRNO_BUSY 16   /* EBUSY: it would free */
#define SUP_ERRNO_ACCESS 13 /* EACCES: it would protect */

static inline bool sup_forbids(uint64_t access, enum sup_what what, uint32_t prot)
{
	return what == SUP_FREES || (prot & access & (SUP_READ | SUP_WRITE)) != (access & (SUP_READ | SUP_WRITE));
}

/* Is an entry in force that forbids it? An entry that is being changed meanwhile is looked at again. */
static inline bool sup_entry_forbids(struct sup_deny *d, uint64_t start, uint64_t end, enum sup_what what, uint32_t prot)
{
	for (;;) {
		uint64_t state = atomic_load(&d->state);
		bool forbids;

		if ((state & SUP_DENY_STATE) != SUP_DENY_IN_FORCE)
			return false;
		forbids = atomic_load(&d->start) < end && atomic_load(&d->end) > start &&
			  sup_forbids(atomic_load(&d->access), what, prot);
		if (atomic_load(&d->state) == state)
			return forbids;
	}
}

/* 0, or the errno with which to refuse. */
static inline int sup_denied(struct sup_shared *s, uint64_t start, uint64_t end, enum sup_what what, uint32_t prot)
{
	uint32_t n = atomic_load(&s->denies);

	if (!sup_may_touch(&s->deny, start, end))
		return 0;
	for (uint32_t i = 0; i < n; i++)
		if (sup_entry_forbids(&s->denied[i], start, end, what, prot))
			return what == SUP_FREES ? SUP_ERRNO_BUSY : SUP_ERRNO_ACCESS;
	return 0;
}

#endif
