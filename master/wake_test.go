package master

import (
	"slices"
	"testing"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
)

// TestLogHints: a log that became whole makes a session look for a forget only
// if it may be the last word of its attempt (P-forget); before the ACK of an
// accept it looks without being told. One that another has replaced looks at once.
func TestLogHints(t *testing.T) {
	whole := lifecycle.Event{Topic: lifecycle.TopicLogComplete, Build: "b", Attempt: "a", Slave: "s", Instance: "i"}
	ended := lifecycle.Event{Topic: lifecycle.TopicAttemptSucceeded, Build: "b", Attempt: "a", Slave: "s", Instance: "i"}
	accepted := lifecycle.Event{Topic: lifecycle.TopicAttemptAccepted, Build: "b", Attempt: "a", Slave: "s", Instance: "i"}
	for _, c := range []struct {
		name   string
		ops    []store.Op
		events []lifecycle.Event
		want   bool
	}{
		{"accepted", []store.Op{&store.ApplyStatus{Attempt: "a"}}, []lifecycle.Event{accepted}, false},
		{"a step has ended", []store.Op{&store.ApplyStatus{Attempt: "a"}}, []lifecycle.Event{whole}, false},
		{"the attempt, too", []store.Op{&store.ApplyStatus{Attempt: "a"}}, []lifecycle.Event{whole, ended}, true},
		{"bytes of a running attempt", []store.Op{&store.ApplyLog{Attempt: "a"}}, []lifecycle.Event{whole}, false},
		{"the last bytes", []store.Op{&store.ApplyLog{Attempt: "a", Last: true}, &store.ApplyLog{Attempt: "a"}}, []lifecycle.Event{whole}, true},
		{"missing bytes", []store.Op{&store.ApplyLogGap{Attempt: "a"}, &store.ApplyStatus{Attempt: "a"}}, []lifecycle.Event{whole}, true},
		{"a newer session", []store.Op{&store.Connect{Slave: store.Slave{Instance: "i"}}}, nil, false},
		{"not held any more", []store.Op{&store.ApplyAbsent{Attempt: "a"}}, []lifecycle.Event{whole}, true},
		{"another attempt's bytes", []store.Op{&store.ApplyLog{Attempt: "other"}}, []lifecycle.Event{whole}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := slices.Contains(keysOf(c.ops, c.events), notify.Key{Kind: notify.Slave, ID: "i"}); got != c.want {
				t.Errorf("the slave's session looks = %v, want %v", got, c.want)
			}
		})
	}
}

// TestKeysElsewhere: the session that a slave had at another master hears that it is
// over.
func TestKeysElsewhere(t *testing.T) {
	ops := []store.Op{&store.Connect{Slave: store.Slave{Instance: "i"}}, &store.ApplyLog{Attempt: "a"}}
	if got, want := keysElsewhere(ops), []notify.Key{{Kind: notify.Slave, ID: "i"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestQueueHints: dispatch looks when something may have been freed, and not when
// a slave has only said that it takes what it was given.
func TestQueueHints(t *testing.T) {
	for topic, want := range map[string]bool{
		lifecycle.TopicBuildQueued: true, lifecycle.TopicBuildRetry: true, lifecycle.TopicBuildRunning: false,
		lifecycle.TopicAttemptAccepted: false, lifecycle.TopicAttemptRefused: true, lifecycle.TopicAttemptSucceeded: true,
		lifecycle.TopicAttemptLost: true, lifecycle.TopicStepEnded: false, store.TopicSlaveConnected: true,
	} {
		events := []lifecycle.Event{{Topic: topic, Build: "b", Attempt: "a", Slave: "s", Instance: "i"}}
		if got := slices.Contains(keysOf(nil, events), notify.Key{Kind: notify.Queue}); got != want {
			t.Errorf("%s: dispatch looks = %v, want %v", topic, got, want)
		}
	}
}
