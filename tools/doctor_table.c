/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The table of changes as `doctor` measures it. Each pair of a NIC and a proxy has a process of its own: what `supervise`
 * leaves in a process, and what a row breaks, is gone with it. The outcomes come back through memory that is shared.
 */
#include "doctor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tool.h"

#define MAX_COLUMNS 40
#define COLUMN_SECONDS 300 /* then its process is ended */
#define LINE 100
#define NAME_WIDTH 21
#define MEMORY_WIDTH 17

struct column {
	char nic[80];
	char proxy[16];
	bool unsafe;
	struct outcome *rows; /* changes_count of them, shared with the process that fills them in */
};

struct table {
	struct column columns[MAX_COLUMNS];
	unsigned count;
};

static size_t rows_size(void)
{
	return changes_count * sizeof(struct outcome);
}

struct table *table_new(void)
{
	return calloc(1, sizeof(struct table));
}

void table_free(struct table *t)
{
	unsigned i;

	for (i = 0; i < t->count; i++)
		munmap(t->columns[i].rows, rows_size());
	free(t);
}

void table_add(struct table *t, const char *nic, const char *proxy)
{
	struct column *col = &t->columns[t->count];
	void *rows = mmap(NULL, rows_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (t->count == MAX_COLUMNS || rows == MAP_FAILED)
		return;
	col->rows = rows;
	col->unsafe = !proxy;
	snprintf(col->nic, sizeof(col->nic), "%s", nic);
	snprintf(col->proxy, sizeof(col->proxy), "%s", proxy ? proxy : "unsafe");
	t->count++;
}

/* ------------------------------------------------------------------ measuring */

/* Rows that nobody has come to. */
static void settle_rest(struct column *col, enum verdict v, const char *why)
{
	size_t i;

	for (i = 0; i < changes_count; i++) {
		struct outcome *o = &col->rows[i];

		if (o->verdict)
			continue;
		o->verdict = v;
		snprintf(o->why, sizeof(o->why), "%s", why);
	}
}

/* The same sentence about another address is the same note. */
static void leave_out_addresses(char *why)
{
	char *to = why;

	while (*why) {
		size_t digits = strncmp(why, "0x", 2) ? 0 : strspn(why + 2, "0123456789abcdef");

		if (digits) {
			why += 2 + digits;
			memcpy(to, "...", 3);
			to += 3;
		} else {
			*to++ = *why++;
		}
	}
	*to = 0;
}

static void fill_column(struct column *col)
{
	struct outcome o;
	struct judge j;
	size_t i;

	if (judge_open(&j, col->nic, col->proxy, "exact", col->unsafe)) {
		settle_rest(col, VERDICT_CANNOT, hf_error());
		return;
	}
	for (i = 0; i < changes_count; i++) {
		tool_progress("%s, %s: %s", col->nic, col->proxy, changes[i].name);
		judge_change(&j, &changes[i], &o);
		leave_out_addresses(o.why);
		col->rows[i] = o;
	}
	judge_close(&j);
}

static void measure(struct column *col)
{
	char why[96] = "";
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		alarm(COLUMN_SECONDS);
		fill_column(col);
		_exit(0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0)
		snprintf(why, sizeof(why), "no process to measure in: %s", strerror(errno));
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(why, sizeof(why), "hung, or the processes that measure are very slow");
	else if (WIFSIGNALED(status))
		snprintf(why, sizeof(why), "the process that measured was ended by signal %d", WTERMSIG(status));
	settle_rest(col, VERDICT_FAILED, why);
}

void table_measure(struct table *t)
{
	unsigned i;

	for (i = 0; i < t->count; i++)
		measure(&t->columns[i]);
	tool_progress_end();
}

bool table_is_wrong(const struct table *t)
{
	unsigned i;
	size_t row;

	for (i = 0; i < t->count; i++)
		for (row = 0; row < changes_count; row++)
			if (t->columns[i].rows[row].verdict >= VERDICT_FAILED)
				return true;
	return false;
}

/* ------------------------------------------------------------------ showing */

/* As torture has it, but for what it calls ok. */
static const char *cell_name(enum verdict v)
{
	return v == VERDICT_OK ? "exact" : v == VERDICT_KEPT ? "kept" : verdict_name(v);
}

static void print_row(const struct table *t, unsigned from, unsigned to, size_t row, bool memory, int width,
		      struct notes *notes)
{
	unsigned i;

	printf("%-*s %2u ", NAME_WIDTH, changes[row].name, changes[row].hazard);
	if (memory)
		printf(" %-*s", MEMORY_WIDTH, ground_name(changes[row].kind));
	for (i = from; i < to; i++) {
		const struct outcome *o = &t->columns[i].rows[row];
		unsigned number = note_number(notes, o->why);
		char cell[40];

		snprintf(cell, sizeof(cell), number ? "%s [%u]" : "%s", cell_name(o->verdict), number);
		printf(" %-*s", i + 1 < to ? width : 0, cell);
	}
	putchar('\n');
}

/* Which memory is left out where there are many columns. */
static void print_nic(const struct table *t, unsigned from, unsigned to, struct notes *notes)
{
	bool memory = to - from <= 3;
	int room = LINE - NAME_WIDTH - 4 - (memory ? MEMORY_WIDTH + 1 : 0);
	int width = room / (int)(to - from) - 1;
	unsigned i;
	size_t row;

	if (width > 18)
		width = 18;
	printf("%schanges, measured just now with %s\n", from ? "\n" : "", t->columns[from].nic);
	printf("%-*s hz ", NAME_WIDTH, "change");
	if (memory)
		printf(" %-*s", MEMORY_WIDTH, "memory");
	for (i = from; i < to; i++)
		printf(" %-*s", i + 1 < to ? width : 0, t->columns[i].proxy);
	putchar('\n');
	for (row = 0; row < changes_count; row++)
		print_row(t, from, to, row, memory, width, notes);
}

void table_print(const struct table *t)
{
	struct notes notes = { 0 };
	unsigned from, to;

	for (from = 0; from < t->count; from = to) {
		for (to = from; to < t->count && !strcmp(t->columns[to].nic, t->columns[from].nic); to++)
			;
		print_nic(t, from, to, &notes);
	}
	print_notes(&notes);
}

static void json_cell(const struct column *col, size_t row)
{
	const struct outcome *o = &col->rows[row];

	json_open(NULL, '{');
	json_string("nic", col->nic);
	json_string("proxy", col->proxy);
	json_string("verdict", cell_name(o->verdict));
	json_u64("hits", o->n.hits);
	json_u64("stale_hits", o->n.stale_hits + o->n.blind_stale_hits);
	json_u64("wrong_bytes", o->n.wrong_bytes + o->n.blind_wrong_bytes);
	json_string("why", o->why);
	json_close();
}

static void json_change(const struct table *t, size_t row)
{
	unsigned i;

	json_open(NULL, '{');
	json_string("name", changes[row].name);
	json_u64("hazard", changes[row].hazard);
	json_string("memory", ground_name(changes[row].kind));
	json_string("what", changes[row].what);
	json_open("verdicts", '[');
	for (i = 0; i < t->count; i++)
		json_cell(&t->columns[i], row);
	json_close();
	json_close();
}

void table_json(const struct table *t)
{
	size_t row;

	json_open("changes", '[');
	for (row = 0; t->count && row < changes_count; row++)
		json_change(t, row);
	json_close();
}
