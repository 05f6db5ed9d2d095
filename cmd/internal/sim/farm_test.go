package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// where returns the slave that has the newest attempt of a build.
func (s *stage) where(id string) *slaveBox {
	s.t.Helper()
	list := s.record(id).Attempts
	if len(list) > 0 {
		for _, b := range s.slaves {
			if b.name == list[len(list)-1].Slave {
				return b
			}
		}
	}
	s.t.Fatalf("build %s is nowhere", id)
	return nil
}

// row is a slave as `slaves` shows it.
func (s *stage) row(name string) *holdfastv1.Slave {
	var row *holdfastv1.Slave
	s.operator.ask(context.Background(), "slaves", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.ListSlaves(ctx, &holdfastv1.ListSlavesRequest{})
		for _, r := range resp.GetSlaves() {
			if r.GetName() == name {
				row = r
			}
		}
		return err
	})
	return row
}

// change is a person's word about a slave, which must have an effect.
func (s *stage) change(b *slaveBox, what holdfastv1.ChangeSlaveRequest_Change) {
	s.t.Helper()
	before := s.operator.changed[what]
	s.operator.change(context.Background(), s.row(b.name), what)
	if s.operator.changed[what] != before+1 {
		s.t.Errorf("%v of %s had no effect", what, b.name)
	}
}

// cut takes a slave's network away.
func (b *slaveBox) cut() {
	b.cable.refuse()
	b.cable.drop()
}

// farmOf makes a scenario of several slaves. They dial less often than usual:
// hours of dials would take long.
func farmOf(slaves int) func(*Config) {
	return func(c *Config) {
		c.Slaves = slaves
		c.Profile.Times.ReconnectCap = 20 * time.Second
	}
}

// runningEverywhere submits one build for each slave and waits until all run.
func (s *stage) runningEverywhere(play script) []string {
	s.t.Helper()
	var ids []string
	for range s.slaves {
		ids = append(ids, s.submit(play, nil))
	}
	for _, id := range ids {
		s.until(time.Minute, "all run", s.is(id, lifecycle.BuildRunning))
	}
	return ids
}

// TestBrake (P-brake): the farm's network is gone for an hour, twice lost_after,
// and nobody is given up; all builds go on where they are.
func TestBrake(t *testing.T) {
	scenario(t, farmOf(4), func(t *testing.T, s *stage) {
		play := script{lasts: 2 * time.Hour, bursts: 20, lines: 1, width: 40}
		ids := s.runningEverywhere(play)
		for _, b := range s.slaves[:3] {
			b.cut()
			time.Sleep(20 * time.Second)
		}
		time.Sleep(time.Hour)
		if at, lost := s.event("attempt.lost", 1); lost {
			t.Errorf("one was given up at %v", at)
		}
		if _, told := s.event("brake.on", 1); !told {
			t.Error("nobody was told of the brake")
		}
		for _, b := range s.slaves[:3] {
			b.cable.heal()
		}
		s.until(time.Minute, "the brake is off", func() bool { _, off := s.event("brake.off", 1); return off })
		for _, id := range ids {
			s.until(3*time.Hour, "the build ends", s.is(id, lifecycle.BuildSucceeded))
			s.attempts(id, 1)
			s.wholeLog(id, play)
		}
	})
}

// TestBrakeRelease: a person knows better. The silent ones are given up, run
// elsewhere, and are evidence when they come back (T-fence, T-stale-stop).
func TestBrakeRelease(t *testing.T) {
	scenario(t, farmOf(4), func(t *testing.T, s *stage) {
		play := script{lasts: 2 * time.Hour, bursts: 4, lines: 1, width: 40}
		ids := s.runningEverywhere(play)
		var there *slaveBox // the one that stays
		for _, b := range s.slaves {
			if b == s.where(ids[0]) {
				there = b
				continue
			}
			b.cut()
		}
		time.Sleep(45 * time.Minute)
		s.operator.ask(context.Background(), "release", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
			resp, err := c.ReleaseBrake(ctx, &holdfastv1.ReleaseBrakeRequest{Who: "sim", Reason: "the rack burnt"})
			if err == nil && !resp.GetChanged() {
				t.Error("the brake was not on")
			}
			return err
		})
		s.until(time.Minute, "three are given up", func() bool { _, lost := s.event("attempt.lost", 3); return lost })
		s.until(4*time.Hour, "the first goes on elsewhere", func() bool { return len(s.record(ids[1]).Attempts) == 2 })
		if b := s.where(ids[1]); b != there {
			t.Errorf("attempt 2 is on %s, which is silent", b.name)
		}
		s.until(time.Minute, "it runs", s.is(ids[1], lifecycle.BuildRunning))
		for _, b := range s.slaves {
			b.cable.heal()
		}
		for _, id := range ids {
			s.until(24*time.Hour, "the build ends", s.is(id, lifecycle.BuildSucceeded))
		}
		first := s.record(ids[1]).Attempts[0]
		if first.State != lifecycle.AttemptLost || !first.Superseded {
			t.Errorf("the attempt that was replaced: %+v", first)
		}
	})
}

// TestNoEarlyReplace is T-no-early-replace: nothing that happens to a slave makes
// its build start elsewhere before lost_after, though others are idle.
func TestNoEarlyReplace(t *testing.T) {
	scenario(t, func(c *Config) { farmOf(3)(c); c.Profile.LostAfter = time.Hour }, func(t *testing.T, s *stage) {
		play := script{lasts: 3 * time.Hour, bursts: 20, lines: 1, width: 40}
		id := s.submit(play, nil)
		s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
		b := s.where(id)
		for name, happens := range map[string]func(){
			"a drain":                  func() { s.change(b, holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN) },
			"a reset":                  func() { s.change(b, holdfastv1.ChangeSlaveRequest_CHANGE_RESET) },
			"the agent dies":           func() { synctest.Wait(); s.fail(b.kill()()); time.Sleep(time.Second); s.fail(b.start()) },
			"the agent stops":          func() { b.stop(); time.Sleep(time.Second); s.fail(b.start()) },
			"the master starts anew":   func() { s.master.stop(); time.Sleep(time.Second); s.fail(s.master.start()) },
			"the link flaps":           func() { b.cable.drop() },
			"the link is gone for 40m": func() { b.cut(); time.Sleep(40 * time.Minute); b.cable.heal() },
		} {
			happens()
			s.until(time.Minute, "it is back after "+name, func() bool { return s.row(b.name).GetState() == "connected" })
			s.attempts(id, 1)
			if got := s.state(id); got != lifecycle.BuildRunning {
				t.Errorf("after %s it is %s", name, got)
			}
		}
		s.until(4*time.Hour, "the build ends", s.is(id, lifecycle.BuildSucceeded))
		s.attempts(id, 1)
		s.wholeLog(id, play)
	})
}

// TestKnownDead is T-known-dead: what ends an attempt at once, long before
// lost_after.
func TestKnownDead(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(s *stage, b *slaveBox)
		cause   string
	}{
		"another boot": {func(s *stage, b *slaveBox) {
			synctest.Wait()
			s.fail(b.reboot()())
			s.fail(b.start())
		}, "machine_rebooted"},
		"a person's word": {func(s *stage, b *slaveBox) {
			b.cut()
			s.until(time.Minute, "it is away", func() bool { return s.row(b.name).GetState() == "away" })
			s.change(b, holdfastv1.ChangeSlaveRequest_CHANGE_DEAD)
		}, "slave_dead"},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(c *Config) { farmOf(2)(c); c.Profile.LostAfter = 30 * 24 * time.Hour }, func(t *testing.T, s *stage) {
				play := script{lasts: time.Hour, bursts: 4, lines: 1, width: 40}
				id := s.submit(play, nil)
				s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
				time.Sleep(time.Minute)
				b := s.where(id)
				c.happens(s, b)
				s.until(time.Minute, "another attempt", func() bool { return len(s.record(id).Attempts) == 2 })
				if got := s.record(id).Attempts[0].Cause; string(got) != c.cause {
					t.Errorf("attempt 1 ended with %q, want %q", got, c.cause)
				}
				if s.where(id) == b {
					t.Error("it is tried again on the same slave, though another is idle")
				}
				b.cable.heal()
				s.until(2*time.Hour, "the build ends", s.is(id, lifecycle.BuildSucceeded))
				s.wholeLog(id, play)
			})
		})
	}
}

// TestCutOff: stop_on_slave_after makes a slave stop a step by itself once it has
// been cut off for so long, and not before; a shorter cut does nothing (P-return).
func TestCutOff(t *testing.T) {
	const limit = 2 * time.Minute
	scenario(t, farmOf(1), func(t *testing.T, s *stage) {
		play := script{lasts: time.Hour, bursts: 20, lines: 1, width: 40}
		id := s.submit(play, func(spec *holdfastv1.BuildSpec) { spec.StopOnSlaveAfterUs = limit.Microseconds() })
		s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
		b := s.slaves[0]
		for range 3 { // cuts do not add up
			b.cut()
			time.Sleep(limit - 40*time.Second)
			b.cable.heal()
			s.until(time.Minute, "it is back", s.connected)
			time.Sleep(time.Second) // the slave knows it, too
		}
		if len(b.runners.living()) != 1 {
			t.Errorf("%d runners after cuts that were short enough", len(b.runners.living()))
		}
		b.cut()
		time.Sleep(limit - 5*time.Second)
		if len(b.runners.living()) != 1 {
			t.Error("stopped too early")
		}
		time.Sleep(30 * time.Second)
		if len(b.runners.living()) != 0 {
			t.Error("it runs on, though nobody hears of it")
		}
		if got := s.state(id); got != lifecycle.BuildRunning {
			t.Errorf("the master cannot know yet, and says %s", got)
		}
		b.cable.heal()
		s.until(time.Minute, "the end is told", func() bool { return !s.record(id).Attempts[0].State.Live() })
		if a := s.record(id).Attempts[0]; a.State != lifecycle.AttemptFailed || a.Cause != "cut_off" {
			t.Errorf("attempt 1 is %s, %s: %s", a.State, a.Cause, a.Detail)
		}
		s.until(3*time.Hour, "the next attempt succeeds", s.is(id, lifecycle.BuildSucceeded))
		s.attempts(id, 2)
		s.wholeLog(id, play)
	})
}
