/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Denying (R37): the table that the supervisor reads, and the calls that it let through before.
 *
 *   thread D: deny                       the supervisor, a call of thread T
 *   ---------------------------------    ----------------------------------------
 *   the entry is in force                notes the call: T, its range
 *   (full barrier)                       (full barrier)
 *   looks at the notes                   looks at the entries: refuses, or lets it through
 *
 * Either the supervisor sees the entry, or D sees the note. What D has seen may be under way: it waits until T was seen
 * elsewhere. Of calls that were in the kernel before the filter was loaded there is no note: the first to deny waits until each
 * thread was seen outside of such a call since. Nothing here waits for a lock, so a signal handler that unmaps, and so waits for the supervisor, never waits for
 * the thread that it interrupted.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../thread.h"
#include "supervise.h"
#include "supervise_calls.h"

#define PATIENCE_NS 1000000000ull
#define LOOKS 64

/* ------------------------------------------------------------------ is that call over? */

/* One thread that was found running, and its user time then: when that grows, it has been out of the kernel since. */
struct look {
	uint64_t id;
	int64_t user_ns;
	bool over;
};

struct wait {
	struct sup_shared *s;
	uint64_t start, end;
	int self;
	struct look look[LOOKS];
};

static int64_t user_time(uint32_t tid)
{
	clockid_t id = (clockid_t)(~tid << 3 | 4 /* of a thread */ | 1 /* user time */);
	struct timespec ts;

	return clock_gettime(id, &ts) < 0 ? -1 : ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static bool ran_in_user_mode(struct wait *w, uint32_t tid, uint64_t id)
{
	struct look *l = &w->look[tid % LOOKS];
	int64_t now = user_time(tid);

	if (now < 0)
		return false;
	if (l->id != id)
		*l = (struct look){ .id = id, .user_ns = now };
	return now > l->user_ns;
}

/* Of another address space, or gone. */
static bool is_foreign(const struct wait *w, uint32_t tid)
{
	long rc = syscall(SYS_kcmp, w->self, tid, KCMP_VM, 0, 0); /* the process's first thread may have ended */

	return rc > 0 || (rc < 0 && errno == ESRCH);
}

/* "running", "-1 ..." when it is asleep in no call (a page fault), or the call and its arguments. */
static bool is_elsewhere(struct wait *w, const struct sup_caller *c, uint32_t tid, uint64_t id)
{
	unsigned long long first, second;
	char path[64], buf[256];
	ssize_t n;
	int nr, fd;

	snprintf(path, sizeof(path), "/proc/%u/syscall", tid);
	fd = os_open(path, O_RDONLY);
	if (fd < 0)
		return access("/proc/self/task", F_OK) == 0 && fd == -ENOENT;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = 0;
	n = sscanf(buf, "%d %llx %llx", &nr, &first, &second);
	if (n < 1)
		return ran_in_user_mode(w, tid, id);
	return nr < 0 || (n == 3 && (nr != atomic_load(&c->nr) || first != atomic_load(&c->arg[0]) ||
				     second != atomic_load(&c->arg[1])));
}

/* Once over, always over: two that are seen running by turns must not make us wait for both at once. */
static bool found_over(struct wait *w, const struct sup_caller *c, uint32_t tid, uint64_t id)
{
	struct look *l = &w->look[tid % LOOKS];

	if (l->id == id && l->over)
		return true;
	if (!is_foreign(w, tid) && !is_elsewhere(w, c, tid, id))
		return false;
	*l = (struct look){ .id = id, .over = true };
	return true;
}

/* A note that is being written is looked at again. */
static bool is_over(struct wait *w, struct sup_caller *c)
{
	uint64_t id = atomic_load(&c->id);
	uint32_t tid = atomic_load(&c->tid);
	bool touches;

	if (id == UINT64_MAX)
		return false;
	touches = atomic_load(&c->start) < w->end && atomic_load(&c->end) > w->start;
	if (!id || (int)tid == w->self)
		return true;
	if (!touches)
		return atomic_load(&c->id) == id;
	/* Another note since: its own call, which saw our entry, or which is waited for next time. */
	return found_over(w, c, tid, id) && atomic_load(&c->id) == id;
}

static bool all_over(struct wait *w)
{
	for (uint32_t i = 0; i < SUP_CALLERS / 64; i++)
		for (uint64_t bits = atomic_load(&w->s->callers[i]); bits; bits &= bits - 1)
			if (!is_over(w, &w->s->caller[i * 64 + (uint32_t)__builtin_ctzll(bits)]))
				return false;
	return true;
}

static int wait_for_others(struct sup_shared *s, uint64_t start, uint64_t end)
{
	struct wait w = { .s = s, .start = start, .end = end, .self = (int)syscall(SYS_gettid) };
	uint64_t began = os_now_ns();

	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&s->lost))
		return hf_set_error(-EAGAIN, "more threads than the supervisor can remember (%u): nothing can be denied",
				    SUP_CALLERS);
	while (!all_over(&w)) {
		if (os_now_ns() - began > PATIENCE_NS)
			return hf_set_error(-EAGAIN, "a system call that changes a part of 0x%" PRIx64 "-0x%" PRIx64
					    " was under way and didn't end within a second", start, end);
		os_sleep_us(50);
	}
	return 0;
}

/* ------------------------------------------------------------------ calls from before the filter */

/* A note, though it may be another thread's of that number by now: then this one began after the filter was loaded. */
static bool was_noted(int tid)
{
	const struct sup_shared *s = supervise_shared();

	for (uint32_t i = 0; i < 64; i++)
		if (atomic_load(&s->caller[((uint32_t)tid + i) % SUP_CALLERS].tid) == (uint32_t)tid)
			return true;
	return false;
}

/* In our own ABI: a number alone doesn't tell which one it is of, and recvfrom(2) is the other's brk(2). */
static bool is_watched(int nr)
{
#ifdef __x86_64__
	nr &= ~SUP_X32_BIT;
#endif
	for (unsigned i = 0; i < SUP_ROWS; i++)
		if (sup_rows[i].arch == sup_rows[0].arch && sup_rows[i].nr == nr)
			return true;
	return false;
}

/* The break, too, may have been moved by such a call after it was first looked at. */
int supervise_wait_for_old(struct supervisor *v)
{
	uint64_t began = os_now_ns();

	while (!atomic_load(&v->old_are_over)) {
		if (thread_prove_out(v->loaded, v->teller.tid, was_noted, is_watched)) {
			sup_raise_break(v->shared, supervise_break());
			atomic_store(&v->old_are_over, true);
		} else if (os_now_ns() - began > PATIENCE_NS) {
			return hf_set_error(-EAGAIN, "a system call that changes memory may be under way since before the "
					    "process was supervised: no proof within a second that all have ended");
		} else {
			os_sleep_us(50);
		}
	}
	return 0;
}

/* ------------------------------------------------------------------ the table */

static struct sup_deny *claim(struct sup_shared *s)
{
	for (uint32_t i = 0; i < SUP_DENIES; i++) {
		struct sup_deny *d = &s->denied[i];
		uint64_t state = atomic_load(&d->state);
		uint32_t n = atomic_load(&s->denies);

		if ((state & SUP_DENY_STATE) != SUP_DENY_FREE ||
		    !atomic_compare_exchange_strong(&d->state, &state, state + SUP_DENY_WRITING))
			continue;
		while (n <= i && !atomic_compare_exchange_weak(&s->denies, &n, i + 1))
			;
		return d;
	}
	return NULL;
}

static void release(struct sup_shared *s, struct sup_deny *d, uint64_t start, uint64_t end)
{
	atomic_store(&d->state, (atomic_load(&d->state) | SUP_DENY_STATE) + 1); /* the next generation, free */
	sup_count(&s->deny, start, end, -1);
}

int supervise_deny(struct sup_shared *s, uint64_t start, uint64_t end, unsigned access_, uint64_t *id)
{
	struct sup_deny *d = FAULT("deny") ? NULL : claim(s);
	int rc;

	if (!d)
		return hf_set_error(-ENOMEM, "%u ranges are denied already, the most there may be", SUP_DENIES);
	atomic_store(&d->start, start);
	atomic_store(&d->end, end);
	atomic_store(&d->access, access_);
	sup_count(&s->deny, start, end, 1);
	atomic_fetch_add(&d->state, SUP_DENY_IN_FORCE - SUP_DENY_WRITING);
	rc = wait_for_others(s, start, end);
	if (!rc)
		rc = hf_range_check(start, end, access_);
	if (rc)
		release(s, d, start, end);
	else
		*id = (uint64_t)(d - s->denied + 1) << 8;
	return rc;
}

void supervise_undeny(struct sup_shared *s, uint64_t start, uint64_t end, uint64_t id)
{
	release(s, &s->denied[(id >> 8) - 1], start, end);
}
