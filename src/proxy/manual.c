/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Two proxies that need nothing of the kernel. `manual`: the program itself says what changes
 * (hf_invalidate), so everything counts as watched. `none`: nobody says, so nothing is cached.
 */
#include "proxy.h"

static int manual_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	*proxy = NULL;
	return 0;
}

static void manual_close(void *proxy)
{
}

static int manual_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	*id = 0;
	return HF_WATCHED; /* what isn't mapped, or is read-only, the NIC finds out */
}

static void manual_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
}

const struct hf_proxy_ops hf_proxy_manual = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.caps = HF_CAP_EXACT,
	.name = "manual",
	.open = manual_open,
	.close = manual_close,
	.secure = manual_secure,
	.unsecure = manual_unsecure,
};

/* No secure(): the cache takes that as "can't be watched". */
const struct hf_proxy_ops hf_proxy_none = {
	.size = sizeof(struct hf_proxy_ops),
	.abi = HF_BACKEND_ABI,
	.name = "none",
	.open = manual_open,
	.close = manual_close,
};
