package power

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"holdfast/slave/runner"
)

const (
	envWriter = "HOLDFAST_POWER_WRITER" // the scenario that this process plays
	envDir    = "HOLDFAST_POWER_DIR"
	envLife   = "HOLDFAST_POWER_LIFE" // unset: it starts the lives one after the other

	marksFile = "marks"
)

// slow asks for more images of each cut.
var slow = os.Getenv("HOLDFAST_SLOW") != ""

// scenario is one user of the disk.
type scenario struct {
	lives  int
	images int // of one cut, at most; what one costs decides
	// write is one life of the writer, which works below dir and says what it
	// promises. All lives but the last are killed when it returns.
	write func(dir string, life int, say func(format string, args ...any)) error
	// check opens what a cut has left below dir and compares it with what had
	// been said. deep: goes on from there.
	check func(dir string, said []string, deep bool) error
}

var (
	scenarios     map[string]scenario
	recordings    = make(map[string]*recording)
	recordingsDir string
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "runner" {
		os.Exit(runner.Main(os.Args[2:]))
	}
	scenarios = map[string]scenario{
		"journal": {lives: 3, images: 24, write: writeJournal, check: checkJournal},
		"spool":   {lives: 1, images: 48, write: writeSpool, check: checkSpool},
		"runner":  {lives: 1, images: 24, write: writeAttempts, check: checkAttempts},
		"store":   {lives: 3, images: 6, write: writeStore, check: checkStore},
	}
	name := os.Getenv(envWriter)
	if name == "" {
		os.Exit(test(m))
	}
	if err := play(scenarios[name], os.Getenv(envDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func test(m *testing.M) int {
	for name := range scenarios {
		recordings[name] = new(recording)
	}
	var err error
	if recordingsDir, err = os.MkdirTemp("", "power-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(recordingsDir)
	return m.Run()
}

// play is the writer: a process for each life, below one that starts them.
func play(s scenario, dir string) error {
	life, err := strconv.Atoi(os.Getenv(envLife))
	if err == nil {
		return live(s, dir, life)
	}
	for life := 1; life <= s.lives; life++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", envLife, life))
		cmd.Stderr = os.Stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == -1 {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
	}
	return nil
}

func live(s scenario, dir string, life int) error {
	marks, err := os.OpenFile(filepath.Join(dir, marksFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	var failed error
	err = s.write(filepath.Join(dir, "disk"), life, func(format string, args ...any) {
		_, err := fmt.Fprintf(marks, format+"\n", args...)
		failed = errors.Join(failed, err)
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing is closed
}
