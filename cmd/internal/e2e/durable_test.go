package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// traced starts a daemon again under strace and returns a func that ends it and
// tells what it did, in order.
func (d *daemon) traced(t *testing.T, calls string) (ended func() []string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	d.cmd = exec.Command(strace, append([]string{"-f", "-y", "-s", "5000", "-o", trace, "-e", "trace=" + calls, "-e", "signal=none", binary}, d.args...)...)
	d.run()
	return func() []string {
		t.Helper()
		// strace passes the signal on to the one it started, and ends with it.
		pids := children(t, d.cmd.Process.Pid)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-d.over
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return whole(strings.Split(string(b), "\n"))
	}
}

// whole puts calls together that strace tells in two pieces, since another
// thread came between: a sync counts once it has returned, all else from its
// beginning.
func whole(trace []string) (calls []string) {
	begun := map[string]string{} // by thread
	for _, line := range trace {
		thread, call, _ := strings.Cut(line, " ")
		call = strings.TrimSpace(call)
		switch head, unfinished := strings.CutSuffix(call, " <unfinished ...>"); {
		case unfinished && strings.Contains(head, "sync("):
			begun[thread] = head
		case strings.HasPrefix(call, "<... ") && strings.Contains(call, "sync resumed"):
			calls = append(calls, begun[thread])
		case !strings.HasPrefix(call, "<... "):
			calls = append(calls, call)
		}
	}
	return calls
}

func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	for _, p := range marked(binary) {
		if parent(p) == pid {
			pids = append(pids, p)
		}
	}
	if len(pids) == 0 {
		t.Fatal("strace has no child")
	}
	return pids
}

// inOrder asserts that the calls come in this order, each after the one before.
// A call is words that its line has; -y shows the paths of descriptors.
func inOrder(t *testing.T, trace []string, calls ...[]string) {
	t.Helper()
	at := 0
	for _, want := range calls {
		found := false
		for ; at < len(trace) && !found; at++ {
			found = true
			for _, word := range want {
				found = found && strings.Contains(trace[at], word)
			}
		}
		if !found {
			for _, line := range trace {
				if len(line) > 200 {
					line = line[:200] + "…"
				}
				t.Log(line)
			}
			t.Fatalf("no call with %q where it should be", want)
		}
	}
}

// never asserts that no line before the first one with `until` has all the
// words.
func never(t *testing.T, trace []string, until string, words ...string) {
	t.Helper()
	for _, line := range trace {
		if strings.Contains(line, until) {
			return
		}
		found := true
		for _, word := range words {
			found = found && strings.Contains(line, word)
		}
		if found {
			t.Errorf("before %q: %s", until, line)
		}
	}
	t.Errorf("no call with %q", until)
}

// P-durable, P-sync, P-incarnation: what an agent finds after a death it makes
// durable before it uses it, its incarnation before Hello, its epoch before
// anything else, and what it says before it says it.
func TestDurableBeforeSaid(t *testing.T) {
	t.Run("agent", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		slave := f.slave("b1")
		id := f.submit("retry: {max_transient: 1}" + gated(filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")))
		await(t, filepath.Join(f.dir, "ready"))
		attempt := f.show(id).Attempts[0].ID
		f.underway(id, 1)
		slave.kill()
		killMarked(attempt) // the runner and its step
		dir := f.slaveDir("b1")
		ended := slave.traced(t, "fsync,fdatasync,pwrite64,write,sendto,connect,rename,renameat,renameat2")
		f.settled(id, 30*time.Second, "shelved")
		trace := ended()

		journal, identity, log := "<"+dir+"/journal.db>", dir+"/identity.json", dir+"/attempts/"+attempt+"/steps/0001/log/"
		// What was found, before it is changed or told.
		never(t, trace, "fsync(", "pwrite64(", journal)
		inOrder(t, trace, []string{"fsync(", journal}, []string{"connect(", "sin_port"}, []string{"runner_lost"})
		inOrder(t, trace, []string{"fsync(", "<" + log}, []string{"pwrite64(", journal, "runner_lost"})
		// Who it is, before Hello; the epoch, before the first word after it.
		inOrder(t, trace,
			[]string{"fsync(", "<" + identity + ".new>"}, []string{"rename", identity}, []string{"fsync(", "<" + dir + ">"},
			[]string{"connect(", "sin_port"},
			[]string{"fsync(", "<" + identity + ".new>"}, []string{"rename", identity}, []string{"fsync(", "<" + dir + ">"},
			[]string{"<socket:[", "runner_lost"})
		// The update itself: in the journal, synced, sent.
		inOrder(t, trace, []string{"pwrite64(", journal, "runner_lost"}, []string{"fdatasync(", journal}, []string{"fdatasync(", journal}, []string{"<socket:[", "runner_lost"})
	})

	t.Run("master", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		f.slave("b1")
		id := f.submit(counting(3, "0.1"))
		f.settled(id, 20*time.Second, "succeeded")
		f.master.kill()
		store := filepath.Join(f.dir, "master", "holdfast.db")
		if info, err := os.Stat(store + "-wal"); err != nil || info.Size() == 0 {
			t.Fatalf("the dead master left no log: %v", err)
		}
		ended := f.master.traced(t, "fsync,fdatasync,pwrite64,write,accept4")
		f.connected("b1")
		second := f.submit("name: second\nreason: a-word-to-look-for\nsteps:\n  - {name: s, run: 'true'}\n")
		f.settled(second, 30*time.Second, "succeeded")
		trace := ended()
		// What was found: the log, then the database, before the first word to anybody.
		inOrder(t, trace, []string{"sync(", "<" + store + "-wal>"}, []string{"sync(", "<" + store + ">"}, []string{"write(", "<socket:["})
		// What is answered: committed and synced first.
		inOrder(t, trace, []string{"pwrite64(", "<" + store + "-wal>", "a-word-to-look-for"}, []string{"sync(", "<" + store + "-wal>"}, []string{"write(", "<socket:[", second})
		never(t, trace, "a-word-to-look-for", "<socket:[", second)
	})
}
