package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/journal"
	"holdfast/master/spec"
	"holdfast/master/store"
	"holdfast/master/store/postgres"
	"holdfast/master/store/transfer"
	"holdfast/proto/rpcerr"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{&resultError{"failed"}, 1},
		{&resultError{"cancelled"}, 3},
		{&resultError{"shelved"}, 4},
		{badUsage("no"), 2},
		{&usageError{err: &spec.FileError{}}, 2},
		{fmt.Errorf("x: %w", client.ErrAddress), 2},
		{&client.UnreachableError{Err: context.DeadlineExceeded}, 5},
		{&client.UnreachableError{Err: context.Canceled}, 5},
		{fmt.Errorf("x: %w", client.ErrNoMaster), 5},
		{errNotFound, 6},
		{fs.ErrNotExist, 70},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/root/x/lock", Err: syscall.EACCES}), 2},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/data/attempts/x/exit.json", Err: syscall.EROFS}), 70},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.EIO}), 70},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "mkdir", Path: "/proc/x", Err: syscall.ENOENT}), 2},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.ENOSPC}), 70},
		{&store.IdentityError{}, 7},
		{fmt.Errorf("listen: %w", syscall.EADDRINUSE), 7},
		{fmt.Errorf("open: %w", store.ErrInUse), 7},
		{fmt.Errorf("open: %w", store.ErrNewer), 7},
		{fmt.Errorf("open: %w", store.ErrHalfMoved), 7},
		{fmt.Errorf("open: %w", store.ErrMoved), 7},
		{fmt.Errorf("x: %w", transfer.ErrRefused), 7},
		{fmt.Errorf("x: %w", transfer.ErrPlace), 2},
		{fmt.Errorf("x: %w", transfer.ErrNoStore), 6},
		{fmt.Errorf("x: %w", transfer.ErrAgain), 5},
		{fmt.Errorf("x: %w", transfer.ErrMismatch), 70},
		{fmt.Errorf("x: %w", postgres.ErrURL), 2},
		{fmt.Errorf("x: %w", postgres.ErrUnreachable), 5},
		{fmt.Errorf("x: %w", postgres.ErrRefused), 7},
		{fmt.Errorf("x: %w", postgres.ErrServer), 7},
		{fmt.Errorf("open: %w", journal.ErrNewerVersion), 7},
		{journal.ErrLocked, 7},
		{journal.ErrCorrupt, 70},
		{store.ErrFatal, 70},
		{errInterrupted, 130},
		{&quietError{errInterrupted}, 130},
		{context.Canceled, 130},
		{errors.New("a bug"), 70},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
	// Each reason has a code on purpose.
	want := map[rpcerr.Reason]int{rpcerr.NotFound: 6, rpcerr.Invalid: 2, rpcerr.NotReady: 5, rpcerr.Internal: 70}
	for _, r := range rpcerr.Reasons() {
		code, ok := want[r]
		if !ok {
			code = exitRefused
		}
		if got := exitCode(fmt.Errorf("build: %w", rpcerr.New(r, "no"))); got != code {
			t.Errorf("%s: exit code %d, want %d", r, got, code)
		}
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{&resultError{"failed"}, ""},
		{errors.Join(errors.New("a"), errors.New("b")), "holdfast: a; b\n"},
		{errors.New("the peer said \x1b[2J\rall is well\x9b"), "holdfast: the peer said \\x1b[2J\\rall is well\ufffd\n"},
		{&usageError{err: errors.New("no id"), use: "holdfast show ID"}, "holdfast: no id\nUsage: holdfast show ID\n"},
	} {
		var b strings.Builder
		if report(&b, c.err); b.String() != c.want {
			t.Errorf("%v: %q, want %q", c.err, b.String(), c.want)
		}
	}
}

// A bad file is told with its place, before anybody is asked anything: the
// master's address leads nowhere.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"unknown-key":   {"name: n\nstepps: []\n", ":2:1: "},
		"wrong-type":    {"name: n\nsteps: yes\n", ":2:8: "},
		"empty-steps":   {"name: n\nsteps: []\n", ":2:8: "},
		"duplicate":     {"name: n\nsteps:\n  - {name: a, run: x}\n  - {name: a, run: y}\n", ":4:12: "},
		"negative":      {"name: n\nsteps:\n  - {name: a, run: x, timeout: -5m}\n", ":3:32: "},
		"unit":          {"name: n\nsteps:\n  - {name: a, run: x, timeout: 5 fortnights}\n", ":3:32: "},
		"syntax":        {"name: [\n", ":1:"},
		"empty":         {"", ":1:1: "},
		"binary":        {"name: \x00\n", ":1:7: "},
		"two-mistakes!": {"nam: n\nsteps: []\n", ":2:8: "},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name+".yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"submit", "run"} {
				r := run(t, "", command, "--addr", "127.0.0.1:1", "-f", path)
				if r.code != exitUsage || r.out != "" || !strings.Contains(r.err, path+c.want) {
					t.Errorf("%s: exit code %d, %q, %q, want %s%s…", command, r.code, r.out, r.err, path, c.want)
				}
				for line := range strings.Lines(r.err) {
					if !strings.HasPrefix(line, path+":") {
						t.Errorf("a line that is no place: %q", line)
					}
				}
			}
			r := run(t, c.text, "submit", "--addr", "127.0.0.1:1", "-f", "-")
			if r.code != exitUsage || !strings.HasPrefix(r.err, "<stdin>:") {
				t.Errorf("from standard input: exit code %d, %q", r.code, r.err)
			}
		})
	}
}

// Mistakes in a command line are told in one line and the line that shows
// how, and nobody is asked anything.
func TestUsage(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.yaml")
	if err := os.WriteFile(good, []byte("name: n\nsteps:\n  - {name: a, run: x}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := client.NewID()
	for _, args := range [][]string{
		{"no-such-command"}, {"lss"}, {"ls", "--no-such-flag"}, {"ls", "extra"}, {"ls", "--limit", "-1"}, {"ls", "--addr", "nonsense"},
		{"show"}, {"show", id, id}, {"logs", id, "--step", "x"}, {"cancel", id}, {"unshelve", id}, {"explain"},
		{"submit"}, {"submit", "-f", good, "--", "true"}, {"submit", "-f", good + "x"}, {"submit", "-f", filepath.Dir(good)},
		{"submit", "--env", "novalue", "--", "true"}, {"submit", "--label", "=x", "--", "true"}, {"submit", "--name", strings.Repeat("x", 300), "--", "true"},
		{"submit", "--label", "a b=c", "-f", good}, {"run", "--addr", ":7400", "--", "true"},
		{"completion"}, {"completion", "tcsh"}, {"version", "x"}, {"journal"}, {"journal", "mend", "."}, {"journal", "ls"},
		{"masters", "x"}, {"master", "--data", "x", "--store", "postgres://h/d"},
		{"master"}, {"master", "--data", "x", "--lost-after", "-1s"}, {"master", "--data", "x", "--listen", "nonsense"},
		{"master", "--data", "x", "--log-level", "loud"}, {"master", "--data", "x", "--advertise", "nonsense"},
		{"events", "--since", "-1"},
		{"migrate-store"}, {"migrate-store", "--from", "sqlite:x"}, {"migrate-store", "--from", "mysql://x", "--to", "sqlite:y"},
		{"migrate-store", "--from", "sqlite:x", "--to", "postgres://h:port/d"}, {"migrate-store", "--undo", "sqlite:x", "--to", "sqlite:y"},
	} {
		r := run(t, "", args...)
		if r.code != exitUsage || r.out != "" {
			t.Errorf("%q: exit code %d, output %q", args, r.code, r.out)
		}
		lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "holdfast: ") || !strings.HasPrefix(lines[1], "Usage: holdfast") {
			t.Errorf("%q says\n%s", args, r.err)
		}
	}
	if r := run(t, ""); r.code != exitOK || !strings.Contains(r.out, "submit") {
		t.Errorf("without arguments: exit code %d, %q", r.code, r.out)
	}
}

// What cannot be an id is the id of no build: no master is needed to say so.
func TestImpossibleID(t *testing.T) {
	for _, args := range [][]string{{"show", "abc"}, {"logs", "abc"}, {"explain", ""}, {"cancel", "abc", "--reason", "r"},
		{"unshelve", "\x1b[31m", "--reason", "r"}, {"journal", "ls", "/no/such/place"}} {
		r := run(t, "", args...)
		if r.code != exitNotFound || strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "\x1b") {
			t.Errorf("%q: exit code %d, %q", args, r.code, r.err)
		}
	}
}

// A slave that could never be admitted, or has nowhere to keep its journal, does
// not start.
func TestImpossibleSlave(t *testing.T) {
	for _, args := range [][]string{
		{"--data", t.TempDir(), "--name", "a/b"}, {"--data", t.TempDir(), "--name", strings.Repeat("x", 64)},
		{"--data", "/dev/null/x"}, {"--data", "/proc/x"},
	} {
		r := run(t, "", append([]string{"slave", "--master", "127.0.0.1:1"}, args...)...)
		if r.code != exitUsage || r.err == "" {
			t.Errorf("%q: exit code %d, %q", args, r.code, r.err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	addr := l.Addr().String()
	for _, args := range [][]string{{"ls"}, {"run", "--", "true"}, {"logs", "-f", client.NewID()}, {"events", "-f"}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			r := run(t, "", append([]string{args[0], "--addr", addr}, args[1:]...)...)
			took := time.Since(began)
			if r.code != exitUnreachable || r.out != "" || took > 7*time.Second || took < 4*time.Second {
				t.Errorf("exit code %d after %v, output %q", r.code, took, r.out)
			}
			lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
			if len(lines) != 2 || !strings.HasPrefix(lines[0], "holdfast: waiting for master at "+addr) || !strings.Contains(lines[1], "connection refused") {
				t.Errorf("says\n%s", r.err)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := run(t, "", "completion", shell); r.code != exitOK || !strings.Contains(r.out, "holdfast") {
			t.Errorf("%s: exit code %d", shell, r.code)
		}
	}
}
