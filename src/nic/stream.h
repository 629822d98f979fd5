/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Messages over a stream socket, what the NICs have in common: the header before each, and what is said when one fails.
 *
 *   on the wire, little-endian     u32 magic  u32 version  u32 length  u32 check
 *
 * Each waits where it must; a NIC says when one message may go at a time.
 */
#ifndef HF_NIC_STREAM_H
#define HF_NIC_STREAM_H

#include <holdfast/backend.h>
#include <stddef.h>
#include <stdint.h>

/* What a NIC's headers begin with. */
struct stream_kind {
	const char *nic;
	uint32_t magic, version;
};

/* 0, or the error for a socket that can't have a connection; else it sends at once from now on. */
int stream_prepare(int fd);

int stream_wait(int fd, short events);
int stream_write(int fd, const void *data, size_t len, int flags); /* MSG_MORE */
int stream_read(int fd, void *data, size_t len); /* -ECONNRESET at the end of the stream */

int stream_send_header(int fd, const struct stream_kind *k, uint32_t length, int flags);
int stream_recv_header(int fd, const struct stream_kind *k, uint32_t *length); /* -EPROTO for what is none */

/* Sentences: each returns the error, 0 too. */
int stream_why_length(uint64_t len);
int stream_why_send(int rc, uint64_t len);
int stream_why_recv(int rc, const struct stream_kind *k, uint64_t len, uint64_t got);

#endif
