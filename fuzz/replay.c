/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The saved inputs of a fuzz target once more, without a fuzzer: replay FOLDER. It must not crash, and read something. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGEST (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *folder, const char *name)
{
	static uint8_t data[LARGEST];
	char path[4096];
	size_t size;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "rb");
	if (!f)
		return perror(path), -1;
	size = fread(data, 1, sizeof(data), f);
	fclose(f);
	return LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
	DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
	struct dirent *entry;
	unsigned n = 0;

	if (!d)
		return fprintf(stderr, "usage: replay FOLDER\n"), 2;
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		if (replay(argv[1], entry->d_name))
			return 1;
		n++;
	}
	closedir(d);
	printf("%u inputs\n", n);
	return n ? 0 : 1;
}
