/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The table of `holdfast doctor`: every change of a mapping (changes.h), for each NIC with each proxy.
 */
#ifndef HOLDFAST_DOCTOR_H
#define HOLDFAST_DOCTOR_H

#include "torture.h"

struct table;

struct table *table_new(void); /* NULL: no memory */
void table_free(struct table *t);
/* One column more; `proxy` NULL: the control, which drops every event. */
void table_add(struct table *t, const char *nic, const char *proxy);
/* Fill the columns, each in a process of its own. */
void table_measure(struct table *t);
/* A stale hit or a failure where none is known. */
bool table_is_wrong(const struct table *t);
void table_print(const struct table *t);
void table_json(const struct table *t); /* the key "changes" */

#endif
