/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096

/* The number in a file; UINT64_MAX for "max", and if there is no such file. */
static uint64_t read_limit(const char *dir, const char *name)
{
	char path[PATH_BYTES + 32], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return UINT64_MAX;
	if (!fgets(text, sizeof(text), f))
		text[0] = 0;
	fclose(f);
	return *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t limit_in(const char *dir, bool v2)
{
	return v2 ? least(read_limit(dir, "memory.max"), read_limit(dir, "memory.high")) :
		    read_limit(dir, "memory.limit_in_bytes");
}

/*
 * From the group up to the mount point. A container may see its own group as the mount point, and
 * its path as the host knows it: then only the last step finds something.
 */
static uint64_t limit_on_path(const char *mount, const char *group, bool v2)
{
	uint64_t limit = UINT64_MAX;
	char dir[PATH_BYTES];
	size_t top = strlen(mount);
	int n = snprintf(dir, sizeof(dir), "%s%s", mount, strstr(group, "/..") ? "" : group);

	if (n < 0 || (size_t)n >= sizeof(dir))
		return UINT64_MAX;
	for (;;) {
		char *slash;

		limit = least(limit, limit_in(dir, v2));
		slash = strrchr(dir, '/');
		if (!slash || (size_t)(slash - dir) < top)
			return limit;
		*slash = 0;
	}
}

/* Is `memory` in "cpu,memory,io"? */
static bool has_memory(const char *controllers)
{
	for (const char *at = controllers; *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == 6 && !strncmp(at, "memory", 6))
			return true;
	return false;
}

/* "0::/user.slice" is a group of version 2, "4:memory:/docker/1a2b" one of version 1. */
static uint64_t limit_of_line(const char *root, char *line)
{
	char *controllers = strchr(line, ':');
	char *group = controllers ? strchr(controllers + 1, ':') : NULL;
	char mount[PATH_BYTES];
	uint64_t limit;

	if (!group)
		return UINT64_MAX;
	*group++ = 0;
	group[strcspn(group, "\n")] = 0;
	if (*++controllers) {
		snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/memory", root);
		return has_memory(controllers) ? limit_on_path(mount, group, false) : UINT64_MAX;
	}
	snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup", root);
	limit = limit_on_path(mount, group, true);
	snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/unified", root); /* beside version 1 */
	return least(limit, limit_on_path(mount, group, true));
}

uint64_t cgroup_memory_limit(const char *root)
{
	char path[PATH_BYTES], line[PATH_BYTES];
	uint64_t limit = UINT64_MAX;
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	f = fopen(path, "re");
	if (!f)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), f))
		limit = least(limit, limit_of_line(root, line));
	fclose(f);
	return limit;
}
