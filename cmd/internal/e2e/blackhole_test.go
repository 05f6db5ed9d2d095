package e2e

import (
	"testing"
	"time"
)

// T-blackhole, P-stall: the packets of one connection vanish, one way or both,
// while the slave has something to say: it does not wait for keepalive, its next
// session wins, and the build does not notice.
func TestBlackhole(t *testing.T) {
	t.Parallel()
	for name, way := range map[string][2]bool{"up": {true, false}, "down": {false, true}, "both ways": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w, _ := newWiredFarm(t)
			id := f.submit(counting(60, "0.1"))
			f.underway(id, 3)
			before, ports := f.slaves()[0], w.ports(f.addr)
			if len(ports) != 1 {
				t.Fatalf("the slave has connections from %v", ports)
			}
			began := time.Now()
			w.vanish(way[0], way[1], ports[0])
			eventually(t, 20*time.Second, "another session", func() bool {
				s := f.slaves()
				return len(s) == 1 && s[0].Epoch > before.Epoch && s[0].State == "connected"
			})
			took := time.Since(began)
			t.Logf("another session after %v", took.Round(10*time.Millisecond))
			if took > 15*time.Second { // keepalive takes up to 25
				t.Errorf("it took %v: longer than a stall and a dial", took)
			}
			b := f.settled(id, 30*time.Second, "succeeded", "failed")
			eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
			oneAttempt(t, b)
			wantCount(t, f.lines(id), 60)
		})
	}
}

// T-blackhole, P-alive: all packets vanish, one way or both. Each end notices
// within twice the time of keepalive, the master shows the slave as away, and
// after it the build is still attempt 1.
func TestBlackholeOfAll(t *testing.T) {
	t.Parallel()
	ways, lines := map[string][2]bool{"both ways": {true, true}}, 300
	if slow {
		ways["up"], ways["down"], lines = [2]bool{true, false}, [2]bool{false, true}, 1000
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w, _ := newWiredFarm(t)
			id := f.submit(counting(lines, "0.1"))
			f.underway(id, 3)
			before, port := f.slaves()[0], w.ports(f.addr)
			began := time.Now()
			w.vanish(way[0], way[1], 0)
			eventually(t, 50*time.Second, "the master shows it as away", func() bool { return f.slaves()[0].State == "away" })
			t.Logf("the master noticed after %v", time.Since(began).Round(time.Second))
			eventually(t, 50*time.Second-time.Since(began), "the slave gives its connection up", func() bool {
				now := w.ports(f.addr)
				return len(now) != 1 || now[0] != port[0]
			})
			w.heal()
			eventually(t, 30*time.Second, "another session", func() bool {
				s := f.slaves()
				return s[0].State == "connected" && s[0].Epoch > before.Epoch
			})
			b := f.settled(id, 3*time.Minute, "succeeded", "failed")
			eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
			oneAttempt(t, b)
			wantCount(t, f.lines(id), lines)
		})
	}
}
