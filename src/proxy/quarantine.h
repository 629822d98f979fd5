/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Ranges of which the kernel said that they will be emptied (MADV_DONTNEED and the like), and of which it isn't
 * proved yet that they have been: see thread.h. While a range is in here, what touches it isn't cached.
 *
 * Written by the event thread without a lock, read and cleared by any thread. `stamp` is written last
 * and compared when a slot is cleared, so that a range which was added again in the same slot stays.
 */
#ifndef HF_QUARANTINE_H
#define HF_QUARANTINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define QUARANTINE_SLOTS 256

struct quarantine {
	struct quarantined {
		_Atomic uint64_t stamp; /* 0: free */
		_Atomic uint64_t start, end;
	} slot[QUARANTINE_SLOTS];
	_Atomic int used;           /* slots from here on were never filled */
	_Atomic uint64_t next_try;  /* CLOCK_MONOTONIC ns: not to read /proc all the time in vain */
	_Atomic uint64_t backoff;
};

/* The event thread only. Never fails: with all slots taken, one of them grows to cover everything. */
void quarantine_add(struct quarantine *q, uint64_t start, uint64_t end);

/* Does anything in here touch [start, end)? Tries first to prove that it is over. `except`: the event thread. */
bool quarantine_covers(struct quarantine *q, uint64_t start, uint64_t end, int except);

#endif
