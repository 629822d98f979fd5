/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `perf --op revoke`: how long it takes until the peer can't reach memory any more (R28), with nothing under way and with
 * RDMA writes under way; and descriptors that must be refused (R10, R15, R17).
 *
 * That the peer's access has ended when hf_mr_dereg() returns is looked at each time, not believed:
 *
 *   this side                                  the peer
 *   expose the buffer; TRY{descriptor} ───►    writes to it, `depth` at once, again and again
 *   see its bytes change: one is under way
 *   ---- hf_mr_dereg(): the time that counts
 *   overwrite the buffer                       a write fails with -EACCES
 *                                         ◄─── TRIED{writes done, the last one's status}
 *   every byte is as it was overwritten, or the peer still had access
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include <holdfast/backend.h>

enum {
	BUFFER = 1 << 20,
	PIECE = 4096,			 /* what a forged descriptor would reach */
	TARGETS = OP_BATCH / 2,		 /* valid ones, shown to the peer; the rest is revoked or another connection's */
	REACH = 8,			 /* bytes that a forgery asks for */
	SAMPLES_MAX = 1 << 16,
	FORGE_AT_ONCE = 1 << 12,
};

struct revoked {
	uint64_t ns[SAMPLES_MAX];
	uint64_t count;
};

struct revoke_report {
	struct revoked idle, busy;
	uint64_t late_bytes;	/* changed after access had ended */
	uint64_t not_refused;	/* the peer's next access was not refused as it should be */
	uint64_t registrations; /* made while all these were exposed and revoked */
	uint64_t tried[FORGERIES], accepted[FORGERIES], touched_bytes;
	uint64_t counted;	/* refused, as the connection counts them */
	bool alive;		/* afterwards a valid descriptor still works */
};

static const char *const forgery_names[FORGERIES] = {
	[FORGE_RANDOM] = "random bytes",
	[FORGE_BIT] = "one bit changed",
	[FORGE_BYTES] = "some bytes changed",
	[FORGE_SPLICE] = "halves of two",
	[FORGE_REVOKED] = "revoked",
	[FORGE_FOREIGN] = "another connection's",
	[FORGE_RIGHT] = "without this right",
	[FORGE_RANGE] = "off the end",
};

/* ------------------------------------------------------------------ this side: revoke under the peer's hands */

static int expose(struct hf_sock *sock, void *addr, size_t len, unsigned access, uint8_t *descriptor,
		  uint64_t *mr)
{
	size_t length = HF_DESCRIPTOR_SIZE;

	return hf_mr_expose(sock, addr, len, access, descriptor, &length, mr);
}

static int ask_try(struct op_side *s, const uint8_t *descriptor, size_t len, bool again)
{
	struct op_message m = {.kind = OP_TRY, .count = again, .size = len, .seed = s->run.seed};

	memcpy(m.descriptor[0], descriptor, HF_DESCRIPTOR_SIZE);
	return op_say(s, &m);
}

/* What the peer said it did: `done` writes at least, and then this status. */
static int check_tried(struct op_side *s, bool done, int status, uint64_t *faults)
{
	int err = op_expect(s, OP_TRIED);

	if (!err)
		*faults += (s->last.number > 0) != done || s->last.status != status;
	return err;
}

static int timed_dereg(struct op_side *s, uint64_t mr, struct revoked *r)
{
	uint64_t from = tool_now_ns();
	/* untold: the negative control, nothing is revoked yet */
	int err = s->run.untold ? 0 : hf_mr_dereg(s->sock[PERF_CACHING], mr);

	r->ns[r->count++ % SAMPLES_MAX] = tool_now_ns() - from;
	return err;
}

static int revoke_idle(struct op_side *s, struct revoke_report *r)
{
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	uint64_t mr;
	int err = expose(s->sock[PERF_CACHING], s->data[0], s->side.size, HF_WRITE, descriptor, &mr);

	if (!err)
		err = ask_try(s, descriptor, s->side.size, false);
	if (!err)
		err = check_tried(s, true, 0, &r->not_refused);
	if (!err)
		err = timed_dereg(s, mr, &r->idle);
	if (!err)
		err = ask_try(s, descriptor, s->side.size, false);
	if (!err)
		err = check_tried(s, false, -EACCES, &r->not_refused);
	return !err && s->run.untold ? hf_mr_dereg(s->sock[PERF_CACHING], mr) : err;
}

static bool is_connected(struct op_side *s)
{
	struct hf_sock_info info;

	return !hf_sock_info(s->sock[PERF_CACHING], &info, sizeof(info)) && info.connected;
}

/* Until this byte of the peer's has arrived. The NIC writes it, so it is read as what may change at any time. */
static int wait_for_byte(struct op_side *s, const volatile unsigned char *at, unsigned char byte)
{
	enum { LOOK_EACH = 1024 };
	uint64_t start = tool_now_ns();

	for (unsigned i = 1; *at != byte; i++) {
		sched_yield();
		if (i % LOOK_EACH)
			continue;
		if (!is_connected(s))
			return hf_set_error(-ECONNRESET, "the other side is gone");
		if (tool_now_ns() - start > OP_PATIENCE_MS * 1000000ull)
			return hf_set_error(-ETIMEDOUT, "the peer's writes don't arrive");
	}
	return 0;
}

static int revoke_busy(struct op_side *s, uint64_t number, struct revoke_report *r)
{
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	unsigned char *data = s->data[0], *middle = data + s->side.size / 2, theirs;
	uint64_t mr;
	int err = expose(s->sock[PERF_CACHING], data, s->side.size, HF_WRITE, descriptor, &mr);

	/* The peer writes the bytes of transfer 0: their inverse differs from them everywhere. */
	perf_fill(data, s->side.size, s->run.seed, 0, true);
	theirs = (unsigned char)~*middle;
	if (!err)
		err = ask_try(s, descriptor, s->side.size, true);
	if (!err)
		err = wait_for_byte(s, middle, theirs);
	if (!err)
		err = timed_dereg(s, mr, &r->busy);
	perf_fill(data, s->side.size, s->run.seed, number, false);
	if (!err && s->run.untold) {
		err = wait_for_byte(s, middle, theirs);
		if (!err)
			err = hf_mr_dereg(s->sock[PERF_CACHING], mr);
	}
	if (!err) /* the first write may have been cut off: how many are done is open */
		err = op_expect(s, OP_TRIED);
	if (err)
		return err;
	r->not_refused += s->last.status != -EACCES;
	r->late_bytes += perf_wrong_bytes(data, s->side.size, s->run.seed, number);
	return 0;
}

static int revoke_rounds(struct op_asking *a, struct revoke_report *r)
{
	struct op_side *s = &a->s;
	double budget = s->run.seconds * 0.5e9, spent = 0;
	uint64_t start = tool_now_ns(), number = 1;
	int err = revoke_idle(s, r);

	r->idle.count = 0; /* the first one registered */
	if (!err)
		err = perf_mark(&s->side);
	while (!err && (spent < budget || r->busy.count < 3)) {
		err = revoke_idle(s, r);
		if (!err)
			err = revoke_busy(s, number++, r);
		spent = (double)(tool_now_ns() - start);
		perf_progress(s->side.size, spent / budget / 2, &a->shown);
	}
	return err;
}

/* ------------------------------------------------------------------ this side: what forgeries are made of */

struct targets {
	struct op_message m;
	uint64_t mr[OP_BATCH];
	struct hf_sock *sock[OP_BATCH];
};

static unsigned char *piece(struct op_side *s, unsigned i)
{
	return s->data[0] + (size_t)i * PIECE;
}

/*
 * Of the descriptors that the peer gets the first half is valid: for writing, for reading, in turn. Of the rest
 * every other one is revoked, and the others are valid on the other connection.
 */
static int open_targets(struct op_side *s, struct targets *t)
{
	int err = 0;

	for (unsigned i = 0; i < OP_BATCH && !err; i++) {
		bool foreign = i >= TARGETS && i % 2;

		t->sock[i] = s->sock[foreign ? PERF_EACH_TIME : PERF_CACHING];
		err = expose(t->sock[i], piece(s, i), PIECE, i % 2 ? HF_READ : HF_WRITE,
			     t->m.descriptor[i], &t->mr[i]);
		if (!err && i >= TARGETS && !foreign) {
			err = hf_mr_dereg(t->sock[i], t->mr[i]);
			t->mr[i] = 0;
		}
	}
	return err;
}

static int close_targets(struct targets *t)
{
	int err = 0;

	for (unsigned i = 0; i < OP_BATCH; i++)
		if (t->mr[i] && !err)
			err = hf_mr_dereg(t->sock[i], t->mr[i]);
	return err;
}

static uint64_t all_tried(const struct revoke_report *r)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < FORGERIES; i++)
		sum += r->tried[i];
	return sum;
}

static int forge_rounds(struct op_asking *a, struct targets *t, struct revoke_report *r)
{
	struct op_side *s = &a->s;
	uint64_t wanted = s->run.count;
	int err = 0;

	t->m.kind = OP_FORGE;
	while (!err && all_tried(r) < wanted) {
		uint64_t left = wanted - all_tried(r);

		t->m.count = left < FORGE_AT_ONCE ? (uint32_t)left : FORGE_AT_ONCE;
		t->m.number = all_tried(r);
		err = op_say(s, &t->m);
		if (!err)
			err = op_expect(s, OP_FORGED);
		for (unsigned i = 0; i < FORGERIES && !err; i++) {
			r->tried[i] += s->last.tried[i];
			r->accepted[i] += s->last.accepted[i];
		}
		perf_progress(PIECE, 0.5 + (double)all_tried(r) / (double)(wanted + 1) / 2, &a->shown);
	}
	return err;
}

static int refused_so_far(struct op_side *s, uint64_t *out)
{
	struct hf_sock_info info;
	int err = hf_sock_info(s->sock[PERF_CACHING], &info, sizeof(info));

	*out = info.refused;
	return err;
}

static int forge_all(struct op_asking *a, struct revoke_report *r)
{
	static struct targets t;
	struct op_side *s = &a->s;
	uint64_t before;
	int err = open_targets(s, &t);

	perf_fill(s->data[0], BUFFER, s->run.seed, 0, false);
	if (!err)
		err = refused_so_far(s, &before);
	if (!err)
		err = forge_rounds(a, &t, r);
	if (!err)
		err = refused_so_far(s, &r->counted);
	if (err)
		return err;
	r->counted -= before;
	r->touched_bytes = perf_wrong_bytes(s->data[0], BUFFER, s->run.seed, 0);
	err = ask_try(s, t.m.descriptor[0], PIECE, false);
	if (!err)
		err = op_expect(s, OP_TRIED);
	r->alive = !err && !s->last.status;
	return err ? err : close_targets(&t);
}

/* ------------------------------------------------------------------ the peer: writing, and forging */

/* s->data[0] of s->side.size bytes, registered on the caching connection. */
static int post_write(struct op_side *s, size_t len, const uint8_t *descriptor)
{
	struct hf_segment seg = {s->data[0], len, s->mr[0]};

	return hf_post_write(s->sock[PERF_CACHING], &seg, 1, descriptor, HF_DESCRIPTOR_SIZE, 0, NULL);
}

/* A refusal is an answer here; anything else that fails is not. */
static int answered(struct op_side *s, int *status)
{
	struct hf_completion c;
	int err = op_completed(s, &c);

	*status = err;
	return err == -EACCES || err == -ERANGE ? 0 : err;
}

/* `depth` at once until one fails; what was posted behind it must fail, too. */
static int write_until_refused(struct op_side *s, size_t len, const uint8_t *descriptor, bool again,
			       struct op_message *tried)
{
	unsigned depth = again ? (unsigned)s->run.depth : 1, posted = 0;
	int err = 0;

	while (!err && posted < depth && !(err = post_write(s, len, descriptor)))
		posted++;
	while (!err && posted) {
		err = answered(s, &tried->status);
		posted--;
		tried->number += !tried->status;
		if (again && !err && !tried->status) {
			err = post_write(s, len, descriptor);
			posted++;
		}
	}
	return err;
}

static int have_buffer(struct op_side *s)
{
	s->data[0] = perf_take(&s->side, 0);
	if (!s->data[0])
		return -ENOMEM;
	return hf_mr_reg(s->sock[PERF_CACHING], s->data[0], s->side.size, HF_READWRITE, &s->mr[0]);
}

int revoke_try(struct op_side *s)
{
	struct op_message tried = {.kind = OP_TRIED};
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	bool again = s->last.count;
	size_t len;
	int err;

	if (!s->side.pool.count)
		return hf_set_error(-EPROTO, "TRY before SIZE");
	memcpy(descriptor, s->last.descriptor[0], sizeof(descriptor));
	len = s->last.size && s->last.size < s->side.size ? s->last.size : s->side.size;
	err = have_buffer(s);
	if (err)
		return err;
	perf_fill(s->data[0], len, s->run.seed, 0, false);
	err = write_until_refused(s, len, descriptor, again, &tried);
	if (!err)
		err = hf_mr_dereg(s->sock[PERF_CACHING], s->mr[0]);
	return op_answer(s, &tried, err);
}

/* ------------------------------------------------------------------ forging */

struct forger {
	const uint8_t (*real)[HF_DESCRIPTOR_SIZE]; /* as open_targets() gave them */
	uint64_t random;
	uint64_t valid_each; /* n > 0: every n-th is no forgery: the negative control */
};

static uint64_t draw(struct forger *f, uint64_t below)
{
	f->random = f->random * 6364136223846793005u + 1442695040888963407u;
	return (f->random >> 33) % below;
}

static bool is_real(const struct forger *f, const uint8_t *descriptor)
{
	for (unsigned i = 0; i < TARGETS; i++)
		if (!memcmp(f->real[i], descriptor, HF_DESCRIPTOR_SIZE))
			return true;
	return false;
}

static void random_bytes(struct forger *f, uint8_t *out, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		out[draw(f, HF_DESCRIPTOR_SIZE)] = (uint8_t)draw(f, 256);
}

/* What is wrong with the bytes of one; nothing for those whose use is wrong. */
static void spoil(struct forger *f, enum forgery kind, uint8_t *out)
{
	unsigned bit = (unsigned)draw(f, HF_DESCRIPTOR_SIZE * 8);

	switch (kind) {
	case FORGE_RANDOM:
		for (unsigned i = 0; i < HF_DESCRIPTOR_SIZE; i++)
			out[i] = (uint8_t)draw(f, 256);
		break;
	case FORGE_BIT:
		out[bit / 8] ^= (uint8_t)(1 << bit % 8);
		break;
	case FORGE_BYTES:
		random_bytes(f, out, 1 + (unsigned)draw(f, 8));
		break;
	case FORGE_SPLICE:
		memcpy(out + HF_DESCRIPTOR_SIZE / 2, f->real[draw(f, TARGETS)] + HF_DESCRIPTOR_SIZE / 2,
		       HF_DESCRIPTOR_SIZE / 2);
		break;
	default:
		break;
	}
}

/* Which real one it is made from: of the right half, and of the right parity (open_targets). */
static unsigned choose(struct forger *f, enum forgery kind)
{
	unsigned i = (unsigned)draw(f, TARGETS / 2) * 2;

	if (kind == FORGE_REVOKED)
		return TARGETS + i;
	if (kind == FORGE_FOREIGN)
		return TARGETS + i + 1;
	return i + (unsigned)draw(f, 2);
}

static uint64_t off_the_end(struct forger *f)
{
	static const uint64_t offsets[] = {PIECE - REACH + 1, PIECE, 1ull << 32, 1ull << 62};

	return offsets[draw(f, sizeof(offsets) / sizeof(offsets[0]))];
}

/* One request that must be refused. */
static int try_forgery(struct op_side *s, struct forger *f, enum forgery kind, bool valid)
{
	struct hf_segment seg = {s->data[0], REACH, s->mr[0]};
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	unsigned from = choose(f, kind);
	uint64_t offset = kind == FORGE_RANGE && !valid ? off_the_end(f) : 0;
	/* even ones are for writing; the wrong right is the other one */
	bool write = (from % 2 == 0) != (kind == FORGE_RIGHT && !valid);

	memcpy(descriptor, f->real[from], sizeof(descriptor));
	while (!valid && kind < FORGE_REVOKED && is_real(f, descriptor))
		spoil(f, kind, descriptor);
	if (write)
		return hf_post_write(s->sock[PERF_CACHING], &seg, 1, descriptor, sizeof(descriptor), offset,
				     op_context(kind));
	return hf_post_read(s->sock[PERF_CACHING], &seg, 1, descriptor, sizeof(descriptor), offset,
			    op_context(kind));
}

static int take_answer(struct op_side *s, struct op_message *m)
{
	struct hf_completion c;
	int err = op_completed(s, &c);
	unsigned kind = op_index(&c);

	if (err && err != -EACCES && err != -ERANGE)
		return err;
	m->tried[kind % FORGERIES]++;
	m->accepted[kind % FORGERIES] += !err;
	return 0;
}

static int forge(struct op_side *s, struct forger *f, unsigned count, uint64_t first, struct op_message *m)
{
	unsigned posted = 0, done = 0;
	int err = 0;

	while (!err && done < count) {
		uint64_t n = first + posted;
		bool valid = f->valid_each && n % f->valid_each == f->valid_each - 1;

		if (posted < count && posted - done < OP_BATCH) {
			/* those of the first half only are valid */
			err = try_forgery(s, f, valid ? FORGE_BIT : n % FORGERIES, valid);
			posted++;
			continue;
		}
		err = take_answer(s, m);
		done++;
	}
	return err;
}

int revoke_forge(struct op_side *s)
{
	struct op_message forged = {.kind = OP_FORGED};
	/* what was heard stays where it is until the next message */
	struct forger f = {(const uint8_t(*)[HF_DESCRIPTOR_SIZE])s->last.descriptor,
			   s->run.seed + s->last.number, s->run.corrupt};
	int err;

	if (!s->side.pool.count)
		return hf_set_error(-EPROTO, "FORGE before SIZE");
	err = have_buffer(s);
	if (err)
		return err;
	memset(s->data[0], 0xff, REACH);
	err = forge(s, &f, s->last.count % (FORGE_AT_ONCE + 1), s->last.number, &forged);
	if (!err)
		err = hf_mr_dereg(s->sock[PERF_CACHING], s->mr[0]);
	return op_answer(s, &forged, err);
}

/* ------------------------------------------------------------------ report */

struct times {
	uint64_t p50, p99, max;
};

static struct times times_of(struct revoked *r)
{
	uint64_t n = r->count < SAMPLES_MAX ? r->count : SAMPLES_MAX;

	return (struct times){tool_percentile(r->ns, n, 50), tool_percentile(r->ns, n, 99),
			      tool_percentile(r->ns, n, 100)};
}

static void print_times(const char *what, struct revoked *r)
{
	struct times t = times_of(r);
	char text[3][16];

	printf("  %-30s %8s %8s %8s %8" PRIu64 "\n", what, perf_duration(t.p50, text[0]),
	       perf_duration(t.p99, text[1]), perf_duration(t.max, text[2]), r->count);
}

static uint64_t all_accepted(const struct revoke_report *r)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < FORGERIES; i++)
		sum += r->accepted[i];
	return sum;
}

static void print_text(struct revoke_report *r, const struct perf_report *perf)
{
	char size[16];

	printf("revoke over %s, %" PRIu64 " at once; nic %s, proxy %s (mode %s)\n\n", perf->peer,
	       perf->config->depth, perf->config->nic, perf->proxy, perf->config->mode);
	printf("hf_mr_dereg() of %s that the peer may write\n", tool_size(BUFFER, size));
	printf("  %-30s %8s %8s %8s %8s\n", "", "median", "p99", "max", "times");
	print_times("nothing under way", &r->idle);
	print_times("RDMA writes under way", &r->busy);
	printf("  %" PRIu64 " bytes changed after it had returned; %" PRIu64
	       " accesses not refused as they should be\n",
	       r->late_bytes, r->not_refused);
	printf("  %" PRIu64 " registrations made for all these: the one there was stayed cached\n\n",
	       r->registrations);
	printf("Descriptors against %d valid ones of the connection\n", TARGETS);
	printf("  %-30s %8s %8s\n", "", "tried", "accepted");
	for (unsigned i = 0; i < FORGERIES; i++)
		printf("  %-30s %8" PRIu64 " %8" PRIu64 "\n", forgery_names[i], r->tried[i],
		       r->accepted[i]);
	printf("  %" PRIu64 " accepted of %" PRIu64 " (the connection has counted %" PRIu64
	       " refused); %" PRIu64 " bytes changed\n  afterwards a valid one is %s\n",
	       all_accepted(r), all_tried(r), r->counted, r->touched_bytes,
	       r->alive ? "still accepted" : "NOT accepted any more");
}

static void json_times(const char *key, struct revoked *r)
{
	struct times t = times_of(r);

	json_open(key, '{');
	json_u64("p50_ns", t.p50);
	json_u64("p99_ns", t.p99);
	json_u64("max_ns", t.max);
	json_u64("times", r->count);
	json_close();
}

static void print_json(struct revoke_report *r, const struct perf_report *perf)
{
	json_open(NULL, '{');
	json_string("op", "revoke");
	json_string("peer", perf->peer);
	json_u64("depth", perf->config->depth);
	json_string("nic", perf->config->nic);
	json_string("proxy", perf->proxy);
	json_string("mode", perf->config->mode);
	json_u64("seed", perf->config->seed);
	json_times("idle", &r->idle);
	json_times("busy", &r->busy);
	json_u64("late_bytes", r->late_bytes);
	json_u64("not_refused", r->not_refused);
	json_u64("registrations", r->registrations);
	json_u64("tried", all_tried(r));
	json_u64("accepted", all_accepted(r));
	json_u64("counted", r->counted);
	json_u64("touched_bytes", r->touched_bytes);
	json_bool("alive", r->alive);
	json_open("forgeries", '[');
	for (unsigned i = 0; i < FORGERIES; i++) {
		json_open(NULL, '{');
		json_string("name", forgery_names[i]);
		json_u64("tried", r->tried[i]);
		json_u64("accepted", r->accepted[i]);
		json_close();
	}
	json_close();
	json_close();
}

static bool is_good(const struct revoke_report *r)
{
	return !r->late_bytes && !r->not_refused && !all_accepted(r) && !r->touched_bytes && r->alive &&
	       r->counted == all_tried(r);
}

/* ------------------------------------------------------------------ the run */

/* One buffer on either side. */
static int begin(struct op_asking *a)
{
	struct op_side *s = &a->s;
	struct op_message ask = {.kind = OP_SIZE, .size = BUFFER, .count = 1};
	struct perf_trial trial;
	int err = op_say(s, &ask);

	if (!err)
		err = op_expect(s, OP_SIZE);
	s->side.slots = 1;
	if (!err)
		err = perf_size_begin(&s->side, BUFFER, &trial);
	if (err)
		return err;
	perf_trial_end(&s->side, &trial);
	s->data[0] = s->side.pool.buffer[0].data;
	return op_say_kind(s, OP_GO);
}

static int count_registrations(struct op_side *s, struct revoke_report *r)
{
	struct perf_message m = {0};
	int err = perf_result(&s->side, &m);

	r->registrations = m.gets - m.hits;
	return err;
}

int revoke_run(struct op_asking *a, const struct perf_report *perf, int *code)
{
	static struct revoke_report r;
	int err = begin(a);

	if (!err)
		err = revoke_rounds(a, &r);
	if (!err)
		err = count_registrations(&a->s, &r);
	if (!err)
		err = forge_all(a, &r);
	tool_progress_end();
	if (err)
		return err;
	if (tool_json)
		print_json(&r, perf);
	else
		print_text(&r, perf);
	*code = is_good(&r) ? TOOL_OK : TOOL_FOUND;
	return 0;
}
