/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Looking a function up by its GUID (R18, R19), and the one mode that a socket has. */
#include <string.h>
#include <sys/ioctl.h>

#include "ws2san.h"

static const struct extension {
	GUID id;
	void (*fn)(void);
} extensions[] = {
	{ WSAID_REGISTERMEMORY, (void (*)(void))WSPRegisterMemory },
	{ WSAID_DEREGISTERMEMORY, (void (*)(void))WSPDeregisterMemory },
	{ WSAID_REGISTERRDMAMEMORY, (void (*)(void))WSPRegisterRdmaMemory },
	{ WSAID_DEREGISTERRDMAMEMORY, (void (*)(void))WSPDeregisterRdmaMemory },
	{ WSAID_RDMAWRITE, (void (*)(void))WSPRdmaWrite },
	{ WSAID_RDMAREAD, (void (*)(void))WSPRdmaRead },
	{ WSAID_MEMORYREGISTRATIONCACHECALLBACK, (void (*)(void))WSPMemoryRegistrationCacheCallback },
};

static int look_up(const void *in, DWORD in_len, void *out, DWORD out_len)
{
	if (!in || in_len < sizeof(GUID) || !out || out_len < sizeof(extensions[0].fn))
		return WSAEFAULT;
	for (size_t i = 0; i < sizeof(extensions) / sizeof(extensions[0]); i++) {
		if (!memcmp(in, &extensions[i].id, sizeof(GUID))) {
			memcpy(out, &extensions[i].fn, sizeof(extensions[i].fn));
			return 0;
		}
	}
	return WSAEOPNOTSUPP;
}

static int set_mode(SOCKET id, const void *in, DWORD in_len, int *code)
{
	struct ws_socket *s = ws_socket_get(id, code);
	DWORD on;

	if (!s)
		return *code;
	if (!in || in_len < sizeof(on)) {
		ws_socket_put(s);
		return WSAEFAULT;
	}
	memcpy(&on, in, sizeof(on));
	pthread_mutex_lock(&s->lock);
	s->nonblocking = on;
	pthread_mutex_unlock(&s->lock);
	ws_socket_put(s);
	return 0;
}

int WSPIoctl(SOCKET s, DWORD dwIoControlCode, LPVOID lpvInBuffer, DWORD cbInBuffer, LPVOID lpvOutBuffer, DWORD cbOutBuffer,
	     LPDWORD lpcbBytesReturned, LPWSAOVERLAPPED lpOverlapped,
	     LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno)
{
	DWORD returned = 0;
	int code = 0;
	int rc = ws_enter();

	if (rc)
		return ws_fail(lpErrno, rc);
	switch (dwIoControlCode) {
	case SIO_GET_EXTENSION_FUNCTION_POINTER:
		rc = look_up(lpvInBuffer, cbInBuffer, lpvOutBuffer, cbOutBuffer);
		returned = sizeof(extensions[0].fn);
		break;
	case WSP_FIONBIO:
	case FIONBIO:
		rc = set_mode(s, lpvInBuffer, cbInBuffer, &code);
		break;
	default:
		rc = WSAEOPNOTSUPP;
	}
	ws_leave();
	if (rc)
		return ws_fail(lpErrno, rc);
	if (lpcbBytesReturned)
		*lpcbBytesReturned = returned;
	return 0;
}
