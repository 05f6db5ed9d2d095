package runner

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/slave/spool"
)

// P-leftover, P-sync: whatever a step puts in the place of a file of its attempt,
// the agent waits for nobody, can still look, and can still kill.
func TestForeignFiles(t *testing.T) {
	kinds := maps.Clone(obstacles)
	kinds["nothing"] = func(string) error { return nil }
	kinds["no rights"] = func(path string) error { return os.WriteFile(path, []byte("{}"), 0) }
	paths := map[string]func(dir string) string{
		"lock":     lockPath,
		"ctl":      ctlPath,
		"stop":     stopPath,
		"stop.tmp": func(dir string) string { return stopPath(dir) + tempSuffix },
		"end":      endPath,
		"end.tmp":  func(dir string) string { return endPath(dir) + tempSuffix },
		"log":      logPath,
		"steps":    func(dir string) string { return filepath.Join(dir, "steps") },
		"step":     func(dir string) string { return stepDir(dir, 1) },
		"started":  func(dir string) string { return startedPath(dir, 1) },
		"exit":     func(dir string) string { return exitPath(dir, 1) },
		"spool":    func(dir string) string { return LogDir(dir, 1) },
		"segment":  func(dir string) string { return filepath.Join(LogDir(dir, 1), fmt.Sprintf("%020d.seg", 0)) },
	}
	for where, path := range paths {
		for what, put := range kinds {
			t.Run(where+"/"+what, func(t *testing.T) {
				t.Parallel()
				a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
				if err := os.MkdirAll(LogDir(a.dir, 1), 0o755); err != nil {
					t.Fatal(err)
				}
				at := path(a.dir)
				if err := errors.Join(os.RemoveAll(at), put(at)); err != nil {
					t.Fatal(err)
				}
				ids := []string{a.plan.Steps[0].ID}
				done := beside(func() error {
					_, err := Observe(a.dir)
					if alive, e := Alive(a.dir); e != nil || alive {
						err = errors.Join(err, fmt.Errorf("alive %t: %w", alive, e))
					}
					if where == "lock" || where == "step" {
						left, e := KillLeftovers(t.Context(), a.dir, ids)
						if e != nil || len(left) > 0 {
							err = errors.Join(err, fmt.Errorf("kill: %v, %w", left, e))
						}
					}
					if _, e := spool.Usage(LogDir(a.dir, 1)); e != nil && !errors.Is(e, spool.ErrTorn) {
						err = errors.Join(err, e)
					}
					// An order that is there already, and is no file of ours, is an order too.
					return errors.Join(err, Stop(a.dir, "x"))
				})
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(time.Minute):
					t.Fatal("the agent waits")
				}
			})
		}
	}
}

// beside runs f beside.
func beside(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}
