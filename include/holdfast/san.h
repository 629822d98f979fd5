/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets: a connection between two processes over which each moves data straight from and to registered
 * memory, by messages (send, receive) and by remote access (RDMA write, RDMA read).
 *
 *   hf_cq_open()                      where completions arrive
 *     hf_listen() ─► hf_accept()      the one side
 *     hf_connect()                    the other
 *       hf_mr_reg(), hf_mr_expose()   memory for this socket: a handle; and a descriptor for the peer
 *       hf_post_*()                   overlapped: each completes exactly once, in the queue (R47)
 *       hf_mr_dereg()                 the peer's access ends before it returns; the registration stays cached (R28)
 *     hf_sock_close()                 what is pending completes with -ECANCELED (R45)
 *   hf_cq_close()
 *
 * The payload goes over the stream socket (NIC `uring`), or by queue pairs of an RDMA NIC that are connected beside it. Both
 * sides must be of one kind. What differs is said where it does, as "by queue pairs".
 *
 * The conventions of holdfast.h hold here, too: 0 or positive, or -errno; hf_error() has the sentence; any thread may
 * call at the same time as any other, but what closes an object runs alone on it; -EOWNERDEAD in a forked child.
 */
#ifndef HOLDFAST_SAN_H
#define HOLDFAST_SAN_H

#include <holdfast/holdfast.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct hf_cq;   /* a completion queue */
struct hf_sock; /* a provider socket: listening, or connected */

/* ------------------------------------------------------------------ completions */

enum hf_op {
	HF_OP_SEND = 1,
	HF_OP_RECV,
	HF_OP_WRITE, /* RDMA */
	HF_OP_READ,  /* RDMA */
};

struct hf_completion {
	void *context;        /* what the post was given */
	struct hf_sock *sock; /* for comparing only: it may be closed by now */
	uint32_t op;          /* enum hf_op */
	int32_t status;       /* 0, or -errno: see hf_completion_text() */
	uint64_t bytes;       /* moved; of a receive: the message's length */
};

/*
 * status: 0; -ECANCELED: this side closed; -ESHUTDOWN: the peer closed; -ECONNRESET: the peer or the way to it is
 * gone; -EPROTO: what the peer sent can't be understood; -EMSGSIZE: the message is larger than what the peer had posted
 * to receive it, its receive stays posted; -EACCES: the descriptor is not, or no more, valid on this connection, or
 * doesn't give this right; -ERANGE: beyond the end of what is exposed; -ESTALE: the memory behind it, here or there,
 * was changed after it was registered (what was moved by then was moved from or to the pages that were pinned; it is told
 * of memory that a proxy watches: hf_mr_reg()); -EIO: the NIC, here or there, failed.
 *
 * By queue pairs a descriptor that the peer's NIC refuses ends the connection: -EACCES for that operation, -ECONNRESET
 * for all others. That is also what an RDMA may say when the peer is killed in its midst: its rights may go before its
 * stream. A right or a range that the descriptor doesn't give is noticed here before, and ends nothing. And exposed memory
 * that was changed is exposed no more, so it is -EACCES, not -ESTALE; a sender is not told that the memory of the receive
 * was.
 */
const char *hf_completion_text(const struct hf_completion *c);

/* -ENOMEM, -EMFILE. One queue serves any number of sockets, of any provider. */
int hf_cq_open(struct hf_cq **out);
/* -EBUSY while a socket uses it. Completions that nobody took are dropped. NULL is 0. */
int hf_cq_close(struct hf_cq *cq);
/* Take up to `max`: how many, 0 when there are none. Never blocks. */
int hf_cq_poll(struct hf_cq *cq, struct hf_completion *out, int max);
/* The same, but waits until there is one: 0 after timeout_ms (-1: no end; EINTR is waited through). */
int hf_cq_wait(struct hf_cq *cq, struct hf_completion *out, int max, int timeout_ms);
/* An eventfd that polls readable while there may be something to take; the queue reads it, not the caller. */
int hf_cq_fd(const struct hf_cq *cq);

/* ------------------------------------------------------------------ connections */

/*
 * `address`: "unix:/a/path", "unix:@name" (abstract), "tcp:127.0.0.1:4000", "tcp:[::1]:4000", "tcp:localhost:4000".
 * Port 0 takes a free one: hf_sock_info().
 *
 * `options`, "name=value,..." or NULL:
 *   secret_file=PATH  16 to 4096 bytes that both sides must have: proved at connect by HMAC-SHA-256 over both sides'
 *                     challenges, never sent. Needed for every address but loopback and unix (-EACCES without).
 *                     It says who is there at the start; what follows is not encrypted.
 *   any_uid=on        the other end of a unix socket may be any user's; else, on both sides, only of the same effective
 *                     uid, or root's
 *   max_message=SIZE  largest message (R13), 64M unless given; at most 1G
 *   max_rdma=SIZE     largest RDMA (R13), 1G unless given
 *   depth=N           posted and not completed at once, for each of send-like and receive: 256
 *
 * hf_listen: -EINVAL (address or option), -EACCES, -EADDRINUSE, -EADDRNOTAVAIL, -EOPNOTSUPP (the NIC has no queue pairs, and
 * can't move data by stream sockets), -EMFILE, -ENOMEM.
 */
int hf_listen(struct hf_provider *p, const char *address, const char *options, struct hf_sock **out);

/*
 * The next peer that has connected and proved who it is. Waits up to timeout_ms (-1: no end; 0: looks).
 * -ETIMEDOUT; -EINVAL (not listening). Peers that say nothing or the wrong thing are dropped after 5 s, and hinder
 * nobody else. hf_sock_fd() of the listening socket polls readable when there is one to take.
 */
int hf_accept(struct hf_sock *listener, struct hf_cq *cq, int timeout_ms, struct hf_sock **out);

/* -ECONNREFUSED, -ENOENT (no such path), -ETIMEDOUT, -EACCES (uid or secret refused), -EPROTO (no holdfast peer, or of
 * another version: one side has queue pairs, the other has not), -EIO (the peer's NIC has no queue pair for us), -EINVAL,
 * -EOPNOTSUPP, -EMFILE, -ENOMEM, and what the NIC says about a queue pair. Blocks up to timeout_ms. */
int hf_connect(struct hf_provider *p, const char *address, const char *options, struct hf_cq *cq,
	       int timeout_ms, struct hf_sock **out);

/*
 * Close, of either kind. When it returns: every operation has completed (those pending with -ECANCELED, after their
 * memory was let go), every handle and descriptor is void, no byte of ours moves any more. Peers that were
 * not accepted yet are dropped; a unix path is removed. NULL is 0.
 */
int hf_sock_close(struct hf_sock *s);

/* A descriptor to poll: listening: readable when hf_accept() won't wait. Connected: -EINVAL, use hf_cq_fd(). */
int hf_sock_fd(const struct hf_sock *s);

struct hf_sock_info {
	uint64_t size;        /* set by the call: bytes that it filled */
	uint64_t max_message; /* the smaller of both sides' */
	uint64_t max_rdma;
	uint64_t exposures;   /* descriptors now valid */
	uint64_t refused;     /* requests of the peer that named a wrong descriptor, right or range; by queue pairs 0 */
	uint32_t connected;   /* 1 while it is */
	int32_t error;        /* why it is no more: a status as above */
	uid_t peer_uid;       /* unix; else (uid_t)-1 */
	pid_t peer_pid;       /* unix; else 0 */
	char local[128];      /* as `address` */
	char peer[128];
};
int hf_sock_info(struct hf_sock *s, struct hf_sock_info *out, size_t size);

/* ------------------------------------------------------------------ memory */

#define HF_DESCRIPTOR_SIZE 32 /* bytes of a buffer descriptor: opaque, no pointer in it; who guesses one gets nothing by it */

/*
 * Register [addr, addr+len) for local use on this connection (R1, R3): by a get from the provider's cache. The same
 * memory may be registered any number of times (R5). *mr is never 0, and valid on this socket in this process only
 * (R4). Memory that the proxy can't watch, or not within some 10 ms because its mapping is changing, is registered
 * all the same; nobody says -ESTALE of it then.
 * Errors: those of hf_get(), -EAGAIN (it keeps changing), -ENOTCONN.
 */
int hf_mr_reg(struct hf_sock *s, void *addr, size_t len, unsigned access, uint64_t *mr);

/*
 * The same, and let the peer of this connection reach exactly these bytes, with exactly these rights (R8, R10, R15,
 * R17): HF_READ: RDMA read; HF_WRITE: RDMA write. Bring the descriptor to the peer as you like. *length is
 * how much room there is; it is looked at before anything else, and set to what is needed: -ENOSPC when that is more (R9).
 * By queue pairs it waits for the NIC, and may fail with what that says. Memory that is changed while it is exposed is
 * exposed no more.
 */
int hf_mr_expose(struct hf_sock *s, void *addr, size_t len, unsigned access, void *descriptor,
		 size_t *length, uint64_t *mr);

/*
 * Give it back (R6, R7, R11). The peer's access ends before this returns: what it has under way there fails or is
 * complete (R28). The registration stays cached. -EINVAL: no such handle on this socket; -EBUSY: an operation that
 * was posted with it has not completed, nothing happens.
 */
int hf_mr_dereg(struct hf_sock *s, uint64_t mr);
/* By descriptor instead of by handle. */
int hf_mr_revoke(struct hf_sock *s, const void *descriptor, size_t length);

/* ------------------------------------------------------------------ transfers */

#define HF_SEGMENTS 16 /* per operation */

struct hf_segment {
	void *addr;
	size_t len;  /* bytes; 0 is allowed */
	uint64_t mr; /* a handle of this socket that covers it: HF_READ to be sent from, HF_WRITE to be received into */
};

/*
 * Post an operation: 0 means that it will complete once. Anything else: it will not. Never blocks for the peer. The
 * segments' array may go at once; the memory, when it has completed.
 *
 *  - Operations of one side are carried out, and complete, in the order in which they were posted, receives in theirs. So a
 *    send or write behind a read waits for the read's answer; reads don't wait for each other.
 *  - send: completes when the peer has received it; by queue pairs, when its NIC has. It waits for the peer to post a receive: nothing is dropped for
 *    want of one (R48), and what was posted behind it waits, too. The other direction goes on.
 *  - write, read: the peer's program takes no part. `offset` is into what the descriptor exposes (R12).
 *  - -EINVAL: segments, handles, a range outside of its handle; -EACCES: the handle has not the right;
 *    -ESTALE: the memory was changed after it was registered: register anew; -EMSGSIZE: over the largest (R13);
 *    -EAGAIN: depth is reached; or the status with which the connection ended.
 */
int hf_post_send(struct hf_sock *s, const struct hf_segment *seg, unsigned n, void *context);
int hf_post_recv(struct hf_sock *s, const struct hf_segment *seg, unsigned n, void *context);
int hf_post_write(struct hf_sock *s, const struct hf_segment *seg, unsigned n, const void *descriptor,
		  size_t length, uint64_t offset, void *context);
int hf_post_read(struct hf_sock *s, const struct hf_segment *seg, unsigned n, const void *descriptor,
		 size_t length, uint64_t offset, void *context);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
