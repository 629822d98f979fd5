/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `holdfast torture`: every row of the table of changes, then every race, in rounds, until the time is over.
 */
#include "torture.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define ROUND_SECONDS 10.0
#define LEAST_RACE_SECONDS 0.02
#define MAX_THREADS 512
#define COLUMNS 100

static double seconds = 10;
static uint64_t threads = 8, seed;
static const char *nic = "uring", *proxy = "auto", *mode = "exact", *wanted;
static bool list, unsafe;

/* A row of either table, and what came of it so far. A change has two: as it is, and of secured memory. */
struct torture_case {
	char name[40];
	const char *what;
	unsigned hazard;
	const struct change *change;
	bool denied;
	const struct race *race;
	bool chosen;
	struct outcome o;
};

struct torture {
	struct torture_case *cases;
	size_t count;
	unsigned weights; /* of the chosen races */
	bool any_change;
	bool can_deny; /* else the cases of secured memory are left out */
	char why_not[160];
	struct judge judge;
	uint64_t begin;
	bool hangs;
};

/* ------------------------------------------------------------------ which cases */

static void add_case(struct torture *t, const struct change *c, bool denied, const struct race *r)
{
	struct torture_case *k = &t->cases[t->count++];

	k->change = c;
	k->denied = denied;
	k->race = r;
	snprintf(k->name, sizeof(k->name), "%s%s", denied ? "deny-" : "", c ? c->name : r->name);
	k->what = c ? c->what : r->what;
	k->hazard = c ? c->hazard : r->hazard;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

/*
 * A stack that can't be unmapped makes the C library end the program: that is no case, but a warning in hf_secure(3). A
 * sanitizer's allocator ends it, too; the C library's goes on.
 */
static bool can_be_denied(const struct change *c)
{
	if (SANITIZED && (c->kind == GROUND_HEAP || c->kind == GROUND_MALLOC))
		return false;
	return c->apply && !(c->flags & CHANGE_SILENT) && c->kind != GROUND_STACK;
}

static bool all_cases(struct torture *t)
{
	size_t i;

	t->cases = calloc(2 * changes_count + races_count, sizeof(*t->cases));
	if (!t->cases)
		return false;
	for (i = 0; i < changes_count; i++)
		add_case(t, &changes[i], false, NULL);
	for (i = 0; i < changes_count; i++)
		if (can_be_denied(&changes[i]))
			add_case(t, &changes[i], true, NULL);
	for (i = 0; i < races_count; i++)
		add_case(t, NULL, false, &races[i]);
	return true;
}

static bool choose_pattern(struct torture *t, const char *pattern)
{
	bool found = false;
	size_t i;

	for (i = 0; i < t->count; i++) {
		if (fnmatch(pattern, t->cases[i].name, 0))
			continue;
		t->cases[i].chosen = found = true;
	}
	return found;
}

/* "munmap-*,race-recycle"; all of them when none is named. */
static int choose(struct torture *t)
{
	char pattern[64];
	const char *at = wanted ? wanted : "*";
	size_t i;

	while (*at) {
		size_t len = strcspn(at, ",");

		snprintf(pattern, sizeof(pattern), "%.*s", (int)len, at);
		if (!choose_pattern(t, pattern))
			return tool_fail(TOOL_USAGE, "there is no case '%s'; --list names them all", pattern);
		at += len + (at[len] == ',');
	}
	for (i = 0; i < t->count; i++) {
		if (t->cases[i].chosen && t->cases[i].race)
			t->weights += t->cases[i].race->weight;
		t->any_change |= t->cases[i].chosen && t->cases[i].change;
	}
	return t->weights || t->any_change ? TOOL_OK : tool_fail(TOOL_USAGE, "--case names no case");
}

static void list_json(const struct torture_case *k)
{
	json_open(NULL, '{');
	json_string("name", k->name);
	json_u64("hazard", k->hazard);
	json_string("kind", k->change ? ground_name(k->change->kind) : "race");
	json_string("what", k->what);
	json_close();
}

static int print_list(const struct torture *t)
{
	size_t i;

	if (tool_json)
		json_open(NULL, '[');
	for (i = 0; i < t->count; i++) {
		const struct torture_case *k = &t->cases[i];

		if (!k->chosen)
			continue;
		if (tool_json)
			list_json(k);
		else
			printf("%-26s hazard %2u  %s\n", k->name, k->hazard, k->what);
	}
	if (tool_json)
		json_close();
	return TOOL_OK;
}

/* ------------------------------------------------------------------ running */

static double since(uint64_t begin)
{
	return (double)(tool_now_ns() - begin) / 1e9;
}

static void show(const struct torture *t, const struct torture_case *k)
{
	tool_progress("%5.1f of %.1f s  %s", since(t->begin), seconds, k->name);
}

static void run_changes(struct torture *t)
{
	struct outcome o;
	size_t i;

	for (i = 0; i < t->count; i++) {
		struct torture_case *k = &t->cases[i];

		if (!k->chosen || !k->change || (k->denied && !t->can_deny))
			continue;
		show(t, k);
		(k->denied ? judge_denied : judge_change)(&t->judge, k->change, &o);
		outcome_add(&k->o, &o);
	}
}

static void run_races(struct torture *t, double time, uint64_t round)
{
	struct outcome o;
	size_t i;

	for (i = 0; i < t->count && !t->hangs; i++) {
		struct torture_case *k = &t->cases[i];
		double share;

		if (!k->chosen || !k->race)
			continue;
		share = time * k->race->weight / t->weights;
		if (share < LEAST_RACE_SECONDS)
			share = LEAST_RACE_SECONDS;
		show(t, k);
		t->hangs = !race_run(k->race, &t->judge, (unsigned)threads, seed + round * t->count + i, share, &o);
		outcome_add(&k->o, &o);
	}
}

/* The changes take as long as they take; the races share what is left of the round. */
static void run(struct torture *t)
{
	double rounds = seconds > ROUND_SECONDS ? (double)(uint64_t)(seconds / ROUND_SECONDS) : 1;
	uint64_t round = 0;

	do {
		double end = seconds * (double)(round + 1) / rounds, left;

		run_changes(t);
		left = end - since(t->begin);
		if (t->weights)
			run_races(t, left > 0 ? left : 0, round);
		round++;
	} while (!t->hangs && since(t->begin) < seconds && (!t->weights || (double)round < rounds));
	tool_progress_end();
}

/* ------------------------------------------------------------------ the report */

void print_wrapped(int indent, const char *text)
{
	int column = 0;

	while (*text) {
		int word = (int)strcspn(text, " ");

		if (column && column + 1 + word > COLUMNS) {
			putchar('\n');
			column = 0;
		}
		column += column ? printf(" %.*s", word, text) : printf("%*s%.*s", indent, "", word, text);
		text += word;
		text += strspn(text, " ");
	}
	putchar('\n');
}

unsigned note_number(struct notes *n, const char *text)
{
	unsigned i;

	if (!text[0])
		return 0;
	for (i = 0; i < n->count; i++)
		if (!strcmp(n->text[i], text))
			return i + 1;
	if (n->count == NOTES_MAX)
		return 0;
	n->text[n->count++] = text;
	return n->count;
}

const char *noted_verdict(struct notes *n, const struct outcome *o, char text[static 32])
{
	unsigned number = note_number(n, o->why);

	snprintf(text, 32, number ? "%s [%u]" : "%s", verdict_name(o->verdict), number);
	return text;
}

void print_notes(const struct notes *n)
{
	unsigned i;

	for (i = 0; i < n->count; i++) {
		char text[320];

		snprintf(text, sizeof(text), "[%u] %s", i + 1, n->text[i]);
		if (!i)
			putchar('\n');
		print_wrapped(2, text);
	}
}

static bool is_shown(const struct torture *t, const struct torture_case *k)
{
	return k->chosen && (t->can_deny || !(k->denied || (k->race && k->race->denies)));
}

static void print_case(const struct torture_case *k, struct notes *notes)
{
	const struct counts *n = &k->o.n;
	char verdict[32];

	printf("%-27s %3u  %-18s %9llu %9llu %8llu %8llu %9llu\n", k->name, k->hazard,
	       noted_verdict(notes, &k->o, verdict), (unsigned long long)n->lookups, (unsigned long long)n->hits,
	       (unsigned long long)n->uncached, (unsigned long long)n->stale_hits,
	       (unsigned long long)n->wrong_bytes);
}

static void print_summary(const struct torture *t, const struct counts *n)
{
	printf("\nuncached: registered for one use, because the mapping kept changing or cannot be watched;\n"
	       "stale: hits with what was there before; wrong: bytes that the NIC and the processor see differently\n");
	printf("\n%llu lookups, %llu hits, %llu stale hits, %llu wrong bytes",
	       (unsigned long long)n->lookups, (unsigned long long)n->hits, (unsigned long long)n->stale_hits,
	       (unsigned long long)n->wrong_bytes);
	if (n->blind_stale_hits)
		printf("\nin blind spots besides: %llu stale hits, %llu wrong bytes", (unsigned long long)n->blind_stale_hits,
		       (unsigned long long)n->blind_wrong_bytes);
	if (t->can_deny)
		printf("\nof changes of secured memory: %llu refused, %llu not refused that had to be",
		       (unsigned long long)n->refused, (unsigned long long)n->broken);
	printf("\n%.1f s, %llu threads, NIC %s, proxy %s, mode %s, seed %llu\n", since(t->begin),
	       (unsigned long long)threads, nic, t->judge.proxy, mode, (unsigned long long)seed);
	if (!t->can_deny) {
		char text[200];

		snprintf(text, sizeof(text), "Refusing was not tried: %s", t->why_not);
		print_wrapped(0, text);
	}
	if (unsafe)
		printf("--unsafe: every change was left unnoticed; wrong bytes are what this run has to find\n");
	else if (!strcmp(mode, "fast"))
		printf("mode fast: a hit may be stale for as long as the word of a change takes to arrive\n");
}

static void print_table(const struct torture *t, const struct counts *n)
{
	struct notes notes = { 0 };
	size_t i;

	printf("%-27s %3s  %-18s %9s %9s %8s %8s %9s\n", "case", "haz", "verdict", "lookups", "hits", "uncached",
	       "stale", "wrong");
	for (i = 0; i < t->count; i++)
		if (is_shown(t, &t->cases[i]))
			print_case(&t->cases[i], &notes);
	print_notes(&notes);
	print_summary(t, n);
}

static void json_counts(const struct counts *n)
{
	json_u64("lookups", n->lookups);
	json_u64("hits", n->hits);
	json_u64("stale_hits", n->stale_hits);
	json_u64("wrong_bytes", n->wrong_bytes);
	json_u64("blind_stale_hits", n->blind_stale_hits);
	json_u64("blind_wrong_bytes", n->blind_wrong_bytes);
	json_u64("uncached", n->uncached);
	json_u64("failures", n->failures);
	json_u64("limited", n->limited);
	json_u64("refused", n->refused);
	json_u64("not_refused", n->broken);
}

static void json_case(const struct torture_case *k)
{
	json_open(NULL, '{');
	json_string("name", k->name);
	json_u64("hazard", k->hazard);
	json_string("verdict", verdict_name(k->o.verdict));
	json_counts(&k->o.n);
	json_string("why", k->o.why);
	json_close();
}

static void print_json(const struct torture *t, const struct counts *n)
{
	size_t i;

	json_open(NULL, '{');
	json_counts(n);
	json_double("seconds", since(t->begin));
	json_u64("threads", threads);
	json_string("nic", nic);
	json_string("proxy", t->judge.proxy);
	json_string("mode", mode);
	json_u64("seed", seed);
	json_bool("unsafe", unsafe);
	json_open("cases", '[');
	for (i = 0; i < t->count; i++)
		if (is_shown(t, &t->cases[i]))
			json_case(&t->cases[i]);
	json_close();
	json_close();
}

static int report(const struct torture *t)
{
	struct outcome sum = { 0 };
	size_t i;

	for (i = 0; i < t->count; i++)
		outcome_add(&sum, &t->cases[i].o);
	if (tool_json)
		print_json(t, &sum.n);
	else
		print_table(t, &sum.n);
	return sum.verdict >= VERDICT_FAILED ? TOOL_FOUND : TOOL_OK;
}

/* ------------------------------------------------------------------ the command */

static int check_options(void)
{
	if (threads < 1 || threads > MAX_THREADS)
		return tool_fail(TOOL_USAGE, "--threads is 1 to %d", MAX_THREADS);
	if (unsafe && strcmp(proxy, "auto"))
		return tool_fail(TOOL_USAGE, "--unsafe is a proxy of its own: leave --proxy out");
	if (!seed)
		seed = tool_now_ns() % 1000000 + 1;
	return TOOL_OK;
}

static int begin(struct torture *t)
{
	struct hf_probe best = { 0 };
	int err = judge_open(&t->judge, nic, proxy, mode, unsafe);

	if (err == -EINVAL || err == -ENOENT)
		return tool_fail(TOOL_USAGE, "%s", hf_error());
	if (err)
		return tool_fail(TOOL_CANNOT, "%s", hf_error());
	t->can_deny = judge_can_deny(&t->judge, t->why_not, sizeof(t->why_not));
	t->begin = tool_now_ns();
	if (strcmp(t->judge.proxy, "none"))
		return TOOL_OK;
	for (unsigned i = 0; strcmp(best.name, "uffd") && !hf_proxy_probe(i, &best); i++)
		; /* the one that most machines have */
	judge_close(&t->judge);
	return tool_fail(TOOL_CANNOT, "nothing watches the memory here, so nothing is cached: %s; see `holdfast doctor`, or "
			 "use --proxy manual", best.available ? best.reason : "proxy=none was asked for");
}

static int torture_all(struct torture *t)
{
	int code = begin(t);

	if (code)
		return code;
	run(t);
	code = report(t);
	if (t->hangs) { /* closing would wait for the threads */
		fflush(stdout);
		_exit(TOOL_FOUND);
	}
	judge_close(&t->judge);
	return code;
}

static int run_torture(void)
{
	struct torture t = { 0 };
	int code = check_options();

	if (code)
		return code;
	if (!all_cases(&t))
		return tool_fail(TOOL_CANNOT, "out of memory");
	code = choose(&t);
	if (!code)
		code = list ? print_list(&t) : torture_all(&t);
	free(t.cases);
	return code;
}

static const struct tool_option options[] = {
	{ "seconds", "N", "how long, all in all", TOOL_SECONDS, &seconds },
	{ "threads", "N", "threads in every race", TOOL_U64, &threads },
	{ "nic", "NAME", "what pins it: uring, verbs:DEVICE", TOOL_STRING, &nic },
	{ "proxy", "NAME", "what watches the memory: auto, kmod, supervise, uffd, manual", TOOL_STRING, &proxy },
	{ "mode", "exact|fast", "fast leaves out the check of every hit", TOOL_STRING, &mode },
	{ "case", "LIST", "names or patterns with commas between, such as 'munmap-*,race-recycle'; default: all",
	  TOOL_STRING, &wanted },
	{ "list", NULL, "name the cases and stop", TOOL_FLAG, &list },
	{ "unsafe", NULL, "notice no change at all: the control that has to find wrong bytes", TOOL_FLAG, &unsafe },
	{ "seed", "N", "repeat a run's random choices; default: another one each time", TOOL_U64, &seed },
	{ 0 },
};

const struct tool_command cmd_torture = {
	.name = "torture",
	.summary = "change mappings in every known way and look at the bytes through the pinned pages",
	.detail = "Every case caches a registration, changes the mapping, writes fresh bytes, looks the range up again and\n"
		  "compares what the NIC reads and writes with what the processor sees.\n\n"
		  "Verdicts: ok (registered anew), ok-kept (the same pages, a hit with the right bytes), not cached (the\n"
		  "proxy can't watch such memory), refused (the NIC can't register it), blind spot (a stale hit where the\n"
		  "proxy is known to be blind), can't run, and STALE or FAILED, for which the exit code is 1. Where the\n"
		  "proxy can refuse changes (kmod, supervise), deny-... makes each change to secured memory: ok means\n"
		  "refused, and no byte changed.",
	.options = options,
	.run = run_torture,
};
