/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Places that forbid things: seccomp filters as containers have them, and older kernels. Each case runs in a child
 * with a filter of its own. What is missing has to be named, and the rest has to work on.
 */
#include "check.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "hold.h"
#include "os.h"

#define IOCTL_UFFD_NEW 0xaa00u      /* USERFAULTFD_IOC_NEW */
#define IOCTL_PROCMAP  0xc0686611u  /* PROCMAP_QUERY */
#define ANY UINT32_MAX
#define NAMESPACES 0x7e020000u /* CLONE_NEW*: what Docker's profile looks at in clone(2) */

/* One system call answers an error, or one command of it (its second argument), or NAMESPACES in its first. */
struct rule {
	uint32_t nr, command, err;
};

static int forbid(const struct rule *rules, unsigned n)
{
	struct sock_filter code[256];
	struct sock_fprog prog = { .filter = code };
	unsigned at = 0;

	for (unsigned i = 0; i < n; i++) {
		bool any = rules[i].command == ANY, bits = rules[i].command == NAMESPACES;

		code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
							  offsetof(struct seccomp_data, nr));
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rules[i].nr, 0,
							  any ? 1 : 3);
		if (!any) {
			code[at++] = (struct sock_filter)BPF_STMT(
				BPF_LD | BPF_W | BPF_ABS,
				bits ? offsetof(struct seccomp_data, args[0]) : offsetof(struct seccomp_data, args[1]));
			code[at++] = (struct sock_filter)BPF_JUMP(
				BPF_JMP | (bits ? BPF_JSET : BPF_JEQ) | BPF_K, rules[i].command, 0, 1);
		}
		code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
							  SECCOMP_RET_ERRNO | rules[i].err);
	}
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prog.len = (unsigned short)at;
	CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
	return 0;
}

static void in_child(int (*run)(void *arg))
{
	assert_int_equal(check_child(run, NULL), 0);
}

static void in_child_with_uffd(int (*run)(void *arg))
{
	if (!check_uffd())
		skip();
	in_child(run);
}

/* Cached or not: two gets of one page, and a third after the page was replaced. */
static int use_cache(struct hf_switch *sw, bool cached)
{
	size_t page = check_page();
	unsigned want = cached ? HF_REGION_CACHED : 0;
	struct hf_sim sim = { 0 };
	struct hf_provider *p;
	struct hf_region r;
	void *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHILD_CHECK(hf_provider_open_nic(sw, hf_nic_find("sim"), &sim, NULL, &p) == 0);
	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(hf_get(p, m, page, HF_READWRITE, &r) == 0);
		CHILD_CHECK(r.flags == (want | (cached && i ? HF_REGION_HIT : 0)));
		CHILD_CHECK(hf_put(p, &r) == 0);
	}
	if (!strcmp(hf_switch_proxy(sw), "manual"))
		CHILD_CHECK(hf_invalidate(sw, m, page) == 1);
	CHILD_CHECK(mmap(m, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			 0) == m);
	CHILD_CHECK(hf_get(p, m, page, HF_READWRITE, &r) == 0);
	CHILD_CHECK(!(r.flags & HF_REGION_HIT));
	CHILD_CHECK(hf_put(p, &r) == 0);
	CHILD_CHECK(hf_provider_close(p) == 0);
	CHILD_CHECK(sim.live == 0);
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return 0;
}

static int auto_is(const char *proxy, bool cached)
{
	struct hf_switch *sw;

	CHILD_CHECK(hf_switch_open(NULL, &sw) == 0);
	CHILD_CHECK(!strcmp(hf_switch_proxy(sw), proxy));
	return use_cache(sw, cached);
}

/* By the system call and by the device. */
static int without_uffd(uint32_t err, int want, const char *words)
{
	struct rule rules[] = { { SYS_userfaultfd, ANY, err }, { SYS_ioctl, IOCTL_UFFD_NEW, err } };
	struct hf_switch *sw;
	struct hf_probe probe;

	CHILD_CHECK(forbid(rules, 2) == 0);
	CHILD_CHECK(hf_switch_open("proxy=uffd", &sw) == want);
	CHILD_CHECK(strstr(hf_error(), words));
	for (unsigned i = 0; i == 0 || strcmp(probe.name, "uffd"); i++)
		CHILD_CHECK(hf_proxy_probe(i, &probe) == 0);
	CHILD_CHECK(probe.available == want && strstr(probe.reason, words));
	return auto_is("none", false);
}

static int uffd_refused(void *arg)
{
	return without_uffd(EPERM, -EPERM, "seccomp");
}

static int uffd_unknown(void *arg)
{
	return without_uffd(ENOSYS, -ENOSYS, "CONFIG_USERFAULTFD");
}

static void test_uffd_refused(void **state)
{
	in_child(uffd_refused);
}

/* R49: a kernel that doesn't know the interface is found out. */
static void test_uffd_unknown(void **state)
{
	in_child(uffd_unknown);
}

/* A kernel before 6.7 refuses the first handshake, with WP_ASYNC; the second, without, has to do. */
static int no_wp_async(void *arg)
{
	struct hf_switch *sw = NULL;

	for (int64_t n = 1; !sw; n++) {
		hf_fault_arm(n);
		CHILD_CHECK(hf_switch_open("proxy=uffd", &sw) || hf_fault_last());
		CHILD_CHECK(n < 100);
		/* A step that may fail without a consequence, such as the first handshake. */
		if (sw && strcmp(hf_fault_last(), "UFFDIO_API")) {
			CHILD_CHECK(hf_switch_close(sw) == 0);
			sw = NULL;
		}
	}
	hf_fault_arm(0);
	return use_cache(sw, true);
}

static void test_no_wp_async(void **state)
{
	in_child_with_uffd(no_wp_async);
}

/* A kernel before 6.11: the mappings are read as text. */
static int no_procmap(void *arg)
{
	struct rule rule = { SYS_ioctl, IOCTL_PROCMAP, ENOTTY };

	CHILD_CHECK(forbid(&rule, 1) == 0);
	CHILD_CHECK(auto_is("uffd", true) == 0);
	CHILD_CHECK(hf_range_check(4096, 8192, HF_READ) == -EFAULT);
	return 0;
}

/* The same when the program has used up its descriptors: a descriptor is kept, and one reads it at a time. */
static void *check_often(void *page_)
{
	uintptr_t page = (uintptr_t)page_;
	uintptr_t failures = 0;

	for (int i = 0; i < 500; i++)
		failures += hf_range_check(page, page + 4096, HF_READWRITE) != 0 || hf_range_check(4096, 8192, HF_READ) != -EFAULT;
	return (void *)failures;
}

static int no_procmap_no_descriptor(void *arg)
{
	struct rule rule = { SYS_ioctl, IOCTL_PROCMAP, ENOTTY };
	struct rlimit none;
	pthread_t t[4];
	void *failures;
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHILD_CHECK(page != MAP_FAILED && forbid(&rule, 1) == 0);
	CHILD_CHECK(hf_range_check((uintptr_t)page, (uintptr_t)page + 4096, HF_READWRITE) == 0);
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &none) == 0);
	none.rlim_cur = 0;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0 && dup(0) < 0);
	for (int i = 0; i < 4; i++)
		CHILD_CHECK(pthread_create(&t[i], NULL, check_often, page) == 0);
	for (int i = 0; i < 4; i++)
		CHILD_CHECK(pthread_join(t[i], &failures) == 0 && !failures);
	/* What it reads is what is there now, and not what was there when it was opened. */
	CHILD_CHECK(mprotect(page, 4096, PROT_READ) == 0);
	CHILD_CHECK(hf_range_check((uintptr_t)page, (uintptr_t)page + 4096, HF_READWRITE) == -EACCES);
	CHILD_CHECK(munmap(page, 4096) == 0);
	CHILD_CHECK(hf_range_check((uintptr_t)page, (uintptr_t)page + 4096, HF_READWRITE) == -EFAULT);
	return 0;
}

static void test_no_procmap_query(void **state)
{
	in_child_with_uffd(no_procmap);
	in_child(no_procmap_no_descriptor);
}

/* ------------------------------------------------------------------ no /proc */

/* A mount namespace of its own, in which /proc is empty. False: this user may not. */
static bool hide_proc(void)
{
	if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return false;
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("none", "/proc", "tmpfs", 0, NULL))
		return false;
	return access("/proc/self/maps", R_OK) != 0;
}

#define SKIPPED 77

static int no_proc(void *arg)
{
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_region r;
	size_t page = check_page();
	char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	if (!hide_proc())
		return SKIPPED;
	CHILD_CHECK(hf_range_check((uintptr_t)m, (uintptr_t)m + page, HF_READ) == -ENODATA);
	CHILD_CHECK(strstr(hf_error(), "mount /proc"));
	/* What can't be watched isn't cached; the simulator doesn't find out itself what is mapped. */
	CHILD_CHECK(hf_switch_open(NULL, &sw) == 0);
	CHILD_CHECK(hf_provider_open(sw, "sim", NULL, &p) == 0);
	CHILD_CHECK(hf_get(p, m, page, HF_READ, &r) == -ENODATA && strstr(hf_error(), "can't look"));
	CHILD_CHECK(hf_provider_close(p) == 0);
	/* A NIC that pins does. */
	rc = hf_provider_open(sw, "uring", NULL, &p);
	if (!rc) {
		for (int i = 0; i < 2; i++) {
			CHILD_CHECK(hf_get(p, m, page, HF_READ, &r) == 0);
			CHILD_CHECK(!(r.flags & HF_REGION_HIT) && hf_put(p, &r) == 0);
		}
		CHILD_CHECK(munmap(m, page) == 0);
		CHILD_CHECK(hf_get(p, m, page, HF_READ, &r) == -EFAULT && strstr(hf_error(), "cause can't be told"));
		CHILD_CHECK(hf_provider_close(p) == 0);
	}
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return 0;
}

/* /proc goes, and descriptors run out, after the switch was opened: it has what it needs. */
static int proc_lost(void *arg)
{
	struct hf_switch *sw;
	struct hf_provider *p;
	struct hf_region r;
	struct rlimit none;
	size_t page = check_page();
	char *m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHILD_CHECK(hf_switch_open(NULL, &sw) == 0);
	CHILD_CHECK(hf_provider_open(sw, "sim", NULL, &p) == 0);
	if (arg && !hide_proc())
		return SKIPPED;
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &none) == 0);
	none.rlim_cur = 0;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0 && dup(0) < 0);
	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(hf_get(p, m, page, HF_READ, &r) == 0);
		CHILD_CHECK(hf_put(p, &r) == 0);
	}
	CHILD_CHECK(munmap(m, 2 * page) == 0);
	CHILD_CHECK(hf_get(p, m, page, HF_READ, &r) == -EFAULT && strstr(hf_error(), "nothing is mapped"));
	CHILD_CHECK(hf_provider_close(p) == 0);
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return 0;
}

static void in_child_or_skip(int (*run)(void *arg), void *arg)
{
	int rc = check_child(run, arg);

	if (rc == SKIPPED)
		skip();
	assert_int_equal(rc, 0);
}

static void test_no_proc(void **state)
{
	in_child_or_skip(no_proc, NULL);
}

static void test_no_descriptor_left(void **state)
{
	in_child_or_skip(proc_lost, NULL);
}

static void test_proc_lost(void **state)
{
	in_child_or_skip(proc_lost, "hide");
}

/* No membarrier: readers fence themselves. */
static int no_membarrier(void *arg)
{
	struct rule rule = { SYS_membarrier, ANY, EPERM };

	hold_mode = HOLD_FENCED; /* the parent's, which a fork copies */
	CHILD_CHECK(forbid(&rule, 1) == 0);
	CHILD_CHECK(auto_is("uffd", true) == 0);
	CHILD_CHECK(hold_mode == HOLD_FENCED);
	return 0;
}

/* A sandbox is entered with everything open: the first deregistration finds out. */
static int membarrier_lost(void *arg)
{
	struct rule rule = { SYS_membarrier, ANY, EPERM };
	struct hf_switch *sw;

	CHILD_CHECK(hf_switch_open("proxy=manual", &sw) == 0);
	CHILD_CHECK(use_cache(sw, true) == 0);
	CHILD_CHECK(hold_mode == HOLD_ASYMMETRIC);
	CHILD_CHECK(forbid(&rule, 1) == 0);
	CHILD_CHECK(hf_switch_open("proxy=manual", &sw) == 0);
	CHILD_CHECK(use_cache(sw, true) == 0);
	CHILD_CHECK(hold_mode == HOLD_LOST);
	return 0;
}

static void test_membarrier_lost(void **state)
{
	in_child(membarrier_lost);
}

static void test_no_membarrier(void **state)
{
	in_child_with_uffd(no_membarrier);
}

static int uring_is(uint32_t err, int want, const char *words)
{
	struct rule rule = { SYS_io_uring_setup, ANY, err };
	struct hf_provider *p;
	struct hf_switch *sw;
	struct hf_probe probe;

	CHILD_CHECK(forbid(&rule, 1) == 0);
	CHILD_CHECK(hf_switch_open("proxy=manual", &sw) == 0);
	CHILD_CHECK(hf_provider_open(sw, "uring", NULL, &p) == want);
	CHILD_CHECK(strstr(hf_error(), words));
	CHILD_CHECK(hf_nic_probe(0, &probe) == 0 && probe.available == want);
	CHILD_CHECK(strstr(probe.reason, words));
	return use_cache(sw, true);
}

static int uring_refused(void *arg)
{
	return uring_is(EPERM, -EPERM, "io_uring");
}

static int uring_unknown(void *arg)
{
	return uring_is(ENOSYS, -ENOSYS, "seccomp");
}

static void test_uring_refused(void **state)
{
	in_child(uring_refused);
}

static void test_uring_unknown(void **state)
{
	in_child(uring_unknown);
}

/* ------------------------------------------------------------------ as containers are by default */

#define URING_CALLS(err) { SYS_io_uring_setup, ANY, err }, { SYS_io_uring_enter, ANY, err }, { SYS_io_uring_register, ANY, err }
/* Without CAP_SYS_ADMIN and the like both answer so. */
#define PRIVILEGED_CALLS                                                                                            \
	{ SYS_clone, NAMESPACES, EPERM }, { SYS_unshare, ANY, EPERM }, { SYS_setns, ANY, EPERM },               \
	{ SYS_mount, ANY, EPERM }, { SYS_umount2, ANY, EPERM }, { SYS_bpf, ANY, EPERM },                             \
	{ SYS_perf_event_open, ANY, EPERM }, { SYS_process_madvise, ANY, EPERM }, { SYS_keyctl, ANY, EPERM },        \
	{ SYS_add_key, ANY, EPERM }, { SYS_request_key, ANY, EPERM }, { SYS_mbind, ANY, EPERM },                     \
	{ SYS_get_mempolicy, ANY, EPERM }, { SYS_set_mempolicy, ANY, EPERM }
/* The device is not in a container; here there may be one. */
#define NO_DEVICE { SYS_ioctl, IOCTL_UFFD_NEW, EPERM }

/* Docker since 25, and before it; with a profile that allows userfaultfd. Refused is EPERM, and clone3 ENOSYS. */
static const struct rule docker[] = { { SYS_userfaultfd, ANY, EPERM }, NO_DEVICE, URING_CALLS(EPERM), PRIVILEGED_CALLS,
				      { SYS_clone3, ANY, ENOSYS }, { SYS_pidfd_getfd, ANY, EPERM }, { SYS_kcmp, ANY, EPERM } };
static const struct rule docker_before_25[] = { { SYS_userfaultfd, ANY, EPERM }, NO_DEVICE, PRIVILEGED_CALLS,
						{ SYS_clone3, ANY, ENOSYS } };
static const struct rule docker_and_uffd[] = { URING_CALLS(EPERM), PRIVILEGED_CALLS, { SYS_clone3, ANY, ENOSYS } };
/* Podman: ENOSYS for what the profile doesn't know, EPERM for what it lists. */
static const struct rule podman[] = { { SYS_userfaultfd, ANY, EPERM }, NO_DEVICE, URING_CALLS(ENOSYS), PRIVILEGED_CALLS,
				      { SYS_vmsplice, ANY, EPERM }, { SYS_move_pages, ANY, EPERM } };
/* The control: a filter that forbids nothing that matters. */
static const struct rule harmless[] = { PRIVILEGED_CALLS };

struct profile {
	const struct rule *rules;
	unsigned count;
	bool uffd;          /* caches, with this proxy */
	int uring;          /* what opening the NIC answers */
	const char *words;  /* ... and says */
	const char *json[4], *text[5];
	const char *never;  /* not in doctor's text */
};

#define RULES(r) .rules = r, .count = sizeof(r) / sizeof(r[0])
#define CALL(call, cause) "\"name\": \"" call "\", \"allowed\": false, \"error\": " cause

static struct profile profiles[] = {
	{ RULES(docker),
	  .uring = -EPERM,
	  .words = "io_uring_register",
	  .json = { "\"seccomp\": true", CALL("userfaultfd", "-1, \"cause\": \"seccomp\""),
		    CALL("io_uring_setup", "-1, \"cause\": \"seccomp\"") },
	  .text = { "userfaultfd forbidden by a seccomp filter", "io_uring forbidden by a seccomp filter",
		    "allow userfaultfd in the seccomp profile", "allow io_uring_setup, io_uring_enter, io_uring_register in",
		    "--security-opt seccomp=" } },
	{ RULES(docker_before_25),
	  .json = { CALL("userfaultfd", "-1, \"cause\": \"seccomp\""), "\"name\": \"io_uring_setup\", \"allowed\": true" },
	  .text = { "userfaultfd forbidden by a seccomp filter", "io_uring allowed", "allow userfaultfd in", "--device /dev/userfaultfd" },
	  .never = "allow io_uring_setup" },
	{ RULES(docker_and_uffd),
	  .uffd = true,
	  .uring = -EPERM,
	  .words = "io_uring_register",
	  .json = { "\"name\": \"userfaultfd\", \"allowed\": true", CALL("io_uring_enter", "-1, \"cause\": \"seccomp\"") },
	  .text = { "userfaultfd allowed", "io_uring forbidden by a seccomp filter", "allow io_uring_setup, io_uring_enter," },
	  .never = "allow userfaultfd" },
	{ RULES(podman),
	  .uring = -ENOSYS,
	  .words = "seccomp",
	  .json = { CALL("userfaultfd", "-1, \"cause\": \"seccomp\""), CALL("io_uring_setup", "-38, \"cause\": \"seccomp") },
	  .text = { "userfaultfd forbidden by a seccomp filter", "io_uring ", "allow userfaultfd in", "allow io_uring_setup, io_uring_enter," } },
	{ RULES(harmless),
	  .uffd = true,
	  .json = { "\"name\": \"userfaultfd\", \"allowed\": true", "\"name\": \"io_uring_setup\", \"allowed\": true" },
	  .text = { "userfaultfd allowed", "io_uring allowed" },
	  .never = "to allow" },
};

/* What the command prints, with one space for each run of white space. */
static int run_doctor(const char *arguments, char *out, size_t size)
{
	char command[512];
	size_t n = 0;
	FILE *f;
	int c;

	snprintf(command, sizeof(command), "%s doctor %s 2>&1", HOLDFAST_TOOL, arguments);
	f = popen(command, "re");
	CHILD_CHECK(f);
	while ((c = getc(f)) != EOF && n + 2 < size) {
		bool space = c == ' ' || c == '\n';

		if (!space || (n && out[n - 1] != ' '))
			out[n++] = space ? ' ' : (char)c;
	}
	out[n] = 0;
	CHILD_CHECK(pclose(f) >= 0);
	return 0;
}

static int doctor_says(const struct profile *p)
{
	static char out[256 * 1024];

	CHILD_CHECK(run_doctor("--json --nic sim --proxy manual", out, sizeof(out)) == 0);
	for (int i = 0; i < 4 && p->json[i]; i++)
		CHILD_CHECK(strstr(out, p->json[i]) || (fprintf(stderr, "no %s in %s\n", p->json[i], out), false));
	CHILD_CHECK(run_doctor("--nic sim --proxy manual", out, sizeof(out)) == 0);
	for (int i = 0; i < 5 && p->text[i]; i++)
		CHILD_CHECK(strstr(out, p->text[i]) || (fprintf(stderr, "no %s in %s\n", p->text[i], out), false));
	CHILD_CHECK(!p->never || !strstr(out, p->never));
	return 0;
}

/* Uncached, or cached by uffd: every get is served. */
static int uring_serves(struct hf_switch *sw, bool cached)
{
	size_t page = check_page();
	char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct hf_provider *p;
	struct hf_region r;

	CHILD_CHECK(hf_provider_open(sw, "uring", NULL, &p) == 0);
	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(hf_get(p, m, page, HF_READWRITE, &r) == 0);
		CHILD_CHECK(r.flags == (cached ? HF_REGION_CACHED | (i ? HF_REGION_HIT : 0u) : 0));
		CHILD_CHECK(hf_put(p, &r) == 0);
	}
	CHILD_CHECK(hf_provider_close(p) == 0);
	return 0;
}

static int in_profile(void *arg)
{
	const struct profile *p = arg;
	struct hf_provider *nic;
	struct hf_switch *sw;

	CHILD_CHECK(forbid(p->rules, p->count) == 0);
	CHILD_CHECK(auto_is(p->uffd ? "uffd" : "none", p->uffd) == 0);
	CHILD_CHECK(hf_switch_open(NULL, &sw) == 0);
	if (p->uring) {
		CHILD_CHECK(hf_provider_open(sw, "uring", NULL, &nic) == p->uring);
		CHILD_CHECK(strstr(hf_error(), p->words));
	} else {
		CHILD_CHECK(uring_serves(sw, p->uffd) == 0);
	}
	CHILD_CHECK(hf_switch_close(sw) == 0);
	return doctor_says(p);
}

static bool check_uring(void)
{
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void test_profiles(void **state)
{
	if (!check_uffd() || !check_uring())
		skip();
	for (size_t i = 0; i < sizeof(profiles) / sizeof(profiles[0]); i++)
		if (check_child(in_profile, &profiles[i]))
			fail_msg("profile %zu", i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_uffd_refused),     cmocka_unit_test(test_uffd_unknown),
		cmocka_unit_test(test_no_wp_async),      cmocka_unit_test(test_no_procmap_query),
		cmocka_unit_test(test_no_proc),          cmocka_unit_test(test_no_descriptor_left),
		cmocka_unit_test(test_proc_lost),
		cmocka_unit_test(test_no_membarrier),    cmocka_unit_test(test_membarrier_lost),
		cmocka_unit_test(test_uring_refused),
		cmocka_unit_test(test_uring_unknown),    cmocka_unit_test(test_profiles),
	};

	unsetenv("HOLDFAST");
	return cmocka_run_group_tests_name("container", tests, NULL, NULL);
}
