package sim

import (
	"context"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// TestShelve is T-shelve in virtual time: a build that kills its runner and its
// agent each time is shelved after max_transient attempts, stays shelved over a
// master's restart, and gets one more attempt on unshelve.
func TestShelve(t *testing.T) {
	scenario(t, nil, func(t *testing.T, s *stage) {
		play := script{
			lasts: time.Minute, bursts: 4, lines: 2, width: 40,
			deaths: []death{killsBoth, killsBoth, killsBoth, killsBoth, killsNothing},
		}
		id := s.submit(play, nil)
		s.until(time.Hour, "shelved", s.is(id, lifecycle.BuildShelved))
		for _, a := range s.attempts(id, 3) {
			if a.Cause != "runner_lost" {
				t.Errorf("attempt %d ended with %q", a.Number, a.Cause)
			}
		}
		for _, kill := range []bool{false, true} {
			if kill {
				s.master.kill(s.cables())()
			} else {
				s.master.stop()
			}
			time.Sleep(time.Minute)
			s.fail(s.master.start())
			time.Sleep(24 * time.Hour)
			if got := s.state(id); got != lifecycle.BuildShelved {
				t.Errorf("after a restart it is %s", got)
			}
			s.attempts(id, 3)
		}
		s.unshelve(id, "1")
		s.until(time.Hour, "shelved again", func() bool {
			r := s.record(id)
			return r.Build.State == lifecycle.BuildShelved && len(r.Attempts) == 4
		})
		s.unshelve(id, "2")
		s.unshelve(id, "2") // the same request, once more
		s.until(time.Hour, "succeeded", s.is(id, lifecycle.BuildSucceeded))
		s.attempts(id, 5)
		s.wholeLog(id, play)
	})
}

func (s *stage) unshelve(id, key string) {
	s.operator.ask(context.Background(), "unshelve", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		_, err := c.UnshelveBuild(ctx, &holdfastv1.UnshelveBuildRequest{BuildId: id, Who: "sim", Reason: "again", RequestKey: key})
		return err
	})
}

// TestReportLatency is T-report-latency: after a long time offline with
// megabytes of log on a link of 1 Mbit/s, the end of the build is known within
// seconds, while its log still waits.
func TestReportLatency(t *testing.T) {
	scenario(t, nil, func(t *testing.T, s *stage) {
		const rate = 1_000_000 / 8
		play := script{lasts: 2 * time.Hour, bursts: 8, lines: 4000, width: 500} // 16 MB
		cable := s.slaves[0].cable
		cable.up.limit(rate)
		cable.down.limit(rate)
		us := (24 * time.Hour).Microseconds()
		id := s.submit(play, func(spec *holdfastv1.BuildSpec) { spec.LostAfterUs = &us })
		s.until(time.Minute, "it runs", s.is(id, "running"))
		time.Sleep(10 * time.Second)
		cable.refuse()
		cable.drop()
		time.Sleep(6 * time.Hour)
		cable.heal()
		back := s.until(5*time.Second, "the end is known", s.is(id, lifecycle.BuildSucceeded))
		waiting := int64(play.bursts*play.lines*play.width) - s.logged(id)
		if waiting < 10<<20 {
			t.Errorf("only %d log bytes wait; the test shows nothing", waiting)
		}
		t.Logf("the end was known %v after the link's return, with %d log bytes waiting", back, waiting)
		// A second build's words come through while the first one's log drains.
		began := time.Now()
		other := s.submit(script{lasts: time.Second}, nil)
		s.until(10*time.Second, "another build ends meanwhile", s.is(other, lifecycle.BuildSucceeded))
		t.Logf("a build of 1 s took %v meanwhile", time.Since(began))
		if log := s.record(id).Attempts[0].Steps[0].LogState; log != lifecycle.LogDraining {
			t.Errorf("log is %s", log)
		}
		s.until(time.Hour, "the log is complete", func() bool {
			return s.record(id).Attempts[0].Steps[0].LogState == lifecycle.LogComplete
		})
		s.attempts(id, 1)
		s.wholeLog(id, play)
	})
}
