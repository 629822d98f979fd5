/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hints: which entry begins at this page? Beside the index, which knows all: a hint takes one or two cache lines
 * where the index takes a few, and may be lost, or name an entry that is dead or lives elsewhere by now. Who
 * asks looks at the entry, and asks the index when it was none.
 *
 * A table of buckets, one cache line each, with 12 places: a byte of the address's hash, and the entry's number. What finds
 * its bucket full goes to the neighbour, and what finds both full takes somebody's place. A table that gets
 * full is replaced by an empty one of twice the size: what is found by the index is noted again.
 *
 * One writer at a time, under the owner's lock; readers take no lock. A table that was replaced is emptied and stays
 * where it is, for who still reads it.
 */
#ifndef HF_HINT_H
#define HF_HINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define HINT_PLACES 12
#define HINT_TABLES 20 /* the last one has 2^27 buckets */
#define HINT_NONE UINT32_MAX

struct hint_bucket {
	_Atomic uint64_t tags[2]; /* a byte for each place, 0: free; the last four are not used */
	_Atomic uint32_t id[HINT_PLACES];
} __attribute__((aligned(64)));

struct hint_table {
	uint64_t mask; /* of buckets */
	struct hint_bucket bucket[] __attribute__((aligned(128))); /* neighbours lie in one pair of lines */
};

struct hints {
	struct hint_table *_Atomic table; /* NULL: none so far */
	struct hint_table *all[HINT_TABLES];
	unsigned count;
	uint64_t enough;   /* more hints than this want a larger table */
};

void hints_destroy(struct hints *h);

/* Would `n` of them like a larger table? */
static inline bool hints_are_full(const struct hints *h, uint64_t n)
{
	return n > h->enough;
}

/* Not under the lock, one thread at a time: a larger table, which maps memory. Without memory all stays as it is. */
struct hint_table *hints_grown(const struct hints *h);
/* Writer: use it from now on; NULL: do without for some more. Returns what isn't read on: to be emptied, not under the lock. */
struct hint_table *hints_use(struct hints *h, struct hint_table *larger);
void hints_empty(struct hint_table *old);

/* Writer: this entry begins there. */
void hints_note(struct hints *h, uint64_t start, uint32_t id);
/* Writer: it doesn't any more. */
void hints_drop(struct hints *h, uint64_t start, uint32_t id);

struct hint_search {
	const struct hint_bucket *bucket;
	uint64_t left[2]; /* places of the bucket that have the tag: the high bit of their bytes */
	unsigned tag;
	bool last;        /* the neighbour was looked at, too */
};

void hints_search(const struct hints *h, uint64_t start, struct hint_search *s);
/* The next candidate, or HINT_NONE. */
uint32_t hints_next(struct hint_search *s);

#endif
