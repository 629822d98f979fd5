/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The `holdfast` command: the table of subcommands, and help that is printed from it.
 */
#include "tool.h"
#include "tool_parse.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <holdfast/holdfast.h>

static int run_help(int argc, char **argv);
static int run_version(int argc, char **argv);

static const struct tool_command *const commands[] = {&cmd_perf, &cmd_walk, &cmd_torture, &cmd_doctor};

/* What takes words instead of options, and --json only. */
static const struct {
	const char *name, *args, *summary;
	int (*run)(int argc, char **argv);
} builtins[] = {
	{"help", " [NAME|options]", "this text, the help of a subcommand, or the library's options",
	 run_help},
	{"version", "", "the version of the tool and of the library it runs with", run_version},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct tool_command *find_command(const char *name)
{
	for (size_t i = 0; i < COUNT(commands); i++)
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static int unknown_command(const char *name)
{
	const char *near = NULL;

	for (size_t i = 0; i < COUNT(commands); i++)
		near = tool_nearer(name, commands[i]->name, near);
	for (size_t i = 0; i < COUNT(builtins); i++)
		near = tool_nearer(name, builtins[i].name, near);
	if (near)
		return tool_fail(TOOL_USAGE, "there is no subcommand '%s'; did you mean '%s'?", name,
				 near);
	return tool_fail(TOOL_USAGE, "there is no subcommand '%s'; `holdfast help` lists them", name);
}

static void print_entry(FILE *to, const char *name, const char *args, const char *summary)
{
	char left[64];

	snprintf(left, sizeof(left), "%s%s", name, args);
	tool_help_entry(to, left, summary);
}

static int overview(FILE *to, int code)
{
	fprintf(to, "usage: holdfast SUBCOMMAND [options]\n\n"
		    "Registrations of user memory with a NIC, cached by address, never stale.\n\n");
	for (size_t i = 0; i < COUNT(commands); i++)
		print_entry(to, commands[i]->name, "", commands[i]->summary);
	for (size_t i = 0; i < COUNT(builtins); i++)
		print_entry(to, builtins[i].name, builtins[i].args, builtins[i].summary);
	fprintf(to,
		"\nEvery subcommand has --help and --json. Exit codes: 0 good, 1 wrong bytes or stale\n"
		"hits found, 2 wrong usage, 3 this machine can't.\n");
	return code;
}

static void print_option(const char *name, const char *value, const char *help)
{
	char left[64];

	snprintf(left, sizeof(left), "%s=%s", name, value ? value : "");
	tool_help_entry(stdout, left, help);
}

static int help_options(void)
{
	const char *name, *value, *help;

	if (tool_json)
		json_open(NULL, '[');
	else
		printf("Options of the library, for hf_switch_open(), hf_provider_open() and the environment\n"
		       "variable HOLDFAST (which wins): name=value,name=value. Shown with their defaults.\n\n");
	for (unsigned i = 0; !hf_option_info(i, &name, &value, &help); i++) {
		if (!tool_json) {
			print_option(name, value, help);
			continue;
		}
		json_open(NULL, '{');
		json_string("name", name);
		json_string("default", value);
		json_string("help", help);
		json_close();
	}
	if (tool_json)
		json_close();
	return TOOL_OK;
}

static int run_help(int argc, char **argv)
{
	const struct tool_command *command;

	if (!argc || !strcmp(argv[0], "help"))
		return overview(stdout, TOOL_OK);
	if (argc > 1)
		return tool_fail(TOOL_USAGE, "help takes one name, but '%s' follows '%s'", argv[1],
				 argv[0]);
	if (!strcmp(argv[0], "options"))
		return help_options();
	command = find_command(argv[0]);
	if (!command)
		return unknown_command(argv[0]);
	tool_help(command);
	return TOOL_OK;
}

static int run_version(int argc, char **argv)
{
	char version[32];

	if (argc)
		return tool_fail(TOOL_USAGE, "version takes no '%s'", argv[0]);
	snprintf(version, sizeof(version), "%d.%d.%d", HF_VERSION_MAJOR, HF_VERSION_MINOR,
		 HF_VERSION_PATCH);
	if (!tool_json) {
		printf("holdfast %s (library %s)\n", version, hf_version());
		return TOOL_OK;
	}
	json_open(NULL, '{');
	json_string("version", version);
	json_string("library", hf_version());
	json_close();
	return TOOL_OK;
}

/* Takes --json and --help out of the words; an option that is neither is an error. */
static int builtin_words(const char *name, int *argc, char **argv)
{
	int kept = 0;

	for (int i = 0; i < *argc; i++) {
		if (!strcmp(argv[i], "--json"))
			tool_json = true;
		else if (argv[i][0] == '-' && strcmp(argv[i], "--help") && strcmp(argv[i], "-h"))
			return tool_fail(TOOL_USAGE, "%s has no option '%s'; it has --json", name,
					 argv[i]);
		else if (argv[i][0] != '-')
			argv[kept++] = argv[i];
	}
	*argc = kept;
	return TOOL_OK;
}

static int dispatch(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	const struct tool_command *command;

	if (!*name)
		return overview(stderr, TOOL_USAGE);
	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	if (!strcmp(name, "--version"))
		name = "version";
	argc -= 2;
	argv += 2;
	for (size_t i = 0; i < COUNT(builtins); i++) {
		if (!strcmp(builtins[i].name, name)) {
			int code = builtin_words(name, &argc, argv);

			return code ? code : builtins[i].run(argc, argv);
		}
	}
	command = find_command(name);
	return command ? tool_run(command, argc, argv) : unknown_command(name);
}

int main(int argc, char **argv)
{
	int code = dispatch(argc, argv);

	tool_progress_end();
	/* A report that did not reach its file must not look like success. */
	if ((fflush(stdout) || ferror(stdout)) && code == TOOL_OK)
		return tool_fail(TOOL_CANNOT, "can't write the report: %s", strerror(errno));
	return code;
}
