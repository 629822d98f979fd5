/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `sim`: a NIC of no hardware, for tests of holdfast and of programs that use it. It counts, fails and
 * waits on command, and aborts the process, with a sentence, when a stale key is used or a registration is
 * taken away twice. Open it as hf_provider_open(sw, "sim", ...), or, to steer it, as
 * hf_provider_open_nic(sw, hf_nic_find("sim"), &my_hf_sim, ...). All fields may be changed while it runs
 * (they are read and written as relaxed atomics).
 */
#ifndef HOLDFAST_SIM_H
#define HOLDFAST_SIM_H

#include <holdfast/backend.h>

#ifdef __cplusplus /* C++11; the layout is that of C's _Atomic */
#include <atomic>
#define HF_SIM_ATOMIC(type) std::atomic<type>
extern "C" {
#else
#define HF_SIM_ATOMIC(type) _Atomic(type)
#endif
#pragma GCC visibility push(default)

struct hf_sim {
	/* commands */
	HF_SIM_ATOMIC(int64_t) fail_reg_in;    /* n > 0: the n-th registration from now fails with reg_errno */
	HF_SIM_ATOMIC(int64_t) fail_dereg_in;  /* n > 0: the n-th deregistration from now fails with -EIO */
	HF_SIM_ATOMIC(int32_t) reg_errno;      /* positive errno; 0 means ENOMEM */
	HF_SIM_ATOMIC(uint32_t) reg_delay_us;  /* every registration sleeps so long */
	HF_SIM_ATOMIC(uint32_t) dereg_delay_us;
	HF_SIM_ATOMIC(uint64_t) limit_bytes;   /* registrations beyond: -ENOMEM; 0: none */
	HF_SIM_ATOMIC(uint64_t) limit_count;
	void (*on_reg)(void *arg, uint64_t addr, uint64_t len); /* runs inside reg, before the "pin" */
	void (*after_reg)(void *arg, uint64_t addr, uint64_t len); /* ... and after it */
	void *arg;
	/* counters */
	HF_SIM_ATOMIC(uint64_t) regs, deregs, live, live_bytes, peak_bytes, uses;
};

/* A transfer at this moment by the keys of r: aborts when they are stale, or don't cover the range. */
void hf_sim_use(const struct hf_region *r, const void *addr, size_t len);

/* A transfer that lasts: between begin and end, a deregistration of the region aborts (I2). */
void hf_sim_begin(const struct hf_region *r);
void hf_sim_end(const struct hf_region *r);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
