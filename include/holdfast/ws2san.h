/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Windows Sockets Direct on Linux: the names, signatures and error codes of the Windows driver
 * documentation (the SAN service provider functions of ws2san.h, and MmSecureVirtualMemory), over
 * holdfast.h and san.h. For programs that were written to that interface; new ones use those two headers,
 * which have more. Library: libholdfast-ws2san.
 *
 *   WSPStartupEx()                                     counted (R21)
 *     WSPSocket() WSPBind() WSPListen() WSPAccept()    one side
 *     WSPSocket() WSPConnect()                         the other
 *       WSPRegisterMemory() WSPRegisterRdmaMemory()    a handle; a descriptor for the peer
 *       WSPSend() WSPRecv() WSPRdmaWrite() WSPRdmaRead()
 *     WSPCloseSocket()                                 what is pending ends with WSA_OPERATION_ABORTED
 *   WSPCleanup()
 *
 * Conventions:
 *  - A call answers 0, or SOCKET_ERROR (NULL, INVALID_SOCKET, FALSE, by its type) and a WSA error in
 *    *lpErrno, which may be NULL. hf_error() has the sentence, where holdfast has one.
 *  - Before the first WSPStartupEx(), after the last WSPCleanup(), and in a forked child that didn't start
 *    by itself: WSANOTINITIALISED. Nothing of the parent's is valid in the child, and nothing of it is
 *    touched (R4).
 *  - A SOCKET is a number that is never used again; an unknown or closed one is WSAENOTSOCK (R45). It is no
 *    descriptor.
 *  - Any thread may call at the same time as any other, WSPCloseSocket() included.
 *
 * Overlapped calls (R47): with lpOverlapped the call posts, answers SOCKET_ERROR and WSA_IO_PENDING, and
 * completes once: then Internal is no longer WS_STATUS_PENDING but 0 or the WSA error, InternalHigh has the
 * bytes, and hEvent is signalled. hEvent is the number of an eventfd(2) as a HANDLE, or NULL. Completions
 * are taken by whoever waits in WSPGetOverlappedResult() or in a call without lpOverlapped; only with an
 * hEvent a thread of the library does (one per process, from the first use on). The WSAOVERLAPPED must live
 * until then. Without lpOverlapped the call waits for its end. lpCompletionRoutine must be NULL; lpThreadId
 * is not looked at.
 *
 * Errors of transfers, at once or in Internal: WSAENOTCONN; WSAEDISCON: the peer has closed; WSAECONNRESET:
 * it, or the way to it, is gone; WSAECONNABORTED: what came from it can't be understood; WSAEINVAL: no such
 * handle on this socket, or a buffer outside of it; WSAEACCES: the handle, or the descriptor, has not the
 * right, or the descriptor is not valid (any more) on this connection; WSAEFAULT: beyond the end of what
 * the descriptor exposes, or the memory behind a handle or descriptor was changed after it was registered;
 * WSAEMSGSIZE: over the largest (R13), or over what the peer had posted; WSAEWOULDBLOCK: too many are
 * pending; WSA_OPERATION_ABORTED: the socket was closed.
 *
 * The environment: HOLDFAST has the options of the switch (holdfast(7)). HOLDFAST_WS2SAN_NICS names the
 * NICs, one provider each, "uring" unless given, e.g. "uring,uring": at most 8. A socket is on the first,
 * or on that with the number lpProtocolInfo->dwProviderReserved of WSPSocket(). HOLDFAST_WS2SAN_OPTIONS has
 * the options of hf_listen() and hf_connect(), e.g. "secret_file=/a/file". hf_error() names what is wrong
 * with them.
 */
#ifndef HOLDFAST_WS2SAN_H
#define HOLDFAST_WS2SAN_H

#include <holdfast/holdfast.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ------------------------------------------------------------------ types */

typedef uint16_t WORD;
typedef uint16_t WCHAR; /* UTF-16 */
typedef uint32_t DWORD;
typedef uint32_t ULONG;
typedef int32_t BOOL;
typedef int INT;
typedef size_t SIZE_T;
typedef uintptr_t ULONG_PTR;
typedef uintptr_t DWORD_PTR;
typedef void *PVOID;
typedef void *LPVOID;
typedef void *HANDLE;
typedef int *LPINT;
typedef DWORD *LPDWORD;
typedef uintptr_t SOCKET;
typedef unsigned GROUP;

#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif
#define INVALID_SOCKET ((SOCKET)~(SOCKET)0)
#define SOCKET_ERROR   (-1)

typedef struct _GUID {
	uint32_t Data1;
	uint16_t Data2;
	uint16_t Data3;
	uint8_t Data4[8];
} GUID;

/* The order of len and buf is that of Windows, not of struct iovec. */
typedef struct _WSABUF {
	ULONG len;
	char *buf;
} WSABUF, *LPWSABUF;

/* A segment of registered memory (R12). */
typedef struct _WSABUFEX {
	ULONG len;
	char *buf;
	HANDLE handle; /* of WSPRegisterMemory(), of this socket */
} WSABUFEX, *LPWSABUFEX;

#define WS_STATUS_PENDING ((ULONG_PTR)0x103)

typedef struct _WSAOVERLAPPED {
	ULONG_PTR Internal;     /* WS_STATUS_PENDING; then 0 or the WSA error. Read it atomically, or ask WSPGetOverlappedResult() */
	ULONG_PTR InternalHigh; /* bytes moved */
	DWORD Offset;           /* not used */
	DWORD OffsetHigh;
	HANDLE hEvent;          /* (HANDLE)(intptr_t)eventfd, or NULL */
} WSAOVERLAPPED, *LPWSAOVERLAPPED;

typedef void (*LPWSAOVERLAPPED_COMPLETION_ROUTINE)(DWORD dwError, DWORD cbTransferred, LPWSAOVERLAPPED lpOverlapped,
						   DWORD dwFlags);

typedef struct _WSATHREADID {
	HANDLE ThreadHandle;
	DWORD_PTR Reserved;
} WSATHREADID, *LPWSATHREADID;

typedef struct _QualityOfService QOS, *LPQOS; /* not used: pass NULL */

#define WSPDESCRIPTION_LEN   255
#define WSAPROTOCOL_LEN      255
#define MAX_PROTOCOL_CHAIN   7

typedef struct WSPData {
	WORD wVersion;
	WORD wHighVersion;
	WCHAR szDescription[WSPDESCRIPTION_LEN + 1];
} WSPDATA, *LPWSPDATA;

typedef struct _WSAPROTOCOLCHAIN {
	int ChainLen;
	DWORD ChainEntries[MAX_PROTOCOL_CHAIN];
} WSAPROTOCOLCHAIN;

typedef struct _WSAPROTOCOL_INFOW {
	DWORD dwServiceFlags1;
	DWORD dwServiceFlags2;
	DWORD dwServiceFlags3;
	DWORD dwServiceFlags4;
	DWORD dwProviderFlags;
	GUID ProviderId;
	DWORD dwCatalogEntryId;
	WSAPROTOCOLCHAIN ProtocolChain;
	int iVersion;
	int iAddressFamily;
	int iMaxSockAddr;
	int iMinSockAddr;
	int iSocketType;
	int iProtocol;
	int iProtocolMaxOffset;
	int iNetworkByteOrder;
	int iSecurityScheme;
	DWORD dwMessageSize;
	DWORD dwProviderReserved; /* WSPSocket(): the number of the NIC, from 0 */
	WCHAR szProtocol[WSAPROTOCOL_LEN + 1];
} WSAPROTOCOL_INFOW, *LPWSAPROTOCOL_INFOW;

/* ------------------------------------------------------------------ constants */

#define WSA_INVALID_HANDLE    6
#define WSA_INVALID_PARAMETER 87
#define WSA_OPERATION_ABORTED 995
#define WSA_IO_INCOMPLETE     996
#define WSA_IO_PENDING        997
#define WSAEACCES             10013
#define WSAEFAULT             10014
#define WSAEINVAL             10022
#define WSAEMFILE             10024
#define WSAEWOULDBLOCK        10035
#define WSAEINPROGRESS        10036
#define WSAEALREADY           10037
#define WSAENOTSOCK           10038
#define WSAEMSGSIZE           10040
#define WSAENOPROTOOPT        10042
#define WSAEPROTONOSUPPORT    10043
#define WSAESOCKTNOSUPPORT    10044
#define WSAEOPNOTSUPP         10045
#define WSAEAFNOSUPPORT       10047
#define WSAEADDRINUSE         10048
#define WSAEADDRNOTAVAIL      10049
#define WSAENETDOWN           10050
#define WSAECONNABORTED       10053
#define WSAECONNRESET         10054
#define WSAENOBUFS            10055
#define WSAEISCONN            10056
#define WSAENOTCONN           10057
#define WSAETIMEDOUT          10060
#define WSAECONNREFUSED       10061
#define WSAEPROCLIM           10067
#define WSASYSNOTREADY        10091
#define WSAVERNOTSUPPORTED    10092
#define WSANOTINITIALISED     10093
#define WSAEDISCON            10101
#define WSATRY_AGAIN          11002

#define WSA_FLAG_OVERLAPPED 0x01

/* Access of registered memory (R2). */
#define MEM_READ      1
#define MEM_WRITE     2
#define MEM_READWRITE 3

#define SO_MAX_MSG_SIZE  0x2003
#define SO_MAX_RDMA_SIZE 0x700D

#define SIO_GET_EXTENSION_FUNCTION_POINTER 0xC8000006u
#define WSP_FIONBIO                        0x8004667Eu /* FIONBIO's value there; Linux's own works, too */

/* R18 */
#define WS2SAN_GUID_(n) { 0xC0B422F0u + (n), 0xF58C, 0x11D1, { 0xAD, 0x6C, 0x00, 0xC0, 0x4F, 0xA3, 0x4A, 0x2D } }
#define WSAID_REGISTERMEMORY       WS2SAN_GUID_(0x5)
#define WSAID_DEREGISTERMEMORY     WS2SAN_GUID_(0x6)
#define WSAID_REGISTERRDMAMEMORY   WS2SAN_GUID_(0x7)
#define WSAID_DEREGISTERRDMAMEMORY WS2SAN_GUID_(0x8)
#define WSAID_RDMAWRITE            WS2SAN_GUID_(0x9)
#define WSAID_RDMAREAD             WS2SAN_GUID_(0xA)
#define WSAID_MEMORYREGISTRATIONCACHECALLBACK \
	{ 0xE5DA4AF8u, 0xD824, 0x48CD, { 0xA7, 0x99, 0x63, 0x37, 0xA9, 0x8E, 0xD2, 0xAF } }

/* ------------------------------------------------------------------ sockets */

/*
 * af: AF_INET, AF_INET6 or AF_UNIX (this system's numbers), else WSAEAFNOSUPPORT. type: SOCK_STREAM, else
 * WSAESOCKTNOSUPPORT. protocol: 0, or IPPROTO_TCP; else WSAEPROTONOSUPPORT. g, dwFlags: not looked at,
 * every socket is an overlapped one. WSAEINVAL: there is no NIC of that number. WSAEMFILE: 65 536 are open.
 * WSAENOBUFS, WSAENETDOWN.
 */
SOCKET WSPSocket(int af, int type, int protocol, LPWSAPROTOCOL_INFOW lpProtocolInfo, GROUP g, DWORD dwFlags, LPINT lpErrno);

/*
 * Where to listen: noted here, taken by WSPListen(); of a socket that connects it is not used. Addresses:
 * as hf_listen(). An abstract unix name has a 0 first, and none in it. WSAEFAULT (name NULL, or too short),
 * WSAEAFNOSUPPORT, WSAEINVAL (bound already, or not a name), WSAENOTSOCK.
 */
int WSPBind(SOCKET s, const struct sockaddr *name, int namelen, LPINT lpErrno);

/* backlog is not looked at. WSAEINVAL (not bound), WSAEISCONN, WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAEACCES,
 * WSAEMFILE, WSAENOBUFS, WSAEOPNOTSUPP (the NIC can't move data), WSAENOTSOCK. */
int WSPListen(SOCKET s, int backlog, LPINT lpErrno);

#define CF_ACCEPT 0
#define CF_REJECT 1
#define CF_DEFER  2
/* Only lpCallerId (the peer's sockaddr) and dwCallbackData are filled; the others are NULL. */
typedef int (*LPCONDITIONPROC)(LPWSABUF lpCallerId, LPWSABUF lpCallerData, LPQOS lpSQOS, LPQOS lpGQOS,
			       LPWSABUF lpCalleeId, LPWSABUF lpCalleeData, GROUP *g, DWORD_PTR dwCallbackData);

/*
 * Waits for a peer, or answers WSAEWOULDBLOCK after WSPIoctl(WSP_FIONBIO). addr and addrlen may be NULL.
 * lpfnCondition may be NULL: accept; CF_REJECT: WSAECONNREFUSED, the peer is dropped; CF_DEFER:
 * WSATRY_AGAIN, it is the next call's. WSAEINVAL (not listening), WSAEFAULT (*addrlen is too small),
 * WSAEMFILE, WSAENOBUFS, WSAENOTSOCK (also: closed meanwhile).
 */
SOCKET WSPAccept(SOCKET s, struct sockaddr *addr, LPINT addrlen, LPCONDITIONPROC lpfnCondition, DWORD_PTR dwCallbackData,
		 LPINT lpErrno);

/*
 * Waits, 30 s at most, whatever WSP_FIONBIO says; closing the socket waits for it, too. lpCallerData,
 * lpCalleeData: NULL or empty, else WSAEOPNOTSUPP. WSAEISCONN, WSAEALREADY (another thread connects it),
 * WSAEINVAL (it listens), WSAECONNREFUSED, WSAETIMEDOUT, WSAEACCES, WSAEFAULT, WSAEAFNOSUPPORT,
 * WSAENOTSOCK.
 */
int WSPConnect(SOCKET s, const struct sockaddr *name, int namelen, LPWSABUF lpCallerData, LPWSABUF lpCalleeData,
	       LPQOS lpSQOS, LPQOS lpGQOS, LPINT lpErrno);

/* WSAEINVAL (neither bound nor connected), WSAEFAULT (*namelen is too small), WSAENOTCONN, WSAENOTSOCK. */
int WSPGetSockName(SOCKET s, struct sockaddr *name, LPINT namelen, LPINT lpErrno);
int WSPGetPeerName(SOCKET s, struct sockaddr *name, LPINT namelen, LPINT lpErrno);

/* SOL_SOCKET (this system's, or 0xFFFF): SO_MAX_MSG_SIZE, SO_MAX_RDMA_SIZE, a DWORD (R13). WSAEINVAL
 * (level), WSAENOPROTOOPT, WSAEFAULT, WSAENOTCONN, WSAENOTSOCK. */
int WSPGetSockOpt(SOCKET s, int level, int optname, char *optval, LPINT optlen, LPINT lpErrno);

/*
 * WSP_FIONBIO (in: DWORD, 0 or not). SIO_GET_EXTENSION_FUNCTION_POINTER (in: GUID; out: the function, R18),
 * for which s is not looked at. A GUID that isn't above, and any other code: WSAEOPNOTSUPP (R19).
 * WSAEFAULT: a buffer is NULL or too small.
 */
int WSPIoctl(SOCKET s, DWORD dwIoControlCode, LPVOID lpvInBuffer, DWORD cbInBuffer, LPVOID lpvOutBuffer, DWORD cbOutBuffer,
	     LPDWORD lpcbBytesReturned, LPWSAOVERLAPPED lpOverlapped,
	     LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno);

/* When it returns, everything pending on s has completed, with WSA_OPERATION_ABORTED, after its memory was
 * let go (R45); handles and descriptors are void (R27). WSAENOTSOCK. */
int WSPCloseSocket(SOCKET s, LPINT lpErrno);

/* ------------------------------------------------------------------ memory */

/*
 * Register for local use on this connection (R1, R3). dwFlags: MEM_*. NULL and: WSAEINVAL (flags, or no
 * bytes), WSAEFAULT (not wholly mapped, or without the right, or memory that this NIC can't take),
 * WSAENOBUFS (a limit; hf_error() says which), WSAENOTCONN, WSAENOTSOCK. The handle is valid on this socket
 * in this process (R4).
 */
HANDLE WSPRegisterMemory(SOCKET s, PVOID lpBuffer, DWORD dwBufferLength, DWORD dwFlags, LPINT lpErrno);

/* WSAEINVAL: no handle of this socket, or a transfer uses it (R6). What was registered stays cached (R7,
 * R22). */
int WSPDeregisterMemory(SOCKET s, HANDLE Handle, LPINT lpErrno);

/*
 * Let the peer reach exactly these bytes, with exactly these rights (R8, R10). *lpdwDescriptorLength is
 * looked at before anything else: too small, or no lpRdmaBufferDescriptor: WSAEFAULT, and it is set to what
 * is needed; on success to what was written (R9). Else as WSPRegisterMemory().
 */
int WSPRegisterRdmaMemory(SOCKET s, PVOID lpBuffer, DWORD dwBufferLength, DWORD dwFlags, LPVOID lpRdmaBufferDescriptor,
			  LPDWORD lpdwDescriptorLength, LPINT lpErrno);

/* The peer's access has ended when it returns (R28). WSAEINVAL: not a descriptor that this socket gave out,
 * or in use (R11). */
int WSPDeregisterRdmaMemory(SOCKET s, LPVOID lpRdmaBufferDescriptor, DWORD dwDescriptorLength, LPINT lpErrno);

/*
 * The memory is about to change: all that any provider of the process has cached there goes, from every
 * NIC, before this returns (R25, R26, R33). It blocks for the NICs: not for use inside an allocator, a
 * notification or a signal handler. With a proxy that sees changes (holdfast(7)) no program needs it.
 * WSAEINVAL: nothing was cached there. WSAEFAULT: something was, and a NIC would not let go, or a handle
 * still holds it (R32); it is not used for new registrations any more.
 */
int WSPMemoryRegistrationCacheCallback(LPVOID lpvAddress, SIZE_T Size, LPINT lpErrno);

/* ------------------------------------------------------------------ transfers */

/*
 * At most 16 buffers. dwFlags, *lpFlags: 0, else WSAEOPNOTSUPP. Each buffer must lie in memory that is
 * registered on this socket, with MEM_READ to send and MEM_WRITE to receive, else WSAEINVAL. A message
 * larger than the receive that it meets fails on the sender's side with WSAEMSGSIZE, and the receive stays
 * posted; a message that comes before a receive waits (R48).
 */
int WSPSend(SOCKET s, LPWSABUF lpBuffers, DWORD dwBufferCount, LPDWORD lpNumberOfBytesSent, DWORD dwFlags,
	    LPWSAOVERLAPPED lpOverlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine,
	    LPWSATHREADID lpThreadId, LPINT lpErrno);
int WSPRecv(SOCKET s, LPWSABUF lpBuffers, DWORD dwBufferCount, LPDWORD lpNumberOfBytesRecvd, LPDWORD lpFlags,
	    LPWSAOVERLAPPED lpOverlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine,
	    LPWSATHREADID lpThreadId, LPINT lpErrno);

/* From, or to, the peer's memory that the descriptor names, from the offset on (R12). At most 16 buffers;
 * dwFlags: 0. */
int WSPRdmaWrite(SOCKET s, LPWSABUFEX lpBuffers, DWORD dwBufferCount, LPVOID lpTargetBufferDescriptor,
		 DWORD dwTargetDescriptorLength, DWORD dwTargetBufferOffset, LPDWORD lpdwNumberOfBytesWritten,
		 DWORD dwFlags, LPWSAOVERLAPPED lpOverlapped,
		 LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno);
int WSPRdmaRead(SOCKET s, LPWSABUFEX lpBuffers, DWORD dwBufferCount, LPVOID lpTargetBufferDescriptor,
		DWORD dwTargetDescriptorLength, DWORD dwTargetBufferOffset, LPDWORD lpdwNumberOfBytesRead,
		DWORD dwFlags, LPWSAOVERLAPPED lpOverlapped,
		LPWSAOVERLAPPED_COMPLETION_ROUTINE lpCompletionRoutine, LPWSATHREADID lpThreadId, LPINT lpErrno);

/*
 * TRUE when the operation has ended well. FALSE and: WSA_IO_INCOMPLETE (not yet, and fWait is FALSE), the
 * operation's own error, WSA_INVALID_PARAMETER (lpOverlapped is NULL), WSAENOTSOCK (after a close, read
 * Internal).
 */
BOOL WSPGetOverlappedResult(SOCKET s, LPWSAOVERLAPPED lpOverlapped, LPDWORD lpcbTransfer, BOOL fWait, LPDWORD lpdwFlags,
			    LPINT lpErrno);

/* ------------------------------------------------------------------ start and end */

int WSPCleanup(LPINT lpErrno);

/* In the documented order. NULL: not offered here. */
typedef void (*WS2SAN_NOT_OFFERED)(void);
typedef struct _WSPPROC_TABLE {
	__typeof__(&WSPAccept) lpWSPAccept;
	WS2SAN_NOT_OFFERED lpWSPAddressToString;
	WS2SAN_NOT_OFFERED lpWSPAsyncSelect;
	__typeof__(&WSPBind) lpWSPBind;
	WS2SAN_NOT_OFFERED lpWSPCancelBlockingCall;
	__typeof__(&WSPCleanup) lpWSPCleanup;
	__typeof__(&WSPCloseSocket) lpWSPCloseSocket;
	__typeof__(&WSPConnect) lpWSPConnect;
	WS2SAN_NOT_OFFERED lpWSPDuplicateSocket;
	WS2SAN_NOT_OFFERED lpWSPEnumNetworkEvents;
	WS2SAN_NOT_OFFERED lpWSPEventSelect;
	__typeof__(&WSPGetOverlappedResult) lpWSPGetOverlappedResult;
	__typeof__(&WSPGetPeerName) lpWSPGetPeerName;
	__typeof__(&WSPGetSockName) lpWSPGetSockName;
	__typeof__(&WSPGetSockOpt) lpWSPGetSockOpt;
	WS2SAN_NOT_OFFERED lpWSPGetQOSByName;
	__typeof__(&WSPIoctl) lpWSPIoctl;
	WS2SAN_NOT_OFFERED lpWSPJoinLeaf;
	__typeof__(&WSPListen) lpWSPListen;
	__typeof__(&WSPRecv) lpWSPRecv;
	WS2SAN_NOT_OFFERED lpWSPRecvDisconnect;
	WS2SAN_NOT_OFFERED lpWSPRecvFrom;
	WS2SAN_NOT_OFFERED lpWSPSelect;
	__typeof__(&WSPSend) lpWSPSend;
	WS2SAN_NOT_OFFERED lpWSPSendDisconnect;
	WS2SAN_NOT_OFFERED lpWSPSendTo;
	WS2SAN_NOT_OFFERED lpWSPSetSockOpt;
	WS2SAN_NOT_OFFERED lpWSPShutdown;
	__typeof__(&WSPSocket) lpWSPSocket;
	WS2SAN_NOT_OFFERED lpWSPStringToAddress;
} WSPPROC_TABLE, *LPWSPPROC_TABLE;

typedef struct _WSPUPCALLTABLEEX WSPUPCALLTABLEEX, *LPWSPUPCALLTABLEEX; /* no upcall is made: pass NULL or yours */

/*
 * The answer is the error itself. The first opens a switch and the providers; the others count.
 * wVersionRequested: 2.2 (0x0202) or newer, else WSAVERNOTSUPPORTED. WSAEFAULT: lpWSPData or lpProcTable is
 * NULL. WSASYSNOTREADY: the switch or a NIC can't be opened. WSAEPROCLIM: too many are open.
 * lpProtocolInfo, lpUpcallTable: not looked at.
 */
int WSPStartupEx(WORD wVersionRequested, LPWSPDATA lpWSPData, LPWSAPROTOCOL_INFOW lpProtocolInfo,
		 LPWSPUPCALLTABLEEX lpUpcallTable, LPWSPPROC_TABLE lpProcTable);

/*
 * WSPCleanup(), above: the last closes every socket (R21), the providers and the switch. WSANOTINITIALISED.
 * WSAEINPROGRESS: the sockets are closed, but something of holdfast.h is still held on the switch (a
 * region, a secured range, a provider of yours): the count is 1 again; give it back and call again.
 */

/* What lies beneath, for calls of holdfast.h: until the last WSPCleanup(). The i-th NIC's provider. NULL:
 * not started, or none of that number. */
struct hf_switch *hf_ws2san_switch(void);
struct hf_provider *hf_ws2san_provider(unsigned i);

/* What SIO_GET_EXTENSION_FUNCTION_POINTER gives. */
typedef __typeof__(&WSPRegisterMemory) LPFN_WSPREGISTERMEMORY;
typedef __typeof__(&WSPDeregisterMemory) LPFN_WSPDEREGISTERMEMORY;
typedef __typeof__(&WSPRegisterRdmaMemory) LPFN_WSPREGISTERRDMAMEMORY;
typedef __typeof__(&WSPDeregisterRdmaMemory) LPFN_WSPDEREGISTERRDMAMEMORY;
typedef __typeof__(&WSPRdmaWrite) LPFN_WSPRDMAWRITE;
typedef __typeof__(&WSPRdmaRead) LPFN_WSPRDMAREAD;
typedef __typeof__(&WSPMemoryRegistrationCacheCallback) LPFN_WSPMEMORYREGISTRATIONCACHECALLBACK;

/* ------------------------------------------------------------------ securing */

#define PAGE_READONLY  0x02
#define PAGE_READWRITE 0x04

/*
 * Secure [Address, Address+Size), in whole pages: until it is unsecured, no call of this process frees a
 * part of it (EBUSY), and none makes its protection stricter than ProbeMode (EACCES); the same and looser
 * is allowed (R37). Ranges may overlap; each counts. NULL, with a sentence in hf_error(): not wholly
 * mapped, or stricter already; another ProbeMode; empty; the proxy can't refuse. It ends by itself when the
 * process ends or executes another program (R38). What it does not protect against: a file that is
 * truncated, a disk that can't be read (R42).
 *
 * Needs no WSPStartupEx(): the first call opens a switch of its own with proxy=supervise, which installs a
 * seccomp filter and starts a helper process, and stays to the end of the process. Its children inherit the
 * filter, and can't have one of their own: NULL there. HOLDFAST in the environment still wins.
 */
HANDLE MmSecureVirtualMemory(PVOID Address, SIZE_T Size, ULONG ProbeMode);

/* By the process that secured, else, as with an unknown handle, nothing happens (R39) and hf_error() says
 * so. */
void MmUnsecureVirtualMemory(HANDLE SecureHandle);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
