//go:build linux

package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkStep: 200 steps that do nothing, as one attempt, beside plain
// fork and exec of the same command in the same run.
func BenchmarkStep(b *testing.B) {
	const count = 200
	var ours, plain, disk time.Duration
	for b.Loop() {
		a := prepare(b, b.TempDir(), Plan{Steps: idleSteps(count)})
		start := time.Now()
		a.launch()
		a.ended(StateSucceeded, "")
		ours += time.Since(start)
		start = time.Now()
		for range count {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
		plain += time.Since(start)
		disk += fourSyncs(b, count)
	}
	n := float64(b.N * count)
	b.ReportMetric(ours.Seconds()*1e3/n, "ms/step")
	b.ReportMetric(plain.Seconds()*1e3/n, "ms/fork+exec")
	b.ReportMetric(disk.Seconds()*1e3/n, "ms/4fsyncs")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-fork+exec")
}

func idleSteps(n int) []PlanStep {
	steps := make([]PlanStep, n)
	for i := range steps {
		steps[i].Command = []string{"true"}
	}
	return steps
}

// fourSyncs is what the disk alone takes for the records of a step: two new
// small files, each synced with its directory.
func fourSyncs(b *testing.B, count int) time.Duration {
	b.Helper()
	dir := b.TempDir()
	start := time.Now()
	for n := range 2 * count {
		f, err := os.Create(filepath.Join(dir, itoa(n)))
		if err != nil {
			b.Fatal(err)
		}
		if err := writeAndSync(f, Started{Version: 1}, false); err != nil {
			b.Fatal(err)
		}
		if err := syncDir(dir); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// BenchmarkLog: 1,000,000 lines of 60 bytes through the runner, beside the same
// command with its output in a file.
func BenchmarkLog(b *testing.B) {
	const count, size = 1_000_000, 60
	command := self("lines", itoa(count), itoa(size))
	var ours, plain time.Duration
	peak := 0
	for b.Loop() {
		a := prepare(b, b.TempDir(), Plan{Steps: []PlanStep{{Command: command}}})
		start := time.Now()
		a.launch()
		peak = max(peak, a.peakRSS())
		ours += time.Since(start)
		a.ended(StateSucceeded, "")
		f, err := os.Create(filepath.Join(b.TempDir(), "out"))
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdout = f
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil { // the runner syncs, too
			b.Fatal(err)
		}
		plain += time.Since(start)
		f.Close()
	}
	n := float64(b.N)
	b.ReportMetric(count*size*n/1e6/ours.Seconds(), "MB/s")
	b.ReportMetric(count*size*n/1e6/plain.Seconds(), "MB/s-file")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-file")
	b.ReportMetric(float64(peak), "KiB-peak")
}
