// Package deptest checks what no compiler does: which package may import which
// (DESIGN's arrows), and that every rule of PROTOCOL.md and every complaint of
// docs/complaints.md has its tests.
//
//	cmd ──────► master/… ──► proto, retry
//	 │                          ▲
//	 └────────► slave/… ────────┴──► proto, retry, journal
//
//	proto, retry, journal ──► nothing of ours      master/lifecycle ──► retry only
//
// The table is in rules_test.go, each rule with its reason. A rule may name
// packages that do not exist yet. protocol_test.go reads the tables of the two
// documents. It has nothing but tests.
package deptest
