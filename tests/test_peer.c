/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Where the peer of a SAN socket is (src/san/address.h), and who it is (src/san/auth.h): addresses good and bad, there
 * and back; the proof of the secret against another implementation of HMAC; who may have had the secret's file.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "os.h"
#include "san/address.h"
#include "san/auth.h"

/* ------------------------------------------------------------------ addresses */

static struct san_address parse(const char *text)
{
	struct san_address a;

	if (san_address_parse(text, &a))
		fail_msg("'%s': %s", text, hf_error());
	return a;
}

/* Parsed and printed it is `printed`, and that gives the same again. */
static void good(const char *text, const char *printed, bool near)
{
	struct san_address a = parse(text), b;
	char out[128];

	san_address_print(&a.sa, a.len, out, sizeof(out));
	assert_string_equal(out, printed);
	assert_int_equal(a.near, near);
	b = parse(printed);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(&a.sa, &b.sa, a.len);
}

static void bad(const char *text, const char *words)
{
	struct san_address a;

	check_error(san_address_parse(text, &a), -EINVAL, words);
	assert_int_equal(a.len, 0);
	assert_false(a.near);
}

static void good_addresses(void **state)
{
	good("unix:/tmp/x", "unix:/tmp/x", true);
	good("unix:@name", "unix:@name", true);
	good("unix:@@", "unix:@@", true);
	good("unix:/with:colons", "unix:/with:colons", true);
	good("tcp:127.0.0.1:4000", "tcp:127.0.0.1:4000", true);
	good("tcp:127.9.8.7:0", "tcp:127.9.8.7:0", true);
	good("tcp:localhost:65535", "tcp:127.0.0.1:65535", true);
	good("tcp:[::1]:1", "tcp:[::1]:1", true);
	good("tcp:[0:0::1]:00080", "tcp:[::1]:80", true);
	good("tcp:[::ffff:127.0.0.1]:5", "tcp:[::ffff:127.0.0.1]:5", true);
}

/* Where another host can be: a secret is needed. */
static void far_addresses(void **state)
{
	good("tcp:0.0.0.0:4000", "tcp:0.0.0.0:4000", false);
	good("tcp:[::]:4000", "tcp:[::]:4000", false);
	good("tcp:128.0.0.1:4000", "tcp:128.0.0.1:4000", false);
	good("tcp:126.255.255.255:4000", "tcp:126.255.255.255:4000", false);
	good("tcp:[::2]:4000", "tcp:[::2]:4000", false);
	good("tcp:[::ffff:10.0.0.1]:4000", "tcp:[::ffff:10.0.0.1]:4000", false);
	good("tcp:[::ffff:126.0.0.1]:4000", "tcp:[::ffff:126.0.0.1]:4000", false);
	good("tcp:[::127.0.0.1]:4000", "tcp:[::127.0.0.1]:4000", false);
	good("tcp:[127::1]:4000", "tcp:[127::1]:4000", false);
}

static void bad_addresses(void **state)
{
	bad(NULL, "no address");
	bad("", "neither unix: nor tcp:");
	bad("/tmp/x", "neither unix: nor tcp:");
	bad("UNIX:/tmp/x", "neither unix: nor tcp:");
	bad("tcp", "neither unix: nor tcp:");
	bad("udp:127.0.0.1:4000", "neither unix: nor tcp:");
	bad("unix:", "path from the root");
	bad("unix:x", "path from the root");
	bad("unix:./x", "path from the root");
	bad("unix:@", "empty");
	bad("unix:/", "empty");
	bad("tcp:", "host:port");
	bad("tcp:4000", "host:port");
	bad("tcp::4000", "host is empty");
	bad("tcp:[]:4000", "host is empty");
	bad("tcp:localhost", "host:port");
	bad("tcp:localhost:", "port is a number");
	bad("tcp:localhost:65536", "port is a number");
	bad("tcp:localhost:000080", "port is a number");
	bad("tcp:localhost:99999", "port is a number");
	bad("tcp:localhost:4294967297", "port is a number");
	bad("tcp:localhost:+80", "port is a number");
	bad("tcp:localhost: 80", "port is a number");
	bad("tcp:localhost:80 ", "port is a number");
	bad("tcp:localhost:http", "port is a number");
	bad("tcp:::1:4000", "host is empty");
	bad("tcp:fe80::1:4000", "brackets");
	bad("tcp:[::1:4000", "[IPv6 address]:port");
	bad("tcp:[::1]4000", "[IPv6 address]:port");
	bad("tcp:[::1]", "[IPv6 address]:port");
	bad("tcp:[127.0.0.1]:4000", "tcp:[127.0.0.1]:4000");
	bad("tcp:[localhost]:4000", "tcp:[localhost]:4000");
	bad("tcp:[ip6-localhost]:4000", "tcp:[ip6-localhost]:4000"); /* a name that many machines know */
	bad("tcp:[::g]:4000", "tcp:[::g]:4000");
}

/* 107 bytes fit with the 0 behind them; an abstract name has none behind, but one in front. */
static void long_addresses(void **state)
{
	char text[600] = "unix:/", printed[600];
	struct san_address a;

	memset(text + 6, 'p', 106);
	good(text, text, true);
	text[5] = '@';
	good(text, text, true);
	a = parse(text);
	assert_int_equal(a.len, sizeof(struct sockaddr_un) - 1);
	strcat(text, "p");
	bad(text, "107");
	text[5] = '/';
	bad(text, "107");
	memset(text, 'h', 500);
	memcpy(text, "tcp:", 4);
	strcpy(text + 500, ":1");
	bad(text, "too long");

	a = parse("tcp:127.0.0.1:4000");
	memset(printed, 'x', sizeof(printed));
	san_address_print(&a.sa, a.len, printed, 8);
	assert_string_equal(printed, "tcp:127");
	assert_int_equal(printed[8], 'x');
}

/* What the kernel gives of a real socket. */
static void of_a_socket(void **state)
{
	struct sockaddr_storage sa;
	struct san_address a = parse("tcp:127.0.0.1:0");
	socklen_t len = sizeof(sa);
	char out[128];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a.sa, a.len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	san_address_print(&sa, len, out, sizeof(out));
	a = parse(out);
	assert_memory_equal(&a.sa, &sa, len);
	close(fd);

	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	len = sizeof(sa);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	san_address_print(&sa, len, out, sizeof(out));
	assert_string_equal(out, "unix:");
	len = offsetof(struct sockaddr_un, sun_path); /* a name of the kernel's choice */
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	len = sizeof(sa);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	san_address_print(&sa, len, out, sizeof(out));
	a = parse(out);
	assert_int_equal(a.len, len);
	assert_memory_equal(&a.sa, &sa, len);
	close(fd);
}

static void strange_addresses(void **state)
{
	struct sockaddr_storage sa = { .ss_family = AF_UNIX };
	struct sockaddr_un *un = (struct sockaddr_un *)&sa;
	socklen_t path = offsetof(struct sockaddr_un, sun_path);
	char out[128];

	memcpy(un->sun_path, "\0a\0\nb", 5);
	san_address_print(&sa, path + 5, out, sizeof(out));
	assert_string_equal(out, "unix:@a??b");
	memset(un->sun_path, 'p', sizeof(un->sun_path));
	san_address_print(&sa, sizeof(*un), out, sizeof(out)); /* no 0 at its end */
	assert_int_equal(strlen(out), 5 + sizeof(un->sun_path));
	san_address_print(&sa, 0, out, sizeof(out));
	assert_string_equal(out, "?");
	sa.ss_family = AF_INET;
	san_address_print(&sa, sizeof(sa_family_t), out, sizeof(out));
	assert_string_equal(out, "tcp:?");
	sa.ss_family = AF_PACKET;
	san_address_print(&sa, sizeof(sa), out, sizeof(out));
	assert_string_equal(out, "?");
}

/* ------------------------------------------------------------------ the secret's file */

static char path[] = "/tmp/holdfast-secret-XXXXXX";

static int begin(void **state)
{
	int fd;

	strcpy(path + sizeof(path) - 7, "XXXXXX");
	fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int end(void **state)
{
	hf_fault_arm(0);
	return unlink(path);
}

static void write_file(const void *text, size_t size)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	assert_int_equal(write(fd, text, size), size);
	close(fd);
}

static struct san_secret load(const void *text, size_t size)
{
	struct san_secret s;

	write_file(text, size);
	check_ok(san_secret_load(path, &s));
	assert_true(s.given);
	return s;
}

static void refused(const char *file, int want, const char *words)
{
	struct san_secret s, none = { 0 };

	memset(&s, 0xff, sizeof(s));
	check_error(san_secret_load(file, &s), want, words);
	assert_false(s.given);
	assert_memory_equal(s.key, none.key, sizeof(s.key));
}

static const char secret[] = "a secret of some length";

static void secret_sizes(void **state)
{
	char text[4200];
	struct san_secret a, b;

	memset(text, 's', sizeof(text));
	for (size_t size = 0; size < 16; size++) {
		write_file(text, size);
		refused(path, -EINVAL, "16 to 4096");
	}
	a = load(text, 16);
	b = load(text, 17);
	assert_memory_not_equal(a.key, b.key, sizeof(a.key));
	load(text, 4096);
	write_file(text, 4097);
	refused(path, -EINVAL, "16 to 4096");
	write_file(text, 4200);
	refused(path, -EINVAL, "at least");
	/* One newline belongs to the editor, not to the secret. */
	text[16] = text[17] = '\n';
	b = load(text, 17);
	assert_memory_equal(a.key, b.key, sizeof(a.key));
	b = load(text, 18);
	assert_memory_not_equal(a.key, b.key, sizeof(a.key));
	text[15] = '\n';
	write_file(text, 16);
	refused(path, -EINVAL, "15 bytes");
	memset(text, 's', sizeof(text));
	text[4096] = '\n';
	load(text, 4097);
	write_file(text, 4098);
	refused(path, -EINVAL, "at least 4098");
	/* Zeros are bytes like any other. */
	memset(text, 0, 16);
	b = load(text, 16);
	assert_memory_not_equal(a.key, b.key, sizeof(a.key));
	san_secret_wipe(&b);
	assert_false(b.given);
	for (size_t i = 0; i < sizeof(b.key); i++)
		assert_int_equal(b.key[i], 0);
}

static void secret_rights(void **state)
{
	struct san_secret s;

	write_file(secret, sizeof(secret));
	for (mode_t bit = 1; bit <= 040; bit *= 2) {
		assert_int_equal(chmod(path, 0600 | bit), 0);
		refused(path, -EACCES, "only its owner");
	}
	assert_int_equal(chmod(path, 0400), 0);
	check_ok(san_secret_load(path, &s));
	assert_int_equal(chmod(path, 0), 0);
	if (geteuid())
		refused(path, -EACCES, "can't be opened");
	assert_int_equal(chmod(path, 0600), 0);
	/* Root takes no secret that a user can change. Who may not give a file away can't be given one either. */
	if (chown(path, 4711, (gid_t)-1) == 0)
		refused(path, -EACCES, "belongs to uid 4711");
}

static void secret_elsewhere(void **state)
{
	char longer[256];

	refused("/nonexistent/file", -ENOENT, "/nonexistent/file");
	refused("/", -EINVAL, "no plain file");
	refused("/dev/null", -EINVAL, "no plain file");
	snprintf(longer, sizeof(longer), "%s-fifo", path);
	assert_int_equal(mkfifo(longer, 0600), 0);
	refused(longer, -EINVAL, "no plain file"); /* and doesn't wait for a writer */
	unlink(longer);
	write_file(secret, sizeof(secret));
	hf_fault_arm(1);
	refused(path, -EMFILE, "can't be opened");
}

/* ------------------------------------------------------------------ the proof */

static void from_hex(const char *hex, uint8_t *out, size_t size)
{
	assert_int_equal(strlen(hex), 2 * size);
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)strtoul((char[]){ hex[2 * i], hex[2 * i + 1], 0 }, NULL, 16);
}

/* A client's hello and a server's. */
static void hellos(uint8_t client[WIRE_HELLO_SIZE], uint8_t server[WIRE_HELLO_SIZE])
{
	struct wire_hello c = {
		.version_min = 1, .version_max = 3, .max_message = 64 * MIB, .max_rdma = GIB, .depth = 256,
	}, s = { .version_min = 1, .version_max = 1, .max_message = 32 * MIB, .max_rdma = 2 * GIB, .depth = 64 };

	for (unsigned i = 0; i < WIRE_NONCE_SIZE; i++) {
		c.nonce[i] = (uint8_t)i;
		s.nonce[i] = (uint8_t)(100 + i);
	}
	wire_put_hello(client, &c);
	wire_put_hello(server, &s);
}

/* By another implementation, of HMAC-SHA-256(SHA-256("a secret of some length"), role, client's hello, server's). */
static void known_answers(void **state)
{
	static const char *const want[] = {
		[SAN_CLIENT] = "02d9d8932e71e262d9474c7174624cacde1c78e80747a0ca23c3c62b5e487095",
		[SAN_SERVER] = "4c323689b9887bac02acee6429f97859863a23f8c0631b144d4e2539aee1c195",
	};
	struct san_secret s = load(secret, sizeof(secret) - 1);
	uint8_t client[WIRE_HELLO_SIZE], server[WIRE_HELLO_SIZE], mac[WIRE_MAC_SIZE], known[WIRE_MAC_SIZE];

	hellos(client, server);
	for (enum san_role role = SAN_CLIENT; role <= SAN_SERVER; role++) {
		san_prove(&s, role, client, server, mac);
		from_hex(want[role], known, sizeof(known));
		assert_memory_equal(mac, known, sizeof(mac));
		assert_true(san_proved(&s, role, client, server, mac));
	}
}

static void wrong_proofs(void **state)
{
	struct san_secret s = load(secret, sizeof(secret) - 1), other = load("another secret, as long", 23);
	uint8_t client[WIRE_HELLO_SIZE], server[WIRE_HELLO_SIZE], mac[WIRE_MAC_SIZE], wrong[WIRE_MAC_SIZE] = { 0 };

	hellos(client, server);
	san_prove(&s, SAN_CLIENT, client, server, mac);
	assert_false(san_proved(&s, SAN_SERVER, client, server, mac)); /* sent back */
	assert_false(san_proved(&s, SAN_CLIENT, server, client, mac)); /* swapped */
	assert_false(san_proved(&s, SAN_CLIENT, client, client, mac));
	assert_false(san_proved(&other, SAN_CLIENT, client, server, mac));
	assert_false(san_proved(&s, SAN_CLIENT, client, server, wrong)); /* who has no secret says zeros */
	san_prove(&other, SAN_CLIENT, client, server, wrong);
	assert_false(san_proved(&s, SAN_CLIENT, client, server, wrong));
	for (unsigned bit = 0; bit < 8 * WIRE_MAC_SIZE; bit++) {
		mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(san_proved(&s, SAN_CLIENT, client, server, mac));
		mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (unsigned bit = 0; bit < 8 * WIRE_HELLO_SIZE; bit++) { /* a limit, a version, a challenge: all are in it */
		client[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(san_proved(&s, SAN_CLIENT, client, server, mac));
		client[bit / 8] ^= (uint8_t)(1u << bit % 8);
		server[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(san_proved(&s, SAN_CLIENT, client, server, mac));
		server[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(san_proved(&s, SAN_CLIENT, client, server, mac));
}

static void without_a_secret(void **state)
{
	struct san_secret s = { 0 }, given = load(secret, sizeof(secret) - 1);
	uint8_t client[WIRE_HELLO_SIZE], server[WIRE_HELLO_SIZE], mac[WIRE_MAC_SIZE], zeros[WIRE_MAC_SIZE] = { 0 };

	hellos(client, server);
	memset(mac, 0xff, sizeof(mac));
	san_prove(&s, SAN_SERVER, client, server, mac);
	assert_memory_equal(mac, zeros, sizeof(mac));
	assert_true(san_proved(&s, SAN_SERVER, client, server, zeros));
	mac[5] = 1;
	assert_false(san_proved(&s, SAN_SERVER, client, server, mac));
	/* Only one side has one: refused, whoever that is. */
	san_prove(&given, SAN_CLIENT, client, server, mac);
	assert_false(san_proved(&s, SAN_CLIENT, client, server, mac));
	assert_false(san_proved(&given, SAN_SERVER, client, server, zeros));
}

static void nonces(void **state)
{
	uint8_t n[64][WIRE_NONCE_SIZE];

	for (int i = 0; i < 64; i++) {
		check_ok(san_nonce(n[i]));
		for (int j = 0; j < i; j++)
			assert_memory_not_equal(n[i], n[j], WIRE_NONCE_SIZE);
	}
	hf_fault_arm(1);
	check_error(san_nonce(n[0]), -ENOSYS, "getrandom");
}

/* ------------------------------------------------------------------ the uid */

static void peer_of_a_socket(void **state)
{
	uid_t uid = 4711;
	pid_t pid = 4711;
	int pair[2], tcp = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	check_ok(san_peer(pair[0], &uid, &pid));
	assert_int_equal(uid, geteuid());
	assert_int_equal(pid, getpid());
	check_error(san_peer(tcp, &uid, &pid), -EOPNOTSUPP, "only a unix socket");
	check_error(san_peer(-1, &uid, &pid), -EBADF, "descriptor -1");
	close(pair[0]);
	close(pair[1]);
	close(tcp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_addresses), cmocka_unit_test(far_addresses), cmocka_unit_test(bad_addresses),
		cmocka_unit_test(long_addresses), cmocka_unit_test(of_a_socket), cmocka_unit_test(strange_addresses),
		cmocka_unit_test_setup_teardown(secret_sizes, begin, end),
		cmocka_unit_test_setup_teardown(secret_rights, begin, end),
		cmocka_unit_test_setup_teardown(secret_elsewhere, begin, end),
		cmocka_unit_test_setup_teardown(known_answers, begin, end),
		cmocka_unit_test_setup_teardown(wrong_proofs, begin, end),
		cmocka_unit_test_setup_teardown(without_a_secret, begin, end),
		cmocka_unit_test_setup_teardown(nonces, begin, end), cmocka_unit_test(peer_of_a_socket),
	};

	return cmocka_run_group_tests_name("peer", tests, NULL, NULL);
}
