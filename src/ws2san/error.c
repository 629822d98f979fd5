/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include <errno.h>

#include "ws2san.h"

static const struct row {
	int err, wsa;
} rows[] = {
	{ EINVAL, WSAEINVAL },
	{ EFAULT, WSAEFAULT },
	{ EACCES, WSAEACCES },
	{ EPERM, WSAEACCES },
	{ ENOMEM, WSAENOBUFS },
	{ EMFILE, WSAEMFILE },
	{ ENFILE, WSAEMFILE },
	{ EAGAIN, WSAEWOULDBLOCK },
	{ EBUSY, WSAEINVAL }, /* R6 */
	{ EMSGSIZE, WSAEMSGSIZE },
	{ EOPNOTSUPP, WSAEOPNOTSUPP },
	{ EADDRINUSE, WSAEADDRINUSE },
	{ EADDRNOTAVAIL, WSAEADDRNOTAVAIL },
	{ ENOTCONN, WSAENOTCONN },
	{ ETIMEDOUT, WSAETIMEDOUT },
	{ ECONNREFUSED, WSAECONNREFUSED },
	{ ENOENT, WSAECONNREFUSED }, /* no such unix path: nobody listens */
	{ ECANCELED, WSA_OPERATION_ABORTED },
	{ ESHUTDOWN, WSAEDISCON },
	{ ECONNRESET, WSAECONNRESET },
	{ EPIPE, WSAECONNRESET },
	{ EPROTO, WSAECONNABORTED },
	{ ERANGE, WSAEFAULT },
	{ ESTALE, WSAEFAULT },
	{ ENOSPC, WSAEFAULT }, /* R9 */
	{ EOWNERDEAD, WSANOTINITIALISED },
};

int ws_error(int err)
{
	if (!err)
		return 0;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].err == -err)
			return rows[i].wsa;
	return WSAENETDOWN;
}

/* R1 knows no "access denied" and no "not supported": it is not memory that could be registered so. */
int ws_error_of_memory(int err)
{
	return err == -EACCES || err == -EOPNOTSUPP || err == -EPERM ? WSAEFAULT :
	       err == -EAGAIN || err == -EMFILE ? WSAENOBUFS : ws_error(err);
}

int ws_fail(LPINT lpErrno, int code)
{
	if (lpErrno)
		*lpErrno = code;
	return SOCKET_ERROR;
}
