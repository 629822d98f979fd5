/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "provider.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cancel.h"
#include "error.h"
#include "os.h"
#include "san/engine.h"
#include "thread.h"

int hf_provider_enter(struct hf_provider *p)
{
	if (!p)
		return hf_set_error(-EINVAL, "the provider is NULL");
	return switch_enter(p->sw);
}

/* ------------------------------------------------------------------ get, beside the fast path */

static int check_request(struct lookup *l, const struct hf_region *out)
{
	struct range r;
	int rc;

	if (!l->access || (l->access & ~HF_READWRITE))
		return hf_set_error(-EINVAL, "access 0x%x: HF_READ, HF_WRITE or both", l->access);
	if (!out)
		return hf_set_error(-EINVAL, "no place for the region");
	rc = range_round((void *)(uintptr_t)l->addr, l->len, &r);
	l->start = r.start;
	l->end = r.end;
	return rc;
}

int provider_miss(struct hf_provider *p, struct thread_record *t, struct lookup *l, struct hf_region *out)
{
	NOT_CANCELLED;
	struct hf_cache *c = &p->cache;
	struct error_kept kept;
	struct hold *h;
	bool hit;
	int rc;

	error_keep(&kept);
	rc = error_restore(&kept, cache_miss(c, t, l, &h, &hit));
	if (rc)
		return rc;
	if (hit)
		cache_count_hits(t, c->counter, 1);
	cache_answer(p, h, hit, out);
	if (out->flags & HF_REGION_CACHED)
		cache_remember(p, t, l, region_entry(out));
	return 0;
}

int provider_get(struct hf_provider *p, struct lookup *l, struct hf_region *out)
{
	struct thread_record *t;
	int rc = hf_provider_enter(p);

	if (!rc)
		rc = check_request(l, out);
	if (rc)
		return rc;
	t = thread_get();
	if (!t)
		return -errno; /* the sentence is set */
	thread_seen(t);
	l->gate = atomic_load_explicit(&p->cache.gate, memory_order_acquire);
	l->edition = atomic_load_explicit(&p->cache.edition, memory_order_acquire);
	return p->cache.caching && cache_find_new(p, t, l, out) ? 0 : provider_miss(p, t, l, out);
}

int hf_sync(struct hf_provider *p)
{
	NOT_CANCELLED;
	struct thread_record *t;
	int rc = hf_provider_enter(p);

	if (rc)
		return rc;
	t = thread_get();
	if (t)
		thread_seen(t);
	rc = switch_settle(p->sw, atomic_load(&p->cache.parts));
	return rc ? hf_set_error(rc, "the mapping keeps changing: use hf_get()") : 0;
}

int provider_bad_put(struct hf_provider *p, const struct hf_region *r)
{
	int rc = hf_provider_enter(p);

	return rc ? rc : hf_set_error(-EINVAL, "%s", !r ? "the region is NULL" :
				      r->provider != p && r->entry ?
				      "the region belongs to another provider" :
				      r->entry ? "this registration is not held: put twice?" :
				      "the region is not held: put already?");
}

int hf_flush(struct hf_provider *p)
{
	NOT_CANCELLED;
	int rc = hf_provider_enter(p);

	return rc ? rc : (int)cache_reclaim(&p->cache, RECLAIM_ALL);
}

int hf_provider_stats(struct hf_provider *p, struct hf_stats *out, size_t size)
{
	NOT_CANCELLED;
	struct hf_stats all;
	int rc = hf_provider_enter(p);

	if (rc)
		return rc;
	if (!out || size < sizeof(uint64_t))
		return hf_set_error(-EINVAL, "no place for the statistics");
	cache_stats(&p->cache, &all);
	all.size = size < sizeof(all) ? size : sizeof(all);
	memcpy(out, &all, all.size);
	return 0;
}

/* ------------------------------------------------------------------ life */

/* "uring:fd=5" is the table `uring` and the argument "fd=5". */
static const struct hf_nic_ops *find_nic(const char *spec, const char **arg)
{
	const char *colon = strchr(spec, ':');
	char name[32];
	size_t len = colon ? (size_t)(colon - spec) : strlen(spec);

	*arg = colon ? colon + 1 : NULL;
	if (len >= sizeof(name))
		return NULL;
	memcpy(name, spec, len);
	name[len] = 0;
	return hf_nic_find(name);
}

static int check_table(const struct hf_nic_ops *ops)
{
	if (!ops || ops->size < offsetof(struct hf_nic_ops, lkey_at) || ops->abi != HF_BACKEND_ABI)
		return hf_set_error(-EINVAL, "the NIC's table is too short, or of another ABI than %d",
				    HF_BACKEND_ABI);
	if (ops->size >= offsetof(struct hf_nic_ops, qp) + sizeof(ops->qp) && ops->qp &&
	    ops->qp->size < sizeof(struct hf_nic_qp_ops))
		return hf_set_error(-EINVAL, "the table of the NIC's queue pairs is too short");
	return 0;
}

static int open_all(struct hf_provider *p, const char *arg, void *config,
		    const struct options *options)
{
	int rc = p->ops.open(arg, config, &p->nic);

	if (rc)
		return rc;
	rc = cache_open(&p->cache, p->sw, &p->ops, p->nic, options);
	if (!rc)
		rc = switch_add(p->sw, p);
	if (rc) {
		cache_close(&p->cache);
		p->ops.close(p->nic);
	}
	return rc;
}

static int open_with(struct hf_switch *sw, const struct hf_nic_ops *ops, const char *arg, void *config,
		     const char *text, struct hf_provider **out)
{
	NOT_CANCELLED;
	struct error_kept kept;
	struct hf_provider *p;
	struct options options;
	int rc = switch_enter(sw);

	if (!rc && !out)
		rc = hf_set_error(-EINVAL, "no place for the provider");
	if (!rc)
		rc = check_table(ops);
	if (!rc)
		rc = options_parse(&options, text, OPTION_PROVIDER);
	if (rc)
		return rc;
	p = os_calloc(1, sizeof(*p));
	if (!p)
		return hf_set_error(-ENOMEM, "no memory for a provider");
	memcpy(&p->ops, ops, ops->size < sizeof(p->ops) ? ops->size : sizeof(p->ops));
	p->sw = sw;
	pthread_mutex_init(&p->san_lock, NULL);
	error_keep(&kept);
	rc = error_restore(&kept, open_all(p, arg, config, &options));
	if (rc) {
		pthread_mutex_destroy(&p->san_lock);
		free(p);
	} else {
		*out = p;
	}
	return rc;
}

int hf_provider_open(struct hf_switch *sw, const char *nic, const char *options,
		     struct hf_provider **out)
{
	const char *arg;
	const struct hf_nic_ops *ops = nic ? find_nic(nic, &arg) : NULL;

	if (!ops)
		return hf_set_error(nic ? -ENOENT : -EINVAL, "no NIC is called '%s'; `holdfast doctor` "
				    "lists them", nic ? nic : "(NULL)");
	return open_with(sw, ops, arg, NULL, options, out);
}

int hf_provider_open_nic(struct hf_switch *sw, const struct hf_nic_ops *ops, void *config,
			 const char *options, struct hf_provider **out)
{
	return open_with(sw, ops, NULL, config, options, out);
}

void *hf_provider_nic(struct hf_provider *p)
{
	return p ? p->nic : NULL;
}

int hf_provider_close(struct hf_provider *p)
{
	NOT_CANCELLED;
	int rc;

	if (!p)
		return 0;
	rc = hf_provider_enter(p);
	if (!rc && atomic_load(&p->conns))
		rc = hf_set_error(-EBUSY, "%u connections or sockets are open: close them first",
				  atomic_load(&p->conns));
	if (!rc)
		rc = cache_idle(&p->cache);
	if (rc)
		return rc;
	engine_stop(p->engine);
	switch_remove(p->sw, p);
	cache_close(&p->cache);
	p->ops.close(p->nic);
	pthread_mutex_destroy(&p->san_lock);
	free(p);
	return 0;
}
