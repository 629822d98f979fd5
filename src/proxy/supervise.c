/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The proxy `supervise`: the system calls that change a mapping wait in the kernel (seccomp user notification) until a small
 * helper process, the supervisor, has decided. It tells before the change, and it can refuse one. Inside is the proxy
 * `uffd`, which is what makes it exact: what is told before may be registered again before it happens.
 *
 *   caller T                 kernel                supervisor                 owner's thread "hf-supervise"
 *   ---------------------    ------------------    -----------------------    ------------------------------
 *   munmap(a)                the filter: waits ->  RECV into a slot
 *                                                  notes T's call
 *                                                  what touches a?
 *                            <- goes on .........  nothing: CONTINUE
 *                            <- EBUSY ...........  denied: the error
 *                                                  secured: slot ASKED .....> the word of part 7 odd
 *                                                  serves all others          tells a; the word even
 *                            <- goes on .........  CONTINUE <...............  slot ANSWERED
 *   unmaps
 *   uffd event, waits                                                         (thread "hf-uffd": tells a)
 *   returns
 *
 * The pieces. supervise_calls.h: which calls. supervise_filter.c: the filter, which lets pass what can't matter.
 * supervise_shared.h: the memory that the two share: slots, counts, the table of what is denied, the notes.
 * supervise_start.c: how it begins. src/supervisor: the helper. supervise_tell.c, supervise_find.c: the owner's thread.
 * supervise_deny.c: denying. Here: the proxy's table, and the one supervisor of a process.
 *
 * A slot's states. Each arrow has one writer, W the worker or T the owner's thread (the teller):
 *
 *   IDLE -W-> RECEIVING -W-> TAKEN -W-> (sent) IDLE
 *                                  -W-> ASKED -T-> ANSWERED -W-> (sent) IDLE
 *
 * The worker never waits for one caller: what is asked stays in its slot, and it goes on receiving. All that it knows is in
 * the shared memory, so another one can take over at any instruction (src/supervisor/supervisor.c).
 *
 * Told before: race with a new registration.
 *
 *   T: munmap(a)                   teller                       G: hf_get(a)
 *   ---------------------------    -------------------------    -----------------------------
 *   waits
 *                                  word odd; drops a; even
 *                                                               miss: count, arm, pin the OLD page
 *                                                               publish
 *   unmaps; uffd's event                                        a hit is not allowed: uffd's count
 *                                  (hf-uffd: drops a)
 *   returns                                                     the entry is gone
 *
 * So for all of which uffd tells, it is uffd's exactness. Of mprotect, SHM_REMAP, MADV_GUARD_INSTALL uffd tells nothing: these are
 * "silent". They are always asked for while a switch is open, whether anything is secured there or not; and the teller
 * quarantines the range before it tells, until every thread was seen outside of such a call (quarantine.h):
 *
 *   T: shmat(SHM_REMAP) at a       teller                       G: hf_get(a)
 *   ---------------------------    -------------------------    -----------------------------
 *   waits
 *                                  quarantines a                placeholder; pins the OLD page
 *                                  word odd; marks it; even     marked: starts over
 *                                                               pins the OLD page: a is quarantined,
 *   replaces the pages                                          so it is not cached
 *   returns                                                     T was seen outside: cached again
 *
 * What was let through before the switch was opened: everything is quarantined at the open, with a stamp from after the
 * switch began to be told. One from before would prove nothing of a call that began in between:
 *
 *   opener                         T: shmat(SHM_REMAP) at a
 *   ---------------------------    ---------------------------
 *   (stamp 7)                      hf_get(): seen at 7
 *                                  not trapped yet, or no switch to tell: goes on
 *   is told from now on
 *   stamp 8                        is not yet seen at 8
 *
 * Secured while a call is under way: the counts.
 *
 *   G: secure(a)                   supervisor: munmap(a) of T
 *   ---------------------------    ---------------------------
 *   counts a
 *                                  no count for a: CONTINUE     (looked before) uffd tells it afterwards
 *                                  a count: asks                (looked after)  told before and afterwards
 *
 * For denying that isn't enough: see supervise_deny.c.
 *
 * Whose call it is. Children have the filter and the listener, too, over exec: the supervisor serves them until the last has
 * ended. Only if the counts hit it looks whose memory it is: kcmp(2) with the teller's thread, and whether the owner's
 * address space is still there at all (its /proc/self/maps, opened by the owner, gives nothing any more). So exit, exec and
 * SIGKILL of the owner release everything (R38), a vfork child's munmap counts as the owner's, which it is, and a
 * forked child's doesn't.
 *
 * The supervisor is never taken back: a filter can't be. After the last close it lets everything pass; the next open
 * takes it up again. Two processes that watch each other: one SIGKILL doesn't end it. Killed both at once, the kernel
 * answers ENOSYS to all that would have waited; nothing is unmapped then, and nothing is a hit any more.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../thread.h"
#include "proxy.h"
#include "supervise.h"
#include "supervise_start.h"

static struct supervisor the = { .socket = -1 };
static _Atomic(_Atomic uint32_t *) alive; /* set once it serves; 0 in a forked child */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* open and close; the teller never takes it */

struct sup_shared *supervise_shared(void)
{
	return the.shared;
}

static bool in_child(void)
{
	_Atomic uint32_t *word = atomic_load(&alive);

	return word && !atomic_load(word);
}

static int refuse_child(void)
{
	return hf_set_error(-EBUSY, "this process was forked from one that is supervised: it has inherited the filter, and the "
			    "kernel allows one supervisor per chain of filters; use proxy=uffd here");
}

/* ------------------------------------------------------------------ the one supervisor */

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void once_init(void)
{
	pthread_atfork(before_fork, after_fork, after_fork);
}

static void let_go(uint32_t go)
{
	atomic_store(&the.go, go);
	os_wake_all(&the.go);
}

static int start_teller(void)
{
	int rc;

	atomic_store(&the.go, 0);
	rc = os_thread_start(&the.teller, "hf-supervise", supervise_teller, &the);
	if (rc)
		return hf_set_error(rc, "can't start the thread that answers the supervisor: %s", strerror(-rc));
	while (!atomic_load(&the.teller.tid))
		os_sleep_us(20);
	return 0;
}

/* lock held. The teller first: the filter must be in it, too, and its number with the supervisor. */
static int start_supervisor(void)
{
	_Atomic uint32_t *word = os_fork_word();
	int rc = word ? start_teller() : hf_set_error(-ENOMEM, "no memory for the fork guard");

	if (!rc) {
		rc = supervise_start(the.teller.tid, &the.shared, &the.socket);
		if (rc) {
			let_go(2);
			os_thread_join(&the.teller);
		}
	}
	if (rc) {
		os_fork_word_free(word);
		return rc;
	}
	the.loaded = thread_tick();
	hf_close_on_fork(the.socket); /* full: a child holds it open, and the pidfd tells of our end */
	atomic_store(word, 1);
	atomic_store(&alive, word);
	let_go(1);
	return 0;
}

/* lock held. */
static int join(struct supervise *p)
{
	int at = -1;
	int rc = atomic_load(&alive) ? 0 : start_supervisor();

	if (rc)
		return rc;
	if (atomic_load(&the.blind))
		return hf_set_error(-EBADF, "the supervisor of this process is gone: it was killed, or the program has closed "
				    "descriptors that aren't its own");
	for (int i = 0; i < SUPERVISE_OPEN && at < 0; i++)
		at = atomic_load(&the.open[i]) ? -1 : i;
	if (at < 0)
		return hf_set_error(-EMFILE, "%d switches have this proxy, the most there may be", SUPERVISE_OPEN);
	atomic_store(&the.open[at], p);
	atomic_fetch_add(&the.shared->open, 1);
	return 0;
}

/* lock held. Afterwards the teller is out of it: it looks at the switches between two turns only. */
static void leave(struct supervise *p)
{
	uint32_t turn;

	for (int i = 0; i < SUPERVISE_OPEN; i++)
		if (atomic_load(&the.open[i]) == p)
			atomic_store(&the.open[i], NULL);
	atomic_fetch_sub(&the.shared->open, 1);
	turn = atomic_load(&the.turn);
	while ((turn & 1) && atomic_load(&the.turn) == turn)
		os_sleep_us(20);
}

/* ------------------------------------------------------------------ the proxy's table */

/* A wrapper's table that knows no parts has one word for all, which two threads can't write: then nothing is watched. */
static void open_uffd(struct supervise *p, struct hf_sink *sink, unsigned flags)
{
	p->uffd_error = -EOPNOTSUPP;
	snprintf(p->uffd_why, sizeof(p->uffd_why), "the table over this proxy knows no parts");
	if (hf_sink_part(sink, SUPERVISE_PART) == sink)
		return;
	p->uffd_error = uffd_open_parts(sink, flags, SUPERVISE_PART, &p->uffd);
	if (p->uffd_error) {
		p->uffd = NULL;
		snprintf(p->uffd_why, sizeof(p->uffd_why), "%s", hf_error());
	}
}

static void supervise_free(struct supervise *p)
{
	if (p->uffd)
		hf_proxy_uffd.close(p->uffd);
	os_pool_unmap(p, sizeof(*p));
}

static bool is_quarantined(struct supervise *p, uint64_t start, uint64_t end)
{
	return quarantine_covers(&p->at_open, start, end, the.teller.tid) ||
	       quarantine_covers(&p->quarantine, start, end, the.teller.tid);
}

#define SETTLE_US 20000

/*
 * What is under way by now, let through or from before the filter: until it is over nothing is cached. Mostly that is proved
 * at once; a thread that computes is proved by the clock tick, which is worth waiting for.
 */
static void settle(struct supervise *p)
{
	uint64_t began = os_now_ns();

	while (p->uffd && is_quarantined(p, 0, UINT64_MAX) && os_now_ns() - began < SETTLE_US * 1000ull)
		os_sleep_us(100);
}

static int supervise_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct supervise *p;
	int rc;

	if (in_child())
		return refuse_child();
	pthread_once(&once, once_init);
	p = os_pool_map(sizeof(*p));
	if (!p)
		return hf_set_error(-ENOMEM, "no memory for the proxy");
	p->sink = hf_sink_part(sink, SUPERVISE_PART);
	open_uffd(p, sink, flags);
	pthread_mutex_lock(&lock);
	rc = join(p);
	pthread_mutex_unlock(&lock);
	if (rc) {
		supervise_free(p);
		return rc;
	}
	quarantine_add(&p->at_open, 0, UINT64_MAX); /* after join(): see above */
	settle(p);
	*proxy = p;
	return 0;
}

static void supervise_close(void *proxy)
{
	pthread_mutex_lock(&lock);
	leave(proxy);
	pthread_mutex_unlock(&lock);
	supervise_free(proxy);
}

/* What is quarantined, and what nobody can be told of any more. */
static int still_watched(struct supervise *p, uint64_t start, uint64_t end)
{
	if (is_quarantined(p, start, end))
		return hf_set_error(HF_WATCH_LATER, "a part of it is being changed by another thread");
	if (atomic_load(&the.blind))
		return hf_set_error(HF_UNWATCHED, "the supervisor is gone");
	return HF_WATCHED;
}

static int supervise_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	struct supervise *p = proxy;
	int rc;

	if (!p->uffd) {
		rc = hf_range_check(start, end, access);
		return rc ? rc : hf_set_error(HF_UNWATCHED, "supervise watches by uffd: %s", p->uffd_why);
	}
	sup_count(&the.shared->notify, start, end, 1);
	rc = hf_proxy_uffd.secure(p->uffd, start, end, access, id);
	if (rc == HF_WATCHED)
		rc = still_watched(p, start, end);
	*id |= 1u << SUPERVISE_PART;
	if (rc != HF_WATCHED)
		sup_count(&the.shared->notify, start, end, -1);
	return rc;
}

static int deny(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	int rc;

	if (atomic_load(&the.blind))
		return hf_set_error(-EBADF, "the supervisor of this process is gone: nothing can be denied");
	rc = supervise_wait_for_old(&the);
	return rc ? rc : supervise_deny(the.shared, start, end, access, id);
}

/* What is watched has the bit of our part, what is denied has not. */
static void supervise_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
	if (id & 1u << SUPERVISE_PART)
		sup_count(&the.shared->notify, start, end, -1);
	else
		supervise_undeny(the.shared, start, end, id);
}

static int supervise_check_parts(void *proxy, unsigned parts)
{
	struct supervise *p = proxy;

	return p->uffd ? hf_proxy_uffd.check_parts(p->uffd, parts & ~(1u << SUPERVISE_PART)) : 0;
}

static int supervise_check_range(void *proxy, uint64_t start, uint64_t end, unsigned parts)
{
	struct supervise *p = proxy;

	return p->uffd ? hf_proxy_uffd.check_range(p->uffd, start, end, parts & ~(1u << SUPERVISE_PART)) : 0;
}

static int supervise_check(void *proxy)
{
	return supervise_check_parts(proxy, (1u << HF_SINK_PARTS) - 1);
}

static int probe(void)
{
	if (in_child())
		return refuse_child();
	return atomic_load(&alive) ? 0 : supervise_probe();
}

const struct hf_proxy_ops hf_proxy_supervise = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_WATCH | HF_CAP_EXACT | HF_CAP_PARTS | HF_CAP_DENY,
	.name = "supervise",
	.open = supervise_open,
	.close = supervise_close,
	.secure = supervise_secure,
	.unsecure = supervise_unsecure,
	.check = supervise_check,
	.deny = deny,
	.check_parts = supervise_check_parts,
	.probe = probe,
	.check_range = supervise_check_range,
};
