/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a hit, a watched munmap and a region cost, beside a locked add and a getppid of the same run.
 * Every case is run in short rounds, all cases in turn, and the median of its rounds is printed:
 * the machine's noise hits all alike.     basics [--json] [ROUNDS]
 */
#include <holdfast/sim.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define BUFFERS 100000ul
#define BUFFER (64ul << 10)
#define MAX_ROUNDS 1000

struct fixture {
	const char *options;
	struct hf_switch *sw;
	struct hf_provider *p;
	char *mem; /* one cached 64 KiB range and the rest of an armed 4 MiB mapping */
};

static struct fixture exact = { .options = "proxy=uffd" };
static struct fixture fast = { .options = "proxy=uffd,mode=fast" };
static struct fixture manual = { .options = "proxy=manual" };
static bool json;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void must(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "basics: %s: %s\n", what, hf_error());
	exit(3);
}

static char *map(size_t bytes)
{
	char *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED) {
		perror("basics: mmap");
		exit(3);
	}
	return m;
}

static void get_put(struct fixture *f, char *at)
{
	struct hf_region r;

	must(hf_get(f->p, at, BUFFER, HF_READ, &r), "hf_get");
	must(hf_put(f->p, &r), "hf_put");
}

static void open_fixture(struct fixture *f)
{
	must(hf_switch_open(f->options, &f->sw), f->options);
	must(hf_provider_open(f->sw, "sim", "max_count=4M,max_bytes=1T", &f->p), "sim");
	f->mem = map(4 << 20);
	get_put(f, f->mem);
	get_put(f, f->mem + BUFFER);
}

/* ------------------------------------------------------------------ cases: ns for one of n */

static double locked_add(void *arg, int n)
{
	static _Atomic long word;
	double t = now();

	for (int i = 0; i < n; i++)
		word++;
	return (now() - t) / n;
}

static double system_call(void *arg, int n)
{
	double t = now();

	for (int i = 0; i < n; i++)
		syscall(SYS_getppid);
	return (now() - t) / n;
}

static double hit(void *arg, int n)
{
	struct fixture *f = arg;
	double t = now();

	for (int i = 0; i < n; i++)
		get_put(f, f->mem);
	return (now() - t) / n;
}

static double batch(void *arg, int n)
{
	struct fixture *f = arg;
	struct hf_region r;
	double t = now();

	for (int i = 0; i < n; i++) {
		if (i % 64 == 0)
			must(hf_sync(f->p), "hf_sync");
		must(hf_get_unchecked(f->p, f->mem, BUFFER, HF_READ, &r), "hf_get_unchecked");
		hf_put(f->p, &r);
	}
	return (now() - t) / n;
}

struct pair {
	struct fixture *f;
	char *at[2];
	int n;
	pthread_barrier_t start;
};

struct half {
	struct pair *pair;
	char *at;
};

static void *half_main(void *arg)
{
	struct half *h = arg;

	pthread_barrier_wait(&h->pair->start);
	for (int i = 0; i < h->pair->n; i++)
		get_put(h->pair->f, h->at);
	return NULL;
}

/* Time for one get+put while a second thread does the same: half of it is the time per operation. */
static double two_threads(struct fixture *f, char *a, char *b, int n)
{
	struct pair pair = { .f = f, .n = n };
	struct half halves[2] = { { &pair, a }, { &pair, b } };
	pthread_t t[2];
	double start;

	pthread_barrier_init(&pair.start, NULL, 3);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, half_main, &halves[i]);
	pthread_barrier_wait(&pair.start);
	start = now();
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	pthread_barrier_destroy(&pair.start);
	return (now() - start) / (2.0 * n);
}

static double two_same(void *arg, int n)
{
	struct fixture *f = arg;

	return two_threads(f, f->mem, f->mem, n);
}

static double two_apart(void *arg, int n)
{
	struct fixture *f = arg;

	return two_threads(f, f->mem, f->mem + BUFFER, n);
}

/* munmap of one touched page in a mapping of its own, which was never armed. */
static double munmap_unarmed(void *arg, int n)
{
	double sum = 0;

	for (int i = 0; i < n; i++) {
		char *m = map(2 * PAGE);
		double t;

		m[0] = 1;
		t = now();
		munmap(m, PAGE);
		sum += now() - t;
		munmap(m + PAGE, PAGE);
	}
	return sum / n;
}

/* ... of a page nobody registered, in a mapping in which something else is: `cached` false; or of the range. */
static double munmap_armed(struct fixture *f, int n, bool cached)
{
	double sum = 0;

	for (int i = 0; i < n; i++) {
		char *m = map(2 * BUFFER);
		char *at = cached ? m : m + BUFFER;
		double t;

		memset(m, 1, 2 * BUFFER);
		get_put(f, m);
		t = now();
		munmap(at, cached ? BUFFER : PAGE);
		sum += now() - t;
		munmap(m, 2 * BUFFER);
	}
	return sum / n;
}

static double munmap_elsewhere(void *arg, int n)
{
	return munmap_armed(arg, n, false);
}

static double munmap_cached(void *arg, int n)
{
	return munmap_armed(arg, n, true);
}

/* The munmap of a cached range with no holdfast, for comparison. */
static double munmap_64k_bare(void *arg, int n)
{
	double sum = 0;

	for (int i = 0; i < n; i++) {
		char *m = map(2 * BUFFER);
		double t;

		memset(m, 1, 2 * BUFFER);
		t = now();
		munmap(m, BUFFER);
		sum += now() - t;
		munmap(m + BUFFER, BUFFER);
	}
	return sum / n;
}

static struct row {
	const char *name;
	double (*run)(void *arg, int n);
	void *arg;
	int n;
	double samples[MAX_ROUNDS];
	double median;
} rows[] = {
	{ "locked add", locked_add, NULL, 20000, { 0 }, 0 },
	{ "getppid", system_call, NULL, 5000, { 0 }, 0 },
	{ "hit (get+put), uffd exact", hit, &exact, 3000, { 0 }, 0 },
	{ "hit, uffd fast", hit, &fast, 20000, { 0 }, 0 },
	{ "hit, manual", hit, &manual, 20000, { 0 }, 0 },
	{ "hit in a batch of 64, uffd exact", batch, &exact, 6400, { 0 }, 0 },
	{ "hit, uffd exact, 2 threads, one region", two_same, &exact, 3000, { 0 }, 0 },
	{ "hit, uffd exact, 2 threads, two regions", two_apart, &exact, 3000, { 0 }, 0 },
	{ "hit, manual, 2 threads, one region", two_same, &manual, 20000, { 0 }, 0 },
	{ "hit, manual, 2 threads, two regions", two_apart, &manual, 20000, { 0 }, 0 },
	{ "munmap of a page, before any switch", munmap_unarmed, NULL, 200, { 0 }, 0 },
	{ "munmap of a page, mapping never armed", munmap_unarmed, NULL, 200, { 0 }, 0 },
	{ "munmap of a page, elsewhere in an armed mapping", munmap_elsewhere, &exact, 50, { 0 }, 0 },
	{ "munmap of 64 KiB, no holdfast", munmap_64k_bare, NULL, 50, { 0 }, 0 },
	{ "munmap of a cached 64 KiB", munmap_cached, &exact, 50, { 0 }, 0 },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void run_rounds(int rounds)
{
	for (int r = 0; r < rounds; r++)
		rows[10].samples[r] = rows[10].run(rows[10].arg, rows[10].n);
	open_fixture(&exact);
	open_fixture(&fast);
	open_fixture(&manual);
	for (int r = 0; r < rounds; r++)
		for (size_t i = 0; i < ROWS; i++)
			if (i != 10)
				rows[i].samples[r] = rows[i].run(rows[i].arg, rows[i].n);
	for (size_t i = 0; i < ROWS; i++) {
		qsort(rows[i].samples, (size_t)rounds, sizeof(double), by_value);
		rows[i].median = rows[i].samples[rounds / 2];
	}
}

/* ------------------------------------------------------------------ 100 000 buffers */

static unsigned long count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned long n = 0;
	int c;

	while (f && (c = getc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* Private dirty memory that is resident: ours, when nothing else runs. Bytes. */
static unsigned long resident(void)
{
	unsigned long size = 0, rss = 0, shared = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu %lu %lu", &size, &rss, &shared) != 3)
		exit(3);
	fclose(f);
	return (rss - shared) * PAGE;
}

struct many {
	unsigned long vmas_before, vmas_after, entries;
	double bytes_each, ns_each;
};

/* A NIC that keeps no book, so that only the library's memory is counted. */
static int null_open(const char *arg, void *config, void **nic)
{
	*nic = NULL;
	return 0;
}

static void null_close(void *nic)
{
}

static int null_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	return 0;
}

static int null_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	return 0;
}

static const struct hf_nic_ops null_nic = {
	.size = sizeof(null_nic),
	.abi = HF_BACKEND_ABI,
	.flags = HF_NIC_PINS_FOR_WRITE,
	.name = "null",
	.open = null_open,
	.close = null_close,
	.reg = null_reg,
	.dereg = null_dereg,
};

static struct many hundred_thousand(void)
{
	struct fixture f = { .options = "proxy=uffd" };
	struct hf_stats stats;
	struct many m = { 0 };
	unsigned long before;
	double t;

	must(hf_switch_open(f.options, &f.sw), f.options);
	must(hf_provider_open_nic(f.sw, &null_nic, NULL, "max_bytes=1T", &f.p), "null NIC");
	f.mem = map(BUFFERS * 2 * BUFFER);
	m.vmas_before = count_lines("/proc/self/maps");
	before = resident();
	t = now();
	for (unsigned long i = 0; i < BUFFERS; i++)
		get_put(&f, f.mem + i * 2 * BUFFER);
	m.ns_each = (now() - t) / BUFFERS;
	m.bytes_each = (double)(resident() - before) / BUFFERS;
	m.vmas_after = count_lines("/proc/self/maps");
	must(hf_provider_stats(f.p, &stats, sizeof(stats)), "stats");
	m.entries = stats.entries;
	munmap(f.mem, BUFFERS * 2 * BUFFER);
	must(hf_provider_close(f.p), "close");
	must(hf_switch_close(f.sw), "close");
	return m;
}

/* ------------------------------------------------------------------ output */

static void print_text(const struct many *m)
{
	double add = rows[0].median, call = rows[1].median;

	printf("%-52s %10s %14s %10s\n", "", "ns", "x locked add", "x getppid");
	for (size_t i = 0; i < ROWS; i++)
		printf("%-52s %10.1f %14.1f %10.2f\n", rows[i].name, rows[i].median,
		       rows[i].median / add, rows[i].median / call);
	printf("\n%lu buffers of 64 KiB, 128 KiB apart: %lu cached; %lu VMAs before, %lu after;\n"
	       "%.0f bytes each, all included; %.0f ns for a miss without the NIC's part\n",
	       BUFFERS, m->entries, m->vmas_before, m->vmas_after, m->bytes_each, m->ns_each);
}

static void print_json(const struct many *m)
{
	printf("{\n  \"calibration\": { \"locked_add_ns\": %.2f, \"getppid_ns\": %.1f },\n  \"rows\": [\n",
	       rows[0].median, rows[1].median);
	for (size_t i = 2; i < ROWS; i++)
		printf("    { \"case\": \"%s\", \"ours_ns\": %.2f }%s\n", rows[i].name, rows[i].median,
		       i + 1 < ROWS ? "," : "");
	printf("  ],\n  \"buffers\": %lu, \"cached\": %lu, \"vmas_before\": %lu, \"vmas_after\": %lu,\n"
	       "  \"bytes_per_region\": %.1f, \"miss_ns\": %.0f\n}\n", BUFFERS, m->entries,
	       m->vmas_before, m->vmas_after, m->bytes_each, m->ns_each);
}

int main(int argc, char **argv)
{
	int rounds = 101;
	struct many m;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			json = true;
		else
			rounds = atoi(argv[i]);
	}
	if (rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: basics [--json] [ROUNDS: 1..%d]\n", MAX_ROUNDS);
		return 2;
	}
	m = hundred_thousand();
	run_rounds(rounds);
	json ? print_json(&m) : print_text(&m);
	return 0;
}
