/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "torture.h"

#include <errno.h>
#include <holdfast/backend.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Below the usual RLIMIT_MEMLOCK of 8 MiB, with room for a huge page that is charged whole. */
#define PROVIDER_OPTIONS "max_bytes=4194304"
#define TRIES_TO_CACHE 10 /* a lookup goes round a change that is under way: ask again, 1 ms apart */
#define TRIES_TO_SETTLE 60000 /* 1 ms apart: what has changed before is told by then, however slow the machine is */
#define TRIES_TO_DRAIN 60000

const char *verdict_name(enum verdict v)
{
	static const char *const names[] = {
		[VERDICT_NONE] = "not run",	      [VERDICT_CANNOT] = "can't run",
		[VERDICT_KEPT] = "ok-kept",	      [VERDICT_OK] = "ok",
		[VERDICT_NOT_CACHED] = "not cached", [VERDICT_BLIND] = "blind spot",
		[VERDICT_FAILED] = "FAILED",	      [VERDICT_STALE] = "STALE",
		[VERDICT_REFUSED] = "refused",
	};

	return names[v];
}

static void counts_add(struct counts *sum, const struct counts *n)
{
	sum->lookups += n->lookups;
	sum->hits += n->hits;
	sum->uncached += n->uncached;
	sum->stale_hits += n->stale_hits;
	sum->wrong_bytes += n->wrong_bytes;
	sum->blind_stale_hits += n->blind_stale_hits;
	sum->blind_wrong_bytes += n->blind_wrong_bytes;
	sum->failures += n->failures;
	sum->limited += n->limited;
	sum->refused += n->refused;
	sum->broken += n->broken;
}

void outcome_add(struct outcome *sum, const struct outcome *o)
{
	counts_add(&sum->n, &o->n);
	if (o->verdict <= sum->verdict)
		return;
	sum->verdict = o->verdict;
	memcpy(sum->why, o->why, sizeof(sum->why));
}

unsigned differing(const void *a, const void *b, size_t len)
{
	const unsigned char *x = a, *y = b;
	unsigned n = 0;

	while (len--)
		n += *x++ != *y++;
	return n;
}

static void wait_1ms(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* ------------------------------------------------------------------ the negative control */

static int unsafe_open(struct hf_sink *sink, unsigned mode, void *config, void **proxy)
{
	*proxy = sink;
	return 0;
}

static void unsafe_close(void *proxy)
{
}

static int unsafe_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	int err = hf_range_check(start, end, access);

	*id = 0;
	return err ? err : HF_WATCHED;
}

/* Claims to refuse changes, and doesn't. */
static int unsafe_deny(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	*id = 0;
	return hf_range_check(start, end, access);
}

static void unsafe_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
}

static const struct hf_proxy_ops unsafe_ops = {
	.size = sizeof(unsafe_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_WATCH | HF_CAP_DENY,
	.name = "unsafe",
	.open = unsafe_open,
	.close = unsafe_close,
	.secure = unsafe_secure,
	.unsecure = unsafe_unsecure,
	.deny = unsafe_deny,
};

/* ------------------------------------------------------------------ open and close */

static int open_switch(struct judge *j, const char *proxy, const char *mode, bool unsafe)
{
	char options[96];

	if (unsafe)
		return hf_switch_open_proxy(&unsafe_ops, NULL, NULL, &j->sw);
	snprintf(options, sizeof(options), "proxy=%s,mode=%s", proxy, mode);
	return hf_switch_open(options, &j->sw);
}

int judge_open(struct judge *j, const char *nic, const char *proxy, const char *mode, bool unsafe)
{
	int err;

	memset(j, 0, sizeof(*j));
	err = open_switch(j, proxy, mode, unsafe);
	if (err)
		return err;
	snprintf(j->nic, sizeof(j->nic), "%s", nic);
	snprintf(j->proxy, sizeof(j->proxy), "%s", unsafe ? "unsafe" : hf_switch_proxy(j->sw));
	j->told = !strcmp(j->proxy, "manual");
	err = hf_provider_open(j->sw, nic, PROVIDER_OPTIONS, &j->provider);
	if (err)
		hf_switch_close(j->sw);
	return err;
}

void judge_close(struct judge *j)
{
	hf_provider_close(j->provider);
	hf_switch_close(j->sw);
}

void judge_tell(const struct judge *j, const void *addr, size_t len)
{
	if (j->told)
		hf_invalidate(j->sw, addr, len);
}

bool judge_drained(struct hf_provider *p, char *why, size_t size)
{
	struct hf_stats s = { 0 };
	int i;

	for (i = 0; i < TRIES_TO_DRAIN; i++) {
		hf_flush(p);
		if (!hf_provider_stats(p, &s, sizeof(s)) && !s.pinned_bytes && !s.entries && !s.dead_held)
			return true;
		wait_1ms();
	}
	snprintf(why, size, "a leak: %llu bytes stay pinned, %llu cached, %llu dead but held",
		 (unsigned long long)s.pinned_bytes, (unsigned long long)s.entries,
		 (unsigned long long)s.dead_held);
	return false;
}

/* ------------------------------------------------------------------ one change */

/* One row on its way to a verdict. */
struct trial {
	struct judge *j;
	const struct change *c;
	struct ground *g;
	struct outcome *o;
	unsigned access;
	bool cached; /* the last lookup's registration stays */
};

__attribute__((format(printf, 3, 4)))
static void settle(struct outcome *o, enum verdict v, const char *format, ...)
{
	char why[sizeof(o->why)]; /* o->why may be an argument */
	va_list ap;

	if (v <= o->verdict)
		return;
	o->verdict = v;
	va_start(ap, format);
	vsnprintf(why, sizeof(why), format, ap);
	va_end(ap);
	memcpy(o->why, why, sizeof(why));
}

static void stamp_pages(struct judge *j, struct ground *g)
{
	uint64_t stamp[2];
	size_t off;

	for (off = 0; off < g->len; off += change_page()) {
		stamp[0] = ++j->serial;
		stamp[1] = ~stamp[0] * 0x9e3779b97f4a7c15u;
		memcpy(g->addr + off + g->stamp_at, stamp, sizeof(stamp));
	}
}

static void call_failed(struct trial *t, const char *call)
{
	t->o->n.failures++;
	settle(t->o, VERDICT_FAILED, "%s: %s", call, hf_error());
}

/* Bytes at `at` that the NIC reads otherwise than the processor. */
static unsigned wrong_to_read(struct trial *t, const struct hf_region *r, unsigned char *at)
{
	unsigned char nic[CHANGE_STAMP], cpu[CHANGE_STAMP];

	if (hf_peek(r, at, nic, sizeof(nic))) {
		call_failed(t, "hf_peek");
		return 0;
	}
	memcpy(cpu, at, sizeof(cpu));
	return differing(nic, cpu, sizeof(cpu));
}

/* ... and bytes that the NIC writes and the processor doesn't see. */
static unsigned wrong_to_write(struct trial *t, const struct hf_region *r, unsigned char *at)
{
	unsigned char nic[CHANGE_STAMP], cpu[CHANGE_STAMP];

	if (!(r->access & HF_WRITE))
		return 0;
	memset(nic, (int)(0x80 | (++t->j->serial & 0x7f)), sizeof(nic));
	if (hf_poke(r, at, nic, sizeof(nic))) {
		call_failed(t, "hf_poke");
		return 0;
	}
	memcpy(cpu, at, sizeof(cpu));
	return differing(nic, cpu, sizeof(cpu));
}

static unsigned wrong_in_region(struct trial *t, const struct hf_region *r)
{
	unsigned wrong = 0;
	size_t off;

	for (off = t->g->stamp_at; off < t->g->len; off += change_page()) {
		wrong += wrong_to_read(t, r, t->g->addr + off);
		wrong += wrong_to_write(t, r, t->g->addr + off);
	}
	return wrong;
}

/* 0, or -errno. */
static int look(struct trial *t, bool check_bytes)
{
	struct counts *n = &t->o->n;
	struct hf_region r;
	unsigned wrong = 0;
	int err;

	hf_set_error(0, "%s", "");
	n->lookups++;
	err = hf_get(t->j->provider, t->g->addr, t->g->len, t->access, &r);
	if (err)
		return err;
	t->cached = r.flags & HF_REGION_CACHED;
	n->uncached += !t->cached;
	n->hits += (r.flags & HF_REGION_HIT) != 0;
	if (check_bytes)
		wrong = wrong_in_region(t, &r);
	n->wrong_bytes += wrong;
	n->stale_hits += wrong && (r.flags & HF_REGION_HIT);
	if (hf_put(t->j->provider, &r))
		call_failed(t, "hf_put");
	return 0;
}

/* What this process has changed before doesn't send the lookup round the cache. */
static void wait_until_told(struct hf_provider *p)
{
	int i;

	for (i = 0; i < TRIES_TO_SETTLE && hf_sync(p) == -EAGAIN; i++)
		wait_1ms();
}

/* The lookup that fills the cache. False: the row is settled. */
static bool look_before(struct trial *t)
{
	int i, err = 0;

	for (i = 0; i < TRIES_TO_CACHE && !t->cached; i++) {
		if (i)
			wait_1ms();
		wait_until_told(t->j->provider);
		err = look(t, !i && !(t->c->flags & CHANGE_UNTOUCHED));
		if (err)
			break;
	}
	if (err == -EOPNOTSUPP)
		settle(t->o, VERDICT_REFUSED, "%s", hf_error());
	else if (err == -ENOMEM)
		settle(t->o, VERDICT_CANNOT, "%s", hf_error());
	else if (err)
		call_failed(t, "hf_get");
	else if (!t->cached)
		settle(t->o, VERDICT_NOT_CACHED, "%s", hf_error());
	return !err;
}

/* A lookup that asks for rights which the range has lost for now: to find it is stale, too. */
static void look_without_rights(struct trial *t)
{
	struct hf_region r;

	t->o->n.lookups++;
	if (hf_get(t->j->provider, t->g->addr, t->g->len, t->access, &r))
		return;
	if (r.flags & HF_REGION_HIT) {
		t->o->n.hits++;
		t->o->n.stale_hits++;
		snprintf(t->o->why, sizeof(t->o->why), "bytes right, rights stale");
	} else {
		settle(t->o, VERDICT_FAILED, "registered although the mapping has fewer rights than asked");
	}
	hf_put(t->j->provider, &r);
}

/* False: the change can't be made here. */
static bool change(struct trial *t)
{
	int err;

	if (!(t->c->flags & CHANGE_SILENT))
		judge_tell(t->j, t->g->addr, t->g->len);
	err = change_apply(t->c, t->g);
	if (!err && t->c->flags & CHANGE_RIGHTS)
		look_without_rights(t);
	if (!err)
		err = change_back(t->c, t->g);
	if (err)
		settle(t->o, err == CHANGE_WRONG ? VERDICT_FAILED : VERDICT_CANNOT, "%s", t->g->why);
	return !err;
}

static void look_after(struct trial *t)
{
	uint64_t hits = t->o->n.hits;
	int err;

	stamp_pages(t->j, t->g);
	err = look(t, true);
	if (err == -EOPNOTSUPP)
		settle(t->o, VERDICT_OK, "afterwards refused: %s", hf_error());
	else if (err)
		call_failed(t, "hf_get afterwards");
	else if (t->o->verdict != VERDICT_NOT_CACHED)
		settle(t->o, t->o->n.hits > hits ? VERDICT_KEPT : VERDICT_OK, "%s", t->o->why);
}

/* What the bytes say goes before what was concluded so far. */
static void settle_bytes(struct trial *t)
{
	struct counts *n = &t->o->n;

	if (!n->stale_hits && !n->wrong_bytes)
		return;
	if (!n->stale_hits || !change_may_blind(t->c, t->j->proxy)) {
		settle(t->o, VERDICT_STALE, "%s", n->wrong_bytes ? "bytes of the earlier mapping" : t->o->why);
		return;
	}
	settle(t->o, VERDICT_BLIND, "%s", n->wrong_bytes ? "a stale hit with wrong bytes" : t->o->why);
	n->blind_stale_hits = n->stale_hits;
	n->blind_wrong_bytes = n->wrong_bytes;
	n->stale_hits = n->wrong_bytes = 0;
}

static void try_change(struct trial *t)
{
	if (!(t->c->flags & CHANGE_UNTOUCHED))
		stamp_pages(t->j, t->g);
	if (!look_before(t))
		return;
	if (change(t))
		look_after(t);
	settle_bytes(t);
}

void judge_change(struct judge *j, const struct change *c, struct outcome *o)
{
	struct ground g = { .provider = j->provider };
	struct trial t = { .j = j, .c = c, .g = &g, .o = o };
	char why[sizeof(o->why)];

	memset(o, 0, sizeof(*o));
	t.access = c->flags & CHANGE_READ ? HF_READ : HF_READWRITE;
	if (change_setup(c, &g))
		settle(o, VERDICT_CANNOT, "%s", g.why);
	else
		try_change(&t);
	change_restore(c, &g);
	if (!judge_drained(j->provider, why, sizeof(why)))
		settle(o, VERDICT_FAILED, "%s", why);
}
