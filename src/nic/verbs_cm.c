/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which device and port have an address, by librdmacm: an id is bound to the address, as for listening, and the kernel says
 * whose it is. It knows what stands between the two: a VLAN, a bond, IPoIB. Nothing is listened to, no event comes, and the id is
 * gone before this returns; connections are made by verbs_qp.c.
 *
 * What stays is librdmacm's own: it opens the device by itself, once, to give it to the id, and keeps that open until
 * the process ends. Nothing is pinned by that, but a device that can't be taken away from its users (soft RoCE) waits for it.
 *
 * librdmacm answers few different numbers, and looks for up to 5 s for a device file that isn't where it should be. So who may open
 * it, and whether it is there, is looked at first.
 */
#include "verbs.h"

#include <errno.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NODE "/dev/infiniband/rdma_cm"

static int why_channel(const union verbs_sockaddr *a, int err)
{
	char text[VERBS_ADDRESS_TEXT];

	verbs_address_text(a, text);
	switch (err) {
	case -EACCES:
		return hf_set_error(err, "no permission to ask rdma_cm whose address %s is: this user must be able to read and write %s; "
					 "or give the device's name (rdma link)",
				    text, NODE);
	case -ENOENT:
		return hf_set_error(err, "there is no %s here, which says whose address %s is: modprobe rdma_ucm; a container needs it "
					 "passed in; or give the device's name (rdma link)",
				    NODE, text);
	case -EPERM:
		return hf_set_error(err, "librdmacm and the kernel's rdma_cm don't understand each other's ABI: give the device's name "
					 "instead of %s (rdma link)",
				    text);
	default:
		return hf_set_error(err, "rdma_cm doesn't say whose address %s is: %s; give the device's name (rdma link)", text,
				    strerror(-err));
	}
}

static int check_device(const union verbs_sockaddr *a)
{
	char names[64], text[VERBS_ADDRESS_TEXT];

	verbs_list_devices(names, sizeof(names));
	return names[0] ? 0 : verbs_why_no_device(verbs_address_text(a, text));
}

/* Where the module isn't loaded librdmacm has the kernel load it. */
static int check_node(const union verbs_sockaddr *a)
{
	int err;

	if (!access(NODE, R_OK | W_OK))
		return 0;
	err = errno;
	if (err == ENOENT && access("/sys/class/misc/rdma_cm", F_OK))
		return 0;
	return why_channel(a, -err);
}

/* The kernel's part is done when the id has a port; what fails then is opening the device. */
static int why_bind(const union verbs_sockaddr *a, struct rdma_cm_id *id, int err)
{
	char text[VERBS_ADDRESS_TEXT];

	if (err == -EADDRNOTAVAIL)
		return verbs_why_not_local(a);
	if (err == -ENODEV && !rdma_get_src_port(id))
		return verbs_why_not_rdma(a);
	if (err == -ENODEV)
		return hf_set_error(-EACCES, "no permission to open the RDMA device of %s: this user must be able to read and write "
					     "/dev/infiniband/uverbs*",
				    verbs_address_text(a, text));
	return why_channel(a, err);
}

static int ask(const union verbs_sockaddr *a, struct rdma_event_channel *channel, char device[64], unsigned *port)
{
	union verbs_sockaddr addr = *a; /* librdmacm doesn't take a constant */
	struct rdma_cm_id *id;
	int rc = 0;

	errno = 0;
	if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP))
		return why_channel(a, errno ? -errno : -EIO);
	errno = 0;
	if (rdma_bind_addr(id, &addr.any))
		rc = why_bind(a, id, errno ? -errno : -EIO);
	else if (!id->verbs)
		rc = verbs_why_not_rdma(a);
	if (!rc) {
		snprintf(device, 64, "%s", ibv_get_device_name(id->verbs->device));
		*port = id->port_num;
	}
	rdma_destroy_id(id);
	return rc;
}

int verbs_cm_find(const union verbs_sockaddr *a, char device[64], unsigned *port)
{
	struct rdma_event_channel *channel;
	int rc = check_device(a);

	if (!rc)
		rc = check_node(a);
	if (rc)
		return rc;
	errno = 0;
	channel = rdma_create_event_channel();
	if (!channel)
		return why_channel(a, errno ? -errno : -EIO);
	rc = ask(a, channel, device, port);
	rdma_destroy_event_channel(channel);
	return rc;
}
