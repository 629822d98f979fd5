/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The steps of `walk`. Each does one thing of the contract and looks at what came of it: seen() says what was seen, must()
 * what has to be so.
 */
#include "perf.h"
#include "tool.h"
#include "walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SEED = 1, SEED_NEW = 2, SEED_PEER = 3, LENT = WALK_SIZE / 2, PIECE = 4096, PIECE_AT = 2 * PIECE };

/* ------------------------------------------------------------------ saying what was seen */

__attribute__((format(printf, 2, 3))) static void seen(struct walk *w, const char *format, ...)
{
	size_t used = strlen(w->seen);
	va_list args;

	used += (size_t)snprintf(w->seen + used, sizeof(w->seen) - used, "%s", used ? "; " : "");
	va_start(args, format);
	vsnprintf(w->seen + used, sizeof(w->seen) - used, format, args);
	va_end(args);
}

/* The first thing that is not so is what is told. */
__attribute__((format(printf, 3, 4))) static bool must(struct walk *w, bool so, const char *format, ...)
{
	va_list args;

	if (so || *w->wrong)
		return so;
	va_start(args, format);
	vsnprintf(w->wrong, sizeof(w->wrong), format, args);
	va_end(args);
	return false;
}

static const char *errno_name(int err)
{
	switch (err) {
	case 0:
		return "0";
	case -EACCES:
		return "-EACCES";
	case -EBUSY:
		return "-EBUSY";
	case -ECANCELED:
		return "-ECANCELED";
	case -EFAULT:
		return "-EFAULT";
	case -EINVAL:
		return "-EINVAL";
	case -ENOSPC:
		return "-ENOSPC";
	case -EOWNERDEAD:
		return "-EOWNERDEAD";
	case -EPERM:
		return "-EPERM";
	case -ERANGE:
		return "-ERANGE";
	}
	return strerror(-err);
}

/* A call that has to succeed. */
static bool did(struct walk *w, int err, const char *what)
{
	return must(w, err >= 0, "%s answers %s: %s", what, errno_name(err), hf_error());
}

/* One that has to answer just this. */
static bool answers(struct walk *w, const char *what, int err, int wanted)
{
	seen(w, "%s: %s", what, errno_name(err));
	return must(w, err == wanted, "%s answers %s, not %s", what, errno_name(err), errno_name(wanted));
}

/* ------------------------------------------------------------------ looking */

static struct hf_stats stats(struct walk *w)
{
	struct hf_stats s = {0};

	did(w, hf_provider_stats(w->provider, &s, sizeof(s)), "hf_provider_stats()");
	return s;
}

/* What the kernel counts as pinned for this process, in bytes. */
static uint64_t vm_pin(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	uint64_t kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "VmPin:", 6))
			kib = strtoull(line + 6, NULL, 10);
	if (f)
		fclose(f);
	return kib << 10;
}

static void see_pins(struct walk *w)
{
	char size[16];

	seen(w, "VmPin +%s", tool_size(vm_pin() - w->unpinned, size));
}

static void pause_a_little(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static bool in_time(uint64_t start)
{
	return tool_now_ns() - start < WALK_PATIENCE_MS * 1000000ull;
}

/*
 * The cache has the one registration, and the NIC and the kernel have the pages. One that was dropped before may still
 * be on its way out: the NIC lets go on a thread of its own.
 */
static void still_cached(struct walk *w)
{
	struct hf_stats now = stats(w);
	uint64_t start = tool_now_ns();

	while (now.pinned_bytes > WALK_SIZE && in_time(start)) {
		pause_a_little();
		now = stats(w);
	}
	seen(w, "%" PRIu64 " entry cached", now.entries);
	see_pins(w);
	must(w, now.entries == 1 && now.pinned_bytes == WALK_SIZE,
	     "%" PRIu64 " entries and %" PRIu64 " bytes registered, not 1 and %d", now.entries,
	     now.pinned_bytes, WALK_SIZE);
	must(w, vm_pin() - w->unpinned >= WALK_SIZE, "the kernel has unpinned the pages");
}

static uint64_t wrong_bytes(const unsigned char *data, uint64_t seed)
{
	return perf_wrong_bytes(data, WALK_SIZE, seed, 0);
}

/* ------------------------------------------------------------------ the peer */

static struct peer_answer ask(struct walk *w, struct peer_ask *a)
{
	struct peer_answer answer = {.status = -ECONNRESET};

	if (send(w->control, a, sizeof(*a), MSG_NOSIGNAL) != sizeof(*a) ||
	    recv(w->control, &answer, sizeof(answer), 0) != sizeof(answer))
		must(w, false, "the other process is gone");
	return answer;
}

/* The peer reaches for PIECE bytes at `offset` of what the descriptor exposes. */
static struct peer_answer reach(struct walk *w, enum peer_kind kind, unsigned sock, uint64_t offset,
				const uint8_t *descriptor)
{
	struct peer_ask a = {
		.kind = kind, .sock = sock, .seed = SEED_PEER, .offset = offset, .len = PIECE};

	memcpy(a.descriptor, descriptor, HF_DESCRIPTOR_SIZE);
	return ask(w, &a);
}

static bool is_refused(struct walk *w, const char *what, struct peer_answer answer, int status)
{
	seen(w, "%s: %s", what, errno_name(answer.status));
	return must(w, answer.status == status, "%s: the peer was answered %s, not %s %s", what,
		    errno_name(answer.status), errno_name(status), answer.text);
}

static bool next_completion(struct walk *w, struct hf_completion *c)
{
	int n = hf_cq_wait(w->cq, c, 1, WALK_PATIENCE_MS);

	return did(w, n, "hf_cq_wait()") && must(w, n == 1, "nothing has completed");
}

/* ------------------------------------------------------------------ connecting */

int walk_open(struct walk *w)
{
	char address[64];
	void *map = mmap(NULL, WALK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return -errno;
	w->data = map;
	snprintf(address, sizeof(address), "unix:@holdfast-walk-%d", (int)getpid());
	return hf_listen(w->provider, address, NULL, &w->listener);
}

void walk_close(struct walk *w)
{
	if (w->held.entry)
		hf_put(w->provider, &w->held);
	if (w->secured)
		hf_unsecure(w->sw, w->secured);
	for (unsigned i = 0; i < WALK_SOCKS; i++)
		hf_sock_close(w->sock[i]);
	hf_sock_close(w->listener);
	hf_cq_close(w->cq);
	hf_provider_close(w->provider);
	hf_switch_close(w->sw);
}

/* The peer connects in one call while this side accepts: what is made waits to be taken. */
static void connect_peer(struct walk *w, unsigned sock, unsigned count)
{
	struct peer_ask a = {.kind = PEER_CONNECT, .sock = sock, .count = count};
	struct peer_answer answer = {.status = -ECONNRESET};
	struct hf_sock_info info = {0};

	did(w, hf_sock_info(w->listener, &info, sizeof(info)), "hf_sock_info()");
	memcpy(a.address, info.local, sizeof(a.address));
	must(w, send(w->control, &a, sizeof(a), MSG_NOSIGNAL) > 0, "the other process is gone");
	for (unsigned i = sock; i < sock + count && !*w->wrong; i++)
		did(w, hf_accept(w->listener, w->cq, WALK_PATIENCE_MS, &w->sock[i]), "hf_accept()");
	if (recv(w->control, &answer, sizeof(answer), 0) > 0 && answer.status)
		w->wrong[0] = 0; /* its reason is the better one */
	must(w, !answer.status, "the peer: %s", answer.text);
}

/* The NIC has refused the peer something on it. By queue pairs that has ended it, and another one takes its place. */
static void after_refusal(struct walk *w, unsigned sock)
{
	if (!w->by_qp)
		return;
	did(w, hf_sock_close(w->sock[sock]), "hf_sock_close()");
	w->sock[sock] = NULL;
	connect_peer(w, sock, 1);
	seen(w, "that ends it; connected again");
}

static void step_connect(struct walk *w)
{
	struct hf_sock_info info = {0};

	connect_peer(w, 0, WALK_SOCKS);
	if (*w->wrong)
		return;
	did(w, hf_sock_info(w->sock[0], &info, sizeof(info)), "hf_sock_info()");
	seen(w, "process %d of user %u", (int)info.peer_pid, (unsigned)info.peer_uid);
	seen(w, "over %s", info.local);
	must(w, info.peer_pid == w->peer && info.peer_uid == geteuid(), "it is not the process forked");
}

/* ------------------------------------------------------------------ registering */

static bool reg(struct walk *w, unsigned which)
{
	return did(w, hf_mr_reg(w->sock[0], w->data, WALK_SIZE, HF_READWRITE, &w->mr[which]),
		   "hf_mr_reg()");
}

static void dereg(struct walk *w, unsigned which)
{
	if (w->mr[which])
		did(w, hf_mr_dereg(w->sock[0], w->mr[which]), "hf_mr_dereg()");
	w->mr[which] = 0;
}

/* By a get of its own, which is a hit. */
static void see_key(struct walk *w)
{
	struct hf_region r;

	if (!did(w, hf_get(w->provider, w->data, WALK_SIZE, HF_READWRITE, &r), "hf_get()"))
		return;
	seen(w, "the NIC's key is %" PRIu64, r.lkey);
	did(w, hf_put(w->provider, &r), "hf_put()");
}

/*
 * Until every thread was seen outside of a call that may still be changing the range, it is registered for one use
 * only (I6), and not secured to be told. That is short here: try again.
 */
static bool in_short_time(uint64_t start)
{
	pause_a_little();
	return tool_now_ns() - start < 2000000000u;
}

/* A NIC may take memory for itself by the first hf_peek(): that is no pin of the buffer's. */
static void peek_once(struct walk *w)
{
	uint64_t start = tool_now_ns();
	struct hf_region r;
	char here = 1, seen_here = 0;

	if (!did(w, hf_get(w->provider, &here, 1, HF_READ, &r), "hf_get()"))
		return;
	hf_peek(&r, &here, &seen_here, 1); /* not every NIC can */
	did(w, hf_put(w->provider, &r), "hf_put()");
	hf_flush(w->provider);
	while (stats(w).pinned_bytes && in_time(start))
		pause_a_little();
}

static void step_register(struct walk *w)
{
	struct hf_stats before, after;
	uint64_t start;

	perf_fill(w->data, WALK_SIZE, SEED, 0, false);
	peek_once(w);
	before = stats(w);
	start = tool_now_ns();
	w->unpinned = vm_pin();
	if (!reg(w, 0))
		return;
	for (after = stats(w); after.uncached > before.uncached && in_short_time(start); after = stats(w)) {
		before = after;
		dereg(w, 0);
		reg(w, 0);
	}
	seen(w, "%" PRIu64 " miss", after.misses - before.misses);
	must(w, after.misses - before.misses == 1 && after.hits == before.hits, "it is no miss");
	still_cached(w);
	see_key(w);
}

static void step_again(struct walk *w)
{
	struct hf_stats before = stats(w), after;

	if (!reg(w, 1))
		return;
	after = stats(w);
	seen(w, "%" PRIu64 " hit, another handle", after.hits - before.hits);
	must(w, after.hits - before.hits == 1 && after.misses == before.misses, "it is no hit");
	must(w, w->mr[1] != w->mr[0], "the two handles are the same");
	still_cached(w);
}

static void step_foreign(struct walk *w)
{
	struct hf_segment seg = {w->data, WALK_SIZE, w->mr[0]};

	answers(w, "send there", hf_post_send(w->sock[1], &seg, 1, NULL), -EINVAL);
	answers(w, "deregister there", hf_mr_dereg(w->sock[1], w->mr[0]), -EINVAL);
}

static void step_unmapped(struct walk *w)
{
	struct hf_stats before = stats(w);
	uint64_t mr;
	void *hole = (void *)sysconf(_SC_PAGESIZE); /* below vm.mmap_min_addr: another thread never maps it in between */

	answers(w, "hf_mr_reg()", hf_mr_reg(w->sock[0], hole, WALK_SIZE, HF_READ, &mr), -EFAULT);
	must(w, stats(w).entries == before.entries, "and yet something is cached");
}

/* ------------------------------------------------------------------ transferring */

static bool peer_receives(struct walk *w, uint64_t seed)
{
	struct peer_ask a = {.kind = PEER_RECEIVE, .seed = seed, .len = WALK_SIZE};
	struct peer_answer answer = ask(w, &a);

	seen(w, "the peer got %" PRIu64 " bytes, %" PRIu64 " wrong", answer.bytes, answer.wrong);
	must(w, !answer.status, "the peer's receive: %s", answer.text);
	return must(w, answer.bytes == WALK_SIZE && !answer.wrong, "the peer got %" PRIu64 " bytes, %" PRIu64
		    " of them wrong", answer.bytes, answer.wrong);
}

static bool completes_once(struct walk *w, enum hf_op op)
{
	struct hf_completion c, more;

	if (!next_completion(w, &c))
		return false;
	return must(w, c.op == op && !c.status && c.bytes == WALK_SIZE && !hf_cq_poll(w->cq, &more, 1),
		    "it has not completed once with %d bytes: %s", WALK_SIZE, hf_completion_text(&c));
}

static void step_send(struct walk *w)
{
	struct hf_segment seg = {w->data, WALK_SIZE, w->mr[0]};
	struct hf_completion c;

	if (w->sabotage == SABOTAGE_BYTES)
		w->data[WALK_SIZE / 3] ^= 1;
	if (!did(w, hf_post_send(w->sock[0], &seg, 1, NULL), "hf_post_send()"))
		return;
	seen(w, "pending until the peer has posted a receive");
	must(w, hf_cq_poll(w->cq, &c, 1) == 0, "it has completed before the peer posted a receive");
	if (peer_receives(w, SEED) && completes_once(w, HF_OP_SEND))
		seen(w, "completed once");
}

static void step_busy(struct walk *w)
{
	struct hf_segment seg = {w->data, WALK_SIZE, w->mr[0]};
	struct peer_ask a = {.kind = PEER_SEND, .seed = SEED_PEER, .len = WALK_SIZE};

	if (!did(w, hf_post_recv(w->sock[0], &seg, 1, NULL), "hf_post_recv()"))
		return;
	answers(w, "hf_mr_dereg()", hf_mr_dereg(w->sock[0], w->mr[0]), -EBUSY);
	must(w, !ask(w, &a).status, "the peer can't send");
	if (!*w->wrong && completes_once(w, HF_OP_RECV))
		seen(w, "then received: %" PRIu64 " wrong bytes", wrong_bytes(w->data, SEED_PEER));
	must(w, !wrong_bytes(w->data, SEED_PEER), "what was received is wrong");
}

/* ------------------------------------------------------------------ letting go */

static void step_dereg(struct walk *w)
{
	uint64_t was = w->mr[0];

	dereg(w, 0);
	dereg(w, 1);
	answers(w, "once more", hf_mr_dereg(w->sock[0], was), -EINVAL);
	still_cached(w);
}

static void step_hit(struct walk *w)
{
	struct hf_stats before = stats(w), after;
	uint64_t from = tool_now_ns(), ns;

	reg(w, 0);
	ns = tool_now_ns() - from;
	dereg(w, 0);
	after = stats(w);
	seen(w, "%" PRIu64 " hit, %" PRIu64 " misses, %.1f us", after.hits - before.hits,
	     after.misses - before.misses, (double)ns / 1e3);
	must(w, after.hits - before.hits == 1 && after.misses == before.misses, "it is no hit");
}

/* ------------------------------------------------------------------ lending */

static bool expose(struct walk *w)
{
	size_t length = HF_DESCRIPTOR_SIZE;
	int err = hf_mr_expose(w->sock[0], w->data, LENT, HF_WRITE, w->descriptor, &length, &w->exposed);

	return did(w, err, "hf_mr_expose()");
}

static void step_expose(struct walk *w)
{
	size_t length = 0;
	int err = hf_mr_expose(w->sock[0], w->data, LENT, HF_WRITE, w->descriptor, &length, &w->exposed);

	seen(w, "with no room: %s, needs %zu bytes", errno_name(err), length);
	must(w, err == -ENOSPC && length == HF_DESCRIPTOR_SIZE, "that is not -ENOSPC and %d",
	     HF_DESCRIPTOR_SIZE);
	if (expose(w))
		seen(w, "then a descriptor");
}

static void step_write(struct walk *w)
{
	struct peer_answer answer;
	uint64_t inside, around;

	perf_fill(w->data, WALK_SIZE, SEED, 0, false);
	answer = reach(w, PEER_WRITE, 0, PIECE_AT, w->descriptor);
	must(w, !answer.status, "the peer's write: %s", answer.text);
	inside = perf_wrong_bytes(w->data + PIECE_AT, PIECE, SEED_PEER, 0);
	perf_fill(w->data + PIECE_AT, PIECE, SEED_PEER, 0, false); /* known, to look at the rest */
	around = wrong_bytes(w->data, SEED);
	around -= perf_wrong_bytes(w->data, PIECE_AT + PIECE, SEED, 0) -
		  perf_wrong_bytes(w->data, PIECE_AT, SEED, 0);
	seen(w, "4 KiB at 8 KiB: %" PRIu64 " wrong bytes", inside);
	seen(w, "%" PRIu64 " changed around it", around);
	must(w, !inside && !around, "the peer has not written just these bytes");
}

static void step_no_more(struct walk *w)
{
	perf_fill(w->data, WALK_SIZE, SEED, 0, false);
	is_refused(w, "read", reach(w, PEER_READ, 0, 0, w->descriptor), -EACCES);
	is_refused(w, "one byte off the end", reach(w, PEER_WRITE, 0, LENT - PIECE + 1, w->descriptor),
		   -ERANGE);
	is_refused(w, "by the other connection", reach(w, PEER_WRITE, 1, 0, w->descriptor), -EACCES);
	after_refusal(w, 1);
	must(w, !wrong_bytes(w->data, SEED), "and yet bytes have changed");
}

static void step_revoke(struct walk *w)
{
	uint64_t from = tool_now_ns();

	if (w->sabotage != SABOTAGE_REVOKE)
		did(w, hf_mr_dereg(w->sock[0], w->exposed), "hf_mr_dereg()");
	seen(w, "hf_mr_dereg() took %.1f us", (double)(tool_now_ns() - from) / 1e3);
	is_refused(w, "the peer writes", reach(w, PEER_WRITE, 0, 0, w->descriptor), -EACCES);
	after_refusal(w, 0);
	must(w, !wrong_bytes(w->data, SEED), "and yet bytes have changed");
	still_cached(w);
}

static void step_expose_again(struct walk *w)
{
	struct hf_stats before = stats(w), after;
	uint8_t old[HF_DESCRIPTOR_SIZE];
	struct peer_answer answer;

	memcpy(old, w->descriptor, sizeof(old));
	if (!expose(w))
		return;
	after = stats(w);
	seen(w, "%" PRIu64 " hit", after.hits - before.hits);
	must(w, after.hits > before.hits && after.misses == before.misses, "it was registered again");
	is_refused(w, "the old descriptor", reach(w, PEER_WRITE, 0, 0, old), -EACCES);
	after_refusal(w, 0);
	if (w->by_qp && !expose(w)) /* the other one went with its connection */
		return;
	answer = reach(w, PEER_WRITE, 0, 0, w->descriptor);
	seen(w, "the new one: %s", errno_name(answer.status));
	must(w, !answer.status, "the new descriptor is refused: %s", answer.text);
	did(w, hf_mr_dereg(w->sock[0], w->exposed), "hf_mr_dereg()");
}

/* ------------------------------------------------------------------ owning */

static void on_change(void *arg, void *addr, size_t len)
{
	struct told *told = arg;

	if (atomic_load(&told->times))
		return;
	told->at_ns = tool_now_ns();
	told->addr = addr;
	told->len = len;
	atomic_store(&told->times, 1);
}

static void step_deny(struct walk *w)
{
	unsigned flags = w->sabotage == SABOTAGE_DENY ? HF_READWRITE | HF_NOTIFY : HF_READWRITE | HF_DENY;

	perf_fill(w->data, WALK_SIZE, SEED, 0, false);
	if (did(w, hf_secure(w->sw, w->data, WALK_SIZE, flags, NULL, NULL, &w->secured), "hf_secure()"))
		seen(w, "secured, with the handle %#" PRIx64, w->secured);
}

/* A system call that must be refused, with `wanted` where the proxy says with what. */
static void refused_call(struct walk *w, const char *what, bool failed, int err, int wanted)
{
	if (w->seal)
		wanted = EPERM;
	seen(w, "%s: %s", what, failed ? errno_name(-err) : "done");
	must(w, failed && err == wanted, "%s is not refused with %s", what, errno_name(-wanted));
}

static void step_refused(struct walk *w)
{
	int rights = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	bool failed;

	failed = munmap(w->data, WALK_SIZE);
	refused_call(w, "munmap", failed, errno, EBUSY);
	if (*w->wrong)
		return;
	failed = mmap(w->data + PIECE, PIECE, rights, flags, -1, 0) == MAP_FAILED;
	refused_call(w, "mmap over a page of it", failed, errno, EBUSY);
	failed = mremap(w->data, WALK_SIZE, PIECE, 0) == MAP_FAILED;
	refused_call(w, "mremap", failed, errno, EBUSY);
	if (!w->seal) {
		failed = madvise(w->data, WALK_SIZE, MADV_DONTNEED);
		refused_call(w, "MADV_DONTNEED", failed, errno, EBUSY);
	}
	failed = mprotect(w->data, WALK_SIZE, PROT_READ);
	refused_call(w, "mprotect to read-only", failed, errno, EACCES);
	if (must(w, !*w->wrong && !wrong_bytes(w->data, SEED), "bytes have changed"))
		seen(w, "every byte is still there");
}

/* The child's answer is its exit code. */
static void step_child(struct walk *w)
{
	int status = 0, err;
	bool failed;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child)
		_exit(hf_unsecure(w->sw, w->secured) == -EOWNERDEAD ? 0 : 1);
	must(w, child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status), "no child");
	err = WEXITSTATUS(status) ? 0 : -EOWNERDEAD;
	answers(w, "hf_unsecure() in a forked child", err, -EOWNERDEAD);
	if (*w->wrong)
		return;
	failed = munmap(w->data, WALK_SIZE);
	refused_call(w, "munmap here", failed, errno, EBUSY);
}

static void step_unsecure(struct walk *w)
{
	uint64_t id = w->secured, before = stats(w).invalidations;

	w->secured = 0;
	did(w, hf_unsecure(w->sw, id), "hf_unsecure()");
	answers(w, "once more", hf_unsecure(w->sw, id), -EINVAL);
	must(w, !mprotect(w->data, WALK_SIZE, PROT_READ) &&
			!mprotect(w->data, WALK_SIZE, PROT_READ | PROT_WRITE),
	     "mprotect: %s", strerror(errno));
	if (*w->wrong)
		return;
	seen(w, "mprotect to read-only and back: done");
	seen(w, "%" PRIu64 " invalidated", stats(w).invalidations - before);
}

/* ------------------------------------------------------------------ freeing */

static void step_hold(struct walk *w)
{
	uint64_t start = tool_now_ns();
	int err;

	perf_fill(w->data, WALK_SIZE, SEED, 0, false);
	do
		err = hf_secure(w->sw, w->data, WALK_SIZE, HF_READWRITE | HF_NOTIFY, on_change, &w->told,
				&w->secured);
	while (err == -EAGAIN && in_short_time(start));
	did(w, err, "hf_secure()");
	did(w, hf_get(w->provider, w->data, WALK_SIZE, HF_READWRITE, &w->held), "hf_get()");
	if (*w->wrong)
		return;
	seen(w, "held, key %" PRIu64, w->held.lkey);
	still_cached(w);
}

/* One page from the middle: it intersects, and that is enough (R33). */
static void step_free(struct walk *w)
{
	unsigned char *page = w->data + 5 * PIECE;
	struct hf_stats before = stats(w), after;
	uint64_t done, start;

	if (w->must_tell)
		hf_invalidate(w->sw, page, PIECE);
	must(w, !munmap(page, PIECE), "munmap: %s", strerror(errno));
	done = start = tool_now_ns();
	while (!atomic_load(&w->told.times) && in_time(start))
		pause_a_little();
	if (!must(w, atomic_load(&w->told.times), "the callback was not called"))
		return;
	seen(w, "told of %zu bytes at +%zu %.1f us %s munmap ended", w->told.len,
	     (size_t)((unsigned char *)w->told.addr - w->data),
	     (double)(w->told.at_ns > done ? w->told.at_ns - done : done - w->told.at_ns) / 1e3,
	     w->told.at_ns > done ? "after" : "before");
	must(w, (unsigned char *)w->told.addr <= page &&
			(unsigned char *)w->told.addr + w->told.len >= page + PIECE,
	     "told of another place than the page that went");
	after = stats(w);
	while (after.entries && in_time(start)) {
		pause_a_little();
		after = stats(w);
	}
	seen(w, "%" PRIu64 " entries, %" PRIu64 " invalidated", after.entries,
	     after.invalidations - before.invalidations);
	must(w, !after.entries && after.invalidations - before.invalidations == 1,
	     "the whole entry is not gone");
}

static void step_held(struct walk *w)
{
	static unsigned char bytes[WALK_SIZE];
	uint64_t wrong;

	did(w, hf_peek(&w->held, w->data, bytes, WALK_SIZE), "hf_peek()");
	wrong = wrong_bytes(bytes, SEED);
	seen(w, "through key %" PRIu64 ": %" PRIu64 " wrong bytes", w->held.lkey, wrong);
	see_pins(w);
	must(w, !wrong, "the held pages have other bytes");
	must(w, vm_pin() - w->unpinned >= WALK_SIZE, "the kernel has unpinned what is held");
}

static void await_unpinned(struct walk *w)
{
	uint64_t start = tool_now_ns();

	while ((stats(w).pinned_bytes || vm_pin() > w->unpinned) && in_time(start))
		pause_a_little();
	see_pins(w);
	seen(w, "%" PRIu64 " bytes registered", stats(w).pinned_bytes);
	must(w, !stats(w).pinned_bytes, "the NIC still has it");
	must(w, vm_pin() <= w->unpinned, "the kernel still has pages pinned");
}

static void step_put(struct walk *w)
{
	did(w, hf_put(w->provider, &w->held), "hf_put()");
	await_unpinned(w);
	did(w, hf_unsecure(w->sw, w->secured), "hf_unsecure()");
	w->secured = 0;
}

/* ------------------------------------------------------------------ the address again */

static void step_map_again(struct walk *w)
{
	void *map;

	must(w, !munmap(w->data, WALK_SIZE), "munmap: %s", strerror(errno));
	map = mmap(w->data, WALK_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (!must(w, map == w->data, "the address is in use: %s", strerror(errno)))
		return;
	perf_fill(w->data, WALK_SIZE, SEED_NEW, 0, false);
	seen(w, "%p again, other pages, new bytes", map);
}

static void step_fresh(struct walk *w)
{
	static unsigned char bytes[WALK_SIZE];
	struct hf_stats before = stats(w), after;
	struct hf_region r;
	uint64_t wrong, start = tool_now_ns();

	if (!did(w, hf_get(w->provider, w->data, WALK_SIZE, HF_READWRITE, &r), "hf_get()"))
		return;
	while (!*w->wrong && !(r.flags & HF_REGION_CACHED) && in_short_time(start)) {
		did(w, hf_put(w->provider, &r), "hf_put()");
		did(w, hf_get(w->provider, w->data, WALK_SIZE, HF_READWRITE, &r), "hf_get()");
	}
	after = stats(w);
	did(w, hf_peek(&r, w->data, bytes, WALK_SIZE), "hf_peek()");
	wrong = wrong_bytes(bytes, SEED_NEW);
	seen(w, "%" PRIu64 " miss, %" PRIu64 " hits", after.misses - before.misses, after.hits - before.hits);
	seen(w, "through key %" PRIu64 ": %" PRIu64 " wrong bytes", r.lkey, wrong);
	did(w, hf_put(w->provider, &r), "hf_put()");
	must(w, !wrong, "the NIC has %" PRIu64 " bytes of the old pages", wrong);
	must(w, after.misses - before.misses == 1 && after.hits == before.hits, "it was not registered anew");
}

static void step_send_again(struct walk *w)
{
	struct hf_segment seg = {.addr = w->data, .len = WALK_SIZE};

	if (!reg(w, 0))
		return;
	seg.mr = w->mr[0];
	did(w, hf_post_send(w->sock[0], &seg, 1, NULL), "hf_post_send()");
	if (!*w->wrong && peer_receives(w, SEED_NEW))
		completes_once(w, HF_OP_SEND);
}

/* ------------------------------------------------------------------ leaving */

static void step_close(struct walk *w)
{
	struct hf_segment seg = {w->data, WALK_SIZE, w->mr[0]};
	struct hf_completion c;

	if (!did(w, hf_post_recv(w->sock[0], &seg, 1, NULL), "hf_post_recv()"))
		return;
	did(w, hf_sock_close(w->sock[0]), "hf_sock_close()");
	w->sock[0] = NULL;
	w->mr[0] = 0;
	if (!next_completion(w, &c))
		return;
	seen(w, "a receive that was pending: %s", errno_name(c.status));
	must(w, c.status == -ECANCELED, "a pending receive ends with %s", errno_name(c.status));
	still_cached(w);
}

static void step_flush(struct walk *w)
{
	did(w, hf_flush(w->provider), "hf_flush()");
	await_unpinned(w);
}

/* ------------------------------------------------------------------ the walk */

const struct step walk_steps[] = {
	{"Another process", "R10 R16", "It connects, twice", step_connect, 0},
	{"Registering", "R1 R24", "The first time: the NIC pins the pages", step_register, 0},
	{NULL, "R5", "The same buffer again", step_again, 0},
	{NULL, "R4", "Its handle on the other connection", step_foreign, 0},
	{NULL, "R1", "Memory that is not mapped", step_unmapped, 0},
	{"Transferring", "R3 R47 R48", "Send; the peer receives later", step_send, 0},
	{NULL, "R3 R6", "Deregister while a receive is pending", step_busy, 0},
	{"Letting go, and having again", "R7 R22", "The last deregistration leaves it cached", step_dereg, 0},
	{NULL, "R24", "Registered again: nothing to do", step_hit, 0},
	{"Lending to the peer, and taking back", "R8 R9", "Expose the first half, for writing", step_expose, 0},
	{NULL, "R10 R12", "The peer writes to it", step_write, 0},
	{NULL, "R15 R17", "The peer reaches for more", step_no_more, 0},
	{NULL, "R11 R28", "Deregister: access ends, cached it stays", step_revoke, 0},
	{NULL, "R30", "Expose again", step_expose_again, 0},
	{"Owning the memory", "R37", "Secure: no change without consent", step_deny, NEEDS_DENY},
	{NULL, "R36 R37", "The program tries to change it", step_refused, NEEDS_DENY},
	{NULL, "R39", "A forked child tries to release it", step_child, NEEDS_DENY},
	{NULL, "R34 R37", "Release it: now it may change", step_unsecure, NEEDS_DENY},
	{"Freeing it under the NIC's hands", "R25 R37", "Secure to be told; hold the registration", step_hold,
	 0},
	{NULL, "R25 R33", "Free one page of it", step_free, 0},
	{NULL, "R22 I2", "What is held keeps its pages", step_held, 0},
	{NULL, "R26", "Let go: the NIC and the kernel do, too", step_put, 0},
	{"The address again", "I1", "Free the rest; map the same address", step_map_again, 0},
	{NULL, "R26 I1", "Register: a fresh registration", step_fresh, 0},
	{NULL, "R3 I1", "Send: the peer gets the new bytes", step_send_again, 0},
	{"Leaving", "R27 R45", "Close the connection", step_close, 0},
	{NULL, "R44", "Flush the cache: nothing is left", step_flush, 0},
};

const unsigned walk_steps_count = sizeof(walk_steps) / sizeof(walk_steps[0]);
