/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Opening and closing the NIC `verbs`, and its tables of operations. See verbs.h for the model.
 *
 * ibv_fork_init() is not called. It would have libibverbs set MADV_DONTFORK on every registered page of the program's: which
 * splits its mappings, and takes the memory away from its children. It is there for kernels that did not copy pinned
 * pages at the fork; those that holdfast runs on do (Linux 5.12).
 */
#include "verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../os.h"
#include "nic.h"

#define SOFT_ROCE_VENDOR 0xffffffu

struct wish {
	char device[64]; /* "": any */
	union verbs_sockaddr address; /* in the place of a device and a port */
	unsigned port;   /* 0: any */
	enum verbs_revoke revoke; /* 0: what is best */
};

/* ------------------------------------------------------------------ the argument: [DEVICE[/PORT]|ADDRESS][,revoke=HOW] */

static int bad_argument(const char *arg)
{
	return hf_set_error(-EINVAL, "verbs: \"%s\" is not understood: give DEVICE, DEVICE/PORT or an address, and "
				     ",revoke=window or ,revoke=dereg, such as \"verbs:mlx5_0/1,revoke=dereg\"",
			    arg);
}

static int parse_option(struct wish *w, const char *arg, const char *text)
{
	if (!strcmp(text, "revoke=window"))
		w->revoke = VERBS_BY_WINDOW;
	else if (!strcmp(text, "revoke=dereg"))
		w->revoke = VERBS_BY_DEREG;
	else
		return bad_argument(arg);
	return 0;
}

static int parse_address(struct wish *w, char *text, char *slash)
{
	int rc;

	if (slash)
		*slash = 0;
	rc = verbs_address_parse(text, &w->address);
	if (!rc && slash)
		rc = hf_set_error(-EINVAL, "verbs: an address says which port it is: leave /%s behind %s out", slash + 1, text);
	return rc;
}

static int parse_device(struct wish *w, const char *arg, char *text)
{
	char *slash = strchr(text, '/'), *end;
	unsigned long port;

	if (verbs_is_address(text))
		return parse_address(w, text, slash);
	if (slash) {
		*slash = 0;
		port = strtoul(slash + 1, &end, 10);
		if (end == slash + 1 || *end || !port || port > 255)
			return bad_argument(arg);
		w->port = (unsigned)port;
	}
	if (slash && !*text)
		return bad_argument(arg);
	snprintf(w->device, sizeof(w->device), "%s", text);
	return 0;
}

static int parse(struct wish *w, const char *arg)
{
	char text[128], *save = NULL;
	int rc = 0;

	memset(w, 0, sizeof(*w));
	if (!arg)
		return 0;
	if (strlen(arg) >= sizeof(text) || (*arg && arg[strlen(arg) - 1] == ','))
		return bad_argument(arg);
	memcpy(text, arg, strlen(arg) + 1);
	for (char *word = strtok_r(text, ",", &save); word && !rc; word = strtok_r(NULL, ",", &save))
		rc = strchr(word, '=') ? parse_option(w, arg, word) :
		     word == text      ? parse_device(w, arg, word) :
					 bad_argument(arg);
	return rc;
}

/* ------------------------------------------------------------------ devices */

static int port_is_active(struct ibv_context *c, unsigned port)
{
	struct ibv_port_attr attr;

	return !ibv_query_port(c, (uint8_t)port, &attr) && attr.state == IBV_PORT_ACTIVE;
}

static int check_port(struct verbs_nic *nic, const struct wish *w)
{
	unsigned first = w->port ? w->port : 1, last = w->port ? w->port : nic->attr.phys_port_cnt;

	if (w->port > nic->attr.phys_port_cnt)
		return hf_set_error(-ENODEV, "the RDMA device %s has no port %u, but %u", nic->name, w->port,
				    nic->attr.phys_port_cnt);
	for (unsigned i = first; i <= last; i++)
		if (port_is_active(nic->context, i))
			return 0;
	return hf_set_error(-ENETDOWN, "the RDMA device %s has no active port%s: see `rdma link`; a RoCE port is active when its "
				       "network interface is up (ip link set ... up)",
			    nic->name, w->port ? " of that number" : "");
}

static int open_context(struct verbs_nic *nic, struct ibv_device *device, const struct wish *w)
{
	int rc;

	snprintf(nic->name, sizeof(nic->name), "%s", ibv_get_device_name(device));
	rc = verbs_why_transport(device);
	if (rc)
		return rc;
	errno = 0;
	nic->context = ibv_open_device(device);
	if (!nic->context)
		return verbs_why_open(device, errno ? -errno : -EIO);
	if (ibv_query_device(nic->context, &nic->attr))
		return hf_set_error(-EIO, "the RDMA device %s doesn't say what it can do", nic->name);
	return check_port(nic, w);
}

static void close_context(struct verbs_nic *nic)
{
	if (nic->context)
		ibv_close_device(nic->context);
	nic->context = NULL;
}

/* The one that was asked for, or the first that can be opened and has an active port. */
static int choose(struct verbs_nic *nic, const struct wish *w)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	int rc = 1;

	for (unsigned i = 0; list && list[i] && rc; i++) {
		if (w->device[0] && strcmp(ibv_get_device_name(list[i]), w->device))
			continue;
		rc = open_context(nic, list[i], w);
		if (rc)
			close_context(nic);
	}
	if (list)
		ibv_free_device_list(list);
	return rc == 1 ? verbs_why_no_device(w->device) : rc;
}

static void look_at_device(struct verbs_nic *nic, const struct wish *w)
{
	struct ibv_device_attr_ex ex = { 0 };

	nic->windows = nic->attr.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B;
	nic->soft = nic->attr.vendor_id == SOFT_ROCE_VENDOR;
	nic->odp = !ibv_query_device_ex(nic->context, NULL, &ex) &&
		   ex.odp_caps.general_caps & IBV_ODP_SUPPORT;
	nic->port = w->port;
	nic->own = w->address;
	nic->revoke = w->revoke ? w->revoke : nic->windows && !nic->soft ? VERBS_BY_WINDOW : VERBS_BY_DEREG;
}

/* A forked child that had these would keep the registrations alive, and with them the pins. */
static int keep_descriptors(struct verbs_nic *nic)
{
	int rc = hf_close_on_fork(nic->context->cmd_fd);

	if (!rc && (rc = hf_close_on_fork(nic->context->async_fd)))
		hf_close_on_fork_done(nic->context->cmd_fd);
	return rc;
}

static int open_domain(struct verbs_nic *nic, const struct wish *w)
{
	int rc;

	look_at_device(nic, w);
	if (nic->revoke == VERBS_BY_WINDOW && !nic->windows)
		return hf_set_error(-EOPNOTSUPP, "the RDMA device %s has no memory windows of type 2B: leave revoke=window out",
				    nic->name);
	rc = keep_descriptors(nic);
	if (rc)
		return rc;
	nic->pd = ibv_alloc_pd(nic->context);
	if (nic->pd)
		return 0;
	rc = hf_set_error(errno ? -errno : -ENOMEM, "the RDMA device %s gives no protection domain: %s", nic->name,
			  strerror(errno));
	hf_close_on_fork_done(nic->context->cmd_fd);
	hf_close_on_fork_done(nic->context->async_fd);
	return rc;
}

static int open_all(struct verbs_nic *nic, struct wish *w)
{
	int rc = 0;

	if (w->address.any.sa_family)
		rc = verbs_address_find(&w->address, w->device, &w->port);
	if (!rc)
		rc = choose(nic, w);
	if (rc)
		return rc;
	rc = open_domain(nic, w);
	if (rc) {
		close_context(nic);
		return rc;
	}
	verbs_keep_from_children(nic);
	return 0;
}

static void verbs_close(void *p)
{
	struct verbs_nic *nic = p;

	verbs_self_close(nic);
	ibv_dealloc_pd(nic->pd);
	hf_close_on_fork_done(nic->context->cmd_fd);
	hf_close_on_fork_done(nic->context->async_fd);
	close_context(nic);
	pthread_mutex_destroy(&nic->self.lock);
	pthread_mutex_destroy(&nic->lock);
	free(nic);
}

static int verbs_open(const char *arg, void *config, void **out)
{
	struct verbs_nic *nic;
	struct wish w;
	int rc = parse(&w, arg);

	if (rc)
		return rc;
	nic = os_calloc(1, sizeof(*nic));
	if (!nic)
		return hf_set_error(-ENOMEM, "out of memory for the state of the NIC verbs");
	rc = open_all(nic, &w);
	if (rc) {
		free(nic);
		return rc;
	}
	pthread_mutex_init(&nic->lock, NULL);
	pthread_mutex_init(&nic->self.lock, NULL);
	*out = nic;
	return 0;
}

/* ------------------------------------------------------------------ for `doctor` */

int verbs_describe(const char *arg, char *out, size_t size)
{
	struct verbs_nic *nic;
	void *p;
	int rc = verbs_open(arg, NULL, &p);

	if (rc)
		return rc;
	nic = p;
	snprintf(out, size, "%s; remote access ends by %s%s", nic->name,
		 nic->revoke == VERBS_BY_WINDOW ? "memory windows" : "deregistration",
		 nic->odp ? "; could page on demand, but memory is pinned" : "");
	verbs_close(nic);
	return 0;
}

const struct hf_nic_qp_ops verbs_qp_ops = {
	.size = sizeof(struct hf_nic_qp_ops),
	.open = verbs_qp_open,
	.ready = verbs_qp_ready,
	.post = verbs_qp_post,
	.poll = verbs_qp_poll,
	.fd = verbs_qp_fd,
	.arm = verbs_qp_arm,
	.expose = verbs_expose,
	.revoke = verbs_revoke,
	.stop = verbs_qp_stop,
	.close = verbs_qp_close,
};

/*
 * Pins for write: what the kernel pins for the long term is nobody else's copy afterwards. Before Linux 6.2 it pins for writing
 * even where only reading is asked (FOLL_FORCE); since then a page that is shared copy-on-write is given a copy of its
 * own when it is pinned for reading (unsharing). test_verbs looks at the bytes (hazard 10).
 */
const struct hf_nic_ops hf_nic_verbs = {
	.size = sizeof(struct hf_nic_ops),
	.abi = HF_BACKEND_ABI,
	.flags = HF_NIC_PINS_FOR_WRITE,
	.name = "verbs",
	.open = verbs_open,
	.close = verbs_close,
	.reg = verbs_reg,
	.dereg = verbs_dereg,
	.attach = verbs_attach,
	.detach = verbs_detach,
	.send = verbs_send,
	.recv = verbs_recv,
	.peek = verbs_peek,
	.poke = verbs_poke,
	.qp = &verbs_qp_ops,
};
