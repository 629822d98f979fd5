/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The NIC `verbs`: RDMA devices by libibverbs, real ones and software ones.
 *
 * provider   a context, a protection domain, and registrations in it. lkey is the NIC's own.
 * qp         a reliable connection with a completion queue and an event channel of its own
 * exposure   what the peer's qp may reach: exactly the bytes and the rights, never those of the registration behind.
 *
 * How an exposure is made, and how it ends (verbs_window.c):
 *
 *   revoke=window   a type 2B memory window on the registration of the cache: nothing is pinned for it, and the window is
 *                   of one qp. It ends with the window. The default, but for soft RoCE.
 *   revoke=dereg    a second registration of exactly these bytes, and a window on that. It ends with the window, and then
 *                   the second registration, which waits in the kernel until nobody uses it. The cached one
 *                   stays (R29). The default for soft RoCE: there the end of a window waits for nobody, and a packet that was
 *                   let in before is still being copied.
 *
 * Memory that is mapped read-only can't have a window (a device must be able to write what a window is bound to): its exposure
 * is a second registration without one, whose key any qp of the protection domain could use. So then only one qp of a provider
 * has remote access (known fault 2 of the contract).
 *
 * Locks. None of them is taken by a thread that receives events (I4), so libibverbs may allocate under them:
 *   nic->lock   registrations by key; who has remote access
 *   nic->self   the qp that is connected to itself, for peek and poke; taken before nic->lock
 *   conn->tx, rx, setup   see verbs_conn.c; taken before nic->self
 * A qp has no lock: its calls are made one at a time.
 */
#ifndef HF_VERBS_H
#define HF_VERBS_H

#include <holdfast/backend.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define VERBS_BUCKETS 1024
#define VERBS_SGE 16 /* HF_SEGMENTS */
#define VERBS_MAX_MESSAGE (1ull << 30)

enum verbs_revoke { VERBS_BY_WINDOW = 1, VERBS_BY_DEREG };

struct verbs_reg {
	struct ibv_mr *mr;
	struct verbs_reg *next;
	bool bindable; /* windows may be bound to it */
};

struct verbs_self {
	pthread_mutex_t lock;
	struct verbs_qp *qp; /* (lock) NULL until first used, and after a failure */
	struct ibv_mr *mr;   /* (lock) of the bounce buffer */
	char *bounce;
};

union verbs_sockaddr {
	struct sockaddr any; /* family 0: none */
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct verbs_nic {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_device_attr attr;
	char name[64];
	unsigned port; /* the one that was asked for; 0: any */
	union verbs_sockaddr own; /* by which it was asked for, if so */
	bool windows;  /* type 2B */
	bool soft;     /* soft RoCE */
	bool odp;      /* could do without pinning; it is pinned all the same */
	enum verbs_revoke revoke;
	struct verbs_self self;
	pthread_mutex_t lock;
	struct verbs_reg *regs[VERBS_BUCKETS]; /* (lock) by lkey */
	unsigned count;                        /* (lock) registrations of this provider */
	unsigned remote_qps;                   /* (lock) qps whose peers may ask for memory at all */
	struct verbs_qp *naked_qp;             /* (lock) the one that has exposures without a window */
	unsigned naked;                        /* (lock) how many */
};

/* What the other side must know to connect; little-endian, HF_QP_ADDRESS bytes at most. */
struct verbs_address {
	uint32_t magic;
	uint16_t version;
	uint16_t lid;
	uint32_t qpn;
	uint32_t psn;
	uint8_t link; /* IBV_LINK_LAYER_* */
	uint8_t mtu;  /* enum ibv_mtu */
	uint8_t reads; /* RDMA reads that may be under way to it */
	uint8_t pad[5];
	uint8_t gid[16];
};

/* One port's address. */
struct verbs_place {
	unsigned port, gid_index;
	union ibv_gid gid;
	uint16_t lid;
	uint8_t link, mtu;
	uint32_t max_message;
};

struct verbs_window;

struct verbs_posted {
	uint64_t cookie;
	uint32_t op; /* enum hf_qp_op, 0: binding a window */
	struct verbs_window *window;
};

/* Posted and not done; the NIC ends the requests of one queue in their order. */
struct verbs_queue {
	struct verbs_posted *slot;
	unsigned size, head, tail;
};

struct verbs_qp {
	struct verbs_nic *nic;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp; /* NULL: destroyed by stop() */
	struct verbs_window *windows;
	struct verbs_place place;
	uint32_t psn, depth;
	uint64_t max;
	struct verbs_queue sq, rq;
	struct hf_qp_done *stash; /* done, taken from the NIC, not given out: a ring */
	unsigned stash_size, stash_head, stash_tail;
	unsigned events; /* taken from the channel, not acknowledged */
	bool ready, broken, stopped;
	bool remote; /* (nic->lock) the peer may ask for memory */
};

/* verbs.c */
extern const struct hf_nic_qp_ops verbs_qp_ops;

/* verbs_why.c: sentences for what was answered; each returns the error */
int verbs_why_no_device(const char *wanted);
void verbs_list_devices(char *out, size_t size); /* those that libibverbs can drive; "": none */
int verbs_why_transport(const struct ibv_device *d); /* 0: its connections can be made */
int verbs_why_open(const struct ibv_device *d, int err);
int verbs_why_reg(struct verbs_nic *nic, int err, uint64_t addr, uint64_t len, unsigned access);

/* verbs_address.c: "192.168.1.5" or "[fe80::1%eth0]" in the place of a device's name */
bool verbs_is_address(const char *text);
int verbs_address_parse(const char *text, union verbs_sockaddr *out);
/* Which device and port have it. */
int verbs_address_find(const union verbs_sockaddr *a, char device[64], unsigned *port);
#define VERBS_ADDRESS_TEXT (INET6_ADDRSTRLEN + 16)
const char *verbs_address_text(const union verbs_sockaddr *a, char out[VERBS_ADDRESS_TEXT]);
int verbs_why_not_local(const union verbs_sockaddr *a);
int verbs_why_not_rdma(const union verbs_sockaddr *a);

/* verbs_cm.c: the same, as librdmacm answers */
int verbs_cm_find(const union verbs_sockaddr *a, char device[64], unsigned *port);

/* verbs_mr.c */
int verbs_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out);
int verbs_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg);
/* The registration behind a key if windows may be bound to it, else NULL. */
struct ibv_mr *verbs_bindable(struct verbs_nic *nic, uint64_t lkey);
/* What the process maps of the device must not go to a forked child: it would keep the pins alive. */
void verbs_keep_from_children(struct verbs_nic *nic);

/* verbs_self.c */
void verbs_self_close(struct verbs_nic *nic);
int verbs_peek(void *nic, const struct hf_region *r, uint64_t addr, void *dst, size_t len);
int verbs_poke(void *nic, const struct hf_region *r, uint64_t addr, const void *src, size_t len);

/* verbs_place.c: the port and GID for a socket's own address; fd -1: any */
int verbs_find_place(struct verbs_nic *nic, int fd, struct verbs_place *out);

/* verbs_qp.c */
int verbs_qp_open(void *nic, int fd, uint32_t depth, void **qp, uint8_t address[HF_QP_ADDRESS], uint64_t *max);
int verbs_qp_ready(void *qp, const uint8_t address[HF_QP_ADDRESS]);
int verbs_qp_post(void *qp, const struct hf_qp_wr *wr);
int verbs_qp_poll(void *qp, struct hf_qp_done *out, int max);
int verbs_qp_fd(void *qp);
int verbs_qp_arm(void *qp);
void verbs_qp_stop(void *qp);
void verbs_qp_close(void *qp);
/* Take one completion from the NIC to the stash: 1, 0: none, or -errno. */
int verbs_qp_take(struct verbs_qp *q);
struct verbs_posted *verbs_queue_push(struct verbs_queue *q, uint64_t *index);

/* verbs_window.c */
int verbs_expose(void *qp, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access, uint64_t cookie,
		 void **window, uint8_t key[HF_QP_KEY]);
int verbs_revoke(void *qp, void *window);
void verbs_window_bound(struct verbs_window *w, bool good);
void verbs_window_leave(struct verbs_qp *q); /* the qp has stopped */
bool verbs_key_at(const uint8_t key[HF_QP_KEY], uint64_t offset, uint32_t *rkey, uint64_t *addr);

/* verbs_conn.c */
int verbs_attach(void *nic, int fd, void **conn);
void verbs_detach(void *conn);
int verbs_send(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len);
int verbs_recv(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got);

#endif
