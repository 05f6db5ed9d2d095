package sim

import (
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// TestBlink is T-blink: however the network goes away, and for however long
// within lost_after, the build has one attempt, and each line arrives once and
// in order.
func TestBlink(t *testing.T) {
	type cut struct {
		name string
		make func(*cable)
		back time.Duration // from the link's return to the session's
	}
	cuts := []cut{
		{"refused", func(c *cable) { c.refuse(); c.drop() }, 3 * time.Second},
		{"silent", func(c *cable) { c.stall(true, true) }, 5 * time.Second},
		{"silent and forgotten", func(c *cable) { c.stall(true, true); c.swallow(true, true) }, 5 * time.Second},
		{"silent one way", func(c *cable) { c.stall(true, false) }, 5 * time.Second},
	}
	for _, outage := range []struct {
		lasts, lostAfter time.Duration
	}{
		{5 * time.Second, 0},
		{40 * time.Second, 0},
		{10 * time.Minute, 0},
		{24 * time.Hour, 25 * time.Hour},
	} {
		if raceEnabled && outage.lasts > time.Hour {
			t.Logf("left out under the race detector: %v, a day of dials", outage.lasts)
			continue
		}
		for _, c := range cuts {
			if outage.lasts > time.Hour && c.name != "refused" && c.name != "silent and forgotten" {
				continue // they would show nothing more, and a day of dials takes seconds
			}
			t.Run(outage.lasts.String()+" "+c.name, func(t *testing.T) {
				scenario(t, nil, func(t *testing.T, s *stage) {
					play := script{lasts: 3*outage.lasts + 30*time.Second, bursts: 60, lines: 1, width: 40}
					id := s.submit(play, func(spec *holdfastv1.BuildSpec) {
						if us := outage.lostAfter.Microseconds(); us > 0 {
							spec.LostAfterUs = &us
						}
					})
					time.Sleep(outage.lasts/2 + 10*time.Second)
					cable := s.slaves[0].cable
					c.make(cable)
					time.Sleep(outage.lasts)
					logged := s.logged(id)
					cable.heal()
					s.until(c.back, "the slave is back", s.connected)
					// Whatever it has said meanwhile comes with it.
					s.until(c.back, "the log goes on", func() bool { return s.logged(id) > logged })
					s.until(4*outage.lasts+time.Minute, "the build ends", s.is(id, "succeeded"))
					s.attempts(id, 1)
					s.wholeLog(id, play)
				})
			})
		}
	}
}

// logged is how many bytes of log the store has of the first step.
func (s *stage) logged(id string) int64 {
	r := s.record(id)
	if len(r.Attempts) == 0 {
		return 0
	}
	return r.Attempts[0].Steps[0].LogMark
}

// TestSecondDial is T-half-open: packets vanish silently, the slave's un-ACKed
// data makes it dial again, and the new session wins at once: no ping is
// waited for, and nobody sees the slave as away.
func TestSecondDial(t *testing.T) {
	for name, swallow := range map[string][2]bool{"both ways": {true, true}, "up": {true, false}, "down": {false, true}} {
		t.Run(name, func(t *testing.T) {
			scenario(t, nil, func(t *testing.T, s *stage) {
				play := script{lasts: 2 * time.Minute, bursts: 120, lines: 1, width: 40}
				id := s.submit(play, nil)
				for range 3 {
					time.Sleep(20 * time.Second)
					before, logged := s.epoch(), s.logged(id)
					s.slaves[0].cable.swallow(swallow[0], swallow[1])
					s.until(8*time.Second, "a newer session", func() bool { return s.epoch() > before })
					s.until(8*time.Second, "the log goes on", func() bool { return s.logged(id) > logged })
				}
				s.until(5*time.Minute, "the build ends", s.is(id, "succeeded"))
				s.attempts(id, 1)
				s.wholeLog(id, play)
				if at, was := s.event("slave.away", 1); was {
					t.Errorf("the slave was away at %v", at)
				}
			})
		})
	}
}

func (s *stage) epoch() uint64 {
	slaves, err := s.master.open().Slaves(s.t.Context())
	if err != nil || len(slaves) == 0 {
		return 0
	}
	return uint64(slaves[0].Epoch)
}
