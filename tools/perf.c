/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `holdfast perf`: two processes move buffers of the program's own in three ways, side by side.
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <holdfast/backend.h>

/* ------------------------------------------------------------------ options */

static struct perf_config config = {.nic = "uring",
				    .proxy = "auto",
				    .mode = "exact",
				    .seconds = 4,
				    .seed = 1,
				    .depth = 4,
				    .count = 20000};
static const char every_size[] = "4K,64K,1M,16M", op_sizes[] = "64K,1M";
static const char *sizes_text = every_size, *pattern_text = "reuse", *plot_file, *op_text;

static const struct tool_option options[] = {
	{"op", "NAME",
	 "by SAN sockets: send, write or read (RDMA), beside a plain send and recv of the same bytes; or "
	 "revoke: how fast the peer's access ends, and descriptors that must be refused",
	 TOOL_STRING, &op_text},
	{"listen", "ADDRESS",
	 "be the other side of --connect, for one run after another: unix:PATH, unix:@NAME, tcp:HOST:PORT",
	 TOOL_STRING, &config.listen},
	{"connect", "ADDRESS", "with --op: run with the process that listens there, also on another host",
	 TOOL_STRING, &config.connect},
	{"secret-file", "FILE", "the secret that both sides must have; needed between hosts", TOOL_STRING,
	 &config.secret_file},
	{"once", NULL, "with --listen: leave after one run", TOOL_FLAG, &config.once},
	{"depth", "N", "with --op: operations in flight, 1 to 64", TOOL_U64, &config.depth},
	{"count", "N", "with --op revoke: how many forged descriptors to try", TOOL_U64, &config.count},
	{"nic", "NAME", "the NIC to register with", TOOL_STRING, &config.nic},
	{"proxy", "NAME", "who watches the memory: auto, kmod, uffd, supervise or manual", TOOL_STRING, &config.proxy},
	{"mode", "MODE",
	 "exact, or fast: spares uffd one system call per hit, at the risk that the man page names",
	 TOOL_STRING, &config.mode},
	{"sizes", "LIST", "buffer sizes, with commas between; with --op 64K,1M unless given", TOOL_STRING, &sizes_text},
	{"pattern", "NAME",
	 "reuse: the same buffers again and again; recycle: before each transfer its buffer is freed and "
	 "allocated again, in the ways that allocators do",
	 TOOL_STRING, &pattern_text},
	{"seconds", "N", "time for all sizes together", TOOL_SECONDS, &config.seconds},
	{"plot", "FILE", "draw MB/s against size into FILE: .png, .svg or .txt; needs gnuplot",
	 TOOL_STRING, &plot_file},
	{"seed", "N", "of the bytes that are sent", TOOL_U64, &config.seed},
	{"corrupt", "N", NULL, TOOL_U64, &config.corrupt},
	{"untold", NULL, NULL, TOOL_FLAG, &config.untold},
	{0},
};

static int bad_choice(const char *option, const char *value, const char *choices)
{
	return tool_fail(TOOL_USAGE, "--%s is %s, not '%s'", option, choices, value);
}

/* Looking into the table of NICs starts nothing, so it may come before the fork. */
static int check_nic(void)
{
	char name[32];
	const struct hf_nic_ops *ops;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(config.nic, ":"), config.nic);
	ops = hf_nic_find(name);
	if (!ops)
		return tool_fail(TOOL_USAGE, "there is no NIC '%s'; `holdfast doctor` lists them",
				 name);
	if (ops->qp && config.op == PERF_OP_REVOKE)
		return tool_fail(TOOL_USAGE,
				 "--op revoke tries what must be refused, again and again: by the queue pairs of '%s' the first "
				 "refusal ends the connection; use --nic uring",
				 name);
	if (!ops->send && !(config.op && ops->qp))
		return tool_fail(
			TOOL_USAGE,
			"the NIC '%s' has no data path, so there is nothing to measure; use --nic uring",
			name);
	return TOOL_OK;
}

static int check_sizes(uint64_t *sizes, int *count)
{
	enum { LARGEST_MESSAGE = 0xffffffffu };
	uint64_t largest = config.op ? OP_LARGEST : LARGEST_MESSAGE;

	if (config.op && sizes_text == every_size)
		sizes_text = op_sizes;
	*count = tool_parse_sizes(sizes_text, sizes, PERF_SIZES_MAX);
	if (*count < 0)
		return TOOL_USAGE;
	for (int i = 0; i < *count; i++)
		if (sizes[i] > largest)
			return tool_fail(TOOL_USAGE, "a transfer is at most %" PRIu64 " bytes", largest);
	return TOOL_OK;
}

/* What --op needs, and what it alone can have. */
static int check_op(void)
{
	static const char *const names[] = {NULL, "send", "write", "read", "revoke"};

	for (unsigned i = PERF_OP_SEND; op_text && i <= PERF_OP_REVOKE; i++)
		if (!strcmp(op_text, names[i]))
			config.op = i;
	if (op_text && !config.op)
		return bad_choice("op", op_text, "send, write, read or revoke");
	config.op_name = op_text;
	if (config.listen && (config.op || config.connect))
		return tool_fail(TOOL_USAGE, "with --listen the other side, which connects, gives %s",
				 config.op ? "--op" : "--connect");
	if (!config.op && !config.listen && (config.connect || config.secret_file))
		return tool_fail(TOOL_USAGE, "%s goes with --op send, write, read or revoke",
				 config.connect ? "--connect" : "--secret-file");
	if (config.once && !config.listen)
		return tool_fail(TOOL_USAGE, "--once goes with --listen");
	if (config.depth < 1 || config.depth > OP_BATCH)
		return tool_fail(TOOL_USAGE, "--depth is 1 to %d", OP_BATCH);
	if (config.op == PERF_OP_REVOKE && plot_file)
		return tool_fail(TOOL_USAGE, "--op revoke draws nothing: leave out --plot");
	return TOOL_OK;
}

static int check_options(uint64_t *sizes, int *count)
{
	int code;

	config.recycle = !strcmp(pattern_text, "recycle");
	if (!config.recycle && strcmp(pattern_text, "reuse"))
		return bad_choice("pattern", pattern_text, "reuse or recycle");
	if (strcmp(config.mode, "exact") && strcmp(config.mode, "fast"))
		return bad_choice("mode", config.mode, "exact or fast");
	code = check_op();
	if (!code)
		code = check_sizes(sizes, count);
	if (!code && plot_file)
		code = perf_plot_check(plot_file);
	return code ? code : check_nic();
}

/* ------------------------------------------------------------------ the other process */

struct run {
	struct perf_side side; /* the sending one: this process */
	pid_t receiver;
	uint64_t number;	  /* of the next transfer */
	unsigned turn[PERF_WAYS]; /* whose slot is next */
	unsigned slots;
	uint64_t *rate[PERF_WAYS]; /* bytes per second, one per round */
	uint64_t shown;		   /* when progress was shown last */
};

enum { ROUNDS_MAX = 1 << 16, ROUNDS_MIN = 3 };

static int socket_pairs(int control[2], int data[PERF_PROVIDERS][2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control))
		return -errno;
	for (int i = 0; i < PERF_PROVIDERS; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, data[i]))
			return -errno;
	return 0;
}

/* Keep one end; the other must be closed here, or the death of its owner would not be seen. */
static void keep_end(int end, int control[2], int data[PERF_PROVIDERS][2], int kept[PERF_PROVIDERS])
{
	close(control[!end]);
	for (int i = 0; i < PERF_PROVIDERS; i++) {
		close(data[i][!end]);
		kept[i] = data[i][end];
	}
}

static int start_receiver(struct run *run)
{
	int control[2], data[PERF_PROVIDERS][2], kept[PERF_PROVIDERS];
	int err = socket_pairs(control, data);

	if (err)
		return err;
	fflush(NULL);
	run->receiver = fork();
	if (run->receiver < 0)
		return -errno;
	if (!run->receiver) {
		keep_end(1, control, data, kept);
		_exit(perf_receiver(&config, control[1], kept));
	}
	keep_end(0, control, data, run->side.data);
	run->side.control = control[0];
	run->side.config = &config;
	run->side.access = HF_READ;
	return 0;
}

static void stop_receiver(struct run *run)
{
	close(run->side.control); /* it leaves when it reads this */
	for (int i = 0; i < PERF_PROVIDERS; i++)
		close(run->side.data[i]);
	perf_child_stop(run->receiver);
}

/* Why the run ended early: what the receiver said, or how it died, or what failed here. */
static void explain(struct run *run, int err, char text[PERF_TEXT])
{
	/* who is gone is dead in a moment, if he was killed; else he may be alive, and wait for us */
	int patience_ms = err == -ECONNRESET || err == -ESHUTDOWN || err == -EPIPE ? 30000 : 200, status;
	char own[PERF_TEXT];

	snprintf(own, sizeof(own), "%s", perf_reason(err));
	if (run->side.last.kind != PERF_FAILED && perf_child_ended(run->receiver, patience_ms, &status)) {
		pid_t pid = run->receiver;

		run->receiver = 0;
		if (perf_child_killed(status, pid, "the receiving process", text))
			return;
		/* It says why before it leaves, so the sentence is still in the socket. */
		while (!perf_receive(&run->side) && run->side.last.kind != PERF_FAILED)
			;
	}
	if (run->side.last.kind == PERF_FAILED)
		snprintf(text, PERF_TEXT, "receiver: %.*s", PERF_TEXT - 20, run->side.last.text);
	else
		snprintf(text, PERF_TEXT, "%s", own);
}

/* ------------------------------------------------------------------ one size */

static unsigned batch_of(uint64_t size)
{
	enum { BATCH_BYTES = 1 << 20, BATCH_MAX = 16 };
	uint64_t n = BATCH_BYTES / size;

	return n < 1 ? 1 : n > BATCH_MAX ? BATCH_MAX : (unsigned)n;
}

static int transfer(struct run *run, unsigned way, uint64_t *ns)
{
	unsigned slot = run->turn[way]++ % run->slots;

	return perf_transfer(&run->side, way, slot, run->number++, ns);
}

/* A batch of each way. The order turns with the rounds: no way always follows the same other. */
static int one_round(struct run *run, unsigned round)
{
	unsigned batch = batch_of(run->side.size);

	for (unsigned i = 0; i < PERF_WAYS; i++) {
		unsigned way = (round + i) % PERF_WAYS;
		uint64_t sum = 0, ns;

		for (unsigned n = 0; n < batch; n++) {
			int err = transfer(run, way, &ns);

			if (err)
				return err;
			sum += ns;
		}
		run->rate[way][round % ROUNDS_MAX] =
			(uint64_t)((double)run->side.size * batch * 1e9 / (double)(sum ? sum : 1));
	}
	return 0;
}

static int warm_up(struct run *run)
{
	uint64_t ns;

	for (unsigned i = 0; i < run->slots; i++) {
		int err = transfer(run, PERF_CACHED, &ns);

		if (err)
			return err;
	}
	return 0;
}

/* `from` to `to`: this size's part of the run, for the progress line. */
static int measure(struct run *run, double from, double to, struct perf_row *row)
{
	double budget = config.seconds * (to - from) * 1e9;
	uint64_t start, spent = 0;
	int err = warm_up(run);

	if (!err)
		err = perf_mark(&run->side);
	if (!err)
		err = perf_post(&run->side, PERF_MARK);
	start = tool_now_ns();
	while (!err && ((double)spent < budget || row->rounds < ROUNDS_MIN)) {
		err = one_round(run, row->rounds++);
		spent = tool_now_ns() - start;
		perf_progress(row->size, from + (to - from) * ((double)spent / budget), &run->shown);
	}
	return err;
}

/* Both sides get their buffers and prove that these can be registered. row->error: they can't. */
static int begin(struct run *run, struct perf_row *row)
{
	struct perf_message ask = {.kind = PERF_SIZE, .size = row->size};
	struct perf_side *s = &run->side;
	struct perf_trial trial;
	int err = perf_send_message(s, &ask), own;

	if (!err)
		err = perf_expect(s, PERF_SIZE);
	if (err)
		return err;
	if (s->last.err) {
		snprintf(row->error, sizeof(row->error), "%s", s->last.text);
		return 0;
	}
	own = perf_size_begin(s, row->size, &trial);
	if (own)
		snprintf(row->error, sizeof(row->error), "%s", perf_reason(own));
	run->slots = s->pool.count < s->last.number ? s->pool.count : (unsigned)s->last.number;
	row->buffers = run->slots;
	perf_trial_end(s, &trial);
	return perf_post(s, PERF_GO);
}

static void fill_row(struct run *run, struct perf_row *row, const struct perf_message *own)
{
	const struct perf_message *theirs = &run->side.last;
	unsigned kept = row->rounds < ROUNDS_MAX ? row->rounds : ROUNDS_MAX;

	row->wrong_bytes = theirs->wrong_bytes;
	row->hit_rate = own->gets + theirs->gets ? (double)(own->hits + theirs->hits) /
							   (double)(own->gets + theirs->gets)
						 : 0;
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		row->MBps[way] = (double)tool_percentile(run->rate[way], kept, 50) / 1e6;
		row->p50_ns[way] = own->p50_ns[way];
		row->p99_ns[way] = own->p99_ns[way];
		row->recv_p50_ns[way] = theirs->p50_ns[way];
		row->recv_p99_ns[way] = theirs->p99_ns[way];
	}
}

static int run_size(struct run *run, double from, double to, struct perf_row *row)
{
	struct perf_message own = {0};
	uint64_t first = run->number;
	int err = begin(run, row);

	if (!err && !*row->error)
		err = measure(run, from, to, row);
	if (!err && !*row->error)
		err = perf_result(&run->side, &own);
	if (!err)
		err = perf_post(&run->side, PERF_END);
	if (!err)
		err = perf_expect(&run->side, PERF_RESULT);
	row->transfers = run->number - first;
	row->bytes = row->transfers * row->size;
	if (!err && !*row->error)
		fill_row(run, row, &own);
	perf_size_end(&run->side);
	return err;
}

/* ------------------------------------------------------------------ the run */

static int run_sizes(struct run *run, struct perf_report *report, const uint64_t *sizes, int count)
{
	int err = 0;

	for (int i = 0; i < count && !err; i++) {
		struct perf_row *row = &report->row[i];

		row->size = sizes[i];
		err = run_size(run, (double)i / count, (double)(i + 1) / count, row);
		if (err)
			break;
		report->rows++;
		tool_progress_end();
		if (!tool_json)
			perf_print_row(row);
	}
	return err;
}

static int open_both(struct run *run)
{
	int err = perf_side_open(&run->side);

	/* The receiver's answer is read in any case; its reason is most likely the same one. */
	if (!err)
		err = perf_expect(&run->side, PERF_HELLO);
	if (!err && run->side.last.err) {
		run->side.last.kind = PERF_FAILED;
		err = run->side.last.err;
	}
	return err;
}

static int open_samples(struct run *run)
{
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		run->rate[way] = calloc(ROUNDS_MAX, sizeof(uint64_t));
		if (!run->rate[way])
			return hf_set_error(-ENOMEM, "no memory for the samples");
	}
	return 0;
}

/* 0 or -errno with report->error. */
static int run_all(struct run *run, struct perf_report *report, const uint64_t *sizes, int count)
{
	int err = open_samples(run);

	if (!err)
		err = open_both(run);
	if (!err) {
		snprintf(report->proxy, sizeof(report->proxy), "%s", hf_switch_proxy(run->side.sw));
		if (!tool_json)
			perf_print_head(report);
		err = run_sizes(run, report, sizes, count);
	}
	if (err)
		explain(run, err, report->error);
	perf_side_close(&run->side);
	stop_receiver(run);
	for (unsigned way = 0; way < PERF_WAYS; way++)
		free(run->rate[way]);
	return err;
}

static int perf_run(void)
{
	static struct run run;
	static struct perf_report report = {.config = &config};
	uint64_t sizes[PERF_SIZES_MAX];
	int count = 0, code = check_options(sizes, &count), err;

	if (code)
		return code;
	signal(SIGPIPE, SIG_IGN);
	if (config.listen)
		return op_listen(&config);
	if (config.op)
		return op_run(&config, sizes, count, plot_file);
	err = start_receiver(&run);
	if (err)
		return tool_fail(TOOL_CANNOT, "no second process: %s", strerror(-err));
	err = run_all(&run, &report, sizes, count);
	/* no switch or provider of that name, or with such an option */
	report.misused = !report.rows && (err == -EINVAL || err == -ENOENT);
	return perf_conclude(&report, err, plot_file);
}

const struct tool_command cmd_perf = {
	.name = "perf",
	.summary = "measure transfers: copied (or plain), registered each time, cached",
	.detail =
		"Two processes move buffers of the program's own through registered memory, in one run:\n"
		"  copy      memcpy through a bounce buffer that stays registered\n"
		"  register  register the buffer, transfer, deregister\n"
		"  cached    the registration is found in the cache, when it is still exact\n"
		"The three take turns, a short round each; every figure is the median of the rounds.\n"
		"The clock runs from the start of registering (or copying) until the receiver has let go\n"
		"of its buffer. The receiver compares every byte, outside the clock. Exit code 1: a byte\n"
		"was wrong.\n\n"
		"With --op by SAN sockets, several operations at once, and instead of copy:\n"
		"  plain     send(2) and recv(2) of the same bytes over a socket of the same kind\n"
		"The clock counts what both sides do to register and to let go, and the transfers, but not\n"
		"how the two agree about the next batch. On two hosts:\n"
		"  there  holdfast perf --listen tcp:0.0.0.0:4000 --secret-file FILE\n"
		"  here   holdfast perf --connect tcp:there:4000 --secret-file FILE --op write",
	.options = options,
	.run = perf_run,
};
