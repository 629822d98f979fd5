/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The `kmod` proxy: the kernel module holdfast.ko, which is called by the kernel before it changes
 * page tables. It sees every change of every kind of memory, also those that other processes make
 * through a file, so nothing is unwatched (I6) but what doesn't fit into the limits.
 *
 * How it is exact. Each range that is secured is a range of the module's own. The module counts
 * the changes of all of them, in a page that is mapped here: `moves`. It counts after it has
 * queued the event and before the page tables change. The event thread takes the number, reads all
 * events, tells the switch, and then writes the number to `told`. A hit compares the two: equal
 * means that every change that had begun was told, and what it touched is dead.
 *
 *   A: munmap                  event thread              C: mmap, then hf_get
 *   ----------------------     ---------------------     -----------------------------------
 *   module: queues the event
 *   moves = 8
 *   page tables change
 *                                                        is given the address
 *                                                        moves 8, told 7: no hit
 *   returns
 *                              takes moves: 8
 *                              reads the event
 *                              tells the switch: the
 *                              entry dies, the gate turns
 *                              told = 8
 *                                                        moves 8, told 8; the gate has turned:
 *                                                        looks again; the entry is gone
 *
 * That a hit of a change that has begun but not yet taken effect is refused, too, costs only time.
 * In a hit the gate is looked at after the two numbers: `told` was written after the gate had
 * turned. The number is taken before the events are read, so what it counts has been read; what
 * comes later makes another number.
 *
 * And for what is registered anew: the module arms a range only when every change that had begun
 * before has ended (kmod/range.c). So what is pinned after secure() has returned, was pinned from
 * mappings of which every later change counts:
 *
 *   A: munmap                  B: a miss                         event thread
 *   ----------------------     -----------------------------     -------------------------
 *                              placeholder
 *   begins: told to others
 *                              secure: waits for its end
 *   page tables change; ends
 *                              armed
 *                              NIC pins what is there now
 *   C: another munmap
 *   module: moves = 9
 *                              publishes                         marks the placeholder, or
 *                                                                kills the entry: told = 9
 *                              the hit: 9 and 8: not yet
 *
 * It may have read more than it counted: of a change between the number and the events. Nobody
 * wakes it for that, so it looks at the number once more when `told` is written:
 *
 *   A: munmap                  B: munmap                     event thread
 *   ----------------------     -------------------------     -------------------------
 *   event; moves = 8
 *                                                            takes moves: 8
 *                              event; moves = 9
 *                                                            reads both, tells both
 *                                                            told = 8; moves is 9: again
 *                                                            told = 9; sleeps
 *
 * `model/kmod.pml` is the model of all this.
 *
 * An event may be dropped, by the unsecure of its range, after it was counted and before it was
 * read. Then nobody wakes the event thread, and the numbers would differ until the next change: so
 * who unsecures looks, and wakes it.
 *
 * The page is not there in a forked child (nor is a hit, hold.h); the descriptor is closed there,
 * and good for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uapi/holdfast.h>

#include "../os.h"
#include "proxy.h"

#define DEVICE "/dev/holdfast"
#define BATCH 64

struct kmod {
	_Atomic uint64_t told;  /* on a line that is written only when something has changed */
	char rest_of_the_line[56];
	const struct holdfast_head *head;
	size_t length;          /* of what is mapped at head */
	int fd;
	int wake_fd;
	struct hf_sink *sink;
	_Atomic bool stop;
	bool again;             /* the event thread's own: there is more to be told or counted; nobody will wake it */
	struct os_thread thread;
	struct holdfast_event batch[BATCH];
};

static uint64_t moves(const struct kmod *k)
{
	return __atomic_load_n(&k->head->changes, __ATOMIC_ACQUIRE);
}

/* ------------------------------------------------------------------ the event thread */

/* How many; less than BATCH: there were no more. */
static int read_batch(struct kmod *k)
{
	ssize_t n = read(k->fd, k->batch, sizeof(k->batch));

	return n < 0 ? -errno : (int)(n / (ssize_t)sizeof(k->batch[0]));
}

/*
 * True: the kernel has no more to say. False: the program has closed what isn't its own, or an
 * interruption.
 */
static bool tell_all(struct kmod *k)
{
	int n;

	do {
		n = read_batch(k);
		for (int i = 0; i < n; i++)
			hf_changed(k->sink, k->batch[i].start, k->batch[i].end);
	} while (n == BATCH);
	return n >= 0 || n == -EAGAIN;
}

/*
 * `told` is written when all that was counted has got through, and not before: while an index is
 * busy the numbers differ. It may be behind already, by a change whose event was read with the
 * others: then all is done again. When the descriptor was closed by the program they differ for
 * ever: nothing is cached any more, and nothing is stale.
 */
static void serve(struct kmod *k)
{
	uint64_t seen;
	bool all;

	hf_changes_begin(k->sink);
	seen = moves(k);
	all = tell_all(k);
	k->again = hf_changes_end(k->sink) == -EAGAIN; /* an index was busy */
	if (!all || k->again)
		return;
	atomic_store_explicit(&k->told, seen, memory_order_release);
	k->again = moves(k) != seen;
}

static void take_wake(struct kmod *k)
{
	uint64_t n;

	if (read(k->wake_fd, &n, sizeof(n)) != sizeof(n))
		os_sleep_us(100); /* closed by the program: not in vain too often */
}

static void *event_loop(void *p)
{
	struct kmod *k = p;
	struct pollfd fds[2] = { { .fd = k->fd, .events = POLLIN }, { .fd = k->wake_fd, .events = POLLIN } };

	long patience = 0;

	for (;;) {
		struct timespec soon = { .tv_nsec = patience };

		if (ppoll(fds, 2, k->again ? &soon : NULL, NULL) < 0)
			os_sleep_us(100);
		if (fds[1].revents)
			take_wake(k);
		if (atomic_load(&k->stop))
			return NULL;
		serve(k);
		patience = k->again ? os_longer(patience) : 0;
		if (fds[0].revents & (POLLNVAL | POLLERR | POLLHUP))
			fds[0].fd = -1;
	}
}

static void wake(struct kmod *k)
{
	uint64_t one = 1;

	if (write(k->wake_fd, &one, sizeof(one)) < 0)
		abort(); /* an eventfd of our own: somebody closed descriptors that aren't theirs */
}

/* ------------------------------------------------------------------ open, close */

static int no_device(int rc)
{
	if (rc == -ENOENT || rc == -ENODEV || rc == -ENXIO)
		return hf_set_error(rc, "there is no " DEVICE ": load the module (modprobe holdfast)");
	if (rc == -EACCES || rc == -EPERM)
		return hf_set_error(rc, DEVICE " may not be opened by this user: a udev rule has to allow it "
				    "(60-holdfast.rules), or chmod");
	if (rc == -EDQUOT)
		return hf_set_error(rc, "this user has " DEVICE " open too often: the module's max_opens");
	return hf_set_error(rc, DEVICE ": %s", strerror(-rc));
}

/* The head says how much there is to be mapped. */
static int map_head(struct kmod *k)
{
	size_t page = os_page_size();
	const struct holdfast_head *h = FAULT("mmap") ? (errno = ENOMEM, MAP_FAILED) :
					mmap(NULL, page, PROT_READ, MAP_SHARED, k->fd, 0);

	if (h == MAP_FAILED)
		return hf_set_error(-errno, DEVICE ": can't map its words: %s", strerror(errno));
	k->head = h;
	k->length = page;
	if (h->version != HOLDFAST_VERSION)
		return hf_set_error(-EPROTO, "the module's interface is of version %u, this library knows %u",
				    h->version, HOLDFAST_VERSION);
	atomic_store(&k->told, moves(k));
	return 0;
}

/*
 * The kernel gives up the opening (mm_take_all_locks) when anything waits for this thread to return to user
 * space: a signal, or what an io_uring that was closed a moment ago has left to do. With the return it is done.
 */
static int open_undisturbed(void)
{
	int fd;

	do
		fd = os_open(DEVICE, O_RDWR | O_NONBLOCK);
	while (fd == -EINTR);
	return fd;
}

static int open_device(struct kmod *k)
{
	sigset_t old;
	int rc = 0;

	os_forks_hold(&old);
	k->fd = open_undisturbed();
	if (k->fd >= 0 && (rc = hf_close_on_fork(k->fd)))
		close(k->fd);
	os_forks_go(&old);
	if (k->fd < 0)
		return no_device(k->fd);
	if (rc) {
		k->fd = -1;
		return rc;
	}
	return map_head(k);
}

static void kmod_free(struct kmod *k)
{
	sigset_t old;

	if (k->head)
		munmap((void *)(uintptr_t)k->head, k->length);
	if (k->fd >= 0) {
		os_forks_hold(&old);
		hf_close_on_fork_done(k->fd);
		close(k->fd);
		os_forks_go(&old);
	}
	if (k->wake_fd >= 0)
		close(k->wake_fd);
	os_pool_unmap(k, sizeof(*k));
}

static int start(struct kmod *k)
{
	int rc = open_device(k);

	if (rc)
		return rc;
	k->wake_fd = os_eventfd();
	if (k->wake_fd < 0)
		return hf_set_error(k->wake_fd, "eventfd: %s", strerror(-k->wake_fd));
	rc = os_thread_start(&k->thread, "hf-kmod", event_loop, k);
	return rc ? hf_set_error(rc, "can't start the event thread: %s", strerror(-rc)) : 0;
}

static int kmod_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	struct kmod *k = os_pool_map(sizeof(*k));
	int rc;

	if (!k)
		return hf_set_error(-ENOMEM, "no memory for the proxy");
	k->fd = k->wake_fd = -1;
	k->sink = sink;
	rc = start(k);
	if (rc) {
		kmod_free(k);
		return rc;
	}
	*proxy = k;
	return 0;
}

static void kmod_close(void *proxy)
{
	struct kmod *k = proxy;

	atomic_store(&k->stop, true);
	wake(k);
	os_thread_join(&k->thread);
	kmod_free(k);
}

/* ------------------------------------------------------------------ securing */

static int ask(struct kmod *k, unsigned flags, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	struct holdfast_secure s = { .size = sizeof(s), .flags = flags, .start = start_, .length = end - start_,
				     .mode = access & HF_WRITE ? HOLDFAST_READWRITE : HOLDFAST_READONLY };

	if (FAULT("HOLDFAST_IOC_SECURE"))
		return -ENOMEM;
	if (ioctl(k->fd, HOLDFAST_IOC_SECURE, &s))
		return -errno;
	*id = s.id;
	return 0;
}

/* What is wrong with the range itself: the sentence comes from a look at the mappings. */
static int bad_range(int rc, uint64_t start_, uint64_t end, unsigned access)
{
	int why = hf_range_check(start_, end, access);

	return why ? why : hf_set_error(rc, "0x%" PRIx64 "-0x%" PRIx64 " was %s a moment ago", start_, end,
					rc == -EFAULT ? "not wholly mapped" : "mapped with fewer rights");
}

static int unwatched(int rc, uint64_t start_, uint64_t end)
{
	const char *why = rc == -EDQUOT ? "this user has secured as much as the module's max_ranges allows" :
			  rc == -ENOSPC ? "a process can't secure more ranges by one switch" :
			  rc == -EAGAIN ? "it keeps changing" : strerror(-rc);

	return hf_set_error(rc == -EAGAIN ? HF_WATCH_LATER : HF_UNWATCHED, "kmod can't watch 0x%" PRIx64 "-0x%" PRIx64 ": %s", start_, end, why);
}

static int kmod_secure(void *proxy, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	int rc = ask(proxy, HOLDFAST_NOTIFY, start_, end, access, id);

	if (rc == -EFAULT || rc == -EACCES)
		return bad_range(rc, start_, end, access);
	return rc ? unwatched(rc, start_, end) : HF_WATCHED;
}

/*
 * What is denied has to be whole mappings: a part is split off by a flag of no consequence while
 * it is denied, whether it is in core dumps. How it was is kept in bits of the id that the module
 * doesn't use.
 */
#define WAS_DUMPED   (1ull << 31)
#define WASNT_DUMPED (1ull << 30)

static int split_and_ask(struct kmod *k, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	void *at = (void *)(uintptr_t)start_;
	size_t len = end - start_;
	int rc = ask(k, HOLDFAST_DENY, start_, end, access, id);

	if (rc != -EINVAL)
		return rc;
	madvise(at, len, MADV_DONTDUMP);
	rc = ask(k, HOLDFAST_DENY, start_, end, access, id);
	if (!rc) {
		*id |= WAS_DUMPED;
		return 0;
	}
	madvise(at, len, MADV_DODUMP);
	if (rc != -EINVAL)
		return rc;
	/* All of it was left out of dumps: so it is the other way round. */
	rc = ask(k, HOLDFAST_DENY, start_, end, access, id);
	if (!rc)
		*id |= WASNT_DUMPED;
	else
		madvise(at, len, MADV_DONTDUMP);
	return rc;
}

static int no_deny(int rc, uint64_t start_, uint64_t end)
{
	if (rc == -EOPNOTSUPP)
		return hf_set_error(-ENOTSUP, "this kernel can't refuse changes of 0x%" PRIx64 "-0x%" PRIx64
				    " (Linux 6.10 has the seal, on 64 bit): ask for HF_NOTIFY, or use the proxy "
				    "`supervise`", start_, end);
	if (rc == -EPERM)
		return hf_set_error(-EPERM, "a part of 0x%" PRIx64 "-0x%" PRIx64 " is sealed for good, by mseal(2)",
				    start_, end);
	if (rc == -EAGAIN)
		return hf_set_error(rc, "0x%" PRIx64 "-0x%" PRIx64 " keeps changing", start_, end);
	return hf_set_error(-ENOMEM, "0x%" PRIx64 "-0x%" PRIx64 " can't be denied: %s", start_, end,
			    rc == -EDQUOT ? "the module's max_ranges" : strerror(-rc));
}

static int kmod_deny(void *proxy, uint64_t start_, uint64_t end, unsigned access, uint64_t *id)
{
	int rc = split_and_ask(proxy, start_, end, access, id);

	if (rc == -EFAULT || rc == -EACCES)
		return bad_range(rc, start_, end, access);
	return rc ? no_deny(rc, start_, end) : 0;
}

static void kmod_unsecure(void *proxy, uint64_t start_, uint64_t end, uint64_t id)
{
	struct kmod *k = proxy;
	struct holdfast_unsecure u = { .size = sizeof(u), .id = id & ~(WAS_DUMPED | WASNT_DUMPED) };

	ioctl(k->fd, HOLDFAST_IOC_UNSECURE, &u);
	if (id & (WAS_DUMPED | WASNT_DUMPED))
		madvise((void *)(uintptr_t)start_, end - start_, id & WAS_DUMPED ? MADV_DODUMP : MADV_DONTDUMP);
	/* Drawn above: its event may have gone with it. */
	if (moves(k) != atomic_load(&k->told))
		wake(k);
}

/* ------------------------------------------------------------------ checking */

static void kmod_clocks(void *proxy, const uint64_t **moves_, const uint64_t **told)
{
	struct kmod *k = proxy;

	*moves_ = (const uint64_t *)&k->head->changes;
	*told = (const uint64_t *)&k->told;
}

static int kmod_check(void *proxy)
{
	const struct kmod *k = proxy;
	uint64_t told = atomic_load_explicit(&k->told, memory_order_acquire);

	return moves(k) == told ? 0 : -EAGAIN;
}

static unsigned kmod_able(void *proxy)
{
	const struct kmod *k = proxy;

	return k->head->features & HOLDFAST_HAS_DENY ? ~0u : ~HF_CAP_DENY;
}

const struct hf_proxy_ops hf_proxy_kmod = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_WATCH | HF_CAP_EXACT | HF_CAP_DENY,
	.name = "kmod",
	.open = kmod_open,
	.close = kmod_close,
	.secure = kmod_secure,
	.unsecure = kmod_unsecure,
	.check = kmod_check,
	.deny = kmod_deny,
	.clocks = kmod_clocks,
	.able = kmod_able,
};
