/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Exposures (src/san/exposure.h) against a list of all descriptors that were ever made: one is accepted exactly if it
 * equals one that is live, in that table, and what is asked for is inside and allowed. The input says what is exposed,
 * revoked and tried: descriptors that there are or were, with bytes changed, put together from two, or any 32 bytes.
 *
 * Each step is eight bytes, and 32 more where it says them all.
 */
#include <errno.h>
#include <holdfast/holdfast.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "san/exposure.h"

#define SIZE WIRE_DESCRIPTOR_SIZE
#define MADE 256 /* descriptors in one input */
#define STEP 8
#define ADDRESS 6 /* bytes that a pointer has */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct made {
	uint8_t descriptor[SIZE];
	uint64_t addr, len;
	unsigned rights, table;
	uint32_t slot;
	bool live;
};

struct world {
	struct exposures table[2]; /* of two connections */
	unsigned live[2], most[2];  /* now; at once, so far */
	struct made made[MADE];
	unsigned count;
};

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz descriptor: %s\n", what);
	abort();
}

/* Random. */
static uint64_t end_of(const uint8_t *descriptor)
{
	uint64_t v;

	memcpy(&v, descriptor + SIZE - sizeof(v), sizeof(v));
	return v;
}

static void expose(struct world *w, unsigned table, uint64_t addr, uint64_t len, unsigned rights)
{
	struct made *m = &w->made[w->count];

	if (w->count == MADE)
		return;
	*m = (struct made){ .addr = addr, .len = len, .rights = rights, .table = table, .live = true };
	require(exposures_add(&w->table[table], addr, len, rights, m, &m->slot, m->descriptor) == 0, "not exposed");
	for (unsigned i = 0; i < w->count; i++)
		require(end_of(w->made[i].descriptor) != end_of(m->descriptor), "made a second time");
	for (unsigned i = 0; i + ADDRESS <= SIZE; i++)
		require(memcmp(m->descriptor + i, &m->addr, ADDRESS), "its address is in it");
	w->live[table]++;
	if (w->live[table] > w->most[table])
		w->most[table] = w->live[table];
	w->count++;
}

static void revoke(struct world *w, struct made *m)
{
	if (m->live) {
		exposures_remove(&w->table[m->table], m->slot);
		m->live = false;
		w->live[m->table]--;
	}
}

static void revoke_all(struct world *w, unsigned table)
{
	exposures_destroy(&w->table[table]);
	for (unsigned i = 0; i < w->count; i++)
		w->made[i].live = w->made[i].live && w->made[i].table != table;
	w->live[table] = w->most[table] = 0;
}

/* ------------------------------------------------------------------ what must come out */

static const struct made *live(const struct world *w, unsigned table, const uint8_t *descriptor)
{
	uint64_t end = end_of(descriptor); /* looked at first: a sanitizer's memcmp is slow */

	for (unsigned i = 0; i < w->count; i++) {
		const struct made *m = &w->made[i];

		if (end_of(m->descriptor) == end && m->live && m->table == table && !memcmp(m->descriptor, descriptor, SIZE))
			return m;
	}
	return NULL;
}

static int expected(const struct made *m, unsigned right, uint64_t offset, uint64_t len)
{
	if (!m || (right != HF_READ && right != HF_WRITE) || (m->rights & right) != right)
		return -EACCES;
	return (unsigned __int128)offset + len <= m->len ? 0 : -ERANGE;
}

static void try(const struct world *w, unsigned table, const uint8_t *descriptor, unsigned right, uint64_t offset,
		uint64_t len)
{
	const struct exposures *x = &w->table[table];
	const struct made *m = live(w, table, descriptor);
	uint64_t addr = 1;
	void *owner = &addr;
	int rc = exposures_check(x, descriptor, right, offset, len, &addr, &owner);
	int64_t slot = exposures_find(x, descriptor);

	require(rc == expected(m, right, offset, len), rc ? "refused, or with another reason" : "accepted");
	require(rc ? !addr && !owner : addr == m->addr + offset && owner == m, "another buffer");
	require(slot == (m ? (int64_t)m->slot : -EACCES), "another slot");
}

/* ------------------------------------------------------------------ what the input says */

static uint64_t some_size(uint8_t b, const struct made *m)
{
	uint64_t near[] = { m->len, m->addr, m->addr + m->len, UINT64_MAX, UINT64_MAX - m->len, UINT64_MAX - m->addr,
			    1ull << 63, 1ull << 32 };

	return b < 64 ? b : near[b >> 3 & 7] + (b & 7) - 3;
}

static uint64_t address(const uint8_t *b)
{
	return 0x7f1234000000 + 0x1000ull * b[4] + b[2];
}

static void choose(struct world *w, const uint8_t *b, const uint8_t *raw, uint8_t *out)
{
	const struct made *m = &w->made[w->count ? b[1] % w->count : 0], *n = &w->made[w->count ? b[2] % w->count : 0];

	memcpy(out, m->descriptor, SIZE);
	if (raw) {
		unsigned from = b[2] % SIZE; /* some of it as it was */

		memcpy(out + from, raw + from, SIZE - from);
	} else if (b[3] & 0x80) {
		memcpy(out + b[3] % SIZE, n->descriptor + b[3] % SIZE, SIZE - b[3] % SIZE);
	} else {
		out[b[2] % SIZE] ^= b[3] & 0x40 ? (uint8_t)(1u << (b[3] & 7)) : 0;
	}
}

static void step(struct world *w, const uint8_t *b, const uint8_t *raw)
{
	unsigned table = b[0] >> 3 & 1;
	struct made *m = &w->made[w->count ? b[1] % w->count : 0];
	uint8_t descriptor[SIZE];

	switch (b[0] & 7) {
	case 0:
		expose(w, table, address(b), 1 + b[5] + ((uint64_t)b[6] << b[7] % 40), 1 + b[3] % 3);
		break;
	case 1: /* several of one buffer */
		for (unsigned i = 0; i < b[1] % 32u; i++)
			expose(w, table, address(b), 1 + b[5], 1 + b[3] % 3);
		break;
	case 2:
		revoke(w, m);
		break;
	case 3: /* what isn't there, or only perhaps */
		if (!m->live || m->table != table)
			exposures_remove(&w->table[table], w->table[table].used + b[1]);
		break;
	case 4:
		if (b[7] == 255)
			revoke_all(w, table);
		break;
	default:
		choose(w, b, raw, descriptor);
		try(w, table, descriptor, b[4] & 3, some_size(b[5], m), some_size(b[6], m));
		break;
	}
	require(w->table[0].count == w->live[0] && w->table[1].count == w->live[1], "how many");
	require(w->table[0].used <= w->most[0] && w->table[1].used <= w->most[1], "slots are not used again");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;

	memset(&w, 0, sizeof(w));
	exposures_init(&w.table[0]);
	exposures_init(&w.table[1]);
	while (size >= STEP) {
		const uint8_t *b = data;
		bool raw = (b[0] & 7) == 7 && size >= STEP + SIZE;

		step(&w, b, raw ? b + STEP : NULL);
		data += STEP + (raw ? SIZE : 0);
		size -= STEP + (raw ? SIZE : 0);
	}
	for (unsigned i = 0; i < w.count; i++) /* each as it was made, whatever happened: here and on the other connection */
		for (unsigned table = 0; table < 2; table++)
			try(&w, table, w.made[i].descriptor, HF_READ, 0, w.made[i].len);
	revoke_all(&w, 0);
	revoke_all(&w, 1);
	return 0;
}
