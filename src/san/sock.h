/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets (holdfast/san.h). Read in this order: listen.c and handshake.c (how two meet), sock.c (life of a
 * connection), memory.c (handles and descriptors), post.c (what is asked for), tx.c and rx.c (the two streams), qp.h and
 * qp.c (queue pairs instead of them), engine.c (the thread that drives them), cq.c.
 *
 *   caller's thread                       engine's thread, one a provider
 *   --------------------------            -----------------------------------------
 *   post: into a queue, and out           epoll: what comes in is put where it belongs
 *   as far as the socket takes it         (rx), what didn't go out at once goes out (tx)
 *                                         completions ──► cq ──► hf_cq_wait()
 *
 * Locks, in their order:
 *   cq->polling    who polls a queue asks its queue pairs; only tried (cq.h)
 *   engine->lock   which listeners and handshakes there are; each is short and never waits
 *   sock->lock     all of one connection. Held over one step of at most SAN_STEP bytes of a move that doesn't wait, and
 *                  over the question whether memory has changed (hf_secured_changed(): it waits for the proxy's thread, 2 ms at
 *                  most, which takes no lock of ours). Never over hf_get(), hf_put() or a system call that blocks, but for a
 *                  queue pair's expose(), revoke() and stop(), which wait for the NIC and not for the peer.
 *   cq->lock, and what the cache, the switch and the NIC take inside their calls
 *
 * The step is why a revocation is final (R28). Whether the peer may reach the memory is asked anew for each step, in one
 * hold of the lock with the step itself:
 *
 *   hf_mr_dereg()                         rx, tx: an RDMA of the peer's under way
 *   --------------------------            -----------------------------------------
 *                                         lock; exposures_check: yes
 *   lock: waits                           move one step; unlock
 *   has it ◄────────────────────────────  somebody wants it: not again before he had it
 *   exposures_remove; unlock
 *   hf_put(), returns                     lock; exposures_check: no. What is left of the piece goes
 *   the memory doesn't change any more    to nowhere, or comes from a page of zeros; DONE -EACCES
 *
 * Nothing of the peer's is remembered over a step: not an address, not a pointer to a registration.
 */
#ifndef HF_SAN_SOCK_H
#define HF_SAN_SOCK_H

#include <holdfast/san.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "../provider.h"
#include "address.h"
#include "auth.h"
#include "cq.h"
#include "exposure.h"
#include "wire.h"

#define SAN_STEP   (256u << 10) /* bytes moved in one hold of the lock */
#define SAN_BUDGET (1u << 20)   /* bytes in one direction before another socket has its turn */
#define SAN_BATCH  16u          /* frames sent at once */

/*
 * For the tests: told of each step of a connection's life, in the order in which it comes. In the product there is
 * nothing.
 */
#ifdef HF_FAULTS
extern void (*_Atomic san_step)(const char *what);
#define STEP(what)                                                  \
	do {                                                        \
		void (*step_)(const char *) = atomic_load(&san_step); \
		if (step_)                                          \
			step_(what);                                \
	} while (0)
#else
#define STEP(what) ((void)0)
#endif

/* How much of what is left moves in one hold of the lock. */
static inline uint32_t san_step_of(uint32_t left)
{
	return left < SAN_STEP ? left : SAN_STEP;
}

struct engine;
struct listener; /* listen.c's */
struct san_qp;   /* qp.c's */
struct hf_sock;
struct san_mr;

/* What epoll gives back: the first member of what it belongs to. */
enum watch_kind { WATCH_WAKE, WATCH_LISTENER, WATCH_HANDSHAKE, WATCH_SOCK, WATCH_QP_DONE, WATCH_QP_TOLD };
struct watch {
	enum watch_kind kind;
};

struct san_options {
	struct san_secret secret;
	bool any_uid;
	uint64_t max_message, max_rdma; /* bytes */
	uint32_t depth;
};
int san_options_parse(const char *text, struct san_options *o); /* 0 or -errno with the sentence set */

/* Registered memory of one socket. */
struct san_mr {
	uint64_t id;              /* the handle; constant */
	struct hf_region region;  /* held; constant */
	uint64_t addr, len;       /* what was asked for, not what is registered; constant */
	unsigned access;          /* likewise (R17) */
	uint64_t secured;         /* hf_secure()'s id; 0: nobody watches this memory; constant */
	uint32_t busy;            /* (lock) operations that were posted with it and have not completed */
	bool exposed;             /* (lock) */
	uint32_t slot;            /* (lock) of the exposure */
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]; /* constant; zeros: never exposed */
	/* By queue pairs: */
	struct hf_sock *told;     /* it is told of changes; NULL: nobody is; constant */
	_Atomic bool changed;     /* ... and there was one */
	void *window;             /* (lock) the NIC's; the peer reaches it as long as there is one */
};

struct san_seg {
	struct san_mr *mr;
	uint64_t addr, len;
};

/* A posted operation; the completion is first, so that who takes it can free it. */
struct san_op {
	struct completed completed;
	struct san_op *next;
	uint32_t number;          /* on the wire, once begun */
	bool begun, sent, done;   /* the first piece is on its way; the last one is; the answer is here */
	bool local;               /* failed before it was begun: it only waits for those before it */
	uint64_t total, moved;    /* bytes */
	uint64_t offset;          /* into what the descriptor exposes */
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE];
	unsigned segments;
	unsigned at;              /* where `moved` is: segment, and offset in it */
	uint64_t at_offset;
	struct san_seg seg[HF_SEGMENTS];
};

struct op_queue {
	struct san_op *first, **last;
};

/* What the peer has asked for and isn't answered yet. */
struct answer {
	bool read;                /* DATA is to be sent first; else only DONE */
	uint32_t op;
	int32_t status;
	uint64_t offset, total, moved;
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE];
};

enum tx_payload { TX_NONE, TX_OP, TX_ANSWER, TX_ZEROS };

struct tx {
	uint8_t head[SAN_BATCH * WIRE_FRAME_SIZE];
	uint32_t head_size, head_sent;
	enum tx_payload payload;  /* behind the last frame of head */
	uint32_t left;            /* bytes of it */
	struct san_op *op;        /* of which a piece was sent, and not all: TX_OP is its payload */
	bool answers_turn;        /* of the two that have payload, which goes first */
	bool broken;              /* the peer doesn't read any more: what it said before comes out of rx */
};

enum rx_payload { RX_RECEIVE, RX_WRITE, RX_READ, RX_NOWHERE };

struct rx {
	uint8_t head[WIRE_FRAME_SIZE];
	uint32_t got;             /* bytes of head */
	struct wire_frame frame;  /* head, when it is whole */
	enum rx_payload payload;
	uint32_t left;            /* bytes of the frame's payload */
	/* The message or write of which the pieces come. */
	bool open;
	uint64_t total, moved;    /* moved: as told by the peer, also where it goes nowhere */
	uint64_t offset;          /* of a write: where its next byte goes */
	int32_t status;
	enum wire_type of;        /* WIRE_MESSAGE or WIRE_WRITE */
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE];
	uint32_t next_op;         /* the peer's next operation has this number */
	uint32_t next_credit;     /* and its next receive this one */
};

/* How the payload goes: what differs. All but what says so: sock->lock is held. */
struct carrier {
	unsigned version;                        /* of the protocol */
	void (*start)(struct hf_sock *s);        /* optional: begin what may begin, before frames are gathered */
	bool (*put_next)(struct hf_sock *s);     /* put one frame into tx.head; false: there is none */
	int (*take_frame)(struct hf_sock *s);    /* rx.frame has come: 0 or -errno, and the connection ends with it */
	void (*last_words)(struct hf_sock *s);   /* optional: put one frame before BYE */
	/*
	 * Let the peer reach the memory: 0 with mr->slot, ->exposed and ->descriptor, or -errno with the sentence. The lock may be
	 * let go of in between.
	 */
	int (*expose)(struct hf_sock *s, struct san_mr *mr);
	void (*conceal)(struct hf_sock *s, struct san_mr *mr); /* it doesn't, from the return on (R28) */
};

struct hf_sock {
	struct watch watch;       /* first */
	const struct carrier *carrier; /* constant */
	struct hf_provider *p;
	struct engine *e;
	int fd;
	uid_t peer_uid;
	pid_t peer_pid;
	char local[128], peer[128];
	struct listener *listener; /* NULL: the rest is used */

	struct hf_cq *cq;
	uint64_t max_message, max_rdma; /* the smaller of both sides' */
	uint32_t depth;           /* our own: posted at once */
	uint32_t window;          /* the smaller of both sides': begun at once, credits out at once */

	pthread_mutex_t lock;     /* guards all that follows */
	_Atomic unsigned wanted;  /* callers that wait for it: the engine lets them through */
	int error;                /* 0: connected; else the status with which it ended */
	uint32_t events;          /* that epoll looks for; 0: none, not in it */

	struct san_mr **mr;       /* by slot; NULL: free */
	uint32_t mr_slots, mr_hint;
	struct exposures exposures;
	uint64_t refused;

	struct op_queue queued;   /* send, write, read: not begun */
	struct op_queue begun;    /* in order; the first one completes first */
	struct op_queue receives;
	struct san_op *uncredited; /* the first receive of which the peer doesn't know */
	uint32_t posted, posted_receives; /* not completed */
	uint32_t in_flight, reads; /* begun and not done; of those, reads */
	uint32_t next_op, next_credit;
	uint32_t credits_out;     /* receives that the peer knows of and has not used */
	uint64_t *credits;        /* a ring of `window`: sizes of the peer's receives */
	uint32_t credit_first, credit_count;
	struct answer *answers;   /* a ring of `window` */
	uint32_t answer_first, answer_count;
	struct tx tx;
	struct rx rx;
	struct san_qp *qp;        /* NULL: by the stream; constant */
};

/* sock.c */
int sock_enter(struct hf_sock *s); /* 0, -EINVAL for NULL, -EOWNERDEAD */
int sock_enter_connected(struct hf_sock *s); /* ... -EINVAL for a listening one */
void sock_lock(struct hf_sock *s);
void sock_unlock(struct hf_sock *s);
/* lock: give it to those that want it, if any. What was looked at before may have changed. */
void sock_breathe(struct hf_sock *s);
struct made {
	int fd;
	struct san_qp *qp;        /* NULL: the stream carries the payload */
	uint64_t max_message, max_rdma;
	uint32_t depth, window;
};
/* Over a stream that has shaken hands; takes what is in *made, also when it fails. */
int sock_make(struct hf_provider *p, struct engine *e, struct hf_cq *cq, const struct made *made,
	      struct hf_sock **out);
/* lock: the connection has ended. Everything pending completes with `status`; nothing moves any more. */
void sock_fail(struct hf_sock *s, int status);
void sock_describe(struct hf_sock *s); /* who is at its ends */
int sock_can_move(struct hf_provider *p);
/* What carries the sockets of this provider. */
const struct carrier *sock_carrier(const struct hf_provider *p);
void made_drop(const struct made *made); /* what was never made a socket */

/* post.c */
void queue_init(struct op_queue *q);
void queue_push(struct op_queue *q, struct san_op *op);
struct san_op *queue_pop(struct op_queue *q);
/* lock: was memory of the operation changed after it was registered? */
bool op_is_stale(struct hf_sock *s, const struct san_op *op);
bool mr_is_stale(struct hf_sock *s, const struct san_mr *mr);
/* lock: the next step of the operation's memory from `moved` on; at most `most` bytes, and not 0 unless it is. */
struct san_mr *op_here(struct san_op *op, uint64_t most, uint64_t *addr, uint64_t *len);
void op_advance(struct san_op *op, uint64_t n);
/* lock: let go of its memory, then complete it. It is gone afterwards. */
void op_complete(struct hf_sock *s, struct san_op *op, int status);
/* lock: complete those at the head of `begun` that are done. */
void ops_settle(struct hf_sock *s);

/* lock: the peer is told of one receive more. Tells of the next one, `uncredited`; and is told. */
void credit_put(struct hf_sock *s);
int credit_take(struct hf_sock *s, const struct wire_frame *f);
/* lock: must it wait, whatever carries it? Of the first of `queued`. */
bool op_must_wait(const struct hf_sock *s, const struct san_op *op);
/* lock: is it of no use to begin? The status that it completes with, or 0. */
int op_refuse(struct hf_sock *s, const struct san_op *op);
/* lock: begin the first of `queued`: true. False: it was refused; it completes with that, in its turn. */
bool op_begin(struct hf_sock *s, int refused);
/* lock: it was begun, and has ended. ops_settle() completes it, in its turn. */
void op_ended(struct hf_sock *s, struct san_op *op, int status);

/* tx.c; lock. Move what there is to the socket, up to `budget` bytes, and arrange that the engine does the rest. */
void tx_run(struct hf_sock *s, uint32_t budget);
/* One more DONE. False: the peer has more under way than it may. */
bool tx_answer(struct hf_sock *s, const struct answer *a);
void tx_bye(struct hf_sock *s);
void tx_put(struct hf_sock *s, const struct wire_frame *f); /* there is room in tx.head */
bool tx_next(struct hf_sock *s); /* the stream's put_next */

/* The status with which a connection ends, for what the socket or the NIC has answered. */
int end_status(int err);
/* lock: the peer was told this status of a request of its own. */
void count_refused(struct hf_sock *s, int status);

/* rx.c; lock. Take in what there is, up to `budget` bytes. */
void rx_run(struct hf_sock *s, uint32_t budget);
int rx_frame(struct hf_sock *s); /* the stream's take_frame */

/* memory.c */
extern const struct carrier carrier_stream;
struct san_mr *mr_find(struct hf_sock *s, uint64_t id); /* lock */
void mr_release(struct hf_sock *s, struct san_mr *mr);  /* no lock; free()s it */

#endif
