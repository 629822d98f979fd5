/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * holdfast - registrations of user memory with a NIC, cached by address, never stale.
 *
 *   hf_switch_open()      one per process: owns the proxy, which watches the address space
 *     hf_provider_open()  one per NIC: owns the cache of registrations
 *       hf_get()          the registration that covers [addr, addr+len), made or found
 *       ... the NIC uses it ...
 *       hf_put()          give it back; it stays cached until its memory changes
 *
 * Conventions that hold for every call, unless its comment says otherwise:
 *  - The answer is 0 or positive, or -errno. hf_error() has the sentence that goes with an error.
 *  - Lengths and addresses are in bytes.
 *  - Any thread may call, at the same time as any other. What must not run in parallel with
 *    anything on the same object: the close of that object.
 *  - A forked child is told -EOWNERDEAD by every call at once; nothing of the parent's is touched (I7).
 *  - pthread_cancel() takes effect before a call or after it, never inside. Asynchronous cancellability
 *    (PTHREAD_CANCEL_ASYNCHRONOUS) is not allowed in a thread that calls.
 *  - No call may be made from a signal handler, nor from a notification (hf_changed_fn).
 *  - (R..), (I..) name the requirement or invariant: see docs/architecture.md.
 */
#ifndef HOLDFAST_H
#define HOLDFAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define HF_VERSION_MAJOR 0
#define HF_VERSION_MINOR 1
#define HF_VERSION_PATCH 0

/* The version of the library that runs, e.g. "0.1.0". Never fails. */
const char *hf_version(void);

/*
 * The sentence of the last call that failed on the calling thread: what was asked, what was found,
 * what to do. A call that succeeds never changes it. "" if no call has failed yet. Valid until the
 * thread's next call into the library. Never NULL.
 */
const char *hf_error(void);

struct hf_switch;   /* one address space, watched */
struct hf_provider; /* one NIC and its cache */
struct hf_conn;     /* one stream that moves messages between registered buffers */

/* Access that a registration gives the NIC (R2). */
#define HF_READ      1u /* the NIC may read the memory: a send */
#define HF_WRITE     2u /* the NIC may write it: a receive */
#define HF_READWRITE 3u

/* ------------------------------------------------------------------ the switch */

/*
 * Open a switch. `options` is "name=value,name=value" from the table that `holdfast help options`
 * prints (proxy, mode, ...), or NULL for the defaults. The environment variable HOLDFAST has the
 * same syntax and wins, so that an operator has the last word.
 *
 * proxy=auto takes the strongest proxy that this machine has. When it has none the switch opens
 * all the same and nothing is cached: never an unwatched cache (I6).
 *
 * Blocks: creates a thread. Errors: -EINVAL (unknown option or value), -ENOENT (no such proxy),
 * -ENOMEM, -EMFILE, and for a proxy asked for by name what that proxy answers: -ENOSYS,
 * -EPERM, -EOPNOTSUPP. proxy=supervise besides: -EBUSY (this process was forked or executed by one that is supervised,
 * and has its filter), -EBADF (it was supervised, and the supervisor was killed), -EIO (killed while it started).
 */
int hf_switch_open(const char *options, struct hf_switch **out);

/*
 * Close it. -EBUSY and nothing happens while a provider is open or a range is secured.
 * NULL is 0. In a forked child: -EOWNERDEAD; the child's copies were closed at the fork.
 */
int hf_switch_close(struct hf_switch *sw);

/* The name of the proxy in use ("uffd", "manual", "none", ...). Never NULL for an open switch. */
const char *hf_switch_proxy(const struct hf_switch *sw);

/*
 * The program says itself that [addr, addr+len) has changed or is about to (the proxy `manual`
 * needs it; the others don't). Every registration of every provider that intersects the range is
 * dropped (R33): no hf_get() that starts after this call returns gives one of them.
 *
 * (NULL, SIZE_MAX) is the whole address space. Returns how many were dropped; 0 when nothing was
 * cached there. -EINVAL for an empty or wrapping range. Blocks only for other threads' short index
 * updates, never for a NIC.
 */
int hf_invalidate(struct hf_switch *sw, const void *addr, size_t len);

/*
 * hf_invalidate(), and wait until the NICs have let go of all that was cached there (R26, R32). How many registrations
 * were there and are gone; 0 when nothing was. -EBUSY: one is held (hf_get without hf_put): it stays in its NIC until
 * it is put, and is not given out again. -EIO: a NIC would not let go, now or earlier: its memory stays pinned, and the
 * registration is never used again. Blocks for the NICs.
 */
int hf_release(struct hf_switch *sw, const void *addr, size_t len);

/* ------------------------------------------------------------------ securing */

#define HF_NOTIFY 0x10u /* tell me when the range changes */
#define HF_DENY   0x20u /* refuse the change; -ENOTSUP where the proxy can't (`supervise` and `kmod` can) */

/*
 * Called when a secured range changes, with the part that does. One change may be told more than once: before it
 * happens, where the proxy can, and afterwards. Don't read the memory in it. It may run on the thread that
 * the kernel tells: it must not allocate, free, log through stdio, call holdfast, or take a lock
 * that any thread may hold inside malloc, a NIC or an mm system call (R35, I4). Setting a flag and
 * sem_post() are fine.
 */
typedef void (*hf_changed_fn)(void *arg, void *addr, size_t len);

/*
 * Secure ownership of [addr, addr+len): MmSecureVirtualMemory (R37). `flags`: one of
 * HF_READ / HF_READWRITE, the rights that must be there now, and HF_NOTIFY, HF_DENY or both. `changed` may
 * be NULL: then ask hf_secured_changed(). Ranges may overlap; each is told by itself.
 *
 * With HF_DENY every call of this process that would free a part of the range fails with EBUSY, and every one that
 * would give it less than the rights of `flags` with EACCES, and nothing happens. It works for every kind of mapping, but
 * protects against calls of this process only, not against a file being truncated (R42). With HF_NOTIFY besides,
 * what changed in spite of it is told; what was refused is not. Not for thread stacks: the C library ends the program when it
 * can't unmap one.
 *
 * With the proxy `kmod` the kernel's seal does it (Linux 6.10, 64 bit), which is coarser: the error is EPERM, every
 * mprotect is refused, and a madvise that empties writable memory is not. A forked child has the seal with its copy.
 *
 * Errors: -EINVAL (flags, empty, wrap), -EFAULT (not wholly mapped), -EACCES (mapped with fewer
 * rights), -ENOTSUP (deny asked and the proxy can't), -EOPNOTSUPP (the proxy is blind to changes of
 * this kind of mapping: I6), -EAGAIN (the range is changing just now, or with HF_DENY that can't be ruled out within a
 * second), -ENOMEM. *id is never 0.
 */
int hf_secure(struct hf_switch *sw, void *addr, size_t len, unsigned flags, hf_changed_fn changed,
	      void *arg, uint64_t *id);

/*
 * 1 when the range or a part of it has changed since it was secured, 0 when not; -EINVAL. -EAGAIN: something was changing
 * just now, and what that is was not told within a second; take it for changed, or ask again.
 */
int hf_secured_changed(struct hf_switch *sw, uint64_t id);

/*
 * Release ownership (R39). After it returns the notification runs no more.
 * -EINVAL: not secured, or unsecured already; -EOWNERDEAD: a forked child asks, nothing changes.
 */
int hf_unsecure(struct hf_switch *sw, uint64_t id);

/* ------------------------------------------------------------------ providers and the cache */

/*
 * Open a provider on a NIC. `nic` is a name with an optional argument for that NIC:
 *   "uring"                     an io_uring of the provider's own
 *   "uring:fd=N,slots=M"        your io_uring: registers a sparse table of M buffers in it and manages
 *                               it; lkey is your buf_index. The ring must outlive the provider and not be
 *                               IORING_SETUP_SINGLE_ISSUER.
 *   "verbs:DEVICE[/PORT]"       an RDMA device, or without an argument the first one; where it was built with libibverbs. Its data
 *                               path is beside the socket: both ends use it, and hf_send() waits for the peer's hf_recv()
 *   "verbs:ADDRESS"             the device and port that have this IPv4 address, or IPv6 address in brackets: "verbs:192.168.1.5",
 *                               "verbs:[fe80::1%eth0]"; where it was built with librdmacm
 *   "sim"                       no hardware, for tests; see holdfast/sim.h
 * `options`: as for hf_switch_open (max_bytes, max_count, cache, ...).
 *
 * Errors: -EINVAL, -ENOENT (no such NIC), -ENODEV, -EACCES, -ENETDOWN (device, permission, port), -EADDRNOTAVAIL (ADDRESS), -EMFILE (64 on this switch, 256 in the process, or descriptors),
 * -EAGAIN (no thread), -ENOMEM, -ENOSYS, -EPERM, -EOPNOTSUPP, -EBUSY, -EEXIST, as the NIC says.
 */
int hf_provider_open(struct hf_switch *sw, const char *nic, const char *options,
		     struct hf_provider **out);

/*
 * Close it: every cached registration is taken out of the NIC. -EBUSY and nothing is lost while
 * a registration is held (hf_get without hf_put) or a connection is open. NULL is 0.
 */
int hf_provider_close(struct hf_provider *p);

#define HF_REGION_HIT    1u /* found, not made: nothing was registered for this get */
#define HF_REGION_CACHED 2u /* stays registered after the put; else it is let go there */

/* What hf_get() fills. Read it, don't change it; hf_put() takes it back. */
struct hf_region {
	uint64_t addr;   /* what is registered: whole pages that cover the request */
	uint64_t length; /* bytes */
	uint64_t lkey;   /* local key: for `uring` the buffer index of the first 1 GiB, see hf_region_lkey() */
	uint64_t rkey;   /* remote key, where the NIC has one */
	uint32_t access; /* HF_READ | HF_WRITE: at least what was asked */
	uint32_t flags;  /* HF_REGION_* */
	struct hf_provider *provider;
	void *entry; /* the library's own; NULL after hf_put() */
};

/*
 * A registration that covers [addr, addr+len) with at least `access`, held until hf_put() (R24).
 *
 * Exact (I1): once a call that changed the mapping of a page has returned, in any thread, no later
 * hf_get() returns a registration made before that change. Between get and put the registration
 * stays in the NIC, whatever happens to the mapping (I2).
 *
 * Registered is the request, rounded out to whole pages: never a page that nobody asked for. A
 * request inside a cached range is a hit. Requests may overlap; each keeps its own registration, and one
 * that is covered by a newer one with the same or more rights goes.
 *
 * Per proxy. `kmod`: two numbers in memory say that every change so far was told. `uffd` and
 * `supervise`: a hit asks the kernel whether a change is in flight, and whether the range is still
 * one that is watched. So a change is found out also if its event never comes: SHM_REMAP, a process
 * that shares the memory and is killed in munmap, another userfaultfd that takes the watch away, a
 * program that closes our descriptors. Not found out: MADV_GUARD_INSTALL; such a process killed in
 * madvise(MADV_DONTNEED); a lost event behind which another userfaultfd of the program, or an
 * mremap, watches the same addresses again. `manual`: exact from hf_invalidate() on.
 *
 * Memory that the proxy can't watch is registered for this one use (HF_REGION_CACHED not set).
 * So is everything while the mapping keeps changing: a get never waits for quiet, it goes round it.
 *
 * Blocks: not on a hit. On a miss for the NIC, and for another thread's registration that would
 * cover this one.
 * Errors: -EINVAL (length 0, wrap-around, bad access), -EFAULT (not wholly mapped user memory; R1),
 * -EACCES (write asked of read-only memory; nothing is cached), -EOPNOTSUPP (the NIC can't register
 * such memory), -ENOMEM (hf_error() names the limit that was hit). -ENODATA: the process has no
 * /proc, and the NIC doesn't find out itself whether the memory is mapped. -EMFILE, -ENFILE: a
 * descriptor was needed.
 */
int hf_get(struct hf_provider *p, const void *addr, size_t len, unsigned access,
	   struct hf_region *out);

/*
 * A batch: hf_sync() once, then hf_get_unchecked() any number of times. An unchecked get gives what
 * was exact at this thread's last hf_sync() on the provider, and saves the system call that `uffd`
 * needs for an exact answer; with the other proxies both cost the same. hf_sync() asks whether a
 * change is in flight, and not about single ranges. So a change of which no event comes is found
 * out by hf_get() only.
 * hf_sync: 0, or -EAGAIN when the mapping keeps changing: use hf_get() then.
 */
int hf_sync(struct hf_provider *p);
int hf_get_unchecked(struct hf_provider *p, const void *addr, size_t len, unsigned access,
		     struct hf_region *out);

/*
 * Give it back; any thread may. Blocks only for a registration that is not cached: the NIC
 * deregisters it in this call. -EINVAL: not held, given back already, or another provider's.
 */
int hf_put(struct hf_provider *p, struct hf_region *r);

/* The local key for one address inside the region: a region over 1 GiB spans several uring buffers.
 * UINT64_MAX outside of it, or when it is not held. */
uint64_t hf_region_lkey(const struct hf_region *r, const void *addr);

/*
 * Take every idle registration of this provider out of the NIC now. Returns how many went.
 * Blocks for the NIC.
 */
int hf_flush(struct hf_provider *p);

struct hf_stats {
	uint64_t size; /* set by hf_provider_stats: bytes that it filled */
	/* counted since the provider was opened */
	uint64_t hits;
	uint64_t misses;                /* registered, cached */
	uint64_t uncached;              /* registered, used, let go */
	uint64_t evictions;             /* idle ones let go for a limit or for the NIC */
	uint64_t superseded;            /* covered by a newer, larger one */
	uint64_t invalidations;         /* dropped because their memory changed */
	uint64_t in_use_invalidations;  /* ... of those: still held when holders were next looked for */
	uint64_t retries;               /* registered, but the memory changed meanwhile: done again */
	uint64_t failures;              /* gets that answered an error of the NIC */
	uint64_t dereg_failures;        /* the NIC would not let go (R32); still counted as pinned */
	/* now */
	uint64_t pinned_bytes;          /* registered with the NIC, all in all */
	uint64_t entries;               /* in the cache */
	uint64_t dead_held;             /* out of the cache, but somebody holds them */
	uint64_t max_bytes;             /* the limits in force */
	uint64_t max_count;
};

/* Fill at most `size` bytes of *out. 0, or -EINVAL. Walks the cache: not for a hot path. */
int hf_provider_stats(struct hf_provider *p, struct hf_stats *out, size_t size);

/* ------------------------------------------------------------------ moving data */

/*
 * Messages over a connected stream socket (unix or TCP), payload straight from and to registered
 * memory. The NIC must have a data path (`uring` has). The descriptor stays the caller's, must be
 * blocking or not as the caller likes, and must outlive the connection; nothing else may read or write it.
 * On TCP, hf_conn_open() sets TCP_NODELAY.
 * hf_conn_open: 0, or -EBADF, -ENOTSOCK, -EINVAL (no stream), -ENOTCONN, -EOPNOTSUPP (the NIC has no data
 * path, or is on a ring of yours), -EMFILE, -ENOMEM. hf_conn_close: 0, -EINVAL; NULL is 0.
 * Different connections may be used by different threads, and one thread may send on a connection while
 * another receives on it; two senders, or two receivers, on one connection take turns.
 */
int hf_conn_open(struct hf_provider *p, int fd, struct hf_conn **out);
int hf_conn_close(struct hf_conn *c);

/*
 * Send the `len` bytes at `addr`, which lie in the held region r (access HF_READ). Blocks until the
 * kernel has taken them all. One message, one hf_recv() on the other side. 0, or -EPIPE / -ECONNRESET,
 * -EINVAL (outside the region), -EACCES (region has no HF_READ), -EMSGSIZE (over 4 GiB - 1).
 */
int hf_send(struct hf_conn *c, const struct hf_region *r, const void *addr, size_t len);

/*
 * Receive one message into [addr, addr+len) of the held region r (access HF_WRITE). *got is its
 * length. 0; -EMSGSIZE: the message is larger, *got says how large, it is kept for the next hf_recv()
 * (R48); -ECONNRESET: the peer is gone; -EPROTO: what arrived is not a holdfast message.
 */
int hf_recv(struct hf_conn *c, const struct hf_region *r, void *addr, size_t len, size_t *got);

/*
 * Copy through the registration, as the NIC sees the memory: the pages that were pinned, whatever is
 * mapped there now. For checks and for tools; not fast. 0, -EINVAL (outside the region, not held),
 * -EACCES (hf_poke: the region has no HF_WRITE), -EOPNOTSUPP where the NIC can't.
 */
int hf_peek(const struct hf_region *r, const void *addr, void *dst, size_t len);
int hf_poke(const struct hf_region *r, void *addr, const void *src, size_t len);

/* ------------------------------------------------------------------ what there is */

struct hf_probe {
	char name[16];
	int available;     /* 0, or the -errno that opening answers */
	char reason[192];  /* one sentence: what was found, and what to do; of what is available mostly "" */
	unsigned caps;     /* HF_CAP_* when available */
};

#define HF_CAP_WATCH 1u /* a proxy that sees changes by itself */
#define HF_CAP_EXACT 2u /* ... and can answer exactly */
#define HF_CAP_DENY  4u /* ... and can refuse them */
#define HF_CAP_DATA  8u /* a NIC with a data path */
#define HF_CAP_PARTS 16u /* a proxy that tells changes by parts (backend.h) */

/* The i-th proxy or NIC, strongest first; -ENOENT past the last. Opens it for a moment to find out. */
int hf_proxy_probe(unsigned i, struct hf_probe *out);
int hf_nic_probe(unsigned i, struct hf_probe *out);

/*
 * The i-th row of the options table; -ENOENT past the last. A pointer that is NULL is not filled.
 */
int hf_option_info(unsigned i, const char **name, const char **default_value, const char **help);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
