package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// TestRegisterOnce is T-register-once: an agent that dies at any moment of its
// start, a thousand times, is one row at the master.
func TestRegisterOnce(t *testing.T) {
	scenario(t, nil, func(t *testing.T, s *stage) {
		restarts := 1000
		if scaledDown() != "" || s.cfg.Seed != scenarioSeeds[0] {
			restarts = 100 // a thousand take seconds
		}
		b := s.slaves[0]
		instance := s.slaveRow().Instance
		for range restarts {
			synctest.Wait()
			s.fail(b.kill()())
			s.fail(b.start())
			// From before its first dial to some time in a session.
			time.Sleep(span(s.rng, 100*time.Millisecond))
		}
		s.until(time.Minute, "the slave is back", s.connected)
		row := s.slaveRow()
		if row.Instance != instance || row.Incarnation > uint64(restarts)+1 {
			t.Errorf("instance %s with incarnation %d, was %s", row.Instance, row.Incarnation, instance)
		}
		t.Logf("%d of %d lives came as far as a session", row.Epoch, restarts+1)
		if row.Epoch < 2 || uint64(row.Epoch) > uint64(restarts) {
			t.Error("the deaths come all too early or all too late to show anything")
		}
		id := s.submit(script{lasts: time.Second, bursts: 1, lines: 1, width: 40}, nil)
		s.until(time.Minute, "it works", s.is(id, lifecycle.BuildSucceeded))
	})
}

// slaveRow is the one slave as the store knows it.
func (s *stage) slaveRow() store.Slave {
	s.t.Helper()
	slaves, err := s.master.open().Slaves(context.Background())
	if err != nil || len(slaves) != 1 {
		s.t.Fatalf("%d slaves, %v, want one", len(slaves), err)
	}
	return slaves[0]
}

// TestBlackhole is T-blackhole: both ends notice a link on which nothing gets through by
// keepalive alone, when there is nothing to say (P-alive).
func TestBlackhole(t *testing.T) {
	for name, swallow := range map[string][2]bool{"both ways": {true, true}, "up": {true, false}, "down": {false, true}} {
		t.Run(name, func(t *testing.T) {
			scenario(t, nil, func(t *testing.T, s *stage) {
				time.Sleep(time.Hour) // idle
				cable, epoch := s.slaves[0].cable, s.slaveRow().Epoch
				dials := cable.tried()
				cable.swallow(swallow[0], swallow[1])
				cable.refuse()
				// 15 s of silence and 10 s for the answer, at each end.
				s.until(26*time.Second, "the master notices", func() bool { return !s.slaveRow().Connected })
				s.until(26*time.Second, "the slave notices", func() bool { return cable.tried() > dials })
				cable.heal()
				s.until(5*time.Second, "the slave is back", s.connected)
				if now := s.slaveRow().Epoch; now != epoch+1 {
					t.Errorf("epoch %d after %d", now, epoch)
				}
			})
		})
	}
}

func (c *cable) tried() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dials
}

// poisonous is a store that can never commit one frame.
type poisonous struct {
	store.Store
	bad   func(*store.ApplyStatus) bool
	tries int
}

func (p *poisonous) Commit(ctx context.Context, ops ...store.Op) error {
	for _, op := range ops {
		if a, ok := op.(*store.ApplyStatus); ok && p.bad(a) {
			p.tries++
			return fmt.Errorf("%w: made up by the test", store.ErrPoison)
		}
	}
	return p.Store.Commit(ctx, ops...)
}

// TestRefuseNoLoop: a frame that can never be applied ends its attempt at the
// second try and nothing else; it does not become a loop of sessions, its bytes
// are kept for people, and the build goes on (P-refuse).
func TestRefuseNoLoop(t *testing.T) {
	scenario(t, nil, func(t *testing.T, s *stage) {
		var poisoned lifecycle.AttemptID
		p := &poisonous{Store: s.master.open(), bad: func(op *store.ApplyStatus) bool {
			if poisoned == "" && op.First == 2 {
				poisoned = op.Attempt
			}
			return op.Attempt == poisoned && op.First == 2
		}}
		synctest.Wait()
		s.master.life.store.Store = p
		play := script{lasts: 10 * time.Second, bursts: 3, lines: 3, width: 40}
		epoch := s.epoch()
		id := s.submit(play, nil)
		s.until(2*time.Minute, "the build ends", s.is(id, lifecycle.BuildSucceeded))
		list := s.attempts(id, 2)
		if a := list[0]; a.ID != poisoned || a.State != lifecycle.AttemptFailed || a.Cause != "stream_refused" || a.Refused != 2 || a.RefusedSeq != 2 {
			t.Errorf("the poisoned attempt is %+v", a)
		}
		if n := s.epoch() - epoch; n > 3 {
			t.Errorf("%d sessions for two refusals", n)
		}
		s.until(2*time.Minute, "the slave has forgotten it", func() bool { return s.record(id).Attempts[0].Released })
		kept, err := filepath.Glob(filepath.Join(s.slaves[0].dir, "refused", string(poisoned)+"-*.bin"))
		if err != nil || len(kept) != 1 {
			t.Errorf("kept for people: %v, %v", kept, err)
		}
		logs, err := filepath.Glob(filepath.Join(s.slaves[0].dir, "refused", string(poisoned)+"-*.log"))
		if err != nil {
			t.Fatal(err)
		}
		first := list[0].Steps[0]
		said, got := s.truth.said(string(poisoned), string(first.ID)), s.record(id).Attempts[0].Steps[0].LogMark
		for _, path := range logs {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			got += info.Size()
		}
		if got != said {
			t.Errorf("the step said %d bytes; store and %v have %d", said, logs, got)
		}
		s.wholeLog(id, play)
		s.setAside = string(poisoned) // in those files, and not in the store
	})
}
