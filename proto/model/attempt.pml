/*
 * One build, its attempts on two slaves, one store, a master that may be
 * started again: assign, accept, away, lost, return, adopt, fence, withdraw,
 * cancel, stop, forget. Rule numbers are those of PROTOCOL.md; README.md says
 * what is bounded and what left out. The stream of an attempt is two updates:
 * `accepted` or `refused`, and the end; stream.pml looks at streams closely.
 *
 * The state is global and each step of master, agents and runners is one option
 * of one loop: all orders of steps are tried. FAULTS of them may be faults. At
 * any time the world may heal; what stands still then must be settled.
 *
 * -DNO_… takes one rule away. -DONE_SLAVE leaves the second slave idle, so that
 * more can happen to the first.
 */
#ifndef ATTEMPTS
#define ATTEMPTS 2 /* at most 3: a Welcome has room for so many */
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef LIMIT
#define LIMIT 2 /* losses that shelve the build (P46, max_transient) */
#endif
#define SLAVES 2
#ifdef ONE_SLAVE
#define HEARD 1 /* nothing happens to the other */
#else
#define HEARD SLAVES
#endif

/* The build. */
#define QUEUED 0
#define GOES_ON 1
#define SHELVED 2
#define SUCCEEDED 3
#define CANCELLED 4 /* of attempts, too */
#define FINAL (build >= SUCCEEDED)

/* An attempt, in the store; SUCCEEDED and CANCELLED as above. */
#define FREE 0
#define ASSIGNED 1
#define RUNNING 2
#define WITHDRAWN 5
#define REFUSED 6
#define LOST 7

/* An attempt, in a slave's journal. */
#define NOT 0
#define TAKEN 1  /* `accepted` */
#define DENIED 2 /* `refused` */
#define OVER 3   /* its end, too */
#define BURIED 4 /* a tombstone */
#define HELD(x) (held[x] == TAKEN || held[x] == DENIED || held[x] == OVER)
#define LAST(x) (held[x] == OVER -> 2 : 1)

/* Wants (P31). */
#define W_NONE 0
#define W_ASSIGN 1
#define W_RUN 2
#define W_STOP 3
#define W_FORGET 4

/* Messages. */
#define WELCOME 1
#define WANT 2
#define ACK 3
#define BATCH 4
#define ABSENT 5

/* ---- the store: durable ---- */
byte build = QUEUED;
byte n = 0;             /* attempts made */
byte st[ATTEMPTS];
bit on[ATTEMPTS];       /* the slave; of those not made 0 */
byte mark[ATTEMPTS];
bit acc[ATTEMPTS];      /* its accept took effect */
bit sup[ATTEMPTS];      /* superseded (P44) */
bit rep[ATTEMPTS];      /* its slave has said how it ended */
bit halt[ATTEMPTS];     /* is to be stopped, for good */
bit rel[ATTEMPTS];      /* released: its slave has nothing of it */
bit slot[ATTEMPTS];     /* occupies one at its slave */
byte ep[SLAVES];        /* epoch of the instance */
bit conn[SLAVES];       /* connected, or away */

/* ---- the master's memory ---- */
byte ms[SLAVES];        /* session: its epoch, 0: none */
byte gone[SLAVES];      /* Disconnects to come: a bit for each epoch */
byte sent[ATTEMPTS];    /* what the session has told */
byte oa[ATTEMPTS];      /* an ACK to send: mark + 1 */
bit first[ATTEMPTS];    /* it tells that `accepted` was committed */
#ifdef NO_FENCE_LOSE
bit verdict[ATTEMPTS];  /* the watch has decided, in memory */
#endif
#ifdef NO_STATE_CHECK_WITHDRAW
bit regret[ATTEMPTS];
#endif

/* ---- slaves: durable ---- */
byte idh[SLAVES];       /* highest epoch (P9) */
byte held[ATTEMPTS];
bit good[ATTEMPTS];     /* how it ended: by itself; else stopped */
bit ran[ATTEMPTS];      /* a process was started. It runs until the end is journaled */

/* ---- agents' memory ---- */
byte se[SLAVES];        /* session: its epoch, 0: none */
bit dial[SLAVES];       /* a Hello is out */
byte dno[SLAVES];       /* which one */
bit want[ATTEMPTS];     /* the store has confirmed that it wants it run (P30) */
bit stop[ATTEMPTS];
bit drop[ATTEMPTS];     /* may be forgotten */
bit part[ATTEMPTS];     /* of the session: a Want has come (P19) */
byte sn[ATTEMPTS];      /* next to send */
byte sa[ATTEMPTS];      /* ACKed */
bit ab[ATTEMPTS];       /* Absent to be said */
bit later[ATTEMPTS];    /* an assignment that waits for the Hello that is out (P8) */

#ifdef NO_KIND_BEFORE_MARKS
bit kind[ATTEMPTS];     /* a stop whose marks were taken, and which is still to be obeyed */
#endif

/* ---- the network ---- */
chan hel[SLAVES] = [2] of { byte, byte, byte };            /* dial, highest epoch, held */
chan up[SLAVES] = [2] of { byte, byte, byte, byte, byte }; /* what, epoch, attempt, first or tombstone, last */
chan dn[SLAVES] = [3] of { byte, byte, byte, byte, byte }; /* what, epoch, then: wants; or attempt, want or mark */
bit wp[SLAVES];         /* a Welcome is on its way */

byte faults = FAULTS;
bit cancelled = 0;      /* a person has cancelled the build */

/* Scratch, no part of the state. */
hidden byte a, b, c, d, e, f, i, j, k, s, w, x;

/* What must hold. A failed one is known by its name. */
hidden byte ok_start_only_accepted;   /* P30: no process before its accept took effect */
hidden byte ok_single_live;           /* P4: one attempt at most may change the build */
hidden byte ok_one_changes;           /* P4: a final build stays, and only the live attempt ends it */
hidden byte ok_accepted_not_withdrawn; /* P30: what may have started is not taken for never started */
hidden byte ok_lost_only_while_away;  /* P10, P42: who is connected is not given up */
hidden byte ok_not_away_while_open;   /* P9, P10: an old session's end does not end the new one */
hidden byte ok_journal_kept;          /* P33: nobody who has his journal is taken for one who lost it */
hidden byte ok_stopped_not_wanted;    /* P31: what was stopped is not what counts */
hidden byte ok_told_before_forgotten; /* P32: what a slave forgets the store has */
hidden byte ok_epoch_rises;           /* P9 */
hidden byte ok_bound;                 /* of the model itself */
hidden byte ok_settled;               /* once healed */

/* ================= the store's rules ================= */

#define LIVE(x) (st[x] == ASSIGNED || st[x] == RUNNING)

/* A loss counts as long as it is not taken back by adoption (P46). */
inline requeue() {
	x = 0;
	j = 0;
	do
	:: j < n -> x = (st[j] == LOST -> x + 1 : x); j++
	:: else -> break
	od;
	build = (x >= LIMIT -> SHELVED : QUEUED)
}

inline set_halt(x) {
	halt[x] = 1
}

/* What was only assigned has started nothing, and costs nothing (P30). */
inline take_back(x) {
	ok_accepted_not_withdrawn = !acc[x];
	assert(ok_accepted_not_withdrawn);
	halt[x] = 1;
	slot[x] = 0;
	st[x] = WITHDRAWN
}

inline finish(to) {
	ok_one_changes = !FINAL;
	assert(ok_one_changes);
	build = to;
	j = 0;
	do
	:: j < n -> halt[j] = (st[j] == LOST && !rep[j] -> 1 : halt[j]); j++
	:: else -> break
	od;
	skip
}

inline check_single() {
	x = 0;
	j = 0;
	do
	:: j < n -> x = (LIVE(j) -> x + 1 : x); j++
	:: else -> break
	od;
	ok_single_live = x <= 1;
	assert(ok_single_live)
}

/* P44: until a replacement is accepted. */
#define ADOPTABLE(x) (st[x] == LOST && !sup[x] && !FINAL && !rep[x] && !halt[x])

inline adopt(y) {
	j = 0;
	do
	:: j < n ->
		if
		:: st[j] == ASSIGNED -> take_back(j)
		:: else
		fi;
		j++
	:: else -> break
	od;
	st[y] = RUNNING;
	slot[y] = 1;
	build = GOES_ON;
	check_single()
}

/* A slave speaks of attempt y. */
inline claim(y) {
	rel[y] = 0;
	slot[y] = (!rep[y] && acc[y] -> 1 : slot[y]);
	if
	:: ADOPTABLE(y) -> adopt(y)
	:: else
	fi
}

inline accept(y) {
	st[y] = RUNNING;
	acc[y] = 1;
#ifndef NO_SUPERSEDE_AT_ACCEPT
	j = 0;
	do
	:: j < n ->
		if
		:: st[j] == LOST && !sup[j] -> sup[j] = 1; halt[j] = (rep[j] -> halt[j] : 1)
		:: else
		fi;
		j++
	:: else -> break
	od;
#endif
	build = GOES_ON;
	check_single()
}

/* P20: what an attempt that is over reports is kept, and changes nothing. */
#ifdef NO_EVIDENCE_ONLY
#define COUNTS(x) 1
#else
#define COUNTS(x) (st[x] == RUNNING)
#endif

inline apply_one(y, seq) {
	claim(y);
	if
	:: seq == 1 && held[y] != DENIED ->
		if
		:: st[y] == ASSIGNED -> accept(y)
		:: else
		fi
	:: seq == 1 && held[y] == DENIED ->
		rep[y] = 1;
		slot[y] = 0;
		if
		:: st[y] == ASSIGNED -> st[y] = REFUSED; requeue()
		:: else
		fi
	:: seq == 2 && COUNTS(y) ->
		/* It counts, so nobody may have stopped it. */
		ok_stopped_not_wanted = good[y] || FINAL;
		assert(ok_stopped_not_wanted);
		rep[y] = 1;
		slot[y] = 0;
		st[y] = SUCCEEDED;
		finish(SUCCEEDED)
	:: seq == 2 && !COUNTS(y) ->
		rep[y] = 1;
		slot[y] = 0
	fi
}

/* P31, read from the store alone. */
#define WISH(x) (rel[x] || st[x] == FREE -> W_NONE : \
	(rep[x] -> W_FORGET : \
	(halt[x] -> W_STOP : \
	(st[x] == ASSIGNED -> W_ASSIGN : \
	(st[x] == RUNNING || ADOPTABLE(x) -> W_RUN : W_STOP)))))

/* What is news to a session: an assignment that was accepted is none. */
#define NEWS(x) (WISH(x) == W_ASSIGN -> W_RUN : WISH(x))

/* A Want in one byte, with its mark. */
#define PACK(x) (WISH(x) * 4 + mark[x])
#define ONTO(x, y) (x < ATTEMPTS && st[x] != FREE && on[x] == y)

/* ================= the master ================= */

/* P9, P33: one transaction. b: highest epoch of the Hello, c: what it holds. */
inline connect() {
	d = ep[s]; /* before */
#ifdef NO_EPOCH_ABOVE_STORE
	e = b + 1;
#else
	e = (b > d -> b : d) + 1;
#endif
	ok_bound = e < 8;
	assert(ok_bound);
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s && !(c & (1 << k)) ->
#ifdef NO_STALE_LIST
			if
			:: !LIVE(k) && (rep[k] || st[k] == WITHDRAWN) -> rel[k] = 1; slot[k] = 0
			:: else
			fi
#else
			if
			:: b >= d && !LIVE(k) && (rep[k] || st[k] == WITHDRAWN) -> rel[k] = 1; slot[k] = 0
			:: else
			fi
#endif
		:: on[k] == s && (c & (1 << k)) -> claim(k)
		:: else
		fi;
		k++
	:: else -> break
	od;
	ep[s] = e;
	conn[s] = 1;
	/* The older stream of the instance is ended; its Disconnect is to come. */
	gone[s] = (ms[s] != 0 -> gone[s] | (1 << ms[s]) : gone[s]);
	ms[s] = e;
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s -> sent[k] = NEWS(k); oa[k] = 0; first[k] = 0
		:: else
		fi;
		k++
	:: else -> break
	od;
	/* Who has hung up hears nothing; the master will notice. */
	if
	:: dial[s] && dno[s] == a ->
		wp[s] = 1;
		dn[s]!WELCOME,e,(ONTO(0, s) -> PACK(0) : 0),(ONTO(1, s) -> PACK(1) : 0),
#if ATTEMPTS > 2
			(ONTO(2, s) -> PACK(2) : 0)
#else
			0
#endif
	:: else
	fi
}

inline master_hangs_up() {
	gone[s] = gone[s] | (1 << ms[s]);
	ms[s] = 0;
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s -> sent[k] = 0; oa[k] = 0; first[k] = 0
		:: else
		fi;
		k++
	:: else -> break
	od;
	skip
}

/* A frame of the slave: committed if its session is the newest (P10). */
inline frame() {
	up[s]?a,e,k,b,c;
	if
	:: ep[s] != e -> skip /* FENCED */
	:: ep[s] == e && a == BATCH ->
		if
		:: b <= mark[k] + 1 && c > mark[k] ->
			first[k] = (mark[k] == 0 -> 1 : first[k]);
			do
			:: mark[k] < c -> f = mark[k] + 1; apply_one(k, f); mark[k] = f
			:: else -> break
			od
		:: else
		fi;
		oa[k] = (ms[s] == e -> mark[k] + 1 : 0);
		first[k] = (ms[s] == e -> first[k] : 0)
	:: ep[s] == e && a == ABSENT ->
		if
		:: rel[k] || (!b && st[k] == ASSIGNED) -> skip /* said before; wanted again */
		:: else ->
			ok_journal_kept = b || st[k] != RUNNING;
			assert(ok_journal_kept);
			ok_told_before_forgotten = !b || rep[k];
			assert(ok_told_before_forgotten);
			rel[k] = 1;
			slot[k] = 0
		fi
	fi
}

inline say_want(y) {
	sent[y] = NEWS(y);
	dn[s]!WANT,ms[s],y,PACK(y),0
}

/* P42: conditional on absence and epoch. What was only assigned is withdrawn. */
inline lose(y) {
	ok_lost_only_while_away = !conn[on[y]];
	assert(ok_lost_only_while_away);
	st[y] = LOST;
	requeue()
}

/* ================= the agent ================= */

/* A session is over. */
inline leave() {
	se[s] = 0;
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s -> part[k] = 0; sn[k] = 0; ab[k] = 0
		:: else
		fi;
		k++
	:: else -> break
	od;
	skip
}

/* What the old stream still carries is lost, up to the Welcome of the new one. */
inline purge_old() {
	j = len(dn[s]);
	x = 0;
	do
	:: j > 0 ->
		dn[s]?a,b,c,d,e;
		x = (a == WELCOME -> 1 : x);
		if
		:: x -> dn[s]!a,b,c,d,e
		:: else
		fi;
		j--
	:: else -> break
	od;
	skip
}

/* The other way round: the dial is given up. */
inline purge_new() {
	j = len(dn[s]);
	x = 0;
	do
	:: j > 0 ->
		dn[s]?a,b,c,d,e;
		x = (a == WELCOME -> 1 : x);
		if
		:: !x -> dn[s]!a,b,c,d,e
		:: else
		fi;
		j--
	:: else -> break
	od;
	wp[s] = 0
}

/* Journals the assignment and `accepted`, or `refused`, in one transaction. */
inline take(y) {
	x = 0;
	j = 0;
	do
	:: j < n -> x = (on[j] == s && held[j] == TAKEN -> 1 : x); j++
	:: else -> break
	od;
	held[y] = (x -> DENIED : TAKEN);
	part[y] = 1;
	sn[y] = 1;
	sa[y] = 0;
#ifdef NO_START_AFTER_ACK
	want[y] = (x -> 0 : 1);
#endif
	later[y] = 0
}

/* What the store has committed of y (P21). */
inline note(y, m) {
	want[y] = (m > sa[y] && held[y] == TAKEN -> 1 : want[y]);
	sa[y] = (m > sa[y] -> m : sa[y])
}

/* One Want: kind v, mark m (P31). */
inline obey(y, v, m) {
	if
	:: v == W_NONE -> skip
	:: v != W_NONE && !HELD(y) ->
		if
		:: v == W_ASSIGN && held[y] == NOT ->
#ifndef NO_DEFER_WHILE_HELLO
			if
			:: dial[s] -> later[y] = 1
			:: else -> take(y)
			fi
#else
			take(y)
#endif
		:: else -> ab[y] = 1
		fi
	:: v != W_NONE && HELD(y) ->
		/* The kind comes before the marks. */
#ifdef NO_KIND_BEFORE_MARKS
		kind[y] = (v == W_STOP && held[y] == TAKEN -> 1 : kind[y]);
#else
		stop[y] = (v == W_STOP && held[y] == TAKEN -> 1 : stop[y]);
#endif
		drop[y] = (v == W_FORGET -> 1 : drop[y]);
		if
		:: !part[y] -> part[y] = 1; sn[y] = m + 1; sa[y] = m
		:: else -> note(y, m)
		fi;
		want[y] = (v == W_RUN && m > 0 && held[y] == TAKEN -> 1 : want[y])
	fi
}

/* P9: from here on no older session is obeyed. b: epoch; c, d, e: wants. */
inline welcome() {
	wp[s] = 0;
	dial[s] = 0;
	ok_epoch_rises = b > idh[s];
	assert(ok_epoch_rises);
	idh[s] = b;
	i = b; /* scratch of inlines below */
	w = c;
	f = d;
	leave();
	se[s] = i;
	k = 0;
	do
	:: k < n -> later[k] = (on[k] == s -> 0 : later[k]); k++
	:: else -> break
	od;
	if
	:: ONTO(0, s) -> obey(0, (w / 4), (w % 4))
	:: else
	fi;
	if
	:: ONTO(1, s) -> obey(1, (f / 4), (f % 4))
	:: else
	fi
#if ATTEMPTS > 2
	;
	if
	:: ONTO(2, s) -> obey(2, (e / 4), (e % 4))
	:: else
	fi
#endif
}

inline over(y) {
	want[y] = 0;
	stop[y] = 0
}

inline receive() {
	dn[s]?a,b,c,d,e;
	if
	:: a == WELCOME -> welcome()
	:: a == WANT && b == se[s] -> k = c; w = d; obey(k, (w / 4), (w % 4))
	:: a == ACK && b == se[s] ->
		if
		:: part[c] && HELD(c) && d < sn[c] -> note(c, d)
		:: else
		fi
	:: a != WELCOME && b != se[s] -> skip
	fi
}

inline say_hello() {
	dial[s] = 1;
	dno[s] = (len(hel[s]) == 0 -> 0 : (dno[s] + 1) % 4);
	c = 0;
	k = 0;
	do
	:: k < n -> c = (on[k] == s && HELD(k) -> c | (1 << k) : c); k++
	:: else -> break
	od;
	hel[s]!dno[s],idh[s],c
}

/* A dial that came to nothing: what was put off is taken, if the older session
 * is still there. */
inline give_up_dial() {
	dial[s] = 0;
	purge_new();
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s && later[k] && se[s] != 0 && held[k] == NOT -> take(k)
		:: else
		fi;
		k++
	:: else -> break
	od;
	skip
}

/* kill -9: what is in the journal stays, and so do runners (P5). */
inline agent_dies() {
	leave();
	dial[s] = 0;
	do
	:: nempty(dn[s]) -> dn[s]?_,_,_,_,_
	:: empty(dn[s]) -> break
	od;
	wp[s] = 0;
	k = 0;
	do
	:: k < n ->
		if
		:: on[k] == s -> want[k] = 0; stop[k] = 0; drop[k] = 0; sa[k] = 0; later[k] = 0
		:: else
		fi;
		k++
	:: else -> break
	od;
	skip
}

/* kill -9 of the master, and another start: nobody is connected. */
inline master_dies() {
	s = 0;
	do
	:: s < HEARD ->
		ms[s] = 0;
		gone[s] = 0;
		conn[s] = 0;
		do
		:: nempty(up[s]) -> up[s]?_,_,_,_,_
		:: empty(up[s]) -> break
		od;
		do
		:: nempty(hel[s]) -> hel[s]?_,_,_
		:: empty(hel[s]) -> break
		od;
		s++
	:: else -> break
	od;
	k = 0;
	do
	:: k < n ->
		sent[k] = 0;
		oa[k] = 0;
		first[k] = 0;
#ifdef NO_FENCE_LOSE
		verdict[k] = 0;
#endif
#ifdef NO_STATE_CHECK_WITHDRAW
		regret[k] = 0;
#endif
		k++
	:: else -> break
	od;
	skip
}

/* ---- steps, for each attempt and slave ---- */

#define CAN_TALK(y, r) (ms[on[y]] != 0 && ms[on[y]] == ep[on[y]] && len(dn[on[y]]) + r <= 3)

#define ATTEMPT_STEPS(y) \
	/* P31: wants, read from the store. */ \
	:: d_step { st[y] != FREE && CAN_TALK(y, 1) && NEWS(y) != W_NONE && NEWS(y) != sent[y] -> s = on[y]; say_want(y) } \
	/* P30: the ACK of `accepted` after any word against it. */ \
	:: d_step { st[y] != FREE && oa[y] != 0 && CAN_TALK(y, 2) -> s = on[y]; \
		if \
		:: first[y] && NEWS(y) != W_NONE && AGAINST(y) -> say_want(y) \
		:: else \
		fi; \
		dn[s]!ACK,ms[s],y,oa[y] - 1,0; oa[y] = 0; first[y] = 0 } \
	/* P42: the watch; P30: an assigned one may be withdrawn at any time. */ \
	:: d_step { st[y] == RUNNING && !conn[on[y]] && LOSES -> lose(y) } \
	:: d_step { st[y] == ASSIGNED -> WITHDRAW(y) } \
	/* P19: the sender; answers go first. */ \
	:: d_step { st[y] != FREE && se[on[y]] != 0 && part[y] && HELD(y) && sn[y] <= LAST(y) && ANSWERED(on[y]) && nfull(up[on[y]]) -> \
		s = on[y]; up[s]!BATCH,se[s],y,sn[y],sn[y]; sn[y] = sn[y] + 1 } \
	:: d_step { st[y] != FREE && se[on[y]] != 0 && part[y] && HELD(y) && sn[y] < LAST(y) && ANSWERED(on[y]) && nfull(up[on[y]]) -> \
		s = on[y]; up[s]!BATCH,se[s],y,sn[y],LAST(y); sn[y] = LAST(y) + 1 } \
	:: d_step { ab[y] && se[on[y]] != 0 && nfull(up[on[y]]) -> \
		s = on[y]; up[s]!ABSENT,se[s],y,(held[y] == BURIED -> 1 : 0),0; ab[y] = 0 } \
	/* P30, P35: a process starts, once. */ \
	:: d_step { held[y] == TAKEN && !ran[y] && want[y] && !stop[y] && !drop[y] -> \
		ok_start_only_accepted = acc[y]; assert(ok_start_only_accepted); ran[y] = 1 } \
	/* P36, P38: its end is journaled when nothing of it runs. One that ends by \
	 * itself before the stop has reached it says so. */ \
	:: d_step { held[y] == TAKEN && ran[y] -> held[y] = OVER; good[y] = 1; over(y) } \
	:: d_step { held[y] == TAKEN && (stop[y] || drop[y]) -> held[y] = OVER; good[y] = 0; over(y) } \
	/* P32 */ \
	:: d_step { (held[y] == OVER || held[y] == DENIED) && drop[y] && sa[y] == LAST(y) -> \
		held[y] = BURIED; ab[y] = (part[y] -> 1 : ab[y]); part[y] = 0; sn[y] = 0; sa[y] = 0; \
		want[y] = 0; stop[y] = 0; drop[y] = 0 }

#define SLAVE_STEPS(z) \
	/* P8, P15 */ \
	:: d_step { se[z] == 0 && !dial[z] && nfull(hel[z]) -> s = z; say_hello() } \
	:: d_step { nempty(hel[z]) && len(dn[z]) < 3 -> s = z; hel[z]?a,b,c; connect() } \
	:: d_step { nempty(dn[z]) -> s = z; receive() } \
	:: d_step { nempty(up[z]) -> s = z; frame() } \
	/* Either side notices that the other is gone. */ \
	:: d_step { se[z] != 0 && ms[z] != se[z] -> s = z; purge_old(); leave() } \
	:: d_step { ms[z] != 0 && se[z] != ms[z] && !wp[z] -> s = z; master_hangs_up() } \
	:: d_step { dial[z] && empty(hel[z]) && !wp[z] -> s = z; give_up_dial() } \
	:: d_step { nempty(hel[z]) && !dial[z] -> hel[z]?_,_,_ } \
	/* P10: Disconnect is fenced by the epoch. */ \
	:: d_step { gone[z] != 0 -> s = z; disconnect() } \
	/* Faults: a stream breaks, noticed by one side; a second dial (P14), a dial \
	 * given up whose Hello comes in all the same; kill -9 of the agent. */ \
	:: d_step { se[z] != 0 && faults > 0 -> faults--; s = z; purge_old(); leave() } \
	:: d_step { ms[z] != 0 && faults > 0 -> faults--; s = z; master_hangs_up() } \
	:: d_step { se[z] != 0 && !dial[z] && nfull(hel[z]) && faults > 0 -> faults--; s = z; say_hello() } \
	:: d_step { dial[z] && faults > 0 -> faults--; s = z; give_up_dial() } \
	:: d_step { faults > 0 -> faults--; s = z; agent_dies() }

/* What goes ahead of that ACK: any word against it, also one that was said
 * before; the slave may not have held the attempt then. */
#ifdef NO_WANTS_BEFORE_ACK
#define AGAINST(y) 0
#else
#ifdef NO_WORD_AGAIN
#define AGAINST(y) (NEWS(y) != sent[y])
#else
#define AGAINST(y) (NEWS(y) != sent[y] || NEWS(y) != W_RUN)
#endif
#endif

#ifdef NO_FENCE_LOSE
#define LOSES verdict[0] > 1
#else
#define LOSES 1
#endif

#ifdef NO_STATE_CHECK_WITHDRAW
#define WITHDRAW(y) regret[y] = 1
#else
#define WITHDRAW(y) take_back(y); requeue()
#endif

inline disconnect() {
	e = 1;
	do
	:: gone[s] & (1 << e) -> break
	:: else -> e++
	od;
	gone[s] = gone[s] ^ (1 << e);
	if
#ifdef NO_FENCE_DISCONNECT
	:: conn[s] ->
#else
	:: ep[s] == e && conn[s] ->
#endif
		ok_not_away_while_open = ms[s] == 0;
		assert(ok_not_away_while_open);
		conn[s] = 0
	:: else
	fi
}

#define BUSY(z) ((st[0] != FREE && on[0] == z && slot[0]) || (st[1] != FREE && on[1] == z && slot[1]) BUSY_3(z))
#define ANSWERED(z) (!(ab[0] && on[0] == z) && !(ab[1] && on[1] == z) ANSWERED_3(z))
#if ATTEMPTS > 2
#define ANSWERED_3(z) && !(ab[2] && on[2] == z)
#define BUSY_3(z) || (st[2] != FREE && on[2] == z && slot[2])
#define ANY_LIVE (LIVE(0) || LIVE(1) || LIVE(2))
#else
#define ANSWERED_3(z)
#define BUSY_3(z)
#define ANY_LIVE (LIVE(0) || LIVE(1))
#endif

/* P48: one live attempt, the session current, a slot free. */
#define ASSIGN(z) \
	:: d_step { build == QUEUED && n < ATTEMPTS && !ANY_LIVE && ms[z] != 0 && ms[z] == ep[z] && conn[z] && !BUSY(z) && (z == 0 || n > 0) -> \
		st[n] = ASSIGNED; on[n] = z; slot[n] = 1; n++ }

init {
	/* Both slaves are connected: what came before is of no interest. */
	d_step {
		ep[0] = 1; conn[0] = 1; ms[0] = 1; idh[0] = 1; se[0] = 1;
		ep[1] = 1; conn[1] = 1; ms[1] = 1; idh[1] = 1; se[1] = 1
	};
	do
	ASSIGN(0)
#ifndef ONE_SLAVE
	ASSIGN(1)
#endif
	ATTEMPT_STEPS(0)
	ATTEMPT_STEPS(1)
#if ATTEMPTS > 2
	ATTEMPT_STEPS(2)
#endif
	SLAVE_STEPS(0)
#ifndef ONE_SLAVE
	SLAVE_STEPS(1)
#endif

	/* P45 */
	:: d_step { !cancelled && !FINAL ->
		cancelled = 1;
		k = 0;
		do
		:: k < n ->
			if
			:: st[k] == ASSIGNED -> take_back(k)
			:: st[k] == RUNNING -> halt[k] = 1; st[k] = CANCELLED
			:: else
			fi;
			k++
		:: else -> break
		od;
		finish(CANCELLED) }

#ifdef NO_KIND_BEFORE_MARKS
	:: d_step { kind[0] -> kind[0] = 0; stop[0] = (held[0] == TAKEN -> 1 : 0) }
	:: d_step { kind[1] -> kind[1] = 0; stop[1] = (held[1] == TAKEN -> 1 : 0) }
#endif
#ifdef NO_FENCE_LOSE
	/* The watch decides by what it has seen, and looks no more. */
	:: d_step { st[0] == RUNNING && !conn[on[0]] -> verdict[0] = 1 }
	:: d_step { verdict[0] && st[0] == RUNNING -> verdict[0] = 0; lose(0) }
#endif
#ifdef NO_STATE_CHECK_WITHDRAW
	:: d_step { regret[0] -> regret[0] = 0; take_back(0); requeue() }
#endif

	:: d_step { faults > 0 -> faults--; master_dies() }

	/* The world heals. */
	:: d_step { faults > 0 -> faults = 0 }

	/* Nothing moves any more. */
	:: timeout ->
		d_step {
			ok_settled = se[0] != 0 && se[1] != 0 && conn[0] && conn[1] &&
				(FINAL || (build == QUEUED && n == ATTEMPTS && !ANY_LIVE));
			assert(ok_settled);
			k = 0;
			do
			:: k < n ->
				ok_settled = rel[k] && !slot[k] && !HELD(k) ;
				assert(ok_settled);
				k++
			:: else -> break
			od
		};
		break
	od;
	skip
}
