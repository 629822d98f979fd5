/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * pthread_cancel(3). A cancelled thread ends in the middle of a call, at the first function of the
 * C library that allows it: a placeholder, a lock or a hold would be left behind. So a public call
 * that may reach such a function disables cancellation until it returns. A hit and its put reach
 * none, and pay nothing.
 */
#ifndef HF_CANCEL_H
#define HF_CANCEL_H

#include <pthread.h>

static inline int cancel_disable(void)
{
	int was = PTHREAD_CANCEL_ENABLE;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &was);
	return was;
}

static inline void cancel_restore(const int *was)
{
	pthread_setcancelstate(*was, NULL);
}

/* A declaration: not cancelled until the end of this block. */
#define NOT_CANCELLED __attribute__((cleanup(cancel_restore), unused)) int cancel_state = cancel_disable()

#endif
