package columns

import "holdfast/master/store"

// ScanCommand scans a row of v1_commands: its number, the sizes of its six texts in the
// order of the table, and these, cut.
func ScanCommand(r Row, c *store.Command) error {
	var id, command, build, args, who, why int64
	var texts [6][]byte // SQLite gives none for an empty one
	if err := r.Scan(&c.N, &id, &command, &build, &args, &who, &why, &texts[0], &texts[1], &texts[2], &texts[3], &texts[4], &texts[5]); err != nil {
		return err
	}
	for i, to := range []*string{&c.ID, &c.Command, &c.Build, &c.Args, &c.Who, &c.Why} {
		*to = string(texts[i])
	}
	if wrong := store.CheckCommand(id, command, build, args, who, why); wrong != "" {
		*c = store.Command{N: c.N, ID: c.ID, Wrong: wrong}
	}
	return nil
}

// CommandState is the state of a row with this answer.
func CommandState(a store.CommandAnswer) string {
	if a.Refusal != "" {
		return "refused"
	}
	return "done"
}
