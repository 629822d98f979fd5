/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Inside the names of Windows Sockets Direct: what its files share. A layer over holdfast.h and san.h, and
 * over nothing else.
 *
 *   start.c     WSPStartupEx, WSPCleanup; who is inside
 *   socket.c    ids, the life of a socket
 *   address.c   sockaddr and text
 *   memory.c    handles and descriptors
 *   transfer.c  posting
 *   overlap.c   completion
 *   ioctl.c     look-up by GUID
 *   error.c     -errno and WSA
 *   mm.c        MmSecureVirtualMemory
 *
 * Locks, in this order: ws.starting (start and end, one at a time; held across everything), ws.lock (the
 * table of sockets, who is inside), socket.lock (its state and handles), overlap.c's lock (completions).
 * None but the first is held across a call that blocks or registers memory.
 */
#ifndef HF_WS2SAN_INTERNAL_H
#define HF_WS2SAN_INTERNAL_H

#include <holdfast/san.h>
#include <holdfast/ws2san.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MAX_NICS 8
#define MAX_SOCKETS 65536
#define ADDRESS_TEXT 128
#define CONNECT_MS 30000

/* A registration that WSPRegisterMemory() gave out. */
struct buffer {
	uint64_t handle; /* 0: this place is free */
	uint64_t mr;
	uintptr_t addr;
	size_t len;
	unsigned access;
	uint32_t next_free; /* 1 + index */
};

/* Of one socket. By handle: its low half is the place. By address: `order`, sorted by where a buffer begins. */
struct buffers {
	struct buffer *place;
	uint32_t *order;
	uint32_t room, used, count, free;
	size_t longest; /* no buffer is or was longer */
};

enum state { FRESH, CONNECTING, CONNECTED, LISTENING };

struct ws_socket {
	SOCKET id;
	int family;
	unsigned nic;
	struct hf_provider *provider;
	int wake;                    /* eventfd: it is being closed; for WSPAccept() */
	unsigned users;              /* threads inside a call on it; ws.lock */
	pthread_mutex_t lock;
	enum state state;            /* lock */
	struct hf_sock *sock;        /* set once, before state says so; the users' to read then */
	struct hf_sock *deferred;    /* accepted, CF_DEFER; lock */
	bool bound, nonblocking;     /* lock */
	char address[ADDRESS_TEXT];  /* bound to; lock */
	struct buffers buffers;      /* lock */
	unsigned pending;            /* operations; overlap.c's lock */
};

struct ws {
	pthread_mutex_t starting;
	pthread_mutex_t lock;
	pthread_cond_t left;         /* somebody left a call: of a socket, or of the library */
	unsigned started;            /* lock */
	unsigned inside;             /* threads in a call that needs what is open; lock */
	struct hf_switch *sw;        /* from here on: written under `starting` while nobody is inside */
	struct hf_provider *nic[MAX_NICS];
	struct hf_cq *cq;
	char options[256];           /* of hf_listen() and hf_connect(); "" for none */
	struct ws_socket **slot;     /* lock */
	uint32_t slots;
	uint64_t last_id;            /* lock */
};
extern struct ws ws;

/* start.c: 0 and inside, or the WSA error. */
int ws_enter(void);
void ws_leave(void);

/* error.c: *lpErrno = code; SOCKET_ERROR. */
int ws_fail(LPINT lpErrno, int code);
int ws_error(int err);          /* -errno to WSA */
int ws_error_of_memory(int err); /* ... of registering */

/* address.c: 0 or a WSA error. */
int ws_address_text(const struct sockaddr *name, int namelen, char out[ADDRESS_TEXT]);
int ws_address_store(const char *text, struct sockaddr *name, LPINT namelen);

/* socket.c: a socket, and inside of it and of the library; NULL with *lpErrno. */
struct ws_socket *ws_socket_get(SOCKET s, LPINT lpErrno);
/* ... that is connected. */
struct ws_socket *ws_connected_get(SOCKET s, LPINT lpErrno);
void ws_socket_put(struct ws_socket *s);
/* Nobody gets in any more. Who is inside of a socket leaves it, for it is closed. */
void ws_close_all(void);
void ws_table_free(void); /* nobody is inside */

/* memory.c */
void ws_buffers_destroy(struct buffers *b);
/* The handle's native one; 0: unknown. */
uint64_t ws_buffer_mr(struct ws_socket *s, HANDLE handle);
/* The native handle of a registration that covers these bytes, with the right; 0: none. */
uint64_t ws_buffer_find(struct ws_socket *s, const void *addr, size_t len, unsigned access);

/* overlap.c */
struct op {
	struct ws_socket *s;
	LPWSAOVERLAPPED ov; /* NULL: somebody waits for it, and it is on his stack */
	int event;          /* or -1 */
	bool done;          /* from here on: for him who waits */
	int code;           /* 0 or a WSA error */
	uint64_t bytes;
};
/* Before posting: -ENOMEM, -EAGAIN (no thread); and if posting failed. */
int ws_op_begin(struct op *op);
void ws_op_undo(struct op *op);
void ws_event_posted(void); /* one with an hEvent was; it may have completed by now */
void ws_op_wait(struct op *op);
void ws_pending_wait(struct ws_socket *s); /* until nothing is pending on it */
void ws_overlap_stop(void);
void ws_overlap_forked(void);

#endif
