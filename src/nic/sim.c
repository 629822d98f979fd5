/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * `sim`: a NIC that pins nothing, counts everything, and aborts on what must never happen. Registrations are
 * slots of a table; a key is slot and generation, so that a stale key is known for what it is.
 */
#include <errno.h>
#include <holdfast/sim.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "../os.h"
#include "nic.h"

struct slot {
	uint64_t addr, len;
	uint32_t generation; /* odd while registered */
	uint32_t next_free;
	uint32_t busy;       /* transfers by hf_sim_begin() */
};

struct sim {
	struct hf_sim *steer;
	struct hf_sim own;
	pthread_mutex_t lock;
	struct slot *slots;
	uint32_t count, room, free; /* free: index + 1 */
};

static int sim_open(const char *arg, void *config, void **nic)
{
	struct sim *s;

	if (arg)
		return hf_set_error(-EINVAL, "sim takes no argument ('%s'): steer it through struct hf_sim",
				    arg);
	s = os_calloc(1, sizeof(*s));
	if (!s)
		return hf_set_error(-ENOMEM, "no memory for the sim NIC");
	s->steer = config ? config : &s->own;
	pthread_mutex_init(&s->lock, NULL);
	*nic = s;
	return 0;
}

static void die(const char *what, uint64_t addr, uint64_t len, uint64_t key)
{
	fprintf(stderr, "holdfast sim: %s: key 0x%" PRIx64 " for 0x%" PRIx64 " + %" PRIu64 " bytes\n", what,
		key, addr, len);
	abort();
}

static void sim_close(void *nic)
{
	struct sim *s = nic;

	for (uint32_t i = 0; i < s->count; i++)
		if (s->slots[i].generation & 1)
			die("closed with a registration left", s->slots[i].addr, s->slots[i].len, i);
	pthread_mutex_destroy(&s->lock);
	free(s->slots);
	free(s);
}

/* Counts down; true when this is the one. */
static bool strikes(_Atomic int64_t *in)
{
	return atomic_load(in) > 0 && atomic_fetch_sub(in, 1) == 1;
}

static int over_limit(struct hf_sim *c, uint64_t len)
{
	uint64_t bytes = atomic_load(&c->limit_bytes);
	uint64_t count = atomic_load(&c->limit_count);

	if (bytes && atomic_load(&c->live_bytes) + len > bytes)
		return hf_set_error(-ENOMEM, "sim: limit_bytes=%" PRIu64 " is reached", bytes);
	if (count && atomic_load(&c->live) + 1 > count)
		return hf_set_error(-ENOMEM, "sim: limit_count=%" PRIu64 " is reached", count);
	return 0;
}

/* lock held */
static struct slot *take_slot(struct sim *s)
{
	struct slot *more;
	uint32_t room;

	if (s->free) {
		struct slot *slot = &s->slots[s->free - 1];

		s->free = slot->next_free;
		return slot;
	}
	if (s->count == s->room) {
		room = s->room ? 2 * s->room : 64;
		more = realloc(s->slots, room * sizeof(*more));
		if (!more)
			return NULL;
		s->slots = more;
		s->room = room;
	}
	s->slots[s->count] = (struct slot){ 0 };
	return &s->slots[s->count++];
}

static int enter(struct sim *s, uint64_t addr, uint64_t len, struct hf_nic_reg *out)
{
	struct hf_sim *c = s->steer;
	struct slot *slot;
	uint64_t bytes;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = over_limit(c, len);
	slot = rc ? NULL : take_slot(s);
	if (slot) {
		slot->addr = addr;
		slot->len = len;
		slot->generation++;
		out->lkey = (uint64_t)slot->generation << 32 | (uint32_t)(slot - s->slots);
		out->rkey = out->lkey ^ 0x5a5a5a5a;
		atomic_fetch_add(&c->regs, 1);
		atomic_fetch_add(&c->live, 1);
		bytes = atomic_fetch_add(&c->live_bytes, len) + len;
		if (bytes > atomic_load(&c->peak_bytes))
			atomic_store(&c->peak_bytes, bytes);
	}
	pthread_mutex_unlock(&s->lock);
	return slot ? 0 : rc ? rc : hf_set_error(-ENOMEM, "sim: no memory for a slot");
}

static int sim_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	struct sim *s = nic;
	struct hf_sim *c = s->steer;
	uint32_t delay = atomic_load(&c->reg_delay_us);
	int err = atomic_load(&c->reg_errno);
	int rc;

	if (c->on_reg)
		c->on_reg(c->arg, addr, len);
	if (delay)
		os_sleep_us(delay);
	if (FAULT("nic reg"))
		return hf_set_error(-EIO, "sim: a fault was injected");
	if (strikes(&c->fail_reg_in))
		return hf_set_error(err ? -err : -ENOMEM, "sim: told to fail this registration");
	rc = enter(s, addr, len, out);
	if (!rc && c->after_reg)
		c->after_reg(c->arg, addr, len);
	return rc;
}

/* lock held: the slot that a key names, or abort. */
static struct slot *slot_of(struct sim *s, uint64_t addr, uint64_t len, uint64_t key, const char *what)
{
	uint32_t i = (uint32_t)key;

	if (i >= s->count || s->slots[i].generation != (uint32_t)(key >> 32) ||
	    !(s->slots[i].generation & 1) || addr < s->slots[i].addr ||
	    addr + len > s->slots[i].addr + s->slots[i].len)
		die(what, addr, len, key);
	return &s->slots[i];
}

static int sim_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	struct sim *s = nic;
	struct hf_sim *c = s->steer;
	uint32_t delay = atomic_load(&c->dereg_delay_us);
	struct slot *slot;

	if (delay)
		os_sleep_us(delay);
	if (strikes(&c->fail_dereg_in)) {
		/* The slot is given up: the NIC is closed with it. */
		pthread_mutex_lock(&s->lock);
		slot_of(s, addr, len, reg->lkey, "deregistered a stale key")->generation++;
		pthread_mutex_unlock(&s->lock);
		return hf_set_error(-EIO, "sim: told to fail this deregistration");
	}
	pthread_mutex_lock(&s->lock);
	slot = slot_of(s, addr, len, reg->lkey, "deregistered a stale key");
	if (slot->busy)
		die("deregistered while a transfer uses it", addr, len, reg->lkey);
	slot->generation++;
	slot->next_free = s->free;
	s->free = (uint32_t)(slot - s->slots) + 1;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_add(&c->deregs, 1);
	atomic_fetch_sub(&c->live, 1);
	atomic_fetch_sub(&c->live_bytes, len);
	return 0;
}

static void touch(const struct hf_region *r, uint64_t addr, uint64_t len, int more)
{
	struct sim *s = hf_provider_nic(r->provider);

	pthread_mutex_lock(&s->lock);
	slot_of(s, addr, len, r->lkey, "used a stale key")->busy += (uint32_t)more;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_add(&s->steer->uses, 1);
}

void hf_sim_use(const struct hf_region *r, const void *addr, size_t len)
{
	touch(r, (uint64_t)(uintptr_t)addr, len, 0);
}

void hf_sim_begin(const struct hf_region *r)
{
	touch(r, r->addr, r->length, 1);
}

void hf_sim_end(const struct hf_region *r)
{
	touch(r, r->addr, r->length, -1);
}

const struct hf_nic_ops hf_nic_sim = {
	.size = sizeof(struct hf_nic_ops),
	.abi = HF_BACKEND_ABI,
	.name = "sim",
	.open = sim_open,
	.close = sim_close,
	.reg = sim_reg,
	.dereg = sim_dereg,
};
