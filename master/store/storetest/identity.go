package storetest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// testIdentity is P-identity: the whole table.
func testIdentity(r *rig) {
	type newcomer struct{ instance, boot, machine bool } // true: another one
	for _, c := range []struct {
		name string
		who  newcomer
		live bool          // the old session answers
		away time.Duration // else for how long it has been away
		rule string        // "" is admitted
	}{
		{"half-open", newcomer{}, true, 0, ""},
		{"reconnect", newcomer{}, false, time.Second, ""},
		{"clone while it answers", newcomer{boot: true}, true, 0, "clone"},
		{"clone on another machine while it answers", newcomer{boot: true, machine: true}, true, 0, "clone"},
		{"clone in a container of the same machine", newcomer{machine: true}, true, 0, "clone"},
		{"reboot", newcomer{boot: true}, false, time.Second, ""},
		{"disk moved at once", newcomer{boot: true, machine: true}, false, time.Minute, "other_machine"},
		{"disk moved after lost_after", newcomer{boot: true, machine: true}, false, 31 * time.Minute, ""},
		{"same name while it answers", newcomer{instance: true, machine: true, boot: true}, true, 0, "name_in_use"},
		{"same name on the same machine while it answers", newcomer{instance: true}, true, 0, "name_in_use"},
		{"fresh directory on the same machine", newcomer{instance: true}, false, time.Second, ""},
		{"same name on another machine", newcomer{instance: true, machine: true, boot: true}, false, time.Minute, "other_machine"},
		{"same name on another machine after lost_after", newcomer{instance: true, machine: true, boot: true}, false, 31 * time.Minute, ""},
	} {
		old := r.slave("name of "+c.name, 1)
		old.connect()
		if !c.live {
			old.disconnect()
			r.now = r.now.Add(c.away)
		}
		op := old.connectOp()
		op.LiveSession = c.live
		op.Slave.Host = map[string]string{"hostname": "newcomer"}
		if c.who.instance {
			op.Slave.Instance, op.HighestEpoch = lifecycle.InstanceID(r.id()), 0
		}
		if c.who.boot {
			op.Slave.BootID = "another boot"
		}
		if c.who.machine {
			op.Slave.Fingerprint = "another machine"
		}
		r.commit(op)
		if c.rule == "" {
			r.want(c.name, op.Err, nil)
			if op.Slave.Instance == old.row.Instance && op.Epoch <= old.epoch {
				r.Errorf("%s: epoch %d after %d", c.name, op.Epoch, old.epoch)
			}
			continue
		}
		var refused *store.IdentityError
		if !errors.As(op.Err, &refused) {
			r.Fatalf("%s: admitted with error %v", c.name, op.Err)
		}
		if refused.Rule != c.rule || refused.There != "newcomer" || refused.Here != "host-"+old.row.Name || refused.Detail == "" {
			r.Errorf("%s: %+v", c.name, refused)
		}
		if op.Epoch != 0 || op.Wants != nil {
			r.Errorf("%s: refused with epoch %d", c.name, op.Epoch)
		}
		// It keeps trying: history tells it once, and the old one is unharmed.
		for range 5 {
			again := *op
			again.Now = r.tick()
			r.commit(&again)
			if again.Err == nil {
				r.Errorf("%s: admitted in the end", c.name)
			}
		}
		events, err := r.s.Events(r.ctx, 0, 100000)
		if err != nil {
			r.Fatal(err)
		}
		n := 0
		for _, e := range events {
			if e.Topic == store.TopicSlaveRefused && e.Slave == old.row.Name {
				n++
				if !strings.Contains(e.Why, "newcomer") {
					r.Errorf("%s: event says %q", c.name, e.Why)
				}
			}
		}
		if n != 1 {
			r.Errorf("%s: told %d times", c.name, n)
		}
		old.connect()
	}
	if n := r.told(store.TopicSlaveBackInTime); n != 0 {
		r.Errorf("%s %d times", store.TopicSlaveBackInTime, n)
	}
	// Never: until a person says so.
	old := r.slave("for ever", 1)
	old.connect()
	old.disconnect()
	r.now = r.now.Add(1000 * time.Hour)
	op := old.connectOp()
	op.LostAfter, op.Slave.Fingerprint = -1, "another machine"
	r.commit(op)
	if op.Err == nil {
		r.Error("another machine admitted with lost_after never")
	}
	// The master's memory of the epoch counts less than the slave's.
	op = old.connectOp()
	op.HighestEpoch = 1000
	r.commit(op)
	if op.Err != nil || op.Epoch != 1001 {
		r.Errorf("epoch %d %v, want 1001", op.Epoch, op.Err)
	}
}

// told counts the events of a topic.
func (r *rig) told(topic string) (n int) {
	r.Helper()
	events, err := r.s.Events(r.ctx, 0, 100_000)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range events {
		if e.Topic == topic {
			n++
		}
	}
	return n
}

// testRefusedInTurn: clones that come in turn, and ones with ever new
// identities, do not fill the history (P-identity P11, P-bounded P6).
func testRefusedInTurn(r *rig) {
	old := r.slave("b7", 1)
	old.connect()
	refuse := func(change func(*store.Slave)) {
		op := old.connectOp()
		op.LiveSession, op.Slave.BootID = true, "another boot"
		change(&op.Slave)
		r.commit(op)
		if op.Err == nil {
			r.Fatal("admitted")
		}
	}
	host := func(name string) func(*store.Slave) {
		return func(s *store.Slave) { s.Host = map[string]string{"hostname": name} }
	}
	refuse(host("first"))
	for range 50 {
		refuse(host("second"))
		refuse(host("first"))
		refuse(func(s *store.Slave) { s.Instance = lifecycle.InstanceID(r.id()) })
	}
	if n := r.told(store.TopicSlaveRefused); n != 1 {
		r.Errorf("told %d times at once", n)
	}
	// In the long run each is told of.
	r.now = r.now.Add(11 * time.Minute)
	refuse(host("first"))
	refuse(host("second"))
	if n := r.told(store.TopicSlaveRefused); n != 2 {
		r.Errorf("told %d times after 11 minutes", n)
	}
	r.now = r.now.Add(2 * time.Hour)
	refuse(host("second"))
	if n := r.told(store.TopicSlaveRefused); n != 3 {
		r.Errorf("told %d times after 2 hours", n)
	}
}

// testSlaveBackInTime: a data directory that was copied or restored is admitted
// once the other one is away, and people are told (P-identity P11).
func testSlaveBackInTime(r *rig) {
	for _, c := range []struct {
		name        string
		incarnation uint64
		start       string
		told        int
	}{
		{"the same agent", 7, "x", 0},
		{"restarted", 8, "y", 0},
		{"fewer starts", 6, "y", 1},
		{"another start under the same count", 7, "y", 1},
		{"start not told", 7, "", 0},
	} {
		sl := r.slave("name of "+c.name, 1)
		connect := func(incarnation uint64, start string) {
			sl.row.Incarnation = incarnation
			op := sl.connectOp()
			op.StartID = start
			r.commit(op)
			r.want(c.name, op.Err, nil)
			sl.admitted(op)
		}
		connect(7, "x")
		sl.disconnect()
		before := r.told(store.TopicSlaveBackInTime)
		connect(c.incarnation, c.start)
		if n := r.told(store.TopicSlaveBackInTime) - before; n != c.told {
			r.Errorf("%s: told %d times, want %d", c.name, n, c.told)
		}
	}
}

// testRegisterOnce is T-register-once: a crash loop leaves one row.
func testRegisterOnce(r *rig) {
	sl := r.slave("b7", 1)
	starts := 1000
	if raced {
		starts = 100
	}
	for i := range starts {
		sl.row.Incarnation = uint64(i + 1)
		if i%3 == 0 {
			// Crashed before the epoch was durable on the slave.
			op := sl.connectOp()
			op.HighestEpoch = 0
			r.commit(op)
			r.want("connect", op.Err, nil)
			sl.admitted(op)
		} else {
			sl.connect()
		}
		if i%2 == 0 {
			sl.disconnect()
		}
	}
	slaves, err := r.s.Slaves(r.ctx)
	if err != nil || len(slaves) != 1 {
		r.Fatalf("%d slaves %v, want 1", len(slaves), err)
	}
	if s := slaves[0]; s.Epoch != lifecycle.Epoch(starts) || s.Incarnation != uint64(starts) || !s.Connected || s.Name != "b7" || s.Labels["os"] != "linux" || s.Host["hostname"] != "host-b7" || !slices.Equal(s.Features, []string{"snapshot"}) {
		r.Errorf("slave %+v", s)
	}
	one, err := r.s.Slave(r.ctx, sl.row.Instance)
	if err != nil || !reflect.DeepEqual(one, slaves[0]) {
		r.Errorf("the same slave alone: %+v, %v", one, err)
	}
	_, err = r.s.Slave(r.ctx, "01KA000000000000000NOBODY")
	r.want("read a slave that is not there", err, store.ErrNotFound)
}
