/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The other process of `walk`: a program with its own switch, provider and buffer, which does what it is asked and says
 * how that ended.
 */
#include "perf.h"
#include "tool.h"
#include "walk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <holdfast/backend.h>

struct peer {
	struct hf_switch *sw;
	struct hf_provider *provider;
	struct hf_cq *cq;
	struct hf_sock *sock[WALK_SOCKS];
	unsigned char *data;
};

static int open_all(struct peer *p, const char *nic, const char *proxy)
{
	char options[64];
	int err;

	snprintf(options, sizeof(options), "proxy=%s", proxy);
	p->data = malloc(WALK_SIZE);
	if (!p->data)
		return hf_set_error(-ENOMEM, "no memory");
	err = hf_switch_open(options, &p->sw);
	if (!err)
		err = hf_provider_open(p->sw, nic, NULL, &p->provider);
	return err ? err : hf_cq_open(&p->cq);
}

static void close_all(struct peer *p)
{
	for (unsigned i = 0; i < WALK_SOCKS; i++)
		hf_sock_close(p->sock[i]);
	hf_cq_close(p->cq);
	hf_provider_close(p->provider);
	hf_switch_close(p->sw);
	free(p->data);
}

static int post(struct peer *p, const struct peer_ask *ask, uint64_t mr)
{
	struct hf_segment seg = {p->data, ask->len, mr};
	struct hf_sock *s = p->sock[ask->sock];

	switch (ask->kind) {
	case PEER_SEND:
		return hf_post_send(s, &seg, 1, NULL);
	case PEER_RECEIVE:
		return hf_post_recv(s, &seg, 1, NULL);
	case PEER_WRITE:
		return hf_post_write(s, &seg, 1, ask->descriptor, HF_DESCRIPTOR_SIZE, ask->offset, NULL);
	case PEER_READ:
		return hf_post_read(s, &seg, 1, ask->descriptor, HF_DESCRIPTOR_SIZE, ask->offset, NULL);
	}
	return -EINVAL;
}

static int complete(struct peer *p, struct peer_answer *answer)
{
	struct hf_completion c;
	int n = hf_cq_wait(p->cq, &c, 1, WALK_PATIENCE_MS);

	if (n <= 0)
		return n ? n : hf_set_error(-ETIMEDOUT, "nothing has completed");
	answer->bytes = c.bytes;
	return c.status ? hf_set_error(c.status, "%s", hf_completion_text(&c)) : 0;
}

static int transfer(struct peer *p, const struct peer_ask *ask, struct peer_answer *answer)
{
	bool receives = ask->kind == PEER_RECEIVE || ask->kind == PEER_READ;
	uint64_t mr;
	int err, dereg;

	if (ask->sock >= WALK_SOCKS || ask->len > WALK_SIZE)
		return -EINVAL;
	perf_fill(p->data, WALK_SIZE, ask->seed, 0, receives);
	err = hf_mr_reg(p->sock[ask->sock], p->data, WALK_SIZE, HF_READWRITE, &mr);
	if (err)
		return err;
	err = post(p, ask, mr);
	if (!err)
		err = complete(p, answer);
	if (!err && receives)
		answer->wrong = perf_wrong_bytes(p->data, ask->len, ask->seed, 0);
	dereg = hf_mr_dereg(p->sock[ask->sock], mr);
	return err ? err : dereg;
}

static int connect_to(struct peer *p, const struct peer_ask *ask)
{
	int err = ask->sock > WALK_SOCKS || ask->count > WALK_SOCKS - ask->sock ? -EINVAL : 0;

	for (unsigned i = ask->sock; i < ask->sock + ask->count && !err; i++) {
		hf_sock_close(p->sock[i]);
		p->sock[i] = NULL;
		err = hf_connect(p->provider, ask->address, NULL, p->cq, WALK_PATIENCE_MS, &p->sock[i]);
	}
	return err;
}

static void serve(struct peer *p, const struct peer_ask *ask, struct peer_answer *answer)
{
	answer->status =
		ask->kind == PEER_CONNECT ? connect_to(p, ask) : transfer(p, ask, answer);
	if (answer->status)
		snprintf(answer->text, sizeof(answer->text), "%s", perf_reason(answer->status));
}

int walk_peer(int control, const char *nic, const char *proxy)
{
	static struct peer p;
	struct peer_ask ask;
	int err = open_all(&p, nic, proxy);

	/* a failure of the start is the answer to the first question */
	while (recv(control, &ask, sizeof(ask), 0) == sizeof(ask)) {
		struct peer_answer answer = {.status = err};

		ask.address[sizeof(ask.address) - 1] = 0;
		if (err)
			snprintf(answer.text, sizeof(answer.text), "%s", perf_reason(err));
		else
			serve(&p, &ask, &answer);
		if (send(control, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			break;
	}
	close_all(&p);
	return err ? TOOL_CANNOT : TOOL_OK;
}
