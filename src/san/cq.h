/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Completion queues. The memory of a completion is part of its operation (struct completed), so that to deliver
 * never allocates and never fails; who takes it frees it.
 *
 * Lock: cq->lock is the last of all: taken with a socket's lock held, and nothing is taken under it.
 */
#ifndef HF_SAN_CQ_H
#define HF_SAN_CQ_H

#include <holdfast/san.h>
#include <stdint.h>

struct completed {
	struct completed *next;
	struct hf_completion c;
};

/*
 * Where completions may be waiting that nobody has delivered yet: a queue pair. Who polls the queue and finds it empty asks
 * them all. poll() must not wait for anything.
 *
 * Lock: cq->polling comes before every other: a poller holds it over poll(); it is only tried, but for joining and
 * parting, which are done with no lock held.
 */
struct cq_source {
	struct cq_source *next, **link;
	void (*poll)(struct cq_source *source);
	void *arg;
};
void cq_join(struct hf_cq *cq, struct cq_source *source);
/* When it returns nobody is in its poll(), nor will be. */
void cq_part(struct hf_cq *cq, struct cq_source *source);

/* A socket begins, or ends, to use it. */
int cq_use(struct hf_cq *cq);
void cq_unuse(struct hf_cq *cq);
/* Hand it over; free()d by the one who takes it. */
void cq_deliver(struct hf_cq *cq, struct completed *done);

/* 0, -EINVAL for NULL, -EOWNERDEAD in a forked child. */
int cq_enter(const struct hf_cq *cq);

#endif
