/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../os.h"
#include "../thread.h"
#include "qp.h"

#define EVENTS 32

int engine_add(struct engine *e, int fd, uint32_t events, struct watch *w)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (FAULT("epoll add") || epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		return hf_set_error(-ENOMEM, "the engine can't watch one socket more: out of memory, or over "
					     "fs.epoll.max_user_watches");
	return 0;
}

int engine_change(struct engine *e, int fd, uint32_t events, struct watch *w)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	return epoll_ctl(e->epoll, EPOLL_CTL_MOD, fd, &ev) < 0 ? -errno : 0;
}

void engine_del(struct engine *e, int fd)
{
	epoll_ctl(e->epoll, EPOLL_CTL_DEL, fd, NULL);
}

void engine_wake(struct engine *e)
{
	uint64_t one = 1;

	while (write(e->event, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void engine_pass(struct engine *e)
{
	uint32_t seen = atomic_load(&e->batches);

	atomic_fetch_add(&e->passing, 1);
	engine_wake(e);
	while (atomic_load(&e->batches) == seen)
		os_wait(&e->batches, seen);
	atomic_fetch_sub(&e->passing, 1);
}

/* ------------------------------------------------------------------ the thread */

static void sock_ready(struct hf_sock *s, uint32_t events)
{
	sock_lock(s);
	if (!s->error && (s->tx.broken || (events & (EPOLLIN | EPOLLHUP | EPOLLERR))))
		rx_run(s, SAN_BUDGET);
	if (!s->error)
		tx_run(s, SAN_BUDGET);
	sock_unlock(s);
}

static void woken(struct engine *e)
{
	uint64_t n;

	if (read(e->event, &n, sizeof(n)) < 0)
		return; /* EAGAIN: nobody */
}

static void dispatch(struct engine *e, const struct epoll_event *ev)
{
	struct watch *w = ev->data.ptr;

	if (w->kind == WATCH_SOCK) {
		sock_ready((struct hf_sock *)w, ev->events);
		return;
	}
	if (w->kind == WATCH_WAKE) {
		woken(e);
		return;
	}
	if (w->kind == WATCH_QP_DONE || w->kind == WATCH_QP_TOLD) {
		(w->kind == WATCH_QP_DONE ? qp_done_ready : qp_told_ready)(w);
		return;
	}
	pthread_mutex_lock(&e->lock);
	if (w->kind == WATCH_LISTENER)
		listener_ready(e, w);
	else
		handshake_ready(e, w);
	pthread_mutex_unlock(&e->lock);
}

/* Between two batches; when to wake up without an event. */
static int between(struct engine *e)
{
	int ms;

	pthread_mutex_lock(&e->lock);
	handshakes_free_dead(e);
	ms = handshakes_expire(e);
	pthread_mutex_unlock(&e->lock);
	atomic_fetch_add(&e->batches, 1);
	if (atomic_load(&e->passing))
		os_wake_all(&e->batches);
	return ms;
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;
	struct epoll_event ev[EVENTS];

	while (!atomic_load(&e->stop)) {
		int n, ms = between(e);

		thread_rest();
		n = epoll_wait(e->epoll, ev, EVENTS, ms);
		thread_work();
		for (int i = 0; i < n; i++)
			dispatch(e, &ev[i]);
	}
	return NULL;
}

/* ------------------------------------------------------------------ life */

static void close_fd(int fd)
{
	if (fd < 0)
		return;
	hf_close_on_fork_done(fd);
	close(fd);
}

static void destroy(struct engine *e)
{
	close_fd(e->event);
	close_fd(e->epoll);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static int no_descriptor(int rc)
{
	return hf_set_error(rc, "no descriptors for the sockets' engine: %s; raise ulimit -n", strerror(-rc));
}

static int open_fds(struct engine *e)
{
	int rc;

	e->event = os_eventfd();
	if (e->event < 0)
		return no_descriptor(e->event);
	e->epoll = FAULT("epoll") ? -1 : epoll_create1(EPOLL_CLOEXEC);
	if (e->epoll < 0)
		return no_descriptor(-EMFILE);
	rc = hf_close_on_fork(e->event);
	if (!rc)
		rc = hf_close_on_fork(e->epoll);
	return rc ? rc : engine_add(e, e->event, EPOLLIN, &e->wake);
}

static int start(struct hf_provider *p, struct engine **out)
{
	struct engine *e = os_calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return hf_set_error(-ENOMEM, "no memory for the sockets' engine");
	e->p = p;
	e->wake.kind = WATCH_WAKE;
	e->event = e->epoll = -1;
	pthread_mutex_init(&e->lock, NULL);
	rc = open_fds(e);
	if (!rc) {
		rc = os_thread_start(&e->thread, "hf-san", engine_main, e);
		if (rc)
			hf_set_error(rc, "the sockets' engine: no thread can be started: %s", strerror(-rc));
	}
	if (rc)
		destroy(e);
	else
		*out = e;
	return rc;
}

int engine_enter(struct hf_provider *p, struct engine **out)
{
	int rc = 0;

	/* Two threads may open a provider's first socket at once. */
	pthread_mutex_lock(&p->san_lock);
	if (!p->engine)
		rc = start(p, &p->engine);
	if (!rc) {
		atomic_fetch_add(&p->conns, 1);
		*out = p->engine;
	}
	pthread_mutex_unlock(&p->san_lock);
	return rc;
}

void engine_leave(struct hf_provider *p)
{
	atomic_fetch_sub(&p->conns, 1);
}

void engine_stop(struct engine *e)
{
	if (!e)
		return;
	atomic_store(&e->stop, true);
	engine_wake(e);
	os_thread_join(&e->thread);
	handshakes_free_dead(e);
	destroy(e);
}
