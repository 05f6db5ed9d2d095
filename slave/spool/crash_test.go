package spool

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestCrashKill: SIGKILL at any moment leaves everything whose Write returned.
func TestCrashKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		rnd := seeded(t, uint64(round))
		dir := filepath.Join(t.TempDir(), "log")
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), envChild+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acked int64
		lines := bufio.NewScanner(out)
		for kill := 1 + rnd.IntN(400); lines.Scan(); kill-- {
			if acked, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
			if kill == 0 { // what it has printed meanwhile is read, too
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		s, err := Scan(dir)
		if err != nil || s.Size < acked || s.CRC != checksum(text(0, s.Size)) {
			t.Fatalf("round %d: %d bytes written, scan: %+v, %v", round, acked, s, err)
		}
		if got, _ := readAll(t, dir, 0, 5000); string(got) != string(text(0, s.Size)) {
			t.Fatalf("round %d: read %d bytes, want %d", round, len(got), s.Size)
		}
	}
}
