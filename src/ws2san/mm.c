/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * MmSecureVirtualMemory: hf_secure() with HF_DENY, on a switch of its own. That is opened at the first use
 * and never closed, for the filter behind it can't be taken back either (R38: it ends with the process).
 *
 * A handle is the id that hf_secure() gave, with a number of this process's mixed in: what a parent was
 * given is no handle of a forked child, also when the child secures memory itself (R39).
 */
#include <errno.h>
#include <holdfast/backend.h>
#include <sys/random.h>
#include <unistd.h>

#include "ws2san.h"

static struct mm {
	pthread_mutex_t lock; /* opening */
	struct hf_switch *_Atomic sw;
	uint64_t mark;        /* set before sw */
} mm = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The child has secured nothing. */
static void forked(void)
{
	pthread_mutex_init(&mm.lock, NULL);
	atomic_store(&mm.sw, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forked);
}

/* In the upper half, where an id has a small number; never 0, nor is a handle. */
static uint64_t new_mark(void)
{
	uint32_t n;

	if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != sizeof(n))
		n = (uint32_t)getpid() * 0x9e3779b9u;
	return (uint64_t)(n | 1u << 31) << 32;
}

/* NULL, with hf_error(). */
static struct hf_switch *open_switch(void)
{
	struct hf_switch *sw;

	pthread_mutex_lock(&mm.lock);
	sw = atomic_load(&mm.sw);
	if (!sw && hf_switch_open("proxy=supervise", &sw) == 0) {
		mm.mark = new_mark();
		atomic_store(&mm.sw, sw);
	}
	pthread_mutex_unlock(&mm.lock);
	return sw;
}

static unsigned rights(ULONG ProbeMode)
{
	return ProbeMode == PAGE_READWRITE ? HF_READWRITE : ProbeMode == PAGE_READONLY ? HF_READ : 0;
}

HANDLE MmSecureVirtualMemory(PVOID Address, SIZE_T Size, ULONG ProbeMode)
{
	unsigned access = rights(ProbeMode);
	struct hf_switch *sw;
	uint64_t id;
	int rc = -EAGAIN;

	if (!access) {
		hf_set_error(-EINVAL, "ProbeMode 0x%x: PAGE_READONLY or PAGE_READWRITE", ProbeMode);
		return NULL;
	}
	sw = open_switch();
	/* A change that is under way just now is over soon; one that never ends is no reason to wait for ever. */
	for (int i = 0; sw && rc == -EAGAIN && i < 100; i++)
		rc = hf_secure(sw, Address, Size, access | HF_DENY, NULL, NULL, &id);
	return rc ? NULL : (HANDLE)(uintptr_t)(id ^ mm.mark);
}

void MmUnsecureVirtualMemory(HANDLE SecureHandle)
{
	struct hf_switch *sw = atomic_load(&mm.sw);

	if (!sw)
		hf_set_error(-EINVAL, "this process has secured nothing: a handle works only where it was given (R39)");
	else
		hf_unsecure(sw, (uint64_t)(uintptr_t)SecureHandle ^ mm.mark);
}
