/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * In the place of verbs_cm.c where the library was built without librdmacm.
 */
#include "verbs.h"

#include <errno.h>

int verbs_cm_find(const union verbs_sockaddr *a, char device[64], unsigned *port)
{
	char text[VERBS_ADDRESS_TEXT];

	return hf_set_error(-ENOSYS, "this holdfast was built without librdmacm, which says whose address %s is: give the device's "
				     "name (rdma link), or install librdmacm-dev and build it with -Drdmacm=enabled",
			    verbs_address_text(a, text));
}
