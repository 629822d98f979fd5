/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Why the kernel said no. It answers one number for several causes; these find out which it was, and
 * say so with the remedy. Slow, on errors only.
 */
#include "uring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "../maps.h"

#define KIB 1024ull

/* kernel.io_uring_disabled, or -1 where there is no such setting (before Linux 6.6). */
static int disabled_setting(void)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	int v = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%d", &v) != 1)
		v = -1;
	fclose(f);
	return v;
}

static int why_forbidden(void)
{
	int v = disabled_setting();

	if (v > 0)
		return hf_set_error(
			-EPERM,
			"io_uring is switched off: kernel.io_uring_disabled is %d; set it to 0 "
			"(sysctl kernel.io_uring_disabled=0)%s",
			v, v == 1 ? " or join the group kernel.io_uring_group" : "");
	return hf_set_error(
		-EPERM, "io_uring is forbidden to this process: allow io_uring_setup, io_uring_enter "
			"and io_uring_register in the container's seccomp profile or security policy");
}

static int why_no_ring(void)
{
	struct rlimit r = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &r);
	if (r.rlim_cur == RLIM_INFINITY)
		return hf_set_error(-ENOMEM, "uring: the kernel has no memory for a ring");
	return hf_set_error(-ENOMEM,
			    "uring: no locked memory for a ring: RLIMIT_MEMLOCK is %llu KiB for all of this "
			    "user's processes together; raise ulimit -l",
			    (unsigned long long)(r.rlim_cur / KIB));
}

static int why_no_memory(uint64_t len)
{
	struct rlimit r = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &r);
	if (r.rlim_cur == RLIM_INFINITY)
		return hf_set_error(-ENOMEM,
				    "io_uring could not pin %llu KiB: the kernel is out of memory "
				    "(RLIMIT_MEMLOCK is unlimited)",
				    (unsigned long long)(len / KIB));
	return hf_set_error(
		-ENOMEM,
		"io_uring could not pin %llu KiB: RLIMIT_MEMLOCK is %llu KiB for all of this user's "
		"processes together, and a page inside a huge page is charged whole (2 MiB), once per "
		"ring; raise ulimit -l, or use MADV_NOHUGEPAGE for small buffers",
		(unsigned long long)(len / KIB), (unsigned long long)(r.rlim_cur / KIB));
}

int uring_why_setup(int rc)
{
	switch (rc) {
	case -EPERM:
	case -EACCES:
		return why_forbidden();
	case -ENOSYS:
		return hf_set_error(rc,
				    "this kernel has no io_uring, or a seccomp profile hides it: allow "
				    "io_uring_setup, or use Linux 5.19 or newer");
	case -EINVAL:
		return hf_set_error(-ENOSYS,
				    "this kernel's io_uring has no sparse buffer tables: Linux 5.19 or "
				    "newer is needed");
	case -EMFILE:
	case -ENFILE:
		return hf_set_error(rc, "uring: no descriptor for a ring: raise ulimit -n");
	case -ENOMEM:
		return why_no_ring();
	default:
		return hf_set_error(rc, "uring: a ring could not be set up: %s", strerror(-rc));
	}
}

int uring_why_reg(int rc, uint64_t addr, uint64_t len)
{
	switch (rc) {
	case -ENOMEM:
		return why_no_memory(len);
	case -EEXIST:
		return hf_set_error(
			rc, "uring: the ring is IORING_SETUP_SINGLE_ISSUER: other threads may not "
			    "register memory in it; create it without");
	case -ENXIO:
		return hf_set_error(
			rc, "uring: the ring has no buffer table any more: somebody unregistered it");
	default:
		return hf_set_error(rc, "io_uring could not register [%#llx, +%#llx): %s",
				    (unsigned long long)addr, (unsigned long long)len, strerror(-rc));
	}
}

int uring_why_ring(int fd)
{
	struct io_uring_probe probe = { .last_op = 0 };
	int rc = io_uring_register((unsigned)fd, IORING_REGISTER_PROBE, &probe, 0);

	if (rc != -EBADF && rc != -EOPNOTSUPP)
		return 0;
	return hf_set_error(-EBADF,
			    "uring: descriptor %d is no io_uring any more (%s): the ring was closed, or its number is another "
			    "file's; keep the ring open as long as its provider",
			    fd, rc == -EBADF ? "it is closed" : "another file has its number");
}

/* ------------------------------------------------------------------ what is mapped there */

enum { NOT_WRITABLE = 1, SHARED_FILE, PRIVATE_FILE, PAST_END };

struct culprit {
	uint64_t start, end; /* what was asked */
	bool any_file;
	struct vma vma;
};

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

/* 0, or the errno of touching all pages of the part of [start, end) that lies in v. */
static int touch(const struct vma *v, uint64_t start, uint64_t end, int advice)
{
	uint64_t from = v->start > start ? v->start : start;
	uint64_t to = v->end < end ? v->end : end;

	return madvise((void *)(uintptr_t)from, to - from, advice) < 0 ? errno : 0;
}

static int is_culprit(const struct vma *v, void *p)
{
	struct culprit *c = p;

	c->vma = *v;
	if (!v->readable || !v->writable)
		return NOT_WRITABLE;
	if (v->file && touch(v, c->start, c->end, MADV_POPULATE_READ) == EFAULT)
		return PAST_END;
	if (v->file && v->shared)
		return SHARED_FILE;
	return v->file && c->any_file ? PRIVATE_FILE : 0;
}

/* The kernel said EFAULT or EOPNOTSUPP, and nobody can look why. */
static int why_unseen(int rc, uint64_t addr, uint64_t end)
{
	return hf_set_error(rc,
			    "io_uring could not pin 0x%llx-0x%llx: %s; the cause can't be told, for there is no "
			    "/proc/self/maps to look at",
			    (unsigned long long)addr, (unsigned long long)end, strerror(-rc));
}

/*
 * Nothing is wrong with the mappings now. If all pages can be touched for writing, then the memory
 * is ordinary, and was not accessible a moment ago.
 */
static int why_pinnable(uint64_t addr, uint64_t end)
{
	if (!madvise((void *)(uintptr_t)addr, end - addr, MADV_POPULATE_WRITE))
		return hf_set_error(-EFAULT,
				    "0x%llx-0x%llx was not accessible each time that io_uring pinned it, and is now: another "
				    "thread changes the mapping or its protection; don't, while hf_get() runs",
				    (unsigned long long)addr, (unsigned long long)end);
	return hf_set_error(-EOPNOTSUPP,
			    "io_uring refuses to pin 0x%llx-0x%llx: this kind of mapping can't "
			    "be registered; copy the data to ordinary memory",
			    (unsigned long long)addr, (unsigned long long)end);
}

int uring_why_mapping(int rc, uint64_t addr, uint64_t len)
{
	/* Before 6.5 io_uring refused private file mappings too, and said EOPNOTSUPP. */
	struct culprit c = { .start = addr, .end = addr + len, .any_file = rc == -EOPNOTSUPP };
	unsigned long long at;
	int said = rc;

	rc = maps_walk(addr, addr + len, is_culprit, &c);
	at = c.vma.start;
	if (maps_are_hidden(rc))
		return why_unseen(said, addr, addr + len);
	switch (rc) {
	case 0:
		return why_pinnable(addr, addr + len);
	case PAST_END:
		return hf_set_error(-EFAULT,
				    "the file behind the mapping at 0x%llx ends before the range 0x%llx-0x%llx does: "
				    "make the file longer (ftruncate), or ask for less",
				    at, (unsigned long long)addr, (unsigned long long)(addr + len));
	case NOT_WRITABLE:
		return hf_set_error(-EOPNOTSUPP,
				    "io_uring pins for writing; the mapping at 0x%llx is %s: copy the "
				    "data, or map it writable",
				    at, c.vma.readable ? "read-only" : "not accessible");
	case SHARED_FILE:
	case PRIVATE_FILE:
		return hf_set_error(-EOPNOTSUPP,
				    "io_uring can't pin the %s file mapping at 0x%llx: the kernel "
				    "writes such pages back to the file; copy the data to anonymous "
				    "memory or to a memfd",
				    rc == SHARED_FILE ? "shared" : "private", at);
	default:
		return rc; /* the sentence names the hole */
	}
}
