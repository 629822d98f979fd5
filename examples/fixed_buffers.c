/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A program with an io_uring of its own gets its fixed buffers from holdfast: it never registers
 * anything itself, and never writes from memory that it has given back long ago.
 */
#include <holdfast/holdfast.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEN 65536
#define TRY(call) do { if ((call) < 0) { fprintf(stderr, #call ": %s\n", hf_error()); return 1; } } while (0)

/* One write from a fixed buffer into the pipe; 0 when the reader gets these very bytes. */
static int write_fixed(struct io_uring *ring, struct hf_provider *p, const int fd[2], char *buf, int *hits)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	struct hf_region r;
	char got[LEN];

	TRY(hf_get(p, buf, LEN, HF_READ, &r));
	*hits += r.flags & HF_REGION_HIT ? 1 : 0;
	io_uring_prep_write_fixed(sqe, fd[1], buf, LEN, 0, (int)hf_region_lkey(&r, buf));
	io_uring_submit_and_wait(ring, 1);
	if (io_uring_wait_cqe(ring, &cqe) || cqe->res != LEN || read(fd[0], got, LEN) != LEN)
		return 1;
	io_uring_cqe_seen(ring, cqe);
	TRY(hf_put(p, &r)); /* stays registered */
	return memcmp(got, buf, LEN) != 0;
}

int main(void)
{
	int fd[2], hits = 0, wrong = 0;
	struct hf_provider *p;
	struct hf_switch *sw;
	struct io_uring ring;
	char *buf = NULL, name[64];

	if (pipe(fd) || io_uring_queue_init(8, &ring, 0))
		return 1;
	snprintf(name, sizeof(name), "uring:fd=%d,slots=64", ring.ring_fd);
	TRY(hf_switch_open(NULL, &sw));
	TRY(hf_provider_open(sw, name, NULL, &p));
	for (int i = 0; i < 100; i++) {
		if (i % 10 == 0) /* new memory at the old address: a naive cache sends the old bytes */
			buf = mmap(buf, LEN, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | (buf ? MAP_FIXED : 0), -1, 0);
		memset(buf, 'a' + i % 26, LEN);
		wrong += write_fixed(&ring, p, fd, buf, &hits);
	}
	printf("proxy %s: 100 writes from fixed buffers, %d hits, %d wrong\n", hf_switch_proxy(sw), hits, wrong);
	return wrong || hf_provider_close(p) || hf_switch_close(sw) ? 1 : 0;
}
