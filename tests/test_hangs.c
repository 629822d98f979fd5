/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hazards 25 to 31: what could make the library, or the program because of it, wait for ever: memory that
 * goes away inside of a NIC, inside of a signal handler, while a debugger stops the event thread, in
 * forked children, at limits. A hang is ended by the watchdog, a child's by its own.
 */
#include "check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "cache.h"
#include "provider.h"
#include "switch.h"
#include "thread.h"

#define SANITIZED (CHECK_ASAN || CHECK_TSAN)
/* Of a hang only: minutes, for the slowest machine under load. */
#define WATCHDOG_SECONDS 1200
#define CHILD_SECONDS 600
#define TIMES(n) ((n) / (SANITIZED ? 8 : 1) / check_scale())
#define TRIES 60000 /* 1 ms apart */
#define LIMIT "max_bytes=4M"
#define NOT_RUN 77 /* a child's answer */

static struct hf_switch *sw;
static struct hf_provider *provider;
static struct hf_sim sim;
static size_t page;

/* ------------------------------------------------------------------ helpers */

static int open_uring(void **state)
{
	sw = check_switch("proxy=uffd");
	check_ok(hf_provider_open(sw, "uring", LIMIT, &provider));
	return 0;
}

static int open_sim(void **state)
{
	memset(&sim, 0, sizeof(sim));
	sw = check_switch("proxy=uffd");
	provider = check_sim(sw, &sim, "max_bytes=1T");
	return 0;
}

static int close_both(void **state)
{
	return check_close_both(&sw, &provider);
}

static unsigned char *map(size_t len)
{
	return (unsigned char *)check_map(len);
}

static void unmap(unsigned char *p, size_t len)
{
	check_unmap((char *)p, len);
}

static unsigned touch(void *p, size_t len)
{
	return check_touch(provider, p, len, HF_READWRITE);
}

static void cache(void *p, size_t len)
{
	for (int i = 0; i < TRIES; i++) {
		if (touch(p, len) & HF_REGION_CACHED)
			return;
		usleep(1000);
	}
	fail_msg("not cached in %d lookups: %s", TRIES, hf_error());
}

/* One lookup of what is `byte` all over: 0, or what is wrong. Safe on any thread. */
static int look(unsigned char *p, size_t len, unsigned char byte, unsigned *flags)
{
	unsigned char nic[16];
	struct hf_region r;
	int rc = hf_get(provider, p, len, HF_READWRITE, &r);

	if (rc)
		return rc;
	*flags = r.flags;
	for (size_t at = 0; at < len && !rc; at += page) {
		rc = hf_peek(&r, p + at, nic, sizeof(nic));
		for (size_t i = 0; i < sizeof(nic) && !rc; i++)
			rc = nic[i] == byte ? 0 : -EILSEQ;
	}
	return hf_put(provider, &r) ? -EINVAL : rc;
}

static void look_until_hit(unsigned char *p, size_t len, unsigned char byte)
{
	unsigned flags = 0;

	for (int i = 0; i < TRIES && !(flags & HF_REGION_HIT); i++) {
		if (i)
			usleep(1000);
		check_ok(look(p, len, byte, &flags));
	}
	assert_true(flags & HF_REGION_HIT);
}

/* An assert belongs to the main thread: the others note what went wrong. */
static _Atomic unsigned faults;
static _Atomic bool stop;

static void fault(const char *what, int rc)
{
	if (atomic_fetch_add(&faults, 1) == 0)
		print_error("%s: %d: %s\n", what, rc, hf_error());
}

static pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
	return t;
}

static void join(pthread_t t)
{
	assert_int_equal(pthread_join(t, NULL), 0);
}

static void assert_no_faults(void)
{
	assert_int_equal(atomic_exchange(&faults, 0), 0);
}

static void skip_because(const char *why)
{
	print_message("skipped: %s\n", why);
	skip();
}

/*
 * ------------------------------------------------------------------ prey: armed memory, to be
 * unmapped page by page
 */

#define PREY_PAGES 20000u
#define PREY_EACH 10 /* every n-th page is cached, all are armed */

static struct {
	unsigned char *p;
	_Atomic unsigned left; /* pages, from the start */
} prey;

static void prey_make(void)
{
	size_t len = PREY_PAGES * page;

	prey.p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(prey.p, MAP_FAILED);
	assert_int_equal(madvise(prey.p, len, MADV_NOHUGEPAGE), 0);
	cache(prey.p, page);
	atomic_store(&prey.left, PREY_PAGES);
}

/* The last page but the first goes: an event, for which this thread waits. Safe in a signal handler. */
static void prey_kill(void)
{
	unsigned n = atomic_load(&prey.left);

	while (n > 1 && !atomic_compare_exchange_weak(&prey.left, &n, n - 1))
		;
	if (n > 1)
		munmap(prey.p + (n - 1) * page, page);
}

static void prey_end(void)
{
	unsigned n = atomic_exchange(&prey.left, 0);

	assert_in_range(n, 1, PREY_PAGES - 1); /* some were killed */
	munmap(prey.p, n * page);
}

/*
 * ------------------------------------------------------------------ 25, 26: the NIC maps, unmaps and
 * allocates
 */

#define LARGE (33 * MIB) /* over malloc's mmap threshold */

static struct hf_nic_ops rough_ops;

static void be_rough(void)
{
	void *p = malloc(LARGE), *q = malloc(page);

	prey_kill();
	if (p)
		*(volatile char *)p = 1;
	free(p);
	free(q);
	prey_kill();
}

static int rough_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	be_rough();
	return hf_nic_find("sim")->reg(nic, addr, len, access, out);
}

static int rough_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	be_rough();
	return hf_nic_find("sim")->dereg(nic, addr, len, reg);
}

static int open_rough(void **state)
{
	rough_ops = *hf_nic_find("sim");
	rough_ops.reg = rough_reg;
	rough_ops.dereg = rough_dereg;
	memset(&sim, 0, sizeof(sim));
	sw = check_switch("proxy=uffd");
	check_ok(hf_provider_open_nic(sw, &rough_ops, &sim, "max_count=8,max_bytes=1T", &provider));
	return 0;
}

#define ROUGH_RANGES 24

/* While memory changes all the time little is cached: how many lookups it takes until one is evicted is not known. */
static bool evicted_or_failed(void)
{
	struct hf_stats s = { 0 };

	return atomic_load(&faults) || hf_provider_stats(provider, &s, sizeof(s)) || s.evictions;
}

/*
 * Misses, evictions, and what is dead because it was unmapped: the NIC is called by getters and by the
 * reaper.
 */
static void *use_rough(void *arg)
{
	unsigned char *p = arg;

	for (unsigned i = 0; i < TIMES(1600) || !evicted_or_failed(); i++) {
		unsigned char *q = p + i * 7 % ROUGH_RANGES * 2 * page;
		struct hf_region r;
		int rc = hf_get(provider, q, page, HF_READWRITE, &r);

		if (!rc)
			rc = hf_put(provider, &r);
		if (rc)
			fault("hf_get or hf_put", rc);
		if (i % 5 == 0 && madvise(q, page, MADV_DONTNEED))
			fault("madvise", -errno);
	}
	return NULL;
}

/* R35: the NIC allocates and unmaps while it is called; whoever is told of that does neither, and waits for nothing. */
static void test_nic_unmaps_and_allocates(void **state)
{
	size_t len = ROUGH_RANGES * 2 * page;
	unsigned char *p[3];
	pthread_t t[3];

	prey_make();
	for (int i = 0; i < 3; i++) {
		p[i] = map(len);
		t[i] = start(use_rough, p[i]);
	}
	for (int i = 0; i < 3; i++)
		join(t[i]);
	assert_no_faults();
	assert_true(check_stats(provider).evictions > 0);
	prey_end();
	for (int i = 0; i < 3; i++)
		unmap(p[i], len);
	check_quiet(provider);
	hf_flush(provider);
	check_pinned(provider, 0);
	assert_true(cache_is_valid(&provider->cache));
	assert_int_equal(sim.live, 0);
}

/* ------------------------------------------------------------------ 28: a signal handler unmaps */

/*
 * Both are armed and cached; whoever holds the lock is the one that unmaps, as a handler in its thread
 * would be.
 */
static void try_unmap_under(pthread_mutex_t *lock)
{
	struct hf_stats before;
	unsigned char *p = map(2 * page), *q = map(2 * page);

	cache(p, 2 * page);
	cache(q, 2 * page);
	check_quiet(provider); /* or the last round's unmap is told, and counted, later */
	before = check_stats(provider);
	pthread_mutex_lock(lock);
	assert_int_equal(munmap(p, 2 * page), 0);
	assert_int_equal(munmap(q, 2 * page), 0);
	pthread_mutex_unlock(lock);
	/* From now on neither is found, and soon neither is there. */
	assert_ptr_equal(mmap(p, 2 * page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), p);
	assert_false(touch(p, 2 * page) & HF_REGION_HIT);
	check_quiet(provider);
	/* If p is armed anew before its unmap is told, then the new registration may be dropped besides. */
	assert_in_range(check_stats(provider).invalidations, before.invalidations + 2,
			before.invalidations + 3);
	assert_in_range(check_stats(provider).entries, before.entries - 2, before.entries - 1);
	assert_true(cache_is_valid(&provider->cache));
	unmap(p, 2 * page);
	unmap(q, 2 * page);
}

/* R35: the telling thread waits for no lock. */
static void test_unmap_under_the_cache_lock(void **state)
{
	for (int i = 0; i < 50; i++)
		try_unmap_under(&provider->cache.lock);
}

static void test_unmap_under_the_other_locks(void **state)
{
	for (int i = 0; i < 10; i++) {
		try_unmap_under(&provider->cache.reap_lock);
		try_unmap_under(&provider->cache.pool.grow);
		try_unmap_under(&provider->cache.nodes.pool.grow);
		try_unmap_under(&sw->lock);
		try_unmap_under(&sw->secured.lock);
		try_unmap_under(&sw->secured.pool.grow);
		try_unmap_under(&sw->secured.nodes.pool.grow);
	}
}

/* More than the switch can keep while the lock is busy: then everything is dropped. */
static void test_many_unmaps_under_the_cache_lock(void **state)
{
	enum { N = 3 * MAX_KEPT };
	unsigned char *p = map(2 * N * page), *other = map(page);

	for (unsigned i = 0; i < N; i++)
		cache(p + 2 * i * page, page);
	cache(other, page);
	pthread_mutex_lock(&provider->cache.lock);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(munmap(p + 2 * i * page, page), 0);
	pthread_mutex_unlock(&provider->cache.lock);
	check_quiet(provider);
	assert_int_equal(check_stats(provider).invalidations, N + 1);
	assert_int_equal(check_stats(provider).entries, 0);
	cache(other, page);
	unmap(p, 2 * N * page);
	unmap(other, page);
}

static void on_signal(int signal)
{
	int err = errno;
	unsigned char *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p != MAP_FAILED) {
		*p = 1;
		prey_kill();
		munmap(p, page);
	}
	prey_kill();
	errno = err;
}

/* Misses, hits and drops of memory of its own, whatever the handler does meanwhile. */
static void *use_and_drop(void *arg)
{
	size_t len = 2 * page;
	unsigned char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (unsigned i = 0; !atomic_load(&stop); i++) {
		struct hf_region r;
		int rc = hf_get(provider, p, len, HF_READWRITE, &r);

		if (!rc)
			rc = hf_put(provider, &r);
		if (!rc && i % 3 == 0)
			rc = hf_invalidate(sw, p, len);
		if (!rc && i % 16 == 0)
			rc = hf_flush(provider);
		if (!rc && i % 8 == 0 && mmap(p, len, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
			rc = -errno;
		if (rc < 0)
			fault("a call under signals", rc);
	}
	munmap(p, len);
	return NULL;
}

static void test_signal_handlers_unmap(void **state)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	pthread_t t[2];

	prey_make();
	for (unsigned i = 0; i < PREY_PAGES; i += PREY_EACH)
		cache(prey.p + i * page, page);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++)
		t[i] = start(use_and_drop, NULL);
	for (unsigned i = 0; i < TIMES(8000); i++) {
		assert_int_equal(pthread_kill(t[i % 2], SIGUSR1), 0);
		if (i % 4 == 0)
			sched_yield();
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		join(t[i]);
	signal(SIGUSR1, SIG_DFL);
	assert_no_faults();
	prey_end();
	check_quiet(provider);
	hf_flush(provider);
	check_pinned(provider, 0);
	assert_true(cache_is_valid(&provider->cache));
	assert_int_equal(sim.live, 0);
}

/* ------------------------------------------------------------------ 29: dlopen and dlclose beside it */

static void *load_and_unload(void *arg)
{
	while (!atomic_load(&stop)) {
		void *library = dlopen("libanl.so.1", RTLD_NOW | RTLD_LOCAL);

		if (!library)
			library = dlopen("libutil.so.1", RTLD_NOW | RTLD_LOCAL);
		if (library)
			dlclose(library);
	}
	return NULL;
}

static void test_dlopen_in_parallel(void **state)
{
	unsigned char *p = map(4 * page);
	int loaders = CHECK_TSAN ? 1 : 2; /* it can't see the lock that the loader takes */
	pthread_t t[2];

	atomic_store(&stop, false);
	for (int i = 0; i < loaders; i++)
		t[i] = start(load_and_unload, NULL);
	for (unsigned i = 0; i < TIMES(2000); i++) {
		unsigned char byte = (unsigned char)i;
		unsigned flags;

		memset(p, byte, 4 * page);
		check_ok(look(p, 4 * page, byte, &flags));
		if (i % 2 == 0)
			assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
		else if (i % 3 == 0)
			assert_ptr_equal(mmap(p, page, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < loaders; i++)
		join(t[i]);
	memset(p, 7, 4 * page);
	look_until_hit(p, 4 * page, 7);
	unmap(p, 4 * page);
}

/*
 * ------------------------------------------------------------------ 30: a debugger stops the event
 * thread
 */

static bool is_called(const char *tid, const char *name)
{
	char path[300], line[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", tid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	line[strcspn(line, "\n")] = 0;
	return !strcmp(line, name);
}

static int find_thread(const char *name)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *d;
	int found = 0;

	assert_non_null(tasks);
	while (!found && (d = readdir(tasks)))
		found = is_called(d->d_name, name) ? atoi(d->d_name) : 0;
	closedir(tasks);
	return found;
}

/* It names itself when it first runs. */
static int event_thread(void)
{
	int tid = find_thread("hf-uffd");

	for (int i = 0; i < TRIES && !tid; i++) {
		usleep(1000);
		tid = find_thread("hf-uffd");
	}
	return tid;
}

/* In a child: stop the thread, say so, and let it go on when told. */
static int debug_thread(int tid, int say, int told)
{
	char byte = 's';
	int status;

	alarm(CHILD_SECONDS);
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL))
		return NOT_RUN;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) || waitpid(tid, &status, __WALL) != tid ||
	    !WIFSTOPPED(status))
		return 1;
	if (write(say, &byte, 1) != 1 || read(told, &byte, 1) != 1)
		return 2;
	return ptrace(PTRACE_DETACH, tid, NULL, NULL) ? 3 : 0;
}

static struct {
	pid_t pid;
	int told[2], say[2];
} debugger;

/* False: it may not. */
static bool debugger_stops(int tid)
{
	char byte;

	assert_int_equal(pipe2(debugger.say, O_CLOEXEC), 0);
	assert_int_equal(pipe2(debugger.told, O_CLOEXEC), 0);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* where Yama is in force */
	debugger.pid = fork();
	if (!debugger.pid) {
		close(debugger.say[0]);
		close(debugger.told[1]);
		_exit(debug_thread(tid, debugger.say[1], debugger.told[0]));
	}
	assert_true(debugger.pid > 0);
	close(debugger.say[1]);
	close(debugger.told[0]);
	return read(debugger.say[0], &byte, 1) == 1;
}

static int debugger_ends(void)
{
	int status;

	assert_int_equal(write(debugger.told[1], "g", 1), 1);
	close(debugger.told[1]);
	close(debugger.say[0]);
	assert_int_equal(waitpid(debugger.pid, &status, 0), debugger.pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static struct {
	unsigned char *p;
	_Atomic bool started, done;
} victim;

static void *unmap_victim(void *arg)
{
	atomic_store(&victim.started, true);
	if (munmap(victim.p, page))
		fault("munmap", -errno);
	atomic_store(&victim.done, true);
	return NULL;
}

static void test_debugger_stops_the_event_thread(void **state)
{
	unsigned char *p = map(6 * page); /* the last page is the victim: of one mapping, so it is told in the same part */
	int tid = event_thread();
	unsigned flags;
	pthread_t t;

	assert_true(tid > 0);
	memset(&victim, 0, sizeof(victim));
	victim.p = p + 5 * page;
	memset(p, 1, 4 * page);
	look_until_hit(p, 4 * page, 1);
	cache(victim.p, page);
	if (!debugger_stops(tid)) {
		close(debugger.told[1]);
		waitpid(debugger.pid, NULL, 0);
		unmap(p, 6 * page);
		skip_because("ptrace is forbidden here");
	}
	/* Nothing is under way, since the last lookup was cached: a hit needs no event thread. */
	assert_int_equal(look(p, 4 * page, 1, &flags), 0);
	assert_int_equal(flags, HF_REGION_CACHED | HF_REGION_HIT);
	/* A change that nobody reads of: its thread waits, the others are served, uncached and right. */
	t = start(unmap_victim, NULL);
	while (!atomic_load(&victim.started))
		usleep(1000);
	for (int i = 0; i < TRIES && flags; i++) {
		assert_int_equal(look(p, 4 * page, 1, &flags), 0);
		usleep(1000);
	}
	assert_int_equal(flags, 0);
	assert_false(atomic_load(&victim.done));
	memset(p, 2, 4 * page);
	assert_int_equal(look(p, 4 * page, 2, &flags), 0);
	assert_int_equal(flags, 0);
	assert_int_equal(hf_sync(provider), -EAGAIN);
	assert_int_equal(debugger_ends(), 0);
	join(t);
	assert_no_faults();
	look_until_hit(p, 4 * page, 2);
	check_quiet(provider);
	assert_int_equal(check_stats(provider).entries, 1);
	unmap(p, 6 * page);
}

/* ------------------------------------------------------------------ 27: fork while locks are held */

static int child_exits(void *arg)
{
	return 0;
}

static int child_unmaps(void *arg)
{
	struct hf_region *r = arg;

	alarm(CHILD_SECONDS);
	return munmap((void *)(uintptr_t)r->addr, r->length) ? 1 : 0;
}

static int child_execs(void *arg)
{
	alarm(CHILD_SECONDS);
	execl("/bin/true", "true", (char *)NULL);
	return errno == ENOENT ? 0 : 1;
}

static int child_calls(void *arg)
{
	struct hf_region *r = arg, other;
	void *p = (void *)(uintptr_t)r->addr;
	struct hf_stats s;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(hf_get(provider, p, 1, HF_READ, &other) == -EOWNERDEAD);
	CHILD_CHECK(hf_get_unchecked(provider, p, 1, HF_READ, &other) == -EOWNERDEAD);
	CHILD_CHECK(hf_put(provider, r) == -EOWNERDEAD);
	CHILD_CHECK(hf_sync(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_flush(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_provider_stats(provider, &s, sizeof(s)) == -EOWNERDEAD);
	CHILD_CHECK(hf_invalidate(sw, p, 1) == -EOWNERDEAD);
	CHILD_CHECK(hf_provider_close(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_switch_close(sw) == -EOWNERDEAD);
	return 0;
}

static void test_fork_under_load(void **state)
{
	static int (*const does[])(void *) = { child_exits, child_unmaps, child_execs, child_calls };
	unsigned char *p = map(4 * page);
	struct hf_region r;
	pthread_t t[3];

	atomic_store(&stop, false);
	for (int i = 0; i < 3; i++)
		t[i] = start(use_and_drop, NULL);
	r = check_get(provider, p, 4 * page, HF_READWRITE);
	for (unsigned i = 0; i < 80; i++)
		assert_int_equal(check_child(does[i % 4], &r), 0);
	check_ok(hf_put(provider, &r));
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		join(t[i]);
	assert_no_faults();
	unmap(p, 4 * page);
	check_quiet(provider);
	hf_flush(provider);
	check_pinned(provider, 0);
}

/* Whatever another thread held at the fork: the child's calls take no lock. */
static void test_fork_with_every_lock_held(void **state)
{
	unsigned char *p = map(page);
	struct hf_region r = check_get(provider, p, page, HF_READWRITE);
	pthread_mutex_t *locks[] = { &sw->lock, &provider->cache.reap_lock, &provider->cache.pool.grow,
				     &provider->cache.lock, &sw->secured.lock };
	int rc[3];

	for (size_t i = 0; i < sizeof(locks) / sizeof(locks[0]); i++)
		pthread_mutex_lock(locks[i]);
	rc[0] = check_child(child_calls, &r);
	rc[1] = check_child(child_unmaps, &r);
	rc[2] = check_child(child_execs, &r);
	for (size_t i = sizeof(locks) / sizeof(locks[0]); i-- > 0;)
		pthread_mutex_unlock(locks[i]);
	for (int i = 0; i < 3; i++)
		assert_int_equal(rc[i], 0);
	check_ok(hf_put(provider, &r));
	unmap(p, page);
}

/* ------------------------------------------------------------------ threads come and go */

enum { SHORT_THREADS = 4000, AT_ONCE = 4, RECORDS = 64 };

static struct {
	unsigned char *p;
	_Atomic(struct thread_record *) seen[RECORDS];
	_Atomic unsigned count;
} records;

static void note_record(struct thread_record *t)
{
	for (unsigned i = 0; i < RECORDS; i++) {
		struct thread_record *have = NULL;

		if (atomic_compare_exchange_strong(&records.seen[i], &have, t)) {
			atomic_fetch_add(&records.count, 1);
			return;
		}
		if (have == t)
			return;
	}
}

static void *live_shortly(void *arg)
{
	struct hf_region r;
	int rc = hf_get(provider, records.p, page, HF_READWRITE, &r);

	if (!rc)
		rc = hf_put(provider, &r);
	if (rc)
		fault("hf_get or hf_put", rc);
	if (!atomic_load(&thread_self->tid))
		fault("no record", 0);
	else
		note_record(thread_self);
	return NULL;
}

static void run_short_threads(unsigned n)
{
	pthread_t t[AT_ONCE];

	for (unsigned i = 0; i < n; i += AT_ONCE) {
		for (unsigned j = 0; j < AT_ONCE; j++)
			t[j] = start(live_shortly, NULL);
		for (unsigned j = 0; j < AT_ONCE; j++)
			join(t[j]);
	}
}

static void test_threads_come_and_go(void **state)
{
	unsigned maps;

	memset(&records, 0, sizeof(records));
	records.p = map(page);
	cache(records.p, page);
	run_short_threads(10 * AT_ONCE);
	maps = check_count_all_maps();
	run_short_threads(TIMES(SHORT_THREADS));
	assert_no_faults();
	assert_in_range(records.count, 1, AT_ONCE + 2); /* used again, not made anew */
	if (!SANITIZED) /* which keep memory of threads that have ended */
		assert_in_range(check_count_all_maps(), 0, maps + 8);
	assert_true(touch(records.p, page) & HF_REGION_HIT);
	/* A DONTNEED is proved over although all these threads are gone. */
	assert_int_equal(madvise(records.p, page, MADV_DONTNEED), 0);
	memset(records.p, 9, page);
	cache(records.p, page);
	unmap(records.p, page);
}

/* The threads of an io_uring make no system calls that could be seen: asleep, they don't keep memory from being cached. */
static void test_an_io_uring_that_rests(void **state)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1 /* ms */ };
	unsigned char *p = map(page);
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;

	if (io_uring_queue_init_params(2, &ring, &params)) {
		unmap(p, page);
		skip_because("no io_uring with a thread that submits");
	}
	for (int i = 0; i < 3; i++) {
		cache(p, page);
		sqe = io_uring_get_sqe(&ring);
		assert_non_null(sqe);
		io_uring_prep_madvise(sqe, p, (off_t)page, MADV_DONTNEED);
		assert_true(io_uring_submit(&ring) >= 0);
		assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
		assert_int_equal(cqe->res, 0);
		io_uring_cqe_seen(&ring, cqe);
		memset(p, i + 1, page);
		look_until_hit(p, page, (unsigned char)(i + 1));
	}
	io_uring_queue_exit(&ring);
	unmap(p, page);
}

/*
 * ------------------------------------------------------------------ 31: at limits; each in a process
 * of its own
 */

static bool opens(struct hf_switch **s, struct hf_provider **p, const char *nic)
{
	return !hf_switch_open("proxy=uffd", s) && !hf_provider_open(*s, nic, LIMIT, p);
}

static bool gets(struct hf_provider *p, void *addr, size_t len, unsigned *flags)
{
	struct hf_region r;

	if (hf_get(p, addr, len, HF_READWRITE, &r))
		return false;
	*flags = r.flags;
	return !hf_put(p, &r);
}

static bool gets_cached(struct hf_provider *p, void *addr, size_t len)
{
	unsigned flags = 0;

	for (int i = 0; i < TRIES && !(flags & HF_REGION_CACHED); i++) {
		if (!gets(p, addr, len, &flags))
			return false;
		usleep(1000);
	}
	return flags & HF_REGION_CACHED;
}

/* Every second page of a large mapping made read-only, until the kernel allows no more mappings. */
static size_t fill_mappings(unsigned char *p, size_t pages)
{
	size_t i;

	for (i = 0; i < pages; i += 2)
		if (mprotect(p + i * page, page, PROT_READ))
			break;
	return i;
}

static int at_the_mapping_limit(void *arg)
{
	size_t pages = *(size_t *)arg, len = pages * page;
	unsigned char *p, *q, *own;
	unsigned flags;
	size_t filled;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(opens(&sw, &provider, "uring"));
	own = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	CHILD_CHECK(own != MAP_FAILED && gets_cached(provider, own, page));
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHILD_CHECK(p != MAP_FAILED);
	q = p + len - 4 * page;
	memset(q, 5, 4 * page);
	filled = fill_mappings(p, pages - 8);
	CHILD_CHECK(filled < pages - 8 && errno == ENOMEM);
	/* What is there works; new memory is used, cached or not, or there is a sentence. */
	CHILD_CHECK(gets(provider, own, page, &flags) && (flags & HF_REGION_HIT));
	if (!gets(provider, q, page, &flags))
		CHILD_CHECK(*hf_error());
	if (!gets(provider, p + page, page, &flags))
		CHILD_CHECK(*hf_error());
	CHILD_CHECK(hf_invalidate(sw, own, page) == 1);
	if (!gets(provider, own, page, &flags))
		CHILD_CHECK(*hf_error());
	CHILD_CHECK(munmap(p, len) == 0);
	CHILD_CHECK(gets_cached(provider, own, 4 * page));
	CHILD_CHECK(gets(provider, own, 4 * page, &flags) && (flags & HF_REGION_HIT));
	CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	return 0;
}

static size_t max_mappings(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	size_t n = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu", &n), 1);
	fclose(f);
	return n;
}

static void test_at_the_mapping_limit(void **state)
{
	size_t pages = max_mappings() + 1000;

	if (SANITIZED)
		skip_because("a sanitizer needs mappings itself");
	assert_int_equal(check_child(at_the_mapping_limit, &pages), 0);
}

/* No descriptor is left: every open fails with a sentence, and works when there are some again. */
static int at_the_descriptor_limit(void *arg)
{
	static struct hf_switch *none_sw;
	static struct hf_provider *none_p;
	struct rlimit old, tight;
	unsigned char *p, *q;
	unsigned flags;
	int lowest;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(opens(&sw, &provider, "uring"));
	p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	q = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHILD_CHECK(p != MAP_FAILED && q != MAP_FAILED && gets_cached(provider, p, page));
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	tight = old;
	lowest = dup(0);
	close(lowest);
	tight.rlim_cur = (rlim_t)lowest;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
	CHILD_CHECK(hf_switch_open("proxy=uffd", &none_sw) == -EMFILE && *hf_error());
	CHILD_CHECK(hf_provider_open(sw, "uring", NULL, &none_p) == -EMFILE);
	CHILD_CHECK(strstr(hf_error(), "ulimit -n"));
	/* Those that are open do their work. */
	CHILD_CHECK(gets(provider, p, page, &flags) && (flags & HF_REGION_HIT));
	CHILD_CHECK(gets(provider, q, page, &flags));
	CHILD_CHECK(munmap(p, 4 * page) == 0);
	CHILD_CHECK(madvise(q, page, MADV_DONTNEED) == 0);
	CHILD_CHECK(gets(provider, q, page, &flags) && !(flags & HF_REGION_HIT));
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
	CHILD_CHECK(gets_cached(provider, q, page));
	CHILD_CHECK(opens(&none_sw, &none_p, "uring"));
	CHILD_CHECK(!hf_provider_close(none_p) && !hf_switch_close(none_sw));
	CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	return 0;
}

static void test_at_the_descriptor_limit(void **state)
{
	assert_int_equal(check_child(at_the_descriptor_limit, NULL), 0);
}

/* Nobody else's, nor another run's at the same time: the limit counts all that a user has pinned. */
#define LIMITED_USER (61100u + (unsigned)getppid() % 4000)

/* Other processes of the same user are counted, and uncharged only some time after their end. */
static bool all_can_be_pinned(void *p, size_t len)
{
	unsigned flags;

	for (int i = 0; i < TRIES; i++) {
		if (gets(provider, p, len, &flags))
			return hf_flush(provider) >= 0;
		usleep(1000);
	}
	return false;
}

static bool opens_in_time(const char *options)
{
	int rc = hf_provider_open(sw, "uring", options, &provider);

	for (int i = 0; i < TRIES && rc == -ENOMEM; i++) {
		usleep(1000);
		rc = hf_provider_open(sw, "uring", options, &provider);
	}
	return rc == 0;
}

static int at_the_memlock_limit(void *arg)
{
	struct rlimit tight = { 16 * page, 16 * page };
	unsigned char *p;
	unsigned flags;
	struct hf_region held;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(setrlimit(RLIMIT_MEMLOCK, &tight) == 0);
	if (geteuid() == 0 && setresuid(LIMITED_USER, LIMITED_USER, LIMITED_USER))
		return NOT_RUN;
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* or /proc/self is root's */
	CHILD_CHECK(!hf_switch_open("proxy=uffd", &sw));
	if (!opens_in_time("max_bytes=1G"))
		return NOT_RUN;
	p = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHILD_CHECK(p != MAP_FAILED && madvise(p, 64 * page, MADV_NOHUGEPAGE) == 0);
	/* Newer kernels charge the ring itself, too: a page or two. */
	if (!all_can_be_pinned(p, 12 * page))
		return NOT_RUN;
	CHILD_CHECK(hf_get(provider, p, 32 * page, HF_READWRITE, &held) == -ENOMEM);
	CHILD_CHECK(strstr(hf_error(), "RLIMIT_MEMLOCK"));
	/* Idle ones make room for what is asked for. */
	for (int i = 0; i < 16; i++)
		CHILD_CHECK(gets(provider, p + i * 4 * page, 4 * page, &flags));
	/* What is held doesn't. */
	CHILD_CHECK(hf_get(provider, p, 12 * page, HF_READWRITE, &held) == 0);
	CHILD_CHECK(!gets(provider, p + 16 * page, 12 * page, &flags));
	CHILD_CHECK(strstr(hf_error(), "RLIMIT_MEMLOCK"));
	CHILD_CHECK(hf_put(provider, &held) == 0);
	CHILD_CHECK(gets(provider, p + 16 * page, 12 * page, &flags));
	CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	return 0;
}

static void test_at_the_memlock_limit(void **state)
{
	int rc = check_child(at_the_memlock_limit, NULL);

	if (rc == NOT_RUN)
		skip_because("no user without privileges, or not one that pins nothing else");
	assert_int_equal(rc, 0);
}

/* ------------------------------------------------------------------ main */

#define over_uring(f) cmocka_unit_test_setup_teardown(f, open_uring, close_both)
#define over_sim(f) cmocka_unit_test_setup_teardown(f, open_sim, close_both)

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* First those that fork before there is any thread but this one. */
		cmocka_unit_test(test_at_the_mapping_limit),
		cmocka_unit_test(test_at_the_descriptor_limit),
		cmocka_unit_test(test_at_the_memlock_limit),
		cmocka_unit_test_setup_teardown(test_nic_unmaps_and_allocates, open_rough, close_both),
		over_sim(test_unmap_under_the_cache_lock),
		over_sim(test_unmap_under_the_other_locks),
		over_sim(test_many_unmaps_under_the_cache_lock),
		over_sim(test_signal_handlers_unmap),
		over_uring(test_dlopen_in_parallel),
		over_uring(test_debugger_stops_the_event_thread),
		over_sim(test_fork_under_load),
		over_sim(test_fork_with_every_lock_held),
		over_sim(test_threads_come_and_go),
		over_uring(test_an_io_uring_that_rests),
	};

	alarm(WATCHDOG_SECONDS);
	unsetenv("HOLDFAST");
	page = check_page();
	if (!check_uffd())
		return 77;
	return cmocka_run_group_tests_name("hangs", tests, NULL, NULL);
}
