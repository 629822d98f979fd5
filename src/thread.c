/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <holdfast/backend.h>
#include <unistd.h>

#include "os.h"

#define CHUNK_RECORDS 256
#define CHUNKS 256 /* 65 536 threads; later ones have no record and are proved by /proc alone */

_Atomic uint64_t thread_clock = 1;
static struct thread_record nobody;
_Thread_local struct thread_record *thread_self = &nobody;

static struct thread_record *_Atomic chunks[CHUNKS];
static _Atomic unsigned made; /* records that were ever claimed: those in use are among the first so many */
static _Atomic uint64_t exit_key; /* 1 + the key; 0: none so far */

static void at_exit(void *p)
{
	struct thread_record *t = p;

	thread_self = &nobody;
	atomic_store(&t->tid, 0);
}

/* In the child all records are wiped, and the thread that forked takes a new one when it needs it. */
static void at_fork(void)
{
	thread_self = &nobody;
}

static void once_init(void)
{
	pthread_atfork(NULL, NULL, at_fork);
}

/*
 * Get the key whose destructor frees the record, and create it if need be. False: the process has
 * no key left.
 */
static bool get_key(pthread_key_t *key)
{
	uint64_t have = atomic_load(&exit_key);

	if (!have) {
		if (pthread_key_create(key, at_exit) != 0)
			return false;
		if (atomic_compare_exchange_strong(&exit_key, &have, (uint64_t)*key + 1))
			return true;
		pthread_key_delete(*key); /* another thread was faster */
	}
	*key = (pthread_key_t)(have - 1);
	return true;
}

static struct thread_record *chunk_at(int c)
{
	struct thread_record *have = atomic_load(&chunks[c]);
	struct thread_record *mine;

	if (have)
		return have;
	mine = os_fork_map(sizeof(*mine) * CHUNK_RECORDS);
	if (!mine)
		return NULL;
	if (atomic_compare_exchange_strong(&chunks[c], &have, mine))
		return mine;
	os_pool_unmap(mine, sizeof(*mine) * CHUNK_RECORDS);
	return have;
}

/* A record that is used again keeps its holds, some of which may still be out. */
static struct thread_record *first_use(struct thread_record *t, unsigned index)
{
	unsigned have = atomic_load(&made);

	if (!t->holds.first[0].owner)
		holds_init(&t->holds, t);
	while (have <= index && !atomic_compare_exchange_weak(&made, &have, index + 1))
		;
	return t;
}

struct thread_record *thread_at(unsigned i)
{
	return i < atomic_load(&made) ? &atomic_load(&chunks[i / CHUNK_RECORDS])[i % CHUNK_RECORDS] :
					NULL;
}

static bool has_ended(int owner)
{
	return syscall(SYS_tkill, owner, 0) < 0 && errno == ESRCH;
}

/*
 * Claim a record of this chunk that has no owner, or with `ended` one whose owner has ended. NULL:
 * none.
 */
static struct thread_record *claim_in(unsigned c, int tid, bool ended)
{
	struct thread_record *chunk = chunk_at(c);

	for (unsigned i = 0; chunk && i < CHUNK_RECORDS; i++) {
		int owner = atomic_load_explicit(&chunk[i].tid, memory_order_relaxed);

		if (owner && !(ended && (owner == tid || has_ended(owner))))
			continue;
		if (atomic_compare_exchange_strong(&chunk[i].tid, &owner, tid))
			return first_use(&chunk[i], c * CHUNK_RECORDS + i);
	}
	return NULL;
}

static struct thread_record *claim_until(unsigned chunks_made, int tid, bool ended)
{
	struct thread_record *t = NULL;

	for (unsigned c = 0; c < chunks_made && !t; c++)
		t = claim_in(c, tid, ended);
	return t;
}

static unsigned count_chunks(void)
{
	unsigned n = 0;

	while (n < CHUNKS && atomic_load(&chunks[n]))
		n++;
	return n;
}

/*
 * Claim a record. A thread whose last destructors call the library attaches after at_exit() has run
 * for the last time, and leaves its record taken. So before more records are made, those of threads
 * that have ended are taken over.
 */
static struct thread_record *claim(int tid)
{
	unsigned n = count_chunks();
	struct thread_record *t = claim_until(n, tid, false);

	if (!t)
		t = claim_until(n, tid, true);
	return t || n == CHUNKS ? t : claim_in(n, tid, false);
}

static struct thread_record *refuse(int error, const char *why)
{
	hf_set_error(-error, "%s", why);
	errno = error;
	return NULL;
}

struct thread_record *thread_attach(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct thread_record *t;
	pthread_key_t key;

	pthread_once(&once, once_init);
	if (!get_key(&key))
		return refuse(EAGAIN, "all thread-specific keys of this process are taken: holdfast needs one");
	t = claim((int)syscall(SYS_gettid));
	if (!t)
		return refuse(ENOMEM, "no memory for this thread's record, or over 65 536 threads");
	if (pthread_setspecific(key, t) != 0) {
		atomic_store(&t->tid, 0);
		return refuse(EAGAIN, "no memory for this thread's value of the key");
	}
	/* A record of an earlier thread: its `seen` proves nothing of this one, nor against it. */
	atomic_store(&t->seen, 0);
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

/*
 * Asleep in its own loop, where it waits for work; the last worker does so for good. Linux before 6.4 calls the loop
 * io_wqe_worker. io_sq_thread is that of a thread that submits (IORING_SETUP_SQPOLL).
 */
static bool worker_is_idle(int tid)
{
	static const char *const loops[] = { "io_wq_worker", "io_wqe_worker", "io_sq_thread" };
	char buf[64];

	if (read_task(tid, "wchan", buf, sizeof(buf)) <= 0)
		return false;
	for (size_t i = 0; i < sizeof(loops) / sizeof(loops[0]); i++)
		if (!strcmp(buf, loops[i]))
			return true;
	return false;
}

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* Calls of which a proxy tells before they take effect, and nothing afterwards: where they work isn't always to be seen. */
static bool is_anywhere(int nr)
{
	return nr == SYS_process_madvise || nr == SYS_shmat || nr == SYS_remap_file_pages;
}

static bool is_by_address(int nr)
{
	return nr == SYS_madvise || nr == SYS_mprotect || nr == SYS_pkey_mprotect;
}

#define ADDRESS_BITS 0x00ffffffffffffffull /* arm64 may tag the top byte */

struct question {
	uint64_t stamp, start, end;
	int self, except;
	bool (*was_out)(int tid); /* NULL: about madvise and the like */
	bool (*concerns)(int nr);
};

/* What /proc/self/task/TID/syscall says of a sleeping thread: "28 0x7f0000000000 0x1000 0x4 ...". */
static enum proof asleep_elsewhere(int tid, const struct question *q)
{
	unsigned long long addr, len;
	char buf[256];
	bool known;
	int nr;

	if (is_kernel_worker(tid, &known))
		return known && (q->concerns || worker_is_idle(tid)) ? ALL_OVER : NOT_PROVED;
	if (!known || read_task(tid, "syscall", buf, sizeof(buf)) <= 0 ||
	    sscanf(buf, "%d %llx %llx", &nr, &addr, &len) != 3) /* "running", or in no system call */
		return NOT_PROVED;
	if (nr >= 0 && q->concerns)
		return q->concerns(nr) ? NOT_PROVED : ALL_OVER;
	if (nr < 0 || is_anywhere(nr))
		return NOT_PROVED;
	if (!is_by_address(nr))
		return ALL_OVER;
	addr &= ADDRESS_BITS;
	return addr >= q->end || addr + len <= q->start ? OVER_HERE : NOT_PROVED;
}

/*
 * A thread that runs and never sleeps. Its user time is counted when a clock tick, or with full dynamic ticks
 * the switch itself, finds it in user mode: once it has grown since we first looked, the thread has been
 * out of the kernel since. So each look either proves what the last one began, or waits on.
 */
#define LOOKS 256

struct look {
	int tid;
	uint64_t stamp;  /* thread_clock when user_ns was read, or earlier */
	uint64_t proved; /* out of the kernel since the clock showed this */
	int64_t user_ns;
};

/*
 * In memory that the kernel wipes in a forked child: there the lock is free, and no look is of a
 * thread of the parent's.
 */
struct prover {
	pthread_mutex_t lock;
	struct look looks[LOOKS]; /* lock */
};

static void *_Atomic the_prover; /* struct prover */

static struct prover *get_prover(void)
{
	return os_fork_map_once(&the_prover, sizeof(struct prover));
}

/* The user time of one thread: see clock_getcpuclockid(3) for how the numbers are made. */
static int64_t user_time(int tid)
{
	clockid_t id = (clockid_t)(~(unsigned)tid << 3 | 4 /* of a thread */ | 1 /* user time */);
	struct timespec ts;

	return clock_gettime(id, &ts) < 0 ? -1 : ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static bool ran_in_user_mode(int tid, uint64_t stamp)
{
	struct look *l = &get_prover()->looks[tid % LOOKS];
	uint64_t clock = atomic_load(&thread_clock);
	int64_t now = user_time(tid);

	if (now < 0)
		return false;
	if (l->tid != tid || now < l->user_ns)
		*l = (struct look){ .tid = tid, .stamp = clock, .user_ns = now };
	else if (now > l->user_ns)
		*l = (struct look){ .tid = tid, .stamp = clock, .user_ns = now, .proved = l->stamp };
	return l->proved >= stamp;
}

static enum proof prove_one(int tid, const struct question *q)
{
	enum proof proof;

	if (tid == q->self || tid == q->except || seen_in_library(tid, q->stamp))
		return ALL_OVER;
	if (q->was_out && q->was_out(tid))
		return ALL_OVER;
	proof = asleep_elsewhere(tid, q);
	return proof == NOT_PROVED && ran_in_user_mode(tid, q->stamp) ? ALL_OVER : proof;
}

/*
 * The least that is proved of any thread, and how many there were. All are looked at, even if one is not
 * proved: a look is a beginning. Entries are as getdents64(2) gives them; struct dirent64 has the same layout.
 */
static enum proof scan_entries(const char *entries, long n, const struct question *q,
			       unsigned long *count)
{
	enum proof least = ALL_OVER;

	for (long at = 0; at < n;) {
		const struct dirent64 *d = (const void *)(entries + at);
		int tid = atoi(d->d_name);
		enum proof one = tid > 0 ? prove_one(tid, q) : ALL_OVER;

		at += d->d_reclen;
		*count += tid > 0;
		if (one < least)
			least = one;
	}
	return least;
}

#define LISTING (1u << 20) /* bytes: 32 000 threads */

/* One read must hold all: a second one could skip threads while others end. */
static enum proof scan_tasks(int fd, const struct question *q, unsigned long *count)
{
	static char *entries; /* the prover's lock */
	long n;

	if (!entries)
		entries = os_pool_map(LISTING);
	if (!entries)
		return NOT_PROVED;
	n = syscall(SYS_getdents64, fd, entries, LISTING);
	return n > 0 && n < LISTING - 512 ? scan_entries(entries, n, q, count) : NOT_PROVED;
}

/* The listing may leave threads out while others end: compare with the count that the directory claims. */
static enum proof prove_all(int fd, const struct question *q)
{
	struct stat before, after;
	unsigned long count = 2; /* "." and ".." */
	enum proof proof;

	if (fstat(fd, &before) < 0)
		return NOT_PROVED;
	proof = scan_tasks(fd, q, &count);
	return fstat(fd, &after) == 0 && before.st_nlink == after.st_nlink && count == after.st_nlink ?
		       proof : NOT_PROVED;
}

static enum proof prove(const struct question *q)
{
	struct prover *prover = get_prover();
	enum proof proof = NOT_PROVED;
	int fd;

	/* If another thread is proving, then this range is not cached this time. */
	if (!prover || pthread_mutex_trylock(&prover->lock) != 0)
		return NOT_PROVED;
	fd = os_open("/proc/self/task", O_RDONLY | O_DIRECTORY);
	if (fd >= 0) {
		proof = prove_all(fd, q);
		close(fd);
	}
	pthread_mutex_unlock(&prover->lock);
	return proof;
}

enum proof thread_prove(uint64_t stamp, uint64_t start, uint64_t end, int except)
{
	struct question q = { stamp, start, end, (int)syscall(SYS_gettid), except, NULL, NULL };

	return prove(&q);
}

bool thread_prove_out(uint64_t stamp, int except, bool (*was_out)(int tid), bool (*concerns)(int nr))
{
	struct question q = { stamp, 0, UINT64_MAX, (int)syscall(SYS_gettid), except, was_out, concerns };

	return prove(&q) == ALL_OVER;
}
