/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The protocol of the proxy `supervise`, for Spin: a call that changes mappings waits in the kernel (seccomp user
 * notification) until a helper process has looked into memory that it shares with the program, and perhaps asked
 * the program's telling thread. run.sh checks S1 to S5 (README.md), and that each rule is needed.
 *
 * The race it is all about. "Go on" says that the call may have its effect; it has it any time later:
 *
 *   thread R                  helper                       thread G
 *   ----------------------    -------------------------    ------------------------------------
 *   shmat(SHM_REMAP), waits
 *                             not secured: "go on"
 *   (delayed)
 *                                                          hf_get, a miss: secured from here on
 *                                                          pins the old page; publishes
 *   the page is replaced                                   >>> stale from here on, nobody tells <<<
 *
 * What the telling thread is told has the same gap behind its answer. What uffd sees is told again afterwards (REPLACE
 * below, and uffd.pml). What it doesn't see (REMAP) must not be cached meanwhile: the told range is in quarantine, and
 * what was let through untold stands in the thread's record. Securing and letting through look at each other, so each
 * writes before it looks, as two who meet in a door:
 *
 *   hf_get, hf_secure(DENY)                   helper
 *   -------------------------------------     -------------------------------------
 *   the range is secured, or denied           the call is in its thread's record
 *   look at the records: anything of this     look whether it is secured, or denied
 *   range that isn't over?
 *
 * Looked first and recorded then (LOOK_FIRST), both see nothing, and what is denied is freed (S3).
 *
 * The helper may be killed between any two steps; its guardian starts another one, which finds all that
 * counts in shared memory. The kernel writes a notification into the slot there. Who finds one in the slot
 * handles it, maybe for the second time. So an answer has the call's number, twice: the kernel ignores one to a call that
 * is over; and so must the helper the telling thread's (ANSWER_ANY):
 *
 *   thread R         helper, then another one               telling thread
 *   -------------    -----------------------------------    ----------------------------
 *   call 1           slot: 1; asks (1); is killed           tells 1, answers
 *                    slot: 1; "go on"; asks (1) again       begins to tell 1 again
 *   ends
 *   call 2           slot: 2; asks (2)
 *                    it is answered: "go on" 2              answers
 *   >>> its effect, and it was not told <<<
 *
 * What is abstracted: one buffer of one page. Memory is sequentially consistent. uffd's second telling is one flag, raised
 * by the effect, lowered when told: uffd.pml takes it apart. To be seen outside of a call is one look at /proc.
 */

#define NONE 9

/* What a thread of the program does, ROUNDS times. */
#define NOBODY   0
#define GETTER   1 /* hf_get */
#define REPLACER 2 /* a call that uffd sees, as mmap(MAP_FIXED), and hf_get */
#define REMAPPER 3 /* a call that uffd doesn't see, as shmat(SHM_REMAP), and hf_get */
#define FREER    4 /* munmap */
#define DENIER   5 /* hf_secure(DENY), hf_unsecure */
#define STRANGER 6 /* munmap, in a process of its own that has inherited the filter */
#define EXECER   7 /* as DENIER, but executes another program, which calls munmap */

#if defined(REPLACE)
#define ROLE0 REPLACER
#define ROLE1 GETTER
#define ROUNDS1 2
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
#elif defined(DENY)
#define ROLE0 FREER
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
#define ROLE1 GETTER
#define ROUNDS1 2
#elif defined(FOREIGN)
#define ROLE0 DENIER
#define ROUNDS0 2
#define ROLE1 STRANGER
#define ROUNDS1 2
#elif defined(EXEC) /* thread 1 shares the memory, but isn't in the thread group: it lives on */
#define ROLE0 EXECER
#define ROLE1 FREER
#define ROUNDS1 2
#define WATCHED
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

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define ANSWERED_ODD   1 /* the index was busy: told later, answered now */
#define ANSWER_IGNORED 2 /* the second answer to one call */
#define QUARANTINED    3 /* a getter kept out of the cache by the quarantine */
#define RECORDED       4 /* ... and by what was let through untold */
#define LIFTED         5 /* published after a quarantine */
#define WAITED_FOR     6 /* denied, after a wait for what was let through */
#define REFUSED_ONCE   7
#define ORPHAN         8 /* asked, and the owner is gone */
#define OWN_CALL       9 /* the telling thread's own call found the range secured */

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

#define OF_UFFD(k)    (k == REPLACER)
#define UNSEEN(k)     (k == REMAPPER)
#define FREES(k)      (k == FREER || k == STRANGER || k == EXECER)

/* ------------------------------------------------------------------ shared with the helper */

byte slot = NONE, slot_number; /* the notification that the kernel has written, till it is dealt with */
byte secured;                  /* the counting filter */
bool denied;                   /* the exact table */
#define NOTHING 0
#define TOLD    1
#define UNTOLD  2
byte record[CALLERS];          /* the thread's last call that was let through, or is going to be */
byte recorded[CALLERS];        /* its number */
#define ASKED    1
#define ANSWERED 2
byte ask[CALLERS], ask_number[CALLERS], ask_kind[CALLERS];

/* ------------------------------------------------------------------ the program's memory */

bool index_lock;
bool live;               /* the cache's entry, and of which page it is, and its number */
byte reg_page, life;
bool pending, doomed;    /* the placeholder of a miss */
byte word;               /* the switch's: odd while changes are being told */
bool untold_by_uffd;     /* uffd's count and word */
bool kept;               /* told later: the index was busy */
bool own_call;           /* made by the telling thread to what is secured */
byte clock = 1;
byte quarantine;         /* in quarantine from this time on; 0: it isn't */
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
		untold_by_uffd = untold_by_uffd || OF_UFFD(kind[t]);
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

/* Is what thread t was let through over? A look at /proc, which may tell nothing. */
#define IS_OVER(t) (call[t] == OUTSIDE)

/* What is told is in quarantine: so only what wasn't counts. ALL_RECORDS does without a quarantine. */
#ifdef ALL_RECORDS
#define UNSAFE(t) (record[t] != NOTHING)
#else
#define UNSAFE(t) (record[t] == UNTOLD)
#endif

/* hf_get and hf_put at once: who holds is in the other models. */
inline get(t)
{
	need = oldest;
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
		pending = true;
		index_lock = false
	}
	if
	:: busy -> goto next
	:: else
	fi;
	secured++;
#ifndef ARM_BLIND
	if /* what was let through before that, untold, and may not be over */
	:: !UNSAFE(1 - t)
	:: UNSAFE(1 - t) && IS_OVER(1 - t)
	:: UNSAFE(1 - t) && !IS_OVER(1 - t) -> PASSES(RECORDED); unwatched = true
	fi;
#ifdef CALLBACK_CALLS
	if
	:: !UNSAFE(TELLER)
	:: UNSAFE(TELLER) && IS_OVER(TELLER)
	:: UNSAFE(TELLER) && !IS_OVER(TELLER) -> unwatched = true
	fi;
#endif
#endif
#if !defined(NO_QUARANTINE) && !defined(ALL_RECORDS)
	stamp = quarantine;
	if
	:: stamp == 0
	:: stamp != 0 ->
		if
		:: IS_OVER(1 - t) ->
			d_step {
				quarantine = (quarantine == stamp -> 0 : quarantine);
				unwatched = unwatched || quarantine != 0
			}
		:: !IS_OVER(1 - t) -> PASSES(QUARANTINED); unwatched = true
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
#ifndef NO_RECORDS
	if
	:: record[1 - t] == NOTHING
	:: record[1 - t] != NOTHING -> /* wait, or give up */
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
		:: role == FREER -> mm_call(me, role)
		:: role == STRANGER -> mm_call(me, role)
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

inline answer_worker(t)
{
	d_step {
#ifndef ANSWER_ANY
		if
		:: ask[t] == ASKED && ask_number[t] == asked_number -> ask[t] = ANSWERED
		:: else
		fi;
#else
		ask[t] = ANSWERED;
#endif
		asked_number = 0
	}
}

inline put_in_quarantine(t)
{
	if
	:: UNSEEN(asked_kind) ->
		clock++;
		quarantine = clock
	:: else
	fi
}

inline tell(t)
{
	d_step { asked_number = ask_number[t]; asked_kind = ask_kind[t] }
#ifdef ANSWER_FIRST
	answer_worker(t);
#endif
	word = word + (word % 2 == 0);
#ifndef QUARANTINE_LATE
	put_in_quarantine(t);
#endif
	if
	:: d_step { !index_lock -> drop(); kept = false }
#ifndef BLOCKING_LOCK
	:: index_lock -> kept = true; PASSES(ANSWERED_ODD) /* waited long enough */
#endif
	fi;
#ifdef CALLBACK_CALLS
	if
	:: !called_back ->
		called_back = true;
		mm_call(TELLER, REMAPPER);
		atomic { kept = kept || own_call; own_call = false }
	:: true
	fi;
#endif
#ifdef QUARANTINE_LATE
	put_in_quarantine(t);
#endif
	if
#ifndef EVEN_TOO_EARLY
	:: kept
	:: !kept -> word++
#else
	:: true -> word++
#endif
	fi;
#ifndef ANSWER_FIRST
	answer_worker(t)
#endif
}

proctype teller()
{
	byte asked_number, asked_kind;
	byte after;
	bool called_back;

	do
	:: ask[0] == ASKED -> tell(0)
	:: ask[1] == ASKED -> tell(1)
	:: ask[TELLER] == ASKED -> tell(TELLER)
	:: d_step { kept && !index_lock -> drop(); kept = false; word = word + word % 2 }
	:: stop || gone -> told_all = true; break
	od
}

/* uffd tells in the same call, after the effect: see uffd.pml. */
proctype uffd()
{
	do
	:: d_step { untold_by_uffd && !index_lock -> drop(); untold_by_uffd = false }
	:: stop -> break
	od
}

/* ------------------------------------------------------------------ the helper */

#define MAY_BE_KILLED \
	if \
	:: kills > 0 -> kills--; goto started \
	:: true \
	fi

/* SECCOMP_IOCTL_NOTIF_RECV, with the slot for the kernel to write to. */
inline receive(t)
{
	d_step {
		slot == NONE && call[t] == QUEUED ->
			call[t] = RECEIVED;
			slot = t;
			slot_number = number[t]
	}
}

/* SECCOMP_IOCTL_NOTIF_SEND: ignored if this call isn't there any more. */
inline answer(t, n, verdict)
{
	d_step {
		if
		:: call[t] == RECEIVED && number[t] == n -> call[t] = verdict
		:: else -> PASSES(ANSWER_IGNORED)
		fi
	}
}

/* Is the caller's memory that of the owner, who is there? */
#if defined(NO_MM_CHECK)
#define SAME_MM(t) true
#elif defined(BY_PID)
#define SAME_MM(t) (kind[t] != STRANGER)
#else
#define SAME_MM(t) owners[t]
#endif

proctype worker()
{
	byte kills = KILLS;
	byte t;
	byte n;
	bool is_denied;
	bool is_secured;
	bool again;
	bool same, truly; /* when it looked; truly: for S5 */

started:
	atomic {
		t = 0;
		n = 0;
		is_denied = false;
		is_secured = false;
		again = false;
		same = false;
		truly = false
	}
#ifdef SLOT_LOST
	slot = NONE;
#endif
	do
	:: receive(0); MAY_BE_KILLED
	:: receive(1); MAY_BE_KILLED
	:: receive(TELLER); MAY_BE_KILLED
	:: slot != NONE ->
		d_step { t = slot; n = slot_number }
#ifdef SLOT_FREED_FIRST
		slot = NONE;
		MAY_BE_KILLED;
#endif
#ifdef HELPER_LOCKS
		!index_lock;
#endif
		d_step { same = SAME_MM(t); truly = owners[t] }
		if
		:: !same -> answer(t, n, GO_ON); goto handled
		:: same
		fi;
#if !defined(LOOK_FIRST) && !defined(RECORD_LATE)
		d_step { /* found there already: it may have been let through, untold, by the one who was killed */
			again = record[t] == UNTOLD && recorded[t] == n;
			record[t] = UNTOLD;
			recorded[t] = n
		}
		MAY_BE_KILLED;
#endif
		is_denied = denied;
		is_secured = secured != 0;
#ifdef LOOK_FIRST
		record[t] = UNTOLD;
#endif
		MAY_BE_KILLED;
		if
		:: FREES(kind[t]) && is_denied ->
			d_step { if :: call[t] == RECEIVED && number[t] == n -> S5_OWNERS :: else fi }
			answer(t, n, REFUSED);
#ifdef CLEAR_REFUSED
			MAY_BE_KILLED;
			record[t] = NOTHING
#endif
		:: !(FREES(kind[t]) && is_denied) && is_secured && t == TELLER ->
			/* It is telling: the word is odd, and stays so till this is told, too. */
			PASSES(OWN_CALL);
#ifdef TELLER_ASKED
			d_step { ask_number[t] = n; ask_kind[t] = kind[t]; ask[t] = ASKED }
#else
#ifndef OWN_CALL_LOST
			own_call = true;
			MAY_BE_KILLED;
#endif
			answer(t, n, GO_ON)
#endif
		:: !(FREES(kind[t]) && is_denied) && is_secured && t != TELLER ->
			d_step {
				if
				:: call[t] == RECEIVED && number[t] == n -> S5_OWNERS
				:: else
				fi;
				ask_number[t] = n;
				ask_kind[t] = kind[t];
				ask[t] = ASKED;
			}
			MAY_BE_KILLED;
#ifndef WEAKEN_RECORD
			if
			:: again
			:: !again -> record[t] = TOLD
			fi;
#else
			record[t] = TOLD;
#endif
#ifdef SYNC_WORKER
			ask[t] == ANSWERED;
			answer(t, n, GO_ON);
			ask[t] = NOTHING
#endif
		:: !(FREES(kind[t]) && is_denied) && !is_secured ->
			answer(t, n, GO_ON)
		fi;
handled:
		MAY_BE_KILLED;
#ifdef RECORD_LATE
		record[t] = UNTOLD;
#endif
		d_step {
			slot = NONE;
			t = 0;
			n = 0;
			is_denied = false;
			is_secured = false;
		again = false;
		same = false;
		truly = false
		}
	:: ask[0] == ANSWERED ->
		answer(0, ask_number[0], GO_ON);
		MAY_BE_KILLED;
		ask[0] = NOTHING
	:: ask[1] == ANSWERED ->
		answer(1, ask_number[1], GO_ON);
		MAY_BE_KILLED;
		ask[1] = NOTHING
#ifndef NO_OWNER_DEATH
	:: d_step { gone && ask[0] == ASKED -> ask[0] = ANSWERED }
	:: d_step { gone && ask[1] == ASKED -> PASSES(ORPHAN); ask[1] = ANSWERED }
#endif
	:: stop && told_all -> break
	od
}

init {
	atomic {
		if /* cold, or cached already */
		:: true
#if !defined(DENY) && !defined(FOREIGN)
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
		run worker();
		run teller();
#if defined(REPLACE)
		run uffd();
#endif
		run program_thread(0, ROLE0, ROUNDS0);
		run program_thread(1, ROLE1, ROUNDS1)
	}
}
/* No state is marked as a valid end: all end, or a call waits for ever (S4). */
