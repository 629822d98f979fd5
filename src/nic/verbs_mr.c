/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Registering memory. The registrations of the cache give nobody remote access.
 */
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "../os.h"

static struct verbs_reg **bucket(struct verbs_nic *nic, uint64_t lkey)
{
	return &nic->regs[(uint32_t)lkey * 0x9e3779b1u >> 22];
}
_Static_assert(VERBS_BUCKETS == 1 << (32 - 22), "a bucket is ten bits of the hash");

/*
 * The right to bind windows makes the kernel pin for writing, so memory that is only to be read is registered without it:
 * it may be mapped read-only.
 */
static int rights(const struct verbs_nic *nic, unsigned access)
{
	if (!(access & HF_WRITE))
		return 0;
	return IBV_ACCESS_LOCAL_WRITE | (nic->windows ? IBV_ACCESS_MW_BIND : 0);
}

int verbs_reg(void *p, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	struct verbs_nic *nic = p;
	struct verbs_reg *reg = os_calloc(1, sizeof(*reg));
	struct verbs_reg **at;

	if (!reg)
		return hf_set_error(-ENOMEM, "verbs: out of memory for a registration");
	errno = 0;
	reg->mr = ibv_reg_mr(nic->pd, (void *)(uintptr_t)addr, len, rights(nic, access));
	if (!reg->mr) {
		free(reg);
		return verbs_why_reg(nic, errno ? -errno : -EIO, addr, len, access);
	}
	reg->bindable = nic->windows && access & HF_WRITE;
	at = bucket(nic, reg->mr->lkey);
	pthread_mutex_lock(&nic->lock);
	reg->next = *at;
	*at = reg;
	nic->count++;
	pthread_mutex_unlock(&nic->lock);
	*out = (struct hf_nic_reg){ .lkey = reg->mr->lkey, .priv = (uintptr_t)reg };
	return 0;
}

static void forget(struct verbs_nic *nic, struct verbs_reg *reg, uint64_t lkey)
{
	struct verbs_reg **at = bucket(nic, lkey);

	pthread_mutex_lock(&nic->lock);
	while (*at && *at != reg)
		at = &(*at)->next;
	if (*at) {
		*at = reg->next;
		nic->count--;
	}
	pthread_mutex_unlock(&nic->lock);
}

/* A registration that the NIC keeps (R32) is forgotten all the same: it is never used again. */
int verbs_dereg(void *p, uint64_t addr, uint64_t len, const struct hf_nic_reg *r)
{
	struct verbs_nic *nic = p;
	struct verbs_reg *reg = (struct verbs_reg *)(uintptr_t)r->priv;
	int rc;

	forget(nic, reg, r->lkey);
	rc = ibv_dereg_mr(reg->mr);
	free(reg);
	if (rc)
		return hf_set_error(-rc, "%s would not deregister [0x%llx, +%llu): %s", nic->name, (unsigned long long)addr,
				    (unsigned long long)len, strerror(rc));
	return 0;
}

struct ibv_mr *verbs_bindable(struct verbs_nic *nic, uint64_t lkey)
{
	struct ibv_mr *mr = NULL;

	pthread_mutex_lock(&nic->lock);
	for (const struct verbs_reg *r = *bucket(nic, lkey); r && !mr; r = r->next)
		if (r->bindable && r->mr->lkey == lkey)
			mr = r->mr;
	pthread_mutex_unlock(&nic->lock);
	return mr;
}

/* ------------------------------------------------------------------ fork */

/* A line of /proc/self/maps that is a mapping of the file `st`. */
static bool is_mapping_of(const char *line, const struct stat *st, unsigned long *from, unsigned long *to)
{
	unsigned major, minor;
	unsigned long inode;

	return sscanf(line, "%lx-%lx %*s %*x %x:%x %lu", from, to, &major, &minor, &inode) == 5 &&
	       inode == st->st_ino && major == major(st->st_dev) && minor == minor(st->st_dev);
}

/*
 * Queues and doorbells are mappings of the device's file, and a mapping keeps its file open. They have one
 * owner, and a forked child must neither touch them nor keep the parent's registrations alive by them.
 */
void verbs_keep_from_children(struct verbs_nic *nic)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	struct stat st;
	char line[512];

	while (f && !fstat(nic->context->cmd_fd, &st) && fgets(line, sizeof(line), f))
		if (is_mapping_of(line, &st, &from, &to))
			madvise((void *)from, to - from, MADV_DONTFORK);
	if (f)
		fclose(f);
}
