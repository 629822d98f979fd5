/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Two machines move memory through each other's by SAN sockets, and the process of one is killed (SIGKILL) in the midst:
 *
 *   kill_test NIC survivor|victim listen|connect tcp:ADDRESS:PORT SECRET-FILE
 *
 * It runs on both, as the one and the other; in a guest, as root. "ok - WHAT" and "not ok - WHAT", and the exit status.
 *
 *   survivor                                        victim (a process, and its parent, which kills it)
 *   two connections; on the first ROUNDS times both: RDMA write, a message, RDMA read back, every byte compared
 *   posts: a receive on both, writes, a send, a     writes for ever
 *   read; then, on the second one, a write: the
 *   bell                             ────────────►  hears it: tells the parent ─────► kill -9
 *   each post completes once, the receives, the
 *   send and the read with an error; the peer's
 *   access has ended; closed, no page is pinned
 *
 * The victim posts no receive any more: so the send can't be done, nor the read behind it. At the time of the kill both have
 * moved memory both ways and have something under way, however slow either is.
 */
#include <errno.h>
#include <fcntl.h>
#include <holdfast/san.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 4 /* even: then data[0] is the last one's */
#define PATIENCE_MS 180000 /* for what must come: two emulated machines, which may be one busy processor's */
#define DATA (128u << 10)  /* bytes of a write, and of a read */
#define PAGE 4096u
#define RUNG 0x5a
#define WRITES 4 /* of the survivor, at the end */

/* The memory of each. The peer reaches `exposed` and nothing else. */
struct memory {
	unsigned char in[PAGE], out[PAGE]; /* messages */
	unsigned char from[DATA], back[DATA];
	struct exposed {
		unsigned char data[2][DATA]; /* of even and odd rounds: the peer may be one ahead */
		unsigned char bell[PAGE];
	} exposed;
};

struct way {
	struct hf_sock *s;
	uint64_t mr, exposed_mr;
	unsigned char theirs[HF_DESCRIPTOR_SIZE];
};

struct side {
	const char *nic, *address, *secret_file;
	bool listens;
	int tell; /* the victim: a pipe to its parent */
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_cq *cq;
	struct hf_sock *listener;
	struct memory *mem;
	struct way first, second;
};

/* ------------------------------------------------------------------ telling */

static int bad;

static bool told(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool told(bool ok, const char *format, ...)
{
	va_list args;

	printf("%s - ", ok ? "ok" : "not ok");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	bad += !ok;
	return ok;
}

/* What the rest stands on. */
static void need(bool good, const char *what)
{
	if (!good)
		exit(!told(false, "%s", what));
}

#define MUST(call)                                                                                   \
	do {                                                                                         \
		int must_ = (call);                                                                  \
		if (must_ < 0)                                                                       \
			exit(!told(false, "line %d: " #call ": %d, %s", __LINE__, must_, hf_error())); \
	} while (0)

/* ------------------------------------------------------------------ memory and patterns */

static unsigned char pattern(bool listener, unsigned round, size_t i)
{
	return (unsigned char)((i * 2654435761u >> 13) ^ round * 29u ^ (listener ? 0x80 : 0));
}

static void fill(struct side *d, unsigned round)
{
	for (size_t i = 0; i < DATA; i++)
		d->mem->from[i] = pattern(d->listens, round, i);
}

static size_t wrong_bytes(const unsigned char *at, bool listener, unsigned round)
{
	size_t wrong = 0;

	for (size_t i = 0; i < DATA; i++)
		wrong += at[i] != pattern(listener, round, i);
	return wrong;
}

static long vmstat(const char *name)
{
	FILE *f = fopen("/proc/vmstat", "re");
	char key[64];
	long value, found = 0;

	while (f && fscanf(f, "%63s %ld", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	if (f)
		fclose(f);
	return found;
}

/* Pages of this machine that are pinned now; the counts are kept per processor, and a write adds them up (as root). */
static long pinned(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

	need(fd >= 0 && write(fd, "1", 1) == 1, "can't write to /proc/sys/vm/stat_refresh");
	close(fd);
	return vmstat("nr_foll_pin_acquired") - vmstat("nr_foll_pin_released");
}

/* ------------------------------------------------------------------ operations */

static int post_receive(struct side *d, struct way *w)
{
	struct hf_segment seg = { d->mem->in, PAGE, w->mr };

	return hf_post_recv(w->s, &seg, 1, NULL);
}

static int post_send(struct side *d, struct way *w, size_t len)
{
	struct hf_segment seg = { d->mem->out, len, w->mr };

	return hf_post_send(w->s, &seg, 1, NULL);
}

/* To the peer's struct exposed. */
static int post_write(struct way *w, void *from, size_t len, size_t offset)
{
	struct hf_segment seg = { from, len, w->mr };

	return hf_post_write(w->s, &seg, 1, w->theirs, sizeof(w->theirs), offset, NULL);
}

static int post_read(struct side *d, struct way *w, size_t offset)
{
	struct hf_segment seg = { d->mem->back, DATA, w->mr };

	return hf_post_read(w->s, &seg, 1, w->theirs, sizeof(w->theirs), offset, NULL);
}

/* `n` completions, all good. */
static void finish(struct side *d, unsigned n)
{
	struct hf_completion c;

	while (n--) {
		need(hf_cq_wait(d->cq, &c, 1, PATIENCE_MS) == 1, "nothing has completed for a long time");
		need(c.status == 0, hf_completion_text(&c));
	}
}

/* ------------------------------------------------------------------ the connection */

static void open_all(struct side *d)
{
	d->mem = mmap(NULL, sizeof(*d->mem), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	need(d->mem != MAP_FAILED, "no memory");
	MUST(hf_switch_open("proxy=uffd", &d->sw));
	MUST(hf_provider_open(d->sw, d->nic, NULL, &d->p));
	MUST(hf_cq_open(&d->cq));
}

static int reach(struct side *d, const char *options, struct hf_sock **s)
{
	int rc = -ETIMEDOUT;

	for (int tries = 0; tries < PATIENCE_MS / 50; tries++) {
		rc = hf_connect(d->p, d->address, options, d->cq, PATIENCE_MS, s);
		if (rc != -ECONNREFUSED) /* it doesn't listen yet */
			break;
		usleep(50000);
	}
	return rc;
}

static void join(struct side *d)
{
	char options[256];

	snprintf(options, sizeof(options), "secret_file=%s", d->secret_file);
	if (d->listens) {
		MUST(hf_listen(d->p, d->address, options, &d->listener));
		MUST(hf_accept(d->listener, d->cq, PATIENCE_MS, &d->first.s));
		MUST(hf_accept(d->listener, d->cq, PATIENCE_MS, &d->second.s));
	} else {
		MUST(reach(d, options, &d->first.s));
		MUST(reach(d, options, &d->second.s));
	}
}

static void exchange_descriptors(struct side *d, struct way *w)
{
	struct exposed *e = &d->mem->exposed;
	size_t length = PAGE;

	MUST(hf_mr_reg(w->s, d->mem, sizeof(*d->mem), HF_READWRITE, &w->mr));
	MUST(hf_mr_expose(w->s, e, sizeof(*e), HF_READWRITE, d->mem->out, &length, &w->exposed_mr));
	MUST(post_receive(d, w));
	MUST(post_send(d, w, length));
	finish(d, 2);
	memcpy(w->theirs, d->mem->in, sizeof(w->theirs));
}

/* The message comes behind the write: when it is here, that is, too. */
static void do_round(struct side *d, struct way *w, unsigned round)
{
	unsigned half = round % 2;
	size_t offset = offsetof(struct exposed, data[half]);

	fill(d, round);
	d->mem->out[0] = (unsigned char)round;
	MUST(post_receive(d, w));
	MUST(post_write(w, d->mem->from, DATA, offset));
	MUST(post_send(d, w, 1));
	finish(d, 3);
	need(d->mem->in[0] == round, "the message is of another round");
	need(!wrong_bytes(d->mem->exposed.data[half], !d->listens, round), "what the peer wrote here is wrong");
	MUST(post_read(d, w, offset));
	finish(d, 1);
	need(!wrong_bytes(d->mem->back, d->listens, round), "what was read back is wrong");
}

static void work(struct side *d)
{
	open_all(d);
	join(d);
	exchange_descriptors(d, &d->first);
	exchange_descriptors(d, &d->second);
	for (unsigned round = 1; round <= ROUNDS; round++)
		do_round(d, &d->first, round);
}

/* ------------------------------------------------------------------ the victim */

/* Two writes are always under way: the bytes of the last round again, which the peer may still be comparing. */
static void write_for_ever(struct side *d)
{
	const volatile unsigned char *bell = d->mem->exposed.bell;
	bool told_parent = false;

	MUST(post_write(&d->first, d->mem->from, DATA, 0));
	for (;;) {
		MUST(post_write(&d->first, d->mem->from, DATA, 0));
		finish(d, 1);
		if (told_parent || *bell != RUNG)
			continue;
		need(write(d->tell, "!", 1) == 1, "the parent is gone");
		told_parent = true;
	}
}

static int kill_it(struct side *d)
{
	int ends[2], status;
	char word;
	pid_t pid;

	need(!pipe2(ends, O_CLOEXEC), "no pipe");
	fflush(NULL);
	pid = fork();
	if (!pid) { /* the parent has opened nothing: there is nothing that outlives this one */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		d->tell = ends[1];
		work(d);
		write_for_ever(d);
	}
	close(ends[1]);
	if (read(ends[0], &word, 1) == 1) /* else it ended before, and says why */
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	told(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: kill -9 of who %s, in the midst of it", d->nic,
	     d->listens ? "listens" : "connects");
	return bad != 0;
}

/* ------------------------------------------------------------------ the survivor */

static bool may_be(const struct side *d, const struct hf_completion *c)
{
	switch (c->op) {
	case HF_OP_SEND:
	case HF_OP_RECV:
		return c->status == -ECONNRESET;
	default: /* by queue pairs a right may go before the stream */
		return c->status == -ECONNRESET || (c->op == HF_OP_WRITE && !c->status) ||
		       (c->status == -EACCES && strncmp(d->nic, "verbs", 5) == 0);
	}
}

/* As many as were posted, each with a status that san.h names (R47). How many were cut off. */
static unsigned completions(struct side *d, unsigned posted)
{
	struct hf_completion c;
	unsigned cut = 0;

	for (unsigned i = 0; i < posted; i++) {
		need(hf_cq_wait(d->cq, &c, 1, PATIENCE_MS) == 1, "an operation never completes");
		if (!may_be(d, &c))
			told(false, "operation %u ended with %d: %s", c.op, c.status, hf_completion_text(&c));
		cut += c.status != 0;
	}
	return cut;
}

/* How many. The last one is the bell: when it has rung, all are posted. */
static unsigned post_the_last(struct side *d)
{
	memset(d->mem->out, RUNG, PAGE);
	MUST(post_receive(d, &d->first));
	MUST(post_receive(d, &d->second));
	for (int i = 0; i < WRITES; i++)
		MUST(post_write(&d->first, d->mem->from, DATA, 0));
	MUST(post_send(d, &d->first, 1));
	MUST(post_read(d, &d->first, 0));
	MUST(post_write(&d->second, d->mem->out, PAGE, offsetof(struct exposed, bell)));
	return WRITES + 5;
}

/* R16: what was exposed is so no more when the connection is over. */
static void is_over(struct side *d, struct way *w, const char *which)
{
	struct hf_sock_info info;
	int rc = post_send(d, w, 1);

	MUST(hf_sock_info(w->s, &info, sizeof(info)));
	told(!info.connected && info.error == -ECONNRESET && rc == -ECONNRESET,
	     "%s: the %s connection is over: %d; another post: %d", d->nic, which, info.error, rc);
	told(info.exposures == 0 && !hf_mr_dereg(w->s, w->exposed_mr),
	     "%s: on it %ju descriptors are valid; what was exposed can be given back", d->nic, (uintmax_t)info.exposures);
}

/* R44; what was registered for local use is left to hf_sock_close(). */
static void nothing_is_left(struct side *d)
{
	struct hf_completion c;
	struct hf_stats st;
	long pages;
	int rc = hf_sock_close(d->first.s) | hf_sock_close(d->second.s) | hf_sock_close(d->listener);

	told(!rc && !hf_cq_poll(d->cq, &c, 1), "%s: closed; nothing has completed twice", d->nic);
	rc = hf_cq_close(d->cq);
	hf_flush(d->p);
	MUST(hf_provider_stats(d->p, &st, sizeof(st)));
	told(!rc && !st.pinned_bytes && !st.dead_held, "%s: %ju bytes are registered, %ju regions held", d->nic,
	     (uintmax_t)st.pinned_bytes, (uintmax_t)st.dead_held);
	rc = hf_provider_close(d->p) | hf_switch_close(d->sw);
	for (int i = 0; (pages = pinned()) && i < PATIENCE_MS / 20; i++)
		usleep(20000); /* an io_uring that is closed lets its pages go a little later */
	told(!rc && !pages, "%s: %ld pages of this machine are pinned", d->nic, pages);
}

static int survive(struct side *d)
{
	const char *them = d->listens ? "connects" : "listens";
	struct hf_sock_info info;
	struct hf_stats st;
	unsigned posted, cut;

	work(d);
	MUST(hf_provider_stats(d->p, &st, sizeof(st)));
	MUST(hf_sock_info(d->first.s, &info, sizeof(info)));
	told(info.connected && info.exposures == 1 && st.pinned_bytes >= sizeof(*d->mem),
	     "%s: %d rounds of write, send and read with who %s, every byte compared", d->nic, ROUNDS, them);
	posted = post_the_last(d);
	cut = completions(d, posted);
	told(cut >= 4, "%s: who %s is killed: %u of %u operations are cut off", d->nic, them, cut, posted);
	is_over(d, &d->first, "first");
	is_over(d, &d->second, "second");
	nothing_is_left(d);
	return bad != 0;
}

int main(int argc, char **argv)
{
	static struct side d;

	if (argc != 6) {
		fprintf(stderr, "usage: kill_test NIC survivor|victim listen|connect tcp:ADDRESS:PORT SECRET-FILE\n");
		return 2;
	}
	d.nic = argv[1];
	d.listens = !strcmp(argv[3], "listen");
	d.address = argv[4];
	d.secret_file = argv[5];
	return strcmp(argv[2], "survivor") ? kill_it(&d) : survive(&d);
}
