/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * pthread_cancel() while a public call runs: a NIC, and a cancellation that is pending before the call. It takes effect
 * when the call has returned, and nothing is left behind.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

#include "provider.h"

static size_t page;

struct rig {
	struct hf_switch *sw;
	struct hf_provider *p;
	char *mem;
	struct hf_region held;
	uint64_t id;
	int rc;          /* of the call */
	bool returned;   /* the call has */
};

/* ------------------------------------------------------------------ a NIC whose every call is a cancellation point */

static _Atomic int live;

static int nic_open(const char *arg, void *config, void **nic)
{
	pthread_testcancel();
	*nic = (void *)&live;
	return 0;
}

static void nic_close(void *nic)
{
	pthread_testcancel();
}

static int nic_reg(void *nic, uint64_t start, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	pthread_testcancel();
	atomic_fetch_add(&live, 1);
	pthread_testcancel();
	return 0;
}

static int nic_dereg(void *nic, uint64_t start, uint64_t len, const struct hf_nic_reg *reg)
{
	pthread_testcancel();
	atomic_fetch_sub(&live, 1);
	pthread_testcancel();
	return 0;
}

static const struct hf_nic_ops nic = {
	.abi = HF_BACKEND_ABI, .size = sizeof(nic), .name = "cancels",
	.open = nic_open, .close = nic_close, .reg = nic_reg, .dereg = nic_dereg,
};

/* ------------------------------------------------------------------ the calls */

static int do_miss(struct rig *g)
{
	return hf_get(g->p, g->mem + 2 * page, page, HF_READ, &g->held);
}

static int do_miss_unchecked(struct rig *g)
{
	return hf_get_unchecked(g->p, g->mem + 2 * page, page, HF_READ, &g->held);
}

static int do_put(struct rig *g)
{
	return hf_put(g->p, &g->held);
}

static int do_sync(struct rig *g)
{
	return hf_sync(g->p);
}

static int do_flush(struct rig *g)
{
	return hf_flush(g->p);
}

static int do_stats(struct rig *g)
{
	struct hf_stats s;

	return hf_provider_stats(g->p, &s, sizeof(s));
}

static int do_invalidate(struct rig *g)
{
	return hf_invalidate(g->sw, g->mem, 4 * page);
}

static int do_release(struct rig *g)
{
	return hf_release(g->sw, g->mem, 4 * page);
}

static void changed(void *arg, void *addr, size_t len)
{
	pthread_testcancel();
}

static int do_secure(struct rig *g)
{
	return hf_secure(g->sw, g->mem, page, HF_READ | HF_NOTIFY, changed, NULL, &g->id);
}

static int do_secured_changed(struct rig *g)
{
	return hf_secured_changed(g->sw, g->id);
}

static int do_unsecure(struct rig *g)
{
	uint64_t id = g->id;

	g->id = 0;
	return hf_unsecure(g->sw, id);
}

static int do_close(struct rig *g)
{
	struct hf_provider *p = g->p;

	g->p = NULL;
	return hf_provider_close(p);
}

static int do_open(struct rig *g)
{
	return hf_provider_open_nic(g->sw, &nic, NULL, NULL, &g->p);
}

static int do_switch_close(struct rig *g)
{
	struct hf_switch *sw = g->sw;

	g->sw = NULL;
	return hf_switch_close(sw);
}

static int do_switch_open(struct rig *g)
{
	return hf_switch_open("proxy=manual", &g->sw);
}

struct work {
	struct rig *g;
	int (*call)(struct rig *g);
};

/* Cancelled before the call begins; deferred, so that only a cancellation point obeys. */
static void *call_main(void *arg)
{
	struct work *w = arg;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pthread_cancel(pthread_self());
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	w->g->rc = w->call(w->g);
	w->g->returned = true;
	pthread_testcancel();
	return NULL;
}

static void cancelled(struct rig *g, int (*call)(struct rig *g))
{
	struct work w = { g, call };
	pthread_t t;
	void *answer;

	g->returned = false;
	assert_int_equal(pthread_create(&t, NULL, call_main, &w), 0);
	pthread_join(t, &answer);
	assert_ptr_equal(answer, PTHREAD_CANCELED);
	assert_true(g->returned);
	check_ok(g->rc);
}

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	do_switch_open(g);
	check_ok(do_open(g));
	g->mem = check_map(4 * page);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	check_close(g->sw, g->p);
	assert_int_equal(atomic_load(&live), 0);
	check_unmap(g->mem, 4 * page);
	free(g);
	return 0;
}

static void a_miss(void **state)
{
	struct rig *g = *state;

	for (int i = 0; i < 2; i++) {
		cancelled(g, i ? do_miss_unchecked : do_miss);
		check_touch(g->p, g->mem + 2 * page, page, HF_READ); /* waits for nobody */
		cancelled(g, do_put);
		cancelled(g, do_release);
		assert_int_equal(atomic_load(&live), 0);
	}
}

static void a_put_that_deregisters(void **state)
{
	struct rig *g = *state;

	check_ok(hf_provider_close(g->p));
	check_ok(hf_provider_open_nic(g->sw, &nic, NULL, "cache=off", &g->p));
	cancelled(g, do_miss);
	assert_int_equal(atomic_load(&live), 1);
	cancelled(g, do_put);
	assert_int_equal(atomic_load(&live), 0);
}

static void what_takes_away(void **state)
{
	struct rig *g = *state;

	check_touch(g->p, g->mem, page, HF_READ);
	cancelled(g, do_sync);
	cancelled(g, do_stats);
	cancelled(g, do_flush);
	assert_int_equal(g->rc, 1);
	check_touch(g->p, g->mem, page, HF_READ);
	cancelled(g, do_invalidate);
	assert_int_equal(g->rc, 1);
	check_touch(g->p, g->mem, page, HF_READ);
	cancelled(g, do_release);
	assert_int_equal(g->rc, 1);
}

static void securing(void **state)
{
	struct rig *g = *state;

	cancelled(g, do_secure);
	cancelled(g, do_invalidate); /* runs the notification */
	cancelled(g, do_secured_changed);
	assert_int_equal(g->rc, 1);
	cancelled(g, do_unsecure);
}

static void open_and_close(void **state)
{
	struct rig *g = *state;

	check_touch(g->p, g->mem, page, HF_READ);
	cancelled(g, do_close);
	cancelled(g, do_switch_close);
	cancelled(g, do_switch_open);
	cancelled(g, do_open);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_RIG(a_miss),
		WITH_RIG(a_put_that_deregisters),
		WITH_RIG(what_takes_away),
		WITH_RIG(securing),
		WITH_RIG(open_and_close),
	};

	page = check_page();
	alarm(300); /* a hang */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
