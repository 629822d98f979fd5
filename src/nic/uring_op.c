/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One request at a time on a table's ring, none of which waits.
 *
 * Requests go to the ring whose table has the buffer, so several connections share a ring. If a request
 * waited in the kernel for its peer, somebody would have to reap for others and a slot could be given
 * back under a request. Instead a request that can't go on at once answers EAGAIN, and its thread waits
 * in poll(2) with no lock held. All of a request happens between taking and releasing table->submit.
 */
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../os.h"

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x00000100
#endif

#define MOVE_MAX (1u << 20) /* copied under `submit` at once: others get their turn */
#define PIPE_MAX (1u << 16) /* what an empty pipe takes without waiting */

enum { TAG_REQUEST = 1, TAG_CANCEL = 2 };

/* The kernel did not take what was queued: unqueue it, or it would go out with the next request. */
static void unqueue(struct io_uring *ring)
{
	unsigned head = __atomic_load_n(ring->sq.khead, __ATOMIC_ACQUIRE);

	__atomic_store_n(ring->sq.ktail, head, __ATOMIC_RELEASE);
	ring->sq.sqe_head = ring->sq.sqe_tail = head;
}

/* 0 when the kernel has taken the one request that is queued. */
static int submit_one(struct io_uring *ring)
{
	int rc;

	do
		rc = io_uring_submit(ring);
	while (rc == -EINTR);
	if (rc == 1)
		return 0;
	unqueue(ring);
	return rc < 0 ? rc : -EIO;
}

static int submit_cancel(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_cancel64(sqe, TAG_REQUEST, 0);
	io_uring_sqe_set_data64(sqe, TAG_CANCEL);
	return submit_one(ring);
}

/*
 * The answer to the request. Nearly always it is there already. If not, and the request may wait for a
 * peer (`cancel`), it is cancelled, again and again as long as it is just running; its answer then is what
 * it did, or ECANCELED.
 */
static int reap(struct io_uring *ring, bool cancel)
{
	unsigned cancels = 0;
	bool done = false;
	int res = 0;

	while (!done || cancels) {
		struct io_uring_cqe *cqe;

		if (!io_uring_peek_cqe(ring, &cqe)) {
			if (cqe->user_data == TAG_REQUEST) {
				res = cqe->res;
				done = true;
			} else {
				cancels--;
			}
			io_uring_cqe_seen(ring, cqe);
		} else if (cancel && !done && !cancels) {
			cancels += submit_cancel(ring) == 0;
		} else {
			io_uring_wait_cqe(ring, &cqe);
		}
	}
	return res;
}

static int request(struct io_uring *ring, int op, int fd, uint64_t addr, uint32_t len, unsigned slot,
		   int rw_flags, bool cancel)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int rc;

	io_uring_prep_rw(op, sqe, fd, (void *)(uintptr_t)addr, len, 0);
	sqe->rw_flags = rw_flags;
	sqe->buf_index = (uint16_t)slot;
	io_uring_sqe_set_data64(sqe, TAG_REQUEST);
	rc = submit_one(ring);
	return rc ? rc : reap(ring, cancel);
}

/* The table and slot of `addr`; *len is cut at the slot's end. */
static struct uring_table *locate(struct uring_nic *nic, const struct hf_region *r, uint64_t addr,
				  uint64_t *len, unsigned *slot)
{
	uint64_t left = URING_SPAN - ((addr - r->addr) & (URING_SPAN - 1));

	if (*len > left)
		*len = left;
	return uring_table_of(nic, uring_lkey_at(r->addr, r->lkey, addr), slot);
}

int uring_move(struct uring_nic *nic, enum uring_dir dir, int fd, const struct hf_region *r,
	       uint64_t addr, uint64_t len)
{
	int op = dir == URING_OUT ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
	int flags = (nic->caps.nowait ? RWF_NOWAIT : 0) | (nic->caps.nosignal ? RWF_NOSIGNAL : 0);
	struct uring_table *t;
	unsigned slot;
	int res;

	t = locate(nic, r, addr, &len, &slot);
	if (!t)
		return -EINVAL;
	if (len > MOVE_MAX)
		len = MOVE_MAX;
	pthread_mutex_lock(&t->submit);
	res = request(&t->ring, op, fd, addr, (uint32_t)len, slot, flags, !nic->caps.nowait);
	pthread_mutex_unlock(&t->submit);
	return res == -ECANCELED || res == -EINTR ? -EAGAIN : res;
}

/* One byte over a pair of sockets of our own: which flags does a socket take? */
int uring_find_caps(struct uring_nic *nic)
{
	static const int flags[] = { RWF_NOWAIT | RWF_NOSIGNAL, RWF_NOWAIT };
	struct uring_table *t = nic->table[0];
	int sv[2];
	char byte = 0;

	if (nic->caps.known)
		return 0;
	if (FAULT("socketpair") || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return hf_set_error(-EMFILE, "uring: no descriptors to try a socket: raise ulimit -n");
	pthread_mutex_lock(&t->submit);
	for (unsigned i = 0; i < 2 && !nic->caps.nowait; i++) {
		int res = request(&t->ring, IORING_OP_WRITE, sv[0], (uintptr_t)&byte, 1, 0, flags[i],
				  false);

		nic->caps.nowait = res == 1;
		nic->caps.nosignal = res == 1 && flags[i] & RWF_NOSIGNAL;
	}
	pthread_mutex_unlock(&t->submit);
	close(sv[0]);
	close(sv[1]);
	nic->caps.known = true;
	return 0;
}

/* ------------------------------------------------------------------ peek and poke */

/*
 * Through a pipe: what goes into it is copied at once, so it shows the pinned pages, and it never
 * waits. Unlike a memfd every kernel does this inline, with O_NONBLOCK.
 */
static int have_pipe(struct uring_table *t)
{
	if (t->pipe[0] >= 0)
		return 0;
	if (FAULT("pipe") || pipe2(t->pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
		t->pipe[0] = t->pipe[1] = -1;
		return hf_set_error(-EMFILE, "uring: no descriptors for a pipe: raise ulimit -n");
	}
	return 0;
}

/* A pipe with something left in it would give the next caller these bytes. */
static void drop_pipe(struct uring_table *t)
{
	close(t->pipe[0]);
	close(t->pipe[1]);
	t->pipe[0] = t->pipe[1] = -1;
}

/* (submit) How many bytes went from the registered memory to dst, or -errno. */
static int peek_some(struct uring_table *t, unsigned slot, uint64_t addr, void *dst, uint32_t len)
{
	int n = request(&t->ring, IORING_OP_WRITE_FIXED, t->pipe[1], addr, len, slot, 0, false);

	if (n > 0 && read(t->pipe[0], dst, (size_t)n) != n) {
		drop_pipe(t);
		return -EFAULT;
	}
	return n;
}

static int poke_some(struct uring_table *t, unsigned slot, uint64_t addr, const void *src, uint32_t len)
{
	ssize_t in = write(t->pipe[1], src, len);
	int n;

	if (in <= 0)
		return in < 0 ? -errno : -EIO;
	n = request(&t->ring, IORING_OP_READ_FIXED, t->pipe[0], addr, (uint32_t)in, slot, 0, false);
	if (n != in) {
		drop_pipe(t);
		return n < 0 ? n : -EIO;
	}
	return n;
}

/* One of dst and src is NULL. A step that moves nothing is an error, so the callers' loops end. */
static int copy_locked(struct uring_table *t, unsigned slot, uint64_t addr, void *dst, const void *src,
		       uint64_t len)
{
	uint32_t part = len > PIPE_MAX ? PIPE_MAX : (uint32_t)len;
	int n = have_pipe(t);

	if (n)
		return n;
	n = dst ? peek_some(t, slot, addr, dst, part) : poke_some(t, slot, addr, src, part);
	if (n > 0)
		return n;
	return hf_set_error(n ? n : -EIO, "uring: slot %u would not copy: %s", slot,
			    strerror(n ? -n : EIO));
}

static int copy_some(struct uring_nic *nic, const struct hf_region *r, uint64_t addr, void *dst,
		     const void *src, uint64_t len)
{
	struct uring_table *t;
	unsigned slot;
	int n;

	t = locate(nic, r, addr, &len, &slot);
	if (!t)
		return hf_set_error(-EINVAL, "uring: no slot has the key %llu",
				    (unsigned long long)r->lkey);
	if (!t->own)
		return hf_set_error(-EOPNOTSUPP,
				    "uring: the ring is the program's own: holdfast can't submit to "
				    "it; use the buffer index with your own requests");
	pthread_mutex_lock(&t->submit);
	n = copy_locked(t, slot, addr, dst, src, len);
	pthread_mutex_unlock(&t->submit);
	return n;
}

int uring_peek(void *nic, const struct hf_region *r, uint64_t addr, void *dst, size_t len)
{
	for (size_t done = 0; done < len;) {
		int n = copy_some(nic, r, addr + done, (char *)dst + done, NULL, len - done);

		if (n < 0)
			return n;
		done += (size_t)n;
	}
	return 0;
}

int uring_poke(void *nic, const struct hf_region *r, uint64_t addr, const void *src, size_t len)
{
	for (size_t done = 0; done < len;) {
		int n = copy_some(nic, r, addr + done, NULL, (const char *)src + done, len - done);

		if (n < 0)
			return n;
		done += (size_t)n;
	}
	return 0;
}
