/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SAN sockets (src/san/), for Spin, in two parts.
 *
 * REVOKE: a peer's RDMA into exposed memory is carried out in steps, while the program takes its memory back. After
 * hf_mr_dereg() has returned no byte of it moves, though the exposure's slot and the NIC's key are used again:
 *
 *   engine: an RDMA of the peer's             program                          cache
 *   --------------------------------------    -----------------------------    --------------------------
 *   lock; its descriptor: known, key 0
 *                                             hf_mr_dereg: waits
 *   a step moves through key 0; unlock
 *                                             lock; forgets it; unlock
 *                                             hf_put; returns
 *                                                                              evicted: deregistered;
 *                                                                              key 0 is other memory's
 *   lock; unknown: what is left of it
 *   goes to nowhere                           exposes other memory: the same
 *                                             slot, other random bits
 *
 * Each step asks anew (CHECK_ONCE), and the lock is held from there until it has moved (LOCK_DROPPED).
 *
 * FLOW, CLOSE: two sides over two streams of bounded room. Either may send, write and read at once, so that both
 * streams are full, and each side has an answer to send before the other can go on. Who waits in one direction
 * must go on in the other one:
 *
 *   side 0                                        side 1
 *   ------------------------------------------    ------------------------------------------
 *   half of a write is out; no room               half of a write is out; no room
 *   >>> waits for room, and reads nothing <<<     >>> the same: for ever <<<
 *
 * So nothing that comes in waits for what is to go out: a message comes when a receive is posted for it (it needs
 * credit), and there is room to note an answer to each operation that the peer may have begun. All that is pending
 * completes exactly once, also when one side closes, or dies, at any step.
 *
 * LEAVE: what is taken out of epoll may be in the engine's batch still: engine.h draws it.
 *
 * What is abstracted: all of a connection is under its lock, so what is done in one hold of it is one step. A frame is a
 * head and its payload, in units; a stream has room for ROOM units.
 */

/* A probe is a place that must be reachable: else a proof would say nothing about it. */
#ifdef PROBE
#define PASSES(place) assert(PROBE != place)
#else
#define PASSES(place) skip
#endif
#define REFUSED_MIDWAY 1 /* revoked between two steps */
#define KEY_REUSED     2 /* a key is other memory's, while the peer still asks with the old descriptor */
#define BOTH_FULL      3 /* both streams are full, and both sides are in the middle of a payload */
#define ANSWERS_FULL   4 /* as many answers are due as there can be */
#define NO_CREDIT_LEFT 5 /* a message waits for credit, and an answer goes out meanwhile */
#define DONE_LATE      6 /* closed, with an answer on its way */
#define BATCH_HAD_IT   7 /* it was in the batch when it was taken out */

#if defined(REVOKE)
/* ------------------------------------------------------------------ memory is taken back */

#define STEPS 2
#define TIMES 3 /* RDMAs of the peer's */
#define SECRET 3 /* memory that was never exposed */

bool lock;
byte key[2];               /* the NIC's: which memory it moves; 0: none */
byte held[2];              /* the registration behind key i */
bool live;                 /* the exposure's slot */
byte bits, through;        /* its random bits, which say here which exposure it is: 1, 2; and the key */
bool known[3];             /* the peer has this descriptor */
bool returned[3];          /* hf_mr_dereg() of it has */
bool ended;

/* Exposure i is of memory i. A key that is free is used for whatever comes. */
inline expose(i)
{
	d_step {
		mine = (key[0] == 0 || key[0] == i -> 0 : 1);
		key[mine] = i;
		held[mine]++
	}
	atomic {
		!lock;
		live = true;
#ifdef SAME_BITS
		bits = 1;
#else
		bits = i;
#endif
		through = mine;
		known[i] = true
	}
}

inline forget()
{
#ifdef NO_LOCK
	live = false
#else
	atomic { !lock -> live = false }
#endif
}

inline dereg(i)
{
#ifdef PUT_FIRST
	held[mine]--;
	forget();
#else
	forget();
	held[mine]--;
#endif
	returned[i] = true
}

proctype program()
{
	byte mine;

	expose(1);
	dereg(1);
	expose(2);
	dereg(2);
	ended = true
}

/* What nobody holds goes when it pleases; the next one with this key is somebody's who was never exposed. */
proctype evictor()
{
	do
	:: d_step { held[0] == 0 && key[0] != 0 && key[0] != SECRET -> key[0] = SECRET }
	:: d_step { held[0] == 0 && key[0] == SECRET -> key[0] = 0 }
	:: ended -> break
	od
}

/* The bytes move at some moment of the NIC's call. */
inline move()
{
	atomic {
		assert(!returned[asked]);
		assert(key[at] == asked)
	}
}

proctype engine()
{
	byte times = TIMES;
	byte asked, at, left;
	bool right;

	do
	:: times > 0 ->
		times--;
		if
		:: known[1] -> asked = 1
		:: known[2] -> asked = 2
		:: ended -> goto next
		fi;
		left = STEPS;
		do
		:: left > 0 ->
			left--;
			atomic { !lock -> lock = true }
#ifdef CHECK_ONCE
			if
			:: left == STEPS - 1 -> right = live && bits == asked; at = through
			:: else
			fi;
#elif defined(SAME_BITS)
			right = live && bits == 1; /* the first exposure's descriptor says it is this one */
			at = through;
#else
			right = live && bits == asked;
			at = through;
#endif
#ifdef LOCK_DROPPED
			lock = false;
#endif
			if
			:: right ->
				move()
			:: else ->
#ifdef PROBE
				if
				:: left < STEPS - 1 && asked == 1 -> PASSES(REFUSED_MIDWAY)
				:: else
				fi;
				if
				:: asked == 1 && key[0] == SECRET -> PASSES(KEY_REUSED)
				:: else
				fi
#endif
			fi;
#ifdef CHECK_ONCE
			lock = false
#else
			atomic { lock = false; right = false; at = 0 }
#endif
		:: else -> break
		od;
next:
		atomic { asked = 0; right = false; at = 0 }
	:: else -> break
	od
}

init {
	atomic {
		run program();
		run evictor();
		run engine()
	}
}

#elif defined(LEAVE)
/* ------------------------------------------------------------------ out of epoll, and freed */

bool in_epoll = true;
bool freed;
byte batches; /* modulo 4: here that is enough */
bool wake;

proctype engine()
{
	bool has;

	do
	:: !freed ->
		batches = (batches + 1) % 4; /* between two batches */
		if /* epoll_wait */
		:: in_epoll -> has = true
		:: wake -> wake = false
		:: freed
		fi;
		if
		:: has ->
#ifdef PROBE
			if
			:: !in_epoll -> PASSES(BATCH_HAD_IT)
			:: else
			fi;
#endif
			assert(!freed);
			has = false
		:: !has
		fi
	:: freed -> break
	od
}

proctype closer()
{
	byte seen;

#ifdef SEEN_FIRST
	seen = batches;
	in_epoll = false;
#else
	in_epoll = false;
	seen = batches;
#endif
	wake = true;
#ifndef NO_PASS
	batches != seen;
#endif
	freed = true
}

init {
	atomic {
		run engine();
		run closer()
	}
}

#else
/* ------------------------------------------------------------------ two sides, two streams */

#define SEND  1
#define WRITE 2
#define READ  3

#if !defined(FLOW) && !defined(NARROW) && !defined(CLOSE)
#error "name a configuration: -DREVOKE, -DFLOW, ... (see run.sh)"
#endif

#ifndef OPS
#define OPS 2    /* each side posts so many */
#endif
#define ROOM   2
#ifdef NARROW
#define WINDOW 1 /* begun and not completed */
#else
#define WINDOW 2
#endif
#define PAYLOAD_OF(k) (k == SEND -> 1 : 2) /* of READ: of the DATA that answers it */

mtype = { CREDIT, MESSAGE, WRITING, READING, DATA, DONE, PAYLOAD };

chan stream[2] = [ROOM] of { mtype, byte }; /* stream[i] goes to side i */
/* What the peer has asked of side i, and isn't answered: the operation's number, and is it a READ? */
chan answers[2] = [WINDOW] of { byte, bool };
bool data_out[2];       /* DATA of the first of them is out; DONE comes next */

#define AT(side, i) ((side) * OPS + (i))
byte kind[2 * OPS];
byte completions[2 * OPS];
byte begun[2], settled[2];      /* counts, in the order of the operations; all are posted at the start */
byte wanted[2];         /* messages that the peer sends */
byte receives[2];       /* posted and not completed */
byte uncredited[2];     /* of these the peer doesn't know */
byte credits[2];        /* what the peer has posted */
bool late[2];           /* the program posts its receives when its first operation has completed */
byte tx_left[2];        /* units of the frame's payload that aren't out yet */
byte rx_left[2], rx_op[2];
mtype rx_what[2];
bool ended[2];          /* closed or failed: no byte moves any more */
bool dead[2];
byte programs;

#define HAS_ROOM(to)    (len(stream[to]) < ROOM)
#define IS_OVER(side)   (ended[side] || settled[side] == OPS)
#define KIND(side, i)   kind[AT(side, i)]

/* Let go of the memory, and deliver. */
inline complete(side, i)
{
	completions[AT(side, i)]++;
	assert(completions[AT(side, i)] == 1)
}

/* All that is pending completes. */
inline collect(side)
{
	do
	:: settled[side] < OPS ->
		complete(side, settled[side]);
		settled[side]++
	:: else -> break
	od;
	receives[side] = 0
}

/* ------------------------------------------------------------------ what goes out */

#ifdef ONE_QUEUE /* an answer goes behind the requests */
#define MAY_ANSWER(me) (begun[me] == OPS)
#else
#define MAY_ANSWER(me) true
#endif
/* What isn't a read waits for the reads before it. */
#define READ_BEFORE(me) (begun[me] > settled[me] && KIND(me, settled[me]) == READ && KIND(me, begun[me]) != READ)
#ifdef NO_CREDIT
#define MAY_SEND(me) !READ_BEFORE(me)
#else
#define MAY_SEND(me) (!READ_BEFORE(me) && (KIND(me, begun[me]) != SEND || credits[me] > 0))
#endif
#ifdef NO_WINDOW
#define MAY_BEGIN(me) true
#else
#define MAY_BEGIN(me) (begun[me] - settled[me] < WINDOW)
#endif

#define MAY_TX(me) (!ended[me] && tx_left[me] == 0 && HAS_ROOM(1 - me))

inline tx_payload(me)
{
	d_step {
		!ended[me] && tx_left[me] > 0 && HAS_ROOM(1 - me) ->
			stream[1 - me]!PAYLOAD, 0;
			tx_left[me]--
	}
}

inline tx_credit(me)
{
	d_step {
		MAY_TX(me) && uncredited[me] > 0 ->
			uncredited[me]--;
			stream[1 - me]!CREDIT, 0
	}
}

inline tx_done(me)
{
	d_step {
		MAY_TX(me) && MAY_ANSWER(me) && (answers[me]?[_, false] || data_out[me]) ->
#ifdef PROBE
			if
			:: begun[me] < OPS && KIND(me, begun[me]) == SEND && !credits[me] -> PASSES(NO_CREDIT_LEFT)
			:: else
			fi;
#endif
			answers[me]?op, _;
			data_out[me] = false;
			stream[1 - me]!DONE, op;
			op = 0
	}
}

inline tx_data(me)
{
	d_step {
		MAY_TX(me) && MAY_ANSWER(me) && answers[me]?[_, true] && !data_out[me] ->
			answers[me]?<op, _>;
			data_out[me] = true;
			stream[1 - me]!DATA, op;
			tx_left[me] = PAYLOAD_OF(READ);
			op = 0
	}
}

inline tx_request(me)
{
	d_step {
		MAY_TX(me) && begun[me] < OPS && MAY_BEGIN(me) && MAY_SEND(me) ->
			op = begun[me];
			if
			:: KIND(me, op) == SEND ->
				credits[me] = (credits[me] > 0 -> credits[me] - 1 : 0);
				stream[1 - me]!MESSAGE, op
			:: KIND(me, op) == WRITE -> stream[1 - me]!WRITING, op
			:: KIND(me, op) == READ -> stream[1 - me]!READING, op
			fi;
			tx_left[me] = (KIND(me, op) == READ -> 0 : PAYLOAD_OF(KIND(me, op)));
			begun[me]++;
			op = 0
	}
}

/* ------------------------------------------------------------------ what comes in */

#ifdef TX_BLOCKS /* it waits for room in the middle of a frame */
#define MAY_RX(me) (tx_left[me] == 0)
#elif defined(RX_ANSWERS) /* it waits for room for the answer before it takes the next frame */
#define MAY_RX(me) (len(answers[me]) == 0)
#else
#define MAY_RX(me) true
#endif
#ifdef NO_CREDIT /* and the receiving side waits for a receive to be posted */
#define MAY_RX_HEAD(me) (!stream[me]?[MESSAGE, _] || receives[me] > 0)
#else
#define MAY_RX_HEAD(me) true
#endif

inline answer(me, reads)
{
	assert(len(answers[me]) < WINDOW);
	answers[me]!op, reads;
#ifdef PROBE
	if
	:: len(answers[me]) == WINDOW -> PASSES(ANSWERS_FULL)
	:: else
	fi
#endif
}

inline rx_head(me)
{
	d_step {
		!ended[me] && rx_left[me] == 0 && len(stream[me]) > 0 && MAY_RX(me) && MAY_RX_HEAD(me) ->
			stream[me]?what, op;
			if
			:: what == CREDIT -> credits[me]++
			:: what == MESSAGE ->
				assert(receives[me] > 0);
				rx_left[me] = PAYLOAD_OF(SEND)
			:: what == WRITING -> rx_left[me] = PAYLOAD_OF(WRITE)
			:: what == READING -> answer(me, true)
			:: what == DATA ->
				assert(op >= settled[me] && op < begun[me]);
				rx_left[me] = PAYLOAD_OF(READ)
			:: what == DONE ->
				assert(op == settled[me]);
#ifdef UNLOCKED
				taken = op + 1
#else
				complete(me, op);
				settled[me]++
#endif
			fi;
			rx_op[me] = op;
			rx_what[me] = what;
			op = 0;
			what = 0
	}
}

inline rx_payload(me)
{
	d_step {
		!ended[me] && rx_left[me] > 0 && len(stream[me]) > 0 && MAY_RX(me) ->
			stream[me]?what, _;
			assert(what == PAYLOAD);
			rx_left[me]--;
			if
			:: rx_left[me] == 0 && rx_what[me] != DATA ->
				receives[me] = receives[me] - (rx_what[me] == MESSAGE);
				op = rx_op[me];
				answer(me, false)
			:: else
			fi;
			op = 0;
			what = 0
	}
}

proctype engine(byte me)
{
	byte op;
	mtype what;
#ifdef UNLOCKED
	byte taken;
#endif

	do
	:: tx_payload(me)
	:: tx_credit(me)
	:: tx_done(me)
	:: tx_data(me)
	:: tx_request(me)
	:: rx_payload(me)
	:: rx_head(me)
#ifdef UNLOCKED
		if
		:: taken ->
			complete(me, taken - 1);
			settled[me]++;
			taken = 0
		:: else
		fi
#endif
#ifdef CLOSE
	:: d_step { /* the end of the stream, or a reset: it may come before what was sent */
		ended[1 - me] && !ended[me] ->
			ended[me] = true;
			collect(me)
	   }
#endif
#if defined(PROBE) && PROBE == BOTH_FULL
	:: tx_left[0] > 0 && tx_left[1] > 0 && !HAS_ROOM(0) && !HAS_ROOM(1) -> PASSES(BOTH_FULL); break
#endif
	:: IS_OVER(0) && IS_OVER(1) && programs == 2 -> break
	od
}

/* hf_sock_close, in two steps: between them the engine may be about to look at the socket. Or it dies. */
inline leave(me)
{
	if
	:: d_step {
		ended[me] = true;
		if
		:: len(answers[me]) > 0 -> PASSES(DONE_LATE)
		:: else
		fi
	   }
		d_step { collect(me) }
	:: d_step { ended[me] = true; dead[me] = true }
	fi
}

proctype program(byte me)
{
	if
	:: d_step {
		!late[me] || settled[me] > 0 || ended[me] ->
			receives[me] = (ended[me] -> 0 : wanted[me]);
			uncredited[me] = receives[me]
	   }
#ifdef CLOSE
		if
		:: true
		:: leave(me)
		fi
	:: leave(me)
#endif
	fi;
	programs++
}

/* Any, but for mirror images; where they close, the one side reads, the other one writes, and then both send. */
inline any_kind(i)
{
	if
#ifdef CLOSE
	:: i == AT(0, 0) -> kind[i] = READ
	:: i == AT(1, 0) -> kind[i] = WRITE
	:: i % OPS == 1 -> kind[i] = SEND
#else
	:: i != AT(1, 0) || kind[0] == SEND -> kind[i] = SEND
	:: i != AT(1, 0) || kind[0] <= WRITE -> kind[i] = WRITE
	:: kind[i] = READ
#endif
	fi
}

init {
	byte i;

	atomic {
		do
		:: i < 2 * OPS ->
			any_kind(i);
			wanted[1 - i / OPS] = wanted[1 - i / OPS] + (kind[i] == SEND);
			i++
		:: else -> break
		od;
		i = 0;
		/* It may post its receives late; not when its first operation is one that waits for the peer's. */
		if
		:: true
		:: kind[AT(0, 0)] != SEND -> late[0] = true
		fi;
		if
		:: true
		:: kind[AT(1, 0)] != SEND -> late[1] = true
		fi;
		run engine(0);
		run engine(1);
		run program(0);
		run program(1)
	}
	_nr_pr == 1;
	do
	:: i < 2 * OPS ->
		assert(completions[i] == 1 || dead[i / OPS]);
		i++
	:: else -> break
	od
}
#endif
/* No state is marked as a valid end: all ends, or somebody waits for ever. */
