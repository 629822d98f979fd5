/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * MB/s against size, drawn by gnuplot, which is started without a shell.
 */
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const struct {
	const char *ending, *terminal;
	bool plain; /* letters instead of lines */
} formats[] = {
	{".png", "pngcairo size 1000,640 background rgb 'white' font 'sans,12'", false},
	{".svg", "svg size 1000,640 background rgb 'white' font 'sans,14'", false},
	{".txt", "dumb size 100,30", true},
};

enum { FORMATS = sizeof(formats) / sizeof(formats[0]) };

static int format_of(const char *file)
{
	size_t len = strlen(file);

	for (int i = 0; i < FORMATS; i++) {
		size_t ending = strlen(formats[i].ending);

		if (len > ending && !strcmp(file + len - ending, formats[i].ending))
			return i;
	}
	return -1;
}

/* gnuplot with `input` as its standard input and its output as given; 0 or an errno. */
static int spawn_gnuplot(char *const argv[], int input, int output, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	int err = posix_spawn_file_actions_init(&actions);

	if (err)
		return err;
	posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	err = posix_spawnp(pid, "gnuplot", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return err;
}

static int cannot_start(int err)
{
	if (err == ENOENT)
		return tool_fail(TOOL_CANNOT,
				 "--plot needs gnuplot, which is not installed (Debian: gnuplot-nox)");
	return tool_fail(TOOL_CANNOT, "gnuplot can't be started: %s", strerror(err));
}

int perf_plot_check(const char *file)
{
	static char *const argv[] = {"gnuplot", "--version", NULL};
	int null, err, status;
	pid_t pid;

	if (format_of(file) < 0)
		return tool_fail(TOOL_USAGE,
				 "--plot needs a name that ends in .png, .svg or .txt, not '%s'", file);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	err = null < 0 ? errno : spawn_gnuplot(argv, null, null, &pid);
	if (null >= 0)
		close(null);
	if (err)
		return cannot_start(err);
	waitpid(pid, &status, 0);
	return TOOL_OK;
}

/* A name in gnuplot's single quotes: a quote is doubled, nothing else is special. */
static void put_quoted(FILE *to, const char *text)
{
	putc('\'', to);
	for (; *text; text++) {
		if (*text == '\'')
			putc('\'', to);
		putc(*text, to);
	}
	putc('\'', to);
}

static void put_axes(FILE *to, const struct perf_report *r)
{
	uint64_t smallest = UINT64_MAX, largest = 0, labelled = 0;
	char size[16];

	fprintf(to, "set logscale x 2\nset logscale y 10\nset grid\nset key top left Left reverse\n"
		    "set xlabel 'buffer size'\nset ylabel 'MB/s'\nset xtics (");
	for (int i = 0; i < r->rows; i++) {
		uint64_t bytes = r->row[i].size;

		if (*r->row[i].error)
			continue;
		/* a label so close to the one before would be printed over it */
		if (bytes >= labelled && bytes < labelled * 3 / 2)
			size[0] = '\0';
		else
			tool_size(labelled = bytes, size);
		fprintf(to, "%s'%s' %" PRIu64, largest ? ", " : "", size, bytes);
		smallest = bytes < smallest ? bytes : smallest;
		largest = bytes > largest ? bytes : largest;
	}
	/* room beside the outermost points; a single one must not give an empty range */
	fprintf(to, ")\nset xrange [%g:%g]\n", (double)smallest / 1.5, (double)largest * 1.5);
}

static void put_data(FILE *to, const struct perf_report *r)
{
	fprintf(to, "$rows << END\n");
	for (int i = 0; i < r->rows; i++) {
		const struct perf_row *row = &r->row[i];

		if (!*row->error)
			fprintf(to, "%" PRIu64 " %f %f %f\n", row->size, row->MBps[PERF_COPY],
				row->MBps[PERF_REGISTER], row->MBps[PERF_CACHED]);
	}
	fprintf(to, "END\n");
}

static void put_script(FILE *to, const struct perf_report *r, const char *file, int format)
{
	static const char *const colours[PERF_WAYS] = {"#777777", "#d9822b", "#1f6fb4"};
	const char *names[PERF_WAYS] = {"copy (bounce buffer)", "register (each time)", "cached"};
	static const char letters[PERF_WAYS] = {'o', 'r', '#'};

	fprintf(to, "set terminal %s\nset output ", formats[format].terminal);
	put_quoted(to, file);
	if (r->config->op)
		names[PERF_PLAIN] = "plain send and recv";
	fprintf(to, "\nset title 'holdfast perf%s%s: nic %s, proxy %s (%s), pattern %s' noenhanced\n",
		r->config->op ? " --op " : "", r->config->op ? r->config->op_name : "", r->config->nic, r->proxy, r->config->mode, r->config->recycle ? "recycle" : "reuse");
	put_axes(to, r);
	put_data(to, r);
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		fprintf(to, "%s $rows using 1:%u with linespoints ", way ? "," : "plot", way + 2);
		if (formats[format].plain)
			fprintf(to, "pt '%c'", letters[way]);
		else
			fprintf(to, "lw 2 pt 7 ps 1.2 lc rgb '%s'", colours[way]);
		fprintf(to, " title '%s'", names[way]);
	}
	fprintf(to, "\n");
}

int perf_plot(const struct perf_report *r, const char *file)
{
	static char *const argv[] = {"gnuplot", NULL};
	int ends[2], err, status;
	FILE *to;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return cannot_start(errno);
	err = spawn_gnuplot(argv, ends[0], STDERR_FILENO, &pid);
	close(ends[0]);
	to = err ? NULL : fdopen(ends[1], "w");
	if (!to)
		close(ends[1]);
	if (err)
		return cannot_start(err);
	if (to) {
		put_script(to, r, file, format_of(file));
		fclose(to);
	}
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return tool_fail(TOOL_CANNOT, "gnuplot could not draw '%s'", file);
	if (!tool_json)
		printf("plot: %s\n", file);
	return TOOL_OK;
}
