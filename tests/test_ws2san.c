/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The names of Windows Sockets Direct, requirement by requirement (docs/contract.md), and the known faults
 * 1 to 9 of the one provider of the past. Both ends of a connection are in this process, each with a buffer
 * of its own; a child process stands for "another process". The NIC is `uring`, so bytes really go through
 * what was pinned.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <holdfast/san.h>
#include <holdfast/ws2san.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#define LEN 65536u

static size_t page;
static const char *proxy;

/* For the switches opened from now on. */
static void use_proxy(const char *name, const char *more)
{
	char options[64];

	proxy = name;
	snprintf(options, sizeof(options), "proxy=%s%s", name, more);
	setenv("HOLDFAST", options, 1);
}

/* ------------------------------------------------------------------ saying what is expected */

static void check_wsa(bool good, int err, int want, const char *what, int line)
{
	if (good)
		fail_msg("line %d: %s: succeeded instead of %d", line, what, want);
	if (err != want)
		fail_msg("line %d: %s: %d instead of %d (\"%s\")", line, what, err, want, hf_error());
}

/* `call` uses &err, and answers `none` where it fails. */
#define FAILS_WITH(call, none, want)                                       \
	do {                                                               \
		int err = 0;                                               \
		bool good = (call) != (none);                              \
									   \
		check_wsa(good, err, want, #call, __LINE__);               \
	} while (0)
#define FAILS(call, want)        FAILS_WITH(call, SOCKET_ERROR, want)
#define FAILS_NULL(call, want)   FAILS_WITH(call, 0, want)
#define FAILS_SOCKET(call, want) FAILS_WITH(call, INVALID_SOCKET, want)
#define WORKS(call)                                                                    \
	do {                                                                           \
		int err = 0;                                                           \
		if ((call) != 0)                                                       \
			fail_msg("line %d: %s: %d (\"%s\")", __LINE__, #call, err, hf_error()); \
	} while (0)

/* Until the thread waits in the kernel. */
static void until_it_sleeps(pid_t tid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	for (int i = 0; i < 20000 && state != 'S'; i++) {
		usleep(500);
		f = fopen(path, "re");
		if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = 0;
		if (f)
			fclose(f);
	}
}

static int count_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* ------------------------------------------------------------------ two ends */

struct end {
	SOCKET s;
	char *mem;     /* LEN */
	HANDLE handle; /* of all of it, for both */
};

struct rig {
	SOCKET listener;
	struct end a, b; /* b was accepted */
};

static WSPPROC_TABLE procs;

static int startup(void)
{
	WSPDATA data;

	return WSPStartupEx(0x0202, &data, NULL, NULL, &procs);
}

static SOCKET open_on(int family, unsigned nic)
{
	WSAPROTOCOL_INFOW info = { .dwProviderReserved = nic };
	int err = 0;
	SOCKET s = WSPSocket(family, SOCK_STREAM, 0, &info, 0, WSA_FLAG_OVERLAPPED, &err);

	if (s == INVALID_SOCKET)
		fail_msg("WSPSocket: %d (\"%s\")", err, hf_error());
	return s;
}

static SOCKET listen_anywhere(int family, unsigned nic)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	static _Atomic int number;
	SOCKET s = open_on(family, nic);
	int n = snprintf(un.sun_path + 1, sizeof(un.sun_path) - 1, "hf-ws2san-%d-%d", getpid(),
			 atomic_fetch_add(&number, 1));

	if (family == AF_UNIX)
		WORKS(WSPBind(s, (struct sockaddr *)&un, (int)offsetof(struct sockaddr_un, sun_path) + 1 + n, &err));
	else
		WORKS(WSPBind(s, (struct sockaddr *)&in, sizeof(in), &err));
	WORKS(WSPListen(s, 5, &err));
	return s;
}

struct call {
	SOCKET s;
	struct sockaddr_storage to;
	int len;
	int rc, err;
	_Atomic pid_t tid;
};

static void *connect_there(void *arg)
{
	struct call *c = arg;

	c->rc = WSPConnect(c->s, (struct sockaddr *)&c->to, c->len, NULL, NULL, NULL, NULL, &c->err);
	return NULL;
}

/* Both sides at once, for neither needs to be ready before the other. */
static void join_ends(SOCKET listener, SOCKET s, SOCKET *accepted)
{
	struct call c = { .s = s, .len = sizeof(c.to) };
	int failed = 0;
	pthread_t t;

	WORKS(WSPGetSockName(listener, (struct sockaddr *)&c.to, &c.len, &err));
	assert_int_equal(pthread_create(&t, NULL, connect_there, &c), 0);
	*accepted = WSPAccept(listener, NULL, NULL, NULL, 0, &failed);
	pthread_join(t, NULL);
	if (c.rc || *accepted == INVALID_SOCKET)
		fail_msg("connect: %d, accept: %d (\"%s\")", c.err, failed, hf_error());
}

static HANDLE reg(SOCKET s, void *p, DWORD len, DWORD flags)
{
	int err = 0;
	HANDLE h = WSPRegisterMemory(s, p, len, flags, &err);

	if (!h)
		fail_msg("WSPRegisterMemory: %d (\"%s\")", err, hf_error());
	return h;
}

static void fill_end(struct end *e)
{
	e->mem = check_map(LEN);
	e->handle = reg(e->s, e->mem, LEN, MEM_READWRITE);
}

static void empty_end(struct end *e)
{
	if (e->mem)
		check_unmap(e->mem, LEN);
}

static struct rig *open_rig(int family, unsigned nic_a, unsigned nic_b)
{
	struct rig *g = calloc(1, sizeof(*g));

	assert_int_equal(startup(), 0);
	g->listener = listen_anywhere(family, nic_b);
	g->a.s = open_on(family, nic_a);
	join_ends(g->listener, g->a.s, &g->b.s);
	fill_end(&g->a);
	fill_end(&g->b);
	return g;
}

static int setup(void **state)
{
	*state = open_rig(AF_UNIX, 0, 0);
	return 0;
}

/* Started once, so this is the last cleanup; with sockets, registrations and operations as they are. */
static int teardown(void **state)
{
	struct rig *g = *state;
	int err;

	if (WSPCleanup(&err))
		fail_msg("WSPCleanup: %d", err);
	empty_end(&g->a);
	empty_end(&g->b);
	free(g);
	return 0;
}

/* ------------------------------------------------------------------ moving */

struct descriptor {
	unsigned char bytes[64];
	DWORD length;
};

static struct descriptor expose(SOCKET s, void *p, DWORD len, DWORD flags)
{
	struct descriptor d = { .length = sizeof(d.bytes) };

	WORKS(WSPRegisterRdmaMemory(s, p, len, flags, d.bytes, &d.length, &err));
	return d;
}

static int send_now(struct end *e, DWORD offset, DWORD len, int *err)
{
	WSABUF b = { len, e->mem + offset };
	DWORD n = ~0u;
	int rc = WSPSend(e->s, &b, 1, &n, 0, NULL, NULL, NULL, err);

	if (!rc)
		assert_int_equal(n, len);
	return rc;
}

static int recv_later(struct end *e, DWORD offset, DWORD len, WSAOVERLAPPED *ov, int *err)
{
	WSABUF b = { len, e->mem + offset };
	DWORD flags = 0;

	return WSPRecv(e->s, &b, 1, NULL, &flags, ov, NULL, NULL, err);
}

static int write_now(struct end *e, DWORD offset, DWORD len, struct descriptor *d, DWORD at, int *err)
{
	WSABUFEX b = { len, e->mem + offset, e->handle };

	return WSPRdmaWrite(e->s, &b, 1, d->bytes, d->length, at, NULL, 0, NULL, NULL, NULL, err);
}

static int read_now(struct end *e, DWORD offset, DWORD len, struct descriptor *d, DWORD at, int *err)
{
	WSABUFEX b = { len, e->mem + offset, e->handle };

	return WSPRdmaRead(e->s, &b, 1, d->bytes, d->length, at, NULL, 0, NULL, NULL, NULL, err);
}

static DWORD result(SOCKET s, WSAOVERLAPPED *ov)
{
	DWORD n = 0, flags = 1;
	int err = 0;

	if (!WSPGetOverlappedResult(s, ov, &n, TRUE, &flags, &err))
		fail_msg("overlapped: %d (\"%s\")", err, hf_error());
	assert_int_equal(flags, 0);
	return n;
}

static void pattern(char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (char)(seed + i * 7 + (i >> 8));
}

static void check_pattern(const char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (char)(seed + i * 7 + (i >> 8)))
			fail_msg("byte %zu is wrong", i);
}

/* A message from one end to the other, compared. */
static void exchange(struct end *from, struct end *to, unsigned seed)
{
	WSAOVERLAPPED ov = { 0 };

	pattern(from->mem, LEN, seed);
	memset(to->mem, 0, LEN);
	FAILS(recv_later(to, 0, LEN, &ov, &err), WSA_IO_PENDING);
	WORKS(send_now(from, 0, LEN, &err));
	assert_int_equal(result(to->s, &ov), LEN);
	check_pattern(to->mem, LEN, seed);
}

static struct hf_stats stats(unsigned nic)
{
	return check_stats(hf_ws2san_provider(nic));
}

/* ------------------------------------------------------------------ start and end */

static void startup_is_counted_R21(void **state)
{
	SOCKET s;

	FAILS(WSPCleanup(&err), WSANOTINITIALISED);
	FAILS_SOCKET(WSPSocket(AF_UNIX, SOCK_STREAM, 0, NULL, 0, 0, &err), WSANOTINITIALISED);
	for (int i = 0; i < 3; i++)
		assert_int_equal(startup(), 0);
	s = open_on(AF_UNIX, 0);
	WORKS(WSPCleanup(&err));
	WORKS(WSPCleanup(&err));
	FAILS(WSPListen(s, 1, &err), WSAEINVAL); /* it is there, only not bound */
	WORKS(WSPCleanup(&err));
	FAILS(WSPListen(s, 1, &err), WSANOTINITIALISED);
	FAILS(WSPCleanup(&err), WSANOTINITIALISED);
	assert_int_equal(startup(), 0);
	FAILS(WSPListen(s, 1, &err), WSAENOTSOCK); /* a new life, other sockets */
	WORKS(WSPCleanup(&err));
}

static void startup_arguments(void **state)
{
	WSPDATA data = { 0 };
	WSPPROC_TABLE t;

	assert_int_equal(WSPStartupEx(0x0202, NULL, NULL, NULL, &t), WSAEFAULT);
	assert_int_equal(WSPStartupEx(0x0202, &data, NULL, NULL, NULL), WSAEFAULT);
	assert_int_equal(WSPStartupEx(0x0101, &data, NULL, NULL, &t), WSAVERNOTSUPPORTED);
	assert_int_equal(WSPStartupEx(0x0102, &data, NULL, NULL, &t), WSAVERNOTSUPPORTED); /* 2.1 */
	FAILS(WSPCleanup(&err), WSANOTINITIALISED);
	assert_int_equal(WSPStartupEx(0x0302, &data, NULL, NULL, &t), 0); /* 2.3: ours is what it gets */
	assert_int_equal(data.wVersion, 0x0202);
	assert_int_equal(data.szDescription[0], 'h');
	assert_ptr_equal(t.lpWSPSend, WSPSend);
	assert_ptr_equal(t.lpWSPGetOverlappedResult, WSPGetOverlappedResult);
	assert_null(t.lpWSPSelect);
	WORKS(WSPCleanup(NULL));
	setenv("HOLDFAST_WS2SAN_NICS", "uring,no_such_nic", 1);
	assert_int_equal(WSPStartupEx(0x0202, &data, NULL, NULL, &t), WSASYSNOTREADY);
	check_says("no_such_nic");
	setenv("HOLDFAST_WS2SAN_NICS", "sim,sim,sim,sim,sim,sim,sim,sim,sim", 1);
	assert_int_equal(WSPStartupEx(0x0202, &data, NULL, NULL, &t), WSASYSNOTREADY);
	unsetenv("HOLDFAST_WS2SAN_NICS");
	FAILS(WSPCleanup(&err), WSANOTINITIALISED);
}

static void *cleanup_soon(void *err)
{
	until_it_sleeps(getpid()); /* the test itself */
	WSPCleanup(err);
	return NULL;
}

/* R21: the last cleanup ends what is pending, also what another thread waits for. */
static void cleanup_cancels_R21(void **state)
{
	struct rig *g = open_rig(AF_UNIX, 0, 0);
	WSAOVERLAPPED ov[3] = { { 0 } };
	DWORD flags = 0;
	WSABUF b = { LEN, g->a.mem };
	int mine = 0, other = 0;
	pthread_t t;

	ov[2].hEvent = (HANDLE)(intptr_t)eventfd(0, EFD_CLOEXEC);
	for (int i = 0; i < 3; i++)
		FAILS(recv_later(&g->a, 0, LEN, &ov[i], &err), WSA_IO_PENDING);
	assert_int_equal(pthread_create(&t, NULL, cleanup_soon, &other), 0);
	assert_int_equal(WSPRecv(g->a.s, &b, 1, NULL, &flags, NULL, NULL, NULL, &mine), SOCKET_ERROR);
	assert_true(mine == WSA_OPERATION_ABORTED || mine == WSANOTINITIALISED); /* it slept elsewhere */
	pthread_join(t, NULL);
	assert_int_equal(other, 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ov[i].Internal, WSA_OPERATION_ABORTED);
	close((int)(intptr_t)ov[2].hEvent);
	empty_end(&g->a);
	empty_end(&g->b);
	free(g);
}

static _Atomic bool stop;

static void *open_sockets(void *arg)
{
	while (!atomic_load(&stop))
		WSPSocket(AF_UNIX, SOCK_STREAM, 0, NULL, 0, 0, NULL);
	return NULL;
}

/* Others are inside while it ends: no socket is forgotten. */
static void cleanup_beside_others(void **state)
{
	int before = count_descriptors();
	pthread_t t[2];

	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, open_sockets, NULL), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(startup(), 0);
		WORKS(WSPCleanup(&err));
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(count_descriptors(), before);
}

/* A region of holdfast.h on the provider beneath: nothing is lost, and cleanup works later. */
static void cleanup_while_held(void **state)
{
	char *mem = check_map(LEN);
	struct hf_region r;
	struct hf_provider *p;

	assert_int_equal(startup(), 0);
	p = hf_ws2san_provider(0);
	assert_non_null(hf_ws2san_switch());
	assert_null(hf_ws2san_provider(1));
	r = check_get(p, mem, LEN, HF_READ);
	FAILS(WSPCleanup(&err), WSAEINPROGRESS);
	check_ok(hf_put(p, &r));
	WORKS(WSPCleanup(&err));
	assert_null(hf_ws2san_provider(0));
	assert_null(hf_ws2san_switch());
	check_unmap(mem, LEN);
}

/* ------------------------------------------------------------------ look-up */

static int look_up(GUID id, void *out, DWORD in_len, DWORD out_len, int *err)
{
	DWORD n = 0;
	int rc = WSPIoctl(INVALID_SOCKET, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, in_len, out, out_len, &n, NULL, NULL,
			  NULL, err);

	if (!rc)
		assert_int_equal(n, sizeof(void *));
	return rc;
}

static void extensions_by_guid_R18(void **state)
{
	static const struct {
		GUID id;
		DWORD first;
		void *fn;
	} all[] = {
		{ WSAID_REGISTERMEMORY, 0xC0B422F5, WSPRegisterMemory },
		{ WSAID_DEREGISTERMEMORY, 0xC0B422F6, WSPDeregisterMemory },
		{ WSAID_REGISTERRDMAMEMORY, 0xC0B422F7, WSPRegisterRdmaMemory },
		{ WSAID_DEREGISTERRDMAMEMORY, 0xC0B422F8, WSPDeregisterRdmaMemory },
		{ WSAID_RDMAWRITE, 0xC0B422F9, WSPRdmaWrite },
		{ WSAID_RDMAREAD, 0xC0B422FA, WSPRdmaRead },
		{ WSAID_MEMORYREGISTRATIONCACHECALLBACK, 0xE5DA4AF8, WSPMemoryRegistrationCacheCallback },
	};

	assert_int_equal(startup(), 0);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		void *fn = NULL;

		assert_int_equal(all[i].id.Data1, all[i].first);
		WORKS(look_up(all[i].id, &fn, sizeof(GUID), sizeof(fn), &err));
		assert_ptr_equal(fn, all[i].fn);
	}
	WORKS(WSPCleanup(&err));
}

/* R19: what isn't there. R20: this provider caches, so the callback is. */
static void unknown_extension_R19_R20(void **state)
{
	GUID id = WSAID_RDMAREAD;
	void *fn = &id;

	FAILS(look_up(id, &fn, sizeof(id), sizeof(fn), &err), WSANOTINITIALISED);
	assert_int_equal(startup(), 0);
	id.Data4[7] ^= 1;
	FAILS(look_up(id, &fn, sizeof(id), sizeof(fn), &err), WSAEOPNOTSUPP);
	assert_ptr_equal(fn, &id);
	id = (GUID)WSAID_MEMORYREGISTRATIONCACHECALLBACK;
	FAILS(look_up(id, &fn, sizeof(id) - 1, sizeof(fn), &err), WSAEFAULT);
	FAILS(look_up(id, &fn, sizeof(id), sizeof(fn) - 1, &err), WSAEFAULT);
	FAILS(look_up(id, NULL, sizeof(id), sizeof(fn), &err), WSAEFAULT);
	WORKS(look_up(id, &fn, sizeof(id), sizeof(fn), &err));
	assert_non_null(fn);
	FAILS(WSPIoctl(INVALID_SOCKET, 1234, NULL, 0, NULL, 0, NULL, NULL, NULL, NULL, &err), WSAEOPNOTSUPP);
	WORKS(WSPCleanup(&err));
}

/* ------------------------------------------------------------------ sockets */

static void socket_kinds(void **state)
{
	WSAPROTOCOL_INFOW info = { .dwProviderReserved = 1 };

	assert_int_equal(startup(), 0);
	FAILS_SOCKET(WSPSocket(AF_APPLETALK, SOCK_STREAM, 0, NULL, 0, 0, &err), WSAEAFNOSUPPORT);
	FAILS_SOCKET(WSPSocket(AF_INET, SOCK_DGRAM, 0, NULL, 0, 0, &err), WSAESOCKTNOSUPPORT);
	FAILS_SOCKET(WSPSocket(AF_INET, SOCK_STREAM, IPPROTO_UDP, NULL, 0, 0, &err), WSAEPROTONOSUPPORT);
	FAILS_SOCKET(WSPSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP, &info, 0, 0, &err), WSAEINVAL);
	info.dwProviderReserved = ~0u;
	FAILS_SOCKET(WSPSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP, &info, 0, 0, &err), WSAEINVAL);
	WORKS(WSPCloseSocket(open_on(AF_INET, 0), &err));
	WORKS(WSPCleanup(&err));
}

/* An id is never another socket's later on. */
static void ids_never_come_back_R45(void **state)
{
	SOCKET old[64];

	assert_int_equal(startup(), 0);
	for (int i = 0; i < 64; i++) {
		old[i] = open_on(AF_UNIX, 0);
		WORKS(WSPCloseSocket(old[i], &err));
	}
	for (int i = 0; i < 40; i++)
		open_on(AF_UNIX, 0);
	for (int i = 0; i < 64; i++) {
		FAILS(WSPCloseSocket(old[i], &err), WSAENOTSOCK);
		FAILS(WSPListen(old[i], 1, &err), WSAENOTSOCK);
	}
	for (SOCKET s = 0; s < 100; s++) /* descriptors of this process among them */
		FAILS(WSPCloseSocket(s, &err), WSAENOTSOCK);
	FAILS(WSPCloseSocket(INVALID_SOCKET, &err), WSAENOTSOCK);
	WORKS(WSPCleanup(&err));
}

static void addresses(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = 7 };
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/tmp/some/where" };
	struct sockaddr *name = (struct sockaddr *)&in;
	struct sockaddr_storage got;
	int len = sizeof(got);
	SOCKET s, s6, su;

	assert_int_equal(startup(), 0);
	s = open_on(AF_INET, 0);
	s6 = open_on(AF_INET6, 0);
	su = open_on(AF_UNIX, 0);
	FAILS(WSPGetSockName(s, (struct sockaddr *)&got, &len, &err), WSAEINVAL);
	FAILS(WSPBind(s, NULL, sizeof(in), &err), WSAEFAULT);
	FAILS(WSPBind(s, name, sizeof(in) - 1, &err), WSAEFAULT);
	FAILS(WSPBind(s, (struct sockaddr *)&un, sizeof(un), &err), WSAEAFNOSUPPORT);
	FAILS(WSPListen(s, 1, &err), WSAEINVAL);
	in.sin_port = htons(4321);
	WORKS(WSPBind(s, name, sizeof(in), &err));
	FAILS(WSPBind(s, name, sizeof(in), &err), WSAEINVAL);
	len = 3;
	FAILS(WSPGetSockName(s, (struct sockaddr *)&got, &len, &err), WSAEFAULT);
	len = sizeof(got);
	WORKS(WSPGetSockName(s, (struct sockaddr *)&got, &len, &err));
	assert_int_equal(len, sizeof(in));
	assert_memory_equal(&got, &in, sizeof(in));
	WORKS(WSPBind(s6, (struct sockaddr *)&in6, sizeof(in6), &err));
	len = sizeof(got);
	WORKS(WSPGetSockName(s6, (struct sockaddr *)&got, &len, &err));
	assert_int_equal(len, sizeof(in6));
	assert_memory_equal(&got, &in6, sizeof(in6));
	FAILS(WSPBind(su, (struct sockaddr *)&un, sizeof(un.sun_family), &err), WSAEFAULT);
	FAILS(WSPBind(su, (struct sockaddr *)&(struct sockaddr_un){ .sun_family = AF_UNIX }, sizeof(un), &err), WSAEINVAL);
	WORKS(WSPBind(su, (struct sockaddr *)&un, sizeof(un), &err));
	len = sizeof(got);
	WORKS(WSPGetSockName(su, (struct sockaddr *)&got, &len, &err));
	assert_string_equal(((struct sockaddr_un *)&got)->sun_path, un.sun_path);
	FAILS(WSPGetPeerName(su, (struct sockaddr *)&got, &len, &err), WSAENOTCONN);
	WORKS(WSPCleanup(&err));
}

static void connection_states(void **state)
{
	struct rig *g = *state;
	struct sockaddr_storage to;
	int len = sizeof(to);
	SOCKET s = open_on(AF_UNIX, 0);
	WSABUF data = { 1, g->a.mem };

	WORKS(WSPGetSockName(g->listener, (struct sockaddr *)&to, &len, &err));
	FAILS(WSPConnect(g->a.s, (struct sockaddr *)&to, len, NULL, NULL, NULL, NULL, &err), WSAEISCONN);
	FAILS(WSPConnect(g->listener, (struct sockaddr *)&to, len, NULL, NULL, NULL, NULL, &err), WSAEINVAL);
	FAILS(WSPConnect(s, (struct sockaddr *)&to, len, &data, NULL, NULL, NULL, &err), WSAEOPNOTSUPP);
	FAILS(WSPListen(g->a.s, 1, &err), WSAEISCONN);
	WORKS(WSPListen(g->listener, 1, &err));
	FAILS_SOCKET(WSPAccept(g->a.s, NULL, NULL, NULL, 0, &err), WSAEINVAL);
	((struct sockaddr_un *)&to)->sun_path[1] ^= 1; /* nobody is there */
	FAILS(WSPConnect(s, (struct sockaddr *)&to, len, NULL, NULL, NULL, NULL, &err), WSAECONNREFUSED);
	((struct sockaddr_un *)&to)->sun_path[1] ^= 1; /* and the socket is as good as new */
	WORKS(WSPConnect(s, (struct sockaddr *)&to, len, NULL, NULL, NULL, NULL, &err));
}

static void over_tcp(void **state)
{
	struct rig *g = open_rig(AF_INET, 0, 0);
	struct sockaddr_in at, peer;
	int n = sizeof(at), m = sizeof(peer);
	void *s = g;

	WORKS(WSPGetSockName(g->a.s, (struct sockaddr *)&at, &n, &err));
	WORKS(WSPGetPeerName(g->b.s, (struct sockaddr *)&peer, &m, &err));
	assert_int_equal(at.sin_port, peer.sin_port);
	assert_int_equal(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	exchange(&g->a, &g->b, 1);
	exchange(&g->b, &g->a, 2);
	teardown(&s);
}

static int answer;

static int condition(LPWSABUF from, LPWSABUF d, LPQOS q, LPQOS r, LPWSABUF to, LPWSABUF e, GROUP *group, DWORD_PTR data)
{
	assert_int_equal(((struct sockaddr *)from->buf)->sa_family, AF_INET);
	assert_int_equal(from->len, sizeof(struct sockaddr_in));
	assert_int_equal(data, 77);
	return answer;
}

static void accept_conditions(void **state)
{
	struct call c = { .len = sizeof(c.to) };
	SOCKET l, s;
	DWORD on = 1;
	pthread_t t;

	assert_int_equal(startup(), 0);
	l = listen_anywhere(AF_INET, 0);
	WORKS(WSPIoctl(l, WSP_FIONBIO, &on, sizeof(on), NULL, 0, NULL, NULL, NULL, NULL, &err));
	FAILS_SOCKET(WSPAccept(l, NULL, NULL, NULL, 0, &err), WSAEWOULDBLOCK);
	on = 0;
	WORKS(WSPIoctl(l, FIONBIO, &on, sizeof(on), NULL, 0, NULL, NULL, NULL, NULL, &err));
	WORKS(WSPGetSockName(l, (struct sockaddr *)&c.to, &c.len, &err));
	for (answer = CF_DEFER; answer >= CF_ACCEPT; answer--) {
		c.s = open_on(AF_INET, 0);
		assert_int_equal(pthread_create(&t, NULL, connect_there, &c), 0);
		if (answer == CF_DEFER) {
			FAILS_SOCKET(WSPAccept(l, NULL, NULL, condition, 77, &err), WSATRY_AGAIN);
			s = WSPAccept(l, NULL, NULL, NULL, 0, NULL); /* the same peer */
			assert_int_not_equal(s, INVALID_SOCKET);
		} else if (answer == CF_REJECT) {
			FAILS_SOCKET(WSPAccept(l, NULL, NULL, condition, 77, &err), WSAECONNREFUSED);
		} else {
			assert_int_not_equal(WSPAccept(l, NULL, NULL, condition, 77, NULL), INVALID_SOCKET);
		}
		pthread_join(t, NULL);
		assert_int_equal(c.rc, 0);
	}
	WORKS(WSPCleanup(&err));
}

static void *accept_one(void *arg)
{
	struct call *c = arg;

	atomic_store(&c->tid, gettid());
	c->rc = WSPAccept(c->s, NULL, NULL, NULL, 0, &c->err) == INVALID_SOCKET;
	return NULL;
}

/* Closing wakes who waits. */
static void close_while_accepting(void **state)
{
	struct call c = { 0 };
	pthread_t t;

	assert_int_equal(startup(), 0);
	c.s = listen_anywhere(AF_UNIX, 0);
	assert_int_equal(pthread_create(&t, NULL, accept_one, &c), 0);
	while (!atomic_load(&c.tid))
		usleep(100);
	until_it_sleeps(c.tid);
	WORKS(WSPCloseSocket(c.s, &err));
	pthread_join(t, NULL);
	assert_int_equal(c.rc, 1);
	assert_int_equal(c.err, WSAENOTSOCK);
	WORKS(WSPCleanup(&err));
}

/* ------------------------------------------------------------------ registering */

/* R1: each code for its reason. Known fault 9: EFAULT stays EFAULT. */
static void register_errors_R1_fault9(void **state)
{
	struct rig *g = *state;
	char *m = g->a.mem;
	SOCKET s = open_on(AF_UNIX, 0);
	char *ro = mmap(NULL, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FAILS_NULL(WSPRegisterMemory(g->a.s, m, LEN, 0, &err), WSAEINVAL);
	FAILS_NULL(WSPRegisterMemory(g->a.s, m, LEN, 4, &err), WSAEINVAL);
	FAILS_NULL(WSPRegisterMemory(g->a.s, m, 0, MEM_READ, &err), WSAEINVAL);
	FAILS_NULL(WSPRegisterMemory(g->a.s, m - page, LEN, MEM_READ, &err), WSAEFAULT); /* the fence before it */
	FAILS_NULL(WSPRegisterMemory(g->a.s, m + LEN - 1, 2, MEM_READ, &err), WSAEFAULT);
	FAILS_NULL(WSPRegisterMemory(g->a.s, NULL, 1, MEM_READ, &err), WSAEFAULT);
	FAILS_NULL(WSPRegisterMemory(g->a.s, ro, page, MEM_WRITE, &err), WSAEFAULT);
	FAILS_NULL(WSPRegisterMemory(s, m, LEN, MEM_READ, &err), WSAENOTCONN);
	FAILS_NULL(WSPRegisterMemory(g->listener, m, LEN, MEM_READ, &err), WSAENOTCONN);
	FAILS_NULL(WSPRegisterMemory(s + 1, m, LEN, MEM_READ, &err), WSAENOTSOCK);
	assert_int_equal(munmap(ro + page, page), 0);
	FAILS_NULL(WSPRegisterMemory(g->a.s, ro, 2 * page, MEM_READ, &err), WSAEFAULT);
	munmap(ro, page);
	assert_null(WSPRegisterMemory(g->a.s, m, LEN, 0, NULL)); /* who doesn't want to know */
}

/* R1: a limit. */
static void no_buffers_R1(void **state)
{
	struct rig *g;
	void *s;
	char *m;

	use_proxy(proxy, ",max_bytes=256K");
	s = g = open_rig(AF_UNIX, 0, 0);
	m = check_map(4 * LEN + page);
	FAILS_NULL(WSPRegisterMemory(g->a.s, m, 4 * LEN + 1, MEM_READ, &err), WSAENOBUFS);
	check_says("max_bytes");
	check_unmap(m, 4 * LEN + page);
	teardown(&s);
	use_proxy(proxy, "");
}

/* R2, R3, R17: what a handle is good for. */
static void rights_of_handles_R2_R3_R17(void **state)
{
	struct rig *g = *state;
	HANDLE r = reg(g->a.s, g->a.mem, 64, MEM_READ), w = reg(g->a.s, g->a.mem, 64, MEM_WRITE);
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	WSABUFEX b = { 64, g->a.mem, r };

	assert_int_equal(MEM_READ | MEM_WRITE << 4 | MEM_READWRITE << 8, 0x321);
	pattern(g->a.mem, 64, 3);
	WORKS(WSPRdmaWrite(g->a.s, &b, 1, d.bytes, d.length, 0, NULL, 0, NULL, NULL, NULL, &err));
	check_pattern(g->b.mem, 64, 3);
	FAILS(WSPRdmaRead(g->a.s, &b, 1, d.bytes, d.length, 0, NULL, 0, NULL, NULL, NULL, &err), WSAEACCES);
	b.handle = w;
	FAILS(WSPRdmaWrite(g->a.s, &b, 1, d.bytes, d.length, 0, NULL, 0, NULL, NULL, NULL, &err), WSAEACCES);
	pattern(g->b.mem, 64, 9);
	WORKS(WSPRdmaRead(g->a.s, &b, 1, d.bytes, d.length, 0, NULL, 0, NULL, NULL, NULL, &err));
	check_pattern(g->a.mem, 64, 9);
	b.len = 65; /* beyond the handle */
	FAILS(WSPRdmaRead(g->a.s, &b, 1, d.bytes, d.length, 0, NULL, 0, NULL, NULL, NULL, &err), WSAEINVAL);
	exchange(&g->a, &g->b, 4); /* source of a send, target of a receive */
}

/* R3: a send names no handle: the memory must be registered on this very socket, with the right. */
static void send_needs_a_registration_R3(void **state)
{
	struct rig *g = *state;
	struct end e = g->a;
	HANDLE h;

	WORKS(WSPDeregisterMemory(e.s, e.handle, &err));
	FAILS(send_now(&e, 0, 100, &err), WSAEINVAL);
	h = reg(e.s, e.mem + page, 100, MEM_READ);
	reg(e.s, e.mem, 2 * (DWORD)page, MEM_WRITE); /* longer, but not for sending */
	FAILS(send_now(&e, (DWORD)page - 1, 2, &err), WSAEINVAL);
	FAILS(send_now(&e, (DWORD)page, 101, &err), WSAEINVAL);
	WORKS(WSPDeregisterMemory(e.s, h, &err));
	FAILS(send_now(&e, (DWORD)page, 1, &err), WSAEINVAL);
	FAILS(send_now(&g->b, 0, LEN + 1, &err), WSAEINVAL);
	e.mem = g->b.mem; /* the other socket's */
	FAILS(send_now(&e, 0, 1, &err), WSAEINVAL);
}

/* Many registrations, and each is found by address, and goes alone. */
static void many_registrations(void **state)
{
	struct rig *g = *state;
	enum { N = 500 };
	HANDLE h[N];
	uint64_t seed = 1;

	WORKS(WSPDeregisterMemory(g->a.s, g->a.handle, &err));
	for (int i = 0; i < N; i++)
		h[i] = reg(g->a.s, g->a.mem + i * 100, 50 + (DWORD)(check_random(&seed) % 50), MEM_READ);
	for (int i = 0; i < N; i += 2)
		WORKS(WSPDeregisterMemory(g->a.s, h[i], &err));
	for (int i = 0; i < N; i++) {
		WSAOVERLAPPED ov = { 0 };

		if (i % 2 == 0) {
			FAILS(send_now(&g->a, (DWORD)i * 100, 50, &err), WSAEINVAL);
			FAILS(WSPDeregisterMemory(g->a.s, h[i], &err), WSAEINVAL);
		} else if (i % 10 == 1) {
			FAILS(recv_later(&g->b, 0, 50, &ov, &err), WSA_IO_PENDING);
			WORKS(send_now(&g->a, (DWORD)i * 100, 50, &err));
			assert_int_equal(result(g->b.s, &ov), 50);
		}
	}
	for (int i = 1; i < N; i += 2)
		WORKS(WSPDeregisterMemory(g->a.s, h[i], &err));
}

struct inherited {
	struct rig *g;
	struct descriptor d;
};

static int use_the_parents(void *arg)
{
	struct inherited *i = arg;
	struct end *e = &i->g->a;
	int err = 0;

	for (int again = 0; again < 2; again++) {
		int want = again ? WSAENOTSOCK : WSANOTINITIALISED;

		CHILD_CHECK(WSPDeregisterMemory(e->s, e->handle, &err) == SOCKET_ERROR && err == want);
		CHILD_CHECK(send_now(e, 0, 1, &err) == SOCKET_ERROR && err == want);
		CHILD_CHECK(write_now(e, 0, 1, &i->d, 0, &err) == SOCKET_ERROR && err == want);
		CHILD_CHECK(!WSPRegisterMemory(e->s, e->mem, 1, MEM_READ, &err) && err == want);
		CHILD_CHECK(WSPCloseSocket(e->s, &err) == SOCKET_ERROR && err == want);
		CHILD_CHECK(WSPMemoryRegistrationCacheCallback(e->mem, LEN, &err) == SOCKET_ERROR);
		if (CHECK_TSAN)
			return 0; /* it allows no thread after the fork of a process with threads */
		CHILD_CHECK(again || startup() == 0); /* one of its own changes nothing */
	}
	CHILD_CHECK(WSPSocket(AF_UNIX, SOCK_STREAM, 0, NULL, 0, 0, &err) != e->s);
	CHILD_CHECK(WSPCleanup(&err) == 0);
	return 0;
}

/* R4: valid on its socket, and in the process that registered. */
static void handle_is_of_one_socket_and_process_R4(void **state)
{
	struct rig *g = *state;
	struct inherited i = { g, expose(g->b.s, g->b.mem, LEN, MEM_READWRITE) };
	struct end wrong = g->a;

	wrong.handle = g->b.handle; /* same process, same provider, other socket */
	wrong.mem = g->b.mem;
	FAILS(write_now(&wrong, 0, 1, &i.d, 0, &err), WSAEINVAL);
	FAILS(WSPDeregisterMemory(g->a.s, g->b.handle, &err), WSAEINVAL);
	assert_int_equal(check_child(use_the_parents, &i), 0);
	exchange(&g->a, &g->b, 5); /* unharmed */
	exchange(&g->b, &g->a, 6);
}

/* R5, R7, R22, R23, R24: any number of times on any number of sockets; one registration with the NIC; kept
 * after the last. */
static void same_buffer_often_R5_R7_R22_R23_R24(void **state)
{
	struct rig *g = *state;
	struct hf_stats before = stats(0), after;
	HANDLE h[2][100];

	for (int i = 0; i < 100; i++) {
		h[0][i] = reg(g->a.s, g->a.mem, LEN, MEM_READWRITE);
		h[1][i] = reg(g->b.s, g->a.mem, LEN, MEM_READWRITE);
	}
	after = stats(0);
	assert_int_equal(after.misses, before.misses);
	assert_int_equal(after.hits, before.hits + 200);
	assert_int_equal(after.pinned_bytes, before.pinned_bytes);
	WORKS(WSPDeregisterMemory(g->a.s, g->a.handle, &err));
	for (int i = 0; i < 100; i++) {
		for (int k = 0; k < 2; k++) {
			SOCKET s = k ? g->b.s : g->a.s;

			WORKS(WSPDeregisterMemory(s, h[k][i], &err));
			FAILS(WSPDeregisterMemory(s, h[k][i], &err), WSAEINVAL); /* counted, not flagged */
		}
	}
	after = stats(0);
	assert_int_equal(after.entries, before.entries); /* R22 */
	assert_int_equal(after.pinned_bytes, before.pinned_bytes);
	g->a.handle = reg(g->a.s, g->a.mem, LEN, MEM_READWRITE); /* R24 */
	assert_int_equal(stats(0).misses, before.misses);
}

/* R6, known fault 8: unknown and busy handles. */
static void deregister_R6_fault8(void **state)
{
	struct rig *g = *state;
	WSAOVERLAPPED ov = { 0 };
	HANDLE h = g->b.handle;

	FAILS(WSPDeregisterMemory(g->b.s, NULL, &err), WSAEINVAL);
	FAILS(WSPDeregisterMemory(g->b.s, g->b.mem, &err), WSAEINVAL);
	FAILS(WSPDeregisterMemory(g->b.s, (char *)h + 1, &err), WSAEINVAL);
	FAILS(WSPDeregisterMemory(g->b.s, (HANDLE)-1, &err), WSAEINVAL);
	FAILS(WSPDeregisterMemory(g->listener, h, &err), WSAEINVAL);
	FAILS(recv_later(&g->b, 0, LEN, &ov, &err), WSA_IO_PENDING);
	FAILS(WSPDeregisterMemory(g->b.s, h, &err), WSAEINVAL); /* in use */
	pattern(g->a.mem, LEN, 7);
	WORKS(send_now(&g->a, 0, LEN, &err));
	assert_int_equal(result(g->b.s, &ov), LEN); /* and no harm was done */
	check_pattern(g->b.mem, LEN, 7);
	WORKS(WSPDeregisterMemory(g->b.s, h, &err));
	FAILS(WSPDeregisterMemory(g->b.s, h, &err), WSAEINVAL);
}

/* ------------------------------------------------------------------ remote access */

/* R8, R9, known fault 9: the length first; written back both ways. Known fault 4: no pointer in what the
 * peer is given. */
static void descriptor_R8_R9_fault4_fault9(void **state)
{
	struct rig *g = *state;
	unsigned char d[64];
	uintptr_t inside;
	DWORD n;

	for (n = 0; n < HF_DESCRIPTOR_SIZE; n++) {
		DWORD got = n;

		FAILS(WSPRegisterRdmaMemory(g->a.s, g->a.mem, LEN, MEM_READ, d, &got, &err), WSAEFAULT);
		assert_int_equal(got, HF_DESCRIPTOR_SIZE);
	}
	n = 1; /* before everything else that is wrong */
	FAILS(WSPRegisterRdmaMemory(INVALID_SOCKET, NULL, 0, 99, d, &n, &err), WSAEFAULT);
	assert_int_equal(n, HF_DESCRIPTOR_SIZE);
	n = 64;
	FAILS(WSPRegisterRdmaMemory(g->a.s, g->a.mem, LEN, MEM_READ, NULL, &n, &err), WSAEFAULT);
	assert_int_equal(n, HF_DESCRIPTOR_SIZE);
	FAILS(WSPRegisterRdmaMemory(g->a.s, g->a.mem, LEN, MEM_READ, d, NULL, &err), WSAEFAULT);
	n = 64;
	FAILS(WSPRegisterRdmaMemory(g->a.s, g->a.mem, LEN, 0, d, &n, &err), WSAEINVAL);
	FAILS(WSPRegisterRdmaMemory(g->a.s, g->a.mem - page, LEN, MEM_READ, d, &n, &err), WSAEFAULT);
	FAILS(WSPRegisterRdmaMemory(g->listener, g->a.mem, LEN, MEM_READ, d, &n, &err), WSAENOTCONN);
	memset(d, 0xee, sizeof(d));
	n = 64;
	WORKS(WSPRegisterRdmaMemory(g->a.s, g->a.mem, LEN, MEM_READ, d, &n, &err));
	assert_int_equal(n, HF_DESCRIPTOR_SIZE);
	assert_int_equal(d[HF_DESCRIPTOR_SIZE], 0xee);
	for (size_t i = 0; i + sizeof(inside) <= HF_DESCRIPTOR_SIZE; i++) {
		memcpy(&inside, d + i, sizeof(inside));
		assert_false(inside >= (uintptr_t)g->a.mem - page && inside <= (uintptr_t)g->a.mem + LEN);
	}
}

static void no_access(struct end *e, struct descriptor *d, char *there)
{
	char before[64];

	memcpy(before, there, sizeof(before));
	memset(e->mem, 0x55, 64);
	FAILS(write_now(e, 0, 64, d, 0, &err), WSAEACCES);
	assert_memory_equal(there, before, sizeof(before));
	FAILS(read_now(e, 0, 64, d, 0, &err), WSAEACCES);
	assert_int_equal(e->mem[0], 0x55);
}

/* R10, R15, R16, known fault 2: good for the peer of that very connection only. */
static void descriptor_of_another_connection_R10_R15_R16_fault2(void **state)
{
	struct rig *g = *state;
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	struct end c = { .s = open_on(AF_UNIX, 0) };
	SOCKET other;

	join_ends(g->listener, c.s, &other);
	fill_end(&c);
	pattern(g->b.mem, LEN, 8);
	no_access(&c, &d, g->b.mem);
	FAILS(read_now(&g->b, 0, 64, &d, 64, &err), WSAEACCES); /* nor for its own side, over the wire */
	check_pattern(g->b.mem, LEN, 8);
	WORKS(read_now(&g->a, 0, LEN, &d, 0, &err));
	check_pattern(g->a.mem, LEN, 8);
	empty_end(&c);
}

/* R14: what is only locally registered has no descriptor, and none can be made up. */
static void local_memory_is_not_reachable_R14(void **state)
{
	struct rig *g = *state;
	struct descriptor d = expose(g->b.s, g->b.mem + LEN / 2, 64, MEM_READWRITE), forged;
	uint64_t seed = 14;

	for (unsigned bit = 0; bit < 8 * HF_DESCRIPTOR_SIZE; bit += 5) {
		forged = d;
		forged.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
		no_access(&g->a, &forged, g->b.mem);
	}
	for (int i = 0; i < 20; i++) {
		for (unsigned k = 0; k < HF_DESCRIPTOR_SIZE; k++)
			forged.bytes[k] = (unsigned char)check_random(&seed);
		no_access(&g->a, &forged, g->b.mem);
	}
	WORKS(write_now(&g->a, 0, 64, &d, 0, &err));
}

/* R11, R28, R29, known fault 1: the peer's access has ended when the call returns; the memory stays
 * registered and cached. */
static void revoked_at_once_R11_R16_R28_R29_fault1(void **state)
{
	struct rig *g = *state;
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE), bad = d;
	struct hf_stats before = stats(0);

	WORKS(write_now(&g->a, 0, 64, &d, 0, &err));
	bad.bytes[20] ^= 1;
	FAILS(WSPDeregisterRdmaMemory(g->b.s, bad.bytes, bad.length, &err), WSAEINVAL);
	FAILS(WSPDeregisterRdmaMemory(g->b.s, d.bytes, d.length - 1, &err), WSAEINVAL);
	FAILS(WSPDeregisterRdmaMemory(g->b.s, NULL, d.length, &err), WSAEINVAL);
	FAILS(WSPDeregisterRdmaMemory(g->a.s, d.bytes, d.length, &err), WSAEINVAL); /* the peer can't */
	FAILS(WSPDeregisterRdmaMemory(g->listener, d.bytes, d.length, &err), WSAEINVAL);
	WORKS(write_now(&g->a, 0, 64, &d, 0, &err));
	WORKS(WSPDeregisterRdmaMemory(g->b.s, d.bytes, d.length, &err));
	no_access(&g->a, &d, g->b.mem);
	FAILS(WSPDeregisterRdmaMemory(g->b.s, d.bytes, d.length, &err), WSAEINVAL);
	assert_int_equal(stats(0).pinned_bytes, before.pinned_bytes); /* R28; so R29 isn't needed here */
	assert_int_equal(stats(0).entries, before.entries);
}

/* R30: exposed anew without another registration; the old descriptor stays void. */
static void exposed_again_R30(void **state)
{
	struct rig *g = *state;
	struct descriptor d, old = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	struct hf_stats before = stats(0);

	for (int i = 0; i < 50; i++) {
		WORKS(WSPDeregisterRdmaMemory(g->b.s, old.bytes, old.length, &err));
		d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
		no_access(&g->a, &old, g->b.mem);
		WORKS(write_now(&g->a, 0, 64, &d, 0, &err));
		old = d;
	}
	assert_int_equal(stats(0).misses, before.misses);
	assert_int_equal(stats(0).pinned_bytes, before.pinned_bytes);
}

/* R17, known fault 3: exactly these bytes and rights, though a larger registration with both rights serves
 * them. */
static void exactly_what_was_given_R17_fault3(void **state)
{
	struct rig *g = *state; /* all of b.mem is registered for both */
	struct descriptor r = expose(g->b.s, g->b.mem + 100, 1000, MEM_READ);
	struct descriptor w = expose(g->b.s, g->b.mem + 100, 1000, MEM_WRITE);

	pattern(g->b.mem, LEN, 17);
	memset(g->a.mem, 0x66, LEN);
	FAILS(write_now(&g->a, 0, 1, &r, 0, &err), WSAEACCES);
	FAILS(read_now(&g->a, 0, 1, &w, 0, &err), WSAEACCES);
	FAILS(read_now(&g->a, 0, 1001, &r, 0, &err), WSAEFAULT);
	FAILS(read_now(&g->a, 0, 2, &r, 999, &err), WSAEFAULT);
	FAILS(read_now(&g->a, 0, 1, &r, 1000, &err), WSAEFAULT);
	FAILS(read_now(&g->a, 0, 2, &r, ~0u, &err), WSAEFAULT); /* would wrap in 32 bits */
	FAILS(write_now(&g->a, 0, 1001, &w, 0, &err), WSAEFAULT);
	check_pattern(g->b.mem, LEN, 17);
	assert_int_equal(g->a.mem[0], 0x66);
	WORKS(read_now(&g->a, 0, 1000, &r, 0, &err));
	assert_memory_equal(g->a.mem, g->b.mem + 100, 1000);
	assert_int_equal(g->a.mem[1000], 0x66);
}

/* R12: segments with handles, a descriptor with its length, an offset. */
static void segments_R12(void **state)
{
	struct rig *g = *state;
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	char *m = g->a.mem;
	WSABUFEX b[17] = { { 10, m, g->a.handle }, { 0, m, g->a.handle }, { 5000, m + 9000, g->a.handle },
			   { 1, m + LEN - 1, g->a.handle } };
	DWORD n = 0;

	pattern(m, LEN, 12);
	memset(g->b.mem, 0, LEN);
	WORKS(WSPRdmaWrite(g->a.s, b, 4, d.bytes, d.length, 777, &n, 0, NULL, NULL, NULL, &err));
	assert_int_equal(n, 5011);
	assert_memory_equal(g->b.mem + 777, m, 10);
	assert_memory_equal(g->b.mem + 787, m + 9000, 5000);
	assert_int_equal(g->b.mem[5787], m[LEN - 1]);
	assert_int_equal(g->b.mem[776] | g->b.mem[5788], 0);
	memset(m, 0, LEN);
	WORKS(WSPRdmaRead(g->a.s, b, 4, d.bytes, d.length, 777, &n, 0, NULL, NULL, NULL, &err));
	assert_int_equal(n, 5011);
	assert_memory_equal(g->b.mem + 787, m + 9000, 5000);
	for (int i = 4; i < 17; i++)
		b[i] = b[0];
	FAILS(WSPRdmaWrite(g->a.s, b, 17, d.bytes, d.length, 0, &n, 0, NULL, NULL, NULL, &err), WSAEINVAL);
	FAILS(WSPRdmaWrite(g->a.s, b, 0, d.bytes, d.length, 0, &n, 0, NULL, NULL, NULL, &err), WSAEINVAL);
	FAILS(WSPRdmaWrite(g->a.s, NULL, 1, d.bytes, d.length, 0, &n, 0, NULL, NULL, NULL, &err), WSAEINVAL);
	FAILS(WSPRdmaWrite(g->a.s, b, 1, d.bytes, d.length, 0, &n, 1, NULL, NULL, NULL, &err), WSAEOPNOTSUPP);
	b[0].handle = NULL;
	FAILS(WSPRdmaWrite(g->a.s, b, 1, d.bytes, d.length, 0, &n, 0, NULL, NULL, NULL, &err), WSAEINVAL);
}

static void too_large_R13(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	WSAOVERLAPPED ov = { .hEvent = (HANDLE)(intptr_t)event };
	WSABUF b = { 8193, NULL };
	eventfd_t signalled;
	struct rig *g;
	struct descriptor d;
	DWORD size = 0;
	int n = sizeof(size);
	void *s;

	setenv("HOLDFAST_WS2SAN_OPTIONS", "max_message=8K,max_rdma=16K", 1);
	s = g = open_rig(AF_UNIX, 0, 0);
	unsetenv("HOLDFAST_WS2SAN_OPTIONS");
	b.buf = g->a.mem;
	WORKS(WSPGetSockOpt(g->a.s, SOL_SOCKET, SO_MAX_MSG_SIZE, (char *)&size, &n, &err));
	assert_int_equal(size, 8192);
	WORKS(WSPGetSockOpt(g->a.s, 0xffff, SO_MAX_RDMA_SIZE, (char *)&size, &n, &err));
	assert_int_equal(size, 16384);
	FAILS(WSPGetSockOpt(g->a.s, SOL_SOCKET, 1, (char *)&size, &n, &err), WSAENOPROTOOPT);
	FAILS(WSPGetSockOpt(g->a.s, 5, SO_MAX_MSG_SIZE, (char *)&size, &n, &err), WSAEINVAL);
	n = 3;
	FAILS(WSPGetSockOpt(g->a.s, SOL_SOCKET, SO_MAX_MSG_SIZE, (char *)&size, &n, &err), WSAEFAULT);
	d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	memset(g->b.mem, 0, LEN);
	memset(g->a.mem, 1, LEN);
	FAILS(send_now(&g->a, 0, 8193, &err), WSAEMSGSIZE);
	FAILS(write_now(&g->a, 0, 16385, &d, 0, &err), WSAEMSGSIZE);
	FAILS(read_now(&g->a, 0, 16385, &d, 0, &err), WSAEMSGSIZE);
	assert_int_equal(g->b.mem[0], 0); /* not split */
	WORKS(write_now(&g->a, 0, 16384, &d, 0, &err));
	for (int i = 0; i < 2000; i++) /* never posted: no event, and nobody waits for it, or the cleanup would, too */
		FAILS(WSPSend(g->a.s, &b, 1, NULL, 0, &ov, NULL, NULL, &err), WSAEMSGSIZE);
	assert_int_equal(eventfd_read(event, &signalled), -1);
	teardown(&s);
	close(event);
}

/* ------------------------------------------------------------------ transfers */

static void *close_it(void *e)
{
	int err;

	until_it_sleeps(getpid()); /* the test itself */
	WSPCloseSocket(((struct end *)e)->s, &err);
	return NULL;
}

/* R45: what is pending ends with the close, and the socket is none afterwards. R27, R44: nothing of it is
 * held any more. */
static void close_R27_R44_R45(void **state)
{
	struct rig *g = *state;
	WSAOVERLAPPED ov[8] = { { 0 } };
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t signalled = 0;

	for (int i = 0; i < 8; i++) {
		ov[i].hEvent = i == 7 ? (HANDLE)(intptr_t)event : NULL;
		FAILS(recv_later(&g->b, 0, LEN, &ov[i], &err), WSA_IO_PENDING);
	}
	FAILS(WSPMemoryRegistrationCacheCallback(g->b.mem, LEN, &err), WSAEFAULT); /* held: see below */
	WORKS(WSPCloseSocket(g->b.s, &err));
	for (int i = 0; i < 8; i++)
		assert_int_equal(ov[i].Internal, WSA_OPERATION_ABORTED);
	assert_int_equal(eventfd_read(event, &signalled), 0);
	assert_int_equal(signalled, 1);
	close(event);
	FAILS(WSPCloseSocket(g->b.s, &err), WSAENOTSOCK);
	FAILS(send_now(&g->b, 0, 1, &err), WSAENOTSOCK);
	FAILS(WSPDeregisterMemory(g->b.s, g->b.handle, &err), WSAENOTSOCK);
	FAILS_NULL(WSPRegisterMemory(g->b.s, g->b.mem, 1, MEM_READ, &err), WSAENOTSOCK);
	FAILS_NULL(WSPGetOverlappedResult(g->b.s, &ov[0], NULL, TRUE, NULL, &err), WSAENOTSOCK);
	assert_int_equal(stats(0).dead_held, 0);
	/* R16: the peer is told that there is nobody, and reaches nothing. */
	memset(g->b.mem, 0x11, LEN);
	assert_int_equal(write_now(&g->a, 0, 64, &d, 0, &(int){ 0 }), SOCKET_ERROR);
	assert_int_equal(g->b.mem[0], 0x11);
}

/* R45: a thread that waits is not kept waiting. */
static void close_under_a_waiting_thread_R45(void **state)
{
	struct rig *g = *state;
	WSABUF b = { LEN, g->b.mem };
	DWORD flags = 0;
	pthread_t t;
	int err = 0;

	assert_int_equal(pthread_create(&t, NULL, close_it, &g->b), 0);
	assert_int_equal(WSPRecv(g->b.s, &b, 1, NULL, &flags, NULL, NULL, NULL, &err), SOCKET_ERROR);
	assert_true(err == WSA_OPERATION_ABORTED || err == WSAENOTSOCK);
	pthread_join(t, NULL);
}

/* R47: pending, then completed, once; asked for, waited for, or by event. */
static void overlapped_R47(void **state)
{
	struct rig *g = *state;
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd fd = { .fd = event, .events = POLLIN };
	WSAOVERLAPPED ov[3] = { { 0 }, { 0 }, { .hEvent = (HANDLE)(intptr_t)event } };
	eventfd_t n = 0;

	for (int i = 0; i < 3; i++) {
		FAILS(recv_later(&g->b, (DWORD)i * 1000, 1000, &ov[i], &err), WSA_IO_PENDING);
		assert_int_equal(ov[i].Internal, WS_STATUS_PENDING);
	}
	FAILS_NULL(WSPGetOverlappedResult(g->b.s, &ov[0], NULL, FALSE, NULL, &err), WSA_IO_INCOMPLETE);
	FAILS_NULL(WSPGetOverlappedResult(g->b.s, NULL, NULL, FALSE, NULL, &err), WSA_INVALID_PARAMETER);
	assert_int_equal(poll(&fd, 1, 0), 0);
	for (DWORD i = 0; i < 3; i++)
		WORKS(send_now(&g->a, 0, 100 + i, &err));
	assert_int_equal(poll(&fd, 1, 600000), 1); /* nobody waits in the library but its thread */
	for (DWORD i = 0; i < 3; i++)
		assert_int_equal(result(g->b.s, &ov[i]), 100 + i);
	assert_int_equal(eventfd_read(event, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(result(g->b.s, &ov[0]), 100); /* asking again changes nothing */
	FAILS(recv_later(&g->b, LEN - 1, 2, &ov[2], &err), WSAEINVAL); /* not posted: no event */
	assert_int_equal(poll(&fd, 1, 0), 0);
	close(event);
}

/* With nobody waiting in the library at all, its thread completes what has an event, and what comes along. R47 */
static void by_event_alone_R47(void **state)
{
	struct rig *g = *state;
	int event = eventfd(0, EFD_CLOEXEC);
	struct pollfd fd = { .fd = event, .events = POLLIN };
	WSAOVERLAPPED in = { .hEvent = (HANDLE)(intptr_t)event }, out = { 0 };
	WSABUF b = { LEN, g->a.mem };
	eventfd_t n;

	for (unsigned i = 0; i < 20; i++) {
		pattern(g->a.mem, LEN, i);
		FAILS(recv_later(&g->b, 0, LEN, &in, &err), WSA_IO_PENDING);
		FAILS(WSPSend(g->a.s, &b, 1, NULL, 0, &out, NULL, NULL, &err), WSA_IO_PENDING);
		assert_int_equal(poll(&fd, 1, 600000), 1);
		assert_int_equal(eventfd_read(event, &n), 0);
		assert_int_equal(in.Internal, 0);
		assert_int_equal(in.InternalHigh, LEN);
		check_pattern(g->b.mem, LEN, i);
		assert_int_equal(result(g->a.s, &out), LEN);
	}
	close(event);
}

static void bad_transfers(void **state)
{
	struct rig *g = *state;
	WSABUF b = { 1, g->a.mem };
	WSAOVERLAPPED ov = { 0 };
	DWORD flags = 1;
	SOCKET s = open_on(AF_UNIX, 0);

	FAILS(WSPSend(g->a.s, &b, 1, NULL, 1, NULL, NULL, NULL, &err), WSAEOPNOTSUPP);
	FAILS(WSPRecv(g->a.s, &b, 1, NULL, &flags, &ov, NULL, NULL, &err), WSAEOPNOTSUPP);
	FAILS(WSPSend(g->a.s, &b, 1, NULL, 0, &ov, (LPWSAOVERLAPPED_COMPLETION_ROUTINE)(void *)&ov, NULL, &err),
	      WSAEOPNOTSUPP);
	FAILS(WSPSend(s, &b, 1, NULL, 0, NULL, NULL, NULL, &err), WSAENOTCONN);
	FAILS(WSPSend(g->listener, &b, 1, NULL, 0, NULL, NULL, NULL, &err), WSAENOTCONN);
	FAILS(WSPSend(g->a.s, &b, 0, NULL, 0, NULL, NULL, NULL, &err), WSAEINVAL);
	b.buf = NULL;
	FAILS(WSPSend(g->a.s, &b, 1, NULL, 0, NULL, NULL, NULL, &err), WSAEINVAL);
}

/* R48: kept until a receive is posted. And one that is too large for the receive: the sender is told, the
 * receive waits on. */
static void message_before_receive_R48(void **state)
{
	struct rig *g = *state;
	WSABUF b = { 300, g->a.mem };
	WSAOVERLAPPED sent[3] = { { 0 } }, got = { 0 };

	pattern(g->a.mem, LEN, 48);
	for (int i = 0; i < 3; i++)
		FAILS(WSPSend(g->a.s, &b, 1, NULL, 0, &sent[i], NULL, NULL, &err), WSA_IO_PENDING);
	FAILS_NULL(WSPGetOverlappedResult(g->a.s, &sent[0], NULL, FALSE, NULL, &err), WSA_IO_INCOMPLETE);
	for (DWORD i = 0; i < 3; i++) {
		FAILS(recv_later(&g->b, i * 1000, 1000, &got, &err), WSA_IO_PENDING);
		assert_int_equal(result(g->b.s, &got), 300);
		check_pattern(g->b.mem + i * 1000, 300, 48);
		assert_int_equal(result(g->a.s, &sent[i]), 300);
	}
	FAILS(recv_later(&g->b, 0, 100, &got, &err), WSA_IO_PENDING);
	FAILS(send_now(&g->a, 0, 101, &err), WSAEMSGSIZE);
	WORKS(send_now(&g->a, 0, 100, &err));
	assert_int_equal(result(g->b.s, &got), 100);
}

struct traffic {
	struct end *from, *to;
	unsigned n;
};

static void *send_many(void *arg)
{
	struct traffic *t = arg;
	long bad = 0;

	for (unsigned i = 0; i < t->n; i++)
		bad += send_now(t->from, 0, 1 + i % 5000, &(int){ 0 }) != 0;
	return (void *)bad;
}

static void *recv_many(void *arg)
{
	struct traffic *t = arg;
	DWORD flags = 0, n = 0;
	WSABUF b = { LEN, t->to->mem };
	long bad = 0;

	for (unsigned i = 0; i < t->n; i++)
		bad += WSPRecv(t->to->s, &b, 1, &n, &flags, NULL, NULL, NULL, &(int){ 0 }) != 0 || n != 1 + i % 5000;
	return (void *)bad;
}

/* Four threads wait at the same time: whoever takes a completion that is another's hands it on. R47 */
static void threads_wait_for_each_other_R47(void **state)
{
	struct rig *g = *state;
	struct traffic t[2] = { { &g->a, &g->b, 400 }, { &g->b, &g->a, 400 } };
	pthread_t p[4];
	void *bad;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&p[2 * i], NULL, send_many, &t[i]), 0);
		assert_int_equal(pthread_create(&p[2 * i + 1], NULL, recv_many, &t[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(p[i], &bad);
		assert_null(bad);
	}
}

/* ------------------------------------------------------------------ the callback */

/* R32: nothing was cached. */
static void callback_nothing_there_R32(void **state)
{
	char *m = check_map(LEN);

	FAILS(WSPMemoryRegistrationCacheCallback(m, LEN, &err), WSANOTINITIALISED);
	assert_int_equal(startup(), 0);
	FAILS(WSPMemoryRegistrationCacheCallback(m, LEN, &err), WSAEINVAL);
	FAILS(WSPMemoryRegistrationCacheCallback(m, 0, &err), WSAEINVAL);
	FAILS(WSPMemoryRegistrationCacheCallback((void *)-page, 2 * page, &err), WSAEINVAL);
	WORKS(WSPCleanup(&err));
	check_unmap(m, LEN);
}

/* R25, R26, R33, known fault 5: two NICs, four sockets; a part of one, then parts of two; from each NIC. */
static void callback_every_nic_R25_R26_R33_fault5(void **state)
{
	struct rig *g, *h;
	void *s;
	char *m = check_map(2 * LEN);
	HANDLE x[4];
	SOCKET on[4];
	uint64_t base[2];

	setenv("HOLDFAST_WS2SAN_NICS", "uring,uring", 1);
	g = open_rig(AF_UNIX, 0, 1);
	h = open_rig(AF_UNIX, 1, 0);
	on[0] = g->a.s, on[1] = g->b.s, on[2] = h->a.s, on[3] = h->b.s;
	assert_ptr_not_equal(hf_ws2san_provider(0), hf_ws2san_provider(1));
	base[0] = stats(0).pinned_bytes, base[1] = stats(1).pinned_bytes;
	for (DWORD half = 0; half < 2; half++) {
		for (int i = 0; i < 4; i++)
			x[i] = reg(on[i], m + half * LEN, LEN, MEM_READWRITE);
		for (int i = 0; i < 4; i++)
			WORKS(WSPDeregisterMemory(on[i], x[i], &err));
	}
	assert_int_equal(stats(0).pinned_bytes, base[0] + 2 * LEN);
	assert_int_equal(stats(1).pinned_bytes, base[1] + 2 * LEN);
	WORKS(WSPMemoryRegistrationCacheCallback(m + 5, 1, &err));
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(stats(i).pinned_bytes, base[i] + LEN); /* now, not soon */
	FAILS(WSPMemoryRegistrationCacheCallback(m, LEN, &err), WSAEINVAL);
	x[0] = reg(on[0], m, LEN, MEM_READ);
	WORKS(WSPDeregisterMemory(on[0], x[0], &err));
	WORKS(WSPMemoryRegistrationCacheCallback(m + LEN - 1, 2, &err)); /* the end of one, the beginning of the other */
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(stats(i).pinned_bytes, base[i]);
	s = h;
	WORKS(WSPCleanup(&err)); /* the first of two */
	teardown(&s);
	empty_end(&g->a);
	empty_end(&g->b);
	free(g);
	check_unmap(m, 2 * LEN);
	unsetenv("HOLDFAST_WS2SAN_NICS");
}

/* R32, known fault 7: a NIC that won't let go. It is a third provider of the same switch, which can be told
 * to. */
static void callback_nic_refuses_R32_fault7(void **state)
{
	struct rig *g = *state;
	struct hf_sim sim = { 0 };
	struct hf_provider *p = check_sim(hf_ws2san_switch(), &sim, NULL);

	WORKS(WSPDeregisterMemory(g->a.s, g->a.handle, &err));
	check_touch(p, g->a.mem, LEN, HF_READ);
	sim.fail_dereg_in = 1;
	FAILS(WSPMemoryRegistrationCacheCallback(g->a.mem, LEN, &err), WSAEFAULT);
	assert_int_equal(check_stats(p).dereg_failures, 1);
	FAILS(WSPMemoryRegistrationCacheCallback(g->a.mem, LEN, &err), WSAEFAULT); /* it still is so */
	sim.live = 0;
	check_ok(hf_provider_close(p));
	FAILS(WSPMemoryRegistrationCacheCallback(g->a.mem, LEN, &err), WSAEINVAL);
}

/* R32, R31, known fault 6: transfers are under way, or a handle is held. They come to no harm; the answer
 * says that it isn't gone. */
static void callback_under_a_transfer_R31_R32_fault6(void **state)
{
	struct rig *g = *state;
	WSAOVERLAPPED ov = { 0 };
	char before = g->b.mem[0];
	int code;

	FAILS(recv_later(&g->b, 0, LEN, &ov, &err), WSA_IO_PENDING);
	FAILS(WSPMemoryRegistrationCacheCallback(g->b.mem, LEN, &err), WSAEFAULT);
	pattern(g->a.mem, LEN, 6);
	send_now(&g->a, 0, LEN, &(int){ 0 });
	WSPGetOverlappedResult(g->b.s, &ov, NULL, TRUE, NULL, &code);
	/* Told to be changed: either it was on its way, or it is refused as stale; never a crash, never half. */
	if (ov.Internal == 0)
		check_pattern(g->b.mem, LEN, 6);
	else
		assert_int_equal(ov.Internal, WSAEFAULT);
	assert_true(ov.Internal == 0 || g->b.mem[0] == before);
	WORKS(WSPDeregisterMemory(g->b.s, g->b.handle, &err));
	FAILS(WSPMemoryRegistrationCacheCallback(g->b.mem, LEN, &err), WSAEINVAL); /* gone with its last user */
	g->b.handle = reg(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	exchange(&g->a, &g->b, 66);
}

/* R31: the memory under a handle is unmapped, and used. An error, and all goes on. */
static void unmapped_under_a_handle_R31(void **state)
{
	struct rig *g = *state;
	struct descriptor d = expose(g->b.s, g->b.mem, LEN, MEM_READWRITE);
	char *m = check_map(LEN);
	struct end e = { g->a.s, m, reg(g->a.s, m, LEN, MEM_READWRITE) };

	memset(g->b.mem, 0x31, LEN);
	assert_int_equal(munmap(m, LEN), 0);
	WSPMemoryRegistrationCacheCallback(m, LEN, NULL); /* under `manual` the program says so */
	FAILS(write_now(&e, 0, LEN, &d, 0, &err), WSAEFAULT);
	FAILS(read_now(&e, 0, LEN, &d, 0, &err), WSAEFAULT);
	FAILS(send_now(&e, 0, LEN, &err), WSAEFAULT);
	WORKS(WSPDeregisterMemory(e.s, e.handle, &err));
	assert_int_equal(g->b.mem[0], 0x31);
	exchange(&g->a, &g->b, 31);
	assert_ptr_equal(mmap(m, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), m);
	check_unmap(m, LEN);
}

/* ------------------------------------------------------------------ the nth failure */

/* The linker sends these calls of the library and of the names here (--wrap in meson.build). */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
int __real_eventfd(unsigned count, int flags);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_eventfd(unsigned count, int flags);

static _Atomic int fail_in; /* n > 0: the nth call from now fails */

static bool strikes(int err)
{
	if (atomic_load(&fail_in) <= 0 || atomic_fetch_sub(&fail_in, 1) != 1)
		return false;
	errno = err;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return strikes(ENOMEM) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return strikes(ENOMEM) ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return strikes(ENOMEM) ? NULL : __real_realloc(old, size);
}

int __wrap_eventfd(unsigned count, int flags)
{
	return strikes(EMFILE) ? -1 : __real_eventfd(count, flags);
}

/* What failed for want of something says so, or that the connection went. */
static void only_wants(bool good, int err, int line)
{
	static const int wants[] = { WSAENOBUFS, WSAEMFILE, WSAECONNRESET, WSAECONNREFUSED, WSAEDISCON, WSAENOTSOCK,
				     WSAENOTCONN, WSA_IO_PENDING, WSA_OPERATION_ABORTED, WSAEWOULDBLOCK };

	for (size_t i = 0; !good && i < sizeof(wants) / sizeof(wants[0]); i++)
		good = err == wants[i];
	if (!good)
		fail_msg("line %d: %d (\"%s\")", line, err, hf_error());
}
#define TRIES(x)                                   \
	do {                                       \
		int err = 0;                       \
		bool good_ = (x);                  \
						   \
		only_wants(good_, err, __LINE__);  \
	} while (0)

/* Everything that takes memory or a descriptor, on both ends of a connection to itself. */
static void use_all(struct sockaddr_un *at, char *mem, WSAOVERLAPPED *ov)
{
	int at_len = (int)offsetof(struct sockaddr_un, sun_path) + 12;
	struct descriptor d = { .length = sizeof(d.bytes) };
	struct end a = { 0, mem, NULL }, b = { 0, mem, NULL };
	struct call c = { .len = at_len };
	pthread_t t;
	SOCKET l;

	TRIES((l = WSPSocket(AF_UNIX, SOCK_STREAM, 0, NULL, 0, 0, &err)) != INVALID_SOCKET);
	TRIES(WSPBind(l, (struct sockaddr *)at, at_len, &err) == 0);
	if (WSPListen(l, 1, NULL))
		return;
	TRIES((c.s = WSPSocket(AF_UNIX, SOCK_STREAM, 0, NULL, 0, 0, &err)) != INVALID_SOCKET);
	memcpy(&c.to, at, sizeof(*at));
	assert_int_equal(pthread_create(&t, NULL, connect_there, &c), 0);
	pthread_join(t, NULL); /* the library answers for the listener */
	if (c.rc)
		return;
	a.s = c.s;
	TRIES((b.s = WSPAccept(l, NULL, NULL, NULL, 0, &err)) != INVALID_SOCKET);
	TRIES((a.handle = WSPRegisterMemory(a.s, mem, LEN, MEM_READWRITE, &err)) != NULL);
	TRIES((b.handle = WSPRegisterMemory(b.s, mem, LEN, MEM_READWRITE, &err)) != NULL);
	TRIES(WSPRegisterRdmaMemory(a.s, mem, LEN, MEM_READWRITE, d.bytes, &d.length, &err) == 0);
	if (!a.handle || !b.handle)
		return;
	TRIES(recv_later(&b, 0, 64, ov, &err) == 0);
	if (ov->Internal == WS_STATUS_PENDING)
		TRIES(send_now(&a, 0, 64, &err) == 0);
}

/* Each in turn fails: what is said fits, nothing is left behind, and cleanup works. Known fault 13 */
static void nth_failure_fault13(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char *mem = check_map(LEN);
	int before, event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), n = 0, left;

	snprintf(at.sun_path + 1, sizeof(at.sun_path) - 1, "hf-%08x", (unsigned)getpid());
	before = count_descriptors();
	do {
		WSAOVERLAPPED ov = { .hEvent = (HANDLE)(intptr_t)event }; /* pending up to the cleanup, maybe */
		int rc;

		atomic_store(&fail_in, ++n);
		rc = startup();
		assert_true(rc == 0 || rc == WSASYSNOTREADY || rc == WSAEPROCLIM);
		if (!rc) {
			use_all(&at, mem, &ov);
			WORKS(WSPCleanup(&err));
		}
		left = atomic_exchange(&fail_in, 0);
		assert_int_equal(count_descriptors(), before);
	} while (left <= 0);
	print_message("%d calls failed in turn\n", n - 1);
	assert_true(n > 20);
	close(event);
	check_unmap(mem, LEN);
}

/* ------------------------------------------------------------------ */

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(startup_is_counted_R21), cmocka_unit_test(startup_arguments),
		cmocka_unit_test(cleanup_cancels_R21), cmocka_unit_test(cleanup_while_held),
		cmocka_unit_test(cleanup_beside_others),
		cmocka_unit_test(extensions_by_guid_R18), cmocka_unit_test(unknown_extension_R19_R20),
		cmocka_unit_test(socket_kinds), cmocka_unit_test(ids_never_come_back_R45),
		cmocka_unit_test(addresses), WITH_RIG(connection_states), cmocka_unit_test(over_tcp),
		cmocka_unit_test(accept_conditions), cmocka_unit_test(close_while_accepting),
		WITH_RIG(register_errors_R1_fault9), cmocka_unit_test(no_buffers_R1),
		WITH_RIG(rights_of_handles_R2_R3_R17), WITH_RIG(send_needs_a_registration_R3),
		WITH_RIG(many_registrations), WITH_RIG(handle_is_of_one_socket_and_process_R4),
		WITH_RIG(same_buffer_often_R5_R7_R22_R23_R24), WITH_RIG(deregister_R6_fault8),
		WITH_RIG(descriptor_R8_R9_fault4_fault9),
		WITH_RIG(descriptor_of_another_connection_R10_R15_R16_fault2),
		WITH_RIG(local_memory_is_not_reachable_R14), WITH_RIG(revoked_at_once_R11_R16_R28_R29_fault1),
		WITH_RIG(exposed_again_R30), WITH_RIG(exactly_what_was_given_R17_fault3), WITH_RIG(segments_R12),
		cmocka_unit_test(too_large_R13), WITH_RIG(close_R27_R44_R45),
		WITH_RIG(close_under_a_waiting_thread_R45), WITH_RIG(overlapped_R47), WITH_RIG(by_event_alone_R47),
		WITH_RIG(bad_transfers), WITH_RIG(message_before_receive_R48), WITH_RIG(threads_wait_for_each_other_R47),
		cmocka_unit_test(callback_nothing_there_R32), cmocka_unit_test(callback_every_nic_R25_R26_R33_fault5),
		WITH_RIG(callback_nic_refuses_R32_fault7), WITH_RIG(callback_under_a_transfer_R31_R32_fault6),
		WITH_RIG(unmapped_under_a_handle_R31), cmocka_unit_test(nth_failure_fault13),
	};

	int failed, proxies;

	page = check_page();
	unsetenv("HOLDFAST");
	proxies = check_uffd() ? 2 : 1;
	unsetenv("HOLDFAST_WS2SAN_NICS");
	unsetenv("HOLDFAST_WS2SAN_OPTIONS");
	/* The requirements don't depend on the proxy. `manual` is everywhere, and tells when we say so. */
	for (int i = failed = 0; i < proxies && !failed; i++) {
		use_proxy(i ? "uffd" : "manual", "");
		failed = cmocka_run_group_tests_name(proxy, tests, NULL, NULL);
	}
	return failed;
}
