/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* "unix:/path", "unix:@name", "tcp:host:port", "tcp:[v6]:port" (san.h). */
#ifndef HF_SAN_ADDRESS_H
#define HF_SAN_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct san_address {
	struct sockaddr_storage sa;
	socklen_t len;
	bool near; /* unix, or loopback: no other host can be there */
};

/* 0, or -EINVAL with the sentence set. A name is resolved (may block, allocates); every address of it must be near for
 * `near`. */
int san_address_parse(const char *text, struct san_address *out);
/* What getsockname(2) and getpeername(2) give, as text that parse understands; but for a unix socket without a name,
 * the usual one of who connects: "unix:". Cut to size. */
void san_address_print(const struct sockaddr_storage *sa, socklen_t len, char *out, size_t size);

#endif
