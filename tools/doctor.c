/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `holdfast doctor`: what this machine offers, and which changes each proxy really sees (doctor_table.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"
#include "doctor_calls.h"
#include "tool.h"

#define MAX_BACKENDS 8
#define LABEL 18 /* columns */

typedef int (*probe_fn)(unsigned i, struct hf_probe *out);

static const char *only_nic, *only_proxy;
static bool only_changes, unsafe;

struct checkup {
	struct hf_probe proxies[MAX_BACKENDS], nics[MAX_BACKENDS];
	unsigned proxy_count, nic_count;
	struct table *table;
	char automatic[64]; /* what auto picks */
	bool can_cache;
};

static unsigned probe_all(probe_fn probe, struct hf_probe *out)
{
	unsigned n = 0;

	while (n < MAX_BACKENDS && !probe(n, &out[n]))
		n++;
	return n;
}

/* ------------------------------------------------------------------ what the machine says */

/* The first line of a file; "" when it can't be read. */
static const char *read_line(const char *path, char *text, size_t size)
{
	FILE *f = fopen(path, "re");

	text[0] = 0;
	if (!f)
		return text;
	if (!fgets(text, (int)size, f))
		text[0] = 0;
	fclose(f);
	text[strcspn(text, "\n")] = 0;
	return text;
}

/* The number behind `key` in a file of lines; 0 when there is none. */
static uint64_t read_field(const char *path, const char *key, int base)
{
	FILE *f = fopen(path, "re");
	uint64_t value = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		value = strtoull(line + strlen(key), NULL, base);
		break;
	}
	if (f)
		fclose(f);
	return value;
}

static uint64_t count_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	uint64_t n = 0;
	int c;

	if (!f)
		return 0;
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static bool may_lock_any(void)
{
	return read_field("/proc/self/status", "CapEff:", 16) >> CAP_IPC_LOCK & 1;
}

/* "always [madvise] never" -> "madvise" */
static void chosen_word(const char *path, char *word, size_t size)
{
	char line[128], *from, *to;

	from = strchr(read_line(path, line, sizeof(line)), '[');
	to = from ? strchr(from, ']') : NULL;
	snprintf(word, size, "%.*s", to ? (int)(to - from - 1) : 0, to ? from + 1 : "");
}

static const char *limit_text(uint64_t bytes, char text[static 16])
{
	if (bytes == RLIM_INFINITY) {
		strcpy(text, "unlimited");
		return text;
	}
	return tool_size(bytes, text);
}

/* ------------------------------------------------------------------ what auto picks */

static void ask_auto(struct checkup *d)
{
	struct hf_switch *sw;

	if (hf_switch_open(NULL, &sw)) {
		snprintf(d->automatic, sizeof(d->automatic), "nothing: %.50s", hf_error());
		return;
	}
	snprintf(d->automatic, sizeof(d->automatic), "%s", hf_switch_proxy(sw));
	hf_switch_close(sw);
}

/* `sim` moves nothing. */
static bool moves(const struct hf_probe *nic)
{
	return !nic->available && strcmp(nic->name, "sim");
}

static bool any_nic(const struct checkup *d)
{
	unsigned i;

	for (i = 0; i < d->nic_count; i++)
		if (moves(&d->nics[i]))
			return true;
	return false;
}

/* `none` watches nothing and so caches nothing. */
static bool caches(const struct hf_probe *p)
{
	return !p->available && strcmp(p->name, "none");
}

/* ------------------------------------------------------------------ which columns */

static void add_proxies(struct checkup *d, const char *nic)
{
	unsigned i;

	if (only_proxy)
		table_add(d->table, nic, only_proxy);
	for (i = 0; !only_proxy && i < d->proxy_count; i++)
		if (caches(&d->proxies[i]))
			table_add(d->table, nic, d->proxies[i].name);
	if (unsafe)
		table_add(d->table, nic, NULL);
}

static void measure_all(struct checkup *d)
{
	unsigned i;

	if (only_nic)
		add_proxies(d, only_nic);
	for (i = 0; !only_nic && i < d->nic_count; i++)
		if (moves(&d->nics[i]))
			add_proxies(d, d->nics[i].name);
	table_measure(d->table);
}

/* ------------------------------------------------------------------ for people */

static void print_backend(const struct hf_probe *p, const char *good)
{
	printf("  %-*s%s\n", LABEL - 2, p->name, p->available ? "not available" : good);
	if (p->reason[0])
		print_wrapped(LABEL, p->reason);
}

static const char *proxy_text(const struct hf_probe *p)
{
	if (!strcmp(p->name, "none"))
		return "available: watches nothing, nothing is cached";
	if (!(p->caps & HF_CAP_WATCH))
		return "available: the program announces its changes itself";
	return p->caps & HF_CAP_DENY ? "available: sees changes, exact, can refuse them" :
	       p->caps & HF_CAP_EXACT ? "available: sees changes, exact" : "available: sees changes";
}

static void print_backends(const struct checkup *d)
{
	unsigned i;

	printf("proxies (strongest first)\n");
	for (i = 0; i < d->proxy_count; i++)
		print_backend(&d->proxies[i], proxy_text(&d->proxies[i]));
	printf("  %-*s%s\n", LABEL - 2, "auto", d->automatic);
	printf("NICs\n");
	for (i = 0; i < d->nic_count; i++)
		print_backend(&d->nics[i], d->nics[i].caps & HF_CAP_DATA ? "available, moves data" : "available");
}

static void print_memlock(void)
{
	char soft[16], hard[16];
	struct rlimit r = { 0 };

	getrlimit(RLIMIT_MEMLOCK, &r);
	printf("%-*ssoft %s, hard %s; %s CAP_IPC_LOCK\n", LABEL, "memlock", limit_text(r.rlim_cur, soft),
	       limit_text(r.rlim_max, hard), may_lock_any() ? "not applied: we have" : "applied: we lack");
	if (!may_lock_any() && r.rlim_cur != RLIM_INFINITY)
		print_wrapped(LABEL, "all that this user pins counts against it; raise it with `ulimit -l` or in limits.conf");
}

static void print_machine(void)
{
	char word[32], number[64];
	struct utsname u;

	uname(&u);
	printf("%-*s%s %s\n", LABEL, "kernel", u.release, u.machine);
	print_memlock();
	printf("%-*s%" PRIu64 " of vm.max_map_count %s\n", LABEL, "mappings", count_mappings(),
	       read_line("/proc/sys/vm/max_map_count", number, sizeof(number)));
	chosen_word("/sys/kernel/mm/transparent_hugepage/enabled", word, sizeof(word));
	printf("%-*stransparent: %s; hugetlb: %" PRIu64 " of %" PRIu64 " KiB, %" PRIu64 " free\n", LABEL, "huge pages",
	       word[0] ? word : "not in this kernel", read_field("/proc/meminfo", "HugePages_Total:", 10),
	       read_field("/proc/meminfo", "Hugepagesize:", 10), read_field("/proc/meminfo", "HugePages_Free:", 10));
	calls_print();
}

/* ------------------------------------------------------------------ for programs */

static void json_backends(const char *key, const struct hf_probe *p, unsigned count)
{
	unsigned i;

	json_open(key, '[');
	for (i = 0; i < count; i++) {
		json_open(NULL, '{');
		json_string("name", p[i].name);
		json_bool("available", !p[i].available);
		json_i64("error", p[i].available);
		json_string("reason", p[i].available ? p[i].reason : NULL);
		json_bool("watch", p[i].caps & HF_CAP_WATCH);
		json_bool("exact", p[i].caps & HF_CAP_EXACT);
		json_bool("deny", p[i].caps & HF_CAP_DENY);
		json_bool("data", p[i].caps & HF_CAP_DATA);
		json_close();
	}
	json_close();
}

static void json_number(const char *key, const char *path)
{
	char text[64];

	if (read_line(path, text, sizeof(text))[0])
		json_u64(key, strtoull(text, NULL, 10));
	else
		json_string(key, NULL);
}

static void json_limit(const char *key, uint64_t bytes)
{
	if (bytes == RLIM_INFINITY)
		json_string(key, NULL);
	else
		json_u64(key, bytes);
}

static void json_machine(void)
{
	struct rlimit r = { 0 };
	struct utsname u;
	char word[32];

	uname(&u);
	getrlimit(RLIMIT_MEMLOCK, &r);
	chosen_word("/sys/kernel/mm/transparent_hugepage/enabled", word, sizeof(word));
	json_string("kernel", u.release);
	json_string("machine", u.machine);
	json_limit("memlock_soft", r.rlim_cur);
	json_limit("memlock_hard", r.rlim_max);
	json_bool("cap_ipc_lock", may_lock_any());
	json_number("max_map_count", "/proc/sys/vm/max_map_count");
	json_u64("mappings", count_mappings());
	json_string("transparent_hugepage", word[0] ? word : NULL);
	json_u64("huge_pages", read_field("/proc/meminfo", "HugePages_Total:", 10));
	json_u64("huge_pages_free", read_field("/proc/meminfo", "HugePages_Free:", 10));
	json_u64("huge_page_bytes", read_field("/proc/meminfo", "Hugepagesize:", 10) << 10);
	json_number("unprivileged_userfaultfd", "/proc/sys/vm/unprivileged_userfaultfd");
	json_number("io_uring_disabled", "/proc/sys/kernel/io_uring_disabled");
	calls_json();
}

static void print_json(const struct checkup *d)
{
	json_open(NULL, '{');
	if (!only_changes) {
		json_machine();
		json_backends("proxies", d->proxies, d->proxy_count);
		json_backends("nics", d->nics, d->nic_count);
		json_string("auto", d->automatic);
	}
	json_bool("can_cache", d->can_cache);
	table_json(d->table);
	json_close();
}

static void print_text(const struct checkup *d)
{
	if (!only_changes) {
		print_machine();
		print_backends(d);
		calls_print_advice();
		putchar('\n');
	}
	table_print(d->table);
}

/* ------------------------------------------------------------------ the command */

/* The table first: its processes are forked, which is best done before a switch has started threads. */
static int examine(struct checkup *d)
{
	unsigned i;
	bool found;

	d->proxy_count = probe_all(hf_proxy_probe, d->proxies);
	d->nic_count = probe_all(hf_nic_probe, d->nics);
	for (i = 0; i < d->proxy_count; i++)
		d->can_cache |= caches(&d->proxies[i]) && any_nic(d);
	measure_all(d);
	ask_auto(d);
	(tool_json ? print_json : print_text)(d);
	found = table_is_wrong(d->table);
	return found ? TOOL_FOUND : d->can_cache ? TOOL_OK : TOOL_CANNOT;
}

static int run_doctor(void)
{
	struct checkup d = { .table = table_new() };
	int code;

	if (!d.table)
		return tool_fail(TOOL_CANNOT, "out of memory");
	code = examine(&d);
	table_free(d.table);
	return code;
}

static const struct tool_option options[] = {
	{ "changes", NULL, "only the table of changes", TOOL_FLAG, &only_changes },
	{ "nic", "NAME", "measure with this one, such as verbs:DEVICE; default: each that is here", TOOL_STRING, &only_nic },
	{ "proxy", "NAME", "measure with this one; default: each that is here", TOOL_STRING, &only_proxy },
	{ "unsafe", NULL, "one column more, of a proxy that drops every event: the control that has to be STALE",
	  TOOL_FLAG, &unsafe },
	{ 0 },
};

const struct tool_command cmd_doctor = {
	.name = "doctor",
	.summary = "what this machine offers, and which changes of a mapping each proxy sees",
	.detail = "The table is measured: every change of `holdfast torture` is made once with every NIC and every proxy\n"
		  "that are available here, each pair in a process of its own, and judged by the bytes that the NIC moves.\n\n"
		  "exact (it was cached, the change was told, the bytes are right), kept (the pages are the same: a hit with\n"
		  "the right bytes), not cached (the proxy can't watch such memory), refused (the NIC can't register it),\n"
		  "blind spot (a stale hit where the proxy is known to be blind), can't run, and STALE or FAILED, for which\n"
		  "the exit code is 1. It is 3 when nothing can be cached.",
	.options = options,
	.run = run_doctor,
};
