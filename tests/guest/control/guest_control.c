// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Does wrong, one thing at a time, on purpose: insmod guest_control.ko what=warn. The guest testbed must notice each.
 */
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>

static char *what = "";
module_param(what, charp, 0);

static void warn(void)
{
	WARN(1, "guest_control warns, as it was told\n");
}

/* A byte behind the object, which fills its place (6.1 has no red zone within one): only the red zone notices, at the free. */
static void overrun(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	if (!p)
		return;
	OPTIMIZER_HIDE_VAR(p);
	p[64] = 1;
	kfree(p);
}

/* Into an object that is free: only its poison notices, when the cache is looked through or it is given out again. */
static void after_free(void)
{
	char *p = kmalloc(40, GFP_KERNEL);

	if (!p)
		return;
	kfree(p);
	OPTIMIZER_HIDE_VAR(p);
	p[16] = 1;
}

/* A page of whoever loads this is never let go. */
static void pin(void)
{
	struct page *page;

	if (pin_user_pages_fast(current->mm->start_stack & PAGE_MASK, 1, FOLL_WRITE | FOLL_LONGTERM, &page) != 1)
		pr_err("guest_control: can't pin\n");
}

static const struct {
	const char *name;
	void (*wrong)(void);
} wrongs[] = { { "warn", warn }, { "overrun", overrun }, { "after-free", after_free }, { "pin", pin } };

static int __init guest_control_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(wrongs); i++) {
		if (strcmp(what, wrongs[i].name))
			continue;
		wrongs[i].wrong();
		return 0;
	}
	return -EINVAL;
}

static void __exit guest_control_exit(void)
{
}

module_init(guest_control_init);
module_exit(guest_control_exit);
MODULE_DESCRIPTION("Faults for the guest testbed to notice");
MODULE_LICENSE("Dual BSD/GPL");
