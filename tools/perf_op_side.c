/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What both sides of `perf --op` have: providers, connections, and the messages between the two.
 */
#include "perf_op.h"
#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <holdfast/backend.h>

static const uint64_t MAGIC = 0x316670646c6f6800u | sizeof(struct op_message) << 48;

volatile sig_atomic_t op_interrupted;

/* ------------------------------------------------------------------ open and close */

int op_side_open(struct op_side *s, const struct perf_config *config)
{
	int err;

	s->run = *config;
	s->side.config = &s->run;
	s->side.san = true;
	s->plain = -1;
	err = perf_side_open(&s->side);
	if (!err)
		err = hf_cq_open(&s->control_cq);
	if (!err)
		err = hf_cq_open(&s->data_cq);
	return err;
}

/* What has completed because its connection closed is not for the next run. */
static void drain(struct hf_cq *cq)
{
	struct hf_completion c;

	while (cq && hf_cq_poll(cq, &c, 1) > 0)
		;
}

/* Sockets first: then nothing is under way in the memory that goes next. */
void op_disconnect(struct op_side *s)
{
	for (unsigned i = 0; i < PERF_PROVIDERS; i++) {
		hf_sock_close(s->sock[i]);
		s->sock[i] = NULL;
	}
	hf_sock_close(s->control);
	s->control = NULL;
	drain(s->control_cq);
	drain(s->data_cq);
	if (s->plain >= 0)
		close(s->plain);
	s->plain = -1;
	if (s->side.pool.count)
		perf_size_end(&s->side);
	if (s->box)
		munmap(s->box, (1 + OP_INBOX) * sizeof(*s->box));
	s->box = NULL;
}

void op_side_close(struct op_side *s)
{
	op_disconnect(s);
	hf_cq_close(s->control_cq);
	hf_cq_close(s->data_cq);
	perf_side_close(&s->side);
}

/* ------------------------------------------------------------------ addresses */

void op_options(const struct perf_config *config, char *out, size_t size)
{
	snprintf(out, size, "max_message=%u%s%s", OP_LARGEST, config->secret_file ? ",secret_file=" : "",
		 config->secret_file ? config->secret_file : "");
}

static int too_long(const char *address)
{
	return hf_set_error(-ENAMETOOLONG, "an address beside '%s' is too long", address);
}

int op_beside(const char *base, const char *ending, char out[OP_ADDRESS])
{
	const char *port = strrchr(base, ':');
	bool tcp = !strncmp(base, "tcp:", 4);
	int n = tcp && port ? snprintf(out, OP_ADDRESS, "%.*s:0", (int)(port - base), base) :
			      snprintf(out, OP_ADDRESS, "%s%s", base, ending);

	return n < OP_ADDRESS ? 0 : too_long(base);
}

int op_reach(const char *told, const char *peer, char out[OP_ADDRESS])
{
	const char *port = strrchr(told, ':'), *host_end = strrchr(peer, ':');
	bool tcp = !strncmp(told, "tcp:", 4) && !strncmp(peer, "tcp:", 4);
	int n = tcp && port && host_end ?
			snprintf(out, OP_ADDRESS, "%.*s%s", (int)(host_end - peer), peer, port) :
			snprintf(out, OP_ADDRESS, "%s", told);

	return n < OP_ADDRESS ? 0 : too_long(peer);
}

/* ------------------------------------------------------------------ messages */

static int post_inbox(struct op_side *s, unsigned i)
{
	struct hf_segment seg = {&s->box[1 + i], sizeof(*s->box), s->box_mr};

	return hf_post_recv(s->control, &seg, 1, op_context(i));
}

int op_control_open(struct op_side *s)
{
	size_t len = (1 + OP_INBOX) * sizeof(*s->box);
	void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (map == MAP_FAILED)
		return hf_set_error(-ENOMEM, "no memory for messages");
	s->box = map;
	s->sent = s->come = s->taken = 0;
	err = hf_mr_reg(s->control, s->box, len, HF_READWRITE, &s->box_mr);
	for (unsigned i = 0; i < OP_INBOX && !err; i++)
		err = post_inbox(s, i);
	return err;
}

/* One completion from `cq`: -ETIMEDOUT after `patience_ms` (-1: no end), -EINTR when a signal asks to leave. */
static int next(struct hf_cq *cq, int patience_ms, struct hf_completion *c)
{
	enum { SLICE_MS = 200 };
	uint64_t start = tool_now_ns();
	int n;

	for (;;) {
		n = hf_cq_wait(cq, c, 1, SLICE_MS);
		if (n)
			return n < 0 ? n : 0;
		if (op_interrupted)
			return hf_set_error(-EINTR, "interrupted");
		if (patience_ms >= 0 && tool_now_ns() - start > (uint64_t)patience_ms * 1000000u)
			return hf_set_error(-ETIMEDOUT, "the other side has not answered for %d s",
					    patience_ms / 1000);
	}
}

/* Take note of what has happened on the control connection. */
static int pump(struct op_side *s, int patience_ms)
{
	struct hf_completion c;
	int err = next(s->control_cq, patience_ms, &c);

	if (err)
		return err;
	if (c.status)
		return hf_set_error(c.status, "the other side is gone: %s", hf_completion_text(&c));
	if (c.op == HF_OP_SEND)
		s->sent++;
	else
		s->arrived[s->come++ % OP_INBOX] = op_index(&c);
	return 0;
}

int op_say(struct op_side *s, struct op_message *m)
{
	struct hf_segment seg = {s->box, sizeof(*m), s->box_mr};
	int err;

	m->magic = MAGIC;
	memcpy(s->box, m, sizeof(*m));
	err = hf_post_send(s->control, &seg, 1, NULL);
	while (!err && !s->sent)
		err = pump(s, OP_PATIENCE_MS);
	if (!err)
		s->sent--;
	return err;
}

int op_say_kind(struct op_side *s, enum op_kind kind)
{
	struct op_message m = {.kind = kind};

	return op_say(s, &m);
}

int op_answer(struct op_side *s, struct op_message *m, int err)
{
	m->err = err;
	if (err)
		snprintf(m->text, sizeof(m->text), "%s", perf_reason(err));
	return op_say(s, m);
}

int op_hear(struct op_side *s, int patience_ms)
{
	unsigned i;
	int err = 0;

	while (!err && s->come == s->taken)
		err = pump(s, patience_ms);
	if (err)
		return err;
	i = s->arrived[s->taken++ % OP_INBOX];
	memcpy(&s->last, &s->box[1 + i], sizeof(s->last));
	s->last.text[sizeof(s->last.text) - 1] = 0;
	if (s->last.magic != MAGIC)
		return hf_set_error(-EPROTO, "the other side is not `holdfast perf` of this version");
	return post_inbox(s, i);
}

int op_expect(struct op_side *s, enum op_kind kind)
{
	int err = op_hear(s, OP_PATIENCE_MS);

	if (err)
		return err;
	if (s->last.err)
		return hf_set_error(s->last.err < 0 ? s->last.err : -EIO, "the other side: %s",
				    s->last.text);
	if (s->last.kind != kind)
		return hf_set_error(-EPROTO, "message %u came where %u was due", s->last.kind, kind);
	return 0;
}

int op_completed(struct op_side *s, struct hf_completion *c)
{
	int err = next(s->data_cq, OP_PATIENCE_MS, c);

	return err ? err : c->status ? hf_set_error(c->status, "%s", hf_completion_text(c)) : 0;
}

/* ------------------------------------------------------------------ buffers */

/* The cache and what is registered each time draw on the same account (perf_side.c): half for each. */
unsigned op_slots(const struct perf_side *s, uint64_t size, uint64_t depth)
{
	uint64_t n = OP_BATCH_BYTES / size, room = perf_room(s, size) / 2;

	n = n < depth ? depth : n;
	if (s->memlock && n > room)
		n = room;
	return n < 1 ? 1 : n > OP_BATCH ? OP_BATCH : (unsigned)n;
}

unsigned op_access(enum perf_op op, bool asking)
{
	return (op == PERF_OP_READ) == asking ? HF_WRITE : HF_READ;
}
