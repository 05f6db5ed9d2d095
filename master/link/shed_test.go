package link

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/rpcerr"
)

// shedding is a server with sessions of nobody, and how each was ended.
type shedding struct {
	*Server
	ended map[lifecycle.InstanceID]*rpcerr.Error
	epoch lifecycle.Epoch
}

func newShedding(slaves int) *shedding {
	s := &shedding{Server: &Server{registry: newRegistry()}}
	for i := range slaves {
		s.connect(lifecycle.InstanceID(fmt.Sprint("i", i)))
	}
	s.ended = make(map[lifecycle.InstanceID]*rpcerr.Error)
	return s
}

// connect opens a session, another one if there is one.
func (s *shedding) connect(id lifecycle.InstanceID) {
	s.epoch++
	s.registry.put(&session{slave: store.Slave{Instance: id, Name: string(id)}, epoch: s.epoch, end: func(err error) {
		s.ended[id], _ = rpcerr.From(err)
	}})
}

// again connects those anew whose sessions have ended, and forgets that they had.
func (s *shedding) again() {
	for id := range s.ended {
		s.connect(id)
	}
	clear(s.ended)
}

// Slaves that are spread are told where to go, and each is sent at most once in ten
// minutes: it may have come back because it cannot reach the other master.
func TestShedSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShedding(5)
		sent := make(map[lifecycle.InstanceID]bool)
		for _, want := range []int{2, 2, 1, 0} {
			if n := s.Shed(2, "m2:7400", "another master has fewer slaves"); n != want || len(s.ended) != want {
				t.Fatalf("%d sent (%d sessions ended), want %d", n, len(s.ended), want)
			}
			for id, err := range s.ended {
				if sent[id] {
					t.Errorf("%s is sent once more", id)
				}
				sent[id] = true
				if err == nil || err.Reason != rpcerr.NotReady || err.Meta[rpcerr.MetaMaster] != "m2:7400" || err.Message != "another master has fewer slaves" {
					t.Errorf("%s hears %v, meta %v", id, err, err.Meta)
				}
			}
			s.again()
			time.Sleep(time.Minute)
		}
		time.Sleep(shedAgain - 4*time.Minute) // since the first two were
		if n := s.Shed(5, "m2:7400", ""); n != 2 {
			t.Errorf("ten minutes after the first two, %d are sent", n)
		}
		if n := s.Shed(0, "m2:7400", ""); n != 0 {
			t.Errorf("of none, %d are sent", n)
		}
	})
}

// When nothing can be committed, all are sent, lately or not; without an address they
// are only cut off. That does not keep them from being spread.
func TestShedAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShedding(5)
		s.Shed(3, "m2:7400", "")
		s.again()
		for _, to := range []string{"m2:7400", ""} {
			if n := s.Shed(-1, to, "this master cannot commit"); n != 5 || len(s.ended) != 5 {
				t.Fatalf("%d sent to %q, %d sessions ended", n, to, len(s.ended))
			}
			for id, err := range s.ended {
				if _, told := err.Meta[rpcerr.MetaMaster]; err.Reason != rpcerr.NotReady || err.Meta[rpcerr.MetaMaster] != to || told != (to != "") {
					t.Errorf("%s hears %v, meta %v", id, err, err.Meta)
				}
			}
			s.again()
		}
		if n := s.Shed(5, "m2:7400", ""); n != 2 {
			t.Errorf("then %d are spread, want the 2 that were not lately", n)
		}
		if n := newShedding(0).Shed(-1, "", ""); n != 0 {
			t.Errorf("of none, %d", n)
		}
	})
}
