/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What an unmap costs the program, and the hit after it. value[0]: ns. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "fixture.h"

static double timed_munmap(char *at, size_t len)
{
	double t = now();

	munmap(at, len);
	return now() - t;
}

/* One touched page of a mapping of its own, of which the cache never knew. */
static unsigned long unmap_unknown(struct fixture *f, unsigned long n, struct sample *out)
{
	for (unsigned long i = 0; i < n; i++) {
		char *m = map(2 * PAGE);

		m[0] = 1;
		f->latency[i] = timed_munmap(m, PAGE);
		munmap(m + PAGE, PAGE);
	}
	out->value[0] = trimmed_mean(f->latency, n) - f->clock_ns;
	return n;
}

/* Of a touched mapping of which the first half is cached: all of that half, or one page of the other. */
static unsigned long unmap_part(struct fixture *f, unsigned long n, bool cached, struct sample *out)
{
	for (unsigned long i = 0; i < n; i++) {
		char *m = map(2 * BUFFER);

		memset(m, 1, 2 * BUFFER);
		get_put(&f->cache, m, BUFFER);
		f->latency[i] = cached ? timed_munmap(m, BUFFER) : timed_munmap(m + BUFFER, PAGE);
		munmap(m, 2 * BUFFER);
	}
	out->value[0] = trimmed_mean(f->latency, n) - f->clock_ns;
	return n;
}

static unsigned long unmap_beside(struct fixture *f, unsigned long n, struct sample *out)
{
	return unmap_part(f, n, false, out);
}

static unsigned long unmap_cached(struct fixture *f, unsigned long n, struct sample *out)
{
	return unmap_part(f, n, true, out);
}

/* One of 100 000, untouched, in one large mapping. Afterwards they are mapped and cached again. */
static unsigned long unmap_one_of_many(struct fixture *f, unsigned long n, struct sample *out)
{
	unsigned long first = f->next;
	double t = now();

	for (unsigned long i = 0; i < n; i++) {
		struct piece p = next_piece(f);

		munmap(p.at, p.len);
	}
	out->value[0] = (now() - t) / (double)n;
	f->next = first;
	for (unsigned long i = 0; i < n; i++) {
		struct piece p = next_piece(f);

		if (mmap(p.at, p.len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
			die("mmap again", strerror(errno));
		get_put(&f->cache, p.at, p.len);
	}
	return n;
}

static unsigned long hit_after_unmap(struct fixture *f, unsigned long n, struct sample *out)
{
	char *at = f->pieces[0].at;

	for (unsigned long i = 0; i < n; i++) {
		char *m = map(PAGE);
		double t;

		m[0] = 1;
		munmap(m, PAGE);
		t = now();
		get_put(&f->cache, at, BUFFER);
		f->latency[i] = now() - t;
	}
	out->value[0] = trimmed_mean(f->latency, n) - f->clock_ns;
	return n;
}

/* Secured, so that it is refused (R37): nothing is unmapped. */
static unsigned long unmap_refused(struct fixture *f, unsigned long n, struct sample *out)
{
	char *m = f->mem;
	double t = now();

	for (unsigned long i = 0; i < n; i++)
		if (munmap(m, BUFFER) == 0 || errno != EBUSY)
			die("munmap of secured memory", "not refused");
	out->value[0] = (now() - t) / (double)n;
	return n;
}

static void setup_denied(struct fixture *f)
{
	setup_cached(f);
	cache_deny(&f->cache, f->mem, BUFFER);
}

const struct bench_case unmap_cases[] = {
	{ "unmap-unknown", setup_cached, unmap_unknown, 1, ALIGNED, 0, 1, LATENCIES, 0 },
	{ "unmap-beside", setup_cached, unmap_beside, 1, ALIGNED, 0, 2, LATENCIES, 0 },
	{ "unmap-cached", setup_cached, unmap_cached, 1, ALIGNED, 0, 2, LATENCIES, 0 },
	{ "unmap-one-of-many", setup_cached, unmap_one_of_many, 100000, ALIGNED, 0, 2, 500, 0 },
	{ "unmap-refused", setup_denied, unmap_refused, 1, ALIGNED, 0, 1, 0, 0 },
	{ "hit-after-unmap", setup_cached, hit_after_unmap, 1, ALIGNED, 0, 1, LATENCIES, 0 },
	{ 0 },
};
