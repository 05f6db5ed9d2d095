package schedule

import (
	"testing"

	"holdfast/master/store"
)

// A round's assignments are committed a few at a time, by the rows they make:
// sessions wait for each transaction (P-bounded).
func TestAssignmentsAreCommittedInParts(t *testing.T) {
	make1 := func(steps int) offer { return offer{Assign: &store.Assign{Steps: make([]store.Step, steps)}} }
	var many []offer
	for range 5000 {
		many = append(many, make1(4))
	}
	for _, tc := range []struct {
		name string
		ops  []offer
		want int
	}{
		{"one", []offer{make1(1)}, 1},
		{"one that is large by itself", []offer{make1(5 * rowsAtOnce), make1(1)}, 1},
		{"a large one behind", []offer{make1(1), make1(rowsAtOnce), make1(1)}, 1},
		{"five thousand", many, rowsAtOnce / 5},
	} {
		if got := atOnce(tc.ops); got != tc.want {
			t.Errorf("%s: %d at once, want %d", tc.name, got, tc.want)
		}
	}
}
