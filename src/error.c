/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include <holdfast/backend.h>
#include <stdarg.h>
#include <stdio.h>

/* Static TLS: the first access must not allocate (a dlopen'ed library may use a little of it). */
static _Thread_local char text[320] __attribute__((tls_model("initial-exec")));

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

const char *hf_version(void)
{
	return HF_VERSION_TEXT;
}
