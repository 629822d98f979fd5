/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol of the proxy `supervise`, for Spin: a call that changes mappings waits in the kernel (seccomp user
 * notification) until a helper process, the worker, has looked into memory that it shares with the program, and perhaps
 * asked the program's telling thread. run.sh checks S1 to S5 (README.md), and that each rule is needed.
 *
 * The race it is all about. "Go on" says that the call may have its effect; it has it any time later:
 *
 *   thread R                  worker, telling thread       thread G
 *   ----------------------    -------------------------    ------------------------------------
 *   shmat(SHM_REMAP), waits
 *                             told; "go on"
 *   (delayed)
 *                                                          hf_get, a miss: pins the old page
 *                                                          publishes
 *   the page is replaced                                   >>> stale from here on <<<
 *
 * What uffd sees (REPLACE below) it tells again afterwards: uffd.pml. What it doesn't see (REMAP) is told in any case,
 * secured or not, and is in quarantine first: it isn't cached until R was seen outside of its call.
 *
 * Denying has no quarantine. So who denies and who lets through look at each other, and each writes before it looks:
 *
 *   hf_secure(DENY)                           worker
 *   -------------------------------------     -------------------------------------
 *   the range is denied                       the call is noted
 *   look at the notes: anything of this       look whether it is denied
 *   range that isn't over? wait
 *
 * Looked at first and noted then (LOOK_FIRST), both see nothing, and what is denied is freed (S3).
 *
 * The worker may be killed between any two steps; another one goes on with what it finds in the slots, and may do
 * again what was done. The kernel ignores the second answer to a call. What else was done for the first one must stand:
 *
 *   worker                        another one                         hf_secure(DENY)           thread T
 *   --------------------------    --------------------------------    ----------------------    ----------
 *   notes T's munmap; "go on";
 *   is killed
 *                                                                     denied
 *                                 the slot: denied; refuses, which
 *                                 is ignored; takes the note back
 *                                                                     no note: 0
 *                                                                                               >>> freed <<<
 *
 * (CLEAR_REFUSED). And a slot that was given to the telling thread is the telling thread's (ASK_AGAIN).
 *
 * What is abstracted: one buffer of one page. Memory is sequentially consistent. uffd's second telling is one flag, raised
 * by the effect, lowered when told: uffd.pml takes it apart.
 */

/* What a thread of the program does, ROUNDS times. */
#define GETTER   1 /* hf_get */
#define REPLACER 2 /* a call that uffd sees, as mmap(MAP_FIXED), and hf_get */
#define REMAPPER 3 /* a call that uffd doesn't see, as shmat(SHM_REMAP), and hf_get */
#define FREER    4 /* munmap */
#define FINDER   5 /* shmdt: only the telling thread finds out what it frees */
#define STRANGER 6 /* munmap, in a process of its own that has inherited the filter */
#define DENIER   7 /* hf_secure(DENY), hf_unsecure */
#define EXECER   8 /* as DENIER, but executes another program, which calls munmap */
#define OPENER   9 /* opens the switch, and hf_get */

#if defined(REPLACE)
#define ROLE0 REPLACER
#define ROLE1 GETTER
#define ROUNDS1 2
#define UFFD
#elif defined(REMAP)
#define ROLE0 REMAPPER
#define ROLE1 GETTER
#define ROUNDS1 2
#elif defined(REMAP_TWICE) /* and a signal may interrupt a call that waits: it is made again */
#define ROLE0 REMAPPER
#define ROUNDS0 2
#define INTERRUPTS 1
#define KILLS 0
#define ROLE1 GETTER
#elif defined(OPEN)
#define ROLE0 REMAPPER
#define ROUNDS0 2
#define KILLS 0
#define ROLE1 OPENER
#elif defined(DENY)
#define ROLE0 FREER
#define ROUNDS0 2
#define KILLS 2
#define ROLE1 DENIER
#define ROUNDS1 2
#elif defined(FIND)
#define ROLE0 FINDER
#define ROUNDS0 2
#define KILLS 2
#define ROLE1 DENIER
#define ROUNDS1 2
#elif defined(SIGNAL) /* thread 0 is interrupted while it has the index lock, and its handler calls (hazard 28) */
#define ROLE0 GETTER
#define ROUNDS0 2
#define HANDLER_CALLS
#define KILLS 0
#define ROLE1 REMAPPER
#elif defined(CALLBACK) /* the telling thread's callback calls, too */
#define ROLE0 REMAPPER
#define CALLBACK_CALLS
#define UFFD
#define ROLE1 GETTER
#elif defined(FOREIGN)
#define ROLE0 DENIER
#define ROUNDS0 2
#define ROLE1 STRANGER
#define ROUNDS1 2
#elif defined(EXEC) /* thread 1 shares the memory, but isn't in the thread group: it lives on */
#define ROLE0 EXECER
#define ROLE1 FINDER
#define ROUNDS1 2
#else
#error "name a configuration: -DREPLACE, -DREMAP, ... (see run.sh)"
#endif

#ifndef ROUNDS0
#define ROUNDS0 1
#endif
#ifndef ROUNDS1
#define ROUNDS1 1
#endif
#ifndef INTERRUPTS
#define INTERRUPTS 0
#endif
#ifndef KILLS
#define KILLS 1 /* so often the helper is killed */
#endif

#define TELLER  2 /* after the program's threads 0 and 1 */
#define CALLERS 3
#define SLOTS   2

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define ANSWERED_ODD   1 /* the index was busy: told later, answered now */
#define ANSWER_IGNORED 2 /* the second answer to one call */
#define QUARANTINED    3 /* a getter kept out of the cache by the quarantine */
#define LIFTED         4 /* published after a quarantine */
#define WAITED_FOR     5 /* denied, after a wait for what was let through */
#define REFUSED_ONCE   6
#define REFUSED_BY     7 /* ... by the telling thread */
#define ORPHAN         8 /* asked, and the owner is gone */
#define BOTH_SLOTS     9 /* an interrupted call is still asked, and the same thread's next one has come */
#define FULL           10 /* all slots wait for the telling thread */

/* An entry that there was when the call came is dead when it has its effect, or can't be hit. */
#define S1_NOT_STALE(page) assert(page >= need)
#define S2_TOLD_BEFORE(t)  assert(at_trap[t] == 0 || life != at_trap[t] || !live || word % 2)
#define S3_NOT_FREED       assert(!promised)
#define S3_STILL_THERE     assert(mapped)
#define S5_OWNERS          assert(truly)

/* ------------------------------------------------------------------ the kernel */

bool mapped = true;
byte page = 1;      /* the physical page of the buffer */
byte last_page = 1; /* physical pages are numbered as they are given out */
byte oldest = 1;    /* for the claims: a lower number went away in a call that has returned */

/* A call: from QUEUED until it returns the thread is in it, as /proc shows. */
#define OUTSIDE  0
#define QUEUED   1
#define RECEIVED 2
#define GO_ON    3
#define REFUSED  4
byte call[CALLERS];
byte number[CALLERS];  /* of the thread's call: an answer must have it */
byte kind[CALLERS];    /* a role */
byte at_trap[CALLERS]; /* for S2: the life of the cache's entry at that time; 0: there was none */
bool owners[CALLERS] = true; /* made in the memory of the switch's owner, who is there: the exact truth */
byte interrupts = INTERRUPTS;

#define FREES(k)  (k == FREER || k == FINDER || k == STRANGER || k == EXECER)
#define SILENT(k) (k == REMAPPER)

/* ------------------------------------------------------------------ shared with the worker */

#define IDLE     0
#define TAKEN    1 /* the kernel has written the notification here; the worker decides */
#define ASKED    2 /* the telling thread's */
#define ANSWERED 3 /* the worker's: send, then idle */
byte slot[SLOTS];
byte who[SLOTS], its_number[SLOTS], its_kind[SLOTS];
bool refused[SLOTS];  /* the telling thread's answer */
bool asked[SLOTS];    /* the bell */
byte secured;         /* the counting filter */
bool denied;          /* the exact table */
bool opened;          /* somebody watches */
bool noted[CALLERS];  /* the thread's last call that was let through, or is going to be */
byte note[CALLERS];   /* its number */

/* ------------------------------------------------------------------ the program's memory */

bool index_lock;
bool live;               /* the cache's entry, and of which page it is, and its number */
byte reg_page, life;
bool pending, doomed;    /* the placeholder of a miss */
byte word;               /* the switch's: odd while changes are being told */
bool untold_by_uffd;     /* uffd's count and word */
bool kept;               /* told later: the index was busy */
byte clock = 1;
byte quarantine;         /* in quarantine from this time on; 0: it isn't */
byte seen[CALLERS];      /* the time that each thread saw at its last call into the library */
bool promised;           /* hf_secure(DENY) has said so */
bool gone;               /* the owner has executed another program */
byte done;
bool told_all;           /* the telling thread has ended */
#define stop (done == 2)

/* Everything goes: what is cached, and what is on its way there. The index isn't locked. */
inline drop()
{
	secured = secured - live;
	live = false;
	reg_page = 0;
	doomed = pending
}

/* ------------------------------------------------------------------ a call */

inline effect(t)
{
	if
	:: FREES(kind[t]) && owners[t] ->
		S3_NOT_FREED;
		mapped = false
	:: FREES(kind[t]) && !owners[t]
	:: !FREES(kind[t]) ->
		S2_TOLD_BEFORE(t);
		last_page++;
		page = last_page;
#ifndef NO_SECOND_TELLING
		untold_by_uffd = untold_by_uffd || !SILENT(kind[t]);
#endif
		after = page
	fi
}

inline trap(t, what)
{
	atomic {
		number[t]++;
		kind[t] = what;
		at_trap[t] = (live -> life : 0);
		call[t] = QUEUED
	}
}

/* The caller has the variable `after`. */
inline mm_call(t, what)
{
	trap(t, what);
	do
	:: call[t] == GO_ON ->
		d_step { effect(t) }
		d_step {
			oldest = (after > oldest -> after : oldest);
			after = 0;
			at_trap[t] = 0;
			call[t] = OUTSIDE
		}
		break
	:: d_step {
		call[t] == REFUSED ->
			PASSES(REFUSED_ONCE);
			at_trap[t] = 0;
			call[t] = OUTSIDE
	   }
		break
	:: d_step { /* a signal: what waits is made again, as another call */
		interrupts > 0 && (call[t] == QUEUED || call[t] == RECEIVED) ->
			interrupts--;
			number[t]++;
			call[t] = QUEUED
	   }
	od
}

/* ------------------------------------------------------------------ the program */

inline lock_index(t)
{
	atomic { !index_lock -> index_lock = true }
#ifdef HANDLER_CALLS
	if
	:: t == 0 && !signalled ->
		signalled = true;
		mm_call(t, REMAPPER)
	:: true
	fi
#endif
}

/* Is what thread t was let through over? A look at /proc. */
#define IS_OVER(t) (call[t] == OUTSIDE)
/* ... or it was in the library since. */
#define WAS_SEEN(t, time) (seen[t] >= time || IS_OVER(t))

/* hf_get and hf_put at once: who holds is in the other models. */
inline get(t)
{
	d_step { need = oldest; seen[t] = clock }
	if /* it was for another switch */
	:: !opened -> goto next
	:: else
	fi;
	if
	:: untold_by_uffd -> goto next
	:: else
	fi;
	if
	:: word % 2 -> goto next
	:: else
	fi;
	atomic {
		if
		:: live ->
			S1_NOT_STALE(reg_page);
			goto next
		:: else
		fi
	}
	/* A miss. Who meets another's placeholder, or can't cache, registers for this one use, which is never stale. */
	lock_index(t);
	atomic {
		busy = live || pending;
		pending = pending || !live;
		index_lock = false
	}
	if
	:: busy -> goto next
	:: else
	fi;
	secured++;
#ifndef NO_QUARANTINE
	stamp = quarantine;
	if
	:: stamp == 0
	:: stamp != 0 ->
		if
		:: WAS_SEEN(1 - t, stamp) ->
			d_step {
				quarantine = (quarantine == stamp -> 0 : quarantine);
				unwatched = unwatched || quarantine != 0
			}
		:: !WAS_SEEN(1 - t, stamp) -> PASSES(QUARANTINED); unwatched = true
		fi
	fi;
	stamp = 0;
#endif
	pinned = page;
	lock_index(t);
	atomic {
		if
		:: !doomed && !unwatched ->
#ifdef PROBE
			if
			:: clock > 1 -> PASSES(LIFTED)
			:: else
			fi;
#endif
			live = true;
			life++;
			reg_page = pinned;
			S1_NOT_STALE(reg_page)
		:: else -> secured--
		fi;
		pending = false;
		doomed = false;
		unwatched = false;
		pinned = 0;
		index_lock = false
	}
}

/* 0: promised. It may give up at any time: -EAGAIN. */
inline secure_deny(t)
{
#ifdef CHECK_FIRST
	busy = mapped;
#endif
	denied = true;
#ifndef NO_NOTES
	if
	:: !noted[1 - t]
	:: noted[1 - t] -> /* wait, or give up */
		if
		:: IS_OVER(1 - t) -> PASSES(WAITED_FOR)
		:: goto gave_up
		fi
	fi;
#endif
#ifndef CHECK_FIRST
	busy = mapped;
#endif
	if
	:: busy -> d_step { promised = true; S3_STILL_THERE }
	:: else
	fi
}

/* All is in quarantine: what was let through untold may be under way. */
inline open()
{
#ifdef QUARANTINE_FIRST
	d_step { clock++; quarantine = clock }
	opened = true
#else
	opened = true;
	d_step { clock++; quarantine = clock }
#endif
}

proctype program_thread(byte me; byte role; byte rounds)
{
	byte need;
	byte after;
	byte stamp;
	byte pinned;
	bool busy;
	bool unwatched;
#ifdef HANDLER_CALLS
	bool signalled;
#endif

	do
	:: rounds == 0 -> break
	:: else ->
		rounds--;
		if
		:: role == GETTER -> get(me)
		:: role == REPLACER -> mm_call(me, role); get(me)
		:: role == REMAPPER -> mm_call(me, role); get(me)
		:: role == FREER || role == FINDER || role == STRANGER -> mm_call(me, role)
		:: role == OPENER -> open(); get(me)
		:: role == DENIER || role == EXECER -> secure_deny(me)
		fi;
gave_up:
		if
		:: role == EXECER ->
			d_step { /* the telling thread ends, and with it all promises; the shared memory stays as it is */
				gone = true;
				promised = false;
				owners[0] = false;
				owners[1] = false;
			}
			mm_call(me, role)
		:: else
		fi;
		if
		:: role == DENIER ->
			promised = false;
			denied = false
		:: else
		fi;
next:
		atomic { need = 0; busy = false }
	od;
	done++
}

/* ------------------------------------------------------------------ the telling thread */

inline answer_worker(i)
{
	slot[i] = ANSWERED
}

inline put_in_quarantine(i)
{
	if
	:: SILENT(its_kind[i]) ->
		clock++;
		quarantine = clock
	:: else
	fi
}

inline tell(i)
{
	asked[i] = false;
	if
	:: slot[i] == ASKED ->
#ifdef ANSWER_FIRST
		answer_worker(i);
#endif
		word = word + (word % 2 == 0);
		if
		:: FREES(its_kind[i]) && denied -> refused[i] = true; PASSES(REFUSED_BY)
		:: else ->
#ifndef QUARANTINE_LATE
			put_in_quarantine(i);
#endif
			if
			:: d_step { !index_lock -> drop(); kept = false }
#ifndef BLOCKING_LOCK
			:: index_lock -> kept = true; PASSES(ANSWERED_ODD) /* waited long enough */
#endif
			fi;
#ifdef CALLBACK_CALLS
			if
			:: !called_back -> called_back = true; mm_call(TELLER, REPLACER)
			:: true
			fi;
#endif
#ifdef QUARANTINE_LATE
			put_in_quarantine(i);
#endif
		fi;
		if
#ifndef EVEN_TOO_EARLY
		:: kept
		:: !kept -> word++
#else
		:: true -> word++
#endif
		fi;
#ifndef ANSWER_FIRST
		answer_worker(i)
#endif
	:: else
	fi
}

proctype teller()
{
	byte after;
	bool called_back;

	do
	:: asked[0] && !gone -> tell(0)
	:: asked[1] && !gone -> tell(1)
	:: d_step { kept && !index_lock -> drop(); kept = false; word = word + word % 2 }
	:: stop || gone -> told_all = true; break
	od
}

/* uffd tells in the same call, after the effect: see uffd.pml. */
proctype uffd()
{
	do
	:: d_step { untold_by_uffd && !index_lock -> drop(); untold_by_uffd = false }
	:: stop && told_all -> break
	od
}

/* ------------------------------------------------------------------ the worker */

#define MAY_BE_KILLED \
	if \
	:: kills > 0 -> kills--; goto started \
	:: true \
	fi

#define FREE_SLOT (slot[0] == IDLE -> 0 : 1)
/* SECCOMP_IOCTL_NOTIF_RECV, with the slot for the kernel to write to. */
inline receive(t, i)
{
	d_step {
		slot[0] != TAKEN && slot[1] != TAKEN && i == FREE_SLOT && slot[i] == IDLE && call[t] == QUEUED ->
			call[t] = RECEIVED;
			slot[i] = TAKEN;
			who[i] = t;
			its_number[i] = number[t];
			its_kind[i] = kind[t];
#ifdef PROBE
			if
			:: slot[1 - i] == ASKED && who[1 - i] == t -> PASSES(BOTH_SLOTS)
			:: else
			fi
#endif
	}
}

/* SECCOMP_IOCTL_NOTIF_SEND: ignored if this call isn't there any more. */
inline send(i, verdict)
{
	d_step {
		if
		:: call[who[i]] == RECEIVED && number[who[i]] == its_number[i] ->
			call[who[i]] = verdict;
			sent = true
		:: else -> PASSES(ANSWER_IGNORED); sent = false
		fi
	}
	MAY_BE_KILLED
}

inline go_on(i)
{
#ifdef SLOT_FREED_FIRST
	slot[i] = IDLE;
	MAY_BE_KILLED;
#endif
	send(i, GO_ON);
#ifdef NOTE_LATE
	noted[who[i]] = true;
	note[who[i]] = its_number[i];
#endif
	slot[i] = IDLE
}

inline refuse(i)
{
	S5_OWNERS;
	send(i, REFUSED);
#ifdef CLEAR_REFUSED
	noted[who[i]] = false;
#else
	if /* else it may have been let through by the worker before */
	:: sent && note[who[i]] == its_number[i] -> noted[who[i]] = false
	:: else
	fi;
#endif
	slot[i] = IDLE
}

inline remind(i)
{
	asked[i] = true
}

inline ask(i)
{
	S5_OWNERS;
	refused[i] = false;
	slot[i] = ASKED;
	MAY_BE_KILLED;
	remind(i);
#ifdef PROBE
	if
	:: slot[0] == ASKED && slot[1] == ASKED -> PASSES(FULL)
	:: else
	fi;
#endif
#ifdef SYNC_WORKER
	slot[i] == ANSWERED
#endif
}

inline write_note(i)
{
	d_step { noted[who[i]] = true; note[who[i]] = its_number[i] }
	MAY_BE_KILLED
}

/* Is the caller's memory that of the owner, who is there? */
#if defined(NO_MM_CHECK)
#define SAME_MM(t) true
#elif defined(BY_PID)
#define SAME_MM(t) (kind[t] != STRANGER)
#else
#define SAME_MM(t) owners[t]
#endif

#ifdef ASK_IF_SECURED
#define MUST_ASK(k) (secured != 0)
#else
#define MUST_ASK(k) (secured != 0 || (opened && SILENT(k)))
#endif
#ifdef TELLER_ASKED
#define MAY_ASK(t) true
#else
#define MAY_ASK(t) (t != TELLER) /* it is telling, and uffd tells of its calls */
#endif

inline decide(i)
{
#ifdef HELPER_LOCKS
	!index_lock; /* a lock that a thread of the program may hold */
#endif
#if !defined(LOOK_FIRST) && !defined(NOTE_LATE)
	write_note(i);
#endif
	is_denied = denied && FREES(its_kind[i]);
	must_ask = MUST_ASK(its_kind[i]) || (is_denied && its_kind[i] == FINDER);
#ifdef LOOK_FIRST
	write_note(i);
#endif
	d_step { same = SAME_MM(who[i]); truly = owners[who[i]] }
	if
	:: !same || !(is_denied || must_ask) -> go_on(i)
	:: same && is_denied && its_kind[i] != FINDER -> refuse(i)
	:: same && !(is_denied && its_kind[i] != FINDER) && must_ask ->
		if
		:: MAY_ASK(who[i]) -> ask(i)
		:: !MAY_ASK(who[i]) -> go_on(i)
		fi
	fi;
	d_step { is_denied = false; must_ask = false; same = false; truly = false; sent = false }
}

inline finish(i)
{
	if
	:: refused[i] -> truly = true; refuse(i)
	:: !refused[i] -> go_on(i)
	fi;
	d_step { truly = false; sent = false }
}

/* What the worker before has left. TAKEN and ANSWERED are found below. */
inline take_over(i)
{
	if
	:: slot[i] == ASKED ->
#if defined(ASK_AGAIN)
		refused[i] = false;
		slot[i] = ASKED;
		asked[i] = true
#elif !defined(NO_REMIND)
		remind(i)
#endif
	:: else
	fi
}

proctype worker()
{
	byte kills = KILLS;
	bool is_denied, must_ask, sent;
	bool same, truly; /* when it looked; truly: for S5 */

started:
	atomic {
		is_denied = false;
		must_ask = false;
		sent = false;
		same = false;
		truly = false
#ifdef SLOT_LOST
		;
		slot[0] = IDLE;
		slot[1] = IDLE
#endif
	}
	take_over(0);
	take_over(1);
	do
	:: receive(0, 0); MAY_BE_KILLED
	:: receive(0, 1); MAY_BE_KILLED
	:: receive(1, 0); MAY_BE_KILLED
	:: receive(1, 1); MAY_BE_KILLED
#ifdef CALLBACK_CALLS
	:: receive(TELLER, 0); MAY_BE_KILLED
	:: receive(TELLER, 1); MAY_BE_KILLED
#endif
	:: slot[0] == TAKEN -> decide(0); MAY_BE_KILLED
	:: slot[1] == TAKEN -> decide(1); MAY_BE_KILLED
	:: slot[0] == ANSWERED -> finish(0); MAY_BE_KILLED
	:: slot[1] == ANSWERED -> finish(1); MAY_BE_KILLED
#ifdef FREED_WHEN_GONE /* the call was interrupted: why wait for the answer? */
	:: d_step { slot[0] == ASKED && number[who[0]] != its_number[0] -> slot[0] = IDLE }
	:: d_step { slot[1] == ASKED && number[who[1]] != its_number[1] -> slot[1] = IDLE }
#endif
#ifndef NO_OWNER_DEATH
	:: gone && told_all && slot[0] == ASKED -> PASSES(ORPHAN); go_on(0)
	:: gone && told_all && slot[1] == ASKED -> go_on(1)
#endif
	:: stop && told_all -> break
	od
}

init {
	atomic {
		if /* cold, or cached already */
#ifndef REMAP_TWICE
		:: true
#endif
#if !defined(DENY) && !defined(FIND) && !defined(FOREIGN) && !defined(OPEN)
		:: live = true;
			life = 1;
			reg_page = page;
			secured = 1
#endif
		fi;
		if
		:: ROLE1 == STRANGER -> owners[1] = false
		:: else
		fi;
		opened = (ROLE1 != OPENER);
		run worker();
		run teller();
#ifdef UFFD
		run uffd();
#endif
		run program_thread(0, ROLE0, ROUNDS0);
		run program_thread(1, ROLE1, ROUNDS1)
	}
}
/* No state is marked as a valid end: all end, or a call waits for ever (S4). */
