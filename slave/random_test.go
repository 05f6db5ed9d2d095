package slave

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/slave/runner"
)

// Agents die, links are cut and fall silent, commits are lost, while runners
// work. In the end the store has every update once and in order, every log byte
// once and in place, and the slave has forgotten everything.
func TestRandomFaults(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			bubble(t, func(f *farm, w *wire) { randomFaults(t, f, w, rand.New(rand.NewPCG(uint64(seed), 7))) })
		})
	}
}

func randomFaults(t *testing.T, f *farm, w *wire, rnd *rand.Rand) {
	f.connected()
	const steps = 4
	type job struct {
		id    string
		steps []string
		r     *fakeRunner
		step  int
		logs  [steps][]byte
	}
	var jobs []*job
	for range 2 {
		id, ids := f.assign(steps)
		jobs = append(jobs, &job{id: id, steps: ids, r: f.runners.of(id), step: -1})
	}
	jitter := func(d time.Duration) { time.Sleep(time.Duration(rnd.Int64N(int64(d)))) }
	alive := true
	for busy := true; busy; {
		jitter(3 * time.Second)
		switch rnd.IntN(12) {
		case 0, 1: // the agent dies, or comes back
			if alive {
				f.kill()
			} else {
				f.run()
			}
			alive = !alive
		case 2:
			f.master.cut(io.EOF)
		case 3:
			w.silence()
		case 4: // one dial in a while is refused
			w.set(func() { w.down = true })
			jitter(20 * time.Second)
			w.set(func() { w.down = false })
		case 5: // received, not committed
			lose := true
			f.master.mu.Lock()
			f.master.frame = func(*holdfastv1.StatusBatch) error {
				if lose {
					lose = false
					return rpcerr.New(rpcerr.NotReady, "busy")
				}
				return nil
			}
			f.master.mu.Unlock()
		case 6: // committed, the ACKs are lost
			f.master.mu.Lock()
			f.master.holdAcks = true
			f.master.mu.Unlock()
			jitter(10 * time.Second)
			f.master.mu.Lock()
			f.master.holdAcks = false
			f.master.mu.Unlock()
		}
		busy = false
		for _, j := range jobs {
			if j.step == steps {
				continue
			}
			busy = true
			switch {
			case j.step < 0 || rnd.IntN(4) == 0:
				if j.step >= 0 {
					j.r.end(j.step)
				}
				if j.step++; j.step < steps {
					j.r.start(j.step)
				} else {
					j.r.finish(runner.StateSucceeded, "")
				}
			default:
				line := bytes.Repeat(fmt.Appendf(nil, "%d %d\n", j.step, rnd.Uint64()), rnd.IntN(3000))
				j.r.print(j.step, line)
				j.logs[j.step] = append(j.logs[j.step], line...)
			}
		}
	}
	if !alive {
		f.run()
	}
	want := []string{"accepted"}
	for i := range steps {
		want = append(want, fmt.Sprint("start", i+1), fmt.Sprint("end", i+1))
	}
	want = append(want, "succeeded:")
	for _, j := range jobs {
		time.Sleep(2 * time.Minute)
		f.kinds(j.id, want...)
		for i, step := range j.steps {
			f.log(j.id, step, j.logs[i])
		}
		f.master.mu.Lock()
		for i, u := range f.master.attempts[j.id].updates {
			if u.GetSeq() != uint64(i+1) {
				t.Errorf("update %d is number %d", i+1, u.GetSeq())
			}
		}
		f.master.mu.Unlock()
		f.master.want(j.id, holdfastv1.Want_KIND_FORGET, "done")
		f.gone(j.id)
	}
	if n := f.runners.launched(); n != len(jobs) {
		t.Errorf("%d launches", n)
	}
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	if !slices.IsSortedFunc(f.master.hellos, func(a, b *holdfastv1.Hello) int { return int(a.GetHighestEpoch()) - int(b.GetHighestEpoch()) }) {
		t.Error("the highest epoch fell")
	}
}
