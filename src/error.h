/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The sentence of hf_error(). A call that succeeds must not change it. Code that sets a sentence,
 * and then succeeds by another way, runs between error_keep() and error_restore():
 *
 *	struct error_kept kept;
 *
 *	error_keep(&kept);
 *	rc = ...;
 *	return error_restore(&kept, rc);
 */
#ifndef HF_ERROR_H
#define HF_ERROR_H

#define ERROR_BYTES 320

struct error_kept {
	char text[ERROR_BYTES];
};

/* Copy this thread's sentence to *kept. */
void error_keep(struct error_kept *kept);

/* If rc is no error, set the sentence that was kept. Return rc. */
int error_restore(const struct error_kept *kept, int rc);

#endif
