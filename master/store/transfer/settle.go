package transfer

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"time"

	"holdfast/master/store"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
)

// settle notes what masters of the source have left, and what no master of the target
// would: a master on SQLite ends all sessions when it starts, but does not know of
// other masters; those on PostgreSQL end a master that stands still, but not the
// sessions of one that was never theirs. A store that was stopped in order has neither,
// and is not changed. It may be done again, with masters at work.
func (p Place) settle(ctx context.Context, now time.Time) (err error) {
	if p.url == "" {
		s, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(p.dir, sqlite.FileName)})
		if errors.Is(err, store.ErrInUse) {
			return nil // by a master, which has started after an earlier try
		}
		if err != nil {
			return err
		}
		return errors.Join(endMasters(ctx, s, now), s.Close())
	}
	s, err := postgres.Open(ctx, postgres.Config{URL: p.url, MaxSkew: math.MaxInt64}) // clocks are the masters' matter
	if err != nil {
		return err
	}
	return errors.Join(endSessions(ctx, s, now), s.Close())
}

// endMasters ends the masters that have not ended.
func endMasters(ctx context.Context, s *sqlite.Store, now time.Time) error {
	masters, err := s.Masters(ctx, now)
	if err != nil {
		return err
	}
	for _, m := range masters {
		if m.Ended.IsZero() {
			op := &store.EndMaster{Now: now, Master: m.ID, Beats: m.Beats, Who: "migrate-store", Why: "it stood still when the store was moved"}
			if err := errors.Join(s.Commit(ctx, op), op.Err); err != nil {
				return err
			}
		}
	}
	return nil
}

// endSessions ends the sessions of masters that PostgreSQL's have never heard of.
func endSessions(ctx context.Context, s *postgres.Store, now time.Time) error {
	masters, err := s.Masters(ctx, now)
	if err != nil {
		return err
	}
	theirs := map[string]bool{}
	for _, m := range masters {
		if m.Ended.IsZero() {
			theirs[m.ID] = true
		}
	}
	slaves, err := s.Slaves(ctx)
	if err != nil {
		return err
	}
	for i := range slaves {
		// An empty name would mean all sessions; no session has one.
		if id := slaves[i].Master; slaves[i].Connected && id != "" && !theirs[id] {
			theirs[id] = true
			op := &store.EndSessions{Now: now, Master: id, Why: "the store was moved"}
			if err := errors.Join(s.Commit(ctx, op), op.Err); err != nil {
				return err
			}
		}
	}
	_, err = s.Number(ctx)
	return err
}
