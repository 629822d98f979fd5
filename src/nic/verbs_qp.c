/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Queue pairs: reliable connections, each with a completion queue and a channel of its own.
 *
 *   open    RESET ─► INIT: receives can be posted            ready   ─► RTR ─► RTS: requests, too
 *   stop    ─► ERR, then the windows go, then the queue pair is destroyed. When that call returns nothing moves: soft RoCE waits for
 *           what it has begun. The error state alone is only asked for there, and reached later; RESET waits, but Linux 6.1
 *           takes the packets away from a task that is at one of them, and crashes, and on Linux 6.12 a packet that comes in the midst of
 *           it can keep the queue pair for good: to destroy it then waits for 50 s, and the kernel warns.
 *
 * Every request is signaled, so completions say how far each queue is. What poll() isn't asked for yet is in the
 * stash: arm() and revoke() look, too.
 */
#include "verbs.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../os.h"

#define ADDRESS_MAGIC 0x50514648u /* "HFQP" */
#define ADDRESS_VERSION 1
#define MAX_READS 16
#define RECEIVE (1ull << 63) /* wr_id of a receive; the rest is its place in the queue */

/* Before it gives up: 8 times 0.5 s. A killed peer is noticed by the stream socket long before. */
#define ACK_TIMEOUT 17
#define RETRIES 7
#define RNR_FOREVER 7
#define RNR_TIMER 12 /* 0.64 ms */

_Static_assert(sizeof(struct verbs_address) <= HF_QP_ADDRESS, "an address fits");

/* ------------------------------------------------------------------ what was posted */

struct verbs_posted *verbs_queue_push(struct verbs_queue *q, uint64_t *index)
{
	if (q->head - q->tail == q->size)
		return NULL;
	*index = q->head++ % q->size;
	return &q->slot[*index];
}

static bool queue_make(struct verbs_queue *q, unsigned size)
{
	q->size = size;
	q->slot = os_calloc(size, sizeof(*q->slot));
	return q->slot;
}

/* ------------------------------------------------------------------ open, close */

static int why(const struct verbs_qp *q, const char *what)
{
	int err = errno ? errno : EIO;

	return hf_set_error(-err, "%s can't make %s for a connection of depth %u: %s", q->nic->name, what, q->depth,
			    strerror(err));
}

static int make_queue_pair(struct verbs_qp *q)
{
	struct ibv_qp_init_attr attr = { .send_cq = q->cq,
					 .recv_cq = q->cq,
					 .qp_type = IBV_QPT_RC,
					 .sq_sig_all = 1,
					 .cap = { .max_send_wr = q->sq.size,
						  .max_recv_wr = q->rq.size,
						  .max_send_sge = VERBS_SGE,
						  .max_recv_sge = VERBS_SGE } };

	q->qp = ibv_create_qp(q->nic->pd, &attr);
	return q->qp ? 0 : why(q, "a queue pair");
}

static int to_init(struct verbs_qp *q)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = (uint8_t)q->place.port };
	int rc = ibv_modify_qp(q->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);

	return rc ? hf_set_error(-rc, "%s: a queue pair can't be started: %s", q->nic->name, strerror(rc)) : 0;
}

static int make_channel(struct verbs_qp *q)
{
	int fd, rc;

	q->channel = ibv_create_comp_channel(q->nic->context);
	if (!q->channel)
		return why(q, "a completion channel");
	fd = q->channel->fd;
	rc = hf_close_on_fork(fd);
	if (!rc && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
		rc = hf_set_error(-errno, "%s: the completion channel can't be polled: %s", q->nic->name, strerror(errno));
		hf_close_on_fork_done(fd);
	}
	if (rc) {
		ibv_destroy_comp_channel(q->channel);
		q->channel = NULL;
	}
	return rc;
}

static int make_all(struct verbs_qp *q)
{
	unsigned all = q->sq.size + q->rq.size;
	int rc = make_channel(q);

	if (rc)
		return rc;
	errno = 0;
	q->cq = ibv_create_cq(q->nic->context, (int)all, NULL, q->channel, 0);
	if (!q->cq)
		return why(q, "a completion queue");
	rc = make_queue_pair(q);
	if (rc)
		return rc;
	verbs_keep_from_children(q->nic);
	return to_init(q);
}

/* Requests, and windows to be bound. */
static int make_queues(struct verbs_qp *q)
{
	q->stash_size = 3 * q->depth;
	q->stash = os_calloc(q->stash_size, sizeof(*q->stash));
	if (!queue_make(&q->sq, 2 * q->depth) || !queue_make(&q->rq, q->depth) || !q->stash)
		return hf_set_error(-ENOMEM, "verbs: out of memory for a connection of depth %u", q->depth);
	return 0;
}

static int check_depth(const struct verbs_nic *nic, uint32_t depth)
{
	uint32_t most = (uint32_t)nic->attr.max_qp_wr / 2;

	if (nic->attr.max_cqe / 3 < (int)most)
		most = (uint32_t)nic->attr.max_cqe / 3;
	if (!depth || depth > most)
		return hf_set_error(-EINVAL, "%s: a connection's depth is 1 to %u, %u asked", nic->name, most, depth);
	if (nic->attr.max_sge < VERBS_SGE)
		return hf_set_error(-EOPNOTSUPP, "%s takes %d segments in one request, %d are needed", nic->name,
				    nic->attr.max_sge, VERBS_SGE);
	return 0;
}

static uint8_t reads_of(const struct verbs_nic *nic)
{
	return (uint8_t)(nic->attr.max_qp_rd_atom < MAX_READS ? nic->attr.max_qp_rd_atom : MAX_READS);
}

static void tell_address(const struct verbs_qp *q, uint8_t out[HF_QP_ADDRESS])
{
	struct verbs_address a = { .magic = htole32(ADDRESS_MAGIC),
				   .version = htole16(ADDRESS_VERSION),
				   .lid = htole16(q->place.lid),
				   .qpn = htole32(q->qp->qp_num),
				   .psn = htole32(q->psn),
				   .link = q->place.link,
				   .mtu = q->place.mtu,
				   .reads = reads_of(q->nic) };

	memcpy(a.gid, q->place.gid.raw, sizeof(a.gid));
	memset(out, 0, HF_QP_ADDRESS);
	memcpy(out, &a, sizeof(a));
}

static int open_parts(struct verbs_qp *q, int fd)
{
	int rc = verbs_find_place(q->nic, fd, &q->place);

	if (!rc)
		rc = make_queues(q);
	if (!rc)
		rc = os_random(&q->psn, sizeof(q->psn));
	q->psn &= 0xffffff;
	return rc ? rc : make_all(q);
}

int verbs_qp_open(void *nic, int fd, uint32_t depth, void **out, uint8_t address[HF_QP_ADDRESS], uint64_t *max)
{
	int rc = check_depth(nic, depth);
	struct verbs_qp *q;

	if (rc)
		return rc;
	q = os_calloc(1, sizeof(*q));
	if (!q)
		return hf_set_error(-ENOMEM, "verbs: out of memory for a connection");
	q->nic = nic;
	q->depth = depth;
	rc = open_parts(q, fd);
	if (rc) {
		verbs_qp_close(q);
		return rc;
	}
	q->max = q->place.max_message < VERBS_MAX_MESSAGE ? q->place.max_message : VERBS_MAX_MESSAGE;
	tell_address(q, address);
	*max = q->max;
	*out = q;
	return 0;
}

void verbs_qp_close(void *p)
{
	struct verbs_qp *q = p;

	if (q->qp)
		verbs_qp_stop(q);
	if (q->qp)
		ibv_destroy_qp(q->qp);
	if (q->cq && q->events)
		ibv_ack_cq_events(q->cq, q->events);
	if (q->cq)
		ibv_destroy_cq(q->cq);
	if (q->channel) {
		hf_close_on_fork_done(q->channel->fd);
		ibv_destroy_comp_channel(q->channel);
	}
	free(q->sq.slot);
	free(q->rq.slot);
	free(q->stash);
	free(q);
}

/* ------------------------------------------------------------------ connect */

static int read_address(const struct verbs_qp *q, const uint8_t in[HF_QP_ADDRESS], struct verbs_address *a)
{
	memcpy(a, in, sizeof(*a));
	if (le32toh(a->magic) != ADDRESS_MAGIC || le16toh(a->version) != ADDRESS_VERSION)
		return hf_set_error(-EPROTO, "the peer's address is not that of a queue pair of version %d: both sides need the NIC "
					     "verbs of the same holdfast",
				    ADDRESS_VERSION);
	if (a->link != q->place.link || a->mtu < IBV_MTU_256 || a->mtu > IBV_MTU_4096)
		return hf_set_error(-EPROTO, "the peer's NIC is on another kind of network than %s", q->nic->name);
	return 0;
}

static void fill_path(const struct verbs_qp *q, const struct verbs_address *a, struct ibv_ah_attr *ah)
{
	ah->port_num = (uint8_t)q->place.port;
	ah->dlid = le16toh(a->lid);
	ah->is_global = q->place.link == IBV_LINK_LAYER_ETHERNET || !ah->dlid;
	memcpy(ah->grh.dgid.raw, a->gid, 16);
	ah->grh.sgid_index = (uint8_t)q->place.gid_index;
	ah->grh.hop_limit = 64;
}

static int to_receive(struct verbs_qp *q, const struct verbs_address *a)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTR,
				    .path_mtu = a->mtu < q->place.mtu ? a->mtu : q->place.mtu,
				    .dest_qp_num = le32toh(a->qpn),
				    .rq_psn = le32toh(a->psn) & 0xffffff,
				    .max_dest_rd_atomic = reads_of(q->nic),
				    .min_rnr_timer = RNR_TIMER };

	fill_path(q, a, &attr.ah_attr);
	return ibv_modify_qp(q->qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
						   IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct verbs_qp *q, const struct verbs_address *a)
{
	int most = q->nic->attr.max_qp_init_rd_atom;
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTS,
				    .timeout = ACK_TIMEOUT,
				    .retry_cnt = RETRIES,
				    .rnr_retry = RNR_FOREVER,
				    .sq_psn = q->psn,
				    .max_rd_atomic = (uint8_t)(a->reads < most ? a->reads : most) };

	return ibv_modify_qp(q->qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
						   IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int verbs_qp_ready(void *p, const uint8_t address[HF_QP_ADDRESS])
{
	struct verbs_qp *q = p;
	struct verbs_address a;
	int rc = read_address(q, address, &a);

	if (rc)
		return rc;
	if (q->stopped || q->ready)
		return hf_set_error(-EINVAL, "verbs: this queue pair is %s", q->stopped ? "stopped" : "connected already");
	rc = to_receive(q, &a);
	if (!rc)
		rc = to_send(q, &a);
	if (rc)
		return hf_set_error(-rc, "%s: no connection to the peer's NIC: %s; is there a route from this port to the peer's "
					 "RDMA address?",
				    q->nic->name, strerror(rc));
	q->ready = true;
	return 0;
}

/* ------------------------------------------------------------------ post */

/* -EMSGSIZE, or how many segments. An empty one is left out: some NICs take length 0 for 2 GiB. */
static int fill_segments(const struct verbs_qp *q, const struct hf_qp_wr *wr, struct ibv_sge *sge)
{
	uint64_t total = 0;
	int n = 0;

	for (uint32_t i = 0; i < wr->n; i++) {
		const struct hf_qp_sge *s = &wr->sge[i];

		if (s->len > q->max - total)
			return hf_set_error(-EMSGSIZE, "%s moves %llu bytes at most at once", q->nic->name,
					    (unsigned long long)q->max);
		total += s->len;
		if (s->len)
			sge[n++] = (struct ibv_sge){ .addr = s->addr,
						     .length = (uint32_t)s->len,
						     .lkey = (uint32_t)s->region->lkey };
	}
	return n;
}

static int post_receive(struct verbs_qp *q, const struct hf_qp_wr *wr, struct ibv_sge *sge, int n)
{
	struct ibv_recv_wr *bad, r = { .sg_list = sge, .num_sge = n };
	struct verbs_posted *slot = verbs_queue_push(&q->rq, &r.wr_id);
	int rc;

	if (!slot)
		return hf_set_error(-ENOBUFS, "verbs: %u receives are posted, that is the depth", q->depth);
	*slot = (struct verbs_posted){ .cookie = wr->cookie, .op = wr->op };
	r.wr_id |= RECEIVE;
	rc = ibv_post_recv(q->qp, &r, &bad);
	if (rc)
		q->rq.head--;
	return rc ? hf_set_error(-rc, "%s takes no receive: %s", q->nic->name, strerror(rc)) : 0;
}

static int fill_request(const struct hf_qp_wr *wr, struct ibv_send_wr *s)
{
	s->send_flags = IBV_SEND_SIGNALED | (wr->fence ? IBV_SEND_FENCE : 0);
	s->opcode = wr->op == HF_QP_SEND ? IBV_WR_SEND : wr->op == HF_QP_WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
	if (wr->op != HF_QP_SEND &&
	    (!wr->key || !verbs_key_at(wr->key, wr->offset, &s->wr.rdma.rkey, &s->wr.rdma.remote_addr)))
		return hf_set_error(-EINVAL, "verbs: no key, or an offset beyond all memory");
	return 0;
}

static int post_request(struct verbs_qp *q, const struct hf_qp_wr *wr, struct ibv_sge *sge, int n)
{
	struct ibv_send_wr *bad, s = { .sg_list = sge, .num_sge = n };
	struct verbs_posted *slot;
	int rc = fill_request(wr, &s);

	if (rc)
		return rc;
	if (!q->ready)
		return hf_set_error(-ENOTCONN, "verbs: the queue pair isn't connected yet");
	slot = verbs_queue_push(&q->sq, &s.wr_id);
	if (!slot)
		return hf_set_error(-ENOBUFS, "verbs: the depth is %u, and that many requests are posted", q->depth);
	*slot = (struct verbs_posted){ .cookie = wr->cookie, .op = wr->op };
	rc = ibv_post_send(q->qp, &s, &bad);
	if (rc)
		q->sq.head--;
	return rc ? hf_set_error(-rc, "%s takes no request: %s", q->nic->name, strerror(rc)) : 0;
}

int verbs_qp_post(void *p, const struct hf_qp_wr *wr)
{
	struct ibv_sge sge[VERBS_SGE];
	struct verbs_qp *q = p;
	int n;

	if (q->stopped)
		return hf_set_error(-ESHUTDOWN, "verbs: this queue pair is stopped");
	if (wr->n > VERBS_SGE || wr->op < HF_QP_SEND || wr->op > HF_QP_READ)
		return hf_set_error(-EINVAL, "verbs: %u segments, operation %u: at most %d, and 1 to 4", wr->n, wr->op,
				    VERBS_SGE);
	n = fill_segments(q, wr, sge);
	if (n < 0)
		return n;
	return wr->op == HF_QP_RECV ? post_receive(q, wr, sge, n) : post_request(q, wr, sge, n);
}

/* ------------------------------------------------------------------ completions */

/* A message that is too large for the receive is an "invalid request" to the one, and a length error to the other. */
static int status_of(enum ibv_wc_status s, uint32_t op)
{
	switch (s) {
	case IBV_WC_SUCCESS:
		return 0;
	case IBV_WC_WR_FLUSH_ERR:
		return -ECANCELED;
	case IBV_WC_REM_ACCESS_ERR:
		return -EACCES;
	case IBV_WC_LOC_LEN_ERR:
		return -EMSGSIZE;
	case IBV_WC_REM_INV_REQ_ERR:
		return op == HF_QP_SEND || op == HF_QP_RECV ? -EMSGSIZE : -EACCES;
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
	case IBV_WC_REM_ABORT_ERR:
	case IBV_WC_RESP_TIMEOUT_ERR:
		return -ECONNRESET;
	default:
		return -EIO;
	}
}

static void keep(struct verbs_qp *q, const struct ibv_wc *wc)
{
	struct verbs_queue *queue = wc->wr_id & RECEIVE ? &q->rq : &q->sq;
	const struct verbs_posted *slot = &queue->slot[(wc->wr_id & ~RECEIVE) % queue->size];
	int status = status_of(wc->status, slot->op);

	queue->tail++;
	q->broken |= status != 0;
	if (slot->window)
		verbs_window_bound(slot->window, !status);
	q->stash[q->stash_head++ % q->stash_size] = (struct hf_qp_done){
		.cookie = slot->cookie,
		.status = status,
		.bytes = !status && slot->op == HF_QP_RECV ? wc->byte_len : 0,
	};
}

/* There is room: each completion is of a slot that is still taken, or in the stash. */
int verbs_qp_take(struct verbs_qp *q)
{
	struct ibv_wc wc;
	int n;

	if (q->stopped)
		return -ESHUTDOWN;
	if (q->stash_head - q->stash_tail == q->stash_size)
		return 0;
	n = ibv_poll_cq(q->cq, 1, &wc);
	if (n < 0)
		return hf_set_error(-EIO, "%s: the completion queue is broken", q->nic->name);
	if (n)
		keep(q, &wc);
	return n;
}

int verbs_qp_poll(void *p, struct hf_qp_done *out, int max)
{
	struct verbs_qp *q = p;
	int n = 0, rc = 0;

	while (n < max) {
		if (q->stash_head == q->stash_tail && (rc = verbs_qp_take(q)) <= 0)
			break;
		out[n++] = q->stash[q->stash_tail++ % q->stash_size];
	}
	return n ? n : rc;
}

int verbs_qp_fd(void *p)
{
	return ((struct verbs_qp *)p)->channel->fd;
}

/*
 * The NIC tells of what is done after it was asked to, and of nothing before. So ask, then look once more:
 *
 *   NIC                       arm
 *   -----------------         ---------------------------
 *   a completion              ask to be told
 *   tells, if asked           look: is there a completion?
 *
 * Either it is asked before it looks whether to tell, or the completion is there when arm looks.
 */
int verbs_qp_arm(void *p)
{
	struct verbs_qp *q = p;
	struct ibv_cq *cq;
	void *context;
	int rc;

	if (q->stopped)
		return hf_set_error(-ESHUTDOWN, "verbs: this queue pair is stopped");
	while (!ibv_get_cq_event(q->channel, &cq, &context))
		q->events++;
	if (q->stash_head != q->stash_tail)
		return 1;
	rc = ibv_req_notify_cq(q->cq, 0);
	if (rc)
		return hf_set_error(-rc, "%s tells of no completions: %s", q->nic->name, strerror(rc));
	return verbs_qp_take(q);
}

void verbs_qp_stop(void *p)
{
	struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR }, reset = { .qp_state = IBV_QPS_RESET };
	struct verbs_qp *q = p;

	if (q->stopped)
		return;
	q->stopped = true;
	ibv_modify_qp(q->qp, &error, IBV_QP_STATE);
	verbs_window_leave(q);
	if (!ibv_destroy_qp(q->qp))
		q->qp = NULL;
	else
		ibv_modify_qp(q->qp, &reset, IBV_QP_STATE);
}
