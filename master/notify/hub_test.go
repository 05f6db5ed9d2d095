package notify

import (
	"sync"
	"testing"
)

func drained(s *Subscription) bool {
	select {
	case <-s.C:
		return false
	default:
		return true
	}
}

func TestHubWakesByKeyAndCoalesces(t *testing.T) {
	var h Hub
	one := h.Subscribe(Key{Build, "1"}, Key{Queue, ""})
	two := h.Subscribe(Key{Build, "2"})
	for _, s := range []*Subscription{one, two} {
		if drained(s) {
			t.Fatal("a new subscription starts without a hint")
		}
	}
	h.Publish(Key{Build, "1"}, Key{Build, "1"}, Key{Queue, ""})
	if drained(one) {
		t.Fatal("no hint for a published key")
	}
	if !drained(one) {
		t.Fatal("hints did not coalesce")
	}
	if !drained(two) {
		t.Fatal("hint for a key that was not published")
	}
	one.Close()
	two.Close()
	h.Publish(Key{Build, "1"})
	if !drained(one) {
		t.Fatal("hint after Close")
	}
	if len(h.subs) != 0 {
		t.Fatalf("closed subscriptions left %d keys behind", len(h.subs))
	}
}

// A hint published after a reader took the last one is never lost.
func TestHubLosesNoHint(t *testing.T) {
	var h Hub
	s := h.Subscribe(Key{Events, ""})
	defer s.Close()
	const n = 1000
	var mu sync.Mutex
	published, seen := 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			mu.Lock()
			published++
			mu.Unlock()
			h.Publish(Key{Events, ""})
		}
	}()
	for seen < n {
		<-s.C
		mu.Lock()
		seen = published
		mu.Unlock()
	}
	<-done
}
