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
	struct hf_switch *sw;
	struct hf_nic_ops ops; /* a copy: pointers that an older table lacks are NULL */
	void *nic;
	struct hf_cache cache;
	_Atomic unsigned conns;   /* open connections: they keep the provider open */
	struct hf_provider *next; /* in the switch's list */
};

/* 0, or -EOWNERDEAD in a forked child, -EINVAL for NULL. Every public call starts with it (I7). */
int hf_provider_enter(struct hf_provider *p);

#endif
