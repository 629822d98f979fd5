/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the frame (holdfast.c) needs of tool.c and the subcommands do not.
 */
#ifndef HOLDFAST_TOOL_PARSE_H
#define HOLDFAST_TOOL_PARSE_H

#include "tool.h"

/* Parse the words after the subcommand's name into its table, then run it. Returns the exit code. */
int tool_run(const struct tool_command *command, int argc, char **argv);

/* `holdfast NAME --help`, from the tables. */
void tool_help(const struct tool_command *command);

/* Two columns, the right one wrapped. */
void tool_help_entry(FILE *to, const char *left, const char *right);

/* Of `candidate` and `best` (may be NULL) the one that `word` was more likely meant to be, if any. */
const char *tool_nearer(const char *word, const char *candidate, const char *best);

#endif
