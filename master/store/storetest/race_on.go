//go:build race

package storetest

// raced: the race detector makes a database in pure Go some twenty times
// slower. It needs concurrency, not length.
const raced = true
