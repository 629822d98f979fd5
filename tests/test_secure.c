/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Ranges that the program secures by itself (MmSecureVirtualMemory, R37 to R39): told in part and in whole, each by
 * itself, never after the release. Under `manual` the program says what changes, under `uffd` the kernel does.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "switch.h"

#define PAGES 64
#define MANY 3000
#define PATIENCE_MS 600000 /* for what must come, however slow the machine is */

static const char *proxy;
static size_t page;

struct rig {
	struct hf_switch *sw;
	char *mem; /* PAGES */
};

static bool is_uffd(void)
{
	return !strcmp(proxy, "uffd");
}

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));
	char options[32];

	snprintf(options, sizeof(options), "proxy=%s", proxy);
	g->sw = check_switch(options);
	g->mem = check_map(PAGES * page);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	check_ok(hf_switch_close(g->sw)); /* nothing is secured */
	check_unmap(g->mem, PAGES * page);
	free(g);
	return 0;
}

static char *at(struct rig *g, unsigned n)
{
	return g->mem + n * page;
}

/* Pages [first, first + n) are replaced by others, as the proxy learns it. */
static void change(struct rig *g, unsigned first, unsigned n)
{
	void *p;

	if (!is_uffd()) {
		assert_int_equal(hf_invalidate(g->sw, at(g, first), n * page), 0);
		return;
	}
	p = mmap(at(g, first), n * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(p, at(g, first));
	while (switch_settle(g->sw, PARTS_ALL)) /* told by another thread: all is told when it rests */
		;
}

/* What a callback was told. It allocates nothing, as it must. */
struct told {
	_Atomic unsigned times;
	char *addr;
	size_t len;
};

static void tell(void *arg, void *addr, size_t len)
{
	struct told *t = arg;

	t->addr = addr;
	t->len = len;
	atomic_fetch_add(&t->times, 1);
}

static uint64_t secure(struct rig *g, unsigned first, unsigned n, struct told *t)
{
	uint64_t id = 0;
	int rc = -EAGAIN;

	for (int i = 0; i < 10000 && rc == -EAGAIN; i++)
		rc = hf_secure(g->sw, at(g, first), n * page, HF_READWRITE | HF_NOTIFY, t ? tell : NULL, t, &id);
	check_ok(rc);
	assert_int_not_equal(id, 0);
	return id;
}

static void check_told(struct rig *g, const struct told *t, unsigned times, unsigned first, unsigned n)
{
	assert_int_equal(t->times, times);
	assert_ptr_equal(t->addr, at(g, first));
	assert_int_equal(t->len, n * page);
}

static void bad_arguments(void **state)
{
	static const struct { unsigned flags; int rc; const char *says; } bad[] = {
		{ 0, -EINVAL, "flags" },
		{ HF_READ, -EINVAL, "flags" },
		{ HF_NOTIFY, -EINVAL, "flags" },
		{ HF_WRITE | HF_NOTIFY, -EINVAL, "flags" },
		{ HF_READ | HF_NOTIFY | 0x40, -EINVAL, "0x51" },
		{ ~0u, -EINVAL, "flags" },
		{ HF_READ | HF_DENY, -ENOTSUP, "HF_DENY" },
		{ HF_READWRITE | HF_DENY | HF_NOTIFY, -ENOTSUP, "refuse" },
	};
	const unsigned good = HF_READ | HF_NOTIFY;
	struct rig *g = *state;
	uint64_t id = 77;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		check_error(hf_secure(g->sw, g->mem, page, bad[i].flags, NULL, NULL, &id), bad[i].rc, bad[i].says);
	check_error(hf_secure(NULL, g->mem, page, good, NULL, NULL, &id), -EINVAL, "switch");
	check_error(hf_secure(g->sw, g->mem, page, good, NULL, NULL, NULL), -EINVAL, "id");
	check_error(hf_secure(g->sw, g->mem, 0, good, NULL, NULL, &id), -EINVAL, "length");
	check_error(hf_secure(g->sw, g->mem, SIZE_MAX, good, NULL, NULL, &id), -EINVAL, "wraps");
	check_error(hf_secure(g->sw, g->mem, (UINT32_MAX + 1ul) * page, good, NULL, NULL, &id), -EINVAL, "at most");
	check_error(hf_secure(g->sw, NULL, page, good, NULL, NULL, &id), -EFAULT, "mapped");
	check_error(hf_secure(g->sw, (void *)0xffff800000000000, page, good, NULL, NULL, &id), -EFAULT, "mapped");
	check_error(hf_secured_changed(NULL, 1), -EINVAL, "switch");
	check_error(hf_unsecure(NULL, 1), -EINVAL, "switch");
	assert_int_equal(id, 77);
}

static void unknown_ids(void **state)
{
	static const uint64_t ids[] = { 0, 1, 1ull << 32, 1ull << 32 | 255, 1ull << 32 | 256, 3ull << 32, UINT64_MAX,
					UINT32_MAX, UINT64_MAX << 32 };
	struct rig *g = *state;
	uint64_t id = 0;

	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
			if (round && ids[i] == id)
				continue;
			check_error(hf_secured_changed(g->sw, ids[i]), -EINVAL, "id");
			check_error(hf_unsecure(g->sw, ids[i]), -EINVAL, "id");
		}
		id = round ? id : secure(g, 0, 1, NULL);
	}
	check_ok(hf_unsecure(g->sw, id));
}

static void what_must_be_there(void **state)
{
	struct rig *g = *state;
	uint64_t id;

	mprotect(at(g, 1), page, PROT_READ);
	munmap(at(g, 3), page);
	check_error(hf_secure(g->sw, at(g, 3), page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -EFAULT, "mapped");
	check_error(hf_secure(g->sw, at(g, 2), 2 * page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -EFAULT, "mapped");
	check_error(hf_secure(g->sw, at(g, 1), page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id), -EACCES, "read-only");
	check_error(hf_secure(g->sw, at(g, 0), 2 * page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id), -EACCES,
		    "read-only");
	check_ok(hf_unsecure(g->sw, secure(g, 0, 1, NULL))); /* beside them all is well */
}

/* A proxy that can't see every change of such memory says so (I6). */
static void what_cannot_be_watched(void **state)
{
	struct rig *g = *state;
	char *shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t id = 0;
	int rc = hf_secure(g->sw, shared, page, HF_READWRITE | HF_NOTIFY, NULL, NULL, &id);

	if (is_uffd()) {
		check_error(rc, -EOPNOTSUPP, "shared memory");
		mprotect(at(g, 1), page, PROT_READ);
		check_error(hf_secure(g->sw, at(g, 1), page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -EOPNOTSUPP,
			    "read-only");
	} else {
		check_ok(rc); /* the program itself will say what it changes */
		check_ok(hf_unsecure(g->sw, id));
	}
	munmap(shared, page);
}

static void no_proxy(void **state)
{
	struct hf_switch *sw = check_switch("proxy=none");
	struct rig *g = *state;
	uint64_t id;

	check_error(hf_secure(sw, g->mem, page, HF_READ | HF_NOTIFY, NULL, NULL, &id), -EOPNOTSUPP, "proxy");
	check_ok(hf_switch_close(sw));
}

/* Told by the callback and by asking; the part that changed, no more. */
static void told_what_changed(void **state)
{
	struct rig *g = *state;
	struct told t = { 0 };
	uint64_t id = secure(g, 10, 10, &t);

	assert_int_equal(hf_secured_changed(g->sw, id), 0);
	change(g, 8, 2); /* up to it */
	change(g, 20, 2); /* from its end on */
	assert_int_equal(t.times, 0);
	assert_int_equal(hf_secured_changed(g->sw, id), 0);
	change(g, 12, 3);
	check_told(g, &t, 1, 12, 3);
	assert_int_equal(hf_secured_changed(g->sw, id), 1);
	assert_int_equal(hf_secured_changed(g->sw, id), 1); /* asking doesn't clear it */
	check_ok(hf_unsecure(g->sw, id));
}

/* A change that goes beyond it is told as what is inside. */
static void told_is_clipped(void **state)
{
	static const struct { unsigned first, n, change_first, change_n, told_first, told_n; } want[] = {
		{ 10, 10, 8, 4, 10, 2 }, { 24, 8, 30, 4, 30, 2 }, { 40, 8, 38, 12, 40, 8 },
	};
	struct rig *g = *state;

	for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct told t = { 0 };
		uint64_t id = secure(g, want[i].first, want[i].n, &t);

		change(g, want[i].change_first, want[i].change_n);
		check_told(g, &t, 1, want[i].told_first, want[i].told_n);
		check_ok(hf_unsecure(g->sw, id));
	}
}

/* Requests are rounded to pages, as registrations are. */
static void whole_pages(void **state)
{
	struct rig *g = *state;
	struct told t = { 0 };
	uint64_t id = 0;

	check_ok(hf_secure(g->sw, at(g, 10) + 100, page, HF_READ | HF_NOTIFY, tell, &t, &id));
	change(g, 0, PAGES);
	check_told(g, &t, 1, 10, 2);
	check_ok(hf_unsecure(g->sw, id));
}

/* Ranges that overlap are told each by itself, and only those that the change touches. */
static void overlapping(void **state)
{
	struct rig *g = *state;
	struct told t[4] = { { 0 } };
	uint64_t id[4] = { secure(g, 0, 8, &t[0]), secure(g, 4, 8, &t[1]), secure(g, 4, 8, &t[2]),
			   secure(g, 5, 1, &t[3]) };

	change(g, 6, 4);
	check_told(g, &t[0], 1, 6, 2);
	check_told(g, &t[1], 1, 6, 4);
	check_told(g, &t[2], 1, 6, 4);
	assert_int_equal(t[3].times, 0);
	/* One goes, the others are told as before. */
	check_ok(hf_unsecure(g->sw, id[1]));
	change(g, 5, 1);
	assert_int_equal(t[1].times, 1);
	check_told(g, &t[0], 2, 5, 1);
	check_told(g, &t[2], 2, 5, 1);
	check_told(g, &t[3], 1, 5, 1);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(hf_unsecure(g->sw, id[i]), i == 1 ? -EINVAL : 0);
}

/* More on one page than a look into the index brings: each is told, those beside are not. */
static void crowd(struct rig *g, unsigned step)
{
	static struct told t[100], beside;
	static uint64_t id[100];
	uint64_t aside;

	memset(t, 0, sizeof(t));
	beside.times = 0;
	aside = secure(g, 0, 2, &beside);
	for (unsigned i = 0; i < 100; i++)
		id[i] = secure(g, step * i / 4, PAGES - step * i / 4, &t[i]);
	change(g, 30, 2);
	for (unsigned i = 0; i < 100; i++)
		check_told(g, &t[i], 1, 30, 2);
	assert_int_equal(beside.times, 0);
	assert_int_equal(hf_secured_changed(g->sw, aside), 0);
	check_ok(hf_unsecure(g->sw, aside));
	for (unsigned i = 0; i < 100; i++)
		check_ok(hf_unsecure(g->sw, id[i]));
}

static void a_hundred_on_one_page(void **state)
{
	crowd(*state, 0); /* all begin where one begins */
	crowd(*state, 1); /* ... four at each page */
}

static void release(void **state)
{
	struct rig *g = *state;
	struct told t = { 0 };
	uint64_t id = secure(g, 0, 4, &t);

	check_ok(hf_unsecure(g->sw, id));
	change(g, 0, 4);
	assert_int_equal(t.times, 0);
	check_error(hf_unsecure(g->sw, id), -EINVAL, "unsecured already");
	check_error(hf_secured_changed(g->sw, id), -EINVAL, "id");
}

/* The place of one that was released is taken by others: the old id stays unknown. */
static void stale_id(void **state)
{
	struct rig *g = *state;
	uint64_t old = secure(g, 0, 1, NULL);
	uint64_t id;

	check_ok(hf_unsecure(g->sw, old));
	for (unsigned i = 0; i < 100; i++) {
		id = secure(g, 0, 1, NULL);
		assert_int_not_equal(id, old);
		assert_int_equal((uint32_t)id, (uint32_t)old); /* it is the same place */
		check_error(hf_unsecure(g->sw, old), -EINVAL, "id");
		check_error(hf_secured_changed(g->sw, old), -EINVAL, "id");
		check_ok(hf_unsecure(g->sw, id));
		check_error(hf_unsecure(g->sw, id), -EINVAL, "id");
		old = id;
	}
}

static void close_with_secured(void **state)
{
	struct rig *g = *state;
	struct told t = { 0 };
	uint64_t id = secure(g, 0, 4, &t), second = secure(g, 2, 4, NULL);

	check_error(hf_switch_close(g->sw), -EBUSY, "2 ranges are secured");
	check_ok(hf_unsecure(g->sw, second));
	check_error(hf_switch_close(g->sw), -EBUSY, "1 ranges are secured");
	change(g, 1, 1); /* still watched */
	check_told(g, &t, 1, 1, 1);
	check_ok(hf_unsecure(g->sw, id));
}

static void many(void **state)
{
	static struct told t[MANY];
	static uint64_t id[MANY];
	struct rig *g = *state;

	memset(t, 0, sizeof(t));
	for (unsigned i = 0; i < MANY; i++)
		id[i] = secure(g, i % PAGES, 1, &t[i]);
	change(g, 7, 2);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(t[i].times, i % PAGES == 7 || i % PAGES == 8);
		assert_int_equal(hf_secured_changed(g->sw, id[i]), t[i].times);
	}
	/* Released in another order than secured. */
	for (unsigned i = 0; i < MANY; i++)
		check_ok(hf_unsecure(g->sw, id[i * 7 % MANY]));
	change(g, 0, PAGES);
	for (unsigned i = 0; i < MANY; i++)
		assert_true(t[i].times <= 1);
}

/* A change of memory that is cached as well: both are told. */
static void secured_and_registered(void **state)
{
	struct rig *g = *state;
	struct hf_provider *p = check_sim(g->sw, NULL, NULL);
	struct told t = { 0 };
	uint64_t id = secure(g, 0, 4, &t);

	check_touch(p, at(g, 0), 4 * page, HF_READWRITE);
	if (is_uffd())
		change(g, 2, 1);
	else
		assert_int_equal(hf_invalidate(g->sw, at(g, 2), page), 1);
	check_told(g, &t, 1, 2, 1);
	assert_int_equal(check_stats(p).invalidations, 1);
	assert_int_equal(check_touch(p, at(g, 0), page, HF_READ), HF_REGION_CACHED);
	check_ok(hf_unsecure(g->sw, id));
	/* Released: the cache goes on. */
	assert_int_equal(check_touch(p, at(g, 0), page, HF_READ), HF_REGION_HIT | HF_REGION_CACHED);
	check_ok(hf_provider_close(p));
}

/* A callback that runs all the time never runs after the release, and sees what it was given. */
struct racer {
	struct rig *g;
	pthread_t id;
	_Atomic bool stop;
};

static void *changer(void *arg)
{
	struct racer *r = arg;

	while (!atomic_load(&r->stop)) {
		if (is_uffd())
			madvise(at(r->g, 0), 4 * page, MADV_DONTNEED);
		else
			hf_invalidate(r->g->sw, at(r->g, 0), 4 * page);
	}
	return NULL;
}

struct guarded {
	_Atomic bool released;
	_Atomic unsigned times, late;
};

static void guarded_tell(void *arg, void *addr, size_t len)
{
	struct guarded *t = arg;

	atomic_fetch_add(&t->times, 1);
	if (atomic_load(&t->released))
		atomic_fetch_add(&t->late, 1);
}

static void never_after_the_release(void **state)
{
	struct rig *g = *state;
	struct racer r = { .g = g };
	struct guarded t = { 0 };
	uint64_t id, began = check_now_ms();
	unsigned done = 0;

	assert_int_equal(pthread_create(&r.id, NULL, changer, &r), 0);
	while ((done < 100 && check_now_ms() - began < 5000) || (!t.times && check_now_ms() - began < PATIENCE_MS)) {
		atomic_store(&t.released, false);
		/* The range changes all the time: -EAGAIN is the honest answer to most, and that the kernel refuses it to a few. */
		int rc = hf_secure(g->sw, at(g, 0), 4 * page, HF_READWRITE | HF_NOTIFY, guarded_tell, &t, &id);

		assert_true(!rc || rc == -EAGAIN || rc == -EOPNOTSUPP);
		if (!rc) {
			/* Once it has to be told while it is secured, whoever is scheduled when. */
			do
				sched_yield();
			while (!t.times && check_now_ms() - began < PATIENCE_MS);
			check_ok(hf_unsecure(g->sw, id));
			done++;
		}
		atomic_store(&t.released, true);
	}
	atomic_store(&r.stop, true);
	pthread_join(r.id, NULL);
	assert_true(t.times > 0);
	assert_int_equal(t.late, 0);
}

/* ------------------------------------------------------------------ a forked child */

struct child {
	struct rig *g;
	uint64_t id;
	struct told *t;
};

static int child_main(void *arg)
{
	struct child *c = arg;
	uint64_t other;

	alarm(600);
	CHILD_CHECK(hf_unsecure(c->g->sw, c->id) == -EOWNERDEAD);
	CHILD_CHECK(hf_secured_changed(c->g->sw, c->id) == -EOWNERDEAD);
	CHILD_CHECK(hf_secure(c->g->sw, at(c->g, 0), page, HF_READ | HF_NOTIFY, tell, c->t, &other) == -EOWNERDEAD);
	CHILD_CHECK(hf_switch_close(c->g->sw) == -EOWNERDEAD);
	CHILD_CHECK(munmap(at(c->g, 0), PAGES * page) == 0);
	CHILD_CHECK(c->t->times == 0);
	return 0;
}

static void forked_child(void **state)
{
	struct rig *g = *state;
	struct told t = { 0 };
	struct child c = { .g = g, .id = secure(g, 0, 4, &t), .t = &t };

	assert_int_equal(check_child(child_main, &c), 0);
	assert_int_equal(hf_secured_changed(g->sw, c.id), 0);
	assert_int_equal(t.times, 0);
	change(g, 1, 1);
	check_told(g, &t, 1, 1, 1);
	check_ok(hf_unsecure(g->sw, c.id));
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static const struct CMUnitTest tests[] = {
	WITH_RIG(bad_arguments), WITH_RIG(unknown_ids), WITH_RIG(what_must_be_there),
	WITH_RIG(what_cannot_be_watched), WITH_RIG(no_proxy), WITH_RIG(told_what_changed),
	WITH_RIG(told_is_clipped), WITH_RIG(whole_pages), WITH_RIG(overlapping),
	WITH_RIG(a_hundred_on_one_page), WITH_RIG(release), WITH_RIG(stale_id), WITH_RIG(close_with_secured),
	WITH_RIG(many), WITH_RIG(secured_and_registered), WITH_RIG(never_after_the_release),
	WITH_RIG(forked_child),
};

int main(void)
{
	struct hf_switch *sw;
	int failed;

	unsetenv("HOLDFAST");
	page = check_page();
	proxy = "manual";
	failed = cmocka_run_group_tests_name("secure, proxy manual", tests, NULL, NULL);
	if (hf_switch_open("proxy=uffd", &sw)) {
		print_message("skipped with the proxy uffd: %s\n", hf_error());
		return failed;
	}
	hf_switch_close(sw);
	proxy = "uffd";
	return failed + cmocka_run_group_tests_name("secure, proxy uffd", tests, NULL, NULL);
}
