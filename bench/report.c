/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "conductor.h"

#define FEW_MISSES 0.01

/* ------------------------------------------------------------------ the table, 100 columns */

/* At most eight letters; "-" for what was not measured. */
static const char *number(double v, enum unit unit, char out[16])
{
	if (isnan(v))
		return strcpy(out, "-");
	if (unit == TIMES)
		snprintf(out, 16, "%.2fx", v);
	else if (unit == BYTES || unit == COUNT)
		snprintf(out, 16, "%.0f", v);
	else if (v < 1e4)
		snprintf(out, 16, v < 100 ? "%.2f" : "%.0f", v);
	else
		snprintf(out, 16, v < 1e6 ? "%.1f us" : "%.2f ms", v / (v < 1e6 ? 1e3 : 1e6));
	return out;
}

static const char *ratio(double a, double b, char out[16])
{
	if (isnan(a) || isnan(b) || b <= 0)
		return strcpy(out, "-");
	snprintf(out, 16, a / b < 100 ? "%.2f" : "%.0f", a / b);
	return out;
}

static void print_row(FILE *f, const struct row *r, const struct calibration *c)
{
	bool more = r->target == SCALES_APART || r->target == SCALES_SAME;
	char text[5][16], limit[16], aim[48] = "";

	if (r->met >= 0)
		snprintf(aim, sizeof(aim), " %s%s %s", more ? ">=" : "<=",
			 number(r->limit, r->unit, limit), r->met ? "met" : "MISSED");
	fprintf(f, "%-41.41s%7s%8s%9s%9s%9s%s%s\n", r->name,
		ratio(r->median[OURS], r->median[UCX], text[0]),
		r->unit == NS ? ratio(r->median[OURS], c->locked_add_ns, text[1]) : "-",
		number(r->median[OURS], r->unit, text[2]), number(r->median[UCX], r->unit, text[3]),
		number(r->median[CONTROL], r->unit, text[4]), aim,
		r->hits && r->misses[OURS] > FEW_MISSES ? " (1)" : "");
}

static void print_instructions(FILE *f)
{
	bool any = false;

	for (size_t i = 0; i < row_count; i++) {
		const struct row *r = &rows[i];
		char text[3][16];

		if (isnan(r->instructions[OURS]))
			continue;
		if (!any)
			fprintf(f, "\n%-41s%7s%8s%9s%9s\n", "instructions per operation (callgrind)",
				"our/UCX", "", "ours", "UCX");
		any = true;
		fprintf(f, "%-41.41s%7s%8s%9s%9s%s\n", r->name,
			ratio(r->instructions[OURS], r->instructions[UCX], text[0]), "",
			number(r->instructions[OURS], COUNT, text[1]),
			number(r->instructions[UCX], COUNT, text[2]),
			r->target != ONE_LOCKED_ADD ? "" :
			r->instructions[OURS] <= 40 ? "         <=40 met" : "         <=40 MISSED");
	}
	if (!any)
		fputs("\ninstructions: not counted (instructions.sh needs valgrind)\n", f);
}

static void print_misses(FILE *f)
{
	for (size_t i = 0; i < row_count; i++)
		if (rows[i].hits && rows[i].misses[OURS] > FEW_MISSES)
			fprintf(f, "(1) %s: %.0f of 100 gets were no hits, but registered\n", rows[i].name,
				100 * rows[i].misses[OURS]);
}

void report_table(FILE *f, const struct run *run)
{
	const struct calibration *c = &run->calibration;
	unsigned met = 0, judged = 0;

	fprintf(f, "locked add %.2f ns, getppid %.0f ns, random read of 64 MiB %.1f ns; %u rounds, %.0f s\n\n",
		c->locked_add_ns, c->getppid_ns, c->random_read_ns, run->rounds, run->seconds);
	fprintf(f, "%-41s%7s%8s%9s%9s%9s target\n", "ns, median of the rounds", "our/UCX", "our/add", "ours",
		"UCX", "control");
	for (size_t i = 0; i < row_count; i++) {
		print_row(f, &rows[i], c);
		met += rows[i].met == 1;
		judged += rows[i].met >= 0;
	}
	print_misses(f);
	print_instructions(f);
	fprintf(f, "\n%u of %u targets met\n", met, judged);
}

/* ------------------------------------------------------------------ JSON */

static void field(FILE *f, const char *name, double v)
{
	fprintf(f, isnan(v) ? ", \"%s\": null" : ", \"%s\": %.6g", name, v);
}

static void json_row(FILE *f, const struct row *r)
{
	static const char *const units[] = { "ns", "x", "bytes", "count" };
	bool ns = r->unit == NS;
	const char *aim = target_text(r->target);

	fprintf(f, "    { \"case\": \"%s\", \"unit\": \"%s\"", r->name, units[r->unit]);
	field(f, "ours_ns", ns ? r->median[OURS] : NAN);
	field(f, "ucx_ns", ns ? r->median[UCX] : NAN);
	field(f, "control_ns", ns ? r->median[CONTROL] : NAN);
	field(f, "ours", r->median[OURS]);
	field(f, "ucx", r->median[UCX]);
	field(f, "ours_instructions", r->instructions[OURS]);
	field(f, "ucx_instructions", r->instructions[UCX]);
	field(f, "ours_misses_per_get", r->hits ? r->misses[OURS] : NAN);
	if (*aim)
		fprintf(f, ", \"target\": \"%s\"", aim);
	else
		fputs(", \"target\": null", f);
	field(f, "limit", r->limit);
	fprintf(f, ", \"met\": %s }", r->met < 0 ? "null" : r->met ? "true" : "false");
}

void report_json(FILE *f, const struct settings *s, const struct run *run)
{
	const struct calibration *c = &run->calibration;
	struct utsname u;

	uname(&u);
	fprintf(f, "{\n  \"machine\": { \"kernel\": \"%s\", \"architecture\": \"%s\", \"cpus\": %ld },\n"
		"  \"quick\": %s, \"seconds\": %.1f, \"rounds\": %u,\n", u.release, u.machine,
		sysconf(_SC_NPROCESSORS_ONLN), s->quick ? "true" : "false", run->seconds, run->rounds);
	fprintf(f, "  \"calibration\": { \"locked_add_ns\": %.3f, \"getppid_ns\": %.2f, "
		"\"random_read_ns\": %.2f },\n  \"rows\": [\n", c->locked_add_ns, c->getppid_ns,
		c->random_read_ns);
	for (size_t i = 0; i < row_count; i++) {
		json_row(f, &rows[i]);
		fputs(i + 1 < row_count ? ",\n" : "\n", f);
	}
	fputs("  ]\n}\n", f);
}

/* ------------------------------------------------------------------ the chart */

static const char script[] =
	"set terminal pngcairo size 1500,900 noenhanced\n"
	"set output 'results.png'\n"
	"set title 'holdfast beside UCX: nanoseconds, less is better'\n"
	"set style data histograms\n"
	"set style histogram clustered gap 1\n"
	"set style fill solid 0.8 border -1\n"
	"set logscale y\n"
	"set yrange [1:*]\n"
	"set grid ytics\n"
	"set ylabel 'ns'\n"
	"set xtics rotate by -55 scale 0 font ',8'\n"
	"set bmargin 16\n"
	"set rmargin 16\n"
	"set key top left\n"
	"set datafile missing '?'\n"
	"plot 'results.dat' using 2:xtic(1) title 'holdfast', '' using 3 title 'UCX'\n";

static FILE *create(const struct settings *s, const char *name)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", s->out, name);
	f = fopen(path, "w");
	if (!f)
		die(path, strerror(errno));
	return f;
}

static void plot_value(FILE *f, double v)
{
	fprintf(f, isnan(v) || v <= 0 ? " ?" : " %.3g", v);
}

void report_plot(const struct settings *s)
{
	char command[PATH_MAX + 128];
	FILE *f = create(s, "results.dat");

	for (size_t i = 0; i < row_count; i++) {
		if (rows[i].unit != NS)
			continue;
		fprintf(f, "\"%s\"", rows[i].name);
		plot_value(f, rows[i].median[OURS]);
		plot_value(f, rows[i].median[UCX]);
		fputc('\n', f);
	}
	fclose(f);
	f = create(s, "results.gp");
	fputs(script, f);
	fclose(f);
	snprintf(command, sizeof(command), "cd '%s' && gnuplot results.gp 2>gnuplot.log", s->out);
	if (system("command -v gnuplot >/dev/null") != 0)
		printf("no chart: gnuplot is not installed\n");
	else if (system(command) == 0)
		printf("drawn:   %s/results.png\n", s->out);
	else
		printf("no chart: see %s/gnuplot.log\n", s->out);
}
