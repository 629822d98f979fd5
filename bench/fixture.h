/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What every case works on: one cache and some buffers. ENGINE is the header of one cache: the cases
 * are compiled once for each, so that no call to a cache goes through a pointer.
 */
#ifndef BENCH_FIXTURE_H
#define BENCH_FIXTURE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "sample.h"

#define PAGE 4096ul
#define BUFFER (64ul << 10)
#define STRIDE (2 * BUFFER)   /* so that no two buffers touch, whatever their shape */
#define NO_LIMIT (4ul << 20)

/* How often this thread has registered, and how long the NIC takes for its next registrations. */
extern _Thread_local uint64_t registrations;
extern _Thread_local unsigned registration_us;

void nothing_registered(void);

#include ENGINE

struct piece {
	char *at;
	size_t len;
};

struct fixture {
	const struct bench_case *kind;
	const char *variant;
	struct cache cache;
	char *mem;             /* of `count` strides */
	struct piece *pieces;  /* what is asked for, in random order */
	unsigned long count, next;
	double clock_ns;       /* what two now() cost */
	double *latency;       /* of LATENCIES */
	struct helper *helper; /* a second thread */
	struct sample fixed;   /* measured once */
};

#define LATENCIES 65536ul

/* Where in its stride a buffer lies. */
#define ALIGNED 0ul
#define PAGE_OFF PAGE
#define MALLOC_LIKE (PAGE + 16)

struct bench_case {
	const char *name;
	void (*setup)(struct fixture *f);
	/* n operations; returns how many it did in the end */
	unsigned long (*run)(struct fixture *f, unsigned long n, struct sample *out);
	unsigned long count, shape; /* buffers */
	unsigned long max_regions;  /* 0: no limit */
	unsigned weight;            /* times the budget; 0 is 1 */
	unsigned long most;         /* operations in one sample; 0: any number */
	unsigned long warm;         /* operations before each sample, unmeasured; 0: some */
};

extern const struct bench_case single_cases[], pair_cases[], unmap_cases[], whole_cases[];

char *map(size_t bytes);
void setup_pieces(struct fixture *f);
void setup_cached(struct fixture *f);
double trimmed_mean(double *v, unsigned long n);
void summarize(const struct fixture *f, unsigned long n, const double q[VALUES], struct sample *out);

static inline void get_put(struct cache *c, char *at, size_t len)
{
	struct held h;

	cache_get(c, at, len, &h);
	cache_put(c, &h);
}

static inline struct piece next_piece(struct fixture *f)
{
	struct piece p = f->pieces[f->next];

	if (++f->next == f->count)
		f->next = 0;
	return p;
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
