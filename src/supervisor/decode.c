/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "decode.h"

/* arm64 and x86 (LAM) may ignore a tag in the top byte, and no address of the user's has one. */
#define ADDRESS_BITS 0x00ffffffffffffffull
#define ANYWHERE UINT64_MAX

struct question {
	const uint64_t *arg;
	uint64_t page;
	uint64_t highest_break;
};

static uint64_t address(uint64_t a)
{
	return a & ADDRESS_BITS;
}

/* [a, a + len) in whole pages. What begins inside a page, or is empty, the kernel refuses or does nothing of. */
static void add(struct sup_call *c, const struct question *q, uint64_t a, uint64_t len)
{
	uint64_t start = address(a);
	uint64_t end = start + len;

	if (start % q->page || !len)
		return;
	if (end < start || end > ANYWHERE - q->page)
		end = ANYWHERE;
	else
		end = (end + q->page - 1) & ~(q->page - 1);
	c->range[c->ranges++] = (struct sup_range){ start, end };
}

static void add_until(struct sup_call *c, uint64_t start, uint64_t end)
{
	if (start < end)
		c->range[c->ranges++] = (struct sup_range){ start, end };
}

/*
 * What is moved away is gone from where it was. Growing without MAYMOVE, or to the same size, moves nothing; what may be
 * moved counts as moved. A length of 0 duplicates a shared mapping.
 */
static void decode_mremap(struct sup_call *c, const struct question *q)
{
	uint64_t old = q->arg[0], old_len = q->arg[1], new_len = q->arg[2], flags = q->arg[3];
	uint64_t old_pages = (old_len + q->page - 1) & ~(q->page - 1);
	uint64_t new_pages = (new_len + q->page - 1) & ~(q->page - 1);

	if (old % q->page)
		return;
	if ((flags & (SUP_MREMAP_FIXED | SUP_MREMAP_DONTUNMAP)) ||
	    ((flags & SUP_MREMAP_MAYMOVE) && new_pages > old_pages))
		add(c, q, old, old_len);
	else if (new_pages < old_pages)
		add(c, q, old + new_pages, old_pages - new_pages);
	if (flags & SUP_MREMAP_FIXED)
		add(c, q, q->arg[4], new_len);
}

static void decode_mprotect(struct sup_call *c, const struct question *q)
{
	c->what = SUP_PROTECTS;
	c->prot = (uint32_t)q->arg[2];
	c->silent = 1;
	add(c, q, q->arg[0], q->arg[1]);
}

static void decode_madvise(struct sup_call *c, const struct question *q)
{
	c->silent = q->arg[2] == SUP_GUARD_INSTALL;
	add(c, q, q->arg[0], q->arg[1]);
}

static void decode_process_madvise(struct sup_call *c, const struct question *q)
{
	c->find = SUP_FIND_VECTOR;
	c->silent = q->arg[3] == SUP_GUARD_INSTALL;
	c->vector = q->arg[1];
	c->number = q->arg[2] > 1024 ? 1024 : (uint32_t)q->arg[2]; /* more the kernel refuses */
	add_until(c, 0, ANYWHERE);
}

static void decode_brk(struct sup_call *c, const struct question *q)
{
	c->find = SUP_FIND_BREAK;
	add_until(c, q->arg[0], q->highest_break);
}

static void decode_shmdt(struct sup_call *c, const struct question *q, uint64_t at)
{
	c->find = SUP_FIND_SEGMENT;
	add_until(c, address(at), ANYWHERE);
}

static void decode_shmat(struct sup_call *c, const struct question *q, uint64_t id, uint64_t at, uint64_t flags)
{
	if (!(flags & SUP_SHM_REMAP))
		return;
	c->find = SUP_FIND_SIZE;
	c->silent = 1;
	c->number = (uint32_t)id;
	if (flags & SUP_SHM_RND) /* SHMLBA: the page on x86, up to 16 KiB elsewhere */
		at &= ~(q->page - 1);
	add_until(c, address(at), ANYWHERE);
}

static void decode_ipc(struct sup_call *c, const struct question *q)
{
	if ((q->arg[0] & 0xffff) == SUP_IPC_SHMDT)
		decode_shmdt(c, q, q->arg[4]);
	else
		decode_shmat(c, q, q->arg[1], q->arg[4], q->arg[2]);
}

static void decode_row(struct sup_call *c, const struct question *q, enum sup_syscall call)
{
	switch (call) {
	case SUP_MREMAP:
		decode_mremap(c, q);
		return;
	case SUP_MPROTECT:
		decode_mprotect(c, q);
		return;
	case SUP_MADVISE:
		decode_madvise(c, q);
		return;
	case SUP_PROCESS_MADVISE:
		decode_process_madvise(c, q);
		return;
	case SUP_BRK:
		decode_brk(c, q);
		return;
	case SUP_SHMDT:
		decode_shmdt(c, q, q->arg[0]);
		return;
	case SUP_SHMAT:
		decode_shmat(c, q, q->arg[0], q->arg[1], q->arg[2]);
		return;
	case SUP_IPC:
		decode_ipc(c, q);
		return;
	case SUP_OLD_MMAP: /* its arguments could change after we have read them */
		c->silent = 1;
		add_until(c, 0, ANYWHERE);
		return;
	case SUP_MUNMAP:
	case SUP_MMAP:
	case SUP_REMAP_FILE_PAGES:
		c->silent = call == SUP_REMAP_FILE_PAGES;
		add(c, q, q->arg[0], q->arg[1]);
		return;
	}
}

void decode(const struct seccomp_data *d, uint64_t page, uint64_t highest_break, struct sup_call *c)
{
	const struct question q = { (const uint64_t *)d->args, page, highest_break };
	int nr = d->nr;

#ifdef __x86_64__
	if (d->arch == AUDIT_ARCH_X86_64)
		nr &= ~SUP_X32_BIT;
#endif
	c->what = SUP_FREES;
	c->find = SUP_FOUND;
	c->prot = c->silent = c->ranges = c->number = 0;
	c->vector = 0;
	for (unsigned i = 0; i < SUP_ROWS; i++)
		if (sup_rows[i].arch == d->arch && sup_rows[i].nr == nr)
			decode_row(c, &q, sup_rows[i].call);
}
