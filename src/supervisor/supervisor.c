/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The supervisor: the helper process of the proxy `supervise`. src/proxy/supervise.c has the protocol.
 *
 * Two processes. The worker answers; the guardian, its parent, waits for it: a worker that is stopped is continued, one
 * that is killed is replaced. When the guardian is gone the worker forks: the child goes on as the worker, and itself
 * becomes the guardian. All that the work needs is in memory that they share, so a new worker begins where the old one
 * ended, whatever the instruction was:
 *
 *   state        what the one before may have done       so the new one
 *   RECEIVING    nothing, or RECV (the id is there)      idle, or as TAKEN
 *   TAKEN        decided; sent the decision              decides and sends: the second SEND fails, harmlessly
 *   ASKED        rung the bell, or not                   rings it, and leaves the slot alone: it is the owner's
 *   ANSWERED     sent                                    sends
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/prctl.h>
#include <linux/wait.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "decode.h"
#include "sys.h"

/* Where the owner's library puts them. */
enum { FD_SOCKET = 3, FD_SHARED, FD_MAPS, FD_OWNER, FD_FREE };

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1ull
#endif
#define SIGSET_BYTES 8

__asm__(SYS_START);
__attribute__((noreturn)) void supervisor_main(void);
void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

/* The compiler calls these two; volatile, or it would make them call themselves. */
void *memset(void *to, int c, size_t n)
{
	volatile char *p = to;

	while (n--)
		*p++ = (char)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	volatile char *p = to;
	const char *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}

static struct sup_shared *shared;
static int listener = -1;
static int guardian_fd = -1; /* the worker's: a pidfd of its guardian; -1: there is none */
static bool owner_ended;
static bool all_answered; /* nobody answers any more, and nothing is asked */

static __attribute__((noreturn)) void end(int status)
{
	for (;;)
		sys1(SYS_exit_group, status);
}

static long fork_(void)
{
	return sys5(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* ------------------------------------------------------------------ whose memory is it? */

static char read_buffer[4096];

static bool status_is_of(long tid, uint64_t owner)
{
	static const char word[] = "\nTgid:\t";
	char path[32] = "/proc/", *p = path + 6, digits[12];
	int n = 0;
	long fd, got, at = 0;
	uint64_t tgid = 0;

	for (; tid; tid /= 10)
		digits[n++] = (char)('0' + tid % 10);
	while (n)
		*p++ = digits[--n];
	memcpy(p, "/status", 8);
	fd = sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	got = sys3(SYS_read, fd, read_buffer, sizeof(read_buffer) - 1);
	sys1(SYS_close, fd);
	for (n = 0; at < got && word[n]; at++)
		n = read_buffer[at] == word[n] ? n + 1 : read_buffer[at] == word[0];
	while (at < got && read_buffer[at] >= '0' && read_buffer[at] <= '9')
		tgid = tgid * 10 + (uint64_t)(read_buffer[at++] - '0');
	return !word[n] && tgid == owner;
}

static bool is_alive(uint32_t tid)
{
	return sys2(SYS_kill, tid, 0) != -ESRCH;
}

/* The owner's address space still exists: /proc/self/maps, opened by the owner, gives nothing once it has ended. */
static bool memory_is_there(void)
{
	char c;
	long n = sys4(SYS_pread64, FD_MAPS, &c, 1, 0);

	return n == 1 || n == -EBADF; /* there was no /proc: the pidfd and the socket have to do */
}

/*
 * Does the thread run in the owner's address space? Compared with a thread that lives as long as that does. Where
 * kcmp(2) is not there or not allowed: by the process; then a vfork child of the owner counts as foreign. The teller never
 * ends by itself: without it the owner has ended or executed, even if a process that shared its memory keeps that.
 */
static bool is_owners(long tid)
{
	uint32_t teller = atomic_load(&shared->teller);
	long rc;

	if (owner_ended || atomic_load(&shared->gone) || !tid)
		return false;
	rc = sys5(SYS_kcmp, teller, tid, KCMP_VM, 0, 0);
	if (rc > 0 || (rc < 0 && !status_is_of(tid, shared->owner)))
		return false;
	if (memory_is_there() && (rc != -ESRCH || is_alive(teller)))
		return true;
	atomic_store(&shared->gone, 1);
	return false;
}

/* ------------------------------------------------------------------ what was let through */

/* The place of this thread; one of a thread that has ended when all near it are taken. NULL: none. */
static struct sup_caller *find_caller(uint32_t tid)
{
	struct sup_caller *to = NULL;

	for (uint32_t i = 0; i < 64; i++) {
		uint32_t at = (tid + i) % SUP_CALLERS;
		struct sup_caller *c = &shared->caller[at];
		uint32_t has = atomic_load(&c->tid);

		if (has == tid)
			return c;
		if (!has) {
			to = c;
			break;
		}
	}
	for (uint32_t i = 0; i < 64 && !to; i++) {
		struct sup_caller *c = &shared->caller[(tid + i) % SUP_CALLERS];

		to = is_alive(atomic_load(&c->tid)) ? NULL : c;
	}
	return to;
}

/*
 * Noted before the tables are looked at: either we see what is denied, or who denies sees that this call may be under way
 * (supervise.c). The note of the same thread's last call goes: that call is over.
 */
static void note(const struct seccomp_notif *n, const struct sup_call *call)
{
	struct sup_caller *c = find_caller(n->pid);
	uint64_t start = call->range[0].start, end_ = call->range[0].end;
	uint32_t at;

	if (!c) {
		atomic_fetch_add(&shared->lost, 1);
		return;
	}
	if (call->ranges == 2) {
		start = call->range[1].start < start ? call->range[1].start : start;
		end_ = call->range[1].end > end_ ? call->range[1].end : end_;
	}
	at = (uint32_t)(c - shared->caller);
	/* The tid first: were we killed here, the next worker finds this place again, and finishes the note. */
	atomic_store(&c->tid, n->pid);
	atomic_store(&c->id, UINT64_MAX);
	atomic_store(&c->nr, n->data.nr);
	atomic_store(&c->start, start);
	atomic_store(&c->end, end_);
	atomic_store(&c->arg[0], n->data.args[0]);
	atomic_store(&c->arg[1], n->data.args[1]);
	atomic_store(&c->id, n->id);
	atomic_fetch_or(&shared->callers[at / 64], 1ull << (at % 64));
}

static void unnote(const struct seccomp_notif *n)
{
	struct sup_caller *c = find_caller(n->pid);

	if (c && atomic_load(&c->tid) == n->pid && atomic_load(&c->id) == n->id)
		atomic_store(&c->id, 0);
}

/* ------------------------------------------------------------------ answers */

static void idle(struct sup_slot *s)
{
	atomic_store(&s->state, SUP_IDLE);
}

/* ENOENT: the caller was killed, or interrupted, or the worker before us has sent the answer. */
static void send_and_idle(struct sup_slot *s, struct seccomp_notif_resp *r)
{
	r->id = s->notif.id;
	sys3(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, r);
	idle(s);
}

static void go_on(struct sup_slot *s)
{
	struct seccomp_notif_resp r = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };

	send_and_idle(s, &r);
}

/* brk() never fails: it answers the break as it is. What could not be sent may have been let through before us. */
static void refuse(struct sup_slot *s, int error, int64_t value)
{
	struct seccomp_notif_resp r = { .id = s->notif.id, .error = -error, .val = value };

	if (sys3(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, &r) == 0) {
		unnote(&s->notif);
		atomic_fetch_add(&shared->refused_count, 1);
	}
	idle(s);
}

/* ------------------------------------------------------------------ decisions */

static bool may_touch(const struct sup_counters *counters, const struct sup_call *c)
{
	for (uint32_t i = 0; i < c->ranges; i++)
		if (sup_may_touch(counters, c->range[i].start, c->range[i].end))
			return true;
	return false;
}

static int denied(const struct sup_call *c)
{
	int error = 0;

	for (uint32_t i = 0; i < c->ranges && !error; i++)
		error = sup_denied(shared, c->range[i].start, c->range[i].end, c->what, c->prot);
	return error;
}

static void ring(void)
{
	static const char bell = '?';

	/* Full: it rings already. */
	sys6(SYS_sendto, FD_SOCKET, (long)&bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
}

static void call_attention(const struct sup_slot *s)
{
	uint32_t i = (uint32_t)(s - shared->slot);

	atomic_fetch_or(&shared->asked[i / 64], 1ull << (i % 64));
	ring();
}

/* From the store of the state on the slot is the owner's, and nothing in it may be touched until it has answered. */
static void ask(struct sup_slot *s)
{
	s->refused = 0;
	atomic_store(&s->state, SUP_ASKED);
	atomic_fetch_add(&shared->asked_count, 1);
	call_attention(s);
}

/* The highest break ever asked for, before the call is let through: no shrinking is overlooked. */
static void track_break(const struct sup_slot *s)
{
	if (s->call.find == SUP_FIND_BREAK)
		sup_raise_break(shared, s->notif.data.args[0]);
}

/* Must the owner be asked? What userfaultfd doesn't tell of is always told; else what may be secured. */
static bool is_for_owner(const struct sup_call *c, bool deny)
{
	if (atomic_load(&shared->open) && c->silent)
		return true;
	return may_touch(&shared->notify, c) || (deny && c->find != SUP_FOUND);
}

static void decide(struct sup_slot *s)
{
	struct sup_call *c = &s->call;
	bool deny, tell;
	int error;

	decode(&s->notif.data, shared->page, atomic_load(&shared->highest_break), c);
	track_break(s);
	if (!c->ranges) {
		go_on(s);
		return;
	}
	note(&s->notif, c);
	atomic_thread_fence(memory_order_seq_cst);
	deny = may_touch(&shared->deny, c);
	tell = is_for_owner(c, deny);
	if ((!deny && !tell) || !is_owners(s->notif.pid)) {
		go_on(s);
		return;
	}
	error = deny && (c->find == SUP_FOUND || atomic_load(&shared->deaf)) ? denied(c) : 0;
	if (error)
		refuse(s, error, 0);
	else if (tell && !atomic_load(&shared->deaf) && s->notif.pid != atomic_load(&shared->teller))
		ask(s);
	else
		go_on(s);
}

static void finish(struct sup_slot *s)
{
	if (s->refused)
		refuse(s, s->error, s->value);
	else
		go_on(s);
}

static void finish_answered(void)
{
	for (uint32_t w = 0; w < SUP_SLOTS / 64; w++) {
		uint64_t bits = atomic_load(&shared->answered[w]) ? atomic_exchange(&shared->answered[w], 0) : 0;

		for (; bits; bits &= bits - 1) {
			struct sup_slot *s = &shared->slot[w * 64 + (uint32_t)__builtin_ctzll(bits)];

			if (atomic_load(&s->state) == SUP_ANSWERED)
				finish(s);
		}
	}
}

/*
 * The socket is closed, but the owner's thread may be at its last answers: the slots are ours again only when it has said
 * that it gave up, or is gone. Then what was asked is decided without it. True: not yet. Also when the owner is gone
 * and the socket is open: in a process that shared its memory and its descriptors.
 */
static bool wait_for_last_answers(void)
{
	bool asked = false;

	if (all_answered)
		return false;
	finish_answered();
	if (!atomic_load(&shared->gone) && !memory_is_there())
		atomic_store(&shared->gone, 1);
	for (uint32_t i = 0; i < SUP_SLOTS; i++) {
		struct sup_slot *s = &shared->slot[i];

		if (atomic_load(&s->state) != SUP_ASKED)
			continue;
		asked = true;
		if (atomic_load(&shared->gone) || atomic_load(&shared->gave_up)) {
			atomic_store(&s->state, SUP_TAKEN);
			decide(s);
		}
	}
	all_answered = !asked;
	return asked;
}

/* ------------------------------------------------------------------ the worker */

static struct sup_slot *free_slot(void)
{
	for (uint32_t i = 0; i < SUP_SLOTS; i++)
		if (atomic_load(&shared->slot[i].state) == SUP_IDLE)
			return &shared->slot[i];
	return NULL;
}

/* Only after the listener was readable: then it doesn't block, for the kernel counts the requests that ever came. */
static void receive(struct sup_slot *s)
{
	memset(s->room, 0, sizeof(s->room));
	atomic_store(&s->state, SUP_RECEIVING);
	if (sys3(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, &s->notif) < 0) {
		idle(s);
		return;
	}
	atomic_store(&s->state, SUP_TAKEN);
	atomic_fetch_add(&shared->received, 1);
	decide(s);
}

/* What the worker before has left. */
static void take_over(void)
{
	for (uint32_t i = 0; i < SUP_SLOTS; i++) {
		struct sup_slot *s = &shared->slot[i];

		switch (atomic_load(&s->state)) {
		case SUP_RECEIVING:
			if (!s->notif.id) {
				idle(s);
				break;
			}
			/* fall through */
		case SUP_TAKEN:
			decide(s);
			break;
		case SUP_ASKED:
			call_attention(s);
			break;
		case SUP_ANSWERED:
			finish(s);
			break;
		}
	}
}

static void listen_to_owner(void)
{
	long n = sys6(SYS_recvfrom, FD_SOCKET, (long)read_buffer, sizeof(read_buffer), MSG_DONTWAIT, 0, 0);

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0)
		atomic_store(&shared->deaf, 1);
}

static void open_guardian(void)
{
	long parent = sys0(SYS_getppid);

	guardian_fd = (int)sys2(SYS_pidfd_open, parent, 0);
	atomic_store(&shared->worker, (uint32_t)sys0(SYS_getpid));
	atomic_store(&shared->guardian, (uint32_t)parent);
}

static void watch(long worker);
static void begin_as_worker(long parent);

/* The guardian is gone: this process is the next one, and its child the worker. Without a child: as it is, alone. */
static void swap_roles(void)
{
	long parent = sys0(SYS_getpid), child;

	if (guardian_fd >= 0)
		sys1(SYS_close, guardian_fd);
	guardian_fd = -1;
	child = fork_();
	if (child > 0)
		watch(child);
	if (child == 0)
		begin_as_worker(parent);
}

/* In a child of `parent`, which may be gone already: then its pidfd is another process's. */
static void begin_as_worker(long parent)
{
	open_guardian();
	if (sys0(SYS_getppid) != parent)
		swap_roles();
}

/*
 * With all slots asked nothing is received until one is answered, not even the teller's own calls. It answers, unless it
 * waits in a callback for a call that waits here: such a callback breaks its contract (hf_changed_fn).
 */
static void serve(void)
{
	struct timespec soon = { 0, 1000000 };
	bool over = atomic_load(&shared->deaf) || atomic_load(&shared->gone);
	bool waiting = over && wait_for_last_answers();
	bool full = !free_slot();
	struct pollfd fds[4] = {
		{ .fd = listener, .events = full ? 0 : POLLIN },
		{ .fd = atomic_load(&shared->deaf) ? -1 : FD_SOCKET, .events = POLLIN },
		{ .fd = guardian_fd, .events = POLLIN },
		{ .fd = owner_ended ? -1 : FD_OWNER, .events = POLLIN },
	};

	if (sys5(SYS_ppoll, fds, 4, waiting ? &soon : NULL, 0, SIGSET_BYTES) < 0)
		return;
	if (fds[2].revents)
		swap_roles();
	if (fds[3].revents) {
		owner_ended = true;
		atomic_store(&shared->gone, 1);
	}
	if (fds[1].revents) {
		listen_to_owner();
		finish_answered();
	}
	if (fds[0].revents & POLLIN)
		receive(free_slot());
	else if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
		end(0); /* the last process that has the filter is gone */
}

static __attribute__((noreturn)) void work(void)
{
	take_over();
	finish_answered();
	for (;;)
		serve();
}

/* ------------------------------------------------------------------ the guardian */

/* Until the worker ends: false when it has ended for good. */
static bool wait_for(long worker)
{
	int status = 0;

	for (;;) {
		long rc = sys4(SYS_wait4, worker, &status, WUNTRACED, 0);

		if (rc == -EINTR)
			continue;
		if (rc < 0)
			return true;
		if ((status & 0xff) == 0x7f)
			sys2(SYS_kill, worker, SIGCONT);
		else
			return status != 0;
	}
}

static void watch(long worker)
{
	long self = sys0(SYS_getpid);

	for (;;) {
		if (worker > 0 && !wait_for(worker))
			end(0);
		worker = fork_();
		if (worker <= 0)
			break;
	}
	if (worker == 0)
		begin_as_worker(self);
	work(); /* the child; or, when there can't be one, the guardian itself */
}

/* ------------------------------------------------------------------ start */

/* What the owner sends: the listener. -1: it has thought better of it. */
static int receive_listener(void)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	int fd = -1;

	if (sys3(SYS_recvmsg, FD_SOCKET, &m, MSG_CMSG_CLOEXEC) == 1 && m.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    control.head.cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return fd;
}

static void leave_the_owner(void)
{
	uint64_t all = UINT64_MAX;

	sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, SIGSET_BYTES);
	sys0(SYS_setsid);
	sys3(SYS_setpriority, 0, 0, -10); /* others wait for us; where it is allowed */
	sys1(SYS_chdir, "/");
	sys2(SYS_prctl, PR_SET_NAME, "hf-supervisor");
#ifdef SYS_close_range
	sys3(SYS_close_range, 0, FD_SOCKET - 1, 0);
	sys3(SYS_close_range, FD_FREE, ~0u, 0);
#endif
}

/* An ignored SIGCHLD is inherited over exec, and then nobody is told of a stopped child. */
static void default_sigchld(void)
{
	uint64_t action[4] = { 0 };

	sys4(SYS_rt_sigaction, SIGCHLD, action, 0, SIGSET_BYTES);
}

void supervisor_main(void)
{
	uint64_t flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;

	leave_the_owner();
	default_sigchld();
	shared = (void *)sys6(SYS_mmap, 0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, FD_SHARED, 0);
	if ((unsigned long)shared > -4096ul || shared->abi != SUP_ABI || shared->size != sizeof(*shared))
		end(1);
	ring();
	listener = receive_listener();
	if (listener < 0)
		end(0);
	sys3(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, &flags);
	ring();
	watch(0);
	end(0);
}
