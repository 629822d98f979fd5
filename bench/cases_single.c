/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Calibration, and the cases of one thread in which nothing is unmapped. value[0]: ns for one operation. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fixture.h"
#include "helper.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define THOUSAND 1000ul
#define HUNDRED_THOUSAND 100000ul
#define LIMIT 1000ul      /* regions that the cache may keep in the cases of eviction */
#define BATCH 64ul
#define LARGE (16ul << 20)
#define READ_WORDS (1ul << 23) /* 64 MiB */

static unsigned long locked_add(struct fixture *f, unsigned long n, struct sample *out)
{
	static long word;

	for (unsigned long i = 0; i < n; i++)
		__atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
	return n;
}

static unsigned long getppid_call(struct fixture *f, unsigned long n, struct sample *out)
{
	for (unsigned long i = 0; i < n; i++)
		syscall(SYS_getppid);
	return n;
}

static int uffd;

static void setup_ioctl(struct fixture *f)
{
	struct uffdio_api api = { .api = UFFD_API };

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		die("userfaultfd", strerror(errno));
	f->helper = helper_start(); /* with a second thread the kernel counts the uses of a descriptor */
}

/* What the check of an exact hit asks, and nothing around it: the least that it can cost. */
static unsigned long ioctl_call(struct fixture *f, unsigned long n, struct sample *out)
{
	struct uffdio_zeropage never = { .range = { 1, 1 } };

	for (unsigned long i = 0; i < n; i++)
		ioctl(uffd, UFFDIO_ZEROPAGE, &never);
	return n;
}

static void setup_read(struct fixture *f)
{
	uint64_t *words = (uint64_t *)map(READ_WORDS * sizeof(*words));

	for (unsigned long i = 0; i < READ_WORDS; i++)
		words[i] = 2; /* not 0: else all pages could be one */
	f->mem = (char *)words;
}

/* Each address depends on what was read before, and the sequence comes by every word. */
static unsigned long random_read(struct fixture *f, unsigned long n, struct sample *out)
{
	const uint64_t *words = (const uint64_t *)f->mem;
	uint64_t at = f->next;

	for (unsigned long i = 0; i < n; i++)
		at = (at * 6364136223846793005u + 1 + words[at]) & (READ_WORDS - 1);
	f->next = at;
	return n;
}

static unsigned long hit_one(struct fixture *f, unsigned long n, struct sample *out)
{
	char *at = f->pieces[0].at;

	for (unsigned long i = 0; i < n; i++)
		get_put(&f->cache, at, BUFFER);
	return n;
}

static unsigned long hit_many(struct fixture *f, unsigned long n, struct sample *out)
{
	for (unsigned long i = 0; i < n; i++) {
		struct piece p = next_piece(f);

		get_put(&f->cache, p.at, p.len);
	}
	return n;
}

static unsigned long hit_batch(struct fixture *f, unsigned long n, struct sample *out)
{
	char *at = f->pieces[0].at;
	struct held h;

	n += (BATCH - n % BATCH) % BATCH;
	for (unsigned long i = 0; i < n; i++) {
		if (i % BATCH == 0)
			cache_sync(&f->cache);
		cache_get_unchecked(&f->cache, at, BUFFER, &h);
		cache_put(&f->cache, &h);
	}
	return n;
}

/* Any byte and any length inside of one region. The steps are odd, and so meet all sizes and offsets. */
static void setup_part(struct fixture *f)
{
	uint64_t x = 1;

	f->mem = map(LARGE);
	f->pieces = calloc(f->count, sizeof(*f->pieces));
	if (!f->pieces)
		die("pieces", "no memory");
	for (unsigned long i = 0; i < f->count; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		f->pieces[i].len = 1 + (x >> 40) % BUFFER;
		f->pieces[i].at = f->mem + (x >> 33) % (LARGE - f->pieces[i].len);
	}
	get_put(&f->cache, f->mem, LARGE);
}

static unsigned long invalidate(struct fixture *f, unsigned long n, struct sample *out)
{
	unsigned long first = f->next;
	double t = now();

	for (unsigned long i = 0; i < n; i++) {
		struct piece p = next_piece(f);

		cache_invalidate(&f->cache, p.at, p.len);
	}
	out->value[0] = (now() - t) / (double)n;
	f->next = first;
	for (unsigned long i = 0; i < n; i++) {
		struct piece p = next_piece(f);

		get_put(&f->cache, p.at, p.len);
	}
	return n;
}

/* Every region is used once before it is measured: what the other workers took of the CPU's caches is back. */
#define MANY(name, count, shape, weight) \
	{ name, setup_cached, hit_many, count, shape, 0, weight, 0, count }

const struct bench_case single_cases[] = {
	{ "locked-add", NULL, locked_add, 0, 0, 0, 1, 0, 0 },
	{ "getppid", NULL, getppid_call, 0, 0, 0, 1, 0, 0 },
	{ "ioctl", setup_ioctl, ioctl_call, 0, 0, 0, 1, 0, 0 },
	{ "random-read", setup_read, random_read, 0, 0, 0, 1, 0, 0 },
	{ "hit", setup_cached, hit_one, 1, ALIGNED, 0, 1, 0, 0 },
	{ "hit-batch", setup_cached, hit_batch, 1, ALIGNED, 0, 1, 0, 0 },
	{ "hit-part", setup_part, hit_many, 4096, 0, 0, 1, 0, 4096 },
	MANY("hit-1000-aligned", THOUSAND, ALIGNED, 1),
	MANY("hit-1000-page", THOUSAND, PAGE_OFF, 1),
	MANY("hit-1000-malloc", THOUSAND, MALLOC_LIKE, 1),
	MANY("hit-100000-aligned", HUNDRED_THOUSAND, ALIGNED, 8),
	MANY("hit-100000-page", HUNDRED_THOUSAND, PAGE_OFF, 8),
	MANY("hit-100000-malloc", HUNDRED_THOUSAND, MALLOC_LIKE, 8),
	/* four times as many as it may keep, in turn: each get registers, and evicts */
	{ "evict-aligned", setup_cached, hit_many, 4 * LIMIT, ALIGNED, LIMIT, 1, 0, 0 },
	{ "evict-malloc", setup_cached, hit_many, 4 * LIMIT, MALLOC_LIKE, LIMIT, 1, 0, 0 },
	{ "invalidate", setup_cached, invalidate, HUNDRED_THOUSAND, ALIGNED, 0, 1, 1000, 0 },
	{ 0 },
};
