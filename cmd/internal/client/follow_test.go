package client

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// story is a Sink that writes down what it is told.
type story struct {
	lines []string
	logs  map[string]*bytes.Buffer
	at    string
	lost  int
	left  chan struct{} // gets one for each attempt that ended
}

func newStory() *story {
	return &story{logs: map[string]*bytes.Buffer{}, left: make(chan struct{}, 100)}
}

func (s *story) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}
func (s *story) Build(*holdfastv1.Build) {}
func (s *story) Waits(why string) {
	if len(s.lines) == 0 {
		s.add("%s", why)
	}
}
func (s *story) StepStarted(a *holdfastv1.Attempt, st *holdfastv1.Step) {
	s.at = fmt.Sprintf("%d.%d", a.GetNumber(), st.GetNumber())
	s.add("start %s", s.at)
}
func (s *story) Log(lost int64, data []byte) error {
	if lost != 0 {
		s.add("lost %d", lost)
	}
	if s.logs[s.at] == nil {
		s.logs[s.at] = new(bytes.Buffer)
	}
	s.logs[s.at].Write(data)
	return nil
}
func (s *story) StepEnded(a *holdfastv1.Attempt, st *holdfastv1.Step, pending bool) {
	s.add("end %d.%d %s pending=%v", a.GetNumber(), st.GetNumber(), st.GetState(), pending)
}
func (s *story) AttemptEnded(_ *holdfastv1.Build, a *holdfastv1.Attempt) {
	s.add("attempt %d %s", a.GetNumber(), a.GetState())
	s.left <- struct{}{}
}
func (s *story) Lost(string)    { s.lost++ }
func (s *story) Back()          {}
func (s *story) Tick(time.Time) {}

func (s *story) check(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Join(s.lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the story is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// following runs Follow and returns what to wait for.
func following(t *testing.T, c *Client, f *fakeMaster, opts FollowOptions, s *story) func() *holdfastv1.Build {
	t.Helper()
	type result struct {
		b   *holdfastv1.Build
		err error
	}
	done := make(chan result, 1)
	if opts.LookEvery == 0 {
		opts.LookEvery = time.Hour // events must do
	}
	go func() {
		b, err := c.Follow(t.Context(), f.build.GetId(), opts, s)
		done <- result{b, err}
	}()
	return func() *holdfastv1.Build {
		t.Helper()
		select {
		case r := <-done:
			if r.err != nil {
				t.Fatal(r.err)
			}
			return r.b
		case <-time.After(20 * time.Second):
			t.Fatal("does not end")
			return nil
		}
	}
}

func (f *fakeMaster) step(attempt, step int, state string, over bool) {
	f.change(func() {
		f.build.Attempts[attempt-1].Steps[step-1].State = state
		f.over[[2]uint32{uint32(attempt), uint32(step)}] = over
	})
}

func (f *fakeMaster) states(build string, attempts ...string) {
	f.change(func() {
		f.build.State = build
		for i, s := range attempts {
			f.build.Attempts[i].State = s
			if s == "running" || s == "assigned" {
				continue
			}
			for n, st := range f.build.Attempts[i].Steps {
				at := [2]uint32{uint32(i + 1), uint32(n + 1)}
				if st.State == "pending" && s != "lost" && s != "withdrawn" {
					st.State = "skipped"
				}
				if s == "lost" || st.State == "skipped" {
					f.over[at] = true
				}
			}
		}
	})
}

func TestFollowOverRetries(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, serve(t, f))
	s := newStory()
	wait := following(t, c, f, FollowOptions{}, s)
	f.attempt("assigned", 2)
	f.states("queued", "withdrawn") // nothing was started
	f.attempt("running", 2)
	f.states("running")
	f.step(2, 1, "running", false)
	f.say(2, 1, "one")
	f.step(2, 1, "succeeded", true)
	f.step(2, 2, "running", false)
	f.say(2, 2, "two")
	f.states("queued", "withdrawn", "lost")
	f.attempt("running", 2)
	f.states("running")
	f.step(3, 1, "running", false)
	f.say(3, 1, "uno")
	f.step(3, 1, "failed", true)
	f.states("failed", "withdrawn", "lost", "failed")
	if b := wait(); b.GetState() != "failed" {
		t.Errorf("state %s", b.GetState())
	}
	s.lines = s.lines[strings.Count(strings.Join(s.lines[:1], ""), "queued"):] // may have been seen or not
	s.check(t, "attempt 1 withdrawn", "start 2.1", "end 2.1 succeeded pending=false", "start 2.2", "end 2.2 running pending=false", "attempt 2 lost",
		"start 3.1", "end 3.1 failed pending=false", "attempt 3 failed")
	for at, want := range map[string]string{"2.1": "one", "2.2": "two", "3.1": "uno"} {
		if got := s.logs[at].String(); got != want {
			t.Errorf("log %s is %q", at, got)
		}
	}
}

// P-return: a lost attempt that comes back is followed on, from the byte where
// it was left.
func TestFollowReturnOfTheLost(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, serve(t, f))
	s := newStory()
	f.attempt("running", 2)
	f.step(1, 1, "running", false)
	f.say(1, 1, "before ")
	f.states("queued", "lost")
	wait := following(t, c, f, FollowOptions{LookEvery: 50 * time.Millisecond}, s)
	<-s.left
	f.change(func() {
		f.build.State, f.build.Attempts[0].State = "running", "running"
		f.over = map[[2]uint32]bool{}
	})
	f.say(1, 1, "after")
	f.step(1, 1, "succeeded", true)
	f.step(1, 2, "running", false)
	f.say(1, 2, "second")
	f.step(1, 2, "succeeded", true)
	f.states("succeeded", "succeeded")
	wait()
	if got := s.logs["1.1"].String(); got != "before after" {
		t.Errorf("log is %q", got)
	}
	if got := s.logs["1.2"].String(); got != "second" {
		t.Errorf("log is %q", got)
	}
}

// What is final is told although the rest of a log does not come.
func TestFollowDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, serve(t, f))
	s := newStory()
	f.attempt("running", 3)
	f.step(1, 1, "running", false)
	f.say(1, 1, "some")
	f.states("cancelled", "cancelled")
	f.step(1, 1, "running", false)
	wait := following(t, c, f, FollowOptions{IdleLimit: 300 * time.Millisecond}, s)
	if b := wait(); b.GetState() != "cancelled" {
		t.Errorf("state %s", b.GetState())
	}
	s.check(t, "start 1.1", "end 1.1 running pending=true", "attempt 1 cancelled")
}

func TestFollowFromNewest(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	c := dial(t, serve(t, f))
	s := newStory()
	f.attempt("running", 1)
	f.states("queued", "lost")
	f.attempt("running", 1)
	f.say(2, 1, "x")
	f.step(2, 1, "succeeded", true)
	f.states("succeeded", "lost", "succeeded")
	following(t, c, f, FollowOptions{FromNewest: true}, s)()
	s.check(t, "start 2.1", "end 2.1 succeeded pending=false", "attempt 2 succeeded")
}

func TestFollowUnknownBuild(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t, newFakeMaster()))
	if _, err := c.Follow(t.Context(), NewID(), FollowOptions{}, newStory()); !rpcerr.Is(err, rpcerr.NotFound) {
		t.Errorf("got %v", err)
	}
}

// Nothing is doubled, left out or told in another order, wherever the link is
// cut.
func TestFollowOverCuts(t *testing.T) {
	t.Parallel()
	f := newFakeMaster()
	addr := cuttingProxy(t, serve(t, f), 300, 8000, 30)
	var c *Client
	for c == nil { // the first connections are cut, too
		var err error
		if c, err = Dial(t.Context(), Config{Addr: addr}); err != nil && !errors.As(err, new(*UnreachableError)) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { c.Close() })
	s := newStory()
	wait := following(t, c, f, FollowOptions{LookEvery: 200 * time.Millisecond}, s)
	const steps, lines = 3, 300
	f.attempt("running", steps)
	f.states("running")
	var want [steps]bytes.Buffer
	for n := range steps {
		f.step(1, n+1, "running", false)
		for i := range lines {
			line := fmt.Sprintf("step %d line %d, and some more to make it longer\n", n+1, i)
			want[n].WriteString(line)
			f.say(1, uint32(n+1), line)
			if i%50 == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
		f.step(1, n+1, "succeeded", true)
	}
	f.states("succeeded", "succeeded")
	wait()
	if s.lost == 0 {
		t.Error("nothing was cut: the test shows nothing")
	}
	for n := range steps {
		if got := s.logs[fmt.Sprintf("1.%d", n+1)].String(); got != want[n].String() {
			t.Errorf("step %d: %d bytes, want %d", n+1, len(got), want[n].Len())
		}
	}
	last := s.lines[len(s.lines)-7:]
	if got := strings.Join(last, "; "); got != "start 1.1; end 1.1 succeeded pending=false; start 1.2; end 1.2 succeeded pending=false; start 1.3; end 1.3 succeeded pending=false; attempt 1 succeeded" {
		t.Errorf("the story is %s", got)
	}
}
