// Package notify tells interested parties inside one master that something
// was committed.
//
// A notification is a hint, never the truth: it says "look at the store
// again". Hints coalesce, and losing one delays a reader no longer than its
// own safety poll. What a reader must not miss it reads from the store, where
// events are numbered in commit order.
//
//	committer ── after each commit ──► Hub.Publish(keys)
//	                                     │ by key
//	       link sessions, scheduler, log followers, watchers: Subscription.C
//
// A caller owes: read C, then look at the store, in this order; Close when
// done.
package notify
