/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the parts of `holdfast walk` share.
 *
 *   walk.c          options, the order of the steps, text and JSON
 *   walk_steps.c    the steps: each does one thing, looks, and says what it saw
 *   walk_peer.c     the other process, which does what a step asks of it
 */
#ifndef HOLDFAST_WALK_H
#define HOLDFAST_WALK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <holdfast/san.h>

enum { WALK_SIZE = 64 << 10, WALK_TEXT = 400, WALK_PATIENCE_MS = 20000, WALK_SOCKS = 2 };

/* ------------------------------------------------------------------ the peer */

enum peer_kind { PEER_CONNECT = 1, PEER_SEND, PEER_RECEIVE, PEER_WRITE, PEER_READ };

struct peer_ask {
	uint32_t kind;
	uint32_t sock;       /* which of the connections */
	uint32_t count;      /* to be made, from that one on */
	uint64_t seed;       /* of the bytes: those to be expected, or to be written */
	uint64_t offset, len;
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	char address[128];
};

struct peer_answer {
	int32_t status;      /* of the operation; then text has the sentence */
	uint64_t bytes, wrong;
	char text[WALK_TEXT];
};

/* The other process, from its fork to its exit code. */
int walk_peer(int control, const char *nic, const char *proxy);

/* ------------------------------------------------------------------ the walk */

/* One step sabotaged: the negative controls of the tests. */
enum sabotage { NO_SABOTAGE, SABOTAGE_BYTES, SABOTAGE_REVOKE, SABOTAGE_DENY, SABOTAGE_STALE };

struct told {
	atomic_int times;
	void *addr;
	size_t len;
	uint64_t at_ns;
};

struct walk {
	const char *nic, *proxy;
	enum sabotage sabotage;
	bool must_tell;           /* the proxy `manual`: the program says itself what it changes */
	bool deny;                /* the proxy can refuse changes */
	bool seal;                /* it is the kernel's seal that does: always EPERM, and not for MADV_DONTNEED (hf_secure()) */
	bool by_qp;               /* the NIC has queue pairs: what the peer's refuses ends the connection (san.h) */
	char no_deny[WALK_TEXT];  /* else why not */
	int control;              /* to the peer */
	pid_t peer;

	struct hf_switch *sw;
	struct hf_provider *provider;
	struct hf_cq *cq;
	struct hf_sock *listener, *sock[WALK_SOCKS];

	unsigned char *data; /* the buffer of the walk */
	uint64_t mr[2];      /* local registrations of it */
	uint64_t exposed;    /* and the one that the peer may use */
	uint8_t descriptor[HF_DESCRIPTOR_SIZE];
	uint64_t secured;    /* id */
	struct hf_region held;
	struct told told;
	uint64_t unpinned; /* VmPin before anything of the walk was registered */

	/* of the step under way */
	char seen[1024];
	char wrong[WALK_TEXT]; /* what should have been seen; "" when all is as it should be */
};

enum { NEEDS_DENY = 1 };

struct step {
	const char *group;        /* heading, where a new one begins; else NULL */
	const char *requirements; /* "R1 R24" */
	const char *what;
	void (*run)(struct walk *w);
	unsigned flags;
};

extern const struct step walk_steps[];
extern const unsigned walk_steps_count;

/* Listens for the peer, and gets the buffer. 0 or -errno. */
int walk_open(struct walk *w);
/* Everything that is still open goes. */
void walk_close(struct walk *w);

#endif
