/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * UCX's registration cache, through its public header, with a registration that does nothing. The parameters
 * are those that its own InfiniBand transport passes when nothing is configured: addresses aligned to 16
 * bytes, no limits but for 512 MiB of invalidated and not yet released memory, and the memory events that tell
 * the cache of an unmap, at priority 1000. The variant `untold` leaves the events out: for valgrind, under
 * which UCX can't hook munmap. A hit's path is the same.
 */
#ifndef BENCH_ENGINE_UCX_H
#define BENCH_ENGINE_UCX_H

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucm/api/ucm.h>
#include <ucs/memory/rcache.h>

#define UCX_EVENT_PRIORITY 1000
#define UCX_MAX_UNRELEASED (512ul << 20)
#define UCX_MAX_ALIGNMENT  4096

struct cache {
	ucs_rcache_t *rcache;
};

struct held {
	ucs_rcache_region_t *region;
};

/* The size that a transport's region has with its keys. */
struct ucx_region {
	ucs_rcache_region_t super;
	uint64_t lkey, rkey;
};

static inline ucs_status_t ucx_reg(void *context, ucs_rcache_t *rcache, void *arg, ucs_rcache_region_t *region,
			    uint16_t flags)
{
	struct ucx_region *r = (struct ucx_region *)region;

	nothing_registered();
	r->lkey = region->super.start;
	r->rkey = region->super.start;
	return UCS_OK;
}

static inline void ucx_dereg(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region)
{
}

static inline void ucx_dump(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region,
			    char *buf, size_t max)
{
	if (max)
		buf[0] = 0;
}

static inline void cache_open(struct cache *c, const char *variant, unsigned long max_regions)
{
	static const ucs_rcache_ops_t ops = { ucx_reg, ucx_dereg, ucx_dump };
	ucs_rcache_params_t params = {
		.region_struct_size = sizeof(struct ucx_region),
		.alignment = UCS_RCACHE_MIN_ALIGNMENT,
		.max_alignment = UCX_MAX_ALIGNMENT,
		.ucm_events = strcmp(variant, "untold") ? UCM_EVENT_VM_UNMAPPED : 0,
		.ucm_event_priority = UCX_EVENT_PRIORITY,
		.ops = &ops,
		.flags = UCS_RCACHE_FLAG_PURGE_ON_FORK,
		.max_regions = max_regions,
		.max_size = SIZE_MAX,
		.max_unreleased = UCX_MAX_UNRELEASED,
	};
	ucs_status_t rc = ucs_rcache_create(&params, "bench", NULL, &c->rcache);

	if (rc != UCS_OK)
		die("ucs_rcache_create", ucs_status_string(rc));
}

static inline void cache_close(struct cache *c)
{
	ucs_rcache_destroy(c->rcache);
}

static inline void cache_get(struct cache *c, char *at, size_t len, struct held *h)
{
	if (__builtin_expect(ucs_rcache_get(c->rcache, at, len, PROT_READ | PROT_WRITE, NULL,
					    &h->region) != UCS_OK, 0))
		die("ucs_rcache_get", "failed");
}

static inline void cache_get_unchecked(struct cache *c, char *at, size_t len, struct held *h)
{
	cache_get(c, at, len, h);
}

static inline void cache_put(struct cache *c, struct held *h)
{
	ucs_rcache_region_put(c->rcache, h->region);
}

static inline void cache_sync(struct cache *c)
{
}

static inline void ucx_gone(void *arg)
{
}

/* UCX invalidates a region that one has, not a range. */
static inline void cache_invalidate(struct cache *c, char *at, size_t len)
{
	struct held h;

	cache_get(c, at, len, &h);
	ucs_rcache_region_invalidate(c->rcache, h.region, ucx_gone, NULL);
	ucs_rcache_region_put(c->rcache, h.region);
}

static inline void cache_deny(struct cache *c, char *at, size_t len)
{
	die("deny", "this cache can't");
}

#endif
