/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef HF_PROXY_H
#define HF_PROXY_H

#include <holdfast/backend.h>

extern const struct hf_proxy_ops hf_proxy_kmod;
extern const struct hf_proxy_ops hf_proxy_uffd;
extern const struct hf_proxy_ops hf_proxy_supervise;
extern const struct hf_proxy_ops hf_proxy_manual;
extern const struct hf_proxy_ops hf_proxy_none;

/* uffd.c: the proxy `uffd` that tells by the first `parts` parts of the sink only; at least 2. */
int uffd_open_parts(struct hf_sink *sink, unsigned flags, unsigned parts, void **proxy);

#endif
