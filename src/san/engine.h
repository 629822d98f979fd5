/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The thread that drives a provider's sockets. It is started with the first socket and ends with the provider.
 *
 * What is taken out of epoll may still be in the batch of events that the engine has just been given. So who closes a
 * socket takes it out, and waits until the engine has begun a new batch:
 *
 *   closer                            engine
 *   --------------------------        ---------------------------------
 *                                     epoll_wait: a batch, with s in it
 *   epoll: del s; n = batches
 *   wakes it; waits                   s: lock, look, unlock
 *   batches != n ◄──────────────────  end of the batch: batches++
 *   frees s                           epoll_wait: never s again
 *
 * Handshakes belong to the engine; who closes their listener only marks them, and the engine frees them between batches.
 */
#ifndef HF_SAN_ENGINE_H
#define HF_SAN_ENGINE_H

#include "sock.h"

struct handshake;

struct engine {
	struct hf_provider *p;
	struct os_thread thread;
	struct watch wake;
	int epoll, event;             /* event: an eventfd that wakes it */
	_Atomic uint32_t batches;     /* futex */
	_Atomic unsigned passing;     /* threads that wait for the next one */
	_Atomic bool stop;
	pthread_mutex_t lock;
	struct handshake *handshakes; /* (lock) oldest first */
	unsigned handshake_count;     /* (lock) */
	struct handshake *dead;       /* (lock) to be freed between two batches */
	struct listener *listeners;   /* (lock) */
	uint8_t nowhere[64 << 10];    /* the engine's own: what is read to be thrown away */
};

/* The provider's engine, started if need be; and one socket more that keeps the provider open. */
int engine_enter(struct hf_provider *p, struct engine **out);
void engine_leave(struct hf_provider *p);
/* At the provider's close. */
void engine_stop(struct engine *e);

int engine_add(struct engine *e, int fd, uint32_t events, struct watch *w);
int engine_change(struct engine *e, int fd, uint32_t events, struct watch *w);
void engine_del(struct engine *e, int fd);
void engine_wake(struct engine *e);
/* Returns when what was deleted before is in no batch any more. Not for the engine itself. */
void engine_pass(struct engine *e);

/* listen.c, handshake.c: called by the engine, lock held */
void listener_ready(struct engine *e, struct watch *w);
void handshake_ready(struct engine *e, struct watch *w);
/* Drop those that are over time; when the next one will be, in ms, -1: none. */
int handshakes_expire(struct engine *e);
void handshakes_free_dead(struct engine *e);

#endif
