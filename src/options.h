/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One table of options: parsing, the environment and the help all come from it.
 */
#ifndef HF_OPTIONS_H
#define HF_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
	/* of a switch */
	char proxy[16];
	bool fast;
	bool relax_file;
	/* of a provider */
	bool cache;
	bool hard;
	uint64_t max_bytes; /* bytes */
	uint64_t max_count;
};

enum option_scope { OPTION_SWITCH = 1, OPTION_PROVIDER = 2 };

/* Defaults, then `text`, then the environment's HOLDFAST. 0 or -EINVAL with the sentence set. */
int options_parse(struct options *o, const char *text, enum option_scope scope);

/* max_bytes=auto. `root` is that of cgroup_memory_limit(). */
uint64_t options_default_bytes(const char *root);

/* "4096", "64K", "1M", "2G", "1T". 0 or -EINVAL, without a sentence. */
int options_size(const char *value, uint64_t *out);

#endif
