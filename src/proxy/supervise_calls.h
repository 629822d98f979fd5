/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which system calls can change a mapping: one table, for the filter (supervise_filter.c) and for the supervisor, which
 * decodes them. All ABIs by which a process of this architecture may enter the kernel are in it: a 64-bit program may
 * use the 32-bit ones, and what it executes later may be made for them.
 */
#ifndef HF_SUPERVISE_CALLS_H
#define HF_SUPERVISE_CALLS_H

#include <linux/audit.h>

#include "supervise_shared.h"

enum sup_syscall {
	SUP_MUNMAP,
	SUP_MREMAP,
	SUP_MPROTECT, /* and pkey_mprotect */
	SUP_MADVISE,
	SUP_PROCESS_MADVISE,
	SUP_BRK,
	SUP_SHMDT,
	SUP_SHMAT,
	SUP_MMAP,
	SUP_OLD_MMAP, /* i386: the arguments are in memory */
	SUP_REMAP_FILE_PAGES,
	SUP_IPC, /* i386: shmat and shmdt among others */
};

struct sup_row {
	uint32_t arch;
	int nr;
	enum sup_syscall call;
};

#define SUP_X32_BIT 0x40000000

static const struct sup_row sup_rows[] = {
#if defined(__x86_64__)
	/* x32 has the same numbers, with a bit besides. */
	{ AUDIT_ARCH_X86_64, 9, SUP_MMAP },
	{ AUDIT_ARCH_X86_64, 10, SUP_MPROTECT },
	{ AUDIT_ARCH_X86_64, 11, SUP_MUNMAP },
	{ AUDIT_ARCH_X86_64, 12, SUP_BRK },
	{ AUDIT_ARCH_X86_64, 25, SUP_MREMAP },
	{ AUDIT_ARCH_X86_64, 28, SUP_MADVISE },
	{ AUDIT_ARCH_X86_64, 30, SUP_SHMAT },
	{ AUDIT_ARCH_X86_64, 67, SUP_SHMDT },
	{ AUDIT_ARCH_X86_64, 216, SUP_REMAP_FILE_PAGES },
	{ AUDIT_ARCH_X86_64, 329, SUP_MPROTECT },
	{ AUDIT_ARCH_X86_64, 440, SUP_PROCESS_MADVISE },
	{ AUDIT_ARCH_I386, 45, SUP_BRK },
	{ AUDIT_ARCH_I386, 90, SUP_OLD_MMAP },
	{ AUDIT_ARCH_I386, 91, SUP_MUNMAP },
	{ AUDIT_ARCH_I386, 117, SUP_IPC },
	{ AUDIT_ARCH_I386, 125, SUP_MPROTECT },
	{ AUDIT_ARCH_I386, 163, SUP_MREMAP },
	{ AUDIT_ARCH_I386, 192, SUP_MMAP },
	{ AUDIT_ARCH_I386, 219, SUP_MADVISE },
	{ AUDIT_ARCH_I386, 257, SUP_REMAP_FILE_PAGES },
	{ AUDIT_ARCH_I386, 380, SUP_MPROTECT },
	{ AUDIT_ARCH_I386, 397, SUP_SHMAT },
	{ AUDIT_ARCH_I386, 398, SUP_SHMDT },
	{ AUDIT_ARCH_I386, 440, SUP_PROCESS_MADVISE },
#elif defined(__aarch64__)
	{ AUDIT_ARCH_AARCH64, 196, SUP_SHMAT },
	{ AUDIT_ARCH_AARCH64, 197, SUP_SHMDT },
	{ AUDIT_ARCH_AARCH64, 214, SUP_BRK },
	{ AUDIT_ARCH_AARCH64, 215, SUP_MUNMAP },
	{ AUDIT_ARCH_AARCH64, 216, SUP_MREMAP },
	{ AUDIT_ARCH_AARCH64, 222, SUP_MMAP },
	{ AUDIT_ARCH_AARCH64, 226, SUP_MPROTECT },
	{ AUDIT_ARCH_AARCH64, 233, SUP_MADVISE },
	{ AUDIT_ARCH_AARCH64, 234, SUP_REMAP_FILE_PAGES },
	{ AUDIT_ARCH_AARCH64, 288, SUP_MPROTECT },
	{ AUDIT_ARCH_AARCH64, 440, SUP_PROCESS_MADVISE },
	{ AUDIT_ARCH_ARM, 45, SUP_BRK },
	{ AUDIT_ARCH_ARM, 91, SUP_MUNMAP },
	{ AUDIT_ARCH_ARM, 125, SUP_MPROTECT },
	{ AUDIT_ARCH_ARM, 163, SUP_MREMAP },
	{ AUDIT_ARCH_ARM, 192, SUP_MMAP },
	{ AUDIT_ARCH_ARM, 220, SUP_MADVISE },
	{ AUDIT_ARCH_ARM, 253, SUP_REMAP_FILE_PAGES },
	{ AUDIT_ARCH_ARM, 305, SUP_SHMAT },
	{ AUDIT_ARCH_ARM, 306, SUP_SHMDT },
	{ AUDIT_ARCH_ARM, 394, SUP_MPROTECT },
	{ AUDIT_ARCH_ARM, 440, SUP_PROCESS_MADVISE },
#endif
};

#define SUP_ROWS (sizeof(sup_rows) / sizeof(sup_rows[0]))

/* Not all of them are in the headers of Debian 12, and the supervisor has none of the libc's. */
#define SUP_MREMAP_MAYMOVE 1u
#define SUP_MREMAP_FIXED 2u
#define SUP_MREMAP_DONTUNMAP 4u
#define SUP_MAP_FIXED 0x10u
#define SUP_MAP_FIXED_NOREPLACE 0x100000u
#define SUP_SHM_REMAP 040000u
#define SUP_SHM_RND 020000u
#define SUP_IPC_SHMAT 21u
#define SUP_IPC_SHMDT 22u
#define SUP_GUARD_INSTALL 102u

/* madvise() that replaces no page: hints, and what only makes pages. All else counts as emptying, also what is not known. */
static const struct { uint32_t first, last; } sup_harmless[] = {
	{ 0, 3 },     /* NORMAL, RANDOM, SEQUENTIAL, WILLNEED */
	{ 10, 23 },   /* DONTFORK ... WIPEONFORK, KEEPONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE */
	{ 25, 25 },   /* COLLAPSE */
	{ 103, 103 }, /* GUARD_REMOVE */
};
#define SUP_HARMLESS (sizeof(sup_harmless) / sizeof(sup_harmless[0]))

#endif
