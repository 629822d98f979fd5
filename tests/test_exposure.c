/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Exposures (src/san/exposure.h): a descriptor opens exactly the bytes and the rights that it was made for (R15, R17), on
 * its connection only (R10), until it is revoked (R28). Whatever else a peer sends opens nothing: hazard 40, known faults
 * 3 and 4.
 */
#include "check.h"

#include <errno.h>
#include <stdlib.h>

#include "os.h"
#include "san/exposure.h"

#define SIZE WIRE_DESCRIPTOR_SIZE
#define LIVE 64u
#define REVOKED 1024u
#define TRIES (CHECK_TSAN ? 120000u : 1200000u) /* one thread: no race is sought here */

struct shown {
	uint64_t addr, len;
	unsigned rights;
	uint32_t slot;
	uint8_t descriptor[SIZE];
};

static struct shown add(struct exposures *x, uint64_t addr, uint64_t len, unsigned rights)
{
	struct shown s = { .addr = addr, .len = len, .rights = rights };

	check_ok(exposures_add(x, addr, len, rights, (void *)(uintptr_t)(addr + 1), &s.slot, s.descriptor));
	return s;
}

static int check(const struct exposures *x, const uint8_t *descriptor, unsigned right, uint64_t offset, uint64_t len)
{
	uint64_t addr = 7;
	void *owner = &addr;
	int rc = exposures_check(x, descriptor, right, offset, len, &addr, &owner);

	if (rc) {
		assert_int_equal(addr, 0);
		assert_null(owner);
	}
	return rc;
}

static uint64_t end_of(const uint8_t *d)
{
	uint64_t v;

	memcpy(&v, d + SIZE - sizeof(v), sizeof(v));
	return v;
}

/* What is easiest to be given: no bytes, from the start. */
static bool is_accepted(const struct exposures *x, const uint8_t *descriptor)
{
	return !check(x, descriptor, HF_READ, 0, 0) || !check(x, descriptor, HF_WRITE, 0, 0) ||
	       exposures_find(x, descriptor) >= 0;
}

/* ------------------------------------------------------------------ what is accepted */

/* R15, R17, known fault 3: to the byte, whatever the larger registration allows. */
static void exactly_these_bytes(void **state)
{
	struct exposures x;
	struct shown s;
	uint64_t addr;
	void *owner;

	exposures_init(&x);
	s = add(&x, 0x7000, 100, HF_READWRITE);
	assert_int_equal(exposures_check(&x, s.descriptor, HF_READ, 0, 100, &addr, &owner), 0);
	assert_int_equal(addr, 0x7000);
	assert_int_equal((uintptr_t)owner, 0x7001);
	assert_int_equal(exposures_check(&x, s.descriptor, HF_WRITE, 99, 1, &addr, &owner), 0);
	assert_int_equal(addr, 0x7000 + 99);
	assert_int_equal(check(&x, s.descriptor, HF_READ, 100, 0), 0);
	for (unsigned right = HF_READ; right <= HF_WRITE; right++) {
		assert_int_equal(check(&x, s.descriptor, right, 0, 101), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, 99, 2), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, 100, 1), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, 101, 0), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, UINT64_MAX, 1), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, UINT64_MAX, 0), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, 1, UINT64_MAX), -ERANGE);
		assert_int_equal(check(&x, s.descriptor, right, 50, UINT64_MAX - 49), -ERANGE); /* their sum is 0 */
		assert_int_equal(check(&x, s.descriptor, right, UINT64_MAX - 0x7000 + 1, 1), -ERANGE);
	}
	exposures_destroy(&x);
}

/* R17. A right that is none, or both at once, isn't given either. */
static void exactly_these_rights(void **state)
{
	struct exposures x;

	exposures_init(&x);
	for (unsigned rights = HF_READ; rights <= HF_READWRITE; rights++) {
		struct shown s = add(&x, 0x1000, 10, rights);

		assert_int_equal(check(&x, s.descriptor, HF_READ, 0, 10), rights & HF_READ ? 0 : -EACCES);
		assert_int_equal(check(&x, s.descriptor, HF_WRITE, 0, 10), rights & HF_WRITE ? 0 : -EACCES);
		assert_int_equal(check(&x, s.descriptor, HF_READWRITE, 0, 10), -EACCES);
		assert_int_equal(check(&x, s.descriptor, 0, 0, 0), -EACCES);
		assert_int_equal(check(&x, s.descriptor, 4, 0, 0), -EACCES);
		/* What isn't allowed doesn't tell how long the buffer is. */
		if (rights != HF_READWRITE)
			assert_int_equal(check(&x, s.descriptor, HF_READWRITE & ~rights, 11, 1), -EACCES);
	}
	exposures_destroy(&x);
}

static void bad_requests(void **state)
{
	struct exposures x;
	uint8_t d[SIZE];
	uint32_t slot;

	exposures_init(&x);
	check_error(exposures_add(&x, 0x1000, 0, HF_READ, NULL, &slot, d), -EINVAL, "empty");
	check_error(exposures_add(&x, UINT64_MAX - 9, 11, HF_READ, NULL, &slot, d), -EINVAL, "too long");
	check_error(exposures_add(&x, 0, WIRE_SIZE_MAX + 1, HF_READ, NULL, &slot, d), -EINVAL, "too long");
	check_error(exposures_add(&x, 0x1000, 1, 0, NULL, &slot, d), -EINVAL, "HF_READ");
	check_error(exposures_add(&x, 0x1000, 1, 4 | HF_READ, NULL, &slot, d), -EINVAL, "HF_READ");
	assert_int_equal(x.count, 0);
	add(&x, UINT64_MAX - 10, 10, HF_READ);
	assert_int_equal(x.count, 1);
	exposures_destroy(&x);
}

/* ------------------------------------------------------------------ what is in it */

static void has_not(const uint8_t *d, uint64_t value, int bytes)
{
	uint8_t little[8], big[8];

	for (int i = 0; i < bytes; i++)
		little[i] = big[bytes - 1 - i] = (uint8_t)(value >> 8 * i);
	for (int i = 0; i + bytes <= SIZE; i++) {
		assert_memory_not_equal(d + i, little, (size_t)bytes);
		assert_memory_not_equal(d + i, big, (size_t)bytes);
	}
}

/*
 * Known fault 4: no pointer travels. Neither the address, its end nor its page, nor the owner; and what isn't random is
 * the same for a buffer elsewhere.
 */
static void no_address(void **state)
{
	static char buffer[8192];
	struct exposures x;
	struct shown s, elsewhere;

	for (int i = 0; i < 100; i++) {
		uint64_t addr = (uintptr_t)buffer + (uint64_t)i;

		exposures_init(&x);
		s = add(&x, addr, 100, HF_READ);
		has_not(s.descriptor, addr, 6);
		has_not(s.descriptor, addr + 1, 6);
		has_not(s.descriptor, addr + 100, 6);
		has_not(s.descriptor, addr >> 12, 5);
		has_not(s.descriptor, ~addr, 6);
		exposures_destroy(&x);
		exposures_init(&x);
		elsewhere = add(&x, 0x5550000 + addr * 3, 100, HF_READ);
		assert_memory_equal(s.descriptor, elsewhere.descriptor, SIZE - 16);
		assert_memory_not_equal(s.descriptor, elsewhere.descriptor, SIZE);
		exposures_destroy(&x);
	}
}

/* The random bits of 4096 descriptors: none twice, and each bit is set about half of the time. */
static void random_bits(void **state)
{
	static uint8_t all[4096][SIZE];
	unsigned set[128] = { 0 };
	struct exposures x;

	exposures_init(&x);
	for (unsigned i = 0; i < 4096; i++) {
		struct shown s = add(&x, 0x1000, 1, HF_READ);

		memcpy(all[i], s.descriptor, SIZE);
		exposures_remove(&x, s.slot);
		for (unsigned bit = 0; bit < 128; bit++)
			set[bit] += all[i][16 + bit / 8] >> bit % 8 & 1;
		for (unsigned j = 0; j < i; j++)
			if (end_of(all[i]) == end_of(all[j]))
				fail_msg("descriptors %u and %u end alike", i, j);
	}
	for (unsigned bit = 0; bit < 128; bit++) /* 2048 +- 12 sigma */
		assert_in_range(set[bit], 2048 - 384, 2048 + 384);
	exposures_destroy(&x);
}

/* ------------------------------------------------------------------ what is refused */

static void every_flipped_bit_is_refused(void **state)
{
	struct exposures x;

	exposures_init(&x);
	for (unsigned i = 0; i < LIVE; i++)
		add(&x, 0x1000 * (i + 1), 4096, 1 + i % 3);
	for (unsigned i = 0; i < LIVE; i++) {
		struct shown s = add(&x, 0x100000, 1u << i % 31, 1 + i % 3);

		for (unsigned bit = 0; bit < 8 * SIZE; bit++) {
			s.descriptor[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_false(is_accepted(&x, s.descriptor));
			s.descriptor[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		assert_true(is_accepted(&x, s.descriptor));
	}
	exposures_destroy(&x);
}

/* R28: replayed after it was revoked, also when the same buffer is exposed again in the same slot. */
static void replay(void **state)
{
	struct exposures x;
	struct shown first, again;

	exposures_init(&x);
	first = add(&x, 0x1000, 100, HF_READ);
	assert_int_equal(exposures_find(&x, first.descriptor), first.slot);
	exposures_remove(&x, first.slot);
	assert_false(is_accepted(&x, first.descriptor));
	assert_int_equal(x.count, 0);
	for (int i = 0; i < 1000; i++) {
		again = add(&x, 0x1000, 100, HF_READ);
		assert_int_equal(again.slot, first.slot);
		assert_false(is_accepted(&x, first.descriptor));
		assert_true(is_accepted(&x, again.descriptor));
		exposures_remove(&x, again.slot);
		assert_false(is_accepted(&x, again.descriptor));
	}
	again = add(&x, 0x1000, 100, HF_READ);
	exposures_destroy(&x);
	assert_false(is_accepted(&x, again.descriptor));
	assert_null(x.slot);
	assert_int_equal(x.used, 0);
	assert_int_equal(x.count, 0);
}

/* R10, known fault 2: another connection's table doesn't know it, though it has the same buffer in the same slot. */
static void another_connection(void **state)
{
	struct exposures x, y;
	struct shown here[LIVE], there[LIVE];

	exposures_init(&x);
	exposures_init(&y);
	for (unsigned i = 0; i < LIVE; i++) {
		here[i] = add(&x, 0x1000, 100, HF_READWRITE);
		there[i] = add(&y, 0x1000, 100, HF_READWRITE);
	}
	for (unsigned i = 0; i < LIVE; i++) {
		assert_int_equal(here[i].slot, there[i].slot);
		assert_false(is_accepted(&x, there[i].descriptor));
		assert_false(is_accepted(&y, here[i].descriptor));
		assert_true(is_accepted(&x, here[i].descriptor));
	}
	exposures_destroy(&x);
	exposures_destroy(&y);
}

static void nothing_is_exposed(void **state)
{
	struct exposures x;
	uint8_t zeros[SIZE] = { 0 };
	struct shown s;

	exposures_init(&x);
	assert_false(is_accepted(&x, zeros));
	exposures_remove(&x, 0);
	s = add(&x, 0x1000, 1, HF_READ);
	exposures_remove(&x, s.slot);
	assert_false(is_accepted(&x, zeros)); /* the slot is all zeros, too */
	exposures_remove(&x, s.slot);
	exposures_remove(&x, UINT32_MAX);
	assert_int_equal(x.count, 0);
	assert_int_equal(add(&x, 0x1000, 1, HF_READ).slot, s.slot);
	assert_int_not_equal(add(&x, 0x1000, 1, HF_READ).slot, s.slot);
	exposures_destroy(&x);
}

/* ------------------------------------------------------------------ a million of them */

struct world {
	struct exposures x, other;
	struct shown live[LIVE], theirs[LIVE], revoked[REVOKED];
	unsigned revocations;
	uint64_t rng;
};

static void begin(struct world *w)
{
	exposures_init(&w->x);
	exposures_init(&w->other);
	w->rng = 11;
	for (unsigned i = 0; i < LIVE; i++) {
		w->live[i] = add(&w->x, 0x10000 * (i + 1), 1 + check_random(&w->rng) % 65536, 1 + i % 3);
		w->theirs[i] = add(&w->other, w->live[i].addr, w->live[i].len, w->live[i].rights);
	}
}

/* Revoke one and expose it again: the slot stays in use. */
static void revoke_one(struct world *w)
{
	struct shown *s = &w->live[check_random(&w->rng) % LIVE];

	w->revoked[w->revocations++ % REVOKED] = *s;
	exposures_remove(&w->x, s->slot);
	*s = add(&w->x, s->addr, s->len, s->rights);
}

static void randomise(uint8_t *d, size_t from, size_t to, uint64_t *rng)
{
	while (from < to)
		d[from++] = (uint8_t)check_random(rng);
}

#define WAYS 9

/* One that isn't valid, made in one of several ways from what a peer may have seen. */
static void forge(struct world *w, unsigned way, uint8_t *d)
{
	const struct shown *s = &w->live[check_random(&w->rng) % LIVE], *t = &w->live[check_random(&w->rng) % LIVE];
	unsigned n = (unsigned)(check_random(&w->rng) % SIZE);

	memcpy(d, s->descriptor, SIZE);
	switch (way) {
	case 0: /* anything */
		randomise(d, 0, SIZE, &w->rng);
		break;
	case 1: /* of a slot that there is */
		randomise(d, 4, SIZE, &w->rng);
		break;
	case 2: /* all but the secret */
		randomise(d, 16, SIZE, &w->rng);
		break;
	case 3: /* one byte */
		d[n] ^= (uint8_t)(1 + check_random(&w->rng) % 255);
		break;
	case 4: /* longer than it is, or with more rights */
		d[4 + n % 12] ^= (uint8_t)(1u << check_random(&w->rng) % 8);
		break;
	case 5: /* cut off */
		memset(d + n, 0, SIZE - n);
		break;
	case 6: /* one's head, another's tail */
		memcpy(d + 1 + n % 31, t->descriptor + 1 + n % 31, SIZE - 1 - n % 31);
		break;
	case 7: /* revoked */
		memcpy(d, w->revoked[check_random(&w->rng) % REVOKED].descriptor, SIZE);
		break;
	default: /* another connection's */
		memcpy(d, w->theirs[check_random(&w->rng) % LIVE].descriptor, SIZE);
		break;
	}
}

static bool is_live(const struct world *w, const uint8_t *d)
{
	uint64_t end = end_of(d); /* first: a sanitizer's memcmp is slow */

	for (unsigned i = 0; i < LIVE; i++)
		if (end_of(w->live[i].descriptor) == end && !memcmp(w->live[i].descriptor, d, SIZE))
			return true;
	return false;
}

/* Hazard 40. */
static void a_million_descriptors(void **state)
{
	static struct world w;
	uint64_t tried[WAYS] = { 0 }, accepted = 0, live = 0, ms;

	begin(&w);
	for (unsigned i = 0; i < REVOKED; i++)
		revoke_one(&w);
	ms = check_now_ms();
	for (unsigned i = 0; i < TRIES; i++) {
		uint8_t d[SIZE];

		if (i % 64 == 0)
			revoke_one(&w);
		forge(&w, i % WAYS, d);
		if (is_live(&w, d)) { /* what was put together, or cut in its last byte, may be a valid one */
			live++;
			continue;
		}
		tried[i % WAYS]++;
		accepted += is_accepted(&w.x, d);
	}
	ms = check_now_ms() - ms;
	for (unsigned i = 0; i < WAYS; i++)
		assert_in_range(tried[i], TRIES / WAYS - TRIES / WAYS / 8, TRIES / WAYS + 1);
	print_message("%lu descriptors tried, %lu accepted, %lu a second; %lu were valid and not counted\n",
		      TRIES - live, accepted, (TRIES - live) * 1000 / (ms ? ms : 1), live);
	assert_in_range(TRIES - live, TRIES - TRIES / 6, TRIES); /* a million */
	assert_int_equal(accepted, 0);
	exposures_destroy(&w.x);
	exposures_destroy(&w.other);
}

/* Valid ones with random rights, offsets and lengths, near the ends most of all: given exactly if inside. */
static void against_the_model(void **state)
{
	static struct world w;
	uint64_t given = 0;

	begin(&w);
	for (unsigned i = 0; i < TRIES / 4; i++) {
		const struct shown *s = &w.live[check_random(&w.rng) % LIVE];
		uint64_t near[] = { 0, 1, s->len - 1, s->len, s->len + 1, UINT64_MAX, UINT64_MAX - s->len,
				    UINT64_MAX - s->addr, check_random(&w.rng) % s->len, check_random(&w.rng) };
		uint64_t offset = near[check_random(&w.rng) % 10], len = near[check_random(&w.rng) % 10], addr;
		unsigned right = 1 + (unsigned)check_random(&w.rng) % 2;
		int want = (unsigned __int128)offset + len > s->len ? -ERANGE : 0;
		void *owner;

		if (!(s->rights & right))
			want = -EACCES;
		assert_int_equal(exposures_check(&w.x, s->descriptor, right, offset, len, &addr, &owner), want);
		assert_int_equal(addr, want ? 0 : s->addr + offset);
		given += !want;
	}
	assert_in_range(given, TRIES / 100, TRIES / 4);
	exposures_destroy(&w.x);
	exposures_destroy(&w.other);
}

/* ------------------------------------------------------------------ growing, and its limits */

static void grows_to_its_limit(void **state)
{
	struct exposures x;
	struct shown first, last;
	uint8_t d[SIZE];
	uint32_t slot;

	exposures_init(&x);
	first = add(&x, 0x1000, 1, HF_READ);
	for (unsigned i = 1; i < EXPOSURES_MAX; i++)
		last = add(&x, 0x1000 + i, 1, HF_READ);
	assert_int_equal(x.count, EXPOSURES_MAX);
	check_error(exposures_add(&x, 0x1000, 1, HF_READ, NULL, &slot, d), -ENOMEM, "1048576");
	assert_true(is_accepted(&x, first.descriptor));
	assert_true(is_accepted(&x, last.descriptor));
	exposures_remove(&x, first.slot);
	assert_int_equal(add(&x, 0x1000, 1, HF_READ).slot, first.slot);
	check_error(exposures_add(&x, 0x1000, 1, HF_READ, NULL, &slot, d), -ENOMEM, "deregister");
	exposures_destroy(&x);
}

/* Each step that can fail, with an empty table and with a full one: what was there stays valid, and nothing is added. */
static void failures(void **state)
{
	struct shown s[17];
	struct exposures x;
	uint8_t d[SIZE];
	uint32_t slot;

	exposures_init(&x);
	for (unsigned have = 0; have <= 16; have++) {
		hf_fault_arm(1);
		if (have % 16) {
			check_error(exposures_add(&x, 0x9000, 1, HF_READ, NULL, &slot, d), -ENOSYS, "getrandom");
		} else {
			check_error(exposures_add(&x, 0x9000, 1, HF_READ, NULL, &slot, d), -ENOMEM, "no memory");
			hf_fault_arm(2);
			check_error(exposures_add(&x, 0x9000, 1, HF_READ, NULL, &slot, d), -ENOSYS, "getrandom");
		}
		hf_fault_arm(0);
		assert_int_equal(x.count, have);
		for (unsigned i = 0; i < have; i++)
			assert_int_equal(exposures_find(&x, s[i].descriptor), s[i].slot);
		s[have] = add(&x, 0x1000, 1, HF_READ);
	}
	exposures_destroy(&x);
}

/* ------------------------------------------------------------------ with a key of the NIC's */

/* It stands where the random bits would; the table knows it, and revokes it; both sorts live in one table. */
static void a_key_of_the_nic(void **state)
{
	uint8_t key[EXPOSURE_KEY], d[SIZE];
	struct exposures x;
	struct shown s;
	uint32_t slot;

	exposures_init(&x);
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(0x30 + i);
	s = add(&x, 0x7000, 100, HF_READ);
	check_ok(exposures_add_key(&x, 0x9000, 300, HF_WRITE, &x, key, &slot, d));
	assert_int_not_equal(slot, s.slot);
	assert_memory_equal(d + SIZE - EXPOSURE_KEY, key, EXPOSURE_KEY);
	assert_ptr_equal(descriptor_key(d), d + SIZE - EXPOSURE_KEY);
	assert_int_equal(check(&x, d, HF_WRITE, 0, 300), 0);
	assert_int_equal(check(&x, d, HF_READ, 0, 1), -EACCES);
	d[SIZE - 1] ^= 1;
	assert_int_equal(check(&x, d, HF_WRITE, 0, 300), -EACCES);
	d[SIZE - 1] ^= 1;
	exposures_remove(&x, slot);
	assert_false(is_accepted(&x, d));
	assert_int_equal(check(&x, s.descriptor, HF_READ, 0, 100), 0);
	assert_int_equal(exposures_add_key(&x, 0x9000, 0, HF_WRITE, &x, key, &slot, d), -EINVAL);
	assert_int_equal(exposures_add_key(&x, 0x9000, 1, 4, &x, key, &slot, d), -EINVAL);
	exposures_destroy(&x);
}

/* What a descriptor says of itself is what the table says of it, for every right and at both ends (R12, R17). */
static void what_a_descriptor_says(void **state)
{
	static const struct {
		uint64_t offset, len;
	} c[] = {
		{ 0, 0 }, { 0, 100 }, { 99, 1 }, { 100, 0 }, { 0, 101 }, { 100, 1 }, { 101, 0 }, { UINT64_MAX, 1 },
		{ 1, UINT64_MAX }, { UINT64_MAX, UINT64_MAX }, { WIRE_SIZE_MAX, 0 },
	};
	struct exposures x;

	exposures_init(&x);
	for (unsigned rights = HF_READ; rights <= HF_READWRITE; rights++) {
		struct shown s = add(&x, 0x7000, 100, rights);

		for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++)
			for (unsigned right = HF_READ; right <= HF_WRITE; right++)
				assert_int_equal(descriptor_check(s.descriptor, right, c[i].offset, c[i].len),
						 check(&x, s.descriptor, right, c[i].offset, c[i].len));
		s.descriptor[6] ^= 1;
		assert_int_equal(descriptor_check(s.descriptor, HF_READ, 0, 0), -EACCES);
	}
	exposures_destroy(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exactly_these_bytes), cmocka_unit_test(exactly_these_rights),
		cmocka_unit_test(bad_requests), cmocka_unit_test(no_address), cmocka_unit_test(random_bits),
		cmocka_unit_test(every_flipped_bit_is_refused), cmocka_unit_test(replay),
		cmocka_unit_test(another_connection), cmocka_unit_test(nothing_is_exposed),
		cmocka_unit_test(a_million_descriptors), cmocka_unit_test(against_the_model),
		cmocka_unit_test(grows_to_its_limit), cmocka_unit_test(failures),
		cmocka_unit_test(a_key_of_the_nic), cmocka_unit_test(what_a_descriptor_says),
	};

	return cmocka_run_group_tests_name("exposure", tests, NULL, NULL);
}
