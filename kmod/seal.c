// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Deny: the flag of mseal(2), which makes every change of a mapping fail, but set here, and taken
 * away again.
 *
 * The flag is a whole mapping's, and mappings can't be split from here. So a range that isn't
 * sealed yet has to be whole mappings. Later a sealed one may be split (by madvise), or merged
 * with a neighbour that is sealed as well, perhaps by mseal(2) and not by us. So what is ours is
 * not kept by mapping but by address: `denied` has
 *
 *   live nodes: ranges that are denied;
 *   dead nodes: ranges that were let go while the mapping around them had to stay sealed.
 *
 * A mapping is unsealed when no live node touches it and nodes cover all of it:
 *
 *          A, let go        B, denied                   both let go
 *     [----------------|----------------]        [----------------|----------------]
 *     one mapping: stays sealed, A is dead       covered by A and B: unsealed, both are gone
 *
 * What mseal(2) sealed is in no node: a mapping that has a byte of it is never covered, so never
 * unsealed, nor can it be denied. Each node is charged to its user, dead ones too.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "hf.h"

static int check_rights(const struct vm_area_struct *vma, u32 mode)
{
	unsigned long need = mode == HOLDFAST_READWRITE ? VM_READ | VM_WRITE : VM_READ;

	return (vma->vm_flags & need) == need ? 0 : -EACCES;
}

/* mmap_lock is held. Wholly mapped, with the rights; and whatever `each` wants of each mapping. */
static int walk(struct mm_struct *mm, const struct hf_range *r,
		int (*each)(const struct hf_range *r, struct vm_area_struct *vma))
{
	VMA_ITERATOR(vmi, mm, r->start);
	unsigned long at = r->start;
	struct vm_area_struct *vma;
	int ret;

	for_each_vma_range(vmi, vma, r->end) {
		if (vma->vm_start > at)
			return -EFAULT;
		ret = check_rights(vma, r->mode);
		if (!ret && each)
			ret = each(r, vma);
		if (ret)
			return ret;
		at = vma->vm_end;
	}
	return at < r->end ? -EFAULT : 0;
}

int hf_check_mapped(struct mm_struct *mm, const struct hf_range *r)
{
	int ret;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = walk(mm, r, NULL);
	mmap_read_unlock(mm);
	return ret;
}

void hf_deny_free(struct hf_deny *d)
{
	hf_user_uncharge(d->user);
	kfree(d);
}

#if HF_HAS_SEAL

/*
 * ------------------------------------------------------------------ what is ours; mmap_lock is
 * held for write
 */

static bool any_live(struct hf_owner *o, unsigned long start, unsigned long end)
{
	struct interval_tree_node *it = interval_tree_iter_first(&o->denied, start, end - 1);

	while (it && !container_of(it, struct hf_deny, it)->live)
		it = interval_tree_iter_next(it, start, end - 1);
	return it;
}

static bool covered(struct hf_owner *o, unsigned long start, unsigned long end)
{
	while (start < end) {
		struct interval_tree_node *it = interval_tree_iter_first(&o->denied, start, start);

		if (!it)
			return false;
		start = it->last + 1;
	}
	return true;
}

/* ------------------------------------------------------------------ deny */

static int may_seal(const struct hf_range *r, struct vm_area_struct *vma)
{
	if (vma->vm_flags & HF_SEALED)
		return covered(r->file->owner, vma->vm_start, vma->vm_end) ? 0 : -EPERM;
	/* What grows by itself, and what isn't memory. */
	if (vma->vm_flags & (VM_GROWSDOWN | VM_GROWSUP | VM_IO | VM_PFNMAP | VM_MIXEDMAP))
		return -EOPNOTSUPP;
	return vma->vm_start < r->start || vma->vm_end > r->end ? -EINVAL : 0;
}

static int seal(const struct hf_range *r, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & HF_SEALED))
		vm_flags_set(vma, HF_SEALED);
	return 0;
}

static struct hf_deny *new_deny(const struct hf_range *r)
{
	struct hf_deny *d;

	if (!hf_user_charge(r->file->user))
		return ERR_PTR(-EDQUOT);
	d = hf_fails() ? NULL : kzalloc(sizeof(*d), GFP_KERNEL_ACCOUNT);
	if (!d) {
		hf_user_uncharge(r->file->user);
		return ERR_PTR(-ENOMEM);
	}
	d->it.start = r->start;
	d->it.last = r->end - 1;
	d->user = r->file->user;
	d->live = true;
	return d;
}

/* The owner calls. */
int hf_deny(struct hf_range *r)
{
	struct hf_deny *d = new_deny(r);
	struct mm_struct *mm = current->mm;
	int ret;

	if (IS_ERR(d))
		return PTR_ERR(d);
	if (mmap_write_lock_killable(mm)) {
		hf_deny_free(d);
		return -EINTR;
	}
	ret = walk(mm, r, may_seal);
	if (!ret) {
		walk(mm, r, seal);
		interval_tree_insert(&d->it, &r->file->owner->denied);
		r->deny = d;
	}
	mmap_write_unlock(mm);
	if (ret)
		hf_deny_free(d);
	return ret;
}

/*
 * ------------------------------------------------------------------ let go; mmap_lock is held for
 * write
 */

static bool still_sealed(struct mm_struct *mm, const struct hf_deny *d)
{
	VMA_ITERATOR(vmi, mm, d->it.start);
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, d->it.last + 1)
		if (vma->vm_flags & HF_SEALED)
			return true;
	return false;
}

/* Dead nodes in [start, end) of which nothing is sealed any more. */
static void bury(struct hf_owner *o, struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct interval_tree_node *it = interval_tree_iter_first(&o->denied, start, end - 1);

	while (it) {
		struct hf_deny *d = container_of(it, struct hf_deny, it);

		it = interval_tree_iter_next(it, start, end - 1);
		if (!d->live && !still_sealed(mm, d)) {
			interval_tree_remove(&d->it, &o->denied);
			hf_deny_free(d);
		}
	}
}

static void unseal(struct hf_owner *o, struct mm_struct *mm, const struct hf_deny *d)
{
	VMA_ITERATOR(vmi, mm, d->it.start);
	unsigned long start = d->it.start, end = d->it.last + 1;
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, d->it.last + 1) {
		if (!(vma->vm_flags & HF_SEALED) || any_live(o, vma->vm_start, vma->vm_end) ||
		    !covered(o, vma->vm_start, vma->vm_end))
			continue;
		vm_flags_clear(vma, HF_SEALED);
		start = min(start, vma->vm_start);
		end = max(end, vma->vm_end);
	}
	bury(o, mm, start, end);
}

/* Whoever calls: the mm may be another one's, when a child was the last to have the descriptor. */
void hf_undeny(struct hf_range *r)
{
	struct hf_deny *d = r->deny;
	struct hf_owner *o = r->file->owner;
	struct mm_struct *mm = o->mn.mm;

	r->deny = NULL;
	/* It is ending: seals mean nothing any more. The node goes with the owner. */
	if (!mmget_not_zero(mm))
		return;
	mmap_write_lock(mm);
	d->live = false;
	unseal(o, mm, d);
	mmap_write_unlock(mm);
	mmput_async(mm);
}

#else

int hf_deny(struct hf_range *r)
{
	return -EOPNOTSUPP;
}

void hf_undeny(struct hf_range *r)
{
}

#endif
