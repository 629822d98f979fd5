/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What is mapped where: PROCMAP_QUERY (Linux 6.11) where there is one, else the text of
 * /proc/self/maps. Neither allocates.
 */
#ifndef HF_MAPS_H
#define HF_MAPS_H

#include <stdbool.h>
#include <stdint.h>

struct vma {
	uint64_t start, end;
	bool readable, writable, shared;
	bool file; /* backed by a file, a memfd, SysV or huge pages: anything but plain anonymous memory */
};

/*
 * The mapping that covers `addr` or the first one after it. 0, -ENOENT past the last one, or another
 * -errno when /proc can't be read.
 */
int maps_next(uint64_t addr, struct vma *out);

/*
 * Walk the mappings that cover [start, end). each() may end the walk by a value other than 0. -EFAULT, with
 * the sentence set, when there is a hole.
 */
int maps_walk(uint64_t start, uint64_t end, int (*each)(const struct vma *v, void *arg), void *arg);

/* 0, or -EACCES with the sentence set, when `v` allows less than `access`. */
int maps_rights(const struct vma *v, unsigned access);

#endif
