//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"testing"

	"holdfast/slave/runner"
)

// The test binary is the runner, too, and a step that prints.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(runner.Main(os.Args[2:]))
		case "lines":
			os.Exit(printLines(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// self is the command that runs this binary as one of the above.
func self(b *testing.B, args ...string) []string {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return append([]string{exe}, args...)
}

// printLines prints COUNT lines of SIZE bytes.
func printLines(args []string) int {
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return 2
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	for n := range count {
		fmt.Fprintf(out, "%0*d\n", size-1, n)
	}
	if err := out.Flush(); err != nil {
		return 1
	}
	return 0
}
