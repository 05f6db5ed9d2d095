// Package api serves the ControlService and the HTTP endpoints of a master:
// what people and tools use to submit, look, follow and intervene.
//
// Writes are keyed and idempotent (P-submit): a client that lost the reply
// asks again and gets the same answer. Reads see committed state only. A
// stream that follows (ReadLog, Watch) is woken by hints and reads the store;
// nothing is polled.
//
// What comes from outside is refused with a reason of proto/rpcerr before it
// takes much memory, and a stream takes a bounded amount, read or not
// (P-bounded). Two things gRPC answers itself, without a reason: messages above
// its limit (RESOURCE_EXHAUSTED), and methods there are not (UNIMPLEMENTED).
//
// Protobuf types stop here.
package api
