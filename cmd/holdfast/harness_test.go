//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
)

// cliEnv makes a child of the test binary be holdfast.
const cliEnv = "HOLDFAST_TEST_CLI"

func TestMain(m *testing.M) {
	// Agents start their runners from this binary.
	if len(os.Args) > 1 && (os.Args[1] == "runner" || os.Args[1] == "journal-verify" || os.Args[1] == "chaos-step") || os.Getenv(cliEnv) != "" {
		os.Exit(dispatch(os.Args[1:]))
	}
	os.Setenv("TZ", "UTC")
	os.Setenv("USER", "ann")
	os.Unsetenv("HOLDFAST_ADDR")
	os.Unsetenv("HOLDFAST_STORE")
	code := m.Run()
	if stopShared != nil {
		stopShared()
	}
	os.Exit(code)
}

// farm is a holdfast dev.
type farm struct {
	addr, http, dir string
}

// sharedFarm is one farm for all tests that look only at their own builds and
// leave none running.
var (
	sharedFarm = sync.OnceValues(func() (f *farm, err error) {
		f, stopShared, err = startFarm()
		return f, err
	})
	stopShared func()
)

// startFarm runs a holdfast dev in this process, until stop.
func startFarm() (f *farm, stop func(), err error) {
	dir, err := os.MkdirTemp("", "holdfast-cli-")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := new(safeBuffer)
	ended := make(chan int, 1)
	addrs := filepath.Join(dir, "addr")
	go func() {
		ended <- execute(ctx, []string{"dev", "--data", dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--notify", "127.0.0.1:0",
			"--addr-file", addrs, "--slots", "4", "--log-level", "warn"}, stdio{in: strings.NewReader(""), out: log, err: log})
	}()
	stop = func() {
		cancel()
		if code := <-ended; code != 0 {
			fmt.Fprintf(os.Stderr, "dev ended with %d:\n%s\n", code, log)
		}
		os.RemoveAll(dir)
	}
	if f, err = readAddrs(addrs, 20*time.Second); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%w\n%s", err, log)
	}
	f.dir = dir
	return f, stop, nil
}

// readAddrs waits for an --addr-file.
func readAddrs(path string, patience time.Duration) (*farm, error) {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(path)
		if err == nil {
			f := new(farm)
			for line := range strings.Lines(string(data)) {
				switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
				case "grpc":
					f.addr = value
				case "http":
					f.http = value
				}
			}
			return f, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("dev is not ready after %v", patience)
		}
	}
}

func shared(t *testing.T) *farm {
	t.Helper()
	f, err := sharedFarm()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run runs one command line against the farm.
func (f *farm) run(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, "", append(args[:1:1], append([]string{"--addr", f.addr}, args[1:]...)...)...)
}

// ok runs a command that must succeed and returns its output.
func (f *farm) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := f.run(t, args...)
	if r.code != exitOK {
		t.Fatalf("holdfast %q: exit code %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// child starts holdfast as a process of its own.
func child(t *testing.T, args ...string) (cmd *exec.Cmd, out, errOut *safeBuffer) {
	t.Helper()
	out, errOut = new(safeBuffer), new(safeBuffer)
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), cliEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("holdfast %q:\n%s%s", args, out, errOut)
		}
	})
	return cmd, out, errOut
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// settled waits for the end of a build, and of its log.
func (f *farm) settled(t *testing.T, id string) {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Addr: f.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the end of build "+id, func() bool {
		b, err := c.Build(t.Context(), id)
		return err == nil && client.Done(b)
	})
}
