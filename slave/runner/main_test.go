package runner

import (
	"os"
	"testing"
)

// The test binary is the runner, too: Launch starts it with this argument.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "runner" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}
