/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <holdfast/backend.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
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
 * that opened it, so it must not outlive a fork: it is kept (as fd + 1) in memory that the kernel wipes there. So is
 * the lock, which another thread may hold at the fork; wiped, it is free.
 */
struct kept {
	_Atomic uint32_t fd;
	pthread_mutex_t reading; /* its text: a file has one position, and the kernel remembers one mapping for it */
};

static void *_Atomic the_kept; /* struct kept */
static _Atomic bool no_query;

static struct kept *get_kept(void)
{
	return os_fork_map_once(&the_kept, sizeof(struct kept));
}

/* As os_open(). A missing file must not look like the end of the mappings, which is -ENOENT. */
static int open_maps(void)
{
	int fd = os_open("/proc/self/maps", O_RDONLY);

	return fd >= 0 || fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM ? fd : -ENODATA;
}

bool maps_are_hidden(int rc)
{
	return rc == -ENODATA || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -EIO;
}

static int kept_fd(void)
{
	struct kept *kept = get_kept();
	uint32_t have = kept ? atomic_load(&kept->fd) : 0;
	int fd;

	if (have || !kept)
		return kept ? (int)have - 1 : -ENOMEM;
	fd = open_maps();
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(&kept->fd, &have, (uint32_t)fd + 1)) {
		close(fd);
		return (int)have - 1;
	}
	hf_close_on_fork(fd);
	return fd;
}

void maps_prepare(void)
{
	kept_fd();
}

static int query(uint64_t addr, struct vma *out)
{
	struct procmap_query_v1 q = {
		.size = sizeof(q), .query_flags = COVERING_OR_NEXT, .query_addr = addr
	};
	int fd = kept_fd();

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

/* Where the mapping of this line ends; 0: no such line. The first thing that is asked, of many lines. */
static uint64_t end_of(const char *line)
{
	const char *dash = strchr(line, '-');

	return dash ? strtoull(dash + 1, NULL, 16) : 0;
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
	off_t at; /* in the file */
	size_t from, have; /* what of buf isn't used yet */
	char buf[8192];
};

/* More of the file behind what there is. How much; 0 at the end; or -errno. */
static ssize_t read_more(struct reader *r)
{
	ssize_t n;

	memmove(r->buf, r->buf + r->from, r->have);
	r->from = 0;
	n = pread(r->fd, r->buf + r->have, sizeof(r->buf) - r->have, r->at);
	if (n < 0)
		return -EIO;
	r->at += n;
	r->have += (size_t)n;
	return n;
}

/* 1 and the next line, NUL-terminated, in r->buf; 0 at the end; or -errno. */
static int next_line(struct reader *r, const char **line)
{
	char *end;

	while (!(end = memchr(r->buf + r->from, '\n', r->have))) {
		ssize_t n = read_more(r);

		if (n <= 0)
			return (int)n;
	}
	*end = 0;
	*line = r->buf + r->from;
	r->have -= (size_t)(end + 1 - *line);
	r->from = (size_t)(end + 1 - r->buf);
	return 1;
}

/*
 * From the first byte on: there the kernel begins anew, and goes on with the mapping behind the last one that it
 * showed, as long as nobody else reads from another place of the same open file.
 */
static int read_text(int fd, uint64_t addr, struct vma *out)
{
	struct reader r = { .fd = fd };
	const char *line;
	int rc;

	while ((rc = next_line(&r, &line)) > 0)
		if (end_of(line) > addr && parse_line(line, out) == 0)
			return 0;
	return rc ? rc : -ENOENT;
}

/* By the one that is kept, when no descriptor is to be had. One at a time: see read_text(). */
static int read_kept(int error, uint64_t addr, struct vma *out)
{
	struct kept *kept = get_kept();
	int fd = kept_fd();
	int rc;

	if (fd < 0)
		return error;
	pthread_mutex_lock(&kept->reading);
	rc = read_text(fd, addr, out);
	pthread_mutex_unlock(&kept->reading);
	return rc;
}

static int read_maps(uint64_t addr, struct vma *out)
{
	int fd, rc;

	kept_fd(); /* for when there are none left */
	fd = open_maps();
	if (fd < 0)
		return read_kept(fd, addr, out);
	rc = read_text(fd, addr, out);
	close(fd);
	return rc;
}

int maps_next(uint64_t addr, struct vma *out)
{
	int rc = -ENOTTY;

	if (!atomic_load_explicit(&no_query, memory_order_relaxed))
		rc = query(addr, out);
	if (rc == -ENOTTY || rc == -EINVAL)
		atomic_store_explicit(&no_query, true, memory_order_relaxed);
	return rc && rc != -ENOENT ? read_maps(addr, out) : rc;
}

static int why_hidden(int rc)
{
	if (rc == -ENODATA)
		return hf_set_error(rc, "can't look at this process's mappings: there is no /proc/self/maps; mount /proc "
				    "where this process sees it, before a switch is opened");
	if (rc == -EMFILE || rc == -ENFILE)
		return hf_set_error(rc, "can't look at this process's mappings: no descriptor is left for "
				    "/proc/self/maps; raise ulimit -n");
	return hf_set_error(rc, "can't look at this process's mappings: /proc/self/maps: %s", strerror(-rc));
}

int maps_walk(uint64_t start, uint64_t end, int (*each)(const struct vma *v, void *arg), void *arg)
{
	uint64_t at = start;

	while (at < end) {
		struct vma v;
		int rc = maps_next(at, &v);

		if (rc && rc != -ENOENT)
			return why_hidden(rc);
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
