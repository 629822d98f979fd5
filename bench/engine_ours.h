/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* holdfast, through its public calls, with a NIC that does nothing. */
#ifndef BENCH_ENGINE_OURS_H
#define BENCH_ENGINE_OURS_H

#include <holdfast/backend.h>
#include <string.h>

struct cache {
	struct hf_switch *sw;
	struct hf_provider *p;
};

struct held {
	struct hf_region region;
};

static inline int null_open(const char *arg, void *config, void **nic)
{
	*nic = NULL;
	return 0;
}

static inline void null_close(void *nic)
{
}

static inline int null_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	nothing_registered();
	out->lkey = addr;
	out->rkey = addr;
	return 0;
}

static inline int null_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	return 0;
}

/* PINS_FOR_WRITE: else the cache would touch the pages before the registration, which is the NIC's cost. */
static const struct hf_nic_ops null_nic = {
	.size = sizeof(null_nic),
	.abi = HF_BACKEND_ABI,
	.flags = HF_NIC_PINS_FOR_WRITE,
	.name = "null",
	.open = null_open,
	.close = null_close,
	.reg = null_reg,
	.dereg = null_dereg,
};

static inline const char *options_of(const char *variant)
{
	static const char *const known[][2] = {
		{ "manual", "proxy=manual" },
		{ "fast", "proxy=uffd,mode=fast" },
		{ "exact", "proxy=uffd,mode=exact" },
		{ "supervise", "proxy=supervise,mode=exact" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(variant, known[i][0]))
			return known[i][1];
	die(variant, "no such variant: manual, fast, exact or supervise");
	return NULL;
}

static inline void cache_open(struct cache *c, const char *variant, unsigned long max_regions)
{
	char limits[64];

	unsetenv("HOLDFAST"); /* the environment would win over the variant */
	snprintf(limits, sizeof(limits), "max_bytes=16T,max_count=%lu", max_regions);
	if (hf_switch_open(options_of(variant), &c->sw) ||
	    hf_provider_open_nic(c->sw, &null_nic, NULL, limits, &c->p))
		die(variant, hf_error());
}

static inline void cache_close(struct cache *c)
{
	if (hf_provider_close(c->p) || hf_switch_close(c->sw))
		die("close", hf_error());
}

static inline void cache_get(struct cache *c, char *at, size_t len, struct held *h)
{
	if (__builtin_expect(hf_get(c->p, at, len, HF_READWRITE, &h->region) < 0, 0))
		die("hf_get", hf_error());
}

static inline void cache_get_unchecked(struct cache *c, char *at, size_t len, struct held *h)
{
	if (__builtin_expect(hf_get_unchecked(c->p, at, len, HF_READWRITE, &h->region) < 0, 0))
		die("hf_get_unchecked", hf_error());
}

static inline void cache_put(struct cache *c, struct held *h)
{
	if (__builtin_expect(hf_put(c->p, &h->region) < 0, 0))
		die("hf_put", hf_error());
}

static inline void cache_sync(struct cache *c)
{
	if (__builtin_expect(hf_sync(c->p) < 0, 0))
		die("hf_sync", hf_error());
}

static inline void cache_invalidate(struct cache *c, char *at, size_t len)
{
	if (__builtin_expect(hf_invalidate(c->sw, at, len) < 0, 0))
		die("hf_invalidate", hf_error());
}

/* From here on unmapping any of it is refused (R37); it is never let go. */
static inline void cache_deny(struct cache *c, char *at, size_t len)
{
	uint64_t id;

	if (hf_secure(c->sw, at, len, HF_READWRITE | HF_DENY, NULL, NULL, &id))
		die("hf_secure", hf_error());
}

#endif
