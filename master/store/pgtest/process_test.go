//go:build linux

package pgtest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/master/store/pgtest"
)

// envChild makes this binary a test process that is to be killed.
const envChild = "HOLDFAST_PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(envChild) == "" {
		os.Exit(m.Run())
	}
	c, err := pgtest.Start(pgtest.Config{Dir: os.Args[1]})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up", c.URL("postgres"))
	select {}
}

// Whatever ends a test process, its server and its directories end with it; the server also where nobody is left to
// remove its directories, for it would end without those.
func TestProcessDies(t *testing.T) {
	pgtest.Need(t)
	for _, test := range []struct {
		name    string
		sig     syscall.Signal
		remover bool
	}{
		{"kill -9", syscall.SIGKILL, true},
		{"terminated", syscall.SIGTERM, true},
		{"kill -9 of all", syscall.SIGKILL, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := open(t)
			dir, tmp := filepath.Join(parent, "cluster"), filepath.Join(parent, "tmp")
			if err := os.Mkdir(tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], dir)
			cmd.Env = append(os.Environ(), envChild+"=1", "TMPDIR="+tmp)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "up ") {
				t.Fatalf("child: %s %v", line, err)
			}
			family := familyOf(t, dir)
			if left, err := os.ReadDir(tmp); err != nil || len(left) != 1 {
				t.Fatalf("want one directory for the socket: %v, %v", left, err)
			}

			t.Cleanup(func() {
				if t.Failed() {
					syscall.Kill(family[0], syscall.SIGQUIT)
				}
			})
			if !test.remover {
				for _, pid := range childrenOf(t, cmd.Process.Pid) {
					if pid != family[0] {
						syscall.Kill(pid, syscall.SIGKILL)
						eventually(t, "the remover ends", func() bool { return !alive(pid) })
					}
				}
			}
			if err := cmd.Process.Signal(test.sig); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			for _, pid := range family {
				eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
			}
			if !test.remover {
				if !there(dir) {
					t.Error("the directory went: the server may have ended for that")
				}
				return
			}
			eventually(t, "the directories go", func() bool {
				left, err := os.ReadDir(tmp)
				return !there(dir) && err == nil && len(left) == 0
			})
		})
	}
}

func TestRootIsDropped(t *testing.T) {
	c := start(t, pgtest.Config{})
	conn := connect(t, c.URL("postgres"))
	dir := filepath.Dir(ask[string](t, conn, "SHOW data_directory"))
	for _, pid := range familyOf(t, dir) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			name, ids, _ := strings.Cut(line, ":")
			for _, id := range strings.Fields(ids) {
				switch own := strconv.Itoa(os.Geteuid()); {
				case name == "Uid" && own == "0" && id == "0", name == "Gid" && own == "0" && id == "0", name == "Groups" && own == "0" && id == "0":
					t.Errorf("process %d of a server runs as root: %s", pid, line)
				case name == "Uid" && own != "0" && id != own:
					t.Errorf("process %d runs as somebody else: %s", pid, line)
				}
			}
		}
	}
}

// familyOf returns the server in a directory, and its children; there are some always.
func familyOf(t *testing.T, dir string) []int {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(lock), "\n")
	server, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	children := childrenOf(t, server)
	if len(children) < 2 {
		t.Fatalf("the server %d has hardly any children: %v", server, children)
	}
	return append([]int{server}, children...)
}

func childrenOf(t *testing.T, of int) (children []int) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			t.Fatal(err)
		}
		if _, parent := stat(pid); parent == of {
			children = append(children, pid)
		}
	}
	return children
}

// alive tells whether a process runs. Who has no memory any more is on its way out, or waits for its parent.
func alive(pid int) bool {
	memory, _ := stat(pid)
	return memory != 0
}

// stat returns how many bytes of memory a process has mapped, and whose child it is; zeros if there is none.
func stat(pid int) (memory, parent int) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	_, rest, _ := strings.Cut(string(line), ") ")
	fields := strings.Fields(rest) // from the third on
	memory, _ = strconv.Atoi(fields[23-3])
	parent, _ = strconv.Atoi(fields[4-3])
	return memory, parent
}

// onDyingThread calls f on a thread and returns when that thread has ended.
func onDyingThread(t *testing.T, f func()) {
	t.Helper()
	over := make(chan struct{})
	defer close(over)
	called := make(chan int)
	var try func()
	try = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		tid := syscall.Gettid()
		if tid == os.Getpid() { // but the first one of a process never does: keep it, and take another
			go try()
			<-over
			runtime.UnlockOSThread()
			return
		}
		f()
		called <- tid
	}
	go try()
	tid := <-called
	eventually(t, "the thread has ended", func() bool { return !there(fmt.Sprintf("/proc/self/task/%d", tid)) })
}
