// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The device: open, release, and the table of ioctls. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "hf.h"

unsigned int hf_max_ranges = HF_RANGES;
module_param_named(max_ranges, hf_max_ranges, uint, 0644);
MODULE_PARM_DESC(max_ranges, "ranges that one user can secure in all; a denied one counts twice (262144)");

unsigned int hf_max_opens = 1024;
module_param_named(max_opens, hf_max_opens, uint, 0644);
MODULE_PARM_DESC(max_opens, "how often one user can have the device open (1024)");

#ifdef HOLDFAST_FAULTS
atomic_t hf_fail_nth = ATOMIC_INIT(0);
module_param_named(fail_nth, hf_fail_nth.counter, int, 0600);
MODULE_PARM_DESC(fail_nth, "for tests: the nth thing that can fail does");
#endif

/* ------------------------------------------------------------------ ioctls */

union hf_arg {
	struct holdfast_secure secure;
	struct holdfast_unsecure unsecure;
	struct holdfast_query query;
};

static const struct hf_ioctl {
	unsigned int size; /* as it is now */
	unsigned int min;  /* as it was at first */
	int (*run)(struct hf_file *f, void *arg);
	void (*undo)(struct hf_file *f, void *arg);
} hf_ioctls[] = {
	[_IOC_NR(HOLDFAST_IOC_SECURE)] = {
		.size = sizeof(struct holdfast_secure),
		.min = offsetofend(struct holdfast_secure, word),
		.run = hf_secure,
		.undo = hf_secure_undo,
	},
	[_IOC_NR(HOLDFAST_IOC_UNSECURE)] = {
		.size = sizeof(struct holdfast_unsecure),
		.min = offsetofend(struct holdfast_unsecure, id),
		.run = hf_unsecure,
	},
	[_IOC_NR(HOLDFAST_IOC_QUERY)] = {
		.size = sizeof(struct holdfast_query),
		.min = offsetofend(struct holdfast_query, word),
		.run = hf_query,
	},
};

static const struct hf_ioctl *find_ioctl(unsigned int cmd)
{
	unsigned int nr = _IOC_NR(cmd);

	if (nr >= ARRAY_SIZE(hf_ioctls) || cmd != _IO(HOLDFAST_TYPE, nr))
		return NULL;
	return &hf_ioctls[nr];
}

/* All structures begin with their size. */
static int copy_in(union hf_arg *arg, const struct hf_ioctl *op, void __user *from, u32 *size)
{
	if (get_user(*size, (u32 __user *)from))
		return -EFAULT;
	if (*size < op->min)
		return -EINVAL;
	if (*size > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(arg, op->size, from, *size);
}

static long hf_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
	const struct hf_ioctl *op = find_ioctl(cmd);
	struct hf_file *f = file->private_data;
	void __user *at = (void __user *)user;
	union hf_arg arg;
	u32 size;
	int ret;

	if (!op)
		return -ENOTTY;
	if (!hf_is_owner(f))
		return -EPERM;
	ret = copy_in(&arg, op, at, &size);
	if (!ret)
		ret = op->run(f, &arg);
	if (!ret && copy_to_user(at, &arg, min(size, op->size))) {
		if (op->undo)
			op->undo(f, &arg);
		ret = -EFAULT;
	}
	return ret;
}

/* ------------------------------------------------------------------ life of a file */

static void fill_head(struct hf_file *f)
{
	struct holdfast_head *h = f->head;

	BUILD_BUG_ON(sizeof(*h) != 128 || offsetof(struct holdfast_head, changes) != 64);
	h->version = HOLDFAST_VERSION;
	h->features = HF_HAS_SEAL ? HOLDFAST_HAS_DENY : 0;
	f->limit = clamp(READ_ONCE(hf_max_ranges), 1U, HF_RANGES);
	h->ranges = f->limit;
	h->words = PAGE_SIZE;
	h->length = hf_map_pages(f) * PAGE_SIZE;
}

static void free_file(struct hf_file *f)
{
	hf_words_free(f);
	free_page((unsigned long)f->head);
	xa_destroy(&f->ranges);
	mutex_destroy(&f->lock);
	kfree(f);
}

static struct hf_file *new_file(void)
{
	struct hf_file *f = hf_fails() ? NULL : kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);

	if (!f)
		return NULL;
	mutex_init(&f->lock);
	xa_init_flags(&f->ranges, XA_FLAGS_ALLOC);
	spin_lock_init(&f->spin);
	INIT_LIST_HEAD(&f->queue);
	init_waitqueue_head(&f->wait);
	f->head = hf_fails() ? NULL : (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!f->head) {
		free_file(f);
		return NULL;
	}
	fill_head(f);
	return f;
}

static int hf_open(struct inode *inode, struct file *file)
{
	struct hf_file *f;
	int ret;

	if (!current->mm)
		return -EINVAL;
	f = new_file();
	if (!f)
		return -ENOMEM;
	f->user = hf_user_open(current_uid());
	if (IS_ERR(f->user)) {
		ret = PTR_ERR(f->user);
		free_file(f);
		return ret;
	}
	ret = hf_owner_join(f);
	if (ret) {
		hf_user_close(f->user);
		free_file(f);
		return ret;
	}
	file->private_data = f;
	return stream_open(inode, file);
}

static int hf_release(struct inode *inode, struct file *file)
{
	struct hf_file *f = file->private_data;

	/*
	 * 1. all ranges, 2. the owner, who knows the file no more, 3. the work that the owner's
	 * end has queued
	 */
	hf_release_all(f);
	hf_owner_leave(f);
	cancel_work_sync(&f->end);
	hf_user_close(f->user);
	free_file(f);
	return 0;
}

static const struct file_operations hf_fops = {
	.owner = THIS_MODULE,
	.open = hf_open,
	.release = hf_release,
	.unlocked_ioctl = hf_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = hf_mmap,
	.read = hf_read,
	.poll = hf_poll,
};

/* Root's, until a udev rule says otherwise. */
static struct miscdevice hf_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "holdfast",
	.fops = &hf_fops,
	.mode = 0600,
};

static int __init hf_init(void)
{
	return misc_register(&hf_device);
}

static void __exit hf_exit(void)
{
	misc_deregister(&hf_device);
	/* Owners are freed a little after their last file. */
	mmu_notifier_synchronize();
}

module_init(hf_init);
module_exit(hf_exit);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Secures ranges of user memory: tells, or refuses, changes of the mapping before they happen");
MODULE_VERSION("0.1.0");
