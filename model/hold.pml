/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol of the holds (src/hold.h, src/hit.c, src/reaper.c), for Spin, with store buffers.
 * A get and a put write nothing that is shared but the thread's own hold, without a fence; who takes a
 * registration away looks at all holds. uffd.pml has holders as an exact counter; this is why it may.
 * run.sh checks I2, that no wake-up is lost, that a hit is of the life that was remembered, and no
 * deadlock; and that each rule is needed.
 *
 * The race it is all about. A store goes into the thread's buffer, and to memory some time later; the
 * loads that follow it don't wait:
 *
 *   getter                    its store buffer     event thread           reaper
 *   ----------------------    -----------------    -------------------    ----------------------
 *   hold = e                  hold = e
 *   word of e: LIVE           .
 *   uses e                    .                    word of e |= DEAD
 *                             .                    push, wake the reaper
 *                             .                                           any hold == e? no
 *                             .                                           >>> deregistered <<<
 *                             to memory
 *
 * membarrier empties the buffers: what a getter stored before it looked at the word, when it saw LIVE, is in
 * memory before the reaper looks (mutation NO_MEMBARRIER). At the put the same, with NULL and DEAD:
 *
 *   putter                    its store buffer     reaper
 *   ----------------------    -----------------    ---------------------------------
 *                                                  membarrier
 *   word of e: not DEAD
 *                                                  (word of e |= DEAD, push, wake)
 *                                                  any hold == e? yes: waits to be woken
 *   hold = NULL               hold = NULL          >>> by whom? <<<
 *
 * so the hold is cleared first, and then the word is looked at (WORD_BEFORE_CLEAR).
 *
 * What is abstracted: membarrier waits for a buffer to be empty, which it may become at any time: as
 * if it emptied it, and each thread's at a moment of its own. The event thread, the reaper and who
 * evicts have no buffers: after each store of theirs comes a locked instruction before the next load that
 * matters. Sections under the cache's lock are one step where only one thing in them can be seen without it.
 * A thread has one hold; one that has it out waits until it is back. What is left out: README.md.
 */

#define NONE 7

/* What a thread of the program does. ROUNDS: how often. */
#define NOBODY 0
#define GETTER 1 /* get, put */
#define PASSER 2 /* get; the next thread puts */
#define PUTTER 3
#define MAKER  4 /* a miss: registers when there is a free entry, and puts */

#if defined(RACE) /* one entry, that dies once */
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 GETTER
#define ROUNDS1 1
#elif defined(REUSE) /* the entry lives again, here or elsewhere, and dies again */
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 MAKER
#define ROUNDS1 1
#define KILLS 2
#elif defined(PASS) /* another thread puts; the entry dies by either hand */
#define ROLE0 PASSER
#define ROUNDS0 2
#define ROLE1 PUTTER
#define ROUNDS1 1
#define EVICTOR
#elif defined(EVICTION) /* the entry is evicted, and lives again */
#define KILLS 0
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 MAKER
#define ROUNDS1 1
#define EVICTOR
#elif defined(TWO) /* two entries, that die one after the other */
#define ENTRIES 2
#define ROLE0 GETTER
#define ROUNDS0 1
#define ROLE1 GETTER
#define ROUNDS1 1
#define RANGE1 1
#elif defined(TWO_HANDS) /* two entries, that die by two hands */
#define ENTRIES 2
#define ROLE0 GETTER
#define ROUNDS0 1
#define ROLE1 NOBODY
#define ROUNDS1 0
#define EVICTOR
#else
#error "name a configuration: -DRACE, -DREUSE, ... (see run.sh)"
#endif

#ifndef ENTRIES
#define ENTRIES 1
#endif
#ifndef RANGE1
#define RANGE1 0
#endif
#ifndef KILLS
#define KILLS 1
#endif

/* A probe is a place that must be reachable. Most are shown to be by the mutations. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#define PASSES_IF(condition, place) assert(!(condition) || PROBE != place)
#else
#define PASSES(place) skip
#define PASSES_IF(condition, place) skip
#endif
#define BUFFERED_HOLD 1 /* membarrier meets a hold that stands, and isn't in memory */
#define OTHER_PUTS    2 /* a thread puts another's hold of a dead registration */
#define EVICTED_HELD  3 /* the evictor's second census found a holder */
#define NO_POST       4 /* pushed to a stack that wasn't empty */

/* ------------------------------------------------------------------ the processors */

/* What the program's threads store to: the hold of each, and two words between a passer and its putter. */
#define HOLD(thread) (thread)
#define MAILBOX      2 /* the region that was handed to the putter */
#define RETURNED     3 /* the hold that came back */

byte memory[4] = NONE;
chan buffer[2] = [3] of { byte, byte }; /* address, value */

bool stop;

/* Others see the memory only. What a thread loads of its own stores it knows without looking. */
hidden byte address;
hidden byte value;

proctype store_buffers()
{
	do
	:: atomic { buffer[0]?address,value -> memory[address] = value }
	:: atomic { buffer[1]?address,value -> memory[address] = value }
	:: atomic { stop && empty(buffer[0]) && empty(buffer[1]) -> break }
	od
}

/* A thread of the program stores. When the buffer is full, it waits. */
#define store(address, value) buffer[me]!address,value

/* hold_fence(): for the compiler only; or, where there is no membarrier, a fence */
#ifdef READERS_FENCE
#define HOLD_FENCE ; empty(buffer[me])
#else
#define HOLD_FENCE
#endif

/* hold_fence_all() */
inline hold_fence_all()
{
#if !defined(NO_MEMBARRIER) && !defined(READERS_FENCE)
#ifdef PROBE
	PASSES_IF(len(buffer[0]) > 0 && holders[0] > 0 && memory[HOLD(0)] == NONE, BUFFERED_HOLD);
#endif
	if
	:: empty(buffer[0]) -> empty(buffer[1])
	:: empty(buffer[1]) -> empty(buffer[0])
	fi
#else
	skip
#endif
}

/* ------------------------------------------------------------------ the cache */

/* An entry's word: [life][flags:2]. The life is its generation. */
#define LIVE 1
#define DEAD 2
#define FLAGS(word)   ((word) & 3)
#define LIFE_OF(word) ((word) >> 2)
#define FIRST_LIFE    (1 << 2 | LIVE)
#define BIT(e)        (1 << (e))

byte word[ENTRIES];
byte range[ENTRIES];   /* which of the two buffers it covers */
bool free[ENTRIES];    /* in the pool */
byte index[2] = NONE;  /* the live entry at each buffer */
byte nic[ENTRIES];     /* the life that the NIC has; 0: nothing */
byte pins;

byte stack;            /* a bit per entry: dead, handed over */
byte waiting;          /* dead, and held when last looked at */
byte posts;            /* of the reaper's semaphore */
bool asleep = true;    /* the reaper, at its semaphore */

/* For the claims only: by how many gets this entry is in use, that were not put. */
byte holders[ENTRIES];

byte done;             /* threads that have ended */
byte passed;           /* regions that nobody has put */
bool passer_done;

/* I2: what is held is in the NIC. A hit is of the life that was remembered. */
#define I2_IN_THE_NIC(e) assert(!stands || nic[e] == life)
#define I2_NOT_HELD(e)   assert(holders[e] == 0)
#define SAME_LIFE        assert(life == LIFE_OF(hint_word))

/* cache_kill(), lock held */
inline kill(e)
{
	word[e] = word[e] | DEAD;
	index[range[e]] = NONE
}

/* cache_hand_over(). To post late would be to wake late. */
inline hand_over(e)
{
	atomic {
		PASSES_IF(stack != 0, NO_POST);
		posts = posts + (stack == 0);
		stack = stack | BIT(e)
	}
}

/* cache_census(): reads the holds one after the other */
inline census(held)
{
	held = (memory[HOLD(0)] < NONE -> BIT(memory[HOLD(0)]) : 0);
	held = held | (memory[HOLD(1)] < NONE -> BIT(memory[HOLD(1)]) : 0)
}

/* deregister(), free_entry() */
inline let_go(e)
{
	d_step { I2_NOT_HELD(e); nic[e] = 0; pins-- }
	d_step { word[e] = LIFE_OF(word[e]) << 2; free[e] = true }
}

/* ------------------------------------------------------------------ a thread of the program */

/* release(): let go, and wake who waits for it. `mine`: the hold is the thread's own. */
inline release(hold, mine)
{
#ifdef WORD_BEFORE_CLEAR
	dead = (FLAGS(word[e]) & DEAD) != 0;
#endif
#ifdef RETURN_FIRST
	if
	:: !mine -> store(RETURNED, 0)
	:: mine
	fi;
#endif
	atomic {
		store(hold, NONE);
		I2_IN_THE_NIC(e);
		holders[e] = holders[e] - stands;
		stands = false
	}
#ifndef RETURN_FIRST
	if
	:: !mine -> store(RETURNED, 0)
	:: mine
	fi
#endif
	HOLD_FENCE;
	atomic {
#ifndef WORD_BEFORE_CLEAR
		dead = (FLAGS(word[e]) & DEAD) != 0;
#endif
#if defined(NO_WAKE)
		dead = false;
#elif defined(NO_WAKE_UNUSED)
		dead = dead && life != 0;
#endif
		PASSES_IF(dead && !mine, OTHER_PUTS);
		posts = posts + dead;
		dead = false;
		e = NONE;
		life = 0
	}
}

/* Does what was remembered live? The hold stands from this look on. */
#ifdef NO_GENERATION
#define IS_REMEMBERED (FLAGS(word[e]) == LIVE)
#else
#define IS_REMEMBERED (word[e] == hint_word)
#endif
#define IS_LIVE(e) (FLAGS(word[e]) == LIVE)

inline it_stands()
{
	stands = true;
	holders[e]++;
	life = LIFE_OF(word[e])
}

/* hold_set(), and the look at the word. When that says no, the hold is set, but doesn't stand. */
inline hold_if(condition)
{
#ifdef CHECK_FIRST
	atomic {
		if
		:: condition -> it_stands()
		:: else
		fi
	}
	store(HOLD(me), e)
#else
	store(HOLD(me), e) HOLD_FENCE;
	atomic {
		if
		:: condition -> it_stands()
		:: else
		fi
	}
#endif
}

proctype program_thread(byte me; byte role; byte rounds; byte wanted)
{
	byte e = NONE;
	byte life;         /* what the get has returned */
	byte hint = NONE;  /* what this thread remembers: the entry, and its word */
	byte hint_word;
	bool stands;       /* the hold */
	bool out;          /* passed, and not back */
	bool dead;

	if /* found lately, or never */
	:: role != GETTER || ENTRIES == 1
	:: role == GETTER || role == PASSER ->
		hint = wanted; /* entries and what they cover first are numbered alike */
		hint_word = FIRST_LIFE
	fi;
	do
	:: rounds == 0 -> break
	:: else ->
		rounds--;
		if
		:: role == MAKER -> goto make
		:: role == PUTTER -> goto put_others
		:: atomic { out && memory[RETURNED] != NONE -> memory[RETURNED] = NONE; out = false }
		:: !out && (role == GETTER || role == PASSER)
		fi;

		/* hit() */
		if
		:: hint == NONE -> goto by_index
		:: hint != NONE -> e = hint
		fi;
		hold_if(IS_REMEMBERED);
		if
		:: stands -> SAME_LIFE; goto use
		:: !stands
		fi;

		/* cache_unhold() */
		d_step { hint = NONE; hint_word = 0 }
		release(HOLD(me), true);

by_index:	/* find_in(). What the index told may be elsewhere by now. */
		e = index[wanted];
		if
		:: e == NONE -> goto next
		:: e != NONE
		fi;
		hold_if(IS_LIVE(e));
		if
		:: !stands -> goto put
		:: stands
		fi;
		/* serves(); cache_remember(), but not what has died meanwhile */
		atomic {
#ifndef NO_COVERS
			if
			:: range[e] != wanted -> goto put
			:: else
			fi;
#endif
			assert(range[e] == wanted);
			hint_word = word[e];
			hint = e;
#ifndef REMEMBER_DEAD
			hint = (FLAGS(hint_word) == LIVE -> e : NONE);
			hint_word = (hint == NONE -> 0 : hint_word)
#endif
		}
		goto use;

make:		/* cache_miss(): an entry from the pool; the range; and it is registered */
		atomic {
			if
			:: free[0] -> e = 0
			:: else -> goto next
			fi;
			free[e] = false;
			if
			:: range[e] = 1
			:: range[e] = 0
			fi;
			life = LIFE_OF(word[e]) + 1;
			word[e] = life << 2;
			nic[e] = life;
			pins++
		}
		/* finish() */
		store(HOLD(me), e) HOLD_FENCE;
		d_step {
			word[e] = word[e] | LIVE;
			it_stands();
			index[range[e]] = e
		}

use:
		if
		:: role == PASSER ->
			atomic {
				store(MAILBOX, life);
				passed++;
				out = true;
				stands = false;
				e = NONE;
				life = 0
			}
			goto next
		:: else
		fi;

put:		/* hf_put(), and in find_in() the end of a hold that didn't stand */
		release(HOLD(me), true);
		goto next;

put_others:
		atomic {
			if
			:: memory[MAILBOX] != NONE ->
				life = memory[MAILBOX];
				memory[MAILBOX] = NONE;
				rounds++ /* as often as the other passes */
			:: passer_done && passed == 0 -> goto next
			fi
		}
		atomic {
			e = memory[HOLD(0)];
			assert(e != NONE);
			stands = true;
			passed--
		}
		release(HOLD(0), false);
next:
		skip
	od;
	atomic { passer_done = passer_done || role == PASSER; done++ }
}

/* ------------------------------------------------------------------ who takes away */

/* The event thread: what has changed goes. */
proctype event_thread()
{
	byte e;
	byte kills = KILLS;

	do
	:: kills == 0 -> break
	:: else ->
		kills--;
		do
		:: e == ENTRIES -> break
		:: else ->
			atomic {
				if
				:: FLAGS(word[e]) == LIVE -> kill(e)
				:: else -> goto next
				fi
			}
			hand_over(e);
next:
			e++
		od;
		e = 0
	od;
	done++
}

/* cache_reaper(), cache_reclaim() */
proctype reaper()
{
	byte dead;
	byte held;
	byte e;

	do
	:: d_step { posts > 0 -> posts--; asleep = false }
		if
		:: stop -> break
		:: else
		fi;
		/* collect() */
		d_step { dead = stack; stack = 0; dead = dead | waiting; waiting = 0 }
		if
		:: dead == 0 -> goto next
		:: dead != 0
		fi;
		/* sort_out() */
		hold_fence_all();
		census(held);
		atomic {
			waiting = dead & held;
			dead = dead & ~held;
			held = 0
		}
		do
		:: e == ENTRIES -> break
		:: e < ENTRIES && (dead & BIT(e)) -> let_go(e); e++
		:: e < ENTRIES && !(dead & BIT(e)) -> e++
		od;
next:
		atomic { e = 0; dead = 0; asleep = true }
	od
}

#ifdef EVICTOR
/* cache_evict(), cache_retire(): an idle one goes, by a census without a fence; then a second look. */
proctype evictor()
{
	byte held;
	byte e;

#ifdef CENSUS_FIRST
	hold_fence_all();
#endif
	census(held);
	atomic {
		if
		:: FLAGS(word[0]) == LIVE && !(held & BIT(0)) -> e = 0
#if ENTRIES > 1
		:: FLAGS(word[1]) == LIVE && !(held & BIT(1)) -> e = 1
#endif
		:: else -> goto out
		fi;
		kill(e)
	}
#if !defined(NO_RECHECK) && !defined(CENSUS_FIRST)
	hold_fence_all();
	census(held);
	if
	:: held & BIT(e) ->
		PASSES(EVICTED_HELD);
		hand_over(e);
		goto out
	:: else
	fi;
#endif
	let_go(e);
out:
	done++
}
#define EVICTORS 1
#else
#define EVICTORS 0
#endif

/* ------------------------------------------------------------------ from open to quiet */

#if ENTRIES > 1
#define LIVE_ENTRIES (IS_LIVE(0) + IS_LIVE(1))
#else
#define LIVE_ENTRIES IS_LIVE(0)
#endif

inline registered(e)
{
	word[e] = FIRST_LIFE;
	nic[e] = 1;
	range[e] = e;
	index[e] = e;
	pins++
}

init {
	atomic {
		registered(0);
#if ENTRIES > 1
		registered(1);
#endif
		run store_buffers();
		run event_thread();
		run reaper();
#ifdef EVICTOR
		run evictor();
#endif
		run program_thread(0, ROLE0, ROUNDS0, 0);
		run program_thread(1, ROLE1, ROUNDS1, RANGE1)
	}

	/* All have put, and the reaper sleeps: nothing will wake it. What is dead has gone. */
	d_step {
		done == 3 + EVICTORS && asleep && posts == 0 ->
			assert(stack == 0 && waiting == 0);
			assert(pins == LIVE_ENTRIES);
			stop = true;
			posts++
	}
}
/* No state is marked as a valid end: all threads end, or it is a deadlock (I4). */
