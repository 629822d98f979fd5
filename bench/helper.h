/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A second thread that lives as long as the case, so that no sample pays for making one. */
#ifndef BENCH_HELPER_H
#define BENCH_HELPER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

struct helper {
	pthread_t thread;
	sem_t go, done;
	_Atomic bool ready, released; /* both threads spin on them, so that both begin at once */
	_Atomic bool stop;            /* for work without an end */
	void (*work)(void *arg);
	void *arg;
	double began, ended;
};

struct helper *helper_start(void);
/* Keep the two threads apart on two CPUs. Only now: what a cache starts would inherit it. */
void helper_pin(struct helper *h);

/* Returns when the helper is about to work: it began, or begins with the next steps of the caller. */
void helper_begin(struct helper *h, void (*work)(void *arg), void *arg);
void helper_end(struct helper *h);

#endif
