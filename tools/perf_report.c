/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What `perf` prints: a table for people, JSON for programs.
 */
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static double ratio(const struct perf_row *row, unsigned to)
{
	return row->MBps[to] > 0 ? row->MBps[PERF_CACHED] / row->MBps[to] : NAN;
}

static const char *pattern_name(const struct perf_report *r)
{
	return r->config->recycle ? "recycle" : "reuse";
}

const char *perf_base_name(const struct perf_config *c)
{
	return c->op ? "plain" : "copy";
}

uint64_t perf_all_wrong_bytes(const struct perf_report *r)
{
	uint64_t sum = 0;

	for (int i = 0; i < r->rows; i++)
		sum += r->row[i].wrong_bytes;
	return sum;
}

/* ------------------------------------------------------------------ progress */

void perf_progress(uint64_t size, double done, uint64_t *shown)
{
	enum { BAR = 30 };
	static const char bar[BAR + 1] = "##############################";
	uint64_t now = tool_now_ns();
	char text[16];

	if (now - *shown < 100000000u)
		return;
	*shown = now;
	done = done > 1 ? 1 : done;
	tool_progress("%8s  [%-*.*s] %3.0f %%", tool_size(size, text), BAR, (int)(done * BAR), bar,
		      done * 100);
}

/* ------------------------------------------------------------------ the table */

const char *perf_duration(uint64_t ns, char text[static 16])
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double value = (double)ns;
	size_t unit = 0;

	while (value >= 999.5 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1000;
		unit++;
	}
	snprintf(text, 16, "%.*f %s", unit && value < 99.95 ? 1 : 0, value, units[unit]);
	return text;
}

static const char *speed(double MBps, char text[static 16])
{
	snprintf(text, 16, "%.*f", MBps < 9.995 ? 2 : MBps < 99.95 ? 1 : 0, MBps);
	return text;
}

static void print_settings(const struct perf_report *r)
{
	const struct perf_config *c = r->config;

	if (c->op)
		printf("%s over %s, %" PRIu64 " at once; ", c->op_name, r->peer, c->depth);
	printf("nic %s, proxy %s (mode %s), pattern %s, %g s, seed %" PRIu64 "\n\n", c->nic, r->proxy,
	       c->mode, pattern_name(r), c->seconds, c->seed);
}

void perf_print_head(const struct perf_report *r)
{
	const char *base = perf_base_name(r->config);

	print_settings(r);
	printf("%29s  %-26s %s\n", "MB/s", "cached against",
	       r->config->op ? "registering by hf_mr_reg + hf_mr_dereg" :
			       "registering by hf_get + hf_put");
	printf("%64s%16s%12s\n", "each time", "cached", "wrong");
	printf("%8s %6s %8s %6s %8s %6s %6s ", "size", base, "register", "cached", "register", base,
	       "hits");
	printf("%7s %7s %7s %7s %7s\n", "p50", "p99", "p50", "p99", "bytes");
	fflush(stdout);
}

void perf_print_row(const struct perf_row *row)
{
	char size[16], t[4][16], v[PERF_WAYS][16];

	if (*row->error) {
		enum { REASON_COLUMN = 19 };

		printf("%8s  not run: ", tool_size(row->size, size));
		tool_wrap(stdout, REASON_COLUMN, row->error);
		fflush(stdout);
		return;
	}
	printf("%8s %6s %8s %6s %7.2fx %5.2fx %5.1f%% %7s %7s %7s %7s %7" PRIu64 "\n",
	       tool_size(row->size, size), speed(row->MBps[PERF_COPY], v[0]),
	       speed(row->MBps[PERF_REGISTER], v[1]), speed(row->MBps[PERF_CACHED], v[2]),
	       ratio(row, PERF_REGISTER), ratio(row, PERF_COPY), row->hit_rate * 100,
	       perf_duration(row->p50_ns[PERF_REGISTER], t[0]), perf_duration(row->p99_ns[PERF_REGISTER], t[1]),
	       perf_duration(row->p50_ns[PERF_CACHED], t[2]), perf_duration(row->p99_ns[PERF_CACHED], t[3]),
	       row->wrong_bytes);
	fflush(stdout);
}

void perf_print_foot(const struct perf_report *r)
{
	uint64_t transfers = 0, bytes = 0;
	unsigned fewest = 0;

	for (int i = 0; i < r->rows; i++) {
		const struct perf_row *row = &r->row[i];

		transfers += row->transfers;
		bytes += row->bytes;
		if (row->rounds && (!fewest || row->rounds < fewest))
			fewest = row->rounds;
	}
	if (!transfers)
		return;
	printf("\n%" PRIu64 " wrong bytes in %" PRIu64
	       " transfers of %.1f MB in all: every byte was compared.\n",
	       perf_all_wrong_bytes(r), transfers, (double)bytes / 1e6);
	printf("Medians of %u or more rounds of the three ways in turn; p50 and p99 %s.\n", fewest,
	       r->config->op ? "on this side" : "where it is sent");
}

/* ------------------------------------------------------------------ JSON */

/* "cached_MBps" and the like, for as long as the caller's statement. */
static const char *key_of(const char *way, const char *rest)
{
	static char key[64];

	snprintf(key, sizeof(key), "%s%s", way, rest);
	return key;
}

static void json_way(const char *name, const struct perf_row *row, unsigned way)
{
	json_u64(key_of(name, "_p50_ns"), row->p50_ns[way]);
	json_u64(key_of(name, "_p99_ns"), row->p99_ns[way]);
	json_u64(key_of(name, "_receiver_p50_ns"), row->recv_p50_ns[way]);
	json_u64(key_of(name, "_receiver_p99_ns"), row->recv_p99_ns[way]);
}

static void json_row(const struct perf_row *row, const char *base)
{
	json_open(NULL, '{');
	json_u64("size", row->size);
	if (*row->error) {
		json_string("error", row->error);
		json_close();
		return;
	}
	json_double(key_of(base, "_MBps"), row->MBps[PERF_COPY]);
	json_double("register_MBps", row->MBps[PERF_REGISTER]);
	json_double("cached_MBps", row->MBps[PERF_CACHED]);
	json_double("cached_vs_register", ratio(row, PERF_REGISTER));
	json_double(key_of("cached_vs_", base), ratio(row, PERF_COPY));
	json_double("hit_rate", row->hit_rate);
	if (!strcmp(base, "copy")) /* plain has no such step */
		json_way(base, row, PERF_COPY);
	json_way("register", row, PERF_REGISTER);
	json_way("cached", row, PERF_CACHED);
	json_u64("wrong_bytes", row->wrong_bytes);
	json_u64("transfers", row->transfers);
	json_u64("rounds", row->rounds);
	json_u64("buffers", row->buffers);
	json_close();
}

void perf_print_json(const struct perf_report *r)
{
	const struct perf_config *c = r->config;

	json_open(NULL, '{');
	if (c->op) {
		json_string("op", c->op_name);
		json_string("peer", r->peer);
		json_u64("depth", c->depth);
	}
	json_string("nic", c->nic);
	json_string("proxy", *r->proxy ? r->proxy : c->proxy);
	json_string("mode", c->mode);
	json_string("pattern", pattern_name(r));
	json_double("seconds", c->seconds);
	json_u64("seed", c->seed);
	json_u64("wrong_bytes", perf_all_wrong_bytes(r));
	if (*r->error)
		json_string("error", r->error);
	json_open("rows", '[');
	for (int i = 0; i < r->rows; i++)
		json_row(&r->row[i], perf_base_name(c));
	json_close();
	json_close();
}

/* ------------------------------------------------------------------ the end */

static bool any_ran(const struct perf_report *report)
{
	for (int i = 0; i < report->rows; i++)
		if (!*report->row[i].error)
			return true;
	return false;
}

int perf_conclude(const struct perf_report *report, int err, const char *plot_file)
{
	if (tool_json)
		perf_print_json(report);
	else if (report->rows)
		perf_print_foot(report);
	if (err)
		tool_fail(TOOL_CANNOT, "%s", report->error);
	if (perf_all_wrong_bytes(report))
		return TOOL_FOUND;
	if (err)
		return report->misused ? TOOL_USAGE : TOOL_CANNOT;
	if (!any_ran(report))
		return tool_fail(TOOL_CANNOT, "none of the sizes could be registered");
	return plot_file ? perf_plot(report, plot_file) : TOOL_OK;
}
