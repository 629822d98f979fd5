/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets over queue pairs (src/san/qp.c, version 2 of the protocol), for Spin: two sides, a stream between them that says
 * CREDIT, DONE and BYE, and two NICs that move the payload by themselves. What a NIC has acknowledged, what it was told
 * by the stream, and what is true are three things:
 *
 *   side 0                                       side 1
 *   -----------------------------------------    -----------------------------------------
 *   a send: posted to the NIC
 *                                                NIC: the bytes are here; its completion
 *                                                taken in: received, status 0
 *                                                hf_sock_close(): DONE 1, BYE; stop()
 *   >>> the acknowledgement never comes <<<
 *   NIC: gives up: the rest is flushed
 *   looks at the stream first: DONE 1, BYE
 *   so it was sent well; stop(), and only then
 *   its memory is let go: status 0
 *
 * And the other way round, when side 0 closes, side 1 may find BYE before it has looked at its NIC; what is there has been
 * received. Nothing is let go of while a NIC may still read or write it, which is until its completion has come or until
 * the queue pair is destroyed:
 *
 *   stop()                                       NIC of the same side
 *   -----------------------------------------    -----------------------------------------
 *   asks for the error state
 *                                                a packet of the peer's: begins to copy
 *   the windows go
 *                                                a packet of the peer's: refused
 *   destroys the queue pair: waits
 *                                                has copied
 *   returns; memory is let go
 *
 * hf_mr_dereg() is over when the window has gone and nobody copies through it. A request that comes later is refused, which ends
 * the connection for both, also when neither program does anything.
 *
 * WAKE is about something else: that what is done is taken in, though nobody polls, or somebody does; qp.h draws it.
 *
 * What is abstracted: all of a connection is under its lock, so what is done in one hold of it is one step, if it doesn't wait for
 * the NIC. Who takes in what is done (the engine, who polls, who exposes) is left open: each of them does it under the lock.
 */

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define BELIEVED      1 /* BYE has overtaken an acknowledgement */
#define BYE_OVERTAKES 2 /* ... and a completion of what was received */
#define BROKEN_FIRST  3 /* the NIC gives up before BYE is read */
#define CUT           4 /* revoked between two packets of a write */
#define WAITS_IN_STOP 5 /* a queue pair is to be destroyed, and its NIC copies */
#define WAITS_IN_REVOKE 6 /* ... revoke() */
#define CANT_REVOKE   7 /* revoke() can't, stop() does */
#define BOTH_CLOSE    8
#define STILL_ON_WIRE 9 /* what was sent arrives when the sender's queue pair has gone */
#define KILLED        10 /* a side dies while the other one has said BYE */

#define TAKEN_AWAY    11 /* the engine is woken, and somebody else has polled */

#ifdef WAKE
/* ------------------------------------------------------------------ who is woken */

#define ALL    4 /* completions */
#define BUDGET 2 /* taken in before another socket has its turn */
#define ROUNDS 2
#define POLLS  2 /* by another thread */

byte queue, stash;     /* completions: the NIC's, and those that arm() has taken */
bool asked;            /* the NIC is to tell of the next one */
bool event;            /* it has: fd() is readable */
#ifdef NO_FIRST_KICK
bool told;
#else
bool told = true;      /* the eventfd is: qp_join() */
#endif
bool lock;
byte taken, over;

proctype nic()
{
	byte left = ALL;

	do
	:: d_step {
		left > 0 ->
			left--;
			queue++;
			event = event || asked;
			asked = false
	   }
	:: left == 0 -> break
	od;
	over++
}

/* take_all(): one at a time; `all` is 0 before and afterwards. */
inline take_in()
{
	do
	:: d_step {
		all < BUDGET && queue + stash > 0 ->
			if
			:: stash > 0 -> stash--
			:: else -> queue--
			fi;
			taken++;
			all++
	   }
	:: all == BUDGET || queue + stash == 0 -> break
	od;
	told = told || all == BUDGET;
	all = 0
}

inline look()
{
	d_step {
		more = queue > 0;
		stash = stash + more;
		queue = queue - more
	}
}

/* hf_nic_qp_ops.arm. Who knows of something done need not ask (fake_qp.c), and verbs_qp_arm() doesn't for its stash. */
inline arm()
{
	event = false;
	if
	:: queue > 0 -> more = true
	:: stash > 0 -> more = true
	:: stash == 0 ->
#ifdef ASKED_LAST
		look();
		asked = true
#else
		asked = true;
		look()
#endif
	fi
}

/* qp_done_ready(), qp_told_ready() */
proctype engine()
{
	byte all, round;
	bool more;

	do
	:: event || told ->
		if
		:: told -> told = false
		:: event
		fi;
		d_step { !lock -> lock = true }
#ifdef PROBE
		if
		:: event && queue + stash == 0 -> PASSES(TAKEN_AWAY)
		:: else
		fi;
#endif
		more = true;
		do
		:: round < ROUNDS && more ->
#ifdef ASKED_LAST
			take_in();
			arm();
#else
			arm();
			take_in();
#endif
			round++
		:: else -> break
		od;
#ifndef NO_LAST_KICK
		told = told || more;
#else
		skip;
#endif
		d_step { round = 0; more = false; lock = false }
	:: over == 2 && !event && !told -> break
	od
}

/* hf_cq_poll(): who doesn't get the lock goes on. */
proctype poller()
{
	byte all, polls;

	do
	:: polls < POLLS ->
		polls++;
		if
		:: d_step { !lock -> lock = true }
			take_in();
			lock = false
		:: lock
		fi
	:: else -> break
	od;
	over++
}

init {
	atomic {
		run nic();
		run engine();
		run poller()
	}
	_nr_pr == 1;
	assert(taken == ALL && queue + stash == 0)
}

#else
/* ------------------------------------------------------------------ configurations */

#define SEND    1
#define WRITE   2
#define READ    3

#if !defined(ORDERLY) && !defined(CLOSE) && !defined(KILL) && !defined(REVOKE) && !defined(READY)
#error "name a configuration: -DORDERLY, -DWAKE, ... (see run.sh)"
#endif
#ifdef REVOKE
#define PACKETS 2 /* of a write */
#else
#define PACKETS 1
#endif

#define OPS 2 /* requests of a side at most, and receives */
#define AT(s, i) ((s) * OPS + (i))
#define PEER(s)  (1 - (s))

mtype = { QP_SAID, READY_SAID, CREDIT, DONE, BYE };
chan stream[2] = [5] of { mtype, byte }; /* stream[s] goes to side s */
bool shut[2];          /* s has closed its end */
/* What nobody will read isn't kept. */
#define SAY(s, what, n) \
	if \
	:: !shut[PEER(s)] -> stream[PEER(s)]!what, n \
	:: else \
	fi

/* ------------------------------------------------------------------ the NICs */

#define NOT_YET 0 /* ready() was not called: only receives can be posted */
#define UP      1
#define FAILED  2 /* the NIC has ended it: what was posted is flushed */
#define ASKED   3 /* the error state was asked for, and may be reached later */
#define GONE    4 /* destroyed */
byte qp[2];
#define RDMA_COPIES(s) (copying[PEER(s)] && !IS_SEND(PEER(s), carried[PEER(s)])) /* through the window of s */
#define MAY_MOVE(s) (qp[s] == UP || qp[s] == ASKED)

byte kind[2 * OPS];
byte count[2];         /* requests that the program posts; they are carried out in this order */
byte begun[2];         /* posted to the NIC */
byte carried[2];       /* carried out by the peer's NIC */
byte acked[2];         /* ... and acknowledged: there is a completion */
bool copying[2];       /* a packet of s is being moved by the peer's NIC */
byte packets[2];       /* of the write that is under way, moved */
bool nak[2];           /* a request of s was refused; the word of it is on its way */
bool refused[2];       /* ... and is here: the completion of request acked[s] says so */

byte expected[2];      /* messages that the peer sends: as many receives are posted */
byte receives[2];      /* posted to the NIC */
byte filled[2];        /* there is a completion */

bool window[2];        /* the peer's NIC may reach the exposed memory of s */

/* Not done, and on the way to the peer or at it: it may be read again, or be written to. */
#define NIC_HAS(s, i)  ((i) < begun[s] && (i) >= acked[s] && MAY_MOVE(s))
#define NIC_FILLS(s, i) ((i) < receives[s] && (i) >= filled[s] && (MAY_MOVE(s) || qp[s] == NOT_YET))

/* ------------------------------------------------------------------ the library */

bool lock[2];          /* held over more than one step */
bool made[2];          /* the socket is a program's */
bool posted[2];        /* the program has posted all */
bool error[2];         /* the connection has ended */
bool last[2];          /* qp_take_last() has been called */
bool broken[2];
bool told_peers[2], bye[2]; /* DONE has come, BYE has */
byte peers[2];         /* ... and what it says */
byte credits[2];       /* receives of the peer's that are known */
byte taken[2];         /* completions of requests that are taken in */
byte received[2];      /* ... of receives */
bool let_go[2];        /* the exposed memory is */
#if defined(CREDIT_FIRST)
byte owed[2];          /* receives whose CREDIT is out already */
#endif

/* for the claims */
byte completions[2 * OPS], receive_completions[2 * OPS];
byte fine[2];          /* messages that were completed with 0 */
bool by_itself[2];     /* it ends, and not because of the peer */
byte fine_then[2];     /* ... the peer's `fine` at that moment */
bool bye_was_said[2];  /* by the peer, when the connection ended because of it */
bool said_bye[2];
byte said[2], got[2];  /* ... how many messages had come; and how many its program knows of */
bool dead[2], over[2]; /* killed; nothing of it is left */

#define IS_SEND(s, i) ((i) < count[s] && kind[AT(s, i)] == SEND)
#define SENDS(s, n)   (((n) > 0 && IS_SEND(s, 0)) + ((n) > 1 && IS_SEND(s, 1))) /* among the first n */
#define IS_READ(s, i) (kind[AT(s, i)] == READ)

/* The claims. OK is what the program is told. */
#define ONCE(times)          assert(times == 1)
#define MEMORY(nic_has)      assert(!(nic_has))
#define TRUE_OK(s, i)        assert((i) < (IS_READ(s, i) -> acked[s] : carried[s])) /* it was carried out */
/* What the peer had received when it closed, and what stands before it, ends well; but for who closes himself. */
#define HEARD(s, i)          assert(!bye_was_said[s] || dead[PEER(s)] || SENDS(s, i) >= got[PEER(s)])
/* What the peer was told to have arrived has been received. Who ends the connection himself answers for what was told till then. */
#define NOT_LOST(s, i)       assert((i) >= (by_itself[s] -> fine_then[s] : fine[PEER(s)]))
#ifdef ORDERLY
#define ALL_WELL(ok)         assert(ok)
#else
#define ALL_WELL(ok)         skip
#endif

/* Let go of its memory, and deliver. */
inline complete(me, i, ok)
{
	completions[AT(me, i)]++;
	ONCE(completions[AT(me, i)]);
	MEMORY(NIC_HAS(me, i));
	if
	:: ok ->
		TRUE_OK(me, i);
		fine[me] = fine[me] + IS_SEND(me, i)
	:: else -> HEARD(me, i)
	fi;
	ALL_WELL(ok)
}

inline complete_receive(me, i, ok)
{
	receive_completions[AT(me, i)]++;
	ONCE(receive_completions[AT(me, i)]);
	MEMORY(NIC_FILLS(me, i));
	if
	:: ok -> assert(i < filled[me])
	:: else -> NOT_LOST(me, i)
	fi;
	ALL_WELL(ok)
}

#define FLUSHED(me) (qp[me] == FAILED && (begun[me] > acked[me] + refused[me] || receives[me] > filled[me]))

/* All completions. A request that was refused is the last one that has any of its own. */
inline take_all(me)
{
	do
	:: taken[me] < acked[me] ->
		complete(me, taken[me], true);
		taken[me]++
	:: else -> break
	od;
	if
	:: refused[me] && taken[me] == acked[me] ->
		complete(me, taken[me], false);
		taken[me]++;
		broken[me] = true
	:: else
	fi;
	do
	:: received[me] < filled[me] ->
		complete_receive(me, received[me], true);
		received[me]++
	:: else -> break
	od;
	broken[me] = broken[me] || FLUSHED(me)
}

#define SOMETHING_DONE(me) \
	(taken[me] < acked[me] || (refused[me] && taken[me] == acked[me]) || received[me] < filled[me] || \
	 (FLUSHED(me) && !broken[me]))

/* So many of the requests have ended well, by the peer's word. */
inline believe_peer(me)
{
	k = taken[me];
#ifndef NO_BELIEF
	if
	:: told_peers[me] ->
		do
		:: k < begun[me] && SENDS(me, k) < peers[me] ->
			PASSES(BELIEVED);
			k++
		:: else -> break
		od
	:: else
	fi
#endif
}

inline take_last(me)
{
	if
	:: !last[me] && qp[me] != GONE ->
		last[me] = true;
#ifdef PROBE
		if
		:: bye[me] && received[me] < filled[me] -> PASSES(BYE_OVERTAKES)
		:: else
		fi;
#endif
#ifndef SWALLOWED
		take_all(me)
#endif
	:: else
	fi
}

#ifdef MESSAGES_ONLY
#define WELL(me, i) ((i) < k && IS_SEND(me, i))
#else
#define WELL(me, i) ((i) < k)
#endif

/* All that is pending. */
inline collect(me)
{
	believe_peer(me);
	do
	:: taken[me] < count[me] && posted[me] ->
		complete(me, taken[me], WELL(me, taken[me]));
		taken[me]++
	:: else -> break
	od;
	do
	:: received[me] < expected[me] && posted[me] ->
		complete_receive(me, received[me], false);
		received[me]++
	:: else -> break
	od;
	k = 0
}

/* stop(): three calls. The lock is held. */
inline stop(me)
{
	if
	:: qp[me] != GONE ->
		qp[me] = (qp[me] == UP || qp[me] == NOT_YET -> ASKED : qp[me]);
		window[me] = false;
#ifdef PROBE
		if
		:: copying[PEER(me)] -> PASSES(WAITS_IN_STOP)
		:: else
		fi;
#endif
#ifndef NO_DESTROY
		d_step { !copying[PEER(me)] -> qp[me] = GONE }
#endif
	:: else
	fi
}

/* ------------------------------------------------------------------ the engine, or who does its work */

#define MAY_ACT(me) (made[me] && !error[me] && !lock[me])

#ifdef CREDIT_FIRST
inline put_credit(me)
{
	d_step {
		MAY_ACT(me) && posted[me] && receives[me] + owed[me] < expected[me] ->
			owed[me]++;
			SAY(me, CREDIT, 0)
	}
}

inline post_owed(me)
{
	d_step {
		MAY_ACT(me) && owed[me] > 0 ->
			owed[me]--;
			receives[me]++
	}
}
#else
inline put_credit(me)
{
	d_step {
		MAY_ACT(me) && posted[me] && receives[me] < expected[me] ->
			receives[me]++;
			SAY(me, CREDIT, 0)
	}
}
#endif

#ifdef NO_CREDIT
#define HAS_CREDIT(me) true
#else
#define HAS_CREDIT(me) (kind[AT(me, begun[me])] != SEND || credits[me] > SENDS(me, begun[me]))
#endif

inline begin(me)
{
	d_step {
		MAY_ACT(me) && posted[me] && begun[me] < count[me] && HAS_CREDIT(me) ->
			assert(qp[0] != NOT_YET && qp[1] != NOT_YET);
			begun[me]++
	}
}

inline take_frame(me)
{
	stream[me]?what, n;
	if
	:: what == CREDIT -> credits[me]++
	:: what == DONE ->
		assert(n <= SENDS(me, begun[me])); /* who keeps to the rules is not blamed */
		peers[me] = n;
		told_peers[me] = true
	:: what == BYE -> bye[me] = true
	fi;
	what = 0;
	n = 0
}

/* One frame, or the end; what a killed peer has said may be lost. */
inline rx(me)
{
	d_step {
		MAY_ACT(me) && len(stream[me]) > 0 ->
			take_frame(me);
			ends = bye[me];
			bye_was_said[me] = ends && said_bye[PEER(me)];
			lock[me] = ends
	}
}

inline rx_end(me)
{
	d_step {
		MAY_ACT(me) && shut[PEER(me)] && (len(stream[me]) == 0 || dead[PEER(me)]) ->
			bye_was_said[me] = said_bye[PEER(me)];
			lock[me] = true;
			ends = true
	}
}

#ifdef UNLOCKED /* in one hold of the lock it is taken out of the NIC, in another one it completes */
inline take_late(me)
{
	d_step { MAY_ACT(me) && taken[me] < acked[me] -> had = taken[me] }
	d_step {
		!lock[me] ->
			complete(me, had, true);
			taken[me] = had + 1
	}
}
#endif

/* What is done. When the way is broken the stream may know better why. */
inline take(me)
{
	d_step {
		MAY_ACT(me) && SOMETHING_DONE(me) ->
			take_all(me);
#ifdef PROBE
			if
			:: broken[me] && stream[me]??[BYE, _] -> PASSES(BROKEN_FIRST)
			:: else
			fi;
#endif
#ifndef NO_LOOK
			do
			:: broken[me] && len(stream[me]) > 0 && !bye[me] -> take_frame(me)
			:: else -> break
			od;
#endif
			ends = broken[me];
			bye_was_said[me] = ends && said_bye[PEER(me)];
			lock[me] = ends
	}
}

/* What has come and wasn't read is of no use any more. */
inline shut_down(me)
{
	shut[me] = true;
	do
	:: len(stream[me]) > 0 -> stream[me]?_, _
	:: else -> break
	od;
	told_peers[me] = false;
	peers[me] = 0;
	credits[me] = 0;
	bye[me] = false;
	broken[me] = false
}

/* sock_fail(). The lock is held. */
inline fail(me)
{
	d_step {
		take_last(me);
#ifdef BELIEVED_FIRST /* complete */
		believe_peer(me);
		do
		:: taken[me] < k ->
			complete(me, taken[me], true);
			taken[me]++
		:: else -> break
		od;
		k = 0;
#endif
		error[me] = true
	}
	stop(me);
	d_step {
		collect(me);
#ifndef NO_SHUTDOWN
		shut_down(me);
#endif
		lock[me] = false
	}
}

proctype engine(byte me)
{
	byte n, k;
	mtype what;
	bool ends; /* by what was found the connection ends; the lock is held */
#ifdef UNLOCKED
	byte had;
#endif

	{
		made[me] || over[me];
		do
		:: !made[me] -> break
		:: error[me] && !lock[me] -> break
		:: put_credit(me)
		:: begin(me)
		:: rx(me)
		:: rx_end(me)
		:: take(me)
		:: ends -> fail(me); ends = false
#ifdef CREDIT_FIRST
		:: post_owed(me)
#endif
#ifdef UNLOCKED
		:: take_late(me)
#endif
		od
	} unless { dead[me] }
}

/* ------------------------------------------------------------------ the program */

#ifdef DONE_EARLY
#define COUNTED(me) receives[me]
#else
#define COUNTED(me) received[me]
#endif

inline last_words(me)
{
	said_bye[me] = true;
#ifndef NO_LAST_WORDS
	SAY(me, DONE, said[me]);
#endif
	SAY(me, BYE, 0)
}

#define BY_ITSELF(me) \
	if \
	:: !error[me] -> by_itself[me] = true; fine_then[me] = fine[PEER(me)] \
	:: else \
	fi

/* hf_sock_close() */
inline close_socket(me)
{
	d_step {
		!lock[me] ->
		lock[me] = true;
#ifdef PROBE
		if
		:: !error[me] && said_bye[PEER(me)] -> PASSES(BOTH_CLOSE)
		:: else
		fi;
#endif
		if
		:: !error[me] ->
			BY_ITSELF(me);
#ifdef DONE_FIRST
			said[me] = received[me];
			take_last(me);
#else
			take_last(me);
			said[me] = COUNTED(me);
#endif
			got[me] = received[me];
#ifndef STOP_FIRST
			last_words(me)
#endif
		:: else
		fi;
		error[me] = true;
#ifdef RELEASE_FIRST
		collect(me)
#endif
	}
	stop(me);
#ifdef STOP_FIRST
	d_step {
		if
		:: by_itself[me] -> last_words(me)
		:: else
		fi
	}
#endif
	d_step { lock[me] = false; shut[me] = true }
	d_step { let_go[me] = true; collect(me); shut_down(me) }
}

#ifdef REVOKE
/* hf_mr_dereg(). If revoke() can't, then stop(), and the connection has ended. */
inline dereg(me)
{
	d_step {
		!lock[me] ->
			lock[me] = true;
#ifdef PUT_FIRST
			let_go[me] = true
#endif
	}
	if
	:: window[me] ->
		if
		:: true ->
			window[me] = false;
#ifdef PROBE
			if
			:: RDMA_COPIES(me) -> PASSES(WAITS_IN_REVOKE)
			:: else
			fi;
			if
			:: packets[PEER(me)] == 1 -> PASSES(CUT)
			:: else
			fi;
#endif
#ifndef WINDOW_ONLY
			!RDMA_COPIES(me);
#endif
		:: qp[me] != GONE ->
			PASSES(CANT_REVOKE);
#ifndef GOES_ON
			d_step {
				BY_ITSELF(me);
#ifndef STOP_LOSES
				take_last(me)
#endif
			}
			stop(me);
			if
			:: !error[me] -> fail(me)
			:: else
			fi
#endif
		fi
	:: else
	fi;
	lock[me] = false;
	let_go[me] = true
}
#endif

#define ALL_DONE(me) (posted[me] && taken[me] == count[me] && received[me] == expected[me])

#if defined(ORDERLY) || defined(KILL) /* when all that it has posted has ended */
#define MAY_CLOSE(me) (error[me] || ALL_DONE(me))
#elif defined(REVOKE) /* what has ended for the one must end for the other, though nobody does anything */
#define MAY_CLOSE(me) ((error[0] && error[1]) || (ALL_DONE(0) && ALL_DONE(1) && let_go[1]))
#else
#define MAY_CLOSE(me) true
#endif

#ifdef READY
/* Who is waited for too long is dropped; so is who has no queue pair. */
#define NOT_IN_TIME \
	if \
	:: true \
	:: goto drop \
	fi

/* Both queue pairs work before a connection is anybody's. */
inline shake_hands(me)
{
	if
	:: me == 0 ->
		NOT_IN_TIME;
		d_step { len(stream[0]) > 0 -> stream[0]?QP_SAID, _ }
#ifdef READY_FIRST
		d_step { stream[1]!QP_SAID, 0; stream[1]!READY_SAID, 0 }
		qp[0] = UP;
#else
		qp[0] = UP;
		d_step { stream[1]!QP_SAID, 0; stream[1]!READY_SAID, 0 }
#endif
#ifndef NO_READY
		NOT_IN_TIME;
		d_step { len(stream[0]) > 0 -> stream[0]?READY_SAID, _ }
#endif
	:: else ->
		stream[0]!QP_SAID, 0;
		NOT_IN_TIME;
		d_step { len(stream[1]) == 2 -> stream[1]?QP_SAID, _; stream[1]?READY_SAID, _ }
		qp[1] = UP;
#ifndef NO_READY
		stream[0]!READY_SAID, 0
#endif
	fi;
	made[me] = true
}
#endif

proctype program(byte me)
{
	byte n, k;

	{
#ifdef READY
		{
			shake_hands(me)
		} unless {
			!made[me] && shut[PEER(me)]
		};
		if
		:: !made[me] ->
drop:
			qp[me] = GONE;
			shut[me] = true;
			goto gone
		:: else
		fi;
		posted[me] = true;
#endif
#ifdef REVOKE
		if
		:: me == 1 -> dereg(me)
		:: else
		fi;
#endif
		MAY_CLOSE(me);
		close_socket(me);
#ifdef READY
gone:
#endif
		over[me] = true
	} unless { dead[me] }
}

#ifdef KILL
/* Nobody is told any more. */
inline forget(me)
{
	completions[AT(me, 0)] = 0;
	completions[AT(me, 1)] = 0;
	receive_completions[AT(me, 0)] = 0;
	receive_completions[AT(me, 1)] = 0;
	taken[me] = 0;
	received[me] = 0;
	lock[me] = false;
	error[me] = false;
	last[me] = false;
	broken[me] = false;
	told_peers[me] = false;
	bye[me] = false;
	peers[me] = 0;
	credits[me] = 0;
	refused[me] = false;
	bye_was_said[me] = false;
	by_itself[me] = false;
	fine_then[me] = 0
}

/* The kernel takes away what it had, the stream and the NIC's in any order. Or the way between the NICs breaks. */
proctype killer(byte me)
{
	bool stopped;

	if
	:: !over[me] ->
		d_step {
			dead[me] = true;
			forget(me)
		}
#ifdef PROBE
		if
		:: said_bye[PEER(me)] && !error[me] -> PASSES(KILLED)
		:: else
		fi;
#endif
		do
		:: !shut[me] -> shut[me] = true
		:: !stopped ->
			stop(me);
			d_step { let_go[me] = true; stopped = true }
		:: shut[me] && stopped -> break
		od;
		over[me] = true
	:: d_step { qp[me] == UP && begun[me] > acked[me] && !copying[PEER(me)] -> qp[me] = FAILED }
	:: true
	fi
}
#endif

/* ------------------------------------------------------------------ what the NICs do */

/* What moves data out waits for a read before it. */
#ifdef NO_FENCE
#define FENCED(s) false
#else
#define FENCED(s) (carried[s] == 1 && IS_READ(s, 0) && !IS_READ(s, 1) && acked[s] == 0)
#endif

/* The next request of s is at the peer's NIC. What is on its way is carried out, also when the sender is no more. */
inline arrive(s)
{
	d_step {
		carried[s] < begun[s] && !copying[s] && !nak[s] && MAY_MOVE(PEER(s)) && !FENCED(s) ->
			if
			:: IS_SEND(s, carried[s]) ->
				assert(filled[PEER(s)] < receives[PEER(s)]); /* a receive is posted */
				copying[s] = true;
#ifdef PROBE
				if
				:: qp[s] == GONE -> PASSES(STILL_ON_WIRE)
				:: else
				fi
#endif
			:: !IS_SEND(s, carried[s]) && window[PEER(s)] -> copying[s] = true
			:: else ->
				nak[s] = true;
				qp[PEER(s)] = (qp[PEER(s)] == UP -> FAILED : qp[PEER(s)])
			fi
	}
}

inline move(s)
{
	d_step {
		copying[s] ->
			copying[s] = false;
			if
			:: IS_SEND(s, carried[s]) ->
				assert(receive_completions[AT(PEER(s), filled[PEER(s)])] == 0);
				filled[PEER(s)]++;
				carried[s]++
			:: else ->
				assert(!let_go[PEER(s)]);
				packets[s]++;
				if
				:: packets[s] == PACKETS ->
					packets[s] = 0;
					carried[s]++
				:: else
				fi
			fi
	}
}

/* In order; of a read, with it comes the data. */
inline acknowledge(s)
{
	d_step { acked[s] < carried[s] && MAY_MOVE(s) -> acked[s]++ }
}

/* No acknowledgement has come for so long, and none will. */
inline give_up(s)
{
	d_step {
		qp[s] == UP && begun[s] > acked[s] && !copying[PEER(s)] && (qp[PEER(s)] == GONE || qp[PEER(s)] == FAILED) ->
			qp[s] = FAILED
	}
}

inline hear_nak(s)
{
	d_step {
		nak[s] && qp[s] == UP && acked[s] == carried[s] && !copying[PEER(s)] ->
			qp[s] = FAILED;
			refused[s] = true
	}
}

proctype nic()
{
	do
	:: arrive(0)
	:: arrive(1)
	:: move(0)
	:: move(1)
	:: acknowledge(0)
	:: acknowledge(1)
	:: give_up(0)
	:: give_up(1)
	:: hear_nak(0)
	:: hear_nak(1)
	:: over[0] && over[1] -> break
	od
}

#define ONE(s, a)    kind[AT(s, 0)] = a; count[s] = 1
#define TWO(s, a, b) kind[AT(s, 0)] = a; kind[AT(s, 1)] = b; count[s] = 2

/* What the programs ask for. */
inline any_requests(s)
{
	if
#if defined(REVOKE)
	:: s == 0 -> TWO(s, WRITE, SEND)
	:: s == 0 -> TWO(s, SEND, READ)
	:: s == 1 -> ONE(s, SEND)
	:: s == 1
#elif defined(READY)
	:: ONE(s, WRITE) /* by a key that it has guessed */
	:: ONE(s, SEND)
#elif defined(ORDERLY)
	:: ONE(s, SEND)
	:: TWO(s, SEND, SEND)
	:: TWO(s, WRITE, SEND)
	:: TWO(s, READ, SEND)
#elif defined(CLOSE)
	:: s == 0 -> TWO(s, SEND, SEND)
	:: s == 0 -> TWO(s, READ, SEND)
	:: s == 0 -> TWO(s, SEND, WRITE)
	:: s == 1 -> ONE(s, SEND)
#else
	:: s == 0 -> TWO(s, READ, SEND)
	:: s == 1 -> ONE(s, SEND)
#endif
	fi;
	expected[PEER(s)] = SENDS(s, 2)
}

init {
	byte i;

	atomic {
		any_requests(0);
		any_requests(1);
#ifndef READY
		d_step {
			made[0] = true;
			made[1] = true;
			posted[0] = true;
			posted[1] = true;
			qp[0] = UP;
			qp[1] = UP;
			window[0] = true;
			window[1] = true
		}
#endif
		run engine(0);
		run engine(1);
		run program(0);
		run program(1);
#ifdef KILL
		if
		:: run killer(0)
		:: run killer(1)
		fi;
#endif
		run nic()
	}
	_nr_pr == 1;
	do
	:: i < 2 * OPS ->
		assert(dead[i / OPS] || !posted[i / OPS] || completions[i] == (i % OPS < count[i / OPS]));
		assert(dead[i / OPS] || !posted[i / OPS] || receive_completions[i] == (i % OPS < expected[i / OPS]));
		i++
	:: else -> break
	od
}
#endif
/* No state is marked as a valid end: all ends, or somebody waits for ever. */
