/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every way in which the memory behind a cached registration can change (hazards 1 to 15), as one table that
 * `torture`, `doctor` and the tests walk.
 *
 *   change_setup ─► (the caller looks the range up) ─► change_apply ─► change_back ─► (looks again) ─► change_restore
 *
 * After change_back the same addresses are mapped and writable again, whatever lies behind them by then.
 * Nothing here knows of the cache: what a lookup may and may not answer is the judge's business.
 */
#ifndef HOLDFAST_CHANGES_H
#define HOLDFAST_CHANGES_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct hf_provider;

/* What kind of mapping the range lies in. */
enum ground_kind {
	GROUND_PRIVATE,
	GROUND_SHARED_ANON,
	GROUND_MEMFD,
	GROUND_FILE_SHARED,
	GROUND_FILE_PRIVATE,
	GROUND_SYSV,
	GROUND_STACK,
	GROUND_BRK,
	GROUND_HEAP,   /* malloc, below its mmap threshold */
	GROUND_MALLOC, /* malloc, above it: a mapping of its own */
	GROUND_THP,
	GROUND_HUGETLB,
	GROUND_LIBRARY,
};

/* A thread whose stack is the ground. */
struct ground_thread {
	pthread_t id;
	sem_t ready, leave;
	unsigned char *stack;
	size_t stack_len;
	bool runs;
};

/* The range that a change works on, and what is needed to make it and to clear it away. */
struct ground {
	unsigned char *addr; /* whole pages */
	size_t len;
	size_t stamp_at;     /* offset in every page where the program may write CHANGE_STAMP bytes */
	struct hf_provider *provider; /* for a child that calls the library; may be NULL */
	char why[160];       /* after a function here answered other than 0 */

	/* the rest is changes.c's own */
	unsigned char *map;  /* reserved around it */
	size_t map_len;
	unsigned char *extra;
	size_t extra_len;
	bool lost;           /* the hole was taken by somebody else: leave it alone */
	int fd;
	void *attached;      /* keeps a System V segment that is marked for removal */
	void *block, *below; /* from malloc */
	size_t huge;
	pid_t child;
	int child_pipe;
	void *library;
	struct ground_thread thread;
};

#define CHANGE_STAMP 16u

#define CHANGE_KEEPS     1u  /* the pages stay: a hit afterwards is right */
#define CHANGE_SILENT    2u  /* no program would announce it: the proxy `manual` isn't told either */
#define CHANGE_READ      4u  /* looked up for reading only */
#define CHANGE_UNTOUCHED 8u  /* nothing is written or read before the first lookup */
#define CHANGE_RIGHTS    16u /* between apply and back the range has fewer rights than the lookup asks */

#define CHANGE_UNREFUSED 32u /* not by a call of this process on this range: nobody can refuse it (R42) */

/* by madvise: the pages go, the mapping stays. A proxy that seals mappings (kmod) doesn't refuse it. */
#define CHANGE_EMPTIES 64u

#define CHANGE_WRONG 1 /* answered by apply: not "can't run" but a fault of the library; see why */

struct change {
	const char *name;
	unsigned hazard;
	enum ground_kind kind;
	unsigned flags;
	const char *blind; /* the proxy that is permitted to be blind to it; NULL: none is */
	int (*prepare)(struct ground *g); /* optional, at the end of set-up */
	int (*apply)(struct ground *g);   /* optional: the program's next write is the change */
	int (*back)(struct ground *g);    /* optional: when apply leaves the range unusable */
	const char *what;
};

extern const struct change changes[];
extern const size_t changes_count;

/* 0, or -errno with g->why: this machine can't run it. change_restore() is due in any case. */
int change_setup(const struct change *c, struct ground *g);
/* 0, -errno (can't run here), or CHANGE_WRONG. */
int change_apply(const struct change *c, struct ground *g);
int change_back(const struct change *c, struct ground *g);
void change_restore(const struct change *c, struct ground *g);

/* "private anonymous", "System V", ... */
const char *ground_name(enum ground_kind kind);
/* Is the named proxy permitted to be blind to this change? What it really is gets measured. */
bool change_may_blind(const struct change *c, const char *proxy);

size_t change_page(void); /* the page size */

#endif
