//go:build linux

package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/journal/journaltest"
)

func TestParseHierarchies(t *testing.T) {
	const v2mount = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	const v1mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n"
	const hybrid = v1mounts + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	for name, tt := range map[string]struct {
		mounts, member string
		want           []hierarchy
	}{
		"version 2":                     {v2mount, "0::/system.slice/holdfast.service\n", []hierarchy{{"/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/holdfast.service", true}}},
		"version 2, at its root":        {v2mount, "0::/\n", []hierarchy{{"/sys/fs/cgroup", "/sys/fs/cgroup", true}}},
		"version 1":                     {v1mounts, "6:freezer:/\n1:cpu:/x\n", []hierarchy{{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup/freezer", false}}},
		"version 1, shared":             {strings.Replace(v1mounts, "rw,freezer", "rw,cpuacct,freezer", 1), "6:cpuacct,freezer:/a:b\n", []hierarchy{{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup/freezer/a:b", false}}},
		"both":                          {hybrid, "6:freezer:/f\n0::/u\n", []hierarchy{{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/u", true}, {"/sys/fs/cgroup/freezer", "/sys/fs/cgroup/freezer/f", false}}},
		"a part of the tree":            {strings.Replace(v2mount, " / ", " /docker/77 ", 1), "0::/docker/77/x\n", []hierarchy{{"/sys/fs/cgroup", "/sys/fs/cgroup/x", true}}},
		"another part of the tree":      {strings.Replace(v2mount, " / ", " /docker/77 ", 1), "0::/docker/777\n", []hierarchy{{"/sys/fs/cgroup", "", true}}},
		"outside of its namespace":      {v2mount, "0::/../x\n", []hierarchy{{"/sys/fs/cgroup", "", true}}},
		"a path with a blank":           {strings.Replace(v2mount, "/sys/fs/cgroup", `/my\040groups`, 1), "0::/a\n", []hierarchy{{"/my groups", "/my groups/a", true}}},
		"no freezer":                    {"32 31 0:29 / /c rw - cgroup cgroup rw,cpu\n", "1:cpu:/\n", nil},
		"nothing mounted":               {"", "0::/\n", nil},
		"lines that say something else": {"garbage\n1 2 - cgroup2\n - \n", "garbage\n0:\n", nil},
	} {
		if diff := cmp.Diff(tt.want, parseHierarchies(tt.mounts, tt.member), cmp.AllowUnexported(hierarchy{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

// inGroups runs a test in each kind of control group that there is.
func inGroups(t *testing.T, run func(t *testing.T, h hierarchy)) {
	t.Helper()
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("version 2 %v", v2), func(t *testing.T) {
			for _, h := range hierarchies() {
				if h.v2 == v2 && h.own != "" {
					run(t, h)
					return
				}
			}
			t.Log("this machine has none of this kind")
		})
	}
}

// TestKillsGroup: what is in an attempt's group dies, marks or none, forking or
// not, and the group goes with it.
func TestKillsGroup(t *testing.T) {
	for name, script := range map[string]string{
		"silent": "env -i setsid sleep 1000 & : > here; wait", "forks": "f() { : > here; f & exit; }; f & sleep 1000",
		"in a group below": "mkdir $GROUP/below; (echo 0 > $GROUP/below/cgroup.procs; exec env -i sleep 1000) & sleep 1000 & : > here; wait",
		"stands still in a group below": "mkdir $GROUP/below; (echo 0 > $GROUP/below/cgroup.procs; exec env -i sleep 1000) & while ! grep -q . $GROUP/below/cgroup.procs; do sleep 0.01; done;" +
			"echo FROZEN 2>&- > $GROUP/below/freezer.state || echo 1 > $GROUP/below/cgroup.freeze; : > here; wait",
	} {
		t.Run(name, func(t *testing.T) {
			inGroups(t, func(t *testing.T, h hierarchy) {
				home, dir := t.TempDir(), t.TempDir()
				group := filepath.Join(h.own, groupName(homeOf(home), "attempt"))
				if err := os.Mkdir(group, 0o755); err != nil {
					journaltest.SkipOrFail(t, fmt.Sprintf("no control group: %v", err))
				}
				cmd := exec.Command("sh", "-c", "read x; "+script)
				cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "GROUP=" + group}
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
					t.Fatal(err)
				}
				if _, err := in.Write([]byte("go\n")); err != nil {
					t.Fatal(err)
				}
				await(t, "here", func() bool { _, err := os.Stat(filepath.Join(dir, "here")); return err == nil })
				if found, err := membersOf(group); err != nil || len(found) == 0 {
					t.Fatalf("found %v, %v", found, err)
				}
				reaped := make(chan struct{})
				go func() { _ = cmd.Wait(); close(reaped) }()
				SweepGroups(home) // spares who lives
				for _, other := range []string{"another", "attempt2", ""} {
					if found := groups(homeOf(home), other); len(found) > 0 {
						t.Fatalf("another attempt's: %v", found)
					}
				}
				if found := groups(homeOf(dir), "attempt"); len(found) > 0 {
					t.Fatalf("another directory's: %v", found)
				}
				if found, err := membersOf(group); err != nil || len(found) == 0 {
					t.Fatalf("found %v, %v", found, err)
				}
				if left, err := KillMarked(t.Context(), home, "attempt", nil); err != nil || left != nil {
					t.Fatalf("left %v, %v", left, err)
				}
				<-reaped
				await(t, "the group to go", func() bool { // a zombie may hold it for a moment
					SweepGroups(home)
					_, err := os.Stat(group)
					return os.IsNotExist(err)
				})
			})
		})
	}
}

// TestSweepGroups: the empty group of a dead runner stays until its attempt is
// forgotten, so that an agent that is started need not look through all processes
// many times.
func TestSweepGroups(t *testing.T) {
	home := t.TempDir()
	if !CanGroup(home) {
		journaltest.SkipOrFail(t, "no control group")
	}
	dir := filepath.Join(home, "attempts", "attempt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	made := false
	for _, h := range hierarchies() {
		made = made || h.own != "" && os.Mkdir(filepath.Join(h.own, groupName(homeOf(home), "attempt")), 0o755) == nil
	}
	SweepGroups(home)
	if found := groups(homeOf(home), "attempt"); !made || len(found) == 0 {
		t.Errorf("made %t, found %q", made, found)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	SweepGroups(home)
	if found := groups(homeOf(home), "attempt"); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
}

// TestKillsWhatHasNoMarks (P-leftover): the runner is dead, and what it left has
// cleared its environment and lost its parents.
func TestKillsWhatHasNoMarks(t *testing.T) {
	a := launch(t, PlanStep{Run: `echo $$ > runs; (env -i setsid sh -c 'echo $$ > daemon; exec sleep 1000' <&- >&- 2>&- &); while ! test -s daemon; do sleep 0.01; done; : > here; sleep 1000`})
	a.awaitFile("here")
	if len(groups(homeOf(homeOfAttempt(a.dir)), filepath.Base(a.dir))) == 0 {
		_ = Stop(a.dir, "enough")
		a.end()
		journaltest.SkipOrFail(t, "no control group")
	}
	b, err := os.ReadFile(filepath.Join(a.ws, "daemon"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	a.killRunner()
	if busy, err := Left(a.dir, nil); !busy || err != nil {
		t.Errorf("left: %v, %v", busy, err)
	}
	a.killsLeftovers()
	a.await("the daemon's death", func() bool { _, ended, ok := stat(pid); return !ok || ended || syscall.Kill(pid, 0) != nil })
	if busy, err := Left(a.dir, nil); busy || err != nil {
		t.Errorf("left: %v, %v", busy, err)
	}
}

// TestLeavesNoGroup: an attempt that has ended leaves no group.
func TestLeavesNoGroup(t *testing.T) {
	a := launch(t, shell("true"))
	a.ended(StateSucceeded, "")
	if left := groups(homeOf(homeOfAttempt(a.dir)), filepath.Base(a.dir)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
