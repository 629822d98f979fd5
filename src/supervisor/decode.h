/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef HF_DECODE_H
#define HF_DECODE_H

#include "../proxy/supervise_calls.h"

/*
 * What a system call changes: c->ranges is 0 when nothing. `highest_break`: the heap ends there, at the highest. What
 * the kernel is going to refuse by itself may be taken for nothing, or for a change: never the other way round.
 */
void decode(const struct seccomp_data *d, uint64_t page, uint64_t highest_break, struct sup_call *c);

#endif
