/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The table of what is shown: each row a case, ours beside UCX's, and perhaps a control (the same without a
 * cache, or without what disturbs). A probe is one measurement: one worker, one of its values.
 */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include <stdbool.h>
#include <stddef.h>

struct probe {
	const char *engine;  /* "ours", "ucx", "bare"; NULL: not measured */
	const char *variant;
	const char *name;    /* the worker's case */
	unsigned value;      /* which of the sample's values */
};

enum side { OURS, UCX, CONTROL, SIDES };

enum unit { NS, TIMES, BYTES, COUNT };

enum target {
	NO_TARGET,
	ONE_LOCKED_ADD,  /* ... and 40 instructions, where they were counted */
	ADD_AND_CALL,    /* a locked add and 1.5 getppid */
	SCALES_APART,    /* 1.9 times one thread */
	SCALES_SAME,     /* 1.8 times */
	HALF_OF_UCX,
	SAME_FOR_SHAPES, /* the slowest of three shapes over the fastest: below 1.1 */
	NS_300,
	AS_CONTROL,      /* no measurable change */
	BYTES_128,
	MS_2,
};

struct row {
	const char *name;
	enum unit unit;
	enum target target;
	struct probe probe[SIDES];
	bool spread;     /* no probes: the slowest of the three rows before over the fastest */
	bool hits;       /* a registration by the measuring thread is not expected */

	/* filled in */
	double median[SIDES]; /* NAN: not measured */
	double noise;         /* between the quartiles of the control */
	double misses[SIDES];
	double instructions[SIDES];
	double limit;         /* what the target asks for; NAN: none */
	int met;              /* 1, 0; -1: unknown or no target */
};

struct calibration {
	double locked_add_ns, getppid_ns, random_read_ns;
};

extern struct row rows[];
extern const size_t row_count;
extern const struct probe calibration_probes[3];

/* Sets limit and met of every row whose medians are there; fills the spreads first. */
void rows_judge(const struct calibration *c);
/* "<= 1 locked add", or "". */
const char *target_text(enum target t);

#endif
