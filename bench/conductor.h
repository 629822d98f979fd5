/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef BENCH_CONDUCTOR_H
#define BENCH_CONDUCTOR_H

#include <stdbool.h>
#include <stdio.h>

#include "rows.h"
#include "sample.h"

struct settings {
	const char *dir;          /* where the workers are */
	const char *out;          /* where the results go */
	const char *instructions; /* what instructions.sh counted, or NULL */
	double seconds;
	unsigned budget_us;       /* one sample */
	bool quick;
};

struct run {
	struct calibration calibration;
	unsigned rounds;
	double seconds;
};

/* workers.c */
void workers_start(const struct settings *s);
unsigned workers_run(const struct settings *s, double until);
void workers_stop(void);
/* The median of a probe; NAN if there is none. *misses and *noise may be NULL. */
double workers_median(const struct probe *p, double *misses, double *noise);

/* report.c */
void report_table(FILE *out, const struct run *run);
void report_json(FILE *out, const struct settings *s, const struct run *run);
/* results.dat and results.gp in s->out, and results.png if gnuplot is there. */
void report_plot(const struct settings *s);

#endif
