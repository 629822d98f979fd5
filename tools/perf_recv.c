/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The receiving process: does what the sender's messages ask, and compares every byte.
 */
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

struct receiver {
	struct perf_side side;
	struct perf_trial trial;
	uint64_t wrong_bytes; /* of the size under way */
};

/* Says why; also wakes a sender that waits for room in the data socket. */
static int fail(struct perf_side *s, int err)
{
	struct perf_message m = {.kind = PERF_FAILED, .err = err};

	snprintf(m.text, sizeof(m.text), "%s", perf_reason(err));
	perf_send_message(s, &m);
	for (unsigned i = 0; i < PERF_PROVIDERS; i++)
		shutdown(s->data[i], SHUT_RDWR);
	return err;
}

static int whole(int err, size_t got, size_t wanted)
{
	return err ? err : got == wanted ? 0 : -EPROTO;
}

static int receive_copy(struct perf_side *s, unsigned char *data, uint64_t *step)
{
	size_t got = 0;
	uint64_t from;
	int err = hf_recv(s->conn[PERF_CACHING], &s->bounce_region, s->bounce, s->size, &got);

	from = tool_now_ns();
	memcpy(data, s->bounce, s->size);
	*step = tool_now_ns() - from;
	return whole(err, got, s->size);
}

static int receive_registered(struct perf_side *s, unsigned which, unsigned char *data, uint64_t *step)
{
	uint64_t from = tool_now_ns();
	struct hf_region region;
	size_t got = 0;
	int err = hf_get(s->provider[which], data, s->size, s->access, &region), put;

	if (err)
		return err;
	*step = tool_now_ns() - from;
	err = hf_recv(s->conn[which], &region, data, s->size, &got);
	from = tool_now_ns();
	put = hf_put(s->provider[which], &region);
	*step += tool_now_ns() - from;
	return err || put ? (err ? err : put) : whole(0, got, s->size);
}

static int receive_once(struct perf_side *s, unsigned way, unsigned char *data)
{
	uint64_t step = 0;
	int err;

	if (way == PERF_COPY)
		err = receive_copy(s, data, &step);
	else
		err = receive_registered(s, perf_provider_of(way), data, &step);
	perf_step(s, way, step);
	return err;
}

static int transfer(struct receiver *r)
{
	struct perf_side *s = &r->side;
	unsigned way = s->last.way;
	uint64_t number = s->last.number;
	unsigned char *data = perf_take(s, s->last.slot);
	int err;

	if (!data)
		return fail(s, -ENOMEM);
	/* Whatever lay here before can't pass for what is to come. */
	perf_fill(data, s->size, s->config->seed, number, true);
	err = perf_post(s, PERF_READY);
	if (!err)
		err = perf_expect(s, PERF_GO);
	if (err)
		return err;
	err = receive_once(s, way, data);
	if (err)
		return fail(s, err);
	err = perf_post(s, PERF_ACK);
	r->wrong_bytes += perf_wrong_bytes(data, s->size, s->config->seed, number);
	return err;
}

static int begin(struct receiver *r)
{
	struct perf_message answer = {.kind = PERF_SIZE};

	r->wrong_bytes = 0;
	answer.err = perf_size_begin(&r->side, r->side.last.size, &r->trial);
	answer.number = r->side.pool.count;
	if (answer.err)
		snprintf(answer.text, sizeof(answer.text), "%s", perf_reason(answer.err));
	return perf_send_message(&r->side, &answer);
}

static int end(struct receiver *r)
{
	struct perf_message answer = {.kind = PERF_RESULT, .wrong_bytes = r->wrong_bytes};
	int err = perf_result(&r->side, &answer);

	perf_trial_end(&r->side, &r->trial);
	perf_size_end(&r->side);
	return err ? fail(&r->side, err) : perf_send_message(&r->side, &answer);
}

static int serve_message(struct receiver *r)
{
	switch (r->side.last.kind) {
	case PERF_SIZE:
		return begin(r);
	case PERF_START:
		return transfer(r);
	case PERF_MARK:
		return perf_mark(&r->side);
	case PERF_GO: /* the sender has proved its part too */
		perf_trial_end(&r->side, &r->trial);
		return 0;
	case PERF_END:
		return end(r);
	}
	return -EPROTO;
}

static int hello(struct perf_side *s)
{
	struct perf_message m = {.kind = PERF_HELLO, .err = perf_side_open(s)};
	int err;

	if (m.err)
		snprintf(m.text, sizeof(m.text), "%s", perf_reason(m.err));
	err = perf_send_message(s, &m);
	return m.err ? m.err : err;
}

int perf_receiver(const struct perf_config *config, int control, const int data[PERF_PROVIDERS])
{
	static struct receiver r;
	int err;

	r.side = (struct perf_side){.config = config, .control = control, .access = HF_WRITE};
	memcpy(r.side.data, data, sizeof(r.side.data));
	err = hello(&r.side);
	while (!err) {
		err = perf_receive(&r.side);
		if (err == -ECONNRESET) /* the sender is done, or dead: it is the one who reports */
			break;
		if (!err)
			err = serve_message(&r);
	}
	if (r.side.pool.count)
		perf_size_end(&r.side);
	perf_side_close(&r.side);
	return err == -ECONNRESET ? TOOL_OK : TOOL_CANNOT;
}
