/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "backends.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "nic/nic.h"
#include "proxy/proxy.h"
#include "switch.h"

/* `supervise` can do more than uffd, but leaves a filter in the process: it must be asked for. */
static const struct hf_proxy_ops *const proxies[] = { &hf_proxy_kmod, &hf_proxy_uffd, &hf_proxy_supervise,
						      &hf_proxy_manual, &hf_proxy_none };
static const struct hf_nic_ops *const nics[] = { &hf_nic_uring, &hf_nic_verbs, &hf_nic_sim };

const struct hf_proxy_ops *backends_proxy(unsigned i)
{
	return i < sizeof(proxies) / sizeof(proxies[0]) ? proxies[i] : NULL;
}

const struct hf_nic_ops *backends_nic(unsigned i)
{
	return i < sizeof(nics) / sizeof(nics[0]) ? nics[i] : NULL;
}

const struct hf_proxy_ops *hf_proxy_find(const char *name)
{
	const struct hf_proxy_ops *ops = NULL;

	for (unsigned i = 0; (ops = backends_proxy(i)) && (!name || strcmp(ops->name, name)); i++)
		;
	return ops;
}

const struct hf_nic_ops *hf_nic_find(const char *name)
{
	const struct hf_nic_ops *ops = NULL;

	for (unsigned i = 0; (ops = backends_nic(i)) && (!name || strcmp(ops->name, name)); i++)
		;
	return ops;
}

static int past_end(bool there)
{
	return there ? hf_set_error(-EINVAL, "no place for what the probe finds") :
		       hf_set_error(-ENOENT, "there are no more");
}

static void fill(struct hf_probe *out, const char *name, int rc, unsigned caps)
{
	*out = (struct hf_probe){ .available = rc, .caps = rc ? 0 : caps };
	snprintf(out->name, sizeof(out->name), "%s", name);
	if (rc)
		snprintf(out->reason, sizeof(out->reason), "%s", hf_error());
}

/*
 * A proxy is tried by a switch of its own, for it needs a sink; but one that can't be taken back is asked. *caps: what
 * it can do here.
 */
static int try_proxy(const struct hf_proxy_ops *ops, unsigned *caps)
{
	struct hf_switch *sw = NULL;
	int rc;

	*caps = ops->caps;
	if (ops->probe)
		return ops->probe();
	rc = hf_switch_open_proxy(ops, NULL, NULL, &sw);
	if (!rc)
		*caps = sw->ops.caps;
	hf_switch_close(sw);
	return rc;
}

int hf_proxy_probe(unsigned i, struct hf_probe *out)
{
	const struct hf_proxy_ops *ops = backends_proxy(i);
	struct error_kept kept;
	unsigned caps;
	int rc;

	if (!ops || !out)
		return past_end(ops != NULL);
	error_keep(&kept);
	rc = try_proxy(ops, &caps);
	fill(out, ops->name, rc, caps);
	return error_restore(&kept, 0);
}

int hf_nic_probe(unsigned i, struct hf_probe *out)
{
	const struct hf_nic_ops *ops = backends_nic(i);
	struct error_kept kept;
	void *nic = NULL;
	int rc;

	if (!ops || !out)
		return past_end(ops != NULL);
	error_keep(&kept);
	rc = ops->open(NULL, NULL, &nic);
	fill(out, ops->name, rc, ops->attach ? HF_CAP_DATA : 0);
	if (!rc)
		ops->close(nic);
	if (!rc && ops == &hf_nic_verbs)
		verbs_describe(NULL, out->reason, sizeof(out->reason));
	return error_restore(&kept, 0);
}
