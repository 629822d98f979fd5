// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What one user may have, in all processes together, so that nobody exhausts the kernel's memory.
 */
#include <linux/slab.h>

#include "hf.h"

static DEFINE_MUTEX(hf_users_lock);
static LIST_HEAD(hf_users);

static struct hf_user *find(kuid_t uid)
{
	struct hf_user *u;

	list_for_each_entry(u, &hf_users, node)
		if (uid_eq(u->uid, uid))
			return u;
	return NULL;
}

static struct hf_user *make(kuid_t uid)
{
	struct hf_user *u = hf_fails() ? NULL : kzalloc(sizeof(*u), GFP_KERNEL_ACCOUNT);

	if (!u)
		return NULL;
	refcount_set(&u->refs, 1);
	u->uid = uid;
	list_add(&u->node, &hf_users);
	return u;
}

/* refs: one for being in the list while something is open, one for each charge. */
static void put(struct hf_user *u)
{
	if (refcount_dec_and_test(&u->refs))
		kfree(u);
}

/* hf_users_lock is held. With nothing open it leaves the list. */
static void leave_if_idle(struct hf_user *u)
{
	if (u->opens)
		return;
	list_del(&u->node);
	put(u);
}

struct hf_user *hf_user_open(kuid_t uid)
{
	struct hf_user *u;

	mutex_lock(&hf_users_lock);
	u = find(uid);
	if (!u)
		u = make(uid);
	if (!u) {
		u = ERR_PTR(-ENOMEM);
	} else if (u->opens < READ_ONCE(hf_max_opens)) {
		u->opens++;
	} else {
		leave_if_idle(u);
		u = ERR_PTR(-EDQUOT);
	}
	mutex_unlock(&hf_users_lock);
	return u;
}

void hf_user_close(struct hf_user *u)
{
	mutex_lock(&hf_users_lock);
	u->opens--;
	leave_if_idle(u);
	mutex_unlock(&hf_users_lock);
}

/* One range more, or NULL at the limit. */
struct hf_user *hf_user_charge(struct hf_user *u)
{
	if (atomic_inc_return(&u->ranges) > READ_ONCE(hf_max_ranges)) {
		atomic_dec(&u->ranges);
		return NULL;
	}
	refcount_inc(&u->refs);
	return u;
}

void hf_user_uncharge(struct hf_user *u)
{
	atomic_dec(&u->ranges);
	put(u);
}
