// Package sim lets years of a farm pass in seconds: one master and its slaves in
// a synctest bubble, with real gRPC over in-memory connections, a real journal
// on each slave and a real SQLite store. Steps are played, not run.
//
//	World ─┬─ master   stopped, killed, upgraded, put back; its commits fail or are in doubt
//	       ├─ slaves   agents and runners: the same, rebooted; disks full, clocks wrong
//	       ├─ net      a cable per slave: latency, rate, cut, silent, one-way
//	       ├─ operator submits, cancels, unshelves, repeats what was not answered
//	       └─ truth    what each step has said, to compare the store with
//
// A Profile says how much work and trouble there is; a seed draws the rest. After
// the trouble everything is healed, every build must end, and the invariants
// (master/store/invariant) and the truth must hold: nothing lost, nothing twice,
// in order.
//
// A new fault is a constant in profile.go, a place at the end of faultOrder, a word
// in ofMaster if it is the master's, a case where faults are made and one in heal
// if it lasts, and rates in Sparse and Dense. What seeds draw changes with it.
//
// The bubble fixes the clock, not the scheduler: a seed repeats the faults, not
// every interleaving.
package sim
