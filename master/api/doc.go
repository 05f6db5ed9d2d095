// Package api serves the ControlService and the HTTP endpoints of a master:
// what people and tools use to submit, look, follow and intervene.
//
// Writes are keyed and idempotent (P-submit): a client that lost the reply
// asks again and gets the same answer. Reads see committed state only. A
// stream that follows (ReadLog, Watch) is woken by hints and reads the store;
// nothing is polled.
//
// Protobuf types stop here.
package api
