package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// earlier is the version before this one, as a commit of this repository. What of it
// the binary is made of is in testdata/earlier.tar.gz, so that a clone without history
// has it too. Move both with each release, to the commit that was released:
//
//	git archive COMMIT -- PARTS | gzip -9n >testdata/earlier.tar.gz
const (
	earlier      = "52ca7aa2715ae2d7566e914cf304d272a14c0697"
	earlierParts = "go.mod go.sum cmd master proto retry journal slave ':!*_test.go' ':!*/testdata/*'"
)

// earlierBinary builds the version before this one, once. Where the commit is in the
// clone the archive has to be the very same.
var earlierBinary = sync.OnceValues(func() (string, error) {
	root, archive := filepath.Join("..", "..", ".."), filepath.Join("testdata", "earlier.tar.gz")
	if exec.Command("git", "-C", root, "cat-file", "-e", earlier+"^{commit}").Run() == nil {
		compare := fmt.Sprintf("set -o pipefail; git -C '%s' archive %s -- %s | cmp - <(gzip -dc '%s')", root, earlier, earlierParts, archive)
		if out, err := exec.Command("bash", "-c", compare).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s is not commit %s: %w: %s", archive, earlier, err, out)
		}
	}
	dir := filepath.Dir(binary)
	src := filepath.Join(dir, "earlier")
	if err := os.Mkdir(src, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.Command("tar", "-xzf", archive, "-C", src).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w: %s", archive, err, out)
	}
	exe := filepath.Join(dir, "holdfast-earlier")
	build := exec.Command("go", "build", "-o", exe, "holdfast/cmd/holdfast")
	build.Dir, build.Env = src, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of %s: %w: %s", earlier, err, out)
	}
	return exe, nil
})

func earlierVersion(t *testing.T) string {
	t.Helper()
	exe, err := earlierBinary()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// T-skew, P-version: an agent of the version before this one at a master of this
// one, and the reverse: everything that a farm lives through.
func TestSkew(t *testing.T) {
	old := earlierVersion(t)
	for _, tc := range []struct{ name, master, slave string }{
		{"older slave", binary, old},
		{"older master", old, binary},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFarmOf(t, tc.master)
			agent := f.slaveOf(tc.slave, "b1", "--slots", "3")
			id := f.submit(counting(60, "0.1"))
			f.underway(id, 5)
			f.link.refuse()
			time.Sleep(time.Second) // the outage
			f.link.heal()
			f.underway(id, 25)
			agent.kill()
			agent.start()
			f.connected("b1")
			bad := strings.TrimSpace(f.do("submit", "--", "sh", "-c", "echo bad; exit 3"))
			ready := filepath.Join(f.dir, "ready")
			stopped := strings.TrimSpace(f.do("submit", "--", "sh", "-c", "touch "+ready+"; sleep 1000"))
			await(t, ready)
			f.do("cancel", stopped, "--reason", "test")
			if b := f.settled(bad, 20*time.Second, "succeeded", "failed"); b.State != "failed" || *b.Attempts[0].Cause != "command_failed" {
				t.Errorf("the failing build: %+v", b)
			}
			b := f.settled(id, 30*time.Second, "succeeded", "failed")
			eventually(t, 20*time.Second, "the log is whole", func() bool { return f.show(id).Attempts[0].Steps[0].LogState == "complete" })
			oneAttempt(t, f.show(b.ID))
			wantCount(t, f.lines(id), 60)
			eventually(t, 20*time.Second, "no slot is occupied, and nothing is left", func() bool {
				left, err := filepath.Glob(filepath.Join(f.slaveDir("b1"), "attempts", "*"))
				return err == nil && len(left) == 0 && f.slaves()[0].Busy == 0
			})
			if b := f.show(stopped); b.State != "cancelled" || len(b.Attempts) != 1 {
				t.Errorf("the cancelled build: %+v", b)
			}
			// The unavoidable word: who is older is not refused, at any time.
			if _, refused := f.event("slave.refused", "b1"); refused {
				t.Error("the slave was refused")
			}
		})
	}
}

// P-stop, P-version: an upgrade of the agent is stop and start; the step that runs
// meanwhile, carried by a runner of the other version, notices nothing. The way
// back as well.
func TestUpgradeAgent(t *testing.T) {
	old := earlierVersion(t)
	for _, tc := range []struct{ name, from, to string }{{"upgrade", old, binary}, {"way back", binary, old}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			agent := f.slaveOf(tc.from, "b1")
			id := f.submit(counting(30, "0.1"))
			f.underway(id, 5)
			pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
			// As systemd does: the first signal drains, which takes as long as the
			// build; the second leaves what runs to its runner.
			agent.signal(syscall.SIGTERM)
			eventually(t, 10*time.Second, "the first signal is heard", func() bool { return !f.slaves()[0].Accepting })
			agent.signal(syscall.SIGTERM)
			agent.ended(10 * time.Second)
			if !alive(pid) {
				t.Fatal("the step died with the agent")
			}
			agent.exe = tc.to
			agent.start()
			f.connected("b1")
			oneAttempt(t, f.settled(id, 30*time.Second, "succeeded", "failed"))
			wantCount(t, f.lines(id), 30)
			f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 20*time.Second, "succeeded")
		})
	}
}

// P-version: a master of this version takes over the data of the one before, with
// a build under way; its migrations run, and nothing is lost. There is no way
// back: the older one refuses the data, and leaves it as it was.
func TestUpgradeMaster(t *testing.T) {
	t.Parallel()
	old := earlierVersion(t)
	f := newFarmOf(t, old)
	f.slave("b1")
	before := strings.TrimSpace(f.do("submit", "--name", "before", "--", "echo", "kept"))
	f.settled(before, 20*time.Second, "succeeded")
	id := f.submit(counting(30, "0.1"))
	f.underway(id, 5)
	f.master.signal(syscall.SIGTERM)
	f.master.ended(20 * time.Second)
	f.master.exe = binary
	f.master.start()
	f.connected("b1")
	oneAttempt(t, f.settled(id, 30*time.Second, "succeeded", "failed"))
	wantCount(t, f.lines(id), 30)
	if got := f.lines(before); len(got) != 1 || got[0] != "kept" {
		t.Errorf("the log from before the upgrade is %q", got)
	}
	f.do("slave", "drain", "b1", "--reason", "what the older version could not")
	f.master.kill()
	f.master.exe = old
	f.master.start()
	if code := f.master.ended(20 * time.Second); code == 0 || !strings.Contains(f.master.output(), "newer") {
		t.Errorf("the older master on the newer data: exit code %d\n%s", code, f.master.output())
	}
	f.master.exe = binary
	f.master.start()
	f.connected("b1")
	oneAttempt(t, f.show(id))
}
