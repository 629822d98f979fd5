/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#include "index.h"

#include <stdbool.h>
#include <stddef.h>

/* A treap of a million nodes is about 50 deep; a reader that meets more is in a rotation's way. */
#define READER_STEPS 256

typedef struct node *_Atomic link;

static struct node *get(const link *l)
{
	return atomic_load_explicit(l, memory_order_acquire);
}

static void set(link *l, struct node *n)
{
	atomic_store_explicit(l, n, memory_order_release);
}

static uint64_t max_end(const struct node *n)
{
	return n ? atomic_load_explicit(&n->max_end, memory_order_relaxed) : 0;
}

static void update(struct node *n)
{
	uint64_t m = node_end(n);
	uint64_t l = max_end(get(&n->left));
	uint64_t r = max_end(get(&n->right));

	if (l > m)
		m = l;
	if (r > m)
		m = r;
	atomic_store_explicit(&n->max_end, m, memory_order_relaxed);
}

/* Equal starts are ordered by address of the node, so that every node has one place. */
static bool before(const struct node *a, const struct node *b)
{
	uint64_t sa = node_start(a);
	uint64_t sb = node_start(b);

	return sa != sb ? sa < sb : (uintptr_t)a < (uintptr_t)b;
}

static void split(struct node *t, const struct node *at, link *l, link *r)
{
	if (!t) {
		set(l, NULL);
		set(r, NULL);
	} else if (before(t, at)) {
		struct node *rest = get(&t->right);

		set(l, t);
		split(rest, at, &t->right, r);
		update(t);
	} else {
		struct node *rest = get(&t->left);

		set(r, t);
		split(rest, at, l, &t->left);
		update(t);
	}
}

static struct node *merge(struct node *l, struct node *r)
{
	if (!l || !r)
		return l ? l : r;
	if (l->priority > r->priority) {
		set(&l->right, merge(get(&l->right), r));
		update(l);
		return l;
	}
	set(&r->left, merge(l, get(&r->left)));
	update(r);
	return r;
}

static uint32_t next_priority(struct index *ix)
{
	uint64_t x = ix->random + 0x9e3779b97f4a7c15ull;

	ix->random = x;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return (uint32_t)(x >> 32);
}

static void insert_at(link *l, struct node *n)
{
	struct node *t = get(l);

	if (t && t->priority >= n->priority) {
		insert_at(before(n, t) ? &t->left : &t->right, n);
		update(t);
		return;
	}
	split(t, n, &n->left, &n->right);
	update(n);
	set(l, n);
}

void index_insert(struct index *ix, struct node *n)
{
	n->priority = next_priority(ix);
	set(&n->left, NULL);
	set(&n->right, NULL);
	update(n);
	insert_at(&ix->root, n);
}

static void remove_at(link *l, struct node *n)
{
	struct node *t = get(l);

	if (t == n) {
		set(l, merge(get(&t->left), get(&t->right)));
		return;
	}
	remove_at(before(n, t) ? &t->left : &t->right, n);
	update(t);
}

void index_remove(struct index *ix, struct node *n)
{
	remove_at(&ix->root, n);
}

struct node *index_find_cover(const struct index *ix, uint64_t start, uint64_t end)
{
	struct node *n = get(&ix->root);

	for (int i = 0; n && i < READER_STEPS; i++) {
		struct node *left;

		if (node_start(n) > start) {
			n = get(&n->left);
			continue;
		}
		/* All that lies left of n begins at or before `start`: its end decides. */
		if (node_end(n) >= end)
			return n;
		left = get(&n->left);
		n = max_end(left) >= end ? left : get(&n->right);
	}
	return NULL;
}

struct search {
	uint64_t start, end;
	bool inside;
	struct node **out;
	unsigned n, max;
};

static void collect(struct node *t, struct search *s)
{
	uint64_t lo, hi;

	if (!t || s->n == s->max || max_end(t) <= s->start)
		return;
	lo = node_start(t);
	hi = node_end(t);
	/* Inside: what begins before s->start is of no use, nor what is left of it. */
	if (!s->inside || lo >= s->start)
		collect(get(&t->left), s);
	if (s->n < s->max && (s->inside ? lo >= s->start && hi <= s->end : lo < s->end && hi > s->start))
		s->out[s->n++] = t;
	if (lo < s->end)
		collect(get(&t->right), s);
}

unsigned index_find_touching(const struct index *ix, uint64_t start, uint64_t end,
			     struct node **out, unsigned max)
{
	struct search s = { start, end, false, out, 0, max };

	collect(get(&ix->root), &s);
	return s.n;
}

unsigned index_find_inside(const struct index *ix, uint64_t start, uint64_t end, struct node **out,
			   unsigned max)
{
	struct search s = { start, end, true, out, 0, max };

	collect(get(&ix->root), &s);
	return s.n;
}

struct visit {
	uint64_t start, end;
	void (*each)(struct node *n, void *arg);
	void *arg;
};

static void visit(struct node *t, const struct visit *v)
{
	if (!t || max_end(t) <= v->start)
		return;
	visit(get(&t->left), v);
	if (node_start(t) >= v->end)
		return;
	if (node_end(t) > v->start)
		v->each(t, v->arg);
	visit(get(&t->right), v);
}

void index_each_touching(const struct index *ix, uint64_t start, uint64_t end,
			 void (*each)(struct node *n, void *arg), void *arg)
{
	struct visit v = { start, end, each, arg };

	visit(get(&ix->root), &v);
}

static int64_t count_valid(const struct node *t, const struct node **last)
{
	const struct node *kids[2];
	uint64_t m;
	int64_t l, r;

	if (!t)
		return 0;
	kids[0] = get(&t->left);
	kids[1] = get(&t->right);
	m = node_end(t);
	for (int i = 0; i < 2; i++) {
		if (kids[i] && kids[i]->priority > t->priority)
			return -1;
		if (max_end(kids[i]) > m)
			m = max_end(kids[i]);
	}
	l = count_valid(kids[0], last);
	if (l < 0 || m != max_end(t) || (*last && !before(*last, t)))
		return -1;
	*last = t;
	r = count_valid(kids[1], last);
	return r < 0 ? -1 : l + r + 1;
}

int64_t index_is_valid(const struct index *ix)
{
	const struct node *last = NULL;

	return count_valid(get(&ix->root), &last);
}
