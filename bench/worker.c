/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One case with one cache, in a process of its own.
 *
 *   holdfast-bench-ours VARIANT CASE            samples on request (see sample.h)
 *   holdfast-bench-ours VARIANT CASE N          N operations, once, and out: for callgrind
 *   holdfast-bench-ours --start VARIANT         open, close, and out
 *   holdfast-bench-ours --list                  the cases
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"

#define CLOCK_LOOKS 10000
#define FIRST_N 8ul

static const struct bench_case *const tables[] = { single_cases, pair_cases, unmap_cases, whole_cases };
#define TABLES (sizeof(tables) / sizeof(tables[0]))

static const struct bench_case *find_case(const char *name)
{
	for (size_t t = 0; t < TABLES; t++)
		for (const struct bench_case *c = tables[t]; c->name; c++)
			if (!strcmp(c->name, name))
				return c;
	die(name, "no such case; --list lists them");
	return NULL;
}

static double clock_cost(void)
{
	static double looks[CLOCK_LOOKS];

	for (int i = 0; i < CLOCK_LOOKS; i++) {
		double t = now();

		looks[i] = now() - t;
	}
	return trimmed_mean(looks, CLOCK_LOOKS);
}

static void setup(struct fixture *f, const char *variant, const char *name)
{
	*f = (struct fixture){ .variant = variant, .kind = find_case(name) };
	f->count = f->kind->count;
	f->clock_ns = clock_cost();
	f->latency = calloc(LATENCIES, sizeof(double));
	if (!f->latency)
		die("latencies", "no memory");
	if (f->kind->count)
		cache_open(&f->cache, variant, f->kind->max_regions ? f->kind->max_regions : NO_LIMIT);
	if (f->kind->setup)
		f->kind->setup(f);
}

/* One sample of about n operations. Returns what it took, all in all. */
static double measure(struct fixture *f, unsigned long n, struct sample *out)
{
	uint64_t before = registrations;
	double began = now();
	double took;
	unsigned long did;

	*out = (struct sample){ .value = { -1, -1, -1 } };
	did = f->kind->run(f, n, out);
	took = now() - began;
	if (out->value[0] < 0)
		out->value[0] = took / (double)did;
	out->misses = (double)(registrations - before) / (double)did;
	return took;
}

/* So many operations that they take about so long. */
static unsigned long fit(struct fixture *f, double budget_ns)
{
	unsigned long most = f->kind->most ? f->kind->most : ULONG_MAX;
	unsigned long n = FIRST_N < most ? FIRST_N : most;
	struct sample s;
	double took = measure(f, n, &s);

	while (took < budget_ns / 4 && n < most) {
		n = n < most / 2 ? 2 * n : most;
		took = measure(f, n, &s);
	}
	n = (unsigned long)((double)n * budget_ns / took);
	return n < 1 ? 1 : n < most ? n : most;
}

/* Caches, branches, frequency: other workers ran meanwhile. A heavy sample is long enough to do without. */
static void warm_up(struct fixture *f, unsigned long n)
{
	struct sample s;

	if (f->kind->warm)
		measure(f, f->kind->warm, &s);
	else if (f->kind->weight <= 1)
		measure(f, n / 8 + 1, &s);
}

static void serve(struct fixture *f)
{
	uint32_t weight = f->kind->weight ? f->kind->weight : 1;
	struct hello hello = { weight };
	uint32_t budget_us, fitted = 0;
	unsigned long n = 1;
	struct sample s;

	if (write(STDOUT_FILENO, &hello, sizeof(hello)) != sizeof(hello))
		return;
	while (read(STDIN_FILENO, &budget_us, sizeof(budget_us)) == sizeof(budget_us)) {
		if (budget_us != fitted)
			n = fit(f, 1e3 * budget_us * weight);
		fitted = budget_us;
		warm_up(f, n);
		measure(f, n, &s);
		if (write(STDOUT_FILENO, &s, sizeof(s)) != sizeof(s))
			return;
	}
}

static int list(void)
{
	for (size_t t = 0; t < TABLES; t++)
		for (const struct bench_case *c = tables[t]; c->name; c++)
			puts(c->name);
	return 0;
}

static int start(const char *variant)
{
	struct cache c;

	cache_open(&c, variant, NO_LIMIT);
	cache_close(&c);
	return 0;
}

int main(int argc, char **argv)
{
	struct fixture f;
	struct sample s;

	if (argc == 2 && !strcmp(argv[1], "--list"))
		return list();
	if (argc == 3 && !strcmp(argv[1], "--start"))
		return start(argv[2]);
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s VARIANT CASE [N] | --start VARIANT | --list\n", argv[0]);
		return 2;
	}
	setup(&f, argv[1], argv[2]);
	if (argc == 4)
		measure(&f, strtoul(argv[3], NULL, 10), &s);
	else
		serve(&f);
	_exit(0); /* what is cached goes with the process: closing 100 000 is no part of any case */
}
