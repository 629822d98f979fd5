/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Why the kernel said no. It answers one number for several causes; these find out which it was, and say so with the
 * remedy. Slow, on errors only.
 */
#include "verbs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../maps.h"

#define KIB 1024ull
#define CAP_IPC_LOCK_BIT 14

/* ------------------------------------------------------------------ devices */

/* The kernel's devices, whether or not libibverbs can drive them. */
static unsigned list_kernel(char *out, size_t size)
{
	DIR *dir = opendir("/sys/class/infiniband");
	struct dirent *e;
	unsigned n = 0;
	size_t at = 0;

	out[0] = 0;
	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		if (at + strlen(e->d_name) + 3 < size)
			at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", e->d_name);
	}
	if (dir)
		closedir(dir);
	return n;
}

void verbs_list_devices(char *out, size_t size)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	size_t at = 0;

	out[0] = 0;
	for (unsigned i = 0; list && list[i]; i++) {
		const char *name = ibv_get_device_name(list[i]);

		if (at + strlen(name) + 3 < size)
			at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", name);
	}
	if (list)
		ibv_free_device_list(list);
}

int verbs_why_no_device(const char *wanted)
{
	char names[128];

	verbs_list_devices(names, sizeof(names));
	if (names[0])
		return hf_set_error(-ENODEV, "there is no RDMA device '%s' here, but: %s", wanted, names);
	if (list_kernel(names, sizeof(names)))
		return hf_set_error(-ENODEV, "the kernel has %s, but programs can't use it: modprobe ib_uverbs, and install "
					     "ibverbs-providers",
				    names);
	return hf_set_error(-ENODEV, "no RDMA device here: load its driver, or for software RDMA: modprobe rdma_rxe ib_uverbs "
				     "&& rdma link add rxe0 type rxe netdev INTERFACE");
}

/* An iWARP device connects its queue pairs itself, over TCP, and only rdma_cm can tell it to. */
int verbs_why_transport(const struct ibv_device *d)
{
	switch (d->transport_type) {
	case IBV_TRANSPORT_IB:
		return 0;
	case IBV_TRANSPORT_IWARP:
		return hf_set_error(-EOPNOTSUPP, "the RDMA device %s is an iWARP one: its queue pairs can only be connected by rdma_cm, "
						 "holdfast connects them beside a stream socket: take an InfiniBand or RoCE device",
				    d->name);
	default:
		return hf_set_error(-EOPNOTSUPP, "the RDMA device %s is neither InfiniBand nor RoCE (transport %d): holdfast can't make "
						 "its connections",
				    d->name, (int)d->transport_type);
	}
}

/* libibverbs looks elsewhere when it may not open the device, and answers what became of that. */
int verbs_why_open(const struct ibv_device *d, int err)
{
	char path[128];

	snprintf(path, sizeof(path), "/dev/infiniband/%s", d->dev_name);
	if (access(path, R_OK | W_OK) < 0)
		err = -errno;
	switch (err) {
	case -EACCES:
	case -EPERM:
		return hf_set_error(err, "no permission to open the RDMA device %s: this user must be able to read and write %s",
				    d->name, path);
	case -ENOENT:
		return hf_set_error(err, "the RDMA device %s has no %s here: modprobe ib_uverbs; a container needs the device "
					 "passed in",
				    d->name, path);
	case -ENOSYS:
		return hf_set_error(err, "libibverbs and the kernel's RDMA device %s don't understand each other's ABI: install "
					 "ibverbs-providers that fit this kernel",
				    d->name);
	default:
		return hf_set_error(err, "the RDMA device %s can't be opened: %s", d->name, strerror(-err));
	}
}

/* ------------------------------------------------------------------ registering */

/* "NAME:\t number" of /proc/self/status. */
static uint64_t status_number(const char *name, const char *format)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long v = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), format, &v) == 1)
			break;
	if (f)
		fclose(f);
	return v;
}

static bool may_lock_all(void)
{
	return status_number("CapEff:", "%llx") >> CAP_IPC_LOCK_BIT & 1;
}

static int why_no_memory(struct verbs_nic *nic, uint64_t len, unsigned count)
{
	struct rlimit r = { RLIM_INFINITY, RLIM_INFINITY };
	uint64_t pinned = status_number("VmPin:", "%llu") * KIB;

	getrlimit(RLIMIT_MEMLOCK, &r);
	if (r.rlim_cur != RLIM_INFINITY && !may_lock_all() && pinned + len > r.rlim_cur)
		return hf_set_error(-ENOMEM, "%s can't pin %llu KiB: RLIMIT_MEMLOCK is %llu KiB, %llu of them are pinned: raise "
					     "ulimit -l",
				    nic->name, (unsigned long long)(len / KIB), (unsigned long long)(r.rlim_cur / KIB),
				    (unsigned long long)(pinned / KIB));
	if (nic->attr.max_mr > 0 && count >= (unsigned)nic->attr.max_mr)
		return hf_set_error(-ENOMEM, "%s has no room for another registration: it takes %d; set max_count", nic->name,
				    nic->attr.max_mr);
	return hf_set_error(-ENOMEM, "%s can't register %llu KiB: the kernel or the device is out of memory; it takes %d "
				     "registrations, this provider has %u",
			    nic->name, (unsigned long long)(len / KIB), nic->attr.max_mr, count);
}

static int why_mapping(struct verbs_nic *nic, int err, uint64_t addr, uint64_t len, unsigned access)
{
	int rc = hf_range_check(addr, addr + len, access);

	if (maps_are_hidden(rc))
		return hf_set_error(err, "%s can't pin [0x%llx, +%llu): %s; without /proc the cause can't be told", nic->name,
				    (unsigned long long)addr, (unsigned long long)len, strerror(-err));
	return rc ? rc :
		    hf_set_error(-EOPNOTSUPP, "%s can't pin [0x%llx, +%llu): the kernel refuses this kind of mapping for the long "
					      "term, such as a file's that is written back; copy the data to ordinary memory",
				 nic->name, (unsigned long long)addr, (unsigned long long)len);
}

int verbs_why_reg(struct verbs_nic *nic, int err, uint64_t addr, uint64_t len, unsigned access)
{
	unsigned count;

	pthread_mutex_lock(&nic->lock);
	count = nic->count;
	pthread_mutex_unlock(&nic->lock);
	if (nic->attr.max_mr_size && len > nic->attr.max_mr_size)
		return hf_set_error(-EOPNOTSUPP, "%s takes %llu bytes at most in one registration, %llu asked: use it in parts",
				    nic->name, (unsigned long long)nic->attr.max_mr_size, (unsigned long long)len);
	if (err == -EINVAL && nic->attr.max_mr > 0 && count >= (unsigned)nic->attr.max_mr)
		err = -ENOMEM; /* soft RoCE's answer */
	switch (err) {
	case -ENOMEM:
		return why_no_memory(nic, len, count);
	case -EFAULT:
	case -EOPNOTSUPP:
		return why_mapping(nic, err, addr, len, access);
	default:
		return hf_set_error(err, "%s can't register [0x%llx, +%llu): %s", nic->name, (unsigned long long)addr,
				    (unsigned long long)len, strerror(-err));
	}
}
