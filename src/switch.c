/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "switch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "cancel.h"
#include "error.h"
#include "hold.h"
#include "maps.h"
#include "os.h"
#include "provider.h"

int switch_enter(const struct hf_switch *sw)
{
	if (!sw)
		return hf_set_error(-EINVAL, "the switch is NULL");
	if (!atomic_load_explicit(sw->alive, memory_order_relaxed))
		return hf_set_error(-EOWNERDEAD, "this switch belongs to the process that forked: open "
				    "one of your own");
	return 0;
}

int range_round(const void *addr, size_t len, struct range *out)
{
	uint64_t page = os_page_size();
	uint64_t a = (uint64_t)(uintptr_t)addr;

	if (!len)
		return hf_set_error(-EINVAL, "the length is 0");
	if (a + len < a || a + len > UINT64_MAX - page)
		return hf_set_error(-EINVAL, "%p + %zu bytes wraps around", addr, len);
	out->start = a & ~(page - 1);
	out->end = (a + len + page - 1) & ~(page - 1);
	return 0;
}

/* ------------------------------------------------------------------ told by the proxy */

uint64_t hf_changes_word(const struct hf_sink *sink)
{
	return atomic_load_explicit(&sink->word, memory_order_acquire);
}

struct hf_sink *hf_sink_part(struct hf_sink *sink, unsigned i)
{
	if (i >= HF_SINK_PARTS)
		return NULL;
	return sink->sw->parts == 1 ? sink : &sink->sw->sink[i];
}

/* What was known to be at rest has to be looked at again: hit.c. */
static void turn_gates(struct hf_switch *sw)
{
	for (int i = 0; i < MAX_PROVIDERS; i++) {
		struct hf_provider *p = atomic_load(&sw->providers[i]);

		if (p)
			cache_turn_gate(&p->cache);
	}
}

void hf_changes_begin(struct hf_sink *sink)
{
	uint64_t w = atomic_load_explicit(&sink->word, memory_order_relaxed);

	if (!(w & 1)) {
		atomic_store(&sink->word, w + 1);
		turn_gates(sink->sw);
	}
	/* Odd before the event is read: reading lets the changing call go on. */
	atomic_thread_fence(memory_order_seq_cst);
}

/*
 * Tell all who cache. Several parts may tell at once. -EAGAIN when somebody was busy: then all are told again, which
 * does no harm.
 */
static int tell_all(struct hf_switch *sw, struct range r)
{
	int busy = secured_try_drop(sw, r.start, r.end) == -EAGAIN;

	for (int i = 0; i < MAX_PROVIDERS; i++) {
		struct hf_provider *p = atomic_load(&sw->providers[i]);

		if (p && cache_try_drop(&p->cache, r.start, r.end) == -EAGAIN)
			busy = 1;
	}
	return busy ? -EAGAIN : 0;
}

static void keep(struct hf_sink *sink, struct range r)
{
	struct range *last = sink->kept_count ? &sink->kept[sink->kept_count - 1] : NULL;

	/* A program that takes a range back piece by piece. */
	if (last && r.start <= last->end && r.end >= last->start) {
		last->start = r.start < last->start ? r.start : last->start;
		last->end = r.end > last->end ? r.end : last->end;
		return;
	}
	/* Too many: everything has changed. True enough, and bounded. */
	if (sink->kept_count == MAX_KEPT) {
		sink->kept_count = 0;
		r = (struct range){ 0, UINT64_MAX };
	}
	sink->kept[sink->kept_count++] = r;
}

int hf_changed(struct hf_sink *sink, uint64_t start, uint64_t end)
{
	struct range r = { start, end };

	if (tell_all(sink->sw, r) == 0)
		return 0;
	keep(sink, r);
	return -EAGAIN;
}

int hf_changes_end(struct hf_sink *sink)
{
	uint64_t w = atomic_load_explicit(&sink->word, memory_order_relaxed);

	while (sink->kept_count) {
		if (tell_all(sink->sw, sink->kept[sink->kept_count - 1]) < 0)
			return -EAGAIN;
		sink->kept_count--;
	}
	atomic_store_explicit(&sink->word, w + (w & 1), memory_order_release);
	return 0;
}

void switch_blind(struct hf_sink *sink)
{
	hf_changes_begin(sink);
	atomic_store(&sink->blind, true);
}

int switch_settle(const struct hf_switch *sw, unsigned parts)
{
	for (int i = 0; i < 100; i++) {
		if (switch_check(sw, parts) == 0)
			return 0;
		os_pause((unsigned)i);
	}
	return -EAGAIN;
}

int switch_settle_range(struct hf_switch *sw, unsigned parts, uint64_t start, uint64_t end)
{
	int rc = -EAGAIN;

	for (unsigned i = 0; i < 100; i++) {
		rc = switch_check_range(sw, parts, start, end);
		if (rc != -EAGAIN)
			break;
		os_pause(i);
	}
	if (rc == -ESTALE)
		hf_changed_unseen(&sw->sink[0], start, end);
	return rc;
}

/* What there was to be told at a moment. */
struct untold {
	uint64_t word[HF_SINK_PARTS];
	const uint64_t *moves, *told; /* by numbers (backend.h, clocks), or NULL */
	uint64_t moved;
};

static void note_untold(const struct hf_switch *sw, struct untold *u)
{
	*u = (struct untold){ .moves = NULL };
	for (int i = 0; i < HF_SINK_PARTS; i++)
		u->word[i] = hf_changes_word(&sw->sink[i]);
	if (sw->ops.clocks) {
		sw->ops.clocks(sw->proxy, &u->moves, &u->told);
		u->moved = __atomic_load_n(u->moves, __ATOMIC_ACQUIRE);
	}
}

/*
 * Quiet is not needed, and may never come while others change other memory. Who has seen a changing call return comes
 * behind its being read, so the word was odd by then; and it is another one as soon as all that was read is told:
 *
 *   program                        event thread
 *   -------------------------      ----------------------------------
 *                                  word odd: 7
 *   munmap  ...................>   reads of it: the call goes on
 *   returns
 *   notes the word: 7              (has no processor: for how long?)
 *   still 7: waits                 tells
 *                                  word even: 8
 *   8: what was told is there
 *
 * A proxy that has to be asked, and gives no numbers, is asked.
 */
static bool is_told(const struct hf_switch *sw, unsigned parts, const struct untold *u)
{
	if (u->told)
		return __atomic_load_n(u->told, __ATOMIC_ACQUIRE) >= u->moved;
	if (sw->ops.check && !sw->ops.check_parts)
		return switch_check(sw, parts) == 0;
	for (parts &= sw->parts; parts; parts &= parts - 1) {
		int i = __builtin_ctz(parts);

		if ((u->word[i] & 1) && hf_changes_word(&sw->sink[i]) == u->word[i])
			return false;
	}
	return true;
}

#define TOLD_NS 1000000000ull

int switch_wait_told(const struct hf_switch *sw, unsigned parts)
{
	uint64_t began = 0;
	struct untold u;

	note_untold(sw, &u);
	for (unsigned i = 0; !is_told(sw, parts, &u); i++) {
		if (i < 50) {
			os_yield();
			continue;
		}
		if (!began)
			began = os_now_ns();
		else if (os_now_ns() - began > TOLD_NS)
			return -EAGAIN;
		os_sleep_us(40);
	}
	return 0;
}

void switch_rest(const struct hf_switch *sw)
{
	for (int i = 0; i < 20 && !switch_is_at_rest(sw, PARTS_ALL); i++)
		os_yield();
}

/* ------------------------------------------------------------------ told by the program */

/* The range of a change: as range_round(), and (NULL, SIZE_MAX) is the whole address space. */
static int range_of_change(const void *addr, size_t len, struct range *out)
{
	if (addr || len != SIZE_MAX)
		return range_round(addr, len, out);
	*out = (struct range){ 0, UINT64_MAX };
	return 0;
}

/* Drop it in every provider, and tell who has secured it. How many registrations. */
static int drop_everywhere(struct hf_switch *sw, uint64_t start, uint64_t end, bool unseen)
{
	int dropped = 0;

	pthread_mutex_lock(&sw->lock);
	secured_drop(sw, start, end, unseen);
	for (int i = 0; i < MAX_PROVIDERS; i++) {
		struct hf_provider *p = atomic_load(&sw->providers[i]);

		if (p)
			dropped += cache_drop(&p->cache, start, end, unseen);
	}
	pthread_mutex_unlock(&sw->lock);
	return dropped;
}

int hf_invalidate(struct hf_switch *sw, const void *addr, size_t len)
{
	NOT_CANCELLED;
	struct range r;
	int rc = switch_enter(sw);

	if (!rc)
		rc = range_of_change(addr, len, &r);
	if (rc)
		return rc;
	return drop_everywhere(sw, r.start, r.end, false);
}

void hf_changed_unseen(struct hf_sink *sink, uint64_t start, uint64_t end)
{
	drop_everywhere(sink->sw, start, end, true);
}

bool switch_has(struct hf_sink *sink, uint64_t start, uint64_t end)
{
	struct hf_switch *sw = sink->sw;
	bool has;

	pthread_mutex_lock(&sw->lock);
	has = secured_touches(sw, start, end);
	for (int i = 0; i < MAX_PROVIDERS && !has; i++) {
		struct hf_provider *p = atomic_load(&sw->providers[i]);

		has = p && cache_touches(&p->cache, start, end);
	}
	pthread_mutex_unlock(&sw->lock);
	return has;
}

static int settle_all(struct hf_switch *sw, struct range r)
{
	int worst = 0;

	pthread_mutex_lock(&sw->settling); /* no provider goes away meanwhile: switch_remove() */
	for (int i = 0; i < MAX_PROVIDERS; i++) {
		struct hf_provider *p = atomic_load(&sw->providers[i]);
		int rc = p ? cache_settle(&p->cache, r.start, r.end) : 0;

		worst = rc == -EIO || !worst ? rc : worst;
	}
	pthread_mutex_unlock(&sw->settling);
	return worst;
}

int hf_release(struct hf_switch *sw, const void *addr, size_t len)
{
	NOT_CANCELLED;
	struct range r;
	int dropped = hf_invalidate(sw, addr, len);
	int rc;

	if (dropped < 0)
		return dropped;
	range_of_change(addr, len, &r);
	rc = settle_all(sw, r);
	if (rc == -EBUSY)
		return hf_set_error(rc, "a registration in [%p, +%zu) is held: it goes at its hf_put()", addr, len);
	if (rc)
		return hf_set_error(rc, "a NIC would not deregister memory in [%p, +%zu): it stays pinned until the "
				    "provider is closed", addr, len);
	return dropped;
}

/* ------------------------------------------------------------------ providers */

int switch_add(struct hf_switch *sw, struct hf_provider *p)
{
	int rc = -EMFILE;

	pthread_mutex_lock(&sw->lock);
	for (int i = 0; i < MAX_PROVIDERS && rc; i++) {
		if (!atomic_load(&sw->providers[i])) {
			atomic_store(&sw->providers[i], p);
			rc = 0;
		}
	}
	pthread_mutex_unlock(&sw->lock);
	return rc ? hf_set_error(rc, "%d providers are open on this switch, the most there may be",
				 MAX_PROVIDERS) : 0;
}

/*
 *   close                            telling thread
 *   ---------------------------      ---------------------------
 *   slot = NULL                      word odd; fence
 *   fence                            reads the slot
 *   word even: it will see NULL      tells
 *   word odd: wait until it moves    word even
 *
 * A part that is blind stays odd for good, and its telling thread is out of it.
 */
void switch_remove(struct hf_switch *sw, struct hf_provider *p)
{
	pthread_mutex_lock(&sw->lock);
	for (int i = 0; i < MAX_PROVIDERS; i++)
		if (atomic_load(&sw->providers[i]) == p)
			atomic_store(&sw->providers[i], NULL);
	pthread_mutex_unlock(&sw->lock);
	/* An hf_release() that saw it has finished with it. */
	pthread_mutex_lock(&sw->settling);
	pthread_mutex_unlock(&sw->settling);
	atomic_thread_fence(memory_order_seq_cst);
	for (int i = 0; i < HF_SINK_PARTS; i++) {
		uint64_t w = hf_changes_word(&sw->sink[i]);

		while ((w & 1) && hf_changes_word(&sw->sink[i]) == w && !atomic_load(&sw->sink[i].blind))
			os_sleep_us(20);
	}
}

static int in_use(struct hf_switch *sw)
{
	int n = 0;

	pthread_mutex_lock(&sw->lock);
	for (int i = 0; i < MAX_PROVIDERS; i++)
		n += atomic_load(&sw->providers[i]) != NULL;
	pthread_mutex_unlock(&sw->lock);
	if (n)
		return hf_set_error(-EBUSY, "%d providers are open on this switch: close them first", n);
	pthread_mutex_lock(&sw->secured.lock);
	n = (int)sw->secured.count;
	pthread_mutex_unlock(&sw->secured.lock);
	if (n)
		return hf_set_error(-EBUSY, "%d ranges are secured: hf_unsecure() them first", n);
	return 0;
}

/* ------------------------------------------------------------------ life */

static void switch_free(struct hf_switch *sw)
{
	secured_destroy(&sw->secured);
	pthread_mutex_destroy(&sw->settling);
	pthread_mutex_destroy(&sw->lock);
	os_fork_word_free(sw->alive);
	free(sw);
}

static int switch_new(const char *options, struct hf_switch **out)
{
	struct hf_switch *sw = os_calloc(1, sizeof(*sw));
	int rc;

	if (!sw)
		return hf_set_error(-ENOMEM, "no memory for a switch");
	/* Before there is an event thread: the kernel waits for a grace period in a process with threads. */
	hold_init();
	pthread_mutex_init(&sw->lock, NULL);
	pthread_mutex_init(&sw->settling, NULL);
	secured_init(&sw->secured);
	for (int i = 0; i < HF_SINK_PARTS; i++)
		sw->sink[i].sw = sw;
	rc = options_parse(&sw->options, options, OPTION_SWITCH);
	if (!rc && !(sw->alive = os_fork_word()))
		rc = hf_set_error(-ENOMEM, "no memory for the fork guard (MADV_WIPEONFORK, Linux 4.14)");
	if (rc) {
		switch_free(sw);
		return rc;
	}
	atomic_store(sw->alive, 1);
	maps_prepare();
	*out = sw;
	return 0;
}

static int open_proxy(struct hf_switch *sw, const struct hf_proxy_ops *ops, void *config)
{
	unsigned flags = (sw->options.fast ? HF_PROXY_FAST : 0) |
			 (sw->options.relax_file ? HF_PROXY_RELAX_FILE : 0);
	int rc;

	if (!ops || ops->size < offsetof(struct hf_proxy_ops, check) || ops->abi != HF_BACKEND_ABI)
		return hf_set_error(-EINVAL, "the proxy's table is too short, or of another ABI than %d",
				    HF_BACKEND_ABI);
	memset(&sw->ops, 0, sizeof(sw->ops));
	memcpy(&sw->ops, ops, ops->size < sizeof(sw->ops) ? ops->size : sizeof(sw->ops));
	sw->parts = sw->ops.caps & HF_CAP_PARTS ? PARTS_ALL : 1;
	if (sw->options.fast && !sw->ops.clocks) /* where it costs next to nothing it stays */
		sw->ops.check = NULL;
	if (sw->options.fast || sw->parts == 1)
		sw->ops.check_parts = NULL;
	if (!sw->ops.check_parts)
		sw->ops.check_range = NULL;
	rc = ops->open(&sw->sink[0], flags, config, &sw->proxy);
	if (!rc && sw->ops.able)
		sw->ops.caps &= sw->ops.able(sw->proxy);
	return rc;
}

/* The strongest that opens, of those that can be taken back; `none` always does. */
static int open_auto(struct hf_switch *sw)
{
	const struct hf_proxy_ops *ops;
	int rc = -ENOENT;

	for (unsigned i = 0; rc && (ops = backends_proxy(i)); i++)
		if (!ops->probe && ((ops->caps & HF_CAP_WATCH) || !strcmp(ops->name, "none")))
			rc = open_proxy(sw, ops, NULL);
	return rc;
}

static int open_named(struct hf_switch *sw)
{
	const struct hf_proxy_ops *ops = hf_proxy_find(sw->options.proxy);

	if (!strcmp(sw->options.proxy, "auto"))
		return open_auto(sw);
	if (!ops)
		return hf_set_error(-ENOENT, "no proxy is called '%s'; `holdfast doctor` lists them",
				    sw->options.proxy);
	return open_proxy(sw, ops, NULL);
}

static int open_with(const struct hf_proxy_ops *ops, void *config, const char *options,
		     struct hf_switch **out)
{
	NOT_CANCELLED;
	struct hf_switch *sw = NULL;
	struct error_kept kept;
	int rc;

	if (!out)
		return hf_set_error(-EINVAL, "no place for the switch");
	rc = switch_new(options, &sw);
	if (rc)
		return rc;
	error_keep(&kept);
	rc = error_restore(&kept, ops ? open_proxy(sw, ops, config) : open_named(sw));
	if (rc) {
		switch_free(sw);
		return rc;
	}
	*out = sw;
	return 0;
}

int hf_switch_open(const char *options, struct hf_switch **out)
{
	return open_with(NULL, NULL, options, out);
}

int hf_switch_open_proxy(const struct hf_proxy_ops *ops, void *config, const char *options,
			 struct hf_switch **out)
{
	if (!ops)
		return hf_set_error(-EINVAL, "the proxy's table is NULL");
	return open_with(ops, config, options, out);
}

int hf_switch_close(struct hf_switch *sw)
{
	NOT_CANCELLED;
	int rc;

	if (!sw)
		return 0;
	rc = switch_enter(sw);
	if (!rc)
		rc = in_use(sw);
	if (rc)
		return rc;
	sw->ops.close(sw->proxy);
	switch_free(sw);
	return 0;
}

const char *hf_switch_proxy(const struct hf_switch *sw)
{
	return sw ? sw->ops.name : "none";
}
