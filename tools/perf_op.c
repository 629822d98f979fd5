/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The asking side of `perf --op`: it connects, asks for batches, has the clock, and reports.
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <holdfast/backend.h>

enum { ROUNDS_MAX = 1 << 16, ROUNDS_MIN = 3 };

/* ------------------------------------------------------------------ one batch */

static int take_buffers(struct op_side *s, unsigned count, uint64_t number)
{
	for (unsigned i = 0; i < count; i++) {
		s->data[i] = perf_take(&s->side, i);
		if (!s->data[i])
			return -ENOMEM;
		if (s->run.op == PERF_OP_READ)
			perf_fill(s->data[i], s->side.size, s->run.seed, number + i, true);
		else
			perf_prepare(&s->side, s->data[i], number + i);
	}
	return 0;
}

static int post(struct op_side *s, struct hf_sock *sock, const struct hf_segment *seg, unsigned i)
{
	const void *descriptor = s->last.descriptor[i];

	switch (s->run.op) {
	case PERF_OP_WRITE:
		return hf_post_write(sock, seg, 1, descriptor, HF_DESCRIPTOR_SIZE, 0, op_context(i));
	case PERF_OP_READ:
		return hf_post_read(sock, seg, 1, descriptor, HF_DESCRIPTOR_SIZE, 0, op_context(i));
	default:
		return hf_post_send(sock, seg, 1, op_context(i));
	}
}

static int register_and_post(struct op_side *s, struct hf_sock *sock, unsigned i)
{
	struct hf_segment seg = {.addr = s->data[i], .len = s->side.size};
	uint64_t from = tool_now_ns();
	int err = hf_mr_reg(sock, s->data[i], seg.len, s->side.access, &s->mr[i]);

	s->step_ns[i] = tool_now_ns() - from;
	seg.mr = s->mr[i];
	return err ? err : post(s, sock, &seg, i);
}

static int complete_one(struct op_side *s, struct hf_sock *sock, unsigned way)
{
	struct hf_completion c;
	uint64_t from;
	unsigned i;
	int err = op_completed(s, &c);

	if (err)
		return err;
	i = op_index(&c);
	from = tool_now_ns();
	err = hf_mr_dereg(sock, s->mr[i]);
	perf_step(&s->side, way, s->step_ns[i] + tool_now_ns() - from);
	return err;
}

/* `depth` at once until all are done. */
static int transfer_all(struct op_side *s, unsigned way, unsigned count)
{
	struct hf_sock *sock = s->sock[perf_provider_of(way)];
	unsigned posted = 0;
	int err = 0;

	for (unsigned done = 0; done < count && !err; done++) {
		while (!err && posted < count && posted - done < s->run.depth)
			err = register_and_post(s, sock, posted++);
		if (!err)
			err = complete_one(s, sock, way);
	}
	return err;
}

static int do_plain(struct op_side *s, unsigned count)
{
	if (s->run.op == PERF_OP_READ)
		return plain_read(s->plain, s->data, count, s->side.size);
	return plain_send(s->plain, s->data, count, s->side.size);
}

/* *ns: what the clock has counted on both sides; *wrong grows by the wrong bytes that either side has found. */
static int batch(struct op_asking *a, unsigned way, uint64_t *ns, uint64_t *wrong)
{
	struct op_side *s = &a->s;
	unsigned count = s->side.slots;
	struct op_message start = {.kind = OP_START, .way = way, .count = count, .number = a->number};
	uint64_t from;
	int err = op_say(s, &start);

	if (!err)
		err = take_buffers(s, count, a->number);
	if (!err)
		err = op_expect(s, OP_READY);
	if (err)
		return err;
	*ns = s->last.ns;
	from = tool_now_ns();
	err = way == PERF_PLAIN ? do_plain(s, count) : transfer_all(s, way, count);
	*ns += tool_now_ns() - from;
	if (!err)
		err = op_say_kind(s, OP_DONE);
	if (!err)
		err = op_expect(s, OP_ACK);
	if (err)
		return err;
	*ns += s->last.ns;
	*wrong += s->last.wrong_bytes;
	for (unsigned i = 0; i < count && s->run.op == PERF_OP_READ; i++)
		*wrong += perf_wrong_bytes(s->data[i], s->side.size, s->run.seed, a->number + i);
	a->number += count;
	return 0;
}

/* ------------------------------------------------------------------ one size */

static int one_round(struct op_asking *a, unsigned round, struct perf_row *row)
{
	double bytes = (double)a->s.side.size * a->s.side.slots;

	for (unsigned i = 0; i < PERF_WAYS; i++) {
		unsigned way = (round + i) % PERF_WAYS;
		uint64_t ns = 0;
		int err = batch(a, way, &ns, &row->wrong_bytes);

		if (err)
			return err;
		a->rate[way][round % ROUNDS_MAX] = (uint64_t)(bytes * 1e9 / (double)(ns ? ns : 1));
	}
	return 0;
}

static int warm_up(struct op_asking *a, struct perf_row *row)
{
	int err = 0;

	for (unsigned way = 0; way < PERF_WAYS && !err; way++) {
		uint64_t ns;

		err = batch(a, way, &ns, &row->wrong_bytes);
	}
	if (!err)
		err = perf_mark(&a->s.side);
	return err ? err : op_say_kind(&a->s, OP_MARK);
}

static int measure(struct op_asking *a, double from, double to, struct perf_row *row)
{
	double budget = a->s.run.seconds * (to - from) * 1e9, spent = 0;
	int err = warm_up(a, row);
	uint64_t start = tool_now_ns();

	while (!err && (spent < budget || row->rounds < ROUNDS_MIN)) {
		err = one_round(a, row->rounds++, row);
		spent = (double)(tool_now_ns() - start);
		perf_progress(row->size, from + (to - from) * spent / budget, &a->shown);
	}
	return err;
}

/* Both sides get their buffers and prove that these can be registered. row->error: they can't. */
static int begin(struct op_asking *a, struct perf_row *row)
{
	struct op_side *s = &a->s;
	struct op_message ask = {.kind = OP_SIZE, .size = row->size, .count = (uint32_t)s->run.depth};
	struct perf_trial trial;
	int err = op_say(s, &ask), own;

	if (!err)
		err = op_hear(s, OP_PATIENCE_MS);
	if (err)
		return err;
	if (s->last.err) {
		snprintf(row->error, sizeof(row->error), "the other side: %.*s", PERF_TEXT - 20,
			 s->last.text);
		return 0;
	}
	s->side.slots = op_slots(&s->side, row->size, s->run.depth);
	own = perf_size_begin(&s->side, row->size, &trial);
	if (own)
		snprintf(row->error, sizeof(row->error), "%s", perf_reason(own));
	perf_trial_end(&s->side, &trial);
	s->side.slots = s->side.pool.count < s->last.count ? s->side.pool.count : s->last.count;
	row->buffers = s->side.slots;
	return op_say_kind(s, OP_GO);
}

static void fill_row(struct op_asking *a, struct perf_row *row, const struct perf_message *own)
{
	const struct op_message *theirs = &a->s.last;
	unsigned kept = row->rounds < ROUNDS_MAX ? row->rounds : ROUNDS_MAX;
	uint64_t gets = own->gets + theirs->gets;

	row->hit_rate = gets ? (double)(own->hits + theirs->hits) / (double)gets : 0;
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		row->MBps[way] = (double)tool_percentile(a->rate[way], kept, 50) / 1e6;
		row->p50_ns[way] = own->p50_ns[way];
		row->p99_ns[way] = own->p99_ns[way];
		row->recv_p50_ns[way] = theirs->p50_ns[way];
		row->recv_p99_ns[way] = theirs->p99_ns[way];
	}
}

static int run_size(struct op_asking *a, double from, double to, struct perf_row *row)
{
	struct perf_message own = {0};
	uint64_t first = a->number;
	int err = begin(a, row);

	if (!err && !*row->error)
		err = measure(a, from, to, row);
	if (!err && !*row->error)
		err = perf_result(&a->s.side, &own);
	if (!err)
		err = op_say_kind(&a->s, OP_END);
	if (!err)
		err = op_expect(&a->s, OP_RESULT);
	row->transfers = a->number - first;
	row->bytes = row->transfers * row->size;
	if (!err && !*row->error)
		fill_row(a, row, &own);
	if (!err)
		perf_size_end(&a->s.side); /* else when nothing is under way any more */
	return err;
}

static int run_sizes(struct op_asking *a, struct perf_report *report, const uint64_t *sizes, int count)
{
	int err = 0;

	for (int i = 0; i < count && !err; i++) {
		struct perf_row *row = &report->row[i];

		row->size = sizes[i];
		err = run_size(a, (double)i / count, (double)(i + 1) / count, row);
		report->rows += !err || row->rounds;
		tool_progress_end();
		if (!tool_json && !err)
			perf_print_row(row);
	}
	return err;
}

/* ------------------------------------------------------------------ connecting */

/* The other process, and where it listens. */
static int start_child(struct op_asking *a, const struct perf_config *config, struct op_birth *birth)
{
	int ends[2];
	ssize_t n;

	if (pipe(ends))
		return hf_set_error(-errno, "no pipe: %s", strerror(errno));
	fflush(NULL);
	a->child = fork();
	if (a->child < 0)
		return hf_set_error(-errno, "no second process: %s", strerror(errno));
	if (!a->child) {
		close(ends[0]);
		_exit(op_child(config, ends[1]));
	}
	close(ends[1]);
	n = read(ends[0], birth, sizeof(*birth));
	close(ends[0]);
	if (n != sizeof(*birth))
		return hf_set_error(-ECONNRESET, "the other process is gone");
	return birth->err ? hf_set_error(birth->err, "%s", birth->text) : 0;
}

static int hello(struct op_side *s)
{
	struct op_message m = {.kind = OP_HELLO,
			       .op = s->run.op,
			       .recycle = s->run.recycle,
			       .seed = s->run.seed,
			       .corrupt = s->run.corrupt};
	int err = op_control_open(s);

	if (!err)
		err = op_say(s, &m);
	return err ? err : op_expect(s, OP_HELLO);
}

/* Where the other side waits for the data connections of this run. */
static int join(struct op_side *s, const char *peer, const char *options)
{
	static const unsigned way_of[PERF_PROVIDERS] = {PERF_CACHED, PERF_REGISTER};
	char address[OP_ADDRESS];
	int err = 0;

	for (unsigned i = 0; i < PERF_PROVIDERS && !err; i++) {
		err = op_reach(s->last.address[way_of[i]], peer, address);
		if (!err)
			err = hf_connect(s->side.provider[i], address, options, s->data_cq, OP_PATIENCE_MS,
					 &s->sock[i]);
	}
	if (!err)
		err = op_reach(s->last.address[PERF_PLAIN], peer, address);
	if (!err) {
		s->plain = plain_connect(address, s->last.token);
		err = s->plain < 0 ? s->plain : 0;
	}
	return err ? err : op_expect(s, OP_JOINED);
}

static int connect_to(struct op_side *s, const char *address)
{
	struct hf_sock_info info;
	char options[512];
	int err;

	op_options(&s->run, options, sizeof(options));
	err = hf_connect(s->side.provider[PERF_CACHING], address, options, s->control_cq, OP_PATIENCE_MS,
			 &s->control);
	if (!err)
		err = hf_sock_info(s->control, &info, sizeof(info));
	if (!err)
		err = hello(s);
	if (!err) {
		s->last.address[PERF_PLAIN][OP_ADDRESS - 1] = 0;
		s->last.address[PERF_REGISTER][OP_ADDRESS - 1] = 0;
		s->last.address[PERF_CACHED][OP_ADDRESS - 1] = 0;
		err = join(s, info.peer, options);
	}
	return err;
}

static int open_both(struct op_asking *a, const struct perf_config *config, struct perf_report *report)
{
	struct op_birth birth = {0};
	const char *address = config->connect;
	int err = 0;

	/* the child first: nothing is open yet that it would get */
	if (!address) {
		err = start_child(a, config, &birth);
		address = birth.text;
	}
	if (!err)
		err = op_side_open(&a->s, config);
	a->s.side.access = op_access(config->op, true);
	if (!err)
		err = connect_to(&a->s, address);
	if (!err)
		snprintf(report->peer, sizeof(report->peer), "%.*s",
			 config->connect ? (int)strlen(address) : 4, address);
	if (a->s.side.sw)
		snprintf(report->proxy, sizeof(report->proxy), "%s", hf_switch_proxy(a->s.side.sw));
	return err;
}

/* ------------------------------------------------------------------ the run */

/* What failed here, or how the other process died. */
static void explain(struct op_asking *a, int err, char text[PERF_TEXT])
{
	enum { PATIENCE_MS = 200 };
	int status;

	snprintf(text, PERF_TEXT, "%s", perf_reason(err));
	if (!a->child || !perf_child_ended(a->child, PATIENCE_MS, &status))
		return;
	perf_child_killed(status, a->child, "the other process", text);
	a->child = 0;
}

static int open_samples(struct op_asking *a)
{
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		a->rate[way] = calloc(ROUNDS_MAX, sizeof(uint64_t));
		if (!a->rate[way])
			return hf_set_error(-ENOMEM, "no memory for the samples");
	}
	return 0;
}

static void close_all(struct op_asking *a)
{
	op_side_close(&a->s);
	perf_child_stop(a->child);
	for (unsigned way = 0; way < PERF_WAYS; way++)
		free(a->rate[way]);
}

static int transfers(struct op_asking *a, struct perf_report *report, const uint64_t *sizes, int count)
{
	if (!tool_json)
		perf_print_head(report);
	return run_sizes(a, report, sizes, count);
}

int op_run(const struct perf_config *config, const uint64_t *sizes, int count, const char *plot_file)
{
	static struct op_asking a;
	static struct perf_report report;
	int err, code = TOOL_OK;

	a.s.plain = -1;
	report.config = config;
	err = open_samples(&a);
	if (!err)
		err = open_both(&a, config, &report);
	if (!err && config->op == PERF_OP_REVOKE)
		err = revoke_run(&a, &report, &code);
	else if (!err)
		err = transfers(&a, &report, sizes, count);
	if (err)
		explain(&a, err, report.error);
	/* an address or an option that can't be, or no proxy of that name */
	report.misused = !report.rows && (err == -EINVAL || (err == -ENOENT && !a.s.side.sw));
	close_all(&a);
	if (config->op != PERF_OP_REVOKE)
		return perf_conclude(&report, err, plot_file);
	return err ? tool_fail(report.misused ? TOOL_USAGE : TOOL_CANNOT, "%s", report.error) : code;
}
