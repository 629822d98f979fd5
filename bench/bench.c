/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The conductor: starts a worker for each measurement, asks them in turn, and reports. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "conductor.h"

#define FULL_SECONDS 75
#define QUICK_SECONDS 10

static const char usage[] =
	"usage: holdfast-bench [--quick | --seconds N] [--out DIR] [--instructions FILE]\n"
	"  --quick              about 10 seconds instead of 75\n"
	"  --out DIR            where results.json and results.png go (default: beside the program)\n"
	"  --instructions FILE  what instructions.sh has counted\n";

/* Takes the option at argv[0]; returns how many words it was, 0 if it is none. */
static int parse_one(struct settings *s, char **argv)
{
	if (!strcmp(argv[0], "--quick")) {
		s->quick = true;
		s->seconds = QUICK_SECONDS;
		return 1;
	}
	if (!argv[1])
		return 0;
	if (!strcmp(argv[0], "--out"))
		s->out = argv[1];
	else if (!strcmp(argv[0], "--instructions"))
		s->instructions = argv[1];
	else if (!strcmp(argv[0], "--seconds") && atof(argv[1]) > 0)
		s->seconds = atof(argv[1]);
	else
		return 0;
	return 2;
}

static void parse(struct settings *s, char **argv)
{
	while (*++argv) {
		int words = parse_one(s, argv);

		if (!words) {
			fputs(usage, stderr);
			exit(2);
		}
		argv += words - 1;
	}
}

/* Lines "ENGINE VARIANT CASE NUMBER". */
static void read_instructions(const char *path)
{
	char engine[16], variant[16], name[64];
	FILE *f = fopen(path, "r");
	double count;

	if (!f)
		return;
	while (fscanf(f, "%15s %15s %63s %lf", engine, variant, name, &count) == 4)
		for (size_t i = 0; i < row_count; i++)
			for (int s = 0; s < SIDES; s++) {
				const struct probe *p = &rows[i].probe[s];

				if (p->engine && !strcmp(p->engine, engine) &&
				    !strcmp(p->variant, variant) && !strcmp(p->name, name))
					rows[i].instructions[s] = count;
			}
	fclose(f);
}

static void collect(struct run *run)
{
	const struct probe *c = calibration_probes;

	run->calibration = (struct calibration){
		workers_median(&c[0], NULL, NULL),
		workers_median(&c[1], NULL, NULL),
		workers_median(&c[2], NULL, NULL),
	};
	for (size_t i = 0; i < row_count; i++)
		for (int s = 0; s < SIDES; s++)
			rows[i].median[s] = workers_median(&rows[i].probe[s], &rows[i].misses[s],
							   s == CONTROL ? &rows[i].noise : NULL);
}

static void write_json(const struct settings *s, const struct run *run)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/results.json", s->out);
	f = fopen(path, "w");
	if (!f)
		die(path, strerror(errno));
	report_json(f, s, run);
	if (fclose(f) != 0)
		die(path, strerror(errno));
	printf("\nwritten: %s\n", path);
}

int main(int argc, char **argv)
{
	struct settings s = { .seconds = FULL_SECONDS };
	static char self[PATH_MAX];
	struct run run = { 0 };
	double began = now();

	parse(&s, argv);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		die("/proc/self/exe", strerror(errno));
	s.dir = dirname(self);
	if (!s.out)
		s.out = s.dir;
	s.budget_us = s.quick ? 2000 : 4000;
	for (size_t i = 0; i < row_count; i++)
		for (int side = 0; side < SIDES; side++)
			rows[i].instructions[side] = NAN;
	if (s.instructions)
		read_instructions(s.instructions);
	workers_start(&s);
	run.rounds = workers_run(&s, began + 1e9 * s.seconds);
	workers_stop();
	run.seconds = (now() - began) / 1e9;
	collect(&run);
	rows_judge(&run.calibration);
	report_table(stdout, &run);
	write_json(&s, &run);
	report_plot(&s);
	return 0;
}
