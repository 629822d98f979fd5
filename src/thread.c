/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "thread.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os.h"

#define CHUNK_RECORDS 256
#define CHUNKS 256 /* 65 536 threads; later ones have no record and are proved by /proc alone */

_Atomic uint64_t thread_clock = 1;
_Thread_local struct thread_record *thread_self;

static struct thread_record *_Atomic chunks[CHUNKS];
static pthread_key_t exit_key;

static void at_exit(void *p)
{
	struct thread_record *t = p;

	thread_self = NULL;
	atomic_store(&t->tid, 0);
}

/* In the child only the forking thread lives on, under another number. */
static void at_fork(void)
{
	for (int c = 0; c < CHUNKS && chunks[c]; c++)
		for (int i = 0; i < CHUNK_RECORDS; i++)
			if (&chunks[c][i] != thread_self)
				atomic_store(&chunks[c][i].tid, 0);
	if (thread_self)
		atomic_store(&thread_self->tid, (int)syscall(SYS_gettid));
}

static void once_init(void)
{
	pthread_key_create(&exit_key, at_exit);
	pthread_atfork(NULL, NULL, at_fork);
}

static struct thread_record *chunk_at(int c)
{
	struct thread_record *have = atomic_load(&chunks[c]);
	struct thread_record *mine;

	if (have)
		return have;
	mine = os_pool_map(sizeof(*mine) * CHUNK_RECORDS);
	if (!mine)
		return NULL;
	if (atomic_compare_exchange_strong(&chunks[c], &have, mine))
		return mine;
	os_pool_unmap(mine, sizeof(*mine) * CHUNK_RECORDS);
	return have;
}

static struct thread_record *claim(int tid)
{
	for (int c = 0; c < CHUNKS; c++) {
		struct thread_record *chunk = chunk_at(c);

		for (int i = 0; chunk && i < CHUNK_RECORDS; i++) {
			int empty = 0;

			if (atomic_compare_exchange_strong(&chunk[i].tid, &empty, tid))
				return &chunk[i];
		}
		if (!chunk)
			break;
	}
	return NULL;
}

struct thread_record *thread_attach(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct thread_record *t;

	pthread_once(&once, once_init);
	t = claim((int)syscall(SYS_gettid));
	if (!t)
		return NULL;
	/* A record of an earlier thread: its `seen` proves nothing of this one, nor against it. */
	atomic_store(&t->seen, 0);
	pthread_setspecific(exit_key, t);
	thread_self = t;
	return t;
}

uint64_t thread_tick(void)
{
	return atomic_fetch_add(&thread_clock, 1) + 1;
}

static bool seen_in_library(int tid, uint64_t stamp)
{
	for (int c = 0; c < CHUNKS; c++) {
		struct thread_record *chunk = atomic_load(&chunks[c]);

		if (!chunk)
			return false;
		for (int i = 0; i < CHUNK_RECORDS; i++)
			if (atomic_load_explicit(&chunk[i].tid, memory_order_relaxed) == tid)
				return atomic_load_explicit(&chunk[i].seen, memory_order_acquire) >=
				       stamp;
	}
	return false;
}

static ssize_t read_task(int tid, const char *file, char *buf, size_t size)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, file);
	fd = os_open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n >= 0)
		buf[n] = 0;
	return n;
}

#define PF_IO_WORKER   0x00000010ul
#define PF_USER_WORKER 0x00004000ul
#define PF_KTHREAD     0x00200000ul

/* A worker that the kernel made for an io_uring: it has no system call to show. */
static bool is_kernel_worker(int tid, bool *known)
{
	char buf[512];
	unsigned long flags = 0;
	char *after;

	*known = false;
	if (read_task(tid, "stat", buf, sizeof(buf)) <= 0)
		return true;
	after = strrchr(buf, ')');
	*known = after && sscanf(after, ") %*c %*d %*d %*d %*d %*d %lu", &flags) == 1;
	return flags & (PF_IO_WORKER | PF_USER_WORKER | PF_KTHREAD);
}

static bool worker_is_idle(int tid)
{
	char buf[64];

	return read_task(tid, "wchan", buf, sizeof(buf)) > 0 && !strcmp(buf, "io_wq_worker");
}

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#define ADDRESS_BITS 0x00ffffffffffffffull /* arm64 may tag the top byte */

struct question {
	uint64_t stamp, start, end;
	int self, except;
};

/* What /proc/self/task/TID/syscall says of a sleeping thread: "28 0x7f0000000000 0x1000 0x4 ...". */
static enum proof asleep_elsewhere(int tid, const struct question *q)
{
	unsigned long long addr, len;
	char buf[256];
	bool known;
	int nr;

	if (is_kernel_worker(tid, &known))
		return known && worker_is_idle(tid) ? ALL_OVER : NOT_PROVED;
	if (!known || read_task(tid, "syscall", buf, sizeof(buf)) <= 0 ||
	    sscanf(buf, "%d %llx %llx", &nr, &addr, &len) != 3) /* "running", or in no system call */
		return NOT_PROVED;
	if (nr < 0 || nr == SYS_process_madvise)
		return NOT_PROVED;
	if (nr != SYS_madvise)
		return ALL_OVER;
	addr &= ADDRESS_BITS;
	return addr >= q->end || addr + len <= q->start ? OVER_HERE : NOT_PROVED;
}

static enum proof prove_one(int tid, const struct question *q)
{
	if (tid == q->self || tid == q->except || seen_in_library(tid, q->stamp))
		return ALL_OVER;
	return asleep_elsewhere(tid, q);
}

/* The least that is proved of any thread, and how many there were. Entries are as getdents64(2) gives them;
 * struct dirent64 has the same layout. */
static enum proof scan_tasks(int fd, const struct question *q, unsigned long *count)
{
	_Alignas(struct dirent64) char entries[16384];
	long n = syscall(SYS_getdents64, fd, entries, sizeof(entries));
	enum proof least = ALL_OVER;

	/* More threads than one read holds: a second one could skip some. */
	if (n <= 0 || n > (long)sizeof(entries) - 512)
		return NOT_PROVED;
	for (long at = 0; at < n && least != NOT_PROVED;) {
		struct dirent64 *d = (struct dirent64 *)(void *)(entries + at);
		int tid = atoi(d->d_name);
		enum proof one = tid > 0 ? prove_one(tid, q) : ALL_OVER;

		at += d->d_reclen;
		*count += tid > 0;
		if (one < least)
			least = one;
	}
	return least;
}

/* The listing may leave threads out while others end: compare with the count that the directory claims. */
enum proof thread_prove(uint64_t stamp, uint64_t start, uint64_t end, int except)
{
	struct question q = { stamp, start, end, (int)syscall(SYS_gettid), except };
	struct stat before, after;
	enum proof proof = NOT_PROVED;
	unsigned long count = 2; /* "." and ".." */
	int fd = os_open("/proc/self/task", O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return NOT_PROVED;
	if (fstat(fd, &before) == 0)
		proof = scan_tasks(fd, &q, &count);
	if (proof != NOT_PROVED && (fstat(fd, &after) < 0 || before.st_nlink != after.st_nlink ||
				    count != after.st_nlink))
		proof = NOT_PROVED;
	close(fd);
	return proof;
}
