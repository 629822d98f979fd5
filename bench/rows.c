/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "rows.h"

#include <math.h>

#define OURS_BY(variant, name, value) { "ours", variant, name, value }
#define UCX_BY(name, value) { "ucx", "default", name, value }
#define BARE_BY(name, value) { "bare", "none", name, value }
#define NOBODY { NULL, NULL, NULL, 0 }

/* hits: text, target, variant, ours, UCX's case */
#define HIT(text, aim, variant, mine, theirs) \
	{ .name = text, .unit = NS, .target = aim, .hits = true, \
	  .probe = { OURS_BY(variant, mine, 0), UCX_BY(theirs, 0), NOBODY } }
#define SPREAD(text) { .name = text, .unit = TIMES, .target = SAME_FOR_SHAPES, .spread = true }
#define ROW(text, u, aim, a, b, c) { .name = text, .unit = u, .target = aim, .probe = { a, b, c } }
#define HITS(text, u, aim, a, b, c) \
	{ .name = text, .unit = u, .target = aim, .hits = true, .probe = { a, b, c } }
/* two threads: the time, and how it scales */
#define PAIR(text, variant, name_, aim) \
	HITS(text, NS, NO_TARGET, OURS_BY(variant, name_, 0), UCX_BY(name_, 0), NOBODY), \
	HITS(text ": scaling", TIMES, aim, OURS_BY(variant, name_, 1), UCX_BY(name_, 1), NOBODY)
#define ONE(name, value) OURS_BY("manual", name, value)
#define SUPERVISED(name, value) OURS_BY("supervise", name, value)
#define EXACT(name, value) OURS_BY("exact", name, value)

struct row rows[] = {
	HIT("hit, manual", ONE_LOCKED_ADD, "manual", "hit", "hit"),
	HIT("hit, uffd fast", ONE_LOCKED_ADD, "fast", "hit", "hit"),
	HITS("hit, uffd exact", NS, ADD_AND_CALL, EXACT("hit", 0), UCX_BY("hit", 0), BARE_BY("ioctl", 0)),
	HITS("hit, supervise exact", NS, ADD_AND_CALL, SUPERVISED("hit", 0), UCX_BY("hit", 0),
	     BARE_BY("ioctl", 0)),
	HIT("hit in a batch of 64, uffd exact", NO_TARGET, "exact", "hit-batch", "hit"),
	HIT("hit, part of 16 MiB, manual", NO_TARGET, "manual", "hit-part", "hit-part"),
	HIT("hit, part of 16 MiB, uffd exact", NO_TARGET, "exact", "hit-part", "hit-part"),

	HIT("1 000 at random, aligned, manual", NO_TARGET, "manual", "hit-1000-aligned", "hit-1000-aligned"),
	HIT("1 000 at random, 4 KiB off, manual", NO_TARGET, "manual", "hit-1000-page", "hit-1000-page"),
	HIT("1 000 at random, malloc-like, manual", NO_TARGET, "manual", "hit-1000-malloc",
	    "hit-1000-malloc"),
	SPREAD("1 000 at random: slowest/fastest shape"),
	HIT("100 000 at random, aligned, manual", HALF_OF_UCX, "manual", "hit-100000-aligned",
	    "hit-100000-aligned"),
	HIT("100 000 at random, 4 KiB off, manual", HALF_OF_UCX, "manual", "hit-100000-page",
	    "hit-100000-page"),
	HIT("100 000 at random, malloc-like, manual", HALF_OF_UCX, "manual", "hit-100000-malloc",
	    "hit-100000-malloc"),
	SPREAD("100 000 at random: slowest/fastest shape"),
	HIT("100 000, malloc-like, uffd fast", HALF_OF_UCX, "fast", "hit-100000-malloc",
	    "hit-100000-malloc"),
	HIT("100 000, malloc-like, uffd exact", NO_TARGET, "exact", "hit-100000-malloc",
	    "hit-100000-malloc"),

	PAIR("2 threads, 1 region, manual", "manual", "two-same", SCALES_SAME),
	PAIR("2 threads, 2 regions, manual", "manual", "two-apart", SCALES_APART),
	PAIR("2 threads, 1 region, uffd exact", "exact", "two-same", SCALES_SAME),
	PAIR("2 threads, 2 regions, uffd exact", "exact", "two-apart", SCALES_APART),
	HITS("get here, put in another thread, manual", NS, NO_TARGET, ONE("handover", 0),
	     UCX_BY("handover", 0), BARE_BY("handover", 0)),
	HITS("get here, put there, uffd exact", NS, NO_TARGET, EXACT("handover", 0), UCX_BY("handover", 0),
	     BARE_BY("handover", 0)),

	ROW("miss + evict, aligned, manual", NS, NS_300, ONE("evict-aligned", 0),
	    UCX_BY("evict-aligned", 0), NOBODY),
	ROW("miss + evict, malloc-like, manual", NS, NS_300, ONE("evict-malloc", 0),
	    UCX_BY("evict-malloc", 0), NOBODY),
	ROW("miss + evict, aligned, uffd exact", NS, NS_300, EXACT("evict-aligned", 0),
	    UCX_BY("evict-aligned", 0), NOBODY),
	ROW("miss + evict, malloc-like, uffd exact", NS, NS_300, EXACT("evict-malloc", 0),
	    UCX_BY("evict-malloc", 0), NOBODY),
	ROW("invalidate one of 100 000, manual", NS, NO_TARGET, ONE("invalidate", 0),
	    UCX_BY("invalidate", 0), NOBODY),

	ROW("munmap one of 100 000, uffd exact", NS, NO_TARGET, EXACT("unmap-one-of-many", 0),
	    UCX_BY("unmap-one-of-many", 0), BARE_BY("unmap-one-of-many", 0)),
	ROW("munmap of a cached 64 KiB, uffd exact", NS, NO_TARGET, EXACT("unmap-cached", 0),
	    UCX_BY("unmap-cached", 0), BARE_BY("unmap-cached", 0)),
	ROW("munmap of a page beside it, uffd exact", NS, NO_TARGET, EXACT("unmap-beside", 0),
	    UCX_BY("unmap-beside", 0), BARE_BY("unmap-beside", 0)),
	ROW("munmap of a page never known, uffd exact", NS, AS_CONTROL, EXACT("unmap-unknown", 0),
	    UCX_BY("unmap-unknown", 0), BARE_BY("unmap-unknown", 0)),
	ROW("munmap of a page never known, supervise", NS, NO_TARGET, SUPERVISED("unmap-unknown", 0),
	    UCX_BY("unmap-unknown", 0), BARE_BY("unmap-unknown", 0)),
	ROW("munmap of a cached 64 KiB, supervise", NS, NO_TARGET, SUPERVISED("unmap-cached", 0),
	    UCX_BY("unmap-cached", 0), BARE_BY("unmap-cached", 0)),
	ROW("munmap refused, supervise", NS, NO_TARGET, SUPERVISED("unmap-refused", 0), NOBODY, NOBODY),
	HITS("hit after such a munmap, manual", NS, NO_TARGET, ONE("hit-after-unmap", 0),
	     UCX_BY("hit-after-unmap", 0), NOBODY),
	HITS("hit after such a munmap, uffd exact", NS, NO_TARGET, EXACT("hit-after-unmap", 0),
	     UCX_BY("hit-after-unmap", 0), NOBODY),

	HITS("hit while others unmap: p50, uffd exact", NS, NO_TARGET, EXACT("storm", 0), UCX_BY("storm", 0),
	     NOBODY),
	HITS("hit while others unmap: p99, uffd exact", NS, NO_TARGET, EXACT("storm", 1), UCX_BY("storm", 1),
	     NOBODY),
	HITS("hit while others unmap: p99.9, uffd ex.", NS, NO_TARGET, EXACT("storm", 2), UCX_BY("storm", 2),
	     NOBODY),
	HITS("hit beside a 20 ms NIC: p50, uffd exact", NS, NO_TARGET, EXACT("slow-nic", 0),
	     UCX_BY("slow-nic", 0), EXACT("paced", 0)),
	HITS("hit beside a 20 ms NIC: p99.9, uffd ex.", NS, NO_TARGET, EXACT("slow-nic", 1),
	     UCX_BY("slow-nic", 1), EXACT("paced", 1)),
	HITS("hit beside a 20 ms NIC: worst, uffd ex.", NS, NO_TARGET, EXACT("slow-nic", 2),
	     UCX_BY("slow-nic", 2), EXACT("paced", 2)),

	ROW("memory of a region, aligned", BYTES, BYTES_128, EXACT("memory-aligned", 0),
	    UCX_BY("memory-aligned", 0), NOBODY),
	ROW("memory of a region, malloc-like", BYTES, BYTES_128, EXACT("memory-malloc", 0),
	    UCX_BY("memory-malloc", 0), NOBODY),
	ROW("mappings added by 100 000, uffd exact", COUNT, NO_TARGET, EXACT("memory-malloc", 1),
	    UCX_BY("memory-malloc", 1), NOBODY),
	ROW("miss, growing to 100 000, uffd exact", NS, NO_TARGET, EXACT("memory-malloc", 2),
	    UCX_BY("memory-malloc", 2), NOBODY),
	ROW("process: start, open, close, manual", NS, MS_2, ONE("start", 0), UCX_BY("start", 0),
	    BARE_BY("start", 0)),
	ROW("process: start, open, close, uffd exact", NS, MS_2, EXACT("start", 0), UCX_BY("start", 0),
	    BARE_BY("start", 0)),
	ROW("process: start, open, close, supervise", NS, NO_TARGET, SUPERVISED("start", 0), UCX_BY("start", 0),
	    BARE_BY("start", 0)),
};

const size_t row_count = sizeof(rows) / sizeof(rows[0]);

const struct probe calibration_probes[3] = {
	BARE_BY("locked-add", 0), BARE_BY("getppid", 0), BARE_BY("random-read", 0),
};

const char *target_text(enum target t)
{
	static const char *const texts[] = {
		[NO_TARGET] = "",
		[ONE_LOCKED_ADD] = "<= 1 locked add, <= 40 instructions",
		[ADD_AND_CALL] = "<= 1 locked add + 1.5 getppid",
		[SCALES_APART] = ">= 1.9 times one thread",
		[SCALES_SAME] = ">= 1.8 times one thread",
		[HALF_OF_UCX] = "<= half of UCX's time",
		[SAME_FOR_SHAPES] = "shape changes it by < 10 %",
		[NS_300] = "<= 300 ns",
		[AS_CONTROL] = "no measurable change",
		[BYTES_128] = "<= 128 bytes",
		[MS_2] = "< 2 ms",
	};

	return texts[t];
}

#define INSTRUCTIONS_OF_A_HIT 40
#define LEAST_NOISE 0.03 /* of the control: less than that is not told apart from one run to the next */

static double limit_of(const struct row *r, const struct calibration *c)
{
	double noise = fmax(r->noise, LEAST_NOISE * r->median[CONTROL]);

	switch (r->target) {
	case NO_TARGET: return NAN;
	case ONE_LOCKED_ADD: return c->locked_add_ns;
	case ADD_AND_CALL: return c->locked_add_ns + 1.5 * c->getppid_ns;
	case SCALES_APART: return 1.9;
	case SCALES_SAME: return 1.8;
	case HALF_OF_UCX: return r->median[UCX] / 2;
	case SAME_FOR_SHAPES: return 1.1;
	case NS_300: return 300;
	case AS_CONTROL: return r->median[CONTROL] + noise;
	case BYTES_128: return 128;
	case MS_2: return 2e6;
	}
	return NAN;
}

static void judge(struct row *r, const struct calibration *c)
{
	bool more = r->target == SCALES_APART || r->target == SCALES_SAME;
	double ours = r->median[OURS];

	r->limit = limit_of(r, c);
	r->met = -1;
	if (isnan(r->limit) || isnan(ours))
		return;
	r->met = more ? ours >= r->limit : ours <= r->limit;
	if (r->target == ONE_LOCKED_ADD && r->instructions[OURS] > INSTRUCTIONS_OF_A_HIT)
		r->met = 0;
}

static double spread(const struct row *three, enum side s)
{
	double least = three[0].median[s], most = least;

	for (int i = 0; i < 3; i++) {
		if (isnan(three[i].median[s]))
			return NAN;
		least = fmin(least, three[i].median[s]);
		most = fmax(most, three[i].median[s]);
	}
	return most / least;
}

void rows_judge(const struct calibration *c)
{
	for (size_t i = 0; i < row_count; i++) {
		struct row *r = &rows[i];

		if (r->spread)
			for (enum side s = OURS; s <= UCX; s++)
				r->median[s] = spread(r - 3, s);
		judge(r, c);
	}
}
