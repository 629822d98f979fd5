/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Listening, and what listen.c and handshake.c share.
 *
 *   kernel's backlog ─► handshakes (at most 64, 5 s each) ─► ready (at most 128) ─► hf_accept()
 *
 * While 64 are ready nobody is taken out of the backlog; when 64 shake hands the oldest is dropped for the next.
 */
#ifndef HF_SAN_LISTEN_H
#define HF_SAN_LISTEN_H

#include <sys/stat.h>

#include "engine.h"

#define HANDSHAKES_MAX 64
#define READY_ENOUGH   64
#define READY_MAX      (READY_ENOUGH + HANDSHAKES_MAX)
#ifdef HF_FAULTS
extern _Atomic unsigned san_handshake_ms; /* the tests have no time */
#define HANDSHAKE_MS   atomic_load(&san_handshake_ms)
#else
#define HANDSHAKE_MS   5000u
#endif

struct listener {
	struct listener *next;     /* (engine->lock) of this engine */
	struct hf_sock *sock;
	struct san_options options;
	struct san_address address;
	int event;                 /* an eventfd: readable while one is ready */
	struct made ready[READY_MAX]; /* (engine->lock) a ring */
	unsigned first, count;     /* (engine->lock) */
	bool paused;               /* (engine->lock) epoll doesn't look at it */
	uint64_t paused_until;     /* (engine->lock) ns; 0: until somebody accepts */
	bool has_path;             /* a file of ours, that one: */
	struct stat path;
};

void listener_close(struct hf_sock *s);
int listener_fd(const struct listener *l);
/* engine->lock: one more is ready; takes made->fd. */
void listener_push(struct listener *l, const struct made *made);
/* engine->lock: those whose pause is over. When the next one's is, ns; 0: none. */
uint64_t listeners_resume(struct engine *e, uint64_t now);

/* engine->lock: begin to shake hands with who has connected; takes fd. */
void handshake_begin(struct engine *e, struct listener *l, int fd);
/* engine->lock: all of a listener's go. */
void handshakes_drop(struct engine *e, const struct listener *l);

/* The client's side, in the caller's thread: until `until` (ns). Fills the limits of *made; its fd doesn't block. */
int handshake_client(struct hf_provider *p, struct made *made, const struct san_options *o, uint64_t until);
/* ... and behind it, in version 2, the queue pairs. *nic: it is the NIC here that failed, the sentence is set. made->qp is the
 * caller's also when it fails. */
int handshake_qp(struct hf_provider *p, struct made *made, uint64_t until, bool *nic);

void san_close(int fd); /* a descriptor that is closed on fork */

#endif
