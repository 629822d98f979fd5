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
	/* What a hit reads, constant after the open. */
	const _Atomic uint32_t *alive; /* the switch's: 0 in a forked child */
	const _Atomic uint64_t *word;  /* the switch's */
	bool must_ask;                 /* the word alone is not exact: switch_check() */

	struct hf_cache cache;
	struct hf_switch *sw;
	struct hf_nic_ops ops; /* a copy: pointers that an older table lacks are NULL */
	void *nic;
	_Atomic unsigned conns;   /* open connections: they keep the provider open */
};

/* Everything that the fast path leaves out: every check of the arguments, and the miss. */
int provider_get(struct hf_provider *p, const void *addr, size_t len, unsigned access,
		 struct hf_region *out, bool checked);
int provider_bad_put(struct hf_provider *p, const struct hf_region *r);

/* 0, or -EOWNERDEAD in a forked child, -EINVAL for NULL. Every public call starts with it (I7). */
int hf_provider_enter(struct hf_provider *p);

#endif
