/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "helper.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static void *helper_main(void *arg)
{
	struct helper *h = arg;

	for (;;) {
		while (sem_wait(&h->go) != 0)
			;
		atomic_store(&h->ready, true);
		while (!atomic_load(&h->released))
			relax();
		h->began = now();
		h->work(h->arg);
		h->ended = now();
		sem_post(&h->done);
	}
	return NULL;
}

struct helper *helper_start(void)
{
	struct helper *h = calloc(1, sizeof(*h));
	int rc;

	if (!h)
		die("helper", "no memory");
	sem_init(&h->go, 0, 0);
	sem_init(&h->done, 0, 0);
	rc = pthread_create(&h->thread, NULL, helper_main, h);
	if (rc)
		die("helper", strerror(rc));
	return h;
}

static void pin_one(pthread_t thread, const cpu_set_t *allowed, int nth)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, allowed) && nth-- == 0)
			CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

void helper_pin(struct helper *h)
{
	cpu_set_t allowed;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < 2)
		die("two threads", "they need two CPUs");
	pin_one(pthread_self(), &allowed, 0);
	pin_one(h->thread, &allowed, 1);
}

void helper_begin(struct helper *h, void (*work)(void *arg), void *arg)
{
	h->work = work;
	h->arg = arg;
	atomic_store(&h->ready, false);
	atomic_store(&h->released, false);
	atomic_store(&h->stop, false);
	sem_post(&h->go);
	while (!atomic_load(&h->ready))
		relax();
	atomic_store(&h->released, true);
}

void helper_end(struct helper *h)
{
	atomic_store(&h->stop, true);
	while (sem_wait(&h->done) != 0)
		;
}
