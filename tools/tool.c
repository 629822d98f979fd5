/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Options, help, messages and small helpers that the subcommands share.
 */
#include "tool.h"
#include "tool_parse.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

bool tool_json;

static const char *running; /* the subcommand's name, for messages */
static bool progress_shown;

/* ------------------------------------------------------------------ messages */

int tool_fail(int code, const char *format, ...)
{
	va_list args;

	tool_progress_end();
	fprintf(stderr, "holdfast%s%s: ", running ? " " : "", running ? running : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return code;
}

static int terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col < 2)
		return 80;
	return size.ws_col;
}

void tool_progress(const char *format, ...)
{
	char line[256];
	va_list args;

	if (!isatty(STDERR_FILENO))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	/* A line as wide as the terminal would wrap, and could not be rewritten. */
	fprintf(stderr, "\r%.*s\033[K", terminal_columns() - 1, line);
	fflush(stderr);
	progress_shown = true;
}

void tool_progress_end(void)
{
	if (!progress_shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress_shown = false;
}

/* ------------------------------------------------------------------ numbers */

uint64_t tool_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t tool_percentile(uint64_t *samples, size_t n, double p)
{
	size_t rank;

	if (!n)
		return 0;
	qsort(samples, n, sizeof(*samples), compare_u64);
	/* nearest rank: the smallest sample that p percent of all do not exceed */
	rank = (size_t)ceil(p / 100 * (double)n);
	if (rank < 1)
		rank = 1;
	return samples[rank > n ? n - 1 : rank - 1];
}

const char *tool_size(uint64_t bytes, char buf[static 16])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	int decimals = 0;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	/* decimals only where they say something */
	if (value < floor(value) || value > floor(value))
		decimals = value < 10 ? 2 : 1;
	snprintf(buf, 16, "%.*f %s", decimals, value, units[unit]);
	return buf;
}

/* A decimal count; *end is what follows it. */
static int parse_count(const char *text, uint64_t *out, const char **end)
{
	char *stop;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, &stop, 10);
	*end = stop;
	return -errno;
}

/* What K, KB, KiB and the like stand for; -1 for anything else. */
static int unit_shift(const char *unit, size_t len)
{
	static const char letters[] = "kmgt";
	const char *at;

	if (!len || (len == 1 && (*unit == 'B' || *unit == 'b')))
		return 0;
	at = memchr(letters, *unit | 0x20, sizeof(letters) - 1);
	if (!at ||
	    (len > 1 && strncasecmp(unit + 1, "ib", len - 1) && strncasecmp(unit + 1, "b", len - 1)))
		return -1;
	return len > 3 ? -1 : (int)(at - letters + 1) * 10;
}

/* One size in text[0..len). */
static int parse_size(const char *text, size_t len, uint64_t *out)
{
	const char *unit;
	int shift;

	if (parse_count(text, out, &unit) || unit > text + len)
		return -EINVAL;
	shift = unit_shift(unit, (size_t)(text + len - unit));
	if (shift < 0 || (*out << shift) >> shift != *out)
		return -EINVAL;
	*out <<= shift;
	return 0;
}

int tool_parse_sizes(const char *list, uint64_t *out, int max)
{
	int n = 0;

	for (;;) {
		size_t len = strcspn(list, ",");

		if (n == max)
			return tool_fail(-1, "at most %d sizes can be given", max);
		if (parse_size(list, len, &out[n]) || !out[n])
			return tool_fail(
				-1, "'%.*s' is not a size: write 4096, 64K, 1M, with commas between",
				(int)len, list);
		n++;
		if (!list[len])
			return n;
		list += len + 1;
	}
}

static int parse_seconds(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	if (end == text || (*end && strcmp(end, "s")) || !isfinite(*out) || *out <= 0)
		return -EINVAL;
	return 0;
}

/* ------------------------------------------------------------------ options */

static int store(const struct tool_option *option, const char *value)
{
	const char *end;

	switch (option->type) {
	case TOOL_FLAG:
		*(bool *)option->dest = true;
		return 0;
	case TOOL_STRING:
		*(const char **)option->dest = value;
		return 0;
	case TOOL_U64:
		return parse_count(value, option->dest, &end) || *end ? -EINVAL : 0;
	case TOOL_SIZE:
		return parse_size(value, strlen(value), option->dest);
	case TOOL_SECONDS:
		return parse_seconds(value, option->dest);
	}
	return -EINVAL;
}

static const char *wanted(enum tool_type type)
{
	switch (type) {
	case TOOL_U64:
		return "a whole number";
	case TOOL_SIZE:
		return "a size such as 4096, 64K or 1M";
	case TOOL_SECONDS:
		return "a number of seconds above 0";
	default:
		return "a value";
	}
}

/* Every command has these without listing them. */
static const struct tool_option common[] = {
	{"json", NULL, "print the report as JSON on standard output", TOOL_FLAG, &tool_json},
	{"help", NULL, "print this text", TOOL_FLAG, NULL},
	{0},
};

static const struct tool_option *find_option(const struct tool_option *table, const char *name,
					     size_t len)
{
	for (const struct tool_option *o = table; o && o->name; o++)
		if (!strncmp(o->name, name, len) && !o->name[len])
			return o;
	return NULL;
}

static int unknown_option(const struct tool_command *command, const char *name, size_t len)
{
	char word[32];
	const char *near = NULL;

	snprintf(word, sizeof(word), "%.*s", (int)len, name);
	for (const struct tool_option *o = command->options; o && o->name; o++)
		if (o->help)
			near = tool_nearer(word, o->name, near);
	for (const struct tool_option *o = common; o->name; o++)
		near = tool_nearer(word, o->name, near);
	if (near)
		return tool_fail(TOOL_USAGE, "there is no option --%s; did you mean --%s?", word, near);
	return tool_fail(TOOL_USAGE, "there is no option --%s; `holdfast %s --help` lists them", word,
			 command->name);
}

/* One option at argv[*i]; *i moves to its last word. */
static int parse_option(const struct tool_command *command, int argc, char **argv, int *i)
{
	const char *name = argv[*i] + 2;
	size_t len = strcspn(name, "=");
	const char *value = name[len] ? name + len + 1 : NULL;
	const struct tool_option *option = find_option(command->options, name, len);

	if (!option)
		option = find_option(common, name, len);
	if (!option)
		return unknown_option(command, name, len);
	if (option->type == TOOL_FLAG && value)
		return tool_fail(TOOL_USAGE, "--%s takes no value, but '%s' was given", option->name,
				 value);
	if (option->type != TOOL_FLAG && !value) {
		if (*i + 1 >= argc || !strncmp(argv[*i + 1], "--", 2))
			return tool_fail(TOOL_USAGE, "--%s needs %s", option->name,
					 wanted(option->type));
		value = argv[++*i];
	}
	if (store(option, value))
		return tool_fail(TOOL_USAGE, "--%s needs %s, but '%s' was given", option->name,
				 wanted(option->type), value);
	return TOOL_OK;
}

static bool asks_help(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

int tool_run(const struct tool_command *command, int argc, char **argv)
{
	running = command->name;
	/* Before anything is stored: the help shows the defaults. */
	if (asks_help(argc, argv)) {
		tool_help(command);
		return TOOL_OK;
	}
	for (int i = 0; i < argc; i++) {
		int code;

		if (strncmp(argv[i], "--", 2))
			return tool_fail(TOOL_USAGE,
					 "'%s' is not an option; `holdfast %s --help` lists them",
					 argv[i], command->name);
		code = parse_option(command, argc, argv, &i);
		if (code)
			return code;
	}
	return command->run();
}

/* ------------------------------------------------------------------ help */

enum { HELP_LEFT = 24 /* columns of the left part */, LINE_WIDTH = 98 };

void tool_wrap(FILE *to, int indent, const char *text)
{
	int column = indent;

	while (*text) {
		int word = (int)strcspn(text, " ");

		if (column > indent && column + 1 + word > LINE_WIDTH) {
			fprintf(to, "\n%*s", indent, "");
			column = indent;
		}
		column += fprintf(to, "%s%.*s", column > indent ? " " : "", word, text);
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', to);
}

void tool_help_entry(FILE *to, const char *left, const char *right)
{
	int used = fprintf(to, "  %-*s", HELP_LEFT - 2, left);

	/* too long for its part: the right one begins on the next line */
	if (used > HELP_LEFT || strlen(left) == HELP_LEFT - 2)
		fprintf(to, "\n%*s", HELP_LEFT, "");
	tool_wrap(to, HELP_LEFT, right);
}

/* The default as the user would write it; "" when there is none to show. */
static void default_text(const struct tool_option *option, char *text, size_t len)
{
	char size[16];
	const char *string;

	*text = '\0';
	if (!option->dest)
		return;
	switch (option->type) {
	case TOOL_FLAG:
		break;
	case TOOL_STRING:
		string = *(const char **)option->dest;
		if (string && *string)
			snprintf(text, len, " (default: %s)", string);
		break;
	case TOOL_U64:
		snprintf(text, len, " (default: %" PRIu64 ")", *(uint64_t *)option->dest);
		break;
	case TOOL_SIZE:
		snprintf(text, len, " (default: %s)", tool_size(*(uint64_t *)option->dest, size));
		break;
	case TOOL_SECONDS:
		snprintf(text, len, " (default: %g)", *(double *)option->dest);
		break;
	}
}

static void help_options(const struct tool_option *table)
{
	char left[64], value[96], right[512];

	for (const struct tool_option *o = table; o && o->name; o++) {
		if (!o->help) /* for the project's own tests */
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "",
			 o->arg ? o->arg : "");
		default_text(o, value, sizeof(value));
		snprintf(right, sizeof(right), "%s%s", o->help, value);
		tool_help_entry(stdout, left, right);
	}
}

void tool_help(const struct tool_command *command)
{
	printf("usage: holdfast %s [options]\n\n%s\n\n", command->name, command->summary);
	help_options(command->options);
	help_options(common);
	if (command->detail)
		printf("\n%s\n", command->detail);
}

/* ------------------------------------------------------------------ nearest name */

#define NEAR_MAX 24 /* names are shorter */

/* How many letters must be put in, taken out or changed to make b of a. */
static unsigned distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned row[NEAR_MAX + 1];

	if (la > NEAR_MAX || lb > NEAR_MAX)
		return NEAR_MAX;
	for (unsigned j = 0; j <= lb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= lb; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = row[j] + 1 < change ? row[j] + 1 : change;
			if (row[j - 1] + 1 < row[j])
				row[j] = row[j - 1] + 1;
		}
	}
	return row[lb];
}

const char *tool_nearer(const char *word, const char *candidate, const char *best)
{
	size_t len = strlen(word);
	/* a beginning counts as near: "seconds" for "sec" */
	bool begins = len >= 2 && !strncmp(word, candidate, len);
	unsigned limit = len < 5 ? 1 : 2;
	unsigned d = begins ? 1 : distance(word, candidate);

	if (d > limit)
		return best;
	return !best || d < distance(word, best) ? candidate : best;
}
