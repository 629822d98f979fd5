// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Events. A range is in the queue once, with all that changed of it and was not read: so the queue
 * takes no memory of its own, and can't overflow. `lost` is for a read into memory that can't be
 * written.
 */
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "hf.h"

/* file->spin is held. */
void hf_event_queue(struct hf_range *r, unsigned long start, unsigned long end)
{
	start = max(start, r->start);
	end = min(end, r->end);
	if (list_empty(&r->queued)) {
		list_add_tail(&r->queued, &r->file->queue);
		r->from = start;
		r->to = end;
		return;
	}
	r->from = min(start, r->from);
	r->to = max(end, r->to);
}

void hf_event_drop(struct hf_range *r)
{
	spin_lock(&r->file->spin);
	list_del_init(&r->queued);
	spin_unlock(&r->file->spin);
}

static bool pending(struct hf_file *f)
{
	return !list_empty_careful(&f->queue) || READ_ONCE(f->lost);
}

static bool take_one(struct hf_file *f, struct holdfast_event *ev)
{
	struct hf_range *r = list_first_entry_or_null(&f->queue, struct hf_range, queued);

	if (f->lost) {
		f->lost = false;
		*ev = (struct holdfast_event){ .end = U64_MAX, .flags = HOLDFAST_EVENT_ALL };
		return true;
	}
	if (!r)
		return false;
	list_del_init(&r->queued);
	*ev = (struct holdfast_event){ .id = r->id, .start = r->from, .end = r->to };
	return true;
}

static unsigned int take(struct hf_file *f, struct holdfast_event *ev, unsigned int max)
{
	unsigned int n = 0;

	spin_lock(&f->spin);
	while (n < max && take_one(f, &ev[n]))
		n++;
	spin_unlock(&f->spin);
	return n;
}

#define HF_BATCH 16U

/* How many were copied, or -EFAULT: then some were taken and are lost. */
static ssize_t copy_events(struct hf_file *f, char __user *buf, size_t room)
{
	struct holdfast_event ev[HF_BATCH];
	size_t done = 0;
	unsigned int n;

	do {
		n = take(f, ev, min_t(size_t, HF_BATCH, room - done));
		if (n && copy_to_user(buf + done * sizeof(*ev), ev, n * sizeof(*ev))) {
			spin_lock(&f->spin);
			f->lost = true;
			spin_unlock(&f->spin);
			return -EFAULT;
		}
		done += n;
	} while (n == HF_BATCH && done < room);
	return done;
}

ssize_t hf_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct hf_file *f = file->private_data;
	size_t room = min_t(size_t, count, MAX_RW_COUNT) / sizeof(struct holdfast_event);
	ssize_t n;

	if (!hf_is_owner(f))
		return -EPERM;
	if (!room)
		return -EINVAL;
	while (!(n = copy_events(f, buf, room))) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(f->wait, pending(f)))
			return -ERESTARTSYS;
	}
	return n < 0 ? n : n * sizeof(struct holdfast_event);
}

__poll_t hf_poll(struct file *file, poll_table *wait)
{
	struct hf_file *f = file->private_data;

	poll_wait(file, &f->wait, wait);
	if (!READ_ONCE(f->mm))
		return EPOLLHUP | EPOLLERR;
	if (!hf_is_owner(f))
		return EPOLLERR;
	return pending(f) ? EPOLLIN | EPOLLRDNORM : 0;
}
