/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the peer of one connection may reach: exactly these bytes with exactly these rights, whatever larger registration
 * serves them (R15, R17). One table per connection, so that another connection's descriptor is unknown here (R10).
 *
 * A descriptor is the slot, the rights, the length and 128 random bits; the table has the same 32 bytes, and all must
 * agree, compared in constant time. Nothing in it is an address. A slot that is used again gets new random bits, so that
 * what was revoked stays revoked. Length and rights are for the peer to read; what counts here is the table.
 *
 * The caller holds the connection's lock. No I/O but for random bytes when one is made.
 */
#ifndef HF_SAN_EXPOSURE_H
#define HF_SAN_EXPOSURE_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

#define EXPOSURES_MAX (1u << 20) /* of one connection at once */
#define EXPOSURE_KEY 16          /* bytes of a descriptor that nobody can guess, or that the NIC knows */

struct exposure; /* exposure.c's */

struct exposures {
	struct exposure *slot;
	uint32_t slots; /* allocated */
	uint32_t used;  /* slots from here on were never used */
	uint32_t count; /* valid now */
	uint32_t free;  /* first of the free ones + 1; 0: none */
};

void exposures_init(struct exposures *x);
void exposures_destroy(struct exposures *x); /* revokes all */

/*
 * Expose [addr, addr+len), rights HF_READ | HF_WRITE. `owner` is handed back by exposures_check(). 0 with the slot and the
 * descriptor; or with the sentence set: -EINVAL (empty, wraps, longer than WIRE_SIZE_MAX, rights), -ENOMEM, or what
 * getrandom(2) says.
 */
int exposures_add(struct exposures *x, uint64_t addr, uint64_t len, unsigned rights, void *owner,
		  uint32_t *slot, uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]);
/* The same, with the NIC's key instead of random bits: then it is the NIC that refuses, and this table only knows of it. */
int exposures_add_key(struct exposures *x, uint64_t addr, uint64_t len, unsigned rights, void *owner,
		      const uint8_t key[EXPOSURE_KEY], uint32_t *slot, uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]);
/* A slot that isn't exposed is ignored. */
void exposures_remove(struct exposures *x, uint32_t slot);

/* The slot of a descriptor of ours; -EACCES, without a sentence: it is the peer that is told. */
int64_t exposures_find(const struct exposures *x, const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]);

/*
 * May the peer reach `len` bytes from `offset` with `right` (one of HF_READ, HF_WRITE)? 0 with the address and the
 * owner; -EACCES: not ours, revoked, forged, or without this right; -ERANGE: beyond its end, or wrapping. No sentence;
 * address and owner are 0 then. No bytes at all may be asked for, up to the end: 0 of them from offset len is fine.
 */
int exposures_check(const struct exposures *x, const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE],
		    unsigned right, uint64_t offset, uint64_t len, uint64_t *addr, void **owner);

/*
 * For who was given a descriptor, by what it says: may `len` bytes from `offset` be reached with `right`? 0, -EACCES,
 * -ERANGE. Whether it is true is known to who made it.
 */
int descriptor_check(const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE], unsigned right, uint64_t offset, uint64_t len);
const uint8_t *descriptor_key(const uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]);

#endif
