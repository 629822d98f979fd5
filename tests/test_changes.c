/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hazards 1 to 15, 41 and 42 on the real kernel: every change of a mapping under a cached registration,
 * and what watching may break in the program. The NIC's pinned pages show what a registration really reaches,
 * but for the count of mappings, where nothing needs to be pinned. NIC and proxy are those of check.h.
 *
 * What the proxies `uffd` and `kmod` have to make of each change is the table below; every row of tools/changes.c
 * must be in it.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "changes.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define SANITIZED (CHECK_ASAN || CHECK_TSAN)
#define TEST_SECONDS 1200 /* of a hang only */
#define TRIES 60000 /* 1 ms apart: until a range that was being changed is cached again */
#define LIMIT "max_bytes=4M" /* with room below RLIMIT_MEMLOCK = 8 MiB for huge pages, charged whole */

enum expect {
	SEEN = 1,  /* cached; after the change found no more; then cached anew */
	KEPT,      /* cached; the pages stay: found again, and right */
	EITHER,    /* cached; the pages stay: found again, or after a false alarm cached anew; right */
	UNCACHED,  /* can't be watched: never cached, or the NIC refuses it (I6) */
	BLIND,     /* a named blind spot: found, and wrong */
	REPLACED,  /* seen, though nothing tells of it; what is there now can't be watched */
	RIGHTS,    /* ... of rights only: found while the mapping forbids it, and right afterwards */
};

enum proxy { UFFD, KMOD, PROXIES };

struct row {
	const char *name;
	enum expect by[PROXIES];
	const char *needs; /* why it may be skipped; NULL: it has to run */
	const struct change *change;
};

#define HUGE_PAGES "a free transparent huge page"
#define HUGETLB "vm.nr_hugepages of 2 or more"
#define GLIBC "the C library's own allocator"

static struct row rows[] = {
	{ "munmap-whole", { SEEN, SEEN }, NULL, NULL },
	{ "munmap-first-half", { SEEN, SEEN }, NULL, NULL },
	{ "munmap-middle", { SEEN, SEEN }, NULL, NULL },
	{ "munmap-last-page", { SEEN, SEEN }, NULL, NULL },
	{ "munmap-file-private", { UNCACHED, SEEN }, NULL, NULL },
	{ "munmap-memfd", { UNCACHED, SEEN }, NULL, NULL },
	{ "mmap-fixed", { SEEN, SEEN }, NULL, NULL },
	{ "mmap-fixed-part", { SEEN, SEEN }, NULL, NULL },
	{ "mremap-away", { SEEN, SEEN }, NULL, NULL },
	{ "mremap-away-part", { SEEN, SEEN }, NULL, NULL },
	{ "mremap-onto", { SEEN, SEEN }, NULL, NULL },
	{ "mremap-shrink", { SEEN, SEEN }, NULL, NULL },
	{ "mremap-grow", { KEPT, KEPT }, NULL, NULL },
	{ "mremap-dontunmap", { SEEN, SEEN }, NULL, NULL },
	{ "madv-dontneed", { SEEN, SEEN }, NULL, NULL },
	{ "madv-dontneed-file", { UNCACHED, SEEN }, NULL, NULL },
	{ "madv-free", { SEEN, SEEN }, NULL, NULL },
	{ "madv-remove", { UNCACHED, SEEN }, NULL, NULL },
	{ "madv-remove-other", { UNCACHED, SEEN }, NULL, NULL },
	{ "madv-dontneed-locked", { SEEN, SEEN }, "Linux 5.18", NULL },
	{ "madv-guard", { BLIND, SEEN }, "Linux 6.13", NULL },
	{ "madv-pageout", { KEPT, KEPT }, NULL, NULL },
	{ "process-madvise", { SEEN, SEEN }, "Linux 6.13", NULL },
	{ "io-uring-madvise", { SEEN, SEEN }, NULL, NULL },
	{ "raw-syscall", { SEEN, SEEN }, NULL, NULL },
	{ "raw-syscall-madvise", { SEEN, SEEN }, NULL, NULL },
	{ "brk-shrink-grow", { SEEN, SEEN }, GLIBC, NULL },
	{ "malloc-trim", { SEEN, SEEN }, GLIBC, NULL },
	{ "malloc-free", { SEEN, SEEN }, GLIBC, NULL },
	{ "malloc-realloc", { SEEN, SEEN }, GLIBC, NULL },
	{ "shmdt-shmat", { UNCACHED, SEEN }, "System V shared memory", NULL },
	{ "shm-remap", { REPLACED, SEEN }, "System V shared memory", NULL },
	{ "remap-file-pages", { UNCACHED, SEEN }, NULL, NULL },
	{ "memfd-truncate", { UNCACHED, SEEN }, NULL, NULL },
	{ "memfd-truncate-other", { UNCACHED, SEEN }, NULL, NULL },
	{ "memfd-punch", { UNCACHED, SEEN }, NULL, NULL },
	{ "memfd-punch-other", { UNCACHED, SEEN }, NULL, NULL },
	{ "file-truncate", { UNCACHED, SEEN }, NULL, NULL },
	{ "file-shared-other", { UNCACHED, SEEN }, NULL, NULL },
	{ "file-truncate-private", { UNCACHED, SEEN }, NULL, NULL },
	{ "file-truncate-other", { UNCACHED, SEEN }, NULL, NULL },
	{ "cow-untouched", { KEPT, EITHER }, NULL, NULL },
	{ "cow-file-private", { UNCACHED, EITHER }, NULL, NULL },
	{ "mprotect-none-back", { RIGHTS, SEEN }, NULL, NULL },
	{ "mprotect-ro-back", { RIGHTS, SEEN }, NULL, NULL },
	{ "mprotect-part-back", { RIGHTS, SEEN }, NULL, NULL },
	{ "fork-parent-writes", { KEPT, EITHER }, NULL, NULL },
	{ "fork-child-writes", { KEPT, EITHER }, NULL, NULL },
	{ "fork-child-frees", { KEPT, EITHER }, NULL, NULL },
	{ "fork-child-exits", { KEPT, EITHER }, NULL, NULL },
	{ "fork-child-execs", { KEPT, EITHER }, NULL, NULL },
	{ "fork-child-calls", { KEPT, EITHER }, NULL, NULL },
	{ "vfork", { KEPT, KEPT }, NULL, NULL },
	{ "posix-spawn", { KEPT, KEPT }, "/bin/true", NULL },
	{ "thp-4k", { SEEN, SEEN }, HUGE_PAGES, NULL },
	{ "thp-split", { KEPT, EITHER }, HUGE_PAGES, NULL },
	{ "thp-straddle", { SEEN, SEEN }, HUGE_PAGES, NULL },
	{ "thp-collapse", { KEPT, EITHER }, HUGE_PAGES, NULL },
	{ "hugetlb", { UNCACHED, SEEN }, HUGETLB, NULL },
	{ "hugetlb-dontneed", { UNCACHED, SEEN }, HUGETLB, NULL },
	{ "thread-stack", { SEEN, SEEN }, GLIBC, NULL },
	{ "thread-stack-unmapped", { SEEN, SEEN }, GLIBC, NULL },
	{ "dlclose-data", { UNCACHED, SEEN }, "a small shared library to unload", NULL },
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static enum expect expected(const struct row *row)
{
	enum expect uffd = row->by[UFFD];

	if (check_proxy_is("kmod"))
		return row->by[KMOD];
	if (check_proxy_is("supervise")) /* told before, where the call is one of this process's */
		return uffd == BLIND || uffd == RIGHTS ? SEEN : uffd;
	return uffd;
}

/* ------------------------------------------------------------------ helpers */

static struct hf_switch *sw;
static struct hf_provider *provider;
static uint64_t serial; /* makes every stamp unique */

static void open_on(const char *switch_options, const struct hf_nic_ops *ops, const char *options)
{
	check_ok(hf_switch_open(switch_options, &sw));
	check_ok(hf_provider_open_nic(sw, ops, NULL, options, &provider));
}

static int close_both(void **state)
{
	int rc = hf_provider_close(provider);

	provider = NULL;
	if (!rc)
		rc = hf_switch_close(sw);
	sw = NULL;
	return rc;
}

static int open_both(void **state)
{
	sw = check_hazard_switch();
	provider = check_hazard_provider(sw, LIMIT);
	return 0;
}

static unsigned char *map_at(void *at, size_t len, int flags)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

/* A mapping of its own: what lies around can't be merged with it. */
static unsigned char *map_alone(size_t pages)
{
	return (unsigned char *)check_map(pages * change_page());
}

static void unmap_alone(unsigned char *p, size_t pages)
{
	check_unmap((char *)p, pages * change_page());
}

/* What a process before this one had pinned may still be charged to the user: not at once uncharged. */
static int get_raw(const void *addr, size_t len, unsigned access, struct hf_region *r)
{
	int rc = hf_get(provider, addr, len, access, r);

	for (int i = 0; i < 6000 && rc == -ENOMEM; i++) {
		usleep(10000);
		rc = hf_get(provider, addr, len, access, r);
	}
	return rc;
}

static struct hf_region get(const void *addr, size_t len, unsigned access)
{
	struct hf_region r;

	check_ok(get_raw(addr, len, access, &r));
	return r;
}

static void put(struct hf_region *r)
{
	check_ok(hf_put(provider, r));
}

/*
 * Until it stays: a lookup goes round a change that is under way. What was changed before has been told by then: kmod tells
 * it a moment later, and the end of an earlier mapping must not end what is cached here now.
 */
static struct hf_region get_cached(const void *addr, size_t len, unsigned access)
{
	struct hf_region r;

	check_quiet(provider);
	r = get(addr, len, access);
	for (int i = 0; i < TRIES && !(r.flags & HF_REGION_CACHED); i++) {
		put(&r);
		usleep(1000);
		r = get(addr, len, access);
	}
	if (!(r.flags & HF_REGION_CACHED))
		fail_msg("not cached after %d tries: %s", TRIES, hf_error());
	return r;
}

static void cache(const void *addr, size_t len)
{
	struct hf_region r = get_cached(addr, len, HF_READWRITE);

	put(&r);
}

static void stamp(unsigned char *p, size_t len, size_t at)
{
	for (; at < len; at += change_page()) {
		uint64_t words[2];

		words[0] = ++serial;
		words[1] = ~serial * 0x9e3779b97f4a7c15u;
		memcpy(p + at, words, sizeof(words));
	}
}

/* How many pages the NIC sees otherwise than the processor: reading, then writing where it may. */
static unsigned wrong_pages(const struct hf_region *r, unsigned char *p, size_t len, size_t at)
{
	unsigned char nic[CHANGE_STAMP];
	unsigned wrong = 0;

	for (; at < len; at += change_page()) {
		bool bad;

		check_ok(hf_peek(r, p + at, nic, sizeof(nic)));
		bad = memcmp(nic, p + at, sizeof(nic)) != 0;
		if (r->access & HF_WRITE) {
			memset(nic, (int)(0x80 | (++serial & 0x7f)), sizeof(nic));
			check_ok(hf_poke(r, p + at, nic, sizeof(nic)));
			bad = bad || memcmp(nic, p + at, sizeof(nic)) != 0;
		}
		wrong += bad;
	}
	return wrong;
}

static void assert_right(const struct hf_region *r, unsigned char *p, size_t len)
{
	assert_int_equal(wrong_pages(r, p, len, 0), 0);
}

/* Stamp, look up, compare, put; answers the flags. */
static unsigned check(unsigned char *p, size_t len)
{
	struct hf_region r;

	stamp(p, len, 0);
	r = get(p, len, HF_READWRITE);
	assert_right(&r, p, len);
	put(&r);
	return r.flags;
}

static void assert_drained(void)
{
	struct hf_stats s = check_stats(provider);

	for (int i = 0; i < TRIES && (s.pinned_bytes || s.entries || s.dead_held); i++) {
		hf_flush(provider);
		usleep(1000);
		s = check_stats(provider);
	}
	assert_int_equal(s.pinned_bytes, 0);
	assert_int_equal(s.entries, 0);
	assert_int_equal(s.dead_held, 0);
}

static void skip_because(const char *why)
{
	print_message("skipped: %s\n", why);
	skip();
}

static bool kernel_older_than(unsigned major, unsigned minor)
{
	unsigned have_major = 0, have_minor = 0;
	struct utsname u;

	assert_int_equal(uname(&u), 0);
	assert_int_equal(sscanf(u.release, "%u.%u", &have_major, &have_minor), 2);
	return have_major < major || (have_major == major && have_minor < minor);
}

/* ------------------------------------------------------------------ the table of changes */

static struct ground ground;

static unsigned row_access(const struct row *row)
{
	return row->change->flags & CHANGE_READ ? HF_READ : HF_READWRITE;
}

static unsigned wrong_on_ground(const struct hf_region *r)
{
	return wrong_pages(r, ground.addr, ground.len, ground.stamp_at);
}

/* Only a row with a reason in the table may go without having run. */
static void cannot_run(const struct row *row, int rc)
{
	if (rc == CHANGE_WRONG || (!row->needs && !SANITIZED))
		fail_msg("%s: %s", row->name, ground.why);
	print_message("skipped, it needs %s: %s\n", row->needs ? row->needs : GLIBC, ground.why);
	skip();
}

/* Before Linux 6.5 io_uring refused private file mappings, too, and System V segments. */
static bool refused_by_early_uring(const struct row *row)
{
	enum ground_kind kind = row->change->kind;

	return check_nic_is("uring") && kernel_older_than(6, 5) &&
	       (kind == GROUND_FILE_PRIVATE || kind == GROUND_LIBRARY || kind == GROUND_SYSV ||
		!strcmp(row->name, "shm-remap"));
}

/* Pages that are written back to a file: a NIC may not pin them for long. A file of tmpfs is memory. */
static bool may_be_refused(const struct row *row)
{
	return row->change->kind == GROUND_FILE_SHARED || refused_by_early_uring(row);
}

static void look_before(const struct row *row)
{
	struct hf_region r;

	if (may_be_refused(row)) {
		if (get_raw(ground.addr, ground.len, row_access(row), &r) == -EOPNOTSUPP)
			skip_because(hf_error());
		put(&r);
	}
	r = get_cached(ground.addr, ground.len, row_access(row));
	if (!(row->change->flags & CHANGE_UNTOUCHED))
		assert_int_equal(wrong_on_ground(&r), 0);
	put(&r);
}

/* Not the first time, nor later. */
static void look_uncached(const struct row *row)
{
	for (int i = 0; i < 3; i++) {
		struct hf_region r;
		int rc = get_raw(ground.addr, ground.len, row_access(row), &r);

		if (rc == -EOPNOTSUPP)
			continue;
		check_ok(rc);
		assert_int_equal(r.flags, 0);
		if (!(row->change->flags & CHANGE_UNTOUCHED))
			assert_int_equal(wrong_on_ground(&r), 0);
		put(&r);
	}
}

/* Registered by nobody: neither found nor made anew. But a proxy that is blind to mprotect finds it, as the manual says. */
static void look_without_rights(const struct row *row)
{
	bool blind = expected(row) == RIGHTS;
	struct hf_region r;
	int rc = get_raw(ground.addr, ground.len, row_access(row), &r);

	assert_int_equal(rc == 0, blind);
	if (rc)
		return;
	assert_true(r.flags & HF_REGION_HIT);
	put(&r);
}

static void apply(const struct row *row)
{
	int rc = change_apply(row->change, &ground);

	if (!rc && row->change->flags & CHANGE_RIGHTS)
		look_without_rights(row);
	if (!rc)
		rc = change_back(row->change, &ground);
	if (rc)
		cannot_run(row, rc);
}

/*
 * What kmod keeps the kernel may have moved meanwhile, for reasons of its own (it reclaims, it makes room for a huge page): then
 * the row is tried again, for that isn't so time after time. What is found is right in any case.
 */
static unsigned more_tries;

static bool may_be_moved(const struct row *row)
{
	return expected(row) == KEPT && check_proxy_is("kmod") && more_tries;
}

enum after { REFUSED, LOOKED, AGAIN };

static enum after look_after(const struct row *row)
{
	enum expect expect = expected(row);
	bool hit = expect == KEPT || expect == BLIND || expect == RIGHTS;
	bool right = expect != BLIND, again;
	struct hf_region r;
	int rc;

	if (hit)
		check_quiet(provider); /* while a change elsewhere is told nothing is a hit */
	stamp(ground.addr, ground.len, ground.stamp_at);
	rc = get_raw(ground.addr, ground.len, row_access(row), &r);
	if (rc == -EOPNOTSUPP && (expect == UNCACHED || refused_by_early_uring(row)))
		return REFUSED;
	check_ok(rc);
	again = !(r.flags & HF_REGION_HIT) && may_be_moved(row);
	if (expect != EITHER && !again)
		assert_int_equal(!!(r.flags & HF_REGION_HIT), hit);
	assert_int_equal(wrong_on_ground(&r) == 0, right);
	put(&r);
	return again ? AGAIN : LOOKED;
}

/* What was seen to change is plain memory again: it is cached, found and right. */
static void look_again(const struct row *row)
{
	struct hf_region r = get_cached(ground.addr, ground.len, row_access(row));

	put(&r);
	stamp(ground.addr, ground.len, ground.stamp_at);
	r = get(ground.addr, ground.len, row_access(row));
	assert_true(r.flags & HF_REGION_HIT);
	assert_int_equal(wrong_on_ground(&r), 0);
	put(&r);
}

static void clear_ground(void)
{
	memset(&ground, 0, sizeof(ground));
	ground.fd = ground.child_pipe = -1;
	ground.provider = provider;
}

static enum after try_row(const struct row *row)
{
	int rc = change_setup(row->change, &ground);

	if (rc)
		cannot_run(row, rc);
	if (!(row->change->flags & CHANGE_UNTOUCHED))
		stamp(ground.addr, ground.len, ground.stamp_at);
	if (expected(row) == UNCACHED)
		look_uncached(row);
	else
		look_before(row);
	apply(row);
	return look_after(row);
}

static void test_row(void **state)
{
	const struct row *row = *state;
	enum after after;

	if (SANITIZED && row->needs && !strcmp(row->needs, GLIBC))
		skip_because("the sanitizer's allocator is in its place");
	for (more_tries = 4; (after = try_row(row)) == AGAIN; more_tries--) {
		change_restore(row->change, &ground);
		clear_ground();
	}
	if (after == LOOKED && (expected(row) == SEEN || expected(row) == EITHER))
		look_again(row);
}

static int row_setup(void **state)
{
	open_both(state);
	clear_ground();
	return 0;
}

static int row_teardown(void **state)
{
	const struct row *row = *state;

	change_restore(row->change, &ground);
	assert_drained();
	return close_both(state);
}

static struct row *find_row(const char *name)
{
	for (size_t i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

/* A change that somebody adds needs an expectation here; one that is gone takes it along. The rows are how R34 is seen. */
static void test_every_row_is_expected(void **state)
{
	for (size_t i = 0; i < changes_count; i++)
		if (!find_row(changes[i].name))
			fail_msg("tools/changes.c has \"%s\", this table has no such row", changes[i].name);
	for (size_t i = 0; i < ROWS; i++) {
		if (!rows[i].change)
			fail_msg("this table has \"%s\", tools/changes.c has no such row", rows[i].name);
		assert_ptr_equal(find_row(rows[i].name), &rows[i]); /* not twice */
	}
	assert_int_equal(ROWS, changes_count);
}

/* I6: exactly these are the blind spots that the documents name. */
static void test_blind_spots_are_those_named(void **state)
{
	for (size_t i = 0; i < ROWS; i++) {
		enum expect uffd = rows[i].by[UFFD], kmod = rows[i].by[KMOD];

		assert_non_null(rows[i].change);
		if ((uffd == BLIND || uffd == RIGHTS) != change_may_blind(rows[i].change, "uffd"))
			fail_msg("%s: blind here and there?", rows[i].name);
		if (uffd == BLIND)
			assert_string_equal(rows[i].name, "madv-guard");
		assert_int_equal(uffd == RIGHTS, !!(rows[i].change->flags & CHANGE_RIGHTS));
		/* The module is blind to nothing, and what it may keep is what stays. */
		assert_true(kmod == SEEN || kmod == KEPT || kmod == EITHER);
		assert_false(change_may_blind(rows[i].change, "kmod"));
		assert_int_equal(kmod == SEEN, uffd != KEPT && !(rows[i].change->flags & CHANGE_SILENT));
	}
}

/* ------------------------------------------------------------------ relax=file */

static unsigned char *map_private_file(int *fd, size_t len)
{
	void *p;

	*fd = memfd_create("holdfast-test", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)len), 0);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, *fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	memset(p, 1, len);
	return p;
}

static void test_relax_file(void **state)
{
	size_t len = 4 * change_page();
	unsigned char *p;
	int fd;

	if (kernel_older_than(6, 7))
		skip_because("before Linux 6.7 userfaultfd doesn't watch files");
	p = map_private_file(&fd, len);
	open_on("proxy=uffd,relax=file", hf_nic_find("uring"), LIMIT);
	assert_int_equal(check(p, len), HF_REGION_CACHED);
	assert_int_equal(check(p, len), HF_REGION_CACHED | HF_REGION_HIT);
	assert_int_equal(madvise(p, len, MADV_DONTNEED), 0);
	assert_false(check(p, len) & HF_REGION_HIT);
	cache(p, len);
	assert_int_equal(munmap(p, len), 0);
	map_at(p, len, MAP_FIXED_NOREPLACE);
	assert_false(check(p, len) & HF_REGION_HIT);
	assert_int_equal(munmap(p, len), 0);
	assert_int_equal(close_both(state), 0);
	close(fd);
}

/* Of files private mappings alone: in shared ones others write, too. */
static void test_relax_file_is_not_for_shared(void **state)
{
	size_t len = 4 * change_page();
	unsigned char *p;
	int fd;

	map_private_file(&fd, len);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	open_on("proxy=uffd,relax=file", hf_nic_find("uring"), LIMIT);
	for (int i = 0; i < 3; i++)
		assert_int_equal(check(p, len), 0);
	assert_int_equal(munmap(p, len), 0);
	assert_int_equal(close_both(state), 0);
	close(fd);
}

/* What the option's help says it risks, and what without it isn't risked. */
static void test_relax_file_is_blind_to_truncation(void **state)
{
	size_t len = 4 * change_page();
	struct hf_region r;
	unsigned char *p;
	int fd;

	if (kernel_older_than(6, 7))
		skip_because("before Linux 6.7 userfaultfd doesn't watch files");
	p = map_private_file(&fd, len);
	open_on("proxy=uffd,relax=file", hf_nic_find("uring"), LIMIT);
	cache(p, len);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	stamp(p, len, 0);
	r = get(p, len, HF_READWRITE);
	assert_true(r.flags & HF_REGION_HIT);
	assert_int_not_equal(wrong_pages(&r, p, len, 0), 0);
	put(&r);
	assert_int_equal(munmap(p, len), 0);
	assert_int_equal(close_both(state), 0);
	close(fd);
}

/* ------------------------------------------------------------------ what watching may break (41) */

enum { PAGES = 32, FROM = 8, SOME = 4 }; /* SOME pages from FROM on are registered */

/* A mapping of PAGES pages, stamped, of which a part is cached, or of none, to compare with. */
static unsigned char *partly_cached(bool cached)
{
	size_t page = change_page();
	unsigned char *p = map_alone(PAGES);

	stamp(p, PAGES * page, 0);
	if (cached)
		cache(p + FROM * page, SOME * page);
	return p;
}

/* Every page is as it was stamped when `first` was the first serial number. */
static void assert_stamps(const unsigned char *p, size_t pages, uint64_t first)
{
	for (size_t i = 0; i < pages; i++)
		assert_memory_equal(p + i * change_page(), &(uint64_t){ first + i }, sizeof(first));
}

/* Moving all of it: the kernel refuses with EFAULT what spans two mappings. */
static void test_mremap_of_a_part_cached(void **state)
{
	size_t page = change_page();

	for (int cached = 0; cached < 2; cached++) {
		unsigned char *p = partly_cached(cached);
		uint64_t first = serial - PAGES + 1;
		unsigned char *q = mremap(p, PAGES * page, 2 * PAGES * page, MREMAP_MAYMOVE);

		assert_ptr_not_equal(q, MAP_FAILED);
		assert_ptr_not_equal(q, p);
		assert_stamps(q, PAGES, first);
		assert_false(check(q + FROM * page, SOME * page) & HF_REGION_HIT);
		cache(q + FROM * page, SOME * page);
		assert_ptr_equal(mremap(q, 2 * PAGES * page, PAGES * page, 0), q);
		check_quiet(provider);
		assert_true(check(q + FROM * page, SOME * page) & HF_REGION_HIT);
		assert_int_equal(munmap(q, PAGES * page), 0);
		/* What it left may be somebody else's by now: only the fences are ours. */
		assert_int_equal(munmap(p - page, page), 0);
		assert_int_equal(munmap(p + PAGES * page, page), 0);
	}
}

static void test_realloc_of_a_part_cached(void **state)
{
	const size_t large = 40 * MIB; /* over malloc's mmap threshold */
	size_t page = change_page();
	unsigned char *p = malloc(large);
	unsigned char *in = (unsigned char *)(((uintptr_t)p + MIB) & ~(page - 1));
	ptrdiff_t at = in - p;

	assert_non_null(p);
	stamp(in, SOME * page, 0);
	cache(in, SOME * page);
	for (size_t size = 2 * large; size >= large / 4; size /= 2) {
		uint64_t first = serial - SOME + 1;

		p = realloc(p, size);
		assert_non_null(p);
		assert_stamps(p + at, SOME, first);
		stamp(p + at, SOME * page, 0);
		first = serial - SOME + 1;
		cache(p + at, SOME * page);
		assert_stamps(p + at, SOME, first);
	}
	free(p);
}

/* How many mappings a call adds to [p, p + PAGES): as many with the cache as without. */
static unsigned maps_of(const unsigned char *p)
{
	return check_count_maps(p, p + PAGES * change_page());
}

static void test_mprotect_of_a_part(void **state)
{
	size_t page = change_page();

	for (int cached = 0; cached < 2; cached++) {
		unsigned char *p = partly_cached(cached);

		assert_int_equal(maps_of(p), 1);
		assert_int_equal(mprotect(p + page, page, PROT_READ), 0);
		assert_int_equal(maps_of(p), 3);
		assert_int_equal(mprotect(p + page, page, PROT_READ | PROT_WRITE), 0);
		assert_int_equal(maps_of(p), 1);
		assert_int_equal(mprotect(p + (FROM + 1) * page, PAGES / 2 * page, PROT_NONE), 0);
		assert_int_equal(mprotect(p + (FROM + 1) * page, PAGES / 2 * page, PROT_READ | PROT_WRITE), 0);
		assert_int_equal(maps_of(p), 1);
		/* Only uffd isn't told. */
		assert_int_equal(!!(check(p + FROM * page, SOME * page) & HF_REGION_HIT),
				 cached && check_proxy_is("uffd"));
		unmap_alone(p, PAGES);
	}
}

static void test_munmap_of_a_part(void **state)
{
	size_t page = change_page();

	for (int cached = 0; cached < 2; cached++) {
		unsigned char *p = partly_cached(cached);

		/* Behind it, before it, and its own second page. */
		assert_int_equal(munmap(p + (PAGES - 1) * page, page), 0);
		assert_int_equal(munmap(p, page), 0);
		check_quiet(provider);
		assert_int_equal(!!(check(p + FROM * page, SOME * page) & HF_REGION_HIT), cached);
		assert_int_equal(maps_of(p), 1);
		assert_int_equal(munmap(p + (FROM + 1) * page, page), 0);
		assert_int_equal(maps_of(p), 2);
		assert_int_equal(check(p + FROM * page, page) & HF_REGION_HIT, 0);
		unmap_alone(p, PAGES);
	}
}

static bool is_huge(const unsigned char *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long lo, hi, kib;
	bool inside = false, huge = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			inside = (uintptr_t)p >= lo && (uintptr_t)p < hi;
		else if (inside && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			huge = kib > 0;
	}
	fclose(f);
	return huge;
}

static bool gets_huge_page(bool cached)
{
	enum { HUGE_MAX = 4 << 20 }; /* 512 MiB where a page has 64 KiB: not tried */
	size_t page = change_page(), len = 4ul * HUGE_MAX;
	unsigned char *map = map_at(NULL, len, MAP_NORESERVE);
	unsigned char *aligned = (unsigned char *)(((uintptr_t)map + HUGE_MAX) & ~(HUGE_MAX - 1ul));
	bool huge;

	if (cached)
		cache(map, page);
	assert_int_equal(madvise(map, len, MADV_HUGEPAGE), 0);
	aligned[HUGE_MAX] = 1;
	huge = is_huge(aligned + HUGE_MAX);
	assert_int_equal(check(map, page) & HF_REGION_HIT, cached ? HF_REGION_HIT : 0);
	assert_int_equal(munmap(map, len), 0);
	return huge;
}

/* Whether a huge page is free is chance, so by turns, until there was one with the cache. */
static void test_madvise_hugepage(void **state)
{
	enum { WITHOUT = 20 }; /* so many without the cache, and none with it: it isn't chance */
	unsigned without = 0;

	for (int i = 0; i < 100 && without < WITHOUT; i++) {
		without += gets_huge_page(false);
		if (gets_huge_page(true))
			return;
	}
	if (without)
		fail_msg("%u huge pages without the cache, and none with it", without);
	skip_because("this machine gives no huge pages");
}

static void test_brk_grows_after_arming(void **state)
{
	enum { STEPS = 64 };
	size_t page = change_page();
	unsigned char *start, *p;
	unsigned before;

	check_count_all_maps(); /* what it allocates for itself is there: nobody else moves the break meanwhile */
	p = sbrk(0);
	start = (unsigned char *)(((uintptr_t)p + page - 1) & ~(page - 1));
	if (sbrk(start - p + (intptr_t)page) == (void *)-1)
		skip_because("this machine's heap doesn't grow");
	*start = 1;
	cache(start, page);
	before = check_count_all_maps();
	for (int i = 0; i < STEPS; i++) {
		assert_ptr_equal(sbrk((intptr_t)page), start + page * (size_t)(i + 1));
		stamp(start, page * (size_t)(i + 2), 0);
	}
	if (!SANITIZED)
		assert_in_range(check_count_all_maps(), 0, before + 2);
	assert_true(check(start, page) & HF_REGION_HIT);
	cache(start, (STEPS + 1) * page);
	assert_true(check(start, (STEPS + 1) * page) & HF_REGION_HIT);
	assert_ptr_not_equal(sbrk(-(intptr_t)((STEPS + 1) * page)), (void *)-1);
}

static void test_fork_with_a_part_cached(void **state)
{
	unsigned char *p = partly_cached(true);
	uint64_t first = serial - PAGES + 1;
	int status;
	pid_t pid = fork();

	if (!pid) {
		alarm(TEST_SECONDS);
		for (size_t i = 0; i < PAGES; i++)
			if (memcmp(p + i * change_page(), &(uint64_t){ first + i }, sizeof(first)))
				_exit(1);
		memset(p, 0xee, PAGES * change_page());
		_exit(munmap(p, PAGES * change_page()) ? 2 : 0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_stamps(p, PAGES, first);
	if (!check_proxy_is("kmod")) /* the pages that fork copies are a change to the kernel */
		assert_true(check(p + FROM * change_page(), SOME * change_page()) & HF_REGION_HIT);
	cache(p + FROM * change_page(), SOME * change_page());
	unmap_alone(p, PAGES);
}

/* ------------------------------------------------------------------ how many mappings (42) */

/* `sim`, which pins nothing: so the cache need not populate what is registered either. */
static void open_sim(void)
{
	static struct hf_nic_ops ops;

	ops = *hf_nic_find("sim");
	ops.flags |= HF_NIC_PINS_FOR_WRITE;
	sw = check_hazard_switch();
	check_ok(hf_provider_open_nic(sw, &ops, NULL, "max_bytes=1T", &provider));
}

/* Tables of the library's own, which double: guard, pages, guard. Not one more for every buffer. */
#define OWN_MAPS 60 /* about 20 tables, two lines of the map each */

static void test_100000_buffers_add_no_mappings(void **state)
{
	const size_t size = 64ul << 10, stride = 2 * size;
	const unsigned n = (SANITIZED ? 10000 : 100000) / check_scale();
	const size_t page = change_page();
	unsigned char *p;
	unsigned before, all;

	open_sim();
	/* Fenced: what the kernel would merge with it would be armed with it, and each change of that held up the lookups. */
	p = map_at(NULL, n * stride + 2 * page, MAP_NORESERVE);
	assert_int_equal(mprotect(p, page, PROT_NONE), 0);
	assert_int_equal(mprotect(p + page + n * stride, page, PROT_NONE), 0);
	p += page;
	before = check_count_maps(p, p + n * stride);
	all = check_count_all_maps();
	for (unsigned i = 0; i < n; i++) {
		struct hf_region r = get(p + i * stride, size, HF_READWRITE);

		assert_int_equal(r.flags, HF_REGION_CACHED);
		put(&r);
	}
	assert_int_equal(check_stats(provider).entries, n);
	assert_in_range(check_count_maps(p, p + n * stride), 1, before);
	if (!SANITIZED) /* which map shadow memory as they go */
		assert_in_range(check_count_all_maps(), 0, all + OWN_MAPS);
	for (unsigned i = 0; i < n; i++) {
		struct hf_region r = get(p + i * stride, size, HF_READWRITE);

		assert_int_equal(r.flags, HF_REGION_CACHED | HF_REGION_HIT);
		put(&r);
	}
	/* The second time nothing at all is added. */
	all = check_count_all_maps();
	hf_flush(provider);
	for (unsigned i = 0; i < n; i++) {
		struct hf_region r = get(p + i * stride, size, HF_READWRITE);

		put(&r);
	}
	assert_in_range(check_count_all_maps(), 0, all + 8);
	assert_int_equal(munmap(p - page, n * stride + 2 * page), 0);
	check_quiet(provider);
	assert_int_equal(check_stats(provider).entries, 0);
	assert_int_equal(close_both(state), 0);
}

/* Before Linux 6.11 each miss reads the list of all mappings: a slow machine has fewer. */
static void test_2000_mappings_stay_2000(void **state)
{
	unsigned n = 2000 / check_scale();
	size_t page = change_page(), stride = 4 * page;
	unsigned char *p = mmap(NULL, n * stride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned before, all;

	assert_ptr_not_equal(p, MAP_FAILED);
	open_sim();
	for (unsigned i = 0; i < n; i++)
		map_at(p + i * stride, 3 * page, MAP_FIXED);
	before = check_count_maps(p, p + n * stride);
	all = check_count_all_maps();
	for (unsigned i = 0; i < n; i++) {
		struct hf_region r = get(p + i * stride + page, page, HF_READWRITE);

		assert_int_equal(r.flags, HF_REGION_CACHED);
		put(&r);
	}
	assert_int_equal(check_count_maps(p, p + n * stride), before);
	assert_in_range(check_count_all_maps(), 0, all + OWN_MAPS);
	assert_int_equal(munmap(p, n * stride), 0);
	assert_int_equal(close_both(state), 0);
}

/* ------------------------------------------------------------------ the program's own userfaultfd */

struct own_uffd {
	int fd;
	unsigned char *p;
	size_t len;
	pthread_t thread;
	_Atomic unsigned served;
};

/* Every missing page is filled with 0x77. */
static void *serve_faults(void *arg)
{
	struct own_uffd *u = arg;
	static unsigned char source[1 << 16];
	struct uffd_msg m;

	memset(source, 0x77, sizeof(source));
	while (read(u->fd, &m, sizeof(m)) == sizeof(m)) {
		struct uffdio_copy copy = { .dst = m.arg.pagefault.address & ~(change_page() - 1),
					    .src = (uintptr_t)source, .len = change_page() };

		if (m.event != UFFD_EVENT_PAGEFAULT)
			break; /* the removal that ends it */
		u->served += ioctl(u->fd, UFFDIO_COPY, &copy) == 0;
	}
	return NULL;
}

static void own_uffd_start(struct own_uffd *u)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
	struct uffdio_register reg = { .range = { (uintptr_t)u->p, u->len },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };

	u->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (u->fd < 0)
		skip_because("userfaultfd(2) is refused");
	assert_int_equal(ioctl(u->fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(u->fd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(pthread_create(&u->thread, NULL, serve_faults, u), 0);
}

/* The fault is over before its server has counted it. */
static void assert_served(struct own_uffd *u, unsigned n)
{
	for (int i = 0; i < TRIES && u->served < n; i++)
		usleep(1000);
	assert_int_equal(u->served, n);
}

static void test_own_userfaultfd_first(void **state)
{
	size_t page = change_page();
	struct own_uffd u = { .len = 4 * page, .p = map_alone(4) };

	if (!check_proxy_is("uffd"))
		skip_because("to other proxies it is no different");
	assert_int_equal(madvise(u.p + 2 * page, 2 * page, MADV_DONTNEED), 0); /* two are missing */
	own_uffd_start(&u);
	for (int i = 0; i < 3; i++)
		assert_int_equal(check(u.p, 2 * page), 0); /* not cached */
	assert_int_equal(u.p[2 * page], 0x77); /* and the program's faults are served */
	assert_served(&u, 1);
	assert_int_equal(check(u.p, 3 * page), 0);
	assert_int_equal(u.p[3 * page], 0x77);
	assert_served(&u, 2);
	assert_int_equal(munmap(u.p, u.len), 0); /* the event ends the thread */
	assert_int_equal(pthread_join(u.thread, NULL), 0);
	close(u.fd);
	map_at(u.p, u.len, MAP_FIXED_NOREPLACE);
	cache(u.p, u.len);
	assert_true(check(u.p, u.len) & HF_REGION_HIT);
	unmap_alone(u.p, 4);
}

/* ------------------------------------------------------------------ main */

#define with_both(f) cmocka_unit_test_setup_teardown(f, open_both, close_both)

static const struct CMUnitTest others[] = {
	cmocka_unit_test(test_every_row_is_expected),
	cmocka_unit_test(test_blind_spots_are_those_named),
	cmocka_unit_test(test_relax_file),
	cmocka_unit_test(test_relax_file_is_not_for_shared),
	cmocka_unit_test(test_relax_file_is_blind_to_truncation),
	with_both(test_mremap_of_a_part_cached),
	with_both(test_realloc_of_a_part_cached),
	with_both(test_mprotect_of_a_part),
	with_both(test_munmap_of_a_part),
	with_both(test_madvise_hugepage),
	with_both(test_brk_grows_after_arming),
	with_both(test_fork_with_a_part_cached),
	cmocka_unit_test(test_100000_buffers_add_no_mappings),
	cmocka_unit_test(test_2000_mappings_stay_2000),
	with_both(test_own_userfaultfd_first),
};

#define OTHERS (sizeof(others) / sizeof(others[0]))

int main(void)
{
	static struct CMUnitTest tests[ROWS + OTHERS];
	size_t n = 0;

	alarm(TEST_SECONDS);
	unsetenv("HOLDFAST");
	if (check_hazard_missing())
		return check_hazard_missing();
	memcpy(tests, others, sizeof(others));
	n = OTHERS;
	for (size_t i = 0; i < changes_count; i++) {
		struct row *row = find_row(changes[i].name);

		if (!row || row->change)
			continue; /* test_every_row_is_expected tells */
		row->change = &changes[i];
		tests[n++] = (struct CMUnitTest){ row->name, test_row, row_setup, row_teardown, row };
	}
	return _cmocka_run_group_tests("changes", tests, n, NULL, NULL);
}
