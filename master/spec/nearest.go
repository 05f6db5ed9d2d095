package spec

import "strings"

// didYouMean returns a hint that proposes the word of set nearest to word, or
// "" if none is near.
func didYouMean(word string, set []string) string {
	if len(word) > 2*MaxLabelKey {
		return ""
	}
	best, bestDistance := "", 3 // two slips at most
	for _, candidate := range set {
		d := distance(fold(word), fold(candidate))
		// Short words are near to everything.
		if d < bestDistance && d*2 < len(candidate) {
			best, bestDistance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// fold makes retryExitCodes, retry-exit-codes and retry_exit_codes alike.
func fold(word string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(word))
}

// distance counts the slips between two words: letters added, left out,
// replaced, or swapped with their neighbour.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
