// Package sim lets years of a farm pass in seconds: one master and its slaves in
// a synctest bubble, with real gRPC over in-memory connections, a real journal
// on each slave and a real SQLite store. Steps are played, not run.
//
//	World ─┬─ master   stopped, killed, started again; its commits fail or are in doubt
//	       ├─ slaves   agents and runners that are stopped, killed, rebooted
//	       ├─ net      a cable per slave: latency, rate, cut, silent, one-way
//	       ├─ operator submits, cancels, unshelves, repeats what was not answered
//	       └─ truth    what each step has said, to compare the store with
//
// A Profile says how much work and trouble there is; a seed draws the rest. After
// the trouble everything is healed, every build must end, and the invariants
// (master/store/invariant) and the truth must hold: nothing lost, nothing twice,
// in order.
//
// The bubble fixes the clock, not the scheduler: a seed repeats the faults, not
// every interleaving.
package sim
