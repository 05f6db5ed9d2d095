// Package judge holds a store against what really happened: what slaves
// remember, what steps did, what people were told.
//
//	Tombstones   what a stopped slave's journal remembers
//	Store        the store by itself, and against those (package invariant)
//	Steps        what the store says of steps, against what they did
//	Builds       what the store says of builds, against what people were told
//
// The simulation and `holdfast chaos` are both judged here. Neither slave nor
// master is asked for anything: the judge reads their files when they are down.
//
// # What the caller owes
//
//  1. Masters and agents are stopped, after everything was healed and had the
//     time to end.
//  2. A truth that does not come from what is judged.
package judge
