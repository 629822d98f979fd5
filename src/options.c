/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "options.h"

#include <errno.h>
#include <holdfast/backend.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"

typedef int (*parse_fn)(struct options *o, const char *value);

static int parse_proxy(struct options *o, const char *value)
{
	if (!*value || strlen(value) >= sizeof(o->proxy))
		return -EINVAL;
	strcpy(o->proxy, value);
	return 0;
}

/* Which of the two words; -EINVAL when neither. */
static int choose(const char *value, const char *no, const char *yes, bool *out)
{
	*out = !strcmp(value, yes);
	return *out || !strcmp(value, no) ? 0 : -EINVAL;
}

static int parse_mode(struct options *o, const char *value)
{
	return choose(value, "exact", "fast", &o->fast);
}

static int parse_relax(struct options *o, const char *value)
{
	return choose(value, "none", "file", &o->relax_file);
}

static int parse_cache(struct options *o, const char *value)
{
	return choose(value, "off", "on", &o->cache);
}

static int parse_hard(struct options *o, const char *value)
{
	return choose(value, "off", "on", &o->hard);
}

/* 4096, 64K, 1M, 2G. */
int options_size(const char *value, uint64_t *out)
{
	static const char units[] = "KkMmGgTt";
	const char *unit;
	char *end;
	uint64_t n;
	int shift = 0;

	if (*value < '0' || *value > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno)
		return -EINVAL;
	unit = *end ? strchr(units, *end) : NULL; /* strchr() finds the NUL, too */
	if (unit) {
		shift = 10 * (int)((unit - units) / 2 + 1);
		end++;
	}
	if (*end || n > UINT64_MAX >> shift)
		return -EINVAL;
	*out = n << shift;
	return 0;
}

static bool may_lock_any(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = { { 0 } };

	return syscall(SYS_capget, &head, caps) == 0 &&
	       (caps[0].effective & (1u << CAP_IPC_LOCK));
}

/*
 * A quarter of the memory that this process may have, of the machine or of its control group; or
 * RLIMIT_MEMLOCK where that binds. Never infinite (I5).
 */
uint64_t options_default_bytes(const char *root)
{
	uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t group = cgroup_memory_limit(root);
	struct rlimit lock;

	bytes = (group < bytes ? group : bytes) / 4;
	if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur != RLIM_INFINITY &&
	    lock.rlim_cur < bytes && !may_lock_any())
		bytes = lock.rlim_cur;
	return bytes;
}

static int parse_max_bytes(struct options *o, const char *value)
{
	if (!strcmp(value, "auto")) {
		o->max_bytes = options_default_bytes("");
		return 0;
	}
	return options_size(value, &o->max_bytes);
}

static int parse_max_count(struct options *o, const char *value)
{
	return options_size(value, &o->max_count);
}

static const struct option_row {
	const char *name;
	const char *default_value;
	enum option_scope scope;
	parse_fn parse;
	const char *help;
} table[] = {
	{ "proxy", "auto", OPTION_SWITCH, parse_proxy,
	  "what watches the memory: kmod, uffd, supervise, manual, none, or auto for the strongest there is; supervise can "
	  "refuse changes (HF_DENY), but leaves a seccomp filter in the process for good, so auto never takes it" },
	{ "mode", "exact", OPTION_SWITCH, parse_mode,
	  "exact: never a stale hit; fast: save uffd's system call per hit and risk one when another "
	  "thread is given an address in the moment in which it is unmapped" },
	{ "relax", "none", OPTION_SWITCH, parse_relax,
	  "file: let uffd cache private file mappings (.data, .bss) too, though it can't see the file "
	  "being truncated" },
	{ "cache", "on", OPTION_PROVIDER, parse_cache,
	  "off: register for each use and let go" },
	{ "max_bytes", "auto", OPTION_PROVIDER, parse_max_bytes,
	  "most bytes to keep pinned, e.g. 64M; what is held may exceed it; auto: RLIMIT_MEMLOCK where "
	  "it binds, else a quarter of the memory, or of the control group's memory limit if that is less" },
	{ "max_count", "1M", OPTION_PROVIDER, parse_max_count, "most registrations to keep" },
	{ "hard", "off", OPTION_PROVIDER, parse_hard,
	  "on: a get that would exceed a limit because of what is held answers -ENOMEM" },
};

#define ROWS (sizeof(table) / sizeof(table[0]))

int hf_option_info(unsigned i, const char **name, const char **default_value, const char **help)
{
	if (i >= ROWS)
		return hf_set_error(-ENOENT, "there are %zu options", ROWS);
	if (name)
		*name = table[i].name;
	if (default_value)
		*default_value = table[i].default_value;
	if (help)
		*help = table[i].help;
	return 0;
}

static const struct option_row *find(const char *name)
{
	for (size_t i = 0; i < ROWS; i++)
		if (!strcmp(table[i].name, name))
			return &table[i];
	return NULL;
}

static int apply(struct options *o, char *item, enum option_scope scope, bool from_env)
{
	char *value = strchr(item, '=');
	const struct option_row *row;
	const char *where = from_env ? " (in the environment's HOLDFAST)" : "";

	if (value)
		*value++ = 0;
	row = find(item);
	if (!row || !value)
		return hf_set_error(-EINVAL, "option '%s'%s: %s; `holdfast help options` lists them", item,
				    where, row ? "no value, write name=value" : "no such option");
	/* The environment speaks to switches and providers at once. */
	if (row->scope != scope)
		return from_env ? 0 : hf_set_error(-EINVAL, "option '%s' belongs to a %s", item,
				row->scope == OPTION_SWITCH ? "switch" : "provider");
	if (row->parse(o, value) < 0)
		return hf_set_error(-EINVAL, "option %s=%s%s: bad value; %s", item, value, where, row->help);
	return 0;
}

static int parse_text(struct options *o, const char *text, enum option_scope scope, bool from_env)
{
	char copy[512];
	char *save;
	int rc = 0;

	if (!text)
		return 0;
	if (strlen(text) >= sizeof(copy))
		return hf_set_error(-EINVAL, "options of %zu bytes: %zu are allowed", strlen(text),
				    sizeof(copy) - 1);
	strcpy(copy, text);
	for (char *item = strtok_r(copy, ",", &save); item && !rc; item = strtok_r(NULL, ",", &save))
		rc = apply(o, item, scope, from_env);
	return rc;
}

int options_parse(struct options *o, const char *text, enum option_scope scope)
{
	int rc;

	*o = (struct options){ 0 };
	for (size_t i = 0; i < ROWS; i++)
		table[i].parse(o, table[i].default_value);
	rc = parse_text(o, text, scope, false);
	return rc ? rc : parse_text(o, secure_getenv("HOLDFAST"), scope, true);
}
