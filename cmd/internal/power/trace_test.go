package power

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// traced are the calls that change a disk, or say where the next write goes.
// What of them is not understood fails the test, if it is about our files.
const traced = "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,fsync,fdatasync,sync," +
	"syncfs,sync_file_range,msync,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir," +
	"mknod,mknodat,lseek,copy_file_range,sendfile,splice"

// call is one system call that has succeeded.
type call struct {
	pid        int
	name       string
	args       []string // strings decoded; a file descriptor is its path
	fds        []int    // as args; -1 where it is no descriptor
	result     int64
	begun, end int // places in the trace: two calls overlap if their places do
}

// recording is a traced run of a scenario, made once for all tests of it.
type recording struct {
	once  sync.Once
	skip  string // why there is none
	err   error
	dir   string // its disk was dir/disk
	calls []call
	took  time.Duration
}

// recorded runs this binary as the writer of a scenario, under strace.
func recorded(t testing.TB, scenario string) *recording {
	t.Helper()
	r := recordings[scenario]
	r.once.Do(func() {
		began := time.Now()
		r.make(scenario)
		r.took = time.Since(began)
	})
	if r.skip != "" {
		journaltest.SkipOrFail(t, r.skip)
	}
	if r.err != nil {
		t.Fatalf("record the writer of %s: %v", scenario, r.err)
	}
	return r
}

func (r *recording) make(scenario string) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		r.skip = "no strace"
		return
	}
	if out, err := exec.Command(strace, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		r.skip = fmt.Sprintf("strace may not trace: %v %s", err, out)
		return
	}
	for range 5 {
		if r.err = r.try(strace, scenario); !errors.Is(r.err, errKilledInCall) {
			return
		}
	}
}

func (r *recording) try(strace, scenario string) error {
	dir, err := os.MkdirTemp(recordingsDir, scenario+"-")
	if err != nil {
		return err
	}
	// As the kernel tells it.
	if r.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	for _, name := range []string{"disk", "ws"} {
		if err := os.Mkdir(filepath.Join(r.dir, name), 0o755); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	trace := filepath.Join(r.dir, "trace")
	cmd := exec.CommandContext(ctx, strace, "-f", "-xx", "-y", "-s", "33554432", "-e", "signal=none", "-e", "trace="+traced, "-o", trace, os.Args[0])
	cmd.Env = append(os.Environ(), envWriter+"="+scenario, envDir+"="+r.dir, "GORACE=atexit_sleep_ms=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	f, err := os.Open(trace)
	if err != nil {
		return err
	}
	defer f.Close()
	r.calls, err = parse(f)
	return err
}

// errKilledInCall: a process was killed while it changed something: the trace
// does not say whether it has.
var errKilledInCall = errors.New("killed in the middle of a call")

// parse reads a trace, in the order in which calls have ended.
func parse(f *os.File) ([]call, error) {
	type half struct {
		text string
		at   int
	}
	open := make(map[string]half)
	var calls []call
	in := bufio.NewReaderSize(f, 1<<20)
	for at := 0; ; at++ {
		line, err := in.ReadString('\n')
		if line == "" {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", at, err)
		}
		pid, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rest = strings.TrimLeft(rest, " ")
		begun := at
		if before, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			open[pid] = half{before, at}
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			_, after, ok := strings.Cut(rest, " resumed>")
			if !ok || open[pid].text == "" {
				return nil, fmt.Errorf("line %d: %.200s", at, rest)
			}
			rest, begun = open[pid].text+after, open[pid].at
			delete(open, pid)
		}
		switch {
		case strings.HasPrefix(rest, "+++ killed") && open[pid].text != "" && !strings.HasPrefix(open[pid].text, "lseek"):
			return nil, fmt.Errorf("line %d: %w: %.200s", at, errKilledInCall, open[pid].text)
		case strings.HasPrefix(rest, "+++"), strings.HasPrefix(rest, "---"), strings.HasPrefix(rest, "???"):
			continue
		case strings.HasSuffix(rest, "= ?") && !strings.HasPrefix(rest, "lseek"):
			return nil, fmt.Errorf("line %d: %w: %.200s", at, errKilledInCall, rest)
		}
		c, ok, err := parseCall(rest)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: %.300s", at, err, rest)
		}
		if ok {
			c.pid, _ = strconv.Atoi(pid)
			c.begun, c.end = begun, at
			calls = append(calls, c)
		}
	}
	return calls, nil
}

// parseCall reads `name(args) = result`; false: it has failed. All strings and
// paths are hexadecimal, so what separates them separates.
func parseCall(line string) (call, bool, error) {
	name, rest, ok := strings.Cut(line, "(")
	text, result, ok2 := cutLast(rest, ") ")
	result, ok3 := strings.CutPrefix(strings.TrimLeft(result, " "), "= ")
	if !ok || !ok2 || !ok3 {
		return call{}, false, fmt.Errorf("no call")
	}
	if strings.HasPrefix(result, "-1 ") || strings.HasPrefix(result, "?") {
		return call{}, false, nil
	}
	c := call{name: name}
	number, path, opened := strings.Cut(result, "<")
	var err error
	if c.result, err = strconv.ParseInt(strings.Fields(number)[0], 0, 64); err != nil {
		return call{}, false, fmt.Errorf("result %q", number)
	}
	for _, a := range strings.Split(text, ", ") {
		arg, fd, err := parseArg(a)
		if err != nil {
			return call{}, false, err
		}
		c.args, c.fds = append(c.args, arg), append(c.fds, fd)
	}
	if opened { // the path under which it was opened, as the kernel has it
		if path, err = unhex(strings.TrimSuffix(path, ">")); err != nil {
			return call{}, false, err
		}
		c.args, c.fds = append(c.args, path), append(c.fds, int(c.result))
	}
	return c, true, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func parseArg(a string) (string, int, error) {
	if s, ok := strings.CutPrefix(a, `"`); ok {
		s, ok = strings.CutSuffix(s, `"`)
		if !ok {
			return "", -1, fmt.Errorf("a string that strace has cut: %.60s", a)
		}
		s, err := unhex(s)
		return s, -1, err
	}
	if number, path, ok := strings.Cut(a, "<"); ok {
		fd, err := strconv.Atoi(number)
		if err != nil {
			fd = -1 // AT_FDCWD
		}
		deleted := strings.HasSuffix(path, "(deleted)")
		s, err := unhex(strings.TrimSuffix(strings.TrimSuffix(path, "(deleted)"), ">"))
		if deleted {
			s = ""
		}
		return s, fd, err
	}
	return a, -1, nil
}

func unhex(s string) (string, error) {
	if !strings.HasPrefix(s, `\x`) {
		return s, nil // pipe:[1], anon_inode
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	return string(b), err
}
