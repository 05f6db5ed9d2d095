//go:build race

package sim

// raceEnabled: the race detector makes everything about ten times slower.
const raceEnabled = true
