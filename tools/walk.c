/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `holdfast walk`: through the contract on this machine, one step after the other, each looked at.
 */
#include "walk.h"
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <holdfast/backend.h>

static struct walk walk = {.nic = "uring", .proxy = "", .control = -1};
static const char *sabotage_text = "";

static const struct tool_option options[] = {
	{"nic", "NAME", "the NIC to register with", TOOL_STRING, &walk.nic},
	{"proxy", "NAME",
	 "who watches the memory: supervise, which can refuse changes, where it can be had; else what auto "
	 "picks",
	 TOOL_STRING, &walk.proxy},
	{"sabotage", "STEP", NULL, TOOL_STRING, &sabotage_text},
	{0},
};

enum verdict { STEP_OK, STEP_WRONG, STEP_SKIPPED, STEP_NOT_WALKED, VERDICTS };

static const char *const verdict_names[VERDICTS] = {"ok", "wrong", "can't here", "not walked"};

static unsigned counts[VERDICTS];

/* ------------------------------------------------------------------ text */

enum { LEFT = 14 /* requirements */, WHAT = 43, SEEN = LEFT + WHAT, WIDTH = 100 };

static void print_head(void)
{
	char size[16];

	printf("A buffer of %s: nic %s, proxy %s. At the left the requirement, at the right what was seen.\n",
	       tool_size(WALK_SIZE, size), walk.nic, hf_switch_proxy(walk.sw));
}

/* Each thing that was seen stands whole on a line, where that is wide enough. */
static void print_seen(const char *text)
{
	int column = SEEN;

	while (*text) {
		size_t len = strcspn(text, ";");
		int more = text[len] ? 1 : 0;

		if (column > SEEN && column + 1 + (int)len + more > WIDTH) {
			printf("\n%*s", SEEN, "");
			column = SEEN;
		}
		column += printf("%s%.*s%s", column > SEEN ? " " : "", (int)len, text, more ? ";" : "");
		text += len;
		text += strspn(text, "; ");
	}
	putchar('\n');
}

/* The reason once; then only that it is so. */
static void print_not_run(enum verdict verdict, const char *why)
{
	static const char *said;

	printf("%s%s", verdict_names[verdict], said == why ? "\n" : ": ");
	if (said != why)
		tool_wrap(stdout, SEEN, why);
	said = why;
}

/* The steps' own words stand in one column, what was seen beside them. */
static void print_step(const struct step *step, enum verdict verdict, const char *seen)
{
	int used;

	if (step->group)
		printf("\n%s\n", step->group);
	used = printf("  %-*s%s", LEFT - 2, step->requirements, step->what);
	if (used >= SEEN)
		printf("\n%*s", SEEN, "");
	else
		printf("%*s", SEEN - used, "");
	if (verdict == STEP_SKIPPED || verdict == STEP_NOT_WALKED)
		print_not_run(verdict, seen);
	else
		print_seen(seen);
	if (verdict == STEP_WRONG) {
		printf("%*sNOT AS IT SHOULD BE: ", LEFT, "");
		tool_wrap(stdout, LEFT + 2, walk.wrong);
	}
	fflush(stdout);
}

static void print_foot(double seconds)
{
	printf("\n%u steps as the contract says", counts[STEP_OK]);
	if (counts[STEP_WRONG])
		printf(", %u not", counts[STEP_WRONG]);
	if (counts[STEP_SKIPPED])
		printf(", %u that this proxy can't do", counts[STEP_SKIPPED]);
	if (counts[STEP_NOT_WALKED])
		printf(", %u not walked", counts[STEP_NOT_WALKED]);
	printf(" (%.2f s).\n", seconds);
}

/* ------------------------------------------------------------------ JSON */

static void json_head(void)
{
	json_open(NULL, '{');
	json_string("nic", walk.nic);
	json_string("proxy", hf_switch_proxy(walk.sw));
	json_bool("deny", walk.deny);
	json_open("steps", '[');
}

static void json_step(const struct step *step, const char *group, enum verdict verdict, const char *seen)
{
	json_open(NULL, '{');
	json_string("group", group);
	json_string("requirements", step->requirements);
	json_string("what", step->what);
	json_string("verdict", verdict_names[verdict]);
	json_string("seen", seen);
	json_string("expected", *walk.wrong ? walk.wrong : NULL);
	json_close();
}

static void json_foot(double seconds)
{
	json_close();
	json_u64("ok", counts[STEP_OK]);
	json_u64("wrong", counts[STEP_WRONG]);
	json_u64("skipped", counts[STEP_SKIPPED]);
	json_u64("not_walked", counts[STEP_NOT_WALKED]);
	json_double("seconds", seconds);
	json_close();
}

/* ------------------------------------------------------------------ the steps in turn */

static enum verdict run_step(const struct step *step, const char **seen)
{
	*seen = walk.seen;
	walk.seen[0] = walk.wrong[0] = 0;
	if (counts[STEP_WRONG]) {
		*seen = "what it needs is not as it should be";
		return STEP_NOT_WALKED;
	}
	if (step->flags & NEEDS_DENY && !walk.deny) {
		*seen = walk.no_deny;
		return STEP_SKIPPED;
	}
	step->run(&walk);
	return *walk.wrong ? STEP_WRONG : STEP_OK;
}

static void run_steps(void)
{
	const char *group = "", *seen;

	for (unsigned i = 0; i < walk_steps_count; i++) {
		const struct step *step = &walk_steps[i];
		enum verdict verdict = run_step(step, &seen);

		counts[verdict]++;
		group = step->group ? step->group : group;
		if (tool_json)
			json_step(step, group, verdict, seen);
		else
			print_step(step, verdict, seen);
	}
}

/* ------------------------------------------------------------------ opening */

static int check_sabotage(void)
{
	static const char *const names[] = {"", "bytes", "revoke", "deny", "stale"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(sabotage_text, names[i])) {
			walk.sabotage = i;
			return TOOL_OK;
		}
	}
	return tool_fail(TOOL_USAGE, "--sabotage is bytes, revoke, deny or stale, not '%s'", sabotage_text);
}

/* Whether the proxy of this name can refuse changes; if not, why in walk.no_deny. */
static bool can_deny(const char *name)
{
	struct hf_probe probe;

	for (unsigned i = 0; !hf_proxy_probe(i, &probe); i++) {
		if (strcmp(probe.name, name))
			continue;
		if (!probe.available && probe.caps & HF_CAP_DENY)
			return true;
		snprintf(walk.no_deny, sizeof(walk.no_deny), "%s",
			 probe.available ? probe.reason : "this proxy can't refuse; supervise and kmod can");
		return false;
	}
	snprintf(walk.no_deny, sizeof(walk.no_deny), "there is no proxy %s here", name);
	return false;
}

static void choose_proxy(void)
{
	if (walk.sabotage == SABOTAGE_STALE)
		walk.proxy = "manual";
	if (*walk.proxy)
		return;
	walk.proxy = can_deny("supervise") ? "supervise" : "auto";
}

/* Looking into the table of NICs starts nothing. */
static bool has_queue_pairs(void)
{
	const struct hf_nic_ops *ops;
	char name[32];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(walk.nic, ":"), walk.nic);
	ops = hf_nic_find(name);
	return ops && ops->qp;
}

static int start_peer(void)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -errno;
	fflush(NULL);
	walk.peer = fork();
	if (walk.peer < 0)
		return -errno;
	if (!walk.peer) {
		close(ends[0]);
		_exit(walk_peer(ends[1], walk.nic, walk.proxy));
	}
	close(ends[1]);
	walk.control = ends[0];
	return 0;
}

static int open_all(void)
{
	char text[64];
	int err;

	snprintf(text, sizeof(text), "proxy=%s", walk.proxy);
	err = hf_switch_open(text, &walk.sw);
	if (!err)
		err = hf_provider_open(walk.sw, walk.nic, NULL, &walk.provider);
	if (!err)
		err = hf_cq_open(&walk.cq);
	if (!err)
		err = walk_open(&walk);
	if (err)
		return tool_fail(err == -EINVAL || err == -ENOENT ? TOOL_USAGE : TOOL_CANNOT, "%s",
				 perf_reason(err));
	if (!strcmp(hf_switch_proxy(walk.sw), "none"))
		return tool_fail(TOOL_CANNOT, "nothing watches the memory here: `holdfast doctor` says why");
	walk.deny = can_deny(hf_switch_proxy(walk.sw));
	walk.seal = !strcmp(hf_switch_proxy(walk.sw), "kmod");
	walk.by_qp = has_queue_pairs();
	walk.must_tell = !strcmp(hf_switch_proxy(walk.sw), "manual") && walk.sabotage != SABOTAGE_STALE;
	return TOOL_OK;
}

static int walk_through(void)
{
	uint64_t start = tool_now_ns();
	double seconds;
	int code = open_all();

	if (code)
		return code;
	if (tool_json)
		json_head();
	else
		print_head();
	run_steps();
	seconds = (double)(tool_now_ns() - start) / 1e9;
	if (tool_json)
		json_foot(seconds);
	else
		print_foot(seconds);
	return counts[STEP_WRONG] ? TOOL_FOUND : TOOL_OK;
}

static int walk_run(void)
{
	int code = check_sabotage(), err;

	if (code)
		return code;
	signal(SIGPIPE, SIG_IGN);
	choose_proxy();
	/* before anything is open that it would get */
	err = start_peer();
	if (err)
		return tool_fail(TOOL_CANNOT, "no second process: %s", strerror(-err));
	code = walk_through();
	walk_close(&walk);
	close(walk.control);
	perf_child_stop(walk.peer);
	return code;
}

const struct tool_command cmd_walk = {
	.name = "walk",
	.summary = "the contract on this machine, step by step, each step looked at",
	.detail = "Registers a buffer, transfers from it, lets go of it, lends it to another process and\n"
		  "takes it back, secures it, tries to free it, frees it, and uses the address again. Every\n"
		  "step looks at the kernel and the NIC: errno, VmPin, the bytes in the pinned pages, the\n"
		  "counters of the cache. At the left is the requirement (docs/architecture.md). Exit code 1:\n"
		  "a step was not as the contract says; then it says what was seen instead.",
	.options = options,
	.run = walk_run,
};
