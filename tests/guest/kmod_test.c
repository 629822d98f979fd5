/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * holdfast.ko, by its own interface: runs in the guest, as root, with the module loaded. TAP. With an argument only the
 * tests that have it in their name. FUZZ=n: so many calls by the fuzzer.
 *
 * A module that is built with BROKEN=y tells nothing: the tests of changes have to fail then. One that is built with
 * FAULTS=y has a parameter fail_nth, and the sweep over it runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <uapi/holdfast.h>

#define DEV "/dev/holdfast"
#define PAGE 4096ul
#define PAGES 16ul
#define SIZE (PAGES * PAGE)
#define HUGE (2ul << 20)
#define MODULE "/sys/module/holdfast/"

/* ------------------------------------------------------------------ checking */

static const char *test_name;
static int test_count, bad_here, bad_tests;

static void __attribute__((format(printf, 2, 3))) fail(int line, const char *format, ...)
{
	va_list ap;

	if (bad_here++ > 20)
		return;
	printf("# %s:%d: ", test_name, line);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
}

#define CHECK(cond, ...)                                  \
	do {                                              \
		if (!(cond))                              \
			fail(__LINE__, __VA_ARGS__);      \
	} while (0)
#define IS(got, want, what) CHECK((got) == (want), "%s: %ld, not %ld", what, (long)(got), (long)(want))
/* What the test stands on. */
#define MUST(cond)                                                                     \
	do {                                                                           \
		if (!(cond)) {                                                         \
			printf("Bail out! %s:%d: %s: %s\n", test_name, __LINE__, #cond, \
			       strerror(errno));                                       \
			exit(99);                                                      \
		}                                                                      \
	} while (0)

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void spin(unsigned us)
{
	uint64_t end = now_ns() + us * 1000ull;

	while (now_ns() < end)
		;
}

static unsigned rnd(unsigned *s)
{
	*s = *s * 1103515245u + 12345;
	return *s >> 8;
}

static long read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long n = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static void write_number(const char *path, long n)
{
	FILE *f = fopen(path, "w");

	MUST(f);
	MUST(fprintf(f, "%ld", n) > 0);
	MUST(fclose(f) == 0);
}

/* ------------------------------------------------------------------ the device */

struct dev {
	int fd;
	size_t length;
	const struct holdfast_head *head;
	const _Atomic uint64_t *words;
};

static void dev_open(struct dev *d)
{
	d->fd = open(DEV, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	MUST(d->fd >= 0);
	d->head = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, d->fd, 0);
	MUST(d->head != MAP_FAILED);
	d->length = d->head->length;
	munmap((void *)(uintptr_t)d->head, PAGE);
	d->head = mmap(NULL, d->length, PROT_READ, MAP_SHARED, d->fd, 0);
	MUST(d->head != MAP_FAILED);
	d->words = (const void *)((const char *)d->head + d->head->words);
}

static void dev_close(struct dev *d)
{
	munmap((void *)(uintptr_t)d->head, d->length);
	close(d->fd);
}

static int secure(int fd, const void *addr, size_t len, unsigned flags, struct holdfast_secure *s)
{
	*s = (struct holdfast_secure){ .size = sizeof(*s), .flags = flags, .start = (uintptr_t)addr,
				       .length = len, .mode = HOLDFAST_READONLY };
	return ioctl(fd, HOLDFAST_IOC_SECURE, s) ? -errno : 0;
}

static int unsecure(int fd, uint64_t id)
{
	struct holdfast_unsecure u = { .size = sizeof(u), .id = id };

	return ioctl(fd, HOLDFAST_IOC_UNSECURE, &u) ? -errno : 0;
}

static int query(int fd, uint64_t id, struct holdfast_query *q)
{
	*q = (struct holdfast_query){ .size = sizeof(*q), .id = id };
	return ioctl(fd, HOLDFAST_IOC_QUERY, q) ? -errno : 0;
}

static uint64_t word(const struct dev *d, const struct holdfast_secure *s)
{
	return atomic_load(&d->words[s->slot]);
}

static uint64_t changes(const struct dev *d)
{
	return atomic_load((const _Atomic uint64_t *)(uintptr_t)&d->head->changes);
}

/* How many were read; the first ones are in ev. */
static int events(int fd, struct holdfast_event *ev, int room)
{
	ssize_t n = read(fd, ev, (size_t)room * sizeof(*ev));

	return n < 0 ? -errno : (int)(n / (ssize_t)sizeof(*ev));
}

static void drain(int fd)
{
	struct holdfast_event ev[64];

	while (events(fd, ev, 64) > 0)
		;
}

/* ------------------------------------------------------------------ memory */

enum kind { ANON, SHARED_ANON, MEMFD, PRIVATE_FILE, SYSV, HUGETLB, KINDS };
static const char *const kind_name[] = { "private", "shared", "memfd", "private file", "SysV", "hugetlb" };

struct area {
	enum kind kind;
	char *p;
	size_t len, step; /* step: a page of this kind */
	int fd;
};

/* With a gap on each side, so that it is a mapping of its own. */
static char *reserve(size_t len, size_t align)
{
	char *p = mmap(NULL, len + 2 * align + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)p + 2 * align - 1) & ~(align - 1));

	MUST(p != MAP_FAILED);
	return at;
}

static bool map_into(struct area *a, char *at)
{
	int flags = MAP_FIXED | (a->kind == ANON || a->kind == PRIVATE_FILE ? MAP_PRIVATE : MAP_SHARED);

	if (a->kind == SYSV) {
		int id = shmget(IPC_PRIVATE, a->len, IPC_CREAT | 0600);

		MUST(id >= 0);
		a->p = shmat(id, at, SHM_REMAP);
		MUST(shmctl(id, IPC_RMID, NULL) == 0);
		return a->p == at;
	}
	if (a->kind == MEMFD || a->kind == PRIVATE_FILE || a->kind == HUGETLB) {
		a->fd = memfd_create("t", a->kind == HUGETLB ? MFD_HUGETLB : 0);
		if (a->fd < 0 || ftruncate(a->fd, (off_t)a->len))
			return false;
	}
	a->p = mmap(at, a->len, PROT_READ | PROT_WRITE, flags | (a->fd < 0 ? MAP_ANONYMOUS : 0), a->fd, 0);
	return a->p == at;
}

/* False: there is none of this kind here. */
static bool area_make(struct area *a, enum kind kind)
{
	size_t step = kind == HUGETLB ? HUGE : PAGE;

	*a = (struct area){ .kind = kind, .fd = -1, .step = step, .len = kind == HUGETLB ? 2 * HUGE : SIZE };
	if (!map_into(a, reserve(a->len, step))) {
		if (a->fd >= 0)
			close(a->fd);
		return false;
	}
	memset(a->p, 1, a->len);
	return true;
}

static void area_free(struct area *a)
{
	if (a->kind == SYSV)
		shmdt(a->p);
	munmap(a->p, a->len);
	if (a->fd >= 0)
		close(a->fd);
}

/* ------------------------------------------------------------------ changes */

/* Does it, 0; or -errno. */
typedef int (*change_fn)(struct area *a);

static int err(long rc)
{
	return rc == -1 ? -errno : 0;
}

static int c_munmap(struct area *a) { return err(munmap(a->p, a->len)); }
static int c_munmap_first(struct area *a) { return err(munmap(a->p, a->step)); }
static int c_munmap_mid(struct area *a) { return err(munmap(a->p + a->len / 2, a->step)); }
static int c_munmap_last(struct area *a) { return err(munmap(a->p + a->len - a->step, a->step)); }
static int c_munmap_around(struct area *a) { return err(munmap(a->p - a->step, a->len + 2 * a->step)); }
static int c_dontneed(struct area *a) { return err(madvise(a->p, a->len, MADV_DONTNEED)); }
static int c_free(struct area *a) { return err(madvise(a->p, a->len, MADV_FREE)); }
static int c_remove(struct area *a) { return err(madvise(a->p, a->len, MADV_REMOVE)); }
static int c_dontneed_locked(struct area *a) { return err(madvise(a->p, a->len, 24)); }
static int c_mprotect_read(struct area *a) { return err(mprotect(a->p, a->len, PROT_READ)); }
static int c_mprotect_none(struct area *a) { return err(mprotect(a->p + a->len / 2, a->step, PROT_NONE)); }
static int c_raw_munmap(struct area *a) { return err(syscall(SYS_munmap, a->p, a->len)); }
static int c_truncate(struct area *a) { return err(ftruncate(a->fd, 0)); }
static int c_shmdt(struct area *a) { return err(shmdt(a->p)); }

static int c_map_over(struct area *a)
{
	return mmap(a->p + a->len / 2, a->step, PROT_READ | PROT_WRITE,
		    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -errno : 0;
}

static int c_shrink(struct area *a)
{
	return mremap(a->p, a->len, a->len / 2, 0) == MAP_FAILED ? -errno : 0;
}

static int c_move(struct area *a)
{
	return mremap(a->p, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, reserve(a->len, a->step)) ==
	       MAP_FAILED ? -errno : 0;
}

static int c_move_dontunmap(struct area *a)
{
	return mremap(a->p, a->len, a->len, MREMAP_MAYMOVE | 4, NULL) == MAP_FAILED ? -errno : 0;
}

static int c_move_onto(struct area *a)
{
	char *q = mmap(NULL, a->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(q != MAP_FAILED);
	memset(q, 2, a->len);
	return mremap(q, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, a->p) == MAP_FAILED ? -errno : 0;
}

static int c_shm_remap(struct area *a)
{
	int id = shmget(IPC_PRIVATE, a->len, IPC_CREAT | 0600);
	int rc = shmat(id, a->p, SHM_REMAP) == (void *)-1 ? -errno : 0;

	shmctl(id, IPC_RMID, NULL);
	return rc;
}

static int c_remap_file_pages(struct area *a)
{
	return err(syscall(SYS_remap_file_pages, a->p, a->step, 0, 1, 0));
}

/* Guard pages: 6.13. */
static int c_guard(struct area *a)
{
	return err(madvise(a->p, a->len, 102));
}

static int c_punch(struct area *a)
{
	return err(fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)a->len / 2, (off_t)a->step));
}

static int c_unshare_page(struct area *a)
{
	int pipefd[2], st;
	char c = 0;
	pid_t pid;

	MUST(pipe(pipefd) == 0);
	pid = fork();
	if (!pid) {
		close(pipefd[1]);
		_exit(read(pipefd[0], &c, 1) != 0);
	}
	a->p[0] = 7; /* copy on write: the child has the old page */
	close(pipefd[1]);
	close(pipefd[0]);
	MUST(waitpid(pid, &st, 0) == pid);
	return 0;
}

#define K(kind) (1u << (kind))
#define ALL (K(KINDS) - 1)
#define FILES (K(MEMFD) | K(PRIVATE_FILE) | K(HUGETLB))

static const struct change {
	const char *name;
	change_fn fn;
	unsigned kinds;
	bool sealed; /* refused with HOLDFAST_DENY; of private memory */
} all_changes[] = {
	{ "munmap", c_munmap, ALL, true },
	{ "munmap of the first page", c_munmap_first, ALL, true },
	{ "munmap of one in the middle", c_munmap_mid, ALL, true },
	{ "munmap of the last page", c_munmap_last, ALL, true },
	{ "munmap of more", c_munmap_around, ALL, true },
	{ "munmap by syscall()", c_raw_munmap, ALL, true },
	{ "mmap over a part", c_map_over, ALL & ~K(HUGETLB), true },
	{ "mremap, smaller", c_shrink, ALL, true },
	{ "mremap, elsewhere", c_move, ALL, true },
	{ "mremap, MREMAP_DONTUNMAP", c_move_dontunmap, K(ANON), true },
	{ "mremap onto it", c_move_onto, ALL & ~K(HUGETLB), true },
	{ "mprotect to read only", c_mprotect_read, ALL, true },
	{ "mprotect of a page to none", c_mprotect_none, ALL, true },
	{ "MADV_DONTNEED", c_dontneed, ALL, false },
	{ "MADV_FREE", c_free, K(ANON), false },
	{ "MADV_REMOVE", c_remove, K(SHARED_ANON) | K(MEMFD) | K(SYSV), false },
	{ "MADV_DONTNEED_LOCKED", c_dontneed_locked, K(ANON) | K(MEMFD), false },
	{ "MADV_GUARD_INSTALL", c_guard, K(ANON), false },
	{ "shmdt", c_shmdt, K(SYSV), true },
	{ "shmat over it, SHM_REMAP", c_shm_remap, K(ANON) | K(MEMFD) | K(SYSV), true },
	{ "remap_file_pages", c_remap_file_pages, K(MEMFD), true },
	{ "truncation", c_truncate, FILES, false },
	{ "hole punch", c_punch, FILES & ~K(PRIVATE_FILE), false },
	{ "copy on write after fork", c_unshare_page, K(ANON), false },
};

#define CHANGES (sizeof(all_changes) / sizeof(all_changes[0]))

/* The kernel lacks it, here or for this kind. */
static bool is_absent(int rc)
{
	return rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ENOSYS;
}

/* What has to be so when a change has just returned. */
static void check_told(const struct dev *d, const struct holdfast_secure *s, uint64_t before, const char *what)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	struct holdfast_event ev[4];
	struct holdfast_query q;
	int n;

	CHECK(word(d, s) != s->word, "%s: the word stays %lu", what, (unsigned long)s->word);
	CHECK(word(d, s) & 1, "%s: the word is even", what);
	CHECK(changes(d) != before, "%s: the count of changes stays", what);
	IS(poll(&p, 1, 0), 1, what);
	n = events(d->fd, ev, 4);
	CHECK(n == 1, "%s: %d events", what, n);
	if (n >= 1) {
		CHECK(ev[0].id == s->id && !ev[0].flags, "%s: another range's event", what);
		CHECK(ev[0].start >= s->start && ev[0].end <= s->start + s->length && ev[0].start < ev[0].end,
		      "%s: event of %lx-%lx", what, (unsigned long)ev[0].start, (unsigned long)ev[0].end);
	}
	IS(events(d->fd, ev, 4), -EAGAIN, "a second event");
	IS(query(d->fd, s->id, &q), 0, "query");
	IS(q.changed, 1, what);
}

static void one_change(struct dev *d, const struct change *c, enum kind kind)
{
	struct holdfast_secure s;
	struct area a;
	uint64_t before;
	char what[80];
	int rc;

	if (!(c->kinds & K(kind)) || !area_make(&a, kind))
		return;
	snprintf(what, sizeof(what), "%s of %s memory", c->name, kind_name[kind]);
	IS(secure(d->fd, a.p, a.len, HOLDFAST_NOTIFY, &s), 0, what);
	CHECK(!(s.word & 1) && word(d, &s) == s.word, "%s: not armed", what);
	before = changes(d);
	rc = c->fn(&a);
	if (is_absent(rc))
		printf("# no %s here\n", what);
	else if (rc)
		CHECK(0, "%s: %s", what, strerror(-rc));
	else
		check_told(d, &s, before, what);
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	drain(d->fd);
	area_free(&a);
}

/* R25, R34: every change of every kind of memory, told before the call returns. */
static void t_changes(struct dev *d)
{
	for (size_t i = 0; i < CHANGES; i++)
		for (int k = 0; k < KINDS; k++)
			one_change(d, &all_changes[i], k);
}

/* ------------------------------------------------------------------ by another process */

static pid_t helper(int go[2], change_fn fn, struct area *a)
{
	char c;
	pid_t pid;

	MUST(pipe(go) == 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid)
		return pid;
	close(go[1]);
	_exit(read(go[0], &c, 1) == 1 ? fn(a) != 0 : 2);
}

static void foreign(struct dev *d, const char *what, change_fn fn, enum kind kind)
{
	struct holdfast_secure s;
	struct area a;
	uint64_t before;
	int go[2], st;
	pid_t pid;

	if (!area_make(&a, kind))
		return;
	pid = helper(go, fn, &a);
	IS(secure(d->fd, a.p, a.len, HOLDFAST_NOTIFY, &s), 0, what);
	before = changes(d);
	MUST(write(go[1], "x", 1) == 1);
	MUST(waitpid(pid, &st, 0) == pid && st == 0);
	check_told(d, &s, before, what);
	close(go[0]);
	close(go[1]);
	unsecure(d->fd, s.id);
	area_free(&a);
}

/* R25: the owner is told of what another process does to the file behind its memory. */
static void t_another_process(struct dev *d)
{
	foreign(d, "truncation by another process", c_truncate, MEMFD);
	foreign(d, "hole punch by another process", c_punch, MEMFD);
	foreign(d, "truncation of hugetlb by another", c_truncate, HUGETLB);
	foreign(d, "hole punch of hugetlb by another", c_punch, HUGETLB);
	foreign(d, "truncation of a private file by another", c_truncate, PRIVATE_FILE);
	foreign(d, "MADV_REMOVE of SysV by another", c_remove, SYSV);
	foreign(d, "MADV_REMOVE of shared memory by another", c_remove, SHARED_ANON);
}

/* ------------------------------------------------------------------ no false alarm */

static int n_other(struct area *a)
{
	struct area b;

	MUST(area_make(&b, ANON));
	area_free(&b);
	return 0;
}

static int n_neighbours(struct area *a)
{
	return err(munmap(a->p - a->step, a->step)) ? : err(munmap(a->p + a->len, a->step));
}

static int n_lock(struct area *a)
{
	return err(mlock(a->p, a->len)) ? : err(munlock(a->p, a->len));
}

static int n_advice(struct area *a)
{
	return err(madvise(a->p, a->len, MADV_DONTDUMP)) ? : err(madvise(a->p, a->len, MADV_DODUMP));
}

static int n_write(struct area *a)
{
	memset(a->p, 3, a->len);
	return 0;
}

static int n_fork(struct area *a)
{
	int st;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	return waitpid(pid, &st, 0) == pid && st == 0 ? 0 : -ECHILD;
}

static int n_close(struct area *a)
{
	close(a->fd);
	a->fd = -1;
	return 0;
}

/* Was nothing told? */
static bool is_silent(struct dev *d, const char *what, change_fn fn, enum kind kind)
{
	struct holdfast_secure s;
	struct holdfast_event ev;
	uint64_t before;
	struct area a;
	bool silent;

	MUST(area_make(&a, kind));
	IS(secure(d->fd, a.p, a.len, HOLDFAST_NOTIFY, &s), 0, what);
	before = changes(d);
	IS(fn(&a), 0, what);
	silent = word(d, &s) == s.word && changes(d) == before && events(d->fd, &ev, 1) == -EAGAIN;
	unsecure(d->fd, s.id);
	drain(d->fd);
	area_free(&a);
	return silent;
}

/* The kernel may have moved the very pages meanwhile, for reasons of its own: but not time after time. */
static void no_alarm(struct dev *d, const char *what, change_fn fn, enum kind kind)
{
	bool silent = false;

	for (int i = 0; i < 5 && !silent; i++)
		silent = is_silent(d, what, fn, kind);
	CHECK(silent, "%s: told for nothing", what);
}

/* R34: of secured memory only, and only of changes. */
static void t_no_alarm(struct dev *d)
{
	no_alarm(d, "munmap elsewhere", n_other, ANON);
	no_alarm(d, "munmap beside it", n_neighbours, ANON);
	no_alarm(d, "mlock", n_lock, ANON);
	no_alarm(d, "MADV_DONTDUMP", n_advice, ANON);
	no_alarm(d, "writing", n_write, ANON);
	no_alarm(d, "writing to a memfd", n_write, MEMFD);
	no_alarm(d, "fork of shared memory", n_fork, MEMFD);
	no_alarm(d, "close of the memfd", n_close, MEMFD);
}

/* ------------------------------------------------------------------ input */

/* R49: all that is asked is checked. */
static void t_secure_input(struct dev *d)
{
	struct holdfast_secure s;
	struct { struct holdfast_secure s; uint64_t tail[2]; } big;
	struct area a;
	char *bad;

	MUST(area_make(&a, ANON));
	bad = a.p;
#define TRY(want, what, ...)                                                                            \
	do {                                                                                            \
		struct holdfast_secure t = { .size = sizeof(t), .flags = HOLDFAST_NOTIFY,               \
					     .start = (uintptr_t)a.p, .length = SIZE,                   \
					     .mode = HOLDFAST_READWRITE };                              \
		int rc;                                                                                 \
		__VA_ARGS__;                                                                            \
		rc = ioctl(d->fd, HOLDFAST_IOC_SECURE, &t) ? -errno : 0;                                \
		IS(rc, want, what);                                                                     \
		if (!rc)                                                                                \
			IS(unsecure(d->fd, t.id), 0, "unsecure");                                       \
	} while (0)
	TRY(0, "good");
	TRY(0, "read only", t.mode = HOLDFAST_READONLY);
	TRY(-EINVAL, "size 0", t.size = 0);
	TRY(-EINVAL, "size 4", t.size = 4);
	TRY(-EINVAL, "one byte short", t.size = sizeof(t) - 1);
	TRY(-E2BIG, "a huge size", t.size = 1u << 20);
	TRY(-EINVAL, "no flags", t.flags = 0);
	TRY(-EINVAL, "unknown flag", t.flags |= 4);
	TRY(-EINVAL, "flag 31", t.flags |= 1u << 31);
	TRY(-EINVAL, "mode 0", t.mode = 0);
	TRY(-EINVAL, "mode 3", t.mode = 3);
	TRY(-EINVAL, "length 0", t.length = 0);
	TRY(-EINVAL, "unaligned start", t.start += 1);
	TRY(-EINVAL, "unaligned length", t.length += 1);
	TRY(-EINVAL, "wraps to 0", t.start = -PAGE; t.length = PAGE);
	TRY(-EINVAL, "wraps", t.start = -PAGE; t.length = 2 * PAGE);
	TRY(-EINVAL, "wraps far", t.length = -PAGE);
	TRY(-EFAULT, "a kernel address", t.start = 0xffff888000000000ul);
	TRY(-EFAULT, "the hole between", t.start = 1ul << 55);
	TRY(-EFAULT, "everything", t.start = 0; t.length = ~0ul & ~(PAGE - 1));
	TRY(-EFAULT, "all of user space", t.start = 0; t.length = 1ul << 46);
	TRY(-EFAULT, "NULL", t.start = 0; t.length = PAGE);
	TRY(-EACCES, "PROT_NONE", t.length += PAGE);
	MUST(munmap(a.p + 4 * PAGE, PAGE) == 0);
	TRY(-EFAULT, "a hole", t.mode = HOLDFAST_READONLY);
	MUST(mmap(a.p + 4 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == bad + 4 * PAGE);
	TRY(-EACCES, "a page that is read only", t.mode = HOLDFAST_READWRITE);
	TRY(0, "for reading", t.mode = HOLDFAST_READONLY);
#undef TRY
	memset(&big, 0, sizeof(big));
	big.s = (struct holdfast_secure){ .size = sizeof(big), .flags = HOLDFAST_NOTIFY, .start = (uintptr_t)a.p,
					  .length = PAGE, .mode = HOLDFAST_READWRITE };
	IS(ioctl(d->fd, HOLDFAST_IOC_SECURE, &big) ? -errno : 0, 0, "a tail of zeros");
	unsecure(d->fd, big.s.id);
	big.tail[1] = 1;
	IS(ioctl(d->fd, HOLDFAST_IOC_SECURE, &big) ? -errno : 0, -E2BIG, "a tail that isn't zero");
	IS(ioctl(d->fd, HOLDFAST_IOC_SECURE, NULL) ? -errno : 0, -EFAULT, "NULL");
	IS(ioctl(d->fd, HOLDFAST_IOC_SECURE, (void *)-8l) ? -errno : 0, -EFAULT, "a kernel pointer");
	IS(ioctl(d->fd, _IO(HOLDFAST_TYPE, 3), &s) ? -errno : 0, -ENOTTY, "number 3");
	IS(ioctl(d->fd, _IO(HOLDFAST_TYPE, 255), &s) ? -errno : 0, -ENOTTY, "number 255");
	IS(ioctl(d->fd, _IOR(HOLDFAST_TYPE, 0, int), &s) ? -errno : 0, -ENOTTY, "another size");
	IS(ioctl(d->fd, _IO(0xBD, 0), &s) ? -errno : 0, -ENOTTY, "another type");
	/* Can be read, not written: nothing is left secured. */
	{
		struct holdfast_secure *ro = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t w;

		MUST(ro != MAP_FAILED);
		IS(secure(d->fd, a.p, PAGE, HOLDFAST_NOTIFY, &s), 0, "secure");
		unsecure(d->fd, s.id);
		w = word(d, &s);
		*ro = (struct holdfast_secure){ .size = sizeof(*ro), .flags = HOLDFAST_NOTIFY, .start = (uintptr_t)a.p,
						.length = PAGE, .mode = HOLDFAST_READONLY };
		MUST(mprotect(ro, PAGE, PROT_READ) == 0);
		IS(ioctl(d->fd, HOLDFAST_IOC_SECURE, ro) ? -errno : 0, -EFAULT, "an answer that can't be written");
		CHECK(word(d, &s) & 1 && word(d, &s) != w, "the range stayed");
	}
	area_free(&a);
}

/* R39, R49: an id is good once, for its file. */
static void t_unsecure_input(struct dev *d)
{
	struct holdfast_unsecure u = { .size = sizeof(u) };
	struct holdfast_secure s;
	struct holdfast_query q;
	struct area a;

	MUST(area_make(&a, ANON));
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s), 0, "secure");
	IS(query(d->fd, s.id, &q), 0, "query");
	CHECK(q.start == s.start && q.length == SIZE && q.flags == HOLDFAST_NOTIFY && q.mode == HOLDFAST_READONLY &&
	      q.word == s.word && !q.changed, "query");
	IS(unsecure(d->fd, 0), -ENOENT, "id 0");
	IS(unsecure(d->fd, s.id + 1), -ENOENT, "another id");
	IS(unsecure(d->fd, s.id ^ 1ull << 32), -ENOENT, "an older one of the slot");
	IS(query(d->fd, s.id ^ 1ull << 63, &q), -ENOENT, "another id");
	u.id = s.id;
	u.flags = 1;
	IS(ioctl(d->fd, HOLDFAST_IOC_UNSECURE, &u) ? -errno : 0, -EINVAL, "a flag");
	u.flags = 0;
	u.size = 8;
	IS(ioctl(d->fd, HOLDFAST_IOC_UNSECURE, &u) ? -errno : 0, -EINVAL, "short");
	q = (struct holdfast_query){ .size = sizeof(q), .flags = 1, .id = s.id };
	IS(ioctl(d->fd, HOLDFAST_IOC_QUERY, &q) ? -errno : 0, -EINVAL, "a flag");
	IS(ioctl(d->fd, HOLDFAST_IOC_QUERY, NULL) ? -errno : 0, -EFAULT, "NULL");
	CHECK(word(d, &s) == s.word, "the word moved");
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	CHECK(word(d, &s) & 1, "an even word after unsecure");
	IS(unsecure(d->fd, s.id), -ENOENT, "twice");
	IS(query(d->fd, s.id, &q), -ENOENT, "query after unsecure");
	{
		struct holdfast_secure again;

		IS(secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &again), 0, "again");
		CHECK(again.slot == s.slot && again.id != s.id && again.word != s.word, "the same id or word again");
		IS(unsecure(d->fd, s.id), -ENOENT, "the old id");
		IS(unsecure(d->fd, again.id), 0, "unsecure");
	}
	area_free(&a);
}

static void t_map(struct dev *d)
{
	size_t all = d->head->length;
	struct holdfast_secure s;
	struct area a;
	char *p;

#define MAP(len, prot, flags, off) \
	(p = mmap(NULL, len, prot, flags, d->fd, (off_t)(off)), p == MAP_FAILED ? -errno : (munmap(p, len), 0))
	IS(d->head->version, HOLDFAST_VERSION, "version");
	IS(all, PAGE + (d->head->ranges + 511) / 512 * PAGE, "length");
	IS(d->head->words, PAGE, "words");
	IS(MAP(PAGE, PROT_READ, MAP_SHARED, 0), 0, "one page");
	IS(MAP(all, PROT_READ, MAP_SHARED, 0), 0, "all");
	IS(MAP(PAGE, PROT_READ, MAP_SHARED, all - PAGE), 0, "the last page");
	IS(MAP(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0), -EPERM, "to be written");
	IS(MAP(PAGE, PROT_WRITE, MAP_SHARED, 0), -EPERM, "to be written only");
	IS(MAP(PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, 0), -EPERM, "to be executed");
	IS(MAP(PAGE, PROT_READ, MAP_PRIVATE, 0), -EINVAL, "privately");
	IS(MAP(all + PAGE, PROT_READ, MAP_SHARED, 0), -EINVAL, "more");
	IS(MAP(2 * PAGE, PROT_READ, MAP_SHARED, all - PAGE), -EINVAL, "past the end");
	IS(MAP(PAGE, PROT_READ, MAP_SHARED, all), -EINVAL, "behind the end");
	IS(MAP(PAGE, PROT_READ, MAP_SHARED, 1ul << 60), -EINVAL, "far behind the end");
#undef MAP
	IS(err(mprotect((void *)(uintptr_t)d->head, PAGE, PROT_READ | PROT_WRITE)), -EACCES, "mprotect");
	/* Secured itself: odd, but nobody's harm. */
	IS(secure(d->fd, d->head, PAGE, HOLDFAST_NOTIFY, &s), 0, "the words themselves");
	unsecure(d->fd, s.id);
	/* A second mapping shows the same. */
	MUST(area_make(&a, ANON));
	p = mmap(NULL, all, PROT_READ, MAP_SHARED, d->fd, 0);
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s), 0, "secure");
	CHECK(atomic_load((_Atomic uint64_t *)(uintptr_t)(p + PAGE) + s.slot) == s.word, "a second mapping");
	unsecure(d->fd, s.id);
	munmap(p, all);
	area_free(&a);
}

/* ------------------------------------------------------------------ events */

static void t_events(struct dev *d)
{
	struct holdfast_secure s[3];
	struct holdfast_event ev[8], *ro;
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	struct area a;

	MUST(area_make(&a, ANON));
	ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	IS(poll(&p, 1, 0), 0, "poll at rest");
	IS(events(d->fd, ev, 8), -EAGAIN, "read at rest");
	IS(read(d->fd, ev, 0) < 0 ? -errno : 0, -EINVAL, "read of 0");
	IS(read(d->fd, ev, sizeof(ev[0]) - 1) < 0 ? -errno : 0, -EINVAL, "read of less than one");
	IS(pread(d->fd, ev, sizeof(ev), 0) < 0 ? -errno : 0, -ESPIPE, "pread");
	for (int i = 0; i < 3; i++)
		IS(secure(d->fd, a.p + 2ul * (size_t)i * PAGE, 4 * PAGE, HOLDFAST_NOTIFY, &s[i]), 0, "secure");
	/* Pages 3 and 5; ranges 0-3, 2-5, 4-7. */
	madvise(a.p + 5 * PAGE, PAGE, MADV_DONTNEED);
	madvise(a.p + 3 * PAGE, PAGE, MADV_DONTNEED);
	CHECK(word(d, &s[0]) != s[0].word && word(d, &s[1]) != s[1].word && word(d, &s[2]) != s[2].word, "words");
	IS(poll(&p, 1, 0), 1, "poll");
	IS(events(d->fd, ev, 1), 1, "one");
	IS(events(d->fd, ev + 1, 7), 2, "the others");
	for (int i = 0; i < 3; i++) {
		uintptr_t from = (uintptr_t)a.p + (ev[i].id == s[2].id ? 5 : 3) * PAGE;
		uintptr_t to = (uintptr_t)a.p + (ev[i].id == s[0].id ? 4 : 6) * PAGE;

		CHECK(ev[i].start == from && ev[i].end == to, "event %d: what changed", i);
	}
	IS(events(d->fd, ev, 8), -EAGAIN, "read again");
	/* A second change of a range is told, too. */
	madvise(a.p, PAGE, MADV_DONTNEED);
	IS(events(d->fd, ev, 8), 1, "a second change");
	/* Dropped with the range. */
	madvise(a.p, PAGE, MADV_DONTNEED);
	IS(unsecure(d->fd, s[0].id), 0, "unsecure");
	IS(events(d->fd, ev, 8), -EAGAIN, "of a range that was let go");
	/* Lost: everything has changed. */
	madvise(a.p + 2 * PAGE, PAGE, MADV_DONTNEED);
	IS(events(d->fd, ro, 8), -EFAULT, "into read-only memory");
	IS(poll(&p, 1, 0), 1, "poll after a loss");
	IS(events(d->fd, ev, 8), 1, "read after a loss");
	CHECK(ev[0].flags == HOLDFAST_EVENT_ALL && !ev[0].id && !ev[0].start && ev[0].end == UINT64_MAX, "lost");
	IS(events(d->fd, ev, 8), -EAGAIN, "read again");
	unsecure(d->fd, s[1].id);
	unsecure(d->fd, s[2].id);
	munmap(ro, PAGE);
	area_free(&a);
}

struct reader {
	int fd;
	int got;
	struct holdfast_event ev;
};

static void *read_one(void *p)
{
	struct reader *r = p;

	r->got = events(r->fd, &r->ev, 1);
	return NULL;
}

/* A read that waits is woken by a change. */
static void t_blocking_read(struct dev *unused)
{
	struct reader r = { .fd = open(DEV, O_RDWR | O_CLOEXEC) };
	struct holdfast_secure s;
	struct area a;
	pthread_t t;

	MUST(r.fd >= 0 && area_make(&a, ANON));
	IS(secure(r.fd, a.p, SIZE, HOLDFAST_NOTIFY, &s), 0, "secure");
	MUST(pthread_create(&t, NULL, read_one, &r) == 0);
	for (int i = 0; i < 20; i++)
		sched_yield();
	munmap(a.p, PAGE);
	pthread_join(t, NULL); /* or its time ends it */
	IS(r.got, 1, "read");
	CHECK(r.ev.id == s.id, "the event");
	close(r.fd);
	area_free(&a);
}

/* ------------------------------------------------------------------ deny */

static int run_sealed(struct dev *d, const struct change *c, struct area *a, const struct holdfast_secure *s)
{
	struct holdfast_event ev;
	int rc = c->fn(a);

	if (c->sealed) {
		IS(rc, -EPERM, c->name);
		for (size_t i = 0; i < a->len; i += PAGE)
			CHECK(a->p[i] == 1, "%s: page %zu is lost", c->name, i / PAGE);
		CHECK(word(d, s) == s->word, "%s: told, though refused", c->name);
		IS(events(d->fd, &ev, 1), -EAGAIN, c->name);
	} else if (!rc) {
		CHECK(word(d, s) != s->word, "%s: not told", c->name);
	}
	return rc;
}

static void t_deny_changes(struct dev *d)
{
	for (size_t i = 0; i < CHANGES; i++) {
		const struct change *c = &all_changes[i];
		struct holdfast_secure s;
		struct area a;

		if (!(c->kinds & K(ANON)))
			continue;
		MUST(area_make(&a, ANON));
		IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY | HOLDFAST_NOTIFY, &s), 0, c->name);
		run_sealed(d, c, &a, &s);
		IS(unsecure(d->fd, s.id), 0, "unsecure");
		if (c->sealed)
			IS(c->fn(&a), 0, c->name);
		drain(d->fd);
		area_free(&a);
	}
}

static void t_deny_counts(struct dev *d)
{
	struct holdfast_secure s[4];
	struct dev e;
	struct area a;

	MUST(area_make(&a, ANON));
	IS(secure(d->fd, a.p + PAGE, PAGE, HOLDFAST_DENY, &s[0]), -EINVAL, "a part of a mapping");
	IS(secure(d->fd, a.p, SIZE + PAGE, HOLDFAST_DENY, &s[0]), -EACCES, "more than is mapped for reading");
	/* Split first. */
	MUST(madvise(a.p + 4 * PAGE, 4 * PAGE, MADV_DONTDUMP) == 0);
	IS(secure(d->fd, a.p + 4 * PAGE, 4 * PAGE, HOLDFAST_DENY, &s[0]), 0, "a split one");
	IS(err(munmap(a.p + 3 * PAGE, PAGE)), 0, "munmap of a neighbour");
	IS(err(munmap(a.p + 4 * PAGE, PAGE)), -EPERM, "munmap of what is denied");
	/* Twice, by two files, and a part of it. */
	dev_open(&e);
	IS(secure(e.fd, a.p + 4 * PAGE, 4 * PAGE, HOLDFAST_DENY, &s[1]), 0, "by another file");
	IS(secure(d->fd, a.p + 5 * PAGE, PAGE, HOLDFAST_DENY, &s[2]), 0, "a part of what is sealed");
	IS(unsecure(d->fd, s[0].id), 0, "unsecure");
	IS(err(munmap(a.p + 4 * PAGE, PAGE)), -EPERM, "munmap, one of three let go");
	dev_close(&e);
	IS(err(munmap(a.p + 4 * PAGE, PAGE)), -EPERM, "munmap, two of three");
	IS(unsecure(d->fd, s[2].id), 0, "unsecure");
	IS(err(munmap(a.p + 4 * PAGE, PAGE)), 0, "munmap, all let go");
	area_free(&a);
}

/* Two that are sealed become one mapping: it stays sealed until both are let go. */
static void t_deny_merged(struct dev *d)
{
	struct holdfast_secure s[2];
	struct area a;

	MUST(area_make(&a, ANON));
	MUST(madvise(a.p, SIZE / 2, MADV_DONTDUMP) == 0);
	IS(secure(d->fd, a.p, SIZE / 2, HOLDFAST_DENY, &s[0]), 0, "the first half");
	IS(secure(d->fd, a.p + SIZE / 2, SIZE / 2, HOLDFAST_DENY, &s[1]), 0, "the second");
	MUST(madvise(a.p, SIZE / 2, MADV_DODUMP) == 0);
	IS(unsecure(d->fd, s[0].id), 0, "unsecure");
	IS(err(munmap(a.p + SIZE / 2, PAGE)), -EPERM, "munmap of what is denied");
	IS(unsecure(d->fd, s[1].id), 0, "unsecure");
	IS(err(munmap(a.p, SIZE)), 0, "munmap of all");
	area_free(&a);
}

static int do_mseal(void *p, size_t len)
{
	return err(syscall(462, p, len, 0));
}

static void t_deny_mseal(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;

	MUST(area_make(&a, ANON));
	if (do_mseal(a.p, SIZE / 2)) {
		area_free(&a);
		return;
	}
	IS(secure(d->fd, a.p, SIZE / 2, HOLDFAST_DENY, &s), -EPERM, "what is sealed for good");
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY, &s), -EPERM, "what is sealed in part");
	IS(err(munmap(a.p + SIZE / 2, PAGE)), 0, "munmap beside it: nothing was left sealed");
	IS(secure(d->fd, a.p, SIZE / 2, HOLDFAST_NOTIFY, &s), 0, "notify");
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	IS(err(munmap(a.p, PAGE)), -EPERM, "munmap of what is sealed");
	/* Merged with what is ours: stays as it is. */
	IS(secure(d->fd, a.p + SIZE / 2 + PAGE, SIZE / 2 - PAGE, HOLDFAST_DENY, &s), 0, "the rest");
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	IS(err(munmap(a.p, PAGE)), -EPERM, "munmap of what is sealed");
	IS(err(munmap(a.p + SIZE - PAGE, PAGE)), 0, "munmap of what was denied");
}

/* R39: a child has the seal with its copy, and can't take it off; the parent can. */
static void t_deny_fork(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;
	pid_t pid;
	int st;

	MUST(area_make(&a, ANON));
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY, &s), 0, "secure");
	pid = fork();
	if (!pid)
		_exit((munmap(a.p, SIZE) == 0) | (unsecure(d->fd, s.id) != -EPERM) << 1);
	MUST(waitpid(pid, &st, 0) == pid);
	IS(st, 0, "the child");
	IS(err(munmap(a.p, SIZE)), -EPERM, "munmap by the parent");
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	IS(err(munmap(a.p, SIZE)), 0, "munmap");
	area_free(&a);
}

static void t_deny_close(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;
	int fd = open(DEV, O_RDWR | O_CLOEXEC);

	MUST(area_make(&a, MEMFD));
	IS(secure(fd, a.p, SIZE, HOLDFAST_DENY, &s), 0, "secure");
	IS(err(munmap(a.p, SIZE)), -EPERM, "munmap");
	close(fd);
	IS(err(munmap(a.p, SIZE)), 0, "munmap after the close");
	area_free(&a);
}

/* The last to have the file is a child: it opens what it doesn't own, in the parent's address space (R40). */
static void t_deny_close_by_child(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;
	int fd = open(DEV, O_RDWR), go[2], st;
	pid_t pid;
	char c;

	MUST(area_make(&a, ANON));
	IS(secure(fd, a.p, SIZE, HOLDFAST_DENY | HOLDFAST_NOTIFY, &s), 0, "secure");
	MUST(pipe(go) == 0);
	pid = fork();
	if (!pid) {
		close(go[1]);
		_exit(read(go[0], &c, 1) != 0);
	}
	close(fd);
	IS(err(munmap(a.p, SIZE)), -EPERM, "munmap while the child has the file");
	close(go[1]);
	MUST(waitpid(pid, &st, 0) == pid && st == 0);
	IS(err(munmap(a.p, SIZE)), 0, "munmap after it");
	close(go[0]);
	area_free(&a);
}

/* R37: what a seal doesn't refuse is told, when it was asked for: the pages have gone, the word says so. */
static void t_deny_tells(struct dev *d)
{
	static const change_fn fns[] = { c_dontneed, c_free };
	struct holdfast_secure s;
	struct area a;
	uint64_t before;

	for (size_t i = 0; i < sizeof(fns) / sizeof(fns[0]); i++) {
		MUST(area_make(&a, ANON));
		IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY | HOLDFAST_NOTIFY, &s), 0, "secure");
		before = changes(d);
		IS(fns[i](&a), 0, "emptied, though denied");
		check_told(d, &s, before, i ? "MADV_FREE" : "MADV_DONTNEED");
		IS(err(munmap(a.p, SIZE)), -EPERM, "munmap after it");
		IS(unsecure(d->fd, s.id), 0, "unsecure");
		area_free(&a);
	}
}

/* Asked on a kernel without the seal: a clean answer, and nothing is left of it. */
static void no_seal(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;

	printf("# this kernel has no seal: deny is -EOPNOTSUPP\n");
	MUST(area_make(&a, ANON));
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY, &s), -EOPNOTSUPP, "deny");
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_DENY | HOLDFAST_NOTIFY, &s), -EOPNOTSUPP, "both");
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s), 0, "notify alone");
	IS(err(mprotect(a.p, SIZE, PROT_READ)), 0, "mprotect");
	IS(err(munmap(a.p, SIZE)), 0, "munmap");
	IS(unsecure(d->fd, s.id), 0, "unsecure");
	drain(d->fd);
	area_free(&a);
}

static bool has_deny(struct dev *d)
{
	if (d->head->features & HOLDFAST_HAS_DENY)
		return true;
	no_seal(d);
	return false;
}

/* R37: freeing and stricter protection of any part are refused, in every way there is, and no byte is lost. */
static void t_deny(struct dev *d)
{
	if (!has_deny(d))
		return;
	t_deny_changes(d);
	t_deny_tells(d);
}

/* R37: overlapping ones, merged mappings, and what the program has sealed for good by itself. */
static void t_deny_overlaps(struct dev *d)
{
	if (!has_deny(d))
		return;
	t_deny_counts(d);
	t_deny_merged(d);
	t_deny_mseal(d);
}

/* R39, of denied memory. */
static void t_child_unseals(struct dev *d)
{
	if (has_deny(d))
		t_deny_fork(d);
}

/* R38: let go by unsecure, by the last close, also when a child is the one that closes. */
static void t_deny_released(struct dev *d)
{
	if (!has_deny(d))
		return;
	t_deny_close(d);
	t_deny_close_by_child(d);
}

/* ------------------------------------------------------------------ life */

static long refcnt(void)
{
	return read_number(MODULE "refcnt");
}

/* All of it that a process may be in the middle of. */
static void wait_refcnt(long want, const char *what)
{
	for (int i = 0; i < 12000 && refcnt() != want; i++)
		usleep(10000);
	IS(refcnt(), want, what);
}

/* What another process with the descriptor can do: nothing (R39). */
static int try_all(const struct dev *d, const struct area *a, uint64_t id)
{
	struct holdfast_event ev[2];
	struct holdfast_secure s;
	struct holdfast_query q;
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	int bad = 0;

	bad |= (secure(d->fd, a->p, SIZE, HOLDFAST_NOTIFY, &s) != -EPERM) << 0;
	bad |= (unsecure(d->fd, id) != -EPERM) << 1;
	bad |= (query(d->fd, id, &q) != -EPERM) << 2;
	bad |= (events(d->fd, ev, 2) != -EPERM) << 3;
	bad |= (mmap(NULL, PAGE, PROT_READ, MAP_SHARED, d->fd, 0) != MAP_FAILED || errno != EPERM) << 4;
	bad |= (poll(&p, 1, 0) != 1 || (p.revents & POLLIN) || !(p.revents & POLLERR)) << 5;
	return bad;
}

/* R39: a forked child can't release, look at or take anything; R40: and the parent notices nothing of it. */
static void t_child(struct dev *d)
{
	struct holdfast_secure s;
	struct holdfast_event ev;
	struct area a;
	pid_t pid;
	int st;

	MUST(area_make(&a, MEMFD));
	IS(secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s), 0, "secure");
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(try_all(d, &a, s.id));
	MUST(waitpid(pid, &st, 0) == pid);
	IS(st, 0, "what the child could do");
	/* The words aren't there in a child. */
	pid = fork();
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		_exit((int)d->head->version);
	}
	MUST(waitpid(pid, &st, 0) == pid);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV, "the child reads the words");
	CHECK(word(d, &s) == s.word, "the parent's range changed");
	IS(events(d->fd, &ev, 1), -EAGAIN, "an event");
	/* The child's own unmap is none of it. */
	pid = fork();
	if (!pid)
		_exit(munmap(a.p, SIZE) != 0);
	MUST(waitpid(pid, &st, 0) == pid);
	CHECK(word(d, &s) == s.word, "told of the child's munmap");
	unsecure(d->fd, s.id);
	area_free(&a);
}

/*
 * R39: the program that a child executes has the descriptor, and an address space that is no copy of the owner's. It is
 * told the number of the range, and can't let it go.
 */
static void t_another_program(struct dev *d)
{
	unsigned deny = d->head->features & HOLDFAST_HAS_DENY ? HOLDFAST_DENY : 0;
	struct holdfast_secure s;
	char fd_text[16], id_text[24];
	struct area a;
	pid_t pid;
	int fd = open(DEV, O_RDWR), st;

	MUST(fd >= 0 && area_make(&a, ANON));
	IS(secure(fd, a.p, SIZE, HOLDFAST_NOTIFY | deny, &s), 0, "secure");
	snprintf(fd_text, sizeof(fd_text), "%d", fd);
	snprintf(id_text, sizeof(id_text), "%llu", (unsigned long long)s.id);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl("/proc/self/exe", "kmod_test", "--try", fd_text, id_text, (char *)NULL);
		_exit(98);
	}
	MUST(waitpid(pid, &st, 0) == pid);
	IS(st, 0, "what the executed program could do");
	if (deny)
		IS(err(munmap(a.p, SIZE)), -EPERM, "munmap after it");
	IS(unsecure(fd, s.id), 0, "unsecure by the owner");
	close(fd);
	area_free(&a);
}

static int executed(char **argv)
{
	struct dev d = { .fd = atoi(argv[2]) };
	struct area a;

	MUST(area_make(&a, ANON));
	return try_all(&d, &a, strtoull(argv[3], NULL, 0));
}

enum end { EXIT, KILLED, EXEC, EXECED_WITH_FD, ENDS };
static const char *const end_name[] = { "exit", "SIGKILL", "exec", "exec with the descriptor" };

static void end_with(enum end how, bool deny)
{
	int fd = open(DEV, O_RDWR | (how == EXECED_WITH_FD ? 0 : O_CLOEXEC));
	struct holdfast_secure s;
	struct area a;

	for (int i = 0; i < 100; i++)
		if (!area_make(&a, i % KINDS) ? i % KINDS != HUGETLB :
		    secure(fd, a.p, a.len, HOLDFAST_NOTIFY | (deny ? HOLDFAST_DENY : 0), &s))
			_exit(3);
	if (mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		_exit(4);
	if (how == KILLED)
		raise(SIGKILL);
	if (how >= EXEC)
		execl("/proc/self/exe", "kmod_test", "--ok", (char *)NULL);
	_exit(0);
}

/* R38: nothing is left of what a process had, however it ends; the module's references say so. */
static void t_ends(struct dev *d)
{
	for (int deny = 0; deny <= !!(d->head->features & HOLDFAST_HAS_DENY); deny++)
		for (int how = 0; how < ENDS; how++) {
			pid_t pid = fork();
			int st;

			if (!pid)
				end_with(how, deny);
			MUST(waitpid(pid, &st, 0) == pid);
			CHECK(how == KILLED ? WIFSIGNALED(st) : st == 0, "%s: status %x", end_name[how], st);
			wait_refcnt(1, end_name[how]); /* the test's own */
		}
}

/*
 * R41: a child of the owner's has the descriptor and waits. When the owner ends, in whichever way, poll says so, though
 * the file is still open: exit code 0.
 */
static void watch_the_end(int fd, int told)
{
	struct pollfd p = { .fd = fd };
	char c = 1;

	for (int i = 0; i < 12000; i++) {
		if (poll(&p, 1, 10) == 1 && (p.revents & POLLHUP)) {
			c = 0;
			break;
		}
		usleep(10000); /* POLLERR is there all the time: it isn't the owner */
	}
	if (write(told, &c, 1) != 1)
		_exit(1);
	_exit(0);
}

static void end_watched(enum end how, bool deny, const int told[2])
{
	struct holdfast_secure s;
	struct area a;
	int fd = open(DEV, O_RDWR);

	if (fd < 0 || !area_make(&a, ANON) ||
	    secure(fd, a.p, a.len, HOLDFAST_NOTIFY | (deny ? HOLDFAST_DENY : 0), &s))
		_exit(3);
	if (fork() == 0) {
		close(told[0]);
		watch_the_end(fd, told[1]);
	}
	close(told[1]);
	if (how == KILLED)
		raise(SIGKILL);
	if (how >= EXEC)
		execl("/proc/self/exe", "kmod_test", "--ok", (char *)NULL);
	_exit(0);
}

/* R41: at exit, SIGKILL and exec. */
static void t_end_is_noticed(struct dev *d)
{
	bool deny = d->head->features & HOLDFAST_HAS_DENY;

	for (int how = 0; how < EXECED_WITH_FD; how++) {
		int told[2], st;
		char c = 2;
		pid_t pid;

		MUST(pipe(told) == 0);
		fflush(stdout);
		pid = fork();
		if (!pid)
			end_watched(how, deny, told);
		close(told[1]);
		MUST(waitpid(pid, &st, 0) == pid);
		CHECK(how == KILLED ? WIFSIGNALED(st) : st == 0, "%s: status %x", end_name[how], st);
		MUST(read(told[0], &c, 1) == 1);
		CHECK(!c, "%s: not noticed by a poll", end_name[how]);
		close(told[0]);
		wait_refcnt(1, end_name[how]);
	}
}

/*
 * A process that ends in one way or the other, while its child, which has the descriptor, lets it go: the end of the
 * owner and the release of the file meet (R38, R41).
 */
static void one_end(unsigned seed, bool deny)
{
	int fd = open(DEV, O_RDWR), n = (int)(rnd(&seed) % 8);
	struct holdfast_secure s;
	struct area a;

	if (fd < 0)
		_exit(3);
	for (int i = 0; i < n; i++)
		if (area_make(&a, i % 2 ? ANON : MEMFD))
			secure(fd, a.p, a.len, HOLDFAST_NOTIFY | (deny && i % 3 == 0 ? HOLDFAST_DENY : 0), &s);
	if (rnd(&seed) % 2)
		mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (rnd(&seed) % 4 && fork() == 0) {
		spin(rnd(&seed) % 2000);
		_exit(0);
	}
	if (rnd(&seed) % 4 == 0)
		close(fd);
	spin(rnd(&seed) % 1000);
	switch (rnd(&seed) % 3) {
	case 0:
		raise(SIGKILL);
		break;
	case 1:
		execl("/proc/self/exe", "kmod_test", "--ok", (char *)NULL);
	}
	_exit(0);
}

/* R38, R41: many at once, in every order; all is given back, and no end is missed. */
static void t_end_storm(struct dev *d)
{
	bool deny = d->head->features & HOLDFAST_HAS_DENY;
	uint64_t end = now_ns() + 3000000000ull;
	unsigned n = 0, running = 0;
	int st;

	fflush(stdout);
	while (now_ns() < end || running) {
		if (running < 6 && now_ns() < end) {
			if (fork() == 0)
				one_end(n, deny);
			n++;
			running++;
			continue;
		}
		MUST(wait(&st) > 0);
		running--;
		CHECK(WIFSIGNALED(st) ? WTERMSIG(st) == SIGKILL : WEXITSTATUS(st) == 0, "status %x", st);
	}
	printf("# %u processes ended\n", n);
	wait_refcnt(1, "references after them");
}

static int as_user(uid_t uid)
{
	return syscall(SYS_setresuid, uid, uid, uid) ? -errno : 0;
}

/* Secures n ranges of one page; how many could be. */
static int secure_many(int fd, int n, int *last)
{
	char *p = mmap(NULL, (size_t)n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct holdfast_secure s;
	int done = 0;

	while (done < n && (*last = secure(fd, p + (size_t)done * PAGE, PAGE, HOLDFAST_NOTIFY, &s)) == 0)
		done++;
	return done;
}

static int in_child(int (*fn)(void *), void *arg)
{
	int st;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(fn(arg));
	MUST(waitpid(pid, &st, 0) == pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

static int limit_child(void *arg)
{
	int fd, fd2, last = 0, n;

	if (as_user(1234))
		return 2;
	fd = open(DEV, O_RDWR);
	fd2 = open(DEV, O_RDWR);
	if (fd < 0 || fd2 < 0)
		return 3;
	n = secure_many(fd, 60, &last) + secure_many(fd2, 60, &last);
	if (n != 100 || last != -EDQUOT)
		return 4;
	close(fd);
	return secure_many(fd2, 60, &last) == 60 ? 0 : 5;
}

static int other_user(void *arg)
{
	int fd, last = 0;

	if (as_user(1235))
		return 2;
	fd = open(DEV, O_RDWR);
	return fd >= 0 && secure_many(fd, 50, &last) == 50 ? 0 : 5;
}

static int opens_child(void *arg)
{
	int n = 0;

	if (as_user(1234))
		return 2;
	while (n < 20 && open(DEV, O_RDWR) >= 0)
		n++;
	return n == 10 && errno == EDQUOT ? 0 : 4;
}

/*
 * A process that ends gives all back at once, though its child still has the descriptor (R38, R41): the grandchild
 * waits at a pipe, the child has used up the user's limit.
 */
static int leaver(void *arg)
{
	int *go = arg, last = 0, fd;
	char c;

	if (as_user(1234))
		return 2;
	fd = open(DEV, O_RDWR);
	if (fd < 0 || secure_many(fd, 101, &last) != 100)
		return 3;
	if (fork() == 0) {
		close(go[1]);
		_exit(read(go[0], &c, 1) != 0);
	}
	return 0;
}

static int all_can_be_had(void *arg)
{
	int last = 0, fd, n = 0;

	if (as_user(1234))
		return 2;
	fd = open(DEV, O_RDWR);
	if (fd < 0)
		return 3;
	for (int i = 0; i < 12000 && n < 100; i++) {
		n += secure_many(fd, 100 - n, &last);
		usleep(10000);
	}
	return n == 100 ? 0 : 4;
}

/* R38, R41: what a user can have, and that an end gives it back. */
static void t_limits(struct dev *d)
{
	long ranges = read_number(MODULE "parameters/max_ranges"), opens = read_number(MODULE "parameters/max_opens");
	int go[2];

	MUST(chmod(DEV, 0666) == 0);
	write_number(MODULE "parameters/max_ranges", 100);
	write_number(MODULE "parameters/max_opens", 10);
	IS(in_child(limit_child, NULL), 0, "the limit of a user's ranges");
	IS(in_child(opens_child, NULL), 0, "the limit of a user's opens");
	MUST(pipe(go) == 0);
	IS(in_child(leaver, go), 0, "a process that leaves its descriptor to a child");
	IS(refcnt(), 2, "references: the test's, the grandchild's");
	IS(in_child(all_can_be_had, NULL), 0, "what it had can be had again");
	IS(in_child(other_user, NULL), 0, "another user");
	close(go[1]);
	close(go[0]);
	wait_refcnt(1, "references after the grandchild");
	write_number(MODULE "parameters/max_ranges", ranges);
	write_number(MODULE "parameters/max_opens", opens);
	MUST(chmod(DEV, 0600) == 0);
}

static void t_unload(struct dev *d)
{
	long rc = syscall(SYS_delete_module, "holdfast", O_NONBLOCK);

	IS(rc ? -errno : 0, -EWOULDBLOCK, "unload while it is open");
}

/* ------------------------------------------------------------------ many */

static void t_thousands(struct dev *d)
{
	enum { N = 20000 };
	struct holdfast_secure *s = calloc(N, sizeof(*s));
	struct holdfast_event ev[64];
	char *p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int n, told = 0, still = 0;
	uint64_t t = now_ns();

	MUST(s && p != MAP_FAILED);
	for (int i = 0; i < N; i++)
		IS(secure(d->fd, p + (size_t)i * PAGE, PAGE, HOLDFAST_NOTIFY, &s[i]), 0, "secure");
	printf("# secure, of %d: %lu ns each\n", N, (unsigned long)((now_ns() - t) / N));
	madvise(p, N / 2 * PAGE, MADV_DONTNEED);
	for (int i = 0; i < N; i++)
		still += word(d, &s[i]) == s[i].word;
	IS(still, N / 2, "words that stay");
	while ((n = events(d->fd, ev, 64)) > 0)
		told += n;
	IS(told, N / 2, "events");
	t = now_ns();
	for (int i = 0; i < N; i++)
		IS(unsecure(d->fd, s[i].id), 0, "unsecure");
	printf("# unsecure: %lu ns each\n", (unsigned long)((now_ns() - t) / N));
	munmap(p, N * PAGE);
	free(s);
}

/* As many as a file can have. */
static void t_full(struct dev *unused)
{
	long ranges = read_number(MODULE "parameters/max_ranges");
	struct holdfast_secure s = { 0 };
	struct area a;
	struct dev d;
	unsigned n = 0;
	int rc;

	write_number(MODULE "parameters/max_ranges", 3000);
	MUST(area_make(&a, ANON));
	dev_open(&d);
	write_number(MODULE "parameters/max_ranges", 100000);
	IS(d.head->ranges, 3000, "ranges");
	while ((rc = secure(d.fd, a.p, PAGE, HOLDFAST_NOTIFY, &s)) == 0)
		n++;
	IS(n, d.head->ranges, "ranges of one file");
	IS(rc, -ENOSPC, "one more");
	munmap(a.p, PAGE);
	dev_close(&d);
	write_number(MODULE "parameters/max_ranges", ranges);
	area_free(&a);
}

/* ------------------------------------------------------------------ races */

static _Atomic bool stop_all;

#define FLUX_RANGES 10000

struct flux {
	char *base; /* two pages */
	_Atomic unsigned long n;
};

static void *empty(void *p)
{
	struct flux *f = p;

	for (; !atomic_load(&stop_all); f->n++)
		if (madvise(f->base, 2 * PAGE, MADV_DONTNEED))
			abort();
	return NULL;
}

/* What a NIC would pin: by the page tables. The processor may use what it knows of them a little longer. 0: nothing. */
static uint64_t page_at(const void *p)
{
	static int fd = -1;
	uint64_t e = 0;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	MUST(pread(fd, &e, sizeof(e), (off_t)((uintptr_t)p / PAGE * sizeof(e))) == sizeof(e));
	return e >> 63 ? e & ((1ull << 55) - 1) : 0;
}

/*
 * Thousands of ranges are secured in the first page: all their notifiers are called before the pages go, so the change is
 * in flux for long. In that time the second page is written to, secured, and looked up twice. While the word has the
 * value that secure() gave it is the same page.
 */
static void t_in_flux(struct dev *d)
{
	struct flux f = { .base = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
	char *second = f.base + PAGE;
	unsigned long held = 0, stale = 0, gone = 0, n = 0;
	struct holdfast_secure s;
	unsigned seed = 1;
	uint64_t end;
	pthread_t t;

	MUST(f.base != MAP_FAILED);
	for (int i = 0; i < FLUX_RANGES; i++)
		IS(secure(d->fd, f.base, PAGE, HOLDFAST_NOTIFY, &s), 0, "secure");
	*second = 1;
	MUST(page_at(second));
	atomic_store(&stop_all, false);
	MUST(pthread_create(&t, NULL, empty, &f) == 0);
	for (end = now_ns() + 3000000000ull; now_ns() < end || !f.n; n++) {
		uint64_t page;

		*(volatile char *)second = 1;
		IS(secure(d->fd, second, PAGE, HOLDFAST_NOTIFY, &s), 0, "secure");
		page = page_at(second);
		spin(rnd(&seed) % 4000);
		if (page && page_at(second) != page) {
			gone++;
			stale += word(d, &s) == s.word;
		}
		held += word(d, &s) == s.word;
		unsecure(d->fd, s.id);
	}
	atomic_store(&stop_all, true);
	pthread_join(t, NULL);
	drain(d->fd);
	printf("# %lu times emptied, %lu times secured, %lu of them to the end, %lu pages went\n", f.n, n, held, gone);
	CHECK(n > 0 && f.n > 0, "no race");
	IS(stale, 0, "pages that went under an even word");
	munmap(f.base, 2 * PAGE);
}

/* A page per thread, unmapped by the others: no word may hold after the munmap has returned. */
struct storm {
	const struct dev *d;
	char *base;
	unsigned seed;
	_Atomic unsigned long done;
};

#define STORM_PAGES 32

static void *storm(void *p)
{
	struct storm *st = p;
	struct holdfast_secure s[8];
	bool have[8] = { false };

	while (!atomic_load(&stop_all)) {
		unsigned i = rnd(&st->seed) % 8, n = 1 + rnd(&st->seed) % 4;
		char *at = st->base + rnd(&st->seed) % (STORM_PAGES - 4) * PAGE;

		st->done++;
		if (have[i]) {
			if (unsecure(st->d->fd, s[i].id))
				abort();
			have[i] = false;
			continue;
		}
		switch (rnd(&st->seed) % 4) {
		case 0:
			if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
				abort();
			break;
		case 1:
			munmap(at, n * PAGE);
			break;
		default:
			have[i] = !secure(st->d->fd, at, n * PAGE, HOLDFAST_NOTIFY, &s[i]);
		}
	}
	for (int i = 0; i < 8; i++)
		if (have[i] && unsecure(st->d->fd, s[i].id))
			abort();
	return NULL;
}

static void *storm_reader(void *p)
{
	const struct storm *st = p;

	while (!atomic_load(&stop_all)) {
		drain(st->d->fd);
		sched_yield();
	}
	return NULL;
}

static void t_storm(struct dev *d)
{
	char *base = mmap(NULL, STORM_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct storm st[4];
	pthread_t t[5];
	unsigned long done = 0;

	atomic_store(&stop_all, false);
	for (int i = 0; i < 4; i++) {
		st[i] = (struct storm){ .d = d, .base = base, .seed = (unsigned)i + 1 };
		MUST(pthread_create(&t[i], NULL, storm, &st[i]) == 0);
	}
	MUST(pthread_create(&t[4], NULL, storm_reader, &st[0]) == 0);
	for (int seconds = 0; seconds < 3 || done < 1000; seconds++) {
		sleep(1);
		done = 0;
		for (int i = 0; i < 4; i++)
			done += st[i].done;
	}
	atomic_store(&stop_all, true);
	for (int i = 0; i < 5; i++)
		pthread_join(t[i], NULL);
	drain(d->fd);
	munmap(base, STORM_PAGES * PAGE);
	printf("# %lu steps of 4 threads\n", done);
}

/* A: changes the range, and says so. B: must see an odd word from then on. */
struct relay {
	const struct dev *d;
	char *at;
	struct holdfast_secure s;
	_Atomic unsigned long round; /* even: B's turn to secure; odd: A's to change */
};

static void *relay_change(void *p)
{
	struct relay *r = p;

	while (!atomic_load(&stop_all)) {
		if (!(atomic_load(&r->round) & 1)) {
			sched_yield();
			continue;
		}
		if (mmap(r->at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != r->at)
			abort();
		atomic_fetch_add(&r->round, 1);
	}
	return NULL;
}

/* R25: a thread that learns of a change from the one that made it finds the word turned. */
static void t_relay(struct dev *d)
{
	struct relay r = { .d = d };
	unsigned long n = 0, missed = 0;
	uint64_t end = now_ns() + 2000000000ull;
	pthread_t t;

	r.at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	atomic_store(&stop_all, false);
	MUST(pthread_create(&t, NULL, relay_change, &r) == 0);
	for (; now_ns() < end || n < 100; n++) {
		*(volatile char *)r.at = 1;
		IS(secure(d->fd, r.at, PAGE, HOLDFAST_NOTIFY, &r.s), 0, "secure");
		atomic_fetch_add(&r.round, 1);
		while (atomic_load(&r.round) & 1)
			sched_yield();
		missed += word(d, &r.s) == r.s.word;
		unsecure(d->fd, r.s.id);
	}
	atomic_store(&stop_all, true);
	pthread_join(t, NULL);
	printf("# %lu rounds\n", n);
	IS(missed, 0, "words that held after the change had returned");
	munmap(r.at, PAGE);
}

/* ------------------------------------------------------------------ fuzz */

struct fuzz {
	struct dev d[2];
	char *base;
	uint64_t id[64];
	int of[64];
	unsigned seed;
	unsigned long ok, calls;
};

#define FUZZ_PAGES 64

static uint64_t interesting(struct fuzz *f)
{
	static const uint64_t v[] = { 0, 1, 7, 8, 63, 64, 4095, 4096, 1u << 31, UINT32_MAX, 1ull << 32, 1ull << 47,
				      (1ull << 47) - 4096, 1ull << 63, UINT64_MAX, UINT64_MAX - 4095 };
	uint64_t x = v[rnd(&f->seed) % (sizeof(v) / sizeof(v[0]))];

	return rnd(&f->seed) % 3 ? x : x ^ 1ull << rnd(&f->seed) % 64;
}

static void fuzz_secure(struct fuzz *f)
{
	unsigned i = rnd(&f->seed) % 64, which = rnd(&f->seed) % 2;
	union { struct { struct holdfast_secure s; uint64_t tail; }; char raw[4096]; } q = { 0 };

	q.s = (struct holdfast_secure){ .size = sizeof(q.s), .flags = 1 + rnd(&f->seed) % 3,
					.start = (uintptr_t)f->base + rnd(&f->seed) % FUZZ_PAGES * PAGE,
					.length = (1 + rnd(&f->seed) % 8) * PAGE, .mode = 1 + rnd(&f->seed) % 2 };
	/* Mostly right, with one field wrong. */
	switch (rnd(&f->seed) % 12) {
	case 0: q.s.size = (uint32_t)interesting(f); break;
	case 1: q.s.size = sizeof(q.s) + 8; q.tail = rnd(&f->seed) % 2; break;
	case 2: q.s.flags = (uint32_t)interesting(f); break;
	case 3: q.s.mode = (uint32_t)interesting(f); break;
	case 4: q.s.start = interesting(f); break;
	case 5: q.s.length = interesting(f); break;
	default:
		break;
	}
	if (f->id[i])
		return;
	f->calls++;
	if (ioctl(f->d[which].fd, HOLDFAST_IOC_SECURE, &q))
		return;
	f->ok++;
	f->id[i] = q.s.id;
	f->of[i] = (int)which;
}

static void fuzz_id(struct fuzz *f)
{
	unsigned i = rnd(&f->seed) % 64;
	struct holdfast_query q = { .size = sizeof(q), .id = f->id[i] };
	struct holdfast_unsecure u = { .size = sizeof(u), .id = f->id[i] };
	int fd = f->d[rnd(&f->seed) % 8 ? f->of[i] : !f->of[i]].fd;

	f->calls += 2;
	if (rnd(&f->seed) % 4 == 0)
		u.id = q.id = interesting(f);
	if (rnd(&f->seed) % 8 == 0)
		u.size = q.size = (uint32_t)interesting(f);
	if (rnd(&f->seed) % 8 == 0)
		u.flags = q.flags = (uint32_t)interesting(f);
	f->ok += ioctl(fd, HOLDFAST_IOC_QUERY, &q) == 0;
	f->ok += ioctl(fd, HOLDFAST_IOC_UNSECURE, &u) == 0;
}

/* Anything, with any number. */
static void fuzz_random(struct fuzz *f)
{
	union { uint32_t size; uint64_t v[512]; } buf = { 0 };
	unsigned cmd = rnd(&f->seed) % 2 ? _IO(HOLDFAST_TYPE, rnd(&f->seed) % 5) : (unsigned)interesting(f);

	for (int i = 0; i < 16; i++)
		buf.v[i] = rnd(&f->seed) % 2 ? interesting(f) : (uint64_t)rnd(&f->seed) << 32 | rnd(&f->seed);
	if (rnd(&f->seed) % 2)
		buf.size = rnd(&f->seed) % 130;
	f->calls++;
	f->ok += ioctl(f->d[0].fd, cmd, rnd(&f->seed) % 16 ? (uintptr_t)&buf : (uintptr_t)interesting(f)) == 0;
}

static void fuzz_memory(struct fuzz *f)
{
	char *at = f->base + rnd(&f->seed) % FUZZ_PAGES * PAGE;
	size_t len = (1 + rnd(&f->seed) % 8) * PAGE;
	static const int prot[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	static const int advice[] = { MADV_DONTNEED, MADV_DONTDUMP, MADV_DODUMP, MADV_FREE, MADV_WILLNEED };

	switch (rnd(&f->seed) % 8) {
	case 0: munmap(at, len); break;
	case 1: mprotect(at, len, prot[rnd(&f->seed) % 3]); break;
	case 2: mremap(at, len, (1 + rnd(&f->seed) % 8) * PAGE, 0); break;
	case 3: madvise(at, len, advice[rnd(&f->seed) % 5]); break;
	default: mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
}

static void fuzz_file(struct fuzz *f)
{
	struct holdfast_event ev[8];
	struct dev *d = &f->d[rnd(&f->seed) % 2];
	size_t len = rnd(&f->seed) % 4 ? sizeof(ev) : interesting(f);
	char *p;

	f->calls += 2;
	/* Never a length of more than what is there with a good address. */
	if (read(d->fd, len > sizeof(ev) ? (void *)(uintptr_t)interesting(f) : ev, len) > 0)
		f->ok++;
	len = interesting(f) & 0xfffff;
	p = mmap(NULL, len, PROT_READ, rnd(&f->seed) % 4 ? MAP_SHARED : MAP_PRIVATE, d->fd,
		 (off_t)(interesting(f) & ~(PAGE - 1)));
	if (p != MAP_FAILED)
		munmap(p, len);
}

/* All are let go, and each page can be freed again: no seal was left behind. */
static void fuzz_end(struct fuzz *f)
{
	for (int i = 0; i < 64; i++)
		if (f->id[i])
			unsecure(f->d[f->of[i]].fd, f->id[i]);
	/* What random calls secured is not known here. */
	dev_close(&f->d[0]);
	dev_close(&f->d[1]);
}

static int fuzz_child(void *arg)
{
	struct fuzz f = { .seed = 1 };
	unsigned long want = *(unsigned long *)arg;

	f.base = mmap(NULL, (FUZZ_PAGES + 8) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	dev_open(&f.d[0]);
	dev_open(&f.d[1]);
	while (f.calls < want) {
		unsigned k = rnd(&f.seed) % 16;

		if (k < 7)
			fuzz_secure(&f);
		else if (k < 9)
			fuzz_id(&f);
		else if (k < 12)
			fuzz_random(&f);
		else if (k < 15)
			fuzz_memory(&f);
		else
			fuzz_file(&f);
		if (k == 8)
			f.id[rnd(&f.seed) % 64] = 0;
	}
	fuzz_end(&f);
	printf("# fuzz: %lu calls, %lu answered 0\n", f.calls, f.ok);
	fflush(stdout);
	for (unsigned i = 0; i < FUZZ_PAGES + 8; i++)
		if (munmap(f.base + i * PAGE, PAGE)) {
			printf("# page %u can't be unmapped: %s\n", i, strerror(errno));
			fflush(stdout);
			return 3;
		}
	return f.ok > f.calls / 100 ? 0 : 4;
}

static void t_fuzz(struct dev *d)
{
	const char *s = getenv("FUZZ");
	unsigned long n = s ? strtoul(s, NULL, 0) : 200000;

	IS(in_child(fuzz_child, &n), 0, "the fuzzer");
	wait_refcnt(1, "references after it");
}

/* ------------------------------------------------------------------ nth failure */

/* Everything that may fail once, the steps in order. 0, or -errno of the step that did. */
static int all_steps(bool deny, int *step)
{
	struct holdfast_secure s;
	struct area a;
	int fd, rc;

	MUST(area_make(&a, ANON));
	*step = 1;
	fd = open(DEV, O_RDWR);
	if (fd < 0) {
		rc = -errno;
		area_free(&a);
		return rc;
	}
	*step = 2;
	rc = secure(fd, a.p, SIZE, HOLDFAST_NOTIFY | (deny ? HOLDFAST_DENY : 0), &s);
	if (!rc)
		rc = unsecure(fd, s.id);
	/* Nothing is sealed, nothing told. */
	if (munmap(a.p, SIZE))
		rc = -ENOTRECOVERABLE;
	close(fd);
	area_free(&a);
	return rc;
}

static int faults_child(void *arg)
{
	bool deny = *(bool *)arg;
	int step, n, rc = -1;

	for (n = 1; n < 100 && rc; n++) {
		write_number(MODULE "parameters/fail_nth", n);
		rc = all_steps(deny, &step);
		write_number(MODULE "parameters/fail_nth", 0);
		if (rc && rc != -ENOMEM) {
			printf("# failure %d: step %d: %d\n", n, step, rc);
			return 1;
		}
	}
	printf("# %d steps can fail\n", n - 2);
	fflush(stdout);
	return n > 7 && n < 100 ? 0 : 2;
}

static void t_faults(struct dev *d)
{
	bool deny = d->head->features & HOLDFAST_HAS_DENY;

	if (access(MODULE "parameters/fail_nth", W_OK)) {
		printf("# this module was not made with FAULTS=y: no step is made to fail\n");
		return;
	}
	/* Closed first, so that the user and the owner are made in the sweep; forked as another user's. */
	IS(in_child(faults_child, &deny), 0, "the sweep");
	wait_refcnt(1, "references after it");
}

/* ------------------------------------------------------------------ what it costs */

static double munmap_ns(struct dev *d, bool watched)
{
	enum { N = 1000 };
	static struct holdfast_secure s[N];
	char *p = mmap(NULL, 2 * N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t t;

	MUST(p != MAP_FAILED && madvise(p, 2 * N * PAGE, MADV_NOHUGEPAGE) == 0);
	memset(p, 1, 2 * N * PAGE);
	for (int i = 0; i < N && watched; i++)
		MUST(secure(d->fd, p + 2ul * (size_t)i * PAGE, PAGE, HOLDFAST_NOTIFY, &s[i]) == 0);
	t = now_ns();
	for (int i = 0; i < N; i++)
		munmap(p + 2ul * (size_t)i * PAGE, PAGE);
	t = now_ns() - t;
	for (int i = 0; i < N && watched; i++)
		unsecure(d->fd, s[i].id);
	munmap(p, 2 * N * PAGE);
	drain(d->fd);
	return (double)t / N;
}

static void t_costs(struct dev *d)
{
	struct holdfast_secure s;
	struct area a;
	uint64_t t, sum = 0;

	MUST(area_make(&a, ANON));
	t = now_ns();
	for (int i = 0; i < 10000; i++)
		syscall(SYS_getppid);
	printf("# getppid: %lu ns\n", (unsigned long)((now_ns() - t) / 10000));
	t = now_ns();
	for (int i = 0; i < 10000; i++) {
		secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s);
		unsecure(d->fd, s.id);
	}
	printf("# secure and unsecure: %lu ns\n", (unsigned long)((now_ns() - t) / 10000));
	secure(d->fd, a.p, SIZE, HOLDFAST_NOTIFY, &s);
	t = now_ns();
	for (int i = 0; i < 1000000; i++)
		sum += word(d, &s);
	printf("# a word read: %.2f ns (%d)\n", (double)(now_ns() - t) / 1e6, (int)(sum & 1));
	unsecure(d->fd, s.id);
	for (int i = 0; i < 2; i++)
		printf("# munmap of a page: %.0f ns, of a secured one %.0f ns\n", munmap_ns(d, false), munmap_ns(d, true));
	area_free(&a);
}

/* ------------------------------------------------------------------ main */

static const struct {
	const char *name;
	void (*fn)(struct dev *d);
} tests[] = {
	{ "R49 input of secure", t_secure_input },
	{ "R39 R49 input of unsecure and query", t_unsecure_input },
	{ "mmap of the words", t_map },
	{ "R25 R34 every change is told before the call returns", t_changes },
	{ "R25 changes by another process", t_another_process },
	{ "R34 no alarm for what changes nothing", t_no_alarm },
	{ "events", t_events },
	{ "a read that waits", t_blocking_read },
	{ "R25 told, from thread to thread", t_relay },
	{ "a range in flux is not armed", t_in_flux },
	{ "R37 freeing and stricter protection are refused", t_deny },
	{ "R37 denied ranges that overlap, merge, or are sealed by the program", t_deny_overlaps },
	{ "R38 let go by the last close, whoever closes", t_deny_released },
	{ "R38 let go at exit, SIGKILL, exec", t_ends },
	{ "R39 R40 a forked child can do nothing", t_child },
	{ "R39 a forked child can't unseal", t_child_unseals },
	{ "R39 another program can do nothing", t_another_program },
	{ "R41 the end of the owner is noticed", t_end_is_noticed },
	{ "R38 R41 storm of ends", t_end_storm },
	{ "R38 R41 limits of a user, given back at the end", t_limits },
	{ "unload while in use", t_unload },
	{ "thousands of ranges", t_thousands },
	{ "as many as a file can have", t_full },
	{ "storm of secure, unsecure, unmap", t_storm },
	{ "every nth failure", t_faults },
	{ "fuzz", t_fuzz },
	{ "costs", t_costs },
};

#define TESTS (int)(sizeof(tests) / sizeof(tests[0]))

static void run(int i)
{
	struct dev d;
	uint64_t t = now_ns();

	test_name = tests[i].name;
	bad_here = 0;
	dev_open(&d);
	tests[i].fn(&d);
	dev_close(&d);
	wait_refcnt(0, "references at the end");
	printf("%sok %d - %s # %lu ms\n", bad_here ? "not " : "", ++test_count, test_name,
	       (unsigned long)((now_ns() - t) / 1000000));
	bad_tests += !!bad_here;
}

static int chosen(int argc, char **argv)
{
	int n = 0;

	for (int i = 0; i < TESTS; i++)
		n += argc < 2 || strstr(tests[i].name, argv[1]);
	return n;
}

/* More are not taken away: the tests that follow count them. */
static void have_huge_pages(int n)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+");
	int have = 0;

	if (!f)
		return;
	if (fscanf(f, "%d", &have) == 1 && have < n) {
		rewind(f);
		fprintf(f, "%d", n);
	}
	fclose(f);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--ok"))
		return 0;
	if (argc == 4 && !strcmp(argv[1], "--try"))
		return executed(argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (access(DEV, R_OK | W_OK)) {
		printf("1..0 # SKIP no " DEV ": load the module\n");
		return 77;
	}
	have_huge_pages(8);
	printf("1..%d\n", chosen(argc, argv));
	for (int i = 0; i < TESTS; i++)
		if (argc < 2 || strstr(tests[i].name, argv[1]))
			run(i);
	printf("# %d failed\n", bad_tests);
	return bad_tests != 0 || !test_count;
}
