/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Completion. All sockets share one queue, and no thread is needed to empty it: of those who wait for an
 * operation one leads. It waits for the queue, completes whatever comes, for whomever, and wakes the
 * others; when its own operation has completed, another one takes over. Only for operations with an hEvent,
 * which nobody may be waiting for here, there is a thread; it waits like any other, for as long as there
 * are such operations.
 *
 *   waits for 1: leads        waits for 2             close
 *   ----------------------    --------------------    ---------------------------
 *   hf_cq_wait()              cond_wait               hf_sock_close(): 1, 2 into the queue
 *   completes 1 and 2         wakes: 2 is done        cond_wait until nothing is pending on it
 *   broadcasts; 1 is done     leaves                  wakes; frees the socket
 *
 * Who leads has an operation outstanding, so it doesn't wait for nothing; and nobody else takes completions
 * meanwhile. When all sockets are closed nothing is outstanding, nobody leads, and the queue can be closed.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "ws2san.h"

#define AT_ONCE 16

static struct overlap {
	pthread_mutex_t lock;
	pthread_cond_t done;   /* something completed, nobody leads, there is an operation with an event, or stop */
	bool led;              /* somebody is in hf_cq_wait() */
	int events;            /* operations with an hEvent: posted, less completed; so below 0 for a moment */
	bool running, stop;
	pthread_t thread;
} ov = { .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };

void ws_overlap_forked(void)
{
	memset(&ov, 0, sizeof(ov));
	pthread_mutex_init(&ov.lock, NULL);
	pthread_cond_init(&ov.done, NULL);
}

/* lock held. Internal last: then the WSAOVERLAPPED is its owner's again. The event after it, by a number of
 * our own. */
static void tell_owner(struct op *op)
{
	int event = op->event;

	op->ov->InternalHigh = op->bytes;
	__atomic_store_n(&op->ov->Internal, (ULONG_PTR)op->code, __ATOMIC_RELEASE);
	if (event >= 0) {
		eventfd_write(event, 1);
		ov.events--;
	}
	free(op);
}

/* lock held */
static void complete(const struct hf_completion *c)
{
	struct op *op = c->context;

	op->code = ws_error(c->status);
	op->bytes = c->bytes;
	op->s->pending--;
	if (op->ov)
		tell_owner(op);
	else
		op->done = true;
}

static void complete_all(const struct hf_completion *c, int n)
{
	for (int i = 0; i < n; i++)
		complete(&c[i]);
	if (n > 0)
		pthread_cond_broadcast(&ov.done);
}

/*
 * lock held, and the caller waits for something outstanding: something has happened when it returns. Not 0:
 * nothing ever will, for this is a child that was made without the handlers of pthread_atfork(3).
 */
static int wait_once(void)
{
	struct hf_completion c[AT_ONCE];
	int n;

	if (ov.led) {
		pthread_cond_wait(&ov.done, &ov.lock);
		return 0;
	}
	ov.led = true;
	pthread_mutex_unlock(&ov.lock);
	n = hf_cq_wait(ws.cq, c, AT_ONCE, -1);
	pthread_mutex_lock(&ov.lock);
	ov.led = false;
	complete_all(c, n);
	pthread_cond_broadcast(&ov.done); /* another one has to lead, maybe */
	return n < 0 ? n : 0;
}

static void *event_thread(void *arg)
{
	pthread_mutex_lock(&ov.lock);
	while (!ov.stop) {
		if (ov.events > 0)
			wait_once();
		else
			pthread_cond_wait(&ov.done, &ov.lock);
	}
	pthread_mutex_unlock(&ov.lock);
	return arg;
}

/* lock held. Signals are the program's own threads' matter. */
static int start_thread(void)
{
	sigset_t all, old;
	int rc;

	if (ov.running)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&ov.thread, NULL, event_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ov.running = !rc;
	return -rc;
}

void ws_overlap_stop(void)
{
	bool running;

	pthread_mutex_lock(&ov.lock);
	running = ov.running;
	ov.stop = true;
	pthread_cond_broadcast(&ov.done);
	pthread_mutex_unlock(&ov.lock);
	if (running)
		pthread_join(ov.thread, NULL);
	ov.running = ov.stop = false;
}

/* ------------------------------------------------------------------ one operation */

int ws_op_begin(struct op *op)
{
	int rc = 0;

	pthread_mutex_lock(&ov.lock);
	if (op->event >= 0)
		rc = start_thread();
	if (!rc) {
		op->s->pending++;
		if (op->ov)
			__atomic_store_n(&op->ov->Internal, WS_STATUS_PENDING, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&ov.lock);
	return rc;
}

void ws_op_undo(struct op *op)
{
	pthread_mutex_lock(&ov.lock);
	op->s->pending--;
	pthread_mutex_unlock(&ov.lock);
}

/* Only now: were the thread to wait for one that isn't posted in the end, nothing would wake it. */
void ws_event_posted(void)
{
	pthread_mutex_lock(&ov.lock);
	ov.events++;
	pthread_cond_broadcast(&ov.done);
	pthread_mutex_unlock(&ov.lock);
}

void ws_op_wait(struct op *op)
{
	pthread_mutex_lock(&ov.lock);
	while (!op->done && wait_once() == 0)
		;
	pthread_mutex_unlock(&ov.lock);
}

void ws_pending_wait(struct ws_socket *s)
{
	pthread_mutex_lock(&ov.lock);
	while (s->pending && wait_once() == 0)
		;
	pthread_mutex_unlock(&ov.lock);
}

/* ------------------------------------------------------------------ results */

static ULONG_PTR internal(const WSAOVERLAPPED *o)
{
	return __atomic_load_n(&o->Internal, __ATOMIC_ACQUIRE);
}

/* Take what there is, unless somebody waits for it anyway. */
static void look(void)
{
	struct hf_completion c[AT_ONCE];

	pthread_mutex_lock(&ov.lock);
	if (!ov.led)
		complete_all(c, hf_cq_poll(ws.cq, c, AT_ONCE));
	pthread_mutex_unlock(&ov.lock);
}

static void wait_for(const WSAOVERLAPPED *o)
{
	pthread_mutex_lock(&ov.lock);
	while (internal(o) == WS_STATUS_PENDING && wait_once() == 0)
		;
	pthread_mutex_unlock(&ov.lock);
}

BOOL WSPGetOverlappedResult(SOCKET id, LPWSAOVERLAPPED lpOverlapped, LPDWORD lpcbTransfer, BOOL fWait, LPDWORD lpdwFlags,
			    LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	int code;

	if (!s)
		return FALSE;
	if (lpOverlapped && internal(lpOverlapped) == WS_STATUS_PENDING && !fWait)
		look();
	ws_socket_put(s); /* before the wait: closing the socket is what may end it */
	if (lpOverlapped && fWait)
		wait_for(lpOverlapped);
	code = !lpOverlapped ? WSA_INVALID_PARAMETER :
	       internal(lpOverlapped) == WS_STATUS_PENDING ? WSA_IO_INCOMPLETE : (int)internal(lpOverlapped);
	if (code) {
		ws_fail(lpErrno, code);
		return FALSE;
	}
	if (lpcbTransfer)
		*lpcbTransfer = (DWORD)lpOverlapped->InternalHigh;
	if (lpdwFlags)
		*lpdwFlags = 0;
	return TRUE;
}
