package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// P-durable, P-once, P-kept: master, agent and a runner die more than once, wherever
// it hits them, also while they recover.
func TestFailpointsAtRandom(t *testing.T) {
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 8
	if slow {
		rounds = 200
	}
	seed := rand.Uint64N(1_000_000)
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		rounds = 1
	}
	var died atomic.Int64
	t.Run("rounds", func(t *testing.T) {
		for i := range uint64(rounds) {
			t.Run(fmt.Sprintf("HOLDFAST_SEED=%d", seed+i), func(t *testing.T) {
				t.Parallel()
				died.Add(dieOften(t, exe, rand.New(rand.NewPCG(seed+i, 0))))
			})
		}
	})
	t.Logf("%d deaths in %d rounds", died.Load(), rounds)
	if rounds > 1 && died.Load() < int64(rounds) && !t.Failed() {
		t.Errorf("%d deaths in %d rounds: nothing is shown", died.Load(), rounds)
	}
}

// dieOften runs a build in which processes are to die up to three times a side, and
// counts those that did.
func dieOften(t *testing.T, exe string, rng *rand.Rand) (died int64) {
	dir := t.TempDir()
	draw := func(master bool) (envs [][]string) {
		for range 1 + rng.IntN(3) {
			d := deaths[rng.IntN(len(deaths))]
			for (sideOf(d.point) == "master") != master || d.comes == cancel {
				d = deaths[rng.IntN(len(deaths))]
			}
			point := fmt.Sprintf("%s:%d", d.point, d.passes[rng.IntN(len(d.passes))])
			t.Log(point)
			envs = append(envs, arm(point, filepath.Join(dir, strconv.Itoa(rng.Int()))))
		}
		return envs
	}
	forMaster, forSlave := draw(true), draw(false)
	f := newFarmOf(t, exe)
	f.armMaster(forMaster[0])
	_, enoughOfMaster := revive(t, f.master, forMaster[1:]...)
	slave := f.slaveIn(forSlave[0], exe, "b1")
	_, enoughOfSlave := revive(t, slave, forSlave[1:]...)
	w, gate := f.witness(), filepath.Join(f.dir, "gate")
	touch(t, gate)
	id := f.submit(w.mortal(gate))
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved", "cancelled")
	if b.State != "succeeded" || len(b.Attempts) > 2 {
		t.Errorf("got %+v", b)
	}
	enoughOfMaster()
	enoughOfSlave()
	for _, d := range []*daemon{f.master, slave} {
		d.kill()
		d.env = nil
		d.start()
	}
	f.connected("b1")
	b = f.bothHalves(id)
	attempts := w.attempts(t, halfOf)
	if a := attempts[b.Attempts[0].ID]; a != nil && len(b.Attempts) == 2 {
		last := a.Steps[a.Order[len(a.Order)-1]]
		last.Unsure = true
	}
	f.verdict(map[string]*daemon{"b1": slave}, attempts, map[string]judge.Asked{id: {}})
	hits, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(hits))
}
