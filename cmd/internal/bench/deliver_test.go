//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave"
)

// round is the same work for each slave: attempts that all begin to speak at
// one moment.
type round struct {
	slaves, slots int
	steps         int
	updates       int64 // of an attempt, after its `accepted`
	logBytes      int64 // of an attempt
	reveal        func(*fakeAttempt) bool
}

// deliver repeats the round and reports rates from that moment until the last
// commit. What is ACKed after it, less than a window, is not waited for.
func (r round) deliver(b *testing.B, open openFunc) (sum counts, ours, busy time.Duration) {
	total := r.slaves * r.slots
	launched := make(chan struct{}, total)
	f := newFarm(b, open, r.slaves, func(f *farm, cfg *slave.Config) {
		fake := newFakeRunners(b, launched, r.reveal)
		f.fakes = append(f.fakes, fake)
		cfg.Runners, cfg.Slots = fake, r.slots
	})
	raw := newDisk(b)
	var plain, copied time.Duration
	for b.Loop() {
		b.StopTimer()
		before := f.ledger.now()
		all := f.ledger.reach(func(c counts) bool { return c.updates >= before.updates+int64(total) }) // accepted
		for range total {
			steps := make([]*holdfastv1.StepSpec, r.steps)
			for i := range steps {
				steps[i] = &holdfastv1.StepSpec{Run: "true"}
			}
			f.submit(steps...)
		}
		f.await("all attempts are accepted", all)
		for range total {
			select {
			case <-launched:
			case <-time.After(patience):
				b.Fatal("not all attempts are launched")
			}
		}
		began, mark := f.ledger.now(), f.ledger.groupsSoFar()
		all = f.ledger.reach(func(c counts) bool {
			d := c.minus(began)
			return d.updates >= r.updates*int64(total) && d.logBytes >= r.logBytes*int64(total)
		})
		cpuBefore := cpu()
		b.StartTimer()
		start := time.Now()
		for _, fake := range f.fakes {
			fake.say(true)
		}
		f.await("everything is committed", all)
		ours += time.Since(start)
		b.StopTimer()
		busy += cpu() - cpuBefore
		for _, fake := range f.fakes {
			fake.say(false)
		}
		d := f.ledger.now().minus(began)
		sum.updates, sum.updateBytes = sum.updates+d.updates, sum.updateBytes+d.updateBytes
		sum.logBytes, sum.stored, sum.commits = sum.logBytes+d.logBytes, sum.stored+d.stored, sum.commits+d.commits
		copied += f.copyAgain(mark)
		plain += raw.append(d.commits, (d.updateBytes+d.logBytes)/d.commits)
		b.StartTimer()
	}
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "of-raw-append")
	if copied > 0 {
		b.ReportMetric(copied.Seconds()/ours.Seconds(), "of-copy")
	}
	return sum, ours, busy
}

// BenchmarkUpdates: updates per second from the slaves' disks to the master's.
// look is how many steps have begun and ended each time the agent looks: all of
// them, as after a time offline, or one, as when it keeps up with steps that do
// nothing.
func BenchmarkUpdates(b *testing.B) {
	for _, c := range []struct{ slaves, slots, steps, look int }{
		{1, 50, 20, 20}, {10, 10, 20, 20}, {100, 2, 20, 20},
		{1, 4, 1000, 1000}, {1, 1, 200, 1},
	} {
		name := fmt.Sprintf("slaves=%d/attempts=%d/steps=%d/look=%d", c.slaves, c.slaves*c.slots, c.steps, c.look)
		run := func(b *testing.B, open openFunc) {
			sum, ours, busy := round{
				slaves: c.slaves, slots: c.slots, steps: c.steps,
				updates: int64(2*c.steps + 1),
				reveal: func(a *fakeAttempt) bool {
					from := min((a.looks-1)*c.look, c.steps)
					to := min(from+c.look, c.steps)
					for i := from; i < to; i++ {
						a.start(i)
						a.exit(i, nil)
					}
					if to == c.steps {
						a.end()
					}
					return to < c.steps
				},
			}.deliver(b, open)
			n := float64(sum.updates)
			b.ReportMetric(n/ours.Seconds(), "updates/s")
			b.ReportMetric(n/float64(sum.commits), "updates/commit")
			b.ReportMetric(float64(sum.updateBytes)/n, "B/update")
			b.ReportMetric(busy.Seconds()*1e6/n, "cpu-µs/update")
		}
		b.Run(name, func(b *testing.B) { onStores(b, run) })
	}
}

// BenchmarkLogs: log bytes per second from the slaves' spools to the master's
// disk, before compression. The text is that of a chatty compiler.
func BenchmarkLogs(b *testing.B) {
	text := compilerTalk(64 << 10)
	for _, c := range []struct {
		slaves int
		bytes  int64
	}{{1, 128 << 20}, {10, 16 << 20}, {100, 2 << 20}} {
		run := func(b *testing.B, open openFunc) {
			sum, ours, busy := round{
				slaves: c.slaves, slots: 1, steps: 1, updates: 3, logBytes: c.bytes,
				reveal: func(a *fakeAttempt) bool {
					if a.looks == 1 {
						go a.write(text, c.bytes)
					}
					return false
				},
			}.deliver(b, open)
			mb := float64(sum.logBytes) / 1e6
			b.ReportMetric(mb/ours.Seconds(), "MB/s")
			b.ReportMetric(float64(sum.logBytes)/float64(sum.stored), "x-compressed")
			b.ReportMetric(busy.Seconds()*1e3/mb, "cpu-ms/MB")
		}
		b.Run(fmt.Sprintf("slaves=%d", c.slaves), func(b *testing.B) { onStores(b, run) })
	}
}

// compilerTalk is n bytes of lines of which each has something new.
func compilerTalk(n int) []byte {
	var text bytes.Buffer
	for i := uint32(1); text.Len() < n; i++ {
		h := i * 2654435761
		fmt.Fprintf(&text, "[%4d/9999] cc -O2 -c src/%08x/mod_%d.c -o obj/%08x.o\n", i%10000, h, h%977, h*40503)
	}
	return text.Bytes()[:n]
}
