/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol that makes the `kmod` proxy exact, for Spin: the module (kmod/range.c, kmod/event.c), the event thread
 * (src/proxy/kmod.c), and a get by what is remembered, by the index, and by a miss. run.sh checks it in several
 * configurations, and shows that each rule is needed.
 *
 * Three races. A change and a hit:
 *
 *   A: munmap, or another process's hole     event thread                  C: hf_get
 *   ------------------------------------     -------------------------     ----------------------------
 *   notifier: word odd, event
 *   moves = 8                        (1)
 *   page tables change
 *                                                                          moves 8, told 7: no hit
 *                                            takes moves: 8        (2)
 *                                            reads all events      (3)
 *                                            the entry dies, the gate
 *                                            turns
 *                                            told = 8              (4)
 *                                                                          moves 8, told 8; then the gate: it
 *                                                                          has turned; the index: nothing
 *
 * So who sees the two equal after the page tables changed comes after (4), and finds the gate turned.
 *
 * A change that is under way while a range is secured: kmod/range.c draws it. The notifier that comes too late counts as
 * changing, and read_begin waits; what begins in between is found by read_retry; what begins after it turns the word. So an
 * armed range is never in flux.
 *
 * And one of a wake-up. The event thread takes the number before it reads, and so may have read more than it counted:
 *
 *   A: munmap          B: munmap          event thread
 *   ---------------    ---------------    ---------------------------------
 *   event, moves = 8
 *                                         takes moves: 8
 *                      event, moves = 9
 *                                         reads both events
 *                                         told = 8
 *                                         >>> sleeps: there is no event; told stays behind <<<
 *
 * So when `told` is written the number is looked at again (NO_SECOND_LOOK).
 *
 * What is abstracted: one buffer of one page; each entry has a range of its own, with the same number. A section under
 * the index lock, or under the file's spinlock but for the count in it, is one step: only there something can be seen from outside.
 * Memory is sequentially consistent. Why what is held stays is hold.pml's: here a get is over when it has its answer.
 */

#define ENTRIES 4 /* registrations and placeholders, and their ranges */
#define NONE    ENTRIES

/* What a thread does, so often. */
#define NOBODY   0
#define GETTER   1 /* hf_get */
#define MAPPER   2 /* mmap, is given the address when it is free, and stores to it; hf_get */
#define UNMAPPER 3 /* munmap */
#define REMOVER  4 /* madvise(MADV_DONTNEED) */
#define HOLER    5 /* another process: a hole into the file */

#if defined(UNMAP)
#define ROLE0 UNMAPPER
#define ROLE1 MAPPER
#define ROUNDS1 2
#elif defined(HOLE)
#define ROLE0 HOLER
#define ROLE1 GETTER
#define ROUNDS1 2
#elif defined(TWICE)
#define ROLE0 HOLER
#define ROLE1 GETTER
#define ROLE2 REMOVER
#define NOT_CACHED
#define LET_GO 0 /* so many of the dead are let go; the others are held */
#elif defined(AGAIN)
#define ROLE0 HOLER
#define ROUNDS0 2
#define ROLE1 GETTER
#define NOT_COLD
#define LET_GO 1
#elif defined(LATER)
#define ROLE0 HOLER
#define ROUNDS0 2
#define ROLE1 GETTER
#define ROUNDS1 2
#define NOT_COLD
#define LET_GO 0
#elif defined(THRICE)
#define ROLE0 HOLER
#define ROLE1 GETTER
#define ROUNDS1 3
#define NOT_COLD
#define LET_GO 0
#elif defined(BUSY)
#define ROLE0 HOLER
#define ROLE1 GETTER
#define ROUNDS1 2
#define LOCKS 1 /* so often somebody has the index lock */
#elif defined(LOST)
#define ROLE0 HOLER
#define ROUNDS0 2
#define ROLE1 GETTER
#define NOT_COLD
#define LET_GO 0
#define BAD_READS 1 /* so often a read() can't write into the reader's memory */
#else
#error "name a configuration: -DUNMAP, -DHOLE, ... (see run.sh)"
#endif

#ifndef ROLE2
#define ROLE2 NOBODY
#endif
#ifndef ROUNDS0
#define ROUNDS0 1
#endif
#ifndef ROUNDS1
#define ROUNDS1 1
#endif
#define PROGRAM_THREADS (2 + (ROLE2 != NOBODY))
#ifndef LOCKS
#define LOCKS 0
#endif
#ifndef LET_GO
#define LET_GO ENTRIES
#endif
#ifndef BAD_READS
#define BAD_READS 0
#endif

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define WAITS_FOR_END  2 /* secured while a change is under way */
#define TRIES_AGAIN    3 /* read_retry: one has begun meanwhile */
#define DOOMED_MISS    4 /* a change was told to a placeholder */
#define READ_MORE      5 /* told, and there was more than had been counted */
#define EVENT_DROPPED  6 /* an event is dropped by unsecure */
#define INDEX_BUSY     7 /* the event thread finds the index locked */
#define HIT_AGAIN      8 /* by what was remembered after a change was told */
#define READ_LOST      9 /* everything has changed, says the module */

/* What becomes of an entry, and with it of its range. */
#define FREE    0
#define PENDING 1 /* a placeholder: its getter arms and pins */
#define DOOMED  2 /* a placeholder, and a change was told meanwhile */
#define LIVE    3
#define DEAD    4 /* the reaper's */

byte state[ENTRIES];

/* ------------------------------------------------------------------ the kernel */

bool mm_lock;       /* of munmap, madvise, mmap; another process takes none */
bool mapped = true;
byte page = 1;      /* the physical page at BUF; 0: none, the next access faults one in */
byte last_page = 1; /* physical pages are numbered as they are given out */
byte oldest = 1;    /* for the claim: lower numbers are in no page table any more */

/* mm/mmu_notifier.c */
byte under_way;        /* changes under way */
byte mm_seq = 2;    /* odd while ranges are changing */
byte in_tree;       /* bits: ranges that are called at a change */
byte deferred;      /* ranges that are inserted when the changes under way have ended */
byte range_seq[ENTRIES];

#define BIT(r) (1 << (r))
#define lowest(bits) ((bits) & 1 -> 0 : ((bits) & 2 -> 1 : ((bits) & 4 -> 2 : 3)))

inline notifier_insert(r)
{
	d_step {
		if
		:: under_way > 0 && mm_seq % 2 == 1 ->
			deferred = deferred | BIT(r);
			range_seq[r] = mm_seq
		:: under_way > 0 && mm_seq % 2 == 0 -> /* those under way have called nobody */
			mm_seq++;
			in_tree = in_tree | BIT(r);
			range_seq[r] = mm_seq
		:: under_way == 0 ->
			in_tree = in_tree | BIT(r);
			range_seq[r] = mm_seq - 1
		fi
	}
}

/* It may be called until those under way have ended, and not when this is over. */
inline notifier_remove(r)
{
	d_step { mm_seq % 2 == 0 -> in_tree = in_tree & (15 - BIT(r)) }
}

/* ------------------------------------------------------------------ the module */

bool spin;              /* file->spin */
bool armed[ENTRIES];
bool changed[ENTRIES];  /* armed, and not changed: the word is even */
byte queue;             /* bits: ranges with an event. One at most each; in which order doesn't matter */
bool lost;              /* events were: everything has changed */
byte moves;             /* head->changes */

/* hf_invalidate(). The count can be seen without the lock. */
inline invalidate(r, foreign)
{
#ifdef COUNT_FIRST
	moves = moves + armed[r];
#endif
	d_step {
		!spin ->
			spin = true;
			range_seq[r] = mm_seq;
#ifdef FILTERED
			tell = armed[r] && !(foreign);
#else
			tell = armed[r];
#endif
			changed[r] = changed[r] || tell;
			queue = (tell -> queue | BIT(r) : queue)
	}
#ifdef COUNT_LATE
	d_step { count = count + tell; tell = false; spin = false }
#elif defined(COUNT_FIRST)
	d_step { tell = false; spin = false }
#else
	d_step { moves = moves + tell; tell = false; spin = false }
#endif
}

#define IS_EVEN(r) (armed[r] && !changed[r] && state[r] != DEAD) /* what is dead is on its way out of the tree */

/* A change in the kernel: its beginning, the page tables, its end. The caller has `todo`, `r`, `tell`. */
inline change(unmaps, foreign)
{
	d_step {
		(foreign || !mm_lock) ->
			mm_lock = mm_lock || !(foreign);
			mapped = mapped && !(unmaps);
			under_way++;
			todo = in_tree;
			mm_seq = (todo && mm_seq % 2 == 0 -> mm_seq + 1 : mm_seq)
	}
	do
	:: todo != 0 ->
		r = lowest(todo);
		invalidate(r, foreign);
		d_step { todo = todo & (15 - BIT(r)); r = 0 }
	:: else -> break
	od;
	atomic {
#ifndef WANT_I1
		assert(!IS_EVEN(0) && !IS_EVEN(1) && !IS_EVEN(2) && !IS_EVEN(3)); /* never in flux */
#endif
		page = 0;
		oldest = last_page + 1
	}
#ifdef COUNT_LATE
	d_step { moves = moves + count; count = 0 }
#endif
	d_step {
		under_way--;
		if
		:: under_way == 0 && mm_seq % 2 == 1 ->
			mm_seq++;
			in_tree = in_tree | deferred;
			deferred = 0
		:: else
		fi;
		mm_lock = mm_lock && (foreign)
	}
}

/* mmap, when BUF is free; the new page is stored to at once. Else the kernel gives another address. */
inline sys_mmap()
{
	d_step {
		!mm_lock ->
		if
		:: !mapped ->
			mapped = true;
			last_page++;
			page = last_page
		:: else
		fi
	}
}

/* Pin: faults the page in. pinned = 0 when nothing is mapped (-EFAULT). What is in the page tables needs no mapping. */
inline pin()
{
	atomic {
		if
		:: mapped && page == 0 ->
			last_page++;
			page = last_page
		:: else
		fi;
		pinned = page
	}
}

/* HOLDFAST_IOC_SECURE. refused: nothing is mapped. */
inline secure(r)
{
	notifier_insert(r);
#ifdef PROBE
	if
	:: range_seq[r] == mm_seq -> PASSES(WAITS_FOR_END)
	:: else
	fi;
#endif
try_again:
#ifdef NO_WAIT_FOR_END
	seq = range_seq[r];
#else
	seq = range_seq[r]; /* read_begin */
	mm_seq != seq;
#endif
	refused = !mapped;
	if
	:: refused -> skip
	:: else ->
#ifdef RETRY_UNLOCKED
		if
		:: range_seq[r] == seq -> d_step { !spin -> armed[r] = true; changed[r] = false }
		:: else -> goto try_again
		fi
#else
		atomic {
			!spin ->
			if
#ifdef NO_RETRY
			:: true ->
#else
			:: range_seq[r] == seq ->
#endif
				armed[r] = true;
				changed[r] = false
			:: else ->
				PASSES(TRIES_AGAIN);
				goto try_again
			fi
		}
#endif
	fi;
	seq = 0
}

/* HOLDFAST_IOC_UNSECURE, and what the proxy does behind it. */
inline unsecure(r)
{
#ifdef DROP_FIRST
	d_step { !spin -> queue = queue & (15 - BIT(r)) }
	notifier_remove(r);
#else
	notifier_remove(r);
#ifdef PROBE
	if
	:: queue & BIT(r) -> PASSES(EVENT_DROPPED)
	:: else
	fi;
#endif
	d_step { !spin -> queue = queue & (15 - BIT(r)) }
#endif
	d_step {
		assert(!(queue & BIT(r))); /* it is freed */
		armed[r] = false;
		changed[r] = false;
		range_seq[r] = 0
	}
#ifndef NO_WAKE
	was = moves;
	d_step { woken = woken || was != told; was = 0 }
#endif
}

/* ------------------------------------------------------------------ the library */

byte told;
bool woken;              /* wake_fd */
bool asleep = true;      /* the event thread is, unless there is something for it */
bool reaping;

bool index_lock;
byte index = NONE;       /* the LIVE entry at BUF */
byte life[ENTRIES];
byte reg_page[ENTRIES];  /* what the NIC has */
byte word;               /* the switch's: odd while changes are being told */
byte gate = 1;           /* checked_gate */

byte done;               /* threads that have ended */
bool stop;

#define IS_PENDING(e) (state[e] == PENDING)

/* What a get answers is in no other state than it was when the get began, or later. */
#define I1_NOT_STALE(registered) assert(registered >= need)

/* The first entry that is free. */
inline first_free(entry)
{
	entry = 0;
	do
	:: entry < ENTRIES && state[entry] != FREE -> entry++
	:: else -> break
	od;
	assert(entry < ENTRIES) /* there are enough: else the model would be cut short */
}

/* One of the two numbers, then the other: which one first is left to the compiler. */
#ifdef MOVES_FIRST
#define FIRST  moves
#define SECOND told
#else
#define FIRST  told
#define SECOND moves
#endif
#define CLOCKS_AGREE(otherwise) \
	number = FIRST; \
	if \
	:: number == SECOND -> number = 0 \
	:: number != SECOND -> goto otherwise \
	fi

proctype program_thread(byte role; byte rounds; byte recent)
{
	byte need;             /* the oldest page that this get may return (I1) */
	byte noted = recent != NONE; /* the gate at which `recent` was found good */
	byte entry = NONE;
	byte begun, seen_life, number;
	byte pinned, seq;
	bool refused;
	byte todo, r;          /* change() */
	bool tell;
#ifdef COUNT_LATE
	byte count;
#endif

	do
	:: rounds == 0 -> break
	:: else ->
		rounds--;
		if
		:: role == GETTER
		:: role == MAPPER -> sys_mmap()
		:: role > MAPPER ->
			change(role == UNMAPPER, role == HOLER);
			goto next
		fi;

		/* By what is remembered. It answers for all page tables that have changed by now. */
		need = oldest;
		if
		:: recent != NONE && noted == gate
		:: else -> goto look_up
		fi;
#ifndef NO_CLOCKS
		CLOCKS_AGREE(look_up);
#endif
		atomic {
#ifndef GATE_FIRST
			if
			:: noted == gate
			:: else -> goto look_up
			fi;
#endif
			I1_NOT_STALE(reg_page[recent]);
#ifdef PROBE
			if
			:: told > 0 -> PASSES(HIT_AGAIN)
			:: else
			fi;
#endif
			goto next
		}

look_up:	/* By the index. */
		begun = gate;
		atomic {
			number = 0;
			entry = index;
			if
			:: entry == NONE -> goto miss
			:: else -> seen_life = life[entry]
			fi
		}
		CLOCKS_AGREE(miss);
		if
		:: word % 2 == 0
		:: else -> goto miss
		fi;
		atomic {
			if
			:: state[entry] == LIVE && life[entry] == seen_life ->
				I1_NOT_STALE(reg_page[entry]);
				recent = entry;
				noted = begun;
				goto next
			:: else
			fi
		}

miss:
		atomic { number = 0; begun = 0; seen_life = 0; entry = NONE }
#ifdef PIN_FIRST
		pin();
#endif
		atomic { /* find_made, begin */
			!index_lock ->
			if
			:: index != NONE ->
				entry = index;
				seen_life = life[entry];
				goto stands
			:: else ->
				first_free(entry);
				state[entry] = PENDING;
				gate++
			fi
		}
		secure(entry);
		if
		:: refused -> goto give_up
		:: else
		fi;
#ifndef PIN_FIRST
		pin();
#endif
		if
		:: pinned == 0 -> goto give_up
		:: else
		fi;
		atomic { /* finish */
			!index_lock ->
			reg_page[entry] = pinned;
			pinned = 0;
			if
			:: state[entry] == DOOMED ->
				PASSES(DOOMED_MISS);
				state[entry] = DEAD;
				entry = NONE;
				goto look_up
			:: else ->
				if
				:: index != NONE -> state[index] = DEAD; gate++ /* superseded */
				:: else
				fi;
				I1_NOT_STALE(reg_page[entry]);
				state[entry] = LIVE;
				life[entry]++;
				index = entry;
				goto next
			fi
		}

stands:		/* Somebody else has made it meanwhile. */
		CLOCKS_AGREE(once);
		if
		:: word % 2 == 0
		:: else -> goto once
		fi;
		atomic {
			if
			:: state[entry] == LIVE && life[entry] == seen_life ->
				I1_NOT_STALE(reg_page[entry]);
				goto next
			:: else -> goto look_up
			fi
		}

give_up:	/* -EFAULT */
		atomic {
			!index_lock ->
			state[entry] = DEAD;
			refused = false;
			pinned = 0;
			goto next
		}

once:		/* For this get only. */
		pin();
		if
		:: pinned -> I1_NOT_STALE(pinned)
		:: else
		fi;

next:
		atomic { entry = NONE; need = 0; number = 0; begun = 0; seen_life = 0; pinned = 0 }
	od;
	done++
}

/* ------------------------------------------------------------------ the library's threads */

#define DOOM(e) state[e] = ((kept & BIT(e)) && IS_PENDING(e) -> DOOMED : state[e])

/*
 * What is told goes: what is cached, and what is on its way there. The index is locked. An event tells of its own range only, as if each
 * entry were at a place of its own; in the source all goes that is at the place that changed.
 */
inline mark()
{
#ifndef NO_PLACEHOLDER
	DOOM(0);
	DOOM(1);
	DOOM(2);
	DOOM(3);
#endif
	if
	:: index != NONE && (kept & BIT(index)) ->
		state[index] = DEAD;
		index = NONE;
#ifndef NO_TURN
		gate++
#endif
	:: else
	fi;
	kept = 0
}

#ifdef TOLD_BUSY
#define IS_TOLD true
#else
#define IS_TOLD !telling
#endif
#ifdef TOLD_FAILED
#define ALL_READ true
#else
#define ALL_READ !failed
#endif

/* serve(), each time that poll() returns. */
proctype event_thread()
{
	byte seen;
	byte bad_reads = BAD_READS;
	byte kept;     /* bits: ranges with an event that was read, and isn't told yet */
	bool telling;  /* an index was busy */
	bool again;    /* `told` is behind already */
	bool failed;   /* read() has */

	do
	:: atomic {
		queue || lost || woken || telling || again ->
			asleep = false;
			woken = false;
			again = false
	   }
#ifdef TOLD_FIRST
		told = moves;
#endif
		if
		:: word % 2 == 0 ->
			word++;
#ifndef NO_TURN
			gate++
#endif
		:: else
		fi;
#ifndef NUMBER_LATE
		seen = moves;
#endif
		do
		:: d_step { !spin && (queue || lost) ->
#ifdef LOST_NOTHING
			kept = (lost -> kept : kept | (queue - (queue & (queue - 1))));
#else
			kept = (lost -> 15 : kept | (queue - (queue & (queue - 1))));
#endif
			queue = (lost -> queue : queue & (queue - 1));
#ifdef PROBE
			if
			:: lost -> PASSES(READ_LOST)
			:: else
			fi;
#endif
			lost = false
		   }
#ifdef READ_ONE
			break
#endif
		:: d_step { !spin && !queue && !lost } -> break
#if BAD_READS > 0
		:: d_step { /* taken, and can't be copied */
			!spin && queue && bad_reads > 0 ->
			bad_reads--;
			queue = queue & (queue - 1);
			lost = true;
			failed = true
		   }
			break
#endif
		od;
		if
		:: kept ->
			atomic {
				if
				:: !index_lock ->
					mark();
					telling = false
				:: else ->
					PASSES(INDEX_BUSY);
					telling = true
				fi
			}
		:: else
		fi;
		if
		:: !telling -> word++
		:: else
		fi;
		atomic {
			if
			:: IS_TOLD && ALL_READ ->
#ifdef NUMBER_LATE
				seen = moves;
#endif
#ifndef TOLD_FIRST
				told = seen;
#endif
				failed = false;
				seen = 0
			:: else -> failed = false; seen = 0; goto slept
			fi
		}
#ifndef NO_SECOND_LOOK
		atomic {
			again = (moves != told);
#ifdef PROBE
			if
			:: again && !queue && !spin -> PASSES(READ_MORE)
			:: else
			fi
#endif
		}
#endif
slept:
		asleep = !telling && !again
	:: stop && !(queue || lost || woken || telling || again) -> break
	od
}

/* What is dead goes, when nobody holds it any more: so perhaps never. */
proctype reaper()
{
	byte e, was;
	byte may = LET_GO;

	do
	:: atomic {
		if
		:: may > 0 && state[0] == DEAD -> e = 0
		:: may > 0 && state[1] == DEAD -> e = 1
		:: may > 0 && state[2] == DEAD -> e = 2
		:: may > 0 && state[3] == DEAD -> e = 3
		fi;
		may--;
		reaping = true
	   }
		unsecure(e);
		d_step {
			reg_page[e] = 0;
			state[e] = FREE;
			e = 0;
			reaping = false
		}
	:: stop -> break
	od
}

#if LOCKS > 0
/* Whoever has the index lock. */
proctype locker()
{
	byte times = LOCKS;

	do
	:: times > 0 ->
		atomic { !index_lock -> index_lock = true }
		index_lock = false;
		times--
	:: done == PROGRAM_THREADS -> break
	od
}
#endif

init {
	atomic {
		if /* cold, or cached already, and remembered */
#ifndef NOT_COLD
		:: run program_thread(ROLE1, ROUNDS1, NONE)
#endif
#ifndef NOT_CACHED
		:: notifier_insert(0);
			armed[0] = true;
			index = 0;
			state[0] = LIVE;
			reg_page[0] = page;
			run program_thread(ROLE1, ROUNDS1, 0)
#endif
		fi;
		run event_thread();
		run reaper();
		run program_thread(ROLE0, ROUNDS0, NONE);
#if LOCKS > 0
		run locker();
#endif
		if
		:: ROLE2 != NOBODY -> run program_thread(ROLE2, 1, NONE)
		:: else
		fi
	}

	/* It sleeps, whether what is dead is held or not: no wake-up is lost. */
	atomic {
		done == PROGRAM_THREADS && asleep && !woken && !queue && !lost && !reaping ->
#ifndef WANT_I1
		assert(told == moves);
#endif
		stop = true
	}
}
/* No state is marked as a valid end: all threads end, or it is a deadlock (I4). */
