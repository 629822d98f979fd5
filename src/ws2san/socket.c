/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Sockets: ids, and their life. An id is a count and a place in the table; the count never comes back, so
 * that an old id finds nothing (R45). Whoever uses a socket is counted, and closing waits for them:
 *
 *   close                                     another call on it
 *   -------------------------------------     ---------------------------------
 *   lock: out of the table; unlock            lock: in the table? users++; unlock
 *   wake who waits in WSPAccept()             ... hf_* on it ...
 *   wait until it has no users                lock: users--; unlock
 *   hf_sock_close(): all that is pending
 *   completes; wait until that is taken
 *   free
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ws2san.h"

#define PLACE_BITS 16
_Static_assert(MAX_SOCKETS == 1 << PLACE_BITS, "an id has room for each place");

/* ------------------------------------------------------------------ the table */

/* ws.lock: twice as many places. The first new one, or -errno. */
static int64_t grow_table(void)
{
	uint32_t old = ws.slots;
	uint32_t slots = old ? 2 * old : 16;
	struct ws_socket **more;

	if (old == MAX_SOCKETS)
		return -EMFILE;
	more = realloc(ws.slot, slots * sizeof(struct ws_socket *));
	if (!more)
		return -ENOMEM;
	memset(more + old, 0, (slots - old) * sizeof(struct ws_socket *));
	ws.slot = more;
	ws.slots = slots;
	return old;
}

/* ws.lock */
static int64_t free_place(void)
{
	for (uint32_t i = 0; i < ws.slots; i++)
		if (!ws.slot[i])
			return i;
	return grow_table();
}

/* Once it is in there, anybody may close it: s is not the caller's any more, only *id is. */
static int enter_table(struct ws_socket *s, SOCKET *id)
{
	int64_t place;

	pthread_mutex_lock(&ws.lock);
	/* A cleanup that began meanwhile has looked at the table perhaps. */
	place = ws.started ? free_place() : -EOWNERDEAD;
	if (place >= 0) {
		s->id = (SOCKET)(++ws.last_id << PLACE_BITS | (uint64_t)place);
		ws.slot[place] = s;
		*id = s->id;
	}
	pthread_mutex_unlock(&ws.lock);
	return place < 0 ? (int)place : 0;
}

/* ws.lock */
static struct ws_socket *find(SOCKET id)
{
	uint32_t place = id & (MAX_SOCKETS - 1);
	struct ws_socket *s = place < ws.slots ? ws.slot[place] : NULL;

	return s && s->id == id ? s : NULL;
}

struct ws_socket *ws_socket_get(SOCKET id, LPINT lpErrno)
{
	struct ws_socket *s = NULL;
	int code = WSANOTINITIALISED;

	pthread_mutex_lock(&ws.lock);
	if (ws.started) {
		s = find(id);
		code = WSAENOTSOCK;
	}
	if (s) {
		s->users++;
		ws.inside++;
	}
	pthread_mutex_unlock(&ws.lock);
	if (!s)
		ws_fail(lpErrno, code);
	return s;
}

void ws_socket_put(struct ws_socket *s)
{
	pthread_mutex_lock(&ws.lock);
	s->users--;
	ws.inside--;
	pthread_cond_broadcast(&ws.left);
	pthread_mutex_unlock(&ws.lock);
}

static enum state state_of(struct ws_socket *s)
{
	enum state state;

	pthread_mutex_lock(&s->lock);
	state = s->state;
	pthread_mutex_unlock(&s->lock);
	return state;
}

struct ws_socket *ws_connected_get(SOCKET id, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);

	if (!s || state_of(s) == CONNECTED)
		return s;
	ws_socket_put(s);
	ws_fail(lpErrno, WSAENOTCONN);
	return NULL;
}

/* ------------------------------------------------------------------ life */

static void destroy(struct ws_socket *s)
{
	ws_buffers_destroy(&s->buffers);
	close(s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Not in the table yet. */
static struct ws_socket *create(int family, unsigned nic, int *err)
{
	struct ws_socket *s = calloc(1, sizeof(*s));

	*err = -ENOMEM;
	if (!s)
		return NULL;
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake < 0) {
		*err = -errno;
		free(s);
		return NULL;
	}
	s->family = family;
	s->nic = nic;
	s->provider = ws.nic[nic];
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

/* It is in the table: the last step of making one. On error it is gone. */
static SOCKET publish(struct ws_socket *s, LPINT lpErrno)
{
	SOCKET id;
	int rc = enter_table(s, &id);

	if (!rc)
		return id;
	hf_sock_close(s->sock);
	destroy(s);
	ws_fail(lpErrno, ws_error(rc));
	return INVALID_SOCKET;
}

static int check_kind(int af, int type, int protocol)
{
	if (af != AF_INET && af != AF_INET6 && af != AF_UNIX)
		return WSAEAFNOSUPPORT;
	if (type != SOCK_STREAM)
		return WSAESOCKTNOSUPPORT;
	return protocol && protocol != IPPROTO_TCP ? WSAEPROTONOSUPPORT : 0;
}

SOCKET WSPSocket(int af, int type, int protocol, LPWSAPROTOCOL_INFOW lpProtocolInfo, GROUP g, DWORD dwFlags, LPINT lpErrno)
{
	DWORD nic = lpProtocolInfo ? lpProtocolInfo->dwProviderReserved : 0;
	SOCKET id = INVALID_SOCKET;
	struct ws_socket *s;
	int rc = ws_enter();
	int err;

	if (rc) {
		ws_fail(lpErrno, rc);
		return INVALID_SOCKET;
	}
	rc = check_kind(af, type, protocol);
	if (!rc && (nic >= MAX_NICS || !ws.nic[nic]))
		rc = WSAEINVAL;
	if (rc) {
		ws_fail(lpErrno, rc);
	} else {
		s = create(af, nic, &err);
		id = s ? publish(s, lpErrno) : INVALID_SOCKET;
		if (!s)
			ws_fail(lpErrno, ws_error(err));
	}
	ws_leave();
	return id;
}

/* Out of the table, by whoever is first: NULL for the others. */
static struct ws_socket *take_out(SOCKET id)
{
	struct ws_socket *s = find(id);

	if (s)
		ws.slot[id & (MAX_SOCKETS - 1)] = NULL;
	return s;
}

static void close_taken(struct ws_socket *s)
{
	eventfd_write(s->wake, 1);
	pthread_mutex_lock(&ws.lock);
	while (s->users)
		pthread_cond_wait(&ws.left, &ws.lock);
	pthread_mutex_unlock(&ws.lock);
	hf_sock_close(s->deferred);
	hf_sock_close(s->sock);
	ws_pending_wait(s);
	destroy(s);
}

int WSPCloseSocket(SOCKET id, LPINT lpErrno)
{
	int code = WSANOTINITIALISED;
	struct ws_socket *s = NULL;

	pthread_mutex_lock(&ws.lock);
	if (ws.started) {
		s = take_out(id);
		code = WSAENOTSOCK;
	}
	ws.inside += s != NULL;
	pthread_mutex_unlock(&ws.lock);
	if (!s)
		return ws_fail(lpErrno, code);
	close_taken(s);
	ws_leave();
	return 0;
}

/* Any that is left, out of the table. */
static struct ws_socket *take_any(void)
{
	struct ws_socket *s = NULL;

	pthread_mutex_lock(&ws.lock);
	for (uint32_t i = 0; i < ws.slots && !s; i++) {
		s = ws.slot[i];
		ws.slot[i] = NULL;
	}
	pthread_mutex_unlock(&ws.lock);
	return s;
}

void ws_close_all(void)
{
	struct ws_socket *s;

	while ((s = take_any()))
		close_taken(s);
}

void ws_table_free(void)
{
	free(ws.slot);
	ws.slot = NULL;
	ws.slots = 0;
}

/* ------------------------------------------------------------------ connecting */

int WSPBind(SOCKET id, const struct sockaddr *name, int namelen, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	char text[ADDRESS_TEXT];
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = ws_address_text(name, namelen, text);
	if (!rc && name->sa_family != s->family)
		rc = WSAEAFNOSUPPORT;
	pthread_mutex_lock(&s->lock);
	if (!rc && (s->bound || s->state != FRESH))
		rc = WSAEINVAL;
	if (!rc) {
		memcpy(s->address, text, sizeof(text));
		s->bound = true;
	}
	pthread_mutex_unlock(&s->lock);
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

/* From FRESH to CONNECTING, which also keeps others out while it begins to listen. */
static int begin(struct ws_socket *s, bool listen)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (s->state == CONNECTED)
		rc = WSAEISCONN;
	else if (s->state == CONNECTING)
		rc = WSAEALREADY;
	else if (s->state == LISTENING || (listen && !s->bound))
		rc = WSAEINVAL;
	else
		s->state = CONNECTING;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static void end(struct ws_socket *s, enum state state, struct hf_sock *sock)
{
	pthread_mutex_lock(&s->lock);
	s->sock = sock;
	s->state = sock ? state : FRESH;
	pthread_mutex_unlock(&s->lock);
}

static const char *options(void)
{
	return *ws.options ? ws.options : NULL;
}

int WSPListen(SOCKET id, int backlog, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	struct hf_sock *sock = NULL;
	int rc;

	if (!s)
		return SOCKET_ERROR;
	if (state_of(s) == LISTENING) { /* once is enough */
		ws_socket_put(s);
		return 0;
	}
	rc = begin(s, true);
	if (!rc) {
		rc = ws_error(hf_listen(s->provider, s->address, options(), &sock));
		end(s, LISTENING, sock);
	}
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

int WSPConnect(SOCKET id, const struct sockaddr *name, int namelen, LPWSABUF lpCallerData, LPWSABUF lpCalleeData,
	       LPQOS lpSQOS, LPQOS lpGQOS, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	struct hf_sock *sock = NULL;
	char text[ADDRESS_TEXT];
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = ws_address_text(name, namelen, text);
	if (!rc && name->sa_family != s->family)
		rc = WSAEAFNOSUPPORT;
	if (!rc && ((lpCallerData && lpCallerData->len) || (lpCalleeData && lpCalleeData->len)))
		rc = WSAEOPNOTSUPP;
	if (!rc)
		rc = begin(s, false);
	if (!rc) {
		rc = ws_error(hf_connect(s->provider, text, options(), ws.cq, CONNECT_MS, &sock));
		end(s, CONNECTED, sock);
	}
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

/* ------------------------------------------------------------------ accepting */

static struct hf_sock *take_deferred(struct ws_socket *s, bool *wait)
{
	struct hf_sock *sock;

	pthread_mutex_lock(&s->lock);
	sock = s->deferred;
	s->deferred = NULL;
	*wait = !s->nonblocking;
	pthread_mutex_unlock(&s->lock);
	return sock;
}

/* 0: there may be somebody to accept. */
static int wait_for_peer(struct ws_socket *s)
{
	struct pollfd fd[2] = { { .fd = s->wake, .events = POLLIN },
				{ .fd = hf_sock_fd(s->sock), .events = POLLIN } };

	while (poll(fd, 2, -1) < 0)
		if (errno != EINTR)
			return WSAENETDOWN;
	return fd[0].revents ? WSAENOTSOCK : 0;
}

static int next_peer(struct ws_socket *s, struct hf_sock **out)
{
	bool wait;
	int rc;

	*out = take_deferred(s, &wait);
	while (!*out) {
		rc = hf_accept(s->sock, ws.cq, 0, out);
		if (rc && rc != -ETIMEDOUT)
			return ws_error(rc);
		if (rc && !wait)
			return WSAEWOULDBLOCK;
		rc = rc ? wait_for_peer(s) : 0;
		if (rc)
			return rc;
	}
	return 0;
}

/* CF_*: what the program says to this peer. */
static int ask(struct hf_sock *peer, LPCONDITIONPROC condition, DWORD_PTR data)
{
	struct sockaddr_storage from;
	int len = sizeof(from);
	struct hf_sock_info info;
	WSABUF caller = { 0, (char *)&from };

	if (!condition)
		return CF_ACCEPT;
	if (hf_sock_info(peer, &info, sizeof(info)) == 0 &&
	    ws_address_store(info.peer, (struct sockaddr *)&from, &len) == 0)
		caller.len = (ULONG)len;
	return condition(&caller, NULL, NULL, NULL, NULL, NULL, NULL, data);
}

static int judge(struct ws_socket *s, struct hf_sock *peer, LPCONDITIONPROC condition, DWORD_PTR data)
{
	switch (ask(peer, condition, data)) {
	case CF_ACCEPT:
		return 0;
	case CF_DEFER:
		pthread_mutex_lock(&s->lock);
		if (!s->deferred) {
			s->deferred = peer;
			peer = NULL;
		}
		pthread_mutex_unlock(&s->lock);
		hf_sock_close(peer); /* another thread's is kept already */
		return WSATRY_AGAIN;
	}
	hf_sock_close(peer);
	return WSAECONNREFUSED;
}

static int store_peer(struct hf_sock *peer, struct sockaddr *addr, LPINT addrlen)
{
	struct hf_sock_info info;
	int rc = hf_sock_info(peer, &info, sizeof(info));

	return rc ? ws_error(rc) : ws_address_store(info.peer, addr, addrlen);
}

static SOCKET accepted(struct ws_socket *s, struct hf_sock *peer, LPINT lpErrno)
{
	struct ws_socket *n;
	int err;

	n = create(s->family, s->nic, &err);
	if (!n) {
		hf_sock_close(peer);
		ws_fail(lpErrno, ws_error(err));
		return INVALID_SOCKET;
	}
	n->sock = peer;
	n->state = CONNECTED;
	return publish(n, lpErrno);
}

SOCKET WSPAccept(SOCKET id, struct sockaddr *addr, LPINT addrlen, LPCONDITIONPROC lpfnCondition, DWORD_PTR dwCallbackData,
		 LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	struct hf_sock *peer = NULL;
	SOCKET n = INVALID_SOCKET;
	int rc;

	if (!s)
		return INVALID_SOCKET;
	rc = state_of(s) == LISTENING ? next_peer(s, &peer) : WSAEINVAL;
	if (!rc)
		rc = judge(s, peer, lpfnCondition, dwCallbackData);
	if (!rc && addr && (rc = store_peer(peer, addr, addrlen)))
		hf_sock_close(peer);
	if (rc)
		ws_fail(lpErrno, rc);
	else
		n = accepted(s, peer, lpErrno);
	ws_socket_put(s);
	return n;
}

/* ------------------------------------------------------------------ asking */

int WSPGetSockName(SOCKET id, struct sockaddr *name, LPINT namelen, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	struct hf_sock_info info;
	int rc = 0;

	if (!s)
		return SOCKET_ERROR;
	pthread_mutex_lock(&s->lock);
	if (s->sock)
		rc = ws_error(hf_sock_info(s->sock, &info, sizeof(info)));
	else if (s->bound)
		memcpy(info.local, s->address, sizeof(info.local));
	else
		rc = WSAEINVAL;
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = ws_address_store(info.local, name, namelen);
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

int WSPGetPeerName(SOCKET id, struct sockaddr *name, LPINT namelen, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = store_peer(s->sock, name, namelen);
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

static int option(struct ws_socket *s, int level, int name, DWORD *out)
{
	struct hf_sock_info info;
	int rc;

	if (level != SOL_SOCKET && level != 0xffff)
		return WSAEINVAL;
	if (name != SO_MAX_MSG_SIZE && name != SO_MAX_RDMA_SIZE)
		return WSAENOPROTOOPT;
	rc = hf_sock_info(s->sock, &info, sizeof(info));
	if (!rc)
		*out = (DWORD)(name == SO_MAX_MSG_SIZE ? info.max_message : info.max_rdma);
	return ws_error(rc);
}

int WSPGetSockOpt(SOCKET id, int level, int optname, char *optval, LPINT optlen, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	DWORD value;
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = !optval || !optlen || *optlen < (int)sizeof(value) ? WSAEFAULT : option(s, level, optname, &value);
	if (!rc) {
		memcpy(optval, &value, sizeof(value));
		*optlen = sizeof(value);
	}
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}
