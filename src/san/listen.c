/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* hf_listen(), hf_accept(), hf_connect(). */
#include "listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128
#define PAUSE_MS 100       /* without descriptors */
#define DIR_PATIENCE_MS 1000
#define BUSY_US 1000       /* between two tries while a backlog is full */

int listener_fd(const struct listener *l)
{
	return l->event;
}

/* ------------------------------------------------------------------ taking in: engine->lock is held */

static void pause_until(struct engine *e, struct listener *l, uint64_t until)
{
	l->paused = true;
	l->paused_until = until;
	engine_change(e, l->sock->fd, 0, &l->sock->watch);
}

static void resume(struct engine *e, struct listener *l)
{
	l->paused = false;
	engine_change(e, l->sock->fd, EPOLLIN, &l->sock->watch);
}

uint64_t listeners_resume(struct engine *e, uint64_t now)
{
	uint64_t next = 0;

	for (struct listener *l = e->listeners; l; l = l->next) {
		if (l->paused && l->paused_until && l->paused_until <= now)
			resume(e, l);
		else if (l->paused && l->paused_until && (!next || l->paused_until < next))
			next = l->paused_until;
	}
	return next;
}

static void show(struct listener *l)
{
	uint64_t n = 1;

	if (l->count == 1 && write(l->event, &n, sizeof(n)) < 0)
		return; /* it is readable already */
}

void listener_push(struct listener *l, const struct made *made)
{
	l->ready[(l->first + l->count++) % READY_MAX] = *made;
	show(l);
}

/* False: nobody is ready. */
static bool take_ready(struct engine *e, struct listener *l, struct made *out)
{
	uint64_t n;
	bool any;

	pthread_mutex_lock(&e->lock);
	any = l->count != 0;
	if (any) {
		*out = l->ready[l->first];
		l->first = (l->first + 1) % READY_MAX;
		if (!--l->count && read(l->event, &n, sizeof(n)) < 0)
			n = 0;
		if (l->paused && !l->paused_until)
			resume(e, l);
	}
	pthread_mutex_unlock(&e->lock);
	return any;
}

void listener_ready(struct engine *e, struct watch *w)
{
	struct hf_sock *s = (struct hf_sock *)w;
	struct listener *l = s->listener;

	while (l->count < READY_ENOUGH) {
		int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			handshake_begin(e, l, fd);
		else if (errno == EAGAIN)
			return;
		else if (errno != EINTR && errno != ECONNABORTED) {
			pause_until(e, l, os_now_ns() + PAUSE_MS * 1000000ull);
			return;
		}
	}
	pause_until(e, l, 0);
}

/* ------------------------------------------------------------------ a path in the file system */

/*
 * A listener that was killed leaves its path behind. Whether one is such a left-over is found out by connecting; between that
 * and the bind of our own nobody else may come, so all who listen in a directory do it under a lock of that
 * directory. One that can't be locked is used without.
 */
static int lock_directory(const char *path)
{
	char copy[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int fd;

	strcpy(copy, path);
	fd = os_open(dirname(copy), O_RDONLY | O_DIRECTORY);
	for (int ms = 0; fd >= 0 && ms < DIR_PATIENCE_MS && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; ms++)
		os_sleep_us(1000);
	return fd;
}

static bool is_left_over(const struct san_address *a)
{
	const char *path = ((const struct sockaddr_un *)&a->sa)->sun_path;
	struct stat st;
	int fd, refused;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)&a->sa, a->len) < 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int bind_path(int fd, struct listener *l)
{
	const struct san_address *a = &l->address;
	const char *path = ((const struct sockaddr_un *)&a->sa)->sun_path;
	int dir = lock_directory(path);
	int rc = bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 ? -errno : 0;

	if (rc == -EADDRINUSE && is_left_over(a) && unlink(path) == 0)
		rc = bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 ? -errno : 0;
	if (!rc) {
		l->has_path = lstat(path, &l->path) == 0;
		rc = listen(fd, BACKLOG) < 0 ? -errno : 0;
	}
	if (dir >= 0)
		close(dir);
	return rc;
}

/* Only if it is still the one that was made. */
static void remove_path(const struct listener *l)
{
	const char *path = ((const struct sockaddr_un *)&l->address.sa)->sun_path;
	struct stat st;

	if (l->has_path && lstat(path, &st) == 0 && st.st_dev == l->path.st_dev && st.st_ino == l->path.st_ino)
		unlink(path);
}

/* ------------------------------------------------------------------ listening */

static bool is_path(const struct san_address *a)
{
	return a->sa.ss_family == AF_UNIX && ((const struct sockaddr_un *)&a->sa)->sun_path[0];
}

/* A stream socket that neither blocks nor goes to children. */
static int open_socket(const struct san_address *a)
{
	int fd, rc;

	if (FAULT("socket"))
		return -EMFILE;
	fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	rc = hf_close_on_fork(fd);
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static int bind_and_listen(int fd, struct listener *l)
{
	int on = 1;

	if (is_path(&l->address))
		return bind_path(fd, l);
	if (l->address.sa.ss_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&l->address.sa, l->address.len) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return 0;
}

static int why_not(int rc, const char *what, const char *address)
{
	return hf_set_error(rc, "%s %.107s: %s", what, address, strerror(-rc));
}

/* All checks of the arguments that both ends share. */
static int prepare(struct hf_provider *p, const char *address, const char *options, struct san_address *a,
		   struct san_options *o)
{
	int rc = hf_provider_enter(p);

	if (!rc)
		rc = sock_can_move(p);
	if (!rc)
		rc = san_address_parse(address, a);
	if (!rc)
		rc = san_options_parse(options, o);
	if (!rc && !a->near && !o->secret.given) {
		san_secret_wipe(&o->secret);
		rc = hf_set_error(-EACCES, "%.107s may be another machine: give both sides secret_file=PATH", address);
	}
	return rc;
}

static int open_listener(struct hf_sock *s, const char *address)
{
	struct listener *l = s->listener;
	int rc;

	l->event = os_eventfd();
	if (l->event < 0)
		return hf_set_error(l->event, "no descriptors to listen with: raise ulimit -n");
	rc = hf_close_on_fork(l->event);
	if (rc)
		return rc;
	s->fd = open_socket(&l->address);
	if (s->fd < 0)
		return why_not(s->fd, "no socket for", address);
	rc = bind_and_listen(s->fd, l);
	return rc ? why_not(rc, "can't listen at", address) : 0;
}

static void destroy_listener(struct hf_sock *s)
{
	struct listener *l = s->listener;

	if (s->fd >= 0)
		san_close(s->fd);
	remove_path(l);
	if (l->event >= 0)
		san_close(l->event);
	san_secret_wipe(&l->options.secret);
	free(l);
}

static struct hf_sock *new_listener(struct hf_provider *p, struct engine *e, const struct san_address *a,
				    const struct san_options *o)
{
	struct hf_sock *s = os_calloc(1, sizeof(*s));
	struct listener *l = os_calloc(1, sizeof(*l));

	if (!s || !l) {
		free(s);
		free(l);
		return NULL;
	}
	*l = (struct listener){ .sock = s, .options = *o, .address = *a, .event = -1 };
	s->watch.kind = WATCH_LISTENER;
	s->p = p;
	s->e = e;
	s->fd = -1;
	s->listener = l;
	s->max_message = o->max_message;
	s->max_rdma = o->max_rdma;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

/* Into the engine's list before epoll tells of it. */
static int start_listening(struct hf_sock *s)
{
	struct engine *e = s->e;
	int rc;

	pthread_mutex_lock(&e->lock);
	rc = engine_add(e, s->fd, EPOLLIN, &s->watch);
	if (!rc) {
		s->listener->next = e->listeners;
		e->listeners = s->listener;
	}
	pthread_mutex_unlock(&e->lock);
	return rc;
}

static int listen_with(struct hf_provider *p, struct engine *e, const char *address, const struct san_address *a,
		       const struct san_options *o, struct hf_sock **out)
{
	struct hf_sock *s = new_listener(p, e, a, o);
	int rc;

	if (!s)
		return hf_set_error(-ENOMEM, "no memory to listen with");
	rc = open_listener(s, address);
	if (!rc)
		rc = start_listening(s);
	if (rc) {
		destroy_listener(s);
		pthread_mutex_destroy(&s->lock);
		free(s);
		return rc;
	}
	sock_describe(s);
	*out = s;
	return 0;
}

int hf_listen(struct hf_provider *p, const char *address, const char *options, struct hf_sock **out)
{
	struct san_address a;
	struct san_options o;
	struct engine *e;
	int rc = prepare(p, address, options, &a, &o);

	if (rc)
		return rc;
	if (out)
		*out = NULL;
	rc = out ? engine_enter(p, &e) : hf_set_error(-EINVAL, "no place for the socket");
	if (!rc) {
		rc = listen_with(p, e, address, &a, &o, out);
		if (rc)
			engine_leave(p);
	}
	san_secret_wipe(&o.secret);
	return rc;
}

void listener_close(struct hf_sock *s)
{
	struct engine *e = s->e;
	struct listener *l = s->listener, **at = &e->listeners;
	struct made made;

	pthread_mutex_lock(&e->lock);
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	engine_del(e, s->fd);
	handshakes_drop(e, l);
	pthread_mutex_unlock(&e->lock);
	engine_pass(e); /* it may have accepted one more, until now */
	pthread_mutex_lock(&e->lock);
	handshakes_drop(e, l);
	pthread_mutex_unlock(&e->lock);
	while (take_ready(e, l, &made))
		made_drop(&made);
	destroy_listener(s);
}

/* ------------------------------------------------------------------ accepting */

static uint64_t deadline(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : os_now_ns() + (uint64_t)timeout_ms * 1000000;
}

static int wait_ready(struct hf_sock *s, uint64_t until, struct made *made)
{
	struct pollfd p = { .fd = s->listener->event, .events = POLLIN };

	while (!take_ready(s->e, s->listener, made)) {
		uint64_t now = os_now_ns();
		uint64_t ms = now < until ? (until - now) / 1000000 + 1 : 0;

		if (!ms)
			return hf_set_error(-ETIMEDOUT, "nobody has connected to %s in time", s->local);
		if (poll(&p, 1, until == UINT64_MAX ? -1 : ms > INT_MAX ? INT_MAX : (int)ms) < 0 && errno != EINTR)
			return hf_set_error(-errno, "waiting for somebody to connect: %s", strerror(errno));
	}
	return 0;
}

static int make(struct hf_provider *p, struct hf_cq *cq, const struct made *made, struct hf_sock **out)
{
	struct engine *e;
	int rc = engine_enter(p, &e);

	if (rc) {
		made_drop(made);
		return rc;
	}
	rc = sock_make(p, e, cq, made, out);
	if (rc)
		engine_leave(p);
	return rc;
}

int hf_accept(struct hf_sock *listener, struct hf_cq *cq, int timeout_ms, struct hf_sock **out)
{
	uint64_t until = deadline(timeout_ms);
	struct made made;
	int rc = sock_enter(listener);

	if (!rc)
		rc = cq_enter(cq);
	if (!rc && !out)
		rc = hf_set_error(-EINVAL, "no place for the socket");
	if (rc)
		return rc;
	*out = NULL;
	if (!listener->listener)
		return hf_set_error(-EINVAL, "the socket is connected: only one of hf_listen() accepts");
	rc = wait_ready(listener, until, &made);
	return rc ? rc : make(listener->p, cq, &made, out);
}

/* ------------------------------------------------------------------ connecting */

static int finished(int fd)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	return -err;
}

static int wait_connected(int fd, uint64_t until)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	for (;;) {
		uint64_t now = os_now_ns();
		uint64_t ms = now < until ? (until - now) / 1000000 + 1 : 0;
		int n = ms ? poll(&p, 1, until == UINT64_MAX ? -1 : ms > INT_MAX ? INT_MAX : (int)ms) : 0;

		if (n > 0)
			return finished(fd);
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* A unix socket whose backlog is full answers EAGAIN, and there is nothing to wait for. */
static int connect_until(int fd, const struct san_address *a, uint64_t until)
{
	for (;;) {
		if (connect(fd, (const struct sockaddr *)&a->sa, a->len) == 0)
			return 0;
		if (errno == EINPROGRESS)
			return wait_connected(fd, until);
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (os_now_ns() >= until)
			return -ETIMEDOUT;
		os_sleep_us(BUSY_US);
	}
}

/* What the steps answer, in the words of san.h. */
static int why_not_connected(const struct hf_provider *p, int rc, const char *address)
{
	if (rc == -EPROTONOSUPPORT)
		return hf_set_error(-EPROTO, "%.107s speaks no version of the protocol that is spoken here, %u: version 1 is of NICs "
				    "that move data by the stream (uring), version 2 of those with queue pairs (verbs); open "
				    "providers of the same kind on both sides", address, sock_carrier(p)->version);
	if (rc == -EIO)
		return hf_set_error(rc, "the NIC at %.107s has no queue pair for this connection; its side knows why", address);
	if (rc == -EPROTO)
		return hf_set_error(rc, "what is at %.107s is no holdfast peer", address);
	if (rc == -EACCES)
		return hf_set_error(rc, "%.107s and this process don't trust each other: the same user or any_uid=on, and the "
				    "same secret_file on both sides", address);
	if (rc == -ECONNRESET || rc == -EPIPE)
		return hf_set_error(-EPROTO, "%.107s has hung up before hands were shaken", address);
	return why_not(rc, "can't connect to", address);
}

static int connect_with(struct hf_provider *p, struct made *made, const char *address, const struct san_address *a,
			const struct san_options *o, uint64_t until)
{
	bool nic = false;
	int rc;

	*made = (struct made){ .fd = open_socket(a) };
	if (made->fd < 0)
		return why_not(made->fd, "no socket for", address);
	rc = connect_until(made->fd, a, until);
	if (!rc)
		rc = handshake_client(p, made, o, until);
	if (!rc && p->ops.qp)
		rc = handshake_qp(p, made, until, &nic);
	if (!rc)
		return 0;
	made_drop(made);
	return nic ? rc : why_not_connected(p, rc, address);
}

int hf_connect(struct hf_provider *p, const char *address, const char *options, struct hf_cq *cq,
	       int timeout_ms, struct hf_sock **out)
{
	uint64_t until = deadline(timeout_ms);
	struct san_address a;
	struct san_options o;
	struct made made;
	int rc = prepare(p, address, options, &a, &o);

	if (rc)
		return rc;
	rc = cq_enter(cq);
	if (!rc && !out)
		rc = hf_set_error(-EINVAL, "no place for the socket");
	if (!rc) {
		*out = NULL;
		rc = connect_with(p, &made, address, &a, &o, until);
	}
	san_secret_wipe(&o.secret);
	return rc ? rc : make(p, cq, &made, out);
}
