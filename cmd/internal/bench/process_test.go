//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave"
)

// realSlave is a farm of one slave with real runners.
func realSlave(b *testing.B, open openFunc) *farm {
	return newFarm(b, open, 1, func(*farm, *slave.Config) {})
}

// committed is reached with so many more updates. A build of n steps has 2n+2:
// accepted, the steps' starts and ends, its own end.
func (f *farm) committed(more int64) <-chan struct{} {
	from := f.ledger.now().updates
	return f.ledger.reach(func(c counts) bool { return c.updates >= from+more })
}

// BenchmarkDispatch: from the call of submit until the first process of the
// build runs, on a slave that has nothing else to do; beside fork and exec of the
// same shell. The process says so through a FIFO.
func BenchmarkDispatch(b *testing.B) { onStores(b, benchmarkDispatch) }

func benchmarkDispatch(b *testing.B, open openFunc) {
	f := realSlave(b, open)
	path := filepath.Join(f.dir, "here")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		b.Fatal(err)
	}
	// Both ends, so that neither open nor read ever sees an end.
	fifo, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer fifo.Close()
	here := func() {
		b.Helper()
		if err := fifo.SetReadDeadline(time.Now().Add(patience)); err != nil {
			b.Fatal(err)
		}
		if _, err := fifo.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
	}
	command := fmt.Sprintf("printf x >%s", path)
	raw := newDisk(b)
	var ours, plain, sync samples
	for b.Loop() {
		b.StopTimer()
		ended := f.committed(4)
		b.StartTimer()
		start := time.Now()
		f.submit(&holdfastv1.StepSpec{Run: command})
		here()
		ours = append(ours, time.Since(start))
		b.StopTimer()
		f.await("the build has ended", ended)
		start = time.Now()
		cmd := exec.Command("/bin/sh", "-c", command)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		here()
		plain = append(plain, time.Since(start))
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		sync = append(sync, raw.append(1, 256))
		b.StartTimer()
	}
	b.ReportMetric(ours.at(0.50), "ms-p50")
	b.ReportMetric(ours.at(0.99), "ms-p99")
	b.ReportMetric(plain.at(0.50), "ms-p50/fork+exec")
	b.ReportMetric(ours.at(0.50)/plain.at(0.50), "x-fork+exec")
	b.ReportMetric(ours.at(0.50)/sync.at(0.50), "x-fdatasync")
}

// BenchmarkBuild: a build of 200 steps that do nothing, from submit until the
// master has committed its end; beside fork and exec of the same command. The
// same without a master, a journal and an agent is BenchmarkStep of slave/runner.
func BenchmarkBuild(b *testing.B) {
	const count = 200
	f := realSlave(b, onSQLite)
	var ours, plain, busy time.Duration
	for b.Loop() {
		steps := make([]*holdfastv1.StepSpec, count)
		for i := range steps {
			steps[i] = &holdfastv1.StepSpec{Command: []string{"true"}}
		}
		ended := f.committed(2*count + 2)
		cpuBefore, start := cpu(), time.Now()
		f.submit(steps...)
		f.await("the build has ended", ended)
		ours += time.Since(start)
		busy += cpu() - cpuBefore
		b.StopTimer()
		start = time.Now()
		for range count {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
		plain += time.Since(start)
		b.StartTimer()
	}
	n := float64(b.N * count)
	b.ReportMetric(ours.Seconds()*1e3/n, "ms/step")
	b.ReportMetric(plain.Seconds()*1e3/n, "ms/fork+exec")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-fork+exec")
	b.ReportMetric(busy.Seconds()*1e3/n, "cpu-ms/step")
}

// BenchmarkLines: a step that prints a million lines of 60 bytes and ends,
// from submit until the master has them all; beside the same command with its
// output in a file that is synced.
func BenchmarkLines(b *testing.B) {
	const count, size = 1_000_000, 60
	command := self(b, "lines", fmt.Sprint(count), fmt.Sprint(size))
	f := realSlave(b, onSQLite)
	var ours, plain, busy time.Duration
	for b.Loop() {
		from := f.ledger.now()
		ended := f.ledger.reach(func(c counts) bool {
			d := c.minus(from)
			return d.updates >= 4 && d.logBytes >= count*size
		})
		cpuBefore, start := cpu(), time.Now()
		f.submit(&holdfastv1.StepSpec{Command: command})
		f.await("the log is committed", ended)
		ours += time.Since(start)
		busy += cpu() - cpuBefore
		b.StopTimer()
		plain += toFile(b, command)
		b.StartTimer()
	}
	mb := float64(b.N) * count * size / 1e6
	b.ReportMetric(ours.Seconds()/float64(b.N), "s")
	b.ReportMetric(mb/ours.Seconds(), "MB/s")
	b.ReportMetric(ours.Seconds()/plain.Seconds(), "x-file")
	b.ReportMetric(busy.Seconds()*1e3/mb, "cpu-ms/MB")
}

// toFile is what a command takes whose output goes to a file.
func toFile(b *testing.B, command []string) time.Duration {
	b.Helper()
	out, err := os.Create(filepath.Join(b.TempDir(), "out"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	start := time.Now()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	if err := out.Sync(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}
