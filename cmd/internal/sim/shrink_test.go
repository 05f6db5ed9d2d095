package sim

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	shapeFlag  = flag.String("sim.shape", "", "of each run, as printed by a failure: days=N,slaves=N,without=FAULT+FAULT")
	shrinkFlag = flag.Duration("sim.shrink", 2*time.Minute, "how long a failing seed is made smaller; 0: not at all")
)

// shape makes a run smaller than its profile would have it. Zero fields change
// nothing.
type shape struct {
	days    float64
	slaves  int
	without []Fault
}

func parseShape(text string) (shape, error) {
	var s shape
	for word := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "":
		case "days":
			s.days, err = strconv.ParseFloat(value, 64)
		case "slaves":
			s.slaves, err = strconv.Atoi(value)
		case "without":
			for kind := range strings.SplitSeq(value, "+") {
				if !slices.Contains(faultOrder, Fault(kind)) {
					return s, fmt.Errorf("shape: no fault %q: it is one of %v", kind, faultOrder)
				}
				s.without = append(s.without, Fault(kind))
			}
		default:
			err = errors.New("unknown word")
		}
		if err != nil {
			return s, fmt.Errorf("shape: %q: %w", word, err)
		}
	}
	return s, nil
}

func (s shape) String() string {
	var words []string
	if s.days > 0 {
		words = append(words, "days="+strconv.FormatFloat(s.days, 'g', -1, 64))
	}
	if s.slaves > 0 {
		words = append(words, "slaves="+strconv.Itoa(s.slaves))
	}
	if len(s.without) > 0 {
		kinds := make([]string, len(s.without))
		for i, kind := range s.without {
			kinds[i] = string(kind)
		}
		words = append(words, "without="+strings.Join(kinds, "+"))
	}
	return strings.Join(words, ",")
}

// flag is what to add to a command line; empty: nothing.
func (s shape) flag() string {
	if text := s.String(); text != "" {
		return " -sim.shape=" + text
	}
	return ""
}

// of returns cfg in this shape.
func (s shape) of(cfg Config) Config {
	if s.days > 0 {
		cfg.Days = s.days
	}
	if s.slaves > 0 {
		cfg.Slaves = s.slaves
	}
	if len(s.without) > 0 {
		cfg.Profile.Faults = maps.Clone(cfg.Profile.Faults)
		for _, kind := range s.without {
			delete(cfg.Profile.Faults, kind)
		}
	}
	return cfg
}

// smaller lists what may be tried next, the largest step first.
func (s shape) smaller(cfg Config) []shape {
	now := s.of(cfg)
	var list []shape
	add := func(change func(*shape)) {
		next := s
		next.without = slices.Clone(s.without)
		change(&next)
		list = append(list, next)
	}
	for _, part := range []float64{0.25, 0.5, 0.75} {
		add(func(n *shape) { n.days = now.Days * part })
	}
	if now.Slaves > 1 {
		add(func(n *shape) { n.slaves = 1 })
		add(func(n *shape) { n.slaves = now.Slaves - 1 })
	}
	for _, kind := range faultOrder {
		if now.Profile.Faults[kind] > 0 {
			add(func(n *shape) { n.without = append(n.without, kind) })
		}
	}
	return list
}

// shrink looks for the smallest shape in which a run still fails. It is greedy:
// what fails is taken, and it begins again from there.
func shrink(cfg Config, s shape, limit time.Duration, fails func(Config) bool) shape {
	end := time.Now().Add(limit)
	for again := true; again; {
		again = false
		for _, next := range s.smaller(cfg) {
			if time.Now().After(end) {
				return s
			}
			if fails(next.of(cfg)) {
				s, again = next, true
				break
			}
		}
	}
	return s
}

// live lives through one run in a bubble and a directory of its own.
func live(t *testing.T, cfg Config) (report Report, err error) {
	t.Helper()
	if cfg.Dir, err = os.MkdirTemp(tmpfs(t), "run-"); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(cfg.Dir) // a shrink may need hundreds
	began := time.Now()
	synctest.Test(t, func(*testing.T) {
		var w *World
		if w, err = NewWorld(cfg); err == nil {
			report, err = w.Run()
		}
	})
	report.Real = time.Since(began)
	return report, err
}

// A run is as small as it can be while it still fails, and its shape comes back
// from what was printed.
func TestShrink(t *testing.T) {
	t.Parallel()
	cfg := Config{Profile: Dense(), Slaves: 5, Days: 1}
	tries := 0
	fails := func(c Config) bool { // needs kills of agents, two slaves, a tenth of a day
		tries++
		return c.Profile.Faults[AgentKill] > 0 && c.Slaves >= 2 && c.Days >= 0.1
	}
	s := shrink(cfg, shape{}, time.Minute, fails)
	small := s.of(cfg)
	if !fails(small) || small.Slaves != 2 || small.Days >= 0.2 || len(small.Profile.Faults) != 1 {
		t.Errorf("after %d tries: %v", tries, s)
	}
	if len(cfg.Profile.Faults) == 1 {
		t.Error("the profile itself was changed")
	}
	back, err := parseShape(s.String())
	if err != nil || back.String() != s.String() {
		t.Errorf("%q comes back as %q: %v", s, back, err)
	}
	for _, bad := range []string{"days=x", "slaves=", "without=rain", "nights=3"} {
		if _, err := parseShape(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
