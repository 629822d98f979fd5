/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Answers that must be true: sizes of options, (NULL, SIZE_MAX), the sentence after success, and
 * what is said where the mappings can't be looked at.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cgroup.h"
#include "nic/uring.h"
#include "options.h"

#define STALE_WORDS "no such option"

/* Leave a sentence of a failed call that no later call may change if it succeeds. */
static void fail_once(void)
{
	struct hf_switch *sw;

	check_error(hf_switch_open("nonsense=1", &sw), -EINVAL, STALE_WORDS);
}

static void unchanged(void)
{
	check_says(STALE_WORDS);
}

/* ------------------------------------------------------------------ options */

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t value;
	} row[] = {
		{ "0", 0, 0 },		     { "4096", 0, 4096 },    { "64K", 0, 64 * KIB },
		{ "64k", 0, 64 * KIB },	     { "3M", 0, 3 * MIB },   { "3m", 0, 3 * MIB },
		{ "2G", 0, 2 * GIB },	     { "2g", 0, 2 * GIB },   { "1T", 0, TIB },
		{ "1t", 0, TIB },	     { "1000 ", -EINVAL, 0 }, { "1 K", -EINVAL, 0 },
		{ "64M ", -EINVAL, 0 },	     { " 64", -EINVAL, 0 },  { "64x", -EINVAL, 0 },
		{ "64KK", -EINVAL, 0 },	     { "64KB", -EINVAL, 0 }, { "64\t", -EINVAL, 0 },
		{ "64+", -EINVAL, 0 },	     { "64\x0b", -EINVAL, 0 }, { "64-", -EINVAL, 0 },
		{ "", -EINVAL, 0 },	     { "K", -EINVAL, 0 },    { "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },	     { "0x10", -EINVAL, 0 }, { "1P", -EINVAL, 0 },
		{ "18446744073709551616", -EINVAL, 0 }, { "99999999999T", -EINVAL, 0 },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		uint64_t value = 0;
		int rc = options_size(row[i].text, &value);

		if (rc != row[i].rc || value != row[i].value)
			fail_msg("\"%s\": %d, %llu", row[i].text, rc, (unsigned long long)value);
	}
}

/* No character behind a number but the eight letters is a unit. */
static void suffixes(void **state)
{
	for (int c = 1; c < 256; c++) {
		char text[3] = { '1', (char)c, 0 };
		bool digit = c >= '0' && c <= '9', unit = strchr("kmgtKMGT", c) != NULL;
		uint64_t value;

		if ((options_size(text, &value) == 0) != (digit || unit))
			fail_msg("character %d behind a number", c);
	}
}

static void option_info_without_places(void **state)
{
	const char *name;
	unsigned n = 0;

	while (hf_option_info(n, NULL, NULL, NULL) == 0)
		n++;
	assert_true(n > 4);
	check_error(hf_option_info(n, NULL, NULL, NULL), -ENOENT, "options");
	check_ok(hf_option_info(0, &name, NULL, NULL));
	assert_string_equal(name, "proxy");
}

/* ------------------------------------------------------------------ control groups */

struct group_file {
	const char *path, *text;
};

struct group_case {
	const char *name;
	uint64_t limit;
	struct group_file file[8];
};

#define CGROUP "/proc/self/cgroup"
#define V1 "/sys/fs/cgroup/memory"
#define V2 "/sys/fs/cgroup"

static const struct group_case group_cases[] = {
	{ "no /proc, no /sys", UINT64_MAX, { { 0 } } },
	{ "no /sys", UINT64_MAX, { { CGROUP, "0::/a/b\n" } } },
	{ "no /proc", UINT64_MAX, { { V2 "/memory.max", "4096\n" } } },
	{ "no limit", UINT64_MAX, { { CGROUP, "0::/a\n" }, { V2 "/a/memory.max", "max\n" } } },
	{ "own", 4096, { { CGROUP, "0::/a\n" }, { V2 "/a/memory.max", "4096\n" } } },
	{ "high below max", 8192,
	  { { CGROUP, "0::/a\n" }, { V2 "/a/memory.max", "65536\n" }, { V2 "/a/memory.high", "8192\n" } } },
	{ "an ancestor", 100,
	  { { CGROUP, "0::/a/b/c\n" }, { V2 "/a/b/c/memory.max", "max\n" }, { V2 "/a/b/memory.max", "300\n" },
	    { V2 "/a/memory.max", "100\n" } } },
	{ "not a neighbour's", 300,
	  { { CGROUP, "0::/a/b\n" }, { V2 "/a/b/memory.max", "300\n" }, { V2 "/a/c/memory.max", "100\n" },
	    { V2 "/ab/memory.max", "10\n" } } },
	{ "in a namespace", 512, { { CGROUP, "0::/\n" }, { V2 "/memory.max", "512\n" } } },
	{ "above the namespace", 512, { { CGROUP, "0::/../x\n" }, { V2 "/memory.max", "512\n" }, { V2 "/x/memory.max", "1\n" } } },
	{ "a path of the host's", 512, { { CGROUP, "0::/docker/1a2b\n" }, { V2 "/memory.max", "512\n" } } },
	{ "version 1", 777,
	  { { CGROUP, "5:cpu,cpuacct:/z\n4:memory:/docker/1\n1:name=systemd:/docker/1\n" },
	    { V1 "/docker/1/memory.limit_in_bytes", "777\n" }, { V1 "/memory.limit_in_bytes", "9223372036854771712\n" } } },
	{ "version 1, beside others", 777,
	  { { CGROUP, "4:cpu,memory,io:/g\n" }, { V1 "/g/memory.limit_in_bytes", "777\n" } } },
	{ "version 1, none of memory", UINT64_MAX,
	  { { CGROUP, "4:memoryless,mem:/g\n" }, { V1 "/g/memory.limit_in_bytes", "777\n" } } },
	{ "both versions", 600,
	  { { CGROUP, "4:memory:/g\n0::/h\n" }, { V1 "/g/memory.limit_in_bytes", "777\n" }, { V2 "/unified/h/memory.max", "600\n" } } },
	{ "nonsense", UINT64_MAX, { { CGROUP, "what\n:\n::\n" }, { V2 "/memory.max", "-1\n" } } },
};

/* All folders on the way are made. */
static void write_file(const char *root, const struct group_file *file)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", root, file->path);
	for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(path, 0700);
		*slash = '/';
	}
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(file->text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void cgroup_limits(void **state)
{
	for (size_t i = 0; i < sizeof(group_cases) / sizeof(group_cases[0]); i++) {
		const struct group_case *c = &group_cases[i];
		char root[] = "/tmp/holdfast-cgroup-XXXXXX";
		uint64_t limit;

		assert_non_null(mkdtemp(root));
		for (const struct group_file *file = c->file; file->path; file++)
			write_file(root, file);
		limit = cgroup_memory_limit(root);
		nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
		if (limit != c->limit)
			fail_msg("%s: %llu", c->name, (unsigned long long)limit);
	}
}

/*
 * A quarter of the group's limit; the control: without one, no more than the machine's memory and
 * RLIMIT_MEMLOCK give.
 */
static void default_bytes_fit(void **state)
{
	static const struct group_file file[] = { { CGROUP, "0::/g\n" }, { V2 "/g/memory.max", "65536\n" } };
	char root[] = "/tmp/holdfast-cgroup-XXXXXX";
	uint64_t free_of_limits;
	struct options o;

	assert_non_null(mkdtemp(root));
	free_of_limits = options_default_bytes(root);
	write_file(root, &file[0]);
	write_file(root, &file[1]);
	assert_int_equal(options_default_bytes(root), 16384);
	nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	assert_true(free_of_limits > 16384);
	check_ok(options_parse(&o, NULL, OPTION_PROVIDER));
	assert_int_equal(o.max_bytes, options_default_bytes(""));
	assert_true(o.max_bytes <= free_of_limits);
}

/* ------------------------------------------------------------------ everything */

static void invalidate_everything(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_provider *p = check_sim(sw, NULL, NULL);
	size_t page = check_page();
	char *m = check_map(4 * page);

	check_touch(p, m, page, HF_READ);
	check_touch(p, m + 2 * page, page, HF_READWRITE);
	assert_int_equal(hf_invalidate(sw, NULL, SIZE_MAX), 2);
	assert_int_equal(check_touch(p, m, page, HF_READ), HF_REGION_CACHED);
	assert_int_equal(hf_release(sw, NULL, SIZE_MAX), 1);
	check_pinned(p, 0);
	check_error(hf_invalidate(sw, m, SIZE_MAX), -EINVAL, "wraps");
	check_error(hf_invalidate(sw, (void *)page, SIZE_MAX), -EINVAL, "wraps");
	check_unmap(m, 4 * page);
	check_close(sw, p);
}

/* ------------------------------------------------------------------ the sentence after success */

/* A proxy that says of everything that it can't watch it, with a sentence. */
static int blind_open(struct hf_sink *sink, unsigned flags, void *config, void **proxy)
{
	*proxy = sink;
	return 0;
}

static void blind_close(void *proxy)
{
}

static int blind_secure(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id)
{
	hf_set_error(0, "this proxy is blind");
	return HF_UNWATCHED;
}

static void blind_unsecure(void *proxy, uint64_t start, uint64_t end, uint64_t id)
{
}

static const struct hf_proxy_ops blind_ops = {
	.size = sizeof(blind_ops),
	.abi = HF_BACKEND_ABI,
	.name = "blind",
	.open = blind_open,
	.close = blind_close,
	.secure = blind_secure,
	.unsecure = blind_unsecure,
};

static void uncached_get(void **state)
{
	size_t page = check_page();
	char *m = check_map(page);
	struct hf_provider *p;
	struct hf_switch *sw;

	fail_once();
	check_ok(hf_switch_open_proxy(&blind_ops, NULL, NULL, &sw));
	p = check_sim(sw, NULL, NULL);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(check_touch(p, m, page, HF_READ), 0);
		unchanged();
	}
	check_close(sw, p);
	unchanged();
	check_unmap(m, page);
}

/* The NIC is full: the cache evicts, and the get succeeds. */
static void get_after_eviction(void **state)
{
	struct hf_switch *sw = check_switch("proxy=manual");
	struct hf_sim sim = { .limit_count = 2 };
	struct hf_provider *p = check_sim(sw, &sim, NULL);
	size_t page = check_page();
	char *m = check_map(16 * page);

	fail_once();
	for (int i = 0; i < 16; i += 2) {
		check_touch(p, m + i * page, page, HF_READ);
		unchanged();
	}
	assert_true(check_stats(p).evictions > 0);
	check_close(sw, p);
	check_unmap(m, 16 * page);
}

/* The NIC would not let go. What is not cached is deregistered by the put, which succeeds. */
static void put_that_lets_go(void **state)
{
	struct hf_switch *sw = check_switch("proxy=none");
	struct hf_sim sim = { 0 };
	struct hf_provider *p = check_sim(sw, &sim, NULL);
	size_t page = check_page();
	char *m = check_map(page);
	struct hf_region r = check_get(p, m, page, HF_READ);

	fail_once();
	sim.fail_dereg_in = 1;
	check_ok(hf_put(p, &r));
	unchanged();
	assert_int_equal(check_stats(p).dereg_failures, 1);
	check_close(sw, p);
	check_unmap(m, page);
}

static void probes_and_opens(void **state)
{
	struct hf_probe probe;
	struct hf_switch *sw;

	fail_once();
	for (unsigned i = 0; hf_proxy_probe(i, &probe) == 0; i++)
		unchanged();
	check_error(hf_proxy_probe(99, &probe), -ENOENT, "no more");
	fail_once();
	for (unsigned i = 0; hf_nic_probe(i, &probe) == 0; i++)
		unchanged();
	check_error(hf_nic_probe(0, NULL), -EINVAL, "no place");
	fail_once();
	check_ok(hf_switch_open(NULL, &sw)); /* auto: proxies that aren't here are tried first */
	unchanged();
	check_ok(hf_switch_close(sw));
	unchanged();
}

/* ------------------------------------------------------------------ what io_uring refuses */

static struct hf_provider *open_uring(struct hf_switch *sw, const char *nic)
{
	struct hf_provider *p = NULL;
	int rc = hf_provider_open(sw, nic, NULL, &p);

	if (rc == -EPERM || rc == -ENOSYS)
		print_message("skipped: %s\n", hf_error());
	else
		check_ok(rc);
	return p;
}

/*
 * The page behind the end of a file can't be touched: neither is the mapping a hole, nor is its
 * kind to blame.
 */
static void short_memfd(void **state)
{
	struct hf_switch *sw = check_switch("proxy=none");
	struct hf_provider *p = open_uring(sw, "uring");
	size_t page = check_page();
	int fd = memfd_create("short", MFD_CLOEXEC);
	struct hf_region r;
	char *m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (!p)
		skip();
	assert_ptr_not_equal(m, MAP_FAILED);
	check_error(hf_get(p, m, 100, HF_READ, &r), -EFAULT, "ftruncate");
	assert_int_equal(ftruncate(fd, (off_t)page), 0);
	check_error(hf_get(p, m, 2 * page, HF_READ, &r), -EFAULT, "ftruncate");
	check_touch(p, m, page, HF_READ);
	assert_int_equal(ftruncate(fd, (off_t)(2 * page)), 0);
	check_touch(p, m, 2 * page, HF_READ); /* the control */
	munmap(m, 2 * page);
	close(fd);
	check_close(sw, p);
}

/*
 * The kernel has refused memory that is all right by the time anybody looks: no kind of mapping is
 * to blame.
 */
static void refused_but_well(void **state)
{
	size_t page = check_page();
	char *m = check_map(page);

	check_error(uring_why_mapping(-EFAULT, (uintptr_t)m, page), -EFAULT, "another thread changes");
	assert_int_equal(mprotect(m, page, PROT_NONE), 0);
	check_error(uring_why_mapping(-EFAULT, (uintptr_t)m, page), -EOPNOTSUPP, "not accessible");
	assert_int_equal(mprotect(m, page, PROT_READ | PROT_WRITE), 0);
	check_unmap(m, page);
}

/* The program has closed its ring, and another file has the number; and the number is free. */
static void ring_is_gone(void **state)
{
	struct hf_switch *sw = check_switch("proxy=none");
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params), other = open("/dev/null", O_RDWR | O_CLOEXEC);
	size_t page = check_page();
	char *m = check_map(page), nic[32];
	struct hf_provider *p;
	struct hf_region r;

	snprintf(nic, sizeof(nic), "uring:fd=%d,slots=8", fd);
	p = fd < 0 ? NULL : open_uring(sw, nic);
	if (!p)
		skip();
	check_touch(p, m, page, HF_READ);
	assert_int_equal(dup2(other, fd), fd);
	check_error(hf_get(p, m, page, HF_READ, &r), -EBADF, "no io_uring any more");
	close(fd);
	check_error(hf_get(p, m, page, HF_READ, &r), -EBADF, "no io_uring any more");
	check_unmap(m, page);
	check_close(sw, p);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(suffixes),
		cmocka_unit_test(option_info_without_places),
		cmocka_unit_test(cgroup_limits),
		cmocka_unit_test(default_bytes_fit),
		cmocka_unit_test(invalidate_everything),
		cmocka_unit_test(uncached_get),
		cmocka_unit_test(get_after_eviction),
		cmocka_unit_test(put_that_lets_go),
		cmocka_unit_test(probes_and_opens),
		cmocka_unit_test(short_memfd),
		cmocka_unit_test(refused_but_well),
		cmocka_unit_test(ring_is_gone),
	};

	unsetenv("HOLDFAST");
	return cmocka_run_group_tests_name("answers", tests, NULL, NULL);
}
