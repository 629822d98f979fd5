/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The start of the proxy `supervise`: a small program, carried in the library, executed from a memfd, in a process that
 * the program neither sees nor waits for; then the filter; then the listener goes over.
 *
 *   owner                           aside (VM shared, no signal)      the supervisor
 *   ----------------------------    ------------------------------    ---------------------------------
 *   clone, waits (vfork) .......>   clone, waits (vfork) ..........>  its descriptors to 3, 4, 5, 6
 *                                   _exit <.........................  execveat
 *   waits for `aside` by number;
 *   wait(-1) doesn't see it                                           an orphan: of init, or a subreaper
 *   waits for a byte <..............................................  a byte
 *   (and once more: a spare one)
 *   seccomp(): calls wait now
 *   the listener ...................................................> receives it; forks: guardian, worker
 *   waits for a byte <..............................................  a byte
 *   closes its listener                                               serves
 *
 * A child with exit signal 0 gets the usual SIGCHLD when it executes. So it isn't the child that executes.
 */
#include "supervise_start.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../os.h"
#include "proxy.h"
#include "supervise_filter.h"

static const unsigned char supervisor[] = {
#include "supervisor_bytes.h"
};

/* Newer than the headers of Debian 12. */
#ifndef MFD_EXEC
#define MFD_EXEC 0x10u /* 6.3 */
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1u << 5) /* 5.19 */
#endif

/* What runs in a process that shares our memory: raw calls only, and none of the sanitizers' doings. */
#if defined(__clang__)
#define ASIDE __attribute__((no_sanitize("address", "thread", "undefined"), disable_sanitizer_instrumentation, noinline))
#else
#define ASIDE __attribute__((no_sanitize("address", "thread", "undefined"), noinline))
#endif

/* ThreadSanitizer replaces clone(3) by one that prepares for a fork. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

#define ASIDE_STACK 32768u /* bytes, of each of two */
#define WAIT_MS 20000

struct aside {
	int (*run)(struct aside *a);
	char *stacks;
	int error;         /* what failed in there */
	/* the supervisor's */
	int program, fd[4]; /* -1: there is none */
	/* the probe's */
	struct sock_fprog filter;
};

/* ------------------------------------------------------------------ processes */

ASIDE static int aside_main(void *p)
{
	struct aside *a = p;

	return a->run(a);
}

/* Run it in a process that shares our memory, and wait for its end. 0, or -errno. */
static int aside(struct aside *a)
{
	int status = 0;
	pid_t pid;

	a->error = 0;
	pid = FAULT("clone") ? (errno = EAGAIN, -1) :
			       clone(aside_main, a->stacks + 2 * ASIDE_STACK, CLONE_VM | CLONE_VFORK, a);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	return -a->error;
}

/* Above those that they will have in the end, so that none is overwritten. */
ASIDE static int lift(int fd)
{
	return fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 10);
}

ASIDE static int execute_main(void *p)
{
	static char *const argv[] = { (char *)"hf-supervisor", NULL };
	static char *const envp[] = { NULL };
	struct aside *a = p;
	int program = lift(a->program);
	int fd[4];

	for (int i = 0; i < 4; i++)
		fd[i] = lift(a->fd[i]);
	for (int i = 0; i < 4; i++) {
		if (fd[i] >= 0)
			syscall(SYS_dup3, fd[i], 3 + i, 0);
		else
			syscall(SYS_close, 3 + i);
	}
	syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	a->error = errno;
	return 1;
}

ASIDE static int execute(struct aside *a)
{
	if (clone(execute_main, a->stacks + ASIDE_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, a) < 0)
		a->error = errno;
	return 0;
}

/* ------------------------------------------------------------------ the socket */

/* A byte of the supervisor's. 0; -EPIPE: it has ended; -ETIMEDOUT. */
static int await(int socket)
{
	struct pollfd p = { .fd = socket, .events = POLLIN };
	char byte;
	int rc;

	while ((rc = poll(&p, 1, WAIT_MS)) < 0 && errno == EINTR)
		;
	if (rc == 0)
		return -ETIMEDOUT;
	return recv(socket, &byte, 1, 0) == 1 ? 0 : -EPIPE;
}

static int send_descriptor(int socket, int fd)
{
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			    .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(socket, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

/* ------------------------------------------------------------------ the supervisor */

static int make_program(int *out)
{
	int fd = -1;

	if (!FAULT("memfd"))
		fd = (int)syscall(SYS_memfd_create, "hf-supervisor", MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0) /* before 6.3 */
		fd = FAULT("memfd") ? -1 : (int)syscall(SYS_memfd_create, "hf-supervisor", MFD_CLOEXEC);
	if (fd < 0)
		return hf_set_error(-EMFILE, "no memfd for the supervisor: at the limit of descriptors?");
	if (write(fd, supervisor, sizeof(supervisor)) != (ssize_t)sizeof(supervisor)) {
		close(fd);
		return hf_set_error(-ENOMEM, "no memory for the supervisor's program");
	}
	*out = fd;
	return 0;
}

static int make_shared(int teller, struct sup_shared **out, int *fd)
{
	struct sup_shared *s;
	int rc;

	*fd = FAULT("memfd") ? -1 : (int)syscall(SYS_memfd_create, "hf-supervise", MFD_CLOEXEC);
	if (*fd < 0)
		return hf_set_error(-EMFILE, "no memfd to share with the supervisor: at the limit of descriptors?");
	rc = FAULT("ftruncate") ? -1 : ftruncate(*fd, sizeof(*s));
	s = rc ? MAP_FAILED : mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (s == MAP_FAILED) {
		close(*fd);
		return hf_set_error(-ENOMEM, "no memory to share with the supervisor");
	}
	/* A forked child has no business with it. */
	madvise(s, sizeof(*s), MADV_DONTFORK);
	s->abi = SUP_ABI;
	s->size = sizeof(*s);
	s->owner = (uint32_t)getpid();
	s->page = os_page_size();
	atomic_store(&s->teller, (uint32_t)teller);
	*out = s;
	return 0;
}

static int explain_launch(int rc)
{
	if (rc == -EACCES || rc == -EPERM)
		return hf_set_error(-EPERM, "the supervisor may not be executed from a memfd: vm.memfd_noexec, or a "
				    "security module, forbids it");
	return hf_set_error(rc, "can't start the supervisor: %s", strerror(-rc));
}

/* It runs, and has said so: 0, and *socket is our end. */
static int launch(struct aside *a, int *socket_)
{
	int pair[2];
	int rc = FAULT("socketpair") ? -EMFILE :
		 socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ? -errno : 0;

	if (rc)
		return hf_set_error(rc, "no socket to the supervisor: %s", strerror(-rc));
	a->run = execute;
	a->fd[0] = pair[1];
	rc = aside(a);
	close(pair[1]);
	if (!rc)
		rc = await(pair[0]);
	if (rc) {
		close(pair[0]);
		return explain_launch(rc);
	}
	*socket_ = pair[0];
	return 0;
}

/* ------------------------------------------------------------------ the filter */

/* No sandbox, so no protection against speculation that would slow the program down. */
#define FLAGS (SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH | SECCOMP_FILTER_FLAG_NEW_LISTENER | \
	       SECCOMP_FILTER_FLAG_SPEC_ALLOW)

/*
 * The listener, or -errno. Without CAP_SYS_ADMIN the kernel takes a filter only of who can gain no privileges any more;
 * it is asked without that first. Before 5.19 a signal may interrupt a call that the supervisor has received.
 */
ASIDE static int load_filter(const struct sock_fprog *filter)
{
	unsigned flags = FLAGS | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	long fd = -1;

	for (int i = 0; i < 4 && fd < 0; i++) {
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, filter);
		if (fd >= 0)
			return (int)fd;
		if (errno == EACCES && syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
			continue;
		if (errno != EINVAL || flags == FLAGS)
			return -errno;
		flags = FLAGS;
	}
	return -EACCES;
}

static int explain_filter(int rc)
{
	switch (rc) {
	case -EBUSY:
		return hf_set_error(rc, "this process has a supervisor already, inherited from the process that started "
				    "it, and the kernel allows one per chain of filters: use proxy=uffd here");
	case -ESRCH:
		return hf_set_error(-EPERM, "a thread of this process has a seccomp filter of its own: open the switch "
				    "before such threads are started, or in the thread that has it, before others are");
	case -ENOSYS:
	case -EINVAL:
	case -EOPNOTSUPP:
		return hf_set_error(-ENOSYS, "the kernel has no seccomp user notification: CONFIG_SECCOMP_FILTER, Linux 5.9");
	default:
		return hf_set_error(rc == -EACCES ? -EPERM : rc, "seccomp(2) is refused: %s; a container's filter or "
				    "a security module", strerror(-rc));
	}
}

/* ------------------------------------------------------------------ all together */

static int open_to_pass(struct aside *a, int shared_fd)
{
	a->fd[1] = shared_fd;
	a->fd[2] = os_open("/proc/self/maps", O_RDONLY); /* no /proc: the two others say when we have ended */
	a->fd[3] = FAULT("pidfd") ? -EMFILE : (int)syscall(SYS_pidfd_open, getpid(), 0);
	return a->fd[3] < 0 ? hf_set_error(-EMFILE, "no pidfd for the supervisor: at the limit of descriptors?") : 0;
}

static void close_passed(struct aside *a)
{
	for (int i = 1; i < 4; i++)
		if (a->fd[i] >= 0)
			close(a->fd[i]);
}

/*
 * The calls wait from the load on, and nobody else can serve them. A supervisor that was killed in this very moment can't be
 * replaced by a new one, which would have the filter itself, and so never see the last process with it end. So
 * there is a spare one from before.
 */
static int hand_over(int listener, const int sockets[2], int *chosen)
{
	int rc = -EPIPE;

	for (int i = 0; i < 2 && rc; i++) {
		if (sockets[i] >= 0)
			rc = FAULT("hand over") ? -EPIPE : send_descriptor(sockets[i], listener);
		if (sockets[i] >= 0 && !rc)
			rc = await(sockets[i]);
		*chosen = rc ? -1 : sockets[i];
	}
	return rc ? hf_set_error(-EIO, "the supervisor was killed twice while it started: the system calls that it was "
				 "to watch answer ENOSYS from now on") : 0;
}

static int install(struct aside *a, struct sup_shared *s, const int sockets[2], int *chosen)
{
	int listener = FAULT("seccomp") ? -ENOSYS : load_filter(&a->filter);
	int rc;

	if (listener < 0)
		return explain_filter(listener);
	atomic_store(&s->highest_break, (uint64_t)syscall(SYS_brk, 0));
	rc = hand_over(listener, sockets, chosen);
	close(listener);
	return rc;
}

/* A supervisor whose socket is closed before it was given the listener ends. */
static int start_with(struct aside *a, struct sup_shared *s, int *chosen)
{
	int sockets[2] = { -1, -1 };
	int rc = make_program(&a->program);

	if (rc)
		return rc;
	rc = launch(a, &sockets[0]);
	if (!rc)
		rc = launch(a, &sockets[1]);
	if (!rc)
		rc = install(a, s, sockets, chosen);
	for (int i = 0; i < 2; i++)
		if (sockets[i] >= 0 && sockets[i] != *chosen)
			close(sockets[i]);
	close(a->program);
	return rc;
}

static int start_blocked(struct aside *a, int teller, struct sup_shared **shared, int *socket_)
{
	int shared_fd;
	int rc = make_shared(teller, shared, &shared_fd);

	if (rc)
		return rc;
	rc = open_to_pass(a, shared_fd);
	if (!rc)
		rc = start_with(a, *shared, socket_);
	close_passed(a);
	if (rc)
		munmap(*shared, sizeof(**shared));
	return rc;
}

int supervise_start(int teller, struct sup_shared **shared, int *socket_)
{
	struct sock_filter code[FILTER_MAX];
	struct aside a = { .stacks = os_pool_map(2 * ASIDE_STACK) };
	sigset_t all, old;
	int rc;

	if (!a.stacks)
		return hf_set_error(-ENOMEM, "no memory for the supervisor's start");
	a.filter = (struct sock_fprog){ (unsigned short)filter_build(code), code };
	*socket_ = -1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = start_blocked(&a, teller, shared, socket_);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	os_pool_unmap(a.stacks, 2 * ASIDE_STACK);
	return rc;
}

/* ------------------------------------------------------------------ the probe */

ASIDE static int probe_main(struct aside *a)
{
	int fd = load_filter(&a->filter);

	if (fd < 0)
		a->error = -fd;
	return 0;
}

int supervise_probe(void)
{
	struct sock_filter code[FILTER_MAX];
	struct aside a = { .run = probe_main, .stacks = os_pool_map(2 * ASIDE_STACK) };
	sigset_t all, old;
	int rc;

	if (!a.stacks)
		return hf_set_error(-ENOMEM, "no memory for the probe");
	a.filter = (struct sock_fprog){ (unsigned short)filter_build(code), code };
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = aside(&a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	os_pool_unmap(a.stacks, 2 * ASIDE_STACK);
	return rc ? explain_filter(rc) : 0;
}
