package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
)

// beat is a program that touches a file for as long as it lives, and leaves its
// session, its parents and its output first: setsid, two forks. With another
// word it ignores TERM.
const beat = `use POSIX; my $f = shift; exit 0 if fork(); setsid(); exit 0 if fork(); $SIG{TERM} = $SIG{HUP} = "IGNORE" if @ARGV;
open(STDIN, "</dev/null"); open(STDOUT, ">/dev/null"); open(STDERR, ">/dev/null"); while (1) { open(F, ">", $f); close(F); select(undef, undef, undef, 0.002); }`

// hostile is a step that does its worst.
type hostile struct {
	name string
	// run may use $BEAT, a command that leaves a daemon which touches the file
	// $ALIVE, $STUBBORN, one that ignores TERM, and $DIR, the attempt's directory.
	run  string
	step string // other keys of the step
	then string // another step
	top  string // other keys of the build

	cancel   string // cancelled once this file of the step's is there
	state    string // of the build
	attempts int    // default 1
	cause    string // of each attempt
	says     string // by the attempt's or a step's detail
	log      int64  // bytes of the first step's log
	check    func(t *testing.T, f *farm, b buildView)
}

// In an order in which no three builds in a row are lost: their slave would be
// quarantined.
var hostileSteps = []hostile{
	{name: "forks fast", run: `f() { : > $ALIVE; f & exit; }; f & sleep 1000`, cancel: "alive", state: "cancelled", cause: "cancelled"},
	{
		name: "hops from session to session", state: "cancelled", cause: "cancelled", cancel: "alive",
		run: `exec perl -e 'use POSIX; $SIG{TERM} = "IGNORE"; while (1) { open(F, ">", $ENV{ALIVE}); close(F); my $p = fork(); if ($p) { exit 0 } setsid() if defined $p }'`,
	},
	{name: "ignores TERM", run: `trap "" TERM HUP INT; while :; do : > $ALIVE; sleep 0.01; done`, step: "timeout: 300ms, grace: 200ms", state: "failed", cause: "timed_out", says: "ran longer than 300ms"},
	{name: "closes its output and runs on", run: `exec >&- 2>&- <&-; while :; do : > $ALIVE; sleep 0.01; done`, step: "silence: 300ms, grace: 200ms", state: "failed", cause: "silent", says: "no output for 300ms"},
	{name: "leaves a child without output", run: `(exec >&- 2>&- <&-; while :; do : > $ALIVE; sleep 0.01; done) & while ! test -e $ALIVE; do sleep 0.01; done`, state: "succeeded", says: "killed what it left running: "},
	{name: "daemonises and ignores TERM", run: `$STUBBORN`, state: "succeeded", says: "killed what it left running: perl"},
	{name: "daemonises without environment", run: `env -i $BEAT`, state: "succeeded", says: "killed what it left running: perl"},
	{
		name: "daemonises and kills its runner", run: `$BEAT; kill -9 $PPID; sleep 1000`,
		top: "retry: {max_transient: 1}", state: "shelved", cause: "runner_lost", says: "the runner died without a last word",
	},
	{
		name: "daemonises without environment and kills its runner", run: `env -i $BEAT; env -i sleep 1000 & kill -9 $PPID; sleep 1000`,
		top: "retry: {max_transient: 1}", state: "shelved", cause: "runner_lost", says: "the runner died without a last word",
	},
	{name: "prints NULs", run: `head -c 3000000 /dev/zero`, state: "succeeded", log: 3_000_000},
	{
		name: "daemonises without environment and kills runner and agent",
		run:  `env -i $BEAT; set -- $(cat /proc/$PPID/stat); kill -9 $PPID $4; sleep 1000`,
		top:  "retry: {max_transient: 1}", state: "shelved", cause: "runner_lost", says: "the runner died without a last word",
	},
	{
		name: "kills its runner again and again", run: `echo about to kill $PPID; while ! grep -q about $DIR/steps/0001/log/*; do sleep 0.01; done; kill -9 $PPID; sleep 1000`,
		top: "retry: {max_transient: 3, backoff: 20ms}", state: "shelved", attempts: 3, cause: "runner_lost", says: "the runner died without a last word",
		check: func(t *testing.T, f *farm, b buildView) {
			if evidence := f.do("shelf"); strings.Count(evidence, "about to kill") < 3 || b.TransientFailures != 3 {
				t.Errorf("%d transient failures; the shelf says:\n%s", b.TransientFailures, evidence)
			}
		},
	},
	{name: "prints a line of 100 MB", run: `head -c 100000000 /dev/zero | tr '\0' x`, state: "succeeded", log: 100_000_000},
	{name: "deletes its workspace", run: `rm -rf "$PWD"; rm -rf /proc/self/cwd; echo gone`, then: "true", state: "failed", cause: "command_failed", says: "the workspace is gone: an earlier step has removed it"},
	{
		name: "fills its disk", run: `$BEAT; dd if=/dev/zero of=fill bs=64k`, state: "failed", cause: "command_failed", says: "exit code 1",
		check: func(t *testing.T, f *farm, b buildView) {
			if log := f.do("logs", b.ID); !strings.Contains(log, "No space left") {
				t.Errorf("the log says %q", log)
			}
		},
	},
	{
		name: "says that its machine was restarted, and kills its runner", top: "retry: {max_transient: 1}", state: "shelved", cause: "runner_lost",
		run:  `$BEAT; printf '{"version":1,"state":"failed","cause":"machine_rebooted","detail":"","at_us":1}' > $DIR/end.json; kill -9 $PPID; sleep 1000`,
		says: `end.json: failed with cause "machine_rebooted": file is damaged`,
	},
	{
		name: "says that it succeeded, kills its runner and runs on", state: "succeeded",
		run: `env -i $BEAT; s=$HOLDFAST_STEP; printf '{"version":1,"step":"%s","state":"succeeded","exit_code":0,"log_bytes":0}' $s > $DIR/steps/0001/exit.json
      printf '{"version":1,"state":"succeeded"}' > $DIR/end.json; kill -9 $PPID; sleep 1000`,
	},
	{
		name: "blocks whoever reads what its runner writes", top: "retry: {max_transient: 1}", state: "shelved", cause: "runner_lost", says: "is no file",
		// The lock comes last: a runner whose lock is gone is given up, and its step killed.
		run: `$BEAT; mkfifo $DIR/a $DIR/b $DIR/c; mv -f $DIR/a $DIR/end.json; mv -f $DIR/b $DIR/steps/0001/exit.json; mv -f $DIR/c $DIR/lock; kill -9 $PPID; sleep 1000`,
	},
}

// TestHostileStep: whatever a step does, its build ends in a state that a person
// understands, and when that is told nothing of it is left running (P-leftover).
func TestHostileStep(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"perl", "mkfifo"} {
		if _, err := exec.LookPath(tool); err != nil {
			journaltest.SkipOrFail(t, "no "+tool)
		}
	}
	f := newFarm(t)
	work := filepath.Join(f.slaveDir("b1"), "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	small := unix.Mount("tmpfs", work, "tmpfs", 0, "size=1m") == nil
	if small {
		t.Cleanup(func() { _ = unix.Unmount(work, unix.MNT_DETACH) })
	}
	j := f.jailed("b1")
	for i, h := range hostileSteps {
		t.Run(h.name, func(t *testing.T) {
			if h.name == "fills its disk" && !small {
				journaltest.SkipOrFail(t, "no small disk")
			}
			if strings.Contains(h.name, "without environment and kills") && os.Geteuid() != 0 {
				journaltest.SkipOrFail(t, "no control group: what has cleared its environment is not found once its runner is dead")
			}
			h.play(t, f, j, i)
		})
	}
	// The slave is as good as new.
	if r := f.try("run", "--", "true"); r.code != 0 {
		t.Errorf("the next build: exit code %d, %s", r.code, r.err)
	}
	for _, d := range j.agents() {
		if rss := peakRSS(d); rss > 200<<20 {
			t.Errorf("peak RSS of the agent is %d MiB", rss>>20)
		}
	}
}

// play runs one hostile step and looks what came of it.
func (h *hostile) play(t *testing.T, f *farm, j *jail, i int) {
	dir := filepath.Join(f.dir, fmt.Sprintf("case-%d", i))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	alive := filepath.Join(dir, "alive")
	program := filepath.Join(dir, "beat.pl")
	if err := os.WriteFile(program, []byte(beat), 0o644); err != nil {
		t.Fatal(err)
	}
	// A daemon that beats before the step goes on.
	daemon := fmt.Sprintf("sh -c '/usr/bin/env perl %s %s; while ! test -e %s; do /bin/sleep 0.01; done'", program, alive, alive)
	script := strings.NewReplacer("$BEAT", daemon, "$STUBBORN", strings.Replace(daemon, ";", " stubborn;", 1)).Replace(h.run)
	script = "export ALIVE=" + alive + " DIR=$HOLDFAST_WORKSPACE/../../attempts/$HOLDFAST_ATTEMPT; " + script
	yaml := fmt.Sprintf("name: hostile-%d\n%s\nsteps:\n  - name: hostile\n    run: |\n      %s\n", i, h.top, script)
	if h.step != "" {
		yaml += "    " + strings.ReplaceAll(h.step, ", ", "\n    ") + "\n"
	} else {
		yaml += "    grace: 200ms\n"
	}
	if h.then != "" {
		yaml += "  - {name: then, run: '" + h.then + "'}\n"
	}
	id := f.submit(yaml)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("explain: %sslaves: %s", f.do("explain", id), f.do("slaves"))
		}
	})
	if h.cancel != "" {
		await(t, filepath.Join(dir, h.cancel))
		f.do("cancel", id, "--reason", "enough")
	}
	b := (&farm{t: t, addr: f.addr}).settled(id, 30*time.Second, "succeeded", "failed", "cancelled", "shelved")
	if h.cancel != "" { // at once for people; its end is told later
		eventually(t, 30*time.Second, "the end is told", func() bool { b = f.show(id); return b.Attempts[0].Outcome != nil })
	}
	j.empty(t)

	want := max(h.attempts, 1)
	if b.State != h.state || len(b.Attempts) != want {
		t.Fatalf("the build is %s with %d attempts, want %s with %d: %s", b.State, len(b.Attempts), h.state, want, f.do("show", id, "--json"))
	}
	said := ""
	for _, a := range b.Attempts {
		if cause := deref(a.Cause); cause != h.cause {
			t.Errorf("attempt %d: cause %q, want %q", a.Number, cause, h.cause)
		}
		said += deref(a.Detail)
		for _, s := range a.Steps {
			said += "; " + s.Detail
		}
	}
	if !strings.Contains(said, h.says) {
		t.Errorf("its attempts say %q, and not %q", said, h.says)
	}
	if words := f.do("explain", id); strings.TrimSpace(words) == "" || h.cause != "" && h.cause != "cancelled" && !strings.Contains(words, h.cause) {
		t.Errorf("explain says %q, and not %s", words, h.cause)
	}
	// Its last sign of life is older than the word of its end.
	a := b.Attempts[len(b.Attempts)-1]
	if info, err := os.Stat(alive); err == nil && h.cancel == "" {
		if last := info.ModTime(); last.After(a.FinishedAt.Add(time.Millisecond)) {
			t.Errorf("it was alive at %v, %v after its end was told", last, last.Sub(a.FinishedAt))
		}
	} else if strings.Contains(h.run, "$BEAT") || strings.Contains(h.run, "$STUBBORN") {
		t.Errorf("its daemon never lived: %v", err)
	}
	if h.log > 0 {
		eventually(t, 60*time.Second, "the whole log", func() bool { return f.show(id).Attempts[0].Steps[0].LogState == "complete" })
		if s := f.show(id).Attempts[0].Steps[0]; s.LogBytes != h.log {
			t.Errorf("%d bytes of log, want %d", s.LogBytes, h.log)
		}
		if out := f.do("logs", id); int64(len(out)) != h.log || strings.Trim(out, out[:1]) != "" {
			t.Errorf("the log reads %d bytes of %q", len(out), out[:1])
		}
	}
	if h.check != nil {
		h.check(t, f, b)
	}
	eventually(t, 20*time.Second, "its slot is free", func() bool {
		list := f.slaves()
		return len(list) == 1 && list[0].Busy == 0 && list[0].State == "connected" && list[0].Accepting
	})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
