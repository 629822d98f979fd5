/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A pool of equal objects that never move and are never given back while the pool lives: a reader
 * that holds a pointer to an object which was freed meanwhile sees another object of the same type,
 * never unmapped memory. The lock-free lookup and the event thread depend on that.
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

#define POOL_CHUNKS 26
#define POOL_FIRST 256u /* objects in the first chunk */

struct pool {
	size_t object_size;
	char *_Atomic chunk[POOL_CHUNKS];
	uint32_t made;  /* objects ever handed out: [0, made) are valid indexes */
	uint32_t room;  /* objects that the chunks hold */
	void *free;     /* linked through the first word */
	pthread_mutex_t grow;
};

void pool_init(struct pool *p, size_t object_size);
void pool_destroy(struct pool *p);
/* Add a chunk if the pool is empty. Maps memory outside of `lock`, which guards pool_get and pool_put and
 * is not held by the caller. 0 or -ENOMEM. */
int pool_reserve(struct pool *p, pthread_mutex_t *lock);
int pool_empty(const struct pool *p);
/* An object, zeroed the first time, else as it was put but for its first word. NULL when empty. */
void *pool_get(struct pool *p, uint32_t *index);
void pool_put(struct pool *p, void *object);
/* Does the pointer lie in this pool? */
int pool_contains(struct pool *p, const void *object);
/* The index-th object, or NULL when there was none so far. */
void *pool_at(struct pool *p, uint32_t index);

#endif
