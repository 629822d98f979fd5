/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The two tables that a back end fills: a NIC, which pins memory and moves data, and a proxy, which
 * watches the address space. Both are sized and only ever grow at the end, so that a back end that was
 * compiled earlier still loads: the library reads no further than `size`. A pointer marked optional
 * may be NULL.
 *
 *   NIC     open ─► { reg ─► … ─► dereg }*            ─► close
 *                   { attach ─► { send | recv }* ─► detach }*
 *                   { qp: open ─► ready ─► { post | poll | expose | revoke }* ─► stop ─► close }*
 *   proxy   open ─► { secure ─► … ─► unsecure }*      ─► close
 *           from open to close it calls hf_changes_begin / _changed / _end on its own thread
 */
#ifndef HOLDFAST_BACKEND_H
#define HOLDFAST_BACKEND_H

#include <holdfast/holdfast.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define HF_BACKEND_ABI 1

/* ------------------------------------------------------------------ NIC */

struct hf_nic_reg {
	uint64_t lkey;
	uint64_t rkey;
	uint64_t priv; /* the NIC's own */
};

/* The NIC pins as for writing even if asked for reading only, so that copy-on-write is broken at the
 * pin. Without it the cache populates the pages for writing before it registers (hazard 10). */
#define HF_NIC_PINS_FOR_WRITE 1u

struct hf_nic_qp_ops;

struct hf_nic_ops {
	size_t size;      /* sizeof(struct hf_nic_ops) when the back end was compiled */
	uint32_t abi;     /* HF_BACKEND_ABI */
	uint32_t flags;   /* HF_NIC_* */
	const char *name; /* at most 15 letters */

	/*
	 * Open one NIC. `arg` is what stood behind "name:", or NULL; `config` what
	 * hf_provider_open_nic() was given. 0 and *nic, or -errno with nothing left behind.
	 */
	int (*open)(const char *arg, void *config, void **nic);

	/* Everything is deregistered and detached before. Never fails. */
	void (*close)(void *nic);

	/*
	 * Pin [addr, addr+len) (whole pages, mapped when it was looked at) and load the translation.
	 * No lock of the library is held; several threads call at once; may block and allocate.
	 * -ENOMEM: a limit; the cache evicts and calls again; hf_set_error() says which limit.
	 * -EFAULT: the memory went away. -EOPNOTSUPP: this NIC can't register such memory. On
	 * any error nothing stays pinned.
	 */
	int (*reg)(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out);

	/*
	 * Undo one reg. No holder is left. Several threads call at once. 0, or -errno: then the
	 * registration still counts as pinned and is never used again (R32).
	 */
	int (*dereg)(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg);

	/* optional: lkey of one address inside a registration. Without it: reg->lkey for all. */
	uint64_t (*lkey_at)(uint64_t reg_addr, uint64_t lkey, uint64_t addr);

	/* optional, all or none: the data path. Messages as hf_send() and hf_recv() document them. */
	int (*attach)(void *nic, int fd, void **conn);
	void (*detach)(void *conn);
	int (*send)(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len);
	int (*recv)(void *conn, const struct hf_region *r, uint64_t addr, uint64_t len, uint64_t *got);

	/* optional: copy through the registration (hf_peek, hf_poke). */
	int (*peek)(void *nic, const struct hf_region *r, uint64_t addr, void *dst, size_t len);
	int (*poke)(void *nic, const struct hf_region *r, uint64_t addr, const void *src, size_t len);

	/*
	 * optional: what SAN sockets (san.h) are carried by. Move up to `len` bytes of the held region r from `addr` on
	 * to (HF_READ) or from (HF_WRITE) the stream socket `fd`, without waiting. How many were moved, 0: the other side is
	 * gone; -EAGAIN when it would have to wait; or -errno. Raises no SIGPIPE. Several threads call at once, but one per
	 * socket and direction. With r NULL nothing is moved: 0, or -errno when it never could (-EOPNOTSUPP: the ring is
	 * the program's).
	 */
	int (*move)(void *nic, unsigned access, int fd, const struct hf_region *r, uint64_t addr, uint64_t len);

	/*
	 * optional, instead of move: SAN sockets are carried by queue pairs of this NIC. Their stream socket only says who
	 * is there, which receives are posted, and that the peer has gone.
	 */
	const struct hf_nic_qp_ops *qp;
};

/* ------------------------------------------------------------------ queue pairs */

#define HF_QP_ADDRESS 64 /* bytes that one side's qp tells the other's: opaque to the library */
#define HF_QP_KEY     16 /* bytes that name what is exposed to the peer's qp: no pointer, opaque to the library */

enum hf_qp_op { HF_QP_SEND = 1, HF_QP_RECV, HF_QP_WRITE, HF_QP_READ };

struct hf_qp_sge {
	const struct hf_region *region; /* held */
	uint64_t addr, len;             /* inside of it; len may be 0 */
};

/* One piece of work. */
struct hf_qp_wr {
	uint32_t op;      /* enum hf_qp_op */
	uint32_t n;       /* segments, up to HF_SEGMENTS of san.h */
	const struct hf_qp_sge *sge;
	bool fence;       /* not before the reads that were posted before it have ended */
	uint64_t cookie;  /* comes back in hf_qp_done */
	uint64_t offset;                   /* write, read: into what the key exposes */
	const uint8_t *key;                /* write, read: HF_QP_KEY bytes */
};

struct hf_qp_done {
	uint64_t cookie;
	int32_t status;  /* 0; -EACCES the peer's NIC refused the key, the right or the range; -ECONNRESET; -ECANCELED flushed behind a
			  * failure; -EMSGSIZE; -EIO */
	uint64_t bytes;  /* of a receive that is good: the message's */
};

/*
 * One reliable connection. All calls but open() on one qp are made one at a time; poll(), arm() and post() never block. After a
 * done with a status the qp moves nothing any more: everything else that was posted comes back with -ECANCELED.
 */
struct hf_nic_qp_ops {
	size_t size; /* sizeof(struct hf_nic_qp_ops) when the back end was compiled */

	/*
	 * A qp on which receives may be posted at once, for `depth` requests, `depth` receives and `depth` exposures at a time. `fd`: the stream
	 * socket whose ends the qp's ends are to be (which port, which address). *max: the largest message or RDMA, bytes.
	 * 0, or -errno with the sentence.
	 */
	int (*open)(void *nic, int fd, uint32_t depth, void **qp, uint8_t address[HF_QP_ADDRESS], uint64_t *max);
	/* Connect to the peer's. Requests may be posted when both sides have returned from it. */
	int (*ready)(void *qp, const uint8_t address[HF_QP_ADDRESS]);
	/* The order of posts is the order in which requests are carried out and done, receives by themselves. -errno: not posted. */
	int (*post)(void *qp, const struct hf_qp_wr *wr);
	/* How many, 0: none, or -errno: the qp is broken. */
	int (*poll)(void *qp, struct hf_qp_done *out, int max);
	/* Readable when something is done after arm() has answered 0. Belongs to the qp; the library closes it in a forked child. */
	int (*fd)(void *qp);
	/* Take in fd's events, and have the next one told. 0; 1: poll once more, something may be done already. -errno. */
	int (*arm)(void *qp);

	/*
	 * Let the peer's qp, and nobody else, reach [addr, addr+len) of the held region. 0: it can, *window and *key are set; 1:
	 * it can when a done with `cookie` has come with status 0; -errno: it can't, and nothing is left. After 0 and 1 *window
	 * and *key are set, and the window is there until revoke(), whatever the done says. Exposed may be what is mapped there
	 * now: afterwards look whether the memory has changed since r was got, and revoke if so.
	 */
	int (*expose)(void *qp, const struct hf_region *r, uint64_t addr, uint64_t len, unsigned access, uint64_t cookie,
		      void **window, uint8_t key[HF_QP_KEY]);
	/*
	 * The end of it. 0: no byte moves by this key any more, also none of a request that is under way; may block
	 * for as long as a system call does. -errno: that can't be had without stop(), which is to be called next, and then
	 * this once more.
	 */
	int (*revoke)(void *qp, void *window);

	/* No byte moves any more, in neither direction. What was posted is forgotten. expose() and post() fail from now on. */
	void (*stop)(void *qp);
	/* After stop() and after revoke() of all windows. Never fails. */
	void (*close)(void *qp);
};

/* Open a provider on a NIC of one's own. As hf_provider_open(); -EINVAL for a table that is too short. */
int hf_provider_open_nic(struct hf_switch *sw, const struct hf_nic_ops *ops, void *config,
			 const char *options, struct hf_provider **out);

/* The NIC instance behind a provider, as ops->open() answered it. */
void *hf_provider_nic(struct hf_provider *p);

/* ------------------------------------------------------------------ proxy */

#define HF_SINK_PARTS 8 /* see below: the sink */

struct hf_sink; /* where a proxy tells what it sees: the switch's ear */

/* What secure() says about a range. */
enum hf_watch {
	HF_WATCHED = 0,   /* every change from now on is told */
	HF_UNWATCHED = 1, /* valid memory, but this proxy is blind to some change of it: don't cache (I6) */
	HF_WATCH_LATER = 2, /* not just now, for it is changing: don't cache this time; hf_secure() answers -EAGAIN */
};

#define HF_PROXY_FAST       1u /* mode=fast: leave the exact check out */
#define HF_PROXY_RELAX_FILE 2u /* relax=file: watch private file mappings too, blind to truncation */

struct hf_proxy_ops {
	size_t size;
	uint32_t abi;
	uint32_t caps; /* HF_CAP_* */
	const char *name;

	/* `flags`: HF_PROXY_*. 0 and *proxy, or -errno with a sentence by hf_set_error(). */
	int (*open)(struct hf_sink *sink, unsigned flags, void *config, void **proxy);
	/* Stops watching. No secure() is under way. Afterwards the sink is not called. Never fails. */
	void (*close)(void *proxy);

	/*
	 * Begin to watch [start, end) (whole pages), before anything is pinned (I3). `access` is
	 * what the mapping must allow. Any thread; may block and allocate; no lock of the library is
	 * held. *id is handed back to unsecure(). Returns enum hf_watch or -errno: -EFAULT not wholly
	 * mapped, -EACCES fewer rights. A proxy that knows without a look that it watches the range may leave
	 * the rights to the NIC and the cache, which see them, too. On anything but HF_WATCHED hf_set_error() has the
	 * reason, and unsecure() is not called.
	 *
	 * With HF_CAP_PARTS the low 8 bits of *id say by which parts of the sink changes of the range are told.
	 * None counts as all.
	 */
	int (*secure)(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id);
	/* Never fails. Must not block on the thread that calls the sink. */
	void (*unsecure)(void *proxy, uint64_t start, uint64_t end, uint64_t id);

	/*
	 * optional: 0 when every change that has taken effect by now was told to the sink or has made
	 * the sink's word odd; -EAGAIN while one is under way. No lock, no allocation: called on every
	 * exact hit. Without it the sink's word alone is exact.
	 */
	int (*check)(void *proxy);

	/*
	 * optional, with HF_CAP_DENY: from the return on until unsecure() of *id, calls that would free a part of [start, end), or
	 * give it less than `access`, are refused (R37). What was let through before has ended. Nothing is told. Any kind of
	 * mapping. 0; -EFAULT not wholly mapped, -EACCES fewer rights; -EAGAIN a change that began before is still under
	 * way; -ENOMEM.
	 */
	int (*deny)(void *proxy, uint64_t start, uint64_t end, unsigned access, uint64_t *id);

	/* optional, with HF_CAP_PARTS: check() for the changes that are told by one of `parts` (bit i: part i). */
	int (*check_parts)(void *proxy, unsigned parts);

	/*
	 * optional: would open() work here? For a proxy whose open() leaves something in the process that can't be taken
	 * back. 0, or -errno with the sentence. `auto` never takes a proxy that has it: it must be asked for by name.
	 */
	int (*probe)(void);

	/*
	 * optional, with check(): two numbers in memory that stays until the close, by which check() is done without
	 * a call. *moves grows before a change of what is secured takes effect. *told follows, by a store with release,
	 * when all changes that it counts were told and hf_changes_end() has said 0. Equal: check() would say 0.
	 */
	void (*clocks)(void *proxy, const uint64_t **moves, const uint64_t **told);

	/* optional: what of `caps` this one can do here, where that depends on the kernel. Asked once, after open(). */
	unsigned (*able)(void *proxy);

	/*
	 * optional, with check_parts(): the same for one range that secure() has answered
	 * HF_WATCHED for. `parts`: as secure() said. 0: no change that is told by one of `parts` is
	 * in flight, and all of [start, end) is memory that is watched. -EAGAIN: a change is in
	 * flight. -ESTALE: a part of the range is not watched, so it was replaced and nothing told
	 * of it; the library drops what is cached there. No lock, no allocation: called on every
	 * exact hit.
	 */
	int (*check_range)(void *proxy, uint64_t start, uint64_t end, unsigned parts);
};

/*
 * The sink. One thread at a time per part. begin: a change may have been taken note of by the kernel from
 * here on; the word is odd. changed: everything that intersects [start, end) goes; it never blocks: 0, or
 * -EAGAIN when a provider's index was busy, then the range is kept, and hf_changes_end() answers -EAGAIN until a
 * further call got it through; read what else has come meanwhile (hazard 28). end: the word is even again.
 */
void hf_changes_begin(struct hf_sink *sink);
int hf_changed(struct hf_sink *sink, uint64_t start, uint64_t end);
int hf_changes_end(struct hf_sink *sink);
/* The word: even at rest, odd while changes are being told. */
uint64_t hf_changes_word(const struct hf_sink *sink);

/*
 * Drop what is cached or secured in [start, end), and make each registration that is under way
 * there start over. Not the caller's own: its secure() has not returned. For secure(), which found
 * that memory in the range was not watched: what the library has of it is of earlier memory. Any
 * thread but the telling one; blocks for short locks.
 */
void hf_changed_unseen(struct hf_sink *sink, uint64_t start, uint64_t end);

/*
 * A sink has HF_SINK_PARTS parts, each a sink of its own, so that what is told by one does not disturb the hits in
 * memory that another one watches. Part 0 is the sink that open() was given; NULL past the last. Without HF_CAP_PARTS in
 * the table all parts are that one: so a table that was made over another proxy's, and knows of no parts, is still
 * exact.
 */
struct hf_sink *hf_sink_part(struct hf_sink *sink, unsigned i);

/* Open a switch on a proxy of one's own. */
int hf_switch_open_proxy(const struct hf_proxy_ops *ops, void *config, const char *options,
			 struct hf_switch **out);

/* ------------------------------------------------------------------ for both */

/* A built-in table by name, to wrap it; NULL when there is none. */
const struct hf_nic_ops *hf_nic_find(const char *name);
const struct hf_proxy_ops *hf_proxy_find(const char *name);

/* Set the sentence that hf_error() gives on this thread; returns `err`. printf format. */
int hf_set_error(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Is [start, end) wholly mapped, with `access`? For a proxy that can't look itself. 0, or with the
 * sentence set: -EFAULT, -EACCES, or if the mappings can't be looked at: -ENODATA (no /proc),
 * -EMFILE, -ENFILE,
 * -ENOMEM, -EIO.
 */
int hf_range_check(uint64_t start, uint64_t end, unsigned access);

/* A descriptor that a forked child must not keep (else it keeps pins alive): closed in the child. */
int hf_close_on_fork(int fd);
void hf_close_on_fork_done(int fd);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
