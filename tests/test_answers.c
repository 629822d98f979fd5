/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Answers that must be true: sizes of options, (NULL, SIZE_MAX), the sentence after success, and what is said where
 * the mappings can't be looked at.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>

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

/* The page behind the end of a file can't be touched: neither is the mapping a hole, nor is its kind to blame. */
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

/* The kernel has refused memory that is all right by the time anybody looks: no kind of mapping is to blame. */
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
