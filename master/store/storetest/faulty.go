package storetest

import (
	"context"
	"fmt"
	"sync"

	"holdfast/master/store"
)

// Fault is what happens to one Commit.
type Fault int

// The faults. Each is either "failed" or "failed but done".
const (
	None        Fault = iota
	Busy              // ErrBusy, nothing was done
	Full              // ErrFull, nothing was done
	UnknownLost       // ErrUnknown, nothing was done
	UnknownDone       // ErrUnknown, but it was done: the lost reply
	Dead              // ErrFatal, nothing was done
	DeadDone          // ErrFatal, but it was done: died before the reply
)

// Faulty is a Store whose Commit fails as it is told. After Dead or DeadDone
// every Commit fails until Revive, as after a crash of the master.
type Faulty struct {
	store.Store
	// Next says what happens to a group. It is called under a lock.
	Next func(ops []store.Op) Fault

	mu     sync.Mutex
	dead   bool
	faults int
}

// Commit implements store.Store.
func (f *Faulty) Commit(ctx context.Context, ops ...store.Op) error {
	f.mu.Lock()
	fault := None
	if f.Next != nil {
		fault = f.Next(ops)
	}
	if fault != None {
		f.faults++
	}
	if f.dead {
		f.mu.Unlock()
		return fmt.Errorf("%w: dead since an earlier commit", store.ErrFatal)
	}
	f.dead = fault == Dead || fault == DeadDone
	f.mu.Unlock()

	switch fault {
	case Busy:
		return fmt.Errorf("injected: %w", store.ErrBusy)
	case Full:
		return fmt.Errorf("injected: %w", store.ErrFull)
	case UnknownLost:
		return fmt.Errorf("injected, not done: %w", store.ErrUnknown)
	case Dead:
		return fmt.Errorf("injected, not done: %w", store.ErrFatal)
	}
	if err := f.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	switch fault {
	case UnknownDone:
		return fmt.Errorf("injected, done: %w", store.ErrUnknown)
	case DeadDone:
		return fmt.Errorf("injected, done: %w", store.ErrFatal)
	}
	return nil
}

// Revive ends a death.
func (f *Faulty) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = false
}

// Faults counts the faults so far.
func (f *Faulty) Faults() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults
}
