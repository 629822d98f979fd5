/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Secured memory (HF_DENY, R37): what would free it, or give it fewer rights, is refused, and its bytes stay. Every change
 * of the table, one at a time; and threads that attack each other's memory while it is secured and let go again.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <holdfast/backend.h>

#include "torture_race.h"

#define SECURED (HF_READWRITE | HF_DENY)
#define TRIES_TO_SECURE 1000

/* Secured, or -errno. A change that is under way just now is waited for a little. */
static int secure(struct hf_switch *sw, void *addr, size_t len, uint64_t *id)
{
	int i, err = -EAGAIN;

	for (i = 0; i < TRIES_TO_SECURE && err == -EAGAIN; i++)
		err = hf_secure(sw, addr, len, SECURED, NULL, NULL, id);
	return err;
}

bool judge_can_deny(const struct judge *j, char *why, size_t size)
{
	unsigned char *page = race_map(1);
	uint64_t id;
	int err = page ? secure(j->sw, page, change_page(), &id) : -ENOMEM;

	if (err)
		snprintf(why, size, "%s", page ? hf_error() : "no memory");
	else
		hf_unsecure(j->sw, id);
	if (page)
		munmap(page, change_page());
	return !err;
}

bool judge_seals(const struct judge *j)
{
	return !strcmp(hf_switch_proxy(j->sw), "kmod");
}

/* ------------------------------------------------------------------ one change of the table */

/* Read by the kernel: it may be memory that the program has given back to its allocator, which couldn't let go of it. */
static bool has_stamp(unsigned char *at, uint64_t stamp)
{
	uint64_t there = ~stamp;
	struct iovec to = { &there, sizeof(there) }, from = { at, sizeof(there) };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == sizeof(there) && there == stamp;
}

static bool bytes_stayed(const struct ground *g, uint64_t stamp)
{
	size_t off;

	if (hf_range_check((uintptr_t)g->addr, (uintptr_t)g->addr + g->len, HF_READWRITE))
		return false;
	for (off = g->stamp_at; off < g->len; off += change_page())
		if (!has_stamp(g->addr + off, stamp))
			return false;
	return true;
}

static void stamp_all(const struct ground *g, uint64_t stamp)
{
	size_t off;

	for (off = g->stamp_at; off < g->len; off += change_page())
		memcpy(g->addr + off, &stamp, sizeof(stamp));
}

static void say(struct outcome *o, enum verdict v, const char *why)
{
	o->verdict = v;
	snprintf(o->why, sizeof(o->why), "%s", why);
}

/* Who refuses says EBUSY, EACCES or EPERM: this is a kernel that has no such call, and nothing was refused. */
static bool is_unknown_here(int err)
{
	return err == -EINVAL || err == -ENOSYS;
}

static void try_denied(struct judge *j, const struct change *c, struct ground *g, struct outcome *o)
{
	uint64_t stamp = ++j->serial * 0x9e3779b97f4a7c15u, id;
	int err;

	stamp_all(g, stamp);
	err = secure(j->sw, g->addr, g->len, &id);
	if (err) {
		say(o, err == -ENOTSUP ? VERDICT_CANNOT : VERDICT_FAILED, hf_error());
		return;
	}
	err = change_apply(c, g);
	/* A row of several calls may well go on behind the one that was refused; one of a single call fails. */
	if (is_unknown_here(err) && bytes_stayed(g, stamp)) {
		say(o, VERDICT_CANNOT, g->why);
	} else if (bytes_stayed(g, stamp) && (err || c->kind != GROUND_PRIVATE)) {
		o->verdict = VERDICT_OK;
		o->n.refused++;
	} else if (c->flags & CHANGE_UNREFUSED) {
		say(o, VERDICT_BLIND, "by way of the file, of another process or of an io_uring: it can't be refused (R42)");
	} else if ((c->flags & CHANGE_EMPTIES) && judge_seals(j)) {
		say(o, VERDICT_BLIND, "a seal doesn't refuse a madvise that empties writable memory");
	} else {
		say(o, VERDICT_FAILED, "changed although it was secured");
		o->n.broken++;
	}
	if (hf_unsecure(j->sw, id))
		say(o, VERDICT_FAILED, hf_error());
}

void judge_denied(struct judge *j, const struct change *c, struct outcome *o)
{
	struct ground g = { .provider = j->provider };

	memset(o, 0, sizeof(*o));
	if (change_setup(c, &g))
		say(o, VERDICT_CANNOT, g.why);
	else
		try_denied(j, c, &g, o);
	change_restore(c, &g);
}

/* ------------------------------------------------------------------ threads against each other */

#define DENY_PAGES 8
#define ATTACKS 8
#define TARGETS 512 /* threads at most: torture.c */

/* What a thread has secured. Attackers hold the lock for reading, so it stays secured as long as they attack. */
static struct target {
	pthread_rwlock_t lock;
	unsigned char *mem; /* NULL: not secured just now */
} targets[TARGETS];

struct attack {
	int expected;
	long (*call)(unsigned char *addr, size_t len);
};

static long attack_unmap(unsigned char *addr, size_t len)
{
	return munmap(addr, len);
}

static long attack_map(unsigned char *addr, size_t len)
{
	return mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 :
														     0;
}

static long attack_move(unsigned char *addr, size_t len)
{
	return mremap(addr, len, 2 * len, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0;
}

static long attack_empty(unsigned char *addr, size_t len)
{
	return madvise(addr, len, MADV_DONTNEED);
}

static long attack_free(unsigned char *addr, size_t len)
{
	return madvise(addr, len, MADV_FREE);
}

static long attack_read_only(unsigned char *addr, size_t len)
{
	return mprotect(addr, len, PROT_READ);
}

static long attack_raw(unsigned char *addr, size_t len)
{
	return syscall(SYS_munmap, addr, len);
}

/* The first is all that the negative control uses: where nothing is refused, the others would end the program. */
static const struct attack attacks[] = {
	{ EBUSY, attack_empty }, { EBUSY, attack_unmap },      { EBUSY, attack_map }, { EBUSY, attack_move },
	{ EBUSY, attack_free },  { EACCES, attack_read_only }, { EBUSY, attack_raw },
};

/* Those that a seal refuses. */
static const struct attack seal_attacks[] = {
	{ EPERM, attack_unmap }, { EPERM, attack_map }, { EPERM, attack_move }, { EPERM, attack_read_only },
	{ EPERM, attack_raw },
};

static const struct attack *choose(struct worker *w)
{
	bool control = !strcmp(w->a->j->proxy, "unsafe");

	if (judge_seals(w->a->j))
		return &seal_attacks[race_below(w, sizeof(seal_attacks) / sizeof(seal_attacks[0]))];
	return &attacks[control ? 0 : race_below(w, sizeof(attacks) / sizeof(attacks[0]))];
}

static void count_attack(struct worker *w, bool refused, int err)
{
	if (refused) {
		w->n.refused++;
		return;
	}
	w->n.broken++;
	if (!w->why[0])
		snprintf(w->why, sizeof(w->why), "a change of secured memory: %s", err ? strerror(err) : "not refused");
}

static void attack(struct worker *w, struct target *t)
{
	const struct attack *a = choose(w);
	size_t first = race_below(w, DENY_PAGES), count = 1 + race_below(w, DENY_PAGES - first);
	int err;

	if (pthread_rwlock_tryrdlock(&t->lock))
		return;
	if (t->mem) {
		errno = 0;
		err = a->call(t->mem + first * change_page(), count * change_page()) ? errno : 0;
		count_attack(w, err == a->expected, err);
	}
	pthread_rwlock_unlock(&t->lock);
}

static void set_target(struct worker *w, unsigned char *mem)
{
	pthread_rwlock_wrlock(&targets[w->id].lock);
	targets[w->id].mem = mem;
	pthread_rwlock_unlock(&targets[w->id].lock);
}

static void secure_and_attack(struct worker *w, unsigned char *mem)
{
	size_t page = change_page(), off;
	unsigned char before[DENY_PAGES][STAMP];
	uint64_t id;
	int i, err = secure(w->a->j->sw, mem, DENY_PAGES * page, &id);

	if (err) {
		if (err != -EAGAIN)
			race_remember(w, "hf_secure", err);
		return;
	}
	for (off = 0; off < DENY_PAGES; off++)
		memcpy(before[off], mem + off * page, STAMP);
	set_target(w, mem);
	for (i = 0; i < ATTACKS; i++)
		attack(w, &targets[race_below(w, w->a->threads)]);
	set_target(w, NULL);
	for (off = 0; off < DENY_PAGES; off++)
		if (differing(before[off], mem + off * page, STAMP))
			count_attack(w, false, 0);
	race_look(w, mem, DENY_PAGES);
	if (hf_unsecure(w->a->j->sw, id))
		race_remember(w, "hf_unsecure", -EINVAL);
}

void work_deny(struct worker *w)
{
	pthread_rwlock_init(&targets[w->id].lock, NULL);
	targets[w->id].mem = NULL;
	race_all_go_on(w);
	while (!race_stopped(w)) {
		unsigned char *mem = race_map(DENY_PAGES);

		if (!mem)
			break;
		race_stamp(w, mem, DENY_PAGES);
		race_look(w, mem, DENY_PAGES);
		secure_and_attack(w, mem);
		race_unmap(w, mem, DENY_PAGES);
	}
	/* Others may still look at this thread's target. */
	pthread_barrier_wait(&w->a->all);
	pthread_rwlock_destroy(&targets[w->id].lock);
}

/* ------------------------------------------------------------------ secured in the midst of a change */

static void spin(struct worker *w)
{
	for (size_t n = race_below(w, 4000); n; n--)
		__asm__ volatile("");
}

/*
 *   A: hf_secure()                       B: madvise(MADV_DONTNEED)
 *   ------------------------------       --------------------------------
 *                                        let through: nothing is secured
 *   secured, answers 0
 *   reads the bytes                      empties the pages   (must not be: R37)
 *   meets B, reads them again
 */
static void secure_late(struct worker *w, unsigned char *mem, size_t len)
{
	unsigned char before[STAMP];
	uint64_t id;
	int err;

	spin(w);
	err = hf_secure(w->a->j->sw, mem, len, SECURED, NULL, NULL, &id);
	memcpy(before, mem, STAMP);
	pthread_barrier_wait(&race_pair_of(w)->meet);
	if (!err)
		count_attack(w, !differing(before, mem, STAMP), 0);
	else if (err != -EAGAIN)
		race_remember(w, "hf_secure", err);
	if (!err)
		hf_unsecure(w->a->j->sw, id);
}

void work_deny_late(struct worker *w)
{
	unsigned char *mem = race_pair_memory(w);
	size_t len = w->a->race->pages * change_page();

	while (race_pair_goes_on(w)) {
		if (!(w->id & 1)) {
			race_stamp(w, mem, w->a->race->pages);
			race_look(w, mem, w->a->race->pages);
		}
		pthread_barrier_wait(&race_pair_of(w)->meet);
		if (!(w->id & 1)) {
			secure_late(w, mem, len);
		} else {
			spin(w);
			madvise(mem, len, MADV_DONTNEED);
			pthread_barrier_wait(&race_pair_of(w)->meet);
		}
	}
}
