package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeStore commits by a script of errors; what is poison always fails.
type fakeStore struct {
	mu      sync.Mutex
	script  []error
	poison  map[Op]bool
	groups  [][]Op
	gate    chan struct{} // non-nil: Commit waits for it
	commits int
}

func (f *fakeStore) Commit(ctx context.Context, ops ...Op) error {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commits++
	for _, op := range ops {
		if f.poison[op] {
			return fmt.Errorf("constraint: %w", ErrPoison)
		}
	}
	if len(f.script) > 0 {
		err := f.script[0]
		f.script = f.script[1:]
		if err != nil {
			return err
		}
	}
	f.groups = append(f.groups, slices.Clone(ops))
	return nil
}

// run runs a committer in a bubble and stops it at the end.
func run(t *testing.T, cfg CommitterConfig, do func(ctx context.Context, c *Committer)) error {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) {
		c := NewCommitter(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- c.Run(ctx) }()
		do(ctx, c)
		cancel()
		err = <-result
	})
	return err
}

func TestCommitterGroupsWhatWaits(t *testing.T) {
	f := &fakeStore{gate: make(chan struct{})}
	var order []int
	var committed int
	err := run(t, CommitterConfig{Store: f, OnCommit: func(ops []Op) { committed += len(ops) }}, func(ctx context.Context, c *Committer) {
		f.gate = make(chan struct{})
		for i := range 10 {
			if err := c.Go(ctx, &Disconnect{}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				order = append(order, i)
			}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(f.gate)
		synctest.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.groups) != 2 || len(f.groups[0]) != 1 || len(f.groups[1]) != 9 {
		t.Errorf("groups %v, want 1 and 9 ops", f.groups)
	}
	if committed != 10 || !slices.IsSorted(order) || len(order) != 10 {
		t.Errorf("committed %d, callbacks %v", committed, order)
	}
}

func TestCommitterHoldsAndRepeats(t *testing.T) {
	for _, class := range []error{ErrBusy, ErrFull, ErrUnknown} {
		t.Run(class.Error(), func(t *testing.T) {
			f := &fakeStore{script: []error{class, class, class}}
			err := run(t, CommitterConfig{Store: f}, func(ctx context.Context, c *Committer) {
				result := make(chan error, 1)
				go func() { result <- c.Do(ctx, &Disconnect{}) }()
				time.Sleep(time.Microsecond)
				synctest.Wait()
				if err := c.Ready(); !errors.Is(err, class) {
					t.Errorf("Ready is %v while the store fails with %v", err, class)
				}
				if err := <-result; err != nil {
					t.Error(err)
				}
				if err := c.Ready(); err != nil {
					t.Errorf("Ready is %v after a commit", err)
				}
			})
			if err != nil || f.commits != 4 {
				t.Errorf("Run: %v, commits %d, want 4", err, f.commits)
			}
		})
	}
}

// P-commit: who hangs in a commit is not ready, before the store gives it up.
func TestCommitterHangs(t *testing.T) {
	f := &fakeStore{}
	_ = run(t, CommitterConfig{Store: f}, func(ctx context.Context, c *Committer) {
		f.gate = make(chan struct{})
		if err := c.Go(ctx, &Disconnect{}, func(error) {}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(slowCommit - time.Millisecond)
		if err := c.Ready(); err != nil {
			t.Errorf("a commit that is not late yet: %v", err)
		}
		time.Sleep(time.Millisecond)
		if err := c.Ready(); !errors.Is(err, ErrBusy) {
			t.Errorf("a commit that hangs: %v", err)
		}
		close(f.gate)
		synctest.Wait()
		if err := c.Ready(); err != nil {
			t.Errorf("it is over: %v", err)
		}
	})
}

func TestCommitterBisectsPoison(t *testing.T) {
	for bad := range 7 {
		f := &fakeStore{gate: make(chan struct{})}
		ops := make([]Op, 7)
		for i := range ops {
			ops[i] = &Disconnect{}
		}
		f.poison = map[Op]bool{ops[bad]: true}
		errs := make([]error, len(ops))
		err := run(t, CommitterConfig{Store: f}, func(ctx context.Context, c *Committer) {
			f.gate = make(chan struct{})
			for i, op := range ops {
				if err := c.Go(ctx, op, func(err error) { errs[i] = err }); err != nil {
					t.Fatal(err)
				}
			}
			close(f.gate)
			synctest.Wait()
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			if (i == bad) != errors.Is(err, ErrPoison) || i != bad && err != nil {
				t.Errorf("bad %d: op %d got %v", bad, i, err)
			}
		}
	}
}

func TestCommitterFatalFailsEverybody(t *testing.T) {
	f := &fakeStore{gate: make(chan struct{}), script: []error{nil, ErrFatal}}
	var failed int
	err := run(t, CommitterConfig{Store: f, MaxOps: 2}, func(ctx context.Context, c *Committer) {
		f.gate = make(chan struct{})
		for range 9 {
			if err := c.Go(ctx, &Disconnect{}, func(err error) {
				if errors.Is(err, ErrFatal) {
					failed++
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		close(f.gate)
		synctest.Wait()
		if err := c.Do(ctx, &Disconnect{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Do after a fatal failure: %v", err)
		}
		if c.Ready() == nil {
			t.Error("ready after a fatal failure")
		}
	})
	if !errors.Is(err, ErrFatal) || failed < 7 {
		t.Errorf("Run: %v; %d of 9 ops failed, want all but the first group", err, failed)
	}
}

func TestCommitterStopCommitsTheQueue(t *testing.T) {
	f := &fakeStore{gate: make(chan struct{})}
	var done int
	err := run(t, CommitterConfig{Store: f, MaxOps: 3}, func(ctx context.Context, c *Committer) {
		f.gate = make(chan struct{})
		for range 20 {
			if err := c.Go(ctx, &Disconnect{}, func(err error) {
				if err == nil {
					done++
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		close(f.gate)
	})
	if err != nil || done != 20 {
		t.Errorf("Run: %v, %d of 20 committed", err, done)
	}
}

func TestCommitterStopWhileHeld(t *testing.T) {
	f := &fakeStore{script: slices.Repeat([]error{ErrBusy}, 1000)}
	var got error
	err := run(t, CommitterConfig{Store: f}, func(ctx context.Context, c *Committer) {
		if err := c.Go(ctx, &Disconnect{}, func(err error) { got = err }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
	})
	if err != nil || !errors.Is(got, ErrClosed) || !errors.Is(got, ErrBusy) {
		t.Errorf("Run: %v, callback: %v", err, got)
	}
	if f.commits < 3 || f.commits > 60 {
		t.Errorf("%d tries in 3 s", f.commits)
	}
}

func TestCommitterQueueIsBounded(t *testing.T) {
	f := &fakeStore{gate: make(chan struct{})}
	err := run(t, CommitterConfig{Store: f, MaxQueued: 1024}, func(ctx context.Context, c *Committer) {
		f.gate = make(chan struct{})
		for range 4 { // 256 bytes each
			if err := c.Go(ctx, &Disconnect{}, func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := c.Go(short, &Disconnect{}, func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fifth op: %v, want it to wait", err)
		}
		close(f.gate)
		if err := c.Do(ctx, &Disconnect{}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every call gets exactly one answer, whatever stops when.
func TestCommitterAnswersOnce(t *testing.T) {
	f := &fakeStore{}
	c := NewCommitter(CommitterConfig{Store: f})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()

	var wg sync.WaitGroup
	var mu sync.Mutex
	queued, answered := 0, 0
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := c.Go(context.Background(), &Disconnect{}, func(error) {
					mu.Lock()
					answered++
					mu.Unlock()
				})
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				queued++
				mu.Unlock()
				if i == 50 {
					cancel()
				}
			}
		})
	}
	wg.Wait()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		mu.Lock()
		same := queued == answered
		mu.Unlock()
		if same {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d queued, %d answered", queued, answered)
		}
		time.Sleep(time.Millisecond)
	}
}
