/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef HF_SUPERVISE_START_H
#define HF_SUPERVISE_START_H

#include "supervise_shared.h"

/*
 * Start the supervisor, load the filter into all threads, hand the listener over: from here on the calls wait. 0, and
 * *shared and *socket (to be closed on exec). On an error nothing is left behind, but no_new_privs when that was needed and
 * could be set. `teller`: the tid of a thread that lives as long as the address space.
 * All signals are blocked meanwhile: a handler that unmaps would wait for a supervisor that isn't there yet.
 */
int supervise_start(int teller, struct sup_shared **shared, int *socket);

/* Would the filter load here? In a process of its own, which ends at once. 0 or -errno with the sentence. */
int supervise_probe(void);

#endif
