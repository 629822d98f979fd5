/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * System calls that containers forbid: which of them this process may make, and if not, what forbids them.
 */
#ifndef HOLDFAST_DOCTOR_CALLS_H
#define HOLDFAST_DOCTOR_CALLS_H

#include <stdbool.h>

void calls_print(void);         /* a line each for userfaultfd and io_uring */
void calls_print_advice(void);  /* what to allow; nothing if all is allowed */
void calls_json(void);          /* the keys "seccomp" and "calls" */

#endif
