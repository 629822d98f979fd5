/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The options of hf_listen() and hf_connect(): san.h has the list. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sock.h"

#define TEXT_MAX 4608 /* a path, and the others */
#define MESSAGE_MAX (1ull << 30)
#define DEPTH_MAX 65536

static int parse_secret(struct san_options *o, const char *value)
{
	return san_secret_load(value, &o->secret);
}

static int bad(const char *name, const char *value, const char *wanted)
{
	return hf_set_error(-EINVAL, "option %s=%.100s: %s is wanted", name, value, wanted);
}

static int parse_uid(struct san_options *o, const char *value)
{
	o->any_uid = !strcmp(value, "on");
	return o->any_uid || !strcmp(value, "off") ? 0 : bad("any_uid", value, "on or off");
}

static int parse_message(struct san_options *o, const char *value)
{
	if (options_size(value, &o->max_message) || !o->max_message || o->max_message > MESSAGE_MAX)
		return bad("max_message", value, "1 to 1G");
	return 0;
}

static int parse_rdma(struct san_options *o, const char *value)
{
	if (options_size(value, &o->max_rdma) || !o->max_rdma || o->max_rdma > WIRE_SIZE_MAX)
		return bad("max_rdma", value, "1 or more, such as 1G,");
	return 0;
}

static int parse_depth(struct san_options *o, const char *value)
{
	uint64_t n;

	if (options_size(value, &n) || !n || n > DEPTH_MAX)
		return bad("depth", value, "1 to 65536");
	o->depth = (uint32_t)n;
	return 0;
}

static const struct row {
	const char *name;
	int (*parse)(struct san_options *o, const char *value);
} table[] = {
	{ "secret_file", parse_secret }, { "any_uid", parse_uid }, { "max_message", parse_message },
	{ "max_rdma", parse_rdma }, { "depth", parse_depth },
};

static int apply(struct san_options *o, char *item)
{
	char *value = strchr(item, '=');

	if (value)
		*value++ = 0;
	for (size_t i = 0; value && i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(table[i].name, item))
			return table[i].parse(o, value);
	return hf_set_error(-EINVAL, "option '%.100s' of a socket: name=value of secret_file, any_uid, max_message, max_rdma, "
				     "depth is wanted", item);
}

int san_options_parse(const char *text, struct san_options *o)
{
	char copy[TEXT_MAX];
	char *save;
	int rc = 0;

	*o = (struct san_options){ .max_message = 64ull << 20, .max_rdma = 1ull << 30, .depth = 256 };
	if (!text)
		return 0;
	if (strlen(text) >= sizeof(copy))
		return hf_set_error(-EINVAL, "options of %zu bytes: %zu are allowed", strlen(text), sizeof(copy) - 1);
	strcpy(copy, text);
	for (char *item = strtok_r(copy, ",", &save); item && !rc; item = strtok_r(NULL, ",", &save))
		rc = apply(o, item);
	if (rc)
		san_secret_wipe(&o->secret);
	return rc;
}
