package journal

import (
	"errors"
	"fmt"
)

// The conditions a caller acts on. Test with errors.Is.
var (
	// ErrSequence: the entries do not follow the stream's last one, or an ACK or SkipTo does not fit what
	// the stream holds. Nothing changed. It is a bug of the caller, or two writers on one stream.
	// errors.As with *SequenceError gives the numbers.
	ErrSequence = errors.New("out of sequence")

	// ErrFull: there is no room, on the disk or under Config.MaxBytes. Nothing changed. Hold the record,
	// stop producing, and append the same again later: ACKs make room. Not fatal.
	ErrFull = errors.New("journal full")

	// ErrUnknown: the caller's context ended, or the disk failed, while the write was under way; it may or may
	// not be durable. Look at Info, or after a restart append the same again and take ErrSequence for "it was".
	ErrUnknown = errors.New("outcome unknown")

	// ErrFatal: the disk failed (I/O error, failed sync), or the file was found damaged while in use. Run
	// returns it; nothing is acknowledged any more. End the process; the next Open recovers.
	ErrFatal = errors.New("journal failed")

	// ErrCorrupt: bytes read are not bytes written. errors.As with *CorruptError says where. The journal never
	// repairs silently: Open sets such a file aside whole.
	ErrCorrupt = errors.New("journal corrupt")

	// ErrClosed: Run has returned or Close was called. Nothing was written.
	ErrClosed = errors.New("journal closed")

	// ErrLocked: another process (or another Journal of this one) has the file open for writing. For a copy of a
	// live journal ask the process that has it, see Snapshot.
	ErrLocked = errors.New("journal is in use")

	// ErrNewerVersion: the file was written by a newer format version. It was not touched. Run the newer binary.
	ErrNewerVersion = errors.New("journal was written by a newer version")

	// ErrInvalid: a Write or Config that could never be accepted. A bug of the caller.
	ErrInvalid = errors.New("invalid")

	// ErrNotVerified is what Config.VerifyChild returns when it could not look at the file at all (the child did
	// not start). Open then verifies in its own process instead of taking the file for damaged.
	ErrNotVerified = errors.New("not verified")
)

// SequenceError is an ErrSequence with its numbers.
type SequenceError struct {
	Stream string
	What   string // "entry", "ack" or "skip"
	Got    uint64
	Want   uint64 // the number that would have been accepted; for an ack the highest one
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("stream %q: %s %d, want %d: %v", e.Stream, e.What, e.Got, e.Want, ErrSequence)
}

// Unwrap makes errors.Is(err, ErrSequence) true.
func (e *SequenceError) Unwrap() error { return ErrSequence }

// CorruptError is an ErrCorrupt with its place.
type CorruptError struct {
	Where string // page, bucket and key, or the operation that met it
	Err   error  // what is wrong there
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%v: %s: %v", ErrCorrupt, e.Where, e.Err) }

// Unwrap makes errors.Is(err, ErrCorrupt) true and keeps the cause.
func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Err} }

func corruptf(where, format string, args ...any) error {
	return &CorruptError{Where: where, Err: fmt.Errorf(format, args...)}
}
