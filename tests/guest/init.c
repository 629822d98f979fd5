/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The guest's first process: runs /etc/tests.list and tells the results on the second serial port, line by line.
 *
 * After each test every process but this one is killed, and the kernel is looked at: no taint, no page that is still
 * pinned, no huge page that is still taken. So a complaint of the kernel belongs to the test in which it came. What it
 * prints on the console (the first serial port) is judged on the host: judge.sh.
 *
 *   host: run.sh, judge.sh                 guest
 *   ------------------------------         ----------------------------------------
 *   QEMU -kernel -initrd            ──►    mounts
 *                                   ◄──    "# kernel ..."
 *                                   ◄──    "# run NAME", "ok N - NAME", "not ok N - NAME", for each test
 *                                   ◄──    "#file NAME", "|line"..., "#end NAME": what it left in /out
 *                                   ◄──    "1..N", "# end: P passed, F failed, S skipped"
 *   QEMU's status is 33 or 35       ◄──    0x10 or 0x11 to the device isa-debug-exit, which answers 2 * v + 1
 *
 * A guest that panics restarts, and QEMU ends with 0; one that hangs is ended by the host. Neither is 33.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define RESULTS "/dev/ttyS1"
#define DEBUG_EXIT 0xf4 /* the port of isa-debug-exit */
#define KEEP 65536	/* bytes of a test's output, the last ones */
#define SHOWN 150	/* lines of these, shown when it fails */
#define KILL_MS 120000	/* a process that lives so long after SIGKILL is stuck in the kernel */
#define SETTLE_MS 20000 /* an io_uring that nobody has lets its pages go a little later */

/* D: an oops. M, B, W, L: machine check, bad page or slab, warning, lockup. Others say where modules come from. */
#define TAINT_BAD (1ul << 4 | 1ul << 5 | 1ul << 7 | 1ul << 9 | 1ul << 14)

struct test {
	char *name, *needs, *command;
	int limit; /* seconds */
};

/* What a test printed: the line that isn't complete yet, and the end of it all. */
struct output {
	char line[4096], keep[KEEP];
	size_t line_len, kept;
	char last[200]; /* the last line that isn't empty: why, when it skips */
	bool closed, summary;
};

static FILE *results;
static unsigned number, passed, failed, skipped;
static struct output out;

/* ------------------------------------------------------------------ small things */

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void nap(int ms)
{
	poll(NULL, 0, ms);
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(results, format, args);
	va_end(args);
	fputc('\n', results);
	fflush(results);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		say("# can't write %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* The number behind `key` in a file of lines; -1 when there is none. An empty key: the first line's. */
static long field(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	long value = -1;
	char line[256];

	while (f && value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			value = strtol(line + strlen(key), NULL, 10);
	if (f)
		fclose(f);
	return value;
}

static unsigned long taint(void)
{
	return (unsigned long)field("/proc/sys/kernel/tainted", "");
}

static void end_guest(bool good)
{
	fclose(results);
	sync();
	if (!ioperm(DEBUG_EXIT, 1, 1))
		outb(good ? 0x10 : 0x11, DEBUG_EXIT);
	put("/proc/sysrq-trigger", "o"); /* no such device: power off, which the host doesn't take for an end */
	for (;;)
		pause();
}

/* ------------------------------------------------------------------ results */

static void told(bool ok, const char *name, const char *note)
{
	say("%s %u - %s%s%s", ok ? "ok" : "not ok", ++number, name, *note ? " " : "", note);
	*(ok ? &passed : &failed) += 1;
}

static void told_skip(const char *name, const char *why)
{
	say("ok %u - %s # SKIP %s", ++number, name, *why ? why : "no reason given");
	skipped++;
}

/*
 * A script may tell results of its own: "ok - WHAT", "not ok - WHAT", "ok - WHAT # SKIP WHY". They are numbered and
 * passed on; true when it was one. A number of the script's own is left out.
 */
static bool told_by_test(const struct test *t, const char *line)
{
	bool bad = !strncmp(line, "not ok ", 7);
	char name[512], *skip;

	if (!bad && strncmp(line, "ok ", 3))
		return false;
	line += bad ? 7 : 3;
	line += strspn(line, "0123456789 -");
	snprintf(name, sizeof(name), "%s: %s", t->name, line);
	skip = strstr(name, " # SKIP");
	if (skip) {
		*skip = 0;
		told_skip(name, skip + 7 + strspn(skip + 7, " "));
	} else {
		told(!bad, name, "");
	}
	return true;
}

/* cmocka lists what it skipped once where it happens, and again at the end. */
static void show_skipped(const char *line)
{
	if (!strncmp(line, "[==========]", 12) && strstr(line, " run."))
		out.summary = true;
	if (!out.summary && !strncmp(line, "[  SKIPPED ]", 12))
		say("#   skipped:%s", line + 12);
}

static void keep_line(const char *line)
{
	size_t len = strlen(line);

	if (out.kept + len + 1 > KEEP) { /* the second half stays, from its first whole line on */
		char *from = memchr(out.keep + KEEP / 2, '\n', out.kept - KEEP / 2);

		out.kept -= (size_t)(from + 1 - out.keep);
		memmove(out.keep, from + 1, out.kept);
	}
	memcpy(out.keep + out.kept, line, len);
	out.keep[out.kept + len] = '\n';
	out.kept += len + 1;
}

static void whole_line(const struct test *t)
{
	out.line[out.line_len] = 0;
	out.line_len = 0;
	if (told_by_test(t, out.line))
		return;
	show_skipped(out.line);
	keep_line(out.line);
	if (out.line[0])
		snprintf(out.last, sizeof(out.last), "%s", out.line);
}

static void take_output(const struct test *t, int fd)
{
	char buf[4096];
	ssize_t n = read(fd, buf, sizeof(buf));

	out.closed = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || out.line_len == sizeof(out.line) - 1)
			whole_line(t);
		if (buf[i] != '\n')
			out.line[out.line_len++] = isprint((unsigned char)buf[i]) || buf[i] == '\t' ? buf[i] : '?';
	}
}

/* Where the last SHOWN lines begin. */
static char *shown_from(void)
{
	char *at = out.keep + out.kept;
	int lines = 0;

	while (at > out.keep && (at[-1] != '\n' || lines++ < SHOWN))
		at--;
	return at;
}

static void show_output(void)
{
	char *at = shown_from(), *end = out.keep + out.kept;

	if (at > out.keep)
		say("#   ...");
	while (at < end) {
		char *stop = memchr(at, '\n', (size_t)(end - at));

		say("#   %.*s", (int)(stop - at), at);
		at = stop + 1;
	}
}

/* ------------------------------------------------------------------ after a test */

/* Everybody else goes. False when somebody doesn't: then nothing that follows can be trusted. */
static bool kill_all(void)
{
	long deadline = now_ms() + KILL_MS;

	do {
		kill(-1, SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return true;
		nap(2);
	} while (now_ms() < deadline);
	put("/proc/sysrq-trigger", "w"); /* who is stuck, and where: on the console */
	return false;
}

/* Pages that are pinned now. The counts are kept per processor: have them added up first. */
static long pinned(void)
{
	put("/proc/sys/vm/stat_refresh", "1");
	return field("/proc/vmstat", "nr_foll_pin_acquired ") - field("/proc/vmstat", "nr_foll_pin_released ");
}

static long huge_taken(void)
{
	return field("/proc/meminfo", "HugePages_Total:") - field("/proc/meminfo", "HugePages_Free:");
}

/* What is still taken, a while after everybody has gone; "" when nothing is. */
static void leaks(char *text, size_t size)
{
	long deadline = now_ms() + SETTLE_MS, pins, huge;

	text[0] = 0;
	while ((pins = pinned()) | (huge = huge_taken())) {
		if (now_ms() > deadline) {
			snprintf(text, size, "(%ld pages still pinned, %ld huge pages still taken)", pins, huge);
			return;
		}
		nap(20);
	}
}

static void copy_file(const char *name, FILE *f)
{
	bool start = true;
	int c;

	say("#file %s", name);
	while ((c = getc(f)) != EOF) {
		if (start)
			putc('|', results);
		putc(c, results);
		start = c == '\n';
	}
	if (!start)
		putc('\n', results);
	say("#end %s", name);
}

/* Whatever a test left in /out is for the host. */
static void send_files(void)
{
	DIR *d = opendir("/out");
	struct dirent *e;
	char path[300];
	FILE *f;

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/out/%s", e->d_name);
		f = e->d_name[0] != '.' ? fopen(path, "re") : NULL;
		if (!f)
			continue;
		copy_file(e->d_name, f);
		fclose(f);
		unlink(path);
	}
	if (d)
		closedir(d);
}

/* ------------------------------------------------------------------ one test */

static pid_t start(const struct test *t, int *fd)
{
	int pipes[2];
	pid_t pid;

	*fd = -1;
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		return -1;
	pid = fork();
	if (!pid) {
		setsid();
		fcntl(pipes[1], F_SETFL, 0);
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(pipes[1], 1);
		dup2(pipes[1], 2);
		if (chdir("/tmp"))
			_exit(126);
		execl("/bin/sh", "sh", "-c", t->command, (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	*fd = pipes[0];
	return pid;
}

/* Its status as waitpid() tells it; -1 when the time is over. What was started and forgotten doesn't keep us. */
static int follow(const struct test *t, pid_t pid, int fd)
{
	long deadline = now_ms() + t->limit * 1000L;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int status;

	while (now_ms() < deadline) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		if (out.closed)
			nap(5);
		else if (poll(&p, 1, 20) > 0)
			take_output(t, fd);
	}
	return -1;
}

/* Whether it was good, and if not, why. */
static bool judge(const struct test *t, int status, unsigned long new_taint, char *text, size_t size)
{
	text[0] = 0;
	if (status < 0)
		snprintf(text, size, "(not done after %d s)", t->limit);
	else if (WIFSIGNALED(status))
		snprintf(text, size, "(killed by signal %d, %s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) && WEXITSTATUS(status) != 77)
		snprintf(text, size, "(exit %d)", WEXITSTATUS(status));
	else if (new_taint)
		snprintf(text, size, "(the kernel complained: taint 0x%lx)", new_taint);
	else
		leaks(text, size);
	return !*text;
}

static void run(const struct test *t)
{
	unsigned long before = taint();
	unsigned failed_before = failed;
	long begin = now_ms(), took;
	char why[200];
	int fd, status;
	bool good;
	pid_t pid;

	memset(&out, 0, sizeof(out));
	say("# run %s", t->name);
	pid = start(t, &fd);
	if (pid < 0) {
		told(false, t->name, "(can't be started)");
		return;
	}
	status = follow(t, pid, fd);
	while (!out.closed && out.kept < KEEP / 2 && poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) > 0)
		take_output(t, fd);
	took = now_ms() - begin;
	if (!kill_all()) {
		told(false, t->name, "(can't be killed: it is stuck in the kernel)");
		show_output();
		end_guest(false); /* without the end line */
	}
	close(fd);
	if (out.line_len)
		whole_line(t);
	good = judge(t, status, taint() & ~before & TAINT_BAD, why, sizeof(why));
	if (good)
		snprintf(why, sizeof(why), "(%ld.%ld s)", took / 1000, took / 100 % 10);
	if (good && WEXITSTATUS(status) == 77)
		told_skip(t->name, out.last);
	else
		told(good, t->name, why);
	if (failed > failed_before)
		show_output();
	send_files();
}

/* ------------------------------------------------------------------ the list */

/* NAME LIMIT KERNELS NEEDS COMMAND...; false for an empty line or a comment. Anything else is an error of the list. */
static bool parse(char *line, struct test *t, char *kernels, size_t size)
{
	char *word[4];

	line[strcspn(line, "\n")] = 0;
	line += strspn(line, " \t");
	if (!*line || *line == '#')
		return false;
	for (int i = 0; i < 4; i++) {
		word[i] = strsep(&line, " \t");
		line += line ? strspn(line, " \t") : 0;
	}
	t->name = word[0];
	t->limit = word[1] ? atoi(word[1]) : 0;
	t->needs = word[3];
	t->command = line;
	snprintf(kernels, size, "%s", word[2] ? word[2] : "");
	return true;
}

/* "*", or versions with commas between: "6.12" is 6.12.anything. */
static bool for_this_kernel(char *kernels)
{
	struct utsname u;
	char *word;

	uname(&u);
	while ((word = strsep(&kernels, ","))) {
		size_t len = strlen(word);

		if (!strcmp(word, "*") || (!strncmp(u.release, word, len) && !isdigit((unsigned char)u.release[len])))
			return true;
	}
	return false;
}

static void consider(const struct test *t, char *kernels)
{
	char why[300];

	if (t->limit <= 0 || !t->command || !*t->command) {
		told(false, t->name, "(tests.list: NAME LIMIT KERNELS NEEDS COMMAND)");
	} else if (snprintf(why, sizeof(why), "only for Linux %s", kernels), !for_this_kernel(kernels)) {
		told_skip(t->name, why);
	} else if (strcmp(t->needs, "-") && access(t->needs, F_OK)) {
		snprintf(why, sizeof(why), "%s isn't there", t->needs);
		told_skip(t->name, why);
	} else {
		run(t);
	}
}

/* In a guest that goes on for one before (foreign.sh): count on from what that one told. */
static void go_on(void)
{
	const char *counts = getenv("told");

	if (counts && sscanf(counts, "%u,%u,%u,%u", &number, &passed, &failed, &skipped) != 4)
		say("# told=%s: no counts", counts);
}

/* `from` in the environment: the first test of the list to run. */
static void run_list(const char *path)
{
	const char *from = getenv("from");
	char line[4096], kernels[64];
	FILE *f = fopen(path, "re");
	struct test t;

	if (!f)
		told(false, path, strerror(errno));
	while (f && fgets(line, sizeof(line), f))
		if (parse(line, &t, kernels, sizeof(kernels)) && (!from || !strcmp(from, t.name))) {
			from = NULL;
			consider(&t, kernels);
		}
	if (f)
		fclose(f);
}

/* ------------------------------------------------------------------ the machine */

static void mount_at(const char *type, const char *at, unsigned long flags)
{
	mkdir(at, 0755);
	if (mount(type, at, type, flags, NULL))
		fprintf(stderr, "init: mount %s: %s\n", at, strerror(errno));
}

static void mounts(void)
{
	mount_at("devtmpfs", "/dev", 0);
	mount_at("proc", "/proc", 0);
	mount_at("sysfs", "/sys", 0);
	mount_at("debugfs", "/sys/kernel/debug", 0);
	mount_at("tmpfs", "/tmp", 0);
	mount_at("tmpfs", "/run", 0);
	mount_at("tmpfs", "/dev/shm", 0);
	mount_at("devpts", "/dev/pts", 0);
	chmod("/tmp", 01777);
	chmod("/dev/shm", 01777);
	mkdir("/out", 0755);
	if (symlink("/proc/self/fd", "/dev/fd"))
		fprintf(stderr, "init: /dev/fd: %s\n", strerror(errno));
}

static void open_results(void)
{
	int fd = open(RESULTS, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	struct termios tio;

	if (fd < 0 || tcgetattr(fd, &tio)) {
		fprintf(stderr, "init: %s: %s\n", RESULTS, strerror(errno));
		_exit(1); /* the kernel panics: there's nobody to tell */
	}
	cfmakeraw(&tio);
	tcsetattr(fd, TCSANOW, &tio);
	results = fdopen(fd, "w");
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r))
		say("# lo stays down: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void greet(void)
{
	struct utsname u;
	struct sysinfo s;

	uname(&u);
	sysinfo(&s);
	say("# kernel %s, %ld processors, %lu MiB, %ld huge pages, up after %ld.%02ld s", u.release,
	    sysconf(_SC_NPROCESSORS_ONLN), s.totalram * s.mem_unit >> 20, field("/proc/meminfo", "HugePages_Total:"),
	    now_ms() / 1000, now_ms() / 10 % 100);
}

int main(void)
{
	const char *list = getenv("list"); /* the kernel gives us what it doesn't know of its command line */
	char path[256];

	signal(SIGPIPE, SIG_IGN);
	mounts();
	open_results();
	if (getenv("kvm"))
		mkdir("/run/kvm", 0755); /* for the list: a fast machine */
	setenv("PATH", "/bin:/sbin", 1);
	setenv("HOME", "/tmp", 1);
	setenv("MALLOC_PERTURB_", "0", 1);
	greet();
	loopback_up();
	go_on();
	snprintf(path, sizeof(path), "/etc/%s", list ? list : "tests.list");
	run_list(path);
	say("1..%u", number);
	say("# end: %u passed, %u failed, %u skipped", passed, failed, skipped);
	tcdrain(fileno(results));
	end_guest(!failed && passed);
}
