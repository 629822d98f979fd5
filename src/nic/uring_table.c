/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Tables of registered buffers: rings are added, slots taken and given back, memory pinned into
 * them and let go.
 */
#include "uring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../os.h"

#define QUEUE_ENTRIES 4    /* a request, its cancellation; never more at once */
#define LATE_UNPIN_MS 1500 /* how long a late kernel may take to uncharge */
#define LATE_UNPIN_STEP_US 50000
#define MAPPING_TRIES 3

unsigned uring_table_slots(unsigned i)
{
	return 64u << (2 * i); /* 64, 256, 1024, 4096, 16384 */
}

uint64_t uring_lkey_at(uint64_t reg_addr, uint64_t lkey, uint64_t addr)
{
	return lkey + ((addr - reg_addr) >> URING_SPAN_SHIFT);
}

struct uring_table *uring_table_of(struct uring_nic *nic, uint64_t lkey, unsigned *slot)
{
	uint64_t i = lkey / URING_MAX_SLOTS;
	struct uring_table *t = i < URING_TABLES ? nic->table[i] : NULL;

	*slot = lkey % URING_MAX_SLOTS;
	return t && *slot < t->slots ? t : NULL;
}

/* ------------------------------------------------------------------ rings */

static struct uring_table *table_new(unsigned slots)
{
	struct uring_table *t = os_calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->taken = os_calloc((slots + 63) / 64, sizeof(uint64_t));
	if (!t->taken) {
		free(t);
		return NULL;
	}
	t->slots = slots;
	t->pipe[0] = t->pipe[1] = -1;
	pthread_mutex_init(&t->submit, NULL);
	return t;
}

static void table_free(struct uring_table *t)
{
	pthread_mutex_destroy(&t->submit);
	free(t->taken);
	free(t);
}

static int register_sparse(int fd, unsigned slots)
{
	struct io_uring_rsrc_register r = { .nr = slots, .flags = IORING_RSRC_REGISTER_SPARSE };

	if (FAULT("uring table"))
		return -ENOMEM;
	return io_uring_register((unsigned)fd, IORING_REGISTER_BUFFERS2, &r, sizeof(r));
}

/*
 * A child of fork must hold neither the descriptor nor the mapped queues: each keeps the ring alive,
 * and the ring the pins. Between set-up and these calls the table is empty, so that a fork in between
 * pins nothing until the child ends.
 */
static int ring_setup(struct uring_table *t)
{
	int rc;

	if (FAULT("uring setup"))
		return -EMFILE;
	rc = io_uring_queue_init(QUEUE_ENTRIES, &t->ring, IORING_SETUP_SUBMIT_ALL);
	if (rc)
		return rc;
	t->fd = t->ring.ring_fd;
	rc = io_uring_ring_dontfork(&t->ring);
	if (rc)
		goto exit;
	rc = hf_close_on_fork(t->fd);
	if (rc)
		goto exit;
	rc = register_sparse(t->fd, t->slots);
	if (!rc)
		return 0;
	hf_close_on_fork_done(t->fd);
exit:
	io_uring_queue_exit(&t->ring);
	return rc;
}

/* What another ring of this user was charged falls a moment after it was closed, or its process killed. */
static int ring_setup_patiently(struct uring_table *t)
{
	int rc = ring_setup(t);

	for (int i = 0; i < 20 && rc == -ENOMEM; i++) {
		os_sleep_us(10000);
		rc = ring_setup(t);
	}
	return rc;
}

int uring_table_add(struct uring_nic *nic, unsigned i, unsigned slots)
{
	struct uring_table *t = table_new(slots);
	int rc;

	if (!t)
		return hf_set_error(-ENOMEM, "out of memory for a table of %u buffers", slots);
	rc = i ? ring_setup(t) : ring_setup_patiently(t);
	if (rc) {
		table_free(t);
		return uring_why_setup(rc);
	}
	t->own = true;
	nic->table[i] = t;
	return 0;
}

struct adopt {
	struct os_thread thread;
	int fd;
	unsigned slots;
	int rc;
};

static void *adopt_main(void *p)
{
	struct adopt *a = p;

	a->rc = register_sparse(a->fd, a->slots);
	return NULL;
}

static int why_adopt(int rc, int fd)
{
	switch (rc) {
	case -EEXIST:
		return hf_set_error(rc,
				    "uring: the ring behind fd %d is IORING_SETUP_SINGLE_ISSUER: other "
				    "threads may not register memory in it; create it without",
				    fd);
	case -EBUSY:
		return hf_set_error(rc,
				    "uring: the ring behind fd %d has a buffer table already: "
				    "unregister it, the table must be holdfast's",
				    fd);
	case -EBADF:
	case -EOPNOTSUPP:
		return hf_set_error(-EINVAL, "uring: fd %d is not an io_uring", fd);
	default:
		return uring_why_setup(rc);
	}
}

/*
 * The table is registered from another thread, because that is how it will be used (the reaper
 * deregisters): a ring that allows one task only must be refused now, not at the first eviction.
 */
int uring_table_adopt(struct uring_nic *nic, int fd, unsigned slots)
{
	struct adopt a = { .fd = fd, .slots = slots };
	struct uring_table *t = table_new(slots);
	int rc;

	if (!t)
		return hf_set_error(-ENOMEM, "out of memory for a table of %u buffers", slots);
	rc = os_thread_start(&a.thread, "hf-uring", adopt_main, &a);
	if (rc) {
		table_free(t);
		return hf_set_error(rc, "uring: no thread to try the ring with: %s", strerror(-rc));
	}
	os_thread_join(&a.thread);
	if (a.rc) {
		table_free(t);
		return why_adopt(a.rc, fd);
	}
	t->fd = fd;
	nic->table[0] = t;
	return 0;
}

/* NULL is nothing. */
void uring_table_close(struct uring_table *t)
{
	if (!t)
		return;
	/* A ring's end is worked off later by the kernel; this lets the pages go now. */
	io_uring_register((unsigned)t->fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
	if (t->own) {
		/* In this order: a child forked in between may hold a ring, but an empty one. */
		hf_close_on_fork_done(t->fd);
		io_uring_queue_exit(&t->ring);
	}
	for (int i = 0; i < 2; i++)
		if (t->pipe[i] >= 0)
			close(t->pipe[i]);
	table_free(t);
}

/* ------------------------------------------------------------------ slots (nic->lock) */

static bool is_taken(const struct uring_table *t, unsigned slot)
{
	return t->taken[slot / 64] >> slot % 64 & 1;
}

/* The first of the lowest `n` free slots in a row, or -1. */
static int find_run(const struct uring_table *t, unsigned n)
{
	unsigned run = 0;

	for (unsigned i = t->first; i < t->slots; i++) {
		if (i % 64 == 0 && t->taken[i / 64] == UINT64_MAX) {
			run = 0;
			i += 63;
			continue;
		}
		run = is_taken(t, i) ? 0 : run + 1;
		if (run == n)
			return (int)(i + 1 - n);
	}
	return -1;
}

static void mark_taken(struct uring_table *t, unsigned slot, unsigned n)
{
	for (unsigned i = slot; i < slot + n; i++)
		t->taken[i / 64] |= 1ull << i % 64;
	if (slot == t->first)
		t->first = slot + n;
	else if (n == 1)
		t->first = slot + 1; /* find_run() came from `first` and met no free slot */
}

/* What table i has or would have. */
static unsigned slots_of(struct uring_nic *nic, unsigned i)
{
	return nic->users_ring ? nic->table[0]->slots : uring_table_slots(i);
}

static int no_room(struct uring_nic *nic, unsigned n)
{
	unsigned tables = nic->users_ring ? 1 : URING_TABLES, all = 0;

	for (unsigned i = 0; i < tables; i++)
		all += slots_of(nic, i);
	if (n > slots_of(nic, tables - 1))
		return hf_set_error(
			-EOPNOTSUPP,
			"uring: %u slots of 1 GiB wanted, the largest table has %u: register less "
			"at once",
			n, slots_of(nic, tables - 1));
	return hf_set_error(
		-ENOMEM,
		"uring: %u slot%s in a row wanted, but the %u slots of %s are in use: put some "
		"registrations back, or lower max_count",
		n, n > 1 ? "s" : "", all, nic->users_ring ? "the ring's buffer table" : "all rings");
}

/* One more table. Want of descriptors is a limit like any other: what is evicted makes room. */
static int grow(struct uring_nic *nic, unsigned i)
{
	int rc = uring_table_add(nic, i, uring_table_slots(i));

	if (rc == -EMFILE || rc == -ENFILE)
		return hf_set_error(-ENOMEM,
				    "uring: all %u slots are in use and there is no descriptor for a "
				    "further ring: raise ulimit -n",
				    uring_table_slots(i - 1));
	return rc;
}

static int take_locked(struct uring_nic *nic, unsigned n, unsigned *index, unsigned *slot)
{
	unsigned tables = nic->users_ring ? 1 : URING_TABLES;

	for (unsigned i = 0; i < tables; i++) {
		int found, rc;

		if (n > slots_of(nic, i))
			continue;
		rc = nic->table[i] ? 0 : grow(nic, i);
		if (rc)
			return rc;
		found = find_run(nic->table[i], n);
		if (found < 0)
			continue;
		mark_taken(nic->table[i], (unsigned)found, n);
		*index = i;
		*slot = (unsigned)found;
		return 0;
	}
	return no_room(nic, n);
}

static int take_slots(struct uring_nic *nic, unsigned n, unsigned *index, unsigned *slot)
{
	int rc;

	pthread_mutex_lock(&nic->lock);
	rc = take_locked(nic, n, index, slot);
	pthread_mutex_unlock(&nic->lock);
	return rc;
}

static void give_slots(struct uring_nic *nic, struct uring_table *t, unsigned slot, unsigned n)
{
	pthread_mutex_lock(&nic->lock);
	for (unsigned i = slot; i < slot + n; i++)
		t->taken[i / 64] &= ~(1ull << i % 64);
	if (slot < t->first)
		t->first = slot;
	pthread_mutex_unlock(&nic->lock);
}

/* ------------------------------------------------------------------ pinning */

/* Put [addr, addr+len) into a slot; 0, 0 empties it. */
static int update(const struct uring_table *t, unsigned slot, uint64_t addr, uint64_t len)
{
	struct iovec v = { (void *)(uintptr_t)addr, len };
	struct io_uring_rsrc_update2 u = { .offset = slot, .data = (uintptr_t)&v, .nr = 1 };
	int rc;

	if (FAULT(len ? "uring register" : "uring deregister"))
		return len ? -ENOMEM : -EIO;
	rc = io_uring_register((unsigned)t->fd, IORING_REGISTER_BUFFERS_UPDATE, &u, sizeof(u));
	if (rc == 1)
		return 0;
	return rc < 0 ? rc : -EIO;
}

/* All or the first error; a slot that would not be emptied stays taken for ever (R32). */
static int unpin(struct uring_nic *nic, struct uring_table *t, unsigned slot, unsigned n)
{
	int first_error = 0;

	for (unsigned i = slot; i < slot + n; i++) {
		int rc = update(t, i, 0, 0);

		if (!rc)
			give_slots(nic, t, i, 1);
		else if (!first_error)
			first_error = rc;
	}
	return first_error;
}

static uint64_t now_ms(void)
{
	return os_now_ns() / 1000000;
}

/* A late kernel may still be charging what was let go a moment ago: give it its second. */
static int pin_slot(struct uring_nic *nic, struct uring_table *t, unsigned slot, uint64_t addr,
		    uint64_t len)
{
	int rc = update(t, slot, addr, len);

	while (rc == -ENOMEM && nic->late_unpin && now_ms() - nic->last_dereg_ms < LATE_UNPIN_MS) {
		os_sleep_us(LATE_UNPIN_STEP_US);
		rc = update(t, slot, addr, len);
	}
	return rc;
}

static int pin(struct uring_nic *nic, struct uring_table *t, unsigned slot, uint64_t addr, uint64_t len)
{
	unsigned n = 0;
	int rc;

	for (uint64_t done = 0; done < len; done += URING_SPAN, n++) {
		uint64_t part = len - done < URING_SPAN ? len - done : URING_SPAN;

		rc = pin_slot(nic, t, slot + n, addr + done, part);
		if (rc)
			goto undo;
	}
	return 0;
undo:
	for (unsigned i = 0; i < n; i++)
		if (update(t, slot + i, 0, 0))
			return -EIO;
	return rc;
}

static unsigned slots_for(uint64_t len)
{
	return (unsigned)((len + URING_SPAN - 1) >> URING_SPAN_SHIFT);
}

/*
 * The kernel's EFAULT has several meanings, and what is mapped there now tells which. It may have
 * changed since (another thread recycles the address): only what was refused each time is to blame.
 */
static int pin_tries(struct uring_nic *nic, struct uring_table *t, unsigned slot, uint64_t addr,
		     uint64_t len)
{
	int rc = 0;

	for (int i = 0; i < MAPPING_TRIES && rc != -EFAULT; i++) {
		rc = pin(nic, t, slot, addr, len);
		if (!rc)
			return 0;
		if (rc != -EFAULT && uring_why_ring(t->fd))
			return -EBADF;
		if (rc != -EFAULT && rc != -EOPNOTSUPP)
			return uring_why_reg(rc, addr, len);
		rc = uring_why_mapping(rc, addr, len);
	}
	return rc;
}

int uring_reg(void *p, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	unsigned n = slots_for(len), index = 0, slot = 0;
	struct uring_nic *nic = p;
	struct uring_table *t;
	int rc;

	rc = take_slots(nic, n, &index, &slot);
	if (rc)
		return rc;
	t = nic->table[index];
	rc = pin_tries(nic, t, slot, addr, len);
	if (rc) {
		/* After -EIO a slot is still pinned and its number must not be used again. */
		if (rc != -EIO)
			give_slots(nic, t, slot, n);
		return rc;
	}
	out->lkey = (uint64_t)index * URING_MAX_SLOTS + slot;
	out->rkey = 0;
	out->priv = 0;
	return 0;
}

int uring_dereg(void *p, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	struct uring_nic *nic = p;
	struct uring_table *t;
	unsigned slot;
	int rc;

	t = uring_table_of(nic, reg->lkey, &slot);
	if (!t)
		return hf_set_error(-EINVAL, "uring: no slot has the key %llu",
				    (unsigned long long)reg->lkey);
	rc = unpin(nic, t, slot, slots_for(len));
	if (nic->late_unpin)
		nic->last_dereg_ms = now_ms();
	if (rc)
		return hf_set_error(rc, "uring: the ring would not let go of slot %u: %s", slot,
				    strerror(-rc));
	return 0;
}
