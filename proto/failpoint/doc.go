// Package failpoint lets a process die at a chosen step of the protocol, in
// binaries that are built for it.
//
//	go build -tags failpoint -o bin/holdfast-failpoint ./cmd/holdfast
//	HOLDFAST_FAILPOINT=slave.after-append:2 HOLDFAST_FAILPOINT_HIT=FILE bin/holdfast-failpoint slave …
//
// Here(name) stands where a step of PROTOCOL.md's sequence (section 12) has just
// been made durable, or is about to be. With the tag, the process that comes by
// the named point for the n-th time (default: the first) kills itself with
// SIGKILL, as kill -9 from outside would, only at that very place. If a file is
// named, it is made first, with the point's name in it; where it is already, nobody
// dies: so one process of several that inherit the environment dies, and once. A
// name that no point has kills nobody, and nobody complains.
//
// Without the tag Here is empty, nothing is read, and no name of a point is in
// the binary. The end-to-end tests see to both: that each point is come by, and
// that the binary for people has none.
//
// A new point is a call with its name written out, used once, and a line in the
// table of cmd/internal/e2e/failpoint_test.go: at which passes to die, and what
// comes of it. TestFailpointsAreAllTried fails until there is one.
//
// It is in proto because both sides have steps and may import nothing else in
// common. It speaks no protobuf.
package failpoint
