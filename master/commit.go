package master

import (
	"context"
	"time"

	"holdfast/master/store"
)

// meteredStore measures commits.
type meteredStore struct {
	store.Store
	metrics *metrics
}

// Commit implements store.Store.
func (s *meteredStore) Commit(ctx context.Context, ops ...store.Op) error {
	began := time.Now()
	err := s.Store.Commit(ctx, ops...)
	s.metrics.committed(ops, time.Since(began), err)
	return err
}

// meteredCommitter counts what waits for a commit.
type meteredCommitter struct {
	*store.Committer
	metrics *metrics
}

// Do counts ops until they are committed, or until nobody waits for them.
func (c *meteredCommitter) Do(ctx context.Context, ops ...store.Op) error {
	c.metrics.waiting.Add(float64(len(ops)))
	defer c.metrics.waiting.Sub(float64(len(ops)))
	return c.Committer.Do(ctx, ops...)
}

// Go counts op until done is called.
func (c *meteredCommitter) Go(ctx context.Context, op store.Op, done func(error)) error {
	c.metrics.waiting.Inc()
	err := c.Committer.Go(ctx, op, func(err error) {
		c.metrics.waiting.Dec()
		done(err)
	})
	if err != nil {
		c.metrics.waiting.Dec()
	}
	return err
}
