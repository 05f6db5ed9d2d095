package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master"
	"holdfast/master/api"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// other is a master that shares the store of a rig's and does nothing but beat.
type other struct {
	r     *mastertest.Rig
	id    string
	beats chan struct{} // closed: no more
}

// addr is where it serves, by its own word.
const addr = "m2:7400"

func newOther(r *mastertest.Rig) *other {
	o := &other{r: r, id: ulid.Make().String(), beats: make(chan struct{})}
	o.beat()
	go func() {
		for {
			select {
			case <-o.beats:
				return
			case <-time.After(2 * time.Second):
				o.beat()
			}
		}
	}()
	return o
}

func (o *other) beat() {
	o.commit(&store.Beat{Now: time.Now(), Master: store.Master{ID: o.id, Addrs: []string{addr, "m2b:7400"}, Host: "host-2", HTTP: "m2:7480", Version: "v9"}})
}

func (o *other) commit(ops ...store.Op) {
	o.r.Helper()
	if err := o.r.Store.Commit(o.r.Context(), ops...); err != nil {
		o.r.Error(err)
	}
}

// connect connects a new slave to it.
func (o *other) connect(name string) *store.Connect {
	o.r.Helper()
	op := &store.Connect{
		Now: time.Now(), Master: o.id, LostAfter: time.Hour,
		Slave: store.Slave{Instance: lifecycle.InstanceID(ulid.Make().String()), Name: name, Incarnation: 1, BootID: "b", JournalID: ulid.Make().String(),
			Slots: 1, Labels: map[string]string{"pool": "there"}},
	}
	o.commit(op)
	if op.Err != nil {
		o.r.Fatal(op.Err)
	}
	return op
}

// sharing runs a test with a master that shares its store with another, in virtual time.
func sharing(t *testing.T, test func(t *testing.T, r *mastertest.Rig, o *other)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := mastertest.Start(t, func(c *master.Config) { c.SoleOwner, c.Host, c.SafetyPoll = false, "host-1", 10*time.Second })
		r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"no": "such"} }) // it serves
		o := newOther(r)
		test(t, r, o)
		close(o.beats)
	})
}

func masters(r *mastertest.Rig) []*holdfastv1.Master {
	r.Helper()
	resp, err := r.Control.ListMasters(r.Context(), &holdfastv1.ListMastersRequest{})
	if err != nil {
		r.Fatal(err)
	}
	return resp.GetMasters()
}

// A master with a store of its own is alone, whatever rows came with the data.
func TestListMastersAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		r.NewSlave("b1", 1).MustConnect()
		if err := r.Store.Commit(r.Context(), &store.Beat{Now: time.Now(), Master: store.Master{ID: "of-another-store"}}); err != nil {
			t.Fatal(err)
		}
		list := masters(r)
		if len(list) != 1 {
			t.Fatalf("masters %v", list)
		}
		if m := list[0]; !m.GetAnswers() || m.GetState() != "serving" || m.GetSlaves() != 1 || m.GetAddrs()[0] != "m1" || m.GetStartedUs() == 0 ||
			m.GetBeatUs() != 0 || m.GetVersion() != "test" {
			t.Errorf("master %v", m)
		}
		if row := slaveRow(r, "b1"); row.GetMaster() != list[0].GetId() || row.GetElsewhere() != "" {
			t.Errorf("slave %v", row)
		}
	})
}

// Masters that share a store are listed with their slaves, those that are silent or
// over with how long and why.
func TestListMasters(t *testing.T) {
	sharing(t, func(t *testing.T, r *mastertest.Rig, o *other) {
		r.NewSlave("b1", 1).MustConnect()
		o.connect("b2")
		o.connect("b3")
		find := func() (this, that *holdfastv1.Master) {
			t.Helper()
			list := masters(r)
			if len(list) != 2 || list[0].GetId() > list[1].GetId() {
				t.Fatalf("masters %v", list)
			}
			for _, m := range list {
				if m.GetId() == o.id {
					that = m
				} else {
					this = m
				}
			}
			return this, that
		}
		time.Sleep(time.Minute)
		this, that := find()
		if !this.GetAnswers() || this.GetSlaves() != 1 || this.GetHost() != "host-1" || this.GetBeatUs() == 0 || this.GetSilentUs() != 0 {
			t.Errorf("this one: %v", this)
		}
		if that.GetAnswers() || that.GetSlaves() != 2 || that.GetHost() != "host-2" || that.GetHttp() != "m2:7480" || that.GetVersion() != "v9" ||
			that.GetAddrs()[0] != addr || that.GetState() != "serving" || that.GetSilentUs() > 4.1e6 {
			t.Errorf("the other: %v", that)
		}
		o.beats <- struct{}{} // no more
		o.beats = make(chan struct{})
		time.Sleep(8 * time.Second)
		if _, that = find(); that.GetSilentUs() < 5e6 || that.GetState() != "serving" {
			t.Errorf("after 8 s of silence: %v", that)
		}
		time.Sleep(8 * time.Second)
		_, that = find()
		if that.GetState() != "over" || that.GetEndedUs() == 0 || !strings.Contains(that.GetEndedWhy(), "no sign of life") || that.GetSlaves() != 0 || that.GetSilentUs() != 0 {
			t.Errorf("after 16 s of silence: %v", that)
		}
		if row := slaveRow(r, "b2"); row.GetState() != "away" || row.GetElsewhere() != "" || row.GetMaster() != o.id {
			t.Errorf("its slave: %v", row)
		}
		// Whoever ended more than a day ago is history.
		o.commit(&store.Beat{Now: time.Now(), Master: store.Master{ID: "old"}},
			&store.EndMaster{Now: time.Now().Add(-25 * time.Hour), Master: "old", Why: "it was stopped"})
		find()
	})
}

// What a slave at another master says of itself is not known here, and nobody
// pretends it is; its builds are that master's to give, and to explain.
func TestSlaveElsewhere(t *testing.T) {
	sharing(t, func(t *testing.T, r *mastertest.Rig, o *other) {
		o.connect("b2")
		if row := slaveRow(r, "b2"); row.GetState() != "connected" || row.GetElsewhere() != addr || row.GetMaster() != o.id || row.GetAccepting() {
			t.Errorf("slave %v", row)
		}
		there := func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"pool": "there"} }
		build := r.Submit(1, there)
		time.Sleep(time.Minute)
		text := explain(r, build)
		if !strings.Contains(text, "Slave b2 is connected to the master at "+addr) || strings.Contains(text, "away") || strings.Contains(text, "take no new build") {
			t.Errorf("the other master has yet to look:\n%s", text)
		}
		// What it says of the build stays.
		o.commit(&store.SetWaits{Now: time.Now(), Causes: map[lifecycle.BuildID]lifecycle.WaitCause{lifecycle.BuildID(build): lifecycle.WaitBusy}})
		time.Sleep(time.Minute)
		if text := explain(r, build); !strings.Contains(text, "every slave that matches (pool=there) is busy") || strings.Contains(text, "Slave b2") {
			t.Errorf("it is busy:\n%s", text)
		}
		// A slave here that would do, but takes none, does not speak for the other.
		b1 := r.NewSlave("b1", 1)
		b1.Hello.Labels["pool"] = "there"
		b1.MustConnect().Say(&holdfastv1.SlaveStatus{WhyNot: "short of disk"})
		time.Sleep(2 * time.Minute)
		if text := explain(r, build); !strings.Contains(text, "is busy") {
			t.Errorf("one is short of disk, the other busy:\n%s", text)
		}
		// What is drained is so for all masters.
		if _, err := change(r, "b2", holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if text := explain(r, build); !strings.Contains(text, "take no new build") || !strings.Contains(text, "Slave b2 is drained") || !strings.Contains(text, "Slave b1 takes none: short of disk") {
			t.Errorf("nobody takes builds:\n%s", text)
		}
	})
}

// A store that hangs says nothing, so that its master has to notice.
func TestStoreHangs(t *testing.T) {
	sharing(t, func(t *testing.T, r *mastertest.Rig, o *other) {
		ready := func() *holdfastv1.GetMasterResponse {
			t.Helper()
			m, err := r.Control.GetMaster(r.Context(), &holdfastv1.GetMasterRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		r.Gate.Hold()
		time.Sleep(10 * time.Second)
		if m := ready(); m.GetReady() || !strings.Contains(m.GetNotReady(), "a commit has taken") {
			t.Errorf("while it hangs: %v", m)
		}
		r.Gate.Release()
		time.Sleep(3 * time.Second)
		if m := ready(); !m.GetReady() {
			t.Errorf("once it does not: %v", m)
		}
	})
}

// serving is an api.Peers.
type serving int

func (serving) Silent(string) time.Duration { return 0 }
func (n serving) Serving() int              { return int(n) }

func TestReadyz(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	for want, p := range map[string]api.Peers{"ready\n": nil, "ready; other masters that serve: 2\n": serving(2)} {
		s, err := api.New(api.Config{
			Store: r.Store, Commit: commitNothing{}, Hub: new(notify.Hub), Feed: notify.NewFeed(notify.FeedConfig{}), Peers: p,
			Statuses: func() []api.SlaveStatus { return nil }, Brake: func() api.Brake { return api.Brake{} },
			ReleaseBrake: releaseNothing, NotReady: func() error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.Handler(nil).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		body, _ := io.ReadAll(w.Body)
		if w.Code != http.StatusOK || string(body) != want {
			t.Errorf("%d %q, want %q", w.Code, body, want)
		}
	}
}

type commitNothing struct{}

func (commitNothing) Do(context.Context, ...store.Op) error { return nil }

func releaseNothing(context.Context, string, string) (bool, error) { return false, nil }
