/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The sending end of one transfer, with the clock.
 */
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <string.h>

static int send_copy(struct perf_side *s, const unsigned char *data, uint64_t *step)
{
	uint64_t from = tool_now_ns();

	memcpy(s->bounce, data, s->size);
	*step = tool_now_ns() - from;
	return hf_send(s->conn[PERF_CACHING], &s->bounce_region, s->bounce, s->size);
}

static int send_registered(struct perf_side *s, unsigned which, const unsigned char *data,
			   uint64_t *step)
{
	uint64_t from = tool_now_ns(), got;
	struct hf_region region;
	int err = hf_get(s->provider[which], data, s->size, s->access, &region), put;

	if (err)
		return err;
	got = tool_now_ns();
	err = hf_send(s->conn[which], &region, data, s->size);
	*step = got - from;
	from = tool_now_ns();
	put = hf_put(s->provider[which], &region);
	*step += tool_now_ns() - from;
	return err ? err : put;
}

static int send_once(struct perf_side *s, unsigned way, const unsigned char *data, uint64_t *step)
{
	if (way == PERF_COPY)
		return send_copy(s, data, step);
	return send_registered(s, perf_provider_of(way), data, step);
}

int perf_transfer(struct perf_side *s, unsigned way, unsigned slot, uint64_t number, uint64_t *ns)
{
	struct perf_message start = {.kind = PERF_START,
				     .way = (uint8_t)way,
				     .slot = (uint8_t)slot,
				     .size = s->size,
				     .number = number};
	uint64_t from, step = 0;
	unsigned char *data;
	int err = perf_send_message(s, &start);

	if (err)
		return err;
	data = perf_take(s, slot);
	if (!data)
		return -ENOMEM;
	perf_prepare(s, data, number);
	err = perf_expect(s, PERF_READY);
	if (err)
		return err;
	from = tool_now_ns();
	err = perf_post(s, PERF_GO);
	if (!err)
		err = send_once(s, way, data, &step);
	if (!err)
		err = perf_expect(s, PERF_ACK);
	*ns = tool_now_ns() - from;
	perf_step(s, way, step);
	return err;
}
