/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The workers: one process for each (cache, variant, case), all alive from the beginning to the end, one of
 * them measuring at a time. A round asks each of them for one sample, so what disturbs the machine for a while
 * disturbs all of them alike, and the median leaves it out.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conductor.h"

#define MAX_WORKERS 128
#define MAX_ROUNDS 4096

struct worker {
	struct probe probe; /* without its value */
	pid_t pid;          /* 0: not there */
	int to, from;
	unsigned weight;
	unsigned count;
	struct sample *samples; /* of MAX_ROUNDS */
};

static struct worker workers[MAX_WORKERS];
static unsigned worker_count;

static struct worker *find(const struct probe *p)
{
	for (unsigned i = 0; i < worker_count; i++) {
		const struct probe *q = &workers[i].probe;

		if (!strcmp(p->engine, q->engine) && !strcmp(p->variant, q->variant) &&
		    !strcmp(p->name, q->name))
			return &workers[i];
	}
	return NULL;
}

static void become(const struct settings *s, const struct probe *p, int in, int out)
{
	char path[4096];

	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	snprintf(path, sizeof(path), "%s/holdfast-bench-%s", s->dir, p->engine);
	execl(path, path, p->variant, p->name, (char *)NULL);
	_exit(errno == ENOENT ? 0 : 3); /* UCX's is not built everywhere */
}

static void start(const struct settings *s, struct worker *w)
{
	int to[2], from[2];

	w->samples = calloc(MAX_ROUNDS, sizeof(*w->samples));
	if (!w->samples || pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die("worker", strerror(errno));
	w->pid = fork();
	if (w->pid < 0)
		die("fork", strerror(errno));
	if (w->pid == 0)
		become(s, &w->probe, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	w->to = to[1];
	w->from = from[0];
}

static void add(const struct settings *s, const struct probe *p)
{
	struct worker *w;

	if (!p->engine || find(p))
		return;
	if (worker_count == MAX_WORKERS)
		die(p->name, "too many workers");
	w = &workers[worker_count++];
	w->probe = *p;
	start(s, w);
}

static void stop(struct worker *w)
{
	if (!w->pid)
		return;
	close(w->to);
	close(w->from);
	waitpid(w->pid, NULL, 0);
	w->pid = 0;
}

static void greet(struct worker *w)
{
	struct hello h;

	if (read(w->from, &h, sizeof(h)) != sizeof(h))
		stop(w);
	else
		w->weight = h.weight;
}

void workers_start(const struct settings *s)
{
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 3; i++)
		add(s, &calibration_probes[i]);
	for (size_t i = 0; i < row_count; i++)
		for (int side = 0; side < SIDES; side++)
			add(s, &rows[i].probe[side]);
	for (unsigned i = 0; i < worker_count; i++)
		greet(&workers[i]);
}

static void ask(struct worker *w, uint32_t budget_us)
{
	if (write(w->to, &budget_us, sizeof(budget_us)) != sizeof(budget_us) ||
	    read(w->from, &w->samples[w->count], sizeof(struct sample)) != sizeof(struct sample))
		stop(w); /* it has said why */
	else
		w->count++;
}

/* Heavy ones not in each round, so that they take no more of the time than the others. */
static void one_round(unsigned round, uint32_t budget_us)
{
	for (unsigned i = 0; i < worker_count; i++)
		if (workers[i].pid && (round + i) % workers[i].weight == 0)
			ask(&workers[i], budget_us);
}

/* The first sample of each is thrown away: for it, a worker finds out how many operations to do. */
static void warm_up(uint32_t budget_us)
{
	for (unsigned i = 0; i < worker_count; i++) {
		if (workers[i].pid)
			ask(&workers[i], budget_us);
		workers[i].count = 0;
	}
}

unsigned workers_run(const struct settings *s, double until)
{
	unsigned round = 0;

	warm_up(s->budget_us);
	do
		one_round(round++, s->budget_us);
	while (now() < until && round < MAX_ROUNDS);
	/* a short run: each at least once */
	for (unsigned i = 0; i < worker_count; i++)
		if (workers[i].pid && !workers[i].count)
			ask(&workers[i], s->budget_us);
	return round;
}

void workers_stop(void)
{
	for (unsigned i = 0; i < worker_count; i++)
		stop(&workers[i]);
}

double workers_median(const struct probe *p, double *misses, double *noise)
{
	struct worker *w = p->engine ? find(p) : NULL;
	static double v[MAX_ROUNDS];

	if (!w || !w->count)
		return NAN;
	if (misses) {
		for (unsigned i = 0; i < w->count; i++)
			v[i] = w->samples[i].misses;
		qsort(v, w->count, sizeof(double), by_value);
		*misses = quantile(v, w->count, 0.5);
	}
	for (unsigned i = 0; i < w->count; i++)
		v[i] = w->samples[i].value[p->value];
	qsort(v, w->count, sizeof(double), by_value);
	if (noise)
		*noise = quantile(v, w->count, 0.75) - quantile(v, w->count, 0.25);
	return quantile(v, w->count, 0.5);
}
