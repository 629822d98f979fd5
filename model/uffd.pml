/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol that makes the `uffd` proxy exact, for Spin. run.sh checks it in several
 * configurations (I1, I2, I4, no pin left over) and shows that each rule is needed: with
 * the rule left out Spin finds the failure that the rule is there to prevent.
 *
 * The race it is all about. The kernel drops the mmap lock *before* it posts the event, so
 * the address can be given away while the cache still has the old page:
 *
 *   A: munmap(addr)                            C: mmap() == addr, hf_get(addr)
 *   ---------------------------------------    ---------------------------------------
 *   mmap_lock
 *   mmap_changing++               (1)
 *   page table entry cleared
 *   mmap_unlock
 *                                              mmap_lock, is given addr, mmap_unlock
 *                                              stores its data: a new physical page
 *                                              hf_get: the index has LIVE, old page
 *                                              >>> a hit here sends the wrong bytes <<<
 *   post UNMAP, sleep
 *          event thread: word odd (2)
 *          event thread: read()   (3)
 *   wake, mmap_changing--         (4)
 *   munmap returns
 *          event thread: mark DEAD, unlink (5)
 *          event thread: word even (6)
 *
 * From (1) to (4) the ioctl says EAGAIN. From (2) to (6) the word is odd. (2) is before (3) is
 * before (4), so the two spans overlap: who sees the ioctl quiet, and *then* an even word, comes
 * before (1), or after (6), when (5) is done. C comes after (1), so it comes after (5).
 * Taken in the other order (word, then ioctl) both may look quiet: the word before (2), the
 * ioctl after (4). Mutation WORD_FIRST.
 *
 * For MADV_DONTNEED and the like the event comes *before* the change, and the ioctl is quiet
 * again before the page goes:
 *
 *   R: madvise(addr, MADV_DONTNEED)            G: hf_get(addr), a miss
 *   ---------------------------------------    ---------------------------------------
 *   mmap_changing++, mmap_unlock
 *   post REMOVE, sleep
 *          event thread: word odd, read(), quarantine, mark DEAD, word even
 *   wake, mmap_changing--
 *                                              placeholder, arm
 *                                              >>> pin: the old page, and all is quiet <<<
 *   mmap_lock, page zapped, mmap_unlock
 *   madvise returns
 *                                              the registration is stale from here on
 *
 * So the range stays in quarantine (registered, used and let go: never cached) until R was seen
 * outside of madvise, after the event was told.
 *
 * What is abstracted: one buffer of one page (BUF), and OTHER for all else that is armed, as arming
 * takes whole mappings. Memory is sequentially consistent. The mmap lock is exclusive; every
 * section under it that could be shared is one step here. Events are read in any order. What changes, and why
 * each mutation (NO_CHECK, NO_ODD, ...) must fail: README.md.
 */

#define ENTRIES 4 /* registrations and placeholders */
#define NONE    ENTRIES

/* What a thread of the program does before each hf_get; then it puts. ROUNDS: how often. */
#define NOBODY   0
#define GETTER   1 /* nothing */
#define UNMAPPER 2 /* munmap */
#define MAPPER   3 /* mmap, is given the address when it is free, and stores to it */
#define REMOVER  4 /* madvise(MADV_DONTNEED) */
#define LEAVER   5 /* munmap, and that is all: no hf_get */

#if defined(UNMAP) || defined(FAST)
#define ROLE0 UNMAPPER
#define ROLE1 MAPPER
#define ROLE2 GETTER
#elif defined(UNMAP_TWICE)
#define ROLE0 UNMAPPER
#define ROUNDS0 2
#define ROLE1 MAPPER
#define ROUNDS1 2
#elif defined(REMOVE)
#define ROLE0 REMOVER
#define ROUNDS0 2
#define ROLE1 GETTER
#define ROUNDS1 2
#elif defined(REMOVE_UNMAP)
#define ROLE0 REMOVER
#define ROLE1 LEAVER
#define ROLE2 MAPPER
#elif defined(NIC_FREES)
#define ROLE0 UNMAPPER
#define ROLE1 MAPPER
#define NIC_MAY_UNMAP 2 /* so often the NIC's register or deregister frees memory */
#elif defined(SIGNAL)
#define ROLE0 GETTER
#define ROLE1 MAPPER
#define ROLE2 LEAVER
#define HANDLER_UNMAPS /* thread 0 is interrupted while it has the index lock */
#elif defined(MISS_TWICE)
#define ROLE0 UNMAPPER
#define ROLE1 GETTER
#define ROLE2 GETTER
#elif defined(EVICT)
#define ROLE0 UNMAPPER
#define ROLE1 GETTER
#define ROUNDS1 2
#define EVICTOR
#else
#error "name a configuration: -DUNMAP, -DREMOVE, ... (see run.sh)"
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
#ifndef ROUNDS2
#define ROUNDS2 1
#endif
#ifndef NIC_MAY_UNMAP
#define NIC_MAY_UNMAP 0
#endif

#define REAPER       3 /* after the program's threads 0 to 2 */
#define EVENT_THREAD 4
#define THREADS      5

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define EXACT_HIT        1 /* a hit after a change was told */
#define PLACEHOLDER_DEAD 2 /* a change between placeholder and publication */
#define UNCACHED         3 /* not quiet: registered for this one use */
#define QUARANTINED      4 /* a getter kept out of the cache by the quarantine */
#define QUARANTINE_OVER  5 /* published after the quarantine was lifted */
#define PUT_HANDS_OVER   6 /* the last put of a dead registration */
#define INDEX_BUSY       7 /* the event thread found the index locked, and read on */
#define NIC_UNMAPPED     8 /* the reaper's NIC call waited for the event thread */
#define WAITED_FOR_OTHER 9 /* a second miss waited for the first */
#define EVICTED          10

/* ------------------------------------------------------------------ the kernel */

#define BUF    1
#define OTHER  2
#define UNMAPPED(range) (range)      /* UFFD_EVENT_UNMAP */
#define REMOVED(range)  (range | 4)  /* UFFD_EVENT_REMOVE */

bool mm_lock;
bool mapped = true;
bool armed;         /* the mapping at BUF is registered with the userfaultfd */
byte page = 1;      /* the physical page at BUF; 0: none, the next access faults one in */
byte last_page = 1; /* physical pages are numbered as they are given out */
byte changing;      /* the context's mmap_changing */
bool in_madvise;
byte event[THREADS];/* what that thread has posted and sleeps on; 0: nothing, or it was read */
#define events (event[0] || event[1] || event[2] || event[3] || event[4])

/* For the claims only. A page numbered lower than `oldest` went away in a call that has returned. */
byte oldest = 1;

/*
 * A section under a lock is one step when only one thing in it can be seen without the lock (to take is
 * a right mover, to release a left mover). Else it is several.
 */

/* munmap(range). The caller has the variable `after`. */
inline sys_munmap(thread, range)
{
	if
	:: d_step {
		!mm_lock && (range == OTHER || (mapped && armed)) ->
			mm_lock = true;
			changing++
	   }
		d_step {
			if
			:: range == BUF ->
				mapped = false;
				armed = false;
				page = 0;
				after = last_page + 1
			:: else
			fi;
			mm_lock = false
		}
		event[thread] = UNMAPPED(range);
		d_step {
			event[thread] == 0 ->
				changing--;
				oldest = (after > oldest -> after : oldest);
				after = 0
		}
	:: d_step { /* not armed: nobody is told */
		!mm_lock && range == BUF && !(mapped && armed) ->
			oldest = (mapped -> last_page + 1 : oldest);
			mapped = false;
			page = 0
	   }
	fi
}

inline zap()
{
	oldest = (page != 0 -> last_page + 1 : oldest);
	page = 0
}

/* madvise(BUF, MADV_DONTNEED) */
inline sys_madvise(thread)
{
	if
	:: d_step { !mm_lock && mapped && armed -> in_madvise = true; changing++ }
		event[thread] = REMOVED(BUF);
		d_step { event[thread] == 0 -> changing-- }
		d_step { !mm_lock -> zap(); in_madvise = false }
	:: d_step { !mm_lock && !(mapped && armed) -> zap() }
	fi
}

/* mmap, when BUF is free; the new page is stored to at once. Else the kernel gives another address. */
inline sys_mmap(mine)
{
	atomic {
		!mm_lock ->
		if
		:: !mapped ->
			mapped = true;
			last_page++;
			page = last_page;
			mine = page
		:: else
		fi
	}
}

/* ------------------------------------------------------------------ the NIC */

byte pins;
byte nic_may_unmap = NIC_MAY_UNMAP;

/* A NIC's calls allocate and free as they like, and so unmap (hazard 25). */
inline nic_frees(thread)
{
#if NIC_MAY_UNMAP > 0
	if
	:: nic_may_unmap > 0 ->
		nic_may_unmap--;
		sys_munmap(thread, OTHER)
	:: true
	fi
#else
	skip
#endif
}

/* The proxy's secure(). Where nothing is mapped: -EFAULT, here told as unwatched. */
inline arm()
{
	d_step { !mm_lock -> armed = mapped; unwatched = !mapped }
}

/* Pin: faults the page in. pinned = 0 when nothing is mapped (-EFAULT). */
inline pin(pinned)
{
	if
	:: mapped && page == 0 ->
		last_page++;
		page = last_page
	:: else
	fi;
	pinned = page;
	pins = pins + (page != 0)
}

/* ------------------------------------------------------------------ the cache */

#define FREE    0
#define PENDING 1 /* a placeholder: its getter arms and pins */
#define DOOMED  2 /* a placeholder, and a change was told meanwhile */
#define LIVE    3
#define DEAD    4

bool index_lock;
byte index = NONE;       /* the LIVE entry at BUF */
byte state[ENTRIES];     /* with holders: an exact counter here; hold.pml shows why it may be one */
byte holders[ENTRIES];
byte reg_page[ENTRIES];  /* what the NIC has; 0: nothing */
bool queued[ENTRIES];    /* handed to the reaper */
bool reaping;

byte word;               /* the switch's: odd while changes are being told */
byte clock = 1;          /* counts REMOVE events */
byte quarantine;         /* BUF is in quarantine from this time on; 0: it isn't */
byte seen[3];            /* the time that each thread saw at its last call into the library */

byte done;               /* threads of the program that have ended */
bool stop;

#define IS_PENDING(e) (state[e] == PENDING)
#define some_pending  (IS_PENDING(0) || IS_PENDING(1) || IS_PENDING(2) || IS_PENDING(3))

/*
 * Was every thread outside of madvise at this time or later? Only a REMOVER can be inside. Instead of
 * that, /proc may show that it isn't, at this moment (in_madvise).
 */
#define was_seen(thread, role, time) (role != REMOVER || seen[thread] >= time)
#define all_seen(time) \
	(was_seen(0, ROLE0, time) && was_seen(1, ROLE1, time) && was_seen(2, ROLE2, time))

/* LIVE to DEAD, one step (hold.pml takes it apart). Without a holder it goes to the reaper now, else with the last put. */
inline kill(entry)
{
	state[entry] = DEAD;
	queued[entry] = (holders[entry] == 0)
}

/* The first entry that is in this state. */
inline first(which, entry)
{
	entry = 0;
	do
	:: entry < ENTRIES && state[entry] != which -> entry++
	:: else -> break
	od;
	assert(entry < ENTRIES) /* there are enough: else the model would be cut short */
}

/* The index lock, taken by a thread of the program: a signal may come just then (hazard 28). */
inline lock_index(thread)
{
	atomic { !index_lock -> index_lock = true }
#ifdef HANDLER_UNMAPS
	if
	:: thread == 0 && !signalled ->
		signalled = true;
		sys_munmap(thread, BUF);
		sys_munmap(thread, OTHER)
	:: true
	fi
#endif
}

/* With a handler inside it, a section under the index lock is more than one step. */
#ifdef HANDLER_UNMAPS
#define SECTION
#else
#define SECTION atomic
#endif

/*
 * Quiet: nothing is changing, and all that has changed was told. First the ioctl, then the word. When
 * it isn't, try again or give up and go to `otherwise`.
 */
#define IOCTL_IS_QUIET(otherwise) \
	if \
	:: changing == 0 \
	:: changing != 0 -> goto otherwise \
	fi
#define WORD_IS_EVEN(again, otherwise) \
	if \
	:: word % 2 == 0 \
	:: word % 2 == 1 -> goto again \
	:: word % 2 == 1 -> goto otherwise \
	fi

/* I1: what a get returns is no older than what it may return. I2: the NIC has what is held. */
#define I1_NOT_STALE(registered) assert(registered >= need)
#define I2_IN_THE_NIC(entry)     assert(reg_page[entry] != 0)
#define I2_NOT_HELD(entry)       assert(holders[entry] == 0)

/* ------------------------------------------------------------------ a thread of the program */

proctype program_thread(byte me; byte role; byte rounds)
{
	byte need;         /* the oldest page that this get may return (I1) */
	byte entry = NONE;
	byte pinned;       /* a registration that is not in the cache */
	byte after;
	byte stamp;
	bool unwatched;
	bool waited;       /* for another's placeholder: not a second time */
#ifdef HANDLER_UNMAPS
	bool signalled;
#endif

	do
	:: rounds == 0 -> break
	:: else ->
		rounds--;
		if
		:: role == GETTER
		:: role == UNMAPPER -> sys_munmap(me, BUF)
		:: role == MAPPER -> sys_mmap(need)
		:: role == REMOVER -> sys_madvise(me)
		:: role == LEAVER ->
			sys_munmap(me, BUF);
			goto next
		fi;

		/* hf_get. It answers for all changes whose calls have returned, and for this thread's mmap. */
		d_step {
#ifdef FAST
			need = 0; /* what mode=fast gives up: the mmap's address may come too early */
#endif
			need = (need > oldest -> need : oldest);
			seen[me] = (role == REMOVER -> clock : 0)
		}
again:
#if defined(NO_CHECK) || defined(FAST)
		WORD_IS_EVEN(again, use_once);
#elif defined(WORD_FIRST)
		WORD_IS_EVEN(again, use_once);
		IOCTL_IS_QUIET(use_once);
#else
		IOCTL_IS_QUIET(use_once);
		WORD_IS_EVEN(again, use_once);
#endif
		entry = index;
		atomic {
			if
			:: entry != NONE && state[entry] == LIVE ->
				holders[entry]++;
				I1_NOT_STALE(reg_page[entry]);
#ifdef PROBE
				if
				:: word > 0 -> PASSES(EXACT_HIT)
				:: else
				fi;
#endif
				goto put
			:: else -> entry = NONE
			fi
		}

		/* A miss: an entry, a placeholder of another's, or a placeholder of its own. */
#ifdef PIN_FIRST
		atomic { !mm_lock -> pin(pinned) }
#endif
		SECTION {
			lock_index(me);
			if
			:: index != NONE ->
				d_step {
					entry = index;
					holders[entry]++;
					pins = pins - (pinned != 0);
					pinned = 0;
					I1_NOT_STALE(reg_page[entry]);
					index_lock = false
				}
				goto put
			:: index == NONE && some_pending && !waited ->
				d_step {
					first(PENDING, entry);
					pins = pins - (pinned != 0);
					pinned = 0;
					index_lock = false
				}
				goto wait_for_other
			:: index == NONE && !(some_pending && !waited) ->
				d_step {
					first(FREE, entry);
					state[entry] = PENDING;
					index_lock = false
				}
			fi
		}

		/* I3: arm, then look for a change that was told and isn't over, then pin. */
#ifndef ARM_LATE
		arm();
#endif
#ifndef NO_QUARANTINE
		stamp = quarantine;
		if
		:: stamp == 0
		:: stamp != 0 && (all_seen(stamp) || !in_madvise) -> /* proved: it is over */
			d_step {
				quarantine = (quarantine == stamp -> 0 : quarantine);
				unwatched = unwatched || (quarantine != 0)
			}
		:: stamp != 0 && !all_seen(stamp) -> /* not proved; /proc may tell nothing */
			unwatched = true
		fi;
		stamp = 0;
#endif
#ifndef PIN_FIRST
		nic_frees(me);
		d_step { !mm_lock -> pin(pinned) }
#endif
#ifdef ARM_LATE
		arm();
#endif
		if
		:: pinned && !unwatched
		:: else -> goto not_cached
		fi;
#ifndef NO_WAIT
verify:
#ifndef FAST
		IOCTL_IS_QUIET(not_cached);
#endif
		WORD_IS_EVEN(verify, not_cached);
#endif
		SECTION {
			lock_index(me);
			if
			:: state[entry] == DOOMED ->
				PASSES(PLACEHOLDER_DEAD);
				d_step { state[entry] = FREE; entry = NONE; index_lock = false }
				goto start_over
			:: else ->
#ifdef PROBE
				if
				:: clock > 1 -> PASSES(QUARANTINE_OVER)
				:: else
				fi;
#endif
				d_step {
					if
					:: index != NONE -> kill(index) /* superseded */
					:: else
					fi;
					index = entry;
					reg_page[entry] = pinned;
					pinned = 0;
					state[entry] = LIVE;
					holders[entry] = 1;
					I1_NOT_STALE(reg_page[entry]);
					index_lock = false
				}
				goto put
			fi
		}

wait_for_other:
		atomic {
			state[entry] != PENDING && state[entry] != DOOMED ->
				waited = true;
				entry = NONE
		}
		PASSES(WAITED_FOR_OTHER);
		goto again;

start_over:
		nic_frees(me);
		d_step { pins--; pinned = 0 }
		goto again;

not_cached:
#ifdef PROBE
		if
		:: pinned && unwatched && quarantine -> PASSES(QUARANTINED)
		:: else
		fi;
#endif
		SECTION {
			lock_index(me);
			d_step { state[entry] = FREE; entry = NONE; unwatched = false; index_lock = false }
		}
		goto have_once;

use_once:
		PASSES(UNCACHED);
		nic_frees(me);
		d_step { !mm_lock -> pin(pinned) }
have_once:
		if
		:: pinned ->
			I1_NOT_STALE(pinned);
			nic_frees(me);
			d_step { pins--; pinned = 0 }
		:: else /* -EFAULT */
		fi;
		goto next;

put:		/* Until here it is held. */
		atomic {
			I2_IN_THE_NIC(entry);
			holders[entry]--;
			if
			:: state[entry] == DEAD && holders[entry] == 0 ->
				PASSES(PUT_HANDS_OVER);
#ifndef LOST_PUT
				queued[entry] = true
#endif
			:: else
			fi;
			entry = NONE
		}
next:
		atomic { need = 0; waited = false }
	od;
	done++
}

/* ------------------------------------------------------------------ the library's threads */

/* A message is read: its thread wakes. Several may be read before the first of them is taken. */
inline read_event(thread)
{
	event[thread] != 0 ->
		read_ranges = read_ranges | (event[thread] & (BUF | OTHER));
		removed = removed || (event[thread] & 4);
		event[thread] = 0
}

/* A thread that sees this time was in the library after the message was read, and so after its madvise. */
inline put_in_quarantine()
{
	if
	:: removed ->
#ifndef TICK_EARLY
		clock++;
#endif
		quarantine = clock;
		removed = false
	:: else
	fi
}

/* Everything at BUF goes: what is cached, and what is on its way there. The index is locked. */
inline mark()
{
	if
	:: told_ranges & BUF ->
#ifndef NO_PLACEHOLDER
		state[0] = (state[0] == PENDING -> DOOMED : state[0]);
		state[1] = (state[1] == PENDING -> DOOMED : state[1]);
		state[2] = (state[2] == PENDING -> DOOMED : state[2]);
		state[3] = (state[3] == PENDING -> DOOMED : state[3]);
#endif
		if
		:: index != NONE ->
			kill(index);
			index = NONE;
#ifdef EVENT_DEREG
			sys_munmap(EVENT_THREAD, OTHER)
#endif
		:: else
		fi
	:: else
	fi;
	told_ranges = 0
}

proctype event_thread()
{
	byte read_ranges; /* read, not looked at */
	byte told_ranges; /* to be marked */
	bool removed;     /* read_ranges came with a REMOVE */
#ifdef EVENT_DEREG
	byte after;
#endif

	do
	:: events ->
#ifdef TICK_EARLY
		clock++;
#endif
#ifndef NO_ODD
		word++;
#endif
		do
		:: atomic {
			if
			:: read_event(0)
			:: read_event(1)
			:: read_event(2)
			:: read_event(3)
			:: read_event(4)
			fi;
#ifdef PROBE
			if
			:: index_lock -> PASSES(INDEX_BUSY)
			:: else
			fi
#endif
		   }
		:: read_ranges ->
#ifdef NO_ODD
			word = word + (word % 2 == 0);
#endif
#ifndef QUARANTINE_LATE
			put_in_quarantine();
#endif
			d_step { told_ranges = told_ranges | read_ranges; read_ranges = 0 }
#ifdef BLOCKING_LOCK
			atomic { !index_lock -> mark() }
#endif
		:: atomic { told_ranges && !index_lock -> mark() } /* trylock; else it reads on */
#ifdef QUARANTINE_LATE
			put_in_quarantine();
#endif
		:: !events && !read_ranges && !told_ranges -> break
		od;
		word++
	:: stop -> break
	od
}

/* REAP_HELD takes what is dead, whether anybody holds it or not. */
#ifdef REAP_HELD
#define READY(e) (state[e] == DEAD)
#else
#define READY(e) (queued[e])
#endif

proctype reaper()
{
	byte e;
#if NIC_MAY_UNMAP > 0
	byte after;
#endif

	do
	:: atomic {
		if
		:: READY(0) -> e = 0
		:: READY(1) -> e = 1
		:: READY(2) -> e = 2
		:: READY(3) -> e = 3
		fi;
		queued[e] = false;
		reaping = true
	   }
	   nic_frees(REAPER);
#ifdef PROBE
	   if
	   :: nic_may_unmap < NIC_MAY_UNMAP -> PASSES(NIC_UNMAPPED)
	   :: else
	   fi;
#endif
	   d_step {
		I2_NOT_HELD(e);
		pins--;
		reg_page[e] = 0;
		state[e] = FREE;
		reaping = false;
		e = 0
	   }
	:: stop -> break
	od
}

#ifdef EVICTOR
/* The idle go first: from LIVE without a holder to DEAD in one step (hold.pml takes it apart). */
proctype evictor()
{
	atomic {
		!index_lock ->
		if
		:: index != NONE && holders[index] == 0 ->
			PASSES(EVICTED);
			kill(index);
			index = NONE
		:: else
		fi;
		done++
	}
}
#define EVICTORS 1
#else
#define EVICTORS 0
#endif

/* ------------------------------------------------------------------ from open to close */

#define PROGRAM_THREADS (2 + (ROLE2 != NOBODY))

init {
	atomic {
		if /* cold, or cached already */
		:: true
		:: armed = true;
			pins = 1;
			index = 0;
			state[0] = LIVE;
			reg_page[0] = page
		fi;
		run event_thread();
		run reaper();
		run program_thread(0, ROLE0, ROUNDS0);
		run program_thread(1, ROLE1, ROUNDS1);
#ifdef EVICTOR
		run evictor();
#endif
		if
		:: ROLE2 != NOBODY -> run program_thread(2, ROLE2, ROUNDS2)
		:: else
		fi
	}

	/* hf_provider_close: no holder is left. Everything goes through the reaper. */
	atomic {
		done == PROGRAM_THREADS + EVICTORS && !index_lock ->
		if
		:: index != NONE ->
			I2_NOT_HELD(index);
			kill(index);
			index = NONE
		:: else
		fi
	}
	!reaping && !queued[0] && !queued[1] && !queued[2] && !queued[3];
	assert(pins == 0); /* nothing stays pinned */
	stop = true
}
/* No state is marked as a valid end: all threads end, or it is a deadlock (I4). */
