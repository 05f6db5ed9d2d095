package schedule

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/spec"
	"holdfast/master/store"
	"holdfast/retry"
)

// planStore is a store of one slave with room and of builds that it has refused.
type planStore struct {
	store.Store
	builds []lifecycle.Build
	specs  map[lifecycle.BuildID]error // reads that fail, by their first build
	text   map[lifecycle.BuildID][]byte
}

func (s *planStore) Requirements(context.Context) ([]map[string]string, error) {
	return []map[string]string{nil}, nil
}
func (s *planStore) Queue(context.Context, store.QueueFilter) ([]lifecycle.Build, error) {
	return s.builds, nil
}
func (s *planStore) Slaves(context.Context) ([]store.Slave, error) {
	return []store.Slave{{Instance: "i-a", Name: "a", Epoch: 1, Slots: 5, Freed: 2, Connected: true, HoldsName: true}}, nil
}
func (s *planStore) NextReady(context.Context, time.Time) (time.Time, error) {
	return time.Time{}, nil
}
func (s *planStore) Waiting(context.Context, store.WaitingFilter) ([]store.Waiting, error) {
	return nil, nil
}
func (s *planStore) Specs(_ context.Context, ids ...lifecycle.BuildID) (map[lifecycle.BuildID][]byte, error) {
	return s.text, s.specs[ids[0]]
}

// outcomes answers each commit of assignments.
type outcomes []func(ops []store.Op) error

func (c *outcomes) Ready() error { return nil }
func (c *outcomes) Do(_ context.Context, ops ...store.Op) error {
	if _, ok := ops[0].(*store.Assign); !ok || len(*c) == 0 {
		return nil
	}
	next := (*c)[0]
	*c = (*c)[1:]
	return next(ops)
}

// What a plan asks is remembered once the slave is asked, not before: one that
// is not carried out changes nothing (P-dispatch P48).
func TestPlansAskNobody(t *testing.T) {
	text, err := (&spec.Spec{Name: "n", Steps: []spec.Step{{Name: "s", Run: "true"}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Minute).Round(0)
	before := func() asked {
		q := question{at: long, used: long, slave: condition{epoch: 1, freed: 1}, again: 3}
		return asked{"1": {"i-a": q}, "2": {"i-a": q}}
	}
	oops := errors.New("oops")
	for _, tc := range []struct {
		name    string
		specs   map[lifecycle.BuildID]error
		broken  lifecycle.BuildID
		commits outcomes
		err     bool
		asked   []lifecycle.BuildID // anew
		gone    []lifecycle.BuildID
	}{
		{name: "all is well", asked: []lifecycle.BuildID{"1", "2"}},
		{name: "specs cannot be read", specs: map[lifecycle.BuildID]error{"1": oops}, err: true},
		{name: "a broken build, and the store fails in the plan that follows", broken: "1",
			specs: map[lifecycle.BuildID]error{"2": oops}, err: true},
		{name: "a broken build, the plan is made again", broken: "2", asked: []lifecycle.BuildID{"1"}, gone: []lifecycle.BuildID{"2"}},
		{name: "the commit fails", commits: outcomes{func([]store.Op) error { return oops }}, err: true},
		{name: "one is overtaken", commits: outcomes{func(ops []store.Op) error {
			ops[1].(*store.Assign).Err = store.ErrState
			return nil
		}}, asked: []lifecycle.BuildID{"1"}},
		{name: "one is poison", commits: outcomes{
			func([]store.Op) error { return store.ErrPoison },
			func([]store.Op) error { return store.ErrPoison },
			func([]store.Op) error { return nil },
		}, asked: []lifecycle.BuildID{"2"}, gone: []lifecycle.BuildID{"1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &planStore{specs: tc.specs, text: map[lifecycle.BuildID][]byte{"1": text, "2": text}, builds: []lifecycle.Build{
				build("1", refusedBy("a", retry.RefusedBusy)), build("2", refusedBy("a", retry.RefusedBusy)),
			}}
			if tc.broken != "" {
				s.text[tc.broken] = []byte("{")
			}
			commits := tc.commits
			d, err := NewDispatcher(DispatcherConfig{
				Store: s, Commit: &commits, Hub: new(notify.Hub), Entropy: rand.Reader,
				Sessions: func() []Slave { return []Slave{slave("a", 5)} },
			})
			if err != nil {
				t.Fatal(err)
			}
			d.asked = before()
			d.forgot = time.Now()
			began := time.Now()
			if _, err := d.round(t.Context()); (err != nil) != tc.err {
				t.Errorf("round: %v", err)
			}
			want := before()
			if tc.err {
				delete(want, tc.broken)
			}
			for _, id := range tc.gone {
				delete(want, id)
			}
			for _, id := range tc.asked {
				is := d.asked[id]["i-a"]
				if is.at.Before(began) || is.slave.freed != 2 || is.again != 3 {
					t.Errorf("build %s: %+v", id, is)
				}
				delete(want, id)
				delete(d.asked, id)
			}
			if diff := cmp.Diff(want, d.asked, cmp.AllowUnexported(question{}, condition{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Time lengthens the pause, what changes does not, and another session or
// another time in the queue begins anew.
func TestAskedEverMoreSeldom(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	b, s := build("1", refusedBy("a", retry.RefusedBusy)), slave("a", 1)
	q := asked{}
	var sum time.Duration
	for i, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600} {
		want := time.Duration(seconds) * time.Second
		q.note(b.ID, s.Session.Instance, q.ask(now, &b, &s))
		f, until := q.refused(now, &b, &s)
		if f == nil || until.Sub(now) != want {
			t.Fatalf("question %d: until %v", i+1, until.Sub(now))
		}
		now = until
		q.forget(now)
		sum += want
		if f, _ := q.refused(now, &b, &s); f != nil {
			t.Fatalf("question %d: refused still", i+1)
		}
	}
	again := q[b.ID]["i-a"].again
	s.Freed++
	if is := q.ask(now, &b, &s); is.again != again {
		t.Errorf("%+v after a change", is)
	}
	s.Session.Epoch++
	if is := q.ask(now, &b, &s); is.again != 0 {
		t.Errorf("%+v in another session", is)
	}
	s.Session.Epoch--
	b.Queued = now
	if is := q.ask(now, &b, &s); is.again != 0 {
		t.Errorf("%+v queued anew", is)
	}
}

// Questions are forgotten: soon if the build was taken, as most are, and later
// if they have kept it from somebody.
func TestQuestionsAreForgotten(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	taken, kept, s := build("1"), build("2", refusedBy("a", retry.RefusedUnsupported)), slave("a", 1)
	q := asked{}
	for _, b := range []*lifecycle.Build{&taken, &kept} {
		q.note(b.ID, s.Session.Instance, q.ask(now, b, &s))
	}
	if f, _ := q.refused(now.Add(time.Minute), &kept, &s); f == nil {
		t.Error("not refused")
	}
	for _, tc := range []struct {
		after time.Duration
		want  int
	}{{unheard - 1, 2}, {unheard, 1}, {unused, 1}, {unused + time.Minute, 0}} {
		if q.forget(now.Add(tc.after)); len(q) != tc.want {
			t.Errorf("%d after %v, want %d", len(q), tc.after, tc.want)
		}
	}
}
