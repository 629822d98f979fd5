/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "pool.h"

#include <errno.h>

#include "os.h"

static size_t chunk_bytes(const struct pool *p, unsigned chunk)
{
	return (p->object_size + p->side_size) * ((size_t)POOL_FIRST << chunk);
}

void pool_init(struct pool *p, size_t object_size, size_t side_size)
{
	*p = (struct pool){
		.object_size = object_size,
		.side_size = side_size,
		.grow = PTHREAD_MUTEX_INITIALIZER,
	};
}

void pool_destroy(struct pool *p)
{
	for (unsigned i = 0; i < POOL_CHUNKS; i++)
		os_pool_unmap(p->chunk[i], chunk_bytes(p, i));
	pool_init(p, p->object_size, p->side_size);
}

static int add_chunk(struct pool *p, pthread_mutex_t *lock)
{
	unsigned i = 0;
	char *base;

	while (i < POOL_CHUNKS && p->chunk[i])
		i++;
	if (i == POOL_CHUNKS)
		return -ENOMEM;
	base = os_pool_map(chunk_bytes(p, i));
	if (!base)
		return -ENOMEM;
	pthread_mutex_lock(lock);
	atomic_store_explicit(&p->chunk[i], base, memory_order_release);
	p->room += POOL_FIRST << i;
	pthread_mutex_unlock(lock);
	return 0;
}

int pool_reserve(struct pool *p, uint32_t n, pthread_mutex_t *lock)
{
	int rc = 0;
	int few;

	pthread_mutex_lock(&p->grow);
	pthread_mutex_lock(lock);
	few = pool_room(p) < n;
	pthread_mutex_unlock(lock);
	if (few)
		rc = add_chunk(p, lock);
	pthread_mutex_unlock(&p->grow);
	return rc;
}

int pool_contains(struct pool *p, const void *object)
{
	for (unsigned i = 0; i < POOL_CHUNKS; i++) {
		const char *base = atomic_load_explicit(&p->chunk[i], memory_order_acquire);

		if (!base)
			break;
		if ((const char *)object >= base && (const char *)object < base + chunk_bytes(p, i))
			return 1;
	}
	return 0;
}

void *pool_get(struct pool *p, uint32_t *index)
{
	void *object;

	if (p->free) {
		*index = p->free - 1;
		object = pool_at(p, *index);
		p->free = *(uint32_t *)object;
		p->idle--;
		return object;
	}
	if (p->made == p->room)
		return NULL;
	*index = p->made++;
	return pool_at(p, *index);
}

void pool_put(struct pool *p, uint32_t index)
{
	*(uint32_t *)pool_at(p, index) = p->free;
	p->free = index + 1;
	p->idle++;
}
