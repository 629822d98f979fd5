/* SPDX-License-Identifier: ((GPL-2.0-only WITH Linux-syscall-note) OR BSD-2-Clause) */
/*
 * /dev/holdfast: own ranges of your address space (secure them), so that changes to them are told
 * before they happen (notify), or refused (deny).
 *
 * An open file belongs to the address space that opened it. Whoever else gets the descriptor (a
 * forked child, a program that was executed, the other end of a socket) is answered -EPERM by
 * every call. What was secured is released by unsecure, when the address space ends, and when the
 * last descriptor and the last mapping of the file are gone.
 *
 * All structures begin with their size as the caller knows it. A kernel that knows a shorter one
 * accepts what it doesn't know only if it is zero (-E2BIG); one that knows a longer one takes the
 * rest as zero.
 */
#ifndef _UAPI_HOLDFAST_H
#define _UAPI_HOLDFAST_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HOLDFAST_VERSION 1

#define HOLDFAST_TYPE 0xBC
#define HOLDFAST_IOC_SECURE   _IO(HOLDFAST_TYPE, 0x00)
#define HOLDFAST_IOC_UNSECURE _IO(HOLDFAST_TYPE, 0x01)
#define HOLDFAST_IOC_QUERY    _IO(HOLDFAST_TYPE, 0x02)

/* What to do about changes. One, or both: then what is not refused is told. */
#define HOLDFAST_NOTIFY (1U << 0)
#define HOLDFAST_DENY   (1U << 1)

/* What the range must allow. */
#define HOLDFAST_READONLY  1U
#define HOLDFAST_READWRITE 2U

/**
 * struct holdfast_secure - own a range (HOLDFAST_IOC_SECURE)
 * @size: sizeof(struct holdfast_secure)
 * @flags: HOLDFAST_NOTIFY, HOLDFAST_DENY or both
 * @start: first byte; on a page boundary
 * @length: in bytes; whole pages
 * @mode: HOLDFAST_READONLY or HOLDFAST_READWRITE: what all of the range must allow
 * @slot: out: index of the range's word in the mapped array
 * @id: out: for unsecure and query; never 0, and not used again for a long time
 * @word: out: the value of the range's word; as long as the word has it, nothing has changed
 *
 * From the return on, every change of what the range is mapped to turns the word before the page
 * tables change, and is queued as an event. A change that had begun before has ended. Ranges may
 * overlap; each is told by itself.
 *
 * With HOLDFAST_DENY munmap, mremap, mprotect and mmap(MAP_FIXED) on any part of the range fail
 * with EPERM (so does an mprotect to more rights), and so does discarding read-only anonymous
 * memory by madvise. It doesn't stop MADV_DONTNEED on writable memory, truncation, hole punching
 * or the end of the process. Only whole mappings can be denied: split what is larger first, by a
 * madvise on the range (MADV_DONTDUMP and back). A forked child inherits the refusal, for as long
 * as it runs the same program: it can't give back its copy of the range before it ends or
 * executes. Denied ranges may overlap; memory can be freed when the last one is let go. mseal(2)
 * of memory while it is denied counts as denied, not as sealed.
 *
 * Errors: -EINVAL bad flags, mode, or range, or (deny) not whole mappings; -EFAULT not wholly
 * mapped; -EACCES mapped with fewer rights; -EOPNOTSUPP (deny) this kernel has no seal, or not for
 * such memory; -EPERM not the owner, or (deny) sealed for good by mseal(2); -ENOSPC as many ranges
 * as a file can have; -EDQUOT as many as a user can have; -EAGAIN the range keeps changing;
 * -ENOMEM.
 */
struct holdfast_secure {
	__u32 size;
	__u32 flags;
	__aligned_u64 start;
	__aligned_u64 length;
	__u32 mode;
	__u32 slot;
	__aligned_u64 id;
	__aligned_u64 word;
};

/**
 * struct holdfast_unsecure - let a range go (HOLDFAST_IOC_UNSECURE)
 * @size: sizeof(struct holdfast_unsecure)
 * @flags: 0
 * @id: of the range
 *
 * Its word turns, if it hasn't; an event of it that was not read is dropped. -ENOENT: no range has
 * this id.
 */
struct holdfast_unsecure {
	__u32 size;
	__u32 flags;
	__aligned_u64 id;
};

/**
 * struct holdfast_query - what is known of a range (HOLDFAST_IOC_QUERY)
 * @size: sizeof(struct holdfast_query)
 * @flags: in: 0; out: as it was secured
 * @id: of the range
 * @start: out
 * @length: out
 * @mode: out
 * @changed: out: 1 when something of it has changed since it was secured
 * @word: out: its word now
 */
struct holdfast_query {
	__u32 size;
	__u32 flags;
	__aligned_u64 id;
	__aligned_u64 start;
	__aligned_u64 length;
	__u32 mode;
	__u32 changed;
	__aligned_u64 word;
};

#define HOLDFAST_HAS_DENY (1U << 0)

/**
 * struct holdfast_head - the first page of what mmap() of the device shows
 * @version: HOLDFAST_VERSION
 * @features: HOLDFAST_HAS_*
 * @ranges: how many ranges this file can have: what max_ranges was when it was opened, 262144 at
 *   most
 * @words: offset in bytes of the words' array, of @ranges words of 64 bits
 * @length: how many bytes can be mapped
 * @reserved1: 0
 * @changes: counts the changes of all ranges of the file; on a cache line of its own
 * @reserved2: 0
 *
 * mmap() takes PROT_READ and MAP_SHARED. Nothing of it is copied to a child. A page of words can
 * be read from when a range was first secured that has its word there; earlier is SIGBUS.
 *
 * A change turns the word of each range that it touches, then queues its events, then adds to
 * @changes, and only then changes the page tables. Read all three with acquire semantics.
 */
struct holdfast_head {
	__u32 version;
	__u32 features;
	__u32 ranges;
	__u32 words;
	__aligned_u64 length;
	__aligned_u64 reserved1[5];
	__aligned_u64 changes;
	__aligned_u64 reserved2[7];
};

/* Of an event. */
#define HOLDFAST_EVENT_ALL (1U << 0) /* events were lost: everything may have changed */

/**
 * struct holdfast_event - what read() gives
 * @id: of the range; 0 with HOLDFAST_EVENT_ALL
 * @start: first byte that changed
 * @end: past the last
 * @flags: HOLDFAST_EVENT_*
 * @reserved: 0
 *
 * read() gives as many as fit; fewer than fit: no more there are. One event stands for all changes
 * of a range that were not read yet, and spans them, so that nothing overflows; events are lost
 * only by a read() into memory that can't be written. poll() says when there is something to read.
 */
struct holdfast_event {
	__aligned_u64 id;
	__aligned_u64 start;
	__aligned_u64 end;
	__u32 flags;
	__u32 reserved;
};

#endif
