/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The built-in back ends, strongest first. */
#ifndef HF_BACKENDS_H
#define HF_BACKENDS_H

#include <holdfast/backend.h>

/* The i-th, or NULL past the last. */
const struct hf_proxy_ops *backends_proxy(unsigned i);
const struct hf_nic_ops *backends_nic(unsigned i);

#endif
