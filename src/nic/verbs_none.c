/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * In the place of the NIC `verbs` where the library was built without libibverbs.
 */
#include <errno.h>

#include "nic.h"

static int none_open(const char *arg, void *config, void **nic)
{
	return hf_set_error(-ENOSYS, "this holdfast was built without libibverbs: install libibverbs-dev and build it "
				     "with -Dverbs=enabled");
}

static void none_close(void *nic)
{
}

static int none_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	return -ENOSYS;
}

static int none_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	return -ENOSYS;
}

/* There is a data path, if only it were built: who looks for one goes on to open(), and is told why not. */
static int none_attach(void *nic, int fd, void **conn)
{
	return -ENOSYS;
}

static void none_detach(void *conn)
{
}

static int none_send(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len)
{
	return -ENOSYS;
}

static int none_recv(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got)
{
	return -ENOSYS;
}

const struct hf_nic_ops hf_nic_verbs = {
	.size = sizeof(struct hf_nic_ops),
	.abi = HF_BACKEND_ABI,
	.name = "verbs",
	.open = none_open,
	.close = none_close,
	.reg = none_reg,
	.dereg = none_dereg,
	.attach = none_attach,
	.detach = none_detach,
	.send = none_send,
	.recv = none_recv,
};

int verbs_describe(const char *arg, char *out, size_t size)
{
	return -ENOSYS;
}
