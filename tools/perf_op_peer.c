/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The answering side of `perf --op`: listens, and does what the asking side's messages ask.
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <holdfast/backend.h>

struct peer {
	struct op_side s;
	struct hf_sock *listener;
	char address[OP_ADDRESS]; /* of the listener */
	/* the run under way */
	struct perf_trial trial;
	char who[OP_ADDRESS];
	uint64_t transfers, wrong_bytes;
	bool broken_off; /* the other side has gone in the middle of a size */
	unsigned runs;
};

/* ------------------------------------------------------------------ a batch */

/* Ready for what comes, or to be read. Poison can't pass for what is to come. */
static int take_buffers(struct op_side *s, unsigned count, uint64_t number)
{
	for (unsigned i = 0; i < count; i++) {
		s->data[i] = perf_take(&s->side, i);
		if (!s->data[i])
			return -ENOMEM;
		if (s->run.op == PERF_OP_READ)
			perf_prepare(&s->side, s->data[i], number + i);
		else
			perf_fill(s->data[i], s->side.size, s->run.seed, number + i, true);
	}
	return 0;
}

static int register_one(struct op_side *s, struct hf_sock *sock, unsigned i)
{
	size_t length = HF_DESCRIPTOR_SIZE, size = s->side.size;

	if (s->run.op == PERF_OP_SEND)
		return hf_mr_reg(sock, s->data[i], size, s->side.access, &s->mr[i]);
	return hf_mr_expose(sock, s->data[i], size, s->side.access, s->descriptor[i], &length, &s->mr[i]);
}

static int post_receive(struct op_side *s, struct hf_sock *sock, unsigned i)
{
	struct hf_segment seg = {s->data[i], s->side.size, s->mr[i]};

	return s->run.op == PERF_OP_SEND ? hf_post_recv(sock, &seg, 1, op_context(i)) : 0;
}

/* *ns: how long it took, all together. */
static int register_all(struct op_side *s, struct hf_sock *sock, unsigned count, uint64_t *ns)
{
	uint64_t start = tool_now_ns();
	int err = 0;

	for (unsigned i = 0; i < count && !err; i++) {
		uint64_t from = tool_now_ns();

		err = register_one(s, sock, i);
		s->step_ns[i] = tool_now_ns() - from;
		if (!err)
			err = post_receive(s, sock, i);
	}
	*ns += tool_now_ns() - start;
	return err;
}

static int let_go_all(struct op_side *s, unsigned way, unsigned count, uint64_t *ns)
{
	struct hf_sock *sock = s->sock[perf_provider_of(way)];

	for (unsigned i = 0; i < count; i++) {
		uint64_t from = tool_now_ns(), took;
		int err = hf_mr_dereg(sock, s->mr[i]);

		if (err)
			return err;
		took = tool_now_ns() - from;
		*ns += took;
		perf_step(&s->side, way, s->step_ns[i] + took);
	}
	return 0;
}

static int reap_received(struct op_side *s, unsigned count)
{
	struct hf_completion c;
	int err = 0;

	for (unsigned i = 0; i < count && !err; i++) {
		err = op_completed(s, &c);
		if (!err && c.bytes != s->side.size)
			err = hf_set_error(-EPROTO, "%" PRIu64 " bytes came instead of %zu", c.bytes,
					   s->side.size);
	}
	return err;
}

static int do_plain(struct op_side *s, unsigned count)
{
	if (s->run.op == PERF_OP_READ)
		return plain_be_read(s->plain, s->data, count, s->side.size);
	return plain_receive(s->plain, s->data, count, s->side.size);
}

static uint64_t compare(const struct op_side *s, unsigned count, uint64_t number)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < count && s->run.op != PERF_OP_READ; i++)
		wrong += perf_wrong_bytes(s->data[i], s->side.size, s->run.seed, number + i);
	return wrong;
}

static int batch(struct peer *p)
{
	struct op_side *s = &p->s;
	struct op_message ready = {.kind = OP_READY}, ack = {.kind = OP_ACK};
	unsigned way = s->last.way, count = s->last.count;
	uint64_t number = s->last.number;
	int err;

	if (way >= PERF_WAYS || count > s->side.pool.count)
		return hf_set_error(-EPROTO, "asked for %u transfers in way %u", count, way);
	err = take_buffers(s, count, number);
	if (!err && way != PERF_PLAIN)
		err = register_all(s, s->sock[perf_provider_of(way)], count, &ready.ns);
	memcpy(ready.descriptor, s->descriptor, sizeof(ready.descriptor));
	if (err || (err = op_answer(s, &ready, err)))
		return err;
	if (way == PERF_PLAIN)
		err = do_plain(s, count);
	if (!err)
		err = op_expect(s, OP_DONE);
	if (!err && way != PERF_PLAIN && s->run.op == PERF_OP_SEND)
		err = reap_received(s, count);
	if (!err && way != PERF_PLAIN)
		err = let_go_all(s, way, count, &ack.ns);
	if (err)
		return err;
	ack.wrong_bytes = compare(s, count, number);
	p->wrong_bytes += ack.wrong_bytes;
	p->transfers += count;
	return op_answer(s, &ack, 0);
}

/* ------------------------------------------------------------------ a size */

static int begin(struct peer *p)
{
	struct op_side *s = &p->s;
	struct op_message answer = {.kind = OP_SIZE};
	uint64_t size = s->last.size;
	int err;

	if (!size || size > OP_LARGEST || s->side.pool.count)
		return hf_set_error(-EPROTO, "asked for a size of %" PRIu64 " bytes", size);
	s->side.slots = op_slots(&s->side, size, s->last.count < OP_BATCH ? s->last.count : OP_BATCH);
	err = perf_size_begin(&s->side, size, &p->trial);
	answer.count = s->side.pool.count;
	return op_answer(s, &answer, err);
}

static int end(struct peer *p)
{
	struct op_message answer = {.kind = OP_RESULT};
	struct perf_message m = {0};
	int err = perf_result(&p->s.side, &m);

	answer.hits = m.hits;
	answer.gets = m.gets;
	memcpy(answer.p50_ns, m.p50_ns, sizeof(answer.p50_ns));
	memcpy(answer.p99_ns, m.p99_ns, sizeof(answer.p99_ns));
	perf_trial_end(&p->s.side, &p->trial);
	perf_size_end(&p->s.side);
	return op_answer(&p->s, &answer, err);
}

static int serve_message(struct peer *p)
{
	switch (p->s.last.kind) {
	case OP_SIZE:
		return begin(p);
	case OP_GO:
		perf_trial_end(&p->s.side, &p->trial);
		return 0;
	case OP_MARK:
		return perf_mark(&p->s.side);
	case OP_START:
		return batch(p);
	case OP_END:
		return end(p);
	case OP_TRY:
		return revoke_try(&p->s);
	case OP_FORGE:
		return revoke_forge(&p->s);
	}
	return hf_set_error(-EPROTO, "message %u is not to be asked", p->s.last.kind);
}

/* ------------------------------------------------------------------ a run */

/* Where this run's data connections are made. */
struct doors {
	struct hf_sock *san[PERF_PROVIDERS];
	int plain;
};

static int open_san_door(struct peer *p, unsigned which, struct doors *d, char address[OP_ADDRESS])
{
	static const char *const endings[PERF_PROVIDERS] = {".cached", ".register"};
	struct hf_sock_info info;
	char options[512];
	int err = op_beside(p->address, endings[which], address);

	op_options(&p->s.run, options, sizeof(options));
	if (!err)
		err = hf_listen(p->s.side.provider[which], address, options, &d->san[which]);
	if (!err)
		err = hf_sock_info(d->san[which], &info, sizeof(info));
	if (!err)
		memcpy(address, info.local, OP_ADDRESS);
	return err;
}

static int open_doors(struct peer *p, struct doors *d, struct op_message *hello)
{
	char beside[OP_ADDRESS];
	int err = open_san_door(p, PERF_CACHING, d, hello->address[PERF_CACHED]);

	if (!err)
		err = open_san_door(p, PERF_EACH_TIME, d, hello->address[PERF_REGISTER]);
	if (!err)
		err = op_beside(p->address, ".plain", beside);
	if (!err) {
		d->plain = plain_listen(beside, hello->address[PERF_PLAIN]);
		err = d->plain < 0 ? d->plain : 0;
	}
	if (!err && getrandom(hello->token, OP_TOKEN, 0) != OP_TOKEN)
		err = hf_set_error(-errno, "no random bytes: %s", strerror(errno));
	return err;
}

static void close_doors(struct doors *d, const char *plain)
{
	for (unsigned i = 0; i < PERF_PROVIDERS; i++)
		hf_sock_close(d->san[i]);
	if (d->plain < 0)
		return;
	close(d->plain);
	if (!strncmp(plain, "unix:/", 6))
		unlink(plain + 5);
}

/* In the order in which they are connected. */
static int enter(struct peer *p, struct doors *d, const uint8_t token[OP_TOKEN])
{
	struct op_side *s = &p->s;
	int err = 0;

	for (unsigned i = 0; i < PERF_PROVIDERS && !err; i++)
		err = hf_accept(d->san[i], s->data_cq, OP_PATIENCE_MS, &s->sock[i]);
	if (!err) {
		s->plain = plain_accept(d->plain, token);
		err = s->plain < 0 ? s->plain : 0;
	}
	return err;
}

/* What the asking side wants of this run. */
static int understand(struct op_side *s)
{
	const struct op_message *m = &s->last;

	if (m->kind != OP_HELLO || m->op < PERF_OP_SEND || m->op > PERF_OP_REVOKE)
		return hf_set_error(-EPROTO, "the first message is not HELLO");
	s->run.op = m->op;
	s->run.recycle = m->recycle;
	s->run.seed = m->seed;
	s->run.corrupt = m->corrupt;
	s->side.access = op_access(s->run.op, false);
	return 0;
}

static int welcome(struct peer *p)
{
	struct op_message hello = {.kind = OP_HELLO}, joined = {.kind = OP_JOINED};
	struct doors d = {.plain = -1};
	int err = op_control_open(&p->s), say;

	if (!err)
		err = op_hear(&p->s, OP_PATIENCE_MS);
	if (!err)
		err = understand(&p->s);
	if (err)
		return err;
	err = open_doors(p, &d, &hello);
	say = op_answer(&p->s, &hello, err);
	if (!err && !say) {
		err = enter(p, &d, hello.token);
		say = op_answer(&p->s, &joined, err);
	}
	close_doors(&d, hello.address[PERF_PLAIN]);
	return err ? err : say;
}

static bool is_the_end(int err)
{
	return err == -ECONNRESET || err == -ESHUTDOWN;
}

/* The other side has said why, or leaves: then it is the one who reports. */
static int serve(struct peer *p)
{
	int err = welcome(p);

	while (!err) {
		err = op_hear(&p->s, -1);
		if (err)
			break;
		err = serve_message(p);
		if (err && !is_the_end(err)) {
			struct op_message m = {.kind = OP_ACK};

			op_answer(&p->s, &m, err);
		}
	}
	/* the asking side may have gone in between */
	p->broken_off = is_the_end(err) && p->s.side.pool.count && p->s.run.op != PERF_OP_REVOKE; /* which says no END */
	perf_trial_end(&p->s.side, &p->trial);
	return is_the_end(err) ? 0 : err;
}

static int accept_one(struct peer *p)
{
	enum { SLICE_MS = 200 };
	struct hf_sock_info info;
	int err;

	do
		err = hf_accept(p->listener, p->s.control_cq, SLICE_MS, &p->s.control);
	while ((err == -ETIMEDOUT || err == -EINTR) && !op_interrupted);
	if (op_interrupted && err)
		return -EINTR;
	if (!err)
		err = hf_sock_info(p->s.control, &info, sizeof(info));
	if (!err)
		snprintf(p->who, sizeof(p->who), "%s", info.peer);
	/* the data's doors are beside the address at which the other side has found this one */
	if (!err && *info.local)
		snprintf(p->address, sizeof(p->address), "%s", info.local);
	p->transfers = p->wrong_bytes = 0;
	return err;
}

/* ------------------------------------------------------------------ either way of being started */

static int open_peer(struct peer *p, const struct perf_config *config, const char *address)
{
	struct hf_sock_info info;
	char options[512];
	int err = op_side_open(&p->s, config);

	op_options(config, options, sizeof(options));
	if (!err)
		err = hf_listen(p->s.side.provider[PERF_CACHING], address, options, &p->listener);
	if (!err)
		err = hf_sock_info(p->listener, &info, sizeof(info));
	if (!err)
		snprintf(p->address, sizeof(p->address), "%s", info.local);
	return err;
}

static void close_peer(struct peer *p)
{
	op_disconnect(&p->s);
	hf_sock_close(p->listener);
	op_side_close(&p->s);
}

int op_child(const struct perf_config *config, int tell)
{
	static struct peer p;
	struct op_birth birth = {0};
	char address[64];
	int err;

	/* abstract: it goes by itself */
	snprintf(address, sizeof(address), "unix:@holdfast-perf-%d", (int)getpid());
	birth.err = err = open_peer(&p, config, address);
	snprintf(birth.text, sizeof(birth.text), "%s", err ? perf_reason(err) : p.address);
	if (write(tell, &birth, sizeof(birth)) != sizeof(birth))
		err = -EPIPE;
	close(tell);
	if (!err)
		err = accept_one(&p);
	if (!err)
		err = serve(&p);
	close_peer(&p);
	return err ? TOOL_CANNOT : TOOL_OK;
}

static void on_signal(int number)
{
	(void)number;
	op_interrupted = 1;
}

static const char *run_failed(const struct peer *p, int err)
{
	if (err)
		return perf_reason(err);
	return p->broken_off ? "the other side is gone, in the middle of it" : NULL;
}

static void report_run(struct peer *p, int err)
{
	const char *why = run_failed(p, err);

	if (tool_json) {
		json_open(NULL, '{');
		json_string("peer", p->who);
		json_u64("transfers", p->transfers);
		json_u64("wrong_bytes", p->wrong_bytes);
		json_string("error", why);
		json_close();
	} else {
		printf("run %u, from %s: %" PRIu64 " transfers, %" PRIu64 " wrong bytes here%s%s\n", ++p->runs,
		       p->who, p->transfers, p->wrong_bytes, why ? "; " : "", why ? why : "");
	}
	fflush(stdout);
}

static void report_start(const struct peer *p)
{
	if (tool_json) {
		json_open(NULL, '{');
		json_string("listening", p->address);
		json_open("runs", '[');
	} else {
		printf("listening at %s\n", p->address);
	}
	fflush(stdout);
}

/* Until interrupted, or once. A run that fails is that run's matter. */
static int serve_all(struct peer *p, bool once)
{
	uint64_t wrong = 0;
	int err = 0;

	do {
		err = accept_one(p);
		if (err)
			break;
		err = serve(p);
		op_disconnect(&p->s);
		report_run(p, err);
		wrong += p->wrong_bytes;
	} while (!once && !op_interrupted);
	if (op_interrupted && !once)
		err = 0;
	if (wrong)
		return TOOL_FOUND;
	if (err || (once && p->broken_off))
		return tool_fail(TOOL_CANNOT, "%s", run_failed(p, err));
	return TOOL_OK;
}

int op_listen(const struct perf_config *config)
{
	static struct peer p;
	struct sigaction action = {.sa_handler = on_signal};
	int err, code;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	err = open_peer(&p, config, config->listen);
	if (err) {
		code = tool_fail(err == -EINVAL || err == -ENOENT ? TOOL_USAGE : TOOL_CANNOT, "%s",
				 perf_reason(err));
	} else {
		report_start(&p);
		code = serve_all(&p, config->once);
		if (tool_json) {
			json_close();
			json_close();
		}
	}
	close_peer(&p);
	return code;
}
