/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What `torture` and `doctor` share. The judge: one change of a mapping under one cached registration, and a
 * verdict from the bytes that the NIC sees through its pinned pages. The races: many threads over one provider.
 */
#ifndef HOLDFAST_TORTURE_H
#define HOLDFAST_TORTURE_H

#include <holdfast/holdfast.h>
#include <stdbool.h>
#include <stdint.h>

#include "changes.h"

/* The highest of several rounds is a case's verdict: what was cached once goes before what was not, then the faults. */
enum verdict {
	VERDICT_NONE,       /* not run */
	VERDICT_CANNOT,     /* this machine can't run it */
	VERDICT_REFUSED,    /* the NIC can't register such memory, or not so */
	VERDICT_NOT_CACHED, /* never cached (I6) */
	VERDICT_KEPT,       /* the mapping was still good: a hit with the right bytes */
	VERDICT_OK,         /* the change was seen: registered anew */
	VERDICT_BLIND,      /* a stale hit where the proxy is known to be blind */
	VERDICT_FAILED,     /* a call failed, leaked or hung */
	VERDICT_STALE,      /* a stale hit or wrong bytes */
};

const char *verdict_name(enum verdict v);

struct counts {
	uint64_t lookups;
	uint64_t hits;
	uint64_t uncached;    /* registered for one use */
	uint64_t stale_hits;  /* hits whose bytes, or whose rights, were those of an earlier mapping */
	uint64_t wrong_bytes;
	uint64_t blind_stale_hits; /* the same two in declared blind spots */
	uint64_t blind_wrong_bytes;
	uint64_t failures;    /* lookups that answered an error; -ENOMEM is a limit, not a failure */
	uint64_t limited;     /* ... those */
	uint64_t refused;     /* changes of secured memory that were refused, as they have to be (R37) */
	uint64_t broken;      /* ... that were not, or bytes that changed all the same */
};

struct outcome {
	enum verdict verdict;
	struct counts n;
	char why[256]; /* may be "" */
};

void outcome_add(struct outcome *sum, const struct outcome *o);

struct judge {
	struct hf_switch *sw;
	struct hf_provider *provider;
	char nic[80];    /* as it was asked for: "uring", "verbs:rxe0" */
	char proxy[16];  /* the one in use; "unsafe" for the negative control */
	bool told;       /* the program announces its changes (manual) */
	uint64_t serial; /* makes every stamp unique */
};

/* 0, or -errno with the sentence in hf_error(). `unsafe`: a proxy that watches nothing and claims to. */
int judge_open(struct judge *j, const char *nic, const char *proxy, const char *mode, bool unsafe);
void judge_close(struct judge *j);
/* Run one row of the table; nothing of it is left in the cache afterwards. */
void judge_change(struct judge *j, const struct change *c, struct outcome *o);
/* The same, of secured memory (HF_DENY): it has to be refused, and nothing be changed. torture_deny.c */
void judge_denied(struct judge *j, const struct change *c, struct outcome *o);
/* Can the proxy refuse changes? Else false, with the reason. */
bool judge_can_deny(const struct judge *j, char *why, size_t size);
/* It seals mappings: what empties them (madvise) is not refused, and the error is another one. */
bool judge_seals(const struct judge *j);
/* Everything idle leaves the NIC. False: something stays pinned or held although nobody holds it. */
bool judge_drained(struct hf_provider *p, char *why, size_t size);

/* For a program that announces its changes. */
void judge_tell(const struct judge *j, const void *addr, size_t len);

/* How many of the bytes differ. */
unsigned differing(const void *a, const void *b, size_t len);

/* ------------------------------------------------------------------ races */

struct arena;
struct worker;

struct race {
	const char *name;
	unsigned hazard;
	unsigned weight;          /* share of the time */
	size_t pages;             /* per thread, of memory that the threads share; 0: none */
	const char *options;      /* a provider of its own, with these; NULL: the judge's */
	void (*work)(struct worker *w); /* until the arena says stop */
	bool (*verify)(struct arena *a, char *why, size_t size); /* optional, when all have stopped; false: a fault */
	const char *what;
	bool denies; /* only where the proxy can refuse changes */
};

extern const struct race races[];
extern const size_t races_count;

/* False: threads hang; they still run, so nothing may be closed any more. */
bool race_run(const struct race *r, struct judge *j, unsigned threads, uint64_t seed, double seconds,
	      struct outcome *o);

/* Footnotes of a table: the same words get the same number. */
#define NOTES_MAX 64

struct notes {
	const char *text[NOTES_MAX]; /* the caller's */
	unsigned count;
};

unsigned note_number(struct notes *n, const char *text); /* 0: it is "", or there are too many */
/* "ok", or "not cached [2]" when there is a why. */
const char *noted_verdict(struct notes *n, const struct outcome *o, char text[static 32]);
void print_notes(const struct notes *n);

/* Text indented by `indent`, broken at words before column 100. */
void print_wrapped(int indent, const char *text);

#endif
