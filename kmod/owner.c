// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The address space that a file belongs to. Its end (exit, SIGKILL, exec) is told by a notifier,
 * whoever else still has the descriptor:
 *
 *   the last user of the mm              the work                    release of the file
 *   ------------------------------       ----------------------      -----------------------------
 *   exit_mmap: hf_owner_ended
 *     file->mm = NULL: no call of
 *     anybody's is the owner's any more
 *     queues the work ...............>   releases all ranges,
 *                                        frees the words
 *                                        leaves the owner
 *                                                                    releases all, leaves: nothing
 *                                                                    there; waits for the work
 *
 * A file leaves owner->files before it is freed, so the first column never meets a freed one; and
 * whoever takes file->owner, under file->lock, is the only one to leave.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "hf.h"

bool hf_is_owner(const struct hf_file *f)
{
	struct mm_struct *mm = READ_ONCE(f->mm);

	/* If it is the caller's own, it can't end while the caller is here. */
	return mm && mm == current->mm;
}

static void end_of(struct hf_file *f)
{
	WRITE_ONCE(f->mm, NULL);
	wake_up_all(&f->wait);
	schedule_work(&f->end);
}

/* May be told twice. */
static void hf_owner_ended(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct hf_owner *o = container_of(mn, struct hf_owner, mn);
	struct hf_file *f;

	spin_lock(&o->lock);
	list_for_each_entry(f, &o->files, node)
		end_of(f);
	spin_unlock(&o->lock);
}

static struct mmu_notifier *hf_owner_alloc(struct mm_struct *mm)
{
	struct hf_owner *o = hf_fails() ? NULL : kzalloc(sizeof(*o), GFP_KERNEL_ACCOUNT);

	if (!o)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&o->lock);
	INIT_LIST_HEAD(&o->files);
	o->denied = RB_ROOT_CACHED;
	return &o->mn;
}

/*
 * No file is left. What is still sealed belongs to an mm that has ended, or has grown together
 * with an mseal.
 */
static void hf_owner_free(struct mmu_notifier *mn)
{
	struct hf_owner *o = container_of(mn, struct hf_owner, mn);
	struct interval_tree_node *it;

	while ((it = interval_tree_iter_first(&o->denied, 0, ULONG_MAX))) {
		interval_tree_remove(it, &o->denied);
		hf_deny_free(container_of(it, struct hf_deny, it));
	}
	kfree(o);
}

static const struct mmu_notifier_ops hf_owner_ops = {
	.release = hf_owner_ended,
	.alloc_notifier = hf_owner_alloc,
	.free_notifier = hf_owner_free,
};

static void hf_end_work(struct work_struct *work)
{
	struct hf_file *f = container_of(work, struct hf_file, end);

	hf_release_all(f);
	hf_words_free(f);
	hf_owner_leave(f);
}

/* The caller's address space becomes the file's. */
int hf_owner_join(struct hf_file *f)
{
	struct mmu_notifier *mn;

	INIT_WORK(&f->end, hf_end_work);
	mn = mmu_notifier_get(&hf_owner_ops, current->mm);
	if (IS_ERR(mn))
		return PTR_ERR(mn);
	f->owner = container_of(mn, struct hf_owner, mn);
	f->mm = current->mm;
	spin_lock(&f->owner->lock);
	list_add(&f->node, &f->owner->files);
	spin_unlock(&f->owner->lock);
	return 0;
}

void hf_owner_leave(struct hf_file *f)
{
	struct hf_owner *o;

	mutex_lock(&f->lock);
	o = f->owner;
	f->owner = NULL;
	mutex_unlock(&f->lock);
	if (!o)
		return;
	spin_lock(&o->lock);
	list_del(&f->node);
	spin_unlock(&o->lock);
	mmu_notifier_put(&o->mn);
}
