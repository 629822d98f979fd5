/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which ranges a call means, where its arguments alone don't say. Run by the thread that answers the supervisor, while the
 * call waits: no allocation, and no call that waits itself (brk(0) doesn't).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "supervise.h"
#include "supervise_calls.h"

typedef int (*range_fn)(uint64_t start, uint64_t end, void *arg);

static uint64_t round_up(uint64_t a)
{
	uint64_t page = os_page_size();

	return a > UINT64_MAX - page ? a : (a + page - 1) & ~(page - 1);
}

uint64_t supervise_break(void)
{
	return (uint64_t)syscall(SYS_brk, 0);
}

/* It shrinks, if it is below. Only this call and others like it, which wait here too, move the break. */
static int find_break(const struct seccomp_data *d, range_fn each, void *arg)
{
	uint64_t start = round_up(d->args[0]);
	uint64_t end = round_up(supervise_break());

	return start < end ? each(start, end, arg) : 0;
}

/* ------------------------------------------------------------------ System V segments */

/* Lines of /proc/self/maps, from a buffer of the stack. */
struct lines {
	int fd;
	size_t have, at;
	char buf[4096];
};

/* The next line, ended by 0, or NULL. A longer one than the buffer is cut: none of a segment's is. */
static char *next_line(struct lines *l)
{
	for (;;) {
		char *line = l->buf + l->at;
		char *end = memchr(line, '\n', l->have - l->at);
		ssize_t n;

		if (end) {
			*end = 0;
			l->at = (size_t)(end - l->buf) + 1;
			return line;
		}
		memmove(l->buf, line, l->have - l->at);
		l->have -= l->at;
		l->at = 0;
		if (l->have == sizeof(l->buf))
			l->have = 0;
		n = read(l->fd, l->buf + l->have, sizeof(l->buf) - l->have);
		if (n <= 0)
			return NULL;
		l->have += (size_t)n;
	}
}

static uint64_t hex(char **at)
{
	uint64_t n = 0;

	for (;; (*at)++) {
		if (**at >= '0' && **at <= '9')
			n = n * 16 + (uint64_t)(**at - '0');
		else if (**at >= 'a' && **at <= 'f')
			n = n * 16 + (uint64_t)(**at - 'a' + 10);
		else
			return n;
	}
}

static char *next_word(char *at)
{
	at += strcspn(at, " ");
	return at + strspn(at, " ");
}

/* "7f0000000000-7f0000010000 rw-s 00000000 00:01 32770     /SYSV00000000 (deleted)" */
static bool parse_segment(char *line, uint64_t *start, uint64_t *end, uint64_t *offset, uint64_t *inode)
{
	char *at = line;

	*start = hex(&at);
	at++;
	*end = hex(&at);
	at = next_word(next_word(at));
	*offset = hex(&at);
	at = next_word(next_word(at));
	*inode = strtoull(at, &at, 10);
	return !strncmp(at + strspn(at, " "), "/SYSV", 5);
}

/* What shmdt(2) unmaps: the pieces of the segment that are where they would be, were it whole at this address. */
static int find_segment(uint64_t from, range_fn each, void *arg)
{
	uint64_t start, end, offset, inode, segment = 0;
	struct lines l = { .fd = os_open("/proc/self/maps", O_RDONLY) };
	char *line;
	int rc = 0;

	if (l.fd < 0)
		return each(from, UINT64_MAX, arg); /* who doesn't know takes all */
	while (!rc && (line = next_line(&l))) {
		if (!parse_segment(line, &start, &end, &offset, &inode) || start < from || offset != start - from)
			continue;
		if (segment && inode != segment)
			continue;
		segment = inode;
		rc = each(start, end, arg);
	}
	close(l.fd);
	return rc;
}

/* Who may not ask how large it is may not attach it either, and the kernel will say so. */
static int find_size(const struct sup_call *c, range_fn each, void *arg)
{
	uint64_t start = c->range[0].start;
	struct shmid_ds ds;

	if (shmctl((int)c->number, IPC_STAT, &ds) < 0)
		return 0;
	return each(start, round_up(start + ds.shm_segsz), arg);
}

/* ------------------------------------------------------------------ process_madvise */

/* Through the kernel: a bad pointer is its caller's error, not our fault. */
static int read_vector(uint64_t at, struct iovec *out, size_t n)
{
	struct iovec to = { out, n * sizeof(*out) };
	struct iovec from = { (void *)(uintptr_t)at, n * sizeof(*out) };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)to.iov_len ? 0 : -EFAULT;
}

/*
 * Whether it means this process isn't looked at: for another one the kernel allows no advice that empties. What the program
 * writes to the vector while the call waits isn't seen.
 */
static int find_vector(const struct sup_call *c, range_fn each, void *arg)
{
	uint64_t page = os_page_size();
	int rc = 0;

	for (uint32_t i = 0; i < c->number && !rc; i++) {
		struct iovec one;
		uint64_t start;

		if (read_vector(c->vector + i * sizeof(one), &one, 1) < 0)
			return 0;
		start = (uint64_t)(uintptr_t)one.iov_base & ~(page - 1);
		if (one.iov_len)
			rc = each(start, round_up(start + one.iov_len), arg);
	}
	return rc;
}

int supervise_each_range(const struct sup_call *c, const struct seccomp_data *d, range_fn each, void *arg)
{
	int rc = 0;

	switch (c->find) {
	case SUP_FIND_BREAK:
		return find_break(d, each, arg);
	case SUP_FIND_SEGMENT:
		return find_segment(c->range[0].start, each, arg);
	case SUP_FIND_SIZE:
		return find_size(c, each, arg);
	case SUP_FIND_VECTOR:
		return find_vector(c, each, arg);
	default:
		for (uint32_t i = 0; i < c->ranges && !rc; i++)
			rc = each(c->range[i].start, c->range[i].end, arg);
		return rc;
	}
}
