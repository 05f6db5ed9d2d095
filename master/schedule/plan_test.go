package schedule

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

func slave(name string, free int, change ...func(*Slave)) Slave {
	s := Slave{
		Session: store.Session{Instance: lifecycle.InstanceID("i-" + name), Epoch: 1}, Name: name,
		Labels: map[string]string{"os": "linux"}, Connected: true, Accepting: true, Slots: 5, Free: free,
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func build(id string, change ...func(*lifecycle.Build)) lifecycle.Build {
	b := lifecycle.Build{ID: lifecycle.BuildID(id), State: lifecycle.BuildQueued}
	for _, c := range change {
		c(&b)
	}
	return b
}

func away(s *Slave)    { s.Connected, s.Accepting = false, false }
func unready(s *Slave) { s.Accepting = false }
func there(s *Slave)   { s.Connected, s.Elsewhere = false, true }
func lostBy(names ...string) func(*lifecycle.Build) {
	return func(b *lifecycle.Build) {
		for _, n := range names {
			b.LostBy = append(b.LostBy, lifecycle.InstanceID("i-"+n))
		}
	}
}
func waits(cause lifecycle.WaitCause) func(*lifecycle.Build) {
	return func(b *lifecycle.Build) { b.Wait = cause }
}
func noSlots(s *Slave) { s.Slots, s.Labels = 0, map[string]string{"os": "linux", "gpu": "1"} }
func refusedBy(name string, cause retry.Cause) func(*lifecycle.Build) {
	return func(b *lifecycle.Build) {
		lostBy(name)(b)
		b.RefusedBy = append(b.RefusedBy, lifecycle.Refusal{Instance: lifecycle.InstanceID("i-" + name), Cause: cause})
	}
}

// question1 remembers that a slave was asked to take build 1.
func question1(name string, c condition, at time.Time) asked {
	return asked{"1": {lifecycle.InstanceID("i-" + name): {at: at, slave: c}}}
}
func requires(k, v string) func(*lifecycle.Build) {
	return func(b *lifecycle.Build) { b.Policy.Requires = map[string]string{k: v} }
}

// What the rest of a group waits for when slaves are at other masters: what is known
// there is not written over.
func TestJudgeElsewhere(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		slaves  []Slave
		cause   lifecycle.WaitCause
		perhaps bool
	}{
		{"only there", []Slave{slave("a", 2, there)}, "", false},
		{"there, and away", []Slave{slave("a", 2, there), slave("b", 2, away)}, "", false},
		{"there, and unready here", []Slave{slave("a", 2, there), slave("b", 2, unready)}, lifecycle.WaitUnready, true},
		{"drained there, and unready here", []Slave{slave("a", 2, there, unready), slave("b", 2, unready)}, lifecycle.WaitUnready, false},
		{"full there", []Slave{slave("a", 0, there)}, "", false},
		{"free here", []Slave{slave("a", 2, there), slave("b", 2)}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			groups := groupsOf([]map[string]string{{"os": "linux"}}, tc.slaves)
			if further := judge(now, groups, tc.slaves, new(outcome)); further {
				t.Error("looks further")
			}
			if g := groups[0]; g.cause != tc.cause || g.perhaps != tc.perhaps {
				t.Errorf("waits for %q (perhaps %v), want %q (%v)", g.cause, g.perhaps, tc.cause, tc.perhaps)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	later := now.Add(time.Minute)
	for _, tc := range []struct {
		name   string
		builds []lifecycle.Build
		slaves []Slave
		assign map[string]string
		waits  map[lifecycle.BuildID]lifecycle.WaitCause
		wake   time.Time

		asked       asked
		unsupported []lifecycle.BuildID
	}{
		{name: "first come first served until the slots are gone",
			builds: []lifecycle.Build{build("1"), build("2"), build("3")},
			slaves: []Slave{slave("a", 2)},
			assign: map[string]string{"1": "a", "2": "a"},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"3": lifecycle.WaitBusy}},
		{name: "spread over the slaves with most room",
			builds: []lifecycle.Build{build("1"), build("2")},
			slaves: []Slave{slave("a", 1), slave("b", 2)},
			assign: map[string]string{"1": "b", "2": "a"}},
		{name: "no slave with such labels, a build behind it is served",
			builds: []lifecycle.Build{build("1", requires("os", "plan9")), build("2", requires("os", "linux"))},
			slaves: []Slave{slave("a", 1)},
			assign: map[string]string{"2": "a"},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitNoSlave}},
		{name: "away and unready are told apart",
			builds: []lifecycle.Build{build("1", requires("gpu", "1")), build("2")},
			slaves: []Slave{slave("a", 1, away, func(s *Slave) { s.Labels = map[string]string{"gpu": "1"} }), slave("b", 1, unready)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitAway, "2": lifecycle.WaitUnready}},
		{name: "back-off holds one build and tells when to wake",
			builds: []lifecycle.Build{build("1", func(b *lifecycle.Build) { b.NotBefore = later }), build("2")},
			slaves: []Slave{slave("a", 2)},
			assign: map[string]string{"2": "a"},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBackoff},
			wake:   later},
		{name: "a slave that lost the build is avoided",
			builds: []lifecycle.Build{build("1", lostBy("a"))},
			slaves: []Slave{slave("a", 5), slave("b", 1)},
			assign: map[string]string{"1": "b"}},
		{name: "and waited for while another one is only busy",
			builds: []lifecycle.Build{build("1", lostBy("a"))},
			slaves: []Slave{slave("a", 5), slave("b", 0)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy}},
		{name: "but taken when there is no other",
			builds: []lifecycle.Build{build("1", lostBy("a"))},
			slaves: []Slave{slave("a", 5), slave("b", 1, away)},
			assign: map[string]string{"1": "a"}},
		{name: "or the other has no slots at all",
			builds: []lifecycle.Build{build("1", lostBy("a")), build("2", requires("gpu", "1"))},
			slaves: []Slave{slave("a", 5), slave("z", 0, noSlots)},
			assign: map[string]string{"1": "a"},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"2": lifecycle.WaitUnready}},

		{name: "a slave that refused is not asked again, others are",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy)), build("2")},
			slaves: []Slave{slave("a", 2), slave("b", 1)},
			asked:  question1("a", condition{epoch: 1}, now),
			assign: map[string]string{"1": "b", "2": "a"},
			wake:   now.Add(askSoon)},
		{name: "it is waited for as one that is busy",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2)},
			asked:  question1("a", condition{epoch: 1}, now),
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy},
			wake:   now.Add(askSoon)},
		{name: "ever longer, up to ten minutes",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2)},
			asked:  asked{"1": {"i-a": {at: now, slave: condition{epoch: 1}, again: 6}}},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy},
			wake:   now.Add(64 * time.Second)},
		{name: "and not longer",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2)},
			asked:  asked{"1": {"i-a": {at: now, slave: condition{epoch: 1}, again: 1000}}},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy},
			wake:   now.Add(askAgain)},
		{name: "at once so long for a cause that does not pass",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.Unknown))},
			slaves: []Slave{slave("a", 2)},
			asked:  question1("a", condition{epoch: 1}, now),
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy},
			wake:   now.Add(askAgain)},
		{name: "until it has given a slot back",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2, func(s *Slave) { s.Freed = 8 })},
			asked:  question1("a", condition{epoch: 1, freed: 7}, now),
			assign: map[string]string{"1": "a"}},
		{name: "or told another status",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedDisk))},
			slaves: []Slave{slave("a", 2, func(s *Slave) { s.Statuses = 3 })},
			asked:  question1("a", condition{epoch: 1, statuses: 1}, now),
			assign: map[string]string{"1": "a"}},
		{name: "or has another session",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedDraining))},
			slaves: []Slave{slave("a", 2, func(s *Slave) { s.Session.Epoch = 2 })},
			asked:  question1("a", condition{epoch: 1}, now),
			assign: map[string]string{"1": "a"}},
		{name: "or nothing has changed for long",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2)},
			asked:  question1("a", condition{epoch: 1}, now.Add(-askAgain)),
			assign: map[string]string{"1": "a"}},
		{name: "or the build was queued anew",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy), func(b *lifecycle.Build) { b.Queued = now })},
			slaves: []Slave{slave("a", 2)},
			asked:  question1("a", condition{epoch: 1}, now),
			assign: map[string]string{"1": "a"}},
		{name: "another life of the master asks once more",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedBusy))},
			slaves: []Slave{slave("a", 2)},
			assign: map[string]string{"1": "a"}},
		{name: "one that cannot carry it out is no match, whatever it frees",
			builds: []lifecycle.Build{build("1", refusedBy("a", retry.RefusedUnsupported))},
			slaves: []Slave{slave("a", 2, func(s *Slave) { s.Freed = 9 }), slave("b", 1, away)},
			asked:  question1("a", condition{epoch: 1}, now.Add(-24*time.Hour)),
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitAway}},
		{name: "and a person is needed when no other matches",
			builds:      []lifecycle.Build{build("1", requires("os", "linux"), refusedBy("a", retry.RefusedUnsupported))},
			slaves:      []Slave{slave("a", 2, away), slave("b", 1, func(s *Slave) { s.Labels = nil })},
			asked:       question1("a", condition{epoch: 1}, now),
			unsupported: []lifecycle.BuildID{"1"}},

		{name: "a short absence changes no wait",
			builds: []lifecycle.Build{build("1", waits(lifecycle.WaitBusy)), build("2", waits(lifecycle.WaitUnready)), build("3", waits(lifecycle.WaitDispatch))},
			slaves: []Slave{slave("a", 1, away, func(s *Slave) { s.Since = now.Add(-time.Hour) }), slave("b", 1, away, func(s *Slave) { s.Since = now.Add(-lasting + 1) })},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy, "2": lifecycle.WaitUnready, "3": lifecycle.WaitAway},
			wake:   now.Add(1)},
		{name: "one that lasts does",
			builds: []lifecycle.Build{build("1", waits(lifecycle.WaitBusy)), build("2", waits(lifecycle.WaitUnready))},
			slaves: []Slave{slave("a", 1, unready, func(s *Slave) { s.Since = now.Add(-lasting) }), slave("b", 1, away, func(s *Slave) { s.Since = now.Add(-lasting) })},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitUnready, "2": lifecycle.WaitUnready}},

		{name: "a slave of another master gets nothing here, and that one says what its builds wait for",
			builds: []lifecycle.Build{build("1"), build("2", waits(lifecycle.WaitAway))},
			slaves: []Slave{slave("a", 2, there), slave("b", 2, away)}},
		{name: "be it full: it may be short of disk as well",
			builds: []lifecycle.Build{build("1")},
			slaves: []Slave{slave("a", 0, there)}},
		{name: "unless that is known here, too: it is drained",
			builds: []lifecycle.Build{build("1")},
			slaves: []Slave{slave("a", 2, there, unready), slave("b", 2, away)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitUnready}},
		{name: "or cannot carry it out, as it has said to this master",
			builds:      []lifecycle.Build{build("1", refusedBy("a", retry.RefusedUnsupported))},
			slaves:      []Slave{slave("a", 2, there)},
			asked:       question1("a", condition{epoch: 1}, now),
			unsupported: []lifecycle.BuildID{"1"}},
		{name: "slaves here that take none are told of to builds that know less",
			builds: []lifecycle.Build{build("1", waits(lifecycle.WaitDispatch)), build("2", waits(lifecycle.WaitBusy)), build("3", waits(lifecycle.WaitAway))},
			slaves: []Slave{slave("a", 2, there), slave("b", 2, unready)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitUnready, "3": lifecycle.WaitUnready}},
		{name: "it is tried before a slave here that lost the build",
			builds: []lifecycle.Build{build("1", lostBy("b"))},
			slaves: []Slave{slave("a", 2, there), slave("b", 2)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy}},
		{name: "one that is busy here is said of all",
			builds: []lifecycle.Build{build("1", waits(lifecycle.WaitUnready))},
			slaves: []Slave{slave("a", 2, there), slave("b", 0)},
			waits:  map[lifecycle.BuildID]lifecycle.WaitCause{"1": lifecycle.WaitBusy}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := plan(now, tc.builds, tc.slaves, tc.asked)
			waits, wake := o.waits, o.wake
			got := map[string]string{}
			for _, a := range o.assign {
				got[string(a.build)] = a.slave.Name
			}
			if tc.assign == nil {
				tc.assign = map[string]string{}
			}
			if tc.waits == nil {
				tc.waits = map[lifecycle.BuildID]lifecycle.WaitCause{}
			}
			if diff := cmp.Diff(tc.assign, got); diff != "" {
				t.Errorf("assignments (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.waits, waits); diff != "" {
				t.Errorf("waits (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.unsupported, o.unsupported); diff != "" {
				t.Errorf("unsupported (-want +got):\n%s", diff)
			}
			if !wake.Equal(tc.wake) {
				t.Errorf("wake = %v, want %v", wake, tc.wake)
			}
		})
	}
}
