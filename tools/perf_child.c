/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The other process of `perf`: how it ends, and that it does.
 */
#include "perf.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

bool perf_child_ended(pid_t pid, int ms, int *status)
{
	const struct timespec one_ms = {.tv_nsec = 1000000};

	for (;; ms--) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		if (ms <= 0)
			return false;
		nanosleep(&one_ms, NULL);
	}
}

void perf_child_stop(pid_t pid)
{
	enum { PATIENCE_MS = 30000 };
	int status;

	if (!pid || perf_child_ended(pid, PATIENCE_MS, &status))
		return;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

bool perf_child_killed(int status, pid_t pid, const char *what, char text[PERF_TEXT])
{
	if (!WIFSIGNALED(status))
		return false;
	snprintf(text, PERF_TEXT, "%s (%d) was killed by signal %d (%s)", what, (int)pid,
		 WTERMSIG(status), strsignal(WTERMSIG(status)));
	return true;
}
