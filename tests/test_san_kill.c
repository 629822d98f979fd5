/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets: one of two processes is killed (SIGKILL) at every step of a connection's life: between the two halves of
 * a handshake, after memory was exposed, in the midst of a message, a write, a read, before the answer to it, at the close. The other
 * one is told a clear error by every operation, waits for nothing, and has no pin, no descriptor and no path left when it has
 * closed (R16, R38, R41, R44).
 *
 * This process itself never opens anything, so that both are forked from one without threads.
 */
#include "san.h"

#include <fcntl.h>
#include <holdfast/backend.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define LEN (600 * KIB) /* several steps */

static char dir[] = "/tmp/hf-test-kill-XXXXXX", path[64], address[80];

/* ------------------------------------------------------------------ the victim */

static _Atomic int steps_left; /* 0: no one is killed */

static void count_step(const char *what)
{
	if (atomic_load(&steps_left) > 0 && atomic_fetch_sub(&steps_left, 1) == 1)
		kill(getpid(), SIGKILL);
}

/* ------------------------------------------------------------------ what both do: no asserts in here */

struct life {
	bool server;
	int peer;       /* a pipe that ends with the other process */
	struct hf_switch *sw;
	struct end e;
	struct hf_sock *listener;
	char *mem;
	uint64_t mr;
	char descriptor[HF_DESCRIPTOR_SIZE];
	int error;      /* the first */
};

static bool peer_is_dead(const struct life *l)
{
	struct pollfd p = { .fd = l->peer, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* What may be said when the other side is gone. */
static bool is_clear(int err)
{
	if (err == -EACCES && getenv("HF_TEST_NIC"))
		return true; /* its windows were taken away before its stream was closed */
	return err == -ESHUTDOWN || err == -ECONNRESET || err == -ECONNREFUSED || err == -ENOENT || err == -EPROTO ||
	       err == -ETIMEDOUT || err == -ENOTCONN;
}

static int meet(struct life *l)
{
	int rc = l->server ? hf_listen(l->e.p, address, NULL, &l->listener) : 0;

	if (rc)
		return rc;
	do {
		bool dead = peer_is_dead(l);

		rc = l->server ? hf_accept(l->listener, l->e.cq, 20, &l->e.s) :
				 hf_connect(l->e.p, address, NULL, l->e.cq, PATIENCE_MS, &l->e.s);
		if (!rc || dead || (rc != -ETIMEDOUT && rc != -ENOENT && rc != -ECONNREFUSED))
			return rc;
		if (!l->server)
			usleep(1000);
	} while (true);
}

/* `n` completions; the first status that is not 0. -ETIME: one never came. */
static int finish(struct life *l, int n)
{
	struct hf_completion c;
	int rc = 0;

	while (n--) {
		if (hf_cq_wait(l->e.cq, &c, 1, PATIENCE_MS) != 1)
			return -ETIME;
		rc = rc ? rc : c.status;
	}
	return rc;
}

/* Is told where to write to, writes, reads it back, and sends. */
static int client(struct life *l)
{
	struct hf_segment d = { l->mem, HF_DESCRIPTOR_SIZE, l->mr }, x = { l->mem + 4096, LEN, l->mr };
	int rc = hf_post_recv(l->e.s, &d, 1, NULL);

	rc = rc ? rc : finish(l, 1);
	if (rc)
		return rc;
	memcpy(l->descriptor, l->mem, sizeof(l->descriptor));
	rc = hf_post_write(l->e.s, &x, 1, l->descriptor, HF_DESCRIPTOR_SIZE, 0, NULL);
	rc = rc ? rc : finish(l, 1);
	rc = rc ? rc : hf_post_read(l->e.s, &x, 1, l->descriptor, HF_DESCRIPTOR_SIZE, 0, NULL);
	rc = rc ? rc : finish(l, 1);
	rc = rc ? rc : hf_post_send(l->e.s, &x, 1, NULL);
	return rc ? rc : finish(l, 1);
}

static int server(struct life *l)
{
	struct hf_segment d = { l->mem, HF_DESCRIPTOR_SIZE, l->mr }, x = { l->mem + 4096, LEN, l->mr };
	size_t length = HF_DESCRIPTOR_SIZE;
	uint64_t exposed;
	int rc = hf_mr_expose(l->e.s, l->mem + 4096, LEN, HF_READWRITE, l->mem, &length, &exposed);

	rc = rc ? rc : hf_post_send(l->e.s, &d, 1, NULL);
	if (rc)
		return rc;
	rc = hf_post_recv(l->e.s, &x, 1, NULL);
	return rc ? finish(l, 1), rc : finish(l, 2);
}

static int live(struct life *l)
{
	int rc = meet(l);

	if (!rc)
		rc = hf_mr_reg(l->e.s, l->mem, LEN + 4096, HF_READWRITE, &l->mr);
	if (!rc)
		rc = l->server ? server(l) : client(l);
	return rc;
}

static int open_all(struct life *l)
{
	const char *nic = getenv("HF_TEST_NIC") ? getenv("HF_TEST_NIC") : "uring"; /* by queue pairs: in the guest */

	l->mem = mmap(NULL, LEN + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	CHILD_CHECK(l->mem != MAP_FAILED);
	CHILD_CHECK(hf_switch_open(san_proxy(NULL), &l->sw) == 0);
	CHILD_CHECK(hf_provider_open(l->sw, nic, NULL, &l->e.p) == 0);
	CHILD_CHECK(hf_cq_open(&l->e.cq) == 0);
	return 0;
}

static int close_all(struct life *l)
{
	CHILD_CHECK(hf_sock_close(l->e.s) == 0);
	CHILD_CHECK(hf_sock_close(l->listener) == 0);
	CHILD_CHECK(hf_cq_close(l->e.cq) == 0);
	return 0;
}

static unsigned fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

/* As many as before. Else they are named. */
static bool as_many_fds(unsigned before)
{
	char path_[64], to[128];
	unsigned now = fds();

	for (int fd = 3; fd < 64 && now != before; fd++) {
		ssize_t n = (snprintf(path_, sizeof(path_), "/proc/self/fd/%d", fd), readlink(path_, to, sizeof(to)));

		if (n > 0)
			fprintf(stderr, "%d is open: %.*s\n", fd, (int)n, to);
	}
	return now == before;
}

static bool comes_to_nothing(struct hf_provider *p)
{
	struct hf_stats s = { .pinned_bytes = 1 };

	hf_flush(p);
	for (int i = 0; i < PATIENCE_MS && s.pinned_bytes; i++) {
		hf_provider_stats(p, &s, sizeof(s));
		usleep(s.pinned_bytes ? 1000 : 0);
	}
	return !s.pinned_bytes;
}

/* What the survivor answers: 0, it was told a clear error; 2, all went well; 1, something is wrong. */
static int survive(struct life *l)
{
	struct hf_region r;
	struct stat st;
	unsigned before;
	int error;

	/* Once for what the library keeps for the process. */
	CHILD_CHECK(open_all(l) == 0 && hf_get(l->e.p, l->mem, 1, HF_READ, &r) == 0 && hf_put(l->e.p, &r) == 0);
	CHILD_CHECK(hf_range_check((uintptr_t)l->mem, (uintptr_t)l->mem + 4096, HF_READ) == 0); /* not each proxy looks */
	CHILD_CHECK(close_all(l) == 0);
	CHILD_CHECK(hf_provider_close(l->e.p) == 0 && hf_switch_close(l->sw) == 0);
	before = fds();
	CHILD_CHECK(open_all(l) == 0);
	error = live(l);
	if (error && !is_clear(error))
		fprintf(stderr, "the survivor was told %d: %s\n", error, hf_error());
	CHILD_CHECK(!error || is_clear(error));
	CHILD_CHECK(!error || peer_is_dead(l) || poll(&(struct pollfd){ .fd = l->peer, .events = POLLIN }, 1, PATIENCE_MS) == 1);
	CHILD_CHECK(close_all(l) == 0);
	CHILD_CHECK(comes_to_nothing(l->e.p));
	if (!l->server && error) { /* a path that was left behind is taken over */
		CHILD_CHECK(hf_listen(l->e.p, address, NULL, &l->listener) == 0);
		CHILD_CHECK(hf_sock_close(l->listener) == 0);
	}
	CHILD_CHECK(hf_provider_close(l->e.p) == 0);
	CHILD_CHECK(hf_switch_close(l->sw) == 0);
	CHILD_CHECK(as_many_fds(before));
	/* All was well, and then the server was killed, or is still at its end: the path is not ours. */
	CHILD_CHECK((!l->server && !error) || stat(path, &st) < 0);
	return error ? 0 : 2;
}

static int perish(struct life *l, int step)
{
	atomic_store(&steps_left, step);
	atomic_store(&san_step, count_step);
	if (open_all(l) || live(l))
		return 1;
	return close_all(l);
}

/* ------------------------------------------------------------------ */

static pid_t start(bool server, int step, int mine, int others)
{
	static const int caught[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS };
	struct life l = { .server = server, .peer = mine };
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
		signal(caught[i], SIG_DFL);
	if (mine >= 0)
		close(others);
	else
		(void)others; /* it ends with this process */
	_exit(step ? perish(&l, step) : survive(&l));
}

/* What the survivor says, when the other one is killed at its `step`. */
static int run(bool kill_server, int step, bool *killed)
{
	int ends[2], status;
	pid_t victim, survivor;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	survivor = start(!kill_server, 0, ends[0], ends[1]);
	close(ends[0]);
	victim = start(kill_server, step, -1, ends[1]);
	close(ends[1]);
	assert_true(victim > 0 && survivor > 0);
	assert_int_equal(waitpid(victim, &status, 0), victim);
	*killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	if (!*killed && (!WIFEXITED(status) || WEXITSTATUS(status)))
		fail_msg("step %d: the victim ended by itself with status 0x%x", step, status);
	assert_int_equal(waitpid(survivor, &status, 0), survivor);
	if (!WIFEXITED(status) || (WEXITSTATUS(status) & ~2))
		fail_msg("step %d of the %s: the survivor ended with status 0x%x", step, kill_server ? "server" : "client",
			 status);
	return WEXITSTATUS(status);
}

static void kill_at_every_step(bool kill_server)
{
	int told = 0, well = 0, step;
	bool killed = true;

	for (step = 1; killed; step++) {
		int answer = run(kill_server, step, &killed);

		assert_true(step < 1000);
		told += killed && answer == 0;
		well += killed && answer == 2; /* the last steps: all was done */
		if (!killed)
			assert_int_equal(answer, 2);
		unlink(path); /* of a server that was killed when the client had gone */
	}
	print_message("%d steps: %d times told, %d times all was done\n", step - 2, told, well);
	assert_true(told >= (getenv("HF_TEST_NIC") ? 8 : 15)); /* by queue pairs there are no steps within a message */
	assert_true(told > well);
}

static void test_the_server_is_killed(void **state)
{
	kill_at_every_step(true);
}

static void test_the_client_is_killed(void **state)
{
	kill_at_every_step(false);
}

static int set_up(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(address, sizeof(address), "unix:%s", path);
	return 0;
}

static int tear_down(void **state)
{
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_server_is_killed),
		cmocka_unit_test(test_the_client_is_killed),
	};

	if (getenv("HF_TEST_FILTER"))
		cmocka_set_test_filter(getenv("HF_TEST_FILTER"));
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
