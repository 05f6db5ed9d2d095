// Package storetest is the contract of package store as tests: every database
// must pass Run. It also has the tools for tests that need a store to fail.
//
//	Run      the contract, rule by rule, then random operations against a model
//	Fill     a store with something in every table
//	Faulty   a Store whose commits fail before, or after, they were done
//
// Each test ends with the invariants (package invariant) and with a comparison
// of the store with what the fake slaves know. Tests named T-… are those of
// COMPLAINTS.md, at the level of the store.
//
// # What the caller owes
//
// Open returns the store that lives in a directory (or schema) of its own. The
// same directory again, after Close, is the same store.
package storetest
