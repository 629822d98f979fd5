/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NICs that are built in.
 */
#ifndef HF_NIC_H
#define HF_NIC_H

#include <holdfast/backend.h>

extern const struct hf_nic_ops hf_nic_uring;
extern const struct hf_nic_ops hf_nic_sim;
extern const struct hf_nic_ops hf_nic_verbs; /* its open() says so when it was not built */

/* Which device it would take, and how that is used; as its open(). */
int verbs_describe(const char *arg, char *out, size_t size);

#endif
