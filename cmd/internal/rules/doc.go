// Command rules tells which rules of PROTOCOL.md a run of the tests has come by.
//
//	go run ./cmd/internal/rules COVERPROFILE
//
// Code names the rule that it obeys in a comment. A rule is hit as often as the
// statements that such a comment stands at, or in whose doc comment it stands,
// were executed; a cover profile knows that, so the product needs no counters.
//
// It prints a line for each rule: how often it was hit, at how many of the places
// that name it, and which place was hit least. It ends with 1 if a rule was hit nowhere, and is
// not in the list of those that the simulation leaves to other tests.
//
// It does not say that a rule was kept: that is for the tests. It says that they
// had something to look at.
package main
