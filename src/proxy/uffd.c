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
 * Parts. All that is per descriptor: the count, the events, the word. So there are up to HF_SINK_PARTS descriptors,
 * and a storm of unmaps in memory of one does not disturb the hits in memory of another. A mapping is armed in one
 * of them, and the kernel refuses (EBUSY) to arm it in a second one. It leaves its descriptor only by an unmap or a
 * move, which that descriptor tells; moved, it stays in it. An entry's parts are those in which its mappings were
 * armed when it was registered. So whatever changes under the entry makes the count of one of *its* parts rise,
 * or the word odd, before it has an effect, and it is told by that part: the drawing holds for each part by itself.
 * What is armed at that address later, in whichever part, is no matter of this entry, which is dead by then or
 * about to be told. So it is free to choose where a mapping is armed first, and the choice is for speed only.
 *
 * Events that never come. The kernel drops an event when its thread is killed in the call,
 * SHM_REMAP posts none, another userfaultfd of the program may take the watch away
 * (UFFDIO_UNREGISTER, before 6.17), and the program may close our descriptors, which disarms
 * everything. So a hit doesn't rely on the count and the word alone. It also asks whether its range
 * is one mapping with a userfaultfd (UFFDIO_CONTINUE), and memory that must be armed anew was not
 * watched: what is cached there is dropped. A hit must not see the new arming before the drop:
 *
 *   getter H: hit of e at a          change, unseen        getter G: secure(a)
 *   ----------------------------     ------------------    ------------------------------
 *                                    munmap, mmap
 *   is a armed? no: not a hit
 *                                                          arming = [a, ...)
 *                                                          UFFDIO_REGISTER
 *   is a armed? yes
 *   arming touches a: not a hit
 *                                                          drops e, marks placeholders
 *                                                          arming = nothing
 *   is a armed? yes
 *   arming is nothing; e is dead: not a hit
 *
 * What is left: any userfaultfd counts as a watch, also one of the program's, and a mapping that
 * grows or moves by mremap takes the watch with it. So an event must be lost *and* one of these
 * must follow at the same address; or it must be lost between secure()'s question whether a mapping
 * is armed and its arming. MADV_DONTNEED in a process that shares the memory, which is killed
 * between the two steps of it, leaves the watch as it is.
 *
 * MADV_DONTNEED, _FREE and _REMOVE are told *before* the pages go, and nothing tells that they are gone:
 * quarantine.h.
 *
 * What no event tells, on any kind of mapping: truncation and hole punching by way of the file,
 * shmdt, SHM_REMAP, remap_file_pages, MADV_GUARD_INSTALL. All but SHM_REMAP and guards need memory
 * that has a file behind it; so only plain private anonymous memory is watched (I6). A hit finds
 * out SHM_REMAP; guards are a blind spot.
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
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../maps.h"
#include "../os.h"
#include "../switch.h"
#include "../thread.h"
#include "armed.h"
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

/* One descriptor, and the part of the sink to which its events are told. */
struct context {
	_Atomic int fd;      /* -1: not made yet; it is made once and stays until the close */
	struct hf_sink *sink;
	bool telling;        /* an index was busy: there is more to be told; the event thread's own */
	ino_t ino;           /* of fd: each userfaultfd has its own */
	dev_t dev;
};

struct uffd {
	struct context context[HF_SINK_PARTS]; /* the first is made by the open */
	unsigned parts;      /* how many are ours, from the first on. 1 when the switch's table, a wrapper's, knows none */
	int wake_fd;
	int epoll_fd;        /* of all contexts and wake_fd */
	_Atomic bool stop;
	unsigned flags;
	_Atomic unsigned seams; /* mappings that were armed in another part than a neighbour, ever */
	pthread_mutex_t making; /* of contexts; the event thread never takes it */
	pthread_mutex_t anew;   /* arming what is not armed; the event thread never takes it */
	_Atomic uint64_t anew_start, anew_end; /* what is being armed anew; empty: nothing. Written under `anew` */
	struct os_thread thread;
	struct quarantine quarantine;
	struct armed armed;
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
static void take_one(struct uffd *u, unsigned part, const struct uffd_msg *m)
{
	struct hf_sink *sink = u->context[part].sink;
	uint64_t start = m->arg.remove.start;
	uint64_t end = m->arg.remove.end;

	switch (m->event) {
	case UFFD_EVENT_REMOVE:
		quarantine_add(&u->quarantine, start, end);
		break;
	case UFFD_EVENT_UNMAP:
		armed_left(&u->armed, part, start, end);
		break;
	case UFFD_EVENT_REMAP:
		start = m->arg.remap.from;
		end = start + m->arg.remap.len;
		armed_left(&u->armed, part, start, end);
		hf_changed(sink, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len);
		break;
	default: /* an event that wasn't asked for: be safe */
		start = 0;
		end = UINT64_MAX;
		armed_left(&u->armed, part, start, end);
	}
	hf_changed(sink, start, end);
}

/*
 * The number is still that of the descriptor that was made: the program may have closed it and
 * taken the number.
 */
static bool is_ours(const struct context *c)
{
	struct stat s;

	return c->fd >= 0 && fstat(c->fd, &s) == 0 && s.st_ino == c->ino && s.st_dev == c->dev;
}

static void take_batch(struct uffd *u, unsigned part)
{
	ssize_t n = read(u->context[part].fd, u->batch, sizeof(u->batch));

	if (n < 0 && !is_ours(&u->context[part]))
		os_sleep_us(1000); /* the program closed it, and another process keeps it: not to spin */
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(u->batch[0]); i++)
		take_one(u, part, &u->batch[i]);
}

/* True: an index is busy, its holder may be a signal handler's thread that waits for us: go on reading all. */
static bool serve(struct uffd *u, unsigned part, bool ready)
{
	struct context *c = &u->context[part];

	if (!ready && !c->telling)
		return false;
	hf_changes_begin(c->sink);
	take_batch(u, part);
	c->telling = hf_changes_end(c->sink) == -EAGAIN;
	return c->telling;
}

/*
 * The reader itself closes them: whoever waits for an event is let go, and all mappings are
 * disarmed.
 */
static void close_contexts(struct uffd *u)
{
	for (unsigned i = 0; i < HF_SINK_PARTS; i++)
		if (is_ours(&u->context[i]))
			close(u->context[i].fd);
}

/*
 * The program closed the descriptor by which all are waited for, so nothing is told any more. The
 * words stay odd. The contexts are closed, because an unmap would wait for a reader that never
 * comes.
 */
static void go_blind(struct uffd *u)
{
	for (unsigned i = 0; i < u->parts; i++) {
		hf_changes_begin(u->context[i].sink);
		switch_blind(u->context[i].sink);
	}
	close_contexts(u);
	while (!atomic_load(&u->stop))
		os_sleep_us(1000);
}

#define WAKE HF_SINK_PARTS /* the event of wake_fd; a context's is its number */

/*
 * Wait until a context has something to read, or the patience is over. False: the end. By epoll(7),
 * which waits for files: poll(2) holds what it waits for, and looks up the number again when it is
 * woken. If the program closes our descriptor and takes its number, poll would keep the closed one
 * alive, and never read from it.
 */
static bool wait_for_events(struct uffd *u, long patience_ns, bool ready[HF_SINK_PARTS])
{
	struct timespec patience = { .tv_nsec = patience_ns };
	struct pollfd p = { .fd = u->epoll_fd, .events = POLLIN };
	struct epoll_event events[HF_SINK_PARTS + 1];
	uint64_t woken;
	int n;

	memset(ready, 0, HF_SINK_PARTS * sizeof(*ready));
	if (patience_ns)
		ppoll(&p, 1, &patience, NULL);
	n = epoll_wait(u->epoll_fd, events, HF_SINK_PARTS + 1, patience_ns ? 0 : -1);
	if (n < 0 && errno != EINTR)
		go_blind(u);
	for (int i = 0; i < n; i++) {
		if (events[i].data.u32 < HF_SINK_PARTS)
			ready[events[i].data.u32] = true;
		else if (read(u->wake_fd, &woken, sizeof(woken)) < 0)
			os_sleep_us(1000); /* the program closed it: not to spin */
	}
	return !atomic_load(&u->stop);
}

static void *event_loop(void *p)
{
	struct uffd *u = p;
	bool ready[HF_SINK_PARTS];
	long patience = 0;

	thread_rest(); /* no proof has to wait for this thread: it empties nothing */
	while (wait_for_events(u, patience, ready)) {
		bool telling = false;

		for (unsigned i = 0; i < HF_SINK_PARTS; i++)
			telling |= serve(u, i, ready[i]);
		patience = telling ? os_longer(patience) : 0; /* an event ends the sleep */
	}
	close_contexts(u);
	return NULL;
}

static void wake(struct uffd *u)
{
	uint64_t one = 1;

	if (write(u->wake_fd, &one, sizeof(one)) < 0)
		abort(); /* an eventfd of our own: somebody closed descriptors that aren't theirs */
}

/* ------------------------------------------------------------------ contexts */

static int wait_for(struct uffd *u, int fd, uint32_t number)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = number };

	return epoll_ctl(u->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int add_context(struct uffd *u, unsigned part, int fd)
{
	struct context *c = &u->context[part];
	struct stat s;
	int rc = fstat(fd, &s) < 0 ? -errno : 0;

	if (!rc)
		rc = hf_close_on_fork(fd);
	if (rc)
		return rc;
	c->ino = s.st_ino;
	c->dev = s.st_dev;
	rc = wait_for(u, fd, part);
	if (rc)
		hf_close_on_fork_done(fd);
	return rc;
}

static int make_context(struct uffd *u, unsigned part)
{
	sigset_t old;
	int fd = -1;
	int rc;

	os_forks_hold(&old);
	rc = open_fd(&fd);
	if (!rc && (rc = add_context(u, part, fd)))
		close(fd);
	os_forks_go(&old);
	if (!rc)
		atomic_store(&u->context[part].fd, fd);
	return rc;
}

/* There is one, or it could be made. The event thread waits for it from now on. */
static bool have_context(struct uffd *u, unsigned part)
{
	if (u->context[part].fd >= 0)
		return true;
	pthread_mutex_lock(&u->making);
	if (u->context[part].fd < 0)
		make_context(u, part);
	pthread_mutex_unlock(&u->making);
	return u->context[part].fd >= 0;
}

static void uffd_free(struct uffd *u)
{
	if (u->wake_fd >= 0)
		close(u->wake_fd);
	if (u->epoll_fd >= 0)
		close(u->epoll_fd);
	armed_destroy(&u->armed);
	pthread_mutex_destroy(&u->anew);
	pthread_mutex_destroy(&u->making);
	os_pool_unmap(u, sizeof(*u));
}

static int start(struct uffd *u)
{
	int rc = make_context(u, 0);

	if (rc)
		return rc;
	rc = os_thread_start(&u->thread, "hf-uffd", event_loop, u);
	if (rc) {
		hf_close_on_fork_done(u->context[0].fd);
		close(u->context[0].fd);
		return hf_set_error(rc, "can't start the event thread: %s", strerror(-rc));
	}
	return 0;
}

int uffd_open_parts(struct hf_sink *sink, unsigned flags, unsigned parts, void **proxy)
{
	struct uffd *u = os_pool_map(sizeof(*u));
	int rc;

	if (!u)
		return hf_set_error(-ENOMEM, "no memory for the proxy");
	u->flags = flags;
	u->parts = hf_sink_part(sink, 1) == sink ? 1 : parts;
	for (unsigned i = 0; i < HF_SINK_PARTS; i++) {
		atomic_store(&u->context[i].fd, -1);
		u->context[i].sink = hf_sink_part(sink, i);
	}
	pthread_mutex_init(&u->making, NULL);
	pthread_mutex_init(&u->anew, NULL);
	armed_init(&u->armed);
	u->wake_fd = os_eventfd();
	u->epoll_fd = FAULT("epoll") ? -1 : epoll_create1(EPOLL_CLOEXEC);
	rc = u->wake_fd < 0 ? u->wake_fd : u->epoll_fd < 0 ? -EMFILE : wait_for(u, u->wake_fd, WAKE);
	rc = rc ? hf_set_error(rc, "eventfd, epoll: %s", strerror(-rc)) : start(u);
	if (rc) {
		uffd_free(u);
		return rc;
	}
	*proxy = u;
	return 0;
}

static int uffd_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	return uffd_open_parts(sink, flags, HF_SINK_PARTS, proxy);
}

/*
 * Held from before the reader ends: a thread that holds back forks itself, in another library's
 * handler, may be waiting in munmap() for the reader.
 */
static void uffd_close(void *proxy)
{
	struct uffd *u = proxy;
	sigset_t old;

	os_forks_hold(&old);
	atomic_store(&u->stop, true);
	wake(u);
	os_thread_join(&u->thread);
	for (unsigned i = 0; i < HF_SINK_PARTS; i++)
		if (u->context[i].fd >= 0)
			hf_close_on_fork_done(u->context[i].fd);
	os_forks_go(&old);
	uffd_free(u);
}

/* ------------------------------------------------------------------ securing */

struct look {
	struct uffd *u;
	uint64_t start;  /* of what was asked for */
	unsigned access;
	unsigned parts;  /* in which something was armed */
	bool again;      /* a mapping changed under our hands */
};

static int unwatched(const struct vma *v, const char *why)
{
	return hf_set_error(HF_UNWATCHED, "uffd can't watch 0x%" PRIx64 "-0x%" PRIx64 ": %s", v->start,
			    v->end, why);
}

/* The same, but it may well be possible in a moment. */
static int changing(const struct vma *v, const char *why)
{
	unwatched(v, why);
	return HF_WATCH_LATER;
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

/*
 * Where to arm what isn't armed yet. Memory that comes and goes meets in part 0, with its storms of unmaps. The rest is
 * spread, by blocks of 64 MiB: neighbours in one part are merged by the kernel, so that many small mappings do not use
 * up vm.max_map_count. What fills a hole goes to the part of its neighbours: arm_as_neighbours().
 */
static unsigned choose_part(struct uffd *u, const struct vma *v)
{
	if (u->parts == 1 || armed_lately_left(&u->armed, v->start, v->end))
		return 0;
	return 1 + (unsigned)(((v->start >> 26) * 0x9e3779b97f4a7c15ull >> 32) % (u->parts - 1));
}

/* 0, or the errno. EBUSY: it is armed in another one. */
static int arm_in(struct uffd *u, unsigned part, uint64_t start_, uint64_t end)
{
	struct uffdio_register r = { .range = { start_, end - start_ }, .mode = UFFDIO_REGISTER_MODE_WP };

	return !FAULT("UFFDIO_REGISTER") && ioctl(u->context[part].fd, UFFDIO_REGISTER, &r) == 0 ? 0 : errno;
}

/*
 * Ask the kernel whether one mapping that has a userfaultfd covers [start, end): 0; -ENOENT: none
 * does; -EAGAIN: a change is in flight in this part; another -errno: nothing to build on, the
 * descriptor is not ours any more. UFFDIO_CONTINUE is for shared memory: of anonymous memory it
 * says EINVAL behind all other checks, and it changes nothing.
 */
static int ask_armed(const struct context *c, uint64_t start, uint64_t end)
{
	struct uffdio_continue none = { .range = { start, end - start }, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE };

	if (ioctl(c->fd, UFFDIO_CONTINUE, &none) == 0)
		return -ENOENT; /* shared memory by now, which is not what was armed */
	return errno == EINVAL ? 0 : errno == EEXIST || errno == EFAULT ? -ENOENT : -errno;
}

static int is_plain(const struct vma *v, void *arg)
{
	return v->shared || v->file || !v->writable;
}

/*
 * Is the page there armed, in whichever part? Only plain memory is asked about: a private memfd is
 * shared memory here.
 */
static bool is_armed(struct uffd *u, uint64_t at)
{
	uint64_t page = os_page_size();

	return at && at < UINT64_MAX - page && maps_walk(at, at + page, is_plain, NULL) == 0 &&
	       ask_armed(&u->context[0], at, at + page) == 0;
}

/*
 * Is all of [start, end) armed? Mapping by mapping. 0, -EAGAIN or -ESTALE. No lock, no allocation.
 */
static int each_is_armed(const struct context *c, uint64_t start, uint64_t end)
{
	struct vma v;

	for (uint64_t at = start; at < end; at = v.end) {
		int rc = maps_next(at, &v);

		if (rc == -ENOENT || (!rc && (v.start > at || v.shared || v.file)))
			return -ESTALE;
		if (!rc)
			rc = ask_armed(c, at, v.end < end ? v.end : end);
		if (rc)
			return rc == -ENOENT ? -ESTALE : -EAGAIN;
	}
	return 0;
}

#define MAX_SEAMS 1024

/*
 * A hole in an armed mapping that the program has filled again: armed with a page of the memory on each side, which
 * only the right part takes, it becomes one mapping with both. Else each hole would cost two mappings more, for
 * good. One side is enough when there are many seams already. 0, or EBUSY: it's not to be, or not in one part.
 */
static int arm_as_neighbours(struct uffd *u, const struct vma *v, unsigned *part, uint64_t *since)
{
	uint64_t page = os_page_size();
	bool before = is_armed(u, v->start - page);
	bool after = is_armed(u, v->end);
	bool one = before || after;
	int err = EBUSY;

	if (u->parts == 1 || !one || (!(before && after) && atomic_load(&u->seams) < MAX_SEAMS)) {
		atomic_fetch_add(&u->seams, one);
		return EBUSY;
	}
	for (unsigned i = 0; i < HF_SINK_PARTS && err == EBUSY; i++) {
		if (!is_ours(&u->context[i]))
			continue;
		*part = i;
		*since = armed_since(&u->armed, i);
		err = arm_in(u, i, v->start - (before ? page : 0), v->end + (after ? page : 0));
	}
	return err ? EBUSY : 0;
}

/* Arm v in any part: 0 and *part, *since is from before. Or the errno. */
static int arm_somewhere(struct uffd *u, const struct vma *v, unsigned *part, uint64_t *since)
{
	unsigned first = choose_part(u, v);
	int err = arm_as_neighbours(u, v, part, since);

	if (err && !have_context(u, first))
		first = 0;
	for (unsigned i = 0; i < u->parts && err == EBUSY; i++) {
		*part = (first + i) % u->parts;
		if (!is_ours(&u->context[*part]))
			continue;
		*since = armed_since(&u->armed, *part);
		err = arm_in(u, *part, v->start, v->end);
	}
	return err;
}

/*
 * Is v armed already? Any context may be asked, so one in which no change is in flight is looked
 * for. A private mapping of a memfd is shared memory to UFFDIO_CONTINUE and can't be asked about:
 * relax=file trusts the events.
 */
static bool is_armed_whole(struct uffd *u, const struct vma *v)
{
	int rc = -EAGAIN;

	for (unsigned i = 0; i < HF_SINK_PARTS && rc && rc != -ENOENT && !v->file; i++)
		if (u->context[i].fd >= 0)
			rc = ask_armed(&u->context[i], v->start, v->end);
	return v->file || !rc;
}

/*
 * Arm v. If it was not armed, all that the library has of it is of earlier memory, of which nothing
 * was told, and is dropped. From before the arming until then no hit there is allowed: the drawing
 * at the top. Where the library has nothing the kernel is not asked: the question prepares
 * untouched memory for its first page, and the kernel doesn't merge it with its neighbours any
 * more.
 */
static int arm_marked(struct uffd *u, const struct vma *v, unsigned *part, uint64_t *since)
{
	struct hf_sink *sink = u->context[0].sink;
	bool armed;
	int err;

	pthread_mutex_lock(&u->anew);
	armed = switch_has(sink, v->start, v->end) && is_armed_whole(u, v);
	if (!armed) {
		armed_forget(&u->armed, v->start, v->end);
		atomic_store(&u->anew_start, v->start);
		atomic_store(&u->anew_end, v->end);
	}
	err = arm_somewhere(u, v, part, since);
	if (!armed) {
		hf_changed_unseen(sink, v->start, v->end);
		atomic_store_explicit(&u->anew_end, 0, memory_order_release);
	}
	pthread_mutex_unlock(&u->anew);
	return err;
}

/* Where it is armed, in *part; *since is from before. */
static int arm(struct look *l, const struct vma *v, unsigned *part, uint64_t *since)
{
	struct uffd *u = l->u;
	int err = arm_marked(u, v, part, since);

	if (!err)
		return HF_WATCHED;
	if (err == EBUSY)
		return unwatched(v, "another userfaultfd of the program watches it");
	if (err == ENOMEM)
		return unwatched(v, "no memory, or at vm.max_map_count");
	l->again = true;
	return unwatched(v, "the kernel refuses userfaultfd on it");
}

static bool quiet(const struct context *c)
{
	struct uffdio_zeropage never = { .range = { 1, 1 } };

	/* The count was > 0: EAGAIN. Anything but EINVAL is nothing to build on. */
	return c->fd < 0 || (ioctl(c->fd, UFFDIO_ZEROPAGE, &never) < 0 && errno == EINVAL);
}

/* One moment in which all that this part has seen is told: it is waited for, about 2 ms at most. */
static bool settled(const struct context *c)
{
	for (int i = 0; i < 100; i++) {
		if (quiet(c)) {
			atomic_thread_fence(memory_order_acquire);
			if (!(hf_changes_word(c->sink) & 1))
				return true;
		}
		os_pause((unsigned)i);
	}
	return false;
}

/*
 * The ioctl arms what is mapped at that moment, and skips a hole, which may be filled again unseen. So look again:
 * one mapping covers all that was to be armed. That one is armed, for if nothing has left the part since, what was
 * armed there is still in it. From here on every change of it is told, and marks the caller's placeholder.
 */
static int confirm(struct look *l, const struct vma *v, unsigned part, uint64_t since)
{
	struct uffd *u = l->u;
	struct vma now;
	int rc = maps_next(v->start > l->start ? v->start : l->start, &now);

	l->parts |= 1u << part;
	if (!settled(&u->context[part]))
		return changing(v, "mappings keep changing");
	l->again = rc || now.start > v->start || now.end < v->end ||
		   !armed_still(&u->armed, part, since, v->start, v->end);
	if (l->again)
		return changing(v, "it keeps changing");
	rc = classify(l, &now);
	if (rc == HF_WATCHED && !v->file) /* a private memfd is shared memory to UFFDIO_CONTINUE */
		armed_remember(&u->armed, part, since, v->start, v->end);
	return rc;
}

static int each_vma(const struct vma *v, void *arg)
{
	struct look *l = arg;
	uint64_t since = 0;
	unsigned part = 0;
	int rc = classify(l, v);

	if (rc == HF_WATCHED)
		rc = arm(l, v, &part, &since);
	return rc == HF_WATCHED ? confirm(l, v, part, since) : rc;
}

static int look_and_arm(struct look *l, uint64_t end)
{
	int rc = HF_UNWATCHED;

	for (int i = 0; i < 4; i++) {
		l->again = false;
		rc = maps_walk(l->start, end, each_vma, l);
		if (!l->again)
			break;
	}
	return maps_are_hidden(rc) ? HF_UNWATCHED : rc; /* what can't be looked at isn't watched */
}

/*
 * The part in which it is remembered to be armed (armed.h): the caller's placeholder is where it will be told. Or -1.
 * Not every change has an event, so the kernel is asked besides. What became read-only meanwhile is
 * still armed: the NIC and the cache look at the rights.
 */
static int remembered(struct uffd *u, uint64_t start_, uint64_t end)
{
	int part = armed_find(&u->armed, start_, end);

	return part >= 0 && ask_armed(&u->context[part], start_, end) == 0 ? part : -1;
}

static int uffd_secure(void *proxy, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	struct uffd *u = proxy;
	struct look l = { .u = u, .start = start_, .access = access };
	int part = remembered(u, start_, end);
	int rc = part < 0 ? look_and_arm(&l, end) : HF_WATCHED;

	*id = part < 0 ? l.parts : 1u << part;
	if (rc == HF_WATCHED && quarantine_covers(&u->quarantine, start_, end, u->thread.tid))
		return hf_set_error(HF_WATCH_LATER, "a part of it is being emptied (madvise) by another thread");
	return rc;
}

static void uffd_unsecure(void *proxy, uint64_t start_, uint64_t end, uint64_t id)
{
}

static int uffd_check_parts(void *proxy, unsigned parts)
{
	struct uffd *u = proxy;

	for (; parts; parts &= parts - 1)
		if (!quiet(&u->context[__builtin_ctz(parts)]))
			return -EAGAIN;
	return 0;
}

/*
 * The count of each part, and whether the range is still armed; then whether it is being armed
 * anew. With relax=file the range may be a private mapping of a memfd, which must not be asked
 * about: the counts alone.
 */
static int uffd_check_range(void *proxy, uint64_t start_, uint64_t end, unsigned parts)
{
	struct uffd *u = proxy;
	unsigned first = (unsigned)__builtin_ctz(parts | 1u << (HF_SINK_PARTS - 1));
	const struct context *c = &u->context[first];
	int rc;

	if ((u->flags & HF_PROXY_RELAX_FILE) || c->fd < 0)
		return uffd_check_parts(u, parts);
	if (uffd_check_parts(u, parts & ~(1u << first)))
		return -EAGAIN;
	rc = ask_armed(c, start_, end);
	if (rc == -ENOENT)
		rc = each_is_armed(c, start_, end);
	if (rc)
		return rc == -ESTALE ? rc : -EAGAIN;
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&u->anew_start, memory_order_acquire) < end &&
	       atomic_load_explicit(&u->anew_end, memory_order_acquire) > start_ ? -EAGAIN : 0;
}

static int uffd_check(void *proxy)
{
	return uffd_check_parts(proxy, (1u << HF_SINK_PARTS) - 1);
}

const struct hf_proxy_ops hf_proxy_uffd = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_WATCH | HF_CAP_EXACT | HF_CAP_PARTS,
	.name = "uffd",
	.open = uffd_open,
	.close = uffd_close,
	.secure = uffd_secure,
	.unsecure = uffd_unsecure,
	.check = uffd_check,
	.check_parts = uffd_check_parts,
	.check_range = uffd_check_range,
};
