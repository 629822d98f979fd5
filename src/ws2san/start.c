/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Start and end, counted (R21); and who is inside.
 *
 *   cleanup                                     any other call
 *   ------------------------------------        ---------------------------------
 *   lock: started = 0; unlock                   lock: started? inside++; unlock
 *   wait until nobody is inside                 ... uses switch, providers, queue ...
 *   close sockets, providers, switch            lock: inside--; unlock
 *
 * A thread that waits for a transfer is not inside: its end is what closing the sockets brings about
 * (overlap.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ws2san.h"

struct ws ws = {
	.starting = PTHREAD_MUTEX_INITIALIZER,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.left = PTHREAD_COND_INITIALIZER,
};

int ws_enter(void)
{
	int rc = 0;

	pthread_mutex_lock(&ws.lock);
	if (ws.started)
		ws.inside++;
	else
		rc = WSANOTINITIALISED;
	pthread_mutex_unlock(&ws.lock);
	return rc;
}

void ws_leave(void)
{
	pthread_mutex_lock(&ws.lock);
	ws.inside--;
	pthread_cond_broadcast(&ws.left);
	pthread_mutex_unlock(&ws.lock);
}

/* ------------------------------------------------------------------ fork */

/* The child begins anew. What was the parent's is neither used nor freed: a lock of it may be held for ever. */
static void forked(void)
{
	uint64_t last_id = ws.last_id;

	memset(&ws, 0, sizeof(ws));
	ws.last_id = last_id; /* the parent's sockets have no namesakes */
	pthread_mutex_init(&ws.starting, NULL);
	pthread_mutex_init(&ws.lock, NULL);
	pthread_cond_init(&ws.left, NULL);
	ws_overlap_forked();
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forked);
}

/* ------------------------------------------------------------------ open */

/* "uring,uring": a provider each. starting is held. */
static int open_nics(void)
{
	const char *list = getenv("HOLDFAST_WS2SAN_NICS");
	char name[64];
	int rc = 0;

	list = list && *list ? list : "uring";
	for (unsigned i = 0; *list && !rc; i++) {
		size_t n = strcspn(list, ",");

		if (i == MAX_NICS || n >= sizeof(name))
			return -EINVAL;
		memcpy(name, list, n);
		name[n] = 0;
		rc = hf_provider_open(ws.sw, name, NULL, &ws.nic[i]);
		list += n + (list[n] == ',');
	}
	return rc;
}

/* What is in use stays: -EBUSY. */
static int close_nics(void)
{
	int rc = 0;

	for (unsigned i = 0; i < MAX_NICS; i++) {
		int one = hf_provider_close(ws.nic[i]);

		if (!one)
			ws.nic[i] = NULL;
		rc = rc ? rc : one;
	}
	return rc;
}

static int close_beneath(void)
{
	int rc = close_nics();

	if (!rc)
		rc = hf_switch_close(ws.sw);
	if (rc)
		return rc;
	ws.sw = NULL;
	hf_cq_close(ws.cq);
	ws.cq = NULL;
	return 0;
}

static int open_beneath(void)
{
	const char *options = getenv("HOLDFAST_WS2SAN_OPTIONS");
	int rc;

	if (options && strlen(options) >= sizeof(ws.options))
		return -EINVAL;
	strcpy(ws.options, options ? options : "");
	rc = hf_switch_open(NULL, &ws.sw);
	if (!rc)
		rc = open_nics();
	if (!rc)
		rc = hf_cq_open(&ws.cq);
	if (rc && ws.sw)
		close_beneath();
	return rc;
}

/* ------------------------------------------------------------------ start */

static void fill_data(LPWSPDATA d)
{
	static const char text[] = "holdfast: SAN sockets on Linux";

	memset(d, 0, sizeof(*d));
	d->wVersion = d->wHighVersion = 0x0202;
	for (size_t i = 0; i < sizeof(text); i++)
		d->szDescription[i] = (WCHAR)text[i];
}

static void fill_table(LPWSPPROC_TABLE t)
{
	*t = (WSPPROC_TABLE){
		.lpWSPAccept = WSPAccept,
		.lpWSPBind = WSPBind,
		.lpWSPCleanup = WSPCleanup,
		.lpWSPCloseSocket = WSPCloseSocket,
		.lpWSPConnect = WSPConnect,
		.lpWSPGetOverlappedResult = WSPGetOverlappedResult,
		.lpWSPGetPeerName = WSPGetPeerName,
		.lpWSPGetSockName = WSPGetSockName,
		.lpWSPGetSockOpt = WSPGetSockOpt,
		.lpWSPIoctl = WSPIoctl,
		.lpWSPListen = WSPListen,
		.lpWSPRecv = WSPRecv,
		.lpWSPSend = WSPSend,
		.lpWSPSocket = WSPSocket,
	};
}

/* starting is held. */
static int start(void)
{
	int rc;

	if (ws.started == 0) {
		rc = open_beneath();
		if (rc)
			return rc == -EMFILE ? WSAEPROCLIM : WSASYSNOTREADY;
	}
	pthread_mutex_lock(&ws.lock);
	ws.started++;
	pthread_mutex_unlock(&ws.lock);
	return 0;
}

int WSPStartupEx(WORD wVersionRequested, LPWSPDATA lpWSPData, LPWSAPROTOCOL_INFOW lpProtocolInfo,
		 LPWSPUPCALLTABLEEX lpUpcallTable, LPWSPPROC_TABLE lpProcTable)
{
	unsigned major = wVersionRequested & 0xff, minor = wVersionRequested >> 8;
	int rc;

	if (!lpWSPData || !lpProcTable)
		return WSAEFAULT;
	if (major < 2 || (major == 2 && minor < 2))
		return WSAVERNOTSUPPORTED;
	pthread_mutex_lock(&ws.starting);
	rc = start();
	pthread_mutex_unlock(&ws.starting);
	if (rc)
		return rc;
	fill_data(lpWSPData);
	fill_table(lpProcTable);
	return 0;
}

/* ------------------------------------------------------------------ end */

/* starting is held: one less. The last lets nobody in any more, and waits until all are out. */
static int count_down(bool *last)
{
	int rc = 0;

	pthread_mutex_lock(&ws.lock);
	if (ws.started == 0)
		rc = WSANOTINITIALISED;
	else
		*last = --ws.started == 0;
	pthread_mutex_unlock(&ws.lock);
	return rc;
}

static void wait_until_empty(void)
{
	pthread_mutex_lock(&ws.lock);
	while (ws.inside)
		pthread_cond_wait(&ws.left, &ws.lock);
	pthread_mutex_unlock(&ws.lock);
}

static int finish(void)
{
	ws_close_all();
	wait_until_empty();
	ws_table_free();
	ws_overlap_stop();
	if (close_beneath() == 0)
		return 0;
	pthread_mutex_lock(&ws.lock);
	ws.started = 1;
	pthread_mutex_unlock(&ws.lock);
	return WSAEINPROGRESS;
}

int WSPCleanup(LPINT lpErrno)
{
	bool last = false;
	int rc;

	pthread_mutex_lock(&ws.starting);
	rc = count_down(&last);
	if (last)
		rc = finish();
	pthread_mutex_unlock(&ws.starting);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

/* ------------------------------------------------------------------ what lies beneath */

struct hf_switch *hf_ws2san_switch(void)
{
	struct hf_switch *sw;

	if (ws_enter())
		return NULL;
	sw = ws.sw;
	ws_leave();
	return sw;
}

struct hf_provider *hf_ws2san_provider(unsigned i)
{
	struct hf_provider *p;

	if (i >= MAX_NICS || ws_enter())
		return NULL;
	p = ws.nic[i];
	ws_leave();
	return p;
}
