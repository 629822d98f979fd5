/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "auth.h"

#include <errno.h>
#include <fcntl.h>
#include <holdfast/backend.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os.h"

#define SECRET_MIN 16
#define SECRET_MAX 4096

_Static_assert(crypto_auth_hmacsha256_KEYBYTES == sizeof(((struct san_secret *)0)->key), "the key is one of HMAC's");
_Static_assert(crypto_auth_hmacsha256_BYTES == WIRE_MAC_SIZE, "the proof is HMAC's");
_Static_assert(crypto_hash_sha256_BYTES == crypto_auth_hmacsha256_KEYBYTES, "the key is a hash of the secret");

static int sodium_says;

static void start_sodium(void)
{
	sodium_says = sodium_init();
}

/* Who has no secret never gets here, and needs no more of it than a comparison. */
static int need_sodium(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start_sodium);
	return sodium_says < 0 ? hf_set_error(-EIO, "libsodium can't be started") : 0;
}

/* ------------------------------------------------------------------ the secret */

/* Who could have read or written it? */
static int is_private(const char *path, const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return hf_set_error(-EINVAL, "secret_file=%.100s is no plain file", path);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return hf_set_error(-EACCES, "secret_file=%.100s belongs to uid %u, who could change it: it must be uid %u's "
				    "or root's", path, st->st_uid, geteuid());
	if (st->st_mode & (S_IRWXG | S_IRWXO))
		return hf_set_error(-EACCES, "secret_file=%.100s has mode %04o: only its owner may have rights on it, "
				    "chmod 600 it", path, st->st_mode & 07777);
	return 0;
}

static ssize_t read_all(int fd, uint8_t *out, size_t size)
{
	size_t done = 0;
	ssize_t n;

	do {
		n = read(fd, out + done, size - done);
		if (n > 0)
			done += (size_t)n;
	} while ((n > 0 && done < size) || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : (ssize_t)done;
}

static int digest(const char *path, const uint8_t *text, size_t size, struct san_secret *out)
{
	if (size && text[size - 1] == '\n')
		size--;
	if (size < SECRET_MIN || size > SECRET_MAX)
		return hf_set_error(-EINVAL, "secret_file=%.100s has %s%zu bytes: %d to %d are wanted", path,
				    size > SECRET_MAX ? "at least " : "", size, SECRET_MIN, SECRET_MAX);
	crypto_hash_sha256(out->key, text, size);
	out->given = true;
	return 0;
}

static int load(int fd, const char *path, struct san_secret *out)
{
	uint8_t text[SECRET_MAX + 2]; /* one more than allowed, and the newline */
	struct stat st;
	ssize_t size;
	int rc = fstat(fd, &st) < 0 ? hf_set_error(-errno, "secret_file=%.100s: %s", path, strerror(errno)) :
				      is_private(path, &st);

	if (rc)
		return rc;
	size = read_all(fd, text, sizeof(text));
	rc = size < 0 ? hf_set_error((int)size, "secret_file=%.100s: %s", path, strerror((int)-size)) :
			digest(path, text, (size_t)size, out);
	sodium_memzero(text, sizeof(text));
	return rc;
}

int san_secret_load(const char *path, struct san_secret *out)
{
	int rc = need_sodium();
	int fd;

	*out = (struct san_secret){ 0 };
	if (rc)
		return rc;
	fd = os_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY); /* a fifo must not keep us waiting */
	if (fd < 0)
		return hf_set_error(fd, "secret_file=%.100s can't be opened: %s", path, strerror(-fd));
	rc = load(fd, path, out);
	close(fd);
	return rc;
}

void san_secret_wipe(struct san_secret *s)
{
	sodium_memzero(s, sizeof(*s));
}

/* ------------------------------------------------------------------ the proof */

void san_prove(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
	       const uint8_t server[WIRE_HELLO_SIZE], uint8_t mac[WIRE_MAC_SIZE])
{
	crypto_auth_hmacsha256_state h;

	memset(mac, 0, WIRE_MAC_SIZE);
	if (!s->given)
		return;
	crypto_auth_hmacsha256_init(&h, s->key, sizeof(s->key));
	crypto_auth_hmacsha256_update(&h, (const uint8_t *)(role == SAN_CLIENT ? "client" : "server"), 6);
	crypto_auth_hmacsha256_update(&h, client, WIRE_HELLO_SIZE);
	crypto_auth_hmacsha256_update(&h, server, WIRE_HELLO_SIZE);
	crypto_auth_hmacsha256_final(&h, mac);
	sodium_memzero(&h, sizeof(h));
}

bool san_proved(const struct san_secret *s, enum san_role role, const uint8_t client[WIRE_HELLO_SIZE],
		const uint8_t server[WIRE_HELLO_SIZE], const uint8_t mac[WIRE_MAC_SIZE])
{
	uint8_t want[WIRE_MAC_SIZE];
	bool same;

	san_prove(s, role, client, server, want);
	same = sodium_memcmp(want, mac, WIRE_MAC_SIZE) == 0;
	sodium_memzero(want, sizeof(want));
	return same;
}

int san_nonce(uint8_t nonce[WIRE_NONCE_SIZE])
{
	int rc = os_random(nonce, WIRE_NONCE_SIZE);

	return rc ? hf_set_error(rc, "no random bytes for a challenge: getrandom(2) says %s", strerror(-rc)) : 0;
}

/* ------------------------------------------------------------------ the uid */

int san_peer(int fd, uid_t *uid, pid_t *pid)
{
	struct ucred who;
	socklen_t size = sizeof(who), domain_size = sizeof(int);
	int domain;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return hf_set_error(-errno, "who is at the other end of descriptor %d? %s", fd, strerror(errno));
	if (domain != AF_UNIX) /* elsewhere the kernel answers nobody, and no error */
		return hf_set_error(-EOPNOTSUPP, "only a unix socket says which user is at its other end");
	*uid = who.uid;
	*pid = who.pid;
	return 0;
}
