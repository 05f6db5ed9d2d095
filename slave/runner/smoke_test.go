package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/slave/spool"
)

func TestSmoke(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a1")
	ws := t.TempDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := Plan{Build: "b", Attempt: "a", Workspace: ws, Env: []string{"PATH=/usr/bin:/bin"}, Steps: []PlanStep{
		{ID: "s1", Name: "one", Run: "echo hello; echo err >&2; sleep 30 & echo $HOLDFAST_STEP", Grace: time.Second},
		{ID: "s2", Name: "two", Run: "exit 3", Grace: time.Second},
		{ID: "s3", Name: "three", Run: "true", Grace: time.Second},
	}}
	if err := Prepare(dir, p); err != nil {
		t.Fatal(err)
	}
	if err := Launch(t.Context(), LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		o, err := Observe(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !o.Alive {
			for i, s := range o.Steps {
				t.Logf("%d started=%+v exit=%+v", i, s.Started, s.Exit)
				if sum, err := spool.Scan(s.LogDir); err == nil {
					t.Logf("%+v", sum)
				}
			}
			t.Logf("end=%+v", o.End)
			b, _ := os.ReadFile(logPath(dir))
			t.Logf("log: %s", b)
			r, _ := spool.NewReader(LogDir(dir, 1), 0)
			c, err := r.Next(1000)
			t.Logf("%q %+v %v", c.Data, c.Marks, err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("not over")
}
