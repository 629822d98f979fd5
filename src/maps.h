/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What is mapped where: PROCMAP_QUERY (Linux 6.11) where there is one, else the text of
 * /proc/self/maps. Neither allocates. Without /proc, nothing is known about a mapping: "can't look"
 * is never told as "not mapped".
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
 * Open what is needed to look, so that a later look needs no descriptor. A failure is no error: the
 * next look tries again.
 */
void maps_prepare(void);

/* Is this the -errno of a look that was not possible? It says nothing about the mapping. */
bool maps_are_hidden(int rc);

/*
 * The mapping that covers `addr` or the first one after it. 0, -ENOENT past the last one, -ENODATA
 * if /proc doesn't show the mappings, or another -errno for which maps_are_hidden() is true. Sets
 * no sentence.
 */
int maps_next(uint64_t addr, struct vma *out);

/*
 * Walk the mappings that cover [start, end). each() may end the walk by a value other than 0. With
 * the sentence set: -EFAULT if there is a hole, or what maps_next() answered if the mappings are
 * hidden.
 */
int maps_walk(uint64_t start, uint64_t end, int (*each)(const struct vma *v, void *arg), void *arg);

/* 0, or -EACCES with the sentence set, when `v` allows less than `access`. */
int maps_rights(const struct vma *v, unsigned access);

#endif
