/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All that depends on the kernel's version. */
#ifndef HF_COMPAT_H
#define HF_COMPAT_H

#include <linux/mm.h>
#include <linux/version.h>

/* 6.3: vm_flags can only be written through functions. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

/*
 * 6.10, 64 bit: mseal(2). Where there is none no mapping has the flag, and nothing can be denied.
 */
#ifdef VM_SEALED
#define HF_HAS_SEAL 1
#define HF_SEALED VM_SEALED
#else
#define HF_HAS_SEAL 0
#define HF_SEALED 0UL
#endif

#endif
