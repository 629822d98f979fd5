/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "error.h"

#include <holdfast/backend.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Static TLS: the first access must not allocate (a dlopen'ed library may use a little of it). */
static _Thread_local char text[ERROR_BYTES] __attribute__((tls_model("initial-exec")));

const char *hf_error(void)
{
	return text;
}

int hf_set_error(int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return err;
}

void error_keep(struct error_kept *kept)
{
	strcpy(kept->text, text);
}

int error_restore(const struct error_kept *kept, int rc)
{
	if (rc >= 0)
		strcpy(text, kept->text);
	return rc;
}

const char *hf_version(void)
{
	return HF_VERSION_TEXT;
}
