/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the subcommands of `holdfast` share: one table of commands, one table of options per command from
 * which parsing and --help both come, JSON output, progress on a terminal, and time.
 */
#ifndef HOLDFAST_TOOL_H
#define HOLDFAST_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes of every subcommand. */
enum { TOOL_OK = 0, TOOL_FOUND = 1 /* wrong bytes, stale hits */, TOOL_USAGE = 2, TOOL_CANNOT = 3 /* this machine can't */ };

enum tool_type { TOOL_FLAG, TOOL_STRING, TOOL_U64 /* plain count */, TOOL_SIZE /* 4K, 1M, ... */, TOOL_SECONDS /* double */ };

struct tool_option {
	const char *name;     /* without the dashes */
	const char *arg;      /* how --help names the value; NULL for a flag */
	const char *help;
	enum tool_type type;
	void *dest;           /* bool, const char *, uint64_t, uint64_t, double; holds the default */
};

struct tool_command {
	const char *name;
	const char *summary;                /* one line */
	const char *detail;                 /* paragraphs for `holdfast NAME --help`, or NULL */
	const struct tool_option *options;  /* ends with .name == NULL */
	int (*run)(void);                   /* after parsing; returns an exit code */
};

/* The table, in tools/holdfast.c; each command is defined in its own file. */
extern const struct tool_command cmd_perf, cmd_walk, cmd_torture, cmd_doctor;

/* Set by --json, which every command has without listing it. */
extern bool tool_json;

/* To stderr, with the program's name; returns `code`. */
int tool_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "4K,64K,1M" -> sizes. Number found, or -1 after tool_fail. */
int tool_parse_sizes(const char *list, uint64_t *out, int max);
/* 4096 -> "4 KiB" in buf; returns buf. */
const char *tool_size(uint64_t bytes, char buf[static 16]);

uint64_t tool_now_ns(void); /* CLOCK_MONOTONIC */

/* The words of `text`, from column `indent` on (where the line stands already) to column 98, and a newline. */
void tool_wrap(FILE *to, int indent, const char *text);

/* One line on stderr that is rewritten in place; nothing when stderr is no terminal. tool_progress_end clears it. */
void tool_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tool_progress_end(void);

/* The p-th percentile (0..100) of n samples; sorts them. 0 when n == 0. */
uint64_t tool_percentile(uint64_t *samples, size_t n, double p);

/*
 * JSON to stdout: nesting and commas are kept by the writer. `key` is NULL inside an array.
 *   json_open(NULL, '{'); json_u64("lookups", 7); json_open("rows", '['); ... json_close(); json_close();
 */
void json_open(const char *key, char bracket);
void json_close(void);
void json_u64(const char *key, uint64_t v);
void json_i64(const char *key, int64_t v);
void json_double(const char *key, double v); /* non-finite: null */
void json_bool(const char *key, bool v);
void json_string(const char *key, const char *v); /* NULL: null; escapes */

#endif
