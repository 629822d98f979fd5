/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol of the holds and the gate (src/hit.c, src/hold.h, src/thread.h, src/reaper.c), for Spin, with store
 * buffers. A get and a put write nothing that is shared but what is the thread's own, without a fence; who takes a
 * registration away looks at all holds. uffd.pml has holders as an exact counter; this is why it may.
 * run.sh checks I2, that no wake-up is lost, that a hit is of the life that was remembered, that no hit is older than
 * a change that has returned, and no deadlock; and that each rule is needed.
 *
 * The race it is all about. A store goes into the thread's buffer, and to memory some time later; the
 * loads that follow it don't wait:
 *
 *   getter                    its store buffer     event thread           reaper
 *   ----------------------    -----------------    -------------------    ----------------------
 *   gate is what was noted
 *   gets = 1                  gets = 1
 *   gate is what was noted    .
 *   uses e                    .                    word of e |= DEAD
 *                             .                    gate turns
 *                             .                    push, wake the reaper
 *                             .                                           gets - puts of e: 0
 *                             .                                           >>> deregistered <<<
 *                             to memory
 *
 * membarrier empties the buffers: what a getter stored before it looked at the gate, when that was not turned, is in
 * memory before the reaper looks (mutation NO_MEMBARRIER). At the put the same:
 *
 *   putter                    its store buffer     event thread           reaper
 *   ----------------------    -----------------    -------------------    ----------------------
 *   gate is what was noted
 *                                                  word of e |= DEAD
 *                                                  gate turns
 *                                                  push, wake             membarrier
 *                                                                         gets - puts: 1: waits
 *   puts = 1                  puts = 1                                    >>> for whom? <<<
 *
 * so the put is counted first, and then the gate is looked at (LOOK_BEFORE_PUT). And the census looks at a place's
 * counts first, then at its entry (ENTRY_FIRST), as a place that isn't held may get another entry at any time:
 *
 *   getter, of another entry                  reaper, e is dead
 *   -------------------------------------     -----------------------------------------
 *   place: e, gets 1, puts 1: not held
 *                                             the place has e
 *   place: the other one, gets 2
 *                                             gets 2, puts 1: e is held: waits
 *                                             >>> nobody will put e <<<
 *
 * The other race is of the gates (configuration GATES, which is without buffers and reaper). An unchecked get
 * doesn't ask whether changes are being told, and may find what a checked one must not. So no gate is noted
 * meanwhile (NOTE_ODD):
 *
 *   getter                                    event thread
 *   -------------------------------------     -----------------------------------------
 *                                             word odd; gate turns: 8
 *                                             reads the event: munmap returns
 *   unchecked get: word of e: LIVE; notes 8
 *   checked get: the gate is 8
 *   >>> stale hit <<<                         word of e |= DEAD; gate turns: 9; word even
 *
 * What is abstracted: membarrier waits for a buffer to be empty, which it may become at any time: as
 * if it emptied it, and each thread's at a moment of its own. The event thread, the reaper and who
 * evicts have no buffers: after each store of theirs comes a locked instruction before the next load that
 * matters. Sections under the cache's lock are one step where only one thing in them can be seen without it.
 * A thread has one place (struct recent), where it remembers what it found lately and counts its holds of
 * that, and one hold beside (struct hold).
 * What is left out: README.md.
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
#define NOTED true
#elif defined(REUSE) /* the entry lives again, and dies again */
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 MAKER
#define ROUNDS1 1
#define KILLS 2
#define NOTED true
#elif defined(PASS) /* another thread puts */
#define ROLE0 PASSER
#define ROUNDS0 3
#define ROLE1 PUTTER
#define ROUNDS1 1
#define NEVER true
#define TAKEN true
#elif defined(EVICTION) /* the entry is evicted, and lives again, here or elsewhere */
#define KILLS 0
#define ELSEWHERE true
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 MAKER
#define ROUNDS1 1
#define EVICTOR
#define NEVER true
#define MISSES true
#elif defined(REPLACE) /* two entries, of which one dies, or both; one place for them; the first hold may be kept */
#define ENTRIES 2
#define ROLE0 GETTER
#define ROUNDS0 2
#define ROLE1 NOBODY
#define ROUNDS1 0
#define ANY_RANGE
#define KEEPS
#define MISSES true
#define SPARED(e) true /* or it was of other memory */
#elif defined(TWO_HANDS) /* two entries, that die by two hands */
#define ENTRIES 2
#define ROLE0 GETTER
#define ROUNDS0 1
#define ROLE1 NOBODY
#define ROUNDS1 0
#define EVICTOR
#define NOTED true
#elif defined(CLOSING) /* nothing dies; is it seen that the first hold is kept, while others come and go? */
#define KILLS 0
#define ROLE0 PASSER
#define ROUNDS0 3
#define ROLE1 PUTTER
#define ROUNDS1 1
#define KEEPS
#define CLOSER
#elif defined(GATES) /* checked gets and unchecked ones, the switch's word, two who turn the gates */
#define ROLE0 GETTER
#define ROUNDS0 3
#define ROLE1 NOBODY
#define ROUNDS1 0
#else
#error "name a configuration: -DRACE, -DREUSE, ... (see run.sh)"
#endif

#ifndef ENTRIES
#define ENTRIES 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef NEVER
#define NEVER false /* a thread may begin with nothing that was found lately */
#endif
#ifndef NOTED
#define NOTED false /* what was found lately was noted, too */
#endif
#ifndef TAKEN
#define TAKEN false /* the place may be taken by what is not in the model */
#endif
#ifndef MISSES
#define MISSES false /* the index may tell nothing at first */
#endif
#ifndef ELSEWHERE
#define ELSEWHERE false
#endif
#ifndef SPARED
#define SPARED(e) (!IS_LIVE(e)) /* by a change: what is gone already */
#endif
#define THREADS (1 + (ROLE1 != NOBODY))
#define COUNTS  (1 + (ROLE1 == GETTER)) /* threads that remember anything: the first ones */

/* A probe is a place that must be reachable. Most are shown to be by the mutations. */
#ifdef PROBE
#define PASSES_IF(condition, place) assert(!(condition) || PROBE != place)
#else
#define PASSES_IF(condition, place) skip
#endif
#define BUFFERED_HOLD 1 /* membarrier meets a hold that stands, and isn't in memory */
#define OTHER_PUTS    2 /* a thread puts another's count of a dead registration */
#define NO_POST       3 /* pushed to a stack that wasn't empty */
#define HIT_NOTED     4 /* a hit by a gate that was noted after one had turned */
#define OTHER_ENTRY   5 /* the census meets a place that was held, and has another entry now */

/* ------------------------------------------------------------------ the processors */

/* What the program's threads store to: the place and the hold of each; two words between a passer and its putter. */
#define GETS(thread)     (thread)
#define PUTS(thread)     (2 + (thread))
#define RETURNED(thread) (4 + (thread)) /* puts by others */
#define ENTRY(thread)    (6 + (thread))
#define HOLD(thread)     (8 + (thread))
#define MAILBOX          10 /* the region that was handed to the putter */
#define BACK             11 /* the hold that came back */

byte memory[12];
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
#ifdef GATES
#define store(address, value) skip
#else
#define store(address, value) buffer[me]!address,value
#endif

/* hold_fence(): for the compiler only; or, where there is no membarrier, a fence */
#ifdef READERS_FENCE
#define HOLD_FENCE ; empty(buffer[me])
#else
#define HOLD_FENCE
#endif

#define IN_MEMORY (memory[HOLD(0)] < NONE || memory[HOLD(1)] < NONE || \
		   memory[GETS(0)] != memory[PUTS(0)] || memory[GETS(1)] != memory[PUTS(1)])

/* hold_fence_all() */
inline hold_fence_all()
{
#if !defined(NO_MEMBARRIER) && !defined(READERS_FENCE)
	PASSES_IF(holders[0] > 0 && !IN_MEMORY, BUFFERED_HOLD);
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
#define IS_LIVE(e)    (FLAGS(word[e]) == LIVE)
#define IS_DEAD(e)    ((FLAGS(word[e]) & DEAD) != 0)
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
bool kept;             /* the first hold stands, and will for long */

byte ended;             /* threads that have ended */
byte passed;           /* regions that nobody has put */
bool passer_done;

/* I2: what is held is in the NIC. A hit is of the life that was remembered. */
#define I2_IN_THE_NIC(e) assert(!stands || nic[e] == life)
#define I2_NOT_HELD(e)   assert(holders[e] == 0)
#define SAME_LIFE(e)     assert(LIFE_OF(word[e]) == LIFE_OF(place_word))

/* The gates. One that was noted is never 0. */
#define FIRST_GATE 1
#ifdef GATES
byte gates[2] = FIRST_GATE;
byte last = FIRST_GATE;
bool odd;              /* the switch's word */
bool locked;           /* the cache */
bool changed;          /* the call that changed the memory of entry 0 has returned */
#define gate         gates[0]
#define checked_gate gates[1]
#define GATE_OF_GET  gates[checked]
#define IS_CHECKED   checked
#else
byte gate = FIRST_GATE;
#define GATE_OF_GET gate
#define IS_CHECKED  true
#endif

/* cache_turn_gate(). In the other configurations all that it does is one step. */
inline turn_gate()
{
#ifdef GATES
	atomic { last++; number = last };
#ifndef GATE_FIRST
	checked_gate = number;
#endif
	gate = number;
#ifdef GATE_FIRST
	checked_gate = number;
#endif
	number = 0
#else
	gate++
#endif
}

/* cache_kill(), lock held */
inline kill(e)
{
	word[e] = word[e] | DEAD;
	index[range[e]] = NONE
}

#if defined(NO_TURN)
#define BEFORE_DEAD skip
#define AFTER_DEAD  skip
#elif defined(TURN_FIRST)
#define BEFORE_DEAD turn_gate()
#define AFTER_DEAD  skip
#else
#define BEFORE_DEAD skip
#define AFTER_DEAD  turn_gate()
#endif

/* cache_hand_over(). To post late would be to wake late. */
inline hand_over(e)
{
	atomic {
		PASSES_IF(stack != 0, NO_POST);
		posts = posts + (stack == 0);
		stack = stack | BIT(e)
	}
}

/* recent_is_held(): each load is a step */
inline look_at_counts()
{
#if defined(PUTS_LAST)
	gets_seen = memory[GETS(t)];
	returned_seen = memory[RETURNED(t)];
	is_held = (gets_seen - memory[PUTS(t)] != returned_seen);
#elif defined(RETURNED_LAST)
	puts_seen = memory[PUTS(t)];
	gets_seen = memory[GETS(t)];
	is_held = (gets_seen - puts_seen != memory[RETURNED(t)]);
#else
	puts_seen = memory[PUTS(t)];
	if
	:: memory[GETS(t)] == puts_seen -> is_held = false
	:: else ->
		returned_seen = memory[RETURNED(t)];
		is_held = (memory[GETS(t)] - puts_seen != returned_seen)
	fi;
#endif
	d_step { puts_seen = 0; gets_seen = 0; returned_seen = 0 }
}

/* each_recent(), of one place */
inline look_at_place(held)
{
#ifdef ENTRY_FIRST
	e_seen = memory[ENTRY(t)];
#endif
	look_at_counts();
#ifdef PROBE
	e_before = memory[ENTRY(t)];
#endif
	if
	:: !is_held -> skip
	:: else ->
#ifndef ENTRY_FIRST
		e_seen = memory[ENTRY(t)];
#endif
		d_step {
			assert(e_seen != NONE);
			PASSES_IF(e_seen != e_before, OTHER_ENTRY);
			held = held | BIT(e_seen)
		}
	fi;
	d_step { t++; e_seen = 0; is_held = false }
}

/* cache_census(), hold_each(). Places that are never used have nothing to be read. */
inline census(held)
{
	d_step { held = 0; t = 0 }
	do
	:: t < COUNTS ->
		look_at_place(held)
	:: t == COUNTS -> break
	od;
	t = 0;
	held = held | (memory[HOLD(0)] < NONE -> BIT(memory[HOLD(0)]) : 0);
#if THREADS > 1
	held = held | (memory[HOLD(1)] < NONE -> BIT(memory[HOLD(1)]) : 0)
#endif
}
#ifdef PROBE
#define E_BEFORE ; byte e_before
#else
#define E_BEFORE
#endif
#define CENSUS_LOCALS byte t; byte puts_seen; byte gets_seen; byte returned_seen; byte e_seen; bool is_held E_BEFORE

/* deregister(), free_entry() */
inline let_go(e)
{
	d_step { I2_NOT_HELD(e); nic[e] = 0; pins-- }
	d_step { word[e] = LIFE_OF(word[e]) << 2; free[e] = true }
}

/* ------------------------------------------------------------------ a thread of the program */

/* wake_if_dead(), the look and the post; and the end of a hold */
inline wake_if(condition)
{
	atomic {
		posts = posts + (condition);
		e = NONE;
		life = 0
	}
}

/* The claims: from here on the hold does not count any more. */
inline it_ends()
{
	I2_IN_THE_NIC(e);
	holders[e] = holders[e] - stands;
	stands = false
}

#ifdef NO_WAKE
#define WAKES(e) false
#else
#define WAKES(e) IS_DEAD(e)
#endif

/* release(): of a hold. `mine`: it is the thread's own. */
inline release(hold, mine)
{
#ifdef LOOK_BEFORE_PUT
	dead = IS_DEAD(e);
#endif
#ifdef RETURN_FIRST
	if
	:: !mine -> store(BACK, 0)
	:: mine
	fi;
#endif
	atomic { store(hold, NONE); unused = !stands; it_ends() }
#ifndef RETURN_FIRST
	if
	:: !mine -> store(BACK, 0)
	:: mine
	fi
#endif
	HOLD_FENCE;
#if defined(LOOK_BEFORE_PUT)
	wake_if(dead);
#elif defined(NO_WAKE_UNUSED)
	wake_if(WAKES(e) && !unused);
#else
	wake_if(WAKES(e));
#endif
	d_step { unused = false; dead = false }
}

/* hf_put() of what the thread has found again: one more put; only when the gate has turned, the look at the word */
inline put_again()
{
#ifdef LOOK_BEFORE_PUT
	turned = noted != gate;
#endif
	atomic { puts++; store(PUTS(me), puts); it_ends() } HOLD_FENCE;
#ifndef LOOK_BEFORE_PUT
	turned = noted != gate;
#endif
#ifdef NO_GATE_AT_PUT
	turned = false;
#endif
	if
	:: turned -> wake_if(WAKES(e))
	:: else -> d_step { e = NONE; life = 0 }
	fi;
	turned = false
}

/* take_back() */
inline take_back()
{
	atomic { gets--; store(GETS(me), gets) } HOLD_FENCE;
#ifndef NO_WAKE_BACK
	posts = posts + IS_DEAD(place)
#else
	skip
#endif
}

/* Does what was remembered live? The hold stands from this look on. */
#ifdef NO_GENERATION
#define IS_REMEMBERED IS_LIVE(place)
#else
#define IS_REMEMBERED (word[place] == place_word)
#endif

inline it_stands(entry)
{
	e = entry;
	stands = true;
	holders[e]++;
	life = LIFE_OF(word[e])
}

inline stands_if(condition, entry)
{
	atomic {
		if
		:: condition -> it_stands(entry)
		:: else
		fi
	}
}

/* A hold of the place, or of hold.c, and the look behind it. When that says no, it was counted but doesn't stand. */
#ifdef CHECK_FIRST
#define COUNT_AND_LOOK(condition) \
	stands_if(condition, place); atomic { gets++; store(GETS(me), gets) }
#define HOLD_AND_LOOK(condition) \
	stands_if(condition, e); store(HOLD(me), e)
#else
#define COUNT_AND_LOOK(condition) \
	atomic { gets++; store(GETS(me), gets) } HOLD_FENCE; stands_if(condition, place)
#define HOLD_AND_LOOK(condition) \
	store(HOLD(me), e) HOLD_FENCE; stands_if(condition, e)
#endif
#ifdef NO_SECOND_COMPARE
#define GATE_HOLDS true
#else
#define GATE_HOLDS (noted == GATE_OF_GET)
#endif

/* recent_held(), by the owner */
#ifdef REPLACE_HELD
#define HELD_HERE 0
#else
#define HELD_HERE (gets - puts - memory[RETURNED(me)])
#endif

/* to_note() */
#if defined(READERS_FENCE)
#define TO_NOTE(seen) 0
#elif defined(GATES) && !defined(NOTE_ODD)
#define TO_NOTE(seen) (odd -> 0 : seen)
#else
#define TO_NOTE(seen) seen
#endif
#ifdef NOTE_END
#define GATE_TO_NOTE gate
#else
#define GATE_TO_NOTE begun
#endif

/* forget(), and the place is e's. A store of what is there already changes nothing, and is left out. */
inline replace()
{
#ifndef NO_FORGET
	d_step { noted = 0; asked = NONE }
#endif
	if
	:: place != e -> atomic { store(ENTRY(me), e); place = e }
	:: else
	fi;
	place_word = seen_word
}

/* quiet(): once for each get */
inline ask_if_quiet(otherwise)
{
#ifdef GATES
	if
	:: !quiet && odd -> goto otherwise
	:: else -> quiet = true
	fi
#else
	skip
#endif
}

/* serves() */
#ifdef NO_COVERS
#define COVERS(e) true
#else
#define COVERS(e) (range[e] == wanted)
#endif

#ifdef GATES
#define IT_IS_EXACT assert(!(checked && too_late))
#else
#define IT_IS_EXACT skip
#endif

proctype program_thread(byte me; byte role; byte rounds)
{
	byte e = NONE;
	byte wanted;
	byte life;          /* what the get has returned */
	bool stands;        /* the hold */
	bool again;         /* ... is of what was found again: a count */
	bool out;           /* a hold, not a count, that is passed, and not back */
	bool keeps;         /* the first one, as long as it can */
	bool turned;
	bool dead;
	bool unused;
	byte seen_word;
	byte begun;         /* the gate at the beginning of the get */
	/* The place: what is remembered of it is the owner's, but for `entry` and the counts. */
	byte place = NONE;
	byte asked = NONE;  /* the range */
	byte place_word;
	byte noted;
	byte gets;
	byte puts;
#ifdef GATES
	bool checked;
	bool quiet;         /* asked already: no change was in flight */
	bool too_late;      /* for what was there before the change */
#endif

	/* found lately, and noted or not; or never */
	if
	:: role == MAKER || role == PUTTER
	:: NEVER && (role == GETTER || role == PASSER)
	:: role == GETTER || role == PASSER ->
		atomic {
			place = 0;
			asked = 0;
			place_word = FIRST_LIFE;
			memory[ENTRY(me)] = 0;
			if
			:: noted = TO_NOTE(FIRST_GATE)
			:: me == 0 && !NOTED
			fi
		}
	fi;
	do
	:: rounds == 0 -> break
	:: else ->
		rounds--;
		if
		:: role == MAKER -> goto make
		:: role == PUTTER -> goto put_others
		:: atomic { out && memory[BACK] != NONE -> memory[BACK] = NONE; out = false }
		:: !out && (role == GETTER || role == PASSER)
		fi;
#ifdef ANY_RANGE
		if
		:: wanted = 0
		:: wanted = 1
		fi;
#endif
#ifdef GATES
		atomic {
			too_late = changed;
			if
			:: checked = true; quiet = false
			:: checked = false; quiet = true
			fi
		}
#endif

		/* hf_get() */
		if
		:: asked == wanted && noted == GATE_OF_GET
		:: else -> goto look_again
		fi;
		COUNT_AND_LOOK(GATE_HOLDS);
		if
		:: stands ->
			atomic {
				PASSES_IF(noted > FIRST_GATE && IS_CHECKED, HIT_NOTED);
				again = true
			}
			goto check
		:: !stands
		fi;
		take_back();

look_again:	/* get_slowly(), find_again() */
		begun = gate;
		if
		:: asked == wanted && IS_REMEMBERED
		:: else -> goto by_index
		fi;
		ask_if_quiet(by_index);
		COUNT_AND_LOOK(IS_REMEMBERED);
		if
		:: !stands -> take_back(); goto by_index
		:: stands
		fi;
		again = true;
		noted = TO_NOTE(GATE_TO_NOTE);
check:
		skip;
		d_step {
			begun = 0;
			seen_word = 0;
			assert(range[e] == wanted);
			I2_IN_THE_NIC(e);
			SAME_LIFE(e);
			IT_IS_EXACT
		}
		goto use;

by_index:	/* candidate(). What was read of it was of this life if the word is still the same behind the hold. */
		if
		:: true
		:: MISSES -> goto under_lock
		fi;
		e = index[wanted];
		if
		:: e == NONE -> goto next
		:: e != NONE
		fi;
		seen_word = word[e];
		if
		:: FLAGS(seen_word) == LIVE && COVERS(e)
		:: else -> goto next
		fi;
		ask_if_quiet(next);
		if
		:: HELD_HERE != 0 || TAKEN
		:: HELD_HERE == 0 -> goto take_place
		fi;
		/* take_hold() */
		HOLD_AND_LOOK(word[e] == seen_word);
		seen_word = 0;
		if
		:: !stands -> goto put
		:: stands
		fi;
		d_step { assert(range[e] == wanted); IT_IS_EXACT }
		goto use;

take_place:
#ifdef COUNT_FIRST
		atomic { gets++; store(GETS(me), gets) }
		replace();
		atomic { e = NONE; stands_if(IS_REMEMBERED, place) }
#else
		replace();
		e = NONE;
		COUNT_AND_LOOK(IS_REMEMBERED);
#endif
		if
		:: !stands -> place_word = 0; take_back(); goto next
		:: stands
		fi;
		asked = wanted;
		again = true;
		noted = TO_NOTE(GATE_TO_NOTE);
		goto check;

under_lock:	/* find_made(): nothing dies meanwhile */
		atomic {
			nfull(buffer[me]); /* or the store would wait in the middle */
			e = index[wanted];
			if
			:: e == NONE -> goto next
			:: e != NONE
			fi;
			store(HOLD(me), e);
			it_stands(e);
			assert(range[e] == wanted)
		}
		/* cache_remember(): but not what has died meanwhile, nor over what is held */
		seen_word = word[e];
		if
#ifndef REMEMBER_DEAD
		:: FLAGS(seen_word) & DEAD
#endif
		:: HELD_HERE != 0
		:: else -> replace(); asked = wanted
		fi;
		seen_word = 0;
		goto use;

make:		/* cache_miss(): an entry from the pool; the range; and it is registered */
		atomic {
			if
			:: free[0] -> e = 0
			:: else -> goto next
			fi;
			free[e] = false;
			if
			:: range[e] = 0
			:: ELSEWHERE -> range[e] = 1
			fi;
			life = LIFE_OF(word[e]) + 1;
			word[e] = life << 2;
			nic[e] = life;
			pins++
		}
		gate++; /* begin() turns it */
		/* finish() */
		store(HOLD(me), e) HOLD_FENCE;
		d_step {
			word[e] = word[e] | LIVE;
			it_stands(e);
			index[range[e]] = e
		}

use:
#ifdef KEEPS
		if
		:: again && !keeps && rounds > 0 ->
			atomic {
				keeps = true;
				kept = true;
				stands = false; /* the next one's; this one is in `holders` */
				again = false;
				e = NONE;
				life = 0
			}
			goto next
		:: true
		fi;
#endif
		if
#ifdef KEEPS
		:: true
#endif
		:: role == PASSER ->
			atomic {
				passed == 0; /* one at a time is on its way */
				store(MAILBOX, life + (again -> 8 : 0));
				passed++;
				out = !again;
				stands = false;
				again = false;
				e = NONE;
				life = 0
			}
			goto next
		:: else
		fi;

put:		/* hf_put(), and in cache_find() the end of a hold that didn't stand */
		if
		:: again -> put_again(); again = false
		:: else -> release(HOLD(me), true)
		fi;
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
			again = life >= 8;
			life = life & 7;
			e = memory[(again -> ENTRY(0) : HOLD(0))];
			assert(e != NONE);
			stands = true;
			passed--
		}
		if
		:: !again -> release(HOLD(0), false)
		:: again -> /* put_recent(): a locked instruction */
			atomic {
				empty(buffer[me]);
				memory[RETURNED(0)] = memory[RETURNED(0)] + 1;
				it_ends();
				again = false
			}
			atomic { PASSES_IF(IS_DEAD(e), OTHER_PUTS); wake_if(WAKES(e)) }
		fi;
next:
		atomic { begun = 0; seen_word = 0; e = NONE }
	od;
#ifdef KEEPS
	if
	:: keeps ->
		atomic {
			e = place;
			life = LIFE_OF(place_word);
			stands = true;
			keeps = false;
			kept = false
		}
		put_again()
	:: else
	fi;
#endif
	atomic { passer_done = passer_done || role == PASSER; ended++ }
}

/* ------------------------------------------------------------------ who takes away */

/* The event thread: what has changed goes. */
proctype event_thread()
{
	byte e;
	byte dead;
	byte kills = KILLS;
#ifdef GATES
	byte number;
	bool ours;

	/* hf_changes_begin(); what is read lets the changing call go on. Perhaps it was of other memory. */
	odd = true;
#ifndef NO_TURN_ODD
	turn_gate();
#endif
	if
	:: ours = true
	:: kills = 0
	fi;
	changed = ours;
	!locked; /* what was told while it was is kept */
#endif
	do
	:: kills == 0 -> break
	:: else ->
		kills--;
		BEFORE_DEAD;
		/* kill_all() */
		do
		:: e == ENTRIES -> break
		:: atomic { e < ENTRIES && IS_LIVE(e) -> kill(e); dead = dead | BIT(e); e++ }
		:: e < ENTRIES && SPARED(e) -> e++
		od;
		e = 0;
		if
		:: dead == 0 -> goto next
		:: dead != 0
		fi;
#ifndef TURN_LATE
		AFTER_DEAD;
#endif
		do
		:: e == ENTRIES -> break
		:: e < ENTRIES && (dead & BIT(e)) -> hand_over(e); e++
		:: e < ENTRIES && !(dead & BIT(e)) -> e++
		od;
#ifdef TURN_LATE
		AFTER_DEAD;
#endif
next:
		atomic { e = 0; dead = 0 }
	od;
#ifdef GATES
	odd = false;
#endif
	ended++
}

/* cache_reaper(), cache_reclaim() */
proctype reaper()
{
	byte dead;
	byte held;
	byte e;
	CENSUS_LOCALS;

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
	CENSUS_LOCALS;

#ifdef CENSUS_FIRST
	hold_fence_all();
#endif
	census(held);
	atomic {
		if
		:: IS_LIVE(0) && !(held & BIT(0)) -> e = 0
#if ENTRIES > 1
		:: IS_LIVE(1) && !(held & BIT(1)) -> e = 1
#endif
		:: else -> goto out
		fi;
		kill(e)
	}
	turn_gate();
#if !defined(NO_RECHECK) && !defined(CENSUS_FIRST)
	hold_fence_all();
	census(held);
	if
	:: held & BIT(e) ->
		hand_over(e);
		goto out
	:: else
	fi;
#endif
	let_go(e);
out:
	ended++
}
#endif

#ifdef CLOSER
/* cache_idle(): what is held from before to after is never missed, whatever else is got and put. */
proctype closer()
{
	byte held;
	CENSUS_LOCALS;

	if
	:: kept ->
		hold_fence_all();
		census(held);
		assert(!kept || (held & BIT(0)))
	:: passer_done
	fi;
	ended++
}
#endif

#ifdef GATES
/* A miss of something else turns the gates, too: the clock of the LRU. */
proctype other_miss()
{
	byte number;

	locked = true;
	turn_gate();
	locked = false;
	ended++
}
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

byte threads; /* that will end */

init {
	atomic {
		for (address : 6 .. 11) {
			memory[address] = NONE
		}
		registered(0);
#if ENTRIES > 1
		registered(1);
#endif
		run event_thread();
		threads = 2;
#ifndef GATES
		run store_buffers();
		run reaper();
#endif
#ifdef EVICTOR
		run evictor();
		threads++;
#endif
#ifdef CLOSER
		run closer();
		threads++;
#endif
#ifdef GATES
		run other_miss();
		threads++;
#endif
		run program_thread(0, ROLE0, ROUNDS0);
#if THREADS > 1
		run program_thread(1, ROLE1, ROUNDS1);
		threads++;
#endif
	}

#ifndef GATES
	/* All have put, and the reaper sleeps: nothing will wake it. What is dead has gone. */
	d_step {
		ended == threads && asleep && posts == 0 ->
#ifndef WANT_I2 /* it would be found first */
			assert(stack == 0 && waiting == 0);
			assert(pins == LIVE_ENTRIES);
#endif
			stop = true;
			posts++
	}
#endif
}
/* No state is marked as a valid end: all threads end, or it is a deadlock (I4). */
