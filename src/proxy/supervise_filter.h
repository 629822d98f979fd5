/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef HF_SUPERVISE_FILTER_H
#define HF_SUPERVISE_FILTER_H

#include <linux/filter.h>

#define FILTER_MAX 400 /* instructions */

/* The program that has the calls of supervise_calls.h wait, where they can matter. Its length. */
unsigned filter_build(struct sock_filter out[FILTER_MAX]);

#endif
