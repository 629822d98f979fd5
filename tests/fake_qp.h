/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A NIC with queue pairs, in this process: sim's registrations, and a thread that carries out what was posted, a chunk at a time,
 * as hardware does: asynchronously; an access is looked at for each chunk, so that a revocation cuts what is under way;
 * reads are held back until the others have been carried out, where nobody has asked for a fence; after an error a
 * queue pair moves nothing any more, and says so for all that was posted. It aborts, with a sentence, on what the library must not
 * do: two calls on one queue pair at once, more than depth, a request before both are ready, a message without a
 * receive, a key of sim that is stale, a close with windows left.
 */
#ifndef CHECK_FAKE_QP_H
#define CHECK_FAKE_QP_H

#include <holdfast/backend.h>
#include <stdatomic.h>

/* Of all of them in the process; set while nothing is posted, if it doesn't say otherwise. */
struct fake_qp {
	/* commands */
	_Atomic int64_t allowed;       /* chunks that may be carried out: < 0 all; at any time */
	_Atomic uint64_t chunk;        /* bytes; 64 KiB */
	_Atomic uint64_t max;          /* what open() answers */
	_Atomic int slow_expose;       /* expose() answers 1, and is done by the thread: a chunk of its own */
	_Atomic int64_t fail_open_in, fail_ready_in, fail_post_in, fail_expose_in, fail_revoke_in; /* the n-th from now: -EIO */
	_Atomic int fail_expose_later; /* a slow one is done with -EIO */
	_Atomic int arm_always;        /* arm() always answers 1, though it has armed */
	_Atomic int hold_acks;         /* requests are carried out, and who has posted them isn't told */
	_Atomic int silent;            /* fd() is never readable: who wants completions has to poll */
	/* counters */
	_Atomic uint64_t qps, windows; /* now */
	_Atomic uint64_t chunks, bytes, posts, polls, refused, no_receive, reordered;
};
extern struct fake_qp fake_qp;

extern const struct hf_nic_ops fake_qp_nic;
void fake_qp_reset(void);

#endif
