/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NIC `uring`, on the real kernel and without a cache in between: its table of operations is called
 * directly, except in the last group, which goes through the public calls of conn.c.
 *
 * Everything fits into RLIMIT_MEMLOCK = 8 MiB, so that it runs as any user; what needs more is skipped
 * with the reason. Other processes of the same user are charged to the same limit: don't run it in
 * parallel with other tests that pin.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nic/nic.h"
#include "nic/uring.h"
#include "os.h"

#define KIB 1024ul
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define BIG (3 * MIB) /* more than any socket buffers at once */
#define FIRST_USER 61000 /* of numbers that nobody has */
#define TEST_SECONDS 900 /* of a hang only */

static const struct hf_nic_ops *const ops = &hf_nic_uring;
static size_t page;

/* ------------------------------------------------------------------ helpers */

static void *map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	madvise(p, len, MADV_NOHUGEPAGE); /* a huge page would be charged whole */
	return p;
}

/* A byte that tells its place and its message. */
static unsigned char pattern(size_t i, unsigned seed)
{
	return (unsigned char)((i * 2654435761u >> 13) ^ (i >> 8) ^ seed);
}

static void fill(void *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		((unsigned char *)p)[i] = pattern(i, seed);
}

/* How many bytes are wrong. */
static size_t wrong(const void *p, size_t len, unsigned seed)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += ((const unsigned char *)p)[i] != pattern(i, seed);
	return n;
}

static void *nic_open(void)
{
	void *nic = NULL;

	if (ops->open(NULL, NULL, &nic))
		fail_msg("open: %s", hf_error());
	return nic;
}

static int try_reg(void *nic, void *p, size_t len, struct hf_region *r)
{
	struct hf_nic_reg key;
	int rc = ops->reg(nic, (uintptr_t)p, len, HF_READWRITE, &key);

	*r = (struct hf_region){ .addr = (uintptr_t)p, .length = len, .access = HF_READWRITE };
	if (!rc)
		r->lkey = key.lkey;
	return rc;
}

/* A process that was killed is charged until the kernel has worked off its ring: not at once. */
static struct hf_region reg(void *nic, void *p, size_t len)
{
	struct hf_region r;
	int rc = try_reg(nic, p, len, &r);

	for (int i = 0; i < 6000 && rc == -ENOMEM; i++) {
		usleep(10000);
		rc = try_reg(nic, p, len, &r);
	}
	if (rc)
		fail_msg("reg of %zu bytes: %s", len, hf_error());
	return r;
}

static int try_dereg(void *nic, const struct hf_region *r)
{
	struct hf_nic_reg key = { .lkey = r->lkey };

	return ops->dereg(nic, r->addr, r->length, &key);
}

static void dereg(void *nic, const struct hf_region *r)
{
	if (try_dereg(nic, r))
		fail_msg("dereg: %s", hf_error());
}

static void assert_says(const char *words)
{
	if (!strstr(hf_error(), words))
		fail_msg("\"%s\" is not in the sentence \"%s\"", words, hf_error());
}

static long vm_pin_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kib = -1;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPin: %ld", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

/* A kernel before 6.4 uncharges what was deregistered a second later. */
static void wait_vm_pin_kib(long want)
{
	for (int i = 0; i < 6000 && vm_pin_kib() != want; i++)
		usleep(10000);
	assert_int_equal(vm_pin_kib(), want);
}

/* Run fn in a child; its exit status. 128 + n when signal n killed it. */
static int in_child(int (*fn)(void *), void *arg)
{
	pid_t pid;
	int st = 0;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		alarm(TEST_SECONDS);
		_exit(fn(arg));
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
}

static int setup(void **state)
{
	page = (size_t)sysconf(_SC_PAGESIZE);
	alarm(TEST_SECONDS); /* a hang is a failure */
	return ops->open(NULL, NULL, state);
}

static int teardown(void **state)
{
	ops->close(*state);
	return 0;
}

static void pair(int fd[2], unsigned kind);

/* ------------------------------------------------------------------ opening */

static void bad_arguments(void **state)
{
	static const char *const bad[] = { "nonsense",
					   "fd=3",
					   "slots=8",
					   "fd=3,slots=0",
					   "fd=3,slots=16385",
					   "fd=-1,slots=8",
					   "fd=3,slots=8,size=1",
					   "fd=3 slots=8",
					   "fd=,slots=8" };
	void *nic = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ops->open(bad[i], NULL, &nic), -EINVAL);
		assert_says("slots");
		assert_null(nic);
	}
}

static int open_on(int fd, unsigned slots, void **nic)
{
	char arg[64];

	snprintf(arg, sizeof(arg), "fd=%d,slots=%u", fd, slots);
	return ops->open(arg, NULL, nic);
}

static void users_ring_refused(void **state)
{
	struct io_uring ring;
	void *nic = NULL;
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(open_on(p[0], 8, &nic), -EINVAL);
	assert_says("not an io_uring");
	close(p[0]);
	close(p[1]);
	assert_int_equal(open_on(p[0], 8, &nic), -EINVAL);

	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	assert_int_equal(io_uring_register_buffers_sparse(&ring, 4), 0);
	assert_int_equal(open_on(ring.ring_fd, 8, &nic), -EBUSY);
	assert_says("table already");
	io_uring_queue_exit(&ring);

	if (io_uring_queue_init(4, &ring, IORING_SETUP_SINGLE_ISSUER))
		return; /* Linux before 6.0 */
	assert_int_equal(open_on(ring.ring_fd, 8, &nic), -EEXIST);
	assert_says("SINGLE_ISSUER");
	io_uring_queue_exit(&ring);
}

/* The program's own request with the key as buf_index moves the right bytes. */
static void write_fixed(struct io_uring *ring, int fd, const void *p, unsigned len, uint64_t lkey)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;

	io_uring_prep_write_fixed(sqe, fd, p, len, 0, (int)lkey);
	assert_int_equal(io_uring_submit_and_wait(ring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(ring, &cqe), 0);
	assert_int_equal(cqe->res, len);
	io_uring_cqe_seen(ring, cqe);
}

static void users_ring(void **state)
{
	char *mem = map(4 * page), got[64];
	struct io_uring ring;
	struct hf_region r[3];
	void *nic = NULL, *conn;
	int p[2];

	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	assert_int_equal(open_on(ring.ring_fd, 3, &nic), 0);
	fill(mem, 4 * page, 7);
	for (unsigned i = 0; i < 3; i++) {
		r[i] = reg(nic, mem + i * page, page);
		assert_int_equal(r[i].lkey, i);
	}
	assert_int_equal(try_reg(nic, mem + 3 * page, page, &r[0]), -ENOMEM);
	assert_says("3 slots");

	assert_int_equal(pipe(p), 0);
	write_fixed(&ring, p[1], mem + 2 * page, sizeof(got), 2);
	assert_int_equal(read(p[0], got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, mem + 2 * page, sizeof(got));

	assert_int_equal(ops->peek(nic, &r[1], r[1].addr, got, 1), -EOPNOTSUPP);
	assert_int_equal(ops->attach(nic, p[0], &conn), -EOPNOTSUPP);
	assert_says("program's own");

	r[0].lkey = 0;
	for (unsigned i = 0; i < 3; i++)
		dereg(nic, &r[i]);
	ops->close(nic);
	/* The table is gone and the ring lives on. */
	assert_int_equal(io_uring_register_buffers_sparse(&ring, 1), 0);
	io_uring_queue_exit(&ring);
	close(p[0]);
	close(p[1]);
	munmap(mem, 4 * page);
}

/* io_uring_setup answers `err`, as a container's profile makes it. */
static int deny_uring(int err)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int open_denied(void *arg)
{
	int err = *(int *)arg;
	void *nic = NULL;

	if (deny_uring(err))
		return 77;
	return ops->open(NULL, NULL, &nic) == -err && strstr(hf_error(), "seccomp") ? 0 : 1;
}

static void forbidden(void **state)
{
	int eperm = EPERM, enosys = ENOSYS;
	int rc = in_child(open_denied, &eperm);

	if (rc == 77) {
		print_message("skipped: this kernel has no seccomp filters\n");
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(in_child(open_denied, &enosys), 0);
}

/* ------------------------------------------------------------------ registering */

#define MANY (64 + 256 + 10) /* fills two tables and begins the third */

static void tables_grow(void **state)
{
	static struct hf_region r[MANY];
	char *mem = map(MANY * page);
	struct hf_region again;
	unsigned in_table[3] = { 0, 0, 0 };

	for (unsigned i = 0; i < MANY; i++)
		memset(mem + i * page, (int)(i % 251), page);
	for (unsigned i = 0; i < MANY; i++) {
		r[i] = reg(*state, mem + i * page, page);
		assert_in_range(r[i].lkey / URING_MAX_SLOTS, 0, 2);
		in_table[r[i].lkey / URING_MAX_SLOTS]++;
		for (unsigned k = 0; k < i; k++)
			assert_int_not_equal(r[i].lkey, r[k].lkey);
	}
	assert_int_equal(in_table[0], 64);
	assert_int_equal(in_table[1], 256);
	for (unsigned i = 0; i < MANY; i++) {
		unsigned char got[3];

		assert_int_equal(ops->peek(*state, &r[i], r[i].addr + page - 3, got, 3), 0);
		for (int k = 0; k < 3; k++)
			assert_int_equal(got[k], i % 251);
	}
	/* A slot that became free in the lowest table is the next to be used. */
	dereg(*state, &r[17]);
	dereg(*state, &r[300]);
	again = reg(*state, mem, page);
	assert_int_equal(again.lkey, r[17].lkey);
	r[17] = again;
	r[300] = reg(*state, mem, page);
	for (unsigned i = 0; i < MANY; i++)
		dereg(*state, &r[i]);
	munmap(mem, MANY * page);
}

static void unknown_key(void **state)
{
	struct hf_region r = { .addr = page, .length = page, .lkey = 64 };

	assert_int_equal(try_dereg(*state, &r), -EINVAL);
	r.lkey = URING_MAX_SLOTS; /* a table that was not made yet */
	assert_int_equal(try_dereg(*state, &r), -EINVAL);
	r.lkey = UINT64_MAX;
	assert_int_equal(try_dereg(*state, &r), -EINVAL);
}

/* The registration is refused, says why, and costs no slot and no pin. */
static void refused(void *nic, void *p, size_t len, int err, const char *words)
{
	static _Alignas(64 * 1024) char good[64 * 1024]; /* a mapping made now could fill the hole */
	struct hf_region r;
	long pinned = vm_pin_kib();

	assert_int_equal(try_reg(nic, p, len, &r), err);
	assert_says(words);
	assert_in_range(vm_pin_kib(), 0, pinned); /* what was let go before may fall yet */
	r = reg(nic, good, page);
	assert_int_equal(r.lkey, 0);
	dereg(nic, &r);
}

static void read_only_memory(void **state)
{
	char *mem = map(3 * page);

	memset(mem, 1, 3 * page);
	assert_int_equal(mprotect(mem + page, page, PROT_READ), 0);
	refused(*state, mem, 3 * page, -EOPNOTSUPP, "read-only");
	assert_int_equal(mprotect(mem + page, page, PROT_NONE), 0);
	refused(*state, mem, 3 * page, -EOPNOTSUPP, "not accessible");
	assert_int_equal(mprotect(mem + page, page, PROT_READ | PROT_WRITE), 0);
	dereg(*state, &(struct hf_region){ .addr = (uintptr_t)mem,
					   .length = 3 * page,
					   .lkey = reg(*state, mem, 3 * page).lkey });
	munmap(mem, 3 * page);
}

static void missing_memory(void **state)
{
	char *mem = map(3 * page);

	munmap(mem + page, page);
	refused(*state, mem, 3 * page, -EFAULT, "nothing is mapped");
	munmap(mem, 3 * page);
	refused(*state, mem, 3 * page, -EFAULT, "nothing is mapped");
}

/* An unlinked file in the current directory, or else where temporary files are. */
static int real_file(size_t len)
{
	char name[] = "./uring-test-XXXXXX", other[] = "/tmp/uring-test-XXXXXX";
	struct statfs fs;
	int fd = mkstemp(name);

	if (fd >= 0)
		unlink(name);
	else if ((fd = mkstemp(other)) >= 0)
		unlink(other);
	if (fd < 0 || ftruncate(fd, (off_t)len) || fstatfs(fd, &fs))
		return -1;
	if (fs.f_type != TMPFS_MAGIC)
		return fd;
	close(fd);
	return -1;
}

static void shared_file(void **state)
{
	int fd = real_file(2 * page);
	void *p;

	if (fd < 0) {
		print_message("skipped: no file system but tmpfs can be written here\n");
		skip();
	}
	p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	refused(*state, p, 2 * page, -EOPNOTSUPP, "shared file mapping");
	munmap(p, 2 * page);
	close(fd);
}

static void memfd(void **state)
{
	int fd = memfd_create("uring-test", MFD_CLOEXEC);
	struct hf_region r;
	char got[16];
	char *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(2 * page)), 0);
	p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	r = reg(*state, p, 2 * page);
	assert_int_equal(pwrite(fd, "through the file", 16, 100), 16);
	assert_int_equal(ops->peek(*state, &r, r.addr + 100, got, 16), 0);
	assert_memory_equal(got, "through the file", 16);
	dereg(*state, &r);
	munmap(p, 2 * page);
	close(fd);
}

/* What is pinned is the page, not the address: the base of everything that torture shows. */
static void pins_are_real(void **state)
{
	char *mem = map(4 * page), got[4096];
	struct hf_region old, new;

	wait_vm_pin_kib(0); /* an earlier test's */
	memset(mem, 'o', 4 * page);
	old = reg(*state, mem, 4 * page);
	assert_int_equal(vm_pin_kib(), (long)(4 * page / KIB));
	assert_ptr_equal(mmap(mem, 4 * page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem);
	memset(mem, 'n', 4 * page);
	for (size_t off = 0; off < 4 * page; off += sizeof(got)) {
		assert_int_equal(ops->peek(*state, &old, old.addr + off, got, sizeof(got)), 0);
		assert_null(memchr(got, 'n', sizeof(got)));
	}
	new = reg(*state, mem, 4 * page);
	assert_int_equal(ops->peek(*state, &new, new.addr, got, sizeof(got)), 0);
	assert_null(memchr(got, 'o', sizeof(got)));

	assert_int_equal(ops->poke(*state, &old, old.addr + 5, "stale", 5), 0);
	assert_int_equal(mem[5], 'n');
	assert_int_equal(ops->poke(*state, &new, new.addr + 5, "fresh", 5), 0);
	assert_memory_equal(mem + 4, "nfreshn", 7);
	assert_int_equal(ops->peek(*state, &old, old.addr + 4, got, 7), 0);
	assert_memory_equal(got, "ostaleo", 7);
	dereg(*state, &old);
	dereg(*state, &new);
	wait_vm_pin_kib(0);
	munmap(mem, 4 * page);
}

static void peek_any_length(void **state)
{
	size_t len = 200 * KIB + 3; /* several pipes full */
	char *mem = map(256 * KIB), *copy = malloc(len);
	struct hf_region r;

	assert_non_null(copy);
	fill(mem, 256 * KIB, 1);
	r = reg(*state, mem, 256 * KIB);
	assert_int_equal(ops->peek(*state, &r, r.addr, copy, len), 0);
	assert_int_equal(wrong(copy, len, 1), 0);
	fill(copy, len, 2);
	assert_int_equal(ops->poke(*state, &r, r.addr, copy, len), 0);
	assert_int_equal(wrong(mem, len, 2), 0);
	assert_int_equal(mem[len], (char)pattern(len, 1));
	assert_int_equal(ops->peek(*state, &r, r.addr, copy, 0), 0);
	/* A bad destination leaves nothing behind in the pipe for the next one. */
	assert_int_equal(ops->peek(*state, &r, r.addr + page, (void *)8, 10), -EFAULT);
	assert_int_equal(ops->poke(*state, &r, r.addr, (void *)8, 10), -EFAULT);
	assert_int_equal(ops->peek(*state, &r, r.addr, copy, 100), 0);
	assert_int_equal(wrong(copy, 100, 2), 0);
	dereg(*state, &r);
	free(copy);
	munmap(mem, 256 * KIB);
}

/* Over 1 GiB: two slots of one table; a copy over the border. */
static void over_one_slot(void **state)
{
	size_t len = GIB + 2 * page, near = GIB - 100;
	struct hf_nic_reg key;
	struct hf_region r;
	char got[200];
	char *mem;
	int rc;

	if ((size_t)sysconf(_SC_AVPHYS_PAGES) * page < 3 * GIB) {
		print_message("skipped: less than 3 GiB of memory are free\n");
		skip();
	}
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		   0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	madvise(mem, len, MADV_HUGEPAGE); /* faster to fault in */
	rc = try_reg(*state, mem, len, &r);
	if (rc == -ENOMEM) {
		assert_says("ulimit -l");
		print_message("skipped: %s\n", hf_error());
		munmap(mem, len);
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(ops->lkey_at(r.addr, r.lkey, r.addr + GIB - 1), r.lkey);
	assert_int_equal(ops->lkey_at(r.addr, r.lkey, r.addr + GIB), r.lkey + 1);
	fill(mem + near, sizeof(got), 3);
	assert_int_equal(ops->peek(*state, &r, r.addr + near, got, sizeof(got)), 0);
	assert_int_equal(wrong(got, sizeof(got), 3), 0);
	/* Both slots are taken, and both come back. */
	assert_int_equal(ops->reg(*state, r.addr, page, HF_READ, &key), 0);
	assert_int_equal(key.lkey, r.lkey + 2);
	assert_int_equal(ops->dereg(*state, r.addr, page, &key), 0);
	dereg(*state, &r);
	assert_int_equal(ops->reg(*state, r.addr, page, HF_READ, &key), 0);
	assert_int_equal(key.lkey, r.lkey);
	assert_int_equal(ops->dereg(*state, r.addr, page, &key), 0);
	/* A hole in the second part: the first is let go, too. */
	munmap(mem + GIB, page);
	refused(*state, mem, len, -EFAULT, "nothing is mapped");
	munmap(mem, len);
}

/* In a child: an ordinary user with a limit of `kib`; one of its own, because all of a user's are charged. */
static void *limited_nic(unsigned long kib)
{
	struct rlimit r = { kib * KIB, kib * KIB };
	unsigned user = FIRST_USER + (unsigned)getpid() % 4096;
	void *nic = NULL;

	if (setrlimit(RLIMIT_MEMLOCK, &r))
		_exit(77);
	if (!geteuid() &&
	    (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user)))
		_exit(77);
	if (ops->open(NULL, NULL, &nic))
		_exit(2);
	return nic;
}

static int over_the_limit(void *arg)
{
	void *nic = limited_nic(256);
	struct hf_region r;

	if (try_reg(nic, map(MIB), MIB, &r) != -ENOMEM)
		return 3;
	if (!strstr(hf_error(), "RLIMIT_MEMLOCK is 256 KiB") || !strstr(hf_error(), "ulimit -l"))
		return 4;
	ops->close(nic);
	return 0;
}

#define LATE_US 20000 /* of the two seconds that the NIC waits */

static struct {
	void *nic;
	struct hf_region r;
} late;

static void *let_go_late(void *arg)
{
	usleep(LATE_US);
	return try_dereg(late.nic, &late.r) ? &late : NULL;
}

/* As before Linux 6.4: what was deregistered just now is charged for a while yet. */
static int charged_late(void *arg)
{
	struct uring_nic *nic = limited_nic(256);
	char *mem = map(400 * KIB);
	struct timespec now;
	struct hf_region r;
	pthread_t id;
	void *failed;

	late.nic = nic;
	if (try_reg(nic, mem, 200 * KIB, &late.r))
		return 77;
	nic->late_unpin = false;
	if (try_reg(nic, mem + 200 * KIB, 200 * KIB, &r) != -ENOMEM)
		return 4;
	nic->late_unpin = true;
	/* None was deregistered: no wait. */
	if (try_reg(nic, mem + 200 * KIB, 200 * KIB, &r) != -ENOMEM)
		return 5;
	clock_gettime(CLOCK_MONOTONIC, &now);
	nic->last_dereg_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	pthread_create(&id, NULL, let_go_late, NULL);
	if (try_reg(nic, mem + 200 * KIB, 200 * KIB, &r))
		return 6;
	pthread_join(id, &failed);
	ops->close(nic);
	return failed ? 7 : 0;
}

static void as_limited_user(int (*fn)(void *))
{
	int rc = in_child(fn, NULL);

	if (rc == 77) {
		print_message("skipped: no user without privileges that has nothing pinned\n");
		skip();
	}
	assert_int_equal(rc, 0);
}

static void memlock_limit(void **state)
{
	as_limited_user(over_the_limit);
}

static void late_kernel(void **state)
{
	as_limited_user(charged_late);
}

/* A child of fork that lives on holds none of the parent's pins. */
static void fork_keeps_no_pins(void **state)
{
	char *mem = map(MIB);
	int hold[2];
	void *nic = nic_open();
	struct hf_region r;
	pid_t pid;

	wait_vm_pin_kib(0); /* an earlier test's */
	fill(mem, MIB, 1);
	r = reg(nic, mem, MIB);
	assert_int_equal(vm_pin_kib(), (long)(MIB / KIB));
	assert_int_equal(pipe(hold), 0);
	pid = fork();
	if (!pid) {
		char c;

		close(hold[1]);
		_exit(read(hold[0], &c, 1) != 0);
	}
	/*
	 * Not by the NIC's close, which empties the table wherever else the ring lives on: the ring is
	 * let go as the end of the process would do it.
	 */
	io_uring_queue_exit(&((struct uring_nic *)nic)->table[0]->ring);
	wait_vm_pin_kib(0); /* a ring ends in the background */
	close(hold[0]);
	close(hold[1]);
	waitpid(pid, NULL, 0);
	/* The rest of the NIC: its ring is gone already, so only the memory. */
	hf_close_on_fork_done(((struct uring_nic *)nic)->table[0]->fd);
	free(((struct uring_nic *)nic)->table[0]->taken);
	free(((struct uring_nic *)nic)->table[0]);
	free(nic);
	assert_int_equal(r.length, MIB);
	munmap(mem, MIB);
}

/* ------------------------------------------------------------------ many threads register */

struct churn {
	pthread_t id;
	void *nic;
	unsigned seed;
	int error; /* the line that failed */
};

#define CHURN_THREADS 4
#define CHURN_ROUNDS 300
#define CHURN_HELD 30 /* of each: more than the first table holds */

static int churn_round(struct churn *c, char *mem, struct hf_region *r)
{
	for (unsigned i = 0; i < CHURN_HELD; i++) {
		char *p = mem + i * page;

		memset(p, (int)(c->seed + i), page);
		if (try_reg(c->nic, p, page, &r[i]))
			return __LINE__;
	}
	for (unsigned i = 0; i < CHURN_HELD; i++) {
		unsigned char got = 0;

		if (ops->peek(c->nic, &r[i], r[i].addr + i, &got, 1))
			return __LINE__;
		if (got != (unsigned char)(c->seed + i))
			return __LINE__;
		if (try_dereg(c->nic, &r[i]))
			return __LINE__;
	}
	return 0;
}

static void *churn_main(void *arg)
{
	struct hf_region r[CHURN_HELD];
	struct churn *c = arg;
	char *mem = mmap(NULL, CHURN_HELD * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	for (int i = 0; i < CHURN_ROUNDS && !c->error; i++, c->seed++)
		c->error = churn_round(c, mem, r);
	munmap(mem, CHURN_HELD * page);
	return NULL;
}

static void threads_register(void **state)
{
	struct churn c[CHURN_THREADS];
	char *mem = map(page);
	struct hf_region r;

	for (unsigned i = 0; i < CHURN_THREADS; i++) {
		c[i] = (struct churn){ .nic = *state, .seed = i * 40 };
		assert_int_equal(pthread_create(&c[i].id, NULL, churn_main, &c[i]), 0);
	}
	for (unsigned i = 0; i < CHURN_THREADS; i++) {
		pthread_join(c[i].id, NULL);
		assert_int_equal(c[i].error, 0);
	}
	r = reg(*state, mem, page); /* all slots came back */
	assert_int_equal(r.lkey, 0);
	dereg(*state, &r);
	munmap(mem, page);
}

/* ------------------------------------------------------------------ every step fails in turn */

#ifdef HF_FAULTS
#define STEPS_REGS 66 /* so many that a second table is needed */

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* The life of a NIC, cleaned up whatever fails; the first error. */
static int whole_life(char *mem, int fd, unsigned *live)
{
	struct hf_region r[STEPS_REGS];
	void *nic = NULL, *conn = NULL;
	unsigned n = 0;
	int rc = ops->open(NULL, NULL, &nic), rc2;
	char got;

	if (rc)
		return rc;
	while (!rc && n < STEPS_REGS)
		if (!(rc = try_reg(nic, mem + n * page, page, &r[n])))
			n++;
	if (!rc)
		rc = ops->peek(nic, &r[0], r[0].addr, &got, 1);
	if (!rc)
		rc = ops->attach(nic, fd, &conn);
	if (conn)
		ops->detach(conn);
	*live = n;
	while (n--)
		if ((rc2 = try_dereg(nic, &r[n])) && !rc)
			rc = rc2;
	ops->close(nic);
	return rc;
}

static void every_step_fails(void **state)
{
	char *mem = map(STEPS_REGS * page);
	unsigned live = 0, steps = 0;
	int fd[2];

	pair(fd, 0);
	for (;; steps++) {
		unsigned descriptors = open_descriptors();
		int rc;

		hf_fault_arm(steps + 1);
		rc = whole_life(mem, fd[0], &live);
		if (!hf_fault_last()) {
			assert_int_equal(rc, 0);
			break;
		}
		/* A ring that finds no memory is tried again: what another one was charged may fall yet. */
		if (!rc && !strcmp(hf_fault_last(), "uring table"))
			continue;
		if (!rc)
			fail_msg("step \"%s\" failed and nobody said so", hf_fault_last());
		assert_true(strlen(hf_error()) > 20);
		assert_int_equal(open_descriptors(), descriptors);
		wait_vm_pin_kib(0);
	}
	hf_fault_arm(0);
	assert_int_equal(live, STEPS_REGS);
	assert_true(steps > 2 * STEPS_REGS);
	close(fd[0]);
	close(fd[1]);
	munmap(mem, STEPS_REGS * page);
}

static void users_ring_steps_fail(void **state)
{
	unsigned steps = 0;
	struct io_uring ring;
	void *nic = NULL;

	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	for (;; steps++) {
		int rc;

		hf_fault_arm(steps + 1);
		rc = open_on(ring.ring_fd, 8, &nic);
		if (!rc)
			break;
		assert_non_null(hf_fault_last());
		assert_null(nic);
		/* No table was left in the ring. */
		assert_int_equal(io_uring_register_buffers_sparse(&ring, 1), 0);
		assert_int_equal(io_uring_unregister_buffers(&ring), 0);
	}
	hf_fault_arm(0);
	ops->close(nic);
	assert_true(steps >= 4);
	io_uring_queue_exit(&ring);
}

/* A slot that would not be emptied is never used again (R32). */
static void lost_slot(void **state)
{
	char *mem = map(page);
	struct hf_region r = reg(*state, mem, page), next;

	hf_fault_arm(1);
	assert_int_equal(try_dereg(*state, &r), -EIO);
	assert_string_equal(hf_fault_last(), "uring deregister");
	hf_fault_arm(0);
	next = reg(*state, mem, page);
	assert_int_not_equal(next.lkey, r.lkey);
	dereg(*state, &next);
	munmap(mem, page);
}
#endif

/* ------------------------------------------------------------------ the data path */

/* Two ends of a stream, on one NIC, each with a registered buffer. */
struct ends {
	void *nic;
	int fd[2];
	void *conn[2];
	char *mem[2];
	struct hf_region r[2];
	size_t size;
};

/* Ways to move bytes that kernels have, the best first; see struct uring_caps. */
static const struct uring_caps ways[] = {
	{ 0 }, /* find out: the best */
	{ .known = true, .nowait = true },
	{ .known = true },
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static struct uring_caps caps_here(void)
{
	struct uring_nic *nic = nic_open();
	struct uring_caps caps;

	assert_int_equal(uring_find_caps(nic), 0);
	caps = nic->caps;
	ops->close(nic);
	return caps;
}

/* The next one that this kernel has; all have the last one. */
static unsigned next_way(unsigned w)
{
	for (w++; w < WAYS && ways[w].nowait && !caps_here().nowait; w++)
		;
	return w;
}

static bool kernel_from(unsigned major, unsigned minor)
{
	unsigned have[2] = { 0 };
	struct utsname u;

	assert_int_equal(uname(&u), 0);
	assert_int_equal(sscanf(u.release, "%u.%u", &have[0], &have[1]), 2);
	return have[0] > major || (have[0] == major && have[1] >= minor);
}

/* What the tests below leave out is what the kernel lacks, not what the NIC failed to find. */
static void sockets_that_never_wait(void **state)
{
	struct uring_caps caps = caps_here();

	assert_true(caps.known);
	if (kernel_from(6, 5))
		assert_true(caps.nowait);
	if (kernel_from(6, 18))
		assert_true(caps.nosignal);
	print_message("sockets: RWF_NOWAIT %s, RWF_NOSIGNAL %s\n", caps.nowait ? "yes" : "no", caps.nosignal ? "yes" : "no");
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 64 * KIB;

	assert_true(l >= 0);
	/* Else the kernel makes room for all of a BIG message, and nobody ever has to wait. */
	setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	assert_int_equal(bind(l, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(connect(fd[0], (struct sockaddr *)&a, len), 0);
	fd[1] = accept(l, NULL, NULL);
	assert_true(fd[1] >= 0);
	close(l);
}

enum { TCP = 1, NONBLOCK = 2 };

static void pair(int fd[2], unsigned kind)
{
	if (kind & TCP)
		tcp_pair(fd);
	else
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	for (int i = 0; i < 2 && kind & NONBLOCK; i++)
		assert_int_equal(fcntl(fd[i], F_SETFL, O_NONBLOCK), 0);
}

static void ends_open(struct ends *e, void *nic, size_t size, unsigned kind)
{
	*e = (struct ends){ .nic = nic, .size = size };
	pair(e->fd, kind);
	for (int i = 0; i < 2; i++) {
		if (ops->attach(nic, e->fd[i], &e->conn[i]))
			fail_msg("attach: %s", hf_error());
		e->mem[i] = map(size);
		memset(e->mem[i], 0xee, size);
		e->r[i] = reg(nic, e->mem[i], size);
	}
}

static void ends_close(struct ends *e)
{
	for (int i = 0; i < 2; i++) {
		ops->detach(e->conn[i]);
		if (e->fd[i] >= 0)
			close(e->fd[i]);
		dereg(e->nic, &e->r[i]);
		munmap(e->mem[i], e->size);
	}
}

struct sender {
	pthread_t id;
	void *conn;
	const struct hf_region *r;
	const size_t *sizes;
	unsigned count;
	unsigned refill; /* with the pattern of each message before it goes */
	int rc;
};

static void *sender_main(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < s->count && !s->rc; i++) {
		if (s->refill)
			fill((void *)(uintptr_t)s->r->addr, s->sizes[i], i);
		s->rc = ops->send(s->conn, s->r, s->r->addr, s->sizes[i]);
	}
	return NULL;
}

static void sender_start(struct sender *s)
{
	assert_int_equal(pthread_create(&s->id, NULL, sender_main, s), 0);
}

static const size_t sizes[] = { 0, 1, 4095, 4096, 64 * KIB, BIG, 0, 17, BIG - 1 };
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void all_sizes(void *nic, unsigned kind)
{
	struct ends e;
	struct sender s;

	ends_open(&e, nic, BIG, kind);
	s = (struct sender){
		.conn = e.conn[0], .r = &e.r[0], .sizes = sizes, .count = SIZES, .refill = 1
	};
	sender_start(&s);
	for (unsigned i = 0; i < SIZES; i++) {
		uint64_t got = 1;

		if (ops->recv(e.conn[1], &e.r[1], e.r[1].addr, BIG, &got))
			fail_msg("recv: %s", hf_error());
		assert_int_equal(got, sizes[i]);
		assert_int_equal(wrong(e.mem[1], got, i), 0);
	}
	pthread_join(s.id, NULL);
	assert_int_equal(s.rc, 0);
	ends_close(&e);
}

static void messages(void **state)
{
	for (unsigned w = 0; w < WAYS; w = next_way(w)) {
		void *nic = nic_open();

		((struct uring_nic *)nic)->caps = ways[w];
		for (unsigned kind = 0; kind < 4; kind++)
			all_sizes(nic, kind);
		ops->close(nic);
	}
}

/* Parts of a buffer, at odd places. */
static void inside_the_region(void **state)
{
	struct ends e;
	uint64_t got;

	ends_open(&e, *state, 64 * KIB, 0);
	fill(e.mem[0] + 5001, 9000, 4);
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr + 5001, 9000), 0);
	assert_int_equal(ops->recv(e.conn[1], &e.r[1], e.r[1].addr + 333, 9000, &got), 0);
	assert_int_equal(got, 9000);
	assert_int_equal(wrong(e.mem[1] + 333, 9000, 4), 0);
	assert_int_equal((unsigned char)e.mem[1][332], 0xee);
	assert_int_equal((unsigned char)e.mem[1][333 + 9000], 0xee);
	ends_close(&e);
}

static void too_large_is_kept(void **state)
{
	struct ends e;
	uint64_t got = 0;

	ends_open(&e, *state, 64 * KIB, 0);
	fill(e.mem[0], 8000, 9);
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 8000), 0);
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 3), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ops->recv(e.conn[1], &e.r[1], e.r[1].addr, 7999, &got), -EMSGSIZE);
		assert_int_equal(got, 8000);
		assert_says("8000");
	}
	assert_int_equal((unsigned char)e.mem[1][0], 0xee);
	assert_int_equal(ops->recv(e.conn[1], &e.r[1], e.r[1].addr, 8000, &got), 0);
	assert_int_equal(got, 8000);
	assert_int_equal(wrong(e.mem[1], 8000, 9), 0);
	assert_int_equal(ops->recv(e.conn[1], &e.r[1], e.r[1].addr, 8000, &got), 0);
	assert_int_equal(got, 3);
	ends_close(&e);
	assert_int_equal(ops->attach(*state, -1, &e.conn[0]), -EBADF);
}

static void larger_than_4_gib(void **state)
{
	struct ends e;
	uint64_t got;

	ends_open(&e, *state, page, 0);
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 1ull << 32), -EMSGSIZE);
	/* Nothing was sent: the stream is still good. */
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 1), 0);
	assert_int_equal(ops->recv(e.conn[1], &e.r[1], e.r[1].addr, page, &got), 0);
	assert_int_equal(got, 1);
	ends_close(&e);
}

/* SIGPIPE has its default action here: if it came, the test would end. */
static void peer_is_gone(void **state)
{
	for (unsigned w = 0; w < WAYS; w = next_way(w))
		for (unsigned kind = 0; kind < 4; kind++) {
			void *nic = nic_open();
			struct ends e;
			uint64_t got = 1;
			int rc = 0;

			((struct uring_nic *)nic)->caps = ways[w];
			ends_open(&e, nic, MIB, kind);
			close(e.fd[1]);
			e.fd[1] = -1;
			/* TCP takes the first for a peer that is gone; its answer then resets. */
			for (int i = 0; i < 10000 && !rc; i++) {
				rc = ops->send(e.conn[0], &e.r[0], e.r[0].addr, MIB);
				usleep(rc ? 0 : 1000);
			}
			assert_true(rc == -EPIPE || rc == -ECONNRESET);
			assert_says("could not be sent");
			assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 1), rc);
			assert_int_equal(ops->recv(e.conn[0], &e.r[0], e.r[0].addr, MIB, &got),
					 -ECONNRESET);
			assert_int_equal(got, 0);
			ends_close(&e);
			ops->close(nic);
		}
}

static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 1000 * TEST_SECONDS), 1);
}

/* The payload's write meets the closed socket, not the header's: SIGPIPE is kept from the program. */
static void closed_under_the_payload(void **state)
{
	for (unsigned w = 0; w < WAYS; w = next_way(w)) {
		const size_t len = BIG;
		void *nic = nic_open();
		struct sender s;
		struct ends e;
		sigset_t pending;

		((struct uring_nic *)nic)->caps = ways[w];
		ends_open(&e, nic, BIG, 0);
		s = (struct sender){ .conn = e.conn[0], .r = &e.r[0], .sizes = &len, .count = 1 };
		sender_start(&s);
		wait_readable(e.fd[1]); /* the header is there, so the payload follows */
		close(e.fd[1]);
		e.fd[1] = -1;
		pthread_join(s.id, NULL);
		assert_true(s.rc == -EPIPE || s.rc == -ECONNRESET);
		sigpending(&pending);
		assert_false(sigismember(&pending, SIGPIPE));
		ends_close(&e);
		ops->close(nic);
	}
}

/* A program that blocks SIGPIPE itself and has one pending keeps it. */
static void pending_sigpipe_is_kept(void **state)
{
	sigset_t pipe_only, pending;
	struct timespec now = { 0, 0 };
	struct ends e;
	void *nic = nic_open();

	((struct uring_nic *)nic)->caps = ways[1];
	ends_open(&e, nic, MIB, 0);
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
	raise(SIGPIPE);
	close(e.fd[1]);
	e.fd[1] = -1;
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, MIB), -EPIPE);
	sigpending(&pending);
	assert_true(sigismember(&pending, SIGPIPE));
	assert_int_equal(sigtimedwait(&pipe_only, NULL, &now), SIGPIPE);
	pthread_sigmask(SIG_UNBLOCK, &pipe_only, NULL);
	ends_close(&e);
	ops->close(nic);
}

/* A process with a NIC of its own that sends and is killed in the middle. */
static void child_sends(int fd)
{
	void *nic = NULL, *conn;
	char *mem = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct hf_region r;

	if (ops->open(NULL, NULL, &nic) || ops->attach(nic, fd, &conn) || try_reg(nic, mem, BIG, &r))
		_exit(1);
	fill(mem, BIG, 5);
	if (ops->send(conn, &r, r.addr, 64 * KIB))
		_exit(2);
	ops->send(conn, &r, r.addr, BIG); /* blocks: nobody reads it all */
	_exit(3);
}

static void killed_in_a_message(void **state)
{
	for (unsigned kind = 0; kind < 2; kind++) {
		char *mem = map(BIG);
		struct hf_region r = reg(*state, mem, 64 * KIB);
		uint64_t got = 0;
		void *conn;
		pid_t pid;
		int fd[2];

		pair(fd, kind);
		pid = fork();
		if (!pid) {
			close(fd[1]);
			child_sends(fd[0]);
		}
		close(fd[0]);
		assert_int_equal(ops->attach(*state, fd[1], &conn), 0);
		assert_int_equal(ops->recv(conn, &r, r.addr, 64 * KIB, &got), 0);
		assert_int_equal(got, 64 * KIB);
		assert_int_equal(wrong(mem, got, 5), 0);
		/* The header of the large one is there, so it is in the middle. */
		assert_int_equal(ops->recv(conn, &r, r.addr, 64 * KIB, &got), -EMSGSIZE);
		assert_int_equal(got, BIG);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		dereg(*state, &r);
		r = reg(*state, mem, BIG);
		assert_int_equal(ops->recv(conn, &r, r.addr, BIG, &got), -ECONNRESET);
		assert_int_equal(got, 0);
		assert_int_equal(ops->recv(conn, &r, r.addr, BIG, &got), -ECONNRESET);
		ops->detach(conn);
		close(fd[1]);
		dereg(*state, &r);
		munmap(mem, BIG);
	}
}

static void garbage(void **state)
{
	static const char junk[] = "GET / HTTP/1.0\r\n\r\n and more";
	unsigned char header[16];
	uint64_t got;

	/* Each byte of a good header in turn, changed. */
	for (int bad = -1; bad < (int)sizeof(header); bad++) {
		struct ends e;
		int raw[2];
		void *conn;

		ends_open(&e, *state, page, 0);
		pair(raw, 0);
		assert_int_equal(ops->attach(*state, raw[1], &conn), 0);
		if (bad < 0) {
			assert_int_equal(write(raw[0], junk, sizeof(junk)), sizeof(junk));
		} else {
			assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 100), 0);
			assert_int_equal(read(e.fd[1], header, sizeof(header)), sizeof(header));
			header[bad] ^= 0x10;
			assert_int_equal(write(raw[0], header, sizeof(header)), sizeof(header));
		}
		for (int i = 0; i < 2; i++) {
			assert_int_equal(ops->recv(conn, &e.r[1], e.r[1].addr, page, &got), -EPROTO);
			assert_int_equal(got, 0);
			assert_says("not a holdfast message");
		}
		ops->detach(conn);
		close(raw[0]);
		close(raw[1]);
		ends_close(&e);
	}
}

/* The format is for the wire: the same bytes on every machine. */
static void wire_format(void **state)
{
	static const unsigned char want[12] = { 'H', 'D', 'F', 'T', 1, 0, 1, 0, 0x39, 0x30, 0, 0 };
	unsigned char got[16];
	struct ends e;

	ends_open(&e, *state, 16 * KIB, 0);
	assert_int_equal(ops->send(e.conn[0], &e.r[0], e.r[0].addr, 0x3039), 0);
	assert_int_equal(read(e.fd[1], got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, want, sizeof(want));
	ends_close(&e);
}

/* Somebody who doesn't read holds up his own stream only. */
static void stalled_peer(void **state)
{
	for (unsigned w = 0; w < WAYS; w = next_way(w)) {
		const size_t len = 2 * MIB;
		struct ends slow, quick;
		void *nic = nic_open();
		struct sender s;
		uint64_t got;

		((struct uring_nic *)nic)->caps = ways[w];
		ends_open(&slow, nic, 2 * MIB, 0);
		ends_open(&quick, nic, 64 * KIB, 0);
		fill(slow.mem[0], len, 1);
		s = (struct sender){ .conn = slow.conn[0], .r = &slow.r[0], .sizes = &len, .count = 1 };
		sender_start(&s);
		wait_readable(slow.fd[1]);
		for (unsigned i = 0; i < 1000; i++) {
			fill(quick.mem[0], 64, i);
			assert_int_equal(ops->send(quick.conn[0], &quick.r[0], quick.r[0].addr, 4096),
					 0);
			assert_int_equal(
				ops->recv(quick.conn[1], &quick.r[1], quick.r[1].addr, 4096, &got), 0);
			assert_int_equal(wrong(quick.mem[1], 64, i), 0);
		}
		assert_int_equal(pthread_tryjoin_np(s.id, NULL), EBUSY); /* it is still blocked */
		assert_int_equal(ops->recv(slow.conn[1], &slow.r[1], slow.r[1].addr, len, &got), 0);
		assert_int_equal(wrong(slow.mem[1], len, 1), 0);
		pthread_join(s.id, NULL);
		assert_int_equal(s.rc, 0);
		ends_close(&slow);
		ends_close(&quick);
		ops->close(nic);
	}
}

struct flow {
	pthread_t id;
	void *conn;
	struct hf_region r;
	bool sends;
	unsigned seed;
	int error;
};

#define FLOW_MESSAGES 200
#define FLOW_BYTES (100 * KIB)

static int flow_one(struct flow *f, unsigned i)
{
	char *mem = (char *)(uintptr_t)f->r.addr;
	uint64_t got = 0;

	if (f->sends) {
		memset(mem, (int)(f->seed + i), FLOW_BYTES);
		return ops->send(f->conn, &f->r, f->r.addr, FLOW_BYTES) ? __LINE__ : 0;
	}
	if (ops->recv(f->conn, &f->r, f->r.addr, FLOW_BYTES, &got) || got != FLOW_BYTES)
		return __LINE__;
	if (mem[0] != (char)(f->seed + i) || memcmp(mem, mem + 1, FLOW_BYTES - 1))
		return __LINE__;
	return 0;
}

static void *flow_main(void *arg)
{
	struct flow *f = arg;

	for (unsigned i = 0; i < FLOW_MESSAGES && !f->error; i++)
		f->error = flow_one(f, i);
	return NULL;
}

/* Two connections, both ways on each at once: eight threads, one ring. */
static void all_at_once(void **state)
{
	for (unsigned w = 0; w < WAYS; w = next_way(w)) {
		char *mem = map(8 * FLOW_BYTES);
		void *nic = nic_open();
		struct flow f[8];
		struct ends e[2];

		((struct uring_nic *)nic)->caps = ways[w];
		for (unsigned c = 0; c < 2; c++)
			ends_open(&e[c], nic, page, c ? TCP | NONBLOCK : 0);
		for (unsigned i = 0; i < 8; i++) {
			unsigned c = i / 4, end = i / 2 % 2;
			bool sends = i % 2;

			f[i] = (struct flow){ .conn = e[c].conn[end],
					      .sends = sends,
					      .r = reg(nic, mem + i * FLOW_BYTES, FLOW_BYTES),
					      .seed = c * 100 + (sends ? end : !end) * 50 };
			assert_int_equal(pthread_create(&f[i].id, NULL, flow_main, &f[i]), 0);
		}
		for (unsigned i = 0; i < 8; i++) {
			pthread_join(f[i].id, NULL);
			assert_int_equal(f[i].error, 0);
			dereg(nic, &f[i].r);
		}
		for (unsigned c = 0; c < 2; c++)
			ends_close(&e[c]);
		ops->close(nic);
		munmap(mem, 8 * FLOW_BYTES);
	}
}

static void not_a_stream(void **state)
{
	void *conn;
	int fd[2], s;

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(ops->attach(*state, fd[0], &conn), -ENOTSOCK);
	assert_says("stream socket");
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fd), 0);
	assert_int_equal(ops->attach(*state, fd[0], &conn), -EINVAL);
	assert_says("SOCK_STREAM");
	close(fd[0]);
	close(fd[1]);
	s = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(ops->attach(*state, s, &conn), -ENOTCONN);
	close(s);
}

/* ------------------------------------------------------------------ the public calls */

struct pub {
	struct hf_switch *sw;
	struct hf_provider *p;
	char *mem;
	struct hf_region r;
};

static void pub_open(struct pub *u, unsigned access)
{
	if (hf_switch_open("proxy=manual", &u->sw) || hf_provider_open(u->sw, "uring", NULL, &u->p))
		fail_msg("%s", hf_error());
	u->mem = map(4 * page);
	if (hf_get(u->p, u->mem, 4 * page, access, &u->r))
		fail_msg("%s", hf_error());
}

static void pub_close(struct pub *u)
{
	if (u->r.entry)
		assert_int_equal(hf_put(u->p, &u->r), 0);
	assert_int_equal(hf_provider_close(u->p), 0);
	assert_int_equal(hf_switch_close(u->sw), 0);
	munmap(u->mem, 4 * page);
}

static void public_messages(void **state)
{
	struct hf_conn *c[2];
	struct pub u;
	size_t got = 9;
	int fd[2];

	pub_open(&u, HF_READWRITE);
	pair(fd, 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(hf_conn_open(u.p, fd[i], &c[i]), 0);
	memcpy(u.mem, "hello", 5);
	assert_int_equal(hf_send(c[0], &u.r, u.mem, 5), 0);
	assert_int_equal(hf_recv(c[1], &u.r, u.mem + page, 5, &got), 0);
	assert_int_equal(got, 5);
	assert_memory_equal(u.mem + page, "hello", 5);
	/* At the very end of the region, and one further. */
	assert_int_equal(hf_send(c[0], &u.r, u.mem + 4 * page, 0), 0);
	assert_int_equal(hf_recv(c[1], &u.r, u.mem + 4 * page - 1, 1, &got), 0);
	assert_int_equal(got, 0);
	assert_int_equal(hf_send(c[0], &u.r, u.mem + 4 * page, 1), -EINVAL);
	assert_int_equal(hf_send(c[0], &u.r, u.mem - 1, 1), -EINVAL);
	assert_int_equal(hf_send(c[0], &u.r, u.mem + 1, 4 * page), -EINVAL);
	assert_int_equal(hf_send(c[0], &u.r, u.mem, SIZE_MAX), -EINVAL);
	assert_int_equal(hf_recv(c[1], &u.r, u.mem + 1, 4 * page, &got), -EINVAL);
	assert_int_equal(hf_send(NULL, &u.r, u.mem, 1), -EINVAL);
	assert_int_equal(hf_send(c[0], NULL, u.mem, 1), -EINVAL);
	assert_int_equal(hf_recv(c[1], &u.r, u.mem, 1, NULL), -EINVAL);
	assert_int_equal(hf_conn_open(NULL, fd[0], &c[0]), -EINVAL);
	assert_int_equal(hf_put(u.p, &u.r), 0);
	assert_int_equal(hf_send(c[0], &u.r, u.mem, 1), -EINVAL);
	assert_says("not held");
	assert_int_equal(hf_provider_close(u.p), -EBUSY); /* connections are open */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(hf_conn_close(c[i]), 0);
		close(fd[i]);
	}
	assert_int_equal(hf_conn_close(NULL), 0);
	pub_close(&u);
}

static void public_rights(void **state)
{
	struct hf_conn *c[2];
	size_t got;
	struct pub u;
	int fd[2];

	pair(fd, 0);
	for (unsigned access = HF_READ; access <= HF_WRITE; access++) {
		pub_open(&u, access);
		for (int i = 0; i < 2; i++)
			assert_int_equal(hf_conn_open(u.p, fd[i], &c[i]), 0);
		if (access == HF_READ) {
			assert_int_equal(hf_send(c[0], &u.r, u.mem, 4), 0);
			assert_int_equal(hf_recv(c[1], &u.r, u.mem, 4, &got), -EACCES);
			assert_int_equal(hf_poke(&u.r, u.mem, "x", 1), -EACCES);
		} else {
			assert_int_equal(hf_recv(c[1], &u.r, u.mem, 4, &got), 0);
			assert_int_equal(got, 4);
			assert_int_equal(hf_send(c[0], &u.r, u.mem, 4), -EACCES);
			assert_says("HF_READ");
			assert_int_equal(hf_poke(&u.r, u.mem, "x", 1), 0);
			assert_int_equal(u.mem[0], 'x');
		}
		for (int i = 0; i < 2; i++)
			assert_int_equal(hf_conn_close(c[i]), 0);
		pub_close(&u);
	}
	close(fd[0]);
	close(fd[1]);
}

static int child_uses_connection(void *arg)
{
	struct {
		struct pub *u;
		struct hf_conn *c;
	} *a = arg;
	struct hf_conn *other;
	size_t got;
	char b;

	return hf_send(a->c, &a->u->r, a->u->mem, 1) != -EOWNERDEAD ||
	       hf_recv(a->c, &a->u->r, a->u->mem, 1, &got) != -EOWNERDEAD ||
	       hf_peek(&a->u->r, a->u->mem, &b, 1) != -EOWNERDEAD ||
	       hf_conn_open(a->u->p, 0, &other) != -EOWNERDEAD || hf_conn_close(a->c) != -EOWNERDEAD;
}

static void public_peek(void **state)
{
	struct {
		struct pub *u;
		struct hf_conn *c;
	} a;
	struct hf_provider *sim;
	struct hf_region r;
	struct pub u;
	char b[8];
	int fd[2];

	pub_open(&u, HF_READWRITE);
	memcpy(u.mem + 10, "by pins", 8);
	assert_int_equal(hf_peek(&u.r, u.mem + 10, b, 8), 0);
	assert_string_equal(b, "by pins");
	assert_int_equal(hf_peek(&u.r, u.mem + 4 * page - 7, b, 8), -EINVAL);
	assert_int_equal(hf_peek(&u.r, u.mem, NULL, 1), -EINVAL);
	assert_int_equal(hf_peek(NULL, u.mem, b, 1), -EINVAL);
	assert_int_equal(hf_region_lkey(&u.r, u.mem), u.r.lkey);
	assert_int_equal(hf_region_lkey(&u.r, u.mem + 4 * page), UINT64_MAX);

	pair(fd, 0);
	a.u = &u;
	assert_int_equal(hf_conn_open(u.p, fd[0], &a.c), 0);
	assert_int_equal(in_child(child_uses_connection, &a), 0);
	assert_int_equal(hf_conn_close(a.c), 0);

	/* A NIC without a data path. */
	assert_int_equal(hf_provider_open(u.sw, "sim", NULL, &sim), 0);
	assert_int_equal(hf_get(sim, u.mem, page, HF_READ, &r), 0);
	assert_int_equal(hf_conn_open(sim, fd[0], &a.c), -EOPNOTSUPP);
	assert_says("sim");
	assert_int_equal(hf_peek(&r, u.mem, b, 1), -EOPNOTSUPP);
	assert_int_equal(hf_put(sim, &r), 0);
	assert_int_equal(hf_provider_close(sim), 0);
	close(fd[0]);
	close(fd[1]);
	pub_close(&u);
}

#define WITH_NIC(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_NIC(bad_arguments),
		WITH_NIC(users_ring_refused),
		WITH_NIC(users_ring),
		WITH_NIC(forbidden),
		WITH_NIC(tables_grow),
		WITH_NIC(unknown_key),
		WITH_NIC(read_only_memory),
		WITH_NIC(missing_memory),
		WITH_NIC(shared_file),
		WITH_NIC(memfd),
		WITH_NIC(pins_are_real),
		WITH_NIC(peek_any_length),
		WITH_NIC(over_one_slot),
		WITH_NIC(memlock_limit),
		WITH_NIC(late_kernel),
		WITH_NIC(fork_keeps_no_pins),
#ifdef HF_FAULTS
		WITH_NIC(every_step_fails),
		WITH_NIC(users_ring_steps_fail),
		WITH_NIC(lost_slot),
#endif
		WITH_NIC(threads_register),
		WITH_NIC(sockets_that_never_wait),
		WITH_NIC(messages),
		WITH_NIC(inside_the_region),
		WITH_NIC(too_large_is_kept),
		WITH_NIC(larger_than_4_gib),
		WITH_NIC(peer_is_gone),
		WITH_NIC(closed_under_the_payload),
		WITH_NIC(pending_sigpipe_is_kept),
		WITH_NIC(killed_in_a_message),
		WITH_NIC(garbage),
		WITH_NIC(wire_format),
		WITH_NIC(stalled_peer),
		WITH_NIC(all_at_once),
		WITH_NIC(not_a_stream),
		WITH_NIC(public_messages),
		WITH_NIC(public_rights),
		WITH_NIC(public_peek),
	};

	return cmocka_run_group_tests_name("uring", tests, NULL, NULL);
}
