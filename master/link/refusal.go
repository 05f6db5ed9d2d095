package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/rpcerr"
)

// maxEvidence bounds the raw bytes that are kept of a refused frame, maxWhy the
// words about it (P-refuse).
const (
	maxEvidence = 256 << 10
	maxWhy      = 1 << 10
)

// frameError says at which place of which attempt's stream a frame broke the
// protocol (P-refuse): at seq, or, if step is set, at an offset of its log.
type frameError struct {
	reason  rpcerr.Reason // BadFrame, TooLarge or Diverged
	attempt lifecycle.AttemptID
	seq     lifecycle.Seq
	step    lifecycle.StepID
	offset  int64
	raw     []byte
	why     string
}

func (e *frameError) Error() string {
	if e.step != "" {
		return fmt.Sprintf("attempt %s, log of step %s at offset %d: %s", e.attempt, e.step, e.offset, e.why)
	}
	return fmt.Sprintf("attempt %s, update %d: %s", e.attempt, e.seq, e.why)
}

// because fills in the reason.
func (e *frameError) because(reason rpcerr.Reason, format string, args ...any) *frameError {
	e.reason, e.why = reason, text(fmt.Sprintf(format, args...), maxWhy)
	return e
}

// refusal is what the slave is told.
func (e *frameError) refusal() *rpcerr.Error {
	r := rpcerr.New(e.reason, "%v", e).With("attempt", string(e.attempt))
	if e.step != "" {
		return r.With("step", string(e.step)).With("offset", strconv.FormatInt(e.offset, 10))
	}
	return r.With("seq", strconv.FormatUint(uint64(e.seq), 10))
}

// notOurs refuses what is about an attempt that is not the session's (P-fence).
func notOurs(attempt string) error {
	return rpcerr.New(rpcerr.Fenced, "attempt %.40q is not this slave's, or a newer session exists", attempt)
}

// refusal maps an error of the store to what the slave is told, once.
func refusal(err error) error {
	var identity *store.IdentityError
	var refused *rpcerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &identity):
		return rpcerr.New(rpcerr.Identity, "%v", identity).With("rule", identity.Rule)
	case errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrNotFound):
		return rpcerr.New(rpcerr.Fenced, "%v", err)
	case errors.Is(err, store.ErrPoison):
		return rpcerr.New(rpcerr.Internal, "%v", err)
	default:
		return rpcerr.New(rpcerr.NotReady, "the master cannot commit at present: %v", err)
	}
}

// reasonOf says in words why a session ended, for history.
func reasonOf(err error) string {
	switch refused, ok := rpcerr.From(err); {
	case errors.Is(err, io.EOF):
		return "the slave closed the session"
	case ok:
		return refused.Message
	case errors.Is(err, context.Canceled):
		return "connection lost"
	default:
		return "connection lost: " + clip(err.Error(), maxWhy)
	}
}
