package columns

import (
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// Records puts builds together from their rows, attempts and steps in the order of
// their numbers. Attempts of other builds, and steps of other attempts, are left
// out.
func Records(builds []lifecycle.Build, attempts []lifecycle.Attempt, steps []store.StepWrite) []*lifecycle.Record {
	records := make([]*lifecycle.Record, len(builds))
	byID := make(map[lifecycle.BuildID]*lifecycle.Record, len(builds))
	for i := range builds {
		records[i] = &lifecycle.Record{Build: builds[i]}
		byID[builds[i].ID] = records[i]
	}
	slices.SortStableFunc(attempts, func(a, b lifecycle.Attempt) int { return a.Number - b.Number })
	attemptOf := make(map[lifecycle.AttemptID]*lifecycle.Attempt, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		if r := byID[a.Build]; r != nil {
			attemptOf[a.ID] = a
			r.Attempts = append(r.Attempts, a)
		}
	}
	slices.SortStableFunc(steps, func(a, b store.StepWrite) int { return a.Number - b.Number })
	for i := range steps {
		if a := attemptOf[steps[i].Attempt]; a != nil {
			a.Steps = append(a.Steps, steps[i].Step)
		}
	}
	return records
}
