/*
 * One attempt's stream: append, send, commit, ACK, trim, resume. Rule numbers
 * are those of PROTOCOL.md; README.md says what is bounded and what left out.
 *
 * The state is global and each step of either side is one option of one loop:
 * all orders of steps are tried. FAULTS of them may be faults. At any time the
 * world may heal; what stands still then must have arrived.
 *
 *   slave   made ─► written ─► synced ─► sent        trimmed ◄─ ACK
 *   master  received ─► queued ─► written ─► synced ─► ACK
 *
 * -DNO_… takes one rule away. -DRESTORE adds one restore of the store from an
 * older copy, -DJOURNAL_SYNC_FAILS a sync of the journal that fails, followed by
 * one that lies (README.md).
 */
#ifndef N
#define N 3 /* updates that the slave makes; the last is the end of the attempt */
#endif
#ifndef FAULTS
#define FAULTS 3
#endif
#define TOP (N + 2) /* and the snapshot of P27; places are numbered from 1 */
#define NONE 9      /* no slot */
#define GAPPED 15   /* an update that is told to people as gone (P27) */

/* Messages, and what the committer is asked to do. */
#define HELLO 1
#define BATCH 2
#define GAP 3
#define WELCOME 4
#define ACK 5

/* A session's place at the slave. */
#define CLOSED 0
#define GREETING 1
#define UP 2

/* ---- the slave ---- */
byte jm = 0;   /* made: told to nobody yet, in memory */
byte jw = 0;   /* written to the journal: outlives the process (P1) */
byte js = 0;   /* synced: outlives the machine */
#if defined(NO_SYNC_BEFORE_USE_SLAVE) || defined(JOURNAL_SYNC_FAILS)
#define BELIEVED
byte jb = 0;   /* what the agent takes for synced */
#else
#define jb js
#endif
byte trim = 0; /* up to here dropped from the journal */
byte life = 1; /* of the agent: what an update says depends on who looked */
byte said[TOP]; /* by seq: the life in which it was made. Stands for the chain (P17) */
byte snap = 0;  /* the seq of the snapshot (P27), 0: none */
byte idh = 0;   /* highest epoch, in identity.json (P9) */
byte se = 0;    /* epoch of the session in use, 0: none */
byte sn = 0;    /* next to send in it (P19) */
byte sa = 0;    /* ACKed in it */
byte gto = 0;   /* a Gap to send first: up to here */
byte ss[2];     /* sessions: one in use, one being dialled (P14) */

/* ---- the network: a stream each way for each session ---- */
chan up[2] = [2] of { byte, byte, byte, byte, byte }; /* what, first or highest epoch, last, said, said */
chan dn[2] = [2] of { byte, byte, byte };             /* what, epoch, mark */

/* ---- the master's memory ---- */
byte me[2];       /* by session: epoch, 0: none */
bit mp[2];        /* a Hello waits for its commit */
byte oa[2];       /* an ACK to send: mark + 1 */
chan q = [2] of { byte, byte, byte, byte, byte, byte, byte }; /* what, session, epoch, first, last, said, said (P41) */
byte tw = 0;      /* what the transaction does that is written and not synced; 0: none */
byte ts = 0;      /* for which session */
byte te = 0;      /* its epoch */

/* ---- the store ---- */
byte mw = 0;      /* mark, written */
byte md = 0;      /* mark, synced */
byte ew = 0;      /* the slave's epoch, written */
byte ed = 0;      /* synced */
byte has[TOP];    /* by seq: what was applied; 0: nothing yet */
#ifdef NO_SYNC_BEFORE_USE_MASTER
bit stuck = 0;    /* the kernel takes pages for written that are not, and syncs no more of them */
#else
#define stuck 0
#endif
#ifdef RESTORE
byte bm = 0;      /* a backup: mark */
byte be = 0;      /* and epoch */
bit backed = 0;
bit restored = 0;
byte had = 0;     /* the highest mark that was ever durable */
#else
#define restored 0
#define had md
#endif

byte faults = FAULTS;

/* Scratch, no part of the state. */
hidden byte a, b, c, d, e, i, k;

/* What must hold. A failed one is known by its name. */
hidden byte ok_once;                /* P2: nothing is applied twice */
hidden byte ok_in_order;            /* P2: nothing is applied before what precedes it */
hidden byte ok_acked_is_durable;    /* P1, P21: an ACK speaks of what no crash takes back */
hidden byte ok_journal_has_sent;    /* P1: the store has nothing that a crash takes from the slave */
hidden byte ok_held_or_stored;      /* P1: what is not in the store is in the journal */
hidden byte ok_gap_only_by_restore; /* P27: no gap but after a restore */
hidden byte ok_welcome_above;       /* P9: a slave is not turned away by an old epoch */
hidden byte ok_same_words;          /* P2: the store has what the journal says */
hidden byte ok_all_arrived;         /* once healed */

#define FAULT faults > 0 -> faults--

inline purge_up(x) {
	do
	:: nempty(up[x]) -> up[x]?_,_,_,_,_
	:: empty(up[x]) -> break
	od;
	skip
}

inline purge_dn(x) {
	do
	:: nempty(dn[x]) -> dn[x]?_,_,_
	:: empty(dn[x]) -> break
	od;
	skip
}

/* The slave's end of session x is closed. */
inline close(x) {
	if
	:: ss[x] == UP -> se = 0; sn = 0; sa = 0; gto = 0
	:: else
	fi;
	ss[x] = CLOSED;
	purge_dn(x)
}

/* The master's end is. What it has queued stays with the committer. */
inline hang_up(x) {
	me[x] = 0;
	oa[x] = 0;
	purge_up(x)
}

/* The agent dies: what it had in memory is gone. */
inline agent_dies() {
	close(0);
	close(1);
	jm = jw;
	life++
}

/* Another agent opens the journal. What it finds may be only in the page
 * cache: P40 wants it synced before it is used. */
inline agent_opens() {
#ifdef NO_SYNC_BEFORE_USE_SLAVE
	jb = jw
#else
	js = jw
#ifdef BELIEVED
	;
	jb = js
#endif
#endif
}

inline forget_after(x) { /* words that no file has any more */
	k = x + 1;
	do
	:: k < TOP -> said[k] = 0; k++
	:: else -> break
	od
}

inline master_dies() {
	hang_up(0);
	hang_up(1);
	mp[0] = 0;
	mp[1] = 0;
	do
	:: nempty(q) -> q?_,_,_,_,_,_,_
	:: empty(q) -> break
	od;
	tw = 0;
	ts = 0;
	te = 0
}

/* Another master opens the store, and checkpoints it with sync before the
 * first Welcome (P40). */
inline master_opens() {
	skip;
#ifndef NO_SYNC_BEFORE_USE_MASTER
	md = mw;
	ed = ew;
	remember()
#endif
}

inline remember() {
#ifdef RESTORE
	if
	:: md > had -> had = md
	:: else
	fi
#else
	skip
#endif
}

inline store_goes_back_to(m) {
	k = m + 1;
	do
	:: k < TOP -> has[k] = 0; k++
	:: else -> break
	od;
	mw = m
}

/* Update k takes effect. */
inline effect(k, word) {
	ok_once = has[k] == 0;
	assert(ok_once);
	ok_in_order = k == 1 || has[k - 1] != 0;
	assert(ok_in_order);
	has[k] = word
}

/* P20, on the written state: a batch a…b with words c, d. */
inline apply() {
	if
	:: a <= mw + 1 && b > mw -> /* the suffix that is new */
		if
		:: a > mw -> effect(a, c)
		:: else
		fi;
		if
		:: b > a -> effect(b, d)
		:: else
		fi;
		mw = b
	:: b <= mw -> skip /* known: ACKed again */
	:: a > mw + 1 -> /* beyond: answered with the mark */
#ifdef NO_CONTIGUOUS_APPLY
		effect(a, c);
		if
		:: b > a -> effect(b, d)
		:: else
		fi;
		mw = b
#else
		skip
#endif
	fi
}

/* Whether the batch a…b of epoch e may be applied, by what memory says. */
#define FENCED(epoch) (epoch != ew)

/* P27: the store lacks what it has ACKed. A snapshot takes the place of what is
 * held, once. */
inline gap() {
	ok_gap_only_by_restore = restored;
	assert(ok_gap_only_by_restore);
	if
	:: snap != 0 && snap > trim -> skip
	:: else ->
		trim = js;
		jm++;
		jw++;
		js++;
		snap = js;
		said[js] = life
	fi;
	gto = trim;
	sn = trim + 1
}

inline welcome() {
	/* b: epoch, c: mark */
	ok_welcome_above = b > idh;
	assert(ok_welcome_above);
	idh = b; /* durable before anything is sent */
	close(1 - i);
	ss[i] = UP;
	se = b;
	ok_journal_has_sent = c <= js;
	assert(ok_journal_has_sent);
	ok_acked_is_durable = c <= had;
	assert(ok_acked_is_durable);
	sn = c + 1;
	sa = c;
	if
	:: trim > c -> gap()
	:: else -> trim = c
	fi
}

inline ack() {
	/* b: epoch, c: mark */
	if
	:: b == se && c < sn && c > sa ->
		ok_acked_is_durable = c <= had;
		assert(ok_acked_is_durable);
		sa = c;
		if
		:: c > trim -> trim = c
		:: else
		fi
	:: else -> skip /* another session's, or beyond what was sent */
	fi
}

/* A frame a: b…c with words d, e of session i. */
inline admit() {
#ifdef NO_FENCE_IN_TRANSACTION
	/* A check in memory: epoch and mark, as they are now. */
	if
	:: a == BATCH && !FENCED(me[i]) && b == mw + 1 -> q!a,i,me[i],b,c,d,e
	:: else -> oa[i] = mw + 1
	fi
#else
	q!a,i,me[i],b,c,d,e
#endif
	;
#ifdef NO_COMMIT_BEFORE_ACK
	oa[i] = c + 1
#endif
}

inline receive() {
	up[i]?a,b,c,d,e;
	if
	:: a == HELLO -> mp[i] = 1; q!HELLO,i,0,b,0,0,0
	:: else -> admit()
	fi
}

/* The operation k of session i under epoch e is written. */
inline commit() {
	if
	:: k == HELLO ->
		/* P9: above both. */
#ifdef NO_EPOCH_ABOVE_HELLO
		ew = ew + 1;
#else
		ew = (a > ew -> a : ew) + 1;
#endif
		tw = HELLO; ts = i; te = ew
#ifdef NO_FENCE_IN_TRANSACTION
	:: k == BATCH ->
		effect(a, c);
		if :: b > a -> effect(b, d) :: else fi;
		mw = b;
		tw = BATCH; ts = i; te = e
#else
	:: k != HELLO && FENCED(e) -> /* P10 */
		if :: me[i] == e -> hang_up(i) :: else fi
	:: k == BATCH && !FENCED(e) ->
		apply();
		tw = BATCH; ts = i; te = e
#endif
	:: k == GAP && !FENCED(e) ->
		if
		:: b > mw && a <= mw + 1 ->
			do
			:: mw < b -> mw++; has[mw] = GAPPED
			:: else -> break
			od
		:: else
		fi;
		tw = GAP; ts = i; te = e
	fi
}

inline end_of_attempt() {
#ifdef NO_MARK_KEPT
	/* The attempt is over, so who needs its mark. */
	if
	:: mw == N -> mw = 0; md = 0
	:: else
	fi
#else
	skip
#endif
}

init {
	do
	/* ================= slave ================= */

	/* P18: something happened, and is to be told. */
	:: d_step { jm < N + (snap != 0) -> jm++; said[jm] = life }

	/* P1: append writes, then syncs. */
	:: d_step { jw < jm -> jw = jm }
	:: d_step { js < jw -> js = jw;
#ifdef BELIEVED
		jb = js
#endif
		}

	/* P8, P15: dial if there is no session; P14: also beside one that is
	 * stalled, or seems to be. */
	:: d_step { se == 0 && ss[0] == CLOSED && ss[1] == CLOSED && me[0] == 0 && !mp[0] && empty(up[0]) ->
		up[0]!HELLO,idh,0,0,0; ss[0] = GREETING }
	:: d_step { se == 0 && ss[0] == CLOSED && ss[1] == CLOSED && me[1] == 0 && !mp[1] && empty(up[1]) ->
		up[1]!HELLO,idh,0,0,0; ss[1] = GREETING }
	:: d_step { ss[0] == UP && ss[1] == CLOSED && me[1] == 0 && !mp[1] && empty(up[1]) &&
		sn - 1 > sa && sn > js && gto == 0 && empty(up[0]) && empty(dn[0]) && empty(q) && tw == 0 && oa[0] == 0 ->
		up[1]!HELLO,idh,0,0,0; ss[1] = GREETING }
	:: d_step { ss[1] == UP && ss[0] == CLOSED && me[0] == 0 && !mp[0] && empty(up[0]) &&
		sn - 1 > sa && sn > js && gto == 0 && empty(up[1]) && empty(dn[1]) && empty(q) && tw == 0 && oa[1] == 0 ->
		up[0]!HELLO,idh,0,0,0; ss[0] = GREETING }
	:: d_step { ss[0] == UP && ss[1] == CLOSED && me[1] == 0 && !mp[1] && empty(up[1]) && faults > 0 ->
		faults--; up[1]!HELLO,idh,0,0,0; ss[1] = GREETING }
	:: d_step { ss[1] == UP && ss[0] == CLOSED && me[0] == 0 && !mp[0] && empty(up[0]) && faults > 0 ->
		faults--; up[0]!HELLO,idh,0,0,0; ss[0] = GREETING }

	/* P9: Welcome. Its mark is the first ACK of the session (P21). A report
	 * that is being written (jm > js) keeps P27 waiting. */
	:: d_step { nempty(dn[0]) && ss[0] == GREETING && (!restored || jm == js) -> i = 0; dn[0]?a,b,c; welcome() }
	:: d_step { nempty(dn[1]) && ss[1] == GREETING && (!restored || jm == js) -> i = 1; dn[1]?a,b,c; welcome() }

	/* P21: an ACK. */
	:: d_step { nempty(dn[0]) && ss[0] == UP -> dn[0]?a,b,c; ack() }
	:: d_step { nempty(dn[1]) && ss[1] == UP -> dn[1]?a,b,c; ack() }

	/* P19: send from the mark on, each update once a session, one or two at a
	 * time; only what is durable (P1). */
#ifdef NO_JOURNAL_BEFORE_SEND
#define SENDABLE jm
#else
#define SENDABLE jb
#endif
	:: d_step { ss[0] == UP && me[0] != 0 && gto == 0 && sn <= SENDABLE && nfull(up[0]) -> up[0]!BATCH,sn,sn,said[sn],0; sn++ }
	:: d_step { ss[1] == UP && me[1] != 0 && gto == 0 && sn <= SENDABLE && nfull(up[1]) -> up[1]!BATCH,sn,sn,said[sn],0; sn++ }
	:: d_step { ss[0] == UP && me[0] != 0 && gto == 0 && sn + 1 <= SENDABLE && nfull(up[0]) ->
		up[0]!BATCH,sn,sn + 1,said[sn],said[sn + 1]; sn = sn + 2 }
	:: d_step { ss[1] == UP && me[1] != 0 && gto == 0 && sn + 1 <= SENDABLE && nfull(up[1]) ->
		up[1]!BATCH,sn,sn + 1,said[sn],said[sn + 1]; sn = sn + 2 }
#ifdef RESTORE
	/* P27: the Gap goes ahead of the snapshot. */
	:: d_step { ss[0] == UP && me[0] != 0 && gto != 0 && nfull(up[0]) -> up[0]!GAP,sa + 1,gto,0,0; gto = 0 }
	:: d_step { ss[1] == UP && me[1] != 0 && gto != 0 && nfull(up[1]) -> up[1]!GAP,sa + 1,gto,0,0; gto = 0 }
#endif

	/* The slave notices that a session is over. */
	:: d_step { ss[0] == UP && me[0] == 0 && empty(dn[0]) -> close(0) }
	:: d_step { ss[1] == UP && me[1] == 0 && empty(dn[1]) -> close(1) }
	:: d_step { ss[0] == GREETING && !mp[0] && empty(up[0]) && empty(dn[0]) -> close(0) }
	:: d_step { ss[1] == GREETING && !mp[1] && empty(up[1]) && empty(dn[1]) -> close(1) }

	/* ================= master ================= */

	/* Receive: into the committer's queue, in stream order. */
	:: d_step { nempty(up[0]) && nfull(q) && (me[0] != 0 || up[0]?[HELLO,a,b,c,d]) -> i = 0; receive() }
	:: d_step { nempty(up[1]) && nfull(q) && (me[1] != 0 || up[1]?[HELLO,a,b,c,d]) -> i = 1; receive() }

	/* P41: the committer writes one operation… */
	:: d_step { tw == 0 && nempty(q) -> q?k,i,e,a,b,c,d; commit() }

	/* …and syncs it. What depends on it is said after that (P21). */
	:: d_step { tw != 0 ->
		md = (stuck -> md : mw);
		ed = (stuck -> ed : ew);
		remember();
		if
		:: tw == HELLO -> mp[ts] = 0; me[ts] = te; if :: ss[ts] == GREETING -> dn[ts]!WELCOME,te,mw :: else fi
		:: tw != HELLO && me[ts] == te -> oa[ts] = mw + 1
		:: else
		fi;
		tw = 0; ts = 0; te = 0;
		end_of_attempt() }

	:: d_step { oa[0] != 0 && nfull(dn[0]) -> if :: ss[0] == UP -> dn[0]!ACK,me[0],oa[0] - 1 :: else fi; oa[0] = 0 }
	:: d_step { oa[1] != 0 && nfull(dn[1]) -> if :: ss[1] == UP -> dn[1]!ACK,me[1],oa[1] - 1 :: else fi; oa[1] = 0 }

	/* P11, P13: it ends a session that a newer one replaces, or whose slave is
	 * gone. Until then the old one's frames come in. */
	:: d_step { me[0] != 0 && (ss[0] == CLOSED || me[1] > me[0]) -> hang_up(0) }
	:: d_step { me[1] != 0 && (ss[1] == CLOSED || me[0] > me[1]) -> hang_up(1) }
	/* A Hello whose slave hung up may be lost, or come in all the same. */
	:: d_step { ss[0] == CLOSED && up[0]?[HELLO,a,b,c,d] -> purge_up(0) }
	:: d_step { ss[1] == CLOSED && up[1]?[HELLO,a,b,c,d] -> purge_up(1) }

	/* ================= faults ================= */

	/* A stream breaks, noticed by one side. */
	:: d_step { ss[0] != CLOSED && faults > 0 -> faults--; close(0) }
	:: d_step { ss[1] != CLOSED && faults > 0 -> faults--; close(1) }
	:: d_step { me[0] != 0 && faults > 0 -> faults--; hang_up(0) }
	:: d_step { me[1] != 0 && faults > 0 -> faults--; hang_up(1) }
	/* A message is lost, or comes twice: more than a stream may do, and harmless. */
	:: d_step { nempty(up[0]) && me[0] != 0 && faults > 0 -> faults--; up[0]?a,b,c,d,e }
	:: d_step { nempty(up[1]) && me[1] != 0 && faults > 0 -> faults--; up[1]?a,b,c,d,e }
	:: d_step { nempty(up[0]) && me[0] != 0 && faults > 0 && nfull(q) -> faults--; i = 0;
		up[0]?<a,b,c,d,e>; admit() }
	:: d_step { nempty(up[1]) && me[1] != 0 && faults > 0 && nfull(q) -> faults--; i = 1;
		up[1]?<a,b,c,d,e>; admit() }
	:: d_step { nempty(dn[0]) && faults > 0 -> faults--; dn[0]?a,b,c }
	:: d_step { nempty(dn[1]) && faults > 0 -> faults--; dn[1]?a,b,c }
	/* P41: one operation fails for itself; its session ends, what was queued
	 * behind it is tried all the same. */
	:: d_step { tw == 0 && nempty(q) && faults > 0 -> faults--; q?k,i,e,a,b,c,d;
		mp[i] = (k != HELLO -> mp[i] : 0);
		if :: me[i] == e && e != 0 -> hang_up(i) :: else fi }

	/* kill -9 of the agent: the page cache outlives it. */
	:: d_step { faults > 0 -> faults--; agent_dies(); forget_after(jw); agent_opens() }
#ifdef JOURNAL_SYNC_FAILS
	/* A sync of the journal fails, and the agent stops. The next one's sync
	 * before use says yes: the kernel takes the pages for written. */
	:: d_step { js < jw && faults > 0 -> faults--; agent_dies(); forget_after(jw); jb = jw }
#endif
	/* Power cut at the slave. */
	:: d_step { faults > 0 -> faults--; agent_dies(); jw = js; jm = js; forget_after(js);
#ifdef BELIEVED
		jb = js;
#endif
		ok_journal_has_sent = mw <= js; assert(ok_journal_has_sent) }
	/* kill -9 of the master. */
	:: d_step { faults > 0 -> faults--; master_dies(); master_opens() }
	/* A sync of the store fails, and the master stops (P41). The page cache has
	 * what the disk has not, and no further sync writes it. */
	:: d_step { tw != 0 && faults > 0 -> faults--; master_dies();
#ifdef NO_SYNC_BEFORE_USE_MASTER
		stuck = 1;
#endif
		master_opens() }
	/* Power cut at the master. */
	:: d_step { faults > 0 -> faults--; master_dies(); store_goes_back_to(md); ew = ed;
#ifdef NO_SYNC_BEFORE_USE_MASTER
		stuck = 0;
#endif
		ok_held_or_stored = trim <= mw || restored; assert(ok_held_or_stored) }
#ifdef RESTORE
	:: d_step { !backed -> backed = 1; bm = md; be = ed }
	:: d_step { backed && !restored -> restored = 1; master_dies(); store_goes_back_to(bm); md = bm; ew = be; ed = be }
#endif

	/* The world heals. */
	:: d_step { faults > 0 -> faults = 0 }

	/* Nothing moves any more. */
	:: timeout ->
		d_step {
			ok_all_arrived = jm >= N && js == jm && md == js && mw == js && trim == js && se != 0;
			assert(ok_all_arrived);
			k = 1;
			do
			:: k <= js ->
				ok_same_words = has[k] == said[k] || (restored && has[k] == GAPPED);
				assert(ok_same_words);
				k++
			:: else -> break
			od
		};
		break
	od
}
