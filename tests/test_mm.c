/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * MmSecureVirtualMemory and MmUnsecureVirtualMemory (R37 to R39, R41 to R43): what is refused, for how
 * long, to whom. Skipped where the proxy `supervise` can't be had. What needs programs of its own comes
 * first: the other tests leave a filter in this process, which all that it starts inherits, and there can
 * be only one.
 */
#include "check.h"

#include <errno.h>
#include <holdfast/ws2san.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define PAGES 8
#define RW (PROT_READ | PROT_WRITE)

static size_t page;

static int setup(void **state)
{
	*state = check_map(PAGES * page);
	return 0;
}

/* Nothing is secured any more: else this fails. */
static int teardown(void **state)
{
	check_unmap(*state, PAGES * page);
	return 0;
}

/* That the calls of before are over may take longer to be proved than the library waits: it says so then. */
static HANDLE secure_in_time(void *at, size_t len, ULONG mode)
{
	HANDLE h = MmSecureVirtualMemory(at, len, mode);

	for (int i = 0; i < 600 && !h && strstr(hf_error(), "within a second"); i++)
		h = MmSecureVirtualMemory(at, len, mode);
	return h;
}

static HANDLE secure(char *m, unsigned first, unsigned n, ULONG mode)
{
	HANDLE h = secure_in_time(m + first * page, n * page, mode);

	if (!h)
		fail_msg("MmSecureVirtualMemory: \"%s\"", hf_error());
	return h;
}

/* -1 and errno are `want`; or it worked, for 0. */
static void answers(long rc, int want, int line)
{
	int err = rc < 0 ? errno : 0;

	if (err != want)
		fail_msg("line %d: %s instead of %s", line, strerror(err), strerror(want));
}
#define ANSWERS(call, want)                                   \
	do {                                                  \
		long answer_ = (long)(call);                  \
		answers(answer_, want, __LINE__);             \
	} while (0)

static void *replace(char *m)
{
	return mmap(m, page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Freeing, in each way, of all of it or a part. */
static void can_not_be_freed(char *m, unsigned first, unsigned n)
{
	char *at = m + first * page;

	ANSWERS(munmap(at, n * page), EBUSY);
	ANSWERS(munmap(at + (n - 1) * page, page), EBUSY);
	ANSWERS(munmap(m, PAGES * page), EBUSY);
	ANSWERS(replace(at), EBUSY);
	ANSWERS(mremap(at, n * page, 2 * n * page, MREMAP_MAYMOVE), EBUSY);
	ANSWERS(madvise(at, page, MADV_DONTNEED), EBUSY);
}

static void read_write_R37(void **state)
{
	char *m = *state;
	HANDLE h = secure(m, 2, 3, PAGE_READWRITE);

	m[2 * page] = 42;
	can_not_be_freed(m, 2, 3);
	ANSWERS(mprotect(m + 2 * page, page, PROT_READ), EACCES);
	ANSWERS(mprotect(m + 4 * page, page, PROT_NONE), EACCES);
	ANSWERS(mprotect(m, PAGES * page, PROT_READ), EACCES);
	ANSWERS(mprotect(m + 2 * page, 3 * page, RW), 0);
	assert_int_equal(m[2 * page], 42); /* and nothing has happened */
	m[4 * page] = 43;
	ANSWERS(munmap(m, 2 * page), 0); /* its neighbours are free */
	ANSWERS(mprotect(m + 5 * page, page, PROT_NONE), 0);
	ANSWERS(mmap(m, 2 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == m ? 0 : -1, 0);
	MmUnsecureVirtualMemory(h);
	ANSWERS(mprotect(m + 2 * page, page, PROT_NONE), 0);
	ANSWERS(munmap(m + 3 * page, page), 0);
	replace(m + 3 * page);
}

static void read_only_R37(void **state)
{
	char *m = *state;
	HANDLE h = secure(m, 0, 4, PAGE_READONLY);

	can_not_be_freed(m, 0, 4);
	ANSWERS(mprotect(m, 4 * page, PROT_NONE), EACCES);
	ANSWERS(mprotect(m, 4 * page, PROT_READ), 0);
	ANSWERS(mprotect(m, 4 * page, RW), 0); /* looser */
	m[0] = 1;
	MmUnsecureVirtualMemory(h);
	ANSWERS(mprotect(m, 4 * page, PROT_NONE), 0);
}

/* Bytes are secured in whole pages. */
static void bytes_R37(void **state)
{
	char *m = *state;
	HANDLE h = secure_in_time(m + 2 * page - 1, 2, PAGE_READWRITE);

	assert_non_null(h);
	ANSWERS(munmap(m + page, page), EBUSY);
	ANSWERS(munmap(m + 2 * page, page), EBUSY);
	ANSWERS(munmap(m + 3 * page, page), 0);
	MmUnsecureVirtualMemory(h);
	replace(m + 3 * page);
}

/* R37: NULL where it is not mapped or already stricter. R43: no other mode, as the Ex variant has, is
 * offered. */
static void null_R37_R43(void **state)
{
	char *m = *state;
	HANDLE h;

	assert_null(MmSecureVirtualMemory(m - page, 2 * page, PAGE_READONLY)); /* the fence */
	assert_null(MmSecureVirtualMemory(m, 0, PAGE_READONLY));
	assert_null(MmSecureVirtualMemory(m, SIZE_MAX, PAGE_READONLY));
	assert_null(MmSecureVirtualMemory((void *)-page, page, PAGE_READONLY));
	for (ULONG mode = 0; mode < 0x200; mode++)
		if (mode != PAGE_READONLY && mode != PAGE_READWRITE)
			assert_null(MmSecureVirtualMemory(m, page, mode));
	check_says("PAGE_READWRITE");
	ANSWERS(mprotect(m + page, page, PROT_READ), 0);
	assert_null(MmSecureVirtualMemory(m, 3 * page, PAGE_READWRITE));
	h = secure(m, 0, 3, PAGE_READONLY);
	MmUnsecureVirtualMemory(h);
	ANSWERS(mprotect(m + page, page, PROT_NONE), 0);
	assert_null(MmSecureVirtualMemory(m, 3 * page, PAGE_READONLY));
	ANSWERS(munmap(m + page, page), 0);
	assert_null(MmSecureVirtualMemory(m, 3 * page, PAGE_READONLY));
	replace(m + page);
	h = secure(m, 0, 3, PAGE_READWRITE); /* what failed has left nothing */
	MmUnsecureVirtualMemory(h);
}

/* R37: overlapping ones count; the strictest mode holds where they do. */
static void overlapping_R37(void **state)
{
	char *m = *state;
	HANDLE a = secure(m, 0, 4, PAGE_READONLY), b = secure(m, 2, 4, PAGE_READWRITE), c = secure(m, 2, 4, PAGE_READWRITE);

	assert_ptr_not_equal(b, c);
	ANSWERS(mprotect(m, 2 * page, PROT_READ), 0);
	ANSWERS(mprotect(m + page, 2 * page, PROT_READ), EACCES);
	ANSWERS(munmap(m + page, page), EBUSY);
	MmUnsecureVirtualMemory(b);
	ANSWERS(munmap(m + 5 * page, page), EBUSY);
	MmUnsecureVirtualMemory(c);
	ANSWERS(mprotect(m + 3 * page, page, PROT_READ), 0);
	ANSWERS(munmap(m + 3 * page, page), EBUSY);
	ANSWERS(munmap(m + 4 * page, page), 0);
	MmUnsecureVirtualMemory(a);
	ANSWERS(munmap(m, 4 * page), 0);
	for (unsigned i = 0; i < 5; i++)
		replace(m + i * page);
}

/* R36: refused, the callback lets go, the call is made again. R34: also when the heap is trimmed. */
static void veto_callback_retry_R34_R36(void **state)
{
	char *m = *state, *top = (char *)syscall(SYS_brk, 0);
	char *heap = (char *)(((uintptr_t)top + page - 1) & ~(page - 1));
	HANDLE h = secure(m, 0, PAGES, PAGE_READWRITE), g;

	ANSWERS(munmap(m + page, page), EBUSY);
	MmUnsecureVirtualMemory(h);
	ANSWERS(munmap(m + page, page), 0);
	replace(m + page);
	assert_int_equal(syscall(SYS_brk, heap + 4 * page), (long)(heap + 4 * page));
	g = secure(heap, 1, 2, PAGE_READWRITE);
	assert_int_equal(syscall(SYS_brk, heap), (long)(heap + 4 * page)); /* as the kernel says no */
	assert_int_equal(syscall(SYS_brk, heap + 3 * page), (long)(heap + 3 * page)); /* what isn't secured */
	MmUnsecureVirtualMemory(g);
	assert_int_equal(syscall(SYS_brk, top), (long)top);
}

/* R39: what is no handle, or no more one, releases nothing. */
static void unknown_handles_R39(void **state)
{
	char *m = *state;
	HANDLE old = secure(m, 0, 1, PAGE_READWRITE), h;

	MmUnsecureVirtualMemory(old);
	h = secure(m, 0, 1, PAGE_READWRITE);
	MmUnsecureVirtualMemory(old);
	MmUnsecureVirtualMemory(NULL);
	MmUnsecureVirtualMemory((HANDLE)-1);
	MmUnsecureVirtualMemory(m);
	MmUnsecureVirtualMemory((HANDLE)((uintptr_t)h + 1));
	assert_true(*hf_error() != 0);
	ANSWERS(munmap(m, page), EBUSY);
	MmUnsecureVirtualMemory(h);
	ANSWERS(munmap(m, page), 0);
	replace(m);
}

struct inherited {
	char *m;
	HANDLE h;
};

static int release_the_parents(void *arg)
{
	struct inherited *i = arg;

	MmUnsecureVirtualMemory(i->h);
	CHILD_CHECK(munmap(i->m + page, page) == 0); /* its own copy is not secured */
	/* It has inherited the filter, and there can't be a second one with a supervisor. */
	CHILD_CHECK(!MmSecureVirtualMemory(i->m, page, PAGE_READWRITE));
	CHILD_CHECK(strstr(hf_error(), "inherited"));
	MmUnsecureVirtualMemory(i->h);
	CHILD_CHECK(munmap(i->m, page) == 0);
	return 0;
}

/* R39: a forked child is refused, and nothing changes in the parent. */
static void forked_child_R39(void **state)
{
	char *m = *state;
	struct inherited i = { m, secure(m, 0, 2, PAGE_READWRITE) };

	assert_int_equal(check_child(release_the_parents, &i), 0);
	can_not_be_freed(m, 0, 2);
	MmUnsecureVirtualMemory(i.h);
}

/* R42: securing is no protection against the file behind it. It is not refused, and what is left can be
 * released. */
static void truncated_file_R42(void **state)
{
	int fd = memfd_create("hf-mm", MFD_CLOEXEC);
	char *m;
	HANDLE h;

	assert_int_equal(ftruncate(fd, (off_t)(2 * page)), 0);
	m = mmap(NULL, 2 * page, RW, MAP_SHARED, fd, 0);
	h = secure(m, 0, 2, PAGE_READWRITE);
	ANSWERS(munmap(m, page), EBUSY);
	ANSWERS(ftruncate(fd, (off_t)page), 0);
	m[0] = 1;
	MmUnsecureVirtualMemory(h);
	ANSWERS(munmap(m, 2 * page), 0);
	close(fd);
}

/* ------------------------------------------------------------------ the end of the process */

#define END_BY     "end-by"
#define AFTER_EXEC "after-exec"

/* argv[2] is where the former program had secured. */
static int after_exec(const char *where)
{
	char *m = (char *)strtoul(where, NULL, 16);

	return mmap(m, page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != m || munmap(m, page) != 0;
}

enum way { EXIT, EXEC, KILL };

/* A program that secures, and ends. */
static int end_by(enum way way)
{
	char *m = mmap(NULL, page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char where[32];

	CHILD_CHECK(secure_in_time(m, page, PAGE_READWRITE));
	CHILD_CHECK(munmap(m, page) == -1 && errno == EBUSY);
	snprintf(where, sizeof(where), "%lx", (unsigned long)m);
	if (way == EXEC)
		execl("/proc/self/exe", "test_mm", AFTER_EXEC, where, (char *)NULL);
	if (way == KILL)
		raise(SIGKILL);
	return way == EXIT ? 0 : 8;
}

/* Whoever ended so left nobody behind: helpers of its are handed to us, and end, too. */
static int only_waits(int want)
{
	int status, left = 0;

	while (wait(&status) > 0)
		left += status != 0;
	return left == want ? 0 : 1;
}

/* In a process of its own, that all its descendants are handed to. */
static int ends_and_leaves_nobody(void *way)
{
	char number[8];
	pid_t pid;

	snprintf(number, sizeof(number), "%d", *(int *)way);
	CHILD_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid = fork();
	CHILD_CHECK(pid >= 0);
	if (!pid) {
		execl("/proc/self/exe", "test_mm", END_BY, number, (char *)NULL);
		_exit(9);
	}
	alarm(900);
	CHILD_CHECK(only_waits(*(int *)way == KILL) == 0);
	return 0;
}

/* R38, R41: released by exit, exec and SIGKILL alike; its end is noticed, for the helper goes, too. */
static void end_of_the_process_R38_R41(void **state)
{
	for (int way = EXIT; way <= KILL; way++)
		if (check_child(ends_and_leaves_nobody, &way))
			fail_msg("way %d", way);
}

static bool there_is_a_supervisor(void)
{
	struct hf_probe p;

	for (unsigned i = 0; hf_proxy_probe(i, &p) == 0; i++) {
		if (strcmp(p.name, "supervise"))
			continue;
		if (p.available)
			print_message("skipped: %s\n", p.reason);
		return !p.available;
	}
	print_message("skipped: there is no proxy `supervise`\n");
	return false;
}

#define WITH_MEMORY(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(end_of_the_process_R38_R41), WITH_MEMORY(read_write_R37), WITH_MEMORY(read_only_R37), WITH_MEMORY(bytes_R37),
		WITH_MEMORY(null_R37_R43), WITH_MEMORY(overlapping_R37), WITH_MEMORY(veto_callback_retry_R34_R36),
		WITH_MEMORY(unknown_handles_R39),
		WITH_MEMORY(forked_child_R39), cmocka_unit_test(truncated_file_R42),
	};

	page = check_page();
	if (argc == 3 && !strcmp(argv[1], AFTER_EXEC))
		return after_exec(argv[2]);
	if (argc == 3 && !strcmp(argv[1], END_BY))
		return end_by((enum way)atoi(argv[2]));
	unsetenv("HOLDFAST");
	return there_is_a_supervisor() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
