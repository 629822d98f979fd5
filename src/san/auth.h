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

/* From a file of 16 to 4096 bytes (a newline at the end is cut off). -EINVAL, -ENOENT, -EACCES (readable or writable
 * by others), with the sentence set. */
int san_secret_load(const char *path, struct san_secret *out);
void san_secret_wipe(struct san_secret *s);

enum san_role { SAN_CLIENT, SAN_SERVER };

/* The proof of `role`; zeros without a secret. */
void san_prove(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
	       const uint8_t server[WIRE_HELLO_SIZE], uint8_t mac[WIRE_MAC_SIZE]);
/* In constant time. Without a secret only zeros are right. */
bool san_proved(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
		const uint8_t server[WIRE_HELLO_SIZE], const uint8_t mac[WIRE_MAC_SIZE]);

/* Fresh random bytes. 0 or -errno. */
int san_nonce(uint8_t nonce[WIRE_NONCE_SIZE]);

/* The uid and pid behind a unix socket: 0, or -errno. */
int san_peer(int fd, uid_t *uid, pid_t *pid);

#endif
