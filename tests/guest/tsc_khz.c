/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * How fast this machine's time stamp counter counts, in kHz. It runs on the host: an emulated guest has the same counter, but
 * can't find out well how fast it is. It counts for some ms beside an emulated timer, and where that is late, for the processor is
 * busy with other things, its clock is wrong from then on: five times too fast was seen, and with it each limit too short.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

struct both {
	uint64_t ns, ticks;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* At the same time: of many tries the one that took the shortest, so that nothing came in between. */
static struct both look(void)
{
	struct both b = { 0, 0 };
	uint64_t shortest = UINT64_MAX;

	for (int i = 0; i < 1000; i++) {
		uint64_t from = now_ns(), ticks = __rdtsc(), took = now_ns() - from;

		if (took >= shortest)
			continue;
		shortest = took;
		b = (struct both){ from + took / 2, ticks };
	}
	return b;
}

int main(void)
{
	struct both a = look(), b;

	usleep(100000);
	b = look();
	printf("%.0f\n", (double)(b.ticks - a.ticks) * 1e6 / (double)(b.ns - a.ns));
	return 0;
}
