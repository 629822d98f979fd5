/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Handles and descriptors. A handle is [number:44][slot:20]: the number is of all that were ever given out in this
 * process, begun at a random place; the slot says where in the socket's table to look, and the whole must agree. So a handle of another
 * socket, an old one, or one of another process is unknown here (R4, R6), and none is a pointer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qp.h"

#define SLOT_BITS 20
#define SLOTS_MAX (1u << SLOT_BITS)
#define SLOTS_FIRST 16u
#define TRIES 100 /* to register memory that keeps changing */

/* ------------------------------------------------------------------ handles */

static uint64_t next_number(void)
{
	static _Atomic uint64_t last;
	uint64_t begin, none = 0;

	if (!atomic_load(&last)) {
		if (os_random(&begin, sizeof(begin)))
			begin = os_now_ns();
		begin &= (1ull << 43) - 1;
		atomic_compare_exchange_strong(&last, &none, begin | 1);
	}
	return atomic_fetch_add(&last, 1) + 1;
}

struct san_mr *mr_find(struct hf_sock *s, uint64_t id)
{
	uint32_t slot = (uint32_t)id & (SLOTS_MAX - 1);
	struct san_mr *mr = slot < s->mr_slots ? s->mr[slot] : NULL;

	return mr && mr->id == id ? mr : NULL;
}

/* lock */
static int grow(struct hf_sock *s)
{
	uint32_t slots = s->mr_slots ? 2 * s->mr_slots : SLOTS_FIRST;
	struct san_mr **larger = slots <= SLOTS_MAX ? os_calloc(slots, sizeof(*larger)) : NULL;

	if (!larger)
		return hf_set_error(-ENOMEM, "no room for more than %u registrations on this socket", s->mr_slots);
	if (s->mr)
		memcpy(larger, s->mr, s->mr_slots * sizeof(*larger));
	free(s->mr);
	s->mr = larger;
	s->mr_hint = s->mr_slots;
	s->mr_slots = slots;
	return 0;
}

/* lock: no slot below mr_hint is free. */
static int take_slot(struct hf_sock *s, uint32_t *slot)
{
	while (s->mr_hint < s->mr_slots && s->mr[s->mr_hint])
		s->mr_hint++;
	*slot = s->mr_hint;
	return s->mr_hint < s->mr_slots ? 0 : grow(s);
}

/* lock */
static void take_out(struct hf_sock *s, struct san_mr *mr)
{
	uint32_t slot = (uint32_t)mr->id & (SLOTS_MAX - 1);

	s->mr[slot] = NULL;
	if (slot < s->mr_hint)
		s->mr_hint = slot;
	s->carrier->conceal(s, mr);
}

static void unpin(struct hf_sock *s, struct san_mr *mr)
{
	hf_put(s->p, &mr->region);
	if (mr->secured)
		hf_unsecure(s->p->sw, mr->secured);
}

void mr_release(struct hf_sock *s, struct san_mr *mr)
{
	unpin(s, mr);
	free(mr);
}

/* ------------------------------------------------------------------ registering */

/*
 * Watch it, before it is pinned (I3). Memory that no proxy can watch is used all the same, and nobody will say -ESTALE:
 * what moves is what was pinned.
 */
static int watch(struct hf_sock *s, struct san_mr *mr)
{
	/* A mapping that may be written may be read, too: the right to write alone can't be secured (R37). */
	unsigned flags = HF_NOTIFY | (mr->access & HF_WRITE ? HF_READWRITE : HF_READ);
	int rc = hf_secure(s->p->sw, (void *)(uintptr_t)mr->addr, mr->len, flags, mr->told ? qp_changed : NULL, mr, &mr->secured);

	if (rc == -EOPNOTSUPP || rc == -ENOTSUP)
		rc = 0;
	return rc;
}

/*
 * Watched, pinned, and nothing has changed between: 0. -EAGAIN: it has, or it can't be watched just now; when that doesn't end
 * (a thread that nobody can prove to be out of an madvise), it is as if it could never be: `last`.
 */
static int pin(struct hf_sock *s, struct san_mr *mr, bool last)
{
	int rc;

	mr->secured = 0;
	atomic_store(&mr->changed, false); /* nobody tells of it now */
	rc = watch(s, mr);
	if (rc && !(rc == -EAGAIN && last))
		return rc;
	rc = hf_get(s->p, (void *)(uintptr_t)mr->addr, mr->len, mr->access, &mr->region);
	if (!rc && mr_is_stale(s, mr)) {
		hf_put(s->p, &mr->region);
		rc = hf_set_error(-EAGAIN, "the memory changes while it is being registered");
	}
	if (rc && mr->secured)
		hf_unsecure(s->p->sw, mr->secured);
	return rc;
}

static int pin_again(struct hf_sock *s, struct san_mr *mr)
{
	int rc = pin(s, mr, false);

	for (int i = 0; i < TRIES && rc == -EAGAIN; i++) {
		os_sleep_us(100);
		rc = pin(s, mr, i == TRIES - 1);
	}
	return rc;
}

static int not_connected(const struct hf_sock *s)
{
	return hf_set_error(-ENOTCONN, "the connection has ended: %s; open a new one", strerror(-s->error));
}

/* lock: rx and tx ask the table of exposures before each step. */
static int expose(struct hf_sock *s, struct san_mr *mr)
{
	int rc = exposures_add(&s->exposures, mr->addr, mr->len, mr->access, mr, &mr->slot, mr->descriptor);

	mr->exposed = !rc;
	return rc;
}

static void conceal(struct hf_sock *s, struct san_mr *mr)
{
	if (mr->exposed)
		exposures_remove(&s->exposures, mr->slot);
	mr->exposed = false;
}

const struct carrier carrier_stream = {
	.version = WIRE_VERSION_STREAM,
	.put_next = tx_next,
	.take_frame = rx_frame,
	.expose = expose,
	.conceal = conceal,
};

static int publish(struct hf_sock *s, struct san_mr *mr, bool remote)
{
	uint32_t slot;
	int rc = 0;

	sock_lock(s);
	if (s->error)
		rc = not_connected(s);
	if (!rc && remote)
		rc = s->carrier->expose(s, mr);
	if (!rc) {
		rc = take_slot(s, &slot);
		if (rc)
			s->carrier->conceal(s, mr);
	}
	if (!rc) {
		mr->id = next_number() << SLOT_BITS | slot;
		s->mr[slot] = mr;
	}
	sock_unlock(s);
	return rc;
}

/* A window may be opened on what is mapped by then, so it is looked at once more, and perhaps all is done anew. */
static int pin_and_publish(struct hf_sock *s, struct san_mr *mr, bool remote)
{
	int rc = -EAGAIN;

	for (int i = 0; i < TRIES && rc == -EAGAIN; i++) {
		rc = pin_again(s, mr);
		if (rc)
			return rc;
		rc = publish(s, mr, remote);
		if (rc)
			unpin(s, mr);
	}
	return rc;
}

/* Without the handle the memory must not stay exposed, so nothing can fail after publish(). */
static int register_for(struct hf_sock *s, void *addr, size_t len, unsigned access, bool remote,
			uint8_t *descriptor, uint64_t *id)
{
	struct san_mr *mr;
	int rc;

	/* hf_secure() would speak of securing. */
	if (!access || access & ~HF_READWRITE)
		return hf_set_error(-EINVAL, "access 0x%x: HF_READ, HF_WRITE or both", access);
	mr = os_calloc(1, sizeof(*mr));
	if (!mr)
		return hf_set_error(-ENOMEM, "no memory for one registration more");
	mr->addr = (uintptr_t)addr;
	mr->len = len;
	mr->access = access;
	mr->told = remote && s->qp ? s : NULL;
	rc = pin_and_publish(s, mr, remote);
	if (rc) {
		free(mr);
		return rc;
	}
	if (remote)
		memcpy(descriptor, mr->descriptor, HF_DESCRIPTOR_SIZE);
	*id = mr->id;
	STEP(remote ? "exposed" : "registered");
	return 0;
}

int hf_mr_reg(struct hf_sock *s, void *addr, size_t len, unsigned access, uint64_t *mr)
{
	int rc = sock_enter_connected(s);

	if (!rc && !mr)
		rc = hf_set_error(-EINVAL, "no place for the handle");
	return rc ? rc : register_for(s, addr, len, access, false, NULL, mr);
}

/* The length before anything else (R9). */
static int check_room(void *descriptor, size_t *length)
{
	size_t room;

	if (!length)
		return hf_set_error(-EINVAL, "no descriptor's length given");
	room = *length;
	*length = HF_DESCRIPTOR_SIZE;
	if (room < HF_DESCRIPTOR_SIZE)
		return hf_set_error(-ENOSPC, "a descriptor has %d bytes, there is room for %zu", HF_DESCRIPTOR_SIZE, room);
	return descriptor ? 0 : hf_set_error(-EINVAL, "no place for the descriptor");
}

int hf_mr_expose(struct hf_sock *s, void *addr, size_t len, unsigned access, void *descriptor,
		 size_t *length, uint64_t *mr)
{
	int rc = check_room(descriptor, length);

	if (!rc)
		rc = sock_enter_connected(s);
	if (!rc && !mr)
		rc = hf_set_error(-EINVAL, "no place for the handle");
	return rc ? rc : register_for(s, addr, len, access, true, descriptor, mr);
}

/* ------------------------------------------------------------------ giving back */

/* lock on entry, not on return. When it returns 0 the peer reaches the memory no more: sock.h draws why. */
static int deregister(struct hf_sock *s, struct san_mr *mr)
{
	if (mr->busy) {
		sock_unlock(s);
		return hf_set_error(-EBUSY, "an operation that was posted with this handle has not completed");
	}
	take_out(s, mr);
	sock_unlock(s);
	STEP("revoked");
	mr_release(s, mr);
	return 0;
}

int hf_mr_dereg(struct hf_sock *s, uint64_t id)
{
	int rc = sock_enter_connected(s);
	struct san_mr *mr;

	if (rc)
		return rc;
	sock_lock(s);
	mr = mr_find(s, id);
	if (mr)
		return deregister(s, mr);
	sock_unlock(s);
	return hf_set_error(-EINVAL, "no such handle on this socket: another socket's, or given back already");
}

/* lock: by what the handle remembers: it is void for the peer when the connection has ended, but not for who gives it
 * back. */
static struct san_mr *find_described(struct hf_sock *s, const uint8_t *descriptor)
{
	for (uint32_t i = 0; i < s->mr_slots; i++)
		if (s->mr[i] && !memcmp(s->mr[i]->descriptor, descriptor, HF_DESCRIPTOR_SIZE))
			return s->mr[i];
	return NULL;
}

/* lock */
static struct san_mr *find_exposed(struct hf_sock *s, const uint8_t *descriptor)
{
	uint64_t addr;
	void *owner;

	if (s->error)
		return find_described(s, descriptor);
	if (exposures_check(&s->exposures, descriptor, HF_READ, 0, 0, &addr, &owner))
		exposures_check(&s->exposures, descriptor, HF_WRITE, 0, 0, &addr, &owner);
	/* What has changed may be exposed no more. */
	return owner || !s->qp ? owner : find_described(s, descriptor);
}

int hf_mr_revoke(struct hf_sock *s, const void *descriptor, size_t length)
{
	static const uint8_t never[HF_DESCRIPTOR_SIZE];
	int rc = sock_enter_connected(s);
	struct san_mr *mr;

	if (rc)
		return rc;
	if (!descriptor || length != HF_DESCRIPTOR_SIZE || !memcmp(descriptor, never, sizeof(never)))
		return hf_set_error(-EINVAL, "a descriptor has %d bytes, %zu given", HF_DESCRIPTOR_SIZE, length);
	sock_lock(s);
	mr = find_exposed(s, descriptor);
	if (mr)
		return deregister(s, mr);
	sock_unlock(s);
	return hf_set_error(-EINVAL, "no such descriptor on this socket: another socket's, or revoked already");
}
