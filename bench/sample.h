/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the conductor (holdfast-bench) and its workers (holdfast-bench-ours, -ucx, -bare) say to each other,
 * over a pipe each way. A worker measures one case with one cache, in a process of its own, so that what one
 * does to the address space or to libc's munmap is no part of what another one measures.
 *
 *   conductor                                worker VARIANT CASE
 *   ------------------------------           -------------------------------
 *                            <── hello ──    the case is set up
 *   budget in microseconds   ────────────►
 *                            <── sample ─    measured for about so long
 *   ... as often as it likes; then closes the pipe: the worker ends
 */
#ifndef BENCH_SAMPLE_H
#define BENCH_SAMPLE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VALUES 3

struct hello {
	uint32_t weight; /* a sample takes so many times the budget */
};

struct sample {
	double value[VALUES]; /* mostly ns for one operation; each case says what */
	double misses;        /* registrations by the measuring thread, for one operation */
};

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The q-th part of n sorted values. */
static inline double quantile(const double *sorted, size_t n, double q)
{
	size_t i = (size_t)(q * (double)n);

	return n ? sorted[i < n ? i : n - 1] : 0;
}

static inline void die(const char *what, const char *why)
{
	fprintf(stderr, "holdfast-bench: %s: %s\n", what, why);
	exit(3);
}

#endif
