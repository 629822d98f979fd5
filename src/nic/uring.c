/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Opening and closing the NIC `uring`, and its table of operations. See uring.h for the model.
 */
#include "uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "../os.h"
#include "nic.h"

/* "name=N" at *p: the number, and *p behind it and its comma. */
static bool take_number(const char **p, const char *name, unsigned max, unsigned *out)
{
	size_t n = strlen(name);
	unsigned long v;
	char *end;

	if (strncmp(*p, name, n) || (*p)[n] != '=' || (*p)[n + 1] < '0' || (*p)[n + 1] > '9')
		return false;
	errno = 0;
	v = strtoul(*p + n + 1, &end, 10);
	if (errno || v > max || (*end && *end != ','))
		return false;
	*out = (unsigned)v;
	*p = *end ? end + 1 : end;
	return true;
}

static int parse(const char *arg, unsigned *fd, unsigned *slots)
{
	const char *p = arg;
	bool have_fd = false;

	*slots = 0;
	while (*p) {
		if (take_number(&p, "fd", INT32_MAX, fd))
			have_fd = true;
		else if (!take_number(&p, "slots", URING_MAX_SLOTS, slots))
			return hf_set_error(
				-EINVAL,
				"uring: \"%s\" of \"%s\" is not understood: give fd=N,slots=M "
				"(M at most %u), or nothing",
				p, arg, URING_MAX_SLOTS);
	}
	if (!have_fd || !*slots)
		return hf_set_error(-EINVAL,
				    "uring: \"%s\" lacks %s: give fd=N,slots=M with M from 1 to %u",
				    arg, have_fd ? "slots" : "fd", URING_MAX_SLOTS);
	return 0;
}

/* Before 6.4 a buffer's pages are let go by a work item that is run a second later. */
static bool kernel_unpins_late(void)
{
	unsigned major, minor;
	struct utsname u;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		return false;
	return major < 6 || (major == 6 && minor < 4);
}

static int open_tables(struct uring_nic *nic, const char *arg)
{
	unsigned fd = 0, slots;
	int rc;

	if (!arg || !*arg)
		return uring_table_add(nic, 0, uring_table_slots(0));
	rc = parse(arg, &fd, &slots);
	if (rc)
		return rc;
	nic->users_ring = true;
	return uring_table_adopt(nic, (int)fd, slots);
}

static int uring_open(const char *arg, void *config, void **out)
{
	struct uring_nic *nic = os_calloc(1, sizeof(*nic));
	int rc;

	if (!nic)
		return hf_set_error(-ENOMEM, "out of memory for the state of the NIC uring");
	pthread_mutex_init(&nic->lock, NULL);
	nic->late_unpin = kernel_unpins_late();
	rc = open_tables(nic, arg);
	if (rc) {
		pthread_mutex_destroy(&nic->lock);
		free(nic);
		return rc;
	}
	*out = nic;
	return 0;
}

static void uring_close(void *p)
{
	struct uring_nic *nic = p;

	for (unsigned i = 0; i < URING_TABLES; i++)
		uring_table_close(nic->table[i]);
	pthread_mutex_destroy(&nic->lock);
	free(nic);
}

const struct hf_nic_ops hf_nic_uring = {
	.size = sizeof(struct hf_nic_ops),
	.abi = HF_BACKEND_ABI,
	.flags = HF_NIC_PINS_FOR_WRITE,
	.name = "uring",
	.open = uring_open,
	.close = uring_close,
	.reg = uring_reg,
	.dereg = uring_dereg,
	.lkey_at = uring_lkey_at,
	.attach = uring_attach,
	.detach = uring_detach,
	.send = uring_send,
	.recv = uring_recv,
	.peek = uring_peek,
	.poke = uring_poke,
	.move = uring_nic_move,
};
