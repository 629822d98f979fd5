/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Handles: which registrations a socket has. WSPSend() and WSPRecv() name none, so they are found by
 * address. Registering is hf_mr_reg(), with no lock held.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ws2san.h"

void ws_buffers_destroy(struct buffers *b)
{
	free(b->place);
	free(b->order);
}

/* ------------------------------------------------------------------ the places; socket.lock is held */

static bool make_room(struct buffers *b)
{
	uint32_t room = b->room ? 2 * b->room : 16;
	struct buffer *place;
	uint32_t *order;

	if (b->free || b->used < b->room)
		return true;
	place = realloc(b->place, room * sizeof(*place));
	if (!place)
		return false;
	b->place = place;
	order = realloc(b->order, room * sizeof(*order));
	if (!order)
		return false;
	b->order = order;
	b->room = room;
	return true;
}

static uint32_t take_place(struct buffers *b)
{
	uint32_t i = b->used;

	if (!b->free) {
		b->used++;
		return i;
	}
	i = b->free - 1;
	b->free = b->place[i].next_free;
	return i;
}

/* In `order`: the first buffer that begins behind addr. */
static uint32_t first_behind(const struct buffers *b, uintptr_t addr)
{
	uint32_t lo = 0, hi = b->count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (b->place[b->order[mid]].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void add_to_order(struct buffers *b, uint32_t i)
{
	uint32_t at = first_behind(b, b->place[i].addr);

	memmove(&b->order[at + 1], &b->order[at], (b->count - at) * sizeof(*b->order));
	b->order[at] = i;
	b->count++;
}

static void remove_from_order(struct buffers *b, uint32_t i)
{
	uint32_t at = first_behind(b, b->place[i].addr) - 1;

	while (b->order[at] != i) /* others that begin at the same address */
		at--;
	b->count--;
	memmove(&b->order[at], &b->order[at + 1], (b->count - at) * sizeof(*b->order));
}

static struct buffer *by_handle(struct buffers *b, HANDLE handle)
{
	uint64_t h = (uintptr_t)handle;
	uint32_t i = (uint32_t)h;

	return i < b->used && h && b->place[i].handle == h ? &b->place[i] : NULL;
}

/* Another one than any socket has or had (until there were 2^32), in this process or its parent before the
 * fork. */
static uint64_t new_handle(uint32_t place)
{
	static _Atomic uint32_t last;
	uint64_t n = atomic_fetch_add(&last, 1) + 1;

	return (n ? n : atomic_fetch_add(&last, 1) + 1) << 32 | place;
}

static bool covers(const struct buffer *f, uintptr_t addr, size_t len, unsigned access)
{
	return f->addr <= addr && addr - f->addr <= f->len && len <= f->len - (addr - f->addr) &&
	       (f->access & access) == access;
}

/* ------------------------------------------------------------------ for transfers */

uint64_t ws_buffer_mr(struct ws_socket *s, HANDLE handle)
{
	struct buffer *f;
	uint64_t mr;

	pthread_mutex_lock(&s->lock);
	f = by_handle(&s->buffers, handle);
	mr = f ? f->mr : 0;
	pthread_mutex_unlock(&s->lock);
	return mr;
}

uint64_t ws_buffer_find(struct ws_socket *s, const void *p, size_t len, unsigned access)
{
	struct buffers *b = &s->buffers;
	uintptr_t addr = (uintptr_t)p;
	uint64_t mr = 0;

	pthread_mutex_lock(&s->lock);
	for (uint32_t at = first_behind(b, addr); at-- && !mr;) {
		const struct buffer *f = &b->place[b->order[at]];

		if (addr - f->addr > b->longest) /* nor does any before it */
			break;
		mr = covers(f, addr, len, access) ? f->mr : 0;
	}
	pthread_mutex_unlock(&s->lock);
	return mr;
}

/* ------------------------------------------------------------------ local */

static int check_request(DWORD len, DWORD flags)
{
	return !len || !flags || (flags & ~(DWORD)MEM_READWRITE) ? WSAEINVAL : 0;
}

/* NULL: no memory. */
static HANDLE remember(struct ws_socket *s, uint64_t mr, void *addr, size_t len, unsigned access)
{
	struct buffers *b = &s->buffers;
	uint64_t handle = 0;
	uint32_t i;

	pthread_mutex_lock(&s->lock);
	if (make_room(b)) {
		i = take_place(b);
		handle = new_handle(i);
		b->place[i] = (struct buffer){ handle, mr, (uintptr_t)addr, len, access, 0 };
		b->longest = len > b->longest ? len : b->longest;
		add_to_order(b, i);
	}
	pthread_mutex_unlock(&s->lock);
	return (HANDLE)(uintptr_t)handle;
}

static void forget(struct ws_socket *s, HANDLE handle)
{
	struct buffers *b = &s->buffers;
	struct buffer *f;

	pthread_mutex_lock(&s->lock);
	f = by_handle(b, handle);
	if (f) {
		uint32_t i = (uint32_t)(f - b->place);

		remove_from_order(b, i);
		f->handle = 0;
		f->next_free = b->free;
		b->free = i + 1;
	}
	pthread_mutex_unlock(&s->lock);
}

HANDLE WSPRegisterMemory(SOCKET id, PVOID lpBuffer, DWORD dwBufferLength, DWORD dwFlags, LPINT lpErrno)
{
	struct ws_socket *s = ws_connected_get(id, lpErrno);
	HANDLE handle = NULL;
	uint64_t mr;
	int rc;

	if (!s)
		return NULL;
	rc = check_request(dwBufferLength, dwFlags);
	if (!rc)
		rc = ws_error_of_memory(hf_mr_reg(s->sock, lpBuffer, dwBufferLength, dwFlags, &mr));
	if (!rc) {
		handle = remember(s, mr, lpBuffer, dwBufferLength, dwFlags);
		if (!handle) {
			hf_mr_dereg(s->sock, mr);
			rc = WSAENOBUFS;
		}
	}
	ws_socket_put(s);
	if (rc)
		ws_fail(lpErrno, rc);
	return handle;
}

int WSPDeregisterMemory(SOCKET id, HANDLE Handle, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	uint64_t mr;
	int rc = WSAEINVAL;

	if (!s)
		return SOCKET_ERROR;
	mr = ws_buffer_mr(s, Handle);
	if (mr)
		rc = ws_error(hf_mr_dereg(s->sock, mr));
	if (!rc)
		forget(s, Handle);
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

/* ------------------------------------------------------------------ remote */

/* R9: the length before anything else, the socket included. */
static bool has_room(const void *descriptor, LPDWORD length)
{
	if (!length)
		return false;
	if (descriptor && *length >= HF_DESCRIPTOR_SIZE)
		return true;
	*length = HF_DESCRIPTOR_SIZE;
	return false;
}

int WSPRegisterRdmaMemory(SOCKET id, PVOID lpBuffer, DWORD dwBufferLength, DWORD dwFlags, LPVOID lpRdmaBufferDescriptor,
			  LPDWORD lpdwDescriptorLength, LPINT lpErrno)
{
	struct ws_socket *s;
	size_t length;
	uint64_t mr;
	int rc;

	if (!has_room(lpRdmaBufferDescriptor, lpdwDescriptorLength))
		return ws_fail(lpErrno, WSAEFAULT);
	s = ws_connected_get(id, lpErrno);
	if (!s)
		return SOCKET_ERROR;
	length = *lpdwDescriptorLength;
	rc = check_request(dwBufferLength, dwFlags);
	if (!rc)
		rc = ws_error_of_memory(hf_mr_expose(s->sock, lpBuffer, dwBufferLength, dwFlags,
						     lpRdmaBufferDescriptor, &length, &mr));
	if (!rc)
		*lpdwDescriptorLength = (DWORD)length;
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

int WSPDeregisterRdmaMemory(SOCKET id, LPVOID lpRdmaBufferDescriptor, DWORD dwDescriptorLength, LPINT lpErrno)
{
	struct ws_socket *s = ws_socket_get(id, lpErrno);
	int rc = WSAEINVAL;

	if (!s)
		return SOCKET_ERROR;
	pthread_mutex_lock(&s->lock);
	if (s->state == CONNECTED && lpRdmaBufferDescriptor)
		rc = 0;
	pthread_mutex_unlock(&s->lock);
	/* Whatever is wrong with it, R11 has one word for it. */
	if (!rc && hf_mr_revoke(s->sock, lpRdmaBufferDescriptor, dwDescriptorLength))
		rc = WSAEINVAL;
	ws_socket_put(s);
	return rc ? ws_fail(lpErrno, rc) : 0;
}

/* ------------------------------------------------------------------ it is about to change */

/* R32: nothing there, or not all of it could go. */
int WSPMemoryRegistrationCacheCallback(LPVOID lpvAddress, SIZE_T Size, LPINT lpErrno)
{
	int rc = ws_enter();

	if (rc)
		return ws_fail(lpErrno, rc);
	rc = hf_release(ws.sw, lpvAddress, Size);
	ws_leave();
	if (rc > 0)
		return 0;
	return ws_fail(lpErrno, rc == -EBUSY || rc == -EIO ? WSAEFAULT : WSAEINVAL);
}
