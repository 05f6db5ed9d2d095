package journal_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// childWriter appends the generator's history for seed and prints the number of each step once it is
// acknowledged, until it is killed.
func childWriter(path, seedText string) int {
	seed, _ := strconv.ParseUint(seedText, 10, 64)
	j, _, err := journal.Open(context.Background(), journal.Config{Path: path, Reserve: 64 << 10})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go j.Run(context.Background())
	g, m := newGenerator(seed), make(model)
	for step := 1; ; step++ {
		w := g.write(m)
		m.apply(w)
		if err := j.Append(context.Background(), w); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(step)
	}
}

// TestCrashKill: SIGKILL at a random moment; the journal then holds every acknowledged step and at most the
// one that was under way.
func TestCrashKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 16 {
		seed := uint64(round + 100)
		path := filepath.Join(t.TempDir(), "journal.db")
		cmd := exec.Command(self, path, fmt.Sprint(seed))
		cmd.Env = append(os.Environ(), envChild+"=writer")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked := 0
		lines := bufio.NewScanner(out)
		killAfter := 1 + rand.IntN(150)
		for lines.Scan() {
			if acked, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if acked == killAfter { // a few more steps come through the pipe before it dies
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait()
		checkCrashed(t, path, seed, acked)
	}
}

// checkCrashed replays the history: acked steps, or one more.
func checkCrashed(t *testing.T, path string, seed uint64, acked int) {
	t.Helper()
	g, m := newGenerator(seed), make(model)
	for range acked {
		m.apply(g.write(m))
	}
	j, opened, stop := journaltest.OpenStop(t, journal.Config{Path: path, Reserve: 64 << 10, Logger: slog.New(slog.DiscardHandler)})
	defer stop()
	if opened.SetAside != "" || opened.Created && acked > 0 {
		t.Fatalf("seed %d: %d steps acknowledged, opened %+v", seed, acked, opened)
	}
	without := m.diff(j)
	if without == "" {
		return
	}
	m.apply(g.write(m))
	if with := m.diff(j); with != "" {
		t.Fatalf("seed %d: %d steps acknowledged; without the next: %s; with it: %s", seed, acked, without, with)
	}
}

// scenario is a short life of a journal that meets every kind of write to the disk: create, append, ACK, drop,
// grow, drain, compact, close, open. Step k is durable before step k+1 begins.
func scenario(step int) []journal.Write {
	entry := func(first, last uint64, size int) []journal.Entry {
		return []journal.Entry{{First: first, Last: last, Data: make([]byte, size)}}
	}
	switch step {
	case 1:
		return []journal.Write{{Stream: "a", Entries: entry(1, 3, 100), Puts: map[string][]byte{"k": []byte("1")}}}
	case 2:
		return []journal.Write{{Stream: "a", Ack: 1}, {Stream: "b", Entries: entry(1, 1, 10)}}
	case 3:
		return []journal.Write{{Stream: "a", Entries: entry(4, 9, 9000), Ack: 3, Puts: map[string][]byte{"k": nil}}}
	case 4:
		return []journal.Write{{Stream: "b", Drop: true}, {Stream: "c", Puts: map[string][]byte{"b": []byte("dropped")}}}
	case 5:
		return []journal.Write{{Stream: "big", Entries: entry(1, 1, 6<<20)}} // the file grows
	case 6:
		return []journal.Write{{Stream: "big", Ack: 1}} // and is compacted
	case 7:
		return []journal.Write{{Stream: "a", Entries: entry(10, 10, 50)}}
	}
	return nil
}

// childScenario plays the scenario on one thread, so that strace can count its system calls, and prints each step
// that was acknowledged. It goes on where an earlier run of it stopped.
func childScenario(path string) int {
	runtime.LockOSThread()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	j, opened, err := journal.Open(ctx, scenarioConfig(path))
	if err != nil || opened.SetAside != "" {
		fmt.Fprintln(os.Stderr, opened, err)
		return 1
	}
	failed := make(chan error, 1)
	go func() {
		defer cancel()
		for step := 1; scenario(step) != nil; step++ {
			if err := j.Append(ctx, scenario(step)...); err != nil {
				failed <- err
				return
			}
			fmt.Println(step)
			for step == 6 && j.Stats().Compactions+j.Stats().CompactionsFailed == 0 && ctx.Err() == nil {
				runtime.Gosched()
			}
		}
	}()
	err = j.Run(ctx)
	select {
	case err = <-failed:
	default:
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

func scenarioConfig(path string) journal.Config {
	return journal.Config{Path: path, Reserve: 64 << 10, Logger: slog.New(slog.DiscardHandler)}
}

// scenarioModel is the state after so many steps.
func scenarioModel(steps int) model {
	m := make(model)
	for step := 1; step <= steps; step++ {
		m.apply(scenario(step)...)
	}
	return m
}

const (
	diskCalls  = "openat,pwrite64,fdatasync,fsync,ftruncate,fallocate,renameat,unlinkat"
	straceSlow = 60 * time.Second
)

// TestCrashEveryWrite (T-crash-every-write): the process is killed at the entry of the N-th system call that changes the disk, for
// every N; what was acknowledged is there, and the next life goes on from it.
func TestCrashEveryWrite(t *testing.T) {
	everyCall(t, diskCalls+",write", "signal=KILL", 1) // write is also how the child tells
}

// TestCrashEveryError: the N-th call fails with EIO instead. Nothing is acknowledged that is not there afterwards, and
// after a restart without the fault everything is as acknowledged.
func TestCrashEveryError(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 3 // TestFaults fails every one of them too, from within
	}
	everyCall(t, diskCalls, "error=EIO", stride)
}

func everyCall(t *testing.T, calls, fault string, stride int) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for call := range strings.SplitSeq(calls, ",") {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += stride {
				path := filepath.Join(fastTempDir(t), "journal.db")
				acked, faulted := runScenario(t, path, strace, "-f", "-o", path+".trace", "-e", "trace="+call,
					"-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, n), self, path)
				checkScenario(t, path, n, acked)
				if !strings.Contains(string(readFile(t, path+".trace")), "INJECTED") && !faulted {
					t.Logf("figure: %s at each call of %s = %d places", fault, call, (n-1)/stride)
					if n == 1 && call != "ftruncate" {
						t.Errorf("the scenario makes no %s", call)
					}
					break
				}
			}
		})
	}
}

// runScenario returns the last step that was acknowledged and whether the process ended badly.
func runScenario(t *testing.T, path string, command ...string) (acked int, failed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), straceSlow)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), envChild+"=scenario")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	failed = cmd.Wait() != nil
	if ctx.Err() != nil {
		t.Fatalf("%v did not end", command)
	}
	return len(strings.Fields(string(b))), failed
}

func checkScenario(t *testing.T, path string, n, acked int) {
	t.Helper()
	j, opened, stop := journaltest.OpenStop(t, scenarioConfig(path))
	if opened.SetAside != "" || opened.Created && acked > 0 {
		t.Fatalf("call %d: %d steps acknowledged, opened %+v", n, acked, opened)
	}
	without := scenarioModel(acked).diff(j)
	if without == "" {
		acked--
	} else if with := scenarioModel(acked + 1).diff(j); with != "" {
		t.Fatalf("call %d: %d steps acknowledged; without the next: %s; with it: %s", n, acked, without, with)
	}
	// The next life finishes the story.
	for step := acked + 2; scenario(step) != nil; step++ {
		if err := j.Append(t.Context(), scenario(step)...); err != nil {
			t.Fatalf("call %d: after restart: step %d: %v", n, step, err)
		}
	}
	scenarioModel(7).check(t, j)
	stop()
	leftovers, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range leftovers {
		if e := filepath.Ext(f); e != ".lock" && e != ".trace" && e != ".clean" {
			t.Errorf("call %d: %s left over", n, f)
		}
	}
}
