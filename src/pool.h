/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A pool of equal objects that never move and are never given back while the pool lives: a reader
 * that holds the index of an object, or a pointer to it, which was freed meanwhile sees another object of the
 * same type, never unmapped memory. The lock-free lookup and the event thread depend on that.
 *
 * Chunks double in size, so that a million objects cost twenty mappings. The caller serialises
 * pool_get and pool_put by a lock of its own; pool_at may be called without it.
 */
#ifndef HF_POOL_H
#define HF_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define POOL_CHUNKS 24
#define POOL_FIRST 256u /* objects in the first chunk */

struct pool {
	size_t object_size;
	size_t side_size; /* of what belongs to each object and lies apart, so that objects fill cache lines */
	char *_Atomic chunk[POOL_CHUNKS];
	uint32_t made;  /* objects ever handed out: [0, made) are valid indexes */
	uint32_t room;  /* objects that the chunks hold */
	uint32_t free;  /* 1 + the index of the first free one, which says the same of the next in its first word */
	uint32_t idle;  /* how many these are */
	pthread_mutex_t grow;
};

void pool_init(struct pool *p, size_t object_size, size_t side_size);
void pool_destroy(struct pool *p);
/* How many can be had. Under the lock that guards pool_get. */
static inline uint32_t pool_room(const struct pool *p)
{
	return p->idle + (p->room - p->made);
}

/* Add a chunk if fewer than n can be had. Maps memory outside of `lock`, which guards pool_get and pool_put and
 * is not held by the caller. n is at most POOL_FIRST. 0 or -ENOMEM. */
int pool_reserve(struct pool *p, uint32_t n, pthread_mutex_t *lock);
/* An object and its index, zeroed the first time, else as it was put but for its first four bytes. NULL when empty. */
void *pool_get(struct pool *p, uint32_t *index);
void pool_put(struct pool *p, uint32_t index);
/* Does the pointer lie in this pool? */
int pool_contains(struct pool *p, const void *object);

/* The index-th object, or NULL where there is no memory for one. Chunk c begins at POOL_FIRST * (2^c - 1). */
static inline void *pool_at(const struct pool *p, uint32_t index)
{
	uint64_t n = (uint64_t)index + POOL_FIRST;
	unsigned c = 63u - (unsigned)__builtin_clzll(n / POOL_FIRST);
	char *base;

	if (c >= POOL_CHUNKS)
		return NULL;
	base = atomic_load_explicit(&p->chunk[c], memory_order_acquire);
	return base ? base + p->object_size * (n - ((uint64_t)POOL_FIRST << c)) : NULL;
}

/* What belongs to an object that there is: it lies behind all objects of its chunk. */
static inline void *pool_side(const struct pool *p, uint32_t index)
{
	uint64_t n = (uint64_t)index + POOL_FIRST;
	unsigned c = 63u - (unsigned)__builtin_clzll(n / POOL_FIRST);
	uint64_t objects = (uint64_t)POOL_FIRST << c;

	return atomic_load_explicit(&p->chunk[c], memory_order_relaxed) + p->object_size * objects +
	       p->side_size * (n - objects);
}

#endif
