package sim

import (
	"context"
	"reflect"
	"sync"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// wallClock is the clock on the wall of one machine: the bubble's, but wrong.
// Monotonic time is the bubble's own everywhere. The zero value is right.
type wallClock struct {
	mu    sync.Mutex
	ahead time.Duration // of the bubble, at since
	since time.Time
	drift float64 // seconds gained a second
}

// offset is how far the clock is ahead.
func (c *wallClock) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offsetLocked(time.Now())
}

func (c *wallClock) offsetLocked(now time.Time) time.Duration {
	if c.drift == 0 {
		return c.ahead
	}
	return c.ahead + time.Duration(float64(now.Sub(c.since))*c.drift)
}

// now is what the clock shows.
func (c *wallClock) now() time.Time { return time.Now().Add(c.offset()) }

// set puts the clock ahead, or behind, and gives it a drift from now on.
func (c *wallClock) set(ahead time.Duration, drift float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead, c.since, c.drift = ahead, time.Now(), drift
}

// runs gives the clock another drift; what it shows now stays.
func (c *wallClock) runs(drift float64) { c.set(c.offset(), drift) }

// wallStore is a store whose master reads another clock than its own: times are
// put into it by that clock, and compared with that clock's when they are read.
type wallStore struct {
	store.Store
	clock *wallClock
}

// Commit implements store.Store. The ops are the caller's again afterwards, who
// may repeat them.
func (s *wallStore) Commit(ctx context.Context, ops ...store.Op) error {
	ahead := s.clock.offset()
	if ahead == 0 {
		return s.Store.Commit(ctx, ops...)
	}
	own := make(map[*time.Time]time.Time, len(ops))
	for _, op := range ops {
		if now := stampOf(op); now != nil {
			own[now] = *now
			*now = now.Add(ahead)
		}
	}
	defer func() {
		for now, was := range own {
			*now = was
		}
	}()
	return s.Store.Commit(ctx, ops...)
}

// stampOf is the time at which an op says that it happens; nil: it does not say.
func stampOf(op store.Op) *time.Time {
	v := reflect.Indirect(reflect.ValueOf(op))
	if v.Kind() != reflect.Struct {
		return nil
	}
	if f := v.FieldByName("Now"); f.IsValid() && f.CanAddr() {
		if now, ok := f.Addr().Interface().(*time.Time); ok {
			return now
		}
	}
	return nil
}

// Queue implements store.Store.
func (s *wallStore) Queue(ctx context.Context, f store.QueueFilter) ([]lifecycle.Build, error) {
	ahead := s.clock.offset()
	f.Ready = shift(f.Ready, ahead)
	builds, err := s.Store.Queue(ctx, f)
	for i := range builds {
		builds[i].NotBefore = shift(builds[i].NotBefore, -ahead)
	}
	return builds, err
}

// Waiting implements store.Store.
func (s *wallStore) Waiting(ctx context.Context, f store.WaitingFilter) ([]store.Waiting, error) {
	f.Ready = shift(f.Ready, s.clock.offset())
	return s.Store.Waiting(ctx, f)
}

// NextReady implements store.Store.
func (s *wallStore) NextReady(ctx context.Context, after time.Time) (time.Time, error) {
	ahead := s.clock.offset()
	next, err := s.Store.NextReady(ctx, shift(after, ahead))
	return shift(next, -ahead), err
}

// Flaps implements store.Store.
func (s *wallStore) Flaps(ctx context.Context, since time.Time) (map[string]int, error) {
	return s.Store.Flaps(ctx, shift(since, s.clock.offset()))
}

// Masters implements store.Store.
func (s *wallStore) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	return s.Store.Masters(ctx, shift(since, s.clock.offset()))
}

// shift moves a time that is one.
func shift(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(by)
}
