package journal

import (
	"context"
	"errors"
	"fmt"
)

// Room reports whether the journal, having refused a record for want of room, would take an ordinary one of that size
// now: ErrFull while it would not. It asks the writer, who extends the file for it where the disk lets him, so the answer
// is not a guess from figures. With nothing refused since the last answer it is nil at once.
//
// It is for a caller that, told ErrFull, has ceased to produce ordinary records: nothing else would ever find out that
// there is room again. It is somewhat more than was refused, so that the next record does not bring ErrFull back at once.
//
// Other errors: as Append's.
func (j *Journal) Room(ctx context.Context) error {
	if !j.counts.full.Load() {
		return nil
	}
	r := newRequest(nil)
	r.room, r.weight = true, 1
	if err := j.send(ctx, r); err != nil {
		return fmt.Errorf("room: %w", err)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("room: %w", context.Cause(ctx))
	}
}

// room is the writer's part of Room. Only fatal errors are not for the caller alone.
func (j *Journal) room() error {
	// At most half: a record that could never fit must not close the journal to all others.
	need := min(max(j.refused+j.refused/2, j.cfg.MaxBytes/16), j.cfg.MaxBytes/2)
	if j.liveBytes+need > j.cfg.MaxBytes {
		return fmt.Errorf("room: %d bytes live, limit %d, %d wanted: %w", j.liveBytes, j.cfg.MaxBytes, need, ErrFull)
	}
	if err := j.space.admit(costBase+costRecord(int(j.refused)), true); err != nil {
		if errors.Is(err, ErrFull) {
			return fmt.Errorf("room: %w", err)
		}
		return j.fatal(err)
	}
	j.publishSpace()
	j.hasRoom()
	return nil
}

// noteFull notes that a record of that many bytes was refused.
func (j *Journal) noteFull(err error, bytes int) {
	j.refused = int64(bytes)
	if j.counts.full.CompareAndSwap(false, true) {
		j.cfg.Logger.Info("journal is full", "err", err, "live_bytes", j.liveBytes)
	}
}

// hasRoom notes that an ordinary record has room.
func (j *Journal) hasRoom() {
	if j.counts.full.CompareAndSwap(true, false) {
		j.cfg.Logger.Info("journal has room again", "available_bytes", j.space.available())
	}
}
