/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the whole cache costs: memory, mappings, and the start of a program. */
#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#include "fixture.h"

extern char **environ;

static unsigned long count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned long n = 0;
	int c;

	while (f && (c = getc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* Bytes of private memory that are there: ours, as nothing else runs in this process. */
static unsigned long private_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	unsigned long kib = 0;
	char line[128];

	if (!f)
		die("/proc/self/smaps_rollup", strerror(errno));
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Anonymous: %lu kB", &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

/* value[]: bytes for each region, without the kernel's; mappings more than before; ns for each miss. */
static void measure_memory(struct fixture *f, struct sample *out)
{
	unsigned long vmas, bytes;
	double t;

	get_put(&f->cache, f->mem + f->count * STRIDE, PAGE); /* what the first of all costs */
	vmas = count_lines("/proc/self/maps");
	bytes = private_bytes();
	t = now();
	for (unsigned long i = 0; i < f->count; i++)
		get_put(&f->cache, f->pieces[i].at, f->pieces[i].len);
	out->value[2] = (now() - t) / (double)f->count;
	out->value[0] = ((double)private_bytes() - (double)bytes) / (double)f->count;
	out->value[1] = (double)count_lines("/proc/self/maps") - (double)vmas;
}

/* Once only; but not during the set-up, when other workers set up too. */
static unsigned long memory(struct fixture *f, unsigned long n, struct sample *out)
{
	if (!f->fixed.value[0])
		measure_memory(f, &f->fixed);
	*out = f->fixed;
	return n;
}

/* fork, exec, open, close, exit, wait: this very program, which in that mode does nothing else. */
static unsigned long start_program(struct fixture *f, unsigned long n, struct sample *out)
{
	char *argv[] = { (char *)"bench", (char *)"--start", (char *)f->variant, NULL };

	for (unsigned long i = 0; i < n; i++) {
		pid_t pid;
		int status;
		int rc = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ);

		if (rc)
			die("posix_spawn", strerror(rc));
		if (waitpid(pid, &status, 0) != pid || status != 0)
			die("the started program", "failed");
	}
	return n;
}

const struct bench_case whole_cases[] = {
	{ "memory-aligned", setup_pieces, memory, 100000, ALIGNED, 0, 1, 1, 0 },
	{ "memory-malloc", setup_pieces, memory, 100000, MALLOC_LIKE, 0, 1, 1, 0 },
	{ "start", NULL, start_program, 0, 0, 0, 4, 0, 0 },
	{ 0 },
};
