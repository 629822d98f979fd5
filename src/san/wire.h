/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What two holdfast processes say to each other on a stream: docs/wire.md. Only turning bytes into fields and back, with
 * every length and every reserved bit checked: no allocation, no I/O, no state. Fuzzed (fuzz/wire.c).
 *
 *   client                               server
 *   ---------------------------------    ---------------------------------
 *   HELLO  versions, limits, nonce  ──►
 *                                   ◄──  HELLO  version, limits, nonce
 *   PROOF  of the secret            ──►
 *                                   ◄──  PROOF, or REFUSE with a reason
 *                                   ◄──  QP     where its queue pair is     version 2 only
 *   QP, READY                       ──►
 *                                   ◄──  READY
 *   from here on frames, in both directions, in version 1 each with its payload behind it
 */
#ifndef HF_SAN_WIRE_H
#define HF_SAN_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION_STREAM 1 /* the payload is behind the frames */
#define WIRE_VERSION_QP 2     /* it goes by queue pairs of the NICs */
#define WIRE_HELLO_SIZE 64
#define WIRE_NONCE_SIZE 32
#define WIRE_PROOF_SIZE 48   /* also REFUSE's */
#define WIRE_MAC_SIZE 32
#define WIRE_QP_SIZE 84
#define WIRE_QP_ADDRESS 64
#define WIRE_FRAME_SIZE 80
#define WIRE_DESCRIPTOR_SIZE 32
#define WIRE_CHUNK_MAX (1u << 20) /* payload behind one frame */
#define WIRE_SIZE_MAX ((uint64_t)INT64_MAX) /* of every size, offset and end: sums of two never wrap */

struct wire_hello {
	/* What the sender speaks. A server's answer: both the one chosen; or its own range when none fits, and it closes. */
	uint16_t version_min, version_max;
	uint64_t max_message, max_rdma;
	uint32_t depth;                    /* operations at once, at least 1 */
	uint8_t nonce[WIRE_NONCE_SIZE];
};

struct wire_proof {
	int32_t status;              /* 0: PROOF; else REFUSE, -errno as of wire_status() */
	uint8_t mac[WIRE_MAC_SIZE];  /* zeros without a secret, and in REFUSE */
};

struct wire_qp {
	uint64_t max;                      /* largest message or RDMA that it moves; at least 1 */
	uint8_t address[WIRE_QP_ADDRESS];  /* opaque: the NIC's */
};

enum wire_type {
	WIRE_CREDIT = 1, /* a receive was posted: total is its size, op its number */
	WIRE_MESSAGE,    /* a piece of a message: op is the sender's, offset where in it, total the whole */
	WIRE_WRITE,      /* a piece of an RDMA write: descriptor, offset into what it exposes; total: what is left of the
			  * write, this piece with it */
	WIRE_READ,       /* asks for total bytes from offset of the descriptor; no payload */
	WIRE_DATA,       /* a piece of the answer to READ op; offset counts from its start, total is the READ's; never empty */
	WIRE_DONE,       /* op of the peer's (message, write, read) has ended with status; no payload */
	WIRE_BYE,        /* nothing more will come */
	WIRE_READY,      /* version 2, once, behind the handshake: requests may be posted to the sender's queue pair */
	WIRE_TYPES
};

/* Flag of MESSAGE, WRITE and DATA: the last piece of this op. Set exactly when the sizes say so, too. */
#define WIRE_LAST 1u

struct wire_frame {
	enum wire_type type;
	uint16_t flags;
	uint32_t op;
	int32_t status;    /* <= 0, as of wire_status(); of DONE only */
	uint32_t length;   /* bytes of payload behind the frame; 0 only where total is, too */
	uint64_t offset;
	uint64_t total;
	uint8_t descriptor[WIRE_DESCRIPTOR_SIZE]; /* zeros but in WRITE and READ */
};

/*
 * get: 0; -EPROTO: not ours, damaged, a field that this type doesn't have is not 0, offset + length or total wraps or
 * doesn't fit; -EPROTONOSUPPORT: a hello of which no version is of this library. *out is all zeros then.
 *
 * Every accepted byte string is the one that put makes of its fields: there are no two spellings. put checks nothing.
 */
void wire_put_hello(uint8_t out[WIRE_HELLO_SIZE], const struct wire_hello *h);
int wire_get_hello(const uint8_t in[WIRE_HELLO_SIZE], struct wire_hello *out);
/* Is `version` one of those? */
static inline bool wire_speaks(const struct wire_hello *h, unsigned version)
{
	return h->version_min <= version && version <= h->version_max;
}
void wire_put_proof(uint8_t out[WIRE_PROOF_SIZE], const struct wire_proof *p);
int wire_get_proof(const uint8_t in[WIRE_PROOF_SIZE], struct wire_proof *out);
void wire_put_qp(uint8_t out[WIRE_QP_SIZE], const struct wire_qp *q);
int wire_get_qp(const uint8_t in[WIRE_QP_SIZE], struct wire_qp *out);
void wire_put_frame(uint8_t out[WIRE_FRAME_SIZE], const struct wire_frame *f);
int wire_get_frame(const uint8_t in[WIRE_FRAME_SIZE], struct wire_frame *out);

/*
 * What the peer will be told for `err`, 0 or -errno: itself for those of san.h and -EPROTONOSUPPORT; -EIO for all others.
 * On the wire they are numbers of our own, since errno's differ between machines.
 */
int32_t wire_status(int err);

/* The check word's CRC-32C, going on from `crc` (0 at first). The plain one is for machines without an instruction. */
uint32_t wire_crc32c(uint32_t crc, const uint8_t *data, size_t size);
uint32_t wire_crc32c_plain(uint32_t crc, const uint8_t *data, size_t size);

#endif
