/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The wire format (src/san/wire.h): what is accepted has one spelling and keeps the rules of docs/wire.md, which are
 * written down here once more in another way. What is refused leaves nothing behind.
 *
 * The input is a stream of headers, each with a byte before it: hello, proof, frame or where a queue pair is; as it is, with
 * the check word made right (as an attacker can), or as fields that are put and got.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "san/wire.h"

#define LARGEST WIRE_QP_SIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz wire: %s\n", what);
	abort();
}

/* By the plain one, so that the two are compared, too. */
static void reseal(uint8_t *header, size_t size)
{
	uint32_t crc = wire_crc32c_plain(0, header, size - 4);

	for (size_t i = 0; i < 4; i++)
		header[size - 4 + i] = (uint8_t)(crc >> 8 * i);
}

/* ------------------------------------------------------------------ the rules */

static bool empty(const uint8_t *p, size_t size)
{
	static const uint8_t zeros[LARGEST];

	return !memcmp(p, zeros, size);
}

static bool known(int32_t status)
{
	return status <= 0 && wire_status(status) == status;
}

static bool good_hello(const struct wire_hello *h)
{
	return (h->version_min == 1 || h->version_min == 2) && h->version_max >= h->version_min && h->depth >= 1 &&
	       (int64_t)h->max_message >= 0 && (int64_t)h->max_rdma >= 0;
}

static bool is_range_without_ours(unsigned min, unsigned max)
{
	return min > 2 && min <= max;
}

/* A piece of `whole` bytes that begins at `at`. */
static bool good_piece(const struct wire_frame *f, unsigned __int128 at, unsigned __int128 whole)
{
	unsigned __int128 end = at + f->length;

	if (f->length > 1048576 || end > whole || whole >> 63)
		return false;
	if (f->flags != (end == whole))
		return false;
	return f->length || !f->total;
}

static bool good_frame(const struct wire_frame *f)
{
	unsigned __int128 exposed = (unsigned __int128)f->offset + f->total;
	bool bare = empty(f->descriptor, sizeof(f->descriptor));

	switch (f->type) {
	case WIRE_CREDIT:
		return bare && !f->status && !f->flags && !f->length && !f->offset && f->total <= INT64_MAX;
	case WIRE_MESSAGE:
		return bare && !f->status && good_piece(f, f->offset, f->total);
	case WIRE_DATA:
		return bare && !f->status && f->length && good_piece(f, f->offset, f->total);
	case WIRE_WRITE:
		return !f->status && good_piece(f, 0, f->total) && exposed <= INT64_MAX;
	case WIRE_READ:
		return !f->status && !f->flags && !f->length && exposed <= INT64_MAX;
	case WIRE_DONE:
		return bare && !f->flags && !f->length && !f->offset && !f->total && known(f->status);
	case WIRE_BYE:
	case WIRE_READY:
		return bare && !f->op && !f->status && !f->flags && !f->length && !f->offset && !f->total;
	default:
		return false;
	}
}

/* ------------------------------------------------------------------ bytes to fields and back */

static void hello(const uint8_t *in)
{
	uint8_t again[WIRE_HELLO_SIZE], zeros[WIRE_HELLO_SIZE];
	struct wire_hello h, none = { 0 };
	int rc = wire_get_hello(in, &h);

	wire_put_hello(again, &h);
	wire_put_hello(zeros, &none);
	require(rc == 0 || rc == -EPROTO || rc == -EPROTONOSUPPORT, "a hello: the answer");
	require(!memcmp(again, rc ? zeros : in, sizeof(again)), "a hello has two spellings, or one refused leaves something");
	require(rc || good_hello(&h), "a hello is accepted against the rules");
	require(rc != -EPROTONOSUPPORT || is_range_without_ours(in[4] + 256u * in[5], in[6] + 256u * in[7]),
		"a hello is of another version");
}

static void proof(const uint8_t *in)
{
	uint8_t again[WIRE_PROOF_SIZE], zeros[WIRE_PROOF_SIZE];
	struct wire_proof p, none = { 0 };
	int rc = wire_get_proof(in, &p);

	wire_put_proof(again, &p);
	wire_put_proof(zeros, &none);
	require(rc == 0 || rc == -EPROTO, "a proof: the answer");
	require(!memcmp(again, rc ? zeros : in, sizeof(again)), "a proof has two spellings, or one refused leaves something");
	require(rc || (known(p.status) && (!p.status || empty(p.mac, sizeof(p.mac)))), "a proof is accepted against the rules");
}

static void qp(const uint8_t *in)
{
	uint8_t again[WIRE_QP_SIZE], zeros[WIRE_QP_SIZE];
	struct wire_qp q, none = { 0 };
	int rc = wire_get_qp(in, &q);

	wire_put_qp(again, &q);
	wire_put_qp(zeros, &none);
	require(rc == 0 || rc == -EPROTO, "a queue pair: the answer");
	require(!memcmp(again, rc ? zeros : in, sizeof(again)), "a queue pair has two spellings, or one refused leaves something");
	require(rc || (int64_t)q.max > 0, "a queue pair is accepted against the rules");
}

static void frame(const uint8_t *in)
{
	uint8_t again[WIRE_FRAME_SIZE], zeros[WIRE_FRAME_SIZE];
	struct wire_frame f, none = { 0 };
	int rc = wire_get_frame(in, &f);

	wire_put_frame(again, &f);
	wire_put_frame(zeros, &none);
	require(rc == 0 || rc == -EPROTO, "a frame: the answer");
	require(!memcmp(again, rc ? zeros : in, sizeof(again)), "a frame has two spellings, or one refused leaves something");
	require(rc || good_frame(&f), "a frame is accepted against the rules");
}

/* ------------------------------------------------------------------ fields to bytes and back */

static uint64_t take(const uint8_t **in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)*(*in)++ << 8 * i;
	return v;
}

static bool same(const struct wire_frame *a, const struct wire_frame *b)
{
	return a->type == b->type && a->flags == b->flags && a->op == b->op && a->status == b->status &&
	       a->length == b->length && a->offset == b->offset && a->total == b->total &&
	       !memcmp(a->descriptor, b->descriptor, sizeof(a->descriptor));
}

/* Small sizes, and those near each other, are what the rules are about. */
static uint64_t draw_size(const uint8_t **in, uint64_t other)
{
	uint8_t how = (uint8_t)take(in, 1);
	uint64_t v = take(in, 8);

	switch (how % 6) {
	case 0:
		return v & 7;
	case 1:
		return other;
	case 2:
		return other + (v & 7) - 3;
	case 3:
		return INT64_MAX - other + (v & 7) - 3;
	case 4:
		return (1u << 20) + (v & 7) - 3;
	default:
		return v;
	}
}

/* Accepted exactly if they keep the rules. */
static void fields(const uint8_t *in)
{
	uint8_t bytes[WIRE_FRAME_SIZE];
	struct wire_frame f = { .type = (enum wire_type)(take(&in, 1) % (WIRE_TYPES + 1)) }, back;
	uint8_t what = (uint8_t)take(&in, 1);

	f.flags = what & 3;
	f.op = what & 4 ? 0 : (uint32_t)take(&in, 2);
	f.status = what & 8 ? wire_status(-(int)take(&in, 1)) : 0;
	f.total = draw_size(&in, 0);
	f.offset = draw_size(&in, f.total);
	f.length = (uint32_t)draw_size(&in, what & 16 ? f.total : f.total - f.offset);
	if (what & 32)
		memcpy(f.descriptor, in, sizeof(f.descriptor));
	wire_put_frame(bytes, &f);
	require(!wire_get_frame(bytes, &back) == good_frame(&f), "a frame is accepted or refused against the rules");
	require(!good_frame(&f) || same(&f, &back), "a frame comes back as another");
}

/* ------------------------------------------------------------------ */

static void one(uint8_t how, uint8_t *header)
{
	static const size_t sizes[] = { WIRE_HELLO_SIZE, WIRE_PROOF_SIZE, WIRE_FRAME_SIZE, WIRE_FRAME_SIZE, WIRE_QP_SIZE };
	unsigned what = how & 8 ? 4 : how & 3;

	if (how & 4)
		reseal(header, sizes[what]);
	switch (what) {
	case 4:
		qp(header);
		break;
	case 0:
		hello(header);
		break;
	case 1:
		proof(header);
		break;
	case 2:
		frame(header);
		break;
	default:
		fields(header);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t header[LARGEST];

	while (size) {
		uint8_t how = *data++;
		size_t n = --size < sizeof(header) ? size : sizeof(header);

		memset(header, 0, sizeof(header));
		memcpy(header, data, n);
		require(wire_crc32c(0, header, n) == wire_crc32c_plain(0, header, n), "two check words");
		one(how, header);
		data += n;
		size -= n;
	}
	return 0;
}
