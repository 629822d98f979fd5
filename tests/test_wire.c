/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The wire format (src/san/wire.h): the bytes are those that docs/wire.md gives; what is accepted has one spelling only;
 * every flipped bit, every slip and everything that a type doesn't have is refused (hazard 40).
 */
#include "check.h"

#include <errno.h>
#include <stdlib.h>

#include "san/wire.h"

#define LARGEST WIRE_QP_SIZE
#define MANY (CHECK_TSAN ? 2000u : 20000u) /* one thread: no race is sought here */

static void from_hex(const char *hex, uint8_t *out, size_t size)
{
	assert_int_equal(strlen(hex), 2 * size);
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)strtoul((char[]){ hex[2 * i], hex[2 * i + 1], 0 }, NULL, 16);
}

static void count_up(uint8_t *out, size_t size, unsigned from)
{
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(from + i);
}

/* An attacker can make the check word right. */
static void reseal(uint8_t *header, size_t size)
{
	uint32_t crc = wire_crc32c(0, header, size - 4);

	for (int i = 0; i < 4; i++)
		header[size - 4 + (size_t)i] = (uint8_t)(crc >> 8 * i);
}

/* Get, and put again what that gave: the same bytes; or if it is refused, those of fields that are all 0. */
static int get_and_put(const uint8_t *in, size_t size, uint8_t *again, uint8_t *zeros)
{
	struct wire_hello hello;
	struct wire_proof proof;
	struct wire_frame frame;
	struct wire_qp qp;
	int rc;

	if (size == WIRE_QP_SIZE) {
		memset(&qp, 0xff, sizeof(qp));
		rc = wire_get_qp(in, &qp);
		wire_put_qp(again, &qp);
		wire_put_qp(zeros, &(struct wire_qp){ 0 });
	} else if (size == WIRE_HELLO_SIZE) {
		memset(&hello, 0xff, sizeof(hello));
		rc = wire_get_hello(in, &hello);
		wire_put_hello(again, &hello);
		wire_put_hello(zeros, &(struct wire_hello){ 0 });
	} else if (size == WIRE_PROOF_SIZE) {
		memset(&proof, 0xff, sizeof(proof));
		rc = wire_get_proof(in, &proof);
		wire_put_proof(again, &proof);
		wire_put_proof(zeros, &(struct wire_proof){ 0 });
	} else {
		memset(&frame, 0xff, sizeof(frame));
		rc = wire_get_frame(in, &frame);
		wire_put_frame(again, &frame);
		wire_put_frame(zeros, &(struct wire_frame){ 0 });
	}
	return rc;
}

static int get_any(const uint8_t *in, size_t size)
{
	uint8_t again[LARGEST], zeros[LARGEST];
	int rc = get_and_put(in, size, again, zeros);

	assert_memory_equal(again, rc ? zeros : in, size);
	return rc;
}

static bool same_frame(const struct wire_frame *a, const struct wire_frame *b)
{
	return a->type == b->type && a->flags == b->flags && a->op == b->op && a->status == b->status &&
	       a->length == b->length && a->offset == b->offset && a->total == b->total &&
	       !memcmp(a->descriptor, b->descriptor, sizeof(a->descriptor));
}

/* ------------------------------------------------------------------ samples */

static const struct wire_hello hello = {
	.version_min = 1, .version_max = 3, .max_message = 64 * MIB, .max_rdma = GIB, .depth = 256,
};

/* A valid frame of the type, its sizes and numbers drawn. */
static struct wire_frame draw(enum wire_type type, uint64_t *rng)
{
	struct wire_frame f = { .type = type };
	uint64_t top = WIRE_SIZE_MAX >> check_random(rng) % 62;

	if (type != WIRE_BYE && type != WIRE_READY)
		f.op = (uint32_t)check_random(rng);
	if (type == WIRE_DONE)
		f.status = wire_status(-(int)(check_random(rng) % 140));
	if (type == WIRE_CREDIT || type == WIRE_READ || type == WIRE_MESSAGE || type == WIRE_WRITE || type == WIRE_DATA)
		f.total = check_random(rng) % top;
	if (type == WIRE_DATA)
		f.total++;
	if (type == WIRE_MESSAGE || type == WIRE_DATA)
		f.offset = f.total ? check_random(rng) % f.total : 0;
	if (type == WIRE_READ || type == WIRE_WRITE) {
		f.offset = check_random(rng) % (WIRE_SIZE_MAX - f.total + 1);
		for (int i = 0; i < WIRE_DESCRIPTOR_SIZE; i++)
			f.descriptor[i] = (uint8_t)check_random(rng);
	}
	if (type == WIRE_MESSAGE || type == WIRE_DATA || type == WIRE_WRITE) {
		uint64_t left = type == WIRE_WRITE ? f.total : f.total - f.offset;

		f.length = (uint32_t)(left < WIRE_CHUNK_MAX ? left : WIRE_CHUNK_MAX);
		if (f.length > 1 && check_random(rng) % 2)
			f.length = 1 + (uint32_t)(check_random(rng) % (f.length - 1));
		f.flags = f.length == left ? WIRE_LAST : 0;
	}
	return f;
}

/* One sealed header of each kind: hello, proof, refusal, each type of frame, and where a queue pair is. */
#define SAMPLES (3 + WIRE_TYPES - 1 + 1)

static size_t sample(unsigned i, uint8_t out[LARGEST], uint64_t *rng)
{
	struct wire_hello h = hello;
	struct wire_proof p = { .status = i == 2 ? -EACCES : 0 };
	struct wire_frame f;

	if (i == 0) {
		count_up(h.nonce, sizeof(h.nonce), (unsigned)check_random(rng));
		wire_put_hello(out, &h);
		return WIRE_HELLO_SIZE;
	}
	if (i <= 2) {
		if (i == 1)
			count_up(p.mac, sizeof(p.mac), (unsigned)check_random(rng));
		wire_put_proof(out, &p);
		return WIRE_PROOF_SIZE;
	}
	if (i == SAMPLES - 1) {
		struct wire_qp q = { .max = 1 + check_random(rng) % WIRE_SIZE_MAX };

		count_up(q.address, sizeof(q.address), (unsigned)check_random(rng));
		wire_put_qp(out, &q);
		return WIRE_QP_SIZE;
	}
	f = draw((enum wire_type)(i - 2), rng);
	wire_put_frame(out, &f);
	return WIRE_FRAME_SIZE;
}

/* ------------------------------------------------------------------ the bytes */

/* Made by another program, in another language, from the tables of docs/wire.md. */
static void bytes_of_the_handshake(void **state)
{
	struct wire_hello h = hello, back;
	struct wire_proof p = { 0 };
	uint8_t want[LARGEST], got[LARGEST];

	count_up(h.nonce, sizeof(h.nonce), 0);
	wire_put_hello(got, &h);
	from_hex("4846536801000300000000040000000000000040000000000001020304050607"
		 "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000100009a86dd5e", want, WIRE_HELLO_SIZE);
	assert_memory_equal(got, want, WIRE_HELLO_SIZE);
	assert_int_equal(wire_get_hello(want, &back), 0);
	assert_int_equal(back.version_min, 1);
	assert_int_equal(back.version_max, 3);
	assert_int_equal(back.max_message, 64 * MIB);
	assert_int_equal(back.max_rdma, GIB);
	assert_int_equal(back.depth, 256);
	assert_memory_equal(back.nonce, h.nonce, sizeof(h.nonce));

	count_up(p.mac, sizeof(p.mac), 0xa0);
	wire_put_proof(got, &p);
	from_hex("4846537000000000a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7"
		 "b8b9babbbcbdbebf00000000f0661e42", want, WIRE_PROOF_SIZE);
	assert_memory_equal(got, want, WIRE_PROOF_SIZE);

	p = (struct wire_proof){ .status = -EACCES };
	wire_put_proof(got, &p);
	from_hex("4846537007000000000000000000000000000000000000000000000000000000"
		 "000000000000000000000000bd8ec241", want, WIRE_PROOF_SIZE);
	assert_memory_equal(got, want, WIRE_PROOF_SIZE);
}

static void bytes_of_frames(void **state)
{
	struct wire_frame f = {
		.type = WIRE_WRITE, .flags = WIRE_LAST, .op = 0x01020304, .length = 0x10000, .offset = 0x1122334455,
		.total = 0x10000,
	}, back;
	uint8_t want[LARGEST], got[LARGEST];

	count_up(f.descriptor, sizeof(f.descriptor), 0xe0);
	wire_put_frame(got, &f);
	from_hex("4846536603000100040302010000000000000100000000005544332211000000"
		 "0000010000000000e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7"
		 "f8f9fafbfcfdfeff00000000b9e1b253", want, WIRE_FRAME_SIZE);
	assert_memory_equal(got, want, WIRE_FRAME_SIZE);
	assert_int_equal(wire_get_frame(want, &back), 0);
	assert_true(same_frame(&back, &f));

	f = (struct wire_frame){ .type = WIRE_DONE, .op = 7, .status = -ESTALE };
	wire_put_frame(got, &f);
	from_hex("4846536606000000070000000900000000000000000000000000000000000000"
		 "0000000000000000000000000000000000000000000000000000000000000000"
		 "00000000000000000000000033fb6c29", want, WIRE_FRAME_SIZE);
	assert_memory_equal(got, want, WIRE_FRAME_SIZE);
}

static void bytes_of_a_queue_pair(void **state)
{
	struct wire_qp q = { .max = 0x40000000 }, back;
	uint8_t want[WIRE_QP_SIZE], got[WIRE_QP_SIZE];

	count_up(q.address, sizeof(q.address), 0x10);
	wire_put_qp(got, &q);
	from_hex("48465371000000000000004000000000101112131415161718191a1b1c1d1e1f"
		 "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
		 "404142434445464748494a4b4c4d4e4f9117542e", want, WIRE_QP_SIZE);
	assert_memory_equal(got, want, WIRE_QP_SIZE);
	assert_int_equal(wire_get_qp(want, &back), 0);
	assert_int_equal(back.max, q.max);
	assert_memory_equal(back.address, q.address, sizeof(q.address));
	q.max = 0;
	wire_put_qp(got, &q);
	assert_int_equal(get_any(got, sizeof(got)), -EPROTO);
	q.max = WIRE_SIZE_MAX;
	wire_put_qp(got, &q);
	assert_int_equal(get_any(got, sizeof(got)), 0);
	q.max++;
	wire_put_qp(got, &q);
	assert_int_equal(get_any(got, sizeof(got)), -EPROTO);
}

static void the_check_word(void **state)
{
	uint8_t data[LARGEST + 8];
	uint64_t rng = 1;

	assert_int_equal(wire_crc32c(0, (const uint8_t *)"123456789", 9), 0xe3069283);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)check_random(&rng);
	for (size_t from = 0; from < 8; from++)
		for (size_t size = 0; size <= LARGEST; size++) {
			uint32_t crc = wire_crc32c(0, data + from, size);

			assert_int_equal(crc, wire_crc32c_plain(0, data + from, size));
			assert_int_equal(crc, wire_crc32c(wire_crc32c(0, data + from, size / 3), data + from + size / 3,
							  size - size / 3));
		}
}

/* ------------------------------------------------------------------ round trips */

static void round_trips(void **state)
{
	uint64_t rng = 2;

	for (unsigned n = 0; n < MANY; n++)
		for (unsigned type = 1; type < WIRE_TYPES; type++) {
			struct wire_frame f = draw((enum wire_type)type, &rng), back;
			uint8_t bytes[WIRE_FRAME_SIZE];

			wire_put_frame(bytes, &f);
			if (wire_get_frame(bytes, &back))
				fail_msg("type %u of %lu from %lu, %u bytes, is refused", type, f.total, f.offset, f.length);
			assert_true(same_frame(&back, &f));
			assert_int_equal(get_any(bytes, sizeof(bytes)), 0);
		}
}

/* ------------------------------------------------------------------ damage */

static void flip(uint8_t *bytes, size_t bit)
{
	bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static void every_flipped_bit_is_refused(void **state)
{
	uint8_t bytes[LARGEST];
	uint64_t rng = 3, tried = 0;

	for (unsigned n = 0; n < 20 * SAMPLES; n++) {
		size_t size = sample(n % SAMPLES, bytes, &rng);

		assert_int_equal(get_any(bytes, size), 0);
		for (size_t bit = 0; bit < 8 * size; bit++, tried++) {
			flip(bytes, bit);
			assert_int_equal(get_any(bytes, size), -EPROTO);
			flip(bytes, bit);
		}
	}
	print_message("%lu flipped bits, all refused\n", tried);
}

static void every_two_flipped_bits_are_refused(void **state)
{
	uint8_t bytes[LARGEST];
	uint64_t rng = 4;

	for (unsigned n = 0; n < SAMPLES; n++) {
		size_t size = sample(n, bytes, &rng);

		for (size_t a = 0; a < 8 * size; a++) {
			flip(bytes, a);
			for (size_t b = a + 1; b < 8 * size; b += CHECK_TSAN ? 31 : 1) {
				flip(bytes, b);
				assert_int_equal(get_any(bytes, size), -EPROTO);
				flip(bytes, b);
			}
			flip(bytes, a);
		}
	}
}

/* Cut anywhere, with zeros or with what stood there before behind it; and a stream that has slipped by a few bytes. */
static void cut_and_slipped(void **state)
{
	uint8_t bytes[2 * LARGEST], cut[LARGEST];
	uint64_t rng = 5;

	for (unsigned n = 0; n < 20 * SAMPLES; n++) {
		size_t size = sample(n % SAMPLES, bytes, &rng);

		sample(n % SAMPLES, bytes + size, &rng);
		for (size_t at = 0; at < size; at++) {
			memset(cut, 0, sizeof(cut));
			memcpy(cut, bytes, at);
			if (memcmp(cut, bytes, size))
				assert_int_equal(get_any(cut, size), -EPROTO);
			if (at)
				assert_int_equal(get_any(bytes + at, size), -EPROTO);
		}
	}
}

/* What one header is, none of the others is. */
static void kinds_are_not_confused(void **state)
{
	static const size_t sizes_of[] = { WIRE_PROOF_SIZE, WIRE_HELLO_SIZE, WIRE_FRAME_SIZE, WIRE_QP_SIZE };
	uint8_t bytes[LARGEST], other[LARGEST];
	uint64_t rng = 6;

	for (unsigned n = 0; n < SAMPLES; n++)
		for (size_t k = 0; k < sizeof(sizes_of) / sizeof(sizes_of[0]); k++) {
			size_t as = sizes_of[k], size = sample(n, bytes, &rng);

			if (as == size)
				continue;
			memset(other, 0, sizeof(other));
			memcpy(other, bytes, size < as ? size : as);
			assert_int_equal(get_any(other, as), -EPROTO);
			reseal(other, as);
			assert_int_equal(get_any(other, as), -EPROTO);
		}
}

/* With the check word made right: refused, or another header that has one spelling. */
static void one_spelling(void **state)
{
	uint8_t bytes[LARGEST];
	uint64_t rng = 7, accepted = 0, tried = 0;

	for (unsigned n = 0; n < MANY * SAMPLES; n++, tried++) {
		size_t size = sample(n % SAMPLES, bytes, &rng);

		for (uint64_t flips = check_random(&rng) % 4; flips--;)
			flip(bytes, check_random(&rng) % (8 * size));
		reseal(bytes, size);
		accepted += !get_any(bytes, size);
	}
	print_message("%lu of %lu forged headers are valid ones\n", accepted, tried);
	assert_in_range(accepted, tried / 20, tried - tried / 20); /* both happen */
}

/* ------------------------------------------------------------------ versions and limits */

static int got_hello(struct wire_hello h)
{
	uint8_t bytes[WIRE_HELLO_SIZE];

	wire_put_hello(bytes, &h);
	return get_any(bytes, sizeof(bytes));
}

static void versions(void **state)
{
	static const struct {
		uint16_t min, max;
		int rc;
	} c[] = {
		{ 1, 1, 0 }, { 1, 2, 0 }, { 1, 65535, 0 }, { 2, 2, 0 }, { 2, 65535, 0 }, { 3, 3, -EPROTONOSUPPORT },
		{ 3, 65535, -EPROTONOSUPPORT },
		{ 0, 1, -EPROTO }, { 0, 0, -EPROTO }, { 2, 1, -EPROTO }, { 65535, 1, -EPROTO },
	};

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct wire_hello h = hello;

		h.version_min = c[i].min;
		h.version_max = c[i].max;
		assert_int_equal(got_hello(h), c[i].rc);
	}
}

static void limits(void **state)
{
	struct wire_hello h = hello;

	h.max_message = h.max_rdma = WIRE_SIZE_MAX;
	h.depth = UINT32_MAX;
	assert_int_equal(got_hello(h), 0);
	h.max_message++;
	assert_int_equal(got_hello(h), -EPROTO);
	h.max_message = 0;
	assert_int_equal(got_hello(h), 0);
	h.max_rdma++;
	assert_int_equal(got_hello(h), -EPROTO);
	h.max_rdma = 0;
	h.depth = 0;
	assert_int_equal(got_hello(h), -EPROTO);
}

static void refusals(void **state)
{
	struct wire_proof p = { .status = -ENOMEM }, back;
	uint8_t bytes[WIRE_PROOF_SIZE];

	wire_put_proof(bytes, &p); /* a reason that the wire has no number for */
	assert_int_equal(wire_get_proof(bytes, &back), 0);
	assert_int_equal(back.status, -EIO);

	p = (struct wire_proof){ .status = -EACCES, .mac = { [31] = 1 } };
	wire_put_proof(bytes, &p);
	assert_int_equal(get_any(bytes, sizeof(bytes)), -EPROTO);
}

/* ------------------------------------------------------------------ what a type has */

static int got(struct wire_frame f)
{
	uint8_t bytes[WIRE_FRAME_SIZE];

	wire_put_frame(bytes, &f);
	return get_any(bytes, sizeof(bytes));
}

/* Set one field of a valid frame that its type doesn't have, check word right: refused. */
static void fields_that_a_type_does_not_have(void **state)
{
	enum { OP = 1, STATUS = 2, TOTAL = 4, OFFSET = 8, LENGTH = 16, LAST = 32, DESCRIPTOR = 64, ALL = 128 };
	static const int has[WIRE_TYPES] = {
		[WIRE_CREDIT] = OP | TOTAL, [WIRE_MESSAGE] = OP | TOTAL | OFFSET | LENGTH | LAST,
		[WIRE_WRITE] = OP | TOTAL | OFFSET | LENGTH | LAST | DESCRIPTOR,
		[WIRE_READ] = OP | TOTAL | OFFSET | DESCRIPTOR, [WIRE_DATA] = OP | TOTAL | OFFSET | LENGTH | LAST,
		[WIRE_DONE] = OP | STATUS, [WIRE_BYE] = 0, [WIRE_READY] = 0,
	};
	uint64_t rng = 8;

	for (unsigned type = 1; type < WIRE_TYPES; type++)
		for (int field = OP; field < ALL; field *= 2) {
			struct wire_frame f = draw((enum wire_type)type, &rng);

			if (has[type] & field)
				continue;
			f.op += field == OP;
			f.status -= field == STATUS ? ESTALE : 0;
			f.total += field == TOTAL;
			f.offset += field == OFFSET;
			f.length += field == LENGTH;
			f.flags |= field == LAST;
			f.descriptor[17] |= field == DESCRIPTOR;
			if (got(f) != -EPROTO)
				fail_msg("type %u is accepted with field %d", type, field);
		}
}

static void reserved_bits(void **state)
{
	static const uint8_t frame_at[] = { 20, 21, 22, 23, 72, 73, 74, 75 }, proof_at[] = { 40, 41, 42, 43 };
	static const uint8_t qp_at[] = { 4, 5, 6, 7 };
	uint8_t bytes[LARGEST];
	uint64_t rng = 9;

	for (unsigned n = 1; n < SAMPLES; n++) {
		size_t size = sample(n, bytes, &rng);
		const uint8_t *at = size == WIRE_FRAME_SIZE ? frame_at : size == WIRE_QP_SIZE ? qp_at : proof_at;

		for (size_t i = 0; i < (size == WIRE_FRAME_SIZE ? 8 : 4); i++)
			for (int bit = 0; bit < 8; bit++) {
				bytes[at[i]] = (uint8_t)(1u << bit);
				reseal(bytes, size);
				assert_int_equal(get_any(bytes, size), -EPROTO);
				bytes[at[i]] = 0;
			}
	}
	for (unsigned bit = 1; bit < 16; bit++) {
		struct wire_frame f = { .type = WIRE_MESSAGE, .flags = (uint16_t)(WIRE_LAST | 1u << bit) };

		assert_int_equal(got(f), -EPROTO); /* the last piece, and one that isn't */
		f = (struct wire_frame){ .type = WIRE_MESSAGE, .flags = (uint16_t)(1u << bit), .length = 1, .total = 2 };
		assert_int_equal(got(f), -EPROTO);
	}
}

static void types(void **state)
{
	uint8_t bytes[WIRE_FRAME_SIZE];
	struct wire_frame f = { .type = WIRE_BYE };

	wire_put_frame(bytes, &f);
	for (unsigned type = 0; type < 65536; type++) {
		bytes[4] = (uint8_t)type;
		bytes[5] = (uint8_t)(type >> 8);
		reseal(bytes, sizeof(bytes));
		if (type >= WIRE_TYPES || !type)
			assert_int_equal(get_any(bytes, sizeof(bytes)), -EPROTO);
	}
}

/* ------------------------------------------------------------------ sizes */

#define MESSAGE .type = WIRE_MESSAGE, .op = 1
#define WRITE .type = WIRE_WRITE, .op = 1
#define READ .type = WIRE_READ, .op = 1
#define DATA .type = WIRE_DATA, .op = 1
#define TOP WIRE_SIZE_MAX
#define CHUNK WIRE_CHUNK_MAX

static void sizes(void **state)
{
	static const struct {
		int rc;
		struct wire_frame f;
	} c[] = {
		/* Whole, first, middle, last piece; empty. */
		{ 0, { MESSAGE, .total = 5, .length = 5, .flags = 1 } },
		{ 0, { MESSAGE, .total = 5, .length = 2 } },
		{ 0, { MESSAGE, .total = 5, .length = 2, .offset = 2 } },
		{ 0, { MESSAGE, .total = 5, .length = 1, .offset = 4, .flags = 1 } },
		{ 0, { MESSAGE, .flags = 1 } },
		{ 0, { MESSAGE, .total = TOP, .offset = TOP - CHUNK, .length = CHUNK, .flags = 1 } },
		{ 0, { MESSAGE, .total = TOP, .offset = TOP - CHUNK - 1, .length = CHUNK } },
		/* The last one that doesn't say so, and the other way round. */
		{ -EPROTO, { MESSAGE, .total = 5, .length = 5 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 4, .flags = 1 } },
		{ -EPROTO, { MESSAGE } },
		/* Beyond the end, by one and by a wrap; too large. */
		{ -EPROTO, { MESSAGE, .total = 5, .length = 6, .flags = 1 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 6 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 2, .offset = 4 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 1, .offset = 6 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 1, .offset = TOP } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 2, .offset = 4, .flags = 1 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 6, .offset = UINT64_MAX, .flags = 1 } },
		{ -EPROTO, { MESSAGE, .total = 5, .length = 0, .offset = 6, .flags = 1 } },
		{ -EPROTO, { MESSAGE, .total = 2 * CHUNK, .length = CHUNK + 1 } },
		{ -EPROTO, { MESSAGE, .total = TOP + 1, .length = 1 } },
		{ -EPROTO, { MESSAGE, .total = UINT64_MAX, .offset = UINT64_MAX - 1, .length = 1, .flags = 1 } },
		/* Empty pieces of what isn't. */
		{ -EPROTO, { MESSAGE, .total = 5 } },
		{ -EPROTO, { MESSAGE, .total = 5, .offset = 5, .flags = 1 } },
		/* A write's total is what is left. */
		{ 0, { WRITE, .total = 5, .length = 5, .offset = 1000, .flags = 1 } },
		{ 0, { WRITE, .total = 5, .length = 4, .offset = 1000 } },
		{ 0, { WRITE, .offset = TOP, .flags = 1 } },
		{ 0, { WRITE, .total = 5, .length = 5, .offset = TOP - 5, .flags = 1 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 5, .offset = TOP - 4, .flags = 1 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 1, .offset = UINT64_MAX - 1 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 1, .offset = TOP } },
		{ -EPROTO, { WRITE, .total = 5, .length = 6, .flags = 1 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 6 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 4, .flags = 1 } },
		{ -EPROTO, { WRITE, .total = 5, .length = 5 } },
		{ -EPROTO, { WRITE, .total = 5 } },
		{ -EPROTO, { WRITE, .total = 2 * CHUNK, .length = CHUNK + 1 } },
		{ 0, { READ, .total = 5, .offset = TOP - 5 } },
		{ 0, { READ } },
		{ 0, { READ, .total = TOP } },
		{ -EPROTO, { READ, .total = 5, .offset = TOP - 4 } },
		{ -EPROTO, { READ, .total = TOP + 1 } },
		{ -EPROTO, { READ, .total = UINT64_MAX, .offset = 2 } },
		{ 0, { DATA, .total = 5, .length = 5, .flags = 1 } },
		{ 0, { DATA, .total = 5, .length = 1, .offset = 3 } },
		{ -EPROTO, { DATA, .flags = 1 } }, /* an empty read has no data, only its DONE */
		{ -EPROTO, { DATA, .total = 5, .length = 3, .offset = 3, .flags = 1 } },
		{ -EPROTO, { DATA, .total = 5, .length = 3, .offset = 3 } },
		{ -EPROTO, { DATA, .total = 5, .length = 3, .offset = 6 } },
		{ 0, { .type = WIRE_CREDIT, .total = 0 } },
		{ 0, { .type = WIRE_CREDIT, .total = TOP } },
		{ -EPROTO, { .type = WIRE_CREDIT, .total = TOP + 1 } },
	};

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++)
		if (got(c[i].f) != c[i].rc)
			fail_msg("case %zu: not %d", i, c[i].rc);
}

/* ------------------------------------------------------------------ status */

static void statuses(void **state)
{
	static const int known[] = {
		0, EIO, ECANCELED, ESHUTDOWN, ECONNRESET, EPROTO, EMSGSIZE, EACCES, ERANGE, ESTALE, EPROTONOSUPPORT,
	};
	struct wire_frame f = { .type = WIRE_DONE }, back;
	uint8_t bytes[WIRE_FRAME_SIZE];

	for (int err = 0; err < 4096; err++) {
		int want = EIO;

		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			want = known[i] == err ? err : want;
		assert_int_equal(wire_status(-err), -want);
		f.status = -err;
		wire_put_frame(bytes, &f);
		assert_int_equal(wire_get_frame(bytes, &back), 0);
		assert_int_equal(back.status, -want);
	}
	assert_int_equal(wire_status(EACCES), -EIO);
	assert_int_equal(wire_status(INT32_MIN), -EIO);
	assert_int_equal(wire_status(INT32_MAX), -EIO);
	for (unsigned number = sizeof(known) / sizeof(known[0]); number < 256; number++) {
		bytes[12] = (uint8_t)number;
		reseal(bytes, sizeof(bytes));
		assert_int_equal(get_any(bytes, sizeof(bytes)), -EPROTO);
	}
	bytes[12] = 0;
	bytes[15] = 0x80;
	reseal(bytes, sizeof(bytes));
	assert_int_equal(get_any(bytes, sizeof(bytes)), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_of_the_handshake), cmocka_unit_test(bytes_of_frames),
		cmocka_unit_test(bytes_of_a_queue_pair),
		cmocka_unit_test(the_check_word), cmocka_unit_test(round_trips),
		cmocka_unit_test(every_flipped_bit_is_refused), cmocka_unit_test(every_two_flipped_bits_are_refused),
		cmocka_unit_test(cut_and_slipped), cmocka_unit_test(kinds_are_not_confused),
		cmocka_unit_test(one_spelling), cmocka_unit_test(versions), cmocka_unit_test(limits),
		cmocka_unit_test(refusals), cmocka_unit_test(fields_that_a_type_does_not_have),
		cmocka_unit_test(reserved_bits), cmocka_unit_test(types), cmocka_unit_test(sizes),
		cmocka_unit_test(statuses),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
