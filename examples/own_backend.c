/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A NIC of one's own: five functions and a table. This one keeps buffers in memory with mlock(2), as
 * programs with secrets or deadlines do. Locking costs a system call; the cache saves it on every further use.
 */
#include <errno.h>
#include <holdfast/backend.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct locker { _Atomic int locks, unlocks; } counts;

static int locker_open(const char *arg, void *config, void **nic)
{
	*nic = config;
	return 0;
}

static void locker_close(void *nic)
{
}

static int locker_reg(void *nic, uint64_t addr, uint64_t len, unsigned access, struct hf_nic_reg *out)
{
	if (mlock((void *)(uintptr_t)addr, len))
		return hf_set_error(-errno, "mlock of %llu bytes failed: raise ulimit -l", (unsigned long long)len);
	*out = (struct hf_nic_reg){ .lkey = (uint64_t)++((struct locker *)nic)->locks };
	return 0;
}

/* Memory that is gone is unlocked already. */
static int locker_dereg(void *nic, uint64_t addr, uint64_t len, const struct hf_nic_reg *reg)
{
	((struct locker *)nic)->unlocks++;
	return munlock((void *)(uintptr_t)addr, len) && errno != ENOMEM ? -errno : 0;
}

static const struct hf_nic_ops locker = {
	.size = sizeof(locker), .abi = HF_BACKEND_ABI, .name = "locker", .open = locker_open,
	.close = locker_close, .reg = locker_reg, .dereg = locker_dereg,
};

int main(void)
{
	char *buf = aligned_alloc(4096, 65536);
	struct hf_provider *p;
	struct hf_switch *sw;
	struct hf_region r;
	int bad = hf_switch_open(NULL, &sw) || hf_provider_open_nic(sw, &locker, &counts, NULL, &p);

	for (int i = 0; !bad && i < 1000; i++)
		bad = hf_get(p, buf, 65536, HF_READWRITE, &r) || hf_put(p, &r);
	if (bad || hf_provider_close(p) || hf_switch_close(sw))
		return fprintf(stderr, "%s\n", hf_error()), 1;
	printf("1000 uses, %d mlock, %d munlock\n", counts.locks, counts.unlocks);
	free(buf);
	return counts.locks != counts.unlocks || counts.locks > 1000;
}
