/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <holdfast/backend.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (1024 * 1024) /* of address space: only what is touched costs */

#ifdef HF_FAULTS
static _Atomic int64_t fault_left;
static const char *_Atomic fault_step;

bool hf_fault_hit(const char *step)
{
	if (atomic_load(&fault_left) <= 0 || atomic_fetch_sub(&fault_left, 1) != 1)
		return false;
	atomic_store(&fault_step, step);
	return true;
}

void hf_fault_arm(int64_t n)
{
	atomic_store(&fault_step, NULL);
	atomic_store(&fault_left, n);
}

const char *hf_fault_last(void)
{
	return atomic_load(&fault_step);
}

static _Atomic uint64_t pool_mapped;

uint64_t hf_pool_mapped(void)
{
	return atomic_load(&pool_mapped);
}

static void count_pool(uint64_t bytes)
{
	atomic_fetch_add(&pool_mapped, bytes);
}
#else
static void count_pool(uint64_t bytes)
{
}
#endif

uint64_t os_page_size(void)
{
	static _Atomic uint64_t size;
	uint64_t s = atomic_load_explicit(&size, memory_order_relaxed);

	if (!s) {
		s = (uint64_t)sysconf(_SC_PAGESIZE);
		atomic_store_explicit(&size, s, memory_order_relaxed);
	}
	return s;
}

void *os_pool_map(size_t bytes)
{
	size_t page = os_page_size();
	size_t inner = (bytes + page - 1) & ~(page - 1);
	char *base;

	if (FAULT("pool mmap"))
		return NULL;
	base = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	if (mprotect(base + page, inner, PROT_READ | PROT_WRITE) < 0) {
		munmap(base, inner + 2 * page);
		return NULL;
	}
	count_pool(inner);
	return base + page;
}

void os_pool_unmap(void *base, size_t bytes)
{
	size_t page = os_page_size();
	size_t inner = (bytes + page - 1) & ~(page - 1);

	if (base)
		count_pool(-(uint64_t)inner);
	/* Under the proxy `supervise` a signal may interrupt it. */
	while (base && munmap((char *)base - page, inner + 2 * page) < 0 && errno == EINTR)
		;
}

static void *thread_main(void *p)
{
	struct os_thread *t = p;

	pthread_setname_np(pthread_self(), t->name);
	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	return t->fn(t->arg);
}

/* A thread that inherited SCHED_FIFO could keep from running those for which it waits. */
static void set_normal_policy(pthread_attr_t *attr)
{
	struct sched_param none = { .sched_priority = 0 };

	pthread_attr_setschedpolicy(attr, SCHED_OTHER);
	pthread_attr_setschedparam(attr, &none);
	pthread_attr_setinheritsched(attr, PTHREAD_EXPLICIT_SCHED);
}

/* The program's signals are not for our threads: block all while the thread is created. */
static int create_blocked(struct os_thread *t, pthread_attr_t *attr)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	set_normal_policy(attr);
	rc = pthread_create(&t->id, attr, thread_main, t);
	if (rc == EPERM) { /* a sandbox forbids to set a policy */
		pthread_attr_setinheritsched(attr, PTHREAD_INHERIT_SCHED);
		rc = pthread_create(&t->id, attr, thread_main, t);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

int os_thread_start(struct os_thread *t, const char *name, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	int rc;

	if (FAULT("thread"))
		return -EAGAIN;
	*t = (struct os_thread){ .fn = fn, .arg = arg, .name = name };
	t->stack = os_pool_map(STACK_BYTES);
	if (!t->stack)
		return -ENOMEM;
	pthread_attr_init(&attr);
	rc = -pthread_attr_setstack(&attr, t->stack, STACK_BYTES);
	if (!rc)
		rc = create_blocked(t, &attr);
	pthread_attr_destroy(&attr);
	if (rc) {
		os_pool_unmap(t->stack, STACK_BYTES);
		t->stack = NULL;
	}
	return rc;
}

void os_thread_join(struct os_thread *t)
{
	if (!t->stack)
		return;
	pthread_join(t->id, NULL);
	os_pool_unmap(t->stack, STACK_BYTES);
	t->stack = NULL;
}

int os_open(const char *path, int flags)
{
	int fd;

	if (FAULT("open"))
		return -EMFILE;
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int os_eventfd(void)
{
	int fd;

	if (FAULT("eventfd"))
		return -EMFILE;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

void *os_calloc(size_t n, size_t size)
{
	return FAULT("calloc") ? NULL : calloc(n, size);
}

int os_random(void *out, size_t size)
{
	ssize_t n;

	if (FAULT("getrandom"))
		return -ENOSYS;
	do
		n = getrandom(out, size, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -EIO; /* up to 256 bytes come whole: getrandom(2) */
}

void os_wait(_Atomic uint32_t *word, uint32_t seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

void os_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void os_sleep_us(unsigned us)
{
	struct timespec ts = { us / 1000000, (long)(us % 1000000) * 1000 };

	nanosleep(&ts, NULL);
}

void os_yield(void)
{
	int policy = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;

	if (policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE)
		sched_yield();
	else
		os_sleep_us(50);
}

void os_pause(unsigned i)
{
	if (i < 50)
		os_yield();
	else
		os_sleep_us(40);
}

long os_longer(long ns)
{
	return !ns ? 50000 : ns < 500000 ? 2 * ns : 1000000;
}

uint64_t os_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void *os_fork_map(size_t bytes)
{
	size_t page = os_page_size();
	void *base = os_pool_map(bytes);

	if (base && (FAULT("wipeonfork") || madvise(base, (bytes + page - 1) & ~(page - 1), MADV_WIPEONFORK) < 0)) {
		os_pool_unmap(base, bytes);
		base = NULL;
	}
	return base;
}

void *os_fork_map_once(void *_Atomic *at, size_t bytes)
{
	void *have = atomic_load(at);
	void *mine = have ? NULL : os_fork_map(bytes);

	if (!mine || atomic_compare_exchange_strong(at, &have, mine))
		return have ? have : mine;
	os_pool_unmap(mine, bytes);
	return have;
}

_Atomic uint32_t *os_fork_word(void)
{
	return os_fork_map(os_page_size());
}

void os_fork_word_free(_Atomic uint32_t *word)
{
	os_pool_unmap(word, os_page_size());
}

/*
 * Descriptors that a child must not keep. O_CLOEXEC covers exec; a child that only forks would hold
 * the userfaultfd open (and the parent's munmap would wait for a reader that is gone once the parent
 * closes its own) and the rings (and with them every pin). A child of a raw clone() without the
 * handlers still inherits them: see docs/architecture.md.
 */
#define FORK_FDS 4096
static _Atomic int fork_fds[FORK_FDS]; /* fd + 1; 0 is free */

static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void)
{
	pthread_mutex_lock(&fork_lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&fork_lock);
}

static void close_in_child(void)
{
	pthread_mutex_unlock(&fork_lock);
	for (int i = 0; i < FORK_FDS; i++) {
		int fd = atomic_exchange(&fork_fds[i], 0) - 1;

		if (fd >= 0)
			close(fd);
	}
}

static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork, close_in_child);
}

static void watch_forks_once(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
}

void os_forks_hold(sigset_t *old)
{
	sigset_t all;

	watch_forks_once();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, old);
	pthread_mutex_lock(&fork_lock);
}

void os_forks_go(const sigset_t *old)
{
	pthread_mutex_unlock(&fork_lock);
	pthread_sigmask(SIG_SETMASK, old, NULL);
}

int hf_close_on_fork(int fd)
{
	watch_forks_once();
	for (int i = 0; i < FORK_FDS; i++) {
		int empty = 0;

		if (atomic_compare_exchange_strong(&fork_fds[i], &empty, fd + 1))
			return 0;
	}
	return hf_set_error(-EMFILE, "over %d descriptors to be closed in forked children", FORK_FDS);
}

void hf_close_on_fork_done(int fd)
{
	for (int i = 0; i < FORK_FDS; i++) {
		int mine = fd + 1;

		if (atomic_compare_exchange_strong(&fork_fds[i], &mine, 0))
			return;
	}
}
