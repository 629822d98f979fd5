/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the peer may reach, and how that ends: see verbs.h. A key is the NIC's key and where the exposure begins by its
 * count: 0, or, for a registration of its own, the place in the first page. Never a pointer.
 *
 * Why soft RoCE needs a registration of its own. It looks a key up for every packet, takes a reference to the
 * registration behind it, copies, and lets go:
 *
 *   the packet's task                  revoke
 *   -----------------------            --------------------------------------
 *   key ─► window ─► registration
 *                                      the window goes; it waits for nobody
 *   copies                             returned: and yet a byte changes
 *   lets the registration go           (deregister: waits here for this)
 *
 * ibv_dereg_mr() waits in the kernel until the last reference has gone. The cache's registration is to stay, so what the
 * peer reaches has one of its own, of exactly the exposed bytes. A NIC in hardware ends a window only when nothing uses it.
 *
 * Re-registration (ibv_rereg_mr, taking the remote rights away) is left out: the registration of the cache is larger than what is
 * exposed (R17), and for one of its own it saves nothing.
 */
#include "verbs.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>

#include "../os.h"

#define BIND_WAIT_NS 2000000000ull

struct verbs_window {
	struct verbs_window *next; /* of the qp's */
	struct ibv_mw *mw;
	struct ibv_mr *mr; /* of its own; NULL: the cache's */
	bool naked;        /* counted in nic->naked */
	bool binding;      /* posted, not done */
};

struct wire_key {
	uint64_t base;
	uint32_t rkey, pad;
};
_Static_assert(sizeof(struct wire_key) == HF_QP_KEY, "a key has no padding");

static void tell_key(uint8_t key[HF_QP_KEY], uint32_t rkey, uint64_t base)
{
	struct wire_key k = { htole64(base), htole32(rkey), 0 };

	memcpy(key, &k, sizeof(k));
}

bool verbs_key_at(const uint8_t key[HF_QP_KEY], uint64_t offset, uint32_t *rkey, uint64_t *addr)
{
	struct wire_key k;

	memcpy(&k, key, sizeof(k));
	*rkey = le32toh(k.rkey);
	return !__builtin_add_overflow(le64toh(k.base), offset, addr);
}

static unsigned remote_rights(unsigned access)
{
	return (access & HF_READ ? IBV_ACCESS_REMOTE_READ : 0u) | (access & HF_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0u);
}

/* ------------------------------------------------------------------ who may have remote access at all */

/* (nic->lock) */
static int allow_remote(struct verbs_qp *q)
{
	struct ibv_qp_attr attr = { .qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE };
	int rc = q->remote ? 0 : ibv_modify_qp(q->qp, &attr, IBV_QP_ACCESS_FLAGS);

	if (rc)
		return hf_set_error(-rc, "%s gives the peer no remote access: %s", q->nic->name, strerror(rc));
	if (!q->remote)
		q->nic->remote_qps++;
	q->remote = true;
	return 0;
}

/* A key without a window is good for every qp of the provider that has remote access: then it must be the only one. */
static int enter(struct verbs_qp *q, bool naked)
{
	struct verbs_nic *nic = q->nic;
	int rc;

	pthread_mutex_lock(&nic->lock);
	if ((nic->naked && nic->naked_qp != q) || (naked && nic->remote_qps > q->remote))
		rc = hf_set_error(-EOPNOTSUPP, "%s has no memory window for %s, so one connection of a provider at a time may "
					       "expose it: open a provider of its own for each peer",
				  nic->name, nic->windows ? "memory that is mapped read-only" : "any memory");
	else
		rc = allow_remote(q);
	if (!rc && naked) {
		nic->naked_qp = q;
		nic->naked++;
	}
	pthread_mutex_unlock(&nic->lock);
	return rc;
}

static void leave_naked(struct verbs_nic *nic)
{
	pthread_mutex_lock(&nic->lock);
	if (!--nic->naked)
		nic->naked_qp = NULL;
	pthread_mutex_unlock(&nic->lock);
}

/* A window that is bound holds its qp, which is to be destroyed next. What has a registration of its own keeps that. */
void verbs_window_leave(struct verbs_qp *q)
{
	for (struct verbs_window *w = q->windows; w; w = w->next)
		if (w->mw && !ibv_dealloc_mw(w->mw))
			w->mw = NULL;
	pthread_mutex_lock(&q->nic->lock);
	q->nic->remote_qps -= q->remote;
	q->remote = false;
	pthread_mutex_unlock(&q->nic->lock);
}

/* ------------------------------------------------------------------ expose */

/* Of exactly these bytes; counted from the place in the first page, which the NIC wants to be that of the memory. */
static struct ibv_mr *register_again(struct verbs_nic *nic, uint64_t addr, uint64_t len, int rights)
{
	return ibv_reg_mr_iova(nic->pd, (void *)(uintptr_t)addr, len, addr & (os_page_size() - 1), rights);
}

/* With the right to bind windows, if that can be had; else with the peer's rights, which is as good for this qp alone. */
static int make_own(struct verbs_qp *q, struct verbs_window *w, uint64_t addr, uint64_t len, unsigned access)
{
	int local = access & HF_WRITE ? IBV_ACCESS_LOCAL_WRITE : 0;

	errno = 0;
	if (q->nic->windows)
		w->mr = register_again(q->nic, addr, len, local | IBV_ACCESS_MW_BIND);
	if (!w->mr && (!q->nic->windows || errno == EFAULT || errno == EOPNOTSUPP)) {
		w->naked = true;
		w->mr = register_again(q->nic, addr, len, local | (int)remote_rights(access));
	}
	return w->mr ? 0 : verbs_why_reg(q->nic, errno ? -errno : -EIO, addr, len, access);
}

static int post_bind(struct verbs_qp *q, struct verbs_window *w, struct ibv_mr *mr, uint64_t addr, uint64_t len,
		     unsigned access, uint64_t cookie)
{
	struct ibv_send_wr *bad, s = { .opcode = IBV_WR_BIND_MW, .send_flags = IBV_SEND_SIGNALED };
	struct verbs_posted *slot = verbs_queue_push(&q->sq, &s.wr_id);
	int rc;

	if (!slot)
		return hf_set_error(-ENOBUFS, "verbs: the depth is %u, and that many requests are posted", q->depth);
	*slot = (struct verbs_posted){ .cookie = cookie, .window = w };
	s.bind_mw.mw = w->mw;
	s.bind_mw.rkey = ibv_inc_rkey(w->mw->rkey);
	s.bind_mw.bind_info = (struct ibv_mw_bind_info){
		.mr = mr,
		.addr = w->mr ? addr & (os_page_size() - 1) : addr,
		.length = len,
		.mw_access_flags = remote_rights(access) | (w->mr ? 0 : IBV_ACCESS_ZERO_BASED),
	};
	rc = ibv_post_send(q->qp, &s, &bad);
	if (rc) {
		q->sq.head--;
		return hf_set_error(-rc, "%s binds no memory window: %s", q->nic->name, strerror(rc));
	}
	w->mw->rkey = s.bind_mw.rkey;
	w->binding = true;
	return 0;
}

static int make_window(struct verbs_qp *q, struct verbs_window *w, struct ibv_mr *mr, uint64_t addr, uint64_t len,
		       unsigned access, uint64_t cookie)
{
	errno = 0;
	w->mw = ibv_alloc_mw(q->nic->pd, IBV_MW_TYPE_2);
	if (!w->mw)
		return hf_set_error(errno ? -errno : -EIO, "%s has no memory window left (it has %d): %s", q->nic->name,
				    q->nic->attr.max_mw, strerror(errno));
	return post_bind(q, w, mr, addr, len, access, cookie);
}

static void unlink_window(struct verbs_qp *q, struct verbs_window *w)
{
	struct verbs_window **at = &q->windows;

	while (*at && *at != w)
		at = &(*at)->next;
	if (*at)
		*at = w->next;
}

/* 0, or the first that would not go. Can be called again. */
static int take_apart(struct verbs_qp *q, struct verbs_window *w)
{
	int rc = w->mw ? ibv_dealloc_mw(w->mw) : 0;

	if (!rc)
		w->mw = NULL;
	if (!rc && w->mr) {
		rc = ibv_dereg_mr(w->mr);
		if (!rc)
			w->mr = NULL;
	}
	if (rc)
		return hf_set_error(-rc, "%s doesn't end the peer's access: %s", q->nic->name, strerror(rc));
	if (w->naked)
		leave_naked(q->nic);
	unlink_window(q, w);
	free(w);
	return 0;
}

static int make(struct verbs_qp *q, struct verbs_window *w, const struct hf_region *r, uint64_t addr, uint64_t len,
		unsigned access, uint64_t cookie)
{
	struct ibv_mr *mr = q->nic->revoke == VERBS_BY_WINDOW ? verbs_bindable(q->nic, r->lkey) : NULL;
	int rc = mr ? 0 : make_own(q, w, addr, len, access);
	bool naked = w->naked;

	if (rc) {
		w->naked = false;
		return rc;
	}
	w->naked = false; /* until it is counted */
	rc = enter(q, naked);
	if (rc)
		return rc;
	w->naked = naked;
	return naked ? 0 : make_window(q, w, mr ? mr : w->mr, addr, len, access, cookie);
}

static int check_expose(const struct verbs_qp *q, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access)
{
	if (q->stopped)
		return hf_set_error(-ESHUTDOWN, "verbs: this queue pair is stopped");
	if (!q->ready)
		return hf_set_error(-ENOTCONN, "verbs: the queue pair isn't connected yet");
	if (!len || addr < r->addr || addr - r->addr > r->length || len > r->length - (addr - r->addr))
		return hf_set_error(-EINVAL, "verbs: nothing, or not inside of the region");
	if (!access || access & ~HF_READWRITE || access & ~r->access)
		return hf_set_error(-EACCES, "verbs: the region has not got these rights: 0x%x", access);
	return 0;
}

int verbs_expose(void *p, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access, uint64_t cookie,
		 void **window, uint8_t key[HF_QP_KEY])
{
	struct verbs_qp *q = p;
	struct verbs_window *w;
	int rc = check_expose(q, r, addr, len, access);

	if (rc)
		return rc;
	w = os_calloc(1, sizeof(*w));
	if (!w)
		return hf_set_error(-ENOMEM, "verbs: out of memory for an exposure");
	rc = make(q, w, r, addr, len, access, cookie);
	if (rc) {
		char why[256];

		strncpy(why, hf_error(), sizeof(why) - 1);
		why[sizeof(why) - 1] = 0;
		take_apart(q, w);
		return hf_set_error(rc, "%s", why);
	}
	tell_key(key, w->mw ? w->mw->rkey : w->mr->rkey, w->mr ? addr & (os_page_size() - 1) : 0);
	w->next = q->windows;
	q->windows = w;
	*window = w;
	return w->mw ? 1 : 0;
}

/* ------------------------------------------------------------------ revoke */

void verbs_window_bound(struct verbs_window *w, bool good)
{
	w->binding = false;
}

/* To take a window away that is yet to be bound would break the connection. Binding is the NIC's own business, and short. */
static int wait_for_bind(struct verbs_qp *q, const struct verbs_window *w)
{
	uint64_t begin = os_now_ns();

	while (w->binding && !q->stopped) {
		int rc = verbs_qp_take(q);

		if (rc < 0)
			return rc;
		if (rc)
			continue;
		if (os_now_ns() - begin > BIND_WAIT_NS)
			return hf_set_error(-EBUSY, "%s has not bound a window yet that is to go: stop the connection",
					    q->nic->name);
		sched_yield();
	}
	return 0;
}

int verbs_revoke(void *p, void *window)
{
	struct verbs_window *w = window;
	int rc = wait_for_bind(p, w);

	return rc ? rc : take_apart(p, w);
}
