package slave

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
)

const (
	// refusedCap is the longest wait while masters refuse us at Hello: only a
	// person, or lost_after, changes that.
	refusedCap = 30 * time.Second
	// maxStallAfter bounds the doubling of Config.StallAfter (P-stall): beyond
	// it keepalive has had its say.
	maxStallAfter = 25 * time.Second
	// maxLearnt bounds the addresses taken from a Welcome.
	maxLearnt = 64
	// maxWelcomeTimeout bounds the doubling of Config.WelcomeTimeout.
	maxWelcomeTimeout = 30 * time.Second
)

// link keeps one session open, for ever: it dials, waits, and dials again.
// The fields without a lock are owned by run.
type link struct {
	a          *Agent
	log        *slog.Logger
	netChanged <-chan struct{}

	addrs       []string // configured first, then those learnt from the last Welcome
	at          int      // of addrs: the one to dial next; while a session lives, its own
	backoff     *retry.Reconnect
	stallAfter  time.Duration
	lateWelcome int               // Welcomes in a row that did not come in time
	told        map[string]string // by address: the last trouble that was logged
	downSince   time.Time

	// takeMu is held while a new attempt is taken and while a Hello is put
	// together. A Hello that is out says what we hold; an attempt taken behind its
	// back would look as if we had lost it (P-absent).
	takeMu   sync.Mutex
	helloOut bool
	deferred []*holdfastv1.Want // new attempts that came while a Hello was out

	// obeyMu is held while one message of a session is obeyed, and while a
	// Welcome makes a session the newest: what an older one says after that is not
	// obeyed, and what it said before has been (P-epoch).
	obeyMu sync.Mutex
}

func newLink(a *Agent) *link {
	return &link{
		a:          a,
		log:        a.log,
		netChanged: a.cfg.NetChanged,
		addrs:      slices.Clone(a.cfg.Masters),
		backoff: &retry.Reconnect{
			Backoff: retry.Backoff{Base: a.cfg.ReconnectBase, Cap: a.cfg.ReconnectCap},
			Rand:    a.cfg.Rand,
		},
		stallAfter: a.cfg.StallAfter,
		told:       make(map[string]string),
		downSince:  time.Now(),
	}
}

// run never gives up: only a broken disk of our own ends it, or ctx
// (P-reconnect).
func (l *link) run(ctx context.Context) error {
	for ctx.Err() == nil {
		s, err := l.connect(ctx, l.addrs[l.at])
		if err == nil {
			err = l.serve(ctx, s)
		}
		if ctx.Err() != nil {
			break
		}
		if isFatal(err) {
			return fmt.Errorf("session: %w", err)
		}
		if err := l.wait(ctx, l.failed(err)); err != nil {
			break
		}
	}
	return nil
}

// isFatal reports whether err came from our own disk and not from the network.
func isFatal(err error) bool {
	var local *localError
	return errors.As(err, &local)
}

// localError is a failure of this machine inside a session.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// local marks err as ours. A full journal or disk is not: it passes, and the
// next session tries the same again.
func local(err error) error {
	if err == nil || isNoSpace(err) && !errors.Is(err, journal.ErrFatal) {
		return err
	}
	return &localError{err}
}

// failed notes that a dial or a session ended with err and says how long to
// wait. The wait grows until a session has made progress (P-refuse: a frame
// that is always refused must not make a hot loop).
func (l *link) failed(err error) time.Duration {
	addr := l.addrs[l.at]
	refusal, refused := rpcerr.From(err)
	if text := fmt.Sprint(err); l.told[addr] != text {
		l.told[addr] = text
		if refused {
			l.log.Warn("refused by the master; trying on", "addr", addr, "reason", refusal.Reason, "err", refusal.Message)
		} else {
			l.log.Info("no session with the master; trying on", "addr", addr, "err", err)
		}
	}
	l.at = (l.at + 1) % len(l.addrs)
	if refused {
		// A master may know which other one is the better for us (P-move). It cannot
		// send us to where we would not have gone by ourselves.
		if at := slices.Index(l.addrs, refusal.Meta[rpcerr.MetaMaster]); at >= 0 {
			l.at = at
		}
	}
	l.noteLate(err)
	l.backoff.Backoff.Cap = l.a.cfg.ReconnectCap
	if refused && rpcerr.Is(err, rpcerr.Identity, rpcerr.BadHello, rpcerr.WrongStore) {
		l.backoff.Backoff.Cap = max(refusedCap, l.a.cfg.ReconnectCap)
	}
	return l.backoff.Next()
}

// noteLate counts Welcomes that did not come in time.
func (l *link) noteLate(err error) {
	if errors.Is(err, errNoWelcome) {
		l.lateWelcome++
	}
}

// wait sleeps for d. A change of the machine's own network ends it at once.
func (l *link) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.netChanged:
		l.log.Debug("the network of this machine changed; dialling")
		// At most ten dials a second, however much it changes.
		select {
		case <-time.After(min(d, l.a.cfg.ReconnectBase)):
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	return ctx.Err()
}

// serve runs sessions, one after another, until one ends without a successor
// that is already open. It returns why.
func (l *link) serve(ctx context.Context, s *session) error {
	defer l.a.setCut(true)
	for {
		began := time.Now()
		l.opened(s)
		next, err := l.attend(ctx, s)
		l.closed(s, time.Since(began), err)
		if next == nil {
			return err
		}
		s = next
	}
}

// opened notes a Welcome.
func (l *link) opened(s *session) {
	l.a.setCut(false)
	l.a.metrics.sessions.Inc()
	l.log.Info("session open", "addr", s.addr, "master", s.masterID, "epoch", s.epoch, "store", s.storeID,
		"was_away", time.Since(l.downSince).Round(time.Millisecond))
	clear(l.told)
	l.lateWelcome = 0
	// Not those of earlier Welcomes: masters come and go, and who is gone would
	// be dialled for ever.
	l.addrs = slices.Clone(l.a.cfg.Masters)
	for _, addr := range append([]string{s.addr}, s.masters...) {
		if addr != "" && !slices.Contains(l.addrs, addr) && len(l.addrs) < len(l.a.cfg.Masters)+maxLearnt {
			l.addrs = append(l.addrs, addr)
		}
	}
	l.at = max(0, slices.Index(l.addrs, s.addr))
}

// closed notes the end of a session.
func (l *link) closed(s *session, lived time.Duration, err error) {
	l.downSince = time.Now()
	switch {
	case rpcerr.Is(err, rpcerr.BadFrame, rpcerr.TooLarge, rpcerr.Diverged) || errors.Is(err, errForeignAck):
		// The next session will begin with the same frame.
	case s.progressed():
		l.backoff.Progress()
	}
	if s.acked() {
		l.stallAfter = l.a.cfg.StallAfter
	} else if errors.Is(err, errReplaced) { // the second dial brought no ACK
		l.stallAfter = s.lessHasty()
	}
	l.log.Info("session closed", "epoch", s.epoch, "lived", lived.Round(time.Millisecond), "err", err)
}

// attend runs s until it ends. If its un-ACKed data stalls, it dials a second
// time meanwhile; if that gets a Welcome, the higher epoch wins and s is
// closed (T-half-open). Next is then the new session.
func (l *link) attend(ctx context.Context, s *session) (next *session, err error) {
	ended := s.start(ctx, l.stallAfter)
	var dialled chan dialResult // not nil while a second dial is under way
	dials := 0
	dial := func() {
		// The others first: this master may be what hangs.
		dials++
		addr := l.addrs[(l.at+dials)%len(l.addrs)]
		l.log.Info("un-ACKed data has stalled; dialling a second time", "epoch", s.epoch, "addr", addr)
		l.a.metrics.secondDials.Inc()
		dialled = make(chan dialResult, 1)
		go func(c chan<- dialResult) {
			s, err := l.connect(ctx, addr)
			c <- dialResult{s, err}
		}(dialled)
	}
	l.answerKept(ctx, s)
	for {
		select {
		case <-l.a.room:
			l.answerKept(ctx, s)
		case err := <-ended:
			if dialled != nil {
				// What came of the second dial decides how we go on. It ends by
				// its own time limits. The master that admitted us there may have
				// ended this session first.
				switch r := <-dialled; {
				case r.err == nil:
					return r.s, errReplaced
				case isFatal(r.err):
					return nil, r.err
				default:
					l.noteLate(r.err)
				}
			}
			return nil, err
		case <-s.stalled:
			if dialled == nil && s.isStalled() {
				dial()
			}
		case r := <-dialled:
			dialled = nil
			if r.err == nil {
				l.end(s, errReplaced, ended)
				return r.s, errReplaced
			}
			if isFatal(r.err) {
				l.end(s, r.err, ended)
				return nil, r.err
			}
			l.log.Debug("second dial failed", "err", r.err)
			l.noteLate(r.err)
			l.takeDeferred(ctx, s)
			l.stallAfter = s.lessHasty()
		}
	}
}

// end ends a session and waits until it is over.
func (l *link) end(s *session, why error, ended <-chan error) {
	s.end(why)
	if err := <-ended; err != nil {
		l.log.Debug("session over", "err", err)
	}
}

type dialResult struct {
	s   *session
	err error
}

// take takes a new attempt, or puts it off while a Hello is out.
func (l *link) take(ctx context.Context, s *session, w *holdfastv1.Want) error {
	l.takeMu.Lock()
	defer l.takeMu.Unlock()
	if l.helloOut {
		l.deferred = append(l.deferred, w)
		return nil
	}
	return s.take(ctx, w)
}

// takeDeferred takes what came while a Hello was out that led to no session.
func (l *link) takeDeferred(ctx context.Context, s *session) {
	l.takeMu.Lock()
	defer l.takeMu.Unlock()
	for _, w := range l.deferred {
		if err := s.take(ctx, w); err != nil {
			s.end(err)
			break
		}
	}
	l.deferred = nil
}
