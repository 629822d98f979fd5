/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Each of the four headers begins with a magic and ends with a check word over all before it. Little-endian.
 *
 *        HELLO                  PROOF, REFUSE          QP               frame
 *    0   magic "HFSh"           magic "HFSp"           magic "HFSq"     magic "HFSf"
 *    4   version_min, _max      status                 0                type, flags (2 bytes each)
 *    8   max_message            mac                    max              op
 *   12                                                                  status
 *   16   max_rdma                                      address          length
 *   20                                                                  0
 *   24   nonce                                                          offset
 *   32                                                                  total
 *   40                          0                                       descriptor
 *   44                          check
 *   56   depth
 *   60   check
 *   72                                                                  0
 *   76                                                                  check
 *   80                                                 check
 */
#include "wire.h"

#include <errno.h>
#include <string.h>

#define MAGIC_HELLO 0x68534648u /* "HFSh" */
#define MAGIC_PROOF 0x70534648u
#define MAGIC_QP    0x71534648u
#define MAGIC_FRAME 0x66534648u

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

/* ------------------------------------------------------------------ the check word */

/*
 * It keeps a stream that has slipped, or a byte that went bad on the way (TCP's sum misses one such packet in 65536),
 * from being taken for a length or an address. CRC-32C, because in headers of this size it finds every change of up
 * to 5 bits and every burst of up to 32, and processors have an instruction for it. It is no protection against an
 * attacker, who can compute it.
 */
uint32_t wire_crc32c_plain(uint32_t crc, const uint8_t *data, size_t size)
{
	/* The remainders of 4 bits by the polynomial 0x82f63b78 (bits reversed). */
	static const uint32_t rest[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	crc = ~crc;
	while (size--) {
		crc ^= *data++;
		crc = crc >> 4 ^ rest[crc & 15];
		crc = crc >> 4 ^ rest[crc & 15];
	}
	return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2")))
static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *data, size_t size)
{
	uint64_t rest = ~crc;

	for (; size >= 8; size -= 8, data += 8)
		rest = __builtin_ia32_crc32di(rest, get64(data));
	crc = (uint32_t)rest;
	while (size--)
		crc = __builtin_ia32_crc32qi(crc, *data++);
	return ~crc;
}

uint32_t wire_crc32c(uint32_t crc, const uint8_t *data, size_t size)
{
	return __builtin_cpu_supports("sse4.2") ? crc32c_sse42(crc, data, size) : wire_crc32c_plain(crc, data, size);
}
#else
uint32_t wire_crc32c(uint32_t crc, const uint8_t *data, size_t size)
{
	return wire_crc32c_plain(crc, data, size);
}
#endif

static void seal(uint8_t *header, size_t size)
{
	put32(header + size - 4, wire_crc32c(0, header, size - 4));
}

static bool is_sealed(const uint8_t *header, size_t size, uint32_t magic)
{
	return get32(header) == magic && get32(header + size - 4) == wire_crc32c(0, header, size - 4);
}

static bool is_zero(const uint8_t *p, size_t size)
{
	uint8_t any = 0;

	while (size--)
		any |= *p++;
	return !any;
}

/* ------------------------------------------------------------------ status */

/* The place is the number on the wire: only ever add at the end. */
static const int statuses[] = {
	0, EIO, ECANCELED, ESHUTDOWN, ECONNRESET, EPROTO, EMSGSIZE, EACCES, ERANGE, ESTALE, EPROTONOSUPPORT,
};

#define STATUSES (sizeof(statuses) / sizeof(statuses[0]))
#define OTHER 1u /* EIO */

static uint32_t status_number(int err)
{
	for (uint32_t i = 0; i < STATUSES; i++)
		if (err == -statuses[i])
			return i;
	return OTHER;
}

int32_t wire_status(int err)
{
	return -statuses[status_number(err)];
}

static bool get_status(const uint8_t *p, int32_t *out)
{
	uint32_t number = get32(p);

	if (number >= STATUSES)
		return false;
	*out = -statuses[number];
	return true;
}

/* ------------------------------------------------------------------ hello and proof */

void wire_put_hello(uint8_t out[WIRE_HELLO_SIZE], const struct wire_hello *h)
{
	put32(out, MAGIC_HELLO);
	put16(out + 4, h->version_min);
	put16(out + 6, h->version_max);
	put64(out + 8, h->max_message);
	put64(out + 16, h->max_rdma);
	memcpy(out + 24, h->nonce, WIRE_NONCE_SIZE);
	put32(out + 56, h->depth);
	seal(out, WIRE_HELLO_SIZE);
}

int wire_get_hello(const uint8_t in[WIRE_HELLO_SIZE], struct wire_hello *out)
{
	struct wire_hello h = {
		.version_min = get16(in + 4), .version_max = get16(in + 6),
		.max_message = get64(in + 8), .max_rdma = get64(in + 16), .depth = get32(in + 56),
	};

	*out = (struct wire_hello){ 0 };
	if (!is_sealed(in, WIRE_HELLO_SIZE, MAGIC_HELLO) || !h.version_min || h.version_min > h.version_max ||
	    h.max_message > WIRE_SIZE_MAX || h.max_rdma > WIRE_SIZE_MAX || !h.depth)
		return -EPROTO;
	if (!wire_speaks(&h, WIRE_VERSION_STREAM) && !wire_speaks(&h, WIRE_VERSION_QP))
		return -EPROTONOSUPPORT;
	memcpy(h.nonce, in + 24, WIRE_NONCE_SIZE);
	*out = h;
	return 0;
}

void wire_put_proof(uint8_t out[WIRE_PROOF_SIZE], const struct wire_proof *p)
{
	put32(out, MAGIC_PROOF);
	put32(out + 4, status_number(p->status));
	memcpy(out + 8, p->mac, WIRE_MAC_SIZE);
	put32(out + 40, 0);
	seal(out, WIRE_PROOF_SIZE);
}

int wire_get_proof(const uint8_t in[WIRE_PROOF_SIZE], struct wire_proof *out)
{
	struct wire_proof p;

	*out = (struct wire_proof){ 0 };
	if (!is_sealed(in, WIRE_PROOF_SIZE, MAGIC_PROOF) || !get_status(in + 4, &p.status) || get32(in + 40))
		return -EPROTO;
	memcpy(p.mac, in + 8, WIRE_MAC_SIZE);
	if (p.status && !is_zero(p.mac, WIRE_MAC_SIZE))
		return -EPROTO;
	*out = p;
	return 0;
}

/* ------------------------------------------------------------------ queue pairs */

void wire_put_qp(uint8_t out[WIRE_QP_SIZE], const struct wire_qp *q)
{
	put32(out, MAGIC_QP);
	put32(out + 4, 0);
	put64(out + 8, q->max);
	memcpy(out + 16, q->address, WIRE_QP_ADDRESS);
	seal(out, WIRE_QP_SIZE);
}

int wire_get_qp(const uint8_t in[WIRE_QP_SIZE], struct wire_qp *out)
{
	uint64_t max = get64(in + 8);

	*out = (struct wire_qp){ 0 };
	if (!is_sealed(in, WIRE_QP_SIZE, MAGIC_QP) || get32(in + 4) || !max || max > WIRE_SIZE_MAX)
		return -EPROTO;
	out->max = max;
	memcpy(out->address, in + 16, WIRE_QP_ADDRESS);
	return 0;
}

/* ------------------------------------------------------------------ frames */

enum { OP = 1, STATUS = 2, TOTAL = 4, OFFSET = 8, PIECE = 16, DESCRIPTOR = 32 }; /* PIECE: length, and WIRE_LAST */

static const uint8_t has[WIRE_TYPES] = {
	[WIRE_CREDIT] = OP | TOTAL,
	[WIRE_MESSAGE] = OP | TOTAL | OFFSET | PIECE,
	[WIRE_WRITE] = OP | TOTAL | OFFSET | PIECE | DESCRIPTOR,
	[WIRE_READ] = OP | TOTAL | OFFSET | DESCRIPTOR,
	[WIRE_DATA] = OP | TOTAL | OFFSET | PIECE,
	[WIRE_DONE] = OP | STATUS,
	[WIRE_BYE] = 0,
	[WIRE_READY] = 0,
};

/* What the type doesn't have is 0. */
static bool has_no_more(const struct wire_frame *f, uint8_t fields)
{
	return (fields & OP || !f->op) && (fields & STATUS || !f->status) && (fields & TOTAL || !f->total) &&
	       (fields & OFFSET || !f->offset) && (fields & PIECE || (!f->length && !f->flags)) &&
	       (fields & DESCRIPTOR || is_zero(f->descriptor, WIRE_DESCRIPTOR_SIZE));
}

/* A piece is in its whole, is the last one exactly when it says so, and isn't empty but for a whole that is. */
static bool piece_fits(const struct wire_frame *f)
{
	uint64_t left = f->type == WIRE_WRITE ? f->total : f->total - f->offset;

	if (f->type != WIRE_WRITE && f->offset > f->total)
		return false;
	if (f->length > WIRE_CHUNK_MAX || f->length > left || (f->length == left) != (f->flags == WIRE_LAST))
		return false;
	return f->length || (!f->total && f->type != WIRE_DATA);
}

static bool sizes_fit(const struct wire_frame *f, uint8_t fields)
{
	if (f->offset > WIRE_SIZE_MAX || f->total > WIRE_SIZE_MAX)
		return false;
	if (fields & DESCRIPTOR && f->offset + f->total > WIRE_SIZE_MAX)
		return false;
	return !(fields & PIECE) || piece_fits(f);
}

void wire_put_frame(uint8_t out[WIRE_FRAME_SIZE], const struct wire_frame *f)
{
	put32(out, MAGIC_FRAME);
	put16(out + 4, (uint16_t)f->type);
	put16(out + 6, f->flags);
	put32(out + 8, f->op);
	put32(out + 12, status_number(f->status));
	put32(out + 16, f->length);
	put32(out + 20, 0);
	put64(out + 24, f->offset);
	put64(out + 32, f->total);
	memcpy(out + 40, f->descriptor, WIRE_DESCRIPTOR_SIZE);
	put32(out + 72, 0);
	seal(out, WIRE_FRAME_SIZE);
}

int wire_get_frame(const uint8_t in[WIRE_FRAME_SIZE], struct wire_frame *out)
{
	uint16_t type = get16(in + 4);
	struct wire_frame f = {
		.flags = get16(in + 6), .op = get32(in + 8), .length = get32(in + 16),
		.offset = get64(in + 24), .total = get64(in + 32),
	};

	*out = (struct wire_frame){ 0 };
	if (!is_sealed(in, WIRE_FRAME_SIZE, MAGIC_FRAME) || !type || type >= WIRE_TYPES || f.flags & ~WIRE_LAST ||
	    !get_status(in + 12, &f.status) || get32(in + 20) || get32(in + 72))
		return -EPROTO;
	f.type = (enum wire_type)type;
	memcpy(f.descriptor, in + 40, WIRE_DESCRIPTOR_SIZE);
	if (!has_no_more(&f, has[type]) || !sizes_fit(&f, has[type]))
		return -EPROTO;
	*out = f;
	return 0;
}
