//go:build linux

package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx

	"holdfast/cmd/internal/client"
	"holdfast/cmd/internal/judge"
	"holdfast/master/store/sqlite"
)

// Run makes a farm, lets it build under faults, heals it, and judges what is
// left. The error is of chaos itself or of the context; what holdfast broke is
// in the report. No process is left behind, and no file if everything held.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Dir, "holdfast-chaos-")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err == nil {
		dir, err = filepath.EvalSymlinks(dir) // as the kernel will name it
	}
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, dir: dir, began: time.Now()}
	defer func() {
		if r.farm != nil {
			r.farm.destroy()
		}
		// Evidence against us, or against chaos itself, is kept; what somebody
		// interrupted is neither.
		keep := cfg.Keep || report != nil && report.Verdict == broken || err != nil && ctx.Err() == nil
		if keep && report != nil {
			report.Dir = dir
		}
		if keep && r.farm != nil {
			err = errors.Join(err, r.farm.rescue())
		}
		if r.farm != nil {
			r.farm.unmount()
		}
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	return r.whole(ctx)
}

// run is one run, as far as it is.
type run struct {
	cfg    Config
	dir    string
	began  time.Time
	farm   *farm
	people *people
	client *client.Client
}

func (r *run) whole(ctx context.Context) (*Report, error) {
	news := func(text string) { r.cfg.Progress(Status{News: text}) }
	r.cfg.Progress(Status{Phase: "starting"})
	farm, err := newFarm(r.cfg, r.dir, news)
	r.farm = farm
	if err != nil {
		return nil, err
	}
	if r.client, err = farm.start(ctx); err != nil {
		return nil, err
	}
	defer r.client.Close()
	// Two sources, so that faults are the same whatever is built.
	trouble, builds := rand.New(rand.NewPCG(r.cfg.Seed, 1)), rand.New(rand.NewPCG(r.cfg.Seed, 2))
	r.people = &people{exe: r.cfg.Exe, truth: truthDir(r.dir), slaves: r.cfg.Slaves, client: r.client, fail: farm.fail,
		long: min(r.cfg.For/4, 10*time.Second),
		rng:  builds, asked: make(map[string]*order)}
	maker := newTroublemaker(farm, r.cfg, trouble, r.people.wantLoud)
	r.began = time.Now()
	if err := r.trouble(ctx, maker); err != nil {
		return nil, err
	}
	took := time.Since(r.began)
	if err := r.settle(ctx, maker); err != nil {
		return nil, err
	}
	r.progress("stopping everything", maker)
	farm.stop()
	r.progress("judging", maker)
	report, err := r.judge(ctx, maker)
	if err != nil {
		return nil, err
	}
	wanted := make(map[Fault]bool)
	for _, f := range r.cfg.Faults {
		wanted[f] = true
	}
	report.notTried(wanted, maker.whyNot, took)
	report.Seconds = took.Round(time.Millisecond).Seconds()
	return report, nil
}

// trouble is the time of the faults.
func (r *run) trouble(ctx context.Context, maker *troublemaker) error {
	limited, cancel := context.WithTimeout(ctx, r.cfg.For)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		worked := make(chan struct{})
		go func() { defer close(worked); r.people.work(limited) }()
		maker.run(limited)
		<-worked
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	phase := "building under faults"
	for stop := r.cfg.Stop; ; {
		select {
		case <-ended:
			return ctx.Err()
		case <-ctx.Done():
			return context.Cause(ctx) // the people may wait for an answer that never comes
		case <-stop:
			stop, phase = nil, "healing"
			cancel()
		case <-limited.Done():
			phase = "healing"
			select {
			case <-ended:
			case <-tick.C:
				r.progress(phase, maker)
			case <-ctx.Done():
			}
		case <-tick.C:
			r.progress(phase, maker)
		}
	}
}

// settle waits until every build has ended and no slave holds anything.
func (r *run) settle(ctx context.Context, maker *troublemaker) error {
	deadline := time.Now().Add(r.cfg.Settle)
	told := time.Now()
	for quiet := 0; quiet < 2; {
		answered := r.people.look(ctx, false)
		holding := r.farm.holding()
		r.people.mu.Lock()
		underway := r.people.underway
		r.people.mu.Unlock()
		quiet++
		if !answered || underway > 0 || len(holding) > 0 {
			quiet = 0
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			r.progress("healed; waiting for all builds to end", maker)
		}
		if time.Now().After(deadline) {
			r.farm.fail(judge.Other, "%v after everything was healed %d builds are under way, and %d slaves hold something: %s",
				r.cfg.Settle, underway, len(holding), strings.Join(holding, " "))
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (r *run) progress(phase string, maker *troublemaker) {
	r.people.mu.Lock()
	s := Status{Phase: phase, Elapsed: time.Since(r.began), Builds: len(r.people.asked), Underway: r.people.underway, Shelved: r.people.shelved}
	r.people.mu.Unlock()
	s.Faults = maker.counts()
	s.Holding = len(r.farm.holding())
	r.cfg.Progress(s)
}

// views opens the store that all masters are done with.
func (r *run) views(e *evidence) (*sql.DB, error) {
	if r.farm.store != nil {
		return sql.Open("pgx", r.cfg.Store)
	}
	return sqlite.OpenViews(e.store)
}

// judge judges what is left, and falsifies it if that is wanted.
func (r *run) judge(ctx context.Context, maker *troublemaker) (*Report, error) {
	e, err := collect(r.farm, r.people)
	if err != nil {
		return nil, fmt.Errorf("collect the evidence: %w", err)
	}
	db, err := r.views(e)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	found, s, err := e.judge(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("judge: %w", err)
	}
	r.farm.mu.Lock()
	found = append(r.farm.broken[:len(r.farm.broken):len(r.farm.broken)], found...)
	r.farm.mu.Unlock()
	report := &Report{Faults: maker.counts(), Builds: len(e.asked), Ends: s.builds, Attempts: s.attempts, Steps: len(e.steps),
		Updates: s.updates, LogBytes: s.logBytes, Blocked: s.blocked, Slaves: r.cfg.Slaves, Masters: r.cfg.Masters, Seed: r.cfg.Seed}
	report.take(found)
	if r.cfg.SelfTest && report.Verdict == held {
		r.progress("falsifying the evidence", maker)
		if report.SelfTest, err = e.selfTest(ctx, filepath.Join(r.dir, "falsified.db")); err != nil {
			return nil, fmt.Errorf("self-test: %w", err)
		}
	}
	return report, nil
}
