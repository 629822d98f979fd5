/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the races share: the threads of one race, what each has seen, and the parts that most of them are made of.
 */
#ifndef HOLDFAST_TORTURE_RACE_H
#define HOLDFAST_TORTURE_RACE_H

#include <pthread.h>
#include <stdatomic.h>

#include "torture.h"

#define STAMP 16

struct pair {
	pthread_barrier_t meet;
	_Atomic bool last; /* written by the first of the two before they meet */
};

struct arena {
	const struct race *race;
	struct judge *j;
	struct hf_provider *provider;
	unsigned threads;
	_Atomic bool stop;
	unsigned char *mem;    /* race->pages for every thread */
	size_t mem_len;
	pthread_barrier_t all;
	_Atomic bool last;     /* written by thread 0 before all meet */
	_Atomic unsigned changing;    /* threads that have leave to change; see may_change() */
	_Atomic uint64_t quiet_until; /* nobody gets leave before; tool_now_ns() */
	struct pair *pairs;
	_Atomic uint64_t slowest_ns;
	struct worker *workers;
};

struct worker {
	struct arena *a;
	unsigned id;
	pthread_t thread;
	uint64_t random, serial;
	uint64_t change_begun;
	struct counts n;
	char why[sizeof(((struct outcome *)0)->why)];
} __attribute__((aligned(128)));

uint64_t race_random(struct worker *w);
size_t race_below(struct worker *w, size_t n);
bool race_stopped(struct worker *w);
/* All threads meet; false: the race is over, for all of them. */
bool race_all_go_on(struct worker *w);

/* Two threads that meet: the memory that they share, and a meeting; false: the race is over, for both. */
struct pair *race_pair_of(struct worker *w);
unsigned char *race_pair_memory(struct worker *w);
bool race_pair_goes_on(struct worker *w);

unsigned char *race_map(size_t pages); /* NULL: no memory */
void race_unmap(struct worker *w, unsigned char *addr, size_t pages);
/* A fresh stamp in every page. */
void race_stamp(struct worker *w, unsigned char *addr, size_t pages);
/* Look all of it up, and compare what the NIC and the processor see in one of the pages. */
void race_look(struct worker *w, unsigned char *addr, size_t pages);
/* A call that failed: counted, and the first one's sentence kept. */
void race_remember(struct worker *w, const char *call, int err);

/* torture_deny.c */
void work_deny(struct worker *w);
void work_deny_late(struct worker *w);

#endif
