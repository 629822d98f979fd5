/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The owner's thread that answers the supervisor: it tells the switches what is about to change, and then lets the call go
 * on. It allocates nothing, takes locks by trylock only, and makes no call that waits itself (I4).
 *
 * An index may be busy because its holder is a thread that waits for us: a signal handler unmaps while its thread is inside the
 * library (hazard 28). So after about 2 ms the answer is given all the same. Nothing is lost by that: the word of the part
 * stays odd until the telling got through, and nothing is a hit while it is odd.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "../switch.h"
#include "../thread.h"
#include "supervise.h"

#define TRIES 40
#define TRY_US 50

static void begin_all(struct supervisor *v)
{
	for (int i = 0; i < SUPERVISE_OPEN; i++) {
		struct supervise *p = atomic_load(&v->open[i]);

		if (p)
			hf_changes_begin(p->sink);
	}
}

static void blind_all(struct supervisor *v)
{
	for (int i = 0; i < SUPERVISE_OPEN; i++) {
		struct supervise *p = atomic_load(&v->open[i]);

		if (p)
			switch_blind(p->sink);
	}
}

/* Is something still to be told? */
static bool end_all(struct supervisor *v)
{
	bool telling = false;

	for (int i = 0; i < SUPERVISE_OPEN; i++) {
		struct supervise *p = atomic_load(&v->open[i]);

		if (p) {
			p->telling = hf_changes_end(p->sink) == -EAGAIN;
			telling |= p->telling;
		}
	}
	return telling;
}

struct question {
	struct supervisor *v;
	struct sup_slot *slot;
};

static int forbids(uint64_t start, uint64_t end, void *arg)
{
	const struct question *q = arg;

	return sup_denied(q->v->shared, start, end, q->slot->call.what, q->slot->call.prot);
}

/*
 * What userfaultfd doesn't tell afterwards is quarantined first: quarantine.h. A switch may have joined since begin_all():
 * its word must be odd, too, or what its busy index keeps could still be a hit when the call goes on.
 */
static int tell(uint64_t start, uint64_t end, void *arg)
{
	const struct question *q = arg;

	for (int i = 0; i < SUPERVISE_OPEN; i++) {
		struct supervise *p = atomic_load(&q->v->open[i]);

		if (!p)
			continue;
		if (q->slot->call.silent)
			quarantine_add(&p->quarantine, start, end);
		hf_changes_begin(p->sink);
		hf_changed(p->sink, start, end);
	}
	return 0;
}

/* Denied is not told, for it doesn't happen. A refused brk() answers the break, as always. */
static void consider(struct supervisor *v, struct sup_slot *s)
{
	struct question q = { v, s };
	int error = supervise_each_range(&s->call, &s->notif.data, forbids, &q);

	s->refused = error != 0;
	s->error = error;
	s->value = 0;
	if (!error)
		supervise_each_range(&s->call, &s->notif.data, tell, &q);
	else if (s->call.find == SUP_FIND_BREAK) {
		s->error = 0;
		s->value = (int64_t)supervise_break();
	}
}

/* Those that are asked now: how many, in `todo`. A slot's next state is ours to write, so nothing changes in it. */
static unsigned collect(struct sup_shared *s, uint16_t todo[SUP_SLOTS])
{
	unsigned n = 0;

	for (unsigned w = 0; w < SUP_SLOTS / 64; w++) {
		uint64_t bits = atomic_load(&s->asked[w]) ? atomic_exchange(&s->asked[w], 0) : 0;

		for (; bits; bits &= bits - 1) {
			unsigned i = w * 64 + (unsigned)__builtin_ctzll(bits);

			if (atomic_load(&s->slot[i].state) == SUP_ASKED)
				todo[n++] = (uint16_t)i;
		}
	}
	return n;
}

static void answer(struct supervisor *v, const uint16_t *todo, unsigned n)
{
	static const char bell = '!';

	for (unsigned i = 0; i < n; i++) {
		atomic_store(&v->shared->slot[todo[i]].state, SUP_ANSWERED);
		atomic_fetch_or(&v->shared->answered[todo[i] / 64], 1ull << (todo[i] % 64));
	}
	if (n) /* full: it rings already */
		send(v->socket, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One turn. True: something is still to be told. */
static bool tell_all(struct supervisor *v)
{
	uint16_t todo[SUP_SLOTS];
	unsigned n = collect(v->shared, todo);
	bool telling;

	atomic_fetch_add(&v->turn, 1);
	if (n)
		begin_all(v);
	for (unsigned i = 0; i < n; i++)
		consider(v, &v->shared->slot[todo[i]]);
	telling = end_all(v);
	for (int i = 0; n && telling && i < TRIES; i++) {
		os_sleep_us(TRY_US);
		telling = end_all(v);
	}
	atomic_fetch_add(&v->turn, 1);
	answer(v, todo, n);
	return telling;
}

/* False: the socket is closed. By the supervisor, which was killed; or by the program, which closed what isn't its own. */
static bool wait_for_questions(struct supervisor *v, bool telling)
{
	struct pollfd p = { .fd = v->socket, .events = POLLIN };
	char bells[256];
	ssize_t n;
	int rc = poll(&p, 1, telling ? 1 : -1);

	if (rc < 0 && errno != EINTR)
		return false;
	if (rc <= 0)
		return true;
	if (p.revents & POLLNVAL)
		return false;
	/* 0, the end, sets no errno: an EAGAIN from before must not have us poll for ever. */
	n = recv(v->socket, bells, sizeof(bells), MSG_DONTWAIT);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void *supervise_teller(void *supervisor)
{
	struct supervisor *v = supervisor;
	bool telling = false;

	thread_rest(); /* no proof has to wait for this thread */
	while (atomic_load(&v->go) == 0)
		os_wait(&v->go, 0);
	if (atomic_load(&v->go) == 2)
		return NULL;
	while (wait_for_questions(v, telling))
		telling = tell_all(v);
	/* Blind from here on: all words stay odd, nothing is a hit. The thread stays: the supervisor knows us by it. */
	atomic_store(&v->blind, true);
	atomic_fetch_add(&v->turn, 1);
	blind_all(v);
	atomic_fetch_add(&v->turn, 1);
	atomic_store(&v->shared->gave_up, 1);
	for (;;)
		os_wait(&v->go, 1);
	return NULL;
}
