/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Windows Sockets Direct on Linux: two processes, connected over loopback. One registers memory for remote access and sends
 * its descriptor; the other one writes into it, and sends a message when that is done; the first compares.
 */
#include <holdfast/ws2san.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEN 65536
#define TRY(call)                                                                            \
	do {                                                                                 \
		int err = 0;                                                                 \
		if (call) {                                                                  \
			fprintf(stderr, "pid %d: %s: %d (%s)\n", getpid(), #call, err, hf_error()); \
			return 1;                                                            \
		}                                                                            \
	} while (0)

static _Alignas(4096) char target[LEN], source[LEN], message[4096];
static WSPPROC_TABLE wsp;

/* One message from the peer, or to it: registered by the caller. */
static int transfer(SOCKET s, int send, DWORD len)
{
	WSABUF b = { len, message };
	DWORD n, flags = 0;

	if (send)
		TRY(wsp.lpWSPSend(s, &b, 1, &n, 0, NULL, NULL, NULL, &err));
	else
		TRY(wsp.lpWSPRecv(s, &b, 1, &n, &flags, NULL, NULL, NULL, &err));
	return 0;
}

static int serve(SOCKET listener)
{
	DWORD len = sizeof(message);
	int differ = 0;
	SOCKET s;

	TRY((s = wsp.lpWSPAccept(listener, NULL, NULL, NULL, 0, &err)) == INVALID_SOCKET);
	TRY(!WSPRegisterMemory(s, message, sizeof(message), MEM_READWRITE, &err));
	TRY(WSPRegisterRdmaMemory(s, target, LEN, MEM_WRITE, message, &len, &err));
	if (transfer(s, 1, len) || transfer(s, 0, sizeof(message)))
		return 1;
	for (int i = 0; i < LEN; i++)
		differ += target[i] != (char)(i * 31);
	printf("%d bytes were written by another process: %d are wrong\n", LEN, differ);
	return differ != 0;
}

/* In the other process, which starts by itself: nothing is inherited. */
static int write_there(const struct sockaddr_in *to)
{
	WSABUFEX b = { LEN, source, NULL };
	WSPDATA data;
	SOCKET s;
	DWORD n;

	TRY((err = WSPStartupEx(0x0202, &data, NULL, NULL, &wsp)) != 0);
	TRY((s = wsp.lpWSPSocket(AF_INET, SOCK_STREAM, 0, NULL, 0, 0, &err)) == INVALID_SOCKET);
	TRY(wsp.lpWSPConnect(s, (const struct sockaddr *)to, sizeof(*to), NULL, NULL, NULL, NULL, &err));
	TRY(!WSPRegisterMemory(s, message, sizeof(message), MEM_READWRITE, &err));
	TRY(!(b.handle = WSPRegisterMemory(s, source, LEN, MEM_READ, &err)));
	if (transfer(s, 0, sizeof(message)))
		return 1;
	for (int i = 0; i < LEN; i++)
		source[i] = (char)(i * 31);
	TRY(WSPRdmaWrite(s, &b, 1, message, 32, 0, &n, 0, NULL, NULL, NULL, &err));
	return transfer(s, 1, 1) || wsp.lpWSPCleanup(NULL) != 0;
}

int main(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int len = sizeof(at), status, rc;
	WSPDATA data;
	SOCKET l;
	pid_t pid;

	TRY((err = WSPStartupEx(0x0202, &data, NULL, NULL, &wsp)) != 0);
	TRY((l = wsp.lpWSPSocket(AF_INET, SOCK_STREAM, 0, NULL, 0, 0, &err)) == INVALID_SOCKET);
	TRY(wsp.lpWSPBind(l, (struct sockaddr *)&at, len, &err));
	TRY(wsp.lpWSPListen(l, 5, &err));
	TRY(wsp.lpWSPGetSockName(l, (struct sockaddr *)&at, &len, &err));
	pid = fork();
	if (!pid)
		_exit(write_there(&at));
	rc = serve(l);
	TRY(waitpid(pid, &status, 0) != pid || status);
	TRY(wsp.lpWSPCleanup(&err));
	return rc;
}
