/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The JSON writer: one value or member per line, nesting and commas kept here.
 */
#include "tool.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

#define DEPTH_MAX 16

static struct {
	char close; /* the bracket that ends it */
	bool some;  /* has a value already: the next one needs a comma */
} level[DEPTH_MAX];
static int depth;

/*
 * The length of the well-formed UTF-8 sequence at s, 0 when it is none: overlong forms, surrogates and
 * what lies beyond U+10FFFF are not.
 */
static int utf8_length(const unsigned char *s)
{
	int n = *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : 2;

	if (*s < 0xc2 || *s > 0xf4)
		return 0;
	for (int i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) || (*s == 0xf0 && s[1] < 0x90) ||
	    (*s == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* One character; returns the bytes used. */
static int put_character(const unsigned char *s)
{
	static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	int n;

	for (int i = 0; escaped[i]; i++) {
		if (*s == (unsigned char)escaped[i]) {
			printf("\\%c", letters[i]);
			return 1;
		}
	}
	if (*s < 0x20 || *s == 0x7f)
		return printf("\\u%04x", *s), 1;
	if (*s < 0x80)
		return putchar(*s), 1;
	n = utf8_length(s);
	if (!n)
		return fputs("\\ufffd", stdout), 1;
	fwrite(s, 1, (size_t)n, stdout);
	return n;
}

static void put_string(const char *text)
{
	putchar('"');
	for (const unsigned char *s = (const unsigned char *)text; *s;)
		s += put_character(s);
	putchar('"');
}

/* What comes before a value: comma, line, indent, name. */
static void before_value(const char *key)
{
	if (depth) {
		assert(!key == (level[depth - 1].close == ']'));
		printf("%s\n%*s", level[depth - 1].some ? "," : "", depth * 2, "");
		level[depth - 1].some = true;
	}
	if (key) {
		put_string(key);
		fputs(": ", stdout);
	}
}

void json_open(const char *key, char bracket)
{
	assert(depth < DEPTH_MAX && (bracket == '{' || bracket == '['));
	before_value(key);
	putchar(bracket);
	level[depth].close = bracket == '{' ? '}' : ']';
	level[depth].some = false;
	depth++;
}

void json_close(void)
{
	assert(depth > 0);
	depth--;
	if (level[depth].some)
		printf("\n%*s", depth * 2, "");
	putchar(level[depth].close);
	if (!depth)
		putchar('\n');
}

void json_u64(const char *key, uint64_t v)
{
	before_value(key);
	printf("%" PRIu64, v);
}

void json_i64(const char *key, int64_t v)
{
	before_value(key);
	printf("%" PRId64, v);
}

void json_double(const char *key, double v)
{
	before_value(key);
	if (isfinite(v))
		printf("%.9g", v);
	else
		fputs("null", stdout);
}

void json_bool(const char *key, bool v)
{
	before_value(key);
	fputs(v ? "true" : "false", stdout);
}

void json_string(const char *key, const char *v)
{
	before_value(key);
	if (v)
		put_string(v);
	else
		fputs("null", stdout);
}
