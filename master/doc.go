// Package master wires one master together: store, committer, link, scheduler,
// lost watch, control API and HTTP.
//
//	slaves ══ gRPC ══► link ──┐                       ┌──► schedule.Dispatcher
//	                          ├─► store.Committer ────┤ hints (notify.Hub)
//	tools  ══ gRPC ══► api  ──┘        │              ├──► schedule.Watch
//	                                   ▼              ├──► link sessions (Wants)
//	                              store.Store         └──► api followers
//
// New validates and opens nothing but the store it is given; Run serves until
// its context ends and returns when everything has stopped: new work first,
// then the sessions, whose slaves are noted as away, then the committer. A
// master that is killed instead is as safe: what was not committed was not
// ACKed.
package master
