package link_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// neighbours are slaves that do nothing wrong, beside one that does.
type neighbours struct {
	*mastertest.Rig
	streams []*mastertest.Stream
	before  []neighbour
}

// neighbour is all that the store has of one stream and its slave.
type neighbour struct {
	record *lifecycle.Record
	topics []string
	slave  store.Slave
}

// apart makes a slave that only builds of its own pool go to.
func apart(r *mastertest.Rig, name string) *mastertest.Slave {
	s := r.NewSlave(name, 2)
	s.Hello.Labels = map[string]string{"pool": name}
	s.MustConnect()
	return s
}

// running gives a slave a build and returns its stream.
func running(s *mastertest.Slave) *mastertest.Stream {
	s.Helper()
	s.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"pool": s.Hello.GetLabels()["pool"]} })
	return s.Run()
}

// newNeighbours has one with a build that runs, and one with a build that is
// over and not forgotten.
func newNeighbours(r *mastertest.Rig) *neighbours {
	r.Helper()
	n := &neighbours{Rig: r}
	for _, name := range []string{"runs", "ended"} {
		st := running(apart(r, name))
		st.Start(0)
		st.Log(0, "some output\n")
		st.SendAll()
		st.AwaitAck(2)
		if name == "ended" {
			st.EndStep(0, 0)
			st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
			st.SendAll()
			st.AwaitWant(st.ID, wantForget)
		}
		n.streams = append(n.streams, st)
	}
	n.Until("all is committed", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	n.before = n.look()
	return n
}

func (n *neighbours) look() (all []neighbour) {
	n.Helper()
	for _, st := range n.streams {
		row := *n.SlaveRow(st.Slave.Hello.GetSlaveName())
		// Who came in its name and was refused is shown beside it, and is no change.
		row.RefusedAt, row.RefusedWhy = time.Time{}, ""
		all = append(all, neighbour{n.Record(st.Build), n.Topics(st.Build), row})
	}
	return all
}

// unchanged asserts that nothing of them has changed, and that they can go on.
func (n *neighbours) unchanged(t testing.TB) {
	t.Helper()
	for i, now := range n.look() {
		if was := n.before[i]; !reflect.DeepEqual(was, now) {
			t.Errorf("of %s: before\n%+v\nafter\n%+v", now.slave.Name, was, now)
		}
	}
}

// newRogue makes a slave with two builds that will say what b chooses.
func newRogue(n *neighbours, b []byte) *rogue {
	n.Helper()
	s := apart(n.Rig, "rogue-"+ulid.Make().String())
	g := &rogue{Slave: s, source: &source{b}, others: n.streams, ends: make(map[rpcerr.Reason]int)}
	for range 2 {
		g.own = append(g.own, running(s))
	}
	s.Streams = nil // its Hello is made up
	_ = s.Bye()
	return g
}

// A slave that says anything in any order is refused with reasons, changes
// nothing but its own attempts, and makes no other slave wait (P-fence P10,
// P-limits P25, P-refuse P29, P-update P34).
func TestHostileSlave(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	n := newNeighbours(r)
	lively := running(apart(r, "lively"))
	seeds := 40
	if testing.Short() {
		seeds = 10
	}
	ends, told, slowest, acks := make(map[rpcerr.Reason]int), 0, time.Duration(0), 0
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(uint64(seed), 29))
		b := make([]byte, 1500)
		for i := range b {
			b[i] = byte(rng.UintN(256))
		}
		g := newRogue(n, b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.play(t)
		}()
		for over := false; !over; { // the other slave's session goes on meanwhile
			began := time.Now()
			seq := lively.Add(mastertest.Note("tick"))
			lively.SendAll()
			lively.AwaitAck(seq)
			slowest, acks = max(slowest, time.Since(began)), acks+1
			select {
			case <-done:
				over = true
			default:
			}
		}
		for reason, count := range g.ends {
			ends[reason] += count
		}
		told += g.told
		n.unchanged(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	r.Check()
	t.Logf("%d messages of %d seeds; sessions ended %v; %d ACKs of the other slave meanwhile, the slowest after %v", told, seeds, ends, acks, slowest)
	for _, reason := range []rpcerr.Reason{rpcerr.Fenced, rpcerr.BadFrame} {
		if ends[reason] == 0 {
			t.Errorf("no session ended with %s: the player does too little", reason)
		}
	}
	if slowest > 2*time.Second {
		t.Errorf("another slave waited %v for an ACK", slowest)
	}
	lively.Finish()
	lively.AwaitWant(lively.ID, wantForget)
}

// FuzzSession: a fuzzer chooses what the slave says.
func FuzzSession(f *testing.F) {
	for seed := range 8 {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		b := make([]byte, 40<<(seed%4))
		for i := range b {
			b[i] = byte(rng.UintN(256))
		}
		f.Add(b)
	}
	r := mastertest.Start(f, nil)
	n := newNeighbours(r)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4<<10 {
			return
		}
		r.TB = t // the target's own may not be used in here
		newRogue(n, b).play(t)
		n.unchanged(t)
	})
	r.TB = f
}

// A log of gigabytes, each chunk within the limits and all of it nothing but
// zeros, takes up what it takes on the wire and no memory (P-bounded P6).
func TestHugeLogIsBounded(t *testing.T) {
	size := int64(256 << 20)
	if os.Getenv("HOLDFAST_SLOW") != "" {
		size = 4 << 30
	}
	r := mastertest.Start(t, nil)
	n := newNeighbours(r)
	st := running(apart(r, "talks"))
	st.Start(0)
	st.SendAll()
	st.AwaitAck(2)
	raw := make([]byte, 64<<10)
	zipped := compress(t, raw)
	chunk := st.Chunk(0, 0, raw)
	chunk.Codec, chunk.Data = holdfastv1.LogChunk_CODEC_ZSTD, zipped

	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	runtime.GC()
	base, began := heap(), time.Now()
	var peak atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			peak.Store(max(peak.Load(), heap()))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	go func() {
		for at := int64(0); at < size; at += int64(len(raw)) {
			chunk.Offset = at
			st.Say(chunk)
		}
	}()
	st.Await(fmt.Sprintf("the ACK of log byte %d", size), func(m *holdfastv1.ConnectResponse) bool {
		for _, marks := range m.GetAck().GetMarks() {
			for _, l := range marks.GetLogs() {
				if l.GetOffset() == size {
					return true
				}
			}
		}
		return false
	})
	close(stop)
	<-stopped
	if mark := r.Record(st.Build).Attempts[0].Steps[0].LogMark; mark != size {
		t.Errorf("the log is at %d, want %d", mark, size)
	}
	more := peak.Load() - base
	t.Logf("%d MiB of log, %d bytes a chunk, in %v: %d MiB of heap more", size>>20, len(zipped), time.Since(began).Round(time.Millisecond), more>>20)
	if more > 96<<20 {
		t.Errorf("it took %d MiB of heap", more>>20)
	}
	n.unchanged(t)
}
