/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <holdfast/backend.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "os.h"

/* Linux 6.11; Debian 12's headers are older. */
struct procmap_query_v1 {
	uint64_t size, query_flags, query_addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};
#define QUERY_V1 _IOWR('f', 17, struct procmap_query_v1)
#define VMA_READABLE      0x01
#define VMA_WRITABLE      0x02
#define VMA_SHARED        0x08
#define COVERING_OR_NEXT  0x10

/*
 * One descriptor for the process, opened at the first need. It shows the address space of the process
 * that opened it, so it must not outlive a fork: it is kept (as fd + 1) in a word that the kernel wipes there.
 */
static _Atomic(_Atomic uint32_t *) fd_cell;
static _Atomic bool no_query;

static _Atomic uint32_t *get_cell(void)
{
	_Atomic uint32_t *have = atomic_load(&fd_cell);
	_Atomic uint32_t *mine = have ? NULL : os_fork_word();

	if (!mine || atomic_compare_exchange_strong(&fd_cell, &have, mine))
		return have ? have : mine;
	os_fork_word_free(mine);
	return have;
}

static int query_fd(void)
{
	_Atomic uint32_t *cell = get_cell();
	uint32_t have = cell ? atomic_load(cell) : 0;
	int fd;

	if (have || !cell)
		return cell ? (int)have - 1 : -ENOMEM;
	fd = os_open("/proc/self/maps", O_RDONLY);
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(cell, &have, (uint32_t)fd + 1)) {
		close(fd);
		return (int)have - 1;
	}
	hf_close_on_fork(fd);
	return fd;
}

static int query(uint64_t addr, struct vma *out)
{
	struct procmap_query_v1 q = {
		.size = sizeof(q), .query_flags = COVERING_OR_NEXT, .query_addr = addr
	};
	int fd = query_fd();

	if (fd < 0)
		return fd;
	if (ioctl(fd, QUERY_V1, &q) < 0)
		return -errno;
	*out = (struct vma){ .start = q.vma_start,
			     .end = q.vma_end,
			     .readable = q.vma_flags & VMA_READABLE,
			     .writable = q.vma_flags & VMA_WRITABLE,
			     .shared = q.vma_flags & VMA_SHARED,
			     .file = q.inode || q.dev_major || q.dev_minor };
	return 0;
}

/* "55d0c5a7e000-55d0c5a80000 r--p 00000000 fe:00 1234   /path": 0, or -EINVAL. */
static int parse_line(const char *line, struct vma *out)
{
	char r, w, x, p;
	unsigned major, minor;
	uint64_t inode;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %c%c%c%c %*x %x:%x %" SCNu64, &out->start, &out->end,
		   &r, &w, &x, &p, &major, &minor, &inode) != 9)
		return -EINVAL;
	out->readable = r == 'r';
	out->writable = w == 'w';
	out->shared = p == 's';
	out->file = inode || major || minor;
	return 0;
}

struct reader {
	int fd;
	size_t have;
	char buf[8192];
};

/* The next line, NUL-terminated, in r->buf; its length with the newline, 0 at the end. */
static ssize_t next_line(struct reader *r, size_t drop)
{
	char *end;

	memmove(r->buf, r->buf + drop, r->have - drop);
	r->have -= drop;
	while (!(end = memchr(r->buf, '\n', r->have))) {
		ssize_t n = read(r->fd, r->buf + r->have, sizeof(r->buf) - 1 - r->have);

		if (n <= 0)
			return n < 0 ? -errno : 0;
		r->have += (size_t)n;
	}
	*end = 0;
	return end - r->buf + 1;
}

static int read_text(uint64_t addr, struct vma *out)
{
	struct reader r = { .fd = os_open("/proc/self/maps", O_RDONLY) };
	ssize_t line = 0;
	int rc = -ENOENT;

	if (r.fd < 0)
		return r.fd;
	while ((line = next_line(&r, (size_t)line)) > 0) {
		if (parse_line(r.buf, out) == 0 && out->end > addr) {
			rc = 0;
			break;
		}
	}
	close(r.fd);
	return line < 0 ? (int)line : rc;
}

int maps_next(uint64_t addr, struct vma *out)
{
	int rc = -ENOTTY;

	if (!atomic_load_explicit(&no_query, memory_order_relaxed))
		rc = query(addr, out);
	if (rc == -ENOTTY || rc == -EINVAL)
		atomic_store_explicit(&no_query, true, memory_order_relaxed);
	return rc && rc != -ENOENT ? read_text(addr, out) : rc;
}

int maps_walk(uint64_t start, uint64_t end, int (*each)(const struct vma *v, void *arg), void *arg)
{
	uint64_t at = start;

	while (at < end) {
		struct vma v;
		int rc = maps_next(at, &v);

		if (rc && rc != -ENOENT)
			return hf_set_error(rc, "can't read /proc/self/maps: %s", strerror(-rc));
		if (rc || v.start > at)
			return hf_set_error(-EFAULT, "asked for 0x%" PRIx64 "-0x%" PRIx64
					    ": nothing is mapped at 0x%" PRIx64, start, end, at);
		rc = each(&v, arg);
		if (rc)
			return rc;
		at = v.end;
	}
	return 0;
}

int maps_rights(const struct vma *v, unsigned access)
{
	if (!v->readable)
		return hf_set_error(-EACCES, "the mapping 0x%" PRIx64 "-0x%" PRIx64
				    " allows no access (PROT_NONE or write-only)", v->start, v->end);
	if ((access & HF_WRITE) && !v->writable)
		return hf_set_error(-EACCES, "write access was asked and the mapping 0x%" PRIx64
				    "-0x%" PRIx64 " is read-only", v->start, v->end);
	return 0;
}

static int check_rights(const struct vma *v, void *access)
{
	return maps_rights(v, *(unsigned *)access);
}

int hf_range_check(uint64_t start, uint64_t end, unsigned access)
{
	return maps_walk(start, end, check_rights, &access);
}
