package slave

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// nothing for another one.
func TestWantOfForeignStore(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	first := f.master
	second := newFakeMaster(t)
	second.store = "01JSTORE0000000000000000BB"
	second.epoch = 100
	f.kill()
	f.master = second
	f.run()
	second.until("session", func() bool { return second.session != nil })
	// It claims to know the attempt, and wants it stopped and forgotten.
	for _, kind := range []holdfastv1.Want_Kind{holdfastv1.Want_KIND_STOP, holdfastv1.Want_KIND_FORGET} {
		second.mu.Lock()
		second.session.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: &holdfastv1.Want{
			AttemptId: attempt, Epoch: second.epoch, StoreId: second.store, Kind: kind, SetAside: true,
			Marks: &holdfastv1.Marks{AttemptId: attempt, Seq: 99},
		}}})
		second.mu.Unlock()
	}
	time.Sleep(30 * time.Millisecond)
	if r.told() != "" {
		t.Errorf("the runner was told %q", r.told())
	}
	r.end(0)
	r.finish("succeeded", "")
	time.Sleep(30 * time.Millisecond)
	f.kill()
	f.master = first
	first.mu.Lock()
	first.epoch, first.session = 0, nil // the slave's highest epoch counts
	first.mu.Unlock()
	f.run()
	f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
	second.mu.Lock()
	defer second.mu.Unlock()
	if len(second.batches) > 0 || len(second.wrong) > 0 {
		t.Errorf("the other store got %v, %v", second.batches, second.wrong)
	}
	if first.epoch <= 101 {
		t.Errorf("epoch %d after 101 was seen", first.epoch)
	}
}

// P-recover P56: the store that gave the attempt was restored from an older copy
// and does not know it. Told once in the session, with all that the store needs,
// and only where the feature was agreed on; then the stream goes on after a Gap.
func TestRecover(t *testing.T) {
	for _, features := range [][]string{nil, {feature.Recover}} {
		f := newFarm(t)
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		r.start(0)
		f.kinds(attempt, "accepted", "start1")
		gave := f.master.attempts[attempt].want.GetAssignment()
		f.kill()
		restored := newFakeMaster(t)
		restored.store, restored.epoch, restored.features = f.master.store, f.master.epoch, features
		f.master = restored
		f.run()
		restored.until("session", func() bool { return restored.session != nil })
		if features == nil {
			r.end(0)
			r.finish("succeeded", "")
			time.Sleep(30 * time.Millisecond)
			restored.mu.Lock()
			if len(restored.recovers)+len(restored.batches) > 0 {
				t.Errorf("without the feature: %v, %v", restored.recovers, restored.batches)
			}
			restored.mu.Unlock()
			f.kill()
			continue
		}
		restored.until("it is brought back", func() bool { return restored.attempts[attempt] != nil })
		f.kinds(attempt, "snapshot:running")
		r.end(0)
		r.finish("succeeded", "")
		f.kinds(attempt, "snapshot:running", "end1", "succeeded:")
		restored.mu.Lock()
		defer restored.mu.Unlock()
		if len(restored.recovers) != 1 || !proto.Equal(restored.recovers[0].GetAssignment(), gave) {
			t.Errorf("told %v, was given %v", restored.recovers, gave)
		}
		if gaps := restored.attempts[attempt].gaps; len(gaps) != 1 || gaps[0].GetToSeq() != 2 {
			t.Errorf("gaps %v", gaps)
		}
	}
}
