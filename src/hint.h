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
void hints_note_new(struct hints *h, uint64_t start, uint32_t id); /* ... which hasn't been noted */
/* Is it noted? */
bool hints_has(const struct hints *h, uint64_t start, uint32_t id);
/* Writer: it doesn't any more. */
void hints_drop(struct hints *h, uint64_t start, uint32_t id);

struct hint_search {
	const struct hint_bucket *bucket;
	uint64_t left[2]; /* places of the bucket that have the tag: the high bit of their bytes */
	unsigned tag;
	bool last;        /* the neighbour was looked at, too */
};

/* ------------------------------------------------------------------ where */

#define HINT_EACH_BYTE 0x0101010101010101ull
#define HINT_LOW_BITS  0x7f7f7f7f7f7f7f7full
#define HINT_HIGH_BITS 0x8080808080808080ull

static inline uint64_t hint_hash_of(uint64_t start)
{
	uint64_t x = (start >> 12) * 0x9e3779b97f4a7c15ull;

	return (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
}

/* Never 0, which is a free place. */
static inline unsigned hint_tag_of(uint64_t hash)
{
	return (unsigned)(hash >> 56) | 1;
}

/* The high bit of each byte that is `byte`. */
static inline uint64_t hint_equal(uint64_t bytes, unsigned byte)
{
	uint64_t x = bytes ^ HINT_EACH_BYTE * byte;

	return ~(((x & HINT_LOW_BITS) + HINT_LOW_BITS) | x | HINT_LOW_BITS);
}

static inline uint64_t hint_with_tag(const struct hint_bucket *b, int half, unsigned tag)
{
	return hint_equal(atomic_load_explicit(&b->tags[half], memory_order_relaxed), tag) & (half ? HINT_HIGH_BITS >> 32 : HINT_HIGH_BITS);
}

static inline struct hint_bucket *hint_neighbour(const struct hint_bucket *b)
{
	return (struct hint_bucket *)((uintptr_t)b ^ sizeof(*b));
}

static inline int hint_place_of(uint64_t high_bit, int half)
{
	return 8 * half + __builtin_ctzll(high_bit) / 8;
}

static inline void hint_look(struct hint_search *s, const struct hint_bucket *b)
{
	s->bucket = b;
	s->left[0] = hint_with_tag(b, 0, s->tag);
	s->left[1] = hint_with_tag(b, 1, s->tag);
}

static inline void hints_search(const struct hints *h, uint64_t start, struct hint_search *s)
{
	const struct hint_table *t = atomic_load_explicit(&h->table, memory_order_acquire);
	uint64_t hash = hint_hash_of(start);

	*s = (struct hint_search){ .last = true };
	if (!t)
		return;
	s->last = false;
	s->tag = hint_tag_of(hash);
	hint_look(s, &t->bucket[hash & t->mask]);
}

static inline uint32_t hints_next(struct hint_search *s)
{
	for (;;) {
		for (int half = 0; half < 2; half++) {
			uint64_t left = s->left[half];

			if (left) {
				s->left[half] = left & (left - 1);
				return atomic_load_explicit(&s->bucket->id[hint_place_of(left, half)],
							    memory_order_relaxed);
			}
		}
		if (s->last)
			return HINT_NONE;
		s->last = true;
		hint_look(s, hint_neighbour(s->bucket));
	}
}

#endif
