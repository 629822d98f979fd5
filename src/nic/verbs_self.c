/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Peek and poke: by a queue pair that is connected to itself, from a registration to a registered buffer of ours or
 * back. So what is seen is what the NIC sees, the pages that were pinned. A message does it, not an RDMA: nobody
 * gets remote access to the buffer, and memory that is registered for reading only can be sent.
 */
#include "verbs.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>

#include "../os.h"

#define BOUNCE (64u << 10)
#define LOOKS 64 /* before it sleeps */
#define PATIENCE_NS 30000000000ull /* a device that was taken out answers nothing any more */

/* ------------------------------------------------------------------ life */

static void drop(struct verbs_nic *nic)
{
	struct verbs_self *s = &nic->self;

	if (s->qp)
		verbs_qp_close(s->qp);
	if (s->mr)
		ibv_dereg_mr(s->mr);
	if (s->bounce)
		os_pool_unmap(s->bounce, BOUNCE);
	s->qp = NULL;
	s->mr = NULL;
	s->bounce = NULL;
}

static int make_bounce(struct verbs_nic *nic)
{
	struct verbs_self *s = &nic->self;

	s->bounce = os_pool_map(BOUNCE);
	if (!s->bounce)
		return hf_set_error(-ENOMEM, "verbs: out of memory to copy through");
	errno = 0;
	s->mr = ibv_reg_mr(nic->pd, s->bounce, BOUNCE, IBV_ACCESS_LOCAL_WRITE);
	return s->mr ? 0 : verbs_why_reg(nic, errno ? -errno : -EIO, (uintptr_t)s->bounce, BOUNCE, HF_READWRITE);
}

/* (self) */
static int have(struct verbs_nic *nic)
{
	uint8_t address[HF_QP_ADDRESS];
	uint64_t max;
	void *qp;
	int rc;

	if (nic->self.qp)
		return 0;
	rc = make_bounce(nic);
	if (!rc)
		rc = verbs_qp_open(nic, -1, 2, &qp, address, &max);
	if (!rc) {
		nic->self.qp = qp;
		rc = verbs_qp_ready(qp, address);
	}
	return rc;
}

void verbs_self_close(struct verbs_nic *nic)
{
	drop(nic);
}

/* ------------------------------------------------------------------ one copy */

static int post(struct verbs_qp *q, enum hf_qp_op op, uint64_t lkey, uint64_t addr, uint64_t len)
{
	const struct hf_region r = { .lkey = lkey };
	const struct hf_qp_sge sge = { &r, addr, len };
	const struct hf_qp_wr wr = { .op = op, .n = 1, .sge = &sge, .cookie = op };

	return verbs_qp_post(q, &wr);
}

static int sleep_for_event(struct verbs_qp *q)
{
	struct pollfd p = { .fd = verbs_qp_fd(q), .events = POLLIN };
	int rc = verbs_qp_arm(q);

	if (!rc)
		poll(&p, 1, 1000);
	return rc < 0 ? rc : 0;
}

/* Both the send and the receive. One that failed flushes the other. */
static int wait_both(struct verbs_qp *q)
{
	int left = 2, looks = 0, failed = 0, rc;
	uint64_t begin = os_now_ns();
	struct hf_qp_done d;

	while (left) {
		rc = verbs_qp_poll(q, &d, 1);
		if (rc < 0)
			return rc;
		if (rc) {
			left--;
			if (d.status && (!failed || failed == -ECANCELED))
				failed = d.status;
			continue;
		}
		if (++looks < LOOKS)
			sched_yield();
		else if (os_now_ns() - begin > PATIENCE_NS)
			return hf_set_error(-EIO, "%s doesn't answer", q->nic->name);
		else if ((rc = sleep_for_event(q)))
			return rc;
	}
	return failed ? hf_set_error(-EIO, "%s would not copy: %s", q->nic->name, strerror(-failed)) : 0;
}

static int copy(struct verbs_nic *nic, uint64_t to_key, uint64_t to, uint64_t from_key, uint64_t from, uint64_t len)
{
	struct verbs_qp *q = nic->self.qp;
	int rc = post(q, HF_QP_RECV, to_key, to, len);

	if (!rc)
		rc = post(q, HF_QP_SEND, from_key, from, len);
	return rc ? rc : wait_both(q);
}

/* One of dst and src is NULL. A copy that failed has broken the queue pair; the next one makes another. */
static int copy_some(struct verbs_nic *nic, const struct hf_region *r, uint64_t addr, void *dst, const void *src,
		     size_t len)
{
	struct verbs_self *s = &nic->self;
	int rc = have(nic);

	if (!rc && src)
		memcpy(s->bounce, src, len);
	if (!rc)
		rc = src ? copy(nic, r->lkey, addr, s->mr->lkey, (uintptr_t)s->bounce, len) :
			   copy(nic, s->mr->lkey, (uintptr_t)s->bounce, r->lkey, addr, len);
	if (!rc && dst)
		memcpy(dst, s->bounce, len);
	if (rc)
		drop(nic);
	return rc;
}

static int copy_all(struct verbs_nic *nic, const struct hf_region *r, uint64_t addr, char *dst, const char *src, size_t len)
{
	int rc = 0;

	for (size_t done = 0; done < len && !rc;) {
		size_t part = len - done < BOUNCE ? len - done : BOUNCE;

		pthread_mutex_lock(&nic->self.lock);
		rc = copy_some(nic, r, addr + done, dst ? dst + done : NULL, src ? src + done : NULL, part);
		pthread_mutex_unlock(&nic->self.lock);
		done += part;
	}
	return rc;
}

int verbs_peek(void *nic, const struct hf_region *r, uint64_t addr, void *dst, size_t len)
{
	return copy_all(nic, r, addr, dst, NULL, len);
}

int verbs_poke(void *nic, const struct hf_region *r, uint64_t addr, const void *src, size_t len)
{
	return copy_all(nic, r, addr, NULL, src, len);
}
