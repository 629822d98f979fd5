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
		uint64_t free = hint_with_tag(b, half, 0);

		if (free) {
			put(b, hint_place_of(free, half), tag, id);
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

bool hints_has(const struct hints *h, uint64_t start, uint32_t id)
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
	if (!hints_has(h, start, id))
		hints_note_new(h, start, id);
}

void hints_note_new(struct hints *h, uint64_t start, uint32_t id)
{
	uint64_t hash = hint_hash_of(start);
	struct hint_bucket *b = bucket_of(h, hash);
	unsigned tag = hint_tag_of(hash);

	if (!b || put_free(b, tag, id) || put_free(hint_neighbour(b), tag, id))
		return;
	put(b, (int)((hash >> 48 & 0xff) % HINT_PLACES), tag, id);
}

static bool drop_from(struct hint_bucket *b, unsigned tag, uint32_t id)
{
	for (int half = 0; half < 2; half++) {
		for (uint64_t left = hint_with_tag(b, half, tag); left; left &= left - 1) {
			int place = hint_place_of(left, half);

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
	uint64_t hash = hint_hash_of(start);
	struct hint_bucket *b = bucket_of(h, hash);
	unsigned tag = hint_tag_of(hash);

	if (b && !drop_from(b, tag, id))
		drop_from(hint_neighbour(b), tag, id);
}
