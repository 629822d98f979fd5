// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The words, as user space reads them without a system call. Page 0 is the head, then come the
 * pages of words.
 */
#include "hf.h"

u64 *hf_word(const struct hf_file *f, u32 slot)
{
	return f->words[slot / HF_WORDS_PER_PAGE] + slot % HF_WORDS_PER_PAGE;
}

/* file->lock is held. The page that has the word of the slot. */
int hf_word_make(struct hf_file *f, u32 slot)
{
	u64 **at = &f->words[slot / HF_WORDS_PER_PAGE];
	u64 *page;

	if (*at)
		return 0;
	page = hf_fails() ? NULL : (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!page)
		return -ENOMEM;
	for (unsigned int i = 0; i < HF_WORDS_PER_PAGE; i++)
		page[i] = 1;
	/* The fault handler takes no lock. */
	smp_store_release(at, page);
	return 0;
}

/* The owner has ended, and with it all mappings; or the file has no mapping left. */
void hf_words_free(struct hf_file *f)
{
	for (unsigned int i = 0; i < HF_WORD_PAGES; i++) {
		free_page((unsigned long)f->words[i]);
		f->words[i] = NULL;
	}
}

/* Under mmap_lock, of the owner's mm, which is the only one that has mappings of it. */
static vm_fault_t hf_fault(struct vm_fault *vmf)
{
	struct hf_file *f = vmf->vma->vm_file->private_data;
	void *page = f->head;

	if (vmf->pgoff > HF_WORD_PAGES)
		return VM_FAULT_SIGBUS;
	if (vmf->pgoff)
		/* With hf_word_make(): filled before it is there. */
		page = smp_load_acquire(&f->words[vmf->pgoff - 1]);
	if (!page)
		return VM_FAULT_SIGBUS;
	vmf->page = virt_to_page(page);
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct hf_vm_ops = {
	.fault = hf_fault,
};

int hf_mmap(struct file *file, struct vm_area_struct *vma)
{
	const struct hf_file *f = file->private_data;

	if (!hf_is_owner(f) || (vma->vm_flags & (VM_WRITE | VM_EXEC)))
		return -EPERM;
	if (!(vma->vm_flags & VM_MAYSHARE) || vma->vm_pgoff >= hf_map_pages(f) ||
	    vma_pages(vma) > hf_map_pages(f) - vma->vm_pgoff)
		return -EINVAL;
	/* No child keeps the file alive by it. */
	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	vm_flags_clear(vma, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_ops = &hf_vm_ops;
	return 0;
}
