/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NIC `uring`: registered buffers of an io_uring.
 *
 * table   one io_uring with a sparse buffer table of fixed size. Tables can't grow in place (the kernel
 *         would have to pin everything anew, and what is held would change: I2), so the NIC adds
 *         rings with ever larger tables. Small first, for two reasons: registering memory in huge pages
 *         makes the kernel scan all buffers of that ring, to charge each huge page only once; and most
 *         programs never need the second.
 * lkey    table * 16384 + slot; the index in the user's own table when the ring is his.
 * slot    at most 1 GiB (the kernel's limit); a longer range takes consecutive slots of one table.
 *
 * RLIMIT_MEMLOCK is charged per user over all his processes, and a page inside a huge page is charged
 * as the whole huge page, once per ring. That is why a registration goes into the lowest table that has
 * room and never moves: neighbours in one huge page end up in one ring as long as there is room, and
 * are charged once. They are charged twice only when a table filled up between them.
 *
 * Locks, none of them taken by a thread that receives events (I4):
 *   nic->lock      which slots are taken, adding a table; never held over a registration
 *   table->submit  the ring's queues and its pipe; nothing is ever in flight when it is free, because
 *                  every request is of the kind that never waits (uring_op.c). So a slot that is given
 *                  back is used by no request, and a slow peer blocks nobody else.
 *   conn->tx, rx   one message at a time in each direction; taken before table->submit
 */
#ifndef HF_URING_H
#define HF_URING_H

#include <holdfast/backend.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define URING_TABLES 5
#define URING_MAX_SLOTS 16384u /* IORING_MAX_REG_BUFFERS */
#define URING_SPAN_SHIFT 30    /* 1 GiB a slot */
#define URING_SPAN (1ull << URING_SPAN_SHIFT)

struct uring_table {
	int fd;          /* of the ring */
	bool own;        /* the ring is ours: `ring` is set up, requests can be submitted */
	unsigned slots;
	unsigned first;  /* no slot below is free (nic->lock) */
	uint64_t *taken; /* a bit per slot (nic->lock) */
	pthread_mutex_t submit;
	struct io_uring ring; /* (submit) */
	int pipe[2];          /* for peek and poke, -1 until first used; empty between calls (submit) */
};

/* What the kernel's sockets understand; found out at the first attach. */
struct uring_caps {
	bool known;
	bool nowait;   /* RWF_NOWAIT on a socket, Linux 6.5 */
	bool nosignal; /* RWF_NOSIGNAL, Linux 6.18 */
};

struct uring_nic {
	pthread_mutex_t lock;
	_Atomic(struct uring_table *) table[URING_TABLES]; /* set under lock, then constant */
	bool users_ring;
	struct uring_caps caps; /* (lock), constant once a connection is there */
	bool late_unpin;        /* Linux before 6.4 takes a second to uncharge what was deregistered */
	_Atomic uint64_t last_dereg_ms;
};

/* uring_table.c */
int uring_table_add(struct uring_nic *nic, unsigned i, unsigned slots); /* (lock) */
int uring_table_adopt(struct uring_nic *nic, int fd, unsigned slots);
void uring_table_close(struct uring_table *t);
int uring_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out);
int uring_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg);
uint64_t uring_lkey_at(uint64_t reg_addr, uint64_t lkey, uint64_t addr);
/* The table and slot behind a key, or NULL. */
struct uring_table *uring_table_of(struct uring_nic *nic, uint64_t lkey, unsigned *slot);
unsigned uring_table_slots(unsigned i);

/* uring_why.c: sentences for what the kernel answered */
int uring_why_setup(int rc);
int uring_why_reg(int rc, uint64_t addr, uint64_t len);
/* 0 if the descriptor is an io_uring; else -EBADF, with the sentence set. */
int uring_why_ring(int fd);
/* rc was EFAULT or EOPNOTSUPP: -EFAULT for a hole, -EOPNOTSUPP when the mapping is to blame. */
int uring_why_mapping(int rc, uint64_t addr, uint64_t len);

/* uring_op.c: one request at a time, none of which waits */
enum uring_dir { URING_OUT, URING_IN }; /* from, to the registered memory */
/*
 * Move up to `len` bytes between `fd` and registered memory, without waiting. How many were moved (0: the
 * other side is gone), or -errno; -EAGAIN when it would have to wait.
 */
int uring_move(struct uring_nic *nic, enum uring_dir dir, int fd, const struct hf_region *r,
	       uint64_t addr, uint64_t len);
int uring_find_caps(struct uring_nic *nic); /* (lock) */
int uring_peek(void *nic, const struct hf_region *r, uint64_t addr, void *dst, size_t len);
int uring_poke(void *nic, const struct hf_region *r, uint64_t addr, const void *src, size_t len);

/* uring_conn.c */
int uring_attach(void *nic, int fd, void **conn);
void uring_detach(void *conn);
int uring_send(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len);
int uring_nic_move(void *nic, unsigned access, int fd, const struct hf_region *r, uint64_t addr,
		   uint64_t len);
int uring_recv(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got);

#endif
