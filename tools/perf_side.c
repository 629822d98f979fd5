/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the sending and the receiving process both have.
 */
#include "perf.h"
#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <holdfast/backend.h>

const char *perf_reason(int err)
{
	const char *sentence = hf_error();

	return *sentence ? sentence : strerror(-err);
}

/* ------------------------------------------------------------------ messages */

static int send_bytes(int fd, const void *bytes, size_t len)
{
	for (;;) {
		if (send(fd, bytes, len, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == EPIPE ? -ECONNRESET : -errno;
	}
}

int perf_post(struct perf_side *s, enum perf_kind kind)
{
	uint8_t byte = (uint8_t)kind;

	return send_bytes(s->control, &byte, 1);
}

int perf_send_message(struct perf_side *s, const struct perf_message *m)
{
	return send_bytes(s->control, m, sizeof(*m));
}

int perf_receive(struct perf_side *s)
{
	ssize_t n;

	do
		n = recv(s->control, &s->last, sizeof(s->last), 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	s->last.kind = 0;
	return hf_set_error(n ? -errno : -ECONNRESET, "the other process is gone");
}

int perf_expect(struct perf_side *s, enum perf_kind kind)
{
	int err = perf_receive(s);

	if (err || s->last.kind == kind)
		return err;
	if (s->last.kind == PERF_FAILED)
		return s->last.err ? s->last.err : -EIO;
	return hf_set_error(-EPROTO, "message %d came where %d was due", s->last.kind, kind);
}

/* ------------------------------------------------------------------ locked memory */

static bool may_lock_all(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

	if (syscall(SYS_capget, &header, data))
		return false;
	return data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

/*
 * RLIMIT_MEMLOCK is charged per user, so both processes draw on the same account and neither
 * can evict what the other keeps. Each may cache a quarter (and some for page rounding), which
 * leaves the rest for the provider that registers each time.
 */
static uint64_t share_of(uint64_t memlock)
{
	return memlock / 4 + memlock / 64;
}

/* RLIMIT_MEMLOCK, raised as far as it goes; 0 when it does not bind. */
static uint64_t binding_memlock(void)
{
	struct rlimit lock;

	if (may_lock_all() || getrlimit(RLIMIT_MEMLOCK, &lock))
		return 0;
	lock.rlim_cur = lock.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &lock);
	if (getrlimit(RLIMIT_MEMLOCK, &lock) || lock.rlim_cur == RLIM_INFINITY)
		return 0;
	/* The kernel charges a page inside a huge page as the whole of it. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	return lock.rlim_cur;
}

/* ------------------------------------------------------------------ open and close */

static int open_switch(struct perf_side *s)
{
	char options[128];
	int err;

	snprintf(options, sizeof(options), "proxy=%s,mode=%s", s->config->proxy, s->config->mode);
	err = hf_switch_open(options, &s->sw);
	if (!err)
		s->must_tell = !strcmp(hf_switch_proxy(s->sw), "manual") && !s->config->untold;
	return err;
}

static int open_provider(struct perf_side *s, unsigned which, const char *options)
{
	int err = hf_provider_open(s->sw, s->config->nic, options, &s->provider[which]);

	if (err || s->san)
		return err;
	return hf_conn_open(s->provider[which], s->data[which], &s->conn[which]);
}

static int open_samples(struct perf_side *s)
{
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		s->step_ns[way] = calloc(PERF_SAMPLES, sizeof(uint64_t));
		if (!s->step_ns[way])
			return hf_set_error(-ENOMEM, "no memory for the samples");
	}
	return 0;
}

int perf_side_open(struct perf_side *s)
{
	char options[64] = "";
	struct hf_stats stats;
	int err = open_samples(s);

	s->memlock = binding_memlock();
	if (s->memlock)
		snprintf(options, sizeof(options), "max_bytes=%" PRIu64, share_of(s->memlock));
	if (!err)
		err = open_switch(s);
	if (!err)
		err = open_provider(s, PERF_CACHING, options);
	if (!err)
		err = open_provider(s, PERF_EACH_TIME, "cache=off");
	if (!err)
		err = hf_provider_stats(s->provider[PERF_CACHING], &stats, sizeof(stats));
	if (!err)
		s->limit = stats.max_bytes;
	return err;
}

void perf_side_close(struct perf_side *s)
{
	for (unsigned i = 0; i < PERF_PROVIDERS; i++) {
		if (s->conn[i])
			hf_conn_close(s->conn[i]);
		hf_provider_close(s->provider[i]);
	}
	hf_switch_close(s->sw);
	for (unsigned way = 0; way < PERF_WAYS; way++)
		free(s->step_ns[way]);
}

/* ------------------------------------------------------------------ the buffers of one size */

uint64_t perf_room(const struct perf_side *s, uint64_t bytes)
{
	return s->limit / (bytes + (uint64_t)sysconf(_SC_PAGESIZE));
}

/* So many that the cache can keep them all beside the bounce buffer. */
static unsigned pool_count(const struct perf_side *s)
{
	enum { MOST_BYTES = 64 << 20, REUSED = 8 };
	uint64_t n = perf_room(s, s->size), most = MOST_BYTES / s->size;
	unsigned wanted = s->slots ? s->slots : s->config->recycle ? PERF_LIVES : REUSED;

	if (!s->slots && s->config->recycle)
		return wanted;
	n = n > 2 ? n - 1 : 1;
	if (n > most)
		n = most > 2 ? most : 2;
	return n < wanted ? (unsigned)n : wanted;
}

static int open_bounce(struct perf_side *s)
{
	void *map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return hf_set_error(-ENOMEM, "no memory for a bounce buffer of %zu bytes", s->size);
	s->bounce = map;
	return hf_get(s->provider[PERF_CACHING], s->bounce, s->size, HF_READWRITE, &s->bounce_region);
}

static int try_registering(struct perf_side *s, struct perf_trial *trial)
{
	int err = 0;

	for (unsigned i = 0; i < PERF_PROVIDERS && !err; i++)
		err = hf_get(s->provider[i], s->pool.buffer[0].data, s->size, s->access,
			     &trial->region[i]);
	return err;
}

/* One buffer, and the bounce buffer where there is one, must find room in this process's share. */
static int check_memlock(const struct perf_side *s)
{
	char limit[16], enough[16];

	if (!s->memlock || (s->san ? 1 : 2) * s->size <= share_of(s->memlock))
		return 0;
	return hf_set_error(-ENOMEM, "RLIMIT_MEMLOCK is %s for both processes; %s would do (ulimit -l)",
			    tool_size(s->memlock, limit), tool_size(s->size * 8, enough));
}

int perf_size_begin(struct perf_side *s, size_t size, struct perf_trial *trial)
{
	int err;

	memset(trial, 0, sizeof(*trial));
	memset(&s->bounce_region, 0, sizeof(s->bounce_region));
	s->size = size;
	err = check_memlock(s);
	if (err)
		return err;
	err = perf_pool_open(&s->pool, size, pool_count(s), s->config->recycle);
	if (err)
		return hf_set_error(err, "no memory for the buffers of %zu bytes", size);
	if (!s->san)
		err = open_bounce(s);
	if (!err)
		err = try_registering(s, trial);
	return err;
}

void perf_trial_end(struct perf_side *s, struct perf_trial *trial)
{
	for (unsigned i = 0; i < PERF_PROVIDERS; i++)
		if (trial->region[i].entry)
			hf_put(s->provider[i], &trial->region[i]);
}

/* The program's part of `manual`: say so before memory changes. */
static void tell(struct perf_side *s, const void *data, size_t len)
{
	if (s->must_tell && data)
		hf_invalidate(s->sw, data, len);
}

void perf_size_end(struct perf_side *s)
{
	if (s->bounce_region.entry)
		hf_put(s->provider[PERF_CACHING], &s->bounce_region);
	tell(s, s->bounce, s->size);
	if (s->bounce)
		munmap(s->bounce, s->size);
	s->bounce = NULL;
	for (unsigned i = 0; i < s->pool.count; i++)
		tell(s, s->pool.buffer[i].data, s->size);
	perf_pool_close(&s->pool);
	/* Nothing of this size takes locked memory from the next. */
	hf_flush(s->provider[PERF_CACHING]);
}

unsigned char *perf_take(struct perf_side *s, unsigned slot)
{
	struct perf_buffer *b = &s->pool.buffer[slot];

	if (!s->pool.recycle)
		return b->data;
	tell(s, b->data, s->size);
	if (!perf_buffer_recycle(b))
		return b->data;
	hf_set_error(-ENOMEM, "a buffer of %zu bytes could not be allocated again", s->size);
	return NULL;
}

void perf_prepare(const struct perf_side *s, unsigned char *data, uint64_t number)
{
	uint64_t nth = s->config->corrupt;

	perf_fill(data, s->size, s->config->seed, number, false);
	/* the negative control of the comparison */
	if (nth && number % nth == nth - 1)
		data[number % s->size] ^= 1;
}

/* ------------------------------------------------------------------ what is counted */

void perf_step(struct perf_side *s, unsigned way, uint64_t ns)
{
	s->step_ns[way][s->steps[way]++ % PERF_SAMPLES] = ns;
}

int perf_mark(struct perf_side *s)
{
	memset(s->steps, 0, sizeof(s->steps));
	return hf_provider_stats(s->provider[PERF_CACHING], &s->mark, sizeof(s->mark));
}

int perf_result(struct perf_side *s, struct perf_message *m)
{
	struct hf_stats now;
	int err = hf_provider_stats(s->provider[PERF_CACHING], &now, sizeof(now));

	if (err)
		return err;
	m->hits = now.hits - s->mark.hits;
	m->gets = m->hits + now.misses - s->mark.misses + now.uncached - s->mark.uncached;
	for (unsigned way = 0; way < PERF_WAYS; way++) {
		size_t n = s->steps[way] < PERF_SAMPLES ? s->steps[way] : PERF_SAMPLES;

		m->p50_ns[way] = tool_percentile(s->step_ns[way], n, 50);
		m->p99_ns[way] = tool_percentile(s->step_ns[way], n, 99);
	}
	return 0;
}
