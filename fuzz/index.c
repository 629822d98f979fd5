/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The index (src/index.h) against an array that is searched from end to end: the input says what is inserted, removed
 * and asked for. Any difference, and any damage that index_is_valid() sees, is a crash.
 *
 * The first byte says how wide the ranges lie. Then four bytes for each step: what, which, where, how long.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "os.h"

#define IDS 2048 /* more than two levels can hold, if they are poorly filled */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct range_of {
	uint64_t start, end;
	bool in;
};

struct world {
	struct index_nodes nodes;
	struct index ix;
	struct range_of at[IDS];
	unsigned count;
	uint32_t next; /* of a run */
	uint64_t scale;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz index: %s\n", what);
	abort();
}

static void insert(struct world *w, uint32_t id, uint64_t start, uint64_t pages)
{
	uint64_t page = w->nodes.page;

	if (w->at[id].in)
		return;
	if (!index_has_room(&w->nodes))
		require(index_reserve(&w->nodes, &lock) == 0, "no memory");
	w->at[id] = (struct range_of){ start * page, (start + pages) * page, true };
	if (!index_insert(&w->ix, w->at[id].start, w->at[id].end, id))
		require(index_find_inside(&w->ix, w->at[id].start, w->at[id].end, (uint32_t[2]){ 0 }, 2) == 1,
			"something else is inside");
	w->count++;
}

static void take_out(struct world *w, uint32_t id)
{
	require(index_remove(&w->ix, w->at[id].start, id) == w->at[id].in, "remove");
	w->count -= w->at[id].in;
	w->at[id].in = false;
}

/* The ids must be those of the array that match, in order, as far as they go. */
static void same(const struct world *w, const uint32_t *got, unsigned n, unsigned max, uint64_t start,
		 uint64_t end, bool inside)
{
	unsigned want = 0;

	for (uint32_t i = 0; i < IDS; i++) {
		const struct range_of *r = &w->at[i];

		want += r->in && (inside ? r->start >= start && r->end <= end : r->start < end && r->end > start);
	}
	require(n == (want < max ? want : max), inside ? "how many are inside" : "how many touch");
	for (unsigned i = 0; i < n; i++) {
		const struct range_of *r = &w->at[got[i] % IDS], *prev = i ? &w->at[got[i - 1]] : r;

		require(got[i] < IDS && r->in, "an id that is not in");
		require(inside ? r->start >= start && r->end <= end : r->start < end && r->end > start,
			"one that does not match");
		require(!i || prev->start < r->start || (prev->start == r->start && got[i - 1] < got[i]),
			"not in order");
	}
}

static void check_cover(const struct world *w, uint64_t start, uint64_t end)
{
	uint32_t id = index_find_cover(&w->ix, start, end);

	if (id != INDEX_NONE) {
		require(id < IDS && w->at[id].in && w->at[id].start <= start && w->at[id].end >= end,
			"it does not cover");
		return;
	}
	for (uint32_t i = 0; i < IDS; i++)
		require(!w->at[i].in || w->at[i].start > start || w->at[i].end < end, "a cover is not found");
}

static void ask(const struct world *w, uint64_t start, uint64_t pages, unsigned max)
{
	uint64_t from = start * w->nodes.page, to = (start + pages) * w->nodes.page;
	uint32_t got[IDS];

	check_cover(w, from, to);
	same(w, got, index_find_touching(&w->ix, from, to, got, max), max, from, to, false);
	same(w, got, index_find_inside(&w->ix, from, to, got, max), max, from, to, true);
}

/* As an unmap does it. */
static void take_out_touching(struct world *w, uint64_t start, uint64_t pages)
{
	uint32_t got[8];
	unsigned n;

	do {
		n = index_find_touching(&w->ix, start * w->nodes.page, (start + pages) * w->nodes.page, got, 8);
		for (unsigned i = 0; i < n; i++)
			take_out(w, got[i]);
	} while (n == 8);
}

static void run(struct world *w, uint64_t start, unsigned n, bool down)
{
	for (unsigned i = 0; i < n; i++)
		insert(w, w->next++ % IDS, start + 2 * (down ? 300 - i : i), 1);
}

static void step(struct world *w, const uint8_t *b)
{
	uint64_t start = (b[2] + 256ull * (b[0] >> 4)) * w->scale;
	uint32_t id = b[1] + 256u * (b[0] >> 4 & 7);
	uint64_t pages = b[3] < 200 ? 1u + b[3] % 8u : (uint64_t)(b[3] - 199) * w->scale;

	switch (b[0] & 15) {
	case 0: case 1: case 2: case 3:
		insert(w, id, start, pages);
		break;
	case 4: case 5:
		take_out(w, id);
		break;
	case 6: case 7:
		run(w, start, b[1], false);
		break;
	case 8: case 9:
		run(w, start, b[1], true);
		break;
	case 10:
		take_out_touching(w, start, pages);
		break;
	case 11: /* every n-th */
		for (uint32_t i = id; i < IDS; i += 1 + b[3])
			take_out(w, i);
		break;
	case 12: /* many that are equal */
		for (unsigned i = 0; i < b[1]; i++)
			insert(w, w->next++ % IDS, start, pages);
		break;
	default:
		ask(w, start, pages, 1 + b[1] * 8u);
		return;
	}
	require(index_is_valid(&w->ix) == w->count, "damaged");
	check_cover(w, start * w->nodes.page, (start + 1) * w->nodes.page);
	check_cover(w, start * w->nodes.page, (start + 300) * w->nodes.page);
}

static void finish(struct world *w)
{
	ask(w, 0, 1ull << 40, IDS);
	for (uint32_t i = 0; i < IDS; i++)
		take_out(w, i);
	require(index_is_valid(&w->ix) == 0, "damaged when empty");
	require(w->nodes.pool.made == w->nodes.pool.idle, "nodes are lost");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;

	memset(&w, 0, sizeof(w));
	index_nodes_init(&w.nodes);
	index_init(&w.ix, &w.nodes);
	w.scale = size ? 1ull << (data[0] % 24) : 1;
	for (size_t i = 1; i + 4 <= size; i += 4)
		step(&w, &data[i]);
	finish(&w);
	index_nodes_destroy(&w.nodes);
	return 0;
}
