/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * An address in the place of the device's name of the NIC `verbs`: how it is written, and each refusal with its sentence. These
 * need no RDMA device. Where there is one, HF_TEST_DEVICE names it, HF_TEST_ADDRESSES has addresses of its interface, with a
 * blank between, and HF_TEST_OTHER one of another interface.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "nic/nic.h"
#include "nic/verbs.h"

#ifdef HAVE_LIBRDMACM
#define IF_ASKED(err, words) (err), (words)
#else
#define IF_ASKED(err, words) -ENOSYS, "built without librdmacm"
#endif

static struct hf_switch *sw;

static void refused(const char *arg, int err, const char *words)
{
	struct hf_provider *p = NULL;
	char name[160];

	snprintf(name, sizeof(name), "verbs:%s", arg);
	check_error(hf_provider_open(sw, name, NULL, &p), err, words);
	assert_null(p);
}

static bool any_device(void)
{
	char names[64];

	verbs_list_devices(names, sizeof(names));
	return names[0];
}

/* ------------------------------------------------------------------ how it is written */

static void test_written(void **state)
{
	static const char *const bad[] = { "[::1", "1.2.3", "1.2.3.", "1.2.3.4.5", "256.1.1.1", "::1", "fe80::1%lo", "::1]", "[]", "[",
					   "[1.2.3.4]", "[::g]", "[::1]]", "[::1]x", "[::ffff:1.2.3.4%lo]", "1.2.3/1", "[::1/1" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		refused(bad[i], -EINVAL, "is no address: give an IPv4 address, or an IPv6 address in brackets");
	refused("[::1]/1", -EINVAL, "an address says which port it is: leave /1 behind [::1] out");
	refused("127.0.0.1/", -EINVAL, "leave / behind 127.0.0.1 out");
	refused("[fe80::1]", -EINVAL, "good on one network interface only: say which, as \"[fe80::1%eth0]\"");
	refused("0.0.0.0", -EINVAL, "stands for every address");
	refused("[::]", -EINVAL, "stands for every address");
	refused("[fe80::1%nosuch0]", -ENODEV, "there is no network interface 'nosuch0' here");
	refused("[fe80::1%]", -ENODEV, "there is no network interface '' here");
	refused("[fe80::1%-1]", -ENODEV, "there is no network interface '-1' here");
	refused("127.0.0.1,revoke=magic", -EINVAL, "is not understood");
	refused("127.0.0.1,127.0.0.1", -EINVAL, "is not understood");
	refused("127.0.0.1,", -EINVAL, "is not understood");
}

static void expect_parsed(const char *text, int family, const char *host, unsigned scope)
{
	union verbs_sockaddr a;
	uint8_t raw[16];

	check_ok(verbs_address_parse(text, &a));
	assert_int_equal(a.any.sa_family, family);
	assert_int_equal(inet_pton(family, host, raw), 1);
	assert_memory_equal(raw, family == AF_INET ? (void *)&a.v4.sin_addr : &a.v6.sin6_addr, family == AF_INET ? 4 : 16);
	if (family == AF_INET6)
		assert_int_equal(a.v6.sin6_scope_id, scope);
}

static void expect_text(const char *text, const char *want)
{
	char out[VERBS_ADDRESS_TEXT];
	union verbs_sockaddr a;

	check_ok(verbs_address_parse(text, &a));
	assert_string_equal(verbs_address_text(&a, out), want);
}

static void test_parsed(void **state)
{
	static const char *const names[] = { "rxe0", "mlx5_0", "mlx5_0/1", "rocep1s0f0", "ib.1", "", "7", "1a.2" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_false(verbs_is_address(names[i]));
	expect_parsed("192.168.1.5", AF_INET, "192.168.1.5", 0);
	expect_parsed("[2001:db8::5]", AF_INET6, "2001:db8::5", 0);
	expect_parsed("[::ffff:192.168.1.5]", AF_INET, "192.168.1.5", 0);
	expect_parsed("[fe80::1%lo]", AF_INET6, "fe80::1", if_nametoindex("lo"));
	expect_parsed("[fe80::1%4711]", AF_INET6, "fe80::1", 4711);
	expect_text("192.168.1.5", "192.168.1.5");
	expect_text("[2001:DB8:0::5]", "2001:db8::5");
	expect_text("[fe80::1%lo]", "fe80::1%lo");
	expect_text("[fe80::1%2147483647]", "fe80::1%2147483647");
}

/* ------------------------------------------------------------------ whose it is */

/* 192.0.2.0/24 and 2001:db8::/32 are for documents: no machine has them. */
static void test_not_local(void **state)
{
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	refused("192.0.2.77", -EADDRNOTAVAIL, "this machine has no address 192.0.2.77");
	refused("192.0.2.77,revoke=dereg", -EADDRNOTAVAIL, "this machine has no address 192.0.2.77");
	refused("[::ffff:192.0.2.77]", -EADDRNOTAVAIL, "this machine has no address 192.0.2.77");
	if (fd < 0)
		return;
	refused("[2001:db8::77]", -EADDRNOTAVAIL, "this machine has no address 2001:db8::77");
	refused("[fe80::77:77%lo]", -EADDRNOTAVAIL, "this machine has no address fe80::77:77%lo");
	refused("[fe80::77:77%2147483647]", -EADDRNOTAVAIL, "this machine has no address fe80::77:77%2147483647");
	close(fd);
}

static void test_no_device(void **state)
{
	if (any_device())
		skip();
	refused("127.0.0.1", IF_ASKED(-ENODEV, "no RDMA device here: load its driver"));
	refused("127.0.0.1,revoke=dereg", IF_ASKED(-ENODEV, "no RDMA device here"));
}

/* A library prints nothing, whatever those below it do. */
static void test_silent(void **state)
{
	int out = memfd_create("output", MFD_CLOEXEC), saved[3];
	struct hf_provider *p = NULL;
	int rc;

	assert_true(out >= 0);
	fflush(NULL);
	for (int i = 1; i < 3; i++) {
		saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
		dup2(out, i);
	}
	rc = hf_provider_open(sw, "verbs:127.0.0.1", NULL, &p);
	for (int i = 1; i < 3; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
	assert_int_equal(lseek(out, 0, SEEK_END), 0);
	close(out);
	if (!rc)
		check_ok(hf_provider_close(p));
}

/* iWARP: rdma_cm would give its address's device, but not such connections as are made here. */
static void test_transport(void **state)
{
	struct ibv_device d = { .transport_type = IBV_TRANSPORT_IB, .name = "siw0" };

	check_ok(verbs_why_transport(&d));
	d.transport_type = IBV_TRANSPORT_IWARP;
	check_error(verbs_why_transport(&d), -EOPNOTSUPP, "the RDMA device siw0 is an iWARP one");
	d.transport_type = IBV_TRANSPORT_USNIC;
	check_error(verbs_why_transport(&d), -EOPNOTSUPP, "siw0 is neither InfiniBand nor RoCE");
}

/* ------------------------------------------------------------------ with a device */

/* Its port's address, as a connection would take it that could have any. */
static void expect_place(struct verbs_nic *nic)
{
	struct verbs_place place;
	uint8_t gid[16] = { [10] = 0xff, [11] = 0xff };

	check_ok(verbs_find_place(nic, -1, &place));
	if (nic->own.any.sa_family == AF_INET)
		memcpy(gid + 12, &nic->own.v4.sin_addr, 4);
	else
		memcpy(gid, &nic->own.v6.sin6_addr, 16);
	assert_memory_equal(place.gid.raw, gid, 16);
	assert_int_equal(place.port, nic->port);
	if (nic->own.any.sa_family == AF_INET6 && nic->own.v6.sin6_scope_id) {
		struct ibv_gid_entry e;

		assert_int_equal(ibv_query_gid_ex(nic->context, place.port, place.gid_index, &e, 0), 0);
		assert_int_equal(e.ndev_ifindex, nic->own.v6.sin6_scope_id);
	}
}

/* What librdmacm keeps of the parent's device serves a forked child as well. */
static int child_finds(void *arg)
{
	struct hf_switch *own;
	struct hf_provider *p;
	char name[160];

	snprintf(name, sizeof(name), "verbs:%s", (char *)arg);
	CHILD_CHECK(!hf_switch_open("proxy=manual", &own));
	CHILD_CHECK(!hf_provider_open(own, name, NULL, &p));
	CHILD_CHECK(!hf_provider_close(p) && !hf_switch_close(own));
	return 0;
}

static void test_found(void **state)
{
	const char *device = getenv("HF_TEST_DEVICE"), *list = getenv("HF_TEST_ADDRESSES");
	char copy[512], *save = NULL;
	void *nic;
	int n = 0;

	if (!device || !list)
		skip();
	snprintf(copy, sizeof(copy), "%s", list);
	for (char *a = strtok_r(copy, " ", &save); a; a = strtok_r(NULL, " ", &save), n++) {
		check_ok(hf_nic_verbs.open(a, NULL, &nic));
		assert_string_equal(((struct verbs_nic *)nic)->name, device);
		assert_int_equal(((struct verbs_nic *)nic)->port, 1);
		expect_place(nic);
		hf_nic_verbs.close(nic);
	}
	assert_true(n > 0);
	snprintf(copy, sizeof(copy), "%s", list);
	assert_int_equal(check_child(child_finds, strtok_r(copy, " ", &save)), 0);
}

static void test_other_interface(void **state)
{
	const char *device = getenv("HF_TEST_DEVICE"), *other = getenv("HF_TEST_OTHER");
	char words[64];

	if (!device || !other)
		skip();
	snprintf(words, sizeof(words), "which belongs to no RDMA device; there are: %s", device);
	refused(other, -ENODEV, words);
	refused("127.0.0.1", -ENODEV, "the address 127.0.0.1 is that of lo, which belongs to no");
	refused("[::1]", -ENODEV, "the address ::1 is that of lo, which belongs to no");
	refused("192.0.2.77", -EADDRNOTAVAIL, "this machine has no address 192.0.2.77");
}

/* Which device file is missing, or may not be opened, is said: HF_TEST_REFUSED=ERRNO:WORDS. */
static int child_refused(void *arg)
{
	char *words = strchr(arg, ':');
	struct hf_provider *p;
	char name[160];
	int rc;

	CHILD_CHECK(words++);
	snprintf(name, sizeof(name), "verbs:%s", strtok(getenv("HF_TEST_ADDRESSES"), " "));
	CHILD_CHECK(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
	CHILD_CHECK(!hf_switch_open("proxy=manual", &sw));
	rc = hf_provider_open(sw, name, NULL, &p);
	if (rc != -atoi(arg) || !strstr(hf_error(), words))
		fprintf(stderr, "%d instead of -%s: %s\n", rc, (char *)arg, hf_error());
	CHILD_CHECK(rc == -atoi(arg) && strstr(hf_error(), words));
	return 0;
}

static void test_not_permitted(void **state)
{
	char *want = getenv("HF_TEST_REFUSED");

	if (!want || geteuid())
		skip();
	assert_int_equal(check_child(child_refused, want), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_written),
		cmocka_unit_test(test_parsed),
		cmocka_unit_test(test_not_local),
		cmocka_unit_test(test_no_device),
		cmocka_unit_test(test_silent),
		cmocka_unit_test(test_transport),
		cmocka_unit_test(test_found),
		cmocka_unit_test(test_other_interface),
		cmocka_unit_test(test_not_permitted),
	};
	int rc;

	if (getenv("HF_TEST_FILTER"))
		cmocka_set_test_filter(getenv("HF_TEST_FILTER"));
	if (hf_switch_open("proxy=manual", &sw))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	hf_switch_close(sw);
	return rc;
}
