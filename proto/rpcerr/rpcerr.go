// Package rpcerr maps holdfast's remote refusals to gRPC statuses and back,
// once. A refusal is a Reason with words for a person; its gRPC code follows
// from the reason. Whatever carries no Reason is not a refusal: a broken
// stream or a time-out, whose outcome is unknown.
package rpcerr

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain marks the ErrorInfo details that are ours.
const Domain = "holdfast"

// Reason says why the other side refused. The set is closed; names are never
// reused.
type Reason string

// The reasons.
const (
	NotFound   Reason = "NOT_FOUND"   // no such build, attempt, step or slave
	Invalid    Reason = "INVALID"     // the request cannot be right
	BadState   Reason = "BAD_STATE"   // not possible in this state
	Conflict   Reason = "CONFLICT"    // request key or id used with another body
	NotReady   Reason = "NOT_READY"   // stopping, or the store cannot commit: again later
	Superseded Reason = "SUPERSEDED"  // a newer session of this slave exists (P-fence)
	Fenced     Reason = "FENCED"      // the attempt is not this slave's (P-fence)
	Identity   Reason = "IDENTITY"    // refused by P-identity
	BadHello   Reason = "BAD_HELLO"   // the Hello cannot be accepted
	BadFrame   Reason = "BAD_FRAME"   // a frame broke the protocol (P-refuse)
	TooLarge   Reason = "TOO_LARGE"   // a frame exceeds the limits (P-refuse)
	Diverged   Reason = "DIVERGED"    // a duplicate differs (P-diverged)
	WrongStore Reason = "WRONG_STORE" // the peer belongs to another store
	Internal   Reason = "INTERNAL"    // a bug or a failed store
)

var code = map[Reason]codes.Code{
	NotFound:   codes.NotFound,
	Invalid:    codes.InvalidArgument,
	BadState:   codes.FailedPrecondition,
	Conflict:   codes.AlreadyExists,
	NotReady:   codes.Unavailable,
	Superseded: codes.Aborted,
	Fenced:     codes.FailedPrecondition,
	Identity:   codes.FailedPrecondition,
	BadHello:   codes.InvalidArgument,
	BadFrame:   codes.InvalidArgument,
	TooLarge:   codes.ResourceExhausted,
	Diverged:   codes.DataLoss,
	WrongStore: codes.FailedPrecondition,
	Internal:   codes.Internal,
}

// MetaMaster is the key of the address of the master that a refused slave should try
// first.
const MetaMaster = "master"

// Error is a refusal. Meta carries what a program needs to act: "attempt" and
// "seq" of a refused frame, for instance.
type Error struct {
	Reason  Reason
	Message string
	Meta    map[string]string
}

// New makes a refusal.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// With adds a piece of metadata and returns e.
func (e *Error) With(key, value string) *Error {
	if e.Meta == nil {
		e.Meta = make(map[string]string)
	}
	e.Meta[key] = value
	return e
}

// Error returns the words for a person.
func (e *Error) Error() string { return e.Message }

// GRPCStatus lets a gRPC handler return e as it is.
func (e *Error) GRPCStatus() *status.Status {
	c, ok := code[e.Reason]
	if !ok {
		c = codes.Unknown
	}
	st := status.New(c, e.Message)
	if with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain, Metadata: e.Meta}); err == nil {
		return with
	}
	return st
}

// From returns the refusal that err carries, from this process or over the
// wire. ok is false when err is no refusal: what was asked for may have
// happened or not.
func From(err error) (e *Error, ok bool) {
	if errors.As(err, &e) {
		return e, true
	}
	st, isStatus := status.FromError(err)
	if !isStatus || st == nil {
		return nil, false
	}
	for _, d := range st.Details() {
		if info, isInfo := d.(*errdetails.ErrorInfo); isInfo && info.GetDomain() == Domain {
			return &Error{Reason: Reason(info.GetReason()), Message: st.Message(), Meta: info.GetMetadata()}, true
		}
	}
	return nil, false
}

// Is reports whether err is a refusal for one of the reasons.
func Is(err error, reasons ...Reason) bool {
	e, ok := From(err)
	return ok && slices.Contains(reasons, e.Reason)
}

// Reasons returns all reasons, sorted.
func Reasons() []Reason { return slices.Sorted(maps.Keys(code)) }
