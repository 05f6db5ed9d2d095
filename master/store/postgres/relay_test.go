package postgres_test

import (
	"testing"

	"holdfast/master/notify"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// P-event: a pass that failed may have numbered events all the same. The next one
// finds nothing to number, and tells of them.
func TestRelayOwesItsWord(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	p, url := newProxy(t, direct)
	s, other := open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: direct})
	submit(t, s, "b1")
	events := notify.Key{Kind: notify.Events}
	hub := new(notify.Hub)
	sub := hub.Subscribe(events)
	defer sub.Close()
	<-sub.C // the first look
	r := s.Relay("m1")
	r.Send(events)
	p.set(statement, cutBefore)
	if err := r.Pass(t.Context(), hub); err == nil {
		t.Fatal("a pass without a server")
	}
	p.pass()
	// As it is after a reply that was lost: the numbers are there.
	if n, err := other.Number(t.Context()); err != nil || n == 0 {
		t.Fatalf("%d numbered, %v", n, err)
	}
	if err := r.Pass(t.Context(), hub); err != nil {
		t.Fatal(err)
	}
	select {
	case <-sub.C:
	default:
		t.Error("nobody is told of events that have their numbers")
	}
	// Once is enough.
	if err := r.Pass(t.Context(), hub); err != nil {
		t.Fatal(err)
	}
	select {
	case <-sub.C:
		t.Error("told again, of nothing")
	default:
	}
}
