/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "hint.h"

#include <stddef.h>
#include <sys/mman.h>

#include "os.h"

#define FIRST_BUCKETS 256u
#define ENOUGH 8u /* of the 12 places, on average */

static size_t table_bytes(uint64_t buckets)
{
	return sizeof(struct hint_table) + buckets * sizeof(struct hint_bucket);
}

struct hint_table *hints_grown(const struct hints *h)
{
	uint64_t buckets = (uint64_t)FIRST_BUCKETS << h->count;
	struct hint_table *t = h->count < HINT_TABLES ? os_pool_map(table_bytes(buckets)) : NULL;

	if (t)
		t->mask = buckets - 1;
	return t;
}

struct hint_table *hints_use(struct hints *h, struct hint_table *larger)
{
	struct hint_table *old = atomic_load_explicit(&h->table, memory_order_relaxed);

	if (!larger) { /* and is not asked for again too soon */
		h->enough = 2 * h->enough + FIRST_BUCKETS;
		return NULL;
	}
	h->all[h->count++] = larger;
	h->enough = (larger->mask + 1) * ENOUGH;
	atomic_store_explicit(&h->table, larger, memory_order_release);
	return old;
}

/* But for the mask. Who reads it still, reads zeros: no hints. */
void hints_empty(struct hint_table *old)
{
	size_t page = os_page_size();

	if (old && table_bytes(old->mask + 1) > page)
		madvise((char *)old + page, table_bytes(old->mask + 1) - page, MADV_DONTNEED);
}

void hints_destroy(struct hints *h)
{
	for (unsigned i = 0; i < h->count; i++)
		os_pool_unmap(h->all[i], table_bytes(h->all[i]->mask + 1));
	*h = (struct hints){ .count = 0 };
}

/* ------------------------------------------------------------------ places */

#define EACH_BYTE 0x0101010101010101ull
#define LOW_BITS  0x7f7f7f7f7f7f7f7full
#define HIGH_BITS 0x8080808080808080ull

static const uint64_t used[2] = { HIGH_BITS, HIGH_BITS >> 32 }; /* 8 and 4 places */

static uint64_t hash_of(uint64_t start)
{
	uint64_t x = (start >> 12) * 0x9e3779b97f4a7c15ull;

	return (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
}

/* Never 0, which is a free place. */
static unsigned tag_of(uint64_t hash)
{
	return (unsigned)(hash >> 56) | 1;
}

/* The high bit of each byte that is `byte`. */
static uint64_t equal(uint64_t bytes, unsigned byte)
{
	uint64_t x = bytes ^ EACH_BYTE * byte;

	return ~(((x & LOW_BITS) + LOW_BITS) | x | LOW_BITS);
}

static uint64_t with_tag(const struct hint_bucket *b, int half, unsigned tag)
{
	return equal(atomic_load_explicit(&b->tags[half], memory_order_relaxed), tag) & used[half];
}

static struct hint_bucket *neighbour(const struct hint_bucket *b)
{
	return (struct hint_bucket *)((uintptr_t)b ^ sizeof(*b));
}

static int place_of(uint64_t high_bit, int half)
{
	return 8 * half + __builtin_ctzll(high_bit) / 8;
}

static void look(struct hint_search *s, const struct hint_bucket *b)
{
	s->bucket = b;
	s->left[0] = with_tag(b, 0, s->tag);
	s->left[1] = with_tag(b, 1, s->tag);
}

void hints_search(const struct hints *h, uint64_t start, struct hint_search *s)
{
	const struct hint_table *t = atomic_load_explicit(&h->table, memory_order_acquire);
	uint64_t hash = hash_of(start);

	*s = (struct hint_search){ .last = true };
	if (!t)
		return;
	s->last = false;
	s->tag = tag_of(hash);
	look(s, &t->bucket[hash & t->mask]);
}

uint32_t hints_next(struct hint_search *s)
{
	for (;;) {
		for (int half = 0; half < 2; half++) {
			uint64_t left = s->left[half];

			if (left) {
				s->left[half] = left & (left - 1);
				return atomic_load_explicit(&s->bucket->id[place_of(left, half)],
							    memory_order_relaxed);
			}
		}
		if (s->last)
			return HINT_NONE;
		s->last = true;
		look(s, neighbour(s->bucket));
	}
}

/* ------------------------------------------------------------------ the writer */

static void set_tag(struct hint_bucket *b, int place, unsigned tag)
{
	_Atomic uint64_t *tags = &b->tags[place / 8];
	int shift = place % 8 * 8;
	uint64_t others = atomic_load_explicit(tags, memory_order_relaxed) & ~(0xffull << shift);

	atomic_store_explicit(tags, others | (uint64_t)tag << shift, memory_order_relaxed);
}

static void put(struct hint_bucket *b, int place, unsigned tag, uint32_t id)
{
	atomic_store_explicit(&b->id[place], id, memory_order_relaxed);
	set_tag(b, place, tag);
}

static bool put_free(struct hint_bucket *b, unsigned tag, uint32_t id)
{
	for (int half = 0; half < 2; half++) {
		uint64_t free = with_tag(b, half, 0);

		if (free) {
			put(b, place_of(free, half), tag, id);
			return true;
		}
	}
	return false;
}

static struct hint_bucket *bucket_of(const struct hints *h, uint64_t hash)
{
	struct hint_table *t = atomic_load_explicit(&h->table, memory_order_relaxed);

	return t ? &t->bucket[hash & t->mask] : NULL;
}

static bool is_noted(const struct hints *h, uint64_t start, uint32_t id)
{
	struct hint_search s;
	uint32_t found;

	hints_search(h, start, &s);
	do {
		found = hints_next(&s);
	} while (found != HINT_NONE && found != id);
	return found == id;
}

void hints_note(struct hints *h, uint64_t start, uint32_t id)
{
	uint64_t hash = hash_of(start);
	struct hint_bucket *b = bucket_of(h, hash);
	unsigned tag = tag_of(hash);

	if (!b || is_noted(h, start, id) || put_free(b, tag, id) || put_free(neighbour(b), tag, id))
		return;
	put(b, (int)((hash >> 48 & 0xff) % HINT_PLACES), tag, id);
}

static bool drop_from(struct hint_bucket *b, unsigned tag, uint32_t id)
{
	for (int half = 0; half < 2; half++) {
		for (uint64_t left = with_tag(b, half, tag); left; left &= left - 1) {
			int place = place_of(left, half);

			if (atomic_load_explicit(&b->id[place], memory_order_relaxed) == id) {
				set_tag(b, place, 0);
				return true;
			}
		}
	}
	return false;
}

void hints_drop(struct hints *h, uint64_t start, uint32_t id)
{
	uint64_t hash = hash_of(start);
	struct hint_bucket *b = bucket_of(h, hash);
	unsigned tag = tag_of(hash);

	if (b && !drop_from(b, tag, id))
		drop_from(neighbour(b), tag, id);
}
