/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the parts of `holdfast perf --op` share: transfers by SAN sockets, between processes or hosts.
 *
 *   perf_op.c         the asking side: connects, asks, has the clock
 *   perf_op_peer.c    the answering side: listens, does what it is asked
 *   perf_op_side.c    what both have: control and data connections, their messages
 *   perf_op_plain.c   the plain socket beside them
 *   perf_revoke.c     --op revoke: how fast access ends, and descriptors that must be refused
 *
 * Everything goes by SAN sockets but the plain bytes: a control connection, and one data connection per provider (caching,
 * and registering each time). The listening one of a run's data is made for that run, beside the address given.
 *
 * One batch of transfers; `...` is what the clock counts: what each side does to register and to let go, and the transfers
 * themselves, but not how the two agree:
 *
 *   asking                                     answering
 *   START{way, count, number} ───────────►     recycle its buffers; poison them, or fill them to be read
 *   recycle its buffers, fill or poison        ...register them: post receives, or expose
 *                                         ◄─── READY{ns, descriptors}
 *   ...register, post, wait, deregister:       (its program takes part in send only)
 *   ...`depth` at once
 *   DONE ────────────────────────────────►     ...deregister; then compare every byte
 *   compare what was read                 ◄─── ACK{ns, wrong bytes}
 */
#ifndef HOLDFAST_PERF_OP_H
#define HOLDFAST_PERF_OP_H

#include "perf.h"

#include <signal.h>

#include <holdfast/san.h>

enum {
	OP_BATCH = PERF_POOL_MAX, /* transfers */
	OP_BATCH_BYTES = 8 << 20,
	OP_LARGEST = 1 << 30, /* bytes of one transfer */
	OP_ADDRESS = 128,
	OP_TOKEN = 16,
	OP_INBOX = 2,          /* so many messages may come unasked */
	OP_PATIENCE_MS = 60000 /* no answer for so long: gone */
};

enum op_kind {
	OP_HELLO = 1, /* answered by HELLO with the addresses to connect to, then by JOINED */
	OP_JOINED,
	OP_SIZE, /* answered by SIZE: how many buffers */
	OP_GO,	 /* both have proved that their buffers can be registered */
	OP_MARK, /* the warm-up is over */
	OP_START,
	OP_READY,
	OP_DONE,
	OP_ACK,
	OP_END, /* of this size; answered by RESULT */
	OP_RESULT,
	OP_TRY,	  /* write to descriptor[0]: once, or (count > 0) until it fails; answered by TRIED */
	OP_TRIED, /* number: done; status: of the last */
	OP_FORGE, /* make `count` forgeries of these descriptors and try them; answered by FORGED */
	OP_FORGED,
};

/* The forgeries: what is wrong with each. */
enum forgery {
	FORGE_RANDOM,
	FORGE_BIT,
	FORGE_BYTES,
	FORGE_SPLICE,
	FORGE_REVOKED,
	FORGE_FOREIGN,
	FORGE_RIGHT,
	FORGE_RANGE,
	FORGERIES
};

/*
 * Both ends are builds of this same file on machines with the same byte order: `magic` says so. What it says is
 * checked by who gets it: the other end may be anybody who knows the secret.
 */
struct op_message {
	uint64_t magic;
	uint32_t kind;
	int32_t err; /* 0 or -errno; then text has the sentence */
	uint32_t way, op, recycle, count;
	int32_t status;
	uint32_t reserved;
	uint64_t seed, corrupt;
	uint64_t size, number, ns, wrong_bytes, hits, gets;
	uint64_t p50_ns[PERF_WAYS], p99_ns[PERF_WAYS];
	uint64_t tried[FORGERIES], accepted[FORGERIES];
	char address[PERF_WAYS][OP_ADDRESS];
	uint8_t token[OP_TOKEN];
	uint8_t descriptor[OP_BATCH][HF_DESCRIPTOR_SIZE];
	char text[PERF_TEXT];
};

struct op_side {
	struct perf_side side;
	struct perf_config run; /* what is being run; side.config points here */
	struct hf_cq *control_cq, *data_cq;
	struct hf_sock *control;
	struct hf_sock *sock[PERF_PROVIDERS];
	int plain; /* the plain socket, or -1 */

	struct op_message *box; /* registered: one to send from, OP_INBOX to receive into */
	uint64_t box_mr;
	unsigned sent;              /* completions of sends not taken yet */
	unsigned arrived[OP_INBOX]; /* which of the inbox, in order */
	unsigned come, taken;
	struct op_message last; /* received */

	/* for the batch under way */
	unsigned char *data[OP_BATCH];
	uint64_t mr[OP_BATCH];
	uint64_t step_ns[OP_BATCH];
	uint8_t descriptor[OP_BATCH][HF_DESCRIPTOR_SIZE];
};

/* Set by a signal: leave soon. */
extern volatile sig_atomic_t op_interrupted;

/* ------------------------------------------------------------------ both sides (perf_op_side.c) */

/* 0 or -errno with the sentence in hf_error(). */
int op_side_open(struct op_side *s, const struct perf_config *config);
/* The connections of one run: everything on them has ended when it returns. */
void op_disconnect(struct op_side *s);
void op_side_close(struct op_side *s);

/* "secret_file=...,max_message=..." for hf_listen and hf_connect. */
void op_options(const struct perf_config *config, char *out, size_t size);
/* s->control is connected: make it ready for messages. */
int op_control_open(struct op_side *s);
int op_say(struct op_side *s, struct op_message *m);
int op_say_kind(struct op_side *s, enum op_kind kind);
/* With err and its sentence, when there is one. */
int op_answer(struct op_side *s, struct op_message *m, int err);
/* Into s->last. 0; -ECONNRESET and the like: the other side is gone. `patience_ms` -1: no end. */
int op_hear(struct op_side *s, int patience_ms);
/* ... and it must be this one, without an error. */
int op_expect(struct op_side *s, enum op_kind kind);

/* The next completion of data: 0, or its status, or -ETIMEDOUT. c->context tells which. */
int op_completed(struct op_side *s, struct hf_completion *c);
static inline void *op_context(unsigned i)
{
	return (void *)(uintptr_t)i;
}
static inline unsigned op_index(const struct hf_completion *c)
{
	return (unsigned)(uintptr_t)c->context;
}

/* An address beside `base`: the same host with a free port, or a path with `ending`. -ENAMETOOLONG */
int op_beside(const char *base, const char *ending, char out[OP_ADDRESS]);
/* How to reach from here what the other side calls `told`: tcp at the host of `peer`. */
int op_reach(const char *told, const char *peer, char out[OP_ADDRESS]);

/* How many buffers to ask for. */
unsigned op_slots(const struct perf_side *s, uint64_t size, uint64_t depth);
/* What this side may do to its buffers: the asking one reads what it sends or writes. */
unsigned op_access(enum perf_op op, bool asking);

/* ------------------------------------------------------------------ plain (perf_op_plain.c) */

/* A descriptor or -errno. */
int plain_listen(const char *address, char listening[OP_ADDRESS]);
int plain_accept(int fd, const uint8_t token[OP_TOKEN]);
int plain_connect(const char *address, const uint8_t token[OP_TOKEN]);
/* `count` buffers of `size` bytes, then a word from whom they were for. */
int plain_send(int fd, unsigned char *const *data, unsigned count, size_t size);
int plain_receive(int fd, unsigned char *const *data, unsigned count, size_t size);
/* The same, asked for by a word of whom they are for. */
int plain_read(int fd, unsigned char *const *data, unsigned count, size_t size);
int plain_be_read(int fd, unsigned char *const *data, unsigned count, size_t size);

/* ------------------------------------------------------------------ the answering side (perf_op_peer.c) */

/* The forked one: says where it listens, or why not, on `tell`. Its exit code. */
int op_child(const struct perf_config *config, int tell);
/* What it says there. */
struct op_birth {
	int32_t err;
	char text[PERF_TEXT]; /* the address, or the sentence */
};
/* `--listen`: until interrupted. An exit code. */
int op_listen(const struct perf_config *config);

/* ------------------------------------------------------------------ the asking side (perf_op.c) */

/* All of `perf --op`, after the options were checked. An exit code. */
int op_run(const struct perf_config *config, const uint64_t *sizes, int count, const char *plot_file);

struct op_asking {
	struct op_side s;
	pid_t child; /* 0: there is none */
	uint64_t number;
	uint64_t *rate[PERF_WAYS];
	uint64_t shown;
};

/* ------------------------------------------------------------------ revoke (perf_revoke.c) */

/* 0 or -errno; *code: the exit code of what was found. */
int revoke_run(struct op_asking *a, const struct perf_report *r, int *code);
/* The answering side's part. */
int revoke_try(struct op_side *s);
int revoke_forge(struct op_side *s);

#endif
