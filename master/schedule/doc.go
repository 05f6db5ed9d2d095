// Package schedule gives queued builds to slaves and gives up attempts whose
// slaves stay away.
//
//	Dispatcher  woken by hints: a build was queued, a slot came free, a slave
//	            connected. Reads queue and slaves from the store, matches them
//	            (plan, a pure function), assigns, and notes for each build that
//	            stays what it waits for.
//	Watch       ticks only while live attempts have slaves that are away.
//	            Gives an attempt up after it has itself watched the same
//	            absence for lost_after (P-lost).
//
// Both decide on a view that may be stale; every write they make is
// conditional on what they saw, so that a stale view costs a try and nothing
// else. Several masters may run them on one store: each dispatches to the
// slaves connected to it.
package schedule
