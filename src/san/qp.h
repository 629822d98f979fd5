/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Version 2 of the protocol: what the NIC's queue pairs carry. The stream only has CREDIT, DONE and BYE, and says by its end that
 * the peer has gone. Nobody executes anything where the peer's NIC reads and writes, so what rx.c asks before each step is here
 * done once, beforehand, by the window that is opened, and ends with it.
 *
 *   who exposes                           peer
 *   --------------------------            -----------------------------------------
 *   hf_mr_expose(): window ─────────────► descriptor: rights, length, key
 *                                         hf_post_write(): rights and range by the descriptor, here: -EACCES, -ERANGE
 *   NIC: key, right, range ◄───────────── else posted to the NIC
 *   hf_mr_dereg(): revoke(); final
 *   NIC: no ◄──────────────────────────── a write that was posted before: -EACCES, and the connection ends
 *
 * Three can take in what is done, and each does it under sock->lock: the engine, told by fd(); who calls hf_cq_poll() or
 * hf_cq_wait(), without waiting for the lock; and who waits in hf_mr_expose(), which must not depend on the engine, for that
 * may be busy with other sockets. What one has taken, none of the others finds:
 *
 *   engine                                hf_cq_poll()
 *   --------------------------            -----------------------------------------
 *                                         list empty; trylock; poll(): 2 done
 *   epoll: fd readable; lock: waits       delivers both; unlock; takes them
 *   has it; arm(): 0, or 1 and again
 *   poll(): 0; unlock
 *
 * arm() comes before poll(), so that what is done in between is either found by it or makes fd readable once more.
 *
 * Memory that has changed while it was exposed:
 *
 *   program         thread that tells             engine                     peer's NIC
 *   ------------    --------------------------    -----------------------    -------------------
 *   munmap ..set    mr->changed; wakes engine                                writes to the old pages, which are
 *                   (no lock, no allocation:      lock; revoke(); final      still pinned and nobody else's (I2)
 *                    R35)                                                    writes: -EACCES
 */
#ifndef HF_SAN_QP_H
#define HF_SAN_QP_H

#include "sock.h"

struct san_qp; /* qp.c's */

/*
 * A queue pair for the ends of `fd`; *out also has what is told to the peer. 0, or -errno with the sentence. The
 * engine, or who connects.
 */
int qp_open(struct hf_provider *p, int fd, uint32_t depth, struct san_qp **out, struct wire_qp *tell);
/* Connect to the peer's. 0, or -errno with the sentence. */
int qp_ready(struct san_qp *q, const struct wire_qp *peer);
/* NULL is fine. Its windows have ended. */
void qp_close(struct san_qp *q);

/* lock: it begins to serve a socket that is not yet in anybody's hands: 0, or -errno with the sentence. */
int qp_enter(struct hf_sock *s);
/* No lock: then, who polls the queue finds it. */
void qp_join(struct hf_sock *s);
/* No lock: nobody who polls the queue looks at it any more. */
void qp_leave(struct hf_sock *s);

/* lock: take in what is done. The connection may end by it. */
void qp_take(struct hf_sock *s);
/* lock: before the connection ends: take in what is done, and what the peer says of it, and end nothing by it. qp_stop() is next. */
void qp_take_last(struct hf_sock *s);
/* lock: no byte moves any more. What was posted is the caller's. */
void qp_stop(struct hf_sock *s);
/* For hf_secure(): memory of a san_mr has changed. */
void qp_changed(void *mr, void *addr, size_t len);

/* The engine: something is done; something has changed, or is to be looked at again. */
void qp_done_ready(struct watch *w);
void qp_told_ready(struct watch *w);

extern const struct carrier carrier_qp;

#endif
