/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the parts of `holdfast perf` share.
 *
 *   perf.c          options, the two processes, the rounds of one size
 *   perf_child.c    the other process: how it ends
 *   perf_side.c     what either process has: switch, providers, connections, the buffers of one size
 *   perf_send.c     the timed transfer        perf_recv.c    its other end, where every byte is compared
 *   perf_buffer.c   the program's own buffers, and how allocators recycle them
 *   perf_report.c   table and JSON            perf_plot.c    the picture
 *   perf_op.h       `perf --op`, by SAN sockets: perf_op*.c
 *
 * One transfer (c: control socket, d: data socket; what is between the lines is timed):
 *
 *   sender                                       receiver
 *   START{way,slot,number} ────────── c ──────►  recycle its buffer, poison it
 *   recycle the buffer, fill it                  ◄── c ── READY
 *   ------------------------------------------------------------------------
 *   GO ────────────────────────────── c ──────►
 *   get, or memcpy into the bounce buffer        get
 *   hf_send ───────────────────────── d ──────►  hf_recv
 *   put                                          put, or memcpy out of the bounce buffer
 *                                                ◄── c ── ACK
 *   ------------------------------------------------------------------------
 *                                                compare every byte with the pattern of `number`
 */
#ifndef HOLDFAST_PERF_H
#define HOLDFAST_PERF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <holdfast/holdfast.h>

enum { PERF_SIZES_MAX = 24, PERF_POOL_MAX = 64, PERF_TEXT = 400 };

/* The ways to move a buffer, side by side. With --op the first is a plain send and recv. */
enum { PERF_COPY, PERF_REGISTER, PERF_CACHED, PERF_WAYS, PERF_PLAIN = PERF_COPY };

/* --op: by SAN sockets. Without it: by hf_send and hf_recv. */
enum perf_op { PERF_OP_NONE, PERF_OP_SEND, PERF_OP_WRITE, PERF_OP_READ, PERF_OP_REVOKE };

/* The two providers: the bounce buffer of `copy` is held in the caching one. */
enum { PERF_CACHING, PERF_EACH_TIME, PERF_PROVIDERS };

struct perf_config {
	const char *nic, *proxy, *mode;
	bool recycle;
	double seconds;
	uint64_t seed;
	uint64_t corrupt; /* n > 0: the sender flips one byte of every n-th transfer */
	bool untold;      /* `manual` without saying what changes: stale registrations must show */

	/* --op only */
	enum perf_op op;
	const char *op_name;
	uint64_t depth; /* operations in flight */
	uint64_t count; /* revoke: forged descriptors */
	const char *listen, *connect, *secret_file;
	bool once;
};

/* ------------------------------------------------------------------ buffers (perf_buffer.c) */

struct perf_life; /* how a buffer comes, is recycled and goes */

struct perf_buffer {
	unsigned char *data;
	size_t size;
	const struct perf_life *life;
	void *map; /* what data lies in, where that is a mapping of its own */
	size_t map_len;
};

struct perf_pool {
	struct perf_buffer buffer[PERF_POOL_MAX];
	unsigned count;
	bool recycle;
};

enum { PERF_LIVES = 6 }; /* so many buffers are recycled in ways that all differ */

/* -ENOMEM with nothing left behind. */
int perf_pool_open(struct perf_pool *pool, size_t size, unsigned count, bool recycle);
void perf_pool_close(struct perf_pool *pool);
/* Free it and get it again, its way; its address may change. -ENOMEM. */
int perf_buffer_recycle(struct perf_buffer *b);

/* The bytes of transfer `number`; `invert` makes every byte of them wrong: the poison. */
void perf_fill(unsigned char *data, size_t size, uint64_t seed, uint64_t number, bool invert);
/* How many bytes are not those of transfer `number`. */
uint64_t perf_wrong_bytes(const unsigned char *data, size_t size, uint64_t seed, uint64_t number);

/* ------------------------------------------------------------------ messages between the two */

enum perf_kind {
	/* one byte only */
	PERF_READY = 1,
	PERF_GO,
	PERF_ACK,
	PERF_MARK, /* the warm-up is over */
	PERF_END,  /* of this size; answered by RESULT */
	/* with all fields */
	PERF_HELLO,
	PERF_SIZE, /* prepare for this size; answered by SIZE */
	PERF_START,
	PERF_RESULT,
	PERF_FAILED, /* err, text */
};

struct perf_message {
	uint8_t kind;
	uint8_t way, slot;
	int32_t err; /* 0 or -errno; then text has the sentence */
	uint64_t size, number;
	uint64_t wrong_bytes, hits, gets;
	uint64_t p50_ns[PERF_WAYS], p99_ns[PERF_WAYS];
	char text[PERF_TEXT];
};

/* ------------------------------------------------------------------ the other process (perf_child.c) */

/* Has it ended within `ms`? Then *status is how. */
bool perf_child_ended(pid_t pid, int ms, int *status);
/* What it was told to end is given time; then it is killed. 0: there is none any more. */
void perf_child_stop(pid_t pid);
/* Was it killed? Then text says by what. `what`: "the receiving process". */
bool perf_child_killed(int status, pid_t pid, const char *what, char text[PERF_TEXT]);

/* ------------------------------------------------------------------ one side (perf_side.c) */

/* The last so many durations of the registration step; percentiles are taken of these. */
enum { PERF_SAMPLES = 1 << 16 };

struct perf_side {
	const struct perf_config *config;
	int control;
	int data[PERF_PROVIDERS];
	unsigned access; /* HF_READ where it is sent from, HF_WRITE where it is received */
	bool san;        /* SAN sockets move the data: no connections of its own, no bounce buffer */
	unsigned slots;  /* buffers wanted, if there is room for them */
	struct hf_switch *sw;
	struct hf_provider *provider[PERF_PROVIDERS];
	struct hf_conn *conn[PERF_PROVIDERS];
	struct perf_message last; /* received */
	bool must_tell; /* the proxy `manual`: the program says itself what it changes */
	uint64_t limit;   /* bytes the caching provider may keep */
	uint64_t memlock; /* RLIMIT_MEMLOCK where it binds, else 0 */

	/* for the size under way */
	size_t size;
	struct perf_pool pool;
	unsigned char *bounce;
	struct hf_region bounce_region;
	struct hf_stats mark;
	uint64_t *step_ns[PERF_WAYS];
	size_t steps[PERF_WAYS];
};

int perf_post(struct perf_side *s, enum perf_kind kind);
int perf_send_message(struct perf_side *s, const struct perf_message *m);
/* Into s->last. 0, or -ECONNRESET when the other process is gone. */
int perf_receive(struct perf_side *s);
/* ... and -EPROTO for another kind than this; for a FAILED its err. */
int perf_expect(struct perf_side *s, enum perf_kind kind);

/* 0 or -errno with the sentence in hf_error(). */
int perf_side_open(struct perf_side *s);
void perf_side_close(struct perf_side *s);

/* Buffers for one size; proves that they can be registered. *trial is to be put back by
 * perf_trial_end() when the other side has proved the same: the limit is shared by both. */
struct perf_trial {
	struct hf_region region[PERF_PROVIDERS];
};
int perf_size_begin(struct perf_side *s, size_t size, struct perf_trial *trial);
/* How many times `bytes` fit into what this process may keep registered. */
uint64_t perf_room(const struct perf_side *s, uint64_t bytes);
void perf_trial_end(struct perf_side *s, struct perf_trial *trial);
void perf_size_end(struct perf_side *s);

/* The buffer in `slot`, recycled when that is the pattern; NULL when it could not be had again. */
unsigned char *perf_take(struct perf_side *s, unsigned slot);

/* The bytes of transfer `number`, one of them wrong where the configuration asks for that. */
void perf_prepare(const struct perf_side *s, unsigned char *data, uint64_t number);

/* The measured part begins; what it has come to. */
int perf_mark(struct perf_side *s);
int perf_result(struct perf_side *s, struct perf_message *m);
void perf_step(struct perf_side *s, unsigned way, uint64_t ns);

static inline unsigned perf_provider_of(unsigned way)
{
	return way == PERF_REGISTER ? PERF_EACH_TIME : PERF_CACHING;
}

/* The sentence for a failed call, never empty. */
const char *perf_reason(int err);

/* ------------------------------------------------------------------ the two ends */

/* One transfer. 0 and *ns, or -errno. */
int perf_transfer(struct perf_side *s, unsigned way, unsigned slot, uint64_t number, uint64_t *ns);

/* The receiving process, from its fork to its exit code. */
int perf_receiver(const struct perf_config *config, int control, const int data[PERF_PROVIDERS]);

/* ------------------------------------------------------------------ report */

/* The progress line, ten times a second. `done`: 0 to 1; *shown: when it was shown last. */
void perf_progress(uint64_t size, double done, uint64_t *shown);

struct perf_row {
	uint64_t size;
	char error[PERF_TEXT]; /* not run: why */
	double MBps[PERF_WAYS];
	double hit_rate;
	uint64_t p50_ns[PERF_WAYS], p99_ns[PERF_WAYS];           /* of the sender's step */
	uint64_t recv_p50_ns[PERF_WAYS], recv_p99_ns[PERF_WAYS]; /* of the receiver's */
	uint64_t wrong_bytes, transfers, bytes;
	unsigned rounds, buffers;
};

struct perf_report {
	const struct perf_config *config;
	char proxy[16]; /* the one in use */
	struct perf_row row[PERF_SIZES_MAX];
	int rows;
	char peer[128];        /* --op: where the other side is */
	char error[PERF_TEXT]; /* the run ended early: why */
	bool misused;          /* ... because of what the caller has asked for */
};

const char *perf_base_name(const struct perf_config *c); /* "copy" or "plain" */
const char *perf_duration(uint64_t ns, char text[static 16]); /* "1.2 us" */
void perf_print_head(const struct perf_report *r);
void perf_print_row(const struct perf_row *row);
void perf_print_foot(const struct perf_report *r);
void perf_print_json(const struct perf_report *r);
uint64_t perf_all_wrong_bytes(const struct perf_report *r);

/* The report is complete: print it, draw it, and the exit code. err: why it ended early. */
int perf_conclude(const struct perf_report *r, int err, const char *plot_file);

/* Can FILE be plotted (known ending, gnuplot there)? 0, or an exit code after tool_fail. */
int perf_plot_check(const char *file);
int perf_plot(const struct perf_report *r, const char *file);

#endif
