/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Moving data: the public calls over a NIC's data path. They check what was asked against the region;
 * the NIC may then rely on it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "os.h"
#include "provider.h"

struct hf_conn {
	struct hf_provider *provider;
	void *nic_conn;
};

static int no_op(const struct hf_provider *p, const char *what)
{
	return hf_set_error(-EOPNOTSUPP, "the NIC \"%s\" can't %s: use one that can, such as \"uring\"",
			    p->ops.name, what);
}

static int check_held(const struct hf_provider *p, const struct hf_region *r)
{
	if (!r || !r->entry)
		return hf_set_error(-EINVAL,
				    "the region is not held: it was never got, or was put back");
	if (r->provider != p)
		return hf_set_error(-EINVAL,
				    "the region is another provider's: get it from the one that the "
				    "connection was opened on");
	return 0;
}

/* [addr, addr+len) in the region, with `access`; an empty range may lie at its end. */
static int check_range(const struct hf_region *r, const void *addr, size_t len, unsigned access)
{
	uint64_t off = (uint64_t)(uintptr_t)addr - r->addr;

	if ((uintptr_t)addr < r->addr || off > r->length || len > r->length - off)
		return hf_set_error(-EINVAL,
				    "[0x%" PRIx64 ", +%zu) is not inside the region [0x%" PRIx64
				    ", +%" PRIu64 ")",
				    (uint64_t)(uintptr_t)addr, len, r->addr, r->length);
	if (access & ~r->access)
		return hf_set_error(-EACCES, "the region was got without %s: get it with that access",
				    access & ~r->access & HF_WRITE ? "HF_WRITE" : "HF_READ");
	return 0;
}

int hf_conn_open(struct hf_provider *p, int fd, struct hf_conn **out)
{
	int rc = hf_provider_enter(p);
	struct hf_conn *c;

	if (rc)
		return rc;
	if (!out)
		return hf_set_error(-EINVAL, "hf_conn_open: no place for the connection");
	*out = NULL;
	if (!p->ops.attach || !p->ops.detach || !p->ops.send || !p->ops.recv)
		return no_op(p, "move messages");
	c = os_calloc(1, sizeof(*c));
	if (!c)
		return hf_set_error(-ENOMEM, "out of memory for a connection");
	c->provider = p;
	rc = p->ops.attach(p->nic, fd, &c->nic_conn);
	if (rc) {
		free(c);
		return rc;
	}
	atomic_fetch_add(&p->conns, 1);
	*out = c;
	return 0;
}

int hf_conn_close(struct hf_conn *c)
{
	struct hf_provider *p;
	int rc;

	if (!c)
		return 0;
	p = c->provider;
	rc = hf_provider_enter(p);
	if (rc)
		return rc;
	p->ops.detach(c->nic_conn);
	free(c);
	atomic_fetch_sub(&p->conns, 1);
	return 0;
}

static int check_transfer(struct hf_conn *c, const struct hf_region *r, const void *addr, size_t len,
			  unsigned access)
{
	int rc;

	if (!c)
		return hf_set_error(-EINVAL, "no connection given");
	rc = hf_provider_enter(c->provider);
	if (!rc)
		rc = check_held(c->provider, r);
	return rc ? rc : check_range(r, addr, len, access);
}

int hf_send(struct hf_conn *c, const struct hf_region *r, const void *addr, size_t len)
{
	int rc = check_transfer(c, r, addr, len, HF_READ);

	if (rc)
		return rc;
	if (len > UINT32_MAX)
		return hf_set_error(-EMSGSIZE,
				    "a message has at most 4 GiB - 1 byte, %zu asked: send it in parts",
				    len);
	return c->provider->ops.send(c->nic_conn, r, (uintptr_t)addr, len);
}

int hf_recv(struct hf_conn *c, const struct hf_region *r, void *addr, size_t len, size_t *got)
{
	uint64_t length = 0;
	int rc;

	if (!got)
		return hf_set_error(-EINVAL, "hf_recv: no place for the message's length");
	*got = 0;
	rc = check_transfer(c, r, addr, len, HF_WRITE);
	if (rc)
		return rc;
	rc = c->provider->ops.recv(c->nic_conn, r, (uintptr_t)addr, len, &length);
	*got = length;
	return rc;
}

static int check_copy(const struct hf_region *r, const void *addr, const void *mine, size_t len,
		      unsigned access)
{
	int rc;

	if (!r || !r->entry)
		return hf_set_error(-EINVAL,
				    "the region is not held: it was never got, or was put back");
	if (!mine && len)
		return hf_set_error(-EINVAL, "no memory given to copy %zu bytes to or from", len);
	rc = hf_provider_enter(r->provider);
	return rc ? rc : check_range(r, addr, len, access);
}

/* No access is asked: a peek shows a checker what a transfer into the region has done, too. */
int hf_peek(const struct hf_region *r, const void *addr, void *dst, size_t len)
{
	int rc = check_copy(r, addr, dst, len, 0);

	if (rc)
		return rc;
	if (!r->provider->ops.peek)
		return no_op(r->provider, "peek");
	return r->provider->ops.peek(r->provider->nic, r, (uintptr_t)addr, dst, len);
}

int hf_poke(const struct hf_region *r, void *addr, const void *src, size_t len)
{
	int rc = check_copy(r, addr, src, len, HF_WRITE);

	if (rc)
		return rc;
	if (!r->provider->ops.poke)
		return no_op(r->provider, "poke");
	return r->provider->ops.poke(r->provider->nic, r, (uintptr_t)addr, src, len);
}

/* UINT64_MAX is no key of any NIC: better than one that reaches other memory. */
uint64_t hf_region_lkey(const struct hf_region *r, const void *addr)
{
	uint64_t at = (uintptr_t)addr;

	if (!r || !r->entry || at < r->addr || at - r->addr >= r->length)
		return UINT64_MAX;
	if (!r->provider->ops.lkey_at)
		return r->lkey;
	return r->provider->ops.lkey_at(r->addr, r->lkey, at);
}
