package mastertest

import (
	"context"
	"sync"

	"holdfast/master/store"
)

// Gate is a Store whose commits can be held up, and made to fail before they
// are done.
type Gate struct {
	store.Store

	mu      sync.Mutex
	held    chan struct{}          // closed by Release; nil: open
	waiting int                    // commits held up
	fail    func([]store.Op) error // nil: none
	commits int
}

// NewGate returns an open gate.
func NewGate(s store.Store) *Gate { return &Gate{Store: s} }

// Hold lets no commit pass until Release.
func (g *Gate) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == nil {
		g.held = make(chan struct{})
	}
}

// Release lets all commits pass.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// Held reports whether a commit is held up.
func (g *Gate) Held() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting > 0
}

// Commits counts commits that were done.
func (g *Gate) Commits() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.commits
}

// Fail makes commits fail with what f returns, unless that is nil.
func (g *Gate) Fail(f func([]store.Op) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = f
}

// Commit implements store.Store.
func (g *Gate) Commit(ctx context.Context, ops ...store.Op) error {
	g.mu.Lock()
	held, fail := g.held, g.fail
	if held != nil {
		g.waiting++
	}
	g.mu.Unlock()
	if held != nil {
		<-held
		g.mu.Lock()
		g.waiting--
		fail = g.fail
		g.mu.Unlock()
	}
	if fail != nil {
		if err := fail(ops); err != nil {
			return err
		}
	}
	err := g.Store.Commit(ctx, ops...)
	if err == nil {
		g.mu.Lock()
		g.commits++
		g.mu.Unlock()
	}
	return err
}
