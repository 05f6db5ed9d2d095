package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// transientExit is the exit code that all specs of the simulation declare to
// be nobody's fault.
const transientExit = 75

// spec draws a build.
func (p *Profile) spec(rng *rand.Rand) *holdfastv1.BuildSpec {
	s := &holdfastv1.BuildSpec{Name: fmt.Sprintf("b%02d", rng.IntN(40)), Reason: "sim"}
	lost := func(d time.Duration) { us := d.Microseconds(); s.LostAfterUs = &us }
	switch dice := rng.Float64(); {
	case dice < 0.02:
		lost(0)
	case dice < 0.10:
		s.LostNever = true
	case dice < 0.30:
		lost(between(rng, p.Outage[1]/8, 2*p.Outage[1]))
	}
	if rng.Float64() < 0.1 {
		s.Rerun = "never"
	}
	if rng.Float64() < 0.03 {
		s.StopOnSlaveAfterUs = between(rng, p.Outage[1]/4, p.Outage[1]).Microseconds()
	}
	if rng.Float64() < 0.05 {
		s.Priority = int32(rng.IntN(3))
	}
	for i := range 1 + rng.IntN(p.Steps) {
		s.Steps = append(s.Steps, &holdfastv1.StepSpec{
			Name: fmt.Sprintf("s%d", i+1), Run: p.script(rng).String(), RetryExitCodes: []int32{transientExit},
		})
	}
	return s
}

// script draws a step.
func (p *Profile) script(rng *rand.Rand) script {
	s := script{lasts: between(rng, p.Lasts[0], p.Lasts[1]) / time.Duration(p.Steps), width: p.Width}
	if rng.Float64() >= p.Silent {
		s.bursts, s.lines = 1+rng.IntN(p.Bursts), 1+rng.IntN(p.Lines)
	}
	switch dice := rng.Float64(); {
	case dice < 0.05:
		s.exits = []int{1}
	case dice < 0.08:
		s.exits = []int{transientExit, 0}
	case dice < 0.09:
		s.exits = []int{transientExit}
	case dice < 0.095:
		s.deaths = []death{killsRunner, killsNothing}
	case dice < 0.10:
		s.deaths = []death{killsRunner}
	}
	if rng.Float64() < 0.01 { // now and then a lot
		s.lines *= 50
	}
	return s
}
