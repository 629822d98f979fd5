/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the files of the proxy `supervise` share. */
#ifndef HF_SUPERVISE_H
#define HF_SUPERVISE_H

#include <holdfast/backend.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "../os.h"
#include "quarantine.h"
#include "supervise_shared.h"

#define SUPERVISE_OPEN 16 /* switches at once */
#define SUPERVISE_PART (HF_SINK_PARTS - 1) /* by which it tells; the other parts are uffd's */

/* One open switch. */
struct supervise {
	struct hf_sink *sink; /* of its part */
	void *uffd;           /* NULL: there is none, nothing is watched */
	int uffd_error;
	char uffd_why[192];   /* ... why */
	bool telling;         /* an index was busy: there is more to be told. The teller's own */
	struct quarantine quarantine; /* what userfaultfd does not tell of, until it is over. The teller adds */
	struct quarantine at_open;    /* everything, until what was let through untold is over. The opener adds */
};

/* The one supervisor of the process: started by the first open, and there until the process ends. */
struct supervisor {
	struct sup_shared *shared;
	int socket;
	struct os_thread teller;
	_Atomic uint32_t go;       /* futex. 0: not yet; 1: the supervisor serves; 2: it came to nothing */
	_Atomic uint32_t turn;     /* odd while the teller is at the switches */
	_Atomic bool blind;        /* the socket was closed: nothing is told any more */
	uint64_t loaded;           /* thread_clock, when the filter was */
	_Atomic bool old_are_over; /* all calls that were in the kernel before the filter was loaded have ended */
	_Atomic(struct supervise *) open[SUPERVISE_OPEN];
};

/* What is shared with the supervisor; NULL before the first open. For tests and `holdfast doctor`. */
struct sup_shared *supervise_shared(void);

/* supervise_tell.c: the thread that answers. */
void *supervise_teller(void *supervisor);

/* supervise_find.c: the ranges of a call, one by one; the first answer but 0 ends it. For the teller: it allocates nothing. */
int supervise_each_range(const struct sup_call *c, const struct seccomp_data *d,
			 int (*each)(uint64_t start, uint64_t end, void *arg), void *arg);
uint64_t supervise_break(void);

/* supervise_deny.c. The first: 0, or -EAGAIN; before anything may be denied. */
int supervise_wait_for_old(struct supervisor *v);
int supervise_deny(struct sup_shared *s, uint64_t start, uint64_t end, unsigned access, uint64_t *id);
void supervise_undeny(struct sup_shared *s, uint64_t start, uint64_t end, uint64_t id);

#endif
