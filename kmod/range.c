// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Secured ranges: their words, and the notifier that turns them.
 *
 * What is promised: a user who reads the value that secure() gave, from the range's word, may use
 * what was pinned after secure() returned: nothing has changed since. There are two dangers. A
 * change that comes later: the word turns in the notifier, which the kernel calls before it
 * touches the page tables, so before the call that changes them returns. It is turned at once,
 * whoever makes the change (in another process, when it punches a hole into a file), and nothing
 * is filtered: whether an event leaves pinned pages as they are depends on how the user pins, and
 * that can't be known here.
 *
 *   A: munmap                         B: a thread of the same process
 *   ----------------------------      ---------------------------------------
 *   hf_invalidate: the word is odd
 *                                     reads the word: odd, doesn't use it
 *   page tables change
 *   munmap returns ............>      learns that it has returned: reads odd
 *
 * B may use what it pinned if it reads the word before it turns; then it was before the change.
 *
 * The other danger is a change that is under way while the range is secured. Its notifiers have
 * been called, ours was not among them; its page tables are still to change. A user who pinned now
 * would have the old pages, and nobody would tell. mmu_interval_notifier_insert() puts what comes
 * during a change aside, as "to be counted as changing", and mmu_interval_read_begin() waits for
 * the end. So does it for a change that begins after the insertion:
 *
 *   A: munmap, of the range           B: secure
 *   ----------------------------      ---------------------------------------
 *   calls the notifiers
 *                                     inserts: it counts as changing
 *                                     read_begin: waits
 *   page tables change
 *   the end; wakes    ...........>    has a sequence number
 *                                     looks at the mappings: -EFAULT, or new ones
 *   C: munmap again
 *   hf_invalidate: set_seq
 *                                     spin; read_retry: it has changed; start over
 *                                     spin; read_retry: it hasn't; the word is even; unlock
 *   C: munmap
 *   hf_invalidate: spin; the word
 *     is odd
 *
 * The end comes when the page tables have changed, though a processor may use what it remembers of
 * them a little longer: what pins looks at the page tables.
 *
 * The spinlock orders the last steps: either the notifier comes first, and read_retry sees it, or
 * the arming does, and the notifier turns the word. So an even word says: no change is under way
 * that began before, and none has begun since. A word is odd for good after the first change. Who
 * wants the range again secures it again, which waits for the end of the change: a range in flux
 * can't be armed. A change that changes nothing in the end costs a registration, never a wrong
 * byte.
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hf.h"

/* A mapping that changes without pause isn't worth more. */
#define HF_TRIES 100

/* ------------------------------------------------------------------ changes */

/* file->spin is held. */
static void turn(struct hf_range *r)
{
	u64 *word = hf_word(r->file, r->slot);

	WRITE_ONCE(*word, *word + 1);
}

static void changed(struct hf_range *r, const struct mmu_notifier_range *range)
{
	struct hf_file *f = r->file;

	if (!r->changed)
		turn(r);
	r->changed = true;
	hf_event_queue(r, range->start, range->end);
	/* The last: who sees the count finds the word and the event. */
	smp_store_release(&f->head->changes, f->head->changes + 1);
}

static bool hf_invalidate(struct mmu_interval_notifier *mni, const struct mmu_notifier_range *range,
			  unsigned long seq)
{
	struct hf_range *r = container_of(mni, struct hf_range, mni);
	bool tell;

	spin_lock(&r->file->spin);
	mmu_interval_set_seq(mni, seq);
	tell = r->armed && !HF_DROPS;
	if (tell)
		changed(r, range);
	spin_unlock(&r->file->spin);
	if (tell)
		wake_up_interruptible_poll(&r->file->wait, EPOLLIN | EPOLLRDNORM);
	return true;
}

static const struct mmu_interval_notifier_ops hf_range_ops = {
	.invalidate = hf_invalidate,
};

/* ------------------------------------------------------------------ arming */

/* file->spin is held. The word is even from here on. */
static void make_even(struct hf_range *r)
{
	turn(r);
	r->armed = true;
	r->word = *hf_word(r->file, r->slot);
	r->id = r->word >> 1 << 32 | r->slot;
}

static bool arm_once(struct hf_range *r, unsigned long seq)
{
	bool ok;

	spin_lock(&r->file->spin);
	ok = !r->notified || !mmu_interval_read_retry(&r->mni, seq);
	if (ok)
		make_even(r);
	spin_unlock(&r->file->spin);
	return ok;
}

/* Drawn above. */
static int arm(struct hf_range *r)
{
	unsigned long seq = 0;
	int ret;

	for (int i = 0; i < HF_TRIES; i++) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (r->notified)
			seq = mmu_interval_read_begin(&r->mni);
		ret = hf_check_mapped(current->mm, r);
		if (ret)
			return ret;
		if (arm_once(r, seq))
			return 0;
		cond_resched();
	}
	return -EAGAIN;
}

/*
 * Denied first: what the seal stops can't disturb the arming, and a change that was let through
 * before has ended when the notifier is armed.
 */
static int start(struct hf_range *r)
{
	int ret = r->flags & HOLDFAST_DENY ? hf_deny(r) : 0;

	if (!ret && (r->flags & HOLDFAST_NOTIFY)) {
		ret = hf_fails() ? -ENOMEM :
		      mmu_interval_notifier_insert(&r->mni, current->mm, r->start,
						   r->end - r->start, &hf_range_ops);
		r->notified = !ret;
	}
	return ret ? ret : arm(r);
}

/* ------------------------------------------------------------------ life of a range */

/* Nothing is told from here on, and nothing is denied. No lock is held: both may wait. */
static void stop(struct hf_range *r)
{
	if (r->notified)
		mmu_interval_notifier_remove(&r->mni);
	hf_event_drop(r);
	if (r->deny)
		hf_undeny(r);
}

/*
 * file->lock is held. The word is odd, and the slot free: its next range makes it even with a
 * value that is new.
 */
static void free_range(struct hf_range *r)
{
	struct hf_file *f = r->file;

	spin_lock(&f->spin);
	if (r->armed && !r->changed)
		turn(r);
	spin_unlock(&f->spin);
	xa_erase(&f->ranges, r->slot);
	hf_user_uncharge(f->user);
	kfree(r);
}

static int take_slot(struct hf_range *r)
{
	struct hf_file *f = r->file;
	int ret;

	mutex_lock(&f->lock);
	/* `going` until it is armed: nobody finds it. */
	ret = hf_fails() ? -ENOMEM :
	      xa_alloc(&f->ranges, &r->slot, r, XA_LIMIT(0, f->limit - 1), GFP_KERNEL_ACCOUNT);
	if (ret == -EBUSY)
		ret = -ENOSPC;
	if (!ret) {
		ret = hf_word_make(f, r->slot);
		if (ret)
			xa_erase(&f->ranges, r->slot);
	}
	mutex_unlock(&f->lock);
	return ret;
}

static struct hf_range *new_range(struct hf_file *f, const struct holdfast_secure *s)
{
	struct hf_range *r;
	int ret;

	if (!hf_user_charge(f->user))
		return ERR_PTR(-EDQUOT);
	r = hf_fails() ? NULL : kzalloc(sizeof(*r), GFP_KERNEL_ACCOUNT);
	if (r) {
		r->file = f;
		r->start = s->start;
		r->end = s->start + s->length;
		r->flags = s->flags;
		r->mode = s->mode;
		r->going = true;
		INIT_LIST_HEAD(&r->queued);
	}
	ret = r ? take_slot(r) : -ENOMEM;
	if (!ret)
		return r;
	kfree(r);
	hf_user_uncharge(f->user);
	return ERR_PTR(ret);
}

static void end_range(struct hf_range *r)
{
	struct hf_file *f = r->file;

	stop(r);
	mutex_lock(&f->lock);
	free_range(r);
	mutex_unlock(&f->lock);
}

/* file->lock is held. */
static struct hf_range *find(struct hf_file *f, u64 id)
{
	struct hf_range *r = xa_load(&f->ranges, (u32)id);

	return r && !r->going && r->id == id ? r : NULL;
}

/* ------------------------------------------------------------------ the ioctls */

static int check_secure(const struct holdfast_secure *s)
{
	if (!s->flags || (s->flags & ~(HOLDFAST_NOTIFY | HOLDFAST_DENY)))
		return -EINVAL;
	if (s->mode != HOLDFAST_READONLY && s->mode != HOLDFAST_READWRITE)
		return -EINVAL;
	if (!s->length || !PAGE_ALIGNED(s->start | s->length) || s->start + s->length <= s->start)
		return -EINVAL;
	if (s->start + s->length > TASK_SIZE)
		return -EFAULT;
	if ((s->flags & HOLDFAST_DENY) && !HF_HAS_SEAL)
		return -EOPNOTSUPP;
	return 0;
}

int hf_secure(struct hf_file *f, void *arg)
{
	struct holdfast_secure *s = arg;
	struct hf_range *r;
	int ret = check_secure(s);

	if (ret)
		return ret;
	r = new_range(f, s);
	if (IS_ERR(r))
		return PTR_ERR(r);
	ret = start(r);
	if (ret) {
		end_range(r);
		return ret;
	}
	s->slot = r->slot;
	s->id = r->id;
	/* As it was when it was armed: it may have changed already. */
	s->word = r->word;
	mutex_lock(&f->lock);
	r->going = false;
	mutex_unlock(&f->lock);
	return 0;
}

static int unsecure(struct hf_file *f, u64 id)
{
	struct hf_range *r;

	mutex_lock(&f->lock);
	r = find(f, id);
	if (r)
		r->going = true;
	mutex_unlock(&f->lock);
	if (!r)
		return -ENOENT;
	end_range(r);
	return 0;
}

int hf_unsecure(struct hf_file *f, void *arg)
{
	const struct holdfast_unsecure *u = arg;

	return u->flags ? -EINVAL : unsecure(f, u->id);
}

/* The caller could not be told of it. */
void hf_secure_undo(struct hf_file *f, void *arg)
{
	const struct holdfast_secure *s = arg;

	unsecure(f, s->id);
}

int hf_query(struct hf_file *f, void *arg)
{
	struct holdfast_query *q = arg;
	struct hf_range *r;

	if (q->flags)
		return -EINVAL;
	mutex_lock(&f->lock);
	r = find(f, q->id);
	if (r) {
		q->flags = r->flags;
		q->start = r->start;
		q->length = r->end - r->start;
		q->mode = r->mode;
		spin_lock(&f->spin);
		q->changed = r->changed;
		q->word = *hf_word(f, r->slot);
		spin_unlock(&f->spin);
	}
	mutex_unlock(&f->lock);
	return r ? 0 : -ENOENT;
}

/*
 * The owner has ended, or the file is being released: no call is under way that secures or
 * unsecures, for it would be of a thread of the owner's with the file. The work and the release
 * may meet here.
 */
void hf_release_all(struct hf_file *f)
{
	struct hf_range *r;
	unsigned long slot;

	mutex_lock(&f->lock);
	xa_for_each(&f->ranges, slot, r) {
		stop(r);
		free_range(r);
		cond_resched();
	}
	mutex_unlock(&f->lock);
}
