package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// RecordVersion is the version of plan.json and of the records: that of the
// plan is that of all its runner writes.
const RecordVersion = 1

const planVersion = RecordVersion

// Errors.
var (
	// ErrNewer: a file was written by a newer version of holdfast.
	ErrNewer = errors.New("written by a newer version of holdfast")
	// ErrAlive: the attempt has a runner.
	ErrAlive = errors.New("the attempt has a runner")
	// ErrEnded: the attempt has ended; it is not run again.
	ErrEnded = errors.New("the attempt has ended")
	// ErrStarted: the step was started before.
	ErrStarted = errors.New("the step was started before")
	// ErrDamaged: a file cannot be understood.
	ErrDamaged = errors.New("file is damaged")
)

// Plan is all a runner needs to know.
type Plan struct {
	Version   int       `json:"version"` // set by Prepare
	Build     string    `json:"build"`
	BuildName string    `json:"build_name"`
	Attempt   string    `json:"attempt"`
	Steps     planSteps `json:"steps"`
	// Workspace is where steps run; it exists.
	Workspace string `json:"workspace"`
	// Env is what all steps get; the runner adds HOLDFAST_STEP,
	// HOLDFAST_STEP_NAME and HOLDFAST_STEP_NUMBER and the step's own.
	Env []string `json:"env"`
	// WakeFIFO is the agent's, see Wake; empty: nobody is to be woken.
	WakeFIFO string `json:"wake_fifo,omitempty"`
	// SpoolQuota bounds the log bytes of this attempt on disk; 0: no bound.
	SpoolQuota int64 `json:"spool_quota,omitempty"`
	// MinFree is what the file system keeps free, in bytes.
	MinFree int64 `json:"min_free,omitempty"`
	// NoSync leaves out every fsync. Only for simulations.
	NoSync bool `json:"no_sync,omitempty"`
}

// PlanStep is one command. Exactly one of Run and Command is set.
type PlanStep struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Run     string            `json:"run,omitempty"`
	Command []string          `json:"command,omitempty"`
	Dir     string            `json:"dir,omitempty"` // relative to the workspace
	Env     map[string]string `json:"env,omitempty"`
	Timeout time.Duration     `json:"timeout_ns,omitempty"` // 0: no limit
	Silence time.Duration     `json:"silence_ns,omitempty"` // 0: no limit
	Grace   time.Duration     `json:"grace_ns"`             // between TERM and KILL
	// RetryExitCodes are the exit codes that are transient failures.
	RetryExitCodes []int `json:"retry_exit_codes,omitempty"`
}

// MaxSteps is how many steps a plan has at most.
const MaxSteps = 10_000

// planSteps are not decoded beyond MaxSteps: a step that writes over the plan
// can put five million empty ones into a file of maxFile, and their agent would
// need a gigabyte for them.
type planSteps []PlanStep

// UnmarshalJSON implements json.Unmarshaler.
func (l *planSteps) UnmarshalJSON(b []byte) error {
	*l = nil
	d := json.NewDecoder(bytes.NewReader(b))
	switch open, err := d.Token(); {
	case err != nil:
		return err
	case open == nil: // null
		return nil
	case open != json.Delim('['):
		return errors.New("steps are no list")
	}
	for d.More() {
		if len(*l) == MaxSteps {
			return fmt.Errorf("more than %d steps", MaxSteps)
		}
		var s PlanStep
		if err := d.Decode(&s); err != nil {
			return err
		}
		*l = append(*l, s)
	}
	return nil
}

// Names of files in an attempt's directory.
func stepDir(dir string, number int) string {
	return filepath.Join(dir, "steps", fmt.Sprintf("%04d", number))
}
func planPath(dir string) string   { return filepath.Join(dir, "plan.json") }
func lockPath(dir string) string   { return filepath.Join(dir, "lock") }
func stopPath(dir string) string   { return filepath.Join(dir, "stop.json") }
func ctlPath(dir string) string    { return filepath.Join(dir, "ctl") }
func endPath(dir string) string    { return filepath.Join(dir, "end.json") }
func runnerPath(dir string) string { return filepath.Join(dir, "runner.json") }
func logPath(dir string) string    { return filepath.Join(dir, "runner.log") }

func startedPath(dir string, number int) string {
	return filepath.Join(stepDir(dir, number), "started")
}
func pidPath(dir string, number int) string  { return filepath.Join(stepDir(dir, number), "pid.json") }
func exitPath(dir string, number int) string { return filepath.Join(stepDir(dir, number), "exit.json") }

// LogDir is the spool directory of a step, numbered from 1.
func LogDir(dir string, number int) string { return filepath.Join(stepDir(dir, number), "log") }

// Prepare lays out an attempt's directory. It may be repeated until Launch has
// succeeded. The directory is durable when it returns.
//
// If we crash in the middle, the next Prepare finishes the work: plan.json is
// the last to appear.
func Prepare(dir string, p Plan) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("prepare attempt: %w", err)
	}
	for i := range p.Steps {
		if err := os.MkdirAll(stepDir(dir, i+1), 0o755); err != nil {
			return fmt.Errorf("prepare attempt: %w", err)
		}
	}
	if err := unix.Mkfifo(ctlPath(dir), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("prepare attempt: make %s: %w", ctlPath(dir), err)
	}
	lock, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("prepare attempt: %w", err)
	}
	if err := lock.Close(); err != nil {
		return fmt.Errorf("prepare attempt: %w", err)
	}
	if !p.NoSync {
		// Room for the words that must be possible on a full disk (P-full).
		for _, path := range []string{endPath(dir), stopPath(dir)} {
			if err := reserve(path); err != nil {
				return fmt.Errorf("prepare attempt: reserve %s: %w", path, err)
			}
		}
		for _, d := range []string{filepath.Join(dir, "steps"), filepath.Dir(dir)} {
			if err := syncDir(d); err != nil {
				return fmt.Errorf("prepare attempt: %w", err)
			}
		}
	}
	p.Version = planVersion
	if err := writeJSON(planPath(dir), p, p.NoSync); err != nil {
		return fmt.Errorf("prepare attempt: %w", err)
	}
	return nil
}

// check finds what would go wrong only when it is too late.
func (p *Plan) check() error {
	if len(p.Steps) == 0 || len(p.Steps) > MaxSteps {
		return fmt.Errorf("a plan of %d steps", len(p.Steps))
	}
	ids := make(map[string]bool)
	for i, s := range p.Steps {
		switch {
		case s.ID == "" || ids[s.ID]:
			return fmt.Errorf("step %d: its id %q is empty or not its own", i+1, s.ID)
		case (s.Run == "") == (len(s.Command) == 0):
			return fmt.Errorf("step %d: either run or a command", i+1)
		}
		ids[s.ID] = true
	}
	return nil
}

// ReadPlan reads plan.json.
func ReadPlan(dir string) (Plan, error) {
	var p Plan
	found, err := readUpTo(maxFile, planPath(dir), &p)
	if err != nil {
		return Plan{}, err
	}
	if !found {
		return Plan{}, fmt.Errorf("%s: %w", planPath(dir), os.ErrNotExist)
	}
	return p, nil
}

// stepEnv is the environment of one step in a data directory; later entries win.
func (p *Plan) stepEnv(number int, home string) []string {
	s := &p.Steps[number-1]
	env := append([]string(nil), p.Env...)
	for k, v := range s.Env {
		env = append(env, k+"="+v)
	}
	return append(env,
		markEnv+"="+s.ID,
		homeEnv+"="+home,
		"HOLDFAST_STEP_NAME="+s.Name,
		"HOLDFAST_STEP_NUMBER="+strconv.Itoa(number))
}
