/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A provider: one NIC, its cache, and the connections over it.
 */
#ifndef HF_PROVIDER_H
#define HF_PROVIDER_H

#include <holdfast/backend.h>
#include <stdatomic.h>

#include "cache.h"
#include "switch.h"

struct hf_provider {
	struct hf_cache cache; /* first: its gates are all that a hit reads */
	struct hf_switch *sw;
	struct hf_nic_ops ops; /* a copy: pointers that an older table lacks are NULL */
	void *nic;
	_Atomic unsigned conns;   /* open connections and SAN sockets: they keep the provider open */
	pthread_mutex_t san_lock; /* the start of: */
	struct engine *engine;    /* the thread that drives SAN sockets; NULL before the first */
};

/* What a get does when the request is no hit, or may be none: every check of the arguments, the index, and the miss. */
int provider_get(struct hf_provider *p, struct lookup *l, struct hf_region *out);
/* ... the last of these. */
int provider_miss(struct hf_provider *p, struct thread_record *t, struct lookup *l, struct hf_region *out);
int provider_bad_put(struct hf_provider *p, const struct hf_region *r);

/* 0, or -EOWNERDEAD in a forked child, -EINVAL for NULL. Every public call starts with it (I7). */
int hf_provider_enter(struct hf_provider *p);

#endif
