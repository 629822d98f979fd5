/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hazard 12: processes. What a child sees, does and leaves; what it must not keep of the parent's (I7);
 * what is left of a process that is killed. Over `uring`, whose pins are real: to the bytes, and to
 * RLIMIT_MEMLOCK.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* Of a hang only: minutes, for the slowest machine under load. */
#define WATCHDOG_SECONDS 1200
#define CHILD_SECONDS 600
#define TRIES 60000 /* 1 ms apart */
#define PAGES 4
#define LIMIT "max_bytes=4M"
#define NOT_RUN 77 /* a child's answer */

static struct hf_switch *sw;
static struct hf_provider *provider;
static size_t page, len;

/*
 * ------------------------------------------------------------------ helpers; those that answer bool
 * are for children too
 */

static int open_both(void **state)
{
	sw = check_switch("proxy=uffd");
	check_ok(hf_provider_open(sw, "uring", LIMIT, &provider));
	return 0;
}

static int close_both(void **state)
{
	return check_close_both(&sw, &provider);
}

static bool opens(struct hf_switch **s, struct hf_provider **p, const char *options)
{
	return !hf_switch_open("proxy=uffd", s) && !hf_provider_open(*s, "uring", options, p);
}

static unsigned char *map(void)
{
	return (unsigned char *)check_map(len);
}

static void unmap(unsigned char *p)
{
	check_unmap((char *)p, len);
}

/* The pages at p are `byte` all over. */
static bool is_all(const unsigned char *p, unsigned char byte)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != byte)
			return false;
	return true;
}

/* ... as the NIC sees them. */
static bool nic_sees(const struct hf_region *r, unsigned char *p, unsigned char byte)
{
	unsigned char nic[64];

	for (size_t at = 0; at < len; at += page) {
		if (hf_peek(r, p + at, nic, sizeof(nic)))
			return false;
		for (size_t i = 0; i < sizeof(nic); i++)
			if (nic[i] != byte)
				return false;
	}
	return true;
}

/* Filled, looked up, and the NIC sees it: and how it was served. */
static bool looks_right(struct hf_provider *p, unsigned char *at, unsigned char byte, unsigned *flags)
{
	struct hf_region r;
	bool right;

	memset(at, byte, len);
	if (hf_get(p, at, len, HF_READWRITE, &r))
		return false;
	*flags = r.flags;
	right = nic_sees(&r, at, byte);
	return !hf_put(p, &r) && right;
}

static bool becomes_a_hit(struct hf_provider *p, unsigned char *at)
{
	unsigned flags = 0;

	for (int i = 0; i < TRIES && !(flags & HF_REGION_HIT); i++) {
		if (i)
			usleep(1000);
		if (!looks_right(p, at, (unsigned char)i, &flags))
			return false;
	}
	return flags & HF_REGION_HIT;
}

static void assert_hit(unsigned char *p, unsigned char byte)
{
	unsigned flags;

	assert_true(looks_right(provider, p, byte, &flags));
	assert_int_equal(flags, HF_REGION_CACHED | HF_REGION_HIT);
}

static int ended(pid_t pid)
{
	int status = -1;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void skip_because(const char *why)
{
	print_message("skipped: %s\n", why);
	skip();
}

/*
 * ------------------------------------------------------------------ a child that stays until it is
 * told to go
 */

struct stayer {
	pid_t pid;
	int say;
};

/* fn runs when the parent says so. */
static struct stayer stay(int (*fn)(void *arg), void *arg)
{
	struct stayer s;
	int ends[2];
	char byte;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	fflush(NULL);
	s.pid = fork();
	if (!s.pid) {
		alarm(CHILD_SECONDS);
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) == 1 ? fn(arg) : 99);
	}
	assert_true(s.pid > 0);
	close(ends[0]);
	s.say = ends[1];
	return s;
}

static int leave(struct stayer s)
{
	assert_int_equal(write(s.say, "g", 1), 1);
	close(s.say);
	return ended(s.pid);
}

static int just_exit(void *arg)
{
	return 0;
}

static int sees_ones(void *arg)
{
	return is_all(arg, 1) ? 0 : 1;
}

/* ------------------------------------------------------------------ who sees what */

static void test_parent_writes_before_during_after(void **state)
{
	unsigned char *p = map();
	struct hf_region held;
	struct stayer s;

	assert_true(becomes_a_hit(provider, p));
	held = check_get(provider, p, len, HF_READWRITE);
	memset(p, 1, len);
	s = stay(sees_ones, p);
	/* The child shares what isn't pinned: a write of ours must not move us to other pages. */
	for (unsigned char byte = 2; byte < 10; byte++) {
		memset(p, byte, len);
		assert_true(nic_sees(&held, p, byte));
		assert_hit(p, byte);
	}
	assert_int_equal(leave(s), 0);
	memset(p, 10, len);
	assert_true(nic_sees(&held, p, 10));
	check_ok(hf_put(provider, &held));
	assert_hit(p, 11);
	unmap(p);
}

/* Registered while the child shares the pages: our copy is made before the pin, or at the pin. */
static void test_registered_while_a_child_shares_it(void **state)
{
	unsigned char *p = map();
	struct hf_region r;
	struct stayer s;

	memset(p, 1, len);
	s = stay(sees_ones, p);
	r = check_get(provider, p, len, HF_READ);
	assert_true(nic_sees(&r, p, 1));
	memset(p, 2, len);
	assert_true(nic_sees(&r, p, 2));
	check_ok(hf_put(provider, &r));
	assert_int_equal(leave(s), 0);
	assert_true(becomes_a_hit(provider, p));
	unmap(p);
}

/* What the NIC writes is the parent's alone. */
static void test_nic_writes_are_not_the_childs(void **state)
{
	unsigned char *p = map(), twos[64];
	struct hf_region r = check_get(provider, p, len, HF_READWRITE);
	struct stayer s;

	memset(p, 1, len);
	memset(twos, 2, sizeof(twos));
	s = stay(sees_ones, p);
	for (size_t at = 0; at < len; at += page) {
		check_ok(hf_poke(&r, p + at, twos, sizeof(twos)));
		assert_memory_equal(p + at, twos, sizeof(twos));
	}
	assert_int_equal(leave(s), 0);
	check_ok(hf_put(provider, &r));
	unmap(p);
}

/* ------------------------------------------------------------------ what a child may do */

static int child_writes(void *arg)
{
	memset(arg, 0xcc, len);
	return is_all(arg, 0xcc) ? 0 : 1;
}

static int child_frees(void *arg)
{
	return munmap(arg, len) ? 1 : 0;
}

static int child_maps_over(void *arg)
{
	void *p = mmap(arg, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return p == arg ? child_writes(arg) : 1;
}

static int child_moves(void *arg)
{
	return mremap(arg, len, 2 * len, MREMAP_MAYMOVE) == MAP_FAILED;
}

static int child_empties(void *arg)
{
	return madvise(arg, len, MADV_DONTNEED) || !is_all(arg, 0);
}

static int child_allocates(void *arg)
{
	for (size_t size = 1; size < 64 * MIB; size *= 2) {
		char *p = malloc(size);

		if (!p)
			return 1;
		memset(p, 1, size < page ? size : page);
		free(p);
	}
	return 0;
}

static int child_execs(void *arg)
{
	execl("/bin/true", "true", (char *)NULL);
	return errno == ENOENT ? 0 : 1;
}

static int child_calls(void *arg)
{
	struct hf_region r = { .addr = (uintptr_t)arg, .length = len, .provider = provider, .entry = arg };
	struct hf_stats s;
	uint64_t id = 1;

	CHILD_CHECK(hf_get(provider, arg, len, HF_READ, &r) == -EOWNERDEAD);
	CHILD_CHECK(hf_get_unchecked(provider, arg, len, HF_READ, &r) == -EOWNERDEAD);
	CHILD_CHECK(hf_put(provider, &r) == -EOWNERDEAD);
	CHILD_CHECK(hf_sync(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_flush(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_provider_stats(provider, &s, sizeof(s)) == -EOWNERDEAD);
	CHILD_CHECK(hf_invalidate(sw, arg, len) == -EOWNERDEAD);
	CHILD_CHECK(hf_secure(sw, arg, len, HF_READ | HF_NOTIFY, NULL, NULL, &id) == -EOWNERDEAD);
	CHILD_CHECK(hf_secured_changed(sw, id) == -EOWNERDEAD);
	CHILD_CHECK(hf_unsecure(sw, id) == -EOWNERDEAD);
	CHILD_CHECK(hf_provider_close(provider) == -EOWNERDEAD);
	CHILD_CHECK(hf_switch_close(sw) == -EOWNERDEAD);
	return 0;
}

static int child_of_a_child_calls(void *arg)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(child_calls(arg));
	return waitpid(pid, &status, 0) == pid && !status ? 0 : 1;
}

static int (*const deeds[])(void *) = {
	just_exit, child_writes, child_frees, child_maps_over, child_moves, child_empties, child_allocates,
	child_execs, child_calls, child_of_a_child_calls,
};

#define DEEDS (sizeof(deeds) / sizeof(deeds[0]))

/* Whatever the child does: the parent's registration is found, held or idle, and right. */
static void test_what_children_do(void **state)
{
	unsigned char *p = map();

	assert_true(becomes_a_hit(provider, p));
	for (size_t i = 0; i < 3 * DEEDS; i++) {
		struct hf_region held = check_get(provider, p, len, HF_READWRITE);

		assert_true(held.flags & HF_REGION_HIT);
		if (i & 1)
			check_ok(hf_put(provider, &held));
		memset(p, 0x11, len);
		assert_int_equal(check_child(deeds[i % DEEDS], p), 0);
		assert_true(is_all(p, 0x11));
		assert_hit(p, (unsigned char)i);
		if (held.entry) {
			assert_true(nic_sees(&held, p, (unsigned char)i));
			check_ok(hf_put(provider, &held));
		}
	}
	assert_int_equal(check_stats(provider).entries, 1);
	assert_int_equal(check_stats(provider).misses, 1);
	unmap(p);
	check_pinned(provider, 0);
}

struct forker {
	unsigned char *p;
	size_t deed;
	int status;
};

static void *fork_from_thread(void *arg)
{
	struct forker *f = arg;
	pid_t pid = fork();

	if (!pid) {
		alarm(CHILD_SECONDS);
		_exit(deeds[f->deed](f->p));
	}
	if (waitpid(pid, &f->status, 0) != pid)
		f->status = -1;
	return NULL;
}

static void test_forked_by_another_thread(void **state)
{
	unsigned char *p = map();

	assert_true(becomes_a_hit(provider, p));
	for (size_t i = 0; i < DEEDS; i++) {
		struct forker f = { .p = p, .deed = i };
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, fork_from_thread, &f), 0);
		assert_int_equal(pthread_join(t, NULL), 0);
		assert_int_equal(f.status, 0);
		assert_hit(p, (unsigned char)i);
	}
	unmap(p);
}

static void test_vfork_and_spawn(void **state)
{
	char *argv[] = { "true", NULL }, *envp[] = { NULL };
	unsigned char *p = map();
	pid_t pid;

	assert_true(becomes_a_hit(provider, p));
	pid = vfork();
	if (!pid)
		_exit(3);
	assert_int_equal(ended(pid), 3);
	assert_hit(p, 1);
	pid = vfork();
	if (!pid) {
		execve("/bin/true", argv, envp);
		_exit(1);
	}
	assert_int_equal(ended(pid), 0);
	assert_hit(p, 2);
	assert_int_equal(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, envp), 0);
	assert_int_equal(ended(pid), 0);
	assert_hit(p, 3);
	assert_int_equal(check_stats(provider).misses, 1);
	unmap(p);
}

/* ------------------------------------------------------------------ what a child must not keep */

/* A link of /proc/PID/fd, or a line of /proc/PID/maps, that names a userfaultfd or an io_uring. */
static bool names_ours(const char *text)
{
	return strstr(text, "userfaultfd") || strstr(text, "io_uring");
}

static unsigned count_fds(pid_t pid)
{
	char path[64], target[256];
	struct dirent *d;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		ssize_t got = readlinkat(dirfd(dir), d->d_name, target, sizeof(target) - 1);

		if (got < 0)
			continue;
		target[got] = 0;
		n += names_ours(target);
	}
	closedir(dir);
	return n;
}

static unsigned count_maps(pid_t pid)
{
	char path[64], line[512];
	unsigned n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += names_ours(line);
	fclose(f);
	return n;
}

static long pinned_kib(pid_t pid)
{
	char path[64], line[256];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (kib < 0 && fgets(line, sizeof(line), f))
		sscanf(line, "VmPin: %ld", &kib);
	fclose(f);
	return kib;
}

/*
 * Soon: who spawns goes on as soon as the child lets go of the memory that they share, in the middle of the execve.
 *
 *   posix_spawn                       child
 *   ---------------------------       ---------------------------------
 *   waits                             execve: needs this memory no more
 *   goes on
 *   looks into /proc/PID/fd, maps
 *                                     has another memory, and closes what is O_CLOEXEC
 */
static void assert_keeps_nothing(pid_t child)
{
	for (int i = 0; i < TRIES && (count_fds(child) || count_maps(child) || pinned_kib(child)); i++)
		usleep(1000);
	assert_int_equal(count_fds(child), 0);
	assert_int_equal(count_maps(child), 0);
	assert_int_equal(pinned_kib(child), 0);
}

static void test_child_keeps_no_descriptor(void **state)
{
	unsigned char *p = map();
	struct stayer s;
	int ready[2];
	char byte;

	assert_true(becomes_a_hit(provider, p));
	/* The way of counting finds them where they are. */
	assert_true(count_fds(getpid()) >= 2);
	assert_true(count_maps(getpid()) >= 1);
	for (int i = 0; i < TRIES && pinned_kib(getpid()) != (long)(len / KIB); i++)
		usleep(1000); /* before Linux 6.4 what an earlier test had pinned is uncharged a second later */
	assert_int_equal(pinned_kib(getpid()), (long)(len / KIB));
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	s.pid = fork();
	if (!s.pid) {
		alarm(CHILD_SECONDS);
		_exit(write(ready[1], "r", 1) == 1 ? pause() : 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	assert_keeps_nothing(s.pid);
	assert_hit(p, 1);
	assert_int_equal(kill(s.pid, SIGKILL), 0);
	assert_int_equal(ended(s.pid), 128 + SIGKILL);
	unmap(p);
}

static void test_spawned_program_keeps_no_descriptor(void **state)
{
	char *argv[] = { "sleep", "100", NULL }, *envp[] = { NULL };
	unsigned char *p = map();
	pid_t pid;

	assert_true(becomes_a_hit(provider, p));
	if (posix_spawn(&pid, "/bin/sleep", NULL, NULL, argv, envp))
		skip_because("there is no /bin/sleep");
	assert_keeps_nothing(pid);
	unmap(p);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(ended(pid), 128 + SIGKILL);
}

/*
 * If a sleeping child kept the userfaultfd, each of these unmaps would wait for a reader that is gone; if it kept a
 * ring, the pages would stay pinned.
 */
static void test_parent_closes_while_a_child_sleeps(void **state)
{
	unsigned char *p = map(), *q = map();
	struct stayer s;

	open_both(state);
	assert_true(becomes_a_hit(provider, p));
	assert_true(becomes_a_hit(provider, q));
	s = stay(just_exit, NULL);
	assert_int_equal(munmap(p, page), 0);
	assert_true(pinned_kib(getpid()) > 0);
	assert_int_equal(close_both(state), 0);
	assert_int_equal(pinned_kib(getpid()), 0);
	unmap(p);
	unmap(q);
	assert_int_equal(leave(s), 0);
}

/* As often as one likes: nothing of it is used up. */
static void test_open_fork_close_many_times(void **state)
{
	unsigned char *p = map();

	for (int i = 0; i < 300; i++) {
		open_both(state);
		assert_true(becomes_a_hit(provider, p));
		if (i % 10 == 0)
			assert_int_equal(check_child(child_calls, p), 0);
		assert_int_equal(close_both(state), 0);
	}
	assert_int_equal(count_fds(getpid()), 0);
	assert_int_equal(count_maps(getpid()), 0);
	unmap(p);
}

/*
 * A child that is forked while a switch opens or closes must not keep its userfaultfds: the unmap would
 * wait for a reader that has ended. The children stay until all rounds are done.
 */
#define STORM_FORKS 400

struct storm {
	_Atomic bool over;
	_Atomic unsigned rounds;
};

static void *come_and_go(void *arg)
{
	struct storm *storm = arg;

	while (!atomic_load(&storm->over)) {
		unsigned char *p = map();
		struct hf_provider *own;
		struct hf_switch *s;

		s = check_switch("proxy=uffd");
		own = check_sim(s, NULL, NULL);
		check_touch(own, p, len, HF_READ);
		check_close(s, own);
		unmap(p);
		atomic_fetch_add(&storm->rounds, 1);
	}
	return NULL;
}

static void test_forks_while_switches_come_and_go(void **state)
{
	static pid_t child[STORM_FORKS];
	struct storm storm = { 0 };
	unsigned seen;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, come_and_go, &storm), 0);
	for (unsigned i = 0; i < STORM_FORKS; i++) {
		child[i] = fork();
		if (!child[i]) {
			alarm(CHILD_SECONDS);
			for (;;)
				pause();
		}
		assert_true(child[i] > 0);
	}
	seen = atomic_load(&storm.rounds);
	while (atomic_load(&storm.rounds) < seen + 2)
		usleep(1000); /* the watchdog ends a hang */
	atomic_store(&storm.over, true);
	assert_int_equal(pthread_join(t, NULL), 0);
	for (unsigned i = 0; i < STORM_FORKS; i++) {
		kill(child[i], SIGKILL);
		assert_int_equal(ended(child[i]), 128 + SIGKILL);
	}
}

/* The program closes descriptors that are not its own. A close of ours must end all the same. */
static void close_userfaultfds(void)
{
	char path[64], text[64];

	for (int fd = 3; fd < 1024; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, text, sizeof(text) - 1);
		text[n < 0 ? 0 : n] = 0;
		if (strstr(text, "userfaultfd"))
			close(fd);
	}
}

static void test_close_after_the_program_closed_ours(void **state)
{
	unsigned char *p = map(), *q = map();

	open_both(state);
	assert_true(becomes_a_hit(provider, p));
	close_userfaultfds();
	check_touch(provider, q, len, HF_READ);
	assert_int_equal(close_both(state), 0);
	unmap(p);
	unmap(q);
}

/* ------------------------------------------------------------------ a child with a cache of its own */

static int child_has_its_own(void *arg)
{
	struct hf_switch *own_sw = NULL;
	struct hf_provider *own = NULL;
	unsigned char *p = arg;
	unsigned flags;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(opens(&own_sw, &own, LIMIT));
	CHILD_CHECK(!strcmp(hf_switch_proxy(own_sw), "uffd"));
	/* Memory that the parent has cached is nothing but memory here. */
	CHILD_CHECK(looks_right(own, p, 1, &flags) && !(flags & HF_REGION_HIT));
	CHILD_CHECK(becomes_a_hit(own, p));
	CHILD_CHECK(madvise(p, len, MADV_DONTNEED) == 0);
	CHILD_CHECK(looks_right(own, p, 2, &flags) && !(flags & HF_REGION_HIT));
	CHILD_CHECK(becomes_a_hit(own, p));
	CHILD_CHECK(munmap(p, len) == 0);
	CHILD_CHECK(mmap(p, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	CHILD_CHECK(looks_right(own, p, 3, &flags) && !(flags & HF_REGION_HIT));
	CHILD_CHECK(becomes_a_hit(own, p));
	/* The parent's stays the parent's. */
	CHILD_CHECK(child_calls(p) == 0);
	CHILD_CHECK(!hf_provider_close(own) && !hf_switch_close(own_sw));
	return 0;
}

/*
 * TSan ends a child that starts a thread when its parent had several. ASan (clang 14) doesn't take its own locks at a
 * fork: about one such child in 100 hangs in the sanitizer's part of the start of its first thread.
 */
static void skip_under_sanitizers(void)
{
	if (CHECK_TSAN || CHECK_ASAN)
		skip_because("the sanitizer doesn't let such a child start threads");
}

static void test_child_with_its_own(void **state)
{
	struct stayer s[3];
	unsigned char *p;

	skip_under_sanitizers();
	p = map();
	assert_true(becomes_a_hit(provider, p));
	for (int i = 0; i < 3; i++)
		s[i] = stay(child_has_its_own, p);
	for (int i = 0; i < 3; i++)
		assert_int_equal(write(s[i].say, "g", 1), 1);
	for (int i = 0; i < 200; i++)
		assert_hit(p, (unsigned char)i);
	for (int i = 0; i < 3; i++) {
		close(s[i].say);
		assert_int_equal(ended(s[i].pid), 0);
	}
	assert_int_equal(check_stats(provider).misses, 1);
	unmap(p);
}

/* ... and its child is to that one what it was to us. */
static int child_with_its_own_forks(void *arg)
{
	int status;
	pid_t pid;

	alarm(CHILD_SECONDS);
	CHILD_CHECK(opens(&sw, &provider, LIMIT));
	CHILD_CHECK(becomes_a_hit(provider, arg));
	pid = fork();
	if (!pid)
		_exit(child_calls(arg) || child_has_its_own(arg));
	CHILD_CHECK(waitpid(pid, &status, 0) == pid && !status);
	CHILD_CHECK(becomes_a_hit(provider, arg));
	CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	return 0;
}

static void test_child_with_its_own_forks(void **state)
{
	unsigned char *p;

	skip_under_sanitizers();
	p = map();
	assert_true(becomes_a_hit(provider, p));
	assert_int_equal(check_child(child_with_its_own_forks, p), 0);
	assert_hit(p, 1);
	unmap(p);
}

/*
 * ------------------------------------------------------------------ what is left of a process
 * (RLIMIT_MEMLOCK)
 */

/* The limit counts all that a user has pinned: so it should be a user of this test's alone. */
#define LIMITED_USER limited_user
#define MOST 16 /* pages */
#define SOME 12 /* ... of which there can't be two */

static uid_t limited_user; /* nor of another run at the same time */

static struct {
	unsigned char *p;
	int ready[2];
} pinner;

static bool become_limited(void)
{
	struct rlimit tight = { MOST * page, MOST * page };

	if (setrlimit(RLIMIT_MEMLOCK, &tight))
		return false;
	if (geteuid() == 0 && setresuid(LIMITED_USER, LIMITED_USER, LIMITED_USER))
		return false;
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0; /* or /proc/self is root's */
}

/* What others have let go is uncharged a little later; newer kernels charge the rings themselves, too. */
static bool opens_in_time(void)
{
	int rc = hf_switch_open("proxy=uffd", &sw) ? -1 : -ENOMEM;

	for (int i = 0; i < TRIES && rc == -ENOMEM; i++) {
		if (i)
			usleep(1000);
		rc = hf_provider_open(sw, "uring", "max_bytes=1G", &provider);
	}
	return rc == 0;
}

static bool pins_some(struct hf_provider *p, struct hf_region *r)
{
	int rc = hf_get(p, pinner.p, SOME * page, HF_READWRITE, r);

	for (int i = 0; i < TRIES && rc == -ENOMEM; i++) {
		usleep(1000);
		rc = hf_get(p, pinner.p, SOME * page, HF_READWRITE, r);
	}
	return rc == 0;
}

static int pin_and_wait(void *arg)
{
	struct hf_region r;

	alarm(CHILD_SECONDS);
	if (!become_limited())
		return NOT_RUN;
	CHILD_CHECK(opens_in_time());
	CHILD_CHECK(pins_some(provider, &r));
	CHILD_CHECK(write(pinner.ready[1], "r", 1) == 1);
	return pause();
}

static int pin_and_go(void *arg)
{
	struct hf_region r, more;

	alarm(CHILD_SECONDS);
	if (!become_limited())
		return NOT_RUN;
	CHILD_CHECK(opens_in_time());
	CHILD_CHECK(pins_some(provider, &r));
	/* There can't be two: what the first one had pinned is gone. */
	CHILD_CHECK(hf_get(provider, pinner.p + MOST * page, SOME * page, HF_READWRITE, &more) == -ENOMEM);
	CHILD_CHECK(hf_put(provider, &r) == 0);
	CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	return 0;
}

static void pinner_make(void)
{
	pinner.p = (unsigned char *)check_map(2 * MOST * page);
	assert_int_equal(pipe2(pinner.ready, O_CLOEXEC), 0);
}

static void pinner_end(void)
{
	close(pinner.ready[0]);
	close(pinner.ready[1]);
	check_unmap((char *)pinner.p, 2 * MOST * page);
}

/* R41: the end of a process is noticed, whatever ends it. */
static void test_killed_process_leaves_no_pins(void **state)
{
	char byte;
	pid_t pid;

	pinner_make();
	pid = fork();
	if (!pid)
		_exit(pin_and_wait(NULL));
	close(pinner.ready[1]);
	pinner.ready[1] = -1;
	if (read(pinner.ready[0], &byte, 1) != 1) {
		assert_int_equal(ended(pid), NOT_RUN);
		pinner_end();
		skip_because("can't become a user without privileges");
	}
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(ended(pid), 128 + SIGKILL);
	assert_int_equal(check_child(pin_and_go, NULL), 0);
	pinner_end();
}

/*
 * The pins go with the provider and with the process, although a child that was forked meanwhile
 * sleeps on.
 */
static int pin_with_a_sleeping_child(void *arg)
{
	struct hf_region r;
	pid_t pid;

	alarm(CHILD_SECONDS);
	if (!become_limited())
		return NOT_RUN;
	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(opens_in_time());
		CHILD_CHECK(pins_some(provider, &r));
		pid = fork();
		if (!pid) {
			alarm(CHILD_SECONDS);
			_exit(pause());
		}
		CHILD_CHECK(pid > 0 && write(pinner.ready[1], &pid, sizeof(pid)) == sizeof(pid));
		if (i == 1)
			return 0; /* the second time with everything open */
		CHILD_CHECK(hf_put(provider, &r) == 0);
		CHILD_CHECK(!hf_provider_close(provider) && !hf_switch_close(sw));
	}
	return 0;
}

static void test_sleeping_child_keeps_no_pins(void **state)
{
	pid_t sleepers[2];
	int rc;

	pinner_make();
	rc = check_child(pin_with_a_sleeping_child, NULL);
	if (rc == NOT_RUN) {
		pinner_end();
		skip_because("can't become a user without privileges");
	}
	assert_int_equal(rc, 0);
	assert_int_equal(check_child(pin_and_go, NULL), 0);
	assert_int_equal(read(pinner.ready[0], sleepers, sizeof(sleepers)), sizeof(sleepers));
	for (int i = 0; i < 2; i++)
		assert_int_equal(kill(sleepers[i], SIGKILL), 0); /* they slept until now */
	pinner_end();
}

/* ------------------------------------------------------------------ main */

#define over_uring(f) cmocka_unit_test_setup_teardown(f, open_both, close_both)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed_process_leaves_no_pins),
		cmocka_unit_test(test_sleeping_child_keeps_no_pins),
		over_uring(test_parent_writes_before_during_after),
		over_uring(test_registered_while_a_child_shares_it),
		over_uring(test_nic_writes_are_not_the_childs),
		over_uring(test_what_children_do),
		over_uring(test_forked_by_another_thread),
		over_uring(test_vfork_and_spawn),
		over_uring(test_child_keeps_no_descriptor),
		over_uring(test_spawned_program_keeps_no_descriptor),
		cmocka_unit_test(test_parent_closes_while_a_child_sleeps),
		cmocka_unit_test(test_open_fork_close_many_times),
		cmocka_unit_test(test_forks_while_switches_come_and_go),
		cmocka_unit_test(test_close_after_the_program_closed_ours),
		over_uring(test_child_with_its_own),
		over_uring(test_child_with_its_own_forks),
	};

	alarm(WATCHDOG_SECONDS);
	unsetenv("HOLDFAST");
	page = check_page();
	len = PAGES * page;
	limited_user = 61100u + (uid_t)getpid() % 4000;
	if (!check_uffd())
		return 77;
	return cmocka_run_group_tests_name("fork", tests, NULL, NULL);
}
