// Package deptest checks which package may import which: DESIGN's arrows, as a
// test.
//
//	cmd ──────► master/… ──► proto, retry
//	 │                          ▲
//	 └────────► slave/… ────────┴──► proto, retry, journal
//
//	proto, retry, journal ──► nothing of ours      master/lifecycle ──► retry only
//
// The table is in rules_test.go, each rule with its reason. A rule may name
// packages that do not exist yet. It has nothing but tests.
package deptest
