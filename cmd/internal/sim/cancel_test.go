package sim

import (
	"testing"
	"time"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// stageOf is a point in a build's life at which somebody cancels it.
type stageOf struct {
	name string
	// reach brings a build there; the slave is connected, or cut off from then on.
	reach func(s *stage, away bool) (id string)
	state lifecycle.BuildState
	// nowhere: no slave has anything of it, so that it does not matter whether
	// one is away.
	nowhere bool
}

// hour is a step that does not end by itself while the test looks.
var hour = script{lasts: 6 * time.Hour, bursts: 20, lines: 1, width: 40}

// short is a step that ends soon.
var short = script{lasts: 30 * time.Second, bursts: 3, lines: 1, width: 40}

var cancelStages = []stageOf{
	{name: "queued, nobody matches", nowhere: true, state: lifecycle.BuildQueued, reach: func(s *stage, _ bool) string {
		return s.submit(hour, func(spec *holdfastv1.BuildSpec) { spec.Requires = map[string]string{"pool": "none"} })
	}},
	{name: "queued, all busy", nowhere: true, state: lifecycle.BuildQueued, reach: func(s *stage, _ bool) string {
		s.runningEverywhere(script{lasts: time.Hour})
		return s.submit(hour, nil)
	}},
	{name: "backing off", nowhere: true, state: lifecycle.BuildQueued, reach: func(s *stage, _ bool) string {
		id := s.submit(script{lasts: time.Second, exits: []int{transientExit}}, func(spec *holdfastv1.BuildSpec) {
			long := (48 * time.Hour).Microseconds()
			spec.Retry = &holdfastv1.RetryPolicy{BackoffUs: &long, BackoffCapUs: &long}
		})
		s.until(time.Minute, "it backs off", func() bool { return s.record(id).Build.Wait == lifecycle.WaitBackoff })
		return id
	}},
	{name: "shelved", nowhere: true, state: lifecycle.BuildShelved, reach: func(s *stage, _ bool) string {
		id := s.submit(script{lasts: time.Second, exits: []int{transientExit}}, func(spec *holdfastv1.BuildSpec) {
			one := int32(1)
			spec.Retry = &holdfastv1.RetryPolicy{MaxTransient: &one}
		})
		s.until(time.Minute, "it is shelved", s.is(id, lifecycle.BuildShelved))
		return id
	}},
	{name: "assigned, the accept is not heard", state: lifecycle.BuildQueued, reach: func(s *stage, away bool) string {
		s.slaves[0].cable.stall(true, false) // what the slave says does not arrive
		id := s.submit(hour, nil)
		s.until(time.Minute, "it is assigned", func() bool { return len(s.record(id).Attempts) == 1 })
		if away {
			s.slaves[0].cut()
		}
		return id
	}},
	{name: "running", state: lifecycle.BuildRunning, reach: func(s *stage, away bool) string {
		id := s.submit(hour, nil)
		s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
		time.Sleep(time.Minute)
		if away {
			s.slaves[0].cut()
			time.Sleep(time.Minute)
		}
		return id
	}},
	{name: "ended on its slave, not told", state: lifecycle.BuildRunning, reach: func(s *stage, away bool) string {
		id := s.submit(short, nil)
		s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
		if away {
			s.slaves[0].cut()
		} else {
			s.slaves[0].cable.stall(true, false)
		}
		time.Sleep(time.Minute)
		return id
	}},
	{name: "given up, may come back", state: lifecycle.BuildQueued, reach: func(s *stage, away bool) string {
		us := (10 * time.Second).Microseconds()
		id := s.submit(hour, func(spec *holdfastv1.BuildSpec) { spec.LostAfterUs = &us })
		s.until(time.Minute, "it runs", s.is(id, lifecycle.BuildRunning))
		s.slaves[0].cut()
		s.until(time.Minute, "it is given up", s.is(id, lifecycle.BuildQueued))
		if !away {
			s.slaves[0].cable.heal() // it is adopted, and cancelled right then
		}
		return id
	}},
}

// TestCancelMatrix is T-cancel-matrix, T-stop-always and T-cancel-away in virtual
// time: whatever a build is doing, and whether its slave is connected, away, or
// coming back at that very moment, a cancel ends it at once; nothing of it runs on
// once its slave has heard of it, no slot stays occupied, and no later attempt
// begins.
func TestCancelMatrix(t *testing.T) {
	cells := 0
	defer func() { t.Logf("figure: cancel at a state of the build and of its link = %d cells", cells) }()
	for _, at := range cancelStages {
		for _, link := range []string{"connected", "away", "returning"} {
			if at.nowhere && link != "connected" {
				continue
			}
			cells++
			t.Run(at.name+"/"+link, func(t *testing.T) {
				scenario(t, nil, func(t *testing.T, s *stage) {
					id := at.reach(s, link != "connected")
					if got := s.state(id); got != at.state && link != "connected" {
						t.Fatalf("it is %s, not %s: the test shows nothing", got, at.state)
					}
					if link == "returning" {
						s.slaves[0].cable.heal()
					}
					s.operator.cancel(t.Context(), id)
					switch end := s.state(id); {
					case end == lifecycle.BuildCancelled:
					case end == lifecycle.BuildSucceeded && at.name == "ended on its slave, not told":
						// Its end was committed first, and stands.
					default:
						t.Fatalf("right after the cancel it is %s", end)
					}
					ended := s.state(id)
					tried := len(s.record(id).Attempts)
					if link == "away" {
						time.Sleep(20 * time.Minute)
					}
					s.slaves[0].cable.heal()
					s.until(2*time.Minute, "nothing of it is left", func() bool {
						for _, p := range s.slaves[0].runners.living() {
							if p.plan.Build == id {
								return false
							}
						}
						for _, a := range s.record(id).Attempts {
							if a.Slot {
								return false
							}
						}
						return true
					})
					time.Sleep(time.Hour)
					if got := s.state(id); got != ended {
						t.Errorf("it was %s, and is %s", ended, got)
					}
					s.attempts(id, tried)
				})
			})
		}
	}
}
