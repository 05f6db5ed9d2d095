package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

func testWaits(r *rig) {
	id := r.submit()
	other := r.submit()
	set := func(cause lifecycle.WaitCause) {
		op := &store.SetWaits{Now: r.tick(), Causes: map[lifecycle.BuildID]lifecycle.WaitCause{id: cause, "nothing": cause}}
		r.commit(op)
		r.want("set waits", op.Err, nil)
	}
	set(lifecycle.WaitNoSlave)
	set(lifecycle.WaitNoSlave) // no change, no interval
	set(lifecycle.WaitBusy)
	sl := r.slave("b7", 1)
	sl.connect()
	sl.running(id, 1)
	set(lifecycle.WaitBusy) // it runs: passed over

	waits, err := r.s.Waits(r.ctx, id)
	if err != nil {
		r.Fatal(err)
	}
	want := []lifecycle.WaitCause{lifecycle.WaitDispatch, lifecycle.WaitNoSlave, lifecycle.WaitBusy, lifecycle.WaitAccept}
	var total time.Duration
	for i, w := range waits {
		if i >= len(want) || w.Cause != want[i] || w.Number != i+1 {
			r.Fatalf("waits %+v, want %v", waits, want)
		}
		if i > 0 && !w.From.Equal(waits[i-1].To) {
			r.Errorf("interval %d begins at %v, the one before ended at %v", i+1, w.From, waits[i-1].To)
		}
		total += w.To.Sub(w.From)
	}
	for _, w := range waits {
		if w.Attempt != 1 {
			r.Errorf("interval %d is of attempt %d, want 1", w.Number, w.Attempt)
		}
	}
	b := r.record(id).Build
	if len(waits) != len(want) || total != b.Started.Sub(b.Created) {
		r.Errorf("waits sum to %v, the build waited %v", total, b.Started.Sub(b.Created))
	}
	if waits, err := r.s.Waits(r.ctx, other); err != nil || len(waits) != 1 || !waits[0].To.IsZero() {
		r.Errorf("waits of the other build: %+v %v", waits, err)
	}
}

// testWaitStats: what SQL makes of the ledger is what can be made of it by hand.
func testWaitStats(r *rig) {
	story(r)
	w := &world{rig: r, rnd: rand.New(rand.NewPCG(1, 2)), seed: 1}
	for range 3 {
		w.slave(fmt.Sprintf("w%d", len(w.slaves)+1), 2)
	}
	for range 1500 {
		w.step()
	}
	checkWaitStats(r)
	if stats, err := r.s.WaitStats(r.ctx, store.WaitFilter{}); err != nil || len(stats) != 1 || stats[0].Count < 10 {
		r.Errorf("%+v, %v: this proves nothing", stats, err)
	}
	_, err := r.s.WaitStats(r.ctx, store.WaitFilter{By: "colour"})
	if err == nil {
		r.Error("waits by colour")
	}
}

func checkWaitStats(r *rig) {
	r.Helper()
	builds, err := r.s.Builds(r.ctx, store.BuildFilter{Limit: 1000, WithoutSpec: true})
	if err != nil {
		r.Fatal(err)
	}
	var ends []time.Time
	type wait struct {
		total  time.Duration
		causes map[lifecycle.WaitCause]time.Duration
		last   time.Time
		name   string
		slave  string
	}
	var all []*wait
	for i := range builds {
		list, err := r.s.Waits(r.ctx, builds[i].ID)
		if err != nil {
			r.Fatal(err)
		}
		of := make(map[int]*wait)
		rec := r.record(builds[i].ID)
		for _, v := range list {
			if v.Attempt == 0 {
				continue
			}
			if of[v.Attempt] == nil {
				of[v.Attempt] = &wait{name: builds[i].Name, slave: rec.Attempts[v.Attempt-1].Slave, causes: make(map[lifecycle.WaitCause]time.Duration)}
				all = append(all, of[v.Attempt])
			}
			at := of[v.Attempt]
			d := v.To.Sub(v.From)
			at.total += d
			at.causes[v.Cause] += d
			at.last = v.To
			ends = append(ends, v.To)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for _, since := range []time.Time{{}, ends[len(ends)/2]} {
		groups := map[store.WaitGroup]map[string][]time.Duration{
			store.WaitsInAll: {}, store.WaitsByName: {}, store.WaitsBySlave: {}, store.WaitsByCause: {},
		}
		for _, w := range all {
			if w.last.Before(since) {
				continue
			}
			groups[store.WaitsInAll][""] = append(groups[store.WaitsInAll][""], w.total)
			groups[store.WaitsByName][w.name] = append(groups[store.WaitsByName][w.name], w.total)
			groups[store.WaitsBySlave][w.slave] = append(groups[store.WaitsBySlave][w.slave], w.total)
			for c, d := range w.causes {
				groups[store.WaitsByCause][string(c)] = append(groups[store.WaitsByCause][string(c)], d)
			}
		}
		for by, lists := range groups {
			want := make(map[string]store.WaitStat)
			for key, list := range lists {
				slices.Sort(list)
				s := store.WaitStat{Key: key, Count: len(list), P50: list[(len(list)+1)/2-1], P95: list[(95*len(list)+99)/100-1], Max: list[len(list)-1]}
				for _, d := range list {
					s.Total += d
				}
				want[key] = s
			}
			stats, err := r.s.WaitStats(r.ctx, store.WaitFilter{By: by, Since: since})
			if err != nil {
				r.Fatal(err)
			}
			got := make(map[string]store.WaitStat)
			for i, s := range stats {
				got[s.Key] = s
				if i > 0 && s.Total > stats[i-1].Total {
					r.Errorf("waits by %q are out of order", by)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				r.Errorf("waits by %q since %v (-want +got):\n%s", by, since, diff)
			}
		}
	}
}
