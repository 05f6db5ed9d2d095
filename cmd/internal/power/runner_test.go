package power

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/slave/runner"
	"holdfast/slave/spool"
)

// TestCutRunner (P-start-once, P-exit, P-durable): after a cut a step that has run is never
// one that could be started, whatever stood before it has a recorded end, and a
// recorded end has its whole log.
func TestCutRunner(t *testing.T) { cutPower(t, "runner") }

// attempts are what the runners carry through, by the name of their directory.
// Each step says in the marks that it runs; its output is a few segments.
var attempts = []struct {
	name, state string // "": its runner is killed
	steps       []string
}{
	{"whole", runner.StateSucceeded, []string{"seq 1 2500; echo err >&2", "true", "seq 7 300; echo kept > file"}},
	{"fails", runner.StateFailed, []string{"echo one", "seq 1 900; exit 3", "echo never"}},
	{"dies", "", []string{"seq 1 1200", "seq 1 1100; kill -9 $PPID; sleep 0.1", "echo never"}},
}

func attemptPlan(dir, name string, steps []string) runner.Plan {
	p := runner.Plan{
		Build: "b", BuildName: "b", Attempt: name, Workspace: filepath.Join(dir, "..", "ws"), SpoolQuota: 64 << 10,
		Env: []string{"PATH=" + os.Getenv("PATH")},
	}
	for i, script := range steps {
		mark := fmt.Sprintf("echo ran %s %d >> %s; ", name, i+1, filepath.Join(dir, "..", marksFile))
		p.Steps = append(p.Steps, runner.PlanStep{ID: fmt.Sprintf("%s-%d", name, i+1), Name: fmt.Sprint("s", i+1), Run: mark + script, Grace: time.Second})
	}
	return p
}

// writeAttempts is an agent: it prepares, launches and looks.
func writeAttempts(dir string, _ int, say func(string, ...any)) error {
	for _, a := range attempts {
		attempt := filepath.Join(dir, a.name)
		if err := os.Mkdir(attempt, 0o755); err != nil {
			return err
		}
		if err := runner.Prepare(attempt, attemptPlan(dir, a.name, a.steps)); err != nil {
			return err
		}
		say("prepared %s", a.name)
		died := make(chan struct{})
		cfg := runner.LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: attempt, Died: func() { close(died) }}
		if err := runner.Launch(context.Background(), cfg); err != nil {
			return err
		}
		<-died
		o, err := runner.Observe(attempt)
		switch {
		case err != nil:
			return err
		case o.Alive:
			return fmt.Errorf("%s: its runner lives", a.name)
		case o.End == nil && a.state != "", o.End != nil && o.End.State != a.state:
			return fmt.Errorf("%s: it ended as %+v", a.name, o.End)
		case o.End == nil:
			if _, err := runner.KillLeftovers(context.Background(), attempt, nil); err != nil {
				return err
			}
		}
		say("over %s", a.name)
	}
	return nil
}

func checkAttempts(dir string, said []string, _ bool) error {
	for _, a := range attempts {
		prepared, over, ran := false, false, 0
		for _, line := range said {
			var word, name string
			var step int
			fmt.Sscan(line, &word, &name, &step)
			if name != a.name {
				continue
			}
			prepared, over, ran = prepared || word == "prepared", over || word == "over", max(ran, step)
		}
		if err := checkAttempt(filepath.Join(dir, a.name), prepared, over && a.state != "", ran); err != nil {
			return fmt.Errorf("attempt %s, prepared %v, %d steps ran: %w", a.name, prepared, ran, err)
		}
	}
	return nil
}

func checkAttempt(dir string, prepared, ended bool, ran int) error {
	if !prepared {
		return prepareAgain(dir)
	}
	o, err := runner.Observe(dir)
	switch {
	case err != nil:
		return err
	case len(o.Damaged) > 0:
		return errors.Join(o.Damaged...)
	case len(o.Steps) != 3 || o.Plan.Attempt != filepath.Base(dir):
		return fmt.Errorf("the plan is %+v", o.Plan)
	case ended && o.End == nil:
		return errors.New("its end is gone")
	}
	for i, s := range o.Steps {
		number := i + 1
		switch {
		case number <= ran && s.Started == nil:
			return fmt.Errorf("step %d ran, and could be started again", number)
		case s.Exit != nil && s.Started == nil:
			return fmt.Errorf("step %d ended and was not started", number)
		case s.Exit != nil && number > ran:
			return fmt.Errorf("step %d ended and did not run", number)
		case (number < ran || number == ran && ended) && s.Exit == nil:
			return fmt.Errorf("the end of step %d is gone, and what came after it is known", number)
		case s.Exit == nil:
			continue
		}
		// The agent reports what the record says: so the log must be there.
		sum, err := spool.Scan(s.LogDir)
		if err != nil {
			return err
		}
		if sum.Torn || sum.First != 0 || sum.Size != s.Exit.LogBytes || sum.CRC != s.Exit.LogCRC {
			return fmt.Errorf("step %d ended with a log of %d bytes (%08x), there is %+v", number, s.Exit.LogBytes, s.Exit.LogCRC, sum)
		}
	}
	if o.End != nil && o.Steps[max(ran, 1)-1].Exit == nil {
		return errors.New("it ended without its last step")
	}
	return again(dir, o)
}

// prepareAgain: nobody was told that it is prepared, so the next boot does it.
func prepareAgain(dir string) error {
	name := filepath.Base(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var steps []string
	for _, a := range attempts {
		if a.name == name {
			steps = a.steps
		}
	}
	if err := runner.Prepare(dir, attemptPlan(filepath.Dir(dir), name, steps)); err != nil {
		return err
	}
	o, err := runner.Observe(dir)
	if err != nil || len(o.Damaged) > 0 || o.End != nil || o.Plan.Attempt != name {
		return fmt.Errorf("prepared again it is %+v: %w", o, err)
	}
	for i, s := range o.Steps {
		if s.Started != nil || s.Exit != nil {
			return fmt.Errorf("step %d has records before there was a runner", i+1)
		}
	}
	return nil
}

// again is the next boot: a runner is launched only if nothing has started, so
// the start record of a step must refuse a second one on every image.
func again(dir string, o runner.Observation) error {
	for i, s := range o.Steps {
		if s.Started == nil {
			continue
		}
		if err := runner.WriteStarted(dir, i+1, runner.Started{}, false); !errors.Is(err, runner.ErrStarted) {
			return fmt.Errorf("step %d could be started again: %w", i+1, err)
		}
	}
	if o.End == nil {
		// What an agent that finds it dead writes next, where it is still free.
		if err := runner.WriteEnd(dir, runner.End{State: runner.StateFailed, Cause: "machine_rebooted", AtUS: 1}, false); err != nil {
			return err
		}
	}
	after, err := runner.Observe(dir)
	if err != nil || after.End == nil && len(after.Damaged) == 0 {
		return fmt.Errorf("no end after it was written: %+v: %w", after.Damaged, err)
	}
	if i := strings.Index(fmt.Sprint(after.Damaged), "plan.json"); i >= 0 {
		return errors.Join(after.Damaged...)
	}
	return nil
}
