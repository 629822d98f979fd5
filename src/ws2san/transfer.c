/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Posting: buffers become segments, and each kind of transfer is one of hf_post_*(). */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "ws2san.h"

/* One call, in san.h's words. */
struct post {
	struct hf_segment seg[HF_SEGMENTS];
	unsigned n;
	const void *descriptor;
	size_t length;
	uint64_t offset;
	int (*go)(struct ws_socket *s, const struct post *p, void *context);
};

static int go_send(struct ws_socket *s, const struct post *p, void *context)
{
	return hf_post_send(s->sock, p->seg, p->n, context);
}

static int go_recv(struct ws_socket *s, const struct post *p, void *context)
{
	return hf_post_recv(s->sock, p->seg, p->n, context);
}

static int go_write(struct ws_socket *s, const struct post *p, void *context)
{
	return hf_post_write(s->sock, p->seg, p->n, p->descriptor, p->length, p->offset, context);
}

static int go_read(struct ws_socket *s, const struct post *p, void *context)
{
	return hf_post_read(s->sock, p->seg, p->n, p->descriptor, p->length, p->offset, context);
}

/* ------------------------------------------------------------------ buffers */

static int by_address(struct ws_socket *s, struct post *p, const WSABUF *b, DWORD n, unsigned access)
{
	if (!b || !n || n > HF_SEGMENTS)
		return WSAEINVAL;
	for (p->n = 0; p->n < n; p->n++, b++) {
		p->seg[p->n] = (struct hf_segment){ b->buf, b->len, ws_buffer_find(s, b->buf, b->len, access) };
		if (!p->seg[p->n].mr)
			return WSAEINVAL;
	}
	return 0;
}

static int by_handle(struct ws_socket *s, struct post *p, const WSABUFEX *b, DWORD n)
{
	if (!b || !n || n > HF_SEGMENTS)
		return WSAEINVAL;
	for (p->n = 0; p->n < n; p->n++, b++) {
		p->seg[p->n] = (struct hf_segment){ b->buf, b->len, ws_buffer_mr(s, b->handle) };
		if (!p->seg[p->n].mr)
			return WSAEINVAL;
	}
	return 0;
}

/* ------------------------------------------------------------------ posting */

/* The socket may be closed once it is posted: what is pending keeps it (socket.c). */
static int post(struct ws_socket *s, const struct post *p, struct op *op)
{
	bool event = op->event >= 0; /* once it is posted it may be gone at any time */
	int rc = ws_op_begin(op);

	if (rc)
		return rc == -EAGAIN || rc == -ENOMEM ? WSAENOBUFS : ws_error(rc);
	rc = p->go(s, p, op);
	if (rc)
		ws_op_undo(op);
	else if (event)
		ws_event_posted();
	return ws_error(rc);
}

static int overlapped(struct ws_socket *s, const struct post *p, LPWSAOVERLAPPED ov)
{
	struct op *op = malloc(sizeof(*op));
	int rc;

	if (!op)
		return WSAENOBUFS;
	*op = (struct op){ .s = s, .ov = ov, .event = ov->hEvent ? (int)(intptr_t)ov->hEvent : -1 };
	rc = post(s, p, op);
	if (!rc)
		return WSA_IO_PENDING;
	free(op);
	__atomic_store_n(&ov->Internal, (ULONG_PTR)rc, __ATOMIC_RELEASE);
	return rc;
}

/* s is put: a thread that waits here must not keep others from closing it. */
static int finish(struct ws_socket *s, const struct post *p, int rc, LPWSAOVERLAPPED ov,
		  LPWSAOVERLAPPED_COMPLETION_ROUTINE routine, LPDWORD bytes, LPINT lpErrno)
{
	struct op op = { .s = s, .event = -1 };

	if (!rc && routine)
		rc = WSAEOPNOTSUPP;
	if (!rc)
		rc = ov ? overlapped(s, p, ov) : post(s, p, &op);
	ws_socket_put(s);
	if (rc)
		return ws_fail(lpErrno, rc);
	ws_op_wait(&op);
	if (op.code)
		return ws_fail(lpErrno, op.code);
	if (bytes)
		*bytes = (DWORD)op.bytes;
	return 0;
}

int WSPSend(SOCKET id, LPWSABUF lpBuffers, DWORD dwBufferCount, LPDWORD lpNumberOfBytesSent, DWORD dwFlags,
	    LPWSAOVERLAPPED lpOverlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine,
	    LPWSATHREADID lpThreadId, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	struct post p = { .go = go_send };
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = dwFlags ? WSAEOPNOTSUPP : by_address(s, &p, lpBuffers, dwBufferCount, HF_READ);
	return finish(s, &p, rc, lpOverlapped, lpCompletionRoutine, lpNumberOfBytesSent, lpErrno);
}

int WSPRecv(SOCKET id, LPWSABUF lpBuffers, DWORD dwBufferCount, LPDWORD lpNumberOfBytesRecvd, LPDWORD lpFlags,
	    LPWSAOVERLAPPED lpOverlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine,
	    LPWSATHREADID lpThreadId, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	struct post p = { .go = go_recv };
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = lpFlags && *lpFlags ? WSAEOPNOTSUPP : by_address(s, &p, lpBuffers, dwBufferCount, HF_WRITE);
	return finish(s, &p, rc, lpOverlapped, lpCompletionRoutine, lpNumberOfBytesRecvd, lpErrno);
}

int WSPRdmaWrite(SOCKET id, LPWSABUFEX lpBuffers, DWORD dwBufferCount, LPVOID lpTargetBufferDescriptor,
		 DWORD dwTargetDescriptorLength, DWORD dwTargetBufferOffset, LPDWORD lpdwNumberOfBytesWritten,
		 DWORD dwFlags, LPWSAOVERLAPPED lpOverlapped,
		 LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	struct post p = { .descriptor = lpTargetBufferDescriptor, .length = dwTargetDescriptorLength,
			  .offset = dwTargetBufferOffset, .go = go_write };
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = dwFlags ? WSAEOPNOTSUPP : by_handle(s, &p, lpBuffers, dwBufferCount);
	return finish(s, &p, rc, lpOverlapped, lpCompletionRoutine, lpdwNumberOfBytesWritten, lpErrno);
}

int WSPRdmaRead(SOCKET id, LPWSABUFEX lpBuffers, DWORD dwBufferCount, LPVOID lpTargetBufferDescriptor,
		DWORD dwTargetDescriptorLength, DWORD dwTargetBufferOffset, LPDWORD lpdwNumberOfBytesRead,
		DWORD dwFlags, LPWSAOVERLAPPED lpOverlapped,
		LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	struct post p = { .descriptor = lpTargetBufferDescriptor, .length = dwTargetDescriptorLength,
			  .offset = dwTargetBufferOffset, .go = go_read };
	int rc;

	if (!s)
		return SOCKET_ERROR;
	rc = dwFlags ? WSAEOPNOTSUPP : by_handle(s, &p, lpBuffers, dwBufferCount);
	return finish(s, &p, rc, lpOverlapped, lpCompletionRoutine, lpdwNumberOfBytesRead, lpErrno);
}
