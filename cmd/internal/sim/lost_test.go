package sim

import (
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// TestLostAfter is T-lost-after: each build's lost_after, from 0 to never, is
// honoured to a tick.
func TestLostAfter(t *testing.T) {
	const never = -1
	for name, after := range map[string]time.Duration{
		"0": 0, "30s": 30 * time.Second, "10m": 10 * time.Minute, "26h": 26 * time.Hour, "never": never,
	} {
		t.Run(name, func(t *testing.T) {
			tick := time.Second // the default
			if after > time.Hour || after == never {
				tick = time.Minute // days of seconds and of dials would take long
			}
			scenario(t, func(c *Config) {
				c.Profile.Times.Tick = tick
				c.Profile.Times.ReconnectCap = tick
			}, func(t *testing.T, s *stage) {
				play := script{lasts: 4 * 24 * time.Hour, bursts: 3, lines: 1, width: 40}
				if after >= 0 {
					play.lasts = 3*after + time.Minute
				}
				id := s.submit(play, func(spec *holdfastv1.BuildSpec) {
					if us := after.Microseconds(); after == never {
						spec.LostNever = true
					} else {
						spec.LostAfterUs = &us
					}
				})
				s.until(time.Minute, "it runs", s.is(id, "running"))
				time.Sleep(10 * time.Second)
				s.slaves[0].cable.refuse()
				s.slaves[0].cable.drop()
				if after == never {
					time.Sleep(3 * 24 * time.Hour)
					if _, lost := s.event("attempt.lost", 1); lost {
						t.Error("given up, though it should never be")
					}
				} else {
					time.Sleep(after + 3*tick)
					s.lostWithin(after, tick, 1)
				}
				s.slaves[0].cable.heal()
				s.until(5*24*time.Hour, "the build ends", s.is(id, "succeeded"))
				s.attempts(id, 1) // adopted: nobody else could have taken it
				s.wholeLog(id, play)
			})
		})
	}
}

// lostWithin checks the time between the n-th absence and loss.
func (s *stage) lostWithin(after, tick time.Duration, n int) {
	s.t.Helper()
	away, _ := s.event("slave.away", n)
	lost, ok := s.event("attempt.lost", n)
	if !ok || away.IsZero() {
		s.t.Errorf("away at %v, never given up", away)
		return
	}
	if d := lost.Sub(away); d < after-tick || d > after+tick {
		s.t.Errorf("given up after %v, want %v ± %v", d, after, tick)
	}
}

// TestLostAfterRestart: a master's restart restarts its own watch (P-lost).
func TestLostAfterRestart(t *testing.T) {
	const tick, after = time.Second, 10 * time.Minute
	scenario(t, func(c *Config) { c.Profile.Times.Tick, c.Profile.LostAfter = tick, after }, func(t *testing.T, s *stage) {
		id := s.submit(script{lasts: time.Hour}, nil)
		s.until(time.Minute, "it runs", s.is(id, "running"))
		s.slaves[0].cable.refuse()
		s.slaves[0].cable.drop()
		time.Sleep(after - time.Minute)
		s.master.stop()
		time.Sleep(2 * time.Minute)
		s.fail(s.master.start())
		began := time.Now()
		time.Sleep(after + 3*tick)
		lost, ok := s.event("attempt.lost", 1)
		if d := lost.Sub(began); !ok || d < after-tick || d > after+2*tick {
			t.Errorf("given up %v after the restart, want %v ± %v", d, after, tick)
		}
		s.slaves[0].cable.heal()
		s.until(2*time.Hour, "the build ends", s.is(id, "succeeded"))
		s.attempts(id, 1)
	})
}
