/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * How much memory the control groups leave to this process.
 */
#ifndef HF_CGROUP_H
#define HF_CGROUP_H

#include <stdint.h>

/*
 * The least memory limit, in bytes, of the process's own control group and of all that contain it:
 * memory.max and memory.high of version 2, memory.limit_in_bytes of version 1. UINT64_MAX if there
 * is none, or if nothing can be read. `root` stands before /proc/self/cgroup and /sys/fs/cgroup; ""
 * but in tests.
 */
uint64_t cgroup_memory_limit(const char *root);

#endif
