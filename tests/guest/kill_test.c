/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Two machines move memory through each other's by SAN sockets, and the process of one is killed (SIGKILL) in the midst:
 *
 *   kill_test NIC survivor|victim listen|connect tcp:ADDRESS:PORT SECRET-FILE
 *
 * It runs on both, as the one and the other. "ok - WHAT" and "not ok - WHAT", and the exit status. What is shown (R16, R38, R41,
 * R44, R47):
 *
 *   survivor                                        victim (a process, and its parent, which kills it)
 *   ROUNDS times both: RDMA write, a message, RDMA read back, every byte compared
 *   posts: receive, writes, send, read              writes for ever
 *      the first write is the mark ──────────────►  sees it: tells the parent ─────► kill -9
 *      the send waits for a receive that is never posted; so does the read behind it, and the receive for a send
 *   each post completes once, the send and the
 *   receive with -ECONNRESET; the peer's access has
 *   ended, and no page is pinned when it is closed
 *
 * So at the time of the kill both sides have moved memory both ways, and both have something under way, however slow
 * either is.
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

#define ROUNDS 4
#define PATIENCE_MS 180000 /* for what must come: two emulated machines, which may be one busy processor's */
#define DATA (128u << 10)  /* bytes of a write, and of a read */
#define PAGE 4096u
#define MARK 0x5a
#define WRITES 4 /* of the survivor, at the end, behind the mark */

/* The memory of each. The peer reaches `exposed` and nothing else. */
struct memory {
	unsigned char in[PAGE], out[PAGE]; /* messages */
	unsigned char from[DATA], back[DATA];
	struct exposed {
		unsigned char data[2][DATA]; /* of even and odd rounds: the peer may be one ahead */
		unsigned char mark[PAGE];
	} exposed;
};

struct side {
	const char *nic, *address, *secret_file;
	bool listens, survives;
	int tell; /* the victim: a pipe to its parent */
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_cq *cq;
	struct hf_sock *listener, *s;
	struct memory *mem;
	uint64_t mr, exposed_mr;
	unsigned char theirs[HF_DESCRIPTOR_SIZE];
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
#define MUST(call)                                                                                \
	do {                                                                                      \
		int must_ = (call);                                                               \
		if (must_ < 0) {                                                                  \
			told(false, "line %d: " #call ": %d, %s", __LINE__, must_, hf_error());   \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

static int expect(bool good, const char *what)
{
	if (!good)
		told(false, "%s", what);
	return good ? 0 : -1;
}

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

	MUST(expect(fd >= 0 && write(fd, "1", 1) == 1, "stat_refresh"));
	close(fd);
	return vmstat("nr_foll_pin_acquired") - vmstat("nr_foll_pin_released");
}

/* ------------------------------------------------------------------ operations */

static struct hf_segment of(const struct side *d, void *at, size_t len)
{
	return (struct hf_segment){ .addr = at, .len = len, .mr = d->mr };
}

static int post_receive(struct side *d)
{
	struct hf_segment seg = of(d, d->mem->in, PAGE);

	return hf_post_recv(d->s, &seg, 1, NULL);
}

static int post_send(struct side *d, size_t len)
{
	struct hf_segment seg = of(d, d->mem->out, len);

	return hf_post_send(d->s, &seg, 1, NULL);
}

static int post_write(struct side *d, size_t offset, size_t len)
{
	struct hf_segment seg = of(d, d->mem->from, len);

	return hf_post_write(d->s, &seg, 1, d->theirs, sizeof(d->theirs), offset, NULL);
}

static int post_read(struct side *d, size_t offset)
{
	struct hf_segment seg = of(d, d->mem->back, DATA);

	return hf_post_read(d->s, &seg, 1, d->theirs, sizeof(d->theirs), offset, NULL);
}

/* `n` completions, all good. */
static int finish(struct side *d, unsigned n)
{
	struct hf_completion c;

	while (n--) {
		MUST(expect(hf_cq_wait(d->cq, &c, 1, PATIENCE_MS) == 1, "nothing has completed"));
		if (c.status)
			return expect(false, hf_completion_text(&c));
	}
	return 0;
}

/* ------------------------------------------------------------------ the connection */

static void open_all(struct side *d)
{
	char options[256];
	int rc = -ETIMEDOUT;

	d->mem = mmap(NULL, sizeof(*d->mem), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	MUST(d->mem == MAP_FAILED ? -ENOMEM : 0);
	snprintf(options, sizeof(options), "secret_file=%s", d->secret_file);
	MUST(hf_switch_open("proxy=uffd", &d->sw));
	MUST(hf_provider_open(d->sw, d->nic, NULL, &d->p));
	MUST(hf_cq_open(&d->cq));
	if (d->listens) {
		MUST(hf_listen(d->p, d->address, options, &d->listener));
		MUST(hf_accept(d->listener, d->cq, PATIENCE_MS, &d->s));
		return;
	}
	for (int tries = 0; tries < PATIENCE_MS / 50; tries++) {
		rc = hf_connect(d->p, d->address, options, d->cq, PATIENCE_MS, &d->s);
		if (rc != -ECONNREFUSED) /* it doesn't listen yet */
			break;
		usleep(50000);
	}
	MUST(rc);
}

static void exchange_descriptors(struct side *d)
{
	size_t length = PAGE;

	MUST(hf_mr_reg(d->s, d->mem, sizeof(*d->mem), HF_READWRITE, &d->mr));
	MUST(hf_mr_expose(d->s, &d->mem->exposed, sizeof(d->mem->exposed), HF_READWRITE, d->mem->out, &length, &d->exposed_mr));
	MUST(post_receive(d));
	MUST(post_send(d, length));
	MUST(finish(d, 2));
	memcpy(d->theirs, d->mem->in, sizeof(d->theirs));
}

/* The message comes behind the write: when it is here, that is, too. */
static void do_round(struct side *d, unsigned round)
{
	unsigned half = round % 2;
	size_t offset = offsetof(struct exposed, data[half]), wrong;

	fill(d, round);
	d->mem->out[0] = (unsigned char)round;
	MUST(post_receive(d));
	MUST(post_write(d, offset, DATA));
	MUST(post_send(d, 1));
	MUST(finish(d, 3));
	MUST(expect(d->mem->in[0] == round, "a message of another round"));
	wrong = wrong_bytes(d->mem->exposed.data[half], !d->listens, round);
	MUST(post_read(d, offset));
	MUST(finish(d, 1));
	wrong += wrong_bytes(d->mem->back, d->listens, round);
	MUST(expect(!wrong, "wrong bytes"));
}

static void work(struct side *d)
{
	open_all(d);
	exchange_descriptors(d);
	for (unsigned round = 1; round <= ROUNDS; round++)
		do_round(d, round);
}

/* ------------------------------------------------------------------ the victim */

/* Two writes are always under way. */
static void write_for_ever(struct side *d)
{
	const volatile unsigned char *mark = d->mem->exposed.mark;
	bool said = false;

	MUST(post_write(d, 0, DATA));
	for (;;) {
		MUST(post_write(d, 0, DATA));
		MUST(finish(d, 1));
		if (said || *mark != MARK)
			continue;
		MUST(expect(write(d->tell, "!", 1) == 1, "the parent is gone"));
		said = true;
	}
}

static int kill_it(struct side *d)
{
	int ends[2], status;
	char word;
	pid_t pid;

	MUST(pipe2(ends, O_CLOEXEC));
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

/* As many as were posted, each with a status that san.h names. How many were cut off. */
static unsigned completions(struct side *d, unsigned posted)
{
	struct hf_completion c;
	unsigned cut = 0;

	for (unsigned i = 0; i < posted; i++) {
		MUST(expect(hf_cq_wait(d->cq, &c, 1, PATIENCE_MS) == 1, "an operation never completes"));
		if (!may_be(d, &c))
			told(false, "operation %u ended with %d: %s", c.op, c.status, hf_completion_text(&c));
		cut += c.status != 0;
	}
	return cut;
}

static unsigned post_the_last(struct side *d)
{
	memset(d->mem->from, MARK, PAGE);
	MUST(post_receive(d));
	MUST(post_write(d, offsetof(struct exposed, mark), PAGE));
	for (int i = 0; i < WRITES; i++)
		MUST(post_write(d, 0, DATA));
	MUST(post_send(d, 1)); /* nobody posts a receive for it */
	MUST(post_read(d, 0));
	return 4 + WRITES;
}

static void is_over(struct side *d)
{
	struct hf_sock_info info;
	struct hf_completion c;
	int rc = post_send(d, 1);

	MUST(hf_sock_info(d->s, &info, sizeof(info)));
	told(!info.connected && info.error == -ECONNRESET && rc == -ECONNRESET && hf_cq_poll(d->cq, &c, 1) == 0,
	     "%s: the connection is over: %d; another post: %d", d->nic, info.error, rc);
	told(info.exposures == 0, "%s: the peer's access has ended: %ju descriptors are valid", d->nic, (uintmax_t)info.exposures);
	told(!hf_mr_dereg(d->s, d->exposed_mr) && !hf_mr_dereg(d->s, d->mr), "%s: what was registered can be given back", d->nic);
}

static void nothing_is_left(struct side *d)
{
	struct hf_stats st;
	long pages;
	int rc = hf_sock_close(d->s) | hf_sock_close(d->listener) | hf_cq_close(d->cq);

	hf_flush(d->p);
	MUST(hf_provider_stats(d->p, &st, sizeof(st)));
	told(!rc && !st.pinned_bytes && !st.entries && !st.dead_held, "%s: closed: %ju bytes registered, %ju held", d->nic,
	     (uintmax_t)st.pinned_bytes, (uintmax_t)st.dead_held);
	rc = hf_provider_close(d->p) | hf_switch_close(d->sw);
	for (int i = 0; (pages = pinned()) && i < PATIENCE_MS / 20; i++)
		usleep(20000); /* an io_uring that is closed lets its pages go a little later */
	told(!rc && !pages, "%s: %ld pages of this machine are pinned", d->nic, pages);
}

static int survive(struct side *d)
{
	struct hf_sock_info info;
	struct hf_stats st;
	unsigned posted, cut;

	work(d);
	MUST(hf_provider_stats(d->p, &st, sizeof(st)));
	MUST(hf_sock_info(d->s, &info, sizeof(info)));
	told(info.connected && info.exposures == 1 && st.pinned_bytes >= sizeof(*d->mem),
	     "%s: %d rounds of write, send and read with who %s, every byte compared", d->nic, ROUNDS,
	     d->listens ? "connects" : "listens");
	posted = post_the_last(d);
	cut = completions(d, posted);
	told(cut >= 3, "%s: who %s is killed: %u of %u operations are cut off, each says so once", d->nic,
	     d->listens ? "connects" : "listens", cut, posted); /* 3: receive, send, read */
	is_over(d);
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
	d.survives = !strcmp(argv[2], "survivor");
	d.listens = !strcmp(argv[3], "listen");
	d.address = argv[4];
	d.secret_file = argv[5];
	return d.survives ? survive(&d) : kill_it(&d);
}
