/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The switch: owns the proxy, and turns what the proxy tells into the providers' callbacks (R25).
 *
 * The thread that tells (the proxy's event thread) takes locks by trylock only. When an index is busy the range
 * is kept, the word stays odd, and the thread goes on reading events, so that a signal handler that unmaps
 * while its own thread holds an index lock never waits for itself (hazard 28):
 *
 *   thread T                          event thread
 *   --------------------------        ---------------------------------
 *   holds a cache's lock
 *     signal: munmap(a)  .........>   read; trylock fails: a is kept
 *             munmap(b)  .........>   still reading: read; b is kept
 *     handler returns
 *   releases the lock                 trylock: a and b are dropped; word even
 */
#ifndef HF_SWITCH_H
#define HF_SWITCH_H

#include <errno.h>
#include <holdfast/backend.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "index.h"
#include "options.h"
#include "pool.h"

#define MAX_PROVIDERS 64
#define MAX_KEPT 64

struct range {
	uint64_t start, end;
};

/* One part. Its word is on a cache line that other parts don't write to, for each is far longer than a line. */
struct hf_sink {
	_Atomic uint64_t word;      /* even at rest, odd while changes are told */
	_Atomic bool blind;         /* nothing is told by it any more: the word stays odd */
	struct hf_switch *sw;
	unsigned kept_count;        /* the telling thread's own */
	struct range kept[MAX_KEPT];
};

#define PARTS_ALL 0xffu
_Static_assert(PARTS_ALL == (1u << HF_SINK_PARTS) - 1, "a bit for each");

/* Ranges that the program secured by itself (secure.c). */
struct secured_list {
	pthread_mutex_t lock;       /* short; the telling thread only tries */
	struct pool pool;
	struct index index;
	struct index_nodes nodes;
	unsigned count;
};

struct hf_switch {
	_Atomic uint32_t *alive;    /* 0 in a forked child */
	struct options options;
	struct hf_proxy_ops ops;    /* a copy; name == "none": no proxy, nothing is cached */
	void *proxy;
	unsigned parts;             /* those in use: PARTS_ALL, or only the first */
	struct hf_sink sink[HF_SINK_PARTS];
	pthread_mutex_t lock;       /* opening and closing providers; never the telling thread's */
	_Atomic(struct hf_provider *) providers[MAX_PROVIDERS];
	pthread_mutex_t settling;   /* held by hf_release() while it waits for the providers' NICs; after `lock` */
	struct secured_list secured;
};

/* 0, -EINVAL for NULL, -EOWNERDEAD in a forked child. */
int switch_enter(const struct hf_switch *sw);

/* Add to, or take from, those that are told. After switch_remove the telling thread is out of it. */
int switch_add(struct hf_switch *sw, struct hf_provider *p);
void switch_remove(struct hf_switch *sw, struct hf_provider *p);

/*
 * The telling thread has lost what it reads from: leave the word odd for good. Its last call for
 * this part.
 */
void switch_blind(struct hf_sink *sink);

/* Nothing is being told by one of `parts` at this moment. Doesn't ask the proxy. */
static inline bool switch_is_at_rest(const struct hf_switch *sw, unsigned parts)
{
	for (parts &= sw->parts; parts; parts &= parts - 1)
		if (atomic_load_explicit(&sw->sink[__builtin_ctz(parts)].word, memory_order_acquire) & 1)
			return false;
	return true;
}

/* By which parts changes of a range are told, of which secure() answered `id`. */
static inline unsigned switch_parts(const struct hf_switch *sw, uint64_t id)
{
	unsigned parts = (unsigned)id & sw->parts;

	return sw->parts == 1 ? 1 : parts ? parts : PARTS_ALL;
}

/*
 * All changes so far that are told by one of `parts` are told and done with: 0; -EAGAIN when one is under way at this
 * moment. No lock.
 */
static inline int switch_check(const struct hf_switch *sw, unsigned parts)
{
	if (sw->ops.check_parts ? sw->ops.check_parts(sw->proxy, parts) != 0 :
				  sw->ops.check && sw->ops.check(sw->proxy) != 0)
		return -EAGAIN;
	/*
	 * The kernel's count first, then the word: see proxy/uffd.c. On x86 a system call orders loads
	 * by itself; elsewhere it is not promised.
	 */
	atomic_thread_fence(memory_order_acquire);
	return switch_is_at_rest(sw, parts) ? 0 : -EAGAIN;
}

/*
 * Check that [start, end), which is watched by `parts`, is still the memory that was watched, and
 * that no change of it is in flight or being told. 0, -EAGAIN, or -ESTALE: it was replaced and
 * nothing told of it. No lock.
 */
static inline int switch_check_range(const struct hf_switch *sw, unsigned parts, uint64_t start, uint64_t end)
{
	int rc;

	if (!sw->ops.check_range)
		return switch_check(sw, parts);
	rc = sw->ops.check_range(sw->proxy, start, end, parts);
	if (rc)
		return rc;
	atomic_thread_fence(memory_order_acquire); /* as in switch_check() */
	return switch_is_at_rest(sw, parts) ? 0 : -EAGAIN;
}

/* The words alone are not exact: each get has to ask. */
static inline bool switch_must_be_asked(const struct hf_switch *sw)
{
	return sw->ops.check || sw->ops.check_parts;
}

/* The same, but waits a little (about 2 ms at most) for quiet. */
int switch_settle(const struct hf_switch *sw, unsigned parts);
/* switch_check_range(), and the same wait. What is stale is dropped: -ESTALE. Takes locks. */
int switch_settle_range(struct hf_switch *sw, unsigned parts, uint64_t start, uint64_t end);

/*
 * All changes told by one of `parts` whose calls had returned when this was called are told: 0. It waits for that, be it for
 * the telling thread's next turn; -EAGAIN after a second.
 */
int switch_wait_told(const struct hf_switch *sw, unsigned parts);

/* Waits a little (some 10 us at most) while changes are being told; doesn't ask the proxy. What is begun in between is
 * right all the same, but may be for nothing. */
void switch_rest(const struct hf_switch *sw);

/*
 * Is anything in [start, end) cached, secured, or about to be pinned? Takes the locks of
 * hf_changed_unseen().
 */
bool switch_has(struct hf_sink *sink, uint64_t start, uint64_t end);

/*
 * secure.c: tell the ranges that the program secured. By the telling thread: 0, or -EAGAIN if the
 * list is busy.
 */
int secured_try_drop(struct hf_switch *sw, uint64_t start, uint64_t end);
/*
 * By any other. `unseen`: nothing told of the change, and ranges that are not watched yet are
 * spared.
 */
void secured_drop(struct hf_switch *sw, uint64_t start, uint64_t end, bool unseen);
bool secured_touches(struct hf_switch *sw, uint64_t start, uint64_t end);
void secured_init(struct secured_list *l);
void secured_destroy(struct secured_list *l);

/* Round [addr, addr + len) out to pages. 0 or -EINVAL with the sentence set. */
int range_round(const void *addr, size_t len, struct range *out);

#endif
