/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the library asks of the operating system, in one place: each primitive says what it
 * guarantees, and each that can fail is a step of the nth-failure sweep (see FAULT).
 */
#ifndef HF_OS_H
#define HF_OS_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Fault injection: in the test build the n-th FAULT() reached answers true and the step fails as
 * if the kernel had said no. In the product it is the constant 0.
 */
#ifdef HF_FAULTS
bool hf_fault_hit(const char *step);
void hf_fault_arm(int64_t n);        /* n > 0: the n-th step from now fails; 0: none */
const char *hf_fault_last(void);     /* the step that failed, or NULL when none was reached */
uint64_t hf_pool_mapped(void);       /* bytes from os_pool_map() that os_pool_unmap() has not returned */
#define FAULT(step) hf_fault_hit(step)
#else
#define FAULT(step) 0
#endif

uint64_t os_page_size(void);

/*
 * Memory that the event thread may touch (I4): zeroed, page aligned, fenced by guard pages so
 * that the kernel never merges it with a mapping of the program's, hence never armed. NULL
 * on failure.
 */
void *os_pool_map(size_t bytes);
void os_pool_unmap(void *base, size_t bytes);

/*
 * Keep every other thread from forking until os_forks_go(), with all signals blocked: a handler may
 * fork. A descriptor is created and passed to hf_close_on_fork() between the two, or closed and
 * passed to hf_close_on_fork_done(). A child then never keeps one that is not in the list.
 */
void os_forks_hold(sigset_t *old);
void os_forks_go(const sigset_t *old);

/*
 * A thread of the library's own: all signals blocked, policy SCHED_OTHER, its stack from
 * os_pool_map(). 0 or -errno.
 */
struct os_thread {
	pthread_t id;
	void *stack;
	_Atomic int tid; /* set by the thread itself before it runs fn; 0 until then */
	void *(*fn)(void *);
	void *arg;
	const char *name;
};
int os_thread_start(struct os_thread *t, const char *name, void *(*fn)(void *), void *arg);
void os_thread_join(struct os_thread *t);

int os_open(const char *path, int flags);
int os_eventfd(void);
void *os_calloc(size_t n, size_t size);
int os_random(void *out, size_t size); /* at most 256 bytes; blocks only early in the machine's start. 0 or -errno */

/* Futex on a private word. os_wait: returns when *word != seen, on a wake, or spuriously. */
void os_wait(_Atomic uint32_t *word, uint32_t seen);
void os_wake_all(_Atomic uint32_t *word);
void os_sleep_us(unsigned us);
/* Let threads of normal priority run. A real-time caller sleeps: its sched_yield() would not. */
void os_yield(void);
/*
 * Between two looks at what will be so soon, the i-th time: at first os_yield(), then 40 us. 100
 * take about 2 ms.
 */
void os_pause(unsigned i);
/*
 * How long to sleep, in ns, until what is busy is tried again: 50 us at first (after 0), 1 ms at
 * most.
 */
long os_longer(long ns);
uint64_t os_now_ns(void); /* CLOCK_MONOTONIC */

/* The same, but that the kernel wipes it to 0 in every forked child (MADV_WIPEONFORK, Linux 4.14). */
void *os_fork_map(size_t bytes);

/* Such memory, mapped at the first call for *at and kept. Any thread. NULL on failure. */
void *os_fork_map_once(void *_Atomic *at, size_t bytes);

/*
 * A word, 0 at first, of such memory: set to
 * another value it tells, with no system call, that this is still the process that set it (I7). NULL on failure.
 */
_Atomic uint32_t *os_fork_word(void);
void os_fork_word_free(_Atomic uint32_t *word);

#endif
