/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every step that can fail does, once (hazard 31): a scenario from open to close is run in a fresh process with its n-th
 * step failing, for n = 1, 2, ... until a run has no n-th step. Each call must succeed or answer -errno with a
 * sentence; what undoes must succeed; and afterwards the same process runs the scenario without a
 * fault, and ends with as many descriptors, threads, mapped files, pinned pages and bytes of pools
 * as one that never saw any. Then the same with real limits.
 *
 * The parent never calls the library, so that what it sets up once per process is swept as well.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "os.h"
#include "thread.h"

#define PAGES 8
#define READ_ONLY_PAGE 7
#define MAX_STEPS 400 /* far more than there are: the sweep must end by itself */
#define PATIENCE 120000

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static size_t page;

/* ------------------------------------------------------------------ the scenario */

struct run {
	const char *proxy, *nic;
	char *mem;
	bool strict;           /* nothing may fail */
	unsigned calls, failed;
	int last;              /* the last error */
	unsigned bad;          /* calls that broke their promise */
	struct hf_sim sim;
};

static char *at(struct run *u, unsigned n)
{
	return u->mem + n * page;
}

static void complain(struct run *u, int rc, const char *call, const char *what)
{
	u->bad++;
	fprintf(stderr, "%s/%s: %s: %d, \"%s\": %s\n", u->proxy, u->nic, call, rc, hf_error(), what);
}

static int outcome(struct run *u, int rc, bool may_fail, const char *call)
{
	u->calls++;
	if (rc >= 0)
		return rc;
	u->failed++;
	u->last = rc;
	if (u->strict || !may_fail)
		complain(u, rc, call, "must not fail");
	else if (rc < -4095)
		complain(u, rc, call, "is no errno");
	else if (!*hf_error())
		complain(u, rc, call, "says nothing");
	return rc;
}

#define TRY(u, call) (hf_set_error(0, "%s", ""), outcome(u, (call), true, #call))
#define MUST(u, call) outcome(u, (call), false, #call)
#define HOLDS(u, what) ((what) ? (void)0 : complain(u, 0, #what, "doesn't hold"))

static void get_and_put(struct run *u, struct hf_provider *p, unsigned first, unsigned pages, unsigned access)
{
	struct hf_region r = { .entry = NULL };

	if (TRY(u, hf_get(p, at(u, first), pages * page, access, &r)) < 0)
		return;
	HOLDS(u, r.addr <= (uintptr_t)at(u, first) && r.length >= pages * page);
	MUST(u, hf_put(p, &r));
}

/* -EAGAIN is an honest answer while something changes, as it does right after another switch was closed. */
static int secure_a_page(struct run *u, struct hf_switch *sw, uint64_t *id)
{
	int rc = -EAGAIN;

	for (int i = 0; i < 100 && rc == -EAGAIN; i++)
		rc = hf_secure(sw, at(u, 0), page, HF_READWRITE | HF_NOTIFY, NULL, NULL, id);
	return rc;
}

static void secure_steps(struct run *u, struct hf_switch *sw)
{
	uint64_t id = 0;

	if (TRY(u, secure_a_page(u, sw, &id)) < 0)
		return;
	MUST(u, hf_secured_changed(sw, id));
	MUST(u, hf_unsecure(sw, id));
}

/* Misses, hits, evictions, a change under a holder, memory that isn't cached. */
static void cache_steps(struct run *u, struct hf_switch *sw, struct hf_provider *p)
{
	struct hf_region held = { .entry = NULL };

	for (unsigned i = 0; i < 4; i++)
		get_and_put(u, p, i, 1, HF_READ);
	get_and_put(u, p, 3, 1, HF_READ);
	get_and_put(u, p, 3, 1, HF_READWRITE);
	MUST(u, hf_invalidate(sw, at(u, 3), page));
	if (TRY(u, hf_get(p, at(u, 4), 2 * page, HF_READWRITE, &held)) < 0)
		held.entry = NULL;
	if (mmap(at(u, 5), page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		HOLDS(u, !u->strict);
	MUST(u, hf_invalidate(sw, at(u, 5), page));
	get_and_put(u, p, 4, 2, HF_READWRITE);
	if (held.entry)
		MUST(u, hf_put(p, &held));
	if (!strcmp(u->nic, "sim")) /* uring can't register it */
		get_and_put(u, p, READ_ONLY_PAGE, 1, HF_READ);
	/* Told before the pages go: the range is in quarantine, and is got all the same. */
	madvise(at(u, 2), page, MADV_DONTNEED);
	get_and_put(u, p, 2, 1, HF_READWRITE);
	MUST(u, hf_flush(p));
}

static void send_one(struct run *u, struct hf_conn **c, struct hf_region *r)
{
	size_t got = 0;

	memset(at(u, 0), 5, 2 * page);
	if (TRY(u, hf_send(c[0], r, at(u, 0), 100)) < 0)
		return;
	if (TRY(u, hf_recv(c[1], r, at(u, 1), page, &got)) == 0)
		HOLDS(u, got == 100 && at(u, 1)[99] == 5);
}

static void message_steps(struct run *u, struct hf_provider *p)
{
	struct hf_conn *c[2] = { NULL, NULL };
	struct hf_region r = { .entry = NULL };
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0) {
		HOLDS(u, !u->strict);
		return;
	}
	if (TRY(u, hf_conn_open(p, fd[0], &c[0])) == 0 && TRY(u, hf_conn_open(p, fd[1], &c[1])) == 0 &&
	    TRY(u, hf_get(p, at(u, 0), 2 * page, HF_READWRITE, &r)) == 0) {
		send_one(u, c, &r);
		MUST(u, hf_put(p, &r));
	}
	for (unsigned i = 0; i < 2; i++) {
		MUST(u, hf_conn_close(c[i]));
		close(fd[i]);
	}
}

static void check_empty(struct run *u, struct hf_provider *p)
{
	struct hf_stats s = { 0 };

	MUST(u, hf_flush(p));
	for (int i = 0; i < PATIENCE; i++) {
		MUST(u, hf_provider_stats(p, &s, sizeof(s)));
		if (s.dereg_failures || !s.pinned_bytes)
			break;
		usleep(500);
	}
	HOLDS(u, s.entries == 0 && s.dead_held == 0);
	HOLDS(u, !s.pinned_bytes == !s.dereg_failures);
	HOLDS(u, !u->strict || !s.dereg_failures);
	HOLDS(u, s.dereg_failures || u->sim.live == 0);
}

static int open_provider(struct run *u, struct hf_switch *sw, struct hf_provider **p)
{
	static const char options[] = "max_count=2,max_bytes=1M";

	if (strcmp(u->nic, "sim"))
		return hf_provider_open(sw, u->nic, options, p);
	return hf_provider_open_nic(sw, hf_nic_find("sim"), &u->sim, options, p);
}

static void scenario(struct run *u)
{
	struct hf_provider *p = NULL;
	struct hf_switch *sw = NULL;
	char options[32];

	snprintf(options, sizeof(options), "proxy=%s", u->proxy);
	if (TRY(u, hf_switch_open(options, &sw)) < 0) {
		HOLDS(u, !sw);
		return;
	}
	secure_steps(u, sw);
	if (TRY(u, open_provider(u, sw, &p)) == 0) {
		cache_steps(u, sw, p);
		if (!strcmp(u->nic, "uring"))
			message_steps(u, p);
		check_empty(u, p);
	} else {
		HOLDS(u, !p);
	}
	MUST(u, hf_provider_close(p));
	MUST(u, hf_switch_close(sw));
}

static void run_strict(struct run *u)
{
	u->strict = true;
	scenario(u);
	u->strict = false;
}

/* ------------------------------------------------------------------ what is left behind */

static unsigned entries_of(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/*
 * Mappings of a ring, a userfaultfd or a device: files, which the kernel never merges with other
 * memory. Anonymous memory of the process is not counted: malloc gives a thread an arena (33 pages
 * at first) when it first needs one, and keeps it.
 */
static unsigned file_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, "anon_inode:") || strstr(line, "/dev/holdfast") || strstr(line, "/memfd:");
	if (f)
		fclose(f);
	return n;
}

static unsigned long vm_pin(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPin: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

struct left {
	unsigned long fds, threads, files, pinned, pool; /* without padding: they are compared as bytes */
};

/*
 * A joined thread may be in /proc for a moment longer, and a kernel may unpin after the close has
 * returned.
 */
static struct left count_left(unsigned long threads)
{
	struct left l = { .fds = entries_of("/proc/self/fd"), .files = file_mappings(), .pool = hf_pool_mapped() };

	for (int i = 0; i < 60000; i++) {
		l.threads = CHECK_TSAN ? 0 : entries_of("/proc/self/task") - 2; /* TSan has a thread of its own */
		l.pinned = vm_pin();
		if ((CHECK_TSAN || l.threads == threads) && !l.pinned)
			break;
		usleep(1000);
	}
	return l;
}

/* What a child tells, in shared memory. */
struct report {
	char step[32];  /* the one that failed; "" when the run has no n-th */
	unsigned calls, failed;
	struct left left;
};

static bool memory_is_lost(void)
{
	return CHECK_ASAN && __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check();
}

static struct report *report;
static struct run base;
static int64_t nth;

static int run_nth(void *arg)
{
	struct run u = base;

	alarm(900);
	hf_fault_arm(nth);
	scenario(&u);
	snprintf(report->step, sizeof(report->step), "%s", hf_fault_last() ? hf_fault_last() : "");
	hf_fault_arm(0);
	report->calls = u.calls;
	report->failed = u.failed;
	memset(&u.sim, 0, sizeof(u.sim));
	run_strict(&u);
	thread_prove(0, 0, page, 0); /* its 1 MiB listing is made at the first proof, which not every run needs, and kept */
	munmap(u.mem - page, (PAGES + 2) * page); /* how many parts it is in by now is of no interest */
	report->left = count_left(1);
	if (memory_is_lost())
		complain(&u, 0, "the sanitizer", "memory is lost");
	return u.bad ? 1 : 0;
}

static void run_child(int (*fn)(void *), const char *what)
{
	int rc;

	memset(report, 0, sizeof(*report));
	rc = check_child(fn, NULL);
	if (rc)
		fail_msg("%s/%s: %s %ld: the child ended with %d%s", base.proxy, base.nic, what, (long)nth, rc,
			 rc > 128 ? " (a signal)" : "");
}

/* ------------------------------------------------------------------ the sweep */

struct names {
	char name[40][32];
	unsigned n;
};

static bool has_name(const struct names *s, const char *name)
{
	for (unsigned i = 0; i < s->n; i++)
		if (!strcmp(s->name[i], name))
			return true;
	return false;
}

static void add_name(struct names *s, const char *name)
{
	if (!has_name(s, name) && s->n < 40)
		strcpy(s->name[s->n++], name);
}

static bool can_open(const char *proxy, const char *nic);

/* Each step fails in turn, in a child of its own. How many steps there were, and in how many runs a call failed. */
static unsigned sweep_once(const char *proxy, const char *nic, const struct left *clean, struct names *seen)
{
	unsigned failing_runs = 0;

	for (nth = 1; nth < MAX_STEPS; nth++) {
		run_child(run_nth, "step");
		if (!*report->step)
			break;
		add_name(seen, report->step);
		failing_runs += report->failed > 0;
		if (memcmp(&report->left, clean, sizeof(*clean)))
			fail_msg("%s/%s: after \"%s\" (%ld) failed: %lu descriptors, %lu threads, %lu files mapped, "
				 "%lu KiB pinned, %lu bytes of pools; without: %lu, %lu, %lu, %lu, %lu", proxy, nic,
				 report->step, (long)nth, report->left.fds, report->left.threads, report->left.files,
				 report->left.pinned, report->left.pool, clean->fds, clean->threads, clean->files,
				 clean->pinned, clean->pool);
	}
	assert_true(nth < MAX_STEPS);
	assert_true(failing_runs > nth / 4); /* else the errors would be swallowed */
	return failing_runs;
}

/* The first of them that was not seen, or NULL. */
static const char *missing(const struct names *seen, const char *const *expected)
{
	while (*expected && has_name(seen, *expected))
		expected++;
	return *expected;
}

/*
 * On a loaded machine a run may take a step more or less than the one before (memory that is just changing is asked about
 * again), so that counting leaps over one: then it is counted once more.
 */
static void sweep(const char *proxy, const char *nic, const char *const *expected)
{
	struct names seen = { .n = 0 };
	unsigned failing_runs = 0;
	struct left clean;

	base.proxy = proxy;
	base.nic = nic;
	if (!can_open(proxy, nic))
		skip();
	nth = 0;
	run_child(run_nth, "no step");
	assert_int_equal(report->failed, 0);
	assert_string_equal(report->step, "");
	clean = report->left;
	for (int i = 0; i < 5 && (!i || missing(&seen, expected)); i++)
		failing_runs = sweep_once(proxy, nic, &clean, &seen);
	if (missing(&seen, expected))
		fail_msg("%s/%s: the step \"%s\" was never reached", proxy, nic, missing(&seen, expected));
	print_message("%s/%s: %ld steps of %u kinds, %u of them an error\n", proxy, nic, (long)nth - 1, seen.n,
		      failing_runs);
}

/* In a child, too: the parent stays fresh. */
static int try_open(void *arg)
{
	struct hf_provider *p = NULL;
	struct hf_switch *sw = NULL;
	struct run u = base;
	char options[32];

	snprintf(options, sizeof(options), "proxy=%s", u.proxy);
	if (hf_switch_open(options, &sw) || open_provider(&u, sw, &p)) {
		fprintf(stderr, "skipped: %s\n", hf_error());
		return 1;
	}
	return hf_provider_close(p) || hf_switch_close(sw);
}

static bool can_open(const char *proxy, const char *nic)
{
	base.proxy = proxy;
	base.nic = nic;
	return check_child(try_open, NULL) == 0;
}

#define OF_THE_CORE "calloc", "pool mmap", "wipeonfork", "thread", "membarrier"
#define OF_UFFD "eventfd", "userfaultfd", "UFFDIO_API", "UFFDIO_REGISTER", "open"
#define OF_URING "uring setup", "uring table", "uring register", "uring deregister"

static void sweep_manual_sim(void **state)
{
	static const char *const steps[] = { OF_THE_CORE, "nic reg", NULL };

	sweep("manual", "sim", steps);
}

static void sweep_uffd_sim(void **state)
{
	static const char *const steps[] = { OF_THE_CORE, OF_UFFD, "nic reg", NULL };

	sweep("uffd", "sim", steps);
}

/* Known fault 13: an error path that leaks what was pinned. */
static void sweep_uffd_uring(void **state)
{
	static const char *const steps[] = { OF_THE_CORE, OF_UFFD, OF_URING, NULL };

	sweep("uffd", "uring", steps);
}

/* Known fault 13. */
static void sweep_manual_uring(void **state)
{
	static const char *const steps[] = { OF_THE_CORE, OF_URING, NULL };

	sweep("manual", "uring", steps);
}

/*
 * The control: broken promises are seen, and a descriptor, a mapped file, a pool and a thread that
 * are left behind.
 */
static void *wait_forever(void *arg)
{
	pause();
	return NULL;
}

static __attribute__((noinline)) void lose_memory(void)
{
	static void *volatile last;

	for (int i = 0; i < 100; i++)
		last = malloc(64);
	free(last);
}

static bool map_a_file(void)
{
	int fd = memfd_create("left", MFD_CLOEXEC);
	bool mapped = fd >= 0 && mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;

	close(fd);
	return mapped;
}

static int leaves_things(void *arg)
{
	struct run u = base;
	pthread_t id;

	if (!freopen("/dev/null", "w", stderr))
		return 2;
	TRY(&u, -5);      /* no sentence */
	MUST(&u, -EBUSY); /* what undoes has failed */
	TRY(&u, hf_set_error(-100000, "no errno"));
	report[0].left = count_left(1);
	if (open("/dev/null", O_RDONLY) < 0 || !os_pool_map(3 * page) || !map_a_file() ||
	    pthread_create(&id, NULL, wait_forever, NULL))
		return 3;
	report[1].left = count_left(2);
	if (CHECK_ASAN && memory_is_lost())
		return 4; /* nothing was lost yet */
	lose_memory();
	if (CHECK_ASAN && !memory_is_lost())
		return 5;
	return u.bad == 3 && u.failed == 3 ? 0 : 1;
}

static void the_sweep_sees(void **state)
{
	base.proxy = base.nic = "control";
	run_child(leaves_things, "control");
	assert_int_equal(report[1].left.fds, report[0].left.fds + 1);
	assert_int_equal(report[1].left.threads, report[0].left.threads + !CHECK_TSAN);
	assert_int_equal(report[1].left.files, report[0].left.files + 1);
	assert_int_equal(report[1].left.pool, report[0].left.pool + 3 * page);
}

/* ------------------------------------------------------------------ real limits */

static int failed_with[4096]; /* by errno, in the child */

static void note(const struct run *u)
{
	if (u->failed)
		failed_with[-u->last]++;
}

/* Descriptors: from none to be had to enough. */
static int few_descriptors(void *arg)
{
	struct run u = base;
	struct rlimit had, few;
	unsigned worked = 0;

	alarm(900);
	getrlimit(RLIMIT_NOFILE, &had);
	for (rlim_t n = 0; n < 40; n++) {
		u.failed = 0;
		memset(&u.sim, 0, sizeof(u.sim));
		few = (struct rlimit){ .rlim_cur = n, .rlim_max = had.rlim_max };
		CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
		scenario(&u);
		CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &had) == 0);
		worked += !u.failed;
		note(&u);
	}
	CHILD_CHECK(worked > 0);
	CHILD_CHECK(failed_with[EMFILE] > 0);
	run_strict(&u);
	return u.bad ? 1 : 0;
}

static void no_descriptors(void **state)
{
	if (can_open("uffd", "sim"))
		run_child(few_descriptors, "RLIMIT_NOFILE");
	if (can_open("manual", "uring"))
		run_child(few_descriptors, "RLIMIT_NOFILE");
}

static long max_map_count(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	long n = -1;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

/* Every second page of a large mapping made another: two mappings more each, until there are no more to be had. */
static long fill_up(char *vast, long pages)
{
	long n = 0;

	while (n < pages / 2 && mprotect(vast + 2 * (size_t)n * page, page, PROT_READ) == 0)
		n++;
	return n;
}

static int few_mappings(void *arg)
{
	struct run u = base;
	long pages = 2 * max_map_count();
	char *vast = mmap(NULL, (size_t)pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned worked = 0, failed = 0;
	long n;

	alarm(900);
	CHILD_CHECK(vast != MAP_FAILED);
	n = fill_up(vast, pages);
	CHILD_CHECK(n > 0 && n < pages / 2);
	for (unsigned i = 0; i < 30; i++) {
		u.failed = 0;
		memset(&u.sim, 0, sizeof(u.sim));
		scenario(&u);
		worked += !u.failed;
		failed += u.failed > 0;
		n--;
		CHILD_CHECK(mprotect(vast + 2 * (size_t)n * page, page, PROT_NONE) == 0);
	}
	CHILD_CHECK(worked > 0 && failed > 0);
	CHILD_CHECK(munmap(vast, (size_t)pages * page) == 0);
	run_strict(&u);
	return u.bad ? 1 : 0;
}

static void no_mappings(void **state)
{
	long max = max_map_count();

	/* Sanitizers need mappings themselves. */
	if (CHECK_ASAN || CHECK_TSAN || max < 0 || max > 300000)
		skip();
	if (can_open("uffd", "sim"))
		run_child(few_mappings, "vm.max_map_count");
	else if (can_open("manual", "sim"))
		run_child(few_mappings, "vm.max_map_count");
}

/* A user of no privileges, and, if we may choose, one that nobody else is charged with. */
static bool become_nobody(void)
{
	uid_t uid = 600000000 + (uid_t)getpid() % 1000000;

	if (geteuid())
		return true;
	return setgroups(0, NULL) == 0 && (setresgid(uid, uid, uid) == 0 || setresgid(65534, 65534, 65534) == 0) &&
	       (setresuid(uid, uid, uid) == 0 || setresuid(65534, 65534, 65534) == 0);
}

static int few_locked(void *arg)
{
	const struct rlimit few = { .rlim_cur = 6 * page, .rlim_max = 6 * page };
	struct hf_region r[READ_ONLY_PAGE], more;
	struct hf_provider *p;
	struct hf_switch *sw;
	unsigned held = 0;
	struct hf_stats s;
	char words[64];
	int rc = 0;

	alarm(900);
	CHILD_CHECK(become_nobody());
	CHILD_CHECK(setrlimit(RLIMIT_MEMLOCK, &few) == 0);
	snprintf(words, sizeof(words), "RLIMIT_MEMLOCK is %zu KiB", 6 * page / KIB);
	CHILD_CHECK(hf_switch_open("proxy=manual", &sw) == 0);
	/* By default ours is the same, and is met first. */
	CHILD_CHECK(hf_provider_open(sw, "uring", NULL, &p) == 0);
	CHILD_CHECK(hf_provider_stats(p, &s, sizeof(s)) == 0 && s.max_bytes == 6 * page);
	CHILD_CHECK(hf_get(p, at(&base, 0), 7 * page, HF_READWRITE, &more) == -ENOMEM && strstr(hf_error(), "max_bytes"));
	CHILD_CHECK(hf_provider_close(p) == 0);
	/* The NIC's limit: idle ones go for it, one after another ... */
	CHILD_CHECK(hf_provider_open(sw, "uring", "max_bytes=1G", &p) == 0);
	for (unsigned i = 0; i < 20; i++) {
		CHILD_CHECK(hf_get(p, at(&base, i % 6), page + (i & 1), HF_READWRITE, &r[0]) == 0);
		CHILD_CHECK(hf_put(p, &r[0]) == 0);
	}
	CHILD_CHECK(hf_provider_stats(p, &s, sizeof(s)) == 0);
	CHILD_CHECK(s.evictions > 0 && s.failures == 0 && s.pinned_bytes <= 6 * page);
	/* ... and when all are held, the limit is named, and nothing is lost. A ring may be charged, too. */
	while (held < READ_ONLY_PAGE && !(rc = hf_get(p, at(&base, held), page, HF_READWRITE, &r[held])))
		held++;
	CHILD_CHECK(rc == -ENOMEM && strstr(hf_error(), words));
	CHILD_CHECK(held >= 2 && held <= 6);
	for (unsigned i = 0; i < held; i++)
		CHILD_CHECK(hf_put(p, &r[i]) == 0);
	CHILD_CHECK(hf_get(p, at(&base, held), page, HF_READWRITE, &more) == 0);
	CHILD_CHECK(hf_put(p, &more) == 0);
	return hf_provider_close(p) || hf_switch_close(sw);
}

static void no_locked_memory(void **state)
{
	int rc = 1;

	if (!can_open("manual", "uring"))
		skip();
	/* Under one's own user other processes are charged to the same limit: their time may pass. */
	for (int i = 0; i < (geteuid() ? 60 : 1) && rc; i++) {
		rc = check_child(few_locked, NULL);
		if (rc && geteuid())
			usleep(1000000);
	}
	assert_int_equal(rc, 0);
}

static int no_thread(void *arg)
{
	const struct rlimit none = { .rlim_cur = 0, .rlim_max = 0 };
	struct run u = base;

	alarm(900);
	CHILD_CHECK(become_nobody());
	CHILD_CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
	scenario(&u);
	CHILD_CHECK(u.failed > 0 && u.last == -EAGAIN);
	return u.bad ? 1 : 0;
}

static void no_threads(void **state)
{
	if (CHECK_TSAN || CHECK_ASAN)
		skip(); /* they can't do without threads of their own */
	if (can_open("manual", "sim"))
		run_child(no_thread, "RLIMIT_NPROC");
	if (can_open("uffd", "sim"))
		run_child(no_thread, "RLIMIT_NPROC");
}

static int group_setup(void **state)
{
	page = check_page();
	base.mem = check_map(PAGES * page);
	mprotect(at(&base, READ_ONLY_PAGE), page, PROT_READ);
	report = mmap(NULL, 2 * sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return report == MAP_FAILED;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_sweep_sees), cmocka_unit_test(sweep_manual_sim),
		cmocka_unit_test(sweep_uffd_sim), cmocka_unit_test(sweep_uffd_uring),
		cmocka_unit_test(sweep_manual_uring), cmocka_unit_test(no_descriptors),
		cmocka_unit_test(no_mappings), cmocka_unit_test(no_locked_memory), cmocka_unit_test(no_threads),
	};

	unsetenv("HOLDFAST");
	return cmocka_run_group_tests_name("faults", tests, group_setup, NULL);
}
