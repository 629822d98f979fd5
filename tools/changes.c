/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "changes.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <holdfast/holdfast.h>
#include <liburing.h>
#include <link.h>
#include <malloc.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define RANGE_PAGES 4
#define MALLOC_HEAP (100u << 10) /* below glibc's smallest mmap threshold, 128 KiB */
#define MALLOC_MMAP (33u << 20)  /* above its largest, 32 MiB: always a mapping of its own */
#define STACK_SMALL (512u << 10) /* glibc keeps it for the next thread */
#define STACK_LARGE (64u << 20)  /* over glibc's stack cache: unmapped with the thread */
#define CHILD_SECONDS 10         /* a child that hangs is ended by its alarm */

enum { PROT_RW = PROT_READ | PROT_WRITE, MAP_ANON_PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS };

size_t change_page(void)
{
	static _Atomic size_t page;

	if (!page)
		page = (size_t)sysconf(_SC_PAGESIZE);
	return page;
}

/* ------------------------------------------------------------------ why a row can't run */

__attribute__((format(printf, 3, 4)))
static int cannot(struct ground *g, int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(g->why, sizeof(g->why), format, ap);
	va_end(ap);
	return err;
}

static int failed(struct ground *g, const char *call)
{
	int err = errno ? errno : EINVAL;

	return cannot(g, -err, "%s: %s", call, strerror(err));
}

/* For calls that answer -1 and errno. */
static int done(struct ground *g, long answer, const char *call)
{
	return answer == -1 ? failed(g, call) : 0;
}

/* ------------------------------------------------------------------ mapping the ground */

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* Unusable addresses all round, so that the range is a mapping of its own and merges with nothing. */
static int reserve(struct ground *g, size_t len, size_t align)
{
	size_t pad = round_up(len, align);
	unsigned char *map = mmap(NULL, pad * 3 + align, PROT_NONE, MAP_ANON_PRIVATE | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return failed(g, "mmap");
	g->map = map;
	g->map_len = pad * 3 + align;
	g->len = len;
	g->addr = (unsigned char *)round_up((uintptr_t)map + pad, align);
	return 0;
}

static int map_over(struct ground *g, unsigned char *at, size_t len, int flags, int fd)
{
	return done(g, (long)mmap(at, len, PROT_RW, flags | MAP_FIXED, fd, 0), "mmap");
}

/* The next mmap() is given the same addresses; another thread may have been quicker. */
static int map_again(struct ground *g, size_t off, size_t len)
{
	void *p = mmap(g->addr + off, len, PROT_RW, MAP_ANON_PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == g->addr + off)
		return 0;
	g->lost = true;
	if (p == MAP_FAILED)
		return failed(g, "mmap at the same address");
	munmap(p, len);
	return cannot(g, -EAGAIN, "the address was given to somebody else");
}

static int setup_plain(struct ground *g, int flags)
{
	int err = reserve(g, RANGE_PAGES * change_page(), change_page());

	return err ? err : map_over(g, g->addr, g->len, flags, g->fd);
}

static int setup_private(struct ground *g)
{
	return setup_plain(g, MAP_ANON_PRIVATE);
}

static int setup_shared_anon(struct ground *g)
{
	return setup_plain(g, MAP_SHARED | MAP_ANONYMOUS);
}

/* Twice the range long: remap_file_pages needs somewhere else to point. */
static int size_file(struct ground *g)
{
	return done(g, ftruncate(g->fd, (off_t)(2 * RANGE_PAGES * change_page())), "ftruncate");
}

static int setup_memfd(struct ground *g)
{
	int err;

	g->fd = memfd_create("holdfast-torture", MFD_CLOEXEC);
	if (g->fd < 0)
		return failed(g, "memfd_create");
	err = size_file(g);
	return err ? err : setup_plain(g, MAP_SHARED);
}

static int open_file(struct ground *g)
{
	const char *dir = getenv("TMPDIR");
	char path[256];

	snprintf(path, sizeof(path), "%s/holdfast-XXXXXX", dir && *dir ? dir : "/tmp");
	g->fd = mkostemp(path, O_CLOEXEC);
	if (g->fd < 0)
		return failed(g, path);
	unlink(path);
	return size_file(g);
}

static int setup_file_shared(struct ground *g)
{
	int err = open_file(g);

	return err ? err : setup_plain(g, MAP_SHARED);
}

static int setup_file_private(struct ground *g)
{
	int err = open_file(g);

	return err ? err : setup_plain(g, MAP_PRIVATE);
}

/* Marked for removal at once, so that nothing is left behind however the process ends. */
static int new_segment(struct ground *g, int *id)
{
	*id = shmget(IPC_PRIVATE, RANGE_PAGES * change_page(), IPC_CREAT | 0600);
	if (*id < 0)
		return failed(g, "shmget");
	if (g->attached)
		shmdt(g->attached);
	g->attached = shmat(*id, NULL, 0);
	if (g->attached == (void *)-1)
		g->attached = NULL;
	shmctl(*id, IPC_RMID, NULL);
	return g->attached ? 0 : failed(g, "shmat");
}

static int attach_segment(struct ground *g)
{
	int id, err = new_segment(g, &id);

	return err ? err : done(g, (long)shmat(id, g->addr, SHM_REMAP), "shmat");
}

static int setup_sysv(struct ground *g)
{
	int err = setup_private(g);

	return err ? err : attach_segment(g);
}

/* ------------------------------------------------------------------ huge pages */

static size_t read_number(const char *path, const char *before, size_t unit)
{
	char text[4096], *at = text;
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return 0;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	if (before)
		at = strstr(text, before);
	return at ? strtoul(at + (before ? strlen(before) : 0), NULL, 10) * unit : 0;
}

/* Is the mapping that holds addr backed by a huge page by now? */
static bool has_huge_page(const unsigned char *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long lo, hi, kib;
	bool inside = false, huge = false;
	char line[512];

	while (f && !huge && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			inside = (uintptr_t)addr >= lo && (uintptr_t)addr < hi;
		else if (inside && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			huge = kib > 0;
	}
	if (f)
		fclose(f);
	return huge;
}

/* Two huge pages' worth: the first a huge page, the second small pages only. One page of the first is looked up. */
static int setup_thp(struct ground *g)
{
	int err;

	g->huge = read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", NULL, 1);
	if (!g->huge)
		return cannot(g, -ENOSYS, "this kernel has no transparent huge pages");
	err = reserve(g, 2 * g->huge, g->huge);
	if (!err)
		err = map_over(g, g->addr, g->len, MAP_ANON_PRIVATE, -1);
	if (err)
		return err;
	if (madvise(g->addr, g->huge, MADV_HUGEPAGE) || madvise(g->addr + g->huge, g->huge, MADV_NOHUGEPAGE))
		return failed(g, "madvise");
	*(volatile unsigned char *)g->addr = 1;
	if (!has_huge_page(g->addr))
		return cannot(g, -ENOMEM, "the kernel gave no huge page (transparent_hugepage=never, or none is free)");
	g->addr += g->huge / 2;
	g->len = change_page();
	return 0;
}

static int straddle(struct ground *g)
{
	g->addr += g->huge / 2 - 2 * change_page();
	g->len = RANGE_PAGES * change_page();
	return 0;
}

/* Into the half of small pages. */
static int small_half(struct ground *g)
{
	g->addr += g->huge;
	return 0;
}

static int map_hugetlb(struct ground *g, int how)
{
	void *p = mmap(g->addr, g->len, PROT_RW, MAP_ANON_PRIVATE | MAP_HUGETLB | how, -1, 0);

	if (p == MAP_FAILED && errno == ENOMEM)
		return cannot(g, -ENOMEM, "no huge pages: set vm.nr_hugepages to 2 or more");
	return done(g, (long)p, "mmap(MAP_HUGETLB)");
}

static int setup_hugetlb(struct ground *g)
{
	int err;

	g->huge = read_number("/proc/meminfo", "Hugepagesize:", 1024);
	if (!g->huge)
		return cannot(g, -ENOSYS, "this kernel has no hugetlb pages");
	err = reserve(g, g->huge, g->huge);
	return err ? err : map_hugetlb(g, MAP_FIXED);
}

/* ------------------------------------------------------------------ stacks */

static void *stack_owner(void *arg)
{
	struct ground_thread *t = arg;
	pthread_attr_t attr;
	void *stack;

	if (!pthread_getattr_np(pthread_self(), &attr)) {
		if (!pthread_attr_getstack(&attr, &stack, &t->stack_len))
			t->stack = stack;
		pthread_attr_destroy(&attr);
	}
	sem_post(&t->ready);
	while (sem_wait(&t->leave))
		;
	return NULL;
}

static int start_thread(struct ground *g, size_t stack_size)
{
	struct ground_thread *t = &g->thread;
	pthread_attr_t attr;
	int err;

	t->stack = NULL;
	sem_init(&t->ready, 0, 0);
	sem_init(&t->leave, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack_size);
	err = pthread_create(&t->id, &attr, stack_owner, t);
	pthread_attr_destroy(&attr);
	if (err)
		return cannot(g, -err, "pthread_create: %s", strerror(err));
	t->runs = true;
	while (sem_wait(&t->ready))
		;
	return t->stack ? 0 : cannot(g, -ENOSYS, "the C library doesn't say where a stack is");
}

static void end_thread(struct ground *g)
{
	if (!g->thread.runs)
		return;
	sem_post(&g->thread.leave);
	pthread_join(g->thread.id, NULL);
	g->thread.runs = false;
}

/* Half-way down: far below what the thread uses itself. */
static unsigned char *middle_of_stack(const struct ground *g)
{
	return (unsigned char *)round_up((uintptr_t)g->thread.stack + g->thread.stack_len / 2, change_page());
}

static int stack_ground(struct ground *g, size_t stack_size)
{
	int err = start_thread(g, stack_size);

	g->addr = middle_of_stack(g);
	g->len = RANGE_PAGES * change_page();
	return err;
}

static int setup_stack(struct ground *g)
{
	return stack_ground(g, STACK_SMALL);
}

static int larger_stack(struct ground *g)
{
	end_thread(g);
	return stack_ground(g, STACK_LARGE);
}

static int next_thread(struct ground *g, size_t stack_size)
{
	int err;

	end_thread(g);
	err = start_thread(g, stack_size);
	if (!err && middle_of_stack(g) != g->addr)
		return cannot(g, -EAGAIN, "the next thread was given another stack");
	return err;
}

static int reuse_stack(struct ground *g)
{
	return next_thread(g, STACK_SMALL);
}

static int reuse_large_stack(struct ground *g)
{
	return next_thread(g, STACK_LARGE);
}

/* ------------------------------------------------------------------ the heap */

static unsigned char *heap_end(void)
{
	return sbrk(0);
}

static int setup_brk(struct ground *g)
{
	unsigned char *end;

	free(malloc(MALLOC_HEAP)); /* so that malloc needs no more of the heap while we are at its end */
	end = heap_end();
	g->len = RANGE_PAGES * change_page();
	g->addr = (unsigned char *)round_up((uintptr_t)end, change_page());
	return done(g, (long)sbrk((intptr_t)(g->addr + g->len - end)), "sbrk");
}

static int shrink_and_grow(struct ground *g)
{
	if (heap_end() != g->addr + g->len)
		return cannot(g, -EAGAIN, "something else grew the heap");
	if (sbrk(-(intptr_t)g->len) == (void *)-1)
		return failed(g, "sbrk");
	return done(g, (long)sbrk((intptr_t)g->len), "sbrk");
}

static int setup_block(struct ground *g, size_t size)
{
	g->block = malloc(size);
	if (!g->block)
		return failed(g, "malloc");
	g->addr = (unsigned char *)round_up((uintptr_t)g->block, change_page());
	g->len = RANGE_PAGES * change_page();
	return g->len + change_page() > size ? cannot(g, -EINVAL, "the pages are too large for this row") : 0;
}

static int setup_heap(struct ground *g)
{
	g->below = malloc(MALLOC_HEAP); /* so that the block is the last one */
	return setup_block(g, MALLOC_HEAP);
}

static int setup_malloc(struct ground *g)
{
	return setup_block(g, MALLOC_MMAP);
}

/* Allocate until the old block comes back, as a program does that allocates much. */
static int same_block(struct ground *g, uintptr_t was, size_t size)
{
	enum { TRIES = 32 };
	void *others[TRIES];
	int n = 0;

	g->block = malloc(size);
	while ((uintptr_t)g->block != was && n < TRIES) {
		others[n++] = g->block;
		g->block = malloc(size);
	}
	while (n > 0)
		free(others[--n]);
	return (uintptr_t)g->block == was ? 0 : cannot(g, -EAGAIN, "malloc gave another address");
}

static int trim_heap(struct ground *g)
{
	uintptr_t was = (uintptr_t)g->block;

	free(g->block);
	malloc_trim(0);
	return same_block(g, was, MALLOC_HEAP);
}

static int free_and_malloc(struct ground *g)
{
	uintptr_t was = (uintptr_t)g->block;

	free(g->block);
	return same_block(g, was, MALLOC_MMAP);
}

/* glibc moves it with mremap; then somebody else is given the old addresses. */
static int grow_block(struct ground *g)
{
	uintptr_t was = (uintptr_t)g->block;
	void *p = realloc(g->block, 2ul * MALLOC_MMAP);
	int err;

	if (!p)
		return failed(g, "realloc");
	g->block = p;
	if ((uintptr_t)p == was)
		return 0;
	err = map_again(g, 0, g->len);
	if (!err) {
		g->extra = g->addr;
		g->extra_len = g->len;
	}
	return err;
}

/* ------------------------------------------------------------------ a library's data */

/* The writable pages of a library that lie wholly behind its read-only relocations. */
static int library_pages(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct ground *g = arg;
	const struct link_map *map = g->library;
	uintptr_t lo = 0, hi = 0, relro = 0;
	int i;

	if (info->dlpi_addr != map->l_addr)
		return 0;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type == PT_LOAD && (ph->p_flags & PF_W)) {
			lo = start;
			hi = start + ph->p_memsz;
		} else if (ph->p_type == PT_GNU_RELRO) {
			relro = start + ph->p_memsz;
		}
	}
	if (relro > lo)
		lo = relro;
	lo = lo / change_page() * change_page();
	g->len = change_page();
	g->addr = (unsigned char *)round_up(hi, change_page()) - g->len;
	g->stamp_at = change_page() - CHANGE_STAMP; /* behind its last variable */
	return hi > lo && (uintptr_t)g->addr >= lo && hi % change_page() && hi % change_page() <= g->stamp_at;
}

static int setup_library(struct ground *g)
{
	static const char *const names[] = { "libBrokenLocale.so.1", "libanl.so.1", "libutil.so.1", "librt.so.1",
					     "libthread_db.so.1", "libnss_compat.so.2" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		void *there = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);

		if (there) {
			dlclose(there);
			continue;
		}
		g->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
		if (g->library && dl_iterate_phdr(library_pages, g))
			return 0;
		if (g->library)
			dlclose(g->library);
		g->library = NULL;
	}
	return cannot(g, -ENOENT, "no small shared library to load and unload");
}

static int unload(struct ground *g)
{
	int err;

	dlclose(g->library);
	g->library = NULL;
	err = map_again(g, 0, g->len);
	if (!err) {
		g->extra = g->addr;
		g->extra_len = g->len;
	}
	return err;
}

/* ------------------------------------------------------------------ changes: unmap, map over, move */

static int unmap_part(struct ground *g, size_t off, size_t len)
{
	if (munmap(g->addr + off, len))
		return failed(g, "munmap");
	return map_again(g, off, len);
}

static int unmap_whole(struct ground *g)
{
	return unmap_part(g, 0, g->len);
}

static int unmap_first_half(struct ground *g)
{
	return unmap_part(g, 0, g->len / 2);
}

static int unmap_middle(struct ground *g)
{
	return unmap_part(g, change_page(), g->len - 2 * change_page());
}

static int unmap_last_page(struct ground *g)
{
	return unmap_part(g, g->len - change_page(), change_page());
}

static int raw_unmap(struct ground *g)
{
	if (syscall(SYS_munmap, g->addr, g->len))
		return failed(g, "munmap");
	return done(g, syscall(SYS_mmap, g->addr, g->len, PROT_RW, MAP_ANON_PRIVATE | MAP_FIXED, -1, 0), "mmap");
}

static int map_fixed(struct ground *g)
{
	return map_over(g, g->addr, g->len, MAP_ANON_PRIVATE, -1);
}

static int map_fixed_part(struct ground *g)
{
	return map_over(g, g->addr + change_page(), change_page(), MAP_ANON_PRIVATE, -1);
}

static int somewhere(struct ground *g)
{
	void *p = mmap(NULL, g->len, PROT_RW, MAP_ANON_PRIVATE, -1, 0);

	if (p == MAP_FAILED)
		return failed(g, "mmap");
	g->extra = p;
	g->extra_len = g->len;
	return 0;
}

static int move(struct ground *g, void *from, size_t len, int how, void *to)
{
	return done(g, (long)mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | how, to), "mremap");
}

static int move_away(struct ground *g)
{
	int err = move(g, g->addr, g->len, 0, g->extra);

	return err ? err : map_again(g, 0, g->len);
}

static int move_middle(struct ground *g)
{
	size_t len = g->len - 2 * change_page();
	int err = move(g, g->addr + change_page(), len, 0, g->extra);

	return err ? err : map_again(g, change_page(), len);
}

static int move_onto(struct ground *g)
{
	int err;

	memset(g->extra, 0x5a, g->extra_len);
	err = move(g, g->extra, g->len, 0, g->addr);
	if (!err)
		g->extra = NULL;
	return err;
}

static int move_dontunmap(struct ground *g)
{
	return move(g, g->addr, g->len, MREMAP_DONTUNMAP, g->extra);
}

static int shrink(struct ground *g)
{
	int err = done(g, (long)mremap(g->addr, g->len, g->len / 2, 0), "mremap");

	return err ? err : map_again(g, g->len / 2, g->len - g->len / 2);
}

static int grow_in_place(struct ground *g)
{
	if (munmap(g->addr + g->len, change_page()))
		return failed(g, "munmap");
	return done(g, (long)mremap(g->addr, g->len, g->len + change_page(), 0), "mremap");
}

/* ------------------------------------------------------------------ changes: advice */

static int advise(struct ground *g, int advice)
{
	return done(g, madvise(g->addr, g->len, advice), "madvise");
}

static int advise_dontneed(struct ground *g)
{
	return advise(g, MADV_DONTNEED);
}

static int advise_free(struct ground *g)
{
	return advise(g, MADV_FREE);
}

static int advise_remove(struct ground *g)
{
	return advise(g, MADV_REMOVE);
}

static int advise_pageout(struct ground *g)
{
	return advise(g, MADV_PAGEOUT);
}

static int lock_pages(struct ground *g)
{
	return done(g, mlock(g->addr, g->len), "mlock");
}

static int advise_dontneed_locked(struct ground *g)
{
	return advise(g, MADV_DONTNEED_LOCKED);
}

static int advise_guard(struct ground *g)
{
	int err = advise(g, MADV_GUARD_INSTALL);

	return err ? err : advise(g, MADV_GUARD_REMOVE);
}

static int raw_advise(struct ground *g)
{
	return done(g, syscall(SYS_madvise, g->addr, g->len, MADV_DONTNEED), "madvise");
}

static int advise_by_pidfd(struct ground *g)
{
	struct iovec part = { g->addr, g->len };
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0), err;

	if (fd < 0)
		return failed(g, "pidfd_open");
	err = done(g, syscall(SYS_process_madvise, fd, &part, 1, MADV_DONTNEED, 0), "process_madvise(MADV_DONTNEED)");
	close(fd);
	return err;
}

static int advise_by_uring(struct ground *g)
{
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int err = io_uring_queue_init(2, &ring, 0);

	if (err)
		return cannot(g, err, "io_uring_queue_init: %s", strerror(-err));
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_madvise(sqe, g->addr, (off_t)g->len, MADV_DONTNEED);
	err = io_uring_submit_and_wait(&ring, 1);
	if (err >= 0)
		err = io_uring_wait_cqe(&ring, &cqe);
	if (!err)
		err = cqe->res;
	io_uring_queue_exit(&ring);
	return err < 0 ? cannot(g, err, "io_uring madvise: %s", strerror(-err)) : 0;
}

static int collapse(struct ground *g)
{
	unsigned char *half = (unsigned char *)((uintptr_t)g->addr / g->huge * g->huge);

	if (madvise(half, g->huge, MADV_HUGEPAGE))
		return failed(g, "madvise(MADV_HUGEPAGE)");
	/* The kernel declines to move pages that are pinned; that is the right answer, too. */
	if (madvise(half, g->huge, MADV_COLLAPSE) && errno == EINVAL)
		return failed(g, "madvise(MADV_COLLAPSE)");
	return 0;
}

static int split_huge_page(struct ground *g)
{
	return done(g, madvise(g->addr + g->len, change_page(), MADV_DONTNEED), "madvise");
}

static int hugetlb_again(struct ground *g)
{
	if (munmap(g->addr, g->len))
		return failed(g, "munmap");
	return map_hugetlb(g, MAP_FIXED_NOREPLACE);
}

/* ------------------------------------------------------------------ changes: System V, files */

static int detach_and_attach(struct ground *g)
{
	if (shmdt(g->addr))
		return failed(g, "shmdt");
	return attach_segment(g);
}

static int other_file_pages(struct ground *g)
{
	return done(g, remap_file_pages(g->addr, g->len, 0, RANGE_PAGES, 0), "remap_file_pages");
}

static int truncate_file(struct ground *g)
{
	if (ftruncate(g->fd, 0))
		return failed(g, "ftruncate");
	return size_file(g);
}

static int punch_file(struct ground *g)
{
	int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return done(g, fallocate(g->fd, how, 0, (off_t)g->len), "fallocate(FALLOC_FL_PUNCH_HOLE)");
}

/* ------------------------------------------------------------------ changes: rights */

static int protect_none(struct ground *g)
{
	return done(g, mprotect(g->addr, g->len, PROT_NONE), "mprotect");
}

static int protect_read_only(struct ground *g)
{
	return done(g, mprotect(g->addr, g->len, PROT_READ), "mprotect");
}

static int protect_part(struct ground *g)
{
	return done(g, mprotect(g->addr + change_page(), change_page(), PROT_READ), "mprotect");
}

static int protect_back(struct ground *g)
{
	return done(g, mprotect(g->addr, g->len, PROT_RW), "mprotect");
}

/* ------------------------------------------------------------------ changes: processes */

/* What a child does; answers its exit code, 0 when all went well. */
typedef int (*child_fn)(struct ground *g);

static int child_ended(struct ground *g)
{
	int status = 0;
	pid_t pid = g->child;

	g->child = 0;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return failed(g, "waitpid");
	if (WIFSIGNALED(status))
		return cannot(g, CHANGE_WRONG, "the child was ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status))
		return cannot(g, CHANGE_WRONG, "the child found a fault (exit %d)", WEXITSTATUS(status));
	return 0;
}

static int in_child(struct ground *g, child_fn fn)
{
	g->child = fork();
	if (g->child < 0) {
		g->child = 0;
		return failed(g, "fork");
	}
	if (!g->child) {
		alarm(CHILD_SECONDS);
		_exit(fn(g));
	}
	return child_ended(g);
}

static int child_truncates(struct ground *g)
{
	return truncate_file(g) ? 1 : 0;
}

static int child_punches(struct ground *g)
{
	return punch_file(g) ? 1 : 0;
}

static int child_removes(struct ground *g)
{
	return advise_remove(g) ? 1 : 0;
}

static int child_writes(struct ground *g)
{
	memset(g->addr, 0xc5, g->len);
	return 0;
}

static int child_frees(struct ground *g)
{
	return unmap_whole(g) ? 1 : child_writes(g);
}

static int child_exits(struct ground *g)
{
	return g->addr ? 0 : 1;
}

static int child_execs(struct ground *g)
{
	execl("/bin/true", "true", (char *)NULL);
	return errno == ENOENT ? 0 : 1;
}

static int child_calls(struct ground *g)
{
	struct hf_region r;

	if (!g->provider)
		return 0;
	return hf_get(g->provider, g->addr, g->len, HF_READ, &r) == -EOWNERDEAD ? 0 : 1;
}

static int other_truncates(struct ground *g)
{
	return in_child(g, child_truncates);
}

static int other_punches(struct ground *g)
{
	return in_child(g, child_punches);
}

static int other_removes(struct ground *g)
{
	return in_child(g, child_removes);
}

static int fork_child_writes(struct ground *g)
{
	return in_child(g, child_writes);
}

static int fork_child_frees(struct ground *g)
{
	return in_child(g, child_frees);
}

static int fork_child_exits(struct ground *g)
{
	return in_child(g, child_exits);
}

static int fork_child_execs(struct ground *g)
{
	return in_child(g, child_execs);
}

static int fork_child_calls(struct ground *g)
{
	return in_child(g, child_calls);
}

/* The child shares every page until restore lets it go: the parent writes meanwhile. */
static int fork_and_stay(struct ground *g)
{
	int ends[2];
	char end;

	if (pipe2(ends, O_CLOEXEC))
		return failed(g, "pipe2");
	g->child = fork();
	if (!g->child) {
		alarm(CHILD_SECONDS);
		close(ends[1]);
		_exit(read(ends[0], &end, 1) == 0 ? 0 : 1);
	}
	close(ends[0]);
	g->child_pipe = ends[1];
	if (g->child > 0)
		return 0;
	g->child = 0;
	return failed(g, "fork");
}

static int vfork_and_exit(struct ground *g)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(0);
	if (pid < 0)
		return failed(g, "vfork");
	g->child = pid;
	return child_ended(g);
}

static int spawn(struct ground *g)
{
	char *argv[] = { "true", NULL }, *envp[] = { NULL };
	pid_t pid;
	int err = posix_spawn(&pid, "/bin/true", NULL, NULL, argv, envp);

	if (err)
		return cannot(g, -err, "posix_spawn of /bin/true: %s", strerror(err));
	g->child = pid;
	return child_ended(g);
}

/* ------------------------------------------------------------------ the tables */

static const struct {
	const char *name;
	int (*setup)(struct ground *g);
} grounds[] = {
	[GROUND_PRIVATE] = { "private anonymous", setup_private },
	[GROUND_SHARED_ANON] = { "shared anonymous", setup_shared_anon },
	[GROUND_MEMFD] = { "memfd", setup_memfd },
	[GROUND_FILE_SHARED] = { "shared file", setup_file_shared },
	[GROUND_FILE_PRIVATE] = { "private file", setup_file_private },
	[GROUND_SYSV] = { "System V", setup_sysv },
	[GROUND_STACK] = { "thread stack", setup_stack },
	[GROUND_BRK] = { "brk", setup_brk },
	[GROUND_HEAP] = { "heap", setup_heap },
	[GROUND_MALLOC] = { "large malloc", setup_malloc },
	[GROUND_THP] = { "huge page", setup_thp },
	[GROUND_HUGETLB] = { "hugetlb", setup_hugetlb },
	[GROUND_LIBRARY] = { "library data", setup_library },
};

#define KEPT_QUIETLY (CHANGE_KEEPS | CHANGE_SILENT)

/* name, hazard, kind, flags, permitted to be blind, prepare, apply, back, what */
const struct change changes[] = {
	{ "munmap-whole", 1, GROUND_PRIVATE, 0, NULL, NULL, unmap_whole, NULL,
	  "munmap all of it, map it again" },
	{ "munmap-first-half", 1, GROUND_PRIVATE, 0, NULL, NULL, unmap_first_half, NULL,
	  "munmap the first half, map it again" },
	{ "munmap-middle", 1, GROUND_PRIVATE, 0, NULL, NULL, unmap_middle, NULL,
	  "munmap the pages in the middle, map them again" },
	{ "munmap-last-page", 1, GROUND_PRIVATE, 0, NULL, NULL, unmap_last_page, NULL,
	  "munmap the last page, map it again" },
	{ "munmap-file-private", 1, GROUND_FILE_PRIVATE, 0, NULL, NULL, unmap_whole, NULL,
	  "munmap a private file mapping, map anonymous memory there" },
	{ "munmap-memfd", 1, GROUND_MEMFD, 0, NULL, NULL, unmap_whole, NULL,
	  "munmap a memfd, map anonymous memory there" },
	{ "mmap-fixed", 2, GROUND_PRIVATE, 0, NULL, NULL, map_fixed, NULL,
	  "mmap(MAP_FIXED) over all of it" },
	{ "mmap-fixed-part", 2, GROUND_PRIVATE, 0, NULL, NULL, map_fixed_part, NULL,
	  "mmap(MAP_FIXED) over one page of it" },
	{ "mremap-away", 3, GROUND_PRIVATE, 0, NULL, somewhere, move_away, NULL,
	  "mremap it elsewhere, map new memory there" },
	{ "mremap-away-part", 3, GROUND_PRIVATE, 0, NULL, somewhere, move_middle, NULL,
	  "mremap its middle elsewhere, map new memory there" },
	{ "mremap-onto", 3, GROUND_PRIVATE, 0, NULL, somewhere, move_onto, NULL,
	  "mremap(MREMAP_FIXED) another mapping onto it" },
	{ "mremap-shrink", 3, GROUND_PRIVATE, 0, NULL, NULL, shrink, NULL,
	  "mremap to half its size, map new memory behind" },
	{ "mremap-grow", 3, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, grow_in_place, NULL,
	  "mremap to a larger size in place" },
	{ "mremap-dontunmap", 3, GROUND_PRIVATE, 0, NULL, somewhere, move_dontunmap, NULL,
	  "mremap(MREMAP_DONTUNMAP): the pages go, the mapping stays" },
	{ "madv-dontneed", 4, GROUND_PRIVATE, CHANGE_EMPTIES, NULL, NULL, advise_dontneed, NULL,
	  "madvise(MADV_DONTNEED)" },
	{ "madv-dontneed-file", 4, GROUND_FILE_PRIVATE, CHANGE_EMPTIES, NULL, NULL, advise_dontneed, NULL,
	  "madvise(MADV_DONTNEED) on a written private file mapping" },
	{ "madv-free", 4, GROUND_PRIVATE, CHANGE_EMPTIES, NULL, NULL, advise_free, NULL,
	  "madvise(MADV_FREE)" },
	{ "madv-remove", 4, GROUND_SHARED_ANON, CHANGE_EMPTIES, NULL, NULL, advise_remove, NULL,
	  "madvise(MADV_REMOVE) on shared anonymous memory" },
	{ "madv-remove-other", 4, GROUND_SHARED_ANON, CHANGE_UNREFUSED, NULL, NULL, other_removes, NULL,
	  "the same, by a child that shares it" },
	{ "madv-dontneed-locked", 4, GROUND_PRIVATE, CHANGE_EMPTIES, NULL, lock_pages, advise_dontneed_locked, NULL,
	  "madvise(MADV_DONTNEED_LOCKED) on locked memory" },
	{ "madv-guard", 4, GROUND_PRIVATE, CHANGE_EMPTIES, "uffd", NULL, advise_guard, NULL,
	  "madvise(MADV_GUARD_INSTALL), then MADV_GUARD_REMOVE" },
	{ "madv-pageout", 4, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, advise_pageout, NULL,
	  "madvise(MADV_PAGEOUT): pinned pages must stay" },
	{ "process-madvise", 4, GROUND_PRIVATE, CHANGE_EMPTIES, NULL, NULL, advise_by_pidfd, NULL,
	  "process_madvise(MADV_DONTNEED) on oneself" },
	{ "io-uring-madvise", 4, GROUND_PRIVATE, CHANGE_UNREFUSED, NULL, NULL, advise_by_uring, NULL,
	  "MADV_DONTNEED through an io_uring" },
	{ "raw-syscall", 5, GROUND_PRIVATE, 0, NULL, NULL, raw_unmap, NULL,
	  "munmap and mmap by syscall()" },
	{ "raw-syscall-madvise", 5, GROUND_PRIVATE, CHANGE_EMPTIES, NULL, NULL, raw_advise, NULL,
	  "madvise(MADV_DONTNEED) by syscall()" },
	{ "brk-shrink-grow", 6, GROUND_BRK, 0, NULL, NULL, shrink_and_grow, NULL,
	  "sbrk down, then up again" },
	{ "malloc-trim", 6, GROUND_HEAP, 0, NULL, NULL, trim_heap, NULL,
	  "free, malloc_trim, malloc of the same size" },
	{ "malloc-free", 6, GROUND_MALLOC, 0, NULL, NULL, free_and_malloc, NULL,
	  "free of a large block, malloc of the same size" },
	{ "malloc-realloc", 6, GROUND_MALLOC, 0, NULL, NULL, grow_block, NULL,
	  "realloc moves a large block, its old addresses are mapped again" },
	{ "shmdt-shmat", 7, GROUND_SYSV, 0, NULL, NULL, detach_and_attach, NULL,
	  "shmdt, then shmat of another segment there" },
	{ "shm-remap", 7, GROUND_PRIVATE, 0, NULL, NULL, attach_segment, NULL,
	  "shmat(SHM_REMAP) over private anonymous memory" },
	{ "remap-file-pages", 8, GROUND_MEMFD, 0, NULL, NULL, other_file_pages, NULL,
	  "remap_file_pages to other pages of the memfd" },
	{ "memfd-truncate", 9, GROUND_MEMFD, CHANGE_UNREFUSED, NULL, NULL, truncate_file, NULL,
	  "ftruncate of the memfd to nothing and back" },
	{ "memfd-truncate-other", 9, GROUND_MEMFD, CHANGE_UNREFUSED, NULL, NULL, other_truncates, NULL,
	  "the same by another process" },
	{ "memfd-punch", 9, GROUND_MEMFD, CHANGE_UNREFUSED, NULL, NULL, punch_file, NULL,
	  "a hole is punched into the memfd" },
	{ "memfd-punch-other", 9, GROUND_MEMFD, CHANGE_UNREFUSED, NULL, NULL, other_punches, NULL,
	  "the same by another process" },
	{ "file-truncate", 9, GROUND_FILE_SHARED, CHANGE_UNREFUSED, NULL, NULL, truncate_file, NULL,
	  "ftruncate of a shared file to nothing and back" },
	{ "file-shared-other", 9, GROUND_FILE_SHARED, CHANGE_UNREFUSED, NULL, NULL, other_truncates, NULL,
	  "the same by another process" },
	{ "file-truncate-private", 9, GROUND_FILE_PRIVATE, CHANGE_UNREFUSED, NULL, NULL, truncate_file, NULL,
	  "ftruncate of a file that is mapped private and was written" },
	{ "file-truncate-other", 9, GROUND_FILE_PRIVATE, CHANGE_UNREFUSED, NULL, NULL, other_truncates, NULL,
	  "the same by another process" },
	{ "cow-untouched", 10, GROUND_PRIVATE, CHANGE_SILENT | CHANGE_READ | CHANGE_UNTOUCHED, NULL, NULL, NULL, NULL,
	  "registered for reading before it was touched, then written" },
	{ "cow-file-private", 10, GROUND_FILE_PRIVATE, CHANGE_SILENT | CHANGE_READ | CHANGE_UNTOUCHED, NULL, NULL, NULL,
	  NULL, "a private file mapping registered for reading, then written" },
	{ "mprotect-none-back", 11, GROUND_PRIVATE, CHANGE_KEEPS | CHANGE_RIGHTS, "uffd", NULL, protect_none,
	  protect_back, "mprotect to none, a lookup, mprotect back" },
	{ "mprotect-ro-back", 11, GROUND_PRIVATE, CHANGE_KEEPS | CHANGE_RIGHTS, "uffd", NULL, protect_read_only,
	  protect_back, "mprotect to read-only, a lookup for writing, mprotect back" },
	{ "mprotect-part-back", 11, GROUND_PRIVATE, CHANGE_KEEPS | CHANGE_RIGHTS, "uffd", NULL, protect_part,
	  protect_back, "the same for one page of it" },
	{ "fork-parent-writes", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_and_stay, NULL,
	  "fork; the parent writes while the child lives" },
	{ "fork-child-writes", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_child_writes, NULL,
	  "fork; the child writes into its copy" },
	{ "fork-child-frees", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_child_frees, NULL,
	  "fork; the child unmaps, maps and writes" },
	{ "fork-child-exits", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_child_exits, NULL,
	  "fork; the child exits" },
	{ "fork-child-execs", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_child_execs, NULL,
	  "fork; the child executes a program" },
	{ "fork-child-calls", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, fork_child_calls, NULL,
	  "fork; the child calls the library and is told -EOWNERDEAD" },
	{ "vfork", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, vfork_and_exit, NULL,
	  "vfork; the child exits" },
	{ "posix-spawn", 12, GROUND_PRIVATE, KEPT_QUIETLY, NULL, NULL, spawn, NULL,
	  "posix_spawn of a program" },
	{ "thp-4k", 13, GROUND_THP, CHANGE_EMPTIES, NULL, NULL, advise_dontneed, NULL,
	  "MADV_DONTNEED of one small page in a huge page" },
	{ "thp-split", 13, GROUND_THP, KEPT_QUIETLY, NULL, NULL, split_huge_page, NULL,
	  "MADV_DONTNEED of its neighbour in the same huge page" },
	{ "thp-straddle", 13, GROUND_THP, 0, NULL, straddle, unmap_whole, NULL,
	  "munmap of a range half in a huge page, half in small ones" },
	{ "thp-collapse", 13, GROUND_THP, KEPT_QUIETLY, NULL, small_half, collapse, NULL,
	  "madvise(MADV_COLLAPSE) of small pages of which one is pinned" },
	{ "hugetlb", 13, GROUND_HUGETLB, 0, NULL, NULL, hugetlb_again, NULL,
	  "munmap of a hugetlb page, map another there" },
	{ "hugetlb-dontneed", 13, GROUND_HUGETLB, CHANGE_EMPTIES, NULL, NULL, advise_dontneed, NULL,
	  "madvise(MADV_DONTNEED) of a hugetlb page" },
	{ "thread-stack", 14, GROUND_STACK, 0, NULL, NULL, reuse_stack, NULL,
	  "the thread ends, the next one is given its stack" },
	{ "thread-stack-unmapped", 14, GROUND_STACK, 0, NULL, larger_stack, reuse_large_stack, NULL,
	  "the same with a stack too large for the C library to keep" },
	{ "dlclose-data", 15, GROUND_LIBRARY, 0, NULL, NULL, unload, NULL,
	  "dlclose, then other memory where the library's data was" },
};

const size_t changes_count = sizeof(changes) / sizeof(changes[0]);

const char *ground_name(enum ground_kind kind)
{
	return grounds[kind].name;
}

bool change_may_blind(const struct change *c, const char *proxy)
{
	return c->blind && !strcmp(c->blind, proxy);
}

/* ------------------------------------------------------------------ one row's life */

int change_setup(const struct change *c, struct ground *g)
{
	struct hf_provider *provider = g->provider;
	int err;

	memset(g, 0, sizeof(*g));
	g->provider = provider;
	g->fd = g->child_pipe = -1;
	err = grounds[c->kind].setup(g);
	if (!err && c->prepare)
		err = c->prepare(g);
	return err;
}

int change_apply(const struct change *c, struct ground *g)
{
	return c->apply ? c->apply(g) : 0;
}

int change_back(const struct change *c, struct ground *g)
{
	return c->back ? c->back(g) : 0;
}

static void restore_process(struct ground *g)
{
	if (g->child_pipe >= 0)
		close(g->child_pipe);
	if (g->child > 0)
		child_ended(g);
	end_thread(g);
}

static void restore_heap(const struct change *c, struct ground *g)
{
	if (c->kind == GROUND_BRK && g->addr && heap_end() == g->addr + g->len)
		sbrk(-(intptr_t)g->len);
	free(g->block);
	free(g->below);
}

void change_restore(const struct change *c, struct ground *g)
{
	restore_process(g);
	restore_heap(c, g);
	if (g->library)
		dlclose(g->library);
	if (g->extra)
		munmap(g->extra, g->extra_len);
	if (g->map && !g->lost)
		munmap(g->map, g->map_len);
	if (g->attached)
		shmdt(g->attached);
	if (g->fd >= 0)
		close(g->fd);
}
