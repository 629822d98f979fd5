/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NICs that are built in.
 */
#ifndef HF_NIC_H
#define HF_NIC_H

#include <holdfast/backend.h>

extern const struct hf_nic_ops hf_nic_uring;
extern const struct hf_nic_ops hf_nic_sim;

#endif
