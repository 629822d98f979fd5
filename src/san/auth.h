/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Who is there: the uid behind a unix socket, and the proof of a shared secret.
 *
 *   mac(role) = HMAC-SHA-256(key = SHA-256(secret), role || client's HELLO || server's HELLO), role "client" or "server"
 *
 * Both HELLOs whole, so that nobody in between changes limits or versions; the role, so that a proof can't be sent back.
 */
#ifndef HF_SAN_AUTH_H
#define HF_SAN_AUTH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire.h"

struct san_secret {
	bool given;
	uint8_t key[32];
};

/*
 * From a file with 16 to 4096 bytes and perhaps a newline, which is cut off. With the sentence set: -EINVAL (its size,
 * or no plain file), -EACCES (anyone but its owner has rights on it, or that is neither who we are nor root), -ENOENT and
 * what else open(2) says, -EIO.
 */
int san_secret_load(const char *path, struct san_secret *out);
void san_secret_wipe(struct san_secret *s);

enum san_role { SAN_CLIENT, SAN_SERVER };

/* The proof of `role`; zeros without a secret. */
void san_prove(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
	       const uint8_t server[WIRE_HELLO_SIZE], uint8_t mac[WIRE_MAC_SIZE]);
/* In constant time. Without a secret only zeros are right. */
bool san_proved(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
		const uint8_t server[WIRE_HELLO_SIZE], const uint8_t mac[WIRE_MAC_SIZE]);

/* Fresh random bytes. 0, or -errno with the sentence set. */
int san_nonce(uint8_t nonce[WIRE_NONCE_SIZE]);

/*
 * The uid and pid behind a unix socket, as the kernel noted them: for who accepts, at the peer's connect(); for who
 * connects, at the peer's listen(). 0, or -errno with the sentence set: -EOPNOTSUPP (no unix socket).
 */
int san_peer(int fd, uid_t *uid, pid_t *pid);

#endif
