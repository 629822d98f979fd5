/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The buffers that are transferred: the program's own memory, had from malloc and mmap, and recycled in
 * the ways that allocators recycle theirs. After each the same address holds other pages.
 */
#include "perf.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct perf_life {
	int (*make)(struct perf_buffer *b);
	int (*remake)(struct perf_buffer *b);
	void (*release)(struct perf_buffer *b);
};

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* ------------------------------------------------------------------ the heap */

static int heap_make(struct perf_buffer *b)
{
	b->data = malloc(b->size);
	return b->data ? 0 : -ENOMEM;
}

static void heap_release(struct perf_buffer *b)
{
	free(b->data);
	b->data = NULL;
}

static int heap_remake(struct perf_buffer *b)
{
	heap_release(b);
	return heap_make(b);
}

/* Grown: large blocks move by mremap, small ones into another chunk. */
static int realloc_remake(struct perf_buffer *b)
{
	unsigned char *half = realloc(b->data, (b->size + 1) / 2), *whole;

	if (!half)
		return -ENOMEM;
	b->data = half;
	whole = realloc(half, b->size);
	if (!whole)
		return -ENOMEM;
	b->data = whole;
	return 0;
}

/* From the brk heap whatever its size, as far as malloc allows. */
static int brk_make(struct perf_buffer *b)
{
	enum { DEFAULT_THRESHOLD = 128 << 10, HIGHEST_THRESHOLD = 4 << 20 };
	size_t highest = HIGHEST_THRESHOLD * sizeof(long);
	int err;

	mallopt(M_MMAP_THRESHOLD, (int)(b->size < highest - 1 ? b->size + 1 : highest));
	err = heap_make(b);
	mallopt(M_MMAP_THRESHOLD, DEFAULT_THRESHOLD);
	return err;
}

/* The heap's end is given back with brk; holes inside it with MADV_DONTNEED. */
static int brk_remake(struct perf_buffer *b)
{
	heap_release(b);
	malloc_trim(0);
	return brk_make(b);
}

/* ------------------------------------------------------------------ mappings */

static int map_pages(struct perf_buffer *b, size_t before)
{
	b->map_len = before + b->size;
	b->map = mmap(NULL, b->map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED) {
		b->map = b->data = NULL;
		return -ENOMEM;
	}
	b->data = (unsigned char *)b->map + before;
	return 0;
}

static int map_make(struct perf_buffer *b)
{
	return map_pages(b, 0);
}

static void map_release(struct perf_buffer *b)
{
	if (b->map)
		munmap(b->map, b->map_len);
	b->map = b->data = NULL;
}

static int map_remake(struct perf_buffer *b)
{
	map_release(b);
	return map_make(b);
}

/* Kept mapped, its pages given back: what jemalloc and others do with idle memory. */
static int purge_remake(struct perf_buffer *b)
{
	return madvise(b->map, b->map_len, MADV_DONTNEED) ? -errno : 0;
}

/* One page more, which stays while the rest is cut off and grown again. */
static int grow_make(struct perf_buffer *b)
{
	return map_pages(b, page_size());
}

static int grow_remake(struct perf_buffer *b)
{
	size_t whole = b->map_len;
	void *map;

	if (mremap(b->map, whole, page_size(), 0) == MAP_FAILED)
		return -errno;
	b->map_len = page_size();
	map = mremap(b->map, b->map_len, whole, MREMAP_MAYMOVE);
	if (map == MAP_FAILED)
		return -errno;
	b->map = map;
	b->map_len = whole;
	b->data = (unsigned char *)map + page_size();
	return 0;
}

static const struct perf_life lives[] = {
	{map_make, map_remake, map_release},
	{heap_make, heap_remake, heap_release},
	/* only where buffers are recycled */
	{map_make, purge_remake, map_release},
	{grow_make, grow_remake, map_release},
	{heap_make, realloc_remake, heap_release},
	{brk_make, brk_remake, heap_release},
};

enum { PLAIN_LIVES = 2 };
_Static_assert(sizeof(lives) / sizeof(lives[0]) == PERF_LIVES, "the number that others know");

/* ------------------------------------------------------------------ the pool */

int perf_pool_open(struct perf_pool *pool, size_t size, unsigned count, bool recycle)
{
	pool->recycle = recycle;
	for (pool->count = 0; pool->count < count; pool->count++) {
		struct perf_buffer *b = &pool->buffer[pool->count];

		memset(b, 0, sizeof(*b));
		b->size = size;
		b->life = &lives[pool->count % (recycle ? PERF_LIVES : PLAIN_LIVES)];
		if (b->life->make(b)) {
			perf_pool_close(pool);
			return -ENOMEM;
		}
	}
	return 0;
}

void perf_pool_close(struct perf_pool *pool)
{
	while (pool->count) {
		struct perf_buffer *b = &pool->buffer[--pool->count];

		b->life->release(b);
	}
}

int perf_buffer_recycle(struct perf_buffer *b)
{
	return b->life->remake(b);
}

/* ------------------------------------------------------------------ the pattern */

static uint64_t spread(uint64_t x)
{
	x ^= x >> 31;
	x *= 0xd6e8feb86659fd93u;
	x ^= x >> 32;
	return x;
}

/* No two transfers of a run have the same words, and no two places in one. */
static uint64_t pattern_base(uint64_t seed, uint64_t number)
{
	return spread(spread(seed + 1) + number);
}

static uint64_t pattern_word(uint64_t base, uint64_t i)
{
	return spread(base + i * 0x9e3779b97f4a7c15u);
}

void perf_fill(unsigned char *data, size_t size, uint64_t seed, uint64_t number, bool invert)
{
	uint64_t base = pattern_base(seed, number), flip = invert ? ~0ull : 0, word;
	size_t words = size / sizeof(word);

	for (size_t i = 0; i < words; i++) {
		word = pattern_word(base, i) ^ flip;
		memcpy(data + i * sizeof(word), &word, sizeof(word));
	}
	word = pattern_word(base, words) ^ flip;
	memcpy(data + words * sizeof(word), &word, size % sizeof(word));
}

static uint64_t differing_bytes(const unsigned char *data, uint64_t word, size_t n)
{
	const unsigned char *right = (const unsigned char *)&word;
	uint64_t wrong = 0;

	for (size_t i = 0; i < n; i++)
		wrong += data[i] != right[i];
	return wrong;
}

uint64_t perf_wrong_bytes(const unsigned char *data, size_t size, uint64_t seed, uint64_t number)
{
	uint64_t base = pattern_base(seed, number), found, wrong = 0;
	size_t words = size / sizeof(found);

	for (size_t i = 0; i < words; i++) {
		memcpy(&found, data + i * sizeof(found), sizeof(found));
		if (found != pattern_word(base, i))
			wrong += differing_bytes(data + i * sizeof(found), pattern_word(base, i),
						 sizeof(found));
	}
	return wrong + differing_bytes(data + words * sizeof(found), pattern_word(base, words),
				       size % sizeof(found));
}
