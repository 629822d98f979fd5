/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * holdfast.ko: the proxy driver. Read in this order:
 *
 *   main.c    the device, the table of ioctls, open and release
 *   range.c   secure, unsecure, query; the words; the notifier: why it is exact
 *   event.c   the queue of events, read and poll
 *   map.c     mmap of the words
 *   seal.c    deny
 *   owner.c   the address space that a file belongs to, and its end
 *   user.c    limits
 *
 * What there is:
 *
 *   hf_user ──< hf_file >── hf_owner ── mm
 *                  │            │
 *              hf_range ──> hf_deny        (a file's range; an address space's denied range)
 *
 * Locks, outermost first. Nothing sleeps under the spinlocks.
 *
 *   hf_file.lock (mutex)      ranges, the pages of words
 *     mm's mmap_lock          for write: hf_owner.denied, the seals
 *       hf_owner.lock (spin)  hf_owner.files
 *       hf_file.spin (spin)   words, queue, changes; the notifier's, under any lock of the mm's
 *
 *   hf_users_lock (mutex)     the list of users; nothing is taken under it
 *
 * The notifier is called with mmap_lock, i_mmap or anon_vma locks held, and by the OOM killer's
 * reaper, which may not wait for memory: it takes hf_file.spin only and allocates nothing. The
 * fault handler of the words runs under mmap_lock and takes no lock. mmu_interval_read_begin() and
 * mmu_interval_notifier_remove() wait for changes that are under way, which wait for none of these
 * locks.
 */
#ifndef HF_H
#define HF_H

#include <linux/interval_tree.h>
#include <linux/list.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <uapi/holdfast.h>

#include "compat.h"

#define HF_WORDS_PER_PAGE (PAGE_SIZE / sizeof(u64))
#define HF_RANGES 262144U /* that a file can have at most: one word each, 2 MiB */
#define HF_WORD_PAGES (HF_RANGES / HF_WORDS_PER_PAGE)

/* What one user has, in all processes. */
struct hf_user {
	struct list_head node; /* hf_users_lock, as is the next */
	unsigned int opens;
	refcount_t refs;
	atomic_t ranges;
	kuid_t uid;
};

/* One address space that has the device open, however often. */
struct hf_owner {
	struct mmu_notifier mn;       /* tells its end; counts the files */
	spinlock_t lock;
	struct list_head files;       /* lock */
	struct rb_root_cached denied; /* of hf_deny; mmap_lock */
};

/* A denied range. See seal.c. */
struct hf_deny {
	struct interval_tree_node it; /* mmap_lock, as is the next */
	bool live;
	struct hf_user *user;         /* who is charged for it */
};

struct hf_file {
	struct mm_struct *mm;         /* the owner's; NULL when it has ended */
	struct hf_owner *owner;       /* lock; NULL when it has ended */
	struct list_head node;        /* in owner->files */
	struct work_struct end;       /* releases all, after the owner's end */
	struct hf_user *user;
	u32 limit;                    /* ranges that it can have; from the open on */

	struct mutex lock;            /* what says so; never taken by the notifier */
	struct xarray ranges;         /* by slot; lock */
	u64 *words[HF_WORD_PAGES];    /* made under lock, read without; there until the end */
	struct holdfast_head *head;   /* a page */

	spinlock_t spin;              /* the words, ranges' events, and what follows */
	struct list_head queue;       /* ranges with events that were not read */
	bool lost;                    /* events were lost */
	wait_queue_head_t wait;
};

/*
 * A secured range. Its word is odd until it is armed, even from then to the first change, then odd
 * for good, and it never gets a value again that it had before.
 */
struct hf_range {
	struct mmu_interval_notifier mni; /* with HOLDFAST_NOTIFY */
	struct hf_file *file;
	unsigned long start, end;
	u32 slot, flags, mode;
	u64 id, word;            /* word: its value while nothing has changed */
	bool notified;           /* mni is in the mm; set before it is armed */
	bool going;              /* somebody is unsecuring it; file->lock */
	bool armed;              /* file->spin, as are the next */
	bool changed;
	struct list_head queued;
	unsigned long from, to;  /* what changed and was not read yet */
	struct hf_deny *deny;    /* with HOLDFAST_DENY */
};

/* user.c */
extern unsigned int hf_max_ranges, hf_max_opens;
struct hf_user *hf_user_open(kuid_t uid);
void hf_user_close(struct hf_user *u);
struct hf_user *hf_user_charge(struct hf_user *u);
void hf_user_uncharge(struct hf_user *u);

/* owner.c */
int hf_owner_join(struct hf_file *f);
void hf_owner_leave(struct hf_file *f);
bool hf_is_owner(const struct hf_file *f);

/* range.c */
int hf_secure(struct hf_file *f, void *arg);
int hf_unsecure(struct hf_file *f, void *arg);
int hf_query(struct hf_file *f, void *arg);
void hf_secure_undo(struct hf_file *f, void *arg);
void hf_release_all(struct hf_file *f);

/* event.c */
void hf_event_queue(struct hf_range *r, unsigned long start, unsigned long end);
void hf_event_drop(struct hf_range *r);
ssize_t hf_read(struct file *file, char __user *buf, size_t count, loff_t *pos);
__poll_t hf_poll(struct file *file, poll_table *wait);

/* map.c */
static inline unsigned long hf_map_pages(const struct hf_file *f)
{
	return 1 + DIV_ROUND_UP(f->limit, HF_WORDS_PER_PAGE);
}

int hf_mmap(struct file *file, struct vm_area_struct *vma);
u64 *hf_word(const struct hf_file *f, u32 slot);
int hf_word_make(struct hf_file *f, u32 slot);
void hf_words_free(struct hf_file *f);

/* seal.c */
int hf_check_mapped(struct mm_struct *mm, const struct hf_range *r);
int hf_deny(struct hf_range *r);
void hf_undeny(struct hf_range *r);
void hf_deny_free(struct hf_deny *d);

/*
 * Only in modules that were made for tests. DROPS: the notifier says nothing. FAULTS: the nth thing
 * from now that can fail does.
 */
#ifdef HOLDFAST_DROPS
#define HF_DROPS true
#else
#define HF_DROPS false
#endif

#ifdef HOLDFAST_FAULTS
extern atomic_t hf_fail_nth;
static inline bool hf_fails(void)
{
	return atomic_dec_if_positive(&hf_fail_nth) == 0;
}
#else
static inline bool hf_fails(void)
{
	return false;
}
#endif

#endif
