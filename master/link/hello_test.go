package link_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Hellos that cannot be right are refused with words a person can act on, and
// leave no trace (P-hello P8).
func TestHelloRefused(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	held := func(id string, first, next uint64) *holdfastv1.HeldAttempt {
		return &holdfastv1.HeldAttempt{AttemptId: id, FirstHeldSeq: first, NextSeq: next}
	}
	many := map[string]string{}
	for i := range 201 {
		many[fmt.Sprint("k", i)] = "v"
	}
	long := map[string]string{}
	for i := range 100 {
		long[fmt.Sprint("k", i)] = strings.Repeat("v", 700)
	}
	id := ulid.Make().String()
	for _, tc := range []struct {
		name, says string
		change     func(h *holdfastv1.Hello)
	}{
		{"no name", "slave name", func(h *holdfastv1.Hello) { h.SlaveName = "" }},
		{"name with a slash", "slave name", func(h *holdfastv1.Hello) { h.SlaveName = "a/b" }},
		{"name of two lines", "slave name", func(h *holdfastv1.Hello) { h.SlaveName = "a\nb" }},
		{"long name", "slave name", func(h *holdfastv1.Hello) { h.SlaveName = strings.Repeat("x", 64) }},
		{"instance", "instance id", func(h *holdfastv1.Hello) { h.InstanceId = "x" }},
		{"journal", "journal id", func(h *holdfastv1.Hello) { h.JournalId = "" }},
		{"store", "store id", func(h *holdfastv1.Hello) { h.StoreId = "x" }},
		{"incarnation 0", "incarnation", func(h *holdfastv1.Hello) { h.Incarnation = 0 }},
		{"huge incarnation", "incarnation", func(h *holdfastv1.Hello) { h.Incarnation = 1 << 63 }},
		{"no boot id", "boot id", func(h *holdfastv1.Hello) { h.BootId = "" }},
		{"boot id of two lines", "boot id", func(h *holdfastv1.Hello) { h.BootId = "a\nb" }},
		{"long fingerprint", "fingerprint", func(h *holdfastv1.Hello) { h.Fingerprint = strings.Repeat("x", 2000) }},
		{"long version", "version", func(h *holdfastv1.Hello) { h.AgentVersion = strings.Repeat("x", 2000) }},
		{"epoch", "epoch", func(h *holdfastv1.Hello) { h.HighestEpoch = 1<<62 + 1 }},
		{"slots", "slots", func(h *holdfastv1.Hello) { h.Slots = 10_001 }},
		{"features", "features", func(h *holdfastv1.Hello) { h.Features = make([]string, 201) }},
		{"labels", "labels", func(h *holdfastv1.Hello) { h.Labels = many }},
		{"label", "labels", func(h *holdfastv1.Hello) { h.Labels = map[string]string{"": "x"} }},
		{"label with NUL", "labels", func(h *holdfastv1.Hello) { h.Labels = map[string]string{"x": "\x00"} }},
		{"host facts", "host facts", func(h *holdfastv1.Hello) { h.Host = many }},
		{"too much in all", "in all", func(h *holdfastv1.Hello) { h.Host = long }},
		{"held no id", "ULID", func(h *holdfastv1.Hello) { h.Attempts = append(h.Attempts, held("x", 1, 1)) }},
		{"held twice", "twice", func(h *holdfastv1.Hello) { h.Attempts = append(h.Attempts, held(id, 1, 1), held(id, 1, 1)) }},
		{"held backwards", "updates", func(h *holdfastv1.Hello) { h.Attempts = append(h.Attempts, held(id, 3, 2)) }},
		{"held out of range", "updates", func(h *holdfastv1.Hello) { h.Attempts = append(h.Attempts, held(id, 3, 1<<63)) }},
		{"too many held", "attempts held", func(h *holdfastv1.Hello) {
			for range 10_001 {
				h.Attempts = append(h.Attempts, held(id, 1, 1))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := r.NewSlave("b1", 1)
			tc.change(s.Hello)
			err := s.Connect()
			if !rpcerr.Is(err, rpcerr.BadHello) || !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 1000 {
				t.Errorf("ended with %v", err)
			}
		})
	}
	for name, first := range map[string]*holdfastv1.ConnectRequest{
		"first message is no Hello": {Message: &holdfastv1.ConnectRequest_SlaveStatus{SlaveStatus: &holdfastv1.SlaveStatus{}}},
		"first message is nothing":  {},
	} {
		t.Run(name, func(t *testing.T) {
			s := r.NewSlave("b1", 1)
			s.Open()
			s.Say(first)
			if err := s.End(); !rpcerr.Is(err, rpcerr.BadHello) {
				t.Errorf("ended with %v", err)
			}
		})
	}
	if rows, err := r.Store.Slaves(t.Context()); err != nil || len(rows) != 0 {
		t.Errorf("refused slaves left %d rows, %v", len(rows), err)
	}
	if n := r.Metric("holdfast_link_sessions_total"); n != 0 {
		t.Errorf("%v sessions", n)
	}
	r.NewSlave("b1", 1).MustConnect()
}

// Who says nothing is sent away after 10 s (P8).
func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mastertest.Start(t, nil)
		s := r.NewSlave("b1", 1)
		s.Open()
		began := time.Now()
		err := s.End()
		if took := time.Since(began); !rpcerr.Is(err, rpcerr.BadHello) || took != 10*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		s.Cut()
		r.Stop()
	})
}

// A slave of another store is admitted; what it holds of it is unknown here, and
// nothing is concluded (P-store P12, P31).
func TestSlaveOfAnotherStore(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	s.Hello.StoreId = ulid.Make().String()
	id := ulid.Make().String()
	s.Hello.Attempts = append(s.Hello.Attempts, &holdfastv1.HeldAttempt{AttemptId: id, StoreId: s.Hello.GetStoreId(), FirstHeldSeq: 1, NextSeq: 5})
	s.MustConnect()
	if w := s.Welcome.GetWants(); len(w) != 1 || w[0].GetAttemptId() != id || w[0].GetKind() != holdfastv1.Want_KIND_UNKNOWN {
		t.Errorf("wants %v", w)
	}
}
