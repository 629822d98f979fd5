/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a hit costs, by proxy: t/figures.sh. Instructions are counted by single steps (the trap flag: a SIGTRAP after each
 * one), so they are exact wherever this runs; nanoseconds of an emulated processor are good for ratios only. A system
 * call counts as one. Then what a munmap costs, of a page that the proxy watches and of one that it doesn't.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <holdfast/holdfast.h>

#define PAGE 4096ul
#define RANGES 500
#define ROUNDS 7

typedef int (*get_fn)(struct hf_provider *p, const void *addr, size_t len, unsigned access, struct hf_region *out);

static struct hf_switch *sw;
static struct hf_provider *provider;
static char *page;
static volatile sig_atomic_t steps;

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ------------------------------------------------------------------ a hit */

static int hits(get_fn get, long n)
{
	struct hf_region r;

	for (long i = 0; i < n; i++)
		if (get(provider, page, PAGE, HF_READWRITE, &r) || !(r.flags & HF_REGION_HIT) || hf_put(provider, &r))
			return -1;
	return 0;
}

static void on_step(int sig)
{
	(void)sig;
	steps++;
}

/* Flags on the stack; the red zone is left alone. */
static inline void trap_flag(bool on)
{
	if (on)
		__asm__ volatile("sub $128,%%rsp; pushfq; orq $0x100,(%%rsp); popfq; add $128,%%rsp" ::: "memory", "cc");
	else
		__asm__ volatile("sub $128,%%rsp; pushfq; andq $~0x100,(%%rsp); popfq; add $128,%%rsp" ::: "memory", "cc");
}

static long instructions(get_fn get, long n)
{
	int rc;

	steps = 0;
	trap_flag(true);
	rc = hits(get, n);
	trap_flag(false);
	return rc ? -1 : (long)steps;
}

static double best_ns(get_fn get, long n)
{
	double best = 1e18;

	for (int i = 0; i < ROUNDS; i++) {
		double t = now_ns();

		if (hits(get, n))
			return -1;
		t = (now_ns() - t) / (double)n;
		best = t < best ? t : best;
	}
	return best;
}

/* The loop's own instructions are in it: about 10. */
static int one_hit(const char *proxy, const char *what, get_fn get)
{
	long few, many;
	double ns;

	few = instructions(get, 10);
	many = instructions(get, 110);
	ns = best_ns(get, 20000);
	if (few < 0 || many < few || ns < 0) {
		printf("%s, %s: not a hit: %s\n", proxy, what, hf_error());
		return 1;
	}
	printf("%-8s  %-28s  %4ld instructions  %7.1f ns\n", proxy, what, (many - few) / 100, ns);
	return 0;
}

/* ------------------------------------------------------------------ a munmap */

/* Of every other page; cached ones are registered and let go before. */
static double munmap_ns(bool cached)
{
	char *p = mmap(NULL, 2 * RANGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct hf_region r;
	double t;

	if (p == MAP_FAILED || madvise(p, 2 * RANGES * PAGE, MADV_NOHUGEPAGE))
		return -1;
	memset(p, 1, 2 * RANGES * PAGE);
	for (size_t i = 0; cached && i < RANGES; i++)
		if (hf_get(provider, p + 2 * i * PAGE, PAGE, HF_READWRITE, &r) || hf_put(provider, &r))
			return -1;
	t = now_ns();
	for (size_t i = 0; i < RANGES; i++)
		munmap(p + 2 * i * PAGE, PAGE);
	t = (now_ns() - t) / RANGES;
	munmap(p, 2 * RANGES * PAGE);
	return hf_flush(provider) < 0 ? -1 : t;
}

static int munmaps(const char *proxy)
{
	double never = 1e18, cached = 1e18;

	for (int i = 0; i < ROUNDS; i++) {
		double a = munmap_ns(false), b = munmap_ns(true);

		if (a < 0 || b < 0) {
			printf("%s, munmap: %s\n", proxy, hf_error());
			return 1;
		}
		never = a < never ? a : never;
		cached = b < cached ? b : cached;
	}
	printf("%-8s  munmap of a page: never secured %.1f us, secured and cached %.1f us\n", proxy, never / 1e3, cached / 1e3);
	return 0;
}

static int one_proxy(const char *proxy)
{
	char options[64];
	struct hf_region r;
	int bad;

	snprintf(options, sizeof(options), "proxy=%s", proxy);
	if (hf_switch_open(options, &sw) || hf_provider_open(sw, "uring", NULL, &provider)) {
		printf("%s: %s\n", proxy, hf_error());
		return 1;
	}
	/* The first is a miss, and lazy binding is over after it. */
	for (int i = 0; i < 3; i++)
		if (hf_get(provider, page, PAGE, HF_READWRITE, &r) || hf_put(provider, &r) || hf_sync(provider) ||
		    hf_get_unchecked(provider, page, PAGE, HF_READWRITE, &r) || hf_put(provider, &r))
			return 1;
	bad = one_hit(proxy, "hf_get, hf_put", hf_get);
	bad |= one_hit(proxy, "hf_get_unchecked, hf_put", hf_get_unchecked);
	bad |= munmaps(proxy);
	hf_provider_close(provider);
	hf_switch_close(sw);
	return bad;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_step };
	int bad = 0;

	sigaction(SIGTRAP, &action, NULL);
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return 1;
	memset(page, 1, PAGE);
	for (int i = 1; i < argc; i++)
		bad |= one_proxy(argv[i]);
	return bad;
}
