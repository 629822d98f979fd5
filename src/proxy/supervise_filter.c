/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The seccomp filter, from the table of calls. Written by hand, because what it needs when it is loaded (to wait
 * killable) is newer than the libseccomp of Debian 12.
 *
 * Calls that are in no row are allowed by their number alone, which the kernel notices (Linux 5.11): for them the program
 * is not even run.
 */
#include "supervise_filter.h"

#include <stddef.h>

#include "supervise_calls.h"

struct program {
	struct sock_filter *at;
	unsigned n;
};

#define LOW(i) (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (i))
#define HIGH(i) (LOW(i) + 4)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "where the halves of an argument are");

static void put(struct program *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	p->at[p->n++] = (struct sock_filter){ code, yes, no, k };
}

static void load(struct program *p, uint32_t offset)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void allow(struct program *p)
{
	put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

static void notify(struct program *p)
{
	put(p, BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF, 0, 0);
}

/* What was loaded is not k: skip the next instruction. */
static void unless(struct program *p, uint32_t k)
{
	put(p, BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
}

static void match_mmap(struct program *p)
{
	load(p, LOW(3));
	put(p, BPF_JMP | BPF_JSET | BPF_K, SUP_MAP_FIXED, 1, 0);
	allow(p);
	put(p, BPF_JMP | BPF_JSET | BPF_K, SUP_MAP_FIXED_NOREPLACE, 0, 1);
	allow(p);
	notify(p);
}

static void match_advice(struct program *p, unsigned arg)
{
	load(p, LOW(arg));
	for (unsigned i = 0; i < SUP_HARMLESS; i++) {
		put(p, BPF_JMP | BPF_JGE | BPF_K, sup_harmless[i].first, 0, 2);
		put(p, BPF_JMP | BPF_JGT | BPF_K, sup_harmless[i].last, 1, 0);
		allow(p);
	}
	notify(p);
}

static void match_mprotect(struct program *p)
{
	load(p, LOW(2));
	put(p, BPF_ALU | BPF_AND | BPF_K, SUP_READ | SUP_WRITE, 0, 0);
	unless(p, SUP_READ | SUP_WRITE);
	allow(p);
	notify(p);
}

/* brk(0) asks only. */
static void match_brk(struct program *p)
{
	load(p, LOW(0));
	put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3);
	load(p, HIGH(0));
	unless(p, 0);
	allow(p);
	notify(p);
}

static void match_shmat(struct program *p)
{
	load(p, LOW(2));
	put(p, BPF_JMP | BPF_JSET | BPF_K, SUP_SHM_REMAP, 1, 0);
	allow(p);
	notify(p);
}

static void match_ipc(struct program *p)
{
	load(p, LOW(0));
	put(p, BPF_ALU | BPF_AND | BPF_K, 0xffff, 0, 0);
	unless(p, SUP_IPC_SHMDT);
	notify(p);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, SUP_IPC_SHMAT, 1, 0);
	allow(p);
	match_shmat(p); /* the flags are argument 2 here, too */
}

static void match(struct program *p, enum sup_syscall call)
{
	switch (call) {
	case SUP_MMAP:
		match_mmap(p);
		return;
	case SUP_MADVISE:
		match_advice(p, 2);
		return;
	case SUP_PROCESS_MADVISE:
		match_advice(p, 3);
		return;
	case SUP_MPROTECT:
		match_mprotect(p);
		return;
	case SUP_BRK:
		match_brk(p);
		return;
	case SUP_SHMAT:
		match_shmat(p);
		return;
	case SUP_IPC:
		match_ipc(p);
		return;
	default:
		notify(p);
	}
}

/* "If it is this number: ..., which ends in a return." */
static void put_row(struct program *p, const struct sup_row *row)
{
	unsigned jump = p->n;

	put(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)row->nr, 0, 0);
	match(p, row->call);
	p->at[jump].jf = (uint8_t)(p->n - jump - 1);
}

/* All rows of one ABI, and then it is allowed. More than a conditional jump can skip: so by BPF_JA. */
static unsigned put_abi(struct program *p, unsigned first)
{
	uint32_t arch = sup_rows[first].arch;
	unsigned jump, i;

	put(p, BPF_JMP | BPF_JEQ | BPF_K, arch, 1, 0);
	jump = p->n;
	put(p, BPF_JMP | BPF_JA, 0, 0, 0);
	load(p, offsetof(struct seccomp_data, nr));
#ifdef __x86_64__
	put(p, BPF_ALU | BPF_AND | BPF_K, ~(uint32_t)SUP_X32_BIT, 0, 0);
#endif
	for (i = first; i < SUP_ROWS && sup_rows[i].arch == arch; i++)
		put_row(p, &sup_rows[i]);
	allow(p);
	p->at[jump].k = p->n - jump - 1;
	return i;
}

unsigned filter_build(struct sock_filter out[FILTER_MAX])
{
	struct program p = { out, 0 };

	load(&p, offsetof(struct seccomp_data, arch));
	for (unsigned i = 0; i < SUP_ROWS;)
		i = put_abi(&p, i);
	allow(&p);
	return p.n;
}
