package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/proto/rpcerr"
)

// ErrAddress: the address cannot be one.
var ErrAddress = errors.New("not an address HOST:PORT")

// ErrNoMaster: something answers at the address, and it is no holdfast master.
var ErrNoMaster = errors.New("what answers there is no holdfast master")

// UnreachableError: no master answered in the time there was.
type UnreachableError struct {
	Addr string
	// Unknown: the request may have reached the master, and may have been
	// carried out. The same request with the same ids is safe to repeat.
	Unknown bool
	Err     error // of the last try
}

// Error names the address and the last failure.
func (e *UnreachableError) Error() string {
	what := "cannot be reached"
	if e.Unknown {
		what = "does not answer, so it is unknown whether this was done"
	}
	return fmt.Sprintf("master at %s %s: %s", e.Addr, what, plain(e.Err))
}

// Unwrap returns the failure of the last try.
func (e *UnreachableError) Unwrap() error { return e.Err }

// plain takes from a gRPC error what a person can use.
func plain(err error) string {
	if st, ok := status.FromError(err); ok {
		text := st.Message()
		// grpc-go wraps the dialer's words in its own.
		if i := strings.LastIndex(text, "desc = "); i >= 0 {
			text = strings.Trim(text[i+len("desc = "):], `"`)
		}
		return strings.TrimPrefix(text, "transport: Error while dialing: ")
	}
	return err.Error()
}

// kind says what a failed call asks for.
type kind int

const (
	again    kind = iota + 1 // nobody answered, or not now: the same once more
	internal                 // the master failed; it may be about to restart
	final                    // the answer
)

// kindOf sorts a non-nil error of a call whose own context is alive.
func kindOf(err error) kind {
	if refused, ok := rpcerr.From(err); ok {
		switch refused.Reason {
		case rpcerr.NotReady:
			return again
		case rpcerr.Internal:
			return internal
		default:
			return final
		}
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return again
	case codes.Internal, codes.Unknown:
		return internal // a stream that broke in the middle of a frame
	default:
		return final
	}
}

// answer turns the final error of a call into one of this package's.
func answer(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := rpcerr.From(err); ok {
		return refused
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("%w (%s)", ErrNoMaster, plain(err))
	}
	return err
}
