//go:build linux

package runner

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// envOneThread keeps the runner's main loop, which writes all records, on one
// thread: strace counts calls by thread.
const envOneThread = "HOLDFAST_RUNNER_ONE_THREAD"

// The test binary is the runner, too: Launch starts it with "runner". With
// "step" it is what a step runs, with "agent" somebody who launches and dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			if os.Getenv(envOneThread) != "" {
				runtime.LockOSThread()
			}
			os.Exit(Main(os.Args[2:]))
		case "step":
			childStep(os.Args[2], os.Args[3:])
		case "agent":
			childAgent(os.Args[2], os.Args[3])
		}
	}
	os.Exit(m.Run())
}

// The main goroutine stays on the first thread, for childStep("headless").
var _ = func() bool {
	if len(os.Args) > 2 && os.Args[1] == "step" {
		runtime.LockOSThread()
	}
	return true
}()

// line is the n-th line of so many bytes.
func line(n, size int) string { return fmt.Sprintf("%0*d\n", size-1, n) }

func printLines(count, size int) {
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	for n := range count {
		if _, err := out.WriteString(line(n, size)); err != nil {
			os.Exit(9)
		}
	}
	if err := out.Flush(); err != nil {
		os.Exit(9)
	}
}

func childStep(what string, args []string) {
	number := func(i int) int {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	switch what {
	case "lines": // COUNT SIZE
		printLines(number(0), number(1))
	case "lines-then-wait": // COUNT SIZE FILE: the file says that they are written
		printLines(number(0), number(1))
		touch(args[2])
		rest()
	case "lines-on-term": // COUNT SIZE FILE: on TERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		touch(args[2])
		<-c
		printLines(number(0), number(1))
	case "nul": // one line of SIZE bytes, NULs first
		chunk := make([]byte, 1<<20)
		for n := number(0); n > 0; n -= len(chunk) {
			chunk = chunk[:min(n, len(chunk))]
			if _, err := os.Stdout.Write(chunk); err != nil {
				os.Exit(9)
			}
			for i := range chunk {
				chunk[i] = 'x'
			}
		}
	case "headless": // FILE: the first thread ends, another one lives and ignores TERM
		signal.Ignore(syscall.SIGTERM)
		go func() {
			touch(args[0])
			rest()
		}()
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	os.Exit(0)
}

func touch(path string) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		os.Exit(9)
	}
}

// childAgent takes the lock, or launches, says so and waits to be killed.
func childAgent(what, dir string) {
	switch what {
	case "lock":
		if _, err := Lock(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "launch", "launch-and-die":
		if err := Launch(context.Background(), LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: dir}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("done")
	if what == "launch-and-die" {
		os.Exit(0)
	}
	rest()
}

// rest waits to be killed. In a system call: the runtime must not take it for a
// deadlock.
func rest() {
	for {
		_ = unix.Nanosleep(&unix.Timespec{Sec: 1000}, nil)
	}
}
