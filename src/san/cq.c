/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "cq.h"

#include <errno.h>
#include <holdfast/backend.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "../os.h"

struct hf_cq {
	uint32_t process;         /* which process has opened it */
	pthread_mutex_t lock;
	pthread_cond_t more;      /* with lock: the list was empty, and is no more */
	struct completed *first, **last;
	unsigned sockets;         /* that use it */
	int fd;                   /* eventfd */
	bool asked;               /* somebody has asked for fd: else it is not kept up to date */
	bool readable;            /* fd is */
	pthread_mutex_t polling;  /* cq.h */
	struct cq_source *sources;
	_Atomic unsigned source_count;
	_Atomic unsigned parting; /* callers that wait for `polling`: no poller takes it before them */
};

/* ------------------------------------------------------------------ whose is it */

/*
 * A word that the kernel wipes to 0 in a forked child. Each process that opens queues gives it a number of its own, one
 * more than its parent's, so that what the parent opened is not mistaken for the child's (I7).
 */
static _Atomic uint32_t *process_word;
static _Atomic uint32_t process_last;

static void map_word(void)
{
	process_word = os_fork_word();
}

/* This process's number, made if need be; 0: no memory. */
static uint32_t this_process(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	uint32_t seen = 0;

	pthread_once(&once, map_word);
	if (!process_word)
		return 0;
	if (!atomic_load(process_word))
		atomic_compare_exchange_strong(process_word, &seen, atomic_fetch_add(&process_last, 1) + 1);
	return atomic_load(process_word);
}

int cq_enter(const struct hf_cq *cq)
{
	if (!cq)
		return hf_set_error(-EINVAL, "the completion queue is NULL");
	if (atomic_load(process_word) != cq->process)
		return hf_set_error(-EOWNERDEAD, "the completion queue belongs to the process that opened it: open one "
						 "in this one");
	return 0;
}

/* ------------------------------------------------------------------ life */

static void init_wait(struct hf_cq *cq)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&cq->more, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&cq->lock, NULL);
	pthread_mutex_init(&cq->polling, NULL);
}

int hf_cq_open(struct hf_cq **out)
{
	struct hf_cq *cq;

	if (!out)
		return hf_set_error(-EINVAL, "no place for the completion queue");
	*out = NULL;
	cq = os_calloc(1, sizeof(*cq));
	if (cq)
		cq->process = this_process();
	if (!cq || !cq->process) {
		free(cq);
		return hf_set_error(-ENOMEM, "no memory for a completion queue");
	}
	cq->fd = os_eventfd();
	if (cq->fd < 0) {
		int rc = cq->fd;

		free(cq);
		return hf_set_error(rc, "no eventfd for a completion queue: %s; raise ulimit -n", strerror(-rc));
	}
	init_wait(cq);
	cq->last = &cq->first;
	*out = cq;
	return 0;
}

int hf_cq_close(struct hf_cq *cq)
{
	struct completed *next;
	unsigned sockets;
	int rc;

	if (!cq)
		return 0;
	rc = cq_enter(cq);
	if (rc)
		return rc;
	pthread_mutex_lock(&cq->lock);
	sockets = cq->sockets;
	pthread_mutex_unlock(&cq->lock);
	if (sockets)
		return hf_set_error(-EBUSY, "%u sockets use the completion queue: close them first", sockets);
	for (struct completed *d = cq->first; d; d = next) {
		next = d->next;
		free(d);
	}
	close(cq->fd);
	pthread_cond_destroy(&cq->more);
	pthread_mutex_destroy(&cq->lock);
	pthread_mutex_destroy(&cq->polling);
	free(cq);
	return 0;
}

int cq_use(struct hf_cq *cq)
{
	int rc = cq_enter(cq);

	if (rc)
		return rc;
	pthread_mutex_lock(&cq->lock);
	cq->sockets++;
	pthread_mutex_unlock(&cq->lock);
	return 0;
}

void cq_unuse(struct hf_cq *cq)
{
	pthread_mutex_lock(&cq->lock);
	cq->sockets--;
	pthread_mutex_unlock(&cq->lock);
}

/* ------------------------------------------------------------------ sources */

static void lock_sources(struct hf_cq *cq)
{
	atomic_fetch_add(&cq->parting, 1);
	pthread_mutex_lock(&cq->polling);
	atomic_fetch_sub(&cq->parting, 1);
}

void cq_join(struct hf_cq *cq, struct cq_source *source)
{
	lock_sources(cq);
	source->next = cq->sources;
	source->link = &cq->sources;
	if (source->next)
		source->next->link = &source->next;
	cq->sources = source;
	atomic_fetch_add(&cq->source_count, 1);
	pthread_mutex_unlock(&cq->polling);
}

void cq_part(struct hf_cq *cq, struct cq_source *source)
{
	lock_sources(cq);
	*source->link = source->next;
	if (source->next)
		source->next->link = source->link;
	atomic_fetch_sub(&cq->source_count, 1);
	pthread_mutex_unlock(&cq->polling);
}

/* Another poller that is at it finds what there is. */
static void poll_sources(struct hf_cq *cq)
{
	if (!atomic_load(&cq->source_count) || atomic_load(&cq->parting) || pthread_mutex_trylock(&cq->polling))
		return;
	for (struct cq_source *source = cq->sources; source; source = source->next)
		source->poll(source);
	pthread_mutex_unlock(&cq->polling);
}

/* ------------------------------------------------------------------ in and out */

/* lock: make fd readable when there is something, and not when there isn't. */
static void show(struct hf_cq *cq)
{
	uint64_t n = 1;
	bool want = cq->first != NULL;

	if (!cq->asked || want == cq->readable)
		return;
	if (want ? write(cq->fd, &n, sizeof(n)) == sizeof(n) : read(cq->fd, &n, sizeof(n)) == sizeof(n))
		cq->readable = want;
}

void cq_deliver(struct hf_cq *cq, struct completed *done)
{
	pthread_mutex_lock(&cq->lock);
	done->next = NULL;
	*cq->last = done;
	cq->last = &done->next;
	show(cq);
	pthread_cond_signal(&cq->more);
	pthread_mutex_unlock(&cq->lock);
}

/* lock: up to `max` of them, as a list of their own. */
static struct completed *take(struct hf_cq *cq, int max)
{
	struct completed *list = cq->first, **end = &cq->first;

	while (*end && max--)
		end = &(*end)->next;
	cq->first = *end;
	*end = NULL;
	if (!cq->first)
		cq->last = &cq->first;
	else
		pthread_cond_signal(&cq->more); /* another one that waits may take the rest */
	show(cq);
	return cq->first == list ? NULL : list;
}

/* No lock. */
static int give(struct completed *list, struct hf_completion *out)
{
	int n = 0;

	while (list) {
		struct completed *next = list->next;

		out[n++] = list->c;
		free(list);
		list = next;
	}
	return n;
}

static int check_room(const struct hf_cq *cq, const struct hf_completion *out, int max)
{
	int rc = cq_enter(cq);

	if (!rc && (!out || max < 1))
		rc = hf_set_error(-EINVAL, "no place for a completion: max is %d", max);
	return rc;
}

static int take_now(struct hf_cq *cq, struct hf_completion *out, int max)
{
	struct completed *list;

	pthread_mutex_lock(&cq->lock);
	list = take(cq, max);
	pthread_mutex_unlock(&cq->lock);
	return give(list, out);
}

int hf_cq_poll(struct hf_cq *cq, struct hf_completion *out, int max)
{
	int rc = check_room(cq, out, max), n;

	if (rc)
		return rc;
	n = take_now(cq, out, max);
	if (n || !atomic_load(&cq->source_count))
		return n;
	poll_sources(cq);
	return take_now(cq, out, max);
}

static struct timespec in_ms(int ms)
{
	uint64_t at = os_now_ns() + (uint64_t)ms * 1000000;

	return (struct timespec){ (time_t)(at / 1000000000), (long)(at % 1000000000) };
}

int hf_cq_wait(struct hf_cq *cq, struct hf_completion *out, int max, int timeout_ms)
{
	struct timespec until = in_ms(timeout_ms > 0 ? timeout_ms : 0);
	struct completed *list;
	int rc = hf_cq_poll(cq, out, max), late = 0;

	if (rc)
		return rc;
	pthread_mutex_lock(&cq->lock);
	while (!cq->first && !late)
		late = timeout_ms < 0 ? pthread_cond_wait(&cq->more, &cq->lock) :
					pthread_cond_timedwait(&cq->more, &cq->lock, &until);
	list = take(cq, max);
	pthread_mutex_unlock(&cq->lock);
	return give(list, out);
}

int hf_cq_fd(const struct hf_cq *cq)
{
	struct hf_cq *mine = (struct hf_cq *)cq;
	int rc = cq_enter(cq);

	if (rc)
		return rc;
	pthread_mutex_lock(&mine->lock);
	mine->asked = true;
	show(mine);
	pthread_mutex_unlock(&mine->lock);
	return cq->fd;
}

const char *hf_completion_text(const struct hf_completion *c)
{
	switch (c ? c->status : -EINVAL) {
	case 0: return "completed";
	case -ECANCELED: return "this side closed the socket before it completed";
	case -ESHUTDOWN: return "the peer closed the connection before it completed";
	case -ECONNRESET: return "the peer, or the way to it, is gone";
	case -EPROTO: return "what the peer sent can't be understood: the connection was ended";
	case -EMSGSIZE: return "the message is larger than what the peer has posted to receive it: send it in parts";
	case -EACCES: return "the peer's descriptor is not, or no more, valid on this connection, or doesn't give this right";
	case -ERANGE: return "beyond the end of what the peer exposes";
	case -ESTALE: return "the memory, here or there, was changed after it was registered: register it anew";
	case -EIO: return "the NIC here, or the peer's, could not move the data";
	case -EINVAL: return "no completion was given";
	default: return strerrordesc_np(-c->status) ? strerrordesc_np(-c->status) : "unknown";
	}
}
