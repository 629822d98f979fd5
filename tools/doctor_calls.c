/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a container may forbid. Each call is tried with arguments that can do no harm. The error
 * tells a refusal from a bad argument; /proc tells who refuses: a seccomp filter, a sysctl, a
 * kernel without the call, or another policy.
 */
#include "doctor_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "doctor.h"
#include "tool.h"

#define LABEL 18 /* columns */
#define USER_MODE_ONLY 1          /* UFFD_USER_MODE_ONLY, Linux 5.11 */
#define NEW_UFFD _IO(0xAA, 0x00)  /* USERFAULTFD_IOC_NEW, Linux 6.1 */
#define UFFD_SETTING "/proc/sys/vm/unprivileged_userfaultfd"
#define URING_SETTING "/proc/sys/kernel/io_uring_disabled"

/* The value of a setting; -1 if there is none. */
static int setting(const char *path)
{
	FILE *f = fopen(path, "re");
	int value = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%d", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

/* The process has a seccomp filter. False if /proc doesn't say. */
static bool is_filtered(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	int mode = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	if (f)
		fclose(f);
	return mode == 2;
}

/* ------------------------------------------------------------------ trying */

/* 0: the call is made, though its arguments may be wrong. EPERM, ENOSYS: it isn't. */
static int refusal(long rc)
{
	if (rc >= 0)
		close((int)rc);
	return rc < 0 && (errno == EPERM || errno == ENOSYS || errno == EACCES) ? errno : 0;
}

static int try_userfaultfd(void)
{
	long rc = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);

	if (rc < 0 && errno == EINVAL)
		rc = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return refusal(rc);
}

static bool device_works(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? -1 : ioctl(dev, NEW_UFFD, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		close(fd);
	if (dev >= 0)
		close(dev);
	return fd >= 0;
}

static int try_io_uring_setup(void)
{
	return refusal(syscall(SYS_io_uring_setup, 0, NULL));
}

static int try_io_uring_enter(void)
{
	return refusal(syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
}

static int try_io_uring_register(void)
{
	return refusal(syscall(SYS_io_uring_register, -1, 0, NULL, 0));
}

static const struct call {
	const char *name;
	int (*try)(void);
	const char *setting; /* exists if the kernel has the call; missing proves nothing */
} all_calls[] = {
	{ "userfaultfd", try_userfaultfd, UFFD_SETTING },
	{ "io_uring_setup", try_io_uring_setup, URING_SETTING },
	{ "io_uring_enter", try_io_uring_enter, URING_SETTING },
	{ "io_uring_register", try_io_uring_register, URING_SETTING },
};

#define CALLS (sizeof(all_calls) / sizeof(all_calls[0]))

enum cause { ALLOWED, FILTER, SETTING, KERNEL, FILTER_OR_KERNEL, POLICY };

static const char *const cause_names[] = { NULL, "seccomp", "sysctl", "kernel", "seccomp or kernel", "policy" };

/*
 * The settings are asked first: with them a filter need not be to blame. That of userfaultfd counts
 * before 5.11 only, where no flag asks for user mode; there the kernel answers EPERM and no newer
 * one does.
 */
static enum cause cause_of(const struct call *c, int err)
{
	bool uffd = c->try == try_userfaultfd;

	if (!err)
		return ALLOWED;
	if (err == ENOSYS)
		return setting(c->setting) >= 0 ? FILTER : is_filtered() ? FILTER_OR_KERNEL : KERNEL;
	if (!uffd && setting(URING_SETTING) > 0 && c->try == try_io_uring_setup)
		return SETTING;
	if (is_filtered())
		return FILTER;
	return uffd && setting(UFFD_SETTING) == 0 ? SETTING : POLICY;
}

struct findings {
	int err[CALLS];
	enum cause cause[CALLS];
	bool device;
};

static void find_out(struct findings *f)
{
	for (size_t i = 0; i < CALLS; i++) {
		f->err[i] = all_calls[i].try();
		f->cause[i] = cause_of(&all_calls[i], f->err[i]);
	}
	f->device = device_works();
}

/*
 * The calls [from, to) that are refused for a cause that a profile's owner can mend, separated by
 * commas.
 */
static bool names_of(const struct findings *f, size_t from, size_t to, char *out, size_t size)
{
	size_t used = 0;

	out[0] = 0;
	for (size_t i = from; i < to && used < size; i++)
		if (f->cause[i] == FILTER || f->cause[i] == FILTER_OR_KERNEL)
			used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", all_calls[i].name);
	return used > 0;
}

/* ------------------------------------------------------------------ for people */

static const char *state_of(const struct findings *f, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		switch (f->cause[i]) {
		case ALLOWED: continue;
		case FILTER: return "forbidden by a seccomp filter";
		case SETTING: return "forbidden by a sysctl";
		case KERNEL: return "not in this kernel";
		case FILTER_OR_KERNEL: return "hidden by a seccomp filter, or not in this kernel";
		case POLICY: return "forbidden by a security policy";
		}
	return "allowed";
}

static const char *setting_text(const char *path, char text[static 16])
{
	int value = setting(path);

	snprintf(text, 16, value < 0 ? "not here" : "%d", value);
	return text;
}

void calls_print(void)
{
	struct findings f;
	char text[16];

	find_out(&f);
	printf("%-*s%s; vm.unprivileged_userfaultfd=%s; /dev/userfaultfd %s\n", LABEL, "userfaultfd", state_of(&f, 0, 1),
	       setting_text(UFFD_SETTING, text), f.device ? "may be opened" : "can't be opened");
	printf("%-*s%s; kernel.io_uring_disabled=%s\n", LABEL, "io_uring", state_of(&f, 1, CALLS),
	       setting_text(URING_SETTING, text));
}

#define HOW "with Docker or Podman: --security-opt seccomp=PROFILE.json, a copy of the default profile with these names added"

static void advise_uffd(const struct findings *f)
{
	char names[128], text[512];

	if (f->cause[0] == ALLOWED || f->device)
		return;
	printf("  %-*s%s\n", LABEL - 2, "userfaultfd", "nothing is watched without it, nor cached, unless there is kmod");
	if (names_of(f, 0, 1, names, sizeof(names)))
		snprintf(text, sizeof(text), "allow %s in the seccomp profile (" HOW "), or give the container the device: "
			 "--device /dev/userfaultfd", names);
	else
		snprintf(text, sizeof(text), "%s", f->cause[0] == SETTING ?
			 "sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd" :
			 f->cause[0] == KERNEL ? "a kernel with CONFIG_USERFAULTFD" :
			 "have the security policy (SELinux, AppArmor, BPF) allow userfaultfd, or give access to /dev/userfaultfd");
	print_wrapped(LABEL, text);
}

static void advise_uring(const struct findings *f)
{
	char names[128], text[512];
	const char *other;

	if (!strcmp(state_of(f, 1, CALLS), "allowed"))
		return;
	printf("  %-*s%s\n", LABEL - 2, "io_uring", "the NIC uring needs it");
	other = f->cause[1] == SETTING ? "sysctl kernel.io_uring_disabled=0 (1: for the group kernel.io_uring_group)" :
		f->cause[1] == KERNEL ? "a kernel with CONFIG_IO_URING, Linux 5.19 or newer" :
		"have the security policy (SELinux, AppArmor, BPF) allow io_uring";
	if (names_of(f, 1, CALLS, names, sizeof(names)))
		snprintf(text, sizeof(text), "allow %s in the seccomp profile (" HOW ")%s%s", names,
			 f->cause[1] == SETTING ? "; and " : "", f->cause[1] == SETTING ? other : "");
	else
		snprintf(text, sizeof(text), "%s", other);
	print_wrapped(LABEL, text);
}

void calls_print_advice(void)
{
	struct findings f;

	find_out(&f);
	if (!strcmp(state_of(&f, 1, CALLS), "allowed") && (f.cause[0] == ALLOWED || f.device))
		return;
	printf("to allow\n");
	advise_uffd(&f);
	advise_uring(&f);
}

/* ------------------------------------------------------------------ for programs */

void calls_json(void)
{
	struct findings f;

	find_out(&f);
	json_bool("seccomp", is_filtered());
	json_bool("userfaultfd_device", f.device);
	json_open("calls", '[');
	for (size_t i = 0; i < CALLS; i++) {
		json_open(NULL, '{');
		json_string("name", all_calls[i].name);
		json_bool("allowed", !f.err[i]);
		json_i64("error", -f.err[i]);
		json_string("cause", cause_names[f.cause[i]]);
		json_close();
	}
	json_close();
}
