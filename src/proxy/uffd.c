/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The `uffd` proxy: userfaultfd in write-protect mode with nothing ever protected, for its events alone. No page
 * fault is ever ours to resolve; the mode is only what makes the kernel attach the descriptor to a mapping.
 *
 * How it is exact. The kernel unmaps, drops the mmap lock and only then posts the event, so another thread
 * can be given the address while the event is still on its way. But it raises the descriptor's "mmap
 * changing" count before it drops the lock, and lowers it only after the event was read; any ioctl that fills
 * pages asks that count first. So an ioctl with a range that can't be valid answers EAGAIN while a
 * change is in flight, else EINVAL. And the word is odd from before the read until all were told:
 *
 *   A: munmap              kernel                    event thread         C: mmap, then hf_get
 *   ----------------       ----------------------    ----------------     -----------------------------
 *   unmaps                 count++
 *   drops the lock                                                         is given the address
 *                                                                          check: count 1, EAGAIN
 *   posts the event ...........................>     word odd
 *                                                    read
 *   wakes                  count--                                         check: count 0, word odd
 *                                                    tells the switch
 *   returns                                          word even             check: passes; entry is gone
 *
 * The word is read after the count: the count falls only after the read, and the word was odd before it.
 *
 * MADV_DONTNEED, _FREE and _REMOVE are told *before* the pages go, and nothing tells that they are gone:
 * quarantine.h.
 *
 * What it can't see, on any kind of mapping: truncation and hole punching by way of the file, shmdt,
 * SHM_REMAP, remap_file_pages, MADV_GUARD_INSTALL. All but SHM_REMAP and guards need memory that has a file
 * behind it; so only plain private anonymous memory is watched (I6), and `doctor` shows the two blind spots.
 *
 * Whole mappings are armed, never a part: a part would split the program's mapping, whose mremap() would then
 * fail, and 32 000 buffers would use up vm.max_map_count. Nothing is disarmed before the close: it
 * costs a walk over the page tables, and the next registration would arm it again.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../maps.h"
#include "../os.h"
#include "proxy.h"
#include "quarantine.h"

/* Newer than the headers of Debian 12. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15) /* 6.7 */
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* 6.1 */
#endif

#define EVENTS (UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)
#define FEATURES (EVENTS | UFFD_FEATURE_PAGEFAULT_FLAG_WP)
#define BATCH 16

struct uffd {
	int fd;
	int stop_fd;
	unsigned flags;
	struct hf_sink *sink;
	struct os_thread thread;
	struct quarantine quarantine;
	struct uffd_msg batch[BATCH];
};

/* ------------------------------------------------------------------ open */

static int new_by_syscall(void)
{
	int fd;

	if (FAULT("userfaultfd")) {
		errno = ENOSYS;
		return -1;
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0 && errno == EINVAL) /* before 5.11 */
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd;
}

static int new_by_device(void)
{
	int dev = os_open("/dev/userfaultfd", O_RDWR);
	int fd = -1;

	if (dev < 0)
		return -1;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(dev);
	return fd;
}

static int new_fd(void)
{
	int fd = new_by_syscall();
	int err = errno;

	if (fd < 0)
		fd = new_by_device();
	if (fd >= 0)
		return fd;
	if (err == ENOSYS)
		return hf_set_error(-ENOSYS, "the kernel has no userfaultfd (CONFIG_USERFAULTFD), or a "
				    "container's seccomp filter hides it: allow userfaultfd(2) there");
	if (err == EPERM)
		return hf_set_error(-EPERM, "userfaultfd(2) is refused: a container's seccomp profile, or a "
				    "kernel before 5.11 with vm.unprivileged_userfaultfd=0; allow the call, "
				    "or give access to /dev/userfaultfd");
	return hf_set_error(-err, "userfaultfd(2): %s", strerror(err));
}

/* 0, or -errno of the handshake. A descriptor that failed it is of no more use. */
static int handshake(uint64_t features, int *fd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	*fd = new_fd();
	if (*fd < 0)
		return *fd;
	if (!FAULT("UFFDIO_API") && ioctl(*fd, UFFDIO_API, &api) == 0)
		return 0;
	close(*fd);
	return hf_set_error(-EOPNOTSUPP, "userfaultfd here lacks write-protect mode or the unmap, remap "
			    "and remove events: x86-64 since Linux 5.7, arm64 since 6.10");
}

static int open_fd(int *fd)
{
	int rc = handshake(FEATURES | UFFD_FEATURE_WP_ASYNC, fd);

	/* Before 6.7: plain anonymous memory, which is all that we arm, works as well. */
	return rc == -EOPNOTSUPP ? handshake(FEATURES, fd) : rc;
}

/* ------------------------------------------------------------------ the event thread */

/*
 * REMOVE: quarantined before it is told, or a getter that begins between the two would cache the old page; and
 * the quarantine's clock ticks after the read, or a call that the madvise's own thread made before it
 * would count as proof that it is over. (The model's QUARANTINE_LATE and TICK_EARLY.)
 */
static void take_one(struct uffd *u, const struct uffd_msg *m)
{
	uint64_t start = m->arg.remove.start;
	uint64_t end = m->arg.remove.end;

	switch (m->event) {
	case UFFD_EVENT_REMOVE:
		quarantine_add(&u->quarantine, start, end);
		hf_changed(u->sink, start, end);
		break;
	case UFFD_EVENT_UNMAP:
		hf_changed(u->sink, start, end);
		break;
	case UFFD_EVENT_REMAP:
		hf_changed(u->sink, m->arg.remap.from, m->arg.remap.from + m->arg.remap.len);
		hf_changed(u->sink, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len);
		break;
	default: /* an event that wasn't asked for: be safe */
		hf_changed(u->sink, 0, UINT64_MAX);
	}
}

static void take_batch(struct uffd *u)
{
	ssize_t n = read(u->fd, u->batch, sizeof(u->batch));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(u->batch[0]); i++)
		take_one(u, &u->batch[i]);
}

static void *event_loop(void *p)
{
	struct uffd *u = p;
	struct pollfd fds[2] = { { .fd = u->fd, .events = POLLIN },
				 { .fd = u->stop_fd, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			break;
		hf_changes_begin(u->sink);
		if (fds[0].revents & (POLLNVAL | POLLERR)) {
			/* The program closed what isn't its own. Blind from here on: the word stays odd. */
			fds[0].fd = -1;
			continue;
		}
		take_batch(u);
		/* An index is busy: its holder may be a signal handler's thread that waits for us. */
		while (hf_changes_end(u->sink) == -EAGAIN) {
			take_batch(u);
			sched_yield();
		}
	}
	/* Closed by the reader itself: who waits for an event is let go, and all mappings are disarmed. */
	close(u->fd);
	return NULL;
}

static void uffd_free(struct uffd *u)
{
	if (u->stop_fd >= 0)
		close(u->stop_fd);
	os_pool_unmap(u, sizeof(*u));
}

static int start(struct uffd *u)
{
	int rc = hf_close_on_fork(u->fd);

	if (!rc)
		rc = os_thread_start(&u->thread, "hf-uffd", event_loop, u);
	if (rc) {
		hf_close_on_fork_done(u->fd);
		close(u->fd);
		return hf_set_error(rc, "can't start the event thread: %s", strerror(-rc));
	}
	return 0;
}

static int uffd_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	struct uffd *u = os_pool_map(sizeof(*u));
	int rc;

	if (!u)
		return hf_set_error(-ENOMEM, "no memory for the proxy");
	u->sink = sink;
	u->flags = flags;
	u->stop_fd = os_eventfd();
	rc = u->stop_fd < 0 ? hf_set_error(u->stop_fd, "eventfd: %s", strerror(-u->stop_fd)) :
			      open_fd(&u->fd);
	if (!rc)
		rc = start(u);
	if (rc) {
		uffd_free(u);
		return rc;
	}
	*proxy = u;
	return 0;
}

static void uffd_close(void *proxy)
{
	struct uffd *u = proxy;
	uint64_t one = 1;

	hf_close_on_fork_done(u->fd);
	if (write(u->stop_fd, &one, sizeof(one)) < 0)
		abort(); /* an eventfd of our own: somebody closed descriptors that aren't theirs */
	os_thread_join(&u->thread);
	uffd_free(u);
}

/* ------------------------------------------------------------------ securing */

struct look {
	struct uffd *u;
	unsigned access;
	bool arm;
	bool again; /* a mapping changed under our hands */
};

static int unwatched(const struct vma *v, const char *why)
{
	return hf_set_error(HF_UNWATCHED, "uffd can't watch 0x%" PRIx64 "-0x%" PRIx64 ": %s", v->start,
			    v->end, why);
}

/* Which mappings show every change that replaces their pages. */
static int classify(const struct look *l, const struct vma *v)
{
	int rc = maps_rights(v, l->access);

	if (rc)
		return rc;
	if (v->shared)
		return unwatched(v, "shared memory can be changed through its file");
	if (v->file && !(l->u->flags & HF_PROXY_RELAX_FILE))
		return unwatched(v, "it has a file behind it, which can be truncated");
	if (!v->writable)
		return unwatched(v, "it is read-only, and copy-on-write later is not told");
	return HF_WATCHED;
}

static int arm(struct look *l, const struct vma *v)
{
	struct uffdio_register r = { .range = { v->start, v->end - v->start },
				     .mode = UFFDIO_REGISTER_MODE_WP };

	if (!FAULT("UFFDIO_REGISTER") && ioctl(l->u->fd, UFFDIO_REGISTER, &r) == 0)
		return HF_WATCHED;
	if (errno == EBUSY)
		return unwatched(v, "another userfaultfd of the program watches it");
	if (errno == ENOMEM)
		return unwatched(v, "no memory, or at vm.max_map_count");
	l->again = true;
	return unwatched(v, "the kernel refuses userfaultfd on it");
}

static int each_vma(const struct vma *v, void *arg)
{
	struct look *l = arg;
	int rc = classify(l, v);

	return rc == HF_WATCHED && l->arm ? arm(l, v) : rc;
}

/*
 * Look, arm, and look again: what was there at the first look may have been replaced before it was armed.
 * What is replaced after the arming is told, and the caller's placeholder is marked.
 */
static int uffd_secure(void *proxy, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	struct uffd *u = proxy;
	struct look l = { u, access, true, false };
	int rc = HF_UNWATCHED;

	*id = 0;
	for (int i = 0; i < 4; i++) {
		l.again = false;
		rc = maps_walk(start_, end, each_vma, &l);
		if (!l.again)
			break;
	}
	l.arm = false;
	if (rc == HF_WATCHED)
		rc = maps_walk(start_, end, each_vma, &l);
	if (rc == HF_WATCHED && quarantine_covers(&u->quarantine, start_, end, u->thread.tid))
		return hf_set_error(HF_UNWATCHED, "a part of it is being emptied (madvise) by another thread");
	return rc;
}

static void uffd_unsecure(void *proxy, uint64_t start_, uint64_t end, uint64_t id)
{
}

static int uffd_check(void *proxy)
{
	struct uffd *u = proxy;
	struct uffdio_zeropage never = { .range = { 1, 1 } };

	/* The count was > 0: EAGAIN. Anything but EINVAL is nothing to build on. */
	return ioctl(u->fd, UFFDIO_ZEROPAGE, &never) < 0 && errno == EINVAL ? 0 : -EAGAIN;
}

const struct hf_proxy_ops hf_proxy_uffd = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_WATCH | HF_CAP_EXACT,
	.name = "uffd",
	.open = uffd_open,
	.close = uffd_close,
	.secure = uffd_secure,
	.unsecure = uffd_unsecure,
	.check = uffd_check,
};
