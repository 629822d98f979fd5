/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The life of a connection. */
#include "sock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "listen.h"
#include "qp.h"

#ifdef HF_FAULTS
void (*_Atomic san_step)(const char *what);
#endif

#define ROOM (1 << 20) /* bytes that a socket may hold in each direction: asked for, the kernel may give less */
#define PATIENCE 1000  /* how often the lock is offered before it is taken again */

/* ------------------------------------------------------------------ the lock */

int sock_enter(struct hf_sock *s)
{
	return s ? hf_provider_enter(s->p) : hf_set_error(-EINVAL, "the socket is NULL");
}

int sock_enter_connected(struct hf_sock *s)
{
	int rc = sock_enter(s);

	if (!rc && s->listener)
		rc = hf_set_error(-EINVAL, "the socket listens: use one that hf_accept() or hf_connect() gave");
	return rc;
}

void sock_lock(struct hf_sock *s)
{
	atomic_fetch_add(&s->wanted, 1);
	pthread_mutex_lock(&s->lock);
	atomic_fetch_sub(&s->wanted, 1);
}

void sock_unlock(struct hf_sock *s)
{
	pthread_mutex_unlock(&s->lock);
}

/* A mutex goes to who comes first, and who has just let go of it is the nearest. */
void sock_breathe(struct hf_sock *s)
{
	if (!atomic_load(&s->wanted))
		return;
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < PATIENCE && atomic_load(&s->wanted); i++)
		sched_yield();
	pthread_mutex_lock(&s->lock);
}

/* ------------------------------------------------------------------ the beginning */

int sock_can_move(struct hf_provider *p)
{
	int rc = p->ops.qp ? 0 : p->ops.move ? p->ops.move(p->nic, HF_READ, -1, NULL, 0, 0) : -EOPNOTSUPP;

	if (!rc)
		return 0;
	return hf_set_error(rc, "the NIC \"%s\" has no queue pairs, and can't move data by stream sockets here (%s): open a "
			    "provider on \"uring\", with a ring of its own", p->ops.name, strerror(-rc));
}

const struct carrier *sock_carrier(const struct hf_provider *p)
{
	return p->ops.qp ? &carrier_qp : &carrier_stream;
}

void made_drop(const struct made *made)
{
	qp_close(made->qp);
	san_close(made->fd);
}

void sock_describe(struct hf_sock *s)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	if (getsockname(s->fd, (struct sockaddr *)&sa, &len) == 0)
		san_address_print(&sa, len, s->local, sizeof(s->local));
	len = sizeof(sa);
	if (!s->listener && getpeername(s->fd, (struct sockaddr *)&sa, &len) == 0)
		san_address_print(&sa, len, s->peer, sizeof(s->peer));
	s->peer_uid = (uid_t)-1;
	s->peer_pid = 0;
	if (!s->listener && san_peer(s->fd, &s->peer_uid, &s->peer_pid))
		s->peer_uid = (uid_t)-1;
}

static void tune(int fd)
{
	int on = 1, room = ROOM, idle = 60, interval = 10, count = 6;

	/* What a socket doesn't have it refuses, and nothing is lost. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	/* A host that is switched off says nothing: it is missed after two minutes. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static void sock_free(struct hf_sock *s)
{
	free(s->mr);
	free(s->credits);
	free(s->answers);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static struct hf_sock *sock_new(const struct made *made)
{
	struct hf_sock *s = os_calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->lock, NULL);
	queue_init(&s->queued);
	queue_init(&s->begun);
	queue_init(&s->receives);
	exposures_init(&s->exposures);
	s->credits = os_calloc(made->window, sizeof(*s->credits));
	s->answers = os_calloc(made->window, sizeof(*s->answers));
	if (s->credits && s->answers)
		return s;
	sock_free(s);
	return NULL;
}

static struct hf_sock *fill(struct hf_provider *p, struct engine *e, struct hf_cq *cq, const struct made *made)
{
	struct hf_sock *s = sock_new(made);

	if (!s)
		return NULL;
	s->watch.kind = WATCH_SOCK;
	s->carrier = sock_carrier(p);
	s->qp = made->qp;
	s->p = p;
	s->e = e;
	s->cq = cq;
	s->fd = made->fd;
	s->max_message = made->max_message;
	s->max_rdma = made->max_rdma;
	s->depth = made->depth;
	s->window = made->window;
	sock_describe(s);
	tune(s->fd);
	return s;
}

/* lock: so that it can't end before all of it is in. */
static int watch_all(struct hf_sock *s)
{
	int rc = engine_add(s->e, s->fd, EPOLLIN, &s->watch);

	if (rc || !s->qp)
		return rc;
	rc = qp_enter(s);
	if (rc)
		engine_del(s->e, s->fd);
	return rc;
}

static int into_engine(struct hf_sock *s)
{
	int rc = cq_use(s->cq);

	if (rc)
		return rc;
	s->events = EPOLLIN;
	sock_lock(s);
	rc = watch_all(s);
	if (rc)
		s->error = -ECANCELED; /* the engine may have an event of it, and waits */
	sock_unlock(s);
	if (!rc && s->qp)
		qp_join(s);
	if (rc) {
		engine_pass(s->e);
		cq_unuse(s->cq);
	}
	return rc;
}

int sock_make(struct hf_provider *p, struct engine *e, struct hf_cq *cq, const struct made *made,
	      struct hf_sock **out)
{
	struct hf_sock *s = fill(p, e, cq, made);
	int rc = s ? into_engine(s) : hf_set_error(-ENOMEM, "no memory for a socket");

	if (!rc) {
		*out = s;
		STEP("made");
		return 0;
	}
	if (s)
		sock_free(s);
	made_drop(made);
	return rc;
}

/* ------------------------------------------------------------------ the end */

void count_refused(struct hf_sock *s, int status)
{
	s->refused += status == -EACCES || status == -ERANGE;
}

/* lock: every operation, in the order of their posts, to be completed. */
static void collect(struct hf_sock *s, struct op_queue *all)
{
	struct op_queue *from[] = { &s->begun, &s->queued, &s->receives };
	struct san_op *op;

	queue_init(all);
	for (unsigned i = 0; i < 3; i++)
		while ((op = queue_pop(from[i])))
			queue_push(all, op);
	s->uncredited = NULL;
}

/* lock: no byte moves any more, and the peer has no rights. */
static void stop_moving(struct hf_sock *s, int status)
{
	s->error = status;
	exposures_destroy(&s->exposures);
	for (uint32_t i = 0; i < s->mr_slots; i++)
		if (s->mr[i])
			s->mr[i]->exposed = false;
	if (s->events)
		engine_del(s->e, s->fd);
	s->events = 0;
	if (s->qp)
		qp_stop(s);
}

void sock_fail(struct hf_sock *s, int status)
{
	struct op_queue all;
	struct san_op *op;

	if (s->error)
		return;
	STEP("fail");
	if (s->qp)
		qp_take_last(s);
	stop_moving(s, status);
	shutdown(s->fd, SHUT_RDWR);
	collect(s, &all);
	while ((op = queue_pop(&all)))
		op_complete(s, op, op->done ? op->completed.c.status : status);
}

/* What is not read when a socket is closed makes the kernel tell the peer of a broken connection. */
static void read_away(int fd)
{
	char scratch[16 << 10];

	for (int i = 0; i < 64; i++)
		if (recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) <= 0)
			return;
}

/* The peer's access, then the memory. */
static void release_all(struct hf_sock *s)
{
	for (uint32_t i = 0; i < s->mr_slots; i++) {
		if (!s->mr[i])
			continue;
		s->carrier->conceal(s, s->mr[i]);
		mr_release(s, s->mr[i]);
	}
}

/* BYE, before a queue pair stops: what that does to the peer's is understood by it. */
static void stop_for_good(struct hf_sock *s)
{
	sock_lock(s);
	if (!s->error && s->qp)
		qp_take_last(s);
	if (!s->error)
		tx_bye(s);
	stop_moving(s, s->error ? s->error : -ECANCELED);
	sock_unlock(s);
	if (s->qp)
		qp_leave(s);
	engine_pass(s->e);
}

/* Nobody else is here, the engine neither. */
static void close_connected(struct hf_sock *s)
{
	struct op_queue all;
	struct san_op *op;

	stop_for_good(s);
	shutdown(s->fd, SHUT_WR);
	read_away(s->fd);
	hf_close_on_fork_done(s->fd);
	close(s->fd);
	STEP("closed");
	/* The memory first, then the completion (R45). */
	collect(s, &all);
	release_all(s);
	qp_close(s->qp);
	STEP("let go");
	while ((op = queue_pop(&all))) {
		op->segments = 0; /* gone already */
		op_complete(s, op, op->done ? op->completed.c.status : s->error);
	}
	cq_unuse(s->cq);
}

int hf_sock_close(struct hf_sock *s)
{
	struct hf_provider *p;
	int rc;

	if (!s)
		return 0;
	rc = sock_enter(s);
	if (rc)
		return rc;
	p = s->p;
	if (s->listener)
		listener_close(s);
	else
		close_connected(s);
	sock_free(s);
	engine_leave(p);
	return 0;
}

/* ------------------------------------------------------------------ what it is */

int hf_sock_fd(const struct hf_sock *s)
{
	int rc = sock_enter((struct hf_sock *)s);

	if (rc)
		return rc;
	if (!s->listener)
		return hf_set_error(-EINVAL, "a connected socket has no descriptor to poll: use hf_cq_fd()");
	return listener_fd(s->listener);
}

int hf_sock_info(struct hf_sock *s, struct hf_sock_info *out, size_t size)
{
	struct hf_sock_info i = { 0 };
	int rc = sock_enter(s);

	if (rc)
		return rc;
	if (!out || size < sizeof(uint64_t))
		return hf_set_error(-EINVAL, "no place for what there is to say about the socket");
	sock_lock(s);
	i.max_message = s->max_message;
	i.max_rdma = s->max_rdma;
	i.exposures = s->exposures.count;
	i.refused = s->refused;
	i.connected = !s->listener && !s->error;
	i.error = s->error;
	sock_unlock(s);
	i.peer_uid = s->peer_uid;
	i.peer_pid = s->peer_pid;
	memcpy(i.local, s->local, sizeof(i.local));
	memcpy(i.peer, s->peer, sizeof(i.peer));
	i.size = size < sizeof(i) ? size : sizeof(i);
	memcpy(out, &i, i.size);
	return 0;
}
