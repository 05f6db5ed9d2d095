package journal_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"holdfast/journal"
)

// envChild makes the test binary something else: one of the children below.
const envChild = "HOLDFAST_JOURNAL_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(envChild) {
	case "":
		os.Exit(m.Run())
	case "verify":
		os.Exit(childVerify(os.Args[1]))
	case "hang":
		time.Sleep(time.Hour)
	case "crash":
		panic("as bbolt may")
	case "writer":
		os.Exit(childWriter(os.Args[1], os.Args[2]))
	case "scenario":
		os.Exit(childScenario(os.Args[1]))
	}
}

// childVerify is what `holdfast` does in its verifying child.
func childVerify(path string) int {
	err := journal.Verify(path)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, journal.ErrCorrupt) {
		return journal.ExitCorrupt
	}
	return 70
}
