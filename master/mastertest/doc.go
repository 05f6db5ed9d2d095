// Package mastertest runs a whole master in a test: real gRPC over in-memory
// connections, a real SQLite store in a temporary directory.
//
//	Rig     one master with its store and clients; may run in a synctest bubble
//	Slave   a scripted slave that speaks the raw protocol, well or badly
//	Stream  what such a slave has journaled of one attempt
//	Gate    a Store whose commits can be held up, and made to fail
package mastertest
