/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Changes of watched memory of which no event comes: SHM_REMAP, a watch that somebody takes away,
 * descriptors that the program closes, and a process that shares the memory and is killed in
 * munmap. Each must end in a miss, with the right bytes. The control is the proxy `uffd` without
 * check_range(): it finds the old pages, as long as nothing is armed anew.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "proxy/proxy.h"

#define PAGES 16u
#define PROT (PROT_READ | PROT_WRITE)
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS)
#define HIT (HF_REGION_HIT | HF_REGION_CACHED)

static struct hf_switch *sw;
static struct hf_provider *provider;
static size_t page;
static char *base; /* PAGES pages, with a hole at either end */

static void map_base(void)
{
	char *p = mmap(NULL, (PAGES + 2) * page, PROT_NONE, PLAIN, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	base = p + page;
	assert_ptr_equal(mmap(base, PAGES * page, PROT, PLAIN | MAP_FIXED, -1, 0), base);
}

static int open_on(const struct hf_proxy_ops *ops)
{
	page = check_page();
	map_base();
	check_ok(hf_switch_open_proxy(ops, NULL, NULL, &sw));
	check_ok(hf_provider_open(sw, "uring", "max_bytes=4M", &provider));
	return 0;
}

static int open_uffd(void **state)
{
	struct hf_switch *probe = check_switch("proxy=uffd"); /* skips where there is none */

	check_ok(hf_switch_close(probe));
	return open_on(&hf_proxy_uffd);
}

static int open_control(void **state)
{
	struct hf_proxy_ops ops = hf_proxy_uffd;
	struct hf_switch *probe = check_switch("proxy=uffd");

	check_ok(hf_switch_close(probe));
	ops.size = offsetof(struct hf_proxy_ops, check_range);
	return open_on(&ops);
}

static int close_all(void **state)
{
	munmap(base - page, (PAGES + 2) * page);
	return check_close_both(&sw, &provider);
}

/* ------------------------------------------------------------------ what a change does */

static void cache(char *p, size_t len)
{
	struct hf_region r = { 0 };

	memset(p, 'A', len);
	for (int i = 0; i < 60000 && !(r.flags & HF_REGION_CACHED); i++) {
		if (i)
			usleep(1000);
		r = check_get(provider, p, len, HF_READWRITE);
		check_ok(hf_put(provider, &r));
	}
	assert_true(r.flags & HF_REGION_CACHED);
}

/*
 * Look the range up, and compare what the NIC sees with what is mapped. True: it is right. *flags:
 * the region's.
 */
static bool is_right(char *p, size_t len, char now, unsigned *flags)
{
	struct hf_region r;
	bool right = true;
	char seen[64];

	memset(p, now, len);
	r = check_get(provider, p, len, HF_READWRITE);
	for (size_t at = 0; at < len; at += page) {
		check_ok(hf_peek(&r, p + at, seen, sizeof(seen)));
		right = right && !memcmp(seen, p + at, sizeof(seen));
	}
	*flags = r.flags;
	check_ok(hf_put(provider, &r));
	return right;
}

/* In one call: between two another thread could be given the addresses. */
static void replace(char *p, size_t len)
{
	assert_ptr_equal(mmap(p, len, PROT, PLAIN | MAP_FIXED, -1, 0), p);
}

/* The numbers of all descriptors of this process with that in their name. */
static unsigned find_descriptors(const char *what, int *fds, unsigned most)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *d;
	unsigned n = 0;

	assert_non_null(dir);
	while ((d = readdir(dir)) && n < most) {
		char name[64] = "";

		if (readlinkat(dirfd(dir), d->d_name, name, sizeof(name) - 1) > 0 &&
		    strstr(name, what))
			fds[n++] = atoi(d->d_name);
	}
	closedir(dir);
	return n;
}

/* What another userfaultfd of the program does to ours before 6.17: no event, the watch is gone. */
static void unwatch(char *p, size_t len)
{
	struct uffdio_range range = { (uintptr_t)p, len };
	int fds[64];
	unsigned n = find_descriptors("userfaultfd", fds, 64);
	bool done = false;

	for (unsigned i = 0; i < n; i++)
		done |= ioctl(fds[i], UFFDIO_UNREGISTER, &range) == 0;
	assert_true(done);
}

static void replace_unseen(void)
{
	unwatch(base, PAGES * page);
	replace(base, PAGES * page);
}

/* ------------------------------------------------------------------ the tests */

static void test_watch_is_taken_away(void **state)
{
	unsigned flags;

	cache(base, PAGES * page);
	replace_unseen();
	assert_true(is_right(base, PAGES * page, 'B', &flags));
	assert_int_equal(flags & HF_REGION_HIT, 0);
	assert_true(is_right(base, PAGES * page, 'C', &flags));
	assert_int_equal(flags, HIT);
}

/*
 * A part of the mapping is armed anew by somebody else's miss: what is cached in the rest of it
 * must go.
 */
static void test_armed_anew_by_a_neighbour(void **state)
{
	unsigned flags;

	cache(base, page);
	cache(base + 2 * page, page);
	replace_unseen();
	assert_true(is_right(base + 8 * page, page, 'B', &flags)); /* arms all of it */
	assert_true(is_right(base, page, 'C', &flags));
	assert_int_equal(flags & HF_REGION_HIT, 0);
	assert_true(is_right(base + 2 * page, page, 'D', &flags));
	assert_int_equal(flags & HF_REGION_HIT, 0);
}

static void test_secured_is_told(void **state)
{
	uint64_t id;
	unsigned flags;

	check_ok(hf_secure(sw, base, page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id));
	assert_int_equal(hf_secured_changed(sw, id), 0);
	replace_unseen();
	assert_true(is_right(base + page, page, 'B', &flags));
	assert_int_equal(hf_secured_changed(sw, id), 1);
	check_ok(hf_unsecure(sw, id));
	/* The caller's own range is not taken for changed by the arming. */
	check_ok(hf_secure(sw, base, page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id));
	check_ok(hf_unsecure(sw, id));
}

static void attach_over(void)
{
	int id = shmget(IPC_PRIVATE, PAGES * page, IPC_CREAT | 0600);

	if (id < 0)
		skip();
	assert_ptr_equal(shmat(id, base, SHM_REMAP), base);
	shmctl(id, IPC_RMID, NULL);
}

static void test_shm_remap(void **state)
{
	unsigned flags;

	cache(base, PAGES * page);
	attach_over();
	assert_true(is_right(base, PAGES * page, 'B', &flags));
	assert_int_equal(flags & HF_REGION_CACHED, 0);
	replace(base, PAGES * page);
	assert_true(is_right(base, PAGES * page, 'C', &flags));
}

/* The control: what check_range() is for. */
static void test_control(void **state)
{
	unsigned flags;

	cache(base, PAGES * page);
	replace_unseen();
	assert_false(is_right(base, PAGES * page, 'B', &flags));
	assert_int_equal(flags, HIT);
	hf_invalidate(sw, base, PAGES * page);
}

/* mprotect() splits what was armed as one mapping. It is still watched: a hit, and right. */
static void test_split_is_no_change(void **state)
{
	unsigned flags;

	cache(base, PAGES * page);
	assert_int_equal(mprotect(base + page, page, PROT_READ), 0);
	assert_int_equal(mprotect(base + page, page, PROT), 0);
	assert_int_equal(madvise(base + 4 * page, page, MADV_DONTDUMP), 0); /* stays split */
	assert_true(is_right(base, PAGES * page, 'B', &flags));
	assert_int_equal(flags, HIT);
}

/*
 * The program closes our descriptors; `reuse`: and their numbers are those of a userfaultfd of its
 * own.
 */
static void close_ours(bool reuse)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fds[64];
	unsigned n = find_descriptors("userfaultfd", fds, 64);
	int own = reuse ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1) : -1;

	assert_true(n > 0 && (!reuse || (own >= 0 && ioctl(own, UFFDIO_API, &api) == 0)));
	for (unsigned i = 0; i < n; i++) {
		if (reuse)
			assert_int_equal(dup2(own, fds[i]), fds[i]);
		else
			close(fds[i]);
	}
	if (own >= 0)
		close(own);
}

static void descriptors_are_closed(bool reuse)
{
	unsigned flags;

	cache(base, PAGES * page);
	close_ours(reuse);
	replace(base, PAGES * page);
	for (int i = 0; i < 3; i++) {
		assert_true(is_right(base, PAGES * page, (char)('B' + i), &flags));
		replace(base, PAGES * page);
	}
}

static void test_descriptors_are_closed(void **state)
{
	descriptors_are_closed(false);
}

static void test_descriptors_are_reused(void **state)
{
	descriptors_are_closed(true);
}

/* The reader can't wait any more. Nothing hangs, nothing is a hit, and all can be closed. */
static void test_reader_is_cut_off(void **state)
{
	unsigned flags;
	int fds[64];
	unsigned n;

	cache(base, PAGES * page);
	n = find_descriptors("eventpoll", fds, 64);
	assert_true(n > 0);
	while (n) /* raw: the misuse is meant, and TSan would report it */
		syscall(SYS_close, fds[--n]);
	for (int i = 0; i < 5; i++) {
		replace(base, PAGES * page);
		assert_true(is_right(base, PAGES * page, (char)('B' + i), &flags));
		assert_int_equal(flags & HF_REGION_HIT, 0);
	}
}

/* ------------------------------------------------------------------ killed in munmap */

static _Atomic int progress; /* 1: the child is about to unmap; 2: it has */

static int unmaps(void *arg)
{
	atomic_store(&progress, 1);
	syscall(SYS_munmap, base, PAGES * page);
	atomic_store(&progress, 2);
	syscall(SYS_exit, 0);
	return 0;
}

/* True: it was killed before munmap had returned. */
static bool kill_a_child_that_unmaps(char *stack, unsigned spins)
{
	int status;
	pid_t pid;

	atomic_store(&progress, 0);
	pid = clone(unmaps, stack, CLONE_VM | SIGCHLD, NULL);
	assert_true(pid > 0);
	while (!atomic_load(&progress))
		sched_yield();
	for (volatile unsigned i = 0; i < spins; i++)
		;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return atomic_load(&progress) == 1;
}

#define ROUNDS 3000u

/*
 * A signal that kills makes the kernel drop the event. Each round must be right, however far munmap
 * had come.
 */
static void test_killed_in_munmap(void **state)
{
	char *stack = mmap(NULL, 16 * page, PROT, PLAIN, -1, 0);
	unsigned flags, inside = 0;

	assert_ptr_not_equal(stack, MAP_FAILED);
	if (CHECK_ASAN || CHECK_TSAN) {
		print_message("skipped: a sanitizer keeps state of a thread, and the child is none\n");
		skip();
	}
	for (unsigned i = 0; i < ROUNDS / check_scale(); i++) {
		cache(base, PAGES * page);
		inside += kill_a_child_that_unmaps(stack + 16 * page, i * 7919 % 3000);
		if (mmap(base, PAGES * page, PROT, PLAIN | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
			assert_int_equal(errno, EEXIST);
		assert_true(is_right(base, PAGES * page, (char)('a' + i % 26), &flags));
	}
	print_message("killed in munmap: %u of %u\n", inside, ROUNDS / check_scale());
	munmap(stack, 16 * page);
}

#define ON(open, test) cmocka_unit_test_setup_teardown(test, open, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON(open_uffd, test_watch_is_taken_away), ON(open_uffd, test_armed_anew_by_a_neighbour),
		ON(open_uffd, test_secured_is_told),     ON(open_uffd, test_shm_remap),
		ON(open_uffd, test_split_is_no_change),  ON(open_control, test_control),
		ON(open_uffd, test_descriptors_are_closed), ON(open_uffd, test_descriptors_are_reused),
		ON(open_uffd, test_reader_is_cut_off),   ON(open_uffd, test_killed_in_munmap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
