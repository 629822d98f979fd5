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
	_Atomic unsigned conns;   /* open connections: they keep the provider open */
};

/*
 * Everything that the fast path leaves out: every check of the arguments, the proxy's answer, and the miss. `quiet`:
 * parts of the sink that needn't be asked.
 */
int provider_get(struct hf_provider *p, const void *addr, size_t len, unsigned access,
		 struct hf_region *out, unsigned quiet);
int provider_bad_put(struct hf_provider *p, const struct hf_region *r);

/* 0, or -EOWNERDEAD in a forked child, -EINVAL for NULL. Every public call starts with it (I7). */
int hf_provider_enter(struct hf_provider *p);

#endif
