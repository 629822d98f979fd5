/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A descriptor, little-endian:   0 slot   4 rights   8 length   16 random, or the NIC's key
 *
 * The slot only says where to look; the 32 bytes there decide. A peer that may try n descriptors a second at one
 * slot finds it after 2^127 / n seconds on average.
 */
#include "exposure.h"

#include <errno.h>
#include <holdfast/backend.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

#define FIRST_SLOTS 16u

struct exposure {
	uint64_t addr;
	uint64_t len;
	void *owner;
	uint32_t rights;
	uint32_t next; /* of a free one: the next free one + 1 */
	bool live;
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE];
};

static void put(uint8_t *p, uint64_t v, int bytes)
{
	while (bytes--) {
		*p++ = (uint8_t)v;
		v >>= 8;
	}
}

static uint32_t slot_of(const uint8_t *d)
{
	return d[0] | (uint32_t)d[1] << 8 | (uint32_t)d[2] << 16 | (uint32_t)d[3] << 24;
}

void exposures_init(struct exposures *x)
{
	*x = (struct exposures){ 0 };
}

static void forget(struct exposure *slot, uint32_t slots)
{
	if (slot)
		sodium_memzero(slot, slots * sizeof(*slot));
	free(slot);
}

void exposures_destroy(struct exposures *x)
{
	forget(x->slot, x->slots);
	exposures_init(x);
}

/* Double the room. Nobody outside has a pointer to a slot. */
static int grow(struct exposures *x)
{
	uint32_t slots = x->slots ? 2 * x->slots : FIRST_SLOTS;
	struct exposure *larger;

	if (slots > EXPOSURES_MAX)
		return hf_set_error(-ENOMEM, "%u buffers are exposed on this connection, more can't be: deregister some",
				    x->count);
	larger = os_calloc(slots, sizeof(*larger));
	if (!larger)
		return hf_set_error(-ENOMEM, "no memory for a table of %u exposed buffers", slots);
	if (x->slot)
		memcpy(larger, x->slot, x->slots * sizeof(*larger));
	forget(x->slot, x->slots);
	x->slot = larger;
	x->slots = slots;
	return 0;
}

/* The next slot to use; it is taken by take(). */
static int room(struct exposures *x, uint32_t *slot)
{
	int rc = !x->free && x->used == x->slots ? grow(x) : 0;

	*slot = x->free ? x->free - 1 : x->used;
	return rc;
}

static void take(struct exposures *x, uint32_t slot, const struct exposure *e)
{
	if (x->free)
		x->free = x->slot[slot].next;
	else
		x->used++;
	x->slot[slot] = *e;
	x->count++;
}

static int is_sane(uint64_t addr, uint64_t len, unsigned rights)
{
	if (!len || len > WIRE_SIZE_MAX || addr + len < addr)
		return hf_set_error(-EINVAL, "expose %#llx bytes at %#llx: the range is empty or too long",
				    (unsigned long long)len, (unsigned long long)addr);
	if (!rights || rights & ~HF_READWRITE)
		return hf_set_error(-EINVAL, "expose with the rights %#x: HF_READ, HF_WRITE or both are wanted", rights);
	return 0;
}

/* `e`: what is exposed, and the key of it. */
static void add(struct exposures *x, struct exposure *e, uint32_t slot, uint8_t descriptor[WIRE_DESCRIPTOR_SIZE])
{
	put(e->descriptor, slot, 4);
	put(e->descriptor + 4, e->rights, 4);
	put(e->descriptor + 8, e->len, 8);
	take(x, slot, e);
	memcpy(descriptor, e->descriptor, sizeof(e->descriptor));
}

int exposures_add_key(struct exposures *x, uint64_t addr, uint64_t len, unsigned rights, void *owner,
		      const uint8_t key[EXPOSURE_KEY], uint32_t *slot, uint8_t descriptor[WIRE_DESCRIPTOR_SIZE])
{
	struct exposure e = { .addr = addr, .len = len, .owner = owner, .rights = rights, .live = true };
	int rc = is_sane(addr, len, rights);

	if (!rc)
		rc = room(x, slot);
	if (rc)
		return rc;
	memcpy(e.descriptor + 16, key, EXPOSURE_KEY);
	add(x, &e, *slot, descriptor);
	return 0;
}

int exposures_add(struct exposures *x, uint64_t addr, uint64_t len, unsigned rights, void *owner,
		  uint32_t *slot, uint8_t descriptor[WIRE_DESCRIPTOR_SIZE])
{
	struct exposure e = { .addr = addr, .len = len, .owner = owner, .rights = rights, .live = true };
	int rc = is_sane(addr, len, rights);

	if (!rc)
		rc = room(x, slot);
	if (rc)
		return rc;
	rc = os_random(e.descriptor + 16, EXPOSURE_KEY);
	if (rc)
		return hf_set_error(rc, "no random bytes for a descriptor: getrandom(2) says %s", strerror(-rc));
	add(x, &e, *slot, descriptor);
	return 0;
}

void exposures_remove(struct exposures *x, uint32_t slot)
{
	struct exposure *e = slot < x->used ? &x->slot[slot] : NULL;

	if (!e || !e->live)
		return;
	sodium_memzero(e, sizeof(*e));
	e->next = x->free;
	x->free = slot + 1;
	x->count--;
}

/* All 32 bytes, in constant time: how long it takes says nothing about how many were right. */
static const struct exposure *find(const struct exposures *x, const uint8_t *descriptor)
{
	uint32_t slot = slot_of(descriptor);
	const struct exposure *e = slot < x->used ? &x->slot[slot] : NULL;

	if (!e || !e->live || sodium_memcmp(e->descriptor, descriptor, WIRE_DESCRIPTOR_SIZE))
		return NULL;
	return e;
}

static uint64_t get(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | p[bytes];
	return v;
}

int descriptor_check(const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE], unsigned right, uint64_t offset, uint64_t len)
{
	uint64_t rights = get(descriptor + 4, 4), most = get(descriptor + 8, 8);

	if (rights & ~(uint64_t)HF_READWRITE || !(rights & right))
		return -EACCES;
	return offset > most || len > most - offset ? -ERANGE : 0;
}

const uint8_t *descriptor_key(const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE])
{
	return descriptor + 16;
}

int64_t exposures_find(const struct exposures *x, const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE])
{
	const struct exposure *e = find(x, descriptor);

	return e ? e - x->slot : -EACCES;
}

int exposures_check(const struct exposures *x, const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE],
		    unsigned right, uint64_t offset, uint64_t len, uint64_t *addr, void **owner)
{
	const struct exposure *e = find(x, descriptor);

	*addr = 0;
	*owner = NULL;
	if (!e || (right != HF_READ && right != HF_WRITE) || !(e->rights & right))
		return -EACCES;
	if (offset > e->len || len > e->len - offset)
		return -ERANGE;
	*addr = e->addr + offset;
	*owner = e->owner;
	return 0;
}
