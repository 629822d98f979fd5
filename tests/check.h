/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the C tests share: open or fail with the library's own sentence, memory, random numbers, a child process.
 */
#ifndef CHECK_H
#define CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <holdfast/backend.h>
#include <holdfast/sim.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024ul
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#ifndef __has_feature /* gcc 12 */
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define CHECK_TSAN 1
#else
#define CHECK_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CHECK_ASAN 1
#else
#define CHECK_ASAN 0
#endif

/* A slow machine (tests/guest: an emulated one) does so many times less of what is done often: HF_TEST_SCALE. */
static inline unsigned check_scale(void)
{
	const char *text = getenv("HF_TEST_SCALE");
	unsigned scale = text ? (unsigned)strtoul(text, NULL, 10) : 1;

	return scale ? scale : 1;
}

static inline size_t check_page(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* The last sentence has these words in it. */
static inline void check_says(const char *words)
{
	if (!strstr(hf_error(), words))
		fail_msg("\"%s\" is not in the sentence \"%s\"", words, hf_error());
}

/* `rc` is the error `want` (negative), and the sentence has `words` in it. */
static inline void check_error(int rc, int want, const char *words)
{
	if (rc != want)
		fail_msg("%d instead of %d (%s): \"%s\"", rc, want, strerror(-want), hf_error());
	check_says(words);
}

static inline void check_ok(int rc)
{
	if (rc < 0)
		fail_msg("%d (%s): \"%s\"", rc, strerror(-rc), hf_error());
}

static inline struct hf_switch *check_switch(const char *options)
{
	struct hf_switch *sw = NULL;

	check_ok(hf_switch_open(options, &sw));
	assert_non_null(sw);
	return sw;
}

/* `sim` may be NULL: then it isn't steered. */
static inline struct hf_provider *check_sim(struct hf_switch *sw, struct hf_sim *sim, const char *options)
{
	struct hf_provider *p = NULL;

	check_ok(hf_provider_open_nic(sw, hf_nic_find("sim"), sim, options, &p));
	assert_non_null(p);
	return p;
}

static inline void check_close(struct hf_switch *sw, struct hf_provider *p)
{
	check_ok(hf_provider_close(p));
	check_ok(hf_switch_close(sw));
}

/* Whether this machine has the proxy uffd; says why not. A test that needs it answers 77 then. */
static inline bool check_uffd(void)
{
	struct hf_switch *sw;

	if (hf_switch_open("proxy=uffd", &sw)) {
		print_message("skipped: %s\n", hf_error());
		return false;
	}
	return hf_switch_close(sw) == 0;
}

/*
 * What the tests of the hazards run over: HF_TEST_NIC (such as "verbs:rxe0") with HF_TEST_PROXY (such as "kmod"), by
 * default uring with uffd, which most machines have.
 */
static inline const char *check_env(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

static inline const char *check_nic(void)
{
	return check_env("HF_TEST_NIC", "uring");
}

static inline const char *check_proxy(void)
{
	return check_env("HF_TEST_PROXY", "uffd");
}

static inline bool check_proxy_is(const char *name)
{
	return !strcmp(check_proxy(), name);
}

static inline bool check_nic_is(const char *name)
{
	size_t len = strlen(name);

	return !strncmp(check_nic(), name, len) && (!check_nic()[len] || check_nic()[len] == ':');
}

/* The NIC's operations, without a device: for one that is wrapped. */
static inline const struct hf_nic_ops *check_nic_ops(void)
{
	const struct hf_nic_ops *ops;
	char name[32];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(check_nic(), ":"), check_nic());
	ops = hf_nic_find(name);
	assert_non_null(ops);
	return ops;
}

static inline struct hf_switch *check_hazard_switch(void)
{
	char options[64];

	snprintf(options, sizeof(options), "proxy=%s", check_proxy());
	return check_switch(options);
}

static inline struct hf_provider *check_hazard_provider(struct hf_switch *sw, const char *options)
{
	struct hf_provider *p = NULL;

	check_ok(hf_provider_open(sw, check_nic(), options, &p));
	assert_non_null(p);
	return p;
}

/* 0; 77 where the defaults aren't there; 1 where what was asked for isn't. Says why. */
static inline int check_hazard_missing(void)
{
	bool asked = getenv("HF_TEST_NIC") || getenv("HF_TEST_PROXY");
	struct hf_provider *p = NULL;
	struct hf_switch *sw = NULL;
	char options[64];
	int rc;

	snprintf(options, sizeof(options), "proxy=%s", check_proxy());
	rc = hf_switch_open(options, &sw);
	if (!rc && asked)
		rc = hf_provider_open(sw, check_nic(), NULL, &p);
	if (rc)
		print_message("%s: %s\n", asked ? "not here" : "skipped", hf_error());
	hf_provider_close(p);
	hf_switch_close(sw);
	return !rc ? 0 : asked ? 1 : 77;
}

/* For a teardown: 0, or the first error, told. Both are NULL afterwards. */
static inline int check_close_both(struct hf_switch **sw, struct hf_provider **p)
{
	int rc = hf_provider_close(*p);

	if (rc)
		print_error("hf_provider_close: %s\n", hf_error());
	*p = NULL;
	rc = rc ? rc : hf_switch_close(*sw);
	*sw = NULL;
	return rc;
}

static inline uint64_t check_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline struct hf_region check_get(struct hf_provider *p, const void *addr, size_t len, unsigned access)
{
	struct hf_region r;

	check_ok(hf_get(p, addr, len, access, &r));
	return r;
}

/* Get and put: how it was served, HF_REGION_*. */
static inline unsigned check_touch(struct hf_provider *p, const void *addr, size_t len, unsigned access)
{
	struct hf_region r = check_get(p, addr, len, access);

	check_ok(hf_put(p, &r));
	return r.flags;
}

static inline struct hf_stats check_stats(struct hf_provider *p)
{
	struct hf_stats s = { 0 };

	check_ok(hf_provider_stats(p, &s, sizeof(s)));
	return s;
}

/* What the process itself changed is told and done with, however slow the machine is. */
static inline void check_quiet(struct hf_provider *p)
{
	int rc = hf_sync(p);

	for (int i = 0; i < 120000 && rc; i++) {
		usleep(1000);
		rc = hf_sync(p);
	}
	check_ok(rc);
}

/* What is dead is let go by a thread of the library: wait for it. */
static inline void check_pinned(struct hf_provider *p, uint64_t bytes)
{
	for (int i = 0; i < 120000 && check_stats(p).pinned_bytes != bytes; i++)
		usleep(1000);
	assert_int_equal(check_stats(p).pinned_bytes, bytes);
}

/* Writable, private, anonymous, filled, and fenced, so that the kernel merges it with nothing else. */
static inline char *check_map(size_t len)
{
	size_t page = check_page();
	char *p = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p + page, len, PROT_READ | PROT_WRITE), 0);
	madvise(p + page, len, MADV_NOHUGEPAGE); /* a huge page would be charged whole */
	memset(p + page, 1, len);
	return p + page;
}

static inline void check_unmap(char *p, size_t len)
{
	size_t page = check_page();

	assert_int_equal(munmap(p - page, len + 2 * page), 0);
}

/* Mappings of this process that touch [lo, hi). */
static inline unsigned check_count_maps(const void *lo, const void *hi)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += sscanf(line, "%lx-%lx ", &from, &to) == 2 && from < (uintptr_t)hi && to > (uintptr_t)lo;
	fclose(f);
	return n;
}

static inline unsigned check_count_all_maps(void)
{
	return check_count_maps(NULL, (void *)UINTPTR_MAX);
}

static inline uint64_t check_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* What fn answers in a forked child, 0 to 127; 128 and the signal when it was killed. No assert in there. */
static inline int check_child(int (*fn)(void *arg), void *arg)
{
	int status = -1;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		static const int caught[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS };

		/* cmocka's handlers would run the other tests in here. */
		for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
			signal(caught[i], SIG_DFL);
		_exit(fn(arg));
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* For use in a child, where a failing assert would run the tests that follow: says where, and answers false. */
static inline bool check_here(bool ok, const char *what, int line)
{
	if (!ok)
		fprintf(stderr, "child: line %d: %s (\"%s\")\n", line, what, hf_error());
	return ok;
}
#define CHILD_CHECK(x)                                   \
	do {                                             \
		if (!check_here((x), #x, __LINE__))      \
			return 1;                        \
	} while (0)

#endif
