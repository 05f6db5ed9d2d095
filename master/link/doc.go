// Package link is the master's end of the LinkService: it admits slaves,
// turns what they send into store operations, and sends back ACKs and Wants.
//
// What it guarantees: nothing is ACKed before the commit that holds it has
// returned (P-apply); every write carries the session it came from, so that a
// newer session fences it (P-fence); a frame that breaks the protocol ends its
// session and nothing else (P-refuse). Per session memory is bounded by
// Config.MaxInFlight.
//
// What it does not: decide. What an update does is in master/lifecycle, what
// is wanted of a slave is read from the store.
//
//	           stream ──► receive ──► Committer.Go ──┐ in stream order
//	slave                                            │ group commit
//	           stream ◄── send ◄── outbox ◄── done ◄─┘
//	                       ▲
//	                       └── Wants(instance), when the hub hints
//
// Protobuf types stop here: the committer and the store see domain types.
package link
