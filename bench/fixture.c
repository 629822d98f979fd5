/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fixture.h"

_Thread_local uint64_t registrations;
_Thread_local unsigned registration_us;

void nothing_registered(void)
{
	registrations++;
	if (registration_us)
		usleep(registration_us);
}

char *map(size_t bytes)
{
	char *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		die("mmap", strerror(errno));
	return m;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

static void shuffle(struct piece *p, unsigned long n)
{
	uint64_t state = 1;

	for (unsigned long i = n; i > 1; i--) {
		unsigned long j = next_random(&state) % i;
		struct piece swap = p[j];

		p[j] = p[i - 1];
		p[i - 1] = swap;
	}
}

/* Buffers of 64 KiB, 128 KiB apart, in random order; the memory begins at a multiple of 128 KiB. */
void setup_pieces(struct fixture *f)
{
	char *m = map((f->count + 1) * STRIDE);

	f->mem = m + (-(uintptr_t)m & (STRIDE - 1));
	f->pieces = calloc(f->count, sizeof(*f->pieces));
	if (!f->pieces)
		die("pieces", "no memory");
	for (unsigned long i = 0; i < f->count; i++)
		f->pieces[i] = (struct piece){ f->mem + i * STRIDE + f->kind->shape, BUFFER };
	shuffle(f->pieces, f->count);
}

void setup_cached(struct fixture *f)
{
	setup_pieces(f);
	for (unsigned long i = 0; i < f->count; i++)
		get_put(&f->cache, f->pieces[i].at, f->pieces[i].len);
}

/* Quantiles of the first n latencies, without what the clock costs. */
void summarize(const struct fixture *f, unsigned long n, const double q[VALUES], struct sample *out)
{
	qsort(f->latency, n, sizeof(double), by_value);
	for (int i = 0; i < VALUES; i++) {
		double ns = quantile(f->latency, n, q[i]) - f->clock_ns;

		out->value[i] = ns > 0 ? ns : 0;
	}
}

/*
 * The mean without the slowest twentieth, in which somebody else ran: a clock may tick in steps longer than a
 * hit (10 ns on some machines), and a median would be a multiple of them.
 */
double trimmed_mean(double *v, unsigned long n)
{
	unsigned long keep = n - n / 20;
	double sum = 0;

	qsort(v, n, sizeof(double), by_value);
	for (unsigned long i = 0; i < keep; i++)
		sum += v[i];
	return sum / (double)keep;
}
