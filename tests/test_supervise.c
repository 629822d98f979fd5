/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The proxy `supervise`: refused (R37), told before (R25, R36), released by whatever ends the owner (R38, R41), the helper
 * killed and stopped, signals, children. A filter stays in a process for good, so each test is a child process.
 *
 * The calls are made by syscall(2), so that no sanitizer's or libc's own doings come between.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "os.h"
#include "provider.h"
#include "proxy/supervise.h"
#include "supervisor/decode.h"

#define PAGES 16
#define RW (PROT_READ | PROT_WRITE)
#define GUARD_INSTALL 102
#define DONTNEED_LOCKED 24
#define FIXED_PLACE ((char *)0x7e8000100000) /* where neither a sanitizer nor the kernel puts anything by itself */

static size_t page;
static const char *self;
static _Atomic bool stop; /* of the threads of a test */
static char *raced;       /* a page over which they race */

/* ------------------------------------------------------------------ what the tests share */

static struct hf_switch *open_one(void)
{
	struct hf_switch *sw = NULL;

	if (hf_switch_open("proxy=supervise", &sw))
		fprintf(stderr, "child: %s\n", hf_error());
	return sw;
}

/* PAGES, each filled with its number + 1, between guards. */
static char *map(void)
{
	char *p = mmap(NULL, (PAGES + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(p + page, PAGES * page, RW);
	for (int i = 0; i < PAGES; i++)
		memset(p + (i + 1) * page, i + 1, page);
	return p + page;
}

static bool intact(const char *p)
{
	for (size_t i = 0; i < PAGES; i++)
		if (p[i * page] != (char)(i + 1) || p[i * page + page - 1] != (char)(i + 1))
			return false;
	return true;
}

static uint64_t deny(struct hf_switch *sw, void *p, size_t pages, unsigned flags)
{
	int rc = -EAGAIN;
	uint64_t id = 0;

	/* That nothing is under way may take longer to be proved than the library waits. */
	for (int i = 0; i < 600 && rc == -EAGAIN; i++)
		rc = hf_secure(sw, p, pages * page, flags | HF_DENY, NULL, NULL, &id);
	if (rc)
		fprintf(stderr, "child: deny: %s\n", hf_error());
	return id;
}

/* It failed with this error. */
static bool fails(long rc, int error)
{
	if (rc == -1 && errno == error)
		return true;
	fprintf(stderr, "child: %ld, %s instead of %s\n", rc, rc == -1 ? strerror(errno) : "no error", strerror(error));
	return false;
}

static long do_munmap(void *p, size_t n)
{
	return syscall(SYS_munmap, p, n);
}

static long do_mprotect(void *p, size_t n, int prot)
{
	return syscall(SYS_mprotect, p, n, prot);
}

static long do_madvise(void *p, size_t n, int advice)
{
	return syscall(SYS_madvise, p, n, advice);
}

static long do_mremap(void *p, size_t old, size_t new, unsigned long flags, void *to)
{
	return syscall(SYS_mremap, p, old, new, flags, to);
}

static long do_map_fixed(void *p, size_t n)
{
	return syscall(SYS_mmap, p, n, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static char *do_map(size_t n)
{
	return (char *)syscall(SYS_mmap, NULL, n, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* An error isn't one: a descriptor's number that another thread still reads from may be ours by now. */
static bool is_hit(struct hf_provider *p, void *addr)
{
	struct hf_region r;
	bool hit;

	if (hf_get(p, addr, page, HF_READ, &r))
		return false;
	hit = r.flags & HF_REGION_HIT;
	return hf_put(p, &r) == 0 && hit;
}

static void run(int (*fn)(void *))
{
	assert_int_equal(check_child(fn, NULL), 0);
}

/* Until it is so: minutes, for a hang only. */
#define LONG_MS 600000

#define UNTIL(x)                                                                       \
	do {                                                                           \
		uint64_t began_ = check_now_ms();                                      \
		while (!(x) && check_now_ms() - began_ < LONG_MS)                        \
			usleep(500);                                                   \
		CHILD_CHECK(x);                                                        \
	} while (0)

/* ------------------------------------------------------------------ R37: refused */

/* R37 */
static int deny_frees(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map(), *other = map();
	char *spare = mmap(NULL, 64 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec v[2] = { { other, page }, { p + page, page } };
	int me;

	CHILD_CHECK(sw && deny(sw, p + 2 * page, 4, HF_READWRITE));
	CHILD_CHECK(fails(do_munmap(p, PAGES * page), EBUSY));
	CHILD_CHECK(fails(do_munmap(p + 2 * page, page), EBUSY));
	CHILD_CHECK(fails(do_munmap(p + 5 * page, 1), EBUSY));
	CHILD_CHECK(fails(do_munmap(p, 2 * page + 1), EBUSY));
	CHILD_CHECK(fails(do_map_fixed(p + page, 2 * page), EBUSY));
	CHILD_CHECK(fails(do_mremap(p, PAGES * page, PAGES * page, MREMAP_MAYMOVE | MREMAP_FIXED, spare), EBUSY));
	CHILD_CHECK(fails(do_mremap(p, PAGES * page, 3 * page, 0, NULL), EBUSY));
	CHILD_CHECK(fails(do_mremap(p, PAGES * page, 32 * page, MREMAP_MAYMOVE, NULL), EBUSY));
	CHILD_CHECK(fails(do_mremap(p, PAGES * page, PAGES * page, MREMAP_MAYMOVE | 4, NULL), EBUSY));
	CHILD_CHECK(fails(do_mremap(other, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, p + 3 * page), EBUSY));
	CHILD_CHECK(fails(do_madvise(p, PAGES * page, MADV_DONTNEED), EBUSY));
	CHILD_CHECK(fails(do_madvise(p + 4 * page, page, MADV_FREE), EBUSY));
	CHILD_CHECK(fails(do_madvise(p + 4 * page, page, MADV_REMOVE), EBUSY));
	CHILD_CHECK(fails(do_madvise(p + 4 * page, page, DONTNEED_LOCKED), EBUSY));
	CHILD_CHECK(fails(do_madvise(p + 4 * page, page, GUARD_INSTALL), EBUSY));
	me = (int)syscall(SYS_pidfd_open, getpid(), 0);
	v[1].iov_base = p + 2 * page;
	CHILD_CHECK(fails(syscall(440 /* process_madvise */, me, v, 2, MADV_DONTNEED, 0), EBUSY));
	CHILD_CHECK(intact(p) && intact(other));
	UNTIL(supervise_shared()->refused_count == 16); /* counted after it is sent */
	return 0;
}

/* R37 */
static int deny_stricter(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();

	CHILD_CHECK(sw && deny(sw, p + 2 * page, 4, HF_READWRITE));
	CHILD_CHECK(fails(do_mprotect(p, PAGES * page, PROT_NONE), EACCES));
	CHILD_CHECK(fails(do_mprotect(p + 2 * page, page, PROT_READ), EACCES));
	CHILD_CHECK(fails(do_mprotect(p + 5 * page, page, PROT_READ | PROT_EXEC), EACCES));
	CHILD_CHECK(fails(do_mprotect(p + 5 * page, page, PROT_WRITE), EACCES));
	CHILD_CHECK(fails(syscall(SYS_pkey_mprotect, p, 3 * page, PROT_NONE, -1), EACCES));
	p[2 * page] = 3; /* still writable */
	CHILD_CHECK(intact(p));
	/* What takes nothing away is allowed. */
	CHILD_CHECK(do_mprotect(p + 2 * page, page, RW) == 0);
	CHILD_CHECK(do_mprotect(p, 2 * page, PROT_READ) == 0);
	CHILD_CHECK(do_mprotect(p + 2 * page, 0, PROT_NONE) == 0);
	CHILD_CHECK(do_madvise(p, PAGES * page, MADV_WILLNEED) == 0);
	return 0;
}

/* The other ways into the kernel of this architecture are the same calls. */
#ifdef __x86_64__
static long by_int80(long nr, long a, long b, long c)
{
	long rc;

	__asm__ volatile("int $0x80" : "=a"(rc) : "a"(nr), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
	return rc;
}

static int deny_other_abis(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = mmap(NULL, 4 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	char *q = mmap(NULL, 4 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long a = (long)p;

	CHILD_CHECK(sw && p != MAP_FAILED && q != MAP_FAILED && deny(sw, p, 4, HF_READWRITE));
	memset(p, 9, 4 * page);
	CHILD_CHECK(fails(syscall(SYS_munmap | 0x40000000, p, page), EBUSY)); /* x32 */
	if (arg) {
		CHILD_CHECK(by_int80(91 /* munmap */, a, (long)page, 0) == -EBUSY);
		CHILD_CHECK(by_int80(125 /* mprotect */, a, (long)page, PROT_READ) == -EACCES);
		CHILD_CHECK(by_int80(219 /* madvise */, a, (long)page, MADV_DONTNEED) == -EBUSY);
		CHILD_CHECK(by_int80(91, (long)q, (long)page, 0) == 0);
	}
	CHILD_CHECK(p[0] == 9 && p[4 * page - 1] == 9);
	return 0;
}
#endif

/* PAGE_READONLY: no-access is forbidden, read-only is not. */
static int deny_read_only(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();

	CHILD_CHECK(do_mprotect(p, page, PROT_READ) == 0);
	CHILD_CHECK(sw && deny(sw, p, 4, HF_READ));
	CHILD_CHECK(do_mprotect(p, 4 * page, PROT_READ) == 0);
	CHILD_CHECK(do_mprotect(p, 4 * page, RW) == 0);
	CHILD_CHECK(fails(do_mprotect(p, page, PROT_NONE), EACCES));
	CHILD_CHECK(fails(do_mprotect(p, page, PROT_WRITE), EACCES));
	CHILD_CHECK(fails(do_munmap(p, page), EBUSY));
	CHILD_CHECK(intact(p));
	return 0;
}

/* The neighbours are free; nothing else changes its answer. */
static int allowed_beside(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t id = deny(sw, p + 4 * page, 4, HF_READWRITE);

	CHILD_CHECK(sw && id);
	CHILD_CHECK(do_munmap(p, 4 * page) == 0);
	CHILD_CHECK(do_map_fixed(p, 4 * page) == (long)p);
	CHILD_CHECK(do_madvise(p + 8 * page, page, MADV_DONTNEED) == 0 && p[8 * page] == 0);
	CHILD_CHECK(do_mremap(p + 4 * page, 12 * page, 8 * page, 0, NULL) == (long)(p + 4 * page)); /* cuts behind it */
	CHILD_CHECK(do_mremap(p + 4 * page, 4 * page, 4 * page, MREMAP_MAYMOVE, NULL) == (long)(p + 4 * page));
	CHILD_CHECK(do_mremap(p + 4 * page, 8 * page, 9 * page, 0, NULL) == (long)(p + 4 * page)); /* in place */
	CHILD_CHECK(fails(do_munmap(p + 4 * page + 1, page), EINVAL));
	CHILD_CHECK(fails(do_munmap(p + 4 * page, 0), EINVAL));
	CHILD_CHECK(fails(do_madvise(p + 4 * page + 8, page, MADV_DONTNEED), EINVAL));
	CHILD_CHECK(fails(do_mprotect(p + 4 * page + 8, page, PROT_NONE), EINVAL));
	CHILD_CHECK(fails(syscall(SYS_mmap, p + 4 * page, page, RW,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST));
	CHILD_CHECK(p[4 * page] == 5 && p[7 * page] == 8);
	CHILD_CHECK(hf_unsecure(sw, id) == 0);
	CHILD_CHECK(do_munmap(p, PAGES * page) == 0);
	return 0;
}

/* Each counts; the release of one ends the refusal of what only it covers. */
static int deny_overlapping(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t a = deny(sw, p, 8, HF_READWRITE), b = deny(sw, p + 4 * page, 8, HF_READ), c = deny(sw, p, 8, HF_READWRITE);

	CHILD_CHECK(sw && a && b && c && a != c);
	CHILD_CHECK(fails(do_mprotect(p + 5 * page, page, PROT_READ), EACCES));
	CHILD_CHECK(hf_unsecure(sw, a) == 0);
	CHILD_CHECK(fails(do_mprotect(p + 5 * page, page, PROT_READ), EACCES));
	CHILD_CHECK(hf_unsecure(sw, c) == 0);
	CHILD_CHECK(do_mprotect(p + 5 * page, page, PROT_READ) == 0); /* b is for reading */
	CHILD_CHECK(do_munmap(p, 4 * page) == 0);
	CHILD_CHECK(fails(do_munmap(p + 3 * page, 2 * page), EBUSY));
	CHILD_CHECK(hf_switch_close(sw) == -EBUSY);
	CHILD_CHECK(hf_unsecure(sw, b) == 0 && hf_unsecure(sw, b) == -EINVAL);
	CHILD_CHECK(do_munmap(p, PAGES * page) == 0);
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return 0;
}

/* Refused, and then nothing is denied. */
static int deny_not_possible(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t id = 7;

	CHILD_CHECK(sw && do_munmap(p + 3 * page, page) == 0);
	CHILD_CHECK(do_mprotect(p + 6 * page, page, PROT_READ) == 0 && do_mprotect(p + 9 * page, page, PROT_NONE) == 0);
	CHILD_CHECK(hf_secure(sw, p, 5 * page, HF_READ | HF_DENY, NULL, NULL, &id) == -EFAULT);
	CHILD_CHECK(hf_secure(sw, p + 5 * page, 3 * page, HF_READWRITE | HF_DENY, NULL, NULL, &id) == -EACCES);
	CHILD_CHECK(hf_secure(sw, p + 8 * page, 3 * page, HF_READ | HF_DENY, NULL, NULL, &id) == -EACCES);
	CHILD_CHECK(hf_secure(sw, p, page, HF_DENY, NULL, NULL, &id) == -EINVAL && id == 7);
	CHILD_CHECK(do_munmap(p, PAGES * page) == 0);
	return 0;
}

/* Memory that no proxy can watch can be denied all the same. */
static int deny_other_mappings(void *arg)
{
	struct hf_switch *sw = open_one();
	int segment = shmget(IPC_PRIVATE, 4 * page, 0600);
	int fd = memfd_create("test", 0);
	char *file, *shm, *p = map(), *old;
	uint64_t id[3];

	CHILD_CHECK(sw && segment >= 0 && fd >= 0 && ftruncate(fd, (off_t)(4 * page)) == 0);
	file = mmap(NULL, 4 * page, RW, MAP_SHARED, fd, 0);
	shm = (char *)syscall(SYS_shmat, segment, NULL, 0);
	id[0] = deny(sw, file, 4, HF_READWRITE);
	id[1] = deny(sw, shm + 2 * page, 1, HF_READWRITE);
	id[2] = deny(sw, p + 3 * page, 1, HF_READWRITE);
	CHILD_CHECK(id[0] && id[1] && id[2]);
	CHILD_CHECK(fails(syscall(SYS_remap_file_pages, file, page, 0, 2, 0), EBUSY));
	CHILD_CHECK(fails(do_madvise(file, page, MADV_REMOVE), EBUSY));
	CHILD_CHECK(fails(do_munmap(file, page), EBUSY));
	CHILD_CHECK(fails(syscall(SYS_shmdt, shm), EBUSY));
	CHILD_CHECK(fails(syscall(SYS_shmat, segment, p, SHM_REMAP), EBUSY));
	CHILD_CHECK(syscall(SYS_shmat, segment, p + 4 * page, SHM_REMAP) == (long)(p + 4 * page));
	CHILD_CHECK(syscall(SYS_shmdt, p + 4 * page) == 0); /* the other piece of the same segment */
	old = shm;
	CHILD_CHECK(fails(syscall(SYS_shmdt, old + page), EINVAL)); /* nothing begins there, as the kernel says */
	CHILD_CHECK(hf_unsecure(sw, id[1]) == 0 && syscall(SYS_shmdt, shm) == 0);
	CHILD_CHECK(hf_unsecure(sw, id[0]) == 0 && hf_unsecure(sw, id[2]) == 0);
	shmctl(segment, IPC_RMID, NULL);
	return 0;
}

/* A refused brk() answers the old break, as the kernel does; growing and shrinking above it are free. */
static int deny_brk(void *arg)
{
	struct hf_switch *sw = open_one();
	char *old = (char *)syscall(SYS_brk, 0);
	char *base = (char *)(((uintptr_t)old + page - 1) & ~(page - 1));
	uint64_t id;

	CHILD_CHECK(sw && syscall(SYS_brk, base + 8 * page) == (long)(base + 8 * page));
	memset(base, 5, 8 * page);
	id = deny(sw, base + 2 * page, 2, HF_READWRITE);
	CHILD_CHECK(id);
	errno = 0;
	CHILD_CHECK(syscall(SYS_brk, base + 3 * page) == (long)(base + 8 * page) && errno == 0);
	CHILD_CHECK(syscall(SYS_brk, base) == (long)(base + 8 * page));
	CHILD_CHECK(base[2 * page] == 5 && base[8 * page - 1] == 5);
	CHILD_CHECK(syscall(SYS_brk, base + 12 * page) == (long)(base + 12 * page));
	CHILD_CHECK(syscall(SYS_brk, base + 4 * page) == (long)(base + 4 * page));
	CHILD_CHECK(syscall(SYS_brk, base + 2 * page) == (long)(base + 4 * page));
	CHILD_CHECK(hf_unsecure(sw, id) == 0 && syscall(SYS_brk, old) == (long)old);
	return 0;
}

/* What was refused is not told; what changed in spite of it would be. */
static _Atomic int times;
static _Atomic char seen;

static void tell(void *arg, void *addr, size_t len)
{
	if (atomic_fetch_add(&times, 1) == 0)
		seen = *(volatile char *)addr;
}

static int refused_is_not_told(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t id = 0, other = 0;

	CHILD_CHECK(sw && hf_secure(sw, p, 4 * page, HF_READWRITE | HF_DENY | HF_NOTIFY, tell, NULL, &id) == 0);
	CHILD_CHECK(hf_secure(sw, p + 8 * page, page, HF_READWRITE | HF_NOTIFY, tell, NULL, &other) == 0);
	CHILD_CHECK(fails(do_munmap(p, page), EBUSY) && fails(do_mprotect(p, page, PROT_READ), EACCES));
	CHILD_CHECK(hf_secured_changed(sw, id) == 0 && !times);
	CHILD_CHECK(hf_invalidate(sw, p, page) == 0 && hf_secured_changed(sw, id) == 1 && times == 1);
	CHILD_CHECK(hf_unsecure(sw, id) == 0 && do_munmap(p, page) == 0 && times == 1);
	CHILD_CHECK(hf_unsecure(sw, other) == 0 && hf_switch_close(sw) == 0);
	return 0;
}

/* ------------------------------------------------------------------ R25, R36: told before */

/* R25, R36: the mapping is as it was while it is told. */
static int told_before(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t id = 0;

	for (int i = 0; i < 5; i++) {
		char *at = p + i * page;

		atomic_store(&times, 0);
		CHILD_CHECK(sw && hf_secure(sw, at, page, HF_READWRITE | HF_NOTIFY, tell, NULL, &id) == 0);
		switch (i) {
		case 0:
			CHILD_CHECK(do_munmap(at, page) == 0);
			break;
		case 1:
			CHILD_CHECK(do_map_fixed(at, page) == (long)at);
			break;
		case 2:
			CHILD_CHECK(do_mprotect(at, page, PROT_READ) == 0);
			break;
		case 3:
			CHILD_CHECK(do_madvise(at, page, MADV_DONTNEED) == 0);
			break;
		case 4:
			CHILD_CHECK(do_mremap(at, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, p) == (long)p);
			break;
		}
		/* By the time the call is back it has been told, and what was told of was still there. */
		CHILD_CHECK(times >= 1 && seen == i + 1);
		CHILD_CHECK(hf_secured_changed(sw, id) == 1 && hf_unsecure(sw, id) == 0);
	}
	return 0;
}

/* Served while a call waits for the switch: those of the threads that the callback knows of, too. */
static _Atomic int other_done;

static void *unmap_other(void *arg)
{
	while (!atomic_load(&times))
		usleep(100);
	for (int i = 0; i < 100; i++)
		if (do_munmap(do_map(page), page))
			return arg;
	atomic_store(&other_done, 1);
	return NULL;
}

static void wait_for_other(void *arg, void *addr, size_t len)
{
	uint64_t began = check_now_ms();

	atomic_fetch_add(&times, 1);
	while (!atomic_load(&other_done) && check_now_ms() - began < LONG_MS)
		;
}

static int others_are_served(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = do_map(64 * MIB); /* no other memory in its blocks */
	pthread_t thread;
	uint64_t id = 0;

	p = (char *)(((uintptr_t)p + 4 * MIB) & ~(2 * MIB - 1));
	CHILD_CHECK(sw && hf_secure(sw, p + 4 * MIB, page, HF_READWRITE | HF_NOTIFY, wait_for_other, NULL, &id) == 0);
	CHILD_CHECK(pthread_create(&thread, NULL, unmap_other, NULL) == 0);
	CHILD_CHECK(do_munmap(p + 4 * MIB, page) == 0);
	CHILD_CHECK(other_done);
	pthread_join(thread, NULL);
	return 0;
}

/* Hazard 28: the index is held by the very thread that unmaps. It is let go on, and nothing is a hit. */
static int index_is_busy(void *arg)
{
	struct hf_switch *sw = open_one();
	struct hf_provider *p = sw ? check_sim(sw, NULL, NULL) : NULL;
	char *mem = map();

	CHILD_CHECK(sw);
	UNTIL(is_hit(p, mem));
	pthread_mutex_lock(&p->cache.lock);
	CHILD_CHECK(do_munmap(mem, page) == 0);
	CHILD_CHECK(do_munmap(mem + page, page) == 0);
	pthread_mutex_unlock(&p->cache.lock);
	CHILD_CHECK(do_map_fixed(mem, page) == (long)mem);
	CHILD_CHECK(!is_hit(p, mem));
	return 0;
}

/* A switch that is opened while another one is told: its word is odd, too, as long as its index is busy. */
static _Atomic int step;

static void wait_for_step(void *arg, void *addr, size_t len)
{
	uint64_t began = check_now_ms();

	if (atomic_exchange(&step, 1) == 0)
		while (atomic_load(&step) == 1 && check_now_ms() - began < LONG_MS)
			;
}

static void *protect_two(void *arg)
{
	long rc = do_mprotect(arg, 2 * page, PROT_READ);

	atomic_store(&other_done, 1);
	return rc ? arg : NULL;
}

static int opened_while_told(void *arg)
{
	struct hf_switch *a = open_one(), *b;
	struct hf_provider *p;
	char *mem = map();
	pthread_t thread;
	uint64_t id = 0;
	void *failed;
	bool odd;

	CHILD_CHECK(a && hf_secure(a, mem, page, HF_READ | HF_NOTIFY, wait_for_step, NULL, &id) == 0);
	CHILD_CHECK(pthread_create(&thread, NULL, protect_two, mem) == 0);
	UNTIL(step == 1);
	b = open_one();
	p = b ? check_sim(b, NULL, NULL) : NULL;
	CHILD_CHECK(p);
	pthread_mutex_lock(&p->cache.lock);
	atomic_store(&step, 2);
	while (!atomic_load(&other_done))
		usleep(100);
	odd = hf_changes_word(hf_sink_part(&b->sink[0], SUPERVISE_PART)) & 1;
	pthread_mutex_unlock(&p->cache.lock);
	pthread_join(thread, &failed);
	CHILD_CHECK(!failed && odd);
	UNTIL(!(hf_changes_word(hf_sink_part(&b->sink[0], SUPERVISE_PART)) & 1));
	return 0;
}

/* uffd's blind spots are closed: nothing that was registered before is a hit afterwards. */
static int blind_spots(void *arg)
{
	struct hf_switch *sw = open_one();
	struct hf_provider *p = sw ? check_sim(sw, NULL, NULL) : NULL;
	int segment = shmget(IPC_PRIVATE, page, 0600);
	char *mem = map();

	CHILD_CHECK(p && segment >= 0);
	for (int i = 0; i < 3; i++) {
		char *at = mem + i * page;

		UNTIL(is_hit(p, at));
		if (i == 0)
			CHILD_CHECK(syscall(SYS_shmat, segment, at, SHM_REMAP) == (long)at);
		else if (i == 1)
			CHILD_CHECK(do_madvise(at, page, GUARD_INSTALL) == 0 || errno == EINVAL);
		else
			CHILD_CHECK(do_mprotect(at, page, PROT_READ) == 0);
		UNTIL(hf_sync(p) == 0); /* the index may have been busy for a moment */
		CHILD_CHECK(check_stats(p).invalidations == (uint64_t)i + 1);
	}
	shmctl(segment, IPC_RMID, NULL);
	return 0;
}

/* ... also by several threads, down to the bytes: what uffd doesn't tell of is registered again between told and done. */
static void *getter(void *arg)
{
	struct hf_provider *p = arg;
	struct hf_region r;

	while (!atomic_load(&stop))
		if (hf_get(p, raced, page, HF_READWRITE, &r) == 0)
			hf_put(p, &r);
	return NULL;
}

static bool sees_the_same(struct hf_provider *p, uint64_t want)
{
	struct hf_region r;
	uint64_t got = 0;

	if (hf_get(p, raced, page, HF_READWRITE, &r))
		return false;
	return hf_peek(&r, raced, &got, sizeof(got)) == 0 && got == want && hf_put(p, &r) == 0;
}

static int blind_spots_raced(void *arg)
{
	struct hf_switch *sw = open_one();
	struct hf_provider *p = NULL;
	uint64_t began = check_now_ms(), n = 0;
	pthread_t id[2];

	raced = map();
	if (hf_provider_open(sw, "uring", NULL, &p))
		return 77;
	for (int i = 0; i < 2; i++)
		CHILD_CHECK(pthread_create(&id[i], NULL, getter, p) == 0);
	for (; n < 4000 && (n < 10 || check_now_ms() - began < 4000); n++) {
		if (do_madvise(raced, page, GUARD_INSTALL))
			break; /* before 6.13 */
		CHILD_CHECK(do_madvise(raced, page, GUARD_INSTALL + 1) == 0);
		*(volatile uint64_t *)raced = n;
		CHILD_CHECK(sees_the_same(p, n));
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(id[i], NULL);
	return 0;
}

/* ------------------------------------------------------------------ R38, R39: children, exec, the end */

static int child_of_owner(struct hf_switch *sw, char *p, uint64_t id)
{
	struct hf_switch *other = NULL;

	CHILD_CHECK(hf_unsecure(sw, id) == -EOWNERDEAD);
	CHILD_CHECK(do_mprotect(p, page, PROT_READ) == 0);
	CHILD_CHECK(do_munmap(p, PAGES * page) == 0); /* its own copy */
	CHILD_CHECK(hf_switch_open("proxy=supervise", &other) == -EBUSY && strstr(hf_error(), "forked"));
	/* ThreadSanitizer lets the child of a process with threads start none. */
	CHILD_CHECK(CHECK_TSAN || (hf_switch_open("proxy=auto", &other) == 0 && hf_switch_close(other) == 0));
	return 0;
}

/* R39 */
static int forked_child(void *arg)
{
	struct hf_switch *sw = open_one();
	char *p = map();
	uint64_t id = deny(sw, p, 4, HF_READWRITE);
	int status = -1;
	pid_t pid;

	CHILD_CHECK(sw && id && (pid = fork()) >= 0);
	if (!pid)
		_exit(child_of_owner(sw, p, id));
	CHILD_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHILD_CHECK(fails(do_munmap(p, page), EBUSY) && intact(p));
	CHILD_CHECK(hf_unsecure(sw, id) == 0 && do_munmap(p, page) == 0);
	return 0;
}

#if CHECK_TSAN /* replaces clone(3) by one that prepares for a fork */
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

/* While the owner is stopped, as by a debugger, its children are served. */
static int child_of_stopped(pid_t owner)
{
	int failed = 0;

	kill(owner, SIGSTOP);
	for (int i = 0; i < 200; i++)
		failed += do_munmap(do_map(page), page) != 0;
	kill(owner, SIGCONT);
	return failed;
}

static int owner_is_stopped(void *arg)
{
	struct hf_switch *sw = open_one();
	pid_t pid, owner = getpid();
	char *p = map();
	int status;

	CHILD_CHECK(sw && deny(sw, p, 4, HF_READWRITE) && (pid = fork()) >= 0);
	if (!pid)
		_exit(child_of_stopped(owner));
	CHILD_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHILD_CHECK(fails(do_munmap(p, page), EBUSY));
	return 0;
}

static char *vfork_page;
static int vfork_error;

static int vfork_main(void *arg)
{
	vfork_error = syscall(SYS_munmap, vfork_page, page) == 0 ? 0 : errno;
	syscall(SYS_exit, 0);
	return 0;
}

/* A child that shares the memory: its munmap is the owner's. */
static int vfork_child(void *arg)
{
	static char stack[65536] __attribute__((aligned(64)));
	struct hf_switch *sw = open_one();
	char *argv[] = { (char *)"true", NULL };
	int status;
	pid_t pid;

	vfork_page = map();
	CHILD_CHECK(sw && deny(sw, vfork_page, 4, HF_READWRITE));
	pid = clone(vfork_main, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	CHILD_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && vfork_error == EBUSY);
	CHILD_CHECK(posix_spawnp(&pid, "true", NULL, NULL, argv, NULL) == 0);
	CHILD_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHILD_CHECK(intact(vfork_page));
	return 0;
}

/* In a new program of a process whose former one had denied FIXED_PLACE, or of which a parent is supervised. */
static int new_program(const char *what)
{
	struct hf_switch *sw;
	char *p = FIXED_PLACE;

	if (!strcmp(what, "--open"))
		return hf_switch_open("proxy=supervise", &sw) == -EBUSY && strstr(hf_error(), "inherited") ? 0 : 1;
	CHILD_CHECK(do_map_fixed(p, 4 * page) == (long)p && do_mprotect(p, page, PROT_NONE) == 0);
	CHILD_CHECK(do_madvise(p, 4 * page, MADV_DONTNEED) == 0 && do_munmap(p, 4 * page) == 0);
	return 0;
}

static int exec_self(const char *what)
{
	const char *argv[] = { self, what, NULL };

	execv("/proc/self/exe", (char **)argv);
	return 1;
}

/* In a process that has the owner's memory, and keeps it after the owner has executed. */
static int keeper_main(void *arg)
{
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	atomic_store((_Atomic int *)arg, 1);
	for (;;)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	return 0;
}

/* R38: released, though the memory is still there. */
static int owner_executes_shared(void *arg)
{
	static char stack[65536] __attribute__((aligned(64)));
	struct hf_switch *sw = open_one();
	static _Atomic int there;

	CHILD_CHECK(sw && do_map_fixed(FIXED_PLACE, 4 * page) == (long)FIXED_PLACE);
	CHILD_CHECK(deny(sw, FIXED_PLACE, 4, HF_READWRITE));
	CHILD_CHECK(clone(keeper_main, stack + sizeof(stack), CLONE_VM | SIGCHLD, &there) > 0);
	UNTIL(there);
	return exec_self("--unmap");
}

/* R38 */
static int owner_executes(void *arg)
{
	struct hf_switch *sw = open_one();

	CHILD_CHECK(sw && do_map_fixed(FIXED_PLACE, 4 * page) == (long)FIXED_PLACE);
	CHILD_CHECK(deny(sw, FIXED_PLACE, 4, HF_READWRITE));
	CHILD_CHECK(fails(do_munmap(FIXED_PLACE, page), EBUSY));
	return exec_self("--unmap");
}

static int child_executes(void *arg)
{
	struct hf_switch *sw = open_one();
	int status;
	pid_t pid;

	CHILD_CHECK(sw && do_map_fixed(FIXED_PLACE, 4 * page) == (long)FIXED_PLACE);
	CHILD_CHECK(deny(sw, FIXED_PLACE, 4, HF_READWRITE));
	for (int i = 0; i < 2; i++) {
		pid = fork();
		if (!pid)
			_exit(exec_self(i ? "--open" : "--unmap"));
		CHILD_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
	CHILD_CHECK(fails(do_munmap(FIXED_PLACE, page), EBUSY));
	return 0;
}

/* Gone, or a zombie that init hasn't reaped yet. */
static bool is_gone(uint32_t pid)
{
	char path[64], buf[512];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n <= 0 || strstr(buf, ") Z ") || strstr(buf, ") X ");
}

struct report {
	_Atomic int step;
	_Atomic uint32_t worker, guardian;
	_Atomic int failed;
	_Atomic int unmaps;
};

static void orphan(struct report *r, char *p)
{
	while (atomic_load(&r->step) < 3) {
		r->failed += do_munmap(do_map(page), page) != 0;
		r->unmaps++;
	}
	r->failed += do_munmap(p, page) != 0;
	_exit(0);
}

static int owner_to_be_killed(struct report *r)
{
	struct hf_switch *sw = open_one();
	char *p = map();

	CHILD_CHECK(sw && deny(sw, p, 4, HF_READWRITE));
	UNTIL(supervise_shared()->worker && supervise_shared()->guardian);
	r->worker = supervise_shared()->worker;
	r->guardian = supervise_shared()->guardian;
	if (fork() == 0)
		orphan(r, p);
	atomic_store(&r->step, 1);
	for (;;)
		pause();
}

/* R38, R41: SIGKILL of the owner releases everything; its children go on, the helper goes with the last one. */
static int owner_is_killed(void *arg)
{
	struct report *r = mmap(NULL, page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status, before;
	pid_t pid = fork();

	if (!pid)
		_exit(owner_to_be_killed(r));
	UNTIL(r->step == 1 && r->unmaps > 100);
	kill(pid, SIGKILL);
	CHILD_CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
	before = r->unmaps;
	UNTIL(r->unmaps > before + 1000);
	CHILD_CHECK(!is_gone(r->worker) && !is_gone(r->guardian));
	atomic_store(&r->step, 3);
	UNTIL(is_gone(r->worker) && is_gone(r->guardian));
	CHILD_CHECK(!r->failed);
	return 0;
}

/* ------------------------------------------------------------------ R41: the helper itself */

static _Atomic int failures;
static _Atomic uint64_t unmapped;

/* A change whose call has returned. That may be told later than the library waits, never as none. */
static bool was_told(struct hf_switch *sw, uint64_t id)
{
	int rc = -EAGAIN;

	for (int i = 0; i < 600 && rc == -EAGAIN; i++)
		rc = hf_secured_changed(sw, id);
	return rc == 1;
}

/* Unmaps without pause; `arg`: a switch, and some of it is secured. */
static void *unmapper(void *arg)
{
	struct hf_switch *sw = arg;

	while (!atomic_load(&stop)) {
		char *p = do_map(2 * page);
		uint64_t id = 0;
		bool secured = sw && hf_secure(sw, p, page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id) == 0;

		if (do_munmap(p, 2 * page))
			atomic_fetch_add(&failures, 1);
		if (secured && (!was_told(sw, id) || hf_unsecure(sw, id)))
			atomic_fetch_add(&failures, 1);
		atomic_fetch_add(&unmapped, 1);
	}
	return NULL;
}

#define STORM 8

static bool start_storm(pthread_t id[STORM], struct hf_switch *sw, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&id[i], NULL, unmapper, i % 2 ? sw : NULL))
			return false;
	return true;
}

static void end_storm(pthread_t id[STORM], unsigned n)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(id[i], NULL);
}

/* One of the two is killed, and both by turns: no call fails, none hangs. */
static int helper_is_killed(void *arg)
{
	struct hf_switch *sw = open_one();
	struct sup_shared *s = supervise_shared();
	pthread_t id[STORM];
	char *p = map();

	CHILD_CHECK(sw && deny(sw, p, 4, HF_READWRITE) && start_storm(id, sw, 4));
	UNTIL(s->worker && s->guardian); /* or it would be the whole process group that is killed */
	for (int i = 0; i < 60; i++) {
		uint32_t worker = s->worker, guardian = s->guardian;
		uint64_t before = unmapped;

		kill((pid_t)(i % 3 == 2 ? guardian : worker), SIGKILL);
		UNTIL(s->worker != worker && s->guardian && !is_gone(s->worker) && !is_gone(s->guardian));
		UNTIL(unmapped > before + 20);
		CHILD_CHECK(fails(do_munmap(p, page), EBUSY));
	}
	end_storm(id, 4);
	CHILD_CHECK(!failures && intact(p));
	return 0;
}

static void *unmap_one(void *arg)
{
	struct report *r = arg;
	char *p = do_map(page);

	atomic_store(&r->step, 1);
	while (atomic_load(&r->step) == 1)
		;
	atomic_store(&r->step, 3);
	r->failed = do_munmap(p, page) != 0;
	atomic_store(&r->step, 4);
	return NULL;
}

/* R41 A stopped worker is continued by the guardian; both stopped, calls wait, and go on afterwards. */
static int helper_is_stopped(void *arg)
{
	struct hf_switch *sw = open_one();
	struct sup_shared *s = supervise_shared();
	static struct report r;
	char *p = do_map(page);
	pthread_t id;

	CHILD_CHECK(sw);
	UNTIL(s->worker && s->guardian);
	kill((pid_t)s->worker, SIGSTOP);
	CHILD_CHECK(do_munmap(p, page) == 0);
	CHILD_CHECK(pthread_create(&id, NULL, unmap_one, &r) == 0);
	UNTIL(r.step == 1);
	kill((pid_t)s->guardian, SIGSTOP);
	kill((pid_t)s->worker, SIGSTOP);
	atomic_store(&r.step, 2);
	UNTIL(r.step == 3);
	usleep(20000); /* most likely it waits now; if not, this proves less */
	kill((pid_t)s->worker, SIGCONT);
	UNTIL(r.step == 4);
	kill((pid_t)s->guardian, SIGCONT);
	pthread_join(id, NULL);
	CHILD_CHECK(!r.failed);
	return 0;
}

/* An errno of before, when the socket ends: a thread that takes it for the end's polls for ever. */
static void leave_errno(void *arg, void *addr, size_t len)
{
	atomic_fetch_add(&times, 1);
	errno = EAGAIN;
}

/* Both killed at once: the kernel answers ENOSYS, nothing is unmapped, nothing is a hit, and that is said. */
static int helpers_are_killed(void *arg)
{
	struct hf_switch *sw = open_one(), *other = NULL;
	struct hf_provider *p = sw ? check_sim(sw, NULL, NULL) : NULL;
	struct sup_shared *s = supervise_shared();
	char *mem = map();
	uint64_t id;

	CHILD_CHECK(p);
	UNTIL(is_hit(p, mem));
	CHILD_CHECK(hf_secure(sw, mem + page, page, HF_READ | HF_NOTIFY, leave_errno, NULL, &id) == 0);
	CHILD_CHECK(do_mprotect(mem + page, page, PROT_READ) == 0 && do_mprotect(mem + page, page, RW) == 0 && times);
	UNTIL(s->worker && s->guardian);
	kill((pid_t)s->guardian, SIGSTOP); /* or it would be faster */
	kill((pid_t)s->worker, SIGKILL);
	kill((pid_t)s->guardian, SIGKILL);
	UNTIL(do_munmap(mem, page) == -1 && errno == ENOSYS);
	UNTIL(hf_secure(sw, mem, page, HF_READ | HF_DENY, NULL, NULL, &id) == -EBADF);
	CHILD_CHECK(intact(mem));
	UNTIL(!(check_touch(p, mem, page, HF_READ) & (HF_REGION_HIT | HF_REGION_CACHED)));
	CHILD_CHECK(hf_switch_open("proxy=supervise", &other) == -EBADF);
	return 0;
}

/* The program closes what isn't its own, as daemons do: what is denied stays denied, nothing is a hit. */
static int descriptors_are_closed(void *arg)
{
	struct hf_switch *sw = open_one();
	struct hf_provider *p = sw ? check_sim(sw, NULL, NULL) : NULL;
	char *mem = map();

	CHILD_CHECK(p);
	UNTIL(is_hit(p, mem));
	CHILD_CHECK(deny(sw, mem + 4 * page, 1, HF_READWRITE));
	for (int fd = 3; fd < 100; fd++)
		close(fd);
	/* The thread that polls the socket keeps it open: it learns of it when it is asked. */
	CHILD_CHECK(do_munmap(mem, page) == 0);
	UNTIL(supervise_shared()->deaf);
	CHILD_CHECK(fails(do_munmap(mem + 4 * page, page), EBUSY));
	CHILD_CHECK(do_map_fixed(mem, page) == (long)mem && !is_hit(p, mem));
	return 0;
}

static _Atomic int sigchlds;

static void on_sigchld(int sig)
{
	atomic_fetch_add(&sigchlds, 1);
}

/* The program sees no child, no signal, and of descriptors the socket only. */
static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int nobody_sees_it(void *arg)
{
	struct hf_switch *sw = NULL;
	unsigned before;

	signal(SIGCHLD, on_sigchld);
	check_count_all_maps(); /* what the library keeps open for itself is open */
	CHILD_CHECK(hf_switch_open("proxy=uffd", &sw) == 0 || true);
	hf_range_check((uintptr_t)&before & ~(page - 1), ((uintptr_t)&before & ~(page - 1)) + page, HF_READ);
	if (sw)
		hf_switch_close(sw);
	before = count_fds();
	sw = open_one();
	CHILD_CHECK(sw && waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
	CHILD_CHECK(hf_switch_close(sw) == 0);
	CHILD_CHECK(count_fds() == before + 1);
	/* Taken up again: nothing more. */
	for (int i = 0; i < 20; i++) {
		sw = open_one();
		CHILD_CHECK(sw && hf_switch_close(sw) == 0);
	}
	CHILD_CHECK(count_fds() == before + 1 && !sigchlds);
	CHILD_CHECK(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
	return 0;
}

/* Several switches at once: each is told, what one denies the close of another doesn't release. */
static int several_switches(void *arg)
{
	struct hf_switch *a = open_one(), *b = open_one();
	char *p = map();
	uint64_t watch_a = 0, watch_b = 0, id = deny(b, p + 8 * page, 1, HF_READWRITE);

	CHILD_CHECK(a && b && id);
	/* What one userfaultfd has armed, another one can't: so b has a mapping of its own. */
	char *q = map();
	CHILD_CHECK(hf_secure(a, p, page, HF_READ | HF_NOTIFY, NULL, NULL, &watch_a) == 0);
	CHILD_CHECK(hf_secure(b, q, page, HF_READ | HF_NOTIFY, NULL, NULL, &watch_b) == 0);
	CHILD_CHECK(do_munmap(p, page) == 0);
	CHILD_CHECK(hf_secured_changed(a, watch_a) == 1 && hf_secured_changed(b, watch_b) == 0);
	CHILD_CHECK(do_munmap(q, page) == 0);
	CHILD_CHECK(hf_secured_changed(b, watch_b) == 1);
	CHILD_CHECK(hf_unsecure(a, watch_a) == 0 && hf_switch_close(a) == 0);
	CHILD_CHECK(fails(do_munmap(p + 8 * page, page), EBUSY));
	CHILD_CHECK(hf_unsecure(b, id) == 0 && hf_unsecure(b, watch_b) == 0 && hf_switch_close(b) == 0);
	CHILD_CHECK(do_munmap(p, PAGES * page) == 0);
	return 0;
}

/* ------------------------------------------------------------------ hazard 43: signals during the wait */

#define SIGNALLED ((CHECK_TSAN ? 2000 : 5000) / check_scale())

static void on_signal(int sig)
{
}

static _Atomic bool signalling;
static pthread_t target;

static void *signaller(void *arg)
{
	atomic_store(&signalling, true);
	while (!atomic_load(&stop)) {
		pthread_kill(target, SIGUSR1);
		sched_yield();
	}
	return NULL;
}

/* How many of n were interrupted. -1: one was lost, or done and reported as not. */
static int interrupted(unsigned n)
{
	int count = 0;

	for (unsigned i = 0; i < n; i++) {
		char *p = do_map(page);
		unsigned char there;

		while (do_munmap(p, page)) {
			if (errno != EINTR || mincore(p, page, &there))
				return -1;
			count++;
		}
		if (mincore(p, page, &there) == 0)
			return -1;
	}
	return count;
}

static int signals(void *arg)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = arg ? SA_RESTART : 0 };
	struct hf_switch *sw = open_one();
	pthread_t id;
	int n;

	target = pthread_self();
	sigaction(SIGUSR1, &action, NULL);
	CHILD_CHECK(sw && pthread_create(&id, NULL, signaller, NULL) == 0);
	UNTIL(signalling);
	n = interrupted(SIGNALLED);
	atomic_store(&stop, true);
	pthread_join(id, NULL);
	CHILD_CHECK(n >= 0 && (!arg || n == 0));
	printf("  %s: %d interruptions before they were received, in %u calls under a storm of signals\n",
	       arg ? "SA_RESTART" : "no SA_RESTART", n, SIGNALLED);
	fflush(stdout);
	return 0;
}

/* ------------------------------------------------------------------ the start */

/* Threads that run get the filter, too. */
static int threads_at_start(void *arg)
{
	struct hf_switch *sw;
	pthread_t id[STORM];
	char *p = map();

	CHILD_CHECK(start_storm(id, NULL, 4));
	UNTIL(unmapped > 100);
	sw = open_one();
	CHILD_CHECK(sw && deny(sw, p, 4, HF_READWRITE));
	UNTIL(supervise_shared()->received > 500);
	end_storm(id, 4);
	CHILD_CHECK(!failures && fails(do_munmap(p, page), EBUSY));
	return 0;
}

/* A call that was in the kernel before the filter: it waits for a userfaultfd of the test's, then empties what is denied. */
static int watch_removal(char *p)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register reg = { { (uintptr_t)p, page }, UFFDIO_REGISTER_MODE_MISSING, 0 };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &reg) == 0 ? fd : -1;
}

static void *empty_one(void *arg)
{
	return do_madvise(arg, page, MADV_DONTNEED) ? arg : NULL;
}

static int calls_of_before(void *arg)
{
	char *p = map(), *q = p + 4 * page;
	int fd = watch_removal(p);
	struct pollfd event = { fd, POLLIN, 0 };
	struct hf_switch *sw;
	struct uffd_msg msg;
	pthread_t thread;
	uint64_t id = 0;
	void *failed;

	CHILD_CHECK(fd >= 0 && pthread_create(&thread, NULL, empty_one, p) == 0);
	CHILD_CHECK(poll(&event, 1, LONG_MS) == 1);
	sw = open_one();
	CHILD_CHECK(sw && hf_secure(sw, p, page, HF_READ | HF_DENY, NULL, NULL, &id) == -EAGAIN && !id);
	CHILD_CHECK(strstr(hf_error(), "since before"));
	/* It ends, and then it can be denied: by the last attempt nothing was. */
	CHILD_CHECK(read(fd, &msg, sizeof(msg)) == sizeof(msg));
	pthread_join(thread, &failed);
	CHILD_CHECK(!failed && do_munmap(q, page) == 0);
	close(fd);
	CHILD_CHECK(deny(sw, p, 2, HF_READ) && p[page] == 2 && fails(do_madvise(p, page, MADV_DONTNEED), EBUSY));
	return 0;
}

static void *own_filter(void *arg)
{
	struct sock_filter allow = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW };
	struct sock_fprog program = { 1, &allow };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0)
		atomic_store(&signalling, true);
	while (!atomic_load(&stop))
		usleep(1000);
	return NULL;
}

static int thread_with_filter(void *arg)
{
	struct hf_switch *sw = NULL;
	unsigned before = count_fds();
	pthread_t id;

	CHILD_CHECK(pthread_create(&id, NULL, own_filter, NULL) == 0);
	UNTIL(signalling);
	CHILD_CHECK(hf_switch_open("proxy=supervise", &sw) == -EPERM && strstr(hf_error(), "filter of its own"));
	CHILD_CHECK(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
	atomic_store(&stop, true);
	pthread_join(id, NULL);
	CHILD_CHECK(count_fds() <= before + 1); /* /proc/self/maps, which the library keeps */
	/* Without that thread it goes. */
	sw = open_one();
	CHILD_CHECK(sw && hf_switch_close(sw) == 0);
	return 0;
}

static int no_new_privs(void)
{
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
}

/* Set only where the filter could not be loaded otherwise. */
static int privileges(void *arg)
{
	bool root = geteuid() == 0;
	struct hf_switch *sw;

	if (arg && root)
		CHILD_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	CHILD_CHECK(no_new_privs() == 0);
	sw = open_one();
	CHILD_CHECK(sw);
	if (arg)
		CHILD_CHECK(no_new_privs() == 1);
	else
		CHILD_CHECK(no_new_privs() == !root);
	return 0;
}

/* The probe leaves nothing behind. */
static int probe_leaves_nothing(void *arg)
{
	struct hf_probe probe = { .name = "" };
	int nnp = no_new_privs();

	for (unsigned i = 0; strcmp(probe.name, "supervise"); i++)
		CHILD_CHECK(hf_proxy_probe(i, &probe) == 0);
	CHILD_CHECK(probe.available == 0 && (probe.caps & HF_CAP_DENY) && no_new_privs() == nnp);
	CHILD_CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0 && !supervise_shared());
	CHILD_CHECK(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
	return 0;
}

struct start {
	int n; /* the step that fails */
	uint32_t worker, guardian;
};

/* Every step of the start that can fail, one after the other: a clear error, nothing left; then it works. */
static int start_fails_at(void *arg)
{
	struct start *t = arg;
	int n = t->n;
	unsigned before = count_fds();
	struct hf_switch *sw = NULL;
	bool hit;
	int rc;

	hf_fault_arm(n);
	rc = hf_switch_open("proxy=supervise", &sw);
	hit = hf_fault_last() != NULL;
	hf_fault_arm(0);
	if (rc)
		CHILD_CHECK(hit && *hf_error() && !sw && count_fds() <= before + 1);
	if (!sw)
		sw = open_one();
	CHILD_CHECK(sw && deny(sw, map(), 1, HF_READWRITE));
	UNTIL(supervise_shared()->guardian);
	t->worker = supervise_shared()->worker;
	t->guardian = supervise_shared()->guardian;
	return hit ? 0 : 99;
}

/* ------------------------------------------------------------------ storms and races */

static int storm(void *arg)
{
	struct hf_switch *sw = open_one();
	pthread_t id[STORM];
	char *p = map();

	CHILD_CHECK(sw && deny(sw, p, 4, HF_READWRITE) && start_storm(id, sw, STORM));
	for (int i = 0; i < 300; i++)
		CHILD_CHECK(fails(do_munmap(p, page), EBUSY));
	UNTIL(unmapped > 20000 && supervise_shared()->asked_count > 100);
	end_storm(id, STORM);
	CHILD_CHECK(!failures && intact(p));
	return 0;
}

/* From the return of deny on nothing replaces the page, whatever was let through just before. */
static void *replacer(void *arg)
{
	while (!atomic_load(&stop)) {
		do_map_fixed(raced, page);
		do_madvise(raced, page, MADV_DONTNEED);
	}
	return NULL;
}

static int deny_race(void *arg)
{
	struct hf_switch *sw = open_one();
	uint64_t began = check_now_ms(), id;
	pthread_t thread[2];
	unsigned done = 0;
	int rc;

	raced = map();
	for (int i = 0; i < 2; i++)
		CHILD_CHECK(sw && pthread_create(&thread[i], NULL, replacer, NULL) == 0);
	while (done < 1000 && (check_now_ms() - began < 4000 || !done)) {
		rc = hf_secure(sw, raced, page, HF_READWRITE | HF_DENY, NULL, NULL, &id);
		CHILD_CHECK(rc == 0 || rc == -EAGAIN);
		if (rc)
			continue;
		*(volatile char *)raced = 77;
		for (int i = 0; i < 50; i++) {
			CHILD_CHECK(*(volatile char *)raced == 77);
			sched_yield();
		}
		CHILD_CHECK(hf_unsecure(sw, id) == 0);
		done++;
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	printf("  %u denied in a race\n", done);
	fflush(stdout);
	return 0;
}

/* ------------------------------------------------------------------ all of them */

#define TEST(name)                                    \
	static void t_##name(void **state)            \
	{                                             \
		run(name);                            \
	}
TEST(deny_frees)
TEST(deny_stricter)
TEST(deny_read_only)
TEST(allowed_beside)
TEST(deny_overlapping)
TEST(deny_not_possible)
TEST(deny_other_mappings)
TEST(deny_brk)
TEST(refused_is_not_told)
TEST(told_before)
TEST(others_are_served)
TEST(index_is_busy)
TEST(opened_while_told)
TEST(blind_spots)
TEST(owner_is_stopped)
TEST(forked_child)
TEST(vfork_child)
TEST(owner_executes)
TEST(owner_executes_shared)
TEST(child_executes)
TEST(owner_is_killed)
TEST(helper_is_killed)
TEST(helper_is_stopped)
TEST(nobody_sees_it)
TEST(several_switches)
TEST(threads_at_start)
TEST(calls_of_before)
TEST(thread_with_filter)
TEST(probe_leaves_nothing)
TEST(storm)
TEST(deny_race)

/* A sanitizer changes mappings for itself all the time, and aborts at the first ENOSYS. */
static void t_helpers_are_killed(void **state)
{
	if (CHECK_ASAN || CHECK_TSAN)
		skip();
	run(helpers_are_killed);
}

/* To close a descriptor that another thread uses is a race, and that is what this test does. */
static void t_descriptors_are_closed(void **state)
{
	if (CHECK_TSAN)
		skip();
	run(descriptors_are_closed);
}

static void t_blind_spots_raced(void **state)
{
	int rc = check_child(blind_spots_raced, NULL);

	if (rc == 77)
		skip();
	assert_int_equal(rc, 0);
}

#ifdef __x86_64__
static int has_int80(void *arg)
{
	return by_int80(20 /* getpid */, 0, 0, 0) == getpid() ? 0 : 1;
}

static void t_deny_other_abis(void **state)
{
	bool int80 = check_child(has_int80, NULL) == 0;

	assert_int_equal(check_child(deny_other_abis, int80 ? state : NULL), 0);
}
#endif

static void t_signals(void **state)
{
	assert_int_equal(check_child(signals, NULL), 0);
	assert_int_equal(check_child(signals, (void *)1), 0);
}

static void t_privileges(void **state)
{
	assert_int_equal(check_child(privileges, NULL), 0);
	assert_int_equal(check_child(privileges, (void *)1), 0);
}

static void t_start_fails(void **state)
{
	struct start *t = mmap(NULL, page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t began;
	int rc;

	t->n = 1;
	while ((rc = check_child(start_fails_at, t)) == 0) {
		t->n += CHECK_TSAN ? 5 : 1; /* a process of ThreadSanitizer's takes a second to end */
		/* It ends with who started it, whichever of the two it is. */
		began = check_now_ms();
		while (!(is_gone(t->worker) && is_gone(t->guardian)) && check_now_ms() - began < LONG_MS)
			usleep(500);
		assert_true(is_gone(t->worker) && is_gone(t->guardian));
	}
	assert_int_equal(rc, 99);
	assert_true(t->n > 12);
	munmap(t, page);
}

/* What a call counts as, down to the page. */
static void decoding(void **state)
{
	enum { K = 0x1000 };
	static const struct {
		uint32_t arch;
		int nr;
		uint64_t arg[6];
		uint32_t what, find, ranges;
		struct sup_range range[2];
	} want[] = {
#ifdef __x86_64__
		{ AUDIT_ARCH_X86_64, 11, { 8 * K, K + 1 }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, 10 * K } } },
		{ AUDIT_ARCH_X86_64, 11, { 8 * K, 0 }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_X86_64, 11, { 8 * K + 1, K }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_X86_64, 11, { 8 * K, UINT64_MAX }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, UINT64_MAX } } },
		{ AUDIT_ARCH_X86_64, 11 | SUP_X32_BIT, { 8 * K, K }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, 9 * K } } },
		{ AUDIT_ARCH_X86_64, 10, { 8 * K, K, 1 }, SUP_PROTECTS, SUP_FOUND, 1, { { 8 * K, 9 * K } } },
		{ AUDIT_ARCH_X86_64, 12, { 8 * K }, SUP_FREES, SUP_FIND_BREAK, 1, { { 8 * K, 99 * K } } },
		{ AUDIT_ARCH_X86_64, 12, { 99 * K }, SUP_FREES, SUP_FIND_BREAK, 0, { { 0 } } },
		/* mremap: cut, grow in place, grow, move, away and onto, leave behind */
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, K, 0 }, SUP_FREES, SUP_FOUND, 1, { { 9 * K, 12 * K } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, 8 * K, 0 }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, 4 * K - 9, 1 }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, 5 * K, 1 }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, 12 * K } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, 2 * K, 3, 64 * K }, SUP_FREES, SUP_FOUND, 2,
		  { { 8 * K, 12 * K }, { 64 * K, 66 * K } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 0, 2 * K, 3, 64 * K }, SUP_FREES, SUP_FOUND, 1,
		  { { 64 * K, 66 * K } } },
		{ AUDIT_ARCH_X86_64, 25, { 8 * K, 4 * K, 4 * K, 5 }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, 12 * K } } },
		{ AUDIT_ARCH_X86_64, 30, { 5, 8 * K, 0 }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_X86_64, 30, { 5, 8 * K + 9, SHM_REMAP | SHM_RND }, SUP_FREES, SUP_FIND_SIZE, 1,
		  { { 8 * K, UINT64_MAX } } },
		{ AUDIT_ARCH_X86_64, 1, { 8 * K, K }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
		{ AUDIT_ARCH_I386, 11, { 8 * K, K }, SUP_FREES, SUP_FOUND, 0, { { 0 } } }, /* execve */
		{ AUDIT_ARCH_I386, 91, { 8 * K, K }, SUP_FREES, SUP_FOUND, 1, { { 8 * K, 9 * K } } },
		{ AUDIT_ARCH_I386, 90, { 8 * K }, SUP_FREES, SUP_FOUND, 1, { { 0, UINT64_MAX } } },
		{ AUDIT_ARCH_I386, 117, { 22, 0, 0, 0, 8 * K }, SUP_FREES, SUP_FIND_SEGMENT, 1, { { 8 * K, UINT64_MAX } } },
		{ AUDIT_ARCH_I386, 117, { 21, 5, SHM_REMAP, 0, 8 * K }, SUP_FREES, SUP_FIND_SIZE, 1,
		  { { 8 * K, UINT64_MAX } } },
		{ AUDIT_ARCH_I386, 117, { 21, 5, 0, 0, 8 * K }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
#endif
		{ 0, 0, { 0 }, SUP_FREES, SUP_FOUND, 0, { { 0 } } },
	};

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct seccomp_data d = { .arch = want[i].arch, .nr = want[i].nr };
		struct sup_call c;

		for (int a = 0; a < 6; a++)
			d.args[a] = want[i].arg[a];
		decode(&d, K, 99 * K, &c);
		if (c.what != want[i].what || c.find != want[i].find || c.ranges != want[i].ranges)
			fail_msg("row %zu: what %u find %u ranges %u", i, c.what, c.find, c.ranges);
		for (uint32_t r = 0; r < c.ranges; r++)
			if (c.range[r].start != want[i].range[r].start || c.range[r].end != want[i].range[r].end)
				fail_msg("row %zu: range %u is 0x%lx-0x%lx", i, r, (long)c.range[r].start, (long)c.range[r].end);
	}
}

/*
 * ThreadSanitizer's runtime unmaps with locks of its own held, which the instrumented library needs to answer: a storm of
 * calls ends in a deadlock now and then, of which nothing is ours. (docs/architecture.md: a program that is instrumented with
 * a library that isn't has no such trouble.)
 */
static void left_out(void **state)
{
	skip();
}

#define STORMY(test) { #test, CHECK_TSAN ? left_out : test, NULL, NULL, NULL }

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_deny_frees), cmocka_unit_test(t_deny_stricter), cmocka_unit_test(t_deny_read_only),
		cmocka_unit_test(t_allowed_beside), cmocka_unit_test(t_deny_overlapping),
		cmocka_unit_test(t_deny_not_possible), cmocka_unit_test(t_deny_other_mappings),
		cmocka_unit_test(t_deny_brk), cmocka_unit_test(t_refused_is_not_told), cmocka_unit_test(t_told_before),
		cmocka_unit_test(t_others_are_served), cmocka_unit_test(t_index_is_busy), cmocka_unit_test(t_blind_spots),
		cmocka_unit_test(t_opened_while_told), cmocka_unit_test(t_calls_of_before),
		cmocka_unit_test(t_owner_executes_shared),
		cmocka_unit_test(t_forked_child), cmocka_unit_test(t_vfork_child), cmocka_unit_test(t_owner_executes),
		cmocka_unit_test(t_child_executes), cmocka_unit_test(t_owner_is_killed),
		cmocka_unit_test(t_helper_is_killed), cmocka_unit_test(t_helper_is_stopped),
		cmocka_unit_test(t_nobody_sees_it), cmocka_unit_test(t_several_switches), cmocka_unit_test(t_signals),
		cmocka_unit_test(t_threads_at_start), cmocka_unit_test(t_thread_with_filter),
		cmocka_unit_test(t_privileges), cmocka_unit_test(t_probe_leaves_nothing), cmocka_unit_test(t_start_fails),
		STORMY(t_storm), cmocka_unit_test(t_deny_race), STORMY(t_blind_spots_raced),
		cmocka_unit_test(t_owner_is_stopped), cmocka_unit_test(t_helpers_are_killed),
		cmocka_unit_test(t_descriptors_are_closed), cmocka_unit_test(decoding),
#ifdef __x86_64__
		cmocka_unit_test(t_deny_other_abis),
#endif
	};
	struct hf_probe probe = { .name = "" };

	page = check_page();
	self = argv[0];
	if (argc == 2 && !strncmp(argv[1], "--", 2))
		return new_program(argv[1]);
	unsetenv("HOLDFAST");
	if (argc == 2)
		cmocka_set_test_filter(argv[1]);
	for (unsigned i = 0; strcmp(probe.name, "supervise"); i++)
		if (hf_proxy_probe(i, &probe))
			return 1;
	if (probe.available) {
		print_message("skipped: %s\n", probe.reason);
		return 77;
	}
	return cmocka_run_group_tests_name("supervise", tests, NULL, NULL);
}
