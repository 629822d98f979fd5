/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef HF_PROXY_H
#define HF_PROXY_H

#include <holdfast/backend.h>

extern const struct hf_proxy_ops hf_proxy_uffd;
extern const struct hf_proxy_ops hf_proxy_manual;
extern const struct hf_proxy_ops hf_proxy_none;

#endif
